#include "callback.h"

#include <string.h>

bool uuid_read(const char *text, char uuid[UUID_TEXT_BYTES])
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(text) != sizeof form - 1) {
        return false;
    }
    for (size_t i = 0; i < sizeof form - 1; i++) {
        bool fits = form[i] == '-' ? text[i] == '-' : strchr("0123456789abcdefABCDEF", text[i]) != NULL;
        if (!fits) {
            return false;
        }
    }
    memcpy(uuid, text, UUID_TEXT_BYTES);
    ascii_lower(uuid, UUID_TEXT_BYTES - 1);
    return true;
}

void callback_flag(struct callback *callback, const char *member, const char *what)
{
    buf_addf(&callback->flags, "%s%s_%s", callback->flags.len > 0 ? "," : "", member, what);
}

static const char *read_claim(const struct json *root, const char *member, struct callback *callback)
{
    const struct json *node = json_member(root, member);
    const char *text = json_string(node);
    if (!node) {
        callback_flag(callback, member, "missing");
    } else if (!text) {
        callback_flag(callback, member, "type");
    } else if (strlen(text) > CALLBACK_TEXT_MAX) {
        callback_flag(callback, member, "long");
        text = NULL;
    } else if (!*text) {
        callback_flag(callback, member, "empty");
    }
    return text;
}

enum callback_status callback_read(const struct json *root, struct callback *out)
{
    struct callback callback = {.flags = BUF_INIT};
    const struct json *node = json_member(root, "session_uuid");
    if (!node) {
        return CALLBACK_MISSING;
    }
    const char *text = json_string(node);
    if (!text || !uuid_read(text, callback.session_uuid)) {
        return CALLBACK_INVALID;
    }
    callback.message = read_claim(root, "message", &callback);
    callback.external_id = read_claim(root, "external_id", &callback);
    *out = callback;
    return CALLBACK_OK;
}
