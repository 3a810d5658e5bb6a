#include "program.h"

#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "../common/clock.h"
#include "../common/json.h"
#include "../common/log.h"
#include "../common/place.h"

/* Room for the headers of most replies. */
#define HEADERS_USUAL 160

static bool is_named(const char *param, const char *name, size_t len)
{
    return param[0] == name[0] && strncmp(param, name, len) == 0 && param[len] == '=';
}

static const char *param(char **params, const char *name)
{
    size_t len = strlen(name);
    for (; params && *params; params++) {
        if (is_named(*params, name, len))
            return *params + len + 1;
    }
    return NULL;
}

const char *request_header(const struct request *request, const char *name, bool *repeated)
{
    char **params = (char **)(uintptr_t)request->params;
    const char *value = NULL;
    size_t len = strlen(name);

    *repeated = false;
    for (; params && *params; params++) {
        if (!is_named(*params, name, len))
            continue;
        if (value)
            *repeated = true;
        else
            value = *params + len + 1;
    }
    /* Apache joins what came twice: "one, two". */
    if (value && strchr(value, ','))
        *repeated = true;
    return value;
}

static void read_length(struct request *request, const char *text)
{
    char *end;

    /* Absent or empty: the body was chunked, its length is not known before it has been read. */
    if (!text || !*text)
        return;
    request->has_declared_length = true;
    request->declared_length = -1;
    if (strspn(text, "0123456789") != strlen(text) || strlen(text) > 18)
        return;
    request->declared_length = strtoll(text, &end, 10);
}

/* The request's path, as allocated text in `path`'s place: request->path owns it. */
static char *read_path(char **params)
{
    const char *info = param(params, "PATH_INFO");
    const char *uri = param(params, "REQUEST_URI");

    if (info && *info)
        return xstrdup(info);
    return uri ? xstrndup(uri, strcspn(uri, "?#")) : xstrdup("");
}

/* Asked of the kernel for many requests at once. */
static void next_id(struct request_ids *ids, char *id)
{
    unsigned char *random;

    if (ids->left == 0) {
        randombytes_buf(ids->bytes, sizeof ids->bytes);
        ids->left = sizeof ids->bytes;
    }
    ids->left -= REQUEST_ID_BYTES;
    random = ids->bytes + ids->left;
    sodium_bin2hex(id, 2 * REQUEST_ID_BYTES + 1, random, REQUEST_ID_BYTES);
}

void request_read_params(struct request *request, char **params, int64_t budget_ms, struct request_ids *ids)
{
    const char *method = param(params, "REQUEST_METHOD");
    const char *address = param(params, "REMOTE_ADDR");

    request->params = params;
    request->method = method ? method : "";
    request->remote_addr = address ? address : "";
    request->path = read_path(params);
    read_length(request, param(params, "CONTENT_LENGTH"));
    request->received_at_ms = clock_now_ms();
    request->deadline_ms = clock_monotonic_ms() + budget_ms;
    next_id(ids, request->id);
}

void request_release(const struct program *program, struct request *request, struct reply *reply)
{
    if (program->route->release)
        program->route->release(program->state, request, reply);
    free((char *)(uintptr_t)request->path);
    buf_release(&request->body);
    buf_release(&reply->body);
    memset(request, 0, sizeof *request);
    memset(reply, 0, sizeof *reply);
}

void reply_error(struct reply *reply, int status, const char *word, const char *member)
{
    reply->status = status;
    reply->note = word;
    buf_clear(&reply->body);
    buf_addc(&reply->body, '{');
    json_add_member(&reply->body, "error", word);
    json_add_member_opt(&reply->body, "member", member);
    buf_addc(&reply->body, '}');
}

enum route_next reply_refuse(struct reply *reply, int status, const char *word)
{
    reply_error(reply, status, word, NULL);
    return ROUTE_REPLY;
}

bool request_refuse_early(const struct request *request, int64_t body_limit_bytes, struct reply *reply)
{
    if (strcmp(request->method, "POST") != 0) {
        reply->header_name = "Allow";
        reply->header_value = "POST";
        reply_error(reply, 405, "method_not_allowed", NULL);
    } else if (request->has_declared_length && request->declared_length < 0) {
        reply_error(reply, 400, "invalid_length", NULL);
    } else if (request->has_declared_length && request->declared_length > body_limit_bytes) {
        reply_error(reply, 413, "body_too_large", NULL);
    }
    return reply->status != 0;
}

void reply_not_configured(struct reply *reply)
{
    reply_error(reply, 503, "not_configured", NULL);
    reply->header_name = "Retry-After";
    reply->header_value = RETRY_AFTER_S;
}

void reply_not_stored(struct reply *reply, struct store *store, enum store_status status)
{
    reply_error(reply, 503, status == STORE_FULL ? "store_full" : "not_stored", NULL);
    reply->header_name = "Retry-After";
    reply->header_value = RETRY_AFTER_S;
    log_error("not stored", LOG_S("store", store_status_word(status)), LOG_S("detail", store_message(store)));
}

static const char *status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {{200, "OK"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {413, "Content Too Large"},
                 {422, "Unprocessable Content"},
                 {429, "Too Many Requests"},
                 {503, "Service Unavailable"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (texts[i].status == status)
            return texts[i].text;
    }
    return "Unknown";
}

void reply_serialize(const struct reply *reply, struct buf *out)
{
    (void)buf_room(out, HEADERS_USUAL + reply->body.len);
    buf_adds(out, "Status: ");
    buf_add_number(out, reply->status);
    buf_addc(out, ' ');
    buf_adds(out, status_text(reply->status));
    buf_adds(out, "\r\nContent-Type: application/json\r\nContent-Length: ");
    buf_add_number(out, (int64_t)reply->body.len);
    buf_adds(out, "\r\nCache-Control: no-store\r\n");
    if (reply->header_name)
        buf_addf(out, "%s: %s\r\n", reply->header_name, reply->header_value);
    buf_adds(out, "\r\n");
    buf_add(out, reply->body.data, reply->body.len);
}

/* Only words we know: a method is the caller's to choose. */
static const char *method_word(const char *method)
{
    static const char *const known[] = {"POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(method, known[i]) == 0)
            return known[i];
    }
    return "other";
}

void request_log(const struct program *program, const struct request *request, const struct reply *reply,
                 struct buf *lines)
{
    int64_t took_ms = clock_monotonic_ms() - (request->deadline_ms - program->config->budget_ms);
    log_add(lines, LOG_LEVEL_INFO, "request",
            LOG_FIELDS(LOG_S("method", method_word(request->method)), LOG_S("route", program->route->program),
                       LOG_I("status", reply->status), LOG_I("ms", took_ms), LOG_S("request_id", request->id),
                       LOG_S("note", reply->note)));
}

static void look_at_root(struct program *program, const char *root)
{
    struct buf why = BUF_INIT;

    free(program->root);
    program->root = xstrdup(root);
    program->root_refused = !place_check(program->config, root, &why);
    if (program->root_refused)
        log_error("requests of this site are refused", LOG_S("reason", buf_str(&why)));
    buf_release(&why);
}

bool program_place(struct program *program, const struct request *request, struct reply *reply)
{
    const char *root = param((char **)(uintptr_t)request->params, "DOCUMENT_ROOT");

    if (strcmp(root ? root : "", program->root ? program->root : "") != 0)
        look_at_root(program, root ? root : "");
    if (!program->root_refused)
        return true;
    reply_not_configured(reply);
    return false;
}

enum route_next program_check(const struct program *program, struct request *request, struct reply *reply,
                              bool too_large)
{
    if (too_large || (int64_t)request->body.len > program->config->body_limit_bytes) {
        reply_error(reply, 413, "body_too_large", NULL);
        return ROUTE_REPLY;
    }
    return program->route->check(program->state, request, reply);
}

enum route_next program_step(const struct program *program, struct request *request, struct reply *reply,
                             struct hash_job *job, bool resume)
{
    enum route_next next = ROUTE_REPLY;
    bool one_event = !resume && program->route->one_event && program->route->one_event(request);
    enum store_status status =
        one_event ? store_step_begin_event(program->store) : store_step_begin(program->store);

    if (status == STORE_OK) {
        if (resume)
            program->route->resume(program->state, request, reply, job);
        else
            next = program->route->store(program->state, request, reply, job);
        status = store_step_end(program->store, next == ROUTE_HASH || reply->status < 500);
    }
    if (status != STORE_OK) {
        reply_not_stored(reply, program->store, status);
        return ROUTE_REPLY;
    }
    return next;
}
