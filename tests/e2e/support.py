"""The real thing in a temporary folder: nginx with the shipped files over TLS, the two FastCGI programs, and
where a test wants them the worker and the stand-in of Talview. Clients: http.client, curl, a raw socket."""
import collections
import contextlib
import fcntl
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
WRAP = shlex.split(os.environ.get("EXAMHOOK_WRAP") or "")
# Under valgrind everything takes long.
PATIENCE = 20 if WRAP else 1
PYTHON = "/usr/bin/python3"
LANGUAGES = os.path.join(TOP, "deploy/languages")
CLAIMED = collections.deque(maxlen=64)


def free_port():
    """Below those that the kernel gives to clients, so that it stays free until a server takes it. Other tests that run
    at the same time do not get it meanwhile: a socket of ours stays bound to it. It shares the port with a server, which
    reuses addresses, but not with another socket of this kind, which at first does not."""
    while True:
        port = 12000 + secrets.randbelow(20000)
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        CLAIMED.append(claim)
        return port


def unique(prefix="r"):
    return prefix + secrets.token_hex(6)


def a_uuid():
    return str(uuid.uuid4())


def wait_for(what, seconds=10, every=0.05):
    """The first true value that what() gives; the last value when the time is over."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(every)


def is_in_time(attempt, seconds):
    """Whether one of three attempts, each a whole one, took less: attempt() says how long it took. What else the machine
    does may spoil one or two; a program that takes longer spoils all of them."""
    return any(attempt() < seconds for _ in range(3))


def kept_waiting(pid="self"):
    """Seconds for which the first thread of a process (ours: who asks) was ready to run and the machine ran others."""
    try:
        with open("/proc/thread-self/schedstat" if pid == "self" else "/proc/%d/schedstat" % pid, encoding="ascii") as f:
            return int(f.read().split()[1]) / 1e9
    except OSError: # a kernel that does not count it
        return 0.0


def environment():
    """Ours without what would change what is tested."""
    drop = ("EXAMHOOK_CONF", "DOCUMENT_ROOT", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM", "GATEWAY_INTERFACE", "MAKEFLAGS", "MFLAGS",
            "MAKEOVERRIDES", "MAKELEVEL")
    clean = {k: v for k, v in os.environ.items() if k not in drop and not k.lower().endswith("_proxy")}
    clean["PATH"] += ":/usr/sbin:/sbin"
    clean["ASAN_OPTIONS"] = "abort_on_error=1:handle_abort=0:" + clean.get("ASAN_OPTIONS", "")
    return clean


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return "%d %r" % (self.status, self.body[:300])


class ListeningSocket:
    """What a socket unit of systemd holds: a listening socket that outlives the programs that serve it. `made`: one
    that listens already, of another kind."""

    def __init__(self, path, backlog=511, made=None):
        self.path, self.socket = path, made or socket.socket(socket.AF_UNIX)
        if not made:
            self.socket.bind(path)
            os.chmod(path, 0o660)
            self.socket.listen(backlog)
        # Well above descriptor 3, where the program gets it.
        self.fd = fcntl.fcntl(self.socket.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)

    def command(self, command, count=1):
        """The command, run with the socket as descriptor 3 and with no other one of ours."""
        return ["bash", "-c", 'export LISTEN_FDS=%d LISTEN_PID=$$; exec "$@" 3<&%d %d<&-' % (count, self.fd, self.fd),
                "bash", *command]

    def close(self):
        os.close(self.fd)
        self.socket.close()


class Notified:
    """The socket to which a program tells how it is doing, as systemd holds it."""

    def __init__(self, path):
        self.path, self.said = path, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)

    def look(self):
        """Everything that was said until now; a datagram is a dictionary."""
        while True:
            try:
                text = self.socket.recv(65536).decode()
            except BlockingIOError:
                return self.said
            self.said.append(dict(line.split("=", 1) for line in text.splitlines()))

    def words(self):
        """The states in their order, without the texts for people."""
        return [word for datagram in self.look() for word in datagram if word in ("READY", "RELOADING", "STOPPING")]

    def close(self):
        self.socket.close()


class Part:
    """A running program; its output is in folder/log/NAME.log."""

    def __init__(self, name, command, folder, listener=None, notified=None):
        self.name, self.log_path = name, os.path.join(folder, "log", name + ".log")
        self.before = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        env = dict(environment(), **({"NOTIFY_SOCKET": notified.path} if notified else {}))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(listener.command(command) if listener else command,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=env,
                                            pass_fds=(listener.fd,) if listener else ())

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def said(self, text):
        """In this process's part of the log, which goes on behind that of those before it."""
        with open(self.log_path, "rb") as log:
            log.seek(self.before)
            return text.encode() in log.read()

    def alive(self):
        return self.process.poll() is None

    def stop(self, number=signal.SIGTERM, seconds=10):
        if self.alive():
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("%s did not stop within %d s" % (self.name, seconds)) from None


def exchange(connection, method, path, body, headers):
    """One request on a connection of http.client, which ends with it."""
    try:
        connection.putrequest(method, path)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


class Site:
    """`conf` is the configuration's text behind [store] and [verify] languages; `nginx` may change the text of a
    shipped nginx file: nginx(name, text) -> text. `rosters` are (account, CSV text)."""
    end_status = {} # what a part of that name ends with at SIGTERM, where it is not 0
    mounted = False # whether the store has a file system of its own

    def __init__(self, conf, rosters=(), nginx=None, verify="", store=""):
        self.folder = tempfile.mkdtemp(prefix="examhook-e2e-")
        self.port = free_port()
        self.base = "https://127.0.0.1:%d" % self.port
        self.parts = {}
        self.talview_url = None
        try:
            self.prepare(conf, rosters, nginx, verify, store)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def prepare(self, conf, rosters, nginx, verify, store):
        for name in ("log", "tls", "sock"):
            os.mkdir(os.path.join(self.folder, name))
        self.conf_path = self.path("examhook.conf")
        self.write_conf(conf, verify, store)
        self.certificate()
        self.write_nginx(nginx)
        self.ok("migrate")
        for account, text in rosters:
            self.roster(account, text)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def mount_store(self, options):
        """A file system of its own for the store, which is not there yet: None, or why it cannot be. Needs root."""
        os.mkdir(self.path("store"))
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "examhook-test", self.path("store")],
                              stderr=subprocess.PIPE, text=True, check=False)
        self.mounted = done.returncode == 0
        return None if self.mounted else "no file system of its own for the store: " + done.stderr.strip()

    def write_conf(self, conf, verify="", store=""):
        text = "[store]\nurl = sqlite:%s\n%s\n[verify]\nlanguages = %s\n%s\n%s" % (
            self.path("store"), store, LANGUAGES, verify, conf)
        with open(os.open(self.conf_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as f:
            f.write(text)

    def certificate(self):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", self.path("tls/key.pem"), "-out",
                        self.path("tls/cert.pem")], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.tls = ssl.create_default_context(cafile=self.path("tls/cert.pem"))

    def write_nginx(self, change):
        done = subprocess.run([os.path.join(TOP, "nginx/standalone"), self.folder, str(self.port)], check=True,
                              stdout=subprocess.PIPE, text=True)
        self.nginx_conf = done.stdout.strip()
        for name in ("examhook-http.conf", "examhook-locations.conf", "examhook.conf") if change else ():
            path = self.path("nginx", name)
            with open(path, encoding="utf-8") as f:
                text = f.read()
            with open(path, "w", encoding="utf-8") as f:
                f.write(change(name, text))

    # --- Running -----------------------------------------------------------------------------------------

    def start_program(self, name, notified=None):
        socket_path = self.path("sock", name + ".sock")
        self.parts[name] = Part(name, WRAP + [os.path.join(BUILD, name + ".fcgi"), "--config", self.conf_path,
                                              "--socket", socket_path], self.folder, notified=notified)

        def listening():
            assert self.parts[name].alive(), self.parts[name].log()
            with socket.socket(socket.AF_UNIX) as s:
                return s.connect_ex(socket_path) == 0
        assert wait_for(listening), "no socket: " + self.parts[name].log()

    def start_handed_over(self, name, listener, notified):
        """As systemd starts it: the socket is there already, and it is up when it says so."""
        before = notified.words().count("READY")
        self.parts[name] = Part(name, WRAP + [os.path.join(BUILD, name + ".fcgi"), "--config", self.conf_path],
                                self.folder, listener, notified)

        def ready():
            assert self.parts[name].alive(), self.parts[name].log()
            return notified.words().count("READY") > before
        assert wait_for(ready, every=0.01), "not ready: " + self.parts[name].log()

    def start_nginx(self):
        self.parts["nginx"] = Part("nginx", ["nginx", "-e", "stderr", "-c", self.nginx_conf], self.folder)

        def listening():
            assert self.parts["nginx"].alive(), self.parts["nginx"].log()
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        assert wait_for(listening), self.parts["nginx"].log()

    def start(self):
        self.start_program("examjoint")
        self.start_program("proview")
        self.start_nginx()
        return self

    def start_standin(self, *options):
        """Returns its address; its authority is folder/talview/ca.pem."""
        part = Part("talview", [PYTHON, os.path.join(TOP, "tests/standin/talview.py"), "--port", "0", "--dir",
                                self.path("talview"), *options], self.folder)
        self.parts["talview"] = part
        found = wait_for(lambda: re.search(r"^ready (https:\S+)", part.log(), re.M) or not part.alive(), 20)
        assert part.alive() and found, part.log()
        self.talview_url = found.group(1)
        return self.talview_url

    def start_worker(self):
        """Until it is up: before it takes signals, any of them ends it."""
        part = self.parts["worker"] = Part("worker", WRAP + [os.path.join(BUILD, "examhook"), "--config", self.conf_path,
                                                             "work"], self.folder)
        wait_for(lambda: part.said("the worker is up") or not part.alive())

    def stop(self, name, **how):
        return self.parts.pop(name).stop(**how)

    def close(self):
        """Stops everything; every program must have lived until now and end by itself with status 0."""
        trouble = []
        for name in list(self.parts):
            part = self.parts.pop(name)
            if not part.alive():
                trouble.append("%s had ended with %s:\n%s" % (name, part.process.returncode, part.log()[-3000:]))
                continue
            status = part.stop()
            if status != self.end_status.get(name, 0) and name != "talview":
                trouble.append("%s ended with %s:\n%s" % (name, status, part.log()[-3000:]))
        if self.mounted:
            subprocess.run(["umount", self.path("store")], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not trouble, "\n".join(trouble)

    # --- The operator's command --------------------------------------------------------------------------

    def examhook(self, *arguments, **how):
        return subprocess.run(WRAP + [os.path.join(BUILD, "examhook"), "--config", self.conf_path, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
                              check=False, **how)

    def ok(self, *arguments):
        done = self.examhook(*arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def rows(self, *arguments):
        return [json.loads(line) for line in self.ok(*arguments).splitlines()]

    def events(self, **wanted):
        """The stored events whose members are as wanted."""
        return [row for row in self.rows("events", "--json")
                if all(row.get(name) == value for name, value in wanted.items())]

    def roster(self, account, text, *options):
        path = self.path("roster.csv")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        self.ok("roster", "import", path, "--account", account, *options)
        os.remove(path)

    # --- Clients -----------------------------------------------------------------------------------------

    def ask(self, method, path, body=None, headers=()):
        """One request by http.client. `headers` are pairs, repeated names are sent repeatedly."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=60 * PATIENCE)
        return exchange(connection, method, path, body, headers)

    def connect(self):
        return self.tls.wrap_socket(socket.create_connection(("127.0.0.1", self.port), 60 * PATIENCE),
                                    server_hostname="localhost")

    def raw(self, data):
        """Sends bytes as they are, reads until the server closes."""
        with self.connect() as s:
            s.sendall(data)
            got = b""
            while True:
                try:
                    more = s.recv(65536)
                except (ssl.SSLError, ConnectionError):
                    break
                if not more:
                    break
                got += more
        return got

    def curl(self, path, *options):
        """(status, HTTP version, body) as curl has it."""
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", self.path("tls/cert.pem"), "-w",
                               "\n%{http_code} %{http_version}", *options, self.base + path],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stderr
        body, _, tail = done.stdout.rpartition("\n")
        status, version = tail.split()
        return int(status), version, body


def written_files(folder):
    """Every file below the folder, as (path, content). One that a program removes just then is none."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(FileNotFoundError):
                if os.path.isfile(path):
                    with open(path, "rb") as f:
                        content = f.read()
                    yield path, content


def parse_head(data):
    """(status, headers in lower case, body) of a raw HTTP/1 reply."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict((k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:]))
    return int(lines[0].split()[1]), headers, body
