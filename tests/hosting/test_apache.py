"""What the table of cases cannot say of Apache: its files alone and beside others', mod_fcgid under suexec, a restart."""
import http.client
import json
import os
import re
import signal
import subprocess
import threading

import pytest

from support import environment, unique, wait_for
from ways import substitute
from ways_apache import CUSTOMER, MODULES, Cgi, Fcgid, ProxyFcgi, SharedHost, fcgid_lines

ACME = (("x-client-id", "acme-id"), ("x-client-secret", "acme-secret-new"))
THREE = (ProxyFcgi, Fcgid, Cgi)


@pytest.fixture
def hosting():
    """Makes ways; ends them."""
    made = []

    def make(way):
        missing = way.missing()
        if missing:
            pytest.skip("SKIP: %s: %s" % (way.title, missing))
        made.append(way())
        return made[-1]
    yield make
    for way in made:
        way.close()


def event(respondent, size=0):
    body = json.dumps({"event": "result_ready", "respondent_id": respondent, "exam_id": "exam-1"}).encode()
    return b" " * (size - len(body)) + body


def check_files(way):
    done = subprocess.run(way.command("-t"), capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "Syntax OK")


@pytest.mark.parametrize("way", THREE + (SharedHost,), ids=lambda way: way.name)
def test_apache_finds_nothing_wrong_with_the_files(hosting, way):
    check_files(hosting(way))


@pytest.mark.parametrize("way", THREE, ids=lambda way: way.name)
def test_a_way_in_a_site_of_ones_own(hosting, way):
    """The site goes on as before, its own log does not show our requests, and ours does."""
    one = hosting(way)
    with open(one.path("www/index.html"), "w", encoding="utf-8") as f:
        f.write("the site's own page")
    site = """<VirtualHost 127.0.0.1:%d>
    ServerName www.example.org
    DocumentRoot %s
    SSLEngine On
    SSLCertificateFile %s
    SSLCertificateKeyFile %s
    DirectoryIndex index.html
    LogFormat "%%h \\"%%r\\" %%>s" own
    CustomLog %s own env=!examhook_route
    Include examhook/examhook-%s.conf
</VirtualHost>
""" % (one.port, one.path("www"), one.path("tls/cert.pem"), one.path("tls/key.pem"), one.path("log/own.log"), one.conf_name)
    substitute(one.path("apache/apache2.conf"), [("Include examhook/examhook-site.conf", site)])
    check_files(one)
    one.start()
    token = "/webhooks/proview/token/token-0123456789abcdef"
    assert one.ask("GET", "/").body == b"the site's own page"
    assert one.ask("POST", "/webhooks/examjoint", event(unique()), ACME).status == 200
    assert one.ask("POST", token, b"{}").status == 422
    assert one.ask("POST", "/webhooks/other", b"{}").json == {"error": "not_found"}
    assert one.ask("GET", "/elsewhere").status == 404

    def read(name):
        with open(one.path("log", name), encoding="utf-8") as f:
            return [re.sub(r"^\S+ |account=| took=\d+", "", line.strip()) for line in f]
    assert wait_for(lambda: len(read("own.log")) == 2) and wait_for(lambda: len(read("examhook-access.log")) == 3)
    # Each process writes its line behind its answer: their order says nothing.
    assert sorted(read("own.log")) == ['"GET / HTTP/1.1" 200', '"GET /elsewhere HTTP/1.1" 404']
    assert sorted(read("examhook-access.log")) == ["127.0.0.1 POST /webhooks/examjoint 200 -",
                                                   "127.0.0.1 POST /webhooks/proview 422 token", "127.0.0.1 POST other 404 -"]


def test_a_temporary_file_would_be_noticed(hosting):
    """What every other test of these ways relies on: that none is made."""
    one = hosting(Fcgid)
    substitute(one.path("apache/examhook/examhook-fcgid.conf"), [("FcgidMaxRequestInMem 1048576", "FcgidMaxRequestInMem 1000")])
    one.start()
    assert one.ask("POST", "/webhooks/examjoint", event(unique()), ACME).status == 200
    assert not one.made_temporary_files()
    assert one.ask("POST", "/webhooks/examjoint", event(unique(), 5000), ACME).status == 200
    assert one.made_temporary_files()
    one.tmp_state = None


class RestrictedHost(SharedHost):
    overrides = "FileInfo Indexes Options=ExecCGI,Indexes,MultiViews"


class FcgidHost(RestrictedHost):
    """Programs that stay, under suexec."""
    title, modules, handler = "Apache + mod_fcgid, suexec, .htaccess", ("fcgid", "suexec"), "fcgi"
    needs = SharedHost.needs + (MODULES + "/mod_fcgid.so",)

    def handler_lines(self):
        return fcgid_lines(self)


@pytest.mark.parametrize("way", (RestrictedHost, FcgidHost), ids=("cgi", "fcgid"))
def test_a_customer_of_a_shared_host(hosting, way):
    one = hosting(way).start()
    who = unique()
    assert one.ask("POST", "/webhooks/examjoint", event(who), ACME).status == 200
    assert one.ask("POST", "/webhooks/examjoint", event(who)).status == 401
    # Everything ran as the customer, and nobody else can look into it.
    for folder, _, names in os.walk(one.path("store")):
        for path in [folder] + [os.path.join(folder, name) for name in names]:
            assert os.stat(path).st_uid == CUSTOMER and os.stat(path).st_mode & 0o077 == 0, path
    assert len(one.events(respondent_id=who)) == 1
    # Each kind of credentials gets through.
    basic = (("Authorization", "Basic dGFsdmlldzpiYXNpYy1wYXNzd29yZA=="),)
    assert one.ask("POST", "/webhooks/proview/basic", b"{}", basic).status == 422
    assert one.ask("POST", "/webhooks/proview/basic", b"{}").status == 401
    assert one.ask("POST", "/webhooks/proview/token/token-0123456789abcdef", b"{}").status == 422
    # The folder's own files are not there.
    for name in ("", ".htaccess", "examjoint." + way.handler, "proview.%s/token" % way.handler, "../webhooks/examjoint.x"):
        for method in ("GET", "POST"):
            reply = one.ask(method, "/webhooks/" + name)
            assert (reply.status, reply.json) == (404, {"error": "not_found"}), name
    # Sizes, and what is in no temporary file.
    assert one.ask("POST", "/webhooks/examjoint", event(unique(), 65536), ACME).status == 200
    reply = one.ask("POST", "/webhooks/examjoint", event(unique(), 65537), ACME)
    assert (reply.status, reply.json) == (413, {"error": "body_too_large"})
    # A program that is being replaced.
    one.down("examjoint")
    reply = one.ask("POST", "/webhooks/examjoint", event(who), ACME)
    assert (reply.status, reply.json, reply.headers["Retry-After"]) == (503, {"error": "unavailable"}, "5")
    one.up("examjoint")
    assert one.ask("POST", "/webhooks/examjoint", event(who), ACME).status == 200


@pytest.mark.parametrize("way", (ProxyFcgi, Cgi), ids=lambda way: way.name)
def test_a_graceful_restart_loses_nothing(hosting, way):
    """`systemctl reload apache2`, several times under load: every request is answered, and stored once, or answered 503
    and not stored while plain CGI's helper changes. Not so under mod_fcgid, whose page says it."""
    one = hosting(way).start()
    answered, trouble, over = [], [], threading.Event()

    def send(tag):
        n = 0
        while not over.is_set():
            n += 1
            who = "%s-%d" % (tag, n)
            try:
                status = one.ask("POST", "/webhooks/examjoint", event(who), ACME).status
            except (OSError, http.client.HTTPException) as error:
                status = repr(error)
            (answered if status == 200 else trouble).append((who, status))
    threads = [threading.Thread(target=send, args=(unique(),)) for _ in range(4)]
    for thread in threads:
        thread.start()

    def starts():
        with open(one.path("log/apache-error.log"), encoding="utf-8", errors="replace") as log:
            return log.read().count("resuming normal operations")
    assert wait_for(starts)
    for _ in range(4):
        before, done = starts(), len(answered)
        one.parts["apache"].process.send_signal(signal.SIGUSR1)
        assert wait_for(lambda: starts() > before and len(answered) > done + 20, 120)  # pylint: disable=cell-var-from-loop
    over.set()
    for thread in threads:
        thread.join()
    stored = [row["respondent_id"] for row in one.events(event="result_ready")]
    assert {who for who, _ in answered} <= set(stored) and len(stored) == len(set(stored))
    refused = {who for who, status in trouble if status == 503}
    assert not refused & set(stored) and not (refused and way is ProxyFcgi)
    assert len(refused) == len(trouble), trouble
