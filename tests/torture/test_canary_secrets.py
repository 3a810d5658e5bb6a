"""No secret leaves its place: a canary in every secret option that the table in common/config_options.c has, and Talview's
token; then everything that can be asked, broken and killed; then a search, in clear text, base64 and hexadecimal, through
every file that was written, every answer, every output, and the command line and environment of every process.

A secret may stand in the configuration and in its own file, and the token in ratings.db; nothing else may have them.

Not all of it is here. Each fault, and the tests after which the same search is made (the first line of each is the fault):

    killed at random            test_kills.py: test_ten_kills; here: test_killed_and_begun_again
    killed after each call      test_faults.py: test_some_faults; the worker: test_some_runs_and_some_precise_points
    a backup that is killed     here: test_a_backup_that_is_killed_leaves_no_token
    EIO, ENOSPC, EROFS, EINTR   test_faults.py: test_some_faults; here: test_a_disk_that_fails_under_all_four_files
    short and torn writes       test_faults.py: test_some_faults; its "work" is where Talview's token is written
    many writers, some fail     test_faults.py: test_some_faults ("many")
    a full disk                 test_exhaustion.py: test_a_full_disk, test_the_worker_on_a_full_disk, test_the_operator_on_a_full_disk,
                                test_no_inode_left, test_a_limit_of_file_size
    no descriptors              test_exhaustion.py: test_no_descriptor_left, test_no_descriptor_for_a_request_in_pieces,
                                test_the_worker_without_descriptors
    no memory                   test_exhaustion.py: test_no_memory_for_a_hash; test_starved.py: every test, at its end
    read-only                   test_exhaustion.py: test_a_read_only_disk, test_a_wrong_owner_or_mode;
                                test_faults.py: test_a_disk_that_turns_read_only_under_the_programs
    locked                      test_exhaustion.py: test_somebody_holds_the_store, test_the_worker_while_somebody_holds_its_store;
                                here: test_a_store_that_somebody_else_holds
    corrupted                   test_exhaustion.py: test_a_broken_file, test_a_file_that_is_gone_but_not_its_log,
                                test_under_a_running_program, test_a_log_after_a_crash, test_a_roster_broken_under_a_running_program
    too new, too old            test_exhaustion.py: test_a_store_of_another_version
    the clock jumps             test_clock.py: every test, at its end
    a misbehaving Talview       test_worker_torture.py: test_some_runs_and_some_precise_points; here:
                                test_a_talview_that_says_back_what_it_was_sent, test_a_talview_that_cannot_be_reached
    duplicates at once          test_exhaustion.py: test_duplicates_at_the_same_time
    the web servers             tests/hosting: test_case, of each case on each way in all logs, and in every file at the end
    a crash with a core         here: test_no_core_of_anything_that_knows_a_secret
    a rehearsal                 here: test_a_played_rehearsal, test_a_rehearsal_that_is_killed
    a wrong configuration       here: test_wrong_configurations_quote_no_secret

That the search finds what there is: here test_the_search_finds_what_is_hidden, and beside each other use of it
test_the_search_after_a_fault_notices_each_secret, test_it_notices_a_secret_that_was_left, test_a_secret_that_was_left_is_noticed,
test_the_search_finds_what_is_planted, test_a_secret_in_any_file_of_a_way_is_noticed."""
import base64
import contextlib
import fcntl
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import hardening  # noqa: E402
import support  # noqa: E402
from canaries import BEGIN, Kept, Watcher, canary, forms, is_in, secret_options  # noqa: E402
from calls import EXAMJOINT, admitted, callback, fields, pack  # noqa: E402
from support import BUILD, TOP, WRAP, Site, a_uuid, environment, unique, wait_for, written_files  # noqa: E402

# Which part of the configuration may hold which account's secrets: `examhook config --for`.
ROLES = {"examjoint": ("examjoint",), "proview": ("proview",), "worker": ("proview",)}
WORKERS = ("username", "password", "app_id")
ROSTER = "id,password,name\n1001,horse,Ada\n"
# Cut short so that the tests reach it.
NGINX = [("client_body_timeout 10s", "client_body_timeout 1s"), ("fastcgi_read_timeout 30s", "fastcgi_read_timeout 3s"),
         ("client_header_timeout 10s", "client_header_timeout 1s"), ("rate=2000r/s", "rate=20r/s"), ("rate=200r/s", "rate=20r/s"),
         ("burst=2000", "burst=30")]


class Proxy(threading.Thread):
    """An HTTP proxy that refuses, and says back whatever it was sent."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.sent = self.socket.getsockname()[1], b""

    def run(self):
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                data = peer.recv(65536)
                self.sent += data
                peer.sendall(b"HTTP/1.1 502 " + data.split(b"\r\n")[0] + b"\r\nX-Sent: " + data.replace(b"\r\n", b" ") +
                             b"\r\nContent-Length: %d\r\n\r\n" % len(data) + data)

    def close(self):
        self.socket.close()


class World:
    """A site, the worker and the stand-in of Talview; every secret is a canary."""

    def __init__(self, form, level="debug"):
        self.kept = Kept()
        self.form = form
        self.said = [] # (what was asked, the answer or output)
        self.site = Site("", nginx=self.shorter)
        self.watcher = Watcher(self.kept)
        self.level = level
        self.url = self.site.start_standin("--username", self.kept.of["proview", "username"], "--password",
                                           self.kept.of["proview", "password"], "--app-id",
                                           self.kept.of["proview", "app_id"])
        self.watcher.others.add(self.site.parts["talview"].process.pid)
        self.watcher.start()
        self.write()
        self.site.roster("acme", ROSTER)
        self.site.start()

    @staticmethod
    def shorter(_, text):
        for old, new in NGINX:
            text = text.replace(old, new)
        return text

    # --- The configuration -------------------------------------------------------------------------------

    def lines(self, kind):
        """The section's secrets in this world's form."""
        text = ""
        for name, value in self.kept.section(kind).items():
            if self.form == "file":
                text += "%s_file = %s\n" % (name, self.secret_file(name, value))
            elif self.form == "hex":
                text += "%s_hex = %s\n" % (name, value.encode().hex())
            else:
                text += "%s = %s\n" % (name, value)
        return text

    def secret_file(self, name, value):
        os.makedirs(self.site.path("secrets"), mode=0o700, exist_ok=True)
        path = self.site.path("secrets", name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as f:
            f.write(value + "\n")
        return path

    def write(self, behind="", ca=True, worker="", login=None, verify=""):
        self.site.write_conf("""
[log]
level = %s
[roster]
hash = sha512crypt
[worker]
connect_timeout = 2s
request_timeout = 2s
lease = 10s
poll = 1s
retry_first = 1s
retry_max = 1s
login_pause = 1s
watch_every = 1s
%s
[examjoint acme]
client_id = acme-id
%s
[proview main]
login_url = %s
session_url = %s/v1/sessions
%s
header_name = X-Proview-Secret
basic_user = talview
%s
[fields]
0 = id
1 = password
%s""" % (self.level, worker, self.lines("examjoint"), login or self.url + "/v1/user/login", self.url,
         "ca_file = " + self.site.path("talview/ca.pem") if ca else "", self.lines("proview"), behind),
            verify, "lock_wait = 1s")

    # --- What vendors, operators and others do -----------------------------------------------------------

    def noted(self, what, answer):
        self.said.append((what, answer))
        return answer

    def ask(self, *arguments):
        try:
            reply = self.site.ask(*arguments)
        except (OSError, ValueError, support.http.client.HTTPException) as error:
            self.noted(arguments[:2], repr(error).encode())
            return None
        self.noted(arguments[:2], str(reply.headers).encode() + reply.body)
        return reply.status

    def raw(self, data, wait=0.0):
        """Bytes as they are; what comes back within a time."""
        with contextlib.suppress(OSError), self.site.connect() as s:
            s.sendall(data)
            time.sleep(wait)
            s.settimeout(3)
            with contextlib.suppress(OSError):
                self.noted("raw", s.recv(65536))

    def headers(self, which=""):
        s = self.kept.section("proview")
        basic = base64.b64encode(("talview:" + s["basic_password" + which]).encode()).decode()
        return [("X-Proview-Secret", s["header_secret" + which]), ("Authorization", "Basic " + basic)]

    def path(self, which=""):
        return "/webhooks/proview/main/" + self.kept.of["proview", "path_token" + which]

    def callback(self, which="", session=None):
        return self.ask("POST", self.path(which), pack(callback(session or a_uuid())), self.headers(which))

    def event(self, which="", body=None):
        secret = self.kept.of["examjoint", "client_secret" + which]
        return self.ask("POST", EXAMJOINT, pack(body or admitted(unique())),
                        [("x-client-id", "acme-id"), ("x-client-secret", secret)])

    def run(self, *arguments, but=(), **how):
        done = self.site.examhook(*arguments, **how)
        assert done.returncode >= 0, done
        self.note_token()
        text = done.stdout + done.stderr
        assert not self.kept.names_in(text, but), (arguments, self.kept.names_in(text, but))
        return done

    def note_token(self):
        self.kept.note_tokens(self.site.path("store/ratings/ratings.db"))

    def unpause(self):
        """As if nothing had ever gone wrong with a login."""
        with contextlib.closing(sqlite3.connect(self.site.path("store/ratings/ratings.db"), timeout=5)) as db, db:
            db.execute("UPDATE logins SET blocked_until = 0, failures = 0, error = NULL")

    def control(self, **order):
        data = json.dumps(order).encode()
        context = support.ssl.create_default_context(cafile=self.site.path("talview/ca.pem"))
        host, _, port = self.url[8:].partition(":")
        connection = support.http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
        assert support.exchange(connection, "POST", "/control", data, []).status == 200

    def rated(self, session):
        return wait_for(lambda: any(row["session_uuid"] == session and row["state"] == "rated"
                                    for row in self.site.rows("sessions", "--json")), 20)

    # --- The search --------------------------------------------------------------------------------------

    def own_places(self, inside):
        """The secrets that this file of the site's folder may have."""
        if inside == "examhook.conf" or inside.startswith(("secrets/", "credentials/")):
            return self.kept.all()
        if re.fullmatch(r"parts/\w+\.conf", inside):
            role = os.path.basename(inside)[:-5]
            return [value for (section, name), value in self.kept.of.items()
                    if section in ROLES[role] and (section == "examjoint" or (name in WORKERS) == (role == "worker"))]
        if re.fullmatch(r"store/ratings/ratings\.db(-wal)?", inside):
            return self.kept.extra
        return ()

    def search(self):
        """Where secrets are that are not in their place."""
        self.watcher.look()
        found, names = self.kept.in_files(self.site.folder, self.own_places)
        found += [(str(what), name) for what, answer in self.said for name in self.kept.names_in(answer)]
        found += [("identity.key in " + os.path.relpath(path, self.site.folder),)
                  for path in self.other_places_of_the_key()]
        return found + sorted(self.watcher.found), names

    def other_places_of_the_key(self):
        own = self.site.path("store/examjoint/identity.key")
        with open(own, "rb") as f:
            key = f.read()
        assert len(key) >= 32
        looked_for = forms(key)
        try:
            looked_for += forms(bytes.fromhex(key.decode()))
        except ValueError:
            pass
        return [path for path, content in written_files(self.site.folder)
                if path != own and any(form in content for form in looked_for)]

    def close(self):
        self.watcher.end()
        self.site.close()


@pytest.fixture
def make_world(monkeypatch, tmp_path):
    """Temporary files of all programs are looked at too, and core files would be written if a program let them."""
    if hardening.sanitized(os.path.join(BUILD, "examhook")) or WRAP:
        pytest.skip("a sanitizer or valgrind keeps copies of a program's memory of its own")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    made = []

    def make(form="line", **how):
        made.append(World(form, **how))
        os.mkdir(made[-1].site.path("tmp"))
        monkeypatch.setenv("TMPDIR", made[-1].site.path("tmp"))
        return made[-1]
    yield make
    for one in made:
        one.close()
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def clean(world, *wanted):
    """Nothing was found, and the search was made where there was something."""
    found, names = world.search()
    assert not found, found
    assert set(wanted) <= names, set(wanted) - names
    assert not [name for name in names if os.path.basename(name).startswith("core")]


LOGS = ("log/examjoint.log", "log/proview.log", "log/nginx.log", "nginx/access.log")


# --- The search itself ---

def test_the_search_finds_what_is_hidden(tmp_path):
    """In every encoding, wherever in a longer text, in a process of any kind."""
    kept = Kept()
    values = kept.all()
    for value in values:
        for before in ("", "x", "xy", "xyz: "):
            text = (before + value + " and more").encode()
            for content in (text, base64.b64encode(text), text.hex().encode(), text.hex().upper().encode()):
                assert len(kept.names_in(content)) == 1, content
        for content in (json.dumps(value), urllib.parse.quote(value, safe="")):
            assert len(kept.names_in(content)) == 1, content
    assert not kept.names_in("nothing of it, " + BEGIN)
    watcher = Watcher(kept)
    watcher.look()
    assert not watcher.found
    for words, env in ((["sh", "-c", "sleep 60; exit", values[0]], {}), (["sleep", "60"], {"SECRET": values[1]})):
        process = subprocess.Popen(words, env={"PATH": os.environ["PATH"], **env}, cwd=tmp_path, start_new_session=True)
        try:
            found = wait_for(lambda: watcher.look() or set(watcher.found))
            assert found, words
            watcher.found.clear()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# --- Everything that is asked ----------------------------------------------------------------------------------

def every_request(w):
    """The right ones, and what a vendor or anybody else could do wrong with the same secrets."""
    s = w.kept.section("proview")
    for which in ("", "_previous"):
        assert w.event(which) == 200 and w.callback(which) == 200
    assert w.event(body={"event": "verify_respondent", "exam_id": "e", "fields": fields("1001", "horse")}) == 200
    client = [("x-client-id", "acme-id"), ("x-client-secret", w.kept.of["examjoint", "client_secret"])]
    wrong = w.kept.of["examjoint", "client_secret"][:-1] + "x" # almost right
    for headers in ([("x-client-id", client[1][1]), ("x-client-secret", client[1][1])], client[:1] + [(client[1][0], wrong)],
                    client + client, [("x-client-secret", client[1][1])], client + [("Cookie", client[1][1])],
                    client + [("User-Agent", client[1][1]), ("Referer", "https://x/" + client[1][1])]):
        w.ask("POST", EXAMJOINT, b"{}", headers)
    for body in (b"{", b"", b"\xff", b'{"event":7}', b" " * 70000, b'{"event":"x","fields":"' + s["password"].encode() + b'"}'):
        w.ask("POST", EXAMJOINT, body, client)
        w.ask("POST", w.path(), body, w.headers())
    base, token = "/webhooks/proview/", s["path_token"]
    for path in (token, "main/%s/more" % token, "main/%s?a=%s" % (token, token), "nobody/" + token, "main//" + token,
                 "../proview/main/" + token, "main%2f" + token, "main/%" + token, "main/" + token + "x", "main?" + token,
                 "main/" + token * 400, "main/" + token + "%00", "main/" + "".join("%%%02x" % ord(c) for c in token)):
        for method in ("POST", "GET", "TRACE"):
            w.ask(method, base + path, b"{}", w.headers())
    w.ask("POST", w.path(), pack(callback(a_uuid())), [("X-Proview-Secret", s["path_token"])])
    w.ask("POST", w.path(), pack(callback(a_uuid())), w.headers() + w.headers())
    w.ask("POST", w.path(), pack(callback(a_uuid())), [("Authorization", "Bearer " + s["basic_password"])])
    w.ask("POST", "/webhook/proview/main/" + token, b"{}")
    w.ask("POST", "/" + token, b"{}")


def every_malformed(w):
    """What nginx refuses, cuts off or gives up waiting for: its error log would have the whole line."""
    line = ("POST %s HTTP/1.1\r\nHost: x\r\n" % w.path()).encode()
    head = line + b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in w.headers())
    for data in (line.replace(b"HTTP/1.1", b"HTTP/9.9"), line.replace(b"HTTP/1.1", b""), line.replace(b"POST", b"PO ST"),
                 line.replace(b"POST", b"\x01"), line + b"Host: y\r\n\r\n", line + b"bad header\r\n\r\n", head + b": x\r\n\r\n",
                 line.replace(b"Host: x", b"Host: a b") + b"\r\n", line.replace(b"Host: x\r\n", b"") + b"\r\n",
                 line + b"Content-Length: -1\r\n\r\n", line + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                 line + b"Transfer-Encoding: gzip\r\n\r\n", line + b"Content-Length: 999999999999\r\n\r\n",
                 head + b"X: " + b"y" * 9000 + b"\r\n\r\n", head + b"X: " + b"y" * 90000 + b"\r\n\r\n",
                 line.replace(b" HTTP", b"z" * 9000 + b" HTTP") + b"\r\n",
                 line.replace(b"/webhooks", b"http://%%/webhooks") + b"\r\n",
                 head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
                 head + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + b"x" * 99999,
                 head + b"Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n", head + b"\0\r\n\r\n"):
        w.raw(data)
    w.raw(line, wait=1.5) # its headers stop
    w.raw(head + b"Content-Length: 100\r\n\r\nx", wait=1.5) # its body stops
    # In the clear to the port of TLS.
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", w.site.port), 5) as s:
        s.sendall(head + b"\r\n")
        w.noted("plain", s.recv(65536))
    # More than the limit of requests; then as many as before may come again.
    connection = support.http.client.HTTPSConnection("127.0.0.1", w.site.port, context=w.site.tls, timeout=20)
    with contextlib.closing(connection):
        for _ in range(400): # one connection: faster than the limit, whatever else the machine does
            connection.request("POST", w.path(), b"{}", dict(w.headers()))
            answer = connection.getresponse()
            w.noted("too many", str(answer.headers).encode() + answer.read())
            if answer.status == 429:
                break
    assert answer.status == 429
    time.sleep(2)


def upstream_faults(w):
    """The program is down, hangs, and dies with the request in its hands."""
    for name, ask in (("proview", w.callback), ("examjoint", w.event)):
        part = w.site.parts[name]
        part.process.send_signal(signal.SIGSTOP)
        assert ask() == 503
        stopped = threading.Thread(target=ask)
        stopped.start()
        time.sleep(0.2)
        part.process.kill()
        part.process.send_signal(signal.SIGCONT)
        stopped.join()
        part.process.wait()
        assert ask() == 503
        w.site.parts.pop(name)
        w.site.start_program(name)
        assert ask() == 200


def operator(w, folder):
    """Whatever the operator's command shows or writes."""
    for words in (["config"], ["check"], ["check", "--json"], ["check", "--full"], ["events"], ["events", "--json"],
                  ["events", "--quarantined"], ["sessions"], ["sessions", "--json"], ["export"], ["export", "--format", "csv"],
                  ["respondent", "1001"], ["respondent", "1001", "--json"], ["roster", "list"], ["roster", "list", "--json"],
                  ["unlock", "1001"], ["retry", "--parked"], ["backup", w.site.path(folder)], ["purge", "--older-than", "1"],
                  ["work", "--once", "--budget", "3"], ["check", "--online"], ["migrate"], ["export", "--respondent", "1001"],
                  ["rehearse", "--clean"], ["respondent", "1001", "--erase", "--yes"]):
        w.run(*words)
    for row in w.site.rows("events", "--json", "--quarantined")[:3]:
        w.run("replay", row["id"])
    # What it makes up and prints is nobody's before it is pasted.
    done = w.run("rehearse", "--setup", "--standin", os.path.join(TOP, "tests/standin/talview.py"), "--dir", w.site.path(folder + "-rehearsal"))
    made = re.findall(r"^(?:client_secret|path_token|password) = (\S+)", done.stdout, re.M)
    assert done.returncode == 0 and len(made) >= 2, done
    for value in made:
        w.kept.add(value)
    os.makedirs(w.site.path("parts"), mode=0o700, exist_ok=True)
    for role in ROLES:
        done = w.site.examhook("config", "--for", role)
        assert done.returncode == 0, done.stderr
        with open(os.open(w.site.path("parts", role + ".conf"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as f:
            f.write(done.stdout)
        own = w.own_places("parts/%s.conf" % role)
        assert own and all(is_in(done.stdout.encode(), value) for value in own), role
        assert not w.kept.names_in(done.stderr)


@pytest.mark.parametrize("form", ["line", "file", "hex"])
def test_asked_in_every_way(make_world, form):
    w = make_world(form)
    w.site.start_worker()
    session = a_uuid()
    assert w.callback(session=session) == 200
    assert w.rated(session), w.site.parts["worker"].log()
    w.note_token()
    assert w.kept.extra, "the worker logged in, so there is a token"
    token = w.kept.extra[-1]
    every_request(w)
    if form == "line":
        every_malformed(w)
        upstream_faults(w)
    operator(w, "backup")
    clean(w, *LOGS, "log/worker.log", "store/ratings/ratings.db", "backup/ratings/ratings.db", "parts/worker.conf",
          "store/proview/callbacks.db", "store/examjoint/events.db", "store/roster/roster.db")
    assert {b"examjoint.fcgi", b"proview.fcgi", b"examhook", b"nginx: worker process"} <= w.watcher.seen, w.watcher.seen
    # The search finds what there is.
    assert token.encode() in b"".join(
        content for path, content in written_files(w.site.path("store/ratings")) if "ratings.db" in path)


def test_the_list_above_names_tests_that_there_are():
    named, there = set(re.findall(r"\b(test_\w+)(?!\w*\.py)\b", re.sub(r"test_\w+\.py", "", __doc__))), set()
    for folder in (HERE, os.path.join(os.path.dirname(HERE), "hosting")):
        for name in os.listdir(folder):
            if name.startswith("test_") and name.endswith(".py"):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    there |= set(re.findall(r"^def (test_\w+)\(", f.read(), re.M))
    assert len(named) > 30 and not named - there, named - there


def test_a_new_secret_option_is_among_them():
    """The table is read as it is written today: all of its secrets, each in one of the two kinds of account."""
    found = secret_options()
    with open(os.path.join(TOP, "common/config_options.c"), encoding="utf-8") as f:
        assert len(found) == f.read().count("CONFIG_SECRET_VALUE") > 10
    assert {section for section, _ in found} == {"examjoint", "proview"}
    with open(os.path.join(TOP, "common/config_options.c"), encoding="utf-8") as f:
        named = re.findall(r'\{"(\w+)", "(\w*(?:secret|password|token|key)\w*)", (\w+)', f.read())
    assert {(s, n) for s, n, kind in named} <= set(found), "a secret by its name, and not by its type"


# --- A rehearsal ------------------------------------------------------------------------------------------------

STANDIN = os.path.join(TOP, "tests/standin/talview.py")
PAGE = "rehearsal.html"


class Rehearsal:
    """Set up on a world, whose secrets are canaries; the account's own are made up by `--setup`, and known from there on."""

    def __init__(self, w):
        self.w = w
        done = w.run("rehearse", "--setup", "--standin", STANDIN, "--dir", w.site.path("rehearsal"))
        assert done.returncode == 0, done.stderr
        self.made = [w.kept.add(value) for value in re.findall(
            r"^(?:client_secret|path_token|header_secret|basic_password|password) = (\S+)", done.stdout, re.M)]
        assert len(set(self.made)) >= 3, done.stdout
        # What cleans up after a killed one waits as long as a candidate may.
        w.write(behind="\n" + done.stdout, verify="budget = 2s")
        for name in ("examjoint", "proview"):
            w.site.stop(name)
            w.site.start_program(name)
        w.site.start_worker()

    def begin(self, *more):
        """One that is played while others look; its own stand-in is looked at like everything else."""
        site = self.w.site
        return subprocess.Popen([
            os.path.join(BUILD, "examhook"), "--config", site.conf_path, "rehearse", "--candidates", "4", "--within", "3", "--url",
            site.base, "--ca", site.path("tls/cert.pem"), "--standin", STANDIN, "--even-now", *more], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=site.folder)

    def look(self, process, until=lambda: False):
        """Until it has ended, or has come so far; Talview's token is in its place for that time alone."""
        while process.poll() is None and not until():
            self.w.note_token()
            time.sleep(0.02)

    def standin_runs(self):
        """The one that this rehearsal started: its arguments are in a file in memory, not on its command line."""
        return any(STANDIN.encode() in line and b"@/proc/self/fd/" in line and self.w.kept.names_in(line) == []
                   for line in list(self.w.watcher.lines))


def test_a_played_rehearsal(make_world):
    w = make_world()
    play, before = Rehearsal(w), len(w.kept.extra)
    w.watcher.lines.clear()
    process = play.begin("--report", w.site.path(PAGE))
    play.look(process)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "4 let in" in out and "ratings: 4 fetched" in out, (out, err)
    w.noted("rehearse", out)
    w.noted("rehearse", err)
    assert len(w.kept.extra) > before, "the worker logged in, so there is a token"
    assert play.standin_runs(), "the stand-in was not looked at"
    with open(w.site.path(PAGE), encoding="utf-8") as f:
        page = f.read()
    assert "4 let in" in page
    for words in (["events", "--json"], ["sessions", "--json"], ["config"], ["check"], ["backup", w.site.path("backup")],
                  ["rehearse", "--clean"]):
        w.run(*words)
    clean(w, *LOGS, "log/worker.log", PAGE, "store/ratings/ratings.db", "rehearsal/ca.pem")
    # What stood in the page, or was shown, would be found.
    for value in (*play.made, w.kept.of["proview", "password"], w.kept.extra[-1]):
        with open(w.site.path(PAGE), "w", encoding="utf-8") as f:
            f.write(page.replace("4 let in", "4 let in" + urllib.parse.quote(value)))
        assert [place for place, _ in w.search()[0]] == [PAGE], value


def test_a_rehearsal_that_is_killed(make_world):
    """Its account is still there, and its stand-in ends with it; what cleans it up shows nothing either."""
    w = make_world()
    play = Rehearsal(w)
    process = play.begin("--report", w.site.path(PAGE))
    play.look(process, lambda: w.site.rows("events", "--json", "--account", "rehearsal"))
    process.kill()
    for said in process.communicate(timeout=60):
        w.noted("rehearse, killed", said)
    assert process.returncode == -signal.SIGKILL and play.standin_runs()
    w.note_token()
    clean(w, *LOGS)
    assert w.run("rehearse", "--clean").returncode == 0
    clean(w, *LOGS)


# --- Talview ----------------------------------------------------------------------------------------------------

def echoes(w):
    """Answers of a Talview that says back what it was sent, in every part of an answer."""
    said = "%s %s %s %s" % tuple([*(w.kept.of["proview", name] for name in WORKERS), (w.kept.extra or ["none"])[-1]])
    for status in (200, 302, 401, 403, 404, 422, 429, 500):
        yield {"status": status, "body": said, "retry_after": said, "content_type": said,
               "headers": {"Location": "https://127.0.0.1:1/?" + said.replace(" ", "+"), "WWW-Authenticate": said, "X": said}}
    yield {"body": json.dumps({"access_token": said + "\n", "refresh_token": said, "expires_in": 3600})}
    yield {"body": json.dumps({"access_token": 7, "refresh_token": said, "error": said})}
    yield {"body": '{"access_token": "%s' % said}
    yield {"cut": 7, "body": said}
    yield {"vanish": True}
    yield {"headers": {"Broken\r\n" + said: "x"}, "body": said}
    yield {"body": said * 1500}


def test_a_talview_that_says_back_what_it_was_sent(make_world):
    w = make_world()
    session, refresh = a_uuid(), w.kept.add(canary())
    assert w.callback(session=session) == 200
    w.run("work", "--once", "--budget", "5")
    assert w.kept.extra[-1] != refresh, "no token was stored"
    for n, rule in enumerate(echoes(w)):
        w.control(login=rule, sessions={session: rule}, default=rule)
        if n % 3 == 0:
            w.site.ok("retry", session)
        w.run("work", "--once", "--budget", "1")
        w.control(login={}, forget_tokens=True)
        w.control(login=rule)
        w.unpause()
        w.run("check", "--online")
        w.run("sessions")
        w.run("sessions", "--json")
    # As it came from a login.
    w.control(reset=True, login={"body": {"access_token": w.kept.add(canary()), "refresh_token": refresh,
                                          "expires_in": 3600}})
    w.unpause()
    assert "accepted the login" in w.run("check", "--online").stdout
    # refresh_token is for nobody: not even for ratings.db.
    assert not any(form in content for path, content in written_files(w.site.path("store")) for form in forms(refresh))
    clean(w, "store/ratings/ratings.db")


def test_a_talview_that_cannot_be_reached(make_world):
    """No authority, no TLS, nobody there, a proxy: what libcurl says of it quotes nothing."""
    w = make_world()
    session = a_uuid()
    assert w.callback(session=session) == 200
    w.write(ca=False)
    assert "certificate" in w.run("check", "--online").stdout
    w.run("work", "--once", "--budget", "2")
    proxy = Proxy()
    proxy.start()
    plain = socket.create_server(("127.0.0.1", 0)) # no TLS, and no answer
    try:
        w.write(worker="proxy = http://127.0.0.1:%d" % proxy.port)
        w.unpause()
        w.run("check", "--online")
        w.run("work", "--once", "--budget", "2")
        assert proxy.sent.startswith(b"CONNECT ")
        assert not w.kept.names_in(proxy.sent)
        for login in ("https://127.0.0.1:%d/v1/user/login" % plain.getsockname()[1], "https://127.0.0.1:1/login"):
            w.write(login=login)
            w.unpause()
            w.run("check", "--online")
            w.run("work", "--once", "--budget", "2")
    finally:
        proxy.close()
        plain.close()
    # A secret has no place in an address: it would be shown by `config` and logged by proxies.
    for worker in ("proxy = http://user:%s@127.0.0.1:1", "proxy = http://127.0.0.1:1/?%s"):
        w.write(worker=worker % w.kept.add(canary()))
        assert w.run("check").returncode != 0
    clean(w, "store/ratings/ratings.db")


# --- Faults -----------------------------------------------------------------------------------------------------

def wrong_lines(section, name, value):
    return ["%s %s" % (name, value), "%s_ = %s" % (name, value), value, "%s_hex = %sg" % (name, value),
            "%s_hex = %s0" % (name, value.encode().hex()), "%s = %s\n%s = %s" % (name, value, name, value),
            "%s = %s%s" % (name, value, "x" * 5000), "%s = %s \\\n continued" % (name, value),
            "%s = %s\n  %s" % (name, value, value), "%s = %s\x01" % (name, value), "%s = %s\0" % (name, value),
            "%s = %s\n[%s_ x]" % (name, value, section), "%s = %s\n%s_file = /x" % (name, value, name),
            "%s = \xff%s" % (name, value), "%s = %s /%s" % (name, value, value)]


def wrong_configurations(w):
    """What an operator may get wrong on a line with a secret: each way with one of them, and of each a third of the ways.
    What stands in a section's or an option's name, or in the value of an option that is no secret (basic_user), is quoted in
    messages: nobody could mend it else."""
    for turn, ((section, name), value) in enumerate(w.kept.of.items()):
        for n, line in enumerate(wrong_lines(section, name, value)):
            if name == "password" or (turn + n) % 3 == 0:
                yield "[%s other]\n%s\n" % (section, line)
            if name == "password": # a secret of another section
                yield "[log]\n%s\n" % line


def test_wrong_configurations_quote_no_secret(make_world):
    """Read by the command, by each program at its start, and by the running ones at SIGHUP."""
    w = make_world()
    refused, quoted = 0, []
    texts = list(wrong_configurations(w))
    for n, text in enumerate(texts):
        w.write(behind=text)
        done = w.site.examhook("config", "--for", ("examjoint", "proview", "worker")[n % 3])
        refused += done.returncode != 0
        if w.kept.names_in(done.stderr):
            quoted.append((text, done.stderr))
        if n % 20 == 0:
            for name in ("examjoint", "proview"):
                w.site.parts[name].process.send_signal(signal.SIGHUP)
            w.run("check")
    assert refused > len(texts) * 0.8, (refused, len(texts))
    assert not quoted, quoted[:5]
    w.write()
    assert w.event() == 200
    clean(w, *LOGS)


def has_a_socket(pid):
    with contextlib.suppress(FileNotFoundError): # one that it closes just then
        return any(os.readlink("/proc/%d/fd/%s" % (pid, fd)).startswith("socket:") for fd in os.listdir("/proc/%d/fd" % pid))
    return False


def ended_by(part, number):
    """Sends a signal that dumps core; whether a core was dumped."""
    os.kill(part.process.pid, number)
    _, status = os.waitpid(part.process.pid, 0)
    part.process.returncode = -number
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status)


def test_no_core_of_anything_that_knows_a_secret(make_world):
    w = make_world()
    other = support.Part("sleep", ["sleep", "60"], w.site.folder)
    if not ended_by(other, signal.SIGABRT):
        pytest.skip("nobody leaves a core file on this machine")
    for _, _, names in os.walk(w.site.folder):
        for name in [n for n in names if n.startswith("core")]:
            os.remove(w.site.path(name))
    w.site.start_worker()
    session = a_uuid()
    assert w.callback(session=session) == 200 and w.event() == 200 and w.rated(session)
    w.control(login={"delay": 20}, default={"delay": 20})
    command = [os.path.join(BUILD, "examhook"), "--config", w.site.conf_path]
    for name, words in (("online", ["check", "--online"]), ("follow", ["events", "--follow"])):
        w.site.parts[name] = support.Part(name, [*command, *words], w.site.folder)
    # The one is about to ask Talview, and the other has told what is there.
    assert wait_for(lambda: has_a_socket(w.site.parts["online"].process.pid), 60), w.site.parts["online"].log()
    assert wait_for(w.site.parts["follow"].log, 60)
    for name, number in (("examjoint", signal.SIGABRT), ("proview", signal.SIGSEGV), ("worker", signal.SIGQUIT),
                         ("online", signal.SIGABRT), ("follow", signal.SIGBUS)):
        assert not ended_by(w.site.parts.pop(name), number), name
    clean(w, *LOGS)


def test_killed_and_begun_again(make_world):
    w = make_world("file")
    for _ in range(4):
        w.site.start_worker()
        threads = [threading.Thread(target=ask) for ask in (w.event, w.callback) * 8]
        for thread in threads:
            thread.start()
        time.sleep(secrets.randbelow(100) / 500)
        for name in ("examjoint", "proview", "worker"):
            part = w.site.parts.pop(name)
            part.process.kill()
            part.process.wait()
        for thread in threads:
            thread.join()
        w.note_token()
        w.site.start_program("examjoint")
        w.site.start_program("proview")
    assert w.event() == 200 and w.callback() == 200
    clean(w, *LOGS)


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "EROFS", "EINTR"])
def test_a_disk_that_fails_under_all_four_files(make_world, fault):
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    w = make_world()
    w.site.stop("examjoint")
    w.site.stop("proview")
    before, support.WRAP = support.WRAP, [
        "strace", "-D", "-qq", "-f", "-o", "/dev/null", "-e", "trace=pwrite64,fsync,fdatasync,ftruncate",
        "-e", "inject=pwrite64,fsync,fdatasync:error=%s:when=20+3" % fault]
    try:
        w.site.start_program("examjoint")
        w.site.start_program("proview")
        statuses = {ask() for _ in range(25) for ask in (w.event, w.callback)}
        assert 503 in statuses, statuses
        for words in (["work", "--once", "--budget", "3"], ["roster", "import", w.site.path("r.csv"), "--account", "acme"],
                      ["backup", w.site.path("copy")], ["purge", "--older-than", "1"]):
            with open(w.site.path("r.csv"), "w", encoding="ascii") as f:
                f.write(ROSTER)
            w.run(*words)
    finally:
        support.WRAP = before
    clean(w, *LOGS)


def dump_of(path):
    """Schema and rows as SQL, in an order that does not depend on how they came to be, and what the header says."""
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as db:
        return sorted(db.iterdump()) + [db.execute("PRAGMA " + name).fetchone()[0]
                                        for name in ("user_version", "application_id", "encoding", "page_size")]


def test_a_backup_that_is_killed_leaves_no_token(make_world):
    """Wherever it is killed, what lies there has no token: a copy goes who knows where."""
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    w = make_world()
    assert w.callback() == 200
    w.run("work", "--once", "--budget", "5")
    assert w.kept.extra
    killed, at, done = 0, 1, None
    while done is None or done.returncode != 0:
        shutil.rmtree(w.site.path("copy"), ignore_errors=True)
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,rename,unlink,fsync,fdatasync", "-e",
             "inject=pwrite64,rename,unlink,fsync,fdatasync:signal=KILL:when=%d" % at, os.path.join(BUILD, "examhook"),
             "--config", w.site.conf_path, "backup", w.site.path("copy")], env=environment(), check=False,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        killed += done.returncode == -signal.SIGKILL
        found = [path for path, content in written_files(w.site.path("copy")) if w.kept.names_in(content)]
        assert not found, (at, found)
        assert at < 1000, done
        at += 4
    assert killed > 10
    # And the whole one lacks nothing else.
    whole, copy = (dump_of(w.site.path(name, "ratings/ratings.db")) for name in ("store", "copy"))
    start = 'INSERT INTO "logins"'
    assert len(whole) > 20 and [x for x in whole if not str(x).startswith(start)] == \
        [x for x in copy if not str(x).startswith(start)]
    (login,) = [x for x in copy if str(x).startswith(start)]
    assert re.match(r"""INSERT INTO "logins" VALUES\('main',NULL,0,0,0,0,NULL,""", login), login


def test_a_store_that_somebody_else_holds(make_world):
    w = make_world()
    with contextlib.ExitStack() as held:
        for name in ("examjoint/events.lock", "proview/callbacks.lock", "ratings/ratings.lock", "roster/roster.lock"):
            path = w.site.path("store", name)
            if os.path.exists(path):
                fcntl.flock(held.enter_context(open(path, "rb")), fcntl.LOCK_EX)
        assert w.event() == 503 and w.callback() == 503
        for words in (["work", "--once", "--budget", "2"], ["retry", "--parked"], ["check"]):
            w.run(*words)
    clean(w, *LOGS)
