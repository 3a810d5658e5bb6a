/* A store's write-ahead log: what lies in it outlives files removed or replaced while they are open, and it
 * is taken for no other file's. */
#include <sys/stat.h>

#include "store_scratch.h"

#define NOW INT64_C(1764000000000)
#define EVENTS "examjoint/events.db"

static const char *path_in(const struct scratch *scratch, const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", scratch->folder, name);
    return path;
}

static void remove_file(const struct scratch *scratch, const char *name)
{
    assert_int_equal(unlink(path_in(scratch, name)), 0);
}

static void put(struct store *store)
{
    struct store_event event = {.received_at_ms = NOW, .account = "main", .event = "odd", .body = "{}"};
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin(store));
    assert_stored(store, store_event_add(store, &event, NULL));
    assert_stored(store, store_step_end(store, true));
    assert_stored(store, store_round_commit(store));
}

static bool count_row(void *context, const struct store_event_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

static int count_events(struct store *store)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_filter filter = {0};
    int count = 0;
    bool more = true;
    assert_stored(store, store_events(store, &filter, &cursor, 500, count_row, &count, &more));
    return count;
}

static int count_anew(struct scratch *scratch)
{
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT, 1000);
    int count = count_events(store);
    store_free(store);
    return count;
}

static void close_store(struct scratch *scratch)
{
    store_free(scratch->store);
    scratch->store = NULL;
}

/* Somebody cleans up, and then starts the program anew. */
static void a_program_that_ends_saves_a_log_that_was_removed(void **state)
{
    struct scratch *scratch = *state;
    put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    remove_file(scratch, "store/" EVENTS "-shm");
    close_store(scratch);
    assert_int_equal(count_anew(scratch), 1);
}

/* The programs look at the store between rounds too, before any event comes. */
static void a_look_outside_a_round_saves_the_log(void **state)
{
    struct scratch *scratch = *state;
    put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    assert_int_equal(count_events(scratch->store), 1);
    put(scratch->store);
    close_store(scratch);
    assert_int_equal(count_anew(scratch), 2);
}

static void assert_refused(const struct scratch *scratch)
{
    struct store *store = NULL;
    struct buf why = BUF_INIT;
    char folder[128];
    (void)snprintf(folder, sizeof folder, "%s/second", scratch->folder);
    assert_int_equal(store_open(scratch->url, STORE_EXAMJOINT, 0, 100, &store, &why), STORE_CORRUPT);
    assert_int_equal(store_open(scratch->url, 0, STORE_EXAMJOINT, 100, &store, &why), STORE_CORRUPT);
    assert_int_equal(store_migrate(scratch->url, &why), STORE_CORRUPT);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_CORRUPT);
    assert_non_null(strstr(buf_str(&why), "another file's"));
    buf_release(&why);
}

/* Only the file was put back, and the log of the one before still lies there. */
static void a_copy_does_not_take_the_log_of_the_file_before(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    char folder[128], from[256], to[256];
    put(scratch->store);
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    for (int i = 0; i < 20; i++)
        put(scratch->store);
    close_store(scratch);
    (void)snprintf(from, sizeof from, "%s", path_in(scratch, "copy/" EVENTS));
    (void)snprintf(to, sizeof to, "%s", path_in(scratch, "store/" EVENTS));
    assert_int_equal(rename(from, to), 0);
    assert_refused(scratch);
    struct stat log;
    assert_int_equal(stat(path_in(scratch, "store/" EVENTS "-wal"), &log), 0);
    assert_true(log.st_size > 0);
    remove_file(scratch, "store/" EVENTS "-wal");
    assert_int_equal(store_migrate(scratch->url, &why), STORE_OK);
    assert_int_equal(count_anew(scratch), 1);
    buf_release(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_program_that_ends_saves_a_log_that_was_removed),
        scratch_test(a_look_outside_a_round_saves_the_log),
        scratch_test(a_copy_does_not_take_the_log_of_the_file_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
