#!/usr/bin/python3
"""Do secrets, or who is a candidate, show in the time that an answer takes?

    tests/torture/timing.py [--calls 1000000] [--tries 300] [--hash yescrypt|bcrypt|sha512crypt] [--limit 5]

In one process (timing_compare.c): a secret that is wrong in its first byte against one that is wrong in its last, in
random order, and Welch's t of the two; below 10 there is nothing to see. A comparison that stops at the first
difference is measured beside it, so that it is known what a leak looks like.

Then over HTTPS through nginx and the real program, one request at a time on a kept connection, the kinds in random
order, each candidate and each unknown identity asked once (so that nobody is throttled): the medians of

    unknown      nobody has this identity
    known        a candidate, and a wrong password
    other exam   a candidate of another exam, and a wrong password
    closed       a candidate whose window is over, and a wrong password

may differ by --limit percent from that of `unknown`. So may those of a throttled unknown and a throttled known
identity, whose answers cost no hash. Beside it, without a limit: a candidate whose hash is of another kind than most
of the roster's, against whom `unknown` must look different; a measurement that does not see that sees nothing.

A busy machine moves medians too, but not twice in the same way: where one is beyond its limit, all is measured again, up to
three times, and only what is beyond it each time and on the same side counts. It is measured again where the control sees no leak, too.

The last line is `timing: secret comparison |t| N (leaky control N), unknown/known median N`; the exit status is 1
when a limit is passed or a control sees no leak.
"""
import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "e2e"))
from accounts import YESCRYPT  # noqa: E402
from calls import EXAMJOINT, client, fields  # noqa: E402
from support import BUILD, Site  # noqa: E402

T_LIMIT = 10
CONF = """
[examjoint acme]
client_id = acme-id
client_secret = acme-secret-new
[fields]
0 = id
1 = password
[throttle]
failures = 5
pause = 1h
window = 1h
"""
# Of "horse" and the kind; each at the cost at which `examhook roster import` makes it.
HASHES = {
    "yescrypt": YESCRYPT,
    "bcrypt": "$2b$10$3mFC35/GjLoMXhFEl8b0bO9WgCOZu278HaMXT19ys9F6xG4E/MTnO",
    "sha512crypt": "$6$abcdefghijklmnop$YUyLeM49JB8Nzv6wVOu8O71JjVFiiAyvqFbh4h4PG2O3e8D7IjA8OnJE6zA8/UYxI07quaw67NvyFzgqN8Hld1",
}
KINDS = ("unknown", "known", "other exam", "closed")
THROTTLED = ("throttled unknown", "throttled known")
OTHER = "another kind of hash"
THROTTLED_MORE = 2 # they cost little; more would be over the limit of requests
MEASURED_MOST = 3


def compared(calls):
    """{name: t} of the program that times comparisons."""
    done = subprocess.run([os.path.join(BUILD, "timing_compare"), str(calls)], stdout=subprocess.PIPE, text=True,
                          check=False)
    assert done.returncode == 0, "a wrong secret was taken for the right one, or nothing was measured: %r" % done
    rows = {}
    for line in done.stdout.splitlines():
        name, t, first, last = line.split()
        rows[name] = float(t)
        print("%-13s |t| %8.2f   first byte wrong %s ns, last byte wrong %s ns" % (name, abs(float(t)), first, last))
    return rows


def roster(tries, kind, other):
    """More of the one kind than of the other: unknown identities cost what most of a roster cost."""
    rows = ["id,password_hash,exam,opens,closes"]
    for n in range(tries):
        rows.append("known-%05d,%s,,," % (n, kind))
        rows.append("exam-%06d,%s,exam-2,," % (n, kind))
        rows.append("closed-%04d,%s,,2020-01-01T00:00:00Z,2020-01-02T00:00:00Z" % (n, kind))
        rows.append("other-%05d,%s,,," % (n, other))
    return "\n".join(rows) + "\nthrottled,%s,,,\n" % kind


NAMES = {"unknown": "nobody-%04d", "known": "known-%05d", "other exam": "exam-%06d", "closed": "closed-%04d",
         OTHER: "other-%05d", "throttled unknown": "throttlee", "throttled known": "throttled"}


class Asker:
    def __init__(self, site):
        self.site = site
        self.connection = http.client.HTTPSConnection("127.0.0.1", site.port, context=site.tls, timeout=60)
        self.asked = 0

    def ask(self, name):
        """(milliseconds, the answer's text)"""
        self.asked += 1
        if self.asked % 900 == 0: # nginx closes one after 1,000 requests
            self.connection.close()
        body = json.dumps({"event": "verify_respondent", "fields": fields(name, "wrong password"), "exam_id": "exam-1",
                           "choosenLang": "en"}).encode()
        begun = time.perf_counter()
        self.connection.request("POST", EXAMJOINT, body, dict(client()))
        answer = self.connection.getresponse()
        text = answer.read()
        took = (time.perf_counter() - begun) * 1000
        assert answer.status == 200, (answer.status, text)
        return took, json.loads(text)["errorMessage"]


def rounds(asker, tries, kinds):
    """{kind: its times}; in each round every kind once, in random order."""
    times = {kind: [] for kind in kinds}
    texts = set()
    for n in range(tries):
        for kind in random.sample(kinds, len(kinds)):
            name = NAMES[kind]
            took, text = asker.ask(name % n if "%" in name else name)
            times[kind].append(took)
            texts.add("".join(c for c in text if not c.isdigit()))
    assert len(texts) == 1, "they do not read the same: %r" % texts
    return times


def answers(tries, kind):
    """{kind of candidate: the median of its times}"""
    site = Site(CONF)
    try:
        site.roster("acme", roster(tries, HASHES[kind], HASHES["yescrypt" if kind != "yescrypt" else "sha512crypt"]))
        site.start()
        asker = Asker(site)
        for _ in range(6): # warm, and throttled from now on
            for name in THROTTLED:
                asker.ask(NAMES[name])
        times = rounds(asker, tries, [*KINDS, OTHER])
        times.update(rounds(asker, tries * THROTTLED_MORE, list(THROTTLED)))
    finally:
        site.close()
    return {name: statistics.median(values) for name, values in times.items()}


def ratio_of(medians, name, base):
    ratio = medians[base] / medians[name]
    print("%-20s median %7.2f ms   %s/this %.3f" % (name, medians[name], base, ratio))
    return ratio


def main():
    parser = argparse.ArgumentParser(description="Do secrets, or who is a candidate, show in the time?")
    parser.add_argument("--calls", type=int, default=1000000, help="comparisons of secrets of each kind")
    parser.add_argument("--tries", type=int, default=300, help="answers of each kind")
    parser.add_argument("--hash", choices=sorted(HASHES), default="yescrypt", help="of the roster's passwords")
    parser.add_argument("--limit", type=float, default=5, help="percent by which medians may differ")
    args = parser.parse_args()

    t = compared(args.calls)
    beyond = None
    for _ in range(MEASURED_MOST):
        medians = answers(args.tries, args.hash)
        ratios = {name: ratio_of(medians, name, "unknown") for name in KINDS}
        ratios["throttled"] = ratio_of(medians, "throttled known", "throttled unknown")
        control = ratio_of(medians, OTHER, "unknown")
        now = {(name, ratio > 1) for name, ratio in ratios.items() if abs(ratio - 1) * 100 > args.limit}
        beyond = now if beyond is None else beyond & now
        if not beyond and abs(control - 1) * 100 > args.limit:
            break
    leaky, real = abs(t["bytes"]), max(abs(t["secret_check"]), abs(t["secret_equal"]))
    wrong = ["%s: %.3f" % (name, ratios[name]) for name, _ in sorted(beyond)]
    if real >= T_LIMIT:
        wrong.append("the comparison of secrets: |t| %.1f" % real)
    if leaky < T_LIMIT or abs(control - 1) * 100 <= args.limit:
        wrong.append("a control saw no leak: this measured nothing")
    for line in wrong:
        print("beyond its limit: " + line)
    print("timing: secret comparison |t| %.2f (leaky control %.0f), unknown/known median %.3f" % (
        real, leaky, ratios["known"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
