#!/usr/bin/python3
"""One fault at each single call of the storage path in turn, by strace's injection.

    tests/torture/faults.py [--program examjoint|proview] [--state new|used|checkpoint|rollback] [--most N]

A program takes one event as a plain CGI process, which does the same calls each time. A first run without a fault lists
the calls that concern the store, and those that write the answer and the log. Then, for each of them, from the same
store again: EIO, ENOSPC, EINTR, a write of which nothing is taken ("short"), and a SIGKILL on entering it, which for
the call before is a kill right after. Where the answer was 2xx the event must be stored once, with its body, by one
delivery. Otherwise it is sent again without a fault, must get 200, and be stored once. What was stored before must be
there still, integrity_check must say ok, and a refusal must be one of the documented words.

The store's state: "new" has nothing in it; "used" has rows and a write-ahead log; "checkpoint" has so large a log that
the commit moves it into the file; "rollback" has a rollback journal, as on a network file system. The last line is

    faults: N points, N lost, N doubled, N broken

and the exit status 1 when anything is wrong.
"""
import argparse
import collections
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
from support import BUILD, LANGUAGES, environment  # noqa: E402

TOKEN = "faults-path-token-0123456789"
CONF = """
[store]
url = sqlite:%s/store
[verify]
languages = %s
[examjoint main]
client_id = faults-id
client_secret = faults-secret
[proview main]
path_token = %s
login_url = https://127.0.0.1:9/login
session_url = https://127.0.0.1:9/sessions
"""
WRITES = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "unlink", "openat", "fchown", "fchmod")
READS = ("pread64", "read", "fcntl", "flock", "close", "newfstatat", "mmap")
FAULTS = {**dict.fromkeys(WRITES, ("error=EIO", "error=ENOSPC", "error=EINTR")), "write": ("error=EIO", "error=EINTR", "retval=0"),
          "pwrite64": ("error=EIO", "error=ENOSPC", "error=EINTR", "retval=0"), "openat": ("error=EIO", "error=EMFILE", "error=EINTR"),
          "pread64": ("error=EIO",), "read": ("error=EIO",), "fcntl": ("error=EIO", "error=EINTR"), "flock": ("error=EIO", "error=EINTR"),
          "mmap": ("error=ENOMEM",), "close": (), "newfstatat": ("error=EIO",)}
WORDS = {"not_stored", "store_full", "not_configured", "unavailable"}
UUID = "018f2a4e-0000-7000-8000-%012d"


class Place:
    """A folder with the configuration, the store, and `kept`, the store from which each point begins."""

    def __init__(self, program, state):
        self.folder = tempfile.mkdtemp(prefix="examhook-faults-")
        self.program, self.area, self.file = program, *{
            "examjoint": ("examjoint", "events.db"), "proview": ("proview", "callbacks.db")}[program]
        self.conf = os.path.join(self.folder, "examhook.conf")
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write(CONF % (self.folder, LANGUAGES, TOKEN))
        self.store, self.kept = os.path.join(self.folder, "store"), os.path.join(self.folder, "kept")
        self.examhook("migrate")
        self.sent = {}
        getattr(self, "make_" + state)()
        shutil.copytree(self.store, self.kept)

    def database(self):
        return os.path.join(self.store, self.area, self.file)

    def make_new(self):
        pass

    def make_used(self):
        for number in range(3):
            assert self.send(number + 1)[0] == 200

    def make_checkpoint(self):
        """So large a log that the next event is the one with which it is moved into the file."""
        number, log = 0, self.database() + "-wal"
        while True:
            size, before = os.path.getsize(log), dict(self.sent)
            shutil.copytree(self.store, self.kept)
            number += 1
            assert number < 1000 and self.send(number, 20000)[0] == 200
            # Seen by the file, not by the log: that one keeps its size.
            if self.moved():
                break
            shutil.rmtree(self.kept)
        assert size > 100000, "the log had only %d bytes" % size
        shutil.rmtree(self.store)
        os.rename(self.kept, self.store)
        self.sent = before

    def moved(self):
        with open(self.database(), "rb") as now, open(os.path.join(self.kept, self.area, self.file), "rb") as then:
            return now.read() != then.read()

    def make_rollback(self):
        connection = sqlite3.connect(self.database())
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
        connection.close()
        self.make_used()

    def again(self):
        shutil.rmtree(self.store)
        shutil.copytree(self.kept, self.store)

    def examhook(self, *arguments):
        done = subprocess.run([os.path.join(BUILD, "examhook"), "--config", self.conf, *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=environment(), timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def event(self, number, size):
        if self.program == "proview":
            return {"session_uuid": UUID % number, "external_id": str(number), "message": "m%d" % number, "more": "x" * size}
        return {"event": "result_ready", "respondent_id": "r%d" % number, "exam_id": "e", "note": "n%d " % number + "x" * size}

    def send(self, number, size=100, trace=None, inject=None):
        """(status or None, body, exit status, log) of one request."""
        event = self.event(number, size)
        body = json.dumps(event).encode()
        more = {"EXAMHOOK_CONF": self.conf, "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST",
                "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "192.0.2.1", "SERVER_PROTOCOL": "HTTP/1.1",
                "PATH_INFO": "/webhooks/examjoint", "HTTP_X_CLIENT_ID": "faults-id", "HTTP_X_CLIENT_SECRET": "faults-secret"}
        if self.program == "proview":
            more["PATH_INFO"] = "/webhooks/proview/main/" + TOKEN
        calls = ",".join(WRITES + READS) if not inject else inject.split(":")[0]
        strace = ["strace", "-qq", "-y", "-o", trace or "/dev/null", "-e", "trace=" + calls] if trace or inject else []
        strace += ["-e", "inject=" + inject] if inject else []
        done = subprocess.run(strace + [os.path.join(BUILD, self.program + ".fcgi")], input=body, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**environment(), **more}, timeout=60, check=False)
        found = re.match(rb"Status: (\d+)[^\n]*\r?\n(?:.+\r?\n)*\r?\n(.*)", done.stdout, re.S)
        status = int(found.group(1)) if found else None
        if status == 200:
            self.sent[number] = event
        return status, found and found.group(2), done.returncode, done.stderr.decode("utf-8", "replace")

    def points(self):
        """(call, which one of its kind, its line) of a run without a fault, in their order."""
        trace = os.path.join(self.folder, "trace")
        assert self.send(9999, trace=trace)[0] == 200
        del self.sent[9999]
        seen, found = collections.Counter(), []
        with open(trace, encoding="utf-8", errors="replace") as f:
            for line in f:
                call = line.split("(")[0]
                seen[call] += 1
                if self.store + "/" in line or call == "write":
                    found.append((call, seen[call], line.strip()[:160].replace(self.folder, "")))
        return found

    def rows(self):
        found = collections.defaultdict(list)
        for row in map(json.loads, self.examhook("events", "--json").splitlines()):
            name = row["session_uuid"] or row["respondent_id"]
            found[int(name.lstrip("r").rsplit("-")[-1])].append(row)
        return found

    def integrity(self):
        connection = sqlite3.connect(self.database())
        try:
            return connection.execute("PRAGMA integrity_check").fetchone()[0]
        finally:
            connection.close()


class Tried:
    def __init__(self):
        self.points = self.lost = self.doubled = self.broken = self.refused = self.kept_though_refused = self.killed = 0
        self.wrong, self.words = [], collections.Counter()


def judge_answer(tried, answer, killed, call):
    """What is wrong with how it answered; None when nothing is."""
    status, body, ended, log = answer
    tried.killed += killed
    if killed:
        # Nothing, or all of it: it may have been answered before.
        return None if ended == -signal.SIGKILL else "was not killed: %d" % ended
    if ended < 0:
        return "ended by signal %d: %s" % (-ended, log[-300:])
    if status == 200:
        return None
    tried.refused += 1
    if status is None:
        return None if call == "write" else "no answer, exit status %d: %s" % (ended, log[-300:])
    word = json.loads(body).get("error")
    tried.words[word] += 1
    return None if status == 503 and word in WORDS else "answered %d %s" % (status, body)


def try_point(place, tried, call, n, fault):
    place.again()
    before = dict(place.sent)
    answer = place.send(9999, inject="%s:%s:when=%d" % (call, fault, n))
    status, accepted = answer[0], answer[0] == 200
    wrong = judge_answer(tried, answer, fault.startswith("signal"), call)
    tried.points += 1
    if not accepted:
        there = 9999 in place.rows() # whoever only reads must be able to, whatever the killed one left
        tried.kept_though_refused += there and status is not None
        second = place.send(9999)
        wrong = wrong or (None if second[0] == 200 else "sent again, without a fault: %r" % (second,))
    rows = place.rows()
    wanted = {1} if accepted else {1, 2}
    if not rows.get(9999):
        tried.lost += 1
        wrong = wrong or "it is not stored"
    elif len(rows[9999]) > 1 or rows[9999][0]["deliveries"] not in wanted:
        tried.doubled += 1
        wrong = wrong or "%d rows, %s deliveries" % (len(rows[9999]), rows[9999][0]["deliveries"])
    missing = [number for number, event in {**before, 9999: place.event(9999, 100)}.items()
               if not rows.get(number) or rows[number][0]["body"] != event]
    if missing or len(rows) != len(before) + 1:
        wrong = wrong or "lost or changed: %s, rows: %s" % (missing, sorted(rows))
    if place.integrity() != "ok":
        tried.broken += 1
        wrong = wrong or "integrity_check: " + place.integrity()
    place.sent = before
    return wrong


def chosen(points, most):
    """At most so many of one call: a checkpoint writes a thousand pages, all alike. Always the first and the last ones."""
    by_call = collections.defaultdict(list)
    for point in points:
        by_call[point[0]].append(point)
    keep = set()
    for those in by_call.values():
        step = max(1, len(those) // most + 1)
        keep.update(those[::step] + those[-min(8, most):] + those[:min(8, most)])
    return [point for point in points if point in keep]


def try_all(program, state, most):
    tried, place = Tried(), Place(program, state)
    try:
        points = place.points()
        picked = chosen(points, most)
        for call, n, line in picked:
            for fault in (*FAULTS[call], "signal=KILL"):
                try:
                    wrong = try_point(place, tried, call, n, fault)
                except AssertionError as failed:
                    wrong = str(failed)
                if wrong:
                    tried.wrong.append("%s %s, %s at %s: %s" % (program, state, fault, line, wrong))
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
    print("%s, %s: %d calls of the storage path, %d of them tried; %d points, %d of them kills; %d refusals (%s), %d of them stored all the same" % (
        program, state, len(points), len(picked), tried.points, tried.killed, tried.refused,
        ", ".join("%s %d" % pair for pair in sorted(tried.words.items(), key=str)), tried.kept_though_refused), flush=True)
    return tried


def main():
    parser = argparse.ArgumentParser(description="One fault at each call of the storage path in turn.")
    parser.add_argument("--program", choices=("examjoint", "proview"), action="append")
    parser.add_argument("--state", choices=("new", "used", "checkpoint", "rollback"), action="append")
    parser.add_argument("--most", type=int, default=40, help="about so many points of one call")
    options = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("faults: strace is not installed")
    signal.signal(signal.SIGTERM, signal.default_int_handler) # so that its folder goes
    total = Tried()
    for program in options.program or ("examjoint", "proview"):
        for state in options.state or ("new", "used", "checkpoint", "rollback"):
            tried = try_all(program, state, options.most)
            for name in ("points", "lost", "doubled", "broken"):
                setattr(total, name, getattr(total, name) + getattr(tried, name))
            total.wrong += tried.wrong
    for text in total.wrong[:20]:
        print(text)
    if len(total.wrong) > 20:
        print("... and %d more" % (len(total.wrong) - 20))
    print("faults: %d points, %d lost, %d doubled, %d broken" % (total.points, total.lost, total.doubled, total.broken))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
