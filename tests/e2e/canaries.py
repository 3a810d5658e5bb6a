"""Secrets that can be told apart, and the search for them: in clear text and in every form in which a program could write
them, in every file that was written, every answer, every output, and the command line and environment of every process."""
import base64
import contextlib
import functools
import json
import os
import re
import resource
import secrets
import shutil
import sqlite3
import tempfile
import threading
import urllib.parse

from support import TOP, written_files

BEGIN = "CaNaRy"
# Of each form so much is looked for first: all canaries begin alike.
STEM = 6
PIECE = 4096


def secret_options():
    """(section, option) of every secret, out of the programs' own table."""
    with open(os.path.join(TOP, "common/config_options.c"), encoding="utf-8") as f:
        return re.findall(r'\{"(\w+)", "(\w+)", CONFIG_SECRET_VALUE,', f.read())


def canary():
    return BEGIN + secrets.token_hex(12)


@functools.lru_cache(maxsize=None)
def forms(value):
    """The bytes by which a secret would be found: as it is, in hexadecimal, in base64 at each of the three places where it
    can begin in a longer text, in an address, in JSON, and in the escapes of a web server's log."""
    raw = value if isinstance(value, bytes) else value.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw)
        # Whole groups of three bytes, none of which has a byte of something else.
        inner = text[4 if shift else 0:(shift + len(raw)) // 3 * 4]
        found += [inner, inner.translate(bytes.maketrans(b"+/", b"-_"))]
    found += [urllib.parse.quote(raw, safe="").encode(), urllib.parse.quote_plus(raw).encode()]
    found += ["".join(each % byte for byte in raw).encode() for each in ("%%%02x", "%%%02X")]
    # Of what is no plain letter alone.
    found += ["".join(chr(byte) if 31 < byte < 127 else each % byte for byte in raw).encode() for each in ("\\x%02x", "\\x%02X")]
    with contextlib.suppress(UnicodeDecodeError):
        found.append(json.dumps(raw.decode())[1:-1].encode())
    return [form for form in dict.fromkeys(found) if len(form) >= STEM]


def is_in(content, value):
    return any(form in content for form in forms(value))


class Kept:
    """All secrets there are."""

    def __init__(self, of=None):
        self.of, self.extra = {(section, name): canary() for section, name in secret_options()} if of is None else of, []
        self.stems = {form[:STEM] for value in self.of.values() for form in forms(value)}
        self.clean = set() # pieces of files in which there is none: the same are read again and again

    def add(self, value):
        if value and value not in self.extra:
            self.stems = self.stems | {form[:STEM] for form in forms(value)}
            self.clean = set()
            self.extra.append(value)
        return value

    def all(self):
        return [*self.of.values(), *self.extra]

    def section(self, kind):
        return {name: value for (section, name), value in self.of.items() if section == kind}

    def lines(self, kind, but=()):
        """Of a section of the configuration: all its secrets, and what belongs to them."""
        own = {"proview": "header_name = X-Proview-Secret\nbasic_user = talview\n"}.get(kind, "")
        return own + "".join("%s = %s\n" % pair for pair in self.section(kind).items() if pair[0] not in but)

    def basic(self, which=""):
        return "Basic " + base64.b64encode(("talview:" + self.of["proview", "basic_password" + which]).encode()).decode()

    def headers(self, which=""):
        """What the vendors send, the one's and the other's; a program looks at its own."""
        return [("x-client-secret", self.of["examjoint", "client_secret" + which]),
                ("x-proview-secret", self.of["proview", "header_secret" + which]), ("authorization", self.basic(which))]

    def cgi(self, which=""):
        """The same, as a CGI process has it."""
        return {"HTTP_" + name.upper().replace("-", "_"): value for name, value in self.headers(which)}

    def may_have_one(self, content):
        """Whether a secret may be in these bytes: that some form of one begins there."""
        clean, stems = self.clean, self.stems # in this order: add() does it in the other
        for at in range(0, len(content), PIECE):
            piece = content[at:at + PIECE + STEM - 1]
            if hash(piece) not in clean:
                if any(stem in piece for stem in stems):
                    return True
                clean.add(hash(piece))
        return False

    def names_in(self, content, but=()):
        """What of it stands in these bytes."""
        content = content if isinstance(content, bytes) else content.encode()
        if not self.may_have_one(content):
            return []
        named = [("%s.%s" % key, value) for key, value in self.of.items()]
        named += [("extra %d" % i, value) for i, value in enumerate(self.extra)]
        return [name for name, value in named if value not in but and is_in(content, value)]

    def note_tokens(self, ratings, mode="ro"):
        """Talview's token is made by the stand-in; its one place says which it is."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(
                sqlite3.connect("file:%s?mode=%s" % (ratings, mode), timeout=5, uri=True)) as db:
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


def key_forms(folder):
    """Of the identity keys below this folder: they are made by the programs, and are to be in their own files alone."""
    found = []
    for where, _, names in os.walk(folder):
        if "identity.key" in names and os.path.getsize(os.path.join(where, "identity.key")) >= 32:
            with open(os.path.join(where, "identity.key"), "rb") as f:
                found += forms(f.read())
    return list(dict.fromkeys(found))


class Watcher(threading.Thread):
    """Looks at the command line and the environment of every process, again and again. The stand-in is the other side;
    its numbers are in `others`. A CGI process has the request in its environment: that is what CGI is."""

    def __init__(self, kept, every=0.03):
        super().__init__(daemon=True)
        self.every, self.kept, self.found, self.seen, self.others, self.ended = every, kept, set(), set(), set(), threading.Event()
        self.lines = set() # the command lines that were looked at

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
                if name == "cmdline":
                    self.lines.add(content)
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


class Remains:
    """What programs leave in a folder, say and show while they run; none of it may have a secret, but where its place is.
    examhook.conf has all, and the stores (of which a test may keep copies) the hashes of passwords and Talview's token.
    `store`: the one in which tokens come to be. `others`: processes of the other side, which run already."""

    def __init__(self, kept, folder, store=None, hashes=(), others=()):
        self.kept, self.folder, self.store, self.hashes, self.tokens, self.said = kept, folder, store, list(hashes), [], []
        self.places = [] # (regular expression, the secrets that such a file may have), where there are more
        self.watcher = Watcher(kept, 0.2)
        self.watcher.others.update(others)
        self.watcher.start()

    def add_token(self, token):
        self.tokens.append(self.kept.add(token))
        return token

    def note_tokens(self):
        """Talview's, of the store that stands in the configuration. Out of a copy: whoever opens such a file may change what
        lies beside it."""
        if not self.store:
            return
        known = len(self.kept.extra)
        with tempfile.TemporaryDirectory(prefix="examhook-token-") as aside:
            for name in ("ratings.db", "ratings.db-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(os.path.join(self.folder, self.store, "ratings", name), os.path.join(aside, name))
            self.kept.note_tokens(os.path.join(aside, "ratings.db"), "rwc")
        self.tokens += self.kept.extra[known:]

    def look_at(self, what, said):
        """An answer, or the output of a program; returns it."""
        content = said if isinstance(said, bytes) else str(said or "").encode()
        self.said += [(str(what), name) for name in self.kept.names_in(content)]
        return said

    def own_places(self, inside):
        if inside == "examhook.conf":
            return self.kept.all()
        for pattern, values in self.places:
            if re.search(pattern, inside):
                return values
        if re.search(r"(^|/)roster/[^/]+$", inside):
            return self.hashes
        return self.tokens if re.search(r"(^|/)ratings/ratings\.db(-wal|-journal)?$", inside) else ()

    def leaks(self, *folders, keys=("identity.key",)):
        """Where a secret is that is not in its place: in the folder, or in some of it, and in what was said and shown."""
        self.note_tokens()
        found, key = list(self.said), key_forms(self.folder)
        for part in folders or [self.folder]:
            for path, content in written_files(part):
                inside = os.path.relpath(path, self.folder)
                found += [(inside, name) for name in self.kept.names_in(content, self.own_places(inside))]
                if os.path.basename(path) not in keys and any(form in content for form in key):
                    found.append((inside, "identity.key"))
                if os.path.basename(path).startswith("core"):
                    found.append((inside, "a core file"))
        return found + sorted(self.watcher.found)

    def must_be_none(self, *folders):
        found = self.leaks(*folders)
        assert not found, "a secret is where it must not be: %s" % found

    def end(self):
        """The last look at the processes."""
        if not self.watcher.ended.is_set():
            self.watcher.look()
            self.watcher.end()


def let_cores_be_written():
    """If a program lets them: in the working folder, then."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
