"""A throw-away Debian with a real systemd, for tests that need a machine of their own: root's, without a virtual
machine or a container program.

    with Machine(packages=["nginx-light"]) as machine:     # booted, within seconds once its base is there
        machine.put("some/file", "/root/file")
        machine.run(["systemctl", "start", "nginx"])
        machine.apt_install("curl")

The base is made by debootstrap from the sources that apt uses here, and kept in the cache folder (build/machine, or
EXAMHOOK_MACHINE_CACHE) until somebody removes it; a machine is a layer in memory above it. All of it lives in
namespaces of its own: its mounts are never seen outside, its processes and its network (loopback alone) end with it.
Only a cgroup folder is left to remove, and that is done. Packages come through the host's network.

`unavailable()` says why there can be no machine here (None: there can).
"""
import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BOOT = os.path.join(HERE, "boot")
KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"
INCLUDED = "systemd,systemd-sysv,ca-certificates,procps,iproute2"
TOOLS = ("debootstrap", "unshare", "nsenter", "setpriv", "pivot_root", "apt-get")
# What would reach the kernel that the machine shares with its host, or has nothing to do in it.
MASKED = ("systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service",
          "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
          "systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-timesyncd.service",
          "systemd-random-seed.service", "systemd-networkd.service", "systemd-hwdb-update.service",
          "kmod-static-nodes.service", "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount",
          "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
          "sys-fs-fuse-connections.mount", "console-getty.service", "getty.target", "apt-daily.timer",
          "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer")
PREFIX = "examhook-machine-"


class MachineError(Exception):
    """The machine could not be made or did not do as it was told."""


def unavailable():
    """Why no machine can be made here, or None."""
    if os.getuid() != 0:
        return "a machine of its own needs root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return "not installed: " + ", ".join(missing)
    if set(":,\\") & set(cache_folder()):
        return "the cache folder's path has a character that an overlay would not take"
    if not cgroup_top():
        return "no cgroup v2 that can be written to"
    tried = subprocess.run(["unshare", "-m", "-p", "-f", "-u", "-i", "-n", "-C", "true"], capture_output=True,
                           text=True, check=False)
    return "no namespaces: " + tried.stderr.strip() if tried.returncode else None


def cgroup_top():
    """Where the hierarchy of version 2 is mounted, alone or beside version 1."""
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.access(os.path.join(folder, "cgroup.controllers"), os.R_OK) and os.access(folder, os.W_OK):
            return folder
    return None


def cache_folder():
    return os.path.abspath(os.environ.get("EXAMHOOK_MACHINE_CACHE") or os.path.join(TOP, "build/machine"))


def checked(command, what, **how):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False, **how)
    if done.returncode:
        raise MachineError("%s: exit status %d\n%s" % (what, done.returncode, done.stdout[-4000:]))
    return done.stdout


# --- The base and its layers -----------------------------------------------------------------------------------

def sources():
    """(codename, mirror, text of a sources.list), as apt has them here, of Debian's own archives."""
    with open("/etc/os-release", encoding="utf-8") as f:
        codename = re.search(r"^VERSION_CODENAME=(\w+)", f.read(), re.M).group(1)
    listed = checked(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
                      "Created-By: Packages"], "apt's sources")
    lines, mirror = [], None
    for site, suite, component in sorted(line.split() for line in set(listed.splitlines()) if line.count(" ") == 2):
        if suite.split("-")[0] != codename:
            continue
        lines.append("deb [signed-by=/%s] %s %s %s" % (KEYRING, site, suite, component))
        if suite == codename and component == "main":
            mirror = site
    if not mirror:
        raise MachineError("apt has no source for %s main" % codename)
    return codename, mirror, "\n".join(lines) + "\n"


@contextlib.contextmanager
def made_once(folder):
    """Yields a fresh folder to fill that becomes `folder`, or None when that is there; one process at a time."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(folder):
            yield None
            return
        new = folder + ".new"
        shutil.rmtree(new, ignore_errors=True)
        os.mkdir(new)
        yield new
        os.rename(new, folder)


def base():
    """The folder of the plain system, made when there is none."""
    codename, mirror, text = sources()
    folder = os.path.join(cache_folder(), "base-" + codename)
    with made_once(folder) as new:
        if new:
            checked(["debootstrap", "--variant=minbase", "--include=" + INCLUDED, codename, new, mirror],
                    "debootstrap", env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
            write(os.path.join(new, "etc/apt/sources.list"), text)
            settings = [line for line in checked(["apt-config", "dump"], "apt-config").splitlines()
                        if re.match(r"Acquire::https?::", line)]
            write(os.path.join(new, "etc/apt/apt.conf.d/90machine"), "\n".join(settings + [
                'Acquire::Languages "none";', 'APT::Install-Recommends "false";', 'DPkg::Lock::Timeout "300";', ""]))
            for unit in MASKED:
                os.symlink("/dev/null", os.path.join(new, "etc/systemd/system", unit))
            write(os.path.join(new, "etc/hostname"), "machine\n")
            write(os.path.join(new, "etc/hosts"), "127.0.0.1 localhost machine\n::1 localhost\n")
            shutil.rmtree(os.path.join(new, "var/cache/apt/archives"))
            os.makedirs(os.path.join(new, "var/cache/apt/archives/partial"))
            os.makedirs(os.path.join(new, "var/log/journal"), exist_ok=True)
            # Each machine is another one.
            write(os.path.join(new, "etc/machine-id"), "")
    return folder


def layer(packages):
    """The folders of an overlay that has these packages, the upper first."""
    below = base()
    if not packages:
        return [below]
    names = sorted(set(packages))
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    folder = os.path.join(cache_folder(), "layer-" + key)
    with made_once(folder) as new:
        if new:
            for name in ("root", "work"):
                os.mkdir(os.path.join(new, name))
            script = ("set -e; cd /usr/sbin; printf '#!/bin/sh\\nexit 101\\n' >policy-rc.d; chmod 755 policy-rc.d; "
                      "apt-get update -q; apt-get install -q -y " + " ".join(names) +
                      "; apt-get clean; rm policy-rc.d")
            checked(["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "-u", "-i", "-C", "-f", "--kill-child",
                     BOOT, below, new, empty_folder(), "/bin/sh", "-c", script], "packages of a machine")
            write(os.path.join(new, "packages"), "\n".join(names) + "\n")
    return [os.path.join(folder, "root"), below]


def empty_folder():
    """Something to mount on, in another mount namespace: many can use it at once."""
    folder = os.path.join(cache_folder(), "empty")
    os.makedirs(folder, exist_ok=True)
    return folder


def write(path, text):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())


# --- The machine -----------------------------------------------------------------------------------------------

class Machine:
    """`packages` are there before the first boot, none of their services started meanwhile (they are kept in a layer
    in the cache); apt_install() installs as on a running machine. What it writes is in memory, and gone when it is
    stopped; with `disk`, an empty folder, it is there again at the next start()."""

    def __init__(self, packages=(), disk=None):
        self.packages, self.disk = list(packages), disk
        self.process = self.first = self.cgroup = self.console = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self, seconds=120):
        """Boots; returns self when systemd says that it is running."""
        assert not self.process
        sweep_cgroups()
        lower = layer(self.packages)
        self.cgroup = os.path.join(cgroup_top(), "%s%d-%x" % (PREFIX, os.getpid(), time.monotonic_ns()))
        self.console = tempfile.TemporaryFile()
        for name in ("root", "work") if self.disk else ():
            os.makedirs(os.path.join(self.disk, name), exist_ok=True)
        try:
            os.mkdir(self.cgroup)
            # It enters the cgroup before the namespace is made: that folder is the machine's top one.
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', self.cgroup, "setpriv", "--pdeathsig",
                 "KILL", "unshare", "-m", "-p", "-u", "-i", "-C", "-n", "-f", "--kill-child", BOOT, ":".join(lower),
                 self.disk or "memory", empty_folder(), "/lib/systemd/systemd", "--system", "--show-status=no"],
                stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT)
            self.wait_until_up(seconds)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_up(self, seconds):
        end = time.monotonic() + seconds
        state = "no first process"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            self.first = self.first or first_child(self.process.pid)
            if self.first and os.path.exists("/proc/%d/root/run/systemd/private" % self.first):
                state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
                if state == "running":
                    return
                if state == "degraded":
                    failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"], check=False).stdout
                    raise MachineError("units failed at boot:\n" + failed)
            time.sleep(0.1)
        self.console.seek(0)
        raise MachineError("not booted (%s):\n%s" % (state, self.console.read()[-3000:].decode("utf-8", "replace")))

    def stop(self):
        """The machine ends at once, as when its power fails; nothing of it is left but its disk."""
        if self.process:
            if self.first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.first, signal.SIGKILL)
            else:
                self.process.kill()
            self.process.wait()
        if self.console:
            self.console.close()
        if self.cgroup:
            remove_cgroup(self.cgroup)
        self.process = self.first = self.cgroup = self.console = None

    def enter(self, network="machine"):
        """The beginning of a command line that runs the rest in the machine."""
        spaces = ["-m", "-p", "-u", "-i", "-C"] + (["-n"] if network == "machine" else [])
        return ["nsenter", "-t", str(self.first), *spaces, "-r", "-w", "--", "env", "-i", "LC_ALL=C.UTF-8",
                "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb",
                "DEBIAN_FRONTEND=noninteractive"]

    def run(self, command, check=True, user=None, network="machine", timeout=600, input=None, env=()):
        """Runs a list as it is, or a text by bash, as root or another user of the machine; output is text, stderr
        apart. With network="host" it reaches what the host reaches."""
        words = ["bash", "-euo", "pipefail", "-c", command] if isinstance(command, str) else [str(w) for w in command]
        if user:
            words = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", *words]
        how = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(self.enter(network) + list(env) + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, errors="replace", check=False, timeout=timeout, **how)
        if check and done.returncode:
            raise MachineError("%s: exit status %d\n%s%s" % (command, done.returncode, done.stdout[-4000:],
                                                             done.stderr[-4000:]))
        return done

    def apt_install(self, *names):
        """Packages by name, or files of the machine by their absolute path, as an administrator installs them: their
        services start. Returns what apt said."""
        return self.run("apt-get update -q 2>&1 && apt-get install -q -y %s 2>&1" % " ".join(names), network="host",
                        timeout=1800).stdout

    def connect(self, port, host="127.0.0.1", seconds=60):
        """A TCP connection from within the machine's network, as if a program there had made it."""
        with open("/proc/self/task/%d/ns/net" % threading.get_native_id(), "rb") as here, \
                open("/proc/%d/ns/net" % self.first, "rb") as there:
            set_network(there)
            try:
                return socket.create_connection((host, port), seconds)
            finally:
                set_network(here)

    def start_outside(self, command, **how):
        """Starts a program of the host in the machine's network, for servers that stand in for others."""
        return subprocess.Popen(["nsenter", "-t", str(self.first), "-n", "--", *command], **how)

    def path(self, name="/"):
        """A file of the machine, as the host can open it."""
        return "/proc/%d/root/%s" % (self.first, str(name).lstrip("/"))

    def put(self, source, target, mode=None, owner=None):
        """Copies a file or folder of the host, or the bytes given, to a place in the machine."""
        there = self.path(target)
        os.makedirs(os.path.dirname(there), exist_ok=True)
        if isinstance(source, bytes):
            write(there, source)
        elif os.path.isdir(source):
            shutil.copytree(source, there, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, there)
        if mode is not None:
            os.chmod(there, mode)
        if owner:
            self.run(["chown", owner, target])

    def read(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as f:
            return f.read()

    def wait(self, command, seconds=60):
        """Repeats a command until it ends well; its output then."""
        end = time.monotonic() + seconds
        while True:
            done = self.run(command, check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > end:
                raise MachineError("%s: still %d after %d s\n%s%s" % (command, done.returncode, seconds, done.stdout,
                                                                      done.stderr))
            time.sleep(0.2)


def set_network(namespace):
    """The calling thread goes there, the others stay."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace.fileno(), 0x40000000): # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def first_child(pid):
    """The process that unshare started: the first one of the machine."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as f:
            child = int(f.read().split()[0])
        # Before pivot_root its root is the host's: a path through it would hit the host.
        if os.stat("/proc/%d/root" % child).st_dev != os.stat("/").st_dev:
            return child
    return None


def remove_cgroup(folder):
    """Its processes have been killed, and are gone in a moment."""
    for _ in range(100):
        for where, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(where)
        if not os.path.isdir(folder):
            return
        time.sleep(0.05)
    raise MachineError("still there: " + folder)


def sweep_cgroups():
    """What a killed run left."""
    for name in os.listdir(cgroup_top()):
        found = re.fullmatch(PREFIX + r"(\d+)-[0-9a-f]+", name)
        if found and not os.path.exists("/proc/" + found.group(1)):
            with contextlib.suppress(MachineError):
                remove_cgroup(os.path.join(cgroup_top(), name))
