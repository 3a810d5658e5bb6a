"""The operator's commands that write: a fault or a kill at each of their calls, and then a good run."""
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3

from faults_place import BCRYPT, Kind, Place, canary # this one also makes tests/e2e known
from faulty import KILLS, WHOLE, Tally, chosen, try_points

OLD, NEW = ("7", "8"), ("8", "9", "10")


class Commanded(Place):
    """A store with something of everything that a command changes."""

    def __init__(self, library, name):
        super().__init__(library)
        self.name, self.new = name, os.path.join(self.folder, "new.csv")
        self.backup, self.out = os.path.join(self.data, "backup"), os.path.join(self.data, "out", "part.conf")
        os.mkdir(os.path.join(self.data, "out"))
        # A part of the configuration, and while it is made the file that becomes it: never with the worker's secrets.
        self.remains.places.append((r"(^|/)out/[^/]*$", [
            value for (_, option), value in self.secrets.of.items() if option not in ("username", "password", "app_id")]))
        if name != "migrate":
            self.fill_all()
        self.keep()

    def fill_all(self):
        self.fill()
        with open(os.path.join(self.folder, "old.csv"), "w", encoding="utf-8") as f:
            f.write("id,password_hash\n" + "".join("%s,%s\n" % (one, BCRYPT) for one in OLD))
        with open(self.new, "w", encoding="utf-8") as f:
            # The last one's password is in plain text, and to be hashed.
            f.write("id,password_hash,password\n" + "".join("%s,%s,\n" % (one, BCRYPT) for one in NEW[:-1]) +
                    "%s,,%s\n" % (NEW[-1], self.secrets.add(canary())))
        self.examhook("roster", "import", "--replace", os.path.join(self.folder, "old.csv"))
        for name, number in (("event", 1), ("event", 2), ("callback", 3), ("wrong", 4), ("quarantined", 5)):
            assert self.cgi(Kind(name), number)[0] in (200, 422)
        self.examhook("config", "--for", "proview", "--output", self.out)
        if self.name == "replay":
            self.make_replayable()
        if self.name == "purge":
            for area, table in (("examjoint", "events"), ("proview", "callbacks")):
                self.change(area, "UPDATE %s SET received_at = 1, last_received_at = 1" % table)

    def make_replayable(self):
        """As when an earlier version did not know the event, whose body is whole."""
        body = json.dumps(Kind("event").stored(5)).replace('"respondent_id": "r5", ', '"respondent_id": "r55", ')
        self.change("examjoint", "UPDATE events SET body = ? WHERE quarantined = 1", body)
        row, = self.select("examjoint", "SELECT id FROM events WHERE quarantined = 1")
        self.quarantined = "e%d" % row[0]

    def change(self, area, statement, *values):
        connection = sqlite3.connect(self.database(area))
        with connection:
            connection.execute(statement, values)
        connection.close()

    def select(self, area, statement):
        connection = sqlite3.connect(self.database(area), timeout=10)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def arguments(self):
        return {"import": ["roster", "import", "--replace", self.new], "migrate": ["migrate"],
                "backup": ["backup", self.backup], "purge": ["purge", "--older-than", "1"], "unlock": ["unlock", "7"],
                "replay": ["replay", getattr(self, "quarantined", "")],
                "config": ["config", "--for", "examjoint", "--output", self.out]}[self.name]

    def state(self):
        """What the command is about, in a form that can be compared."""
        if self.name == "import":
            return tuple(sorted(row[0] for row in self.select("roster", "SELECT id FROM lines")))
        if self.name == "purge":
            return (len(self.select("examjoint", "SELECT id FROM events")), len(self.select("proview", "SELECT id FROM callbacks")))
        if self.name == "unlock":
            return sum(self.attempts().values())
        if self.name == "replay":
            return self.select("examjoint", "SELECT quarantined, respondent_id FROM events ORDER BY id")
        if self.name == "config":
            with open(self.out, encoding="utf-8") as f:
                return re.sub(r"(?m)^#.*\n", "", f.read())
        return None

    def next_run(self):
        """A good run of the same command; a backup is made where nothing is, as its manual says."""
        arguments = self.arguments()
        if self.name == "backup":
            arguments[-1] += "-2"
        return self.command(*arguments)

    @contextlib.contextmanager
    def aside(self):
        """To look at a copy: whoever closes a store's file last tidies it up, which is for the next run to do."""
        at = self.data, self.store, self.out, self.backup
        copy = os.path.join(self.folder, "looked")
        shutil.copytree(self.data, copy)
        try:
            self.data, self.store, self.out, self.backup = copy, *(path.replace(at[0], copy) for path in at[1:])
            yield
        finally:
            self.data, self.store, self.out, self.backup = at
            shutil.rmtree(copy)

    def half_a_key(self):
        key = os.path.join(self.store, "examjoint", "identity.key")
        return os.path.exists(key) and os.path.getsize(key) != 32

    def judge_middle(self, done, old, new):
        """Between the fault and the next run; nothing of a migration need be there yet."""
        code = done.returncode
        if self.half_a_key():
            return "the key is not whole"
        if self.name == "migrate":
            return code == 0 and (self.not_whole() or None)
        broken = self.not_whole()
        if broken:
            return str(broken)
        state = self.state()
        steps = self.name == "purge" # a transaction for each file
        if state not in (old, new) and not steps:
            return "neither the old nor the new: %r" % (state,)
        if code == 0 and state != new:
            return "it said that it was done, and it is not: %r" % (state,)
        if self.name == "backup" and code == 0:
            return self.judge_backup(self.backup)
        return None

    def judge_backup(self, folder):
        at = self.store
        self.store = folder
        try:
            return str(self.not_whole()) if self.not_whole() or len(self.select("examjoint", "SELECT id FROM events")) != 4 else None
        finally:
            self.store = at

    def had_done(self, done):
        """That the first run did it all is what the next one complains of."""
        return self.name == "replay" and "quarantine" in done.stderr

    def judge_end(self, done, new):
        if done.returncode != 0 and not self.had_done(done):
            return "the next run failed: %s" % done.stderr
        broken = self.not_whole()
        if broken or self.state() != new:
            return "after the next run: %s, %r" % (broken, self.state())
        if self.name == "backup":
            return self.judge_backup(self.backup + "-2")
        return None

    def learn(self):
        """(calls, state before, state after)"""
        self.again()
        with self.aside():
            old = self.state()
        self.faulty.listen()
        done = self.command(*self.arguments(), faulty=True)
        assert done.returncode == 0, done.stderr
        return self.faulty.heard(), old, self.state()

    def try_point(self, tally, n, call, fault, old, new):
        self.again()
        self.faulty.arm(n, fault)
        done, wrong = self.command(*self.arguments(), faulty=True), None
        if not self.faulty.rest():
            return "the call was not made"
        tally.point(call, fault)
        leak = tally.searched(fault, self.leaks(midway=True))
        if fault in KILLS:
            wrong = None if done.returncode == -signal.SIGKILL else "was not killed: %d" % done.returncode
        elif done.returncode < 0:
            wrong = "ended by signal %d" % -done.returncode
        elif done.returncode and not done.stderr:
            wrong = "failed without a word"
        with self.aside():
            middle = self.judge_middle(done, old, new)
        for judged in (middle, self.judge_end(self.next_run(), new)):
            if judged:
                tally.broken += 1
                wrong = wrong or judged
        tally.accepted += 1
        return leak or self.leaks() or wrong


COMMANDS = ("import", "migrate", "backup", "purge", "unlock", "replay", "config")


def try_command(library, name, most, share=WHOLE, of=Commanded):
    place, tally = of(library, name), Tally()
    try:
        calls, old, new = place.learn()
        assert name in ("migrate", "backup") or old != new, (old, new)
        points = chosen(calls, most, share)
        try_points(tally, points, lambda *point: place.try_point(*point, old, new))
    finally:
        place.close()
    return "examhook %s%s" % (name, share), tally, "%d of %d calls" % (len(points), len(calls))
