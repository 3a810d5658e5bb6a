"""A slow disk: 5 ms more for each fdatasync and fsync of who stores, not of nginx. Ours beside one commit a request."""
import os
import subprocess

from contestants import Ours
from harness import PROXY, TOP, NotRun, Nginx, Target, load, same_work, settle, summary, tool
from peers import Node, Peer

CODE = os.path.join(TOP, "tests/bench/slow")
CONNECTIONS = 64


def compiled(bench, name, options, libraries=()):
    path = os.path.join(bench.kept, name)
    done = subprocess.run([tool("cc", "gcc"), "-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", *options, "-o", path,
                           os.path.join(CODE, os.path.splitext(name)[0] + ".c"), *libraries],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise NotRun("%s does not build: %s" % (name, " ".join(done.stdout.split())[:300]))
    return path


class Slow:
    """In front of a contestant: its program runs with the library."""

    def command(self):
        library = compiled(self.bench, "slow_sync.so", ["-shared", "-fPIC"])
        return ["/usr/bin/env", "LD_PRELOAD=" + library, *super().command()]


class SlowOurs(Slow, Ours):
    def __init__(self, bench):
        super().__init__(bench, "slow-ours")
        self.title = "examhook"


class SlowNode(Slow, Node):
    name = "slow-node"


class OneCommit(Peer):
    name, title = "slow-c", "libfcgi in C, one commit a request"

    def command(self):
        return [compiled(self.bench, "one_commit", [], ["-lfcgi", "-lsqlite3"]), self.sock]

    def server(self):
        params = ("REQUEST_METHOD $request_method", "CONTENT_LENGTH $content_length")
        return self.upstream(), "location / {%s%s    fastcgi_pass up_%s;\n}" % (
            PROXY % ("fastcgi", "fastcgi"), "".join("    fastcgi_param %s;\n" % param for param in params), self.name)


class SlowOneCommit(Slow, OneCommit):
    pass


class SlowDisk:
    name, title, order = "slow-disk", "A slow disk: 5 ms more for each fdatasync", 15

    def __init__(self, bench):
        self.bench, self.wrong, self.not_run = bench, [], {}
        self.contestants, self.cells, self.nginx, self.broken = [], {}, None, set()

    def prepare(self):
        for make in (SlowOurs, SlowOneCommit) if self.bench.mode == "short" else (SlowOurs, SlowOneCommit, SlowNode):
            contestant = make(self.bench)
            try:
                contestant.start()
            except NotRun as reason:
                self.not_run[contestant.name] = str(reason)
                self.bench.say("  %s: not run: %s" % (contestant.title, reason))
                continue
            self.contestants.append(contestant)
            self.cells[contestant.name] = []
        self.nginx = Nginx(self.bench, self.contestants)
        for contestant in self.contestants:
            self.found(contestant, same_work(contestant))
            settle(contestant, self.nginx, 0)

    def found(self, contestant, wrong):
        if wrong:
            self.broken.add(contestant.name)
        self.wrong += ["%s: %s" % (contestant.title, what) for what in wrong]

    def rounds(self):
        return self.bench.rounds or self.bench.pick(full=5, quick=1, short=1)

    def round(self, number):
        first = number % len(self.contestants)
        for contestant in self.contestants[first:] + self.contestants[:first]:
            seconds = self.bench.seconds or self.bench.pick(full=3, quick=2, short=1)
            cell = load(contestant, self.nginx, CONNECTIONS, seconds, "s%d" % number)
            self.found(contestant, cell["wrong"])
            self.cells[contestant.name].append(cell)
            self.bench.say("  round %d, %s: %.0f requests/s, p99 %.0f ms%s" % (
                number + 1, contestant.title, cell["requests_s"], cell["p99_ms"], " WRONG" if cell["wrong"] else ""))

    def close(self):
        for process in [self.nginx and self.nginx.process] + [c.process for c in self.contestants]:
            if process:
                process.stop()

    # --- What came out ---------------------------------------------------------------------------------------

    def value(self, name, figure):
        return summary([cell[figure] for cell in self.cells[name]])

    def figures(self):
        return {"connections": CONNECTIONS,
                "contestants": {c.name: dict({figure: self.value(c.name, figure) for figure in
                                              ("requests_s", "p50_ms", "p99_ms", "cpu_10k")}, title=c.title,
                                             rounds=self.cells[c.name]) for c in self.contestants}}

    def best(self):
        """Of those that commit each request, and did nothing wrong."""
        names = [c.name for c in self.contestants if c.name != "slow-ours" and c.name not in self.broken]
        return max(names, key=lambda name: self.value(name, "requests_s")["median"], default=None)

    def targets(self):
        best = self.best()
        if not best or not self.cells.get("slow-ours"):
            return [Target("5 ms a sync: requests/s at 64, against one commit a request", 25, None)]
        rows = []
        for figure, what, wanted, most in (("requests_s", "requests/s", 25, False), ("p99_ms", "p99", 1 / 6, True)):
            seen = [ours[figure] / other[figure] for ours, other in zip(self.cells["slow-ours"], self.cells[best])]
            rows.append(Target("5 ms a sync: %s at 64, against one commit a request" % what, wanted, summary(seen)["median"],
                               most=most, note=next(c.title for c in self.contestants if c.name == best), seen=seen))
        return rows

    def report(self):
        lines = ["", "| %d connections | requests/s | least-most | p50 ms | p99 ms | CPU s/10,000 |" % CONNECTIONS,
                 "|---|---|---|---|---|---|"]
        ours = self.cells.get("slow-ours") and self.value("slow-ours", "requests_s")["median"]
        for c in self.contestants:
            speed = self.value(c.name, "requests_s")
            lines.append("| %s%s | %.0f%s | %.0f-%.0f | %.1f | %.1f | %.3f |" % (
                c.title, " WRONG" if c.name in self.broken else "", speed["median"],
                " (%.3f)" % (speed["median"] / ours) if ours else "", speed["least"], speed["most"],
                self.value(c.name, "p50_ms")["median"], self.value(c.name, "p99_ms")["median"],
                self.value(c.name, "cpu_10k")["median"]))
        return lines + ["", *("%s: not run: %s" % pair for pair in sorted(self.not_run.items()))]


PART = SlowDisk
