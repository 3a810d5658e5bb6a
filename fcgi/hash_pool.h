/*
 * The threads that check passwords: as many as there are cores, at lower priority, first come first served.
 * How many checks run at once is bounded over all processes by locked slot files, so that a second program
 * (or plain CGI, a process for each request) does not add to it.
 */
#ifndef EXAMHOOK_HASH_POOL_H
#define EXAMHOOK_HASH_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "server.h"

struct hash_pool;

/* Where the pool has a task; its own. */
enum hash_place { HASH_NOWHERE, HASH_PLACED, HASH_QUEUED, HASH_RUNNING, HASH_DONE };

/* A check on its way. The pool owns it from hash_pool_start() on; it comes back by hash_pool_take(). */
struct hash_task {
    struct hash_job job;
    int64_t deadline_ms; /* monotonic */
    void *owner;         /* whose it is; NULL: nobody waits any more (see hash_pool_drop) */
    int kind;            /* the pool's own: of the hash */
    enum hash_place place;
    TAILQ_ENTRY(hash_task) link;
};

struct hash_task *hash_task_new(void *owner, int64_t deadline_ms);
void hash_task_free(struct hash_task *task); /* wipes the password */

/* threads 0: one a usable core. `folder`: where the slot files are. done_fd: an eventfd that is written to
 * when a task is done. NULL: `why`. */
struct hash_pool *hash_pool_new(int threads, const char *folder, int64_t queue_max, int done_fd,
                                struct buf *why);
/* Waits a moment for the checks that run; one of a very dear hash is left to the end of the process. */
void hash_pool_free(struct hash_pool *pool);

/* Another bound of the queue, for whoever comes from now on. */
void hash_pool_set_queue(struct hash_pool *pool, int64_t queue_max);
/*
 * False: it would not be done before its deadline, or there is no room in the queue, or the caller has none
 * (`room`): job.wait_s says in how many seconds to come back, see turns.h. True: it has a place, which
 * hash_pool_start() or hash_pool_drop() takes; the task stays the caller's until then. A
 * place that was given is taken back, the latest first, when checks have become so slow that it was given in
 * vain: such a task comes back by hash_pool_take() at once, not done.
 */
bool hash_pool_place(struct hash_pool *pool, struct hash_task *task, bool room);
/* The check of a task that has a place. */
void hash_pool_start(struct hash_pool *pool, struct hash_task *task);
/* How long all those who have a place still take together. */
int64_t hash_pool_backlog_us(struct hash_pool *pool);
/* One that is done, NULL when there is none now. The caller frees it. */
struct hash_task *hash_pool_take(struct hash_pool *pool);
/* Nobody waits for this task any more: it is forgotten, or freed when its check ends. */
void hash_pool_drop(struct hash_pool *pool, struct hash_task *task);
/* The same for one whose time is over. Returns in its place one that is not done, the caller's, with when to
 * come back. */
struct hash_task *hash_pool_give_up(struct hash_pool *pool, struct hash_task *task);

/* The same check in place, for plain CGI: waits for a slot until the deadline. */
void hash_run_here(struct hash_job *job, int slots, const char *folder, int64_t deadline_ms);
/* How many checks at once: threads as configured, or the usable cores (cores.h). */
int hash_slots(int64_t threads);

#endif
