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

#include "../common/clock.h"
#include "../common/log.h"

#define SLOTS_MAX 64
#define NICENESS 10
#define SLOT_POLL_NS 2000000
/* How long the end waits for checks that run. */
#define JOIN_WAIT_MS 300
/* What a check is taken to last before one was measured. */
#define FIRST_GUESS_US 100000

struct hash_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t threads[SLOTS_MAX];
    int thread_count;
    char *folder;
    int done_fd;
    atomic_bool stop; /* set under the lock */
    struct hash_task *queue, **queue_end;
    struct hash_task *done, **done_end;
    int64_t queued, running, queue_max;
    int64_t check_us; /* a moving average */
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
    if (!task)
        return;
    buf_release(&task->job.password);
    explicit_bzero(task, sizeof *task);
    free(task);
}

int hash_slots(int64_t threads)
{
    long n = threads > 0 ? (long)threads : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > SLOTS_MAX ? SLOTS_MAX : (int)n;
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
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void finish(struct hash_pool *pool, struct hash_task *task, int64_t took_us)
{
    const uint64_t one = 1;
    bool wanted;

    pthread_mutex_lock(&pool->lock);
    pool->running--;
    if (task->job.done)
        pool->check_us = (pool->check_us * 7 + took_us) / 8;
    wanted = task->owner != NULL;
    if (wanted) {
        task->next = NULL;
        *pool->done_end = task;
        pool->done_end = &task->next;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!wanted)
        hash_task_free(task);
    else if (write(pool->done_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_error("cannot wake the event loop", LOG_S("error", strerror(errno)));
}

static struct hash_task *next_task(struct hash_pool *pool)
{
    struct hash_task *task = NULL;
    pthread_mutex_lock(&pool->lock);
    while (!pool->queue && !pool->stop)
        pthread_cond_wait(&pool->wake, &pool->lock);
    if (!pool->stop)
        task = pool->queue;
    if (task) {
        pool->queue = task->next;
        if (!pool->queue)
            pool->queue_end = &pool->queue;
        pool->queued--;
        pool->running++;
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
    pool->queue_end = &pool->queue;
    pool->done_end = &pool->done;
    pool->folder = xstrdup(folder);
    pool->done_fd = done_fd;
    pool->queue_max = queue_max;
    pool->check_us = FIRST_GUESS_US;
    pool->thread_count = wanted;

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

static void free_list(struct hash_task *task)
{
    while (task) {
        struct hash_task *next = task->next;
        hash_task_free(task);
        task = next;
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
    free_list(pool->queue);
    free_list(pool->done);
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

bool hash_pool_add(struct hash_pool *pool, struct hash_task *task, int64_t *wait_s)
{
    bool added = false;
    pthread_mutex_lock(&pool->lock);
    int64_t ahead_us = (pool->queued + pool->running + 1) * pool->check_us / pool->thread_count;
    int64_t left_us = (task->deadline_ms - clock_monotonic_ms()) * 1000;
    if (pool->queued < pool->queue_max && (ahead_us <= left_us || pool->queued + pool->running == 0)) {
        task->next = NULL;
        *pool->queue_end = task;
        pool->queue_end = &task->next;
        pool->queued++;
        added = true;
        pthread_cond_signal(&pool->wake);
    } else {
        *wait_s = 1 + ahead_us / 1000000;
    }
    pthread_mutex_unlock(&pool->lock);
    return added;
}

struct hash_task *hash_pool_take(struct hash_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    struct hash_task *task = pool->done;
    if (task) {
        pool->done = task->next;
        if (!pool->done)
            pool->done_end = &pool->done;
    }
    pthread_mutex_unlock(&pool->lock);
    return task;
}

/* Takes the task out of a list; false when it is not in it. */
static bool unlink_task(struct hash_task **list, struct hash_task ***end, const struct hash_task *task)
{
    for (struct hash_task **at = list; *at; at = &(*at)->next) {
        if (*at != task)
            continue;
        *at = task->next;
        if (!*at)
            *end = at;
        return true;
    }
    return false;
}

void hash_pool_drop(struct hash_pool *pool, struct hash_task *task)
{
    bool ours;
    pthread_mutex_lock(&pool->lock);
    bool queued = unlink_task(&pool->queue, &pool->queue_end, task);
    if (queued)
        pool->queued--;
    ours = queued || unlink_task(&pool->done, &pool->done_end, task);
    if (!ours)
        task->owner = NULL; /* a thread has it and frees it */
    pthread_mutex_unlock(&pool->lock);
    if (ours)
        hash_task_free(task);
}
