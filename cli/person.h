/*
 * What is held of one person, found in all files of the store: for `respondent ID --erase` and
 * `export --respondent ID`.
 *
 * Roster: the lines of that id.
 *
 * Events: by respondent_id or identity; what the roster's values (or the id alone) would have been kept as
 * before somebody of that name was in the roster; of unknown and quarantined events without a respondent_id
 * of their own those whose body names the id as `respondent_id` or `external_id`, or the roster's e-mail
 * address anywhere, and names nobody else.
 *
 * Attempts: the keys under which failed attempts of that id, or of the roster's values, are counted.
 *
 * Sessions: of that UUID; those whose fetched external_id is the id; those that were not fetched yet, of
 * which a callback claims it and none claims another. Their callbacks, whatever these say.
 *
 * Undecided: events and callbacks that only mention the id, or were found by an address or by values that
 * somebody else of the roster has too, or claim the id for a session that is or may be another's.
 */
#ifndef EXAMHOOK_PERSON_H
#define EXAMHOOK_PERSON_H

#include "cli.h"

/* Texts, each once. */
struct texts {
    char **list;
    size_t count;
    size_t *slots; /* by hash: 1 more than the place in the list; 0: none */
    size_t slot_count;
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
    struct store *proctoring; /* Proview's area and the ratings; `store` does it, but asks for each session
                                 the indexes of the events too */
    const struct config *config;
    const char *id;
    const struct texts *accounts; /* only these; none: all */
    const struct texts *also;     /* events that the operator knows to be the person's; for person_gather() */
    unsigned char secret[STORE_KEY_BYTES];
    bool has_secret; /* without it nothing is found that was kept under a keyed hash */
    struct person_line *lines;
    size_t line_count;
    struct texts events; /* "e12" and "c7" */
    struct texts undecided;
    struct person_session *sessions;
    size_t session_count;
    /* NULL, or called after each page of the events that are read. It may ask the store, and set a bad
       status; false: they are not wanted any more. */
    bool (*after_page)(void *context);
    void *after_context;
    bool wants_keys; /* those below, and the exams that they are made of */
    unsigned char (*keys)[32];
    size_t key_count;
    struct texts exam_accounts, session_accounts; /* in which something was found */
    struct texts sat;                             /* "ACCOUNT EXAM" of events that say whose they are */
    struct texts exams;                           /* of the account that is looked at */
    struct texts typed;                           /* identities that were asked for already */
    enum store_status status;
    const struct store *failed; /* the one that a bad status is of */
};

/* All the steps below. The members up to `also` are the caller's, the rest is zero. */
enum store_status person_gather(struct person *person);

/* One by one, the roster first and the search last; each fills what it finds in. After one that failed
   the others do nothing. Their cost: hardly any; as many pages of the indexes as the person has sessions;
   each block of the events' indexes; the whole store. */
void person_read_roster(struct person *person);
void person_read_proctoring(struct person *person);
void person_read_events(struct person *person);
/* What else names or mentions the person, said once: an event of theirs, or what is undecided. Nothing of it
   is kept but the accounts. Called while a page is read: it must not ask the store. False stops. */
typedef bool person_find_fn(void *context, const char *id, bool theirs);
/* A page of the search, from STORE_CURSOR_START. False: it was the last, or `status` is bad. */
bool person_search_page(struct person *person, struct store_cursor *cursor, person_find_fn *fn,
                        void *context);

bool person_empty(const struct person *person);
/* Several people may have that id: in two accounts of the same service. `why` (or NULL) then says so. */
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
