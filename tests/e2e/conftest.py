"""The site that most end-to-end tests share, with the accounts of accounts.py."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import support  # noqa: E402
from accounts import CONF, rosters  # noqa: E402


@pytest.fixture(scope="session")
def site():
    one = support.Site(CONF, rosters())
    try:
        one.start()
        yield one
    finally:
        one.close()


@pytest.fixture
def make_site():
    """Sites of a test's own, closed at its end."""
    made = []

    def make(*arguments, **how):
        made.append(support.Site(*arguments, **how))
        return made[-1]
    yield make
    for one in made:
        one.close()
