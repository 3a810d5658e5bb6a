"""One user for each program, on folders as deploy/systemd/examhook.tmpfiles has them: everything works, and no
program can change or read what is not its business."""
import json
import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("EXAMHOOK_BUILD", "build")).resolve()
# Numbers are enough: nobody looks these users up.
IDS = {"root": 0, "examhook": 61000, "examhook-examjoint": 61001, "examhook-proview": 61002, "examhook-worker": 61003}
UUID = "f46bd560-53f6-11eb-b441-492a960aa0ba"
CONFIG = """
[store]
url = sqlite:{store}
[verify]
languages = {top}/deploy/languages
[examjoint main]
client_id = client
client_secret_file = {folder}/client_secret
[proview main]
login_url = https://127.0.0.1:9/login
session_url = https://127.0.0.1:9/sessions
path_token_file = {folder}/path_token
username = u
password_file = {folder}/password
app_id = a
[fields]
0 = id
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def as_user(name, command, **more):
    """Runs a command as the user's number, and in the group that may read the configuration."""
    return subprocess.run(command, user=IDS[name], group=IDS[name], extra_groups=[IDS["examhook"]],
                          capture_output=True, timeout=60, **more)


@pytest.fixture
def site():
    # Not below pytest's folder: that one is closed to other users.
    made = subprocess.run(["mktemp", "-d", "/tmp/examhook-users-XXXXXX"], capture_output=True, text=True, check=True)
    folder = Path(made.stdout.strip())
    folder.chmod(0o711)
    for line in (TOP / "deploy/systemd/examhook.tmpfiles").read_text().splitlines():
        if not line.startswith("d "):
            continue
        _, path, mode, user, group, _ = line.split()
        path = folder / path.removeprefix("/var/lib/").removeprefix("/run/").replace("examhook", "store", 1) \
            if path.startswith("/var/lib/") else folder / "run"
        path.mkdir(exist_ok=True)
        os.chown(path, IDS[user], IDS[group])
        path.chmod(int(mode, 8))
    for name, owner, text in (("client_secret", "examhook-examjoint", "secret-of-the-client"),
                              ("path_token", "examhook-proview", "token-0123456789abcdef"),
                              ("password", "examhook-worker", "password-of-talview")):
        (folder / name).write_text(text + "\n")
        os.chown(folder / name, IDS[owner], 0)
        (folder / name).chmod(0o400)
    config = folder / "examhook.conf"
    config.write_text(CONFIG.format(folder=folder, store=folder / "store", top=TOP))
    os.chown(config, 0, IDS["examhook"])
    config.chmod(0o640)
    # The programs and the texts, where other users can get at them too.
    subprocess.run(["cp", *(BUILD / n for n in ("examjoint.fcgi", "proview.fcgi", "examhook")), folder], check=True)
    subprocess.run(["cp", "-r", TOP / "deploy/languages", folder / "languages"], check=True)
    config.write_text(config.read_text().replace(f"{TOP}/deploy/languages", f"{folder}/languages"))
    (folder / "roster.csv").write_text("id,name\n1001,Ada\n")
    for words in (["migrate"], ["roster", "import", str(folder / "roster.csv")]):
        done = subprocess.run([folder / "examhook", "--config", config, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def cgi(folder, user, program, path, body, **headers):
    environment = {"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "POST", "PATH_INFO": path,
                   "CONTENT_LENGTH": str(len(body)), "EXAMHOOK_CONF": str(folder / "examhook.conf"), **headers}
    done = as_user(user, [folder / program], input=body, env=environment)
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    assert head, done.stderr
    return int(head.split()[1]), json.loads(answer), done.stderr.decode()


def examjoint(folder, event):
    status, answer, log = cgi(folder, "examhook-examjoint", "examjoint.fcgi", "", json.dumps(event).encode(),
                              HTTP_X_CLIENT_ID="client", HTTP_X_CLIENT_SECRET="secret-of-the-client")
    assert status == 200, (answer, log)
    return answer


def test_each_program_does_its_job_as_its_own_user(site):
    verify = {"event": "verify_respondent", "exam_id": "e", "fields": [{"position": 0, "value": "1001"}]}
    assert examjoint(site, verify) == {"metadata": {"name": "Ada"}}
    assert examjoint(site, {"event": "result_ready", "exam_id": "e", "respondent_id": "r"}) == {}
    callback = json.dumps({"session_uuid": UUID, "message": "m", "external_id": "1"}).encode()
    status, answer, log = cgi(site, "examhook-proview", "proview.fcgi", "/main/token-0123456789abcdef", callback)
    assert (status, answer) == (200, {}), log
    done = as_user("examhook-worker", [site / "examhook", "--config", site / "examhook.conf", "work", "--once",
                                       "--budget", "5"])
    assert done.returncode == 0, done.stderr
    listed = subprocess.run([site / "examhook", "--config", site / "examhook.conf", "sessions", "--json"],
                            capture_output=True, text=True, check=True)
    session = json.loads(listed.stdout)
    assert session["session_uuid"] == UUID and session["last_error"].startswith("login")
    # The operator (root) may write too, and leaves nothing behind that shuts the programs out.
    subprocess.run([site / "examhook", "--config", site / "examhook.conf", "unlock", "--exam", "e"], check=True,
                   capture_output=True)
    assert examjoint(site, {"event": "result_ready", "exam_id": "e", "respondent_id": "r2"}) == {}
    done = as_user("examhook-worker", [site / "examhook", "--config", site / "examhook.conf", "work", "--once",
                                       "--budget", "5"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("user, options", [("root", ["--full"]), ("examhook-examjoint", ["--for", "examjoint"]),
                                           ("examhook-proview", ["--for", "proview"]),
                                           ("examhook-worker", ["--for", "work"])])
def test_check_finds_nothing_wrong_with_folders_as_we_ship_them(site, user, options):
    done = as_user(user, [site / "examhook", "--config", site / "examhook.conf", "check", *options])
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stdout.decode()
    assert not [line for line in lines if not line.startswith("ok") and "path token alone" not in line], lines


PROGRAMS = [("examhook-examjoint", "examjoint"), ("examhook-proview", "proview"), ("examhook-worker", "worker")]


def own_files(site):
    """As the units do it: the configuration is root's alone, and each program's part lies in its own folder."""
    made = {}
    for name in ("client_secret", "path_token", "password"):
        os.chown(site / name, 0, 0)
    os.chown(site / "examhook.conf", 0, 0)
    (site / "examhook.conf").chmod(0o600)
    for user, program in PROGRAMS:
        folder = site / ("run-" + program)
        folder.mkdir(mode=0o700)
        os.chown(folder, IDS[user], IDS[user])
        made[program] = folder / "examhook.conf"
        done = subprocess.run([site / "examhook", "--config", site / "examhook.conf", "config", "--for", program,
                               "--output", made[program]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return made


def test_each_program_starts_with_its_part_of_a_file_that_is_roots_alone(site):
    files = own_files(site)
    secrets = {"examjoint": "secret-of-the-client", "proview": "token-0123456789abcdef", "worker": "password-of-talview"}
    for user, program in PROGRAMS:
        text = as_user(user, ["cat", files[program]]).stdout.decode()
        assert {name for name, secret in secrets.items() if secret in text} == {program}
        done = as_user(user, [site / "examhook", "--config", files[program], "check", "--start", "--for", program])
        assert done.returncode == 0, done.stdout.decode()
        assert not [line for line in done.stdout.decode().splitlines() if not line.startswith("ok")]
        for _, other in PROGRAMS:
            if other != program:
                assert as_user(user, ["cat", files[other]]).returncode != 0
        assert as_user(user, ["cat", site / "examhook.conf"]).returncode != 0
    done = as_user("examhook-worker", [site / "examhook", "--config", files["worker"], "work", "--once", "--budget", "5"])
    assert done.returncode == 0, done.stderr


def test_check_says_what_a_program_cannot_read(site):
    (site / "path_token").chmod(0o000)
    done = as_user("examhook-proview", [site / "examhook", "--config", site / "examhook.conf", "check", "--start",
                                        "--for", "proview"])
    assert done.returncode == 1 and b"path_token" in done.stdout
    (site / "path_token").chmod(0o400)
    (site / "password").chmod(0o000)
    done = as_user("examhook-proview", [site / "examhook", "--config", site / "examhook.conf", "check", "--start",
                                        "--for", "proview"])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("user, path, read, write", [
    ("examhook-examjoint", "store/roster/roster.db", True, False),
    ("examhook-examjoint", "store/examjoint/events.db", True, True),
    ("examhook-examjoint", "store/proview/callbacks.db", False, False),
    ("examhook-examjoint", "store/ratings/ratings.db", False, False),
    ("examhook-examjoint", "password", False, False),
    ("examhook-proview", "store/roster/roster.db", False, False),
    ("examhook-proview", "store/examjoint/events.db", False, False),
    ("examhook-proview", "store/examjoint/identity.key", False, False),
    ("examhook-proview", "store/proview/callbacks.db", True, True),
    ("examhook-proview", "store/ratings/ratings.db", False, False),
    ("examhook-proview", "password", False, False),
    ("examhook-proview", "client_secret", False, False),
    ("examhook-worker", "store/roster/roster.db", False, False),
    ("examhook-worker", "store/examjoint/events.db", False, False),
    ("examhook-worker", "store/proview/callbacks.db", True, False),
    ("examhook-worker", "store/ratings/ratings.db", True, True),
    ("examhook-worker", "client_secret", False, False),
])
def test_a_file_mode_says_whose_business_it_is(site, user, path, read, write):
    assert (site / path).exists()
    assert (as_user(user, ["test", "-r", site / path]).returncode == 0) == read
    assert (as_user(user, ["test", "-w", site / path]).returncode == 0) == write


def test_systemd_takes_the_files_that_we_ship(tmp_path):
    (tmp_path / "etc").mkdir()
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / f"usr/lib/{kind}.d"
        folder.mkdir(parents=True)
        (folder / "examhook.conf").write_bytes((TOP / f"deploy/systemd/examhook.{kind}").read_bytes())
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        done = subprocess.run([*command, f"--root={tmp_path}"], capture_output=True, text=True)
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("Creating ")]
        assert (done.returncode, complaints) == (0, [])
    ids = dict(line.split(":")[0::2][:2] for line in (tmp_path / "etc/passwd").read_text().splitlines())
    ratings = (tmp_path / "var/lib/examhook/ratings").stat()
    assert (ratings.st_uid, ratings.st_mode & 0o7777) == (int(ids["examhook-worker"]), 0o700)
