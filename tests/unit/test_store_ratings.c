/* Sessions in the store: made due by callbacks, leased to workers, rated; and the accounts' logins. */
#include <sys/wait.h>

#include "store_scratch.h"

#define HOUR INT64_C(3600000)
#define DAY (24 * HOUR)
#define NOW INT64_C(1795000000000)
#define LEASE INT64_C(180000)
#define AHEAD DAY

/* "00000000-0000-4000-8000-" and the number. */
static const char *uuid(int number, char text[40])
{
    (void)snprintf(text, 40, "00000000-0000-4000-8000-%012d", number);
    return text;
}

struct hint {
    const char *account, *message, *external_id, *sender;
    int number;
    bool open;
};

static void callbacks(struct store *store, const struct hint *hints, size_t count)
{
    assert_stored(store, store_round_begin(store, STORE_PROVIEW));
    for (size_t i = 0; i < count; i++) {
        char text[40];
        struct store_callback callback = {
            .received_at_ms = NOW,
            .account = hints[i].account != NULL ? hints[i].account : "acme",
            .session_uuid = uuid(hints[i].number, text),
            .message = hints[i].message != NULL ? hints[i].message : "terminated",
            .external_id = hints[i].external_id,
            .sender = hints[i].sender != NULL ? hints[i].sender : "192.0.2.1",
            .body = "{}",
            .open = hints[i].open,
        };
        assert_stored(store, store_step_begin(store));
        assert_stored(store, store_callback_add(store, &callback, NULL, NULL));
        assert_stored(store, store_step_end(store, true));
    }
    assert_stored(store, store_round_commit(store));
}

static size_t intake_bounded(struct store *store, int64_t now, int64_t fetches_hour, size_t most)
{
    size_t taken = 0;
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_intake(store, now, fetches_hour, most, &taken));
    assert_stored(store, store_round_commit(store));
    return taken;
}

static size_t intake(struct store *store, int64_t now)
{
    return intake_bounded(store, now, 6, 100000);
}

/* One callback for a session, taken in. */
static void call_for(struct store *store, int number, int64_t now)
{
    struct hint hint = {.number = number};
    callbacks(store, &hint, 1);
    assert_int_equal(intake(store, now), 1);
}

/* What a lease gave: the numbers with a space between, and the last one whole. */
struct leased {
    char numbers[2048];
    size_t count;
    int64_t attempts, failures, waits_from_ms, first_rated_at_ms;
    char account[32], state[16], type[32], rating_raw[32];
};

static void copy_text(char *to, size_t size, const char *text)
{
    (void)snprintf(to, size, "%s", text != NULL ? text : "(none)");
}

static void note_lease(void *context, const struct store_lease *lease)
{
    struct leased *leased = context;
    size_t len = strlen(leased->numbers);
    (void)snprintf(leased->numbers + len, sizeof leased->numbers - len, "%s%d", len > 0 ? " " : "",
                   (int)strtol(lease->session_uuid + 24, NULL, 10));
    leased->count++;
    leased->attempts = lease->attempts;
    leased->failures = lease->failures;
    leased->waits_from_ms = lease->first_seen_at_ms;
    leased->first_rated_at_ms = lease->first_rated_at_ms;
    copy_text(leased->account, sizeof leased->account, lease->account);
    copy_text(leased->state, sizeof leased->state, lease->state);
    copy_text(leased->type, sizeof leased->type, lease->type);
    copy_text(leased->rating_raw, sizeof leased->rating_raw, lease->rating_raw);
}

static const char *lease_skipping(struct store *store, const char *owner, int64_t now, size_t most,
                                  const char *const *skip, struct leased *leased)
{
    size_t taken = 0;
    *leased = (struct leased){.count = 0};
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(
        store, store_sessions_lease(store, now, owner, LEASE, AHEAD, skip, most, note_lease, leased, &taken));
    assert_stored(store, store_round_commit(store));
    assert_int_equal(taken, leased->count);
    return leased->numbers;
}

static const char *lease(struct store *store, const char *owner, int64_t now, size_t most,
                         struct leased *leased)
{
    return lease_skipping(store, owner, now, most, NULL, leased);
}

static enum store_status done(struct store *store, int number, struct store_session_result result)
{
    char text[40];
    result.session_uuid = uuid(number, text);
    if (result.account == NULL)
        result.account = "acme";
    if (result.owner == NULL)
        result.owner = "w1";
    if (result.state == NULL)
        result.state = "pending";
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    enum store_status status = store_session_done(store, &result);
    assert_stored(store, store_round_commit(store));
    return status;
}

/* A listing's row as it was, of one session. */
struct shown {
    size_t rows;
    char numbers[1024];
    char history[512];
    struct store_session_row row;
    char state[16], rating[16], raw[32], error[64], external[32], claimed[32], reply[32];
    size_t stop_after;
};

static bool note_row(void *context, const struct store_session_row *row)
{
    struct shown *shown = context;
    size_t len = strlen(shown->numbers);
    (void)snprintf(shown->numbers + len, sizeof shown->numbers - len, "%s%d", len > 0 ? " " : "",
                   (int)strtol(row->session_uuid + 24, NULL, 10));
    shown->rows++;
    shown->row = *row;
    copy_text(shown->state, sizeof shown->state, row->state);
    copy_text(shown->rating, sizeof shown->rating, row->rating);
    copy_text(shown->raw, sizeof shown->raw, row->rating_raw);
    copy_text(shown->error, sizeof shown->error, row->last_error);
    copy_text(shown->external, sizeof shown->external, row->external_id);
    copy_text(shown->claimed, sizeof shown->claimed, row->claimed_external_id);
    copy_text(shown->reply, sizeof shown->reply, row->reply);
    shown->history[0] = '\0';
    for (size_t i = 0; i < row->history_count; i++) {
        len = strlen(shown->history);
        (void)snprintf(shown->history + len, sizeof shown->history - len, "%s%s:%s:%s", i > 0 ? " " : "",
                       row->history[i].rating, row->history[i].rating_raw ? row->history[i].rating_raw : "-",
                       row->history[i].status ? row->history[i].status : "-");
    }
    return shown->stop_after == 0 || shown->rows < shown->stop_after;
}

/* All pages of a listing from the cursor on. */
static const char *list(struct store *store, const struct store_filter *filter, struct store_cursor *cursor,
                        size_t limit, struct shown *shown)
{
    bool more = true;
    *shown = (struct shown){.rows = 0};
    while (more)
        assert_stored(store, store_sessions(store, filter, cursor, limit, note_row, shown, &more));
    return shown->numbers;
}

static void show(struct store *store, int number, struct shown *shown)
{
    char text[40];
    struct store_filter filter = {.person = uuid(number, text)};
    struct store_cursor cursor = STORE_CURSOR_START;
    (void)list(store, &filter, &cursor, 10, shown);
    assert_int_equal(shown->rows, 1);
}

/* --- Callbacks taken in --------------------------------------------------------------------------------- */

static void test_a_callback_makes_a_session_due(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct hint hint = {.number = 7, .external_id = "4711"};
    callbacks(store, &hint, 1);
    assert_string_equal(lease(store, "w1", NOW, 10, &leased), "");
    assert_int_equal(intake(store, NOW + 5), 1);
    assert_int_equal(intake(store, NOW + 5), 0);
    assert_string_equal(lease(store, "w1", NOW + 5, 10, &leased), "7");
    assert_string_equal(leased.account, "acme");
    assert_string_equal(leased.state, "pending");
    assert_string_equal(leased.type, "(none)");
    assert_int_equal(leased.attempts, 0);
    assert_int_equal(leased.waits_from_ms, NOW + 5);
    assert_int_equal(leased.first_rated_at_ms, 0);
    struct shown shown;
    show(store, 7, &shown);
    assert_string_equal(shown.claimed, "4711");
    assert_string_equal(shown.external, "(none)");
    assert_int_equal(shown.row.first_seen_at_ms, NOW);
}

static void test_intake_in_parts(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hints[5];
    struct leased leased;
    for (int i = 0; i < 5; i++)
        hints[i] = (struct hint){.number = i + 1};
    callbacks(store, hints, 5);
    assert_int_equal(intake_bounded(store, NOW, 6, 2), 2);
    assert_string_equal(lease(store, "w1", NOW, 10, &leased), "1 2");
    assert_int_equal(intake_bounded(store, NOW, 6, 2), 2);
    assert_int_equal(intake_bounded(store, NOW, 6, 2), 1);
    assert_string_equal(lease(store, "w1", NOW, 10, &leased), "3 4 5");
}

static void test_an_abandoned_intake_takes_nothing(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hint = {.number = 1};
    size_t taken = 0;
    callbacks(store, &hint, 1);
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_intake(store, NOW, 6, 10, &taken));
    store_round_abandon(store);
    assert_int_equal(intake(store, NOW), 1);
}

static void test_two_accounts_share_a_uuid(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hints[] = {{.account = "acme", .number = 1}, {.account = "other", .number = 1}};
    struct leased leased;
    callbacks(store, hints, 2);
    assert_int_equal(intake(store, NOW), 2);
    assert_string_equal(lease(store, "w1", NOW, 10, &leased), "1 1");
    assert_stored(store, done(store, 1,
                              (struct store_session_result){.account = "other",
                                                            .at_ms = NOW,
                                                            .state = "rated",
                                                            .usable = true,
                                                            .rating = "high",
                                                            .rating_raw = "high",
                                                            .counts = true}));
    struct store_filter rated = {.state = "rated"};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct shown shown;
    assert_string_equal(list(store, &rated, &cursor, 10, &shown), "1");
}

/* Fetches that repeats cause are bounded: past the share of the hour they wait for its end. */
static void test_repeats_are_bounded(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hint = {.number = 1};
    struct leased leased;
    int64_t fetched = 0;
    for (int minute = 0; minute < 240; minute++) {
        int64_t now = NOW + minute * INT64_C(60000);
        callbacks(store, &hint, 1);
        assert_int_equal(intake_bounded(store, now, 2, 100), 1);
        if (*lease(store, "w1", now, 10, &leased) == '\0')
            continue;
        fetched++;
        assert_stored(
            store,
            done(store, 1, (struct store_session_result){.at_ms = now, .usable = true, .counts = true}));
    }
    assert_in_range(fetched, 6, 8);
}

static void test_a_due_session_is_fetched_once_for_many_callbacks(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hint = {.number = 1};
    struct leased leased;
    for (int i = 0; i < 10; i++) {
        callbacks(store, &hint, 1);
        assert_int_equal(intake_bounded(store, NOW + i, 2, 100), 1);
    }
    assert_string_equal(lease(store, "w1", NOW + 20, 10, &leased), "1");
    assert_stored(
        store,
        done(store, 1, (struct store_session_result){.at_ms = NOW + 20, .usable = true, .counts = true}));
    /* Only one of the two was used up. */
    callbacks(store, &hint, 1);
    assert_int_equal(intake_bounded(store, NOW + 30, 2, 100), 1);
    assert_string_equal(lease(store, "w1", NOW + 30, 10, &leased), "1");
}

static void test_a_repeat_brings_a_later_fetch_forward(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_stored(
        store, done(store, 1,
                    (struct store_session_result){
                        .at_ms = NOW, .usable = true, .counts = true, .next_attempt_at_ms = NOW + 6 * HOUR}));
    assert_string_equal(lease(store, "w1", NOW + HOUR, 1, &leased), "");
    call_for(store, 1, NOW + HOUR);
    assert_string_equal(lease(store, "w1", NOW + HOUR, 1, &leased), "1");
    assert_int_equal(leased.waits_from_ms, NOW + HOUR);
}

static void test_a_callback_wakes_a_parked_session(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_stored(store, done(store, 1,
                              (struct store_session_result){
                                  .at_ms = NOW, .state = "parked", .counts = true, .error = "not found"}));
    assert_string_equal(lease(store, "w1", NOW + 9 * DAY, 1, &leased), "");
    call_for(store, 1, NOW + 9 * DAY);
    assert_string_equal(lease(store, "w1", NOW + 9 * DAY, 1, &leased), "1");
    assert_string_equal(leased.state, "pending");
}

static void test_a_callback_while_leased_keeps_the_session_due(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const struct store_session_result results[] = {
        {.at_ms = NOW + 2,
         .state = "rated",
         .usable = true,
         .rating = "high",
         .rating_raw = "high",
         .counts = true},
        {.at_ms = NOW + 2, .state = "parked", .counts = true, .error = "not found"},
        {.at_ms = NOW + 2, .state = "pending", .counts = true, .next_attempt_at_ms = NOW + HOUR},
        {.at_ms = NOW + 2, .state = "pending", .counts = false, .next_attempt_at_ms = NOW + HOUR},
    };
    static const char *const states[] = {"rated", "pending", "pending", "pending"};
    for (int i = 0; i < 4; i++) {
        struct leased leased;
        struct shown shown;
        call_for(store, i, NOW);
        (void)lease(store, "w1", NOW, 1, &leased);
        call_for(store, i, NOW + 1);
        assert_string_equal(lease(store, "w2", NOW + 1, 1, &leased), "");
        assert_stored(store, done(store, i, results[i]));
        show(store, i, &shown);
        assert_string_equal(shown.state, states[i]);
        assert_int_equal(shown.row.next_attempt_at_ms, NOW + 1);
        (void)lease(store, "w2", NOW + 3, 1, &leased);
        assert_int_equal(leased.count, 1);
    }
}

/* A backup of the callbacks that is older than the ratings was put back. */
static void test_callbacks_of_an_older_copy_are_taken(void **state)
{
    struct scratch *scratch = *state;
    struct scratch old;
    char now_used[96], put_away[96], put_back[96];
    struct hint hints[] = {{.number = 1}, {.number = 2}, {.number = 3}}, fresh = {.number = 9};
    struct buf said = BUF_INIT;
    (void)snprintf(old.url, sizeof old.url, "sqlite:%s/old", scratch->folder);
    (void)snprintf(now_used, sizeof now_used, "%s/store/proview", scratch->folder);
    (void)snprintf(put_away, sizeof put_away, "%s/away", scratch->folder);
    (void)snprintf(put_back, sizeof put_back, "%s/old/proview", scratch->folder);
    assert_int_equal(store_migrate(old.url, &said), STORE_OK);
    buf_release(&said);
    old.store = scratch_open(&old, STORE_PROVIEW, 0, 1000);
    callbacks(old.store, hints, 1);
    store_free(old.store);
    callbacks(scratch->store, hints, 3);
    assert_int_equal(intake(scratch->store, NOW), 3);

    store_free(scratch->store);
    assert_int_equal(rename(now_used, put_away), 0);
    assert_int_equal(rename(put_back, now_used), 0);
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 1000);
    callbacks(scratch->store, &fresh, 1);
    assert_int_equal(intake(scratch->store, NOW), 2);
    assert_int_equal(intake(scratch->store, NOW), 0);
}

/* --- Leases --------------------------------------------------------------------------------------------- */

static void test_due_sessions_come_by_time(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW + 30);
    call_for(store, 2, NOW + 10);
    call_for(store, 3, NOW + 20);
    call_for(store, 4, NOW + 1000);
    assert_string_equal(lease(store, "w1", NOW + 100, 2, &leased), "2 3");
    assert_string_equal(lease(store, "w1", NOW + 100, 2, &leased), "1");
}

static void test_two_workers_never_lease_the_same(void **state)
{
    struct scratch *scratch = *state;
    struct store *other = scratch_open(scratch, STORE_RATINGS, STORE_PROVIEW, 5000);
    struct hint hints[20];
    struct leased a, b;
    for (int i = 0; i < 20; i++)
        hints[i] = (struct hint){.number = i};
    callbacks(scratch->store, hints, 20);
    assert_int_equal(intake(scratch->store, NOW), 20);
    assert_int_equal(intake(other, NOW), 0);
    assert_string_equal(lease(scratch->store, "w1", NOW, 12, &a), "0 1 2 3 4 5 6 7 8 9 10 11");
    assert_string_equal(lease(other, "w2", NOW, 12, &b), "12 13 14 15 16 17 18 19");
    assert_string_equal(lease(other, "w2", NOW, 12, &b), "");
    store_free(other);
}

/* Leases one after the other until there is none, and writes the numbers down the pipe. */
static void lease_all(const struct scratch *scratch, int out)
{
    char owner[32];
    struct leased leased;
    struct store *own = scratch_open(scratch, STORE_RATINGS, STORE_PROVIEW, 60000);
    (void)snprintf(owner, sizeof owner, "worker-%ld", (long)getpid());
    while (*lease(own, owner, NOW, 3, &leased) != '\0') {
        for (char *at = leased.numbers; *at != '\0';) {
            int value = (int)strtol(at, &at, 10);
            if (write(out, &value, sizeof value) != (ssize_t)sizeof value)
                _exit(1);
        }
    }
    store_free(own);
    _exit(0);
}

static void test_two_processes_never_lease_the_same(void **state)
{
    enum { SESSIONS = 300, WORKERS = 3 };
    struct scratch *scratch = *state;
    struct hint hints[SESSIONS];
    int times[SESSIONS] = {0}, pipes[2], value, got = 0;
    for (int i = 0; i < SESSIONS; i++)
        hints[i] = (struct hint){.number = i, .open = i % 2 == 0};
    callbacks(scratch->store, hints, SESSIONS);
    assert_int_equal(intake(scratch->store, NOW), SESSIONS);
    /* SQLite's connections do not outlive a fork. */
    store_free(scratch->store);
    scratch->store = NULL;
    assert_int_equal(pipe(pipes), 0);
    for (int i = 0; i < WORKERS; i++) {
        pid_t child = fork();
        assert_int_not_equal(child, -1);
        if (child == 0)
            lease_all(scratch, pipes[1]);
    }
    (void)close(pipes[1]);
    while (read(pipes[0], &value, sizeof value) == (ssize_t)sizeof value) {
        times[value]++;
        got++;
    }
    (void)close(pipes[0]);
    for (int i = 0; i < WORKERS; i++) {
        int ended = 0;
        assert_int_not_equal(wait(&ended), -1);
        assert_int_equal(ended, 0);
    }
    assert_int_equal(got, SESSIONS);
    for (int i = 0; i < SESSIONS; i++)
        assert_int_equal(times[i], 1);
}

static void test_a_dead_workers_lease_ends(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_session_result result = {
        .at_ms = NOW, .state = "rated", .usable = true, .rating = "low", .rating_raw = "low", .counts = true};
    struct leased leased;
    struct shown shown;
    call_for(store, 1, NOW);
    assert_string_equal(lease(store, "w1", NOW, 1, &leased), "1");
    assert_string_equal(lease(store, "w2", NOW + LEASE - 1, 1, &leased), "");
    assert_string_equal(lease(store, "w2", NOW + LEASE, 1, &leased), "1");
    assert_int_equal(done(store, 1, result), STORE_LOST);
    show(store, 1, &shown);
    assert_string_equal(shown.state, "pending");
    assert_int_equal(shown.row.attempts, 0);
    result.owner = "w2";
    assert_stored(store, done(store, 1, result));
    assert_int_equal(done(store, 1, result), STORE_LOST);
    assert_int_equal(done(store, 99, result), STORE_LOST);
}

/* An expired lease that nobody took is still good for its result: the fetch was made. */
static void test_a_late_result_counts_if_nobody_came_between(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_stored(store, done(store, 1,
                              (struct store_session_result){.at_ms = NOW + 2 * LEASE,
                                                            .usable = true,
                                                            .state = "rated",
                                                            .rating = "high",
                                                            .rating_raw = "High",
                                                            .counts = true}));
    struct shown shown;
    show(store, 1, &shown);
    assert_string_equal(shown.rating, "high");
    assert_string_equal(shown.raw, "High");
}

/* A rating that comes when the lease has run out. */
static void rate_late(struct store *store)
{
    assert_stored(store, done(store, 1,
                              (struct store_session_result){.at_ms = NOW + LEASE + 2,
                                                            .usable = true,
                                                            .state = "rated",
                                                            .rating = "high",
                                                            .rating_raw = "high",
                                                            .next_attempt_at_ms = NOW + DAY,
                                                            .counts = true}));
}

/* The callback spoke of something newer than what that late result saw. */
static void test_a_callback_after_the_lease_ran_out_is_not_answered_by_its_result(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    call_for(store, 1, NOW + LEASE + 1);
    rate_late(store);
    assert_string_equal(lease(store, "w1", NOW + LEASE + 3, 1, &leased), "1");
}

/* The clock was put forward while the owner still fetches. */
static void test_an_owner_takes_its_own_lease_again(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    call_for(store, 1, NOW + 1);
    assert_string_equal(lease(store, "w1", NOW + LEASE, 1, &leased), "1");
    assert_string_equal(lease(store, "w2", NOW + LEASE + 1, 1, &leased), "");
    rate_late(store);
    assert_string_equal(lease(store, "w2", NOW + LEASE + 3, 1, &leased), "1");
}

static void test_the_clock_jumps(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    /* A deadline that was set while the clock was years ahead. */
    call_for(store, 1, NOW + 900 * DAY);
    assert_string_equal(lease(store, "w1", NOW, 1, &leased), "1");
    /* So was this lease. */
    call_for(store, 2, NOW);
    assert_string_equal(lease(store, "w1", NOW + 900 * DAY, 1, &leased), "2");
    assert_string_equal(lease(store, "w2", NOW, 1, &leased), "2");
    /* A clock set back a little takes no lease away. */
    assert_string_equal(lease(store, "w3", NOW - 1000, 1, &leased), "");
    /* The same for those that come by sender. */
    struct hint unknown = {.number = 3, .open = true};
    callbacks(store, &unknown, 1);
    assert_int_equal(intake(store, NOW + 900 * DAY), 1);
    assert_string_equal(lease(store, "w2", NOW, 1, &leased), "3");
    /* A deadline within what we would set is kept. */
    call_for(store, 4, NOW + AHEAD - 1);
    assert_string_equal(lease(store, "w2", NOW, 1, &leased), "");
}

static void test_accounts_left_alone(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const char *const skip[] = {"acme", "third", NULL};
    struct hint hints[] = {{.account = "acme", .number = 1},
                           {.account = "other", .number = 2},
                           {.account = "acme", .number = 3, .open = true},
                           {.account = "other", .number = 4, .open = true},
                           {.account = "zeta", .number = 5, .open = true}};
    struct leased leased;
    callbacks(store, hints, 5);
    (void)intake(store, NOW);
    (void)lease_skipping(store, "w1", NOW, 10, skip, &leased);
    assert_int_equal(leased.count, 3);
    assert_null(strchr(leased.numbers, '1'));
    assert_null(strchr(leased.numbers, '3'));
    (void)lease(store, "w1", NOW, 10, &leased);
    assert_int_equal(leased.count, 2);
}

/* How many leases of one session each go to others before it is the turn of `number`. */
static int turns_until(struct store *store, int number, int64_t now)
{
    char wanted[16];
    struct leased leased;
    (void)snprintf(wanted, sizeof wanted, "%d", number);
    for (int turn = 1; turn < 100; turn++) {
        if (strcmp(lease(store, "w1", now, 1, &leased), wanted) == 0)
            return turn;
    }
    return 100;
}

static void forge(struct store *store, const char *format, int from, int count)
{
    struct hint *hints = calloc((size_t)count, sizeof *hints);
    char(*senders)[48] = calloc((size_t)count, sizeof *senders);
    assert_non_null(hints);
    assert_non_null(senders);
    for (int i = 0; i < count; i++) {
        (void)snprintf(senders[i], sizeof senders[i], "%s%x", format, i % 256);
        hints[i] = (struct hint){.number = from + i, .open = true, .sender = senders[i]};
    }
    callbacks(store, hints, (size_t)count);
    free(hints);
    free(senders);
}

static void test_a_forger_delays_nobody(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct hint many[1000];
    for (int i = 0; i < 1000; i++)
        many[i] = (struct hint){.number = i, .open = true, .sender = "198.51.100.66"};
    callbacks(store, many, 1000);
    assert_int_equal(intake(store, NOW), 1000);
    (void)lease(store, "w1", NOW, 16, &leased);
    assert_int_equal(leased.count, 16);
    /* Another address, a session of a protected account, and one more address. */
    struct hint others[] = {{.number = 5001, .open = true, .sender = "203.0.113.5"},
                            {.number = 5002, .account = "safe"},
                            {.number = 5003, .open = true, .sender = "203.0.113.4"}};
    callbacks(store, others, 3);
    assert_int_equal(intake(store, NOW + 1), 3);
    assert_in_range(turns_until(store, 5001, NOW + 2), 1, 5);
    (void)lease(store, "w1", NOW + 2, 6, &leased);
    struct shown shown;
    for (int number = 5002; number <= 5003; number++) {
        show(store, number, &shown);
        assert_stored(store, done(store, number,
                                  (struct store_session_result){.account = number == 5002 ? "safe" : "acme",
                                                                .at_ms = NOW + 2,
                                                                .usable = true,
                                                                .counts = true}));
    }
}

static void test_one_ipv6_network_is_one_sender(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    forge(store, "2001:db8:1:1::", 0, 500);
    struct hint real = {.number = 9000, .open = true, .sender = "2001:db8:1:2::1"};
    callbacks(store, &real, 1);
    assert_int_equal(intake(store, NOW), 501);
    assert_in_range(turns_until(store, 9000, NOW), 1, 2);
}

static void test_an_address_mapped_into_ipv6_is_the_same_sender(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct hint hints[202];
    struct leased leased;
    for (int i = 0; i < 200; i++)
        hints[i] = (struct hint){
            .number = i, .open = true, .sender = i % 2 == 0 ? "::ffff:198.51.100.7" : "198.51.100.7"};
    hints[200] = (struct hint){.number = 9000, .open = true, .sender = "::ffff:203.0.113.7"};
    hints[201] = (struct hint){.number = 9001, .open = true, .sender = "unix:"};
    callbacks(store, hints, 202);
    assert_int_equal(intake(store, NOW), 202);
    (void)lease(store, "w1", NOW, 3, &leased);
    assert_non_null(strstr(leased.numbers, "9000"));
    assert_non_null(strstr(leased.numbers, "9001"));
}

/* What the forger made up is asked for again and again (404); it stays behind those that were answered. */
static void test_a_forgers_repeats_delay_nobody(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    forge(store, "198.51.100.", 0, 1);
    struct hint many[300];
    for (int i = 0; i < 300; i++)
        many[i] = (struct hint){.number = i, .open = true, .sender = "198.51.100.66"};
    callbacks(store, many, 300);
    (void)intake(store, NOW);
    for (int i = 0; i < 300; i++) {
        (void)lease(store, "w1", NOW, 1, &leased);
        assert_stored(
            store, done(store, (int)strtol(leased.numbers, NULL, 10),
                        (struct store_session_result){
                            .at_ms = NOW, .counts = true, .error = "404", .next_attempt_at_ms = NOW + 1000}));
    }
    struct hint real = {.number = 9000, .open = true, .sender = "203.0.113.5"};
    callbacks(store, &real, 1);
    (void)intake(store, NOW + 5000);
    assert_in_range(turns_until(store, 9000, NOW + 5000), 1, 2);
    /* Answered once, it comes by time and takes turns with all the others. */
    assert_stored(
        store,
        done(store, 9000,
             (struct store_session_result){
                 .at_ms = NOW + 5000, .usable = true, .counts = true, .next_attempt_at_ms = NOW + 6000}));
    assert_in_range(turns_until(store, 9000, NOW + 6000), 1, 2);
}

static void test_a_protected_callback_makes_known(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    forge(store, "198.51.100.", 0, 50);
    (void)intake(store, NOW);
    struct hint again = {.number = 40, .sender = "198.51.100.1", .message = "rated"};
    callbacks(store, &again, 1);
    (void)intake(store, NOW);
    assert_in_range(turns_until(store, 40, NOW), 1, 2);
}

/* --- Results -------------------------------------------------------------------------------------------- */

static void test_history_only_upon_change(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const struct {
        bool usable;
        const char *rating, *raw, *status, *history;
    } steps[] = {
        {true, "none", NULL, "in_progress", ""},
        {true, "none", "", "in_review", ""},
        {false, NULL, NULL, NULL, ""},
        {true, "high", "High", "in_review", "high:High:in_review"},
        {true, "high", "High", "in_review", "high:High:in_review"},
        {false, "low", "low", "completed", "high:High:in_review"},
        {true, "high", "High", "completed", "high:High:in_review high:High:completed"},
        {true, "low", "low", "completed", "high:High:in_review high:High:completed low:low:completed"},
        {true, "none", NULL, "completed",
         "high:High:in_review high:High:completed low:low:completed none:-:completed"},
        {true, "none", "fair", "completed",
         "high:High:in_review high:High:completed low:low:completed none:-:completed none:fair:completed"},
    };
    struct leased leased;
    struct shown shown;
    call_for(store, 1, NOW);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int64_t now = NOW + (int64_t)i * 1000;
        assert_string_equal(lease(store, "w1", now, 1, &leased), "1");
        assert_stored(store, done(store, 1,
                                  (struct store_session_result){.at_ms = now,
                                                                .next_attempt_at_ms = now + 1000,
                                                                .state = steps[i].raw ? "rated" : "pending",
                                                                .usable = steps[i].usable,
                                                                .rating = steps[i].rating,
                                                                .rating_raw = steps[i].raw,
                                                                .status = steps[i].status,
                                                                .type = "live_proctor",
                                                                .counts = true}));
        show(store, 1, &shown);
        if (strcmp(shown.history, steps[i].history) != 0)
            fail_msg("after step %zu the history is \"%s\"", i, shown.history);
    }
    assert_int_equal(shown.row.attempts, sizeof steps / sizeof steps[0]);
}

static void test_what_a_result_leaves(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct shown shown;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_stored(store, done(store, 1,
                              (struct store_session_result){.at_ms = NOW,
                                                            .counts = true,
                                                            .next_attempt_at_ms = NOW + 10,
                                                            .error = "malformed",
                                                            .reply = "<html>"}));
    show(store, 1, &shown);
    assert_string_equal(shown.error, "malformed");
    assert_string_equal(shown.reply, "<html>");
    (void)lease(store, "w1", NOW + 10, 1, &leased);
    assert_int_equal(leased.failures, 1);
    assert_stored(store, done(store, 1,
                              (struct store_session_result){.at_ms = NOW + 10,
                                                            .counts = true,
                                                            .usable = true,
                                                            .state = "rated",
                                                            .external_id = "42",
                                                            .rating = "medium",
                                                            .rating_raw = "Medium",
                                                            .status = "completed",
                                                            .type = "ai_proctor",
                                                            .next_attempt_at_ms = NOW + 20}));
    show(store, 1, &shown);
    assert_string_equal(shown.error, "(none)");
    assert_string_equal(shown.reply, "<html>");
    assert_string_equal(shown.external, "42");
    assert_string_equal(shown.rating, "medium");
    assert_int_equal(shown.row.rated_at_ms, NOW + 10);
    /* An answer that cannot be used leaves the rating; the first time of it stays as well. */
    (void)lease(store, "w1", NOW + 20, 1, &leased);
    assert_int_equal(leased.failures, 0);
    assert_int_equal(leased.attempts, 2);
    assert_int_equal(leased.first_rated_at_ms, NOW + 10);
    assert_string_equal(leased.type, "ai_proctor");
    assert_string_equal(leased.rating_raw, "Medium");
    assert_stored(store, done(store, 1,
                              (struct store_session_result){
                                  .at_ms = NOW + 20, .counts = true, .state = "rated", .error = "500"}));
    show(store, 1, &shown);
    assert_string_equal(shown.raw, "Medium");
    assert_int_equal(shown.row.rated_at_ms, NOW + 10);
    assert_int_equal(shown.row.next_attempt_at_ms, 0);
}

static void test_put_back_untouched(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct shown shown;
    call_for(store, 1, NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_stored(store, done(store, 1, (struct store_session_result){.at_ms = NOW, .state = "parked"}));
    show(store, 1, &shown);
    assert_string_equal(shown.state, "pending");
    assert_int_equal(shown.row.attempts, 0);
    assert_int_equal(shown.row.next_attempt_at_ms, NOW);
    assert_string_equal(lease(store, "w2", NOW, 1, &leased), "1");
}

static void test_retry(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    char text[40], upper[] = "00000000-0000-4000-8000-00000000000A";
    int64_t count = -1, all = 0;
    for (int i = 1; i <= 3; i++)
        call_for(store, i, NOW);
    (void)lease(store, "w1", NOW, 3, &leased);
    static const char *const states[] = {"parked", "parked", "rated"};
    for (int i = 1; i <= 3; i++)
        assert_stored(
            store, done(store, i,
                        (struct store_session_result){.at_ms = NOW, .counts = true, .state = states[i - 1]}));
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_retry(store, uuid(3, text), NOW + 5, &count));
    assert_int_equal(count, 1);
    assert_stored(store, store_sessions_retry(store, upper, NOW + 5, &count));
    assert_int_equal(count, 0);
    assert_stored(store, store_round_commit(store));
    assert_string_equal(lease(store, "w1", NOW + 5, 9, &leased), "3");
    assert_string_equal(leased.state, "rated");
    assert_int_equal(leased.failures, 0);
    assert_int_equal(leased.waits_from_ms, NOW + 5);
    do {
        assert_stored(store, store_round_begin(store, STORE_RATINGS));
        assert_stored(store, store_sessions_retry(store, NULL, NOW + 6, &count));
        assert_stored(store, store_round_commit(store));
        all += count;
    } while (count > 0);
    assert_int_equal(all, 2);
    assert_string_equal(lease(store, "w1", NOW + 6, 9, &leased), "1 2");
    assert_string_equal(leased.state, "pending");
    /* While it is leased: once more after that. */
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_retry(store, uuid(1, text), NOW + 7, &count));
    assert_stored(store, store_round_commit(store));
    assert_stored(
        store,
        done(store, 1, (struct store_session_result){.at_ms = NOW + 8, .counts = true, .state = "parked"}));
    assert_string_equal(lease(store, "w1", NOW + 8, 9, &leased), "1");
}

static int64_t next_at(struct store *store, int64_t now)
{
    int64_t at = -1;
    assert_stored(store, store_sessions_next(store, now, LEASE, AHEAD, &at));
    return at;
}

static void test_when_the_next_is_due(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct hint hint = {.number = 1};
    assert_int_equal(next_at(store, NOW), 0);
    callbacks(store, &hint, 1);
    assert_in_range(next_at(store, NOW), 1, NOW - 1);
    (void)intake(store, NOW);
    assert_int_equal(next_at(store, NOW + 5), NOW);
    (void)lease(store, "w1", NOW, 1, &leased);
    assert_int_equal(next_at(store, NOW + 5), NOW + LEASE);
    assert_int_equal(next_at(store, NOW - LEASE), NOW + LEASE);
    assert_int_equal(next_at(store, NOW - LEASE - 1), NOW - LEASE - 1);
    assert_stored(store, done(store, 1,
                              (struct store_session_result){
                                  .at_ms = NOW, .counts = true, .next_attempt_at_ms = NOW + HOUR}));
    assert_int_equal(next_at(store, NOW), NOW + HOUR);
    assert_int_equal(next_at(store, NOW - 300 * DAY), NOW - 300 * DAY);
    (void)lease(store, "w1", NOW + HOUR, 1, &leased);
    assert_stored(
        store, done(store, 1, (struct store_session_result){.at_ms = NOW, .counts = true, .state = "rated"}));
    assert_int_equal(next_at(store, NOW + HOUR), 0);
}

/* --- Listing and purge ---------------------------------------------------------------------------------- */

static void test_listing(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct shown shown;
    struct hint hints[] = {{.number = 1, .external_id = "claim-1"}, {.number = 2}, {.number = 3}};
    static const struct store_filter all = {.person = NULL};
    struct store_cursor cursor = STORE_CURSOR_START, other = STORE_CURSOR_START;
    callbacks(store, hints, 3);
    (void)intake(store, NOW);
    (void)lease(store, "w1", NOW, 3, &leased);
    assert_stored(store, done(store, 2,
                              (struct store_session_result){.at_ms = NOW,
                                                            .counts = true,
                                                            .usable = true,
                                                            .state = "rated",
                                                            .external_id = "real-2",
                                                            .rating = "high",
                                                            .rating_raw = "high"}));
    assert_string_equal(list(store, &all, &cursor, 2, &shown), "1 2 3");
    assert_string_equal(list(store, &all, &cursor, 2, &shown), "");
    struct hint late = {.number = 4};
    callbacks(store, &late, 1);
    (void)intake(store, NOW);
    assert_string_equal(list(store, &all, &cursor, 2, &shown), "4");

    bool more = false;
    shown = (struct shown){.stop_after = 1};
    assert_stored(store, store_sessions(store, &all, &other, 3, note_row, &shown, &more));
    assert_true(more);
    assert_string_equal(shown.numbers, "1");
    assert_string_equal(list(store, &all, &other, 3, &shown), "2 3 4");

    static const struct {
        struct store_filter filter;
        const char *numbers;
    } cases[] = {
        {{.state = "rated"}, "2"},
        {{.state = "pending"}, "1 3 4"},
        {{.state = "parked"}, ""},
        {{.person = "claim-1"}, "1"},
        {{.person = "real-2"}, "2"},
        {{.person = "00000000-0000-4000-8000-000000000003"}, "3"},
        {{.person = "claim-1", .state = "rated"}, ""},
        {{.person = "nobody"}, ""},
        {{.since_ms = NOW}, "1 2 3 4"},
        {{.since_ms = NOW + 1}, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_cursor start = STORE_CURSOR_START;
        assert_string_equal(list(store, &cases[i].filter, &start, 1, &shown), cases[i].numbers);
    }
    struct store_cursor bad = {"e12"};
    assert_int_equal(store_sessions(store, &all, &bad, 1, note_row, &shown, &more), STORE_ERROR);
}

static bool take_in_meanwhile(void *context, const struct store_session_row *row)
{
    struct store *store = context;
    assert_string_equal(row->state, "pending");
    call_for(store, 77, NOW);
    assert_string_equal(row->state, "pending");
    return true;
}

/* Rows are shown when nothing is read any more: a slow reader holds nobody up. */
static void test_a_round_fits_into_a_listing(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const struct store_filter all = {.person = NULL};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more;
    call_for(store, 1, NOW);
    assert_stored(store, store_sessions(store, &all, &cursor, 10, take_in_meanwhile, store, &more));
}

static void test_purge(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased;
    struct shown shown;
    static const char *const states[] = {"rated", "pending", "parked", "rated", "rated"};
    for (int i = 1; i <= 5; i++)
        call_for(store, i, NOW);
    (void)lease(store, "w1", NOW, 5, &leased);
    for (int i = 1; i <= 5; i++)
        assert_stored(store, done(store, i,
                                  (struct store_session_result){.at_ms = NOW + i,
                                                                .counts = true,
                                                                .usable = true,
                                                                .state = states[i - 1],
                                                                .rating = "high",
                                                                .rating_raw = "high"}));
    struct store_purged purged = {0};
    /* A callback came for the fourth, which is not looked at yet: it stays for now. */
    call_for(store, 4, NOW + 5);
    assert_stored(store, store_purge(store, NOW + 5, &purged));
    assert_int_equal(purged.sessions, 2);
    assert_string_equal(lease(store, "w1", NOW + 6, 5, &leased), "4");
    assert_stored(store, done(store, 4,
                              (struct store_session_result){.at_ms = NOW + 4,
                                                            .counts = true,
                                                            .usable = true,
                                                            .state = "rated",
                                                            .rating = "high",
                                                            .rating_raw = "high"}));
    assert_stored(store, store_purge(store, NOW + 5, &purged));
    assert_int_equal(purged.sessions, 1);
    static const struct store_filter all = {.person = NULL};
    struct store_cursor cursor = STORE_CURSOR_START;
    assert_string_equal(list(store, &all, &cursor, 10, &shown), "2 5");
    /* A new one is not taken for one that was listed before, though it is the only one left. */
    call_for(store, 6, NOW);
    assert_string_equal(list(store, &all, &cursor, 10, &shown), "6");
}

/* --- Logins --------------------------------------------------------------------------------------------- */

static enum store_status login_lease(struct store *store, const char *account, const char *owner, int64_t now)
{
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    enum store_status status = store_login_lease(store, account, owner, now, LEASE);
    assert_stored(store, store_round_commit(store));
    return status;
}

static void login_put(struct store *store, const char *account, const struct store_login *login)
{
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_login_put(store, account, login));
    assert_stored(store, store_round_commit(store));
}

/* What were written without the lock could meet a checkpoint. */
static void test_nothing_is_written_outside_a_round(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct leased leased = {.count = 0};
    const struct store_login login = {.failures = 1};
    size_t taken = 0;
    int64_t count = 0;
    struct hint hint = {.number = 2};
    call_for(store, 1, NOW);
    callbacks(store, &hint, 1);
    assert_int_equal(store_sessions_intake(store, NOW, 6, 10, &taken), STORE_ERROR);
    assert_int_equal(
        store_sessions_lease(store, NOW, "w1", LEASE, AHEAD, NULL, 5, note_lease, &leased, &taken),
        STORE_ERROR);
    assert_int_equal(store_sessions_retry(store, NULL, NOW, &count), STORE_ERROR);
    assert_int_equal(store_login_lease(store, "acme", "w1", NOW, LEASE), STORE_ERROR);
    assert_int_equal(store_login_put(store, "acme", &login), STORE_ERROR);
    assert_int_equal(leased.count, 0);
    assert_int_equal(intake(store, NOW), 1);
    assert_string_equal(lease(store, "w1", NOW, 5, &leased), "1 2");
}

static int64_t give_up(struct store *store, int64_t now, int64_t since, int64_t rated_by)
{
    int64_t count = -1;
    const struct store_given_up given_up = {
        .account = "acme",
        .waiting_since_ms = since,
        .rated_by_ms = rated_by,
        .error = "login: timeout",
        .now_ms = now,
        .lease_ms = LEASE,
        .max_ahead_ms = AHEAD,
    };
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_give_up(store, &given_up, &count));
    assert_stored(store, store_round_commit(store));
    return count;
}

static void is_left(struct store *store, int number, const char *state, int64_t next, const char *error)
{
    struct shown shown;
    show(store, number, &shown);
    if (strcmp(shown.state, state) != 0 || shown.row.next_attempt_at_ms != next || shown.row.attempts > 1)
        fail_msg("%d is %s, next at %lld", number, shown.state, (long long)shown.row.next_attempt_at_ms);
    assert_string_equal(shown.error, error);
}

static void test_what_waits_in_vain_is_given_up(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    const struct hint hints[] = {{.number = 1}, {.number = 2, .open = true}, {.number = 3, .account = "lab"}};
    const struct store_session_result rated = {.at_ms = NOW,
                                               .state = "rated",
                                               .next_attempt_at_ms = NOW + 1,
                                               .usable = true,
                                               .rating = "low",
                                               .rating_raw = "low",
                                               .counts = true};
    const struct store_session_result far_off = {
        .at_ms = NOW, .next_attempt_at_ms = NOW + 900 * DAY, .usable = true, .counts = true};
    const struct store_session_result later = {
        .at_ms = NOW, .next_attempt_at_ms = NOW + 2 * HOUR, .usable = true, .counts = true};
    struct leased leased;
    call_for(store, 4, NOW);
    call_for(store, 5, NOW);
    call_for(store, 6, NOW);
    (void)lease(store, "w1", NOW, 3, &leased);
    assert_stored(store, done(store, 4, rated));
    assert_stored(store, done(store, 5, far_off));
    assert_stored(store, done(store, 6, later));
    call_for(store, 7, NOW);
    assert_string_equal(lease(store, "w2", NOW, 1, &leased), "7");
    callbacks(store, hints, 3);
    assert_int_equal(intake(store, NOW), 3);
    call_for(store, 8, NOW + HOUR);

    assert_int_equal(give_up(store, NOW + 1, NOW - 1, NOW - 1), 0);
    assert_int_equal(give_up(store, NOW + 1, NOW, NOW - 1), 3);
    is_left(store, 1, "parked", 0, "login: timeout");
    is_left(store, 2, "parked", 0, "login: timeout");
    is_left(store, 5, "parked", 0, "login: timeout");
    is_left(store, 3, "pending", NOW, "(none)");
    is_left(store, 4, "rated", NOW + 1, "(none)");
    is_left(store, 6, "pending", NOW + 2 * HOUR, "(none)");
    is_left(store, 7, "pending", NOW, "(none)");
    is_left(store, 8, "pending", NOW + HOUR, "(none)");
    /* The lease is over, and the watch too. */
    assert_int_equal(give_up(store, NOW + LEASE, NOW + 1, NOW), 2);
    is_left(store, 7, "parked", 0, "login: timeout");
    is_left(store, 4, "rated", 0, "login: timeout");
    assert_int_equal(give_up(store, NOW + LEASE, NOW + 1, NOW), 0);
    /* Whoever asks anew has it fetched. */
    call_for(store, 1, NOW + DAY);
    is_left(store, 1, "pending", NOW + DAY, "login: timeout");
}

static void test_logins(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store, *other = scratch_open(scratch, STORE_RATINGS, 0, 1000);
    struct store_login login = {.failures = 9};
    assert_stored(store, store_login_get(store, "acme", &login));
    assert_null(login.token);
    assert_int_equal(login.failures, 0);
    assert_stored(store, login_lease(store, "acme", "w1", NOW));
    assert_stored(store, login_lease(store, "acme", "w1", NOW + 1));
    assert_int_equal(login_lease(other, "acme", "w2", NOW + 2), STORE_BUSY);
    assert_stored(other, login_lease(other, "lab", "w2", NOW + 2));
    assert_stored(other, store_login_get(other, "acme", &login));
    assert_null(login.token);
    /* Over, or so far off that the clock must have jumped. */
    assert_stored(other, login_lease(other, "acme", "w2", NOW + 1 + LEASE));
    assert_stored(store, login_lease(store, "acme", "w1", NOW - 900 * DAY));

    char token[] = "token-1", error[] = "wrong password";
    login_put(store, "acme",
              &(struct store_login){.token = token, .obtained_at_ms = NOW, .expires_at_ms = NOW + HOUR});
    assert_stored(other, store_login_get(other, "acme", &login));
    assert_string_equal(login.token, "token-1");
    assert_int_equal(login.expires_at_ms, NOW + HOUR);
    assert_null(login.error);
    store_login_release(&login);
    assert_null(login.token);
    /* The lease was given back. */
    assert_stored(other, login_lease(other, "acme", "w2", NOW));
    login_put(other, "acme",
              &(struct store_login){.blocked_until_ms = NOW + DAY,
                                    .failures = 2,
                                    .error = error,
                                    .failing_from_ms = NOW - DAY,
                                    .failing_ms = HOUR});
    assert_stored(store, store_login_get(store, "acme", &login));
    assert_null(login.token);
    assert_int_equal(login.failures, 2);
    assert_int_equal(login.blocked_until_ms, NOW + DAY);
    assert_string_equal(login.error, "wrong password");
    assert_int_equal(login.failing_from_ms, NOW - DAY);
    assert_int_equal(login.failing_ms, HOUR);
    store_login_release(&login);
    login_put(other, "acme", &(struct store_login){.token = token});
    assert_stored(store, store_login_get(store, "acme", &login));
    assert_int_equal(login.failing_from_ms, 0);
    store_login_release(&login);
    store_login_release(NULL);
    store_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(test_a_callback_makes_a_session_due),
        scratch_test(test_intake_in_parts),
        scratch_test(test_an_abandoned_intake_takes_nothing),
        scratch_test(test_two_accounts_share_a_uuid),
        scratch_test(test_repeats_are_bounded),
        scratch_test(test_a_due_session_is_fetched_once_for_many_callbacks),
        scratch_test(test_a_repeat_brings_a_later_fetch_forward),
        scratch_test(test_a_callback_wakes_a_parked_session),
        scratch_test(test_a_callback_while_leased_keeps_the_session_due),
        scratch_test(test_callbacks_of_an_older_copy_are_taken),
        scratch_test(test_due_sessions_come_by_time),
        scratch_test(test_two_workers_never_lease_the_same),
        scratch_test(test_two_processes_never_lease_the_same),
        scratch_test(test_a_dead_workers_lease_ends),
        scratch_test(test_a_late_result_counts_if_nobody_came_between),
        scratch_test(test_a_callback_after_the_lease_ran_out_is_not_answered_by_its_result),
        scratch_test(test_an_owner_takes_its_own_lease_again),
        scratch_test(test_the_clock_jumps),
        scratch_test(test_accounts_left_alone),
        scratch_test(test_a_forger_delays_nobody),
        scratch_test(test_one_ipv6_network_is_one_sender),
        scratch_test(test_an_address_mapped_into_ipv6_is_the_same_sender),
        scratch_test(test_a_forgers_repeats_delay_nobody),
        scratch_test(test_a_protected_callback_makes_known),
        scratch_test(test_history_only_upon_change),
        scratch_test(test_what_a_result_leaves),
        scratch_test(test_put_back_untouched),
        scratch_test(test_retry),
        scratch_test(test_when_the_next_is_due),
        scratch_test(test_listing),
        scratch_test(test_a_round_fits_into_a_listing),
        scratch_test(test_purge),
        scratch_test(test_nothing_is_written_outside_a_round),
        scratch_test(test_what_waits_in_vain_is_given_up),
        scratch_test(test_logins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
