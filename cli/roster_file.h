/*
 * A roster file: read, checked whole, its plain passwords hashed. Nothing here touches the store.
 */
#ifndef EXAMHOOK_ROSTER_FILE_H
#define EXAMHOOK_ROSTER_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../common/buf.h"
#include "../common/store.h"

#define ROSTER_FILE_ERRORS 20 /* bad lines named before giving up */
#define ROSTER_FILE_LINES_MAX 10000000

struct roster_file_rules {
    const char *name;    /* how messages call the file */
    const char *account; /* whose candidates these are */
    const char *zone;    /* of times without an offset */
    const char *exam;    /* not NULL: lines of another exam are refused, an empty exam means this one */
    const char *hash;    /* what a plain password becomes: "yescrypt", "bcrypt" or "sha512crypt" */
};

struct roster_file;

/*
 * Reads and checks all of it. On false `errors` has a line for each bad one, "NAME:LINE: column COLUMN: why",
 * and nothing is kept. No cell's content is ever in a message: a cell may hold a password, whatever its
 * column.
 */
bool roster_file_read(int fd, const struct roster_file_rules *rules, struct roster_file **out,
                      struct buf *errors);
void roster_file_free(struct roster_file *file);

/* Hashes what is plain, one thread a core, with a progress bar on `terminal`, and overwrites the plain
   passwords. False with `errors` when crypt(3) refused. */
bool roster_file_hash(struct roster_file *file, FILE *terminal, struct buf *errors);

size_t roster_file_lines(const struct roster_file *file);
/* How many different candidates the lines are about. */
size_t roster_file_candidates(const struct roster_file *file);
/* Plain passwords that begin or end with white space: legal, and rarely meant. */
size_t roster_file_spaced_passwords(const struct roster_file *file);
bool roster_file_has(const struct roster_file *file, const char *id, const char *exam);
/* The i-th line; its attributes live until the next call, all else as long as the file. */
const struct candidate *roster_file_at(struct roster_file *file, size_t i);

#endif
