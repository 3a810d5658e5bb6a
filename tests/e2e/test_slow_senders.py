"""Bodies that come drop by drop hold nginx's connections: one address may hold so many, and others are served."""
import http.client
import socket

import pytest

from accounts import CONF, rosters
from calls import EXAMJOINT, client, event, pack
from support import PATIENCE, exchange, parse_head, unique, wait_for


def few(name, text):
    return text.replace("examhook_sender 2000", "examhook_sender 5")


@pytest.fixture
def limited(make_site):
    return make_site(CONF, rosters(), nginx=few).start()


def ask_from(site, address):
    connection = http.client.HTTPSConnection("127.0.0.1", site.port, context=site.tls, timeout=60 * PATIENCE,
                                             source_address=(address, 0))
    return exchange(connection, "POST", EXAMJOINT, pack(event("result_ready", unique())), client())


def begin_slowly(site, address):
    """A request of which the body does not come."""
    plain = socket.create_connection(("127.0.0.1", site.port), 60 * PATIENCE, (address, 0))
    slow = site.tls.wrap_socket(plain, server_hostname="localhost")
    slow.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{" % EXAMJOINT.encode())
    return slow


def test_one_address_cannot_take_every_connection(limited):
    slow = [begin_slowly(limited, "127.0.0.9") for _ in range(5)]
    assert wait_for(lambda: ask_from(limited, "127.0.0.9").status == 429)
    refused = ask_from(limited, "127.0.0.9")
    assert (refused.status, refused.json, refused.headers["Retry-After"]) == (429, {"error": "too_many_requests"}, "1")
    assert ask_from(limited, "127.0.0.2").status == 200
    further = begin_slowly(limited, "127.0.0.9") # answered before its body: nothing of it is waited for
    assert parse_head(further.recv(65536))[0] == 429
    for one in slow + [further]:
        one.close()
    assert wait_for(lambda: ask_from(limited, "127.0.0.9").status == 200)


def test_a_body_that_stops_is_given_up(site):
    """client_body_timeout; nothing is stored."""
    with begin_slowly(site, "127.0.0.9") as slow:
        slow.settimeout(25 * PATIENCE)
        assert b"200" not in slow.recv(65536)[:20]
