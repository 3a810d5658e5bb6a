"""nginx with our programs as FastCGI servers on unix sockets (nginx/examhook*.conf), and with fcgiwrap, which starts
them for each request (nginx/examhook-fcgiwrap.conf)."""
import os
import re
import shutil
import signal
import socket

import support
from support import Part, Site, wait_for
from ways import TOP, Way, substitute


def slower(path):
    """So small a limit that a test reaches it, however long a request takes."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    text, count = re.subn(r"rate=\d+r/s", "rate=6r/m", re.sub(r"burst=\d+", "burst=2", text))
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


class NginxFastcgi(Way):
    number, name, title = 1, "nginx-fastcgi", "nginx + FastCGI"
    needs, logs = ("nginx",), ("nginx/access.log", "nginx/error.log", "log/nginx.log", "log/examjoint.log", "log/proview.log")

    def write_server(self):
        Site.write_nginx(self, None)
        if self.rate_limited:
            slower(self.path("nginx/examhook-http.conf"))
            slower(self.path("nginx/examhook-locations.conf"))

    def start(self):
        return Site.start(self)


class Group(Part):
    """fcgiwrap's own children do not end with it (under systemd the service's end takes them along)."""

    def __init__(self, name, command, folder):
        super().__init__(name, ["setsid"] + command, folder)

    def stop(self, number=signal.SIGTERM, seconds=10):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        return super().stop(number, seconds)


class NginxFcgiwrap(Way):
    number, name, title = 6, "nginx-fcgiwrap", "nginx + fcgiwrap"
    loop = False
    needs = ("nginx", "fcgiwrap", "spawn-fcgi")
    logs = ("nginx/access.log", "nginx/error.log", "log/nginx.log", "log/fcgiwrap.log")
    end_status = {"fcgiwrap": -signal.SIGTERM}

    def write_server(self):
        Site.write_nginx(self, None)
        shutil.copy(os.path.join(TOP, "nginx/examhook-fcgiwrap.conf"), self.path("nginx"))
        substitute(self.path("nginx/examhook.conf"), [("examhook-locations.conf", "examhook-fcgiwrap.conf")])
        substitute(self.path("nginx/examhook-fcgiwrap.conf"), [
            ("/run/examhook/", self.path("sock") + "/"), ("/var/log/nginx/examhook-", self.path("nginx") + "/"),
            ("/etc/examhook/examhook.conf", self.conf_path), ("/usr/local/lib/examhook", support.BUILD)])
        if self.rate_limited:
            slower(self.path("nginx/examhook-http.conf"))
            slower(self.path("nginx/examhook-fcgiwrap.conf"))

    def start(self):
        self.up("fcgiwrap")
        self.start_nginx()
        return self

    def down(self, program):
        self.parts.pop("fcgiwrap").stop()
        os.remove(self.path("sock/fcgiwrap.sock"))

    def up(self, program):
        path = self.path("sock/fcgiwrap.sock")
        self.parts["fcgiwrap"] = part = Group("fcgiwrap", ["spawn-fcgi", "-n", "-s", path, "-M", "0660", "--",
                                                           "/usr/sbin/fcgiwrap", "-c", "8"], self.folder)

        def listening():
            assert part.alive(), part.log()
            with socket.socket(socket.AF_UNIX) as s:
                return s.connect_ex(path) == 0
        assert wait_for(listening), part.log()

    def program_log(self, program):
        with open(self.path("log/fcgiwrap.log"), encoding="utf-8", errors="replace") as f:
            return f.read()


WAYS = [NginxFastcgi, NginxFcgiwrap]
