/*
 * What is promised of storage, in the words of the domain. Nothing of SQL stands here; store_sqlite.c keeps
 * the promise (a PostgreSQL store will through the same functions).
 *
 * Four areas, each with one writing program:
 *   roster     who may sit which exam      written by `examhook roster`, read by examjoint.fcgi
 *   examjoint  events and verifications    written by examjoint.fcgi
 *   proview    callbacks                   written by proview.fcgi, read by the worker
 *   ratings    sessions, ratings, tokens   written by the worker
 * The operator's command may write to any of them, under the same lock. store_open() is told which areas are
 * to be written and which read; the others are not touched, not even opened.
 *
 * Writing (but for the roster, which is replaced whole) happens in rounds: one lock, one transaction, one
 * commit that is durable when it returns STORE_OK. Each request in a round is a step that can be undone
 * alone. A round is short: never wait for anything but the store within one.
 *
 * Texts passed in are UTF-8, NULL for absent, and are copied. Texts given to a callback die when it returns.
 * Times are UTC milliseconds. Nothing here knows a password, and no caller may pass one in any text.
 * A store is used by one thread.
 */
#ifndef EXAMHOOK_STORE_H
#define EXAMHOOK_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

struct store;

enum store_status {
    STORE_OK = 0,
    STORE_ABSENT,  /* there is no such thing */
    STORE_BUSY,    /* another program held the lock for longer than lock_wait_ms */
    STORE_FULL,    /* no room on the disk, or a quota */
    STORE_DENIED,  /* the file system does not let us (mode, owner, read-only) */
    STORE_CORRUPT, /* the file is damaged, or is no store */
    STORE_MISSING, /* no store there yet: examhook migrate */
    STORE_OLD,     /* an older schema: examhook migrate */
    STORE_NEW,     /* made by a newer examhook than this one can bear */
    STORE_LIMIT,   /* a bound that the caller set would be passed */
    STORE_LOST,    /* a lease that is ours no longer */
    STORE_ERROR    /* anything else: an I/O error */
};
/* A stable word: "ok", "absent", "busy", "full", "denied", "corrupt", "missing", "old", "new", ... */
const char *store_status_word(enum store_status status);

enum store_area { STORE_ROSTER = 1, STORE_EXAMJOINT = 2, STORE_PROVIEW = 4, STORE_RATINGS = 8 };
#define STORE_ALL (STORE_ROSTER | STORE_EXAMJOINT | STORE_PROVIEW | STORE_RATINGS)
/* With the areas that are read: a process of one thread that asks once and ends (plain CGI). The roster is
 * opened when it is first asked for, which most requests do without, and nothing is set aside for later. */
#define STORE_BRIEF 0x100u
/* With the areas: a process in which store_search_page() may have threads read the store too. It counts where
 * it is given for the first store that the process opens. */
#define STORE_THREADS 0x200u

/* `url` is "sqlite:FOLDER". Areas are bits of enum store_area. `why` gets a sentence for people. */
enum store_status store_open(const char *url, unsigned write_areas, unsigned read_areas, int64_t lock_wait_ms,
                             struct store **out, struct buf *why);
void store_free(struct store *store);
/* In place of store_free() where the process ends at once, which closes and frees the rest. Takes NULL. */
void store_leave(struct store *store);
/* What the last call that failed has to say, for a log. Never NULL. */
const char *store_message(const struct store *store);
/* Creates what is missing, brings every area to this version's schema. Says what it did in `said`. */
enum store_status store_migrate(const char *url, struct buf *said);
/* The folder of an area, for what stands beside it (the slots of the password checks): allocated. */
char *store_area_folder(const char *url, enum store_area area);

/* The account of an exam day that is played (examhook rehearse). Whoever lists without naming an account sees
   nothing of it: store_events(), store_sessions(), store_roster_list(); and a retry of all that is parked
   leaves it alone. */
#define STORE_REHEARSAL "rehearsal"
/* As GLOB has it: how each exam, respondent and candidate begins that a rehearsal made up. What an account of
   that name has without it is somebody's. */
#define STORE_REHEARSAL_HEX5 "[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]"
#define STORE_REHEARSAL_MARK STORE_REHEARSAL "-" STORE_REHEARSAL_HEX5 STORE_REHEARSAL_HEX5 "*"

/* --- Rounds --------------------------------------------------------------------------------------------- */

/* One area at a time; not STORE_ROSTER. A failed begin leaves no round. */
enum store_status store_round_begin(struct store *store, enum store_area area);
/* A step of the round; steps do not nest. keep = false undoes what the step wrote. */
enum store_status store_step_begin(struct store *store);
/* The same for a step that calls store_event_add() once and writes nothing else: what it would need to be
   undone is kept only where it must be. */
enum store_status store_step_begin_event(struct store *store);
enum store_status store_step_end(struct store *store, bool keep);
/* Ends the round either way. Only STORE_OK means that it is there and durable; anything else: treat as not
 * stored. */
enum store_status store_round_commit(struct store *store);
void store_round_abandon(struct store *store);

/* 32 bytes made once at migration and kept in a file of its own beside the examjoint area (never in a
   backup): the key under which an unknown candidate's input is hashed. Area: examjoint. */
#define STORE_KEY_BYTES 32
enum store_status store_identity_key(struct store *store, unsigned char key[STORE_KEY_BYTES]);

/* --- ExamJoint's events (area examjoint) ---------------------------------------------------------------- */

struct store_event {
    int64_t received_at_ms;
    const char *account;
    const char *event; /* NULL in a quarantined body that has none */
    const char *exam_id, *respondent_id;
    bool has_admitted_on;
    int64_t admitted_on_ms;
    const char *outcome; /* verifications: "valid" or "invalid"; quarantined: "quarantined"; else NULL */
    const char *reason;  /* a stable word */
    const char
        *identity; /* a verification's roster id; for nobody, the keyed hash with "unknown:" in front */
    const char *positions; /* a verification's positions received, "0,1" */
    const char *body;      /* redacted JSON; NULL for a verification */
    bool quarantined;
    const unsigned char *key;        /* SECRET_DIGEST_BYTES (32): equal for repeats, which have the same exam,
                                        admitted_on        and respondent; NULL: every one counts */
    const unsigned char *erased_key; /* the key of one that was erased, see STORE_ERASED; NULL: not asked */
};

/* In a round: whether there is an erased event at all, so that an event may be a repeat of it. Where nobody
   else writes it is looked up once. */
enum store_status store_events_erased(struct store *store, bool *some);
/* In a step. A repeat of an erased event is counted on what is left of that. A second one with the same key
   is a delivery of the first: its time is kept, and its body where it differs from the first's, for the first
   STORE_DELIVERIES_KEPT; then only counted. *repeat may be NULL.
 */
#define STORE_DELIVERIES_KEPT 100
enum store_status store_event_add(struct store *store, const struct store_event *event, bool *repeat);
/* In a step: a quarantined event, read anew, takes the place of what was kept, or, where its key is there
   already, becomes a delivery of that one. STORE_ABSENT: no quarantined event of that id. `id` as the listing
   shows it ("e12"). */
enum store_status store_event_release(struct store *store, const char *id, const struct store_event *event);

/* Guessing (area examjoint, in a step). An attempt is counted under a 32-byte key; `rows_max` bounds the
 * table, the oldest go. */
struct store_throttle {
    int64_t failures, window_ms, pause_ms, rows_max;
};
/* STORE_OK: counted, go on. STORE_LIMIT: not counted, *wait_ms says how long. Attempts stored with a time
   after now_ms count as expired. *newly is true when this attempt is the one that makes the identity
   throttled. */
enum store_status store_attempt_count(struct store *store, const unsigned char key[32], const char *account,
                                      const char *exam, int64_t now_ms, const struct store_throttle *rule,
                                      int64_t *wait_ms, bool *newly);
/* The attempt counted at that time turned out right: taken back. */
enum store_status store_attempt_take_back(struct store *store, const unsigned char key[32],
                                          int64_t counted_at_ms);
/* key NULL: all of the exam (exam NULL: of everything), so many at most: where *removed says as many, there
 * may be more, for another round. *removed counts rows. In a step. */
#define STORE_FORGET_MOST 500
enum store_status store_attempts_forget(struct store *store, const unsigned char *key, const char *exam,
                                        int64_t *removed);
/* How many identities are throttled now; stops counting at `most`. */
enum store_status store_throttled(struct store *store, int64_t now_ms, const struct store_throttle *rule,
                                  int64_t most, int64_t *count);

/* --- Proview's callbacks (area proview) ----------------------------------------------------------------- */

struct store_callback {
    int64_t received_at_ms;
    const char *account;
    const char *session_uuid;          /* lower case */
    const char *message, *external_id; /* as claimed; NULL where missing or of another type */
    const char *sender;                /* the peer's address */
    const char *flags;                 /* what was off, words with a comma between; NULL: nothing */
    const char *body;                  /* redacted JSON */
    bool open;                         /* from an account with callback_open */
};
struct store_open_limit {
    int64_t count_hour, bytes_hour; /* stored rows and their bytes; of open accounts together */
};
/* In a step. The key is (account, session_uuid, message, external_id): a repeat is counted, and marks the
   session due anew. STORE_LIMIT: `limit` (may be NULL) would be passed by a new row. */
enum store_status store_callback_add(struct store *store, const struct store_callback *callback,
                                     const struct store_open_limit *limit, bool *repeat);

/* --- Reading what is stored ----------------------------------------------------------------------------- */

struct store_event_row {
    const char *id; /* "e12" from ExamJoint, "c7" from Proview */
    int64_t received_at_ms;
    const char *source;                                    /* "examjoint" or "proview" */
    const char *account, *event, *exam_id, *respondent_id; /* a callback's event is its message */
    bool has_admitted_on;
    int64_t admitted_on_ms;
    const char *session_uuid, *external_id;
    int64_t deliveries;
    int64_t last_received_at_ms;
    const char *outcome, *reason, *identity, *positions, *flags;
    const char *body;
    bool quarantined;
};
struct store_filter {
    int64_t since_ms; /* 0: all */
    bool quarantined; /* only those */
    const char
        *person; /* only rows with this respondent_id, identity, external_id or session_uuid; NULL: all */
    const char *state;   /* sessions only: "pending", "rated", "parked"; NULL: all */
    const char *id;      /* events only: the row of this id; NULL: all */
    const char *account; /* only its rows; NULL: every account's but STORE_REHEARSAL's */
};
/* false stops the listing. */
typedef bool store_event_fn(void *context, const struct store_event_row *row);

/* An opaque place in a listing: begin with STORE_CURSOR_START; it can be kept as text and used by another
 * process later. */
#define STORE_CURSOR_BYTES 128
struct store_cursor {
    char text[STORE_CURSOR_BYTES];
};
#define STORE_CURSOR_START \
    {                      \
        ""                 \
    }
/* One short page of the areas (of examjoint and proview) that are open, merged by time; at most `limit` rows.
   *more is false when the end was reached; calling again later with the same cursor and filter gives what has
   come since. No lock is held between pages.

   Each area's rows come as they arrived, whatever the clock did meanwhile. But for those of a time on
   (since_ms, and neither person, id nor quarantined): what was there in the area when the listing began comes
   in the order of received_at_ms, and then, as it arrived, what has come to it since. None is left out or
   comes twice, also where the clock was set back.

   One person's events are looked for in a part of the store for each page: it may have fewer rows than there
   are, or none, while *more is true. Callbacks then wait for the events before them. */
enum store_status store_events(struct store *store, const struct store_filter *filter,
                               struct store_cursor *cursor, size_t limit, store_event_fn *fn, void *context,
                               bool *more);
/* How far such a listing has come: when the last of all of ExamJoint's events up to its place was received.
   But for a clock that was set back, those that follow were received then or later. STORE_ABSENT: it has not
   begun, or those before its place are gone. */
enum store_status store_events_reached(struct store *store, const struct store_cursor *cursor,
                                       int64_t *at_ms);

/* One person's listing, filter->person alone. Once a page took so long that the disk must have been asked,
   the parts of the store that later pages need are read in advance, many at a time: by threads with a
   connection of their own each, where the store was opened with STORE_THREADS and has a write-ahead log. It
   changes nothing but the time that takes. `store`, `person` and, to go on from somewhere, `cursor` are the
   caller's, the rest is zero. */
struct store_search {
    struct store *store;
    const char *person;
    struct store_cursor cursor;
    struct store_ahead *ahead;
};
enum store_status store_search_page(struct store_search *search, size_t limit, store_event_fn *fn,
                                    void *context, bool *more);
/* To be called in the end, whatever came of it. */
void store_search_end(struct store_search *search);

struct store_delivery_row {
    int64_t number, received_at_ms;
    const char *body; /* NULL: as the first */
};
typedef bool store_delivery_fn(void *context, const struct store_delivery_row *row);
/* The later deliveries of one event ("e12"). */
enum store_status store_deliveries(struct store *store, const char *id, store_delivery_fn *fn, void *context);

struct store_rating_change {
    int64_t at_ms;
    const char *rating;     /* high, medium, low, none */
    const char *rating_raw; /* as it came; NULL for null or missing */
    const char *status;
};
struct store_session_row {
    const char *account, *session_uuid;
    const char *external_id;         /* of the GET */
    const char *claimed_external_id; /* of the callback */
    const char *state;               /* pending, rated, parked */
    const char *rating, *rating_raw, *status, *type;
    int64_t attempts;
    const char *last_error;
    int64_t first_seen_at_ms, next_attempt_at_ms /* 0: none planned */, rated_at_ms /* 0: never */;
    const char *reply; /* the last session reply that was kept, JSON or not; NULL */
    const struct store_rating_change *history;
    size_t history_count;
};
typedef bool store_session_fn(void *context, const struct store_session_row *row);
enum store_status store_sessions(struct store *store, const struct store_filter *filter,
                                 struct store_cursor *cursor, size_t limit, store_session_fn *fn,
                                 void *context, bool *more);

/* --- The worker (area ratings written, proview read) ---------------------------------------------------- */

/* In a round: takes at most `most` callbacks that came since the last call into sessions. A session is due at
   once, if no more than `fetches_hour` of its fetches within the hour were caused by callbacks; else when
   that hour is over. *taken counts. */
enum store_status store_sessions_intake(struct store *store, int64_t now_ms, int64_t fetches_hour,
                                        size_t most, size_t *taken);

struct store_lease {
    const char *account, *session_uuid;
    const char *state;
    const char *type; /* of the last reply, NULL before */
    const char *rating_raw;
    int64_t attempts;          /* all so far */
    int64_t failures;          /* in a row, without a usable reply */
    int64_t first_seen_at_ms;  /* of the newest callback, or `retry`: what waiting times are counted from */
    int64_t first_rated_at_ms; /* 0: not yet */
};
typedef void store_lease_fn(void *context, const struct store_lease *lease);
/* In a round: takes a lease on at most `most` due sessions and hands each to fn. Those of which a usable
   reply once came, and those of protected accounts, come by time; those that only open callbacks speak of
   come round-robin over the senders' addresses (IPv6: the /64), so that a forger starves nobody; one of each
   kind in turn. `skip` accounts (ends with NULL, may be NULL) are left alone. A stored deadline further off
   than max_ahead_ms counts as expired, and so does a lease further off than lease_ms; twice that, in truth,
   since a clock that is set back a little must not make two workers look at one session. A lease of `owner`
   itself that has run out, because the clock was put forward or a result could not be written, is handed out
   once more and keeps what a callback has asked for meanwhile. What was seen or rated in the future was so
   now: the clock was put back. */
enum store_status store_sessions_lease(struct store *store, int64_t now_ms, const char *owner,
                                       int64_t lease_ms, int64_t max_ahead_ms, const char *const *skip,
                                       size_t most, store_lease_fn *fn, void *context, size_t *taken);

struct store_session_result {
    const char *account, *session_uuid, *owner;
    int64_t at_ms;
    const char *state;          /* pending, rated, parked */
    int64_t next_attempt_at_ms; /* 0: none */
    bool usable; /* the reply had the documented shape: the fields below count, failures start anew */
    const char *external_id, *rating, *rating_raw, *status, *type;
    const char *error; /* NULL: none */
    const char *reply; /* bounded by the caller; NULL: leave what is there */
    bool counts;       /* an attempt was made (false: put back untouched, say because the login failed) */
};
/* In a round. A changed rating becomes a row of the history. If a callback came while the session was leased,
   it stays due. STORE_LOST: the lease is no longer ours, nothing was written. */
enum store_status store_session_done(struct store *store, const struct store_session_result *result);

struct store_given_up {
    const char *account;
    int64_t waiting_since_ms; /* what has been due and waited for since then, or for longer */
    int64_t rated_by_ms;      /* what was first rated later is still being watched */
    const char *error;
    int64_t now_ms, lease_ms, max_ahead_ms; /* as of store_sessions_lease() */
};
/* In a round: of an account's sessions that nobody has a lease on, those that wait in vain: what is pending
   is parked, and what is rated is not looked at any more. No attempt is counted. Some hundreds in one call:
   call again, until *count is 0. */
enum store_status store_sessions_give_up(struct store *store, const struct store_given_up *given_up,
                                         int64_t *count);
/* When the next session is due: *at_ms, 0 for none; also 0 < now when callbacks wait to be taken in. What
   counts as expired for store_sessions_lease() does so here. */
enum store_status store_sessions_next(struct store *store, int64_t now_ms, int64_t lease_ms,
                                      int64_t max_ahead_ms, int64_t *at_ms);
/* In a round: due at once, whatever the state; what was parked is pending again. uuid NULL: those that are
   parked, some hundreds in one call: call again, each time in a round of its own, until *count is 0. */
enum store_status store_sessions_retry(struct store *store, const char *session_uuid, int64_t now_ms,
                                       int64_t *count);

/* An account's login. One worker at a time logs in: the others find the lease taken. */
struct store_login {
    char *token; /* NULL: none; wiped by store_login_release() */
    int64_t obtained_at_ms, expires_at_ms;
    int64_t blocked_until_ms; /* after wrong credentials */
    int64_t failures;
    char *error; /* NULL: the last login went well */
    /* Since when logins fail, one after the other (0: they do not), and how much of that time was spent
       failing: without what the worker or the machine was off, and without a jump of the clock. */
    int64_t failing_from_ms, failing_ms;
};
void store_login_release(struct store_login *login);
/* STORE_OK also where nothing is stored yet (all zero). */
enum store_status store_login_get(struct store *store, const char *account, struct store_login *login);
/* In a round. STORE_BUSY: another owner is logging in; a lease further off than lease_ms counts as expired.
 */
enum store_status store_login_lease(struct store *store, const char *account, const char *owner,
                                    int64_t now_ms, int64_t lease_ms);
/* In a round: what came of it; gives the lease back. */
enum store_status store_login_put(struct store *store, const char *account, const struct store_login *login);

/* --- One person's rows ---------------------------------------------------------------------------------- */

/*
 * What is left of an erased row still counts: what it was, when, which account and exam, how it ended, how
 * often it came. What names the person or was said by or of them is gone. An erased event's identity and an
 * erased session's or callback's session_uuid begin with STORE_ERASED; behind it stands, for the latter, a
 * digest of the UUID, so that a later callback of it is known and only counted. An erased event's key becomes
 * `erased_key`, a keyed hash of it, to the same end.
 */
#define STORE_ERASED "erased:"
#define STORE_ERASED_STATE "erased"
/* In a round of the examjoint area, for "e12". `secret` is store_identity_key()'s. STORE_ABSENT: no such
   event, or erased already. */
enum store_status store_event_erase(struct store *store, const char *id,
                                    const unsigned char secret[STORE_KEY_BYTES]);
/* In a round of the ratings area, first of all: the session is not looked at any more, and is found by
   `person` from now on, so that an erasure that was cut short can be repeated. STORE_OK also for none. */
enum store_status store_session_hold(struct store *store, const char *account, const char *session_uuid,
                                     const char *person);
/* In a round of the proview area: the session's callbacks become one erased row. *count says how many there
   were. */
enum store_status store_callbacks_erase(struct store *store, const char *account, const char *session_uuid,
                                        int64_t now_ms, int64_t *count);
/* In a round of the ratings area, last of all. A worker that is fetching it finds its lease lost. *count says
   how many there were: 0 or 1. */
enum store_status store_session_erase(struct store *store, const char *account, const char *session_uuid,
                                      int64_t now_ms, int64_t *count);

/* --- The roster ----------------------------------------------------------------------------------------- */

struct candidate_attribute {
    const char *column, *value;
};
/* One line of a roster: a candidate and an exam. */
struct candidate {
    const char *account;
    const char *id;
    const char *email, *name;
    const char *password_hash; /* NULL: none */
    const char *photo, *about;
    const char *data;            /* JSON */
    const char *exam;            /* NULL: any */
    int64_t opens_ms, closes_ms; /* 0: no bound */
    const struct candidate_attribute *attributes;
    size_t attribute_count;
};
struct roster_key {
    const char *column; /* id, email, name or an attribute */
    const char *value;  /* trimmed */
    bool nocase;
};
typedef bool candidate_fn(void *context, const struct candidate *candidate);

/* Every line of the account whose columns all equal the keys' values (at most 10,000 are given), whatever the
   exam. Both sides are compared without white space around. STORE_OK also for none. Sees a newly imported
   roster by itself. */
enum store_status store_candidates(struct store *store, const char *account, const struct roster_key *keys,
                                   size_t key_count, candidate_fn *fn, void *context);
/* The setting that the most of the account's hashes have (a dummy check for nobody must cost the same).
 * STORE_ABSENT: no hash. */
enum store_status store_roster_dummy(struct store *store, const char *account, char *setting, size_t size);

/* A new roster is built aside and put in place at once by _commit; until then, and after _abandon, nobody
   sees anything of it. One builder at a time (STORE_BUSY). account NULL: any. `replace`: what that account
   (and exam) had is not taken over. */
struct roster_build;
enum store_status store_roster_begin(struct store *store, const char *account, bool replace, const char *exam,
                                     struct roster_build **out);
/* A line with the account, id and exam of one that is there takes its place. *replaced may be NULL. */
enum store_status store_roster_put(struct roster_build *build, const struct candidate *candidate,
                                   bool *replaced);
/* Every line of that candidate. *removed counts. */
enum store_status store_roster_remove(struct roster_build *build, const char *account, const char *id,
                                      int64_t *removed);
/* Ends the build, whatever comes of it; the build is gone then, as after _abandon. */
enum store_status store_roster_commit(struct roster_build *build);
void store_roster_abandon(struct roster_build *build);

struct roster_filter {
    const char *account;   /* NULL: every one but STORE_REHEARSAL */
    const char *exam, *id; /* NULL: any */
};
enum store_status store_roster_list(struct store *store, const struct roster_filter *filter, candidate_fn *fn,
                                    void *context);

/* --- Care ----------------------------------------------------------------------------------------------- */

/*
 * A sweep deletes what is old in the areas that are open for writing, in short rounds beside a running
 * intake. Then it takes care that nothing of what was deleted remains: the log is cut, and where SQLite left
 * bytes of it in the unused part of a page they are overwritten.
 *
 *   by time      before_ms: everything last received (sessions: last looked at) before it
 *   a retention  retention_ms > 0: the same, as long before now_ms. It does not trust the clock: see
 *                STORE_RETENTION_STEP_MS; and of events and callbacks it stops at the first, in the order of
 *                their arrival, that is young.
 *
 * Sessions go only if not pending and with no look at them planned. Callbacks go only if the worker has taken
 * them in, which takes the ratings area to know: without it they stay, but for a retention, which then goes
 * by age alone.
 */
struct store_sweep_rule {
    int64_t before_ms, retention_ms, now_ms;
    unsigned scrub_areas; /* overwrite remains there even if nothing was deleted */
};
struct store_purged {
    int64_t events, callbacks, sessions; /* also what went before a failure */
    int64_t behind_ms;                   /* a retention: so much was the clock ahead of what it went by */
    int unsettled;                       /* areas where somebody read all the time: there, bytes may remain */
};
/* A retention's time goes on by this much at the most from one sweep to the next, and there is at most one in
   so long: a clock that jumps years ahead deletes no more than a day's worth an hour. */
#define STORE_RETENTION_STEP_MS (24 * INT64_C(3600000))
#define STORE_RETENTION_EVERY_MS (INT64_C(3600000))
struct store_sweep;
struct store_sweep *store_sweep_new(struct store *store, const struct store_sweep_rule *rule);
/* One short step, of some ms; *more false: it is over. What failed may be tried again or given up. */
enum store_status store_sweep_step(struct store_sweep *sweep, bool *more);
struct store_purged store_sweep_result(const struct store_sweep *sweep);
/* Takes NULL. */
void store_sweep_free(struct store_sweep *sweep);
/* All of it, with a rest after each step. */
enum store_status store_sweep(struct store *store, const struct store_sweep_rule *rule,
                              struct store_purged *purged);
/* By time, everywhere scrubbed. */
enum store_status store_purge(struct store *store, int64_t before_ms, struct store_purged *purged);

struct store_removed {
    int64_t events, callbacks, sessions;
    int64_t newest_ms; /* when the youngest event or callback was received; 0: there was none */
};
/* All that one account has in the areas open for writing, but the roster: events, failed attempts, callbacks,
   sessions, ratings and Talview's token, deleted and overwritten as by a sweep, in short rounds beside a
   running intake. `mark` (a GLOB pattern; NULL: all): only what has an exam or a person like that, and the
   token. *removed is counted up, also where it was cut short: repeat it then. The remains in the
   files are looked for only where something was deleted. `told` (may be NULL) is called between rounds with
   the rows gone so far; false from it stops. */
typedef bool store_told_fn(void *context, int64_t gone);
enum store_status store_account_remove(struct store *store, const char *account, const char *mark,
                                       store_told_fn *told, void *context, struct store_removed *removed);
/* The place of the newest session among all, and how many of an account's that came behind such a place have
   a rating. Area: ratings. */
enum store_status store_sessions_last(struct store *store, int64_t *place);
enum store_status store_account_rated(struct store *store, const char *account, int64_t behind,
                                      int64_t *rated);

/* A whole, checked copy of every area into a folder that does not exist yet or is empty. Accounts' tokens are
 * left out, as the key is: they are no one else's. */
enum store_status store_backup(const char *url, const char *folder, struct buf *why);

struct store_finding {
    const char *area; /* "roster", ... */
    bool ok;
    bool harmless;      /* not ok, but a program runs all the same, or will by itself */
    const char *text;   /* what was found */
    const char *advice; /* what to do; NULL when ok */
};
typedef void store_finding_fn(void *context, const struct store_finding *finding);
/* Files there, modes, schema, journal mode, writable, WAL size; `full`: integrity_check too. */
void store_check(const char *url, unsigned write_areas, unsigned read_areas, bool full, store_finding_fn *fn,
                 void *context);

#endif
