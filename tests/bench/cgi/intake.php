<?php
// For parts/cgi.py: the durable intake as PHP-CGI runs it, once for each request.
function answer(int $status, string $body = '{}'): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    exit($body);
}

$allowed = hash_equals($_SERVER['BENCH_ID'], $_SERVER['HTTP_X_CLIENT_ID'] ?? '')
    && hash_equals($_SERVER['BENCH_SECRET'], $_SERVER['HTTP_X_CLIENT_SECRET'] ?? '');
if (!$allowed) {
    answer(401);
}
$body = file_get_contents('php://input');
$event = json_decode($body, true);
if (!is_array($event) || !isset($event['event'], $event['respondent_id'], $event['exam_id'], $event['admittedOn'])) {
    answer(400);
}
$store = new PDO('sqlite:' . $_SERVER['BENCH_DB'], null, null, [PDO::ATTR_TIMEOUT => 10]);
$store->exec('PRAGMA synchronous = FULL');
$store->prepare('INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)'
    . ' VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING')
    ->execute([time(), $event['event'], $event['respondent_id'], $event['exam_id'], $event['admittedOn'], $body]);
answer(200);
