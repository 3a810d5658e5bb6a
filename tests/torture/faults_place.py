"""What the fault series share: a folder with a store, the events they send, and what must be stored of them. Every secret
is a canary, and after each fault it is looked for in whatever was left and said."""
import collections
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
from accounts import BCRYPT  # noqa: E402
from canaries import Kept, Remains, canary, let_cores_be_written  # noqa: E402
from faulty import Faulty  # noqa: E402
from support import BUILD, LANGUAGES, environment  # noqa: E402

RIGHT, WRONG = "horse bcrypt", canary()
CONF = """
[store]
url = sqlite:%s/store
[verify]
languages = %s
budget = 30s
[roster]
hash = sha512crypt
[throttle]
failures = %d
pause = 1h
window = 1d
[examjoint main]
client_id = faults-id
%s
[proview main]
%s
login_url = https://127.0.0.1:9/login
session_url = https://127.0.0.1:9/sessions
[fields]
0 = id
1 = password
"""
WORDS = {"not_stored", "store_full", "not_configured", "unavailable"}
UUID = "018f2a4e-0000-7000-8000-%012d"
# Of the events with which a store is filled before; and of the one that meets the fault.
FIRST, NUMBER = 1, 9999
# A sync costs nothing there; what the disk makes of one is not what is tried here.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
AREAS = {"roster": "roster", "examjoint": "events", "proview": "callbacks", "ratings": "ratings"}


def whole(path):
    """integrity_check's word on one file."""
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as failed:
        return str(failed)
    finally:
        connection.close()


class Kind:
    """One kind of event: what is sent, which answer accepts it, and what must then be stored."""

    def __init__(self, name):
        self.name = name
        self.program, self.area = ("proview", "proview") if name == "callback" else ("examjoint", "examjoint")
        self.verifies = name in ("right", "wrong", "throttled")

    def event(self, number, size=100):
        note = "n%d " % number + "x" * size
        if self.name == "callback":
            return {"session_uuid": UUID % number, "external_id": str(number), "message": "m%d" % number, "more": note}
        event = {"event": "result_ready", "respondent_id": "r%d" % number, "exam_id": "e%d" % number, "note": note,
                 "fields": [{"position": 1, "value": WRONG}]}
        if self.name == "unknown":
            event["event"] = "something_new"
        elif self.name == "quarantined":
            del event["respondent_id"]
        elif self.verifies:
            word = WRONG if self.name == "wrong" else RIGHT
            event = {"event": "verify_respondent", "exam_id": "e%d" % number, "choosenLang": "en", "fields": [
                {"position": 0, "value": "7"}, {"position": 1, "value": word}]}
        return event

    def stored(self, number, size=100):
        """The body that is kept of it."""
        event = self.event(number, size)
        if "fields" in event:
            event["fields"] = [{"position": 1, "value": "[redacted]"}]
        return event

    def accepts(self, status, body):
        """Whether it was taken. A verification is also taken when it is refused, and then that is what is stored."""
        return status == (422 if self.name == "quarantined" else 200)

    def differs(self, number, size, rows, acks, sends, before=0):
        """(lost, doubled, other trouble) of the rows of this number, after so many acknowledged and sent ones; the
        deliveries of what may be stored but once count."""
        copies = len(rows) if self.name in ("right", "wrong") else sum(row["deliveries"] for row in rows)
        # Of refusals without a password check one a minute is enough.
        lost = copies < (min(acks, 1) if self.name == "throttled" else acks) + before
        doubled = copies > sends + before or (not self.verifies and len(rows) > 1)
        for row in rows:
            wanted = {"account": "main"}
            if self.verifies:
                wanted.update(event="verify_respondent", body=None, identity="7")
                if self.name == "throttled":
                    wanted.update(outcome="invalid", reason="throttled")
            else:
                wanted["body"] = self.stored(number, size)
                if self.area == "examjoint":
                    wanted["outcome"] = "quarantined" if self.name == "quarantined" else None
            for name, value in wanted.items():
                if row.get(name) != value:
                    return lost, doubled, "%s is %r" % (name, row.get(name))
        return lost, doubled, None


class Place:
    """A folder with the configuration and a store below `data`, where alone calls go wrong."""

    def __init__(self, library, failures=500):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="examhook-faults-", dir=QUICK))
        self.data, self.kept = os.path.join(self.folder, "data"), os.path.join(self.folder, "kept")
        self.store = os.path.join(self.data, "store")
        os.mkdir(self.data)
        os.mkdir(os.path.join(self.folder, "log"))
        os.mkdir(os.path.join(self.folder, "tmp"))
        self.secrets = Kept()
        self.token = self.secrets.of["proview", "path_token"]
        for word in (RIGHT, WRONG):
            self.secrets.add(word)
        self.remains = Remains(self.secrets, self.folder, hashes=[self.secrets.add(BCRYPT)])
        self.conf = os.path.join(self.folder, "examhook.conf")
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write(CONF % (self.data, LANGUAGES, failures, self.secrets.lines("examjoint"), self.secrets.lines("proview")))
        self.faulty = Faulty(self.folder, self.data, library)

    def database(self, area):
        return os.path.join(self.store, area, AREAS[area] + ".db")

    def command(self, *arguments, faulty=False, **how):
        done = subprocess.run([os.path.join(BUILD, "examhook"), "--config", self.conf, *arguments], text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder,
                              env=self.environment(self.faulty if faulty else None), timeout=120, check=False, **how)
        self.remains.look_at(arguments, done.stdout + done.stderr)
        return done

    def environment(self, faulty=None):
        """Temporary files come to lie where they are looked for."""
        return {**environment(), "TMPDIR": os.path.join(self.folder, "tmp"), **(faulty.environment if faulty else {})}

    def leaks(self, midway=False):
        """What is wrong: a secret where it must not be, right now; None when there is none. `midway`: the key may still have
        the name under which it is made."""
        keys = ("identity.key", "identity.key.new")[:1 + midway]
        found = self.remains.leaks(self.data, os.path.join(self.folder, "log"), os.path.join(self.folder, "tmp"), keys=keys)
        return "a secret is where it must not be: %s" % found if found else None

    def examhook(self, *arguments):
        done = self.command(*arguments)
        assert done.returncode == 0, "%s: %s" % (arguments, done.stderr)
        return done.stdout

    def fill(self):
        """A whole store with one candidate."""
        self.examhook("migrate")
        csv = os.path.join(self.folder, "one.csv")
        with open(csv, "w", encoding="utf-8") as f:
            f.write("id,password_hash\n7,%s\n" % BCRYPT)
        self.examhook("roster", "import", csv)

    def keep(self):
        """From here again() begins anew."""
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.data, self.kept)

    def again(self):
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(self.kept, self.data)

    def cgi(self, kind, number, size=100, faulty=None):
        """(status or None, body, exit status, log) of one request to a plain CGI process."""
        body = json.dumps(kind.event(number, size)).encode()
        path = "/webhooks/proview/main/" + self.token if kind.name == "callback" else "/webhooks/examjoint"
        more = {"EXAMHOOK_CONF": self.conf, "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST",
                "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "192.0.2.1", "SERVER_PROTOCOL": "HTTP/1.1",
                "PATH_INFO": path, "HTTP_X_CLIENT_ID": "faults-id", **self.secrets.cgi()}
        done = subprocess.run([os.path.join(BUILD, kind.program + ".fcgi")], input=body, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False, cwd=self.folder,
                              env={**self.environment(faulty), **more})
        self.remains.look_at("the answer or the log of a CGI process", done.stdout + done.stderr)
        found = re.match(rb"Status: (\d+)[^\n]*\r?\n(?:.+\r?\n)*\r?\n(.*)", done.stdout, re.S)
        status = int(found.group(1)) if found else None
        return status, found and found.group(2), done.returncode, done.stderr.decode("utf-8", "replace")

    def can_be_read(self):
        self.examhook("events", "--json")

    def rows(self, area):
        """The rows of each number, from the file itself: `examhook events` for each point would take most of the time."""
        if area == "proview":
            names, table = ("external_id", "account", "deliveries", "body"), "callbacks"
        else:
            names, table = ("exam_id", "account", "deliveries", "body", "event", "outcome", "reason", "identity"), "events"
        found = collections.defaultdict(list)
        connection = sqlite3.connect(self.database(area), timeout=10)
        try:
            for values in connection.execute("SELECT %s FROM %s" % (", ".join(names), table)):
                row = dict(zip(names, values))
                row["body"] = json.loads(row["body"]) if row["body"] else None
                found[int(values[0].lstrip("e"))].append(row)
        finally:
            connection.close()
        return found

    def attempts(self):
        """How many failed attempts are remembered, by exam."""
        connection = sqlite3.connect(self.database("examjoint"), timeout=10)
        try:
            return {int(exam[1:]): count for exam, count in
                    connection.execute("SELECT exam, sum(length(times)) / 4 FROM attempts GROUP BY exam")}
        finally:
            connection.close()

    def not_whole(self, *areas):
        """The files that are not whole, with integrity_check's words."""
        found = []
        for area in areas or AREAS:
            word = whole(self.database(area)) if os.path.exists(self.database(area)) else "is not there"
            if word != "ok":
                found.append("%s: %s" % (area, word))
        return found

    def close(self):
        self.remains.end()
        shutil.rmtree(self.folder, ignore_errors=True)
