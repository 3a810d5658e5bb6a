/*
 * What is held of one person, found in all files of the store: for `respondent ID --erase` and
 * `export --respondent ID`.
 *
 *   roster     lines of that id
 *   events     by respondent_id or identity; what the roster's values (or the id alone) would have been kept
 * as before somebody of that name was in the roster; of unknown and quarantined events without a
 *              respondent_id of their own those whose body names the id as `respondent_id` or `external_id`,
 * or the roster's e-mail address anywhere, and names nobody else attempts   the keys under which failed
 * attempts of that id, or of the roster's values, are counted sessions   of that UUID; those whose fetched
 * external_id is the id; those that were not fetched yet, of which a callback claims it and none claims
 * another. Their callbacks, whatever these say undecided  events and callbacks that only mention the id, or
 * were found by an address or by values that somebody else of the roster has too, or claim the id for a
 * session that is or may be another's
 */
#ifndef EXAMHOOK_PERSON_H
#define EXAMHOOK_PERSON_H

#include "cli.h"

/* Texts, each once. */
struct texts {
    char **list;
    size_t count;
};
/* True: it was new. */
bool texts_add(struct texts *texts, const char *text);
bool texts_have(const struct texts *texts, const char *text);
void texts_release(struct texts *texts);

struct person_session {
    char *account, *uuid;
};
struct person_line {
    char *account, *exam; /* exam "": any */
    char *email;
    bool email_shared;            /* somebody else of the account has it too */
    struct texts columns, values; /* what can be typed, by the same index; columns are unlike each other */
};
struct person {
    struct store *store;
    const struct config *config;
    const char *id;
    const struct texts *accounts; /* only these; none: all */
    const struct texts *also;     /* events that the operator knows to be the person's */
    unsigned char secret[STORE_KEY_BYTES];
    bool has_secret; /* without it nothing is found that was kept under a keyed hash */
    struct person_line *lines;
    size_t line_count;
    struct texts events; /* "e12" and "c7" */
    struct texts undecided;
    struct person_session *sessions;
    size_t session_count;
    unsigned char (*keys)[32];
    size_t key_count;
    struct texts exam_accounts, session_accounts; /* in which something was found */
    struct texts exams;                           /* of the account that is looked at */
    enum store_status status;
};

/* Fills the rest; the first six members are the caller's. */
enum store_status person_gather(struct person *person);
bool person_empty(const struct person *person);
/* Several people may have that id: in two accounts of the same service. Then `why` says so. */
bool person_is_ambiguous(const struct person *person, struct buf *why);
void person_release(struct person *person);

/* The subcommands. */
struct erase_options {
    const char *id;
    struct texts accounts, also;
    bool yes, json;
};
int person_erase(struct cli *cli, const struct config *config, const struct erase_options *options);
int person_export(struct cli *cli, const struct config *config, const char *id, const struct texts *accounts);

#endif
