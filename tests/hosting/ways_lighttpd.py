"""lighttpd + mod_fastcgi (deploy/lighttpd/examhook.conf), on top of the main file that Debian ships."""
import os
import shutil

import support
from ways import TOP, Way, substitute

DEBIAN = "/etc/lighttpd/lighttpd.conf"


class Lighttpd(Way):
    number, name, title = 7, "lighttpd", "lighttpd + mod_fastcgi"
    needs = ("lighttpd", "/usr/lib/lighttpd/mod_openssl.so")
    logs = ("lighttpd/error.log", "lighttpd/examhook-access.log", "log/lighttpd.log", "log/examjoint.log", "log/proview.log")

    def write_server(self):
        for name in ("lighttpd", "lighttpd/uploads", "www"):
            os.mkdir(self.path(name))
        own, main = self.path("lighttpd/examhook.conf"), self.path("lighttpd/lighttpd.conf")
        shutil.copy(os.path.join(TOP, "deploy/lighttpd/examhook.conf"), own)
        substitute(own, [
            ('$SERVER["socket"] == "0.0.0.0:443"', '$SERVER["socket"] == "127.0.0.1:%d"' % self.port),
            ('$SERVER["socket"] == "[::]:443"', '$SERVER["socket"] == "127.0.0.1:%d"' % support.free_port()),
            ("/etc/examhook/tls/", self.path("tls") + "/"), ("/run/examhook/", self.path("sock") + "/"),
            ("/usr/local/share/examhook/lighttpd/", os.path.join(TOP, "deploy/lighttpd/errors") + "/"),
            ("/var/log/lighttpd/", self.path("lighttpd") + "/")])
        shutil.copy(DEBIAN, main)
        substitute(main, [
            ("/var/www/html", self.path("www")), ("/var/cache/lighttpd/uploads", self.path("lighttpd/uploads")),
            ("/var/log/lighttpd/", self.path("lighttpd") + "/"), ("/run/lighttpd.pid", self.path("lighttpd/pid")),
            ("= 80\n", "= %d\nserver.bind = \"127.0.0.1\"\n" % support.free_port()),
            ('server.username             = "www-data"\n', ""), ('server.groupname            = "www-data"\n', ""),
            ('include_shell "/usr/share/lighttpd/use-ipv6.pl " + server.port\n', ""),
            ('include "/etc/lighttpd/conf-enabled/*.conf"', 'include "%s"' % own)])

    def start(self):
        self.start_program("examjoint")
        self.start_program("proview")
        self.start_server()
        return self

    def start_server(self):
        self.serve("lighttpd", ["lighttpd", "-D", "-f", self.path("lighttpd/lighttpd.conf")])
        # A body that lighttpd wanted to write to a file would have no place now.
        os.rmdir(self.path("lighttpd/uploads"))

    def written(self):
        return [self.path(name) for name in ("log", "store", "lighttpd")]


WAYS = [Lighttpd]
