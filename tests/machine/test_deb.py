"""The Debian package, from `make deb` to its purge: what lintian says of it, whether it can be built again, and its
life in throw-away Debians. `make check-deb` runs it; EXAMHOOK_DEB is a folder of a package that is built already."""
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import hardening
import installed as by_make
import machine as machines
import pages
from machine import BOOT, MachineError

TOP = machines.TOP
BUILD = os.path.abspath(os.environ.get("EXAMHOOK_BUILD", os.path.join(TOP, "build")))
UNITS = ["examhook-examjoint.service", "examhook-examjoint.socket", "examhook-proview.service",
         "examhook-proview.socket", "examhook-worker.service"]
SERVICES = [unit for unit in UNITS if unit.endswith(".service")]
SOCKETS = [unit for unit in UNITS if unit.endswith(".socket")]
CONF = "/etc/examhook/examhook.conf"
# What the administrator adds to the one file.
ACCOUNTS = """
[examjoint main]
client_id = main-id
client_secret = main-secret

[proview main]
environment = production
username = admin@example.org
password = talview-password
app_id = talview-app
path_token = token-0123456789abcdef

[fields]
0 = id
1 = password
"""
ROSTER = "id,password,name\n1001,horse 1001,Ada\n"
ADA = (200, {"metadata": {"name": "Ada"}})
PAGE = os.path.join(TOP, "deploy/hosting/debian-package.md")
WEB = ["nginx-light", "curl", "openssl"]


def built(folder, tree=TOP, **more):
    """deploy/deb into the folder, by nobody in particular; returns what it said."""
    who = {name: "" for name in ("DEBFULLNAME", "DEBEMAIL")}
    done = subprocess.run([os.path.join(tree, "deploy/deb"), folder], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          env=dict(os.environ, LC_ALL="C.UTF-8", **{**who, **more}))
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def only(folder, pattern):
    found = glob.glob(os.path.join(folder, pattern))
    assert len(found) == 1, (pattern, found)
    return found[0]


@pytest.fixture(scope="session")
def folder():
    """The folder that `make deb` fills."""
    missing = [tool for tool in ("dpkg-buildpackage", "dh", "lintian") if not shutil.which(tool)]
    if missing:
        pytest.skip("not installed: %s (deploy/deps deb)" % ", ".join(missing))
    given = os.environ.get("EXAMHOOK_DEB")
    if given:
        return given
    path = os.path.join(BUILD, "deb")
    built(path)
    return path


@pytest.fixture(scope="session")
def deb(folder):
    return only(folder, "examhook_*.deb")


@pytest.fixture(scope="session")
def newer(deb, tmp_path_factory):
    """The same package as a later version, whose programs are other files."""
    work = str(tmp_path_factory.mktemp("newer"))
    tree = os.path.join(work, "tree")
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = os.path.join(tree, "DEBIAN/control")
    with open(control, encoding="utf-8") as f:
        text = re.sub(r"^Version: .*$", "Version: 0.2.0", f.read(), flags=re.M)
    with open(control, "w", encoding="utf-8") as f:
        f.write(text)
    path = os.path.join(work, "newer.deb")
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tree, path], check=True, stdout=subprocess.DEVNULL)
    return path


# --- The package as a file ---------------------------------------------------------------------------------------

def test_lintian_finds_nothing(folder):
    done = subprocess.run(["lintian", "--allow-root", "--tag-display-limit", "0", "-EIL", "+pedantic", "--fail-on",
                           "error,warning,info,pedantic,experimental", only(folder, "examhook_*.changes")],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stdout


def test_its_programs_are_hardened(deb, tmp_path):
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path], check=True)
    for name in ("bin/examhook", "lib/examhook/examjoint.fcgi", "lib/examhook/proview.fcgi"):
        assert hardening.dynamic_faults(tmp_path / "usr" / name) == [], name


def test_its_documentation_is_whole(deb, tmp_path):
    """Pages of what they link to, as far as that is a file."""
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path], check=True)
    docs = tmp_path / "usr/share/doc/examhook"
    files = {str(file.relative_to(docs)) for file in docs.rglob("*.md")}
    assert {"README.md", "SECURITY.md", "hosting/debian-package.md", "hosting/capacity.md"} <= files
    links = [(name, link) for name in files
             for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", (docs / name).read_text(encoding="utf-8"))]
    assert ("README.md", "SECURITY.md") in links and len(links) > 20
    assert [(name, link) for name, link in links if not (docs / name).parent.joinpath(link).is_file()] == []


def test_nobody_is_named_who_receives_nothing():
    """The maintainer of a package whose builder gave no name: the page tells what that address is."""
    with open(os.path.join(TOP, "deploy/debian/control"), encoding="utf-8") as f:
        address = re.search(r"^Maintainer: .* <(.*)>$", f.read(), re.M).group(1)
    assert address.endswith("@example.org") # nobody's, and never somebody's
    with open(PAGE, encoding="utf-8") as f:
        assert re.search("`%s`, where nobody\\s+receives" % re.escape(address), f.read())


def test_built_again_it_is_the_same(folder, tmp_path):
    """From another folder, and from a tree without git."""
    tree = tmp_path / "elsewhere"
    listed = subprocess.run(["git", "-C", TOP, "ls-files", "-z"], stdout=subprocess.PIPE, check=False)
    if listed.returncode:
        pytest.skip("no git here to say which files belong to the tree")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if os.path.exists(os.path.join(TOP, name)):
            os.makedirs(tree / os.path.dirname(name), exist_ok=True)
            shutil.copy2(os.path.join(TOP, name), tree / name)
    built(str(tmp_path / "out"), str(tree), DEB_BUILD_OPTIONS="nocheck")
    sums = []
    for where in (folder, str(tmp_path / "out")):
        packages = [only(where, "examhook_*.deb"), only(where, "examhook-dbgsym_*.deb")]
        with open(packages[0], "rb") as f, open(packages[1], "rb") as g:
            sums.append([hashlib.sha256(f.read()).hexdigest(), hashlib.sha256(g.read()).hexdigest()])
    assert sums[0] == sums[1]


def test_the_builder_is_named(tmp_path):
    """Who says DEBFULLNAME and DEBEMAIL, as for Debian's own tools, is the maintainer of what is built."""
    built(str(tmp_path), DEB_BUILD_OPTIONS="nocheck noopt parallel=1", DEBFULLNAME="Zoë O'Brien & Söhne | Co",
          DEBEMAIL="zoe@exams.example")
    done = subprocess.run(["dpkg-deb", "-f", only(str(tmp_path), "examhook_*.deb"), "Maintainer"],
                          stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "Zoë O'Brien & Söhne | Co <zoe@exams.example>\n"
    with open(only(str(tmp_path), "*.changes"), encoding="utf-8") as f:
        assert "\nChanged-By: Zoë O'Brien & Söhne | Co <zoe@exams.example>\n" in f.read()


# --- Its life in a machine -----------------------------------------------------------------------------------------

class Installed:
    """A machine with the package, and what its administrator and the vendors do there."""

    def __init__(self, machine, deb):
        self.machine, self.run = machine, machine.run
        self.said = self.install(deb)

    def install(self, deb):
        self.machine.put(deb, "/root/examhook.deb")
        return self.machine.apt_install("/root/examhook.deb")

    def state(self, what, units=UNITS):
        return self.run(["systemctl", what, *units], check=False).stdout.split()

    def pids(self):
        """Of the three programs."""
        return self.state("show", ["-p", "MainPID", "--value", *SERVICES])

    def sockets_since(self):
        return self.state("show", ["-p", "ActiveEnterTimestampMonotonic", "--value", *SOCKETS])

    def configure(self):
        """One file is edited."""
        with open(self.machine.path(CONF), "a", encoding="utf-8") as f:
            f.write(ACCOUNTS)
        self.run("systemctl reload 'examhook-*.service'")

    def roster(self):
        self.machine.put(ROSTER.encode(), "/root/roster.csv")
        self.run("examhook roster import /root/roster.csv")

    def certificate(self):
        self.run("install -d -m 700 /etc/examhook/tls; cd /etc/examhook/tls;"
                 "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost "
                 "-days 2 -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2>&1")

    def serve(self):
        """nginx, with the files of the package."""
        self.certificate()
        self.run("cp /usr/share/examhook/nginx/examhook.conf /etc/nginx/sites-available/examhook.conf;"
                 "sed -i 's/webhooks.example.org/localhost/' /etc/nginx/sites-available/examhook.conf;"
                 "ln -s ../sites-available/examhook.conf /etc/nginx/sites-enabled/; nginx -t 2>&1;"
                 "systemctl reload nginx")
        return self.machine.wait("curl -sS --cacert /etc/examhook/tls/cert.pem https://localhost/", 20)

    def ask(self, body, path="/webhooks/examjoint", secret="main-secret"):
        done = self.run(["curl", "-sS", "--cacert", "/etc/examhook/tls/cert.pem", "-w", "\n%{http_code}", "-H",
                         "x-client-id: main-id", "-H", "x-client-secret: " + secret, "-d", json.dumps(body),
                         "https://localhost" + path])
        answer, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(answer)

    def admit(self, respondent):
        return self.ask({"event": "admitted_respondent", "respondent_id": respondent, "exam_id": "exam-1",
                         "admittedOn": 1719221380326})[0]

    def verify(self, number, password):
        return self.ask({"event": "verify_respondent", "exam_id": "exam-1", "choosenLang": "en", "fields": [
            {"position": 0, "value": number}, {"position": 1, "value": password}]})

    def stored(self):
        listed = self.run("examhook events --json").stdout
        return [event for event in map(json.loads, listed.splitlines()) if event["event"] == "admitted_respondent"]


@pytest.fixture
def installed(make_machine, deb):
    def install(*packages):
        return Installed(make_machine([*WEB, *packages]), deb)
    return install


FOLDERS = """\
/etc/examhook root:root 750
/etc/examhook/examhook.conf root:root 600
/etc/examhook/secrets root:root 700
/var/lib/examhook root:root 711
/var/lib/examhook/examjoint examhook-examjoint:examhook-examjoint 2750
/var/lib/examhook/examjoint/events.db examhook-examjoint:examhook-examjoint 640
/var/lib/examhook/proview examhook-proview:examhook-worker 2750
/var/lib/examhook/proview/callbacks.db examhook-proview:examhook-worker 640
/var/lib/examhook/ratings examhook-worker:examhook-worker 700
/var/lib/examhook/ratings/ratings.db examhook-worker:examhook-worker 600
/var/lib/examhook/roster root:examhook-examjoint 2750
/var/lib/examhook/roster/roster.db root:examhook-examjoint 640
"""


def modes(machine):
    names = [line.split()[0] for line in FOLDERS.splitlines()]
    return machine.run(["stat", "-c", "%n %U:%G %a", *names]).stdout


def test_installed_and_one_file_edited_it_works(make_machine, deb):
    machine = make_machine(WEB)
    machine.run("apt-get purge -q -y ca-certificates 2>&1")
    one = Installed(machine, deb)
    assert one.run("dpkg -s ca-certificates | grep Status").stdout == "Status: install ok installed\n"
    assert modes(machine) == FOLDERS
    # Not configured: it runs, and lets nobody in.
    assert one.state("is-active") == ["active"] * len(UNITS), one.said
    assert one.state("is-enabled") == ["enabled"] * len(UNITS)
    assert one.run("stat -c '%U:%G %a' /run/examhook/examjoint.sock").stdout == "root:www-data 660\n"
    assert one.serve() == '{"error":"not_found"}'
    assert one.admit("r-0") == 401
    # One file is edited.
    one.configure()
    one.roster()
    assert one.verify("1001", "horse 1001") == ADA
    assert "errorMessage" in one.verify("1001", "another horse")[1]
    assert one.admit("r-1") == 200 and [event["respondent_id"] for event in one.stored()] == ["r-1"]
    assert one.ask({"message": "Session Has Been Terminated", "external_id": "5506693", "session_uuid":
                    "9d7d7c3e-0000-4000-8000-000000000001"}, "/webhooks/proview/main/token-0123456789abcdef")[0] == 200
    check = one.run("examhook check", check=False)
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("server,module", [("apache2", "a2enmod"), ("lighttpd", "lighty-enable-mod")])
def test_another_web_server(make_machine, deb, server, module):
    """As the page says."""
    with open(PAGE, encoding="utf-8") as f:
        block = next(block for block in pages.blocks(f.read()) if module in block.text)
    machine = make_machine([server, "curl", "openssl"])
    one = Installed(machine, deb)
    one.configure()
    one.certificate()
    machine.put(b"#!/bin/sh\nsed -i s/webhooks.example.org/localhost/ $1\n", "/usr/local/bin/editor", mode=0o755)
    machine.run("echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/95yes\n" + block.text, network="host")
    machine.wait("curl -sS --cacert /etc/examhook/tls/cert.pem https://localhost/", 20)
    assert one.admit("r-1") == 200 and [event["respondent_id"] for event in one.stored()] == ["r-1"]
    said = one.run("apt-get purge -q -y examhook 2>&1").stdout
    assert "may refuse its next" in said and "/etc/" + server in said
    assert one.run("find /var/log/%s -name 'examhook*'" % server).stdout == ""


# A client in the machine's network that sends admissions until its input ends, and prints which were taken.
LOAD = r"""
import collections, http.client, json, ssl, sys, threading
tls = ssl.create_default_context(cafile=sys.argv[1])
stop, taken, other = threading.Event(), [], collections.Counter()
def work(thread):
    number = 0
    while not stop.is_set():
        number += 1
        who = "load-%d-%d" % (thread, number)
        body = json.dumps({"event": "admitted_respondent", "respondent_id": who, "exam_id": "exam-1",
                           "admittedOn": 1719221380326})
        try:
            connection = http.client.HTTPSConnection("localhost", 443, context=tls, timeout=60)
            connection.request("POST", "/webhooks/examjoint", body, {"x-client-id": "main-id",
                                                                     "x-client-secret": "main-secret"})
            status = connection.getresponse().status
            connection.close()
        except OSError as e:
            status = repr(e)
        if status == 200:
            taken.append(who)
        else:
            other[status] += 1
        stop.wait(0.02)
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads: thread.start()
print("started", flush=True)
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print(json.dumps({"taken": taken, "other": dict(other)}))
"""


def test_an_upgrade_under_load_loses_nothing(installed, newer):
    one = installed()
    one.serve()
    one.configure()
    one.roster()
    before, sockets = one.pids(), one.sockets_since()
    conf = one.machine.read(CONF)
    load = subprocess.Popen(["nsenter", "-t", str(one.machine.first), "-n", sys.executable, "-c", LOAD,
                             one.machine.path("/etc/examhook/tls/cert.pem")], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    try:
        assert load.stdout.readline() == "started\n"
        said = one.install(newer)
        one.run(["sleep", "2"])
        result = json.loads(load.communicate("", timeout=120)[0])
    finally:
        load.kill()
        load.wait()
    assert result["other"] == {} and len(result["taken"]) > 100, said
    assert one.run("dpkg-query -W -f '${Version}' examhook").stdout == "0.2.0", said
    after = one.pids()
    # Each program is another process now, of the new file; the sockets were never closed.
    assert not set(before) & set(after) and "0" not in after, said
    for pid in after:
        assert "deleted" not in one.run(["readlink", "/proc/%s/exe" % pid]).stdout
    assert one.sockets_since() == sockets
    assert sorted(event["respondent_id"] for event in one.stored()) == sorted(result["taken"])
    assert one.machine.read(CONF) == conf and modes(one.machine) == FOLDERS
    assert one.verify("1001", "horse 1001") == ADA
    assert "Configuration file" not in said # dpkg's question


def test_removal_keeps_and_a_purge_keeps_exam_data(installed, deb):
    one = installed()
    one.serve()
    one.configure()
    one.roster()
    assert one.admit("r-1") == 200
    one.run("apt-get remove -q -y examhook 2>&1")
    assert one.run("pgrep -f '[.]fcgi|examhook work'", check=False).stdout == ""
    assert set(one.state("is-active")) == {"inactive"}
    assert not os.path.exists(one.machine.path("/run/examhook"))
    assert "main-secret" in one.machine.read(CONF)
    # nginx still takes its configuration, and says so in our form.
    one.run("nginx -t 2>&1")
    assert one.admit("r-2") == 503
    one.install(deb)
    assert one.state("is-active") == ["active"] * len(UNITS)
    assert one.state("is-enabled") == ["enabled"] * len(UNITS)
    assert one.admit("r-3") == 200 and one.verify("1001", "horse 1001") == ADA
    assert [event["respondent_id"] for event in one.stored()] == ["r-1", "r-3"]
    # The certificate is not ours, everything else below /etc is.
    said = one.run("apt-get purge -q -y examhook 2>&1").stdout
    assert "rm -r /var/lib/examhook" in said and "/etc/nginx/sites-available/examhook.conf" in said
    assert one.run("find /etc/examhook | sort").stdout.split() == [
        "/etc/examhook", "/etc/examhook/tls", "/etc/examhook/tls/cert.pem", "/etc/examhook/tls/key.pem"]
    assert one.run("ls /var/lib/examhook").stdout.split() == ["examjoint", "proview", "ratings", "roster"]
    assert one.run("ls /var/log/nginx | grep -c examhook", check=False).stdout == "0\n"
    one.install(deb)
    assert [event["respondent_id"] for event in one.stored()] == ["r-1", "r-3"]
    assert modes(one.machine) == FOLDERS and "main-secret" not in one.machine.read(CONF)


def every_file(machine):
    """But what apt, dpkg and the machine's own services keep for themselves."""
    listed = machine.run("find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp "
                         "-o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log -o -path "
                         "/var/lib/systemd/catalog -o -path /var/tmp -o -path /root \\) -prune -o -print").stdout
    return set(listed.splitlines())


def depends(deb):
    """The names of the packages that it needs, the first one of each choice."""
    text = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return sorted({part.split()[0] for part in text.split(",")})


def test_a_purge_of_what_was_never_used_leaves_nothing(make_machine, deb):
    machine = make_machine(depends(deb))
    before = every_file(machine)
    one = Installed(machine, deb)
    assert one.state("is-active") == ["active"] * len(UNITS)
    assert every_file(machine) - before
    one.run("apt-get remove -q -y examhook 2>&1")
    assert one.run("ls /var/lib/examhook/roster").stdout == "roster.db\nroster.lock\n"
    one.run("apt-get purge -q -y examhook 2>&1")
    # The users stay, as a file somewhere may still be theirs; adding them made the backups of the user lists.
    left = every_file(machine) - before
    assert {name for name in left if not re.fullmatch(r"/etc/(passwd|group|shadow|gshadow)-", name)} == set()
    assert not os.path.exists(machine.path("/run/examhook"))


def test_a_purge_keeps_what_it_does_not_know(make_machine, deb):
    """The store is empty, but somebody keeps a copy of another one beside it; or puts one back, older than the removal,
    before the purge."""
    one = Installed(make_machine(depends(deb)), deb)
    one.run("mkdir /var/lib/examhook/last-year; echo exam data >/var/lib/examhook/last-year/events.db")
    said = one.run("apt-get purge -q -y examhook 2>&1").stdout
    assert one.machine.read("/var/lib/examhook/last-year/events.db") == "exam data\n", said
    assert "rm -r /var/lib/examhook" in said
    one.run("rm -r /var/lib/examhook")
    one.install(deb)
    one.run("apt-get remove -q -y examhook 2>&1; ls /var/lib/examhook/.nothing-stored; "
            "echo exam data >/root/events.db; touch -d '2001-01-01' /root/events.db; "
            "cp -a /root/events.db /var/lib/examhook/examjoint/events.db")
    said = one.run("apt-get purge -q -y examhook 2>&1").stdout
    assert one.machine.read("/var/lib/examhook/examjoint/events.db") == "exam data\n", said


def test_a_wrong_configuration_blocks_neither_dpkg_nor_what_runs(installed, newer):
    one = installed()
    one.serve()
    one.configure()
    before = one.pids()
    one.run(["sed", "-i", "s/^client_id = /client_idd = /", CONF])
    said = one.install(newer)
    assert "client_idd" in said and "is not in order" in said and "systemctl restart" in said
    assert one.run("dpkg-query -W -f '${db:Status-Abbrev}' examhook").stdout == "ii "
    assert one.pids() == before and one.admit("r-1") == 200
    one.run(["sed", "-i", "s/^client_idd = /client_id = /", CONF])
    one.run("examhook migrate && systemctl restart 'examhook-*.service'") # as it said
    assert one.admit("r-2") == 200 and len(one.stored()) == 2


def test_one_program_that_would_not_come_up_is_left_running(installed, newer):
    """A secret of the worker's is gone: the other two are upgraded."""
    one = installed()
    one.configure()
    before = one.pids()
    one.run(["sed", "-i", "s|^app_id = .*|app_id_file = /etc/examhook/secrets/app-id|", CONF])
    said = one.install(newer)
    assert "examhook-worker would not come up" in said and "secrets/app-id" in said
    after = one.pids()
    assert [a == b for a, b in zip(before, after)] == [False, False, True]


def test_a_store_that_cannot_be_migrated_is_remembered_by_dpkg(installed, newer):
    one = installed()
    one.serve()
    one.configure()
    assert one.admit("r-1") == 200
    before = one.pids()
    one.run("mv /var/lib/examhook/ratings/ratings.db /root; mkdir /var/lib/examhook/ratings/ratings.db")
    with pytest.raises(MachineError) as failed:
        one.install(newer)
    assert "could not be brought to this version" in str(failed.value)
    assert "dpkg --configure examhook" in str(failed.value)
    assert one.run("dpkg-query -W -f '${db:Status-Abbrev}' examhook").stdout == "iF "
    assert one.pids() == before and one.admit("r-2") == 200
    one.run("rmdir /var/lib/examhook/ratings/ratings.db; mv /root/ratings.db /var/lib/examhook/ratings")
    one.run("dpkg --configure examhook 2>&1")
    assert not set(before) & set(one.pids())
    assert one.admit("r-3") == 200 and len(one.stored()) == 3


def test_what_the_administrator_decided_stays(installed, newer):
    one = installed()
    one.run("systemctl disable --now examhook-worker.service 2>&1; rm %s; chmod 0755 /etc/examhook" % CONF)
    one.run("echo '# mine' >>/etc/nginx/snippets/examhook-locations.conf")
    said = one.install(newer)
    # Upgraded without a question: the shipped snippet did not change. Removed is removed, also what was a sample.
    assert "# mine" in one.machine.read("/etc/nginx/snippets/examhook-locations.conf"), said
    assert one.state("is-enabled", ["examhook-worker.service"]) == ["disabled"]
    assert one.state("is-active", ["examhook-worker.service"]) == ["inactive"]
    assert not os.path.exists(one.machine.path(CONF))
    assert one.run("stat -c %a /etc/examhook").stdout == "755\n"


def in_a_chroot(deb, folder, script):
    """A root where nothing runs, as in a container; it has the package as /examhook.deb."""
    reason = machines.unavailable()
    if reason:
        pytest.skip(reason)
    folder.chmod(0o755) # it becomes the root's
    shutil.copy(deb, folder / "examhook.deb")
    done = subprocess.run(["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "-u", "-i", "-C", "-f",
                           "--kill-child", BOOT, ":".join([str(folder), *machines.layer([])]), "memory",
                           machines.empty_folder(), "/bin/bash", "-euc", script], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          timeout=1800)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_in_a_chroot_where_nothing_runs(deb, tmp_path):
    said = in_a_chroot(deb, tmp_path, """
        printf '#!/bin/sh\\necho asked >>/policy\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d
        apt-get update -q; apt-get install -q -y /examhook.deb
        [ ! -d /run/systemd/system ]
        [ "$(examhook check --start | grep -vc '^ok')" = 0 ]
        [ "$(stat -c '%U %a' /etc/examhook/examhook.conf)" = 'root 600' ]
        ls -l /etc/systemd/system/sockets.target.wants/examhook-examjoint.socket
        dpkg -r examhook; [ -e /var/lib/examhook/roster/roster.db ]; [ -e /etc/examhook/examhook.conf ]
        dpkg -i /examhook.deb; dpkg -P examhook
        [ ! -e /var/lib/examhook ]; [ ! -e /etc/examhook ]; [ ! -e /run/examhook ]
        echo well done""")
    assert said.endswith("well done\n"), said[-3000:]
    assert not re.search(r"Failed|cannot|not found|No such file", said.split("Setting up examhook", 1)[1]), said[-3000:]


def test_the_page(make_machine, newer):
    """Its commands, from the clone to the purge."""
    machine = make_machine()
    machine.put(newer, "/root/examhook_0.2.0_amd64.deb")
    pages.run_page(machine, PAGE)


def test_from_make_install_to_the_package(deb):
    """What the page says of it; nothing is refused meanwhile."""
    reason = machines.unavailable()
    if reason:
        pytest.skip(reason)
    with open(PAGE, encoding="utf-8") as f:
        block = next(block for block in pages.blocks(f.read()) if "systemctl reenable" in block.text)
    with by_make.Installed() as machine:
        machine.install()
        machine.configure(ACCOUNTS)
        machine.run("examhook migrate; systemctl enable --now " + " ".join(SERVICES))
        sockets = machine.run(["systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "--value", *SOCKETS]).stdout
        machine.put(deb, "/root/build/deb/" + os.path.basename(deb))
        machine.put(b"#!/bin/sh\nsed -i /usr.local/d $1\n", "/usr/local/bin/editor", mode=0o755)
        machine.run("echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/95yes; apt-get update -q; cd /root\n" +
                    block.text, network="host")
        assert machine.run(["systemctl", "is-active", *UNITS]).stdout.split() == ["active"] * len(UNITS)
        assert machine.run(["systemctl", "is-enabled", *UNITS]).stdout.split() == ["enabled"] * len(UNITS)
        paths = machine.run(["systemctl", "show", "-p", "FragmentPath", "--value", *UNITS]).stdout.split()
        assert paths == ["/lib/systemd/system/" + unit for unit in UNITS]
        for pid in machine.run(["systemctl", "show", "-p", "MainPID", "--value", *SERVICES]).stdout.split():
            program = machine.run(["readlink", "/proc/%s/exe" % pid]).stdout
            assert re.fullmatch(r"/usr/(lib/examhook|bin)/[a-z.]+\n", program)
        assert sockets == machine.run(["systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "--value",
                                       *SOCKETS]).stdout
        assert machine.run("find /usr/local /etc/systemd -name '*examhook*' -not -path '/etc/systemd/system/*.wants/*'"
                           ).stdout == ""
