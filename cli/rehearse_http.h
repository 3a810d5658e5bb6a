/*
 * The caller's side of a rehearsal: many POSTs at once over HTTPS to one's own installation, as ExamJoint and
 * Proview send them. Kept connections (HTTP/1.1), the server's certificate and name checked, no proxy, no
 * redirect. With talview.c the only user of libcurl.
 */
#ifndef EXAMHOOK_REHEARSE_HTTP_H
#define EXAMHOOK_REHEARSE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/buf.h"

/* How many requests are under way at the most: below what the shipped site files let one address do, and
   what a program serves at once. Fewer where the limit of open files cannot be raised so far. */
#define REHEARSE_HTTP_MOST 1500
/* Bytes of an answer that are kept. */
#define REHEARSE_HTTP_REPLY 65536

struct rehearse_http;

struct rehearse_request {
    const char *path;
    const char *const *headers; /* "Name: value"; ends with NULL */
    const char *body;
    size_t len;
    int64_t timeout_ms;
};
struct rehearse_reply {
    long status;           /* 0: no answer, `trouble` says why */
    int64_t retry_after_s; /* -1: not said in seconds */
    const char *body;      /* NUL-terminated */
    size_t len;
    bool timed_out;
    bool refuses;        /* status 0: no connection, or no TLS with it: nothing will be answered there */
    const char *trouble; /* a sentence's part, NULL where there is an answer */
};
/* `reply` dies when the function returns. It may send. */
typedef void rehearse_http_fn(void *context, void *tag, const struct rehearse_reply *reply);

/* "https://host[:port]" with nothing behind. */
bool rehearse_http_base_ok(const char *base);
/* `ca_file` (PEM) NULL: the host's own authorities. NULL with `why`. */
struct rehearse_http *rehearse_http_new(const char *base, const char *ca_file, struct buf *why);
/* Takes NULL. Drops what is under way without a word. */
void rehearse_http_free(struct rehearse_http *http);
/* False: as many as can be are under way, or the machine gives no more. The texts are copied. */
bool rehearse_http_post(struct rehearse_http *http, const struct rehearse_request *request, void *tag);
/* Moves all on and hands out what ended; waits up to wait_ms where nothing has. */
void rehearse_http_step(struct rehearse_http *http, int64_t wait_ms, rehearse_http_fn *fn, void *context);
size_t rehearse_http_under_way(const struct rehearse_http *http);

#endif
