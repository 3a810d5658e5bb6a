"""The scripts around the programs: package lists, the runner's counting, nginx's files."""
import glob
import os
import re
import stat
import subprocess

import pytest

from support import PYTHON, TOP, environment


def run(*command, **how):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=TOP,
                          env=how.get("env", environment()))


@pytest.mark.parametrize("what", ["run", "check", "lint", "hosting", "shared-hosting", "deb", "machine", "all"])
def test_package_lists(what):
    done = run("deploy/deps", "--list", what)
    names = done.stdout.split()
    assert done.returncode == 0 and len(names) == len(set(names))
    assert {"gcc", "make", "nginx", "libfcgi-dev", "libsqlite3-dev", "openssl", "curl", "python3"} <= set(names)
    assert ("libcmocka-dev" in names) == (what in ("check", "deb", "all"))


def test_nothing_missing_nothing_done():
    done = run("deploy/deps", "check")
    assert (done.returncode, done.stdout) == (0, "")


def test_deps_refuses_what_it_does_not_know():
    assert run("deploy/deps", "everything").returncode == 2


@pytest.fixture
def fake_debian(tmp_path):
    """dpkg-query that knows no package, apt-get and id that only write down how they were called."""
    for name, text in (("dpkg-query", "exit 1"), ("apt-get", 'echo "$@" >>%s/apt' % tmp_path),
                       ("id", "echo ${FAKE_ID:-0}"), ("sudo", 'echo "$@" >>%s/sudone' % tmp_path)):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n%s\n" % text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def test_deps_without_root_only_tells(fake_debian):
    path = "%s:%s" % (fake_debian, os.environ["PATH"])
    done = subprocess.run(["deploy/deps", "run"], cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False,
                          env=dict(environment(), PATH=path, FAKE_ID="1000"))
    assert done.returncode == 1 and "sudo" in done.stdout and "nginx" in done.stdout
    assert not (fake_debian / "apt").exists() and not (fake_debian / "sudone").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="writes /usr/sbin/policy-rc.d for a moment: root only")
def test_deps_as_root_keeps_servers_from_starting(fake_debian):
    policy = "/usr/sbin/policy-rc.d"
    before = open(policy, encoding="utf-8").read() if os.path.exists(policy) else None
    (fake_debian / "apt-get").write_text('#!/bin/sh\necho "$@" >>%s/apt\n%s >/dev/null; echo policy $? >>%s/apt\n' % (
        fake_debian, policy, fake_debian))
    done = run("deploy/deps", "run", env=dict(environment(), PATH="%s:%s" % (fake_debian, os.environ["PATH"])))
    assert done.returncode == 0, done.stdout
    lines = (fake_debian / "apt").read_text().splitlines()
    assert lines[0].startswith("update") and lines[1] == lines[3] == "policy 101"
    assert lines[2].startswith("install") and "--no-install-recommends" in lines[2] and " nginx " in lines[2]
    after = open(policy, encoding="utf-8").read() if os.path.exists(policy) else None
    assert before == after


COUNTED = [
    ("all pass", "echo 1..2; echo ok 1 - a; echo ok 2 - b", "2 passed, 0 failed"),
    ("one fails", "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1", "1 passed, 1 failed"),
    ("one is skipped", "echo 1..2; echo ok 1 - a; echo not ok 2 '# SKIP b'", "1 passed, 0 failed, 1 skipped"),
    ("killed", "echo 1..2; echo ok 1 - a; kill -9 $$", "1 passed, 1 failed"),
    ("ends too early", "echo 1..2; echo ok 1 - a", "1 passed, 1 failed"),
    ("says nothing", "exit 0", "0 passed, 1 failed"),
    ("wrong exit status", "echo 1..1; echo ok 1 - a; exit 3", "1 passed, 1 failed"),
]


@pytest.mark.parametrize("script,count", [row[1:] for row in COUNTED], ids=[row[0] for row in COUNTED])
def test_the_runner_counts(tmp_path, script, count):
    """A tree with one unit test, which is a script."""
    tests = tmp_path / "tests"
    (tests / "unit").mkdir(parents=True)
    (tests / "unit/test_x.c").write_text("")
    (tests / "run").write_text(open(os.path.join(TOP, "tests/run"), encoding="utf-8").read())
    program = tmp_path / "build/unit/test_x"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n" + script + "\n")
    program.chmod(0o755)
    done = run(PYTHON, str(tests / "run"), "--unit")
    assert done.stdout.splitlines()[-1] == count
    assert (done.returncode == 0) == (", 0 failed" in count)
    strict = run(PYTHON, str(tests / "run"), "--unit", "--no-skip")
    assert (strict.returncode == 0) == (", 0 failed" in count and "skipped" not in count)
    assert count in strict.stdout


def test_nginx_takes_the_shipped_files(site):
    done = run("nginx", "-e", "stderr", "-t", "-c", site.nginx_conf)
    assert done.returncode == 0, done.stdout


def test_no_python_but_debians():
    done = run("grep", "-rnE", r"(^|[ /])env python|[^/_a-z-]python3? -", "Makefile", "deploy/run", "deploy/deps",
               ".ci/run", "tests/run")
    assert done.stdout == ""


def test_each_test_that_security_md_names_is_there():
    text = open(os.path.join(TOP, "SECURITY.md")).read()
    named = 0
    for file, tests in re.findall(r"(tests/[\w/]+\.(?:py|c|txt))(?:: ((?:test_\w+(?:, )?)+))?", text):
        with open(os.path.join(TOP, file)) as f:
            source = f.read()
        for test in filter(None, tests.split(", ")):
            assert re.search(r"\b%s\(" % test, source), (file, test)
            named += 1
    assert named > 20
    cases = "".join(open(path).read() for path in glob.glob(os.path.join(TOP, "tests/hosting/cases/*.txt")))
    for list_of_cases in re.findall(r"cases? ((?:`[^`]+`(?:, )?)+)", text):
        for case in re.findall(r"`([^`]+)`", list_of_cases):
            assert re.search("(?m)^=+ " + re.escape(case).replace(r"\*", ".*"), cases), case
    with open(os.path.join(TOP, "Makefile")) as f:
        targets = f.read()
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(r"(?m)^%s:" % target, targets), target
    for target in re.findall(r"fuzz targets? ((?:`\w+`(?:, )?)+)", text):
        for name in re.findall(r"`(\w+)`", target):
            assert os.path.exists(os.path.join(TOP, "tests/fuzz/fuzz_%s.c" % name)), name
