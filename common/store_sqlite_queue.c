/*
 * Callbacks become sessions that are due, and due sessions are given to workers, in SQLite.
 *
 * A session is due when its `next_attempt_at` has come and nobody has a lease on it. Those that a protected
 * callback speaks of, and those of which a usable reply once came, are taken by that time. Those that only an
 * open callback speaks of (`unknown`) are taken sender by sender: where the last call stopped is kept in
 * `meta`, so that each sender gets its turn, however many sessions another one made up and however few are
 * asked for at a time. The two kinds take turns as well.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "store_sqlite_ratings.h"

#define HOUR_MS (INT64_C(3600) * 1000)
/* Senders looked at in one call; the next goes on from there. */
#define SENDERS_MOST 2000
/* Rows of one giving up: no round over some ten ms. */
#define GIVE_UP_MOST 500

/* A lease of twice the length was given by a clock that has jumped back since. Not of a little more than the
   length: the clock may be set back by a second, and then two would look at one session. */
#define FREE_LEASE " (lease_until IS NULL OR lease_until <= ?4 OR lease_until > ?4 + 2 * ?5)"

/* --- Callbacks taken in --------------------------------------------------------------------------------- */

/* What counts as one sender: an IPv4 address, or the /64 of an IPv6 one. */
static void sender_group(const char *address, struct buf *group)
{
    struct in6_addr ip6;
    char text[INET6_ADDRSTRLEN];
    size_t len = strcspn(address, "%");
    if (len >= sizeof text) {
        buf_adds(group, address);
        return;
    }
    memcpy(text, address, len);
    text[len] = '\0';
    if (inet_pton(AF_INET6, text, &ip6) != 1) {
        buf_adds(group, address);
    } else if (IN6_IS_ADDR_V4MAPPED(&ip6)) {
        (void)inet_ntop(AF_INET, &ip6.s6_addr[12], text, sizeof text);
        buf_adds(group, text);
    } else {
        memset(&ip6.s6_addr[8], 0, 8);
        (void)inet_ntop(AF_INET6, &ip6, text, sizeof text);
        buf_addf(group, "%s/64", text);
    }
}

struct fetch_hour {
    int64_t from_ms, count;
};

/*
 * When the fetch that a callback asks for may be: at once, or when the hour is over of which the callbacks
 * have had their share. The put off fetch is the first of the hour that begins then.
 */
static int64_t allowed_at(struct fetch_hour *hour, int64_t now_ms, int64_t fetches_hour)
{
    if (hour->from_ms > now_ms + HOUR_MS || now_ms - hour->from_ms >= HOUR_MS)
        *hour = (struct fetch_hour){now_ms, 0};
    if (hour->from_ms > now_ms)
        return hour->from_ms;
    if (hour->count < fetches_hour) {
        hour->count++;
        return now_ms;
    }
    *hour = (struct fetch_hour){hour->from_ms + HOUR_MS, 1};
    return hour->from_ms;
}

/* A session as a callback finds it. A lease that has run out still counts: its result may yet come, and would
   be taken for an answer to this callback. */
struct waiting {
    bool there, leased;
    int64_t session;
    int64_t due_at_ms; /* the next fetch, or while it is leased the one after: 0, none */
    struct fetch_hour hour;
};

static enum store_status find_waiting(struct store *store, sqlite3_stmt *callback, struct waiting *waiting)
{
    enum store_status status;
    sqlite3_stmt *find = ratings_statement(
        store, RATINGS_INTAKE_FIND,
        "SELECT session, next_attempt_at, lease_until IS NOT NULL, renewed_due_at, hour_from, hour_count"
        " FROM sessions WHERE session_uuid = ?1 AND account = ?2",
        &status);
    if (find == NULL)
        return status;
    store_bind_text(find, 1, store_column_text(callback, 2));
    store_bind_text(find, 2, store_column_text(callback, 1));
    int result = sqlite3_step(find);
    status = STORE_OK;
    *waiting = (struct waiting){0};
    if (result == SQLITE_ROW) {
        waiting->there = true;
        waiting->session = sqlite3_column_int64(find, 0);
        waiting->leased = sqlite3_column_int(find, 2) != 0;
        waiting->due_at_ms = sqlite3_column_int64(find, waiting->leased ? 3 : 1);
        waiting->hour = (struct fetch_hour){sqlite3_column_int64(find, 4), sqlite3_column_int64(find, 5)};
    } else if (result != SQLITE_DONE) {
        status = store_fail(store, &store->ratings, "taking callbacks in");
    }
    sqlite3_reset(find);
    return status;
}

static sqlite3_stmt *add_waiting(struct store *store, enum store_status *status)
{
    return ratings_statement(
        store, RATINGS_INTAKE_ADD,
        "INSERT INTO sessions(account, session_uuid, claimed_external_id, sender, unknown,"
        " first_seen_at, state, waits_from, next_attempt_at, hour_from, hour_count)"
        " VALUES(?8, ?9, ?1, ?2, ?3, ?10, 'pending', ?4, ?5, ?6, ?7)",
        status);
}

/* Once a protected callback spoke of it, a session is not unknown any more. */
static sqlite3_stmt *change_waiting(struct store *store, enum store_status *status)
{
    return ratings_statement(
        store, RATINGS_INTAKE_CHANGE,
        "UPDATE sessions SET claimed_external_id = coalesce(?1, claimed_external_id), sender = ?2,"
        " unknown = min(unknown, ?3), waits_from = ?4, hour_from = ?6, hour_count = ?7,"
        " state = CASE state WHEN 'parked' THEN 'pending' ELSE state END,"
        " next_attempt_at = CASE ?9 WHEN 0 THEN ?5 ELSE next_attempt_at END,"
        " renewed_due_at = CASE ?9 WHEN 0 THEN renewed_due_at ELSE ?5 END WHERE session = ?8",
        status);
}

static enum store_status take_callback(struct store *store, sqlite3_stmt *callback, int64_t now_ms,
                                       int64_t fetches_hour)
{
    struct waiting waiting = {0};
    enum store_status status = find_waiting(store, callback, &waiting);
    if (status != STORE_OK)
        return status;
    /* One that is due already causes no fetch of its own. */
    bool due = waiting.due_at_ms != 0 && waiting.due_at_ms <= now_ms;
    if (!due) {
        int64_t allowed = allowed_at(&waiting.hour, now_ms, fetches_hour);
        if (waiting.due_at_ms == 0 || waiting.due_at_ms > allowed)
            waiting.due_at_ms = allowed;
    }
    sqlite3_stmt *write = waiting.there ? change_waiting(store, &status) : add_waiting(store, &status);
    if (write == NULL)
        return status;
    const char *sender = store_column_text(callback, 4);
    struct buf group = BUF_INIT;
    sender_group(sender != NULL ? sender : "", &group);
    store_bind_text(write, 1, store_column_text(callback, 3));
    store_bind_text(write, 2, buf_str(&group));
    sqlite3_bind_int(write, 3, sqlite3_column_int(callback, 5) != 0);
    sqlite3_bind_int64(write, 4, now_ms);
    sqlite3_bind_int64(write, 5, waiting.due_at_ms);
    sqlite3_bind_int64(write, 6, waiting.hour.from_ms);
    sqlite3_bind_int64(write, 7, waiting.hour.count);
    if (waiting.there) {
        sqlite3_bind_int64(write, 8, waiting.session);
        sqlite3_bind_int(write, 9, waiting.leased);
    } else {
        store_bind_text(write, 8, store_column_text(callback, 1));
        store_bind_text(write, 9, store_column_text(callback, 2));
        sqlite3_bind_int64(write, 10, sqlite3_column_int64(callback, 6));
    }
    status = ratings_run(store, write, "taking callbacks in");
    buf_release(&group);
    return status;
}

/* Where a restored, older store numbers its callbacks below the mark, all are taken anew: that costs a fetch
   each and loses none. */
enum store_status store_intake_mark(struct store *store, int64_t *mark)
{
    enum store_status status = store_file_ready(store, &store->ratings);
    if (status == STORE_OK)
        status = store_file_ready(store, &store->proview);
    if (status == STORE_OK)
        status = ratings_meta_get(store, RATINGS_META_SEQ, mark);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement = store_statement(store, &store->proview, PROVIEW_NEWEST,
                                              "SELECT value FROM counters WHERE name = 'seq'", &status);
    if (statement == NULL)
        return status;
    int result = sqlite3_step(statement);
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        status = store_fail(store, &store->proview, "reading callbacks");
    else if (result == SQLITE_ROW && sqlite3_column_int64(statement, 0) < *mark)
        *mark = 0;
    sqlite3_reset(statement);
    return status;
}

/* Its session is never fetched. */
static bool is_erased(const char *session_uuid)
{
    return strncmp(session_uuid, STORE_ERASED, sizeof STORE_ERASED - 1) == 0;
}

enum store_status store_sessions_intake(struct store *store, int64_t now_ms, int64_t fetches_hour,
                                        size_t most, size_t *taken)
{
    int64_t mark = 0;
    size_t count = 0;
    enum store_status status = store_intake_mark(store, &mark);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *callback =
        store_statement(store, &store->proview, PROVIEW_INTAKE,
                        "SELECT seq, account, session_uuid, external_id, sender, open, received_at"
                        " FROM callbacks WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                        &status);
    if (callback == NULL)
        return status;
    sqlite3_bind_int64(callback, 1, mark);
    sqlite3_bind_int64(callback, 2, (sqlite3_int64)most);
    int result;
    while (status == STORE_OK && (result = sqlite3_step(callback)) != SQLITE_DONE) {
        if (result != SQLITE_ROW) {
            status = store_fail(store, &store->proview, "reading callbacks");
            break;
        }
        mark = sqlite3_column_int64(callback, 0);
        if (!is_erased(store_column_text(callback, 2)))
            status = take_callback(store, callback, now_ms, fetches_hour);
        count++;
    }
    sqlite3_reset(callback);
    if (status == STORE_OK && count > 0)
        status = ratings_meta_put(store, RATINGS_META_SEQ, mark);
    if (status == STORE_OK)
        *taken = count;
    return status;
}

/* --- Whose turn it is ----------------------------------------------------------------------------------- */

struct due {
    int64_t session, at_ms;
};

/* One call of store_sessions_lease(). */
struct turns {
    struct store *store;
    int64_t now_ms, lease_ms, max_ahead_ms;
    const char *const *skip;
    /* Sessions that are taken by time: found beforehand, given one after the other. */
    struct due *by_time;
    size_t by_time_count, by_time_next;
    /* The place among the senders of unknown sessions, and what is still to be looked at. */
    struct buf account, sender;
    bool turn_gave; /* something was found since the first sender's turn */
    bool senders_done;
    size_t senders_seen;
};

static bool skipped(const struct turns *turns, const char *account)
{
    for (const char *const *name = turns->skip; name != NULL && *name != NULL; name++) {
        if (strcmp(*name, account) == 0)
            return true;
    }
    return false;
}

/* Due are those whose time has come, and those whose time is further off than any that we would have set. */
static void bind_due(sqlite3_stmt *statement, const struct turns *turns, bool far_off)
{
    sqlite3_bind_int64(statement, 2, far_off ? turns->now_ms + turns->max_ahead_ms : INT64_MIN);
    sqlite3_bind_int64(statement, 3, far_off ? INT64_MAX : turns->now_ms);
    sqlite3_bind_int64(statement, 4, turns->now_ms);
    sqlite3_bind_int64(statement, 5, turns->lease_ms);
}

static int earlier(const void *a, const void *b)
{
    const struct due *one = a, *other = b;
    if (one->at_ms != other->at_ms)
        return one->at_ms < other->at_ms ? -1 : 1;
    return one->session < other->session ? -1 : one->session > other->session;
}

static enum store_status add_due(struct turns *turns, const char *account, size_t most, bool far_off)
{
    enum store_status status;
    sqlite3_stmt *statement =
        ratings_statement(turns->store, RATINGS_DUE,
                          "SELECT session, next_attempt_at FROM sessions INDEXED BY sessions_due"
                          " WHERE unknown = 0 AND next_attempt_at IS NOT NULL AND account = ?1"
                          " AND next_attempt_at > ?2 AND next_attempt_at <= ?3 AND" FREE_LEASE
                          " ORDER BY next_attempt_at LIMIT ?6",
                          &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    bind_due(statement, turns, far_off);
    sqlite3_bind_int64(statement, 6, (sqlite3_int64)most);
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        turns->by_time = xrealloc(turns->by_time, (turns->by_time_count + 1) * sizeof *turns->by_time);
        turns->by_time[turns->by_time_count++] =
            (struct due){sqlite3_column_int64(statement, 0), sqlite3_column_int64(statement, 1)};
    }
    status = result == SQLITE_DONE
                 ? STORE_OK
                 : store_fail(turns->store, &turns->store->ratings, "looking for due sessions");
    sqlite3_reset(statement);
    return status;
}

/* Account by account, so that those left alone cost nothing however many sessions they have. */
static enum store_status find_by_time(struct turns *turns, size_t most)
{
    struct buf account = BUF_INIT;
    enum store_status status = STORE_OK;
    while (status == STORE_OK) {
        sqlite3_stmt *next =
            ratings_statement(turns->store, RATINGS_ACCOUNT_NEXT,
                              "SELECT account FROM sessions INDEXED BY sessions_due WHERE unknown = 0"
                              " AND next_attempt_at IS NOT NULL AND account > ?1 ORDER BY account LIMIT 1",
                              &status);
        if (next == NULL)
            break;
        store_bind_text(next, 1, buf_str(&account));
        int result = sqlite3_step(next);
        if (result == SQLITE_ROW) {
            buf_clear(&account);
            buf_adds(&account, store_column_text(next, 0));
        } else if (result != SQLITE_DONE) {
            status = store_fail(turns->store, &turns->store->ratings, "looking for due sessions");
        }
        sqlite3_reset(next);
        if (result != SQLITE_ROW)
            break;
        if (skipped(turns, buf_str(&account)))
            continue;
        status = add_due(turns, buf_str(&account), most, false);
        if (status == STORE_OK)
            status = add_due(turns, buf_str(&account), most, true);
    }
    buf_release(&account);
    if (turns->by_time_count > 0)
        qsort(turns->by_time, turns->by_time_count, sizeof *turns->by_time, earlier);
    return status;
}

/* Goes to the next sender that has sessions waiting; from the last one back to the first. STORE_ABSENT: there
   is none, or all had their turn in vain. */
static enum store_status next_sender(struct turns *turns)
{
    for (;;) {
        enum store_status status;
        sqlite3_stmt *next = ratings_statement(
            turns->store, RATINGS_SENDER_NEXT,
            /* Not (account, sender) > (?1, ?2): SQLite would read all sessions of that sender first. */
            "SELECT * FROM (SELECT account, sender FROM sessions INDEXED BY sessions_unknown"
            " WHERE unknown = 1 AND next_attempt_at IS NOT NULL AND account = ?1 AND sender > ?2"
            " ORDER BY sender LIMIT 1)"
            " UNION ALL SELECT * FROM (SELECT account, sender FROM sessions INDEXED BY sessions_unknown"
            " WHERE unknown = 1 AND next_attempt_at IS NOT NULL AND account > ?1"
            " ORDER BY account, sender LIMIT 1)"
            " ORDER BY account, sender LIMIT 1",
            &status);
        if (next == NULL)
            return status;
        store_bind_text(next, 1, buf_str(&turns->account));
        store_bind_text(next, 2, buf_str(&turns->sender));
        int result = sqlite3_step(next);
        if (result == SQLITE_ROW) {
            buf_clear(&turns->account);
            buf_adds(&turns->account, store_column_text(next, 0));
            buf_clear(&turns->sender);
            buf_adds(&turns->sender, store_column_text(next, 1));
        }
        sqlite3_reset(next);
        if (result == SQLITE_ROW)
            return STORE_OK;
        if (result != SQLITE_DONE)
            return store_fail(turns->store, &turns->store->ratings, "looking for due sessions");
        if (!turns->turn_gave)
            return STORE_ABSENT;
        turns->turn_gave = false;
        buf_clear(&turns->account);
        buf_clear(&turns->sender);
    }
}

static enum store_status oldest_of_sender(struct turns *turns, bool far_off, int64_t *session)
{
    enum store_status status;
    sqlite3_stmt *statement =
        ratings_statement(turns->store, RATINGS_SENDER_DUE,
                          "SELECT session FROM sessions INDEXED BY sessions_unknown WHERE unknown = 1"
                          " AND next_attempt_at IS NOT NULL AND account = ?1 AND sender = ?6"
                          " AND next_attempt_at > ?2 AND next_attempt_at <= ?3 AND" FREE_LEASE
                          " ORDER BY next_attempt_at LIMIT 1",
                          &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, buf_str(&turns->account));
    bind_due(statement, turns, far_off);
    store_bind_text(statement, 6, buf_str(&turns->sender));
    int result = sqlite3_step(statement);
    status = STORE_OK;
    if (result == SQLITE_ROW)
        *session = sqlite3_column_int64(statement, 0);
    else if (result == SQLITE_DONE)
        status = STORE_ABSENT;
    else
        status = store_fail(turns->store, &turns->store->ratings, "looking for due sessions");
    sqlite3_reset(statement);
    return status;
}

/* The next unknown session: one of the next sender that has one due. STORE_ABSENT: none. */
static enum store_status take_unknown(struct turns *turns, int64_t *session)
{
    while (!turns->senders_done && turns->senders_seen < SENDERS_MOST) {
        enum store_status status = next_sender(turns);
        turns->senders_seen++;
        if (status == STORE_ABSENT)
            break;
        if (status != STORE_OK)
            return status;
        if (skipped(turns, buf_str(&turns->account))) {
            /* No sender's text is behind this one: the next is another account's. */
            buf_clear(&turns->sender);
            buf_adds(&turns->sender, "\xf4\x8f\xbf\xbf");
            continue;
        }
        status = oldest_of_sender(turns, false, session);
        if (status == STORE_ABSENT)
            status = oldest_of_sender(turns, true, session);
        if (status == STORE_ABSENT)
            continue;
        turns->turn_gave = true;
        return status;
    }
    turns->senders_done = true;
    return STORE_ABSENT;
}

static enum store_status take_by_time(struct turns *turns, int64_t *session)
{
    if (turns->by_time_next == turns->by_time_count)
        return STORE_ABSENT;
    *session = turns->by_time[turns->by_time_next++].session;
    return STORE_OK;
}

static enum store_status lease_one(struct turns *turns, int64_t session, const char *owner,
                                   store_lease_fn *fn, void *context)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        turns->store, RATINGS_LEASE,
        "UPDATE sessions SET lease_owner = ?2, lease_until = ?3, waits_from = min(waits_from, ?4),"
        " renewed_due_at = CASE WHEN lease_owner = ?2 THEN renewed_due_at END,"
        " rated_at = min(rated_at, ?4) WHERE session = ?1"
        " RETURNING account, session_uuid, state, type, rating_raw, attempts, failures, waits_from,"
        " coalesce(rated_at, 0)",
        &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, session);
    store_bind_text(statement, 2, owner);
    sqlite3_bind_int64(statement, 3, turns->now_ms + turns->lease_ms);
    sqlite3_bind_int64(statement, 4, turns->now_ms);
    if (sqlite3_step(statement) != SQLITE_ROW) {
        status = store_fail(turns->store, &turns->store->ratings, "leasing a session");
        sqlite3_reset(statement);
        return status;
    }
    struct store_lease lease = {
        .account = store_column_text(statement, 0),
        .session_uuid = store_column_text(statement, 1),
        .state = store_column_text(statement, 2),
        .type = store_column_text(statement, 3),
        .rating_raw = store_column_text(statement, 4),
        .attempts = sqlite3_column_int64(statement, 5),
        .failures = sqlite3_column_int64(statement, 6),
        .first_seen_at_ms = sqlite3_column_int64(statement, 7),
        .first_rated_at_ms = sqlite3_column_int64(statement, 8),
    };
    fn(context, &lease);
    return sqlite3_reset(statement) == SQLITE_OK
               ? STORE_OK
               : store_fail(turns->store, &turns->store->ratings, "leasing a session");
}

/* Where the turns stand is kept in the one row of `turn`: whose kind is next, and the last sender. */
static enum store_status load_turn(struct turns *turns, bool *unknown_next)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(turns->store, RATINGS_TURN_GET,
                                                "SELECT unknown_next, account, sender FROM turn", &status);
    if (statement == NULL)
        return status;
    int result = sqlite3_step(statement);
    status = STORE_OK;
    if (result == SQLITE_ROW) {
        *unknown_next = sqlite3_column_int(statement, 0) != 0;
        buf_adds(&turns->account, store_column_text(statement, 1));
        buf_adds(&turns->sender, store_column_text(statement, 2));
    } else if (result != SQLITE_DONE) {
        status = store_fail(turns->store, &turns->store->ratings, "reading whose turn it is");
    }
    sqlite3_reset(statement);
    return status;
}

static enum store_status save_turn(const struct turns *turns, bool unknown_next)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        turns->store, RATINGS_TURN_PUT,
        "INSERT OR REPLACE INTO turn(one, unknown_next, account, sender) VALUES(1, ?1, ?2, ?3)", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int(statement, 1, unknown_next);
    store_bind_text(statement, 2, buf_str(&turns->account));
    store_bind_text(statement, 3, buf_str(&turns->sender));
    return ratings_run(turns->store, statement, "keeping whose turn it is");
}

/* One of each kind in turn; where one kind has nothing, the other goes on. */
static enum store_status take_next(struct turns *turns, bool *unknown_next, int64_t *session)
{
    enum store_status status = STORE_ABSENT;
    for (int kinds = 0; kinds < 2 && status == STORE_ABSENT; kinds++) {
        status = *unknown_next ? take_unknown(turns, session) : take_by_time(turns, session);
        *unknown_next = !*unknown_next;
    }
    return status;
}

enum store_status store_sessions_lease(struct store *store, int64_t now_ms, const char *owner,
                                       int64_t lease_ms, int64_t max_ahead_ms, const char *const *skip,
                                       size_t most, store_lease_fn *fn, void *context, size_t *taken)
{
    struct turns turns = {
        .store = store,
        .now_ms = now_ms,
        .lease_ms = lease_ms,
        .max_ahead_ms = max_ahead_ms,
        .skip = skip,
        .turn_gave = true, /* the turn begins in the middle: its first end is not the last */
    };
    bool unknown_next = false;
    size_t count = 0;
    enum store_status status = store_in_round(store, &store->ratings);
    if (status == STORE_OK)
        status = load_turn(&turns, &unknown_next);
    if (status == STORE_OK)
        status = find_by_time(&turns, most);
    while (status == STORE_OK && count < most) {
        int64_t session = 0;
        status = take_next(&turns, &unknown_next, &session);
        if (status == STORE_OK)
            status = lease_one(&turns, session, owner, fn, context);
        if (status == STORE_OK)
            count++;
    }
    if (status == STORE_ABSENT)
        status = STORE_OK;
    if (status == STORE_OK && (count > 0 || turns.senders_seen >= SENDERS_MOST))
        status = save_turn(&turns, unknown_next);
    if (status == STORE_OK)
        *taken = count;
    free(turns.by_time);
    buf_release(&turns.account);
    buf_release(&turns.sender);
    return status;
}

/* --- Waiting in vain ------------------------------------------------------------------------------------ */

enum store_status store_sessions_give_up(struct store *store, const struct store_given_up *given_up,
                                         int64_t *count)
{
#define VAIN(index, unknown)                                                                                \
    "SELECT * FROM (SELECT session FROM sessions INDEXED BY " index " WHERE unknown = " unknown             \
    " AND next_attempt_at IS NOT NULL AND account = ?1 AND (next_attempt_at <= ?2 OR next_attempt_at > ?3)" \
    " AND waits_from <= ?2 AND (state = 'pending' OR (state = 'rated' AND rated_at <= ?6)) AND" FREE_LEASE  \
    " LIMIT ?8)"
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(
        store, RATINGS_GIVE_UP,
        /* One that was never looked at would be kept for ever: what is deleted goes by looked_at. */
        "UPDATE sessions SET looked_at = CASE state WHEN 'pending' THEN ?4 ELSE looked_at END,"
        " state = CASE state WHEN 'pending' THEN 'parked' ELSE state END, last_error = ?7,"
        " next_attempt_at = NULL, lease_owner = NULL, lease_until = NULL, renewed_due_at = NULL"
        " WHERE session IN (" VAIN("sessions_due", "0") " UNION ALL " VAIN("sessions_unknown", "1") ")",
        &status);
#undef VAIN
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, given_up->account);
    sqlite3_bind_int64(statement, 2, given_up->waiting_since_ms);
    sqlite3_bind_int64(statement, 3, given_up->now_ms + given_up->max_ahead_ms);
    sqlite3_bind_int64(statement, 4, given_up->now_ms);
    sqlite3_bind_int64(statement, 5, given_up->lease_ms);
    sqlite3_bind_int64(statement, 6, given_up->rated_by_ms);
    store_bind_text(statement, 7, given_up->error);
    sqlite3_bind_int64(statement, 8, GIVE_UP_MOST);
    status = ratings_run(store, statement, "giving sessions up");
    if (status == STORE_OK)
        *count = sqlite3_changes64(store->ratings.db);
    return status;
}

/* --- When to look next ---------------------------------------------------------------------------------- */

/* The first or the last of some times, 0 where there is none. */
static enum store_status one_time(struct store *store, int slot, const char *sql, int64_t *at_ms)
{
    enum store_status status;
    sqlite3_stmt *statement = ratings_statement(store, slot, sql, &status);
    if (statement == NULL)
        return status;
    int result = sqlite3_step(statement);
    status = STORE_OK;
    if (result == SQLITE_ROW)
        *at_ms = sqlite3_column_int64(statement, 0);
    else if (result == SQLITE_DONE)
        *at_ms = 0;
    else
        status = store_fail(store, &store->ratings, "looking for the next session");
    sqlite3_reset(statement);
    return status;
}

static enum store_status callbacks_wait(struct store *store, bool *wait)
{
    *wait = false;
    if (store->proview.path == NULL)
        return STORE_OK;
    int64_t mark = 0;
    enum store_status status = store_intake_mark(store, &mark);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement =
        store_statement(store, &store->proview, PROVIEW_WAITING,
                        "SELECT EXISTS(SELECT 1 FROM callbacks WHERE seq > ?1)", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, mark);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *wait = sqlite3_column_int(statement, 0) != 0;
    else
        status = store_fail(store, &store->proview, "reading callbacks");
    sqlite3_reset(statement);
    return status;
}

enum store_status store_sessions_next(struct store *store, int64_t now_ms, int64_t lease_ms,
                                      int64_t max_ahead_ms, int64_t *at_ms)
{
    enum store_status status = store_file_ready(store, &store->ratings);
    if (status != STORE_OK)
        return status;
    bool wait;
    status = callbacks_wait(store, &wait);
    if (status == STORE_OK && wait) {
        *at_ms = now_ms - 1;
        return STORE_OK;
    }
    int64_t first = 0, last = 0, lease = 0, last_lease = 0;
    if (status == STORE_OK)
        status = one_time(store, RATINGS_NEXT_FIRST,
                          "SELECT next_attempt_at FROM sessions INDEXED BY sessions_next"
                          " WHERE next_attempt_at IS NOT NULL AND lease_until IS NULL"
                          " ORDER BY next_attempt_at LIMIT 1",
                          &first);
    if (status == STORE_OK)
        status = one_time(store, RATINGS_NEXT_LAST,
                          "SELECT next_attempt_at FROM sessions INDEXED BY sessions_next"
                          " WHERE next_attempt_at IS NOT NULL AND lease_until IS NULL"
                          " ORDER BY next_attempt_at DESC LIMIT 1",
                          &last);
    /* A session that is leased comes back when its lease is over at the latest. */
    if (status == STORE_OK)
        status = one_time(store, RATINGS_NEXT_LEASE,
                          "SELECT lease_until FROM sessions INDEXED BY sessions_leased"
                          " WHERE lease_until IS NOT NULL ORDER BY lease_until LIMIT 1",
                          &lease);
    if (status == STORE_OK)
        status = one_time(store, RATINGS_NEXT_LEASE_LAST,
                          "SELECT lease_until FROM sessions INDEXED BY sessions_leased"
                          " WHERE lease_until IS NOT NULL ORDER BY lease_until DESC LIMIT 1",
                          &last_lease);
    if (status != STORE_OK)
        return status;
    if (first == 0 || (lease != 0 && lease < first))
        first = lease;
    bool expired = last > now_ms + max_ahead_ms || last_lease > now_ms + 2 * lease_ms;
    if (first > now_ms && expired)
        first = now_ms;
    *at_ms = first;
    return STORE_OK;
}
