/* examhook migrate */
#include <getopt.h>

#include "cli.h"
#include "../common/place.h"

const struct cli_option cmd_migrate_options[] = {{NULL, NULL, 0, NULL}};

int cmd_migrate(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    struct buf said = BUF_INIT;
    const char *value;
    enum store_status status;
    int code;

    if (cli_option_next(cli, argc, argv, &value) != -1)
        return CLI_USAGE;
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    /* Before: nothing is open to others for a moment; after: nor is what was made. */
    if (config->personal && !place_close_store(config, &said))
        status = STORE_DENIED;
    else
        status = store_migrate(config->store_url, &said);
    if (!status && config->personal && !place_close_store(config, &said))
        status = STORE_DENIED;
    if (status) {
        cli_failed(cli, "the store could not be migrated (%s): %s", store_status_word(status),
                   buf_str(&said));
        code = CLI_STORE;
    } else {
        fputs(buf_str(&said), cli->out);
        if (said.len && said.data[said.len - 1] != '\n')
            fputc('\n', cli->out);
    }
    buf_release(&said);
    config_free(config);
    return code;
}
