"""The table's reader and player: what must fail does."""
import os
import re

import pytest

import table
from canaries import forms, secret_options
from search import secrets_in
from player import DIFFERS, OK, Player
from ways_nginx import NginxFastcgi

ADMITTED = '{"event":"admitted_respondent","respondent_id":"$who","exam_id":"e","admittedOn":1}'
SEND = "=== one\n> POST /webhooks/examjoint\nas acme\nbody %s\n" % ADMITTED


def read(text, tmp_path):
    path = tmp_path / "cases.txt"
    path.write_text(text, encoding="utf-8")
    return table.load(tmp_path)


@pytest.fixture(scope="module")
def nginx():
    way = NginxFastcgi({})
    try:
        yield way.start()
    finally:
        way.close()


GOOD = [
    ("as it is", "< 200 {}\nhas Content-Type: application/json\nrows 1 {\"respondent_id\":\"$who\"}\n", OK),
    ("another way's difference", "< 200 {}\ndiffers lighttpd: 404 | it is far away\n", OK),
    ("a difference", "< 404\ndiffers nginx-fastcgi: 200 {} | for the test\n", DIFFERS),
    ("a difference of rows", "< 200\nrows 2 {\"respondent_id\":\"$who\"}\n"
     "differs nginx-fastcgi: 1 {\"respondent_id\":\"$who\"} | for the test\n", DIFFERS),
]
BAD = [
    ("another status", "< 201 {}\n", "201"),
    ("another body", '< 200 {"a":1}\n', '"a":1'),
    ("an error word", "< 200 error unauthorized\n", "unauthorized"),
    ("a header that is not there", "< 200\nhas Allow: POST\n", "Allow"),
    ("a header that is there", "< 200\nhas Content-Type: -\n", "Content-Type"),
    ("too few rows", "< 200\nrows 2 {\"respondent_id\":\"$who\"}\n", "1 rows"),
    ("too many rows", "< 200\nrows 0 {\"respondent_id\":\"$who\"}\n", "1 rows"),
    ("another value in a row", "< 200\nrows 1 {\"respondent_id\":\"$who\",\"deliveries\":\"1\"}\n", "0 rows"),
    ("what is in a file", "< 200\nnowhere $who\n", "it is in"),
    ("what no log says", "< 200\nlog examjoint no-such-words-here\n", "log"),
    ("a difference that has gone", "< 200 {}\ndiffers nginx-fastcgi: 200 | for the test\n", "difference is gone"),
    ("neither nor", "< 200 {}\ndiffers nginx-fastcgi: 404 | for the test\n", "neither"),
    ("an operator's command", "< 200\nexamhook no-such-command\n", "no-such-command"),
]
UNREADABLE = [
    ("a word that is none", "=== one\nfrobnicate\n"),
    ("a request without an expectation", SEND),
    ("a difference without a reason", SEND + "< 200 {}\ndiffers lighttpd: 404\n"),
    ("a difference from nothing", "=== one\ndiffers lighttpd: 404 | why\n"),
    ("a setting that is none", SEND.replace("one", "one | setting none") + "< 200 {}\n"),
    ("a name twice", (SEND + "< 200 {}\n") * 2),
    ("no case", "rows 1 {}\n"),
]


@pytest.mark.parametrize("text,result", [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_holds(nginx, tmp_path, text, result):
    assert Player(nginx, read(SEND + text, tmp_path).cases[0]).play() == result


@pytest.mark.parametrize("text,words", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_does_not_hold(nginx, tmp_path, text, words):
    with pytest.raises(AssertionError) as told:
        Player(nginx, read(SEND + text, tmp_path).cases[0]).play()
    assert words in str(told.value)


@pytest.mark.parametrize("text", [row[1] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE])
def test_what_cannot_be_read(tmp_path, text):
    with pytest.raises(table.Wrong):
        read(text, tmp_path)


@pytest.fixture
def another():
    way = NginxFastcgi({})
    try:
        yield way.start()
    finally:
        way.close()


def is_noticed_in_two_pieces(way, log, form):
    """False: a line of the server's own, of the case before, came between the two."""
    size = os.path.getsize(way.path(log)) if os.path.exists(way.path(log)) else 0
    with open(way.path(log), "ab") as f:
        f.write(b"line " + form[:5])
    way.search.after_case()
    with open(way.path(log), "ab") as f:
        f.write(form[5:] + b"\n")
    with open(way.path(log), "rb") as f:
        f.seek(size)
        whole = form in f.read()
    if whole:
        with pytest.raises(AssertionError) as told:
            way.search.after_case()
        assert log in str(told.value)
    os.truncate(way.path(log), size)
    return whole


def test_a_secret_in_any_file_of_a_way_is_noticed(another, tmp_path):
    """After each case in each log, also where it comes in two pieces; at the end in every file but the configuration."""
    fine = read(SEND + "< 200 {}\n", tmp_path).cases[0]
    assert Player(another, fine).play() == OK
    values = another.search.kept.extra
    assert {"token-0123456789abcdef", "acme-secret-old", "basic-password", "horse 1001"} <= set(values) and len(values) > 25
    for log in (*another.logs, "nginx/some-other-file"):
        for n, value in enumerate(values):
            for form in forms(value) if log == another.logs[0] and n < 3 else forms(value)[n % len(forms(value)):][:1]:
                while not is_noticed_in_two_pieces(another, log, form):
                    pass
    with open(another.path("nginx/some-other-file"), "ab") as f:
        f.write(forms(values[0])[1])
    with pytest.raises(AssertionError) as told:
        Player(another, fine).play()
    assert "some-other-file" in str(told.value)
    os.remove(another.path("nginx/some-other-file"))
    assert Player(another, fine).play() == OK
    with open(another.path("store/left"), "wb") as f:
        f.write(forms(values[0])[1])
    with pytest.raises(AssertionError) as told:
        another.search.at_the_end()
    assert "store/left" in str(told.value)
    os.remove(another.path("store/left"))
    assert Player(another, read(SEND + "< 200\nnowhere token-0123456789abcdef\n", tmp_path).cases[0]).play() == OK
    with open(another.path("log/some"), "wb") as f:
        f.write(b"token-0123456789abcdef".hex().encode())
    try:
        with pytest.raises(AssertionError) as told:
            Player(another, read(SEND + "< 200\nnowhere token-0123456789abcdef\n", tmp_path).cases[0]).play()
        assert "it is in" in str(told.value)
    finally:
        os.remove(another.path("log/some"))
    another.search.at_the_end()


def test_a_secret_option_without_a_value_is_noticed(nginx):
    """Every secret option that there is stands in the ways' configuration; a new one has a value of its own by itself."""
    with open(nginx.conf_path, encoding="utf-8") as f:
        text = f.read()
    assert all(secrets_in(text).values()) and {name for _, name in secret_options()} == set(secrets_in(text))
    assert not secrets_in(re.sub(r"(?m)^app_id = .*", "", text))["app_id"]


def test_bytes():
    assert table.bytes_of('a\\x00\\x{3*\\xFFb}\\u0000é') == b"a\x00" + b"\xffb" * 3 + b"\\u0000\xc3\xa9"


def test_what_was_broken_is_mended_when_a_case_ends_early(nginx, tmp_path):
    case = read("=== one\ndown examjoint\n%s< 200 {}\nup examjoint\n" % SEND.partition("\n")[2], tmp_path).cases[0]
    with pytest.raises(AssertionError):
        Player(nginx, case).play()
    assert Player(nginx, read(SEND + "< 200 {}\n", tmp_path).cases[0]).play() == OK
