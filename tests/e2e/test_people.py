"""People's data: what is purged is in no file any more, one person can be erased and exported, and what is old goes
by itself. What is looked for afterwards are bytes, in every file of the store."""
import contextlib
import fcntl
import json
import os
import pty
import sqlite3
import subprocess
import threading
import time
import uuid

import pytest

import calls
import worker_support
from accounts import CONF as SITE_CONF, rosters
from support import written_files
from test_cli import SECOND, Shop, UUID, admitted, change, clean_environment

DAY = 86400000
# Of "horse"; about a quarter of a second each.
BCRYPT_12 = "$2b$12$NHjwZ3zrl5rPEdb4bTe00eK3dAn1Ae8sPUdrecBDfLSZsJ/ysTMLi"
DONE = {"event": "result_ready", "exam_id": "exam-1"}


# Nobody answers there: what is due is taken in, and nothing of it is fetched.
NOBODY = "[worker]\nconnect_timeout = 1s\nrequest_timeout = 1s\nproxy = http://127.0.0.1:9\n"


def open_shop(folder, more=""):
    made = Shop(str(folder), more + NOBODY)
    made.ok("migrate")
    return made


@pytest.fixture
def shop(tmp_path):
    return open_shop(tmp_path)


def take_in(shop):
    """What the worker does where Talview cannot be reached."""
    shop.ok("work", "--once", "--budget", "5")


def retain(conf, days):
    with open(conf, encoding="utf-8") as f:
        text = f.read()
    with open(conf, "w", encoding="utf-8") as f:
        f.write(text.replace("[store]\n", "[store]\nretention = %dd\n" % days))


def holding(folder, *words):
    """Which of the words stand in which files."""
    return sorted((os.path.relpath(path, folder), word) for path, data in written_files(folder)
                  for word in words if word.encode().lower() in data.lower())


def store_of(shop):
    return os.path.join(shop.folder, "store")


def age(shop, days, where="1"):
    """Makes the stored rows older than they are, as only time does."""
    for file, table in (("examjoint/events.db", "events"), ("proview/callbacks.db", "callbacks")):
        change(shop, file, ("UPDATE %s SET received_at = received_at - ?, last_received_at = last_received_at - ?"
                            " WHERE %s" % (table, where), days * DAY, days * DAY))


# --- Purge ----------------------------------------------------------------------------------------------------


def test_purged_bytes_are_in_no_file(shop):
    shop.examjoint(admitted("canary-respondent", note="canary-note"))
    shop.examjoint(admitted("canary-respondent", note="canary-repeat"))
    assert shop.examjoint({"event": "result_ready", "exam_id": "e", "name": "canary-quarantined"})[0] == 422
    shop.examjoint({"event": "canary-event", "email": "canary@example.org"})
    shop.verify("canary-typed", "wrong")
    shop.proview(external="canary-external", message="canary-message")
    take_in(shop)
    old = int(time.time() * 1000) - 20 * DAY
    change(shop, "ratings/ratings.db",
           ("UPDATE sessions SET state = 'rated', next_attempt_at = NULL, lease_until = NULL, looked_at = ?,"
            " reply = '{\"name\":\"canary-reply\"}', rating_raw = 'canary-rating'", old),
           ("INSERT INTO history VALUES(1, 1, ?, 'high', 'canary-rating', NULL)", old))
    age(shop, 20)
    assert {word for _, word in holding(store_of(shop), "canary")} == {"canary"}
    assert shop.ok("purge", "--older-than", "10") == "4 events, 1 callbacks, 1 sessions deleted\n"
    assert holding(store_of(shop), "canary") == []
    assert shop.run("check", "--full").out.count("integrity_check: ok") == 4


def test_purge_beside_running_programs_under_load(make_site):
    """They hold the log open and pages of it in memory; no event waits or is refused."""
    site = make_site(SITE_CONF, rosters()).start()
    refused, slowest, stop = [], [0.0], threading.Event()

    def send(number):
        while not stop.is_set():
            body = {"event": "result_ready", "exam_id": "young", "respondent_id": str(uuid.uuid4()), "n": number}
            began = time.monotonic()
            reply = calls.examjoint(site, body)
            slowest[0] = max(slowest[0], time.monotonic() - began)
            if reply.status != 200:
                refused.append(reply.status)

    try:
        for i in range(600):
            calls.examjoint(site, {"event": "result_ready", "exam_id": "old", "respondent_id": "canary-%d" % i,
                                   "text": "canary" + "x" * (i * 37 % 3000)})
        with contextlib.closing(sqlite3.connect(site.path("store/examjoint/events.db"), timeout=10)) as db:
            db.execute("UPDATE events SET received_at = 1, last_received_at = 1 WHERE exam_id = 'old'")
            db.commit()
        senders = [threading.Thread(target=send, args=(i,)) for i in range(4)]
        for sender in senders:
            sender.start()
        time.sleep(0.5)
        assert site.ok("purge", "--older-than", "10") == "600 events, 0 callbacks, 0 sessions deleted\n"
        time.sleep(0.5)
        stop.set()
        for sender in senders:
            sender.join()
        assert refused == [] and slowest[0] < 5
        assert holding(site.path("store"), "canary") == []
        assert site.examhook("check", "--full").stdout.count("integrity_check: ok") == 4
    finally:
        stop.set()


def test_purge_without_a_number_takes_the_retention(tmp_path):
    shop = open_shop(tmp_path)
    assert "--older-than" in shop.fails(2, "purge")
    retain(shop.conf, 40)
    shop.examjoint(admitted("r1"))
    age(shop, 39)
    assert shop.ok("purge").startswith("0 events")
    age(shop, 2)
    assert shop.ok("purge").startswith("1 events")


# --- One person -----------------------------------------------------------------------------------------------


ROSTER = """id,email,name,password,about,matriculation
1001,Ada.Canary@example.org,Ada Canary,canary horse,about canary,canary-m-1
1002,bob@example.org,Bob Stays,horse,about bob,stays-m-2
"""
OTHER = "00000000-1111-2222-3333-444444444444"


def person(shop):
    """All that there can be of 1001, and something of 1002."""
    assert "errorMessage" in shop.verify("1001", "canary horse")  # before anybody of that name is in the roster
    shop.roster(ROSTER)
    assert shop.verify("1001", "canary horse")["metadata"]["name"] == "Ada Canary"
    assert "errorMessage" in shop.verify("1001", "wrong")
    shop.verify("1002", "horse")
    for who in ("1001", "1002"):
        shop.examjoint(admitted(who, name="canary-body" if who == "1001" else "stays-body"))
        shop.examjoint({**DONE, "respondent_id": who})
    shop.examjoint(admitted("1001", name="canary-repeat"))
    # Not understood, not known, and only named.
    assert shop.examjoint({**DONE, "respondent_id": 1001, "x": "canary-number"})[0] == 422
    shop.examjoint({"event": "canary_mailed", "to": {"email": "ada.canary@EXAMPLE.org"}})
    shop.examjoint({"event": "seat_changed", "respondent_id": "1002", "text": "stays: swapped with 1001, see there"})
    shop.examjoint({"event": "room_full", "count": 1001, "n": "11001"})
    shop.proview(external="1001", message="canary-message")
    shop.proview(external="canary-other-claim")
    shop.proview(uuid=OTHER, external="1002")
    take_in(shop)
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET external_id = '1001' WHERE session_uuid = ?", UUID))


def test_one_person_is_erased_and_nobody_else(shop):
    person(shop)
    before = len(shop.rows("events", "--json"))
    assert holding(store_of(shop), "canary", UUID)
    got = json.loads(shop.ok("respondent", "1001", "--erase", "--yes", "--json"))
    undecided = got.pop("undecided")
    assert got == {"roster_lines": 1, "events": 7, "callbacks": 2, "sessions": 1, "attempts": 2}
    assert holding(store_of(shop), "canary", UUID) == []
    texts = [row["event"] for row in shop.rows("events", "--json") if row["id"] in undecided]
    assert sorted(texts) == ["room_full", "seat_changed"]
    # Of 1002 all is there, and what counts of 1001: two callbacks of one session are one row now.
    rows = shop.rows("events", "--json")
    assert len(rows) == before - 1
    gone = [row for row in rows if row["identity"] == "erased:"]
    assert len(gone) == 7 and sum(row["deliveries"] for row in gone) == 8
    for row in gone:
        assert row["account"] == "main" and row["received_at"]
        assert [row[name] for name in ("respondent_id", "body", "positions")] == [None, None, None]
    assert sorted(str(row["event"]) for row in gone) == \
        ["None", "admitted_respondent"] + ["result_ready"] * 2 + ["verify_respondent"] * 3
    assert [row["outcome"] for row in gone if row["event"] == "verify_respondent"] == ["invalid", "valid", "invalid"]
    assert [row["id"] for row in shop.rows("roster", "list", "--json")] == ["1002"]
    assert shop.verify("1002", "horse")["metadata"]["name"] == "Bob Stays"
    assert len(shop.rows("respondent", "1002", "--json")) >= 5
    assert sorted(row["state"] for row in shop.rows("sessions", "--json")) == ["erased", "pending"]
    assert "nothing is stored" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
    shop.ok("respondent", "1002", "--erase", "--yes", "--also", undecided[0], "--also", undecided[1])
    assert holding(store_of(shop), "1001", "1002", "stays") == []


def test_what_comes_again_of_an_erased_person_is_only_counted(shop):
    person(shop)
    shop.ok("respondent", "1001", "--erase", "--yes")
    ids = [row["id"] for row in shop.rows("events", "--json")]
    assert shop.examjoint(admitted("1001", name="canary-third")) == (200, {})
    assert shop.examjoint({**DONE, "respondent_id": "1001"}) == (200, {})
    shop.proview(external="1001", message="canary-again")
    take_in(shop)
    rows = shop.rows("events", "--json")
    assert [row["id"] for row in rows] == ids
    assert [row["deliveries"] for row in rows
            if row["event"] == "admitted_respondent" and not row["respondent_id"]] == [3]
    assert [row["deliveries"] for row in rows if row["flags"] == "erased"] == [3]
    assert sorted(row["state"] for row in shop.rows("sessions", "--json")) == ["erased", "pending"]
    assert holding(store_of(shop), "canary", UUID) == []
    # Another event is a new fact.
    shop.examjoint({**DONE, "event": "investigation_complete", "respondent_id": "1001"})
    assert len(shop.rows("respondent", "1001", "--json")) == 1


def test_an_erasure_that_was_cut_short_is_finished_by_the_next(shop):
    """The lock of each file in turn is held by somebody else, so that it ends at every one of its steps."""
    for held in ("examjoint/events", "proview/callbacks", "ratings/ratings", "roster/roster"):
        person(shop)
        with open(os.path.join(store_of(shop), held + ".lock"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = shop.run("respondent", "1001", "--erase", "--yes")
            assert done.returncode == 4 and "do it again" in done.err, (held, done.err)
        shop.ok("respondent", "1001", "--erase", "--yes")
        assert holding(store_of(shop), "canary", UUID) == [], held
        # From the beginning, for the next turn.
        subprocess.run(["rm", "-r", store_of(shop)], check=True)
        shop.ok("migrate")


def test_a_session_of_somebody_else_is_not_erased_by_a_claim(shop):
    shop.proview(external="1001")
    take_in(shop)
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET external_id = '1002', state = 'rated'",))
    assert "mentions" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
    assert [row["state"] for row in shop.rows("sessions", "--json")] == ["rated"]
    # Whoever knows that it is this one names it.
    shop.ok("respondent", UUID, "--erase", "--yes")
    assert [row["state"] for row in shop.rows("sessions", "--json")] == ["erased"]


def test_an_id_of_two_accounts_is_erased_in_the_one_that_is_named(tmp_path):
    shop = open_shop(tmp_path, SECOND)
    shop.roster("id,name\n1001,Ada\n", "--account", "main")
    shop.roster("id,name\n1001,Another\n", "--account", "second")
    assert "--account" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
    assert "--account" in shop.fails(1, "export", "--respondent", "1001")
    assert [row["name"] for row in shop.rows("export", "--respondent", "1001", "--account", "second")] == ["Another"]
    shop.ok("respondent", "1001", "--erase", "--yes", "--account", "main")
    assert [row["account"] for row in shop.rows("roster", "list", "--json")] == ["second"]
    assert holding(store_of(shop), "Ada") == []


def answer(shop, word):
    """Erases at a terminal, where the question is answered."""
    master, slave = pty.openpty()
    process = subprocess.Popen(shop.command("respondent", "r1", "--erase"), stdin=slave, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=clean_environment())
    os.write(master, word.encode() + b"\n")
    out, err = process.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    return process.returncode, out.decode(), err.decode()


def test_erasing_asks_first(shop):
    shop.examjoint(admitted("r1"))
    assert "--yes" in shop.fails(2, "respondent", "r1", "--erase")
    code, _, err = answer(shop, "no")
    assert code == 1 and "1 events" in err and "nothing was erased" in err
    assert len(shop.rows("respondent", "r1", "--json")) == 1
    code, out, _ = answer(shop, "yes")
    assert code == 0 and "1 events" in out and "backup" in out
    assert shop.run("respondent", "r1").returncode == 1


def test_export_of_one_person(shop):
    person(shop)
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET reply = '{\"proctor\":\"about 1001\"}' WHERE"
                                        " session_uuid = ?", UUID))
    rows = shop.rows("export", "--respondent", "1001")
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {"candidate": 1, "event": 9, "delivery": 1, "session": 1,
                                                           "mention": 2}
    candidate = rows[0]
    assert (candidate["email"], candidate["attributes"], candidate["password_kind"]) == \
        ("Ada.Canary@example.org", {"matriculation": "canary-m-1"}, "sha512crypt")
    assert [row["reply"] for row in rows if row["kind"] == "session"] == [{"proctor": "about 1001"}]
    assert [row["body"]["name"] for row in rows if row["kind"] == "delivery"] == ["canary-repeat"]
    text = json.dumps(rows)
    assert "canary_mailed" in text and "$6$" not in text and "canary horse" not in text
    assert not any(word in text for word in ("stays", "Bob", "1002"))
    assert "nothing is stored" in shop.fails(1, "export", "--respondent", "nobody")
    assert shop.run("export", "--respondent", "1001", "--format", "csv").returncode == 2


# --- Retention ------------------------------------------------------------------------------------------------


def wait_until(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def old_things(site):
    """In both stores, one old and one young of each; the old ones have canaries in them."""
    for respondent in ("canary", "young"):
        calls.examjoint(site, {**DONE, "respondent_id": respondent})
        body = {"session_uuid": str(uuid.uuid4()), "external_id": respondent, "message": "m"}
        assert site.ask("POST", "/webhooks/proview/open", calls.pack(body)).status == 200
    for file, table, column in (("examjoint/events.db", "events", "respondent_id"),
                                ("proview/callbacks.db", "callbacks", "external_id")):
        with contextlib.closing(sqlite3.connect(site.path("store", file), timeout=10)) as db:
            db.execute("UPDATE %s SET received_at = received_at - ?, last_received_at = last_received_at - ?"
                       " WHERE %s = 'canary'" % (table, column), (60 * DAY, 60 * DAY))
            db.commit()


def reload(site):
    for name in ("examjoint", "proview"):
        site.parts[name].process.send_signal(1)


def test_programs_that_serve_nobody_delete_what_is_old(make_site):
    site = make_site(SITE_CONF, rosters()).start()
    old_things(site)
    time.sleep(2)
    assert len(site.rows("events", "--json")) == 4  # nothing said: nothing goes
    retain(site.conf_path, 50)
    reload(site)
    wait_until(lambda: len(site.rows("events", "--json")) == 2)
    wait_until(lambda: holding(site.path("store"), "canary") == [])
    for name in ("examjoint", "proview"):
        wait_until(lambda name=name: "retention was deleted" in site.parts[name].log())


def test_who_waits_for_a_password_check_does_not_keep_the_loop_running(make_site):
    """What is old goes by the way, a step a second; between two of them the program sleeps."""
    names = ["slow-%d" % i for i in range(3)]
    slow = "id,password_hash\n" + "".join("%s,%s\n" % (name, BCRYPT_12) for name in names)
    site = make_site(SITE_CONF, [*rosters(), ("acme", slow)]).start()
    with contextlib.closing(sqlite3.connect(site.path("store/examjoint/events.db"), timeout=10)) as db:
        db.executemany("INSERT INTO events(account, received_at, last_received_at) VALUES('acme', 1, 1)",
                       [()] * 20000)
        db.commit()
    assert calls.examjoint(site, {**DONE, "respondent_id": "now"}).status == 200
    process = site.parts["examjoint"].process.pid
    wrong, stop = [], threading.Event()

    def ran():
        with open("/proc/%d/task/%d/stat" % (process, process), encoding="ascii") as f:
            return sum(map(int, f.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def ask(name):
        while not stop.is_set():
            reply = calls.verify(site, name, "horse")
            if reply.status != 200 or "errorMessage" in reply.json:
                wrong.append(reply)

    askers = [threading.Thread(target=ask, args=(name,)) for name in names]
    try:
        for asker in askers:
            asker.start()
        time.sleep(0.5)
        retain(site.conf_path, 50)
        site.parts["examjoint"].process.send_signal(1)
        time.sleep(0.5)
        began, before = time.monotonic(), ran()
        time.sleep(4)
        used = (ran() - before) / (time.monotonic() - began)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert wrong == []
    assert len(site.rows("events", "--json")) > 1000  # it was not done meanwhile
    assert used < 0.3


def test_a_worker_deletes_the_sessions_that_are_old():
    world = worker_support.World(standin=False, accounts={"main": {}})
    try:
        world.callback()
        world.callback(external_id="young")
        world.once("--budget", "5")
        world.database("UPDATE sessions SET state = 'rated', next_attempt_at = NULL, lease_until = NULL,"
                       " looked_at = ?", int(time.time() * 1000) - 40 * DAY)
        world.database("UPDATE sessions SET looked_at = ? WHERE claimed_external_id = 'young'",
                       int(time.time() * 1000))
        retain(world.conf, 30)
        world.daemon()
        worker_support.wait_for(lambda: len(world.sessions()) == 1)
    finally:
        world.close()


def test_work_once_deletes_for_all_where_no_program_lives_on(shop):
    """Plain CGI: cron is all there is."""
    for who in ("canary", "young"):
        shop.examjoint({**DONE, "respondent_id": who})
    shop.proview(external="canary")
    shop.proview(uuid=OTHER, external="young")
    take_in(shop)
    now = int(time.time() * 1000)
    change(shop, "ratings/ratings.db",
           ("UPDATE sessions SET state = 'parked', next_attempt_at = NULL, looked_at = ?, lease_until = NULL", now),
           ("UPDATE sessions SET looked_at = ? WHERE session_uuid = ?", now - 50 * DAY, UUID))
    age(shop, 50, where="id = 1")
    assert holding(store_of(shop), "canary")
    retain(shop.conf, 45)
    assert shop.run("work", "--once", "--budget", "20").err == ""
    assert [row["respondent_id"] or row["external_id"] for row in shop.rows("events", "--json")] == ["young", "young"]
    assert [row["session_uuid"] for row in shop.rows("sessions", "--json")] == [OTHER]
    assert holding(store_of(shop), "canary", UUID) == []


def test_a_clock_years_ahead_empties_nothing(shop):
    """At every start of a process, which plain CGI has by the minute. What it sees is what it would see if all
    were that old."""
    for who in ("r1", "r2"):
        shop.examjoint({**DONE, "respondent_id": who})
    retain(shop.conf, 30)
    age(shop, 9000)
    for turn in range(3):
        done = shop.run("work", "--once", "--budget", "10")
        assert done.returncode == 0, done.err
        assert ("clock is far ahead" in done.err) == (turn == 0), done.err  # once an hour
    assert len(shop.rows("events", "--json")) == 2
    # By hand, it is the operator's word that counts.
    assert shop.ok("purge").startswith("2 events")
