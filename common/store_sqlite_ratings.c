/*
 * Sessions and their ratings in SQLite: what came of a look, the listing, and what an operator does to them.
 * How a session becomes due and whose turn it is stands in store_sqlite_queue.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "store_sqlite.h"
#include "store_sqlite_ratings.h"

/*
 * unknown         only open callbacks speak of it, and no usable reply came yet
 * waits_from      the newest callback, or `retry`
 * renewed_due_at  a callback came while it was leased: when it is due again
 * hour_from       since when the fetches that callbacks caused are counted (hour_count)
 */
const char store_schema_ratings[] =
    "CREATE TABLE sessions(session INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL,"
    " session_uuid TEXT NOT NULL, external_id TEXT, claimed_external_id TEXT, state TEXT NOT NULL,"
    " rating TEXT, rating_raw TEXT, status TEXT, type TEXT, attempts INTEGER NOT NULL DEFAULT 0,"
    " failures INTEGER NOT NULL DEFAULT 0, last_error TEXT, first_seen_at INTEGER NOT NULL,"
    " waits_from INTEGER NOT NULL, looked_at INTEGER, rated_at INTEGER, reply TEXT,"
    " sender TEXT NOT NULL, unknown INTEGER NOT NULL, next_attempt_at INTEGER,"
    " lease_owner TEXT, lease_until INTEGER, renewed_due_at INTEGER,"
    " hour_from INTEGER NOT NULL DEFAULT 0, hour_count INTEGER NOT NULL DEFAULT 0);"
    "CREATE UNIQUE INDEX sessions_uuid ON sessions(session_uuid, account);"
    "CREATE INDEX sessions_external ON sessions(external_id) WHERE external_id IS NOT NULL;"
    "CREATE INDEX sessions_claimed ON sessions(claimed_external_id) WHERE claimed_external_id IS NOT NULL;"
    "CREATE INDEX sessions_state ON sessions(state);"
    "CREATE INDEX sessions_due ON sessions(account, next_attempt_at)"
    " WHERE unknown = 0 AND next_attempt_at IS NOT NULL;"
    "CREATE INDEX sessions_unknown ON sessions(account, sender, next_attempt_at)"
    " WHERE unknown = 1 AND next_attempt_at IS NOT NULL;"
    "CREATE INDEX sessions_next ON sessions(next_attempt_at) WHERE next_attempt_at IS NOT NULL;"
    "CREATE INDEX sessions_leased ON sessions(lease_until) WHERE lease_until IS NOT NULL;"
    "CREATE INDEX sessions_looked ON sessions(looked_at) WHERE looked_at IS NOT NULL AND state <> 'pending';"
    "CREATE TABLE history(session INTEGER NOT NULL, number INTEGER NOT NULL, at INTEGER NOT NULL,"
    " rating TEXT NOT NULL, rating_raw TEXT, status TEXT, PRIMARY KEY(session, number)) WITHOUT ROWID;"
    "CREATE TABLE logins(account TEXT PRIMARY KEY, token TEXT, obtained_at INTEGER NOT NULL DEFAULT 0,"
    " expires_at INTEGER NOT NULL DEFAULT 0, blocked_until INTEGER NOT NULL DEFAULT 0,"
    " failures INTEGER NOT NULL DEFAULT 0, error TEXT, lease_owner TEXT, lease_until INTEGER) WITHOUT ROWID;"
    "CREATE TABLE turn(one INTEGER PRIMARY KEY CHECK(one = 1), unknown_next INTEGER NOT NULL,"
    " account TEXT NOT NULL, sender TEXT NOT NULL);"
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;";

/* Rows of one purge or retry, and rows a page looks at: no round over some ten ms, no long read either. */
#define RETRY_MOST 500
#define PAGE_ROWS 1000
#define PAGE_BYTES (1 << 20)

sqlite3_stmt *ratings_statement(struct store *store, int slot, const char *sql, enum store_status *status)
{
    return store_statement(store, &store->ratings, slot, sql, status);
}

enum store_status ratings_run(struct store *store, sqlite3_stmt *statement, const char *doing)
{
    enum store_status status = store_in_round(store, &store->ratings);
    return status == STORE_OK ? store_run(store, &store->ratings, statement, doing) : status;
}

void ratings_bind_time(sqlite3_stmt *statement, int index, int64_t at_ms)
{
    if (at_ms != 0)
        sqlite3_bind_int64(statement, index, at_ms);
    else
        sqlite3_bind_null(statement, index);
}

enum store_status ratings_meta_get(struct store *store, const char *name, int64_t *value)
{
    enum store_status status;
    sqlite3_stmt *statement =
        ratings_statement(store, RATINGS_META_GET, "SELECT value FROM meta WHERE name = ?1", &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, name);
    int result = sqlite3_step(statement);
    status = STORE_OK;
    if (result == SQLITE_ROW)
        *value = sqlite3_column_int64(statement, 0);
    else if (result == SQLITE_DONE)
        *value = 0;
    else
        status = store_fail(store, &store->ratings, "reading a mark");
    sqlite3_reset(statement);
    return status;
}

enum store_status ratings_meta_put(struct store *store, const char *name, int64_t value)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_META_PUT, "INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)", &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, name);
    sqlite3_bind_int64(statement, 2, value);
    return ratings_run(store, statement, "keeping a mark");
}

/* --- What came of a look -------------------------------------------------------------------------------- */

/* What the session was when the result came. */
struct before {
    int64_t session;
    int64_t renewed_due_at_ms; /* 0: no callback came meanwhile */
    bool rating_changes;
};

static bool same_text(const char *a, const char *b)
{
    return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

/* No rating and none again is no change, and neither is a status that moves while there is no rating. */
static bool rating_changes(const struct store_session_result *result, const char *rating, const char *raw,
                           const char *status)
{
    if (!result->counts || !result->usable)
        return false;
    if (!same_text(raw, result->rating_raw))
        return true;
    const char *now = result->rating != NULL ? result->rating : "none";
    if (!same_text(rating != NULL ? rating : "none", now))
        return true;
    return !same_text(raw, "") && !same_text(status, result->status);
}

static enum store_status find_leased(struct store *store, const struct store_session_result *result,
                                     struct before *before)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_DONE_FIND,
        "SELECT session, lease_owner, renewed_due_at, rating, rating_raw, status FROM sessions"
        " WHERE session_uuid = ?1 AND account = ?2",
        &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, result->session_uuid);
    store_bind_text(statement, 2, result->account);
    int step = sqlite3_step(statement);
    status = STORE_OK;
    if (step == SQLITE_ROW) {
        const char *owner = store_column_text(statement, 1);
        if (owner == NULL || strcmp(owner, result->owner) != 0)
            status = STORE_LOST;
        else
            *before = (struct before){
                .session = sqlite3_column_int64(statement, 0),
                .renewed_due_at_ms = sqlite3_column_int64(statement, 2),
                .rating_changes =
                    rating_changes(result, store_column_text(statement, 3), store_column_text(statement, 4),
                                   store_column_text(statement, 5)),
            };
    } else if (step == SQLITE_DONE) {
        status = STORE_LOST;
    } else {
        status = store_fail(store, &store->ratings, "looking a session up");
    }
    sqlite3_reset(statement);
    if (status == STORE_LOST)
        return store_say(store, STORE_LOST, "the lease on the session is no longer ours");
    return status;
}

static enum store_status add_history(struct store *store, const struct store_session_result *result,
                                     int64_t session)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_HISTORY_ADD,
        "INSERT INTO history(session, number, at, rating, rating_raw, status)"
        " SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5 FROM history WHERE session = ?1",
        &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, session);
    sqlite3_bind_int64(statement, 2, result->at_ms);
    store_bind_text(statement, 3, result->rating != NULL ? result->rating : "none");
    store_bind_text(statement, 4, result->rating_raw);
    store_bind_text(statement, 5, result->status);
    return ratings_run(store, statement, "keeping a changed rating");
}

/* Untouched, but for the lease; a time for the next attempt is taken where there is one. */
static enum store_status put_back(struct store *store, const struct store_session_result *result,
                                  int64_t session)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_DONE_BACK,
        "UPDATE sessions SET lease_owner = NULL, lease_until = NULL, last_error = coalesce(?2, last_error),"
        " next_attempt_at = min(coalesce(?3, next_attempt_at, renewed_due_at), coalesce(renewed_due_at, ?3, "
        "next_attempt_at)),"
        " renewed_due_at = NULL WHERE session = ?1",
        &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, session);
    store_bind_text(statement, 2, result->error);
    ratings_bind_time(statement, 3, result->next_attempt_at_ms);
    return ratings_run(store, statement, "putting a session back");
}

/* A look that counts. With a callback in between, the session stays due, and waited for. */
static enum store_status write_result(struct store *store, const struct store_session_result *result,
                                      const struct before *before)
{
    static const char usable[] =
        "UPDATE sessions SET state = ?2, next_attempt_at = ?3, lease_owner = NULL, lease_until = NULL,"
        " renewed_due_at = NULL, attempts = attempts + 1, last_error = ?4, looked_at = ?5,"
        " reply = coalesce(?6, reply), failures = 0, unknown = 0, external_id = ?7, rating = ?8,"
        " rating_raw = ?9, status = ?10, type = ?11,"
        " rated_at = CASE WHEN ?2 = 'rated' THEN coalesce(rated_at, ?5) ELSE rated_at END"
        " WHERE session = ?1";
    static const char unusable[] =
        "UPDATE sessions SET state = ?2, next_attempt_at = ?3, lease_owner = NULL, lease_until = NULL,"
        " renewed_due_at = NULL, attempts = attempts + 1, last_error = ?4, looked_at = ?5,"
        " reply = coalesce(?6, reply), failures = failures + 1 WHERE session = ?1";
    enum store_status status;
    sqlite3_stmt *statement = result->usable
                                  ? ratings_statement(store, RATINGS_DONE_USABLE, usable, &status)
                                  : ratings_statement(store, RATINGS_DONE_UNUSABLE, unusable, &status);
    if (statement == NULL)
        return status;
    const char *state = result->state;
    int64_t next = result->next_attempt_at_ms;
    if (before->renewed_due_at_ms != 0) {
        if (next == 0 || next > before->renewed_due_at_ms)
            next = before->renewed_due_at_ms;
        if (strcmp(state, "parked") == 0)
            state = "pending";
    }
    sqlite3_bind_int64(statement, 1, before->session);
    store_bind_text(statement, 2, state);
    ratings_bind_time(statement, 3, next);
    store_bind_text(statement, 4, result->error);
    sqlite3_bind_int64(statement, 5, result->at_ms);
    store_bind_text(statement, 6, result->reply);
    if (result->usable) {
        store_bind_text(statement, 7, result->external_id);
        store_bind_text(statement, 8, result->rating);
        store_bind_text(statement, 9, result->rating_raw);
        store_bind_text(statement, 10, result->status);
        store_bind_text(statement, 11, result->type);
    }
    return ratings_run(store, statement, "keeping what came of a session");
}

enum store_status store_session_done(struct store *store, const struct store_session_result *result)
{
    struct before before = {0};
    enum store_status status = find_leased(store, result, &before);
    if (status != STORE_OK)
        return status;
    if (!result->counts)
        return put_back(store, result, before.session);
    if (before.rating_changes)
        status = add_history(store, result, before.session);
    return status == STORE_OK ? write_result(store, result, &before) : status;
}

enum store_status store_sessions_retry(struct store *store, const char *session_uuid, int64_t now_ms,
                                       int64_t *count)
{
#define RETRY_SET                                                              \
    "UPDATE sessions SET next_attempt_at = ?1, waits_from = ?1, failures = 0," \
    " state = CASE state WHEN 'parked' THEN 'pending' ELSE state END,"         \
    " renewed_due_at = CASE WHEN lease_until IS NULL THEN NULL ELSE ?1 END WHERE "
    enum store_status status;
    sqlite3_stmt *statement =
        session_uuid != NULL
            ? ratings_statement(store, RATINGS_RETRY_ONE, RETRY_SET "session_uuid = lower(?2)", &status)
            : ratings_statement(store, RATINGS_RETRY_PARKED,
                                RETRY_SET "session IN (SELECT session FROM sessions WHERE state = 'parked'"
                                          " AND account <> '" STORE_REHEARSAL "' ORDER BY session LIMIT ?2)",
                                &status);
#undef RETRY_SET
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, now_ms);
    if (session_uuid != NULL)
        store_bind_text(statement, 2, session_uuid);
    else
        sqlite3_bind_int64(statement, 2, RETRY_MOST);
    status = ratings_run(store, statement, "bringing sessions forward");
    if (status == STORE_OK)
        *count = sqlite3_changes64(store->ratings.db);
    return status;
}

/* --- Listing -------------------------------------------------------------------------------------------- */

/* A page with texts of its own: nothing is read any more while it is shown, so that somebody who looks at a
   listing screen by screen holds no checkpoint up. */
struct shown {
    struct store_session_row row;
    struct store_rating_change *history;
    int64_t session;
};
struct page {
    struct shown *rows;
    size_t count;
    char **texts;
    size_t text_count, bytes;
    int64_t last_session; /* the last that was looked at */
    bool more;
};

static void page_release(struct page *page)
{
    for (size_t i = 0; i < page->text_count; i++)
        free(page->texts[i]);
    for (size_t i = 0; i < page->count; i++)
        free(page->rows[i].history);
    free(page->texts);
    free(page->rows);
}

/* Lists grow when their length is a power of two (or none). */
static void *room_for_one(void *list, size_t count, size_t size)
{
    return (count & (count - 1)) == 0 ? xrealloc(list, (count > 0 ? 2 * count : 1) * size) : list;
}

static const char *keep_column(struct page *page, sqlite3_stmt *statement, int column)
{
    const char *text = store_column_text(statement, column);
    if (text == NULL)
        return NULL;
    page->texts = room_for_one(page->texts, page->text_count, sizeof *page->texts);
    char *kept = xstrdup(text);
    page->texts[page->text_count++] = kept;
    page->bytes += (size_t)sqlite3_column_bytes(statement, column);
    return kept;
}

#define SESSION_COLUMNS                                                                                   \
    "SELECT session, account, session_uuid, external_id, claimed_external_id, state, rating, rating_raw," \
    " status, type, attempts, last_error, first_seen_at, next_attempt_at, rated_at, reply FROM sessions"

static void keep_row(struct page *page, sqlite3_stmt *statement)
{
    page->rows = room_for_one(page->rows, page->count, sizeof *page->rows);
    page->rows[page->count++] = (struct shown){
        .session = sqlite3_column_int64(statement, 0),
        .row =
            {
                .account = keep_column(page, statement, 1),
                .session_uuid = keep_column(page, statement, 2),
                .external_id = keep_column(page, statement, 3),
                .claimed_external_id = keep_column(page, statement, 4),
                .state = keep_column(page, statement, 5),
                .rating = keep_column(page, statement, 6),
                .rating_raw = keep_column(page, statement, 7),
                .status = keep_column(page, statement, 8),
                .type = keep_column(page, statement, 9),
                .attempts = sqlite3_column_int64(statement, 10),
                .last_error = keep_column(page, statement, 11),
                .first_seen_at_ms = sqlite3_column_int64(statement, 12),
                .next_attempt_at_ms = sqlite3_column_int64(statement, 13),
                .rated_at_ms = sqlite3_column_int64(statement, 14),
                .reply = keep_column(page, statement, 15),
            },
    };
}

/* The statement of a page: whatever is asked for, an index leads to it, from the cursor on. */
static sqlite3_stmt *page_statement(struct store *store, const struct store_filter *filter, int64_t after,
                                    enum store_status *status)
{
    sqlite3_stmt *statement;
    if (filter->person != NULL)
        statement = ratings_statement(store, RATINGS_LIST_PERSON,
                                      SESSION_COLUMNS
                                      " WHERE session IN (SELECT session FROM sessions WHERE external_id = ?3"
                                      " UNION SELECT session FROM sessions WHERE claimed_external_id = ?3"
                                      " UNION SELECT session FROM sessions WHERE session_uuid = lower(?3))"
                                      " AND session > ?1 ORDER BY session LIMIT ?2",
                                      status);
    else if (filter->state != NULL)
        statement = ratings_statement(
            store, RATINGS_LIST_STATE,
            SESSION_COLUMNS " WHERE state = ?3 AND session > ?1 ORDER BY session LIMIT ?2", status);
    else
        statement = ratings_statement(
            store, RATINGS_LIST_ALL, SESSION_COLUMNS " WHERE session > ?1 ORDER BY session LIMIT ?2", status);
    if (statement == NULL)
        return NULL;
    sqlite3_bind_int64(statement, 1, after);
    sqlite3_bind_int64(statement, 2, PAGE_ROWS);
    if (filter->person != NULL || filter->state != NULL)
        store_bind_text(statement, 3, filter->person != NULL ? filter->person : filter->state);
    return statement;
}

static bool wanted(sqlite3_stmt *statement, const struct store_filter *filter)
{
    const char *account = store_column_text(statement, 1);
    if (filter->state != NULL && !same_text(filter->state, store_column_text(statement, 5)))
        return false;
    if (filter->account != NULL ? !same_text(filter->account, account) : same_text(account, STORE_REHEARSAL))
        return false;
    return sqlite3_column_int64(statement, 12) >= filter->since_ms || filter->since_ms == 0;
}

static enum store_status read_page(struct store *store, const struct store_filter *filter, size_t limit,
                                   struct page *page)
{
    enum store_status status;
    sqlite3_stmt *statement = page_statement(store, filter, page->last_session, &status);
    if (statement == NULL)
        return status;
    int result = SQLITE_DONE;
    size_t looked_at = 0;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        if (page->count == limit || page->bytes > PAGE_BYTES) {
            page->more = true;
            break;
        }
        if (wanted(statement, filter))
            keep_row(page, statement);
        page->last_session = sqlite3_column_int64(statement, 0);
        looked_at++;
    }
    if (looked_at == PAGE_ROWS)
        page->more = true;
    status = STORE_OK;
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        status = store_fail(store, &store->ratings, "listing sessions");
    sqlite3_reset(statement);
    return status;
}

static enum store_status read_history(struct store *store, struct page *page, struct shown *shown)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_HISTORY,
        "SELECT at, rating, rating_raw, status FROM history WHERE session = ?1 ORDER BY number", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, shown->session);
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        size_t count = shown->row.history_count;
        shown->history = room_for_one(shown->history, count, sizeof *shown->history);
        shown->history[count] = (struct store_rating_change){
            .at_ms = sqlite3_column_int64(statement, 0),
            .rating = keep_column(page, statement, 1),
            .rating_raw = keep_column(page, statement, 2),
            .status = keep_column(page, statement, 3),
        };
        shown->row.history_count++;
    }
    shown->row.history = shown->history;
    status =
        result == SQLITE_DONE ? STORE_OK : store_fail(store, &store->ratings, "reading a session's history");
    sqlite3_reset(statement);
    return status;
}

/* A cursor is "s" and the number of the last session that was looked at. */
static bool cursor_read(const struct store_cursor *cursor, int64_t *session)
{
    if (cursor->text[0] == '\0') {
        *session = 0;
        return true;
    }
    char *end;
    if (cursor->text[0] != 's' || cursor->text[1] < '0' || cursor->text[1] > '9')
        return false;
    errno = 0;
    long long number = strtoll(cursor->text + 1, &end, 10);
    if (*end != '\0' || errno != 0)
        return false;
    *session = number;
    return true;
}

static void cursor_write(struct store_cursor *cursor, int64_t session)
{
    (void)snprintf(cursor->text, sizeof cursor->text, "s%lld", (long long)session);
}

enum store_status store_sessions(struct store *store, const struct store_filter *filter,
                                 struct store_cursor *cursor, size_t limit, store_session_fn *fn,
                                 void *context, bool *more)
{
    struct page page = {0};
    if (!cursor_read(cursor, &page.last_session))
        return store_say(store, STORE_ERROR, "not a place in a listing of sessions");
    enum store_status status = store_file_ready(store, &store->ratings);
    if (status == STORE_OK)
        status = read_page(store, filter, limit, &page);
    for (size_t i = 0; i < page.count && status == STORE_OK; i++)
        status = read_history(store, &page, &page.rows[i]);
    if (status == STORE_OK) {
        bool on = true;
        for (size_t i = 0; i < page.count && on; i++) {
            on = fn(context, &page.rows[i].row);
            if (!on && i + 1 < page.count) {
                page.more = true;
                page.last_session = page.rows[i].session;
            }
        }
        cursor_write(cursor, page.last_session);
        *more = page.more;
    }
    page_release(&page);
    return status;
}

/* --- Purge ---------------------------------------------------------------------------------------------- */

/* One at a time, so that its history goes with it. A session that somebody is looking at stays, and so does
   one that is to be looked at (a rated one that a callback came for). */
enum store_status store_purge_sessions(struct store *store, int64_t before_ms, size_t most, int64_t *removed)
{
    int64_t count = 0;
    enum store_status status = STORE_OK;
    while ((size_t)count < most) {
        sqlite3_stmt *find =
            ratings_statement(store, RATINGS_PURGE_FIND,
                              "SELECT session FROM sessions WHERE looked_at < ?1 AND looked_at IS NOT NULL"
                              " AND state <> 'pending' AND lease_until IS NULL AND next_attempt_at IS NULL"
                              " LIMIT 1",
                              &status);
        if (find == NULL)
            return status;
        sqlite3_bind_int64(find, 1, before_ms);
        int result = sqlite3_step(find);
        int64_t session = sqlite3_column_int64(find, 0);
        if (result != SQLITE_ROW && result != SQLITE_DONE)
            status = store_fail(store, &store->ratings, "purging sessions");
        sqlite3_reset(find);
        if (status != STORE_OK)
            return status;
        if (result == SQLITE_DONE)
            break;
        static const struct {
            int slot;
            const char *sql;
        } steps[] = {{RATINGS_PURGE_HISTORY, "DELETE FROM history WHERE session = ?1"},
                     {RATINGS_PURGE, "DELETE FROM sessions WHERE session = ?1"}};
        for (size_t i = 0; i < 2 && status == STORE_OK; i++) {
            sqlite3_stmt *statement = ratings_statement(store, steps[i].slot, steps[i].sql, &status);
            if (statement == NULL)
                return status;
            sqlite3_bind_int64(statement, 1, session);
            status = ratings_run(store, statement, "purging sessions");
        }
        if (status != STORE_OK)
            return status;
        count++;
    }
    *removed = count;
    return STORE_OK;
}
