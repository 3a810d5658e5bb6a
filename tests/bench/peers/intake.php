<?php
// The intake in PHP: for php-fpm, with a connection to the store that outlives the request.
declare(strict_types=1);

function answer(int $status, string $body): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo $body;
    exit;
}

if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    answer(405, '{"error":"method_not_allowed"}');
}
$id = hash_equals($_SERVER['BENCH_ID'], $_SERVER['HTTP_X_CLIENT_ID'] ?? '');
$secret = hash_equals($_SERVER['BENCH_SECRET'], $_SERVER['HTTP_X_CLIENT_SECRET'] ?? '');
if (!$id || !$secret) {
    answer(401, '{"error":"unauthorized"}');
}
$body = file_get_contents('php://input');
try {
    $event = json_decode($body, true, 32, JSON_THROW_ON_ERROR);
} catch (JsonException) {
    answer(400, '{"error":"invalid_json"}');
}
if (!is_array($event) || !is_string($event['event'] ?? null) || !is_string($event['respondent_id'] ?? null)
    || !is_string($event['exam_id'] ?? null) || !is_int($event['admittedOn'] ?? null)) {
    answer(422, '{"error":"invalid_member"}');
}
try {
    $store = new PDO('sqlite:' . $_SERVER['BENCH_DB'], null, null, [
        PDO::ATTR_PERSISTENT => true,
        PDO::ATTR_TIMEOUT => 10,
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
    ]);
    $insert = $store->prepare('INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)'
        . ' VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING');
    $insert->execute([(int) (microtime(true) * 1000), $event['event'], $event['respondent_id'], $event['exam_id'],
        $event['admittedOn'], $body]);
} catch (PDOException $error) {
    error_log($error->getMessage());
    answer(503, '{"error":"not_stored"}');
}
answer(200, '{}');
