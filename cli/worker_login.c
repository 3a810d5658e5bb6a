/* The worker's accounts: their tokens, who logs in and when nobody does. */
#include <stdlib.h>
#include <string.h>

#include "worker_parts.h"
#include "../common/clock.h"
#include "../common/log.h"

#define LOGIN_HOLD_MS 500   /* another worker is logging in: look again after that */
#define PAUSE_SLACK_MS 1000 /* a pause that differs by less from the one there is is not written */

static bool changed_since(int64_t changed_ms, const struct store_login *login, int64_t now_ms)
{
    return changed_ms > login->obtained_at_ms && changed_ms <= now_ms;
}

/* Whether nothing may be asked of Talview for this account now. A pause after wrong credentials ends early
   when the configuration or a file of its secrets was changed after the last try: somebody has seen to it. A
   change in the future is not believed, else nothing would keep us from trying again and again until then. */
bool worker_account_blocked(const struct worker *worker, const struct worker_account *account, int64_t now_ms)
{
    const struct store_login *login = &account->login;
    if (account->hold_until > clock_monotonic_ms())
        return true;
    if (login->blocked_until_ms <= now_ms ||
        login->blocked_until_ms - now_ms > worker_login_pause_max_ms(worker->config, login))
        return false;
    bool wrong = login->error && strcmp(login->error, WORKER_WRONG_CREDENTIALS) == 0;
    return !(wrong && (changed_since(worker->config_changed_ms, login, now_ms) ||
                       changed_since(account->config->credentials_at_ms, login, now_ms)));
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
        account->hold_until = clock_monotonic_ms() + LOGIN_HOLD_MS;
    if (turn != LOGIN_OURS)
        return;
    account->logging_in = talview_login_start(worker->talview, account->target, account);
    if (!account->logging_in)
        login_failed(worker, account, TALVIEW_REFUSED, -1, "the request could not be built");
}

/* Of a login that went well, `failures` counts the tokens that were got because the one before was refused,
   until one of them proves good. Stored with the token, so that a new process, or cron's next, knows it too.
 */
static int64_t renewals_in_vain(const struct store_login *login)
{
    return !login->error || strcmp(login->error, WORKER_RATE_LIMITED) == 0 ? login->failures : 0;
}

/* How young a token must be to be kept though it was refused: the longer, the more were got in vain. */
static int64_t young_ms(const struct worker *worker, const struct store_login *login)
{
    int64_t young = WORKER_YOUNG_TOKEN_MS, longest = worker->config->login_pause_ms;
    for (int64_t i = 1; i < renewals_in_vain(login) && young < longest; i++)
        young = young * 2 < longest ? young * 2 : longest;
    return young;
}

void worker_login_done(struct worker *worker, struct worker_account *account, struct talview_reply *reply)
{
    account->logging_in = false;
    if (reply->outcome != TALVIEW_OK) {
        login_failed(worker, account, reply->outcome, reply->retry_after_ms, reply->detail);
        return;
    }
    int64_t now_ms = clock_now_ms();
    int64_t vain = renewals_in_vain(&account->login);
    bool renewal = account->refused_at_ms != 0 && account->login.obtained_at_ms == account->refused_at_ms;
    store_login_release(&account->login);
    account->login = (struct store_login){
        .token = reply->token,
        .obtained_at_ms = now_ms,
        .expires_at_ms = now_ms + reply->lifetime_s * 1000,
        .failures = renewal ? vain + 1 : 0,
    };
    reply->token = NULL;
    log_info("logged in", LOG_S("account", account->config->name), LOG_I("lifetime_s", reply->lifetime_s));
    worker_login_save(worker, account);
}

/* In a round: ours is as stored, and nobody else is logging in, so that it may be changed. */
static bool login_lock(struct worker *worker, struct worker_account *account)
{
    return worker_login_refresh(worker, account) == STORE_OK &&
           store_login_lease(worker->store, account->config->name, worker->owner, clock_now_ms(),
                             worker->lease_ms) == STORE_OK;
}

/* The account rests, and so that other workers and the next `--once` know it, that is stored. */
void worker_account_pause(struct worker *worker, struct worker_account *account, int64_t retry_after_ms)
{
    int64_t wait = retry_after_ms >= 0 ? retry_after_ms : worker->config->retry_first_ms;
    if (wait > WORKER_RETRY_AFTER_MAX_MS)
        wait = WORKER_RETRY_AFTER_MAX_MS;
    int64_t hold_until = clock_monotonic_ms() + wait, until = clock_now_ms() + wait;
    bool known = account->hold_until + PAUSE_SLACK_MS >= hold_until;
    if (hold_until > account->hold_until)
        account->hold_until = hold_until;
    if (known)
        return;
    log_warn("Talview asks us to slow down", LOG_S("account", account->config->name),
             LOG_I("pause_s", (wait + 999) / 1000));
    if (account->logging_in || store_round_begin(worker->store, STORE_RATINGS) != STORE_OK)
        return;
    bool ok = login_lock(worker, account);
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

bool worker_token_refused(const struct worker *worker, struct worker_account *account, int64_t obtained_at_ms)
{
    if (!account->login.token || account->login.obtained_at_ms != obtained_at_ms)
        return true;
    if (clock_now_ms() - obtained_at_ms < young_ms(worker, &account->login))
        return false;
    account->refused_at_ms = obtained_at_ms;
    wipe_free(account->login.token);
    account->login.token = NULL;
    return true;
}

void worker_token_proved(struct worker *worker, struct worker_account *account)
{
    if (!account->login.token || renewals_in_vain(&account->login) == 0 || account->logging_in ||
        store_round_begin(worker->store, STORE_RATINGS) != STORE_OK)
        return;
    bool ok = login_lock(worker, account) && renewals_in_vain(&account->login) > 0;
    if (ok) {
        account->login.failures = 0;
        account->unsaved = true;
        ok = worker_login_refresh(worker, account) == STORE_OK;
    }
    (void)worker_round_end(worker, ok);
}

void worker_login_end(struct worker *worker, struct worker_account *account, bool out_of_time)
{
    bool under_way = account->logging_in;
    account->logging_in = false;
    if (under_way && out_of_time)
        login_failed(worker, account, TALVIEW_TIMEOUT, -1, "the time was up");
    else if (under_way || account->unsaved)
        worker_login_save(worker, account);
}
