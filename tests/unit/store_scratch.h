/* A store in a scratch folder, for the tests of what is kept in it. */
#ifndef EXAMHOOK_TESTS_STORE_SCRATCH_H
#define EXAMHOOK_TESTS_STORE_SCRATCH_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../common/store.h"

struct scratch {
    char folder[64];
    char url[96];
    struct store *store;
};

#define assert_stored(store, call)                                                               \
    do {                                                                                         \
        enum store_status got_status = (call);                                                   \
        if (got_status != STORE_OK)                                                              \
            fail_msg("%s: %s (%s)", #call, store_status_word(got_status), store_message(store)); \
    } while (0)

static inline int scratch_forget(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline struct store *scratch_open(const struct scratch *scratch, unsigned write, unsigned read,
                                         int64_t lock_wait_ms)
{
    struct store *store = NULL;
    struct buf why = BUF_INIT;
    enum store_status status = store_open(scratch->url, write, read, lock_wait_ms, &store, &why);
    if (status != STORE_OK)
        fail_msg("opening: %s (%s)", store_status_word(status), buf_str(&why));
    buf_release(&why);
    return store;
}

/* Made anew for each test: migrated, every area open for writing. */
static inline int scratch_setup(void **state)
{
    struct scratch *scratch = calloc(1, sizeof *scratch);
    struct buf said = BUF_INIT;
    (void)snprintf(scratch->folder, sizeof scratch->folder, "/tmp/examhook-store-XXXXXX");
    if (scratch == NULL || mkdtemp(scratch->folder) == NULL)
        return -1;
    (void)snprintf(scratch->url, sizeof scratch->url, "sqlite:%s/store", scratch->folder);
    enum store_status status = store_migrate(scratch->url, &said);
    if (status != STORE_OK)
        print_error("migrating: %s: %s\n", store_status_word(status), buf_str(&said));
    buf_release(&said);
    if (status != STORE_OK)
        return -1;
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 5000);
    *state = scratch;
    return 0;
}

static inline int scratch_teardown(void **state)
{
    struct scratch *scratch = *state;
    store_free(scratch->store);
    int failed = nftw(scratch->folder, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
    free(scratch);
    return failed;
}

static inline bool scratch_count(void *context, const struct candidate *candidate)
{
    (void)candidate;
    ++*(size_t *)context;
    return true;
}

/* How many lines the roster has of that account; NULL: of all. */
static inline size_t scratch_roster_lines(struct store *store, const char *account)
{
    const struct roster_filter filter = {account, NULL, NULL};
    size_t count = 0;
    assert_stored(store, store_roster_list(store, &filter, scratch_count, &count));
    return count;
}

#define scratch_test(function) cmocka_unit_test_setup_teardown(function, scratch_setup, scratch_teardown)

static inline bool scratch_count_row(void *context, const struct store_event_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

/* How many events a listing gives. */
static inline int count_events(struct store *store)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_filter filter = {0};
    int count = 0;
    bool more = true;
    while (more)
        assert_stored(store, store_events(store, &filter, &cursor, 500, scratch_count_row, &count, &more));
    return count;
}

/* --- Rounds of one step --------------------------------------------------------------------------------- */

static inline void scratch_begin(struct store *store, enum store_area area)
{
    assert_stored(store, store_round_begin(store, area));
    assert_stored(store, store_step_begin(store));
}

static inline void scratch_end(struct store *store)
{
    assert_stored(store, store_step_end(store, true));
    assert_stored(store, store_round_commit(store));
}

/* --- Bytes in files ------------------------------------------------------------------------------------- */

struct scratch_search {
    const char *text;
    int found;
};

/* nftw(3) hands nothing through. */
static inline struct scratch_search *scratch_search(void)
{
    static struct scratch_search search;
    return &search;
}

static inline int scratch_look_into(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)where;
    if (kind != FTW_F)
        return 0;
    char *bytes = calloc(1, (size_t)info->st_size + 1);
    FILE *f = fopen(path, "rb");
    size_t len = f ? fread(bytes, 1, (size_t)info->st_size, f) : 0;
    if (f)
        fclose(f);
    if (memmem(bytes, len, scratch_search()->text, strlen(scratch_search()->text))) {
        scratch_search()->found++;
        print_message("\"%s\" is in %s\n", scratch_search()->text, path);
    }
    free(bytes);
    return 0;
}

/* In how many files of the store the text stands. */
static inline int scratch_files_with(const struct scratch *scratch, const char *text)
{
    scratch_search()->text = text;
    scratch_search()->found = 0;
    nftw(scratch->folder, scratch_look_into, 16, FTW_PHYS);
    return scratch_search()->found;
}

#endif
