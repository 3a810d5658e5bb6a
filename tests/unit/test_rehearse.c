/* The arithmetic of a rehearsal; and its account in the store: out of every listing, and removed whole. */
#include "store_scratch.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include "../../cli/rehearse.h"
#include "../../common/json.h"

#define NOW INT64_C(1790000000000)

/* --- Arrivals, percentiles, the agenda -------------------------------------------------------------------
 */

static void arrivals_are_bunched_at_the_beginning(void **state)
{
    static const struct {
        size_t count;
        int64_t within_ms;
    } cases[] = {{1, 1000}, {10, 3000}, {3000, 60000}, {100000, 3600000}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t before = 0;
        size_t first_third = 0;
        for (size_t k = 0; k < cases[i].count; k++) {
            int64_t at_ms = shape_arrival_ms(k, cases[i].count, cases[i].within_ms);
            assert_true(at_ms >= before && at_ms < cases[i].within_ms);
            before = at_ms;
            first_third += at_ms < cases[i].within_ms / 3;
        }
        if (cases[i].count >= 10)
            assert_in_range(first_third * 100 / cases[i].count, 78, 84);
    }
    /* The last comes late, so that all of the time is used. */
    assert_true(shape_arrival_ms(2999, 3000, 60000) > 50000);
    /* Five times the mean rate: 3,000 in 60 s are 250 in the first second, less what the second falls. */
    assert_in_range(shape_peak(3000, 60000), 220, 250);
    assert_int_equal(shape_peak(7, 500), 7);
}

static void percentiles_are_the_nearest_rank(void **state)
{
    struct samples samples = {0};
    (void)state;
    assert_int_equal(samples_percentile(&samples, 50), 0);
    for (int64_t i = 0; i < 1000; i++)
        samples_add(&samples, i * 7919 % 1000 + 1);
    assert_int_equal(samples_percentile(&samples, 50), 500);
    assert_int_equal(samples_percentile(&samples, 99), 990);
    assert_int_equal(samples_percentile(&samples, 100), 1000);
    assert_int_equal(samples_percentile(&samples, 0), 1);
    samples_add(&samples, 5000);
    assert_int_equal(samples_percentile(&samples, 100), 5000);
    samples_release(&samples);
    samples_add(&samples, 3);
    assert_int_equal(samples_percentile(&samples, 50), 3);
    assert_int_equal(samples_percentile(&samples, 99), 3);
    samples_release(&samples);
}

static void the_earliest_is_due_first(void **state)
{
    struct agenda agenda = {0};
    size_t who = 99;
    int64_t before = -1;
    (void)state;
    assert_true(agenda_next_ms(&agenda) == INT64_MAX);
    assert_false(agenda_take(&agenda, INT64_MAX, &who));
    for (size_t i = 0; i < 1000; i++)
        agenda_add(&agenda, (int64_t)(i * 7919 % 500), i);
    assert_int_equal(agenda_next_ms(&agenda), 0);
    for (size_t i = 0; i < 1000; i++) {
        int64_t at_ms = agenda_next_ms(&agenda);
        assert_true(at_ms >= before);
        assert_false(agenda_take(&agenda, at_ms - 1, &who));
        assert_true(agenda_take(&agenda, at_ms, &who));
        assert_int_equal((int64_t)(who * 7919 % 500), at_ms);
        before = at_ms;
    }
    assert_false(agenda_take(&agenda, INT64_MAX, &who));
    agenda_release(&agenda);
}

static void kinds_of_hash_come_in_proportion(void **state)
{
    static const int64_t shares[3] = {700, 0, 300};
    int64_t given[3] = {0};
    (void)state;
    for (int i = 1; i <= 1000; i++) {
        shape_next_kind(shares, given, 3);
        assert_in_range(given[0] * 10 + 10 - i * 7, 0, 20);
    }
    assert_int_equal(given[0], 700);
    assert_int_equal(given[1], 0);
    assert_int_equal(given[2], 300);
}

static void a_base_is_a_host_and_no_more(void **state)
{
    static const char *const good[] = {"https://exams.example.org", "https://127.0.0.1:8443",
                                       "https://[::1]:8443"};
    static const char *const bad[] = {"",
                                      "https://",
                                      "http://example.org",
                                      "https://example.org/",
                                      "https://example.org/x",
                                      "https://u@example.org",
                                      "https://a b",
                                      "example.org"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(rehearse_http_base_ok(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(rehearse_http_base_ok(bad[i]));
}

/* --- What held it up -------------------------------------------------------------------------------------
 */

static enum rehearse_limit judged(const struct rehearse_run *run, struct rehearse_result *result,
                                  const char *says)
{
    struct buf why = BUF_INIT;
    enum rehearse_limit limit = rehearse_judge(run, result, &why);
    if (!strstr(buf_str(&why), says))
        fail_msg("\"%s\" is not in: %s", says, buf_str(&why));
    buf_release(&why);
    return limit;
}

static void the_bottleneck_is_named(void **state)
{
    struct rehearse_run run = {
        .candidates = 1000, .within_ms = 60000, .check_ms = 25, .commit_ms = 2, .cores = 2, .rated = true};
    struct rehearse_result result = {0};
    (void)state;
    for (int i = 0; i < 100; i++)
        samples_add(&result.tally[STEP_VERIFY].took, 30);
    assert_int_equal(judged(&run, &result, "80 a second"), LIMIT_NONE);
    result.not_rated = 3;
    assert_int_equal(judged(&run, &result, "3 did not"), LIMIT_TALVIEW);
    run.commit_ms = 40;
    samples_add(&result.events, 900);
    assert_int_equal(judged(&run, &result, "40.0 ms"), LIMIT_DISK);
    result.tally[STEP_ADMITTED].unavailable = 7;
    assert_int_equal(judged(&run, &result, "7 requests got 503"), LIMIT_SERVER);
    result.tally[STEP_VERIFY].load = 12;
    assert_int_equal(judged(&run, &result, "12 times"), LIMIT_PASSWORDS);
    result.tally[STEP_VERIFY].load = 0;
    for (int i = 0; i < 100; i++)
        samples_add(&result.tally[STEP_VERIFY].took, 9000);
    assert_int_equal(judged(&run, &result, "25.0 ms"), LIMIT_PASSWORDS);
    result.tally[STEP_RESULT].limited = 1;
    assert_int_equal(judged(&run, &result, "429"), LIMIT_ADDRESS);
    rehearse_result_release(&result);
}

/* --- The account in the store ----------------------------------------------------------------------------
 */

static void put_events(struct store *store, const char *account, const char *word, int count)
{
    static const struct store_throttle rule = {5, 600000, 15000, 1000};
    int64_t wait_ms;
    bool newly;
    scratch_begin(store, STORE_EXAMJOINT);
    for (int i = 0; i < count; i++) {
        char who[64] = "", body[64];
        unsigned char key[32];
        snprintf(who, sizeof who, "%s-%d", word, i);
        snprintf(body, sizeof body, "{\"said\":\"%s\"}", word);
        memcpy(key, who, sizeof key);
        const struct store_event event = {.received_at_ms = NOW + i,
                                          .account = account,
                                          .event = "result_ready",
                                          .exam_id = word,
                                          .respondent_id = who,
                                          .body = body,
                                          .key = key};
        struct store_event again = event;
        again.body = "{\"again\":1}";
        assert_stored(store, store_event_add(store, &event, NULL));
        assert_stored(store, store_event_add(store, &again, NULL));
        assert_stored(store, store_attempt_count(store, key, account, word, NOW, &rule, &wait_ms, &newly));
    }
    scratch_end(store);
}

static void put_sessions(struct store *store, const char *account, const char *word, int count)
{
    struct store_login login = {
        .token = (char *)(uintptr_t)word,
        .obtained_at_ms = NOW,
        .expires_at_ms = NOW + 1000,
        .failing_from_ms = NOW,
        .failing_ms = 1,
    };
    size_t taken;
    scratch_begin(store, STORE_PROVIEW);
    for (int i = 0; i < count; i++) {
        char uuid[64];
        snprintf(uuid, sizeof uuid, "019a1b2c-0000-7000-%04x-%012x", (unsigned)word[0] << 4, (unsigned)i);
        const struct store_callback callback = {.received_at_ms = NOW,
                                                .account = account,
                                                .session_uuid = uuid,
                                                .message = "over",
                                                .external_id = word,
                                                .sender = "192.0.2.1",
                                                .body = "{}"};
        assert_stored(store, store_callback_add(store, &callback, NULL, NULL));
    }
    scratch_end(store);
    scratch_begin(store, STORE_RATINGS);
    assert_stored(store, store_sessions_intake(store, NOW, 6, 1000, &taken));
    assert_int_equal(taken, count);
    assert_stored(store, store_login_put(store, account, &login));
    scratch_end(store);
}

static void put_line(struct store *store, const char *account, const char *id)
{
    const struct candidate line = {.account = account, .id = id};
    struct roster_build *build;
    assert_stored(store, store_roster_begin(store, account, false, NULL, &build));
    assert_stored(store, store_roster_put(build, &line, NULL));
    assert_stored(store, store_roster_commit(build));
}

static void put_many_lines(struct store *store, int count)
{
    struct roster_build *build;
    assert_stored(store, store_roster_begin(store, STORE_REHEARSAL, true, "CANARY", &build));
    for (int i = 0; i < count; i++) {
        char id[64];
        (void)snprintf(id, sizeof id, "CANARY-%06d", i);
        const struct candidate line = {
            .account = STORE_REHEARSAL, .id = id, .email = id, .about = id, .exam = "CANARY"};
        assert_stored(store, store_roster_put(build, &line, NULL));
    }
    assert_stored(store, store_roster_commit(build));
}

static bool count_session(void *context, const struct store_session_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

/* Events, callbacks and sessions that a listing gives; account NULL: it names none. */
static int listed(struct store *store, const char *account, const char *person)
{
    const struct store_filter filter = {.account = account, .person = person};
    struct store_cursor events = STORE_CURSOR_START, sessions = STORE_CURSOR_START;
    int count = 0;
    for (bool more = true; more;)
        assert_stored(store, store_events(store, &filter, &events, 7, scratch_count_row, &count, &more));
    for (bool more = true; more;)
        assert_stored(store, store_sessions(store, &filter, &sessions, 7, count_session, &count, &more));
    return count;
}

static void fill(struct store *store)
{
    put_events(store, "main", "stays", 20);
    put_events(store, STORE_REHEARSAL, "CANARY", 170);
    put_sessions(store, "main", "stays", 5);
    put_sessions(store, STORE_REHEARSAL, "CANARY", 130);
    put_line(store, "main", "stays-1");
    put_line(store, STORE_REHEARSAL, "CANARY-1");
}

static void listings_leave_it_out_unless_it_is_named(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    fill(store);
    assert_int_equal(listed(store, NULL, NULL), 20 + 5 + 5);
    assert_int_equal(listed(store, "main", NULL), 20 + 5 + 5);
    assert_int_equal(listed(store, STORE_REHEARSAL, NULL), 170 + 130 + 130);
    assert_int_equal(listed(store, "nobody", NULL), 0);
    assert_int_equal(listed(store, NULL, "CANARY-3"), 0);
    assert_int_equal(listed(store, STORE_REHEARSAL, "CANARY-3"), 1);
    assert_int_equal(listed(store, NULL, "stays-3"), 1);
    assert_int_equal(scratch_roster_lines(store, NULL), 1);
    assert_int_equal(scratch_roster_lines(store, STORE_REHEARSAL), 1);
}

/* As many as there were made up: the roster is as small as before, and whole. */
static void a_roster_is_small_again(void **state)
{
    struct scratch *scratch = *state;
    struct stat before, full, after;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/store/roster/roster.db", scratch->folder);
    put_line(scratch->store, "main", "stays-1");
    assert_int_equal(stat(path, &before), 0);
    put_many_lines(scratch->store, 20000);
    assert_int_equal(stat(path, &full), 0);
    assert_true(full.st_size > 10 * before.st_size && full.st_size > 2 << 20);
    put_many_lines(scratch->store, 0);
    assert_int_equal(stat(path, &after), 0);
    assert_true(after.st_size <= 2 * before.st_size);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), 1);
    assert_int_equal(scratch_roster_lines(scratch->store, STORE_REHEARSAL), 0);
}

static void a_retry_of_all_leaves_it_alone(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    const struct store_given_up all = {.account = STORE_REHEARSAL,
                                       .waiting_since_ms = NOW + 1000,
                                       .error = "given up",
                                       .now_ms = NOW + 1000,
                                       .lease_ms = 1000,
                                       .max_ahead_ms = 100000};
    int64_t count = 0;
    put_sessions(store, STORE_REHEARSAL, "CANARY", 3);
    scratch_begin(store, STORE_RATINGS);
    assert_stored(store, store_sessions_give_up(store, &all, &count));
    assert_int_equal(count, 3);
    assert_stored(store, store_sessions_retry(store, NULL, NOW, &count));
    assert_int_equal(count, 0);
    scratch_end(store);
}

static bool told(void *context, int64_t gone)
{
    assert_true(gone > *(int64_t *)context);
    *(int64_t *)context = gone;
    return true;
}

static void all_of_it_is_removed_and_nothing_else(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_removed removed = {0};
    struct store_login login;
    int64_t gone = 0;
    fill(store);
    assert_true(scratch_files_with(scratch, "CANARY") >= 3);
    assert_stored(store, store_account_remove(store, STORE_REHEARSAL, NULL, told, &gone, &removed));
    assert_int_equal(removed.events, 170);
    assert_int_equal(removed.callbacks, 130);
    assert_int_equal(removed.sessions, 130);
    assert_int_equal(removed.newest_ms, NOW + 169);
    /* And its failed attempts, and the login. */
    assert_int_equal(gone, 170 + 170 + 130 + 130 + 1);
    assert_int_equal(listed(store, STORE_REHEARSAL, NULL), 0);
    assert_int_equal(listed(store, NULL, NULL), 20 + 5 + 5);
    assert_stored(store, store_login_get(store, STORE_REHEARSAL, &login));
    assert_null(login.token);
    assert_int_equal(scratch_files_with(scratch, "logins_fail_from " STORE_REHEARSAL), 0);
    assert_int_equal(scratch_files_with(scratch, "logins_fail_for " STORE_REHEARSAL), 0);
    assert_stored(store, store_login_get(store, "main", &login));
    assert_int_equal(login.failing_from_ms, NOW);
    assert_string_equal(login.token, "stays");
    store_login_release(&login);
    /* The roster is another's business. */
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 1);
    assert_int_equal(scratch_roster_lines(store, STORE_REHEARSAL), 1);
    /* Once more: nothing is there, and that is fine. */
    removed = (struct store_removed){0};
    assert_stored(store, store_account_remove(store, STORE_REHEARSAL, NULL, NULL, NULL, &removed));
    assert_int_equal(removed.events + removed.callbacks + removed.sessions + removed.newest_ms, 0);
}

static void what_has_no_mark_stays(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_removed removed = {0};
    put_events(store, STORE_REHEARSAL, "somebody", 20);
    put_events(store, STORE_REHEARSAL, "rehearsal-0123", 20);
    put_events(store, STORE_REHEARSAL, "rehearsal-0123456789", 70);
    put_sessions(store, STORE_REHEARSAL, "somebody", 5);
    put_sessions(store, STORE_REHEARSAL, "rehearsal-0123456789", 60);
    assert_stored(store,
                  store_account_remove(store, STORE_REHEARSAL, STORE_REHEARSAL_MARK, NULL, NULL, &removed));
    assert_int_equal(removed.events, 70);
    assert_int_equal(removed.callbacks, 60);
    assert_int_equal(removed.sessions, 60);
    assert_int_equal(listed(store, STORE_REHEARSAL, NULL), 20 + 20 + 5 + 5);
    assert_int_equal(scratch_files_with(scratch, "rehearsal-0123456789"), 0);
}

static bool stop_soon(void *context, int64_t gone)
{
    (void)context;
    return gone < 60;
}

static void a_removal_that_was_stopped_is_gone_on_with(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_removed removed = {0};
    fill(store);
    assert_stored(store, store_account_remove(store, STORE_REHEARSAL, NULL, stop_soon, NULL, &removed));
    assert_true(removed.events > 0 && removed.events < 170);
    assert_stored(store, store_account_remove(store, STORE_REHEARSAL, NULL, NULL, NULL, &removed));
    assert_int_equal(removed.events, 170);
    assert_int_equal(removed.sessions, 130);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 1);
}

/* As the ExamJoint program has it: one area, and the others not even open. */
static void only_open_areas_are_touched(void **state)
{
    struct scratch *scratch = *state;
    struct store_removed removed = {0};
    fill(scratch->store);
    store_free(scratch->store);
    scratch->store = scratch_open(scratch, STORE_EXAMJOINT, STORE_PROVIEW, 5000);
    assert_stored(scratch->store,
                  store_account_remove(scratch->store, STORE_REHEARSAL, NULL, NULL, NULL, &removed));
    assert_int_equal(removed.events, 170);
    assert_int_equal(removed.callbacks + removed.sessions, 0);
}

/* What is deleted and not yet overwritten is overwritten by the next try, though nothing is left to delete.
 */
static void bytes_that_a_reader_held_go_later(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_removed removed = {0};
    char path[128];
    sqlite3 *reader = NULL;
    put_events(store, STORE_REHEARSAL, "CANARY", 20);
    (void)snprintf(path, sizeof path, "%s/store/examjoint/events.db", scratch->folder);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM events", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(store_account_remove(store, STORE_REHEARSAL, NULL, NULL, NULL, &removed), STORE_BUSY);
    assert_non_null(strstr(store_message(store), "may remain"));
    assert_int_equal(removed.events, 20);
    assert_true(scratch_files_with(scratch, "CANARY") > 0);
    sqlite3_close(reader);
    assert_stored(store, store_account_remove(store, STORE_REHEARSAL, NULL, NULL, NULL, &removed));
    assert_int_equal(removed.events, 20);
    assert_int_equal(scratch_files_with(scratch, "CANARY"), 0);
}

static void ratings_are_counted_behind_a_place(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    int64_t place = -1, rated = -1;
    assert_stored(store, store_sessions_last(store, &place));
    assert_int_equal(place, 0);
    put_sessions(store, STORE_REHEARSAL, "CANARY", 2);
    assert_stored(store, store_sessions_last(store, &place));
    assert_int_equal(place, 2);
    assert_stored(store, store_account_rated(store, STORE_REHEARSAL, 0, &rated));
    assert_int_equal(rated, 0);
}

/* --- What came of it --------------------------------------------------------------------------------------
 */

/* An answer may be anything: a web server's page, a text that was cut within a letter. */
static void what_was_answered_harms_no_reader(void **state)
{
    const struct rehearse_run run = {.candidates = 1, .within_ms = 1000};
    struct rehearse_result result = {.trouble = "status 500, \x1b]0;\xe9 <b>caf\xc3", .slice_ms = 100};
    struct buf html = BUF_INIT;
    char *text = NULL;
    size_t len = 0;
    (void)state;
    result.tally[STEP_VERIFY].failed = 1;
    FILE *out = open_memstream(&text, &len);
    rehearse_print_json(out, &run, &result);
    rehearse_print(out, &run, &result);
    fclose(out);
    assert_true(utf8_valid(text, len));
    assert_null(memchr(text, 0x1b, len));
    assert_non_null(strstr(text, "\"trouble\":\"status 500, "));
    free(text);
    rehearse_chart(&html, &run, &result);
    assert_true(utf8_valid(html.data, html.len));
    assert_null(memchr(html.data, 0x1b, html.len));
    assert_non_null(strstr(buf_str(&html), "failed: 1 requests, first trouble: status 500, "));
    assert_non_null(strstr(buf_str(&html), "&lt;b&gt;caf"));
    buf_release(&html);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrivals_are_bunched_at_the_beginning),
        cmocka_unit_test(percentiles_are_the_nearest_rank),
        cmocka_unit_test(the_earliest_is_due_first),
        cmocka_unit_test(kinds_of_hash_come_in_proportion),
        cmocka_unit_test(a_base_is_a_host_and_no_more),
        cmocka_unit_test(the_bottleneck_is_named),
        scratch_test(listings_leave_it_out_unless_it_is_named),
        scratch_test(a_roster_is_small_again),
        scratch_test(a_retry_of_all_leaves_it_alone),
        scratch_test(all_of_it_is_removed_and_nothing_else),
        scratch_test(what_has_no_mark_stays),
        scratch_test(a_removal_that_was_stopped_is_gone_on_with),
        scratch_test(only_open_areas_are_touched),
        scratch_test(bytes_that_a_reader_held_go_later),
        scratch_test(ratings_are_counted_behind_a_place),
        cmocka_unit_test(what_was_answered_harms_no_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
