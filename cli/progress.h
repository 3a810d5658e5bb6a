/*
 * A progress bar for people who wait: one line on a terminal, redrawn a few times a second and taken away at
 * the end. Anywhere but on a terminal a plain line comes once a minute, so that a log tells how long it will
 * take; of what is done within the first minute nothing is printed there.
 */
#ifndef EXAMHOOK_PROGRESS_H
#define EXAMHOOK_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out; /* NULL: not begun */
    bool terminal;
    const char *what;
    int64_t total;
    int64_t begun_ms, drawn_ms;
    bool drawn;
};

/* "WHAT [=====>    ] 42%, 12 s left", from ten minutes on "35 min left"; without a terminal "WHAT: 42%, 12 s
   left". `what` is not copied. */
void progress_begin(struct progress *progress, FILE *out, const char *what, int64_t total);
/* May be called as often as one likes. */
void progress_at(struct progress *progress, int64_t done);
void progress_end(struct progress *progress);

/* The bar's line, without a carriage return, and the plain one; pure. */
#define PROGRESS_LINE_BYTES 160
#define PROGRESS_PLAIN_MS 60000
const char *progress_line(const char *what, int64_t done, int64_t total, int64_t elapsed_ms,
                          char line[PROGRESS_LINE_BYTES]);

const char *progress_plain(const char *what, int64_t done, int64_t total, int64_t elapsed_ms,
                           char line[PROGRESS_LINE_BYTES]);

#endif
