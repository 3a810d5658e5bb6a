"""More candidates at once than the time budget can bear. Checks are dear here and one thread makes them, so that a few
candidates are a rush on any machine."""
import concurrent.futures
import ctypes
import re
import time

import pytest

from accounts import CONF
from calls import admitted, examjoint, verify
from support import PATIENCE, unique, wait_for

PASSWORD = "horse"
CHECK_S = 0.15 # what one check is made to take here, in time of a core
BUDGET = 6 * PATIENCE
SLACK = 6 * PATIENCE # of a busy machine


@pytest.fixture(scope="module")
def hashed():
    """A hash that is dear enough on this machine."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p

    def make(rounds):
        return crypt(PASSWORD.encode(), b"$6$rounds=%d$abcdefghijklmnop$" % rounds).decode()
    shortest = CHECK_S
    for _ in range(7): # the shortest is without what else the machine does
        begun = time.thread_time()
        make(100000)
        shortest = min(shortest, time.thread_time() - begun)
    return make(min(5000000, int(100000 * CHECK_S / shortest)))


@pytest.fixture
def rushed(make_site, hashed):
    roster = "id,password_hash\n" + "".join("c%d,%s\n" % (n, hashed) for n in range(80))
    site = make_site(CONF, [("acme", roster)], verify="budget = %ds\nhash_threads = 1" % BUDGET)
    site.start()
    # So that the program knows what a check takes.
    assert wait_for(lambda: verify(site, "c0", PASSWORD).json == {}, 60)
    return site


class Ask:
    """One candidate's question: when it was asked, how long it took, and what came."""

    def __init__(self, site, who, password=PASSWORD):
        self.who, self.asked = who, time.monotonic()
        reply = verify(site, who, password)
        self.done = time.monotonic()
        assert reply.status == 200, reply
        said = reply.json.get("errorMessage", "")
        told = re.search(r"try again in (\d+) seconds", said)
        self.told, self.valid = told and int(told.group(1)), not said
        assert self.valid or self.told, said


def rush(site, count, every=0.01):
    """So many, one after the other, not waiting for answers; in their order."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        asked = []
        for n in range(count):
            asked.append(pool.submit(Ask, site, "c%d" % n))
            time.sleep(every)
        return [one.result() for one in asked]


def test_who_cannot_be_checked_in_time_is_told_early_when_to_come_back(rushed):
    before = len(rushed.events(event="verify_respondent"))
    asked = rush(rushed, 80)
    valid, told = [one for one in asked if one.valid], [one for one in asked if one.told]
    assert valid and told
    # Nobody waits longer than the budget.
    assert max(one.done - one.asked for one in asked) < BUDGET + SLACK
    rows = sorted(rushed.events(event="verify_respondent")[before:], key=lambda row: row["received_at"])
    taken = [row["outcome"] == "valid" for row in rows]
    # First come, first served: none who came later was taken in place of one who came before, but for the last few,
    # whose requests came at nearly the same instant. In which order they came the sender knows less well than who
    # got them: a busy machine carries some of them in another.
    assert all(taken[:max(1, len(valid) - 5)]), taken
    assert all(one.valid for one in asked[:max(1, len(valid) // 2)]), [one.valid for one in asked]
    # Told at once and not after the queue: before the last who waits is answered.
    last = max(one.done for one in valid)
    assert sum(one.done < last for one in told) > 0.9 * len(told)
    # Not all told the same, so that they do not come back in the same second.
    seconds = [one.told for one in told]
    assert len(set(seconds)) > 3 and max(seconds.count(s) for s in set(seconds)) < len(seconds) / 2, seconds
    assert sum(taken) == len(valid)
    assert sum(row.get("reason") == "busy" for row in rows) == len(told)


def test_asking_again_at_once_is_told_the_same_time(rushed):
    """Who asks again keeps the time that was told: it comes nearer and is not put off."""
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(Ask, rushed, "c%d" % n) for n in range(60)]
        assert wait_for(lambda: any(one.done() and one.result().told for one in waiting))
        one = next(one.result() for one in waiting if one.done() and one.result().told)
        again = [Ask(rushed, one.who) for _ in range(4)]
        for other in again:
            # The time of the answer lies behind `asked`, and before `done`, by what the machine lets us wait.
            assert other.valid or other.asked + other.told <= one.done + one.told + 2, (one.told, other.told)
        for other in waiting:
            other.result()


def test_who_comes_back_when_told_is_checked(rushed):
    """Also when others come for the first time all the while."""
    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(Ask, rushed, "c%d" % n) for n in range(50)]
        assert wait_for(lambda: any(one.done() and one.result().told for one in waiting))
        told = [one.result() for one in waiting if one.done() and one.result().told][:1]
        others = []
        while time.monotonic() < told[0].done + told[0].told:
            others.append(pool.submit(Ask, rushed, "c%d" % (50 + len(others) % 30)))
            time.sleep(0.2)
        assert Ask(rushed, told[0].who).valid
        assert not all(one.result().valid for one in others), "there was no rush any more"


def test_a_refusal_counts_as_no_failure(rushed):
    """Whoever is told to come back, however often, is not slowed down as one who guesses."""
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(Ask, rushed, "c%d" % n) for n in range(50)]
        assert wait_for(lambda: any(one.done() and one.result().told for one in waiting))
        for _ in range(12):
            Ask(rushed, "c79")
        for one in waiting:
            one.result()
    assert Ask(rushed, "c79").valid


def test_admissions_are_stored_meanwhile(rushed):
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(Ask, rushed, "c%d" % n) for n in range(50)]
        who, before = [unique() for _ in range(20)], 0
        for one in who:
            assert examjoint(rushed, admitted(one)).status == 200
            before += any(not one.done() for one in waiting)
        assert before == 20, "they came after the rush"
        for one in waiting:
            one.result()
    assert {row["respondent_id"] for row in rushed.events(event="admitted_respondent")} == set(who)
