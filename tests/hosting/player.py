"""Plays one case of the table against one way of hosting."""
import concurrent.futures
import fcntl
import json
import os
import re
import time
import uuid

import table
from calls import client as client_headers
from canaries import is_in
from client import Connection, send_http1, send_http2
from support import LANGUAGES, unique, wait_for, written_files

OK, DIFFERS = "ok", "differs"


class Message:
    """A request with everything filled in."""

    def __init__(self, request, names, keep):
        self.method, self.version, self.keep = request.method, request.version, keep
        self.path = names.fill(request.path)
        self.chunk, self.length, self.leave, self.pace = request.chunk, request.length, request.leave, request.pace
        self.headers = []
        for name, value in request.headers:
            self.headers += client_headers(value) if name == "as" else [(name, names.fill(value))]
        self.body = None if request.body is None else table.bytes_of(names.fill(request.body))
        if request.fill is not None:
            assert len(self.body) <= request.fill, "the body is longer than it is to be filled to"
            self.body = b" " * (request.fill - len(self.body)) + self.body
        self.behind = table.bytes_of(names.fill(request.behind))
        self.wire = None if request.wire is None else table.bytes_of(names.fill(request.wire))


class Names:
    """$name stands for a text of its own in each case that is played: a UUID when it begins with "uuid". $n is the
    number of a repeated request, $port the server's port."""

    def __init__(self, way, known=None, n=0):
        self.known = {"port": str(way.port)} if known is None else known
        self.n = n

    def numbered(self, n):
        return Names(None, self.known, n)

    def fill(self, text):
        def one(match):
            name = match.group(1)
            if name == "n":
                return str(self.n)
            # Many threads may ask at once: all get the first one's.
            return self.known.setdefault(name, str(uuid.uuid4()) if name.startswith("uuid") else unique(name + "-"))
        return re.sub(r"\$([a-z][a-z0-9]*)", one, text)


def texts_of(language):
    with open(os.path.join(LANGUAGES, language + ".txt"), encoding="utf-8") as f:
        pairs = (line.partition("=") for line in f if "=" in line and not line.startswith("#"))
        return {key.strip(): value.strip() for key, _, value in pairs}


def check_body(answer, wanted):
    """Raises AssertionError when the body is not as wanted."""
    word, _, rest = wanted.partition(" ")
    if word == "":
        return
    if word.startswith("~"):
        text = answer.body.decode("utf-8", "replace")
        assert re.search(wanted[1:], text, re.S), "the body %r does not match" % text[:300]
        return
    kind = answer.header("Content-Type")
    assert kind == "application/json", "Content-Type: %s, %r" % (kind, answer.body[:300])
    got = json.loads(answer.body)
    if word == "error":
        names = rest.split()
        assert got == dict(zip(("error", "member"), names)), got
    elif word == "valid":
        assert isinstance(got, dict) and "errorMessage" not in got, got
    elif word == "message":
        assert list(got) == ["errorMessage"] and got["errorMessage"], got
        if rest:
            language, _, key = rest.partition(".")
            pattern = re.escape(texts_of(language)[key]).replace(r"\{seconds\}", r"\d+")
            assert re.fullmatch(pattern, got["errorMessage"]), got
    else:
        assert got == json.loads(wanted), got


def check_answer(answer, expected, names):
    word, text = expected.word, names.fill(expected.text)
    if word == "has":
        name, _, pattern = text.partition(":")
        value = answer.header(name)
        if pattern.strip() == "-":
            assert value is None, "%s: %s" % (name, value)
        else:
            assert value is not None and re.fullmatch(pattern.strip(), value), "%s: %s" % (name, value)
        return
    status, _, body = text.partition(" ")
    if status == "none":
        assert answer.status == 0, answer
        return
    if not status.startswith("~"):
        assert str(answer.status) in status.split("|"), answer
    check_body(answer, body)


def part_of(row, wanted):
    """Whether the row has every member of `wanted` (a text that begins with ~ is a pattern)."""
    if isinstance(wanted, dict):
        return isinstance(row, dict) and all(name in row and part_of(row[name], value)
                                             for name, value in wanted.items())
    if isinstance(wanted, str) and wanted.startswith("~"):
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
        return bool(re.search(wanted[1:], text))
    return type(row) is type(wanted) and row == wanted


class Player:
    def __init__(self, way, case):
        self.way, self.case = way, case
        self.names = Names(way)
        self.connection, self.background, self.differed, self.held = None, [], False, {}
        self.patient = True # whether rows may still come
        self.undo = [] # what a case that ends early leaves to be put right
        self.log_from = {name: len(way.program_log(name)) for name in ("examjoint", "proview")}

    def play(self):
        """OK or DIFFERS; AssertionError when it is neither."""
        try:
            for i, step in enumerate(self.case.steps):
                following = self.case.steps[i + 1] if i + 1 < len(self.case.steps) else None
                if isinstance(step, table.Request):
                    self.request(step, isinstance(following, table.Request) and following.kept)
                else:
                    self.look(step, lambda text, word=step.word: getattr(self, "do_" + word)(text))
            for future in self.background:
                future.result()
            self.way.search.after_case()
        finally:
            if self.connection:
                self.connection.close()
            for undo, text in reversed(self.undo):
                undo(text)
        return DIFFERS if self.differed else OK

    def look(self, step, check):
        """Checks an expectation, in the form that this way has of it."""
        if self.way.name not in step.differs:
            try:
                check(step.text)
            except AssertionError as wrong:
                raise AssertionError("%s: %s %s: %s" % (step.where, step.word, step.text, wrong)) from None
            return
        instead, reason = step.differs[self.way.name]
        try:
            check(instead)
        except AssertionError as wrong:
            raise AssertionError("%s: neither as expected nor as declared (%s, %s): %s" % (
                step.where, instead, reason, wrong)) from None
        self.patient = False
        try:
            check(step.text)
        except AssertionError:
            self.differed = True
            return
        finally:
            self.patient = True
        raise AssertionError("%s: the declared difference is gone: %s" % (step.where, reason))

    # --- Requests ----------------------------------------------------------------------------------------

    def request(self, request, keep):
        if request.background:
            pool = concurrent.futures.ThreadPoolExecutor(request.times)
            self.background += [pool.submit(self.one, request, n, False) for n in range(request.times)]
            pool.shutdown(wait=False)
        elif request.at_once:
            with concurrent.futures.ThreadPoolExecutor(request.times) as pool:
                for future in [pool.submit(self.one, request, n, False) for n in range(request.times)]:
                    future.result()
        elif request.leave == "after":
            self.leave_after(request)
        else:
            for n in range(request.times):
                self.one(request, n, keep or n + 1 < request.times and request.kept)

    def one(self, request, n, keep):
        names = self.names.numbered(n)
        message = Message(request, names, keep)
        begun = time.monotonic()
        if request.version == "2":
            answer = send_http2(self.way, message)
        else:
            if not self.connection or not request.kept:
                connection = Connection(self.way, request.plaintext)
            else:
                connection, self.connection = self.connection, None
            answer = send_http1(connection, message)
            if keep and "close" not in (answer.header("Connection") or "").lower(): # else the next one makes its own
                self.connection = connection
            elif answer:
                connection.close()
        took = time.monotonic() - begun
        for expected in request.expected:
            if expected.word == "within":
                limit = float(expected.text) * self.way.patience
                assert took < limit, "%s: it took %.1f s" % (expected.where, took)
            else:
                self.look(expected, lambda text, e=expected: check_answer(
                    answer, table.Step(e.word, text, e.where), names))

    def leave_after(self, request):
        """The client is gone before the request could be answered: meanwhile the store is held."""
        program = "proview" if "/proview/" in request.path else "examjoint"
        self.do_hold(program)
        try:
            self.one(request, 0, False)
            time.sleep(0.2)
        finally:
            self.do_release(program)

    # --- The other steps ---------------------------------------------------------------------------------

    def do_rows(self, text):
        count, _, rest = text.partition(" ")
        wanted, quarantined = re.subn(r"^quarantined ", "", rest)
        wanted = json.loads(self.names.fill(wanted))
        options = ["--quarantined"] if quarantined else []

        def found():
            rows = [row for row in self.way.rows("events", "--json", *options) if part_of(row, wanted)]
            return rows if len(rows) != int(count) else None
        for _ in range(40 * self.way.patience if int(count) and self.patient else 1):
            rows = found()
            if rows is None:
                return
            time.sleep(0.1)
        raise AssertionError("%d rows: %s" % (len(rows), json.dumps(rows)[:1000]))

    def do_nowhere(self, text):
        wanted = self.names.fill(text).encode()
        assert len(wanted) >= 5
        where = [path for folder in self.way.written() for path, data in written_files(folder) if is_in(data, wanted)]
        assert not where, "it is in %s" % ", ".join(where)

    def do_log(self, text):
        program, _, pattern = text.partition(" ")
        pattern = self.names.fill(pattern)
        assert wait_for(lambda: re.search(pattern, self.way.program_log(program)[self.log_from[program]:]), 20), \
            self.way.program_log(program)[-1000:]

    def do_examhook(self, text):
        words = table.words_of(self.names.fill(text))
        if words and words[0] == "replay":
            words[1] = self.quarantined_id(words[1])
        self.way.ok(*words)

    def quarantined_id(self, mark):
        (row,) = [row for row in self.way.rows("events", "--json", "--quarantined") if mark in json.dumps(row)]
        return row["id"]

    def do_wait(self, text):
        time.sleep(float(text))

    def begin(self, do, undo, text):
        self.undo.append((undo, text))
        do(text)

    def end(self, undo, text):
        self.undo.remove((undo, text))
        undo(text)

    def do_down(self, text):
        self.begin(self.way.down, self.way.up, text)

    def do_up(self, text):
        self.end(self.way.up, text)

    def do_break(self, text):
        self.begin(self.way.break_it, self.way.mend_it, text)

    def do_mend(self, text):
        self.end(self.way.mend_it, text)

    def do_hold(self, text):
        self.begin(self.hold, self.release, text)

    def do_release(self, text):
        self.end(self.release, text)

    def hold(self, program):
        self.held[program] = open(self.way.lock_path(program), "rb")
        fcntl.flock(self.held[program], fcntl.LOCK_EX)

    def release(self, program):
        self.held.pop(program).close()
