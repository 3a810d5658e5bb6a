/*
 * POST /webhooks/proview/NAME[/PATH_TOKEN]. The order of what is looked at, first refusal wins:
 *
 *   path             404 not_found: no such account, a token that is wrong, missing or superfluous, further
 *                    segments; one reply for all of them, and one token compared for each. First of all,
 *                    so that a wrong token never looks like anything but an unknown path.
 *   method           405 method_not_allowed, Allow: POST
 *   declared length  400 invalid_length, 413 body_too_large
 *   credentials      401 repeated_header, unauthorized, with WWW-Authenticate; of a header secret and basic
 *                    credentials, both must be right where both are configured
 *   real length      413 body_too_large, 400 incomplete_body
 *   JSON             400 with json_error_word()
 *   session_uuid     422 missing_member, invalid_member
 *   an open account  429 too_many_requests when its hour is full
 *
 * The stored row is itself the mark that the session is due. Nothing in a callback sets a rating.
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "../common/log.h"
#include "callback.h"
#include "credentials.h"
#include "path.h"
#include "routes.h"

#define HEADER_NAME_MAX 128
#define AUTHENTICATE_BASIC "Basic realm=\"examhook\""
#define AUTHENTICATE_HEADER "Examhook realm=\"examhook\""
/* An hour that is full empties bit by bit. */
#define LIMIT_RETRY_AFTER_S "600"

/* Beside each account: what is made out of its configuration once, and counted. */
struct account_extra {
    char header[HEADER_NAME_MAX]; /* the header's CGI name */
    struct previous_use token, header_secret, basic;
};

struct proview {
    const struct config *config;
    struct store *store;
    struct account_extra *extras; /* one for each account */
};

struct proview_request {
    const struct config_proview *account;
    struct json_doc *doc;
    struct callback callback;
};

static enum route_next refuse_credentials(const struct config_proview *account, struct reply *reply,
                                          const char *word)
{
    reply->header_name = "WWW-Authenticate";
    reply->header_value = account->has_basic ? AUTHENTICATE_BASIC : AUTHENTICATE_HEADER;
    return reply_refuse(reply, 401, word);
}

static void count_previous(const struct config_proview *account, struct previous_use *use,
                           enum secret_match match, const char *what)
{
    if (match == SECRET_PREVIOUS) {
        previous_used(use, account->name, what);
    }
}

/* The headers; those of a protection that is not configured are not looked at. */
static enum route_next authenticate(const struct proview *proview, struct request *request,
                                    const struct config_proview *account, enum secret_match token,
                                    struct reply *reply)
{
    struct account_extra *extra = &proview->extras[account - proview->config->proview];
    enum secret_match header = SECRET_CURRENT, basic = SECRET_CURRENT;
    bool header_repeated = false, basic_repeated = false;

    if (account->has_header) {
        const char *value = request_header(request, extra->header, &header_repeated);
        header = secret_check(&account->header_secret, value, value ? strlen(value) : 0);
    }
    if (account->has_basic) {
        basic = credentials_basic(&account->basic,
                                  request_header(request, "HTTP_AUTHORIZATION", &basic_repeated));
    }
    if (header_repeated || basic_repeated) {
        return refuse_credentials(account, reply, "repeated_header");
    }
    if (header == SECRET_NO || basic == SECRET_NO) {
        return refuse_credentials(account, reply, "unauthorized");
    }
    count_previous(account, &extra->token, token, "path_token_previous");
    count_previous(account, &extra->header_secret, header, "header_secret_previous");
    count_previous(account, &extra->basic, basic, "basic_password_previous");

    struct proview_request *data = xcalloc(1, sizeof *data);
    data->account = account;
    request->route_data = data;
    return ROUTE_STORE;
}

static enum route_next proview_declared(void *state, struct request *request, struct reply *reply)
{
    const struct proview *proview = state;
    struct path_proview path;
    enum secret_match token;
    bool readable = path_proview_read(request->path, &path);
    const struct config_proview *account =
        credentials_proview(proview->config, readable ? &path : NULL, &token);
    if (!account) {
        return reply_refuse(reply, 404, "not_found");
    }
    if (request_refuse_early(request, proview->config->body_limit_bytes, reply)) {
        return ROUTE_REPLY;
    }
    return authenticate(proview, request, account, token, reply);
}

static enum route_next proview_check(void *state, struct request *request, struct reply *reply)
{
    (void)state;
    struct proview_request *data = request->route_data;
    if (!request->body_complete) {
        return reply_refuse(reply, 400, "incomplete_body");
    }
    enum json_error error = json_parse(buf_str(&request->body), request->body.len, &data->doc);
    if (error != JSON_OK) {
        return reply_refuse(reply, 400, json_error_word(error));
    }
    switch (callback_read(json_root(data->doc), &data->callback)) {
    case CALLBACK_OK:
        return ROUTE_STORE;
    case CALLBACK_MISSING:
        reply_error(reply, 422, "missing_member", "session_uuid");
        return ROUTE_REPLY;
    default:
        reply_error(reply, 422, "invalid_member", "session_uuid");
        return ROUTE_REPLY;
    }
}

static enum route_next proview_store(void *state, struct request *request, struct reply *reply,
                                     struct hash_job *job)
{
    (void)job;
    const struct proview *proview = state;
    struct proview_request *data = request->route_data;
    struct buf body = BUF_INIT;

    json_write(&body, json_root(data->doc), true);
    bool bounded = (int64_t)body.len <= proview->config->body_limit_bytes;
    if (!bounded) {
        callback_flag(&data->callback, "body", "long"); /* redaction can make it longer than what came */
    }
    struct store_callback callback = {
        .received_at_ms = request->received_at_ms,
        .account = data->account->name,
        .session_uuid = data->callback.session_uuid,
        .message = data->callback.message,
        .external_id = data->callback.external_id,
        .sender = request->remote_addr,
        .flags = data->callback.flags.len > 0 ? buf_str(&data->callback.flags) : NULL,
        .body = bounded ? buf_str(&body) : NULL,
        .open = data->account->callback_open,
    };
    struct store_open_limit limit = {.count_hour = proview->config->open_count_hour,
                                     .bytes_hour = proview->config->open_bytes_hour};
    enum store_status status =
        store_callback_add(proview->store, &callback, callback.open ? &limit : NULL, NULL);
    buf_release(&body);
    if (status == STORE_OK) {
        reply->status = 200;
        reply->note = callback.flags ? "flagged" : NULL;
        buf_adds(&reply->body, "{}");
    } else if (status == STORE_LIMIT) {
        reply->header_name = "Retry-After";
        reply->header_value = LIMIT_RETRY_AFTER_S;
        reply_error(reply, 429, "too_many_requests", NULL);
    } else {
        reply_not_stored(reply, proview->store, status);
    }
    return ROUTE_REPLY;
}

static void proview_release(void *state, struct request *request, const struct reply *reply)
{
    (void)reply;
    (void)state;
    struct proview_request *data = request->route_data;
    if (!data) {
        return;
    }
    buf_release(&data->callback.flags);
    json_free(data->doc);
    sodium_memzero(data, sizeof *data);
    free(data);
    request->route_data = NULL;
}

static void proview_close(void *state)
{
    struct proview *proview = state;
    if (!proview) {
        return;
    }
    free(proview->extras);
    free(proview);
}

/* "X-Examhook-Secret" is HTTP_X_EXAMHOOK_SECRET. False: too long. */
static bool cgi_name(const char *header, char name[HEADER_NAME_MAX])
{
    static const char prefix[] = "HTTP_";
    size_t len = strlen(header);
    if (sizeof prefix + len > HEADER_NAME_MAX) {
        return false;
    }
    memcpy(name, prefix, sizeof prefix - 1);
    for (size_t i = 0; i <= len; i++) {
        char c = header[i];
        if (c >= 'a' && c <= 'z') {
            c = (char)(c - 'a' + 'A');
        }
        name[sizeof prefix - 1 + i] = c == '-' ? '_' : c;
    }
    return true;
}

static void *proview_open(const struct config *config, struct store *store, struct buf *why)
{
    struct proview *proview = xcalloc(1, sizeof *proview);
    proview->config = config;
    proview->store = store;
    proview->extras = xcalloc(config->proview_count + 1, sizeof *proview->extras);
    for (size_t i = 0; i < config->proview_count; i++) {
        const struct config_proview *account = &config->proview[i];
        if (account->has_header && !cgi_name(account->header_name, proview->extras[i].header)) {
            buf_addf(why, "[proview %s] header_name is too long", account->name);
            proview_close(proview);
            return NULL;
        }
        if (account->callback_open) {
            log_warn("callbacks are accepted from anybody (callback_open)", LOG_S("account", account->name));
        }
    }
    if (config->proview_count == 0) {
        log_warn("no [proview NAME] section: every request will be refused", LOG_S("config", config->path));
    }
    return proview;
}

const struct route proview_route = {
    .program = "proview",
    .role = CONFIG_PROVIEW,
    .write_areas = STORE_PROVIEW,
    .read_areas = 0,
    .area = STORE_PROVIEW,
    .declared = proview_declared,
    .check = proview_check,
    .store = proview_store,
    .release = proview_release,
    .open = proview_open,
    .close = proview_close,
};
