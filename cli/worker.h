/*
 * The worker behind `examhook work`: takes due sessions with a lease, logs in, fetches them, stores what
 * came.
 *
 * The network is never waited for within a round: sessions are leased in one round, and the results of all
 * transfers that have ended by then are written in another.
 *
 * What follows from a reply is decided by pure functions (worker_decide, worker_login_failed, ...), so that a
 * table can test it.
 */
#ifndef EXAMHOOK_WORKER_H
#define EXAMHOOK_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "../common/config.h"
#include "../common/store.h"
#include "../common/talview.h"

#define WORKER_RETRY_AFTER_MAX_MS (6 * 3600 * 1000LL)  /* a longer Retry-After is not believed */
#define WORKER_YOUNG_TOKEN_MS (60 * 1000LL)            /* refused younger than this: no other login */
#define WORKER_LOGIN_BLOCK_MAX_MS (24 * 3600 * 1000LL) /* what the pause after wrong credentials grows to */

/* What a transfer gave, as far as it decides what happens next. */
struct worker_outcome {
    enum talview_outcome outcome;
    int64_t retry_after_ms; /* -1: none */
    const char *rating;     /* TALVIEW_OK: final_rating as it came, NULL for null or missing */
    const char *type;       /* TALVIEW_OK: of the reply, NULL where it has none */
};
struct worker_decision {
    const char *state;          /* "pending", "rated" or "parked" */
    int64_t next_attempt_at_ms; /* 0: none */
    const char *error;          /* a stable word, NULL: none */
    bool usable;                /* the reply had the documented shape */
};
/* `random` gives the jitter: an eighth of the wait up or down. */
struct worker_decision worker_decide(const struct config *config, int64_t now_ms,
                                     const struct store_lease *lease, const struct worker_outcome *outcome,
                                     uint32_t random);

/* How far in the future this configuration can put a deadline. */
int64_t worker_max_ahead_ms(const struct config *config);

/* How far in the future it can put the end of such a pause. */
int64_t worker_login_pause_max_ms(const struct config *config, const struct store_login *login);

/* Whether a stored token may be used now; it is given up shortly before it expires, and where the clock was
   put back or expires_at is further off than any lifetime that is believed. */
bool worker_token_usable(const struct store_login *login, int64_t now_ms);

/*
 * A login that failed, on top of what was stored: failures in a row, until when nobody logs in, and the error
 * word. Wrong credentials ("wrong_credentials") wait for login_pause, doubled at each further time, for an
 * account must not be locked by us; anything else backs off from retry_first up to login_pause.
 * after->token is NULL, after->error is allocated. The time that logins have been failing goes on being
 * counted.
 */
void worker_login_failed(const struct config *config, int64_t now_ms, const struct store_login *before,
                         enum talview_outcome outcome, int64_t retry_after_ms, struct store_login *after);
/*
 * Logins fail for failure_wait by now: what was due at this time and waited for is given up. 0: nothing is.
 * Only time spent failing counts, whatever it is that failed; what came when logins were failing already has
 * that time for itself.
 */
int64_t worker_login_gives_up(const struct config *config, const struct store_login *login);
#define WORKER_WRONG_CREDENTIALS "wrong_credentials"
#define WORKER_RATE_LIMITED "rate_limited"

struct worker_run {
    bool once;         /* do what is due, then return */
    int64_t budget_ms; /* once: return by then, giving back what is under way */
    int stop_fd;       /* readable: return at once, giving back what is under way; -1: none */
};
/* STORE_OK when it ended as asked. Anything else: the store could not be used for longer than it takes
   another writer to finish; store_message() says more. */
enum store_status worker_run(const struct config *config, struct store *store, const struct worker_run *run);

#endif
