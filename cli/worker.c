/* The worker's loop: rounds of the store and transfers by turns, never one within the other. */
#include "worker_parts.h"

#include <limits.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/clock.h"
#include "../common/log.h"
#include "../common/retention.h"

#define INTAKE_STEP 8  /* callbacks taken in at a time ... */
#define INTAKE_MOST 96 /* ... up to so many in one round, ... */
#define INTAKE_MS 10   /* ... or until it has lasted for so long; ... */
#define BESIDE_MS 3    /* ... for so long where transfers are under way: their ends wait for the round's */
#define GATHER_MS 20   /* results are waited for so long at least, to be written together, ... */
#define GATHER_MOST_MS 100
#define GATHER_ROUNDS 3 /* ... or, on a slow disk, for so many times what the last round took */
#define TROUBLE 3       /* fetches in a row that failed for their host's sake: it is in trouble */
#define WRITE_TRIES 3   /* then a result is dropped, and the lease expires */
#define STOP_TRIES 3    /* rounds that try to give leases back at the end */

enum job_state { JOB_WAITING, JOB_FLYING, JOB_ENDED };

/* A leased session. */
struct job {
    enum worker_tag tag;
    enum job_state state;
    struct worker_account *account; /* NULL: none of that name is configured */
    char *account_name, *uuid, *was_state, *was_type, *was_rating;
    struct store_lease lease; /* points to the above */
    int64_t lease_until_ms;
    int64_t token_at_ms; /* obtained_at_ms of the token it was fetched with */
    bool again;          /* fetched a second time, with another token */
    int tries;           /* rounds that failed to write the result */
    struct store_session_result result;
    char *error, *reply;
    struct talview_session session;
};

/* --- Jobs ----------------------------------------------------------------------------------------------- */

static void job_free(struct job *job)
{
    free(job->account_name);
    free(job->uuid);
    free(job->was_state);
    free(job->was_type);
    free(job->was_rating);
    free(job->error);
    free(job->reply);
    talview_session_release(&job->session);
    free(job);
}

static struct worker_account *account_named(struct worker *worker, const char *name)
{
    for (size_t i = 0; i < worker->account_count; i++) {
        if (strcmp(worker->accounts[i].config->name, name) == 0)
            return &worker->accounts[i];
    }
    return NULL;
}

/* The session's job that has not ended: the results of those that have are written before any is leased. */
static struct job *job_of(const struct worker *worker, const struct store_lease *lease)
{
    for (size_t i = 0; i < worker->job_count; i++) {
        struct job *job = worker->jobs[i];
        if (job->state != JOB_ENDED && strcmp(job->uuid, lease->session_uuid) == 0 &&
            strcmp(job->account_name, lease->account) == 0)
            return job;
    }
    return NULL;
}

/* store_lease_fn. One that we have already has only run out: the clock was put forward. */
static void take_job(void *context, const struct store_lease *lease)
{
    struct worker *worker = context;
    struct job *ours = job_of(worker, lease);
    if (ours) {
        ours->lease_until_ms = clock_now_ms() + worker->lease_ms;
        return;
    }
    struct job *job = xcalloc(1, sizeof(*job));
    job->tag = TAG_JOB;
    job->account = account_named(worker, lease->account);
    job->account_name = xstrdup(lease->account);
    job->uuid = xstrdup(lease->session_uuid);
    job->was_state = xstrdup(lease->state);
    job->was_type = xstrdup(lease->type);
    job->was_rating = xstrdup(lease->rating_raw);
    job->lease = *lease;
    job->lease.account = job->account_name;
    job->lease.session_uuid = job->uuid;
    job->lease.state = job->was_state;
    job->lease.type = job->was_type;
    job->lease.rating_raw = job->was_rating;
    job->lease_until_ms = clock_now_ms() + worker->lease_ms;
    if (worker->job_count == worker->job_cap) {
        worker->job_cap = worker->job_cap ? worker->job_cap * 2 : 32;
        worker->jobs = xrealloc(worker->jobs, worker->job_cap * sizeof(struct job *));
    }
    worker->jobs[worker->job_count++] = job;
}

static char *error_text(const char *word, const char *detail)
{
    struct buf text = BUF_INIT;
    buf_adds(&text, word);
    if (detail[0])
        buf_addf(&text, ": %s", detail);
    char *copy = xstrdup(buf_str(&text));
    buf_release(&text);
    return copy;
}

static void job_end(struct worker *worker, struct job *job, const struct worker_decision *decision,
                    bool counts)
{
    job->state = JOB_ENDED;
    job->result = (struct store_session_result){
        .account = job->account_name,
        .session_uuid = job->uuid,
        .owner = worker->owner,
        .at_ms = clock_now_ms(),
        .state = decision->state,
        .next_attempt_at_ms = decision->next_attempt_at_ms,
        .usable = decision->usable,
        .error = job->error,
        .reply = job->reply,
        .counts = counts,
    };
    if (decision->usable) {
        job->result.external_id = job->session.external_id;
        job->result.rating = talview_rating_normal(job->session.rating);
        job->result.rating_raw = job->session.rating;
        job->result.status = job->session.status;
        job->result.type = job->session.type;
    }
}

/* The lease is given back and the session is as it was; where logging in is what fails, its error says so. */
static void job_put_back(struct worker *worker, struct job *job)
{
    const struct worker_decision as_it_was = {.state = job->lease.state};
    const struct store_login *login = job->account ? &job->account->login : NULL;
    /* Where logins do not fail, it was a fetch that was told to slow down. */
    bool rests =
        login && !login->failing_from_ms && login->error && strcmp(login->error, WORKER_RATE_LIMITED) == 0;
    if (login && login->error && !rests && !job->error)
        job->error = error_text("login", login->error);
    job_end(worker, job, &as_it_was, false);
}

/* --- Transfers that ended ------------------------------------------------------------------------------- */

/* 401 or 403: true when the session is to be fetched once more with another token. */
static bool job_again(const struct worker *worker, struct job *job)
{
    if (job->again || !worker_token_refused(worker, job->account, job->token_at_ms))
        return false;
    job->again = true;
    job->state = JOB_WAITING;
    return true;
}

static void log_session(const struct job *job, const struct worker_decision *decision)
{
    if (strcmp(decision->state, "parked") == 0)
        log_warn("session parked", LOG_S("account", job->account_name), LOG_S("session", job->uuid),
                 LOG_S("reason", job->error));
    else if (decision->error)
        log_warn("session not fetched", LOG_S("account", job->account_name), LOG_S("session", job->uuid),
                 LOG_S("error", job->error), LOG_I("failures", job->lease.failures + 1));
    else if (decision->usable)
        log_debug("session fetched", LOG_S("account", job->account_name), LOG_S("session", job->uuid),
                  LOG_S("rating", talview_rating_normal(job->session.rating)));
}

static bool hosts_fault(enum talview_outcome outcome)
{
    switch (outcome) {
    case TALVIEW_SERVER_ERROR:
    case TALVIEW_TIMEOUT:
    case TALVIEW_DNS:
    case TALVIEW_CONNECT:
    case TALVIEW_TLS:
    case TALVIEW_CUT:
        return true;
    default:
        return false;
    }
}

static void session_done(struct worker *worker, struct job *job, struct talview_reply *reply)
{
    struct worker_account *account = job->account;
    bool refused = reply->outcome == TALVIEW_UNAUTHORIZED || reply->outcome == TALVIEW_FORBIDDEN;
    worker->flying--;
    account->flying--;
    if (refused && job_again(worker, job))
        return;
    if (job->again && !refused)
        worker_token_proved(worker, account);
    account->trouble = hosts_fault(reply->outcome) ? account->trouble + 1 : 0;
    /* With Retry-After a 503 speaks of the service, not of the one session. */
    if (reply->outcome == TALVIEW_RATE_LIMITED || (reply->http_status == 503 && reply->retry_after_ms > 0))
        worker_account_pause(worker, account, reply->retry_after_ms);

    job->session = reply->session;
    reply->session = (struct talview_session){0};
    const struct worker_outcome outcome = {
        .outcome = reply->outcome,
        .retry_after_ms = reply->retry_after_ms,
        .rating = job->session.rating,
        .type = job->session.type,
    };
    struct worker_decision decision =
        worker_decide(worker->config, clock_now_ms(), &job->lease, &outcome, randombytes_random());
    if (decision.error)
        job->error = error_text(decision.error, reply->detail);
    if (reply->kept.len > 0)
        job->reply = xstrdup(buf_str(&reply->kept));
    job_end(worker, job, &decision, true);
    log_session(job, &decision);
}

/* talview_done_fn */
static void on_done(void *context, void *tag, struct talview_reply *reply)
{
    if (*(enum worker_tag *)tag == TAG_ACCOUNT)
        worker_login_done(context, tag, reply);
    else
        session_done(context, tag, reply);
}

/* --- Starting transfers --------------------------------------------------------------------------------- */

/*
 * How many transfers the account may have at a time. Where there are several, none has them all, and one
 * whose host is in trouble has few: a backlog of sessions that each wait for a time-out would hold up all
 * others.
 */
static size_t transfers_of(const struct worker *worker, const struct worker_account *account)
{
    size_t most = (size_t)worker->config->transfers_max;
    if (worker->served_count > 1) {
        most = account->trouble >= TROUBLE ? most / 8 : most - most / 4;
        most = most > 0 ? most : 1;
    }
    return most;
}

static void job_fly(struct worker *worker, struct job *job)
{
    if (worker->flying >= (size_t)worker->config->transfers_max ||
        job->account->flying >= transfers_of(worker, job->account))
        return;
    job->token_at_ms = job->account->login.obtained_at_ms;
    if (!talview_session_start(worker->talview, job->account->target, job->uuid, job->account->login.token,
                               job)) {
        log_error("a request could not be built", LOG_S("account", job->account_name),
                  LOG_S("session", job->uuid));
        job_put_back(worker, job);
        return;
    }
    job->state = JOB_FLYING;
    worker->flying++;
    job->account->flying++;
}

static void job_advance(struct worker *worker, struct job *job)
{
    struct worker_account *account = job->account;
    int64_t now_ms = clock_now_ms();
    int64_t left_ms = job->lease_until_ms - now_ms;
    /* A transfer that may outlive the lease could end beside another worker's for the same session. */
    bool in_time = left_ms >= worker->config->request_timeout_ms && left_ms <= worker->lease_ms;
    if (!account || !account->target || !in_time || worker_account_blocked(worker, account, now_ms)) {
        job_put_back(worker, job);
        return;
    }
    if (account->logging_in)
        return;
    if (!worker_token_usable(&account->login, now_ms)) {
        worker_login_begin(worker, account);
        if (account->logging_in)
            return;
        now_ms = clock_now_ms();
        if (worker_account_blocked(worker, account, now_ms) ||
            !worker_token_usable(&account->login, now_ms)) {
            job_put_back(worker, job);
            return;
        }
    }
    job_fly(worker, job);
}

static void start_waiting(struct worker *worker)
{
    for (size_t i = 0; i < worker->job_count; i++) {
        if (worker->jobs[i]->state == JOB_WAITING)
            job_advance(worker, worker->jobs[i]);
    }
}

/* --- Rounds --------------------------------------------------------------------------------------------- */

static size_t jobs_in(const struct worker *worker, enum job_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < worker->job_count; i++)
        n += worker->jobs[i]->state == state;
    return n;
}

/* Waits for nothing but a transfer's end. Those that wait for a login leave room for other accounts' (and
   their account is left alone meanwhile). */
static bool is_ready(const struct job *job)
{
    return job->state == JOB_WAITING && !(job->account && job->account->logging_in);
}

/* How many sessions may be leased: as many again as may be under way, so that a transfer that ends is
   followed by another at once, and not after the next round's commit. */
static size_t room(const struct worker *worker)
{
    size_t taken = worker->flying, most = 2 * (size_t)worker->config->transfers_max;
    for (size_t i = 0; i < worker->job_count; i++)
        taken += is_ready(worker->jobs[i]);
    return taken < most ? most - taken : 0;
}

/* Too few are at hand to wait with the next round until there are results to write. */
static bool runs_dry(const struct worker *worker)
{
    size_t most = (size_t)worker->config->transfers_max, enough = (most + 1) / 2, at_hand = 0;
    bool full = worker->flying >= most;
    for (size_t i = 0; i < worker->job_count && at_hand < enough; i++) {
        const struct job *job = worker->jobs[i];
        at_hand += is_ready(job) &&
                   (full || (job->account && job->account->flying < transfers_of(worker, job->account)));
    }
    return at_hand < enough && room(worker) > 0;
}

static void note_strangers(struct worker *worker)
{
    for (size_t i = 0; i < worker->job_count; i++) {
        const struct job *job = worker->jobs[i];
        bool known = job->account != NULL;
        for (size_t k = 0; k < worker->stranger_count && !known; k++)
            known = strcmp(worker->strangers[k], job->account_name) == 0;
        if (known)
            continue;
        log_warn("sessions of an account that is not configured are left alone",
                 LOG_S("account", job->account_name));
        worker->strangers =
            xrealloc(worker->strangers, (worker->stranger_count + 1) * sizeof(*worker->strangers));
        worker->strangers[worker->stranger_count++] = xstrdup(job->account_name);
    }
}

/* In a round: the results of all transfers that ended. */
static enum store_status write_results(struct worker *worker)
{
    for (size_t i = 0; i < worker->job_count; i++) {
        struct job *job = worker->jobs[i];
        if (job->state != JOB_ENDED)
            continue;
        enum store_status status = store_session_done(worker->store, &job->result);
        if (status == STORE_LOST || status == STORE_ABSENT)
            log_warn("a lease was lost before its result was written", LOG_S("account", job->account_name),
                     LOG_S("session", job->uuid));
        else if (status != STORE_OK)
            return status;
    }
    return STORE_OK;
}

/* The account's sessions that are leased and not done with. */
static size_t open_jobs(const struct worker *worker, const struct worker_account *account)
{
    size_t n = 0;
    for (size_t i = 0; i < worker->job_count; i++)
        n += worker->jobs[i]->account == account && worker->jobs[i]->state != JOB_ENDED;
    return n;
}

/* How many more of the account's sessions may be leased. */
static size_t share(const struct worker *worker, const struct worker_account *account)
{
    size_t most = 2 * transfers_of(worker, account), has = open_jobs(worker, account);
    return has < most ? most - has : 0;
}

/* In a round: new sessions, as many as there is room for. */
static enum store_status lease_sessions(struct worker *worker, size_t *taken)
{
    int64_t now_ms = clock_now_ms();
    const char **skip = xcalloc(worker->account_count + worker->stranger_count + 1, sizeof(*skip));
    size_t n = 0;
    for (size_t i = 0; i < worker->stranger_count; i++)
        skip[n++] = worker->strangers[i];
    size_t most = room(worker);
    enum store_status status = STORE_OK;
    for (size_t i = 0; i < worker->account_count && status == STORE_OK; i++) {
        struct worker_account *account = &worker->accounts[i];
        if (account->target && !account->logging_in)
            status = worker_login_refresh(worker, account);
        size_t left = share(worker, account);
        if (!account->target || account->logging_in || left == 0 ||
            worker_account_blocked(worker, account, now_ms))
            skip[n++] = account->config->name;
        else if (left < most)
            most = left; /* they may all be this account's */
    }
    if (status == STORE_OK && most > 0)
        status = store_sessions_lease(worker->store, now_ms, worker->owner, worker->lease_ms,
                                      worker->max_ahead_ms, skip, most, take_job, worker, taken);
    free(skip);
    return status;
}

/* In a round: some of an account's sessions that waited for its login for too long. */
static enum store_status give_up_some(struct worker *worker, const struct worker_account *account,
                                      int64_t *count)
{
    int64_t now_ms = clock_now_ms();
    char *error = error_text("login", account->login.error);
    const struct store_given_up given_up = {
        .account = account->config->name,
        .waiting_since_ms = worker_login_gives_up(worker->config, &account->login),
        .rated_by_ms = now_ms - worker->config->watch_window_ms,
        .error = error,
        .now_ms = now_ms,
        .lease_ms = worker->lease_ms,
        .max_ahead_ms = worker->max_ahead_ms,
    };
    enum store_status status = store_sessions_give_up(worker->store, &given_up, count);
    if (status == STORE_OK && *count > 0)
        log_warn("sessions parked", LOG_S("account", account->config->name), LOG_S("reason", error),
                 LOG_I("sessions", *count));
    free(error);
    return status;
}

/* In a round, after the leasing, which has refreshed the logins. Only while the account pauses: once the
   pause is over, another login comes first. */
static enum store_status give_up_waiting(struct worker *worker, size_t *given_up)
{
    enum store_status status = STORE_OK;
    for (size_t i = 0; i < worker->account_count && status == STORE_OK; i++) {
        struct worker_account *account = &worker->accounts[i];
        int64_t count = 0;
        if (!account->target || account->logging_in || open_jobs(worker, account) > 0 ||
            account->given_up_at_ms == account->login.obtained_at_ms ||
            worker_login_gives_up(worker->config, &account->login) == 0 ||
            !worker_account_blocked(worker, account, clock_now_ms()))
            continue;
        status = give_up_some(worker, account, &count);
        if (status == STORE_OK && count == 0)
            account->given_up_at_ms = account->login.obtained_at_ms;
        *given_up += (size_t)count;
    }
    return status;
}

/* In a round: callbacks that came. The entries of a session lie scattered over the file, so that what one
   costs depends on how many there are and on the disk; a number alone would not keep a round short. */
static enum store_status take_callbacks_in(struct worker *worker, int64_t began, size_t *taken_in)
{
    enum store_status status = STORE_OK;
    size_t step = INTAKE_STEP;
    int64_t most_ms = worker->flying > 0 ? BESIDE_MS : INTAKE_MS;
    *taken_in = 0;
    while (status == STORE_OK && step == INTAKE_STEP && *taken_in < INTAKE_MOST) {
        if (*taken_in > 0 && clock_monotonic_ms() - began >= most_ms)
            break;
        status = store_sessions_intake(worker->store, clock_now_ms(), worker->config->fetches_session_hour,
                                       INTAKE_STEP, &step);
        *taken_in += step;
    }
    return status;
}

static enum store_status round_steps(struct worker *worker, bool stopping, size_t *found)
{
    size_t taken_in = 0, leased = 0, given_up = 0;
    int64_t began = clock_monotonic_ms();
    enum store_status status = write_results(worker);
    if (stopping || status != STORE_OK)
        return status;
    status = take_callbacks_in(worker, began, &taken_in);
    if (status == STORE_OK)
        status = lease_sessions(worker, &leased);
    if (status == STORE_OK)
        status = give_up_waiting(worker, &given_up);
    *found = taken_in + leased + given_up;
    return status;
}

/* After a round: frees what was written, or, where it failed, what was leased in it (from `old` on) and what
   was tried too often. */
static void clear_jobs(struct worker *worker, bool written, size_t old)
{
    size_t kept = 0;
    for (size_t i = 0; i < worker->job_count; i++) {
        struct job *job = worker->jobs[i];
        bool ended = job->state == JOB_ENDED;
        if (ended && !written)
            job->tries++;
        bool gone = (ended && (written || job->tries >= WRITE_TRIES)) || (!written && i >= old);
        if (gone)
            job_free(job);
        else
            worker->jobs[kept++] = job;
    }
    worker->job_count = kept;
}

/* Nothing is sent or received while a round lasts, so that rounds are to be the smaller part of the time. */
static int64_t gather_time(int64_t round_ms)
{
    int64_t ms = GATHER_ROUNDS * round_ms;
    if (ms > GATHER_MOST_MS)
        return GATHER_MOST_MS;
    return ms > GATHER_MS ? ms : GATHER_MS;
}

static enum store_status do_round(struct worker *worker, bool stopping)
{
    size_t old = worker->job_count, found = 0;
    int64_t began = clock_monotonic_ms();
    enum store_status status = store_round_begin(worker->store, STORE_RATINGS);
    if (status == STORE_OK) {
        status = round_steps(worker, stopping, &found);
        enum store_status ended = worker_round_end(worker, status == STORE_OK);
        if (status == STORE_OK)
            status = ended;
    }
    if (status != STORE_OK && !worker->failing)
        log_error("the store cannot be written", LOG_S("status", store_status_word(status)),
                  LOG_S("reason", store_message(worker->store)));
    worker->failing = status != STORE_OK;
    clear_jobs(worker, status == STORE_OK, old);
    note_strangers(worker);
    worker->last_round = clock_monotonic_ms();
    worker->gather_ms = gather_time(worker->last_round - began);
    worker->idle = found == 0;
    return status;
}

/* --- The loop ------------------------------------------------------------------------------------------- */

static bool stop_wanted(const struct worker *worker)
{
    struct pollfd fd = {.fd = worker->run->stop_fd, .events = POLLIN};
    return (worker->run->stop_fd >= 0 && poll(&fd, 1, 0) > 0) || clock_monotonic_ms() >= worker->deadline;
}

/* When to look at the store next, after a look that found nothing or an error. */
static int64_t later_look(struct worker *worker)
{
    int64_t now_ms = clock_now_ms(), at_ms = 0;
    int64_t wait = worker->config->poll_ms;
    if (!worker->failing &&
        store_sessions_next(worker->store, now_ms, worker->lease_ms, worker->max_ahead_ms, &at_ms) ==
            STORE_OK &&
        at_ms > now_ms && at_ms - now_ms < wait)
        wait = at_ms - now_ms;
    return clock_monotonic_ms() + wait;
}

/* Whether the store has anything to do, asked without its lock. */
static bool anything_due(struct worker *worker)
{
    int64_t now_ms = clock_now_ms(), at_ms;
    enum store_status status =
        store_sessions_next(worker->store, now_ms, worker->lease_ms, worker->max_ahead_ms, &at_ms);
    return status != STORE_OK || (at_ms != 0 && at_ms <= now_ms);
}

/* A round if it is time for one. Only a failed one that --once cannot wait for is an error here. */
static enum store_status look(struct worker *worker)
{
    int64_t now = clock_monotonic_ms();
    size_t ended = jobs_in(worker, JOB_ENDED);
    bool write = ended > 0 && (now >= worker->last_round + worker->gather_ms || worker->flying == 0);
    if (worker->failing)
        write = write && now >= worker->next_look;
    if (!write) {
        if (now < worker->next_look || !runs_dry(worker))
            return STORE_OK;
        if (!worker->run->once && !anything_due(worker)) {
            worker->next_look = later_look(worker);
            return STORE_OK;
        }
    }
    enum store_status status = do_round(worker, false);
    worker->next_look = worker->idle || worker->failing ? later_look(worker) : 0;
    return worker->run->once ? status : STORE_OK;
}

static bool logging_in(const struct worker *worker)
{
    for (size_t i = 0; i < worker->account_count; i++) {
        if (worker->accounts[i].logging_in)
            return true;
    }
    return false;
}

static int64_t wait_time(const struct worker *worker)
{
    int64_t now = clock_monotonic_ms();
    int64_t written = worker->last_round + worker->gather_ms;
    if (jobs_in(worker, JOB_ENDED) > 0 && !worker->failing)
        return worker->flying > 0 && written > now ? written - now : 0;
    /* With enough at hand the next round comes with a transfer's end, which ends the wait by itself. */
    int64_t until = runs_dry(worker) || worker->failing ? worker->next_look : now + worker->config->poll_ms;
    if (worker->deadline < until)
        until = worker->deadline;
    return until > now ? until - now : 0;
}

/* What is under way is dropped, its leases and that of a login given back. */
static void wind_up(struct worker *worker)
{
    bool out_of_time = clock_monotonic_ms() >= worker->deadline;
    talview_drop(worker->talview);
    for (size_t i = 0; i < worker->account_count; i++)
        worker_login_end(worker, &worker->accounts[i], out_of_time);
    for (size_t i = 0; i < worker->job_count; i++) {
        if (worker->jobs[i]->state != JOB_ENDED)
            job_put_back(worker, worker->jobs[i]);
    }
    worker->flying = 0;
    for (int i = 0; i < STOP_TRIES && worker->job_count > 0; i++)
        (void)do_round(worker, true);
}

/* --once leaves it to who called: it may delete more than the worker. */
static void delete_old(struct worker *worker, struct retention *retention)
{
    if (!worker->run->once)
        retention_step(retention, worker->store, worker->config->retention_ms);
}

static int64_t wait_or_delete(const struct worker *worker, const struct retention *retention)
{
    int64_t wait = wait_time(worker);
    int64_t old = worker->run->once ? -1 : retention_wait(retention, worker->config->retention_ms);
    return old >= 0 && old < wait ? old : wait;
}

static enum store_status loop(struct worker *worker)
{
    struct retention retention = RETENTION_INIT;
    enum store_status status = STORE_OK;
    while (status == STORE_OK && !stop_wanted(worker)) {
        status = look(worker);
        start_waiting(worker);
        if (worker->run->once && worker->idle && worker->job_count == 0 && !logging_in(worker))
            break;
        delete_old(worker, &retention);
        talview_step(worker->talview, wait_or_delete(worker, &retention), worker->run->stop_fd, on_done,
                     worker);
    }
    retention_end(&retention);
    wind_up(worker);
    return status;
}

/* --- Setting up ----------------------------------------------------------------------------------------- */

static void account_open(struct worker *worker, struct worker_account *account,
                         const struct config_proview *config)
{
    struct buf why = BUF_INIT;
    account->tag = TAG_ACCOUNT;
    account->config = config;
    if (!config->username && !config->password && !config->app_id) {
        log_warn("no Talview credentials are configured: this account's sessions are left alone",
                 LOG_S("account", config->name));
        return;
    }
    const struct talview_target target = {
        .login_url = config->login_url,
        .session_url = config->session_url,
        .ca_file = config->ca_file,
        .username = config->username,
        .password = config->password,
        .app_id = config->app_id,
    };
    account->target = talview_account_add(worker->talview, &target, &why);
    if (account->target)
        worker->served_count++;
    else
        log_error("this account cannot be served: its sessions are left alone",
                  LOG_S("account", config->name), LOG_S("reason", buf_str(&why)));
    buf_release(&why);
}

static void worker_open(struct worker *worker)
{
    const struct config *config = worker->config;
    char host[HOST_NAME_MAX + 1] = "";
    unsigned char random[8];
    char hex[2 * sizeof(random) + 1];
    gethostname(host, sizeof(host) - 1);
    randombytes_buf(random, sizeof(random));
    sodium_bin2hex(hex, sizeof(hex), random, sizeof(random));
    struct buf owner = BUF_INIT;
    buf_addf(&owner, "%.20s-%ld-%s", host, (long)getpid(), hex);
    memcpy(worker->owner, buf_str(&owner),
           owner.len < sizeof(worker->owner) ? owner.len : sizeof(worker->owner) - 1);
    buf_release(&owner);

    /* A lease must bear a login and a fetch. */
    int64_t least_ms = 2 * config->request_timeout_ms + 2000;
    worker->lease_ms = config->lease_ms > least_ms ? config->lease_ms : least_ms;
    worker->max_ahead_ms = worker_max_ahead_ms(config);
    struct stat st;
    if (config->path && stat(config->path, &st) == 0)
        worker->config_changed_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    worker->started_at = clock_monotonic_ms();
    worker->deadline = worker->run->once ? worker->started_at + worker->run->budget_ms : INT64_MAX;
    worker->accounts = xcalloc(config->proview_count + 1, sizeof(*worker->accounts));
    worker->account_count = config->proview_count;
    for (size_t i = 0; i < config->proview_count; i++)
        account_open(worker, &worker->accounts[i], &config->proview[i]);
}

static void worker_close(struct worker *worker)
{
    for (size_t i = 0; i < worker->job_count; i++)
        job_free(worker->jobs[i]);
    free(worker->jobs);
    for (size_t i = 0; i < worker->account_count; i++)
        store_login_release(&worker->accounts[i].login);
    free(worker->accounts);
    for (size_t i = 0; i < worker->stranger_count; i++)
        free(worker->strangers[i]);
    free(worker->strangers);
    talview_free(worker->talview);
}

enum store_status worker_run(const struct config *config, struct store *store, const struct worker_run *run)
{
    struct worker worker = {.config = config, .store = store, .run = run};
    const struct talview_limits limits = {
        .transfers_max = (size_t)config->transfers_max,
        .connect_timeout_ms = config->connect_timeout_ms,
        .request_timeout_ms = config->request_timeout_ms,
        .reply_limit_bytes = (size_t)config->reply_limit_bytes,
        .proxy = config->proxy,
    };
    if (sodium_init() < 0 || !(worker.talview = talview_new(&limits))) {
        log_error("the worker cannot start", LOG_S("reason", "libcurl or libsodium could not be set up"));
        return STORE_ERROR;
    }
    worker_open(&worker);
    enum store_status status = loop(&worker);
    worker_close(&worker);
    return status;
}
