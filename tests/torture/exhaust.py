"""What the tests of exhaustion share: a site whose store lies on a small disk of its own, whoever sends to it and
keeps account of what was acknowledged, and the faults, each as a context that is over by itself. Every secret is a
canary, and each time that accounts are settled all is searched for them."""
import base64
import collections
import contextlib
import errno
import fcntl
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import uuid

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
import support  # noqa: E402
import hardening  # noqa: E402
from accounts import BCRYPT, YESCRYPT  # noqa: E402
from canaries import Kept, Watcher, canary, key_forms  # noqa: E402
from support import BUILD, PATIENCE, WRAP, Site, environment, wait_for  # noqa: E402

KEPT = Kept()
STANDINS = set() # the processes of the other side
TOKEN = KEPT.of["proview", "path_token"]
RIGHT = KEPT.add("horse bcrypt")
WRONG = KEPT.add(canary())
HASHES = [KEPT.add(BCRYPT), KEPT.add(YESCRYPT)]
CONF = """
[examjoint main]
client_id = exhaust-id
%s
[proview main]
login_url = {url}/v1/user/login
session_url = {url}/v1/sessions
header_name = X-Proview-Secret
basic_user = talview
%s
[throttle]
failures = 500

[fields]
0 = id
1 = password
""" % tuple("".join("%s = %s\n" % pair for pair in KEPT.section(kind).items()) for kind in ("examjoint", "proview"))
# With a Talview to ask: the shortest waits.
WORKER = CONF.replace("header_name", "ca_file = {ca}\nheader_name") + """
[worker]
connect_timeout = 3s
request_timeout = 3s
poll = 1s
lease = 8s
retry_first = 1s
retry_max = 2s
login_pause = 1s
"""
FILES = {"examjoint": "examjoint/events.db", "proview": "proview/callbacks.db", "ratings": "ratings/ratings.db"}
PATHS = {"examjoint": "/webhooks/examjoint", "proview": "/webhooks/proview/main/" + TOKEN}
# The one vendor's headers and the other's; a program looks at its own.
CLIENT = [("x-client-id", "exhaust-id"), ("x-client-secret", KEPT.of["examjoint", "client_secret"]),
          ("x-proview-secret", KEPT.of["proview", "header_secret"]),
          ("authorization", "Basic " + base64.b64encode(("talview:" + KEPT.of["proview", "basic_password"]).encode()).decode())]
# A sanitizer or valgrind keeps copies of a program's memory of its own.
SEARCHED = not WRAP and not hardening.sanitized(os.path.join(BUILD, "examhook"))
ROSTER = "id,password_hash\nada,%s\nyes,%s\n" % (BCRYPT, YESCRYPT)


def is_error(reply, word):
    assert reply.status == 503 and reply.json == {"error": word}, reply
    assert reply.headers["Retry-After"] == "5", reply.headers
    return True


class Disk(Site):
    """`disk`: mount options of a file system for the store alone, or None."""
    def __init__(self, disk=None, conf=CONF, roster=ROSTER, **how):
        self.disk = disk
        self.settled = False
        self.sent = {} # name -> [route, body, sends, acknowledged]
        self.leaks, self.tokens = [], []
        self.watcher = Watcher(KEPT, 0.2)
        self.watcher.others = STANDINS
        self.before = os.environ.get("TMPDIR"), resource.getrlimit(resource.RLIMIT_CORE)
        try:
            super().__init__(conf, [("main", roster)], **how)
        except BaseException:
            self.as_before()
            raise
        self.watcher.start()

    def prepare(self, *how):
        """Temporary files of all programs come to lie where they are looked for, and core files if any are written."""
        os.mkdir(self.path("tmp"))
        os.chmod(self.path("tmp"), 0o1777)
        os.environ["TMPDIR"] = self.path("tmp")
        if SEARCHED:
            resource.setrlimit(resource.RLIMIT_CORE, (self.before[1][1],) * 2)
        super().prepare(*how)

    def as_before(self):
        os.environ.pop("TMPDIR", None)
        if self.before[0] is not None:
            os.environ["TMPDIR"] = self.before[0]
        resource.setrlimit(resource.RLIMIT_CORE, self.before[1])

    def write_conf(self, conf, verify="", store=""):
        url = "https://127.0.0.1:9"
        if "{ca}" in conf:
            url = self.start_standin(*[word for name in ("username", "password", "app_id")
                                       for word in ("--" + name.replace("_", "-"), KEPT.of["proview", name])])
            STANDINS.add(self.parts["talview"].process.pid)
        super().write_conf(conf.format(url=url, ca=self.path("talview/ca.pem")), verify, store)

    def close(self):
        try:
            self.search()
        finally:
            self.watcher.end()
            self.as_before()
            super().close()

    def ok(self, *arguments):
        if arguments == ("migrate",) and self.disk and not self.mounted:
            cannot = self.mount_store(self.disk)
            if cannot:
                pytest.skip(cannot)
        return super().ok(*arguments)

    def file(self, area):
        return self.path("store", FILES[area])

    # --- Sending ------------------------------------------------------------------------------------------

    def made(self, route, pad=0):
        """A new event of that route: its name and its body."""
        if route == "proview":
            name = str(uuid.uuid4())
            body = {"session_uuid": name, "external_id": "x", "message": "over " + "m" * pad}
        else:
            name = support.unique("r")
            body = {"event": "result_ready", "respondent_id": name, "exam_id": "e", "pad": "p" * pad}
        self.sent[name] = [route, body, 0, 0]
        return name

    def send(self, route, name=None, pad=0, by=None):
        """One delivery; `by`: how it goes, self.ask or self.cgi. Returns (name, reply)."""
        name = name or self.made(route, pad)
        record = self.sent[name]
        record[2] += 1
        reply = (by or self.post)(route, json.dumps(record[1]).encode())
        record[3] += reply.status == 200
        return name, reply

    def post(self, route, body):
        return self.ask("POST", PATHS[route], body, CLIENT)

    def cgi(self, route, body, **how):
        """The program as plain CGI."""
        env = {"EXAMHOOK_CONF": self.conf_path, "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST",
               "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "192.0.2.1", "PATH_INFO": PATHS[route],
               **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in CLIENT}, **how.pop("env", {})}
        done = subprocess.run(WRAP + [os.path.join(BUILD, route + ".fcgi")], input=body, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**environment(), **env}, timeout=60 * PATIENCE, check=False, **how)
        self.cgi_log, self.cgi_ended = done.stderr.decode("utf-8", "replace"), done.returncode
        self.look_at(route + " as CGI", done.stdout + done.stderr)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        return support.Reply(int(headers.get("Status", "0").split()[0]), headers, body)

    def verify(self, who="ada", password=RIGHT, by=None, exam="e"):
        body = {"event": "verify_respondent", "exam_id": exam, "choosenLang": "en",
                "fields": [{"position": 0, "value": who}, {"position": 1, "value": password}]}
        return (by or self.post)("examjoint", json.dumps(body).encode())

    def taken(self, route, name=None, by=None, seconds=10, pad=0):
        """As a vendor does: the same again until it is taken."""
        name = name or self.made(route, pad)
        last = wait_for(lambda: self.send(route, name, by=by)[1].status == 200, seconds, 0.2)
        assert last, (route, name, self.parts[route].log()[-2000:] if route in self.parts else self.cgi_log)
        return name

    # --- What is there --------------------------------------------------------------------------------------

    def settle(self):
        """Each acknowledged one is there, once, with its body and its count; nothing else is."""
        found = collections.defaultdict(list)
        for row in self.rows("events", "--json"):
            if not row.get("outcome"): # no verification, not quarantined
                found[row["session_uuid"] or row["respondent_id"]].append(row)
        assert set(found) <= set(self.sent), "never sent: %s" % (set(found) - set(self.sent))
        for name, (route, body, sends, acks) in self.sent.items():
            rows = found.get(name, [])
            assert len(rows) <= 1, "doubled: %s" % rows
            assert rows or not acks, "lost: %s %s" % (route, name)
            for row in rows:
                assert max(acks, 1) <= row["deliveries"] <= sends, (row, sends, acks)
                assert row["body"] == body, (row, body)
        said = self.examhook("check", "--full").stdout
        wrong = [line for line in said.splitlines() if line.startswith("failed") and "the disk has only" not in line]
        assert said.count("integrity_check: ok") == 4 and not wrong, said
        self.search()
        self.settled = True

    def look_at(self, what, said):
        self.leaks += [(what, name) for name in KEPT.names_in(said)]

    def ask(self, method, path, *more):
        reply = super().ask(method, path, *more)
        self.look_at("the answer to " + method, str(reply.headers).encode() + reply.body)
        return reply

    def examhook(self, *arguments, **how):
        done = super().examhook(*arguments, **how)
        self.look_at(arguments, done.stdout + done.stderr)
        return done

    def search(self):
        """No secret is where it must not be: in what was written, said, and run until now."""
        def own_places(inside):
            if inside == "examhook.conf":
                return KEPT.all()
            if inside.startswith("store/roster/"):
                return HASHES
            return tokens if re.fullmatch(r"store/ratings/ratings\.db(-wal)?", inside) else ()

        if not SEARCHED:
            return
        known = len(KEPT.extra)
        KEPT.note_tokens(self.file("ratings"))
        tokens = self.tokens = self.tokens + KEPT.extra[known:]
        self.watcher.look()
        found, names = KEPT.in_files(self.folder, own_places)
        key = key_forms(self.folder)
        found += [(path, "identity.key") for path, content in support.written_files(self.folder)
                  if os.path.basename(path) != "identity.key" and any(form in content for form in key)]
        found += self.leaks + sorted(self.watcher.found)
        assert not found, found
        assert "store/examjoint/events.db" in names and "log/examjoint.log" in names, names
        assert not [name for name in names if os.path.basename(name).startswith("core")]

    def mark(self, route):
        return len(self.parts[route].log())

    def says(self, route, pattern, since=0):
        found = re.search(pattern, self.parts[route].log()[since:])
        assert found, (pattern, self.parts[route].log()[since:][-3000:])
        return found

    def checked(self, pattern, *options):
        """`examhook check` has a line that says so, and what to do; it is not "ok"."""
        done = self.examhook("check", *options)
        lines = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
        assert any(re.search(pattern, line) and " — " in line for line in lines), (pattern, done.stdout, done.stderr)
        return done.returncode

    def cpu(self, route):
        with open("/proc/%d/stat" % self.parts[route].process.pid, encoding="ascii") as f:
            words = f.read().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def lives(self):
        """What is within must not end a program, nor need one to be started again."""
        before = {name: part.process.pid for name, part in self.parts.items()}
        yield
        assert all(self.parts[name].process.pid == pid and self.parts[name].alive() for name, pid in before.items()), \
            {name: (part.alive(), part.log()[-1500:]) for name, part in self.parts.items()}

    # --- Faults ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def full(self):
        filler = self.path("store/filler")
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"x" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC
        try:
            yield
        finally:
            os.remove(filler)

    @contextlib.contextmanager
    def no_inodes(self):
        folder = self.path("store/many")
        os.mkdir(folder)
        try:
            for i in range(100000):
                os.close(os.open(os.path.join(folder, str(i)), os.O_CREAT | os.O_WRONLY))
            raise AssertionError("there is no end of inodes")
        except OSError as error:
            assert error.errno == errno.ENOSPC
        try:
            yield
        finally:
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def limited(self, route, which, soft):
        """A lower limit of the running program, until the end; the hard one stays."""
        pid = self.parts[route].process.pid
        before = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (soft, before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, which, before)

    @contextlib.contextmanager
    def read_only(self):
        self.stop("worker")
        subprocess.run(["mount", "-o", "remount,ro", self.path("store")], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.path("store")], check=True)
            self.start_worker()

    @contextlib.contextmanager
    def away(self, *routes):
        """Without those programs; they are started again at the end, as systemd does until they stay."""
        for route in routes:
            self.stop(route)
        try:
            yield
        finally:
            for route in routes:
                self.start_program(route)

    def fails(self, route, status=4):
        """What it says when it is started and ends at once."""
        log = self.path("log", route + "-again.log")
        since = os.path.getsize(log) if os.path.exists(log) else 0
        part = support.Part(route + "-again", WRAP + [os.path.join(BUILD, route + ".fcgi"), "--config", self.conf_path,
                                                      "--socket", self.path("sock", route + ".sock")], self.folder)
        assert part.process.wait(20 * PATIENCE) == status, part.log()
        return part.log()[since:]

    def copy_of(self, area):
        return os.path.join(self.kept, FILES[area])

    def put_back(self, area):
        """The area's folder as it was when put_back_later() began."""
        folder = os.path.dirname(self.file(area))
        shutil.rmtree(folder)
        shutil.copytree(os.path.dirname(self.copy_of(area)), folder)

    @contextlib.contextmanager
    def put_back_later(self, only_if=True):
        """The store's folders as they are now are there again at the end."""
        self.kept = self.path("kept")
        shutil.copytree(self.path("store"), self.kept)
        try:
            yield
        finally:
            for area in FILES if only_if else ():
                self.put_back(area)
            shutil.rmtree(self.kept)

    @contextlib.contextmanager
    def given_to(self, user):
        """Everything belongs to that user, and can be reached."""
        os.chmod(self.folder, 0o755)
        paths = [self.conf_path] + [os.path.join(where, name) for where, folders, names in os.walk(self.path("store"))
                                    for name in folders + names + ["."]]
        for path in paths:
            os.chown(path, user, user)
        try:
            yield
        finally:
            for path in paths:
                os.chown(path, 0, 0)
            os.chmod(self.folder, 0o700)

    @contextlib.contextmanager
    def held(self, area, how="flock"):
        """Somebody else holds the area: by the flock beside the file, or inside SQLite."""
        if how == "flock":
            with open(self.file(area).replace(".db", ".lock"), "rb") as f:
                fcntl.flock(f, fcntl.LOCK_EX)
                yield
            return
        shell = sqlite3.connect(self.file(area), isolation_level=None, timeout=5)
        shell.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            shell.rollback()
            shell.close()
