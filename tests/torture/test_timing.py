"""`make timing` at a small size. How long something takes is not asserted here but within limits that a busy machine
keeps; that the comparison of secrets does not tell the place of the wrong byte holds on any."""
import os
import re
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import hardening  # noqa: E402
from support import BUILD, PYTHON, WRAP, environment  # noqa: E402


def test_timing():
    if WRAP or hardening.sanitized(os.path.join(BUILD, "examhook")):
        pytest.skip("times say nothing under a sanitizer or valgrind")
    done = subprocess.run([PYTHON, os.path.join(HERE, "timing.py"), "--calls", "100000", "--tries", "20", "--hash",
                           "yescrypt", "--limit", "100"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment(), timeout=300, check=False)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"timing: secret comparison \|t\| \d\.\d\d \(leaky control \d+\), unknown/known median"
                        r" [01]\.\d{3}", last), done.stdout
