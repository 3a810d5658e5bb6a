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
