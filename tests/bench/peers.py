"""The peers: the same durable work, as a developer of each language would write it. Their code is in peers/, here is
how each is started and set behind nginx. None keeps a connection where one would pin a worker."""
import json
import os
import re
import shutil
import sqlite3
import subprocess

from harness import CLIENT_ID, CLIENT_SECRET, PROXY, TOP, Contestant, NotRun, cores, environment, free_port, tool

CODE = os.path.join(TOP, "tests/bench/peers")


class Peer(Contestant):
    def create(self):
        with open(os.path.join(CODE, "schema.sql"), encoding="utf-8") as f:
            store = sqlite3.connect(self.database)
            store.executescript(f.read())
            store.close()

    def environment(self):
        return {"BENCH_DB": self.database, "BENCH_ID": CLIENT_ID, "BENCH_SECRET": CLIENT_SECRET, "BENCH_SOCKET": self.sock}

    def command(self):
        raise NotImplementedError

    def start(self):
        command = self.command()
        self.create()
        self.process = self.bench.start(self.name, command, **self.environment())
        self.process.wait_listening(self.sock)

    def upstream(self, address=None, keepalive=0):
        return "upstream up_%s {\n    server %s max_fails=0;\n%s}\n" % (
            self.name, address or "unix:" + self.sock, "    keepalive %d;\n" % keepalive if keepalive else "")

    def proxied(self, address=None, keepalive=0):
        kept = '    proxy_http_version 1.1;\n    proxy_set_header Connection "";\n' if keepalive else ""
        return self.upstream(address, keepalive), (
            "location / {%s    proxy_set_header Host $host;\n%s    proxy_pass http://up_%s;\n}"
            % (PROXY % ("proxy", "proxy"), kept, self.name))


class Php(Peer):
    name, title = "php", "PHP-FPM, pdo_sqlite (persistent)"

    def command(self):
        program = next((path for path in (shutil.which("php-fpm" + version, path=environment()["PATH"])
                                          for version in ("8.4", "8.3", "8.2", "")) if path), None)
        if not program:
            raise NotRun("php-fpm is not installed (package php8.2-fpm: deploy/deps bench)")
        modules = subprocess.run([program, "-m"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if "pdo_sqlite" not in modules.stdout.split():
            raise NotRun("php has no pdo_sqlite (package php8.2-sqlite3: deploy/deps bench)")
        conf = self.bench.path(self.name, "fpm.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write("[global]\nerror_log = %s\ndaemonize = no\n\n[intake]\nlisten = %s\nlisten.backlog = 511\npm = static\n"
                    "pm.max_children = %d\n" % (self.bench.path("log", "php.error.log"), self.sock, 4 * cores()))
            if os.getuid() == 0:
                f.write("user = root\ngroup = root\n")
        return [program, "-F", "-y", conf] + (["-R"] if os.getuid() == 0 else [])

    def server(self):
        params = {"SCRIPT_FILENAME": os.path.join(CODE, "intake.php"), "REQUEST_METHOD": "$request_method",
                  "REQUEST_URI": "$request_uri", "CONTENT_TYPE": "$content_type", "CONTENT_LENGTH": "$content_length",
                  "REMOTE_ADDR": "$remote_addr", "SERVER_PROTOCOL": "$server_protocol", "BENCH_DB": self.database,
                  "BENCH_ID": CLIENT_ID, "BENCH_SECRET": CLIENT_SECRET}
        lines = "".join("    fastcgi_param %s %s;\n" % pair for pair in params.items())
        return self.upstream(), "location / {%s%s    fastcgi_pass up_%s;\n}" % (
            PROXY % ("fastcgi", "fastcgi"), lines, self.name)


class Node(Peer):
    name, title, script = "node", "Node, fastify, better-sqlite3", "node-one.js"

    def modules(self):
        """The folder of the packages, installed at the first run; better-sqlite3 is compiled here."""
        folder = os.path.join(self.bench.kept, "node")
        done, lock = os.path.join(folder, "installed"), os.path.join(CODE, "package-lock.json")
        with open(lock, encoding="utf-8") as f:
            wanted = f.read() + subprocess.check_output([tool("node", "nodejs"), "--version"], text=True)
        if not os.path.exists(done) or open(done, encoding="utf-8").read() != wanted:
            self.install(folder)
            with open(done, "w", encoding="utf-8") as f:
                f.write(wanted)
        return os.path.join(folder, "node_modules")

    def install(self, folder):
        self.bench.say("  %s: installing its packages (once)" % self.title)
        npm = tool("npm", "npm")
        os.makedirs(folder, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(CODE, name), folder)
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(tool("node", "nodejs"))))
        places = (prefix, "include/node/node_version.h"), ("/usr/include/nodejs", "common.gypi")
        headers = next((place for place, file in places if os.path.exists(os.path.join(place, file))), None)
        if not headers:
            raise NotRun("no headers of Node to compile better-sqlite3 with (package libnode-dev: deploy/deps bench)")
        env = dict(environment(), npm_config_nodedir=headers, npm_config_build_from_source="true",
                   MAKEFLAGS="-j%d" % cores())
        for command in (["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["rebuild", "better-sqlite3"]):
            done = subprocess.run([npm, *command], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                raise NotRun("npm %s: %s" % (command[0], re.sub(r"\s+", " ", done.stdout)[-300:]))

    def command(self):
        self.packages = self.modules()
        return [tool("node", "nodejs"), os.path.join(CODE, self.script)]

    def environment(self):
        return dict(super().environment(), NODE_ENV="production", BENCH_MODULES=self.packages)

    def server(self): # one event loop: a kept connection pins nothing
        return self.proxied(keepalive=32)


class NodeBatch(Node):
    name, title, script, batches = "node-batch", "Node, fastify, better-sqlite3, batching", "node-batch.js", True


def flask():
    done = subprocess.run(["/usr/bin/python3", "-c", "import flask"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          check=False)
    if done.returncode:
        raise NotRun("Flask is not installed (package python3-flask: deploy/deps bench)")


class Gunicorn(Peer):
    name, title = "gunicorn", "gunicorn, Flask, sqlite3"

    def command(self):
        flask()
        return [tool("gunicorn", "gunicorn"), "--chdir", CODE, "--workers", 2 * cores() + 1, "--bind", "unix:" + self.sock,
                "--log-level", "warning", "flask_intake:app"]

    def environment(self):
        return dict(super().environment(), PYTHONDONTWRITEBYTECODE="1")

    def server(self):
        return self.proxied()


class Uwsgi(Gunicorn):
    name, title = "uwsgi", "uWSGI, Flask, sqlite3"

    def command(self):
        flask()
        plugin = "/usr/lib/uwsgi/plugins/python3_plugin.so"
        if not os.path.exists(plugin):
            raise NotRun("uWSGI has no Python (package uwsgi-plugin-python3: deploy/deps bench)")
        return [tool("uwsgi", "uwsgi"), "--plugin", "python3", "--master", "--need-app", "--die-on-term",
                "--disable-logging", "--processes", 2 * cores() + 1, "--listen", 511, "--chdir", CODE,
                "--uwsgi-socket", self.sock, "--module", "flask_intake:app"]

    def server(self):
        params = {"QUERY_STRING": "$query_string", "REQUEST_METHOD": "$request_method", "CONTENT_TYPE": "$content_type",
                  "CONTENT_LENGTH": "$content_length", "REQUEST_URI": "$request_uri", "PATH_INFO": "$document_uri",
                  "SERVER_PROTOCOL": "$server_protocol", "REMOTE_ADDR": "$remote_addr", "SERVER_PORT": "$server_port",
                  "SERVER_NAME": "$server_name"}
        lines = "".join("    uwsgi_param %s %s;\n" % pair for pair in params.items())
        return self.upstream(), "location / {%s%s    uwsgi_pass up_%s;\n}" % (PROXY % ("uwsgi", "uwsgi"), lines, self.name)


class Webhook(Peer):
    """It answers 200 to wrong credentials unless told otherwise, and has no unix socket."""
    name, title = "webhook", "webhook, the sqlite3 command"

    def __init__(self, bench):
        super().__init__(bench)
        self.tcp = None

    def command(self):
        tool("sqlite3", "sqlite3")
        program, self.tcp = tool("webhook", "webhook"), free_port()
        hooks = self.bench.path(self.name, "hooks.json")
        def header(name, value):
            return {"match": {"type": "value", "value": value, "parameter": {"source": "header", "name": name}}}
        def member(name):
            return {"match": {"type": "regex", "regex": ".", "parameter": {"source": "payload", "name": name}}}
        with open(hooks, "w", encoding="utf-8") as f:
            json.dump([{"id": "examjoint", "execute-command": os.path.join(CODE, "webhook-store"),
                        "command-working-directory": os.path.dirname(hooks), "http-methods": ["POST"],
                        "include-command-output-in-response": True,
                        "response-headers": [{"name": "Content-Type", "value": "application/json"}],
                        "pass-environment-to-command": [{"source": "entire-payload", "envname": "PAYLOAD"}],
                        "trigger-rule-mismatch-http-response-code": 401,
                        "trigger-rule": {"and": [header("X-Client-Id", CLIENT_ID), header("X-Client-Secret", CLIENT_SECRET),
                                                 member("event"), member("respondent_id"), member("exam_id"),
                                                 member("admittedOn")]}}], f)
        return [program, "-hooks", hooks, "-ip", "127.0.0.1", "-port", self.tcp, "-urlprefix", "webhooks"]

    def start(self):
        command = self.command()
        self.create()
        self.process = self.bench.start(self.name, command, **self.environment())
        self.process.wait_listening(self.tcp)

    def server(self): # a goroutine for each connection: a kept one pins nothing
        return self.proxied("127.0.0.1:%d" % self.tcp, keepalive=32)


PEERS = [Php, Node, NodeBatch, Gunicorn, Uwsgi, Webhook]
