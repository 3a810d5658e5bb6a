/*
 * What the ExamJoint route's two files share: examjoint.c reads requests and keeps events, verify.c answers
 * verify_respondent.
 */
#ifndef EXAMHOOK_EXAMJOINT_H
#define EXAMHOOK_EXAMJOINT_H

#include "../common/event.h"
#include "../common/language.h"
#include "../common/roster.h"
#include "../common/throttle.h"
#include "credentials.h"
#include "server.h"

/* Refusals of throttled attempts that are stored: at most one a minute in each of these slots. */
#define REFUSAL_SLOTS 1024

struct examjoint {
    const struct config *config;
    struct store *store;
    struct languages *languages;
    unsigned char identity_key[STORE_KEY_BYTES];
    struct previous_use *previous; /* one for each account */
    struct once_a_minute spike;
    struct once_a_minute refusals[REFUSAL_SLOTS];
};

/* A verification between its steps. */
struct verification {
    struct roster_key keys[FIELDS_MAX]; /* what was sent for the identity columns */
    size_t key_count;
    struct roster_match match;
    char unknown[THROTTLE_UNKNOWN_BYTES]; /* what is remembered of an identity that is nobody's */
    unsigned char throttle_key[32];
    int64_t counted_at_ms;         /* when the attempt was counted; 0: it was not */
    struct once_a_minute *refusal; /* let this refusal through to be stored; NULL: none did */
};

/* The route's own data of a request. */
struct examjoint_request {
    const struct config_examjoint *account;
    struct json_doc *doc; /* holds passwords until the request is over; wiped then */
    struct event event;
    enum event_status trouble; /* not EVENT_OK: to be quarantined, `member` is to blame */
    const char *member;
    struct verification verification;
};

/* The store and resume steps of verify_respondent. */
enum route_next verify_store(struct examjoint *examjoint, struct request *request, struct reply *reply,
                             struct hash_job *job);
void verify_resume(struct examjoint *examjoint, struct request *request, struct reply *reply,
                   const struct hash_job *job);
void verification_release(struct verification *verification);
/* 200 {"errorMessage": ...} in the request's language. */
void verify_refuse(const struct examjoint *examjoint, const struct examjoint_request *data,
                   enum roster_verdict verdict, int64_t wait_s, struct reply *reply);

#endif
