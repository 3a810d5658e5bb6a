#!/usr/bin/python3
"""For parts/cgi.py: the durable intake as a Python script runs it, once for each request."""
import hmac
import json
import os
import sqlite3
import sys
import time


def answer(status):
    sys.stdout.write("Status: %d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status)
    sys.exit(0)


def same(header, name):
    return hmac.compare_digest(os.environ.get(header, "").encode(), os.environ[name].encode())


if not (same("HTTP_X_CLIENT_ID", "BENCH_ID") & same("HTTP_X_CLIENT_SECRET", "BENCH_SECRET")):
    answer(401)
body = sys.stdin.buffer.read(int(os.environ["CONTENT_LENGTH"]))
try:
    event = json.loads(body)
    row = (int(time.time()), event["event"], event["respondent_id"], event["exam_id"], event["admittedOn"], body.decode())
except (ValueError, KeyError, TypeError):
    answer(400)
store = sqlite3.connect(os.environ["BENCH_DB"], timeout=10)
store.execute("PRAGMA synchronous = FULL")
with store:
    store.execute("INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)"
                  " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
store.close()
answer(200)
