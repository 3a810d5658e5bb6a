/* The worker's accounts: their tokens, who logs in and when nobody does. */
#include <stdlib.h>
#include <string.h>

#include "worker_parts.h"
#include "../common/clock.h"
#include "../common/log.h"

#define LOGIN_HOLD_MS 500   /* another worker is logging in: look again after that */
#define PAUSE_SLACK_MS 1000 /* a pause that differs by less from the one there is is not written */

/* Whether nothing may be asked of Talview for this account now. A pause after wrong credentials ends early
   when the configuration was changed after the last try: somebody has seen to it. */
bool worker_account_blocked(const struct worker *worker, const struct worker_account *account, int64_t now_ms)
{
    const struct store_login *login = &account->login;
    int64_t longest = WORKER_LOGIN_BLOCK_MAX_MS;
    if (worker->config->login_pause_ms > longest)
        longest = worker->config->login_pause_ms;
    if (account->hold_until_ms > now_ms && account->hold_until_ms - now_ms <= longest)
        return true;
    if (login->blocked_until_ms <= now_ms || login->blocked_until_ms - now_ms > longest)
        return false;
    bool wrong = login->error && strcmp(login->error, WORKER_WRONG_CREDENTIALS) == 0;
    return !(wrong && worker->config_changed_ms > login->obtained_at_ms);
}

/* Takes over what is stored, which another worker may have changed. */
static void login_adopt(struct worker_account *account, struct store_login *stored)
{
    store_login_release(&account->login);
    account->login = *stored;
    *stored = (struct store_login){0};
    if (account->login.token && account->login.obtained_at_ms == account->refused_at_ms) {
        wipe_free(account->login.token);
        account->login.token = NULL;
    }
}

/* In a round. */
enum store_status worker_login_refresh(struct worker *worker, struct worker_account *account)
{
    struct store_login stored = {0};
    if (account->unsaved) {
        account->put = true;
        return store_login_put(worker->store, account->config->name, &account->login);
    }
    enum store_status status = store_login_get(worker->store, account->config->name, &stored);
    if (status == STORE_OK)
        login_adopt(account, &stored);
    store_login_release(&stored);
    return status;
}

/* Ends a round, well (`commit`) or not, and knows then which logins are written. */
enum store_status worker_round_end(struct worker *worker, bool commit)
{
    enum store_status status = STORE_OK;
    if (commit)
        status = store_round_commit(worker->store);
    else
        store_round_abandon(worker->store);
    for (size_t i = 0; i < worker->account_count; i++) {
        struct worker_account *account = &worker->accounts[i];
        if (account->put && commit && status == STORE_OK)
            account->unsaved = false;
        account->put = false;
    }
    return status;
}

/* Writes what the account's login has become, in a round of its own. What cannot be written now is written in
   a later round. */
void worker_login_save(struct worker *worker, struct worker_account *account)
{
    account->unsaved = true;
    if (store_round_begin(worker->store, STORE_RATINGS) == STORE_OK)
        (void)worker_round_end(worker, worker_login_refresh(worker, account) == STORE_OK);
}

enum login_turn { LOGIN_OURS, LOGIN_THEIRS, LOGIN_THERE, LOGIN_FAILED };

/* In a round: whose turn it is to log in. */
static enum login_turn login_turn(struct worker *worker, struct worker_account *account, int64_t now_ms)
{
    if (worker_login_refresh(worker, account) != STORE_OK)
        return LOGIN_FAILED;
    if (worker_token_usable(&account->login, now_ms) || worker_account_blocked(worker, account, now_ms))
        return LOGIN_THERE;
    switch (
        store_login_lease(worker->store, account->config->name, worker->owner, now_ms, worker->lease_ms)) {
    case STORE_OK:
        return LOGIN_OURS;
    case STORE_BUSY:
        return LOGIN_THEIRS;
    default:
        return LOGIN_FAILED;
    }
}

static void login_failed(struct worker *worker, struct worker_account *account, enum talview_outcome outcome,
                         int64_t retry_after_ms, const char *detail)
{
    struct store_login after;
    int64_t now_ms = clock_now_ms();
    worker_login_failed(worker->config, now_ms, &account->login, outcome, retry_after_ms, &after);
    bool wrong = strcmp(after.error, WORKER_WRONG_CREDENTIALS) == 0;
    long long pause_s = (after.blocked_until_ms - now_ms + 999) / 1000;
    if (wrong)
        log_error("Talview refuses our username or password; no further login until the pause is over or "
                  "the configuration was changed and the worker restarted",
                  LOG_S("account", account->config->name), LOG_S("error", detail), LOG_I("pause_s", pause_s),
                  LOG_I("failures", after.failures));
    else
        log_warn("login failed", LOG_S("account", account->config->name), LOG_S("error", after.error),
                 LOG_S("detail", detail), LOG_I("pause_s", pause_s));
    store_login_release(&account->login);
    account->login = after;
    worker_login_save(worker, account);
}

void worker_login_begin(struct worker *worker, struct worker_account *account)
{
    int64_t now_ms = clock_now_ms();
    enum login_turn turn = LOGIN_FAILED;
    if (store_round_begin(worker->store, STORE_RATINGS) == STORE_OK) {
        turn = login_turn(worker, account, now_ms);
        bool go_on = turn == LOGIN_OURS || turn == LOGIN_THERE;
        if (worker_round_end(worker, go_on) != STORE_OK)
            turn = LOGIN_FAILED;
    }
    if (turn == LOGIN_FAILED || turn == LOGIN_THEIRS)
        account->hold_until_ms = now_ms + LOGIN_HOLD_MS;
    if (turn != LOGIN_OURS)
        return;
    account->logging_in = talview_login_start(worker->talview, account->target, account);
    if (!account->logging_in)
        login_failed(worker, account, TALVIEW_REFUSED, -1, "the request could not be built");
}

void worker_login_done(struct worker *worker, struct worker_account *account, struct talview_reply *reply)
{
    account->logging_in = false;
    if (reply->outcome != TALVIEW_OK) {
        login_failed(worker, account, reply->outcome, reply->retry_after_ms, reply->detail);
        return;
    }
    int64_t now_ms = clock_now_ms();
    store_login_release(&account->login);
    account->login = (struct store_login){
        .token = reply->token,
        .obtained_at_ms = now_ms,
        .expires_at_ms = now_ms + reply->lifetime_s * 1000,
    };
    reply->token = NULL;
    log_info("logged in", LOG_S("account", account->config->name), LOG_I("lifetime_s", reply->lifetime_s));
    worker_login_save(worker, account);
}

/* 429: the account rests, and so that other workers and the next `--once` know it, that is stored. */
void worker_account_pause(struct worker *worker, struct worker_account *account, int64_t retry_after_ms)
{
    int64_t wait = retry_after_ms >= 0 ? retry_after_ms : worker->config->retry_first_ms;
    if (wait > WORKER_RETRY_AFTER_MAX_MS)
        wait = WORKER_RETRY_AFTER_MAX_MS;
    int64_t now_ms = clock_now_ms();
    int64_t until = now_ms + wait;
    if (account->hold_until_ms + PAUSE_SLACK_MS >= until)
        return;
    account->hold_until_ms = until;
    log_warn("Talview asks us to slow down", LOG_S("account", account->config->name),
             LOG_I("pause_s", (wait + 999) / 1000));
    if (account->logging_in || store_round_begin(worker->store, STORE_RATINGS) != STORE_OK)
        return;
    bool ok = worker_login_refresh(worker, account) == STORE_OK &&
              store_login_lease(worker->store, account->config->name, worker->owner, now_ms,
                                worker->lease_ms) == STORE_OK;
    if (ok && account->login.blocked_until_ms < until) {
        free(account->login.error);
        account->login.error = xstrdup(WORKER_RATE_LIMITED);
        account->login.blocked_until_ms = until;
    }
    if (ok) {
        account->unsaved = true;
        ok = worker_login_refresh(worker, account) == STORE_OK;
    }
    (void)worker_round_end(worker, ok);
}

bool worker_token_refused(struct worker_account *account, int64_t obtained_at_ms)
{
    if (!account->login.token || account->login.obtained_at_ms != obtained_at_ms)
        return true;
    if (clock_now_ms() - obtained_at_ms < account->young_ms)
        return false;
    account->refused_at_ms = obtained_at_ms;
    wipe_free(account->login.token);
    account->login.token = NULL;
    return true;
}

/* A new token that is refused as well was got in vain: the next one in vain waits twice as long. */
void worker_learn_of_renewal(const struct worker *worker, struct worker_account *account, bool in_vain)
{
    if (!in_vain) {
        account->young_ms = WORKER_YOUNG_TOKEN_MS;
        return;
    }
    int64_t longest = worker->config->login_pause_ms;
    if (longest < WORKER_YOUNG_TOKEN_MS)
        longest = WORKER_YOUNG_TOKEN_MS;
    account->young_ms = account->young_ms * 2 < longest ? account->young_ms * 2 : longest;
}
