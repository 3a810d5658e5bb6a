"""`make run` as a newcomer meets it: the ready line, the pasted commands, Ctrl-C, a port in use, CONF=."""
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from support import BUILD, PATIENCE, TOP, WRAP, environment, free_port, wait_for

pytestmark = pytest.mark.skipif(bool(WRAP), reason="the programs are wrapped: deploy/run starts them as they are")


@pytest.fixture
def folder():
    made = tempfile.mkdtemp(prefix="examhook-run-")
    yield made
    assert wait_for(lambda: not processes_of(made))
    shutil.rmtree(made, ignore_errors=True)


def processes_of(text):
    """The ids of the processes whose command line has the text."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                if text.encode() in f.read():
                    found.append(int(path.split("/")[2]))
        except OSError:
            pass
    return found


class Run:
    """`how` are variables: PORT, DIR, CONF. In a process group of its own, as a terminal has it."""

    def __init__(self, command=None, **how):
        self.file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command or [os.path.join(TOP, "deploy/run")], stdin=subprocess.DEVNULL,
                                        stdout=self.file, stderr=self.file, cwd=TOP, start_new_session=True,
                                        env=dict(environment(), BUILD=BUILD, **how))

    def output(self):
        return os.pread(self.file.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def ready(self):
        wait_for(lambda: "Ctrl-C" in self.output() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.output()
        return self.output()

    def end(self, number=None, group=False):
        if number and group:
            os.killpg(self.process.pid, number)
        elif number:
            self.process.send_signal(number)
        try:
            return self.process.wait(30 * PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def paste(line):
    done = subprocess.run(["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment(), cwd="/", check=False)
    assert done.returncode == 0, (line, done.stdout)
    return done.stdout


def commands(output):
    return [line for line in output.splitlines() if line.startswith(("curl ", "/"))]


def test_the_pasted_commands(folder):
    port = str(free_port())
    run = Run(PORT=port, DIR=folder)
    output = run.ready()
    try:
        assert re.search(r"^ready https://127\.0\.0\.1:%s$" % port, output, re.M), output
        assert output.count("https://127.0.0.1:%s/webhooks/examjoint" % port) >= 1
        assert re.search(r"^  Proview +https://127\.0\.0\.1:%s/webhooks/proview/demo/[0-9a-f]{32,}$" % port, output,
                         re.M)
        valid, invalid, admission, termination, events, sessions = commands(output)
        assert json.loads(paste(valid))["metadata"]["name"] == "Ada Lovelace"
        assert json.loads(paste(invalid))["errorMessage"]
        assert json.loads(paste(admission)) == {}
        assert json.loads(paste(termination)) == {}
        shown = paste(events)
        assert "admitted_respondent" in shown and "verify_respondent" in shown
        assert wait_for(lambda: re.search(r"\b(high|medium|low)\b", paste(sessions)), 20), paste(sessions)
        paste(sessions.replace(" sessions", " check"))
    finally:
        assert run.end(signal.SIGTERM) == 0
    assert not processes_of(folder)


def test_no_secret_is_on_a_command_line(folder):
    """Nor in an environment: of all that is started until everything is up, however short it lives."""
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    port, trace = str(free_port()), os.path.join(folder, "trace")
    run = Run(["strace", "-D", "-f", "-qq", "-v", "-s", "100000", "-e", "trace=execve", "-e", "signal=none", "-o", trace,
               os.path.join(TOP, "deploy/run")], PORT=port, DIR=folder,
              ASAN_OPTIONS="detect_leaks=0") # it cannot look for leaks where strace looks at it
    try:
        run.ready()
        with open(os.path.join(folder, "conf/examhook.conf"), encoding="utf-8") as conf:
            secrets = re.findall(r"^(client_secret|password|path_token) = (\S+)", conf.read(), re.M)
    finally:
        assert run.end(signal.SIGTERM) == 0
    # strace is nobody's child here: it ends, and what it saw is whole, a little later.
    assert wait_for(lambda: not processes_of(trace))
    with open(trace, encoding="utf-8") as f:
        started = f.read()
    assert len(secrets) == 3 and started.count("execve(") > 20 and "proview.fcgi" in started
    assert not [name for name, value in secrets if value in started]


def test_ctrl_c_and_a_second_run(folder):
    """Ctrl-C goes to the whole group. The second run has the same secrets and data."""
    port = str(free_port())
    run = Run(PORT=port, DIR=folder)
    first = commands(run.ready())
    paste(first[2])
    assert len(processes_of(folder)) >= 5
    assert run.end(signal.SIGINT, group=True) == 0, run.output()
    assert wait_for(lambda: not processes_of(folder))
    run = Run(PORT=port, DIR=folder)
    second = commands(run.ready())
    try:
        assert second[:3] == first[:3]
        assert "admitted_respondent" in paste(second[4])
        assert json.loads(paste(second[0]))["metadata"]
    finally:
        run.end(signal.SIGTERM)


def test_what_runs_can_be_rehearsed_with(folder):
    """The account that is pasted in is left as it is when it runs again: its stand-in is another."""
    port, conf = str(free_port()), os.path.join(folder, "conf/examhook.conf")
    examhook = [os.path.join(BUILD, "examhook"), "--config", conf, "rehearse", "--standin",
                os.path.join(TOP, "tests/standin/talview.py")]
    run = Run(PORT=port, DIR=folder)
    run.ready()
    lines = subprocess.run([*examhook, "--setup"], stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    with open(conf, "a", encoding="utf-8") as f:
        f.write(lines.stdout)
    assert run.end(signal.SIGTERM) == 0
    run = Run(PORT=port, DIR=folder)
    run.ready()
    try:
        with open(conf, encoding="utf-8") as f:
            assert f.read().endswith(lines.stdout)
        done = subprocess.run([*examhook, "--candidates", "3", "--within", "1", "--url", "https://127.0.0.1:" + port,
                               "--ca", os.path.join(folder, "tls/cert.pem"), "--report",
                               os.path.join(folder, "day.html")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        assert done.returncode == 0 and "3 let in" in done.stdout and "ratings: 3 fetched" in done.stdout, done.stderr
    finally:
        run.end(signal.SIGTERM)


def test_make_run(folder):
    """By `make`, with its variables; SIGTERM to make."""
    port = free_port()
    run = Run(["make", "run", "PORT=%d" % port, "DIR=" + folder, "BUILD=" + os.path.relpath(BUILD, TOP)])
    try:
        assert "ready https://127.0.0.1:%d\n" % port in run.ready()
    finally:
        run.end(signal.SIGTERM)
    assert wait_for(lambda: not processes_of(folder))


def test_a_part_that_dies(folder):
    run = Run(PORT=str(free_port()), DIR=folder)
    run.ready()
    (victim,) = [pid for pid in processes_of(folder + "/sock/proview.sock")]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: run.process.poll() is not None, 20)
    output = run.output()
    assert run.end() == 1
    assert "proview has ended" in output, output
    assert not processes_of(folder)


def test_killed_outright(folder):
    run = Run(PORT=str(free_port()), DIR=folder)
    run.ready()
    run.end(signal.SIGKILL)
    assert wait_for(lambda: not processes_of(folder))


def test_port_in_use(folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        run = Run(PORT=str(s.getsockname()[1]), DIR=folder)
        wait_for(lambda: run.process.poll() is not None, 20)
        output = run.output()
        assert run.end() == 1
        assert "port %d is in use" % s.getsockname()[1] in output, output


def test_one_run_a_folder(folder):
    run = Run(PORT=str(free_port()), DIR=folder)
    run.ready()
    try:
        other = Run(PORT=str(free_port()), DIR=folder)
        wait_for(lambda: other.process.poll() is not None, 20)
        assert "another run uses" in other.output()
        assert other.end() == 1
    finally:
        run.end(signal.SIGTERM)


REFUSED = [({"PORT": "x"}, "PORT=x is no port"), ({"PORT": "0"}, "PORT=0 is no port"),
           ({"CONF": "/nowhere/examhook.conf"}, "cannot be read"), ({"DIR": "/tmp/" + "x" * 100}, "107 bytes"),
           ({"BUILD": "/nowhere"}, "make")]


@pytest.mark.parametrize("how,said", REFUSED, ids=[next(iter(how)) + str(i) for i, (how, _) in enumerate(REFUSED)])
def test_refusals(folder, how, said):
    done = subprocess.run([os.path.join(TOP, "deploy/run")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False,
                          env=dict(environment(), **dict(dict(PORT=str(free_port()), DIR=folder, BUILD=BUILD), **how)))
    assert done.returncode == 1 and said in done.stdout, done.stdout


def test_conf_of_ones_own(folder):
    """It is used as it is, and nothing of it is changed."""
    conf = os.path.join(folder, "my.conf")
    text = """# mine
[store]
url = sqlite:%s/elsewhere
[verify]
languages = %s/deploy/languages
[examjoint school]
client_id = me
client_secret = my-secret
[proview school]
path_token = my-token-0123456789
[fields]
0 = id
""" % (folder, TOP)
    with open(os.open(conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
        f.write(text)
    before = os.stat(conf)
    run = Run(PORT=str(free_port()), DIR=os.path.join(folder, "d"), CONF=conf)
    output = run.ready()
    try:
        assert "/webhooks/proview/school" in output and "school" in output
        assert "my-secret" not in output
        assert os.path.exists(os.path.join(folder, "elsewhere/examjoint/events.db"))
        assert not processes_of(folder + "/d/talview")
        example = next(line for line in commands(output) if line.startswith("curl "))
        assert json.loads(paste(example.replace("ID'", "me'").replace("SECRET'", "my-secret'"))) == {}
    finally:
        assert run.end(signal.SIGTERM) == 0
    after = os.stat(conf)
    with open(conf, encoding="utf-8") as f:
        assert f.read() == text
    assert (before.st_mtime_ns, before.st_ino, before.st_mode) == (after.st_mtime_ns, after.st_ino, after.st_mode)


def test_as_an_ordinary_user(folder):
    """Without root, once the packages are there."""
    if os.getuid() != 0:
        pytest.skip("every test of this run is one of an ordinary user")
    os.chmod(folder, 0o755)
    copy = os.path.join(folder, "examhook")
    shutil.copytree(TOP, copy, ignore=shutil.ignore_patterns(".git", "build", "__pycache__"))
    os.mkdir(os.path.join(copy, "build"))
    for name in ("examjoint.fcgi", "proview.fcgi", "examhook"):
        shutil.copy(os.path.join(BUILD, name), os.path.join(copy, "build", name))
    subprocess.run(["chown", "-R", "nobody:nogroup", copy], check=True)
    port = free_port()
    run = Run(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=" + copy, "BUILD=",
               "PORT=%d" % port, copy + "/deploy/run"])
    try:
        output = run.ready()
        assert "ready https://127.0.0.1:%d\n" % port in output
        assert json.loads(paste(commands(output)[0]))["metadata"]
    finally:
        run.end(signal.SIGTERM)
