#include "check_measure.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../common/buf.h"
#include "../common/password.h"

/* Each takes the 16 MiB of a yescrypt. */
#define THREADS_MAX 16

/* What one thread found. */
struct found {
    int64_t us; /* the shortest check; 0: none yet */
    int64_t cpu_us, elapsed_us;
};

/* Whoever waits and its threads hold it together: a check that is begun cannot be broken off, so a thread
 * that gets no core may go on after nobody waits any more. */
struct bench {
    pthread_mutex_t lock; /* of all but the setting and for_us */
    pthread_cond_t ended;
    int holders, running;
    bool over;
    int64_t for_us;
    char setting[PASSWORD_HASH_BYTES];
    struct found found[THREADS_MAX];
};

/* What one thread is given. */
struct post {
    struct bench *bench;
    struct found *found;
};

static int64_t clock_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t measure_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

static struct bench *bench_new(const char *setting, int64_t for_us)
{
    struct bench *bench = xcalloc(1, sizeof *bench);
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&bench->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&bench->lock, NULL);
    memcpy(bench->setting, setting, strlen(setting) + 1);
    bench->for_us = for_us;
    bench->holders = 1;
    return bench;
}

/* Under its lock, which it lets go. */
static void let_go(struct bench *bench)
{
    bool last = --bench->holders == 0;
    pthread_mutex_unlock(&bench->lock);
    if (!last)
        return;
    pthread_cond_destroy(&bench->ended);
    pthread_mutex_destroy(&bench->lock);
    free(bench);
}

/* Of this thread alone: behind all others, the password checks of the web programs too. Where it is not
 * allowed it goes on as it is. */
static void step_back_entirely(void)
{
#ifdef SCHED_IDLE
    const struct sched_param none = {.sched_priority = 0};
    (void)sched_setscheduler(0, SCHED_IDLE, &none);
#endif
}

/* The processor's time and not that of the clock on the wall: a machine that is busy just now says the same.
 * The shortest counts: the first one warms up, and others on the machine only make it longer. */
static void *measure_here(void *argument)
{
    struct post *post = argument;
    struct bench *bench = post->bench;
    struct found *found = post->found;
    int64_t began_us, began_cpu_us, cpu_us;
    bool match, more = true;

    free(post);
    step_back_entirely();
    began_us = measure_now_us();
    began_cpu_us = cpu_us = clock_us(CLOCK_THREAD_CPUTIME_ID);
    while (more && password_check(bench->setting, "nobody's", 8, &match)) {
        int64_t before_us = cpu_us;
        cpu_us = clock_us(CLOCK_THREAD_CPUTIME_ID);
        int64_t took_us = cpu_us > before_us ? cpu_us - before_us : 1;
        pthread_mutex_lock(&bench->lock);
        if (found->us == 0 || took_us < found->us)
            found->us = took_us;
        found->cpu_us = cpu_us - began_cpu_us;
        found->elapsed_us = measure_now_us() - began_us;
        more = !bench->over && found->cpu_us + found->us < bench->for_us;
        pthread_mutex_unlock(&bench->lock);
    }
    pthread_mutex_lock(&bench->lock);
    if (--bench->running == 0)
        pthread_cond_signal(&bench->ended);
    let_go(bench);
    return NULL;
}

/* Under its lock. */
static bool start(struct bench *bench, struct found *found, pthread_t *thread)
{
    struct post *post = xcalloc(1, sizeof *post);
    *post = (struct post){.bench = bench, .found = found};
    if (pthread_create(thread, NULL, measure_here, post) != 0) {
        free(post);
        return false;
    }
    bench->holders++;
    bench->running++;
    return true;
}

/* Under its lock. */
static bool sum_up(const struct bench *bench, struct measure *out)
{
    int64_t us = 0, count = 0, cpu_us = 0, elapsed_us = 0;

    for (int i = 0; i < THREADS_MAX; i++) {
        us += bench->found[i].us;
        count += bench->found[i].us > 0;
        cpu_us += bench->found[i].cpu_us;
        elapsed_us += bench->found[i].elapsed_us;
    }
    if (count == 0)
        return false;
    out->us = us / count + 1;
    out->busy_percent = elapsed_us > cpu_us ? (int)((elapsed_us - cpu_us) * 100 / elapsed_us) : 0;
    return true;
}

bool measure_check(const char *setting, int threads, int64_t for_us, int64_t until_us, struct measure *out)
{
    const struct timespec until = {.tv_sec = (time_t)(until_us / 1000000),
                                   .tv_nsec = until_us % 1000000 * 1000};
    struct bench *bench;
    pthread_t thread[THREADS_MAX];
    int count = 0, error = 0;

    if (until_us <= measure_now_us())
        return false;
    bench = bench_new(setting, for_us);
    pthread_mutex_lock(&bench->lock);
    while (count < threads && count < THREADS_MAX && start(bench, &bench->found[count], &thread[count]))
        count++;
    while (bench->running > 0 && error == 0)
        error = pthread_cond_timedwait(&bench->ended, &bench->lock, &until);
    bench->over = true;
    bool all = bench->running == 0, measured = sum_up(bench, out);
    let_go(bench);
    for (int i = 0; i < count; i++) {
        if (all)
            pthread_join(thread[i], NULL);
        else
            pthread_detach(thread[i]);
    }
    return measured;
}
