#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli.h"
#include "../common/clock.h"
#include "../common/log.h"
#include "../common/place.h"

#define OPTIONS_MAX 32
#define KEY_HELP 1000
#define KEY_CONFIG 1001
/* Lower than the web programs' password checks, which are at 10: somebody at the door comes before a file. */
#define NICENESS 15
/* ioprio_set(2) has no header of its own: of ourselves, the last of the eight levels of the usual class. */
#define IOPRIO_SELF 1
#define IOPRIO_LAST ((2 << 13) | 7)

__attribute__((format(printf, 2, 0))) static int say(struct cli *cli, const char *format, va_list arguments)
{
    fprintf(cli->err, "examhook %s: ", cli->command->name);
    vfprintf(cli->err, format, arguments);
    fputc('\n', cli->err);
    return CLI_FAILED;
}

/* Where it is not allowed the work goes on as it is. Whoever was started yet more modest stays so. */
void cli_step_back(void)
{
    if (getpriority(PRIO_PROCESS, 0) < NICENESS)
        (void)setpriority(PRIO_PROCESS, 0, NICENESS);
    (void)syscall(SYS_ioprio_set, IOPRIO_SELF, 0, IOPRIO_LAST);
}

int cli_usage(struct cli *cli, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(cli, format, arguments);
    va_end(arguments);
    fprintf(cli->err, "Usage: examhook %s%s%s (examhook %s --help)\n", cli->command->name,
            cli->command->usage[0] ? " " : "", cli->command->usage, cli->command->name);
    return CLI_USAGE;
}

int cli_failed(struct cli *cli, const char *format, ...)
{
    va_list arguments;
    int code;

    va_start(arguments, format);
    code = say(cli, format, arguments);
    va_end(arguments);
    return code;
}

/* getopt_long()'s table out of ours. */
static void long_options(const struct cli_option *options, struct option out[OPTIONS_MAX])
{
    size_t n = 0;

    for (; options->name && n < OPTIONS_MAX - 3; options++)
        out[n++] = (struct option){options->name, options->value ? required_argument : no_argument, NULL,
                                   options->key};
    out[n++] = (struct option){"config", required_argument, NULL, KEY_CONFIG};
    out[n++] = (struct option){"help", no_argument, NULL, KEY_HELP};
    out[n] = (struct option){NULL, 0, NULL, 0};
}

int cli_option_next(struct cli *cli, int argc, char **argv, const char **value)
{
    struct option table[OPTIONS_MAX];
    int key;

    long_options(cli->command->options, table);
    opterr = 0;
    while ((key = getopt_long(argc, argv, ":", table, NULL)) == KEY_CONFIG)
        cli->config_option = optarg;
    *value = optarg;
    if (key == KEY_HELP)
        key = '?'; /* main() answers --help before it gets here: this one stood where an argument belongs */
    else if (key != '?' && key != ':')
        return key;
    if (key == ':')
        cli_usage(cli, "%s needs a value", argv[optind - 1]);
    else
        cli_usage(cli, "%s is no option here, or not in this form", argv[optind - 1]);
    return '?';
}

bool cli_number(const char *text, int64_t min, int64_t max, int64_t *value)
{
    char *end;
    long long number;

    if (text[0] != '-' && (text[0] < '0' || text[0] > '9'))
        return false;
    errno = 0;
    number = strtoll(text, &end, 10);
    if (errno || *end || end == text || number < min || number > max)
        return false;
    *value = number;
    return true;
}

bool cli_role(const char *name, enum config_role *role)
{
    static const struct {
        const char *name;
        enum config_role role;
    } roles[] = {{"examjoint", CONFIG_EXAMJOINT},
                 {"proview", CONFIG_PROVIEW},
                 {"worker", CONFIG_WORKER},
                 {"work", CONFIG_WORKER}};

    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(roles[i].name, name) == 0) {
            *role = roles[i].role;
            return true;
        }
    }
    return false;
}

bool cli_since(const struct config *config, const char *text, int64_t *ms)
{
    int64_t ago;

    if (!clock_duration_parse(text, &ago))
        return clock_parse(text, config->timezone, ms) == CLOCK_OK && *ms > 0;
    *ms = clock_now_ms() - ago;
    return *ms > 0;
}

int cli_config(struct cli *cli, enum config_role role, struct config **out)
{
    char *path = config_find(cli->config_option);
    struct buf why = BUF_INIT;
    int code = CLI_FINE;

    if (config_load(path, role, out, &why)) {
        log_setup("examhook", (*out)->log_level);
        if ((*out)->personal)
            umask(077);
    } else {
        cli_failed(cli, "%s", buf_str(&why));
        code = CLI_CONFIG;
    }
    buf_release(&why);
    free(path);
    return code;
}

/* What a person can do about it, beside what the store itself has to say. */
static const char *advice(enum store_status status)
{
    switch (status) {
    case STORE_MISSING:
    case STORE_OLD:
        return "; run: examhook migrate";
    case STORE_BUSY:
        return "; another program is writing: try again";
    case STORE_FULL:
        return "; make room on the disk (df, df -i)";
    case STORE_DENIED:
        return "; run it as the user the store belongs to";
    case STORE_CORRUPT:
        return "; run: examhook check --full";
    case STORE_NEW:
        return "; use the examhook that made it, or a newer one";
    default:
        return "";
    }
}

int cli_store(struct cli *cli, const struct config *config, unsigned write_areas, unsigned read_areas,
              struct store **out)
{
    struct buf why = BUF_INIT;
    enum store_status status;

    if (!place_closed(config, write_areas | read_areas, &why)) {
        cli_failed(cli, "%s", buf_str(&why));
        buf_release(&why);
        return CLI_STORE;
    }
    status = store_open(config->store_url, write_areas, read_areas, config->lock_wait_ms, out, &why);
    if (status)
        cli_failed(cli, "the store cannot be used (%s): %s%s", store_status_word(status), buf_str(&why),
                   advice(status));
    buf_release(&why);
    return status ? CLI_STORE : CLI_FINE;
}

int cli_store_failed(struct cli *cli, const struct store *store, enum store_status status, const char *doing)
{
    cli_failed(cli, "%s (%s): %s%s", doing, store_status_word(status), store ? store_message(store) : "",
               advice(status));
    return CLI_STORE;
}

enum store_status cli_change_begin(struct store *store, enum store_area area)
{
    enum store_status status = store_round_begin(store, area);
    if (status)
        return status;
    status = store_step_begin(store);
    if (status)
        store_round_abandon(store);
    return status;
}

enum store_status cli_change_end(struct store *store, enum store_status status)
{
    if (!status)
        status = store_step_end(store, true);
    if (!status)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}
