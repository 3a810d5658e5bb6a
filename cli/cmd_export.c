/* examhook export */
#include <getopt.h>
#include <string.h>

#include "cli.h"
#include "output.h"
#include "person.h"
#include "rows.h"
#include "../common/json.h"

#define PAGE 500

enum { KEY_FORMAT = 'f', KEY_WHAT = 'w', KEY_SINCE = 's', KEY_RESPONDENT = 'r', KEY_ACCOUNT = 'a' };

const struct cli_option cmd_export_options[] = {
    {"format", "FORMAT", KEY_FORMAT, "json (one object a line, the default) or csv (RFC 4180)"},
    {"what", "KIND", KEY_WHAT, "events or sessions"},
    {"since", "T", KEY_SINCE, "only what was received from then on: a time, or how long ago (2h)"},
    {"respondent", "ID", KEY_RESPONDENT, "all that is held of one person instead, as JSON"},
    {"account", "A", KEY_ACCOUNT, "with --respondent: only in that account (several times: in each of them)"},
    {NULL, NULL, 0, NULL},
};

struct export_options {
    const char *since, *respondent;
    struct texts accounts;
    bool csv, events, sessions;
};

static int read_options(struct cli *cli, int argc, char **argv, struct export_options *options)
{
    const char *value, *format = "json", *what = NULL;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_FORMAT)
            format = value;
        else if (key == KEY_WHAT)
            what = value;
        else if (key == KEY_SINCE)
            options->since = value;
        else if (key == KEY_RESPONDENT)
            options->respondent = value;
        else if (key == KEY_ACCOUNT)
            texts_add(&options->accounts, value);
        else
            return CLI_USAGE;
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    options->csv = !strcmp(format, "csv");
    if (!options->csv && strcmp(format, "json"))
        return cli_usage(cli, "--format is csv or json");
    if (options->respondent && (options->csv || what || options->since || !options->respondent[0]))
        return cli_usage(cli, "--respondent needs an ID and gives all there is, as JSON");
    if (options->accounts.count && !options->respondent)
        return cli_usage(cli, "--account goes with --respondent");
    options->events = !what || !strcmp(what, "events");
    options->sessions = what ? !strcmp(what, "sessions") : !options->csv;
    if (!options->events && !options->sessions)
        return cli_usage(cli, "--what is events or sessions");
    return CLI_FINE;
}

struct sink {
    FILE *out;
    bool csv;
};

static void begin(struct buf *object, const char *kind)
{
    buf_addc(object, '{');
    json_add_member(object, "kind", kind);
}

static bool put_event(void *context, const struct store_event_row *row)
{
    const struct sink *sink = context;
    struct buf object = BUF_INIT;

    if (sink->csv) {
        rows_event_csv(sink->out, row);
    } else {
        begin(&object, "event");
        rows_event_members(&object, row);
        buf_addc(&object, '}');
        output_json(sink->out, &object);
    }
    buf_release(&object);
    return output_alive(sink->out);
}

static bool put_session(void *context, const struct store_session_row *row)
{
    const struct sink *sink = context;
    struct buf object = BUF_INIT;

    if (sink->csv) {
        rows_session_csv(sink->out, row);
    } else {
        begin(&object, "session");
        rows_session_members(&object, row);
        buf_addc(&object, '}');
        output_json(sink->out, &object);
    }
    buf_release(&object);
    return output_alive(sink->out);
}

static enum store_status put_events(struct store *store, const struct store_filter *filter, struct sink *sink)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;

    if (sink->csv)
        rows_event_csv_header(sink->out);
    while (more && !status && output_alive(sink->out)) {
        more = false;
        status = store_events(store, filter, &cursor, PAGE, put_event, sink, &more);
    }
    return status;
}

static enum store_status put_sessions(struct store *store, const struct store_filter *filter,
                                      struct sink *sink)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;

    if (sink->csv)
        rows_session_csv_header(sink->out);
    while (more && !status && output_alive(sink->out)) {
        more = false;
        status = store_sessions(store, filter, &cursor, PAGE, put_session, sink, &more);
    }
    return status;
}

static int run(struct cli *cli, const struct config *config, const struct export_options *options)
{
    struct store_filter filter = {0};
    struct sink sink = {cli->out, options->csv};
    unsigned areas =
        (options->events ? STORE_EXAMJOINT | STORE_PROVIEW : 0) | (options->sessions ? STORE_RATINGS : 0);
    struct store *store;
    enum store_status status = STORE_OK;
    int code;

    if (options->since && !cli_since(config, options->since, &filter.since_ms))
        return cli_usage(cli, "--since needs a time (2026-11-22T09:00:00Z) or how long ago (2h)");
    code = cli_store(cli, config, 0, areas, &store);
    if (code)
        return code;
    if (options->events)
        status = put_events(store, &filter, &sink);
    if (!status && options->sessions)
        status = put_sessions(store, &filter, &sink);
    if (status)
        code = cli_store_failed(cli, store, status, "the export is not whole");
    store_free(store);
    return code;
}

int cmd_export(struct cli *cli, int argc, char **argv)
{
    struct export_options options = {0};
    struct config *config = NULL;
    int code = read_options(cli, argc, argv, &options);

    if (!code)
        code = cli_config(cli, cli->command->role, &config);
    if (!code) {
        cli_step_back();
        code = options.respondent ? person_export(cli, config, options.respondent, &options.accounts)
                                  : run(cli, config, &options);
    }
    texts_release(&options.accounts);
    config_free(config);
    return code;
}
