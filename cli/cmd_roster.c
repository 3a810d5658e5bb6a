/* examhook roster import | list | remove */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "output.h"
#include "progress.h"
#include "roster_file.h"
#include "rows.h"
#include "../common/json.h"
#include "../common/password.h"

#define TABLE_PAGE 500

enum { KEY_ACCOUNT = 'a', KEY_REPLACE = 'r', KEY_EXAM = 'e', KEY_JSON = 'j' };

const struct cli_option cmd_roster_options[] = {
    {"account", "A", KEY_ACCOUNT,
     "whose roster; may be left out where one [examjoint] account is configured"},
    {"replace", NULL, KEY_REPLACE, "import: what the account had before goes"},
    {"exam", "E", KEY_EXAM, "import --replace: only what it had for this exam; list: only this exam"},
    {"json", NULL, KEY_JSON, "list: one JSON object a line"},
    {NULL, NULL, 0, NULL},
};

struct roster_options {
    const char *account, *exam;
    bool replace, json;
};

static int read_options(struct cli *cli, int argc, char **argv, struct roster_options *options)
{
    const char *value;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        switch (key) {
        case KEY_ACCOUNT:
            options->account = value;
            break;
        case KEY_EXAM:
            options->exam = value;
            break;
        case KEY_REPLACE:
            options->replace = true;
            break;
        case KEY_JSON:
            options->json = true;
            break;
        default:
            return CLI_USAGE;
        }
    }
    return CLI_FINE;
}

/* The account meant: the one named, or the only one there is, but for the one that rehearsals have. */
static int choose_account(struct cli *cli, const struct config *config, const char **account)
{
    const char *only = NULL;
    size_t count = 0;

    if (*account && !strcmp(*account, STORE_REHEARSAL))
        return cli_usage(cli, "the roster of " STORE_REHEARSAL " is examhook rehearse's alone");
    if (*account) {
        if (config_examjoint_named(config, *account))
            return CLI_FINE;
        return cli_usage(cli, "no [examjoint %s] is configured", *account);
    }
    for (size_t i = 0; i < config->examjoint_count; i++) {
        if (strcmp(config->examjoint[i].name, STORE_REHEARSAL)) {
            only = config->examjoint[i].name;
            count++;
        }
    }
    if (count == 1) {
        *account = only;
        return CLI_FINE;
    }
    if (!count)
        return cli_failed(cli, "no [examjoint NAME] account is configured");
    return cli_usage(cli, "there are %zu [examjoint] accounts: say which with --account", count);
}

/* --- import --------------------------------------------------------------------------------------------- */

struct tally {
    const struct roster_file *file;
    bool replace;
    int64_t replaced, removed;
};

/* Each line that the account had: does it come again, does it go? */
static bool count_old(void *context, const struct candidate *old)
{
    struct tally *tally = context;

    if (roster_file_has(tally->file, old->id, old->exam))
        tally->replaced++;
    else
        tally->removed += tally->replace;
    return true;
}

static int put_all(struct cli *cli, struct store *store, struct roster_build *build, struct roster_file *file)
{
    struct progress progress;
    enum store_status status = STORE_OK;
    size_t count = roster_file_lines(file);

    progress_begin(&progress, cli->err, "building the roster", (int64_t)count);
    for (size_t i = 0; i < count && !status; i++) {
        status = store_roster_put(build, roster_file_at(file, i), NULL);
        if (!(i % 256))
            progress_at(&progress, (int64_t)i);
    }
    progress_end(&progress);
    return status ? cli_store_failed(cli, store, status, "the roster was left as it was") : CLI_FINE;
}

static int put_in_place(struct cli *cli, struct store *store, struct roster_file *file,
                        const struct roster_options *options, struct tally *tally)
{
    struct roster_filter filter = {.account = options->account};
    struct roster_build *build;
    enum store_status status;
    int code;

    status = store_roster_begin(store, options->account, options->replace, options->exam, &build);
    if (status)
        return cli_store_failed(cli, store, status, "the roster was left as it was");
    if (options->replace)
        filter.exam = options->exam;
    status = store_roster_list(store, &filter, count_old, tally);
    if (status) {
        store_roster_abandon(build);
        return cli_store_failed(cli, store, status, "reading the roster");
    }
    code = put_all(cli, store, build, file);
    if (code) {
        store_roster_abandon(build);
        return code;
    }
    status = store_roster_commit(build);
    return status ? cli_store_failed(cli, store, status, "the roster was left as it was") : CLI_FINE;
}

static void say_import(struct cli *cli, const struct roster_file *file, const char *account,
                       const struct tally *tally)
{
    size_t lines = roster_file_lines(file), spaces = roster_file_spaced_passwords(file);

    fprintf(cli->out, "%zu candidates on %zu lines for %s: %lld new, %lld replaced, %lld removed\n",
            roster_file_candidates(file), lines, account, (long long)lines - (long long)tally->replaced,
            (long long)tally->replaced, (long long)tally->removed);
    if (spaces)
        fprintf(cli->err, "warning: %zu passwords begin or end with white space, which counts\n", spaces);
}

static int import_file(struct cli *cli, const struct config *config, int fd,
                       const struct roster_file_rules *rules, const struct roster_options *options)
{
    struct roster_file *file = NULL;
    struct store *store = NULL;
    struct tally tally = {.replace = options->replace};
    struct buf errors = BUF_INIT;
    int code = cli_store(cli, config, STORE_ROSTER, 0, &store);

    if (code)
        return code;
    if (!roster_file_read(fd, rules, &file, &errors) || !roster_file_hash(file, cli->err, &errors)) {
        fputs(buf_str(&errors), cli->err);
        code = cli_failed(cli, "nothing was taken from %s", rules->name);
        goto out;
    }
    /* A file that was cut off must not send everybody home. */
    if (options->replace && roster_file_lines(file) == 0) {
        code = cli_failed(
            cli, "%s holds no candidate: nothing was replaced (`examhook roster remove ID` removes one)",
            rules->name);
        goto out;
    }
    tally.file = file;
    code = put_in_place(cli, store, file, options, &tally);
    if (!code)
        say_import(cli, file, options->account, &tally);
out:
    roster_file_free(file);
    buf_release(&errors);
    store_free(store);
    return code;
}

static int import(struct cli *cli, const struct config *config, const char *name,
                  struct roster_options *options)
{
    struct roster_file_rules rules = {.zone = config->timezone, .exam = options->exam, .hash = config->hash};
    bool from_input = !strcmp(name, "-");
    int fd, code = choose_account(cli, config, &options->account);

    if (code)
        return code;
    if (options->exam && !options->replace)
        return cli_usage(cli, "--exam goes with --replace: a file says itself which exam a line is for");
    if (options->exam && !options->exam[0])
        return cli_usage(cli, "--exam needs an exam_id");
    fd = from_input ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cli_failed(cli, "%s: %s", name, strerror(errno));
    rules.name = from_input ? "standard input" : name;
    rules.account = options->account;
    code = import_file(cli, config, fd, &rules, options);
    if (!from_input)
        close(fd);
    return code;
}

/* --- list ----------------------------------------------------------------------------------------------- */

struct listing {
    struct cli *cli;
    struct table *table; /* NULL: JSON */
};

static void list_json(FILE *out, const struct candidate *c)
{
    struct buf object = BUF_INIT;

    buf_addc(&object, '{');
    rows_candidate_members(&object, c);
    buf_addc(&object, '}');
    output_json(out, &object);
    buf_release(&object);
}

static bool list_line(void *context, const struct candidate *c)
{
    struct listing *listing = context;

    if (!listing->table) {
        list_json(listing->cli->out, c);
        return output_alive(listing->cli->out);
    }
    table_cell(listing->table, c->account);
    table_cell(listing->table, c->id);
    table_cell(listing->table, c->email);
    table_cell(listing->table, c->name);
    table_cell(listing->table, rows_secret_kind(c));
    table_cell(listing->table, c->exam ? c->exam : "(any)");
    table_cell_time(listing->table, c->opens_ms);
    table_cell_time(listing->table, c->closes_ms);
    table_row_end(listing->table);
    if (table_waiting(listing->table) == TABLE_PAGE)
        table_flush(listing->table);
    return output_alive(listing->cli->out);
}

static int list(struct cli *cli, const struct config *config, const struct roster_options *options)
{
    static const struct table_column columns[] = {{"ACCOUNT", 24}, {"ID", 40},    {"EMAIL", 40},
                                                  {"NAME", 40},    {"SECRET", 0}, {"EXAM", 40},
                                                  {"OPENS", 0},    {"CLOSES", 0}};
    struct roster_filter filter = {.account = options->account, .exam = options->exam};
    struct listing listing = {.cli = cli};
    struct store *store;
    enum store_status status;
    int code = cli_store(cli, config, 0, STORE_ROSTER, &store);

    if (code)
        return code;
    if (!options->json)
        listing.table = table_new(cli->out, columns, sizeof(columns) / sizeof(columns[0]));
    status = store_roster_list(store, &filter, list_line, &listing);
    table_free(listing.table);
    if (status)
        code = cli_store_failed(cli, store, status, "reading the roster");
    store_free(store);
    return code;
}

/* --- remove --------------------------------------------------------------------------------------------- */

static int remove_from(struct cli *cli, struct store *store, const char *account, const char *id)
{
    struct roster_build *build;
    int64_t removed = 0;
    enum store_status status = store_roster_begin(store, account, false, NULL, &build);

    if (status)
        return cli_store_failed(cli, store, status, "the roster was left as it was");
    status = store_roster_remove(build, account, id, &removed);
    if (status || !removed) {
        store_roster_abandon(build);
        if (status && status != STORE_ABSENT)
            return cli_store_failed(cli, store, status, "the roster was left as it was");
        return cli_failed(cli, "the roster of %s has no such id", account);
    }
    status = store_roster_commit(build);
    if (status)
        return cli_store_failed(cli, store, status, "the roster was left as it was");
    fprintf(cli->out, "%lld lines removed\n", (long long)removed);
    return CLI_FINE;
}

static int remove_candidate(struct cli *cli, const struct config *config, const char *id,
                            struct roster_options *options)
{
    struct store *store;
    int code = choose_account(cli, config, &options->account);

    if (code)
        return code;
    if (options->exam)
        return cli_usage(cli, "remove takes every line of a candidate: --exam has no meaning here");
    code = cli_store(cli, config, STORE_ROSTER, 0, &store);
    if (code)
        return code;
    code = remove_from(cli, store, options->account, id);
    store_free(store);
    return code;
}

int cmd_roster(struct cli *cli, int argc, char **argv)
{
    struct roster_options options = {0};
    struct config *config = NULL;
    const char *what, *operand;
    int left, code = read_options(cli, argc, argv, &options);

    if (code)
        return code;
    left = argc - optind;
    what = left > 0 ? argv[optind] : "";
    operand = left > 1 ? argv[optind + 1] : NULL;
    if (strcmp(what, "import") && strcmp(what, "list") && strcmp(what, "remove"))
        return cli_usage(cli, "say what to do: import, list or remove");
    if (left != (what[0] == 'l' ? 1 : 2))
        return cli_usage(cli, what[0] == 'i'   ? "import takes one FILE.csv (or \"-\")"
                              : what[0] == 'l' ? "list takes options only"
                                               : "remove takes one ID");
    if (options.replace && what[0] != 'i')
        return cli_usage(cli, "--replace goes with import");
    if (options.json && what[0] != 'l')
        return cli_usage(cli, "--json goes with list");
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    cli_step_back();
    if (what[0] == 'i')
        code = import(cli, config, operand, &options);
    else if (what[0] == 'l')
        code = list(cli, config, &options);
    else
        code = remove_candidate(cli, config, operand, &options);
    config_free(config);
    return code;
}
