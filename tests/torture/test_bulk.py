"""Bulk work beside load at a small size, and that the bench notices what it is there to notice."""
import os
import re
import subprocess
import types

import pytest

from test_kills import HERE, PYTHON, environment
import bulk
import support

KINDS = ["import", "replace_exam", "export_csv", "backup", "purge", "check_full", "follow_stopped", "long_reader"]


def test_bulk_work_refuses_and_loses_nothing():
    """The time an event may take is generous here: `make torture-bulk` is what measures it."""
    done = subprocess.run([PYTHON, os.path.join(HERE, "bulk.py"), "--stored", "5000", "--candidates", "5000",
                           "--passwords", "20", "--rate", "100", "--quiet", "0.2", "--least", "0.4", "--reader", "1",
                           "--limit", "2000", "--only", ",".join(KINDS)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"torture-bulk: 8 kinds, [1-9]\d\d+ events, 0 refused, 0 lost, worst delay \d+ ms \(.+\)",
                        last), done.stdout


@pytest.mark.parametrize("number", range(5))
def test_an_event_that_is_refused_or_lost_is_noticed(number):
    event = bulk.Event(number, 0.0)
    row = {"event": "verify_respondent", "exam_id": event.who, "session_uuid": None, "respondent_id": None}
    if event.kind != "verify":
        row = {"event": "x", "exam_id": "exam-1", "session_uuid": None, "respondent_id": None}
        row["session_uuid" if event.kind == "callback" else "respondent_id"] = event.who
    event.judge(200, b"{}")
    assert event.fine
    assert not bulk.lost([event], [row])
    assert bulk.lost([event], []) == [event]
    assert bulk.lost([event], [row, row]) == [event]
    for status, body in [(503, b'{"error":"not_stored"}'), (429, b"{}"), (None, b"")]:
        event.judge(status, body)
        assert not event.fine
    event.judge(200, b'{"errorMessage": "wait"}')
    assert event.fine == (event.kind != "verify")
    assert bulk.Measure([event], 0).refused == (event.kind == "verify")


def test_an_event_is_late_from_the_instant_it_was_due():
    """One connection and an answer that takes long: the events behind it are late as well."""
    load = types.SimpleNamespace(numbers=iter(range(9)), sent=[])
    load.stop = types.SimpleNamespace(is_set=lambda: len(load.sent) > 2)
    begun = bulk.time.monotonic()
    load.next = lambda: bulk.Event(next(load.numbers), begun)

    class Slow(bulk.Sender):
        def post(self, event):
            bulk.time.sleep(0.1)
            return 200, b"{}"
    Slow(load).run()
    assert [event.took > 95 * (i + 1) for i, event in enumerate(load.sent)] == [True] * 3


@pytest.mark.parametrize("command", [["roster", "import", "-"], ["events", "--follow"]], ids=["import", "follow"])
def test_what_takes_long_lets_the_web_programs_go_first(command):
    site = bulk.Site(bulk.CONF)
    try:
        process = subprocess.Popen([os.path.join(support.BUILD, "examhook"), "--config", site.conf_path, *command],
                                   stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment())
        polite = max(15, os.getpriority(os.PRIO_PROCESS, 0))
        assert support.wait_for(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == polite)
        process.kill()
        process.communicate()
    finally:
        site.close()
