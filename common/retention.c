#include "retention.h"

#include <time.h>

#include "clock.h"
#include "log.h"

/* Between two steps the intake comes first: a rest as long as the step was, and this. */
#define STEP_REST_MS 20
/* A step that found the lock taken is tried again after so long, once. */
#define FAILED_REST_MS 1000
#define DAY_MS (24 * INT64_C(3600000))
/* A host that was off for some days is nothing odd. */
#define BEHIND_ODD_MS (7 * DAY_MS)

int64_t retention_wait(const struct retention *retention, int64_t retention_ms)
{
    int64_t now = clock_monotonic_ms();
    if (retention_ms <= 0)
        return -1;
    return retention->next_at > now ? retention->next_at - now : 0;
}

void retention_end(struct retention *retention)
{
    store_sweep_free(retention->sweep);
    retention->sweep = NULL;
}

static void say(const struct store_purged *purged)
{
    if (purged->events + purged->callbacks + purged->sessions > 0)
        log_info("what is older than [store] retention was deleted", LOG_I("events", purged->events),
                 LOG_I("callbacks", purged->callbacks), LOG_I("sessions", purged->sessions));
    if (purged->behind_ms > BEHIND_ODD_MS)
        log_warn("the clock is far ahead of what was stored last: retention goes on by a day an hour",
                 LOG_I("days_ahead", (purged->behind_ms + DAY_MS - 1) / DAY_MS));
    if (purged->unsettled > 0)
        log_warn("bytes of what was deleted may remain, since somebody read all the time: examhook purge",
                 LOG_I("files", purged->unsettled));
}

static void end_well(struct retention *retention)
{
    struct store_purged purged = store_sweep_result(retention->sweep);
    say(&purged);
    retention_end(retention);
    retention->next_at = clock_monotonic_ms() + STORE_RETENTION_EVERY_MS;
}

void retention_step(struct retention *retention, struct store *store, int64_t retention_ms)
{
    int64_t began = clock_monotonic_ms();
    bool more = true;
    if (retention->sweep && retention->sweep_ms != retention_ms)
        retention_end(retention);
    if (retention_wait(retention, retention_ms) != 0)
        return;
    if (!retention->sweep) {
        struct store_sweep_rule rule = {.retention_ms = retention_ms, .now_ms = clock_now_ms()};
        retention->sweep = store_sweep_new(store, &rule);
        retention->sweep_ms = retention_ms;
        retention->tried = false;
    }
    enum store_status status = store_sweep_step(retention->sweep, &more);
    if (status != STORE_OK && !retention->tried) {
        retention->tried = true;
        retention->next_at = clock_monotonic_ms() + FAILED_REST_MS;
    } else if (status != STORE_OK) {
        log_warn("what is older than [store] retention was not all deleted",
                 LOG_S("store", store_status_word(status)), LOG_S("detail", store_message(store)));
        end_well(retention);
    } else if (!more) {
        end_well(retention);
    } else {
        retention->next_at = 2 * clock_monotonic_ms() - began + STEP_REST_MS;
    }
}

void retention_once(struct store *store, int64_t retention_ms, int64_t until)
{
    struct retention retention = RETENTION_INIT;
    while (clock_monotonic_ms() < until) {
        int64_t wait_ms = retention_wait(&retention, retention_ms);
        if (wait_ms < 0 || wait_ms > FAILED_REST_MS)
            break;
        struct timespec rest = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000};
        nanosleep(&rest, NULL);
        retention_step(&retention, store, retention_ms);
    }
    retention_end(&retention);
}
