"""The four ways under Apache: deploy/apache/*.conf, and deploy/shared-hosting/htaccess under suexec. As root, Apache runs as
www-data, as Debian has it; as another user, as that one (suexec takes root)."""
import os
import pwd
import shutil
import signal
import subprocess

import support
from support import BUILD, LANGUAGES, environment
from ways import TOP, Way

MODULES = "/usr/lib/apache2/modules"
# What Debian enables by itself, and what the pages say to enable.
USUAL = ("mpm_event authz_core authz_host authn_core alias dir mime env setenvif reqtimeout filter rewrite headers "
         "socache_shmcb ssl http2").split()
CUSTOMER = 45678 # the customer's user and group on the shared host


def web_user():
    """The user that Apache runs as."""
    return pwd.getpwnam("www-data") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def give(path, uid, gid, mode=None):
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
    if mode is not None:
        os.chmod(path, mode)


class Apache(Way):
    """`modules`: what this way takes besides the usual ones; `server_lines`: more of the server's own file."""
    modules = ()
    needs, logs = ("apache2",), ("log/apache.log", "log/apache-error.log", "log/examhook-access.log")

    def write_server(self):
        os.chmod(self.folder, 0o711) # the programs' sockets, or the programs, are below it
        for name in ("apache", "www", "tmp"):
            os.mkdir(self.path(name))
        self.tmp_state = None
        give(self.path("tmp"), web_user().pw_uid, web_user().pw_gid, 0o700)
        shutil.copytree(os.path.join(TOP, "deploy/apache"), self.path("apache/examhook"))
        self.lay_out()
        with open(self.path("apache/apache2.conf"), "w", encoding="utf-8") as f:
            f.write(self.server_text())

    def lay_out(self):
        """The files that a user would put in place."""

    def server_text(self):
        """What is Debian's apache2.conf on a real host, and then our site."""
        folder, user = self.folder, web_user()
        lines = ["LoadModule %s_module %s/mod_%s.so" % (name, MODULES, name) for name in USUAL + list(self.modules)]
        if os.geteuid() == 0:
            lines += ["User www-data", "Group www-data"]
        lines += [
            "ServerRoot %s/apache" % folder, "ServerName localhost", "PidFile %s/apache/pid" % folder,
            "DefaultRuntimeDir %s/apache" % folder, "Mutex sem default" if user.pw_uid else "",
            "TypesConfig /dev/null", "ErrorLog %s/log/apache-error.log" % folder, "LogLevel warn",
            "TraceEnable Off", "StartServers 1", "ServerLimit 2", "ThreadsPerChild 64", "MaxRequestWorkers 128",
            "MinSpareThreads 16", "MaxSpareThreads 128",
            "Listen 127.0.0.1:%d" % self.port, "DocumentRoot %s/www" % folder,
            "<Directory />\nAllowOverride None\nRequire all denied\n</Directory>",
            "<Directory %s/www>\nRequire all granted\n</Directory>" % folder]
        return "\n".join(lines + self.site_lines()) + "\n"

    def site_lines(self):
        defines = {"EXAMHOOK_ADDRESS": "127.0.0.1:%d" % self.port, "EXAMHOOK_TLS": self.path("tls"),
                   "EXAMHOOK_LOGS": self.path("log"), "EXAMHOOK_WAY": self.conf_name,
                   "EXAMHOOK_ERROR_LOG": self.path("log/apache-error.log"), **self.defines()}
        return ["Define %s %s" % pair for pair in defines.items()] + ["Include examhook/examhook-site.conf"]

    def defines(self):
        return {}

    def command(self, *options):
        return ["apache2", "-f", self.path("apache/apache2.conf"), *options]

    def start(self):
        self.serve("apache", ["env", "TMPDIR=" + self.path("tmp"), *self.command("-DFOREGROUND")])
        self.tmp_state = os.stat(self.path("tmp")).st_mtime_ns
        return self

    def made_temporary_files(self):
        """A file that was made and removed again shows in its folder's time."""
        return self.tmp_state is not None and os.stat(self.path("tmp")).st_mtime_ns != self.tmp_state

    def close(self):
        try:
            assert not self.made_temporary_files(), "Apache made a temporary file: a body, with a password in it"
        finally:
            super().close()

    def written(self):
        return [self.path(name) for name in ("log", "store", "apache", "tmp")]


class ProxyFcgi(Apache):
    number, name, title = 2, "apache-proxy-fcgi", "Apache + mod_proxy_fcgi"
    conf_name, modules = "proxy-fcgi", ("proxy", "proxy_fcgi")

    def lay_out(self):
        give(self.path("sock"), 0, web_user().pw_gid, 0o750)

    def defines(self):
        return {"EXAMHOOK_SOCKETS": self.path("sock")}

    def start_program(self, name):
        """As the units have it: the socket is the web server's group's."""
        path = self.path("sock", name + ".sock")
        command = [os.path.join(BUILD, name + ".fcgi"), "--config", self.conf_path, "--socket", path]
        if os.geteuid() == 0:
            command += ["--socket-group", "www-data"]
        self.parts[name] = support.Part(name, command, self.folder)
        assert support.wait_for(lambda: os.path.exists(path)), self.parts[name].log()

    def start(self):
        self.start_program("examjoint")
        self.start_program("proview")
        return super().start()


class Started(Apache):
    """Apache starts the programs, as its own user: it owns the store and the configuration."""
    loop = False

    def lay_out(self):
        user = web_user()
        os.mkdir(self.path("lib"))
        for name in ("examjoint.fcgi", "proview.fcgi"):
            shutil.copy(os.path.join(BUILD, name), self.path("lib", name))
        self.move_languages(self.path("languages"))
        give(self.conf_path, user.pw_uid, user.pw_gid)
        os.makedirs(self.path("store"), 0o750, exist_ok=True)
        give(self.path("store"), user.pw_uid, user.pw_gid)

    def move_languages(self, where):
        """Where that user can read them."""
        shutil.copytree(LANGUAGES, where)
        with open(self.conf_path, encoding="utf-8") as f:
            text = f.read()
        with open(self.conf_path, "w", encoding="utf-8") as f:
            f.write(text.replace("languages = " + LANGUAGES, "languages = " + where))

    def program_file(self, program):
        return self.path("lib", program + ".fcgi")

    def defines(self):
        return {"EXAMHOOK_PROGRAMS": self.path("lib"), "EXAMHOOK_CONF": self.conf_path}

    def down(self, program):
        os.rename(self.program_file(program), self.program_file(program) + ".away")

    def up(self, program):
        os.rename(self.program_file(program) + ".away", self.program_file(program))

    def program_log(self, program):
        """What a program says on stderr is in Apache's error log."""
        path = self.path("log/apache-error.log")
        if not os.path.exists(path):
            return ""
        with open(path, encoding="utf-8", errors="replace") as log:
            return log.read()


def fcgid_lines(way):
    """Debian's places of mod_fcgid, in our folder."""
    os.makedirs(way.path("apache/fcgid"))
    give(way.path("apache/fcgid"), web_user().pw_uid, web_user().pw_gid)
    return ["FcgidIPCDir %s/apache/fcgid" % way.folder, "FcgidProcessTableFile %s/apache/fcgid_shm" % way.folder]


class Fcgid(Started):
    number, name, title = 3, "apache-fcgid", "Apache + mod_fcgid"
    conf_name, modules = "fcgid", ("fcgid", "buffer")
    needs = ("apache2", MODULES + "/mod_fcgid.so")

    def end_processes(self):
        """Those that run now end; Apache starts others for the next requests."""
        ours = {self.program_file(program) for program in ("examjoint", "proview")}
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink("/proc/%s/exe" % process) in ours:
                    os.kill(int(process), signal.SIGTERM)
            except OSError:
                pass # it has ended meanwhile

    def break_it(self, what):
        super().break_it(what)
        if what != "disk":
            self.end_processes()

    def mend_it(self, what):
        super().mend_it(what)
        if what != "disk":
            self.end_processes()

    def site_lines(self):
        return fcgid_lines(self) + super().site_lines()


class Cgi(Started):
    number, name, title = 4, "apache-cgi", "Apache + CGI"
    conf_name, modules = "cgi", ("cgid",)

    def site_lines(self):
        return ["ScriptSock %s/apache/cgid.sock" % self.folder] + super().site_lines()


class SharedHost(Apache):
    """A customer's account: all that is ours is in public_html/webhooks and in the folder examhook beside public_html. Apache
    runs in a mount namespace of its own, where the customer is in /etc/passwd and suexec's settings are the host's."""
    number, name, title = 5, "apache-suexec", "Apache + CGI, suexec, .htaccess"
    loop, modules = False, ("cgid", "suexec")
    needs = ("apache2", "unshare", "/usr/lib/apache2/suexec-custom")
    logs = ("log/apache.log", "log/apache-error.log", "host/log/apache2/suexec.log")
    handler, overrides = "cgi", "All"

    @classmethod
    def missing(cls):
        if os.geteuid() != 0:
            return "suexec takes root"
        lacking = super().missing()
        if not lacking and subprocess.run(["unshare", "--mount", "mount", "--bind", "/etc", "/etc"], check=False,
                                          stderr=subprocess.DEVNULL, env=environment()).returncode != 0:
            return "no mount namespace can be made here"
        return lacking

    def home(self, *names):
        return os.path.join(self.folder, "home/customer", *names)

    def path(self, *names):
        if names and names[0].startswith("store"):
            return self.home("examhook", *names)
        return super().path(*names)

    def small_disk(self):
        os.makedirs(self.home("examhook"))
        super().small_disk()

    def lay_out(self):
        web, own = self.home("public_html/webhooks"), self.home("examhook")
        os.makedirs(web)
        os.makedirs(os.path.join(own, "store"), exist_ok=True)
        for name in ("examjoint", "proview"):
            shutil.copy(os.path.join(BUILD, name + ".fcgi"), os.path.join(web, "%s.%s" % (name, self.handler)))
        shutil.copy(os.path.join(BUILD, "examhook"), own)
        shutil.copy(os.path.join(TOP, "deploy/shared-hosting/htaccess"), os.path.join(web, ".htaccess"))
        os.chmod(os.path.join(web, ".htaccess"), 0o644)
        self.move_conf()
        for where, folders, files in os.walk(self.path("home")):
            for name in folders + files:
                os.chown(os.path.join(where, name), CUSTOMER, CUSTOMER)
        for path in (own, os.path.join(own, "store")):
            os.chmod(path, 0o700)
        self.host_files()

    def move_conf(self):
        """As the page says: examhook/examhook.conf beside public_html, and the store with it."""
        shutil.copytree(LANGUAGES, self.home("examhook/languages"))
        with open(self.conf_path, encoding="utf-8") as f:
            text = f.read()
        text = text.replace("languages = " + LANGUAGES, "languages = " + self.home("examhook/languages"))
        os.remove(self.conf_path)
        self.conf_path = self.home("examhook/examhook.conf")
        with open(os.open(self.conf_path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write(text)

    def host_files(self):
        """What the host has for its customers, bound over this machine's own."""
        os.makedirs(self.path("host/log/apache2"))
        line = "customer:x:%d:%d::%s:/bin/sh\n" % (CUSTOMER, CUSTOMER, self.home())
        for name, more in (("passwd", line), ("group", "customer:x:%d:\n" % CUSTOMER)):
            shutil.copy("/etc/" + name, self.path("host", name))
            with open(self.path("host", name), "a", encoding="utf-8") as f:
                f.write(more)
        with open(self.path("host/www-data"), "w", encoding="utf-8") as f:
            f.write("%s\npublic_html\n" % self.path("home"))
        binds = [("passwd", "/etc/passwd"), ("group", "/etc/group"), ("www-data", "/etc/apache2/suexec/www-data"),
                 ("log", "/var/log")]
        with open(self.path("host/enter"), "w", encoding="utf-8") as f:
            f.write("".join("mount --bind %s %s\n" % (self.path("host", name), over) for name, over in binds))
            f.write("mount --bind /usr/lib/apache2/suexec-custom /usr/lib/apache2/suexec\n"
                    "exec \"$@\"\n")

    def handler_lines(self):
        return ["ScriptSock %s/apache/cgid.sock" % self.folder]

    def site_lines(self):
        """A customer's site, as a host's control panel writes it."""
        root = self.home("public_html")
        return self.handler_lines() + [
                "<VirtualHost 127.0.0.1:%d>" % self.port, "ServerName customer.example.org", "DocumentRoot " + root,
                "SuexecUserGroup customer customer", "SSLEngine On", "Protocols h2 http/1.1",
                "SSLCertificateFile " + self.path("tls/cert.pem"), "SSLCertificateKeyFile " + self.path("tls/key.pem"),
                "<Directory %s>" % root, "Options SymLinksIfOwnerMatch", "AllowOverride " + self.overrides, "Require all granted",
                "</Directory>", "</VirtualHost>"]

    def command(self, *options):
        return ["unshare", "--mount", "--propagation", "private", "sh", "-e", self.path("host/enter"),
                *super().command(*options)]

    def examhook(self, *arguments, **how):
        """In the customer's shell."""
        command = ["setpriv", "--reuid", str(CUSTOMER), "--regid", str(CUSTOMER), "--clear-groups",
                   self.home("examhook/examhook"), "--config", self.conf_path]
        return subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=environment(), check=False, cwd=self.home(), **how)

    def program_file(self, program):
        return self.home("public_html/webhooks", "%s.%s" % (program, self.handler))

    down, up, program_log = Started.down, Started.up, Started.program_log


WAYS = [ProxyFcgi, Fcgid, Cgi, SharedHost]
