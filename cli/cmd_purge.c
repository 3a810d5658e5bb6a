/* examhook purge [--older-than DAYS] */
#include <getopt.h>

#include "cli.h"
#include "../common/clock.h"

#define DAY_MS (24 * 3600 * 1000LL)
#define DAYS_MAX 36500

enum { KEY_OLDER = 'o' };

const struct cli_option cmd_purge_options[] = {
    {"older-than", "DAYS", KEY_OLDER,
     "what was last received (sessions: last looked at) before that; a session that is pending stays; "
     "without it "
     "[store] retention counts"},
    {NULL, NULL, 0, NULL},
};

static int run(struct cli *cli, const struct config *config, int64_t age_ms)
{
    struct store_purged purged = {0};
    struct store *store;
    enum store_status status;
    int code = cli_store(cli, config, STORE_EXAMJOINT | STORE_PROVIEW | STORE_RATINGS, 0, &store);

    if (code)
        return code;
    status = store_purge(store, clock_now_ms() - age_ms, &purged);
    if (status)
        code = cli_store_failed(cli, store, status, "the purge was cut short");
    fprintf(cli->out, "%lld events, %lld callbacks, %lld sessions deleted\n", (long long)purged.events,
            (long long)purged.callbacks, (long long)purged.sessions);
    if (purged.unsettled && !code)
        code = cli_failed(cli, "somebody read the store all the time: bytes of what was deleted may remain; "
                               "try again");
    store_free(store);
    return code;
}

int cmd_purge(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    const char *value;
    int64_t days = 0;
    int code;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key != KEY_OLDER)
            return CLI_USAGE;
        if (!cli_number(value, 1, DAYS_MAX, &days))
            return cli_usage(cli, "--older-than needs a whole number of days, 1 to %d", DAYS_MAX);
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    if (days || config->retention_ms)
        code = run(cli, config, days ? days * DAY_MS : config->retention_ms);
    else
        code = cli_usage(cli, "needs --older-than DAYS where no [store] retention is configured");
    config_free(config);
    return code;
}
