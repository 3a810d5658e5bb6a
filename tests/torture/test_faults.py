"""Faults at some calls of the storage path; tests/torture/faults.py tries each."""
import os
import re
import shutil
import subprocess

import pytest

from test_kills import HERE, PYTHON, environment


@pytest.mark.parametrize("program, state", [("examjoint", "rollback"), ("proview", "used")])
def test_some_faults(program, state):
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    done = subprocess.run([PYTHON, os.path.join(HERE, "faults.py"), "--program", program, "--state", state, "--most", "1"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout
    count, = re.findall(r"^faults: (\d+) points, 0 lost, 0 doubled, 0 broken$", done.stdout, re.M)
    assert int(count) > 30, done.stdout
