"""The pages on nginx with fcgiwrap, on lighttpd and on Apache, each from nothing but Debian to a stored event."""
import os

import pytest

import pages
from machine import TOP


@pytest.mark.parametrize("name", ["nginx-fcgiwrap", "lighttpd", "apache-proxy-fcgi", "apache-fcgid", "apache-cgi"])
def test_page(make_machine, name):
    one = make_machine()
    pages.run_page(one, os.path.join(TOP, "deploy/hosting", name + ".md"))
    assert one.run("systemctl --failed --no-legend --plain").stdout == ""
    assert one.run("grep -rl the-secret-from /var/log /var/lib/examhook || true").stdout == ""
