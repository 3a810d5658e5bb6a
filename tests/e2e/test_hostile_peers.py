"""Hostile FastCGI peers, both programs: whatever comes, others are served, nothing spins, nothing grows without bound.
What a peer is told in each single case is in test_fastcgi.py."""
import array
import fcntl
import json
import os
import random
import secrets
import signal
import socket
import termios
import threading
import time
import uuid
from pathlib import Path

import pytest

import fastcgi
import hardening
from fastcgi import Peer, post, record, request
from support import kept_waiting, wait_for
from test_fastcgi import BUILD, SECRETS, Program, event, slots_taken, state_of, verification

BATCHES = int(os.environ.get("HOSTILE_BATCHES", "12"))
SEED = os.environ.get("HOSTILE_SEED") or secrets.token_hex(4)
# A sanitizer's own memory and time are no matter of ours.
SANITIZED = hardening.sanitized(BUILD / "examjoint.fcgi")
MIB = 1024 * 1024


class Target(Program):
    """A program and ordinary requests for it; `wait` is how long it waits for a request to come whole."""

    def __init__(self, folder, name, wait="1s"):
        super().__init__(folder)
        self.stop()
        text = self.config.read_text().replace("request_wait = 1s", "request_wait = " + wait)
        if "[verify]" not in text:
            text += "[verify]\nbudget = 50s\n"
        self.config.write_text(text)
        self.name, self.path, self.log = name, folder / (name + ".sock"), folder / (name + ".log")
        self.start()
        self.served = 0

    def peer(self):
        return Peer(self.path, 40)

    def parts(self, n, **more):
        """(parameters, body) of an event that is one of its own for each n."""
        if self.name == "examjoint":
            body = event(n)
            return post(body, **SECRETS, **more), body
        body = json.dumps({"message": "m", "external_id": str(n), "session_uuid": str(uuid.UUID(int=n))}).encode()
        return post(body, path="/webhooks/proview/main", **more), body

    def ordinary(self, n, **how):
        return request(*self.parts(n), **how)

    def serves(self):
        """Another peer's ordinary event is stored, soon."""
        self.served += 1
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        began, waited = time.monotonic(), self.kept_waiting()
        peer = Peer(self.path, 120) # what counts is judged below
        peer.send(self.ordinary(10 ** 9 + self.served))
        status, _, body = peer.answer()
        peer.close()
        assert (status, body) == (200, b"{}")
        # Less than any time limit here, without what the machine kept the two of us from running.
        took, waited = time.monotonic() - began, self.kept_waiting() - waited
        assert took - waited < (20 if SANITIZED else 5)

    def kept_waiting(self):
        return kept_waiting(self.process.pid) + kept_waiting()

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def does_not_spin(self, seconds=1.0):
        """Once it has done what there was to do, which on a busy machine may take a while."""
        def calm():
            before = self.cpu()
            time.sleep(seconds)
            return self.cpu() - before < 0.3 * seconds
        assert wait_for(calm)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self, what):
        """Bytes at the most so far, of memory and of files in memory."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            values = dict(line.split(":", 1) for line in f)
        peak = int(values["VmHWM"].split()[0]) * 1024
        print("%s: %s: %.1f MiB at the most" % (self.name, what, peak / MIB))
        return peak


@pytest.fixture
def make_target(tmp_path):
    made = []

    def make(name, **how):
        made.append(Target(tmp_path, name, **how))
        return made[-1]
    yield make
    for one in made:
        assert one.stop() == 0, one.log.read_text()[-2000:]


@pytest.fixture(params=["examjoint", "proview"])
def target(request, make_target):
    return make_target(request.param)


def connect(target):
    """The queue of the socket may be full for a moment."""
    for _ in range(500):
        try:
            return target.peer()
        except BlockingIOError:
            time.sleep(0.02)
    raise AssertionError("nobody takes connections")


def try_send(peer, data):
    """False: the program closed the connection before all was sent."""
    try:
        peer.send(data)
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False


# --- Records that are cut, too large, or not what may come --------------------------------------------------

def test_a_request_cut_at_any_byte(target):
    data = target.ordinary(1)
    before = target.descriptors()
    for at in range(len(data)):
        peer = connect(target)
        peer.send(data[:at])
        peer.close()
    target.serves()
    assert len(target.stored()) == target.served
    assert wait_for(lambda: target.descriptors() <= before)


@pytest.mark.parametrize("name", ["examjoint", "proview"])
def test_a_request_in_two_pieces_at_any_byte(make_target, name):
    target = make_target(name, wait="30s")
    data = target.ordinary(1)
    halves = []
    for at in range(1, len(data)):
        peer = connect(target)
        peer.send(data[:at])
        halves.append((peer, at))
        if len(halves) == 100 or at == len(data) - 1:
            for half, rest in halves:
                half.send(data[rest:])
            assert [half.answer()[0] for half, _ in halves] == [200] * len(halves)
            halves.clear()
    row, = target.stored()
    assert row["deliveries"] == len(data) - 1


def test_two_hundred_that_drip(make_target):
    """Some bytes at a time on each. Half of them come to an end, the others wait for [server] request_wait in vain."""
    for name in ("examjoint", "proview"):
        target = make_target(name, wait="5s")
        data = target.ordinary(1)
        peers, before = [connect(target) for _ in range(200)], target.cpu()
        for at in range(0, len(data) - 1, 7):
            for peer in peers:
                peer.send(data[at:min(at + 7, len(data) - 1)])
            target.serves()
        for peer in peers[::2]:
            peer.send(data[-1:])
        assert [peer.answer()[0] for peer in peers[::2]] == [200] * 100
        assert all(peer.closed() for peer in peers[1::2])
        target.does_not_spin()
        assert target.cpu() - before < 5 or SANITIZED


def params_of(name, value):
    return fastcgi.begin() + record(fastcgi.PARAMS, fastcgi.pair(name, value)) + record(fastcgi.PARAMS)


def chunks(content, size=60000):
    return b"".join(record(fastcgi.PARAMS, content[at:at + size]) for at in range(0, len(content), size))


LONG = b"\xff\xff\xff\xff"
REFUSED = {
    "a name of 1025 bytes": params_of(b"N" * 1025, b"v"),
    "a name of none": params_of(b"", b"v"),
    "a value of 48 KiB": fastcgi.begin() + chunks(fastcgi.pair(b"N", b"v" * 49152)),
    "ten thousand parameters": fastcgi.begin() + chunks(fastcgi.pair(b"HTTP_A", b"v") * 10000),
    "a name of 2 GiB": fastcgi.begin() + record(fastcgi.PARAMS, LONG + b"\x01" + b"A" * 500),
    "a value of 2 GiB": fastcgi.begin() + record(fastcgi.PARAMS, b"\x01" + LONG + b"A" * 500),
    "both of 2 GiB": fastcgi.begin() + record(fastcgi.PARAMS, LONG + LONG + b"A" * 500),
    "a length cut by the end": fastcgi.begin() + record(fastcgi.PARAMS, b"\x01\xff\xff") + record(fastcgi.PARAMS),
    "a value cut by the end": fastcgi.begin() + record(fastcgi.PARAMS, b"\x01\x09Nv") + record(fastcgi.PARAMS),
    "a begin that is too short": record(fastcgi.BEGIN, b"\0\1\0"),
    "a begin of 64 KiB": record(fastcgi.BEGIN, b"\0\1" + b"\0" * 65000),
    "two begins": fastcgi.begin() + fastcgi.begin(),
    "a body before the parameters": fastcgi.begin() + record(fastcgi.STDIN, b"{}"),
    "an end from the wrong side": fastcgi.begin() + record(fastcgi.END, b"\0" * 8),
    "a body from the wrong side": fastcgi.begin() + record(fastcgi.STDOUT, b"Status: 200\r\n\r\n"),
    "a filter's data": fastcgi.begin() + record(8, b"x"),
    "a kind that there is not": fastcgi.begin() + record(255, b"x"),
    "the kind 0": fastcgi.begin() + record(0, b"x"),
    "GET_VALUES of 64 KiB": record(fastcgi.GET_VALUES, fastcgi.pair(b"N" * 64, b"") * 900, request_id=0),
    "GET_VALUES of one long name": record(fastcgi.GET_VALUES, fastcgi.pair(b"N" * 60000, b""), request_id=0),
    "a filter": fastcgi.begin(role=3),
    "the role 0": fastcgi.begin(role=0),
    "empty records without end": fastcgi.begin() + record(fastcgi.PARAMS, b"\x01\x01Nv", padding=255) * 700,
    "only padding": record(fastcgi.BEGIN, b"", padding=255) * 10,
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_at_once(make_target, what):
    """Not by the time limit, which is a minute here; also on a connection that has served a request."""
    for name in ("examjoint", "proview"):
        target = make_target(name, wait="60s")
        fresh = target.peer()
        try_send(fresh, REFUSED[what])
        assert fresh.closed()
        used = target.peer()
        used.send(target.ordinary(1, keep=True))
        assert used.answer()[0] == 200
        try_send(used, REFUSED[what])
        assert used.closed()
        target.serves()


MIDDLE = {
    "ABORT": record(fastcgi.ABORT),
    "ABORT of another": record(fastcgi.ABORT, request_id=2),
    "GET_VALUES": record(fastcgi.GET_VALUES, fastcgi.pair(b"FCGI_MAX_CONNS", b"") * 4, request_id=0),
    "another id": record(fastcgi.STDIN, b"{}", request_id=2),
    "the id 0": record(fastcgi.STDIN, b"{}", request_id=0),
    "parameters": record(fastcgi.PARAMS, fastcgi.pair(b"HTTP_X_CLIENT_ID", b"other")),
    "a begin": fastcgi.begin(),
}


@pytest.mark.parametrize("what", MIDDLE)
def test_in_the_middle_of_a_body(target, what):
    values, body = target.parts(1)
    data = fastcgi.begin() + record(fastcgi.PARAMS, fastcgi.params(values)) + record(fastcgi.PARAMS)
    data += record(fastcgi.STDIN, body[:9]) + MIDDLE[what] + record(fastcgi.STDIN, body[9:]) + record(fastcgi.STDIN)
    for size in (len(data), 7):
        peer = target.peer()
        for at in range(0, len(data), size):
            if not try_send(peer, data[at:at + size]):
                break
        assert peer.closed()
    target.serves()
    assert len(target.stored()) == target.served


def test_the_largest_id_is_a_request_like_another(target):
    values, body = target.parts(1)
    peer = target.peer()
    peer.send(fastcgi.begin(request_id=65535) + record(fastcgi.PARAMS, fastcgi.params(values), 65535) +
              record(fastcgi.PARAMS, b"", 65535) + record(fastcgi.STDIN, body, 65535) +
              record(fastcgi.STDIN, b"", 65535))
    assert peer.answer()[0] == 200


@pytest.mark.parametrize("more", [record(fastcgi.ABORT), b"\0" * 100, "request"], ids=["ABORT", "zeros", "request"])
def test_what_comes_while_a_password_is_checked(make_target, more):
    """It waits until the answer is out; a request is then a request, the rest is refused."""
    target = make_target("examjoint")
    body = verification(1)
    with slots_taken(target):
        peer = target.peer()
        peer.send(request(post(body, **SECRETS), body, keep=True))
        assert wait_for(lambda: not peer.unsent())
        time.sleep(0.1)
        peer.send(target.ordinary(1, keep=True) if more == "request" else more)
        target.does_not_spin()
        target.serves()
    assert "errorMessage" in json.loads(peer.answer()[2])
    if more == "request":
        assert peer.answer()[0] == 200
    else:
        assert peer.closed()
    target.serves()


@pytest.mark.parametrize("off", [-1, 1, -10 ** 9, 10 ** 17])
def test_a_body_of_another_length(target, off):
    values, body = target.parts(1)
    values["CONTENT_LENGTH"] = str(max(len(body) + off, 0))
    status, _, answer = target.ask(request(values, body))
    word = "body_too_large" if off > 65536 else "incomplete_body"
    assert (status, json.loads(answer)) == (413 if off > 65536 else 400, {"error": word})
    assert target.stored() == []


@pytest.mark.parametrize("length", ["-1", "+5", "0x10", " 7", "7 ", "1e3", "9" * 19, "9" * 400, "\u0661"])
def test_a_length_that_is_none(target, length):
    values, body = target.parts(1)
    values["CONTENT_LENGTH"] = length
    status, _, answer = target.ask(request(values, body))
    assert (status, json.loads(answer)) == (400, {"error": "invalid_length"})


def test_a_request_smuggled_in_a_body(target):
    """Whatever length is declared: the body's bytes are never a request of their own."""
    values, _ = target.parts(1)
    smuggled = target.ordinary(2)
    peer = target.peer()
    for length in (len(smuggled), len(smuggled) - 1, 0, 2, None):
        values["CONTENT_LENGTH"] = str(length)
        if length is None:
            del values["CONTENT_LENGTH"]
        peer.send(request(values, smuggled, keep=True))
        assert peer.answer()[0] == 400
    target.serves()
    assert len(target.stored()) == target.served


# --- Connections that are left, peers that do not read ------------------------------------------------------

def test_more_connections_than_there_may_be_opened_and_left(target):
    """2,500 with [server] connections at its 2,048, each with nothing, a byte, a part or a whole request."""
    before = target.descriptors()
    shapes = (b"", b"\1", target.ordinary(1)[:200], target.ordinary(1))
    left = []
    for n in range(2500):
        left.append(connect(target))
        try_send(left[-1], shapes[n % len(shapes)])
    target.serves()
    target.does_not_spin()
    for peer in left:
        peer.close()
    target.serves()
    assert wait_for(lambda: target.descriptors() <= before)
    assert target.memory("2,500 connections opened and left") < 64 * MIB or SANITIZED


def unread(peer):
    """Bytes that wait to be read by us."""
    count = array.array("i", [0])
    fcntl.ioctl(peer.socket, termios.FIONREAD, count)
    return count[0]


def test_a_peer_that_reads_none_of_a_thousand_answers(target):
    """When no more of them goes into the socket, the connection ends; what it asked for until then counts."""
    peer = target.peer()
    data, before = target.ordinary(1, keep=True), 0
    for answered in range(1000):
        if not try_send(peer, data):
            break
        if not wait_for(lambda: unread(peer) > before, 3, 0.0005):
            break
        before = unread(peer)
    else:
        raise AssertionError("a thousand answers lie unread")
    assert answered > 20
    target.serves()
    target.does_not_spin()
    row, = [row for row in target.stored() if row["deliveries"] > 1]
    assert row["deliveries"] >= answered


def test_bodies_without_end(target):
    """Declared too large, answered, and still coming, as fast as they can: they are cut off, others are served."""
    values, _ = target.parts(1)
    values["CONTENT_LENGTH"] = str(10 ** 12)
    head = fastcgi.begin() + record(fastcgi.PARAMS, fastcgi.params(values)) + record(fastcgi.PARAMS)
    more, cut = record(fastcgi.STDIN, b"x" * 65000) * 8, []

    def push():
        peer, end = connect(target), time.monotonic() + 30
        peer.send(head)
        while time.monotonic() < end:
            if not try_send(peer, more):
                cut.append(peer)
                return

    pushing = [threading.Thread(target=push) for _ in range(3)]
    for one in pushing:
        one.start()
    for _ in range(5):
        target.serves()
        time.sleep(0.2)
    for one in pushing:
        one.join()
    assert len(cut) == 3
    target.does_not_spin()
    assert target.memory("bodies without end") < 64 * MIB or SANITIZED


def test_peers_that_shut_one_side(target):
    """Half closed either way, before, within and behind the request."""
    data = target.ordinary(1)
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        for at in (0, 20, len(data) - 1, len(data)):
            peer = target.peer()
            try_send(peer, data[:at])
            peer.socket.shutdown(how)
            try_send(peer, data[at:])
            if how == socket.SHUT_WR and at == len(data):
                assert peer.answer()[0] == 200
            peer.close()
    target.serves()
    target.does_not_spin()


def test_a_request_and_the_end_at_once(target):
    """A web server that asks to keep the connection and sends nothing more: it is answered, and the connection closed."""
    peer = target.peer()
    peer.send(target.ordinary(1, keep=True))
    assert peer.answer()[0] == 200
    target.process.send_signal(signal.SIGSTOP)
    while state_of(target.process.pid) != "T":
        time.sleep(0.01)
    peer.send(target.ordinary(1, keep=True))
    peer.socket.shutdown(socket.SHUT_WR)
    target.process.send_signal(signal.SIGCONT)
    assert peer.answer()[0] == 200
    assert peer.closed()


def test_memory_that_silent_peers_can_hold(make_target):
    """As many as there may be, each with all but the last byte of the largest request that is taken."""
    for name in ("examjoint", "proview"):
        target = make_target(name, wait="60s")
        values, _ = target.parts(1)
        values.update({"HTTP_A%d" % n: "y" * 15000 for n in range(3)}, CONTENT_LENGTH="65536")
        data = request(values, b"x" * 65536)[:-1]
        peers = []
        for _ in range(400 if SANITIZED else 2040):
            peers.append(connect(target))
            peers[-1].send(data)
        target.serves()
        target.does_not_spin()
        peak = target.memory("2,040 peers with %d bytes each, unfinished" % len(data))
        assert peak < 400 * MIB or SANITIZED # the least of the units' MemoryMax is 512 MiB
        for peer in peers:
            peer.close()
        target.serves()


def test_memory_that_waiting_candidates_can_hold(make_target):
    """The tree of a body is some twenty times as large as it: only so many large ones may wait. Small ones always may."""
    target = make_target("examjoint", wait="60s")
    waiting, count = [], 200 if SANITIZED else 700
    with slots_taken(target):
        for n in range(count):
            body = verification(n)[:-1] + b',"more":[' + b"0," * 31900 + b"0]}"
            waiting.append(connect(target))
            waiting[-1].send(request(post(body, **SECRETS), body))
        waiting.append(connect(target))
        small = verification(1000)
        waiting[-1].send(request(post(small, **SECRETS), small))
        target.serves()
        # 8 MiB of the large ones wait, the others were told to try again.
        assert wait_for(lambda: sum(unread(peer) > 0 for peer in waiting) > count - 150, 30)
        assert unread(waiting[-1]) == 0
        peak = target.memory("%d candidates with 64 KiB each" % count)
    assert "errorMessage" in json.loads(waiting[-1].answer()[2])
    assert peak < 500 * MIB or SANITIZED # MemoryMax is 1 GiB


# --- At random ----------------------------------------------------------------------------------------------

class Mutator:
    def __init__(self, target, chance):
        self.target, self.chance = target, chance

    def records(self, keep):
        """A request as a list of records, in pieces of chance."""
        values, body = self.target.parts(self.chance.randrange(1000))
        content, out = fastcgi.params(values), [fastcgi.begin(keep)]
        size = self.chance.choice((1, 9, 100, 5000))
        out += [record(fastcgi.PARAMS, content[at:at + size]) for at in range(0, len(content), size)]
        out.append(record(fastcgi.PARAMS, padding=self.chance.choice((0, 0, 7, 255))))
        out += [record(fastcgi.STDIN, body[at:at + size]) for at in range(0, len(body), size)]
        return out + [record(fastcgi.STDIN)]

    def mutate(self, records):
        chance, at = self.chance, self.chance.randrange(len(records))
        what = chance.randrange(8)
        damaged = bytearray(records[at]) or bytearray(8)
        if what == 0: # a header's byte
            damaged[chance.randrange(min(8, len(damaged)))] = chance.choice((0, 1, 2, 9, 128, 255, chance.randrange(256)))
            records[at] = bytes(damaged)
        elif what == 1: # any byte
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            records[at] = bytes(damaged)
        elif what == 2:
            records.insert(at, records[chance.randrange(len(records))])
        elif what == 3:
            del records[at]
        elif what == 4:
            other = chance.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        elif what == 5:
            records.insert(at, chance.randbytes(chance.choice((1, 8, 300))))
        elif what == 6:
            records.insert(at, record(chance.randrange(12), chance.randbytes(chance.choice((0, 8, 70, 2000))),
                                      chance.choice((0, 1, 1, 2, 65535))))
        else:
            records[at] = records[at][:chance.randrange(len(records[at]) + 1)]
        return records or [b"\0"]

    def data(self):
        out = b""
        for _ in range(self.chance.choice((1, 1, 1, 3))):
            records = self.records(self.chance.random() < 0.5)
            for _ in range(self.chance.choice((0, 0, 1, 1, 2, 5))):
                records = self.mutate(records)
            out += b"".join(records)
        return out[:self.chance.randrange(len(out) + 1)] if self.chance.random() < 0.2 else out


def answers_of(peer):
    """The statuses of all that was answered until the connection ended."""
    found = []
    try:
        while True:
            found.append(peer.answer()[0])
    except (EOFError, OSError):
        return found


def batch(target, chance):
    """Some forty connections, their bytes interleaved in pieces of chance; how many events were acknowledged."""
    mutator, under_way = Mutator(target, chance), []
    everyone = [(connect(target), mutator.data()) for _ in range(chance.choice((1, 10, 40)))]
    under_way = [[peer, data] for peer, data in everyone]
    while under_way:
        one = chance.choice(under_way)
        size = chance.choice((1, 8, 64, 1000, 100000))
        alive = try_send(one[0], one[1][:size])
        one[1] = one[1][size:]
        if not alive or not one[1]:
            under_way.remove(one)
    acknowledged = 0
    for peer, _ in everyone:
        if chance.random() < 0.3:
            peer.close()
            continue
        try:
            peer.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        acknowledged += answers_of(peer).count(200)
        peer.close()
    return acknowledged


def test_records_damaged_at_random(target):
    """HOSTILE_BATCHES= runs it longer, HOSTILE_SEED= makes the same choices again."""
    print("seed", SEED)
    chance, acknowledged, before, used = random.Random(SEED + target.name), 0, target.descriptors(), target.cpu()
    for _ in range(BATCHES):
        acknowledged += batch(target, chance)
        target.serves()
    assert acknowledged > BATCHES / 4 # some were left as they were
    assert sum(row["deliveries"] for row in target.stored()) >= acknowledged + target.served
    assert wait_for(lambda: target.descriptors() <= before)
    target.does_not_spin()
    print("%s: %d batches, %d acknowledged, %.2f s of CPU" % (target.name, BATCHES, acknowledged, target.cpu() - used))
    assert target.memory("damaged records") < 64 * MIB or SANITIZED
