"""The real `examhook work` against the stand-in of Talview."""
import contextlib
import email.utils
import http.client
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from support import free_port, is_in_time  # noqa: E402
from worker_support import PASSWORD, PATIENCE, World, environment, wait_for  # noqa: E402

# HTTP/2 in front of the stand-in; its connections end after some streams, while others are still open.
HTTP2_CONF = """
daemon off;
master_process off;
pid %(dir)s/nginx.pid;
error_log stderr error;
events {}
http {
    log_format protocol "$server_protocol $status";
    access_log %(dir)s/access.log protocol;
    client_body_temp_path %(dir)s/tmp-body;
    proxy_temp_path %(dir)s/tmp-proxy;
    fastcgi_temp_path %(dir)s/tmp-fastcgi;
    uwsgi_temp_path %(dir)s/tmp-uwsgi;
    scgi_temp_path %(dir)s/tmp-scgi;
    server {
        listen 127.0.0.1:%(port)d ssl http2;
        ssl_certificate %(dir)s/talview/server.pem;
        ssl_certificate_key %(dir)s/talview/server.key;
        keepalive_requests %(streams)d;
        location / {
            proxy_pass %(standin)s;
        }
    }
}
"""


@pytest.fixture
def world():
    """world(settings, accounts, standin) makes one; it is closed at the end."""
    made = []

    def make(*arguments, **how):
        made.append(World(*arguments, **how))
        return made[-1]
    yield make
    for one in made:
        one.close()


def gaps(calls):
    times = [c["time"] for c in calls]
    return [b - a for a, b in zip(times, times[1:])]


# --- Ratings ---------------------------------------------------------------------------------------------


def test_a_rating_comes_as_talview_says_it(world):
    w = world()
    one = w.callback(external_id="claimed-1")
    w.control(sessions={one: {"rating": " High ", "external_id": "real-7", "session_status": "completed"}})
    w.once()
    row = w.session(one)
    assert (row["state"], row["rating"], row["rating_raw"]) == ("rated", "high", " High ")
    assert (row["external_id"], row["status"], row["type"]) == ("real-7", "completed", "ai_proctor")
    assert row["account"] == "main" and row["attempts"] == 1 and not row["last_error"]
    assert [h["rating"] for h in row["history"]] == ["high"]


def test_a_word_nobody_knows_is_kept_as_it_came(world):
    w = world()
    one = w.callback()
    w.control(sessions={one: {"rating": "Tr\u00e8s bien"}})
    w.once()
    row = w.session(one)
    assert (row["state"], row["rating"], row["rating_raw"]) == ("rated", "none", "Tr\u00e8s bien")


def test_claims_in_the_callback_set_no_rating(world):
    w = world()
    one = w.callback(message="rating high", final_rating="high", rating="high", rating_raw="high", state="rated",
                     status="completed", type="ai_proctor")
    w.control(sessions={one: {"rating": None}})
    w.once()
    row = w.session(one)
    assert row["state"] == "pending" and row["rating"] in (None, "none") and row["rating_raw"] is None
    assert all(h["rating"] == "none" for h in row["history"])


@pytest.mark.parametrize("rule", [{"rating": None}, {"rating": ""}, {"missing": ["final_rating"]}],
                         ids=["null", "empty", "missing"])
def test_a_rating_that_comes_later(world, rule):
    w = world({"retry_first": "1s"})
    one = w.callback()
    w.control(sessions={one: {"steps": [rule, rule, {"rating": "medium"}]}})
    w.daemon()
    wait_for(lambda: w.in_state(one))
    row = w.session(one)
    assert row["rating"] == "medium" and row["attempts"] == 3
    assert [h["rating"] for h in row["history"] if h["rating_raw"]] == ["medium"]
    assert min(gaps(w.calls(one))) > 0.8


def test_another_callback_brings_the_fetch_forward(world):
    w = world()
    one = w.callback()
    w.control(sessions={one: {"null_first": 1, "rating": "low"}})
    w.once()
    w.once()
    assert w.counts()["by_uuid"][one] == 1 and w.session(one)["state"] == "pending"
    w.callback(one, message="Rating Has Been Calculated")
    w.once()
    assert w.session(one)["rating"] == "low"


def test_no_rating_for_too_long_is_parked_and_can_be_retried(world):
    w = world({"retry_first": "1s", "rating_wait": "2s"})
    machine, human = w.callbacks(2)
    w.control(sessions={machine: {"rating": None}, human: {"rating": None, "type": "record_and_review"}})
    w.daemon()
    wait_for(lambda: w.in_state(machine, state="parked"))
    rows = w.sessions()
    assert rows[machine]["last_error"] == "no_rating" and not rows[machine]["next_attempt_at"]
    assert rows[human]["state"] == "pending", "humans take longer"
    w.control(sessions={machine: {"rating": "high"}})
    assert w.run("retry", machine).returncode == 0
    wait_for(lambda: w.in_state(machine))


def test_a_rating_changed_later_is_seen_and_its_history_kept(world):
    w = world({"watch_every": "1s"})
    one = w.callback()
    w.control(sessions={one: {"ratings": ["high", "high", "low"]}})
    w.daemon()
    wait_for(lambda: (w.session(one) or {}).get("rating") == "low")
    wait_for(lambda: w.session(one)["attempts"] >= 5)
    row = w.session(one)
    assert row["state"] == "rated"
    assert [(h["rating"], h["rating_raw"]) for h in row["history"]] == [("high", "high"), ("low", "low")]


def test_the_watch_ends_with_its_window(world):
    w = world({"watch_every": "1s", "watch_window": "2s"})
    one = w.callback()
    w.daemon()
    wait_for(lambda: (w.session(one) or {}).get("state") == "rated" and not w.session(one)["next_attempt_at"])
    fetched = w.counts()["by_uuid"][one]
    assert fetched in (2, 3)
    time.sleep(2)
    assert w.counts()["by_uuid"][one] == fetched


# --- Logins ----------------------------------------------------------------------------------------------


def test_one_login_serves_many_sessions_sixteen_at_once(world):
    w = world()
    sessions = w.callbacks(64)
    w.control(default={"delay": 0.5}, login={"delay": 0.2})
    w.once()
    assert w.in_state(*sessions)
    counts = w.counts()
    assert counts["logins"] == 1 and counts["by_uuid"] == dict.fromkeys(sessions, 1)
    assert 8 <= counts["peak"] <= 16
    assert counts["connections"] <= 17, "connections are kept"
    w.callback()
    w.once()
    assert w.counts()["logins"] == 1, "the token is kept in the store"


@pytest.mark.parametrize("what", ["expire_tokens", "forget_tokens"], ids=["403", "401"])
def test_an_expired_token_costs_one_further_login(world, what):
    w = world()
    w.callback()
    w.once()
    w.age_token()
    w.control(**{what: True})
    w.control(default={"delay": 0.1})
    sessions = w.callbacks(20)
    w.once()
    rows = w.sessions()
    assert [(rows[s]["state"], rows[s]["attempts"]) for s in sessions] == [("rated", 1)] * len(sessions), rows
    assert w.counts()["logins"] == 2


def test_a_token_is_renewed_before_it_expires(world):
    w = world()
    w.callback()
    w.once()
    now = int(time.time() * 1000)
    w.database("UPDATE logins SET obtained_at = ?, expires_at = ?", now - 10740 * 1000, now + 60 * 1000)
    w.callback()
    w.once()
    assert w.counts()["logins"] == 2 and not [c for c in w.calls() if c["status"] != 200]


@pytest.mark.parametrize("what,word", [("expire_tokens", "forbidden"), ("forget_tokens", "unauthorized")])
def test_a_young_token_that_is_refused_causes_no_login(world, what, word):
    w = world()
    w.callback()
    w.once()
    w.control(**{what: True})
    sessions = w.callbacks(5)
    w.once()
    rows = w.sessions()
    assert w.counts()["logins"] == 1
    assert all(rows[s]["state"] == "pending" and rows[s]["last_error"].startswith(word) for s in sessions)
    w.age_token()
    w.make_due()
    w.once()
    assert w.in_state(*sessions) and w.counts()["logins"] == 2


def test_a_wrong_app_id_does_not_make_us_log_in_again_and_again(world):
    w = world({"retry_first": "1s"}, {"main": {"app_id": "not-ours"}})
    w.callbacks(5)
    daemon = w.daemon()
    wait_for(lambda: w.counts()["sessions"] >= 8)
    daemon.stop()
    assert w.counts()["logins"] == 1


@pytest.mark.parametrize("rule", [None, {"status": 400}, {"status": 403}, {"success": False}],
                         ids=["401", "400", "403", "success-false"])
def test_wrong_credentials_stop_logins(world, rule):
    w = world(accounts={"main": {"password": "wrong-CANARY"} if rule is None else {}})
    sessions = w.callbacks(5)
    if rule:
        w.control(login=rule)
    daemon = w.daemon()
    wait_for(lambda: "level=error" in daemon.log())
    time.sleep(2.5)
    daemon.stop()
    w.once()
    assert w.counts()["logins"] == 1 and w.counts()["sessions"] == 0
    rows = w.sessions()
    assert all(rows[s]["attempts"] == 0 and rows[s]["state"] == "pending" for s in sessions), "left untouched"
    assert rows[sessions[0]]["last_error"] == "login: wrong_credentials"
    assert re.search(r"level=error.*account=\S*main", daemon.log())
    assert "CANARY" not in daemon.log()

    # The configuration is put right: the next start tries at once.
    w.control(login={})
    w.write_conf()
    w.once()
    assert w.in_state(*sessions) and w.counts()["logins"] == 2


def test_a_password_file_put_right_ends_the_pause(world):
    w = world()
    secret = w.path("password")

    def write(text):
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            f.write(text)
    write("wrong\n")
    w.write_conf({"main": {"password": None, "password_file": secret}})
    one = w.callback()
    w.once()
    w.once()
    assert w.counts()["logins"] == 1 and w.login_row()["error"] == "wrong_credentials"
    write(PASSWORD + "\n")
    w.once()
    assert w.in_state(one) and w.counts()["logins"] == 2


def test_a_configuration_of_the_future_does_not_end_the_pause(world):
    w = world(accounts={"main": {"password": "wrong"}})
    w.callback()
    os.utime(w.conf, (time.time() + 86400,) * 2)
    daemon = w.daemon()
    wait_for(lambda: "level=error" in daemon.log())
    time.sleep(1.5)
    daemon.stop()
    w.once()
    assert w.counts()["logins"] == 1


def test_tokens_got_in_vain_are_remembered_from_one_run_of_cron_to_the_next(world):
    w = world({"retry_first": "1s"}, {"main": {"app_id": "not-ours"}})
    w.callbacks(2)
    w.once()
    for age, logins in ((120, 2), (70, 3), (70, 3), (70, 4), (130, 4)):
        w.age_token(age)
        w.make_due()
        w.once()
        assert w.counts()["logins"] == logins, age

    # One that proves good ends that.
    w.write_conf()
    w.control(forget_tokens=True)
    w.age_token(3600)
    w.make_due()
    w.once()
    assert w.counts()["logins"] == 5 and w.login_row()["failures"] == 0
    assert all(row["state"] == "rated" for row in w.sessions().values())


def test_a_login_that_is_not_answered_is_not_sent_twice(world):
    w = world({"transfers": "1"})
    first = w.callback()
    w.once()
    one = w.callback()
    w.age_token()
    w.control(expire_tokens=True, login={"vanish": True})
    w.once()
    assert w.counts()["logins"] == 2 and w.login_row()["error"] == "connection_cut"
    assert w.in_state(first) and w.session(one)["attempts"] == 0


def test_a_login_that_outlasts_the_budget_counts_as_failed(world):
    w = world()
    one = w.callback()
    w.control(login={"delay": 3})
    w.once("--budget", "1")
    assert w.login_row()["error"] == "timeout" and w.login_row()["lease_owner"] is None
    w.once("--budget", "1")
    assert w.counts()["logins"] <= 1 and w.session(one)["attempts"] == 0


def test_the_pause_after_wrong_credentials_grows(world):
    w = world({"login_pause": "1s"}, {"main": {"password": "wrong"}})
    w.callbacks(3)
    daemon, pauses = w.daemon(), {}

    def fourth():
        pauses.update(w.database("SELECT failures, blocked_until - obtained_at FROM logins WHERE failures > 0"))
        return len(w.calls("/login")) >= 4
    wait_for(fourth, 40)
    daemon.stop()
    # By what it stores; one that the machine let pass unseen is missing.
    assert 3 in pauses and all(pause == 1000 * 2 ** (failures - 1) for failures, pause in pauses.items()), pauses
    between = gaps(w.calls("/login"))
    assert between[0] >= 1 and between[1] >= 2 and between[2] >= 4, between
    assert between[0] + between[1] < 9 * PATIENCE, between


@pytest.mark.parametrize("rule,word", [
    ({"status": 500}, "server_error"), ({"malformed": True}, "malformed"), ({"missing": ["access_token"]}, "malformed"),
    ({"oversize": 100000}, "too_large"), ({"oversize": 100000, "chunked": True}, "too_large"),
    ({"status": 302, "headers": {"Location": "/v1/user/login"}}, "refused"), ({"cut": 30}, "connection_cut"),
    ({"status": 429, "retry_after": 7200}, "rate_limited"),
], ids=lambda v: v if isinstance(v, str) else None)
def test_a_login_that_fails_is_tried_again_later(world, rule, word):
    w = world()
    sessions = w.callbacks(3)
    w.control(login=rule)
    w.once()
    w.once()
    assert w.counts()["logins"] == 1 and w.counts()["sessions"] == 0
    row = w.login_row()
    assert row["error"] == word and not row["token"] and row["lease_owner"] is None
    if "retry_after" in rule:
        assert 7100 < row["blocked_until"] / 1000 - time.time() < 7300
    w.control(login={})
    w.database("UPDATE logins SET blocked_until = 1")
    w.once()
    assert w.in_state(*sessions)


def test_no_login_reply_is_kept_and_no_password(world):
    w = world()
    w.callback()
    canary = "REPLY-CANARY-4711"
    w.control(login={"body": {"refresh_token": canary, "access_token": 7}})
    log = w.once()
    w.database("UPDATE logins SET blocked_until = 1")
    w.control(login={"body": {"access_token": "TOKEN-" + canary, "refresh_token": canary}})
    log += w.once()
    assert canary not in log and PASSWORD not in log
    for path, content in w.written(skip=("/store/ratings/", "/talview/")):
        assert canary.encode() not in content and PASSWORD.encode() not in content, path
    for path, content in w.written(skip=("/talview/",)):
        assert content.replace(b"TOKEN-" + canary.encode(), b"").count(canary.encode()) == 0, path
    for name in os.listdir(w.path("store/ratings")):
        mode = os.stat(w.path("store/ratings", name)).st_mode
        assert not mode & 0o007, name


# --- When Talview is in trouble --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_429_pauses_the_account_and_only_that(world, form):
    w = world({"retry_first": "1s", "transfers": "2"}, {"main": {}, "second": {}})
    busy = w.callback()
    w.once()
    pause, date = 7, int(time.time()) + 9
    after = pause if form == "seconds" else email.utils.formatdate(date, usegmt=True)
    w.control(sessions={busy: {"steps": [{"status": 429, "retry_after": after}, {}]}})
    w.make_due()
    w.once()
    other, elsewhere = w.callback(), w.callback(account="second")
    w.daemon()
    wait_for(lambda: w.in_state(busy, other, elsewhere) and len(w.calls(busy)) == 3, 40)
    until = w.calls(busy)[1]["time"] + pause if form == "seconds" else date
    assert w.calls(elsewhere)[0]["time"] < until, "another account is served meanwhile"
    assert w.calls(other)[0]["time"] > until - 0.1, "a worker started later knows of the pause"
    assert w.calls(busy)[2]["time"] > until - 0.1


def test_503_with_retry_after_is_obeyed(world):
    w = world({"retry_first": "1s"})
    one, other = w.callbacks(2)
    w.control(sessions={one: {"steps": [{"status": 503, "retry_after": 3}, {}]}})
    w.daemon()
    wait_for(lambda: w.in_state(one, other))
    assert gaps(w.calls(one))[0] >= 3


def test_503_with_retry_after_pauses_the_account(world):
    w = world({"transfers": "1"}, {"main": {}, "second": {}})
    one = w.callback()
    w.control(sessions={one: {"status": 503, "retry_after": 3600}})
    w.once()
    other, elsewhere = w.callback(), w.callback(account="second")
    w.once()
    assert w.in_state(elsewhere) and w.calls(other) == []


def test_an_account_in_trouble_holds_up_no_other(world):
    """Others are served while its calls hang, however long they do; and soon also while some of them time out."""
    w = world({"transfers": "4", "request_timeout": "5m", "lease": "10m"}, {"main": {}, "slow": {}})
    stuck = w.callbacks(16, account="slow")
    w.control(sessions={s: {"delay": 600} for s in stuck})
    daemon = w.daemon()
    wait_for(lambda: w.counts()["peak"] >= 3)
    for _ in range(3):
        one = w.callback()
        wait_for(lambda: w.in_state(one), 30)
    assert not [call for call in w.calls() if call["path"].rpartition("/")[2] in stuck], "a call that hung has ended"
    daemon.stop()

    w.write_conf({"main": {}, "slow": {}}, request_timeout="%ds" % (3 * PATIENCE), connect_timeout="%ds" % (2 * PATIENCE),
                 lease="%ds" % (20 * PATIENCE), retry_first="1s")
    daemon = w.daemon()
    wait_for(lambda: any(row["last_error"] for s, row in w.sessions().items() if s in stuck), 20)

    def served():
        time.sleep(1)
        began = time.monotonic()
        one = w.callback()
        wait_for(lambda: w.in_state(one), 30)
        return time.monotonic() - began
    assert is_in_time(served, 2.5 * PATIENCE), "not behind time-outs"


def test_500s_are_retried_with_growing_waits(world):
    w = world({"retry_first": "1s"})
    one = w.callback()
    w.control(sessions={one: {"steps": [{"status": 500}, {"status": 502}, {"status": 500}, {}]}})
    w.daemon()
    wait_for(lambda: "server_error" in ((w.session(one) or {}).get("last_error") or ""))
    wait_for(lambda: w.in_state(one), 20)
    row = w.session(one)
    assert row["attempts"] == 4 and not row["last_error"]
    waits = gaps(w.calls(one))
    assert waits[0] >= 0.85 and waits[1] >= 1.7 and waits[2] >= 3.4, waits


@pytest.mark.parametrize("rule,wait,word", [
    ({"status": 404}, "not_found_wait", "not_found"), ({"status": 500}, "failure_wait", "server_error"),
    ({"malformed": True}, "failure_wait", "malformed")], ids=["404", "500", "malformed"])
def test_what_goes_on_failing_is_parked(world, rule, wait, word):
    w = world({"retry_first": "1s", wait: "2s"})
    one = w.callback()
    w.control(sessions={one: rule})
    w.daemon()
    wait_for(lambda: w.in_state(one, state="parked"))
    row = w.session(one)
    assert row["last_error"].startswith(word) and row["attempts"] >= 2 and not row["next_attempt_at"]
    w.control(sessions={one: {}})
    assert w.run("retry", "--parked").returncode == 0
    wait_for(lambda: w.in_state(one))


@pytest.mark.parametrize("rule,word", [
    ({"status": 401}, "wrong_credentials"), ({"status": 500}, "server_error"), ({"malformed": True}, "malformed"),
    ({"delay": 3}, "timeout"), ({"status": 429, "retry_after": 1}, "rate_limited")], ids=lambda v: v if isinstance(v, str) else None)
def test_a_login_that_fails_for_ever_parks_what_waits_for_it(world, rule, word):
    w = world({"retry_first": "1s", "login_pause": "1s", "failure_wait": "3s", "transfers": "2", "request_timeout": "2s",
               "connect_timeout": "2s"})
    w.control(default={"rating": "high"})
    rated = w.callback()
    w.once()
    w.database("UPDATE logins SET token = NULL")
    w.make_due()
    sessions = w.callbacks(12)
    w.control(reset=True, login=rule)
    daemon = w.daemon()
    wait_for(lambda: w.in_state(*sessions, state="pending"))
    w.database("UPDATE sessions SET unknown = 1 WHERE session_uuid IN (?, ?)", *sessions[-2:]) # as of an open callback
    wait_for(lambda: w.in_state(*sessions, state="parked"), 40)
    late = w.callback()
    wait_for(lambda: late in w.sessions(), 5)
    rows, calls, fetched = w.sessions(), w.calls("/login"), w.counts()["sessions"]
    w.control(login={}) # before the latecomer is given up too
    assert calls[-1]["time"] - calls[0]["time"] >= 2.5, "not before the time"
    assert fetched == 0 and len(calls) <= 9, "the pauses were kept"
    for one in sessions:
        assert (rows[one]["last_error"], rows[one]["attempts"]) == ("login: " + word, 0) and not rows[one]["next_attempt_at"]
    assert rows[late]["state"] == "pending", "what comes later has its own time"
    assert rows[rated]["state"] == "rated" and rows[rated]["rating"] == "high" and rows[rated]["next_attempt_at"]
    assert re.search(r"level=warn.*sessions parked.*account=\S*main.*reason=.*login: " + word, daemon.log())

    w.callback(sessions[0], message="Rating Has Been Calculated")
    assert w.run("retry", sessions[1]).returncode == 0
    wait_for(lambda: w.in_state(*sessions[:2], late), 40)
    assert w.in_state(*sessions[2:], state="parked"), "what was given up waits for somebody"
    assert w.run("retry", "--parked").returncode == 0
    wait_for(lambda: w.in_state(*sessions, late))


def test_a_worker_that_was_down_for_days_parks_nothing_at_its_first_failed_login(world):
    w = world({"retry_first": "1s", "login_pause": "2s", "failure_wait": "3s"})
    one = w.callback()
    w.control(login={"status": 500})
    w.once()
    week = 7 * 86400 * 1000
    w.database("UPDATE logins SET obtained_at = obtained_at - ?, blocked_until = blocked_until - ?", week, week)
    w.database("UPDATE meta SET value = value - ? WHERE name LIKE 'logins_fail_from %'", week)
    w.database("UPDATE sessions SET next_attempt_at = next_attempt_at - ?, waits_from = waits_from - ?", week, week)
    w.once()
    assert w.counts()["logins"] == 2 and w.session(one)["state"] == "pending"
    w.daemon()
    wait_for(lambda: w.in_state(one, state="parked"), 40)


def test_a_watch_ends_with_its_window_also_where_logins_fail(world):
    w = world({"retry_first": "1s", "login_pause": "1s", "failure_wait": "2s", "watch_every": "1s", "watch_window": "3s"})
    one = w.callback()
    w.control(default={"rating": "high"})
    w.once()
    w.database("UPDATE logins SET token = NULL")
    w.control(login={"status": 500})
    w.daemon()
    wait_for(lambda: not w.session(one)["next_attempt_at"], 40)
    assert w.session(one)["state"] == "rated" and w.session(one)["rating"] == "high"


@pytest.mark.parametrize("rule,word", [
    ({"drip": {"bytes": 1, "every": 0.3}}, "timeout"),
    ({"delay": 10}, "timeout"),
    ({"cut": 20}, "connection_cut"),
    ({"cut": 0}, "connection_cut"),
    ({"oversize": 2000000}, "too_large"),
    ({"oversize": 2000000, "chunked": True}, "too_large"),
    ({"headers": {"X-Long-%d" % i: "x" * 7000 for i in range(8)}}, "too_large"),
    ({"malformed": True}, "malformed: invalid_json"),
    ({"body": "<html>nginx</html>", "content_type": "text/html"}, "malformed: invalid_json"),
    ({"body": ""}, "malformed: empty_body"),
    ({"body": "[]"}, "malformed: not_an_object"),
    ({"body": {"data": {"final_rating": "high"}}}, "malformed: uuid_missing"),
    ({"uuid": "00000000-53f6-11eb-b441-492a960aa0ba"}, "malformed: uuid_differs"),
    ({"rating": 3}, "malformed: final_rating_type"),
    ({"status": 204, "body": ""}, "malformed: HTTP 204"),
    ({"success": False}, "refused: success_false"),
    ({"status": 302, "headers": {"Location": "/v1/user/login"}}, "refused: HTTP 302"),
    ({"status": 418}, "refused: HTTP 418"),
], ids=["drip", "silent", "cut", "cut-headers", "oversize", "oversize-chunked", "headers", "malformed", "html", "empty",
        "array", "shape", "other-session", "number", "204", "success-false", "redirect", "418"])
def test_a_bad_reply_is_an_error_and_holds_up_nobody(world, rule, word):
    # What has nothing to do with time has enough of it.
    w = world({"request_timeout": "4s", "connect_timeout": "4s"} if word == "timeout" else {})
    bad, good = w.callbacks(2)
    w.control(sessions={bad: rule})
    log = w.once()
    rows = w.sessions()
    assert rows[good]["state"] == "rated"
    assert rows[bad]["state"] == "pending" and rows[bad]["last_error"].startswith(word), rows[bad]["last_error"]
    assert rows[bad]["rating_raw"] is None and rows[bad]["next_attempt_at"] and rows[bad]["attempts"] == 1
    assert "level=warn" in log and bad in log
    assert w.counts()["logins"] == 1, "no redirect was followed"
    kept = w.database("SELECT reply FROM sessions WHERE session_uuid = ?", bad)[0][0]
    if word.startswith("malformed") and rule.get("body") != "":
        assert kept and len(kept.encode()) <= 4096, "what makes no sense is kept"
    w.control(sessions={bad: {}})
    w.make_due()
    w.once()
    assert w.session(bad)["state"] == "rated" and not w.session(bad)["last_error"]


def test_a_rated_session_stays_rated_when_talview_fails(world):
    w = world()
    one = w.callback()
    w.control(sessions={one: {"rating": "high"}})
    w.once()
    w.control(sessions={one: {"status": 500}})
    w.make_due()
    w.once()
    row = w.session(one)
    assert row["state"] == "rated" and row["rating"] == "high" and row["last_error"].startswith("server_error")


def test_connections_that_end_without_an_answer_cost_two_calls_at_most(world):
    """libcurl sends a GET again by itself, up to five times, where kept connections end like that."""
    w = world()
    before = w.callbacks(12)
    w.control(default={"delay": 0.3})
    w.daemon()
    wait_for(lambda: w.in_state(*before))
    w.control(default={"vanish": True})
    one = w.callback()
    for attempt in (1, 2, 3):
        wait_for(lambda number=attempt: (w.session(one) or {}).get("attempts") == number)
        assert 1 <= w.counts()["by_uuid"][one] <= 2 * attempt
        w.database("UPDATE sessions SET next_attempt_at = 1 WHERE session_uuid = ? AND attempts < 3", one)
    assert w.session(one)["last_error"].startswith("connection_cut")


@pytest.mark.parametrize("rule", [{"slow_head": 0.1}, {}, {"chunked": True}], ids=["later", "at once", "chunked"])
@pytest.mark.parametrize("status", [204, 304])
def test_a_body_where_none_belongs_spoils_no_other_sessions_reply(world, status, rule):
    """What follows a 204 or a 304 would be taken for the beginning of the next reply on that connection."""
    w = world({"transfers": "1"})
    bad, *good = w.callbacks(4)
    w.control(sessions={bad: {"status": status, "body": "[]" * 50, **rule}})
    w.once()
    assert w.in_state(*good), w.sessions()
    assert [w.session(one)["attempts"] for one in (bad, *good)] == [1] * 4
    assert len({call["connection"] for call in w.calls("/v1/sessions/")}) <= 3, "the good replies' connection is kept"


@contextlib.contextmanager
def oddly_spaced(w):
    """The address of a server before the stand-in whose status lines have a space too many, and that puts a body behind
    each 204, a moment later."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            to = http.client.HTTPSConnection(w.url.partition("//")[2], context=w.tls)
            with contextlib.closing(to):
                to.request(self.command, self.path, body, dict(self.headers))
                answer = to.getresponse()
                said = answer.read() or b"[]" * 50
            self.wfile.write(b"HTTP/1.1  %d Odd\r\nContent-Length: %d\r\n\r\n" % (answer.status, len(said)))
            time.sleep(0.1 * (answer.status == 204))
            with contextlib.suppress(ConnectionError): # behind a 204 nobody waits for it
                self.wfile.write(said)
        do_GET = do_POST = do

        def finish(self):
            with contextlib.suppress(ConnectionError):
                super().finish()

        def log_message(self, *_): # pylint: disable=arguments-differ
            pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield "http://127.0.0.1:%d" % server.server_address[1]
        finally:
            server.shutdown()


def test_nor_where_the_status_line_is_oddly_spaced(world):
    w = world({"transfers": "1"})
    with oddly_spaced(w) as url:
        w.write_conf({"main": {"login_url": url + "/v1/user/login", "session_url": url + "/v1/sessions"}})
        bad, *good = w.callbacks(4)
        w.control(sessions={bad: {"status": 204}})
        w.once()
    assert w.in_state(*good), w.sessions()
    assert [w.session(one)["attempts"] for one in (bad, *good)] == [1] * 4


def test_a_certificate_that_nobody_vouches_for(world):
    w = world(accounts={"main": {"ca_file": None}})
    one = w.callback()
    log = w.once()
    assert w.calls() == [], "nothing was sent"
    assert w.login_row()["error"] == "tls" and "level=warn" in log
    assert w.session(one)["attempts"] == 0 and w.session(one)["last_error"] == "login: tls"


def test_a_certificate_for_another_name(world):
    w = world()
    url = w.url.replace("127.0.0.1", "127.0.0.2")
    w.write_conf({"main": {"login_url": url + "/v1/user/login", "session_url": url + "/v1/sessions"}})
    w.callback()
    w.once()
    assert w.calls() == [] and w.login_row()["error"] in ("tls", "connect")


def test_only_the_session_host_has_another_authority(world):
    w, other = world(), world()
    w.write_conf({"main": {"session_url": other.url + "/v1/sessions"}})
    one = w.callback()
    w.once()
    assert w.session(one)["last_error"].startswith("tls") and other.calls() == []


@pytest.mark.parametrize("host,word", [("https://127.0.0.1:%d", "connect"), ("https://talview.invalid", "dns")])
def test_a_host_that_cannot_be_reached(world, host, word):
    w = world()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = host % taken.getsockname()[1] if "%d" in host else host
        w.write_conf({"main": {"login_url": url + "/v1/user/login"}, "half": {"session_url": url + "/v1/sessions"}})
        one, half = w.callback(), w.callback(account="half")
        w.once()
    assert w.login_row()["error"] == word and w.session(one)["state"] == "pending"
    assert w.session(half)["last_error"].startswith(word) and w.session(half)["attempts"] == 1
    w.write_conf({"main": {}, "half": {}})
    w.database("UPDATE logins SET blocked_until = 1")
    w.make_due()
    w.once()
    assert w.in_state(one, half)


def test_the_environments_proxy_and_key_log_are_not_used(world):
    w = world()
    one = w.callback()
    nowhere, keys = "http://127.0.0.1:1", w.path("keys")
    w.once(env={"https_proxy": nowhere, "HTTPS_PROXY": nowhere, "ALL_PROXY": nowhere, "SSLKEYLOGFILE": keys})
    assert w.in_state(one) and not os.path.exists(keys)


# 20: a new connection has room for all that the worker does at once, and what was turned away is not turned away again.
# 7: it may be. That is a failed attempt, and the next one comes; no call is made twice.
@pytest.mark.parametrize("streams", [20, 7])
def test_http2_streams_of_connections_that_end_now_and_then(world, streams):
    w = world({} if streams == 20 else {"retry_first": "1s"})
    port = free_port()
    with open(w.path("nginx.conf"), "w", encoding="utf-8") as f:
        f.write(HTTP2_CONF % {"dir": w.folder, "port": port, "standin": w.url, "streams": streams})
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    with subprocess.Popen([nginx, "-e", "stderr", "-p", w.folder, "-c", w.path("nginx.conf")],
                          stdin=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: os.path.exists(w.path("nginx.pid")))
            url = "https://127.0.0.1:%d" % port
            w.write_conf({"main": {"login_url": url + "/v1/user/login", "session_url": url + "/v1/sessions"}})
            sessions = w.callbacks(40)
            w.control(default={"delay": 0.05}, login={"delay": 0.1})
            if streams == 20:
                w.once()
            else:
                w.daemon()
                wait_for(lambda: w.in_state(*sessions))
            rows = w.sessions()
        finally:
            server.terminate()
            server.wait(10)
    odd = [rows[s] for s in sessions if (rows[s]["state"], rows[s]["attempts"]) != ("rated", 1)]
    assert not odd or (streams == 7 and len(odd) < len(sessions) / 2), odd
    counts = w.counts()
    assert counts["logins"] == 1 and counts["by_uuid"] == dict.fromkeys(sessions, 1)
    with open(w.path("access.log"), encoding="utf-8") as log:
        assert [line.split() for line in log] == [["HTTP/2.0", "200"]] * 41


# --- Workers ---------------------------------------------------------------------------------------------


def test_two_workers_fetch_nothing_twice_and_log_in_once(world):
    w = world({"transfers": "8"})
    sessions = w.callbacks(60)
    w.control(default={"delay": 1}, login={"delay": 1})
    both = [w.daemon(), w.daemon()]
    wait_for(lambda: w.in_state(*sessions), 30)
    for daemon in both:
        assert daemon.stop()[0] == 0
    counts = w.counts()
    assert counts["by_uuid"] == dict.fromkeys(sessions, 1) and counts["logins"] == 1
    assert counts["peak"] > 8, "both took part"


def test_a_killed_workers_lease_runs_out(world):
    w = world({"request_timeout": "5s", "connect_timeout": "5s", "lease": "8s"})
    w.callback()
    w.once()
    w.control(reset=True)
    w.database("UPDATE logins SET token = NULL")
    one = w.callback()
    w.control(sessions={one: {"steps": [{"delay": 4}, {}]}})
    daemon = w.daemon()
    wait_for(lambda: w.counts()["logins"] == 1 and w.counts()["peak"] == 1 and w.database(
        "SELECT 1 FROM sessions WHERE lease_owner IS NOT NULL"), every=0.02)
    daemon.stop(signal.SIGKILL)
    until = w.database("SELECT lease_until FROM sessions WHERE session_uuid = ?", one)[0][0] / 1000
    assert 5 < until - time.time() <= 12, "time for a login and a fetch, of five seconds each, and no more"
    w.once()
    assert w.session(one)["attempts"] == 0, "it is still another's"
    w.daemon()
    wait_for(lambda: w.in_state(one), 30)
    assert time.time() >= until


def test_a_worker_killed_while_logging_in_does_not_stop_logins(world):
    w = world({"request_timeout": "5s", "connect_timeout": "5s", "lease": "8s"})
    one = w.callback()
    w.control(login={"steps": [{"delay": 4}, {}]})
    daemon = w.daemon()
    wait_for(lambda: w.counts()["peak"] == 1 and (w.login_row() or {}).get("lease_owner"), every=0.02)
    daemon.stop(signal.SIGKILL)
    until = w.database("SELECT lease_until FROM logins")[0][0] / 1000
    other = w.callback() # which no lease of its own holds back
    w.daemon()
    wait_for(lambda: w.in_state(other), 30)
    assert time.time() >= until, "two never log in at once"
    wait_for(lambda: w.in_state(one))


def test_a_lease_of_the_far_future_counts_as_expired(world):
    w = world()
    one, other = w.callbacks(2)
    w.control(default={"rating": None})
    w.once()
    w.control(default={})
    far = int(time.time() * 1000) + 400 * 86400 * 1000
    w.database("UPDATE sessions SET next_attempt_at = ? WHERE session_uuid = ?", far, one)
    w.database("UPDATE sessions SET next_attempt_at = 1, lease_owner = 'gone', lease_until = ? WHERE session_uuid = ?",
               far, other)
    w.database("UPDATE logins SET blocked_until = ?", far)
    w.once()
    assert w.in_state(one, other)


def test_sigterm_gives_the_leases_back(world):
    w = world()
    w.callback()
    w.once()
    sessions = w.callbacks(20)
    w.control(default={"steps": [{"delay": 8}]})
    daemon = w.daemon()
    wait_for(lambda: w.ask("/control/counts")["peak"] >= 16)
    status, took = daemon.stop()
    assert status == 0 and took < 3
    assert w.database("SELECT count(*) FROM sessions WHERE lease_owner IS NOT NULL") == [(0,)]
    assert all(row["attempts"] == 0 for s, row in w.sessions().items() if s in sessions)
    w.control(default={})
    w.once()
    assert w.in_state(*sessions)


def test_sigterm_while_logging_in(world):
    w = world()
    one = w.callback()
    w.control(login={"steps": [{"delay": 8}, {}]})
    daemon = w.daemon()
    wait_for(lambda: (w.login_row() or {}).get("lease_owner"))
    status, took = daemon.stop(signal.SIGINT)
    assert status == 0 and took < 3 and w.login_row()["lease_owner"] is None
    w.once()
    assert w.in_state(one)


def test_once_ends_within_its_budget(world):
    w = world({"transfers": "1"})

    def ended():
        sessions = w.callbacks(6)
        w.control(default={"delay": 1.2})
        began = time.monotonic()
        w.once("--budget", "3")
        took = time.monotonic() - began
        rows = w.sessions()
        rated = [s for s in sessions if rows[s]["state"] == "rated"]
        assert took > 2 and len(rated) <= 3
        assert all(rows[s]["attempts"] == 0 for s in sessions if s not in rated), "given back untouched"
        w.control(default={})
        w.once()
        assert w.in_state(*sessions)
        return took if rated else float("inf")
    assert is_in_time(ended, 5)


def test_once_does_not_wait_for_what_is_due_later(world):
    w = world({"retry_first": "20s"})
    w.control(default={"rating": None})

    def ended():
        one = w.callback()
        began = time.monotonic()
        w.once()
        took = time.monotonic() - began
        assert w.counts()["by_uuid"][one] == 1
        w.database("UPDATE sessions SET next_attempt_at = next_attempt_at + 3600000")
        return took
    assert is_in_time(ended, 4)


def test_two_onces_do_not_overlap(world):
    w = world()
    one = w.callback()
    w.control(default={"delay": 5})
    with subprocess.Popen(w.command("work", "--once"), env=environment(), stderr=subprocess.DEVNULL) as first:
        wait_for(lambda: w.counts()["peak"] >= 1)
        second = w.run("work", "--once")
        assert second.returncode == 0 and "another is running" in second.stdout + second.stderr
        assert first.wait(20) == 0
    assert w.in_state(one) and w.counts()["by_uuid"] == {one: 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a file from its user")
def test_root_leaves_the_lock_of_once_to_the_stores_owner(world):
    w = world(standin=False, accounts={"main": {"username": None, "password": None, "app_id": None, "ca_file": None}})
    os.chown(w.path("store/ratings"), 65534, 65534)
    w.once()
    assert os.stat(w.path("store/ratings/once.lock")).st_uid == 65534


def test_accounts_without_credentials_are_left_alone_and_named_once(world):
    none = {"username": None, "password": None, "app_id": None}
    w = world(accounts={"main": {}, "bare": none})
    one, bare = w.callback(), w.callback(account="bare")
    daemon = w.daemon()
    wait_for(lambda: w.in_state(one))
    time.sleep(2.2)
    daemon.stop()
    row = w.session(bare)
    assert row["state"] == "pending" and row["attempts"] == 0
    assert len([x for x in daemon.log().splitlines() if "no Talview credentials" in x]) == 1


def test_sessions_of_an_account_that_was_taken_out(world):
    w = world(accounts={"main": {}, "former": {}})
    one, former = w.callback(), w.callback(account="former")
    w.write_conf()
    daemon = w.daemon()
    wait_for(lambda: w.in_state(one))
    time.sleep(2.2)
    daemon.stop()
    assert w.session(former)["attempts"] == 0
    assert len([x for x in daemon.log().splitlines() if "former" in x]) == 1


def test_a_new_callback_is_seen_by_a_worker_that_waits(world):
    w = world()

    def seen():
        daemon = w.daemon() # a new one each time, so that its looks lie alike
        wait_for(lambda: "the worker is up" in daemon.log())
        time.sleep(1.5)
        began = time.monotonic()
        one = w.callback()
        wait_for(lambda: w.in_state(one), 30)
        took = time.monotonic() - began
        daemon.stop()
        return took
    assert is_in_time(seen, 5 * PATIENCE)


@pytest.mark.parametrize("arguments", [("--budget", "5"), ("--once", "--budget", "0"), ("--once", "--budget", "x"),
                                       ("now",), ("--twice",)])
def test_a_wrong_command_line(world, arguments):
    w = world(standin=False, accounts={"main": {"ca_file": None}})
    assert w.run("work", *arguments).returncode == 2


def test_no_store_yet(world):
    w = world(standin=False, accounts={"main": {"ca_file": None}})
    os.rename(w.path("store"), w.path("elsewhere"))
    done = w.run("work", "--once")
    assert done.returncode == 4 and "examhook migrate" in done.stderr
