/*
 * A store that keeps the promise of common/store.h in memory, for one request at a time: what a round wrote
 * counts only once the round is committed, and a step that is not kept writes nothing. Any of its calls can
 * be told to fail.
 */
#ifndef EXAMHOOK_STORE_FAKE_H
#define EXAMHOOK_STORE_FAKE_H

#include "../../common/buf.h"
#include "../../common/store.h"

struct store {
    unsigned calls, fail_at; /* the fail_at-th call from now fails, from 1; 0: none */
    enum store_status fail_with;
    bool round, step;
    bool step_of_event;                     /* it adds one event and writes nothing else */
    bool kept;                              /* the last step was kept */
    struct buf step_rows, round_rows, rows; /* every text of a row, a line each; `rows` is committed */
    unsigned commits;
    unsigned attempts; /* counted and not taken back */
};

/* As after store_open(): nothing stored, nothing to fail. */
void store_fake_reset(struct store *store);

#endif
