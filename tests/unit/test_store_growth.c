/* What a store of many events must not cost: no statement of intake or of a listing walks a table. And
   indexes as an older examhook made them serve, until a migration makes them anew. */
#include <sqlite3.h>

#include "store_scratch.h"

#include "../../common/store_sqlite.h"

#define NOW INT64_C(1764000000000)
#define DAY_MS INT64_C(86400000)
#define EVENTS 2000
#define DAYS 20

/* --- Helpers -----------------------------------------------------------------------------------------------
 */

struct texts {
    char exam[32], respondent[32], identity[32];
    unsigned char key[32];
};

/* The n-th event: of one of eight exams, on one of DAYS days. Every fourth is a verification. */
static struct store_event numbered(int n, struct texts *texts)
{
    bool check = n % 4 == 0;
    (void)snprintf(texts->exam, sizeof texts->exam, "exam-%d", n % 8);
    (void)snprintf(texts->respondent, sizeof texts->respondent, "r-%d", n % 500);
    (void)snprintf(texts->identity, sizeof texts->identity, "c-%d", n % 500);
    memset(texts->key, 0, sizeof texts->key);
    memcpy(texts->key, &(int){n * 7919}, sizeof n);
    return (struct store_event){.received_at_ms = NOW + n * (DAYS * DAY_MS / EVENTS),
                                .account = "main",
                                .event = check ? "verify_respondent" : "admitted_respondent",
                                .exam_id = texts->exam,
                                .respondent_id = check ? NULL : texts->respondent,
                                .outcome = check ? "valid" : NULL,
                                .identity = check ? texts->identity : NULL,
                                .key = check ? NULL : texts->key,
                                .body = check ? NULL : "{}"};
}

/* Gives whether the last of them was a repeat. */
static bool put_all(struct store *store, int from, int to)
{
    bool repeat = false;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int n = from; n < to; n++) {
        struct texts texts;
        struct store_event event = numbered(n, &texts);
        assert_stored(store, store_step_begin(store));
        assert_stored(store, store_event_add(store, &event, &repeat));
        assert_stored(store, store_step_end(store, true));
    }
    assert_stored(store, store_round_commit(store));
    return repeat;
}

static bool count_row(void *context, const struct store_event_row *row)
{
    (void)row;
    ++*(size_t *)context;
    return true;
}

/* How many there are, in pages of ten. */
static size_t listed(struct store *store, const struct store_filter *filter)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    size_t count = 0;
    for (bool more = true; more;)
        assert_stored(store, store_events(store, filter, &cursor, 10, count_row, &count, &more));
    return count;
}

static void run_sql(struct store *store, const char *sql)
{
    char *error = NULL;
    if (sqlite3_exec(store->examjoint.db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
}

static int64_t number(struct store *store, const char *sql)
{
    int64_t value = -1;
    assert_stored(store, store_number(store, &store->examjoint, sql, &value));
    return value;
}

/* --- Walks -------------------------------------------------------------------------------------------------
 */

struct walk {
    int steps;
    char sql[512];
};

/* Called at the end of each statement: how many rows it passed in a walk through a whole table or index. */
static int look(unsigned event, void *context, void *statement, void *took)
{
    struct walk *most = context;
    (void)event;
    (void)took;
    int steps = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_FULLSCAN_STEP, 1);
    if (steps > most->steps) {
        most->steps = steps;
        (void)snprintf(most->sql, sizeof most->sql, "%s", sqlite3_sql(statement));
    }
    return 0;
}

static void watch(struct store *store, struct walk *most)
{
    *most = (struct walk){0};
    sqlite3_trace_v2(store->examjoint.db, SQLITE_TRACE_PROFILE, look, most);
}

/* The days that have rows are enumerated; that many steps are fine, in each of two lookups. */
static void assert_no_walk(const struct walk *most)
{
    if (most->steps > 2 * (DAYS + 3))
        fail_msg("walks %d rows: %s", most->steps, most->sql);
}

static void intake_walks_no_table(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct walk most;
    bool erased = true;
    put_all(store, 0, EVENTS);
    watch(store, &most);
    assert_false(put_all(store, EVENTS, EVENTS + 40));
    assert_true(put_all(store, 1, 2));
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_events_erased(store, &erased));
    assert_stored(store, store_round_commit(store));
    assert_false(erased);
    assert_no_walk(&most);
    assert_int_equal(number(store, "SELECT count(*) FROM events"), EVENTS + 40);
}

static void listings_walk_no_table(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct walk most;
    put_all(store, 0, EVENTS);
    watch(store, &most);
    /* r-7: every 500th is its, and none of those a verification; c-8: all of those are. */
    assert_int_equal(listed(store, &(struct store_filter){.person = "r-7"}), EVENTS / 500);
    assert_int_equal(listed(store, &(struct store_filter){.person = "c-8"}), EVENTS / 500);
    assert_int_equal(listed(store, &(struct store_filter){.person = "nobody"}), 0);
    assert_int_equal(listed(store, &(struct store_filter){.quarantined = true}), 0);
    assert_int_equal(listed(store, &(struct store_filter){.id = "e1700"}), 1);
    assert_int_equal(listed(store, &(struct store_filter){.since_ms = NOW + DAYS * DAY_MS}), 0);
    assert_no_walk(&most);
}

/* The watch sees a walk where there is one. */
static void a_walk_is_seen(void **state)
{
    struct scratch *scratch = *state;
    struct walk most;
    put_all(scratch->store, 0, EVENTS);
    watch(scratch->store, &most);
    run_sql(scratch->store, "SELECT count(*) FROM events WHERE body = 'x'");
    assert_true(most.steps > EVENTS / 2);
}

/* --- Indexes as they were ----------------------------------------------------------------------------------
 */

static const char older[] =
    "DROP INDEX events_key; DROP INDEX events_respondent; DROP INDEX events_identity; DROP INDEX "
    "events_erased;"
    "CREATE UNIQUE INDEX events_key ON events(key) WHERE key IS NOT NULL;"
    "CREATE INDEX events_respondent ON events(respondent_id) WHERE respondent_id IS NOT NULL;"
    "CREATE INDEX events_identity ON events(identity) WHERE identity IS NOT NULL;";

static void assert_serves(struct store *store)
{
    bool erased = true;
    assert_true(put_all(store, 1, 2));
    assert_int_equal(listed(store, &(struct store_filter){.person = "r-7"}), EVENTS / 500);
    assert_int_equal(listed(store, &(struct store_filter){.person = "c-8"}), EVENTS / 500);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_events_erased(store, &erased));
    assert_stored(store, store_round_commit(store));
    assert_false(erased);
}

static void older_indexes_serve_and_are_made_anew(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct walk most;
    struct buf said = BUF_INIT;
    run_sql(store, older);
    put_all(store, 0, EVENTS);
    watch(store, &most);
    assert_serves(store);
    assert_no_walk(&most);
    /* A program runs on meanwhile. */
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_non_null(strstr(buf_str(&said), "events.db: 4 indexes made anew"));
    assert_serves(store);
    assert_no_walk(&most);
    assert_int_equal(number(store, "SELECT count(*) FROM events"), EVENTS);
    assert_int_equal(
        number(store, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM sqlite_schema WHERE name = 'events_key' AND sql LIKE"
                                   " '%exam_id%'"),
                     1);
    buf_clear(&said);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_null(strstr(buf_str(&said), "anew"));
    buf_release(&said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(intake_walks_no_table, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(listings_walk_no_table, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_walk_is_seen, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(older_indexes_serve_and_are_made_anew, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
