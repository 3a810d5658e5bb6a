/*
 * Accounts' logins in SQLite: the token, and who is about to get a new one. Tokens stand in no other file.
 */
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "store_sqlite_ratings.h"

void store_login_release(struct store_login *login)
{
    if (login == NULL)
        return;
    wipe_free(login->token);
    free(login->error);
    *login = (struct store_login){0};
}

enum store_status store_login_get(struct store *store, const char *account, struct store_login *login)
{
    enum store_status status = store_file_ready(store, &store->ratings);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement =
        ratings_statement(store, RATINGS_LOGIN_GET,
                          "SELECT token, obtained_at, expires_at, blocked_until, failures, error,"
                          " (SELECT value FROM meta WHERE name = '" LOGIN_FAILING_FROM "' || account),"
                          " (SELECT value FROM meta WHERE name = '" LOGIN_FAILING_FOR "' || account)"
                          " FROM logins WHERE account = ?1",
                          &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        *login = (struct store_login){
            .token = xstrdup(store_column_text(statement, 0)),
            .obtained_at_ms = sqlite3_column_int64(statement, 1),
            .expires_at_ms = sqlite3_column_int64(statement, 2),
            .blocked_until_ms = sqlite3_column_int64(statement, 3),
            .failures = sqlite3_column_int64(statement, 4),
            .error = xstrdup(store_column_text(statement, 5)),
            .failing_from_ms = sqlite3_column_int64(statement, 6),
            .failing_ms = sqlite3_column_int64(statement, 7),
        };
    else if (result == SQLITE_DONE)
        *login = (struct store_login){0};
    else
        status = store_fail(store, &store->ratings, "reading a login");
    sqlite3_reset(statement);
    return status;
}

/* Whether somebody else is logging in. */
static enum store_status lease_is_taken(struct store *store, const char *account, const char *owner,
                                        int64_t now_ms, int64_t lease_ms, bool *is_taken)
{
    enum store_status status;
    sqlite3_stmt *statement =
        ratings_statement(store, RATINGS_LOGIN_FIND,
                          "SELECT 1 FROM logins WHERE account = ?1 AND lease_owner <> ?2 AND lease_until > ?3"
                          " AND lease_until <= ?3 + 2 * ?4",
                          &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    store_bind_text(statement, 2, owner);
    sqlite3_bind_int64(statement, 3, now_ms);
    sqlite3_bind_int64(statement, 4, lease_ms);
    int result = sqlite3_step(statement);
    status = STORE_OK;
    if (result == SQLITE_ROW || result == SQLITE_DONE)
        *is_taken = result == SQLITE_ROW;
    else
        status = store_fail(store, &store->ratings, "leasing a login");
    sqlite3_reset(statement);
    return status;
}

enum store_status store_login_lease(struct store *store, const char *account, const char *owner,
                                    int64_t now_ms, int64_t lease_ms)
{
    bool is_taken = false;
    enum store_status status = lease_is_taken(store, account, owner, now_ms, lease_ms, &is_taken);
    if (status != STORE_OK)
        return status;
    if (is_taken)
        return store_say(store, STORE_BUSY, "another worker is logging in");
    sqlite3_stmt *statement =
        ratings_statement(store, RATINGS_LOGIN_LEASE,
                          "INSERT INTO logins(account, lease_owner, lease_until) VALUES(?1, ?2, ?3)"
                          " ON CONFLICT(account) DO UPDATE SET lease_owner = ?2, lease_until = ?3",
                          &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    store_bind_text(statement, 2, owner);
    sqlite3_bind_int64(statement, 3, now_ms + lease_ms);
    return ratings_run(store, statement, "leasing a login");
}

/* Where logins do not fail, nothing is kept. */
static enum store_status put_failing(struct store *store, const char *account,
                                     const struct store_login *login)
{
    static const char put[] =
        "INSERT OR REPLACE INTO meta(name, value) VALUES('" LOGIN_FAILING_FROM "' || ?1, ?2),"
        " ('" LOGIN_FAILING_FOR "' || ?1, ?3)";
    static const char end[] =
        "DELETE FROM meta WHERE name IN ('" LOGIN_FAILING_FROM "' || ?1, '" LOGIN_FAILING_FOR "' || ?1)";
    enum store_status status;
    bool failing = login->failing_from_ms != 0;
    sqlite3_stmt *statement = failing ? ratings_statement(store, RATINGS_LOGIN_FAILING_PUT, put, &status)
                                      : ratings_statement(store, RATINGS_LOGIN_FAILING_END, end, &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    if (failing) {
        sqlite3_bind_int64(statement, 2, login->failing_from_ms);
        sqlite3_bind_int64(statement, 3, login->failing_ms);
    }
    return ratings_run(store, statement, "keeping since when logins fail");
}

enum store_status store_login_put(struct store *store, const char *account, const struct store_login *login)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(store, RATINGS_LOGIN_PUT,
                                                "INSERT OR REPLACE INTO logins(account, token, obtained_at, "
                                                "expires_at, blocked_until, failures, error)"
                                                " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                                                &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    store_bind_text(statement, 2, login->token);
    sqlite3_bind_int64(statement, 3, login->obtained_at_ms);
    sqlite3_bind_int64(statement, 4, login->expires_at_ms);
    sqlite3_bind_int64(statement, 5, login->blocked_until_ms);
    sqlite3_bind_int64(statement, 6, login->failures);
    store_bind_text(statement, 7, login->error);
    status = ratings_run(store, statement, "keeping a login");
    return status == STORE_OK ? put_failing(store, account, login) : status;
}
