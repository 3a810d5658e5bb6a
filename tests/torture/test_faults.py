"""Faults at some calls of the storage path; tests/torture/faults.py tries each. That its judges notice what they are
there to notice. And a real disk that an error makes read-only under the programs."""
import base64
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile

import pytest

import faults_cgi
import faults_people
from faults_place import Kind
from faulty import Tally
from exhaust import WORKER, Disk, is_error
from support import wait_for
from test_kills import HERE, PYTHON, environment

# One of each: plain CGI with both journals, several at once, the long-running program, a command and the worker.
SERIES = ("cgi event rollback", "many callback used", "served throttled", "killed callback",
          "command import", "command config", "command --erase")
# Where Talview's token is: of each call only what leaves half of a write.
HALVES = ["--fault", "short", "--fault", "torn"]


@pytest.mark.parametrize("series, more", [(series, []) for series in SERIES] + [("work", HALVES)], ids=[*SERIES, "work"])
def test_some_faults(series, more):
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    if os.environ.get("EXAMHOOK_WRAP"):
        pytest.skip("a library in front of the C library, and valgrind, do not go together")
    done = subprocess.run([PYTHON, os.path.join(HERE, "faults.py"), "--only", series, "--most", "1", *more],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout
    found, = re.findall(r"^torture-faults: (\d+) points, (\d+) accepted, 0 lost, 0 doubled, 0 not whole$", done.stdout, re.M)
    assert all(int(count) > 5 for count in found), done.stdout
    searched, = re.findall(r"^searched for secrets right after: (.*)$", done.stdout, re.M)
    assert all("%s " % fault in searched for fault in more[1::2]), searched
    assert not {"cgi", "served", "command"} & set(series.split()) or "short " in searched


# --- The judges ---------------------------------------------------------------------------------------------------

def a_row(kind):
    row = {"account": "main", "deliveries": 1, "body": kind.stored(1), "outcome": None, "reason": None, "identity": None}
    if kind.verifies:
        row.update(event="verify_respondent", body=None, identity="7")
        row.update({"throttled": {"outcome": "invalid", "reason": "throttled"}}.get(kind.name, {}))
    elif kind.name == "quarantined":
        row["outcome"] = "quarantined"
    return row


@pytest.mark.parametrize("name", ["event", "callback", "unknown", "repeat", "quarantined", "right", "wrong", "throttled"])
def test_it_notices_each_difference(name):
    kind = Kind(name)
    row = a_row(kind)
    assert kind.differs(1, 100, [row], 1, 1) == (False, False, None)
    assert kind.differs(1, 100, [], 0, 1) == (False, False, None)
    assert kind.differs(1, 100, [], 1, 1)[0]
    assert kind.differs(1, 100, [row, row], 1, 1)[1]
    if kind.verifies:
        assert "identity" in kind.differs(1, 100, [dict(row, identity="8")], 1, 1)[2]
        assert "body" in kind.differs(1, 100, [dict(row, body={})], 1, 1)[2]
    else:
        assert "body" in kind.differs(1, 100, [dict(row, body=kind.stored(1, 99))], 1, 1)[2]
        assert kind.differs(1, 100, [row], 2, 2)[0], "a repeat that is not counted"
        assert kind.differs(1, 100, [dict(row, deliveries=2)], 1, 1)[1]


def test_the_search_after_a_fault_notices_each_secret():
    """Planted where a program could have left it: in the store, a temporary file, a log, an answer, a process."""
    trial = faults_cgi.Trial("", "wrong", "used")
    try:
        trial.again()
        assert trial.cgi(trial.kind, trial.number)[0] == 200 and trial.leaks() is None
        values = [*trial.secrets.all(), trial.remains.add_token("planted-token-0123456789")]
        for value in values:
            for place in ("data/store/examjoint/events.db-journal", "tmp/planted", "log/planted.log", "data/planted"):
                path = os.path.join(trial.folder, place)
                with open(path, "ab") as f:
                    f.write(b"xy" + base64.b64encode(b"z" + value.encode() + b" and more"))
                found = trial.leaks()
                assert found and place in found, (value, place)
                os.unlink(path)
        with open(trial.database("examjoint").replace("events.db", "identity.key"), "rb") as f:
            key = f.read()
        with open(os.path.join(trial.data, "planted"), "wb") as f:
            f.write(key.hex().encode())
        assert "identity.key" in trial.leaks()
        os.rename(os.path.join(trial.data, "planted"), os.path.join(trial.data, "core"))
        assert "a core file" in trial.leaks()
        os.unlink(os.path.join(trial.data, "core"))
        assert trial.leaks() is None
        # And a point of which something is left is no good one.
        with open(os.path.join(trial.kept, "planted"), "wb") as f:
            f.write(values[0].encode())
        trial.faulty.rest, trial.remains.said = lambda: 1, []
        tally = Tally()
        assert "data/planted" in trial.try_point(tally, 0, "write", "torn") and tally.searches["torn"] == 1
        for said in (values[0], values[0].encode()):
            trial.remains.look_at("something", said)
            assert len(trial.remains.said) == 1 and "something" in trial.leaks()
            trial.remains.said.clear()
    finally:
        trial.close()


def test_what_a_killed_migration_left_of_the_key_is_gone_after_the_next_one():
    """Killed between the key's getting its name and its losing the one under which it was made."""
    place = faults_cgi.Place("")
    try:
        place.examhook("migrate")
        key = os.path.join(place.store, "examjoint", "identity.key")
        os.link(key, key + ".new")
        assert place.leaks() and not place.leaks(midway=True)
        place.examhook("migrate")
        assert not place.leaks() and os.listdir(os.path.dirname(key)).count("identity.key") == 1
    finally:
        place.close()


def judged(trial, *statements):
    """(lost, doubled, not whole, what is wrong) after the store was tampered with; it is then put right."""
    connection = sqlite3.connect(trial.database(trial.kind.area))
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1, statement
    connection.close()
    tally = Tally()
    wrong = trial.judge_store(tally, 1, 1)
    trial.again()
    assert trial.cgi(trial.kind, trial.number)[0] == 200
    return tally.lost, tally.doubled, tally.broken, wrong


def test_the_judge_of_a_store_notices_each_difference():
    trial = faults_cgi.Trial("", "wrong", "used")
    try:
        trial.again()
        assert trial.cgi(trial.kind, trial.number)[0] == 200
        mine, other = "exam_id = 'e%d'" % trial.number, "exam_id = 'e%d'" % min(trial.before)
        assert judged(trial) == (0, 0, 0, None)
        for row in (mine, other):
            assert judged(trial, "DELETE FROM events WHERE " + row)[0] == 1
        copied = "account, event, exam_id, outcome, reason, identity, received_at, last_received_at, body"
        assert judged(trial, "INSERT INTO events(%s) SELECT %s FROM events WHERE %s" % (copied, copied, mine))[1] == 1
        assert judged(trial, "UPDATE events SET deliveries = 2 WHERE " + other)[1] == 1
        assert "body" in judged(trial, "UPDATE events SET body = '{}' WHERE " + other)[3]
        assert "identity" in judged(trial, "UPDATE events SET identity = '8' WHERE " + mine)[3]
        assert "attempts" in judged(trial, "DELETE FROM attempts")[3]
        assert judged(trial, "INSERT INTO events(account, exam_id, received_at, last_received_at) VALUES ('main', 'e5', 1, 1)")[3]
        with open(trial.database("examjoint"), "r+b") as f:
            f.write(b"x" * 100)
        assert trial.not_whole("examjoint")
    finally:
        trial.close()


def test_the_judge_of_an_erasure_notices_each_difference():
    place = faults_people.Erased("", "respondent --erase")
    try:
        def middle(area="", statement="", code=1):
            if statement:
                place.change(area, statement)
            wrong = place.judge_middle(subprocess.CompletedProcess((), code, "", ""), old, new)
            place.again()
            return wrong
        place.again()
        old = place.state()
        assert place.next_run().returncode == 0
        new = place.state()
        assert place.holding() == []
        left = os.path.join(place.store, "left")
        with open(left, "w", encoding="ascii") as f:
            f.write("... m7 ...")
        assert place.holding() == ["left"]
        os.unlink(left)
        assert middle(code=0) is None and middle() is None
        assert "is not" in middle(code=0)
        assert "lost of others" in middle("examjoint", "DELETE FROM events WHERE identity = '8'")
        assert "lost of others" in middle("roster", "DELETE FROM lines WHERE id = '8'")
        assert "neither" in middle("examjoint", "UPDATE events SET respondent_id = NULL WHERE respondent_id = '7'")
    finally:
        place.close()


def test_an_erasure_that_was_cut_short_keeps_the_counts():
    """Killed between the callbacks and their session, or told of a failure by a commit that was one after all."""
    place = faults_people.Erased("", "respondent --erase")
    try:
        place.again()
        assert place.next_run().returncode == 0
        new = place.state()
        for area in ("ratings", "roster"):
            shutil.rmtree(os.path.join(place.store, area))
            shutil.copytree(os.path.join(place.kept, "store", area), os.path.join(place.store, area))
        assert place.next_run().returncode == 0
        assert place.state() == new
    finally:
        place.close()


# --- A disk that becomes read-only --------------------------------------------------------------------------------

class RealDisk(Disk):
    """Whose store lies on an ext4 as Debian's installer mounts it: the first error makes it read-only."""

    image = None

    def mount_store(self, options):
        # Not in the folder, where no secret may be but in the store.
        handle, self.image = tempfile.mkstemp(prefix="examhook-disk-")
        os.truncate(handle, 48 << 20)
        os.close(handle)
        os.mkdir(self.path("store"))
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)
        return self.mount(options)

    def mount(self, options):
        done = subprocess.run(["mount", "-o", "loop," + options, self.image, self.path("store")], stderr=subprocess.PIPE,
                              text=True, check=False)
        self.mounted = done.returncode == 0
        return None if self.mounted else "no ext4 of its own for the store: " + done.stderr.strip()

    def close(self):
        try:
            super().close()
        finally:
            if self.image:
                os.unlink(self.image)

    def mended(self):
        """As the operator does, with the programs stopped: the kernel lets nobody write there before."""
        subprocess.run(["umount", self.path("store")], check=True)
        self.mounted = False
        assert subprocess.run(["e2fsck", "-f", "-y", self.image], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              check=False).returncode in (0, 1)
        assert self.mount("errors=remount-ro") is None


def test_a_disk_that_turns_read_only_under_the_programs():
    if not shutil.which("mkfs.ext4", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        pytest.skip("not installed: mkfs.ext4 (e2fsprogs)")
    disk = RealDisk("errors=remount-ro", WORKER, store="lock_wait = 1s")
    routes = ("examjoint", "proview")
    try:
        disk.start().start_worker()
        for route in routes:
            disk.taken(route)
        with disk.lives():
            since = {route: disk.mark(route) for route in ("worker", *routes)}
            # What an error does, asked for.
            subprocess.run(["mount", "-o", "remount,abort", disk.path("store")], check=True)
            for _ in range(3):
                for route in routes:
                    is_error(disk.send(route)[1], "not_stored")
            is_error(disk.verify(), "not_stored")
            for route in routes:
                disk.says(route, r'msg="not stored" store=denied detail="committing [^"]*: Read-only file system', since[route])
                disk.says(route, r'detail="[^"]* may only be read by this user: its file system is read-only', since[route])
                is_error(disk.send(route, by=disk.cgi)[1], "not_stored")
                assert "its file system is read-only" in disk.cgi_log, disk.cgi_log
            refused = re.compile('msg="the store cannot be written".*ead-only')
            assert wait_for(lambda: refused.search(disk.parts["worker"].log(), since["worker"]), 30)
            disk.checked(r"store, examjoint: .*its file system is read-only — look at .*dmesg")
        disk.stop("worker")
        with disk.away(*routes):
            disk.mended()
        disk.start_worker()
        for name in [name for name, sent in disk.sent.items() if not sent[3]]:
            disk.taken(disk.sent[name][0], name)
        assert disk.verify().json == {}
        disk.settle()
    finally:
        disk.close()
