/* What the SQLite store keeps of ExamJoint's events, of guessing and of Proview's callbacks; how it is
 * listed. */
#include <sqlite3.h>

#include "../../common/config_parts.h"
#include "store_scratch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define NOW INT64_C(1764000000000)
#define HOUR INT64_C(3600000)

/* --- Helpers -----------------------------------------------------------------------------------------------
 */

static enum store_status end_round(struct store *store, enum store_status status)
{
    if (status == STORE_OK)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}

static enum store_status put(struct store *store, const struct store_event *event, bool *repeat)
{
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    return end_round(store, store_event_add(store, event, repeat));
}

static enum store_status release(struct store *store, const char *id, const struct store_event *event)
{
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    return end_round(store, store_event_release(store, id, event));
}

static enum store_status call(struct store *store, const struct store_callback *callback,
                              const struct store_open_limit *limit, bool *repeat)
{
    assert_stored(store, store_round_begin(store, STORE_PROVIEW));
    return end_round(store, store_callback_add(store, callback, limit, repeat));
}

static struct store_event admission(int number)
{
    static unsigned char keys[8][32];
    keys[number][0] = (unsigned char)(number + 1);
    return (struct store_event){.received_at_ms = NOW + number,
                                .account = "main",
                                .event = "admitted_respondent",
                                .exam_id = "ex-1",
                                .respondent_id = "r-1",
                                .has_admitted_on = true,
                                .admitted_on_ms = INT64_C(1719221380326),
                                .body = "{\"n\":1}",
                                .key = keys[number]};
}

static struct store_callback callback_of(const char *uuid)
{
    return (struct store_callback){.received_at_ms = NOW,
                                   .account = "talview",
                                   .session_uuid = uuid,
                                   .message = "done",
                                   .external_id = "1234",
                                   .sender = "192.0.2.7",
                                   .body = "{}"};
}

/* The ids of a listing with a space behind each, and its last row. */
struct seen {
    struct buf ids, rows;
    int64_t deliveries, last_received_at_ms;
    int stop_after; /* 0: never */
    int count;
};

static bool see(void *context, const struct store_event_row *row)
{
    struct seen *seen = context;
    buf_addf(&seen->ids, "%s ", row->id);
    buf_clear(&seen->rows);
    buf_addf(&seen->rows, "%s|%s|%s|%s|%s|%lld|%s|%s|%s|%s|%s|%s|%s|%s|%d", row->source, row->account,
             row->event ? row->event : "-", row->exam_id ? row->exam_id : "-",
             row->respondent_id ? row->respondent_id : "-",
             row->has_admitted_on ? (long long)row->admitted_on_ms : -1LL, row->outcome ? row->outcome : "-",
             row->reason ? row->reason : "-", row->identity ? row->identity : "-",
             row->positions ? row->positions : "-", row->session_uuid ? row->session_uuid : "-",
             row->external_id ? row->external_id : "-", row->flags ? row->flags : "-",
             row->body ? row->body : "-", row->quarantined);
    seen->deliveries = row->deliveries;
    seen->last_received_at_ms = row->last_received_at_ms;
    return ++seen->count != seen->stop_after;
}

static void forget(struct seen *seen)
{
    buf_release(&seen->ids);
    buf_release(&seen->rows);
    *seen = (struct seen){0};
}

/* The whole listing in pages of so many. */
static struct seen list(struct store *store, const struct store_filter *filter, size_t page)
{
    struct seen seen = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more = true;
    while (more)
        assert_stored(store, store_events(store, filter, &cursor, page, see, &seen, &more));
    return seen;
}

static void assert_ids(struct store *store, const struct store_filter *filter, const char *ids)
{
    for (size_t page = 1; page < 5; page++) {
        struct seen seen = list(store, filter, page);
        assert_string_equal(buf_str(&seen.ids), ids);
        forget(&seen);
    }
}

static void assert_row(struct store *store, const char *id, const char *expected, int64_t deliveries)
{
    struct store_filter filter = {.id = id};
    struct seen seen = list(store, &filter, 10);
    assert_string_equal(buf_str(&seen.rows), expected);
    assert_int_equal(seen.deliveries, deliveries);
    forget(&seen);
}

struct deliveries {
    int count, with_body;
    int64_t first_number, last_number, last_at_ms;
    char last_body[32];
};

static bool see_delivery(void *context, const struct store_delivery_row *row)
{
    struct deliveries *seen = context;
    if (seen->count++ == 0)
        seen->first_number = row->number;
    seen->last_number = row->number;
    seen->last_at_ms = row->received_at_ms;
    if (row->body) {
        seen->with_body++;
        (void)snprintf(seen->last_body, sizeof seen->last_body, "%s", row->body);
    }
    return true;
}

/* --- Events
 * ------------------------------------------------------------------------------------------------- */

static void every_member_is_kept(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0);
    bool repeat = true;
    assert_stored(store, put(store, &event, &repeat));
    assert_false(repeat);
    assert_row(store, "e1",
               "examjoint|main|admitted_respondent|ex-1|r-1|1719221380326|-|-|-|-|-|-|-|{\"n\":1}|0", 1);
    struct store_event verification = {.received_at_ms = NOW,
                                       .account = "main",
                                       .event = "verify_respondent",
                                       .exam_id = "ex-1",
                                       .outcome = "invalid",
                                       .reason = "not_found",
                                       .identity = "unknown:00ff",
                                       .positions = "0,1"};
    assert_stored(store, put(store, &verification, NULL));
    assert_row(store, "e2",
               "examjoint|main|verify_respondent|ex-1|-|-1|invalid|not_found|unknown:00ff|0,1|-|-|-|-|0", 1);
}

static void a_repeat_is_a_delivery_of_the_first(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0);
    struct deliveries seen = {0};
    bool repeat = false;
    assert_stored(store, put(store, &event, NULL));
    event.received_at_ms = NOW + 10;
    assert_stored(store, put(store, &event, &repeat));
    assert_true(repeat);
    event.received_at_ms = NOW + 20;
    event.body = "{\"n\":2}";
    assert_stored(store, put(store, &event, &repeat));
    event.received_at_ms = NOW - 50; /* the clock went back: the last time stays */
    event.body = "{\"n\":1}";
    assert_stored(store, put(store, &event, &repeat));
    struct store_filter all = {0};
    struct seen rows = list(store, &all, 10);
    assert_string_equal(buf_str(&rows.ids), "e1 ");
    assert_int_equal(rows.deliveries, 4);
    assert_int_equal(rows.last_received_at_ms, NOW + 20);
    assert_non_null(strstr(buf_str(&rows.rows), "{\"n\":1}"));
    forget(&rows);
    assert_stored(store, store_deliveries(store, "e1", see_delivery, &seen));
    assert_int_equal(seen.count, 3);
    assert_int_equal(seen.with_body, 1);
    assert_string_equal(seen.last_body, "{\"n\":2}");
    assert_int_equal(seen.first_number, 2);
    assert_int_equal(seen.last_number, 4);
    assert_int_equal(seen.last_at_ms, NOW - 50);
}

static void repeats_within_one_round(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0), other = admission(1);
    bool repeat;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 4; i++) {
        assert_stored(store, store_step_begin(store));
        assert_stored(store, store_event_add(store, i == 2 ? &other : &event, &repeat));
        assert_int_equal(repeat, i == 1 || i == 3);
        assert_stored(store, store_step_end(store, i != 3));
    }
    assert_stored(store, store_round_commit(store));
    struct store_filter all = {0};
    struct seen rows = list(store, &all, 10);
    assert_int_equal(rows.count, 2);
    forget(&rows);
    struct deliveries seen = {0};
    assert_stored(store, store_deliveries(store, "e1", see_delivery, &seen));
    assert_int_equal(seen.count, 1);
}

/* A step of one event, and one that has to be undone beside it. */
static void steps_of_one_event(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event events[] = {admission(0), admission(0), admission(1), admission(2), admission(0)};
    bool repeat;
    events[1].body = "{\"n\":2}";
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 5; i++) {
        assert_stored(store, i == 2 ? store_step_begin(store) : store_step_begin_event(store));
        assert_stored(store, store_event_add(store, &events[i], &repeat));
        assert_int_equal(repeat, i == 1 || i == 4);
        /* The last is a repeat, which writes more than one row. */
        assert_stored(store, store_step_end(store, i != 2 && i != 4));
    }
    assert_stored(store, store_round_commit(store));
    struct store_filter all = {0};
    struct seen rows = list(store, &all, 10);
    assert_int_equal(rows.count, 2);
    forget(&rows);
    struct deliveries seen = {0};
    assert_stored(store, store_deliveries(store, "e1", see_delivery, &seen));
    assert_int_equal(seen.count, 1);
    assert_string_equal(seen.last_body, "{\"n\":2}");
}

/* What was not meant for such a step never takes what is wrong into the commit. */
static void a_step_of_one_event_is_of_one(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event first = admission(0), second = admission(1);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin_event(store));
    assert_stored(store, store_event_add(store, &first, NULL));
    assert_int_equal(store_event_add(store, &second, NULL), STORE_ERROR);
    assert_int_equal(store_step_end(store, false), STORE_ERROR);
    assert_int_equal(store_step_begin_event(store), STORE_ERROR);
    assert_int_equal(store_round_commit(store), STORE_ERROR);
    struct store_filter all = {0};
    struct seen rows = list(store, &all, 10);
    assert_int_equal(rows.count, 0);
    forget(&rows);
    assert_int_equal(store_step_begin_event(store), STORE_ERROR);
}

/* The page of an index on which nothing stands yet becomes one of zeros. */
static void damage_index(struct scratch *scratch, const char *name)
{
    char path[128];
    static const unsigned char zeros[4096];
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    store_free(scratch->store);
    (void)snprintf(path, sizeof path, "%s/store/examjoint/events.db", scratch->folder);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT rootpage FROM sqlite_schema WHERE name = ?1", -1, &statement, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    off_t at = (sqlite3_column_int64(statement, 0) - 1) * (off_t)sizeof zeros;
    sqlite3_finalize(statement);
    sqlite3_close(db);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, at), sizeof zeros);
    close(fd);
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 5000);
}

/* SQLite does not undo a statement that finds damage half-way, and before 3.38 it commits what that wrote in
 * other indexes. */
static void half_an_event_gives_the_round_up(void **state)
{
    struct scratch *scratch = *state;
    struct store_event quarantined = admission(0), whole = admission(1);
    bool repeat = true;
    quarantined.quarantined = true;
    damage_index(scratch, "events_quarantined");
    struct store *store = scratch->store;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin_event(store));
    assert_stored(store, store_event_add(store, &whole, NULL));
    assert_stored(store, store_step_end(store, true));
    assert_stored(store, store_step_begin_event(store));
    assert_int_equal(store_event_add(store, &quarantined, NULL), STORE_CORRUPT);
    assert_int_equal(store_step_end(store, false), STORE_CORRUPT);
    assert_int_equal(store_round_commit(store), STORE_CORRUPT);
    assert_stored(store, put(store, &whole, &repeat));
    assert_false(repeat);
}

static void a_hundred_deliveries_are_kept(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0);
    struct deliveries seen = {0};
    char body[32];
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 121; i++) {
        (void)snprintf(body, sizeof body, "{\"n\":%d}", i);
        event.body = body;
        assert_stored(store, store_event_add(store, &event, NULL));
    }
    assert_stored(store, store_round_commit(store));
    assert_stored(store, store_deliveries(store, "e1", see_delivery, &seen));
    assert_int_equal(seen.count, STORE_DELIVERIES_KEPT);
    assert_int_equal(seen.with_body, STORE_DELIVERIES_KEPT);
    assert_string_equal(seen.last_body, "{\"n\":100}");
    struct store_filter all = {0};
    struct seen rows = list(store, &all, 10);
    assert_int_equal(rows.deliveries, 121);
    forget(&rows);
}

static void without_a_key_every_one_counts(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0);
    event.key = NULL;
    assert_stored(store, put(store, &event, NULL));
    assert_stored(store, put(store, &event, NULL));
    struct store_filter all = {0};
    assert_ids(store, &all, "e1 e2 ");
}

static void deliveries_of_what_is_not_there(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct deliveries seen = {0};
    static const char *const ids[] = {"e1", "x1", "", "e", "e1x", "e99999999999999999999"};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        assert_int_equal(store_deliveries(store, ids[i], see_delivery, &seen), STORE_ABSENT);
    assert_int_equal(seen.count, 0);
}

static struct store_event refused(const unsigned char *key)
{
    return (struct store_event){.received_at_ms = NOW + 100,
                                .account = "main",
                                .outcome = "quarantined",
                                .reason = "invalid_member",
                                .body = "{\"raw\":1}",
                                .quarantined = true,
                                .key = key};
}

static void a_quarantined_event_is_released(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const unsigned char key[32] = {200};
    struct store_event raw = refused(key), event = admission(0);
    struct store_filter quarantined = {.quarantined = true};
    assert_stored(store, put(store, &raw, NULL));
    assert_ids(store, &quarantined, "e1 ");
    assert_row(store, "e1", "examjoint|main|-|-|-|-1|quarantined|invalid_member|-|-|-|-|-|{\"raw\":1}|1", 1);
    assert_int_equal(release(store, "e2", &event), STORE_ABSENT);
    assert_int_equal(release(store, "c1", &event), STORE_ABSENT);
    assert_stored(store, release(store, "e1", &event));
    assert_ids(store, &quarantined, "");
    struct store_filter all = {0};
    struct seen seen = list(store, &all, 10);
    assert_string_equal(buf_str(&seen.ids), "e1 ");
    assert_int_equal(seen.last_received_at_ms, NOW + 100);
    assert_string_equal(
        buf_str(&seen.rows),
        "examjoint|main|admitted_respondent|ex-1|r-1|1719221380326|-|-|-|-|-|-|-|{\"n\":1}|0");
    forget(&seen);
    /* Once is enough; and a further delivery finds it by its new key. */
    assert_int_equal(release(store, "e1", &event), STORE_ABSENT);
    bool repeat = false;
    assert_stored(store, put(store, &event, &repeat));
    assert_true(repeat);
}

static void a_released_repeat_joins_the_first(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    static const unsigned char key[32] = {200};
    struct store_event raw = refused(key), event = admission(0);
    struct deliveries seen = {0};
    assert_stored(store, put(store, &event, NULL));
    assert_stored(store, put(store, &raw, NULL));
    raw.received_at_ms += 50;
    assert_stored(store, put(store, &raw, NULL));
    event.body = "{\"n\":9}";
    assert_stored(store, release(store, "e2", &event));
    struct store_filter all = {0};
    assert_ids(store, &all, "e1 ");
    struct seen rows = list(store, &all, 10);
    assert_int_equal(rows.deliveries, 3);
    assert_int_equal(rows.last_received_at_ms, NOW + 150);
    forget(&rows);
    assert_stored(store, store_deliveries(store, "e1", see_delivery, &seen));
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.with_body, 2);
    assert_int_equal(seen.last_at_ms, NOW + 150);
    assert_string_equal(seen.last_body, "{\"n\":9}");
    assert_int_equal(store_deliveries(store, "e2", see_delivery, &seen), STORE_ABSENT);
}

/* --- Guessing
 * ------------------------------------------------------------------------------------------------ */

static const struct store_throttle rule = {
    .failures = 5, .window_ms = 600000, .pause_ms = 15000, .rows_max = 100000};

static const unsigned char *key_of(int number)
{
    static unsigned char key[32];
    memset(key, 0, sizeof key);
    key[0] = (unsigned char)number;
    key[1] = (unsigned char)(number >> 8);
    return key;
}

static enum store_status attempt_by(struct store *store, const struct store_throttle *by, int key,
                                    int64_t now, int64_t *wait_ms, bool *newly)
{
    char exam[16];
    (void)snprintf(exam, sizeof exam, "ex-%d", key % 2);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    enum store_status status = store_attempt_count(store, key_of(key), "main", exam, now, by, wait_ms, newly);
    assert_stored(store, store_round_commit(store));
    return status;
}

static enum store_status attempt(struct store *store, int key, int64_t now, int64_t *wait_ms, bool *newly)
{
    return attempt_by(store, &rule, key, now, wait_ms, newly);
}

static int64_t throttled(struct store *store, int64_t now, int64_t most)
{
    int64_t count = -1;
    assert_stored(store, store_throttled(store, now, &rule, most, &count));
    return count;
}

static void guess_until_throttled(struct store *store, int key)
{
    int64_t wait_ms = -1;
    bool newly = false;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(attempt(store, key, NOW + i * 1000, &wait_ms, &newly), STORE_OK);
        assert_int_equal(newly, i == 4);
    }
}

static void guessing_is_slowed_down(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    int64_t wait_ms = -1;
    bool newly = false;
    guess_until_throttled(store, 1);
    assert_int_equal(throttled(store, NOW + 4000, 10), 1);
    assert_int_equal(attempt(store, 1, NOW + 5000, &wait_ms, &newly), STORE_LIMIT);
    assert_int_equal(wait_ms, 14000);
    assert_int_equal(attempt(store, 2, NOW + 5000, &wait_ms, &newly), STORE_OK); /* somebody else */
    /* One in each pause: a refused one does not lengthen it. */
    assert_int_equal(attempt(store, 1, NOW + 18999, &wait_ms, &newly), STORE_LIMIT);
    assert_int_equal(wait_ms, 1);
    newly = true;
    assert_int_equal(attempt(store, 1, NOW + 19000, &wait_ms, &newly), STORE_OK);
    assert_false(newly);
    assert_int_equal(attempt(store, 1, NOW + 19001, &wait_ms, &newly), STORE_LIMIT);
    /* The window passes. */
    assert_int_equal(throttled(store, NOW + 700000, 10), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(attempt(store, 1, NOW + 700000 + i, &wait_ms, &newly), STORE_OK);
}

/* The most that the configuration takes for [throttle] failures. */
static void many_failures_may_be_allowed(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    const struct config_option *option = config_option_named("throttle", "failures");
    const struct store_throttle patient = {
        .failures = option->max, .window_ms = 600000, .pause_ms = 15000, .rows_max = 1000};
    int64_t wait_ms = -1;
    bool newly = false;
    for (int64_t i = 0; i < option->max; i++)
        assert_int_equal(attempt_by(store, &patient, 1, NOW + i, &wait_ms, &newly), STORE_OK);
    assert_true(newly);
    assert_int_equal(attempt_by(store, &patient, 1, NOW + option->max, &wait_ms, &newly), STORE_LIMIT);
}

static void a_right_one_is_taken_back(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    int64_t wait_ms = 0;
    bool newly = false;
    guess_until_throttled(store, 1);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_attempt_take_back(store, key_of(1), NOW + 2000));
    assert_stored(store, store_attempt_take_back(store, key_of(1), NOW + 2000)); /* gone already */
    assert_stored(store, store_attempt_take_back(store, key_of(9), NOW));        /* never there */
    assert_stored(store, store_round_commit(store));
    assert_int_equal(throttled(store, NOW + 4000, 10), 0);
    assert_int_equal(attempt(store, 1, NOW + 5000, &wait_ms, &newly), STORE_OK);
    assert_true(newly);
    assert_int_equal(attempt(store, 1, NOW + 5001, &wait_ms, &newly), STORE_LIMIT);
}

static void a_success_each_time_is_never_throttled(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    int64_t wait_ms = 0, removed = -1;
    bool newly = false;
    for (int i = 0; i < 40; i++) {
        assert_int_equal(attempt(store, 1, NOW + i, &wait_ms, &newly), STORE_OK);
        assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
        assert_stored(store, store_attempt_take_back(store, key_of(1), NOW + i));
        assert_stored(store, store_round_commit(store));
    }
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_attempts_forget(store, NULL, NULL, &removed));
    assert_stored(store, store_round_commit(store));
    assert_int_equal(removed, 0);
}

static void attempts_ahead_of_the_clock_are_expired(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    int64_t wait_ms = 0;
    bool newly = false;
    guess_until_throttled(store, 1);
    assert_int_equal(throttled(store, NOW - 50000, 10), 0);
    assert_int_equal(attempt(store, 1, NOW - 50000, &wait_ms, &newly), STORE_OK);
    assert_false(newly);
    assert_int_equal(attempt(store, 1, NOW - 49000, &wait_ms, &newly), STORE_OK);
}

static void attempts_are_forgotten(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    int64_t removed = -1, wait_ms;
    bool newly;
    for (int key = 1; key <= 5; key++)
        guess_until_throttled(store, key);
    assert_int_equal(throttled(store, NOW + 4000, 10), 5);
    assert_int_equal(throttled(store, NOW + 4000, 2), 2);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_attempts_forget(store, key_of(2), NULL, &removed));
    assert_int_equal(removed, 1);
    assert_stored(store, store_attempts_forget(store, key_of(2), NULL, &removed));
    assert_int_equal(removed, 0);
    assert_stored(store, store_attempts_forget(store, NULL, "ex-1", &removed));
    assert_int_equal(removed, 3);
    assert_stored(store, store_attempts_forget(store, NULL, "other", &removed));
    assert_int_equal(removed, 0);
    assert_stored(store, store_attempts_forget(store, NULL, NULL, &removed));
    assert_int_equal(removed, 1);
    assert_stored(store, store_round_commit(store));
    assert_int_equal(throttled(store, NOW + 4000, 10), 0);
    assert_int_equal(attempt(store, 3, NOW + 4001, &wait_ms, &newly), STORE_OK);
}

static void forgetting_comes_in_short_rounds(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    int64_t removed = -1, wait_ms, left = 2 * STORE_FORGET_MOST + 100;
    bool newly;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int key = 0; key < left; key++)
        assert_int_equal(store_attempt_count(store, key_of(key), "main", key ? "ex" : "other", NOW, &rule,
                                             &wait_ms, &newly),
                         STORE_OK);
    assert_stored(store, store_attempts_forget(store, NULL, "ex", &removed));
    assert_int_equal(removed, STORE_FORGET_MOST);
    assert_stored(store, store_attempts_forget(store, NULL, "ex", &removed));
    assert_int_equal(removed, STORE_FORGET_MOST);
    assert_stored(store, store_attempts_forget(store, NULL, "ex", &removed));
    assert_int_equal(removed, 99);
    assert_stored(store, store_attempts_forget(store, NULL, NULL, &removed));
    assert_int_equal(removed, 1);
    assert_stored(store, store_round_commit(store));
}

static void the_table_of_attempts_is_bounded(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    const struct store_throttle small = {
        .failures = 2, .window_ms = 600000, .pause_ms = 15000, .rows_max = 10};
    int64_t wait_ms, removed = -1;
    bool newly;
    for (int key = 1; key <= 30; key++)
        for (int i = 0; i < 2; i++)
            assert_int_equal(attempt_by(store, &small, key, NOW + key * 10 + i, &wait_ms, &newly), STORE_OK);
    /* The newest ten are throttled, the others were forgotten. */
    assert_int_equal(attempt_by(store, &small, 21, NOW + 400, &wait_ms, &newly), STORE_LIMIT);
    assert_int_equal(attempt_by(store, &small, 30, NOW + 400, &wait_ms, &newly), STORE_LIMIT);
    assert_int_equal(attempt_by(store, &small, 20, NOW + 400, &wait_ms, &newly), STORE_OK);
    /* Its coming drove out the oldest. */
    assert_int_equal(attempt_by(store, &small, 22, NOW + 400, &wait_ms, &newly), STORE_LIMIT);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_attempts_forget(store, NULL, NULL, &removed));
    assert_stored(store, store_round_commit(store));
    assert_int_equal(removed, 10);
}

/* --- Callbacks
 * ------------------------------------------------------------------------------------------------ */

static int64_t raw_number(const struct scratch *scratch, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    char path[256];
    (void)snprintf(path, sizeof path, "%s/store/proview/callbacks.db", scratch->folder);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static void callbacks_are_told_apart(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    static const struct {
        const char *account, *uuid, *message, *external;
        bool repeat;
    } cases[] = {{"a", "u1", "m", "x", false},   {"a", "u1", "m", "x", true},   {"b", "u1", "m", "x", false},
                 {"a", "u2", "m", "x", false},   {"a", "u1", "n", "x", false},  {"a", "u1", "m", "y", false},
                 {"a", "u1", NULL, "x", false},  {"a", "u1", NULL, "x", true},  {"a", "u1", "", "x", false},
                 {"a", "u1", "m", NULL, false},  {"a", "u1", "m", "", false},   {"a", "u1", "m", NULL, true},
                 {"a", "u1", NULL, NULL, false}, {"a", "u1", NULL, NULL, true}, {"a", "u1", "m", "x", true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_callback callback = callback_of(cases[i].uuid);
        bool repeat = !cases[i].repeat;
        callback.account = cases[i].account;
        callback.message = cases[i].message;
        callback.external_id = cases[i].external;
        callback.received_at_ms += (int64_t)i;
        assert_stored(store, call(store, &callback, NULL, &repeat));
        if (repeat != cases[i].repeat)
            fail_msg("case %zu", i);
    }
    /* Each repeat is the newest mark. */
    assert_int_equal(raw_number(scratch, "SELECT id FROM callbacks ORDER BY seq DESC LIMIT 1"), 1);
    assert_int_equal(raw_number(scratch, "SELECT max(seq) FROM callbacks"), sizeof cases / sizeof cases[0]);
    assert_int_equal(raw_number(scratch, "SELECT deliveries FROM callbacks WHERE id = 1"), 3);
    assert_int_equal(raw_number(scratch, "SELECT last_received_at FROM callbacks WHERE id = 1"), NOW + 14);
    assert_row(store, "c1", "proview|a|m|-|-|-1|-|-|-|-|u1|x|-|{}|0", 3);
}

static void the_mark_never_goes_back(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_callback callback = callback_of("u1");
    struct store_purged purged;
    size_t taken;
    assert_stored(store, call(store, &callback, NULL, NULL));
    assert_stored(store, call(store, &callback, NULL, NULL));
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_intake(store, NOW, 6, 10, &taken));
    assert_stored(store, store_round_commit(store));
    assert_stored(store, store_purge(store, NOW + 1, &purged));
    assert_int_equal(purged.callbacks, 1);
    assert_stored(store, call(store, &callback, NULL, NULL));
    assert_int_equal(raw_number(scratch, "SELECT seq FROM callbacks"), 3);
}

static enum store_status call_open(struct store *store, int number, int64_t at_ms, size_t body_bytes,
                                   const struct store_open_limit *limit)
{
    char uuid[16];
    char *body = calloc(body_bytes + 1, 1);
    memset(body, 'x', body_bytes);
    (void)snprintf(uuid, sizeof uuid, "u%d", number);
    struct store_callback callback = callback_of(uuid);
    callback.open = true;
    callback.received_at_ms = at_ms;
    callback.body = body;
    enum store_status status = call(store, &callback, limit, NULL);
    free(body);
    return status;
}

static void open_accounts_are_bounded(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    const struct store_open_limit limit = {.count_hour = 3, .bytes_hour = 4000};
    const int64_t hour = NOW - NOW % HOUR;
    for (int i = 0; i < 3; i++)
        assert_int_equal(call_open(store, i, hour + i, 10, &limit), STORE_OK);
    assert_int_equal(call_open(store, 3, hour + 3, 10, &limit), STORE_LIMIT);
    assert_int_equal(call_open(store, 1, hour + 4, 10, &limit), STORE_OK); /* a repeat takes no room */
    struct store_callback guarded = callback_of("guarded");
    guarded.received_at_ms = hour + 5;
    assert_stored(store, call(store, &guarded, &limit, NULL)); /* not an open account */
    assert_int_equal(call_open(store, 3, hour + HOUR, 10, &limit), STORE_OK);
    assert_int_equal(call_open(store, 4, hour + HOUR, 4000, &limit), STORE_LIMIT);
    assert_int_equal(call_open(store, 4, hour + HOUR, 3000, &limit), STORE_OK);
    assert_int_equal(call_open(store, 5, hour + HOUR, 1000, &limit), STORE_LIMIT);
    /* The clock was set back: an hour ahead of it counts as expired. */
    assert_int_equal(call_open(store, 5, hour - 5 * HOUR, 1000, &limit), STORE_OK);
    struct store_filter all = {0};
    struct seen seen = list(store, &all, 50);
    assert_int_equal(seen.count, 7);
    forget(&seen);
}

static void a_protected_repeat_clears_suspicion(void **state)
{
    struct scratch *scratch = *state;
    struct store_callback callback = callback_of("u1");
    callback.open = true;
    callback.sender = "203.0.113.9";
    assert_stored(scratch->store, call(scratch->store, &callback, NULL, NULL));
    callback.open = false;
    callback.sender = "192.0.2.1";
    assert_stored(scratch->store, call(scratch->store, &callback, NULL, NULL));
    callback.open = true;
    callback.sender = "203.0.113.9";
    assert_stored(scratch->store, call(scratch->store, &callback, NULL, NULL));
    assert_int_equal(raw_number(scratch, "SELECT open = 0 AND sender = '192.0.2.1' FROM callbacks"), 1);
}

/* --- Listing
 * --------------------------------------------------------------------------------------------------- */

/* Letters and times: "e5 c3" is an event at NOW + 5, then a callback at NOW + 3. */
static void put_all(struct store *store, const char *what)
{
    static int number;
    while (*what) {
        char *end;
        char letter = *what, uuid[16];
        int64_t at_ms = NOW + strtol(what + 1, &end, 10);
        struct store_event event = admission(0);
        event.key = NULL;
        event.received_at_ms = at_ms;
        (void)snprintf(uuid, sizeof uuid, "u%d", number++);
        struct store_callback callback = callback_of(uuid);
        callback.received_at_ms = at_ms;
        assert_stored(store, letter == 'e' ? put(store, &event, NULL) : call(store, &callback, NULL, NULL));
        what = *end ? end + 1 : end;
    }
}

static void both_services_in_the_order_of_time(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_filter all = {0};
    assert_ids(store, &all, "");
    put_all(store, "e1 e4 e5 e9 c2 c3 c5 c20");
    assert_ids(store, &all, "e1 c1 c2 e2 e3 c3 e4 c4 ");
}

static int go_on_elsewhere(const struct scratch *scratch, const struct store_filter *filter, const char *text,
                           const char *ids)
{
    struct store *store = NULL;
    struct store_cursor cursor;
    struct seen seen = {0};
    bool more = true;
    memcpy(cursor.text, text, sizeof cursor.text);
    if (store_open(scratch->url, 0, STORE_EXAMJOINT | STORE_PROVIEW, 1000, &store, NULL) != STORE_OK)
        return 1;
    if (store_events(store, filter, &cursor, 10, see, &seen, &more) != STORE_OK || more)
        return 2;
    store_free(store);
    bool right = strcmp(buf_str(&seen.ids), ids) == 0;
    forget(&seen);
    return right ? 0 : 3;
}

/* Another process goes on at that place, to the end. It is the last one to use the store. */
static void assert_goes_on(struct scratch *scratch, const struct store_filter *filter, const char *text,
                           const char *ids)
{
    int status = 0;
    store_free(scratch->store); /* SQLite's connections do not survive a fork */
    scratch->store = NULL;
    pid_t child = fork();
    if (child == 0)
        _exit(go_on_elsewhere(scratch, filter, text, ids));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void a_place_can_be_kept(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_filter all = {0};
    struct seen seen = {0};
    bool more = false;
    put_all(store, "e10 c11");
    assert_stored(store, store_events(store, &all, &cursor, 1, see, &seen, &more));
    assert_true(more);
    assert_stored(store, store_events(store, &all, &cursor, 1, see, &seen, &more));
    assert_false(more);
    put_all(store, "e12");
    assert_stored(store, store_events(store, &all, &cursor, 5, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "e1 c1 e2 ");
    /* What comes later with an earlier time is not passed by. */
    put_all(store, "c3 c4 e20");
    assert_goes_on(scratch, &all, cursor.text, "c2 c3 e3 ");
    forget(&seen);
}

static void a_listener_may_stop(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_filter all = {0};
    struct seen seen = {.stop_after = 2};
    bool more = false;
    put_all(store, "e1 c2 e3");
    assert_stored(store, store_events(store, &all, &cursor, 10, see, &seen, &more));
    assert_true(more);
    assert_stored(store, store_events(store, &all, &cursor, 10, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "e1 c1 e2 ");
    assert_false(more);
    forget(&seen);
}

static void since_a_time(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_filter since = {.since_ms = NOW + 5};
    assert_ids(store, &since, "");
    /* The clock was ahead, was set back, and went on. */
    put_all(store, "e1 e90 e3 e6 c2 c5 c4 c7");
    assert_ids(store, &since, "c2 e4 c4 e2 ");
    struct store_filter all = {.since_ms = NOW};
    assert_ids(store, &all, "e1 c1 e3 c3 c2 e4 c4 e2 ");
    struct store_filter later = {.since_ms = NOW + 1000};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct seen seen = {0};
    bool more = true;
    assert_stored(store, store_events(store, &later, &cursor, 10, see, &seen, &more));
    assert_false(more);
    put_all(store, "e999 e1000 c2000");
    assert_stored(store, store_events(store, &later, &cursor, 10, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "e6 c5 ");
    forget(&seen);
}

/* The next page: what it shows, and whether there is more. */
static void assert_page(struct store *store, const struct store_filter *filter, struct store_cursor *cursor,
                        size_t limit, const char *ids, bool more_expected)
{
    struct seen seen = {0};
    bool more = !more_expected;
    assert_stored(store, store_events(store, filter, cursor, limit, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), ids);
    assert_int_equal(more, more_expected);
    forget(&seen);
}

/* Two programs' threads, or a clock that is set right bit by bit: times are not in the order of the ids. */
static void since_a_time_in_disorder(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_filter since = {.since_ms = NOW + 5};
    put_all(store, "e7 e6 c8 e7 e5 e4 c5 c6 c7 e7 c5");
    assert_ids(store, &since, "e4 c2 c5 e2 c3 e1 e3 e6 c4 c1 ");
    since.account = "talview";
    assert_ids(store, &since, "c2 c5 c3 c4 c1 ");
    since.account = NULL;
    since.quarantined = true;
    assert_ids(store, &since, "");
}

/* What comes while the rest is listed, and afterwards, comes at the end, as it arrives. */
static void since_a_time_and_on(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_filter since = {.since_ms = NOW + 5};
    struct store_cursor cursor = STORE_CURSOR_START;
    put_all(store, "e30 e20 e10 c15 c35");
    assert_page(store, &since, &cursor, 1, "e3 ", true);
    /* Before the last one that was shown, behind it, and too early: the clock was set back. */
    put_all(store, "e8 e25 e4 c9 c3");
    assert_page(store, &since, &cursor, 2, "c1 e2 ", true);
    assert_page(store, &since, &cursor, 1, "e1 ", true);
    assert_page(store, &since, &cursor, 10, "e4 e5 c2 c3 ", false);
    assert_page(store, &since, &cursor, 10, "", false);
    put_all(store, "e6 e3 c50 e40");
    assert_page(store, &since, &cursor, 1, "e7 ", true);
    assert_page(store, &since, &cursor, 10, "e9 c5 ", false);
    assert_page(store, &since, &cursor, 10, "", false);
    assert_ids(store, &since, "e7 e4 c3 e3 c1 e2 e5 e1 c2 e9 c5 ");
}

/* Who stops among the first gets the others, whatever was read already. */
static void since_a_time_stopped(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_filter since = {.since_ms = NOW + 5};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct seen seen = {.stop_after = 1};
    bool more = false;
    put_all(store, "e30 e20 e10");
    assert_page(store, &since, &cursor, 1, "e3 ", true);
    put_all(store, "e15 e16");
    assert_stored(store, store_events(store, &since, &cursor, 10, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "e2 ");
    assert_true(more);
    assert_page(store, &since, &cursor, 10, "e1 e4 e5 ", false);
    forget(&seen);
}

static void a_place_in_time_can_be_kept(void **state)
{
    struct scratch *scratch = *state;
    struct store_filter since = {.since_ms = NOW + 5};
    struct store_cursor cursor = STORE_CURSOR_START;
    put_all(scratch->store, "e30 e20 e10 c15 c35");
    assert_page(scratch->store, &since, &cursor, 2, "e3 c1 ", true);
    put_all(scratch->store, "e8 e25 e4");
    /* It is one of this listing only. */
    struct store_filter all = {0};
    struct store_cursor copy = cursor;
    bool more;
    assert_int_equal(store_events(scratch->store, &all, &copy, 1, see, NULL, &more), STORE_ERROR);
    assert_goes_on(scratch, &since, cursor.text, "e2 e1 e4 e5 c2 ");
}

/* As an older program left it: what comes later has a higher id. */
static void an_older_place_in_time(void **state)
{
    struct scratch *scratch = *state;
    struct store_filter since = {.since_ms = NOW + 5};
    struct store_cursor cursor = {"1e1c1"};
    put_all(scratch->store, "e30 e20 e4 e10 c15 c35");
    assert_goes_on(scratch, &since, cursor.text, "e2 e4 c2 ");
}

/* A place in both areas stays one where only one of them is open. */
static void since_a_time_in_one_area(void **state)
{
    struct scratch *scratch = *state;
    struct store_filter since = {.since_ms = NOW + 5};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store *one = scratch_open(scratch, 0, STORE_PROVIEW, 1000);
    put_all(scratch->store, "e30 e20 c15 c35 c25");
    assert_page(one, &since, &cursor, 1, "c1 ", true);
    assert_page(scratch->store, &since, &cursor, 1, "e2 ", true);
    assert_page(one, &since, &cursor, 10, "c3 c2 ", false);
    assert_page(one, &since, &cursor, 10, "", false);
    assert_page(scratch->store, &since, &cursor, 10, "e1 ", false);
    store_free(one);
}

static void one_person(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(1), verification = admission(2), other = admission(3);
    struct store_callback callback = callback_of("019a1b2c-0000-7000-8000-0000000000aa"),
                          foreign = callback_of("u");
    verification.respondent_id = NULL;
    verification.identity = "r-1";
    other.respondent_id = "r-2";
    callback.external_id = "r-1";
    callback.received_at_ms = NOW + 9;
    foreign.external_id = "r-22";
    assert_stored(store, put(store, &event, NULL));
    assert_stored(store, put(store, &verification, NULL));
    assert_stored(store, put(store, &other, NULL));
    assert_stored(store, call(store, &foreign, NULL, NULL));
    assert_stored(store, call(store, &callback, NULL, NULL));
    struct store_filter person = {.person = "r-1"};
    assert_ids(store, &person, "e1 e2 c2 ");
    person.since_ms = NOW + 2;
    assert_ids(store, &person, "e2 c2 ");
    person = (struct store_filter){.person = "019A1B2C-0000-7000-8000-0000000000AA"};
    assert_ids(store, &person, "c2 ");
    person.person = "nobody";
    assert_ids(store, &person, "");
    person = (struct store_filter){.person = "r-1", .quarantined = true};
    assert_ids(store, &person, "");
}

static void one_row(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    put_all(store, "e1 e2 c3");
    static const struct {
        const char *id, *found;
    } cases[] = {{"e2", "e2 "}, {"c1", "c1 "}, {"c2", ""}, {"e9", ""},
                 {"e", ""},     {"2", ""},     {"", ""},   {"e2 ", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_filter filter = {.id = cases[i].id};
        assert_ids(store, &filter, cases[i].found);
    }
}

static void only_what_is_open_is_listed(void **state)
{
    struct scratch *scratch = *state;
    put_all(scratch->store, "e1 c2 e3");
    struct store *store = scratch_open(scratch, 0, STORE_PROVIEW, 1000);
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_filter all = {0};
    struct seen seen = {0};
    bool more = true;
    assert_stored(store, store_events(store, &all, &cursor, 10, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "c1 ");
    /* The place is one in both: what has not been listed yet comes when it is open. */
    assert_stored(scratch->store, store_events(scratch->store, &all, &cursor, 10, see, &seen, &more));
    assert_string_equal(buf_str(&seen.ids), "c1 e1 e2 ");
    forget(&seen);
    store_free(store);
}

static void a_place_that_is_none(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    static const char *const texts[] = {"x",       "1",          "1e",         "1e5",     "1e5c",
                                        "1e5c6x",  "2e1c1",      "1c1e1",      "1e-2c1",  "1e1t5l6c1",
                                        "2e1t5c1", "2e-1t5l6c1", "2e1t5l-6c1", "2e1l6c1", "3e1t5l6c1"};
    struct store_filter all = {0};
    int64_t at_ms;
    bool more;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct store_cursor cursor = STORE_CURSOR_START;
        (void)snprintf(cursor.text, sizeof cursor.text, "%s", texts[i]);
        assert_int_equal(store_events(store, &all, &cursor, 1, see, NULL, &more), STORE_ERROR);
        assert_int_equal(store_events_reached(store, &cursor, &at_ms), STORE_ERROR);
    }
    struct store_cursor endless;
    memset(endless.text, '1', sizeof endless.text);
    assert_int_equal(store_events(store, &all, &endless, 1, see, NULL, &more), STORE_ERROR);
}

/* Searches by a person go by an index, whatever the planner is told. */
static void no_search_reads_everything(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = admission(0);
    event.key = NULL;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 20000; i++)
        assert_stored(store, store_event_add(store, &event, NULL));
    event.respondent_id = "rare";
    assert_stored(store, store_event_add(store, &event, NULL));
    event = refused(NULL);
    assert_stored(store, store_event_add(store, &event, NULL));
    assert_stored(store, store_round_commit(store));
    sqlite3_int64 used, high;
    struct store_filter filters[] = {{.person = "rare"}, {.quarantined = true}, {.since_ms = NOW + 50}};
    for (size_t i = 0; i < 3; i++) {
        struct store *fresh = scratch_open(*state, 0, STORE_EXAMJOINT, 1000);
        sqlite3_status64(SQLITE_STATUS_PAGECACHE_OVERFLOW, &used, &high, 1);
        int64_t before = used;
        struct seen seen = list(fresh, &filters[i], 100);
        sqlite3_status64(SQLITE_STATUS_PAGECACHE_OVERFLOW, &used, &high, 0);
        assert_int_equal(seen.count, 1);
        /* Pages of 4 KiB held after it: some dozens, where the table has hundreds. */
        assert_true(used - before < 400000);
        forget(&seen);
        store_free(fresh);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(every_member_is_kept),
        scratch_test(a_repeat_is_a_delivery_of_the_first),
        scratch_test(repeats_within_one_round),
        scratch_test(steps_of_one_event),
        scratch_test(a_step_of_one_event_is_of_one),
        scratch_test(half_an_event_gives_the_round_up),
        scratch_test(a_hundred_deliveries_are_kept),
        scratch_test(without_a_key_every_one_counts),
        scratch_test(deliveries_of_what_is_not_there),
        scratch_test(a_quarantined_event_is_released),
        scratch_test(a_released_repeat_joins_the_first),
        scratch_test(guessing_is_slowed_down),
        scratch_test(many_failures_may_be_allowed),
        scratch_test(a_right_one_is_taken_back),
        scratch_test(a_success_each_time_is_never_throttled),
        scratch_test(attempts_ahead_of_the_clock_are_expired),
        scratch_test(attempts_are_forgotten),
        scratch_test(forgetting_comes_in_short_rounds),
        scratch_test(the_table_of_attempts_is_bounded),
        scratch_test(callbacks_are_told_apart),
        scratch_test(the_mark_never_goes_back),
        scratch_test(open_accounts_are_bounded),
        scratch_test(a_protected_repeat_clears_suspicion),
        scratch_test(both_services_in_the_order_of_time),
        scratch_test(a_place_can_be_kept),
        scratch_test(a_listener_may_stop),
        scratch_test(since_a_time),
        scratch_test(since_a_time_in_disorder),
        scratch_test(since_a_time_and_on),
        scratch_test(since_a_time_stopped),
        scratch_test(a_place_in_time_can_be_kept),
        scratch_test(an_older_place_in_time),
        scratch_test(since_a_time_in_one_area),
        scratch_test(one_person),
        scratch_test(one_row),
        scratch_test(only_what_is_open_is_listed),
        scratch_test(a_place_that_is_none),
        scratch_test(no_search_reads_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
