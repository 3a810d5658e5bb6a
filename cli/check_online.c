#include <string.h>

#include "check.h"
#include "../common/clock.h"
#include "../common/talview.h"

struct attempt {
    struct check_report *report;
    const char *name;
    bool done;
};

static void judge(void *context, void *tag, struct talview_reply *reply)
{
    struct attempt *attempt = tag;

    (void)context;
    attempt->done = true;
    switch (reply->outcome) {
    case TALVIEW_OK:
        check_line(attempt->report, CHECK_OK, "Talview", NULL, "accepted the login of [proview %s]",
                   attempt->name);
        break;
    case TALVIEW_UNAUTHORIZED:
    case TALVIEW_FORBIDDEN:
    case TALVIEW_REFUSED:
        check_line(attempt->report, CHECK_FAILED, "Talview",
                   "mend username and password; too many tries may lock the account",
                   "refused the login of [proview %s] (HTTP %ld)", attempt->name, reply->http_status);
        break;
    default:
        check_line(attempt->report, CHECK_FAILED, "Talview",
                   "look at the network, login_url, ca_file, and Talview's status",
                   "the login of [proview %s] failed: %s%s%s", attempt->name,
                   talview_outcome_word(reply->outcome), reply->detail[0] ? ": " : "", reply->detail);
    }
}

/* Whether the worker waits after wrong credentials: one login more could lock the account. */
static bool paused(struct check_report *report, const struct config *config, const char *name)
{
    struct store *store;
    struct store_login login = {0};
    struct buf why = BUF_INIT;
    char until[CLOCK_TEXT_BYTES];
    bool waits = false;

    if (!store_open(config->store_url, 0, STORE_RATINGS, config->lock_wait_ms, &store, &why)) {
        if (!store_login_get(store, name, &login) && login.blocked_until_ms > clock_now_ms()) {
            waits = true;
            check_line(report, CHECK_WARNING, "Talview", "mend the credentials if they are wrong, then wait",
                       "no login was tried for [proview %s]: the worker pauses until %s (%s)", name,
                       clock_format(login.blocked_until_ms, until), login.error ? login.error : "failed");
        }
        store_login_release(&login);
        store_free(store);
    }
    buf_release(&why);
    return waits;
}

static void try_login(struct check_report *report, struct talview *talview, const struct config *config,
                      const struct config_proview *proview)
{
    struct talview_target target = {.login_url = proview->login_url,
                                    .session_url = proview->session_url,
                                    .ca_file = proview->ca_file,
                                    .username = proview->username,
                                    .password = proview->password,
                                    .app_id = proview->app_id};
    struct attempt attempt = {report, proview->name, false};
    struct talview_account *account;
    struct buf why = BUF_INIT;
    int64_t end = clock_monotonic_ms() + config->connect_timeout_ms + config->request_timeout_ms;

    if (!proview->username || !proview->password || !proview->app_id) {
        check_line(report, CHECK_FAILED, "Talview", "set username, password and app_id",
                   "[proview %s] has no credentials: its ratings are not fetched", proview->name);
        return;
    }
    if (paused(report, config, proview->name))
        return;
    account = talview_account_add(talview, &target, &why);
    if (!account || !talview_login_start(talview, account, &attempt))
        check_line(report, CHECK_FAILED, "Talview", "mend the section", "[proview %s]: %s", proview->name,
                   why.len ? buf_str(&why) : "its texts cannot stand in a request");
    else
        while (!attempt.done && clock_monotonic_ms() < end)
            talview_step(talview, 200, -1, judge, NULL);
    if (account && !attempt.done) {
        talview_drop(talview);
        check_line(report, CHECK_FAILED, "Talview", "look at the network", "[proview %s] got no answer",
                   proview->name);
    }
    buf_release(&why);
}

void check_online(struct check_report *report, const char *path)
{
    struct config *config = NULL;
    struct talview *talview = NULL;
    struct talview_limits limits;
    struct buf why = BUF_INIT;

    if (!config_load(path, CONFIG_WORKER, &config, &why)) {
        check_line(report, CHECK_FAILED, "Talview", "run it as root or as the worker's user",
                   "no login was tried: %s", buf_str(&why));
        goto out;
    }
    limits = (struct talview_limits){.transfers_max = 1,
                                     .connect_timeout_ms = config->connect_timeout_ms,
                                     .request_timeout_ms = config->request_timeout_ms,
                                     .reply_limit_bytes = (size_t)config->reply_limit_bytes,
                                     .proxy = config->proxy};
    talview = talview_new(&limits);
    if (!talview)
        check_line(report, CHECK_FAILED, "Talview", "look at libcurl", "libcurl could not be set up");
    for (size_t i = 0; talview && i < config->proview_count; i++) {
        if (strcmp(config->proview[i].name, STORE_REHEARSAL)) /* its stand-in runs during a rehearsal only */
            try_login(report, talview, config, &config->proview[i]);
    }
out:
    talview_free(talview);
    config_free(config);
    buf_release(&why);
}
