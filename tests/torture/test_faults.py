"""Faults at some calls of the storage path; tests/torture/faults.py tries each."""
import os
import re
import shutil
import subprocess

import pytest

from test_kills import HERE, PYTHON, environment

# One of each: plain CGI with both journals, several at once, the long-running program, a command and the worker.
SERIES = ("cgi event rollback", "many callback used", "served throttled", "killed callback",
          "command import", "command config")


@pytest.mark.parametrize("series", SERIES)
def test_some_faults(series):
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    if os.environ.get("EXAMHOOK_WRAP"):
        pytest.skip("a library in front of the C library, and valgrind, do not go together")
    done = subprocess.run([PYTHON, os.path.join(HERE, "faults.py"), "--only", series, "--most", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout
    found, = re.findall(r"^torture-faults: (\d+) points, (\d+) accepted, 0 lost, 0 doubled, 0 not whole$", done.stdout, re.M)
    assert all(int(count) > 5 for count in found), done.stdout
