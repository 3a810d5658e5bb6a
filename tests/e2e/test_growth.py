"""A store of 100,000 events, as months of exams leave it: listings hold a page of it, not the whole, and their first
line is there long before the last row was read. What it costs is measured by `make bench-growth`."""
import collections
import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

import hardening
from support import BUILD, LANGUAGES, TOP, WRAP, environment

sys.path.insert(0, os.path.join(TOP, "tests", "bench", "growth"))
import seed  # noqa: E402

NOW_MS = 1764000000000
MANY, FEW = 100000, 1000
LONG, SHORT = 30000, 100
# Ids that far apart: of as many parts as a store of three million events.
SPREAD, APART = 30000, 100
ONE = "somebody"
LISTINGS = {"events": ["events"], "events-json": ["events", "--json"], "export": ["export"],
            "export-csv": ["export", "--format", "csv"], "sessions": ["sessions"], "sessions-json": ["sessions", "--json"],
            "sessions-csv": ["export", "--format", "csv", "--what", "sessions"]}


# As examhook made them once: an id by the day of its receipt, and before that by itself.
OLDER = {"by day": ("received_at / 86400000, respondent_id", "received_at / 86400000, identity"),
         "by itself": ("respondent_id", "identity")}


class Filled:
    def __init__(self, folder, events):
        self.store = os.path.join(folder, "store")
        self.conf = os.path.join(folder, "examhook.conf")
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write("[store]\nurl = sqlite:%s\n[verify]\nlanguages = %s\n[examjoint main]\nclient_id = a\n"
                    "client_secret = b-0123456789abcdef\n[fields]\n0 = id\n" % (self.store, LANGUAGES))
        subprocess.run(self.command("migrate"), check=True, stdout=subprocess.DEVNULL, env=environment())
        self.seed = seed.Store(self.store, events, 1000, NOW_MS)
        self.seed.fill()

    def command(self, *words):
        return [*WRAP, os.path.join(BUILD, "examhook"), "--config", self.conf, *words]

    def start(self, *words, into=subprocess.PIPE):
        return subprocess.Popen(self.command(*words), stdout=into, stdin=subprocess.DEVNULL, env=environment())

    def bytes(self, below=""):
        folder = os.path.join(self.store, below)
        return sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(folder)
                   for name in names if name.endswith(".db"))

    def add_story(self, events):
        """So many admissions of one person, every hundredth of them sent twice; the repeats came at the very end, and
        a callback at the time of the middle ones."""
        first = NOW_MS + 1000000
        body = '{"event":"admitted_respondent","note":"%s"}' % ("x" * 100)
        with sqlite3.connect(os.path.join(self.store, "examjoint/events.db")) as db:
            begin = db.execute("SELECT max(id) FROM events").fetchone()[0] + 1
            db.executemany("INSERT INTO events(id, received_at, account, event, exam_id, respondent_id, admitted_on,"
                           " quarantined, deliveries, last_received_at, key, body)"
                           " VALUES(?, ?, 'main', 'admitted_respondent', ?, ?, ?, 0, ?, ?, ?, ?)",
                           ((begin + n, first + n // 3, "exam-%d" % n, ONE, first + n, 1 + (n % 100 == 0), first + n // 3,
                             b"story %d" % n, body) for n in range(events)))
            db.execute("INSERT INTO deliveries(event_id, number, received_at) SELECT id, 2, ? FROM events"
                       " WHERE deliveries > 1 AND respondent_id = ?", (first + events, ONE))
        db.close()
        self.add_callback(ONE, first + events // 6)

    def spread(self):
        """The same events with ids that are far apart, as of a store of many more."""
        with sqlite3.connect(os.path.join(self.store, "examjoint/events.db")) as db:
            for column, table in (("id", "events"), ("event_id", "deliveries")):
                db.execute("UPDATE %s SET %s = -%s * ?" % (table, column, column), (APART,))
                db.execute("UPDATE %s SET %s = -%s" % (table, column, column))
            db.execute("UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM events) WHERE name = 'events'")
        db.close()

    def add_callback(self, person, at_ms):
        with sqlite3.connect(os.path.join(self.store, "proview/callbacks.db")) as db:
            db.execute("INSERT INTO callbacks(seq, received_at, account, session_uuid, message, external_id,"
                       " last_received_at, body) SELECT max(seq) + 1, ?, 'proctor', 'a-session', 'over', ?, ?, '{}'"
                       " FROM callbacks", (at_ms, person, at_ms))
        db.close()


@pytest.fixture(scope="module", name="many")
def many_events(tmp_path_factory):
    return Filled(str(tmp_path_factory.mktemp("many")), MANY)


@pytest.fixture(scope="module", name="few")
def few_events(tmp_path_factory):
    return Filled(str(tmp_path_factory.mktemp("few")), FEW)


def storied(folder, events):
    filled = Filled(folder, FEW)
    filled.add_story(events)
    return filled


@pytest.fixture(scope="module", name="spread")
def spread_events(tmp_path_factory):
    """With what three people's stories were before."""
    filled = Filled(str(tmp_path_factory.mktemp("spread")), SPREAD)
    filled.people = [filled.seed.sitting(filled.seed.sittings // 100 * part * 10 + 10).respondent for part in (0, 5, 9)]
    filled.before = [without_ids(said(filled, "respondent", person, "--json")) for person in filled.people]
    filled.spread()
    return filled


@pytest.fixture(scope="module", name="long")
def long_story(tmp_path_factory):
    return storied(str(tmp_path_factory.mktemp("long")), LONG)


@pytest.fixture(scope="module", name="short")
def short_story(tmp_path_factory):
    return storied(str(tmp_path_factory.mktemp("short")), SHORT)


def of_process(pid, file, name):
    with open("/proc/%d/%s" % (pid, file), encoding="ascii", errors="replace") as f:
        return int(re.search(r"^%s:\s+(\d+)" % name, f.read(), re.M).group(1))


def whole(filled, *words):
    """How many lines it printed, and the most memory it had, in KiB, seen up to its last output: a short pipe, so that
    it is still there when that is read."""
    ours, its = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096) # before anything lies in it
    process, lines, peak = filled.start(*words, into=its), 0, 0
    os.close(its)
    while True:
        data = os.read(ours, 4096)
        if not data:
            break
        lines += data.count(b"\n")
        try:
            peak = max(peak, of_process(process.pid, "status", "VmHWM"))
        except (OSError, AttributeError):
            pass # it ended: what it had is known from the output before
    os.close(ours)
    assert process.wait() == 0
    return lines, peak


def test_what_was_seeded_is_whole(many):
    assert seed.check(many.store) == []


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_holds_a_page_and_not_the_whole(many, few, name):
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("what valgrind or a sanitizer holds says nothing")
    lines, peak = whole(many, *LISTINGS[name])
    few_lines, few_peak = whole(few, *LISTINGS[name])
    if "sessions" not in name:
        assert lines > MANY and few_lines > FEW
    assert lines > 10 * few_lines and few_peak > 1024
    # The caches of SQLite fill up: 2 MiB for each file.
    assert peak < few_peak + 8 * 1024, "%d KiB for %d lines, %d KiB for %d" % (peak, lines, few_peak, few_lines)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_long_story_holds_a_page_and_not_the_whole(long, short, options):
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("what valgrind or a sanitizer holds says nothing")
    lines, peak = whole(long, "respondent", ONE, *options)
    few_lines, few_peak = whole(short, "respondent", ONE, *options)
    more = 1 if options else 2 # the callback, and a table's titles
    assert (lines, few_lines) == (LONG + LONG // 100 + more, SHORT + SHORT // 100 + more) and few_peak > 1024
    # The repeats of the page and of those before, which came at the very end, wait for their time.
    assert peak < few_peak + 8 * 1024, "%d KiB for %d lines, %d KiB for %d" % (peak, lines, few_peak, few_lines)


def test_a_long_story_is_told_in_order(long):
    lines = [json.loads(line) for line in said(long, "respondent", ONE, "--json").splitlines()]
    # Behind the three admissions of the same millisecond.
    assert lines.pop(LONG // 6 * 3 + 3)["session_uuid"] == "a-session"
    events, repeats = lines[:LONG], lines[LONG:]
    assert [line["exam_id"] for line in events] == ["exam-%d" % n for n in range(LONG)]
    assert [line["kind"] for line in repeats] == ["delivery"] * (LONG // 100)
    assert [line["id"] for line in repeats] == [line["id"] for line in events[::100]]


def read_at_the_first_line(filled, *words):
    """What it had read by then, or soon after: it stands still behind a full pipe."""
    process = filled.start(*words)
    try:
        assert process.stdout.readline()
        read = of_process(process.pid, "io", "rchar")
        assert process.poll() is None
        return read
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("name", ["events", "events-json", "export", "export-csv"])
def test_the_first_line_is_there_long_before_the_last_row_is_read(many, name):
    assert read_at_the_first_line(many, *LISTINGS[name]) < many.bytes() // 4


@pytest.mark.parametrize("name", ["sessions", "sessions-json", "sessions-csv"])
def test_the_first_session_is_there_long_before_the_last_one_is_read(many, name):
    """A page of them is a fifth of what is here."""
    assert read_at_the_first_line(many, *LISTINGS[name]) < many.bytes("ratings") // 2


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_story_begins_long_before_its_last_event_is_read(long, options):
    assert read_at_the_first_line(long, "respondent", ONE, *options) < long.bytes() // 4


def read_before_the_first_line(filled, *words):
    """Bytes of the store, and all that it read of it until it ended; what it had others read ahead does not count."""
    seen = os.path.join(os.path.dirname(filled.conf), "calls")
    subprocess.run(["strace", "-qq", "-e", "trace=pread64,write", "-o", seen, *filled.command(*words)],
                   stdout=subprocess.PIPE, env=environment(), check=True)
    before, read = None, 0
    with open(seen, encoding="ascii", errors="replace") as f:
        for line in f:
            call = re.search(r"(pread64|write)\((\d+),.* = (\d+)$", line)
            if call and call.group(1) == "pread64":
                read += int(call.group(3))
            elif call and call.group(2) == "1" and before is None:
                before = read
    assert before is not None
    return before, read


def skip_without_strace():
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("neither valgrind nor the leak checker goes with strace")


@pytest.mark.parametrize("words", [["events"], ["events", "--json"], ["export"]], ids=" ".join)
def test_the_first_line_since_a_time_needs_no_look_at_all_that_came_since(many, words):
    skip_without_strace()
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((NOW_MS - seed.MONTHS_MS * 9 // 10) / 1000))
    before, read = read_before_the_first_line(many, *words, "--since", since)
    # The times of all of them take more than a megabyte. A page of events is here, and one of callbacks.
    assert 0 < before < 6 * MANY and read > many.bytes("examjoint") // 3


def test_since_a_time_goes_on_with_what_comes_whatever_the_clock_does(tmp_path):
    filled = Filled(str(tmp_path), 100)
    database = os.path.join(filled.store, "examjoint/events.db")
    with sqlite3.connect(database) as db: # the clock was ahead for the first ones
        db.execute("UPDATE events SET received_at = received_at + 3600000 WHERE id <= 30")
        middle = db.execute("SELECT received_at FROM events WHERE id = 70").fetchone()[0] // 1000 * 1000
        expected = [row[0] for row in db.execute("SELECT 'e' || id FROM events WHERE received_at >= ?"
                                                 " ORDER BY received_at, id", (middle,))]
    db.close()
    assert len(expected) > 40 and expected != sorted(expected, key=lambda name: int(name[1:]))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle / 1000))
    process = filled.start("events", "--since", since, "--follow", "--json")
    late = threading.Timer(60, process.kill) # it would be waited for for ever
    late.start()
    try:
        # The callbacks of so short a store came later than all that.
        seen = [json.loads(process.stdout.readline()) for _ in expected]
        assert [row["id"] for row in seen] == expected
        callbacks = [json.loads(process.stdout.readline())["source"] for _ in range(filled.seed.sittings // 10)]
        assert set(callbacks) == {"proview"}
        with sqlite3.connect(database) as db:
            db.executemany("INSERT INTO events(received_at, account, event, last_received_at) VALUES(?, 'main', ?, ?)",
                           ((middle + more, event, middle + more) for more, event in ((5, "a"), (-1, "b"), (0, "c"))))
        db.close()
        assert [json.loads(process.stdout.readline())["event"] for _ in range(2)] == ["a", "c"]
    finally:
        late.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def without_ids(text):
    return [{name: value for name, value in json.loads(line).items() if name != "id"} for line in text.splitlines()]


def test_a_story_is_told_as_it_is_found(spread):
    """Long before the last part of the store was asked for more of it; and it is the same story."""
    skip_without_strace()
    for person, expected in zip(spread.people, spread.before):
        rows = without_ids(said(spread, "respondent", person, "--json"))
        assert rows == expected and {row["kind"] for row in rows} >= {"event", "session", "rating"}
        assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    before, read = read_before_the_first_line(spread, "respondent", spread.people[0])
    assert 0 < before < read // 3
    before, read = read_before_the_first_line(spread, "respondent", spread.people[1])
    assert read // 3 < before < read * 2 // 3


def reads_of_each_thread(filled, *words):
    """How often each read when a page of the disk takes a millisecond, the first one's before the others'; and what was said."""
    seen = os.path.join(os.path.dirname(filled.conf), "calls")
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=pread64", "-e", "inject=pread64:delay_exit=1000", "-o", seen,
                           *filled.command(*words)], stdout=subprocess.PIPE, env=environment(), check=True)
    with open(seen, encoding="ascii", errors="replace") as f:
        return [*collections.Counter(line.split()[0] for line in f if "pread64(" in line).values()], done.stdout.decode()


def test_a_slow_disk_is_read_at_several_places_at_a_time(spread):
    """Not only are there others that read, but what they read is much of it; if the machine lets them begin in time."""
    skip_without_strace()

    def is_read_ahead():
        (first, *others), text = reads_of_each_thread(spread, "respondent", spread.people[2], "--json")
        assert without_ids(text) == spread.before[2]
        return len(others) > 3 and sum(others) > first // 2
    assert any(is_read_ahead() for _ in range(3))


def test_an_export_of_one_person_begins_with_what_is_found_first(spread):
    """Whoever is of the first days is not waited for until the last were asked for more of them."""
    skip_without_strace()
    first, last = (read_before_the_first_line(spread, "export", "--respondent", spread.people[n])[0] for n in (0, 2))
    assert 0 < first < last // 2


def test_what_proctoring_has_is_told_when_its_time_is_reached(spread):
    skip_without_strace()
    spread.add_callback("only-proctored", spread.seed.first_ms + 86400000)
    before, read = read_before_the_first_line(spread, "respondent", "only-proctored")
    assert 0 < before < read // 3


def make_older(store, which):
    with sqlite3.connect(os.path.join(store, "examjoint/events.db")) as db:
        for column, terms in zip(("respondent", "identity"), OLDER[which]):
            db.executescript("DROP INDEX events_%s; CREATE INDEX events_%s ON events(%s) WHERE %s IS NOT NULL;"
                             % (column, column, terms, terms.split(", ")[-1]))
    db.close()


def said(filled, *words):
    done = subprocess.run(filled.command(*words), stdout=subprocess.PIPE, env=environment(), check=True)
    return done.stdout.decode()


def is_known(filled, person):
    done = subprocess.run(filled.command("respondent", person, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment(), check=False)
    assert (done.returncode == 0) == (done.stdout != b"")
    assert done.returncode == 0 or b"nothing is stored about that id" in done.stderr
    return done.returncode == 0


@pytest.fixture(name="aged", params=OLDER)
def older_store(request, many, tmp_path):
    """A copy of the one of many events as an older examhook would have made it."""
    aged = object.__new__(Filled)
    aged.store, aged.conf, aged.seed = str(tmp_path / "store"), str(tmp_path / "examhook.conf"), many.seed
    shutil.copytree(many.store, aged.store)
    with open(many.conf, encoding="utf-8") as f, \
            open(os.open(aged.conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as to:
        to.write(f.read().replace(many.store, aged.store))
    make_older(aged.store, request.param)
    return aged


def stories(filled):
    sitting = filled.seed.sitting(filled.seed.sittings // 2 // 10 * 10)
    return [said(filled, *words, identity) for identity in (sitting.respondent, sitting.identity)
            for words in (("respondent", "--json"), ("export", "--account", sitting.account, "--respondent"))]


def test_an_older_store_tells_the_same_before_and_after_a_migration(many, aged):
    expected = stories(many)
    assert all(text.count("\n") >= 2 for text in expected)
    assert stories(aged) == expected
    assert "events.db: 2 indexes made anew\n" in said(aged, "migrate")
    assert stories(aged) == expected
    assert seed.check(aged.store) == []
    assert "anew" not in said(aged, "migrate")


def test_one_is_erased_from_an_older_store_before_a_migration_and_another_after(aged):
    some = aged.seed.sittings // 30 * 10
    for number in (some + 1, some + 2): # neither of them was proctored
        person = aged.seed.sitting(number).respondent
        assert is_known(aged, person)
        said(aged, "respondent", person, "--erase", "--yes", "--account", aged.seed.sitting(number).account)
        assert person not in said(aged, "events", "--json")
        said(aged, "migrate")
        assert not is_known(aged, person)
    assert seed.check(aged.store) == []


def test_a_purge_leaves_blocks_of_rows_that_are_found(many, aged):
    """The oldest go, of an older store and then of the migrated one."""
    days = seed.MONTHS_MS // 86400000
    now_days = (time.time() * 1000 - NOW_MS) / 86400000
    sitting = aged.seed.sitting(aged.seed.sittings * 9 // 10)
    for gone in (days // 40, days // 20):
        said(aged, "purge", "--older-than", str(int(now_days + days - gone)))
        left = said(aged, "respondent", sitting.respondent, "--json")
        assert left == said(many, "respondent", sitting.respondent, "--json") and left.count("\n") >= 2
        assert not is_known(aged, aged.seed.sitting(7).respondent)
        said(aged, "migrate")
    assert seed.check(aged.store) == []


def test_one_persons_story_reads_little_of_it(many):
    skip_without_strace()
    sitting = many.seed.sitting(many.seed.sittings // 2 // 10 * 10)
    for identity, least in ((sitting.respondent, 2), (sitting.identity, 1)):
        seen = os.path.join(os.path.dirname(many.conf), "reads")
        done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=pread64", "-o", seen,
                               *many.command("respondent", identity)],
                              stdout=subprocess.PIPE, env=environment(), check=True)
        assert done.stdout.count(b"\n") > least
        with open(seen, encoding="ascii", errors="replace") as f:
            read = sum(int(n) for n in re.findall(r"= (\d+)$", f.read(), re.M))
        assert 0 < read < many.bytes() // 4
