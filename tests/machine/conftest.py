"""Machines for tests, booted within seconds. Long: `make check-machine`, and with it `make check-all`."""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in (os.path.join(os.path.dirname(HERE), "e2e"), HERE):
    if folder not in sys.path:
        sys.path.insert(0, folder)
import machine  # noqa: E402


@pytest.fixture
def make_machine():
    """make_machine(packages) gives a booted one, as many as a test wants."""
    reason = machine.unavailable()
    if reason:
        pytest.skip(reason)
    made = []

    def make(packages=()):
        made.append(machine.Machine(packages))
        return made[-1].start()
    yield make
    for one in made:
        one.stop()
