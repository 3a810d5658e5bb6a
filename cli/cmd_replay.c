/* examhook replay ID...: quarantined events, read anew. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "../common/buf.h"
#include "../common/event.h"
#include "../common/json.h"
#include "../common/throttle.h"

const struct cli_option cmd_replay_options[] = {{NULL, NULL, 0, NULL}};

/* What is needed of the stored row; its own texts die with the listing. */
struct kept {
    bool found;
    int64_t received_at_ms;
    char *account, *body;
};

static bool keep(void *context, const struct store_event_row *row)
{
    struct kept *kept = context;

    if (!row->quarantined)
        return false;
    kept->found = true;
    kept->received_at_ms = row->received_at_ms;
    kept->account = xstrdup(row->account);
    kept->body = xstrdup(row->body ? row->body : "");
    return false;
}

static enum store_status find(struct store *store, const char *id, struct kept *kept)
{
    struct store_filter filter = {.id = id, .quarantined = true};
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;

    while (more && !status && !kept->found) {
        more = false;
        status = store_events(store, &filter, &cursor, 1, keep, kept, &more);
    }
    return status;
}

static enum store_status release(struct store *store, const char *id, const struct store_event *event)
{
    enum store_status status = cli_change_begin(store, STORE_EXAMJOINT);
    return status ? status : cli_change_end(store, store_event_release(store, id, event));
}

static int replay_event(struct cli *cli, struct store *store, const char *id, const struct kept *kept,
                        const struct event *event)
{
    unsigned char secret[STORE_KEY_BYTES], digest[32], key[EVENT_KEY_BYTES];
    struct store_event stored = {.received_at_ms = kept->received_at_ms,
                                 .account = kept->account,
                                 .event = event->name,
                                 .exam_id = event->exam_id,
                                 .respondent_id = event->respondent_id,
                                 .has_admitted_on = event->has_admitted_on,
                                 .admitted_on_ms = event->admitted_on_ms,
                                 .reason = "replayed",
                                 .body = kept->body,
                                 .key = key};
    enum store_status status = store_identity_key(store, secret);

    if (!status) {
        throttle_body_digest(secret, kept->body, strlen(kept->body), digest);
        event_key(kept->account, event, digest, key);
        status = release(store, id, &stored);
    }
    explicit_bzero(secret, sizeof(secret));
    if (status == STORE_ABSENT)
        return cli_failed(cli, "%s is in quarantine no longer", id);
    if (status)
        return cli_store_failed(cli, store, status, id);
    fprintf(cli->out, "%s is taken as %s\n", id,
            event->kind == EVENT_UNKNOWN ? "an unknown event" : event->name);
    return CLI_FINE;
}

static int replay_body(struct cli *cli, struct store *store, const char *id, const struct kept *kept)
{
    struct json_doc *doc = NULL;
    struct event event;
    const char *member = "", *name;
    enum event_status read;
    int code;

    if (json_parse(kept->body, strlen(kept->body), &doc))
        return cli_failed(cli, "%s: what was kept of it is no JSON object", id);
    name = json_string(json_member(json_root(doc), "event"));
    read = event_read(json_root(doc), true, &event, &member);
    if ((name && !strcmp(name, "verify_respondent")) || (!read && event.kind == EVENT_VERIFY))
        code = cli_failed(cli,
                          "%s: a verification cannot be replayed: its password was never kept, and the "
                          "candidate was answered then",
                          id);
    else if (read)
        code = cli_failed(cli, "%s still makes no sense (%s: %s) and stays", id, event_status_word(read),
                          member);
    else
        code = replay_event(cli, store, id, kept, &event);
    json_free(doc);
    return code;
}

static int replay(struct cli *cli, struct store *store, const char *id)
{
    struct kept kept = {0};
    enum store_status status = find(store, id, &kept);
    int code;

    if (status && status != STORE_ABSENT)
        code = cli_store_failed(cli, store, status, id);
    else if (!kept.found)
        code = cli_failed(cli, "%.40s: no quarantined event of that id (examhook events --quarantined)", id);
    else
        code = replay_body(cli, store, id, &kept);
    free(kept.account);
    wipe_free(kept.body);
    return code;
}

int cmd_replay(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    struct store *store = NULL;
    const char *value;
    int code;

    if (cli_option_next(cli, argc, argv, &value) != -1)
        return CLI_USAGE;
    if (optind == argc)
        return cli_usage(cli, "needs one or more IDs");
    code = cli_config(cli, cli->command->role, &config);
    if (!code)
        code = cli_store(cli, config, STORE_EXAMJOINT, 0, &store);
    for (int i = optind, opened = !code; i < argc && opened; i++) {
        int one = replay(cli, store, argv[i]);

        code = code ? code : one;
    }
    store_free(store);
    config_free(config);
    return code;
}
