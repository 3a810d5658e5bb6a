/*
 * What the files of the ratings area share; only they include this.
 *
 *   store_sqlite_ratings.c  the schema; what came of a look at a session; listing, retry, purge
 *   store_sqlite_queue.c    callbacks taken in; whose turn it is; leases
 *   store_sqlite_logins.c   tokens
 */
#ifndef EXAMHOOK_STORE_SQLITE_RATINGS_H
#define EXAMHOOK_STORE_SQLITE_RATINGS_H

#include "store_sqlite.h"

/* Slots of ratings.db. */
enum {
    RATINGS_META_GET = 0,
    RATINGS_META_PUT,
    RATINGS_INTAKE_FIND,
    RATINGS_INTAKE_ADD,
    RATINGS_INTAKE_CHANGE,
    RATINGS_ACCOUNT_NEXT,
    RATINGS_DUE,
    RATINGS_SENDER_NEXT,
    RATINGS_SENDER_DUE,
    RATINGS_LEASE,
    RATINGS_GIVE_UP,
    RATINGS_TURN_GET,
    RATINGS_TURN_PUT,
    RATINGS_DONE_FIND,
    RATINGS_DONE_USABLE,
    RATINGS_DONE_UNUSABLE,
    RATINGS_DONE_BACK,
    RATINGS_HISTORY_ADD,
    RATINGS_HISTORY,
    RATINGS_NEXT_FIRST,
    RATINGS_NEXT_LAST,
    RATINGS_NEXT_LEASE,
    RATINGS_NEXT_LEASE_LAST,
    RATINGS_RETRY_ONE,
    RATINGS_RETRY_PARKED,
    RATINGS_LIST_ALL,
    RATINGS_LIST_STATE,
    RATINGS_LIST_PERSON,
    RATINGS_PURGE_FIND,
    RATINGS_PURGE,
    RATINGS_PURGE_HISTORY,
    RATINGS_LOGIN_GET,
    RATINGS_LOGIN_FIND,
    RATINGS_LOGIN_LEASE,
    RATINGS_LOGIN_PUT,
    RATINGS_LOGIN_FAILING_PUT,
    RATINGS_LOGIN_FAILING_END
};
/* Slots of callbacks.db that are ours: the highest below those of the rounds. */
enum { PROVIEW_INTAKE = STORE_STATEMENTS_ROUND - 3, PROVIEW_NEWEST, PROVIEW_WAITING };

/* The statement of a slot of ratings.db. */
sqlite3_stmt *ratings_statement(struct store *store, int slot, const char *sql, enum store_status *status);
/* Runs one that gives no row, in a round. */
enum store_status ratings_run(struct store *store, sqlite3_stmt *statement, const char *doing);
/* 0 binds NULL: "none planned", "never". */
void ratings_bind_time(sqlite3_stmt *statement, int index, int64_t at_ms);

/* A number kept in `meta`, 0 where there is none. */
enum store_status ratings_meta_get(struct store *store, const char *name, int64_t *value);
enum store_status ratings_meta_put(struct store *store, const char *name, int64_t value);
/* `seq` of the last callback that was taken in. */
#define RATINGS_META_SEQ "callbacks_seq"

#endif
