"""Reads the table of cases: cases/*.txt, whose form is explained in cases/README.txt."""
import glob
import os
import re
import shlex

HERE = os.path.dirname(os.path.abspath(__file__))


class Wrong(Exception):
    """A line of the table that cannot be read."""


class Step:
    """One thing to do or to look at. `text` is what stands behind the word; `differs` says what certain ways
    give instead: {way: (text, reason)}."""

    def __init__(self, word, text, where):
        self.word, self.text, self.where, self.differs = word, text, where, {}


class Request:
    """`wire` is what is sent as it is (a `raw` request), else the rest says what."""

    def __init__(self, method="POST", path="/", version="1.1"):
        self.method, self.path, self.version = method, path, version
        self.headers, self.body, self.behind, self.wire = [], None, "", None
        self.fill = self.chunk = self.length = None
        self.times, self.at_once, self.kept, self.background = 1, False, False, False
        self.leave, self.pace, self.plaintext = None, None, False
        self.expected = []


class Case:
    def __init__(self, name, where, options):
        self.name, self.where, self.steps = name, where, []
        self.quick, self.setting, self.skips = False, "", {}
        for option in options:
            word, _, text = option.strip().partition(" ")
            if word == "quick":
                self.quick = True
            elif word == "setting" and text:
                self.setting = text.strip()
            else:
                raise Wrong("%s: no such option: %s" % (where, option))


class Table:
    """`settings` are the named additions to the configuration: {name: {part: text}}."""

    def __init__(self):
        self.cases, self.settings = [], {"": {}}


SETTING_PARTS = ("conf", "verify", "store", "rate", "disk")
AFTER_REQUEST = ("<", "has", "within")
STEPS = ("rows", "nowhere", "log", "examhook", "wait", "down", "up", "break", "mend", "hold", "release")


def read_request_line(request, word, text, where):
    if word == "as":
        request.headers.append(("as", text))
    elif word == "body":
        request.body = text
    elif word == "fill":
        size, _, request.body = text.partition(" ")
        request.fill = int(size)
    elif word == "behind":
        request.behind = text
    elif word in ("chunk", "length"):
        setattr(request, word, int(text))
    elif word == "times":
        count, _, how = text.partition(" ")
        if how not in ("", "at once"):
            raise Wrong("%s: times N, or times N at once" % where)
        request.times, request.at_once = int(count), how == "at once"
    elif word in ("kept", "background", "plaintext") and not text:
        setattr(request, word, True)
    elif word == "leave" and text in ("after", "inside"):
        request.leave = text
    elif word == "pace":
        request.pace = float(text)
    elif word == "raw" and request.wire is not None:
        request.wire += text
    elif word.endswith(":"):
        request.headers.append((word[:-1], text))
    else:
        return False
    return True


def read_differs(case, text, where):
    ways, colon, rest = text.partition(":")
    expected, bar, reason = rest.rpartition(" | ")
    step = case.steps[-1] if case.steps else None
    if isinstance(step, Request):
        step = step.expected[-1] if step.expected else None
    if not colon or not bar or not reason.strip() or step is None:
        raise Wrong("%s: differs WAY ...: INSTEAD | REASON, behind what it differs from" % where)
    for way in ways.split():
        step.differs[way] = (expected.strip(), reason.strip())


def read_line(case, line, where):
    word, _, text = line.partition(" ")
    text = text.strip() if word not in ("body", "raw", "fill", "behind") else text
    last = case.steps[-1] if case.steps else None
    if word == ">":
        parts = text.split(" ")
        if len(parts) not in (2, 3):
            raise Wrong("%s: > METHOD PATH [1.0|1.1|2]" % where)
        case.steps.append(Request(*parts))
    elif word == "raw" and not (isinstance(last, Request) and last.wire is not None and not last.expected):
        case.steps.append(Request())
        case.steps[-1].wire = text
    elif word == "differs":
        read_differs(case, text, where)
    elif word == "skip":
        ways, colon, reason = text.partition(":")
        if not colon or not reason.strip():
            raise Wrong("%s: skip WAY ...: REASON" % where)
        case.skips.update((way, reason.strip()) for way in ways.split())
    elif word in AFTER_REQUEST and isinstance(last, Request):
        last.expected.append(Step(word, text, where))
    elif word in STEPS:
        case.steps.append(Step(word, text, where))
    elif not (isinstance(last, Request) and read_request_line(last, word, text, where)):
        raise Wrong("%s: what is this: %s" % (where, line))


def read_file(table, path):
    case = setting = None
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    for number, line in enumerate(lines, 1):
        where = "%s:%d" % (os.path.basename(path), number)
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("=== "):
            name, *options = line[4:].split(" | ")
            case, setting = Case(name.strip(), where, options), None
            table.cases.append(case)
        elif line.startswith("--- setting "):
            case, setting = None, table.settings.setdefault(line[12:].strip(), {})
        elif setting is not None:
            part, _, text = line.partition(": ")
            if part not in SETTING_PARTS:
                raise Wrong("%s: a setting has %s" % (where, ", ".join(SETTING_PARTS)))
            setting[part] = setting.get(part, "") + text + "\n"
        elif case is not None:
            read_line(case, line.strip() if not line.startswith(("body ", "raw ", "behind ")) else line, where)
        else:
            raise Wrong("%s: a line before the first case" % where)


def load(folder=os.path.join(HERE, "cases")):
    table = Table()
    for path in sorted(glob.glob(os.path.join(folder, "*.txt"))):
        if os.path.basename(path) != "README.txt":
            read_file(table, path)
    names = [case.name for case in table.cases]
    for case in table.cases:
        if names.count(case.name) > 1:
            raise Wrong("%s: the name is there twice: %s" % (case.where, case.name))
        if case.setting not in table.settings:
            raise Wrong("%s: no such setting: %s" % (case.where, case.setting))
        for step in case.steps:
            if isinstance(step, Request) and not step.expected and not step.leave:
                raise Wrong("%s: a request without an expectation" % case.where)
    return table


def bytes_of(text):
    """The bytes that a text of the table stands for: UTF-8, \\xNN, \\x{N*TEXT}."""
    def one(match):
        if match.group(1):
            return bytes([int(match.group(1), 16)])
        count, inner = match.group(2).split(b"*", 1)
        return bytes_of(inner) * int(count)
    data = text if isinstance(text, bytes) else text.encode()
    return re.sub(rb"\\x(?:([0-9A-Fa-f]{2})|\{(\d+\*[^}]*)\})", one, data)


def words_of(text):
    return shlex.split(text)
