"""The operator's command, run for real on a store of its own. What is received comes in through the webhook
programs as plain CGI: one process a request, no web server needed."""
import contextlib
import csv
import fcntl
import io
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

from support import is_in_time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
WRAP = shlex.split(os.environ.get("EXAMHOOK_WRAP") or "")
TOKEN = "path-token-0123456789"
SECRETS = ["canary-client-secret", "canary-previous", TOKEN, "canary-user", "canary-password", "canary-app"]
UUID = "f46bd560-53f6-11eb-b441-492a960aa0ba"
HASH = "$6$saltsalt$" + "a" * 86

CONF = """
[store]
url = sqlite:{folder}/store

[verify]
languages = {top}/deploy/languages

[roster]
timezone = Europe/Berlin
hash = sha512crypt

[examjoint main]
client_id = main-id
client_secret = canary-client-secret
client_secret_previous = canary-previous
{more}
[proview pv]
environment = development
path_token = path-token-0123456789
username = canary-user
password = canary-password
app_id = canary-app

[fields]
0 = id
1 = password
"""
SECOND = """
[examjoint second]
client_id = second-id
client_secret = canary-client-secret
"""


def clean_environment(**more):
    drop = ("EXAMHOOK_CONF", "DOCUMENT_ROOT", "JOURNAL_STREAM", "GATEWAY_INTERFACE")
    env = {k: v for k, v in os.environ.items() if k not in drop}
    env.update(more)
    return env


class Shop:
    """A folder with a configuration and a store."""

    def __init__(self, folder, more=""):
        self.folder = folder
        self.conf = os.path.join(folder, "examhook.conf")
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            f.write(CONF.format(folder=folder, top=TOP, more=more))

    def command(self, *arguments):
        return WRAP + [os.path.join(BUILD, "examhook"), "--config", self.conf, *arguments]

    def run(self, *arguments, stdin=""):
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        done = subprocess.run(self.command(*arguments), input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=clean_environment(), timeout=120)
        done.out, done.err = done.stdout.decode(), done.stderr.decode()
        return done

    def ok(self, *arguments, stdin=""):
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.err + done.out
        return done.out

    def fails(self, code, *arguments, stdin=""):
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == code, (done.returncode, done.out, done.err)
        return done.err

    def rows(self, *arguments):
        return [json.loads(line) for line in self.ok(*arguments).splitlines()]

    def roster(self, text, *options):
        return self.ok("roster", "import", "-", *options, stdin=text)

    def cgi(self, program, path, body, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        env = clean_environment(GATEWAY_INTERFACE="CGI/1.1", REQUEST_METHOD="POST", PATH_INFO=path,
                                REMOTE_ADDR="192.0.2.1", CONTENT_LENGTH=str(len(body)), EXAMHOOK_CONF=self.conf,
                                **headers)
        done = subprocess.run([os.path.join(BUILD, program + ".fcgi")], input=body,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, timeout=60)
        found = re.match(rb"Status: (\d+)", done.stdout)
        assert found, (done.stdout, done.stderr)
        assert found.group(1) in (b"200", b"422"), (done.stdout, done.stderr)
        return int(found.group(1)), json.loads(done.stdout.split(b"\r\n\r\n", 1)[1])

    def examjoint(self, body):
        return self.cgi("examjoint", "/webhooks/examjoint", body, HTTP_X_CLIENT_ID="main-id",
                        HTTP_X_CLIENT_SECRET="canary-client-secret")

    def verify(self, who, password, exam="exam-1"):
        fields = [{"position": 0, "value": who}, {"position": 1, "value": password}]
        return self.examjoint({"event": "verify_respondent", "fields": fields, "exam_id": exam})[1]

    def proview(self, uuid=UUID, message="Session Has Been Terminated", external="5506693"):
        status, _ = self.cgi("proview", "/webhooks/proview/pv/" + TOKEN,
                             {"session_uuid": uuid, "message": message, "external_id": external})
        assert status == 200


@pytest.fixture
def shop(tmp_path):
    made = Shop(str(tmp_path))
    made.ok("migrate")
    return made


def admitted(respondent="r1", exam="exam-1", on=1719221380326, **more):
    return {"event": "admitted_respondent", "respondent_id": respondent, "exam_id": exam, "admittedOn": on, **more}


# --- The front door ------------------------------------------------------------------------------------------

def subcommands():
    done = subprocess.run([os.path.join(BUILD, "examhook"), "--help"], stdout=subprocess.PIPE, check=True, text=True)
    part = done.stdout.split("Subcommands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in part.splitlines()]


def test_every_subcommand_of_the_issue_is_there():
    assert subcommands() == ["roster", "events", "sessions", "respondent", "retry", "replay", "export", "unlock",
                             "migrate", "backup", "purge", "check", "config", "work", "rehearse"]


def manual():
    with open(os.path.join(TOP, "deploy/man/examhook.1"), encoding="utf-8") as f:
        return f.read()


def test_manual_holds_every_subcommand_option_and_exit_code(shop):
    text = manual()
    everywhere = {"config", "help"}
    for name in subcommands():
        sections = re.findall(r"^\.Ss %s\b.*?(?=^\.S[sh] )" % name, text, re.M | re.S)
        assert sections, name
        help_text = shop.ok(name, "--help")
        options = set(re.findall(r"^  --([a-z-]+)", help_text, re.M))
        assert everywhere <= options
        documented = set(re.findall(r"Fl -([a-z-]+)", "".join(sections)))
        assert documented == options - everywhere, name
    for option in everywhere:
        assert ".It Fl -" + option in text
    codes = re.findall(r"^\.It (\d+)$", text, re.M)
    assert codes == re.findall(r"(?<!\d)(\d+) (?:fine|what|the|out)",
                               subprocess.run([os.path.join(BUILD, "examhook"), "--help"], stdout=subprocess.PIPE,
                                              text=True).stdout.split("Exit codes:")[1])


def test_manual_is_clean():
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", os.path.join(TOP, "deploy/man/examhook.1")],
                          stdout=subprocess.PIPE, text=True)
    assert done.stdout == "" and done.returncode == 0


def test_version_and_help(shop):
    assert re.fullmatch(r"examhook \d+\.\d+\.\d+\n", shop.ok("--version"))
    assert "Usage: examhook events" in shop.ok("events", "--help")
    assert "--since" in shop.ok("events", "-h")


@pytest.mark.parametrize("arguments, says", [
    ([], "Usage:"),
    (["evens"], 'did you mean "events"?'),
    (["nothing"], "Try: examhook --help"),
    (["--nothing"], "Try: examhook --help"),
    (["events", "--nothing"], "--nothing"),
    (["events", "--since"], "needs a value"),
    (["events", "--since", "yesterday"], "--since needs a time"),
    (["events", "--limit", "0"], "--limit"),
    (["events", "--limit", "1x"], "--limit"),
    (["events", "e1"], "nothing to be named"),
    (["sessions", "--state", "lost"], "pending, rated or parked"),
    (["respondent"], "needs one ID"),
    (["retry"], "UUID"),
    (["retry", "--parked", UUID], "UUID"),
    (["retry", "5506693"], "no UUID"),
    (["replay"], "IDs"),
    (["export", "--format", "xml"], "csv or json"),
    (["export", "--what", "roster"], "events or sessions"),
    (["unlock"], "ID"),
    (["unlock", "1001", "--exam", "e"], "ID"),
    (["unlock", "1001", "--account", "nobody"], "no [examjoint nobody]"),
    (["backup"], "FOLDER"),
    (["purge"], "--older-than"),
    (["purge", "--older-than", "0"], "--older-than"),
    (["check", "--start", "--full"], "--start is quick"),
    (["check", "--for", "nginx"], "examjoint, proview or worker"),
    (["config", "--for", "operator"], "examjoint, proview or worker"),
    (["config", "--output", "x"], "--output goes with --for"),
    (["migrate", "now"], "nothing to be named"),
    (["config", "x"], "nothing to be named"),
    (["work", "--budget", "5"], "--once"),
    (["roster"], "import, list or remove"),
    (["roster", "import"], "one FILE.csv"),
    (["roster", "import", "a.csv", "b.csv"], "one FILE.csv"),
    (["roster", "import", "-", "--exam", "e"], "--replace"),
    (["roster", "import", "-", "--account", "nobody"], "no [examjoint nobody]"),
    (["roster", "list", "--replace"], "--replace"),
    (["roster", "remove"], "one ID"),
    (["rehearse"], "one of --candidates N, --setup and --clean"),
    (["rehearse", "--setup", "--clean"], "one of"),
    (["rehearse", "--candidates", "0"], "1 to 100000"),
    (["rehearse", "--candidates", "5", "--within", "1h"], "--within"),
    (["rehearse", "--candidates", "5", "--url", "http://x"], "--url is https://"),
    (["rehearse", "--candidates", "5", "--url", "https://x/path"], "--url is https://"),
    (["rehearse", "--candidates", "5", "--dir", "x"], "--dir goes with --setup"),
])
def test_wrong_command_line_ends_with_2(shop, arguments, says):
    assert says in shop.fails(2, *arguments)


def test_configuration_refused_ends_with_3(shop):
    with open(shop.conf, "a", encoding="utf-8") as f:
        f.write("\n[store]\ncolour = blue\n")
    assert re.search(r"examhook\.conf:\d+: ", shop.fails(3, "events"))
    shop.fails(3, "config")


def test_missing_store_ends_with_4_and_says_what_helps(tmp_path):
    shop = Shop(str(tmp_path))
    for arguments in (["events"], ["sessions"], ["roster", "list"], ["retry", "--parked"], ["unlock", "1"],
                      ["purge", "--older-than", "1"], ["respondent", "r"], ["replay", "e1"], ["export"]):
        assert "examhook migrate" in shop.fails(4, *arguments)


def test_full_disk_is_a_failure(shop):
    shop.examjoint(admitted())
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(shop.command("export"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "could not be written" in done.stderr


def test_migrate_twice(shop):
    assert "already" in shop.ok("migrate")


def test_config_prints_no_secret(shop):
    text = shop.ok("config")
    assert "client_id = main-id" in text and "timezone = Europe/Berlin" in text
    for secret in SECRETS:
        assert secret not in text


# --- The roster ----------------------------------------------------------------------------------------------

def test_roster_import_list_remove(shop):
    said = shop.roster("\ufeffid,email,name,password_hash,photo,about,data,exam,opens,closes,matriculation\r\n"
                       "1001, ada@example.org ,\"Lovelace, \"\"Ada\"\"\",%s,https://e.org/a.jpg,\"two\nlines\","
                       "\"{\"\"a\"\": [1,\n null]}\",exam-1,2026-11-22 09:00,2026-11-22T12:00:00Z,M-1\r\n"
                       "1002,,,,,,,,,,\r\n" % HASH)
    assert said == "2 candidates on 2 lines for main: 2 new, 0 replaced, 0 removed\n"
    first, second = shop.rows("roster", "list", "--json")
    assert first == {"account": "main", "id": "1001", "email": "ada@example.org", "name": 'Lovelace, "Ada"',
                     "password_kind": "sha512crypt", "photo": "https://e.org/a.jpg", "about": "two\nlines",
                     "data": {"a": [1, None]}, "exam": "exam-1", "opens": "2026-11-22T08:00:00.000Z",
                     "closes": "2026-11-22T12:00:00.000Z", "attributes": {"matriculation": "M-1"}}
    assert second["id"] == "1002" and second["exam"] is None and second["attributes"] == {}
    table = shop.ok("roster", "list")
    assert "sha512crypt" in table and HASH not in table and "(any)" in table
    assert [r["id"] for r in shop.rows("roster", "list", "--json", "--exam", "exam-1")] == ["1001"]
    assert shop.ok("roster", "remove", "1001") == "1 lines removed\n"
    assert [r["id"] for r in shop.rows("roster", "list", "--json")] == ["1002"]
    assert "no such id" in shop.fails(1, "roster", "remove", "1001")


def test_roster_import_takes_the_place_of_a_line_and_replaces(shop):
    shop.roster("id,exam,name\n1,a,old\n2,a,\n3,b,\n4,,\n")
    assert "1 new, 1 replaced, 0 removed" in shop.roster("id,exam,name\n1,a,new\n5,a,\n")
    assert [r["name"] for r in shop.rows("roster", "list", "--json") if r["id"] == "1"] == ["new"]
    assert "1 new, 1 replaced, 2 removed" in shop.roster("id,exam\n1,a\n6,\n", "--replace", "--exam", "a")
    lines = {(r["id"], r["exam"]) for r in shop.rows("roster", "list", "--json")}
    assert lines == {("1", "a"), ("6", "a"), ("3", "b"), ("4", None)}
    assert "1 new, 1 replaced, 3 removed" in shop.roster("id,exam\n3,b\n9,\n", "--replace")
    assert {r["id"] for r in shop.rows("roster", "list", "--json")} == {"3", "9"}


def test_a_file_without_candidates_replaces_nobody(shop):
    shop.roster("id\n1\n")
    done = shop.run("roster", "import", "-", "--replace", stdin="id\n")
    assert done.returncode == 1 and "holds no candidate: nothing was replaced" in done.err
    assert [r["id"] for r in shop.rows("roster", "list", "--json")] == ["1"]


def test_plain_passwords_are_hashed_and_work(shop):
    done = shop.run("roster", "import", "-", stdin="id,password,exam\n1001,canary horse,a\n1001,canary horse,b\n"
                    "1002, canary space,\n")
    assert done.returncode == 0 and "1 passwords begin or end with white space" in done.err
    assert "2 candidates on 3 lines" in done.out
    for root, _, names in os.walk(shop.folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as f:
                assert b"canary horse" not in f.read(), name
    assert shop.verify("1001", "canary horse", "a") == {} == shop.verify("1001", "canary horse", "b")
    assert "errorMessage" in shop.verify("1001", "wrong", "a")
    assert shop.verify("1002", " canary space", "any") == {}


def test_plain_passwords_are_hashed_on_all_cores_and_say_how_long_it_takes(shop):
    """As somebody at a terminal sees it."""
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace("hash = sha512crypt", "hash = bcrypt")
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    cores = os.sysconf("SC_NPROCESSORS_ONLN")
    count = cores * (4 if WRAP else 50)
    path = os.path.join(shop.folder, "plain.csv")
    with open(path, "w", encoding="utf-8") as f:
        f.write("id,password\n" + "".join("%d,horse %d\n" % (i, i) for i in range(count)))
    ours, theirs = os.openpty()
    process = subprocess.Popen(shop.command("roster", "import", path), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=theirs, env=clean_environment())
    os.close(theirs)
    shown, threads = b"", 0
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
        with contextlib.suppress(OSError):
            threads = max(threads, len(os.listdir("/proc/%d/task" % process.pid)))
    os.close(ours)
    assert b"%d candidates" % count in process.communicate(timeout=60)[0] and process.returncode == 0
    assert threads > cores, "one for each core, beside the one that shows the bar"
    assert re.search(rb"hashing passwords \[=+>? *\] \d+%, \d+ s left", shown), shown
    # Nothing of the bar is left on the screen.
    assert shown.endswith(b"\r\x1b[K")


@pytest.mark.parametrize("kind", ["yescrypt", "bcrypt", "sha512crypt"])
def test_kinds_of_hashes(tmp_path, kind):
    shop = Shop(str(tmp_path))
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace("hash = sha512crypt", "hash = " + kind)
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    shop.ok("migrate")
    shop.roster("id,password\n1,a horse\n")
    assert shop.rows("roster", "list", "--json")[0]["password_kind"] == kind
    assert shop.verify("1", "a horse") == {}


BCRYPT_73 = "x" * 73
REFUSED = [
    # what is wrong, the file, where the message begins, what it says
    ("empty", b"", "1: ", "header line is missing"),
    ("no id", b"email\na@b\n", "1: column id", "is missing"),
    ("column without a name", b"id,,x\n", "1: column 2", "has no name"),
    ("column twice", b"id,email,email\n", "1: column 3", "twice"),
    ("column twice, other case", b"id,Matric,matric\n", "1: column 3", "twice"),
    ("known column in capitals", b"ID,email\n", "1: column 1", "small letters"),
    ("odd column name", b"id,e-mail\n", "1: column 2", "A-Z"),
    ("long column name", b"id," + b"x" * 64 + b"\n", "1: column 2", "1 to 63"),
    ("no id in a line", b"id,name\n1,a\n ,b\n", "3: column id", "is empty"),
    ("too few cells", b"id,name\n1\n", "2: ", "1 cells, where the header has 2"),
    ("too many cells", b"id,name\n1,a,\n", "2: ", "3 cells"),
    ("stray quote", b'id,name\n1,a"b\n', "2: column name", "quote"),
    ("text behind a quote", b'id,name\n1,"a" b\n', "2: column name", "quote"),
    ("open quote", b'id,name\n1,a\n2,"b\n3,c\n', "3: column name", "never closed"),
    ("NUL", b"id,name\n1,a\0b\n", "2: column name", "NUL"),
    ("not UTF-8", b"id,name\n1,caf\xe9\n", "2: column name", "UTF-8"),
    ("surrogate", b"id,name\n1,\xed\xa0\x80\n", "2: column name", "UTF-8"),
    ("control character", b"id,name\n1,a\x1b[31m\n", "2: column name", "control character"),
    ("C1 control character", b"id,name\n1,a\xc2\x9b\n", "2: column name", "control character"),
    ("line break in a name", b'id,name\n1,"a\nb"\n', "2: column name", "control character"),
    ("long id", b"id\n" + b"x" * 256 + b"\n", "2: column id", "too long"),
    ("huge cell", b'id,about\n1,"' + b"x" * 400000 + b'"\n', "2: column about", "too long"),
    ("password and hash", b"id,password,password_hash\n1,p," + HASH.encode() + b"\n", "2: column password", "both"),
    ("DES hash", b"id,password_hash\n1,ab01FAX.bQRSU\n", "2: column password_hash", "no hash that is supported"),
    ("MD5 hash", b"id,password_hash\n1,$1$abcd$xxxxxxxxxxxxxxxxxxxxxx\n", "2: column password_hash", "supported"),
    ("half a hash", b"id,password_hash\n1,$6$saltsalt$aa\n", "2: column password_hash", "hash"),
    ("long password", b"id,password\n1," + b"x" * 512 + b"\n", "2: column password", "too long"),
    ("data", b"id,data\n1,{a}\n", "2: column data", "is not JSON"),
    ("data with a key twice", b'id,data\n1,"{""a"":1,""a"":2}"\n', "2: column data", "is not JSON"),
    ("opens", b"id,opens\n1,tomorrow\n", "2: column opens", ""),
    ("no such day", b"id,opens\n1,2026-02-30\n", "2: column opens", ""),
    ("local time twice", b"id,opens\n1,2026-10-25 02:30\n", "2: column opens", "twice"),
    ("local time never", b"id,opens\n1,2026-03-29 02:30\n", "2: column opens", ""),
    ("closes before opens", b"id,opens,closes\n1,2026-05-02,2026-05-01\n", "2: column closes", "not after opens"),
    ("closes at opens", b"id,opens,closes\n1,2026-05-02,2026-05-02\n", "2: column closes", "not after opens"),
    ("twice", b"id,exam\n1,a\n2,a\n1,a\n", "4: column id", "stand on line 2"),
    ("twice without an exam", b"id,exam\n1,\n1,a\n 1 ,\n", "4: column id", "stand on line 2"),
    ("line numbers count line breaks in cells", b'id,about\r\n1,"a\r\nb\nc"\r\n\r\n,x\r\n', "6: column id", "is empty"),
]


@pytest.mark.parametrize("text, where, says", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_roster(shop, text, where, says):
    shop.roster("id\nbefore\n")
    path = os.path.join(shop.folder, "bad.csv")
    with open(path, "wb") as f:
        f.write(text)
    error = shop.fails(1, "roster", "import", path, "--replace")
    first = error.splitlines()[0]
    assert first.startswith(path + ":" + where) and says in first, error
    assert "nothing was taken" in error
    assert [r["id"] for r in shop.rows("roster", "list", "--json")] == ["before"]


def test_bcrypt_takes_72_bytes(tmp_path):
    shop = Shop(str(tmp_path))
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace("hash = sha512crypt", "hash = bcrypt")
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    shop.ok("migrate")
    error = shop.fails(1, "roster", "import", "-", stdin="id,password\n1," + BCRYPT_73 + "\n")
    assert "standard input:2: column password: is too long" in error and BCRYPT_73 not in error


def test_bad_lines_are_named_in_order_and_no_cell_is_shown(shop):
    lines = ["id,password,opens"] + ["canary-%d,canary-%d,canary-%d" % (i, i, i) for i in range(30)]
    error = shop.fails(1, "roster", "import", "-", stdin="\n".join(lines))
    named = re.findall(r"^standard input:(\d+): column opens", error, re.M)
    assert named == [str(n) for n in range(2, 22)]
    assert "there may be more" in error and "canary" not in error


def test_other_exam_is_refused_with_exam(shop):
    error = shop.fails(1, "roster", "import", "-", "--replace", "--exam", "a", stdin="id,exam\n1,a\n2,b\n")
    assert error.startswith("standard input:3: column exam")


def test_account_must_be_named_where_there_are_two(tmp_path):
    shop = Shop(str(tmp_path), SECOND)
    shop.ok("migrate")
    assert "--account" in shop.fails(2, "roster", "import", "-", stdin="id\n1\n")
    assert "--account" in shop.fails(2, "roster", "remove", "1")
    shop.roster("id\n1\n", "--account", "main")
    shop.roster("id\n1\n", "--account", "second")
    shop.ok("roster", "remove", "1", "--account", "second")
    assert [r["account"] for r in shop.rows("roster", "list", "--json")] == ["main"]


def test_many_lines_import_in_seconds(shop):
    count = 2000 if WRAP else 100000
    lines = ["id,name,password_hash,exam,opens"]
    lines += ["%d,Name %d,%s,exam-%d,2026-11-%02d 09:00" % (i, i, HASH, i % 5, 1 + i % 28) for i in range(count)]
    begun = time.monotonic()
    assert "%d new" % count in shop.roster("\n".join(lines) + "\n")
    assert time.monotonic() - begun < 60


# --- Listings ------------------------------------------------------------------------------------------------

EVENT_MEMBERS = ["id", "received_at", "source", "account", "event", "exam_id", "respondent_id", "session_uuid",
                 "external_id", "deliveries", "outcome", "reason", "body", "identity", "flags", "positions"]
SESSION_MEMBERS = ["session_uuid", "account", "external_id", "state", "rating", "rating_raw", "status", "type",
                   "attempts", "last_error", "next_attempt_at", "rated_at", "history"]


def fill(shop):
    shop.roster("id,password\n1001,horse\n")
    assert shop.verify("1001", "horse") == {}
    assert shop.examjoint(admitted())[0] == 200
    assert shop.examjoint({"event": "result_ready", "respondent_id": "r1", "exam_id": "exam-1"})[0] == 200
    assert shop.examjoint({"event": "result_ready", "respondent_id": "r1", "exam_id": "exam-1", "n": 2})[0] == 200
    assert shop.examjoint({"event": "result_ready", "respondent_id": "r2", "exam_id": 77})[0] == 422
    shop.proview(external="=1+1")


def test_events_json(shop):
    fill(shop)
    rows = shop.rows("events", "--json")
    assert [list(row) for row in rows] == [EVENT_MEMBERS] * 5
    verification, admission, result, quarantined, callback = rows
    assert (verification["outcome"], verification["identity"], verification["body"]) == ("valid", "1001", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", verification["received_at"])
    assert verification["reason"] is None
    assert verification["positions"] == [0, 1] and callback["positions"] is admission["positions"] is None
    assert admission["body"] == admitted() and admission["source"] == "examjoint"
    assert result["deliveries"] == 2 and result["session_uuid"] is None
    assert quarantined["outcome"] == "quarantined" and quarantined["body"]["exam_id"] == 77
    assert callback["source"] == "proview" and callback["account"] == "pv" and callback["session_uuid"] == UUID
    assert callback["event"] == "Session Has Been Terminated" and callback["external_id"] == "=1+1"
    assert "horse" not in shop.ok("events", "--json")


def test_the_positions_that_an_exam_sends_are_shown(shop):
    """Whoever writes [fields] learns from them what the form of the exam is like."""
    def sent(*positions):
        shop.examjoint({"event": "verify_respondent", "exam_id": "exam-1",
                        "fields": [{"position": n, "value": "canary-input-%d" % n} for n in positions]})

    sent(1, 2)
    sent(2, 100, 0)  # 100 is no position of a form: what stands there may be anything
    sent()
    sent(0, 1)
    rows = shop.rows("events", "--json")
    assert [row["positions"] for row in rows] == [[1, 2], [2, None, 0], [], [0, 1]]
    assert [row["reason"] for row in rows] == ["fields_mapping"] * 3 + ["unknown"]
    notes = [line.rpartition("invalid")[2].strip() for line in shop.ok("events").splitlines()[1:]]
    assert notes == ["fields_mapping (sent: 1,2)", "fields_mapping (sent: 2,?,0)", "fields_mapping (sent: none)", "unknown"]
    table = list(csv.DictReader(io.StringIO(shop.ok("export", "--format", "csv"))))
    assert [row["positions"] for row in table] == ["1,2", "2,?,0", "", "0,1"]
    assert "canary-input" not in shop.ok("events", "--json")


def test_events_filters(shop):
    fill(shop)
    rows = shop.rows("events", "--json")
    assert shop.rows("events", "--json", "--limit", "2") == rows[:2]
    assert shop.rows("events", "--json", "--quarantined") == [rows[3]]
    assert shop.rows("events", "--json", "--since", rows[2]["received_at"]) == rows[2:]
    assert shop.rows("events", "--json", "--since", "1h") == rows
    assert shop.rows("events", "--json", "--since", "2099-01-01") == []


def test_events_table_fits_and_nothing_acts_on_a_terminal(shop):
    shop.examjoint(admitted("r\u001b[31m\u009b2J\u202e", "exam\n"))
    shop.examjoint(admitted("\u5b66\u751f", "exam-2"))
    text = shop.ok("events")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "r\\u{1b}[31m\\u{9b}2J\\u{202e}" in text and "exam\\n" in text
    heading, first, second = text.splitlines()
    assert heading.startswith("ID  RECEIVED (UTC)")
    at = first.index("admitted_respondent")
    assert heading.index("EVENT") == at == second.index("admitted_respondent")
    at = heading.index("TIMES")
    assert first[at] == "1" and second[at - 2] == "1"  # two characters of two columns each
    raw = shop.ok("events", "--json")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", raw)
    assert json.loads(raw.splitlines()[0])["respondent_id"] == "r\u001b[31m\u009b2J\u202e"


def test_listing_ends_quietly_when_nobody_reads(shop):
    for i in range(40):
        shop.examjoint(admitted("r%d" % i))
    done = subprocess.run("%s | head -n 1" % shlex.join(shop.command("events", "--json")), shell=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert json.loads(done.stdout)["id"] and done.stderr == ""


def next_line(process, seconds=30):
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "no line came"
    return process.stdout.readline().decode()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_events_follow(shop, end):
    shop.examjoint(admitted("first"))
    process = subprocess.Popen(shop.command("events", "--follow", "--json"), stdout=subprocess.PIPE, bufsize=0,
                               env=clean_environment())
    try:
        assert json.loads(next_line(process))["respondent_id"] == "first"
        shop.examjoint(admitted("second"))
        assert json.loads(next_line(process))["respondent_id"] == "second"
        shop.proview()
        assert json.loads(next_line(process))["session_uuid"] == UUID
        process.send_signal(end)
        assert process.wait(30) == 0
        assert process.stdout.read() == b""
    finally:
        process.kill()
        process.wait()


def test_events_follow_ends_when_its_reader_has_gone(shop):
    shop.examjoint(admitted("first"))
    process = subprocess.Popen(shop.command("events", "--follow"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               bufsize=0, env=clean_environment())
    try:
        assert next_line(process).startswith("ID ") and "first" in next_line(process)
        process.stdout.close()
        shop.examjoint(admitted("second"))
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()


def test_sessions_and_retry(shop):
    shop.proview()
    assert "is due" in shop.ok("retry", UUID.upper())
    rows = shop.rows("sessions", "--json")
    assert [list(row) for row in rows] == [SESSION_MEMBERS]
    assert rows[0]["session_uuid"] == UUID and rows[0]["state"] == "pending" and rows[0]["account"] == "pv"
    assert rows[0]["rating"] is None and rows[0]["external_id"] is None and rows[0]["history"] == []
    assert rows[0]["attempts"] == 0 and rows[0]["next_attempt_at"]
    assert shop.rows("sessions", "--json", "--state", "rated") == []
    assert shop.rows("sessions", "--json", "--state", "pending") == rows
    assert UUID in shop.ok("sessions")
    assert shop.ok("retry", "--parked") == "0 sessions are due\n"
    other = UUID.replace("f", "0")
    assert "no such session" in shop.fails(1, "retry", other, UUID)


def test_respondent_is_one_story(shop):
    fill(shop)
    shop.ok("retry", UUID)
    story = shop.rows("respondent", "r1", "--json")
    assert [entry["kind"] for entry in story] == ["event", "event", "delivery"]
    assert story[2]["body"]["n"] == 2 and story[2]["number"] == 2
    assert [entry["at"] for entry in story] == sorted(entry["at"] for entry in story)
    assert [e["event"] for e in shop.rows("respondent", "1001", "--json")] == ["verify_respondent"]
    for name in (UUID, "=1+1"):
        assert [e["kind"] for e in shop.rows("respondent", name, "--json")] == ["event", "session"]
    assert "admitted_respondent" in shop.ok("respondent", "r1")
    assert "nothing is stored" in shop.fails(1, "respondent", "nobody")


def test_export(shop):
    fill(shop)
    shop.ok("retry", UUID)
    rows = shop.rows("export")
    assert [row.pop("kind") for row in rows] == ["event"] * 5 + ["session"]
    assert rows[:5] == shop.rows("events", "--json") and rows[5:] == shop.rows("sessions", "--json")
    assert len(shop.rows("export", "--what", "sessions")) == 1
    done = subprocess.run(shop.command("export", "--format", "csv"), stdout=subprocess.PIPE, check=True)
    assert done.stdout.count(b"\r\n") == 6
    table = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    assert list(table[0]) == EVENT_MEMBERS
    assert json.loads(table[1]["body"]) == admitted() and table[1]["session_uuid"] == ""
    assert table[4]["external_id"] == "'=1+1"
    sessions = list(csv.DictReader(io.StringIO(shop.ok("export", "--format", "csv", "--what", "sessions"))))
    assert list(sessions[0]) == SESSION_MEMBERS and sessions[0]["history"] == "[]"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_export_guards_against_formulas(shop, text):
    shop.examjoint(admitted(text))
    done = subprocess.run(shop.command("export", "--format", "csv"), stdout=subprocess.PIPE, check=True)
    table = list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    assert table[0]["respondent_id"] == "'" + text


# --- Changes -------------------------------------------------------------------------------------------------

def test_replay(shop):
    for body in ({"event": "result_ready", "respondent_id": "r1", "exam_id": 77},
                 {"event": "admitted_respondent", "respondent_id": "r1", "exam_id": "e", "admittedOn": "1719221380326"},
                 {"event": "result_ready", "exam_id": "e"},
                 {"event": "verify_respondent", "fields": 7, "exam_id": "e"}):
        assert shop.examjoint(body)[0] == 422
    ids = [row["id"] for row in shop.rows("events", "--json", "--quarantined")]
    assert len(ids) == 4
    done = shop.run("replay", *ids)
    assert done.returncode == 1
    assert done.out.count("is taken as") == 2
    assert "missing_member: respondent_id" in done.err and "cannot be replayed" in done.err
    rows = {row["id"]: row for row in shop.rows("events", "--json")}
    assert [row["id"] for row in shop.rows("events", "--json", "--quarantined")] == ids[2:]
    taken = [row for row in rows.values() if row["outcome"] != "quarantined"]
    assert {(row["event"], row["exam_id"]) for row in taken} == {("result_ready", "77"), ("admitted_respondent", "e")}
    assert "no quarantined event" in shop.fails(1, "replay", ids[0])
    assert "no quarantined event" in shop.fails(1, "replay", "c1")


def test_replayed_event_meets_its_repeat(shop):
    shop.examjoint({"event": "result_ready", "respondent_id": "r1", "exam_id": "77"})
    shop.examjoint({"event": "result_ready", "respondent_id": "r1", "exam_id": 77})
    shop.ok("replay", shop.rows("events", "--json", "--quarantined")[0]["id"])
    rows = shop.rows("events", "--json")
    assert len(rows) == 1 and rows[0]["deliveries"] == 2


def throttled(shop, who, exam="exam-1"):
    return "wait" in shop.verify(who, "wrong", exam).get("errorMessage", "").lower()


def lock(shop, who, exam="exam-1"):
    for _ in range(10):
        if throttled(shop, who, exam):
            return
    raise AssertionError("never throttled")


def test_unlock(shop):
    shop.roster("id,password\n1001,horse\n1002,horse\n")
    lock(shop, "1001")
    lock(shop, "1002")
    assert "errorMessage" in shop.verify("1001", "horse")
    assert re.fullmatch(r"[1-9]\d* failed attempts forgotten\n", shop.ok("unlock", "1001"))
    assert shop.verify("1001", "horse") == {}
    assert "errorMessage" in shop.verify("1002", "horse")
    lock(shop, "nobody-of-that-name")
    assert "no such id" in shop.fails(1, "unlock", "nobody-of-that-name")
    assert re.fullmatch(r"[1-9]\d* failed attempts forgotten\n", shop.ok("unlock", "--exam", "exam-1"))
    assert shop.verify("1002", "horse") == {}
    assert not throttled(shop, "nobody-of-that-name")


def test_backup(shop):
    fill(shop)
    folder = os.path.join(shop.folder, "copy")
    assert folder in shop.ok("backup", folder)
    names = [name for _, _, names in os.walk(folder) for name in names]
    assert sorted(names) == ["callbacks.db", "events.db", "ratings.db", "roster.db"]
    before = shop.rows("events", "--json")
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace(shop.folder + "/store", folder)
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    shop.ok("migrate")  # makes the identity key, which no backup holds
    assert shop.rows("events", "--json") == before
    shop.fails(4, "backup", folder)


def test_backup_put_back_is_sound_and_goes_on(shop):
    fill(shop)
    shop.ok("retry", UUID)
    folder, store = os.path.join(shop.folder, "copy"), os.path.join(shop.folder, "store")
    shop.ok("backup", folder)
    shutil.rmtree(store)
    shutil.copytree(folder, store)
    shop.ok("migrate")
    assert "failed" not in shop.ok("check", "--full")
    assert shop.verify("1001", "horse") == {}
    assert shop.examjoint(admitted())[0] == 200
    shop.proview(external="=1+1")
    assert [row["deliveries"] for row in shop.rows("events", "--json")] == [1, 2, 2, 1, 2, 1]
    assert "is due" in shop.ok("retry", UUID)


def test_purge_cut_short_counts_what_went(shop):
    fill(shop)
    shop.ok("retry", UUID)
    for file in ("examjoint/events.db", "proview/callbacks.db"):
        table = os.path.basename(file)[:-3]
        change(shop, file, ("UPDATE %s SET received_at = 1, last_received_at = 1" % table,))
    with open(os.path.join(shop.folder, "store/proview/callbacks.lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shop.run("purge", "--older-than", "1")
    assert done.returncode == 4 and "cut short" in done.err
    assert done.out == "4 events, 0 callbacks, 0 sessions deleted\n"


def test_purge_keeps_what_is_young(shop):
    fill(shop)
    assert shop.ok("purge", "--older-than", "1") == "0 events, 0 callbacks, 0 sessions deleted\n"
    assert len(shop.rows("events", "--json")) == 5


def change(shop, file, *statements):
    """What only time or Talview would do, done by hand to a store that nobody else has open."""
    with contextlib.closing(sqlite3.connect(os.path.join(shop.folder, "store", file))) as db:
        for statement, *values in statements:
            db.execute(statement, values)
        db.commit()


def test_purge_deletes_what_is_old(shop):
    fill(shop)
    shop.ok("retry", UUID)
    old = int((time.time() - 9.5 * 86400) * 1000)
    change(shop, "examjoint/events.db",
           ("UPDATE events SET received_at = ?, last_received_at = ? WHERE respondent_id = 'r1'", old, old))
    change(shop, "proview/callbacks.db", ("UPDATE callbacks SET received_at = ?, last_received_at = ?", old, old))
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET first_seen_at = ?, looked_at = ?", old, old))
    assert shop.ok("purge", "--older-than", "10").startswith("0 events, 0 callbacks, 0 sessions")
    assert shop.ok("purge", "--older-than", "9") == "2 events, 1 callbacks, 0 sessions deleted\n"
    assert [row["respondent_id"] for row in shop.rows("events", "--json")] == [None, "r2"]
    assert shop.rows("sessions", "--json")[0]["state"] == "pending"
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET state = 'rated', next_attempt_at = NULL",))
    assert shop.ok("purge", "--older-than", "9") == "0 events, 0 callbacks, 1 sessions deleted\n"


def test_rating_with_its_history(shop):
    shop.proview(external="r1")
    shop.ok("retry", UUID)
    change(shop, "ratings/ratings.db",
           ("UPDATE sessions SET state = 'rated', rating = 'low', rating_raw = 'Low', rated_at = 1767225661000,"
            " status = 'completed', type = 'ai_proctor', external_id = 'r1', attempts = 2",),
           ("INSERT INTO history SELECT session, 1, 1767225660000, 'high', 'HIGH', 'completed' FROM sessions",),
           ("INSERT INTO history SELECT session, 2, 1767225661000, 'low', 'Low', NULL FROM sessions",))
    row = shop.rows("sessions", "--json", "--state", "rated")[0]
    history = [{"at": "2026-01-01T00:01:00.000Z", "rating": "high", "rating_raw": "HIGH", "status": "completed"},
               {"at": "2026-01-01T00:01:01.000Z", "rating": "low", "rating_raw": "Low", "status": None}]
    assert row["history"] == history and row["rating_raw"] == "Low" and row["rated_at"] == history[1]["at"]
    assert "2026-01-01T00:01:01Z" in shop.ok("sessions")
    exported = list(csv.DictReader(io.StringIO(shop.ok("export", "--format", "csv", "--what", "sessions"))))
    assert json.loads(exported[0]["history"]) == history and exported[0]["rating"] == "low"
    story = shop.rows("respondent", "r1", "--json")
    assert [entry["rating_raw"] for entry in story if entry["kind"] == "rating"] == ["HIGH", "Low"]
    change(shop, "ratings/ratings.db", ("UPDATE sessions SET state = 'parked', last_error = 'not_found'",))
    assert shop.ok("retry", "--parked") == "1 sessions are due\n"
    assert shop.rows("sessions", "--json", "--state", "parked") == []


# --- One program's configuration -----------------------------------------------------------------------------

def test_config_for_a_program(shop):
    secrets = {"examjoint": {"canary-client-secret", "canary-previous"}, "proview": {TOKEN},
               "worker": {"canary-user", "canary-password", "canary-app"}}
    for program, own in secrets.items():
        text = shop.ok("config", "--for", program)
        assert {secret for secret in SECRETS if secret in text} == own, program
        conf = os.path.join(shop.folder, program + ".conf")
        shop.ok("config", "--for", program, "--output", conf)
        with open(conf, encoding="utf-8") as f:
            assert f.read() == text
        assert os.stat(conf).st_mode & 0o7777 == 0o400
        # Read again, and all that the program needs is there.
        other = Shop.__new__(Shop)
        other.folder, other.conf = shop.folder, conf
        other.ok("check", "--start", "--for", program)
        assert other.ok("config", "--for", program) == text


def test_the_programs_run_on_their_own_file(shop):
    for program in ("examjoint", "proview", "worker"):
        shop.ok("config", "--for", program, "--output", os.path.join(shop.folder, program + ".conf"))
    whole = shop.conf
    shop.conf = os.path.join(shop.folder, "examjoint.conf")
    assert shop.verify("nobody", "x")["errorMessage"]
    shop.conf = os.path.join(shop.folder, "proview.conf")
    shop.proview()
    shop.conf = os.path.join(shop.folder, "worker.conf")
    with open(whole, "a", encoding="utf-8") as f:
        f.write("\n[worker]\nproxy = http://127.0.0.1:9\nconnect_timeout = 1s\n")
    wanted = shop.conf
    shop.conf = whole
    shop.ok("config", "--for", "worker", "--output", wanted)
    shop.conf = wanted
    shop.ok("work", "--once", "--budget", "10")
    shop.conf = whole
    row = shop.rows("sessions", "--json")[0]
    assert row["session_uuid"] == UUID and row["last_error"].startswith("login: ")


def test_config_for_a_program_is_put_in_place_whole(shop):
    target = os.path.join(shop.folder, "own.conf")
    os.mkdir(target)
    assert target in shop.fails(1, "config", "--for", "worker", "--output", target)
    os.rmdir(target)
    elsewhere = os.path.join(shop.folder, "elsewhere")
    with open(elsewhere, "w", encoding="utf-8") as f:
        f.write("as it was")
    os.symlink(elsewhere, target)
    os.utime(shop.conf, (1000000000, 1000000000))
    shop.ok("config", "--for", "worker", "--output", target)
    with open(elsewhere, encoding="utf-8") as f:
        assert f.read() == "as it was", "a link is replaced, not followed"
    # The time is that of the configuration: the worker takes a younger one for a change by somebody.
    assert not os.path.islink(target) and os.stat(target).st_mtime == 1000000000
    shop.ok("config", "--for", "proview", "--output", target)
    assert sorted(os.listdir(shop.folder)) == ["elsewhere", "examhook.conf", "own.conf", "store"], "nothing is left"
    with open(shop.conf, "a", encoding="utf-8") as f:
        f.write("[log]\nlevel = loud\n")
    line = sum(1 for _ in open(shop.conf, encoding="utf-8"))
    before = os.stat(target)
    assert "%s:%d: level" % (shop.conf, line) in shop.fails(3, "config", "--for", "worker", "--output", target)
    assert os.stat(target).st_ino == before.st_ino, "the old one stays"


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o1777])
def test_config_for_a_program_goes_to_no_folder_that_others_write_to(shop, mode):
    folder = os.path.join(shop.folder, "open")
    os.mkdir(folder)
    os.chmod(folder, mode)
    said = shop.fails(1, "config", "--for", "worker", "--output", os.path.join(folder, "x.conf"))
    assert "chmod go-w " + folder in said and os.listdir(folder) == []


def test_config_for_a_program_does_not_take_the_place_of_what_it_is_made_from(shop):
    link = os.path.join(shop.folder, "link")
    os.symlink(shop.folder, link)
    with open(shop.conf, encoding="utf-8") as f:
        whole = f.read()
    for target in (shop.conf, os.path.join(link, "examhook.conf")):
        assert "is what it would be made from" in shop.fails(1, "config", "--for", "worker", "--output", target)
    with open(shop.conf, encoding="utf-8") as f:
        assert f.read() == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_config_for_a_program_belongs_to_the_folders_owner(shop):
    folder = os.path.join(shop.folder, "run")
    os.mkdir(folder, 0o700)
    os.chown(folder, 61001, 61001)
    shop.ok("config", "--for", "worker", "--output", os.path.join(folder, "x.conf"))
    made = os.stat(os.path.join(folder, "x.conf"))
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (61001, 61001, 0o400)


def test_secrets_are_not_written_to_a_terminal(shop):
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(shop.command("config", "--for", "worker"), stdin=subprocess.DEVNULL, stdout=theirs,
                              stderr=subprocess.PIPE, env=clean_environment(), timeout=60)
        assert done.returncode == 2 and b"--output FILE" in done.stderr
        assert not select.select([ours], [], [], 0)[0]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_credential_of_systemd_is_the_secret(shop):
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read()
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text.replace("client_secret = canary-client-secret", "client_secret_file = handed-over"))
    assert "handed-over" in shop.fails(3, "config", "--for", "examjoint")
    os.mkdir(os.path.join(shop.folder, "credentials"), 0o700)
    with open(os.open(os.path.join(shop.folder, "credentials/handed-over"), os.O_WRONLY | os.O_CREAT, 0o400), "w",
              encoding="utf-8") as f:
        f.write("canary-by-systemd\n")
    done = subprocess.run(shop.command("config", "--for", "examjoint"), stdout=subprocess.PIPE, check=True, text=True,
                          env=clean_environment(CREDENTIALS_DIRECTORY=os.path.join(shop.folder, "credentials")))
    assert "client_secret = canary-by-systemd\n" in done.stdout


def test_a_system_without_time_zones(shop):
    """A small root or container lacks tzdata."""
    without = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /usr/share/zoneinfo && exec \"$@\"", "sh"]
    if subprocess.run([*without, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no mount namespace of our own is to be had here")
    done = subprocess.run([*without, *shop.command("config")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=clean_environment())
    assert done.returncode == 3 and "timezone" in done.stderr and "install tzdata" in done.stderr
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read()
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text.replace("Europe/Berlin", "UTC"))
    done = subprocess.run([*without, *shop.command("config")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=clean_environment())
    assert done.returncode == 0, done.stderr


# --- Check ---------------------------------------------------------------------------------------------------

def levels(shop, *options, code=0):
    done = shop.run("check", "--json", *options)
    assert done.returncode == code, done.out + done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert all(list(row) == ["level", "what", "text", "advice"] for row in rows)
    assert (code == 1) == any(row["level"] == "failed" for row in rows)
    for secret in SECRETS:
        assert secret not in done.out + done.err
    return rows


def of(rows, level):
    return [(row["what"], row["text"]) for row in rows if row["level"] == level]


def test_check_of_a_sound_installation(shop):
    shop.roster("id,password\n1001,horse\n")
    rows = levels(shop, "--full")
    warned = of(rows, "warning")
    assert ("secrets", "[examjoint main] still takes client_secret_previous") in warned
    assert any("path token alone" in text for _, text in warned)
    text = shop.ok("check")
    assert re.match(r"(ok|warning|failed)  ", text) and " — " in text


@pytest.mark.parametrize("lines, alone", [
    ("path_token = path-token-0123456789", True),
    ("path_token_hex = 706174682d746f6b656e2d30313233343536373839", True),
    ("path_token = path-token-0123456789\npath_token_previous = path-token-9876543210", True),
    ("path_token = path-token-0123456789\nheader_name = X-S\nheader_secret = canary-header", False),
    ("path_token = path-token-0123456789\nbasic_user = u\nbasic_password = canary-basic", False),
    ("header_name = X-S\nheader_secret = canary-header", False),
])
@pytest.mark.parametrize("options", [[], ["--for", "proview"], ["--for", "worker"]], ids=" ".join)
def test_check_warns_of_a_path_token_that_stands_alone(shop, lines, alone, options):
    """Paths end up in the logs of whoever stands in front."""
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read()
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text.replace("path_token = path-token-0123456789", lines))
    found = [line for line in shop.run("check", *options).out.splitlines() if "path token alone" in line]
    assert [line.split()[0] for line in found] == ["warning"] * alone, found
    assert not alone or ("[proview pv]" in found[0] and "add a header secret" in found[0])


def test_check_start_is_quick_and_needs_no_roster(shop):
    def took():
        begun = time.monotonic()
        levels(shop, "--start")
        return time.monotonic() - begun
    assert is_in_time(took, 30 if WRAP else 1)
    for program in ("examjoint", "proview", "worker", "work"):
        levels(shop, "--start", "--for", program)


def test_check_start_lets_run_what_would_run(shop):
    """A lock that is held for long, a rollback journal: the programs bear them, and so a unit may start."""
    with contextlib.closing(sqlite3.connect(os.path.join(shop.folder, "store/proview/callbacks.db"))) as db:
        assert db.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    with open(os.path.join(shop.folder, "store/examjoint/events.lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        warned = of(levels(shop, "--start"), "warning")
        assert any(what == "store, proview" and "rollback journal" in text for what, text in warned)
        assert any(what == "store, examjoint" and "holds the lock" in text for what, text in warned)
        failed = of(levels(shop, code=1), "failed")
        assert {"store, proview", "store, examjoint"} <= {what for what, _ in failed}
    os.remove(os.path.join(shop.folder, "store/examjoint/identity.key"))
    assert any(what == "store, examjoint" for what, _ in of(levels(shop, "--start", code=1), "failed"))
    levels(shop, "--start", "--for", "proview")


def test_check_without_an_account_warns(shop):
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write("[store]\nurl = sqlite:%s/store\n" % shop.folder)
    for options in ([], ["--for", "examjoint"], ["--for", "worker"]):
        assert ("accounts", "none is configured: every request is refused") in of(levels(shop, *options), "warning")
    levels(shop, "--start")


def test_check_knows_the_document_root_when_told(shop):
    shop.roster("id,password\n1001,horse\n")
    def check(root):
        done = subprocess.run(shop.command("check"), stdout=subprocess.PIPE, text=True,
                              env=clean_environment(DOCUMENT_ROOT=root))
        return done.returncode, "lies under the web server's document root" in done.stdout
    assert check(shop.folder) == (1, True)
    os.mkdir(os.path.join(shop.folder, "html"))
    assert check(os.path.join(shop.folder, "html")) == (0, False)


@pytest.mark.parametrize("program, path, status", [("examjoint", "/webhooks/examjoint", b"401"),
                                                   ("proview", "/webhooks/proview/pv", b"404")])
def test_without_an_account_a_program_runs_and_warns_once(shop, program, path, status):
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write("[store]\nurl = sqlite:%s/store\n[verify]\nlanguages = %s/deploy/languages\n" % (shop.folder, TOP))
    env = clean_environment(GATEWAY_INTERFACE="CGI/1.1", REQUEST_METHOD="POST", PATH_INFO=path, CONTENT_LENGTH="2",
                            EXAMHOOK_CONF=shop.conf, HTTP_X_CLIENT_ID="main-id", HTTP_X_CLIENT_SECRET="x")
    done = subprocess.run([os.path.join(BUILD, program + ".fcgi")], input=b"{}", stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=env, timeout=60)
    assert done.stdout.startswith(b"Status: " + status), (done.stdout, done.stderr)
    warned = [line for line in done.stderr.decode().splitlines() if "level=warn" in line]
    assert len(warned) == 1 and "every request will be refused" in warned[0]


@pytest.mark.parametrize("name", ["public_html", "www", "htdocs", "httpdocs"])
def test_check_of_a_store_where_the_web_server_may_show_it(tmp_path, name):
    (tmp_path / name / "examhook").mkdir(parents=True)
    shop = Shop(str(tmp_path / name / "examhook"))
    shop.ok("migrate")
    shop.roster("id,password\n1001,horse\n")
    warned = of(levels(shop), "warning")
    assert [what for what, text in warned if "lies in a folder called " + name in text] == ["place", "place"]


def test_check_of_a_store_with_a_name_that_only_looks_like_it(tmp_path):
    (tmp_path / "www2").mkdir()
    shop = Shop(str(tmp_path / "www2"))
    shop.ok("migrate")
    shop.roster("id,password\n1001,horse\n")
    assert not [text for what, text in of(levels(shop), "warning") if what == "place"]


@pytest.mark.parametrize("name, options", [("examjoint/events.db", ["events"]), ("roster/roster.db", ["roster", "list"]),
                                           ("ratings", ["sessions"])])
def test_a_store_that_is_open_to_everybody_is_not_used(shop, name, options):
    path = os.path.join(shop.folder, "store", name)
    os.chmod(path, os.stat(path).st_mode | 0o004)
    advice = "chmod -R o-rwx " + os.path.join(shop.folder, "store", name.split("/")[0])
    assert advice in shop.fails(4, *options)
    failed = of(levels(shop, "--start", code=1), "failed")
    assert any(what == "permissions" and path in text and "run " + advice in text for what, text in failed)
    subprocess.run(shlex.split(advice), check=True)
    shop.ok(*options)


def test_check_warns_of_a_log_that_was_left_behind(shop):
    shop.roster("id,password\n1001,horse\n")
    assert not [what for what, _ in of(levels(shop), "warning") if what == "store, left behind"]
    left = [os.path.join(shop.folder, "store", name)
            for name in ("examjoint/events.db-wal.left-1764000000000", "ratings/ratings.db-wal.left-1764000000001")]
    for path in left:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o640), "wb") as f:
            f.write(b"log")
    def found(*options):
        return [row for row in levels(shop, *options) if row["what"] == "store, left behind"]
    assert [row["level"] for row in found()] == ["warning"] * 2
    for path, row in zip(left, found()):
        assert row["text"].startswith(path + " ") and "people's data" in row["text"]
        assert "neither retention nor erasing" in row["text"] and "delete it" in row["advice"]
    assert [row["text"].split()[0] for row in found("--for", "examjoint")] == left[:1]
    for path in left:
        os.remove(path)
    assert not found()


def test_check_empty_roster(shop):
    assert ("roster", "is empty for main: nobody can sit an exam") in of(levels(shop, code=1), "failed")


def test_check_mapped_column_that_nobody_has(shop):
    shop.roster("id,password\n1001,horse\n")
    with open(shop.conf, "a", encoding="utf-8") as f:
        f.write("2 = matriculation\n")
    assert any(what == "fields" and "matriculation" in text for what, text in of(levels(shop, code=1), "failed"))
    shop.roster("id,matriculation\n1002,M-2\n")
    assert ("fields", "every exam asks for a password, and 1 of main's 2 lines have none") in of(levels(shop), "warning")


def test_check_missing_store(tmp_path):
    shop = Shop(str(tmp_path))
    rows = levels(shop, "--start", code=1)
    assert any(row["level"] == "failed" and "examhook migrate" in (row["advice"] or "") for row in rows)


def test_check_configuration(shop):
    with open(shop.conf, "a", encoding="utf-8") as f:
        f.write("\n[verify]\ncolour = blue\n")
    assert any(what == "configuration" for what, _ in of(levels(shop, code=1), "failed"))


def test_check_open_modes(shop):
    shop.roster("id,password\n1001,horse\n")
    os.chmod(os.path.join(shop.folder, "store"), 0o777)
    assert any(what == "permissions" for what, _ in of(levels(shop, code=1), "failed"))


def test_check_sockets(shop):
    path = os.path.join(shop.folder, "s.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert any(what == "socket" for what, _ in of(levels(shop, "--start", "--socket", path, code=1), "failed"))
        listener.listen(5)
        assert ("socket", path + " answers") in of(levels(shop, "--start", "--socket", path), "ok")
    missing = os.path.join(shop.folder, "missing.sock")
    assert any(missing in text for _, text in of(levels(shop, "--start", "--socket", missing, code=1), "failed"))


def test_check_time_limits(shop):
    shop.roster("id,password\n1001,horse\n")
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace("[verify]\n", "[verify]\nbudget = 45s\n")
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    assert any(what == "time limits" for what, _ in of(levels(shop), "warning"))


def standin(shop, *options):
    folder = os.path.join(shop.folder, "talview")
    process = subprocess.Popen(["/usr/bin/python3", os.path.join(TOP, "tests/standin/talview.py"), "--port", "0", "--dir",
                                folder, *options], stdout=subprocess.PIPE, text=True)
    url = re.search(r"ready (https:\S+)", process.stdout.readline()).group(1)
    with open(shop.conf, encoding="utf-8") as f:
        text = f.read().replace("environment = development", "login_url = %s/v1/user/login\nsession_url = %s/v1/sessions\n"
                                "ca_file = %s/ca.pem" % (url, url, folder))
    with open(shop.conf, "w", encoding="utf-8") as f:
        f.write(text)
    return process


def test_check_online_accepted(shop):
    shop.roster("id,password\n1001,horse\n")
    process = standin(shop, "--username", "canary-user", "--password", "canary-password")
    try:
        assert ("Talview", "accepted the login of [proview pv]") in of(levels(shop, "--online"), "ok")
    finally:
        process.terminate()
        process.wait()


def test_check_online_leaves_a_paused_account_alone(shop):
    shop.roster("id,password\n1001,horse\n")
    later = int((time.time() + 600) * 1000)
    change(shop, "ratings/ratings.db", ("INSERT INTO logins(account, blocked_until, failures, error)"
                                        " VALUES('pv', ?, 1, 'wrong_credentials')", later))
    warned = of(levels(shop, "--online"), "warning")
    assert any(what == "Talview" and "no login was tried for [proview pv]" in text for what, text in warned)


def test_check_online_with_wrong_credentials_and_with_nobody_there(shop):
    shop.roster("id,password\n1001,horse\n")
    process = standin(shop)
    try:
        refused = of(levels(shop, "--online", code=1), "failed")
        assert any(what == "Talview" and "refused the login of [proview pv]" in text for what, text in refused)
    finally:
        process.terminate()
        process.wait()
    failed = of(levels(shop, "--online", code=1), "failed")
    assert any(what == "Talview" and "[proview pv] failed: " in text for what, text in failed)
