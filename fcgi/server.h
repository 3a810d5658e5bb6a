/*
 * The shared accept loop of the webhook programs. The only user of libfcgi.
 *
 * A route sees a request in up to three steps:
 *   check    no storage: method, declared length, secret, real length, JSON, members. Most refusals end here.
 *   store    inside the round that all ready requests share; a failed step is undone alone.
 *   resume   only after a password check that `store` asked for: in a later round.
 * The server commits the round and only then sends the replies; if the commit fails, every reply of that
 * round becomes 503 {"error":"not_stored"}. Under plain CGI the same steps run once, the password check in
 * place.
 */
#ifndef EXAMHOOK_SERVER_H
#define EXAMHOOK_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/buf.h"
#include "../common/config.h"
#include "../common/password.h"
#include "../common/store.h"

struct request {
    const char *method;      /* never NULL */
    const char *path;        /* PATH_INFO, or where that is empty REQUEST_URI up to `?`; never NULL */
    const char *remote_addr; /* never NULL */
    bool has_declared_length;
    int64_t declared_length; /* -1: not a number */
    struct buf body;         /* filled between `declared` and `check`, wiped at the end */
    bool body_complete;      /* false: shorter or longer than declared, or cut off */
    int64_t received_at_ms;  /* wall clock */
    int64_t deadline_ms;     /* monotonic: when a verification must have its answer */
    char id[17];             /* a random request id, for the log */
    const void *params;      /* server.c's own */
    void *route_data;        /* the route's own, freed by route->release */
};

/*
 * The value of an HTTP header by its CGI name ("HTTP_X_CLIENT_ID"), NULL when it was not sent. *repeated is
 * set when it was sent more than once, in either of the forms that web servers give that (twice, or joined by
 * a comma).
 */
const char *request_header(const struct request *request, const char *name, bool *repeated);

enum route_next {
    ROUTE_REPLY, /* the reply is decided */
    ROUTE_STORE, /* from check: go on to store */
    ROUTE_HASH   /* from store: *job is filled; come back by resume */
};

struct reply {
    int status;                             /* 0: not decided yet */
    struct buf body;                        /* JSON */
    const char *header_name, *header_value; /* one further header (Allow, Retry-After, ...); static text */
    const char *note; /* a stable word for the log, why it was refused; static text or NULL */
};
/* {"error": word}, with the member named where one is to blame (NULL: none). */
void reply_error(struct reply *reply, int status, const char *word, const char *member);
/* The same as a step's end. */
enum route_next reply_refuse(struct reply *reply, int status, const char *word);
/* What every route asks of the headers before it looks for a secret: 405 with Allow for anything but POST,
 * 400 for a length that is none, 413 for one over the limit. True: refused, the reply is decided. */
bool request_refuse_early(const struct request *request, int64_t body_limit_bytes, struct reply *reply);
/* 503 with Retry-After: the configuration is to blame. */
void reply_not_configured(struct reply *reply);
/* 503 with Retry-After for a store that said no; logs it. */
void reply_not_stored(struct reply *reply, struct store *store, enum store_status status);

/* What a password check needs and gives. Wiped by the server. */
struct hash_job {
    char setting[PASSWORD_HASH_BYTES];
    struct buf password;
    bool match;     /* the result; false when !done */
    bool done;      /* false: the time budget ended first, or the queue was full (no hash was computed) */
    int64_t wait_s; /* !done for load: when trying again makes sense, in seconds; 0: unknown */
    uint64_t who;   /* the same for whoever asks again, told from others by chance alone; 0: unknown */
};

struct route {
    const char *program; /* "examjoint" */
    enum config_role role;
    unsigned write_areas, read_areas;
    enum store_area area; /* the one a round writes */
    /* Headers only, before the body is looked at: method, declared length, secret. ROUTE_STORE means go on.
     */
    enum route_next (*declared)(void *state, struct request *request, struct reply *reply);
    /* The body is there: real length, JSON, members. */
    enum route_next (*check)(void *state, struct request *request, struct reply *reply);
    /* Whether `store` adds one event and writes nothing else: such a step costs less. NULL: never. */
    bool (*one_event)(const struct request *request);
    enum route_next (*store)(void *state, struct request *request, struct reply *reply, struct hash_job *job);
    /* NULL: no request of this route asks for a password check. */
    void (*resume)(void *state, struct request *request, struct reply *reply, const struct hash_job *job);
    /* Frees route_data, now that the reply is what it was answered with; may be NULL. */
    void (*release)(void *state, struct request *request, const struct reply *reply);
    /* Makes the state for a configuration and an open store; NULL with `why`. */
    void *(*open)(const struct config *config, struct store *store, struct buf *why);
    /* Reads what most requests do without. Called after `open` by who serves many; under plain CGI the route
     * does it when a request needs it. May be NULL; false with `why`. */
    bool (*prepare)(void *state, struct buf *why);
    void (*close)(void *state);
};

/* Runs a program: options, configuration, store, then CGI, an inherited listening socket or --socket PATH.
 * Returns its exit status. */
int server_main(const struct route *route, int argc, char **argv);

#endif
