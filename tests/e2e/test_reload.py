"""SIGHUP reads the configuration again: nobody who is being served notices, and a wrong one changes nothing."""
import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
import time

import pytest

from accounts import CONF, rosters
from calls import EXAMJOINT, admitted, callback, fields, proview
from support import BUILD, LANGUAGES, PATIENCE, WRAP, ListeningSocket, Notified, a_uuid, unique, wait_for
from test_sigterm import Load, answered

READ = "the configuration was read again"
WRONG = "the new configuration is wrong"


def reload(site, program="examjoint", says=READ):
    """Sends SIGHUP and waits until the program has said what came of it."""
    part = site.parts[program]
    before = part.log().count(says)
    part.process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: part.log().count(says) > before, every=0.005), part.log()


def rewrite(site, old, new):
    with open(site.conf_path, encoding="utf-8") as f:
        text = f.read()
    assert old in text
    with open(site.conf_path, "w", encoding="utf-8") as f:
        f.write(text.replace(old, new))


def send(site, secret, body, client="acme-id"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return site.ask("POST", EXAMJOINT, body, [("x-client-id", client), ("x-client-secret", secret)])


def verification(identity, password, exam="exam-1"):
    return {"event": "verify_respondent", "fields": fields(identity, password), "exam_id": exam, "choosenLang": "en"}


def stored(site):
    return [row["respondent_id"] for row in site.events() if row["event"] == "admitted_respondent"]


class Sender:
    """ExamJoint with its secret; somebody changes it now and then."""

    def __init__(self, site, secret):
        self.site, self.secret = site, secret

    def event(self):
        who = unique()
        return who, answered(send, self.site, self.secret, admitted(who))


def test_a_secret_rotates_under_load(make_site):
    site = make_site(CONF, rosters()).start()
    vendor = Sender(site, "acme-secret-new")
    load = Load(vendor.event)
    secret = "acme-secret-new"
    try:
        for n in range(6):
            # Nobody is on the way any more with the one that goes.
            load.turn(0.3)
            # As the README has it: the new one beside the old one, the vendor changes, the old one goes.
            following = "acme-secret-%d" % n
            rewrite(site, "client_secret = " + secret, "client_secret = " + following)
            rewrite(site, "client_secret_previous = ", "client_secret_previous = %s\n# " % secret)
            reload(site)
            load.turn(0.3)
            vendor.secret = secret = following
        load.turn(0.3)
    finally:
        load.stop()
    assert not load.other, load.other
    assert len(load.taken) > 60 and sorted(stored(site)) == sorted(load.taken)
    assert send(site, "acme-secret-4", admitted(unique())).status == 200
    rewrite(site, "client_secret_previous = ", "# ")
    reload(site)
    assert send(site, "acme-secret-4", admitted(unique())).status == 401
    assert send(site, "acme-secret-5", admitted(unique())).status == 200
    log = site.parts["examjoint"].log()
    assert "client_secret_previous" in log and "acme-secret" not in log


def test_many_signals_under_load(make_site):
    site = make_site(CONF, rosters()).start()
    vendor = Sender(site, "acme-secret-new")
    load = Load(vendor.event)
    part, end = site.parts["examjoint"], time.monotonic() + 60 * PATIENCE
    try:
        def signals():
            for _ in range(100):
                part.process.send_signal(signal.SIGHUP)
                time.sleep(0.005)
        for _ in range(3):
            signals()
        # Where the machine is busy, many of them are taken as one.
        while (part.log().count(READ) <= 20 or len(load.taken) <= 20) and time.monotonic() < end:
            signals()
    finally:
        load.stop()
    assert not load.other, load.other
    assert sorted(stored(site)) == sorted(load.taken) and len(load.taken) > 20
    assert part.log().count(READ) > 20


def under_a_memory_checker():
    with open(os.path.join(BUILD, "examjoint.fcgi"), "rb") as f:
        return bool(WRAP) or b"__asan_init" in f.read()


@pytest.mark.skipif(under_a_memory_checker(), reason="the memory would be the checker's, which sees leaks itself")
def test_reading_again_leaves_no_memory_behind(make_site):
    site = make_site(CONF, rosters()).start()
    part = site.parts["examjoint"]

    def resident():
        with open("/proc/%d/statm" % part.process.pid, encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(50):
        reload(site)
    before = resident()
    for _ in range(300):
        reload(site)
    assert resident() - before < 300 * 1000, "a configuration with its languages is larger than 1000 bytes"


def test_a_wrong_configuration_changes_nothing(make_site):
    site = make_site(CONF, rosters()).start()
    with open(site.conf_path, encoding="utf-8") as f:
        good = f.read()
    for line, reason in (("[server]\nbody_limit = many", "body_limit"), ("no section at all = 1", "no section"),
                         ("[examjoint acme two]\nclient_id = x\nclient_secret = CANARY-7731", "acme two")):
        with open(site.conf_path, "w", encoding="utf-8") as f:
            f.write(good.replace("acme-secret-new", "acme-secret-newer") + "\n" + line + "\n")
        reload(site, says=WRONG)
        said = site.parts["examjoint"].log().splitlines()[-1]
        at = good.count("\n") + 1 + line.count("\n") + 1
        assert any("%s:%d: " % (site.conf_path, n) in said for n in range(at - line.count("\n"), at + 1)), (reason, said)
        assert "CANARY" not in said
        assert send(site, "acme-secret-new", admitted(unique())).status == 200
        assert send(site, "acme-secret-newer", admitted(unique())).status == 401
    os.chmod(site.conf_path, 0o644)
    reload(site, says=WRONG)
    os.remove(site.conf_path)
    reload(site, says=WRONG)
    assert send(site, "acme-secret-new", admitted(unique())).status == 200
    with open(os.open(site.conf_path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as f:
        f.write(good.replace("acme-secret-new", "acme-secret-newer"))
    reload(site)
    assert send(site, "acme-secret-new", admitted(unique())).status == 401
    assert send(site, "acme-secret-newer", admitted(unique())).status == 200


def test_wrong_texts_change_nothing(make_site):
    site = make_site(CONF, rosters())
    texts = site.path("texts")
    shutil.copytree(LANGUAGES, texts)
    rewrite(site, "languages = " + LANGUAGES, "languages = " + texts)
    site.start()
    refused = send(site, "acme-secret-new", verification("nobody", "x")).json["errorMessage"]
    with open(os.path.join(texts, "en.txt"), "w", encoding="utf-8") as f:
        f.write("unknown = Sorry, try it once more.\nthis is no line\n")
    reload(site, says=WRONG)
    assert "en.txt:2" in site.parts["examjoint"].log().splitlines()[-1]
    assert send(site, "acme-secret-new", verification("nobody", "x")).json["errorMessage"] == refused
    with open(os.path.join(texts, "en.txt"), "w", encoding="utf-8") as f:
        f.write("unknown = Sorry, try it once more.\n")
    reload(site)
    assert send(site, "acme-secret-new", verification("nobody", "x")).json["errorMessage"] == "Sorry, try it once more."


@contextlib.contextmanager
def slots_taken(site, count):
    """As if other processes were checking passwords in every slot there is."""
    with contextlib.ExitStack() as held:
        for n in range(count):
            path = site.path("store", "examjoint", "hash-slot-%d" % n)
            slot = held.enter_context(open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "ab"))
            fcntl.flock(slot, fcntl.LOCK_EX)
        yield


def test_a_password_being_checked_is_answered_by_the_configuration_it_came_under(make_site):
    """Its account and its mapping are gone meanwhile, twice over."""
    site = make_site(CONF, rosters(), verify="hash_threads = 2\n").start()
    got = {}

    def ask(key, password):
        got[key] = answered(send, site, "acme-secret-new", verification("1001", password))

    threads = [threading.Thread(target=ask, args=one) for one in (("right", "horse 1001"), ("wrong", "horse"))]
    log = site.parts["examjoint"].log
    descriptors = "/proc/%d/fd" % site.parts["examjoint"].process.pid
    with slots_taken(site, 2):
        before = len(os.listdir(descriptors))
        for thread in threads:
            thread.start()
        # Too short, and they would be refused.
        assert wait_for(lambda: len(os.listdir(descriptors)) >= before + 2)
        time.sleep(0.5 * PATIENCE)
        rewrite(site, "client_id = acme-id", "client_id = acme-other-id")
        rewrite(site, "[examjoint acme]", "[examjoint acme-renamed]")
        reload(site)
        rewrite(site, "0 = id\n1 = password", "7 = id\n8 = password")
        reload(site)
        assert send(site, "acme-secret-new", admitted(unique())).status == 401
        assert send(site, "acme-secret-new", admitted(unique()), client="acme-other-id").status == 200
        assert not got, got
    for thread in threads:
        thread.join()
    assert got["right"].status == 200 and "errorMessage" not in got["right"].json
    assert got["right"].json["metadata"]["name"] == "Ada", got
    assert got["wrong"].status == 200 and "could not find you" in got["wrong"].json["errorMessage"]
    rows = site.events(event="verify_respondent")
    assert sorted((row["account"], row["outcome"]) for row in rows) == [("acme", "invalid"), ("acme", "valid")]
    assert log().count(READ) == 2


def test_what_changes_at_once(make_site):
    site = make_site(CONF, rosters(), verify="queue = 100\n").start()
    secret = "acme-secret-new"
    body = json.dumps(dict(admitted(unique()), padding="x" * 3000)).encode()
    assert send(site, secret, body).status == 200
    rewrite(site, "[roster]", "[server]\nbody_limit = 2K\nconnections = 200\n[throttle]\nfailures = 1\n[roster]")
    rewrite(site, "queue = 100", "queue = 149\nbudget = 5s")
    reload(site)
    assert send(site, secret, body).status == 413
    assert send(site, secret, admitted(unique())).status == 200
    wrong = [send(site, secret, verification("1002", "wrong")).json["errorMessage"] for _ in range(2)]
    assert "could not find you" in wrong[0] and "too many failed attempts" in wrong[1]
    # A mapping of an exam's own, and a larger limit than the program began with.
    rewrite(site, "body_limit = 2K", "body_limit = 128K")
    rewrite(site, "[fields]\n", "[fields turned]\n0 = password\n1 = id\n[fields]\n")
    reload(site)
    assert send(site, secret, body).status == 200
    assert "errorMessage" not in send(site, secret, verification("horse 2001", "2001", exam="turned")).json
    log = site.parts["examjoint"].log()
    assert "needs a restart" not in log and "msg=request" in log.replace('"', "")
    rewrite(site, "[server]", "[log]\nlevel = error\n[server]")
    part = site.parts["examjoint"]
    part.process.send_signal(signal.SIGHUP)

    def silent():
        length = len(part.log())
        return send(site, secret, admitted(unique())).status == 200 and len(part.log()) == length
    assert wait_for(silent), part.log()


def test_what_needs_a_restart_is_said(make_site):
    site = make_site(CONF, rosters(), store="lock_wait = 2s\n", verify="hash_threads = 2\n").start()
    rewrite(site, "sqlite:" + site.path("store"), "sqlite:" + site.path("elsewhere"))
    rewrite(site, "lock_wait = 2s", "lock_wait = 3s")
    rewrite(site, "hash_threads = 2", "hash_threads = 1")
    rewrite(site, "acme-secret-new", "acme-secret-newer")
    reload(site)
    log = site.parts["examjoint"].log()
    for option in ("[store] url", "[store] lock_wait", "[verify] hash_threads"):
        assert log.count('option="%s"' % option) == 1, log
    assert log.count("needs a restart") == 3
    assert send(site, "acme-secret-newer", admitted("here")).status == 200
    rewrite(site, "sqlite:" + site.path("elsewhere"), "sqlite:" + site.path("store"))
    assert stored(site) == ["here"]
    assert not os.path.exists(site.path("elsewhere"))


def test_a_callbacks_token_rotates(make_site):
    site = make_site(CONF, rosters()).start()
    path = "token/token-0123456789abcdef"
    assert proview(site, path, callback(a_uuid())).status == 200
    rewrite(site, "path_token = token-0123456789abcdef", "path_token = token-0000000000000000")
    reload(site, "proview")
    assert proview(site, path, callback(a_uuid())).status == 404
    assert proview(site, "token/token-0000000000000000", callback(a_uuid())).status == 200


@pytest.mark.parametrize("program", ["examjoint", "proview"])
def test_what_the_service_manager_hears(make_site, program):
    site = make_site(CONF, rosters())
    notified = Notified(site.path("notify"))
    listener = ListeningSocket(site.path("sock", program + ".sock"))
    began_us = time.monotonic() * 1e6
    site.start_handed_over(program, listener, notified)
    reload(site, program)
    assert wait_for(lambda: notified.words() == ["READY", "RELOADING", "READY"]), notified.said
    rewrite(site, "[roster]", "[roster]\nhash = none")
    reload(site, program, WRONG)
    assert wait_for(lambda: notified.words() == ["READY", "RELOADING", "READY", "RELOADING", "READY"]), notified.said
    assert site.stop(program) == 0
    assert notified.words() == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]
    times = [int(said["MONOTONIC_USEC"]) for said in notified.said if "RELOADING" in said]
    assert began_us < times[0] < times[1] < time.monotonic() * 1e6
    texts = [said["STATUS"] for said in notified.said if "STATUS" in said]
    assert texts[0] == "serving" and "read again" in texts[1]
    assert "old configuration" in texts[2] and site.conf_path + ":" in texts[2]
    listener.close()
    notified.close()
