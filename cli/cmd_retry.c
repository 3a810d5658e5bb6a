/* examhook retry UUID... | --parked */
#include <getopt.h>
#include <string.h>

#include "cli.h"
#include "../common/buf.h"
#include "../common/clock.h"
#include "../common/talview.h"

enum { KEY_PARKED = 'p' };

const struct cli_option cmd_retry_options[] = {
    {"parked", NULL, KEY_PARKED, "every session that is parked"},
    {NULL, NULL, 0, NULL},
};

#define INTAKE 500 /* callbacks a round */

/* A session that was called back a moment ago is known to the worker only after its next look: look for it.
 */
static enum store_status take_in(struct store *store, const struct config *config)
{
    size_t taken = INTAKE;
    enum store_status status = STORE_OK;

    while (taken == INTAKE && !status) {
        status = cli_change_begin(store, STORE_RATINGS);
        if (status)
            return status;
        taken = 0;
        status = cli_change_end(store, store_sessions_intake(store, clock_now_ms(),
                                                             config->fetches_session_hour, INTAKE, &taken));
    }
    return status;
}

/* uuid NULL: some that are parked. */
static enum store_status make_due(struct store *store, const char *uuid, int64_t *count)
{
    enum store_status status = cli_change_begin(store, STORE_RATINGS);
    return status ? status : cli_change_end(store, store_sessions_retry(store, uuid, clock_now_ms(), count));
}

static int retry_one(struct cli *cli, struct store *store, const char *text)
{
    char uuid[TALVIEW_UUID_LEN + 1];
    int64_t count = 0;
    enum store_status status;

    memcpy(uuid, text, sizeof(uuid));
    ascii_lower(uuid, TALVIEW_UUID_LEN);
    status = make_due(store, uuid, &count);
    if (status == STORE_ABSENT || (!status && !count))
        return cli_failed(cli, "%s: no such session", uuid);
    if (status)
        return cli_store_failed(cli, store, status, uuid);
    fprintf(cli->out, "%s is due\n", uuid);
    return CLI_FINE;
}

static int retry_parked(struct cli *cli, struct store *store)
{
    int64_t all = 0, count;

    /* Some at a time, so that no round is long. */
    do {
        count = 0;
        enum store_status status = make_due(store, NULL, &count);

        if (status && status != STORE_ABSENT)
            return cli_store_failed(cli, store, status, all ? "not all were changed" : "nothing was changed");
        all += count;
    } while (count > 0);
    fprintf(cli->out, "%lld sessions are due\n", (long long)all);
    return CLI_FINE;
}

static bool is_uuid(const char *text)
{
    char uuid[TALVIEW_UUID_LEN + 1];

    if (strlen(text) != TALVIEW_UUID_LEN)
        return false;
    memcpy(uuid, text, sizeof(uuid));
    ascii_lower(uuid, TALVIEW_UUID_LEN);
    return talview_uuid_ok(uuid);
}

/* All are tried; the first failure decides the exit code. */
static int run(struct cli *cli, const struct config *config, int count, char **uuids)
{
    struct store *store;
    enum store_status status;
    int code = cli_store(cli, config, STORE_RATINGS, STORE_PROVIEW, &store);

    if (code)
        return code;
    status = take_in(store, config);
    if (status)
        code = cli_store_failed(cli, store, status, "nothing was changed");
    else if (!count)
        code = retry_parked(cli, store);
    for (int i = 0; i < count && !status; i++) {
        int one = retry_one(cli, store, uuids[i]);

        code = code ? code : one;
    }
    store_free(store);
    return code;
}

int cmd_retry(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    const char *value;
    bool parked = false;
    int code;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key != KEY_PARKED)
            return CLI_USAGE;
        parked = true;
    }
    if (parked == (optind < argc))
        return cli_usage(cli, "needs one or more session UUIDs, or --parked");
    for (int i = optind; i < argc; i++) {
        if (!is_uuid(argv[i]))
            return cli_usage(cli, "argument %d is no UUID", i - optind + 1);
    }
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    code = run(cli, config, argc - optind, argv + optind);
    config_free(config);
    return code;
}
