/* A person's events found page by page with the disk read in advance: the same ones, in the same order, and
   nobody reads on when the listing has ended. */
#include <dirent.h>

#include "store_blocks.h"

#define NOW INT64_C(1764000000000)
#define PERSON "somebody"
/* Ids lie in blocks of 4,096. */
#define BLOCKS 2000

struct story {
    struct buf ids;
    int pages;
    bool slowly;
};

static bool see_id(void *context, const struct store_event_row *row)
{
    struct story *story = context;
    buf_addf(&story->ids, "%s ", row->id);
    if (story->slowly)
        usleep(10000);
    return true;
}

/* An event of somebody else in each block, and the person's in some. */
static void fill(struct store *store)
{
    fill_blocks(store, BLOCKS, NOW);
    run_sql(store, "INSERT INTO events(id, received_at, account, respondent_id, last_received_at)"
                   " SELECT id + 1, received_at, 'main', '" PERSON "', received_at FROM events"
                   " WHERE id >> 12 IN (0, 1, 70, 1000, 1999)");
    run_sql(store, "INSERT INTO events(id, received_at, account, identity, last_received_at)"
                   " SELECT id + 2, received_at, 'main', '" PERSON "', received_at FROM events"
                   " WHERE id >> 12 IN (0, 71, 1999) AND respondent_id = 'another'");
}

#define WHOLE "e2 e3 e4098 e286722 e290819 e4096002 e8187906 e8187907 "

static int threads_now(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    assert_non_null(tasks);
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;)
        count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* One that was waited for may be listed for a moment yet. */
static int threads_here(void)
{
    int count = threads_now();
    for (int tries = 0; count > 1 && tries < 10; tries++) {
        usleep(1000);
        count = threads_now();
    }
    return count;
}

static struct store_search search_in(struct store *store)
{
    return (struct store_search){.store = store, .person = PERSON};
}

/* One page, or all. */
static bool look(struct store_search *search, struct story *story, bool all)
{
    bool more = true;
    while (more && (all || story->pages == 0)) {
        assert_stored(search->store, store_search_page(search, 4, see_id, story, &more));
        story->pages++;
    }
    return more;
}

static int setup(void **state)
{
    struct store *none = NULL;
    /* The first store of the process settles whether threads may be. */
    if (store_open("sqlite:/nowhere", 0, STORE_EXAMJOINT | STORE_THREADS, 0, &none, NULL) == STORE_OK)
        return -1;
    return scratch_setup(state);
}

static void what_is_found_is_the_same(void **state)
{
    struct scratch *scratch = *state;
    fill(scratch->store);
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT | STORE_THREADS, 0);
    for (int slowly = 0; slowly < 2; slowly++) {
        struct story story = {.slowly = slowly != 0};
        struct store_search search = search_in(store);
        assert_false(look(&search, &story, true));
        assert_true(search.ahead != NULL || !slowly);
        store_search_end(&search);
        assert_string_equal(buf_str(&story.ids), WHOLE);
        assert_true(story.pages > BLOCKS / 100);
        assert_int_equal(threads_here(), 1);
        buf_release(&story.ids);
    }
    store_free(store);
}

/* Also where it was only begun: then those that read ahead stop too. */
static void who_ends_early_leaves_nobody_reading(void **state)
{
    struct scratch *scratch = *state;
    fill(scratch->store);
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT | STORE_THREADS, 0);
    struct story story = {.slowly = true};
    struct store_search search = search_in(store);
    assert_true(look(&search, &story, false));
    assert_non_null(search.ahead);
    store_search_end(&search);
    assert_null(search.ahead);
    assert_int_equal(threads_here(), 1);
    store_search_end(&search); /* once more does no harm */
    buf_release(&story.ids);
    store_free(store);
}

/* Those cannot be read in part. */
static void indexes_of_older_stores_are_not_read_ahead(void **state)
{
    struct scratch *scratch = *state;
    fill(scratch->store);
    run_sql(scratch->store, "DROP INDEX events_respondent; CREATE INDEX events_respondent ON"
                            " events(received_at / 86400000, respondent_id) WHERE respondent_id IS NOT NULL");
    struct story story = {.slowly = true};
    struct store_search search = search_in(scratch->store);
    assert_false(look(&search, &story, true));
    assert_null(search.ahead);
    assert_string_equal(buf_str(&story.ids), WHOLE);
    store_search_end(&search);
    buf_release(&story.ids);
}

/* There a writer waits until nobody reads, and of readers that overlap in one process there is always one. */
static void a_store_without_a_log_is_not_read_ahead(void **state)
{
    struct scratch *scratch = *state;
    fill(scratch->store);
    run_sql(scratch->store, "PRAGMA journal_mode = DELETE");
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT | STORE_THREADS, 0);
    struct story story = {.slowly = true};
    struct store_search search = search_in(store);
    assert_false(store->examjoint.wal);
    assert_false(look(&search, &story, true));
    assert_null(search.ahead);
    assert_string_equal(buf_str(&story.ids), WHOLE);
    store_search_end(&search);
    buf_release(&story.ids);
    store_free(store);
}

/* The store is gone when they look: the listing says so, and they are silent. */
static void what_cannot_be_read_is_told_by_the_listing(void **state)
{
    struct scratch *scratch = *state;
    fill(scratch->store);
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT | STORE_THREADS, 0);
    struct story story = {.slowly = true};
    struct store_search search = search_in(store);
    bool more = false;
    assert_true(look(&search, &story, false));
    store_free(scratch->store);
    scratch->store = NULL;
    char name[128];
    (void)snprintf(name, sizeof name, "%s/store/examjoint/events.db", scratch->folder);
    assert_int_equal(unlink(name), 0);
    assert_int_not_equal(store_search_page(&search, 4, see_id, &story, &more), STORE_OK);
    store_search_end(&search);
    assert_int_equal(threads_here(), 1);
    buf_release(&story.ids);
    store_free(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_found_is_the_same, setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(who_ends_early_leaves_nobody_reading, setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(indexes_of_older_stores_are_not_read_ahead, setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(a_store_without_a_log_is_not_read_ahead, setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_told_by_the_listing, setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
