/*
 * verify_respondent: a candidate waits for the answer.
 *
 * store:  what was sent for the mapped positions; the candidate; the attempt, counted before anything is
 *         checked; then exactly one hash, the candidate's or a dummy of the same cost, whoever it is.
 * resume: the verdict, its row, and the attempt taken back when the password was right, or when no hash was
 *         computed (a busy machine must not throttle a candidate).
 *
 * Of what was sent, a row holds the roster's id where the candidate was found, else a keyed hash, and the
 * positions. The password lives in the request's tree and in the hash job, both wiped.
 */
#include "examjoint.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "../common/clock.h"
#include "../common/log.h"

#define MINUTE_MS 60000
/* How many more than the threshold of a spike are counted for its log line. */
#define SPIKE_COUNT_MORE 10000

void verification_release(struct verification *verification)
{
    for (size_t i = 0; i < verification->key_count; i++) {
        wipe_free((char *)(uintptr_t)verification->keys[i].value);
    }
    roster_match_release(&verification->match);
    sodium_memzero(verification, sizeof *verification);
}

void verify_refuse(const struct examjoint *examjoint, const struct examjoint_request *data,
                   enum roster_verdict verdict, int64_t wait_s, struct reply *reply)
{
    struct buf text = BUF_INIT;
    language_text(examjoint->languages, data->event.language, verdict, wait_s, &text);
    buf_clear(&reply->body);
    buf_addc(&reply->body, '{');
    json_add_member(&reply->body, "errorMessage", buf_str(&text));
    buf_addc(&reply->body, '}');
    buf_release(&text);
    reply->status = 200;
    reply->note = roster_verdict_word(verdict);
}

/* No errorMessage, not even an empty one: the vendor takes its presence for a refusal. */
static void admit(const struct examjoint_request *data, struct reply *reply)
{
    const struct buf *metadata = &data->verification.match.metadata;
    buf_clear(&reply->body);
    buf_addc(&reply->body, '{');
    if (metadata->len > 0) {
        json_add_member_raw(&reply->body, "metadata", buf_str(metadata));
    }
    buf_addc(&reply->body, '}');
    reply->status = 200;
    reply->note = "valid";
}

/* The row of an outcome. `key` NULL: every one counts. */
static enum store_status keep_outcome(struct examjoint *examjoint, const struct request *request,
                                      const struct examjoint_request *data, enum roster_verdict verdict,
                                      const unsigned char *key)
{
    const struct verification *v = &data->verification;
    struct buf positions = BUF_INIT;
    event_positions(data->event.fields, &positions);
    struct store_event event = {
        .received_at_ms = request->received_at_ms,
        .account = data->account->name,
        .event = data->event.name,
        .exam_id = data->event.exam_id,
        .outcome = verdict == ROSTER_VALID ? "valid" : "invalid",
        .reason = roster_verdict_word(verdict),
        .identity = v->match.found  ? v->match.id
                    : v->unknown[0] ? v->unknown
                                    : NULL,
        .positions = buf_str(&positions),
        .key = key,
    };
    enum store_status status = store_event_add(examjoint->store, &event, NULL);
    buf_release(&positions);
    return status;
}

/* Keeps the outcome and decides the reply. */
static void conclude(struct examjoint *examjoint, struct request *request, struct reply *reply,
                     enum roster_verdict verdict, int64_t wait_s, bool take_back)
{
    struct examjoint_request *data = request->route_data;
    struct verification *v = &data->verification;
    enum store_status status = STORE_OK;
    if (take_back && v->counted_at_ms != 0) {
        status = store_attempt_take_back(examjoint->store, v->throttle_key, v->counted_at_ms);
        /* `examhook unlock` may have forgotten it meanwhile. */
        status = status == STORE_ABSENT ? STORE_OK : status;
    }
    if (status == STORE_OK) {
        status = keep_outcome(examjoint, request, data, verdict, NULL);
    }
    if (status != STORE_OK) {
        reply_not_stored(reply, examjoint->store, status);
    } else if (verdict == ROSTER_VALID) {
        admit(data, reply);
    } else {
        verify_refuse(examjoint, data, verdict, wait_s, reply);
    }
}

/* What was sent for the mapped columns. False: the exam has no mapping, or one without an identity, or a
 * mapped position was not sent. *password stays NULL where the exam maps none. */
static bool collect(const struct examjoint *examjoint, struct examjoint_request *data, const char **password)
{
    struct verification *v = &data->verification;
    const struct field_map *map =
        config_field_map(examjoint->config, data->account->name, data->event.exam_id);
    for (int i = 0; map && i < map->count; i++) {
        const char *value = event_field_value(data->event.fields, map->at[i].position);
        if (!value) {
            return false;
        }
        if (strcmp(map->at[i].column, CONFIG_SECRET_COLUMN) == 0) {
            *password = value;
            continue;
        }
        size_t len = strlen(value);
        const char *text = trimmed(value, &len);
        v->keys[v->key_count++] =
            (struct roster_key){.column = map->at[i].column,
                                .value = xstrndup(text, len),
                                .nocase = config_is_nocase(examjoint->config, map->at[i].column)};
    }
    return v->key_count > 0;
}

static bool identity_complete(const struct verification *v)
{
    for (size_t i = 0; i < v->key_count; i++) {
        if (v->keys[i].value[0] == '\0') {
            return false;
        }
    }
    return true;
}

static enum store_status identify(struct examjoint *examjoint, struct examjoint_request *data)
{
    struct verification *v = &data->verification;
    const char *account = data->account->name;
    const char *exam = data->event.exam_id;
    if (identity_complete(v)) {
        enum store_status status =
            roster_find(examjoint->store, account, exam, v->keys, v->key_count, &v->match);
        if (status != STORE_OK) {
            return status;
        }
    }
    if (v->match.found) {
        throttle_key_known(examjoint->identity_key, account, exam, v->match.id, v->throttle_key);
    } else {
        throttle_key_unknown(examjoint->identity_key, account, exam, v->keys, v->key_count, v->throttle_key);
        throttle_unknown_text(examjoint->identity_key, account, v->keys, v->key_count, v->unknown);
    }
    return STORE_OK;
}

static void warn_of_spike(struct examjoint *examjoint, int64_t now_ms, const struct store_throttle *rule)
{
    int64_t threshold = examjoint->config->throttle_spike;
    int64_t count;
    if (store_throttled(examjoint->store, now_ms, rule, threshold + SPIKE_COUNT_MORE, &count) == STORE_OK &&
        count > threshold && once_a_minute(&examjoint->spike, clock_monotonic_ms())) {
        log_warn("many identities are throttled: somebody may be guessing", LOG_I("identities", count),
                 LOG_I("threshold", threshold));
    }
}

/* STORE_LIMIT: throttled, *wait_ms says for how long. */
static enum store_status count_attempt(struct examjoint *examjoint, struct examjoint_request *data,
                                       int64_t *wait_ms)
{
    const struct config *config = examjoint->config;
    struct verification *v = &data->verification;
    struct store_throttle rule = {.failures = config->throttle_failures,
                                  .window_ms = config->throttle_window_ms,
                                  .pause_ms = config->throttle_pause_ms,
                                  .rows_max = config->throttle_rows};
    int64_t now_ms = clock_now_ms();
    bool newly = false;
    enum store_status status = store_attempt_count(examjoint->store, v->throttle_key, data->account->name,
                                                   data->event.exam_id, now_ms, &rule, wait_ms, &newly);
    if (status == STORE_OK) {
        v->counted_at_ms = now_ms;
        if (newly) {
            warn_of_spike(examjoint, now_ms, &rule);
        }
    }
    return status;
}

/*
 * Refused at once. A flood of such attempts must not fill the disk: in one process a slot stores one a
 * minute, and the row's key, which is of the minute, makes repeats of several processes (plain CGI) one row.
 */
static void refuse_throttled(struct examjoint *examjoint, struct request *request, struct reply *reply,
                             int64_t wait_ms)
{
    struct examjoint_request *data = request->route_data;
    const struct verification *v = &data->verification;
    size_t slot = ((size_t)v->throttle_key[0] << 8 | v->throttle_key[1]) % REFUSAL_SLOTS;
    if (once_a_minute(&examjoint->refusals[slot], clock_monotonic_ms())) {
        data->verification.refusal = &examjoint->refusals[slot];
        unsigned char key[EVENT_KEY_BYTES];
        int64_t minute = request->received_at_ms / MINUTE_MS;
        crypto_hash_sha256_state hash;
        crypto_hash_sha256_init(&hash);
        crypto_hash_sha256_update(&hash, (const unsigned char *)"throttled", sizeof "throttled");
        crypto_hash_sha256_update(&hash, v->throttle_key, sizeof v->throttle_key);
        crypto_hash_sha256_update(&hash, (const unsigned char *)&minute, sizeof minute);
        crypto_hash_sha256_final(&hash, key);
        enum store_status status = keep_outcome(examjoint, request, data, ROSTER_THROTTLED, key);
        if (status != STORE_OK) {
            reply_not_stored(reply, examjoint->store, status);
            return;
        }
    }
    int64_t wait_s = (wait_ms + 999) / 1000;
    verify_refuse(examjoint, data, ROSTER_THROTTLED, wait_s > 0 ? wait_s : 1, reply);
}

/* Fills the job: the candidate's hash, or a dummy that costs what most of the roster's cost. */
static enum store_status ask_for_hash(struct examjoint *examjoint, const struct examjoint_request *data,
                                      const char *password, struct hash_job *job)
{
    const struct verification *v = &data->verification;
    enum store_status status = STORE_OK;
    const char *setting = v->match.password_hash;
    if (!setting) {
        status = store_roster_dummy(examjoint->store, data->account->name, job->setting, sizeof job->setting);
        setting = status == STORE_ABSENT ? password_default_dummy() : job->setting;
        status = status == STORE_ABSENT ? STORE_OK : status;
    }
    if (status != STORE_OK) {
        return status;
    }
    size_t len = strlen(setting);
    if (len >= sizeof job->setting) {
        setting = password_default_dummy(); /* no hash of ours is that long: it matches nothing */
        len = strlen(setting);
    }
    memmove(job->setting, setting, len + 1);
    buf_add(&job->password, password, strlen(password));
    memcpy(&job->who, v->throttle_key, sizeof job->who);
    return STORE_OK;
}

enum route_next verify_store(struct examjoint *examjoint, struct request *request, struct reply *reply,
                             struct hash_job *job)
{
    struct examjoint_request *data = request->route_data;
    const struct roster_match *match = &data->verification.match;
    const char *password = NULL;
    int64_t wait_ms = 0;

    if (!collect(examjoint, data, &password)) {
        conclude(examjoint, request, reply, ROSTER_FIELDS_MAPPING, 0, false);
        return ROUTE_REPLY;
    }
    enum store_status status = identify(examjoint, data);
    if (status == STORE_OK) {
        status = count_attempt(examjoint, data, &wait_ms);
    }
    if (status == STORE_LIMIT) {
        refuse_throttled(examjoint, request, reply, wait_ms);
        return ROUTE_REPLY;
    }
    if (status == STORE_OK && password) {
        status = ask_for_hash(examjoint, data, password, job);
    }
    if (status != STORE_OK) {
        reply_not_stored(reply, examjoint->store, status);
        return ROUTE_REPLY;
    }
    if (password) {
        return ROUTE_HASH;
    }
    enum roster_verdict verdict = match->found ? roster_decide(match, clock_now_ms()) : ROSTER_UNKNOWN;
    conclude(examjoint, request, reply, verdict, 0, verdict == ROSTER_VALID);
    return ROUTE_REPLY;
}

void verify_resume(struct examjoint *examjoint, struct request *request, struct reply *reply,
                   const struct hash_job *job)
{
    const struct examjoint_request *data = request->route_data;
    const struct roster_match *match = &data->verification.match;
    if (!job->done) {
        conclude(examjoint, request, reply, ROSTER_BUSY, job->wait_s, true);
        return;
    }
    /* A dummy setting never matches, but the verdict does not rest on that. */
    bool right = job->match && match->found && match->password_hash;
    enum roster_verdict verdict = right ? roster_decide(match, clock_now_ms()) : ROSTER_UNKNOWN;
    conclude(examjoint, request, reply, verdict, 0, right);
}
