"""The intake in Python with Flask and sqlite3, for gunicorn and uWSGI: one connection to the store for each worker."""
import hmac
import os
import sqlite3
import time

from flask import Flask, jsonify, request

CLIENT_ID, CLIENT_SECRET = os.environ["BENCH_ID"].encode(), os.environ["BENCH_SECRET"].encode()
INSERT = ("INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)"
          " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
KINDS = {"event": str, "respondent_id": str, "exam_id": str, "admittedOn": int}

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 65536
held = {} # process id -> its connection, as one must not go through a fork


def store():
    pid = os.getpid()
    if pid not in held:
        held[pid] = sqlite3.connect(os.environ["BENCH_DB"], timeout=10, isolation_level=None)
        held[pid].execute("PRAGMA synchronous = FULL")
    return held[pid]


def authorized(headers):
    same_id = hmac.compare_digest(headers.get("x-client-id", "").encode(), CLIENT_ID)
    same_secret = hmac.compare_digest(headers.get("x-client-secret", "").encode(), CLIENT_SECRET)
    return same_id and same_secret


@app.post("/webhooks/examjoint")
def intake():
    if not authorized(request.headers):
        return jsonify(error="unauthorized"), 401
    body = request.get_data(as_text=True)
    event = request.get_json(force=True) # what is no JSON is answered 400
    if not isinstance(event, dict) or not all(type(event.get(name)) is kind for name, kind in KINDS.items()):
        return jsonify(error="invalid_member"), 422
    try:
        # No transaction is open: the statement is one, and committed when it returns.
        store().execute(INSERT, (time.time_ns() // 1000000, event["event"], event["respondent_id"], event["exam_id"],
                                 event["admittedOn"], body))
    except sqlite3.Error:
        app.logger.exception("not stored")
        return jsonify(error="not_stored"), 503
    return jsonify({})
