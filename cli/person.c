#include "person.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../common/json.h"
#include "../common/throttle.h"

#define PAGE 500

/* Where the text stands in the slots, or would. At least one of them is empty. */
static size_t *slot_of(const struct texts *texts, const char *text)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */

    for (const char *at = text; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    for (size_t i = (size_t)(hash ^ hash >> 32);; i++) {
        size_t *slot = &texts->slots[i & (texts->slot_count - 1)];

        if (*slot == 0 || !strcmp(texts->list[*slot - 1], text))
            return slot;
    }
}

bool texts_have(const struct texts *texts, const char *text)
{
    return texts->count && *slot_of(texts, text) != 0;
}

static void make_room(struct texts *texts)
{
    if (2 * texts->count < texts->slot_count)
        return;
    free(texts->slots);
    texts->slot_count = texts->slot_count ? 2 * texts->slot_count : 8;
    texts->slots = xcalloc(texts->slot_count, sizeof(*texts->slots));
    texts->list = xrealloc(texts->list, texts->slot_count * sizeof(*texts->list));
    for (size_t i = 0; i < texts->count; i++)
        *slot_of(texts, texts->list[i]) = i + 1;
}

static void texts_push(struct texts *texts, const char *text)
{
    make_room(texts);
    texts->list[texts->count] = xstrdup(text);
    *slot_of(texts, text) = texts->count + 1;
    texts->count++;
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
    free(texts->slots);
    *texts = (struct texts){0};
}

static bool wanted_account(const struct person *person, const char *account)
{
    return person->accounts->count == 0 || (account && texts_have(person->accounts, account));
}

/* --- Listings ------------------------------------------------------------------------------------------- */

/* Of one person a page may be empty and yet not the last. */
static void each_event(struct person *person, struct store *store, const char *of, store_event_fn *fn,
                       void *context)
{
    struct store_search search = {.store = store, .person = of};

    for (bool more = true; more && !person->status;) {
        more = false;
        person->failed = store;
        person->status = store_search_page(&search, PAGE, fn, context, &more);
        if (!person->status && person->after_page && !person->after_page(person->after_context))
            break;
    }
    store_search_end(&search);
}

static void each_session(struct person *person, const char *of, store_session_fn *fn, void *context)
{
    struct store_filter filter = {.person = of};
    struct store_cursor cursor = STORE_CURSOR_START;

    for (bool more = true; more && !person->status;) {
        more = false;
        person->failed = person->proctoring;
        person->status = store_sessions(person->proctoring, &filter, &cursor, PAGE, fn, context, &more);
    }
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

struct asked {
    struct person *person;
    const char *account; /* only rows of it, NULL: any */
    bool shared;         /* what is found may be another's as well */
};

/* It is nobody's any more, and must stay as it is to be known again. */
static bool is_erased(const char *text)
{
    return text && !strncmp(text, STORE_ERASED, sizeof(STORE_ERASED) - 1);
}

static void add_sat(struct person *person, const struct store_event_row *row)
{
    struct buf sat = BUF_INIT;

    buf_addf(&sat, "%s %s", row->account, row->exam_id);
    texts_add(&person->sat, buf_str(&sat));
    buf_release(&sat);
}

static bool take_event(void *context, const struct store_event_row *row)
{
    struct asked *asked = context;
    struct person *person = asked->person;

    if (person->wants_keys && !asked->account && row->account && row->exam_id)
        add_sat(person, row);
    if (row->session_uuid || !wanted_account(person, row->account) ||
        (asked->account && strcmp(asked->account, row->account)) ||
        (is_erased(row->identity) && !row->respondent_id))
        return true;
    if (asked->shared) {
        texts_add(&person->undecided, row->id);
        return true;
    }
    texts_add(&person->events, row->id);
    texts_add(&person->exam_accounts, row->account);
    return true;
}

/* --- Sessions ------------------------------------------------------------------------------------------- */

struct claimed {
    struct person *person;
    const char *account, *uuid; /* of the session whose callbacks are asked for */
    struct texts
        claims; /* "ACCOUNT UUID EVENT" of callbacks and, without EVENT, of sessions found by a claim */
    struct texts judged, theirs; /* "ACCOUNT UUID" */
};

static void add_session(struct person *person, const char *account, const char *uuid)
{
    if ((person->session_count & (person->session_count - 1)) == 0) {
        size_t room = person->session_count ? 2 * person->session_count : 1;

        person->sessions = xrealloc(person->sessions, room * sizeof(*person->sessions));
    }
    person->sessions[person->session_count++] =
        (struct person_session){.account = xstrdup(account), .uuid = xstrdup(uuid)};
    texts_add(&person->session_accounts, account);
}

static void add_claim(struct claimed *claimed, const char *account, const char *uuid, const char *event)
{
    struct buf claim = BUF_INIT;

    buf_addf(&claim, "%s %s %s", account, uuid, event);
    texts_add(&claimed->claims, buf_str(&claim));
    buf_release(&claim);
}

static bool take_claim(void *context, const struct store_event_row *row)
{
    struct claimed *claimed = context;

    if (row->session_uuid && wanted_account(claimed->person, row->account) && !is_erased(row->session_uuid))
        add_claim(claimed, row->account, row->session_uuid, row->id);
    return true;
}

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

    if (!strcasecmp(uuid, person->id))
        return true;
    each_session(person, uuid, see_owner, &owner);
    each_event(person, person->proctoring, uuid, see_claim, &owner);
    return owner.theirs || (!owner.anothers && !owner.disputed);
}

static bool take_session(void *context, const struct store_session_row *row)
{
    struct claimed *claimed = context;

    if (wanted_account(claimed->person, row->account) && !is_erased(row->session_uuid))
        add_claim(claimed, row->account, row->session_uuid, "");
    return true;
}

/* None of the three has a space in it. */
static void judge_claim(struct claimed *claimed, const char *claim)
{
    struct person *person = claimed->person;
    const char *event = strrchr(claim, ' ') + 1;
    char *session = xstrndup(claim, (size_t)(event - 1 - claim));

    if (texts_add(&claimed->judged, session)) {
        const char *uuid = strchr(session, ' ') + 1;
        char *account = xstrndup(session, (size_t)(uuid - 1 - session));

        if (is_theirs(person, account, uuid)) {
            texts_add(&claimed->theirs, session);
            add_session(person, account, uuid);
        }
        free(account);
    }
    if (event[0])
        texts_add(texts_have(&claimed->theirs, session) ? &person->events : &person->undecided, event);
    free(session);
}

static bool take_callback(void *context, const struct store_event_row *row)
{
    struct claimed *claimed = context;

    if (row->session_uuid && !strcmp(row->session_uuid, claimed->uuid) &&
        !strcmp(row->account, claimed->account))
        texts_add(&claimed->person->events, row->id);
    return true;
}

void person_read_proctoring(struct person *person)
{
    struct claimed claimed = {.person = person};

    each_event(person, person->proctoring, person->id, take_claim, &claimed);
    each_session(person, person->id, take_session, &claimed);
    for (size_t i = 0; i < claimed.claims.count && !person->status; i++)
        judge_claim(&claimed, claimed.claims.list[i]);
    /* All callbacks of the sessions, whatever they claim. */
    for (size_t i = 0; i < person->session_count; i++) {
        claimed.account = person->sessions[i].account;
        claimed.uuid = person->sessions[i].uuid;
        each_event(person, person->proctoring, claimed.uuid, take_callback, &claimed);
    }
    texts_release(&claimed.claims);
    texts_release(&claimed.judged);
    texts_release(&claimed.theirs);
}

/* --- What was kept under a keyed hash ------------------------------------------------------------------- */

/* The exams that the account's failed attempts may be counted under. */
static void gather_exams(struct person *person, const char *account)
{
    size_t len = strlen(account);

    texts_release(&person->exams);
    for (size_t i = 0; i < person->line_count; i++) {
        if (!strcmp(person->lines[i].account, account))
            texts_add(&person->exams, person->lines[i].exam);
    }
    for (size_t i = 0; i < person->config->fields_count; i++) {
        if (person->config->fields[i].exam)
            texts_add(&person->exams, person->config->fields[i].exam);
    }
    for (size_t i = 0; i < person->sat.count; i++) {
        const char *sat = person->sat.list[i];

        if (!strncmp(sat, account, len) && sat[len] == ' ')
            texts_add(&person->exams, sat + len + 1);
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

    if (!person->status) {
        person->failed = person->store;
        person->status = store_candidates(person->store, account, keys, count, see_another, &owner);
    }
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
    if (!texts_add(&person->typed, identity))
        return; /* exams that differ in other columns than these */
    asked->shared = are_shared(person, asked->account, keys, count);
    each_event(person, person->store, identity, take_event, asked);
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

    if (person->wants_keys)
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
}

void person_read_events(struct person *person)
{
    struct asked asked = {.person = person};

    each_event(person, person->store, person->id, take_event, &asked);
    for (size_t i = 0; i < person->config->examjoint_count && person->has_secret; i++) {
        if (wanted_account(person, person->config->examjoint[i].name))
            ask_account(person, person->config->examjoint[i].name);
    }
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
    person_find_fn *fn;
    void *context;
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

    if (!wanted_account(person, row->account) || !may_mention(search, row->body) ||
        texts_have(&person->events, row->id))
        return true;
    found = mentions(person, row);
    bool free_form =
        !row->session_uuid && !row->respondent_id && (row->quarantined || !is_known_event(row->event));
    if (found == MENTION_THEIRS && free_form) {
        texts_add(&person->exam_accounts, row->account);
        return search->fn(search->context, row->id, true);
    }
    if (found != MENTION_NONE && !texts_have(&person->undecided, row->id))
        return search->fn(search->context, row->id, false);
    return true;
}

bool person_search_page(struct person *person, struct store_cursor *cursor, person_find_fn *fn, void *context)
{
    struct search search = {.person = person, .id = BUF_INIT, .fn = fn, .context = context};
    struct store_filter filter = {0};
    bool more = false;

    if (person->status)
        return false;
    escaped(&search.id, person->id);
    person->failed = person->store;
    person->status = store_events(person->store, &filter, cursor, PAGE, search_row, &search, &more);
    buf_release(&search.id);
    return more && !person->status;
}

/* --- All of it ------------------------------------------------------------------------------------------ */

void person_read_roster(struct person *person)
{
    struct roster_filter of_candidate = {.id = person->id};

    person->has_secret = store_identity_key(person->store, person->secret) == STORE_OK;
    person->failed = person->store;
    person->status = store_roster_list(person->store, &of_candidate, take_line, person);
    find_shared_emails(person);
}

static bool keep_find(void *context, const char *id, bool theirs)
{
    struct person *person = context;

    texts_add(theirs ? &person->events : &person->undecided, id);
    return true;
}

enum store_status person_gather(struct person *person)
{
    struct store_cursor cursor = STORE_CURSOR_START;

    person->wants_keys = true;
    person_read_roster(person);
    person_read_events(person);
    person_read_proctoring(person);
    for (size_t i = 0; i < person->also->count; i++)
        texts_add(&person->events, person->also->list[i]);
    while (person_search_page(person, &cursor, keep_find, person))
        ;
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
    if (!why)
        return true;
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
    texts_release(&person->sat);
    texts_release(&person->exams);
    texts_release(&person->typed);
    explicit_bzero(person->secret, sizeof(person->secret));
}
