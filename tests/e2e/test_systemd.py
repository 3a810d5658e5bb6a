"""The units, as systemd's own tools judge them. What they do on a running machine: tests/machine/test_units.py."""
import glob
import os
import re
import subprocess

import pytest

from support import TOP

UNITS = sorted(glob.glob(os.path.join(TOP, "deploy/systemd/*.service")))
SOCKETS = sorted(glob.glob(os.path.join(TOP, "deploy/systemd/*.socket")))
WEB = ("examjoint", "proview")
# systemd's number times ten: 0 is a program that can do nothing, 100 one that can do anything.
EXPOSURE_MAX = 15


def name_of(path):
    return os.path.basename(path)


def settings(path):
    """{name: [values]} of a unit."""
    found = {}
    with open(path, encoding="utf-8") as f:
        for name, value in re.findall(r"^(\w+)=(.*)$", f.read(), re.M):
            found.setdefault(name, []).append(value)
    return found


def test_there_are_all_units():
    assert [name_of(path) for path in UNITS + SOCKETS] == [
        "examhook-examjoint.service", "examhook-proview.service", "examhook-worker.service",
        "examhook-examjoint.socket", "examhook-proview.socket"]


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_little_is_exposed(unit):
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                           "--threshold=%d" % EXPOSURE_MAX, unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Overall exposure level for %s: \d\.\d " % re.escape(name_of(unit)), done.stdout)


@pytest.mark.parametrize("unit", UNITS + SOCKETS, ids=name_of)
def test_systemd_finds_nothing_to_complain_of(unit):
    done = subprocess.run(["systemd-analyze", "--man=no", "verify", unit], capture_output=True, text=True, check=False,
                          env=dict(os.environ, SYSTEMD_UNIT_PATH=os.path.dirname(unit) + ":"))
    # The programs are not installed here.
    lines = [line for line in done.stderr.splitlines() if not re.search(r"Command /usr/local/\S+ is not executable",
                                                                        line)]
    assert lines == []


@pytest.mark.parametrize("name", WEB)
def test_a_program_that_faces_the_web_has_no_network(name):
    unit = settings(os.path.join(TOP, "deploy/systemd/examhook-%s.service" % name))
    assert unit["PrivateNetwork"] == ["yes"] and unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    socket = settings(os.path.join(TOP, "deploy/systemd/examhook-%s.socket" % name))
    assert (socket["SocketMode"], socket["SocketGroup"]) == (["0660"], ["www-data"])
    with open(os.path.join(TOP, "nginx/examhook-http.conf"), encoding="utf-8") as f:
        assert "unix:%s " % socket["ListenStream"][0] in f.read()


def test_each_program_is_a_user_and_writes_one_folder():
    units = [settings(path) for path in UNITS]
    assert len({unit["User"][0] for unit in units}) == len({unit["ReadWritePaths"][0] for unit in units}) == 3
    with open(os.path.join(TOP, "deploy/systemd/examhook.tmpfiles"), encoding="utf-8") as f:
        folders = {line.split()[1]: line.split()[3] for line in f if line.startswith("d ")}
    for unit in units:
        assert folders[unit["ReadWritePaths"][0]] == unit["User"][0]
