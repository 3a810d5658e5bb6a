#!/usr/bin/python3
"""Bulk work beside load: what do events notice of an import, an export, a backup, a purge, a reader?

    tests/torture/bulk.py [--stored 200000] [--candidates 200000] [--rate 50] [--only NAME,...] [--tries 1] [--list]

The real nginx with the shipped files over TLS, both programs, and a store that is filled first. Events come at a
steady rate over kept connections: admissions, results, callbacks and verifications with a right password. The rate is
open: an event's time counts from the instant it was due, so that one that waits makes the next ones late as well. One
kind of bulk work after the other runs beside it, each between two quiet spells, in a session of its own as an
operator's would be. An event's delay is its time less what such an event takes when it is quiet (the median). Every
single event counts, in each try.

A busy machine is no fault of ours, so an independent probe (machine.py) looks at the same disk and at the scheduler all
the time. The instants at which it stood still as well, 50 ms or more, are left out of a delay; an event that is within
the limit only by that is excluded, and counted. But bulk work may be what makes the disk stand still. So a kind with
excluded events is tried again, five times in all. Where it comes again, and not as often in the quiet spells, it is
ours, and nothing is left out.

A line each: seconds, events, refused, p50, p99 and the longest time in ms as the client sees them, the longest that a
program itself says of one request, the longest of the quiet spells; how long the machine stood still in quiet and
beside the work; the worst delay with that and without; the events excluded. At the end all that was acknowledged must
be stored. The last line is

    torture-bulk: N kinds, N events, N refused, N lost, worst delay N ms (NAME), N excluded

and the exit status 1 when one was refused or lost, when the bulk work itself failed, or when a delay is over the limit.
"""
import argparse
import collections
import contextlib
import fcntl
import gc
import http.client
import itertools
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import ssl
import statistics
import subprocess
import sys
import threading
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
import support  # noqa: E402
from machine import Machine, shared  # noqa: E402
from accounts import BCRYPT  # noqa: E402
from support import Site, environment, wait_for  # noqa: E402

TOKEN = "bulk-path-token-0123456789"
DAY_MS = 24 * 3600 * 1000
OLD_DAYS, PURGE_DAYS = 40, 30
TRIES = 5 # of a kind with an event that was late while the machine stood still
QUIET_MOST = 4 # the quiet behind long work lasts so many times as long as the one before it
LATE_MOST = 20 # seconds: with that it is given up
FIRST = 50 # candidates who sit an exam while all this happens
CONF = """
[examjoint main]
client_id = bulk-id
client_secret = bulk-secret

[proview main]
path_token = %s

[throttle]
failures = 500

[fields]
0 = id
1 = password
""" % TOKEN
EXAMJOINT = ("/webhooks/examjoint", {"x-client-id": "bulk-id", "x-client-secret": "bulk-secret"})
PROVIEW = ("/webhooks/proview/main/" + TOKEN, {})


# --- The events that come ---------------------------------------------------------------------------------------

class Event:
    """One numbered event; `took` in ms from the instant it was due to its answer."""

    def __init__(self, number, due):
        self.number, self.due, self.took, self.fine = number, due, None, False
        self.kind = ("admitted", "callback", "admitted", "result", "verify")[number % 5]
        self.path, self.headers = PROVIEW if self.kind == "callback" else EXAMJOINT
        self.who = "bulk-%d" % number
        if self.kind == "verify":
            sent = {"event": "verify_respondent", "exam_id": self.who, "choosenLang": "en",
                    "fields": [{"position": 0, "value": "c%d" % (number % FIRST)}, {"position": 1, "value": "horse bcrypt"}]}
        elif self.kind == "callback":
            self.who = str(uuid.UUID(int=number, version=4))
            sent = {"session_uuid": self.who, "external_id": str(number), "message": "Session Has Been Terminated"}
        elif self.kind == "result":
            sent = {"event": "result_ready", "respondent_id": self.who, "exam_id": "exam-1"}
        else:
            sent = {"event": "admitted_respondent", "respondent_id": self.who, "exam_id": "exam-1",
                    "admittedOn": 1719221380326 + number, "note": "n" * 200}
        self.body = json.dumps(sent).encode()

    def judge(self, status, body):
        """A candidate who is told to wait or to go home is refused, whatever the status is."""
        self.fine = status == 200 and not (self.kind == "verify" and b"errorMessage" in body)

    @staticmethod
    def key(row):
        """What the row of an event is known by; the same as its `who`."""
        return row["exam_id"] if row["event"] == "verify_respondent" else row["session_uuid"] or row["respondent_id"]


class Sender(threading.Thread):
    """One kept connection; sends each event when it is due, or as soon as it can."""

    def __init__(self, load):
        super().__init__(daemon=True)
        self.load, self.connection = load, None

    def run(self):
        with contextlib.suppress(OSError): # a privilege; without it the figures hold our own waiting too
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)
        while True:
            event = self.load.next()
            time.sleep(max(0, event.due - time.monotonic()))
            if self.load.stop.is_set():
                break
            self.load.sent.append(event)
            event.judge(*self.post(event))
            event.took = (time.monotonic() - event.due) * 1000
        if self.connection:
            self.connection.close()

    def post(self, event):
        try:
            if not self.connection:
                self.connection = http.client.HTTPSConnection("127.0.0.1", self.load.site.port, timeout=60,
                                                              context=self.load.site.tls)
            self.connection.request("POST", event.path, event.body, event.headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, ssl.SSLError, http.client.HTTPException) as error:
            self.connection = None
            return None, repr(error).encode()


class Load:
    """All the events, at `rate` a second over some connections."""

    def __init__(self, site, rate, connections):
        self.site, self.rate, self.stop, self.sent = site, rate, threading.Event(), collections.deque()
        self.lock, self.numbers, self.begun = threading.Lock(), itertools.count(), time.monotonic() + 0.1
        self.senders = [Sender(self) for _ in range(connections)]
        for sender in self.senders:
            sender.start()

    def next(self):
        with self.lock:
            number = next(self.numbers)
            return Event(number, self.begun + number / self.rate)

    def between(self, begin, end):
        """The events that were due then, all answered; also those that are so late that they are not sent yet."""
        # They are sent in their order, but for what the connections have in hand.
        due = math.ceil((end - self.begun) * self.rate) + len(self.senders)
        if not wait_for(lambda: len(self.sent) >= due, LATE_MOST, 0.01):
            raise AssertionError("the events are more than %d s late: are they too many for this machine?" % LATE_MOST)
        some = [event for event in list(self.sent) if begin <= event.due < end]
        wait_for(lambda: all(event.took is not None for event in some), 90, 0.01)
        return [event for event in some if event.took is not None]

    def end(self):
        self.stop.set()
        for sender in self.senders:
            sender.join(90)


def share(times, part):
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * part))] if times else 0.0


# --- A store with a past ----------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(site, area, name):
    """A file of the store as its own writer has it: under the lock beside it, and with no log left behind."""
    with open(site.path("store", area, name + ".lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        db = sqlite3.connect(site.path("store", area, name + ".db"), isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()


def fill(site, count):
    """So many events, half of them old; a tenth as many callbacks, and as many sessions."""
    now = int(time.time() * 1000) - 60000
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
    text = '{"event":"admitted_respondent","respondent_id":"old-%d","note":"' + "n" * 300 + '"}'
    with locked(site, "examjoint", "events") as db:
        db.execute(numbers % max(count, 1) + "INSERT INTO events(received_at, account, event, exam_id, respondent_id,"
                   " admitted_on, last_received_at, key, body) SELECT ?1 + i, 'main', 'admitted_respondent',"
                   " 'exam-' || (i % 9), 'old-' || i, i, ?1 + i, randomblob(32), printf(?2, i) FROM n", (now - count, text))
        db.execute("UPDATE events SET received_at = received_at - ?1, last_received_at = received_at - ?1 WHERE id <= ?2",
                   (OLD_DAYS * DAY_MS, count // 2))
    tenth = max(count // 10, 1)
    with locked(site, "proview", "callbacks") as db:
        db.execute(numbers % tenth + "INSERT INTO callbacks(seq, received_at, account, session_uuid, message, external_id,"
                   " sender, last_received_at, body) SELECT i, ?1 + i, 'main', lower(hex(randomblob(16))), 'x',"
                   " 'old-' || i, '127.0.0.1', ?1 + i, '{}' FROM n", (now - tenth,))
        db.execute("UPDATE counters SET value = ?1 WHERE name = 'seq'", (tenth,))
    with locked(site, "ratings", "ratings") as db:
        db.execute(numbers % tenth + "INSERT INTO sessions(account, session_uuid, external_id, state, rating, rating_raw,"
                   " attempts, first_seen_at, waits_from, looked_at, rated_at, sender, unknown)"
                   " SELECT 'main', lower(hex(randomblob(16))), 'old-' || i, 'rated', 'low', 'low', 1, ?1 + i, ?1 + i,"
                   " ?1 + i, ?1 + i, '127.0.0.1', 0 FROM n", (now - tenth,))


def age(site, stored):
    """Half of what is left of the store's past grows old, for the next purge."""
    with locked(site, "examjoint", "events") as db:
        db.execute("UPDATE events SET received_at = received_at - ?1, last_received_at = received_at - ?1 WHERE id IN"
                   " (SELECT id FROM events WHERE id <= ?2 ORDER BY id LIMIT"
                   " (SELECT (count(*) + 1) / 2 FROM events WHERE id <= ?2))", (OLD_DAYS * DAY_MS, stored))


def write_roster(path, prefix, count, password=None, exam=""):
    with open(path, "w", encoding="utf-8") as f:
        f.write("id,email,name,%s,exam,room\n" % ("password" if password else "password_hash"))
        for i in range(count):
            f.write("%s%d,%s%d@example.org,Candidate %d,%s,%s,R%d\n" % (
                prefix, i, prefix, i, i, "%s %d" % (password, i) if password else BCRYPT, exam, i % 100))
    return path


# --- The bulk work ----------------------------------------------------------------------------------------------

class Work:
    """The kinds; each returns when it is done. `trouble`: what of it failed."""

    def __init__(self, site, options):
        self.site, self.options, self.trouble, self.note, self.started = site, options, [], "", []

    def start(self, *arguments, out=subprocess.DEVNULL):
        """In a session of its own: the scheduler shares the processors among sessions, not only among processes."""
        self.started.append(subprocess.Popen(
            [os.path.join(support.BUILD, "examhook"), "--config", self.site.conf_path, *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, env=environment(), start_new_session=True))
        return self.started[-1]

    def kill(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()

    def run(self, *arguments, name=None):
        """The command once; its output goes to a file, as an operator's would."""
        with open(self.site.path(name) if name else os.devnull, "wb") as out:
            process = self.start(*arguments, out=out)
            said = process.communicate()[1].decode(errors="replace")
        if process.returncode:
            self.trouble.append("%s: %d %s" % (" ".join(arguments), process.returncode, said[-500:]))

    def tidy(self):
        """Files that grew are removed while nothing is measured: that is no work of ours, and it keeps a disk busy."""
        shutil.rmtree(self.site.path("backup"), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.site.path("out"))

    def repeat(self, *arguments):
        end = time.monotonic() + self.options.least
        while time.monotonic() < end:
            self.run(*arguments)

    def log_mib(self):
        return os.path.getsize(self.site.path("store/examjoint/events.db-wal")) / 2**20

    def do_import(self):
        self.run("roster", "import", self.site.path("all.csv"))

    def do_import_passwords(self):
        self.run("roster", "import", self.site.path("passwords.csv"))

    def do_replace_exam(self):
        self.run("roster", "import", self.site.path("exam.csv"), "--replace", "--exam", "exam-2")

    def do_roster_list(self):
        self.run("roster", "list", "--json", name="out")

    def do_export_json(self):
        self.run("export", "--format", "json", name="out")

    def do_export_csv(self):
        self.run("export", "--format", "csv", name="out")

    def do_backup(self):
        self.run("backup", self.site.path("backup"))

    def do_purge(self):
        self.run("purge", "--older-than", str(PURGE_DAYS))

    def before_purge(self):
        age(self.site, self.options.stored)

    def do_events(self):
        self.run("events", name="out")

    def do_sessions(self):
        self.repeat("sessions", "--json")

    def do_respondent(self):
        self.repeat("respondent", "old-%d" % (self.options.stored - 1))

    def do_check(self):
        self.repeat("check")

    def do_check_full(self):
        self.run("check", "--full")

    def do_follow(self):
        """Three that read all and go on; a fourth into a pipe that nobody empties."""
        readers = [self.start("events", "--follow", "--json") for _ in range(3)]
        readers.append(self.start("events", "--follow", "--json", out=subprocess.PIPE))
        time.sleep(2 * self.options.least)
        self.end(readers)

    def do_follow_stopped(self):
        """Stopped in the middle of reading, at several places of it; it may hold an old picture of the file."""
        readers = []
        for i in range(6):
            readers.append(self.start("events", "--follow", "--json"))
            time.sleep(0.02 + 0.017 * i)
            readers[-1].send_signal(signal.SIGSTOP)
        time.sleep(2 * self.options.least)
        self.note = "log %.1f MiB" % self.log_mib()
        for reader in readers:
            reader.send_signal(signal.SIGCONT)
        self.end(readers)
        time.sleep(self.options.least)

    def end(self, readers):
        for reader in readers:
            if reader.poll() is not None:
                self.trouble.append("events --follow ended by itself: %s" % reader.stderr.read()[-500:])
                continue
            reader.terminate()
            if reader.stdout:
                reader.stdout.close()
            reader.wait()
            reader.stderr.close()

    def do_long_reader(self):
        """Somebody's shell with an open transaction: the log cannot begin anew. Then it goes, and what was held up
        is written into the file."""
        db = sqlite3.connect("file:%s?mode=ro" % self.site.path("store/examjoint/events.db"), uri=True,
                             isolation_level=None)
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM (SELECT 1 FROM events LIMIT 1)").fetchone()
        time.sleep(self.options.reader)
        self.note = "log %.1f MiB" % self.log_mib()
        db.execute("COMMIT")
        db.close()
        time.sleep(self.options.least)


KINDS = collections.OrderedDict([
    ("import", "import of all candidates, with hashes"), ("import_passwords", "import of passwords to be hashed"),
    ("replace_exam", "import --replace --exam"), ("roster_list", "roster list --json"), ("export_json", "export, JSON"),
    ("export_csv", "export, CSV"), ("backup", "backup"), ("purge", "purge of half of the events"), ("events", "events"),
    ("sessions", "sessions --json"), ("respondent", "respondent"), ("check", "check"), ("check_full", "check --full"),
    ("follow", "events --follow, four of them"), ("follow_stopped", "events --follow, stopped while reading"),
    ("long_reader", "a reader's long transaction")])


# --- Measuring --------------------------------------------------------------------------------------------------

class Measure:
    """What the events of one stretch of time noticed."""

    def __init__(self, events, program_ms, stalls=()):
        self.events, self.stalls = events, list(stalls)
        self.stalled_ms = 1000 * sum(end - begin for begin, end in self.stalls)
        times = [event.took for event in events]
        self.count, self.refused = len(events), sum(not event.fine for event in events)
        self.p50, self.p99, self.longest = share(times, 0.5), share(times, 0.99), max(times, default=0.0)
        self.program_ms = program_ms


class Programs:
    """What the programs' logs say of the time they took."""

    def __init__(self, site):
        self.paths = [site.parts[name].log_path for name in ("examjoint", "proview")]
        self.at = [0, 0]
        self.longest()

    def longest(self):
        """Of the requests answered since the last call."""
        most = 0
        for i, path in enumerate(self.paths):
            with open(path, encoding="utf-8", errors="replace") as log:
                log.seek(self.at[i])
                text = log.read()
                self.at[i] = log.tell()
            most = max([most, *map(int, re.findall(r"msg=\"?request\"? .*\bms=(\d+)", text))])
        return most


def normal(events):
    """What an event of each kind takes when nothing else goes on."""
    times = collections.defaultdict(list)
    for event in events:
        times[event.kind].append(event.took)
    return {kind: statistics.median(some) for kind, some in times.items()}


class Try:
    """What one try says: the worst delay of its events, with and without the time the machine stood still."""

    def __init__(self, events, usual, stalls, quiet_stalls, limit):
        gross = [max(0.0, event.took - usual.get(event.kind, 0.0)) for event in events]
        net = [max(0.0, late - 1000 * shared(stalls, event.due, event.due + event.took / 1000))
               for event, late in zip(events, gross)]
        self.gross, self.net = max(gross, default=0.0), max(net, default=0.0)
        self.excluded = sum(less <= limit < late for late, less in zip(gross, net))
        self.quiet_stalled = any((end - begin) * 1000 > limit for begin, end in quiet_stalls)


def ours(tries):
    """The machine stood still beside the work again and again, and in the quiet spells not half as often."""
    beside, quiet = sum(one.excluded > 0 for one in tries), sum(one.quiet_stalled for one in tries)
    return beside >= 2 and beside > 2 * quiet


def judged(tries):
    """(the worst delay that counts, how many events are excluded from it)"""
    if ours(tries):
        return max(one.gross for one in tries), 0
    return max(one.net for one in tries), sum(one.excluded for one in tries)


class Bench:
    def __init__(self, site, load, machine, options):
        self.load, self.machine, self.options, self.work = load, machine, options, Work(site, options)
        self.programs = Programs(site)

    def measured(self, what):
        """What the events noticed while what() ran, and a little longer: what it began may end later."""
        self.programs.longest()
        begin = time.monotonic()
        what()
        time.sleep(min(0.5, self.options.quiet))
        end = time.monotonic()
        events = self.load.between(begin, end)
        last = max([end, *(event.due + event.took / 1000 for event in events)])
        return Measure(events, self.programs.longest(), self.machine.stalls(begin, last))

    def once(self, name):
        prepare = getattr(self.work, "before_" + name, None)
        if prepare:
            prepare()
        time.sleep(0.5)
        before = self.measured(lambda: time.sleep(self.options.quiet))
        begin = time.monotonic()
        busy = self.measured(getattr(self.work, "do_" + name))
        took = time.monotonic() - begin
        after = self.measured(lambda: time.sleep(min(took, QUIET_MOST * self.options.quiet)))
        one = Try(busy.events, normal(before.events + after.events), busy.stalls, before.stalls + after.stalls,
                  self.options.limit)
        print("%-40s %6.1f %7d %7d %7.1f %7.1f %8.1f %8d %8.1f %6d %6d %8.1f %8.1f %5d  %s" % (
            KINDS[name], took, busy.count, busy.refused, busy.p50, busy.p99, busy.longest, busy.program_ms,
            max(before.longest, after.longest), before.stalled_ms + after.stalled_ms, busy.stalled_ms, one.gross,
            one.net, one.excluded, self.work.note), flush=True)
        self.work.note = ""
        self.work.tidy()
        return one

    def kind(self, name):
        """(the worst delay, the events excluded) of all its tries."""
        tries = []
        while len(tries) < self.options.tries or (
                len(tries) < TRIES and any(one.excluded for one in tries) and not ours(tries)):
            tries.append(self.once(name))
        delay, excluded = judged(tries)
        if len(tries) > 1:
            print("%-40s %d tries, the worst delay %.1f, %d excluded%s" % (
                "", len(tries), delay, excluded,
                "; the machine stood still beside this work again: it counts" if ours(tries) else ""), flush=True)
        return delay, excluded


def lost(events, rows):
    """Of the acknowledged events those that are not stored just once."""
    stored = collections.Counter(Event.key(row) for row in rows)
    return [event for event in events if event.fine and stored[event.who] != 1]


def torture(site, options):
    """Returns (events, refused, lost, {name: (delay, excluded)}, trouble)."""
    write_roster(site.path("all.csv"), "c", options.candidates)
    write_roster(site.path("exam.csv"), "e", options.candidates // 10, exam="exam-2")
    write_roster(site.path("passwords.csv"), "p", options.passwords, password="a secret word")
    site.start()
    fill(site, options.stored)
    gc.freeze()
    machine, load = Machine(site.folder), Load(site, options.rate, options.connections)
    time.sleep(1)
    bench, delays = Bench(site, load, machine, options), {}
    print("%-40s %6s %7s %7s %7s %7s %8s %8s %8s %6s %6s %8s %8s %5s" % (
        "beside", "s", "events", "refused", "p50", "p99", "longest", "program", "quiet", "still", "beside", "delay",
        "without", "excl."), flush=True)
    try:
        for name in options.only:
            delays[name] = bench.kind(name)
    finally:
        bench.work.kill()
        machine.close()
    print("the probe looked %d times; it stood still %d times, %.0f ms at most" % (
        machine.seen, len(machine.stalled), 1000 * max((b - a for a, b in machine.stalled), default=0.0)), flush=True)
    load.end()
    trouble, events = bench.work.trouble, list(load.sent)
    unanswered = sum(event.took is None for event in events)
    if unanswered:
        trouble.append("%d events have no answer" % unanswered)
    missing = lost(events, site.rows("events", "--json", "--since", "1h"))
    done = site.examhook("check", "--full")
    if done.returncode:
        trouble.append("examhook check --full: %s%s" % (done.stdout, done.stderr))
    return events, sum(not event.fine for event in events), len(missing), delays, trouble


def arguments():
    parser = argparse.ArgumentParser(description="Bulk work beside load: what events notice of it.")
    parser.add_argument("--stored", type=int, default=200000, help="events that are there already")
    parser.add_argument("--candidates", type=int, default=200000)
    parser.add_argument("--passwords", type=int, default=2000, help="that an import has to hash")
    parser.add_argument("--rate", type=float, default=50.0, help="events a second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--quiet", type=float, default=5.0, help="seconds of quiet before each kind")
    parser.add_argument("--least", type=float, default=5.0, help="seconds that short work is repeated for")
    parser.add_argument("--reader", type=float, default=20.0, help="seconds that the long reader reads")
    parser.add_argument("--tries", type=int, default=1, help="of each kind")
    parser.add_argument("--limit", type=float, default=100.0, help="ms that an event may be delayed by")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with a comma between")
    parser.add_argument("--list", action="store_true", help="the names of the kinds")
    options = parser.parse_args()
    options.only = options.only.split(",")
    wrong = [name for name in options.only if name not in KINDS]
    if wrong:
        parser.error("no such kind: " + ", ".join(wrong))
    if options.candidates < FIRST:
        parser.error("at least %d candidates" % FIRST)
    return options


def main():
    options = arguments()
    if options.list:
        for name, text in KINDS.items():
            print("%-18s %s" % (name, text))
        return 0
    first = "id,password_hash\n" + "".join("c%d,%s\n" % (i, BCRYPT) for i in range(FIRST))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    site = Site(CONF, [("main", first)])
    try:
        events, refused, missing, delays, trouble = torture(site, options)
    except BaseException:
        for part in site.parts.values():
            part.process.kill()
        raise
    try:
        site.close()
    except AssertionError as error:
        trouble.append(str(error))
    for text in trouble[:20]:
        print(text)
    worst = max(delays, key=delays.get)
    print("torture-bulk: %d kinds, %d events, %d refused, %d lost, worst delay %.0f ms (%s), %d excluded" % (
        len(delays), len(events), refused, missing, delays[worst][0], KINDS[worst],
        sum(excluded for _, excluded in delays.values())))
    return 1 if refused or missing or trouble or delays[worst][0] > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
