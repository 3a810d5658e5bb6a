/*
 * POST /webhooks/examjoint. The order of what is looked at, first refusal wins:
 *
 *   path             404 not_found
 *   method           405 method_not_allowed, Allow: POST
 *   declared length  400 invalid_length, 413 body_too_large
 *   client headers   401 repeated_header, unauthorized
 *   real length      413 body_too_large, 400 incomplete_body
 *   JSON             400 with json_error_word()
 *   members          422 missing_member, invalid_member; what was sent is kept as quarantined
 *
 * Content-Type is not documented by the vendor: any is accepted.
 */
#include "examjoint.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "../common/json.h"
#include "../common/log.h"
#include "path.h"
#include "routes.h"

static enum route_next authenticate(struct examjoint *examjoint, struct request *request, struct reply *reply)
{
    bool id_repeated, secret_repeated;
    const char *id = request_header(request, "HTTP_X_CLIENT_ID", &id_repeated);
    const char *secret = request_header(request, "HTTP_X_CLIENT_SECRET", &secret_repeated);
    if (id_repeated || secret_repeated) {
        return reply_refuse(reply, 401, "repeated_header");
    }
    enum secret_match match;
    const struct config_examjoint *account = credentials_examjoint(examjoint->config, id, secret, &match);
    if (!account) {
        return reply_refuse(reply, 401, "unauthorized");
    }
    if (match == SECRET_PREVIOUS) {
        previous_used(&examjoint->previous[account - examjoint->config->examjoint], account->name,
                      "client_secret_previous");
    }
    struct examjoint_request *data = xcalloc(1, sizeof *data);
    data->account = account;
    request->route_data = data;
    return ROUTE_STORE;
}

static bool is_verification(const struct examjoint_request *data)
{
    return data->trouble == EVENT_OK && data->event.kind == EVENT_VERIFY;
}

static bool examjoint_one_event(const struct request *request)
{
    return !is_verification(request->route_data);
}

static enum route_next examjoint_declared(void *state, struct request *request, struct reply *reply)
{
    struct examjoint *examjoint = state;
    if (!path_is_examjoint(request->path)) {
        return reply_refuse(reply, 404, "not_found");
    }
    if (request_refuse_early(request, examjoint->config->body_limit_bytes, reply)) {
        return ROUTE_REPLY;
    }
    return authenticate(examjoint, request, reply);
}

/* An event we do not know that carries `fields` may be a verification under another name: a bare {} would let
 * the candidate in, and nobody checked anything. */
static bool may_be_verification(const struct examjoint_request *data)
{
    const struct json *root = json_root(data->doc);
    for (size_t i = 0; data->event.kind == EVENT_UNKNOWN && i < json_count(root); i++) {
        if (strcasecmp(json_key_at(root, i), "fields") == 0) {
            return true;
        }
    }
    return false;
}

static bool examjoint_prepare(void *state, struct buf *why)
{
    struct examjoint *examjoint = state;
    return examjoint->languages ||
           languages_load(examjoint->config->languages, examjoint->config->default_language,
                          &examjoint->languages, why);
}

/* Whether the answer may need words for a candidate, and they cannot be read: then the reply says so. */
static bool lacks_words(struct examjoint *examjoint, const struct examjoint_request *data,
                        struct reply *reply)
{
    struct buf why = BUF_INIT;
    if (examjoint->languages || data->trouble != EVENT_OK ||
        (data->event.kind != EVENT_VERIFY && !may_be_verification(data)) ||
        examjoint_prepare(examjoint, &why)) {
        return false;
    }
    log_error("verifications are refused", LOG_S("reason", buf_str(&why)));
    buf_release(&why);
    reply_not_configured(reply);
    return true;
}

static enum route_next examjoint_check(void *state, struct request *request, struct reply *reply)
{
    struct examjoint *examjoint = state;
    struct examjoint_request *data = request->route_data;
    if (!request->body_complete) {
        return reply_refuse(reply, 400, "incomplete_body");
    }
    enum json_error error = json_parse(buf_str(&request->body), request->body.len, &data->doc);
    if (error != JSON_OK) {
        return reply_refuse(reply, 400, json_error_word(error));
    }
    const struct json *root = json_root(data->doc);
    data->trouble = event_read(root, false, &data->event, &data->member);
    if (data->trouble != EVENT_OK) {
        event_glimpse(root, &data->event);
    }
    return lacks_words(examjoint, data, reply) ? ROUTE_REPLY : ROUTE_STORE;
}

/* An event that is no verification, or anything that is quarantined: one row with the redacted body. */
static enum store_status keep(struct examjoint *examjoint, const struct request *request,
                              const struct examjoint_request *data)
{
    struct buf body = BUF_INIT;
    struct buf reason = BUF_INIT;
    unsigned char digest[32] = {0}, key[EVENT_KEY_BYTES], erased_key[EVENT_KEY_BYTES];
    const char *account = data->account->name;
    bool quarantined = data->trouble != EVENT_OK;

    (void)buf_room(&body, request->body.len); /* most are no longer than they came */
    json_write(&body, json_root(data->doc), true);
    if (quarantined || event_key_of_body(&data->event)) {
        throttle_body_digest(examjoint->identity_key, buf_str(&request->body), request->body.len, digest);
    }
    if (quarantined) {
        buf_addf(&reason, "%s:%s", event_status_word(data->trouble), data->member);
        event_key_quarantined(account, digest, key);
    } else {
        event_key(account, &data->event, digest, key);
    }
    bool erased = false;
    enum store_status status = store_events_erased(examjoint->store, &erased);
    if (erased) {
        throttle_erased_key(examjoint->identity_key, key, erased_key);
    }
    struct store_event event = {
        .received_at_ms = request->received_at_ms,
        .account = account,
        .event = data->event.name,
        .exam_id = data->event.exam_id,
        .respondent_id = data->event.respondent_id,
        .has_admitted_on = data->event.has_admitted_on,
        .admitted_on_ms = data->event.admitted_on_ms,
        .outcome = quarantined ? "quarantined" : NULL,
        .reason = quarantined ? buf_str(&reason) : NULL,
        .body = buf_str(&body),
        .quarantined = quarantined,
        .key = key,
        .erased_key = erased ? erased_key : NULL,
    };
    if (status == STORE_OK) {
        status = store_event_add(examjoint->store, &event, NULL);
    }
    buf_release(&reason);
    buf_release(&body);
    return status;
}

static enum route_next examjoint_store(void *state, struct request *request, struct reply *reply,
                                       struct hash_job *job)
{
    struct examjoint *examjoint = state;
    struct examjoint_request *data = request->route_data;
    if (is_verification(data)) {
        return verify_store(examjoint, request, reply, job);
    }
    enum store_status status = keep(examjoint, request, data);
    if (status != STORE_OK) {
        reply_not_stored(reply, examjoint->store, status);
    } else if (data->trouble != EVENT_OK) {
        reply_error(reply, 422, event_status_word(data->trouble), data->member);
    } else if (may_be_verification(data)) {
        verify_refuse(examjoint, data, ROSTER_FIELDS_MAPPING, 0, reply);
        reply->note = "unknown_event";
    } else {
        reply->status = 200;
        reply->note = data->event.kind == EVENT_UNKNOWN ? "unknown_event" : NULL;
        buf_adds(&reply->body, "{}");
    }
    return ROUTE_REPLY;
}

static void examjoint_resume(void *state, struct request *request, struct reply *reply,
                             const struct hash_job *job)
{
    verify_resume(state, request, reply, job);
}

static void examjoint_release(void *state, struct request *request, const struct reply *reply)
{
    (void)state;
    struct examjoint_request *data = request->route_data;
    if (!data) {
        return;
    }
    /* What was not stored, maybe only because the commit failed, has not had its minute. */
    if (data->verification.refusal && reply->status >= 500) {
        data->verification.refusal->used = false;
    }
    verification_release(&data->verification);
    json_free(data->doc);
    sodium_memzero(data, sizeof *data);
    free(data);
    request->route_data = NULL;
}

static void examjoint_close(void *state)
{
    struct examjoint *examjoint = state;
    if (!examjoint) {
        return;
    }
    languages_free(examjoint->languages);
    free(examjoint->previous);
    sodium_memzero(examjoint, sizeof *examjoint);
    free(examjoint);
}

static void *examjoint_open(const struct config *config, struct store *store, struct buf *why)
{
    struct examjoint *examjoint = xcalloc(1, sizeof *examjoint);
    examjoint->config = config;
    examjoint->store = store;
    examjoint->previous = xcalloc(config->examjoint_count + 1, sizeof *examjoint->previous);
    enum store_status status = store_identity_key(store, examjoint->identity_key);
    if (status != STORE_OK) {
        buf_addf(why, "the key of unknown identities cannot be read (%s): %s", store_status_word(status),
                 store_message(store));
        goto out;
    }
    if (config->examjoint_count == 0) {
        log_warn("no [examjoint NAME] section: every request will be refused", LOG_S("config", config->path));
    }
    return examjoint;
out:
    examjoint_close(examjoint);
    return NULL;
}

const struct route examjoint_route = {
    .program = "examjoint",
    .role = CONFIG_EXAMJOINT,
    .write_areas = STORE_EXAMJOINT,
    .read_areas = STORE_ROSTER,
    .area = STORE_EXAMJOINT,
    .declared = examjoint_declared,
    .check = examjoint_check,
    .one_event = examjoint_one_event,
    .store = examjoint_store,
    .resume = examjoint_resume,
    .release = examjoint_release,
    .open = examjoint_open,
    .prepare = examjoint_prepare,
    .close = examjoint_close,
};
