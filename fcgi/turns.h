/*
 * Whose turn it is when more candidates come than can be checked: who may wait, and when those who may not
 * are told to come back. Only arithmetic, from what a check of each kind was measured to take; no clock, no
 * thread, no lock.
 *
 *   a place   is given to whoever will be done well before the deadline, as all ahead of it now add up.
 *   a return  is booked for whoever gets none: for when the queue will have drained to its half, and so that
 *             those told come back as fast as they can be checked, not all in one second. Whoever comes back
 *             by then goes before those who come for the first time. Asking again earlier changes nothing.
 */
#ifndef EXAMHOOK_TURNS_H
#define EXAMHOOK_TURNS_H

#include <stdbool.h>
#include <stdint.h>

#define TURNS_KINDS 8 /* of hashes whose costs are told apart */

struct turns_kind {
    char class_text[32];
    int64_t us;   /* what one check takes: a guess, then a moving average */
    int measured; /* how often; counted to the length of the average */
    int64_t here; /* how many of them wait or are being checked */
};
struct turns_return;
struct turns {
    int threads;
    struct turns_kind kinds[TURNS_KINDS];
    int kind_count;
    int64_t here;             /* of all kinds */
    int64_t returns_until_us; /* so far returns are booked */
    struct turns_return *returns;
};

/* All times are microseconds of a clock that never goes back. */
void turns_init(struct turns *turns, int threads);
void turns_release(struct turns *turns);

/* The kind of a hash or setting; kinds beyond TURNS_KINDS share the last. */
int turns_kind(struct turns *turns, const char *setting);
void turns_measured(struct turns *turns, int kind, int64_t took_us);

/* True: it has a place, until turns_leave(). `who`: see struct hash_job. `most`: how many may be here. */
bool turns_enter(struct turns *turns, int kind, uint64_t who, int64_t now_us, int64_t left_us, int64_t most);
void turns_leave(struct turns *turns, int kind);
/* Until all who are here are done. */
int64_t turns_backlog_us(const struct turns *turns);
/* Whether the last one in the queue cannot be done in time any more. */
bool turns_too_late(const struct turns *turns, int kind, int64_t left_us);
/* In how many seconds whoever gets no place should come back: at least 1. */
int64_t turns_return(struct turns *turns, int kind, uint64_t who, int64_t now_us);

#endif
