#include "rows.h"

#include <string.h>

#include "csv.h"
#include "output.h"
#include "../common/clock.h"
#include "../common/json.h"
#include "../common/roster.h"

/* "0,2,?" as [0,2,null]. */
static void positions(struct buf *object, const char *text)
{
    json_add_key(object, "positions");
    if (!text) {
        buf_adds(object, "null");
        return;
    }
    buf_addc(object, '[');
    for (const char *at = text; *at; at += strspn(at, ",")) {
        size_t len = strcspn(at, ","), digits = strspn(at, "0123456789");

        if (at != text)
            buf_addc(object, ',');
        if (digits == len)
            buf_add(object, at, len);
        else
            buf_adds(object, "null");
        at += len;
    }
    buf_addc(object, ']');
}

void rows_event_members(struct buf *object, const struct store_event_row *row)
{
    json_add_member(object, "id", row->id);
    output_member_time(object, "received_at", row->received_at_ms);
    json_add_member(object, "source", row->source);
    json_add_member(object, "account", row->account);
    json_add_member(object, "event", row->event);
    json_add_member(object, "exam_id", row->exam_id);
    json_add_member(object, "respondent_id", row->respondent_id);
    json_add_member(object, "session_uuid", row->session_uuid);
    json_add_member(object, "external_id", row->external_id);
    json_add_member_int(object, "deliveries", row->deliveries);
    json_add_member(object, "outcome", row->outcome);
    json_add_member(object, "reason", row->reason && row->reason[0] ? row->reason : NULL);
    output_member_json(object, "body", row->body);
    json_add_member(object, "identity", row->identity);
    json_add_member(object, "flags", row->flags);
    positions(object, row->positions);
}

void rows_event_note(struct buf *out, const struct store_event_row *row)
{
    bool mapping = row->reason && strcmp(row->reason, roster_verdict_word(ROSTER_FIELDS_MAPPING)) == 0;

    if (row->reason && row->reason[0])
        buf_adds(out, row->reason);
    else if (row->flags)
        buf_adds(out, row->flags);
    if (mapping && row->positions)
        buf_addf(out, " (sent: %s)", row->positions[0] ? row->positions : "none");
}

void rows_change(struct buf *out, const struct store_rating_change *change)
{
    buf_addc(out, '{');
    output_member_time(out, "at", change->at_ms);
    json_add_member(out, "rating", change->rating);
    json_add_member(out, "rating_raw", change->rating_raw);
    json_add_member(out, "status", change->status);
    buf_addc(out, '}');
}

static void history(struct buf *out, const struct store_session_row *row)
{
    buf_addc(out, '[');
    for (size_t i = 0; i < row->history_count; i++) {
        if (i)
            buf_addc(out, ',');
        rows_change(out, &row->history[i]);
    }
    buf_addc(out, ']');
}

void rows_session_members(struct buf *object, const struct store_session_row *row)
{
    json_add_member(object, "session_uuid", row->session_uuid);
    json_add_member(object, "account", row->account);
    json_add_member(object, "external_id", row->external_id);
    json_add_member(object, "state", row->state);
    json_add_member(object, "rating", row->rating);
    json_add_member(object, "rating_raw", row->rating_raw);
    json_add_member(object, "status", row->status);
    json_add_member(object, "type", row->type);
    json_add_member_int(object, "attempts", row->attempts);
    json_add_member(object, "last_error", row->last_error);
    output_member_time(object, "next_attempt_at", row->next_attempt_at_ms);
    output_member_time(object, "rated_at", row->rated_at_ms);
    json_add_key(object, "history");
    history(object, row);
}

const char *rows_secret_kind(const struct candidate *candidate)
{
    if (!candidate->password_hash)
        return NULL;
    return !strncmp(candidate->password_hash, "$y$", 3)   ? "yescrypt"
           : !strncmp(candidate->password_hash, "$6$", 3) ? "sha512crypt"
                                                          : "bcrypt";
}

void rows_candidate_members(struct buf *object, const struct candidate *candidate)
{
    json_add_member(object, "account", candidate->account);
    json_add_member(object, "id", candidate->id);
    json_add_member(object, "email", candidate->email);
    json_add_member(object, "name", candidate->name);
    json_add_member(object, "password_kind", rows_secret_kind(candidate));
    json_add_member(object, "photo", candidate->photo);
    json_add_member(object, "about", candidate->about);
    output_member_json(object, "data", candidate->data);
    json_add_member(object, "exam", candidate->exam);
    output_member_time(object, "opens", candidate->opens_ms);
    output_member_time(object, "closes", candidate->closes_ms);
    json_add_key(object, "attributes");
    buf_addc(object, '{');
    for (size_t i = 0; i < candidate->attribute_count; i++)
        json_add_member(object, candidate->attributes[i].column, candidate->attributes[i].value);
    buf_addc(object, '}');
}

static void time_cell(FILE *out, int64_t ms)
{
    char text[CLOCK_TEXT_BYTES];

    csv_write_text(out, false, ms ? clock_format(ms, text) : NULL);
}

static void header(FILE *out, const char *const *names)
{
    for (size_t i = 0; names[i]; i++)
        csv_write_text(out, i == 0, names[i]);
    csv_write_end(out);
}

void rows_event_csv_header(FILE *out)
{
    static const char *const names[] = {
        "id",           "received_at", "source",     "account", "event",  "exam_id", "respondent_id",
        "session_uuid", "external_id", "deliveries", "outcome", "reason", "body",    "identity",
        "flags",        "positions",   NULL};

    header(out, names);
}

void rows_event_csv(FILE *out, const struct store_event_row *row)
{
    csv_write_text(out, true, row->id);
    time_cell(out, row->received_at_ms);
    csv_write_text(out, false, row->source);
    csv_write_text(out, false, row->account);
    csv_write_text(out, false, row->event);
    csv_write_text(out, false, row->exam_id);
    csv_write_text(out, false, row->respondent_id);
    csv_write_text(out, false, row->session_uuid);
    csv_write_text(out, false, row->external_id);
    csv_write_number(out, false, row->deliveries);
    csv_write_text(out, false, row->outcome);
    csv_write_text(out, false, row->reason);
    csv_write_text(out, false, row->body);
    csv_write_text(out, false, row->identity);
    csv_write_text(out, false, row->flags);
    csv_write_text(out, false, row->positions);
    csv_write_end(out);
}

void rows_session_csv_header(FILE *out)
{
    static const char *const names[] = {
        "session_uuid", "account",  "external_id", "state",           "rating",   "rating_raw", "status",
        "type",         "attempts", "last_error",  "next_attempt_at", "rated_at", "history",    NULL};

    header(out, names);
}

void rows_session_csv(FILE *out, const struct store_session_row *row)
{
    struct buf changes = BUF_INIT;

    history(&changes, row);
    csv_write_text(out, true, row->session_uuid);
    csv_write_text(out, false, row->account);
    csv_write_text(out, false, row->external_id);
    csv_write_text(out, false, row->state);
    csv_write_text(out, false, row->rating);
    csv_write_text(out, false, row->rating_raw);
    csv_write_text(out, false, row->status);
    csv_write_text(out, false, row->type);
    csv_write_number(out, false, row->attempts);
    csv_write_text(out, false, row->last_error);
    time_cell(out, row->next_attempt_at_ms);
    time_cell(out, row->rated_at_ms);
    csv_write_text(out, false, buf_str(&changes));
    csv_write_end(out);
    buf_release(&changes);
}
