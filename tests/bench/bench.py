#!/usr/bin/python3
"""What examhook's work costs beside the same work done otherwise, and beside doing nothing.

    tests/bench/bench.py [--build DIR] [--mode full|quick|short] [--parts NAME,NAME] [--only CONTESTANT,...]
                         [--rounds N] [--seconds N] [--connections N,N] [--also NAME=BUILD-DIR]

`--also` puts another build of ours beside, to see what a change does.

A benchmark is made of parts, one module each in parts/, run one after the other. All figures that count are ratios
within one run. The exit status says whether all answers and all rows were right, never how fast anything was.
Everything is in DIR/bench.json, the tables in DIR/bench.md, the chart in DIR/bench.svg.

A part is a class that its module names PART:

    name, title, order     `order`: parts run by it
    Part(bench)            `bench` is harness.Bench: where to keep things, mode, say(), start() of a process
    prepare()              starts what is measured; harness.NotRun(reason) when nothing of it can be here
    rounds()               how many rounds this mode has: bench.pick(full=, quick=, short=)
    round(number)          one round, each contestant once
    figures()              what was measured, for the JSON file
    targets()              a list of harness.Target
    report()               lines of Markdown
    close()                stops what it started (what bench.start() started ends in any case)
    wrong                  a list of strings: answers or rows that were not as they must be
    not_run                a dictionary: what could not be measured, and why
"""
import argparse
import importlib
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from chart import draw  # noqa: E402
from harness import NGINX_WORKERS, TOP, Bench, NotRun, end_at_signals, environment, syncs_each_second  # noqa: E402


def parts(names):
    found = []
    for file in sorted(os.listdir(os.path.join(HERE, "parts"))):
        if re.fullmatch(r"[a-z]\w*\.py", file):
            found.append(importlib.import_module("parts." + file[:-3]).PART)
    unknown = set(names) - {part.name for part in found}
    if unknown:
        sys.exit("bench: no such part: %s; there are: %s" % (", ".join(unknown), ", ".join(p.name for p in found)))
    return sorted((part for part in found if not names or part.name in names), key=lambda part: part.order)


# --- Where it ran ----------------------------------------------------------------------------------------------

def version(*command):
    """The first word with a number in it that the command prints of itself."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
                              check=False)
    except OSError:
        return None
    found = re.search(r"(?<![\w.])v?(\d+\.\d+[\w.+~-]*)", done.stdout)
    return found.group(1) if found else None


def commit():
    done = subprocess.run(["git", "-C", TOP, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() or "no commit"


def machine(bench):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        model = re.search(r"^model name\s*: (.*)$", f.read(), re.M)
    with open("/proc/meminfo", encoding="ascii") as f:
        memory = int(re.search(r"^MemTotal:\s+(\d+)", f.read(), re.M).group(1))
    with open("/etc/os-release", encoding="utf-8") as f:
        system = re.search(r'^PRETTY_NAME="?([^"\n]*)', f.read(), re.M)
    return {"processor": model.group(1) if model else platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(memory / 1048576, 1), "system": system.group(1) if system else platform.system(),
            "kernel": platform.release(), "nginx_workers": NGINX_WORKERS,
            "load_before": os.getloadavg()[0]}


def versions():
    asked = {"nginx": ("nginx", "-v"), "wrk": ("wrk", "-v"), "SQLite": ("sqlite3", "--version"), "cc": ("cc", "-dumpfullversion"),
             "PHP": ("php8.2", "--version"), "Node": ("node", "--version"), "Python": ("/usr/bin/python3", "--version"),
             "Flask": ("/usr/bin/python3", "-c", "import flask; print(flask.__version__)"),
             "gunicorn": ("gunicorn", "--version"), "uWSGI": ("uwsgi", "--version"), "webhook": ("webhook", "-version")}
    found = {name: version(*command) for name, command in asked.items()}
    with open(os.path.join(HERE, "peers/package.json"), encoding="utf-8") as f:
        found.update(json.load(f)["dependencies"])
    return dict({name: number for name, number in found.items() if number}, examhook=commit())


# --- One run ---------------------------------------------------------------------------------------------------

def run_part(make, bench):
    """What came of one part, for the report."""
    part = make(bench)
    part.wrong, part.not_run = getattr(part, "wrong", []), getattr(part, "not_run", {})
    begin, quiet = time.monotonic(), []
    bench.say("%s:" % part.title)
    try:
        part.prepare()
        for number in range(part.rounds()):
            quiet.append({"fdatasync_s": syncs_each_second(bench.kept, 0.3), "load": os.getloadavg()[0]})
            part.round(number)
        found = {"figures": part.figures(), "targets": [target.as_dict() for target in part.targets()],
                 "report": part.report()}
    except NotRun as reason:
        bench.say("  not run: %s" % reason)
        part.not_run[part.name] = str(reason)
        found = {"figures": {}, "targets": [], "report": ["not run: %s" % reason]}
    except (OSError, ValueError, LookupError, AssertionError, sqlite3.Error, subprocess.SubprocessError) as trouble:
        traceback.print_exc()
        part.wrong.append("it could not be measured: %r" % trouble)
        found = {"figures": {}, "targets": [], "report": ["not measured: %r" % trouble]}
    finally:
        part.close()
    return dict(found, title=part.title, wrong=part.wrong, not_run=part.not_run, before_each_round=quiet,
                seconds=round(time.monotonic() - begin, 1))


def markdown(result):
    """The tables, with the machine beside them."""
    where = result["machine"]
    lines = ["%(processor)s, %(cores)d cores, %(memory_gib)g GiB, %(system)s, kernel %(kernel)s; "
             "%(nginx_workers)d workers of nginx, plain HTTP on loopback." % where, "",
             "Versions: %s." % "; ".join("%s %s" % pair for pair in sorted(result["versions"].items(), key=lambda pair: pair[0].lower())), "",
             "Repeat it: `%s`. In brackets: the ratio to ours." % result["command"]]
    for part in result["parts"].values():
        syncs = [one["fdatasync_s"] for one in part["before_each_round"]]
        lines += ["", "## %s" % part["title"]]
        if syncs:
            lines += ["", "Rounds: %d; before each, the disk took %d-%d fdatasync/s." % (len(syncs), min(syncs), max(syncs))]
        lines += part["report"]
    targets = [target for part in result["parts"].values() for target in part["targets"]]
    lines += ["", "## Targets", "", "| what | target | got | |", "|---|---|---|---|"]
    for t in targets:
        spread = " (%.3g-%.3g)" % (min(t["rounds"]), max(t["rounds"])) if len(t["rounds"]) > 1 else ""
        lines.append("| %s%s | %s | %s%s | %s |" % (t["what"], " (%s)" % t["note"] if t["note"] else "", t["target"],
                                                    "-" if t["got"] is None else "%.3g" % t["got"], spread, t["verdict"]))
    lines += ["", *("WRONG: " + what for part in result["parts"].values() for what in part["wrong"])]
    return "\n".join(lines).rstrip() + "\n"


def arguments():
    parser = argparse.ArgumentParser(description="Side by side with peers and ceilings; see the head of this file.")
    parser.add_argument("--build", default=os.environ.get("EXAMHOOK_BUILD") or os.path.join(TOP, "build"))
    parser.add_argument("--mode", choices=("full", "quick", "short"), default="full")
    parser.add_argument("--parts", default="", help="only these, with commas between")
    parser.add_argument("--only", default="", help="only these contestants, with commas between")
    parser.add_argument("--rounds", type=int, help="in place of the mode's")
    parser.add_argument("--seconds", type=int, help="of one load, in place of the mode's")
    parser.add_argument("--connections", default="1,32,64")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=DIR", help="another build of ours")
    parser.add_argument("--out", help="the folder of the reports (default: the build folder)")
    return parser.parse_args()


def main():
    args = arguments()
    end_at_signals()

    def words(text):
        return [word for word in text.split(",") if word]
    chosen = parts(words(args.parts))
    bench = Bench(args.build, args.mode, words(args.only))
    bench.rounds, bench.seconds = args.rounds, args.seconds
    bench.connections = [int(n) for n in words(args.connections)]
    bench.also = [pair.partition("=")[::2] for pair in args.also]
    begin = time.monotonic()
    how = {"full": "make bench", "quick": "make bench QUICK=1", "short": "make bench SHORT=1"}[args.mode]
    try:
        result = {"command": how, "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "machine": machine(bench),
                  "versions": versions(), "parts": {}}
        for make in chosen:
            result["parts"][make.name] = run_part(make, bench)
    finally:
        bench.close()
    result["seconds"] = round(time.monotonic() - begin, 1)
    write(args.out or args.build, result)
    wrong = sum(len(part["wrong"]) for part in result["parts"].values())
    missed = sum(target["verdict"] == "missed" for part in result["parts"].values() for target in part["targets"])
    print("bench: %d parts, %d wrong, %d targets missed, %d s; figures in %s" % (
        len(result["parts"]), wrong, missed, result["seconds"], os.path.join(args.out or args.build, "bench.json")))
    return 1 if wrong else 0


def write(folder, result):
    text = markdown(result)
    with open(os.path.join(folder, "bench.json"), "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
    with open(os.path.join(folder, "bench.md"), "w", encoding="utf-8") as f:
        f.write(text)
    chart = draw(result)
    if chart:
        with open(os.path.join(folder, "bench.svg"), "w", encoding="utf-8") as f:
            f.write(chart)
    print("\n" + text)


if __name__ == "__main__":
    sys.exit(main())
