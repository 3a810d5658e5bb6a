"""The long-running programs behind their sockets: a call goes wrong, and the same process must go on by itself."""
import json
import os
import signal
import socket
import sqlite3
import subprocess

from faults_place import WORDS, Kind, Place # this one also makes tests/e2e known
from fastcgi import Peer, post, request
from faulty import KILLS, POSSIBLE, WHOLE, WRITING, Tally, chosen
from support import BUILD, wait_for

KINDS = ("event", "callback", "unknown", "repeat", "quarantined", "right", "wrong", "throttled")
# How many calls in a row go wrong: what mends a connection meets the fault as well.
LENGTHS = (1, 25)
TRIES = 40
REFUSAL_SLOTS = 1024
ANSWER_SECONDS = 30
BIG = 50000
# With more pages than this in it the log is moved.
FRAME_BYTES, LOG_FRAMES = 4096 + 24, 1024


class Served(Place):
    def __init__(self, library, kind):
        super().__init__(library, 3 if kind == "throttled" else 500)
        self.kind, self.process, self.next, self.sent = Kind(kind), None, 1, {}
        self.socket = os.path.join(self.folder, "socket")
        self.log = os.path.join(self.folder, "log", "program.log")
        self.fill()
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(BUILD, self.kind.program + ".fcgi"), "--config", self.conf, "--socket", self.socket],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=self.environment(self.faulty))
        assert wait_for(self.listens, 30, 0.01), self.said()

    def listens(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.socket) == 0

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-600:]

    def says(self, word, since):
        """What is wrong: that the log does not have that word."""
        with open(self.log, encoding="utf-8", errors="replace") as f:
            f.seek(since)
            return None if word in f.read() else "the log does not say \"%s\"" % word

    def kill(self):
        self.process.kill()
        self.process.wait()

    def number(self):
        """Of the next event. A repeat is always of the first one."""
        self.next += 1
        return 1 if self.kind.name == "repeat" else self.next

    def ask(self, number, size=100, kind=None):
        """(status, body), or None without an answer."""
        kind = kind or self.kind
        body = json.dumps(kind.event(number, size)).encode()
        headers = {name.replace("-", "_"): value for name, value in self.secrets.headers()}
        if kind.name == "callback":
            values = post(body, "/webhooks/proview/main/" + self.token, **headers)
        else:
            values = post(body, x_client_id="faults-id", **headers)
        try:
            peer = Peer(self.socket, ANSWER_SECONDS)
            try:
                peer.send(request(values, body))
                status, _, text = peer.answer()
            finally:
                peer.close()
        except (EOFError, ConnectionError):
            return None
        except TimeoutError:
            return 0, b'{"error": "no answer within %d s"}' % ANSWER_SECONDS
        self.remains.look_at("the answer", text)
        return status, text

    def deliver(self, number, size=100, kind=None):
        """The answer, noted."""
        kind = kind or self.kind
        answer = self.ask(number, size, kind)
        note = self.sent.setdefault((kind.name, number), [kind, size, 0, 0])
        note[3] += 1
        note[2] += bool(answer and kind.accepts(*answer))
        return answer

    def accepted(self, answer):
        return bool(answer and self.kind.accepts(*answer))

    def make_throttled(self, number):
        if self.kind.name == "throttled":
            for _ in range(3):
                self.deliver(number, kind=Kind("wrong"))

    def judge_answer(self, answer, call):
        if answer is None:
            return None if call == "say" else "no answer: " + self.said()
        if self.accepted(answer):
            return None
        word = json.loads(answer[1]).get("error")
        return None if answer[0] == 503 and word in WORDS else "answered %d %s" % answer

    def calls(self, size=100):
        number = self.number()
        self.make_throttled(number)
        self.faulty.listen()
        assert self.accepted(self.deliver(number, size)), self.said()
        return self.faulty.heard()

    def finish(self, number, size, wrong):
        """Once the fault is over: this event and another one must be taken by the same process."""
        if self.process.poll() is not None:
            return wrong or "the program ended with %s: %s" % (self.process.returncode, self.said())
        answer = self.deliver(number, size)
        if not self.accepted(answer):
            return wrong or "the fault is over, and yet %r" % (answer,)
        self.next += 1
        other = self.deliver(self.next, kind=Kind("callback" if self.kind.name == "callback" else "event"))
        return wrong or (None if other and other[0] == 200 else "the next event: %r" % (other,))

    def try_point(self, tally, n, call, fault, length):
        number = self.number()
        self.make_throttled(number)
        self.faulty.arm(n, fault, length)
        wrong, answer, tries = None, None, 0
        while not self.accepted(answer) and tries < TRIES:
            answer, tries = self.deliver(number), tries + 1
            # Now and then one call fewer is made, and the fault meets the next, which may be that of the answer.
            wrong = wrong or self.judge_answer(answer, "say" if length > 1 or self.faulty.met() == "say" else call)
        if self.faulty.rest():
            tally.point(call, fault)
            wrong = tally.searched(fault, self.leaks()) or wrong
        return self.finish(number, 100, wrong)

    def try_persisting(self, tally, calls, fault):
        """Each such call goes wrong until it is over."""
        numbers = [self.number() for _ in range(3)]
        for number in numbers:
            self.make_throttled(number)
        wrong = None
        # A call that says EINTR for ever is none that anybody must bear.
        self.faulty.arm(1, fault, 200 if fault == "EINTR" else 1 << 40, calls)
        for number in numbers:
            wrong = wrong or self.judge_answer(self.deliver(number), calls[0])
        if self.faulty.rest():
            tally.point(calls[0], fault)
            wrong = tally.searched(fault, self.leaks()) or wrong
        for number in numbers:
            wrong = self.finish(number, 100, wrong)
        return wrong

    def fresh(self):
        self.kill()
        self.again()
        self.start()
        self.sent = {key: list(note) for key, note in self.kept_sent.items()}

    def keep_now(self):
        self.kill()
        self.keep()
        self.kept_sent = {key: list(note) for key, note in self.sent.items()}
        self.start()

    def try_fresh(self, tally, n, call, fault, size):
        """As a program just started, whose store is as it was kept; after a kill it is started again."""
        self.fresh()
        number = self.number()
        self.make_throttled(number)
        self.faulty.arm(n, fault)
        answer, wrong = self.deliver(number, size), None
        fired = self.faulty.rest()
        if fired:
            tally.point(call, fault)
        if fired and fault in KILLS:
            if self.process.wait() != -signal.SIGKILL:
                wrong = "ended with %s: %s" % (self.process.returncode, self.said())
            wrong = tally.searched(fault, self.leaks()) or wrong
            self.start()
        else:
            wrong = tally.searched(fault, self.leaks()) or wrong or self.judge_answer(answer, call)
        return self.finish(number, size, wrong) or self.judge_store(tally)

    def make_checkpoint(self):
        """So large a log that the next event is the one with which it is moved into the file."""
        log, plain = self.database(self.kind.area) + "-wal", Kind("callback" if self.kind.name == "callback" else "event")
        frames, growth = 0, 0
        while frames + growth <= LOG_FRAMES:
            assert self.deliver(self.number(), BIG, plain)[0] == 200
            now = os.path.getsize(log) // FRAME_BYTES
            frames, growth = now, now - frames
        self.keep_now()

    def slot_is_taken(self, number, rows):
        """Refusals are stored once a minute in each of so many slots: another one had this one's."""
        connection = sqlite3.connect(self.database("examjoint"), timeout=10)
        slots = {int(exam[1:]): (key[0] << 8 | key[1]) % REFUSAL_SLOTS for exam, key in
                 connection.execute("SELECT exam, key FROM attempts")}
        connection.close()
        return any(slots[other] == slots[number] and any(row["reason"] == "throttled" for row in rows[other])
                   for other in slots if other != number)

    def judge_store(self, tally):
        """Everything that was sent since the store was kept."""
        rows, wrong = self.rows(self.kind.area), None
        attempts = self.attempts() if self.kind.verifies else {}
        tally.accepted += len(self.sent)
        for (name, number), (kind, size, acks, sends) in self.sent.items():
            own = rows.get(number, [])
            if kind.verifies:
                own = [row for row in own if (row["reason"] == "throttled") == (name == "throttled")]
            if name == "throttled" and acks and not own and self.slot_is_taken(number, rows):
                continue
            lost, doubled, other = kind.differs(number, size, own, acks, sends)
            tally.lost += lost
            tally.doubled += doubled
            if lost or doubled or other:
                wrong = wrong or "lost %s, doubled %s, %s: %s %d, %d acknowledged of %d sent: %s" % (
                    lost, doubled, other, name, number, acks, sends, [{**row, "body": None} for row in own])
            count = attempts.get(number, 0)
            if name == "wrong" and not acks <= count <= sends or name == "right" and count > sends - acks:
                wrong = wrong or "%s %d: %d attempts count after %d of %d" % (name, number, count, acks, sends)
        if set(rows) - {number for _, number in self.sent}:
            wrong = wrong or "rows that were not sent: %s" % sorted(set(rows) - {number for _, number in self.sent})
        broken = self.not_whole(self.kind.area)
        tally.broken += bool(broken)
        wrong = self.leaks() or wrong
        return wrong or (str(broken) if broken else None)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        super().close()


def note(tally, wrong, *words):
    if wrong:
        tally.wrong.append("%s: %s" % (", ".join(map(str, words)), wrong))


def try_living(library, kind, most):
    """Every fault that a process outlives, all on the same process."""
    served, tally = Served(library, kind), Tally()
    try:
        served.calls()
        calls = served.calls()
        points, pid = chosen(calls, most), served.process.pid
        for n, call in points:
            for fault in POSSIBLE[call]:
                for length in LENGTHS if fault not in KILLS else ():
                    note(tally, served.try_point(tally, n, call, fault, length), fault, "call %d %s" % (n, call), length)
        # With the locks refused, each request waits for them as long as it may.
        for call in sorted(set(calls) - {"say"} - ({"lock", "flock"} if most == 1 else set())):
            for fault in set(POSSIBLE[call]) - set(KILLS):
                note(tally, served.try_persisting(tally, [call], fault), fault, "every %s" % call)
        for fault in ("EIO", "ENOSPC", "EMFILE"):
            note(tally, served.try_persisting(tally, ["write", "open", "look", "map", "truncate"], fault), fault, "every write and open")
        since = os.path.getsize(served.log)
        note(tally, served.try_persisting(tally, WRITING, "EROFS") or served.says("ead-only", since), "EROFS", "as if made read-only")
        note(tally, served.judge_store(tally), "at the end")
        if served.process.pid != pid or served.process.poll() is not None:
            note(tally, served.said(), "the program ended")
    finally:
        served.close()
    return "served, %s" % kind, tally, "%d of %d calls, once and %d times" % (len(points), len(calls), LENGTHS[1])


def try_killed(library, kind, most):
    """A kill right after each call; the program is started again on what it left."""
    served, tally = Served(library, kind), Tally()
    try:
        served.keep_now()
        calls = served.calls()
        points = chosen(calls, most)
        for n, call in points:
            for fault in set(POSSIBLE[call]) & set(KILLS):
                note(tally, served.try_fresh(tally, n, call, fault, 100), fault, "call %d %s" % (n, call))
    finally:
        served.close()
    return "served and killed, %s" % kind, tally, "%d of %d calls" % (len(points), len(calls))


def try_checkpoint(library, kind, most, share=WHOLE):
    """At the commit with which the write-ahead log is moved into the file."""
    served, tally = Served(library, kind), Tally()
    try:
        served.make_checkpoint()
        calls = served.calls(BIG)
        points = chosen(calls, most, share)
        for n, call in points:
            for fault in POSSIBLE[call]:
                note(tally, served.try_fresh(tally, n, call, fault, BIG), fault, "call %d %s" % (n, call))
    finally:
        served.close()
    return "served at a checkpoint, %s%s" % (kind, share), tally, "%d of %d calls" % (len(points), len(calls))
