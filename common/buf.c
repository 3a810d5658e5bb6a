#include "buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#define FIRST_CAP 64
#define READ_BYTES 4096

__attribute__((noreturn)) static void out_of_memory(void)
{
    static const char text[] = "out of memory\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n; /* there is nobody else to tell */
    _exit(EX_SOFTWARE);
}

static size_t sum(size_t a, size_t b)
{
    size_t result;
    if (__builtin_add_overflow(a, b, &result))
        out_of_memory();
    return result;
}

/* realloc() may leave the old bytes behind, so growing is a new block, a copy and an overwritten old one. */
static void grow(struct buf *b, size_t need)
{
    size_t cap = b->cap ? b->cap : FIRST_CAP;
    char *data;
    while (cap < need)
        cap = sum(cap, cap);
    data = malloc(cap);
    if (!data)
        out_of_memory();
    if (b->data) {
        memcpy(data, b->data, b->len + 1);
        explicit_bzero(b->data, b->cap);
        free(b->data);
    } else {
        data[0] = '\0';
    }
    b->data = data;
    b->cap = cap;
}

char *buf_room(struct buf *b, size_t len)
{
    size_t need = sum(sum(b->len, len), 1);
    if (!b->data || need > b->cap)
        grow(b, need);
    b->data[need - 1] = '\0';
    return b->data + b->len;
}

void buf_add(struct buf *b, const void *bytes, size_t len)
{
    char *at = buf_room(b, len);
    if (len)
        memcpy(at, bytes, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_adds(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text));
}

void buf_addc(struct buf *b, char c)
{
    *buf_room(b, 1) = c;
    b->len++;
}

void buf_add_number(struct buf *b, int64_t number)
{
    char digits[20], *at = digits + sizeof digits;
    uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0)
        *--at = '-';
    buf_add(b, at, (size_t)(digits + sizeof digits - at));
}

void buf_addf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    int len;
    va_start(args, format);
    va_copy(again, args);
    /* Into the room that is there; only what did not fit is written a second time. */
    size_t room = b->cap - b->len;
    len = vsnprintf(b->data ? b->data + b->len : NULL, room, format, args);
    if (len > 0) {
        bool fits = (size_t)len < room;
        char *at = buf_room(b, (size_t)len);
        if (!fits)
            vsnprintf(at, (size_t)len + 1, format, again);
        b->len += (size_t)len;
    }
    va_end(again);
    va_end(args);
}

const char *buf_str(const struct buf *b)
{
    /* Room may have been asked for and written to without being taken: the NUL belongs at `len`. */
    if (!b->data)
        return "";
    b->data[b->len] = '\0';
    return b->data;
}

void buf_clear(struct buf *b)
{
    if (b->data)
        explicit_bzero(b->data, b->cap);
    b->len = 0;
}

void buf_release(struct buf *b)
{
    if (b->data) {
        explicit_bzero(b->data, b->cap);
        free(b->data);
    }
    *b = (struct buf)BUF_INIT;
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        out_of_memory();
    return p;
}

void *xrealloc(void *old, size_t size)
{
    void *p = realloc(old, size ? size : 1);
    if (!p)
        out_of_memory();
    return p;
}

char *xstrdup(const char *text)
{
    return text ? xstrndup(text, strlen(text)) : NULL;
}

char *xstrndup(const char *text, size_t len)
{
    size_t real;
    char *copy;
    if (!text)
        return NULL;
    real = strnlen(text, len);
    copy = malloc(sum(real, 1));
    if (!copy)
        out_of_memory();
    memcpy(copy, text, real);
    copy[real] = '\0';
    return copy;
}

void wipe_free(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

static bool ascii_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

const char *trimmed(const char *text, size_t *len)
{
    size_t n = *len;
    while (n > 0 && ascii_space(text[0])) {
        text++;
        n--;
    }
    while (n > 0 && ascii_space(text[n - 1]))
        n--;
    *len = n;
    return text;
}

void ascii_lower(char *text, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++) {
        if (text[i] >= 'A' && text[i] <= 'Z')
            text[i] = (char)(text[i] - 'A' + 'a');
    }
}

bool buf_read(struct buf *b, int fd, size_t most)
{
    size_t start = b->len;
    for (;;) {
        ssize_t n = read(fd, buf_room(b, READ_BYTES), READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        b->len += (size_t)n;
        if (b->len - start > most) {
            errno = EFBIG;
            return false;
        }
    }
}
