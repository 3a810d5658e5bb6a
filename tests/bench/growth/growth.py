#!/usr/bin/python3
"""How cost grows: intake, verification, listings, import and upkeep on a store of many events and candidates, beside
an empty one, in one run.

    tests/bench/growth/growth.py [--build DIR] [--events N,N] [--candidates N] [--folder DIR] [--rounds N]
                                 [--requests N] [--parts intake,verify,lists,import,care] [--keep]

The stores are made below --folder (the build's, else) by `examhook migrate` and filled by seed.py; it takes some 300
bytes of disk for each event, and as much again while it works. They are removed at the end, unless --keep is given;
a store that an earlier run kept is used again. What counts are ratios within one run; CPU time is what the kernel
counts in nanoseconds, as time on the clock is everybody's. Exit status 1: an answer or a row was wrong."""
import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import seed  # noqa: E402
from harness import (CLIENT_ID, CLIENT_SECRET, PATH, TOP, Bench, Contestant, Nginx, NotRun, end_at_signals, environment, memory,  # noqa: E402
                     settle, shipped_server, tool)

EXAMS_AT_ONCE = 10
LOAD_SECONDS_MAX = 120
# The password that every candidate has, at the one exam that asks for it. Of all hashes that are any good this one costs
# the least: sha512crypt with its default rounds.
PASSWORD = "bench-password"
HASH = "$6$benchsalt0123456$UawUkR0SJ3CAIAKF0SmizvRqat0RKJiqb.Ph3CJ63adFW2ynKW3XkSFJHHyc7nGr0xzyd1dIoJg4RVRCAhQYH1"
PASSWORD_EXAM = "exam-with-password"
# Of so many requests of other kinds, one with a password: it costs twenty times as much and more.
PASSWORDS_AMONG = {64: 40, 1: 20}


# --- Stores ----------------------------------------------------------------------------------------------------

class Ours(Contestant):
    """examjoint.fcgi on a store of `events` events; 0: an empty one, made anew before each load."""
    kind = "ours"

    def __init__(self, bench, folder, events, candidates):
        self.name = "events%d" % events
        super().__init__(bench)
        self.events, self.candidates = events, candidates if events else 1000
        self.title = "%s events, %s candidates" % (thousands(events), thousands(self.candidates))
        self.folder = os.path.join(folder, self.name)
        self.store = os.path.join(self.folder, "store")
        self.conf = os.path.join(self.folder, "examhook.conf")
        self.database = os.path.join(self.store, "examjoint/events.db")
        self.seed = seed.Store(self.store, events, candidates, self.began(), bench.say) if events else None
        self.first = 0 # the first event that is not seeded
        self.refused = 0 # verifications behind it that were not valid

    def began(self):
        """When the seeded months end: written down, for a store that is used again."""
        path = os.path.join(self.folder, "began")
        os.makedirs(self.folder, exist_ok=True)
        if not os.path.exists(path):
            with open(path, "w", encoding="ascii") as f:
                f.write(str(int(time.time() * 1000)))
        with open(path, encoding="ascii") as f:
            return int(f.read())

    def examhook(self, *words, **more):
        return subprocess.run([self.bench.program("examhook"), "--config", self.conf, *words], check=True,
                              env=environment(), stdout=more.pop("stdout", subprocess.PIPE), **more)

    def prepare(self):
        self.configure()
        if os.path.exists(os.path.join(self.folder, "whole")):
            self.import_roster() # others may have been asked for then
            return
        shutil.rmtree(self.store, ignore_errors=True)
        self.examhook("migrate")
        if self.events:
            self.bench.say("  seeding %s" % self.title)
            self.seed.fill()
            wrong = seed.check(self.store)
            if wrong:
                raise AssertionError("what was seeded is not whole: %s" % wrong)
        self.bench.say("  %s: %s" % (self.title, self.import_roster().splitlines()[-1]))
        with open(os.path.join(self.folder, "whole"), "w", encoding="ascii"):
            pass

    def configure(self):
        os.makedirs(self.folder, exist_ok=True)
        accounts = "".join("\n[examjoint %s]\nclient_id = %s\nclient_secret = %s\n"
                           % (name, CLIENT_ID if name == "main" else name, CLIENT_SECRET) for name in seed.ACCOUNTS)
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            f.write("[store]\nurl = sqlite:%s\n[verify]\nlanguages = %s\n%s\n[fields]\n0 = id\n"
                    "[fields %s]\n0 = id\n1 = password\n"
                    % (self.store, os.path.join(TOP, "deploy/languages"), accounts, PASSWORD_EXAM))

    def import_roster(self):
        path = os.path.join(self.folder, "roster.csv")
        write_roster(path, self.candidates)
        return self.examhook("roster", "import", path, "--account", "main", "--replace", text=True).stdout

    def forget_events(self):
        """The empty one is empty again; its roster stays."""
        self.stop()
        shutil.rmtree(os.path.join(self.store, "examjoint"))
        self.first = 0
        self.examhook("migrate")
        self.start()

    def start(self):
        self.process = self.bench.start(self.name, [self.bench.program("examjoint.fcgi"), "--config", self.conf,
                                                    "--socket", self.sock])
        self.process.wait_listening(self.sock)

    def stop(self):
        if self.process:
            self.process.stop()
        self.process = None

    def rows(self):
        """Of those that the loads left: counting all would read the whole of it."""
        with sqlite3.connect("file:%s?mode=ro" % self.database, uri=True, timeout=30) as reader:
            self.first = self.first or reader.execute("SELECT ifnull(max(id), 0) FROM events").fetchone()[0] + 1
            count, self.refused = reader.execute("SELECT count(*), count(nullif(outcome, 'valid')) FROM events"
                                                 " WHERE id >= ?", (self.first,)).fetchone()
        reader.close()
        return count

    def server(self):
        return shipped_server("up_" + self.name, self.sock)


def thousands(number):
    return "{:,}".format(number)


def write_roster(path, candidates):
    with open(path, "w", encoding="utf-8") as f:
        f.write("id,name,email,password_hash\n")
        f.writelines("%s,Candidate %d,c%d@example.org,%s\n" % (seed.candidate(n), n, n, HASH) for n in range(candidates))


# --- Loads -----------------------------------------------------------------------------------------------------

def admissions(path, count):
    """New ones: some exams at a time, respondents without any order in their ids."""
    chance, now, tag = random.Random(secrets.randbits(64)), int(time.time() * 1000), secrets.token_hex(4)
    with open(path, "w", encoding="ascii") as f:
        for n in range(count):
            f.write('{"event":"admitted_respondent","respondent_id":"r-%020x","exam_id":"exam-%s-%02d","admittedOn":%d}\n'
                    % (chance.getrandbits(80), tag, chance.randrange(EXAMS_AT_ONCE), now + n))


def verifications(path, count, candidates, with_password=False):
    chance = random.Random(secrets.randbits(64))
    exam = "exam-" + secrets.token_hex(4)
    with open(path, "w", encoding="ascii") as f:
        for _ in range(count):
            at = PASSWORD_EXAM if with_password else "%s-%02d" % (exam, chance.randrange(EXAMS_AT_ONCE))
            f.write('{"event":"verify_respondent","exam_id":"%s","choosenLang":"en","fields":[{"position":0,"value":"%s"}%s]}\n'
                    % (at, seed.candidate(chance.randrange(candidates)),
                       ',{"position":1,"value":"%s"}' % PASSWORD if with_password else ""))


def old_admissions(path, count, store):
    """Of events that are stored since months, anywhere."""
    chance = random.Random(secrets.randbits(64))
    with open(path, "w", encoding="ascii") as f:
        while count:
            # Neither the oldest, which a purge may have taken, nor those of whom not all is there yet.
            sitting = store.sitting(chance.randrange(store.sittings // 20, store.sittings * 9 // 10))
            if sitting.account == "main":
                f.write(seed.admission(sitting) + "\n")
                count -= 1


def spent(pid):
    """Nanoseconds of CPU of all threads, calls that read and wrote, bytes handed to the disk."""
    total = 0
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/schedstat" % (pid, task), encoding="ascii") as f:
            total += int(f.read().split()[0])
    with open("/proc/%d/io" % pid, encoding="ascii") as f:
        io = {name: int(value) for name, value in (line.split(": ") for line in f)}
    return {"cpu": total, "reads": io["syscr"], "writes": io["syscw"], "written": io["write_bytes"]}


def send(contestant, nginx, path, connections):
    process = subprocess.Popen([tool("wrk", "wrk"), "-t1", "-c%d" % connections, "-d%ds" % LOAD_SECONDS_MAX, "--timeout",
                                "30s", "-s", os.path.join(HERE, "bodies.lua"),
                                "http://127.0.0.1:%d%s" % (contestant.port, PATH), "--", path, CLIENT_ID, CLIENT_SECRET],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    # Its main thread sleeps on when there is nothing more to send.
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate()
    found = re.search(r"^figures (\{.*\})$", out, re.M)
    if not found:
        raise AssertionError("wrk: %s %s" % (out, errors))
    seen = json.loads(found.group(1))
    statuses, rows = settle(contestant, nginx, seen["requests"])
    return seen, statuses, rows


def load(contestant, nginx, path, connections, gained):
    """What one request costs. `gained`: how many rows the file's bodies are to leave."""
    settle(contestant, nginx, 0)
    before_rows, refused, before = contestant.rows(), contestant.refused, spent(contestant.process.process.pid)
    seen, statuses, rows = send(contestant, nginx, path, connections)
    after, answered = spent(contestant.process.process.pid), sum(statuses.values())
    figures = {"cpu_us": (after["cpu"] - before["cpu"]) / 1000 / answered, "requests": answered,
               "reads": (after["reads"] - before["reads"]) / answered,
               "writes": (after["writes"] - before["writes"]) / answered,
               "written": (after["written"] - before["written"]) / answered,
               "p50_ms": seen["p50_us"] / 1000, "p99_ms": seen["p99_us"] / 1000,
               "requests_s": seen["requests"] * 1e6 / seen["duration_us"], "wrong": []}
    if set(statuses) - {200} or seen["errors"]:
        figures["wrong"].append("answers: %s, errors of wrk: %d" % (dict(statuses), seen["errors"]))
    expected = answered if gained is None else gained
    if rows - before_rows != expected:
        figures["wrong"].append("%d rows more, not %d" % (rows - before_rows, expected))
    if contestant.refused != refused:
        figures["wrong"].append("%d candidates refused" % (contestant.refused - refused))
    return figures


class Loads:
    """Interleaved: each kind of load on each store, then the next kind."""

    def __init__(self, bench, contestants, args):
        self.bench, self.contestants, self.args = bench, contestants, args
        self.cells, self.wrong, self.memory = {}, [], {}

    def run(self):
        for contestant in self.contestants:
            contestant.start()
        nginx = Nginx(self.bench, self.contestants)
        try:
            for number in range(self.args.rounds):
                for connections, count in ((64, self.args.requests), (1, self.args.requests // 8)):
                    order = self.contestants[number % len(self.contestants):] + self.contestants[:number % len(self.contestants)]
                    self.round(nginx, order, connections, count)
        finally:
            nginx.process.stop()
            for contestant in self.contestants:
                contestant.stop()

    def round(self, nginx, order, connections, count):
        new, checks = self.bench.path("new"), self.bench.path("checks")
        admissions(new, count)
        for contestant in order:
            if contestant.events == 0:
                contestant.forget_events()
        if "intake" in self.args.parts:
            for contestant in order:
                self.cell("admissions", contestant, nginx, new, connections, count)
            for contestant in order:
                self.cell("repeats", contestant, nginx, new, connections, 0)
        if "verify" in self.args.parts:
            for contestant in order:
                verifications(checks, count, contestant.candidates)
                self.cell("verifications", contestant, nginx, checks, connections, None)
            for contestant in order:
                verifications(checks, max(100, count // PASSWORDS_AMONG[connections]), contestant.candidates, with_password=True)
                self.cell("verifications with a password", contestant, nginx, checks, connections, None)
        # Last, as they leave pages from all over the file in the log, and whoever comes next moves them.
        if "intake" in self.args.parts:
            for contestant in order:
                if contestant.events:
                    old_admissions(checks, count, contestant.seed)
                    self.cell("repeats of old ones", contestant, nginx, checks, connections, 0)

    def cell(self, kind, contestant, nginx, path, connections, gained):
        found = load(contestant, nginx, path, connections, gained)
        self.cells.setdefault((kind, connections), {}).setdefault(contestant.events, []).append(found)
        self.memory[contestant.events] = memory(contestant.roots())["rss_peak_mib"]
        self.wrong += ["%s, %s: %s" % (contestant.title, kind, what) for what in found["wrong"]]
        self.bench.say("  %d connections, %s, %s: %.1f us CPU, %.1f writes, %.0f bytes to disk, p99 %.1f ms%s" % (
            connections, kind, contestant.title, found["cpu_us"], found["writes"], found["written"], found["p99_ms"],
            " WRONG" if found["wrong"] else ""))

    def median(self, kind, connections, events, figure):
        found = self.cells.get((kind, connections), {}).get(events)
        return statistics.median(cell[figure] for cell in found) if found else None

    def report(self):
        lines = ["| load | connections | events | CPU us a request | ratio | least-most | writes | bytes to disk | p99 ms |",
                 "|---|---|---|---|---|---|---|---|---|"]
        for (kind, connections), by_events in self.cells.items():
            base = self.median("repeats" if kind == "repeats of old ones" else kind, connections, 0, "cpu_us")
            for events, cells in sorted(by_events.items()):
                cpu = [cell["cpu_us"] for cell in cells]
                lines.append("| %s | %d | %s | %.1f | %s | %.1f-%.1f | %.1f | %.0f | %.1f |" % (
                    kind, connections, thousands(events), statistics.median(cpu),
                    "%.2f" % (statistics.median(cpu) / base) if base else "-", min(cpu), max(cpu),
                    *(self.median(kind, connections, events, name) for name in ("writes", "written", "p99_ms"))))
        lines += ["", "RSS of the program, MiB: %s" % ", ".join("%s at %s events" % (rss, thousands(events))
                                                               for events, rss in sorted(self.memory.items()))]
        return lines

    def figures(self):
        return {"%s, %d connections" % key: {str(events): cells for events, cells in found.items()}
                for key, found in self.cells.items()}

    def targets(self):
        """(what, at most, got)"""
        most = max(contestant.events for contestant in self.contestants)
        found = []
        for kind, connections in self.cells:
            base = self.median(kind, connections, 0, "cpu_us")
            got = self.median(kind, connections, most, "cpu_us")
            if base and got:
                found.append(("%s, %d connections: CPU a request against an empty store's" % (kind, connections), 1.2,
                              got / base))
        return found


# --- Commands --------------------------------------------------------------------------------------------------

def peak_kib(pid):
    """Not the kernel's ru_maxrss: that begins with what we held when the child was made."""
    try:
        with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as f:
            return int(re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M).group(1))
    except (OSError, AttributeError):
        return 0


def timed(command):
    """What one command takes: seconds to its first byte, of all, of CPU, and its largest MiB."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment())
    out, first, size, lines, peak = process.stdout.fileno(), None, 0, 0, 0
    while True:
        data = os.read(out, 1 << 20)
        first = first or time.monotonic() - begin
        peak = max(peak, peak_kib(process.pid))
        if not data:
            break
        size += len(data)
        lines += data.count(b"\n")
    process.stdout.close()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"first_s": first, "all_s": time.monotonic() - begin, "cpu_s": usage.ru_utime + usage.ru_stime,
            "rss_mib": peak / 1024, "lines": lines, "bytes": size, "status": process.returncode,
            "errors": errors.decode(errors="replace")[-300:]}


def listings(contestant):
    """name -> the command's words."""
    found = {"events": ["events"], "events --json": ["events", "--json"], "events --since 2h": ["events", "--since", "2h"],
             "events --limit 1000": ["events", "--limit", "1000"],
             "events --since 300d --limit 1000": ["events", "--since", "300d", "--limit", "1000"],
             "events --quarantined": ["events", "--quarantined"], "sessions": ["sessions"],
             "sessions --json": ["sessions", "--json"], "export": ["export"],
             "export --format csv": ["export", "--format", "csv"], "roster list": ["roster", "list"], "check": ["check"]}
    if contestant.seed:
        sittings = contestant.seed.sittings
        sitting = contestant.seed.sitting(sittings // 20 * 10)
        # Neither of those that a purge may have taken, nor of whom not all is there yet.
        for name, part in (("OLD", 3), ("NEW", 97)):
            found["respondent " + name] = ["respondent", contestant.seed.sitting(sittings * part // 100).respondent]
        found.update({"respondent ID": ["respondent", sitting.respondent],
                      "respondent CANDIDATE": ["respondent", sitting.identity],
                      "export --respondent ID": ["export", "--respondent", sitting.respondent]})
    return found


# These also with nothing of the store in memory, as somebody finds it in the morning.
COLD = ("events --limit 1000", "events --since 300d --limit 1000", "respondent OLD", "respondent ID", "respondent NEW",
        "respondent CANDIDATE", "export --respondent ID")


def forget_store(contestant):
    """The kernel lets go of the pages that it keeps of the files."""
    for where, _, names in os.walk(contestant.store):
        for name in names:
            fd = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.fsync(fd) # what is not written is not let go
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


class Commands:
    def __init__(self, bench, contestants):
        self.bench, self.contestants, self.rows, self.wrong = bench, contestants, [], []

    def run(self):
        for contestant in self.contestants:
            for name, words in listings(contestant).items():
                command = [self.bench.program("examhook"), "--config", contestant.conf, *words]
                if name in COLD:
                    forget_store(contestant)
                    self.one(contestant, name + ", cold", command)
                self.one(contestant, name, command)

    def one(self, contestant, name, command):
        found = timed(command)
        found.update(name=name, events=contestant.events)
        self.rows.append(found)
        if found["status"] and name != "check":
            self.wrong.append("%s, %s: status %s, %s" % (contestant.title, name, found["status"], found["errors"]))
        self.bench.say("  %s, %s: first byte after %.3f s, all %.2f s, CPU %.2f s, %.1f MiB, %d lines" % (
            name, contestant.title, found["first_s"], found["all_s"], found["cpu_s"], found["rss_mib"], found["lines"]))

    def report(self):
        lines = ["| command | events | first byte s | all s | CPU s | RSS MiB | lines |", "|---|---|---|---|---|---|---|"]
        for row in sorted(self.rows, key=lambda row: (row["name"], row["events"])):
            lines.append("| %s | %s | %.3f | %.2f | %.2f | %.1f | %s |" % (
                row["name"], thousands(row["events"]), row["first_s"], row["all_s"], row["cpu_s"], row["rss_mib"],
                thousands(row["lines"])))
        return lines


class Care(Commands):
    """Backup, and a purge of the oldest fiftieth."""

    def run(self):
        for contestant in self.contestants:
            examhook = [self.bench.program("examhook"), "--config", contestant.conf]
            copy = os.path.join(contestant.folder, "copy")
            shutil.rmtree(copy, ignore_errors=True)
            self.one(contestant, "backup", [*examhook, "backup", copy])
            shutil.rmtree(copy, ignore_errors=True)
            days = (time.time() * 1000 - contestant.seed.first_ms) / 86400000 * 0.98
            self.one(contestant, "purge of the oldest 2%", [*examhook, "purge", "--older-than", str(int(days))])


class Import(Commands):
    def __init__(self, bench, contestants, candidates):
        super().__init__(bench, contestants)
        self.candidates = candidates

    def run(self):
        contestant = self.contestants[-1]
        examhook = [self.bench.program("examhook"), "--config", contestant.conf, "roster", "import"]
        path = os.path.join(contestant.folder, "roster.csv")
        write_roster(path, self.candidates)
        self.one(contestant, "import, hashes given", [*examhook, path, "--account", "main", "--replace"])


# --- The run ---------------------------------------------------------------------------------------------------

def arguments():
    parser = argparse.ArgumentParser(description="How cost grows; see the head of this file.")
    parser.add_argument("--build", default=os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
    parser.add_argument("--events", default="10000000", help="of one store or, with commas, of several")
    parser.add_argument("--candidates", type=int, default=200000)
    parser.add_argument("--folder", help="where the stores are made; default: DIR/bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40000)
    parser.add_argument("--parts", default="intake,verify,lists,import,care")
    parser.add_argument("--keep", action="store_true", help="leave the stores for another run")
    return parser.parse_args()


def look_for_room(folder, sizes, candidates):
    needed = sum(seed.room_needed(events, candidates) for events in sizes
                 if not os.path.exists(os.path.join(folder, "events%d" % events, "whole")))
    left = shutil.disk_usage(folder).free
    if needed > left:
        raise NotRun("it takes %.1f GB in %s, where %.1f GB are free" % (needed / 1e9, folder, left / 1e9))


def main():
    args = arguments()
    end_at_signals()
    args.parts = args.parts.split(",")
    sizes = sorted(int(n) for n in args.events.split(","))
    bench = Bench(args.build, "full")
    folder = os.path.abspath(args.folder or os.path.join(bench.kept, "growth"))
    os.makedirs(folder, exist_ok=True)
    contestants = []
    result, wrong = {"when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "candidates": args.candidates}, []
    report, targets = [], []
    try:
        look_for_room(folder, sizes, args.candidates)
        contestants = [Ours(bench, folder, events, args.candidates) for events in [0, *sizes]]
        for contestant in contestants:
            contestant.prepare()
        filled = contestants[1:]
        parts = []
        if {"intake", "verify"} & set(args.parts):
            parts.append(("Requests", Loads(bench, contestants, args)))
        if "lists" in args.parts:
            parts.append(("Listings", Commands(bench, contestants)))
        if "import" in args.parts:
            parts.append(("Import", Import(bench, filled, args.candidates)))
        if "care" in args.parts:
            parts.append(("Care", Care(bench, filled)))
        for title, part in parts:
            bench.say(title + ":")
            part.run()
            wrong += part.wrong
            report += ["", "## " + title, "", *part.report()]
            result[title] = part.figures() if isinstance(part, Loads) else part.rows
            targets += part.targets() if isinstance(part, Loads) else []
    except NotRun as reason:
        print("bench-growth: not run: %s" % reason)
        return 1
    finally:
        bench.close()
        if not args.keep:
            for contestant in contestants:
                shutil.rmtree(contestant.folder, ignore_errors=True)
    result["targets"] = [dict(zip(("what", "at_most", "got"), target)) for target in targets]
    report += ["", "| what | target | got | |", "|---|---|---|---|"]
    report += ["| %s | at most %g | %.2f | %s |" % (*target, "met" if target[2] <= target[1] else "missed")
               for target in targets]
    with open(os.path.join(args.build, "bench-growth.json"), "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
    print("\n".join([*report, "", *("WRONG: " + what for what in wrong)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
