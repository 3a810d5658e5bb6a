"""Runs the commands of a page (deploy/hosting/*.md) in a throw-away machine, in their order, as a reader would:
every block that begins with ```sh is run by bash, as root, where the one before it ended (cd is kept).

An HTML comment right before a block says what a reader would do besides, unseen in the page:

    <!-- run: COMMANDS -->      what somebody does by hand. In a block that says `editor FILE`, COMMANDS do the
                                editing: bash with FILE as $1. Before any other block they are run first.
    <!-- network -->            the block reaches what the host reaches (apt)
    <!-- not run: REASON -->    the block is only for reading

A block that begins with ```text is what the block before it shows: its lines, in this order, each somewhere in a line
of the output; "…" stands for anything.
"""
import os
import re
import shlex
import shutil
import subprocess

from machine import TOP

CLONE = "/root/examhook"
HERE_FILE = "/run/page-folder"
EDITOR = """#!/bin/bash
set -euo pipefail
[ -s /run/page-edit ] || { echo "the page has no <!-- run: --> for this editor" >&2; exit 1; }
exec bash -euo pipefail /run/page-edit "$@"
"""


class Wrong(Exception):
    """The page and the machine do not agree."""


class Block:
    """`line` is where it begins; `by_hand`, `network`, `not_run` are its comments, `shows` the text after it."""

    def __init__(self, line, text, comments):
        self.line, self.text, self.shows = line, text, []
        self.by_hand = self.not_run = None
        self.network = "machine"
        for comment in comments:
            word, _, rest = comment.partition(":")
            if word == "run":
                self.by_hand = rest.strip()
            elif word == "not run" and rest.strip():
                self.not_run = rest.strip()
            elif comment == "network":
                self.network = "host"
            else:
                raise Wrong("line %d: what is this: <!-- %s -->" % (line, comment))

    @property
    def edits(self):
        return re.search(r"^\s*editor\s", self.text, re.M) is not None


def blocks(text):
    """The page's ```sh blocks, with what belongs to them."""
    found, comments = [], []
    part = re.compile(r"^<!--(?P<comment>.*?)-->|^```(?P<kind>\w*)\n(?P<text>.*?)^```$|^\S[^\n]*", re.M | re.S)
    for one in part.finditer(text):
        line = text.count("\n", 0, one.start()) + 1
        if one["comment"] is not None:
            comments.append(one["comment"].strip())
            continue
        if one["kind"] == "sh":
            found.append(Block(line, one["text"], comments))
        elif comments:
            raise Wrong("line %d: a comment for a block, and no ```sh block after it" % line)
        elif one["kind"] == "text":
            if not found:
                raise Wrong("line %d: what does this show? There is no block before it" % line)
            found[-1].shows += [row.strip() for row in one["text"].splitlines() if row.strip()]
        comments = []
    if comments:
        raise Wrong("at the end: a comment for a block, and no block after it")
    return found


def not_shown(wanted, output):
    """The first of the wanted lines that is not in the output, in their order; None: all are."""
    rows = iter(output.splitlines())
    for want in wanted:
        pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in want.split("…")))
        if not any(pattern.search(row) for row in rows):
            return want
    return None


def put_clone(machine):
    """The tree as it is here, without what is built, at CLONE."""
    listed = subprocess.run(["git", "-C", TOP, "ls-files", "-z", "-c", "-o", "--exclude-standard"], check=True,
                            stdout=subprocess.PIPE).stdout
    for name in filter(None, map(os.fsdecode, listed.split(b"\0"))):
        source, target = os.path.join(TOP, name), machine.path(os.path.join(CLONE, name))
        if os.path.lexists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def run_page(machine, path, clone=True):
    """Runs the page in a booted machine; returns its blocks. Raises Wrong at the first one that fails or that does not
    show what the page says."""
    with open(path, encoding="utf-8") as f:
        found = blocks(f.read())
    if not found:
        raise Wrong("%s has no ```sh block" % path)
    name = os.path.basename(path)
    if clone:
        put_clone(machine)
    machine.put((CLONE if clone else "/root").encode(), HERE_FILE)
    machine.put(EDITOR.encode(), "/usr/local/bin/editor", mode=0o755)
    for block in found:
        if block.not_run:
            continue
        by_hand = block.by_hand or ""
        machine.put(by_hand.encode() if block.edits else b"", "/run/page-edit")
        first = "" if block.edits else by_hand
        script = 'cd "$(cat %s)"\n%s\n%s\npwd >%s\n' % (HERE_FILE, first, block.text, HERE_FILE)
        done = machine.run("exec 2>&1\n" + script, check=False, network=block.network, timeout=1800)
        if done.returncode:
            raise Wrong("%s:%d: exit status %d\n%s" % (name, block.line, done.returncode, done.stdout[-4000:]))
        missing = not_shown(block.shows, done.stdout)
        if missing:
            raise Wrong("%s:%d: does not show %s\n%s" % (name, block.line, shlex.quote(missing), done.stdout[-4000:]))
    return found
