/*
 * CSV in and out, as RFC 4180 has it. The only user of libcsv.
 *
 * What is read may be a roster with plain passwords: the reader's own memory is overwritten when it is freed.
 */
#ifndef EXAMHOOK_CSV_H
#define EXAMHOOK_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../common/buf.h"

#define CSV_CELL_MAX_BYTES (256 * 1024)
#define CSV_CELLS_MAX 256

struct csv_cell {
    const char *text; /* NUL-terminated, may hold further NULs and anything else */
    size_t len;
};
struct csv_record {
    int64_t line; /* the physical line that it begins on */
    const struct csv_cell *cells;
    size_t count;
};
/* false stops the reading. The record dies when this returns. */
typedef bool csv_record_fn(void *context, const struct csv_record *record);

enum csv_result { CSV_DONE, CSV_STOPPED, CSV_MALFORMED, CSV_UNREADABLE };

/*
 * Reads a file descriptor to its end. Strict: a stray quote, or one that is never closed, is CSV_MALFORMED
 * with *line where its record begins, *cell which of its cells it is (from 1), and `why`. Spaces around a
 * cell are part of it. Lines end in LF, CRLF or CR; empty ones are skipped; a byte order mark is.
 * CSV_UNREADABLE: errno says why.
 */
enum csv_result csv_read(int fd, csv_record_fn *fn, void *context, int64_t *line, size_t *cell,
                         const char **why);

/*
 * Adds a cell, with a comma in front unless it is the first of its line. What a spreadsheet would take for a
 * formula (it begins with = + - @, a tab or a carriage return) gets an apostrophe in front. NULL is empty.
 */
void csv_write_text(FILE *out, bool first, const char *text);
void csv_write_number(FILE *out, bool first, int64_t number);
void csv_write_end(FILE *out);

#endif
