"""The programs as FastCGI and CGI peers see them, without a web server between: what the guard and the loop promise."""
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import fastcgi
from fastcgi import Peer, post, record, request
from support import ListeningSocket, Notified, is_in_time, wait_for

BUILD = Path(os.environ.get("EXAMHOOK_BUILD", "build")).resolve()
SECRETS = {"x_client_id": "client", "x_client_secret": "secret-of-the-client"}
CONFIG = """
[store]
url = sqlite:{folder}/store
[server]
request_wait = 1s
[examjoint main]
client_id = client
client_secret = secret-of-the-client
[proview main]
environment = development
callback_open = yes
[fields]
0 = id
1 = password
"""


def event(n):
    return json.dumps({"event": "result_ready", "respondent_id": f"r{n}", "exam_id": "e"}).encode()


class Program:
    def __init__(self, folder, name="examjoint", stdin=None):
        self.folder, self.name = folder, name
        self.config = folder / "examhook.conf"
        if not self.config.exists():
            self.config.write_text(CONFIG.format(folder=folder))
            self.config.chmod(0o600)
            self.examhook("migrate")
        self.path = folder / f"{name}.sock"
        self.log = folder / f"{name}.log"
        self.start(stdin)

    def start(self, stdin=None, limit=None):
        command = [BUILD / f"{self.name}.fcgi", "--config", self.config]
        if stdin is None:
            command += ["--socket", self.path]
        begun = self.begun()
        self.process = subprocess.Popen(command, stdin=stdin, stderr=open(self.log, "ab"), preexec_fn=lambda: (
            resource.setrlimit(resource.RLIMIT_NOFILE, limit) if limit else None))
        for _ in range(500):
            # The socket is there before all that the program wants is.
            if self.process.poll() is not None or stdin is not None or (self.begun() > begun and self.answers()):
                break
            time.sleep(0.02)

    def begun(self):
        return self.log.read_text().count('msg="serving"') if self.log.exists() else 0

    def answers(self):
        """A dead program leaves its socket file: being there says nothing."""
        try:
            self.peer().close()
            return True
        except OSError:
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)

    def examhook(self, *words):
        done = subprocess.run([BUILD / "examhook", "--config", self.config, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stored(self):
        return [json.loads(line) for line in self.examhook("events", "--json").splitlines()]

    def peer(self):
        return Peer(self.path)

    def ask(self, data):
        peer = self.peer()
        peer.send(data)
        try:
            return peer.answer()
        finally:
            peer.close()


@pytest.fixture
def program(tmp_path):
    p = Program(tmp_path)
    assert p.process.poll() is None, p.log.read_text()
    yield p
    p.stop()


def test_one_request_and_the_connection_is_closed(program):
    peer = program.peer()
    peer.send(request(post(event(1), **SECRETS), event(1)))
    assert peer.answer()[0::2] == (200, b"{}")
    assert peer.closed()
    assert [e["respondent_id"] for e in program.stored()] == ["r1"]


def test_a_kept_connection_serves_many(program):
    peer = program.peer()
    for n in range(50):
        peer.send(request(post(event(n), **SECRETS), event(n), keep=True))
        assert peer.answer()[0] == 200
    assert len(program.stored()) == 50


def test_idle_kept_connections_pin_nobody(program):
    idle = []
    for n in range(300):
        peer = program.peer()
        peer.send(request(post(event(n), **SECRETS), event(n), keep=True))
        assert peer.answer()[0] == 200
        idle.append(peer)
    began = time.monotonic()
    assert program.ask(request(post(event(999), **SECRETS), event(999)))[0] == 200
    assert time.monotonic() - began < 5
    for peer in idle:
        peer.close()


def test_records_that_come_slowly(program):
    data = request(post(event(1), **SECRETS), event(1), chunk=10)
    slow = program.peer()
    for at in range(0, len(data), 40):
        slow.send(data[at:at + 40])
        time.sleep(0.005)
    assert slow.answer()[0] == 200


def test_a_partial_request_holds_nobody_and_is_closed_in_time(program):
    data = request(post(event(1), **SECRETS), event(1))
    partial = program.peer()
    partial.send(data[:-5])
    assert program.ask(request(post(event(2), **SECRETS), event(2)))[0] == 200
    assert partial.closed()
    assert [e["respondent_id"] for e in program.stored()] == ["r2"]


@pytest.mark.parametrize("data", [
    record(fastcgi.GET_VALUES, fastcgi.pair(b"FCGI_MAX_CONNS", b"") * 4, request_id=0),
    record(fastcgi.GET_VALUES, b"\xff\xff\xff\xff\x00" + b"A" * 100, request_id=0),
    fastcgi.begin() + record(fastcgi.PARAMS, b"\xff\xff\xff\xff\x00" + b"A" * 100),
    fastcgi.begin() + record(fastcgi.ABORT),
    fastcgi.begin(role=2),
    fastcgi.begin(request_id=0),
    fastcgi.begin() + record(fastcgi.PARAMS, b"", request_id=7),
    record(fastcgi.BEGIN, b"\0" * 8, version=9),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\0" * 300,
], ids=["get_values", "get_values_2gb", "params_2gb", "abort", "authorizer", "id_0", "other_id", "version", "http", "zeros"])
def test_what_the_library_cannot_bear_is_closed(program, data):
    peer = program.peer()
    peer.send(data)
    assert peer.closed()
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200
    assert program.process.poll() is None


def test_a_request_behind_the_request_is_refused(program):
    peer = program.peer()
    smuggled = request(post(event(2), **SECRETS), event(2))
    peer.send(request(post(event(1), **SECRETS), event(1), keep=True) + smuggled)
    assert peer.closed()
    assert program.stored() == []


def test_a_request_inside_the_body_stays_a_body(program):
    smuggled = request(post(event(2), **SECRETS), event(2))
    peer = program.peer()
    peer.send(request(post(smuggled, **SECRETS), smuggled, keep=True))
    status, _, body = peer.answer()
    assert status == 400 and json.loads(body)["error"] in ("nul_in_json", "invalid_json", "invalid_utf8")
    peer.send(request(post(event(3), **SECRETS), event(3), keep=True))
    assert peer.answer()[0] == 200
    assert [e["respondent_id"] for e in program.stored()] == ["r3"]


@pytest.mark.parametrize("declared", [len(event(1)) - 1, len(event(1)) + 1, 0])
def test_a_body_of_another_length_than_declared(program, declared):
    status, _, body = program.ask(request(post(event(1), length=declared, **SECRETS), event(1)))
    assert (status, json.loads(body)["error"]) == (400, "incomplete_body")
    assert program.stored() == []


def test_a_length_that_is_none(program):
    status, _, body = program.ask(request(post(event(1), length="12abc", **SECRETS), event(1)))
    assert (status, json.loads(body)["error"]) == (400, "invalid_length")


@pytest.mark.parametrize("size", [65537, 100_000, 1_000_000])
@pytest.mark.parametrize("declared", [True, False])
def test_too_large_a_body_is_answered(program, size, declared):
    body = b" " * size
    values = post(body, **SECRETS)
    if not declared:
        del values["CONTENT_LENGTH"]
    peer = program.peer()
    try:
        peer.send(request(values, body))
    except (BrokenPipeError, ConnectionResetError):
        pass  # it answered before the body was through
    status, _, answer = peer.answer()
    assert (status, json.loads(answer)["error"]) == (413, "body_too_large")
    assert peer.closed()
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200


def test_a_peer_that_does_not_read(program):
    deaf = []
    for n in range(20):
        peer = program.peer()
        peer.send(request(post(event(n), **SECRETS), event(n), keep=True))
        deaf.append(peer)
    assert program.ask(request(post(event(99), **SECRETS), event(99)))[0] == 200
    assert len(program.stored()) == 21


def test_a_peer_that_leaves(program):
    for n in range(20):
        peer = program.peer()
        peer.send(request(post(event(n), **SECRETS), event(n)))
        peer.close()
    time.sleep(0.3)
    assert program.ask(request(post(event(99), **SECRETS), event(99)))[0] == 200


def test_the_socket_is_for_the_web_server_alone(program):
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o660
    second = subprocess.run([BUILD / "examjoint.fcgi", "--config", program.config, "--socket", program.path],
                            capture_output=True, text=True, timeout=10)
    assert second.returncode == 2
    assert "another program is serving this socket" in second.stderr
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200


def test_sigterm_ends_it_and_removes_the_socket(program):
    idle = program.peer()
    idle.send(request(post(event(1), **SECRETS), event(1), keep=True))
    idle.answer()
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 3
    assert not program.path.exists()


def verification(n):
    return json.dumps({"event": "verify_respondent", "exam_id": "e",
                       "fields": [{"position": 0, "value": f"nobody{n}"}, {"position": 1, "value": "x"}]}).encode()


@contextmanager
def slots_taken(program):
    """As if other processes were checking passwords in every slot there is."""
    with ExitStack() as held:
        for n in range(os.cpu_count()):
            path = program.folder / "store" / "examjoint" / f"hash-slot-{n}"
            slot = held.enter_context(open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "ab"))
            fcntl.flock(slot, fcntl.LOCK_EX)
        yield


def restart(program, **options):
    program.stop()
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    program.config.write_text(program.config.read_text().replace("request_wait = 1s\n", lines))
    program.start()


def test_sigterm_while_others_hold_every_slot(program):
    def ended():
        peer = program.peer()
        peer.send(request(post(verification(1), **SECRETS), verification(1)))
        assert wait_for(lambda: not peer.unsent())
        time.sleep(0.1)
        began = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        assert "again" in json.loads(peer.answer()[2])["errorMessage"]
        assert program.stop() == 0
        took = time.monotonic() - began
        program.start()
        return took
    with slots_taken(program):
        assert is_in_time(ended, 3)


def test_sigterm_with_half_a_request_in_a_socket(program):
    restart(program, request_wait="10s")

    def ended():
        peer = program.peer()
        peer.send(fastcgi.begin())
        assert wait_for(lambda: not peer.unsent())
        began = time.monotonic()
        assert program.stop() == 0
        took = time.monotonic() - began
        program.start()
        return took
    assert is_in_time(ended, 2.9)


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def stop_for_now(program):
    program.process.send_signal(signal.SIGSTOP)
    while state_of(program.process.pid) != "T":
        time.sleep(0.01)


def test_sigterm_at_the_limit_answers_what_lies_in_the_sockets(program):
    """All at once for the loop: the signal, a request on each kept connection, one more connection to accept."""
    restart(program, connections=8)
    kept = [program.peer() for _ in range(8)]
    for n, peer in enumerate(kept):
        peer.send(request(post(event(n), **SECRETS), event(n), keep=True))
        assert peer.answer()[0] == 200
    stop_for_now(program)
    program.process.send_signal(signal.SIGTERM)
    kept.append(program.peer())
    for n, peer in enumerate(kept):
        peer.send(request(post(event(100 + n), **SECRETS), event(100 + n), keep=True))
    program.process.send_signal(signal.SIGCONT)
    assert [peer.answer()[0] for peer in kept] == [200] * 9
    assert program.stop() == 0
    assert len(program.stored()) == 17


@contextmanager
def halted(program):
    """For the loop, all that happens meanwhile happens at once."""
    program.process.send_signal(signal.SIGSTOP)
    while state_of(program.process.pid) != "T":
        time.sleep(0.01)
    try:
        yield
    finally:
        program.process.send_signal(signal.SIGCONT)


def test_more_requests_at_once_than_a_commit_takes(program):
    restart(program, connections=400)
    peers = [program.peer() for _ in range(300)]
    with halted(program):
        for n, peer in enumerate(peers):
            peer.send(request(post(event(n), **SECRETS), event(n)))
    assert [peer.answer()[0] for peer in peers] == [200] * 300
    assert {e["respondent_id"] for e in program.stored()} == {f"r{n}" for n in range(300)}


def test_many_candidates_whose_time_is_over_in_the_same_instant(program):
    program.config.write_text(program.config.read_text() + "[verify]\nbudget = 1s\n")
    restart(program, connections=400)
    with slots_taken(program):
        peers = [program.peer() for _ in range(280)]
        for n, peer in enumerate(peers):
            peer.send(request(post(verification(n), **SECRETS), verification(n)))
        assert wait_for(lambda: not any(peer.unsent() for peer in peers))
        with halted(program):
            time.sleep(1.2)
        for peer in peers:
            status, _, body = peer.answer()
            assert status == 200 and "again" in json.loads(body)["errorMessage"]
    assert len(program.stored()) == 280


def test_idle_kept_connections_give_way_when_no_descriptor_is_left(program):
    pid, kept = program.process.pid, []

    def keep_one():
        kept.append(program.peer())
        kept[-1].send(request(post(event(len(kept)), **SECRETS), event(len(kept)), keep=True))
        assert kept[-1].answer()[0] == 200

    def taken():
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    keep_one()
    while len(kept) < 3 or taken() != list(range(len(taken()))):
        keep_one()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(taken()), resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
    assert program.ask(request(post(event(999), **SECRETS), event(999)))[0] == 200
    assert kept[0].closed()
    for n, peer in enumerate(kept[1:]):
        peer.send(request(post(event(1000 + n), **SECRETS), event(1000 + n), keep=True))
        assert peer.answer()[0] == 200
    assert len(program.stored()) == 2 * len(kept)
    assert "cannot accept a connection" in program.log.read_text()


def test_events_do_not_wait_behind_verifications_for_a_connection(program):
    restart(program, connections=8)
    with slots_taken(program):
        candidates = [program.peer() for _ in range(8)]
        for n, peer in enumerate(candidates):
            peer.send(request(post(verification(n), **SECRETS), verification(n)))
        began = time.monotonic()
        assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200
        assert time.monotonic() - began < 3
    for peer in candidates:
        assert peer.answer()[0] == 200


def test_more_connections_than_the_usual_limit_of_open_files(program):
    restart(program, request_wait="10s")
    program.stop()
    program.start(limit=(64, 4096))
    silent = [program.peer() for _ in range(200)]
    began = time.monotonic()
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200
    assert time.monotonic() - began < 5
    for peer in silent:
        peer.close()


def test_a_hard_limit_of_open_files_bounds_the_connections(program):
    """The store's files and the slots need descriptors: candidates must not be refused for lack of them."""
    program.stop()
    program.start(limit=(64, 64))
    silent = [program.peer() for _ in range(100)]
    assert "errorMessage" in json.loads(program.ask(request(post(verification(1), **SECRETS), verification(1)))[2])
    assert "cannot accept" not in program.log.read_text()
    for peer in silent:
        peer.close()


def test_a_socket_that_a_dead_program_left(program):
    program.process.kill()
    program.process.wait()
    program.start()
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200


def test_an_inherited_listening_socket(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(tmp_path / "inherited.sock"))
    listener.listen(16)
    p = Program(tmp_path, stdin=listener.fileno())
    try:
        peer = Peer(tmp_path / "inherited.sock")
        peer.send(request(post(event(1), **SECRETS), event(1)))
        assert peer.answer()[0] == 200
    finally:
        assert p.stop() == 0
    assert (tmp_path / "inherited.sock").exists()


def test_no_fastcgi_over_tcp(tmp_path):
    listener = socket.socket(socket.AF_INET)
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    p = Program(tmp_path, stdin=listener.fileno())
    assert p.process.wait(timeout=10) == 2
    assert "descriptor 0 is no listening unix socket" in p.log.read_text()


def start_handed_over(program, listener, *options, count=1, **more):
    """Starts it as systemd does, with the socket as descriptor 3; returns when it is up or has ended."""
    program.stop()
    program.log.write_text("")
    notified = Notified(os.fspath(program.folder / "notify"))
    command = listener.command([BUILD / f"{program.name}.fcgi", "--config", program.config, *options], count)
    environment = dict(os.environ, NOTIFY_SOCKET=notified.path, **more)
    program.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=open(program.log, "ab"),
                                       env=environment, pass_fds=[listener.fd])
    wait_for(lambda: notified.words() or program.process.poll() is not None)
    notified.close()
    os.unlink(notified.path)


@pytest.fixture
def handed_over(program):
    listener = ListeningSocket(os.fspath(program.folder / "handed.sock"))
    yield listener
    listener.close()


def ask_at(path, data):
    peer = Peer(path)
    peer.send(data)
    try:
        return peer.answer()
    finally:
        peer.close()


def test_a_socket_handed_over_outlives_the_program(program, handed_over):
    for n in range(3):
        start_handed_over(program, handed_over)
        assert ask_at(handed_over.path, request(post(event(n), **SECRETS), event(n)))[0] == 200
        assert "everybody may connect" not in program.log.read_text()
        assert program.stop() == 0
        assert stat.S_ISSOCK(os.stat(handed_over.path).st_mode)
    waiting = Peer(handed_over.path)
    waiting.send(request(post(event(9), **SECRETS), event(9)))
    start_handed_over(program, handed_over)
    assert waiting.answer()[0] == 200
    assert len(program.stored()) == 4


def test_who_stands_in_the_queue_of_a_socket_handed_over_is_the_successors(program, handed_over):
    """Who stood there when the program began to stop, and who came since: it takes nobody any more, however long it
    takes to stop."""
    numbers = iter(range(1, 10))

    def stopped():
        number, before = next(numbers), len(program.stored())
        start_handed_over(program, handed_over)
        with slots_taken(program):
            candidate = Peer(handed_over.path)
            candidate.send(request(post(verification(number), **SECRETS), verification(number)))
            assert wait_for(lambda: not candidate.unsent())
            time.sleep(0.1)
            stop_for_now(program)
            began = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            later = [Peer(handed_over.path)]
            later[0].send(request(post(event(number), **SECRETS), event(number)))
            program.process.send_signal(signal.SIGCONT)
            assert wait_for(lambda: "stopping" in program.log.read_text(), every=0.01)
            later.append(Peer(handed_over.path))
            later[1].send(request(post(event(10 + number), **SECRETS), event(10 + number)))
            assert "again" in json.loads(candidate.answer()[2])["errorMessage"]
            assert program.stop() == 0
            took = time.monotonic() - began
        assert [e["event"] for e in program.stored()[before:]] == ["verify_respondent"]
        start_handed_over(program, handed_over)
        assert [peer.answer()[0] for peer in later] == [200, 200]
        return took
    assert is_in_time(stopped, 3)


def test_kept_idle_connections_do_not_hold_up_the_end(program, handed_over):
    start_handed_over(program, handed_over)
    kept = [Peer(handed_over.path) for _ in range(20)]
    for n, peer in enumerate(kept):
        peer.send(request(post(event(n), **SECRETS), event(n), keep=True))
        assert peer.answer()[0] == 200
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 1.5
    assert all(peer.closed() for peer in kept)


def test_variables_of_another_process_hand_nothing_over(program):
    """A web server that systemd started may pass its own LISTEN_PID on."""
    program.stop()
    environment = dict(os.environ, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    program.process = subprocess.Popen([BUILD / "examjoint.fcgi", "--config", program.config, "--socket", program.path],
                                       env=environment, stderr=open(program.log, "ab"))
    assert wait_for(program.answers)
    assert program.ask(request(post(event(1), **SECRETS), event(1)))[0] == 200
    body = event(2)
    values = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), **post(body, **SECRETS)}
    assert cgi(program, "examjoint", values, body) == (200, {})


@pytest.mark.parametrize("count", ["", "export LISTEN_FDS=;", "export LISTEN_FDS=0;"])
def test_no_socket_is_handed_over_where_none_is_counted(program, count):
    program.stop()
    command = "unset LISTEN_FDS; %s LISTEN_PID=$$ exec %s --config %s --socket %s" % (
        count, BUILD / "examjoint.fcgi", program.config, program.path)
    program.process = subprocess.Popen(["sh", "-c", command], stderr=open(program.log, "ab"))
    assert wait_for(lambda: program.answers() or program.process.poll() is not None)
    assert program.process.poll() is None, program.log.read_text()


def test_cgi_stays_cgi_whatever_is_handed_over(program, handed_over):
    body = event(1)
    environment = {"GATEWAY_INTERFACE": "CGI/1.1", "EXAMHOOK_CONF": os.fspath(program.config), "PATH": os.environ["PATH"],
                   **post(body, **SECRETS)}
    done = subprocess.run(handed_over.command([os.fspath(BUILD / "examjoint.fcgi")]), input=body, capture_output=True,
                          env=environment, pass_fds=[handed_over.fd], timeout=30)
    assert done.stdout.startswith(b"Status: 200 ") and done.returncode == 0


def test_what_cannot_be_handed_over(program, handed_over, tmp_path):
    def said(listener, *options, count=1):
        start_handed_over(program, listener, *options, count=count)
        assert program.process.wait(timeout=10) == 2
        return program.log.read_text()

    assert "LISTEN_FDS=2: exactly one socket can be handed over" in said(handed_over, count=2)
    assert "--socket has no place" in said(handed_over, "--socket", program.path)
    tcp = socket.create_server(("127.0.0.1", 0))
    assert "only unix sockets are served" in said(ListeningSocket(None, made=tcp))
    deaf = socket.socket(socket.AF_UNIX)
    assert "no listening unix stream socket" in said(ListeningSocket(None, made=deaf))
    packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    packets.bind(os.fspath(tmp_path / "packets.sock"))
    packets.listen(1)
    assert "no listening unix stream socket" in said(ListeningSocket(None, made=packets))


def test_an_inherited_socket_that_everybody_may_use_is_warned_of(program, handed_over):
    os.chmod(handed_over.path, 0o666)
    start_handed_over(program, handed_over)
    assert "everybody may connect to the socket" in program.log.read_text()


def test_a_queue_that_the_connections_bound_is_said(program):
    restart(program, connections=80)
    assert "queue=60 configured=5000" in program.log.read_text()


def test_a_site_that_would_serve_the_store_is_refused(program):
    """DOCUMENT_ROOT comes with each request; a program can serve several sites."""
    elsewhere = program.folder / "www"
    elsewhere.mkdir()
    (program.folder / "link").symlink_to(program.folder / "store")

    def ask(root, n):
        status, headers, body = program.ask(request({**post(event(n), **SECRETS), **root}, event(n)))
        return status, headers.get("Retry-After"), json.loads(body)

    refused = (503, "5", {"error": "not_configured"})
    assert ask({}, 1) == (200, None, {})
    assert ask({"DOCUMENT_ROOT": os.fspath(program.folder)}, 2) == refused
    assert ask({"DOCUMENT_ROOT": os.fspath(program.folder)}, 3) == refused
    assert ask({"DOCUMENT_ROOT": os.fspath(elsewhere)}, 4) == (200, None, {})
    assert ask({"DOCUMENT_ROOT": os.fspath(program.folder / "link")}, 5) == refused
    assert ask({}, 6) == (200, None, {})
    assert ask({"DOCUMENT_ROOT": ""}, 7) == (200, None, {})
    assert {e["respondent_id"] for e in program.stored()} == {"r1", "r4", "r6", "r7"}
    log = program.log.read_text()
    assert log.count("requests of this site are refused") == 2 and os.fspath(program.folder / "store") in log


def test_plain_cgi_below_the_document_root_is_refused(program):
    body = event(1)
    values = {**post(body, **SECRETS), "DOCUMENT_ROOT": os.fspath(program.folder)}
    assert cgi(program, "examjoint", values, body) == (503, {"error": "not_configured"})
    assert cgi(program, "examjoint", {**values, "DOCUMENT_ROOT": "/nonexistent"}, body) == (200, {})
    assert len(program.stored()) == 1


def test_the_log_line_of_a_request(program):
    assert program.ask(request(post(event(1), x_client_id="client"), event(1)))[0] == 401
    line = wait_for(lambda: [x for x in program.log.read_text().splitlines() if "msg=request " in x or 'msg="request"' in x])[0]
    keys = [word.partition("=")[0] for word in line.split() if "=" in word]
    assert keys[keys.index("method"):] == ["method", "route", "status", "ms", "request_id", "note"]
    assert "method=POST route=examjoint status=401 " in line and line.endswith(" note=unauthorized")


def cgi(program, name, values, body):
    environment = {"GATEWAY_INTERFACE": "CGI/1.1", "EXAMHOOK_CONF": os.fspath(program.config), **values}
    done = subprocess.run([BUILD / f"{name}.fcgi"], input=body, capture_output=True, env=environment, timeout=30)
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    status = int(head.decode().split("\r\n")[0].split()[1])
    return status, json.loads(answer)


def test_plain_cgi_keeps_the_same_promises(program):
    verify = json.dumps({"event": "verify_respondent", "exam_id": "e",
                         "fields": [{"position": 0, "value": "nobody"}, {"position": 1, "value": "x"}]}).encode()
    assert cgi(program, "examjoint", post(event(1), **SECRETS), event(1)) == (200, {})
    assert cgi(program, "examjoint", post(event(1), **SECRETS), event(1)) == (200, {})
    assert cgi(program, "examjoint", post(event(1), x_client_id="client"), event(1)) == (401, {"error": "unauthorized"})
    assert cgi(program, "examjoint", post(event(1), length=5, **SECRETS), event(1))[0] == 400
    assert cgi(program, "examjoint", post(event(1), length=70000, **SECRETS), event(1)) == (413, {"error": "body_too_large"})
    status, answer = cgi(program, "examjoint", post(verify, **SECRETS), verify)
    assert status == 200 and answer["errorMessage"]
    callback = b'{"message":"m","external_id":"1","session_uuid":"f46bd560-53f6-11eb-b441-492a960aa0ba"}'
    assert cgi(program, "proview", {**post(callback, path="/webhooks/proview/main"), "PATH_INFO": "/main"}, callback) == (200, {})
    rows = program.stored()
    assert [(r["source"], r["deliveries"]) for r in rows] == [("examjoint", 2), ("examjoint", 1), ("proview", 1)]


def test_plain_cgi_keeps_events_without_what_only_verifications_need(program):
    """Each request starts a program: an event needs neither the roster nor the texts, so neither can refuse it."""
    verify = json.dumps({"event": "verify_respondent", "exam_id": "e",
                         "fields": [{"position": 0, "value": "nobody"}, {"position": 1, "value": "x"}]}).encode()
    unknown = json.dumps({"event": "verify_again", "exam_id": "e", "fields": []}).encode()
    texts = program.folder / "texts"
    texts.mkdir()
    (texts / "en.txt").write_text("no text at all\n")
    conf = program.config.read_text()
    program.config.write_text(conf + f"[verify]\nlanguages = {texts}\n")
    refused = (503, {"error": "not_configured"})
    assert cgi(program, "examjoint", post(verify, **SECRETS), verify) == refused
    assert cgi(program, "examjoint", post(unknown, **SECRETS), unknown) == refused
    assert cgi(program, "examjoint", post(event(1), **SECRETS), event(1)) == (200, {})
    program.config.write_text(conf)
    roster = program.folder / "store/roster/roster.db"
    roster.rename(roster.with_name("elsewhere.db"))
    assert cgi(program, "examjoint", post(verify, **SECRETS), verify) == (503, {"error": "not_stored"})
    assert cgi(program, "examjoint", post(event(2), **SECRETS), event(2)) == (200, {})
    roster.with_name("elsewhere.db").rename(roster)
    status, answer = cgi(program, "examjoint", post(verify, **SECRETS), verify)
    assert status == 200 and answer["errorMessage"]
    assert {e["respondent_id"] for e in program.stored() if e["respondent_id"]} == {"r1", "r2"}


def test_cgi_without_a_configuration_says_so(tmp_path):
    done = subprocess.run([BUILD / "examjoint.fcgi"], input=b"", capture_output=True,
                          env={"GATEWAY_INTERFACE": "CGI/1.1", "EXAMHOOK_CONF": os.fspath(tmp_path / "none")})
    assert b"Status: 503" in done.stdout and b'{"error":"not_configured"}' in done.stdout


def test_no_other_process_may_look_into_it(program):
    limits = Path(f"/proc/{program.process.pid}/limits").read_text()
    line = next(x for x in limits.splitlines() if x.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]


def test_a_method_of_the_callers_own_is_not_logged(program):
    values = post(b"", **SECRETS)
    values["REQUEST_METHOD"] = "CANARY-7731"
    status, headers, _ = program.ask(request(values))
    assert (status, headers["Allow"]) == (405, "POST")
    # The line is written behind the answer.
    wait_for(lambda: "method=other" in program.log.read_text())
    assert "CANARY" not in program.log.read_text()
