/* What a store of many events must not cost: no statement of intake or of a listing walks a table. And
   indexes as an older examhook made them serve, until a migration makes them anew. */
#include "store_blocks.h"

#define NOW INT64_C(1764000000000)
#define DAY_MS INT64_C(86400000)
#define EVENTS 2000
#define DAYS 20
/* More than there are tables and indexes. */
#define SCHEMA_MOST 24

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

static int64_t number(struct store *store, const char *sql)
{
    int64_t value = -1;
    assert_stored(store, store_number(store, &store->examjoint, sql, &value));
    return value;
}

/* --- Walks -------------------------------------------------------------------------------------------------
 */

struct walk {
    int steps, sorts, work;
    char sql[512];
};

/* Called at the end of each statement: how many rows it passed in walks through whole tables or indexes, also
   to make an index of its own; how often it sorted; how much it did altogether. */
static int look(unsigned event, void *context, void *statement, void *took)
{
    struct walk *most = context;
    (void)event;
    (void)took;
    int steps = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_FULLSCAN_STEP, 1) +
                sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_AUTOINDEX, 1);
    int work = sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 1);
    most->sorts += sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_SORT, 1);
    most->work = work > most->work ? work : most->work;
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

/* The days that have rows, or the blocks, are enumerated; that many steps are fine, in each of two lookups.
   How the indexes were made is looked up five times. */
static void assert_no_walk(const struct walk *most)
{
    if (most->steps > 2 * (DAYS + 3) + 5 * SCHEMA_MOST)
        fail_msg("walks %d rows: %s", most->steps, most->sql);
    assert_int_equal(most->sorts, 0);
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

/* Neither the rows of that time before the first page, nor in it more than that page. */
static void since_a_time_reads_pages(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct walk most;
    put_all(store, 0, EVENTS);
    watch(store, &most);
    assert_int_equal(listed(store, &(struct store_filter){.since_ms = NOW + 1}), EVENTS - 1);
    assert_no_walk(&most);
    /* Some 30 steps for each row. */
    if (most.work > EVENTS)
        fail_msg("%d steps for ten rows", most.work);
}

/* The watch sees a walk where there is one. */
static void a_walk_is_seen(void **state)
{
    struct scratch *scratch = *state;
    struct walk most;
    put_all(scratch->store, 0, EVENTS);
    watch(scratch->store, &most);
    run_sql(scratch->store, "SELECT count(*) FROM events WHERE body = 'x'");
    assert_true(most.steps > EVENTS / 2 && most.work > EVENTS && !most.sorts);
    run_sql(scratch->store, "SELECT id FROM events WHERE id < 9 ORDER BY exam_id");
    assert_int_equal(most.sorts, 1);
}

/* --- A busy day --------------------------------------------------------------------------------------------
 */

#define BLOCK 4096
/* As many as are received together under load. */
#define TOGETHER 256
/* Events that came before on the same day. */
#define BEFORE (8 * BLOCK)

/* One of the events of a single day: nothing of its number is in the order of its ids. */
static struct store_event of_a_day(int n, struct texts *texts)
{
    struct store_event event = numbered(n, texts);
    unsigned mixed = (unsigned)n * 2654435761u;
    (void)snprintf(texts->respondent, sizeof texts->respondent, "r-%08x%08x", mixed, mixed ^ 0x5bd1e995u);
    (void)snprintf(texts->identity, sizeof texts->identity, "c-%08x%08x", mixed, mixed ^ 0x5bd1e995u);
    event.received_at_ms = NOW - NOW % DAY_MS + n;
    event.has_admitted_on = !event.identity;
    event.admitted_on_ms = event.received_at_ms;
    return event;
}

static void put_a_day(struct store *store, int from, int to)
{
    for (int n = from; n < to;) {
        assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
        for (int end = n + TOGETHER; n < end; n++) {
            struct texts texts;
            struct store_event event = of_a_day(n, &texts);
            bool repeat = true;
            assert_stored(store, store_event_add(store, &event, &repeat));
            assert_false(repeat);
        }
        assert_stored(store, store_round_commit(store));
    }
}

/* Pages handed to the log by now. */
static int pages_written(struct store *store)
{
    int pages = 0, most = 0;
    assert_int_equal(
        sqlite3_db_status(store->examjoint.db, SQLITE_DBSTATUS_CACHE_WRITE, &pages, &most, false), SQLITE_OK);
    return pages;
}

/* What was received before costs the next events nothing: neither by its number nor on the same day. */
static void a_busy_day_writes_no_more_pages(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    put_a_day(store, 0, BLOCK);
    int empty = pages_written(store);
    put_a_day(store, BLOCK, BEFORE);
    int before = pages_written(store);
    put_a_day(store, BEFORE, BEFORE + BLOCK);
    int later = pages_written(store) - before;
    assert_true(empty > BLOCK / 40);
    /* Trees of many pages have more inner ones. By the day it was five times as many. */
    if (later > empty + empty / 2)
        fail_msg("%d pages for %d events of a busy day, %d for those of an empty store", later, BLOCK, empty);
}

/* --- Indexes as they were ----------------------------------------------------------------------------------
 */

static const char older[] =
    "DROP INDEX events_key; DROP INDEX events_respondent; DROP INDEX events_identity; DROP INDEX "
    "events_erased;"
    "CREATE UNIQUE INDEX events_key ON events(key) WHERE key IS NOT NULL;"
    "CREATE INDEX events_respondent ON events(respondent_id) WHERE respondent_id IS NOT NULL;"
    "CREATE INDEX events_identity ON events(identity) WHERE identity IS NOT NULL;";

/* As they came after those. */
static const char by_day[] =
    "DROP INDEX events_respondent; DROP INDEX events_identity;"
    "CREATE INDEX events_respondent ON events(received_at / 86400000, respondent_id)"
    " WHERE respondent_id IS NOT NULL;"
    "CREATE INDEX events_identity ON events(received_at / 86400000, identity) WHERE identity IS NOT NULL;";
/* A migration was cut short. */
static const char half[] = "DROP INDEX events_identity; CREATE INDEX events_identity ON"
                           " events(received_at / 86400000, identity) WHERE identity IS NOT NULL;";
static const char other_half[] =
    "DROP INDEX events_respondent;"
    "CREATE INDEX events_respondent ON events(respondent_id) WHERE respondent_id IS NOT NULL;";
/* Somebody took it away: slow, but nothing is missing from a listing. */
static const char none[] = "DROP INDEX events_respondent;";

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

static void assert_whole(struct store *store)
{
    assert_int_equal(number(store, "SELECT count(*) FROM events"), EVENTS);
    assert_int_equal(
        number(store, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM sqlite_schema WHERE name = 'events_key' AND sql LIKE"
                                   " '%exam_id%'"),
                     1);
    assert_int_equal(number(store, "SELECT count(*) FROM sqlite_schema WHERE name IN ('events_respondent',"
                                   " 'events_identity') AND sql LIKE '%id >> 12%'"),
                     2);
}

/* `sql` makes them as they were; a migration makes `anew` of them as they are now. */
static void serve_and_are_made_anew(const struct scratch *scratch, const char *sql, int anew, bool walks)
{
    struct store *store = scratch->store;
    struct walk most;
    struct buf said = BUF_INIT;
    char expected[64];
    (void)snprintf(expected, sizeof expected, "events.db: %d indexes made anew", anew);
    run_sql(store, sql);
    put_all(store, 0, EVENTS);
    watch(store, &most);
    assert_serves(store);
    if (!walks)
        assert_no_walk(&most);
    /* A program runs on meanwhile. */
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_non_null(strstr(buf_str(&said), expected));
    watch(store, &most);
    assert_serves(store);
    assert_no_walk(&most);
    assert_whole(store);
    buf_clear(&said);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_null(strstr(buf_str(&said), "anew"));
    buf_release(&said);
}

static void older_indexes_serve_and_are_made_anew(void **state)
{
    serve_and_are_made_anew(*state, older, 4, false);
}

static void indexes_by_day_serve_and_are_made_anew(void **state)
{
    serve_and_are_made_anew(*state, by_day, 2, false);
}

static void half_a_migration_serves_and_is_ended(void **state)
{
    serve_and_are_made_anew(*state, half, 1, false);
}

static void the_other_half_serves_and_is_ended(void **state)
{
    serve_and_are_made_anew(*state, other_half, 1, false);
}

static void without_an_index_nothing_is_missing(void **state)
{
    serve_and_are_made_anew(*state, none, 1, true);
}

/* Blocks that a purge has emptied are asked and passed over, and so are ids that nobody has. */
static void a_person_is_found_behind_a_gap(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct walk most;
    put_all(store, 0, EVENTS);
    run_sql(store, "DELETE FROM events WHERE id > 10 AND id < 1990;"
                   "UPDATE sqlite_sequence SET seq = 80000 WHERE name = 'events'");
    put_all(store, EVENTS, EVENTS + 1000);
    watch(store, &most);
    assert_int_equal(listed(store, &(struct store_filter){.person = "r-7"}), 1 + 2);
    assert_int_equal(listed(store, &(struct store_filter){.person = "c-496"}), 1 + 2);
    assert_no_walk(&most);
}

/* --- One person in many blocks -----------------------------------------------------------------------------
 */

#define BLOCKS 1000
#define ONE_PERSON "019a1b2c-0000-7000-8000-0000000000aa"

struct story {
    struct buf ids;
    int pages, empty, rows;
};

static bool see_id(void *context, const struct store_event_row *row)
{
    struct story *story = context;
    buf_addf(&story->ids, "%s ", row->id);
    story->rows++;
    return true;
}

/* An event of that person in that block, as a respondent or as a candidate. */
static void put_in_block(struct store *store, int block, int at, const char *column)
{
    char sql[512];
    (void)snprintf(sql, sizeof sql,
                   "INSERT INTO events(id, received_at, account, %s, last_received_at) VALUES(%d, %lld,"
                   " 'main', '" ONE_PERSON "', %lld)",
                   column, block * BLOCK + at, (long long)(NOW + block), (long long)(NOW + block));
    run_sql(store, sql);
}

static void put_callback(struct store *store, int64_t at_ms, const char *uuid)
{
    struct store_callback callback = {.received_at_ms = at_ms,
                                      .account = "talview",
                                      .session_uuid = uuid,
                                      .message = "done",
                                      .external_id = ONE_PERSON,
                                      .sender = "192.0.2.7",
                                      .body = "{}"};
    assert_stored(store, store_round_begin(store, STORE_PROVIEW));
    assert_stored(store, store_callback_add(store, &callback, NULL, NULL));
    assert_stored(store, store_round_commit(store));
}

static struct story story_of(struct store *store, const struct store_filter *filter, size_t limit,
                             struct store_cursor *cursor)
{
    struct story story = {0};
    int64_t reached_ms = INT64_MIN, before_ms;
    for (bool more = true; more; story.pages++) {
        int before = story.rows;
        assert_stored(store, store_events(store, filter, cursor, limit, see_id, &story, &more));
        story.empty += story.rows == before;
        before_ms = reached_ms;
        if (more && store_events_reached(store, cursor, &reached_ms) != STORE_ABSENT)
            assert_true(reached_ms >= before_ms && reached_ms < NOW + BLOCKS);
    }
    return story;
}

static void assert_story(struct store *store, const struct store_filter *filter, const char *ids)
{
    for (size_t limit = 1; limit < 100; limit = 3 * limit + 1) {
        struct store_cursor cursor = STORE_CURSOR_START;
        struct story story = story_of(store, filter, limit, &cursor);
        assert_string_equal(buf_str(&story.ids), ids);
        buf_release(&story.ids);
    }
}

/* What is found is handed out before the rest is looked through, in order, and callbacks among it. */
static void a_person_is_found_block_by_block(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_filter person = {.person = ONE_PERSON};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct walk most;
    int64_t reached_ms = -1;
    assert_int_equal(store_events_reached(store, &cursor, &reached_ms), STORE_ABSENT);
    fill_blocks(store, BLOCKS, NOW);
    watch(store, &most);
    assert_story(store, &person, "");
    put_in_block(store, 0, 4095, "respondent_id");
    put_in_block(store, 1, 0, "identity");
    put_in_block(store, 400, 2, "respondent_id");
    put_in_block(store, 400, 3, "identity");
    put_in_block(store, 400, 4, "respondent_id");
    put_in_block(store, BLOCKS - 1, 2, "identity");
    put_callback(store, NOW + 300, "before");
    put_callback(store, NOW + 400, "same-time");
    put_callback(store, NOW + BLOCKS, "behind");
    assert_story(store, &person, "e4095 e4096 c1 e1638402 e1638403 e1638404 c2 e4091906 c3 ");
    /* Three steps for each block that is asked for a page, and the schema. */
    if (most.steps > BLOCKS / 2 || most.sorts)
        fail_msg("walks %d rows, sorts %d times: %s", most.steps, most.sorts, most.sql);
    struct story story = story_of(store, &person, 500, &cursor);
    assert_true(story.empty > 5 && story.pages < BLOCKS / 10);
    buf_release(&story.ids);
    person.since_ms = NOW + 400;
    assert_story(store, &person, "e1638402 e1638403 e1638404 c2 e4091906 c3 ");
    person = (struct store_filter){.person = ONE_PERSON, .account = "main"};
    assert_story(store, &person, "e4095 e4096 e1638402 e1638403 e1638404 e4091906 ");
}

/* The first page comes of some blocks; how far it has come is known; and what comes later is found. */
static void a_persons_place_can_be_kept(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_filter person = {.person = ONE_PERSON};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct story story = {0};
    struct walk most;
    int64_t reached_ms = -1;
    bool more = false;
    fill_blocks(store, BLOCKS, NOW);
    put_in_block(store, 3, 2, "respondent_id");
    watch(store, &most);
    assert_stored(store, store_events(store, &person, &cursor, 10, see_id, &story, &more));
    assert_true(more && most.work < 20 * BLOCKS);
    assert_string_equal(buf_str(&story.ids), "e12290 ");
    assert_stored(store, store_events_reached(store, &cursor, &reached_ms));
    assert_true(reached_ms > NOW + 3 && reached_ms < NOW + BLOCKS / 4);
    buf_release(&story.ids);
    story = story_of(store, &person, 10, &cursor);
    assert_int_equal(story.rows, 0);
    put_in_block(store, BLOCKS - 1, 3, "identity");
    put_in_block(store, BLOCKS + 80, 3, "identity");
    story = story_of(store, &person, 10, &cursor);
    assert_string_equal(buf_str(&story.ids), "e4091907 e4423683 ");
    buf_release(&story.ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(intake_walks_no_table, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(listings_walk_no_table, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(since_a_time_reads_pages, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_walk_is_seen, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_busy_day_writes_no_more_pages, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(older_indexes_serve_and_are_made_anew, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(indexes_by_day_serve_and_are_made_anew, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(half_a_migration_serves_and_is_ended, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(the_other_half_serves_and_is_ended, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(without_an_index_nothing_is_missing, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_person_is_found_behind_a_gap, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_person_is_found_block_by_block, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_persons_place_can_be_kept, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
