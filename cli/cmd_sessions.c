/* examhook sessions */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "output.h"
#include "rows.h"

#define PAGE 500

enum { KEY_JSON = 'j', KEY_STATE = 't', KEY_SINCE = 's', KEY_ACCOUNT = 'a' };

const struct cli_option cmd_sessions_options[] = {
    {"json", NULL, KEY_JSON, "one JSON object a line, with the history of the rating"},
    {"state", "STATE", KEY_STATE, "only those that are pending, rated or parked"},
    {"since", "T", KEY_SINCE, "only those first seen from then on: a time, or how long ago (2h)"},
    {"account", "A", KEY_ACCOUNT, "only that account's; what a rehearsal does is shown in no other way"},
    {NULL, NULL, 0, NULL},
};

struct listing {
    FILE *out;
    struct table *table; /* NULL: JSON */
};

static void show_json(FILE *out, const struct store_session_row *row)
{
    struct buf object = BUF_INIT;

    buf_addc(&object, '{');
    rows_session_members(&object, row);
    buf_addc(&object, '}');
    output_json(out, &object);
    buf_release(&object);
}

static bool show(void *context, const struct store_session_row *row)
{
    struct listing *listing = context;
    struct table *table = listing->table;

    if (!table) {
        show_json(listing->out, row);
        return output_alive(listing->out);
    }
    table_cell(table, row->session_uuid);
    table_cell(table, row->account);
    table_cell(table, row->external_id ? row->external_id : row->claimed_external_id);
    table_cell(table, row->state);
    table_cell(table, row->rating_raw ? row->rating_raw : row->rating);
    table_cell(table, row->status);
    table_cell(table, row->type);
    table_cell_number(table, row->attempts);
    table_cell(table, row->last_error);
    table_cell_time(table, row->next_attempt_at_ms);
    table_cell_time(table, row->rated_at_ms);
    table_row_end(table);
    return output_alive(listing->out);
}

static int list(struct cli *cli, const struct config *config, const struct store_filter *filter, bool json)
{
    static const struct table_column columns[] = {
        {"SESSION", 0},    {"ACCOUNT", 20}, {"EXTERNAL", 32}, {"STATE", 0},       {"RATING", 16},
        {"STATUS", 16},    {"TYPE", 20},    {"ATTEMPTS", 0},  {"LAST ERROR", 40}, {"NEXT ATTEMPT (UTC)", 0},
        {"RATED (UTC)", 0}};
    struct listing listing = {.out = cli->out};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store *store;
    enum store_status status = STORE_OK;
    bool more = true;
    int code = cli_store(cli, config, 0, STORE_RATINGS, &store);

    if (code)
        return code;
    if (!json)
        listing.table = table_new(cli->out, columns, sizeof(columns) / sizeof(columns[0]));
    while (more && !status && output_alive(cli->out)) {
        more = false;
        status = store_sessions(store, filter, &cursor, PAGE, show, &listing, &more);
        if (listing.table)
            table_flush(listing.table);
    }
    table_free(listing.table);
    if (status)
        code = cli_store_failed(cli, store, status, "reading the sessions");
    store_free(store);
    return code;
}

static bool state_known(const char *state)
{
    return !strcmp(state, "pending") || !strcmp(state, "rated") || !strcmp(state, "parked");
}

int cmd_sessions(struct cli *cli, int argc, char **argv)
{
    struct store_filter filter = {0};
    struct config *config = NULL;
    const char *value, *since = NULL;
    bool json = false;
    int code;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_JSON)
            json = true;
        else if (key == KEY_STATE)
            filter.state = value;
        else if (key == KEY_SINCE)
            since = value;
        else if (key == KEY_ACCOUNT)
            filter.account = value;
        else
            return CLI_USAGE;
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    if (filter.state && !state_known(filter.state))
        return cli_usage(cli, "--state is pending, rated or parked");
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    cli_step_back();
    if (since && !cli_since(config, since, &filter.since_ms))
        code = cli_usage(cli, "--since needs a time (2026-11-22T09:00:00Z) or how long ago (2h)");
    else
        code = list(cli, config, &filter, json);
    config_free(config);
    return code;
}
