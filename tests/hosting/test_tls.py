"""What a TLS scanner has to say of the shipped site, run as nginx/standalone runs it: nothing above "info" but what
is the self-signed certificate's."""
import json
import os
import re
import shutil
import socket
import ssl
import subprocess

import pytest

import support

# testssl.sh's ids that may be above INFO, and why: all but the last two are properties of the certificate that is
# made on the spot for this test.
NOT_OURS = {
    "cert_chain_of_trust": "self-signed",
    "cert_expirationStatus": "valid for two days",
    "cert_notAfter": "valid for two days",
    "cert_revocation": "self-signed: neither a revocation list nor OCSP",
    "engine_problem": "the scanner's own openssl has no GOST",
    "sessionresumption_ticket": "now and then the scanner hangs up before it has what it wants to send again (WARN)",
}
HARMLESS = {"OK", "INFO", "DEBUG"}
LOOKED_AT = {"TLS1_2", "TLS1_3", "cipher_order", "cert_keySize", "HSTS_time", "heartbleed", "ROBOT", "LUCKY13"}


@pytest.fixture(scope="module")
def tls_site():
    site = support.Site("")
    try:
        site.start_nginx()
        yield site
    finally:
        site.close()


def scanned(scanner, port, report, patience):
    """What it found, and what it said."""
    done = subprocess.run([scanner, "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip",
                           "127.0.0.1", "-p", "-s", "-f", "-P", "-S", "-h", "-U", "--jsonfile", str(report),
                           "https://localhost:%d/" % port], env=dict(os.environ, USLEEP_SND=patience, USLEEP_REC=patience),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=1200)
    return json.loads(report.read_text()) if report.exists() else [], done.stdout


def test_nothing_that_is_ours_to_mend(tls_site, tmp_path):
    scanner = shutil.which("testssl") or shutil.which("testssl.sh")
    if not scanner:
        pytest.skip("testssl.sh is not installed")
    # For some answers the scanner waits so many seconds and no longer: on a busy machine it takes a late one for another.
    # What is really wrong is found with more patience as well.
    for patience in ("0.2", "1"):
        found, said = scanned(scanner, tls_site.port, tmp_path / ("report-%s.json" % patience), patience)
        ours = [finding for finding in found
                if finding["severity"] not in HARMLESS and finding["id"].split()[0] not in NOT_OURS]
        lacking = LOOKED_AT - {finding["id"] for finding in found}
        if not ours and not lacking:
            break
    assert not lacking, said[-3000:]
    assert not ours, "\n".join("%(severity)s %(id)s: %(finding)s" % finding for finding in ours)
    offered = {finding["id"]: finding["finding"] for finding in found}
    assert offered["TLS1_2"].startswith("offered") and offered["TLS1_3"].startswith("offered")
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert offered[old].startswith("not offered"), old


def handshake(site, name):
    """The reply's status line to a GET under this name; None when the handshake is refused."""
    context = ssl.create_default_context(cafile=site.path("tls/cert.pem"))
    context.check_hostname = False
    try:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", site.port), 30), server_hostname=name) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % name.encode())
            return support.parse_head(s.recv(65536))
    except ssl.SSLError:
        return None


def test_another_name(tls_site):
    status, headers, body = handshake(tls_site, "other.example.org")
    assert (status, headers["strict-transport-security"]) == (404, "max-age=63072000")
    assert headers["content-type"] == "application/json" and body == b'{"error":"not_found"}'


def test_another_name_can_be_refused():
    """The block at the end of the site, without its comment signs."""
    def change(name, text):
        if name != "examhook.conf":
            return text
        head, _, block = text.partition("#server {")
        assert block, "no such block"
        return head + re.sub(r"^#", "", "#server {" + block, flags=re.M)
    site = support.Site("", nginx=change)
    try:
        site.start_nginx()
        assert handshake(site, "localhost")[0] == 404
        assert handshake(site, "other.example.org") is None
    finally:
        site.close()
