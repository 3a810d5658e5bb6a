"""The worker beside others of its kind, and what it tells the service manager: what is up, read again, at its end."""
import os
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from worker_support import PATIENCE, World, environment, wait_for


@pytest.fixture
def world():
    made = []

    def make(*arguments, **more):
        made.append(World(*arguments, **more))
        return made[-1]
    yield make
    for one in made:
        one.close()


class Manager:
    """The service manager's side: the socket that NOTIFY_SOCKET names, and the program that it starts."""

    def __init__(self, world, *arguments):
        self.path = world.path("notify.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.log_path = world.path("service.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(world.command("work", *arguments), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=environment(NOTIFY_SOCKET=self.path))

    def heard(self, seconds=15):
        """The next word, as a dictionary."""
        assert select.select([self.socket], [], [], seconds * PATIENCE)[0], self.log()
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def log(self):
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.socket.close()


@pytest.fixture
def manager():
    made = []

    def start(*arguments):
        made.append(Manager(*arguments))
        return made[-1]
    yield start
    for one in made:
        one.close()


NOBODY = {"main": {"username": None, "password": None, "app_id": None, "ca_file": None}}


def test_once_leaves_the_work_to_one_that_runs_for_ever(world):
    w = world()
    daemon = w.daemon()
    wait_for(lambda: "the worker is up" in daemon.log())
    began = time.monotonic()
    once = w.run("work", "--once")
    assert once.returncode == 0 and "another is running" in once.stderr and once.stdout == ""
    assert time.monotonic() - began < 3 * PATIENCE
    daemon.stop()
    assert "another is running" not in w.once()


def test_two_that_run_for_ever_bear_each_other(world):
    w = world()
    daemons = [w.daemon(), w.daemon()]
    for daemon in daemons:
        wait_for(lambda one=daemon: "the worker is up" in one.log())
    sessions = w.callbacks(3)
    wait_for(lambda: w.in_state(*sessions))
    assert w.counts()["by_uuid"] == {session: 1 for session in sessions}
    # One of them is still there.
    daemons[0].stop()
    assert "another is running" in w.once()


def test_one_that_was_killed_keeps_nobody_out(world):
    w = world(standin=False, accounts=NOBODY)
    daemon = w.daemon()
    wait_for(lambda: "the worker is up" in daemon.log())
    daemon.stop(signal.SIGKILL)
    assert "another is running" not in w.once()


def test_it_tells_the_service_manager(world, manager):
    w = world(standin=False, accounts=NOBODY)
    service = manager(w)
    assert service.heard() == {"READY": "1"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.process.send_signal(signal.SIGHUP)
    told = service.heard()
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert service.heard() == {"READY": "1"}
    service.process.send_signal(signal.SIGTERM)
    assert service.heard() == {"STOPPING": "1"}
    assert service.process.wait(15 * PATIENCE) == 0


def test_sighup_brings_new_credentials_and_loses_nothing(world):
    w = world(accounts={"main": {"password": "not-the-password"}})
    daemon = w.daemon()
    one = w.callback()
    wait_for(lambda: (w.login_row() or {}).get("error"))
    assert w.session(one)["state"] == "pending"
    # The pause after wrong credentials ends with a change that is younger than the last try.
    time.sleep(1.1)
    w.write_conf()
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: w.in_state(one))
    assert daemon.process.poll() is None and "the configuration was read again" in daemon.log()


def test_sighup_in_the_middle_of_fetches(world):
    w = world()
    w.callback()
    w.once()
    sessions = w.callbacks(5)
    w.control(default={"steps": [{"delay": 4}, {}]})
    daemon = w.daemon()
    wait_for(lambda: w.counts()["peak"] >= 2)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: w.in_state(*sessions), 30)
    assert all(w.session(s)["attempts"] <= 1 for s in sessions), "what was dropped does not count"
    assert daemon.stop()[0] == 0


def test_a_wrong_file_leaves_the_old_one_in_force(world):
    w = world()
    daemon = w.daemon()
    wait_for(lambda: "the worker is up" in daemon.log())
    with open(w.conf, "a", encoding="utf-8") as f:
        f.write("[verify]\nbudget = soon\n")
    line = sum(1 for _ in open(w.conf, encoding="utf-8"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the old one stays" in daemon.log())
    refused = next(row for row in daemon.log().splitlines() if "the old one stays" in row)
    assert "level=error" in refused and "%s:%d: budget" % (w.conf, line) in refused
    # For the program that takes the callback; the worker is not told again.
    w.write_conf()
    one = w.callback()
    wait_for(lambda: w.in_state(one))
    assert daemon.process.poll() is None


def test_another_store_needs_a_restart(world):
    w = world(standin=False, accounts=NOBODY)
    daemon = w.daemon()
    wait_for(lambda: "the worker is up" in daemon.log())
    with open(w.conf, encoding="utf-8") as f:
        text = f.read()
    with open(w.conf, "w", encoding="utf-8") as f:
        f.write(text.replace("/store\n", "/elsewhere\n"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the configuration was read again" in daemon.log())
    assert re.search(r"level=warn .*needs a restart.*\[store\]", daemon.log())
    assert daemon.process.poll() is None and not os.path.exists(w.path("elsewhere"))


def test_without_an_account_it_runs_and_says_so_once(world, manager):
    w = world(standin=False, accounts=NOBODY)
    with open(w.conf, "w", encoding="utf-8") as f:
        f.write("[store]\nurl = sqlite:%s\n" % w.path("store"))
    service = manager(w)
    assert service.heard() == {"READY": "1"}
    time.sleep(1)
    service.process.send_signal(signal.SIGTERM)
    assert service.heard() == {"STOPPING": "1"} and service.process.wait(15 * PATIENCE) == 0
    assert len([row for row in service.log().splitlines() if "level=warn" in row and "[proview NAME]" in row]) == 1
