#include "store_fake.h"

#include <stdio.h>
#include <string.h>

#include "../../common/password.h"
#include "fuzz.h"

#define THROTTLED_FROM 5 /* attempts that are counted: the next is throttled */

void store_fake_reset(struct store *store)
{
    buf_release(&store->step_rows);
    buf_release(&store->round_rows);
    buf_release(&store->rows);
    memset(store, 0, sizeof *store);
}

/* Every call that may fail goes by here. */
static enum store_status say(struct store *store)
{
    store->calls++;
    return store->calls == store->fail_at ? store->fail_with : STORE_OK;
}

const char *store_status_word(enum store_status status)
{
    return status == STORE_OK ? "ok" : status == STORE_FULL ? "full" : "error";
}

const char *store_message(const struct store *store)
{
    (void)store;
    return "the store that is not one";
}

enum store_status store_open(const char *url, unsigned write_areas, unsigned read_areas, int64_t lock_wait_ms,
                             struct store **out, struct buf *why)
{
    (void)url;
    (void)write_areas;
    (void)read_areas;
    (void)lock_wait_ms;
    (void)why;
    *out = xcalloc(1, sizeof **out);
    return STORE_OK;
}

void store_leave(struct store *store)
{
    (void)store;
}

void store_free(struct store *store)
{
    store_fake_reset(store);
    free(store);
}

char *store_area_folder(const char *url, enum store_area area)
{
    (void)url;
    (void)area;
    return xstrdup("/nonexistent");
}

enum store_status store_round_begin(struct store *store, enum store_area area)
{
    (void)area;
    MUST(!store->round);
    enum store_status status = say(store);
    store->round = status == STORE_OK;
    return status;
}

enum store_status store_step_begin(struct store *store)
{
    MUST(store->round && !store->step);
    enum store_status status = say(store);
    store->step = status == STORE_OK;
    store->kept = false;
    return status;
}

enum store_status store_step_begin_event(struct store *store)
{
    store->step_of_event = true;
    return store_step_begin(store);
}

enum store_status store_events_erased(struct store *store, bool *some)
{
    MUST(store->round);
    enum store_status status = say(store);
    if (status == STORE_OK)
        *some = true;
    return status;
}

enum store_status store_step_end(struct store *store, bool keep)
{
    MUST(store->step);
    MUST(!store->step_of_event || keep || !store->step_rows.len);
    store->step = store->step_of_event = false;
    enum store_status status = say(store);
    store->kept = status == STORE_OK && keep;
    if (store->kept)
        buf_add(&store->round_rows, buf_str(&store->step_rows), store->step_rows.len);
    buf_clear(&store->step_rows);
    return status;
}

enum store_status store_round_commit(struct store *store)
{
    MUST(store->round && !store->step);
    store->round = false;
    enum store_status status = say(store);
    if (status == STORE_OK) {
        buf_add(&store->rows, buf_str(&store->round_rows), store->round_rows.len);
        store->commits++;
    }
    buf_clear(&store->round_rows);
    return status;
}

void store_round_abandon(struct store *store)
{
    store->round = store->step = false;
    buf_clear(&store->step_rows);
    buf_clear(&store->round_rows);
}

enum store_status store_identity_key(struct store *store, unsigned char key[STORE_KEY_BYTES])
{
    (void)store;
    memset(key, 7, STORE_KEY_BYTES);
    return STORE_OK;
}

static void add_text(struct store *store, const char *name, const char *text)
{
    if (text)
        buf_addf(&store->step_rows, "%s=%s\n", name, text);
}

enum store_status store_event_add(struct store *store, const struct store_event *event, bool *repeat)
{
    MUST(store->step && event->account && event->received_at_ms > 0);
    MUST(!store->step_of_event || !store->step_rows.len);
    enum store_status status = say(store);
    if (status != STORE_OK)
        return status;
    add_text(store, "account", event->account);
    add_text(store, "event", event->event);
    add_text(store, "exam_id", event->exam_id);
    add_text(store, "respondent_id", event->respondent_id);
    add_text(store, "outcome", event->outcome);
    add_text(store, "reason", event->reason);
    add_text(store, "identity", event->identity);
    add_text(store, "positions", event->positions);
    add_text(store, "body", event->body);
    if (repeat)
        *repeat = false;
    return STORE_OK;
}

enum store_status store_callback_add(struct store *store, const struct store_callback *callback,
                                     const struct store_open_limit *limit, bool *repeat)
{
    MUST(store->step && callback->account && strlen(callback->session_uuid) == 36);
    MUST(callback->open == (limit != NULL));
    enum store_status status = say(store);
    if (status != STORE_OK)
        return status;
    add_text(store, "account", callback->account);
    add_text(store, "session_uuid", callback->session_uuid);
    add_text(store, "message", callback->message);
    add_text(store, "external_id", callback->external_id);
    add_text(store, "sender", callback->sender);
    add_text(store, "flags", callback->flags);
    add_text(store, "body", callback->body);
    if (repeat)
        *repeat = false;
    return STORE_OK;
}

enum store_status store_attempt_count(struct store *store, const unsigned char key[32], const char *account,
                                      const char *exam, int64_t now_ms, const struct store_throttle *rule,
                                      int64_t *wait_ms, bool *newly)
{
    (void)key;
    (void)now_ms;
    MUST(store->step && account && exam && rule->failures > 0);
    enum store_status status = say(store);
    if (status == STORE_LIMIT || (status == STORE_OK && store->attempts >= THROTTLED_FROM)) {
        *wait_ms = 1500;
        return STORE_LIMIT;
    }
    if (status == STORE_OK)
        *newly = ++store->attempts == THROTTLED_FROM;
    return status;
}

enum store_status store_attempt_take_back(struct store *store, const unsigned char key[32],
                                          int64_t counted_at_ms)
{
    (void)key;
    MUST(store->step && counted_at_ms > 0 && store->attempts > 0);
    enum store_status status = say(store);
    if (status == STORE_OK)
        store->attempts--;
    return status;
}

enum store_status store_throttled(struct store *store, int64_t now_ms, const struct store_throttle *rule,
                                  int64_t most, int64_t *count)
{
    (void)now_ms;
    (void)rule;
    enum store_status status = say(store);
    if (status == STORE_OK)
        *count = most;
    return status;
}

/* The roster: "anna" at the exam "e", "bert" without a password at any. */
enum store_status store_candidates(struct store *store, const char *account, const struct roster_key *keys,
                                   size_t key_count, candidate_fn *fn, void *context)
{
    static const struct candidate anna = {.account = "main",
                                          .id = "id-7",
                                          .name = "Anna",
                                          .password_hash = "$6$salt$anna",
                                          .data = "{\"group\":1}",
                                          .exam = "e"};
    static const struct candidate bert = {.account = "main", .id = "id-8", .name = "Bert"};
    enum store_status status = say(store);
    MUST(account && key_count > 0);
    if (status == STORE_OK && strcmp(keys[0].value, "anna") == 0)
        fn(context, &anna);
    if (status == STORE_OK && strcmp(keys[0].value, "bert") == 0)
        fn(context, &bert);
    return status;
}

enum store_status store_roster_dummy(struct store *store, const char *account, char *setting, size_t size)
{
    (void)account;
    enum store_status status = say(store);
    if (status == STORE_OK)
        snprintf(setting, size, "%s", password_default_dummy());
    return status;
}

/* Nothing is ever old here: no target configures a retention. */
struct store_sweep *store_sweep_new(struct store *store, const struct store_sweep_rule *rule)
{
    (void)store;
    (void)rule;
    return NULL;
}

enum store_status store_sweep_step(struct store_sweep *sweep, bool *more)
{
    (void)sweep;
    *more = false;
    return STORE_OK;
}

struct store_purged store_sweep_result(const struct store_sweep *sweep)
{
    (void)sweep;
    return (struct store_purged){0};
}

void store_sweep_free(struct store_sweep *sweep)
{
    (void)sweep;
}
