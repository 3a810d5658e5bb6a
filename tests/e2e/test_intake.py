"""Every event and every refusal of the two routes, through nginx over TLS."""
import base64
import concurrent.futures
import hashlib
import json
import os
import re
import signal
import socket
import time

import pytest

from calls import EXAMJOINT, admitted, callback, client, event, examjoint, fields, pack, proview, verify
from accounts import CONF, YESCRYPT, rosters
from support import LANGUAGES, PATIENCE, a_uuid, parse_head, unique, wait_for

LIMIT = 64 * 1024
TOKEN = "token/token-0123456789abcdef"
BASIC = "Basic " + base64.b64encode(b"talview:basic-password").decode()


def is_error(reply, status, word, member=None):
    assert reply.status == status, reply
    assert reply.headers["Content-Type"] == "application/json", reply.headers
    assert reply.json == ({"error": word, "member": member} if member else {"error": word}), reply


def is_stored(reply):
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, b"{}", "application/json"), reply


def is_valid(reply):
    assert reply.status == 200 and "errorMessage" not in reply.json, reply
    return reply.json


def message_of(reply):
    """The errorMessage of a refused candidate."""
    assert reply.status == 200 and list(reply.json) == ["errorMessage"] and reply.json["errorMessage"], reply
    return reply.json["errorMessage"]


# --- Candidates ---------------------------------------------------------------------------------------------

def test_valid_candidate_gets_metadata(site):
    reply = is_valid(verify(site, "1001", "horse 1001"))
    assert reply == {"metadata": {"name": "Ada", "email": "ada@example.org", "photo": "https://example.org/a.jpg",
                                  "about": "about Ada", "data": {"group": "A", "n": [1, None]}}}


def test_valid_candidate_without_metadata(site):
    assert is_valid(verify(site, "1005", "horse 1005")) == {}


VALID = [
    ("white space around the identity", dict(exam="exam-1"), (" 1001\t", "horse 1001")),
    ("non-ASCII password and name", dict(exam="exam-1"), ("1006", "\u5bc6\u7801 p\u00e4ss")),
    ("bcrypt $2y$", dict(exam="exam-1"), ("3001", "horse bcrypt")),
    ("yescrypt", dict(exam="exam-1"), ("3002", "horse yescrypt")),
    ("one exam only", dict(exam="exam-1"), ("1002", "horse 1002")),
    ("another mapping for one exam", dict(exam="mail-exam"), (None, "ada@example.org", "horse 1001")),
    ("e-mail without regard to case", dict(exam="mail-exam"), (None, "ADA@EXAMPLE.ORG", "horse 1001")),
    ("identity only", dict(exam="identity-exam"), ("M-1",)),
    ("two identity columns", dict(exam="both-exam"), ("1001", "ada@example.org")),
    ("an unmapped position beside", dict(exam="exam-1"), ("1001", "horse 1001", "whatever")),
    ("no language", dict(lang=None), ("1001", "horse 1001")),
]


@pytest.mark.parametrize("how,values", [row[1:] for row in VALID], ids=[row[0] for row in VALID])
def test_valid(site, how, values):
    is_valid(verify(site, *values, **how))


INVALID = [
    ("unknown", {}, ("nobody-a", "horse 1001"), "unknown"),
    ("wrong password", {}, ("2001", "wrong"), "unknown"),
    ("password with white space", {}, ("2001", "horse 2001 "), "unknown"),
    ("empty password", {}, ("2001", ""), "unknown"),
    ("empty identity", {}, (" ", "horse 1001"), "unknown"),
    ("id compared with case", dict(exam="identity-exam"), ("m-1",), "unknown"),
    ("only one of two identity columns", dict(exam="both-exam"), ("1001", "bob@example.org"), "unknown"),
    ("another exam", dict(exam="exam-9"), ("1002", "horse 1002"), "other_exam"),
    ("too late", {}, ("1003", "horse 1003"), "closed"),
    ("too early", {}, ("1004", "horse 1004"), "not_open"),
    ("mapped position missing", {}, ("1001",), "fields_mapping"),
    ("no fields", {}, (), "fields_mapping"),
    ("very long password", {}, ("2001", "x" * 5000), "unknown"),
]


@pytest.mark.parametrize("how,values,reason", [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_invalid(site, how, values, reason):
    before = len(site.events(event="verify_respondent"))
    message_of(verify(site, *values, **how))
    rows = site.events(event="verify_respondent")
    assert len(rows) == before + 1
    assert (rows[-1]["outcome"], rows[-1]["reason"]) == ("invalid", reason)
    assert rows[-1]["body"] is None


def test_wrong_password_before_window_and_exam(site):
    """Who does not know the password learns neither the window nor the exams."""
    unknown = message_of(verify(site, "nobody-b", "x"))
    assert message_of(verify(site, "1003", "wrong")) == unknown
    assert message_of(verify(site, "1002", "wrong", exam="exam-9")) == unknown


def test_outcome_is_stored_without_input(site):
    exam = unique("exam-")
    is_valid(verify(site, "1001", "horse 1001", exam=exam))
    message_of(verify(site, "a password in the wrong box", "x", exam=exam))
    valid, invalid = site.events(exam_id=exam)
    assert (valid["outcome"], valid["source"], valid["account"]) == ("valid", "examjoint", "acme")
    assert "1001" in json.dumps(valid)
    text = json.dumps(invalid)
    assert "wrong box" not in text and "unknown:" in text


def test_fields_are_found_by_position(site):
    sent = list(reversed(fields("1001", "horse 1001")))
    is_valid(verify(site, sent=sent))


def test_two_accounts_share_an_id(site):
    """globex has its own 1001, at other positions, with another password."""
    sent = [{"position": 5, "value": "1001"}, {"position": 6, "value": "globex horse"}]
    assert is_valid(verify(site, sent=sent, account="globex")) == {"metadata": {"name": "Another Ada"}}
    sent[1]["value"] = "horse 1001"
    message_of(verify(site, sent=sent, account="globex"))
    message_of(verify(site, "1001", "globex horse"))


def texts_of(language):
    with open(os.path.join(LANGUAGES, language + ".txt"), encoding="utf-8") as f:
        pairs = (line.partition("=") for line in f if "=" in line and not line.startswith("#"))
        return {key.strip(): value.strip() for key, _, value in pairs}


LANGUAGE_CODES = ["en", "de", "fr", "es", "pt", "ru", "pl", "zh", "ko", "ja", "vi"]


def test_languages(site):
    seen = set()
    for code in LANGUAGE_CODES:
        message = message_of(verify(site, unique("nobody-"), "x", lang=code))
        assert message in texts_of(code).values(), code
        seen.add(message)
    assert len(seen) == len(LANGUAGE_CODES)


@pytest.mark.parametrize("asked,answered", [("pt-BR", "pt"), ("DE", "de"), ("xx", "en"), (None, "en"), ("", "en"),
                                            (7, "en"), ("../../etc/passwd", "en")])
def test_language_fallback(site, asked, answered):
    assert message_of(verify(site, unique("nobody-"), "x", lang=asked)) in texts_of(answered).values()


def test_throttling(make_site):
    site = make_site(CONF + "\n[throttle]\nfailures = 3\npause = 4s\n", rosters()).start()
    for who in ("2002", "nobody at all"):
        for _ in range(3):
            unknown = message_of(verify(site, who, "wrong"))
        begun = time.monotonic()
        is_valid_or_not = verify(site, who, "horse 2002")  # the right one, but too soon after three wrong ones
        if message_of(is_valid_or_not) == unknown:
            is_valid_or_not = verify(site, who, "horse 2002")
        assert time.monotonic() - begun < 2 * PATIENCE, "refused by waiting"
        wait = message_of(is_valid_or_not)
        assert wait != unknown and re.search(r"\b[1-4]\b", wait), wait
    is_valid(verify(site, "1001", "horse 1001"))
    assert wait_for(lambda: "errorMessage" not in verify(site, "2002", "horse 2002").json, 8, every=1)
    assert "throttled" in {row["reason"] for row in site.events(event="verify_respondent")}


def test_unlock(make_site):
    site = make_site(CONF + "\n[throttle]\nfailures = 2\npause = 1h\n", rosters()).start()
    for _ in range(4):
        message_of(verify(site, "2002", "wrong"))
    message_of(verify(site, "2002", "horse 2002"))
    site.ok("unlock", "2002")
    is_valid(verify(site, "2002", "horse 2002"))
    for _ in range(4):
        message_of(verify(site, "2003", "wrong"))
    site.ok("unlock", "--exam", "exam-1")
    is_valid(verify(site, "2003", "horse 2003"))


def test_right_passwords_are_never_throttled(site):
    for _ in range(8):
        is_valid(verify(site, "2003", "horse 2003"))


def crowd(count):
    """A roster of so many candidates whose passwords are checked at the usual cost."""
    return "id,password_hash\n" + "".join("c%d,%s\n" % (i, YESCRYPT) for i in range(count))


def verify_crowd(site, count):
    """All of them at the same time; the futures."""
    pool = concurrent.futures.ThreadPoolExecutor(count)
    return [pool.submit(verify, site, "c%d" % i, "horse yescrypt") for i in range(count)]


def test_many_verifications_beside_events(make_site):
    """The other events do not wait behind the password checks."""
    site = make_site(CONF, [("acme", crowd(60))]).start()
    checks = verify_crowd(site, 60)
    slowest = 0
    while not all(check.done() for check in checks):
        begun = time.monotonic()
        is_stored(examjoint(site, event("result_ready", unique())))
        slowest = max(slowest, time.monotonic() - begun)
    for check in checks:
        is_valid(check.result())
    assert 0 < slowest < 1.5 * PATIENCE


@pytest.mark.skipif(PATIENCE > 1, reason="one check alone takes longer than the budget here")
def test_budget_ends_with_please_try_again(make_site):
    """More candidates than can be checked within the budget: all are answered about then, none is left waiting."""
    site = make_site(CONF, [("acme", crowd(150))], verify="budget = 1s\nhash_threads = 1").start()
    begun = time.monotonic()
    replies = [check.result() for check in verify_crowd(site, 150)]
    assert time.monotonic() - begun < 6 * PATIENCE
    refused = [reply for reply in replies if "errorMessage" in reply.json]
    assert refused and {message_of(reply) for reply in refused} <= {texts_of("en")["busy"]}
    assert {row["reason"] for row in site.events(outcome="invalid")} == {"busy"}
    is_valid(verify(site, "c1", "horse yescrypt"))


# --- The other events ---------------------------------------------------------------------------------------

def test_admission(site):
    who = unique()
    is_stored(examjoint(site, admitted(who, extra={"deep": [1, "\u00e9"]})))
    (row,) = site.events(respondent_id=who)
    assert (row["source"], row["account"], row["event"], row["exam_id"], row["deliveries"]) == (
        "examjoint", "acme", "admitted_respondent", "exam-1", 1)
    body = row["body"] if isinstance(row["body"], dict) else json.loads(row["body"])
    assert body == admitted(who, extra={"deep": [1, "\u00e9"]})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["received_at"])


@pytest.mark.parametrize("name", ["result_ready", "investigation_complete"])
def test_events(site, name):
    who = unique()
    is_stored(examjoint(site, event(name, who)))
    (row,) = site.events(respondent_id=who)
    assert (row["event"], row["exam_id"]) == (name, "exam-1")


def test_repeats_are_one_event(site):
    who = unique()
    for _ in range(3):
        is_stored(examjoint(site, admitted(who)))
    is_stored(examjoint(site, admitted(who, at=1719221380327)))
    is_stored(examjoint(site, admitted(who), account="globex"))
    rows = site.events(respondent_id=who)
    assert sorted((row["account"], row["deliveries"]) for row in rows) == [("acme", 1), ("acme", 3), ("globex", 1)]


def test_a_differing_repeat_keeps_its_body(site):
    who = unique()
    for grade in ("A", "B", "C"):
        is_stored(examjoint(site, event("result_ready", who, grade=grade)))
    (row,) = site.events(respondent_id=who)
    assert row["deliveries"] == 3
    told = site.ok("respondent", who, "--json")
    assert all('"grade"' in told and '"%s"' % grade in told.replace("\\", "") for grade in "ABC"), told


def test_unknown_event_is_stored(site):
    who = unique()
    body = event("something_new", who, more=1)
    for _ in range(2):
        is_stored(examjoint(site, body))
    is_stored(examjoint(site, dict(body, more=2)))
    rows = site.events(event="something_new", respondent_id=who)
    assert sorted(row["deliveries"] for row in rows) == [1, 2]


def test_unknown_event_with_fields_admits_nobody(site):
    """It may be a verification under a new name: {} would let the candidate in."""
    reply = examjoint(site, {"event": "verify_candidate", "fields": fields("1001", "x"), "exam_id": unique("e")})
    message_of(reply)


def test_large_numbers_and_times(site):
    who = unique()
    is_stored(examjoint(site, admitted(who, at=9007199254740993)))
    (row,) = site.events(respondent_id=who)
    assert "9007199254740993" in json.dumps(row)


QUARANTINED = [
    ("exam_id is a number", {"event": "result_ready", "respondent_id": "r", "exam_id": 7}, "invalid_member",
     "exam_id"),
    ("exam_id is empty", {"event": "result_ready", "respondent_id": "r", "exam_id": ""}, "invalid_member",
     "exam_id"),
    ("no exam_id", {"event": "result_ready", "respondent_id": "r"}, "missing_member", "exam_id"),
    ("no respondent_id", {"event": "investigation_complete", "exam_id": "e"}, "missing_member", "respondent_id"),
    ("no event", {"respondent_id": "r", "exam_id": "e"}, "missing_member", "event"),
    ("event is a number", {"event": 1}, "invalid_member", "event"),
    ("admittedOn is text", {"event": "admitted_respondent", "respondent_id": "r", "exam_id": "e",
                            "admittedOn": "1719221380326"}, "invalid_member", "admittedOn"),
    ("admittedOn has a fraction", {"event": "admitted_respondent", "respondent_id": "r", "exam_id": "e",
                                   "admittedOn": 1.5}, "invalid_member", "admittedOn"),
    ("no admittedOn", {"event": "admitted_respondent", "respondent_id": "r", "exam_id": "e"}, "missing_member",
     "admittedOn"),
    ("no fields", {"event": "verify_respondent", "exam_id": "e"}, "missing_member", "fields"),
    ("fields is an object", {"event": "verify_respondent", "exam_id": "e", "fields": {}}, "invalid_member",
     "fields"),
    ("a position twice", {"event": "verify_respondent", "exam_id": "e",
                          "fields": [{"position": 0, "value": "a"}, {"position": 0, "value": "b"}]},
     "invalid_member", "fields"),
    ("a value is a number", {"event": "verify_respondent", "exam_id": "e", "fields": [
        {"position": 0, "value": 1}]}, "invalid_member", "fields"),
]


@pytest.mark.parametrize("body,word,member", [row[1:] for row in QUARANTINED], ids=[row[0] for row in QUARANTINED])
def test_quarantine(site, body, word, member):
    mark = unique("mark")
    is_error(examjoint(site, dict(body, mark=mark)), 422, word, member)
    rows = [row for row in site.rows("events", "--json", "--quarantined") if mark in json.dumps(row["body"])]
    assert len(rows) == 1 and rows[0]["outcome"] == "quarantined"
    assert rows[0]["reason"] == "%s:%s" % (word, member)


def test_replay(site):
    who = unique()
    is_error(examjoint(site, {"event": "result_ready", "respondent_id": who, "exam_id": 7}), 422, "invalid_member",
             "exam_id")
    (row,) = [row for row in site.rows("events", "--json", "--quarantined") if who in json.dumps(row)]
    site.ok("replay", row["id"])
    (row,) = site.events(respondent_id=who)
    assert (row["event"], row["exam_id"]) == ("result_ready", "7") and row["outcome"] != "quarantined"


# --- Refusals, in their order -------------------------------------------------------------------------------

METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [EXAMJOINT, "/webhooks/proview/" + TOKEN], ids=["examjoint", "proview"])
def test_method(site, method, path):
    reply = site.ask(method, path, None if method in ("GET", "HEAD") else b"{}", client())
    assert reply.status == 405 and reply.headers["Allow"] == "POST"
    if method != "HEAD":
        is_error(reply, 405, "method_not_allowed")


CREDENTIALS = [
    ("none", [], "unauthorized"),
    ("no id", [("x-client-secret", "acme-secret-new")], "unauthorized"),
    ("no secret", [("x-client-id", "acme-id")], "unauthorized"),
    ("empty", [("x-client-id", ""), ("x-client-secret", "")], "unauthorized"),
    ("wrong secret", [("x-client-id", "acme-id"), ("x-client-secret", "acme-secret-neW")], "unauthorized"),
    ("a longer secret", [("x-client-id", "acme-id"), ("x-client-secret", "acme-secret-new1")], "unauthorized"),
    ("another account's secret", [("x-client-id", "acme-id"), ("x-client-secret", "globex-secret")],
     "unauthorized"),
    ("underscores", [("x_client_id", "acme-id"), ("x_client_secret", "acme-secret-new")], "unauthorized"),
    ("id twice", client() + [("x-client-id", "acme-id")], "repeated_header"),
    ("secret twice", client() + [("X-Client-Secret", "wrong")], "repeated_header"),
    ("joined by a comma", [("x-client-id", "acme-id"), ("x-client-secret", "acme-secret-new, wrong")],
     "repeated_header"),
]


@pytest.mark.parametrize("headers,word", [row[1:] for row in CREDENTIALS], ids=[row[0] for row in CREDENTIALS])
def test_credentials(site, headers, word):
    who = unique()
    is_error(site.ask("POST", EXAMJOINT, pack(admitted(who)), headers), 401, word)
    assert not site.events(respondent_id=who)


def test_rotation_of_the_client_secret(site):
    who = unique()
    old = [("x-client-id", "acme-id"), ("x-client-secret", "acme-secret-old")]
    for at in range(3):
        is_stored(site.ask("POST", EXAMJOINT, pack(admitted(who, at=at)), old))
    assert len(site.events(respondent_id=who)) == 3
    log = site.parts["examjoint"].log()
    warned = [line for line in log.splitlines() if "client_secret_previous" in line]
    assert warned and "level=warn" in warned[0] and "acme" in warned[0]
    assert "acme-secret-old" not in log


JSON_REFUSED = [
    ("nothing", b"", "empty_body"),
    ("white space", b" \n", "empty_body"),
    ("no JSON", b"event=admitted_respondent", "invalid_json"),
    ("cut off", b'{"event":"admitted_respondent","resp', "invalid_json"),
    ("a comment", b'{"event":"x"/* */}', "invalid_json"),
    ("something behind it", b'{"event":"x"} {}', "invalid_json"),
    ("a list", b"[]", "not_an_object"),
    ("a text", b'"event"', "not_an_object"),
    ("overlong UTF-8", b'{"event":"\xc0\x80"}', "invalid_utf8"),
    ("a surrogate in UTF-8", b'{"event":"\xed\xa0\x80"}', "invalid_utf8"),
    ("beyond Unicode", b'{"event":"\xf4\x90\x80\x80"}', "invalid_utf8"),
    ("UTF-16", '{"event":"x"}'.encode("utf-16-le"), "nul_in_json"),
    ("NUL", b'{"event":"a\\u0000b"}', "nul_in_json"),
    ("half a surrogate", b'{"event":"\\ud800"}', "invalid_unicode_escape"),
    ("the other half", b'{"event":"\\udc00"}', "invalid_unicode_escape"),
    ("a key twice", b'{"event":"result_ready","event":"x"}', "duplicate_key"),
    ("a key twice, escaped", b'{"event":"result_ready","\\u0065vent":"x"}', "duplicate_key"),
    ("a key twice below", b'{"event":"x","a":{"b":1,"b":2}}', "duplicate_key"),
    ("33 deep", b'{"event":"x","a":' + b"[" * 32 + b"]" * 32 + b"}", "too_deep"),
    ("10,000 deep", b"[" * 10000, "too_deep"),
]


@pytest.mark.parametrize("body,word", [row[1:] for row in JSON_REFUSED], ids=[row[0] for row in JSON_REFUSED])
@pytest.mark.parametrize("route", ["examjoint", "proview"])
def test_json_refused(site, route, body, word):
    if route == "examjoint":
        is_error(examjoint(site, body), 400, word)
    else:
        is_error(proview(site, TOKEN, body), 400, word)


def test_32_deep_is_taken(site):
    body = b'{"event":"%s","a":' % unique().encode() + b"[" * 31 + b"]" * 31 + b"}"
    is_stored(examjoint(site, body))


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/json; charset=utf-8",
                                          "nonsense"])
def test_any_content_type(site, content_type):
    is_stored(examjoint(site, event("result_ready", unique()),
                        headers=[("Content-Type", content_type)] if content_type else []))


def padded(body, size):
    """The body with white space in front, so many bytes long."""
    text = pack(body)
    return b" " * (size - len(text)) + text


def test_size_limit(site):
    """Exactly 64 KiB is taken, one byte more is not: by nginx, whoever asks, in examhook's own form."""
    who = unique()
    is_stored(examjoint(site, padded(admitted(who), LIMIT)))
    is_error(examjoint(site, padded(admitted(who, at=1), LIMIT + 1)), 413, "body_too_large")
    is_stored(proview(site, TOKEN, padded(callback(a_uuid()), LIMIT)))
    is_error(proview(site, TOKEN, padded(callback(a_uuid()), LIMIT + 1)), 413, "body_too_large")
    assert len(site.events(respondent_id=who)) == 1


def test_size_limit_of_a_chunked_body(site):
    who = unique()
    url = [x for pair in client() for x in ("-H", "%s: %s" % pair)]
    for extra, status in ((0, 200), (1, 413)):
        path = site.path("body")
        with open(path, "wb") as f:
            f.write(padded(admitted(who, at=extra), LIMIT + extra))
        for version in ("--http1.1", "--http2"):
            got = site.curl(EXAMJOINT, *url, version, "-H", "Transfer-Encoding: chunked" if version != "--http2" else
                            "Expect:", "--data-binary", "@" + path)
            assert got[0] == status, got
    assert [row["deliveries"] for row in site.events(respondent_id=who)] == [2]


def test_own_size_limits(make_site):
    """Above nginx's limit, the program's own stands: declared and chunked bodies."""
    site = make_site("[server]\nbody_limit = 4K\n" + CONF, rosters()).start()
    is_stored(examjoint(site, padded(admitted("r"), 4096)))
    for size in (4097, 20000, LIMIT):
        is_error(examjoint(site, padded(admitted("r"), size)), 413, "body_too_large")
        is_error(proview(site, TOKEN, padded(callback(a_uuid()), size)), 413, "body_too_large")
    for size in (4097, LIMIT):
        sent = padded(admitted("r"), size)
        reply = site.raw(head(extra="Transfer-Encoding: chunked\r\n") + b"%x\r\n" % len(sent) + sent +
                         b"\r\n0\r\n\r\n")
        assert parse_head(reply)[0] == 413, reply[:200]


def head(path=EXAMJOINT, version="1.1", extra="", account="acme", method="POST"):
    lines = "%s %s HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n%s" % (method, path, version, extra)
    return (lines + "".join("%s: %s\r\n" % pair for pair in client(account)) + "\r\n").encode()


def test_chunked_body(site):
    who = unique()
    text = pack(admitted(who))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(text[i:i + 7]), text[i:i + 7]) for i in range(0, len(text), 7))
    status, _, body = parse_head(site.raw(head(extra="Transfer-Encoding: chunked\r\n") + chunks + b"0\r\n\r\n"))
    assert status == 200 and b"{}" in body
    assert len(site.events(respondent_id=who)) == 1


def test_http_1_0(site):
    who = unique()
    text = pack(admitted(who))
    status, headers, body = parse_head(site.raw(head(version="1.0", extra="Content-Length: %d\r\n" % len(text)) +
                                                text))
    assert (status, body, headers["content-type"]) == (200, b"{}", "application/json")
    assert len(site.events(respondent_id=who)) == 1


def test_http_2(site):
    who = unique()
    options = [x for pair in client() for x in ("-H", "%s: %s" % pair)]
    assert site.curl(EXAMJOINT, "--http2", *options, "--data", pack(admitted(who)).decode()) == (200, "2", "{}")
    assert site.curl(EXAMJOINT, "--http2", "--data", "{}")[0] == 401
    twice = options + ["-H", "x-client-id: acme-id"]
    assert site.curl(EXAMJOINT, "--http2", *twice, "--data", "{}")[2] == '{"error":"repeated_header"}'
    assert len(site.events(respondent_id=who)) == 1


def test_a_client_that_leaves(site):
    """What nginx has taken whole is stored, although nobody waits for the answer any more."""
    who = unique()
    text = pack(admitted(who))
    program = site.parts["examjoint"].process
    program.send_signal(signal.SIGSTOP)
    try:
        s = site.connect()
        s.sendall(head(extra="Content-Length: %d\r\n" % len(text)) + text)
        time.sleep(0.5)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        time.sleep(0.2)
    finally:
        program.send_signal(signal.SIGCONT)
    assert wait_for(lambda: site.events(respondent_id=who))


def test_a_client_that_leaves_in_the_middle(site):
    who = unique()
    text = pack(admitted(who))
    with site.connect() as s:
        s.sendall(head(extra="Content-Length: %d\r\n" % (len(text) + 5)) + text)
    is_stored(examjoint(site, event("result_ready", unique())))
    assert not site.events(respondent_id=who)


def test_a_slow_body_holds_up_nobody(site):
    text = pack(admitted(unique()))
    slow = [site.connect() for _ in range(20)]
    for s in slow:
        s.sendall(head(extra="Content-Length: %d\r\n" % len(text)) + text[:10])
    begun = time.monotonic()
    is_stored(examjoint(site, event("result_ready", unique())))
    assert time.monotonic() - begun < 2 * PATIENCE
    for s in slow[1:]:
        s.close()
    slow[0].settimeout(20 * PATIENCE)
    assert slow[0].recv(100) == b"", "nginx gives up on it after client_body_timeout"
    slow[0].close()


def test_a_slow_body_that_arrives_is_taken(site):
    who = unique()
    text = pack(admitted(who))
    with site.connect() as s:
        s.sendall(head(extra="Content-Length: %d\r\n" % len(text)))
        for i in range(0, len(text), 40):
            s.sendall(text[i:i + 40])
            time.sleep(0.2)
        assert parse_head(s.recv(4096))[0] == 200
    assert len(site.events(respondent_id=who)) == 1


def test_kept_connections(site):
    """Many requests over one connection, wrong ones between, each with its own answer."""
    with site.connect() as s:
        for i in range(30):
            right = pack(event("result_ready", unique()))
            text = right if i % 3 else b"{"
            s.sendall(head(extra="Content-Length: %d\r\n" % len(text)).replace(b"Connection: close\r\n", b"") + text)
            assert parse_head(s.recv(4096))[0] == (200 if i % 3 else 400)


# --- Proview's callback -------------------------------------------------------------------------------------

def x_secret(value):
    return ("X-Proview-Secret", value)


def basic(text):
    return ("Authorization", "Basic " + base64.b64encode(text.encode()).decode())


CALLBACK_TAKEN = [
    ("path token", TOKEN, []),
    ("previous path token", "token/token-fedcba9876543210", []),
    ("header", "header", [x_secret("header-secret")]),
    ("previous header", "header", [x_secret("header-secret-old")]),
    ("basic", "basic", [basic("talview:basic-password")]),
    ("previous basic", "basic", [basic("talview:basic-password-old")]),
    ("all of them", "all/all-token-0123456789", [x_secret("all-header"), basic("talview:all-basic")]),
    ("open", "open", []),
]


@pytest.mark.parametrize("path,headers", [row[1:] for row in CALLBACK_TAKEN], ids=[row[0] for row in CALLBACK_TAKEN])
def test_callback(site, path, headers):
    session = a_uuid()
    is_stored(proview(site, path, callback(session), headers))
    (row,) = site.events(session_uuid=session)
    assert (row["source"], row["account"], row["event"], row["external_id"], row["deliveries"]) == (
        "proview", path.split("/")[0], "Session Has Been Terminated", "5506693", 1)


CALLBACK_REFUSED = [
    ("no token", "token", [], 404, "not_found"),
    ("wrong token", "token/token-0123456789abcdeF", [], 404, "not_found"),
    ("token and more", TOKEN + "/more", [], 404, "not_found"),
    ("token and slash", TOKEN + "/", [], 404, "not_found"),
    ("a longer token", TOKEN + "0", [], 404, "not_found"),
    ("another account's token", "all/token-0123456789abcdef", [x_secret("all-header")], 404, "not_found"),
    ("a token where none is", "header/header-secret", [x_secret("header-secret")], 404, "not_found"),
    ("unknown account", "nobody", [], 404, "not_found"),
    ("no account", "", [], 404, "not_found"),
    ("no header", "header", [], 401, "unauthorized"),
    ("wrong header", "header", [x_secret("header-secreT")], 401, "unauthorized"),
    ("header twice", "header", [x_secret("header-secret")] * 2, 401, "repeated_header"),
    ("no basic", "basic", [], 401, "unauthorized"),
    ("wrong password", "basic", [basic("talview:wrong")], 401, "unauthorized"),
    ("wrong user", "basic", [basic("talvieW:basic-password")], 401, "unauthorized"),
    ("no base64", "basic", [("Authorization", "Basic ***")], 401, "unauthorized"),
    ("another scheme", "basic", [("Authorization", "Bearer " + BASIC[6:])], 401, "unauthorized"),
    ("one of three missing", "all/all-token-0123456789", [x_secret("all-header")], 401, "unauthorized"),
    ("another one missing", "all/all-token-0123456789", [basic("talview:all-basic")], 401, "unauthorized"),
]


@pytest.mark.parametrize("path,headers,status,word", [row[1:] for row in CALLBACK_REFUSED],
                         ids=[row[0] for row in CALLBACK_REFUSED])
def test_callback_refused(site, path, headers, status, word):
    session = a_uuid()
    reply = proview(site, path, callback(session), headers)
    is_error(reply, status, word)
    assert ("WWW-Authenticate" in reply.headers) == (status == 401)
    assert not site.events(session_uuid=session)


def test_previous_secrets_of_callbacks_are_warned_of(site):
    for path, headers in (("token/token-fedcba9876543210", []), ("header", [x_secret("header-secret-old")]),
                          ("basic", [basic("talview:basic-password-old")])):
        is_stored(proview(site, path, callback(a_uuid()), headers))
    log = site.parts["proview"].log()
    for name in ("path_token_previous", "header_secret_previous", "basic_password_previous"):
        assert name in log
    for secret in ("token-fedcba9876543210", "header-secret-old", "basic-password-old"):
        assert secret not in log


UUID_REFUSED = [
    ("missing", None, "missing_member"), ("number", 7, "invalid_member"), ("empty", "", "invalid_member"),
    ("no UUID", "f46bd560-53f6-11eb-b441", "invalid_member"), ("a path", "../../v1/users", "invalid_member"),
    ("braces", "{f46bd560-53f6-11eb-b441-492a960aa0ba}", "invalid_member"),
    ("a line break", "f46bd560-53f6-11eb-b441-492a960aa0ba\n", "invalid_member"),
]


@pytest.mark.parametrize("session,word", [row[1:] for row in UUID_REFUSED], ids=[row[0] for row in UUID_REFUSED])
def test_callback_needs_a_uuid(site, session, word):
    body = callback(session)
    if session is None:
        del body["session_uuid"]
    is_error(proview(site, TOKEN, body), 422, word, "session_uuid")


@pytest.mark.parametrize("session", ["f46bd560-53f6-11eb-b441-492a960aa0ba", "01890A5D-AC96-774B-BCCE-B302099A8057"],
                         ids=["version 1", "version 7 in capitals"])
def test_callback_takes_any_uuid(site, session):
    is_stored(proview(site, TOKEN, callback(session)))
    assert site.events(session_uuid=session.lower())


def test_odd_callbacks_are_kept(site):
    for body in ({"message": 7}, {"external_id": None}, {"external_id": 5506693, "more": {"a": []}}):
        session = a_uuid()
        is_stored(proview(site, TOKEN, dict(body, session_uuid=session)))
        assert len(site.events(session_uuid=session)) == 1


def test_repeated_callbacks_are_counted(site):
    session = a_uuid()
    for _ in range(3):
        is_stored(proview(site, TOKEN, callback(session)))
    is_stored(proview(site, TOKEN, callback(session, message="Rating calculated")))
    is_stored(proview(site, "open", callback(session)))
    rows = site.events(session_uuid=session)
    assert sorted((row["account"], row["deliveries"]) for row in rows) == [("open", 1), ("token", 1), ("token", 3)]


def test_open_callbacks_are_bounded(make_site):
    site = make_site("[callbacks]\nopen_count_hour = 5\n" + CONF).start()
    sessions = [a_uuid() for _ in range(5)]
    for session in sessions:
        is_stored(proview(site, "open", callback(session)))
    reply = proview(site, "open", callback(a_uuid()))
    is_error(reply, 429, "too_many_requests")
    assert int(reply.headers["Retry-After"]) > 0
    is_stored(proview(site, "open", callback(sessions[0])))
    is_stored(proview(site, TOKEN, callback(a_uuid())))


# --- nginx's own refusals -----------------------------------------------------------------------------------

PATHS = ["/", "/webhooks", "/webhooks/", "/webhooks/other", "/webhooks/examjoint/", "/webhooks/examjoint/x",
         "/_examhook_error", "/webhooks/proview"]


@pytest.mark.parametrize("path", PATHS)
def test_unknown_paths(site, path):
    is_error(site.ask("POST", path, b"{}", client()), 404, "not_found")


NGINX_REFUSED = [
    ("nonsense", b"NONSENSE\r\n\r\n", 400, "bad_request"),
    ("no host", b"POST /webhooks/examjoint HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "bad_request"),
    ("two lengths", b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
     400, "bad_request"),
    ("length and chunked", b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1"
     b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
    ("a bad chunk", b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
     b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_request"),
    ("another coding", b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n\r\n", 501,
     "not_implemented"),
    ("a long path", b"POST /webhooks/proview/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
    ("long headers", b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n", 431,
     "headers_too_large"),
    ("TRACE", b"TRACE /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405,
     "method_not_allowed"),
]


@pytest.mark.parametrize("data,status,word", [row[1:] for row in NGINX_REFUSED],
                         ids=[row[0] for row in NGINX_REFUSED])
def test_nginx_refuses_in_json(site, data, status, word):
    got, headers, body = parse_head(site.raw(data))
    assert (got, headers["content-type"], json.loads(body)) == (status, "application/json", {"error": word})


def test_plain_http_on_the_tls_port(site):
    with socket.create_connection(("127.0.0.1", site.port), 10) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        status, _, body = parse_head(s.recv(4096))
        assert (status, json.loads(body)) == (400, {"error": "bad_request"})


def slower(name, text):
    return re.sub(r"rate=\d+r/s", "rate=1r/s", re.sub(r"burst=\d+", "burst=2", text))


def test_nginx_limits_the_rate(make_site):
    site = make_site(CONF, rosters(), nginx=slower).start()
    replies = [examjoint(site, event("result_ready", unique())) for _ in range(8)]
    taken = [reply for reply in replies if reply.status == 200]
    assert 1 <= len(taken) <= 5 and len(site.events()) == len(taken)
    is_error(replies[-1], 429, "too_many_requests")
    assert replies[-1].headers["Retry-After"] == "1"
    assert proview(site, TOKEN, callback(a_uuid())).status == 200, "each route has its own"


def test_a_program_that_is_down(make_site):
    site = make_site(CONF, rosters()).start()
    site.stop("examjoint")
    reply = examjoint(site, event("result_ready", unique()))
    is_error(reply, 503, "unavailable")
    assert reply.headers["Retry-After"] == "5"
    site.start_program("examjoint")
    is_stored(examjoint(site, event("result_ready", unique())))


def test_path_token_is_in_no_log(make_site):
    """After acceptance, 404, 413, 429, arguments, a token in the account's place, and a program that is down."""
    token = "token-0123456789abcdef"
    site = make_site(CONF, rosters(), nginx=slower).start()
    paths = [TOKEN, TOKEN + "?a=" + token, token, TOKEN + "/more", "nobody/" + token, "token//" + token,
             "../proview/" + TOKEN, "token%2f" + token, TOKEN]
    for path in paths:
        proview(site, path, callback(a_uuid()), [("Referer", "https://x/" + token), ("Cookie", token)])
        time.sleep(0.4)
    proview(site, TOKEN, b"x" * (LIMIT + 1))
    limited = [proview(site, TOKEN, callback(a_uuid())).status for _ in range(8)]
    assert 429 in limited
    for method in ("GET", "TRACE"):
        site.ask(method, "/webhooks/proview/" + TOKEN)
    site.ask("POST", "/webhook/proview/" + TOKEN, b"{}")
    site.stop("proview")
    time.sleep(2.5)
    assert proview(site, TOKEN, callback(a_uuid())).status == 503
    site.stop("nginx")
    logs = b""
    for folder in ("nginx", "log"):
        for name in os.listdir(site.path(folder)):
            if name.endswith(".log"):
                with open(site.path(folder, name), "rb") as f:
                    logs += f.read()
    assert token.encode() not in logs
    for status in ("200", "404", "413", "429", "503"):
        assert re.search(rb"/webhooks/proview/\S* %s " % status.encode(), logs), status


def test_proxy_header_reaches_nobody(site):
    is_stored(examjoint(site, event("result_ready", unique()), headers=[("Proxy", "http://127.0.0.1:9/")]))


def test_no_secret_in_the_logs(site):
    """Last of this file: what all the tests above sent is in no log."""
    secrets = ["acme-secret-new", "acme-secret-old", "globex-secret", "header-secret", "all-header",
               "basic-password", "all-basic", "token-0123456789abcdef", "horse 1001", "horse"]
    for name, part in site.parts.items():
        for secret in secrets:
            assert secret not in part.log(), (name, hashlib.sha256(secret.encode()).hexdigest()[:8])
