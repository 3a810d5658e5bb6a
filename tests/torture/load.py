#!/usr/bin/python3
"""What authentic events notice of clients that are slow, idle, rude or many.

    tests/torture/load.py [--seconds 20] [--connections 1000] [--kinds NAME,NAME] [--worker-connections 2048] [--rate 1]

The real nginx with the shipped files over TLS, and both programs. Events come at a steady pace from an address of
their own (127.0.0.2, as ExamJoint's would), callbacks from another, each on a new connection, and now and then a
candidate with the right password. First it is quiet; then each kind of attack of ATTACKS in turn does its worst from
other addresses, and the same events come. An event's time runs from the instant at which it was due, so that one that
waited for another's end counts in full.

An authentic event that gets no 2xx is refused, one that got it and is not in the store afterwards is lost. The last
line is

    torture-load: N kinds, N authentic events, N refused, N lost, worst p99 N ms (quiet N ms)

and the exit status 1 when any was refused or lost. Kinds marked `told apart by nothing` are measured and printed, and
count in none of these: there flood and events have the same address, or there are more slow connections than nginx
may have.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import secrets
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
from accounts import YESCRYPT  # noqa: E402
from support import PYTHON, Site  # noqa: E402

TOKEN = "torture-path-token-0123456789"
CLIENT = {"x-client-id": "torture-id", "x-client-secret": "torture-secret"}
EXAMJOINT_ADDRESS, TALVIEW_ADDRESS, OTHER_ADDRESS = "127.0.0.2", "127.0.0.3", "127.0.0.9"
EXAMJOINT, PROVIEW = "/webhooks/examjoint", "/webhooks/proview/main/" + TOKEN
CANDIDATES = 500
CONF = """
[examjoint main]
client_id = torture-id
client_secret = torture-secret

[proview main]
path_token = %s

[proview open]
callback_open = yes

[fields]
0 = id
1 = password
""" % TOKEN


def post(path, body, headers=()):
    """A request as bytes."""
    lines = ["POST %s HTTP/1.1" % path, "Host: localhost", "Content-Length: %d" % len(body)]
    lines += ["%s: %s" % pair for pair in dict(headers).items()]
    return "\r\n".join(lines + ["", ""]).encode() + body


def event_body(who):
    return json.dumps({"event": "result_ready", "respondent_id": who, "exam_id": "exam"}).encode()


def callback_body(who):
    return json.dumps({"message": "m", "external_id": "1", "session_uuid": who}).encode()


def verify_body(who, word):
    return json.dumps({"event": "verify_respondent", "exam_id": "exam", "choosenLang": "en",
                       "fields": [{"position": 0, "value": who}, {"position": 1, "value": word}]}).encode()


def trusting():
    """It looks at no certificate: what is measured is the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(port, address, context, timeout=30.0):
    """A TLS connection from this address of ours."""
    plain = socket.socket()
    try:
        plain.settimeout(timeout)
        plain.bind((address, 0))
        plain.connect(("127.0.0.1", port))
        return context.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


def read_answer(connection, held=b""):
    """(status, body, bytes behind it) of one answer with a Content-Length."""
    while b"\r\n\r\n" not in held:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("no answer")
        held += more
    head, _, rest = held.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), None)
    if length is None and "transfer-encoding: chunked" in lines:
        while not rest.endswith(b"0\r\n\r\n"):
            more = connection.recv(65536)
            if not more:
                raise ConnectionError("half an answer")
            rest += more
        return int(lines[0].split()[1]), rest, b""
    while len(rest) < (length or 0):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("half an answer")
        rest += more
    return int(lines[0].split()[1]), rest[:length or 0], rest[length or 0:]


# --- The attackers: each runs in a process of its own -------------------------------------------------------

class Attack:
    """What an attacking process is told, and what it counts."""

    def __init__(self, options):
        self.port, self.connections, self.end = options.port, options.connections, time.monotonic() + options.seconds
        self.context, self.counts, self.lock = trusting(), collections.Counter(), threading.Lock()

    def over(self):
        return time.monotonic() > self.end

    def count(self, what):
        with self.lock:
            self.counts[what] += 1


def any_address():
    return "127.%d.%d.%d" % (random.randrange(1, 250), random.randrange(256), random.randrange(1, 255))


H2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def open_idle(attack, kind):
    """Of four kinds: before the handshake, after it, with HTTP/2, and after a request that was answered."""
    if kind == 0:
        return socket.create_connection(("127.0.0.1", attack.port), 30, (OTHER_ADDRESS, 0))
    context = trusting()
    if kind == 2:
        context.set_alpn_protocols(["h2"])
    connection = connect(attack.port, OTHER_ADDRESS, context)
    if kind == 2:
        connection.sendall(H2_BEGIN)
    elif kind == 3:
        connection.sendall(no_secret())
        read_answer(connection)
    connection.setblocking(False)
    return connection


def try_idle(attack, kind):
    try:
        connection = open_idle(attack, kind)
        attack.count("opened")
        return connection
    except OSError:
        attack.count("not opened")
        return None


def idle(attack):
    """As many connections as told are kept open; one that nginx closes (most after 10 s) is opened again."""
    poll, held = select.poll(), {}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        while not attack.over():
            missing = min(attack.connections - len(held), 200)
            for one in pool.map(lambda n: try_idle(attack, n % 4), range(missing)):
                if one:
                    one.setblocking(False)
                    held[one.fileno()] = one
                    poll.register(one.fileno(), select.POLLIN)
            for fd, _ in poll.poll(0 if missing else 200):
                try:
                    ended = held[fd].recv(4096) == b""
                except (BlockingIOError, ssl.SSLWantReadError):
                    ended = False
                except OSError:
                    ended = True
                if ended:
                    poll.unregister(fd)
                    held.pop(fd).close()
                    attack.count("closed by nginx")
    attack.counts["open at the end"] = len(held)


def flood(attack, make, addresses, threads=16, again=50):
    """Requests one behind the other on each of so many connections; make() is the next one."""
    def run():
        while not attack.over():
            try:
                connection = connect(attack.port, addresses(), attack.context)
            except OSError:
                attack.count("no connection")
                time.sleep(0.02)
                continue
            held = b""
            try:
                for _ in range(again):
                    if attack.over():
                        break
                    connection.sendall(make())
                    status, _, held = read_answer(connection, held)
                    attack.count(status)
            except (OSError, ValueError):
                attack.count("closed")
            connection.close()

    workers = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)


def no_secret():
    return post(EXAMJOINT, event_body("flood-" + secrets.token_hex(4)))


def wrong_secret():
    return post(EXAMJOINT, event_body("flood"), dict(CLIENT, **{"x-client-secret": secrets.token_hex(8)}))


def right_secret():
    return post(EXAMJOINT, event_body("flood-%s" % secrets.token_hex(8)), CLIENT)


def one_identity():
    return post(EXAMJOINT, verify_body("victim", "guess " + secrets.token_hex(4)), CLIENT)


def many_identities():
    return post(EXAMJOINT, verify_body("c%d" % random.randrange(CANDIDATES, 10 ** 9), "guess"), CLIENT)


def strange_callback():
    return post("/webhooks/proview/open", callback_body(str(uuid.uuid4())))


def wrong_token():
    return post("/webhooks/proview/main/" + secrets.token_hex(12), callback_body(str(uuid.uuid4())))


def huge_headers():
    size = random.choice((7000, 9000, 30000))
    return post(EXAMJOINT, b"{}", {"x-%d" % n: "y" * size for n in range(random.choice((1, 3, 5)))})


def frame(kind, flags, stream, content=b""):
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def http2_resets(attack):
    """Requests that are taken back at once, as many as a connection takes."""
    path = EXAMJOINT.encode()
    block = b"\x83\x87\x04" + bytes([len(path)]) + path + b"\x01\x09localhost"
    context = trusting()
    context.set_alpn_protocols(["h2"])

    def run():
        while not attack.over():
            try:
                connection = connect(attack.port, any_address(), context)
                connection.sendall(H2_BEGIN)
                for stream in range(1, 20000, 200):
                    connection.sendall(b"".join(frame(1, 5, s, block) + frame(3, 0, s, b"\0\0\0\x08")
                                                for s in range(stream, stream + 200, 2)))
                    attack.count("hundred resets")
                    if attack.over():
                        break
                connection.close()
            except OSError:
                attack.count("closed")

    workers = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)


def from_one():
    return OTHER_ADDRESS


def from_examjoint():
    return EXAMJOINT_ADDRESS


RUNS = {
    "idle": idle,
    "none-one": lambda attack: flood(attack, no_secret, from_one),
    "none-many": lambda attack: flood(attack, no_secret, any_address),
    "wrong-one": lambda attack: flood(attack, wrong_secret, from_one),
    "wrong-many": lambda attack: flood(attack, wrong_secret, any_address),
    "guess-one": lambda attack: flood(attack, one_identity, from_one),
    "guess-many": lambda attack: flood(attack, many_identities, any_address, threads=64),
    "callbacks": lambda attack: flood(attack, strange_callback, any_address),
    "token": lambda attack: flood(attack, wrong_token, any_address),
    "headers": lambda attack: flood(attack, huge_headers, any_address),
    "resets": http2_resets,
    "same-address": lambda attack: flood(attack, right_secret, from_examjoint),
}
# slowhttptest's own; `+` is the number of connections.
SLOW = {
    "slow-headers": ["-H", "-c", "+", "-i", "3", "-x", "24", "-t", "POST"],
    "slow-bodies": ["-B", "-c", "+", "-i", "3", "-x", "10", "-s", "65536"],
    "slow-reads": ["-X", "-c", "+", "-w", "1", "-y", "64", "-n", "5", "-z", "1", "-k", "5"],
    "ranges": ["-R", "-c", "+", "-t", "HEAD", "-a", "1", "-b", "3000"],
}
TITLES = {
    "idle": "idle connections: before TLS and after, HTTP/2",
    "slow-headers": "slow headers (slowhttptest -H)",
    "slow-bodies": "slow bodies (slowhttptest -B)",
    "slow-reads": "slow reading (slowhttptest -X)",
    "ranges": "ranges (slowhttptest -R)",
    "headers": "huge headers",
    "resets": "HTTP/2 streams taken back",
    "none-one": "flood without a secret, one address",
    "none-many": "flood without a secret, many addresses",
    "wrong-one": "flood with a wrong secret, one address",
    "wrong-many": "flood with a wrong secret, many addresses",
    "guess-one": "wrong passwords of one candidate, right secret",
    "guess-many": "wrong passwords of many, right secret",
    "callbacks": "callbacks of strange sessions, no protection",
    "token": "callbacks with a wrong path token",
    "everything": "idle, slow headers, slow bodies and a flood at once",
    "same-address": "flood from ExamJoint's own address, right secret",
    "too-many": "more slow headers than nginx may have connections",
}
TOGETHER = {"everything": ("idle", "slow-headers", "slow-bodies", "wrong-many")}
TOLD_APART_BY_NOTHING = ("same-address", "too-many")


class Attackers:
    """The processes of one kind, for so many seconds."""

    def __init__(self, site, name, options, seconds):
        self.folder, self.processes = site.folder, []
        parts = TOGETHER.get(name, (name,))
        count = options.connections // len(parts)
        if name == "too-many":
            parts, count = ("slow-headers",), options.worker_connections + 500
        for part in parts:
            self.start(site, part, count, seconds)

    def start(self, site, part, count, seconds):
        if part in SLOW:
            # It ends when all its connections have: again, then.
            command = ["bash", "-c", 'until [ $SECONDS -ge "$0" ]; do slowhttptest "$@"; done', str(int(seconds)),
                       *[str(count) if word == "+" else word for word in SLOW[part]], "-r", "400", "-l",
                       str(int(seconds) + 1), "-p", "5", "-u", site.base + EXAMJOINT]
        else:
            command = [PYTHON, os.path.abspath(__file__), "--attack", part, "--port", str(site.port), "--connections",
                       str(count), "--seconds", str(seconds)]
        output = tempfile.TemporaryFile() # pylint: disable=consider-using-with
        self.processes.append((part, output, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                                              stderr=subprocess.STDOUT)))

    def end(self):
        """What each of them says it did."""
        said = []
        for part, output, process in self.processes:
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
            output.close()
            said.append(self.summary(part, text))
        return "; ".join(said)

    @staticmethod
    def summary(part, text):
        if part not in SLOW:
            return text.strip().splitlines()[-1] if text.strip() else "(said nothing)"
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        states = re.findall(r"^(initializing|pending|connected|error|closed|service available): +(\w+)", plain, re.M)
        most = max((int(count) for name, count in states if name == "connected"), default=0)
        left = re.search(r"Exit status: *(.*)", plain)
        return "%s: %d at once; at the end %s; %s" % (part, most, ", ".join("%s %s" % pair for pair in dict(states).items()),
                                                      left.group(1).strip() if left else plain.strip()[-200:])


# --- The authentic side -------------------------------------------------------------------------------------

class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.times, self.candidates, self.busy = [], [], 0
        self.accepted, self.refused = [], []


class Vendors:
    """What ExamJoint and Talview send, due at a steady pace."""

    def __init__(self, site, options):
        self.site, self.options, self.context = site, options, trusting()
        self.number = 0

    def send(self, tally, kind, due):
        address = TALVIEW_ADDRESS if kind == "callback" else EXAMJOINT_ADDRESS
        who = str(uuid.uuid4())
        if kind == "callback":
            data = post(PROVIEW, callback_body(who))
        elif kind == "event":
            data = post(EXAMJOINT, event_body(who), CLIENT)
        else:
            data = post(EXAMJOINT, verify_body("c%d" % random.randrange(CANDIDATES), "horse yescrypt"), CLIENT)
        try:
            with connect(self.site.port, address, self.context, 60) as connection:
                connection.sendall(data)
                status, body, _ = read_answer(connection)
        except (OSError, ValueError) as error:
            status, body = 0, repr(error).encode()
        took = (time.monotonic() - due) * 1000
        with tally.lock:
            if kind == "candidate" and status == 200:
                tally.candidates.append(took)
                tally.busy += b"errorMessage" in body
            elif status == 200:
                tally.times.append(took)
                tally.accepted.append((kind, who))
            else:
                tally.refused.append("%s: %d %s" % (kind, status, body[:120].decode("utf-8", "replace")))

    def run(self, seconds):
        """Sends for so long; the tally."""
        tally, rate, begun = Tally(), self.options.rate, time.monotonic()
        due = [(n / (20.0 * rate), "event") for n in range(int(seconds * 20 * rate))]
        due += [(0.013 + n / (5.0 * rate), "callback") for n in range(int(seconds * 5 * rate))]
        due += [(0.029 + n / (2.0 * rate), "candidate") for n in range(int(seconds * 2 * rate))]
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            for at, kind in sorted(due):
                time.sleep(max(0.0, begun + at - time.monotonic()))
                pool.submit(self.send, tally, kind, begun + at)
        return tally


def share(times, part):
    """The time below which that part of them lies; they are sorted."""
    return times[min(len(times) - 1, int(len(times) * part))] if times else float("nan")


def describe(title, tally, said):
    times, waits = sorted(tally.times), sorted(tally.candidates)
    print("%-52s %5d events p50 %5.0f p99 %5.0f max %5.0f ms, %d refused; %d candidates p50 %.0f max %.0f ms, %d told to try again" % (
        title, len(times), share(times, 0.5), share(times, 0.99), times[-1] if times else float("nan"), len(tally.refused),
        len(waits), share(waits, 0.5), waits[-1] if waits else float("nan"), tally.busy))
    for text in sorted(set(tally.refused))[:3]:
        print("    %s" % text)
    if said:
        print("    %s" % said[:600], flush=True)


def peak_memory(pids):
    """MiB at the most so far, of these processes together."""
    total = 0
    for pid in pids:
        with open("/proc/%d/status" % pid, encoding="utf-8") as f:
            total += next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    return total / 1024


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as f:
        return [int(word) for word in f.read().split()]


def lost_of(site, accepted):
    """Acknowledged, and not there once."""
    rows = collections.Counter((("callback", row["session_uuid"]) if row["source"] == "proview" else
                                ("event", row["respondent_id"])) for row in site.rows("events", "--json"))
    return [one for one in accepted if rows[one] != 1]


class Loaded(Site):
    def __init__(self, worker_connections):
        self.worker_connections = worker_connections
        roster = "id,password_hash\nvictim,%s\n" % YESCRYPT
        super().__init__(CONF, [("main", roster + "".join("c%d,%s\n" % (i, YESCRYPT) for i in range(CANDIDATES)))])

    def write_nginx(self, change):
        super().write_nginx(change)
        with open(self.nginx_conf, encoding="utf-8") as f:
            text = f.read()
        with open(self.nginx_conf, "w", encoding="utf-8") as f:
            f.write(text.replace("worker_connections 2048", "worker_connections %d" % self.worker_connections))


def measure(site, options, kinds):
    """(events accepted, refusals, worst p99, quiet p99) of all kinds."""
    vendors, accepted, refused, worst = Vendors(site, options), [], 0, 0.0
    vendors.run(1)
    tally = vendors.run(options.seconds)
    accepted += tally.accepted
    refused += len(tally.refused)
    describe("quiet", tally, "")
    quiet = share(sorted(tally.times), 0.99)
    for name in kinds:
        # slowhttptest makes some 300 connections a second.
        lead = max(options.lead, (options.worker_connections if name == "too-many" else options.connections) / 300 + 1)
        attackers = Attackers(site, name, options, options.seconds + lead)
        time.sleep(lead)
        tally = vendors.run(options.seconds)
        apart = name in TOLD_APART_BY_NOTHING
        describe(TITLES[name] + (" [told apart by nothing]" if apart else ""), tally, attackers.end())
        accepted += tally.accepted
        if not apart:
            refused += len(tally.refused)
            worst = max(worst, share(sorted(tally.times), 0.99))
    return accepted, refused, worst, quiet


def arguments():
    parser = argparse.ArgumentParser(description="What authentic events notice of slow, idle and rude clients.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each kind")
    parser.add_argument("--lead", type=float, default=4.0, help="seconds that an attack has, at the least, before events come")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--worker-connections", type=int, default=2048, help="nginx's own limit, for one worker")
    parser.add_argument("--rate", type=float, default=1.0, help="1: 20 events, 5 callbacks, 2 candidates a second")
    parser.add_argument("--kinds", default=",".join(TITLES))
    parser.add_argument("--attack", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.kinds.split(","):
        if name not in TITLES:
            parser.error("there is no kind " + name)
    return options


def main():
    options = arguments()
    if options.attack:
        attack = Attack(options)
        RUNS[options.attack](attack)
        print(options.attack + ": " + ", ".join("%s %d" % pair for pair in sorted(attack.counts.items(), key=str)), flush=True)
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds, site = options.kinds.split(","), Loaded(options.worker_connections)
    try:
        site.start()
        accepted, refused, worst, quiet = measure(site, options, kinds)
        nginx = site.parts["nginx"].process.pid
        print("memory at the most: examjoint %.0f MiB, proview %.0f MiB, nginx %.0f MiB" % (
            peak_memory([site.parts["examjoint"].process.pid]), peak_memory([site.parts["proview"].process.pid]),
            peak_memory([nginx, *children(nginx)])))
        lost = lost_of(site, accepted)
    finally:
        site.close()
    print("torture-load: %d kinds, %d authentic events, %d refused, %d lost, worst p99 %.0f ms (quiet %.0f ms)" % (
        len(kinds), len(accepted), refused, len(lost), worst, quiet))
    return 1 if refused or lost else 0


if __name__ == "__main__":
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    sys.exit(main())
