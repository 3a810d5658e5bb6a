"""Every document of tests/data/json_cases.txt as a body, sent to the running programs: the status and the word that each
must have. The unit tests ask the same of the parser alone."""
import json
import os
import re

import pytest

from accounts import CONF, rosters
from calls import SECRETS
from fastcgi import Peer, post, request
from support import Site, TOP

LIMIT = 64 * 1024
WORDS = {"empty_body", "invalid_json", "invalid_utf8", "nul_in_json", "invalid_unicode_escape", "duplicate_key", "too_deep"}


def plain(text):
    return re.sub(rb"\\x([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), text)


def unescape(text):
    """As the head of the table says."""
    out, at = b"", 0
    for m in re.finditer(rb"\\x\{(\d+)\*([^}]*)\}", text):
        out += plain(text[at:m.start()]) + plain(m[2]) * int(m[1])
        at = m.end()
    return out + plain(text[at:])


def cases():
    """(line, word, document)"""
    with open(os.path.join(TOP, "tests/data/json_cases.txt"), "rb") as f:
        for number, line in enumerate(f.read().split(b"\n"), 1):
            if line and not line.startswith(b"#"):
                word, _, document = line.partition(b" ")
                yield number, word.decode(), unescape(document.lstrip(b" "))


def members(document):
    """Of a document that is an object, by another reader than ours."""
    return json.loads(document, object_pairs_hook=lambda pairs: pairs or {}, parse_int=str)


def object_of(document):
    return dict(members(document) or [])


def expected(word, document, program):
    """(status, answer) of a whole body with the right secret."""
    if len(document) > LIMIT:
        return 413, {"error": "body_too_large"}
    if word == "any":
        return 400, {"error": "not_an_object"}
    if word != "ok":
        assert word in WORDS
        return 400, {"error": word}
    if program == "proview":
        return (200, {}) if "session_uuid" in object_of(document) else \
            (422, {"error": "missing_member", "member": "session_uuid"})
    kind = object_of(document).get("event")
    if kind == "admitted_respondent":
        return 200, {}
    if kind == "verify_respondent": # its candidate is nobody
        return 200, "errorMessage"
    return 422, {"error": "missing_member", "member": "event"}


@pytest.fixture(scope="module")
def site():
    """A site of its own: what is quarantined here is nobody else's business."""
    one = Site(CONF, rosters())
    one.start_program("examjoint")
    one.start_program("proview")
    yield one
    one.close()


@pytest.mark.parametrize("program", ["examjoint", "proview"])
def test_each_document(site, program):
    peer, wrong, count, answered = Peer(site.path("sock", program + ".sock"), 60), [], 0, set()
    client, secret = SECRETS["acme"]
    for number, word, document in cases():
        status, answer = expected(word, document, program)
        for length in (len(document), ""): # "": it came in chunks
            if program == "examjoint":
                values = post(document, length=length, x_client_id=client, x_client_secret=secret)
            else:
                values = post(document, path="/webhooks/proview/open", length=length)
            try:
                peer.send(request(values, document, keep=True))
            except (BrokenPipeError, ConnectionResetError):
                pass # it answers before a body that is too large is through
            got, _, body = peer.answer()
            body = json.loads(body)
            shown = "errorMessage" if "errorMessage" in body else body
            if (got, shown) != (status, answer):
                wrong.append("json_cases.txt:%d: %d %s, not %d %s" % (number, got, shown, status, answer))
            if status == 413:
                peer.close()
                peer = Peer(site.path("sock", program + ".sock"), 60)
        answered.add((status, str(answer)))
        count += 1
    peer.close()
    assert not wrong, "\n".join(wrong[:20])
    assert count >= 420
    assert len(answered) == len(WORDS) + (5 if program == "examjoint" else 4), answered


VALID = b'{"event":"result_ready","respondent_id":"cut\\u00e9\xc3\xa9","exam_id":"e","x":[1.5e3,true,null,"\\ud83d\\ude00",{}]}'


def test_a_document_cut_at_each_byte(site):
    """Nothing shorter than the whole is a document, and what is missing decides the word."""
    peer = Peer(site.path("sock/examjoint.sock"), 60)
    client, secret = SECRETS["acme"]
    for at in range(len(VALID) + 1):
        body = VALID[:at]
        peer.send(request(post(body, x_client_id=client, x_client_secret=secret), body, keep=True))
        status, _, answer = peer.answer()
        if at == len(VALID):
            assert (status, answer) == (200, b"{}")
            continue
        word = "empty_body" if at == 0 else "invalid_utf8" if body.endswith(b"\xc3") else "invalid_json"
        if re.search(rb"\\ud83d(\\(u[0-9a-f]{0,3})?)?$", body):
            word = "invalid_unicode_escape"
        assert (status, json.loads(answer)) == (400, {"error": word}), body
