#!/usr/bin/python3
"""One fault at each single call of the storage path in turn, and whether anything accepted is lost by it.

    tests/torture/faults.py [--only WORDS] [--most N] [--jobs N]

A small library of our own (faulty.c) is put in front of the C library of the real programs. For each call that
concerns the store, in turn: EIO, ENOSPC, EINTR, too many open files, no memory for a map, a write of which really only
a half is done, one of which nothing is, one torn by a kill, an error that is said after all was done, and a SIGKILL
right after the call; for each call those that can happen to it. The series:

    CGI                     one event to a process of its own; each kind of event, and a store that is new, used, about
                            to move its write-ahead log, or in a rollback journal's mode
    CGI, 4 at once          several such processes, half of them with a fault
    served                  the FastCGI programs: the same process must go on by itself after a fault, after 25 faults
                            in a row, and after a call that went wrong each time for three requests
    served and killed, served at a checkpoint
    examhook ...            the commands that write: then the old or the new is there, whole, and the next run succeeds
    examhook work           the worker's store: each session is rated once, with no more calls than are allowed

What was answered 2xx must be stored once with its body. Otherwise it is sent again without a fault, must be taken, and
stored once. A refusal is one of the documented words; integrity_check says ok. Of a series with very many calls of one
kind (a checkpoint, a migration) about --most of each kind are tried, the first and last always; what was tried is
said. The last line is

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
import faults_served
import faults_worker
from faulty import Tally, compiled

EVERY = 1 << 20
MANY_EVENTS = 120


def jobs(library, most):
    """(name, function, arguments); what takes longest comes first."""
    yield "work", faults_worker.try_worker, (library, max(1, most // 3))
    for name in faults_commands.COMMANDS:
        yield "command " + name, faults_commands.try_command, (library, name, most)
    for kind, state in faults_cgi.SERIES:
        whole = EVERY if state != "checkpoint" and most > 1 else most
        yield "cgi %s %s" % (kind, state), faults_cgi.try_series, (library, kind, state, whole)
    for kind in ("event", "callback"):
        for state in ("used", "rollback"):
            yield "many %s %s" % (kind, state), faults_cgi.try_many, (library, kind, state, MANY_EVENTS if most > 1 else 60)
        yield "checkpoint " + kind, faults_served.try_checkpoint, (library, kind, most)
    for kind in faults_served.KINDS:
        yield "served " + kind, faults_served.try_living, (library, kind, EVERY if most > 1 else most)
        yield "killed " + kind, faults_served.try_killed, (library, kind, EVERY if most > 1 else most)


def run(job):
    name, function, arguments = job
    try:
        return function(*arguments)
    except Exception as broken: # a series that cannot be tried must not pass for a good one, nor end the others
        tally = Tally()
        tally.wrong.append("could not be tried: %r" % broken)
        return name, tally, "nothing"


def main():
    parser = argparse.ArgumentParser(description="One fault at each call of the storage path in turn.")
    parser.add_argument("--only", action="append", help="the series whose name has these words: cgi, many, served, killed,"
                        " checkpoint, command, work, and the event, the state or the command")
    parser.add_argument("--most", type=int, default=12, help="about so many calls of one kind in a long series; 1: in every one")
    parser.add_argument("--jobs", type=int, default=3, help="series at one time")
    options = parser.parse_args()
    if not shutil.which("cc"):
        sys.exit("faults: there is no C compiler")
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
