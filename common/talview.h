/*
 * Talview's two endpoints, from our side: log in, GET a session. The only user of libcurl.
 *
 * Many transfers at once over kept connections (curl's multi interface), driven by whoever calls
 * talview_step(). Every reply is capped while it arrives, every wait has a limit, no redirect is followed, no
 * proxy of the environment is used, and nothing but https is spoken (http to a loopback address only).
 * A login reply is parsed and wiped: its text is never given out, kept or logged.
 *
 * The readers of replies and of Retry-After are pure: bytes in, a result out.
 */
#ifndef EXAMHOOK_TALVIEW_H
#define EXAMHOOK_TALVIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

#define TALVIEW_UUID_LEN 36
#define TALVIEW_TEXT_MAX 1024             /* bytes of one text in a session reply; longer is malformed */
#define TALVIEW_TOKEN_MAX 16384           /* bytes of an access token */
#define TALVIEW_HEADERS_MAX 32768         /* bytes of all headers of one reply */
#define TALVIEW_LOGIN_REPLY_MAX 65536     /* bytes */
#define TALVIEW_KEPT_MAX 4096             /* bytes of a reply that is kept because it makes no sense */
#define TALVIEW_EXPIRES_DEFAULT_S 10800   /* what the vendor's sample says */
#define TALVIEW_EXPIRES_MIN_S 60          /* `expires_in` is believed from here ... */
#define TALVIEW_EXPIRES_MAX_S (24 * 3600) /* ... to here: one of the vendor's pages prints an epoch in it */

enum talview_outcome {
    TALVIEW_OK = 0,
    TALVIEW_UNAUTHORIZED, /* 401; of a login also 400, and 200 with success: false */
    TALVIEW_FORBIDDEN,    /* 403: by the vendor's sister API also what an expired token gets */
    TALVIEW_NOT_FOUND,    /* 404 */
    TALVIEW_RATE_LIMITED, /* 429 */
    TALVIEW_REFUSED,      /* any other 3xx or 4xx; of a session also 200 with success: false */
    TALVIEW_SERVER_ERROR, /* 5xx */
    TALVIEW_TIMEOUT,
    TALVIEW_DNS,
    TALVIEW_CONNECT,
    TALVIEW_TLS,       /* no handshake, or a certificate that we do not trust */
    TALVIEW_CUT,       /* the connection ended within the reply */
    TALVIEW_TOO_LARGE, /* over the cap */
    TALVIEW_MALFORMED  /* a reply, but not the documented shape */
};
/* A stable word: "ok", "unauthorized", "forbidden", "not_found", "rate_limited", ... */
const char *talview_outcome_word(enum talview_outcome outcome);

/* --- Readers -------------------------------------------------------------------------------------------- */

/* What is read of a session reply; allocated texts, NULL for null or missing. */
struct talview_session {
    char *external_id;
    char *type;
    char *status;
    char *rating; /* final_rating as it came, "" included */
};
void talview_session_release(struct talview_session *session);
/* NULL when the text is the documented shape and about the session asked for (`uuid`, lower case), and *out
   is then the caller's. Else a stable word that says why not: json_error_word(), "success_false",
   "uuid_missing", "uuid_differs", "final_rating_type", "text_too_long", ... */
const char *talview_session_read(const char *text, size_t len, const char *uuid, struct talview_session *out);
/* Whether a final_rating is one: anything but NULL, "" and white space. */
bool talview_is_rating(const char *raw);
/* Its normal form: "high", "medium", "low", or "none" for anything else. */
const char *talview_rating_normal(const char *raw);

/* NULL when the text is a login's success: *token is allocated (wipe_free()), *lifetime_s what to believe of
   `expires_in`. Else a word as above. Nothing of the text is in the word. */
const char *talview_login_read(const char *text, size_t len, char **token, int64_t *lifetime_s);

/* A Retry-After value, seconds or an HTTP date, as a wait from `now_ms`; a date that is past gives 0. */
bool talview_retry_after(const char *value, size_t len, int64_t now_ms, int64_t *wait_ms);
/* https, or http to a loopback address; with a host, without user, query or fragment. */
bool talview_url_ok(const char *url);
/* Lower case, 8-4-4-4-12 hex digits. */
bool talview_uuid_ok(const char *uuid);
/* At most TALVIEW_KEPT_MAX bytes of a reply as valid UTF-8; `secrets` (each may be NULL) are blanked wherever
   a server echoes them, but for those shorter than TALVIEW_SECRET_MIN: they would blank half the text. */
#define TALVIEW_SECRETS 4
#define TALVIEW_SECRET_MIN 4
void talview_excerpt(const char *text, size_t len, const char *const secrets[TALVIEW_SECRETS],
                     struct buf *out);

/* --- Transfers ------------------------------------------------------------------------------------------ */

/* The host's bundle of certificate authorities: the file that SSL_CERT_FILE names, else libcurl's own, else
   the first of the usual places of Linux distributions that holds one. A text that lives on; NULL with `why`.
 */
const char *talview_authorities(struct buf *why);

struct talview;
struct talview_account;

struct talview_limits {
    size_t transfers_max; /* connections that are kept */
    int64_t connect_timeout_ms, request_timeout_ms;
    size_t reply_limit_bytes;
    const char *proxy; /* NULL: none, whatever the environment says */
};
/* Texts are not copied: they live as long as the engine. */
struct talview_target {
    const char *login_url;
    const char *session_url; /* "/UUID" is appended */
    const char *ca_file;     /* NULL; else authorities beside the host's own, not instead of them */
    const char *username, *password, *app_id;
};

/* NULL: libcurl could not be set up. One at a time in a process. */
struct talview *talview_new(const struct talview_limits *limits);
/* Drops what is under way without a word. */
void talview_free(struct talview *talview);
/* NULL with `why`: an address that is refused, a ca_file that cannot be read or holds no certificate, no
   authorities at all for an https address, an app_id that cannot stand in a header. Freed with the engine. */
struct talview_account *talview_account_add(struct talview *talview, const struct talview_target *target,
                                            struct buf *why);

struct talview_reply {
    enum talview_outcome outcome;
    long http_status;       /* 0: no reply */
    int64_t retry_after_ms; /* -1: not sent */
    char detail[128];       /* more about the outcome, printable ASCII, "" for nothing; never a secret */
    /* A session, TALVIEW_OK only. */
    struct talview_session session;
    struct buf kept; /* a session reply that is not the documented shape, as talview_excerpt() gives it */
    /* A login, TALVIEW_OK only. The callback may take the token by setting it to NULL. */
    char *token;
    int64_t lifetime_s;
};
/* `reply` is released when the function returns. It may start transfers. */
typedef void talview_done_fn(void *context, void *tag, struct talview_reply *reply);

/* False: not started (out of handles, a text that cannot stand in a header), and `tag` will not come back.
   A login is sent once; a session a second time where a kept connection ends without an answer. */
bool talview_login_start(struct talview *talview, const struct talview_account *account, void *tag);
bool talview_session_start(struct talview *talview, const struct talview_account *account, const char *uuid,
                           const char *token, void *tag);
/* Moves all transfers on and hands out those that ended; when none has, waits up to wait_ms for one, or until
   `wake_fd` (-1: none) can be read. Returns how many were handed out. */
size_t talview_step(struct talview *talview, int64_t wait_ms, int wake_fd, talview_done_fn *fn,
                    void *context);
/* Ends every transfer that is under way; no function is called for it. */
void talview_drop(struct talview *talview);

#endif
