/* examhook export --respondent ID: all that is held of one person, from every file. */
#include <string.h>

#include "output.h"
#include "person.h"
#include "rows.h"
#include "../common/json.h"

#define PAGE 500

struct sink {
    struct cli *cli;
    struct person *person;
    const char *id, *account; /* of the event or session that is asked for */
    enum store_status status;
};

static void begin(struct buf *object, const char *kind)
{
    buf_addc(object, '{');
    json_add_member(object, "kind", kind);
}

static void end(struct sink *sink, struct buf *object)
{
    buf_addc(object, '}');
    output_json(sink->cli->out, object);
    buf_release(object);
}

static bool put_line(void *context, const struct candidate *candidate)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    if (sink->person->accounts->count && !texts_have(sink->person->accounts, candidate->account))
        return true;
    begin(&object, "candidate");
    rows_candidate_members(&object, candidate);
    end(sink, &object);
    return true;
}

static bool put_delivery(void *context, const struct store_delivery_row *row)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    begin(&object, "delivery");
    json_add_member(&object, "id", sink->id);
    json_add_member_int(&object, "number", row->number);
    output_member_time(&object, "received_at", row->received_at_ms);
    output_member_json(&object, "body", row->body);
    end(sink, &object);
    return true;
}

static bool put_event(void *context, const struct store_event_row *row)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    begin(&object, texts_have(&sink->person->undecided, row->id) ? "mention" : "event");
    rows_event_members(&object, row);
    if (row->has_admitted_on)
        output_member_time(&object, "admitted_on", row->admitted_on_ms);
    end(sink, &object);
    return true;
}

static bool put_session(void *context, const struct store_session_row *row)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    if (strcmp(row->account, sink->account) || strcmp(row->session_uuid, sink->id))
        return true; /* another's, of which a callback claimed this one's UUID */
    begin(&object, "session");
    rows_session_members(&object, row);
    json_add_member(&object, "claimed_external_id", row->claimed_external_id);
    output_member_time(&object, "first_seen_at", row->first_seen_at_ms);
    output_member_json(&object, "reply", row->reply);
    end(sink, &object);
    return true;
}

/* Of a row that only mentions the id no more than its own id: it may be another's. */
static void put_mention(struct sink *sink, const char *id)
{
    struct buf object = BUF_INIT;

    begin(&object, "mention");
    json_add_member(&object, "id", id);
    end(sink, &object);
}

static enum store_status put_events(struct sink *sink)
{
    const struct person *person = sink->person;
    enum store_status status = STORE_OK;

    for (size_t i = 0; i < person->events.count && !status; i++) {
        struct store_filter filter = {.id = person->events.list[i]};
        struct store_cursor cursor = STORE_CURSOR_START;
        bool more;

        sink->id = filter.id;
        status = store_events(person->store, &filter, &cursor, 1, put_event, sink, &more);
        if (!status)
            status = store_deliveries(person->store, filter.id, put_delivery, sink);
        status = status == STORE_ABSENT ? STORE_OK : status; /* purged meanwhile */
    }
    return status;
}

static enum store_status put_sessions(struct sink *sink)
{
    const struct person *person = sink->person;
    enum store_status status = STORE_OK;

    for (size_t i = 0; i < person->session_count && !status; i++) {
        struct store_filter filter = {.person = person->sessions[i].uuid};
        struct store_cursor cursor = STORE_CURSOR_START;

        sink->id = filter.person;
        sink->account = person->sessions[i].account;
        for (bool more = true; more && !status;) {
            more = false;
            status = store_sessions(person->store, &filter, &cursor, PAGE, put_session, sink, &more);
        }
    }
    return status;
}

static int put_all(struct cli *cli, struct person *person)
{
    struct sink sink = {.cli = cli, .person = person};
    struct roster_filter filter = {.id = person->id};
    enum store_status status = store_roster_list(person->store, &filter, put_line, &sink);

    if (!status)
        status = put_events(&sink);
    if (!status)
        status = put_sessions(&sink);
    for (size_t i = 0; i < person->undecided.count && !status; i++)
        put_mention(&sink, person->undecided.list[i]);
    return status ? cli_store_failed(cli, person->store, status, "the export is not whole") : CLI_FINE;
}

int person_export(struct cli *cli, const struct config *config, const char *id, const struct texts *accounts)
{
    const struct texts none = {0};
    struct person person = {.config = config, .id = id, .accounts = accounts, .also = &none};
    struct buf why = BUF_INIT;
    int code = cli_store(cli, config, 0, STORE_ALL, &person.store);

    if (code)
        return code;
    if (person_gather(&person))
        code = cli_store_failed(cli, person.store, person.status, "nothing was exported");
    else if (person_is_ambiguous(&person, &why))
        code = cli_failed(cli, "%s", buf_str(&why));
    else if (person_empty(&person) && !person.undecided.count)
        code = cli_failed(cli, "nothing is stored about that id");
    else
        code = put_all(cli, &person);
    if (!code && !person.has_secret)
        code = cli_failed(
            cli, "what was typed before the person was in the roster is missing: identity.key cannot "
                 "be read by this user");
    buf_release(&why);
    person_release(&person);
    store_free(person.store);
    return code;
}
