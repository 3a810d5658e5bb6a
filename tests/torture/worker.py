#!/usr/bin/python3
"""The worker against a Talview that misbehaves in every way of a table: status x body x timing x TLS.

    tests/torture/worker.py [--runs 200] [--seed S] [--points all|N] [--at-once N]

A run: a store with some callbacks, the real worker, the stand-in of Talview in this process. For some seconds each
session and the login follow rules taken from the table by chance, tokens expire or are forgotten, connections fail before
they are any, callbacks come again, and the worker is killed: by chance, or by the stand-in as soon as the last byte of a
reply is sent, so that it dies between the reply and the store, or between a login and its keeping. Then Talview
recovers, but for some sessions that stay bad for ever; or its login never does, until the operator has it mended, when
all have ended. Judged by the stand-in's own record of the calls:

- every session ends up rated, with exactly what the last good reply said, or parked with a reason, and nothing more is
  planned for it, also where the login fails for ever, which makes no parked session of a rated one; what was parked and
  is well now is rated after `examhook retry --parked`; no row of a history is there twice
- no more calls than are allowed: none within the back-off, none while Talview asked for rest, none for a session that is
  parked, at most one repeat with another token; each call makes an attempt that is counted, unless a kill came between.
  What a kill excuses is told by the order of things, not by time, for that depends on how busy the machine is: each process
  of the worker has addresses of its own, so that the record says whose a call was, however late it was taken up, and when
  one is gone the store is read: where it had the session's lease still, what came of its last call is lost, and of no other
- one login where one is enough: another only after a refusal of a token that is not young, a failure, or a kill
- nothing but POST to the login and GET of a session that a callback spoke of
- no secret is where it must not be, when the worker was killed and at the end: each of the configuration is a canary, each token
  that was ever given is known, and all is searched that was written, said and shown; a token may be in ratings.db alone
- a recovered Talview is noticed within the back-off: no later than the deadlines that were stored when it recovered

The worker's wall clock runs ten times as fast (libfaketime), its time limits for a transfer do not.

Then the precise points: one run of `work --once` under strace, killed at its n-th system call of the kind that stores,
syncs, sends or receives, for each n. Then the lease's time passes, and another one must bring the rating, once.

The last line is

    torture-worker: N runs, N kills, N sessions, N rated, N parked, N lost, N calls too many

and the exit status 1 when anything is wrong: then the first of it is printed with its run's seed, which makes the same
choices again (--runs 1 --seed S), and the folder is kept, with all that was judged in its record.json.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import datetime
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
for place in ("e2e", "standin"):
    sys.path.insert(0, os.path.join(HERE, os.pardir, place))
import faketime  # noqa: E402
import talview  # noqa: E402
import worker_support  # noqa: E402
from canaries import let_cores_be_written  # noqa: E402
from secret_world import SecretWorld  # noqa: E402
from worker_support import World  # noqa: E402

RATE = 10
# Seconds of the worker's clock, but for the first three.
SETTINGS = {"connect_timeout": 4, "request_timeout": 4, "poll": 1, "transfers": 8, "lease": 130, "retry_first": 5,
            "retry_max": 40, "failure_wait": 60, "not_found_wait": 40, "rating_wait": 60, "rating_wait_human": 60,
            "watch_every": 15, "watch_window": 0, "login_pause": 20}
YOUNG_TOKEN = 60 # the worker's own rule
NEVER = 6        # seconds: the worker has given up long before
SLACK = 6        # seconds of a busy machine
# Of our seconds: how well it is known when a process's clock began to run fast. It matters from one process to the next.
CLOCK_SLACK = 0.5
RETRY_AFTER = 2  # what a Talview that wants rest asks for; that is waited for by the clock that nobody sets

# --- The table: (name, members of a rule, what the worker is to make of it) ----------------------------------
# "good": a usable reply; "none": usable, without a rating; "bad". All three columns must be good for a good reply.

STATUSES = [("200", {}, "good")] + [(str(status), {"status": status}, "bad") for status in (
    201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 408, 410, 418, 429, 500, 502, 503, 504, 520, 999)] + [
    ("429 with Retry-After", {"status": 429, "retry_after": RETRY_AFTER}, "bad"),
    ("429 with nonsense", {"status": 429, "retry_after": "soon"}, "bad"),
    ("503 with Retry-After", {"status": 503, "retry_after": RETRY_AFTER}, "bad")]
BODIES = [("right", {}, "good")] * 4 + [
    ("rated anew", {"rating": " Low "}, "good"), ("a word", {"rating": "Tr\u00e8s bien \u5b66"}, "good"),
    ("no rating", {"rating": None}, "none"), ("empty rating", {"rating": ""}, "none"),
    ("rating missing", {"missing": ["final_rating"]}, "none"),
    ("a person's, not yet", {"rating": None, "type": "live_proctor"}, "none")] + [(name, rule, "bad") for name, rule in (
        ("nothing", {"body": ""}), ("no JSON", {"body": "<html>502</html>", "content_type": "text/html"}),
        ("truncated", {"truncate": 9}), ("cut to nothing", {"truncate": 10 ** 6}), ("malformed", {"malformed": True}),
        ("a list", {"body": "[]"}), ("a text", {"body": '"high"'}), ("null", {"body": "null"}),
        ("another shape", {"body": {"data": {"final_rating": "high"}}}), ("success: false", {"success": False}),
        ("another session", {"uuid": "00000000-53f6-11eb-b441-492a960aa0ba"}), ("uuid null", {"uuid": None}),
        ("uuid a number", {"uuid": 7}), ("uuid missing", {"missing": ["uuid"]}), ("rating a number", {"rating": 3}),
        ("rating true", {"rating": True}), ("rating a list", {"rating": ["high"]}), ("rating an object", {"rating": {}}),
        ("rating too long", {"rating": "high" * 1000}), ("status a number", {"session_status": 1}),
        ("external_id a number", {"external_id": 4711}), ("40 deep", {"deep": 40}), ("100,000 deep", {"deep": 100000}),
        ("huge", {"oversize": 2000000}), ("huge, chunked", {"oversize": 2000000, "chunked": True}),
        ("bad UTF-8", {"extra": {"title": "\udcff"}, "body": '{"title": "\udcff"}'}), ("NUL", {"body": '{"a": "\\u0000"}'}),
        ("a key twice", {"body": '{"uuid": "a", "uuid": "b"}'}), ("no HTTP", {"raw": "\0\1\2 nonsense"}),
        ("lengths that differ", {"raw": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"}),
        ("negative length", {"raw": "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}"}),
        ("a chunk without end", {"raw": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n{}"}),
        ("only 100s", {"raw": "HTTP/1.1 100 Continue\r\n\r\n" * 30}),
        ("long headers", {"headers": {"X-Long-%d" % i: "x" * 7000 for i in range(8)}}))]
TIMINGS = [("at once", {}, "good")] * 4 + [
    ("soon", {"delay": 0.2}, "good"), ("in pieces", {"drip": {"bytes": 60, "every": 0.02}}, "good"),
    ("chunked", {"chunked": True}, "good"), ("a slow head", {"slow_head": 0.1}, "good"),
    ("the last of its connection", {"close": True}, "good")] + [(name, rule, "bad") for name, rule in (
        ("never", {"delay": NEVER}), ("drip", {"drip": {"bytes": 1, "every": 0.3}}), ("reset in the head", {"cut": 0}),
        ("reset in the middle", {"cut": 20}), ("closed after the head", {"short": 0}), ("closed in the middle", {"short": 20}),
        ("stalls after the head", {"stall": {"after": 0, "seconds": NEVER}}),
        ("stalls in the middle", {"stall": {"after": 20, "seconds": NEVER}}), ("a head that never ends", {"slow_head": 2.0}),
        ("vanishes", {"vanish": True}))]
LOGIN_BODIES = [("right", {}, "good")] * 6 + [
    ("expires_in %r" % (value,), {"expires_in": value}, "good") for value in (60, "3600", -1, 1719221380326, None, {}, 1e300)] + [
    ("a token that is none", {"body": {"access_token": "x" * 40, "expires_in": 10800}}, "good")] + [
        (name, rule, "bad") for name, rule in (
            ("success: false", {"success": False}), ("no token", {"missing": ["access_token"]}),
            ("a token with a line break", {"body": {"access_token": "a\r\nb"}}), ("a token too long", {"body": {"access_token": "x" * 20000}}),
            ("a token that is a number", {"body": {"access_token": 5}}), ("nothing", {"body": ""}), ("no JSON", {"body": "<html>"}),
            ("truncated", {"truncate": 9}), ("100,000 deep", {"deep": 100000}), ("huge", {"oversize": 2000000}),
            ("no HTTP", {"raw": "\0\1\2 nonsense"}))]
CONNECTION_FAULTS = ("untrusted", "expired", "other_name", "plain", "garbage", "silent", "half", "reset")


def verdict(*kinds):
    return "bad" if "bad" in kinds else "none" if "none" in kinds else "good"


def rule_of(chance, bodies, odd=0.6):
    """A rule of the table; each column is odd by chance, so that every pair comes and single faults come most."""
    picked = [chance.choice(column) if chance.random() < odd / (1 + i) else column[0]
              for i, column in enumerate(chance.sample((STATUSES, bodies, TIMINGS), 3))]
    kind, rule = verdict(*(kind for _, _, kind in picked)), {}
    for _, members, _ in picked:
        rule.update(members)
    if "raw" in rule:
        rule.pop("status", None) # it is never sent, and must not be taken for a 401 by the log
    return {**rule, "note": kind + ": " + ", ".join(name for name, _, _ in picked)}


def session_of(call):
    """Whose a call was: a session's UUID, or "login"."""
    return call["path"].rsplit("/", 1)[-1]


def is_slow(call):
    return call["took"] > SETTINGS["request_timeout"] * 0.6


def process_state(pid):
    """T: it stands still."""
    with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as f:
        return f.read().rpartition(")")[2].split()[0]


def kind_of(call):
    """What a call's reply was, by the log."""
    good = call["status"] in ((200, 201) if call["path"].endswith("/login") else (200,)) and call["note"]
    return call["note"].split(":")[0] if good else "bad"


# --- One run -------------------------------------------------------------------------------------------------

# attempts: of each session, how many were counted; looked: when the last of them was; leased: the sessions of which it has
# the lease, and has stored nothing since it took that; login: it has the login's.
Left = collections.namedtuple("Left", "attempts looked leased login")


class Judged(SecretWorld):
    """A world whose stand-in is in this process, and whose worker's clock runs faster. Each process of the worker is known
    by its number, which its addresses have: 1 is the first."""

    def __init__(self, certificates, settings=None, rate=RATE):
        self.certificates, self.rate, self.began = certificates, rate, time.time()
        self.caller, self.lags, self.started, self.asked_at = 0, {}, {}, self.began
        super().__init__({name: "%d%s" % (value, "" if name == "transfers" else "s")
                          for name, value in {**SETTINGS, **(settings or {})}.items()})

    def start_standin(self):
        shutil.copytree(self.certificates, self.path("talview"))
        self.state = talview.State(argparse.Namespace(username=self.username, password=self.password, app_id=self.app_id,
                                                      token_lifetime=10800.0))
        made = self.state.token_new
        self.state.token_new = lambda: self.remains.add_token(made())
        self.server = talview.Server(("127.0.0.1", 0), self.state, self.path("talview"))
        self.url = "https://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    def control(self, **order):
        self.state.control(order)

    def account(self, **changes):
        base = "%s/%d/v1/" % (self.url, self.caller)
        return super().account(**{"login_url": base + "user/login", "session_url": base + "sessions", **changes})

    def daemon(self):
        changed = os.stat(self.conf).st_mtime_ns
        self.caller += 1
        self.write_conf()
        os.utime(self.conf, ns=(changed, changed)) # a change would end the pause after wrong credentials
        made = super().daemon()
        self.started[self.caller] = self.clock_began(made)
        self.lags[self.caller] = (self.rate - 1) * (self.started[self.caller] - self.asked_at)
        return made

    def clock_began(self, daemon):
        """libfaketime counts from when it was loaded, which on a busy machine is late; it makes a file then. Where there is
        one already, of another that had the same number, the first line of the log tells it, no better than we are quick."""
        while daemon.process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                began = os.stat(faketime.LEFT[0] % daemon.process.pid).st_ctime
                if began >= self.asked_at - 0.1:
                    return began
            said, now = re.search(r"time=(\S+)Z.*the worker is up", daemon.log()), time.time()
            if said:
                ahead = datetime.datetime.fromisoformat(said.group(1) + "+00:00").timestamp() - self.fake(self.asked_at)
                return now - (ahead - (now - self.asked_at)) / (self.rate - 1)
            time.sleep(0.01)
        return time.time()

    def fake(self, when=None, caller=None):
        """What the clock of a process of the worker says; without one, that of a command that starts just then."""
        when = time.time() if when is None else when
        return when + (self.rate - 1) * (when - self.began) - self.lags.get(caller, 0)

    def real(self, fake, caller):
        """When that process's clock said this."""
        return self.began + (fake + self.lags.get(caller, 0) - self.began) / self.rate

    def logged(self, caller, pattern):
        """When that process wrote the lines in which this is found."""
        lines = [line for line in self.daemons[caller - 1].log().splitlines() if re.search(pattern, line)]
        return [self.real(datetime.datetime.fromisoformat(line[5:28] + "+00:00").timestamp(), caller) for line in lines]

    def left_by(self, caller):
        """What the store has of a process that is gone, or stands still."""
        pid = str(self.daemons[caller - 1].process.pid)
        rows = self.database("SELECT session_uuid, attempts, looked_at, lease_owner FROM sessions")
        logins = self.database("SELECT lease_owner FROM logins")

        def has(owner):
            return bool(owner) and owner.split("-")[-2] == pid
        return Left({row[0]: row[1] for row in rows}, {row[0]: self.real(row[2] / 1000, caller) for row in rows if row[2]},
                    {row[0] for row in rows if has(row[3])}, any(has(row[0]) for row in logins))

    def command(self, *arguments):
        self.asked_at = now = time.time()
        # With temporary files and cores where they are looked for.
        return ["env", "-C", self.folder, "TMPDIR=" + self.path("tmp"), "LD_PRELOAD=" + faketime.LIBRARY,
                "FAKETIME=+%.3f x%d" % (self.fake(now) - now, self.rate),
                "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1", *super().command(*arguments)]

    def close(self, keep=False):
        self.server.shutdown()
        self.server.server_close()
        for daemon in self.daemons:
            daemon.stop(signal.SIGKILL)
        faketime.forget(daemon.process for daemon in self.daemons)
        if not keep:
            super().close()

    def callers(self):
        """The calls made, in the order in which they began."""
        with self.state.lock:
            return sorted((dict(line) for line in self.state.log), key=lambda call: call["time"])


class Run:
    def __init__(self, seed, certificates):
        self.seed, self.chance, self.wrong = seed, random.Random(seed), []
        self.never = re.search("[37]$", seed) is not None # a fifth of the runs
        self.too_many = self.lost = self.rated = self.parked = self.gave_up = self.searches = 0
        self.kills, self.retried, self.mended, self.called = [], [], [], collections.defaultdict(list)
        watch = self.chance.choice((0, 0, 60))
        self.world = Judged(certificates, {"watch_window": watch})
        self.world.state.kill = self.kill
        self.lock, self.worker, self.sessions, self.late = threading.Lock(), None, [], 0.0
        self.left, self.record = {}, [] # what each process left, and the calls made

    def trouble(self, text):
        self.wrong.append("%s: %s" % (self.seed, text))

    def kill(self, _=None):
        """Also called by the stand-in, in a thread of its own."""
        with self.lock:
            process = self.worker.process
            if process.poll() is None:
                process.kill()
                process.wait()
                self.kills.append(time.time())
                self.left[self.world.caller] = self.world.left_by(self.world.caller)

    def watch(self):
        """Starts the worker again when it was killed; by itself it does not end."""
        with self.lock:
            status = self.worker.process.poll()
            if status is None:
                return
            if status != -signal.SIGKILL:
                self.trouble("the worker ended by itself with %d: %s" % (status, self.worker.log()[-500:]))
                self.left[self.world.caller] = self.world.left_by(self.world.caller)
            self.search()
            self.worker = self.world.daemon()

    def pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.watch()
            time.sleep(0.05)

    def search(self):
        self.searches += 1
        leak = self.world.leaks()
        if leak:
            self.trouble(leak)

    def callback(self, session):
        began = time.time()
        self.world.callback(session, message="message %d" % len(self.called[session]))
        self.called[session].append((began, time.time())) # the worker may have called before we know that it was taken

    def session_rule(self, odd=0.6):
        rule = rule_of(self.chance, BODIES, odd)
        if self.chance.random() < 0.06:
            rule["kill"] = "worker"
        return rule

    def login_rule(self):
        rule = rule_of(self.chance, LOGIN_BODIES, 0.4)
        if self.chance.random() < 0.1:
            rule["kill"] = "worker"
        return rule

    def trouble_step(self):
        what = self.chance.choices(("rule", "login", "expire", "forget", "connections", "kill", "callback", "nothing"),
                                   (6, 2, 1, 1, 3, 1, 1, 4))[0]
        if what == "rule":
            self.world.control(sessions={self.chance.choice(self.sessions): self.session_rule()})
        elif what == "login":
            self.world.control(login=self.login_rule())
        elif what in ("expire", "forget"):
            self.world.control(**{what + "_tokens": True})
        elif what == "connections":
            self.world.control(connections={"tls": self.chance.choice(CONNECTION_FAULTS), "seconds": self.chance.uniform(0.3, 1.5)})
        elif what == "kill":
            self.kill()
        elif what == "callback":
            self.callback(self.chance.choice(self.sessions))

    def go(self):
        world, chance = self.world, self.chance
        self.sessions = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(chance.choice((2, 4, 6)))]
        for session in self.sessions:
            self.callback(session)
            steps = [self.session_rule() for _ in range(chance.choice((1, 2, 4)))]
            world.control(sessions={session: {"steps": steps}})
        world.control(login={"steps": [self.login_rule() for _ in range(chance.choice((1, 2)))] + [{"note": "good: right"}]})
        with self.lock:
            self.worker = world.daemon()
        end = time.monotonic() + chance.uniform(1.5, 6)
        while time.monotonic() < end:
            self.pause(chance.uniform(0.1, 0.6))
            self.trouble_step()
        self.recover()
        self.stand_still()
        self.judge_calls()
        self.judge_logins()
        self.finish()

    def deadlines(self):
        """How many seconds of ours until everything that is stored now has come."""
        rows = self.world.database("SELECT max(coalesce(next_attempt_at, 0), coalesce(lease_until, 0)) FROM sessions WHERE state = 'pending'"
                                   " UNION ALL SELECT max(blocked_until, coalesce(lease_until, 0)) FROM logins")
        return max([0] + [row[0] / 1000 - self.world.fake(caller=self.world.caller) for row in rows]) / RATE

    def recover(self):
        """All is well, but for some sessions that never will be."""
        chance, forever = self.chance, {}
        while len(forever) < 1 and chance.random() < 0.4:
            rule = rule_of(chance, BODIES, 0.9)
            if not rule["note"].startswith("good") and rule.get("status") not in (429, 503):
                forever[chance.choice(self.sessions)] = rule
        good = [session for session in self.sessions if session not in forever]
        self.world.control(login={"note": "good: right"}, connections=None, sessions={
            **{session: {"note": "good: right", "rating": chance.choice(("high", "medium", "low"))} for session in good}, **forever})
        if self.never:
            self.no_login(good)
            return
        recovered = time.time()
        self.pause(0.3) # what is in flight sets its deadlines, or has been given up by then
        # A token got just before may be young and of no use; what was in flight fails once more.
        bound = self.deadlines() + (YOUNG_TOKEN + SETTINGS["retry_max"] * 9 / 8) / RATE + max(SETTINGS["retry_first"], RETRY_AFTER) + \
            2 * SETTINGS["request_timeout"] + SETTINGS["poll"] + SLACK
        rows = self.quiet(good, bound, well=good)
        late = [session for session in good if rows.get(session, {}).get("state") not in ("rated", "parked")]
        for session in late:
            self.trouble("%s: not noticed within %.1f s that Talview is well: %s" % (session, bound, rows.get(session)))
        self.late = time.time() - recovered
        rows = self.quiet(self.sessions, bound + self.patience(), well=good)
        self.settle()
        self.record = self.world.callers()
        self.judge_sessions(rows)
        if any(rows.get(session, {}).get("state") == "parked" for session in good):
            self.retry(good)

    @staticmethod
    def patience():
        """Seconds after which a session has ended, whatever is answered."""
        return SETTINGS["retry_first"] + (SETTINGS["failure_wait"] + 4 * SETTINGS["retry_max"]) / RATE + 6 * SETTINGS["request_timeout"]

    def no_login(self, good):
        """No login is ever answered well again, and no token that is there is of use: all ends nevertheless."""
        while True:
            rule = rule_of(self.chance, LOGIN_BODIES, 0.9)
            if rule["note"].startswith("bad") and rule.get("status") != 201: # which is taken for a login's 200
                break
        self.world.control(login=rule, forget_tokens=True)
        # One more, so that at least one has nothing but this to end with.
        self.sessions.append(str(uuid.UUID(int=self.chance.getrandbits(128), version=4)))
        self.callback(self.sessions[-1])
        good.append(self.sessions[-1])
        self.pause(0.3)
        # A young token is kept. Then each login may last until its time-out, and the pauses after it grow; one that
        # came late has its own time, and the time that a slow login takes is hardly counted: twice as long for that.
        failing = (SETTINGS["failure_wait"] + 4 * SETTINGS["login_pause"]) / RATE + \
            8 * (SETTINGS["request_timeout"] + SETTINGS["poll"])
        rows = self.quiet(self.sessions, self.deadlines() + (YOUNG_TOKEN + SETTINGS["lease"]) / RATE + 2 * failing + SLACK)
        self.settle()
        self.record = self.world.callers()
        self.judge_sessions(rows)
        self.gave_up = sum((row["error"] or "").startswith("login: ") for row in rows.values() if row["state"] == "parked")
        self.world.control(login={"note": "good: right"})
        self.settle()
        self.pause(0.3)
        # Whoever mends it restarts the worker, or waits for the pause to end.
        self.mended.append(time.time())
        self.world.database("UPDATE logins SET blocked_until = 1")
        self.retry(good)

    def settle(self):
        """A call is in the log only when the stand-in is done with it, which may be after the worker is."""
        worker_support.wait_for(lambda: self.world.state.active == 0, NEVER + SLACK)

    def stand_still(self):
        """All calls that were made, and at the same moment what is stored of them."""
        for _ in range(20):
            self.settle()
            with self.lock:
                process, caller = self.worker.process, self.world.caller
                if process.poll() is None:
                    process.send_signal(signal.SIGSTOP)
                    worker_support.wait_for(lambda: process_state(process.pid) in "TZX", 60, 0.01)
                try:
                    self.record = self.world.callers()
                    if self.world.state.active == 0:
                        if process.poll() is None:
                            self.left[caller] = self.world.left_by(caller)
                        return
                finally:
                    if process.poll() is None:
                        process.send_signal(signal.SIGCONT)
        self.trouble("there was always a call under way")

    def retry(self, good):
        for _ in range(4):
            began = time.time()
            if self.world.run("retry", "--parked").returncode:
                self.trouble("retry --parked failed")
            self.retried.append((began, time.time()))
            rows = self.quiet(good, 2 * YOUNG_TOKEN / RATE + 4 * SLACK, planned=True, well=good)
            # On a machine so busy that a good one has nothing but time-outs, whoever sees that does it again.
            if not any(row["state"] == "parked" and "timeout" in row["error"] for row in (rows.get(session) for session in good) if row):
                break
        for session in good:
            if rows.get(session, {}).get("state") != "rated":
                self.lost += 1
                self.trouble("%s: not rated after a retry: %s" % (session, rows.get(session)))
        # Those that stay bad were tried again as well: while they are called there is always a call under way.
        self.quiet(self.sessions, self.patience() + SLACK, well=good)

    def held_up(self, well, since):
        """Seconds that time-outs have cost where Talview is well: there are some on a machine so busy that a handshake takes
        seconds. No more than that: a worker that has nothing but time-outs is not waited for."""
        count = sum(when > since for caller in self.world.started
                    for when in self.world.logged(caller, 'msg="login failed".*error="?timeout'))
        count += max(sum(when > since for caller in self.world.started for when in self.world.logged(
            caller, session + '.*(error|reason)="?timeout')) for session in well)
        return min(count * (SETTINGS["request_timeout"] + SETTINGS["retry_max"] * 9 / 8 / RATE), 90)

    def quiet(self, sessions, seconds, planned=False, well=()):
        """Until they are all rated or parked, or the time is over. The rows. `planned`: though something may be planned for
        them. `well`: those that are answered well, and so is a login."""
        began, end = time.time(), time.monotonic() + seconds
        while True:
            self.watch()
            rows = {row[0]: dict(zip(("uuid", "state", "raw", "error", "attempts", "next"), row)) for row in self.world.database(
                "SELECT session_uuid, state, rating_raw, last_error, attempts, next_attempt_at FROM sessions")}
            open_ = [s for s in sessions if rows.get(s, {}).get("state") not in ("rated", "parked") or not planned and rows[s]["next"]]
            if not open_ or time.monotonic() > end + (self.held_up(well, began) if well else 0):
                return rows
            self.pause(0.2)

    # --- What is judged ---------------------------------------------------------------------------------

    def of(self, call):
        """The calls that the same process made for the same session, or to log in."""
        return [other for other in self.record if (other.get("caller"), other["path"]) == (call["caller"], call["path"])]

    def counted(self, session, caller):
        """How many attempts this process has stored."""
        return sum(sign * self.left[number].attempts.get(session, 0)
                   for sign, number in ((1, caller), (-1, caller - 1)) if number in self.left)

    def was_lost(self, call):
        """Whether the process that made this call was killed before it had stored what came of it. Then it was the last
        that it made there, and it had the lease still; it may have leased the session anew, but has stored nothing since."""
        left = self.left.get(call["caller"])
        if not left or self.of(call)[-1] is not call:
            return False
        session = session_of(call)
        if session == "login":
            return left.login
        stored = self.counted(session, call["caller"]) > 0 and left.looked[session] >= call["time"]
        return session in left.leased and not stored

    def came_late(self, call):
        """Whether the worker had given this call up when its reply came, which a busy machine can do."""
        if is_slow(call):
            return True
        calls = self.of(call)
        at = [other is call for other in calls].index(True)
        begin = calls[at - 1]["time"] if at else 0
        end = calls[at + 1]["time"] if at + 1 < len(calls) else time.time()
        about = 'msg="login failed"' if session_of(call) == "login" else session_of(call)
        given_up = self.world.logged(call["caller"], about + r'.*(error|reason)="?timeout')
        # The one before may have been given up as well.
        return sum(begin < when < end for when in given_up) > (at > 0 and is_slow(calls[at - 1]))

    def judge_sessions(self, rows):
        if set(rows) - set(self.sessions):
            self.trouble("sessions that nobody sent: %s" % (set(rows) - set(self.sessions)))
        calls = collections.defaultdict(list)
        for call in self.record:
            calls[session_of(call)].append(call)
        for session in self.sessions:
            row = rows.get(session, {"state": None})
            self.rated += row["state"] == "rated"
            self.parked += row["state"] == "parked"
            good = [call for call in calls[session] if kind_of(call) == "good"]
            if row["state"] in ("rated", "parked") and row["next"]:
                self.trouble("%s has ended, and something is planned: %s" % (session, row))
            if row["state"] == "parked":
                if not row["error"]:
                    self.trouble("parked without a reason: %s" % row)
                elif row["error"].startswith("login: ") and self.had_rating(calls[session]):
                    self.trouble("%s was rated, and a login that failed has parked it: %s" % (session, row))
            elif row["state"] != "rated":
                self.lost += 1
                self.trouble("%s ended neither rated nor parked: %s" % (session, row))
            elif not self.rating_fits(row, good):
                self.trouble("%s has %r, the good replies said %r" % (session, row["raw"], [c["said"] for c in good]))
        doubled = self.world.database("SELECT a.session, a.number FROM history a JOIN history b ON a.session = b.session AND b.number = a.number + 1"
                                      " AND a.rating_raw IS b.rating_raw AND a.status IS b.status AND a.rating IS b.rating")
        if doubled:
            self.trouble("the history has rows twice: %s" % doubled)

    def rating_fits(self, row, good):
        """The last good reply's; an earlier one's where that was lost by a kill, or came when the time was over."""
        said = [call["said"] for call in good]
        return bool(good) and row["raw"] in (said if self.was_lost(good[-1]) or self.came_late(good[-1]) else said[-1:])

    def had_rating(self, calls):
        """Whether the last usable reply that reached the store had one."""
        usable = [call for call in calls if kind_of(call) != "bad" and not self.was_lost(call)]
        return bool(usable) and kind_of(usable[-1]) == "good" and not self.came_late(usable[-1])

    def excess(self, text):
        self.too_many += 1
        self.trouble("too many calls: " + text)

    def judge_calls(self):
        calls = collections.defaultdict(list)
        for call in self.record:
            session = talview.UUID.match(call["path"])
            if session and call["method"] == "GET" and session.group(1) in self.sessions:
                calls[session.group(1)].append(call)
            elif (call["method"], call["path"]) != ("POST", "/v1/user/login") and call["method"] != "TLS":
                self.trouble("a call that nobody may make: %s" % call)
        for session, made in calls.items():
            groups = self.without_repeats(made)
            for caller in sorted({call["caller"] for call in made}):
                self.judge_attempts(session, caller, [group for group in groups if group[0]["caller"] == caller])
            self.judge_gaps(session, groups)
        self.judge_rest([call for made in calls.values() for call in made])

    def judge_attempts(self, session, caller, groups):
        """Each call that one process made is an attempt that it has stored, but for one that a kill has lost, and for
        the first of two with different tokens."""
        counted = self.counted(session, caller)
        refused = sum(group[-1]["status"] in (401, 403) for group in groups)
        lost = self.was_lost(groups[-1][-1])
        if len(groups) > counted + refused + lost:
            self.excess("%s: %d calls of process %d, %d attempts, %d refused, %d lost: %s" % (
                session, len(groups), caller, counted, refused, lost, self.told(groups)))

    def told(self, groups):
        return "; ".join("%.2f +%.2f %d %s" % (c["time"] - self.world.began, c["took"], c["status"], c["note"])
                         for group in groups for c in group)

    def without_repeats(self, made):
        """Groups of calls that are one for the worker: a kept connection that ends without an answer may have been old,
        and libcurl asks once more at once."""
        found = []
        for call in made:
            before = found[-1][-1] if found else None
            if before and before["caller"] == call["caller"] and "vanishes" in (before["note"] or "") and self.was_kept(before):
                found[-1].append(call)
            else:
                found.append([call])
        return found

    def was_kept(self, call):
        return any(other["connection"] == call["connection"] and other["time"] < call["time"] for other in self.record)

    def asked_for(self, session, groups, i):
        """Whether somebody asked for the call after the i-th: by a callback, or `retry`. One that comes while the session
        is leased makes it due again, and one before is served by that lease, which began behind the call before it, or
        behind the start of the process."""
        first, second = groups[i][-1], groups[i + 1][0]
        before = [group[-1]["time"] for group in groups[:i] if group[-1]["status"] not in (401, 403)]
        leased = max([self.world.started.get(first["caller"], 0)] + before)
        return any(end >= leased and begin <= second["time"] for begin, end in self.called[session] + self.retried)

    def gap(self, first, second):
        """Of our seconds, by the worker's clocks; from one process to the next they are known less well."""
        if first["caller"] == second["caller"]:
            return second["time"] - first["time"]
        fakes = [self.world.fake(call["time"], call["caller"]) for call in (first, second)]
        return (fakes[1] - fakes[0]) / self.world.rate + CLOCK_SLACK

    def judge_gaps(self, session, groups):
        streak, again = 0, None
        for i, (first, second) in enumerate((a[-1], b[0]) for a, b in zip(groups, groups[1:])):
            gap, late = self.gap(first, second), self.came_late(first)
            kind = "bad" if late else kind_of(first)
            if self.was_lost(first) or self.asked_for(session, groups, i):
                streak, again = 0, None
                continue
            refused = first["status"] in (401, 403)
            streak = streak if refused else streak + 1 if kind == "bad" and not late else 0
            least = SETTINGS["retry_first"] * 2 ** max(streak - 1, 0) if kind != "good" else SETTINGS["watch_every"]
            least = min(least, SETTINGS["retry_max"]) * 7 / 8 / RATE
            # Once more with another token; and a rating is asked for at the very end of the wait for it.
            once = "refused" if refused else "none" if kind == "none" else None
            if gap < 0.9 * least and once and again != once:
                again = once
                continue
            again = None
            if gap < 0.9 * least:
                self.excess("%s: %.2f s after %s (%d in a row), at least %.2f" % (session, gap, first["note"] or first["status"], streak, least))

    def known(self, told, end):
        """When the worker knew that it was to wait: on a busy machine it reads late, and what it began before was in flight."""
        times = self.world.logged(told["caller"], "asks us to slow down")
        return max(end, min((when for when in times if told["time"] <= when <= end + RETRY_AFTER), default=end))

    def judge_rest(self, calls):
        """Where it was told to wait, the whole account waits; what was in flight already may come."""
        for told in calls:
            wait = re.search("(429|503) with Retry-After", told["note"] or "")
            end = told["time"] + told["took"]
            # Of another reply the head may not have been taken: cut off, too long, too late.
            if not wait or told["status"] not in (429, 503) or not re.search(r"\bright\b", told["note"]) or \
                    not re.search("at once|soon", told["note"]) or self.came_late(told):
                continue
            # Another process goes by what is stored, in the clock that runs fast.
            rest = [c for c in calls if c["caller"] == told["caller"] and
                    self.known(told, end) + 0.4 < c["time"] < end + RETRY_AFTER - 0.3]
            if rest:
                self.excess("%.2f s after %s: %s" % (rest[0]["time"] - end, told["note"], rest[0]["path"]))

    def judge_logins(self):
        logins = [call for call in self.record if call["path"].endswith("/login")]
        refused = [call for call in self.record if call["status"] in (401, 403) and not call["path"].endswith("/login")]
        wrong = 0
        for first, second in zip(logins, logins[1:]):
            gap = self.gap(first, second)
            if self.was_lost(first) or any(first["time"] <= when <= second["time"] for when in self.mended):
                wrong = 0
                continue
            if kind_of(first) == "good":
                least = 0.95 * (YOUNG_TOKEN * 0.9) / RATE
                # One that was read too late for us is none.
                needed = self.came_late(first) or any(first["time"] <= c["time"] <= second["time"] for c in refused) \
                    or "expires_in 60" in first["note"]
                wrong = 0
            else:
                least, needed = 0.9 * SETTINGS["retry_first"] / RATE, True
                # A reply that is larger than the worker reads says nothing of the credentials.
                is_wrong = first["status"] in (400, 401, 403) and not self.came_late(first) and \
                    not re.search("100,000 deep|huge", first["note"]) and \
                    "bad" not in {k for n, _, k in TIMINGS if n in first["note"]}
                wrong = wrong + 1 if is_wrong else 0
                if is_wrong:
                    least = 0.9 * SETTINGS["login_pause"] * 2 ** (wrong - 1) / RATE
            if gap < least and not self.came_late(first) or not needed:
                self.excess("a login %.2f s after %s%s" % (gap, first["note"] or first["status"], "" if needed else ", for nothing"))

    def finish(self):
        for _ in range(3): # a kill that was ordered with an answer may come late
            self.watch()
            worker_support.wait_for(lambda: "is up" in self.worker.log(), SLACK) # before that, SIGTERM ends it at once
            status = self.worker.stop()[0]
            if status != -signal.SIGKILL:
                break
        if status:
            self.trouble("the worker ended with %d" % status)
        if self.world.database("PRAGMA integrity_check") != [("ok",)]:
            self.trouble("the store is damaged")
        if any("level=fatal" in daemon.log() for daemon in self.world.daemons):
            self.trouble("the log says what it must not")
        self.world.remains.end()
        self.search()

    def keep(self):
        """What was judged, beside the logs and the store."""
        with open(self.world.path("record.json"), "w", encoding="utf-8") as f:
            json.dump({"wrong": self.wrong, "began": self.world.began, "started": self.world.started, "lags": self.world.lags,
                       "kills": self.kills, "called": self.called, "retried": self.retried, "mended": self.mended,
                       "sessions": self.sessions, "calls": self.world.callers(),
                       "left": {caller: {**left._asdict(), "leased": sorted(left.leased)} for caller, left in self.left.items()}},
                      f, indent=1)


def one_run(seed, certificates):
    """In a process of its own, so that one run's stand-in does not wait for another's."""
    run = Run(seed, certificates)
    try:
        run.go()
    except Exception as error: # whatever it is, it must not pass for a good run
        run.trouble("broke: %r" % error)
    finally:
        if run.wrong:
            run.keep()
        run.world.close(keep=bool(run.wrong))
    if run.wrong:
        run.wrong[0] += " (kept: %s)" % run.world.folder
    return run.wrong, run.late, collections.Counter(
        kills=len(run.kills), sessions=len(run.sessions), rated=run.rated, parked=run.parked, lost=run.lost,
        too_many=run.too_many, gave_up=run.gave_up, calls=len(run.world.callers()), searches=run.searches,
        tokens=len(run.world.remains.tokens))


# --- The precise points --------------------------------------------------------------------------------------

CALLS = {"pwrite64": r"/ratings\.db", "fdatasync": r"ratings", "fsync": r"ratings", "sendto": r"TCP", "write": r"TCP|ratings",
         "recvfrom": r"TCP", "read": r"TCP"}


class Precise:
    def __init__(self, certificates):
        self.world = Judged(certificates, {"transfers": 2, "lease": 30}, rate=1)
        self.wrong, self.kills, self.too_many, self.rated, self.lost = [], 0, 0, 0, 0
        self.session = self.world.callback()
        shutil.copytree(self.world.path("store"), self.world.path("kept"))

    def once(self, trace="/dev/null", inject=None):
        """`work --once` under strace; its exit status."""
        calls = inject.split(":")[0] if inject else ",".join(CALLS)
        strace = ["strace", "-f", "-qq", "-yy", "-o", trace, "-e", "trace=" + calls]
        return subprocess.run(strace + (["-e", "inject=" + inject] if inject else []) + World.command(self.world, "work", "--once"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
                              env=worker_support.environment(), timeout=60).returncode

    def again(self):
        shutil.rmtree(self.world.path("store"))
        shutil.copytree(self.world.path("kept"), self.world.path("store"))
        self.world.control(reset=True, default={"note": "good: right", "rating": "medium"}, login={"note": "good: right"})

    def points(self):
        """(call, which of its kind) of a run that nothing happens to, in their order."""
        self.again()
        trace = self.world.path("trace")
        assert self.once(trace) == 0
        seen, found = collections.Counter(), []
        with open(trace, encoding="utf-8", errors="replace") as f:
            for line in f:
                call = re.match(r"\d+ +(\w+)\(", line)
                if call and call.group(1) in CALLS:
                    seen[call.group(1)] += 1
                    if re.search(CALLS[call.group(1)], line):
                        found.append((call.group(1), seen[call.group(1)]))
        assert len({call for call, _ in found}) >= 4, "the trace has only %s" % found
        return found

    def point(self, call, number):
        self.again()
        status = self.once(inject="%s:signal=KILL:when=%d" % (call, number))
        if status not in (-signal.SIGKILL, 128 + signal.SIGKILL, 0):
            self.wrong.append("%s %d: ended with %d" % (call, number, status))
        self.kills += status != 0
        before, leak = len(self.world.callers()), self.world.leaks()
        if leak:
            self.wrong.append("killed at %s %d: %s" % (call, number, leak))
        # The leases of the dead run out.
        self.world.began = time.time() - 60
        self.world.rate = 2
        done = self.world.run("work", "--once")
        self.world.rate = 1
        row = self.world.database("SELECT state, rating_raw, attempts FROM sessions")
        history = self.world.database("SELECT rating_raw FROM history")
        if row[:1] and row[0][:2] == ("rated", "medium") and row[0][2] == 1 and history == [("medium",)] and done.returncode == 0:
            self.rated += 1
        else:
            self.lost += 1
            self.wrong.append("killed at %s %d: then %s, history %s, %s" % (call, number, row, history, done.stderr[-300:]))
        gets = [c for c in self.world.callers() if c["method"] == "GET"]
        logins = [c for c in self.world.callers() if c["method"] == "POST"]
        if len(gets) > 2 or len(logins) > 2 or any(c["status"] != 200 for c in gets[1:]):
            self.too_many += 1
            self.wrong.append("killed at %s %d: %d logins, %d fetches, %d calls before" % (call, number, len(logins), len(gets), before))
        if self.world.database("PRAGMA integrity_check") != [("ok",)]:
            self.wrong.append("killed at %s %d: the store is damaged" % (call, number))


def precise(certificates, most, chance):
    one = Precise(certificates)
    tried = 0
    try:
        points = one.points()
        for call, number in points if most is None else sorted(chance.sample(points, min(most, len(points)))):
            one.point(call, number)
            tried += 1
    finally:
        one.world.close()
    print("precise points: %d of %d, %d kills" % (tried, len(points), one.kills), flush=True)
    return one, tried


# --- All of it -----------------------------------------------------------------------------------------------

def arguments():
    parser = argparse.ArgumentParser(description="The worker against a Talview that misbehaves in every way.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", default="")
    parser.add_argument("--points", default="all", help="how many of the precise points of a kill (all)")
    parser.add_argument("--at-once", dest="at_once", type=int, default=12)
    options = parser.parse_args()
    options.seed = options.seed or secrets.token_hex(4)
    return options


def main():
    options = arguments()
    if not os.path.exists(faketime.LIBRARY):
        sys.exit("not installed: libfaketime (make deps)")
    print("torture-worker: seed %s (SEED=%s makes the same choices again)" % (options.seed, options.seed), flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    let_cores_be_written()
    certificates = tempfile.mkdtemp(prefix="examhook-certificates-")
    wrong, sums, late = [], collections.Counter(), []
    try:
        talview.make_certificates(certificates)
        seeds = [options.seed] if options.runs == 1 else ["%s-%d" % (options.seed, i) for i in range(options.runs)]
        with concurrent.futures.ProcessPoolExecutor(options.at_once) as pool:
            for its_wrong, its_late, its_sums in pool.map(one_run, seeds, [certificates] * len(seeds)):
                wrong += its_wrong
                late += [its_late] if its_late else []
                sums.update(its_sums)
                if its_wrong:
                    print("\n".join(its_wrong[:4]), flush=True)
        most = None if options.points == "all" else int(options.points)
        if most != 0:
            one, tried = precise(certificates, most, random.Random(options.seed))
            wrong += one.wrong
            sums.update(kills=one.kills, sessions=tried, rated=one.rated, lost=one.lost, too_many=one.too_many)
            print("\n".join(one.wrong[:10]), end="\n" if one.wrong else "", flush=True)
    finally:
        shutil.rmtree(certificates, ignore_errors=True)
    print("searched for secrets %d times, %d tokens of Talview's among them" % (sums["searches"], sums["tokens"]))
    late.sort()
    print("%d sessions parked because no login ever went well" % sums["gave_up"])
    print("%d calls; all good sessions were done %.1f s after Talview was well again (median), %.1f s at most" % (
        sums["calls"], late[len(late) // 2] if late else 0, late[-1] if late else 0))
    print("torture-worker: %d runs, %d kills, %d sessions, %d rated, %d parked, %d lost, %d calls too many" % (
        options.runs, sums["kills"], sums["sessions"], sums["rated"], sums["parked"], sums["lost"], sums["too_many"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
