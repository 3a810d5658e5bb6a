/*
 * What listings print: tables for people, one JSON object a line for programs. Text that came from outside
 * cannot move a terminal's cursor or hide what stands beside it: control characters and the marks that turn
 * the direction of writing are shown as escapes.
 */
#ifndef EXAMHOOK_OUTPUT_H
#define EXAMHOOK_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "../common/buf.h"

/* Text made harmless: \n, \t, \xNN for what is no UTF-8, \u{NN} for the rest. NULL adds nothing. */
void output_text(struct buf *out, const char *text);
/* How many columns of a terminal a harmless text takes (East Asian wide characters take two). */
size_t output_width(const char *text, size_t len);

/* A line of JSON: what a terminal would act upon becomes \uNNNN, which is the same JSON. `json` is one value
   without line breaks. */
void output_json(FILE *out, const struct buf *json);
/* Adds a member that is JSON text already, compact and on one line; a string where it is no JSON; null for
   NULL. */
void output_member_json(struct buf *object, const char *name, const char *json);
/* Adds a time as ISO 8601 UTC; null for 0. */
void output_member_time(struct buf *object, const char *name, int64_t ms);
/* The time as a table has it, ISO 8601 to the second ("2026-11-22T09:00:00Z"), "" for 0. */
#define OUTPUT_TIME_BYTES 32
const char *output_time(int64_t ms, char text[OUTPUT_TIME_BYTES]);

/* False when the reader of `out` is gone (a pipe to `head`) or the disk is full: no use in listing on. */
bool output_alive(FILE *out);

/* A table whose columns fit what stands in them. The rows given before the first flush decide the widths;
   what is longer later on pushes its own row only. A cell wider than its column's limit ends in "~". */
#define TABLE_COLUMNS_MAX 16
struct table_column {
    const char *title;
    size_t most; /* columns of the terminal; 0: no limit */
};
struct table;
struct table *table_new(FILE *out, const struct table_column *columns, size_t count);
/* The cells of a row from left to right; NULL is empty. A row that is short is filled with empty cells. */
void table_cell(struct table *table, const char *text);
void table_cell_number(struct table *table, int64_t number);
void table_cell_time(struct table *table, int64_t ms);
void table_row_end(struct table *table);
/* How many rows wait for the next flush. */
size_t table_waiting(const struct table *table);
void table_flush(struct table *table);
/* Flushes, then frees; a table without rows leaves its titles. Takes NULL. */
void table_free(struct table *table);

#endif
