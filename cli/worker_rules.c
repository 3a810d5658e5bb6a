/* What follows from a reply: the pure part of the worker. */
#include <string.h>

#include "worker.h"

#define HOUR_MS (3600 * 1000LL)
#define TOKEN_MARGIN_MAX_MS (5 * 60 * 1000LL)
/* A clock put right by seconds must not cost a login. */
#define CLOCK_SLACK_MS (60 * 1000LL)

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* first, doubled for each failure before, at most `max`. */
static int64_t backoff(int64_t first, int64_t max, int64_t failures)
{
    int64_t wait = most(first, 1);
    for (int64_t i = 0; i < failures && wait < max; i++)
        wait *= 2;
    return least(wait, most(max, 1));
}

/* The wait, an eighth up or down, so that what failed together does not come again together. */
static int64_t jittered(int64_t wait, uint32_t random)
{
    int64_t spread = wait / 4;
    return wait - spread / 2 + (spread > 0 ? (int64_t)random % spread : 0);
}

static int64_t believed_retry_after(int64_t retry_after_ms)
{
    return least(retry_after_ms, WORKER_RETRY_AFTER_MAX_MS);
}

static bool rated_by_humans(const char *type)
{
    return type && (strcmp(type, "record_and_review") == 0 || strcmp(type, "live_proctor") == 0);
}

/* A rating is there: look at it again until the window closes. */
static struct worker_decision watch(const struct config *config, int64_t now_ms,
                                    const struct store_lease *lease, uint32_t random)
{
    int64_t since = lease->first_rated_at_ms > 0 ? lease->first_rated_at_ms : now_ms;
    int64_t next = now_ms + jittered(config->watch_every_ms, random);
    return (struct worker_decision){
        .state = "rated",
        .next_attempt_at_ms = next < since + config->watch_window_ms ? next : 0,
        .usable = true,
    };
}

/* A good reply without a rating: ask again, each time about as long after as it is waiting already. A rating
   that was there and was taken back is waited for at least as long as it would have been watched. */
static struct worker_decision await_rating(const struct config *config, int64_t now_ms,
                                           const struct store_lease *lease, const char *type, uint32_t random)
{
    int64_t patience =
        rated_by_humans(type ? type : lease->type) ? config->rating_wait_human_ms : config->rating_wait_ms;
    int64_t until = lease->first_seen_at_ms + patience;
    if (lease->first_rated_at_ms > 0)
        until = most(until, lease->first_rated_at_ms + config->watch_window_ms);
    if (now_ms >= until)
        return (struct worker_decision){.state = "parked", .error = "no_rating", .usable = true};
    int64_t wait = most(now_ms - lease->first_seen_at_ms, config->retry_first_ms);
    wait = least(wait, most(config->retry_max_ms, 1));
    return (struct worker_decision){
        .state = "pending",
        .next_attempt_at_ms = least(now_ms + jittered(wait, random), until),
        .usable = true,
    };
}

/*
 * Whether it failed for long enough to give up. Only the time spent failing counts: a session that waited
 * days for its rating is not given up at the first failure, nor is any after the worker was down for days.
 */
static bool failed_for(const struct config *config, int64_t now_ms, const struct store_lease *lease,
                       int64_t patience_ms)
{
    if (now_ms - lease->first_seen_at_ms < patience_ms)
        return false;
    int64_t waited = 0;
    for (int64_t i = 0; i < lease->failures && waited < patience_ms; i++)
        waited += backoff(config->retry_first_ms, config->retry_max_ms, i);
    return waited >= patience_ms;
}

static struct worker_decision failed(const struct config *config, int64_t now_ms,
                                     const struct store_lease *lease, const struct worker_outcome *outcome,
                                     uint32_t random)
{
    int64_t wait = jittered(backoff(config->retry_first_ms, config->retry_max_ms, lease->failures), random);
    if (outcome->retry_after_ms >= 0) {
        /* Obeyed: the jitter only adds to it. */
        int64_t told = believed_retry_after(outcome->retry_after_ms);
        wait = most(wait, told + (int64_t)random % (told / 8 + 1));
    }
    struct worker_decision decision = {
        .state = "pending",
        .next_attempt_at_ms = now_ms + wait,
        .error = talview_outcome_word(outcome->outcome),
    };
    if (lease->first_rated_at_ms > 0 && talview_is_rating(lease->rating_raw)) {
        /* What is known stays known. */
        decision.state = "rated";
        if (decision.next_attempt_at_ms >= lease->first_rated_at_ms + config->watch_window_ms)
            decision.next_attempt_at_ms = 0;
        return decision;
    }
    int64_t patience =
        outcome->outcome == TALVIEW_NOT_FOUND ? config->not_found_wait_ms : config->failure_wait_ms;
    if (failed_for(config, now_ms, lease, patience)) {
        decision.state = "parked";
        decision.next_attempt_at_ms = 0;
    }
    return decision;
}

struct worker_decision worker_decide(const struct config *config, int64_t now_ms,
                                     const struct store_lease *lease, const struct worker_outcome *outcome,
                                     uint32_t random)
{
    if (outcome->outcome != TALVIEW_OK)
        return failed(config, now_ms, lease, outcome, random);
    if (talview_is_rating(outcome->rating))
        return watch(config, now_ms, lease, random);
    return await_rating(config, now_ms, lease, outcome->type, random);
}

int64_t worker_max_ahead_ms(const struct config *config)
{
    int64_t ahead = most(config->retry_max_ms, config->watch_every_ms);
    ahead = most(ahead, most(config->retry_first_ms, WORKER_RETRY_AFTER_MAX_MS));
    return ahead + ahead / 8 + HOUR_MS;
}

static bool wrong_credentials(const struct store_login *login)
{
    return login->error && strcmp(login->error, WORKER_WRONG_CREDENTIALS) == 0;
}

int64_t worker_login_pause_max_ms(const struct config *config, const struct store_login *login)
{
    int64_t longest = most(config->login_pause_ms, config->retry_first_ms);
    return most(longest, wrong_credentials(login) ? WORKER_LOGIN_BLOCK_MAX_MS : WORKER_RETRY_AFTER_MAX_MS);
}

bool worker_token_usable(const struct store_login *login, int64_t now_ms)
{
    int64_t lifetime = login->expires_at_ms - login->obtained_at_ms;
    if (!login->token || login->obtained_at_ms > now_ms + CLOCK_SLACK_MS ||
        lifetime > TALVIEW_EXPIRES_MAX_S * 1000LL)
        return false;
    return now_ms < login->expires_at_ms - least(TOKEN_MARGIN_MAX_MS, lifetime / 10);
}

/*
 * How long logins fail by now. The time since the last failure counts for little more than its pause: not the
 * days that the worker was off, nor a clock that was put forward. Where those make most of the time, the
 * count starts anew once it has served: for those who came late it would run too slowly.
 */
static void count_failing(const struct config *config, int64_t now_ms, const struct store_login *before,
                          struct store_login *after)
{
    int64_t from = before->failing_from_ms, spent = before->failing_ms;
    after->failing_from_ms = now_ms;
    if (from <= 0 || from > now_ms || spent < 0)
        return;
    int64_t pause =
        least(before->blocked_until_ms - before->obtained_at_ms, worker_login_pause_max_ms(config, before));
    int64_t most_ms = most(pause, 0) + most(pause, 0) / 4 + config->poll_ms;
    bool served = spent >= config->failure_wait_ms;
    spent += least(most(now_ms - before->obtained_at_ms, 0), most_ms);
    spent = least(spent, now_ms - from);
    if (served && now_ms - from - spent > config->failure_wait_ms)
        return;
    after->failing_from_ms = from;
    after->failing_ms = spent;
}

int64_t worker_login_gives_up(const struct config *config, const struct store_login *login)
{
    if (login->token || !login->error || login->failing_from_ms <= 0 ||
        login->failing_ms < config->failure_wait_ms)
        return 0;
    return login->failing_from_ms + (login->failing_ms - config->failure_wait_ms);
}

void worker_login_failed(const struct config *config, int64_t now_ms, const struct store_login *before,
                         enum talview_outcome outcome, int64_t retry_after_ms, struct store_login *after)
{
    bool wrong = outcome == TALVIEW_UNAUTHORIZED || outcome == TALVIEW_FORBIDDEN;
    bool was_wrong = wrong_credentials(before);
    int64_t earlier = before->error && was_wrong == wrong ? before->failures : 0;
    int64_t pause;
    if (wrong)
        pause =
            backoff(config->login_pause_ms, most(WORKER_LOGIN_BLOCK_MAX_MS, config->login_pause_ms), earlier);
    else
        pause =
            backoff(config->retry_first_ms, most(config->login_pause_ms, config->retry_first_ms), earlier);
    if (retry_after_ms >= 0)
        pause = most(pause, believed_retry_after(retry_after_ms));
    *after = (struct store_login){
        .obtained_at_ms = now_ms,
        .blocked_until_ms = now_ms + pause,
        .failures = earlier + 1,
        .error = xstrdup(wrong ? WORKER_WRONG_CREDENTIALS : talview_outcome_word(outcome)),
    };
    count_failing(config, now_ms, before, after);
}
