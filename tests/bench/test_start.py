"""The benchmark of an exam's start works: six seconds of it. No time is judged."""
import json
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import HERE, environment  # noqa: E402
from parts.start import Start, inversions, share  # noqa: E402
from support import BUILD, PATIENCE, PYTHON  # noqa: E402


def test_the_order_of_answers():
    assert inversions([(0, 1), (1, 2), (2, 3), (3, 4)]) == 0
    assert inversions([(0, 4), (1, 3), (2, 2), (3, 1)]) == 1
    assert inversions([(0, 1), (1, 3), (2, 2)]) == pytest.approx(1 / 3)
    assert inversions([]) == inversions([(0, 1)]) == 0


def test_the_share_of_times():
    assert share(range(1, 101), 0.99) == 100 and share(range(1, 101), 0.5) == 51
    assert share([7], 0.99) == 7


@pytest.mark.skipif(PATIENCE > 1, reason="a rush under valgrind is none")
def test_a_short_start(tmp_path):
    done = subprocess.run([PYTHON, os.path.join(HERE, "bench.py"), "--build", BUILD, "--mode", "short", "--parts", "start",
                           "--out", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment(), check=False)
    assert done.returncode == 0, done.stdout
    with open(tmp_path / "bench.json", encoding="utf-8") as f:
        part = json.load(f)["parts"]["start"]
    found = part["figures"]
    assert part["wrong"] == [] and found["admissions_lost"] == 0
    assert found["verified"] > 0 and found["told_later"] > 0, "no rush"
    # Each candidate's last answer is one or the other.
    assert found["verified"] <= found["candidates"] and found["told_later"] + found["verified"] >= found["candidates"]
    assert len(part["targets"]) == 6 and all(target["got"] is not None for target in part["targets"])


def test_a_lost_admission_is_told():
    class Site:
        @staticmethod
        def rows(*_):
            return [{"event": "admitted_respondent", "respondent_id": "a0"},
                    {"event": "verify_respondent", "outcome": "valid"}]
    part = Start(None)
    part.site, part.candidates = Site, [[0, 1, "valid", None, 0]]
    part.admissions = [[0, 1, "valid", None, 0]]
    part.look()
    assert part.wrong == [] and part.lost == 0
    part.admissions.append([0, 1, "valid", None, 1])
    part.candidates.append([0, 1, "valid", None, 1])
    part.admissions.append([0, 1, "status 429", None, 2])
    part.look()
    assert part.lost == 1
    assert [word for what in part.wrong for word in ("429", "1 acknowledged", "1 verifications") if word in what] == \
        ["429", "1 acknowledged", "1 verifications"]
