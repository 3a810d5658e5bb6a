/*
 * What is old goes, and really: a sweep.
 *
 * A sweep goes from area to area. In each it deletes what is old, a little in a round; then it moves the log
 * into the file and cuts it (SETTLE); then it looks at every page for remains (SCRUB). Each step is short, so
 * that a program which receives can do one between two rounds of its own.
 *
 * Remains: with secure_delete SQLite overwrites what it deletes where it lies. But when it moves entries to
 * another page, to keep the tree in balance, the bytes that it moved stay behind in the unused middle of the
 * page they came from, and nobody knows of them when the entry is deleted. So that middle is overwritten
 * here.
 */
#include "store_sqlite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

/* One round of a purge: so many rows, or so much text, that it stays far below 50 ms. A row may touch four
 * pages. */
#define PURGE_ROWS 50
#define PURGE_BYTES (256 * 1024)
/* Between two steps the intake comes first: a rest as long as the step was, within these. */
#define REST_MIN_MS 5
#define REST_MAX_MS 50
/* What a purge writes lies all over the file: a short log, so that moving it there is soon done. */
#define PURGE_LOG_BYTES (1024 * 1024)
/* Deliveries of one event with long bodies go so many a round. */
#define PURGE_DELIVERIES_A_ROUND 4
/* How often cutting the log is tried while somebody reads, and the rest between two tries. */
#define SETTLE_TRIES 100
#define SETTLE_PAUSE_MS 20
/* Pages that one step looks at, and those of them that it overwrites under the lock. */
#define SCRUB_LOOK 128
/* From so many pages on the number of an overflow page could look like the type of another: never here, for
 * that is above 100 GB. */
#define SCRUB_PAGES_MAX 0x02000000
/* The file's format: the head before the first page's tree, and the bytes that SQLite locks. */
#define HEAD_BYTES 100
#define LOCKS_AT INT64_C(0x40000000)

enum {
    PURGE_FIND = STORE_STATEMENTS_CARE,
    PURGE_WALK,
    PURGE_DELIVERIES,
    PURGE_ROW,
    PURGE_THIN,
    SWEEP_NEWEST,
    SWEEP_MARK_GET,
    SWEEP_MARK_PUT
};

/* No clock that was set is earlier: 1 January 2025. */
#define CLOCK_BEGINS_MS INT64_C(1735689600000)

#define MARK_CLOCK "retention_clock"
#define MARK_SWEPT "retention_swept"
#define MARK_SCRUBBED "scrubbed"
#define MARK_REMAINS "remains" /* 1: rows were deleted, and what they left is not yet overwritten */

enum stage { STAGE_BEGIN, STAGE_DELETE, STAGE_SETTLE, STAGE_SCRUB, STAGE_END };

/* Where a sweep stands. */
struct store_sweep {
    struct store *store;
    struct store_sweep_rule rule;
    struct store_purged purged;
    size_t area;     /* among those of `order` */
    unsigned marked; /* areas whose clock it was to set: a commit that failed may be there after all */
    enum stage stage;
    /* Deleting: by time of receipt and then by id; a retention by id alone. */
    int64_t before_ms, at_ms, id;
    int64_t seq_most; /* of callbacks: the worker has not taken in what is above */
    int64_t ids[PURGE_ROWS];
    size_t count;
    bool heavy;   /* the last of them is too much for one round */
    bool last;    /* a retention came to what is young */
    int64_t gone; /* in this area */
    int tries;    /* to cut the log */
    int64_t page; /* the next to look at */
};

static const enum store_area order[] = {STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};

static void rest_after(int64_t began_ms)
{
    int64_t ms = clock_monotonic_ms() - began_ms;
    ms = ms < REST_MIN_MS ? REST_MIN_MS : ms > REST_MAX_MS ? REST_MAX_MS : ms;
    struct timespec pause = {.tv_nsec = (long)ms * 1000000};
    nanosleep(&pause, NULL);
}

/* --- Marks -----------------------------------------------------------------------------------------------
 */

static const char *mark_table(const struct store_file *file)
{
    return file->area == STORE_RATINGS ? "meta" : "counters";
}

static enum store_status mark_get(struct store *store, struct store_file *file, const char *name,
                                  int64_t *value)
{
    char sql[96];
    enum store_status status = STORE_OK;
    snprintf(sql, sizeof sql, "SELECT value FROM %s WHERE name = ?1", mark_table(file));
    sqlite3_stmt *statement = store_statement(store, file, SWEEP_MARK_GET, sql, &status);
    if (!statement)
        return status;
    store_bind_text(statement, 1, name);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *value = sqlite3_column_int64(statement, 0);
    else if (code != SQLITE_DONE)
        status = store_fail(store, file, "reading a mark");
    sqlite3_reset(statement);
    return status;
}

static enum store_status mark_put(struct store *store, struct store_file *file, const char *name,
                                  int64_t value)
{
    char sql[96];
    enum store_status status = STORE_OK;
    snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO %s(name, value) VALUES(?1, ?2)", mark_table(file));
    sqlite3_stmt *statement = store_statement(store, file, SWEEP_MARK_PUT, sql, &status);
    if (!statement)
        return status;
    store_bind_text(statement, 1, name);
    sqlite3_bind_int64(statement, 2, value);
    return store_run(store, file, statement, "keeping a mark");
}

static enum store_status round_end(struct store *store, enum store_status status)
{
    if (status == STORE_OK)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}

/* --- What is old -------------------------------------------------------------------------------------------
 */

/* The next rows to go, by time. What was received before the time but repeated since stays, and is passed by.
 */
static const char *find_sql(bool events)
{
    return events
               ? "SELECT id, received_at, ifnull(length(body), 0) + ifnull((SELECT sum(length(d.body)) FROM "
                 "deliveries d WHERE d.event_id = events.id), 0), last_received_at, 0 FROM events"
                 " WHERE (received_at, id) > (?1, ?2) AND received_at < ?3 AND last_received_at < ?3"
                 " ORDER BY received_at, id LIMIT ?4"
               : "SELECT id, received_at, length(body), last_received_at, seq FROM callbacks"
                 " WHERE (received_at, id) > (?1, ?2) AND received_at < ?3 AND last_received_at < ?3"
                 " AND seq <= ?5 ORDER BY received_at, id LIMIT ?4";
}

/* The same in the order of arrival. ?1 and ?5 are for nothing. */
static const char *walk_sql(bool events)
{
    return events ? "SELECT id, received_at, ifnull(length(body), 0) + ifnull((SELECT sum(length(d.body)) "
                    "FROM deliveries d WHERE d.event_id = events.id), 0), last_received_at, 0 FROM events"
                    " WHERE id > ?2 AND ?3 IS NOT NULL ORDER BY id LIMIT ?4"
                  : "SELECT id, received_at, length(body), last_received_at, seq FROM callbacks"
                    " WHERE id > ?2 AND ?3 IS NOT NULL ORDER BY id LIMIT ?4";
}

/*
 * A row that a retention finds: a row's time alone is not believed, for it may have come while the clock was
 * years behind. In the order of arrival, the first that is young ends the walk; a time in the future says
 * nothing. False: this is the end.
 */
static bool take_row(struct store_sweep *sweep, sqlite3_stmt *statement, int64_t *bytes)
{
    int64_t id = sqlite3_column_int64(statement, 0), at_ms = sqlite3_column_int64(statement, 1);
    if (sweep->rule.retention_ms > 0 && at_ms >= sweep->before_ms && at_ms <= sweep->rule.now_ms) {
        sweep->last = true;
        return false;
    }
    sweep->id = id;
    sweep->at_ms = at_ms;
    if (at_ms >= sweep->before_ms || sqlite3_column_int64(statement, 3) >= sweep->before_ms ||
        sqlite3_column_int64(statement, 4) > sweep->seq_most)
        return true;
    int64_t size = sqlite3_column_int64(statement, 2);
    sweep->ids[sweep->count++] = id;
    sweep->heavy = size > PURGE_BYTES;
    *bytes += size;
    return true;
}

static enum store_status purge_find(struct store_sweep *sweep, struct store_file *file, bool *end)
{
    enum store_status status = store_file_ready(sweep->store, file);
    bool events = file->area == STORE_EXAMJOINT, walk = sweep->rule.retention_ms > 0;
    sqlite3_stmt *statement = status != STORE_OK
                                  ? NULL
                                  : store_statement(sweep->store, file, walk ? PURGE_WALK : PURGE_FIND,
                                                    walk ? walk_sql(events) : find_sql(events), &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 2, sweep->id);
    sqlite3_bind_int64(statement, 3, sweep->before_ms);
    sqlite3_bind_int64(statement, 4, PURGE_ROWS);
    if (!walk)
        sqlite3_bind_int64(statement, 1, sweep->at_ms);
    if (!walk && !events)
        sqlite3_bind_int64(statement, 5, sweep->seq_most);
    int64_t bytes = 0;
    int code = SQLITE_DONE;
    size_t seen = 0;
    sweep->count = 0;
    sweep->heavy = false;
    while (seen < PURGE_ROWS && bytes < PURGE_BYTES && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        seen++;
        if (!take_row(sweep, statement, &bytes))
            break;
    }
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        status = store_fail(sweep->store, file, "looking for what is old");
    sqlite3_reset(statement);
    *end = sweep->last || code == SQLITE_DONE;
    return status;
}

enum store_status store_delete_by(struct store *store, struct store_file *file, int slot, const char *sql,
                                  int64_t first, int64_t second, int64_t *removed)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, slot, sql, &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, first);
    sqlite3_bind_int64(statement, 2, second);
    status = store_run(store, file, statement, "deleting");
    if (status == STORE_OK)
        *removed = sqlite3_changes64(file->db);
    return status;
}

/* A row that was repeated since it was found stays, and so do its deliveries. */
static enum store_status purge_row(struct store *store, struct store_file *file, int64_t id,
                                   int64_t before_ms, int64_t *removed)
{
    bool events = file->area == STORE_EXAMJOINT;
    int64_t deliveries;
    enum store_status status =
        store_delete_by(store, file, PURGE_ROW,
                        events ? "DELETE FROM events WHERE id = ?1 AND last_received_at < ?2"
                               : "DELETE FROM callbacks WHERE id = ?1 AND last_received_at < ?2",
                        id, before_ms, removed);
    if (status != STORE_OK || !events || *removed == 0)
        return status;
    return store_delete_by(store, file, PURGE_DELIVERIES,
                           "DELETE FROM deliveries WHERE event_id = ?1 AND ?2 IS NOT NULL", id, before_ms,
                           &deliveries);
}

static enum store_status purge_round(struct store_sweep *sweep, struct store_file *file)
{
    struct store *store = sweep->store;
    int64_t gone = 0;
    enum store_status status = store_round_begin(store, file->area);
    if (status != STORE_OK)
        return status;
    for (size_t i = 0; status == STORE_OK && i < sweep->count; i++) {
        int64_t row = 0;
        status = purge_row(store, file, sweep->ids[i], sweep->before_ms, &row);
        gone += row;
    }
    if (status == STORE_OK && gone > 0)
        status = mark_put(store, file, MARK_REMAINS, 1);
    status = round_end(store, status);
    if (status == STORE_OK)
        sweep->gone += gone;
    return status;
}

/* Of an event that kept many long bodies a few deliveries, before the event itself goes. *some: of more. */
static enum store_status purge_thin(struct store_sweep *sweep, struct store_file *file, bool *some)
{
    int64_t gone = 0;
    enum store_status status = store_round_begin(sweep->store, file->area);
    if (status != STORE_OK)
        return status;
    status =
        store_delete_by(sweep->store, file, PURGE_THIN,
                        "DELETE FROM deliveries WHERE id IN (SELECT d.id FROM deliveries d JOIN events e"
                        " ON e.id = d.event_id WHERE d.event_id = ?1 AND e.last_received_at < ?2 LIMIT 4)",
                        sweep->ids[sweep->count - 1], sweep->before_ms, &gone);
    if (status == STORE_OK && gone > 0)
        status = mark_put(sweep->store, file, MARK_REMAINS, 1);
    *some = gone == PURGE_DELIVERIES_A_ROUND;
    return round_end(sweep->store, status);
}

static enum store_status purge_sessions(struct store_sweep *sweep, bool *end)
{
    int64_t some = 0;
    enum store_status status = store_round_begin(sweep->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    status = store_purge_sessions(sweep->store, sweep->before_ms, PURGE_ROWS, &some);
    if (status != STORE_OK || some == 0) {
        store_round_abandon(sweep->store);
        *end = true;
        return status;
    }
    status = round_end(sweep->store, mark_put(sweep->store, &sweep->store->ratings, MARK_REMAINS, 1));
    if (status == STORE_OK)
        sweep->gone += some;
    return status;
}

static enum store_status delete_some(struct store_sweep *sweep, struct store_file *file, bool *end)
{
    if (file->area == STORE_RATINGS)
        return purge_sessions(sweep, end);
    int64_t at_ms = sweep->at_ms, id = sweep->id;
    bool some = false;
    enum store_status status = purge_find(sweep, file, end);
    if (status == STORE_OK && sweep->heavy && file->area == STORE_EXAMJOINT)
        status = purge_thin(sweep, file, &some);
    if (status == STORE_OK && !some && sweep->count > 0)
        status = purge_round(sweep, file);
    if (status == STORE_OK && !some)
        return STORE_OK;
    /* What was found is found again by the next step. */
    sweep->at_ms = at_ms;
    sweep->id = id;
    *end = false;
    return status;
}

/* --- The clock of a retention ------------------------------------------------------------------------------
 */

static enum store_status newest(struct store *store, struct store_file *file, int64_t *at_ms)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(
        store, file, SWEEP_NEWEST,
        file->area == STORE_EXAMJOINT ? "SELECT max(received_at) FROM events"
        : file->area == STORE_PROVIEW ? "SELECT max(received_at) FROM callbacks"
                                      : "SELECT max(looked_at) FROM sessions WHERE looked_at IS NOT NULL"
                                        " AND state <> 'pending'",
        &status);
    if (!statement)
        return status;
    if (sqlite3_step(statement) == SQLITE_ROW)
        *at_ms = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "looking for the newest");
    sqlite3_reset(statement);
    return status;
}

static enum store_status put_clock(struct store_sweep *sweep, struct store_file *file, int64_t at_ms)
{
    enum store_status status = store_round_begin(sweep->store, file->area);
    if (status != STORE_OK)
        return status;
    sweep->marked |= (unsigned)file->area;
    status = mark_put(sweep->store, file, MARK_CLOCK, at_ms);
    if (status == STORE_OK)
        status = mark_put(sweep->store, file, MARK_SWEPT, sweep->rule.now_ms);
    return round_end(sweep->store, status);
}

/*
 * A clock that jumped years ahead must not empty the store. So a retention has a clock of its own, kept in
 * the file: it begins at the newest row and follows the system's, but by STORE_RETENTION_STEP_MS at the most
 * from one sweep to the next, and there is one sweep an hour, whoever asks for it. A clock that was not set
 * yet does not count: from there, a day at a time, the way back would take years. *due: it is time for one.
 */
static enum store_status begin_retention(struct store_sweep *sweep, struct store_file *file, bool *due)
{
    int64_t before = 0, swept = 0, remains = 0, now = sweep->rule.now_ms;
    enum store_status status = mark_get(sweep->store, file, MARK_CLOCK, &before);
    if (status == STORE_OK)
        status = mark_get(sweep->store, file, MARK_SWEPT, &swept);
    if (status == STORE_OK)
        status = mark_get(sweep->store, file, MARK_REMAINS, &remains);
    if (remains) /* the sweep before was cut short */
        sweep->rule.scrub_areas |= (unsigned)file->area;
    if (status == STORE_OK && before == 0)
        status = newest(sweep->store, file, &before);
    bool ours = swept == now && (sweep->marked & (unsigned)file->area) != 0;
    *due = ours || (now >= CLOCK_BEGINS_MS && (now < swept || now - swept >= STORE_RETENTION_EVERY_MS));
    if (status != STORE_OK || !*due)
        return status;
    int64_t at = now;
    if (ours)
        at = before;
    else if (before > 0 && now - before > STORE_RETENTION_STEP_MS)
        at = before + STORE_RETENTION_STEP_MS;
    if (now - at > sweep->purged.behind_ms)
        sweep->purged.behind_ms = now - at;
    sweep->before_ms = at - sweep->rule.retention_ms;
    return put_clock(sweep, file, at);
}

/* --- The log and the remains -------------------------------------------------------------------------------
 */

static void be_ready(struct store_sweep *sweep, enum stage stage)
{
    sweep->stage = stage;
    sweep->tries = 0;
    sweep->page = 1;
}

/* What was deleted stands in the log as it was before. */
static enum store_status settle_step(struct store_sweep *sweep, struct store_file *file)
{
    enum store_status status = store_log_cut(sweep->store, file);
    if (status == STORE_OK) {
        be_ready(sweep, STAGE_SCRUB);
    } else if (status == STORE_BUSY && ++sweep->tries < SETTLE_TRIES) {
        status = STORE_OK;
    } else if (status == STORE_BUSY) {
        sweep->purged.unsettled++;
        be_ready(sweep, STAGE_END);
        status = STORE_OK;
    }
    return status;
}

/* Where the unused middle of a page of a tree begins and ends; false: no such page, or nothing in it. */
static bool remains(const unsigned char *page, int bytes, bool first, int *from, int *to)
{
    const unsigned char *head = page + (first ? HEAD_BYTES : 0);
    bool inner = head[0] == 2 || head[0] == 5;
    if (!inner && head[0] != 10 && head[0] != 13)
        return false;
    int cells = head[3] << 8 | head[4], content = head[5] << 8 | head[6];
    *from = (int)(head - page) + (inner ? 12 : 8) + 2 * cells;
    *to = content == 0 ? 65536 : content;
    if (*from > *to || *to > bytes)
        return false;
    while (*from < *to && page[*from] == 0)
        ++*from;
    return *from < *to;
}

/*
 * One page, read and written past SQLite: under the lock nobody writes, and the log is empty. Only bytes that
 * belong to nothing change; who reads the page at this moment does not look at them.
 */
static bool scrub_page(struct store_file *file, sqlite3_file *raw, unsigned char *page, int64_t number,
                       bool write, bool *dirty)
{
    int from = 0, to = 0;
    int64_t at = (number - 1) * file->page_bytes;
    if (raw->pMethods->xRead(raw, page, file->page_bytes, at) != SQLITE_OK)
        return false;
    if (!remains(page, file->page_bytes, number == 1, &from, &to))
        return true;
    *dirty = true;
    if (!write)
        return true;
    memset(page + from, 0, (size_t)(to - from));
    return raw->pMethods->xWrite(raw, page + from, to - from, at + from) == SQLITE_OK;
}

/*
 * From one to the next page of the map that auto_vacuum keeps, which we never ask for but an operator may; 0:
 * there is none. Such a page says what the others are. It may begin like one of a tree, and nothing in it is
 * unused.
 */
static bool map_distance(const struct store_file *file, sqlite3_file *raw, int64_t *distance)
{
    unsigned char head[HEAD_BYTES];
    if (raw->pMethods->xRead(raw, head, sizeof head, 0) != SQLITE_OK)
        return false;
    bool map = head[52] || head[53] || head[54] || head[55];
    *distance = map ? (file->page_bytes - head[20]) / 5 + 1 : 0;
    return true;
}

/* The first is page 2; where that of the locks would be one, the next is it. */
static bool is_map(const struct store_file *file, int64_t number, int64_t distance)
{
    int64_t locks = LOCKS_AT / file->page_bytes + 1;
    if (distance == 0 || number < 2)
        return false;
    return (number - 2) % distance == 0 || (number == locks + 1 && (locks - 2) % distance == 0);
}

/* Pages from first to last; *dirty: some have remains. */
static bool scrub_pages(struct store_file *file, int64_t first, int64_t last, bool write, bool *dirty)
{
    sqlite3_file *raw = NULL;
    bool good =
        sqlite3_file_control(file->db, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&raw) == SQLITE_OK && raw &&
        raw->pMethods;
    int64_t distance = 0;
    good = good && map_distance(file, raw, &distance);
    unsigned char *page = xcalloc(1, (size_t)file->page_bytes);
    for (int64_t number = first; good && number <= last; number++)
        good = is_map(file, number, distance) || scrub_page(file, raw, page, number, write, dirty);
    if (good && write)
        good = raw->pMethods->xSync(raw, SQLITE_SYNC_NORMAL) == SQLITE_OK;
    explicit_bzero(page, (size_t)file->page_bytes);
    free(page);
    return good;
}

/* A commit: after it no program trusts the pages that it remembers. One of them, changed and written anew,
 * would bring its remains back. */
static enum store_status forget_pages(struct store_sweep *sweep, struct store_file *file)
{
    enum store_status status = store_round_begin(sweep->store, file->area);
    return status == STORE_OK
               ? round_end(sweep->store, mark_put(sweep->store, file, MARK_SCRUBBED, sweep->rule.now_ms))
               : status;
}

static enum store_status nothing_remains(struct store_sweep *sweep, struct store_file *file)
{
    enum store_status status = store_round_begin(sweep->store, file->area);
    return status == STORE_OK ? round_end(sweep->store, mark_put(sweep->store, file, MARK_REMAINS, 0))
                              : status;
}

/* The lock is held until that commit, so that nobody writes in between. */
static enum store_status scrub_locked(struct store_sweep *sweep, struct store_file *file, int64_t last)
{
    bool dirty = false;
    enum store_status status = store_file_lock(sweep->store, file);
    if (status != STORE_OK)
        return status;
    status = store_log_cut_locked(sweep->store, file);
    if (status == STORE_OK && !scrub_pages(file, sweep->page, last, true, &dirty))
        status = store_say(sweep->store, STORE_ERROR, "%s: overwriting what was deleted",
                           store_file_label(file->area));
    if (file->db)
        sqlite3_db_release_memory(file->db);
    if (status == STORE_OK && dirty)
        return forget_pages(sweep, file);
    store_file_unlock(file);
    return status;
}

static enum store_status scrub_step(struct store_sweep *sweep, struct store_file *file)
{
    int64_t pages = 0;
    bool dirty = false;
    enum store_status status = store_file_ready(sweep->store, file);
    if (status == STORE_OK)
        status = store_number(sweep->store, file, "PRAGMA page_count", &pages);
    if (status != STORE_OK)
        return status;
    bool end = sweep->page > pages || pages >= SCRUB_PAGES_MAX;
    int64_t last = sweep->page + SCRUB_LOOK - 1 < pages ? sweep->page + SCRUB_LOOK - 1 : pages;
    /* A sweep before may have overwritten pages, and failed at its commit. */
    if (end)
        status = nothing_remains(sweep, file);
    else if (sweep->page == 1)
        status = forget_pages(sweep, file);
    /* Without the lock first: this look may be wrong only about pages that somebody is changing. */
    if (status == STORE_OK && !end && !scrub_pages(file, sweep->page, last, false, &dirty))
        dirty = true;
    if (dirty)
        status = scrub_locked(sweep, file, last);
    if (status == STORE_BUSY && ++sweep->tries < SETTLE_TRIES)
        return STORE_OK;
    if (status == STORE_BUSY) {
        sweep->purged.unsettled++;
        be_ready(sweep, STAGE_END);
        return STORE_OK;
    }
    if (status != STORE_OK)
        return status;
    if (end)
        be_ready(sweep, STAGE_END);
    sweep->tries = 0;
    sweep->page = last + 1;
    return STORE_OK;
}

enum store_status store_scrub_file(struct store *store, struct store_file *file)
{
    int64_t pages = 0, bytes = 0;
    bool dirty;
    enum store_status status = store_number(store, file, "PRAGMA page_count", &pages);
    if (status == STORE_OK)
        status = store_number(store, file, "PRAGMA page_size", &bytes);
    if (status != STORE_OK)
        return status;
    file->page_bytes = (int)bytes;
    if (pages < SCRUB_PAGES_MAX && !scrub_pages(file, 1, pages, true, &dirty))
        return store_say(store, STORE_ERROR, "%s: overwriting what was deleted",
                         store_file_label(file->area));
    return STORE_OK;
}

/* --- A sweep -----------------------------------------------------------------------------------------------
 */

struct store_sweep *store_sweep_new(struct store *store, const struct store_sweep_rule *rule)
{
    struct store_sweep *sweep = xcalloc(1, sizeof *sweep);
    sweep->store = store;
    sweep->rule = *rule;
    return sweep;
}

void store_sweep_free(struct store_sweep *sweep)
{
    free(sweep);
}

struct store_purged store_sweep_result(const struct store_sweep *sweep)
{
    return sweep->purged;
}

/* A callback's row is itself the mark that its session is due, until the worker has taken it in. */
static enum store_status begin_area(struct store_sweep *sweep, struct store_file *file)
{
    enum store_status status = store_file_ready(sweep->store, file);
    bool due = true;
    sweep->before_ms = sweep->rule.before_ms;
    sweep->at_ms = sweep->id = INT64_MIN;
    sweep->seq_most = INT64_MAX;
    sweep->gone = 0;
    sweep->last = false;
    if (status == STORE_OK && file->area == STORE_PROVIEW && sweep->store->ratings.path)
        status = store_intake_mark(sweep->store, &sweep->seq_most);
    if (status == STORE_OK && sweep->rule.retention_ms > 0)
        status = begin_retention(sweep, file, &due);
    if (status == STORE_OK)
        be_ready(sweep, due ? STAGE_DELETE : STAGE_END);
    return status;
}

static void count_gone(struct store_sweep *sweep, const struct store_file *file)
{
    int64_t *count = file->area == STORE_EXAMJOINT ? &sweep->purged.events
                     : file->area == STORE_PROVIEW ? &sweep->purged.callbacks
                                                   : &sweep->purged.sessions;
    *count += sweep->gone;
    sweep->gone = 0;
}

static enum store_status area_step(struct store_sweep *sweep, struct store_file *file)
{
    enum store_status status = STORE_OK;
    bool end = false;
    switch (sweep->stage) {
    case STAGE_BEGIN:
        return begin_area(sweep, file);
    case STAGE_DELETE:
        status = delete_some(sweep, file, &end);
        if (sweep->gone > 0)
            sweep->rule.scrub_areas |= (unsigned)file->area;
        count_gone(sweep, file);
        if (end && status == STORE_OK)
            be_ready(sweep, sweep->rule.scrub_areas & (unsigned)file->area ? STAGE_SETTLE : STAGE_END);
        break;
    case STAGE_SETTLE:
        return settle_step(sweep, file);
    case STAGE_SCRUB:
        return scrub_step(sweep, file);
    case STAGE_END:
        break;
    }
    return status;
}

/* Callbacks go only where the worker's mark is known, or by age alone where the rule says so. */
static bool has_area(const struct store_sweep *sweep, const struct store_file *file)
{
    bool blind = file->area == STORE_PROVIEW && !sweep->store->ratings.path;
    return file->path && file->writable &&
           (!blind || sweep->rule.retention_ms > 0 || sweep->rule.before_ms == 0);
}

enum store_status store_sweep_step(struct store_sweep *sweep, bool *more)
{
    *more = false;
    for (; sweep->area < sizeof order / sizeof order[0]; sweep->area++) {
        struct store_file *file = store_file_of(sweep->store, order[sweep->area]);
        if (!has_area(sweep, file) || sweep->stage == STAGE_END) {
            sweep->stage = STAGE_BEGIN;
            continue;
        }
        *more = true;
        sweep->store->log_bytes_max = PURGE_LOG_BYTES;
        enum store_status status = area_step(sweep, file);
        sweep->store->log_bytes_max = 0;
        return status;
    }
    return STORE_OK;
}

enum store_status store_sweep(struct store *store, const struct store_sweep_rule *rule,
                              struct store_purged *purged)
{
    struct store_sweep *sweep = store_sweep_new(store, rule);
    enum store_status status = STORE_OK;
    for (bool more = true; more && status == STORE_OK;) {
        int64_t began_ms = clock_monotonic_ms();
        status = store_sweep_step(sweep, &more);
        if (more)
            rest_after(sweep->tries > 0 ? began_ms - SETTLE_PAUSE_MS : began_ms);
    }
    *purged = sweep->purged; /* what is gone is gone, also where the purge was cut short */
    store_sweep_free(sweep);
    return status;
}

enum store_status store_purge(struct store *store, int64_t before_ms, struct store_purged *purged)
{
    struct store_sweep_rule rule = {.before_ms = before_ms, .scrub_areas = STORE_ALL, .now_ms = before_ms};
    return store_sweep(store, &rule, purged);
}
