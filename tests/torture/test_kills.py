"""The kill harness at a small size, and that it notices what it is there to notice."""
import copy
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import kills  # noqa: E402
from canaries import Remains, forms  # noqa: E402
from support import PYTHON, environment  # noqa: E402


@pytest.mark.parametrize("options", [[], ["--cgi"]], ids=["fastcgi", "cgi"])
def test_ten_kills(options):
    for name in ["fcgiwrap", "spawn-fcgi"] if options else []:
        if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin"):
            pytest.skip("not installed: %s (make deps-hosting)" % name)
    done = subprocess.run([PYTHON, os.path.join(HERE, "kills.py"), "--kills", "10", *options], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300, check=False)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"torture: 10 kills, [1-9]\d* accepted, 0 lost, 0 doubled", last), done.stdout
    searched = re.search(r"^searched for (\d+) secrets", done.stdout, re.M)
    assert not kills.SEARCHED or searched and int(searched.group(1)) >= len(kills.KEPT.of) + 3, done.stdout


@pytest.mark.skipif(not kills.SEARCHED, reason="a sanitizer keeps copies of a program's memory of its own")
def test_it_notices_a_secret_that_was_left(tmp_path):
    """Of each secret, in each form; a password in the roster is there as a hash alone."""
    world = kills.World.__new__(kills.World)
    world.remains = Remains(kills.KEPT, str(tmp_path), "store", [kills.BCRYPT])

    def wrong():
        score = kills.Score()
        kills.search(world, score)
        return score.wrong
    for path in ("log/nginx.log", "store/examjoint/events.db-wal", "store/roster/roster.db", "tmp/some"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        for value in kills.KEPT.all():
            for form in forms(value):
                (tmp_path / path).write_bytes(b"before " + form + b" behind")
                assert len(wrong()) == (0 if value == kills.BCRYPT and "roster" in path else 1), (path, form)
        (tmp_path / path).unlink()
    assert not wrong()
    (tmp_path / "core.1").write_bytes(b"")
    assert "a core file" in wrong()[0]


class Stored:
    """In a world's place: what `examhook events --json` would list."""

    def __init__(self, rows):
        self.listed = rows

    def rows(self, *options):
        return [] if "--quarantined" in options else self.listed


def row_of(event):
    row = dict.fromkeys(("event", "exam_id", "respondent_id", "session_uuid", "external_id", "outcome", "identity"))
    row.update(account="main", deliveries=1, outcome=event.outcome, body=event.stored,
               identity=event.identity and event.identity + ("x" if event.identity.endswith(":") else ""))
    if event.kind == "callback":
        row.update(session_uuid=event.who, external_id=event.sent["external_id"])
    else:
        row.update(event=event.sent["event"], exam_id=event.exam, respondent_id=event.who)
    return row


def an_event(kind):
    number = 0
    while True:
        number += 1
        event = kills.Event(number, random.Random(number))
        if event.kind == kind:
            event.sends, event.acks, event.kills_before = 1, 1, 0
            return event


def compared(event, rows):
    score = kills.Score()
    score.events = [event]
    kills.compare_events(Stored(rows), score)
    return score


@pytest.mark.parametrize("kind", list(kills.KINDS))
def test_it_notices_each_difference(kind):
    event = an_event(kind)
    row = row_of(event)
    fine = compared(event, [row])
    assert (fine.wrong, fine.lost, fine.doubled) == ([], 0, 0)
    assert compared(event, []).lost == 1
    assert compared(event, [row, row]).doubled == 1
    other = copy.deepcopy(row)
    if event.outcome:
        other["outcome"] = "valid" if event.outcome == "invalid" else "invalid"
    else:
        other["body"]["note" if "note" in other["body"] else "message"] += " "
    assert any(text.startswith("another content") for text in compared(event, [other]).wrong)
    strange = dict(row, exam_id="never", respondent_id="never", session_uuid=None)
    assert any(text.startswith("never sent") for text in compared(event, [row, strange]).wrong)
    if not event.outcome:
        assert compared(event, [dict(row, deliveries=2)]).doubled == 1
        event.sends = event.acks = 2
        assert any("not counted" in text for text in compared(event, [row]).wrong)


def test_a_wrong_password_that_is_let_in_is_noticed():
    assert an_event("wrong").answered_wrongly(200, b"{}")
    assert not an_event("wrong").answered_wrongly(200, b'{"errorMessage": "no"}')
    assert an_event("right").answered_wrongly(200, b'{"errorMessage": "no"}')
    assert not an_event("right").answered_wrongly(200, b"{}")
