"""Each program is stopped and started again under load: nothing that was acknowledged is missing, and nothing is
there twice."""
import collections
import signal
import threading
import time

import pytest

from calls import admitted, callback, examjoint, proview, verify
from accounts import CONF, rosters
from support import PATIENCE, ListeningSocket, Notified, a_uuid, unique, wait_for

TOKEN = "token/token-0123456789abcdef"


class Load:
    """Senders that send until told to stop; `taken` holds what was answered 200, `other` counts the rest."""

    def __init__(self, send, senders=8):
        self.send = send
        self.taken, self.other = [], collections.Counter()
        self.over = threading.Event()
        self.taken_of = [0] * senders
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(senders)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        while not self.over.is_set():
            key, reply = self.send()
            if reply is None:
                self.other["no answer"] += 1
            elif reply.status == 200:
                self.taken.append(key)
                self.taken_of[number] += 1
            else:
                self.other[reply.status] += 1
            # However fast the machine: eight senders stay below 400 a second, which nginx's burst bears.
            time.sleep(0.02)

    def turn(self, seconds=0.0):
        """So long at least, and until each sender was answered 200 twice: the second one it asked after the call."""
        begun, before = time.monotonic(), list(self.taken_of)
        assert wait_for(lambda: all(now >= then + 2 for now, then in zip(self.taken_of, before)), 60), self.other
        time.sleep(max(0, begun + seconds - time.monotonic()))

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def answered(call, *arguments):
    try:
        return call(*arguments)
    except OSError:
        return None


def send_event(site):
    who = unique()
    return who, answered(examjoint, site, admitted(who))


def send_callback(site):
    session = a_uuid()
    return session, answered(proview, site, TOKEN, callback(session))


def send_event_or_verification(site):
    """Every fourth is a candidate whose password is checked; an event has a key, a verification has none."""
    who = unique()
    if who.endswith(("0", "4", "8", "c")):
        reply = answered(verify, site, "1001", "horse 1001")
        if reply and reply.status == 200 and reply.json.get("errorMessage"):
            reply.status = reply.json["errorMessage"]
        return None, reply
    return who, answered(examjoint, site, admitted(who))


@pytest.mark.parametrize("program,send,key", [("examjoint", send_event_or_verification, "respondent_id"),
                                              ("proview", send_callback, "session_uuid")])
def test_restarts_with_a_socket_that_is_handed_over(make_site, program, send, key):
    """As systemd does it: the listening socket stays, so nobody is refused; the shipped nginx repeats what it sent
    on a connection that was closed just then."""
    # Many at once are the same candidate: that must not look like guessing.
    site = make_site(CONF + "[throttle]\nfailures = 500\n", rosters())
    listener = ListeningSocket(site.path("sock", program + ".sock"))
    notified = Notified(site.path("notify"))
    site.start_handed_over(program, listener, notified)
    site.start_program("proview" if program == "examjoint" else "examjoint")
    site.start_nginx()
    load = Load(lambda: send(site))
    restarts, longest = 20, 0
    try:
        for _ in range(restarts):
            load.turn(0.25)
            begun = time.monotonic()
            assert site.stop(program) == 0
            longest = max(longest, time.monotonic() - begun)
            site.start_handed_over(program, listener, notified)
        load.turn(0.25)
    finally:
        load.stop()
    assert longest < 3 * PATIENCE, "mod_fcgid would have killed it"
    assert not load.other, load.other
    taken = [one for one in load.taken if one]
    stored = collections.Counter(row[key] for row in site.events() if row[key])
    assert len(taken) > 5 * restarts, "so few that hardly any met a restart"
    assert set(taken) == set(stored) and max(stored.values()) == 1
    if program == "examjoint":
        assert restarts < len(load.taken) - len(taken) <= len(site.events(event="verify_respondent"))
    assert notified.words() == ["READY"] + ["STOPPING", "READY"] * restarts
    listener.close()
    notified.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("program,send,key", [("examjoint", send_event, "respondent_id"),
                                              ("proview", send_callback, "session_uuid")])
def test_restarts_under_load(make_site, program, send, key, number):
    site = make_site(CONF, rosters()).start()
    load = Load(lambda: send(site))
    try:
        for _ in range(4):
            load.turn(0.6)
            begun = time.monotonic()
            status = site.stop(program, number=number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert time.monotonic() - begun < 3 * PATIENCE, "mod_fcgid would have killed it"
            site.start_program(program)
        load.turn(0.6)
    finally:
        load.stop()
    stored = collections.Counter(row[key] for row in site.events())
    assert len(load.taken) > 50, load.other
    assert not [one for one in load.taken if one not in stored]
    assert max(stored.values()) == 1
    assert set(load.other) <= {503}, load.other
    assert site.examhook("check", "--full").stdout.count("integrity_check: ok") == 4


def test_nginx_restarts_under_load(make_site):
    site = make_site(CONF, rosters()).start()
    load = Load(lambda: send_event(site))
    try:
        for _ in range(3):
            load.turn(0.5)
            site.stop("nginx", number=signal.SIGQUIT)
            site.start_nginx()
        load.turn(0.5)
    finally:
        load.stop()
    stored = {row["respondent_id"] for row in site.events()}
    assert len(load.taken) > 50 and set(load.taken) <= stored


def test_worker_ends_on_sigterm(make_site):
    site = make_site(CONF, rosters())
    url = site.start_standin("--username", "u", "--password", "p", "--app-id", "a")
    site.write_conf(CONF + """
[proview rated]
login_url = %s/v1/user/login
session_url = %s/v1/sessions
ca_file = %s
username = u
password = p
app_id = a
path_token = rated-0123456789abcdef
""" % (url, url, site.path("talview/ca.pem")))
    site.start()
    site.start_worker()
    sessions = [a_uuid() for _ in range(40)]
    for session in sessions:
        assert proview(site, "rated/rated-0123456789abcdef", callback(session)).status == 200
    # In the middle of it.
    assert wait_for(lambda: site.rows("sessions", "--json"))
    assert site.stop("worker") == 0
    site.start_worker()
    assert wait_for(lambda: {row["session_uuid"] for row in site.rows("sessions", "--json", "--state", "rated")} ==
                    set(sessions), 30, 0.3)
