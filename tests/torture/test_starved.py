"""Memory that cannot be had, at each place where it is asked for: of one request of each kind in turn, by the loop and as CGI, the
n-th allocation fails. What the design is: our own buffers end the program at once, with status 70 and "out of memory" in
its log (systemd starts the next one; nothing was answered that is not committed), and libfcgi's by abort(); SQLite's
and crypt(3)'s are answered. Held: never a 2xx of what is not stored, no end by a signal, no password in a log, and the
next request is served. EXAMHOOK_STARVE_ALL=yes tries each single allocation, not some of each kind."""
import json
import mmap
import os
import signal
import struct
import subprocess

import pytest

from exhaust import BUILD, CLIENT, KEPT, PATHS, Disk
import fastcgi
from accounts import BCRYPT
from support import ListeningSocket, Part, Reply, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
TRIES = None if os.environ.get("EXAMHOOK_STARVE_ALL") else 25
CANARY = KEPT.add("CANARY-5aa1 secret word")
# Our own buffers end it; libfcgi's do so by an assertion. Core dumps are off.
ENDED_WELL = {70: "out of memory", -signal.SIGABRT: "fcgiapp.c:75: Malloc: Assertion `size == 0 || result != ((void *)0)' failed."}


@pytest.fixture(name="shim", scope="module")
def shim_fixture(tmp_path_factory):
    with open(os.path.join(BUILD, "examjoint.fcgi"), "rb") as f:
        if b"__asan_init" in f.read():
            pytest.skip("AddressSanitizer has an allocator of its own")
    path = str(tmp_path_factory.mktemp("starve") / "starve.so")
    subprocess.run([os.environ.get("CC") or "cc", "-shared", "-fPIC", "-O1", "-o", path, os.path.join(HERE, "starve.c")], check=True)
    return path


class Order:
    """Which allocation fails."""
    def __init__(self, path):
        self.path = path
        with open(path, "wb") as f:
            f.write(bytes(16))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 16)

    def fail_at(self, n):
        self.map[8:16] = bytes(8)
        self.map[0:8] = struct.pack("q", n)

    def count(self):
        n = struct.unpack("q", self.map[8:16])[0]
        self.fail_at(0)
        return n


def exiting(pid):
    """Whether the kernel is taking the process down, which it begins before it closes the sockets."""
    with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as f:
        return bool(int(f.read().rpartition(")")[2].split()[6]) & 0x4) # PF_EXITING


class Starved(Disk):
    """The programs under the shim, on sockets that outlive them."""
    def __init__(self, shim):
        self.shim = shim
        super().__init__()
        self.order = Order(self.path("order"))
        self.env = ["env", "LD_PRELOAD=" + shim, "EXAMHOOK_STARVE=" + self.order.path]
        self.sockets = {route: ListeningSocket(self.path("sock", route + ".sock")) for route in PATHS}
        self.deaths, self.died = [], ""

    def up(self, route):
        """Started again where it has ended, as systemd does."""
        part = self.parts.get(route)
        if part and part.alive():
            return
        if part:
            self.deaths.append(part.process.returncode)
            self.died += part.log()
        self.order.fail_at(0)
        serving = part.log().count("serving") if part else 0
        part = self.parts[route] = Part(route, self.env + [os.path.join(BUILD, route + ".fcgi"), "--config", self.conf_path],
                                        self.folder, self.sockets[route])
        assert wait_for(lambda: part.log().count("serving") > serving), part.log()

    def peer(self, route, body):
        """One request straight to the program: one delivery, whatever becomes of it."""
        values = fastcgi.post(body, PATHS[route], **{name.replace("-", "_"): value for name, value in CLIENT})
        peer = fastcgi.Peer(self.path("sock", route + ".sock"))
        try:
            peer.send(fastcgi.request(values, body))
            status, headers, said = peer.answer()
            return Reply(status, headers, said)
        except (EOFError, ConnectionError):
            part = self.parts[route]
            wait_for(lambda: not part.alive(), 0.5, 0.002)
            wait_for(lambda: not part.alive() or not exiting(part.process.pid), 60, 0.01)
            return Reply(0, {}, b"")
        finally:
            peer.close()

    def starved_cgi(self, route, body):
        """LD_PRELOAD by the environment; the count covers the whole process."""
        return self.cgi(route, body, env={"LD_PRELOAD": self.shim, "EXAMHOOK_STARVE": self.order.path})

    def close(self):
        for route in PATHS:
            self.up(route)
        try:
            super().close()
        finally:
            for one in self.sockets.values():
                one.close()


@pytest.fixture(name="starved", scope="module")
def starved_fixture(shim):
    one = Starved(shim)
    try:
        yield one
    finally:
        one.close()


def new(site, route):
    return site.sent[site.made(route)][1]


def bodies(site, kind):
    """Bodies of that kind without end."""
    known = new(site, "proview" if kind == "callback again" else "examjoint")
    while True:
        if kind == "callback":
            yield new(site, "proview")
        elif kind in ("callback again", "event again"):
            yield known
        elif kind == "unknown event":
            yield dict(new(site, "examjoint"), event="something_new", note="n")
        elif kind == "quarantined":
            yield {"event": "admitted_respondent", "exam_id": "e", "fields": [{"position": 1, "value": CANARY}], "n": len(site.sent)}
        elif kind in ("right", "wrong", "nobody"):
            who, word = {"right": ("ada", "horse bcrypt"), "wrong": ("ada", CANARY), "nobody": ("nobody", CANARY)}[kind]
            yield {"event": "verify_respondent", "exam_id": "e", "choosenLang": "en",
                   "fields": [{"position": 0, "value": who}, {"position": 1, "value": word}]}
        else:
            yield new(site, "examjoint")


KINDS = ["event", "event again", "unknown event", "quarantined", "right", "wrong", "nobody", "callback", "callback again"]
WANTED = dict.fromkeys(KINDS, 200) | {"quarantined": 422}
WORDS = {"not_stored", "store_full", "not_configured"}


def is_right(kind, reply):
    """The answer is the one that this kind has when nothing fails."""
    refused = "errorMessage" in reply.json
    return reply.status == WANTED[kind] and refused == (kind in ("wrong", "nobody"))


def may_answer(kind, reply):
    """None at all (the program ended), not stored, or the right one; a candidate may be told to come again."""
    if reply.status in (0, 503):
        return reply.status == 0 or reply.json["error"] in WORDS
    return is_right(kind, reply) or (kind == "right" and "again" in reply.json.get("errorMessage", ""))


def names(body):
    return body.get("session_uuid") or body.get("respondent_id")


def counted(site, body, reply):
    record = site.sent.get(names(body))
    if record:
        record[1], record[2], record[3] = body, record[2] + 1, record[3] + (reply.status == 200)


def sweep(site, kind, way):
    """(allocations of one such request, tried, answered otherwise)"""
    route = "proview" if kind.startswith("callback") else "examjoint"
    some = bodies(site, kind)

    def ask(n):
        body = next(some)
        site.up(route)
        site.order.fail_at(n)
        reply = way(route, json.dumps(body).encode())
        counted(site, body, reply)
        return reply, site.order.count()

    for _ in range(2): # the second one finds everything warm
        site.order.fail_at(0)
        reply, count = ask(1 << 40)
        assert is_right(kind, reply), reply
    step = max(1, count // TRIES) if TRIES else 1
    otherwise = 0
    for n in range(1, count + 1, step):
        reply, _ = ask(n)
        assert may_answer(kind, reply), (kind, n, reply)
        if way == site.starved_cgi:
            assert site.cgi_ended >= 0, (kind, n, site.cgi_ended, site.cgi_log)
            assert CANARY not in site.cgi_log
        otherwise += not is_right(kind, reply) if reply.status else 1
    reply, _ = ask(0)
    assert is_right(kind, reply), "the next one is served"
    return count, len(range(1, count + 1, step)), otherwise


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_without_memory(starved, kind):
    print("%s: %d allocations, %d tried, %d answered otherwise" % (kind, *sweep(starved, kind, starved.peer)))
    assert set(starved.deaths) <= set(ENDED_WELL), starved.deaths


@pytest.mark.parametrize("kind", ["event", "right", "wrong", "callback"])
def test_cgi_without_memory(starved, kind):
    print("%s: %d allocations, %d tried, %d answered otherwise" % (kind, *sweep(starved, kind, starved.starved_cgi)))


def test_nothing_was_lost_for_want_of_memory(starved):
    """Behind all the others: what was acknowledged is there once, and no log has a password."""
    starved.settle()
    logs = starved.died + "".join(part.log() for part in starved.parts.values())
    assert CANARY not in logs and BCRYPT not in logs
    for status in set(starved.deaths):
        assert ENDED_WELL[status] in starved.died, status
