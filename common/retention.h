/*
 * What is older than [store] retention goes by itself. Whoever writes a file of the store calls
 * retention_step() again and again, where nothing else waits: it begins a sweep (store_sweep_new()) at the
 * start and then once an hour, and does one short step of it at a call, with a rest between two.
 */
#ifndef EXAMHOOK_RETENTION_H
#define EXAMHOOK_RETENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "store.h"

struct retention {
    struct store_sweep *sweep; /* NULL: none is under way */
    int64_t sweep_ms;          /* the retention that it was begun with */
    int64_t next_at;           /* monotonic: the next sweep, or its next step */
    bool tried;                /* a step of this sweep failed */
};
#define RETENTION_INIT \
    {                  \
        .sweep = NULL  \
    }

/* How long until the next step, 0: now; -1: none is to come. `retention_ms` 0: nothing is ever deleted. */
int64_t retention_wait(const struct retention *retention, int64_t retention_ms);
/* The next step, if it is time for one. Says in the log what was deleted. */
void retention_step(struct retention *retention, struct store *store, int64_t retention_ms);
/* Ends it, whatever is under way. */
void retention_end(struct retention *retention);
/* All that is due now, until the monotonic time; for a program that does not live on. */
void retention_once(struct store *store, int64_t retention_ms, int64_t until);

#endif
