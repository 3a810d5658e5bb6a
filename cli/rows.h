/* Stored events and sessions as JSON objects and CSV lines: one form for every subcommand that shows them. */
#ifndef EXAMHOOK_ROWS_H
#define EXAMHOOK_ROWS_H

#include <stdio.h>

#include "../common/buf.h"
#include "../common/store.h"

/* Members go into an object that stands open at the end of `object`. */
void rows_event_members(struct buf *object, const struct store_event_row *row);
void rows_session_members(struct buf *object, const struct store_session_row *row);
void rows_candidate_members(struct buf *object, const struct candidate *candidate);
/* The kind of a hash, for people: the hash itself is shown nowhere. NULL: there is none. */
const char *rows_secret_kind(const struct candidate *candidate);
/* For a table: why, with the positions that were sent where [fields] maps others; else the flags. */
void rows_event_note(struct buf *out, const struct store_event_row *row);
/* One rating of a session's history as {"at", "rating", "rating_raw", "status"}. */
void rows_change(struct buf *out, const struct store_rating_change *change);

void rows_event_csv_header(FILE *out);
void rows_event_csv(FILE *out, const struct store_event_row *row);
void rows_session_csv_header(FILE *out);
void rows_session_csv(FILE *out, const struct store_session_row *row);

#endif
