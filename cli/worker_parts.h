/*
 * What the two halves of the worker share; nobody else includes this.
 *
 *   worker.c        sessions are leased, fetched and written: the loop
 *   worker_login.c  accounts: tokens, logins, pauses
 *
 * What follows from a reply is decided in worker_rules.c, which needs none of it.
 */
#ifndef EXAMHOOK_WORKER_PARTS_H
#define EXAMHOOK_WORKER_PARTS_H

#include <stddef.h>

#include "worker.h"

/* What talview.c hands back: the first member of whatever was given as the tag. */
enum worker_tag { TAG_ACCOUNT, TAG_JOB };

struct worker_account {
    enum worker_tag tag;
    const struct config_proview *config;
    struct talview_account *target; /* NULL: not to be served */
    struct store_login login;       /* as stored, or newer where `unsaved` */
    bool unsaved;                   /* it could not be written yet */
    bool put;                       /* it was written in the round that runs */
    bool logging_in;
    size_t flying;          /* its transfers under way, without a login's */
    int64_t given_up_at_ms; /* obtained_at_ms of the failed login after which nothing is left to give up */
    int64_t refused_at_ms;  /* obtained_at_ms of the token that was refused last; 0: none */
    int64_t hold_until;     /* monotonic: nothing is fetched until then */
    unsigned trouble;       /* fetches in a row that failed for their host's sake */
};

struct job;

struct worker {
    const struct config *config;
    struct store *store;
    const struct worker_run *run;
    struct talview *talview;
    struct worker_account *accounts;
    size_t account_count, served_count; /* served: those with credentials */
    struct job **jobs;
    size_t job_count, job_cap;
    size_t flying;
    char **strangers; /* accounts that sessions have and the configuration has not */
    size_t stranger_count;
    char owner[64];
    int64_t lease_ms, max_ahead_ms;
    int64_t config_changed_ms;
    int64_t started_at, deadline; /* monotonic */
    int64_t next_look, last_round;
    int64_t gather_ms; /* results are waited for so long, to be written together */
    bool idle;         /* the last round found nothing to do */
    bool failing;      /* the store said no, and that was logged */
};

/* Whether nothing may be asked of Talview for this account now. */
bool worker_account_blocked(const struct worker *worker, const struct worker_account *account,
                            int64_t now_ms);
/* In a round: takes over the stored login, or writes ours where that could not be done yet. */
enum store_status worker_login_refresh(struct worker *worker, struct worker_account *account);
/* Ends a round, well (`commit`) or not, and knows then which logins are written. */
enum store_status worker_round_end(struct worker *worker, bool commit);
/* Writes what the login has become, which gives its lease back, in a round of its own. What cannot be written
   now is written in a later round. */
void worker_login_save(struct worker *worker, struct worker_account *account);
/* Logs in, if nobody else does and nothing speaks against it. */
void worker_login_begin(struct worker *worker, struct worker_account *account);
void worker_login_done(struct worker *worker, struct worker_account *account, struct talview_reply *reply);
/* Talview asks for rest: the account has it, and so that other workers and the next `--once` know, that is
   stored. */
void worker_account_pause(struct worker *worker, struct worker_account *account, int64_t retry_after_ms);
/* The token of that time was answered by 401 or 403. True: what it was used for may be tried once more, with
   the token that has replaced it or is to be got now. False: it is so young that another would fare no
   better.
 */
bool worker_token_refused(const struct worker *worker, struct worker_account *account,
                          int64_t obtained_at_ms);
/* That other token was good for what the first was refused for. */
void worker_token_proved(struct worker *worker, struct worker_account *account);
/* The worker ends, and its transfers are dropped. A login under way gives its lease back; `out_of_time`: and
   counts as failed, else each run of cron would begin one that none waits for. */
void worker_login_end(struct worker *worker, struct worker_account *account, bool out_of_time);

#endif
