"""Fills a store made by `examhook migrate` with many events, callbacks, sessions and their histories, as months of
exams would leave them, straight into its tables. Whatever is random is so by the seed: the same every time.

What a request of one of these events must look like is told by admission(): sent again, it is a repeat."""
import hashlib
import os
import random
import sqlite3
import struct

ACCOUNTS = ("main", "north", "south", "east", "west")
SITTINGS_AN_EXAM = 1200
MONTHS_MS = 18 * 30 * 86400 * 1000
# Of each sitting: verifications (1 or 2), admission, result, and for nine of ten the end of the investigation.
EVENTS_A_SITTING = 4.05


def respondent(number):
    """An id with nothing of time or order in it: the worst for an index."""
    return "r-" + hashlib.blake2b(b"respondent %d" % number, digest_size=10).hexdigest()


def candidate(number):
    return "c-%07d" % number


class Sitting:
    """One candidate at one exam; `first_ms` is when the first exam of the store began."""

    def __init__(self, number, first_ms, exam_gap_ms, candidates):
        exam = number // SITTINGS_AN_EXAM
        self.number, self.account = number, ACCOUNTS[exam % len(ACCOUNTS)]
        self.exam_id = "exam-%06d" % exam
        self.respondent = respondent(number)
        self.identity = candidate(hash_of(number) % candidates)
        self.admitted_ms = int(first_ms + exam * exam_gap_ms + number % SITTINGS_AN_EXAM * 500)


def hash_of(number):
    return (number * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 20


def admission(sitting):
    """The body of its admission, as it was received."""
    return ('{"event":"admitted_respondent","respondent_id":"%s","exam_id":"%s","admittedOn":%d}'
            % (sitting.respondent, sitting.exam_id, sitting.admitted_ms))


def _part(data):
    return struct.pack("<Q", len(data)) + data


def event_key(account, event, respondent_id, exam_id, admitted_ms):
    """As common/event.c's event_key() has it; that it is so is seen when a repeat is known for one."""
    admitted = b"" if admitted_ms is None else struct.pack("<q", admitted_ms)
    return hashlib.sha256(b"".join(map(_part, (b"known", account.encode(), event.encode(), respondent_id.encode(),
                                               exam_id.encode(), admitted)))).digest()


def _events_of(sitting, chance):
    """Rows of `events` but for the id, with the time first."""
    s, at = sitting, sitting.admitted_ms
    for _ in range(2 if chance.random() < 0.2 else 1):
        wrong = chance.random() < 0.1
        when = at - chance.randrange(10000, 300000)
        yield (when, s.account, "verify_respondent", s.exam_id, None, None, "invalid" if wrong else "valid",
               "unknown" if wrong else "valid", s.identity, "0,1", 0, 1, when, None, None)
    yield _known(s, "admitted_respondent", at + 300, at, chance, admission(s))
    for event, later in (("result_ready", 90), ("investigation_complete", 2000)):
        if event == "result_ready" or chance.random() < 0.9:
            body = '{"event":"%s","respondent_id":"%s","exam_id":"%s"}' % (event, s.respondent, s.exam_id)
            yield _known(s, event, at + later * 60000 + chance.randrange(600000), None, chance, body)


def _known(s, event, when, admitted_ms, chance, body):
    deliveries = 2 if chance.random() < 0.02 else 1
    return (when, s.account, event, s.exam_id, s.respondent, admitted_ms, None, None, None, None, 0, deliveries,
            when + (deliveries - 1) * 60000, event_key(s.account, event, s.respondent, s.exam_id, admitted_ms), body)


def _quarantined(sitting, chance):
    when = sitting.admitted_ms + 400
    body = '{"event":"admitted_respondent","exam_id":"%s","admittedOn":"soon"}' % sitting.exam_id
    return (when, sitting.account, "admitted_respondent", sitting.exam_id, None, None, "quarantined",
            "missing_member:respondent_id", None, None, 1, 1, when, chance.randbytes(32), body)


def rows_of(exams, chance, pending):
    """In the order of arrival, as far as the exams given go; `pending` are rows that come later."""
    for sittings in exams:
        for sitting in sittings:
            pending.extend(_events_of(sitting, chance))
            if sitting.number % 1500 == 7:
                pending.append(_quarantined(sitting, chance))
        pending.sort(key=lambda row: row[0])
        # Later exams begin later, but their candidates are verified some minutes before.
        until = sittings[-1].admitted_ms - SITTINGS_AN_EXAM * 500 - 600000
        count = next((i for i, row in enumerate(pending) if row[0] > until), len(pending))
        yield pending[:count]
        del pending[:count]
    yield pending


EVENT_COLUMNS = ("received_at, account, event, exam_id, respondent_id, admitted_on, outcome, reason, identity,"
                 " positions, quarantined, deliveries, last_received_at, key, body")


class Store:
    """Months up to now."""

    def __init__(self, folder, events, candidates, now_ms, say=lambda text: None):
        self.folder, self.events, self.say = folder, events, say
        self.candidates = max(1, candidates)
        self.sittings = max(SITTINGS_AN_EXAM, int(events / EVENTS_A_SITTING))
        self.exams = -(-self.sittings // SITTINGS_AN_EXAM)
        # What comes two days after the last exam is past too.
        self.gap_ms = (MONTHS_MS - 3 * 86400000) / self.exams
        self.first_ms = now_ms - MONTHS_MS

    def sitting(self, number):
        return Sitting(number, self.first_ms, self.gap_ms, self.candidates)

    def _exams(self):
        for exam in range(self.exams):
            yield [self.sitting(n) for n in range(exam * SITTINGS_AN_EXAM, (exam + 1) * SITTINGS_AN_EXAM)]

    def fill(self):
        self._fill_events()
        self._fill_callbacks()
        self._fill_sessions()

    def _fill_events(self):
        chance = random.Random(1)
        with _Bulk(self.folder, "examjoint/events.db", ("events", "deliveries")) as db:
            done = 0
            for rows in rows_of(self._exams(), chance, []):
                rows = rows[:self.events - done]
                db.executemany("INSERT INTO events(%s) VALUES(%s)" % (EVENT_COLUMNS, ",".join("?" * 15)), rows)
                before, done = done, done + len(rows)
                if done // 1000000 > before // 1000000:
                    self.say("    %d events" % done)
            db.execute("INSERT INTO deliveries(event_id, number, received_at) SELECT id, deliveries, last_received_at"
                       " FROM events WHERE deliveries > 1")

    def _fill_callbacks(self):
        """One of ten sittings was proctored."""
        chance = random.Random(2)
        with _Bulk(self.folder, "proview/callbacks.db", ("callbacks",)) as db:
            db.executemany("INSERT INTO callbacks(seq, received_at, account, session_uuid, message, external_id, sender,"
                           " flags, last_received_at, body) VALUES(?,?,?,?,?,?,?,?,?,?)",
                           (_callback(seq, self.sitting(seq * 10), chance)
                            for seq in range(1, self.sittings // 10 + 1)))
            db.execute("UPDATE counters SET value = ? WHERE name = 'seq'", (self.sittings // 10,))

    def _fill_sessions(self):
        chance = random.Random(3)
        with _Bulk(self.folder, "ratings/ratings.db", ("sessions", "history")) as db:
            many = range(1, self.sittings // 10 + 1)
            db.executemany("INSERT INTO sessions(session, account, session_uuid, external_id, state, rating, rating_raw,"
                           " status, type, attempts, first_seen_at, waits_from, looked_at, rated_at, reply, sender,"
                           " unknown) VALUES(?,?,?,?,'rated',?,?,'completed','live',2,?,?,?,?,?,'main',0)",
                           (_session(n, self.sitting(n * 10), chance) for n in many))
            db.executemany("INSERT INTO history VALUES(?,?,?,?,?,'completed')",
                           ((n, k, self.sitting(n * 10).admitted_ms + k * 9000000, word, word)
                            for n in many for k, word in enumerate(("Medium", "High")[:1 + n % 2], 1)))
            # The worker has taken in every callback.
            db.execute("INSERT OR REPLACE INTO meta(name, value) VALUES('callbacks_seq', ?)", (len(many),))


def session_uuid(number):
    text = hashlib.blake2b(b"session %d" % number, digest_size=16).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _callback(seq, s, chance):
    when = s.admitted_ms + 7200000 + chance.randrange(600000)
    uuid = session_uuid(seq)
    body = '{"session_uuid":"%s","message":"session_completed","external_id":"%s"}' % (uuid, s.respondent)
    return seq, when, "proctor", uuid, "session_completed", s.respondent, "main", None, when, body


def _session(n, s, chance):
    rating = chance.choice(("High", "Medium", "Low"))
    begun = s.admitted_ms + 7200000
    reply = ('{"uuid":"%s","external_id":"%s","proctor_rating":"%s","status":"completed","type":"live","notes":"%s"}'
             % (session_uuid(n), s.respondent, rating, "looked away " * chance.randrange(1, 12)))
    return (n, "proctor", session_uuid(n), s.respondent, rating, rating, begun, begun, begun + 60000, begun + 60000, reply)


class _Bulk:
    """One file filled without its indexes, which are built at the end: in minutes rather than hours."""

    def __init__(self, folder, name, tables):
        self.path, self.tables = os.path.join(folder, name), tables

    def __enter__(self):
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=DELETE")
        self.db.executescript("PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA cache_size=-65536;"
                              "PRAGMA temp_store=FILE; PRAGMA locking_mode=EXCLUSIVE; BEGIN;")
        self.indexes = self.db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN (%s)"
            % ",".join("?" * len(self.tables)), self.tables).fetchall()
        for name, _ in self.indexes:
            self.db.execute("DROP INDEX " + name)
        return self.db

    def __exit__(self, kind, value, trace):
        if kind is None:
            for _, sql in self.indexes:
                self.db.execute(sql)
            self.db.execute("COMMIT")
            # As examhook leaves it.
            self.db.execute("PRAGMA locking_mode=NORMAL")
            self.db.execute("PRAGMA journal_mode=WAL")
        self.db.close()
        if kind is None:
            fd = os.open(self.path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def check(folder):
    """What SQLite finds wrong in the three files; nothing: they are whole."""
    found = []
    for name in ("examjoint/events.db", "proview/callbacks.db", "ratings/ratings.db"):
        with sqlite3.connect("file:%s?mode=ro" % os.path.join(folder, name), uri=True) as db:
            says = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
        db.close()
        found += ["%s: %s" % (name, text) for text in says if text != "ok"]
    return found


def room_needed(events, candidates):
    """Bytes of disk that a run takes at the most: the store, its log, and a copy of an index while it is sorted."""
    return 200_000_000 + 700 * events + 2000 * candidates
