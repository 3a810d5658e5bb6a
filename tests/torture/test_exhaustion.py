"""What happens when something has run out or is broken: the disk, descriptors, memory, the store itself. Each time: what is answered,
what the log and `examhook check` say, that nothing acknowledged is lost or doubled, and that service returns by itself."""
import base64
import concurrent.futures
import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
import time

import pytest

from exhaust import CLIENT, KEPT, PATHS, SEARCHED, WORKER, WRONG, Disk, is_error
import fastcgi
from support import wait_for

ROUTES = ("examjoint", "proview")


@pytest.fixture(name="disk", scope="module")
def disk_fixture():
    """One on a small disk, with its worker, for those tests that leave it as they found it."""
    one = Disk("size=24m,nr_inodes=300,mode=700", WORKER, store="lock_wait = 1s")
    try:
        one.start().start_worker()
        yield one
    finally:
        one.close()


def all_taken(site):
    """The vendors send again what was refused."""
    for name in [name for name, sent in site.sent.items() if not sent[3]]:
        site.taken(site.sent[name][0], name)


def is_rated(site, session):
    return any(row["session_uuid"] == session and row["state"] == "rated" for row in site.rows("sessions", "--json"))


# --- The search for secrets, which each settle() makes -------------------------------------------------------

@pytest.mark.parametrize("place", ["log/worker.log", "store/proview/left", "store/ratings/left", "tmp/left"])
def test_the_search_finds_what_is_planted(disk, place):
    """Each secret in a file where it must not be; and Talview's token outside of its own file."""
    if not SEARCHED:
        pytest.skip("a sanitizer or valgrind keeps copies of a program's memory of its own")
    assert wait_for(lambda: disk.taken("proview") and disk.settle() or disk.tokens, 20, 0.5)
    size = os.path.getsize(disk.path(place)) if os.path.exists(disk.path(place)) else None
    for value in (*KEPT.all(), base64.b64encode(("talview:" + KEPT.all()[0]).encode()).decode()):
        with open(disk.path(place), "ab") as f:
            f.write(b"some text " + value.encode() + b" and more\n")
        with pytest.raises(AssertionError, match=place):
            disk.search()
        os.remove(disk.path(place)) if size is None else os.truncate(disk.path(place), size)
    disk.settle()


# --- The disk ------------------------------------------------------------------------------------------------

def test_a_full_disk(disk):
    with disk.lives():
        for route in ROUTES:
            disk.taken(route)
        with disk.full():
            for route in ROUTES:
                since = disk.mark(route)
                refused = [disk.send(route, pad=60000)[0] for _ in range(2)]
                is_error(disk.send(route, refused[0])[1], "store_full")
                disk.says(route, r'level=error .*msg="not stored" store=full detail="[^"]*full', since)
                assert is_error(disk.send(route, by=disk.cgi, pad=60000)[1], "store_full")
            is_error(disk.verify(), "store_full")
            disk.checked(r"store, examjoint: the disk has only 0 MiB left — make room on the disk")
        all_taken(disk)
        assert disk.verify().json == {}
    disk.settle()


def test_the_worker_on_a_full_disk(disk):
    with disk.lives():
        with disk.full():
            session, reply = None, None
            while not reply or reply.status != 200: # a small callback may still fit
                os.truncate(disk.path("store/filler"), os.path.getsize(disk.path("store/filler")) - 4096)
                session, reply = disk.send("proview")
            with open(disk.path("store/filler"), "ab", buffering=0) as f:
                try:
                    while True:
                        f.write(b"x" * 4096)
                except OSError:
                    pass
            # Said once, when it began: also of what another test did to the disk.
            full = r'level=error .*msg="the store cannot be written" status=full reason="[^"]*full'
            assert wait_for(lambda: re.search(full, disk.parts["worker"].log()), 30), disk.parts["worker"].log()
            time.sleep(1)
            assert not is_rated(disk, session)
        assert wait_for(lambda: is_rated(disk, session), 60), disk.parts["worker"].log()
    all_taken(disk)
    disk.settle()


def test_the_operator_on_a_full_disk(disk):
    roster = disk.path("more.csv")
    with open(roster, "w", encoding="utf-8") as f:
        f.write("id,password_hash,name\n" + "".join("n%d,,%s\n" % (i, "x" * 500) for i in range(2000)))
    purged = [disk.taken("examjoint", pad=500) for _ in range(60)]
    with contextlib.closing(sqlite3.connect(disk.file("examjoint"), timeout=5)) as db, db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.executemany("UPDATE events SET received_at = received_at - 90000000, last_received_at = last_received_at - 90000000"
                       " WHERE respondent_id = ?", [(name,) for name in purged])
    with disk.full():
        done = disk.examhook("roster", "import", roster, "--account", "main")
        assert done.returncode and re.search(r"full", done.stderr) and "room" in done.stderr, done
        done = disk.examhook("backup", disk.path("store/copy"))
        assert done.returncode and re.search(r"full|No space", done.stderr) and "room" in done.stderr, done
        done = disk.examhook("purge", "--older-than", "1")
        # It needs room in the log before it can give any: either it works, or it says so.
        if done.returncode == 0:
            assert "60 events" in done.stdout, done
        else:
            assert re.search(r"full", done.stderr) and "make room on the disk" in done.stderr, done
        print("purge on a full disk:", done.stdout, done.stderr)
    for name in purged:
        disk.sent[name][3] = 0
    shutil.rmtree(disk.path("store/copy"))
    assert disk.verify().json == {}
    disk.settle()


def test_no_inode_left(disk):
    with disk.lives(), disk.no_inodes():
        for route in ROUTES:
            disk.taken(route)
            disk.taken(route, by=disk.cgi)
        assert disk.verify().json == {}
        done = disk.examhook("roster", "import", disk.path("more.csv"), "--account", "main")
        assert done.returncode and "No space left" in done.stderr and "df -i" in done.stderr, done.stderr
        disk.checked(r"store, examjoint: the disk has room for only 0 more files .inodes. — ")
    disk.settle()


def test_a_limit_of_file_size(disk):
    """As ulimit -f of a shared host: SIGXFSZ would end a program."""
    def limited_cgi(route, body):
        return disk.cgi(route, body, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))

    with disk.lives():
        for route in ROUTES:
            since = disk.mark(route)
            with disk.limited(route, resource.RLIMIT_FSIZE, disk.mark(route) + 100000):
                wait_for(lambda: disk.send(route, pad=60000)[1].status == 503)
                is_error(disk.send(route, pad=60000)[1], "store_full")
            disk.says(route, r'msg="not stored" store=full', since)
        all_taken(disk)
        for route in ROUTES:
            is_error(disk.send(route, by=limited_cgi)[1], "store_full")
        all_taken(disk)
    disk.settle()


# --- Descriptors ----------------------------------------------------------------------------------------------

def test_no_descriptor_left(disk):
    with disk.lives():
        for route in ROUTES:
            since, before = disk.mark(route), disk.cpu(route)
            with disk.limited(route, resource.RLIMIT_NOFILE, 3), concurrent.futures.ThreadPoolExecutor(20) as pool:
                waiting = [pool.submit(disk.send, route) for _ in range(20)]
                wait_for(lambda: "cannot accept" in disk.parts[route].log()[since:], 30) # pylint: disable=cell-var-from-loop
                disk.says(route, r'level=error .*msg="cannot accept a connection" error="Too many open files"', since)
                time.sleep(1)
                spent = disk.cpu(route) - before
                assert spent < 0.5, spent
                pid = disk.parts[route].process.pid
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
                answers = [w.result()[1] for w in waiting]
            # Connections that the web server keeps are served all the time.
            assert all(answer.status == 200 or is_error(answer, "not_stored") for answer in answers), answers
            assert sum(answer.status == 200 for answer in answers) >= 15, answers
    disk.settle()


def test_no_descriptor_for_a_request_in_pieces(disk):
    """It is held in a file in memory: that wants one. It is not answered, so that the web server says "unavailable"."""
    for route in ROUTES:
        name = disk.made(route)
        body = json.dumps(disk.sent[name][1]).encode()
        whole = fastcgi.request(fastcgi.post(body, PATHS[route], **{k.replace("-", "_"): v for k, v in CLIENT}), body)
        with disk.lives():
            since = disk.mark(route)
            peer = fastcgi.Peer(disk.path("sock", route + ".sock"))
            peer.send(whole[:100])
            assert wait_for(lambda: not peer.unsent(), 30) # pylint: disable=cell-var-from-loop
            with disk.limited(route, resource.RLIMIT_NOFILE, 3):
                peer.send(whole[100:])
                assert peer.closed()
                peer.close()
            disk.says(route, r'level=error .*msg="no room for a request that came in pieces" error="Too many open files"', since)
            disk.taken(route, name)
    disk.settle()


def test_the_worker_without_descriptors(disk):
    with disk.lives():
        with disk.limited("worker", resource.RLIMIT_NOFILE, 3):
            before = disk.cpu("worker")
            session = disk.taken("proview")
            time.sleep(2)
            assert disk.cpu("worker") - before < 1
        since = disk.mark("worker")
        assert wait_for(lambda: is_rated(disk, session), 60), disk.parts["worker"].log()[since:]
    disk.settle()


def test_the_worker_while_somebody_holds_its_store(disk):
    with disk.lives():
        since = disk.mark("worker")
        with disk.held("ratings"):
            session = disk.taken("proview")
            assert wait_for(lambda: "the store cannot be written" in disk.parts["worker"].log()[since:], 30)
            disk.says("worker", 'status=busy reason="[^"]*another program holds the lock', since)
        assert wait_for(lambda: is_rated(disk, session), 60), disk.parts["worker"].log()[since:]
    disk.settle()


# --- Memory -----------------------------------------------------------------------------------------------------

def test_no_memory_for_a_hash(disk):
    """yescrypt wants 16 MiB: a candidate must not be told that the password is wrong."""
    route = "examjoint"
    assert disk.verify("yes", "horse yescrypt").json == {}
    with disk.lives():
        with open("/proc/%d/statm" % disk.parts[route].process.pid, encoding="ascii") as f:
            size = int(f.read().split()[0]) * 4096
        with disk.limited(route, resource.RLIMIT_AS, size + 2 * 1024 * 1024):
            reply = disk.verify("yes", "horse yescrypt")
            assert reply.status == 200 and "again" in reply.json["errorMessage"], reply
            disk.taken(route)
        assert disk.verify("yes", "horse yescrypt").json == {}


# --- Read-only --------------------------------------------------------------------------------------------------

def test_a_read_only_disk(disk):
    """By hand the kernel lets nobody make a disk read-only while a file is open to be written there; who is started then says so
    and ends. An error does it under the programs (errors=remount-ro): test_faults.py."""
    with disk.away(*ROUTES), disk.read_only():
        for route in ROUTES:
            assert "may only be read by this user" in disk.fails(route)
            is_error(disk.send(route, by=disk.cgi)[1], "not_stored")
            assert "may only be read by this user" in disk.cgi_log, disk.cgi_log
            is_error(disk.send(route)[1], "unavailable")
        disk.checked(r"store, examjoint: .*may only be read by this user")
    all_taken(disk)
    disk.settle()


@pytest.mark.parametrize("owner, mode", [(0, 0o640), (65534, 0o440)])
def test_a_wrong_owner_or_mode(disk, owner, mode):
    """As a user that is not root: by CGI, whose processes open the store anew for each request."""
    def as_nobody(route, body):
        return disk.cgi(route, body, user=65534, group=65534, extra_groups=[])
    with disk.given_to(65534):
        for route in ROUTES:
            disk.taken(route, by=as_nobody)
            os.chown(disk.file(route), owner, -1)
            os.chmod(disk.file(route), mode)
            name, reply = disk.send(route, by=as_nobody)
            is_error(reply, "not_stored")
            assert re.search(r'msg="cannot start" reason=".*(may only be read by this user|Permission denied)', disk.cgi_log), disk.cgi_log
            done = disk.examhook("check", "--for", route, user=65534, group=65534, extra_groups=[])
            assert re.search(r"^failed .*store, %s: .* — look at owner and mode" % route, done.stdout, re.M), done.stdout
            os.chown(disk.file(route), 65534, -1)
            os.chmod(disk.file(route), 0o640)
            disk.taken(route, name, by=as_nobody)
    disk.settle()


# --- Somebody else holds it ---------------------------------------------------------------------------------------

HOLD_SECONDS = float(os.environ.get("EXAMHOOK_HOLD_SECONDS") or 2)


@pytest.mark.parametrize("how", ["flock", "sqlite"])
def test_somebody_holds_the_store(disk, how):
    """[store] lock_wait is 1 s here, and 2 s by itself: everybody has an answer soon, all the time, and a candidate long
    before the budget of 20 s."""
    longest, verified, words = 0, [], set()

    def client(number, until):
        nonlocal longest
        while time.monotonic() < until:
            began = time.monotonic()
            if number == 0:
                verified.append(disk.verify())
                words.add(verified[-1].json.get("error"))
            else:
                words.add(disk.send(ROUTES[number % 2])[1].json.get("error"))
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.2)

    since = disk.mark("examjoint")
    assert "errorMessage" in disk.verify(password=WRONG).json # something for `unlock` to forget
    with disk.lives(), concurrent.futures.ThreadPoolExecutor(8) as pool:
        with disk.held("examjoint", how), disk.held("proview", how):
            until = time.monotonic() + HOLD_SECONDS
            for done in [pool.submit(client, i, until) for i in range(8)]:
                done.result()
            disk.checked(r"store, examjoint: .*(holds the lock|locked) — find out which program")
            is_error(disk.send("examjoint", by=disk.cgi)[1], "not_stored")
            done = disk.examhook("unlock", "ada")
            assert done.returncode and "another program is writing: try again" in done.stderr, done
        began = time.monotonic()
        for route in ROUTES:
            disk.taken(route)
        assert disk.verify().json == {}
        assert time.monotonic() - began < 5
        assert words == {"not_stored"} and longest < 10, (words, longest)
        disk.says("examjoint", r'level=error .*msg="not stored" store=busy detail="[^"]*(holds the lock|locked)', since)
        print("%s: %d verifications, the longest answer took %.1f s" % (how, len(verified), longest))
        all_taken(disk)
    disk.settle()


# --- A broken store -----------------------------------------------------------------------------------------------

def a_site_to_break():
    """Some of what its store holds lies in the files, some in the logs."""
    one = Disk().start()
    for route in ROUTES:
        for _ in range(30):
            one.taken(route, pad=3000)
    with one.away(*ROUTES):
        empty_logs(one)
    return one


@pytest.fixture(name="sites", scope="module")
def sites_fixture():
    made = []
    yield made
    for one in made:
        one.close()


@pytest.fixture(name="broken")
def broken_fixture(sites):
    """Whose store the tests break, and put right again; after a test that failed, another one."""
    if sites and not sites[-1].settled:
        with contextlib.suppress(AssertionError):
            sites.pop().close()
    if not sites:
        sites.append(a_site_to_break())
    sites[-1].settled = False
    return sites[-1]


def overwrite(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


# How the file is broken, what the log says of it, and the check's advice.
MALFORMED, NO_DATABASE, BACKUP = "database disk image is malformed", "file is not a database", "put back a backup"
BREAKS = {
    "no header": (lambda path: overwrite(path, 0, b"\xa5" * 100), NO_DATABASE),
    "nothing but its first page": (lambda path: overwrite(path, 4096, b"\xa5" * (os.path.getsize(path) - 4096)), MALFORMED),
    "cut short": (lambda path: os.truncate(path, 5000), MALFORMED),
    "cut to nothing": (lambda path: os.truncate(path, 0), "is empty"),
    "a letter": (lambda path: overwrite(path, 0, b"this is a letter to the exam office\n" * 3000), NO_DATABASE),
    "gone": (os.remove, "No such file or directory"),
    "a link": (lambda path: (os.rename(path, path + ".b"), os.symlink(path + ".b", path)), "is not a regular file"),
}


def empty_logs(site):
    for route in ROUTES:
        with contextlib.closing(sqlite3.connect(site.file(route))) as db:
            assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_file(broken, how):
    """Nothing more is taken, by the loop or as CGI, until the file is put right; `migrate` makes none of it worse."""
    do, said = BREAKS[how]
    with broken.away(*ROUTES):
        empty_logs(broken)
        with broken.put_back_later():
            for route in ROUTES:
                do(broken.file(route))
                name, reply = broken.send(route, by=broken.cgi)
                is_error(reply, "not_stored")
                assert said in broken.cgi_log, broken.cgi_log
                if "cannot start" in broken.cgi_log:
                    assert said in broken.fails(route)
                    is_error(broken.send(route, name)[1], "unavailable")
                # What the damage leaves readable it may take for sound, until it looks at all of it.
                broken.checked("store, %s: .* — .*%s" % (route, BACKUP), "--full")
            if how not in ("gone", "cut to nothing"):
                broken.examhook("migrate")
                assert broken.examhook("events").returncode
    all_taken(broken)
    broken.settle()


@pytest.mark.parametrize("how", ["gone", "cut to nothing"])
def test_a_file_that_is_gone_but_not_its_log(broken, how):
    """SQLite would delete the log, and with it what was taken last."""
    for route in ROUTES:
        broken.taken(route)
    with broken.away(*ROUTES):
        with broken.put_back_later():
            for route in ROUTES:
                log = broken.file(route) + "-wal"
                size = os.path.getsize(log)
                assert size > 0
                BREAKS[how][0](broken.file(route))
                is_error(broken.send(route, by=broken.cgi)[1], "not_stored")
                assert "its write-ahead log is there" in broken.cgi_log and "its write-ahead log is there" in broken.fails(route)
                broken.checked("store, %s: .*holds what was stored last" % route)
                done = broken.examhook("migrate")
                assert done.returncode and "its write-ahead log is there" in done.stderr, done
                assert os.path.getsize(log) == size
                broken.put_back(route)
    all_taken(broken)
    broken.settle()


def test_migrate_says_that_it_begins_anew(broken):
    with broken.away(*ROUTES), broken.put_back_later():
        for ending in ("", "-wal", "-shm"):
            os.remove(broken.file("proview") + ending)
        done = broken.ok("migrate")
        assert "callbacks.db: the one that was here before is gone\n" in done and "callbacks.db: created" in done, done
        assert "events.db: has schema 1 already" in done and done.count("gone") == 1
    broken.settle()


def moved(path):
    os.rename(path, path + ".away")


def put_right(path):
    os.rename(path + ".away", path)


def replaced_by_a_copy(path):
    """As from a backup, in haste: under a running program, and without a look at what lies beside the file."""
    shutil.copy(path, path + ".copy")
    os.rename(path + ".copy", path)


# What somebody does to the files of a running program, what they do later, and whether events are taken meanwhile.
UNDER_WAY = {
    "store moved away": ([("", moved)], [("", put_right)], False),
    "folder moved away": ([("/", moved)], [("/", put_right)], False),
    "log removed": ([("-wal", os.remove)], [], True),
    "index removed": ([("-shm", os.remove)], [], True),
    "log and index removed": ([("-wal", os.remove), ("-shm", os.remove)], [], True),
    "cut": ([("", lambda path: os.truncate(path, 4096))], None, None),
    "cut to nothing": ([("", lambda path: os.truncate(path, 0))], None, None),
}


@pytest.mark.parametrize("how", UNDER_WAY)
def test_under_a_running_program(broken, how):
    """What was taken is there afterwards, also after a SIGKILL right then; and no new store is made in the old one's place."""
    first, later, taken = UNDER_WAY[how]

    def each(route, steps):
        for ending, step in steps:
            path = broken.file(route)
            step(os.path.dirname(path) if ending == "/" else path + ending)

    with broken.lives():
        for route in ROUTES:
            since = broken.mark(route)
            broken.taken(route)
            with broken.put_back_later(only_if=later is None):
                each(route, first)
                name, reply = broken.send(route)
                if taken:
                    assert reply.status == 200, (reply, broken.parts[route].log()[since:])
                elif taken is not None:
                    is_error(reply, "not_stored")
                    broken.says(route, r'msg="not stored" store=(missing|corrupt) detail="[^"]*(No such file|its write-ahead log is there)', since)
                    broken.checked("store, %s: .*(No such file|its write-ahead log is there)" % route)
                    is_error(broken.send(route, by=broken.cgi)[1], "not_stored")
                    assert not os.path.exists(broken.file(route))
                if "cut" in how:
                    # Healed out of the log, or refused: in no case taken and lost.
                    assert reply.status == 200 or is_error(reply, "not_stored")
                    broken.says(route, "was removed, cut or replaced while it was in use", since)
                    if reply.status == 200 or name:
                        broken.sent[name][3] = 0
                each(route, later or [])
            if "index" not in how and "folder" not in how:
                broken.says(route, "was removed, cut or replaced while it was in use", since)
    for route in ROUTES:
        broken.stop(route, number=9)
        broken.start_program(route)
    all_taken(broken)
    broken.settle()


def test_a_copy_put_in_place_under_a_running_program(broken):
    """The old one's log is not taken for the copy's; it is kept, and the old one has what was taken last."""
    for route in ROUTES:
        known = set(broken.sent)
        with broken.lives(), broken.put_back_later():
            last = broken.taken(route)
            os.link(broken.file(route), broken.file(route) + ".old")
            shutil.copy(broken.copy_of(route), broken.file(route) + ".copy")
            os.rename(broken.file(route) + ".copy", broken.file(route))
            new = broken.taken(route)
            names = {row["session_uuid"] or row["respondent_id"] for row in broken.rows("events", "--json")}
            assert new in names and last not in names
            assert "failed" not in [line.split()[0] for line in broken.examhook("check", "--full").stdout.splitlines()]
            shutil.copy(broken.file(route) + ".old", broken.path("old.db"))
            with contextlib.closing(sqlite3.connect(broken.path("old.db"))) as db:
                column, table = {"examjoint": ("respondent_id", "events"), "proview": ("session_uuid", "callbacks")}[route]
                assert db.execute("SELECT count(*) FROM %s WHERE %s = ?" % (table, column), (last,)).fetchone()[0] == 1
        for name in set(broken.sent) - known:
            del broken.sent[name]
    broken.settle()


def test_a_log_after_a_crash(broken):
    """Garbage behind the log is what a crash leaves; and its index is made anew."""
    for number, route in enumerate(ROUTES):
        broken.taken(route)
        broken.stop(route, number=9)
        with open(broken.file(route) + "-wal", "ab") as f:
            f.write(os.urandom(10000))
        overwrite(broken.file(route) + "-shm", 0, os.urandom(32768)) if number else os.remove(broken.file(route) + "-shm")
        broken.start_program(route)
        broken.taken(route)
    broken.settle()


@pytest.mark.parametrize("how", ["gone", "cut to nothing", "a letter", "no header"])
def test_a_roster_broken_under_a_running_program(broken, how):
    """Whoever waits is told to come again; all other events are taken; a new import mends it, or the old file."""
    path = broken.path("store/roster/roster.db")
    with broken.lives():
        assert broken.verify().json == {}
        since = broken.mark("examjoint")
        shutil.copy2(path, path + ".kept")
        BREAKS[how][0](path)
        is_error(broken.verify(), "not_stored")
        is_error(broken.verify("nobody"), "not_stored")
        broken.says("examjoint", r'level=error .*msg="not stored" store=(missing|corrupt|old) detail="[^"]*roster', since)
        broken.taken("examjoint")
        broken.checked("store, roster: .* — ")
        os.rename(path + ".kept", path)
        assert broken.verify().json == {}
    broken.settle()


@pytest.mark.parametrize("version, said, advice", [(99, "made by a newer examhook", "install the newer examhook"),
                                                   (0, "this program wants", "examhook migrate")])
def test_a_store_of_another_version(broken, version, said, advice):
    """Too new, too old: at the start, and where it becomes so under a running program that opens it anew."""
    with broken.away(*ROUTES), broken.put_back_later():
        for route in ROUTES:
            with contextlib.closing(sqlite3.connect(broken.file(route))) as db:
                db.execute("PRAGMA user_version = %d" % version)
            is_error(broken.send(route, by=broken.cgi)[1], "not_stored")
            assert said in broken.cgi_log and said in broken.fails(route)
            broken.checked("store, %s: .*%s.* — .*%s" % (route, said, advice))
            done = broken.examhook("events")
            assert done.returncode and said in done.stderr and "examhook" in done.stderr, done
    all_taken(broken)
    broken.settle()


# --- Duplicates at the same time -------------------------------------------------------------------------------------

def like(site, kind):
    """A new event of that kind; all of its deliveries have this body."""
    if kind == "callback":
        return "proview", site.made("proview")
    name = site.made("examjoint", pad=500)
    body = site.sent[name][1]
    body["event"] = kind
    if kind == "admitted_respondent":
        body["admittedOn"] = 1719221380326
    return "examjoint", name


@pytest.mark.parametrize("ways", ["loop", "cgi", "both"])
def test_duplicates_at_the_same_time(broken, ways):
    """One row, and each delivery counted: from many connections into the loop, from many CGI processes, and from both."""
    threads = {"loop": [None] * 24, "cgi": [broken.cgi] * 12, "both": [None, None, broken.cgi] * 8}[ways]
    events = [like(broken, kind) for kind in ("admitted_respondent", "result_ready", "investigation_complete", "something_new", "callback")]
    with concurrent.futures.ThreadPoolExecutor(len(threads)) as pool, broken.lives():
        for route, name in events:
            body = json.dumps(broken.sent[name][1]).encode()
            answers = [one.result() for one in [pool.submit(by or broken.post, route, body) for by in threads]]
            assert [answer.status for answer in answers] == [200] * len(threads), answers
            broken.sent[name][2] = broken.sent[name][3] = len(threads)
    broken.settle()
