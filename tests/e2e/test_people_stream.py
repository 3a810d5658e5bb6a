"""`export --respondent` writes what it knows before it looks on: the roster's lines, what the indexes find, and what is
found in the bodies while they are searched. So it can be refused, or fail, behind its first lines."""
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time

import pytest

import hardening
from support import BUILD, WRAP, environment
from test_cli import SECOND, admitted
from test_growth import MANY, ONE, Filled, of_process, read_at_the_first_line
from test_people import OTHER, open_shop, shop  # pylint: disable=unused-import

STORY = NAMED = EXAMS = 1000
ELSEWHERE = "\n[proview other]\nenvironment = development\npath_token = path-token-of-another\nusername = u\npassword = p\n" \
            "app_id = a\n"


@pytest.fixture(scope="module", name="many")
def many_events(tmp_path_factory):
    """In it somebody with many lines of the roster, one with a single one, and one of whom only bodies tell; these are the
    oldest."""
    filled = Filled(str(tmp_path_factory.mktemp("many")), MANY)
    filled.add_story(STORY)
    with contextlib.closing(sqlite3.connect(os.path.join(filled.store, "examjoint/events.db"))) as db:
        db.execute("UPDATE events SET account = 'main', event = 'noted', respondent_id = NULL, identity = NULL,"
                   " quarantined = 0, deliveries = 1, body = json_object('external_id', 'named', 'note', ?, 'n', id)"
                   " WHERE id <= ?", ("x" * 100, NAMED))
        db.execute("DELETE FROM deliveries WHERE event_id <= ?", (NAMED,))
        db.commit()
    lines = ["listed,exam-%d,%s\n" % (n, "y" * 100) for n in range(EXAMS)]
    subprocess.run(filled.command("roster", "import", "-"), input=("id,exam,about\n" + "".join(lines) +
                                                                   "alone,,z\n").encode(),
                   stdout=subprocess.DEVNULL, env=environment(), check=True)
    return filled


def export(who):
    return ["export", "--respondent", who]


@pytest.mark.parametrize("who", ["listed", ONE, "named"])
def test_what_is_known_is_written_before_the_rest_is_looked_for(many, who):
    """More than a pipe holds, of each of the three."""
    assert read_at_the_first_line(many, *export(who)) < many.bytes() // 4


@pytest.mark.parametrize("who", ["alone", "listed", ONE, "named"])
def test_nothing_is_lost_on_the_way(many, who):
    out = subprocess.run(many.command(*export(who)), stdout=subprocess.PIPE, env=environment(), check=True).stdout
    lines = out.decode().splitlines()
    kinds = [re.match(r'\{"kind":"(\w+)"', line).group(1) for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "alone": {"candidate": 1}, "listed": {"candidate": EXAMS}, "named": {"event": NAMED},
        ONE: {"event": STORY + 1, "delivery": STORY // 100}}[who]
    assert len(set(lines)) == len(lines)


def test_a_single_line_goes_at_once(many):
    """Not when there is enough for a block of output."""
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("neither valgrind nor the leak checker goes with strace")
    seen = os.path.join(os.path.dirname(many.conf), "calls")
    subprocess.run(["strace", "-f", "-qq", "-e", "trace=pread64,write", "-o", seen, *many.command(*export("alone"))],
                   stdout=subprocess.PIPE, env=environment(), check=True)
    read = [0, 0] # before the line and behind it
    with open(seen, encoding="ascii", errors="replace") as f:
        written = False
        for call in f:
            written = written or " write(1, " in call
            found = re.search(r"pread64\(.*= (\d+)$", call)
            read[written] += int(found.group(1)) if found else 0
    assert 0 < read[0] < many.bytes() // 4 < read[1]


def test_who_reads_no_further_lets_it_end(many):
    process = subprocess.Popen(many.command(*export("named")), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment())
    assert process.stdout.readline()
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert of_process(process.pid, "io", "rchar") < many.bytes() // 4
    assert process.stderr.read() == b"" and process.wait() == 0
    process.stderr.close()


# --- Several people of one id ---------------------------------------------------------------------------------


def of_second(shop, body):
    assert shop.cgi("examjoint", "/webhooks/examjoint", body, HTTP_X_CLIENT_ID="second-id",
                    HTTP_X_CLIENT_SECRET="canary-client-secret")[0] == 200


def refused(shop):
    done = shop.run("export", "--respondent", "1001")
    assert done.returncode == 1 and "several accounts" in done.err and "--account" in done.err
    assert ("is not whole" in done.err) == (done.out != "")
    return [line.split(",")[0] for line in done.out.splitlines()], done.out


def test_another_who_turns_up_in_a_body_is_not_written(tmp_path):
    shop = open_shop(tmp_path, SECOND)
    shop.roster("id,name\n1001,Ada\n", "--account", "main")
    shop.examjoint(admitted("1001"))
    shop.examjoint({"event": "noted", "external_id": "1001", "n": 1})
    of_second(shop, {"event": "noted", "external_id": "1001", "note": "canary"})
    shop.examjoint({"event": "noted", "external_id": "1001", "n": 2})
    kinds, text = refused(shop)
    assert kinds == ['{"kind":"candidate"', '{"kind":"event"', '{"kind":"event"']
    assert "canary" not in text and '"second"' not in text
    rows = shop.rows("export", "--respondent", "1001", "--account", "second")
    assert [row["body"]["note"] for row in rows] == ["canary"]
    assert len(shop.rows("export", "--respondent", "1001", "--account", "second", "--account", "main")) == 5


def test_another_whom_the_events_know_leaves_the_roster_s_lines(tmp_path):
    shop = open_shop(tmp_path, SECOND)
    shop.roster("id,name\n1001,Ada\n", "--account", "main")
    of_second(shop, admitted("1001", name="canary"))
    kinds, text = refused(shop)
    assert kinds == ['{"kind":"candidate"'] and "canary" not in text


def test_another_who_turns_up_late_in_the_events_is_not_written(tmp_path):
    """What was found before is written by then."""
    shop = open_shop(tmp_path, SECOND)
    shop.examjoint(admitted("1001"))
    of_second(shop, admitted("1001", name="canary"))
    with contextlib.closing(sqlite3.connect(os.path.join(shop.folder, "store/examjoint/events.db"))) as db:
        db.execute("UPDATE events SET id = 1000000 WHERE account = 'second'")
        db.commit()
    kinds, text = refused(shop)
    assert kinds == ['{"kind":"event"'] and "canary" not in text
    rows = shop.rows("export", "--respondent", "1001", "--account", "second")
    assert [row["body"]["name"] for row in rows] == ["canary"]


def test_another_whom_the_sessions_know_leaves_nothing(tmp_path):
    shop = open_shop(tmp_path, ELSEWHERE)
    shop.roster("id,name\n1001,Ada\n")
    shop.proview(external="1001")
    assert len(shop.rows("export", "--respondent", "1001")) == 2
    assert shop.cgi("proview", "/webhooks/proview/other/path-token-of-another",
                    {"session_uuid": OTHER, "message": "m", "external_id": "1001"})[0] == 200
    assert refused(shop) == ([], "")


def test_two_of_the_roster_leave_nothing(tmp_path):
    shop = open_shop(tmp_path, SECOND)
    for account in ("main", "second"):
        shop.roster("id,name\n1001,Ada\n", "--account", account)
    assert refused(shop) == ([], "")


# --- Failures -------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_said_behind_what_was_written(shop):
    shop.roster("id,name\n1001,Ada\n")
    shop.examjoint(admitted("1001"))
    path = os.path.join(shop.folder, "store/examjoint/events.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO events(account, received_at, last_received_at, event, body) VALUES('main', 1, 1,"
                       " 'noted', ?)", [("canary" + "x" * 2000,) for _ in range(100)])
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = db.execute("PRAGMA page_size").fetchone()[0]
    with open(path, "r+b") as f:
        pages = f.read()
        f.seek(pages.index(b"canary", len(pages) // 2) // page * page)
        f.write(b"\xff" * 8) # one of those in the middle, which no index leads to
    done = shop.run("export", "--respondent", "1001")
    assert done.returncode == 4 and "the export is not whole" in done.err
    assert [line.split(",")[0] for line in done.out.splitlines()] == ['{"kind":"candidate"', '{"kind":"event"']
    assert done.out.count("\n") == 2


# --- A purge meanwhile ----------------------------------------------------------------------------------------


def purged_at(shop, db, call, *command):
    """Runs it, and purges the first event at that call of fcntl(2), by which SQLite locks. None: it makes fewer."""
    seen = os.path.join(shop.folder, "calls")
    with contextlib.suppress(FileNotFoundError):
        os.remove(seen)
    process = subprocess.Popen(["strace", "-f", "-qq", "-e", "trace=fcntl", "-e",
                                "inject=fcntl:signal=SIGSTOP:when=%d" % call, "-o", seen, *shop.command(*command)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    stopped = None
    while not stopped and process.poll() is None:
        time.sleep(0.005)
        with contextlib.suppress(FileNotFoundError), open(seen, encoding="ascii", errors="replace") as f:
            stopped = re.search(r"(?m)^(\d+) .*stopped by SIGSTOP", f.read())
    if stopped:
        db.execute("DELETE FROM events WHERE id = 1")
        db.execute("DELETE FROM deliveries WHERE event_id = 1")
        db.commit()
        os.kill(int(stopped.group(1)), signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    return (process.returncode, out.decode(), err.decode()) if stopped else None


@pytest.mark.parametrize("command", [["respondent", "1001", "--json"], ["export", "--respondent", "1001"]])
def test_an_event_that_is_purged_meanwhile_is_no_failure(shop, command):
    """It was delivered twice: that is looked up when it was read. And the other is not left out."""
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("neither valgrind nor the leak checker goes with strace")
    for body in (admitted("1001"), admitted("1001", note="again"), admitted("1001", exam="exam-2")):
        shop.examjoint(body)
    found = set()
    with contextlib.closing(sqlite3.connect(os.path.join(shop.folder, "store/examjoint/events.db"))) as db:
        rows = [(table, db.execute("SELECT * FROM %s WHERE %s = 1" % (table, name)).fetchall())
                for table, name in (("events", "id"), ("deliveries", "event_id"))]
        for call in range(1, 1000):
            done = purged_at(shop, db, call, *command)
            if not done:
                break
            assert done[0] == 0 and done[2] == "" and "exam-2" in done[1], (call, done)
            found.add("exam-1" in done[1])
            for table, kept in rows:
                db.executemany("INSERT INTO %s VALUES(%s)" % (table, ",".join("?" * len(kept[0]))), kept)
            db.commit()
    assert found == {True, False}
