"""Slow, idle and rude clients at a small size; tests/torture/load.py does the whole."""
import os
import re
import resource
import shutil
import subprocess

import pytest

from test_kills import HERE, PYTHON, environment


def test_events_beside_slow_idle_and_rude_clients():
    if not shutil.which("slowhttptest"):
        pytest.skip("not installed: slowhttptest")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048:
        pytest.skip("not enough open files for so many connections")
    done = subprocess.run([PYTHON, os.path.join(HERE, "load.py"), "--seconds", "2", "--lead", "6", "--connections", "400", "--kinds",
                           "everything"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
                          timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    count, = re.findall(r"^torture-load: 1 kinds, (\d+) authentic events, 0 refused, 0 lost, worst p99 \d+ ms "
                        r"\(quiet \d+ ms\)$", done.stdout, re.M)
    assert int(count) == 2 * 50, done.stdout
    for what in (r"idle: .*open at the end \d\d", r"wrong-many: .*401 \d\d", r"slow-headers: \d\d", r"slow-bodies: \d\d"):
        assert re.search(what, done.stdout), done.stdout
