/* A Proview callback's path and query (the first line) and its body (the rest). */
#include "../../common/json.h"
#include "../../fcgi/callback.h"
#include "../../fcgi/path.h"
#include "../../fcgi/program.h"
#include "fuzz.h"

static bool is_segment(const char *text, size_t len, size_t most)
{
    size_t i = 0;
    while (i < len && (text[i] == '-' || text[i] == '_' || (text[i] >= '0' && text[i] <= '9') ||
                       (text[i] >= 'A' && text[i] <= 'Z') || (text[i] >= 'a' && text[i] <= 'z')))
        i++;
    return len > 0 && len <= most && i == len;
}

static void check_path(const char *path)
{
    struct path_proview read;
    if (!path_proview_read(path, &read))
        return;
    MUST(is_segment(read.name, read.name_len, PATH_NAME_MAX));
    MUST(!read.token || is_segment(read.token, read.token_len, PATH_TOKEN_MAX));
    /* It is the path's end, with nothing behind it. */
    const char *end = read.token ? read.token + read.token_len : read.name + read.name_len;
    MUST(*end == '\0' && read.name > path && read.name[-1] == '/');
    MUST(!read.token || read.token == read.name + read.name_len + 1);
}

/* What the web server hands over: a query changes nothing, and PATH_INFO goes before. */
static void check_query(const char *uri)
{
    struct buf given = BUF_INIT;
    struct program program = {.route = &(struct route){.program = "fuzz"}};
    struct request request = {.body = BUF_INIT};
    struct reply reply = {.body = BUF_INIT};
    buf_addf(&given, "REQUEST_URI=%s", uri);
    char *params[] = {given.data, (char[]){"PATH_INFO="}, NULL};
    struct request_ids ids = {.left = 0};
    request_read_params(&request, params, 1000, &ids);
    size_t len = strcspn(uri, "?#");
    MUST(strlen(request.path) == len && memcmp(request.path, uri, len) == 0);
    check_path(request.path);
    (void)path_is_examjoint(request.path);
    request_release(&program, &request, &reply);
    buf_release(&given);
}

static void check_callback(const struct callback *callback)
{
    char again[UUID_TEXT_BYTES];
    MUST(uuid_read(callback->session_uuid, again) && strcmp(again, callback->session_uuid) == 0);
    MUST(strspn(again, "0123456789abcdef-") == UUID_TEXT_BYTES - 1);
    MUST(!callback->message || strlen(callback->message) <= CALLBACK_TEXT_MAX);
    MUST(!callback->external_id || strlen(callback->external_id) <= CALLBACK_TEXT_MAX);
    const char *flags = buf_str(&callback->flags);
    MUST(strspn(flags, "abcdefghijklmnopqrstuvwxyz_,") == callback->flags.len);
    MUST(callback->message || strstr(flags, "message_"));
    MUST(callback->external_id || strstr(flags, "external_id_"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_rest rest = {(const char *)data, size};
    struct json_doc *doc;
    char *path = fuzz_line(&rest);
    check_path(path);
    check_query(path);
    free(path);
    if (json_parse(rest.at, rest.len, &doc) == JSON_OK) {
        struct callback callback;
        if (callback_read(json_root(doc), &callback) == CALLBACK_OK) {
            check_callback(&callback);
            buf_release(&callback.flags);
        }
        json_free(doc);
    }
    return 0;
}
