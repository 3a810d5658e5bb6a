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
import talview  # noqa: E402  worker.py knows where it is
from canaries import Kept, Remains  # noqa: E402
from secret_world import SecretWorld  # noqa: E402
from worker_support import BUILD, PYTHON, WRAP, environment, wait_for  # noqa: E402

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
    """A run's judges over a log made up; times are seconds. `left`: what each process left, of the first to begin with."""

    def __init__(self, calls, attempts=None, left=(), called=(), rows=(), log=""):
        self.run = worker.Run.__new__(worker.Run)
        self.run.seed, self.run.wrong, self.run.too_many, self.run.lost = "made up", [], 0, 0
        self.run.rated = self.run.parked = 0
        self.run.retried, self.run.mended, self.run.sessions, self.run.record = [], [], [UUID], calls
        self.run.left = dict(enumerate(left or [standing(len(calls) if attempts is None else attempts)], 1))
        self.run.called = {UUID: [(-100, -100), *called]}
        self.run.world = self
        self.daemons = [types.SimpleNamespace(log=lambda: log)] * len(self.run.left)
        self.began, self.rate, self.rows, self.started = 0, 1, rows, dict.fromkeys(self.run.left, 0)

    fake = real = staticmethod(lambda when, caller: when)
    logged = worker.Judged.logged

    def database(self, query):
        return list(self.rows)


def standing(attempts, leased=False, looked=0, login=False):
    """What a process left."""
    return worker.Left({UUID: attempts}, {UUID: looked}, {UUID} if leased else set(), login)


def get(at, note="good: right", status=200, took=0.1, path="/v1/sessions/" + UUID, method="GET", said="high", connection=1, caller=1):
    return {"time": at, "took": took, "method": method, "path": path, "connection": connection, "status": status, "note": note,
            "said": said, "caller": caller}


def login(at, note="good: right", status=200, caller=1):
    return get(at, note, status, path="/v1/user/login", method="POST", caller=caller)


def judged(judge, calls, *arguments, **how):
    talk = Talk(calls, **how)
    getattr(talk.run, judge)(*arguments)
    return talk.run


@pytest.mark.parametrize("calls,how", [
    ([get(10, "bad: 500", 500), get(10.2, "bad: 500", 500)], {}),
    ([get(10, "bad: 500", 500), get(10.6, "bad: 500", 500), get(11.2)], {}),
    ([get(10), get(12)], {"attempts": 1}),
    ([get(10, None, 403), get(10.1, None, 403), get(10.2, None, 403)], {}),
    ([get(10, "bad: vanishes"), get(10.1, "bad: vanishes", connection=2), get(10.2, connection=3)], {}),
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
    killed = [login(10), login(12, caller=2)]
    assert not judged("judge_logins", killed, left=[standing(0, login=True), standing(0)]).wrong
    assert judged("judge_logins", killed, left=[standing(0), standing(0)]).too_many, "it was stored"
    wrong = [login(at, "bad: 401, right, at once", 401) for at in (10, 12.1, 16.2)]
    assert not judged("judge_logins", wrong).wrong
    assert judged("judge_logins", wrong + [login(20.3, "bad: 401, right, at once", 401)]).too_many, "the pause must double"


def test_a_kill_excuses_what_is_not_stored_and_nothing_else():
    """However long before the kill the reply was sent, or how long after it the call was taken up."""
    calls = [get(10, "bad: 500", 500), get(50, caller=2)]
    soon = [get(at, "bad: 500", 500) for at in (1, 5, 10)] + [get(10.5, caller=2)]
    assert not judged("judge_calls", calls, left=[standing(0, leased=True), standing(1)]).wrong
    assert not judged("judge_calls", calls, left=[standing(1), standing(2)]).wrong
    assert judged("judge_calls", calls, left=[standing(0), standing(1)]).too_many, "it had no lease: this was not counted"
    assert judged("judge_calls", calls, left=[standing(0, leased=True), standing(0)]).too_many, "it is the other's"
    more = [get(5, "bad: 500", 500), *calls]
    assert not judged("judge_calls", more, left=[standing(1, leased=True, looked=6), standing(2)]).wrong
    assert judged("judge_calls", more, left=[standing(1, leased=True, looked=11), standing(2)]).too_many, "stored, and leased anew"
    assert judged("judge_calls", more, left=[standing(0, leased=True), standing(1)]).too_many, "only one"
    assert judged("judge_calls", soon, left=[standing(3), standing(4)]).too_many, "the next process keeps the back-off"
    assert not judged("judge_calls", soon, left=[standing(2, leased=True, looked=6), standing(3)]).wrong


@pytest.mark.parametrize("state", ["rated", "parked"])
def test_a_rating_may_be_lost_with_the_process_that_had_its_lease(state):
    row = {"state": state, "raw": "low", "error": None, "next": None}
    calls = [get(10, said="low"), get(20), login(30, caller=2)]
    if state == "parked":
        row, calls = {**row, "raw": None, "error": "login: malformed"}, calls[1:]
    gets = len(calls) - 1
    for left, wrong in ((standing(gets - 1, leased=True, looked=11), False), (standing(gets - 1), True),
                        (standing(gets, leased=True, looked=21), True)):
        assert bool(judged("judge_sessions", calls, {UUID: row}, left=[left, standing(gets)]).wrong) == wrong


def test_a_kept_connection_that_ends_without_an_answer_is_asked_again_once():
    """Whenever the stand-in takes that up: it is the connection that tells."""
    kept = [login(9), get(10, "bad: vanishes"), get(11.5, connection=2)]
    assert not judged("judge_calls", kept, attempts=1).wrong
    assert judged("judge_calls", kept[1:], attempts=1).too_many, "a new one"
    assert judged("judge_calls", kept + [get(20, connection=3)], attempts=1).too_many


def test_a_callback_asks_for_a_call():
    calls = [get(10), get(20), get(20.1)]
    assert judged("judge_calls", calls).too_many
    assert not judged("judge_calls", calls, called=[(20, 22)]).wrong, "it was not known to be taken when the call came"
    assert not judged("judge_calls", calls, called=[(12, 13)]).wrong, "while it was leased"
    assert judged("judge_calls", calls, called=[(8, 9)]).too_many, "the first call was for that"
    assert judged("judge_calls", calls, called=[(21, 22)]).too_many


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


# What a broken worker would do, done by the store itself, behind the real one's back.
BROKEN = {
    "counts no attempt": ("UPDATE OF attempts ON sessions", "UPDATE sessions SET attempts = old.attempts WHERE session = new.session"),
    "keeps no back-off": ("UPDATE OF failures ON sessions WHEN new.failures > old.failures AND new.state = 'pending'",
                          "UPDATE sessions SET next_attempt_at = 1 WHERE session = new.session"),
    "parks what is rated": ("INSERT ON logins WHEN new.error IS NOT NULL", "UPDATE sessions SET state = 'parked', rating_raw = NULL,"
                            " rating = NULL, next_attempt_at = NULL, last_error = 'login: malformed' WHERE state = 'rated'"),
}


def broken_run(how, certificates):
    """A session that fails for some time, then is rated, and then looked at again when a login fails first. What was wrong."""
    run = worker.Run("broken", certificates)
    try:
        world, run.sessions = run.world, [UUID]
        if how:
            world.database("CREATE TRIGGER broken AFTER %s BEGIN %s; END" % BROKEN[how])
        world.control(login={"note": "good: right"}, default={"note": "bad: 500, right, at once", "status": 500})
        run.callback(UUID)
        run.worker = world.daemon()
        wait_for(lambda: len(world.callers()) > 4, 30)
        world.control(default={"note": "good: right", "rating": "high"})
        wait_for(lambda: world.in_state(UUID), 30)
        world.age_token(100) # else it is kept though it is refused
        world.control(login={"steps": [{"note": "bad: 500, right, at once", "status": 500}, {"note": "good: right"}]}, forget_tokens=True)
        run.callback(UUID)
        wait_for(lambda: "login failed" in run.worker.log(), 30)
        rows = run.quiet([UUID], 30)
        run.stand_still()
        run.judge_sessions(rows)
        run.judge_calls()
        run.judge_logins()
        run.finish()
    finally:
        run.world.close()
    return run.wrong


@pytest.mark.skipif(not os.path.exists(faketime.LIBRARY), reason="not installed: libfaketime (make deps)")
@pytest.mark.skipif(bool(WRAP) or SANITIZED, reason="libfaketime does not go with sanitizers and valgrind")
@pytest.mark.parametrize("how,complaint", [
    (None, None),
    ("counts no attempt", r"too many calls: .* calls of process 1, 0 attempts, 1 refused, 0 lost"),
    ("keeps no back-off", r"too many calls: .* s after bad: 500, right, at once \(2 in a row\), at least"),
    ("parks what is rated", "was rated, and a login that failed has parked it")], ids=["broken in no way", *BROKEN])
def test_a_broken_worker_is_noticed(how, complaint, tmp_path):
    talview.make_certificates(str(tmp_path))
    wrong = broken_run(how, str(tmp_path))
    assert bool(wrong) == bool(how), wrong
    assert not how or any(re.search(complaint, text) for text in wrong), wrong
