"""Bulk work beside load at a small size, and that the bench notices what it is there to notice."""
import collections
import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import types

import pytest

from test_kills import HERE, PYTHON, environment
import bulk
import machine
import support

KINDS = ["import", "replace_exam", "export_csv", "backup", "purge", "check_full", "follow_stopped", "long_reader"]


def crowded():
    """How many times as long something takes as it would if this process had a processor for itself."""
    begun, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    return max(1, (time.monotonic() - begun) / (time.process_time() - used))


def test_bulk_work_refuses_and_loses_nothing():
    """The time an event may take is generous here: `make torture-bulk` is what measures it. A machine that is too busy for
    so many events a second gets fewer; none of them may take longer."""
    for share in (1, 2, 4):
        done = subprocess.run([PYTHON, os.path.join(HERE, "bulk.py"), "--stored", "5000", "--candidates", "5000",
                               "--passwords", "20", "--rate", str(100 / crowded() / share), "--quiet", "0.2", "--least", "0.4",
                               "--reader", "1", "--limit", "2000", "--only", ",".join(KINDS)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
                              check=False)
        last = done.stdout.splitlines()[-1]
        if done.returncode == 0:
            break
        # Tried again is what came late, and nothing else.
        assert "s late: are they too many" in last or "0 refused, 0 lost, worst delay" in last, done.stdout
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"torture-bulk: 8 kinds, [1-9]\d\d+ events, 0 refused, 0 lost, worst delay \d+ ms \(.+\), "
                        r"\d+ excluded", last), done.stdout


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


def test_an_event_that_is_not_even_sent_in_time_is_not_left_out():
    """One connection, and answers that take so long that the last ones are sent when all were due long ago."""
    load = bulk.Load.__new__(bulk.Load)
    load.rate, load.stop, load.sent, load.begun = 100, threading.Event(), collections.deque(), time.monotonic()
    load.lock, load.numbers = threading.Lock(), itertools.count()

    class Slow(bulk.Sender):
        def post(self, event):
            time.sleep(0.03)
            return 200, b"{}"
    load.senders = [Slow(load)]
    load.senders[0].start()
    time.sleep(0.2)
    assert len(load.between(load.begun + 0.1, load.begun + 0.195)) == 10
    load.end()


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


def test_work_is_in_a_session_of_its_own():
    """In the session of the programs its niceness would yield to them, and theirs would carry it before the kernel."""
    options = types.SimpleNamespace(least=0.1)
    site = bulk.Site(bulk.CONF)
    work = bulk.Work(site, options)
    try:
        processes = [work.start("events", "--follow") for _ in range(2)]
        sessions = {os.getsid(process.pid) for process in processes} | {os.getsid(0)}
        assert len(sessions) == 3
        work.kill()
        assert [process.wait(10) for process in processes] == [-signal.SIGKILL] * 2
        for process in processes:
            process.stderr.close()
    finally:
        work.kill()
        site.close()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows what is written")
def test_a_backup_leaves_little_to_be_written_at_once():
    """What lies in memory for half a minute is written by the kernel in one go, and commits wait for it."""
    site = bulk.Site(bulk.CONF)
    try:
        bulk.fill(site, 20000)
        subprocess.run(["strace", "-f", "-y", "-o", site.path("trace"), "-e", "trace=pwrite64,sync_file_range",
                        os.path.join(support.BUILD, "examhook"), "--config", site.conf_path, "backup",
                        site.path("backup")], check=True, env=environment(), stdout=subprocess.DEVNULL)
        with open(site.path("trace"), encoding="utf-8", errors="replace") as trace:
            calls = [line for line in trace if "examjoint/events.db.new>" in line]
    finally:
        site.close()
    written = brought_out = most = 0
    for call in calls:
        if "pwrite64(" in call:
            count, at = map(int, re.search(r", (\d+), (\d+)\) += ", call).groups())
            written = max(written, at + count)
        else:
            brought_out = max(brought_out, sum(map(int, re.search(r">, (\d+), (\d+), ", call).groups())))
        most = max(most, written - brought_out)
    assert written > 10 * 2**20
    assert most < 4 * 2**20


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows how often the lock is let go")
def test_a_purge_lets_go_of_the_lock_between_short_steps():
    """Events that come wait for the lock: for one step, however much is to be deleted."""
    site, count = bulk.Site(bulk.CONF), 4000
    try:
        bulk.fill(site, count)
        done = subprocess.run(["strace", "-f", "-y", "-o", site.path("trace"), "-e", "trace=flock",
                               os.path.join(support.BUILD, "examhook"), "--config", site.conf_path, "purge",
                               "--older-than", str(bulk.PURGE_DAYS)], check=True, env=environment(), stdout=subprocess.PIPE,
                              text=True)
        with open(site.path("trace"), encoding="utf-8", errors="replace") as trace:
            held = sum("examjoint/events.lock>, LOCK_EX" in line and " = 0" in line for line in trace)
    finally:
        site.close()
    assert done.stdout.startswith("%d events" % (count // 2))
    assert held >= count // 2 / 100, "steps of a hundred events at the most"


def test_the_probe_tells_when_the_machine_stood_still(tmp_path):
    begin = time.monotonic() # before it looks for the first time
    probe = machine.Machine(str(tmp_path))
    try:
        assert support.wait_for(lambda: probe.seen > 10)
        os.kill(probe.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(0.4)
        going = time.monotonic()
        os.kill(probe.process.pid, signal.SIGCONT)
        stalls = probe.stalls(begin, time.monotonic())
        assert machine.shared(stalls, stopped, going) > 0.3
        assert probe.stalls(begin, begin + 0.0001) == []
    finally:
        probe.close()
    assert probe.process.returncode == 0


def test_instants_count_once():
    spans = machine.united([(5, 6), (1, 3), (2, 4), (5.5, 5.6)])
    assert spans == [(1, 4), (5, 6)]
    assert machine.shared(spans, 3.5, 5.25) == 0.75
    assert machine.shared(spans, 4.1, 4.9) == 0


def one_try(took, stalls=(), quiet_stalls=()):
    """A try of one event, due at 10 s, where 20 ms are usual and 100 ms the limit."""
    event = bulk.Event(0, 10.0)
    event.took = took
    return bulk.Try([event], {event.kind: 20.0}, stalls, quiet_stalls, 100)


def test_each_event_counts_less_what_is_usual():
    assert bulk.judged([one_try(30), one_try(500), one_try(25)]) == (480, 0)


def test_a_machine_that_stood_still_is_left_out_and_told():
    late = one_try(500, [(10.0, 10.45)])
    assert (late.gross, late.excluded) == (480, 1)
    delay, excluded = bulk.judged([late, one_try(30)])
    assert delay == pytest.approx(30) and excluded == 1


def test_what_the_machine_did_not_stand_still_for_counts():
    late = one_try(500, [(9.0, 9.9), (10.1, 10.2), (11.0, 12.0)])
    assert (late.net, late.excluded) == (pytest.approx(380), 0)
    assert bulk.judged([late]) == (pytest.approx(380), 0)


def test_work_that_makes_the_machine_stand_still_is_ours():
    """Beside it again and again; a machine that does so in the quiet spells as well is left out."""
    beside = one_try(500, [(10.0, 10.45)])
    both = one_try(500, [(10.0, 10.45)], [(3.0, 3.2)])
    assert bulk.judged([beside, one_try(30), beside]) == (480, 0)
    assert bulk.judged([both, one_try(30), beside]) == (pytest.approx(30), 2)


def test_a_late_event_is_tried_again_only_where_the_machine_stood_still(monkeypatch, capsys):
    bench = bulk.Bench.__new__(bulk.Bench)
    bench.options = types.SimpleNamespace(tries=1)
    for tries, count in [([one_try(30)], 1), ([one_try(500)], 1), ([one_try(500, [(10.0, 10.45)])] * 2, 2),
                         ([one_try(500, [(10.0, 10.45)])] + [one_try(30)] * 4, 5)]:
        left = list(tries)
        monkeypatch.setattr(bench, "once", lambda name, left=left: left.pop(0))
        bench.kind("follow")
        assert (len(tries), left) == (count, [])
    assert "it counts" in capsys.readouterr().out
