#!/usr/bin/python3
"""A stand-in of Talview's two endpoints over HTTPS, for `make run` and the tests. Standard library only.

POST /v1/user/login and GET /v1/sessions/UUID behave as the vendor documents them (an expired token gets 403, a
missing or invalid one 401). Any UUID has a session whose rating derives from the UUID, unless /control says
otherwise:

    PUT or POST /control   a JSON object; the members, all optional:
        reset: true               forget every rule, token, count and line of the log
        login: RULE               how the login behaves
        default: RULE             how every session behaves that has no rule of its own
        sessions: {UUID: RULE}    how one session behaves (null takes the rule away)
        token_lifetime: SECONDS   how long tokens given from now on are valid
        expire_tokens: true       every token given so far is expired (403)
        forget_tokens: true       every token given so far is unknown (401)
        connections: {tls: FAULT, seconds: N}   what becomes of new connections, for so long (/control is not to be
                                  had either then); those that are open end with their next answer. FAULT: untrusted,
                                  expired, other_name (certificates), plain (HTTP without TLS), garbage, silent (the
                                  handshake is never answered), half (it stops in the middle), reset
    GET /control/log       the calls made: time, took, method, path, connection (a number), status, note, said (the rating),
                           caller; never a token. Of a connection that came to nothing: method TLS, the fault as the
                           path. Below /7/v1 is what is below /v1, and the caller is 7 then (else null): who has
                           addresses of his own is known by them
    GET /control/counts    logins, sessions, by_uuid, connections, peak (most calls at one time)

A RULE is an object; it holds for every call, or with `steps` (a list of rules) the n-th call gets the n-th, and
the last one stays. Members:
    status, body (text, or JSON), headers: {}, retry_after (seconds or text), content_type
    delay: SECONDS before the answer; drip: {bytes, every}; cut: send so many bytes, then close
    short: send so many bytes, then close in order; stall: {after: BYTES, seconds}, then close
    slow_head: SECONDS between the lines of the head; close: true    the connection ends with the answer
    vanish: true              the connection is closed without an answer
    raw: TEXT                 in place of all of the answer, head included
    truncate: N               the text of the body ends N bytes early, in a whole answer
    deep: N                   a member with so many lists in one another
    kill: PID                 gets a SIGKILL as soon as the last byte is sent
    note: TEXT                for the log
    oversize: BYTES of body (chunked: true hides the length); malformed: true; chunked: true
    success: false            200 with {"success": false}
    rating, type, session_status, external_id, uuid: in place of the derived ones (null is null)
    missing: [names]          members left out; extra: {} members put in
    null_first: N             final_rating null for the first N good answers
    ratings: [...]            the rating of the n-th good answer; the last one stays
    expires_in: VALUE         (login) what is said, whatever the token's lifetime is
"""
import argparse
import hashlib
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CALLER = re.compile(r"^/(\d{1,9})(/v1/.*)$")
UUID = re.compile(r"^/v1/sessions/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$")
BAD_CERTIFICATES = ("untrusted", "expired", "other_name")
BODY_MAX = 1 << 20
LOG_MAX = 100000


def openssl(*arguments):
    subprocess.run(("openssl",) + arguments, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)


def still_good(path):
    return subprocess.run(("openssl", "x509", "-in", path, "-noout", "-checkend", "86400"),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def make_certificates(folder, names=()):
    """A certificate authority and a server certificate of its own, for these names too, in `folder`, unless they are there."""
    ca, cert, key = (os.path.join(folder, n) for n in ("ca.pem", "server.pem", "server.key"))
    bad = [os.path.join(folder, fault + ".pem") for fault in BAD_CERTIFICATES]
    if all(map(os.path.exists, (ca, cert, key, *bad))) and still_good(ca) and still_good(cert):
        return
    os.makedirs(folder, exist_ok=True)
    before = os.umask(0o077)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            def at(name):
                return os.path.join(tmp, name)
            ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
            openssl("req", "-x509", *ec, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "3650",
                    "-subj", "/CN=examhook stand-in authority", "-addext", "basicConstraints=critical,CA:TRUE",
                    "-addext", "keyUsage=critical,keyCertSign,cRLSign")
            openssl("req", "-new", *ec, "-keyout", at("server.key"), "-out", at("server.csr"), "-subj",
                    "/CN=localhost")

            def signed(name, names, days):
                with open(at("ext"), "w", encoding="ascii") as f:
                    f.write("subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n" % names)
                openssl("x509", "-req", "-in", at("server.csr"), "-CA", at("ca.pem"), "-CAkey", at("ca.key"),
                        "-set_serial", "0x" + secrets.token_hex(12), "-days", days, "-extfile", at("ext"), "-out",
                        at(name))
            own = ",".join(["IP:127.0.0.1", "DNS:localhost", *("DNS:" + name for name in names)])
            signed("server.pem", own, "3650")
            signed("expired.pem", own, "-1")
            signed("other_name.pem", "DNS:talview.invalid", "3650")
            openssl("req", "-x509", "-key", at("server.key"), "-out", at("untrusted.pem"), "-days", "3650", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
            os.chmod(at("ca.pem"), 0o644)
            for name in ("server.key", "server.pem", *(fault + ".pem" for fault in BAD_CERTIFICATES), "ca.pem"):
                os.replace(at(name), os.path.join(folder, name))
    finally:
        os.umask(before)


def digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class State:
    """What the stand-in remembers. Guarded by `lock`; tokens are kept as digests."""

    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.connections = 0
        # Calls whose answer is sent in one piece just now, and are in the log next; `told` when there are none.
        self.leaving, self.told = 0, threading.Condition(self.lock)
        self.reset()

    def reset(self):
        self.login_rule, self.default_rule, self.rules = {}, {}, {}
        self.lifetime = self.args.token_lifetime
        self.tokens = {}
        self.calls, self.good = {}, {}
        self.connection_rule, self.connection_until = {}, 0.0
        self.log = []
        self.active = self.peak = 0

    def control(self, order):
        with self.lock:
            if order.get("reset"):
                self.reset()
            if "login" in order:
                self.login_rule = order["login"] or {}
                self.calls.pop("login", None)
            if "default" in order:
                self.default_rule = order["default"] or {}
            for uuid, rule in order.get("sessions", {}).items():
                self.calls.pop(uuid.lower(), None)
                self.good.pop(uuid.lower(), None)
                if rule is None:
                    self.rules.pop(uuid.lower(), None)
                else:
                    self.rules[uuid.lower()] = rule
            self.lifetime = order.get("token_lifetime", self.lifetime)
            if order.get("expire_tokens"):
                self.tokens = dict.fromkeys(self.tokens, 0.0)
            if order.get("forget_tokens"):
                self.tokens = {}
            if "connections" in order:
                self.connection_rule = order["connections"] or {}
                self.connection_until = time.monotonic() + self.connection_rule.get("seconds", 0)

    def connection_fault(self):
        """What is to become of a new connection, None for nothing."""
        with self.lock:
            return self.connection_rule.get("tls") if time.monotonic() < self.connection_until else None

    def fell_through(self, fault):
        with self.lock:
            self.connections += 1
            if len(self.log) < LOG_MAX:
                self.log.append({"time": time.time(), "method": "TLS", "path": fault, "connection": self.connections,
                                 "status": 0})

    def kill(self, pid):
        os.kill(int(pid), signal.SIGKILL)

    def rule(self, what):
        """The rule for this call of "login" or of a session."""
        with self.lock:
            rule = self.login_rule if what == "login" else self.rules.get(what, self.default_rule)
            n = self.calls.get(what, 0)
            self.calls[what] = n + 1
        steps = rule.get("steps")
        if steps:
            rule = {**{k: v for k, v in rule.items() if k != "steps"}, **steps[min(n, len(steps) - 1)]}
        return rule

    def token_new(self):
        token = secrets.token_urlsafe(48)
        with self.lock:
            self.tokens[digest(token)] = time.monotonic() + self.lifetime
        return token

    def token_status(self, authorization):
        """200, 401 for none or an unknown one, 403 for an expired one."""
        if not authorization.startswith("Bearer "):
            return 401
        with self.lock:
            until = self.tokens.get(digest(authorization[7:]))
        if until is None:
            return 401
        return 200 if time.monotonic() < until else 403

    def began(self):
        with self.lock:
            self.active += 1
            self.peak = max(self.peak, self.active)

    def leaves(self):
        with self.lock:
            self.leaving += 1

    def settled(self):
        """Waits until whoever has an answer is in the log: nobody reads there less than a caller knows."""
        with self.lock:
            self.told.wait_for(lambda: self.leaving == 0, 5)

    def ended(self, left, **line):
        with self.lock:
            self.active -= 1
            self.leaving -= left
            self.told.notify_all()
            if len(self.log) < LOG_MAX:
                self.log.append(line)

    def counts(self):
        with self.lock:
            by_uuid = {}
            logins = connections = 0
            seen = set()
            for line in self.log:
                seen.add(line["connection"])
                logins += line["path"] == "/v1/user/login"
                if line["path"].startswith("/v1/sessions/"):
                    uuid = line["path"].rsplit("/", 1)[1].lower()
                    by_uuid[uuid] = by_uuid.get(uuid, 0) + 1
            connections = len(seen)
            return {"logins": logins, "sessions": sum(by_uuid.values()), "by_uuid": by_uuid,
                    "connections": connections, "peak": self.peak}


def derived_session(uuid):
    seed = hashlib.sha256(uuid.encode("ascii")).digest()
    return {
        "id": int.from_bytes(seed[:3], "big"), "uuid": uuid, "title": "Demo assessment",
        "external_id": str(5000000 + int.from_bytes(seed[3:6], "big") % 1000000), "type": "ai_proctor",
        "final_rating": ("high", "medium", "low")[seed[6] % 3], "status": "completed", "video_stream_url": None,
        "attendee_id": int.from_bytes(seed[7:9], "big"), "proctor_event_id": None,
        "session_started_at": "2026-05-05T11:38:26.231Z",
        "system_info": {"ip": "192.0.2.7", "browser": "Chrome", "os": "Linux"},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "standin"
    sys_version = ""
    timeout = 120
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.state.lock:
            self.server.state.connections += 1
            self.number = self.server.state.connections

    def log_message(self, format, *args):
        pass

    def body(self):
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > BODY_MAX:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def send(self, status, body, rule=None):
        """The answer as the rule wants it sent; `body` is bytes."""
        rule = rule or {}
        if rule.get("vanish"):
            self.close_connection = True
            return
        if "raw" in rule:
            self.close_connection = True
            self.wfile.write(rule["raw"].encode("latin-1", "replace"))
            return
        chunked = rule.get("chunked", False)
        head = ["HTTP/1.1 %d %s" % (status, self.responses.get(status, ("Status",))[0]),
                "Content-Type: " + rule.get("content_type", "application/json"), "Date: " + self.date_time_string()]
        head.append("Transfer-Encoding: chunked" if chunked else "Content-Length: %d" % len(body))
        if "retry_after" in rule:
            head.append("Retry-After: %s" % rule["retry_after"])
        head.extend("%s: %s" % pair for pair in rule.get("headers", {}).items())
        if rule.get("close") or self.server.state.connection_fault():
            head.append("Connection: close")
            self.close_connection = True
        if chunked:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        data = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"
        if "cut" in rule:
            self.close_connection = True
            self.wfile.write(data + body[:rule["cut"]])
            self.wfile.flush()
            # No close_notify, no FIN in order: the connection is simply gone.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if "short" in rule or "stall" in rule:
            self.close_connection = True
            self.wfile.write((data + body)[:len(data) + rule.get("short", rule.get("stall", {}).get("after", 0))])
            self.wfile.flush()
            time.sleep(rule.get("stall", {}).get("seconds", 0))
            return
        for line in data.splitlines(True) if "slow_head" in rule else ():
            self.wfile.write(line)
            self.wfile.flush()
            time.sleep(rule["slow_head"])
        data = b"" if "slow_head" in rule else data
        if "drip" in rule:
            self.wfile.write(data)
            size = rule["drip"].get("bytes", 1)
            for at in range(0, len(body), size):
                self.wfile.write(body[at:at + size])
                self.wfile.flush()
                time.sleep(rule["drip"].get("every", 1))
            return
        if self.called and not self.left:
            self.left = True
            self.server.state.leaves()
        self.wfile.write(data + body)

    def reply(self, rule, status, content):
        """Sends what the rule says, else `content` (JSON) with `status`. Returns the status."""
        time.sleep(rule.get("delay", 0))
        status = rule.get("status", status)
        if "body" in rule:
            content = rule["body"]
        elif rule.get("success") is False:
            content = {"success": False, "message": "failed"}
        elif rule.get("malformed"):
            content = '{"uuid": "' + "x" * 40 + '", "final_rating": '
        elif "deep" in rule:
            content = '{"deep": %s1%s}' % ("[" * rule["deep"], "]" * rule["deep"])
        elif "oversize" in rule:
            content = '{"filler": "' + "x" * rule["oversize"] + '"}'
        elif status >= 300:
            content = {"error": "status %d" % status}
        body = content if isinstance(content, str) else json.dumps(content)
        body = body.encode("utf-8", "surrogateescape")
        self.note = rule.get("note")
        self.send(status, body[:-rule["truncate"]] if "truncate" in rule else body, rule)
        if "kill" in rule:
            self.wfile.flush()
            self.server.state.kill(rule["kill"])
        return status

    def login(self, state):
        rule = state.rule("login")
        try:
            given = json.loads(self.body() or b"")
            right = secrets.compare_digest(digest(str(given["username"])), digest(state.args.username)) and \
                secrets.compare_digest(digest(str(given["password"])), digest(state.args.password))
        except (ValueError, KeyError, TypeError):
            return self.reply(rule, 400, {"error": "bad request"})
        if not right:
            return self.reply(rule, 401, {"error": "wrong username or password"})
        answer = {"access_token": state.token_new(), "refresh_token": secrets.token_urlsafe(32),
                  "grant_type": "Bearer", "expires_in": rule.get("expires_in", int(state.lifetime))}
        for name in rule.get("missing", ()):
            answer.pop(name, None)
        return self.reply(rule, 200, answer)

    def session(self, state, uuid):
        rule = state.rule(uuid)
        status = state.token_status(self.headers.get("Authorization", ""))
        app_id = self.headers.get("app-id", "")
        if status == 200 and not secrets.compare_digest(digest(app_id), digest(state.args.app_id)):
            status = 401
        if status != 200:
            return self.reply({"delay": rule.get("delay", 0)}, status, {})
        session = derived_session(uuid)
        for name, member in (("rating", "final_rating"), ("type", "type"), ("session_status", "status"),
                             ("external_id", "external_id"), ("uuid", "uuid")):
            if name in rule:
                session[member] = rule[name]
        with state.lock:
            n = state.good.get(uuid, 0)
            state.good[uuid] = n + 1
        if rule.get("ratings"):
            session["final_rating"] = rule["ratings"][min(n, len(rule["ratings"]) - 1)]
        if n < rule.get("null_first", 0):
            session["final_rating"] = None
        for name in rule.get("missing", ()):
            session.pop(name, None)
        session.update(rule.get("extra", {}))
        self.said = session.get("final_rating")
        return self.reply(rule, 200, session)

    def control(self, state):
        if self.command == "GET":
            state.settled()
        if self.path == "/control/log" and self.command == "GET":
            with state.lock:
                answer = list(state.log)
        elif self.path == "/control/counts" and self.command == "GET":
            answer = state.counts()
        elif self.path == "/control" and self.command in ("PUT", "POST"):
            try:
                state.control(json.loads(self.body() or b"{}"))
            except (ValueError, AttributeError) as error:
                self.send(400, json.dumps({"error": str(error)}).encode())
                return
            answer = {}
        else:
            self.send(404, b'{"error": "not found"}')
            return
        self.send(200, json.dumps(answer).encode())

    def dispatch(self):
        state = self.server.state
        caller = CALLER.match(self.path)
        self.path = caller.group(2) if caller else self.path
        self.called, self.left = not self.path.startswith("/control"), False
        if not self.called:
            self.control(state)
            return
        state.began()
        self.note, self.said, status = None, None, 0
        began = time.time()
        try:
            found = UUID.match(self.path)
            if self.path == "/v1/user/login":
                if self.command == "POST":
                    status = self.login(state)
                else:
                    status = self.reply({}, 405, {})
            elif found and self.command == "GET":
                status = self.session(state, found.group(1).lower())
            else:
                self.body()
                status = self.reply({}, 404, {})
        finally:
            state.ended(self.left, time=began, took=time.time() - began, method=self.command, path=self.path[:200],
                        connection=self.number, status=status, note=self.note, said=self.said,
                        caller=int(caller.group(1)) if caller else None)

    do_GET = do_POST = do_PUT = dispatch


def server_context(folder, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(os.path.join(folder, name + ".pem"), os.path.join(folder, "server.key"))
    return context


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, address, state, folder):
        """`folder` has what make_certificates() makes."""
        super().__init__(address, Handler)
        self.state = state
        self.context = server_context(folder, "server")
        self.bad_contexts = {fault: server_context(folder, fault) for fault in BAD_CERTIFICATES}

    def finish_request(self, request, client_address):
        """In the connection's own thread, so that a slow handshake holds up nobody."""
        request.settimeout(Handler.timeout)
        fault = self.state.connection_fault()
        context = self.bad_contexts.get(fault, self.context)
        if fault:
            self.state.fell_through(fault)
        if fault and context is self.context:
            self.spoil(request, fault)
            return
        try:
            request = context.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError):
            return
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    @staticmethod
    def spoil(request, fault):
        """In place of a handshake."""
        try:
            if fault != "reset":
                request.recv(65536)
            if fault == "plain":
                request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")
            elif fault == "garbage":
                request.sendall(secrets.token_bytes(500))
            elif fault == "half":
                # A record of a handshake, of which the last bytes never come.
                request.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + secrets.token_bytes(40))
            if fault in ("silent", "half"):
                while request.recv(65536):
                    pass
            if fault == "reset":
                request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        finally:
            request.close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


def options():
    # @FILE: arguments out of a file, one a line, so that no password is on a command line.
    parser = argparse.ArgumentParser(description="A stand-in of Talview's login and session endpoints over HTTPS.",
                                     fromfile_prefix_chars="@")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--dir", required=True, help="where ca.pem and the server's certificate are made")
    parser.add_argument("--name", action="append", default=[], help="a name that the certificate has beside localhost")
    parser.add_argument("--certificates", action="store_true", help="only make them, in --dir")
    parser.add_argument("--username", default="standin@example.org")
    parser.add_argument("--password", default="standin-password")
    parser.add_argument("--app-id", dest="app_id", default="standin-app")
    parser.add_argument("--token-lifetime", dest="token_lifetime", type=float, default=10800.0)
    return parser.parse_args()


def main():
    args = options()
    try:
        make_certificates(args.dir, args.name)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", None)
        sys.exit("talview stand-in: no certificate: %s" % (text.decode("utf-8", "replace") if text else error))
    if args.certificates:
        print("certificates are in", args.dir, flush=True)
        return
    try:
        server = Server(("127.0.0.1", args.port), State(args), args.dir)
    except OSError as error:
        sys.exit("talview stand-in: port %d: %s" % (args.port, error.strerror))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print("ready https://127.0.0.1:%d" % server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.2)
    server.socket.close()


if __name__ == "__main__":
    main()
