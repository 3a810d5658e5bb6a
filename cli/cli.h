/*
 * What the subcommands of `examhook` share: the row that describes each, their exit codes, and the steps that
 * nearly all of them begin with (options, configuration, store), each with one clear message when it fails.
 */
#ifndef EXAMHOOK_CLI_H
#define EXAMHOOK_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "../common/config.h"
#include "../common/store.h"

#include "../common/version.h"

/* Exit codes, as the manual page has them. */
enum cli_exit {
    CLI_FINE = 0,
    CLI_FAILED = 1, /* what was asked for failed, was not found, or a check failed */
    CLI_USAGE = 2,  /* the command line */
    CLI_CONFIG = 3, /* the configuration was refused */
    CLI_STORE = 4,  /* the store cannot be used */
    CLI_MEMORY = 70 /* out of memory (buf.c) */
};

struct cli {
    const char *config_option; /* --config, NULL: not given */
    FILE *out, *err;
    const struct subcommand *command; /* the one that runs */
};

/* One table serves getopt_long() and --help. Ends with name NULL. --help and --config are understood by every
   subcommand without standing here. */
struct cli_option {
    const char *name;
    const char *value; /* what --help calls its argument ("SECONDS"); NULL: takes none */
    int key;           /* what cli_option_next() returns for it; a letter or above, never '?' */
    const char *help;  /* one sentence or two, without line breaks */
};

typedef int subcommand_fn(struct cli *cli, int argc, char **argv);

struct subcommand {
    const char *name;
    subcommand_fn *run;    /* argv[0] is the subcommand's name; returns an enum cli_exit */
    const char *usage;     /* what stands behind the name: "[--json] ID" */
    const char *summary;   /* one line for `examhook --help` */
    enum config_role role; /* what its configuration is read as */
    const struct cli_option *options;
    const char *notes; /* further lines for its --help; NULL: none */
};

/* The subcommands, each in its own cmd_NAME.c, with its options beside it. The table stands in main.c. */
#define SUBCOMMAND(name)                                    \
    int cmd_##name(struct cli *cli, int argc, char **argv); \
    extern const struct cli_option cmd_##name##_options[]
SUBCOMMAND(roster);
SUBCOMMAND(events);
SUBCOMMAND(sessions);
SUBCOMMAND(respondent);
SUBCOMMAND(retry);
SUBCOMMAND(replay);
SUBCOMMAND(export);
SUBCOMMAND(unlock);
SUBCOMMAND(migrate);
SUBCOMMAND(backup);
SUBCOMMAND(purge);
SUBCOMMAND(check);
SUBCOMMAND(config);
SUBCOMMAND(work);
SUBCOMMAND(rehearse);
#undef SUBCOMMAND

/*
 * The next option of the running subcommand: its key, -1 at the end (optind is the first operand then), '?'
 * when the command line is wrong (the message was printed: return CLI_USAGE). *value is its argument or NULL.
 */
int cli_option_next(struct cli *cli, int argc, char **argv, const char **value);
/* Before work that takes long and holds no lock that events wait for: processor and disk are the web
 * programs' first. Never for what writes in rounds: whoever holds the lock and gets no processor holds up the
 * others. */
void cli_step_back(void);
/* "examhook NAME: MESSAGE" and where help is found, on err. Returns CLI_USAGE. */
int cli_usage(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "examhook NAME: MESSAGE" on err. Returns CLI_FAILED. */
int cli_failed(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A whole number from min to max. */
bool cli_number(const char *text, int64_t min, int64_t max, int64_t *value);

/* The program that is meant by "examjoint", "proview" or "worker" (or "work", as its subcommand is called).
 */
bool cli_role(const char *name, enum config_role *role);

/* A time ("2026-11-22 09:00", in the configured zone where it has no offset) or how long ago ("2h"). */
bool cli_since(const struct config *config, const char *text, int64_t *ms);

/* Reads the configuration in the role and sets up the log with its level; in a personal installation, files
   made from then on are ours alone. CLI_FINE, or CLI_CONFIG after the message; *out is the caller's. */
int cli_config(struct cli *cli, enum config_role role, struct config **out);
/* Opens the store of the configuration, unless others can get at it. CLI_FINE, or CLI_STORE after the
   message. */
int cli_store(struct cli *cli, const struct config *config, unsigned write_areas, unsigned read_areas,
              struct store **out);
/* A round of one step: begin, then the change, then end with the change's status, which keeps and commits it
   only where that is STORE_OK. A begin that failed needs no end. */
enum store_status cli_change_begin(struct store *store, enum store_area area);
enum store_status cli_change_end(struct store *store, enum store_status status);
/* Says that `doing` failed with what the store has to say and what helps. Returns CLI_STORE. */
int cli_store_failed(struct cli *cli, const struct store *store, enum store_status status, const char *doing);

#endif
