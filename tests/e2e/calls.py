"""The vendors' side: what they send, built from small pieces."""
import json

SECRETS = {"acme": ("acme-id", "acme-secret-new"), "globex": ("globex-id", "globex-secret")}
EXAMJOINT = "/webhooks/examjoint"


def pack(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def client(account="acme"):
    return [("x-client-id", SECRETS[account][0]), ("x-client-secret", SECRETS[account][1])]


def examjoint(site, body, account="acme", headers=()):
    """An event with the account's right headers."""
    return site.ask("POST", EXAMJOINT, pack(body), client(account) + list(headers))


def fields(*values):
    """The values at the positions 0, 1, ...; None leaves one out."""
    return [{"position": i, "value": value} for i, value in enumerate(values) if value is not None]


def verify(site, *values, exam="exam-1", lang="en", account="acme", sent=None):
    """A verification; the values stand at the positions 0, 1, ..., or `sent` is the list of fields itself."""
    body = {"event": "verify_respondent", "fields": fields(*values) if sent is None else sent, "exam_id": exam}
    if lang is not None:
        body["choosenLang"] = lang
    return examjoint(site, body, account)


def event(name, respondent, exam="exam-1", **more):
    return dict({"event": name, "respondent_id": respondent, "exam_id": exam}, **more)


def admitted(respondent, at=1719221380326, **more):
    return event("admitted_respondent", respondent, admittedOn=at, **more)


def callback(uuid, message="Session Has Been Terminated", external_id="5506693", **more):
    return dict({"message": message, "external_id": external_id, "session_uuid": uuid}, **more)


def proview(site, path, body, headers=(), method="POST"):
    return site.ask(method, "/webhooks/proview/" + path, pack(body), headers)
