"""The archive for shared hosting, as a customer of a host uses it that has none of this machine's libraries."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import uuid

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
import fastcgi  # noqa: E402
import hardening  # noqa: E402
import host as hosting  # noqa: E402
from host import wait_for  # noqa: E402

PROGRAMS = ("examhook/bin/examhook", "webhooks/examjoint.cgi", "webhooks/proview.cgi")
ROSTER = "id,password,name\n1001,horse 1001,Ada\n1002,horse 1002,Bob\n"

pytestmark = pytest.mark.skipif(hosting.missing() is not None, reason=str(hosting.missing()))


@pytest.fixture(scope="module")
def host():
    one = hosting.Host()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def talview(host):
    one = hosting.Talview(host)
    yield one
    one.close()


@pytest.fixture
def customer(host):
    """A customer who has installed the archive and imported a roster."""
    one = host.customer()
    one.install()
    one.put("roster.csv", ROSTER)
    one.good("examhook/bin/examhook roster import roster.csv && rm roster.csv")
    return one


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(hosting.archive()) as tar:
        tar.extractall(folder)
    return folder / os.listdir(folder)[0]


def verify(respondent="1001", password="horse 1001"):
    return {"event": "verify_respondent", "exam_id": "e1", "choosenLang": "en",
            "fields": [{"position": 0, "value": respondent}, {"position": 1, "value": password}]}


def admitted(respondent):
    return {"event": "admitted_respondent", "respondent_id": respondent, "exam_id": "e1", "admittedOn": 1719221380326}


def admissions(one):
    return sorted(row["respondent_id"] for row in one.rows("events") if row["event"] == "admitted_respondent")


# --- The files -------------------------------------------------------------------------------------------------


def test_the_programs_need_no_library_and_ask_no_name_service(unpacked):
    for name in PROGRAMS:
        program = unpacked / name
        ldd = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
        assert "statically linked" in ldd or "not a dynamic executable" in ldd, ldd
        head = subprocess.run(["readelf", "-lW", "-d", program], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert "INTERP" not in head and "NEEDED" not in head, head
        with open(program, "rb") as f:
            text = f.read()
        # The patterns by which glibc makes the names of its modules, and their list.
        assert b"libnss_" not in text, name
        if name != PROGRAMS[0]: # c-ares reads that file itself, for the order of hosts and DNS
            assert b"nsswitch.conf" not in text, name


def test_the_programs_are_hardened(unpacked):
    for name in PROGRAMS:
        assert hardening.static_faults(unpacked / name) == [], name


def test_what_is_in_the_archive(unpacked):
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=unpacked, stdout=subprocess.PIPE, text=True,
                          check=True)
    listed = {line.split(":")[0][2:] for line in done.stdout.splitlines()}
    there = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    assert listed == there - {"SHA256SUMS"}
    assert set(PROGRAMS) | {"install", "STEPS.txt", "webhooks/.htaccess", "examhook/examhook.conf.sample"} <= there
    assert "languages/en.txt" in " ".join(there)
    licences = (unpacked / "licences/README.txt").read_text()
    for name in ("glibc", "libxcrypt", "libcsv", "openssl", "curl", "sqlite3"):
        assert re.search(r"^%s +\d" % name, licences, re.M), name
    # None but root's own, and nothing that a group could write.
    with tarfile.open(hosting.archive()) as tar:
        for member in tar:
            assert (member.uid, member.gid) == (0, 0) and not member.mode & 0o022, member.name


def test_nothing_of_the_machine_that_built_it_is_in_it(unpacked):
    for path in unpacked.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            for word in (hosting.BUILD, hosting.TOP + "/common", "libcurl.work"):
                assert word.encode() not in text, (path.name, word)


def test_the_steps_name_what_there_is(unpacked):
    steps = (unpacked / "STEPS.txt").read_text()
    assert "@" not in re.sub(r"\S+@\S+", "", steps).replace("@VERSION@", "!").replace("@ARCHITECTURE@", "!")
    assert "!" not in steps.replace("@VERSION@", "!").replace("@ARCHITECTURE@", "!")
    assert max(len(line) for line in steps.splitlines()) <= 118


# --- Installing ------------------------------------------------------------------------------------------------


def test_install_makes_it_private_and_works_at_once(host):
    one = host.customer()
    said = one.install()
    for name, mode in (("examhook", 0o700), ("examhook/bin/examhook", 0o700), ("examhook/examhook.conf", 0o600),
                       ("examhook/store", 0o700), ("public_html/webhooks", 0o755),
                       ("public_html/webhooks/examjoint.cgi", 0o755), ("public_html/webhooks/proview.cgi", 0o755)):
        assert one.mode(name) == mode, (name, oct(one.mode(name)))
    for folder, _, names in os.walk(one.path("examhook")):
        for name in names:
            assert not os.stat(os.path.join(folder, name)).st_mode & 0o077, (folder, name)
    assert "* * * * * %s/examhook/bin/examhook work --once --budget 50" % one.home in said
    assert len(one.option("client_secret")) == 64 and len(one.option("path_token")) == 64
    assert one.option("client_secret") != one.option("path_token")
    assert one.option("client_secret") not in said
    done = one.examhook("check --start")
    assert done.returncode == 0, done.stdout
    assert one.cgi("examjoint", {})[:2] == (401, {"error": "unauthorized"})


def test_two_customers_have_different_secrets(host):
    first, second = host.customer(), host.customer()
    first.install()
    second.install()
    assert first.option("client_secret") != second.option("client_secret")


def test_install_refuses_what_would_be_wrong(host):
    one = host.customer()
    folder = one.unpack()
    for options, said in (("--web nowhere", "no such folder"), ("--home public_html/examhook", "lies under the document root"),
                          ("--what", "usage")):
        done = one.sh("sh unpacked/%s/install %s" % (folder, options))
        assert done.returncode != 0 and said in done.stderr.decode(), done.stderr
    assert not os.path.exists(one.path("public_html/webhooks")) and not os.path.exists(one.path("public_html/examhook"))
    # An upload that was "translated" on the way.
    with open(one.path("unpacked", folder, "webhooks/proview.cgi"), "ab") as f:
        f.write(b"\r\n")
    done = one.sh("sh unpacked/%s/install" % folder)
    assert done.returncode != 0 and b"is not as it was packed" in done.stderr
    done = host.run(["/bin/sh", "%s/unpacked/%s/install" % (one.home, folder)], user=0, env={"HOME": one.home})
    assert done.returncode != 0 and b"not as root" in done.stderr
    os.rename(one.path("public_html"), one.path("site"))
    done = one.sh("sh unpacked/%s/install" % folder)
    assert done.returncode != 0 and b"--web" in done.stderr


def test_install_goes_where_the_programs_look_or_nowhere(host):
    one = host.customer()
    folder = one.unpack()
    one.good("mkdir -p private sites/main")
    before = one.mode()
    for options, said in (("--home private/hook", "called examhook"), ("--home .", "called examhook"),
                          ("--home /", "called examhook"),
                          ("--home private/examhook", "--home %s/examhook" % one.home),
                          ("--home nowhere/examhook", "no such folder"),
                          ("--web sites/main --home private/examhook", "--home %s/sites/examhook" % one.home)):
        done = one.sh("sh unpacked/%s/install %s" % (folder, options))
        assert done.returncode != 0 and said in done.stderr.decode(), (options, done.stdout, done.stderr)
    one.good("ln -s public_html/secret examhook && mkdir public_html/secret")
    done = one.sh("sh unpacked/%s/install" % folder)
    assert done.returncode != 0 and b"under the document root" in done.stderr, done.stderr
    one.good("rm examhook && rmdir public_html/secret")
    assert one.mode() == before and not os.listdir(one.path("private")) and not os.listdir(one.path("public_html"))
    # Further up is as good as beside; and what cd finds is not CDPATH's business.
    said = one.good("sh unpacked/%s/install --web sites/main" % folder, env={"CDPATH": one.home + ":/"})
    assert "ok       the program answers" in said, said
    one.web = one.home + "/sites/main"
    assert one.cgi("examjoint", {})[:2] == (401, {"error": "unauthorized"})


def test_a_home_with_a_blank_in_its_name(host):
    one = host.customer()
    folder = one.unpack()
    said = one.good("mkdir 'a b' && mv public_html 'a b/my site' && sh unpacked/%s/install --web 'a b/my site'"
                    " --home 'a b/examhook'" % folder)
    assert "ok       the program answers" in said, said
    line = said.strip().splitlines()[-1]
    assert line.startswith("* * * * * ") and line.endswith(" work --once --budget 50")
    one.good(line[len("* * * * * "):]) # as cron gives it to the shell


def test_install_shuts_off_nothing_that_is_there_already(host):
    one = host.customer()
    folder = one.unpack()
    one.good("mkdir public_html/webhooks && echo '<?php' >public_html/webhooks/shop.php")
    done = one.sh("sh unpacked/%s/install" % folder)
    assert done.returncode != 0 and b"webhooks/shop.php" in done.stderr, (done.stdout, done.stderr)
    assert os.listdir(one.path("public_html/webhooks")) == ["shop.php"] and not os.path.exists(one.path("examhook"))
    one.good("rm public_html/webhooks/shop.php && sh unpacked/%s/install" % folder)
    one.good("echo mine >public_html/webhooks/note.txt && sh unpacked/%s/install" % folder) # an update is not asked again


def dash(one, folder, path, *before):
    """Installs with dash and this machine's commands, as the customer. `path`: what comes first in PATH."""
    return subprocess.run([*before, "dash", one.path("unpacked", folder, "install")], user=one.uid, group=hosting.GROUP,
                          extra_groups=[], env={"HOME": one.path(), "PATH": path + ":/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=120)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_no_secret_is_on_a_command_line(host):
    one = host.customer()
    folder = one.unpack()
    trace = "strace -f -qq -e trace=execve -e signal=none -v -s 100000 -o".split() + [one.path("trace")]
    done = dash(one, folder, "/bin", *trace)
    assert done.returncode == 0, done.stderr
    with open(one.path("trace"), encoding="utf-8") as f:
        commands = f.read()
    assert "bin/examhook" in commands
    for name in ("client_secret", "path_token"):
        assert len(one.option(name)) == 64 and one.option(name) not in commands + done.stdout


def shim(one, name, text):
    one.good("mkdir -p shims")
    one.put("shims/" + name, "#!/bin/sh\n" + text)
    os.chmod(one.path("shims", name), 0o755)
    return one.path("shims")


def test_without_random_bytes_no_secret_is_made(host):
    one = host.customer()
    folder = one.unpack()
    done = dash(one, folder, shim(one, "od", "echo 'od: /dev/urandom: No such file' >&2; exit 1\n"))
    assert done.returncode != 0 and "random" in done.stderr, (done.stdout, done.stderr)
    assert not os.path.exists(one.path("examhook/examhook.conf"))


def tree(one):
    """What is there, told apart by inode: everything that install puts somewhere comes by rename."""
    return {os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_ino
            for top in ("examhook", "public_html") for folder, _, names in os.walk(one.path(top)) for name in names
            if "/store" not in folder}


def test_no_room_in_the_middle_of_an_update_changes_nothing(host):
    one = host.customer()
    one.install()
    folder = os.listdir(one.path("unpacked"))[0]
    # The third of the copies, the fifth and so on: half of it is written.
    full = ("n=$(cat %s 2>/dev/null || echo 0); n=$((n + 1)); echo $n >%s\n"
            "if [ $n -eq $(cat %s) ]; then head -c 1000 \"$1\" >\"$2\"; echo 'cp: No space left on device' >&2; exit 1; fi\n"
            "exec /bin/cp \"$@\"\n") % ((one.path("count"),) * 2 + (one.path("fails"),))
    path = shim(one, "cp", full)
    before = tree(one)
    fails = 0
    while True:
        fails += 2
        one.good("rm -f count && echo %d >fails" % fails)
        done = dash(one, folder, path)
        if done.returncode == 0:
            break
        assert "nothing was changed" in done.stderr, (fails, done.stderr)
        assert tree(one) == before, fails
    assert fails > 10
    assert not [name for name in tree(one) if name.endswith(".new")]
    assert one.cgi("examjoint", {})[0] == 401


def test_an_update_that_could_not_migrate_goes_on_later(host):
    one = host.customer()
    one.install()
    for name in ("examhook/shipped/htaccess", "public_html/webhooks/.htaccess"):
        one.edit(name, lambda text: "# an older file\n" + text)
    folder = os.listdir(one.path("unpacked"))[0]
    one.edit("examhook/examhook.conf", lambda text: "nonsense\n" + text)
    done = one.sh("sh unpacked/%s/install" % folder)
    assert done.returncode != 0 and b"nothing was changed in" in done.stderr, done.stderr
    assert sorted(os.listdir(one.path("public_html/webhooks"))) == [".htaccess", "examjoint.cgi", "proview.cgi"]
    one.edit("examhook/examhook.conf", lambda text: text.replace("nonsense\n", ""))
    said = one.good("sh unpacked/%s/install" % folder)
    assert ".htaccess is not as it was installed" not in said
    with open(one.path("public_html/webhooks/.htaccess"), encoding="utf-8") as f:
        assert "an older file" not in f.read()


def steps_of_ftp():
    """The permissions and the command that STEPS.txt has for whoever has no shell."""
    with open(os.path.join(hosting.TOP, "deploy/shared-hosting/STEPS.txt"), encoding="utf-8") as f:
        text = f.read().split("With FTP and a control panel only")[1].split("No certificate authorities")[0]
    modes = {}
    for line in re.findall(r"^ {8}(\S.*?) +([0-7]{3})$", text, re.M):
        modes.update({name.strip(): int(line[1], 8) for name in line[0].split(",")})
    command = " ".join(re.search(r"^ {8}(cd /home/YOU.*?2>&1)$", text, re.M | re.S).group(1).split())
    return modes, command


def test_by_ftp_and_a_panel_alone(host, talview):
    one = host.customer()
    folder = one.unpack()
    # An upload keeps no modes.
    one.good("umask 022; cp -r unpacked/%s/examhook . && cp -r unpacked/%s/webhooks public_html/ && find examhook public_html"
             " -type f -exec chmod 644 {} +" % (folder, folder))
    modes, command = steps_of_ftp()
    assert len(modes) == 7 and "migrate" in command
    for name, mode in modes.items():
        os.chmod(one.path(name if name.startswith("examhook") else "public_html/" + name), mode)
    one.good("cp examhook/examhook.conf.sample examhook/examhook.conf && chmod 600 examhook/examhook.conf")
    one.edit("examhook/examhook.conf", lambda text: re.sub(r"#(client_secret|path_token) = .*", r"\1 = " + "r4nd0m" * 8, text))
    one.configure(**talview.urls())
    one.put("examhook/candidates.csv", ROSTER)
    done = one.run("/bin/sh", "-c", command.replace("/home/YOU", one.home))
    with open(one.path("examhook/out.txt"), encoding="utf-8") as f:
        out = f.read()
    assert done.returncode == 0 and "accepted the login" in out and "failed" not in out, (done.stdout, done.stderr, out)
    assert "examjoint.fcgi 0." in out and "proview.fcgi 0." in out
    assert one.cgi("examjoint", verify(), **one.secrets())[:2] == (200, {"metadata": {"name": "Ada"}})
    session = str(uuid.uuid4())
    assert one.callback(session)[0] == 200
    assert one.examhook("work --once --budget 50").returncode == 0 and fetched(one, session)


def page_blocks():
    """(what a reader does by hand, the commands) of the page's ```sh blocks, but for those that are not run."""
    with open(os.path.join(hosting.TOP, "deploy/hosting/shared-hosting.md"), encoding="utf-8") as f:
        text = f.read()
    found = re.findall(r"^(?:<!-- (run|not run): ([^\n]*) -->\n)?```sh\n(.*?)^```$", text, re.M | re.S)
    return [(note if kind == "run" else "", commands) for kind, note, commands in found if kind != "not run"]


def test_the_page_as_a_new_customer_types_it(host, talview):
    one = host.customer()
    shutil.copy(hosting.archive(), one.path())
    os.chmod(one.path(os.path.basename(hosting.archive())), 0o644)
    host.write("tmp/edit", "sed -i 's|^environment = production$|%s|' \"$1\"\n" % "\\n".join(
        "%s = %s" % pair for pair in talview.urls().items()))
    said, blocks = [], page_blocks()
    assert len(blocks) == 4
    for by_hand, commands in blocks:
        host.write("bin/editor", "#!/bin/sh\nset -e\n%s\n" % by_hand, 0o755)
        # busybox' shell has an own idea of crontab, unless it is a function.
        done = one.sh("set -e\ncrontab() { /bin/crontab \"$@\"; }\n" + commands)
        assert done.returncode == 0, (commands, done.stdout, done.stderr)
        said.append(done.stdout.decode())
    assert "roster: is empty" in said[0] # that comes next
    assert "accepted the login of [proview main]" in said[1]
    assert not re.search("^failed", said[1] + said[2] + said[3], re.M), said
    with open(host.path("tmp/crontab." + one.name), encoding="ascii") as f:
        assert f.read() == "* * * * * ~/examhook/bin/examhook work --once --budget 50\n"
    assert os.listdir(one.path("before-the-update"))
    assert "kept:      %s/examhook/examhook.conf" % one.home in said[3]


def test_a_newer_version_over_an_older_one_keeps_what_is_the_customers(customer):
    one = customer
    one.cgi("examjoint", admitted("r1"), **one.secrets())
    conf = one.option("client_secret")
    before = {name: os.stat(one.path(name)).st_ino for name in ("examhook/bin/examhook", "public_html/webhooks/examjoint.cgi",
                                                                  "public_html/webhooks/proview.cgi")}
    one.edit("examhook/languages/de.txt", lambda text: text + "# mine\n")
    one.edit("public_html/webhooks/.htaccess", lambda text: text + "# mine\n")
    os.remove(one.path("examhook/languages/fr.txt"))
    # As an older archive would have left it: another content than the new one's, but not the customer's doing.
    for name in ("examhook/languages/en.txt", "examhook/shipped/en.txt"):
        one.edit(name, lambda text: "# an older file\n" + text)
    # The old program is open while it is replaced.
    with open(one.path("public_html/webhooks/examjoint.cgi"), "rb") as old:
        said = one.install()
        assert os.fstat(old.fileno()).st_nlink == 0
    for name, inode in before.items():
        assert os.stat(one.path(name)).st_ino != inode, name
    assert one.option("client_secret") == conf and "kept:      %s/examhook/examhook.conf" % one.home in said
    assert "languages/de.txt is not as it was installed" in said and ".htaccess is not as it was installed" in said
    for name in ("examhook/languages/de.txt", "public_html/webhooks/.htaccess"):
        with open(one.path(name), encoding="utf-8") as f:
            assert f.read().endswith("# mine\n"), name
    assert os.path.exists(one.path("examhook/languages/fr.txt"))
    with open(one.path("examhook/languages/en.txt"), encoding="utf-8") as f:
        assert "an older file" not in f.read()
    assert admissions(one) == ["r1"]
    assert not [n for _, _, names in os.walk(one.path("examhook")) for n in names if n.endswith(".new")]
    assert one.cgi("examjoint", verify(), **one.secrets())[1].get("errorMessage") is None


# --- The programs ----------------------------------------------------------------------------------------------


def test_plain_cgi_from_verification_to_stored_event(customer):
    one = customer
    assert "roster" not in os.listdir(one.path())
    known = one.secrets()
    status, answer, _ = one.cgi("examjoint", verify(), **known)
    assert status == 200 and "errorMessage" not in answer, answer
    status, answer, log = one.cgi("examjoint", verify(password="wrong-CANARY"), **known)
    assert status == 200 and answer["errorMessage"], answer
    assert "CANARY" not in log
    assert one.cgi("examjoint", verify("4711", "horse 1001"), **known)[1] == answer # unknown reads as wrong
    assert one.cgi("examjoint", admitted("r1"), **known)[:2] == (200, {})
    assert one.cgi("examjoint", admitted("r1"), **known)[:2] == (200, {})
    assert admissions(one) == ["r1"]
    for refused, expected in ((dict(x_client_id="examjoint", x_client_secret="nearly"), 401), ({}, 401)):
        assert one.cgi("examjoint", admitted("r2"), **refused)[0] == expected
    assert one.cgi("examjoint", b"{", **known)[:2] == (400, {"error": "invalid_json"})
    assert one.cgi("examjoint", b"", method="GET", **known)[0] == 405
    assert one.cgi("examjoint", b"x" * 70000, **known)[0] == 413
    session = str(uuid.uuid4())
    assert one.callback(session)[0] == 200
    assert one.cgi("proview", {"session_uuid": session}, path="/main/" + "x" * 64)[0] in (401, 404)
    for folder, _, names in os.walk(one.path("examhook/store")):
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                text = f.read()
            assert b"horse 1001" not in text and b"CANARY" not in text, name


def test_fastcgi_on_a_socket_that_is_its_standard_input(host):
    one = host.customer()
    one.install("--fcgid")
    assert sorted(n for n in os.listdir(one.path("public_html/webhooks"))) == [".htaccess", "examjoint.fcgi", "proview.fcgi"]
    one.put("roster.csv", ROSTER)
    one.good("examhook/bin/examhook roster import roster.csv")
    process, path = one.fastcgi("examjoint")
    try:
        def ask(body):
            peer = fastcgi.Peer(path, timeout=60)
            body = json.dumps(body).encode()
            values = fastcgi.post(body, **one.secrets())
            values["DOCUMENT_ROOT"] = one.web
            peer.send(fastcgi.request(values, body))
            status, _, text = peer.answer()
            peer.close()
            return status, json.loads(text)
        status, answer = ask(verify())
        assert status == 200 and "errorMessage" not in answer, answer
        for n in range(20):
            assert ask(admitted("r%d" % n)) == (200, {})
        # A secret is changed, as the page has it.
        one.edit("examhook/examhook.conf", lambda text: re.sub(r"client_secret = .*", "client_secret = " + "n3w" * 12, text))
        process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: ask(admitted("r0")) == (200, {}))
        process.send_signal(signal.SIGTERM)
        with open(one.path("examjoint.log"), encoding="utf-8") as log:
            assert process.wait(20) == 0, log.read()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    assert len(admissions(one)) == 20


def test_a_store_under_the_document_root_is_not_served(customer):
    one = customer
    os.rename(one.path("examhook/store"), one.path("public_html/data"))
    one.edit("examhook/examhook.conf", lambda text: text.replace("sqlite:store", "sqlite:../public_html/data"))
    status, answer, log = one.cgi("examjoint", verify(), **one.secrets())
    assert (status, answer) == (503, {"error": "not_configured"})
    assert "document root" in log, log


def test_what_others_could_read_is_refused(customer):
    one = customer
    os.chmod(one.path("examhook/examhook.conf"), 0o640) # the group is every other customer
    status, answer, log = one.cgi("examjoint", verify(), **one.secrets())
    assert (status, answer) == (503, {"error": "not_configured"}), answer
    assert "examhook.conf" in log and "chmod" in log, log
    assert one.examhook("check").returncode != 0
    os.chmod(one.path("examhook/examhook.conf"), 0o600)
    os.chmod(one.path("examhook/store/examjoint"), 0o755)
    status, answer, log = one.cgi("examjoint", verify(), **one.secrets())
    assert status == 503, answer
    assert "examjoint" in log and "chmod" in log, log
    done = one.examhook("check --start")
    assert done.returncode != 0 and b"examhook/store/examjoint" in done.stdout, done.stdout
    os.chmod(one.path("examhook/store/examjoint"), 0o700)
    assert one.cgi("examjoint", verify(), **one.secrets())[0] == 200


# --- The worker ------------------------------------------------------------------------------------------------


def fetched(one, session):
    return [row for row in one.rows("sessions") if row["session_uuid"] == session and row["state"] == "rated"]


def test_a_rating_is_fetched_by_a_name_of_the_hosts_own_file(customer, talview):
    one = customer
    one.configure(**talview.urls())
    done = one.examhook("check --online")
    assert done.returncode == 0 and b"accepted the login" in done.stdout, done.stdout
    assert ("/" + hosting.CA_PLACE).encode() in done.stdout
    session = str(uuid.uuid4())
    assert one.callback(session)[0] == 200
    done = one.examhook("work --once --budget 50")
    assert done.returncode == 0, done.stderr
    assert fetched(one, session), (one.rows("sessions"), done.stderr)
    assert done.stdout + done.stderr == b"" # cron mails whatever it says
    one.edit("examhook/examhook.conf", lambda text: text.replace("#level = info", "level = debug"))
    session = str(uuid.uuid4())
    assert one.callback(session)[0] == 200
    done = one.examhook("work --once --budget 50")
    assert b"session fetched" in done.stderr and hosting.PASSWORD.encode() not in done.stderr + done.stdout


def test_a_name_is_looked_up_at_the_name_server_of_resolv_conf(customer, talview):
    try:
        server = hosting.NameServer()
    except OSError as error:
        pytest.skip("no name server can be played here: %s" % error)
    try:
        customer.configure(**talview.urls("talview.example.org"))
        session = str(uuid.uuid4())
        customer.callback(session)
        done = customer.examhook("work --once --budget 50")
        assert fetched(customer, session), done.stderr
        assert "talview.example.org" in server.names
    finally:
        server.close()


def test_a_server_that_no_authority_vouches_for_gets_no_password(customer, host, talview):
    one = customer
    one.configure(**talview.urls())
    os.rename(host.path(hosting.CA_PLACE), host.path("ca-away"))
    before = len(talview.calls())
    try:
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", host.path(hosting.CA_PLACE)) # authorities, but not that one
        os.chmod(host.path(hosting.CA_PLACE), 0o644)
        done = one.examhook("check --online")
        assert done.returncode != 0 and b"tls" in done.stdout, done.stdout
        assert len(talview.calls()) == before
    finally:
        os.rename(host.path("ca-away"), host.path(hosting.CA_PLACE))


def test_without_authorities_nothing_is_called_and_it_is_said(customer, host, talview):
    one = customer
    one.configure(**talview.urls())
    session = str(uuid.uuid4())
    one.callback(session)
    os.rename(host.path(hosting.CA_PLACE), host.path("ca-away"))
    before = len(talview.calls())
    try:
        done = one.examhook("check")
        assert done.returncode != 0 and b"certificate authorities" in done.stdout and b"ca_file" in done.stdout, done.stdout
        assert b"certificate authorities" in one.examhook("check --start").stdout
        done = one.examhook("work --once --budget 5")
        assert b"certificate authorities" in done.stderr and b"cannot be served" in done.stderr, done.stderr
        assert len(talview.calls()) == before
        # One's own file, beside the configuration, will do.
        shutil.copy(host.path("ca-away"), one.path("examhook/cacert.pem"))
        os.chmod(one.path("examhook/cacert.pem"), 0o644)
        one.edit("examhook/examhook.conf", lambda text: text.replace("#ca_file = ca.pem", "ca_file = cacert.pem"))
        done = one.examhook("work --once --budget 50")
        assert fetched(one, session), done.stderr
    finally:
        os.rename(host.path("ca-away"), host.path(hosting.CA_PLACE))


def test_without_a_name_server_check_says_so(customer, host, talview):
    one = customer
    one.configure(**talview.urls("talview.example.org"))
    os.rename(host.path("etc/resolv.conf"), host.path("resolv-away"))
    try:
        done = one.examhook("check")
        assert b"/etc/resolv.conf cannot be read" in done.stdout, done.stdout
        done = one.examhook("check --online")
        assert done.returncode != 0 and b"dns" in done.stdout, done.stdout
    finally:
        os.rename(host.path("resolv-away"), host.path("etc/resolv.conf"))


def test_two_runs_do_not_overlap(customer, talview):
    one = customer
    one.configure(**talview.urls())
    sessions = [str(uuid.uuid4()) for _ in range(3)]
    for session in sessions:
        one.callback(session)
    talview.ask("/control", {"reset": True, "default": {"delay": 6}})
    try:
        command = one.host.command([one.home + "/examhook/bin/examhook", "work", "--once", "--budget", "50"], one.uid)
        first = subprocess.Popen(command, env={"HOME": one.home, "PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        assert wait_for(lambda: talview.ask("/control/counts")["logins"])
        done = one.examhook("work --once --budget 50")
        assert done.returncode == 0 and b"another is running" in done.stdout + done.stderr, (done.stdout, done.stderr)
        assert first.poll() is None, "the first one ended too early to show anything"
        assert first.wait(60) == 0
    finally:
        talview.ask("/control", {"reset": True})
    assert all(fetched(one, session) for session in sessions)


def test_times_without_a_zone_are_utc_and_other_zones_need_the_hosts_files(customer, host):
    one = customer
    assert not os.path.exists(host.path("usr/share/zoneinfo"))
    one.put("roster.csv", "id,password,exam,opens,closes\n1001,horse 1001,e1,2020-01-01 09:00,2099-01-01 09:00\n")
    one.good("examhook/bin/examhook roster import roster.csv --replace")
    assert "2020-01-01T09:00:00Z" in one.good("examhook/bin/examhook roster list --json").replace(".000Z", "Z")
    one.edit("examhook/examhook.conf", lambda text: text.replace("#timezone = UTC", "timezone = Europe/Berlin"))
    done = one.examhook("check")
    assert done.returncode != 0 and b"Europe/Berlin" in done.stdout and b"tzdata" in done.stdout, done.stdout


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_nothing_newer_than_linux_3_10_is_needed(customer, talview):
    """A kernel says ENOSYS to what it does not know, and gives its release: OpenSSL goes by that."""
    newer = ("renameat2,getrandom,memfd_create,execveat,membarrier,mlock2,copy_file_range,preadv2,pwritev2,statx,rseq,"
             "io_uring_setup,pidfd_open,clone3,close_range,openat2,faccessat2,epoll_pwait2,futex_waitv,seccomp,"
             "sched_setattr,sched_getattr")
    release = b"".join(text.ljust(65, b"\0") for text in (b"Linux", b"host", b"3.10.0-1160.el7")).hex()
    one = customer
    one.configure(**talview.urls())
    session = str(uuid.uuid4())
    one.callback(session)

    def old(arguments, **how):
        enter = one.host.command(arguments, one.uid)
        at = enter.index("/bin/sh")
        return subprocess.run(enter[:at] + [shutil.which("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=uname," + newer,
                                            "-e", "inject=%s:error=ENOSYS" % newer, "-e",
                                            "inject=uname:poke_exit=@arg1=" + release] + enter[at:],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=120, **how)
    environment = {"HOME": one.home, "PATH": "/bin"}
    done = old(["/bin/uname", "-r"], env=environment)
    if done.returncode != 0:
        pytest.skip("strace cannot do it here: %r" % done.stderr[-200:])
    assert done.stdout == b"3.10.0-1160.el7\n"
    done = old([one.home + "/examhook/bin/examhook", "work", "--once", "--budget", "50"], env=environment)
    assert done.returncode == 0 and fetched(one, session), done.stderr
    body = json.dumps(verify()).encode()
    env = one.cgi_env("examjoint", body, **one.secrets())
    done = old([env["SCRIPT_FILENAME"]], env=env, input=body)
    assert done.stdout.startswith(b"Status: 200") and b"errorMessage" not in done.stdout, (done.stdout, done.stderr)


def test_crons_line_as_it_stands(customer, host, talview):
    """busybox' crond reads the line from the customer's crontab, as install has said it; takes up to a minute."""
    one = customer
    one.configure(**talview.urls())
    session = str(uuid.uuid4())
    one.callback(session)
    with open(os.path.join(hosting.TOP, "deploy/shared-hosting/STEPS.txt"), encoding="utf-8") as f:
        line = re.search(r"^ +(\* \* \* \* \* ~/\S+ work --once --budget 50)$", f.read(), re.M).group(1)
    table = host.path("var/spool/cron/crontabs", one.name)
    with open(table, "w", encoding="ascii") as f:
        f.write(line + "\n")
    with open(host.path("tmp/cron.log"), "wb") as log:
        crond = subprocess.Popen(host.command(["/bin/busybox", "crond", "-f", "-c", "/var/spool/cron/crontabs", "-l", "0"], 0),
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        assert wait_for(lambda: fetched(one, session), 240, 1), open(host.path("tmp/cron.log"), encoding="utf-8").read()
    finally:
        crond.terminate()
        crond.wait()
        os.remove(table)
