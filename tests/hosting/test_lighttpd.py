"""What deploy/hosting/lighttpd.md says besides: lighttpd starts the programs itself, and writes no body to a file."""
import os
import re

import pytest

import support
import table
from player import OK, Player
from ways import TOP, substitute
from ways_lighttpd import Lighttpd

CASES = ("valid candidate with metadata", "admission", "eight repeats at the same time are one event", "GET on examjoint",
         "callback: path token", "a rush of verifications beside admissions", "no secret of the whole run is in any file")


class Spawning(Lighttpd):
    """With the lines of the page's part "Without systemd" in the shipped configuration."""
    loop = False

    def write_server(self):
        super().write_server()
        with open(os.path.join(TOP, "deploy/hosting/lighttpd.md"), encoding="utf-8") as f:
            lines = re.search(r"## Without systemd.*?```\n(.*?)```", f.read(), re.S).group(1)
        lines = lines.replace("/usr/local/lib/examhook", support.BUILD).replace("/etc/examhook/examhook.conf", self.conf_path)
        for program in ("examjoint", "proview"):
            socket = '"socket" => "%s",' % self.path("sock", program + ".sock")
            substitute(self.path("lighttpd/examhook.conf"), [(socket, socket + "\n" + lines.replace("examjoint.fcgi",
                                                                                                    program + ".fcgi"))])

    def start(self):
        self.start_server()
        return self

    def program_log(self, program):
        return self.parts["lighttpd"].log() if "lighttpd" in self.parts else ""


@pytest.fixture(scope="module")
def spawning():
    if Spawning.missing():
        pytest.skip("SKIP: " + Spawning.missing())
    way = Spawning({})
    try:
        yield way.start()
    finally:
        way.close()


@pytest.mark.parametrize("name", CASES)
def test_lighttpd_starts_the_programs(spawning, name):
    (case,) = [case for case in table.load().cases if case.name == name]
    assert Player(spawning, case).play() == OK
