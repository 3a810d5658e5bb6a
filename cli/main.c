/* The front door of `examhook`: one table of subcommands, and a loop that looks the name up. */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "cli.h"
#include "../common/version.h"

static const struct subcommand subcommands[] = {
    {"roster", cmd_roster,
     "import FILE.csv [--account A] [--replace [--exam E]] | list [--account A] [--exam E] [--json] | "
     "remove ID [--account A]",
     "take in, show and change who may sit which exam", CONFIG_OPERATOR, cmd_roster_options,
     "FILE.csv has a header line; \"-\" is standard input. Columns: id; optionally email, name, password\n"
     "(plain, hashed on import) or password_hash, photo, about, data (JSON), exam (empty: any), opens,\n"
     "closes; any further column is kept as an attribute that [fields] can map. One line for each exam that\n"
     "a candidate may sit. Nothing of a file with a bad line is taken.\n"},
    {"events", cmd_events, "[--json] [--since T] [--follow] [--quarantined] [--limit N]",
     "every stored event, oldest first", CONFIG_OPERATOR, cmd_events_options, NULL},
    {"sessions", cmd_sessions, "[--json] [--state pending|rated|parked] [--since T]",
     "the proctoring sessions and their ratings", CONFIG_OPERATOR, cmd_sessions_options, NULL},
    {"respondent", cmd_respondent, "ID [--json] [--erase [--yes] [--account A]... [--also EVENT]...]",
     "one person's story in order, from both services; or erase the person", CONFIG_OPERATOR,
     cmd_respondent_options,
     "ID is a candidate's id of the roster, a respondent_id, an external_id or a session_uuid.\n"},
    {"retry", cmd_retry, "UUID... | --parked", "make sessions due at once, whatever their state",
     CONFIG_OPERATOR, cmd_retry_options, NULL},
    {"replay", cmd_replay, "ID...", "read quarantined events anew", CONFIG_OPERATOR, cmd_replay_options,
     "ID as `examhook events --quarantined` shows it. A verification cannot be replayed: its password was\n"
     "never kept.\n"},
    {"export", cmd_export,
     "[--format csv|json] [--what events|sessions] [--since T] | --respondent ID [--account A]...",
     "write all events and sessions, or one person's data, to standard output", CONFIG_OPERATOR,
     cmd_export_options,
     "JSON holds both unless --what names one, each line with its \"kind\"; CSV holds one kind: events,\n"
     "unless --what says sessions.\n"},
    {"unlock", cmd_unlock, "ID [--account A] | --exam E",
     "forget failed attempts, so that a check is free again", CONFIG_OPERATOR, cmd_unlock_options, NULL},
    {"migrate", cmd_migrate, "", "create the store, or bring it to this version", CONFIG_OPERATOR,
     cmd_migrate_options, NULL},
    {"backup", cmd_backup, "FOLDER", "a whole, checked copy of the store in a new folder", CONFIG_OPERATOR,
     cmd_backup_options, NULL},
    {"purge", cmd_purge, "[--older-than DAYS]", "delete what is old, without asking", CONFIG_OPERATOR,
     cmd_purge_options, NULL},
    {"check", cmd_check, "[--start] [--for PROGRAM] [--online] [--full] [--socket PATH]... [--json]",
     "is this installation sound?", CONFIG_OPERATOR, cmd_check_options, NULL},
    {"config", cmd_config, "[--for PROGRAM [--output FILE]]",
     "print the effective configuration, secrets hidden", CONFIG_OPERATOR, cmd_config_options, NULL},
    {"work", cmd_work, "[--once [--budget SECONDS]]", "fetch ratings from Talview", CONFIG_WORKER,
     cmd_work_options, NULL},
    {"rehearse", cmd_rehearse,
     "--candidates N [--within S] --url URL [--ca FILE] [--report FILE] [--json] | --setup | --clean",
     "play an exam day against this installation", CONFIG_OPERATOR, cmd_rehearse_options,
     "The account `rehearsal` is configured once, see --setup. What it does is kept out of every listing, "
     "and\n"
     "removed at the end.\n"},
};
#define SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static void print_option(FILE *out, const char *name, const char *value, const char *help)
{
    char left[64];

    snprintf(left, sizeof(left), "--%s%s%s", name, value ? " " : "", value ? value : "");
    fprintf(out, "  %-22s %s\n", left, help);
}

static void help_all(FILE *out)
{
    fputs("Usage: examhook [--config FILE] SUBCOMMAND ...\n\nSubcommands:\n", out);
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        fprintf(out, "  %-22s %s\n", subcommands[i].name, subcommands[i].summary);
    fputs("\nOptions:\n", out);
    print_option(out, "config", "FILE", "the configuration; else EXAMHOOK_CONF, else the usual place");
    print_option(out, "help", NULL, "this; behind a subcommand, what that one understands");
    print_option(out, "version", NULL, "the version");
    fputs("\nExit codes: 0 fine; 1 what was asked for failed or was not found; 2 the command line;\n"
          "3 the configuration was refused; 4 the store cannot be used; 70 out of memory.\n",
          out);
}

static void help_one(FILE *out, const struct subcommand *command)
{
    fprintf(out, "Usage: examhook %s%s%s\n%s\n\nOptions:\n", command->name, command->usage[0] ? " " : "",
            command->usage, command->summary);
    for (const struct cli_option *o = command->options; o->name; o++)
        print_option(out, o->name, o->value, o->help);
    print_option(out, "config", "FILE", "the configuration; else EXAMHOOK_CONF, else the usual place");
    print_option(out, "help", NULL, "this");
    if (command->notes)
        fprintf(out, "\n%s", command->notes);
}

/* Is --help (or -h) among the options, not behind "--"? */
static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    }
    return false;
}

static int unknown(FILE *err, const char *name)
{
    const char *near = NULL;

    for (size_t i = 0; i < SUBCOMMANDS && !near; i++) {
        if (name[0] && !strncmp(subcommands[i].name, name, strlen(name) < 3 ? strlen(name) : 3))
            near = subcommands[i].name;
    }
    fprintf(err, "examhook: no such subcommand or option: \"%.60s\"", name);
    if (near)
        fprintf(err, "; did you mean \"%s\"?", near);
    fputs("\nTry: examhook --help\n", err);
    return CLI_USAGE;
}

/* What was written must have arrived; a reader that left early (`| head`) wanted no more. */
static int finish(const struct cli *cli, int code)
{
    struct pollfd reader = {.fd = fileno(cli->out), .events = POLLOUT};

    if (fflush(cli->out) == 0 && !ferror(cli->out))
        return code;
    if (poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR))
        return code;
    fputs("examhook: the output could not be written; is the disk full?\n", cli->err);
    return code ? code : CLI_FAILED;
}

static int dispatch(struct cli *cli, int argc, char **argv)
{
    for (size_t i = 0; i < SUBCOMMANDS; i++) {
        if (strcmp(argv[0], subcommands[i].name))
            continue;
        cli->command = &subcommands[i];
        if (asks_help(argc, argv)) {
            help_one(cli->out, cli->command);
            return CLI_FINE;
        }
        return cli->command->run(cli, argc, argv);
    }
    return unknown(cli->err, argv[0]);
}

/* Passwords of a roster file pass through: no dump of this process, and no other process looks into it. */
static void shut_in(void)
{
    struct rlimit none = {0, 0};

    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of the size of files is an error of the write */
}

int main(int argc, char **argv)
{
    struct cli cli = {.out = stdout, .err = stderr};
    int at = 1;

    shut_in();
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (!strcmp(argv[at], "--config") && at + 1 < argc) {
            cli.config_option = argv[++at];
        } else if (!strncmp(argv[at], "--config=", 9)) {
            cli.config_option = argv[at] + 9;
        } else if (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h")) {
            help_all(cli.out);
            return finish(&cli, CLI_FINE);
        } else if (!strcmp(argv[at], "--version")) {
            fputs("examhook " EXAMHOOK_VERSION "\n", cli.out);
            return finish(&cli, CLI_FINE);
        } else {
            return unknown(cli.err, argv[at]);
        }
    }
    if (at == argc) {
        help_all(cli.err);
        return CLI_USAGE;
    }
    return finish(&cli, dispatch(&cli, argc - at, argv + at));
}
