#include "event.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define POSITION_SHOWN_MAX 99

const char *event_status_word(enum event_status status)
{
    switch (status) {
    case EVENT_MISSING:
        return "missing_member";
    case EVENT_INVALID:
        return "invalid_member";
    default:
        return "";
    }
}

static enum event_kind kind_of(const char *name)
{
    static const struct {
        const char *name;
        enum event_kind kind;
    } kinds[] = {{"verify_respondent", EVENT_VERIFY},
                 {"admitted_respondent", EVENT_ADMITTED},
                 {"result_ready", EVENT_RESULT},
                 {"investigation_complete", EVENT_INVESTIGATION}};
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            return kinds[i].kind;
        }
    }
    return EVENT_UNKNOWN;
}

static enum event_status read_text(const struct json *root, const char *name, bool lenient, const char **text)
{
    const struct json *node = json_member(root, name);
    if (!node) {
        return EVENT_MISSING;
    }
    const char *found = json_string(node);
    if (!found && lenient) {
        found = json_number_text(node);
    }
    if (!found || !*found || strlen(found) > EVENT_TEXT_MAX) {
        return EVENT_INVALID;
    }
    *text = found;
    return EVENT_OK;
}

static bool text_to_int64(const char *text, int64_t *value)
{
    if (!text || !*text || text[strspn(text, "0123456789")] != '\0') {
        return false;
    }
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *value = number;
    return true;
}

static enum event_status read_admitted_on(const struct json *root, bool lenient, struct event *event)
{
    const struct json *node = json_member(root, "admittedOn");
    if (!node) {
        return EVENT_MISSING;
    }
    int64_t value;
    if (!json_int64(node, &value) && !(lenient && text_to_int64(json_string(node), &value))) {
        return EVENT_INVALID;
    }
    event->has_admitted_on = true;
    event->admitted_on_ms = value;
    return EVENT_OK;
}

static bool position_of(const struct json *field, int64_t *position)
{
    return json_int64(json_member(field, "position"), position);
}

/* One element of `fields`, whose position must not be among the `count` before it. */
static bool field_valid(const struct json *field, int64_t *positions, size_t count)
{
    int64_t position;
    if (json_type(field) != JSON_OBJECT || !json_member(field, "position") ||
        !position_of(field, &position) || !json_string(json_member(field, "value"))) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (positions[i] == position) {
            return false;
        }
    }
    positions[count] = position;
    return true;
}

static enum event_status read_fields(const struct json *root, struct event *event)
{
    const struct json *fields = json_member(root, "fields");
    if (!fields) {
        return EVENT_MISSING;
    }
    if (json_type(fields) != JSON_ARRAY || json_count(fields) > EVENT_FIELDS_MAX) {
        return EVENT_INVALID;
    }
    int64_t positions[EVENT_FIELDS_MAX];
    for (size_t i = 0; i < json_count(fields); i++) {
        if (!field_valid(json_at(fields, i), positions, i)) {
            return EVENT_INVALID;
        }
    }
    event->fields = fields;
    return EVENT_OK;
}

static enum event_status read_verify(const struct json *root, bool lenient, struct event *event,
                                     const char **member)
{
    *member = "exam_id";
    enum event_status status = read_text(root, "exam_id", lenient, &event->exam_id);
    if (status == EVENT_OK) {
        *member = "fields";
        status = read_fields(root, event);
    }
    event->language = json_string(json_member(root, "choosenLang"));
    return status;
}

static enum event_status read_story(const struct json *root, bool lenient, struct event *event,
                                    const char **member)
{
    *member = "respondent_id";
    enum event_status status = read_text(root, "respondent_id", lenient, &event->respondent_id);
    if (status == EVENT_OK) {
        *member = "exam_id";
        status = read_text(root, "exam_id", lenient, &event->exam_id);
    }
    if (status == EVENT_OK && event->kind == EVENT_ADMITTED) {
        *member = "admittedOn";
        status = read_admitted_on(root, lenient, event);
    }
    return status;
}

/* Whatever of the common members is as it should be. */
static void take_what_fits(const struct json *root, bool lenient, struct event *event)
{
    (void)read_text(root, "exam_id", lenient, &event->exam_id);
    (void)read_text(root, "respondent_id", lenient, &event->respondent_id);
    (void)read_admitted_on(root, lenient, event);
    event->language = json_string(json_member(root, "choosenLang"));
}

enum event_status event_read(const struct json *root, bool lenient, struct event *out, const char **member)
{
    struct event event = {0};
    const char *blame = "event";
    enum event_status status = read_text(root, "event", lenient, &event.name);
    if (status == EVENT_OK) {
        event.kind = kind_of(event.name);
        switch (event.kind) {
        case EVENT_VERIFY:
            status = read_verify(root, lenient, &event, &blame);
            break;
        case EVENT_UNKNOWN:
            take_what_fits(root, lenient, &event);
            break;
        default:
            status = read_story(root, lenient, &event, &blame);
        }
    }
    if (status != EVENT_OK) {
        *member = blame;
        return status;
    }
    *out = event;
    return EVENT_OK;
}

void event_glimpse(const struct json *root, struct event *out)
{
    struct event event = {0};
    (void)read_text(root, "event", false, &event.name);
    event.kind = kind_of(event.name);
    take_what_fits(root, false, &event);
    *out = event;
}

void event_field_at(const struct json *fields, size_t i, int64_t *position, const char **value)
{
    const struct json *field = json_at(fields, i);
    (void)position_of(field, position);
    *value = json_string(json_member(field, "value"));
}

const char *event_field_value(const struct json *fields, int64_t position)
{
    for (size_t i = 0; i < json_count(fields); i++) {
        int64_t at = 0;
        const char *value;
        event_field_at(fields, i, &at, &value);
        if (at == position) {
            return value;
        }
    }
    return NULL;
}

void event_positions(const struct json *fields, struct buf *out)
{
    for (size_t i = 0; i < json_count(fields); i++) {
        int64_t position = 0;
        const char *value;
        event_field_at(fields, i, &position, &value);
        if (i > 0) {
            buf_addc(out, ',');
        }
        if (position >= 0 && position <= POSITION_SHOWN_MAX) {
            buf_addf(out, "%d", (int)position);
        } else {
            buf_addc(out, '?');
        }
    }
}

static void hash_part(crypto_hash_sha256_state *state, const void *bytes, size_t len)
{
    unsigned char length[8];
    for (size_t i = 0; i < sizeof length; i++) {
        length[i] = (unsigned char)((uint64_t)len >> (8 * i));
    }
    crypto_hash_sha256_update(state, length, sizeof length);
    crypto_hash_sha256_update(state, bytes, len);
}

static void hash_text(crypto_hash_sha256_state *state, const char *text)
{
    hash_part(state, text ? text : "", text ? strlen(text) : 0);
}

static void digest_key(const char *kind, const char *account, const unsigned char body_digest[32],
                       unsigned char key[EVENT_KEY_BYTES])
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, kind);
    hash_text(&state, account);
    hash_part(&state, body_digest, 32);
    crypto_hash_sha256_final(&state, key);
}

bool event_key_of_body(const struct event *event)
{
    return event->kind == EVENT_UNKNOWN || event->kind == EVENT_VERIFY;
}

void event_key(const char *account, const struct event *event, const unsigned char body_digest[32],
               unsigned char key[EVENT_KEY_BYTES])
{
    if (event_key_of_body(event)) {
        digest_key("unknown", account, body_digest, key);
        return;
    }
    unsigned char admitted[8] = {0};
    for (size_t i = 0; i < sizeof admitted; i++) {
        admitted[i] = (unsigned char)((uint64_t)event->admitted_on_ms >> (8 * i));
    }
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    hash_text(&state, "known");
    hash_text(&state, account);
    hash_text(&state, event->name);
    hash_text(&state, event->respondent_id);
    hash_text(&state, event->exam_id);
    hash_part(&state, admitted, event->has_admitted_on ? sizeof admitted : 0);
    crypto_hash_sha256_final(&state, key);
}

void event_key_quarantined(const char *account, const unsigned char body_digest[32],
                           unsigned char key[EVENT_KEY_BYTES])
{
    digest_key("quarantined", account, body_digest, key);
}
