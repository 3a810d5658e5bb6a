"""An installation in a customer's own folder on a shared host: found without being named, and closed to the group,
which may be every other customer. Run as a user who is not root, who is made up where the tests run as root."""
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("EXAMHOOK_BUILD") or TOP / "build").resolve()
WRAP = shlex.split(os.environ.get("EXAMHOOK_WRAP") or "")
USER = 61005  # nobody looks it up
BECOME = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
CONFIG = """[store]
url = sqlite:store
[verify]
languages = languages
[examjoint main]
client_id = client
client_secret_file = client_secret
[proview main]
environment = development
path_token = token-0123456789abcdef
username = u
password = p
app_id = a
[fields]
0 = id
"""


class Customer:
    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="examhook-home-", dir="/tmp"))
        self.folder = self.home / "examhook"
        self.webhooks = self.home / "public_html" / "webhooks"
        self.home.chmod(0o711)
        for folder in (self.folder, self.folder / "bin", self.webhooks.parent, self.webhooks):
            folder.mkdir(mode=0o755)
        shutil.copy(BUILD / "examhook", self.folder / "bin")
        for program in ("examjoint.fcgi", "proview.fcgi"):
            shutil.copy(BUILD / program, self.webhooks)
        shutil.copytree(TOP / "deploy/languages", self.folder / "languages")
        self.conf = self.folder / "examhook.conf"
        self.secret = self.folder / "client_secret"
        self.conf.write_text(CONFIG)
        self.secret.write_text("secret-of-the-client\n")
        for path in (self.conf, self.secret):
            path.chmod(0o600)
        if BECOME:
            subprocess.run(["chown", "-R", "%d:%d" % (USER, USER), self.home], check=True)

    def start(self, command, umask=0o022, env=None, **more):
        """As cron and mod_fcgid do it: nothing of ours in the environment, and an umask like any other."""
        return subprocess.run(WRAP + [str(word) for word in command], env={"PATH": "/usr/bin:/bin", **(env or {})},
                              umask=umask, cwd="/", timeout=120, capture_output=True, **BECOME, **more)

    def run(self, *words, **more):
        done = self.start([self.folder / "bin/examhook", *words], **more)
        done.out, done.err = done.stdout.decode(), done.stderr.decode()
        return done

    def ok(self, *words, **more):
        done = self.run(*words, **more)
        assert done.returncode == 0, done.err + done.out
        return done.out

    def cgi(self, program, path, body, **environment):
        env = {"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST", "PATH_INFO": path, "REMOTE_ADDR": "192.0.2.1",
               "CONTENT_LENGTH": str(len(body)), "HTTP_X_CLIENT_ID": "client",
               "HTTP_X_CLIENT_SECRET": "secret-of-the-client", **environment}
        done = self.start([self.webhooks / program], input=body, env=env)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"Status: "), (done.stdout, done.stderr)
        return int(head.split()[1]), answer.decode(), done.stderr.decode()

    def event(self, **environment):
        return self.cgi("examjoint.fcgi", "/webhooks/examjoint",
                        b'{"event": "result_ready", "exam_id": "e", "respondent_id": "r"}', **environment)

    def all_of_the_store(self):
        store = self.folder / "store"
        return [store, *store.rglob("*")]


@pytest.fixture
def customer():
    made = Customer()
    yield made
    shutil.rmtree(made.home)


def modes(paths):
    return {str(path): oct(stat.S_IMODE(path.lstat().st_mode)) for path in paths}


def test_it_is_found_above_the_program_and_beside_the_document_root(customer):
    assert customer.ok("config").startswith("# %s\n" % customer.conf)
    customer.ok("migrate")
    status, answer, log = customer.event()
    assert (status, answer) == (200, "{}"), log
    status, answer, log = customer.event(DOCUMENT_ROOT=str(customer.home / "public_html"))
    assert (status, answer) == (200, "{}"), log


@pytest.mark.skipif(not BECOME, reason="only root can give a file away")
def test_another_users_file_above_the_program_is_passed_by(customer):
    os.chown(customer.conf, 0, 0)
    customer.conf.chmod(0o644)
    done = customer.run("config")
    assert done.returncode == 3 and "/etc/examhook/examhook.conf" in done.err


@pytest.mark.skipif(not BECOME, reason="only root can give a folder away")
def test_another_users_folder_above_the_program_is_passed_by(customer):
    """Where everybody may make a folder (/tmp), its owner could change the file once it was looked at."""
    os.chown(customer.folder, 0, 0)
    done = customer.run("config")
    assert done.returncode == 3 and "/etc/examhook/examhook.conf" in done.err
    os.chown(customer.folder, USER, USER)
    # A link of our own is ours.
    customer.folder.rename(customer.home / "elsewhere")
    customer.folder.symlink_to("elsewhere")
    os.lchown(customer.folder, 0, 0)
    assert "/etc/examhook/examhook.conf" in customer.run("config").err
    os.lchown(customer.folder, USER, USER)
    assert customer.ok("config").startswith("# %s\n" % customer.conf)


@pytest.mark.skipif(not BECOME, reason="only root is root")
def test_root_looks_nowhere_but_in_etc(customer):
    os.chown(customer.conf, 0, 0)
    done = subprocess.run([customer.folder / "bin/examhook", "config"], env={"PATH": "/usr/bin"}, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 3 and "/etc/examhook/examhook.conf" in done.stderr


def test_a_link_and_a_folder_of_that_name_are_passed_by(customer):
    customer.conf.rename(customer.home / "real.conf")
    customer.conf.symlink_to(customer.home / "real.conf")
    assert "/etc/examhook/examhook.conf" in customer.run("config").err
    customer.conf.unlink()
    customer.conf.mkdir()
    assert "/etc/examhook/examhook.conf" in customer.run("config").err


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o644])
@pytest.mark.parametrize("name", ["conf", "secret"])
def test_configuration_and_secrets_closed_to_the_group_too(customer, name, mode):
    path = getattr(customer, name)
    customer.ok("migrate")
    path.chmod(mode)
    status, answer, log = customer.event()
    assert (status, "not_configured" in answer) == (503, True)
    assert str(path) in log and "chmod " in log
    # However the file is named: it is the same one.
    done = customer.run("--config", customer.conf, "config", "--for", "examjoint")
    assert done.returncode == 3 and str(path) in done.err
    path.chmod(0o600)
    assert customer.event()[0] == 200


def test_elsewhere_the_group_may_read(customer):
    """The same files where the program does not lie beside them: an installation like any other."""
    elsewhere = customer.home / "etc"
    customer.folder.rename(elsewhere)
    conf = elsewhere / "examhook.conf"
    conf.chmod(0o640)
    (elsewhere / "client_secret").chmod(0o640)
    done = customer.start([elsewhere / "bin/examhook", "--config", conf, "migrate"])
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((elsewhere / "store/examjoint/events.db").stat().st_mode) == 0o640


def test_nothing_that_is_made_is_open_to_the_group(customer):
    (customer.folder / "roster.csv").write_text("id,name,password\n1001,Ada,horse\n")
    (customer.folder / "roster.csv").chmod(0o644)
    with customer.conf.open("a") as conf:
        conf.write("1 = password\n")
    customer.ok("migrate")
    customer.ok("roster", "import", str(customer.folder / "roster.csv"))
    verify = b'{"event": "verify_respondent", "exam_id": "e", "fields": [{"position": 0, "value": "1001"},' \
             b' {"position": 1, "value": "horse"}]}'
    status, answer, log = customer.cgi("examjoint.fcgi", "/webhooks/examjoint", verify)
    assert (status, "Ada" in answer) == (200, True), (answer, log)
    callback = b'{"session_uuid": "f46bd560-53f6-11eb-b441-492a960aa0ba", "message": "m", "external_id": "1"}'
    assert customer.cgi("proview.fcgi", "/webhooks/proview/main/token-0123456789abcdef", callback)[0] == 200
    with customer.conf.open("a") as conf:
        conf.write("[worker]\nconnect_timeout = 1s\nrequest_timeout = 1s\nproxy = http://127.0.0.1:9\n")
    customer.ok("work", "--once", "--budget", "5")
    customer.ok("purge", "--older-than", "1")
    customer.ok("backup", str(customer.home / "copy"))
    made = [*customer.all_of_the_store(), customer.home / "copy", *(customer.home / "copy").rglob("*")]
    assert len(made) > 25, made
    assert {path: mode for path, mode in modes(made).items() if not mode.endswith("00")} == {}
    assert modes([customer.folder / "store/ratings/work.lock", customer.folder / "store/ratings/once.lock"])


@pytest.mark.skipif(not BECOME, reason="only root is root")
def test_what_root_runs_does_not_shut_the_customer_out(customer):
    """Somebody of the host who looks after it; for root it is an installation like any other."""
    customer.ok("migrate")
    (customer.folder / "roster.csv").write_text("id\n1001\n")
    for words in (["work", "--once", "--budget", "5"], ["roster", "import", str(customer.folder / "roster.csv")],
                  ["events"], ["sessions"], ["purge", "--older-than", "1"], ["migrate"]):
        done = subprocess.run([BUILD / "examhook", "--config", customer.conf, *words], umask=0o022, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    customer.ok("work", "--once", "--budget", "5")
    assert customer.event()[0] == 200
    assert {path.stat().st_uid for path in customer.all_of_the_store()} == {USER}


@pytest.mark.parametrize("name", ["store", "store/examjoint", "store/examjoint/events.db", "store/roster/roster.db",
                                  "store/examjoint/events.db-wal"])
def test_a_store_that_the_group_can_get_at_is_not_used(customer, name):
    customer.ok("migrate")
    path = customer.folder / name
    path.chmod(path.stat().st_mode | 0o040)
    status, answer, log = customer.event()
    assert (status, "not_configured" in answer) == (503, True)
    assert str(path) in log and "go-rwx %s" % customer.folder in log
    words = ["roster", "list"] if "roster" in name else ["events"]
    assert str(path) in customer.run(*words).err
    done = customer.run("check", "--start", "--for", "examjoint")
    assert done.returncode == 1 and "go-rwx" in done.out and str(path) in done.out
    if name != "store":
        customer.ok("migrate")
        assert customer.event()[0] == 200
    else:
        # It may be more than the store's: whoever made it closes it.
        customer.ok("migrate")
        assert customer.event()[0] == 503


def test_the_store_under_the_document_root_is_not_served(customer):
    customer.conf.write_text(CONFIG.replace("sqlite:store", "sqlite:../public_html/store"))
    customer.ok("migrate")
    status, answer, log = customer.event(DOCUMENT_ROOT=str(customer.home / "public_html"))
    assert (status, "not_configured" in answer) == (503, True)
    assert "document root" in log and "public_html/store" in log
    warned = [line for line in customer.run("check").out.splitlines() if line.startswith("warning")]
    assert any("public_html/store lies in a folder called public_html" in line for line in warned)


def test_check_finds_a_fresh_installation_sound(customer):
    customer.ok("migrate")
    (customer.folder / "roster.csv").write_text("id,name\n1001,Ada\n")
    customer.ok("roster", "import", str(customer.folder / "roster.csv"))
    done = customer.run("check", "--full")
    bad = [line for line in done.out.splitlines() if not line.startswith("ok") and "path token alone" not in line
           and "authorities" not in line and "name server" not in line]
    assert bad == [], bad
    assert "a personal installation" in done.out
