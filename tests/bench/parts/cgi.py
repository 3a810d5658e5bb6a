"""Plain CGI: what a whole request costs, fork and exec included, in CPU of the program and all it starts."""
import json
import os
import sqlite3
import subprocess

from contestants import Ours
from harness import (CLIENT_ID, CLIENT_SECRET, PATH, TOP, Contestant, NotRun, Target, environment, summary, tool)

CODE = os.path.join(TOP, "tests/bench/cgi")


class Cgi(Contestant):
    """A program that is started for each request: command() and environment() in place of start()."""

    def environment(self):
        return {}

    def command(self):
        raise NotImplementedError


def compiled(bench, name, options):
    path = os.path.join(bench.kept, "cgi_" + name)
    done = subprocess.run([tool("cc", "gcc"), "-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", *options, "-o", path,
                           os.path.join(CODE, name + ".c")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode:
        raise NotRun("%s.c does not build: %s" % (name, " ".join(done.stdout.split())[:300]))
    return path


class NothingCgi(Cgi):
    name, title, kind, stores = "nothing", "C, static, only prints {}", "ceiling", False

    def command(self):
        return [compiled(self.bench, "nothing", ["-static"])]


class OursCgi(Ours):
    """The program that `make` builds; or another one, such as the archive's for shared hosting."""

    def __init__(self, bench, name="cgi-ours", title="examhook, as make builds it", program="examjoint.fcgi", build=None):
        super().__init__(bench, name, build=build)
        self.title, self.file = title, program

    def environment(self):
        return {"EXAMHOOK_CONF": self.conf}

    def command(self):
        program = self.bench.program(self.file, self.build)
        self.prepare()
        return [program]


class PeerCgi(Cgi):
    def environment(self):
        return {"BENCH_DB": self.database, "BENCH_ID": CLIENT_ID, "BENCH_SECRET": CLIENT_SECRET}

    def create(self):
        with open(os.path.join(TOP, "tests/bench/peers/schema.sql"), encoding="utf-8") as f:
            store = sqlite3.connect(self.database)
            store.executescript(f.read())
            store.close()


class Php(PeerCgi):
    name, title = "php-cgi", "PHP-CGI, pdo_sqlite"

    def environment(self):
        return dict(super().environment(), REDIRECT_STATUS="200", SCRIPT_FILENAME=os.path.join(CODE, "intake.php"))

    def command(self):
        program = tool("php-cgi", "php8.2-cgi")
        self.create()
        return [program]


class Python(PeerCgi):
    name, title = "python-cgi", "Python, sqlite3"

    def command(self):
        self.create()
        return ["/usr/bin/python3", os.path.join(CODE, "intake.py")]


def static_build(bench):
    """The archive's program, linked again from what is built now."""
    program = os.path.join(bench.build, "static/examjoint")
    done = subprocess.run(["make", "--no-print-directory", "-s", "-C", TOP, "BUILD=" + bench.build, program],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment())
    if done.returncode:
        raise NotRun("make %s: %s" % (program, " ".join(done.stdout.split())[-300:]))
    return OursCgi(bench, "cgi-static", "examhook, static: the archive for shared hosting", "static/examjoint")


class PlainCgi:
    name, title, order = "cgi", "Plain CGI, durable", 20

    def __init__(self, bench):
        self.bench, self.wrong, self.not_run = bench, [], {}
        self.contestants, self.commands, self.cells, self.broken = [], {}, {}, set()

    def candidates(self):
        found = [lambda: NothingCgi(self.bench), lambda: static_build(self.bench), lambda: OursCgi(self.bench)]
        found += [lambda name=name, build=build: OursCgi(self.bench, "cgi-" + name, "examhook, %s" % name, build=build)
                  for name, build in self.bench.also]
        return found + ([] if self.bench.mode == "short" else [lambda: Php(self.bench), lambda: Python(self.bench)])

    def prepare(self):
        self.runner = compiled(self.bench, "runs", [])
        for make in self.candidates():
            try:
                contestant = make()
                self.commands[contestant.name] = contestant.command()
            except NotRun as reason:
                self.not_run[str(reason).split(" ", 1)[0]] = str(reason)
                self.bench.say("  not run: %s" % reason)
                continue
            self.contestants.append(contestant)
            self.cells[contestant.name] = []

    def rounds(self):
        return self.bench.rounds or self.bench.pick(full=3, quick=1, short=1)

    def runs(self, contestant):
        """The slow ones need fewer for the same precision."""
        slow = contestant.kind == "peer"
        return self.bench.pick(full=300, quick=60 if slow else 300, short=30 if slow else 100)

    def round(self, number):
        first = number % len(self.contestants)
        for contestant in self.contestants[first:] + self.contestants[:first]:
            cell = self.measure(contestant, number)
            self.cells[contestant.name].append(cell)
            self.bench.say("  round %d, %s: %.2f ms of CPU%s" % (number + 1, contestant.title, cell["cpu_ms"],
                                                                 " WRONG" if cell["wrong"] else ""))

    def measure(self, contestant, number):
        env = {"PATH": environment()["PATH"], "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1",
               "REQUEST_METHOD": "POST", "REQUEST_URI": PATH, "PATH_INFO": PATH, "SCRIPT_NAME": "", "REMOTE_ADDR": "127.0.0.1",
               "CONTENT_TYPE": "application/json", "HTTP_HOST": "localhost", "HTTP_X_CLIENT_ID": CLIENT_ID,
               "HTTP_X_CLIENT_SECRET": CLIENT_SECRET, **contestant.environment()}
        count, rows = self.runs(contestant), contestant.rows()
        with open(self.bench.path("log", contestant.name + ".log"), "ab") as log:
            done = subprocess.run([self.runner, str(count), "g%d" % number, *self.commands[contestant.name]],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, check=True, env=env)
        seen = json.loads(done.stdout)
        wrong = []
        if seen["good"] != count:
            wrong.append("%d of %d answers were 200" % (seen["good"], count))
        if contestant.stores and contestant.rows() - rows != count:
            wrong.append("%d rows of %d requests" % (contestant.rows() - rows, count))
        if wrong:
            self.broken.add(contestant.name)
        self.wrong += ["%s: %s" % (contestant.title, what) for what in wrong]
        return {"cpu_ms": (seen["user_us"] + seen["system_us"]) / count / 1000, "wall_ms": seen["wall_us"] / count / 1000,
                "faults": seen["faults"] / count, "requests": count, "wrong": wrong}

    def close(self):
        pass

    # --- What came out ---------------------------------------------------------------------------------------

    def value(self, name, figure):
        return summary([cell[figure] for cell in self.cells[name]])

    def figures(self):
        return {c.name: dict({figure: self.value(c.name, figure) for figure in ("cpu_ms", "wall_ms", "faults")},
                             title=c.title, command=self.commands[c.name], rounds=self.cells[c.name])
                for c in self.contestants}

    def ratio(self, name, other, what, wanted):
        if not self.cells.get(name) or not self.cells.get(other):
            return Target(what, wanted, None, most=True)
        seen = [a["cpu_ms"] / b["cpu_ms"] for a, b in zip(self.cells[name], self.cells[other])]
        return Target(what, wanted, summary(seen)["median"], most=True, seen=seen)

    def targets(self):
        rows = []
        for name, title in (("cgi-static", "static, as in the archive"), ("cgi-ours", "dynamic")):
            rows.append(self.ratio(name, "nothing", "plain CGI (%s): CPU of a request, against C that prints {}" % title, 4))
            rows.append(self.ratio(name, "php-cgi", "plain CGI (%s): CPU, against PHP-CGI's" % title, 0.1))
            rows.append(self.ratio(name, "python-cgi", "plain CGI (%s): CPU, against Python's" % title, 0.1))
        return rows

    def report(self):
        lines = ["", "| | CPU ms | least-most | against C that prints {} | wall ms | page faults |", "|---|---|---|---|---|---|"]
        least = self.value("nothing", "cpu_ms")["median"] if self.cells.get("nothing") else None
        for c in self.contestants:
            cpu = self.value(c.name, "cpu_ms")
            lines.append("| %s%s | %.2f | %.2f-%.2f | %s | %.1f | %.0f |" % (
                c.title, " WRONG" if c.name in self.broken else "", cpu["median"], cpu["least"], cpu["most"],
                "%.2f" % (cpu["median"] / least) if least else "-", self.value(c.name, "wall_ms")["median"],
                self.value(c.name, "faults")["median"]))
        return lines + ["", *("not run: " + reason for reason in self.not_run.values())]


PART = PlainCgi
