#include "roster.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"

const char *roster_verdict_word(enum roster_verdict verdict)
{
    switch (verdict) {
    case ROSTER_VALID:
        return "";
    case ROSTER_UNKNOWN:
        return "unknown";
    case ROSTER_OTHER_EXAM:
        return "other_exam";
    case ROSTER_NOT_OPEN:
        return "not_open";
    case ROSTER_CLOSED:
        return "closed";
    case ROSTER_FIELDS_MAPPING:
        return "fields_mapping";
    case ROSTER_THROTTLED:
        return "throttled";
    case ROSTER_BUSY:
        return "busy";
    }
    return "unknown";
}

void roster_match_release(struct roster_match *match)
{
    if (!match)
        return;
    free(match->id);
    wipe_free(match->password_hash);
    buf_release(&match->metadata);
    *match = (struct roster_match){.found = false};
}

static void add_text(struct buf *metadata, const char *name, const char *text)
{
    if (text && *text)
        json_add_member(metadata, name, text);
}

/* Import lets only JSON into `data`; a value damaged since must not break the whole answer. */
static void add_data(struct buf *metadata, const char *data)
{
    struct json_doc *doc;
    if (!data || !*data || json_parse_any(data, strlen(data), &doc) != JSON_OK)
        return;
    json_add_key(metadata, "data");
    json_write(metadata, json_root(doc), false);
    json_free(doc);
}

/* ExamJoint's metadata: each member optional, so only those that the roster holds. */
static void add_metadata(struct buf *metadata, const struct candidate *candidate)
{
    buf_addc(metadata, '{');
    add_text(metadata, "name", candidate->name);
    add_text(metadata, "email", candidate->email);
    add_text(metadata, "photo", candidate->photo);
    add_text(metadata, "about", candidate->about);
    add_data(metadata, candidate->data);
    if (metadata->len == 1)
        buf_clear(metadata);
    else
        buf_addc(metadata, '}');
}

/* How well a line fits the exam that was asked for. */
enum fit { FIT_OTHER_EXAM, FIT_ANY_EXAM, FIT_THIS_EXAM };

struct search {
    const char *exam;
    enum fit best;
    bool several; /* lines of different candidates */
    struct roster_match match;
};

static enum fit fit_of(const struct candidate *candidate, const char *exam)
{
    if (!candidate->exam || !*candidate->exam)
        return FIT_ANY_EXAM;
    return exam && strcmp(candidate->exam, exam) == 0 ? FIT_THIS_EXAM : FIT_OTHER_EXAM;
}

static bool on_candidate(void *context, const struct candidate *candidate)
{
    struct search *search = context;
    struct roster_match *match = &search->match;
    enum fit fit = fit_of(candidate, search->exam);
    if (match->found && strcmp(match->id, candidate->id) != 0) {
        search->several = true;
        return false;
    }
    if (match->found && fit <= search->best)
        return true;
    roster_match_release(match);
    search->best = fit;
    match->found = true;
    match->id = xstrdup(candidate->id);
    match->password_hash = xstrdup(candidate->password_hash);
    match->this_exam = fit != FIT_OTHER_EXAM;
    match->opens_ms = candidate->opens_ms;
    match->closes_ms = candidate->closes_ms;
    add_metadata(&match->metadata, candidate);
    return true;
}

/* Nothing typed in any identity field is nobody, not whoever has those columns empty. */
static bool names_somebody(const struct roster_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (keys[i].value && *keys[i].value)
            return true;
    return false;
}

enum store_status roster_find(struct store *store, const char *account, const char *exam,
                              const struct roster_key *keys, size_t key_count, struct roster_match *match)
{
    struct search search = {.exam = exam};
    enum store_status status = STORE_OK;
    if (names_somebody(keys, key_count))
        status = store_candidates(store, account, keys, key_count, on_candidate, &search);
    if (status != STORE_OK || search.several)
        roster_match_release(&search.match);
    if (status == STORE_OK)
        *match = search.match;
    return status;
}

enum roster_verdict roster_decide(const struct roster_match *match, int64_t now_ms)
{
    if (!match->found)
        return ROSTER_UNKNOWN;
    if (!match->this_exam)
        return ROSTER_OTHER_EXAM;
    if (match->opens_ms && now_ms < match->opens_ms)
        return ROSTER_NOT_OPEN;
    if (match->closes_ms && now_ms >= match->closes_ms)
        return ROSTER_CLOSED;
    return ROSTER_VALID;
}
