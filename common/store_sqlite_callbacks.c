/* Proview's callbacks in SQLite: each row is itself the mark that its session is due. */
#include "store_sqlite.h"

#include <string.h>

#define HOUR_MS 3600000

enum { FIND = 0, INSERT, REPEAT, NEXT_SEQ, READ_HOUR, WRITE_HOUR, COUNT_ERASED };

/* The repeats' mark: it never goes back, not even when the newest callbacks are purged. */
static enum store_status next_seq(struct store *store, struct store_file *file, int64_t *seq)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, NEXT_SEQ,
                        "UPDATE counters SET value = value + 1 WHERE name = 'seq' RETURNING value", &status);
    if (!statement)
        return status;
    if (sqlite3_step(statement) == SQLITE_ROW)
        *seq = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "numbering a callback");
    if (status == STORE_OK && sqlite3_step(statement) != SQLITE_DONE)
        status = store_fail(store, file, "numbering a callback");
    sqlite3_reset(statement);
    return status;
}

/* STORE_ABSENT: it is a new one. */
static enum store_status find(struct store *store, struct store_file *file,
                              const struct store_callback *callback, int64_t *id)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, FIND,
                        "SELECT id FROM callbacks WHERE session_uuid = ?1 AND account = ?2"
                        " AND ifnull(message, x'') = ifnull(?3, x'')"
                        " AND ifnull(external_id, x'') = ifnull(?4, x'')",
                        &status);
    if (!statement)
        return status;
    store_bind_text(statement, 1, callback->session_uuid);
    store_bind_text(statement, 2, callback->account);
    store_bind_text(statement, 3, callback->message);
    store_bind_text(statement, 4, callback->external_id);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *id = sqlite3_column_int64(statement, 0);
    else
        status = code == SQLITE_DONE ? STORE_ABSENT : store_fail(store, file, "finding a callback");
    sqlite3_reset(statement);
    return status;
}

/* Once it came with the account's protection, it is no forger's any more. */
static enum store_status count_repeat(struct store *store, struct store_file *file, int64_t id, int64_t seq,
                                      const struct store_callback *callback)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, REPEAT,
                        "UPDATE callbacks SET seq = ?2, deliveries = deliveries + 1,"
                        " last_received_at = max(last_received_at, ?3),"
                        " sender = CASE WHEN open = 1 AND ?4 = 0 THEN ?5 ELSE sender END,"
                        " open = min(open, ?4) WHERE id = ?1",
                        &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, seq);
    sqlite3_bind_int64(statement, 3, callback->received_at_ms);
    sqlite3_bind_int(statement, 4, callback->open);
    store_bind_text(statement, 5, callback->sender);
    return store_run(store, file, statement, "counting a callback");
}

static enum store_status insert(struct store *store, struct store_file *file, int64_t seq,
                                const struct store_callback *callback)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, INSERT,
                        "INSERT INTO callbacks(seq, received_at, last_received_at, account, session_uuid,"
                        " message, external_id, sender, flags, open, body)"
                        " VALUES(?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                        &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, seq);
    sqlite3_bind_int64(statement, 2, callback->received_at_ms);
    store_bind_text(statement, 3, callback->account);
    store_bind_text(statement, 4, callback->session_uuid);
    store_bind_text(statement, 5, callback->message);
    store_bind_text(statement, 6, callback->external_id);
    store_bind_text(statement, 7, callback->sender);
    store_bind_text(statement, 8, callback->flags);
    sqlite3_bind_int(statement, 9, callback->open);
    store_bind_text(statement, 10, callback->body);
    return store_run(store, file, statement, "storing a callback");
}

/* --- What open accounts may store in an hour
 * ---------------------------------------------------------------- */

struct hour {
    int64_t hour, rows, bytes;
};

static int64_t text_bytes(const char *text)
{
    return text ? (int64_t)strlen(text) : 0;
}

static int64_t bytes_of(const struct store_callback *callback)
{
    return text_bytes(callback->account) + text_bytes(callback->session_uuid) +
           text_bytes(callback->message) + text_bytes(callback->external_id) + text_bytes(callback->sender) +
           text_bytes(callback->flags) + text_bytes(callback->body);
}

static enum store_status read_hour(struct store *store, struct store_file *file, struct hour *hour)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(
        store, file, READ_HOUR, "SELECT hour, rows, bytes FROM open_hour WHERE id = 1", &status);
    if (!statement)
        return status;
    if (sqlite3_step(statement) == SQLITE_ROW)
        *hour = (struct hour){.hour = sqlite3_column_int64(statement, 0),
                              .rows = sqlite3_column_int64(statement, 1),
                              .bytes = sqlite3_column_int64(statement, 2)};
    else
        status = store_fail(store, file, "reading the hour's count");
    sqlite3_reset(statement);
    return status;
}

static enum store_status write_hour(struct store *store, struct store_file *file, const struct hour *hour)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, WRITE_HOUR,
                        "UPDATE open_hour SET hour = ?1, rows = ?2, bytes = ?3 WHERE id = 1", &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, hour->hour);
    sqlite3_bind_int64(statement, 2, hour->rows);
    sqlite3_bind_int64(statement, 3, hour->bytes);
    return store_run(store, file, statement, "writing the hour's count");
}

static enum store_status count_open(struct store *store, struct store_file *file,
                                    const struct store_callback *callback,
                                    const struct store_open_limit *limit)
{
    struct hour hour = {0};
    int64_t now = callback->received_at_ms / HOUR_MS;
    enum store_status status = read_hour(store, file, &hour);
    if (status != STORE_OK)
        return status;
    if (hour.hour != now) /* past, or ahead because the clock was set */
        hour = (struct hour){.hour = now};
    hour.rows++;
    hour.bytes += bytes_of(callback);
    if (limit && (hour.rows > limit->count_hour || hour.bytes > limit->bytes_hour))
        return store_say(store, STORE_LIMIT, "open accounts have stored their share of this hour");
    return write_hour(store, file, &hour);
}

/* Of a session that was erased: it is not due, and what the callback says is not kept. */
static enum store_status count_erased(struct store *store, struct store_file *file,
                                      const struct store_callback *callback, bool *there)
{
    char erased[STORE_ERASED_BYTES];
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(
        store, file, COUNT_ERASED,
        "UPDATE callbacks SET deliveries = deliveries + 1,"
        " last_received_at = max(last_received_at, ?3) WHERE session_uuid = ?1 AND account = ?2",
        &status);
    if (!statement)
        return status;
    store_erased_uuid(callback->session_uuid, erased);
    store_bind_text(statement, 1, erased);
    store_bind_text(statement, 2, callback->account);
    sqlite3_bind_int64(statement, 3, callback->received_at_ms);
    status = store_run(store, file, statement, "counting a callback");
    if (status == STORE_OK)
        *there = sqlite3_changes64(file->db) > 0;
    return status;
}

enum store_status store_callback_add(struct store *store, const struct store_callback *callback,
                                     const struct store_open_limit *limit, bool *repeat)
{
    struct store_file *file = &store->proview;
    int64_t id = 0, seq = 0;
    bool erased = false;
    enum store_status status = store_in_round(store, file);
    if (status == STORE_OK)
        status = count_erased(store, file, callback, &erased);
    if (status == STORE_OK && erased) {
        if (repeat)
            *repeat = true;
        return STORE_OK;
    }
    if (status == STORE_OK)
        status = find(store, file, callback, &id);
    if (status != STORE_OK && status != STORE_ABSENT)
        return status;
    bool there = status == STORE_OK;
    status = !there && callback->open ? count_open(store, file, callback, limit) : STORE_OK;
    if (status == STORE_OK)
        status = next_seq(store, file, &seq);
    if (status == STORE_OK)
        status = there ? count_repeat(store, file, id, seq, callback) : insert(store, file, seq, callback);
    if (status == STORE_OK && repeat)
        *repeat = there;
    return status;
}
