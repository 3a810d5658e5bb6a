"""Outbound with 50 ms of network delay: how many sessions a second the worker fetches with N transfers at once, beside
the loop one would write first.

Talview is an nginx that answers at once, over TLS; the delay is made by outbound/relay.c, 25 ms each way, so that a
round trip costs 50 ms and the handshakes of TCP and TLS cost theirs. With N at once and nothing lost between them, N / delay
sessions a second come. The worker is `examhook work` as shipped; its store has the callbacks before it starts.
"""
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from harness import TOP, NotRun, Target, cpu_seconds, environment, free_port, summary, tool, wait_for

sys.path.insert(0, os.path.join(TOP, "tests", "standin"))
from fastcgi import Peer, post, request  # noqa: E402
from talview import make_certificates  # noqa: E402

CODE = os.path.join(TOP, "tests/bench/outbound")
ONE_WAY_MS = 25
DELAY = 2 * ONE_WAY_MS / 1000
AT_ONCE = (16, 64)
PATH_TOKEN = "bench-path-token-0123456789"
# By the first digit of the UUID, so that a rating in the wrong row is seen.
RATINGS = {"high": "0123", "medium": "456789", "low": "abcdef"}

NGINX = """daemon off;
%(user)s
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log warn;
events {
    worker_connections 1024;
}
http {
%(temp)s    log_format call '$msec $request_method $server_protocol $connection $status $uri';
    access_log %(folder)s/calls call;
    default_type application/json;
    # A long fetch is one connection's, as with a vendor's load balancer.
    keepalive_requests 1000000;
    map $uri $rating {
        ~^/v1/sessions/[%(high)s] high;
        ~^/v1/sessions/[%(medium)s] medium;
        default low;
    }
    server {
        listen 127.0.0.1:%(port)d ssl http2;
        ssl_certificate %(tls)s/server.pem;
        ssl_certificate_key %(tls)s/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        location = /v1/user/login {
            return 200 '{"access_token":"bench-token","refresh_token":"r","grant_type":"Bearer","expires_in":3600}';
        }
        location ~ ^/v1/sessions/(?<session>[0-9a-f-]+)$ {
            if ($http_authorization != "Bearer bench-token") {
                return 401 '{}';
            }
            return 200 '{"id":1,"uuid":"$session","external_id":"501","type":"ai_proctor","final_rating":"$rating","status":"completed"}';
        }
    }
}
"""


class Outbound:
    name, title, order = "outbound", "Outbound, with %d ms of network delay" % (2 * ONE_WAY_MS), 30

    def __init__(self, bench):
        self.bench, self.wrong, self.not_run = bench, [], {}
        self.folder = bench.path("outbound", "x")[:-2]
        self.port, self.relay_port = free_port(), free_port()
        self.running, self.cells, self.naive, self.seeds = [], {n: [] for n in AT_ONCE}, [], {}

    # --- Setting up ------------------------------------------------------------------------------------------

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def start(self, name, command, port):
        process = self.bench.start("outbound-" + name, command)
        self.running.append(process)
        process.wait_listening(port)
        return process

    def prepare(self):
        tls = os.path.join(self.bench.kept, "tls")
        make_certificates(tls)
        self.ca_file = os.path.join(tls, "ca.pem")
        relay = os.path.join(self.bench.kept, "relay")
        subprocess.run([tool("cc", "gcc"), "-std=c17", "-D_GNU_SOURCE", "-O2", "-o", relay, os.path.join(CODE, "relay.c")],
                       check=True)
        temp = "".join("    %s_temp_path %s;\n" % (name, self.path(name))
                       for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        with open(self.path("nginx.conf"), "w", encoding="utf-8") as f:
            f.write(NGINX % dict(RATINGS, folder=self.folder, tls=tls, temp=temp, port=self.port,
                                 user="user root root;" if os.getuid() == 0 else ""))
        self.start("nginx", [tool("nginx", "nginx"), "-e", "stderr", "-c", self.path("nginx.conf")], self.port)
        self.start("relay", [relay, self.relay_port, self.port, ONE_WAY_MS], self.relay_port)
        for at_once in AT_ONCE:
            self.seed(at_once)
        self.trip()

    def trip(self):
        """What a kept connection's round trip takes in truth."""
        self.round_trip_ms = None
        done = subprocess.run(
            [tool("curl", "curl"), "-s", "--http1.1", "--cacert", self.ca_file, "-w", "%{stderr}%{time_total} "]
            + [word for _ in range(5) for word in ("-o", "/dev/null", self.url("/v1/none"))],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, env=environment())
        kept = sorted(float(word) for word in done.stderr.split())[:4]
        if not kept:
            raise NotRun("curl: exit status %d" % done.returncode)
        self.round_trip_ms = round(1000 * kept[len(kept) // 2], 1)

    def url(self, path):
        return "https://127.0.0.1:%d%s" % (self.relay_port, path)

    def count(self, at_once):
        return self.bench.pick(full=int(6 * at_once / DELAY), quick=int(2 * at_once / DELAY), short=int(at_once / DELAY))

    def seed(self, at_once):
        """A store with so many callbacks, put in by proview.fcgi, to be copied for each round."""
        folder = self.path("seed-%d" % at_once)
        os.makedirs(folder)
        conf = os.path.join(folder, "examhook.conf")
        with open(os.open(conf, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
            f.write("[store]\nurl = sqlite:store\n[worker]\ntransfers = %d\n[proview main]\nlogin_url = %s\n"
                    "session_url = %s\nca_file = %s\nusername = bench\npassword = bench\napp_id = bench\npath_token = %s\n"
                    % (at_once, self.url("/v1/user/login"), self.url("/v1/sessions"), self.ca_file, PATH_TOKEN))
        self.examhook(conf, "migrate")
        socket = self.bench.socket("proview-%d" % at_once)
        program = self.bench.start("proview", [self.bench.program("proview.fcgi"), "--config", conf, "--socket", socket])
        program.wait_listening(socket)
        sessions = [str(uuid.uuid4()) for _ in range(self.count(at_once))]
        with ThreadPoolExecutor(16) as pool:
            statuses = set(pool.map(lambda session: self.callback(socket, session), sessions))
        program.stop()
        if statuses != {200}:
            raise AssertionError("proview.fcgi answered %s" % statuses)
        self.seeds[at_once] = folder, set(sessions)

    @staticmethod
    def callback(socket, session):
        body = json.dumps({"session_uuid": session, "external_id": "501", "message": "Session Has Been Terminated"}).encode()
        peer = Peer(socket, timeout=60)
        peer.send(request(post(body, path="/webhooks/proview/main/" + PATH_TOKEN), body))
        status = peer.answer()[0]
        peer.socket.close()
        return status

    def examhook(self, conf, *words):
        subprocess.run([self.bench.program("examhook"), "--config", conf, *words], check=True, stdout=subprocess.DEVNULL,
                       env=environment())

    # --- Measuring -------------------------------------------------------------------------------------------

    def rounds(self):
        return self.bench.rounds or self.bench.pick(full=3, quick=1, short=1)

    def round(self, number):
        for at_once in AT_ONCE:
            cell = self.fetch(number, at_once)
            self.cells[at_once].append(cell)
            self.bench.say("  round %d, %d at once: %.0f sessions/s (%.2f of N / delay), %d logins, %s over %d connections" % (
                number + 1, at_once, cell["sessions_s"], cell["sessions_s"] * DELAY / at_once, cell["logins"],
                "/".join(cell["protocols"]), cell["connections"]))
        self.loop(number)

    def calls(self, offset):
        """What nginx has logged since: (time, method, protocol, connection, status, path)."""
        with open(self.path("calls"), encoding="utf-8") as f:
            f.seek(offset)
            return [line.split() for line in f]

    def logged(self):
        return os.path.getsize(self.path("calls"))

    def fetch(self, number, at_once):
        seed, sessions = self.seeds[at_once]
        folder = self.path("round-%d-%d" % (number, at_once))
        shutil.copytree(seed, folder)
        ratings, offset = os.path.join(folder, "store/ratings/ratings.db"), self.logged()
        begin = time.monotonic()
        worker = self.bench.start("worker", [self.bench.program("examhook"), "--config",
                                              os.path.join(folder, "examhook.conf"), "work"])
        enough = 120 + 4 * len(sessions) * DELAY / at_once
        wait_for(lambda: self.logged() > offset and self.rated(ratings) >= len(sessions), enough)
        whole = time.monotonic() - begin
        cpu = cpu_seconds([worker.process.pid])
        worker.stop()
        # A line is written behind its answer. All of them, and one for the login; nothing more comes afterwards.
        wait_for(lambda: len(self.calls(offset)) > len(sessions), 20)
        calls = self.calls(offset)
        cell = self.judge(calls, sessions, ratings, at_once)
        shutil.rmtree(folder)
        return dict(cell, whole_s=whole, cpu_session_ms=1000 * cpu / len(sessions))

    @staticmethod
    def rated(ratings):
        """Read from time to time only: a reader costs the worker something too."""
        time.sleep(0.2)
        with sqlite3.connect("file:%s?mode=ro" % ratings, uri=True, timeout=30) as reader:
            count = reader.execute("SELECT count(*) FROM sessions WHERE rating IS NOT NULL").fetchone()[0]
        reader.close()
        return count

    def judge(self, calls, sessions, ratings, at_once):
        wrong = []
        logins = [call for call in calls if call[5] == "/v1/user/login"]
        fetched = [call for call in calls if call[5] != "/v1/user/login"]
        if len(logins) != 1:
            wrong.append("%d logins" % len(logins))
        if {call[4] for call in calls} - {"200"}:
            wrong.append("statuses %s" % sorted({call[4] for call in calls}))
        if sorted(call[5].rpartition("/")[2] for call in fetched) != sorted(sessions):
            wrong.append("%d fetches of %d sessions" % (len(fetched), len(sessions)))
        with sqlite3.connect("file:%s?mode=ro" % ratings, uri=True) as reader:
            found = dict(reader.execute("SELECT session_uuid, rating FROM sessions"))
        reader.close()
        bad = sum(found.get(session) is None or session[0] not in RATINGS[found[session]] for session in sessions)
        if bad:
            wrong.append("%d of %d sessions have no rating, or a wrong one" % (bad, len(sessions)))
        self.wrong += ["%d at once: %s" % (at_once, what) for what in wrong]
        times = [float(call[0]) for call in fetched] or [0]
        # The first was asked for half a round trip before it was logged; the last answer arrives half of one later.
        took = max(times) - min(times) + DELAY
        return {"sessions": len(sessions), "sessions_s": len(fetched) / took, "logins": len(logins),
                "protocols": sorted({call[2] for call in fetched}), "connections": len({call[3] for call in calls}),
                "wrong": wrong}

    def loop(self, number):
        seconds = self.bench.pick(full=5, quick=3, short=1.5)
        _, sessions = self.seeds[AT_ONCE[-1]]
        done = subprocess.run(
            ["/usr/bin/python3", os.path.join(CODE, "naive.py"), self.url("/v1/user/login"), self.url("/v1/sessions"),
             self.ca_file, self.path("naive-%d.db" % number), str(seconds)], input="\n".join(sessions),
            stdout=subprocess.PIPE, text=True, check=False, env=environment())
        if done.returncode:
            raise AssertionError("naive.py: exit status %d" % done.returncode)
        cell = json.loads(done.stdout)
        if not cell["sessions"] or cell["rows"] != cell["sessions"]:
            self.wrong.append("the naive loop: %s" % cell)
        self.naive.append(cell["sessions"] / cell["seconds"])
        self.bench.say("  round %d, a login and a new connection for each: %.2f sessions/s" % (number + 1, self.naive[-1]))

    def close(self):
        for process in reversed(self.running):
            process.stop()

    # --- What came out ---------------------------------------------------------------------------------------

    def value(self, at_once, name):
        return summary([cell[name] for cell in self.cells[at_once]])

    def figures(self):
        return {"delay_ms": 1000 * DELAY, "round_trip_ms": self.round_trip_ms,
                "at_once": {str(n): dict({name: self.value(n, name) for name in
                                          ("sessions_s", "whole_s", "cpu_session_ms", "logins", "connections")},
                                         rounds=self.cells[n]) for n in AT_ONCE},
                "naive_sessions_s": dict(summary(self.naive), rounds=self.naive)}

    def targets(self):
        rows = []
        for n in AT_ONCE:
            seen = [cell["sessions_s"] * DELAY / n for cell in self.cells[n]]
            rows.append(Target("sessions/s with %d at once, of %d / delay" % (n, n), 0.85, summary(seen)["median"], seen=seen))
            seen = [cell["sessions_s"] / naive for cell, naive in zip(self.cells[n], self.naive)]
            rows.append(Target("sessions/s with %d at once, against a login and a connection for each" % n, 80,
                               summary(seen)["median"], seen=seen))
        rows.append(Target("logins in a run", 1, max(cell["logins"] for n in AT_ONCE for cell in self.cells[n]), most=True))
        return rows

    def report(self):
        lines = ["", "A round trip on a kept connection: %s ms." % self.round_trip_ms, "",
                 "| | sessions/s | least-most | of N / delay | against the naive loop | logins | connections | HTTP | CPU ms a session |",
                 "|---|---|---|---|---|---|---|---|---|"]
        naive = summary(self.naive)["median"]
        for n in AT_ONCE:
            speed = self.value(n, "sessions_s")
            lines.append("| examhook, %d at once | %.0f | %.0f-%.0f | %.2f | %.0f | %d | %d | %s | %.2f |" % (
                n, speed["median"], speed["least"], speed["most"], speed["median"] * DELAY / n, speed["median"] / naive,
                self.value(n, "logins")["most"], self.value(n, "connections")["median"],
                "/".join(sorted({p for cell in self.cells[n] for p in cell["protocols"]})),
                self.value(n, "cpu_session_ms")["median"]))
        lines.append("| a login and a new connection for each | %.2f | %.2f-%.2f | | 1 | 1 each | 2 each | HTTP/1.1 | |" % (
            naive, min(self.naive), max(self.naive)))
        return lines


PART = Outbound
