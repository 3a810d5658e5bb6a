"""The start of an exam: twice as many candidates as this machine can verify in that time, through the real nginx over
TLS, and admissions beside them.

What there is to reach is measured in the same run: one check on all cores at once, by `examhook check`, before and
after; and beside it crypt(3) without us. The candidates are made on the same
machine, which takes processor time that a real installation has for itself; so beside the plain ratio stands the one to
what was left of the machine without them."""
import bisect
import json
import os
import re
import resource
import subprocess

import support
from accounts import YESCRYPT
from harness import CLIENT_ID, CLIENT_SECRET, HERE, Target, cores, cpu_seconds, environment, median
from support import PYTHON, Site

ADMISSIONS = 30 # a second
WARM_S = 0.1 # of the window, until the queue has formed
CONF = """
[examjoint main]
client_id = %s
client_secret = %s

[fields]
0 = id
1 = password
""" % (CLIENT_ID, CLIENT_SECRET)


def share(values, part):
    """The value below which that part of them lies."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def inversions(asked_and_answered):
    """Of all pairs, the share that was answered in another order than asked."""
    seen, count = [], 0
    for _, answered in sorted(asked_and_answered):
        count += len(seen) - bisect.bisect_right(seen, answered)
        bisect.insort(seen, answered)
    pairs = len(seen) * (len(seen) - 1) / 2
    return count / pairs if pairs else 0.0


def busy_jiffies():
    """What all processors have worked so far, in seconds."""
    with open("/proc/stat", encoding="ascii") as f:
        fields = [int(word) for word in f.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def threads_s(pid):
    """Seconds of the processor of a program's event loop, which is its first thread, and of its other threads."""
    loop = others = 0.0
    for thread in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/stat" % (pid, thread), encoding="ascii", errors="replace") as f:
                used = sum(int(word) for word in f.read().rpartition(")")[2].split()[11:13]) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
        loop, others = (loop + used, others) if int(thread) == pid else (loop, others + used)
    return loop, others


class BenchSite(Site):
    """With as many connections of nginx as nginx-systemd.md says for large exams: a candidate who waits takes two."""

    def write_nginx(self, change):
        super().write_nginx(change)
        with open(self.nginx_conf, encoding="utf-8") as f:
            text = f.read()
        with open(self.nginx_conf, "w", encoding="utf-8") as f:
            f.write(text.replace("worker_connections 2048", "worker_connections 8192"))


class Start:
    name, title, order = "start", "The start of an exam", 30

    def __init__(self, bench):
        self.bench, self.site, self.seen = bench, None, []
        self.wrong, self.not_run = [], {}

    # --- Measuring -------------------------------------------------------------------------------------------

    def prepare(self):
        support.BUILD = self.bench.build
        for name in ("examhook", "examjoint.fcgi", "proview.fcgi"):
            self.bench.program(name)
        # As [verify] budget is to a minute by default.
        self.seconds = self.bench.pick(full=60, quick=20, short=6)
        self.budget = max(2, self.seconds // 3)
        self.site = BenchSite(CONF, [("main", "id,password_hash\nc0,%s\n" % YESCRYPT)], verify="budget = %ds" % self.budget)
        self.crypt_us, crypt_s = self.crypt_alone()
        self.check_us = min(self.one_check() for _ in range(3)) # who is slow once is disturbed: it must be a rush
        self.bench.say("  one check: %.1f ms of a core; by crypt(3) alone %.1f ms, %.1f/s on all %d cores by the clock" % (
            self.check_us / 1000, self.crypt_us / 1000, crypt_s, cores()))
        self.rate = cores() * 1e6 / self.check_us
        count = int(2.2 * self.rate * self.seconds) + 10
        self.site.roster("main", "id,password_hash\n" + "".join("c%d,%s\n" % (n, YESCRYPT) for n in range(count)), "--replace")
        # Descriptors for what waits: nginx's two for each candidate, and the generator's.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 20000)), hard))
        self.site.start()

    def one_check(self):
        """Microseconds of a core: what `examhook check` measures with this roster, on all cores at once."""
        for line in self.site.examhook("check", "--json").stdout.splitlines():
            found = re.search(r"one check of yescrypt .* takes ([\d.]+) ms", json.loads(line)["text"])
            if found:
                return 1000 * float(found.group(1))
        raise AssertionError("examhook check did not say what a check takes")

    def crypt_alone(self):
        done = subprocess.run([PYTHON, os.path.join(HERE, "crypt_speed.py"), YESCRYPT,
                               str(self.bench.pick(full=4, quick=2, short=1))], check=True, stdout=subprocess.PIPE,
                              text=True, env=environment())
        return [float(word) for word in done.stdout.split()]

    def rounds(self):
        return 1

    def generator(self, **how):
        """As if on another machine: what competes with it for the processor would only blur what it sees."""
        def first():
            try:
                os.setpriority(os.PRIO_PROCESS, 0, -10)
            except PermissionError:
                pass
        how = dict(how, port=self.site.port, seconds=self.seconds, until=self.seconds + self.budget,
                   client=[CLIENT_ID, CLIENT_SECRET])
        return subprocess.Popen([PYTHON, os.path.join(HERE, "rush.py"), json.dumps(how)], stdout=subprocess.PIPE,
                                text=True, env=environment(), preexec_fn=first)

    def round(self, number):
        program, nginx = self.site.parts["examjoint"].process.pid, self.site.parts["nginx"].process.pid

        def now():
            return [busy_jiffies(), cpu_seconds([nginx]), *threads_s(program)]
        before = now()
        generators = [self.generator(role="candidates", rate=2 * self.rate), self.generator(role="admissions", rate=ADMISSIONS)]
        said = [json.loads(g.communicate(timeout=10 * self.seconds + 60)[0]) for g in generators]
        busy, nginx_s, loop_s, hash_s = (after - at for after, at in zip(now(), before))
        self.check_us = (self.check_us + self.one_check()) / 2
        self.candidates, self.admissions = said[0]["requests"], said[1]["requests"]
        self.cpu = {"candidates_s": said[0]["cpu_s"], "admissions_s": said[1]["cpu_s"], "nginx_s": nginx_s,
                    "loop_s": loop_s, "hash_s": hash_s}
        self.cpu["others_s"] = max(0.0, busy - sum(self.cpu.values()))
        self.took = max(one[1] for g in said for one in g["requests"])
        self.connections = said[0]["connections"]
        self.look()

    def look(self):
        """Whether all is stored that was acknowledged, and nothing was answered in another way."""
        odd = sorted({kind for _, _, kind, _, _ in self.candidates + self.admissions if kind not in ("valid", "busy")})
        if odd:
            self.wrong.append("answered otherwise: %s" % "; ".join("%s (%d)" % (kind, sum(
                one[2] == kind for one in self.candidates + self.admissions)) for kind in odd[:4]))
        rows = self.site.rows("events", "--json")
        stored = {row["respondent_id"] for row in rows if row["event"] == "admitted_respondent"}
        self.lost = sum("a%d" % number not in stored for _, _, kind, _, number in self.admissions if kind == "valid")
        valid = sum(row["event"] == "verify_respondent" and row["outcome"] == "valid" for row in rows)
        if self.lost:
            self.wrong.append("%d acknowledged admissions are not stored" % self.lost)
        if valid != sum(kind == "valid" for _, _, kind, _, _ in self.candidates):
            self.wrong.append("%d verifications are stored, other than were answered" % valid)

    def close(self):
        if self.site:
            self.site.close()
            self.site = None

    # --- What came out ---------------------------------------------------------------------------------------

    def first_tries(self):
        seen, found = set(), []
        for one in sorted(self.candidates):
            if one[4] not in seen:
                found.append(one)
            seen.add(one[4])
        return found

    def numbers(self):
        begin, end = WARM_S * self.seconds, self.seconds
        valid = [one for one in self.candidates if one[2] == "valid"]
        busy = [one for one in self.candidates if one[2] == "busy"]
        first = self.first_tries()
        again = self.later_tries(first)
        rate = sum(begin <= one[1] < end for one in valid) / (end - begin)
        taken = (self.cpu["candidates_s"] + self.cpu["admissions_s"]) / self.took / cores()
        others = self.cpu["others_s"] / self.took / cores()
        reach = cores() * 1e6 / self.check_us
        waits = [one[1] - one[0] for one in self.candidates]
        refusals = [one[1] - one[0] for one in busy]
        told = [round(one[1] + one[3]) for one in busy]
        return {
            "cores": cores(), "check_us": self.check_us, "crypt_us": self.crypt_us, "reach_s": reach,
            "to_crypt_alone": rate * self.crypt_us / cores() / 1e6, "verified_s": rate,
            "raw_ratio": rate / reach, "ratio": rate / (reach * (1 - taken)), "generators_share": taken,
            "others_share": others, "ratio_without_others": rate / (reach * max(0.01, 1 - taken - others)),
            "candidates": len(first), "verified": len(valid), "told_later": len(busy),
            "longest_wait_s": max(waits), "budget_s": self.budget,
            "refused_p50_s": share(refusals, 0.5), "refused_p99_s": share(refusals, 0.99),
            "refused_longest_s": max(refusals, default=0.0),
            "inversions": inversions([one[:2] for one in first if one[2] == "valid"]),
            "returned": len(again), "returned_verified": sum(one[2] == "valid" for one in again),
            "most_told_for_one_second": max((told.count(second) for second in set(told)), default=0),
            "told_median_s": median([one[3] for one in busy]) if busy else 0,
            "admissions": len(self.admissions),
            "admissions_p50_ms": share([1000 * (one[1] - one[0]) for one in self.admissions], 0.5),
            "admissions_p99_ms": share([1000 * (one[1] - one[0]) for one in self.admissions], 0.99),
            "admissions_lost": self.lost,
            "connections": self.connections, "cpu": self.cpu}

    def later_tries(self, first):
        firsts = {(one[4], one[0]) for one in first}
        return [one for one in self.candidates if (one[4], one[0]) not in firsts]

    def figures(self):
        self.found = self.numbers()
        return dict(self.found, requests=self.candidates, admission_requests=self.admissions)

    def targets(self):
        f = self.found
        note = "of the machine without the generators (%.0f%%); plain: %.2f" % (100 * f["generators_share"], f["raw_ratio"])
        return [Target("verifications/s against cores / time of one check", 0.85, f["ratio"], note=note),
                Target("longest wait against the budget", 1, f["longest_wait_s"] / f["budget_s"], most=True),
                Target("refused for load: p99 of the time until told, against the budget", 0.05,
                       f["refused_p99_s"] / f["budget_s"], most=True),
                Target("pairs of candidates answered in another order than they came", 0.01, f["inversions"], most=True),
                Target("admissions meanwhile: p99, ms", 50, f["admissions_p99_ms"], most=True),
                Target("admissions acknowledged and not stored", 0, f["admissions_lost"], most=True)]

    def report(self):
        f = self.found
        return ["", "Over TLS, %d candidates within %d s, twice what %d cores can verify at %.1f ms each; %d s of budget; %d "
                "admissions/s beside." % (f["candidates"], self.seconds, f["cores"], f["check_us"] / 1000, f["budget_s"],
                                          ADMISSIONS),
                "", "| | |", "|---|---|",
                "| verified | %.1f/s of %.1f/s: %.2f; %.2f without the generators' %.0f%% of the machine |" % (
                    f["verified_s"], f["reach_s"], f["raw_ratio"], f["ratio"], 100 * f["generators_share"]),
                "| one check | %.1f ms of a core; crypt(3) without us %.1f ms: to that, %.2f |" % (
                    f["check_us"] / 1000, f["crypt_us"] / 1000, f["to_crypt_alone"]),
                "| other processes on the machine | %.0f%% of it; without them too: %.2f |" % (
                    100 * f["others_share"], f["ratio_without_others"]),
                "| seconds of a core: password checks, event loop, nginx, generators, others | %.1f, %.1f, %.1f, %.1f, %.1f |" % (
                    *(f["cpu"][name] for name in ("hash_s", "loop_s", "nginx_s")),
                    f["cpu"]["candidates_s"] + f["cpu"]["admissions_s"], f["cpu"]["others_s"]),
                "| longest wait | %.2f s |" % f["longest_wait_s"],
                "| told to try again later | %d, p50 %.3f s, p99 %.3f s, longest %.2f s after they asked |" % (
                    f["told_later"], f["refused_p50_s"], f["refused_p99_s"], f["refused_longest_s"]),
                "| who came back when told | %d, of whom %d were verified then; at most %d were told the same second |" % (
                    f["returned"], f["returned_verified"], f["most_told_for_one_second"]),
                "| answered in another order than they came | %.4f of all pairs |" % f["inversions"],
                "| admissions | %d, p50 %.1f ms, p99 %.1f ms, %d lost |" % (
                    f["admissions"], f["admissions_p50_ms"], f["admissions_p99_ms"], f["admissions_lost"])]


PART = Start
