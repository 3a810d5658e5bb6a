/* examhook events */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "output.h"
#include "rows.h"

#define PAGE 500
#define POLL_NS (500 * 1000 * 1000L)

enum {
    KEY_JSON = 'j',
    KEY_SINCE = 's',
    KEY_FOLLOW = 'f',
    KEY_QUARANTINED = 'q',
    KEY_LIMIT = 'n',
    KEY_ACCOUNT = 'a'
};

const struct cli_option cmd_events_options[] = {
    {"json", NULL, KEY_JSON, "one JSON object a line"},
    {"since", "T", KEY_SINCE, "only what was received from then on: a time, or how long ago (2h)"},
    {"follow", NULL, KEY_FOLLOW, "go on with what comes, until Ctrl-C"},
    {"quarantined", NULL, KEY_QUARANTINED, "only what could not be made sense of"},
    {"limit", "N", KEY_LIMIT, "stop after N events"},
    {"account", "A", KEY_ACCOUNT, "only that account's; what a rehearsal does is shown in no other way"},
    {NULL, NULL, 0, NULL},
};

static volatile sig_atomic_t stop_asked;

static void ask_stop(int signal_number)
{
    (void)signal_number;
    stop_asked = 1;
}

struct listing {
    FILE *out;
    struct table *table; /* NULL: JSON */
    bool follow;
    int64_t left; /* events still to be shown */
};

struct event_options {
    const char *since, *account;
    bool json, follow, quarantined;
    int64_t limit;
};

static int read_options(struct cli *cli, int argc, char **argv, struct event_options *options)
{
    const char *value;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_JSON)
            options->json = true;
        else if (key == KEY_SINCE)
            options->since = value;
        else if (key == KEY_FOLLOW)
            options->follow = true;
        else if (key == KEY_QUARANTINED)
            options->quarantined = true;
        else if (key == KEY_ACCOUNT)
            options->account = value;
        else if (key != KEY_LIMIT)
            return CLI_USAGE;
        else if (!cli_number(value, 1, INT64_MAX, &options->limit))
            return cli_usage(cli, "--limit needs a whole number from 1");
    }
    return optind < argc ? cli_usage(cli, "there is nothing to be named here") : CLI_FINE;
}

static void show_json(FILE *out, const struct store_event_row *row)
{
    struct buf object = BUF_INIT;

    buf_addc(&object, '{');
    rows_event_members(&object, row);
    buf_addc(&object, '}');
    output_json(out, &object);
    buf_release(&object);
}

static void show_row(struct table *table, const struct store_event_row *row)
{
    const char *who = row->respondent_id ? row->respondent_id
                      : row->identity    ? row->identity
                                         : row->session_uuid;
    struct buf note = BUF_INIT;

    rows_event_note(&note, row);
    table_cell(table, row->id);
    table_cell_time(table, row->received_at_ms);
    table_cell(table, row->account);
    table_cell(table, row->event);
    table_cell(table, row->exam_id ? row->exam_id : row->external_id);
    table_cell(table, who);
    table_cell_number(table, row->deliveries);
    table_cell(table, row->outcome);
    table_cell(table, buf_str(&note));
    table_row_end(table);
    buf_release(&note);
}

static bool show(void *context, const struct store_event_row *row)
{
    struct listing *listing = context;

    if (listing->table)
        show_row(listing->table, row);
    else
        show_json(listing->out, row);
    if (listing->follow && !listing->table)
        fflush(listing->out);
    return --listing->left > 0 && !stop_asked && output_alive(listing->out);
}

static bool go_on(const struct listing *listing)
{
    return !stop_asked && listing->left > 0 && output_alive(listing->out);
}

static enum store_status pages(struct store *store, const struct store_filter *filter,
                               struct listing *listing)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;

    while (go_on(listing) && (more || listing->follow)) {
        size_t page = listing->left < PAGE ? (size_t)listing->left : PAGE;

        more = false;
        status = store_events(store, filter, &cursor, page, show, listing, &more);
        if (status == STORE_BUSY && listing->follow)
            status = STORE_OK; /* the next look will do */
        if (status)
            break;
        if (listing->table)
            table_flush(listing->table);
        if (!more && listing->follow && go_on(listing))
            nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
    return status;
}

/* A signal ends the wait and the listing, so that what was begun is written out. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_stop};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int list(struct cli *cli, const struct config *config, const struct event_options *options,
                const struct store_filter *filter)
{
    static const struct table_column columns[] = {{"ID", 0},     {"RECEIVED (UTC)", 0}, {"ACCOUNT", 20},
                                                  {"EVENT", 32}, {"EXAM/EXTERNAL", 32}, {"WHO", 48},
                                                  {"TIMES", 0},  {"OUTCOME", 12},       {"NOTE", 40}};
    struct listing listing = {
        .out = cli->out, .follow = options->follow, .left = options->limit ? options->limit : INT64_MAX};
    struct store *store;
    enum store_status status;
    int code = cli_store(cli, config, 0, STORE_EXAMJOINT | STORE_PROVIEW, &store);

    if (code)
        return code;
    if (options->follow)
        catch_signals();
    if (!options->json)
        listing.table = table_new(cli->out, columns, sizeof(columns) / sizeof(columns[0]));
    status = pages(store, filter, &listing);
    table_free(listing.table);
    if (status)
        code = cli_store_failed(cli, store, status, "reading the events");
    store_free(store);
    return code;
}

int cmd_events(struct cli *cli, int argc, char **argv)
{
    struct event_options options = {0};
    struct store_filter filter = {0};
    struct config *config = NULL;
    int code = read_options(cli, argc, argv, &options);

    if (code)
        return code;
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    cli_step_back();
    filter.quarantined = options.quarantined;
    filter.account = options.account;
    if (options.since && !cli_since(config, options.since, &filter.since_ms))
        code = cli_usage(cli, "--since needs a time (2026-11-22T09:00:00Z) or how long ago (2h)");
    else
        code = list(cli, config, &options, &filter);
    config_free(config);
    return code;
}
