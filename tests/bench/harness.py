"""What every part of the benchmark uses: processes and what they cost, nginx in front of the contestants, wrk, and
the look at the answers and at the rows. See bench.py for what a part is."""
import collections
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, "tests", "e2e"))
from support import environment, free_port, wait_for  # noqa: E402

CLIENT_ID, CLIENT_SECRET = "bench-id", "bench-secret-0123456789abcdef"
PATH = "/webhooks/examjoint"
TICKS = os.sysconf("SC_CLK_TCK")
NGINX_WORKERS = 2
QUIET_LOOKS = 6 # without anything new: the load is over


class NotRun(Exception):
    """This cannot be measured here, and why."""


class Bench:
    """One run: where it keeps things, how long it may take, and what it says meanwhile."""

    def __init__(self, build, mode, only=(), out=sys.stdout):
        self.build, self.mode, self.only, self.out = os.path.abspath(build), mode, tuple(only), out
        # The stores lie where the build does, on a real disk; the sockets where a path is short.
        self.kept = os.path.join(self.build, "bench")
        os.makedirs(self.kept, exist_ok=True)
        self.folder = tempfile.mkdtemp(prefix="run-", dir=self.kept)
        self.sockets = tempfile.mkdtemp(prefix="examhook-b-")
        self.running = []
        # What the command line may ask for: None, the mode says it.
        self.rounds = self.seconds = None
        self.connections, self.also = [1, 32, 64], []

    def pick(self, full, quick, short):
        return {"full": full, "quick": quick, "short": short}[self.mode]

    def say(self, text):
        print(text, file=self.out, flush=True)

    def path(self, *names):
        path = os.path.join(self.folder, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def socket(self, name):
        return os.path.join(self.sockets, name + ".sock")

    def program(self, name, build=None):
        path = os.path.join(build or self.build, name)
        if not os.access(path, os.X_OK):
            raise NotRun("%s was not built" % name)
        return path

    def wants(self, name):
        return not self.only or name in self.only

    def start(self, name, command, **env):
        process = Process(name, [str(word) for word in command], self.path("log", name + ".log"), env)
        self.running.append(process)
        return process

    def close(self):
        for process in reversed(self.running):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)


def tool(name, package):
    """The path of an installed program."""
    path = shutil.which(name, path=environment()["PATH"])
    if not path:
        raise NotRun("%s is not installed (package %s: deploy/deps bench)" % (name, package))
    return path


def cores():
    """How many processors a contestant may use: what a developer would size workers by."""
    return len(os.sched_getaffinity(0))


# --- Processes, and what they cost -----------------------------------------------------------------------------

class Process:
    """A running program and its children, in a process group of its own; its output is in a log."""

    def __init__(self, name, command, log_path, env):
        self.name, self.command, self.log_path = name, command, log_path
        if shutil.which("setpriv"): # it ends with us, even when we are killed
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=dict(environment(), **env), start_new_session=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def alive(self):
        return self.process.poll() is None

    def wait_listening(self, address, seconds=60):
        """Until it listens at a socket's path or a TCP port."""
        def listening():
            if not self.alive():
                return True
            with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as s:
                return s.connect_ex(address if isinstance(address, str) else ("127.0.0.1", address)) == 0
        if not wait_for(listening, seconds) or not self.alive():
            raise NotRun("%s did not start: %s" % (self.name, " ".join(self.log().split())[-300:]))

    def stop(self):
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        try: # what it left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def end_at_signals():
    """Told to end, the bench still stops and removes what it started."""
    def stop(number, _):
        raise SystemExit(128 + number)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def tree(roots):
    """The processes of these ids and all that descend from them."""
    children = collections.defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_of(name)
            if fields:
                children[int(fields[1])].append(int(name))
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children[pid])
    return found


def stat_of(pid):
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        with open("/proc/%s/stat" % pid, encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_seconds(roots):
    """User and system time of these processes, their descendants, and the children that have ended."""
    total = 0
    for pid in tree(roots):
        fields = stat_of(pid)
        if fields:
            total += sum(int(n) for n in fields[11:15])
    return total / TICKS


def memory(roots):
    """MiB: the largest peak of one process, the sum of all peaks, and what all share and own now (PSS)."""
    peaks, pss = [], 0
    for pid in tree(roots):
        try:
            with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as f:
                found = re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M)
            with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as f:
                pss += int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M).group(1))
        except (OSError, AttributeError):
            continue
        if found:
            peaks.append(int(found.group(1)))
    return {"rss_peak_mib": round(max(peaks, default=0) / 1024, 1), "rss_peaks_sum_mib": round(sum(peaks) / 1024, 1),
            "pss_mib": round(pss / 1024, 1), "processes": len(peaks)}


# --- A contestant ----------------------------------------------------------------------------------------------

class Contestant:
    """What answers behind nginx. A subclass gives its name, what it is (`kind`: ours, ceiling, peer), and start(),
    server(); one that stores also `table` and the database's path. Its title is what the report calls it."""
    name = title = ""
    kind = "peer"
    stores = True # a row is committed before the answer
    batches = False # one commit for several requests
    table = "events"

    def __init__(self, bench):
        self.bench, self.process = bench, None
        self.port = free_port()
        self.database = bench.path(self.name, "events.db")
        self.sock = bench.socket(self.name)

    def start(self):
        """Prepares and starts it; NotRun when that cannot be here."""

    def server(self):
        """nginx: (what belongs into http {}, what into server {})."""
        raise NotImplementedError

    def roots(self):
        return [self.process.process.pid] if self.process else []

    def rows(self):
        """How many events are stored, seen by a reader of its own."""
        if not self.stores:
            return 0
        with sqlite3.connect("file:%s?mode=ro" % self.database, uri=True, timeout=30) as reader:
            count = reader.execute("SELECT count(*) FROM %s" % self.table).fetchone()[0]
        reader.close()
        return count

    def alive(self):
        return self.process is None or self.process.alive()


def shipped(name):
    """A shipped nginx file without what would refuse a benchmark from one address: the rate limits. Its logs are
    the harness's."""
    with open(os.path.join(TOP, "nginx", name), encoding="utf-8") as f:
        text = f.read()
    return re.sub(r"^ *(limit_\w+|access_log|error_log) [^;]*;\n", "", text, flags=re.M)


def shipped_server(upstream, sock):
    """The shipped upstream options and locations, with another program behind them."""
    http_part = re.search(r"^upstream examhook_examjoint \{.*?^\}", shipped("examhook-http.conf"), re.M | re.S).group(0)
    http_part = http_part.replace("examhook_examjoint", upstream)
    http_part = re.sub(r"unix:[^ ;]*", "unix:" + sock, http_part)
    return http_part, re.sub(r"fastcgi_pass examhook_\w+;", "fastcgi_pass %s;" % upstream,
                             shipped("examhook-locations.conf"))


# What any proxy set-up of a webhook has; a caller that hangs up takes nothing back.
PROXY = """
    client_max_body_size 64k;
    client_body_buffer_size 64k;
    %s_ignore_client_abort on;
    %s_read_timeout 30s;
"""


class Nginx:
    """One nginx before all contestants, each on a port of its own, plain HTTP on loopback. Of every request its
    status is logged, and nothing else."""

    def __init__(self, bench, contestants):
        self.bench, self.offsets = bench, {}
        self.folder = bench.path("nginx", "x")[:-2]
        http_parts, servers = [], []
        for c in contestants:
            http_part, server_part = c.server()
            http_parts.append(http_part)
            servers.append("server {\n    listen 127.0.0.1:%d;\n    access_log %s status buffer=64k flush=50ms;\n%s\n}\n"
                           % (c.port, self.log_path(c), server_part))
            self.offsets[c.name] = 0
        maps = re.sub(r"^upstream .*?^\}|^log_format .*?;$", "", shipped("examhook-http.conf"), flags=re.M | re.S)
        conf = os.path.join(self.folder, "nginx.conf")
        user = "user root root;" if os.getuid() == 0 else ""
        temp = "".join("    %s_temp_path %s/%s;\n" % (name, self.folder, name)
                       for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(conf, "w", encoding="utf-8") as f:
            f.write("daemon off;\n%s\nworker_processes %d;\npid %s/nginx.pid;\nerror_log %s/error.log warn;\n"
                    "events {\n    worker_connections 2048;\n}\nhttp {\n%s    keepalive_requests 1000000000;\n"
                    "    log_format status '$status';\n    access_log off;\n    server_tokens off;\n%s\n%s\n%s}\n"
                    % (user, NGINX_WORKERS, self.folder, self.folder, temp, maps, "\n".join(http_parts),
                       "\n".join(servers)))
        self.conf = conf
        command = [tool("nginx", "nginx"), "-e", "stderr", "-c", conf]
        done = subprocess.run(command + ["-t", "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=environment(), check=False)
        if done.returncode:
            raise AssertionError("nginx refuses its configuration: " + done.stdout)
        self.process = bench.start("nginx", command)
        for c in contestants:
            self.process.wait_listening(c.port)

    def log_path(self, contestant):
        return os.path.join(self.folder, contestant.name + ".status")

    def roots(self):
        return [self.process.process.pid]

    def statuses(self, contestant):
        """Of the requests since the last call: status -> how many."""
        with open(self.log_path(contestant), "rb") as f:
            f.seek(self.offsets[contestant.name])
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]
        self.offsets[contestant.name] += len(data)
        return collections.Counter(int(word) for word in data.split())


# --- Requests --------------------------------------------------------------------------------------------------

def admission(respondent):
    """What post.lua sends."""
    return json.dumps({"event": "admitted_respondent", "respondent_id": respondent, "exam_id": "exam-1",
                       "admittedOn": 1719221380326}, separators=(",", ":")).encode()


def ask(contestant, body, secret=CLIENT_SECRET):
    """The status and the body of one POST."""
    connection = http.client.HTTPConnection("127.0.0.1", contestant.port, timeout=60)
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json", "x-client-id": CLIENT_ID,
                                                "x-client-secret": secret})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def same_work(contestant):
    """What a contestant does wrong of the work all have to do; nothing: it may be compared."""
    wrong = []

    def expect(what, body, good, gained, secret=CLIENT_SECRET):
        before = contestant.rows()
        status, _ = ask(contestant, body, secret)
        if not good(status):
            wrong.append("%s: status %d" % (what, status))
        if contestant.stores and contestant.rows() - before != gained:
            wrong.append("%s: %d rows more, not %d" % (what, contestant.rows() - before, gained))

    def fine(status):
        return 200 <= status < 300

    def refused(status):
        return 400 <= status < 500
    expect("an admission", admission("probe-1"), fine, 1)
    expect("another one", admission("probe-2"), fine, 1)
    if contestant.stores:
        expect("a repeat", admission("probe-1"), fine, 0)
        expect("a wrong secret", admission("probe-3"), refused, 0, CLIENT_SECRET[:-1] + "x")
        expect("no JSON", b"{\"event\":", refused, 0)
    return wrong


def wrk(contestant, connections, seconds, tag):
    """wrk's own figures. `tag` makes this load's respondents different from all others'."""
    done = subprocess.run([tool("wrk", "wrk"), "-t1", "-c%d" % connections, "-d%ds" % seconds, "--timeout", "30s", "-s",
                           os.path.join(HERE, "post.lua"), "http://127.0.0.1:%d%s" % (contestant.port, PATH), "--",
                           tag, CLIENT_ID, CLIENT_SECRET], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment(), check=False)
    found = re.search(r"^figures (\{.*\})$", done.stdout, re.M)
    if done.returncode or not found:
        raise AssertionError("wrk: %s %s" % (done.stdout, done.stderr))
    return json.loads(found.group(1))


def settle(contestant, nginx, at_least, seconds=60):
    """The statuses of a load when the last request of it is over: wrk leaves some behind, and on a busy machine nothing
    may come of them for a while."""
    total, rows, quiet, end = collections.Counter(), -1, 0, time.monotonic() + seconds
    while time.monotonic() < end and quiet < QUIET_LOOKS:
        time.sleep(0.08)
        new, now = nginx.statuses(contestant), contestant.rows()
        quiet = quiet + 1 if not new and now == rows and sum(total.values()) >= at_least else 0
        total.update(new)
        rows = now
    return total, rows


def load(contestant, nginx, connections, seconds, tag):
    """One load on one contestant: its figures, and in `wrong` what was not as it must be."""
    rows, cpu, nginx_cpu = contestant.rows(), cpu_seconds(contestant.roots()), cpu_seconds(nginx.roots())
    seen = wrk(contestant, connections, seconds, tag)
    statuses, rows_after = settle(contestant, nginx, seen["requests"])
    cpu, nginx_cpu = cpu_seconds(contestant.roots()) - cpu, cpu_seconds(nginx.roots()) - nginx_cpu
    answered = sum(statuses.values())
    good = sum(n for status, n in statuses.items() if 200 <= status < 300)
    failed = sum(n for status, n in statuses.items() if status >= 500)
    figures = {"requests_s": seen["requests"] * 1e6 / seen["duration_us"], "p50_ms": seen["p50_us"] / 1e3,
               "p99_ms": seen["p99_us"] / 1e3, "requests": answered, "ok": good, "status_5xx": failed,
               "cpu_10k": cpu * 1e4 / max(1, answered), "nginx_cpu_10k": nginx_cpu * 1e4 / max(1, answered),
               "rows": rows_after - rows if contestant.stores else None, "wrong": []}
    wrong = figures["wrong"]
    if failed:
        wrong.append("%d answers of 5xx" % failed)
    if answered - good - failed:
        wrong.append("%d other answers but 2xx: %s" % (answered - good - failed, dict(statuses)))
    if not good or answered < seen["requests"]:
        wrong.append("wrk saw %d answers, nginx logged %d, %d of them 2xx" % (seen["requests"], answered, good))
    errors = {name: n for name, n in seen["errors"].items() if n}
    if errors:
        wrong.append("wrk's errors: %s" % errors)
    if contestant.stores and rows_after - rows < good:
        wrong.append("%d of %d acknowledged rows are not stored" % (good - rows_after + rows, good))
    # What was under way when wrk ended may be stored and neither answered nor logged.
    if contestant.stores and rows_after - rows > answered + connections:
        wrong.append("%d rows of %d requests" % (rows_after - rows, answered))
    if not contestant.alive():
        wrong.append("it ended under the load: " + contestant.process.log()[-300:])
    return figures


# --- Figures ---------------------------------------------------------------------------------------------------

def syncs_each_second(folder, seconds):
    """How many appends of 200 bytes, each followed by fdatasync, the disk under the stores takes just now."""
    path, count, begin = os.path.join(folder, "sync-probe"), 0, time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while time.monotonic() - begin < seconds:
            os.write(fd, b"x" * 200)
            os.fdatasync(fd)
            count += 1
        return round(count / (time.monotonic() - begin))
    finally:
        os.close(fd)
        os.unlink(path)


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def summary(values):
    """Median and spread."""
    return {"median": median(values), "least": min(values), "most": max(values)}


class Target:
    """One row of the table of targets: a ratio inside one run. `got` is None when it could not be measured; `seen`:
    the ratios of the rounds."""

    def __init__(self, what, wanted, got, most=False, note="", seen=()):
        self.what, self.wanted, self.got, self.most, self.note, self.seen = what, wanted, got, most, note, seen

    def verdict(self):
        if self.got is None:
            return "not measured"
        return "met" if (self.got <= self.wanted if self.most else self.got >= self.wanted) else "missed"

    def as_dict(self):
        return {"what": self.what, "target": "%s %.3g" % ("at most" if self.most else "at least", self.wanted),
                "got": None if self.got is None else round(self.got, 4), "verdict": self.verdict(), "note": self.note,
                "rounds": [round(ratio, 4) for ratio in self.seen]}
