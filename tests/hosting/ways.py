"""The ways of hosting. What a way must be is documented at class Way; a new one is a subclass that stands in
all_ways() below, and nothing else needs to know of it."""
import errno
import importlib
import importlib.util
import os
import shutil
import socket
import subprocess

import support
from accounts import CONF, YESCRYPT, rosters
from search import Search, more_accounts
from support import PATIENCE, Part, Site, wait_for

TOP = support.TOP
CROWD = "id,password_hash\n" + "".join("c%d,%s\n" % (i, YESCRYPT) for i in range(24))


class CannotRun(Exception):
    """This case cannot run here; the text says why."""


class Way(Site):
    """A web server with our programs behind it, in a temporary folder and on a high port, over TLS.

    A Site (tests/e2e/support.py) has: folder, path(), port, base, tls (a client's context), conf_path, the
    certificate tls/cert.pem and tls/key.pem, ok(), rows(), roster(). Site's constructor calls write_nginx(), which is
    write_server() here, and then makes the store and the roster.

    A subclass sets `name` (one word, as the table's `differs` has it), `title`, and `needs` (programs or files without which
    it says SKIP), and overrides:
      write_server()   lays out the server's configuration below self.folder, out of the files that we ship
      start()          starts everything; returns self. Use serve(name, command) for what stays in the foreground.
      down(program), up(program)   "examjoint" or "proview" does not answer, then does again: whatever that is here
      written()        the folders that the server and our programs write to; with what was not written by them left out
      logs             the log files of the server, which must be among those that are searched for secrets
      program_log(program)    what our program has logged until now
    and where it needs to: loop, break_it(what)/mend_it(what), small_disk(), examhook() (as another user, say).
    What Site.close() stops must end with status 0, or as end_status says: {"name of the part": status}.
    """
    name = title = ""
    needs = logs = ()
    loop = True # one program that runs all the time serves all requests; False: the server starts it when it wants to
    patience = PATIENCE

    def __init__(self, setting=None):
        self.setting = setting or {}
        self.rate_limited = "rate" in self.setting
        super().__init__(self.setting.get("conf", "") + CONF + more_accounts(CONF), rosters() + (("acme", CROWD),), verify=self.setting.get("verify", ""),
                         store=self.setting.get("store", ""))
        self.search = Search(self)

    @classmethod
    def missing(cls):
        """Why it cannot run here; None when it can."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        lacks = [what for what in cls.needs if not (os.path.exists(what) if what.startswith("/")
                                                    else shutil.which(what, path=path))]
        return "not installed: %s (make deps-hosting)" % ", ".join(lacks) if lacks else None

    def write_nginx(self, change):
        if "disk" in self.setting:
            self.small_disk()
        self.write_server()

    def write_server(self):
        raise NotImplementedError

    def serve(self, name, command):
        """Starts a server that stays in the foreground, and waits until it listens on self.port."""
        self.parts[name] = part = Part(name, command, self.folder)

        def listening():
            assert part.alive(), part.log()
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        assert wait_for(listening), part.log()

    def examhook(self, *arguments, **how):
        """Never under valgrind and the like: it is asked for the rows of every case, and has tests of its own."""
        return subprocess.run([os.path.join(support.BUILD, "examhook"), "--config", self.conf_path, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                              env=support.environment(), **how)

    def down(self, program):
        self.stop(program)

    def up(self, program):
        self.start_program(program)

    def program_log(self, program):
        return self.parts[program].log() if program in self.parts else ""

    def written(self):
        return [self.path(name) for name in ("log", "store", "nginx")]

    def lock_path(self, program):
        """Whoever holds this file's flock keeps the program from writing."""
        return self.path("store", {"examjoint": "examjoint/events.lock", "proview": "proview/callbacks.lock"}[program])

    def break_it(self, what):
        """"configuration": has a line that is wrong. "store": is not there, as before `examhook migrate`. "disk": is
        full. Until mend_it()."""
        if what == "disk":
            self.fill_disk()
            return
        if self.loop:
            self.down("examjoint")
        if what == "configuration":
            with open(self.conf_path, "a", encoding="utf-8") as f:
                f.write("\n[wrong]\n")
        else:
            os.rename(self.path("store"), self.path("store-away"))
        if self.loop:
            self.fails_to_start("examjoint", {"configuration": 3, "store": 4}[what])

    def mend_it(self, what):
        if what == "disk":
            os.remove(self.path("store/filler"))
            return
        if what == "configuration":
            with open(self.conf_path, encoding="utf-8") as f:
                text = f.read()
            with open(self.conf_path, "w", encoding="utf-8") as f:
                f.write(text.replace("\n[wrong]\n", ""))
        else:
            os.rename(self.path("store-away"), self.path("store"))
        if self.loop:
            self.up("examjoint")

    def fails_to_start(self, program, status):
        """Where a program runs all the time, it ends at once when something is wrong."""
        part = Part(program, support.WRAP + [os.path.join(support.BUILD, program + ".fcgi"), "--config", self.conf_path,
                                             "--socket", self.path("sock", program + ".sock")], self.folder)
        assert part.process.wait(20 * PATIENCE) == status, part.log()

    def small_disk(self):
        """A file system of its own for the store; needs root."""
        cannot = self.mount_store("size=8m,mode=700")
        if cannot:
            raise CannotRun(cannot)

    def fill_disk(self):
        with open(self.path("store/filler"), "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"x" * 4096)
            except OSError as full:
                assert full.errno == errno.ENOSPC


def substitute(path, pairs):
    """Rewrites a file; each text must be there, so that a change of what we ship does not go unnoticed."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for old, new in pairs:
        assert old in text, "%s has no %r" % (path, old)
        text = text.replace(old, new)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def all_ways():
    """The ways in the order of the printed table."""
    ways = []
    for module in ("ways_nginx", "ways_apache", "ways_lighttpd"):
        if importlib.util.find_spec(module):
            ways += importlib.import_module(module).WAYS
    return sorted(ways, key=lambda way: way.number)
