#include "hash_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <sodium.h>

#include "../common/clock.h"
#include "../common/cores.h"
#include "../common/log.h"
#include "turns.h"

#define SLOTS_MAX 64
#define NICENESS 10
#define SLOT_POLL_NS 2000000
/* How long the end waits for checks that run. */
#define JOIN_WAIT_MS 300
/* Under plain CGI nobody knows how many wait: who found no slot is told to come back after 5 to 25 s. */
#define RETURN_HERE_S 5
#define RETURN_HERE_SPREAD_S 21

TAILQ_HEAD(task_list, hash_task);

struct hash_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t threads[SLOTS_MAX];
    int thread_count;
    char *folder;
    int done_fd;
    atomic_bool stop; /* set under the lock */
    struct task_list queue, done;
    int64_t queue_max;
    int64_t placed; /* how many have a place and are not in the queue yet */
    struct turns turns;
};

struct worker_start {
    struct hash_pool *pool;
    int number;
};

struct hash_task *hash_task_new(void *owner, int64_t deadline_ms)
{
    struct hash_task *task = xcalloc(1, sizeof *task);
    task->owner = owner;
    task->deadline_ms = deadline_ms;
    return task;
}

void hash_task_free(struct hash_task *task)
{
    buf_release(&task->job.password);
    explicit_bzero(task, sizeof *task);
    free(task);
}

int hash_slots(int64_t threads)
{
    int64_t n = threads > 0 ? threads : cores_usable();
    return n > SLOTS_MAX ? SLOTS_MAX : (int)n;
}

static int slot_open(const char *folder, int number)
{
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s/hash-slot-%d", folder, number);
    int fd = open(buf_str(&path), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    buf_release(&path);
    return fd;
}

/*
 * Takes one of the slots, the one of this number first. Returns its descriptor; -1 when the deadline passed
 * or *stop (NULL: none) was set: other processes may hold the slots for longer than ours may take to end.
 * Where the slots cannot be opened at all, checking goes on without: a candidate at the door counts more than
 * the bound.
 */
static int slot_take(const char *folder, int slots, int first, int64_t deadline_ms, const atomic_bool *stop,
                     bool *unbounded)
{
    struct timespec pause = {0, SLOT_POLL_NS};
    *unbounded = false;
    for (;;) {
        int opened = 0;
        for (int i = 0; i < slots; i++) {
            int fd = slot_open(folder, (first + i) % slots);
            if (fd < 0)
                continue;
            opened++;
            if (flock(fd, LOCK_EX | LOCK_NB) == 0)
                return fd;
            close(fd);
        }
        if (!opened) {
            *unbounded = true;
            return -1;
        }
        if (clock_monotonic_ms() >= deadline_ms || (stop && atomic_load(stop)))
            return -1;
        nanosleep(&pause, NULL);
    }
}

static void run(struct hash_job *job, const char *folder, int slots, int first, int64_t deadline_ms,
                const atomic_bool *stop)
{
    bool unbounded;
    int slot = slot_take(folder, slots, first, deadline_ms, stop, &unbounded);
    if (slot < 0 && !unbounded)
        return;
    bool match;
    job->done = password_check(job->setting, buf_str(&job->password), job->password.len, &match);
    job->match = job->done && match;
    if (!job->done)
        log_error("a password could not be checked: there is no memory for its hash",
                  LOG_S("wanted", "16 MiB each for yescrypt"));
    if (slot >= 0)
        close(slot);
}

struct here {
    struct hash_job *job;
    int slots;
    const char *folder;
    int64_t deadline_ms;
};

/* On Linux the niceness belongs to the thread: 0 is the calling one. */
static void lower_priority(void)
{
    if (setpriority(PRIO_PROCESS, 0, NICENESS) != 0)
        log_warn("cannot lower the priority of password checks", LOG_S("error", strerror(errno)));
}

static void *run_here(void *argument)
{
    const struct here *here = argument;
    lower_priority();
    run(here->job, here->folder, here->slots, (int)(getpid() % here->slots), here->deadline_ms, NULL);
    return NULL;
}

void hash_run_here(struct hash_job *job, int slots, const char *folder, int64_t deadline_ms)
{
    struct here here = {job, slots, folder, deadline_ms};
    pthread_t thread;
    /* A thread of its own: priority once lowered cannot be raised, and the commit that follows holds a lock.
     */
    if (pthread_create(&thread, NULL, run_here, &here) == 0)
        pthread_join(thread, NULL);
    else
        run(job, folder, slots, (int)(getpid() % slots), deadline_ms, NULL);
    if (!job->done)
        job->wait_s = RETURN_HERE_S + (int64_t)randombytes_uniform(RETURN_HERE_SPREAD_S);
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void wake_the_loop(const struct hash_pool *pool)
{
    const uint64_t one = 1;
    if (write(pool->done_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_error("cannot wake the event loop", LOG_S("error", strerror(errno)));
}

/* Under the lock, as all below that takes a task or a list. */
static void leave_queue(struct hash_pool *pool, struct hash_task *task)
{
    TAILQ_REMOVE(&pool->queue, task, link);
    task->place = HASH_NOWHERE;
}

static void to_done(struct hash_pool *pool, struct hash_task *task)
{
    TAILQ_INSERT_TAIL(&pool->done, task, link);
    task->place = HASH_DONE;
}

static void leave_done(struct hash_pool *pool, struct hash_task *task)
{
    TAILQ_REMOVE(&pool->done, task, link);
    task->place = HASH_NOWHERE;
}

static void put_off(struct hash_pool *pool, struct hash_task *task, int64_t at_us)
{
    task->job.wait_s = turns_return(&pool->turns, task->kind, task->job.who, at_us);
}

/* Those who came last, while they cannot be done in time any more: told so now rather than at their deadline.
 */
static void refuse_the_hopeless(struct hash_pool *pool, int64_t at_us)
{
    struct hash_task *last;
    /* Those who have a place and are not in the queue yet count, and will stand behind it. */
    if (pool->placed > 0)
        return;
    while ((last = TAILQ_LAST(&pool->queue, task_list)) &&
           turns_too_late(&pool->turns, last->kind, last->deadline_ms * 1000 - at_us)) {
        leave_queue(pool, last);
        turns_leave(&pool->turns, last->kind);
        put_off(pool, last, at_us);
        to_done(pool, last);
    }
}

static void finish(struct hash_pool *pool, struct hash_task *task, int64_t took_us)
{
    bool wanted;

    pthread_mutex_lock(&pool->lock);
    turns_leave(&pool->turns, task->kind);
    if (task->job.done)
        turns_measured(&pool->turns, task->kind, took_us);
    else
        put_off(pool, task, now_us());
    wanted = task->owner != NULL;
    if (wanted)
        to_done(pool, task);
    refuse_the_hopeless(pool, now_us());
    bool some = !TAILQ_EMPTY(&pool->done);
    pthread_mutex_unlock(&pool->lock);
    if (!wanted)
        hash_task_free(task);
    if (some)
        wake_the_loop(pool);
}

static struct hash_task *next_task(struct hash_pool *pool)
{
    struct hash_task *task = NULL;
    pthread_mutex_lock(&pool->lock);
    while (TAILQ_EMPTY(&pool->queue) && !pool->stop)
        pthread_cond_wait(&pool->wake, &pool->lock);
    if (!pool->stop)
        task = TAILQ_FIRST(&pool->queue);
    if (task) {
        leave_queue(pool, task);
        task->place = HASH_RUNNING;
    }
    pthread_mutex_unlock(&pool->lock);
    return task;
}

static void *worker(void *argument)
{
    struct worker_start start = *(struct worker_start *)argument;
    struct hash_task *task;

    free(argument);
    lower_priority();
    while ((task = next_task(start.pool))) {
        int64_t began = now_us();
        if (clock_monotonic_ms() < task->deadline_ms)
            run(&task->job, start.pool->folder, start.pool->thread_count, start.number, task->deadline_ms,
                &start.pool->stop);
        finish(start.pool, task, now_us() - began);
    }
    return NULL;
}

struct hash_pool *hash_pool_new(int threads, const char *folder, int64_t queue_max, int done_fd,
                                struct buf *why)
{
    struct hash_pool *pool = xcalloc(1, sizeof *pool);
    int wanted = hash_slots(threads);
    sigset_t all, old;

    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    TAILQ_INIT(&pool->queue);
    TAILQ_INIT(&pool->done);
    pool->folder = xstrdup(folder);
    pool->done_fd = done_fd;
    pool->queue_max = queue_max;
    pool->thread_count = wanted;
    turns_init(&pool->turns, wanted);

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < wanted; i++) {
        struct worker_start *start = xcalloc(1, sizeof *start);
        *start = (struct worker_start){pool, i};
        int error = pthread_create(&pool->threads[i], NULL, worker, start);
        if (error) {
            free(start);
            pool->thread_count = i;
            buf_addf(why, "cannot start a thread for password checks: %s", strerror(error));
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pool->thread_count < wanted) {
        hash_pool_free(pool);
        return NULL;
    }
    return pool;
}

static void free_list(struct task_list *list)
{
    struct hash_task *task;
    while ((task = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, task, link);
        hash_task_free(task);
    }
}

static bool join_all(struct hash_pool *pool)
{
    struct timespec until;
    bool all = true;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += JOIN_WAIT_MS / 1000;
    until.tv_nsec += JOIN_WAIT_MS % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    for (int i = 0; i < pool->thread_count; i++)
        all = pthread_timedjoin_np(pool->threads[i], NULL, &until) == 0 && all;
    return all;
}

void hash_pool_free(struct hash_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    if (!join_all(pool))
        return; /* a thread still uses it; the process is about to end */
    free_list(&pool->queue);
    free_list(&pool->done);
    turns_release(&pool->turns);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    free(pool->folder);
    free(pool);
}

void hash_pool_set_queue(struct hash_pool *pool, int64_t queue_max)
{
    pthread_mutex_lock(&pool->lock);
    pool->queue_max = queue_max;
    pthread_mutex_unlock(&pool->lock);
}

bool hash_pool_place(struct hash_pool *pool, struct hash_task *task, bool room)
{
    int64_t at_us = now_us();
    pthread_mutex_lock(&pool->lock);
    task->kind = turns_kind(&pool->turns, task->job.setting);
    bool placed = room && turns_enter(&pool->turns, task->kind, task->job.who, at_us,
                                      task->deadline_ms * 1000 - at_us, pool->queue_max + pool->thread_count);
    if (placed) {
        task->place = HASH_PLACED;
        pool->placed++;
    } else {
        put_off(pool, task, at_us);
    }
    pthread_mutex_unlock(&pool->lock);
    return placed;
}

void hash_pool_start(struct hash_pool *pool, struct hash_task *task)
{
    pthread_mutex_lock(&pool->lock);
    pool->placed--;
    task->place = HASH_QUEUED;
    TAILQ_INSERT_TAIL(&pool->queue, task, link);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

int64_t hash_pool_backlog_us(struct hash_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    int64_t us = turns_backlog_us(&pool->turns);
    pthread_mutex_unlock(&pool->lock);
    return us;
}

struct hash_task *hash_pool_take(struct hash_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct hash_task *task = TAILQ_FIRST(&pool->done);
    if (task)
        leave_done(pool, task);
    pthread_mutex_unlock(&pool->lock);
    return task;
}

/* True: nobody else has it, free it. Else a thread has it, and frees it. */
static bool forget(struct hash_pool *pool, struct hash_task *task)
{
    switch (task->place) {
    case HASH_PLACED:
        pool->placed--;
        turns_leave(&pool->turns, task->kind);
        break;
    case HASH_QUEUED:
        leave_queue(pool, task);
        turns_leave(&pool->turns, task->kind);
        return true;
    case HASH_RUNNING:
        task->owner = NULL;
        return false;
    case HASH_DONE:
        leave_done(pool, task);
        break;
    case HASH_NOWHERE:
        break;
    }
    return true;
}

void hash_pool_drop(struct hash_pool *pool, struct hash_task *task)
{
    pthread_mutex_lock(&pool->lock);
    bool ours = forget(pool, task);
    pthread_mutex_unlock(&pool->lock);
    if (ours)
        hash_task_free(task);
}

struct hash_task *hash_pool_give_up(struct hash_pool *pool, struct hash_task *task)
{
    struct hash_task *instead = hash_task_new(task->owner, task->deadline_ms);
    pthread_mutex_lock(&pool->lock);
    instead->job.who = task->job.who;
    instead->kind = task->kind;
    put_off(pool, instead, now_us());
    bool ours = forget(pool, task);
    pthread_mutex_unlock(&pool->lock);
    if (ours)
        hash_task_free(task);
    return instead;
}
