#!/usr/bin/python3
"""One fault at each single call of the storage path in turn, and whether anything accepted is lost by it.

    tests/torture/faults.py [--only WORDS] [--fault NAME] [--most N | --all] [--jobs N]

A small library of our own (faulty.c) is put in front of the C library of the real programs. For each call that
concerns the store, in turn: EIO, ENOSPC, EROFS, EINTR, too many open files, no memory for a map, a write of which really only
a half is done, one of which nothing is, one torn by a kill, an error that is said after all was done, and a SIGKILL
right after the call; for each call those that can happen to it. The series:

    CGI                     one event to a process of its own; each kind of event, and a store that is new, used, about
                            to move its write-ahead log, or in a rollback journal's mode
    CGI, 4 at once          several such processes, half of them with a fault
    served                  the FastCGI programs: the same process must go on by itself after a fault, after 25 faults
                            in a row, and after a call that went wrong each time for three requests, or all that a
                            disk refuses which an error made read-only
    served and killed, served at a checkpoint
    examhook ...            the commands that write: then the old or the new is there, whole, and the next run succeeds;
                            an erasure and a retention also lose nothing of others, and leave no byte once they are done
    examhook work           the worker's store: each session is rated once, with no more calls than are allowed

What was answered 2xx must be stored once with its body. Otherwise it is sent again without a fault, must be taken, and
stored once. Every secret is a canary and is looked for right after each fault, and again at the end of each point: in all
that was written, answered and logged, in temporary files, and in the processes meanwhile. A refusal is one of the documented words; integrity_check says ok. Of a series with very many calls of one
kind (a checkpoint, a migration, the worker) about --most of each kind are tried, the first and last always; what was
tried is said. With --all each single call is, which takes about an hour. The last line is

    torture-faults: N points, N accepted, N lost, N doubled, N not whole

and the exit status 1 when anything is wrong.
"""
import argparse
import multiprocessing
import shutil
import signal
import sys
import tempfile

import faults_cgi
import faults_commands
import faults_people
import faults_served
import faults_worker
from faults_place import let_cores_be_written
from faulty import FAULTS, POSSIBLE, Share, Tally, compiled

EVERY = 1 << 20
MANY_EVENTS = 120
# Into how many jobs a long series is divided when each of its calls is tried; others are one.
PARTS = {"work": 3, "command migrate": 3, "command backup": 3, "command purge": 3,
         "command respondent --erase": 4, "command work with a retention": 24, "checkpoint event": 4, "checkpoint callback": 4}


def fewer(most, times):
    """Of a series in which each point takes long."""
    return most if most == EVERY else max(1, most // times)


def long_jobs(library, most):
    """What takes longest comes first."""
    for name, of in faults_people.COMMANDS.items():
        yield "command " + name, faults_commands.try_command, (library, name, fewer(most, 6)), {"of": of}
    yield "work", faults_worker.try_worker, (library, fewer(most, 3)), {}
    for kind in ("event", "callback"):
        yield "checkpoint " + kind, faults_served.try_checkpoint, (library, kind, most), {}
    for name in faults_commands.COMMANDS:
        yield "command " + name, faults_commands.try_command, (library, name, most), {}


def jobs(library, most):
    """(name, function, arguments, named arguments)"""
    for name, function, arguments, more in long_jobs(library, most):
        parts = PARTS.get(name, 1) if most == EVERY else 1
        for part in range(parts):
            yield name, function, arguments, {**more, "share": Share(part + 1, parts)}
    for kind, state in faults_cgi.SERIES:
        whole = EVERY if state != "checkpoint" and most > 1 else most
        yield "cgi %s %s" % (kind, state), faults_cgi.try_series, (library, kind, state, whole), {}
    for kind in ("event", "callback"):
        for state in ("used", "rollback"):
            events = MANY_EVENTS if most > 1 else 60
            yield "many %s %s" % (kind, state), faults_cgi.try_many, (library, kind, state, events), {}
    for kind in faults_served.KINDS:
        yield "served " + kind, faults_served.try_living, (library, kind, EVERY if most > 1 else most), {}
        yield "killed " + kind, faults_served.try_killed, (library, kind, EVERY if most > 1 else most), {}


def run(job):
    name, function, arguments, more = job
    try:
        return function(*arguments, **more)
    except Exception as broken: # a series that cannot be tried must not pass for a good one, nor end the others
        tally = Tally()
        tally.wrong.append("could not be tried: %r" % broken)
        return name, tally, "nothing"


def main():
    parser = argparse.ArgumentParser(description="One fault at each call of the storage path in turn.")
    parser.add_argument("--only", action="append", help="the series whose name has these words: cgi, many, served, killed,"
                        " checkpoint, command, work, and the event, the state or the command")
    parser.add_argument("--most", type=int, default=12, help="about so many calls of one kind in a long series; 1: in every one")
    parser.add_argument("--all", action="store_const", dest="most", const=EVERY, help="each call of the long series too: about an hour")
    parser.add_argument("--jobs", type=int, default=3, help="series at one time")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only these faults")
    options = parser.parse_args()
    for call in POSSIBLE:
        POSSIBLE[call] = tuple(fault for fault in POSSIBLE[call] if fault in (options.fault or FAULTS))
    if not shutil.which("cc"):
        sys.exit("faults: there is no C compiler")
    let_cores_be_written()
    # So that its folders go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    total, folder = Tally(), tempfile.mkdtemp(prefix="examhook-faulty-")
    try:
        wanted = [job for job in jobs(compiled(folder), options.most)
                  if not options.only or any(set(only.split()) <= set(job[0].split()) for only in options.only)]
        if not wanted:
            sys.exit("faults: no such series")
        with multiprocessing.Pool(options.jobs) as pool:
            for title, tally, note in pool.imap_unordered(run, wanted):
                total.add(tally, title, note)
            pool.close()
            pool.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return total.close()


if __name__ == "__main__":
    sys.exit(main())
