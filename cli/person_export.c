/*
 * examhook export --respondent ID: all that is held of one person, from every file. It writes what it knows
 * before it looks on: the roster's lines, then events as the indexes find them, callbacks, sessions, then
 * what is found in the bodies, page by page. Several people of that id are a refusal whenever they turn up,
 * and nothing of the second one is written.
 */
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "person.h"
#include "rows.h"
#include "../common/json.h"

#define PAGE 500

struct find {
    char *id;
    bool theirs;
};
struct sink {
    struct cli *cli;
    struct person *person;
    const char *id, *account; /* of the event or session that is asked for */
    bool begun;               /* something was written */
    size_t events_put;        /* of the person's events so many were looked at, and ExamJoint's written */
    struct find finds[PAGE];  /* of one page of the search, in order */
    size_t find_count;
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
    sink->begun = true;
}

static bool put_line(void *context, const struct candidate *candidate)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    /* Not those of an import in between: nobody has looked whether they are another's. */
    if (!texts_have(&sink->person->exam_accounts, candidate->account))
        return true;
    begin(&object, "candidate");
    rows_candidate_members(&object, candidate);
    end(sink, &object);
    return output_alive(sink->cli->out);
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
    return output_alive(sink->cli->out);
}

static bool put_event(void *context, const struct store_event_row *row)
{
    struct sink *sink = context;
    struct buf object = BUF_INIT;

    begin(&object, "event");
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

static void put_event_of(struct sink *sink, const char *id)
{
    struct person *person = sink->person;
    struct store_filter filter = {.id = id};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more;

    sink->id = id;
    person->failed = person->store;
    person->status = store_events(person->store, &filter, &cursor, 1, put_event, sink, &more);
    if (!person->status)
        person->status = store_deliveries(person->store, id, put_delivery, sink);
    if (person->status == STORE_ABSENT) /* purged meanwhile */
        person->status = STORE_OK;
}

/* False: an error, or nobody reads on. */
static bool going(const struct sink *sink)
{
    return !sink->person->status && output_alive(sink->cli->out);
}

/* ExamJoint's that were found since it was called last. False: no more are wanted. */
static bool put_new_events(void *context)
{
    struct sink *sink = context;
    const struct texts *events = &sink->person->events;

    /* Then the rest is read to name all the accounts. */
    bool writes = !person_is_ambiguous(sink->person, NULL);
    for (; writes && sink->events_put < events->count && going(sink); sink->events_put++) {
        if (events->list[sink->events_put][0] == 'e')
            put_event_of(sink, events->list[sink->events_put]);
    }
    fflush(sink->cli->out);
    return going(sink);
}

static void put_callbacks(struct sink *sink)
{
    const struct texts *events = &sink->person->events;

    for (size_t i = 0; i < events->count && going(sink); i++) {
        if (events->list[i][0] == 'c')
            put_event_of(sink, events->list[i]);
    }
}

static void put_sessions(struct sink *sink)
{
    struct person *person = sink->person;

    for (size_t i = 0; i < person->session_count && going(sink); i++) {
        struct store_filter filter = {.person = person->sessions[i].uuid};
        struct store_cursor cursor = STORE_CURSOR_START;

        sink->id = filter.person;
        sink->account = person->sessions[i].account;
        for (bool more = true; more && going(sink);) {
            more = false;
            person->failed = person->proctoring;
            person->status =
                store_sessions(person->proctoring, &filter, &cursor, PAGE, put_session, sink, &more);
        }
    }
}

static bool keep_find(void *context, const char *id, bool theirs)
{
    struct sink *sink = context;

    if (theirs && person_is_ambiguous(sink->person, NULL))
        return false;
    sink->finds[sink->find_count++] = (struct find){.id = xstrdup(id), .theirs = theirs};
    return sink->find_count < PAGE;
}

/* The page's finds, when the page was let go. */
static void put_finds(struct sink *sink)
{
    for (size_t i = 0; i < sink->find_count && going(sink); i++) {
        if (sink->finds[i].theirs)
            put_event_of(sink, sink->finds[i].id);
        else
            put_mention(sink, sink->finds[i].id);
    }
    while (sink->find_count)
        free(sink->finds[--sink->find_count].id);
}

static void put_roster(struct sink *sink)
{
    struct person *person = sink->person;
    struct roster_filter filter = {.id = person->id};

    if (person->line_count) {
        person->failed = person->store;
        person->status = store_roster_list(person->store, &filter, put_line, sink);
    }
    fflush(sink->cli->out);
}

static void put_proctoring(struct sink *sink)
{
    const struct texts *undecided = &sink->person->undecided;

    put_callbacks(sink);
    put_sessions(sink);
    for (size_t i = 0; i < undecided->count && going(sink); i++)
        put_mention(sink, undecided->list[i]);
    fflush(sink->cli->out);
}

/* What is in reach of an index comes before the store is searched. False: it has come to an end before. */
static bool put_known(struct sink *sink)
{
    struct person *person = sink->person;

    person_read_roster(person);
    person_read_proctoring(person);
    if (!going(sink) || person_is_ambiguous(person, NULL))
        return false;
    put_roster(sink);
    if (!going(sink))
        return false;
    person->after_page = put_new_events;
    person->after_context = sink;
    person_read_events(person);
    person->after_page = NULL;
    if (!going(sink) || person_is_ambiguous(person, NULL))
        return false;
    put_proctoring(sink);
    return true;
}

static void put_all(struct sink *sink)
{
    struct person *person = sink->person;
    struct store_cursor cursor = STORE_CURSOR_START;

    for (bool more = put_known(sink); more && going(sink) && !person_is_ambiguous(person, NULL);) {
        more = person_search_page(person, &cursor, keep_find, sink);
        put_finds(sink);
        fflush(sink->cli->out);
    }
}

static int said(struct cli *cli, const struct sink *sink)
{
    const struct person *person = sink->person;
    struct buf why = BUF_INIT;
    int code = CLI_FINE;

    if (person->status)
        code = cli_store_failed(cli, person->failed, person->status,
                                sink->begun ? "the export is not whole" : "nothing was exported");
    else if (person_is_ambiguous(person, &why))
        code = cli_failed(cli, "%s%s", buf_str(&why), sink->begun ? "; what was written is not whole" : "");
    else if (!sink->begun)
        code = cli_failed(cli, "nothing is stored about that id");
    else if (!person->has_secret)
        code = cli_failed(
            cli, "what was typed before the person was in the roster is missing: identity.key cannot "
                 "be read by this user");
    buf_release(&why);
    return code;
}

int person_export(struct cli *cli, const struct config *config, const char *id, const struct texts *accounts)
{
    const struct texts none = {0};
    struct person person = {.config = config, .id = id, .accounts = accounts, .also = &none};
    struct sink sink = {.cli = cli, .person = &person};
    int code = cli_store(cli, config, 0, STORE_ALL | STORE_THREADS, &person.store);

    if (!code)
        code = cli_store(cli, config, 0, STORE_PROVIEW | STORE_RATINGS, &person.proctoring);
    if (!code) {
        put_all(&sink);
        code = said(cli, &sink);
    }
    person_release(&person);
    store_free(person.proctoring);
    store_free(person.store);
    return code;
}
