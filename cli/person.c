#include "person.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../common/json.h"
#include "../common/throttle.h"

#define PAGE 500

bool texts_have(const struct texts *texts, const char *text)
{
    for (size_t i = 0; i < texts->count; i++) {
        if (!strcmp(texts->list[i], text))
            return true;
    }
    return false;
}

static void texts_push(struct texts *texts, const char *text)
{
    texts->list = xrealloc(texts->list, (texts->count + 1) * sizeof(*texts->list));
    texts->list[texts->count++] = xstrdup(text);
}

bool texts_add(struct texts *texts, const char *text)
{
    if (texts_have(texts, text))
        return false;
    texts_push(texts, text);
    return true;
}

void texts_release(struct texts *texts)
{
    while (texts->count)
        free(texts->list[--texts->count]);
    free(texts->list);
    *texts = (struct texts){0};
}

static bool wanted_account(const struct person *person, const char *account)
{
    return person->accounts->count == 0 || (account && texts_have(person->accounts, account));
}

/* --- The roster ----------------------------------------------------------------------------------------- */

static void add_value(struct person_line *line, const char *column, const char *value)
{
    if (!value || texts_have(&line->columns, column))
        return;
    texts_push(&line->columns, column);
    texts_push(&line->values, value);
}

static bool take_line(void *context, const struct candidate *c)
{
    struct person *person = context;
    struct person_line line = {
        .account = xstrdup(c->account), .exam = xstrdup(c->exam ? c->exam : ""), .email = xstrdup(c->email)};

    if (!wanted_account(person, c->account)) {
        free(line.account);
        free(line.exam);
        free(line.email);
        return true;
    }
    add_value(&line, "id", c->id);
    add_value(&line, "email", c->email);
    add_value(&line, "name", c->name);
    for (size_t i = 0; i < c->attribute_count; i++)
        add_value(&line, c->attributes[i].column, c->attributes[i].value);
    texts_add(&person->exam_accounts, c->account);
    person->lines = xrealloc(person->lines, (person->line_count + 1) * sizeof(*person->lines));
    person->lines[person->line_count++] = line;
    return true;
}

/* --- Events --------------------------------------------------------------------------------------------- */

static void add_session(struct person *person, const char *account, const char *uuid)
{
    for (size_t i = 0; i < person->session_count; i++) {
        if (!strcmp(person->sessions[i].uuid, uuid) && !strcmp(person->sessions[i].account, account))
            return;
    }
    person->sessions = xrealloc(person->sessions, (person->session_count + 1) * sizeof(*person->sessions));
    person->sessions[person->session_count++] =
        (struct person_session){.account = xstrdup(account), .uuid = xstrdup(uuid)};
    texts_add(&person->session_accounts, account);
}

struct asked {
    struct person *person;
    const char *account; /* only rows of it, NULL: any */
    const char *uuid;    /* only callbacks of that session */
    bool shared;         /* what is found may be another's as well */
    struct texts
        claims; /* "ACCOUNT UUID EVENT" of callbacks and, without EVENT, of sessions found by a claim */
};

/* It is nobody's any more, and must stay as it is to be known again. */
static bool is_erased(const char *text)
{
    return text && !strncmp(text, STORE_ERASED, sizeof(STORE_ERASED) - 1);
}

static void add_claim(struct asked *asked, const char *account, const char *uuid, const char *event)
{
    struct buf claim = BUF_INIT;

    buf_addf(&claim, "%s %s %s", account, uuid, event);
    texts_add(&asked->claims, buf_str(&claim));
    buf_release(&claim);
}

static bool take_event(void *context, const struct store_event_row *row)
{
    struct asked *asked = context;
    struct person *person = asked->person;

    if (!wanted_account(person, row->account) || (asked->account && strcmp(asked->account, row->account)) ||
        is_erased(row->session_uuid) || (is_erased(row->identity) && !row->respondent_id))
        return true;
    if (row->session_uuid) {
        add_claim(asked, row->account, row->session_uuid, row->id);
        return true;
    }
    if (asked->shared) {
        texts_add(&person->undecided, row->id);
        return true;
    }
    texts_add(&person->events, row->id);
    texts_add(&person->exam_accounts, row->account);
    return true;
}

static void ask_events(struct asked *asked, const char *what)
{
    struct person *person = asked->person;
    struct store_filter filter = {.person = what};
    struct store_cursor cursor = STORE_CURSOR_START;

    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_events(person->store, &filter, &cursor, PAGE, take_event, asked, &more);
    }
}

/* --- Sessions ------------------------------------------------------------------------------------------- */

struct owner {
    const struct person *person;
    const char *account, *uuid;
    bool theirs, anothers; /* as Talview answered; neither: it was not fetched */
    bool disputed;         /* a callback claims it for another */
};

/* Only Talview's own answer says whose a session is; a callback merely claims it. */
static bool see_owner(void *context, const struct store_session_row *row)
{
    struct owner *owner = context;

    if (strcmp(row->account, owner->account) || strcmp(row->session_uuid, owner->uuid) || !row->external_id)
        return true;
    owner->theirs = !strcmp(row->external_id, owner->person->id);
    owner->anothers = !owner->theirs;
    return true;
}

static bool see_claim(void *context, const struct store_event_row *row)
{
    struct owner *owner = context;

    if (row->session_uuid && !strcmp(row->session_uuid, owner->uuid) &&
        !strcmp(row->account, owner->account) && row->external_id &&
        strcmp(row->external_id, owner->person->id))
        owner->disputed = true;
    return true;
}

/* False: it is another's, or may be while it is not fetched. Whoever names the session itself means it. */
static bool is_theirs(struct person *person, const char *account, const char *uuid)
{
    struct owner owner = {.person = person, .account = account, .uuid = uuid};
    struct store_filter filter = {.person = uuid};
    struct store_cursor cursor = STORE_CURSOR_START;

    if (!strcasecmp(uuid, person->id))
        return true;
    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_sessions(person->store, &filter, &cursor, PAGE, see_owner, &owner, &more);
    }
    cursor = (struct store_cursor)STORE_CURSOR_START;
    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_events(person->store, &filter, &cursor, PAGE, see_claim, &owner, &more);
    }
    return owner.theirs || (!owner.anothers && !owner.disputed);
}

static bool take_session(void *context, const struct store_session_row *row)
{
    struct asked *asked = context;

    if (wanted_account(asked->person, row->account) && !is_erased(row->session_uuid))
        add_claim(asked, row->account, row->session_uuid, "");
    return true;
}

static void ask_sessions(struct asked *asked, const char *what)
{
    struct person *person = asked->person;
    struct store_filter filter = {.person = what};
    struct store_cursor cursor = STORE_CURSOR_START;

    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_sessions(person->store, &filter, &cursor, PAGE, take_session, asked, &more);
    }
}

/* None of the three has a space in it. */
static void judge_claim(struct person *person, const char *claim)
{
    char *account = xstrdup(claim), *uuid = strchr(account, ' '), *event;

    *uuid++ = '\0';
    event = strchr(uuid, ' ');
    *event++ = '\0';
    bool theirs = is_theirs(person, account, uuid);
    if (theirs)
        add_session(person, account, uuid);
    if (event[0])
        texts_add(theirs ? &person->events : &person->undecided, event);
    free(account);
}

static bool take_callback(void *context, const struct store_event_row *row)
{
    struct asked *asked = context;

    if (row->session_uuid && !strcmp(row->session_uuid, asked->uuid) && !strcmp(row->account, asked->account))
        texts_add(&asked->person->events, row->id);
    return true;
}

/* All callbacks of the sessions, whatever they claim. */
static void ask_callbacks(struct person *person)
{
    for (size_t i = 0; i < person->session_count; i++) {
        struct asked asked = {
            .person = person, .account = person->sessions[i].account, .uuid = person->sessions[i].uuid};
        struct store_filter filter = {.person = person->sessions[i].uuid};
        struct store_cursor cursor = STORE_CURSOR_START;

        for (bool more = true; more && !person->status;) {
            more = false;
            person->status =
                store_events(person->store, &filter, &cursor, PAGE, take_callback, &asked, &more);
        }
    }
}

/* --- What was kept under a keyed hash ------------------------------------------------------------------- */

static bool add_exam(void *context, const struct store_event_row *row)
{
    struct asked *asked = context;

    if (row->exam_id && row->account && !strcmp(row->account, asked->account))
        texts_add(&asked->person->exams, row->exam_id);
    return true;
}

static void gather_exams(struct person *person, const char *account)
{
    struct asked asked = {.person = person, .account = account};
    struct store_filter filter = {.person = person->id};
    struct store_cursor cursor = STORE_CURSOR_START;

    texts_release(&person->exams);
    for (size_t i = 0; i < person->line_count; i++) {
        if (!strcmp(person->lines[i].account, account))
            texts_add(&person->exams, person->lines[i].exam);
    }
    for (size_t i = 0; i < person->config->fields_count; i++) {
        if (person->config->fields[i].exam)
            texts_add(&person->exams, person->config->fields[i].exam);
    }
    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_events(person->store, &filter, &cursor, PAGE, add_exam, &asked, &more);
    }
}

static void add_key(struct person *person, const unsigned char key[32])
{
    person->keys = xrealloc(person->keys, (person->key_count + 1) * sizeof(*person->keys));
    memcpy(person->keys[person->key_count++], key, 32);
}

static bool see_another(void *context, const struct candidate *candidate)
{
    struct owner *owner = context;

    owner->anothers = owner->anothers || strcmp(candidate->id, owner->person->id);
    return !owner->anothers;
}

/* Somebody else of the account has these values too: a family has one address. */
static bool are_shared(struct person *person, const char *account, const struct roster_key *keys,
                       size_t count)
{
    struct owner owner = {.person = person};

    if (!person->status)
        person->status = store_candidates(person->store, account, keys, count, see_another, &owner);
    return owner.anothers;
}

/* The identity that is mapped, as this line's owner would type it; 0: the line lacks a column of it. */
static size_t typed(const struct person *person, const struct field_map *map, const struct person_line *line,
                    struct roster_key *keys)
{
    size_t count = 0;

    for (int i = 0; i < map->count; i++) {
        const char *column = map->at[i].column, *value = NULL;

        if (!strcmp(column, CONFIG_SECRET_COLUMN))
            continue;
        for (size_t k = 0; k < line->columns.count; k++) {
            if (!strcmp(line->columns.list[k], column))
                value = line->values.list[k];
        }
        if (!value)
            return 0;
        keys[count++] = (struct roster_key){
            .column = column, .value = value, .nocase = config_is_nocase(person->config, column)};
    }
    return count;
}

static void ask_typed(struct asked *asked, const struct field_map *map, const struct person_line *line)
{
    struct person *person = asked->person;
    struct roster_key keys[FIELDS_MAX];
    char identity[THROTTLE_UNKNOWN_BYTES];
    unsigned char key[32];
    size_t count = typed(person, map, line, keys);

    if (!count)
        return;
    throttle_unknown_text(person->secret, asked->account, keys, count, identity);
    asked->shared = are_shared(person, asked->account, keys, count);
    ask_events(asked, identity);
    for (size_t i = 0; i < person->exams.count && !asked->shared; i++) {
        throttle_key_unknown(person->secret, asked->account, person->exams.list[i], keys, count, key);
        add_key(person, key);
    }
}

static void ask_account(struct person *person, const char *account)
{
    struct asked asked = {.person = person, .account = account};
    struct person_line alone = {0};
    unsigned char key[32];

    gather_exams(person, account);
    add_value(&alone, "id", person->id);
    for (size_t i = 0; i < person->exams.count; i++) {
        throttle_key_known(person->secret, account, person->exams.list[i], person->id, key);
        add_key(person, key);
    }
    for (size_t i = 0; i < person->config->fields_count; i++) {
        const struct config_fields *fields = &person->config->fields[i];

        if (fields->account && strcmp(fields->account, account))
            continue;
        ask_typed(&asked, &fields->map, &alone);
        for (size_t k = 0; k < person->line_count; k++) {
            if (!strcmp(person->lines[k].account, account))
                ask_typed(&asked, &fields->map, &person->lines[k]);
        }
    }
    texts_release(&alone.columns);
    texts_release(&alone.values);
    texts_release(&asked.claims);
}

/* --- Mentions ------------------------------------------------------------------------------------------- */

enum mention { MENTION_NONE, MENTION_PERHAPS, MENTION_THEIRS };

static enum mention email_is(const struct person *person, const char *account, const char *text)
{
    enum mention most = MENTION_NONE;

    for (size_t i = 0; i < person->line_count; i++) {
        const struct person_line *line = &person->lines[i];

        if (!line->email || !strchr(line->email, '@') || strcasecmp(line->email, text))
            continue;
        if (!line->email_shared && !strcmp(line->account, account))
            return MENTION_THEIRS;
        most = MENTION_PERHAPS;
    }
    return most;
}

static void find_shared_emails(struct person *person)
{
    for (size_t i = 0; i < person->line_count; i++) {
        struct person_line *line = &person->lines[i];
        const struct roster_key key = {.column = "email", .value = line->email, .nocase = true};

        line->email_shared = line->email && are_shared(person, line->account, &key, 1);
    }
}

static bool part_of_a_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80);
}

static bool stands_in(const char *text, const char *id)
{
    size_t len = strlen(id);

    for (const char *at = strstr(text, id); at; at = strstr(at + 1, id)) {
        if ((at == text || !part_of_a_word(at[-1])) && !part_of_a_word(at[len]))
            return true;
    }
    return false;
}

struct body {
    const struct person *person;
    const char *account;
    bool names_another;
};

/* `name`: of the member that the node is, NULL in an array. */
static enum mention look(struct body *body, const struct json *node, const char *name)
{
    const char *text = json_string(node), *id = body->person->id;
    bool names = name && (!strcmp(name, "respondent_id") || !strcmp(name, "external_id"));
    enum mention most = MENTION_NONE;

    if (!text)
        text = json_number_text(node);
    if (text && names && !strcmp(text, id))
        return MENTION_THEIRS;
    if (text) {
        body->names_another = body->names_another || (names && text[0]);
        most = email_is(body->person, body->account, text);
        return most == MENTION_NONE && stands_in(text, id) ? MENTION_PERHAPS : most;
    }
    for (size_t i = 0; i < json_count(node); i++) {
        bool object = json_type(node) == JSON_OBJECT;
        enum mention found = look(body, json_at(node, i), object ? json_key_at(node, i) : NULL);

        if (object && found == MENTION_NONE && stands_in(json_key_at(node, i), id))
            found = MENTION_PERHAPS;
        most = found > most ? found : most;
    }
    return most;
}

static enum mention mentions(const struct person *person, const struct store_event_row *row)
{
    struct body body = {.person = person, .account = row->account};
    struct json_doc *doc;
    enum mention found;

    if (json_parse(row->body, strlen(row->body), &doc) != JSON_OK)
        return MENTION_NONE;
    found = look(&body, json_root(doc), NULL);
    json_free(doc);
    return found == MENTION_THEIRS && body.names_another ? MENTION_PERHAPS : found;
}

/* As it stands in a body. */
static void escaped(struct buf *out, const char *text)
{
    json_add_string(out, text);
    memmove(out->data, out->data + 1, out->len - 2);
    out->len -= 2;
    buf_str(out);
}

struct search {
    struct person *person;
    struct buf id;
};

static bool may_mention(const struct search *search, const char *body)
{
    if (!body)
        return false;
    if (strstr(body, search->id.data))
        return true;
    for (size_t i = 0; i < search->person->line_count; i++) {
        const char *email = search->person->lines[i].email;

        if (email && strchr(email, '@') && strcasestr(body, email))
            return true;
    }
    return false;
}

static bool is_known_event(const char *name)
{
    static const char *const known[] = {"verify_respondent", "admitted_respondent", "result_ready",
                                        "investigation_complete"};
    for (size_t i = 0; name && i < sizeof(known) / sizeof(known[0]); i++) {
        if (!strcmp(name, known[i]))
            return true;
    }
    return false;
}

static bool search_row(void *context, const struct store_event_row *row)
{
    struct search *search = context;
    struct person *person = search->person;
    enum mention found;

    if (!wanted_account(person, row->account) || texts_have(&person->events, row->id) ||
        !may_mention(search, row->body))
        return true;
    found = mentions(person, row);
    bool free_form =
        !row->session_uuid && !row->respondent_id && (row->quarantined || !is_known_event(row->event));
    if (found == MENTION_THEIRS && free_form) {
        texts_add(&person->events, row->id);
        texts_add(&person->exam_accounts, row->account);
    } else if (found != MENTION_NONE) {
        texts_add(&person->undecided, row->id);
    }
    return true;
}

static void search_bodies(struct person *person)
{
    struct search search = {.person = person, .id = BUF_INIT};
    struct store_filter filter = {0};
    struct store_cursor cursor = STORE_CURSOR_START;

    escaped(&search.id, person->id);
    for (bool more = true; more && !person->status;) {
        more = false;
        person->status = store_events(person->store, &filter, &cursor, PAGE, search_row, &search, &more);
    }
    buf_release(&search.id);
}

/* --- All of it ------------------------------------------------------------------------------------------ */

enum store_status person_gather(struct person *person)
{
    struct roster_filter of_candidate = {.id = person->id};
    struct asked asked = {.person = person};

    person->has_secret = store_identity_key(person->store, person->secret) == STORE_OK;
    person->status = store_roster_list(person->store, &of_candidate, take_line, person);
    find_shared_emails(person);
    ask_events(&asked, person->id);
    for (size_t i = 0; i < person->config->examjoint_count && person->has_secret; i++) {
        if (wanted_account(person, person->config->examjoint[i].name))
            ask_account(person, person->config->examjoint[i].name);
    }
    ask_sessions(&asked, person->id);
    for (size_t i = 0; i < asked.claims.count && !person->status; i++)
        judge_claim(person, asked.claims.list[i]);
    ask_callbacks(person);
    for (size_t i = 0; i < person->also->count; i++)
        texts_add(&person->events, person->also->list[i]);
    search_bodies(person);
    texts_release(&asked.claims);
    return person->status;
}

bool person_empty(const struct person *person)
{
    return !person->line_count && !person->events.count && !person->session_count;
}

static void say_accounts(struct buf *why, const struct texts *accounts)
{
    for (size_t i = 0; i < accounts->count; i++)
        buf_addf(why, "%s%s", i ? ", " : "", accounts->list[i]);
}

bool person_is_ambiguous(const struct person *person, struct buf *why)
{
    const struct texts *several = person->exam_accounts.count > 1      ? &person->exam_accounts
                                  : person->session_accounts.count > 1 ? &person->session_accounts
                                                                       : NULL;
    if (!several || person->accounts->count)
        return false;
    buf_adds(why, "that id is known in several accounts (");
    say_accounts(why, several);
    buf_adds(why, "), and may be several people's: name each that is meant by --account");
    return true;
}

void person_release(struct person *person)
{
    for (size_t i = 0; i < person->line_count; i++) {
        struct person_line *line = &person->lines[i];

        free(line->account);
        free(line->exam);
        free(line->email);
        texts_release(&line->columns);
        texts_release(&line->values);
    }
    for (size_t i = 0; i < person->session_count; i++) {
        free(person->sessions[i].account);
        free(person->sessions[i].uuid);
    }
    free(person->lines);
    free(person->sessions);
    free(person->keys);
    texts_release(&person->events);
    texts_release(&person->undecided);
    texts_release(&person->exam_accounts);
    texts_release(&person->session_accounts);
    texts_release(&person->exams);
    explicit_bzero(person->secret, sizeof(person->secret));
}
