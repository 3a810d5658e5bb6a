"""The units on a running machine: a real systemd, a real nginx with the shipped site over TLS, the programs as
`make install` leaves them."""
import collections
import json
import os
import shutil
import socket
import threading
import time

import pytest

import machine as machines
from calls import admitted, callback, examjoint, fields, proview
from installed import CONFIG, SERVICES, Installed
from support import a_uuid, unique, wait_for
from test_sigterm import Load

ACCOUNTS = """
[roster]
hash = sha512crypt
[examjoint acme]
client_id = acme-id
client_secret = %(secret)s
%(more)s
[proview main]
path_token = token-0123456789abcdef
username = admin@example.org
password = password-of-talview
app_id = app-0123
%(talview)s
[fields]
0 = id
1 = password
"""
SECRET = "acme-secret-new" # calls.SECRETS
TOKEN = "main/token-0123456789abcdef"
ROSTER = "id,password,name\n1001,horse 1001,Ada\n"


def accounts(secret=SECRET, more="", talview="environment = production"):
    return ACCOUNTS % {"secret": secret, "more": more, "talview": talview}


@pytest.fixture
def fresh(tmp_path):
    """Installed, and that is all."""
    reason = machines.unavailable()
    if reason:
        pytest.skip(reason)
    one = Installed(str(tmp_path / "disk"))
    try:
        yield one.start().install()
    finally:
        one.stop()
        shutil.rmtree(tmp_path / "disk")


def serve(one, text):
    """What the page says after `make install`, in short."""
    one.configure(text)
    one.put(ROSTER.encode(), "/root/roster.csv")
    one.run("examhook migrate; examhook roster import /root/roster.csv; systemctl enable --now " + " ".join(SERVICES))
    one.nginx()
    return one


@pytest.fixture
def running(fresh):
    return serve(fresh, accounts())


def send_event(one):
    who = unique()
    return who, answered(examjoint, one, admitted(who))


def send_callback(one):
    session = a_uuid()
    return session, answered(proview, one, TOKEN, callback(session))


def answered(call, *arguments):
    try:
        return call(*arguments)
    except (OSError, TypeError): # TypeError: the machine has stopped
        return None


def stored(one, key):
    return collections.Counter(row[key] for row in one.rows("events"))


def failed_units(one):
    return one.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout


def test_a_fresh_machine_has_nothing_that_fails(fresh):
    """Enabled before it is configured: nothing runs, nothing has failed, nothing is tried again and again."""
    assert fresh.run("systemd-analyze --man=no verify /usr/local/lib/systemd/system/examhook-*").stderr == ""
    fresh.run(["systemctl", "enable", "--now", *SERVICES])
    time.sleep(5)
    assert failed_units(fresh) == ""
    assert fresh.run("systemctl is-active 'examhook-*' || true").stdout.split() in ([], ["inactive"] * 5)
    assert fresh.run("ls /run/examhook").stdout == ""


def test_a_candidate_and_an_admission(running):
    """The whole way: TLS, nginx, the socket of systemd, the program, the store; and the journal tells of it."""
    assert running.run(["systemctl", "is-active", *SERVICES]).stdout.split() == ["active"] * 3
    sent = {"event": "verify_respondent", "fields": fields("1001", "horse 1001"), "exam_id": "exam-1",
            "choosenLang": "en"}
    reply = examjoint(running, sent)
    assert (reply.status, reply.json) == (200, {"metadata": {"name": "Ada"}})
    reply = examjoint(running, admitted("r1"))
    assert (reply.status, reply.json) == (200, {})
    assert proview(running, TOKEN, callback(a_uuid())).status == 200
    assert stored(running, "respondent_id")["r1"] == 1
    lines = [line for line in running.journal("examhook-examjoint").splitlines() if "method=POST" in line]
    assert len(lines) == 2 and all("route=examjoint" in line and "status=200" in line and "ms=" in line
                                   for line in lines), running.journal("examhook-examjoint")
    assert "horse 1001" not in running.journal("examhook-examjoint")
    done = running.run("examhook check", check=False)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout


def test_each_program_is_kept_apart(running):
    """Its own user; in its own place it sees neither the other programs' stores nor their secrets, and no file mode
    alone would let it."""
    secrets = {"examhook-examjoint": {SECRET}, "examhook-proview": {"token-0123456789abcdef"},
               "examhook-worker": {"password-of-talview"}}
    areas = {"examhook-examjoint": ("examjoint", "examjoint/events.db", {"roster/roster.db"}),
             "examhook-proview": ("proview", "proview/callbacks.db", set()),
             "examhook-worker": ("ratings", "ratings/ratings.db", {"proview/callbacks.db"})}
    files = {"roster/roster.db", "examjoint/events.db", "examjoint/identity.key", "proview/callbacks.db",
             "ratings/ratings.db"}
    for name in SERVICES:
        pid = running.main_pid(name)
        status = running.run("cat /proc/%d/status; ps -o user:32= -p %d" % (pid, pid)).stdout
        assert status.splitlines()[-1] == name
        assert "NoNewPrivs:\t1\n" in status and "Seccomp:\t2\n" in status and "CapBnd:\t0000000000000000\n" in status
        conf = running.run("cat /run/%s/examhook.conf; stat -c '%%U %%a' /run/%s/examhook.conf" % (name, name)).stdout
        assert conf.splitlines()[-1] == name + " 400"
        for other, words in secrets.items():
            for word in words:
                assert (word in conf) == (other == name), (name, word)
        as_it = ["setpriv", "--reuid", name, "--regid", name, "--init-groups", "--"]
        inside = ["nsenter", "-t", str(pid), "-m", "--", *as_it]
        folder, own, reads = areas[name]
        for where in (as_it, inside):
            def can(how, path):
                return running.run([*where, "test", how, path], check=False).returncode == 0 # pylint: disable=W0640
            for file in files:
                path = "/var/lib/examhook/" + file
                assert can("-w", path) == (file == own or file.startswith(folder + "/")), (name, file)
                assert can("-r", path) == (can("-w", path) or file in reads), (name, file)
            assert not can("-r", CONFIG) and not can("-r", "/etc/examhook/tls/key.pem")
            for other in set(SERVICES) - {name}:
                assert not can("-x", "/run/" + other), (name, other)
        # What it stores still belongs to it.
        assert running.run(["stat", "-c", "%U", "/var/lib/examhook/" + own]).stdout.strip() == name
        # No other process, and of the network the loopback at most.
        seen = running.run([*inside, "sh", "-c", "ls -d /proc/[0-9]*"]).stdout.split()
        assert "/proc/1" not in seen
        if name != "examhook-worker":
            links = running.run(["nsenter", "-t", str(pid), "-n", "ip", "-o", "addr"]).stdout
            assert links.split()[1] == "lo" and len(links.splitlines()) <= 2, links
            assert os.readlink(running.path("/proc/%d/ns/net" % pid)) != os.readlink(running.path("/proc/1/ns/net"))


def standin(one):
    """The worker's options for a stand-in of Talview, which is started."""
    url = one.start_standin("--username", "admin@example.org", "--password", "password-of-talview", "--app-id",
                            "app-0123")
    return "login_url = %s/v1/user/login\nsession_url = %s/v1/sessions\nca_file = /srv/talview/ca.pem" % (url, url)


def rated(one):
    return {row["session_uuid"] for row in one.rows("sessions", "--state", "rated")}


def test_all_that_the_programs_need_is_allowed(fresh):
    """Where a call that the units refuse would kill: none is made. Password checks run at a lower priority, and the
    descriptors are enough for the connections."""
    for name in SERVICES:
        fresh.put(b"[Service]\nSystemCallErrorNumber=\n", "/etc/systemd/system/%s.service.d/kill.conf" % name)
    running = serve(fresh, accounts(talview=standin(fresh)))
    pids = [running.main_pid(name) for name in SERVICES]
    sent = {"event": "verify_respondent", "fields": fields("1001", "horse 1001"), "exam_id": "exam-1"}
    assert examjoint(running, sent).json == {"metadata": {"name": "Ada"}}
    assert examjoint(running, admitted("r1")).status == 200
    session = a_uuid()
    assert proview(running, TOKEN, callback(session)).status == 200
    assert wait_for(lambda: session in rated(running), 60, every=0.5), running.journal("examhook-worker")
    running.run("systemctl reload 'examhook-*.service'")
    assert examjoint(running, sent).json == {"metadata": {"name": "Ada"}}
    assert [running.main_pid(name) for name in SERVICES] == pids
    assert "10" in running.run("ps -L -o ni= -p %d" % pids[0]).stdout.split()
    for name in SERVICES:
        assert not [line for line in running.journal(name).splitlines() if "level=warn" in line or
                    "level=error" in line]
    running.run("systemctl stop 'examhook-*.socket' 'examhook-*.service'")
    assert failed_units(running) == ""


def test_a_secret_is_rotated_by_a_reload(running):
    pid = running.main_pid("examhook-examjoint")
    load = Load(lambda: send_event(running), senders=2)
    wait_for(lambda: len(load.taken) > 10, 60)
    running.configure(accounts("another-secret", "client_secret_previous = " + SECRET))
    running.run("systemctl reload examhook-examjoint examhook-proview examhook-worker")
    with_it = [("x-client-id", "acme-id"), ("x-client-secret", "another-secret")]
    body = json.dumps(admitted("rotated")).encode()

    def ask():
        return running.ask("POST", "/webhooks/examjoint", body, with_it).status
    assert wait_for(lambda: ask() == 200)
    time.sleep(0.5)
    load.stop()
    assert not load.other and len(load.taken) > 10 # the previous secret still counts
    running.configure(accounts("another-secret"))
    running.run("systemctl reload examhook-examjoint")
    assert wait_for(lambda: examjoint(running, admitted("r2")).status == 401)
    assert ask() == 200 and running.main_pid("examhook-examjoint") == pid
    assert running.run(["systemctl", "is-active", *SERVICES]).stdout.split() == ["active"] * 3


def test_a_wrong_configuration_is_not_taken(running):
    """A reload says where it is wrong, and the old one serves on; a start says so too, and comes up by itself when it
    has been put right."""
    running.configure(accounts() + "\nnonsense = 1\n")
    line = running.read(CONFIG).splitlines().index("nonsense = 1") + 1
    done = running.run(["systemctl", "reload", "examhook-examjoint"], check=False)
    assert done.returncode != 0
    where = "%s:%d:" % (CONFIG, line)
    assert where in running.journal("examhook-examjoint")
    assert examjoint(running, admitted("r3")).status == 200
    done = running.run(["systemctl", "restart", "examhook-proview"], check=False)
    assert done.returncode != 0 and where in running.journal("examhook-proview")
    running.configure(accounts())
    assert wait_for(lambda: proview(running, TOKEN, callback(a_uuid())).status == 200, 30)
    assert failed_units(running) == ""


RESTARTED = [("examhook-examjoint", send_event, "respondent_id"), ("examhook-proview", send_callback, "session_uuid")]


@pytest.mark.parametrize("service,send,key", RESTARTED, ids=[row[0] for row in RESTARTED])
def test_twenty_restarts_under_load(running, service, send, key):
    pids = set()
    load = Load(lambda: send(running), senders=4)
    try:
        for _ in range(20):
            time.sleep(0.2)
            running.run(["systemctl", "restart", service])
            pids.add(running.main_pid(service))
        time.sleep(0.5)
    finally:
        load.stop()
    assert len(pids) == 20
    assert not load.other, load.other
    assert len(load.taken) > 100
    counted = stored(running, key)
    assert not set(load.taken) - set(counted) and max(counted.values()) == 1


def test_the_worker_restarted_twenty_times(fresh):
    running = serve(fresh, accounts(talview=standin(fresh)))
    load = Load(lambda: send_callback(running), senders=1)
    try:
        for _ in range(20):
            time.sleep(0.3)
            running.run(["systemctl", "restart", "examhook-worker"])
    finally:
        load.stop()
    assert not load.other and len(load.taken) > 20
    assert wait_for(lambda: set(load.taken) == rated(running), 90, every=1), running.journal("examhook-worker")[-3000:]
    owner = running.run("stat -c %U /var/lib/examhook/ratings/ratings.db").stdout.strip()
    assert owner == "examhook-worker"


def test_after_sigkill_it_is_back(running):
    """The socket is systemd's: it is there all the time, and who connects meanwhile is served by the next process."""
    refused, over = [], threading.Event()

    def knock():
        while not over.is_set():
            with socket.socket(socket.AF_UNIX) as s:
                error = s.connect_ex(running.path("/run/examhook/examjoint.sock"))
                if error:
                    refused.append(os.strerror(error))
            time.sleep(0.005)
    thread = threading.Thread(target=knock)
    thread.start()
    try:
        for _ in range(3):
            before = running.main_pid("examhook-examjoint")
            running.run(["systemctl", "kill", "-s", "KILL", "examhook-examjoint"])
            who = unique()
            assert examjoint(running, admitted(who)).status == 200
            assert stored(running, "respondent_id")[who] == 1
            assert running.main_pid("examhook-examjoint") not in (0, before)
    finally:
        over.set()
        thread.join()
    assert not refused


def test_a_socket_is_restarted_too(running):
    """With its program, which cannot go on with a socket that is closed: an administrator changes the group, or names
    all units at once."""
    for units in ("examhook-examjoint.socket", "'examhook-*.socket'", "'examhook-*'"):
        running.run("systemctl restart " + units)
        running.wait("systemctl is-active %s.socket %s.socket && systemctl is-active %s" % (
            *SERVICES[:2], " ".join(SERVICES)))
        assert examjoint(running, admitted(unique())).status == 200
    running.put(b"[Socket]\nSocketGroup=games\n", "/etc/systemd/system/examhook-proview.socket.d/group.conf")
    running.run("systemctl daemon-reload; systemctl restart 'examhook-*.socket'")
    assert running.run("stat -c '%G %a' /run/examhook/*.sock").stdout == "www-data 660\ngames 660\n"
    assert proview(running, TOKEN, callback(a_uuid())).status == 503 # nginx is of another group
    assert failed_units(running) == ""


def test_stop_leaves_nothing(running):
    assert examjoint(running, admitted("r4")).status == 200
    running.run("systemctl stop 'examhook-*.socket' 'examhook-*.service'")
    assert running.run("ls /run/examhook; ls -d /run/examhook-* 2>/dev/null || true").stdout == ""
    for name in SERVICES:
        assert running.run(["pgrep", "-u", name], check=False).stdout == ""
    assert examjoint(running, admitted("r5")).status == 503
    assert failed_units(running) == ""
    running.run(["systemctl", "start", *SERVICES])
    assert examjoint(running, admitted("r5")).status == 200
    assert stored(running, "respondent_id") == {"r4": 1, "r5": 1}


def test_secrets_that_systemd_hands_over(fresh):
    """LoadCredential= by a drop-in: the secret is in no configuration file, and rotates by a restart. (A reload of
    systemd 252 has no credentials to look into: it fails, and what runs goes on.)"""
    fresh.put(b"[Service]\nLoadCredential=acme-secret:/srv/secrets/acme\n",
              "/etc/systemd/system/examhook-examjoint.service.d/secret.conf")
    fresh.put((SECRET + "\n").encode(), "/srv/secrets/acme", mode=0o400)
    running = serve(fresh, accounts().replace("client_secret = " + SECRET, "client_secret_file = acme-secret"))
    assert examjoint(running, admitted("r6")).status == 200
    assert SECRET not in running.read(CONFIG)
    pid = running.main_pid("examhook-examjoint")
    running.run(["systemctl", "reload", "examhook-examjoint"], check=False)
    assert examjoint(running, admitted("r7")).status == 200 and running.main_pid("examhook-examjoint") == pid
    fresh.put(b"another-secret\n", "/srv/secrets/acme", mode=0o400)
    running.run(["systemctl", "restart", "examhook-examjoint"])
    assert examjoint(running, admitted("r8")).status == 401


def test_it_comes_up_with_the_machine(running):
    """Power fails while events come in; at the next boot all serves without a hand, and nothing acknowledged is
    missing."""
    load = Load(lambda: send_event(running), senders=2)
    wait_for(lambda: len(load.taken) > 10, 60)
    sent = list(load.taken) # answered before the power fails
    running.stop()
    load.stop()
    running.start()
    running.wait("systemctl is-active nginx")
    assert examjoint(running, admitted("r8")).status == 200
    assert running.run(["systemctl", "is-active", *SERVICES]).stdout.split() == ["active"] * 3
    counted = stored(running, "respondent_id")
    assert sent and not set(sent) - set(counted) and counted["r8"] == 1
