"""No password reaches disk: canaries through every path, then a search through everything that was written."""
import base64
import json
import os
import secrets
import signal
import time

from calls import admitted, callback, client, examjoint, pack, proview, verify
from accounts import CONF
from support import a_uuid, unique, written_files

TOKEN = "token/token-0123456789abcdef"


def canary():
    return "CaNaRy" + secrets.token_hex(10)


def field_list(*pairs):
    return [{"position": position, "value": value} for position, value in pairs]


def verification(**more):
    return dict({"event": "verify_respondent", "exam_id": "exam-1"}, **more)


def bodies(word):
    """Everything a vendor, a new version of it or a candidate could do with a password in it. `word` is called
    for each canary."""
    for name in ("verify_respondant", "VERIFY_RESPONDENT", "candidate_check", "admitted_respondent"):
        yield verification(event=name, fields=field_list((0, "1001"), (1, word())), respondent_id="r", admittedOn=1)
    yield verification(fields=field_list((0, word()), (1, word())))  # into the wrong box
    yield verification(fields=field_list((0, "1001"), (1, word()), (2, word()), (77, word())))  # unmapped
    yield verification(fields=field_list((word(), "1001"), (1, word())))  # quarantined
    yield verification(fields=field_list((1, 12345), (0, word())))
    yield verification(fields={"position": 1, "value": word()})
    yield verification(fields=word())
    yield verification(fields=[word(), [word()], {"value": {"deeper": word()}, word(): word()}])
    yield verification(Fields=field_list((1, word())))
    yield verification(fields=field_list((1, word())), exam_id=7)
    yield verification(fields=field_list((1, word())), choosenLang={"a": 1})
    yield {"fields": field_list((1, word()))}
    yield {"event": "new_event", "candidate": {"fields": field_list((1, word()))}}
    yield {"event": "new_event", "password": word(), "deep": [{"value": word(), "Secret": word()}]}
    yield admitted(unique(), fields=field_list((0, "x"), (1, word())))
    yield callback(a_uuid(), fields=field_list((1, word())), password=word())


def malformed(word):
    """Bodies that are no JSON we read, with a canary each."""
    whole = json.dumps(verification(fields=field_list((0, "1001"), (1, word())))).encode()
    yield whole[:-3]
    yield whole[:-20]
    yield whole + b"x"
    yield whole + whole
    yield b"\xef\xbb\xbf" + json.dumps(verification(fields=field_list((1, word())))).encode()
    yield json.dumps(verification(fields=field_list((1, word() + "\x00")))).encode()
    yield json.dumps(verification(fields=field_list((1, word())))).encode().replace(b"exam-1", b"\xff\xfe")
    yield json.dumps(verification(fields=field_list((1, word())))).replace('"exam_id"', '"event"').encode()
    yield ("event=verify_respondent&password=" + word()).encode()
    yield ("[" * 40 + '"' + word() + '"' + "]" * 40).encode()
    yield b'"' + word().encode() + b'"'
    yield (json.dumps({"event": "x", "fields": word()}) + " " * 70000).encode()  # 413


def abort(part):
    """Its working folder is the site's: a core file would be found there, were one written."""
    part.process.send_signal(signal.SIGABRT)
    part.process.wait()


def test_no_password_reaches_disk(make_site):
    seen = []

    def word():
        seen.append(canary())
        return seen[-1]

    roster_password = word()
    roster = "id,email,name,password,exam\n1001,ada@example.org,Ada,%s,\n1002,,,%s,\n" % (roster_password, word())
    site = make_site(CONF + "\n[throttle]\nfailures = 4\n\n[log]\nlevel = debug\n", [("acme", roster)]).start()
    assert verify(site, "1001", roster_password).json == {"metadata": {"name": "Ada", "email": "ada@example.org"}}
    for _ in range(6):  # until throttled
        assert "errorMessage" in verify(site, "1001", word()).json
    statuses = set()
    for body in list(bodies(word)):
        statuses.add(examjoint(site, body).status)
        proview(site, TOKEN, body)
    for text in list(malformed(word)):
        statuses.add(examjoint(site, text).status)
        proview(site, TOKEN, text)
    assert statuses == {200, 400, 413, 422}
    # In headers, in the path, in arguments, without the secret.
    text = pack(verification(fields=field_list((1, word()))))
    site.ask("POST", "/webhooks/examjoint?password=" + word(), text, client())
    site.ask("POST", "/webhooks/examjoint", text, [("x-client-id", word()), ("x-client-secret", word())])
    site.ask("POST", "/webhooks/examjoint", text, client() + [("X-Password", word()), ("Cookie", word())])
    site.ask("POST", "/webhooks/" + word(), text)
    basic = base64.b64encode(("talview:" + word()).encode()).decode()
    seen.append(basic)
    site.ask("POST", "/webhooks/proview/basic", text, [("Authorization", "Basic " + basic)])
    site.ask("POST", "/webhooks/proview/token/" + word(), text)
    # A body that stops in the middle, then the connection.
    with site.connect() as s:
        whole = pack(verification(fields=field_list((0, "1001"), (1, word()))))
        s.sendall(b"POST /webhooks/examjoint HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (len(whole) + 10) +
                  b"".join(b"%s: %s\r\n" % (k.encode(), v.encode()) for k, v in client()) + b"\r\n" + whole)
        time.sleep(0.3)
    # Whatever the operator's command shows or writes.
    for arguments in (["events", "--json"], ["events"], ["events", "--quarantined"], ["export"],
                      ["respondent", "1001"], ["roster", "list", "--json"], ["config"],
                      ["backup", site.path("backup")]):
        shown = site.ok(*arguments)
        assert not [c for c in seen if c in shown], arguments
    for row in site.rows("events", "--json", "--quarantined"):
        site.examhook("replay", row["id"])
    assert len(site.events()) > 20
    # Killed while at work: no core file, no journal with more than the store.
    for name in ("examjoint", "proview"):
        abort(site.parts.pop(name))
    found = []
    names = set()
    for path, content in written_files(site.folder):
        names.add(os.path.basename(path))
        found += [(path, c) for c in seen if c.encode() in content]
    assert not found, found
    assert {"events.db", "events.db-wal", "callbacks.db", "examjoint.log", "access.log"} <= names, names
    assert not [name for name in names if name.startswith("core")]
