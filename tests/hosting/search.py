"""The search for secrets in what a way of hosting writes: after each case in all logs, of the web server and of our programs, and
before it ends in every file that there is but the configuration itself."""
import csv
import os
import re

from accounts import rosters
from canaries import Kept, canary, forms, secret_options

# So much of what was read before is read again: a secret may have come in two pieces.
OVERLAP = 1024


def more_accounts(conf):
    """What a configuration lacks for every secret option to be in it; each is a canary. Nobody asks for this account."""
    lacking = [name for section, name in secret_options() if section == "proview" and not re.search(r"^%s = " % name, conf, re.M)]
    return "\n[proview fetched]\nlogin_url = https://127.0.0.1:1/login\nsession_url = https://127.0.0.1:1/sessions\n" + "".join(
        "%s = %s\n" % (name, canary()) for name in dict.fromkeys(["path_token", *lacking]))


def secrets_in(conf):
    """{option: [values]} of all secrets of a configuration."""
    return {name: re.findall(r"^%s = (\S+)$" % name, conf, re.M) for _, name in secret_options()}


def passwords():
    """Of all candidates, in plain text: those of the rosters, and of whom the rosters have a hash."""
    return {"horse bcrypt", "horse yescrypt"} | {
        row["password"] for _, text in rosters() for row in csv.DictReader(text.splitlines()) if row.get("password")}


class Search:
    def __init__(self, way):
        self.way, self.kept, self.read = way, Kept({}), {}
        with open(way.conf_path, encoding="utf-8") as f:
            found = secrets_in(f.read())
        assert all(found.values()), "no canary for %s" % [name for name, values in found.items() if not values]
        for value in [*sum(found.values(), []), *sorted(passwords())]:
            self.kept.add(value)
        for value in found["basic_password"] + found["basic_password_previous"]:
            self.kept.add("talview:" + value)

    def skipped(self, path):
        """The configuration, which has them all, and programs."""
        return os.path.samefile(path, self.way.conf_path) or path.startswith(self.way.path("lib"))

    def files(self):
        for where, _, names in os.walk(self.way.folder):
            for name in names:
                path = os.path.join(where, name)
                try:
                    if os.path.isfile(path) and not self.skipped(path):
                        yield path
                except FileNotFoundError: # removed just then
                    pass

    def logs(self):
        """Every file that is no store's."""
        store = self.way.path("store") + "/"
        return [path for path in self.files() if not path.startswith(store)]

    def new_in(self, path):
        """What was written since it was looked at last."""
        try:
            with open(path, "rb") as f:
                size, inode = os.fstat(f.fileno()).st_size, os.fstat(f.fileno()).st_ino
                before = self.read.get(path, (0, inode))
                begin = max(before[0] - OVERLAP, 0) if before[1] == inode and size >= before[0] else 0
                f.seek(begin)
                content = f.read()
                self.read[path] = (begin + len(content), inode)
                return content if begin + len(content) != before[0] or not before[0] else b""
        except FileNotFoundError:
            return b""

    def found(self, paths):
        return [(os.path.relpath(path, self.way.folder), self.kept.extra[int(name.split()[-1])])
                for path in paths for name in self.kept.names_in(self.new_in(path))]

    def after_case(self):
        found = self.found(self.logs())
        assert not found, "a secret is in a log: %s" % found

    def at_the_end(self):
        """Everything, from its first byte; and that this finds in each log what is put there."""
        self.read.clear()
        found = self.found(self.files())
        assert not found, "a secret is in a file: %s" % found
        logs = [path for path in self.logs() if re.search(r"log$", path)]
        assert {os.path.relpath(path, self.way.folder) for path in logs} >= set(self.way.logs), logs
        for n, path in enumerate(logs):
            value = self.kept.extra[n % len(self.kept.extra)]
            with open(path, "ab") as f:
                f.write(b"planted: " + forms(value)[n % len(forms(value))] + b"\n")
            assert self.found([path]), "what was planted in %s was not found" % path
