"""A machine with examhook as `make install` leaves it, behind nginx with the shipped site, and its clients."""
import functools
import http.client
import json
import os
import re
import ssl
import subprocess
import tempfile

from machine import TOP, Machine
from support import BUILD, PYTHON, exchange, wait_for

# What `make install` expects to be there, and the web server.
PACKAGES = ("nginx-light", "curl", "openssl", "libfcgi0ldbl", "libyajl2", "libsqlite3-0", "libcurl4", "libsodium23",
            "libcrypt1", "libinih1", "libcsv3", "tzdata")
CONFIG = "/etc/examhook/examhook.conf"
SERVICES = ("examhook-examjoint", "examhook-proview", "examhook-worker")


@functools.lru_cache(maxsize=None)
def installed_files():
    """`make install` into a folder, once."""
    folder = tempfile.TemporaryDirectory(prefix="examhook-install-")
    subprocess.run(["make", "--no-print-directory", "-C", TOP, "BUILD=" + BUILD, "DESTDIR=" + folder.name, "install"],
                   check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, MAKEFLAGS=""))
    return folder


class Installed(Machine):
    """Installed, with users and folders; nothing is configured yet."""

    def __init__(self, disk=None):
        super().__init__(PACKAGES, disk)
        self.tls = self.standin = None

    def install(self):
        self.put(os.path.join(installed_files().name, "usr/local"), "/usr/local")
        self.run("systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload")
        return self

    def stop(self):
        if self.standin:
            self.standin.kill()
            self.standin.wait()
            self.standin = None
        super().stop()

    # --- Set up -------------------------------------------------------------------------------------------

    def configure(self, text):
        """[store] and [verify] as on a machine, and the rest."""
        head = "[store]\nurl = sqlite:/var/lib/examhook\n[verify]\nlanguages = /usr/local/share/examhook/languages\n"
        self.put((head + text).encode(), CONFIG, mode=0o600)
        self.run("chmod 750 /etc/examhook")

    def nginx(self):
        """The shipped files where their comments say that they go, and a certificate made on the spot."""
        for name, folder in (("http", "conf.d"), ("locations", "snippets")):
            self.put(os.path.join(TOP, "nginx/examhook-%s.conf" % name),
                     "/etc/nginx/%s/examhook-%s.conf" % (folder, name))
        self.put(os.path.join(TOP, "nginx/examhook.conf"), "/etc/nginx/sites-enabled/examhook.conf")
        self.run("mkdir -p /etc/examhook/tls; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
                 "-nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 "
                 "-keyout /etc/examhook/tls/key.pem -out /etc/examhook/tls/cert.pem 2>/dev/null; nginx -t -q; "
                 "systemctl restart nginx")
        self.trust()

    def trust(self):
        self.tls = ssl.create_default_context(cadata=self.read("/etc/examhook/tls/cert.pem"))

    def start_standin(self, *options):
        """Talview, at the address that is returned; its authority is /srv/talview/ca.pem."""
        self.run("mkdir -p /srv/talview")
        log = open(self.path("/srv/talview.log"), "w", encoding="utf-8")
        command = [PYTHON, os.path.join(TOP, "tests/standin/talview.py"), "--port", "0", "--dir"]
        self.standin = self.start_outside([*command, self.path("/srv/talview"), *options], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=subprocess.STDOUT)
        log.close()
        found = wait_for(lambda: re.search(r"^ready (https:\S+)", self.read("/srv/talview.log"), re.M), 30)
        assert found, self.read("/srv/talview.log")
        self.run("chmod 755 /srv/talview; chmod 644 /srv/talview/ca.pem")
        # By its name: the worker has to look it up.
        return found.group(1).replace("127.0.0.1", "localhost")

    # --- Clients ------------------------------------------------------------------------------------------

    def ask(self, method, path, body=None, headers=()):
        """One request over TLS, as support.Site.ask() makes it."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.tls.wrap_socket(self.connect(443), server_hostname="localhost")
        return exchange(connection, method, path, body, headers)

    def rows(self, *words):
        return [json.loads(line) for line in self.run(["examhook", *words, "--json"]).stdout.splitlines()]

    def main_pid(self, service):
        return int(self.run(["systemctl", "show", "-P", "MainPID", service]).stdout)

    def journal(self, service):
        return self.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-u", service]).stdout


