"""Erasing and exporting one person where others look alike: one address for a family, an event that names two, a session
that two are claimed to have sat."""
import contextlib
import json
import os
import sqlite3
import time

from test_cli import UUID, change
from test_people import OTHER, holding, open_shop, shop, take_in  # pylint: disable=unused-import

FAMILY = """id,email,name,password
1001,family@example.org,Ada,horse
1002,Family@example.org,Bob,horse
"""


def erase(shop, person):
    return json.loads(shop.ok("respondent", person, "--erase", "--yes", "--json"))


def held(shop, person):
    return shop.rows("export", "--respondent", person)


def test_an_address_that_two_have_is_nobodys(shop):
    shop.roster(FAMILY)
    shop.examjoint({"event": "mailed", "to": "family@example.org", "text": "dear Bob"})
    assert [row["kind"] for row in held(shop, "1001")] == ["candidate", "mention"]
    got = erase(shop, "1001")
    assert (got["roster_lines"], got["events"], got["undecided"]) == (1, 0, ["e1"])
    assert shop.rows("events", "--json")[0]["body"]["text"] == "dear Bob"
    # Now only one has it.
    assert erase(shop, "1002")["events"] == 1


def test_what_two_would_have_typed_is_nobodys(tmp_path):
    shop = open_shop(tmp_path)
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read()
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text.replace("0 = id\n", "0 = email\n"))
    assert "errorMessage" in shop.verify("family@example.org", "horse")
    shop.roster(FAMILY.replace("Family@", "family@"))
    got = erase(shop, "1001")
    assert (got["events"], got["undecided"]) == (0, ["e1"])
    assert erase(shop, "1002")["events"] == 1


def test_an_event_that_names_another_too_is_left(shop):
    shop.examjoint({"event": "swapped", "seats": [{"respondent_id": "1001"}, {"respondent_id": "1002"}]})
    assert [row["kind"] for row in held(shop, "1001")] == ["mention"]
    assert "mentions" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
    assert shop.rows("events", "--json")[0]["event"] == "swapped"


def test_a_session_that_two_are_said_to_have_sat_is_left_until_it_is_known(shop):
    shop.proview(external="1002")
    shop.proview(external="1001", message="somebody's claim")
    take_in(shop)
    assert "mentions" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
    assert [row["state"] for row in shop.rows("sessions", "--json")] == ["pending"]
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET external_id = '1001'",))
    got = erase(shop, "1001")
    assert (got["sessions"], got["callbacks"]) == (1, 2)
    assert [row["state"] for row in shop.rows("sessions", "--json")] == ["erased"]


def test_a_session_that_names_anothers_session_is_not_given_out(shop):
    """What a callback claims is the sender's: also the UUID of a session."""
    shop.proview(external="1001")
    shop.proview(uuid=OTHER, external=UUID, message="of 1002")
    take_in(shop)
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET external_id = '1002' WHERE session_uuid = ?", OTHER))
    rows = held(shop, "1001")
    assert [row.get("session_uuid") for row in rows] == [UUID, UUID]
    assert "1002" not in json.dumps(rows)
    got = erase(shop, "1001")
    assert (got["sessions"], got["callbacks"]) == (1, 1)
    assert [row["session_uuid"] for row in shop.rows("sessions", "--json")][1:] == [OTHER]


def test_a_store_with_pages_of_another_kind_is_sound_after_a_purge(shop):
    """An operator who wants the file to shrink turns on auto_vacuum; its map of pages looks like a page of rows."""
    path = os.path.join(shop.folder, "store/examjoint/events.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executemany("INSERT INTO events(account, received_at, last_received_at, respondent_id, body) VALUES('main', ?,"
                       " ?, ?, ?)", [(day, day, "canary-%d" % i, json.dumps({"n": "canary" + "x" * (i * 37 % 9000)}))
                                     for i in range(2000) for day in [1 if i % 3 else time.time() * 1000]])
        db.commit()
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA auto_vacuum = FULL")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode = WAL")
    assert shop.ok("purge", "--older-than", "10").startswith("1333 events")
    assert shop.run("check", "--full").out.count("integrity_check: ok") == 4
    assert len(shop.rows("events", "--json")) == 667


def test_what_is_erased_is_nobodys_any_more(shop):
    """Under its digest a session is known when it comes again: a second erasure would forget it."""
    for who in ("1001", "1002"):
        shop.examjoint({"event": "result_ready", "exam_id": "e", "respondent_id": who})
    shop.proview(external="1001")
    erase(shop, "1001")
    digest = next(row["session_uuid"] for row in shop.rows("events", "--json") if row["source"] == "proview")
    assert digest.startswith("erased:")
    for name in (digest, "erased:"):
        assert "nothing is stored" in shop.fails(1, "respondent", name, "--erase", "--yes")
        assert "nothing is stored" in shop.fails(1, "export", "--respondent", name)
    shop.proview(external="1001")
    take_in(shop)
    assert shop.rows("sessions", "--json") == []


def test_the_same_command_again_overwrites_what_was_left_of_an_erasure(shop):
    """As after a kill behind its last row: nothing is found any more, and yet older states lie in the log."""
    shop.examjoint({"event": "result_ready", "exam_id": "e", "respondent_id": "1001", "x": "canary"})
    with contextlib.closing(sqlite3.connect(os.path.join(shop.folder, "store/examjoint/events.db"))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        assert "purge" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
        assert holding(os.path.join(shop.folder, "store"), "canary")
        reader.execute("ROLLBACK")
        assert "nothing is stored" in shop.fails(1, "respondent", "1001", "--erase", "--yes")
        assert holding(os.path.join(shop.folder, "store"), "canary") == []
