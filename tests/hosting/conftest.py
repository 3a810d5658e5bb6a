"""Every case of the table (cases/*.txt) against every way of hosting (ways.py). Each way and setting is one start of
the servers and a run of its own from its first case to its last; some of them at the same time, while pytest waits for
each result in turn. At the end: the table."""
import concurrent.futures
import os
import sys
import threading

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in (os.path.join(os.path.dirname(HERE), "e2e"), HERE):
    if folder not in sys.path:
        sys.path.insert(0, folder)

import table as cases_table  # noqa: E402
import ways as all_of_them  # noqa: E402
from player import Player  # noqa: E402
import report  # noqa: E402

TABLE = cases_table.load()
WAYS = all_of_them.all_ways()


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true",
                     help="all cases on the first way, on the others only those that are marked quick")
    parser.addoption("--at-once", type=int, default=4, help="how many of the runs at the same time")


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames and "way" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        pairs = [(way, case) for way in WAYS for case in TABLE.cases if case.quick or not quick or way is WAYS[0]]
        metafunc.parametrize("way,case", pairs, ids=["%s: %s" % (way.name, case.name) for way, case in pairs])


class Run:
    """All that was chosen, and its results."""

    def __init__(self, items, at_once):
        self.futures, self.stopping = {}, threading.Event()
        for item in items:
            if "case" in item.fixturenames and "way" in item.fixturenames:
                way, case = item.callspec.params["way"], item.callspec.params["case"]
                self.futures[way, case] = concurrent.futures.Future()
        self.pool = concurrent.futures.ThreadPoolExecutor(max(1, at_once))
        for way in WAYS:
            for setting in TABLE.settings:
                chosen = [case for chosen_way, case in self.futures if chosen_way is way and case.setting == setting]
                if chosen:
                    self.pool.submit(self.play_way, way, TABLE.settings[setting], chosen)

    def play_way(self, way, setting, chosen):
        lacking = way.missing()
        mine = []
        for case in chosen:
            reason = lacking or case.skips.get(way.name)
            if reason:
                self.futures[way, case].set_exception(Skipped(reason))
            else:
                mine.append(case)
        if mine:
            self.play_setting(way, setting, mine)

    def play_setting(self, way, setting, chosen):
        """One start of the server, and the cases that want the same configuration."""
        hosting, left = None, list(chosen)
        try:
            hosting = way(setting)
            hosting.start()
            while left and not self.stopping.is_set():
                try:
                    result = Player(hosting, left[0]).play()
                except Exception as wrong:  # pylint: disable=broad-except
                    self.futures[way, left.pop(0)].set_exception(wrong)
                else:
                    if len(left) == 1: # what is found in the end, and what the server's end shows, belongs to the last case
                        hosting.search.at_the_end()
                        hosting.close()
                        hosting = None
                    self.futures[way, left.pop(0)].set_result(result)
        except all_of_them.CannotRun as why:
            for case in left:
                self.futures[way, case].set_exception(Skipped(str(why)))
        except BaseException as wrong:  # pylint: disable=broad-except
            for case in left:
                self.futures[way, case].set_exception(wrong)
        finally:
            if hosting:
                try:
                    hosting.close()
                except Exception:  # pylint: disable=broad-except
                    pass # another failure was told of already
            for case in left:
                if not self.futures[way, case].done():
                    self.futures[way, case].cancel()

    def close(self):
        self.stopping.set()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Skipped(Exception):
    pass


@pytest.fixture(scope="session")
def run(request):
    one = Run(request.session.items, request.config.getoption("--at-once"))
    yield one
    one.close()


RESULTS = {}


@pytest.fixture
def played(run, way, case):
    """played() waits for the case's end and gives how it went on this way: "ok" or "differs"."""
    def wait():
        name = (case.name, way.name)
        RESULTS[name] = "FAIL"
        try:
            RESULTS[name] = run.futures[way, case].result()
        except Skipped as skipped:
            RESULTS[name] = "SKIP"
            pytest.skip("SKIP: %s: %s" % (way.title, skipped))
        return RESULTS[name]
    return wait


def pytest_terminal_summary(terminalreporter):
    if RESULTS:
        terminalreporter.write("\n" + report.text_table(TABLE, WAYS, RESULTS) + "\n")


@pytest.fixture
def shipped():
    """The page that is shipped, and the results of this run so far."""
    with open(report.SHIPPED, encoding="utf-8") as f:
        return f.read(), TABLE, WAYS, RESULTS
