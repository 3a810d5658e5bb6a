/* examhook config */
#include <getopt.h>
#include <stdlib.h>

#include "cli.h"

const struct cli_option cmd_config_options[] = {{NULL, NULL, 0, NULL}};

int cmd_config(struct cli *cli, int argc, char **argv)
{
    struct buf text = BUF_INIT, why = BUF_INIT;
    const char *value;
    char *path;
    bool ok = false;

    if (cli_option_next(cli, argc, argv, &value) != -1)
        return CLI_USAGE;
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    path = config_find(cli->config_option);
    config_print(path, &text, &why, &ok);
    if (ok)
        fputs(buf_str(&text), cli->out);
    else
        cli_failed(cli, "%s", buf_str(&why));
    buf_release(&text);
    buf_release(&why);
    free(path);
    return ok ? CLI_FINE : CLI_CONFIG;
}
