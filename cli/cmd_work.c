/* `examhook work`: the worker as a daemon, or once for cron. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "worker.h"
#include "../common/log.h"
#include "../common/clock.h"
#include "../common/notify.h"
#include "../common/retention.h"

#define BUDGET_DEFAULT_S 50 /* cron's shortest interval is a minute */
#define BUDGET_MAX_S 86400

const struct cli_option cmd_work_options[] = {
    {"once", NULL, 'o', "do all that is due now, then end: for cron; ends at once where another runs"},
    {"budget", "SECONDS", 'b', "with --once: end by then (50), giving back what is under way"},
    {NULL, NULL, 0, NULL},
};

static bool read_options(struct cli *cli, int argc, char **argv, struct worker_run *run)
{
    const char *value;
    int64_t budget_s = 0;
    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == 'o') {
            run->once = true;
        } else if (key != 'b') {
            return false;
        } else if (!cli_number(value, 1, BUDGET_MAX_S, &budget_s)) {
            cli_usage(cli, "--budget wants whole seconds, 1 to %d", BUDGET_MAX_S);
            return false;
        }
    }
    if (optind < argc || (budget_s > 0 && !run->once)) {
        cli_usage(cli, optind < argc ? "there are no operands" : "--budget goes with --once");
        return false;
    }
    run->budget_ms = (budget_s > 0 ? budget_s : BUDGET_DEFAULT_S) * 1000;
    return true;
}

/* A descriptor that can be read once SIGTERM, SIGINT or SIGHUP came; -1: none to be had. */
static int signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Takes what came. True: nothing but SIGHUP. */
static bool only_hangups(int signals_fd)
{
    struct signalfd_siginfo info;
    bool hangup = false, stop = false;
    while (read(signals_fd, &info, sizeof(info)) == sizeof(info)) {
        hangup = hangup || info.ssi_signo == SIGHUP;
        stop = stop || info.ssi_signo != SIGHUP;
    }
    return hangup && !stop;
}

/* --- Who else runs -------------------------------------------------------------------------------------- */

/*
 * Leases keep two workers from fetching the same session, so two that run for ever do no harm. But one --once
 * that takes longer than cron's interval would have more and more beside it, and beside a worker that runs
 * for ever it has nothing to do.
 *
 *   once.lock  held by the one --once that runs
 *   work.lock  shared by all that run for ever; --once only tries whether it could have it alone
 */
static int lock_open(const struct config *config, const char *name)
{
    struct buf path = BUF_INIT;
    struct stat st;
    char *folder = store_area_folder(config->store_url, STORE_RATINGS);
    if (!folder)
        return -1;
    buf_addf(&path, "%s/%s", folder, name);
    /* For nobody else, as all of this folder: a personal installation takes no file that its group can read.
     */
    int fd = open(buf_str(&path), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* One that root made by hand must not keep out the user whose cron does it. */
    if (fd >= 0 && geteuid() == 0 && (stat(folder, &st) != 0 || fchown(fd, st.st_uid, st.st_gid) != 0)) {
        close(fd);
        fd = -1;
    }
    buf_release(&path);
    free(folder);
    return fd;
}

static int lock_take(const struct config *config, const char *name, int how)
{
    int fd = lock_open(config, name), result = -1;
    while (fd >= 0 && (result = flock(fd, how)) != 0 && errno == EINTR)
        ;
    if (fd < 0 || result == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* What is held as long as this worker runs. -1 with errno; EWOULDBLOCK: another runs. */
static int lock_worker(const struct config *config, bool once)
{
    if (!once)
        return lock_take(config, "work.lock", LOCK_SH);
    int fd = lock_take(config, "once.lock", LOCK_EX | LOCK_NB);
    if (fd < 0)
        return -1;
    int probe = lock_take(config, "work.lock", LOCK_EX | LOCK_NB);
    if (probe >= 0) {
        close(probe);
        return fd;
    }
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* --- The configuration is read again -------------------------------------------------------------------- */

/* The store is open already. */
static void keep_store(struct config *fresh, struct config *old)
{
    bool same = strcmp(fresh->store_url, old->store_url) == 0 && fresh->lock_wait_ms == old->lock_wait_ms;
    if (same)
        return;
    log_warn("needs a restart: until then the old value stays", LOG_S("option", "[store]"));
    char *url = fresh->store_url;
    fresh->store_url = old->store_url;
    old->store_url = url;
    fresh->lock_wait_ms = old->lock_wait_ms;
}

static void read_again(struct config **config)
{
    struct config *fresh = NULL;
    struct buf why = BUF_INIT;
    notify_reloading();
    if (config_load((*config)->path, CONFIG_WORKER, &fresh, &why)) {
        keep_store(fresh, *config);
        config_free(*config);
        *config = fresh;
        log_set_level(fresh->log_level);
        log_info("the configuration was read again", LOG_S("config", fresh->path));
    } else {
        log_error("the configuration was not taken, the old one stays", LOG_S("reason", buf_str(&why)));
    }
    buf_release(&why);
    notify_ready();
}

/* --- Running -------------------------------------------------------------------------------------------- */

static void say_up(const struct config *config)
{
    if (config->proview_count == 0)
        log_warn("no [proview NAME] section: there is nothing to fetch", LOG_S("config", config->path));
    log_info("the worker is up", LOG_I("accounts", (long long)config->proview_count));
    notify_ready();
}

/*
 * A host where programs live only as long as a request has nobody else to delete what is old: whatever of the
 * store is this user's to write. Elsewhere each area has a program of its own, which does it beside us.
 */
static unsigned own_areas(const struct config *config)
{
    static const enum store_area all[] = {STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};
    unsigned areas = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        char *folder = store_area_folder(config->store_url, all[i]);
        if (folder && access(folder, R_OK | W_OK | X_OK) == 0)
            areas |= (unsigned)all[i];
        free(folder);
    }
    return areas;
}

static void delete_old(const struct config *config, int64_t until)
{
    struct buf why = BUF_INIT;
    struct store *store;
    if (config->retention_ms == 0 || clock_monotonic_ms() >= until)
        return;
    if (store_open(config->store_url, own_areas(config), 0, config->lock_wait_ms, &store, &why) == STORE_OK) {
        retention_once(store, config->retention_ms, until);
        store_free(store);
    } else {
        log_warn("what is old could not be deleted", LOG_S("reason", buf_str(&why)));
    }
    buf_release(&why);
}

static int work(struct cli *cli, struct config **config, struct store *store, struct worker_run *run)
{
    int64_t until = clock_monotonic_ms() + run->budget_ms;
    enum store_status status;
    bool again = true;
    if (!run->once)
        say_up(*config);
    else if ((*config)->log_level == LOG_LEVEL_INFO)
        log_set_level(LOG_LEVEL_WARN); /* cron mails each word */
    do {
        status = worker_run(*config, store, run);
        again = status == STORE_OK && !run->once && only_hangups(run->stop_fd);
        if (again)
            read_again(config);
    } while (again);
    notify_stopping();
    if (status != STORE_OK)
        return cli_store_failed(cli, store, status, "the worker ended early");
    if (run->once)
        delete_old(*config, until);
    else
        log_info("the worker has ended", LOG_I("accounts", (long long)(*config)->proview_count));
    return CLI_FINE;
}

int cmd_work(struct cli *cli, int argc, char **argv)
{
    struct worker_run run = {.stop_fd = -1};
    struct config *config = NULL;
    struct store *store = NULL;
    int lock_fd = -1;
    if (!read_options(cli, argc, argv, &run))
        return CLI_USAGE;
    /* From here on: a SIGHUP that comes while all is being opened must not end us. */
    run.stop_fd = signals_open();
    if (run.stop_fd < 0)
        return cli_failed(cli, "signals cannot be waited for: %s", strerrordesc_np(errno));
    int code = cli_config(cli, CONFIG_WORKER, &config);
    if (code != CLI_FINE)
        goto out;
    code = cli_store(cli, config, STORE_RATINGS, STORE_PROVIEW, &store);
    if (code != CLI_FINE)
        goto out;
    lock_fd = lock_worker(config, run.once);
    if (lock_fd >= 0)
        code = work(cli, &config, store, &run);
    else if (run.once && errno == EWOULDBLOCK)
        fputs("examhook work: another is running, which does what is due\n", cli->err);
    else
        code = cli_failed(cli, "the lock of the worker cannot be had: %s", strerrordesc_np(errno));
out:
    if (lock_fd >= 0)
        close(lock_fd);
    close(run.stop_fd);
    store_free(store);
    config_free(config);
    return code;
}
