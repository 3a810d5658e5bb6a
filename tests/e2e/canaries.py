"""Secrets that can be told apart, and the search for them: in clear text, base64 and hexadecimal, in every file that was
written, every answer, every output, and the command line and environment of every process."""
import base64
import contextlib
import functools
import os
import re
import secrets
import sqlite3
import threading

from support import TOP, written_files

BEGIN = "CaNaRy"
# Of each form so much is looked for first: all canaries begin alike.
STEM = 6


def secret_options():
    """(section, option) of every secret, out of the programs' own table."""
    with open(os.path.join(TOP, "common/config_options.c"), encoding="utf-8") as f:
        return re.findall(r'\{"(\w+)", "(\w+)", CONFIG_SECRET_VALUE,', f.read())


def canary():
    return BEGIN + secrets.token_hex(12)


@functools.lru_cache(maxsize=None)
def forms(value):
    """The bytes by which a secret would be found: as it is (percent signs and JSON change nothing of it), in base64 at each
    of the three places where it can begin in a longer text, in hexadecimal."""
    raw = value if isinstance(value, bytes) else value.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw)
        found.append(text[4 if shift else 0:len(text) // 4 * 4 - 4])
    return found


def is_in(content, value):
    return any(form in content for form in forms(value))


class Kept:
    """All secrets there are."""

    def __init__(self):
        self.of, self.extra = {(section, name): canary() for section, name in secret_options()}, []
        self.stems = {form[:STEM] for value in self.of.values() for form in forms(value)}

    def add(self, value):
        if value and value not in self.extra:
            self.stems = self.stems | {form[:STEM] for form in forms(value)}
            self.extra.append(value)
        return value

    def all(self):
        return [*self.of.values(), *self.extra]

    def section(self, kind):
        return {name: value for (section, name), value in self.of.items() if section == kind}

    def names_in(self, content, but=()):
        """What of it stands in these bytes."""
        content = content if isinstance(content, bytes) else content.encode()
        if not any(stem in content for stem in self.stems):
            return []
        named = [("%s.%s" % key, value) for key, value in self.of.items()]
        named += [("extra %d" % i, value) for i, value in enumerate(self.extra)]
        return [name for name, value in named if value not in but and is_in(content, value)]

    def note_tokens(self, ratings):
        """Talview's token is made by the stand-in; its one place says which it is."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(
                sqlite3.connect("file:%s?mode=ro" % ratings, timeout=5, uri=True)) as db:
            for (token,) in db.execute("SELECT token FROM logins"):
                self.add(token)

    def in_files(self, folder, own_places):
        """[(file, secret)] of what stands where it must not, and the names of all files; own_places(path) gives the secrets
        that a file may have."""
        found, names = [], set()
        for path, content in written_files(folder):
            inside = os.path.relpath(path, folder)
            names.add(inside)
            found += [(inside, name) for name in self.names_in(content, own_places(inside))]
        return found, names


class Watcher(threading.Thread):
    """Looks at the command line and the environment of every process, again and again. The stand-in is the other side;
    its numbers are in `others`. A CGI process has the request in its environment: that is what CGI is."""

    def __init__(self, kept, every=0.03):
        super().__init__(daemon=True)
        self.every, self.kept, self.found, self.seen, self.others, self.ended = every, kept, set(), set(), set(), threading.Event()

    def look(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) in self.others:
                continue
            for name in ("cmdline", "environ", "comm"):
                try:
                    with open("/proc/%s/%s" % (pid, name), "rb") as f:
                        content = f.read()
                except OSError:
                    continue
                self.seen.add(content.split(b"\0")[0].split(b"/")[-1])
                if name == "environ" and re.search(rb"(^|\0)GATEWAY_INTERFACE=", content):
                    continue
                if self.kept.names_in(content):
                    self.found.add((name, content.split(b"\0")[0]))

    def run(self):
        while not self.ended.wait(self.every):
            self.look()

    def end(self):
        self.ended.set()
        self.join()
