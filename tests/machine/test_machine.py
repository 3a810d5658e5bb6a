"""The throw-away machine itself: it is a machine of its own, and nothing of it stays."""
import os
import subprocess

import pytest

from machine import MachineError, cgroup_top


def mounts():
    with open("/proc/self/mounts", encoding="utf-8") as f:
        return f.read()


def cgroups_of(pid):
    return [name for name in os.listdir(cgroup_top()) if name.startswith("examhook-machine-%d-" % pid)]


def test_a_machine_of_its_own(make_machine):
    before = mounts(), os.uname().nodename
    one = make_machine()
    assert one.run(["systemctl", "is-system-running"]).stdout == "running\n"
    assert one.run("hostname; cat /proc/1/comm").stdout.split() == ["machine", "systemd"]
    assert (mounts(), os.uname().nodename) == before
    # Its own network, whose only interface is the loopback one.
    assert one.run("ip -o link | wc -l; ping -V >/dev/null 2>&1 || true").stdout == "1\n"
    # The kernel's settings are the host's.
    with pytest.raises(MachineError):
        one.run("echo machine2 >/proc/sys/kernel/hostname")
    one.put(b"text\n", "/root/folder/file", mode=0o640, owner="daemon:daemon")
    assert one.run("stat -c '%U %a' /root/folder/file; cat /root/folder/file").stdout == "daemon 640\ntext\n"
    assert one.run("id -un", user="daemon").stdout == "daemon\n"
    assert one.run(["false"], check=False).returncode == 1
    first = one.first
    one.stop()
    assert not os.path.exists("/proc/%d" % first) and not cgroups_of(os.getpid()) and mounts() == before[0]


def test_a_second_one_is_fresh(make_machine):
    one = make_machine()
    one.run("touch /root/was-here; echo changed >/etc/issue")
    two = make_machine()
    assert two.run("ls /root").stdout == "" and "changed" not in two.read("/etc/issue")
    assert one.run("ls /root").stdout == "was-here\n"
    assert one.run("cat /etc/machine-id").stdout != two.run("cat /etc/machine-id").stdout


def test_units_may_have_namespaces_of_their_own(make_machine):
    """What our units ask for works here; otherwise their test would say nothing."""
    one = make_machine()
    one.put(b"""[Service]
Type=oneshot
ExecStart=sh -c 'ls -d /proc/[0-9]* | wc -l; touch /etc/x 2>/dev/null || ls /sys/class/net; \
    head -1 /proc/self/uid_map; cat /run/credentials/seen.service/word'
StandardOutput=file:/root/seen
User=daemon
LoadCredential=word:/root/word
PrivateUsers=yes
PrivateNetwork=yes
ProtectProc=invisible
ProcSubset=pid
ProtectSystem=strict
""", "/etc/systemd/system/seen.service")
    one.put(b"handed over\n", "/root/word", mode=0o400)
    one.run("systemctl daemon-reload; systemctl start seen")
    lines = one.read("/root/seen").splitlines()
    assert int(lines[0]) <= 4 and lines[1] == "lo" and lines[2].split() == ["0", "0", "1"], lines
    assert lines[-1] == "handed over"


def test_packages(make_machine):
    """In a layer: there at boot. Installed later: as an administrator does it."""
    one = make_machine(["nginx-light"])
    assert one.run(["systemctl", "is-active", "nginx"]).stdout == "active\n"
    one.apt_install("netcat-openbsd")
    answer = one.run("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -N 127.0.0.1 80").stdout
    assert answer.startswith("HTTP/1.1 200")


def test_it_ends_with_its_test(make_machine):
    """However that ends: here by SIGKILL. The next one takes away what is left."""
    script = ("import os, sys; sys.path.insert(0, %r); import machine\n"
              "print(os.getpid(), machine.unavailable() or machine.Machine().start().first, flush=True)\n"
              "os.kill(os.getpid(), 9)" % os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    killed, first = done.stdout.split(maxsplit=1)
    if not first.strip().isdigit():
        pytest.skip(first.strip())
    subprocess.run(["timeout", "60", "tail", "--pid", first.strip(), "-f", "/dev/null"], check=True)
    make_machine()
    assert not cgroups_of(int(killed))
