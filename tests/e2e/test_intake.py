"""What the table of hosting cases (tests/hosting/cases) cannot say of the two routes: what holds of the event loop behind
nginx, and of nginx's own logs and limits. Everything else that the routes do is there."""
import concurrent.futures
import os
import re
import signal
import socket
import time

import pytest

from calls import EXAMJOINT, admitted, callback, client, event, examjoint, pack, proview, verify
from accounts import CONF, YESCRYPT, rosters
from support import LANGUAGES, PATIENCE, a_uuid, is_in_time, unique, wait_for
from test_reload import slots_taken

LIMIT = 64 * 1024
TOKEN = "token/token-0123456789abcdef"


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


def texts_of(language):
    with open(os.path.join(LANGUAGES, language + ".txt"), encoding="utf-8") as f:
        pairs = (line.partition("=") for line in f if "=" in line and not line.startswith("#"))
        return {key.strip(): value.strip() for key, _, value in pairs}


LANGUAGE_CODES = ["en", "de", "fr", "es", "pt", "ru", "pl", "zh", "ko", "ja", "vi"]


def test_every_language_has_its_own_words():
    assert len({texts_of(code)["unknown"] for code in LANGUAGE_CODES}) == len(LANGUAGE_CODES)


# --- Many at once -------------------------------------------------------------------------------------------

def crowd(count):
    """A roster of so many candidates whose passwords are checked at the usual cost."""
    return "id,password_hash\n" + "".join("c%d,%s\n" % (i, YESCRYPT) for i in range(count))


def verify_crowd(site, count):
    """All of them at the same time; the futures."""
    pool = concurrent.futures.ThreadPoolExecutor(count)
    return [pool.submit(verify, site, "c%d" % i, "horse yescrypt") for i in range(count)]


def test_many_verifications_beside_events(make_site):
    """The other events do not wait behind the password checks: they are answered while none of those is let begin, and
    soon while they are made."""
    site = make_site(CONF, [("acme", crowd(60))], verify="budget = 20s").start()
    descriptors = "/proc/%d/fd" % site.parts["examjoint"].process.pid
    before = len(os.listdir(descriptors))

    def slowest():
        with slots_taken(site, os.cpu_count()):
            checks = verify_crowd(site, 60)
            # Where the machine is so busy that not all can be checked in time, some are told so at once.
            assert wait_for(lambda: len(os.listdir(descriptors)) - before + sum(check.done() for check in checks) >= 60, 30)
            for _ in range(5):
                is_stored(examjoint(site, event("result_ready", unique())))
            waiting = [check for check in checks if not check.done()]
            assert waiting and all(message_of(check.result()) for check in checks if check.done())
        times = []
        while not all(check.done() for check in checks):
            begun = time.monotonic()
            is_stored(examjoint(site, event("result_ready", unique())))
            times.append(time.monotonic() - begun)
        ended = time.monotonic()
        for number, check in enumerate(checks):
            reply = check.result()
            if "errorMessage" in reply.json: # this machine is busy: who is told to come back is let in then
                told = re.search(r"again in (\d+) seconds", message_of(reply))
                assert told, reply
                time.sleep(max(0, ended + int(told.group(1)) - time.monotonic()))
                reply = verify(site, "c%d" % number, "horse yescrypt")
            is_valid(reply)
        return max(times, default=float("inf"))
    assert is_in_time(slowest, 1.5 * PATIENCE)


@pytest.mark.skipif(PATIENCE > 1, reason="one check alone takes longer than the budget here")
def test_budget_ends_with_please_try_again(make_site):
    """More candidates than can be checked within the budget: all are answered about then, none is left waiting."""
    site = make_site(CONF, [("acme", crowd(150))], verify="budget = 1s\nhash_threads = 1").start()
    told = re.escape(texts_of("en")["busy"]).replace(r"\{seconds\}", r"[1-9]\d*")

    def answered():
        begun = time.monotonic()
        replies = [check.result() for check in verify_crowd(site, 150)]
        took = time.monotonic() - begun
        refused = [reply for reply in replies if "errorMessage" in reply.json]
        assert refused and all(re.fullmatch(told, message_of(reply)) for reply in refused), refused
        return took
    assert is_in_time(answered, 6)
    assert {row["reason"] for row in site.events(outcome="invalid")} == {"busy"}
    is_valid(verify(site, "c1", "horse yescrypt"))


# --- One event's story ---------------------------------------------------------------------------------------

def test_a_differing_repeat_keeps_its_body(site):
    who = unique()
    for grade in ("A", "B", "C"):
        is_stored(examjoint(site, event("result_ready", who, grade=grade)))
    (row,) = site.events(respondent_id=who)
    assert row["deliveries"] == 3
    told = site.ok("respondent", who, "--json")
    assert all('"grade"' in told and '"%s"' % grade in told.replace("\\", "") for grade in "ABC"), told


# --- Clients that nginx keeps away ---------------------------------------------------------------------------

def head(path=EXAMJOINT, version="1.1", extra="", account="acme", method="POST"):
    lines = "%s %s HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n%s" % (method, path, version, extra)
    return (lines + "".join("%s: %s\r\n" % pair for pair in client(account)) + "\r\n").encode()


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


# --- nginx's limits and logs ---------------------------------------------------------------------------------

def slower(name, text):
    return re.sub(r"rate=\d+r/s", "rate=1r/s", re.sub(r"burst=\d+", "burst=2", text))


def test_nginx_limits_the_rate(make_site):
    site = make_site(CONF, rosters(), nginx=slower).start()
    begun, taken = time.monotonic(), 0
    while (refused := examjoint(site, event("result_ready", unique()))).status == 200 and taken < 50:
        taken += 1
        # One, the two of the burst, and one a second.
        assert taken <= 3 + time.monotonic() - begun
    assert taken >= 1 and len(site.events()) == taken
    is_error(refused, 429, "too_many_requests")
    assert refused.headers["Retry-After"] == "1"
    assert proview(site, TOKEN, callback(a_uuid())).status == 200, "each route has its own"


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
    assert wait_for(lambda: proview(site, TOKEN, callback(a_uuid())).status == 429, every=0)
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
