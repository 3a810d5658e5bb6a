/* What follows from a reply: tables over worker_decide() and its siblings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cli/worker.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define SECOND 1000LL
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define T0 1795000000000LL

static const struct config CONFIG = {
    .retry_first_ms = MINUTE,
    .retry_max_ms = 6 * HOUR,
    .rating_wait_ms = 3 * DAY,
    .rating_wait_human_ms = 14 * DAY,
    .failure_wait_ms = 3 * DAY,
    .not_found_wait_ms = DAY,
    .watch_window_ms = 30 * DAY,
    .watch_every_ms = 12 * HOUR,
    .login_pause_ms = 15 * MINUTE,
};

struct decide_case {
    const char *name;
    /* the session */
    const char *type, *rating_raw;
    int64_t failures, first_rated_at_ms, since_ms; /* since: now - first_seen_at */
    /* the reply */
    enum talview_outcome outcome;
    int64_t retry_after_ms;
    const char *rating, *reply_type;
    /* what must follow; the next attempt comes between `from` and `to` from now, -1: none */
    const char *state;
    int64_t from, to;
    const char *error;
    bool usable;
};

static const struct decide_case CASES[] = {
    /* Rated: watched until the window closes. */
    {"first rating", NULL, NULL, 0, 0, MINUTE, TALVIEW_OK, -1, "high", "ai_proctor", "rated",
     12 * HOUR * 7 / 8, 12 * HOUR * 9 / 8, NULL, true},
    {"unknown word is a rating", NULL, NULL, 0, 0, MINUTE, TALVIEW_OK, -1, "splendid", NULL, "rated",
     12 * HOUR * 7 / 8, 12 * HOUR * 9 / 8, NULL, true},
    {"rated again", "ai_proctor", "high", 0, T0 - 29 * DAY, 29 * DAY, TALVIEW_OK, -1, "low", "ai_proctor",
     "rated", 12 * HOUR * 7 / 8, 12 * HOUR * 9 / 8, NULL, true},
    {"the window closes", "ai_proctor", "high", 0, T0 - 30 * DAY + HOUR, 30 * DAY, TALVIEW_OK, -1, "high",
     "ai_proctor", "rated", -1, -1, NULL, true},
    /* No rating yet. */
    {"null at once", NULL, NULL, 0, 0, 0, TALVIEW_OK, -1, NULL, "ai_proctor", "pending", MINUTE * 7 / 8,
     MINUTE * 9 / 8, NULL, true},
    {"null after two hours", "ai_proctor", NULL, 0, 0, 2 * HOUR, TALVIEW_OK, -1, NULL, "ai_proctor",
     "pending", 2 * HOUR * 7 / 8, 2 * HOUR * 9 / 8, NULL, true},
    {"null after a day", "ai_proctor", NULL, 0, 0, DAY, TALVIEW_OK, -1, NULL, "ai_proctor", "pending",
     6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, NULL, true},
    {"empty", NULL, NULL, 0, 0, 0, TALVIEW_OK, -1, "", "ai_proctor", "pending", MINUTE * 7 / 8,
     MINUTE * 9 / 8, NULL, true},
    {"white space", NULL, NULL, 0, 0, 0, TALVIEW_OK, -1, " ", "ai_proctor", "pending", MINUTE * 7 / 8,
     MINUTE * 9 / 8, NULL, true},
    {"the clock was put back", NULL, NULL, 0, 0, -5 * DAY, TALVIEW_OK, -1, NULL, NULL, "pending",
     MINUTE * 7 / 8, MINUTE * 9 / 8, NULL, true},
    {"a last time at the end", "ai_proctor", NULL, 0, 0, 3 * DAY - HOUR, TALVIEW_OK, -1, NULL, "ai_proctor",
     "pending", HOUR, HOUR, NULL, true},
    {"waited for long enough", "ai_proctor", NULL, 0, 0, 3 * DAY, TALVIEW_OK, -1, NULL, "ai_proctor",
     "parked", -1, -1, "no_rating", true},
    {"humans take longer", NULL, NULL, 0, 0, 3 * DAY, TALVIEW_OK, -1, NULL, "record_and_review", "pending",
     6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, NULL, true},
    {"live too", NULL, NULL, 0, 0, 13 * DAY, TALVIEW_OK, -1, NULL, "live_proctor", "pending",
     6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, NULL, true},
    {"the type known before counts", "live_proctor", NULL, 0, 0, 13 * DAY, TALVIEW_OK, -1, NULL, NULL,
     "pending", 6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, NULL, true},
    {"humans, long enough", NULL, NULL, 0, 0, 14 * DAY, TALVIEW_OK, -1, NULL, "live_proctor", "parked", -1,
     -1, "no_rating", true},
    {"a rating taken back is waited for", "ai_proctor", "high", 0, T0 - 10 * DAY, 10 * DAY, TALVIEW_OK, -1,
     NULL, "ai_proctor", "pending", 6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, NULL, true},
    {"but not after the window", "ai_proctor", "high", 0, T0 - 31 * DAY, 31 * DAY, TALVIEW_OK, -1, NULL,
     "ai_proctor", "parked", -1, -1, "no_rating", true},
    /* Failures. */
    {"500", NULL, NULL, 0, 0, 0, TALVIEW_SERVER_ERROR, -1, NULL, NULL, "pending", MINUTE * 7 / 8,
     MINUTE * 9 / 8, "server_error", false},
    {"the fourth in a row", NULL, NULL, 3, 0, HOUR, TALVIEW_TIMEOUT, -1, NULL, NULL, "pending",
     8 * MINUTE * 7 / 8, 8 * MINUTE * 9 / 8, "timeout", false},
    {"the waits stop growing", NULL, NULL, 12, 0, 2 * DAY, TALVIEW_DNS, -1, NULL, NULL, "pending",
     6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, "dns", false},
    {"no overflow", NULL, NULL, 1000000, 0, DAY, TALVIEW_TLS, -1, NULL, NULL, "pending", 6 * HOUR * 7 / 8,
     6 * HOUR * 9 / 8, "tls", false},
    {"failing for days", NULL, NULL, 30, 0, 4 * DAY, TALVIEW_SERVER_ERROR, -1, NULL, NULL, "parked", -1, -1,
     "server_error", false},
    {"malformed for days", NULL, NULL, 30, 0, 4 * DAY, TALVIEW_MALFORMED, -1, NULL, NULL, "parked", -1, -1,
     "malformed", false},
    {"the first failure after days of null", "record_and_review", NULL, 0, 0, 10 * DAY, TALVIEW_SERVER_ERROR,
     -1, NULL, NULL, "pending", MINUTE * 7 / 8, MINUTE * 9 / 8, "server_error", false},
    {"many failures, but a callback came anew", NULL, NULL, 30, 0, HOUR, TALVIEW_CUT, -1, NULL, NULL,
     "pending", 6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, "connection_cut", false},
    {"404", NULL, NULL, 0, 0, 0, TALVIEW_NOT_FOUND, -1, NULL, NULL, "pending", MINUTE * 7 / 8, MINUTE * 9 / 8,
     "not_found", false},
    {"404 for a day", NULL, NULL, 12, 0, 25 * HOUR, TALVIEW_NOT_FOUND, -1, NULL, NULL, "parked", -1, -1,
     "not_found", false},
    {"a day is not enough for 500", NULL, NULL, 12, 0, 25 * HOUR, TALVIEW_SERVER_ERROR, -1, NULL, NULL,
     "pending", 6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, "server_error", false},
    {"a rated one stays rated", "ai_proctor", "high", 30, T0 - 5 * DAY, 5 * DAY, TALVIEW_NOT_FOUND, -1, NULL,
     NULL, "rated", 6 * HOUR * 7 / 8, 6 * HOUR * 9 / 8, "not_found", false},
    {"until the window closes", "ai_proctor", "high", 30, T0 - 30 * DAY, 30 * DAY, TALVIEW_SERVER_ERROR, -1,
     NULL, NULL, "rated", -1, -1, "server_error", false},
    {"refused with a young token", NULL, NULL, 0, 0, 0, TALVIEW_FORBIDDEN, -1, NULL, NULL, "pending",
     MINUTE * 7 / 8, MINUTE * 9 / 8, "forbidden", false},
    /* Retry-After is a lower bound, the jitter comes on top. */
    {"429", NULL, NULL, 0, 0, 0, TALVIEW_RATE_LIMITED, 10 * MINUTE, NULL, NULL, "pending", 10 * MINUTE,
     10 * MINUTE * 9 / 8, "rate_limited", false},
    {"503 with a short one", NULL, NULL, 3, 0, HOUR, TALVIEW_SERVER_ERROR, SECOND, NULL, NULL, "pending",
     8 * MINUTE * 7 / 8, 8 * MINUTE * 9 / 8, "server_error", false},
    {"one of a year", NULL, NULL, 0, 0, 0, TALVIEW_RATE_LIMITED, 365 * DAY, NULL, NULL, "pending", 6 * HOUR,
     6 * HOUR * 9 / 8, "rate_limited", false},
    {"429 without", NULL, NULL, 0, 0, 0, TALVIEW_RATE_LIMITED, -1, NULL, NULL, "pending", MINUTE * 7 / 8,
     MINUTE * 9 / 8, "rate_limited", false},
};

static void check_case(const struct decide_case *c, uint32_t random)
{
    const struct store_lease lease = {
        .account = "main",
        .session_uuid = "f46bd560-53f6-11eb-b441-492a960aa0ba",
        .state = "pending",
        .type = c->type,
        .rating_raw = c->rating_raw,
        .attempts = c->failures,
        .failures = c->failures,
        .first_seen_at_ms = T0 - c->since_ms,
        .first_rated_at_ms = c->first_rated_at_ms,
    };
    const struct worker_outcome outcome = {c->outcome, c->retry_after_ms, c->rating, c->reply_type};
    struct worker_decision d = worker_decide(&CONFIG, T0, &lease, &outcome, random);
    int64_t wait = d.next_attempt_at_ms == 0 ? -1 : d.next_attempt_at_ms - T0;
    if (strcmp(d.state, c->state) != 0 || wait < c->from || wait > c->to || d.usable != c->usable)
        fail_msg("%s: %s, next in %lld ms", c->name, d.state, (long long)wait);
    if (c->error ? !d.error || strcmp(d.error, c->error) != 0 : d.error != NULL)
        fail_msg("%s: error %s", c->name, d.error ? d.error : "(none)");
    if (d.next_attempt_at_ms > T0 + worker_max_ahead_ms(&CONFIG))
        fail_msg("%s: the store would take this deadline for a jump of the clock", c->name);
}

static void decisions(void **state)
{
    static const uint32_t RANDOM[] = {0, 1, 4711, UINT32_MAX / 2, UINT32_MAX};
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        for (size_t r = 0; r < COUNT(RANDOM); r++)
            check_case(&CASES[i], RANDOM[r]);
    }
}

static void what_failed_together_does_not_come_again_together(void **state)
{
    const struct store_lease lease = {.state = "pending", .failures = 3, .first_seen_at_ms = T0 - HOUR};
    const struct worker_outcome outcome = {.outcome = TALVIEW_SERVER_ERROR, .retry_after_ms = -1};
    (void)state;
    int64_t a = worker_decide(&CONFIG, T0, &lease, &outcome, 1000).next_attempt_at_ms;
    int64_t b = worker_decide(&CONFIG, T0, &lease, &outcome, 90000).next_attempt_at_ms;
    assert_int_not_equal(a, b);
}

/* The whole life of a session whose replies never change, from the first fetch to the parking. */
static void lives_through(enum talview_outcome outcome_code, const char *type, int64_t patience_ms)
{
    struct store_lease lease = {.state = "pending", .type = type, .first_seen_at_ms = T0};
    const struct worker_outcome outcome = {.outcome = outcome_code, .retry_after_ms = -1, .type = type};
    int64_t now = T0;
    int fetches = 0;
    for (; fetches < 1000; fetches++) {
        struct worker_decision d =
            worker_decide(&CONFIG, now, &lease, &outcome, (uint32_t)fetches * 2654435761u);
        if (strcmp(d.state, "parked") == 0)
            break;
        assert_string_equal(d.state, "pending");
        assert_true(d.next_attempt_at_ms > now);
        now = d.next_attempt_at_ms;
        lease.attempts++;
        lease.failures = d.usable ? 0 : lease.failures + 1;
    }
    /* Neither given up early nor much late, and asked neither all the time nor hardly ever. */
    assert_true(now - T0 >= patience_ms);
    assert_true(now - T0 <= patience_ms + patience_ms / 4 + 14 * HOUR);
    assert_in_range(fetches, 8, 100);
}

static void a_life_without_a_rating(void **state)
{
    (void)state;
    lives_through(TALVIEW_OK, "ai_proctor", 3 * DAY);
    lives_through(TALVIEW_OK, "record_and_review", 14 * DAY);
    lives_through(TALVIEW_SERVER_ERROR, NULL, 3 * DAY);
    lives_through(TALVIEW_MALFORMED, NULL, 3 * DAY);
    lives_through(TALVIEW_NOT_FOUND, NULL, DAY);
}

static void tokens(void **state)
{
    char token[] = "t";
    static const struct {
        int64_t obtained, expires;
        bool usable;
    } TOKENS[] = {
        {T0 - HOUR, T0 + 2 * HOUR, true},
        {T0 - 3 * HOUR + 4 * MINUTE, T0 + 4 * MINUTE, false}, /* shortly before it expires */
        {T0 - 3 * HOUR, T0, false},
        {T0 - 4 * HOUR, T0 - HOUR, false},
        {T0 - 30 * SECOND, T0 + 30 * SECOND, true}, /* short-lived: the margin is a tenth */
        {T0 - 55 * SECOND, T0 + 5 * SECOND, false},
        {T0 + HOUR, T0 + 4 * HOUR, false},       /* the clock was put back */
        {T0 + 20 * SECOND, T0 + 3 * HOUR, true}, /* by a little: it is the same token */
        {T0 - HOUR, T0 + 40 * DAY, false},       /* further off than anything we would have stored */
    };
    (void)state;
    for (size_t i = 0; i < COUNT(TOKENS); i++) {
        struct store_login login = {
            .token = token, .obtained_at_ms = TOKENS[i].obtained, .expires_at_ms = TOKENS[i].expires};
        if (worker_token_usable(&login, T0) != TOKENS[i].usable)
            fail_msg("token %zu", i);
        login.token = NULL;
        assert_false(worker_token_usable(&login, T0));
    }
}

struct login_case {
    const char *error; /* before */
    int64_t failures;
    enum talview_outcome outcome;
    int64_t retry_after_ms;
    /* after */
    const char *word;
    int64_t pause_ms, count;
};

static void failed_logins(void **state)
{
    static const struct login_case LOGINS[] = {
        {NULL, 0, TALVIEW_UNAUTHORIZED, -1, "wrong_credentials", 15 * MINUTE, 1},
        {NULL, 0, TALVIEW_FORBIDDEN, -1, "wrong_credentials", 15 * MINUTE, 1},
        {"wrong_credentials", 1, TALVIEW_UNAUTHORIZED, -1, "wrong_credentials", 30 * MINUTE, 2},
        {"wrong_credentials", 4, TALVIEW_UNAUTHORIZED, -1, "wrong_credentials", 4 * HOUR, 5},
        {"wrong_credentials", 90, TALVIEW_UNAUTHORIZED, -1, "wrong_credentials", DAY, 91},
        {"timeout", 9, TALVIEW_UNAUTHORIZED, -1, "wrong_credentials", 15 * MINUTE, 1},
        {NULL, 0, TALVIEW_TIMEOUT, -1, "timeout", MINUTE, 1},
        {"timeout", 2, TALVIEW_DNS, -1, "dns", 4 * MINUTE, 3},
        {"dns", 50, TALVIEW_SERVER_ERROR, -1, "server_error", 15 * MINUTE, 51},
        {"wrong_credentials", 9, TALVIEW_CONNECT, -1, "connect", MINUTE, 1},
        {NULL, 0, TALVIEW_RATE_LIMITED, 2 * HOUR, "rate_limited", 2 * HOUR, 1},
        {NULL, 0, TALVIEW_SERVER_ERROR, 90 * DAY, "server_error", 6 * HOUR, 1},
        {NULL, 0, TALVIEW_MALFORMED, 0, "malformed", MINUTE, 1},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(LOGINS); i++) {
        const struct login_case *c = &LOGINS[i];
        struct store_login before = {.failures = c->failures, .error = xstrdup(c->error)};
        struct store_login after;
        worker_login_failed(&CONFIG, T0, &before, c->outcome, c->retry_after_ms, &after);
        assert_null(after.token);
        assert_string_equal(after.error, c->word);
        assert_int_equal(after.blocked_until_ms - T0, c->pause_ms);
        assert_int_equal(after.failures, c->count);
        free(before.error);
        free(after.error);
    }
}

/* Fails again and again as the pauses allow, `off` later than they ask for, until something is given up, and
   says how long after the first failure that was. */
static int64_t first_given_up(enum talview_outcome outcome, int64_t retry_after_ms, int64_t off, int *logins)
{
    struct store_login login = {0};
    int64_t now = T0, end = T0 + 400 * DAY;
    for (*logins = 0; now < end && worker_login_gives_up(&CONFIG, &login) == 0; ++*logins) {
        struct store_login after;
        if (*logins > 0)
            now = login.blocked_until_ms + off;
        worker_login_failed(&CONFIG, now, &login, outcome, retry_after_ms, &after);
        store_login_release(&login);
        login = after;
    }
    /* What came before the first failure is given up, what came at the last one is not. */
    int64_t since = worker_login_gives_up(&CONFIG, &login);
    if (now < end && (since < T0 || since > now - CONFIG.failure_wait_ms + 2 * DAY))
        fail_msg("given up is what waited since %lld", (long long)(since - T0));
    store_login_release(&login);
    return now - T0;
}

static void logins_that_fail_for_long_give_up(void **state)
{
    int logins;
    (void)state;
    assert_in_range(first_given_up(TALVIEW_UNAUTHORIZED, -1, 0, &logins), 3 * DAY, 4 * DAY);
    assert_in_range(logins, 8, 12);
    assert_in_range(first_given_up(TALVIEW_SERVER_ERROR, -1, 0, &logins), 3 * DAY, 3 * DAY + HOUR);
    assert_in_range(logins, 250, 350);
    assert_in_range(first_given_up(TALVIEW_RATE_LIMITED, 6 * HOUR, 0, &logins), 3 * DAY, 3 * DAY + 6 * HOUR);
    assert_in_range(first_given_up(TALVIEW_RATE_LIMITED, 365 * DAY, 0, &logins), 3 * DAY, 3 * DAY + 6 * HOUR);
    /* Looked at by cron every hour: of each, the pause and a little more is what counts. */
    assert_in_range(first_given_up(TALVIEW_DNS, -1, 45 * MINUTE, &logins), 9 * DAY, 13 * DAY);
    /* Only now and then: it takes as many failed logins, but it does end. */
    assert_in_range(first_given_up(TALVIEW_TIMEOUT, -1, DAY, &logins), 100 * DAY, 350 * DAY);
}

/* One login that failed, `failing` of `elapsed` having been spent so, and the next, `later` after it. */
static struct store_login failed_again(int64_t elapsed, int64_t failing, int64_t later)
{
    struct store_login before = {
        .obtained_at_ms = T0,
        .blocked_until_ms = T0 + 15 * MINUTE,
        .failures = 40,
        .error = xstrdup("server_error"),
        .failing_from_ms = T0 - elapsed,
        .failing_ms = failing,
    };
    struct store_login after;
    worker_login_failed(&CONFIG, T0 + later, &before, TALVIEW_UNAUTHORIZED, -1, &after);
    store_login_release(&before);
    return after;
}

static void only_time_spent_failing_counts(void **state)
{
    static const struct {
        const char *name;
        int64_t elapsed, failing, later, counted;
        int64_t since; /* given up is what waited for longer; relative to T0, 0: nothing */
    } TIMES[] = {
        {"as planned", DAY, DAY, 15 * MINUTE, DAY + 15 * MINUTE, 0},
        {"long enough", 3 * DAY - 15 * MINUTE, 3 * DAY - 15 * MINUTE, 15 * MINUTE, 3 * DAY,
         -(3 * DAY - 15 * MINUTE)},
        {"for longer", 5 * DAY, 5 * DAY, 15 * MINUTE, 5 * DAY + 15 * MINUTE, -3 * DAY + 15 * MINUTE},
        {"the worker was off for a week", HOUR, HOUR, 7 * DAY, HOUR + 15 * MINUTE * 5 / 4, 0},
        {"off before, and it goes on", 9 * DAY, 3 * DAY - 15 * MINUTE, 15 * MINUTE, 3 * DAY, -9 * DAY},
        {"nothing of which is over", 2 * DAY, 2 * DAY, -HOUR, 2 * DAY - HOUR, 0},
        {"the clock was put back by a lot", DAY, DAY, -9 * DAY, 0, 0},
        {"has served, mostly off: anew", 9 * DAY, 3 * DAY, 15 * MINUTE, 0, 0},
        {"has served, hardly off", 9 * DAY, 8 * DAY, 15 * MINUTE, 8 * DAY + 15 * MINUTE,
         -4 * DAY + 15 * MINUTE},
        {"no sense", DAY, -DAY, 15 * MINUTE, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(TIMES); i++) {
        struct store_login login = failed_again(TIMES[i].elapsed, TIMES[i].failing, TIMES[i].later);
        int64_t since = worker_login_gives_up(&CONFIG, &login);
        if (login.failing_ms != TIMES[i].counted || since != (TIMES[i].since ? T0 + TIMES[i].since : 0))
            fail_msg("%s: %lld counted, since %lld", TIMES[i].name, (long long)login.failing_ms,
                     (long long)(since - T0));
        store_login_release(&login);
    }
}

static void a_token_ends_the_failing(void **state)
{
    char token[] = "t";
    (void)state;
    struct store_login login = failed_again(5 * DAY, 5 * DAY, 15 * MINUTE);
    assert_true(worker_login_gives_up(&CONFIG, &login) > 0);
    login.token = token;
    assert_int_equal(worker_login_gives_up(&CONFIG, &login), 0);
    login.token = NULL;
    store_login_release(&login);
    assert_int_equal(worker_login_gives_up(&CONFIG, &login), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decisions),
        cmocka_unit_test(what_failed_together_does_not_come_again_together),
        cmocka_unit_test(a_life_without_a_rating),
        cmocka_unit_test(tokens),
        cmocka_unit_test(failed_logins),
        cmocka_unit_test(logins_that_fail_for_long_give_up),
        cmocka_unit_test(only_time_spent_failing_counts),
        cmocka_unit_test(a_token_ends_the_failing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
