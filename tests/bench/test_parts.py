"""The parts on plain CGI, the slow disk and outbound catch what is wrong, and delay what they say. No time is judged
but that a delay is there."""
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import TOP, Bench  # noqa: E402
from parts import cgi, outbound, slow_disk  # noqa: E402

sys.path.insert(0, os.path.join(TOP, "tests", "e2e"))
from support import BUILD, free_port  # noqa: E402

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


@pytest.fixture(name="bench")
def _bench():
    found = Bench(BUILD, "short")
    yield found
    found.close()


class Answers(cgi.PeerCgi):
    """Says {} as who stores does, and stores nothing."""
    name, title = "answers", "it answers"

    def command(self):
        self.create()
        return [cgi.compiled(self.bench, "nothing", ["-static"])]


class Fails(Answers):
    name, title = "fails", "it fails"

    def command(self):
        self.create()
        return ["/bin/sh", "-c", "printf 'Status: 503\\r\\n\\r\\n{}'"]


def measured(bench, contestant):
    part = cgi.PlainCgi(bench)
    part.runner = cgi.compiled(bench, "runs", [])
    part.commands[contestant.name] = contestant.command()
    return part.measure(contestant, 0)


def test_plain_cgi_counts_rows_and_answers(bench):
    assert measured(bench, cgi.OursCgi(bench))["wrong"] == []
    assert measured(bench, Answers(bench))["wrong"] == ["0 rows of 30 requests"]
    assert measured(bench, Fails(bench))["wrong"] == ["0 of 30 answers were 200", "0 rows of 30 requests"]


def test_the_slow_disk_is_slow_and_still_a_disk(bench):
    library = slow_disk.compiled(bench, "slow_sync.so", ["-shared", "-fPIC"])
    path = bench.path("synced", "file")
    code = ("import os, sys, time\nf = open(sys.argv[1], 'wb')\nf.write(b'x')\nf.flush()\nbegin = time.monotonic()\n"
            "os.fdatasync(f.fileno())\nos.fsync(f.fileno())\nprint(time.monotonic() - begin)\n"
            "try:\n    os.fdatasync(0)\nexcept OSError as e:\n    print(e.errno)\n")
    done = subprocess.run(["/usr/bin/python3", "-c", code, path], env={"LD_PRELOAD": library}, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, check=True)
    took, error = done.stdout.split()
    assert float(took) >= 0.01 and int(error) == 22, "a pipe cannot be synced: the kernel is still asked"


def relayed(bench):
    """A server that echoes, and the port of a relay before it."""
    program = os.path.join(bench.kept, "relay-test")
    subprocess.run(["cc", "-std=c17", "-D_GNU_SOURCE", "-O2", "-o", program, os.path.join(outbound.CODE, "relay.c")], check=True)
    server = socket.create_server(("127.0.0.1", 0))

    def echo():
        while True:
            client, _ = server.accept()
            while data := client.recv(65536):
                client.sendall(data)
            client.close()
    threading.Thread(target=echo, daemon=True).start()
    port = free_port()
    bench.start("relay", [program, port, server.getsockname()[1], 25]).wait_listening(port)
    return port


def test_the_relay_delays_and_loses_nothing(bench):
    with socket.create_connection(("127.0.0.1", relayed(bench)), timeout=20) as client:
        times = []
        for number in range(3):
            begin = time.monotonic()
            client.sendall(b"%d" % number)
            assert client.recv(10) == b"%d" % number
            times.append(time.monotonic() - begin)
        assert times[0] >= 0.09, "the handshake costs its round trip"
        assert min(times[1:]) >= 0.05
        sent = os.urandom(2_000_000)
        threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))).start()
        got = b""
        while data := client.recv(65536):
            got += data
        assert got == sent


def test_outbound_sees_a_second_login_a_lost_session_and_a_wrong_rating(bench):
    part = outbound.Outbound(bench)
    one, two = "1" + 35 * "0", "a" + 35 * "0"
    path = bench.path("ratings.db")
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE sessions(session_uuid TEXT, rating TEXT)")
        store.execute("INSERT INTO sessions VALUES(?, 'high'), (?, 'low')", (one, two))
    store.close()

    def judge(*paths):
        return part.judge([[str(100 + n), "GET", "HTTP/2.0", "1", "200", path] for n, path in enumerate(paths)],
                          {one, two}, path, 16)
    login, first, second = "/v1/user/login", "/v1/sessions/" + one, "/v1/sessions/" + two
    good = judge(login, first, second)
    assert good["wrong"] == [] and good["logins"] == 1
    assert abs(good["sessions_s"] - 2 / (1 + outbound.DELAY)) < 0.01
    assert judge(login, login, first, second)["wrong"] == ["2 logins"]
    assert judge(login, first, first)["wrong"] == ["2 fetches of 2 sessions"]
    with sqlite3.connect(path) as store:
        store.execute("UPDATE sessions SET rating = 'high'")
    store.close()
    assert judge(login, first, second)["wrong"] == ["1 of 2 sessions have no rating, or a wrong one"]
    assert len(part.wrong) == 3
