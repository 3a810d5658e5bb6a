"""One event to a program as a plain CGI process, which does the same calls each time: a fault at each of them. And
many such processes at once, of which some meet one."""
import json
import os
import random
import signal
import sqlite3
import threading

from faults_place import FIRST, NUMBER, WORDS, Kind, Place
from faulty import KILLS, POSSIBLE, Faulty, Tally, chosen, try_points

# Which events meet a fault, and how the store is before: "new" has nothing in it; "used" has rows and a write-ahead
# log; "checkpoint" has so large a log that the commit moves it into the file; "rollback" has a rollback journal, as on
# a network file system.
SERIES = [(kind, state) for kind in ("event", "callback") for state in ("new", "used", "checkpoint", "rollback")] + [
    (kind, state) for kind in ("unknown", "repeat", "quarantined", "right", "wrong", "throttled") for state in ("used", "rollback")]
THROTTLE = 3


class Trial(Place):
    def __init__(self, library, kind, state):
        super().__init__(library, THROTTLE)
        self.kind, self.before = Kind(kind), {}
        self.number = FIRST if kind == "repeat" else NUMBER
        self.fill()
        getattr(self, "make_" + state)()
        if kind == "throttled":
            for _ in range(THROTTLE):
                self.take(Kind("wrong"), NUMBER)
        self.keep()

    def take(self, kind, number, size=100):
        answer = self.cgi(kind, number, size)
        assert kind.accepts(*answer[:2]), answer
        self.before.setdefault(number, (kind, size, 0))
        self.before[number] = (kind, size, self.before[number][2] + 1)

    def plain(self):
        return Kind("callback" if self.kind.name == "callback" else "event")

    def make_new(self):
        pass

    def make_used(self):
        for number in range(FIRST, FIRST + 3):
            self.take(self.plain(), number)

    def make_rollback(self):
        connection = sqlite3.connect(self.database(self.kind.area))
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
        connection.close()
        self.make_used()

    def make_checkpoint(self):
        """So large a log that the next event is the one with which it is moved into the file."""
        number, log = 0, self.database(self.kind.area) + "-wal"
        while True:
            size, before = os.path.getsize(log), dict(self.before)
            self.keep()
            number += 1
            assert number < 1000
            self.take(self.plain(), number, 20000)
            # Seen by the file, not by the log: that one keeps its size.
            if self.moved():
                break
        assert size > 100000, "the log had only %d bytes" % size
        self.again()
        self.before = before

    def moved(self):
        kept = self.database(self.kind.area).replace(self.data, self.kept)
        with open(self.database(self.kind.area), "rb") as now, open(kept, "rb") as then:
            return now.read() != then.read()

    def calls(self):
        self.again()
        self.faulty.listen()
        answer = self.cgi(self.kind, self.number, faulty=self.faulty)
        assert self.kind.accepts(*answer[:2]), answer
        return self.faulty.heard()

    def judge_answer(self, answer, killed, call):
        """What is wrong with an answer that takes nothing; None when nothing is."""
        status, body, ended, log = answer
        if killed:
            return None if ended == -signal.SIGKILL else "was not killed: %d" % ended
        if ended < 0:
            return "ended by signal %d: %s" % (-ended, log[-300:])
        if status is None:
            return None if call == "say" else "no answer, exit status %d: %s" % (ended, log[-300:])
        if self.kind.accepts(status, body):
            return None
        word = json.loads(body).get("error")
        return None if status == 503 and word in WORDS else "answered %d %s" % (status, body)

    def judge_attempts(self, acks, sends):
        """A wrong attempt that was answered counts, and a right one is taken back; one that died may be either."""
        if not self.kind.verifies:
            return None
        count = self.attempts().get(self.number, 0)
        least, most = {"wrong": (acks, sends), "right": (0, sends - acks), "throttled": (THROTTLE, THROTTLE)}[self.kind.name]
        return None if least <= count <= most else "%d attempts count after %d of %d were answered" % (count, acks, sends)

    def try_point(self, tally, n, call, fault):
        """What is wrong, or None."""
        self.again()
        self.faulty.arm(n, fault)
        answer = self.cgi(self.kind, self.number, faulty=self.faulty)
        if not self.faulty.rest():
            return "the call was not made"
        tally.point(call, fault)
        wrong = tally.searched(fault, self.leaks()) or self.judge_answer(answer, fault in KILLS, call)
        acks, sends = int(self.kind.accepts(*answer[:2])), 1
        if not acks:
            self.can_be_read() # whoever only reads must be able to, whatever the killed one left
            again = self.cgi(self.kind, self.number)
            acks, sends = 1, 2
            if not self.kind.accepts(*again[:2]):
                return wrong or "sent again, without a fault: %r" % (again,)
        tally.accepted += 1
        return self.leaks() or self.judge_store(tally, acks, sends) or wrong

    def judge_store(self, tally, acks, sends):
        rows = self.rows(self.kind.area)
        trouble, wanted = self.judge_attempts(acks, sends), dict(self.before)
        mine = wanted.pop(self.number, (self.kind, 100, 0))
        own = rows[self.number]
        if self.kind.name == "throttled":
            own = [row for row in own if row["reason"] == "throttled"]
            mine = (self.kind, 100, 0)
        lost, doubled, other = self.kind.differs(self.number, 100, own, acks, sends, mine[2])
        for number, (kind, size, count) in wanted.items():
            missing, more, changed = kind.differs(number, size, rows[number], 0, 0, count)
            lost, doubled, other = lost or missing, doubled or more, other or changed
        tally.lost += lost
        tally.doubled += doubled
        broken = self.not_whole(self.kind.area)
        tally.broken += bool(broken)
        if lost or doubled or broken:
            return "lost %s, doubled %s, not whole %s: %s" % (lost, doubled, broken, own)
        return trouble or other or (None if set(rows) <= {*wanted, self.number} else "rows %s" % sorted(rows))


def try_series(library, kind, state, most):
    """(title, tally, note)"""
    trial, tally = Trial(library, kind, state), Tally()
    try:
        calls = trial.calls()
        points = chosen(calls, most)
        try_points(tally, points, trial.try_point)
    finally:
        trial.close()
    return "CGI, %s, %s" % (kind, state), tally, "%d of %d calls" % (len(points), len(calls))


class Sender(threading.Thread):
    """One after the other, each again until it is taken; half of the tries meet a fault."""

    def __init__(self, trial, library, numbers, seed):
        super().__init__()
        self.trial, self.numbers, self.chance = trial, numbers, random.Random(seed)
        self.faulty = Faulty(trial.folder, trial.data, library)
        self.calls, self.tally, self.sends = trial.heard, Tally(), {}

    def run(self):
        for number in self.numbers:
            taken = False
            self.sends[number] = 0
            while not taken and self.sends[number] < 30:
                fault, call = None, None
                if self.chance.random() < 0.5:
                    n = self.chance.randrange(len(self.calls)) + 1
                    call = self.calls[n - 1]
                    fault = self.chance.choice(POSSIBLE[call] or (None,))
                if fault:
                    self.faulty.arm(n, fault)
                answer = self.trial.cgi(self.trial.kind, number, faulty=self.faulty if fault else None)
                self.sends[number] += 1
                taken = self.trial.kind.accepts(*answer[:2])
                fired = fault and self.faulty.rest()
                if fired:
                    self.tally.point(call, fault)
                    leak = self.tally.searched(fault, self.trial.leaks())
                    self.tally.wrong += [leak] if leak else []
                # Beside the others a call may be another than it was alone: say may have gone wrong with any.
                wrong = None if answer[2] == -signal.SIGKILL and fault in KILLS else self.trial.judge_answer(
                    answer, False, "say" if fired else "")
                if wrong:
                    self.tally.wrong.append("%s, %s: %s" % (call, fault, wrong))
            if not taken:
                self.tally.wrong.append("%d was never taken" % number)


def try_many(library, kind, state, events, writers=4):
    """(title, tally, note)"""
    trial, tally = Trial(library, kind, state), Tally()
    try:
        trial.heard = trial.calls()
        trial.again()
        senders = [Sender(trial, library, range(10000 * (i + 1), 10000 * (i + 1) + events // writers), "%s %d" % (kind, i))
                   for i in range(writers)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        rows = trial.rows(trial.kind.area)
        for sender in senders:
            tally.merge(sender.tally)
            for number, sends in sender.sends.items():
                lost, doubled, other = trial.kind.differs(number, 100, rows[number], 1, sends)
                tally.accepted += 1
                tally.lost += lost
                tally.doubled += doubled
                if lost or doubled or other:
                    tally.wrong.append("%d: lost %s, doubled %s, %s" % (number, lost, doubled, other))
        if any(len(rows[number]) != 1 for number in trial.before):
            tally.wrong.append("what was there before is not")
        broken = trial.not_whole(trial.kind.area)
        tally.broken += bool(broken)
        tally.wrong += broken
        leak = trial.leaks()
        tally.wrong += [leak] if leak else []
    finally:
        trial.close()
    return "CGI, %d at once, %s, %s" % (writers, kind, state), tally, "%d events" % (events // writers * writers)
