"""An exam day that is played: `examhook rehearse` against nginx, both programs and the worker. What it did is in no
listing while it runs, and in no byte of the store afterwards."""
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

import calls
from support import BUILD, PATIENCE, Site, TOP, environment, unique, wait_for, written_files

STANDIN = os.path.join(TOP, "tests/standin/talview.py")
# Cheap, since what is looked at is mostly not how long a check takes.
CONF = """
[roster]
hash = sha512crypt

[worker]
poll = 1s

[examjoint acme]
client_id = acme-id
client_secret = acme-secret-new

[proview token]
path_token = token-0123456789abcdef

[fields]
0 = id
1 = password
"""
# About a quarter of a second each.
BCRYPT_12 = "$2b$12$NHjwZ3zrl5rPEdb4bTe00eK3dAn1Ae8sPUdrecBDfLSZsJ/ysTMLi"
ROSTER = "id,password,exam\n1001,horse,exam-1\n1002,horse,exam-1\n"


class Stage(Site):
    """A site whose configuration has the account, as `--setup` printed it."""

    def __init__(self, conf=CONF, roster=ROSTER, setup=True, **how):
        self.begun = []
        super().__init__(conf, [("acme", roster)] if roster else [], **how)
        if setup:
            self.set_up()

    def set_up(self):
        lines = self.ok("rehearse", "--setup", "--standin", STANDIN)
        with open(self.conf_path, "a", encoding="utf-8") as f:
            f.write("\n" + lines)
        return lines

    def start(self, worker=True):
        super().start()
        if worker:
            self.start_worker()
        return self

    def arguments(self, candidates, within, *more):
        return ["rehearse", "--candidates", str(candidates), "--within", str(within), "--url", self.base, "--ca",
                self.path("tls/cert.pem"), "--standin", STANDIN, "--report", self.path(unique() + ".html"), *more]

    def rehearse(self, candidates, within, *more):
        return self.examhook(*self.arguments(candidates, within, *more))

    def begin(self, candidates, within, *more):
        """One that goes on while others look."""
        self.begun.append(subprocess.Popen([os.path.join(BUILD, "examhook"), "--config", self.conf_path,
                                            *self.arguments(candidates, within, *more)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                           env=environment()))
        return self.begun[-1]

    def close(self):
        for process in self.begun:
            process.kill()
            process.communicate()
        super().close()

    def traces(self):
        """Where in the store a rehearsal's mark stands: in files whole, and in the remains of what was deleted."""
        return sorted({os.path.relpath(path, self.folder) for path, data in written_files(self.path("store"))
                       if re.search(rb"rehearsal-[0-9a-f]{10}", data) and not path.endswith(".lock")})

    def listings(self):
        """All that lists without naming an account."""
        return "".join(self.ok(*arguments) for arguments in (
            ("events",), ("events", "--json"), ("events", "--quarantined"), ("sessions",), ("sessions", "--json"),
            ("export",), ("export", "--format", "csv"), ("export", "--format", "csv", "--what", "sessions"),
            ("roster", "list"), ("roster", "list", "--json")))


@pytest.fixture
def stage():
    made = []

    def make(*arguments, **how):
        made.append(Stage(*arguments, **how))
        return made[-1]
    yield make
    for one in made:
        one.close()


def test_a_small_day_is_played_whole_and_leaves_nothing(stage):
    site = stage().start()
    calls.examjoint(site, calls.admitted("real-respondent"))
    done = site.rehearse(10, 3, "--json", "--even-now")
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert (result["candidates"], result["let_in"], result["gave_up"]) == (10, 10, 0)
    for name in ("verifications", "admissions", "terminations", "results", "investigations"):
        assert (result[name]["sent"], result[name]["answered"], result[name]["failed"]) == (10, 10, 0), name
    assert result["ratings"] == dict(result["ratings"], rehearsed=True, fetched=10, missing=0)
    assert result["bottleneck"] == "none" and result["check_ms"] > 0
    assert "removed: 41 events, 10 callbacks, 10 sessions" in done.stderr
    assert site.traces() == []
    assert [row["respondent_id"] for row in site.events()] == ["real-respondent"]
    assert [row["id"] for row in site.rows("roster", "list", "--json")] == ["1001", "1002"]
    assert site.ok("roster", "list", "--json", "--account", "rehearsal") == ""


def test_listings_know_nothing_of_it_while_it_runs(stage):
    site = stage().start()
    follower = subprocess.Popen([os.path.join(BUILD, "examhook"), "--config", site.conf_path, "events", "--json",
                                 "--follow"], stdout=subprocess.PIPE, text=True, env=environment())
    process = site.begin(8, 6)
    seen = wait_for(lambda: [row for row in site.rows("events", "--json", "--account", "rehearsal")
                             if row["outcome"] == "valid"], 30)
    assert seen and seen[0]["exam_id"].startswith("rehearsal-")
    mark, candidate = seen[0]["exam_id"], seen[0]["identity"]
    assert candidate.startswith(mark)
    assert mark not in site.listings()
    assert site.examhook("respondent", candidate).returncode == 1
    assert site.examhook("export", "--respondent", candidate).returncode == 1
    assert len(site.rows("roster", "list", "--json", "--account", "rehearsal")) == 8
    assert wait_for(lambda: site.rows("sessions", "--json", "--account", "rehearsal"), 30)
    assert mark not in site.listings()
    check = site.examhook("check").stdout
    assert "for rehearsal" not in check and "of rehearsal" not in check and "2 lines for acme" in check
    calls.examjoint(site, calls.admitted("real-respondent"))
    out, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == 0, (out, err)
    assert re.search(r"^verify_respondent +8 +8 +0 +0 +0 +0 ", out, re.M), out
    assert "8 let in, 0 gave up" in out and "ratings: 8 fetched, 0 missing" in out and "bottleneck: " in out
    follower.terminate()
    assert [json.loads(line)["respondent_id"] for line in follower.communicate(timeout=20)[0].splitlines()] == \
        ["real-respondent"]
    assert site.traces() == []


# --- When it is not played --------------------------------------------------------------------------------------


def test_not_in_an_open_window(stage):
    now = time.time()

    def iso(seconds):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + seconds))
    roster = "id,password,exam,opens,closes\n1,horse,past,%s,%s\n2,horse,open-ended,%s,\n" % (iso(-7200), iso(-3600),
                                                                                             iso(-3700))
    site = stage(roster=roster + "3,horse,now,%s,%s\n" % (iso(-60), iso(3600))).start(worker=False)
    done = site.rehearse(3, 1, "--without-ratings")
    assert done.returncode == 1 and "an exam is on" in done.stderr and iso(3600)[:16] in done.stderr
    assert site.rows("roster", "list", "--json", "--account", "rehearsal") == []
    # One that begins in a moment counts too, whether it says when it ends or not; what is over, or open since
    # long and without an end, does not.
    site.roster("acme", roster + "3,horse,soon,%s,%s\n" % (iso(300), iso(3600)), "--replace")
    assert "an exam is on" in site.rehearse(3, 1, "--without-ratings").stderr
    site.roster("acme", roster + "3,horse,soon,%s,\n" % iso(300), "--replace")
    assert "an exam is on" in site.rehearse(3, 1, "--without-ratings").stderr
    site.roster("acme", roster, "--replace")
    done = site.rehearse(3, 1, "--without-ratings")
    assert done.returncode == 0 and "ratings: not rehearsed" in done.stdout, done.stderr


def test_not_while_real_candidates_come(stage):
    site = stage().start(worker=False)
    assert calls.verify(site, "1001", "horse").json == {}
    done = site.rehearse(3, 1, "--without-ratings")
    assert done.returncode == 1 and "within the last hour" in done.stderr and "--even-now" in done.stderr
    assert site.rehearse(3, 1, "--without-ratings", "--even-now").returncode == 0


def test_one_at_a_time(stage):
    site = stage().start(worker=False)
    process = site.begin(5, 5, "--without-ratings")
    assert wait_for(lambda: site.rows("roster", "list", "--json", "--account", "rehearsal"), 30)
    for arguments in (site.arguments(3, 1, "--without-ratings"), ["rehearse", "--clean"]):
        done = site.examhook(*arguments)
        assert done.returncode == 1 and "another rehearsal" in done.stderr
    assert process.communicate(timeout=120 * PATIENCE) and process.returncode == 0


# --- Cut short --------------------------------------------------------------------------------------------------


def standin_port(site):
    with open(site.conf_path, encoding="utf-8") as f:
        return int(re.search(r"login_url = https://127\.0\.0\.1:(\d+)/", f.read()).group(1))


def answers(port):
    return subprocess.run(["curl", "-sk", "--noproxy", "*", "-o", os.devnull, "https://127.0.0.1:%d/" % port],
                          check=False).returncode == 0


def some_let_in(site):
    return [row for row in site.rows("events", "--json", "--account", "rehearsal") if row["outcome"] == "valid"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_early_it_removes_everything(stage, number):
    site = stage().start()
    process = site.begin(40, 20)
    assert wait_for(lambda: some_let_in(site), 30)
    assert answers(standin_port(site))
    process.send_signal(number)
    out, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == 1 and "ended early" in err, (out, err)
    assert "and was ended early" in out and "removed: " in out
    assert site.traces() == []
    assert not answers(standin_port(site))


def test_nohup_keeps_it_going(stage):
    site = stage().start(worker=False)
    with open(os.devnull, "w", encoding="ascii") as nothing:
        process = subprocess.Popen(["nohup", os.path.join(BUILD, "examhook"), "--config", site.conf_path,
                                    *site.arguments(5, 4, "--without-ratings")], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=nothing, text=True, env=environment())
    assert wait_for(lambda: some_let_in(site), 30)
    process.send_signal(signal.SIGHUP)
    out = process.communicate(timeout=120 * PATIENCE)[0]
    assert process.returncode == 0 and "5 let in, 0 gave up" in out


def test_ended_while_its_first_question_is_under_way_it_leaves_nothing(stage):
    site = stage().start(worker=False)
    program = site.parts["examjoint"].process
    program.send_signal(signal.SIGSTOP)
    try:
        process = site.begin(5, 1, "--without-ratings")
        assert wait_for(lambda: site.rows("roster", "list", "--json", "--account", "rehearsal"), 30)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
    finally:
        program.send_signal(signal.SIGCONT)
    assert "ended early" in process.communicate(timeout=120 * PATIENCE)[1]
    time.sleep(1)
    assert site.traces() == []


def killed(site):
    """One that gets SIGKILL while candidates come."""
    process = site.begin(40, 20)
    assert wait_for(lambda: len(some_let_in(site)) > 3, 30)
    process.kill()
    process.communicate(timeout=20)
    assert wait_for(lambda: not answers(standin_port(site))), "the stand-in must not outlive it"


def test_what_a_killed_one_left_is_cleaned(stage):
    site = stage(verify="budget = 2s").start()
    calls.examjoint(site, calls.admitted("real-respondent"))
    process = site.begin(40, 20, "--even-now")
    assert wait_for(lambda: len(some_let_in(site)) > 3, 30)
    process.kill()
    process.communicate(timeout=20)
    assert wait_for(lambda: not answers(standin_port(site))), "the stand-in must not outlive it"
    assert site.traces() and "rehearsal" not in site.listings()
    done = site.ok("rehearse", "--clean")
    assert re.match(r"removed: [1-9]\d* events, ", done)
    assert site.traces() == []
    assert site.ok("rehearse", "--clean").startswith("removed: 0 events, 0 callbacks, 0 sessions")
    assert [row["respondent_id"] for row in site.events()] == ["real-respondent"]
    assert site.ok("check", "--full").count("integrity_check: ok") == 4


def test_the_next_one_removes_what_a_killed_one_left(stage):
    site = stage(verify="budget = 2s").start()
    killed(site)
    done = site.rehearse(3, 1, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("removed: ") == 2
    assert json.loads(done.stdout)["ratings"]["fetched"] == 3
    assert site.traces() == []


def test_what_waits_for_its_check_when_it_is_killed_is_cleaned_too(stage):
    """A quarter of a second for each, one at a time: their rows come after the kill."""
    site = stage(roster="id,password_hash\n1,%s\n" % BCRYPT_12, verify="budget = 5s\nhash_threads = 1")
    site.start(worker=False)
    process = site.begin(15, 1, "--without-ratings")
    assert wait_for(lambda: some_let_in(site), 30)
    process.kill()
    process.communicate(timeout=20)
    done = site.examhook("rehearse", "--clean")
    assert done.returncode == 0 and "waiting up to" in done.stderr, done.stderr
    time.sleep(2)
    assert site.traces() == [] and site.rows("events", "--json", "--account", "rehearsal") == []


# --- Somebody's account of that name ------------------------------------------------------------------------------


def test_what_no_rehearsal_made_is_not_deleted(stage):
    """An account had that name before it was kept for rehearsals: its people stay, whoever cleans or rehearses."""
    site = stage(roster=ROSTER + "2001,horse,rehearsal-2026\n").start()
    with open(site.conf_path, encoding="utf-8") as f:
        found = dict(re.findall(r"^(client_id|client_secret|header_secret) = (\S*\w{32})$", f.read(), re.M))
    database = sqlite3.connect(site.path("store/roster/roster.db"))
    database.execute("UPDATE lines SET account = 'rehearsal' WHERE id IN ('1002', '2001')")
    database.commit()
    database.close()
    theirs = [("x-client-id", found["client_id"]), ("x-client-secret", found["client_secret"])]
    for exam in ("exam-1", "rehearsal-2026"):
        body = calls.event("result_ready", "real-respondent", exam_id=exam)
        assert site.ask("POST", calls.EXAMJOINT, calls.pack(body), theirs).status == 200
    assert calls.proview(site, "rehearsal", calls.callback("019a1b2c-0000-7000-8000-0123456789ab"),
                         [("X-Rehearsal-Secret", found["header_secret"])]).status == 200

    def kept():
        return ([row["id"] for row in site.rows("roster", "list", "--json", "--account", "rehearsal")],
                [row.get("respondent_id") for row in site.rows("events", "--json", "--account", "rehearsal")],
                [row["session_uuid"][:8] for row in site.rows("sessions", "--json", "--account", "rehearsal")])
    assert wait_for(lambda: kept()[2])
    before = kept()
    assert before[0] == ["1002", "2001"] and before[1].count("real-respondent") == 2
    assert site.ok("rehearse", "--clean").startswith("removed: 0 events, 0 callbacks, 0 sessions")
    assert kept() == before
    done = site.rehearse(3, 1, "--without-ratings")
    assert done.returncode == 0, done.stderr
    assert kept() == before and site.traces() == []


def test_an_account_that_setup_did_not_make_is_left_alone(stage):
    site = stage()
    for program in ("examjoint", "proview", "worker"):
        site.ok("config", "--for", program, "--output", site.path(program + ".conf"))
        command = [os.path.join(BUILD, "examhook"), "--config", site.path(program + ".conf"), "check", "--for", program]
        part = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment()).stdout
        assert "can be read" in part and "kept for" not in part
    assert "kept for" not in site.examhook("check").stdout
    with open(site.conf_path, encoding="utf-8") as f:
        text = f.read()
    with open(site.conf_path, "w", encoding="utf-8") as f:
        f.write(re.sub("client_id = rehearsal-", "client_id = customer-", text))
    site.start(worker=False)
    assert "another name" in fails(site, "--without-ratings")
    assert "the name of [examjoint rehearsal] is kept for" in site.examhook("check").stdout
    # Nor may the worker ask the real Talview for sessions that are made up.
    with open(site.conf_path, "w", encoding="utf-8") as f:
        f.write(re.sub(r"(login|session)_url = https://127\.0\.0\.1:", r"\1_url = https://talview.invalid:", text))
    assert "another name" in fails(site, "--without-ratings")


def test_more_at_once_than_files_may_be_open(stage):
    """The shell's limit is often lower than the number of requests under way."""
    site = stage(roster="id,password_hash\n1,%s\n" % BCRYPT_12, verify="budget = 20s\nhash_threads = 1")
    site.start(worker=False)
    command = ["prlimit", "--nofile=40:4096", os.path.join(BUILD, "examhook"), "--config", site.conf_path,
               *site.arguments(60, 1, "--without-ratings", "--json")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    result = json.loads(done.stdout)
    assert (done.returncode, result["let_in"], result["verifications"]["failed"]) == (0, 60, 0), done.stdout


# --- Too much ---------------------------------------------------------------------------------------------------


def test_refused_for_load_is_no_failure(stage):
    """One check at a time, a quarter of a second each: who cannot be checked within the second is told so, comes again,
    and is let in."""
    site = stage(roster="id,password_hash\n1,%s\n" % BCRYPT_12, verify="budget = 1s\nhash_threads = 1")
    site.start(worker=False)
    done = site.rehearse(20, 1, "--without-ratings", "--json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    verifications = result["verifications"]
    assert (result["let_in"], verifications["answered"], verifications["failed"]) == (20, 20, 0)
    assert verifications["refused_busy"] > 0
    assert verifications["sent"] == 20 + verifications["refused_busy"]
    assert result["bottleneck"] == "passwords" and "try again later" in result["reason"]
    assert result["check_ms"] > 20 and result["cores"] == 1
    assert site.traces() == []


def test_the_web_servers_limit_is_named(stage):
    def strict(name, text):
        return re.sub(r"burst=\d+", "burst=3", re.sub(r"rate=\d+r/s", "rate=5r/s", text))
    site = stage(nginx=strict).start(worker=False)
    done = site.rehearse(10, 1, "--without-ratings", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["let_in"] == 10, done.stderr
    assert result["verifications"]["refused_429"] > 0 and result["verifications"]["failed"] == 0
    assert result["bottleneck"] == "address_limit" and "429" in result["reason"]


def test_ratings_that_do_not_come_are_said(stage):
    """A worker that does not run. It is waited for as long as it takes to be sure."""
    site = stage().start(worker=False)
    done = site.rehearse(2, 1, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert (result["ratings"]["fetched"], result["ratings"]["missing"]) == (0, 2)
    assert result["bottleneck"] == "talview" and "examhook work" in result["reason"]
    assert site.traces() == []


def test_a_worker_that_cron_starts_is_waited_for(stage):
    """Once a minute, where none lives on."""
    site = stage().start(worker=False)
    process = site.begin(2, 1, "--json")
    assert wait_for(lambda: len([row for row in site.rows("events", "--json", "--account", "rehearsal")
                                 if row["source"] == "proview"]) == 2, 30)
    time.sleep(40)
    assert process.poll() is None
    site.ok("work", "--once")
    result = json.loads(process.communicate(timeout=120 * PATIENCE)[0])
    assert (process.returncode, result["ratings"]["fetched"], result["bottleneck"]) == (0, 2, "none")


# --- Said clearly -----------------------------------------------------------------------------------------------


def fails(site, *more, url=None, ca="tls/cert.pem"):
    arguments = ["rehearse", "--candidates", "2", "--within", "1", "--url", url or site.base, "--standin", STANDIN,
                 "--report", site.path(unique() + ".html"), *(["--ca", site.path(ca)] if ca else []), *more]
    done = site.examhook(*arguments)
    assert done.returncode == 1 and done.stderr.startswith("examhook rehearse: "), (done.stdout, done.stderr)
    assert site.traces() == []
    return done.stderr


def test_a_wrong_address_or_certificate(stage):
    site = stage().start(worker=False)
    assert "gave no answer" in fails(site, "--without-ratings", url="https://127.0.0.1:1")
    said = fails(site, "--without-ratings", ca=None)
    assert "certificate" in said and "--ca FILE" in said
    assert "gave no answer" in fails(site, "--without-ratings", ca="nowhere.pem")


def test_another_installation_is_told(stage):
    """Same account, another store: nothing but the question whether it is ours goes there."""
    site, other = stage(), stage(setup=False)
    with open(site.conf_path, encoding="utf-8") as f:
        lines = f.read().split("# For `examhook rehearse`", 1)[1]
    with open(other.conf_path, "a", encoding="utf-8") as f:
        f.write("#" + lines)
    site.start(worker=False)
    other.start(worker=False)
    assert "another installation" in fails(site, "--without-ratings", url=other.base, ca=other.path("tls/cert.pem"))


def test_what_a_strange_server_says_does_not_act_on_the_terminal(stage):
    def broken(name, text):
        return text.replace("\nserver {", "\nserver {\n    return 500 \"\x1b]0;title\x07\";\n", 1)
    said = fails(stage(nginx=broken).start(worker=False), "--without-ratings")
    assert "status 500" in said and "title" in said and "\x1b" not in said


def test_programs_that_did_not_read_it_yet(stage):
    site = stage(setup=False)
    assert "rehearse --setup" in fails(site)
    site.start(worker=False)
    site.set_up()
    assert "reload" in fails(site, "--without-ratings")
    for name in ("examjoint", "proview"):
        site.parts[name].process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: all("was read again" in site.parts[n].log() for n in ("examjoint", "proview")))
    assert site.rehearse(2, 1, "--without-ratings").returncode == 0


def test_setup_changes_nothing_and_is_said_once(stage):
    site = stage(setup=False)
    with open(site.conf_path, encoding="utf-8") as f:
        before = f.read()
    first = site.ok("rehearse", "--setup", "--standin", STANDIN)
    with open(site.conf_path, encoding="utf-8") as f:
        assert f.read() == before
    second = site.set_up()
    secret = re.compile(r"^(?:client_secret|password|header_secret) = (\w{32})$", re.M)
    assert len(set(secret.findall(first) + secret.findall(second))) == 6
    assert "systemctl reload" in first and site.conf_path in first
    done = site.examhook("rehearse", "--setup", "--standin", STANDIN)
    assert done.returncode == 1 and "already" in done.stderr
    # The key that the stand-in is known by is nobody else's; its certificate is for the worker to read.
    assert os.stat(site.path("store/rehearsal/server.key")).st_mode & 0o777 == 0o600
    assert os.stat(site.path("store/rehearsal/ca.pem")).st_mode & 0o777 == 0o644
    # With one account beside it, none needs to be named.
    site.roster("acme", ROSTER)
    with open(site.path("more.csv"), "w", encoding="utf-8") as f:
        f.write("id\n1003\n")
    assert "1 candidates" in site.ok("roster", "import", site.path("more.csv"))
    done = site.examhook("roster", "import", site.path("more.csv"), "--account", "rehearsal")
    assert done.returncode == 2 and "rehearse" in done.stderr


def test_the_standin_is_found_where_it_is_installed(stage):
    site = stage(setup=False)
    os.makedirs(site.path("usr/share/examhook"))
    os.mkdir(site.path("usr/bin"))
    shutil.copy(os.path.join(BUILD, "examhook"), site.path("usr/bin"))
    command = [site.path("usr/bin/examhook"), "--config", site.conf_path, "rehearse", "--setup", "--dir",
               site.path("certificates")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 1 and "--standin FILE" in done.stderr and "--without-ratings" in done.stderr
    shutil.copy(STANDIN, site.path("usr/share/examhook"))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert done.returncode == 0 and "ca_file = " + site.path("certificates/ca.pem") in done.stdout, done.stderr


def test_the_accounts_own_fields_and_protections_are_used(stage):
    """Another form of sign-in, and a callback that is protected in all three ways."""
    site = stage()
    with open(site.conf_path, encoding="utf-8") as f:
        text = f.read()
    text = text.replace("[examjoint rehearsal fields]\n0 = id\n1 = password\n",
                        "[examjoint rehearsal fields]\n3 = email\n4 = password\n7 = matriculation\n")
    text = text.replace("header_name = ", "path_token = a-path-token-0123456789\nbasic_user = user\n"
                        "basic_password = p:ass w\u00f6rd\nheader_name = ")
    with open(site.conf_path, "w", encoding="utf-8") as f:
        f.write(text)
    site.start(worker=False)
    done = site.rehearse(4, 1, "--without-ratings", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["terminations"]["answered"] == 4
    assert site.traces() == []


def test_a_proxy_leads_to_no_standin(stage):
    site = stage(conf=CONF.replace("[worker]\n", "[worker]\nproxy = http://127.0.0.1:9\n")).start(worker=False)
    assert "--without-ratings" in fails(site)


def test_progress_is_shown_on_a_terminal(stage):
    site = stage().start(worker=False)
    terminal, end = pty.openpty()
    process = subprocess.Popen([os.path.join(BUILD, "examhook"), "--config", site.conf_path,
                                *site.arguments(5, 2, "--without-ratings")], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=end, env=environment())
    os.close(end)
    shown = b""
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:
            break
        if not more:
            break
        shown += more
    os.close(terminal)
    assert process.wait() == 0
    process.stdout.close()
    assert b"the exam day [" in shown and b"s left" in shown and b"removing it all [" in shown


def test_a_standin_that_cannot_be_run(stage):
    site = stage().start(worker=False)
    assert "No such file" in fails(site, "--standin", site.path("nothing.py"))
    open_to_all = site.path("open.py")
    with open(open_to_all, "w", encoding="utf-8") as f:
        f.write("print('ready ')\n")
    os.chmod(open_to_all, 0o666)
    assert "nobody else can write" in fails(site, "--standin", open_to_all)


def test_no_secret_on_a_command_line(stage):
    site = stage().start()
    with open(site.conf_path, encoding="utf-8") as f:
        found = re.findall(r"^(?:client_secret|password|header_secret) = (\w{32})$", f.read(), re.M)
    process = site.begin(5, 3)
    assert wait_for(lambda: answers(standin_port(site)), 30)
    lines = subprocess.run(["ps", "axww", "-o", "args="], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "talview.py" in lines and len(found) == 3
    assert not [secret for secret in found if secret in lines]
    process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == 0


# --- The page ---------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(stage):
    site = stage().start(worker=False)
    page = site.path("day.html")
    done = site.rehearse(6, 2, "--without-ratings", "--report", page)
    assert done.returncode == 0 and page in done.stdout, done.stderr
    with open(page, encoding="utf-8") as f:
        text = f.read()
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
    assert text.count("<svg ") == text.count("</svg>") == 2 and text.count("<polyline ") == 7
    assert not re.search(r"https?:|src=|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme:dark" in text and "6 let in" in text
    for points in re.findall(r'points="([^"]*)"', text):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 860 and 0 <= y <= 260
    done = site.rehearse(6, 2, "--without-ratings", "--report", page)
    assert done.returncode == 1 and "there already" in done.stderr
