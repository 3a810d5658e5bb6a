/* examhook backup FOLDER */
#include <getopt.h>

#include "cli.h"
#include "../common/place.h"

const struct cli_option cmd_backup_options[] = {{NULL, NULL, 0, NULL}};

int cmd_backup(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    const char *value, *folder;
    enum store_status status;
    int code;

    if (cli_option_next(cli, argc, argv, &value) != -1)
        return CLI_USAGE;
    if (argc - optind != 1 || !argv[optind][0])
        return cli_usage(cli, "needs one FOLDER, which is not there yet or is empty");
    folder = argv[optind];
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    cli_step_back();
    status = store_backup(config->store_url, folder, &why);
    if (!status && config->personal && !place_close(folder, &why))
        status = STORE_DENIED;
    if (status) {
        cli_failed(cli, "no backup was made (%s): %s%s", store_status_word(status), buf_str(&why),
                   status == STORE_FULL ? "; make room on the disk (df, df -i)" : "");
        code = CLI_STORE;
    } else {
        fprintf(cli->out, "%s holds a whole, checked copy\n", folder);
    }
    buf_release(&why);
    config_free(config);
    return code;
}
