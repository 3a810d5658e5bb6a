"""What `examhook check` says of an exam's start: how many candidates this machine verifies in a minute with the hashes
that the roster has, and whether all of one exam can start together. No time is asserted, only what follows from what
was measured."""
import contextlib
import json
import os
import re
import subprocess

import pytest

import accounts
import hardening
import support
from accounts import CONF

# Settings of known kinds and costs with a hash behind them, of whatever password.
BCRYPT_HASH = ".Ic7mSLaeH2pWa7rJ8cB1JdE7pDJ1Wu"[:31]
SHA512_HASH = "YUyLeM49JB8Nzv6wVOu8O71JjVFiiAyvqFbh4h4PG2O3e8D7IjA8OnJE6zA8/UYxI07quaw67NvyFzgqN8Hld1"
SHA512 = "$6$abcdefghijklmnop$" + SHA512_HASH
SLOW = "$6$rounds=5000000$abcdefghijklmnop$" + SHA512_HASH
CORES = len(os.sched_getaffinity(0))
MANY = 150 * CORES # of the slow ones: a second or more each, so too many for a minute on any machine
REMEDIES = ("cheaper hash", "more cores", "second machine")


def bcrypt(cost):
    return "$2b$%02d$3mFC35/GjLoMXhFEl8b0bO%s" % (cost, BCRYPT_HASH)


def roster(*groups):
    """Groups are (how many, hash, exam, opens)."""
    lines = ["id,password_hash,exam,opens"]
    for number, (count, hashed, *more) in enumerate(groups):
        exam, opens = (more + ["", ""])[:2]
        lines += ["g%d-%d,%s,%s,%s" % (number, n, hashed, exam, opens) for n in range(count)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def said(make_site):
    """The lines of `examhook check` about capacity: (level, text, advice)."""
    def check(*groups, verify="", account="acme"):
        site = make_site(CONF, [(account, roster(*groups))], verify=verify)
        lines = [json.loads(line) for line in site.examhook("check", "--json").stdout.splitlines()]
        return [(line["level"], line["text"], line.get("advice")) for line in lines if line["what"] == "capacity"]
    return check


def a_minute(lines, kind):
    found = [re.search(r"verifies about (\d+) candidates a minute", text) for _, text, _ in lines if "(%s)" % kind in text]
    assert len(found) == 1 and found[0], lines
    return int(found[0].group(1))


def warnings(lines):
    return [(text, advice) for level, text, advice in lines if level == "warning"]


def test_a_small_exam_fits(said):
    lines = said((5, accounts.YESCRYPT, "exam-1", "2099-01-01T09:00:00Z"))
    assert a_minute(lines, "$y$j9T$") > 5
    assert not warnings(lines)
    assert "5 candidates of exam exam-1 of acme, at 2099-01-01T09:00Z" in lines[-1][1]


def test_more_than_a_minute_can_bear_warns_with_the_remedies(said):
    """Dear hashes, so that a few candidates are too many on any machine."""
    lines = said((MANY, SLOW, "exam-1", "2099-01-01T09:00:00Z"), (3, SLOW, "exam-2"))
    (text, advice), = warnings(lines)
    assert "%d candidates of exam exam-1 of acme" % MANY in text and "2099-01-01T09:00Z" in text
    assert all(remedy in advice for remedy in REMEDIES), advice
    assert a_minute(lines, "$6$rounds=5000000$") < MANY


def test_the_number_follows_the_cost(said):
    lines = said((3, bcrypt(4)), (2, bcrypt(12)), (1, SHA512), (1, accounts.YESCRYPT))
    cheap, dear = a_minute(lines, "$2b$04$"), a_minute(lines, "$2b$12$")
    assert cheap > 50 * dear > 0
    assert a_minute(lines, "$6$") > dear and a_minute(lines, "$y$j9T$") > dear
    assert not warnings(lines)


def test_what_is_too_dear_to_be_measured_is_reckoned(said):
    lines = said((3, bcrypt(10)), (1, bcrypt(16)))
    assert 1 <= a_minute(lines, "$2b$16$") < a_minute(lines, "$2b$10$") / 16
    assert any("takes some " in text for _, text, _ in lines)


def test_mixed_kinds_count_what_they_cost(said):
    """As many cheap ones as you like: the dear ones fill the minute."""
    assert not warnings(said((3000, bcrypt(4), "exam-1"), (2, SLOW, "exam-1")))
    (text, _), = warnings(said((3000, bcrypt(4), "exam-1"), (MANY, SLOW, "exam-1")))
    assert "%d candidates" % (3000 + MANY) in text


def test_who_starts_in_another_minute_does_not_count(said):
    hours = ["2099-01-01T%02d:00:00Z" % hour for hour in range(24)]
    assert not warnings(said(*((10, SLOW, "exam-1", hour) for hour in hours)))


def test_who_may_sit_any_exam_or_at_any_time_counts(said):
    at = "2099-01-01T09:00:00Z"
    found = warnings(said((MANY, SLOW, "exam-1", at), (MANY, SLOW, "exam-1"), (MANY, SLOW, "", at),
                          (5, SLOW, "exam-2", "2099-01-02T09:00:00Z")))
    assert any("%d candidates of exam exam-1" % (3 * MANY) in text for text, _ in found), found


def test_exams_of_one_minute_together(said):
    at = "2099-01-01T09:00:00Z"
    lines = said(*((10 * CORES, SLOW, "exam-%d" % n, at) for n in range(40)))
    found = [text for text, _ in warnings(lines)]
    if not any("candidates of exam" in text for text in found): # a machine on which each of them fits
        assert len(found) == 1 and "%d candidates of 40 exams together" % (400 * CORES) in found[0]
    else:
        assert found


def test_who_has_no_password_or_whose_time_is_over_costs_nothing(make_site):
    text = "id,password_hash,exam,opens,closes\nnone,,e,,\n" + "".join(
        "o%d,%s,e,2020-01-01T09:00:00Z,2020-01-02T09:00:00Z\n" % (n, SLOW) for n in range(MANY))
    site = make_site(CONF, [("acme", text)])
    assert "capacity" not in site.examhook("check").stdout


def test_fewer_threads_verify_fewer(said):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core: no fewer threads than that")
    all_cores = said((2, accounts.YESCRYPT))
    one = said((2, accounts.YESCRYPT), verify="hash_threads = 1")
    assert "with 1 at once" in one[0][1] and "with 1 at once" not in all_cores[0][1]
    # Each for what a check took in its own run: that differs with what else the machine does.
    busy = [a_minute(lines, "$y$j9T$") * float(re.search(r"takes (?:some )?([\d.]+) ms", lines[0][1]).group(1)) for lines in (one, all_cores)]
    assert busy[0] < 0.8 * busy[1]


@contextlib.contextmanager
def busy_cores():
    """Two that never rest for each core, at the usual priority."""
    hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * CORES)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_busy_machine_says_the_same(said):
    """Measured is the core's own time. By the clock it would be some hundred times as long here, since everybody else
    goes first."""
    groups = [(2, bcrypt(5))]
    at_rest = a_minute(said(*groups), "$2b$05$")
    with busy_cores():
        (_, text, _), _ = lines = said(*groups)
    assert re.search(r"others have \d+% of its cores just now", text) or "a common machine's figure" in text, text
    assert at_rest / 5 < a_minute(lines, "$2b$05$") < at_rest * 5


@pytest.mark.skipif(bool(support.WRAP) or hardening.sanitized(os.path.join(support.BUILD, "examhook")),
                    reason="sanitizers and valgrind need more address space")
def test_where_nothing_can_be_measured_a_common_figure_is_told_as_such(make_site):
    """No thread finds room for its stack."""
    site = make_site(CONF, [("acme", roster((2, bcrypt(10))))])
    done = subprocess.run(["prlimit", "--as=2147483648", "--stack=4294967296", os.path.join(support.BUILD, "examhook"),
                           "--config", site.conf_path, "check"], stdout=subprocess.PIPE, text=True, check=False,
                          env=support.environment())
    line, = [line for line in done.stdout.splitlines() if "one check of bcrypt" in line]
    assert re.search(r"takes some [\d.]+ ms", line) and "that is a common machine's figure" in line
    assert "others have" not in line and int(re.search(r"about (\d+) candidates a minute", line).group(1)) > 0


def scheduling(pid):
    """{thread: (policy, niceness)} of those that are there."""
    found = {}
    for tid in map(int, os.listdir("/proc/%d/task" % pid)):
        with contextlib.suppress(ProcessLookupError):
            found[tid] = (os.sched_getscheduler(tid), os.getpriority(os.PRIO_PROCESS, tid))
    return found


def test_measuring_yields_to_everybody_else(make_site):
    """The threads that measure run when nobody else wants the core; the reading of the roster is modest too."""
    site, seen = make_site(CONF, [("acme", roster((2, bcrypt(12))))]), {}
    with subprocess.Popen([os.path.join(support.BUILD, "examhook"), "--config", site.conf_path, "check"],
                          stdout=subprocess.DEVNULL, env=support.environment()) as process:
        def ended():
            with contextlib.suppress(FileNotFoundError):
                seen.update(scheduling(process.pid)) # how each was when it was seen last
            return process.poll() is not None
        assert support.wait_for(ended, 60, 0.002)
    assert seen.pop(process.pid) == (os.SCHED_OTHER, max(15, os.getpriority(os.PRIO_PROCESS, 0)))
    assert 1 <= len(seen) <= CORES
    assert {policy for policy, _ in seen.values()} == {os.SCHED_IDLE}


def test_a_start_waits_for_no_measuring(make_site):
    """`check --start` is what a unit runs before its program."""
    site = make_site(CONF, [("acme", roster((MANY, SLOW)))])
    assert "capacity" not in site.ok("check", "--start")
