#!/usr/bin/python3
"""For parts/outbound.py: the loop one would write first. For each session a login, then the session on a connection
of its own, then one row, committed.

    naive.py LOGIN-URL SESSION-URL CA-FILE DATABASE SECONDS <UUIDs     one line of JSON: {"sessions": N, "seconds": N}
"""
import json
import sqlite3
import ssl
import sys
import time
import urllib.request


def ask(url, tls, body=None, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), context=tls, timeout=30) as answer:
        return json.load(answer)


def main():
    login_url, session_url, ca_file, database, seconds = sys.argv[1:]
    tls = ssl.create_default_context(cafile=ca_file)
    store = sqlite3.connect(database, isolation_level=None)
    store.execute("PRAGMA journal_mode=WAL")
    store.execute("PRAGMA synchronous=FULL")
    store.execute("CREATE TABLE ratings(session TEXT PRIMARY KEY, rating TEXT)")
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < float(seconds):
        session = sys.stdin.readline().strip()
        token = ask(login_url, tls, json.dumps({"username": "bench", "password": "bench"}).encode(),
                    {"Content-Type": "application/json"})["access_token"]
        found = ask("%s/%s" % (session_url, session), tls, headers={"Authorization": "Bearer " + token,
                                                                      "app-id": "bench"})
        store.execute("INSERT INTO ratings VALUES(?, ?)", (found["uuid"], found["final_rating"]))
        count += 1
    print(json.dumps({"sessions": count, "seconds": time.monotonic() - begin,
                      "rows": store.execute("SELECT count(*) FROM ratings").fetchone()[0]}))


if __name__ == "__main__":
    main()
