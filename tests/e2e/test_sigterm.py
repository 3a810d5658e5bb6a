"""Each program is stopped and started again under load: nothing that was acknowledged is missing, and nothing is
there twice."""
import collections
import signal
import threading
import time

import pytest

from calls import admitted, callback, examjoint, proview
from accounts import CONF, rosters
from support import PATIENCE, a_uuid, unique

TOKEN = "token/token-0123456789abcdef"


class Load:
    """Senders that send until told to stop; `taken` holds what was answered 200, `other` counts the rest."""

    def __init__(self, send, senders=8):
        self.send = send
        self.taken, self.other = [], collections.Counter()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(senders)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.over.is_set():
            key, reply = self.send()
            if reply is None:
                self.other["no answer"] += 1
            elif reply.status == 200:
                self.taken.append(key)
            else:
                self.other[reply.status] += 1
            # However fast the machine: eight senders stay below 400 a second, which nginx's burst bears.
            time.sleep(0.02)

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("program,send,key", [("examjoint", send_event, "respondent_id"),
                                              ("proview", send_callback, "session_uuid")])
def test_restarts_under_load(make_site, program, send, key, number):
    site = make_site(CONF, rosters()).start()
    load = Load(lambda: send(site))
    try:
        for _ in range(4):
            time.sleep(0.6 * PATIENCE)
            begun = time.monotonic()
            status = site.stop(program, number=number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert time.monotonic() - begun < 3 * PATIENCE, "mod_fcgid would have killed it"
            site.start_program(program)
        time.sleep(0.6 * PATIENCE)
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
            time.sleep(0.5)
            site.stop("nginx", number=signal.SIGQUIT)
            site.start_nginx()
        time.sleep(0.5)
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
    time.sleep(1)
    assert site.stop("worker") == 0
    site.start_worker()
    end = time.monotonic() + 30 * PATIENCE
    while time.monotonic() < end:
        rated = {row["session_uuid"] for row in site.rows("sessions", "--json", "--state", "rated")}
        if rated == set(sessions):
            break
        time.sleep(0.3)
    assert rated == set(sessions)
