/*
 * A copy of the ratings without the accounts' tokens. VACUUM INTO would write the tokens first, and whoever
 * is killed before he takes them out again leaves them in a copy that goes who knows where. So: row by row.
 */
#include <string.h>

#include "buf.h"
#include "store_sqlite.h"

/* What of a login is the token, and says how long it is good. */
static bool is_left_out(const char *table, const char *column)
{
    return strcmp(table, "logins") == 0 &&
           (strcmp(column, "token") == 0 || strcmp(column, "obtained_at") == 0 ||
            strcmp(column, "expires_at") == 0);
}

static bool bind_row(sqlite3_stmt *insert, sqlite3_stmt *row, const char *table)
{
    for (int i = 0; i < sqlite3_column_count(row); i++) {
        const char *name = sqlite3_column_name(row, i);
        int result = SQLITE_OK;
        if (!name)
            return false;
        if (!is_left_out(table, name))
            result = sqlite3_bind_value(insert, i + 1, sqlite3_column_value(row, i));
        else if (strcmp(name, "token") == 0)
            result = sqlite3_bind_null(insert, i + 1);
        else
            result = sqlite3_bind_int64(insert, i + 1, 0);
        if (result != SQLITE_OK)
            return false;
    }
    return true;
}

static bool copy_rows(sqlite3_stmt *select, sqlite3_stmt *insert, const char *table)
{
    int result;
    while ((result = sqlite3_step(select)) == SQLITE_ROW) {
        if (!bind_row(insert, select, table) || sqlite3_step(insert) != SQLITE_DONE)
            return false;
        sqlite3_reset(insert);
    }
    return result == SQLITE_DONE;
}

static bool copy_table(sqlite3 *from, sqlite3 *to, const char *table)
{
    struct buf sql = BUF_INIT;
    sqlite3_stmt *select = NULL, *insert = NULL;
    bool done = false;
    buf_addf(&sql, "SELECT * FROM \"%s\"", table);
    if (sqlite3_prepare_v2(from, buf_str(&sql), -1, &select, NULL) == SQLITE_OK) {
        buf_clear(&sql);
        buf_addf(&sql, "INSERT INTO \"%s\" VALUES(", table);
        for (int i = 0; i < sqlite3_column_count(select); i++)
            buf_adds(&sql, i > 0 ? ",?" : "?");
        buf_addc(&sql, ')');
        done = sqlite3_prepare_v2(to, buf_str(&sql), -1, &insert, NULL) == SQLITE_OK &&
               copy_rows(select, insert, table);
    }
    sqlite3_finalize(select);
    sqlite3_finalize(insert);
    buf_release(&sql);
    return done;
}

/* Every table with its rows, then what would act on them as they come; `which` is the WHERE of sqlite_schema.
 */
static bool copy_objects(sqlite3 *from, sqlite3 *to, const char *which)
{
    struct buf sql = BUF_INIT;
    sqlite3_stmt *list = NULL;
    int result = SQLITE_ERROR;
    bool done = true;
    buf_addf(&sql, "SELECT type, name, sql FROM sqlite_schema WHERE %s ORDER BY type != 'table', rowid",
             which);
    if (sqlite3_prepare_v2(from, buf_str(&sql), -1, &list, NULL) == SQLITE_OK) {
        while (done && (result = sqlite3_step(list)) == SQLITE_ROW) {
            const char *type = store_column_text(list, 0), *name = store_column_text(list, 1);
            const char *made = store_column_text(list, 2);
            bool own = strcmp(name, "sqlite_sequence") != 0; /* SQLite makes it, and fills it as rows come */
            done =
                sqlite3_exec(to, own ? made : "DELETE FROM sqlite_sequence", NULL, NULL, NULL) == SQLITE_OK &&
                (strcmp(type, "table") != 0 || copy_table(from, to, name));
        }
    }
    sqlite3_finalize(list);
    buf_release(&sql);
    return done && result == SQLITE_DONE;
}

static bool copy_all(sqlite3 *from, sqlite3 *to, int64_t version, int64_t application)
{
    struct buf end = BUF_INIT;
    /* A copy that is not whole is thrown away, and a whole one is synced by the caller. */
    bool done = sqlite3_exec(to, "PRAGMA journal_mode=MEMORY;PRAGMA synchronous=OFF;BEGIN", NULL, NULL,
                             NULL) == SQLITE_OK &&
                sqlite3_exec(from, "BEGIN", NULL, NULL, NULL) == SQLITE_OK &&
                copy_objects(from, to, "name NOT LIKE 'sqlite\\_%' ESCAPE '\\'") &&
                copy_objects(from, to, "name = 'sqlite_sequence'");
    buf_addf(&end, "PRAGMA user_version=%lld;PRAGMA application_id=%lld;COMMIT", (long long)version,
             (long long)application);
    done = done && sqlite3_exec(to, buf_str(&end), NULL, NULL, NULL) == SQLITE_OK;
    buf_release(&end);
    return done;
}

enum store_status store_copy_without_tokens(struct store *store, struct store_file *from,
                                            struct store_file *to, int64_t version)
{
    int64_t none = 0, application = 0;
    enum store_status status = store_number(store, from, "PRAGMA application_id", &application);
    if (status == STORE_OK)
        status = store_file_connect_any(store, to, true, &none);
    if (status == STORE_OK && !copy_all(from->db, to->db, version, application))
        status = store_fail(store, sqlite3_errcode(to->db) == SQLITE_OK ? from : to, "copying");
    store_file_disconnect(to);
    return status;
}
