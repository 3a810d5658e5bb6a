/*
 * What the files of the SQLite store share with each other; nobody else includes this.
 *
 *   store_sqlite.c          opening, rounds, migration, check, backup, purge, events, verifications,
 * callbacks store_sqlite_ratings.c  sessions, ratings, leases, logins store_sqlite_roster.c   the roster:
 * read, build aside, put in place
 */
#ifndef EXAMHOOK_STORE_SQLITE_H
#define EXAMHOOK_STORE_SQLITE_H

#include <sqlite3.h>
#include <sys/stat.h>

#include "store.h"

/* The version of this program's schema, kept as user_version in every file. Changes are additive: a program
   bears a store one version newer than its own (STORE_NEW beyond that), and asks for a migration of an older
   one (STORE_OLD). */
#define STORE_SCHEMA 1

/* Prepared statements are made when first used and kept; each file numbers its own within its area. */
#define STORE_STATEMENTS 64

/* One SQLite file. */
struct store_file {
    enum store_area area;
    char *folder, *path, *lock_path;
    sqlite3 *db; /* NULL: not open */
    bool writable;
    int lock_fd; /* -1: not open; flocked while a round runs */
    sqlite3_stmt *statements[STORE_STATEMENTS];
    struct stat seen; /* roster: the file that is open, to notice another put in its place */
};

struct store {
    struct store_file roster, examjoint, proview, ratings;
    int64_t lock_wait_ms;
    struct store_file *round; /* whose round runs, NULL: none */
    struct buf message;
};

/* Paths below the folder of the url: roster/roster.db, examjoint/events.db, proview/callbacks.db,
   ratings/ratings.db, each with NAME.lock beside it. False: not a "sqlite:" url. */
bool store_file_name(const char *url, enum store_area area, struct store_file *file);
void store_file_release(struct store_file *file);
struct store_file *store_file_of(struct store *store, enum store_area area);

/* Maps SQLite's last result on this file to a status and keeps the message ("doing: what SQLite said"). */
enum store_status store_fail(struct store *store, struct store_file *file, const char *doing);
/* The statement of that slot, prepared with this SQL when first used; reset and with no bindings. NULL:
 * store_fail() was called, *status is set. */
sqlite3_stmt *store_statement(struct store *store, struct store_file *file, int slot, const char *sql,
                              enum store_status *status);
/* Steps a statement that returns no row, resets it. */
enum store_status store_run(struct store *store, struct store_file *file, sqlite3_stmt *statement,
                            const char *doing);
/* NULL binds NULL. Texts are bound SQLITE_STATIC: they live until the statement is reset. */
void store_bind_text(sqlite3_stmt *statement, int index, const char *text);
/* The column's text, NULL for NULL. Dies with the next step. */
const char *store_column_text(sqlite3_stmt *statement, int column);
/* Writes all of a text to a file that is put in place by rename, both synced. */
enum store_status store_sync_folder(const char *folder);

/* The schema of an area's file: SQL for a new one, run by store_migrate() in one transaction. */
extern const char store_schema_ratings[];
extern const char store_schema_roster[];

/* The other files' part of store_purge(): one short round at a time, deletes at most `most` sessions;
 * *removed 0 ends it. */
enum store_status store_purge_sessions(struct store *store, int64_t before_ms, size_t most, int64_t *removed);
/* The roster is opened read-only when first used, and again when another file was put in its place. */
enum store_status store_roster_reopen(struct store *store);

#endif
