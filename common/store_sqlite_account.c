/* All that one account has goes: what an exam day that was played leaves behind. */
#include "store_sqlite.h"

#include <stdio.h>
#include <time.h>

#include "buf.h"
#include "clock.h"

/* Rows of one round, and how far one look goes: both far below 50 ms. */
#define ROUND_ROWS 50
#define LOOK_IDS 4096
/* Between two rounds the intake comes first: a rest as long as the round was, within these. */
#define REST_MIN_MS 2
#define REST_MAX_MS 50
/* What is deleted lies all over the file: a short log, so that moving it there is soon done. */
#define LOG_BYTES (1024 * 1024)

/* A table whose rows have an account, with what hangs on them. */
struct table {
    enum store_area area;
    const char *name, *id, *time;
    const char *person, *exam; /* either of them has the mark */
    const char *hanging, *by;  /* the rows of that table go with it; NULL: there is none */
};
static const struct table tables[] = {
    {STORE_EXAMJOINT, "events", "id", "received_at", "respondent_id", "exam_id", "deliveries", "event_id"},
    {STORE_PROVIEW, "callbacks", "id", "received_at", "external_id", "external_id", NULL, NULL},
    /* Last: what the worker takes in of the callbacks until those are gone. */
    {STORE_RATINGS, "sessions", "session", "0", "external_id", "claimed_external_id", "history", "session"},
};

struct removal {
    struct store *store;
    const char *account, *mark;
    struct store_removed *removed;
    store_told_fn *told;
    void *context;
    int64_t gone;
    unsigned dirty; /* areas where something was deleted */
    bool stopped;
};

static void rest_after(int64_t began_ms)
{
    int64_t ms = clock_monotonic_ms() - began_ms;
    ms = ms < REST_MIN_MS ? REST_MIN_MS : ms > REST_MAX_MS ? REST_MAX_MS : ms;
    struct timespec pause = {.tv_nsec = (long)ms * 1000000};
    nanosleep(&pause, NULL);
}

/* The account, where it is asked for, is ?1, and the mark ?2. *changed (may be NULL) counts rows. */
static enum store_status run(struct removal *removal, struct store_file *file, const char *sql,
                             int64_t *changed)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return store_fail(removal->store, file, "removing an account's rows");
    if (sqlite3_bind_parameter_count(statement) > 0)
        store_bind_text(statement, 1, removal->account);
    if (sqlite3_bind_parameter_count(statement) > 1)
        store_bind_text(statement, 2, removal->mark);
    enum store_status status = store_run(removal->store, file, statement, "removing an account's rows");
    if (status == STORE_OK && changed)
        *changed = sqlite3_changes64(file->db);
    sqlite3_finalize(statement);
    return status;
}

static enum store_status mark_remains(struct removal *removal, struct store_file *file)
{
    return run(removal, file,
               file->area == STORE_RATINGS
                   ? "INSERT OR REPLACE INTO meta(name, value) VALUES('remains', 1)"
                   : "INSERT OR REPLACE INTO counters(name, value) VALUES('remains', 1)",
               NULL);
}

static enum store_status end_round(struct removal *removal, struct store_file *file, enum store_status status,
                                   int64_t gone)
{
    if (status == STORE_OK && gone > 0)
        status = mark_remains(removal, file);
    if (status != STORE_OK || gone == 0) {
        store_round_abandon(removal->store);
        return status;
    }
    status = store_round_commit(removal->store);
    if (status != STORE_OK)
        return status;
    removal->dirty |= (unsigned)file->area;
    removal->gone += gone;
    if (removal->told && !removal->told(removal->context, removal->gone))
        removal->stopped = true;
    return STORE_OK;
}

/* The account's ids above *position, as text for an IN (); *position goes as far as was looked. */
static enum store_status find(struct removal *removal, struct store_file *file, const struct table *table,
                              int64_t *position, struct buf *ids, int64_t *count)
{
    char sql[384];
    sqlite3_stmt *statement = NULL;
    int result = SQLITE_DONE;
    int64_t id = *position;
    snprintf(sql, sizeof sql,
             "SELECT %s, %s FROM %s WHERE %s > %lld AND %s <= %lld AND +account = ?1"
             " AND (?2 IS NULL OR +%s GLOB ?2 OR +%s GLOB ?2) ORDER BY %s LIMIT %d",
             table->id, table->time, table->name, table->id, (long long)*position, table->id,
             (long long)*position + LOOK_IDS, table->person, table->exam, table->id, ROUND_ROWS);
    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return store_fail(removal->store, file, "looking for an account's rows");
    store_bind_text(statement, 1, removal->account);
    store_bind_text(statement, 2, removal->mark);
    *count = 0;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        id = sqlite3_column_int64(statement, 0);
        int64_t at_ms = sqlite3_column_int64(statement, 1);
        if (at_ms > removal->removed->newest_ms)
            removal->removed->newest_ms = at_ms;
        buf_addf(ids, "%s%lld", *count > 0 ? "," : "", (long long)id);
        ++*count;
    }
    enum store_status status =
        result == SQLITE_DONE ? STORE_OK : store_fail(removal->store, file, "looking for an account's rows");
    sqlite3_finalize(statement);
    *position = *count == ROUND_ROWS ? id : *position + LOOK_IDS;
    return status;
}

static enum store_status delete_ids(struct removal *removal, struct store_file *file,
                                    const struct table *table, const char *ids, int64_t *gone)
{
    struct buf sql = BUF_INIT;
    enum store_status status = store_round_begin(removal->store, file->area);
    if (status != STORE_OK)
        return status;
    if (table->hanging) {
        buf_addf(&sql, "DELETE FROM %s WHERE %s IN (%s)", table->hanging, table->by, ids);
        status = run(removal, file, buf_str(&sql), NULL);
    }
    buf_clear(&sql);
    buf_addf(&sql, "DELETE FROM %s WHERE %s IN (%s)", table->name, table->id, ids);
    if (status == STORE_OK)
        status = run(removal, file, buf_str(&sql), gone);
    buf_release(&sql);
    return end_round(removal, file, status, *gone);
}

static enum store_status remove_rows(struct removal *removal, struct store_file *file,
                                     const struct table *table, int64_t *total)
{
    char sql[96];
    int64_t position = 0, last = 0;
    snprintf(sql, sizeof sql, "SELECT ifnull(max(%s), 0) FROM %s", table->id, table->name);
    enum store_status status = store_file_ready(removal->store, file);
    if (status == STORE_OK)
        status = store_number(removal->store, file, sql, &last);
    while (status == STORE_OK && position < last && !removal->stopped) {
        struct buf ids = BUF_INIT;
        int64_t count = 0, gone = 0, began_ms = clock_monotonic_ms();
        status = find(removal, file, table, &position, &ids, &count);
        if (status == STORE_OK && count > 0)
            status = delete_ids(removal, file, table, buf_str(&ids), &gone);
        buf_release(&ids);
        if (status == STORE_OK)
            *total += gone;
        if (count > 0)
            rest_after(began_ms);
    }
    return status;
}

/* Failed attempts, and how many there are in all. */
static enum store_status remove_attempts(struct removal *removal, struct store_file *file)
{
    enum store_status status = STORE_OK;
    for (int64_t gone = 1; status == STORE_OK && gone > 0 && !removal->stopped;) {
        char sql[128];
        int64_t began_ms = clock_monotonic_ms();
        gone = 0;
        status = store_round_begin(removal->store, file->area);
        if (status != STORE_OK)
            break;
        status = run(removal, file,
                     "DELETE FROM attempts WHERE key IN"
                     " (SELECT key FROM attempts WHERE account = ?1 AND (?2 IS NULL OR exam GLOB ?2)"
                     " LIMIT 50)",
                     &gone);
        snprintf(sql, sizeof sql, "UPDATE counters SET value = max(0, value - %lld) WHERE name = 'attempts'",
                 (long long)gone);
        if (status == STORE_OK && gone > 0)
            status = run(removal, file, sql, NULL);
        status = end_round(removal, file, status, gone);
        if (gone > 0)
            rest_after(began_ms);
    }
    return status;
}

static enum store_status remove_login(struct removal *removal, struct store_file *file)
{
    int64_t gone = 0, turns = 0;
    enum store_status status = store_round_begin(removal->store, file->area);
    if (status != STORE_OK)
        return status;
    status = run(removal, file, "DELETE FROM logins WHERE account = ?1", &gone);
    if (status == STORE_OK)
        status = run(removal, file,
                     "DELETE FROM meta WHERE name IN ('" LOGIN_FAILING_FROM "' || ?1, '" LOGIN_FAILING_FOR
                     "' || ?1)",
                     NULL);
    if (status == STORE_OK)
        status = run(removal, file, "UPDATE turn SET account = '', sender = '' WHERE account = ?1", &turns);
    return end_round(removal, file, status, gone + turns);
}

/* What an earlier removal that was cut short deleted and did not overwrite. */
static enum store_status find_remains(struct removal *removal, struct store_file *file)
{
    int64_t remains = 0;
    enum store_status status = store_number(
        removal->store, file,
        file->area == STORE_RATINGS ? "SELECT ifnull((SELECT value FROM meta WHERE name = 'remains'), 0)"
                                    : "SELECT ifnull((SELECT value FROM counters WHERE name = 'remains'), 0)",
        &remains);
    if (status == STORE_OK && remains)
        removal->dirty |= (unsigned)file->area;
    return status;
}

static enum store_status remove_of_area(struct removal *removal, const struct table *table)
{
    struct store_file *file = store_file_of(removal->store, table->area);
    struct store_removed *removed = removal->removed;
    int64_t *total = table->area == STORE_EXAMJOINT ? &removed->events
                     : table->area == STORE_PROVIEW ? &removed->callbacks
                                                    : &removed->sessions;
    if (!file->path || !file->writable)
        return STORE_OK;
    enum store_status status = remove_rows(removal, file, table, total);
    if (status == STORE_OK && table->area == STORE_EXAMJOINT)
        status = remove_attempts(removal, file);
    if (status == STORE_OK && table->area == STORE_RATINGS)
        status = remove_login(removal, file);
    return status == STORE_OK ? find_remains(removal, file) : status;
}

/* A sweep that finds nothing old: it cuts the logs and overwrites what remains. */
static enum store_status overwrite(struct removal *removal)
{
    struct store_sweep_rule rule = {.before_ms = 1, .now_ms = 1, .scrub_areas = removal->dirty};
    struct store_purged purged;
    if (!removal->dirty)
        return STORE_OK;
    enum store_status status = store_sweep(removal->store, &rule, &purged);
    if (status == STORE_OK && purged.unsettled > 0)
        status = store_say(removal->store, STORE_BUSY,
                           "somebody read the store all the time: bytes of what was deleted may remain");
    return status;
}

enum store_status store_account_remove(struct store *store, const char *account, const char *mark,
                                       store_told_fn *told, void *context, struct store_removed *removed)
{
    struct removal removal = {.store = store,
                              .account = account,
                              .mark = mark,
                              .removed = removed,
                              .told = told,
                              .context = context};
    enum store_status status = STORE_OK;
    store->log_bytes_max = LOG_BYTES;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0] && status == STORE_OK; i++)
        status = remove_of_area(&removal, &tables[i]);
    store->log_bytes_max = 0;
    return status == STORE_OK ? overwrite(&removal) : status;
}

/* --- What became of its sessions ---------------------------------------------------------------------------
 */

enum store_status store_sessions_last(struct store *store, int64_t *place)
{
    enum store_status status = store_file_ready(store, &store->ratings);
    return status == STORE_OK
               ? store_number(store, &store->ratings, "SELECT ifnull(max(session), 0) FROM sessions", place)
               : status;
}

enum store_status store_account_rated(struct store *store, const char *account, int64_t behind,
                                      int64_t *rated)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = store_file_ready(store, &store->ratings);
    if (status != STORE_OK)
        return status;
    if (sqlite3_prepare_v2(store->ratings.db,
                           "SELECT count(*) FROM sessions WHERE session > ?2 AND +account = ?1"
                           " AND rated_at IS NOT NULL",
                           -1, &statement, NULL) != SQLITE_OK)
        return store_fail(store, &store->ratings, "counting ratings");
    store_bind_text(statement, 1, account);
    sqlite3_bind_int64(statement, 2, behind);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *rated = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, &store->ratings, "counting ratings");
    sqlite3_finalize(statement);
    return status;
}
