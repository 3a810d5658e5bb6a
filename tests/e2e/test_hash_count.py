"""How many password hashes an answer costs, counted from outside: whoever asks, an answer that had to look at a password
costs one, and one that did not look costs none. The time of an answer then says nothing of who is a candidate."""
import concurrent.futures
import json
import os
import subprocess

import pytest

import hardening
from accounts import CONF, rosters
from calls import admitted, client, event, examjoint, fields, pack, verify
from support import BUILD, Site, WRAP, environment, parse_head, unique, wait_for
from test_reload import slots_taken

HERE = os.path.dirname(os.path.abspath(__file__))
MORE = """id,password_hash
nohash,
sha,$6$abcdefghijklmnop$YUyLeM49JB8Nzv6wVOu8O71JjVFiiAyvqFbh4h4PG2O3e8D7IjA8OnJE6zA8/UYxI07quaw67NvyFzgqN8Hld1
"""
# What is sent for the identity and the password (and for which exam); the reason that is kept of a refusal; how many
# hashes it costs.
ANSWERS = {
    "right": ("1001", "horse 1001", "", 1),
    "right, bcrypt": ("3001", "horse bcrypt", "", 1),
    "right, yescrypt": ("3002", "horse yescrypt", "", 1),
    "right, sha512crypt": ("sha", "horse sha512crypt", "", 1),
    "wrong": ("1001", "cow", "unknown", 1),
    "wrong, bcrypt": ("3001", "cow", "unknown", 1),
    "wrong, yescrypt": ("3002", "cow", "unknown", 1),
    "unknown": ("nobody", "cow", "unknown", 1),
    "an empty password": ("1001", "", "unknown", 1),
    "an empty password of nobody": ("nobody", "", "unknown", 1),
    "a password that no hash can have": ("1001", "x" * 4000, "unknown", 1),
    "the same of nobody": ("nobody", "x" * 4000, "unknown", 1),
    "no identity": ("", "cow", "unknown", 1),
    "a candidate without a password": ("nohash", "cow", "unknown", 1),
    "another exam": ("1002", "horse 1002", "other_exam", 1, "exam-2"),
    "another exam, and wrong": ("1002", "cow", "unknown", 1, "exam-2"),
    "closed": ("1003", "horse 1003", "closed", 1),
    "closed, and wrong": ("1003", "cow", "unknown", 1),
    "not open yet": ("1004", "horse 1004", "not_open", 1),
    "not open yet, and wrong": ("1004", "cow", "unknown", 1),
    # Where no password is looked at.
    "no password sent": ("1001", None, "fields_mapping", 0),
    "nobody, no password sent": ("nobody", None, "fields_mapping", 0),
    "an exam without passwords": ("M-1", None, "", 0, "identity-exam"),
    "nobody, an exam without passwords": ("M-0", None, "unknown", 0, "identity-exam"),
}


class Counter:
    """A library to be put before libcrypt, and what it counted."""

    def __init__(self, folder):
        if WRAP or hardening.sanitized(os.path.join(BUILD, "examjoint.fcgi")):
            pytest.skip("a sanitizer and valgrind want to be the first library themselves")
        self.library, self.path = os.path.join(folder, "count_crypt.so"), os.path.join(folder, "counted")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                        "-o", self.library, os.path.join(HERE, "count_crypt.c")], check=True)
        self.variables = {"LD_PRELOAD": self.library, "COUNT_CRYPT": self.path}

    def count(self):
        if not os.path.exists(self.path):
            return 0
        with open(self.path, "rb") as f:
            return f.read().count(b"1")

    def of(self, do):
        """(what do() gave, how many hashes it cost)"""
        before = self.count()
        result = do()
        return result, self.count() - before


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    return Counter(tmp_path_factory.mktemp("counter"))


def started(site, counter):
    os.environ.update(counter.variables)
    try:
        site.start_program("examjoint")
    finally:
        for name in counter.variables:
            del os.environ[name]
    site.start_nginx()
    return site


def candidates():
    return [*rosters(), ("acme", MORE)]


@pytest.fixture(scope="module")
def counted(counter):
    """Its /webhooks/examjoint counts."""
    site = Site(CONF + "\n[throttle]\nfailures = 500\n", candidates())
    try:
        yield started(site, counter)
    finally:
        site.close()


def newest_reason(site):
    return site.rows("events", "--json")[-1].get("reason") or ""


@pytest.mark.parametrize("what", ANSWERS)
def test_each_answer_costs_one_hash(counted, counter, what):
    identity, password, reason, hashes, *exam = ANSWERS[what]
    reply, cost = counter.of(lambda: verify(counted, identity, password, exam=(exam or ["exam-1"])[0]))
    assert ("errorMessage" in reply.json) == bool(reason) and newest_reason(counted) == reason, reply
    assert cost == hashes


@pytest.mark.parametrize("what", ANSWERS)
def test_each_answer_costs_one_hash_as_cgi(counted, counter, what):
    identity, password, reason, hashes, *exam = ANSWERS[what]
    body = pack({"event": "verify_respondent", "exam_id": (exam or ["exam-1"])[0],
                 "fields": fields(identity, password)})
    env = dict(environment(), EXAMHOOK_CONF=counted.conf_path, GATEWAY_INTERFACE="CGI/1.1", REQUEST_METHOD="POST",
               CONTENT_LENGTH=str(len(body)), REMOTE_ADDR="192.0.2.1", SERVER_PROTOCOL="HTTP/1.1",
               PATH_INFO="/webhooks/examjoint", **counter.variables)
    env.update(("HTTP_" + name.upper().replace("-", "_"), value) for name, value in client())
    done, cost = counter.of(lambda: subprocess.run([os.path.join(BUILD, "examjoint.fcgi")], input=body, env=env,
                                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False))
    status, _, answer = parse_head(done.stdout.replace(b"Status:", b"HTTP/1.1", 1))
    assert status == 200 and ("errorMessage" in json.loads(answer)) == bool(reason), done
    assert cost == hashes


def test_what_no_candidate_waits_for_costs_none(counted, counter):
    def others():
        assert examjoint(counted, event("result_ready", unique())).status == 200
        assert examjoint(counted, admitted(unique())).status == 200
        assert examjoint(counted, b"{").status == 400
        assert examjoint(counted, {"event": "verify_respondent", "exam_id": 7, "fields": []}).status == 422
        wrong = [("x-client-id", "acme-id"), ("x-client-secret", "wrong")]
        body = pack({"event": "verify_respondent", "exam_id": "exam-1", "fields": fields("1001", "horse 1001")})
        assert counted.ask("POST", "/webhooks/examjoint", body, wrong).status == 401
    assert counter.of(others)[1] == 0


@pytest.mark.parametrize("identity", ["1001", "3001", "nobody", "1003", "nohash"])
def test_a_throttled_answer_costs_none_whoever_asks(counter, make_site, identity):
    """And reads the same: the throttled are slowed whether there is such a candidate or not."""
    site = started(make_site(CONF + "\n[throttle]\nfailures = 3\npause = 1h\nwindow = 1h\n", candidates()), counter)
    seen = []
    for _ in range(6):
        reply, cost = counter.of(lambda: verify(site, identity, "cow"))
        seen.append(("try" if "try again" in reply.json["errorMessage"].lower() else "no", cost))
    assert [cost for _, cost in seen] == [1, 1, 1, 0, 0, 0], seen
    assert len(set(seen[:3])) == len(set(seen[3:])) == 1, seen
    assert newest_reason(site) == "throttled"


def test_too_many_at_once_cost_none_whoever_asks(counter, make_site):
    """Who is told to come back was not checked; everybody else cost one hash."""
    site = started(make_site(CONF + "\n[throttle]\nfailures = 500\n", candidates(),
                             verify="queue = 1\nhash_threads = 1"), counter)
    before = counter.count()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        with slots_taken(site, 1):
            asked = [pool.submit(verify, site, "1005" if n % 2 else "nobody%d" % n, "horse 1005" if n % 2 else "cow")
                     for n in range(24)]
            assert wait_for(lambda: any(one.done() for one in asked))
        replies = [one.result() for one in asked]
    assert all(reply.status == 200 for reply in replies)
    reasons = [row.get("reason") or "" for row in site.rows("events", "--json")]
    assert len(reasons) == 24 and reasons.count("busy") > 0
    assert counter.count() - before == 24 - reasons.count("busy")
