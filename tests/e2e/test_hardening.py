"""PIE, full RELRO, stack protector, FORTIFY 3, no executable stack: in the files that were built."""
import os
import platform
import resource
import shlex
import signal
import subprocess

import pytest

import hardening
from support import BUILD, TOP

PROGRAMS = ("examjoint.fcgi", "proview.fcgi", "examhook")
# Writes `argv[1]` bytes behind `malloc(argv[1])`: only level 3 knows a size that is not known until it runs.
PROBE = """
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
    size_t size = strtoul(argv[argc - 1], NULL, 10);
    volatile size_t more = size + 64;
    char *room = malloc(size);
    if (!room)
        return 1;
    memset(room, 'x', more);
    return room[size / 2] != 'x';
}
"""
PLAIN = """
#include <stdio.h>
#ifdef BOTH
__asm__(".section .both,\\"awx\\"\\n.zero 16\\n.text");
#endif
int main(void)
{
    puts("x");
    return 0;
}
"""


@pytest.fixture(params=PROGRAMS)
def program(request):
    path = os.path.join(BUILD, request.param)
    if hardening.sanitized(path):
        pytest.skip("a build with a sanitizer, which is never installed")
    return path


def test_the_programs_are_hardened(program):
    assert hardening.dynamic_faults(program) == []


def test_every_file_was_compiled_with_the_switches(program):
    """gcc notes them; clang does not."""
    noted = hardening.producers(program)
    if not noted:
        pytest.skip("the compiler noted no switches in the program, or it was stripped")
    wanted = ["-fstack-protector-strong", "-fstack-clash-protection", "-fPIE"]
    if platform.machine() == "x86_64":
        wanted.append("-fcf-protection=full")
    lacking = [(line, switch) for line in noted for switch in wanted if switch not in line.split()]
    assert not lacking, lacking


def flags_of_the_makefile():
    # Of a make that runs this test, nothing: neither its switches nor what it was told of a sanitizer.
    told = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "SANITIZE", "CFLAGS")
    clean = {k: v for k, v in os.environ.items() if k not in told}
    done = subprocess.run(["make", "-s", "-C", TOP, "--no-print-directory", "--eval",
                           "print-flags: ; @echo $(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS))", "print-flags"],
                          stdout=subprocess.PIPE, text=True, env=clean, check=True)
    return shlex.split(done.stdout)


def outcome(folder, command):
    source, made = os.path.join(folder, "probe.c"), os.path.join(folder, "probe")
    with open(source, "w", encoding="ascii") as f:
        f.write(PROBE)
    subprocess.run([*command, "-pie", "-o", made, source], check=True, stderr=subprocess.DEVNULL)
    return subprocess.run([made, "32"], cwd=folder, stderr=subprocess.PIPE, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))


def test_fortify_3_is_in_effect(tmp_path):
    """The same small mistake, compiled as the programs are, is stopped, and at level 2 it is not."""
    flags = flags_of_the_makefile()
    assert [word for word in flags if "FORTIFY" in word] == ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
    stopped = outcome(tmp_path, flags)
    assert stopped.returncode == -signal.SIGABRT and hardening.FORTIFIED in stopped.stderr, stopped
    passed = outcome(tmp_path, [word.replace("SOURCE=3", "SOURCE=2") for word in flags])
    assert passed.returncode == 0, passed
    # Whatever the compiler or a package's build had set before.
    again = outcome(tmp_path, [flags[0], "-D_FORTIFY_SOURCE=1", *flags[1:]])
    assert again.returncode == -signal.SIGABRT, again


@pytest.mark.parametrize("switches, fault", [
    (["-no-pie", "-fno-pie"], "not position independent"),
    (["-pie", "-fPIE", "-Wl,-z,norelro"], "no full RELRO"),
    (["-pie", "-fPIE", "-Wl,-z,lazy"], "no full RELRO"),
    (["-pie", "-fPIE", "-Wl,-z,execstack"], "its stack can be executed"),
    (["-pie", "-fPIE", "-Wl,-z,noseparate-code"], "its headers can be executed"),
    (["-pie", "-fPIE", "-DBOTH"], "memory that is written and executed"),
    (["-pie", "-fPIE", "-Wl,-rpath,/tmp"], "it changes its own code, or looks for libraries in folders of its own"),
    (["-pie", "-fPIE", "-fno-stack-protector"], "no stack protector"),
    (["-pie", "-fPIE", "-U_FORTIFY_SOURCE"], "no fortified calls"),
])
def test_what_is_not_hardened_is_noticed(tmp_path, switches, fault):
    source, made = tmp_path / "plain.c", tmp_path / "plain"
    source.write_text(PLAIN)
    subprocess.run([os.environ.get("CC", "cc"), "-Wl,-z,relro", "-Wl,-z,now", *switches, "-o", made, source], check=True,
                   stderr=subprocess.DEVNULL)
    assert fault in hardening.dynamic_faults(made)
