/*
 * Reading an ExamJoint event out of a JSON object. Pure: a tree in, an event or the member to blame out.
 *
 * What each event needs (the vendor's page, in brackets what is ours):
 *
 *   every event             event: a string (not empty, at most EVENT_TEXT_MAX bytes)
 *   verify_respondent       exam_id: text; fields: an array of {position: integer, value: string}
 *                           (at most EVENT_FIELDS_MAX of them, no position twice);
 *                           choosenLang: text, may be absent (a wrong type counts as absent)
 *   admitted_respondent     respondent_id, exam_id: text; admittedOn: an integer, epoch milliseconds
 *   result_ready            respondent_id, exam_id: text
 *   investigation_complete  respondent_id, exam_id: text
 *   any other               nothing more; respondent_id, exam_id and admittedOn are taken where they fit
 *
 * "Text" is a string of 1 to EVENT_TEXT_MAX bytes. Members not named here are ignored. An object that lacks
 * what its event needs is never lost: it is answered 422 with the member, and kept as quarantined.
 */
#ifndef EXAMHOOK_EVENT_H
#define EXAMHOOK_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "json.h"

#define EVENT_TEXT_MAX 512
#define EVENT_FIELDS_MAX 256
#define EVENT_KEY_BYTES 32

enum event_kind { EVENT_UNKNOWN = 0, EVENT_VERIFY, EVENT_ADMITTED, EVENT_RESULT, EVENT_INVESTIGATION };

enum event_status {
    EVENT_OK = 0,
    EVENT_MISSING, /* a member that the event needs is not there */
    EVENT_INVALID  /* it is there, and of another type, empty or too long */
};
/* "missing_member" or "invalid_member"; "" for EVENT_OK. */
const char *event_status_word(enum event_status status);

/* All texts belong to the tree that was read. */
struct event {
    enum event_kind kind;
    const char *name;          /* the member `event` */
    const char *exam_id;       /* NULL where absent */
    const char *respondent_id; /* NULL where absent */
    bool has_admitted_on;
    int64_t admitted_on_ms;
    const char *language;      /* choosenLang; NULL: absent or no string */
    const struct json *fields; /* EVENT_VERIFY: checked, see event_field_at() */
};

/*
 * On EVENT_OK *out is set. Otherwise *member names the one to blame (static text).
 * `lenient`, for what an operator replays: a number where a text is meant is taken by its text, a text of
 * digits where an integer is meant by its number.
 */
enum event_status event_read(const struct json *root, bool lenient, struct event *out, const char **member);
/* What can be made out of an object that event_read() refuses, for its quarantined row: kind, and the texts
 * and the time that are as they should be; never `fields`. */
void event_glimpse(const struct json *root, struct event *out);

/* The i-th of `fields`, counted by json_count(). Only for what event_read() accepted. */
void event_field_at(const struct json *fields, size_t i, int64_t *position, const char **value);
/* The value at that position, NULL where it was not sent. */
const char *event_field_value(const struct json *fields, int64_t position);
/* The positions received, in their order, "0,1"; "?" for one that is not 0 to 99 (it might be a password in
 * the wrong member). */
void event_positions(const struct json *fields, struct buf *out);

/*
 * The key by which repeats are known. For the three events of which a repeat must not count twice: SHA-256
 * over account, event, respondent_id, exam_id and admittedOn, each with its length in front. For any other
 * event: over the account and body_digest, the keyed digest of the raw body (throttle_body_digest()).
 */
/* Whether body_digest counts for this event's key. */
bool event_key_of_body(const struct event *event);
void event_key(const char *account, const struct event *event, const unsigned char body_digest[32],
               unsigned char key[EVENT_KEY_BYTES]);
/* The key of a quarantined body: a vendor that repeats it fills no disk. */
void event_key_quarantined(const char *account, const unsigned char body_digest[32],
                           unsigned char key[EVENT_KEY_BYTES]);

#endif
