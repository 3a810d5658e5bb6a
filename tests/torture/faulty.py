"""Makes one system call of the storage path go wrong: compiles faulty.c, and tells it by a mapped file which and how.

A call counts when it concerns a file below the folder `below`. The faults are real: a short write writes its half and
says so, a torn one writes its half and the process is killed, a late error comes when all is done, and a kill comes
right after the call.
"""
import collections
import ctypes
import errno
import mmap
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CALLS = ("none", "open", "read", "write", "sync", "truncate", "allocate", "rename", "link", "unlink", "lock", "flock",
         "map", "close", "stat", "mkdir", "mode", "unlock", "say", "look")
ERROR, LATE_ERROR, SHORT, NOTHING, TORN, KILL = range(1, 7)
# name: (how, errno)
FAULTS = {"EIO": (ERROR, errno.EIO), "ENOSPC": (ERROR, errno.ENOSPC), "EROFS": (ERROR, errno.EROFS), "EINTR": (ERROR, errno.EINTR),
          "EMFILE": (ERROR, errno.EMFILE), "ENOMEM": (ERROR, errno.ENOMEM), "late EIO": (LATE_ERROR, errno.EIO),
          "short": (SHORT, 0), "nothing": (NOTHING, 0), "torn": (TORN, 0), "kill": (KILL, 0)}
KILLS = ("torn", "kill")
# What may happen to each call. To unlock never fails, on a file that is open. A read needs no kill: what is on the disk
# is what was there after the call before. "look" is an open that only reads.
POSSIBLE = {
    "open": ("EIO", "ENOSPC", "EROFS", "EINTR", "EMFILE", "kill"), "look": ("EIO", "EINTR", "EMFILE", "kill"),
    "read": ("EIO", "EINTR", "short"), "write": ("EIO", "ENOSPC", "EROFS", "EINTR", "short", "nothing", "torn", "kill"),
    "sync": ("EIO", "ENOSPC", "EROFS", "EINTR", "late EIO", "kill"), "truncate": ("EIO", "ENOSPC", "EROFS", "EINTR", "kill"),
    "allocate": ("EIO", "ENOSPC", "EROFS", "EINTR", "kill"), "rename": ("EIO", "ENOSPC", "EROFS", "EINTR", "late EIO", "kill"),
    "link": ("EIO", "ENOSPC", "EROFS", "EINTR", "late EIO", "kill"), "unlink": ("EIO", "EROFS", "EINTR", "late EIO", "kill"),
    "lock": ("EIO", "EINTR"), "flock": ("EIO", "EINTR", "kill"), "map": ("ENOMEM",), "close": ("late EIO",),
    "stat": ("EIO",), "mkdir": ("EIO", "ENOSPC", "EROFS", "kill"), "mode": ("EIO", "EROFS", "kill"), "unlock": ("kill",),
    "say": ("EIO", "EINTR", "short", "kill")}
# What the kernel refuses on a file system that an error made read-only (errors=remount-ro), whoever has files open there.
WRITING = tuple(call for call, faults in POSSIBLE.items() if "EROFS" in faults)
SEEN_MAX = 60000


class Control(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in
                ("count", "first", "length", "calls", "fault", "error", "fired", "say")] + [("seen", ctypes.c_uint8 * SEEN_MAX)]


def compiled(folder):
    path = os.path.join(folder, "faulty.so")
    subprocess.run(["cc", "-std=c17", "-D_GNU_SOURCE", "-O1", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden",
                    "-o", path, os.path.join(HERE, "faulty.c")], check=True)
    return path


class Faulty:
    """One process, or one that follows another, in which calls can go wrong. `environment` makes it so."""

    def __init__(self, folder, below, library, say=True):
        handle, self.path = tempfile.mkstemp(prefix="control-", dir=folder)
        os.truncate(handle, ctypes.sizeof(Control))
        self.map = mmap.mmap(handle, ctypes.sizeof(Control))
        os.close(handle)
        self.control = Control.from_buffer(self.map)
        self.control.say = say
        self.environment = {"FAULTY_CONTROL": self.path, "FAULTY_BELOW": below, "LD_PRELOAD": library,
                            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")}

    def arm(self, first, fault, length=1, calls=None):
        """From the call `first` on, counted from now, `length` calls go wrong that can in this way; `calls` limits them."""
        how, error = FAULTS[fault]
        control = self.control
        control.first = control.count = control.fired = 0
        control.length, control.fault, control.error = length, how, error
        control.calls = sum(1 << CALLS.index(call) for call in calls or POSSIBLE if fault in POSSIBLE[call])
        control.first = first

    def rest(self):
        """No more faults; how many there were."""
        self.control.first = 0
        return self.control.fired

    def met(self):
        """The first call that was to go wrong."""
        return CALLS[self.control.seen[min(self.control.first, SEEN_MAX - 1)]]

    def listen(self):
        self.rest()
        self.control.count = self.control.fired = 0

    def heard(self):
        """The calls since listen(), in their order."""
        return [CALLS[n] for n in self.control.seen[1:min(self.control.count + 1, SEEN_MAX)]]


class Tally:
    """What was tried and what came of it."""

    def __init__(self):
        self.points = self.accepted = self.lost = self.doubled = self.broken = 0
        self.by_call, self.wrong = {}, []
        self.searches = collections.Counter() # for secrets, by the fault before it

    def point(self, call, fault):
        self.points += 1
        self.by_call[call, fault] = self.by_call.get((call, fault), 0) + 1

    def searched(self, fault, leak):
        """What came of a search right after this fault."""
        self.searches[fault] += 1
        return leak

    def merge(self, other):
        for name in ("points", "accepted", "lost", "doubled", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for pair, count in other.by_call.items():
            self.by_call[pair] = self.by_call.get(pair, 0) + count
        self.searches.update(other.searches)
        self.wrong += other.wrong

    def add(self, other, title, note):
        """One series; it is said at once."""
        wrong, other.wrong = other.wrong, ["%s: %s" % (title, text) for text in other.wrong]
        self.merge(other)
        print("%-34s %6d points, %6d accepted; %s%s" % (title, other.points, other.accepted, note,
                                                       ", %d WRONG" % len(wrong) if wrong else ""), flush=True)

    def table(self):
        faults = [fault for fault in FAULTS if any(pair[1] == fault for pair in self.by_call)]
        yield "%-10s" % "" + "".join("%9s" % fault for fault in faults)
        for call in CALLS:
            row = [self.by_call.get((call, fault), 0) for fault in faults]
            if any(row):
                yield "%-10s" % call + "".join("%9s" % (count or "") for count in row)

    def close(self):
        """Prints it all; the exit status."""
        print("\npoints by call and fault:")
        for line in self.table():
            print(line)
        for text in self.wrong[:20]:
            print("wrong: " + text)
        if len(self.wrong) > 20:
            print("... and %d more" % (len(self.wrong) - 20))
        print("searched for secrets right after: " + ", ".join("%s %d" % (f, self.searches[f]) for f in FAULTS if self.searches[f]))
        print("torture-faults: %d points, %d accepted, %d lost, %d doubled, %d not whole" % (
            self.points, self.accepted, self.lost, self.doubled, self.broken))
        return 1 if self.wrong or self.lost or self.doubled or self.broken else 0


class Share(collections.namedtuple("Share", "part parts")):
    """Of the calls of one series those that one job tries: a long one is divided among several."""

    def __str__(self):
        return " (%d/%d)" % (self.part, self.parts) if self.parts > 1 else ""


WHOLE = Share(1, 1)


def chosen(calls, most, share=WHOLE):
    """[(n, call)] of a list of calls: at most about so many of one kind, always the first and the last ones."""
    by_call, keep = {}, set()
    for n, call in enumerate(calls, 1):
        by_call.setdefault(call, []).append(n)
    for those in by_call.values():
        step = (len(those) - 1) // most + 1
        edge = min(8, most)
        keep.update(those[::step] + those[-edge:] + those[:edge])
    return [(n, calls[n - 1]) for n in sorted(keep)][share.part - 1::share.parts]


def try_points(tally, points, try_point):
    """Each possible fault at each of these calls; `try_point(tally, n, call, fault)` gives what is wrong, or None."""
    for n, call in points:
        for fault in POSSIBLE[call]:
            try:
                wrong = try_point(tally, n, call, fault)
            except AssertionError as failed:
                wrong = str(failed)
            if wrong:
                tally.wrong.append("%s at call %d, %s: %s" % (fault, n, call, wrong))
