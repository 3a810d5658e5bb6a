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

#define BUDGET_DEFAULT_S 50 /* cron's shortest interval is a minute */
#define BUDGET_MAX_S 86400

const struct cli_option cmd_work_options[] = {
    {"once", NULL, 'o', "do all that is due now, then end: for cron"},
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

/* A descriptor that can be read once SIGTERM or SIGINT came; -1: none to be had. */
static int signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* One --once at a time. Leases would keep two from fetching the same session; but where one takes longer than
   cron's interval they would pile up. -1 with *running: another one has it. */
static int lock_once(const struct config *config, bool *running)
{
    struct buf path = BUF_INIT;
    struct stat st;
    *running = false;
    char *folder = store_area_folder(config->store_url, STORE_RATINGS);
    if (!folder)
        return -1;
    buf_addf(&path, "%s/once.lock", folder);
    int fd = open(buf_str(&path), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    /* One that root made by hand must not keep out the user whose cron does it. */
    bool ok =
        fd >= 0 && (geteuid() != 0 || (stat(folder, &st) == 0 && fchown(fd, st.st_uid, st.st_gid) == 0));
    if (ok && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        *running = errno == EWOULDBLOCK;
        ok = false;
    }
    if (fd >= 0 && !ok) {
        close(fd);
        fd = -1;
    }
    buf_release(&path);
    free(folder);
    return fd;
}

static int work(struct cli *cli, const struct config *config, struct store *store, struct worker_run *run)
{
    run->stop_fd = signals_open();
    if (run->stop_fd < 0)
        return cli_failed(cli, "signals cannot be waited for: %s", strerrordesc_np(errno));
    if (!run->once)
        log_info("the worker is up", LOG_I("accounts", (long long)config->proview_count));
    enum store_status status = worker_run(config, store, run);
    close(run->stop_fd);
    if (status != STORE_OK)
        return cli_store_failed(cli, store, status, "the worker ended early");
    if (!run->once)
        log_info("the worker has ended", LOG_I("accounts", (long long)config->proview_count));
    return CLI_FINE;
}

int cmd_work(struct cli *cli, int argc, char **argv)
{
    struct worker_run run = {.stop_fd = -1};
    struct config *config = NULL;
    struct store *store = NULL;
    bool running = false;
    int once_fd = -1;
    if (!read_options(cli, argc, argv, &run))
        return CLI_USAGE;
    int code = cli_config(cli, CONFIG_WORKER, &config);
    if (code != CLI_FINE)
        return code;
    code = cli_store(cli, config, STORE_RATINGS, STORE_PROVIEW, &store);
    if (code != CLI_FINE)
        goto out;
    if (run.once && (once_fd = lock_once(config, &running)) < 0) {
        if (running)
            fputs("another is running\n", cli->out);
        else
            code = cli_failed(cli, "the lock of --once cannot be had: %s", strerrordesc_np(errno));
        goto out;
    }
    code = work(cli, config, store, &run);
out:
    if (once_fd >= 0)
        close(once_fd);
    store_free(store);
    config_free(config);
    return code;
}
