/* The JSON reader and writer: what is accepted is what we say is, it comes out as it went in, and nothing of
 * a value under `fields` comes out of the redacting writer. */
#include <strings.h>

#include "../../common/json.h"
#include "fuzz.h"

static bool is_redacted(const struct json *node)
{
    const char *text = json_string(node);
    return text && strcmp(text, "[redacted]") == 0;
}

static bool is_secret_name(const char *key)
{
    static const char *const names[] = {"value", "password", "passwd", "pass", "pwd", "secret"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(key, names[i]) == 0)
            return true;
    }
    return false;
}

/* Walks what the redacting writer wrote, by the rules of json.h and none of its code. */
static void check_redacted(const struct json *node, const char *key, bool fields, bool secret, int depth)
{
    int64_t number;
    MUST(depth <= JSON_DEPTH_MAX);
    switch (json_type(node)) {
    case JSON_OBJECT:
        for (size_t i = 0; i < json_count(node); i++) {
            const char *name = json_key_at(node, i);
            if (fields || secret)
                MUST(strcmp(name, "position") == 0 || strcmp(name, "value") == 0 ||
                     strncmp(name, "[redacted] ", 11) == 0);
            check_redacted(json_at(node, i), name, fields || strcasecmp(name, "fields") == 0,
                           secret || is_secret_name(name), depth + 1);
        }
        return;
    case JSON_ARRAY:
        for (size_t i = 0; i < json_count(node); i++)
            check_redacted(json_at(node, i), NULL, fields, secret, depth + 1);
        return;
    case JSON_NULL:
        return;
    default:
        if (secret)
            MUST(is_redacted(node));
        else if (fields && !is_redacted(node))
            MUST(key && strcmp(key, "position") == 0 && json_int64(node, &number) && number >= 0 &&
                 number <= 99);
    }
}

static void check_writing(const struct json *root, bool redact)
{
    struct buf once = BUF_INIT, twice = BUF_INIT;
    struct json_doc *doc;
    json_write(&once, root, redact);
    MUST(json_parse_any(once.data, once.len, &doc) == JSON_OK);
    json_write(&twice, json_root(doc), redact);
    MUST(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    if (redact)
        check_redacted(json_root(doc), NULL, false, false, 0);
    json_free(doc);
    buf_release(&once);
    buf_release(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct json_doc *doc = NULL, *any = NULL;
    enum json_error error = json_parse(text, size, &doc);
    enum json_error error_any = json_parse_any(text, size, &any);

    MUST(error == JSON_OK || fuzz_is_word(json_error_word(error)));
    MUST(error == JSON_NOT_OBJECT ? error_any == JSON_OK : error == error_any);
    if (error_any == JSON_OK) {
        MUST(utf8_valid(text, size));
        MUST((json_type(json_root(any)) == JSON_OBJECT) == (error == JSON_OK));
        check_writing(json_root(any), false);
        check_writing(json_root(any), true);
        json_free(any);
    }
    if (error == JSON_OK)
        json_free(doc);
    return 0;
}
