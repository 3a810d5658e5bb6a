/*
 * What one check of a password costs on this machine, measured beside whatever runs on it: what `examhook
 * check` reckons with.
 */
#ifndef EXAMHOOK_CHECK_MEASURE_H
#define EXAMHOOK_CHECK_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

struct measure {
    int64_t us;       /* of a core's time; at least 1 */
    int busy_percent; /* of the time that went by meanwhile, what others had of the cores */
};

/*
 * Checks against `setting` on so many threads at once as there are to be in earnest, since they share caches
 * and memory; each for for_us of its core's time, or once where that takes longer. They run only when nothing
 * else wants the core (SCHED_IDLE). By until_us (CLOCK_MONOTONIC) it returns: false where no check was done
 * by then, or where crypt(3) would not.
 */
bool measure_check(const char *setting, int threads, int64_t for_us, int64_t until_us, struct measure *out);
/* The clock of until_us. */
int64_t measure_now_us(void);

#endif
