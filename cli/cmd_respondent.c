/* examhook respondent ID: one person's story in order, from both services; or erased. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "output.h"
#include "person.h"
#include "rows.h"
#include "../common/json.h"

#define PAGE 500

enum { KEY_JSON = 'j', KEY_ERASE = 'e', KEY_YES = 'y', KEY_ACCOUNT = 'a', KEY_ALSO = 'b' };

const struct cli_option cmd_respondent_options[] = {
    {"json", NULL, KEY_JSON, "one JSON object a line, each with \"at\" and \"kind\""},
    {"erase", NULL, KEY_ERASE, "erase the person from every file; what is counted stays, without a name"},
    {"yes", NULL, KEY_YES, "with --erase: without asking"},
    {"account", "A", KEY_ACCOUNT, "with --erase: only in that account (several times: in each of them)"},
    {"also", "EVENT", KEY_ALSO, "with --erase: that event too (e12), which only mentions the person"},
    {NULL, NULL, 0, NULL},
};

/* What happened at the same time is told in this order, and within each as it was found. */
enum rank { RANK_EVENT, RANK_OTHER, RANK_DELIVERY };

/* One thing that happened. */
struct entry {
    int64_t at_ms;
    enum rank rank;
    size_t order; /* as found */
    char *source, *what, *about;
    char *json;
    char *repeated; /* the event's id where it was delivered more than once, else NULL */
};

/*
 * What proctoring has of a person is found at once: one thing leads to another there. What ExamJoint sent is
 * looked for part by part of all it sent, and told as far as that was read, with what happened in between: it
 * may be much, and all it sent is more.
 */
struct story {
    struct store *events, *others; /* ExamJoint's area; Proview's, and the ratings */
    const struct store *failed;    /* the one that `status` is of */
    enum store_status status;
    enum rank rank;        /* of what is found now */
    struct entry *entries; /* found, and not told yet */
    size_t count, room, found, told;
    char **seen; /* ids of callbacks and sessions that are in it already */
    size_t seen_count;
    char **sessions; /* session_uuids met on the way */
    size_t session_count;
    FILE *out;
    bool json;
    struct table *table; /* from the first line on, unless it is JSON */
};

static bool has_text(char *const *texts, size_t count, const char *text)
{
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(texts[i], text))
            return true;
    }
    return false;
}

/* Adds the text unless it is there. True: it was new. */
static bool add_unique(char ***texts, size_t *count, const char *text)
{
    if (has_text(*texts, *count, text))
        return false;
    *texts = xrealloc(*texts, (*count + 1) * sizeof(**texts));
    (*texts)[(*count)++] = xstrdup(text);
    return true;
}

/* Takes the JSON object's further members out of `json`. */
static void add_entry(struct story *story, int64_t at_ms, const char *source, const char *what,
                      const char *about, const struct buf *json)
{
    if (story->count == story->room) {
        story->room = story->room ? story->room * 2 : 64;
        story->entries = xrealloc(story->entries, story->room * sizeof(*story->entries));
    }
    story->entries[story->count] = (struct entry){.at_ms = at_ms,
                                                  .rank = story->rank,
                                                  .order = story->found++,
                                                  .source = xstrdup(source ? source : ""),
                                                  .what = xstrdup(what ? what : "?"),
                                                  .about = xstrdup(about),
                                                  .json = xstrdup(buf_str(json))};
    story->count++;
}

static void begin_json(struct buf *json, int64_t at_ms, const char *kind)
{
    buf_addc(json, '{');
    output_member_time(json, "at", at_ms);
    json_add_member(json, "kind", kind);
}

static void say(struct buf *about, const char *name, const char *value)
{
    if (value && value[0])
        buf_addf(about, "%s%s%s%s", about->len ? ", " : "", name, name[0] ? " " : "", value);
}

static bool take_event(void *context, const struct store_event_row *row)
{
    struct story *story = context;
    struct buf json = BUF_INIT, about = BUF_INIT;

    /* An event of the person's own pages comes once, and there may be many. */
    if (story->rank != RANK_EVENT && !add_unique(&story->seen, &story->seen_count, row->id))
        return true;
    if (row->session_uuid)
        add_unique(&story->sessions, &story->session_count, row->session_uuid);
    begin_json(&json, row->received_at_ms, "event");
    rows_event_members(&json, row);
    buf_addc(&json, '}');
    say(&about, "", row->outcome);
    say(&about, "", row->reason);
    say(&about, "exam", row->exam_id);
    say(&about, "respondent", row->respondent_id);
    say(&about, "session", row->session_uuid);
    say(&about, "external", row->external_id);
    say(&about, "flags", row->flags);
    say(&about, "account", row->account); /* two accounts' candidates may share an id */
    say(&about, "as", row->id);
    add_entry(story, row->received_at_ms, row->source, row->event, buf_str(&about), &json);
    buf_release(&json);
    buf_release(&about);
    if (row->deliveries > 1)
        story->entries[story->count - 1].repeated = xstrdup(row->id);
    return true;
}

static void take_rating(struct story *story, const struct store_session_row *row,
                        const struct store_rating_change *change)
{
    struct buf json = BUF_INIT, about = BUF_INIT;

    begin_json(&json, change->at_ms, "rating");
    json_add_member(&json, "session_uuid", row->session_uuid);
    json_add_member(&json, "account", row->account);
    json_add_member(&json, "external_id", row->external_id);
    json_add_member(&json, "rating", change->rating);
    json_add_member(&json, "rating_raw", change->rating_raw);
    json_add_member(&json, "status", change->status);
    buf_addc(&json, '}');
    say(&about, "", change->rating_raw ? change->rating_raw : "no rating");
    say(&about, "status", change->status);
    say(&about, "session", row->session_uuid);
    add_entry(story, change->at_ms, "proview", "rating", buf_str(&about), &json);
    buf_release(&json);
    buf_release(&about);
}

static bool take_session(void *context, const struct store_session_row *row)
{
    struct story *story = context;
    struct buf json = BUF_INIT, about = BUF_INIT, name = BUF_INIT;
    char next[OUTPUT_TIME_BYTES];
    bool known;

    buf_addf(&name, "%s/%s", row->account, row->session_uuid);
    known = !add_unique(&story->seen, &story->seen_count, buf_str(&name));
    buf_release(&name);
    if (known)
        return true;
    add_unique(&story->sessions, &story->session_count, row->session_uuid);
    begin_json(&json, row->first_seen_at_ms, "session");
    rows_session_members(&json, row);
    buf_addc(&json, '}');
    say(&about, "now", row->state);
    say(&about, "session", row->session_uuid);
    say(&about, "external", row->external_id);
    say(&about, "type", row->type);
    say(&about, "last error", row->last_error);
    say(&about, "next attempt", output_time(row->next_attempt_at_ms, next));
    add_entry(story, row->first_seen_at_ms, "proview", "session", buf_str(&about), &json);
    buf_release(&json);
    buf_release(&about);
    for (size_t i = 0; i < row->history_count; i++)
        take_rating(story, row, &row->history[i]);
    return true;
}

static void read_status(struct story *story, const struct store *store, enum store_status status)
{
    story->status = status;
    story->failed = store;
}

/* The next page of the person's events of that store. */
static bool gather_page(struct story *story, struct store_search *search)
{
    bool more = false;

    read_status(story, search->store, store_search_page(search, PAGE, take_event, story, &more));
    return more && !story->status;
}

static void gather_sessions(struct story *story, const char *person)
{
    struct store_filter filter = {.person = person};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more = true;

    while (more && !story->status) {
        more = false;
        read_status(story, story->others,
                    store_sessions(story->others, &filter, &cursor, PAGE, take_session, story, &more));
    }
}

/* All callbacks of the person, or session. */
static void gather_callbacks(struct story *story, const char *person)
{
    struct store_search search = {.store = story->others, .person = person};

    while (!story->status && gather_page(story, &search))
        ;
    store_search_end(&search);
}

struct delivery_context {
    struct story *story;
    size_t event; /* its entry */
};

static bool take_delivery(void *context, const struct store_delivery_row *row)
{
    const struct delivery_context *delivery = context;
    /* A copy, as the entries move when one is added; its texts stay. */
    struct entry event = delivery->story->entries[delivery->event];
    struct buf json = BUF_INIT, about = BUF_INIT;

    begin_json(&json, row->received_at_ms, "delivery");
    json_add_member(&json, "id", event.repeated);
    json_add_member_int(&json, "number", row->number);
    output_member_json(&json, "body", row->body);
    buf_addc(&json, '}');
    buf_addf(&about, "%s again (%s)", event.repeated, row->body ? "another body" : "the same body");
    add_entry(delivery->story, row->received_at_ms, event.source, event.what, buf_str(&about), &json);
    buf_release(&json);
    buf_release(&about);
    return true;
}

/* The later deliveries of the events found since; read when no listing is being read. */
static void gather_deliveries(struct story *story, size_t since)
{
    struct delivery_context context = {story, since};
    size_t events = story->count;

    story->rank = RANK_DELIVERY;
    for (; context.event < events && !story->status; context.event++) {
        const char *id = story->entries[context.event].repeated;
        struct store *store = id && id[0] == 'e' ? story->events : story->others;

        if (id)
            read_status(story, store, store_deliveries(store, id, take_delivery, &context));
        if (story->status == STORE_ABSENT) /* purged meanwhile */
            story->status = STORE_OK;
    }
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->at_ms != y->at_ms)
        return x->at_ms < y->at_ms ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static void entry_release(struct entry *entry)
{
    free(entry->source);
    free(entry->what);
    free(entry->about);
    free(entry->json);
    free(entry->repeated);
}

static void tell_entry(struct story *story, const struct entry *entry)
{
    static const struct table_column columns[] = {
        {"TIME (UTC)", 0}, {"SOURCE", 0}, {"WHAT", 40}, {"ABOUT", 0}};

    if (story->json) {
        struct buf line = BUF_INIT;

        buf_adds(&line, entry->json);
        output_json(story->out, &line);
        buf_release(&line);
        return;
    }
    if (!story->table)
        story->table = table_new(story->out, columns, sizeof(columns) / sizeof(columns[0]));
    table_cell_time(story->table, entry->at_ms);
    table_cell(story->table, entry->source);
    table_cell(story->table, entry->what);
    table_cell(story->table, entry->about);
}

/* What may yet be found is an event of `until_ms` at the earliest, and was found later than those that were.
 */
static bool may_be_told(const struct entry *entry, int64_t until_ms)
{
    return entry->at_ms < until_ms || (entry->at_ms == until_ms && entry->rank == RANK_EVENT);
}

/* Tells, in order, what was found up to `until_ms`, and keeps the rest. */
static void tell(struct story *story, int64_t until_ms)
{
    size_t count = 0;

    if (story->count)
        qsort(story->entries, story->count, sizeof(*story->entries), compare_entries);
    for (; count < story->count && may_be_told(&story->entries[count], until_ms); count++) {
        tell_entry(story, &story->entries[count]);
        entry_release(&story->entries[count]);
    }
    story->told += count;
    story->count -= count;
    if (story->count)
        memmove(story->entries, story->entries + count, story->count * sizeof(*story->entries));
    if (story->table)
        table_flush(story->table);
    else
        fflush(story->out);
}

/* A callback names a session, and a session's other callbacks belong to the story whatever they claim. */
static void gather_others(struct story *story, const char *person)
{
    story->rank = RANK_OTHER;
    gather_callbacks(story, person);
    gather_sessions(story, person);
    for (size_t i = 0; i < story->session_count && !story->status; i++) {
        gather_callbacks(story, story->sessions[i]);
        gather_sessions(story, story->sessions[i]);
    }
    gather_deliveries(story, 0);
}

/* Up to when the person's events are known, where they were looked for as far as that. */
static int64_t known_until(struct story *story, const struct store_cursor *cursor)
{
    int64_t until_ms = INT64_MIN;
    enum store_status status = store_events_reached(story->events, cursor, &until_ms);

    if (status != STORE_ABSENT)
        read_status(story, story->events, status);
    return until_ms;
}

static void tell_all(struct story *story, const char *person)
{
    struct store_search search = {.store = story->events, .person = person};
    bool more = true;

    gather_others(story, person);
    while (more && !story->status && output_alive(story->out)) {
        size_t known = story->count;
        int64_t until_ms = INT64_MAX;

        story->rank = RANK_EVENT;
        more = gather_page(story, &search);
        gather_deliveries(story, known);
        if (more && !story->status)
            until_ms = known_until(story, &search.cursor);
        if (!story->status)
            tell(story, until_ms);
    }
    store_search_end(&search);
}

static void story_release(struct story *story)
{
    for (size_t i = 0; i < story->count; i++)
        entry_release(&story->entries[i]);
    for (size_t i = 0; i < story->seen_count; i++)
        free(story->seen[i]);
    for (size_t i = 0; i < story->session_count; i++)
        free(story->sessions[i]);
    table_free(story->table);
    free(story->entries);
    free(story->seen);
    free(story->sessions);
}

static int run(struct cli *cli, const struct config *config, const char *id, bool json)
{
    struct story story = {.out = cli->out, .json = json};
    int code = cli_store(cli, config, 0, STORE_EXAMJOINT | STORE_THREADS, &story.events);

    if (!code)
        code = cli_store(cli, config, 0, STORE_PROVIEW | STORE_RATINGS, &story.others);
    if (!code) {
        tell_all(&story, id);
        if (story.status)
            code = cli_store_failed(cli, story.failed, story.status, "reading the events");
        else if (!story.told && output_alive(cli->out))
            code = cli_failed(cli, "nothing is stored about that id");
    }
    story_release(&story);
    store_free(story.others);
    store_free(story.events);
    return code;
}

/* CLI_FINE: go on. */
static int read_options(struct cli *cli, int argc, char **argv, struct erase_options *options, bool *erase)
{
    const char *value;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_JSON)
            options->json = true;
        else if (key == KEY_ERASE)
            *erase = true;
        else if (key == KEY_YES)
            options->yes = true;
        else if (key == KEY_ACCOUNT)
            texts_add(&options->accounts, value);
        else if (key == KEY_ALSO)
            texts_add(&options->also, value);
        else
            return CLI_USAGE;
    }
    if (argc - optind != 1 || !argv[optind][0])
        return cli_usage(cli, "needs one ID");
    if (!*erase && (options->yes || options->accounts.count || options->also.count))
        return cli_usage(cli, "--yes, --account and --also go with --erase");
    for (size_t i = 0; i < options->also.count; i++) {
        if (options->also.list[i][0] != 'e')
            return cli_usage(cli, "--also takes an event of ExamJoint, as e12");
    }
    options->id = argv[optind];
    return CLI_FINE;
}

int cmd_respondent(struct cli *cli, int argc, char **argv)
{
    struct erase_options options = {0};
    struct config *config = NULL;
    bool erase = false;
    int code = read_options(cli, argc, argv, &options, &erase);

    if (!code)
        code = cli_config(cli, cli->command->role, &config);
    if (!code)
        code = erase ? person_erase(cli, config, &options) : run(cli, config, options.id, options.json);
    texts_release(&options.accounts);
    texts_release(&options.also);
    config_free(config);
    return code;
}
