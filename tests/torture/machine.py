#!/usr/bin/python3
"""Does the machine itself stand still? A probe that has nothing to do with what is measured beside it.

    tests/torture/machine.py FOLDER    writes a line `WHAT BEGIN END` each time it looks, until its input ends

It appends 200 bytes to a file in FOLDER and syncs it, every 10 ms (`disk`), and it sleeps 5 ms and sees how late it
wakes (`sleep`, told only where that is much). It belongs in the session of those that are measured: the scheduler
shares the processors among sessions, and what theirs has to wait for is what counts. The times are CLOCK_MONOTONIC,
which all processes share.
"""
import contextlib
import os
import subprocess
import sys
import threading
import time

STALL = 0.05 # seconds: from here on the machine stood still
DISK_EVERY, SLEEP = 0.01, 0.005


def look_at_disk(folder):
    fd = os.open(os.path.join(folder, "probe"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    while True:
        begin = time.monotonic()
        os.write(fd, b"p" * 200)
        os.fdatasync(fd)
        yield "disk", begin, time.monotonic()
        time.sleep(DISK_EVERY)


def look_at_sleep():
    while True:
        begin = time.monotonic() + SLEEP
        time.sleep(SLEEP)
        end = time.monotonic()
        if end - begin >= STALL:
            yield "sleep", begin, end


def tell(looks):
    with contextlib.suppress(BrokenPipeError):
        for look in looks:
            os.write(1, b"%s %.6f %.6f\n" % (look[0].encode(), *look[1:]))


def united(spans):
    """The same instants without doubles, in their order."""
    result = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def shared(spans, begin, end):
    """How long of the time from begin to end is in the united spans."""
    return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in spans)


class Machine:
    """The probe, beside whatever is measured."""

    def __init__(self, folder):
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), folder], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.seen, self.stalled, self.known = 0, [], threading.Condition()
        self.until = 0.0 # the disk was looked at until then
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            what, begin, end = line.decode().split()
            with self.known:
                self.seen += 1
                if float(end) - float(begin) >= STALL:
                    self.stalled.append((float(begin), float(end)))
                if what == "disk":
                    self.until = float(end)
                    self.known.notify_all()

    def stalls(self, begin, end):
        """When it stood still then, as [(begin, end)]; waits until the probe knows."""
        with self.known:
            if not self.known.wait_for(lambda: self.until > end, 90):
                raise AssertionError("the probe of the disk tells nothing")
            return united((max(a, begin), min(b, end)) for a, b in self.stalled if b > begin and a < end)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    threading.Thread(target=tell, args=(look_at_disk(sys.argv[1]),), daemon=True).start()
    threading.Thread(target=tell, args=(look_at_sleep(),), daemon=True).start()
    sys.stdin.read()
