"""What deletes people's data, one by one or by age: `examhook respondent --erase`, and the retention that a program
does by itself. A fault or a kill at each call: nothing of anybody else is lost, each row is as before or as it shall
be, and once it is done no byte of it is in any file."""
import os
import time

from faults_commands import Commanded
from faults_place import UUID, Kind
from support import written_files

DAY_MS = 86400000
# Who goes, and who stays; numbers of events.
GOING, STAYING = 7, 8
WORKER = """
[worker]
connect_timeout = 1s
request_timeout = 1s
"""


class People(Commanded):
    """Where each of two has an event, a verification, a failed attempt, a callback and a session."""
    ROWS = (("examjoint", "SELECT id, event, exam_id, respondent_id, outcome, identity, deliveries, body FROM events"),
            ("examjoint", "SELECT exam, failures FROM attempts"),
            ("proview", "SELECT id, session_uuid, external_id, message, deliveries, body FROM callbacks"),
            ("ratings", "SELECT session, session_uuid, state, rating, claimed_external_id FROM sessions"),
            ("ratings", "SELECT session, number, rating FROM history"),
            ("roster", "SELECT id FROM lines"))

    def fill_all(self):
        with open(self.conf, encoding="utf-8") as f:
            text = f.read()
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write(text.replace("[fields]", WORKER + "[fields]").replace("[store]", "[store]\n" + self.STORE))
        super().fill_all()
        for number in (GOING, STAYING):
            for name, accepted in (("event", 200), ("quarantined", 422), ("wrong", 200), ("callback", 200)):
                assert self.cgi(self.kind(name, number), number)[0] == accepted
        self.examhook("work", "--once", "--budget", "5") # nobody answers there; the sessions are known then
        now = int(time.time() * 1000)
        self.change("ratings", "UPDATE sessions SET state = 'rated', rating = 'Low', looked_at = ?, rated_at = ?,"
                    " next_attempt_at = NULL, lease_until = NULL, renewed_due_at = NULL", now, now)
        self.change("ratings", "INSERT INTO history SELECT session, 1, ?, 'Low', 'Low', 'done' FROM sessions", now)

    def kind(self, name, number):
        """Of the one who is meant: by name, and by what was typed."""
        kind = Kind(name)
        plain = kind.event

        def event(of, size=100):
            made = plain(of, size)
            if name == "event":
                made["respondent_id"] = str(number)
            elif name == "quarantined":
                made["external_id"] = str(number)
            elif name == "wrong":
                made["fields"][0]["value"] = str(number)
            return made
        kind.event = event
        return kind

    def state(self):
        return frozenset((area, statement.rpartition(" ")[2]) + row for area, statement in self.ROWS
                         for row in self.select(area, statement))

    def holding(self):
        """In which files anything of the one who goes is left."""
        words = [word.encode() for word in (UUID % GOING, "n%d x" % GOING, "m%d" % GOING)]
        return sorted({os.path.relpath(path, self.store) for path, data in written_files(self.store)
                       for word in words if word in data})

    def learn(self):
        learnt = super().learn()
        old, new = learnt[1:]
        assert len({row[:2] for row in old - new}) >= self.TABLES, old - new
        assert {"n%d x" % STAYING in row[-1] for row in old & new if row[1] == "events" and row[-1]} >= {True}
        assert not self.holding(), self.holding()
        return learnt

    def said_done(self, done):
        return done.returncode == 0

    def judge_middle(self, done, old, new):
        if self.half_a_key():
            return "the key is not whole"
        broken, state = self.not_whole(), self.state()
        if broken:
            return str(broken)
        if (old & new) - state:
            return "lost of others: %r" % sorted((old & new) - state, key=repr)
        between = [row for row in state - old - new if not self.between(row)]
        if between:
            return "neither as before nor as they shall be: %r" % between
        if self.said_done(done) and (state != new or self.holding()):
            return "it said that it was done, and it is not: %r, %s" % (sorted(state ^ new, key=repr), self.holding())
        return None

    def between(self, row):
        return False

    def judge_end(self, done, new):
        wrong = super().judge_end(done, new)
        return wrong or (str(self.holding()) if self.holding() else None)


class Erased(People):
    STORE, TABLES = "", 6 # in each something of the person goes

    def arguments(self):
        return ["respondent", str(GOING), "--erase", "--yes"]

    def had_done(self, done):
        return "nothing is stored about that id" in done.stderr

    def between(self, row):
        """A session that is held, so that nobody asks for it meanwhile, says whose it is."""
        return row[1] == "sessions" and row[3] in (UUID % GOING,)


class Retained(People):
    STORE, TABLES = "retention = 30d", 4 # the roster and what is counted against guessing are nothing that came

    def fill_all(self):
        super().fill_all()
        old = int(time.time() * 1000) - 50 * DAY_MS
        for area, table, column in (("examjoint", "events", "exam_id"), ("proview", "callbacks", "external_id")):
            # In the order of arrival: what came before them is as old.
            last, = self.select(area, "SELECT max(id) FROM %s WHERE %s IN ('%d', 'e%d')" % (table, column, GOING, GOING))
            self.change(area, "UPDATE %s SET received_at = ?, last_received_at = ? WHERE id <= %d" % (table, *last), old, old)
        self.change("ratings", "UPDATE sessions SET looked_at = ? WHERE session_uuid = ?", old, UUID % GOING)
        self.pass_an_hour()

    def arguments(self):
        return ["work", "--once", "--budget", "20"]

    def pass_an_hour(self):
        for area, table in (("examjoint", "counters"), ("proview", "counters"), ("ratings", "meta")):
            self.change(area, "UPDATE %s SET value = value - 3600000 WHERE name = 'retention_swept'" % table)

    def next_run(self):
        self.pass_an_hour()
        return super().next_run()

    def said_done(self, done):
        """The worker's own part is well, whatever becomes of this; it says so when it is not all done."""
        return done.returncode == 0 and not done.stderr


COMMANDS = {"respondent --erase": Erased, "work with a retention": Retained}
