/* ExamJoint's events and verifications in SQLite: written, repeated, read anew. */
#include "store_sqlite.h"

#include <string.h>

#include "secret.h"

enum {
    INSERT_EVENT = 0,
    FIND_KEY,
    COUNT_DELIVERY,
    KEEP_DELIVERY,
    FIND_QUARANTINED,
    RELEASE_EVENT,
    LIST_DELIVERIES,
    FORGET_EVENT,
    FORGET_DELIVERIES,
    COUNT_ERASED
};

/* A later delivery, and the event that it belongs to. */
struct delivery {
    int64_t event_id, received_at_ms;
    int64_t number;
    const char *body; /* NULL: as the first */
};

static void bind_key(sqlite3_stmt *statement, int index, const unsigned char *key)
{
    if (key)
        sqlite3_bind_blob(statement, index, key, SECRET_DIGEST_BYTES, SQLITE_STATIC);
}

/* Parameters 1 to 11, the same for an insert and for what takes a quarantined row's place. */
static void bind_event(sqlite3_stmt *statement, const struct store_event *event)
{
    store_bind_text(statement, 1, event->account);
    store_bind_text(statement, 2, event->event);
    store_bind_text(statement, 3, event->exam_id);
    store_bind_text(statement, 4, event->respondent_id);
    if (event->has_admitted_on)
        sqlite3_bind_int64(statement, 5, event->admitted_on_ms);
    store_bind_text(statement, 6, event->outcome);
    store_bind_text(statement, 7, event->reason);
    store_bind_text(statement, 8, event->identity);
    store_bind_text(statement, 9, event->positions);
    sqlite3_bind_int(statement, 10, event->quarantined);
    bind_key(statement, 11, event->key);
    store_bind_text(statement, 12, event->body);
}

static enum store_status keep_delivery(struct store *store, struct store_file *file,
                                       const struct delivery *delivery)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, KEEP_DELIVERY,
                                              "INSERT INTO deliveries(event_id, number, received_at, body)"
                                              " VALUES(?1, ?2, ?3, ?4)",
                                              &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, delivery->event_id);
    sqlite3_bind_int64(statement, 2, delivery->number);
    sqlite3_bind_int64(statement, 3, delivery->received_at_ms);
    store_bind_text(statement, 4, delivery->body);
    return store_run(store, file, statement, "storing a delivery");
}

static enum store_status count_deliveries(struct store *store, struct store_file *file, int64_t event_id,
                                          int64_t more, int64_t received_at_ms)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, COUNT_DELIVERY,
                                              "UPDATE events SET deliveries = deliveries + ?2,"
                                              " last_received_at = max(last_received_at, ?3) WHERE id = ?1",
                                              &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, event_id);
    sqlite3_bind_int64(statement, 2, more);
    sqlite3_bind_int64(statement, 3, received_at_ms);
    return store_run(store, file, statement, "counting a delivery");
}

/* What a key comes with, and its index begins with. */
#define SAME_EXAM(exam_id) " AND " STORE_EVENT_EXAM("exam_id") " = " STORE_EVENT_EXAM(exam_id)
#define SAME_TIME(admitted_on) " AND " STORE_EVENT_TIME("admitted_on") " = " STORE_EVENT_TIME(admitted_on)
#define SAME_PERSON(respondent_id) \
    " AND " STORE_EVENT_PERSON("respondent_id") " = " STORE_EVENT_PERSON(respondent_id)

/* Gives what is there under the key, and whether its body is another than `body`. STORE_ABSENT: nothing. */
static enum store_status find_key(struct store *store, struct store_file *file,
                                  const struct store_event *event, struct delivery *next, bool *differs)
{
    enum store_status status = STORE_OK;
    const char *body = event->body;
    sqlite3_stmt *statement =
        store_statement(store, file, FIND_KEY,
                        "SELECT id, deliveries, body FROM events"
                        " WHERE key = ?1" SAME_EXAM("?2") SAME_TIME("?3") SAME_PERSON("?4"),
                        &status);
    if (!statement)
        return status;
    bind_key(statement, 1, event->key);
    store_bind_text(statement, 2, event->exam_id);
    if (event->has_admitted_on)
        sqlite3_bind_int64(statement, 3, event->admitted_on_ms);
    store_bind_text(statement, 4, event->respondent_id);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const char *first = store_column_text(statement, 2);
        next->event_id = sqlite3_column_int64(statement, 0);
        next->number = sqlite3_column_int64(statement, 1) + 1;
        *differs = first && body ? strcmp(first, body) != 0 : first != body;
    } else {
        status = code == SQLITE_DONE ? STORE_ABSENT : store_fail(store, file, "finding an event");
    }
    sqlite3_reset(statement);
    return status;
}

/* The first delivery has number 1. */
static bool is_kept(int64_t number)
{
    return number <= 1 + STORE_DELIVERIES_KEPT;
}

static enum store_status add_delivery(struct store *store, struct store_file *file,
                                      const struct store_event *event)
{
    struct delivery next = {.received_at_ms = event->received_at_ms};
    bool differs = false;
    enum store_status status = find_key(store, file, event, &next, &differs);
    if (status != STORE_OK)
        return status;
    next.body = differs ? event->body : NULL;
    status = count_deliveries(store, file, next.event_id, 1, event->received_at_ms);
    return status == STORE_OK && is_kept(next.number) ? keep_delivery(store, file, &next) : status;
}

/* What a step of one event writes. SQLite undoes a statement that fails, but not one that finds damage
   half-way: what that wrote must not be committed with the rest. */
static enum store_status write_event(struct store *store, struct store_file *file, sqlite3_stmt *statement,
                                     const char *doing)
{
    enum store_status status = store_run(store, file, statement, doing);
    if (status != STORE_OK && store->step_event && store->round_failed == STORE_OK)
        store->round_failed = status;
    return status;
}

/* A repeat of what was erased. Its body is the person's and is not kept. */
static enum store_status count_erased(struct store *store, struct store_file *file,
                                      const struct store_event *event, bool *there)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(
        store, file, COUNT_ERASED,
        "UPDATE events SET deliveries = deliveries + 1,"
        " last_received_at = max(last_received_at, ?2) WHERE key = ?1"
        " AND " STORE_EVENT_EXAM("exam_id") " = " STORE_EVENT_EXAM("?3")
        /* what named the person and the time is gone */
        " AND " STORE_EVENT_TIME("admitted_on") " = 0"
                                                " AND " STORE_EVENT_PERSON("respondent_id") " = ''",
        &status);
    if (!statement)
        return status;
    bind_key(statement, 1, event->erased_key);
    sqlite3_bind_int64(statement, 2, event->received_at_ms);
    store_bind_text(statement, 3, event->exam_id);
    status = write_event(store, file, statement, "counting a delivery");
    if (status == STORE_OK)
        *there = sqlite3_changes64(file->db) > 0;
    return status;
}

enum store_status store_events_erased(struct store *store, bool *some)
{
    struct store_file *file = &store->examjoint;
    int64_t version = 0, found = 0;
    enum store_status status = STORE_OK;
    if (!store->erased_fresh)
        status = store_data_version(store, file, &version);
    if (status == STORE_OK && !store->erased_fresh &&
        !(file->erased_known && file->erased_version == version)) {
        status = store_number(
            store, file, "SELECT EXISTS(SELECT 1 FROM events WHERE identity = '" STORE_ERASED "')", &found);
        file->erased_known = status == STORE_OK;
        file->erased_some = found != 0;
        file->erased_version = version;
    }
    store->erased_fresh = status == STORE_OK;
    if (status == STORE_OK)
        *some = file->erased_some;
    return status;
}

/* There is nothing under the event's key, and it is put there; or *there. */
static enum store_status insert_event(struct store *store, struct store_file *file,
                                      const struct store_event *event, bool *there)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, INSERT_EVENT,
                        "INSERT INTO events(received_at, last_received_at, account, event, exam_id,"
                        " respondent_id, admitted_on, outcome, reason, identity, positions, quarantined, key,"
                        " body) VALUES(?13, ?13, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
                        " ON CONFLICT DO NOTHING",
                        &status);
    if (!statement)
        return status;
    bind_event(statement, event);
    sqlite3_bind_int64(statement, 13, event->received_at_ms);
    status = write_event(store, file, statement, "storing an event");
    if (status == STORE_OK)
        *there = sqlite3_changes64(file->db) == 0;
    return status;
}

enum store_status store_event_add(struct store *store, const struct store_event *event, bool *repeat)
{
    struct store_file *file = &store->examjoint;
    bool there = false, counted = false;
    enum store_status status = store_in_round(store, file);
    if (status == STORE_OK && store->step_event && store->step_wrote)
        status = store_say(store, STORE_ERROR, "a second event in a step of one");
    if (status == STORE_OK && event->erased_key)
        status = count_erased(store, file, event, &counted);
    if (status == STORE_OK && !counted)
        status = insert_event(store, file, event, &there);
    if (status == STORE_OK && !there)
        store->step_wrote = true;
    if (status == STORE_OK && there)
        status = store_step_savepoint(store);
    if (status == STORE_OK && there)
        status = add_delivery(store, file, event);
    there = there || counted;
    if (status == STORE_OK && repeat)
        *repeat = there;
    return status;
}

/* --- Quarantined events, read anew -------------------------------------------------------------------------
 */

struct quarantined {
    int64_t id, received_at_ms, last_received_at_ms, deliveries;
};

static enum store_status find_quarantined(struct store *store, struct store_file *file, int64_t id,
                                          struct quarantined *found)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, FIND_QUARANTINED,
                                              "SELECT received_at, last_received_at, deliveries FROM events"
                                              " WHERE id = ?1 AND quarantined = 1",
                                              &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, id);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *found = (struct quarantined){.id = id,
                                      .received_at_ms = sqlite3_column_int64(statement, 0),
                                      .last_received_at_ms = sqlite3_column_int64(statement, 1),
                                      .deliveries = sqlite3_column_int64(statement, 2)};
    else if (code == SQLITE_DONE)
        status = store_say(store, STORE_ABSENT, "no quarantined event of that id");
    else
        status = store_fail(store, file, "finding a quarantined event");
    sqlite3_reset(statement);
    return status;
}

/* When it came is a fact that reading it anew does not change. */
static enum store_status take_place(struct store *store, struct store_file *file, int64_t id,
                                    const struct store_event *event)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement =
        store_statement(store, file, RELEASE_EVENT,
                        "UPDATE events SET account = ?1, event = ?2, exam_id = ?3, respondent_id = ?4,"
                        " admitted_on = ?5, outcome = ?6, reason = ?7, identity = ?8, positions = ?9,"
                        " quarantined = ?10, key = ?11, body = ?12 WHERE id = ?13",
                        &status);
    if (!statement)
        return status;
    bind_event(statement, event);
    sqlite3_bind_int64(statement, 13, id);
    return store_run(store, file, statement, "releasing a quarantined event");
}

static enum store_status run_for_id(struct store *store, struct store_file *file, int slot, const char *sql,
                                    int64_t id)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, slot, sql, &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, id);
    return store_run(store, file, statement, "removing an event");
}

static sqlite3_stmt *deliveries_of(struct store *store, struct store_file *file, int64_t id,
                                   enum store_status *status)
{
    sqlite3_stmt *statement =
        store_statement(store, file, LIST_DELIVERIES,
                        "SELECT number, received_at, body FROM deliveries WHERE event_id = ?1"
                        " ORDER BY number",
                        status);
    if (statement)
        sqlite3_bind_int64(statement, 1, id);
    return statement;
}

/* The deliveries of the quarantined row follow it, as far as there is room. */
static enum store_status move_deliveries(struct store *store, struct store_file *file,
                                         const struct quarantined *from, struct delivery next)
{
    enum store_status status = is_kept(next.number) ? keep_delivery(store, file, &next) : STORE_OK;
    sqlite3_stmt *rows = status == STORE_OK ? deliveries_of(store, file, from->id, &status) : NULL;
    if (!rows)
        return status;
    int code = SQLITE_DONE;
    while (status == STORE_OK && is_kept(next.number + 1) && (code = sqlite3_step(rows)) == SQLITE_ROW) {
        const char *own = store_column_text(rows, 2);
        struct delivery later = next;
        later.number = ++next.number;
        later.received_at_ms = sqlite3_column_int64(rows, 1);
        if (own)
            later.body = own;
        status = keep_delivery(store, file, &later);
    }
    if (status == STORE_OK && code != SQLITE_DONE && code != SQLITE_ROW)
        status = store_fail(store, file, "reading deliveries");
    sqlite3_reset(rows);
    return status;
}

static enum store_status join_event(struct store *store, struct store_file *file,
                                    const struct quarantined *from, const struct delivery *first)
{
    enum store_status status =
        count_deliveries(store, file, first->event_id, from->deliveries, from->last_received_at_ms);
    if (status == STORE_OK)
        status = move_deliveries(store, file, from, *first);
    if (status == STORE_OK)
        status = run_for_id(store, file, FORGET_DELIVERIES, "DELETE FROM deliveries WHERE event_id = ?1",
                            from->id);
    if (status == STORE_OK)
        status = run_for_id(store, file, FORGET_EVENT, "DELETE FROM events WHERE id = ?1", from->id);
    return status;
}

enum store_status store_event_release(struct store *store, const char *id, const struct store_event *event)
{
    struct store_file *file = &store->examjoint;
    struct quarantined from = {0};
    struct delivery next = {0};
    bool differs = false;
    int64_t number;
    enum store_status status = store_in_round(store, file);
    if (status != STORE_OK)
        return status;
    if (!store_id_read(id, 'e', &number))
        return store_say(store, STORE_ABSENT, "\"%s\" is no event's id", id);
    status = find_quarantined(store, file, number, &from);
    if (status != STORE_OK)
        return status;
    status = event->key ? find_key(store, file, event, &next, &differs) : STORE_ABSENT;
    if (status == STORE_ABSENT || (status == STORE_OK && next.event_id == from.id))
        return take_place(store, file, from.id, event);
    if (status != STORE_OK)
        return status;
    next.received_at_ms = from.received_at_ms;
    next.body = differs ? event->body : NULL;
    return join_event(store, file, &from, &next);
}

/* --- Deliveries read ---------------------------------------------------------------------------------------
 */

static enum store_status event_is_there(struct store *store, struct store_file *file, int64_t id)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, STORE_STATEMENTS_LIST - 1,
                                              "SELECT 1 FROM events WHERE id = ?1", &status);
    if (!statement)
        return status;
    sqlite3_bind_int64(statement, 1, id);
    int code = sqlite3_step(statement);
    if (code == SQLITE_DONE)
        status = store_say(store, STORE_ABSENT, "no event of that id");
    else if (code != SQLITE_ROW)
        status = store_fail(store, file, "finding an event");
    sqlite3_reset(statement);
    return status;
}

enum store_status store_deliveries(struct store *store, const char *id, store_delivery_fn *fn, void *context)
{
    struct store_file *file = &store->examjoint;
    int64_t number;
    if (store_id_read(id, 'c', &number))
        return STORE_OK; /* of a callback they are only counted */
    if (!store_id_read(id, 'e', &number))
        return store_say(store, STORE_ABSENT, "\"%s\" is no event's id", id);
    enum store_status status = store_file_ready(store, file);
    if (status == STORE_OK)
        status = event_is_there(store, file, number);
    sqlite3_stmt *rows = status == STORE_OK ? deliveries_of(store, file, number, &status) : NULL;
    if (!rows)
        return status;
    int code;
    while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
        struct store_delivery_row row = {.number = sqlite3_column_int64(rows, 0),
                                         .received_at_ms = sqlite3_column_int64(rows, 1),
                                         .body = store_column_text(rows, 2)};
        if (!fn(context, &row))
            break;
    }
    if (code != SQLITE_DONE && code != SQLITE_ROW)
        status = store_fail(store, file, "reading deliveries");
    sqlite3_reset(rows);
    return status;
}
