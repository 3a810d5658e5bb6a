/* One person's events page by page, with the disk asked for several of the later places at a time. */
#include "store_sqlite.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "buf.h"
#include "clock.h"

enum {
    /* A disk that takes a tenth of a millisecond for a page has some in work at a time. */
    AHEAD_THREADS = 8,
    /* Whoever ends a listing waits for so many blocks at the most: some hundredths of a second. */
    AHEAD_BLOCKS = 16,
    /* A page whose blocks lie in memory takes a millisecond. */
    SLOW_MS = 4
};

/* Shared by the threads; but for the last three nothing changes while they run. */
struct store_ahead {
    char *url, *person;
    int64_t last; /* block */
    pthread_t threads[AHEAD_THREADS];
    int started;
    atomic_llong next; /* the first block that nobody has taken yet */
    atomic_bool stop;
};

/* What fails here is told by the listing, if it fails there as well. */
static void *read_ahead(void *argument)
{
    struct store_ahead *ahead = argument;
    struct store *store = NULL;
    int64_t first;
    enum store_status status = store_open(ahead->url, 0, STORE_EXAMJOINT | STORE_THREADS, 0, &store, NULL);
    if (status == STORE_OK)
        sqlite3_exec(store->examjoint.db, "PRAGMA cache_size = -256", NULL, NULL, NULL);
    while (status == STORE_OK && !atomic_load(&ahead->stop) &&
           (first = atomic_fetch_add(&ahead->next, AHEAD_BLOCKS)) <= ahead->last) {
        int64_t last = first + AHEAD_BLOCKS - 1;
        status = store_events_touch(store, ahead->person, first, last < ahead->last ? last : ahead->last);
    }
    store_free(store);
    return NULL;
}

/* Signals are for the thread that lists. */
static void start_threads(struct store_ahead *ahead)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (ahead->started < AHEAD_THREADS &&
           pthread_create(&ahead->threads[ahead->started], NULL, read_ahead, ahead) == 0)
        ahead->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Whether SQLite was built, and set up when it was first used, for more than one: it has a lock to give then.
 */
static bool bears_threads(void)
{
    sqlite3 *db = NULL;
    bool bears =
        sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_FULLMUTEX,
                        NULL) == SQLITE_OK &&
        sqlite3_db_mutex(db) != NULL;
    sqlite3_close(db);
    return bears;
}

static struct store_ahead *ahead_of(const struct store_search *search)
{
    int64_t first, last;
    /* Without a log a writer waits until nobody reads, and of readers that overlap in one process there is
       always one: it would not come to write. */
    if (!search->store->examjoint.wal || !bears_threads() ||
        store_events_blocks(search->store, &search->cursor, &first, &last) != STORE_OK)
        return NULL;
    struct store_ahead *ahead = xcalloc(1, sizeof *ahead);
    ahead->url = xstrdup(search->store->url);
    ahead->person = xstrdup(search->person);
    ahead->last = last;
    atomic_init(&ahead->next, first);
    atomic_init(&ahead->stop, false);
    start_threads(ahead);
    return ahead;
}

enum store_status store_search_page(struct store_search *search, size_t limit, store_event_fn *fn,
                                    void *context, bool *more)
{
    const struct store_filter filter = {.person = search->person};
    int64_t began = clock_monotonic_ms();
    enum store_status status =
        store_events(search->store, &filter, &search->cursor, limit, fn, context, more);
    if (status == STORE_OK && *more && !search->ahead && clock_monotonic_ms() - began >= SLOW_MS)
        search->ahead = ahead_of(search);
    return status;
}

void store_search_end(struct store_search *search)
{
    struct store_ahead *ahead = search->ahead;
    if (!ahead)
        return;
    atomic_store(&ahead->stop, true);
    for (int i = 0; i < ahead->started; i++)
        pthread_join(ahead->threads[i], NULL);
    free(ahead->url);
    free(ahead->person);
    free(ahead);
    search->ahead = NULL;
}
