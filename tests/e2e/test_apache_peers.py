"""What Apache's modules do as peers, without Apache: each of these stopped a request there."""
import json
import os
import select
import socket
import subprocess
import time

import fastcgi
from fastcgi import Peer, begin, params, post, record, request
from support import wait_for
from test_fastcgi import BUILD, SECRETS, event, program  # noqa: F401  pylint: disable=unused-import


def padded(n, size):
    body = event(n)
    return b" " * (size - len(body)) + body


def test_a_writer_that_waits_for_room(program):  # noqa: F811
    """mod_proxy_fcgi writes only while three quarters of the socket's buffer are free: what it has written must be
    taken out of it, or a long body never comes whole."""
    body = padded(1, 65536)
    peer = Peer(program.path)
    pieces = [begin(), record(fastcgi.PARAMS, params(post(body, **SECRETS))), record(fastcgi.PARAMS)]
    pieces += [record(fastcgi.STDIN, body[at:at + 8192]) for at in range(0, len(body), 8192)]
    for piece in pieces + [record(fastcgi.STDIN)]:
        poll = select.poll()
        poll.register(peer.socket, select.POLLOUT)
        assert poll.poll(5000), "no room in the socket"
        peer.send(piece)
    assert peer.answer()[0] == 200
    assert [e["respondent_id"] for e in program.stored()] == ["r1"]


def test_a_request_byte_by_byte_and_the_next_on_the_same_connection(program):  # noqa: F811
    body = event(1)
    peer = Peer(program.path)
    for byte in request(post(body, **SECRETS), body, keep=True):
        peer.send(bytes([byte]))
    assert peer.answer()[0] == 200
    peer.send(request(post(event(2), **SECRETS), event(2)))
    assert peer.answer()[0] == 200
    assert {e["respondent_id"] for e in program.stored()} == {"r1", "r2"}


def test_who_hangs_up_behind_a_request_in_pieces_has_sent_it(program):  # noqa: F811
    descriptors = "/proc/%d/fd" % program.process.pid
    first = Peer(program.path)
    first.send(request(post(event(9), **SECRETS), event(9)))
    assert first.answer()[0] == 200 and first.closed() # it has begun, and whoever looked whether it answers is gone
    before = len(os.listdir(descriptors))
    for n, keep in ((1, False), (2, True)):
        data = request(post(event(n), **SECRETS), event(n), keep=keep)
        peer = Peer(program.path)
        peer.send(data[:100])
        time.sleep(0.3)
        peer.send(data[100:])
        peer.close()
    half = Peer(program.path)
    half.send(data[:100])
    time.sleep(0.3)
    half.close()
    assert wait_for(lambda: len(program.stored()) == 3)
    assert wait_for(lambda: len(os.listdir(descriptors)) <= before), "a connection was left open"


def test_a_body_that_comes_in_pieces_and_is_too_large(program):  # noqa: F811
    body = padded(1, 80000)
    data = request(post(body, length=len(body), **SECRETS), body, chunk=8192)
    peer = Peer(program.path)
    for at in range(0, len(data), 8200):
        peer.send(data[at:at + 8200])
    status, _, answer = peer.answer()
    assert (status, json.loads(answer)) == (413, {"error": "body_too_large"})
    assert program.stored() == []


def cgi_over_a_socket(program, body, **environment):  # noqa: F811
    """As mod_cgid does it: one socket is the program's input and output. What comes back until its end."""
    ours, theirs = socket.socketpair()
    values = {"GATEWAY_INTERFACE": "CGI/1.1", "EXAMHOOK_CONF": os.fspath(program.config), **post(body), **environment}
    process = subprocess.Popen([BUILD / "examjoint.fcgi"], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
                               env=values)
    theirs.close()
    ours.settimeout(20)
    ours.sendall(body)
    ours.shutdown(socket.SHUT_WR)
    process.wait(timeout=20)
    got = b""
    while True:
        more = ours.recv(65536)
        if not more:
            return got
        got += more


def test_cgi_leaves_no_body_unread(program):  # noqa: F811
    """A socket that is closed with something unread in it resets the other side: the answer would be lost."""
    assert b"Status: 401 " in cgi_over_a_socket(program, event(1))
    assert b"Status: 401 " in cgi_over_a_socket(program, padded(1, 60000))
    assert b"Status: 413 " in cgi_over_a_socket(program, padded(1, 500000))
    assert b"Status: 401 " in cgi_over_a_socket(program, padded(1, 500000), CONTENT_LENGTH="")
    assert b"Status: 405 " in cgi_over_a_socket(program, event(1), REQUEST_METHOD="PUT")
    assert b"Status: 503 " in cgi_over_a_socket(program, event(1), EXAMHOOK_CONF="/nonexistent")
