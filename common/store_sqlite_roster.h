/*
 * What reading and building the roster in SQLite share; only store_sqlite_roster*.c include this.
 *
 *   lines    what a roster line says
 *   keys     a row for each value that can identify somebody, trimmed and in lower case: a lookup finds by it
 *            the few lines that are then compared exactly. An empty value identifies nobody and has no row.
 *   columns  the names of the columns that have keys, each account its own
 *   dummies  the setting that the most of an account's hashes have
 */
#ifndef EXAMHOOK_STORE_SQLITE_ROSTER_H
#define EXAMHOOK_STORE_SQLITE_ROSTER_H

#include "store_sqlite.h"

#define ROSTER_LINE_COLUMNS                                                                          \
    "l.account, l.id, l.exam, l.email, l.name, l.password_hash, l.photo, l.about, l.data, l.opens, " \
    "l.closes, l.attributes"

/* The row of a statement with ROSTER_LINE_COLUMNS. The texts live until its next step; the result (the
   attributes) is to be freed. */
struct candidate_attribute *roster_read_line(sqlite3_stmt *statement, struct candidate *candidate);
/* Attributes as they are kept: "column NUL value NUL" one after the other. */
void roster_encode_attributes(struct buf *out, const struct candidate *candidate);
/* What stands in `keys` for a value; nothing for an empty one. */
void roster_add_key_value(struct buf *out, const char *value);
/* Opens a roster file that nobody writes any more; *version of its schema. */
enum store_status roster_open_immutable(struct store *store, struct store_file *file, int *version);

#endif
