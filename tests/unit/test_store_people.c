/* What is deleted is gone from every file of the store; one person's rows lose what names the person. */
#include "store_scratch.h"

#include <sodium.h>
#include <time.h>

#include "../../common/throttle.h"

#define NOW INT64_C(1790000000000)
#define DAY INT64_C(86400000)

/* --- Rows ----------------------------------------------------------------------------------------------- */

static void key_of(const char *text, unsigned char key[32])
{
    crypto_hash_sha256(key, (const unsigned char *)text, strlen(text));
}

/* One event of a respondent, its key made of event and respondent. True: it was a repeat. */
static bool put_event(struct store *store, const char *name, const char *respondent, const char *body,
                      int64_t at)
{
    unsigned char key[32], erased[32], secret[STORE_KEY_BYTES];
    char text[256];
    bool repeat = false;
    assert_stored(store, store_identity_key(store, secret));
    snprintf(text, sizeof text, "%s %s", name, respondent);
    key_of(text, key);
    throttle_erased_key(secret, key, erased);
    const struct store_event event = {.received_at_ms = at,
                                      .account = "uni",
                                      .event = name,
                                      .exam_id = "exam-1",
                                      .respondent_id = respondent,
                                      .has_admitted_on = true,
                                      .admitted_on_ms = NOW,
                                      .body = body,
                                      .key = key,
                                      .erased_key = erased};
    scratch_begin(store, STORE_EXAMJOINT);
    assert_stored(store, store_event_add(store, &event, &repeat));
    scratch_end(store);
    return repeat;
}

static bool put_callback(struct store *store, const char *uuid, const char *external, int64_t at)
{
    bool repeat = false;
    const struct store_callback callback = {.received_at_ms = at,
                                            .account = "pv",
                                            .session_uuid = uuid,
                                            .message = "Session Has Been Terminated",
                                            .external_id = external,
                                            .sender = "192.0.2.1",
                                            .body = "{\"name\":\"CANARY-callback-body\"}"};
    scratch_begin(store, STORE_PROVIEW);
    assert_stored(store, store_callback_add(store, &callback, NULL, &repeat));
    scratch_end(store);
    return repeat;
}

static size_t take_in(struct store *store, int64_t now)
{
    size_t taken = 0;
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_intake(store, now, 6, 100, &taken));
    assert_stored(store, store_round_commit(store));
    return taken;
}

struct seen {
    size_t count;
    int64_t deliveries;
    char text[512], id[24]; /* of the last row */
};

static bool see_event(void *context, const struct store_event_row *row)
{
    struct seen *seen = context;
    seen->count++;
    seen->deliveries += row->deliveries;
    snprintf(seen->id, sizeof seen->id, "%s", row->id);
    snprintf(seen->text, sizeof seen->text, "%s %s %s %s %s %s %s", row->event ? row->event : "-",
             row->exam_id ? row->exam_id : "-", row->respondent_id ? row->respondent_id : "-",
             row->identity ? row->identity : "-", row->body ? row->body : "-",
             row->external_id ? row->external_id : "-", row->flags ? row->flags : "-");
    return true;
}

static struct seen events(struct store *store, const char *person)
{
    const struct store_filter filter = {.person = person};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct seen seen = {0};
    for (bool more = true; more;)
        assert_stored(store, store_events(store, &filter, &cursor, 100, see_event, &seen, &more));
    return seen;
}

static bool see_session(void *context, const struct store_session_row *row)
{
    struct seen *seen = context;
    seen->count++;
    snprintf(seen->text, sizeof seen->text, "%.7s %s %s %s", row->session_uuid, row->state,
             row->external_id ? row->external_id : "-",
             row->claimed_external_id ? row->claimed_external_id : "-");
    return true;
}

static struct seen sessions(struct store *store, const char *person)
{
    const struct store_filter filter = {.person = person};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct seen seen = {0};
    for (bool more = true; more;)
        assert_stored(store, store_sessions(store, &filter, &cursor, 100, see_session, &seen, &more));
    return seen;
}

/* --- Nothing remains ------------------------------------------------------------------------------------ */

/* Entries of all sizes, so that SQLite moves many of them from page to page. */
static void fill(struct store *store, int count, bool (*old)(int))
{
    unsigned random = 7;
    char body[6000];
    for (int i = 0; i < count;) {
        assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
        for (int k = 0; k < 250 && i < count; k++, i++) {
            unsigned char key[32];
            char who[64], identity[64];
            snprintf(who, sizeof who, "%s-%u-%d", old(i) ? "CANARY" : "stays", random % 9973, i);
            snprintf(identity, sizeof identity, "%s-%d-%u", old(i) ? "CANARY" : "stays", i, random % 331);
            random = random * 1103515245U + 12345U;
            size_t len = (random >> 16) % ((random >> 8) % 3 == 0 ? 5900 : 300);
            memset(body, 'x', sizeof body);
            memcpy(body, old(i) ? "CANARY" : "stays!", 6);
            body[len + 6] = '\0';
            key_of(who, key);
            const struct store_event event = {.received_at_ms = old(i) ? NOW - DAY : NOW,
                                              .account = "uni",
                                              .event = "result_ready",
                                              .respondent_id = who,
                                              .identity = identity,
                                              .body = body,
                                              .key = key};
            assert_stored(store, store_event_add(store, &event, NULL));
        }
        assert_stored(store, store_round_commit(store));
    }
}

static bool every_other(int i)
{
    return i % 2 == 0 || i % 7 == 3;
}

static void nothing_of_what_was_purged_is_in_any_file(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_purged purged;
    /* As a program that receives: open all the time, with pages of its own in memory. */
    struct store *other = scratch_open(scratch, STORE_EXAMJOINT, 0, 5000);
    fill(other, 4000, every_other);
    assert_true(scratch_files_with(scratch, "CANARY") > 0);
    assert_stored(store, store_purge(store, NOW - 1, &purged));
    assert_int_equal(purged.events, 2286);
    assert_int_equal(purged.unsettled, 0);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    /* It writes on, and brings nothing back. */
    for (int i = 0; i < 200; i++) {
        char who[32];
        snprintf(who, sizeof who, "later-%d", i * 7919 % 1000);
        put_event(other, "result_ready", who, "{}", NOW + i);
    }
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_true(scratch_files_with(scratch, "stays!") > 0);
    store_free(other);
    struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct seen seen = {0};
    for (bool more = true; more;)
        assert_stored(store, store_events(store, &all, &cursor, 1000, see_event, &seen, &more));
    assert_int_equal(seen.count, 4000 - 2286 + 200);
}

static void find_bad(void *context, const struct store_finding *finding)
{
    if (!finding->ok) {
        print_message("%s: %s\n", finding->area, finding->text);
        ++*(int *)context;
    }
}

static void a_scrubbed_store_is_sound(void **state)
{
    struct scratch *scratch = *state;
    struct store_purged purged;
    int bad = 0;
    fill(scratch->store, 2000, every_other);
    assert_stored(scratch->store, store_purge(scratch->store, NOW - 1, &purged));
    store_check(scratch->url, STORE_ALL, 0, true, find_bad, &bad);
    assert_int_equal(bad, 0);
}

static bool hold_reader(void *context, const struct store_event_row *row)
{
    (void)context;
    (void)row;
    return true;
}

/* The pages of a listing are short, and none is left open: a reader is not in the way for long. */
static void a_reader_between_two_pages_is_not_in_the_way(void **state)
{
    struct scratch *scratch = *state;
    struct store *reader = scratch_open(scratch, 0, STORE_EXAMJOINT, 5000);
    const struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_purged purged;
    bool more;
    fill(scratch->store, 500, every_other);
    assert_stored(reader, store_events(reader, &all, &cursor, 10, hold_reader, NULL, &more));
    assert_stored(scratch->store, store_purge(scratch->store, NOW - 1, &purged));
    assert_int_equal(purged.unsettled, 0);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    store_free(reader);
}

static void put_candidate(struct roster_build *build, int i, const char *name)
{
    char id[32], email[64];
    snprintf(id, sizeof id, "id-%d", i * 7919 % 10007);
    snprintf(email, sizeof email, "%s-%d@example.org", name, i);
    const struct candidate candidate = {
        .account = "uni", .id = id, .email = email, .name = name, .about = "about somebody, at some length"};
    assert_int_equal(store_roster_put(build, &candidate, NULL), STORE_OK);
}

static void nothing_of_who_left_the_roster_is_in_the_file(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct roster_build *build;
    int64_t removed = 0;
    assert_stored(store, store_roster_begin(store, "uni", false, NULL, &build));
    for (int i = 0; i < 3000; i++)
        put_candidate(build, i, i % 3 == 0 ? "CANARY" : "stays!");
    assert_stored(store, store_roster_commit(build));
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 1);
    assert_stored(store, store_roster_begin(store, "uni", false, NULL, &build));
    for (int i = 0; i < 3000; i += 3) {
        char id[32];
        snprintf(id, sizeof id, "id-%d", i * 7919 % 10007);
        assert_stored(store, store_roster_remove(build, "uni", id, &removed));
        assert_int_equal(removed, 1);
    }
    assert_stored(store, store_roster_commit(build));
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_int_equal(scratch_files_with(scratch, "canary"), 0);
    assert_int_equal(scratch_roster_lines(store, "uni"), 2000);
}

/* --- Erased --------------------------------------------------------------------------------------------- */

static void erase_event(struct store *store, const char *id)
{
    unsigned char secret[STORE_KEY_BYTES];
    assert_stored(store, store_identity_key(store, secret));
    scratch_begin(store, STORE_EXAMJOINT);
    assert_stored(store, store_event_erase(store, id, secret));
    scratch_end(store);
    scratch_begin(store, STORE_EXAMJOINT);
    assert_int_equal(store_event_erase(store, id, secret), STORE_ABSENT);
    scratch_end(store);
}

static bool some_erased(struct store *store)
{
    bool some = false;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 2; i++)
        assert_stored(store, store_events_erased(store, &some));
    assert_stored(store, store_round_commit(store));
    return some;
}

/* Another program erases, between two rounds of who asks. */
static void whether_any_is_erased_is_known_at_once(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    assert_false(some_erased(store));
    assert_false(put_event(store, "result_ready", "CANARY-1", "{}", NOW));
    assert_false(put_event(store, "result_ready", "CANARY-2", "{}", NOW));
    assert_false(some_erased(store));
    struct store *other = scratch_open(scratch, STORE_EXAMJOINT, 0, 1000);
    assert_false(some_erased(other));
    erase_event(other, events(other, "CANARY-1").id);
    assert_true(some_erased(store));
    assert_true(some_erased(other));
    assert_false(put_event(store, "result_ready", "CANARY-3", "{}", NOW));
    assert_true(some_erased(other));
    store_free(other);
}

static void who_erases_knows_it_as_well(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    assert_false(put_event(store, "result_ready", "CANARY-1", "{}", NOW));
    assert_false(some_erased(store));
    erase_event(store, events(store, "CANARY-1").id);
    assert_true(some_erased(store));
}

static void an_erased_event_counts_and_its_repeat_is_counted_on_it(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_purged purged;
    assert_false(put_event(store, "result_ready", "CANARY-1", "{\"a\":\"CANARY-body\"}", NOW));
    assert_true(put_event(store, "result_ready", "CANARY-1", "{\"a\":\"CANARY-other\"}", NOW + 1));
    assert_false(put_event(store, "score of CANARY", "CANARY-1", "{}", NOW + 1));
    assert_false(put_event(store, "result_ready", "other", "{}", NOW + 2));
    erase_event(store, events(store, "CANARY-1").id);
    erase_event(store, events(store, "CANARY-1").id);
    const struct store_sweep_rule scrub = {.scrub_areas = STORE_ALL};
    assert_stored(store, store_sweep(store, &scrub, &purged));
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_int_equal(events(store, "CANARY-1").count, 0);
    assert_int_equal(events(store, NULL).count, 3);
    assert_true(put_event(store, "result_ready", "CANARY-1", "{\"a\":\"CANARY-body\"}", NOW + 3));
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    struct seen seen = events(store, STORE_ERASED);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.deliveries, 4);
    assert_string_equal(seen.text, "- exam-1 - erased: - - -");
    /* Another event of the person is a new fact. */
    assert_false(put_event(store, "investigation_complete", "CANARY-1", "{}", NOW + 4));
    assert_int_equal(events(store, "CANARY-1").count, 1);
}

#define UUID "f46bd560-53f6-11eb-b441-492a960aa0ba"

static void erase_session(struct store *store, const char *uuid, int64_t *callbacks, int64_t *count)
{
    scratch_begin(store, STORE_PROVIEW);
    assert_stored(store, store_callbacks_erase(store, "pv", uuid, NOW, callbacks));
    scratch_end(store);
    scratch_begin(store, STORE_RATINGS);
    assert_stored(store, store_session_erase(store, "pv", uuid, NOW, count));
    scratch_end(store);
}

static void an_erased_session_is_neither_fetched_nor_known_again(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_purged purged;
    int64_t callbacks = 0, count = 0, due;
    put_callback(store, UUID, "CANARY-ext", NOW);
    put_callback(store, UUID, "CANARY-two", NOW);
    assert_int_equal(take_in(store, NOW), 2);
    scratch_begin(store, STORE_RATINGS);
    assert_stored(store, store_session_hold(store, "pv", UUID, "CANARY-person"));
    scratch_end(store);
    assert_int_equal(sessions(store, "CANARY-person").count, 1);
    erase_session(store, UUID, &callbacks, &count);
    assert_int_equal(callbacks, 2);
    assert_int_equal(count, 1);
    const struct store_sweep_rule scrub = {.scrub_areas = STORE_ALL};
    assert_stored(store, store_sweep(store, &scrub, &purged));
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_int_equal(scratch_files_with(scratch, UUID), 0);
    assert_true(put_callback(store, UUID, "CANARY-ext", NOW + 1));
    assert_int_equal(take_in(store, NOW + 1), 0);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_string_equal(sessions(store, NULL).text, "erased: erased - -");
    assert_int_equal(events(store, NULL).count, 1);
    assert_int_equal(events(store, NULL).deliveries, 3);
    due = -1;
    assert_stored(store, store_sessions_next(store, NOW + 2, DAY, DAY, &due));
    assert_int_equal(due, 0);
}

static void a_session_erased_before_it_was_taken_in_is_never_made(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    int64_t callbacks = 0, count = -1;
    put_callback(store, UUID, "ext", NOW);
    erase_session(store, UUID, &callbacks, &count);
    assert_int_equal(count, 0);
    assert_int_equal(take_in(store, NOW), 1); /* seen, and passed by */
    assert_int_equal(sessions(store, NULL).count, 0);
    assert_int_equal(take_in(store, NOW), 0);
    /* Others' are taken in as ever. */
    put_callback(store, "00000000-53f6-11eb-b441-492a960aa0ba", "ext", NOW);
    assert_int_equal(take_in(store, NOW), 1);
    assert_int_equal(sessions(store, NULL).count, 1);
}

static void a_session_without_callbacks_leaves_a_row_that_stops_later_ones(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_purged purged;
    int64_t callbacks = -1, count = 0;
    put_callback(store, UUID, "ext", NOW - DAY);
    take_in(store, NOW - DAY);
    assert_stored(store, store_purge(store, NOW - 1, &purged));
    assert_int_equal(purged.callbacks, 1);
    erase_session(store, UUID, &callbacks, &count);
    assert_int_equal(callbacks, 0);
    assert_int_equal(count, 1);
    assert_true(put_callback(store, UUID, "ext", NOW + 1));
    take_in(store, NOW + 1);
    assert_int_equal(sessions(store, NULL).count, 1);
    assert_string_equal(sessions(store, NULL).text, "erased: erased - -");
}

/* --- Retention ------------------------------------------------------------------------------------------ */

static struct store_purged retain(struct store *store, int64_t now, int64_t retention)
{
    const struct store_sweep_rule rule = {.retention_ms = retention, .now_ms = now};
    struct store_purged purged;
    assert_stored(store, store_sweep(store, &rule, &purged));
    return purged;
}

static void put_at(struct store *store, int number, int64_t at)
{
    char who[32];
    snprintf(who, sizeof who, "r%d", number);
    put_event(store, "result_ready", who, "{}", at);
}

static void retention_deletes_what_is_older(void **state)
{
    const struct scratch *scratch = *state;
    for (int day = 0; day < 100; day++)
        put_at(scratch->store, day, NOW - (99 - day) * DAY);
    struct store_purged purged = retain(scratch->store, NOW, 30 * DAY);
    assert_int_equal(purged.events, 69);
    assert_int_equal(purged.behind_ms, 0);
    assert_int_equal(events(scratch->store, NULL).count, 31);
    /* Not again within the hour, whoever asks. */
    assert_int_equal(retain(scratch->store, NOW + 3599999, 10 * DAY).events, 0);
    assert_int_equal(retain(scratch->store, NOW + 3600000, 10 * DAY).events, 21);
}

static bool count_delivery(void *context, const struct store_delivery_row *row)
{
    *(int *)context += row->body != NULL;
    return true;
}

/* Whoever receives does one step between two rounds of its own: none may do all of them. */
static void an_event_with_many_long_repeats_goes_in_short_steps(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    const struct store_sweep_rule rule = {.retention_ms = 30 * DAY, .now_ms = NOW};
    char body[20000];
    memset(body, 'x', sizeof body);
    for (int i = 0; i <= STORE_DELIVERIES_KEPT; i++) {
        snprintf(body, sizeof body, "%d", i);
        body[strlen(body)] = 'x';
        body[sizeof body - 1] = '\0';
        put_event(store, "result_ready", "r1", body, NOW - 60 * DAY);
    }
    put_at(store, 2, NOW);
    struct seen old = events(store, "r1");
    struct store_sweep *sweep = store_sweep_new(store, &rule);
    int left = STORE_DELIVERIES_KEPT;
    for (bool more = true; more;) {
        int before = left;
        left = 0;
        assert_stored(store, store_sweep_step(sweep, &more));
        (void)store_deliveries(store, old.id, count_delivery, &left);
        assert_true(before - left <= 20);
    }
    assert_int_equal(left, 0);
    assert_int_equal(store_sweep_result(sweep).events, 1);
    assert_int_equal(events(store, NULL).count, 1);
    store_sweep_free(sweep);
}

/* Killed between its last row and the cut of the log: there may be nothing more to delete for long. */
static void what_a_retention_left_is_overwritten_by_the_next(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    const struct store_sweep_rule rule = {.retention_ms = 30 * DAY, .now_ms = NOW};
    put_event(store, "result_ready", "r1", "{\"x\":\"CANARY-left\"}", NOW - 60 * DAY);
    put_at(store, 2, NOW);
    struct store_sweep *sweep = store_sweep_new(store, &rule);
    for (bool more = true; more && store_sweep_result(sweep).events == 0;)
        assert_stored(store, store_sweep_step(sweep, &more));
    store_sweep_free(sweep);
    assert_int_equal(events(store, NULL).count, 1);
    assert_int_not_equal(scratch_files_with(scratch, "CANARY-left"), 0);
    assert_int_equal(retain(store, NOW + 3600000, 30 * DAY).events, 0);
    assert_int_equal(scratch_files_with(scratch, "CANARY-left"), 0);
}

static void a_clock_that_jumps_ahead_does_not_empty_the_store(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    for (int day = 0; day < 100; day++)
        put_at(store, day, NOW - (99 - day) * DAY);
    /* At the first sweep of all: what is newest is believed. */
    struct store_purged purged = retain(store, NOW + 7000 * DAY, 40 * DAY);
    assert_int_equal(purged.events, 60);
    assert_int_equal(purged.behind_ms / DAY, 6999);
    /* Then a day's worth an hour, also when events come that have the wrong time. */
    put_at(store, 1000, NOW + 7000 * DAY);
    assert_int_equal(retain(store, NOW + 7000 * DAY + 1, 40 * DAY).events, 0);
    assert_int_equal(retain(store, NOW + 7000 * DAY + 3600000, 40 * DAY).events, 1);
    /* It was put right: nothing more is early, and nothing is held up by the row of the future. */
    assert_int_equal(retain(store, NOW + 3600000, 40 * DAY).events, 0);
    for (int hour = 1; hour < 24 * 5; hour++)
        retain(store, NOW + hour * INT64_C(3600000), 40 * DAY);
    assert_int_equal(events(store, NULL).count, 100 - 64 + 1);
}

/* A machine whose clock has no battery, until it has asked for the time. */
#define YEAR_2000 INT64_C(946684800000)
static void a_clock_that_begins_in_the_year_2000_does_not_hold_retention_up(void **state)
{
    const struct scratch *scratch = *state;
    put_at(scratch->store, 1, NOW - 50 * DAY);
    put_at(scratch->store, 2, NOW);
    assert_int_equal(retain(scratch->store, YEAR_2000, 40 * DAY).events, 0);
    struct store_purged purged = retain(scratch->store, NOW, 40 * DAY);
    assert_int_equal(purged.events, 1);
    assert_int_equal(purged.behind_ms, 0);
    /* Also later, and no more goes early than before. */
    assert_int_equal(retain(scratch->store, YEAR_2000 + DAY, 40 * DAY).events, 0);
    assert_int_equal(retain(scratch->store, NOW + 7000 * DAY, 40 * DAY).events, 0);
}

static void what_came_while_the_clock_was_behind_is_not_taken_for_old(void **state)
{
    const struct scratch *scratch = *state;
    put_at(scratch->store, 1, NOW - DAY);
    put_at(scratch->store, 2, 1000); /* 1970 */
    put_at(scratch->store, 3, NOW);
    assert_int_equal(retain(scratch->store, NOW, 30 * DAY).events, 0);
    assert_int_equal(events(scratch->store, NULL).count, 3);
    /* When what came before it is old, it goes with that. */
    for (int day = 1; day < 40; day++)
        retain(scratch->store, NOW + day * DAY, 30 * DAY);
    assert_int_equal(events(scratch->store, NULL).count, 0);
}

static void retention_leaves_a_pending_session_and_what_was_not_taken_in(void **state)
{
    const struct scratch *scratch = *state;
    struct store *store = scratch->store;
    put_callback(store, UUID, "ext", NOW - 100 * DAY);
    take_in(store, NOW - 100 * DAY);
    put_callback(store, "00000000-53f6-11eb-b441-492a960aa0ba", "ext", NOW - 99 * DAY);
    put_at(store, 1, NOW);
    for (int day = 0; day < 120; day++)
        retain(store, NOW + day * DAY, 30 * DAY);
    assert_int_equal(sessions(store, NULL).count, 1);
    assert_int_equal(events(store, NULL).count, 1); /* the callback that waits */
    /* proview.fcgi, which may not look into ratings.db, goes by age alone. */
    struct store *proview = scratch_open(scratch, STORE_PROVIEW, 0, 5000);
    assert_int_equal(retain(proview, NOW + 200 * DAY, 30 * DAY).callbacks, 1);
    store_free(proview);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(nothing_of_what_was_purged_is_in_any_file),
        scratch_test(a_scrubbed_store_is_sound),
        scratch_test(a_reader_between_two_pages_is_not_in_the_way),
        scratch_test(nothing_of_who_left_the_roster_is_in_the_file),
        scratch_test(whether_any_is_erased_is_known_at_once),
        scratch_test(who_erases_knows_it_as_well),
        scratch_test(an_erased_event_counts_and_its_repeat_is_counted_on_it),
        scratch_test(an_erased_session_is_neither_fetched_nor_known_again),
        scratch_test(a_session_erased_before_it_was_taken_in_is_never_made),
        scratch_test(a_session_without_callbacks_leaves_a_row_that_stops_later_ones),
        scratch_test(retention_deletes_what_is_older),
        scratch_test(an_event_with_many_long_repeats_goes_in_short_steps),
        scratch_test(what_a_retention_left_is_overwritten_by_the_next),
        scratch_test(a_clock_that_jumps_ahead_does_not_empty_the_store),
        scratch_test(a_clock_that_begins_in_the_year_2000_does_not_hold_retention_up),
        scratch_test(what_came_while_the_clock_was_behind_is_not_taken_for_old),
        scratch_test(retention_leaves_a_pending_session_and_what_was_not_taken_in),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
