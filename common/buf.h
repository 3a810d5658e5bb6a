/*
 * A growing byte buffer, and the few allocation helpers that everything uses.
 *
 * Every buffer is treated as if it held a password: what it leaves behind when it grows, is cleared or is
 * released is overwritten first. There is always a NUL after the last byte, so `data` can be read as a C
 * string once anything was added; a buffer may hold NUL bytes, `len` is what counts.
 *
 * Running out of memory ends the program with a message and exit status 70: nothing that was acknowledged is
 * lost by that, because a 2xx leaves only after the commit.
 */
#ifndef EXAMHOOK_BUF_H
#define EXAMHOOK_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* NULL until something is added */
    size_t len;
    size_t cap;
};

#define BUF_INIT   \
    {              \
        NULL, 0, 0 \
    }

void buf_add(struct buf *b, const void *bytes, size_t len);
void buf_adds(struct buf *b, const char *text);
void buf_addc(struct buf *b, char c);
void buf_addf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* In decimal, as %lld would. */
void buf_add_number(struct buf *b, int64_t number);
/* Room for `len` more bytes at the end; returns where they go. The caller adds what it wrote to `b->len`. */
char *buf_room(struct buf *b, size_t len);
/* Adds what can be read from `fd` until its end. False with errno; EFBIG: it was more than `most` bytes. */
bool buf_read(struct buf *b, int fd, size_t most);
/* The content as a C string, never NULL. Valid until the buffer changes. */
const char *buf_str(const struct buf *b);
/* Empties the buffer and keeps its (overwritten) memory. */
void buf_clear(struct buf *b);
/* Overwrites and frees; the buffer can be used again. */
void buf_release(struct buf *b);

/* Allocation that does not fail: the program ends instead. free() the result, or wipe_free() a secret one. */
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *old, size_t size);
char *xstrdup(const char *text); /* NULL gives NULL */
char *xstrndup(const char *text, size_t len);
/* Overwrites a C string, then frees it. Takes NULL. */
void wipe_free(char *text);

/* Text without the ASCII white space around it: a pointer into `text`, its length in *len (in and out). */
const char *trimmed(const char *text, size_t *len);
/* A to Z become a to z in place; other bytes, UTF-8 among them, are left alone. No locale is asked. */
void ascii_lower(char *text, size_t len);

#endif
