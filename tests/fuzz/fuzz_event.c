/* Reading ExamJoint's events: whatever is accepted has what its event needs, and nothing else is blamed on
 * nobody. */
#include "../../common/event.h"
#include "fuzz.h"

static bool is_text(const char *text)
{
    return text && text[0] != '\0' && strlen(text) <= EVENT_TEXT_MAX;
}

static void check_fields(const struct json *fields)
{
    struct buf positions = BUF_INIT;
    MUST(json_type(fields) == JSON_ARRAY && json_count(fields) <= EVENT_FIELDS_MAX);
    for (size_t i = 0; i < json_count(fields); i++) {
        int64_t position;
        const char *value;
        event_field_at(fields, i, &position, &value);
        MUST(value && event_field_value(fields, position) == value);
    }
    event_positions(fields, &positions);
    MUST(strspn(buf_str(&positions), "0123456789,?") == positions.len);
    buf_release(&positions);
}

static void check_event(const struct event *event)
{
    static const unsigned char digest[32] = {1};
    unsigned char key[EVENT_KEY_BYTES], again[EVENT_KEY_BYTES], other[EVENT_KEY_BYTES];

    MUST(is_text(event->name));
    MUST(!event->exam_id || is_text(event->exam_id));
    MUST(!event->respondent_id || is_text(event->respondent_id));
    if (event->kind != EVENT_UNKNOWN)
        MUST(event->exam_id);
    if (event->kind == EVENT_VERIFY)
        check_fields(event->fields);
    if (event->kind != EVENT_UNKNOWN && event->kind != EVENT_VERIFY)
        MUST(event->respondent_id);
    if (event->kind == EVENT_ADMITTED)
        MUST(event->has_admitted_on);
    event_key("a", event, digest, key);
    event_key("a", event, digest, again);
    event_key("b", event, digest, other);
    MUST(memcmp(key, again, sizeof key) == 0 && memcmp(key, other, sizeof key) != 0);
}

static void check_glimpse(const struct json *root)
{
    struct event event;
    event_glimpse(root, &event);
    MUST(!event.fields);
    MUST(!event.name || is_text(event.name));
    MUST(!event.exam_id || is_text(event.exam_id));
    MUST(!event.respondent_id || is_text(event.respondent_id));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_doc *doc;
    struct event strict, lenient;
    const char *member = NULL, *member_lenient = NULL;
    if (json_parse((const char *)data, size, &doc) != JSON_OK)
        return 0;
    const struct json *root = json_root(doc);
    enum event_status status = event_read(root, false, &strict, &member);
    enum event_status status_lenient = event_read(root, true, &lenient, &member_lenient);

    check_glimpse(root);
    if (status == EVENT_OK) {
        check_event(&strict);
        MUST(status_lenient == EVENT_OK && lenient.kind == strict.kind);
        MUST(strcmp(lenient.name, strict.name) == 0 && lenient.has_admitted_on >= strict.has_admitted_on);
    } else {
        MUST(member && member[0] != '\0' && fuzz_is_word(event_status_word(status)));
    }
    if (status_lenient == EVENT_OK)
        check_event(&lenient);
    else
        MUST(member_lenient && fuzz_is_word(event_status_word(status_lenient)));
    json_free(doc);
    return 0;
}
