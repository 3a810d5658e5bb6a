/*
 * Guessing is counted, in SQLite: for each key the times of its last attempts.
 *
 * `times` holds the newest first, each as four bytes, big-endian: the milliseconds before `last_at`. Some
 * more than `failures` of them are kept, so that one which is taken back uncovers an older one.
 */
#include "store_sqlite.h"

#include <string.h>

/* More than the most failures that a configuration may allow: with fewer no one would ever be throttled. */
#define TIMES_MAX 512
#define TIMES_SPARE 16

enum {
    FIND = STORE_STATEMENTS_ATTEMPTS,
    WRITE,
    REMOVE,
    COUNT_ROWS,
    REMOVE_EXPIRED,
    REMOVE_FUTURE,
    REMOVE_OLDEST,
    REMOVE_EXAM,
    REMOVE_ALL,
    COUNT_FULL
};

struct attempts {
    int64_t failures;
    size_t count;
    int64_t at_ms[TIMES_MAX + 1]; /* the newest first */
};

static void decode(struct attempts *attempts, int64_t last_at_ms, const unsigned char *bytes, size_t len)
{
    attempts->count = 0;
    for (size_t i = 0; i + 4 <= len && attempts->count < TIMES_MAX; i += 4) {
        uint32_t before = (uint32_t)bytes[i] << 24 | (uint32_t)bytes[i + 1] << 16 |
                          (uint32_t)bytes[i + 2] << 8 | (uint32_t)bytes[i + 3];
        attempts->at_ms[attempts->count++] = last_at_ms - before;
    }
}

static size_t encode(const struct attempts *attempts, unsigned char *bytes)
{
    size_t len = 0;
    for (size_t i = 0; i < attempts->count; i++) {
        int64_t before = attempts->at_ms[0] - attempts->at_ms[i];
        if (before < 0 || before > UINT32_MAX)
            break;
        for (int shift = 24; shift >= 0; shift -= 8)
            bytes[len++] = (unsigned char)(before >> shift & 0xff);
    }
    return len;
}

/* Leaves only those within (now - window, now]: a time ahead of the clock means that the clock was set. */
static void drop_expired(struct attempts *attempts, int64_t now_ms, int64_t window_ms)
{
    size_t kept = 0;
    for (size_t i = 0; i < attempts->count; i++)
        if (attempts->at_ms[i] <= now_ms && now_ms - attempts->at_ms[i] < window_ms)
            attempts->at_ms[kept++] = attempts->at_ms[i];
    attempts->count = kept;
}

static void add_newest(struct attempts *attempts, int64_t at_ms, int64_t failures)
{
    size_t most = failures < TIMES_MAX - TIMES_SPARE ? (size_t)failures + TIMES_SPARE : TIMES_MAX;
    memmove(attempts->at_ms + 1, attempts->at_ms, attempts->count * sizeof attempts->at_ms[0]);
    attempts->at_ms[0] = at_ms;
    attempts->count++;
    if (attempts->count > most)
        attempts->count = most;
    attempts->failures = failures;
}

/* STORE_ABSENT leaves *attempts empty. */
static enum store_status find(struct store *store, struct store_file *file, const unsigned char *key,
                              struct attempts *attempts)
{
    enum store_status status = STORE_OK;
    *attempts = (struct attempts){.failures = 0, .count = 0};
    sqlite3_stmt *statement = store_statement(
        store, file, FIND, "SELECT last_at, failures, times FROM attempts WHERE key = ?1", &status);
    if (!statement)
        return status;
    sqlite3_bind_blob(statement, 1, key, 32, SQLITE_STATIC);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const unsigned char *times = sqlite3_column_blob(statement, 2);
        attempts->failures = sqlite3_column_int64(statement, 1);
        decode(attempts, sqlite3_column_int64(statement, 0), times,
               (size_t)sqlite3_column_bytes(statement, 2));
    } else {
        status = code == SQLITE_DONE ? STORE_ABSENT : store_fail(store, file, "looking at attempts");
    }
    sqlite3_reset(statement);
    return status;
}

/* An account of NULL keeps what is there. */
static enum store_status write_attempts(struct store *store, struct store_file *file,
                                        const unsigned char *key, const char *account, const char *exam,
                                        const struct attempts *attempts)
{
    unsigned char times[4 * TIMES_MAX];
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, WRITE,
                        "INSERT INTO attempts(key, account, exam, last_at, failures, full_at, times)"
                        " VALUES(?1, ifnull(?2, ''), ?3, ?4, ?5, ?6, ?7)"
                        " ON CONFLICT DO UPDATE SET last_at = ?4, failures = ?5, full_at = ?6, times = ?7",
                        &status);
    if (!statement)
        return status;
    sqlite3_bind_blob(statement, 1, key, 32, SQLITE_STATIC);
    store_bind_text(statement, 2, account);
    store_bind_text(statement, 3, exam);
    sqlite3_bind_int64(statement, 4, attempts->at_ms[0]);
    sqlite3_bind_int64(statement, 5, attempts->failures);
    if (attempts->failures > 0 && attempts->count >= (size_t)attempts->failures)
        sqlite3_bind_int64(statement, 6, attempts->at_ms[attempts->failures - 1]);
    sqlite3_bind_blob(statement, 7, times, (int)encode(attempts, times), SQLITE_STATIC);
    return store_run(store, file, statement, "counting an attempt");
}

/* How many rows there are is counted along: counting 100,000 at each attempt would be slow. */
static enum store_status count_rows(struct store *store, struct store_file *file, int64_t change,
                                    int64_t *rows)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, COUNT_ROWS,
                        "UPDATE counters SET value = max(0, value + ?1) WHERE name = 'attempts'"
                        " RETURNING value",
                        &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, change);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *rows = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "counting attempts");
    /* An UPDATE with RETURNING has done its work before the first row, but must be run to its end. */
    if (status == STORE_OK && sqlite3_step(statement) != SQLITE_DONE)
        status = store_fail(store, file, "counting attempts");
    sqlite3_reset(statement);
    return status;
}

/* Deletes by a statement with up to two numbers, takes what it deleted off the count. */
static enum store_status remove_rows(struct store *store, struct store_file *file, int slot, const char *sql,
                                     int64_t number, int64_t most, int64_t *rows)
{
    int64_t removed = 0;
    enum store_status status = store_delete_by(store, file, slot, sql, number, most, &removed);
    return status == STORE_OK && removed > 0 ? count_rows(store, file, -removed, rows) : status;
}

/* A bound that was lowered is reached bit by bit. */
static int64_t at_most(int64_t rows)
{
    return rows < 200 ? rows : 200;
}

/* A new row came: what means nothing any more goes, a little at a time, then the oldest beyond the bound. */
static enum store_status bound_rows(struct store *store, struct store_file *file, int64_t now_ms,
                                    const struct store_throttle *rule)
{
    int64_t rows = 0;
    int64_t memory_ms = rule->window_ms > rule->pause_ms ? rule->window_ms : rule->pause_ms;
    enum store_status status = count_rows(store, file, 1, &rows);
    if (status == STORE_OK)
        status = remove_rows(store, file, REMOVE_EXPIRED,
                             "DELETE FROM attempts WHERE key IN (SELECT key FROM attempts"
                             " WHERE last_at < ?1 ORDER BY last_at LIMIT ?2)",
                             now_ms - memory_ms, 4, &rows);
    if (status == STORE_OK && rows > rule->rows_max)
        status = remove_rows(store, file, REMOVE_FUTURE,
                             "DELETE FROM attempts WHERE key IN (SELECT key FROM attempts"
                             " WHERE last_at > ?1 ORDER BY last_at DESC LIMIT ?2)",
                             now_ms, at_most(rows - rule->rows_max), &rows);
    if (status == STORE_OK && rows > rule->rows_max)
        status = remove_rows(store, file, REMOVE_OLDEST,
                             "DELETE FROM attempts WHERE key IN (SELECT key FROM attempts"
                             " WHERE last_at <= ?1 ORDER BY last_at LIMIT ?2)",
                             now_ms, at_most(rows - rule->rows_max), &rows);
    return status;
}

enum store_status store_attempt_count(struct store *store, const unsigned char key[32], const char *account,
                                      const char *exam, int64_t now_ms, const struct store_throttle *rule,
                                      int64_t *wait_ms, bool *newly)
{
    struct store_file *file = &store->examjoint;
    struct attempts attempts;
    enum store_status status = store_in_round(store, file);
    if (status != STORE_OK)
        return status;
    status = find(store, file, key, &attempts);
    bool is_new = status == STORE_ABSENT;
    if (status != STORE_OK && status != STORE_ABSENT)
        return status;
    drop_expired(&attempts, now_ms, rule->window_ms);
    bool was_full = attempts.count > 0 && attempts.count >= (size_t)rule->failures;
    if (was_full && now_ms - attempts.at_ms[0] < rule->pause_ms) {
        *wait_ms = rule->pause_ms - (now_ms - attempts.at_ms[0]);
        return store_say(store, STORE_LIMIT, "too many attempts");
    }
    add_newest(&attempts, now_ms, rule->failures);
    status = write_attempts(store, file, key, account, exam, &attempts);
    if (status == STORE_OK && is_new)
        status = bound_rows(store, file, now_ms, rule);
    if (status == STORE_OK)
        *newly = !was_full && attempts.count >= (size_t)rule->failures;
    return status;
}

static enum store_status remove_key(struct store *store, struct store_file *file, const unsigned char *key,
                                    int64_t *removed)
{
    enum store_status status = STORE_OK;
    int64_t rows;
    sqlite3_stmt *statement =
        store_statement(store, file, REMOVE, "DELETE FROM attempts WHERE key = ?1", &status);
    if (!statement)
        return status;
    sqlite3_bind_blob(statement, 1, key, 32, SQLITE_STATIC);
    status = store_run(store, file, statement, "removing attempts");
    if (status != STORE_OK)
        return status;
    *removed = sqlite3_changes64(file->db);
    return *removed > 0 ? count_rows(store, file, -*removed, &rows) : STORE_OK;
}

enum store_status store_attempt_take_back(struct store *store, const unsigned char key[32],
                                          int64_t counted_at_ms)
{
    struct store_file *file = &store->examjoint;
    struct attempts attempts;
    int64_t removed;
    enum store_status status = store_in_round(store, file);
    if (status == STORE_OK)
        status = find(store, file, key, &attempts);
    if (status != STORE_OK)
        return status == STORE_ABSENT ? STORE_OK : status; /* evicted or forgotten meanwhile */
    size_t at = 0;
    while (at < attempts.count && attempts.at_ms[at] != counted_at_ms)
        at++;
    if (at == attempts.count)
        return STORE_OK;
    attempts.count--;
    if (attempts.count == 0)
        return remove_key(store, file, key, &removed);
    memmove(attempts.at_ms + at, attempts.at_ms + at + 1, (attempts.count - at) * sizeof attempts.at_ms[0]);
    return write_attempts(store, file, key, NULL, NULL, &attempts);
}

enum store_status store_attempts_forget(struct store *store, const unsigned char *key, const char *exam,
                                        int64_t *removed)
{
    struct store_file *file = &store->examjoint;
    enum store_status status = store_in_round(store, file);
    int64_t rows;
    if (status != STORE_OK)
        return status;
    if (key)
        return remove_key(store, file, key, removed);
    sqlite3_stmt *statement =
        exam ? store_statement(store, file, REMOVE_EXAM,
                               "DELETE FROM attempts WHERE key IN"
                               " (SELECT key FROM attempts WHERE exam = ?2 LIMIT ?1)",
                               &status)
             : store_statement(store, file, REMOVE_ALL,
                               "DELETE FROM attempts WHERE key IN (SELECT key FROM attempts LIMIT ?1)",
                               &status);
    if (!statement)
        return status;
    sqlite3_bind_int(statement, 1, STORE_FORGET_MOST);
    if (exam)
        store_bind_text(statement, 2, exam);
    status = store_run(store, file, statement, "removing attempts");
    if (status != STORE_OK)
        return status;
    *removed = sqlite3_changes64(file->db);
    return count_rows(store, file, -*removed, &rows);
}

enum store_status store_throttled(struct store *store, int64_t now_ms, const struct store_throttle *rule,
                                  int64_t most, int64_t *count)
{
    struct store_file *file = &store->examjoint;
    enum store_status status = store_file_ready(store, file);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement =
        store_statement(store, file, COUNT_FULL,
                        "SELECT count(*) FROM (SELECT 1 FROM attempts WHERE full_at > ?1 AND full_at <= ?2"
                        " AND last_at <= ?2 LIMIT ?3)",
                        &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, now_ms - rule->window_ms);
    sqlite3_bind_int64(statement, 2, now_ms);
    sqlite3_bind_int64(statement, 3, most);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *count = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "counting the throttled");
    sqlite3_reset(statement);
    return status;
}
