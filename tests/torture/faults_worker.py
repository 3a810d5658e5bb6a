"""`examhook work --once` against the stand-in of Talview: a fault at each call of its storage path, then a good run."""
import os
import shutil
import signal
import sqlite3
import subprocess

from faults_place import AREAS, whole # this one also makes tests/e2e known
from faulty import KILLS, WHOLE, Faulty, Tally, chosen, try_points
from secret_world import SecretWorld
from worker_support import environment

SESSIONS = 2
# A kill between reply and store leaves a lease behind, which must run out before the next run may ask again.
SETTINGS = {"connect_timeout": "2s", "request_timeout": "2s", "lease": "6s", "retry_first": "1s", "retry_max": "1s", "login_pause": "1s"}
# For one session: asked once more after a reply that could not be kept. And one login more for the same reason.
CALLS_MOST, LOGINS_MOST = 2, 2


class Working(SecretWorld):
    def __init__(self, library):
        super().__init__(SETTINGS)
        self.kept = self.path("kept") # of which the programs know nothing
        self.uuids = self.callbacks(SESSIONS)
        self.faulty = Faulty(self.folder, os.path.realpath(self.path("store")), library, say=False)
        shutil.copytree(self.path("store"), self.kept)

    def again(self):
        shutil.rmtree(self.path("store"))
        shutil.copytree(self.kept, self.path("store"))
        self.control(reset=True)

    def work(self, faulty):
        done = subprocess.run(self.command("work", "--once"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120, check=False,
                              cwd=self.folder, env=environment(TMPDIR=self.path("tmp"), **(self.faulty.environment if faulty else {})))
        self.remains.look_at("work --once", done.stderr)
        return done

    def pass_time(self):
        """What a dead worker took, and what waits for its turn, is due: instead of sleeping through it."""
        connection = sqlite3.connect(self.path("store/ratings/ratings.db"), timeout=10)
        with connection:
            connection.execute("UPDATE sessions SET next_attempt_at = 1 WHERE next_attempt_at IS NOT NULL AND state = 'pending'")
            connection.execute("UPDATE sessions SET lease_until = 1 WHERE lease_until IS NOT NULL")
            connection.execute("UPDATE logins SET lease_until = 1, blocked_until = 1")
        connection.close()

    def learn(self):
        self.again()
        self.faulty.listen()
        done = self.work(True)
        assert done.returncode == 0, done.stderr
        assert self.in_state(*self.uuids), self.sessions()
        return self.faulty.heard()

    def try_point(self, tally, n, call, fault):
        self.again()
        self.faulty.arm(n, fault)
        done, wrong = self.work(True), None
        if not self.faulty.rest():
            return None # which calls are made depends a little on the order of the replies
        tally.point(call, fault)
        leak = tally.searched(fault, self.leaks())
        if fault in KILLS:
            wrong = None if done.returncode == -signal.SIGKILL else "was not killed: %d" % done.returncode
        elif done.returncode < 0:
            wrong = "ended by signal %d: %s" % (-done.returncode, done.stderr[-300:])
        for _ in range(3):
            if self.in_state(*self.uuids):
                break
            self.pass_time()
            again = self.work(False)
            if again.returncode:
                wrong = wrong or "the next run failed: %s" % again.stderr[-300:]
        return leak or self.leaks() or self.judge(tally) or wrong

    def judge(self, tally):
        rows, counts = self.sessions(), self.counts()
        tally.accepted += SESSIONS
        for session in self.uuids:
            row = rows.get(session)
            if not row or row["state"] != "rated" or not row["rating"]:
                tally.lost += 1
                return "not rated: %s" % row
            if len(row["history"]) != 1:
                tally.doubled += 1
                return "rated %d times: %s" % (len(row["history"]), row)
        if set(rows) != set(self.uuids):
            return "sessions that nobody knows: %s" % sorted(rows)
        if counts["logins"] > LOGINS_MOST or max(counts["by_uuid"].values()) > CALLS_MOST:
            return "too many calls: %s" % counts
        broken = [area for area, name in AREAS.items() if area in ("proview", "ratings") and
                  whole(self.path("store", area, name + ".db")) != "ok"]
        tally.broken += bool(broken)
        return "not whole: %s" % broken if broken else None


def try_worker(library, most, share=WHOLE):
    world, tally = Working(library), Tally()
    try:
        calls = world.learn()
        points = chosen(calls, most, share)
        try_points(tally, points, world.try_point)
    finally:
        world.close()
    return "examhook work" + str(share), tally, "%d of %d calls" % (len(points), len(calls))
