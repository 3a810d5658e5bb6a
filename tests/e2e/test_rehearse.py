"""An exam day that is played: `examhook rehearse` against nginx, both programs and the worker. What it did is in no
listing while it runs, and in no byte of the store afterwards."""
import calendar
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

import calls
from support import BUILD, PATIENCE, Site, TOP, a_uuid, environment, unique, wait_for, written_files

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
BCRYPT_10 = "$2b$10$T/EQkj1hEKpK.PsbNoq0l.VDMszli1PyrD6O68YW5eCfZCWDAF73e"
# One check takes about a quarter of a second with this one, a quarter of that with the one above.
BCRYPT_12 = "$2b$12$NHjwZ3zrl5rPEdb4bTe00eK3dAn1Ae8sPUdrecBDfLSZsJ/ysTMLi"
# Of "horse". A millisecond of a core, so that checks are no bottleneck where other programs have the cores.
CHEAP = ("$6$rounds=1000$abcdefghijklmnop$"
         "HSzTu/N3LD5wIxB5dml0wCbjnNf.T.gaFnxQONkIY9ZgrmOLtpc/gK39sShHDSIJjUoxs2jE8upfhNbU2.nJR0")
ROSTER = "id,password_hash,exam\n1001,{0},exam-1\n1002,{0},exam-1\n".format(CHEAP)


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

    def change_conf(self, change):
        with open(self.conf_path, encoding="utf-8") as f:
            text = f.read()
        with open(self.conf_path, "w", encoding="utf-8") as f:
            f.write(change(text))

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


# --- One day, looked at from all sides --------------------------------------------------------------------------


class Day:
    """A rehearsal at a terminal, and what others saw meanwhile."""

    def __init__(self, site):
        self.site = site
        self.page_path = site.path("day.html")
        command = [os.path.join(BUILD, "examhook"), "--config", site.conf_path, *site.arguments(8, 4)]
        command[command.index("--report") + 1] = self.page_path
        follower = subprocess.Popen([os.path.join(BUILD, "examhook"), "--config", site.conf_path, "events", "--json",
                                     "--follow"], stdout=subprocess.PIPE, text=True, env=environment())
        terminal, end = pty.openpty()
        site.begun += [follower, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=end,
                                                  text=True, env=environment())]
        process = site.begun[-1]
        os.close(end)
        try:
            self.look()
        finally:
            site.parts["worker"].process.send_signal(signal.SIGCONT)
        calls.examjoint(site, calls.admitted("real-respondent"))
        self.shown = read_to_the_end(terminal)
        self.out = process.communicate(timeout=120 * PATIENCE)[0]
        self.code = process.returncode
        follower.terminate()
        self.followed = follower.communicate(timeout=20)[0]
        self.traces = site.traces()
        with open(self.page_path, encoding="utf-8") as f:
            self.page = f.read()

    def look(self):
        site = self.site
        seen = wait_for(lambda: some_let_in(site), 30)
        assert seen, "nobody was let in"
        self.exam, self.candidate = seen[0]["exam_id"], seen[0]["identity"]
        self.sessions = wait_for(lambda: site.rows("sessions", "--json", "--account", "rehearsal"), 30)
        # The others' ratings are waited for until it goes on, however long the looking takes.
        site.parts["worker"].process.send_signal(signal.SIGSTOP)
        self.processes = subprocess.run(["ps", "axww", "-o", "args="], stdout=subprocess.PIPE, text=True,
                                        check=True).stdout
        self.listed = [site.listings()]
        self.person = [site.examhook("respondent", self.candidate), site.examhook("export", "--respondent",
                                                                                 self.candidate)]
        self.lines = site.rows("roster", "list", "--json", "--account", "rehearsal")
        self.listed.append(site.listings())
        self.check = site.examhook("check").stdout


def read_to_the_end(terminal):
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
    return shown.decode()


@pytest.fixture(scope="module")
def day():
    site = Stage()
    try:
        yield Day(site.start())
    finally:
        site.close()


def test_the_summary_has_each_kind_of_request(day):
    assert day.code == 0, (day.out, day.shown)
    assert re.search(r"^EVENT +SENT +ANSWERED +REFUSED +FAILED +LATE +P50 MS +P99 MS$", day.out, re.M)
    for name in ("verify_respondent", "admitted_respondent", "session terminated", "result_ready",
                 "investigation_complete"):
        assert re.search(r"^%s +8 +8 +0 +0 +0 +\d+ +\d+$" % name, day.out, re.M), day.out
    assert "8 let in, 0 gave up" in day.out and "ratings: 8 fetched, 0 missing" in day.out and "bottleneck: " in day.out
    assert "removed: 33 events, 8 callbacks, 8 sessions" in day.out and day.traces == []


def test_listings_know_nothing_of_it_while_it_runs(day):
    assert day.exam.startswith("rehearsal-") and day.candidate.startswith(day.exam)
    assert len(day.lines) == 8 and day.sessions
    for listed in day.listed:
        assert day.exam not in listed and "1001" in listed
    assert [done.returncode for done in day.person] == [1, 1]
    assert "for rehearsal" not in day.check and "of rehearsal" not in day.check and "2 lines for acme" in day.check
    assert [json.loads(line)["respondent_id"] for line in day.followed.splitlines()] == ["real-respondent"]


def test_progress_is_shown_on_a_terminal(day):
    assert "the exam day [" in day.shown and "s left" in day.shown
    assert "ratings [" in day.shown and "removing it all [" in day.shown


def test_no_secret_on_a_command_line(day):
    with open(day.site.conf_path, encoding="utf-8") as f:
        found = re.findall(r"^(?:client_secret|password|header_secret) = (\w{32})$", f.read(), re.M)
    assert "talview.py" in day.processes and len(found) == 3
    assert not [secret for secret in found if secret in day.processes]


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(day):
    text = day.page
    assert day.page_path in day.out
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
    assert text.count("<svg ") == text.count("</svg>") == 2 and text.count("<polyline ") == 7
    assert not re.search(r"https?:|src=|url\(|@import|<script|<link", text)
    assert "prefers-color-scheme:dark" in text and "8 let in" in text
    for points in re.findall(r'points="([^"]*)"', text):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 860 and 0 <= y <= 260


def test_a_page_that_is_there_is_not_overwritten(day):
    done = day.site.rehearse(6, 2, "--without-ratings", "--report", day.page_path)
    assert done.returncode == 1 and "there already" in done.stderr and "--report" in done.stderr
    with open(day.page_path, encoding="utf-8") as f:
        assert f.read() == day.page


# --- When it is not played --------------------------------------------------------------------------------------


def iso(seconds):
    """So many seconds from now, as a roster has it; None: nothing."""
    return "" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def earliest(said):
    """So many seconds from now one may rehearse, as a refusal says."""
    text = re.search(r"Rehearse after (\S+Z)", said).group(1)
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.time()


HOUR, DAY = 3600, 86400
GLOBEX = "\n[examjoint globex]\nclient_id = globex-id\nclient_secret = globex-secret\n"


def test_not_in_an_open_window_whatever_is_said(stage):
    """By the roster: open now, or soon. One end alone makes it a day long. No option helps."""
    site = stage(conf=CONF + GLOBEX, roster="")
    for opens, closes in ((-60, HOUR), (300, HOUR), (300, None), (-2 * HOUR, None), (HOUR - DAY, None), (None, HOUR),
                          (None, DAY - HOUR)):
        site.roster("acme", "id,exam,opens,closes\n1,past,%s,%s\n2,exam-now,%s,%s\n3,,,\n" % (
            iso(-3 * HOUR), iso(-2 * HOUR), iso(opens), iso(closes)), "--replace")
        for more in ((), ("--even-now",)):
            done = site.rehearse(3, 1, "--without-ratings", *more)
            assert done.returncode == 1 and "an exam is on" in done.stderr, (opens, closes, done.stderr)
            assert "1 lines of the roster" in done.stderr and "of acme for exam-now" in done.stderr
            end = closes if closes is not None else opens + DAY
            assert end - 120 < earliest(done.stderr) <= end, done.stderr
            assert "roster remove" in done.stderr and "--even-now" not in done.stderr
    # Any real account's counts, and the last window's end is when it can be.
    site.roster("acme", "id\n1\n", "--replace")
    site.roster("globex", "id,exam,opens,closes\n1,a,%s,%s\n2,b,%s,%s\n" % (iso(-60), iso(HOUR), iso(-60), iso(5 * HOUR)))
    said = site.rehearse(3, 1, "--without-ratings", "--even-now").stderr
    assert "2 lines of the roster" in said and "of globex for a" in said
    assert 5 * HOUR - 120 < earliest(said) <= 5 * HOUR
    assert site.rows("roster", "list", "--json", "--account", "rehearsal") == [] == site.traces()


def test_a_window_that_is_closed_or_far_holds_up_nothing(stage):
    site = stage(roster="id,exam,opens,closes\n" + "".join("%d,e,%s,%s\n" % (i, iso(opens), iso(closes)) for i, (
        opens, closes) in enumerate(((-2 * HOUR, -HOUR), (2 * HOUR, 3 * HOUR), (-HOUR - DAY, None), (None, -60),
                                     (None, DAY + HOUR), (None, None))))).start(worker=False)
    done = site.rehearse(3, 1, "--without-ratings")
    assert done.returncode == 0 and "ratings: not rehearsed" in done.stdout, done.stderr


@pytest.mark.parametrize("what", ["a verification", "one that is refused", "an admission", "a callback"])
def test_not_while_real_candidates_come(stage, what):
    """Where the roster has no window, who came tells. Those may have been nobody's exam: then there is an option."""
    site = stage().start(worker=False)
    # Results come days later too.
    assert calls.examjoint(site, calls.event("result_ready", "1001")).status == 200
    assert calls.examjoint(site, calls.event("investigation_complete", "1001")).status == 200
    assert "gave no answer" in fails(site, "--without-ratings", url="https://127.0.0.1:1")
    if what == "an admission":
        calls.examjoint(site, calls.admitted("1001"))
    elif what == "a callback":
        assert calls.proview(site, "token/token-0123456789abcdef", calls.callback(a_uuid())).status == 200
    else:
        calls.verify(site, "1001", "horse" if what == "a verification" else "donkey")
    said = fails(site, "--without-ratings")
    assert "an exam may be on: 1 " in said and "within the last hour" in said and "--even-now" in said
    assert HOUR - 120 < earliest(said) <= HOUR
    assert "gave no answer" in fails(site, "--without-ratings", "--even-now", url="https://127.0.0.1:1")


def test_an_hour_after_the_last_one_it_is_played(stage):
    site = stage().start(worker=False)
    calls.verify(site, "1001", "horse")
    calls.examjoint(site, calls.admitted("1001"))
    assert site.stop("examjoint") == 0
    database = sqlite3.connect(site.path("store/examjoint/events.db"))
    database.execute("UPDATE events SET received_at = received_at - ?", (61 * 60 * 1000,))
    database.commit()
    database.close()
    site.start_program("examjoint")
    assert site.rehearse(3, 1, "--without-ratings").returncode == 0


def test_one_at_a_time(stage):
    site = stage().start(worker=False)
    process = site.begin(20, 20, "--without-ratings")
    assert wait_for(lambda: some_let_in(site), 30)
    for arguments in (site.arguments(3, 1, "--without-ratings"), ["rehearse", "--clean"]):
        done = site.examhook(*arguments)
        assert done.returncode == 1 and "another rehearsal" in done.stderr
        # What helps: its end, and only when it does not end, a harder one with --clean behind.
        assert "`kill %d`" % process.pid in done.stderr and "--clean" in done.stderr
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=120 * PATIENCE) and process.returncode == 1
    assert site.traces() == []
    assert site.ok("rehearse", "--clean").startswith("removed: 0 events")


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
    # Nobody gave up, and the worker is not blamed.
    assert " 0 gave up, " in out and " still on their way" in out and "bottleneck: none" in out
    assert re.search(r"^ratings: \d+ fetched, \d+ not waited for$", out, re.M)
    assert site.traces() == []
    assert not answers(standin_port(site))


def test_ended_while_all_is_removed_it_was_played(stage):
    """The removal goes on, and what was asked for is there."""
    site = stage().start(worker=False)
    terminal, end = pty.openpty()
    site.begun.append(subprocess.Popen([os.path.join(BUILD, "examhook"), "--config", site.conf_path,
                                        *site.arguments(20, 1, "--without-ratings")], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=end, text=True, env=environment()))
    os.close(end)
    shown = ""
    while "removing it all [" not in shown:
        shown += os.read(terminal, 65536).decode()
    site.begun[-1].send_signal(signal.SIGINT)
    shown += read_to_the_end(terminal)
    out = site.begun[-1].communicate(timeout=120 * PATIENCE)[0]
    assert (site.begun[-1].returncode, "20 let in, 0 gave up" in out, "ended early" in out + shown) == (0, True, False)
    assert site.traces() == []


def test_nohup_keeps_it_going(stage):
    site = stage().start(worker=False)
    with open(os.devnull, "w", encoding="ascii") as nothing:
        process = subprocess.Popen(["nohup", os.path.join(BUILD, "examhook"), "--config", site.conf_path,
                                    *site.arguments(5, 6, "--without-ratings")], stdin=subprocess.DEVNULL,
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
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    finally:
        program.send_signal(signal.SIGCONT)
    assert "ended early" in process.communicate(timeout=120 * PATIENCE)[1]
    time.sleep(1)
    assert site.traces() == []


def killed(site, *more):
    """One that gets SIGKILL while candidates come."""
    process = site.begin(40, 20, *more)
    assert wait_for(lambda: len(some_let_in(site)) > 3, 30)
    process.kill()
    process.communicate(timeout=20)
    assert wait_for(lambda: not answers(standin_port(site))), "the stand-in must not outlive it"


def test_what_a_killed_one_left_is_cleaned(stage):
    site = stage(verify="budget = 1s").start()
    calls.examjoint(site, calls.admitted("real-respondent"))
    killed(site, "--even-now")
    assert site.traces() and "rehearsal" not in site.listings()
    done = site.ok("rehearse", "--clean")
    assert re.match(r"removed: [1-9]\d* events, ", done)
    assert site.traces() == []
    assert site.ok("rehearse", "--clean").startswith("removed: 0 events, 0 callbacks, 0 sessions")
    assert [row["respondent_id"] for row in site.events()] == ["real-respondent"]
    assert site.ok("check", "--full").count("integrity_check: ok") == 4


def test_a_roster_that_was_half_made_is_cleaned(stage):
    """Killed while candidates are made up: nobody sees them, and they lie there."""
    site = stage().start(worker=False)
    process = site.begin(100000, 3600, "--without-ratings")
    assert wait_for(site.traces, 30, 0.01)
    process.kill()
    process.communicate(timeout=20)
    assert [os.path.dirname(name) for name in site.traces()] == ["store/roster"] and "roster.db.new" in site.traces()[0]
    # Where somebody builds a roster just now, that is gone already.
    assert site.ok("rehearse", "--clean").startswith("removed: 0 events")
    assert site.traces() == [] and len(site.rows("roster", "list", "--json")) == 2


def test_the_next_one_removes_what_a_killed_one_left(stage):
    site = stage(verify="budget = 1s").start()
    killed(site)
    done = site.rehearse(3, 1, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("removed: ") == 2
    assert json.loads(done.stdout)["ratings"]["fetched"] == 3
    assert site.traces() == []


def test_what_waits_for_its_check_when_it_is_killed_is_cleaned_too(stage):
    """Many in one second, one at a time: their rows come after the kill."""
    site = stage(roster="id,password_hash\n1,%s\n" % BCRYPT_10, verify="budget = 2s\nhash_threads = 1")
    site.start(worker=False)
    process = site.begin(40, 1, "--without-ratings")
    assert wait_for(lambda: some_let_in(site), 30)
    process.kill()
    process.communicate(timeout=20)
    done = site.examhook("rehearse", "--clean")
    assert done.returncode == 0 and "waiting up to" in done.stderr, done.stderr
    time.sleep(1)
    assert site.traces() == [] and site.rows("events", "--json", "--account", "rehearsal") == []


class RosterLock:
    """What an import holds."""

    def __init__(self, site):
        self.file = open(site.path("store/roster/roster.lock"), "r+b")

    def __enter__(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def test_an_import_that_is_under_way_holds_up_the_beginning(stage):
    site = stage(store="lock_wait = 1s").start(worker=False)
    with RosterLock(site):
        said = fails(site, "--without-ratings", code=4)
    assert "no made-up candidates" in said and "holds the lock" in said and "try again" in said
    # There is nothing to clean.
    assert "--clean" not in said and site.rows("events", "--json", "--account", "rehearsal") == []


def test_an_import_at_the_end_leaves_only_the_roster_to_be_cleaned(stage):
    site = stage(store="lock_wait = 1s", verify="budget = 1s").start(worker=False)
    process = site.begin(4, 8, "--without-ratings")
    assert wait_for(lambda: some_let_in(site), 30)
    with RosterLock(site):
        out, err = process.communicate(timeout=120 * PATIENCE)
        assert process.returncode == 4 and "4 let in" in out, (out, err)
        assert "still in the roster" in err and "examhook rehearse --clean" in err and "holds the lock" in err
        assert set(site.traces()) == {"store/roster/roster.db"}
        assert site.rows("events", "--json", "--account", "rehearsal") == []
        # Nor is a new one begun upon it.
        said = site.rehearse(2, 1, "--without-ratings").stderr
        assert "still in the roster" in said and "examhook rehearse --clean" in said
    site.ok("rehearse", "--clean")
    assert site.traces() == [] and len(site.rows("roster", "list", "--json")) == 2


# --- Somebody's account of that name ------------------------------------------------------------------------------


def test_what_no_rehearsal_made_is_not_deleted(stage):
    """An account had that name before it was kept for rehearsals: its people stay, whoever cleans or rehearses."""
    site = stage(roster=ROSTER + "2001,%s,rehearsal-2026\n" % CHEAP).start()
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
        made = f.read()
    site.change_conf(lambda text: re.sub("client_id = rehearsal-", "client_id = customer-", text))
    site.start(worker=False)
    assert "another name" in fails(site, "--without-ratings")
    assert "the name of [examjoint rehearsal] is kept for" in site.examhook("check").stdout
    # Nor may the worker ask the real Talview for sessions that are made up.
    site.change_conf(lambda _: re.sub(r"(login|session)_url = https://127\.0\.0\.1:", r"\1_url = https://talview.invalid:",
                                      made))
    assert "another name" in fails(site, "--without-ratings")


def test_more_at_once_than_files_may_be_open(stage):
    """The shell's limit is often lower than the number of requests under way."""
    site = stage(roster="id,password_hash\n1,%s\n" % BCRYPT_10, verify="budget = 20s\nhash_threads = 1")
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
    page = site.path("busy.html")
    done = site.rehearse(14, 1, "--without-ratings", "--json", "--report", page)
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    verifications = result["verifications"]
    assert (result["let_in"], verifications["answered"], verifications["failed"]) == (14, 14, 0)
    assert verifications["refused_busy"] > 0
    assert verifications["sent"] == 14 + verifications["refused_busy"]
    assert result["bottleneck"] == "passwords" and "try again later" in result["reason"]
    with open(page, encoding="utf-8") as f:
        assert "refused: %d verifications for load" % verifications["refused_busy"] in f.read()
    assert result["check_ms"] > 20 and result["cores"] == 1
    assert site.traces() == []


def test_the_web_servers_limit_is_named(stage):
    def strict(name, text):
        return re.sub(r"burst=\d+", "burst=1", re.sub(r"rate=\d+r/s", "rate=10r/s", text))
    site = stage(nginx=strict).start(worker=False)
    done = site.rehearse(8, 1, "--without-ratings", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["let_in"] == 8, done.stderr
    assert result["verifications"]["refused_429"] > 0 and result["verifications"]["failed"] == 0
    assert result["bottleneck"] == "address_limit" and "429" in result["reason"]


def test_ratings_that_do_not_come_are_said(stage):
    """A worker that does not run."""
    site = stage().start(worker=False)
    done = site.rehearse(2, 1, "--json", "--wait", "2")
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert (result["ratings"]["fetched"], result["ratings"]["missing"]) == (0, 2)
    assert result["bottleneck"] == "talview" and "examhook work" in result["reason"] and "--wait" in result["reason"]
    assert site.traces() == []


def test_a_worker_that_cron_starts_is_waited_for(stage):
    """Once a minute, where none lives on: much longer than a worker that lives on would take."""
    site = stage().start(worker=False)
    process = site.begin(2, 1, "--json")
    assert wait_for(lambda: len([row for row in site.rows("events", "--json", "--account", "rehearsal")
                                 if row["source"] == "proview"]) == 2, 30)
    time.sleep(5)
    assert process.poll() is None
    site.ok("work", "--once")
    result = json.loads(process.communicate(timeout=120 * PATIENCE)[0])
    assert (process.returncode, result["ratings"]["fetched"], result["bottleneck"]) == (0, 2, "none")
    assert "75 without it: cron starts a worker each minute" in " ".join(site.ok("rehearse", "--help").split())


# --- Said clearly -----------------------------------------------------------------------------------------------


def fails(site, *more, url=None, ca="tls/cert.pem", code=1):
    arguments = ["rehearse", "--candidates", "2", "--within", "1", "--url", url or site.base, "--standin", STANDIN,
                 "--report", site.path(unique() + ".html"), *(["--ca", site.path(ca)] if ca else []), *more]
    done = site.examhook(*arguments)
    assert done.returncode == code and done.stderr.startswith("examhook rehearse: "), (done.stdout, done.stderr)
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


NO_PYTHON = ["unshare", "--mount", "sh", "-ec", "for f in /usr/bin/python3 /usr/local/bin/python3 /bin/python3; do "
             "[ ! -e $f ] || mount --bind /dev/null $f; done; exec \"$@\"", "sh"]


def test_without_ratings_it_takes_no_python(stage):
    """Neither the lines to paste nor the day."""
    if subprocess.run([*NO_PYTHON, "sh", "-c", "! test -x /usr/bin/python3"], check=False).returncode:
        pytest.skip("python3 can be hidden only by root, with mount namespaces")
    site = stage(setup=False)

    def examhook(*arguments):
        return subprocess.run([*NO_PYTHON, os.path.join(BUILD, "examhook"), "--config", site.conf_path, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    done = examhook("rehearse", "--setup")
    assert done.returncode == 1 and "apt install python3" in done.stderr and "--without-ratings" in done.stderr
    done = examhook("rehearse", "--setup", "--without-ratings")
    assert done.returncode == 0 and "--without-ratings" in done.stdout, done.stderr
    assert not re.search("^(login_url|ca_file|username) ", done.stdout, re.M)
    assert not os.path.exists(site.path("store/rehearsal"))
    site.change_conf(lambda text: text + "\n" + done.stdout)
    site.start()
    done = examhook(*site.arguments(3, 1, "--without-ratings"))
    assert done.returncode == 0 and "3 let in" in done.stdout, done.stderr
    # Ratings would take the whole account.
    assert "rehearse --setup" in fails(site)
    assert site.examhook("rehearse", "--setup", "--without-ratings", "--dir", "x").returncode == 2


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
    site.change_conf(lambda text: text.replace(
        "[examjoint rehearsal fields]\n0 = id\n1 = password\n",
        "[examjoint rehearsal fields]\n3 = email\n4 = password\n7 = matriculation\n").replace(
            "header_name = ", "path_token = a-path-token-0123456789\nbasic_user = user\n"
            "basic_password = p:ass w\u00f6rd\nheader_name = "))
    site.start(worker=False)
    done = site.rehearse(4, 1, "--without-ratings", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["terminations"]["answered"] == 4
    assert site.traces() == []


def test_a_proxy_leads_to_no_standin(stage):
    site = stage(conf=CONF.replace("[worker]\n", "[worker]\nproxy = http://127.0.0.1:9\n")).start(worker=False)
    assert "--without-ratings" in fails(site)


def test_a_standin_that_cannot_be_run(stage):
    site = stage().start(worker=False)
    assert "No such file" in fails(site, "--standin", site.path("nothing.py"))
    open_to_all = site.path("open.py")
    with open(open_to_all, "w", encoding="utf-8") as f:
        f.write("print('ready ')\n")
    os.chmod(open_to_all, 0o666)
    assert "nobody else can write" in fails(site, "--standin", open_to_all)


def test_a_port_that_is_taken_is_named_with_what_helps(stage):
    site = stage().start(worker=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", standin_port(site)))
        taken.listen()
        done = site.examhook(*site.arguments(2, 1))
    assert done.returncode == 1 and "did not start on port %d" % standin_port(site) in done.stderr
    assert "put a free one" in done.stderr and site.traces() == []
