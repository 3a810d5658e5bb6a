"""The worker's torture at a small size, and that it notices what it is there to notice."""
import base64
import os
import random
import re
import subprocess
import sys
import types

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
import faketime  # noqa: E402
import worker  # noqa: E402
from canaries import Kept, Remains  # noqa: E402
from secret_world import SecretWorld  # noqa: E402
from worker_support import BUILD, PYTHON, WRAP, environment  # noqa: E402

SANITIZED = b"libasan" in subprocess.run(["ldd", os.path.join(BUILD, "examhook")], stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, check=False).stdout
UUID = "018f2a4e-0000-7000-8000-000000000001"


@pytest.mark.skipif(not os.path.exists(faketime.LIBRARY), reason="not installed: libfaketime (make deps)")
@pytest.mark.skipif(bool(WRAP) or SANITIZED, reason="libfaketime does not go with sanitizers and valgrind")
def test_some_runs_and_some_precise_points():
    done = subprocess.run([PYTHON, os.path.join(HERE, "worker.py"), "--runs", "5", "--at-once", "5", "--points", "5"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300, check=False)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout
    found = re.fullmatch(r"torture-worker: 5 runs, (\d+) kills, (\d+) sessions, (\d+) rated, (\d+) parked, 0 lost, 0 calls too many", last)
    assert found, done.stdout
    kills, sessions, rated, parked = map(int, found.groups())
    assert kills >= 5 and rated + parked == sessions and rated > 5
    searched = re.search(r"^searched for secrets (\d+) times, (\d+) tokens", done.stdout, re.M)
    assert searched and int(searched.group(1)) >= 5 and int(searched.group(2)) >= 5, done.stdout
    gave_up = re.search(r"^(\d+) sessions parked because no login ever went well$", done.stdout, re.M)
    assert gave_up and int(gave_up.group(1)) > 0


def test_every_entry_of_the_table_comes():
    chance, seen = random.Random(1), set()
    for _ in range(3000):
        seen |= set(worker.rule_of(chance, worker.BODIES)["note"].split(": ", 1)[1].split(", "))
    names = {part for column in (worker.STATUSES, worker.BODIES, worker.TIMINGS) for name, _, _ in column for part in name.split(", ")}
    assert seen == names


# --- What it notices --------------------------------------------------------------------------------------


class Left:
    """A run whose worker has ended, and what it left."""

    def __init__(self, folder):
        self.run = worker.Run.__new__(worker.Run)
        self.run.seed, self.run.wrong, self.run.searches, self.run.world = "made up", [], 0, self
        self.secrets = Kept()
        self.remains = Remains(self.secrets, str(folder), "store")
        self.remains.end()

    def leaks(self):
        return SecretWorld.leaks(self)

    def wrong(self):
        self.run.wrong.clear()
        self.run.search()
        return self.run.wrong


def test_a_secret_that_was_left_is_noticed(tmp_path):
    """A token only where it has its place, and none of the configuration anywhere."""
    left = Left(tmp_path)
    token = left.remains.add_token("made-up-token-0123456789-abcdef")
    for path in ("store/ratings/ratings.db", "store/ratings/ratings.db-wal"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"before" + token.encode() + b"behind")
        assert not left.wrong()
    for path in ("store/ratings/ratings.db", "store/ratings/ratings.db.copy", "store/proview/callbacks.db", "worker-0.log", "tmp/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        for value in (token, *left.secrets.section("proview").values()):
            before = (tmp_path / path).read_bytes() if (tmp_path / path).exists() else None
            (tmp_path / path).write_bytes(b"Authorization: " + base64.b64encode(b"Bearer " + value.encode() + b"...."))
            assert bool(left.wrong()) == (value != token or not path.endswith("ratings.db")), (path, value)
            if before is None:
                (tmp_path / path).unlink()
            else:
                (tmp_path / path).write_bytes(before)
    assert not left.wrong()
    left.remains.look_at("sessions", "x" + left.secrets.of["proview", "password"])
    assert left.wrong()


class Talk:
    """A run's judges over a log made up; times are seconds."""

    def __init__(self, calls, attempts=None, kills=(), rows=(), log=""):
        self.run = worker.Run.__new__(worker.Run)
        self.run.seed, self.run.wrong, self.run.too_many, self.run.lost = "made up", [], 0, 0
        self.run.rated = self.run.parked = 0
        self.run.kills, self.run.retried, self.run.mended, self.run.sessions = list(kills), [], [], [UUID]
        self.run.called = {UUID: [-100]}
        self.run.world = self
        self.daemons, self.fake, self.rate = [types.SimpleNamespace(log=lambda: log)], float, 1
        self.began, self.calls, self.attempts, self.rows = 0, calls, attempts, rows

    def callers(self):
        return self.calls

    def database(self, query):
        return [(UUID, len(self.calls) if self.attempts is None else self.attempts)] if "attempts" in query else list(self.rows)


def get(at, note="good: right", status=200, took=0.1, path="/v1/sessions/" + UUID, method="GET", said="high"):
    return {"time": at, "took": took, "method": method, "path": path, "connection": 1, "status": status, "note": note, "said": said}


def login(at, note="good: right", status=200):
    return get(at, note, status, path="/v1/user/login", method="POST")


def judged(judge, calls, *arguments, **how):
    talk = Talk(calls, **how)
    getattr(talk.run, judge)(*arguments)
    return talk.run


@pytest.mark.parametrize("calls,how", [
    ([get(10, "bad: 500", 500), get(10.2, "bad: 500", 500)], {}),
    ([get(10, "bad: 500", 500), get(10.6, "bad: 500", 500), get(11.2)], {}),
    ([get(10), get(12)], {"attempts": 1}),
    ([get(10, None, 403), get(10.1, None, 403), get(10.2, None, 403)], {}),
    ([get(10, "bad: vanishes"), get(10.1, "bad: vanishes"), get(10.2, "bad: vanishes")], {}),
    ([get(10, "bad: 429 with Retry-After, right, at once", 429), get(11.2)], {}),
], ids=["within the back-off", "within a longer one", "not counted", "refused three times", "repeated twice", "told to rest"])
def test_a_call_too_many_is_noticed(calls, how):
    assert judged("judge_calls", calls, **how).too_many
    assert not judged("judge_calls", calls[:1], **how).wrong
    assert judged("judge_calls", calls[:1] + [get(10.05, path="/v1/sessions")], **how).wrong


def test_what_was_in_flight_when_the_worker_was_told_to_rest_is_none_too_many():
    """By its own log it read the answer late."""
    told, log = get(10, "bad: 429 with Retry-After, right, at once", 429), 'time=1970-01-01T00:00:10.700Z msg="Talview asks us to slow down"'
    assert judged("judge_calls", [told, get(10.8)]).too_many
    assert not judged("judge_calls", [told, get(10.8)], log=log).too_many
    assert judged("judge_calls", [told, get(11.2)], log=log).too_many


def test_a_login_too_many_is_noticed():
    assert judged("judge_logins", [login(10), login(20)]).too_many, "nothing was refused"
    assert not judged("judge_logins", [login(10), get(18, None, 403), login(20)]).wrong
    assert judged("judge_logins", [login(10), get(11, None, 403), login(12)]).too_many, "a young token"
    assert judged("judge_logins", [login(10, "bad: 500", 500), login(10.2)]).too_many
    assert not judged("judge_logins", [login(10), login(12)], kills=[11]).wrong
    wrong = [login(at, "bad: 401, right, at once", 401) for at in (10, 12.1, 16.2)]
    assert not judged("judge_logins", wrong).wrong
    assert judged("judge_logins", wrong + [login(20.3, "bad: 401, right, at once", 401)]).too_many, "the pause must double"


@pytest.mark.parametrize("row,calls,wrong", [
    ({"state": "rated", "raw": "high", "error": None, "next": None}, [get(10, said="low"), get(20)], False),
    ({"state": "rated", "raw": "low", "error": None, "next": None}, [get(10, said="low"), get(20)], True),
    ({"state": "rated", "raw": "high", "error": None, "next": None}, [get(10, "bad: 500, right", 500)], True),
    ({"state": "rated", "raw": "high", "error": None, "next": 5}, [get(10)], True),
    ({"state": "parked", "raw": None, "error": "login: timeout", "next": None}, [get(10, "none: no rating")], False),
    ({"state": "parked", "raw": "high", "error": "login: timeout", "next": None}, [get(10)], True),
    ({"state": "pending", "raw": None, "error": "login: timeout", "next": 5}, [], True),
    ({"state": "parked", "raw": None, "error": "no_rating", "next": None}, [], False),
    ({"state": "parked", "raw": None, "error": None, "next": None}, [], True),
    ({"state": "pending", "raw": None, "error": "timeout", "next": 5}, [], True)],
    ids=["the last good one", "an older one", "never said", "watched for ever", "parked for want of a login",
         "parked though rated", "left for want of a login", "parked", "parked without a reason", "left"])
def test_a_wrong_end_is_noticed(row, calls, wrong):
    assert bool(judged("judge_sessions", calls, {UUID: row}).wrong) == wrong
    assert judged("judge_sessions", calls, {}).lost == 1
