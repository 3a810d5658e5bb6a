"""The benchmark catches a contestant that answers what it did not do. Each runs for a second; no time is judged."""
import json
import os
import shutil
import sqlite3
import sys
import xml.etree.ElementTree as xml

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench as command  # noqa: E402
from contestants import Nothing, Ours, Threads  # noqa: E402
from harness import PROXY, Contestant, NotRun  # noqa: E402
from parts import intake  # noqa: E402

sys.path.insert(0, os.path.join(command.TOP, "tests", "e2e"))
from support import BUILD  # noqa: E402

pytestmark = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed: deploy/deps bench-short")

# A server of a page that keeps what it is told to keep: `keeps` of ten events are stored, and all are answered 200.
SERVER = r"""
import http.server, json, os, socketserver, sqlite3
KEEPS, number = int(os.environ["KEEPS"]), 0
store = sqlite3.connect(os.environ["DB"], isolation_level=None, check_same_thread=False)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global number
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 200
        if self.headers["x-client-secret"] != os.environ["SECRET"]:
            status = 401
        else:
            try:
                event = json.loads(body)
                number += 1
                if number % 10 < KEEPS or event["respondent_id"].startswith("probe"):
                    store.execute("INSERT INTO events VALUES(?) ON CONFLICT DO NOTHING", [event["respondent_id"]])
            except ValueError:
                status = 400
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def address_string(self):
        return "nginx"
    def log_message(self, *words):
        pass
class Server(socketserver.UnixStreamServer):
    request_queue_size = 511
Server(os.environ["SOCKET"], Handler).serve_forever()
"""


class Fake(Contestant):
    name, title, keeps = "fake", "the fake", 10

    def start(self):
        store = sqlite3.connect(self.database)
        store.executescript("PRAGMA journal_mode = WAL; CREATE TABLE events(respondent TEXT PRIMARY KEY)")
        store.close()
        self.process = self.bench.start(self.name, ["/usr/bin/python3", "-c", SERVER], DB=self.database,
                                        SOCKET=self.sock, KEEPS=str(self.keeps), SECRET="bench-secret-0123456789abcdef")
        self.process.wait_listening(self.sock)

    def extra(self):
        return ""

    def server(self):
        return "", "location / {%s%s    proxy_pass http://unix:%s;\n}" % (
            PROXY % ("proxy", "proxy"), self.extra(), self.sock)


class Forgetful(Fake):
    """One of ten is answered and not stored; what is looked at before the load is right."""
    keeps = 9


class Careless(Threads):
    """It answers all, whatever it is, and stores nothing."""
    name, title, kind, stores = "fake", "the fake", "peer", True

    def start(self):
        super().start()
        store = sqlite3.connect(self.database)
        store.execute("CREATE TABLE events(respondent TEXT)")
        store.close()


class Sick(Fake):
    """nginx gets no answer of it now and then."""

    def server(self):
        http_part, server_part = super().server()
        return (http_part + 'split_clients "$request_id" $sick {\n    30% 1;\n    * 0;\n}\n',
                server_part.replace("{", "{\n    if ($sick) {\n        return 502;\n    }\n", 1))


class Absent(Fake):
    def start(self):
        raise NotRun("there is none here")


def run(monkeypatch, tmp_path, contestants, connections=8):
    """(exit status, what is in the JSON file, the report)"""
    monkeypatch.setattr(intake, "CONTESTANTS", list(contestants))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--build", BUILD, "--mode", "short", "--parts", "intake",
                                      "--connections", str(connections), "--out", str(tmp_path)])
    status = command.main()
    with open(tmp_path / "bench.json", encoding="utf-8") as f:
        return status, json.load(f), (tmp_path / "bench.md").read_text()


def test_ours_and_the_ceilings_are_right(monkeypatch, tmp_path):
    status, result, report = run(monkeypatch, tmp_path, intake.CONTESTANTS)
    found = result["parts"]["intake"]
    assert status == 0 and found["wrong"] == [] and "WRONG" not in report
    assert set(found["figures"]["contestants"]) == {"ours", "nginx", "threads", "loop"}
    for name, one in found["figures"]["contestants"].items():
        seen = one["connections"]["8"]
        assert seen["requests_s"]["median"] > 0 and seen["status_5xx"] == 0, name
        assert seen["ok"] == seen["requests"] > 0, name
    ours = found["figures"]["contestants"]["ours"]
    assert ours["connections"]["8"]["rows"] == ours["connections"]["8"]["ok"]
    assert ours["memory"]["rss_peak_mib"] > 0 and ours["connections"]["8"]["cpu_10k"]["median"] > 0
    assert result["machine"]["cores"] and result["versions"]["nginx"]


def test_an_honest_peer_is_right(monkeypatch, tmp_path):
    status, result, _ = run(monkeypatch, tmp_path, [Fake])
    assert status == 0, result["parts"]["intake"]["wrong"]
    seen = result["parts"]["intake"]["figures"]["contestants"]["fake"]["connections"]["8"]
    assert seen["rows"] == seen["ok"] > 0


@pytest.mark.parametrize("fake, said", [
    (Forgetful, "acknowledged rows are not stored"), (Careless, "a wrong secret: status 200"),
    (Careless, "an admission: 0 rows more, not 1"), (Sick, "answers of 5xx")])
def test_a_peer_that_does_not_do_it_is_wrong(monkeypatch, tmp_path, fake, said):
    status, result, report = run(monkeypatch, tmp_path, [fake])
    assert status == 1
    assert any("the fake" in what and said in what for what in result["parts"]["intake"]["wrong"])
    assert "the fake WRONG" in report and said in report


def test_a_wrong_peer_is_no_measure(monkeypatch, tmp_path):
    """Whoever stores less is not the best of those that store."""
    def compared(contestants):
        targets = run(monkeypatch, tmp_path, contestants, 64)[1]["parts"]["intake"]["targets"]
        return [target["got"] for target in targets if target["note"].startswith("fake")]
    honest, forgetful = compared([Ours, Fake]), compared([Ours, Forgetful])
    assert honest and all(got > 0 for got in honest) and not forgetful


def test_what_cannot_run_is_named(monkeypatch, tmp_path):
    status, result, report = run(monkeypatch, tmp_path, [Nothing, Absent])
    assert status == 0
    assert result["parts"]["intake"]["not_run"] == {"fake": "there is none here"}
    assert "not run: there is none here" in report


def test_the_chart_shows_all(monkeypatch, tmp_path):
    _, result, _ = run(monkeypatch, tmp_path, [Ours, Nothing, Absent])
    drawn = command.draw(result, 8)
    root = xml.fromstring(drawn)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "examhook" in texts and "nginx return 200" in texts and "Not run: fake (there is none here)." in texts


def test_a_part_that_breaks_is_wrong_and_stops_no_other(monkeypatch, tmp_path):
    class Broken(Fake):
        def start(self):
            raise AssertionError("it fell over")
    status, result, report = run(monkeypatch, tmp_path, [Broken])
    assert status == 1 and "it fell over" in result["parts"]["intake"]["wrong"][0] and "it fell over" in report
