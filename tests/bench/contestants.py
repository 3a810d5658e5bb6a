"""Ours, and the ceilings: nginx alone, and libfcgi programs that do nothing. The peers are in peers.py."""
import os
import re
import subprocess

from harness import (CLIENT_ID, CLIENT_SECRET, TOP, Contestant, NotRun, environment, shipped_server, tool)


class Ours(Contestant):
    """examjoint.fcgi as it is shipped: its usual configuration and its log."""
    name, title, kind, batches = "ours", "examhook", "ours", True

    def __init__(self, bench, name="ours", options="", build=None):
        """For a second one beside it: a name, `options` (more lines of [store]), another build folder."""
        self.name = name
        super().__init__(bench)
        self.build = os.path.abspath(build or bench.build)
        if name != "ours":
            self.title = "examhook, %s" % name
        self.options, self.conf = options, bench.path(name, "examhook.conf")
        self.database = os.path.join(os.path.dirname(self.conf), "store/examjoint/events.db")

    def prepare(self):
        store = os.path.join(os.path.dirname(self.conf), "store")
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            f.write("[store]\nurl = sqlite:%s\n%s\n[verify]\nlanguages = %s\n\n[examjoint main]\nclient_id = %s\n"
                    "client_secret = %s\n\n[fields]\n0 = id\n1 = password\n"
                    % (store, self.options, os.path.join(TOP, "deploy/languages"), CLIENT_ID, CLIENT_SECRET))
        subprocess.run([self.bench.program("examhook", self.build), "--config", self.conf, "migrate"], check=True,
                       stdout=subprocess.DEVNULL, env=environment())

    def command(self):
        return [self.bench.program("examjoint.fcgi", self.build), "--config", self.conf, "--socket", self.sock]

    def start(self):
        self.prepare()
        self.process = self.bench.start(self.name, self.command())
        self.process.wait_listening(self.sock)

    def server(self):
        return shipped_server("up_" + self.name, self.sock)


class Nothing(Contestant):
    name, title, kind, stores = "nginx", "nginx `return 200`", "ceiling", False

    def server(self):
        return "", "    location / {\n        default_type application/json;\n        return 200 '{}';\n    }"


class Ceiling(Contestant):
    """A program of ceilings/, behind the shipped locations."""
    kind, stores = "ceiling", False
    source = ""

    def start(self):
        program = self.bench.path("ceilings", self.source)
        source = os.path.join(TOP, "tests/bench/ceilings", self.source + ".c")
        cc = os.environ.get("CC") or "cc"
        done = subprocess.run([tool(cc.split()[0], "gcc"), *cc.split()[1:], "-std=c17", "-D_GNU_SOURCE", "-O2", "-g",
                               "-Wall", "-Wextra", "-o", program, source, "-lfcgi", "-lpthread"], check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise NotRun("it does not build: " + re.sub(r"\s+", " ", done.stdout)[:300])
        self.process = self.bench.start(self.name, [program, self.sock])
        self.process.wait_listening(self.sock)

    def server(self):
        return shipped_server("up_" + self.name, self.sock)


class Threads(Ceiling):
    name, title, source = "threads", "libfcgi in threads, does nothing", "threads"


class Loop(Ceiling):
    name, title, source = "loop", "libfcgi in an event loop, does nothing", "loop"


CONTESTANTS = [Ours, Nothing, Threads, Loop]
