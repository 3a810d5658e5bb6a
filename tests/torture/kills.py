#!/usr/bin/python3
"""Kills everything at random instants while numbered events come in, and then looks whether what was accepted is there.

    tests/torture/kills.py [--kills 1000] [--seed N] [--rate 12] [--cgi]

The real nginx with the shipped files over TLS, both programs, the worker and the stand-in of Talview (never killed:
it is the other side). The senders are careful vendors: the same body again until a 2xx; a few are careless and send
once. What was acknowledged, with its body, is kept in this process alone. SIGKILL goes to one program, to all of
nginx, to the worker, or to everything at once, also several times in a row and right after a start. --cgi: nginx and
fcgiwrap, where each request is a process of its own, and such processes are killed too.

At the end everything is started again and left alone until it is quiet. Then each acknowledged event must be there
once, with its right content; nothing may be there that was not sent; each acknowledged callback's session must have
the rating that the stand-in gives it; `examhook check --full` must find nothing. Every secret is a canary: after kills
and at the end it is looked for in all that was written, and in the processes meanwhile. The last line is

    torture: N kills, N accepted, N lost, N doubled

and the exit status 1 when anything at all is wrong: then the first differences are printed, and the folder is kept.
The same seed makes the same choices of victims, pauses and events; the instants are the machine's.
"""
import argparse
import atexit
import collections
import ctypes
import http.client
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
for place in ("e2e", "standin", "hosting"):
    sys.path.insert(0, os.path.join(HERE, os.pardir, place))
import support  # noqa: E402
import hardening  # noqa: E402
from accounts import BCRYPT  # noqa: E402
from canaries import Kept, Remains, canary, let_cores_be_written  # noqa: E402
from support import ListeningSocket, Part, Site, wait_for  # noqa: E402
from talview import derived_session  # noqa: E402
from ways import substitute  # noqa: E402

KEPT = Kept()
TOKEN = KEPT.of["proview", "path_token"]
RIGHT, WRONG = KEPT.add("horse bcrypt"), KEPT.add(canary())
# A sanitizer keeps copies of a program's memory of its own.
SEARCHED = not hardening.sanitized(os.path.join(support.BUILD, "examhook"))
CANDIDATES = 50
REQUEST_SECONDS = 3
# The worker's own rule: a lease must bear a login and a fetch.
LEASE_SECONDS = 2 * REQUEST_SECONDS + 2
CONF = """
[examjoint main]
client_id = torture-id
{examjoint}
[proview main]
{proview}login_url = {url}/v1/user/login
session_url = {url}/v1/sessions
ca_file = {ca}

[worker]
connect_timeout = {seconds}s
request_timeout = {seconds}s
poll = 1s
lease = {lease}s
retry_first = 1s
retry_max = 2s
login_pause = 1s

[throttle]
failures = 500

[fields]
0 = id
1 = password
"""
KINDS = {"admitted_respondent": 30, "result_ready": 20, "investigation_complete": 10, "something_new": 5, "right": 10,
         "wrong": 10, "callback": 15}


class Event:
    """One numbered event, what became of it, and what its row must hold."""

    def __init__(self, number, chance):
        self.number, self.sends, self.acks, self.kills_before, self.kills_after, self.began = number, 0, 0, None, 0, None
        self.kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        self.careless, self.again = chance.random() < 0.08, chance.random() < 0.05
        self.path, self.headers = "/webhooks/examjoint", {"x-client-id": "torture-id", **dict(KEPT.headers())}
        self.outcome, self.identity, self.stored = None, None, None
        self.exam, self.who = "exam-%d" % (number % 7), "r%d" % number
        note = "%d " % number + "".join(chance.choices("abc \u00e9\u5b66\"\\/\n", k=chance.choice((5, 40, 3000))))
        if self.kind in ("right", "wrong"):
            self.verification(chance)
        elif self.kind == "callback":
            self.path = "/webhooks/proview/main/" + TOKEN
            self.who = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            self.sent = self.stored = {"session_uuid": self.who, "external_id": str(number), "message": note}
        else:
            self.sent = {"event": self.kind, "respondent_id": self.who, "exam_id": self.exam, "note": note}
            if self.kind == "admitted_respondent":
                self.sent["admittedOn"] = 1719221380326 + number
            self.stored = dict(self.sent)
            if self.kind != "something_new" and chance.random() < 0.2:
                self.sent["fields"] = [{"position": 1, "value": "%s %d" % (WRONG, number)}]
                self.stored["fields"] = [{"position": 1, "value": "[redacted]"}]
        self.body = json.dumps(self.sent).encode()

    def verification(self, chance):
        """Each at an exam of its own, by which its row is known; no body of it is kept."""
        self.exam, who = "verify-%d" % self.number, str(chance.randrange(CANDIDATES))
        word, self.outcome, self.identity, self.who = RIGHT, "valid", who, None
        if self.kind == "wrong":
            word, self.outcome = WRONG, "invalid"
            if chance.random() < 0.3:
                who, self.identity = "nobody-%d" % self.number, "unknown:"
        self.sent = {"event": "verify_respondent", "exam_id": self.exam, "choosenLang": "en",
                     "fields": [{"position": 0, "value": who}, {"position": 1, "value": word}]}

    @property
    def key(self):
        return (self.exam, None) if self.outcome else (None, self.who)

    def most(self):
        """How many copies may have reached a program: nginx sends one again when the program dies under it."""
        return self.sends + self.kills_after - self.kills_before

    def answered_wrongly(self, status, body):
        """What is wrong with this answer; None when nothing is."""
        try:
            answer = json.loads(body)
        except ValueError:
            return "answered %d %r" % (status, body[:200])
        refused = "errorMessage" in answer if isinstance(answer, dict) else None
        if status != 200 or refused is None or refused != (self.outcome == "invalid"):
            return "answered %d %r" % (status, body[:200])
        return None

    def row_differs(self, row):
        """What is wrong with its row; None when nothing is."""
        wanted = {"account": "main", "body": self.stored, "outcome": self.outcome, "quarantined": None}
        if self.kind == "callback":
            wanted.update(session_uuid=self.who, external_id=str(self.number))
        else:
            wanted.update(event=self.sent["event"], exam_id=self.exam, respondent_id=self.who)
        for name, value in wanted.items():
            got = row.get(name)
            if name == "body" and isinstance(got, str):
                got = json.loads(got)
            if got != value:
                return "%s is %r, not %r" % (name, got, value)
        if self.identity and not (row["identity"] or "").startswith(self.identity):
            return "identity is %r, not %s" % (row["identity"], self.identity)
        return None


class Score:
    """What is counted, and what went wrong; shared by all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.kills_begun = self.kills_done = self.kills = 0 # the last one: of those, what hit something
        self.victims, self.statuses = collections.Counter(), collections.Counter()
        self.events, self.wrong = [], []
        self.lost = self.doubled = 0

    def trouble(self, text):
        with self.lock:
            self.wrong.append(text)


class Sender(threading.Thread):
    def __init__(self, site, score, seed, number, stop):
        super().__init__(daemon=True)
        self.site, self.score, self.stop = site, score, stop
        self.chance, self.next, self.connection = random.Random("%s sender %d" % (seed, number)), number * 10000000, None

    def run(self):
        while not self.stop.is_set():
            self.next += 1
            event = Event(self.next, self.chance)
            with self.score.lock:
                self.score.events.append(event)
            try:
                self.deliver(event)
            except Exception as error: # whatever it is, it must not pass for a quiet sender
                self.score.trouble("the sender of %s %d broke: %r" % (event.kind, event.number, error))
                return
        self.leave()

    def deliver(self, event):
        wanted, tries = 2 if event.again else 1, 0
        event.kills_before, event.began = self.score.kills_done, time.monotonic()
        while event.acks < wanted and not (event.careless and tries):
            tries += 1
            event.sends += 1
            status, body = self.post(event)
            event.kills_after = self.score.kills_begun
            with self.score.lock:
                self.score.statuses[status] += 1
            if status == 200:
                event.acks += 1
            # 502 is fcgiwrap's own word for a program that was killed under it.
            again = (429, 502, 503, None) if self.site.cgi else (429, 503, None)
            if status not in (200, *again) or status == 200 and event.answered_wrongly(status, body):
                self.score.trouble("%s %d: %s" % (event.kind, event.number, event.answered_wrongly(status, body)))
                return
            if status != 200:
                time.sleep(self.chance.uniform(0.005, 0.06))

    def post(self, event):
        try:
            if not self.connection:
                self.connection = http.client.HTTPSConnection("127.0.0.1", self.site.port, context=self.site.tls,
                                                              timeout=45)
            self.connection.request("POST", event.path, event.body, event.headers)
            answer = self.connection.getresponse()
            status, body = answer.status, answer.read()
            if answer.getheader("Connection", "").lower() == "close":
                self.leave()
            return status, body
        except (OSError, ssl.SSLError, http.client.HTTPException):
            self.leave()
            return None, b""

    def leave(self):
        if self.connection:
            self.connection.close()
        self.connection = None


# --- What is killed -----------------------------------------------------------------------------------------

def reap(group):
    """The orphans of a killed group are ours."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class World(Site):
    """A site whose parts are killed and started again, without waiting for anything."""
    programs = ("examjoint", "proview", "worker", "nginx")

    def __init__(self, cgi=False):
        self.cgi, self.groups, self.listener = cgi, [], None
        if cgi:
            self.programs = ("fcgiwrap", "worker", "nginx")
        roster = "id,password_hash\n" + "".join("%d,%s\n" % (i, BCRYPT) for i in range(CANDIDATES))
        self.remains = None
        super().__init__("", [("main", roster)])

    def prepare(self, *how):
        """Temporary files of all programs come to lie where they are looked for."""
        os.mkdir(self.path("tmp"))
        os.environ["TMPDIR"] = self.path("tmp")
        super().prepare(*how)

    def leaks(self):
        return self.remains.leaks() if SEARCHED else []

    def write_conf(self, conf, verify="", store=""):
        """The stand-in comes first: its address stands in the configuration."""
        url = self.start_standin(*[word for name in ("username", "password", "app_id")
                                   for word in ("--" + name.replace("_", "-"), KEPT.of["proview", name])])
        self.remains = Remains(KEPT, self.folder, "store", [KEPT.add(BCRYPT)], [self.parts["talview"].process.pid])
        atexit.register(self.parts["talview"].process.kill)
        super().write_conf(CONF.format(examjoint=KEPT.lines("examjoint"), proview=KEPT.lines("proview"), url=url, ca=self.path("talview/ca.pem"), seconds=REQUEST_SECONDS,
                                       lease=LEASE_SECONDS))

    def write_nginx(self, change):
        super().write_nginx(change)
        if self.cgi:
            shutil.copy(os.path.join(support.TOP, "nginx/examhook-fcgiwrap.conf"), self.path("nginx"))
            substitute(self.path("nginx/examhook.conf"), [("examhook-locations.conf", "examhook-fcgiwrap.conf")])
            substitute(self.path("nginx/examhook-fcgiwrap.conf"), [
                ("/run/examhook/", self.path("sock") + "/"), ("/var/log/nginx/examhook-", self.path("nginx") + "/"),
                ("/etc/examhook/examhook.conf", self.conf_path), ("/usr/local/lib/examhook", support.BUILD)])

    def command(self, name):
        if name == "nginx":
            return ["setsid", "nginx", "-e", "stderr", "-c", self.nginx_conf]
        if name == "worker":
            return [os.path.join(support.BUILD, "examhook"), "--config", self.conf_path, "work"]
        if name == "fcgiwrap":
            return ["setsid", "spawn-fcgi", "-n", "-s", self.path("sock/fcgiwrap.sock"), "-M", "0660", "--",
                    "/usr/sbin/fcgiwrap", "-c", "8"]
        own = ["--socket", self.path("sock", name + ".sock")] if name == "examjoint" else []
        return [os.path.join(support.BUILD, name + ".fcgi"), "--config", self.conf_path, *own]

    def launch(self, name):
        """examjoint makes its own socket; proview gets one handed over, as systemd does it."""
        if name == "proview" and not self.listener:
            self.listener = ListeningSocket(self.path("sock/proview.sock"))
        if name == "fcgiwrap" and os.path.exists(self.path("sock/fcgiwrap.sock")):
            os.remove(self.path("sock/fcgiwrap.sock"))
        self.parts[name] = Part(name, self.command(name), self.folder, self.listener if name == "proview" else None)

    def kill(self, name):
        """SIGKILL to all of it; returns when it is gone."""
        process = self.parts[name].process
        if name in ("nginx", "fcgiwrap"):
            self.groups.append(process.pid)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError: # it has not yet made its group
                pass
        process.kill()
        process.wait()

    def gone(self, name):
        """A group's members end one by one; the new nginx wants the old one's port."""
        if name == "nginx":
            wait_for(lambda: not self.answers(), 5, 0.001)
        for group in self.groups[-8:]:
            reap(group)

    def answers(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def requests_running(self):
        """The CGI processes of this moment."""
        found, group = [], self.parts["fcgiwrap"].process.pid
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.getpgid(int(entry)) == group and \
                        os.readlink("/proc/%s/exe" % entry).endswith(".fcgi"):
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def control(self, path):
        context = ssl.create_default_context(cafile=self.path("talview/ca.pem"))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=context))
        with opener.open(self.talview_url + path, timeout=60) as reply:
            return json.load(reply)


class Killer:
    def __init__(self, world, score, seed, rate):
        self.world, self.score, self.rate = world, score, rate
        self.chance = random.Random("%s killer" % seed)

    def watch(self):
        """What ended by itself is a fault, and is started again."""
        for name in self.world.programs:
            status = self.world.parts[name].process.poll()
            if status is not None:
                self.score.trouble("%s ended by itself with status %d" % (name, status))
                self.world.gone(name)
                self.world.launch(name)

    def strike(self, victim, pause):
        names = self.world.programs if victim == "all" else (victim,)
        self.score.kills_begun += 1
        hit = victim != "request"
        if victim == "request":
            running = self.world.requests_running()
            for pid in running[:1] if self.chance.random() < 0.7 else running:
                try:
                    os.kill(pid, signal.SIGKILL)
                    hit = True
                except ProcessLookupError:
                    pass
        else:
            for name in names:
                self.world.kill(name)
            for name in names:
                self.world.gone(name)
        self.score.kills_done += 1
        self.score.kills += hit
        self.score.victims[victim] += hit
        # What is written just then is found by the last search; this one is for what is there only until the next start.
        often = self.score.kills <= 20 or self.score.kills % 20 == 0 # a large store takes a while
        for leak in self.world.leaks() if often and victim != "request" else ():
            self.score.trouble("a secret is where it must not be, after a kill of %s: %s" % (victim, leak))
        if victim != "request":
            time.sleep(pause)
            for name in names:
                self.world.launch(name)

    def run(self, kills):
        """Mostly one by one; now and then several in a row, of what has only just started."""
        chance = self.chance
        victims = [*self.world.programs, "all"] + (["request"] * 3 if self.world.cgi else [])
        while self.score.kills < kills:
            self.watch()
            victim, row = chance.choice(victims), chance.choices((1, 2, 6), (85, 10, 5))[0]
            for _ in range(min(row, kills - self.score.kills)):
                self.strike(victim, chance.choice((0, 0, 0.002, 0.02, 0.1)))
                if row > 1:
                    time.sleep(chance.choice((0, 0.001, 0.005, 0.02)))
            time.sleep(min(chance.expovariate(self.rate), 2.0))


# --- The comparison -----------------------------------------------------------------------------------------

def compare_events(world, score):
    rows = collections.defaultdict(list)
    for row in world.rows("events", "--json") + world.rows("events", "--json", "--quarantined"):
        verification = row["event"] == "verify_respondent"
        rows[(row["exam_id"], None) if verification else (None, row["session_uuid"] or row["respondent_id"])].append(row)
    for event in score.events:
        found = rows.pop(event.key, [])
        what = "%s %d (sent %d times, acknowledged %d times)" % (event.kind, event.number, event.sends, event.acks)
        if event.acks and not found:
            score.lost += 1
            score.trouble("lost: " + what)
        # Every verification is an attempt of its own, and a row of its own.
        copies = len(found) if event.outcome else sum(row["deliveries"] for row in found)
        if len(found) > 1 and not event.outcome or copies > event.most():
            score.doubled += 1
            score.trouble("doubled: %s: %d rows, %d copies, at most %d" % (what, len(found), copies, event.most()))
        if found and copies < event.acks:
            score.trouble("a delivery is not counted: %s: %d" % (what, copies))
        for row in found:
            wrong = event.row_differs(row)
            if wrong:
                score.trouble("another content: %s: %s" % (what, wrong))
    for key in rows:
        score.trouble("never sent: %s" % json.dumps(rows[key])[:500])


def compare_ratings(world, score, sessions):
    counts = world.control("/control/counts")
    sent = {event.who: event for event in score.events if event.kind == "callback"}
    for who, event in sent.items():
        row = sessions.pop(who, None)
        rating = derived_session(who)["final_rating"]
        if event.acks and (not row or (row["state"], row["rating"]) != ("rated", rating)):
            score.trouble("not rated %s: %s" % (rating, json.dumps(row or who)))
        # A killed worker leaves a lease, and the session is fetched again when it is over.
        most = event.most() + 1 + int((time.monotonic() - event.began) / LEASE_SECONDS)
        if counts["by_uuid"].get(who, 0) > most:
            score.trouble("%s was fetched %d times, at most %d" % (who, counts["by_uuid"][who], most))
    for row in sessions.values():
        score.trouble("a session that nobody sent: %s" % json.dumps(row))
    strange = set(counts["by_uuid"]) - set(sent)
    if strange:
        score.trouble("fetched although nobody sent them: %s" % sorted(strange)[:5])
    if counts["logins"] > 1 + score.victims["worker"] + score.victims["all"]:
        score.trouble("%d logins" % counts["logins"])
    return counts


def wait_until_quiet(world, score):
    """Until every session that was acknowledged is rated, or nothing more can be hoped for. Returns the sessions."""
    wanted = {event.who for event in score.events if event.kind == "callback" and event.acks}
    left, until = None, 0
    while True:
        sessions = {row["session_uuid"]: row for row in world.rows("sessions", "--json")}
        waiting = [who for who in wanted if sessions.get(who, {}).get("state") != "rated"]
        busy = [row for row in sessions.values() if row["state"] == "pending"]
        if (len(waiting), len(busy)) != left:
            left, until = (len(waiting), len(busy)), time.monotonic() + 4 * LEASE_SECONDS
        if not waiting and not busy or time.monotonic() > until:
            return sessions
        time.sleep(0.5)


def compare(world, score):
    sessions = wait_until_quiet(world, score)
    compare_events(world, score)
    counts = compare_ratings(world, score, sessions)
    done = world.examhook("check", "--full")
    if done.returncode or "integrity" not in done.stdout:
        score.trouble("examhook check --full: %d\n%s%s" % (done.returncode, done.stdout, done.stderr))
    for what in (["events", "--json"], ["sessions"], ["export"], ["config"]):
        said = world.examhook(*what)
        world.remains.look_at(what, said.stdout + said.stderr)
    return counts


def search(world, score):
    """For secrets, in all that was written, said and run from the first start to the last end."""
    world.remains.end()
    for leak in world.leaks():
        score.trouble("a secret is where it must not be: %s" % (leak,))
    if SEARCHED:
        print("searched for %d secrets, %d of them Talview's tokens" % (len(KEPT.all()), len(world.remains.tokens)))


# --- The run ------------------------------------------------------------------------------------------------

def takes_sigterm(pid):
    """One that was started just now would be killed by it."""
    with open("/proc/%d/status" % pid, encoding="utf-8") as f:
        masks = re.findall(r"^Sig(?:Blk|Cgt):\s*([0-9a-f]+)", f.read(), re.M)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def finish(world, score):
    """Everything once more, orderly: it starts, it answers, it ends with status 0."""
    for name in world.programs:
        part = world.parts.pop(name)
        if name != "fcgiwrap":
            wait_for(lambda: not part.alive() or takes_sigterm(part.process.pid), 30) # pylint: disable=cell-var-from-loop
        try:
            if name == "fcgiwrap":
                os.killpg(part.process.pid, signal.SIGTERM)
            status = part.stop(seconds=20)
        except AssertionError as late:
            score.trouble(str(late))
            continue
        if status != (-signal.SIGTERM if name == "fcgiwrap" else 0):
            score.trouble("%s ended with %s at the end" % (name, status))


def torture(world, score, options):
    stop = threading.Event()
    senders = [Sender(world, score, options.seed, i + 1, stop) for i in range(options.senders)]
    try:
        for name in world.programs:
            world.launch(name)
        if not wait_for(world.answers, 20):
            raise AssertionError("nginx did not start: " + world.parts["nginx"].log())
        for sender in senders:
            sender.start()
        killer, begun = Killer(world, score, options.seed, options.rate), time.monotonic()
        killer.run(options.kills)
        took = time.monotonic() - begun
    finally:
        stop.set()
    for sender in senders:
        sender.join(90)
        if sender.is_alive():
            score.trouble("a sender is still without an answer")
    killer.watch()
    counts = compare(world, score)
    finish(world, score)
    search(world, score)
    accepted = sum(event.acks > 0 for event in score.events)
    print("seed %s: %.1f kills a second (%s); %d events sent, %d of them more than once; answers %s; %d fetches of %d sessions, %d logins" % (
        options.seed, options.kills / took, ", ".join("%s %d" % pair for pair in sorted(score.victims.items())),
        len(score.events), sum(event.sends > 1 for event in score.events),
        ", ".join("%s: %d" % (status or "none", n) for status, n in sorted(score.statuses.items(), key=str)),
        counts["sessions"], len(counts["by_uuid"]), counts["logins"]))
    return accepted


def arguments():
    parser = argparse.ArgumentParser(description="Kills everything while events come in; nothing accepted may be lost.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", default="")
    parser.add_argument("--rate", type=float, default=20.0, help="kills a second that are aimed at")
    parser.add_argument("--senders", type=int, default=6)
    parser.add_argument("--cgi", action="store_true", help="nginx and fcgiwrap in place of the two FastCGI programs")
    options = parser.parse_args()
    options.seed = options.seed or secrets.token_hex(4)
    return options


def main():
    options = arguments()
    # Orphans of a killed nginx come to us, so that they do not stay as zombies.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    print("torture: seed %s (SEED=%s makes the same choices again)" % (options.seed, options.seed), flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    let_cores_be_written()
    score, world, accepted = Score(), World(options.cgi), 0
    try:
        accepted = torture(world, score, options)
    except (AssertionError, KeyboardInterrupt) as wrong:
        score.trouble("not ended: %s" % (wrong or type(wrong).__name__))
    finally:
        for name, part in world.parts.items():
            if part.alive():
                world.kill(name)
    for text in score.wrong[:20]:
        print(text)
    if len(score.wrong) > 20:
        print("... and %d more" % (len(score.wrong) - 20))
    if score.wrong:
        print("everything is kept in " + world.folder)
    else:
        shutil.rmtree(world.folder, ignore_errors=True)
    print("torture: %d kills, %d accepted, %d lost, %d doubled" % (score.kills, accepted, score.lost, score.doubled))
    return 1 if score.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
