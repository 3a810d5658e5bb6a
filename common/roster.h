/*
 * Who may sit an exam. Pure decisions over what a request sent and what the roster holds; the store does the
 * finding.
 */
#ifndef EXAMHOOK_ROSTER_H
#define EXAMHOOK_ROSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "config.h"
#include "store.h"

enum roster_verdict {
    ROSTER_VALID = 0,
    ROSTER_UNKNOWN,        /* nobody, or the password is wrong: one answer for both */
    ROSTER_OTHER_EXAM,     /* right candidate, not this exam */
    ROSTER_NOT_OPEN,       /* the window opens later */
    ROSTER_CLOSED,         /* the window is over */
    ROSTER_FIELDS_MAPPING, /* a mapped position was not sent, or the exam has no mapping */
    ROSTER_THROTTLED,
    ROSTER_BUSY /* our time budget ended or the queue is full */
};
/* A stable word, as stored in an event's `reason`: "", "unknown", "other_exam", ... */
const char *roster_verdict_word(enum roster_verdict verdict);

/* What a lookup found, reduced to what the answer needs. Owns its texts. */
struct roster_match {
    bool found; /* exactly one candidate */
    char *id;
    char *password_hash; /* NULL: none */
    bool this_exam;      /* a line for this exam, or for any */
    int64_t opens_ms, closes_ms;
    struct buf metadata; /* the reply's metadata object; empty when there is none */
};
void roster_match_release(struct roster_match *match);

/*
 * Finds the candidate by all identity columns. Several lines of one candidate: the line for this exam wins
 * over the one for any exam, that over another exam's. Lines of different candidates: not found.
 */
enum store_status roster_find(struct store *store, const char *account, const char *exam,
                              const struct roster_key *keys, size_t key_count, struct roster_match *match);
/* The verdict once the password is known to be right (or none is asked for). */
enum roster_verdict roster_decide(const struct roster_match *match, int64_t now_ms);

#endif
