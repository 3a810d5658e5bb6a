"""A web host of which we know nothing: a root with busybox, its own resolv.conf, hosts and certificate authorities, and
no C library nor any other library at all. Customers are users of it in one group, as hosts do it; what they run,
they run in that root. And beside it: the stand-in of Talview, and a name server."""
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
GROUP = 100
CA_PLACE = "etc/pki/tls/certs/ca-bundle.crt" # not where Debian has it
USERNAME, PASSWORD, APP_ID = "worker@example.org", "pass-CANARY-word", "app-4711"
BUSYBOX = "/bin/busybox"
# Of this run alone: port 53 of one address is had by one process.
NAME_SERVER = "127.%d.%d.%d" % (99, os.getpid() >> 8 & 0xff, os.getpid() % 254 + 1)

# What a web server gives a CGI program under suexec, and nothing else.
CGI = {"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "Apache", "SERVER_NAME": "alice.example",
       "SERVER_PORT": "443", "HTTPS": "on", "REMOTE_ADDR": "192.0.2.7", "CONTENT_TYPE": "application/json",
       "PATH": "/usr/local/bin:/usr/bin:/bin"}


def missing():
    """Why these tests cannot run here; None: they can."""
    if os.geteuid() != 0:
        return "a root of its own takes root"
    if not os.path.exists(BUSYBOX):
        return "no busybox-static"
    if subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return "no mount namespace may be made here"
    return None


def archive():
    names = [n for n in os.listdir(BUILD) if n.startswith("examhook-shared-hosting-") and n.endswith(".tar.gz")]
    assert len(names) == 1, "`make shared-hosting` comes first: " + repr(names)
    return os.path.join(BUILD, names[0])


def wait_for(what, seconds=60, every=0.1):
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(every)


class Host:
    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="examhook-host-")
        os.chmod(self.root, 0o755)
        self.next_user = 2001
        self.closing = []
        for name in ("bin", "dev", "proc", "tmp", "home", "etc/pki/tls/certs", "var/spool/cron/crontabs"):
            os.makedirs(self.path(name))
        os.chmod(self.path("tmp"), 0o1777)
        shutil.copy(BUSYBOX, self.path("bin/busybox"))
        for name, minor in (("null", 3), ("zero", 5), ("urandom", 9), ("random", 8)):
            os.mknod(self.path("dev", name), 0o20666, os.makedev(1, minor))
            os.chmod(self.path("dev", name), 0o666)
        self.write("etc/passwd", "root:x:0:0:root:/:/bin/sh\n")
        self.write("etc/group", "root:x:0:\nusers:x:%d:\n" % GROUP)
        self.write("etc/hosts", "127.0.0.1 localhost talview.example.net\n")
        self.write("etc/resolv.conf", "nameserver %s\n" % NAME_SERVER)
        done = self.run(["/bin/busybox", "--install", "-s", "/bin"], user=0)
        assert done.returncode == 0, done.stderr
        # The host's crontab is the host's business: busybox' own wants to be set-user-id.
        os.remove(self.path("bin/crontab"))
        self.write("bin/crontab", '#!/bin/sh\ntable=/tmp/crontab.$LOGNAME\ncase $1 in\n-l) cat "$table" || true ;;\n'
                   '-) cat >"$table.new" && mv "$table.new" "$table" ;;\nesac\n', 0o755)

    def path(self, *names):
        return os.path.join(self.root, *(n.lstrip("/") for n in names))

    def write(self, name, text, mode=0o644):
        with open(os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(self.path(name), mode)

    def command(self, arguments, user):
        """For subprocess: whatever PATH is in there, the way in does not need it."""
        enter = '/bin/mount -t proc proc "$1/proc" && root=$1 && shift && exec /usr/sbin/chroot --userspec="$0" "$root" "$@"'
        return ["/usr/bin/unshare", "-m", "/bin/sh", "-c", enter, "%d:%d" % (user, GROUP if user else 0), self.root] + list(arguments)

    def run(self, arguments, user, env=None, **how):
        how.setdefault("stdin", None if "input" in how else subprocess.DEVNULL)
        if how["stdin"] is None:
            del how["stdin"]
        return subprocess.run(self.command(arguments, user), env={"PATH": "/bin:/usr/bin:/sbin:/usr/sbin", **(env or {})},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=120, umask=0o022, **how)

    def customer(self):
        return Customer(self)

    def close(self):
        for close in self.closing:
            close()
        shutil.rmtree(self.root, ignore_errors=True)


class Customer:
    """An account at the host: a home with a web folder, and the archive unpacked in it."""

    def __init__(self, host, name=None):
        self.host, self.uid = host, host.next_user
        host.next_user += 1
        self.name = name or "c%d" % self.uid
        self.home, self.web = "/home/" + self.name, "/home/%s/public_html" % self.name
        with open(host.path("etc/passwd"), "a", encoding="ascii") as f:
            f.write("%s:x:%d:%d::%s:/bin/sh\n" % (self.name, self.uid, GROUP, self.home))
        os.makedirs(host.path(self.web))
        for folder in (self.home, self.web):
            os.chown(host.path(folder), self.uid, GROUP)
            os.chmod(host.path(folder), 0o755)

    def path(self, *names):
        return self.host.path(self.home, *names)

    def run(self, *arguments, env=None, **how):
        clean = {"HOME": self.home, "LOGNAME": self.name, "USER": self.name}
        clean.update(env or {})
        return self.host.run(arguments, self.uid, clean, **how)

    def sh(self, text, **how):
        return self.run("/bin/sh", "-c", "cd && " + text, **how)

    def good(self, text, **how):
        done = self.sh(text, **how)
        assert done.returncode == 0, (text, done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()

    def examhook(self, arguments, **how):
        return self.sh("examhook/bin/examhook " + arguments, **how)

    def unpack(self):
        shutil.copy(archive(), self.path("archive.tar.gz"))
        os.chmod(self.path("archive.tar.gz"), 0o644)
        return self.good("rm -rf unpacked && mkdir unpacked && gunzip -c archive.tar.gz | tar xf - -C unpacked && ls unpacked").strip()

    def install(self, options=""):
        folder = self.unpack()
        return self.good("sh unpacked/%s/install %s" % (folder, options))

    def configure(self, **replaced):
        """The installed configuration, with what a customer puts into it."""
        self.edit("examhook/examhook.conf", lambda text: text.replace("environment = production\n", "".join(
            "%s = %s\n" % pair for pair in replaced.items())))

    def edit(self, name, change):
        with open(self.path(name), "r+", encoding="utf-8") as f:
            text = change(f.read())
            f.seek(0)
            f.truncate()
            f.write(text)

    def option(self, name):
        with open(self.path("examhook/examhook.conf"), encoding="utf-8") as f:
            for line in f:
                key, _, value = line.partition(" = ")
                if key == name:
                    return value.strip()
        raise AssertionError("no option " + name)

    def put(self, name, text):
        with open(os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            f.write(text)
        os.chown(self.path(name), self.uid, GROUP)

    def rows(self, arguments):
        done = self.examhook(arguments + " --json")
        assert done.returncode == 0, (arguments, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def mode(self, *names):
        return os.stat(self.path(*names)).st_mode & 0o7777

    # --- The two programs ----------------------------------------------------------------------------------

    def cgi_env(self, program, body, method="POST", path="", **headers):
        """As Apache has it behind the .htaccess: the script's name, and the rest of the path."""
        env = {"REQUEST_METHOD": method, "DOCUMENT_ROOT": self.web, "QUERY_STRING": "",
               "CONTENT_LENGTH": str(len(body)), "SCRIPT_NAME": "/webhooks/%s.cgi" % program,
               "SCRIPT_FILENAME": "%s/webhooks/%s.cgi" % (self.web, program),
               "REQUEST_URI": "/webhooks/" + program + path, **CGI}
        if path:
            env["PATH_INFO"] = path
        env.update({"HTTP_" + name.upper(): value for name, value in headers.items()})
        return env

    def cgi(self, program, body, **how):
        """One request: (status, JSON, log)."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        env = self.cgi_env(program, body, **how)
        done = self.host.run([env["SCRIPT_FILENAME"]], self.uid, env, input=body, cwd=self.host.path(self.web, "webhooks"))
        head, _, text = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        assert "Status" in lines, (done.stdout, done.stderr)
        return int(lines["Status"].split()[0]), json.loads(text), done.stderr.decode()

    def secrets(self):
        return {"x_client_id": "examjoint", "x_client_secret": self.option("client_secret")}

    def callback(self, session):
        return self.cgi("proview", {"session_uuid": session, "external_id": "e-1", "message": "Session Has Been Terminated"},
                        path="/main/" + self.option("path_token"))

    def fastcgi(self, program):
        """The program as mod_fcgid starts it: a listening socket as its standard input, and next to no environment."""
        path = self.path(program + ".sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(16)
            with open(self.path(program + ".log"), "wb") as log:
                process = subprocess.Popen(self.host.command(["%s/webhooks/%s.fcgi" % (self.web, program)], self.uid),
                                           stdin=listener.fileno(), stdout=log, stderr=log, env={"PATH": CGI["PATH"]})
        return process, path


class Talview:
    """tests/standin/talview.py, under a certificate for a name that only the host's own files or its name server know."""

    def __init__(self, host):
        self.folder = tempfile.mkdtemp(prefix="examhook-talview-")
        command = [sys.executable, os.path.join(TOP, "tests/standin/talview.py"), "--port", "0", "--dir", self.folder,
                   "--name", "talview.example.net", "--name", "talview.example.org",
                   "--username", USERNAME, "--password", PASSWORD, "--app-id", APP_ID]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("ready https://"), line
        self.port = int(line.split(":")[-1])
        self.tls = ssl.create_default_context(cafile=os.path.join(self.folder, "ca.pem"))
        shutil.copy(os.path.join(self.folder, "ca.pem"), host.path(CA_PLACE))
        os.chmod(host.path(CA_PLACE), 0o644)

    def urls(self, name="talview.example.net"):
        base = "https://%s:%d" % (name, self.port)
        return {"login_url": base + "/v1/user/login", "session_url": base + "/v1/sessions", "username": USERNAME,
                "password": PASSWORD, "app_id": APP_ID}

    def ask(self, path, order=None):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls))
        data = None if order is None else json.dumps(order).encode()
        with opener.open(urllib.request.Request("https://127.0.0.1:%d%s" % (self.port, path), data=data), timeout=10) as reply:
            return json.load(reply)

    def calls(self):
        return [call["path"] for call in self.ask("/control/log")]

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class NameServer:
    """Says of every name that it is 127.0.0.1. `names` are those it was asked for."""

    def __init__(self, address=NAME_SERVER):
        self.names = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                question, peer = self.socket.recvfrom(512)
            except OSError:
                return
            end = question.index(b"\0", 12) + 5
            at, labels = 12, []
            while question[at]:
                labels.append(question[at + 1:at + 1 + question[at]].decode())
                at += question[at] + 1
            self.names.append(".".join(labels))
            address = struct.unpack(">H", question[end - 4:end - 2])[0] == 1 # A
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + bytes([127, 0, 0, 1])
            self.socket.sendto(question[:2] + struct.pack(">HHHHH", 0x8180, 1, int(address), 0, 0) + question[12:end]
                               + (answer if address else b""), peer)

    def close(self):
        self.socket.close()
