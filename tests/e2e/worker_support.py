"""A worker's world in a temporary folder: the stand-in of Talview, a store, a configuration whose waits are
short, callbacks put in by the real proview.fcgi as plain CGI, and the real `examhook work`."""
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import ssl
import subprocess
import tempfile
import time
import urllib.request
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
WRAP = shlex.split(os.environ.get("EXAMHOOK_WRAP") or "")
PATIENCE = 10 if WRAP else 1
PYTHON = "/usr/bin/python3"
USERNAME, PASSWORD, APP_ID = "worker@example.org", "pass-CANARY-word", "app-4711"
PATH_TOKEN = "worker-path-token-0123456789"

# Waits so long that nothing happens a second time within a test, unless the test says otherwise.
SETTINGS = {
    "transfers": "16", "connect_timeout": "5s", "request_timeout": "10s", "poll": "1s", "lease": "60s",
    "retry_first": "1h", "retry_max": "6h", "watch_every": "12h", "login_pause": "1h",
}
if WRAP:
    # Under valgrind sixteen handshakes take that long.
    SETTINGS.update(connect_timeout="60s", request_timeout="60s", lease="3m")


def new_uuid():
    return str(uuid.uuid4())


def wait_for(what, seconds=15, every=0.05):
    """The first true value of what(); an AssertionError when there is none in time."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, "waited for %s s in vain" % seconds
        time.sleep(every)


def environment(**more):
    drop = ("EXAMHOOK_CONF", "DOCUMENT_ROOT", "JOURNAL_STREAM", "GATEWAY_INTERFACE")
    clean = {k: v for k, v in os.environ.items() if k not in drop and not k.lower().endswith("_proxy")}
    clean.update(more)
    return clean


class Daemon:
    """A running `examhook work`."""

    def __init__(self, world, number):
        self.log_path = world.path("worker-%d.log" % number)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(world.command("work"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=environment())

    def log(self):
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def stop(self, number=signal.SIGTERM, seconds=5):
        """Its exit status, and how long it took to end. One that has just been started comes up first: before it
        takes signals, any of them ends it."""
        if number != signal.SIGKILL:
            wait_for(lambda: self.process.poll() is not None or "the worker is up" in self.log())
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the worker did not end within %d s" % seconds) from None
        return status, time.monotonic() - began


class World:
    username, password, app_id, path_token = USERNAME, PASSWORD, APP_ID, PATH_TOKEN
    callback_headers = {} # what a callback has beside its path, as a CGI process gets it

    def __init__(self, settings=None, accounts=None, standin=True):
        self.folder = tempfile.mkdtemp(prefix="examhook-worker-")
        self.daemons, self.standin, self.url = [], None, "https://127.0.0.1:1"
        self.conf = self.path("examhook.conf")
        self.settings = {**SETTINGS, **(settings or {})}
        if standin:
            self.start_standin()
        self.write_conf(accounts)
        done = self.run("migrate")
        assert done.returncode == 0, done.stderr

    def path(self, *names):
        return os.path.join(self.folder, *names)

    # --- What there is -----------------------------------------------------------------------------------

    def start_standin(self):
        self.standin = subprocess.Popen(
            [PYTHON, os.path.join(TOP, "tests/standin/talview.py"), "--port", "0", "--dir", self.path("talview"),
             "--username", self.username, "--password", self.password, "--app-id", self.app_id],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        line = self.standin.stdout.readline()
        assert line.startswith("ready https://"), line
        self.url = line.split()[1]
        self.tls = ssl.create_default_context(cafile=self.path("talview", "ca.pem"))

    def account(self, **changes):
        """The lines of one [proview] section; None leaves a line out."""
        lines = {"login_url": self.url + "/v1/user/login", "session_url": self.url + "/v1/sessions",
                 "ca_file": self.path("talview", "ca.pem"), "username": self.username, "password": self.password,
                 "app_id": self.app_id, "path_token": self.path_token}
        lines.update(changes)
        return {k: v for k, v in lines.items() if v is not None}

    def write_conf(self, accounts=None, **settings):
        self.settings.update(settings)
        sections = [("store", {"url": "sqlite:" + self.path("store")}), ("log", {"level": "debug"}),
                    ("worker", self.settings)]
        for name, changes in (accounts or {"main": {}}).items():
            sections.append(("proview " + name, self.account(**changes)))
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            for name, lines in sections:
                f.write("[%s]\n%s\n" % (name, "".join("%s = %s\n" % pair for pair in lines.items())))

    def callback(self, session=None, account="main", external_id="claimed-1", message="Session Has Been Terminated",
                 **more):
        """Puts a callback in; returns its session's UUID."""
        session = session or new_uuid()
        body = json.dumps({"session_uuid": session, "external_id": external_id, "message": message, **more}).encode()
        done = subprocess.run(
            [os.path.join(BUILD, "proview.fcgi")], input=body, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, check=False,
            env=environment(EXAMHOOK_CONF=self.conf, GATEWAY_INTERFACE="CGI/1.1", REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)),
                            CONTENT_TYPE="application/json", REMOTE_ADDR="192.0.2.1", SERVER_PROTOCOL="HTTP/1.1",
                            PATH_INFO="/webhooks/proview/%s/%s" % (account, self.path_token), **self.callback_headers))
        assert re.search(rb"^Status: 200", done.stdout, re.M), (done.stdout, done.stderr)
        return session

    def callbacks(self, count, **how):
        return [self.callback(**how) for _ in range(count)]

    # --- Running -----------------------------------------------------------------------------------------

    def command(self, *arguments):
        return WRAP + [os.path.join(BUILD, "examhook"), "--config", self.conf, *arguments]

    def run(self, *arguments, env=None):
        return subprocess.run(self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60 * PATIENCE, check=False,
                              env=environment(**(env or {})))

    def once(self, *arguments, env=None):
        """`examhook work --once`; returns its log."""
        done = self.run("work", "--once", *arguments, env=env)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def daemon(self):
        self.daemons.append(Daemon(self, len(self.daemons)))
        return self.daemons[-1]

    def sessions(self):
        done = self.run("sessions", "--json")
        assert done.returncode == 0, done.stderr
        return {row["session_uuid"]: row for row in map(json.loads, done.stdout.splitlines())}

    def session(self, session):
        return self.sessions().get(session)

    def in_state(self, *sessions, state="rated"):
        """For wait_for(): true once all of them are in that state."""
        rows = self.sessions()
        return all(s in rows and rows[s]["state"] == state for s in sessions)

    def database(self, statement, *values):
        connection = sqlite3.connect(self.path("store/ratings/ratings.db"), timeout=10)
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def age_token(self, seconds=120):
        self.database("UPDATE logins SET obtained_at = obtained_at - ?", seconds * 1000)

    def make_due(self):
        self.database("UPDATE sessions SET next_attempt_at = 1")

    def login_row(self, account="main"):
        rows = self.database("SELECT token IS NOT NULL, blocked_until, failures, error, lease_owner FROM logins"
                             " WHERE account = ?", account)
        return dict(zip(("token", "blocked_until", "failures", "error", "lease_owner"), rows[0])) if rows else None

    # --- The stand-in ------------------------------------------------------------------------------------

    def ask(self, path, order=None):
        data = None if order is None else json.dumps(order).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=self.tls))
        with opener.open(urllib.request.Request(self.url + path, data=data), timeout=10) as reply:
            return json.load(reply)

    def control(self, **order):
        self.ask("/control", order)

    def counts(self):
        return self.ask("/control/counts")

    def calls(self, part="/v1/"):
        return [c for c in self.ask("/control/log") if part in c["path"]]

    def written(self, skip=()):
        """(path, bytes) of every file below the folder, but for the configuration and those named."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                if path != self.conf and not any(s in path for s in skip):
                    with contextlib.suppress(FileNotFoundError): # removed just then
                        with open(path, "rb") as f:
                            content = f.read()
                        yield path, content

    def close(self):
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
            daemon.process.wait()
        if self.standin:
            self.standin.terminate()
            self.standin.wait(10)
            self.standin.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
