"""The wall clock jumps by hours and days, back and forth, under the real programs (libfaketime; the monotonic clock goes
on as it does when somebody sets the time). A stored deadline further off than its maximum counts as expired, nothing is
called twice, and nobody waits longer than the maximum. Every secret is a canary, and at the end of each test it is looked
for in all that was written, said and shown."""
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
import faketime  # noqa: E402
import support  # noqa: E402
from accounts import BCRYPT  # noqa: E402
from canaries import let_cores_be_written  # noqa: E402
from exhaust import CLIENT, KEPT, PATHS, RIGHT, WRONG, Disk  # noqa: E402
from secret_world import SecretWorld  # noqa: E402
from worker_support import BUILD, wait_for  # noqa: E402

HOUR = 3600
# All of it happens in the future: the stand-in's certificate is not valid before today.
BASE = 100 * 24 * HOUR
WRAPPED = bool(os.environ.get("EXAMHOOK_WRAP")) or b"libasan" in subprocess.run(
    ["ldd", os.path.join(BUILD, "examhook")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout

pytestmark = [pytest.mark.skipif(not os.path.exists(faketime.LIBRARY), reason="not installed: libfaketime (make deps)"),
              pytest.mark.skipif(WRAPPED, reason="libfaketime does not go with sanitizers and valgrind")]


class Clock:
    """The wall clock of every program that is started from now on."""

    def __init__(self, folder, monkeypatch):
        self.path = os.path.join(folder, "clock")
        self.set(0)
        for name, value in (("LD_PRELOAD", faketime.LIBRARY), ("FAKETIME_TIMESTAMP_FILE", self.path), ("FAKETIME_NO_CACHE", "1"),
                            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("NO_FAKE_STAT", "1")):
            monkeypatch.setenv(name, value)

    def set(self, seconds):
        """So far from where it began; at once, also for those that run."""
        with open(self.path + ".new", "w", encoding="ascii") as f:
            f.write("%+d" % (BASE + seconds))
        os.replace(self.path + ".new", self.path)


@pytest.fixture
def world(monkeypatch):
    """world(settings) -> (world, clock); only what the test starts has the clock, not the stand-in."""
    made = []

    def make(settings=None, accounts=None):
        made.append(SecretWorld(settings, accounts))
        monkeypatch.chdir(made[-1].folder)
        monkeypatch.setenv("TMPDIR", made[-1].path("tmp"))
        return made[-1], Clock(made[-1].folder, monkeypatch)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    let_cores_be_written()
    yield make
    resource.setrlimit(resource.RLIMIT_CORE, before)
    for one in made:
        leak, token = one.leaks(), one.remains.tokens or not one.login_row() or not one.login_row()["token"]
        one.close()
        faketime.forget(daemon.process for daemon in one.daemons)
        assert not leak and token, leak


# --- The worker -------------------------------------------------------------------------------------------


def test_a_fetch_under_way_is_not_begun_again_when_the_clock_jumps_ahead(world):
    w, clock = world()
    slow = w.callback()
    w.control(sessions={slow: {"delay": 2}})
    w.daemon()
    wait_for(lambda: w.counts()["peak"] >= 1 and w.database(
        "SELECT 1 FROM sessions WHERE lease_owner IS NOT NULL"))
    time.sleep(0.5)
    clock.set(2 * HOUR)
    other = w.callback()
    wait_for(lambda: w.in_state(slow, other))
    time.sleep(2.5) # a second call would be logged when it ends
    counts = w.counts()
    assert counts["by_uuid"] == {slow: 1, other: 1} and counts["logins"] == 1


def test_a_callback_that_came_during_such_a_fetch_still_gets_its_own(world):
    w, clock = world()
    slow = w.callback()
    w.control(sessions={slow: {"steps": [{"delay": 5, "rating": "low"}, {"rating": "high"}]}})
    w.daemon()
    wait_for(lambda: w.database("SELECT 1 FROM sessions WHERE lease_owner IS NOT NULL"))
    time.sleep(0.5)
    w.callback(slow, message="Rating Has Been Calculated")
    wait_for(lambda: w.database("SELECT 1 FROM sessions WHERE renewed_due_at IS NOT NULL"))
    clock.set(2 * HOUR)
    w.callback()
    wait_for(lambda: (w.session(slow) or {}).get("rating") == "high")
    assert w.counts()["by_uuid"][slow] == 2


def test_a_killed_workers_lease_does_not_outlast_a_clock_that_is_put_back(world):
    w, clock = world()
    one = w.callback()
    w.control(sessions={one: {"steps": [{"delay": 5}, {}]}})
    daemon = w.daemon()
    wait_for(lambda: w.counts()["peak"] >= 1 and w.database("SELECT 1 FROM sessions WHERE lease_owner IS NOT NULL"))
    wait_for(lambda: w.counts()["logins"] == 1)
    daemon.stop(signal.SIGKILL)
    clock.set(-20 * HOUR) # so far that neither the lease nor its due time can be true
    w.daemon()
    wait_for(lambda: w.in_state(one), 30)


def test_waiting_for_another_workers_login_does_not_grow_when_the_clock_is_put_back(world):
    w, clock = world()
    w.callback()
    w.control(login={"steps": [{"delay": 4}, {}]})
    both = [w.daemon(), w.daemon()]
    logs_in = wait_for(lambda: (w.login_row() or {}).get("lease_owner"), every=0.01).split("-")[-2]
    # The other one finds the login taken, again and again, while sessions are due.
    w.callbacks(20)
    time.sleep(1)
    clock.set(-5 * HOUR)
    wait_for(lambda: (w.login_row() or {}).get("token"))
    first = next(d for d in both if str(d.process.pid) == logs_in)
    first.stop()
    one = w.callback()
    wait_for(lambda: w.in_state(one), 30)


def test_a_session_from_the_future_is_waited_for_no_longer_than_any_other(world):
    w, clock = world({"retry_first": "1s", "retry_max": "1s", "rating_wait": "3s"})
    clock.set(300 * 24 * HOUR)
    one = w.callback()
    w.control(sessions={one: {"rating": None}})
    w.once()
    assert w.session(one)["state"] == "pending"
    clock.set(0)
    w.daemon()
    wait_for(lambda: w.in_state(one, state="parked"), 30)
    assert w.session(one)["last_error"] == "no_rating"


def test_a_rating_from_the_future_is_watched_no_longer_than_any_other(world):
    w, clock = world({"watch_every": "1s", "watch_window": "3s"})
    clock.set(300 * 24 * HOUR)
    one = w.callback()
    w.once()
    assert w.session(one)["state"] == "rated" and w.session(one)["next_attempt_at"]
    clock.set(0)
    w.daemon()
    wait_for(lambda: not w.session(one)["next_attempt_at"], 30)
    assert w.session(one)["state"] == "rated"


def test_a_failed_logins_pause_from_the_future_is_bounded_by_what_such_a_pause_can_be(world):
    w, clock = world({"login_pause": "15m", "retry_first": "1m"})
    clock.set(10 * HOUR)
    w.callback()
    w.control(login={"status": 500})
    w.once()
    assert w.login_row()["error"] == "server_error"
    w.control(login={})
    clock.set(0)
    one = w.callback()
    w.once()
    assert w.in_state(one) and w.counts()["logins"] == 2


def test_a_pause_after_wrong_credentials_is_kept_when_the_clock_is_put_back(world):
    """Its maximum is a day: an account is not to be locked because a clock goes wrong."""
    w, clock = world({"login_pause": "15m"})
    clock.set(10 * HOUR)
    w.callback()
    w.control(login={"status": 401})
    w.once()
    for offset in (0, 9 * HOUR, -4 * HOUR):
        clock.set(offset)
        w.once()
    assert w.counts()["logins"] == 1
    clock.set(-20 * HOUR)
    w.once()
    assert w.counts()["logins"] == 2, "further off than a day: expired"


def test_no_call_twice_and_no_session_waits_while_the_clock_jumps_about(world):
    w, clock = world({"poll": "1s", "watch_window": "0", "retry_first": "1s"})
    jumps = (3 * HOUR, -2 * HOUR, 26 * HOUR, -30 * 24 * HOUR, 60, -12 * HOUR)
    w.control(default={"delay": 0.2})
    sessions, daemon = w.callbacks(3), w.daemon()
    for number, jump in enumerate(jumps):
        clock.set(jump)
        new = w.callbacks(2)
        sessions += new
        wait_for(lambda: w.in_state(*new), 30)
        if number % 3 == 2:
            # Between restarts as well, by a kill while something is under way or in order.
            daemon.stop(signal.SIGTERM)
            daemon = w.daemon()
    wait_for(lambda: w.in_state(*sessions))
    assert daemon.stop()[0] == 0
    counts = w.counts()
    assert counts["by_uuid"] == dict.fromkeys(sessions, 1)
    assert counts["logins"] <= 1 + len(jumps), "a jump may cost a login, nothing else does"


def test_deadlines_that_a_failure_set_in_the_future_are_given_up(world):
    """No deadline may be further off than the longest that can be set: a session of each kind of failure."""
    w, clock = world({"retry_first": "1h"})
    rules = [{"status": 500}, {"status": 429, "retry_after": 3600}, {"rating": None}, {"malformed": True}]
    sessions = w.callbacks(len(rules))
    clock.set(5 * 24 * HOUR)
    w.control(sessions=dict(zip(sessions, rules)))
    w.once()
    assert not any(row["state"] == "rated" for row in w.sessions().values())
    w.control(sessions=dict.fromkeys(sessions))
    clock.set(0)
    w.daemon()
    wait_for(lambda: w.in_state(*sessions), 30)


def test_the_hour_of_a_sessions_fetches_from_the_future_is_over(world):
    w, clock = world({"watch_window": "0"})
    clock.set(5 * HOUR)
    one = w.callback()
    for number in range(12):
        w.callback(one, message="m%d" % number)
        w.once()
    fetched = w.counts()["by_uuid"][one]
    assert fetched < 12, "there is a limit for an hour"
    clock.set(0)
    w.callback(one, message="another")
    w.once()
    assert w.counts()["by_uuid"][one] == fetched + 1


# --- The programs that face the web -----------------------------------------------------------------------

CONF = """
[examjoint main]
client_id = exhaust-id
%s
[proview main]
login_url = https://127.0.0.1:1/login
session_url = https://127.0.0.1:1/sessions
%s
[proview open]
login_url = https://127.0.0.1:1/login
session_url = https://127.0.0.1:1/sessions
callback_open = yes
[throttle]
failures = 3
window = 20m
pause = 20m
[fields]
0 = id
1 = password
""" % (KEPT.lines("examjoint"), KEPT.lines("proview"))
ROSTER = "id,password_hash\n" + "".join("c%d,%s\n" % (i, BCRYPT) for i in range(9))


@pytest.fixture
def site(monkeypatch):
    made = []

    def make(conf=CONF, verify=""):
        made.append(Disk(conf=conf, roster=ROSTER, verify=verify))
        made[-1].start_nginx()
        clock = Clock(made[-1].folder, monkeypatch)
        made[-1].start_program("examjoint")
        made[-1].start_program("proview")
        return made[-1], clock
    yield make
    for one in made:
        programs = [part.process for part in one.parts.values()]
        try:
            one.close()
        finally:
            faketime.forget(programs)


def verify(site, who, word=RIGHT):
    """True: let in; else what the candidate is told."""
    body = {"event": "verify_respondent", "exam_id": "e", "fields": [{"position": 0, "value": who},
                                                                    {"position": 1, "value": word}]}
    answer = site.ask("POST", "/webhooks/examjoint", json.dumps(body).encode(), CLIENT)
    assert answer.status == 200, answer
    return answer.json.get("errorMessage", True)


@pytest.mark.parametrize("jump", [-5 * HOUR, 5 * HOUR, -40 * 24 * HOUR, 40 * 24 * HOUR], ids=["-5h", "+5h", "-40d", "+40d"])
def test_nobody_is_throttled_longer_than_the_pause(site, jump):
    s, clock = site()
    for _ in range(3):
        assert verify(s, "c1", WRONG) is not True
    assert verify(s, "c1") is not True, "throttled"
    clock.set(jump)
    assert verify(s, "c1") is True
    for _ in range(3):
        assert verify(s, "c2", WRONG) is not True
    assert verify(s, "c2") is not True, "throttled at that time too"
    clock.set(0)
    assert verify(s, "c2") is True


def test_answers_stay_within_their_budget_and_right_while_the_clock_jumps(site):
    s, clock = site(verify="budget = 8s")
    wrong, took = [], []
    stop = threading.Event()

    def candidate(number):
        while not stop.is_set():
            began = time.monotonic()
            answer = verify(s, "c%d" % number)
            took.append(time.monotonic() - began)
            if answer is not True:
                wrong.append(answer)
    threads = [threading.Thread(target=candidate, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for jump in (3 * HOUR, -3 * HOUR, 0, 24 * HOUR, -24 * HOUR, 10, -10, 0):
            time.sleep(0.3)
            clock.set(jump)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not wrong, wrong[:3]
    assert len(took) > 8 and max(took) < 8 + 5 * support.PATIENCE


def test_repeats_stay_one_event_whatever_the_clock_says(site):
    s, clock = site()
    body = json.dumps({"event": "admitted_respondent", "respondent_id": "r1", "exam_id": "e", "admittedOn": 1719221380326}).encode()
    session = support.a_uuid()
    callback = json.dumps({"session_uuid": session, "external_id": "1", "message": "m"}).encode()
    for jump in (0, -5 * HOUR, 30 * 24 * HOUR, 0):
        clock.set(jump)
        assert s.ask("POST", "/webhooks/examjoint", body, CLIENT).status == 200
        assert s.ask("POST", PATHS["proview"], callback, CLIENT).status == 200
        assert s.ask("POST", "/webhooks/proview/open", callback).status == 200
    row, = s.events(event="admitted_respondent")
    assert row["deliveries"] == 4
    rows = s.events(session_uuid=session)
    assert [row["deliveries"] for row in rows] == [4, 4]


def test_what_open_accounts_may_store_in_an_hour_does_not_stay_used_up(site):
    s, clock = site(CONF + "[callbacks]\nopen_count_hour = 3\n")

    def send():
        body = json.dumps({"session_uuid": support.a_uuid(), "external_id": "1", "message": "m"}).encode()
        return s.ask("POST", "/webhooks/proview/open", body).status
    clock.set(5 * HOUR)
    answers = [send() for _ in range(5)]
    assert answers[0] == 200 and answers[-1] in (429, 503), answers
    clock.set(0)
    assert send() == 200
