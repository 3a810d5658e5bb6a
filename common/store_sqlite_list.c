/* ExamJoint's events and Proview's callbacks read in short pages, merged by time. */
#include "store_sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

/* A page ends early when its texts are longer than this. */
#define PAGE_BYTES (1 << 20)

enum list_slot {
    LIST_ALL = STORE_STATEMENTS_LIST,
    LIST_QUARANTINED,
    LIST_PERSON,
    LIST_ID,
    FIRST_SINCE,
    LAST_ID
};

/* One of the two areas, read in the order of its ids: rows that come later have a higher one, whatever the
   clock does. */
struct source {
    struct store_file *file;
    char letter;
    int64_t position; /* the last id that was handed out; -1: not begun */
    sqlite3_stmt *rows;
    bool has_row;
};

/* --- Cursors -----------------------------------------------------------------------------------------------
 */

static bool read_position(const char **text, char letter, int64_t *position)
{
    if (**text != letter)
        return false;
    char *end;
    errno = 0;
    long long value = strtoll(*text + 1, &end, 10);
    if (errno != 0 || end == *text + 1 || value < -1)
        return false;
    *position = value;
    *text = end;
    return true;
}

/* "1e12c7": the form, then a place in each area. */
static bool read_cursor(const struct store_cursor *cursor, int64_t *event, int64_t *callback)
{
    if (!memchr(cursor->text, '\0', sizeof cursor->text))
        return false;
    const char *text = cursor->text;
    if (*text == '\0') {
        *event = *callback = -1;
        return true;
    }
    if (*text++ != '1')
        return false;
    return read_position(&text, 'e', event) && read_position(&text, 'c', callback) && *text == '\0';
}

static void write_cursor(struct store_cursor *cursor, int64_t event, int64_t callback)
{
    snprintf(cursor->text, sizeof cursor->text, "1e%lldc%lld", (long long)event, (long long)callback);
}

/* --- One area ----------------------------------------------------------------------------------------------
 */

#define EVENT_COLUMNS                                                                        \
    "SELECT id, received_at, account, event, exam_id, respondent_id, admitted_on, outcome, " \
    "reason, identity, positions, quarantined, deliveries, last_received_at, body FROM events "
#define CALLBACK_COLUMNS                                                                       \
    "SELECT id, received_at, account, message, session_uuid, external_id, flags, deliveries, " \
    "last_received_at, body FROM callbacks "
/* ?1 the place, ?2 since, ?3 how many, ?4 the person or id, ?5 whether only quarantined ones, ?6 the account.
   The plus keeps the planner from sorting by another index. */
#define PAGE \
    " AND id > ?1 AND +received_at >= ?2 AND " STORE_ACCOUNT_WANTED("account", "?6") " ORDER BY id LIMIT ?3"

/* The ids of rows where that column is ?4, by the index as it is: by blocks, or not yet. */
#define IDS_BY(places, place, index_is, column)                                                        \
    "SELECT id FROM " places " CROSS JOIN events WHERE " index_is " AND " place " AND " column " = ?4" \
    " AND id > ?1"
#define BY_BLOCK(index, column) \
    IDS_BY("blocks", STORE_EVENT_BLOCK " = block", STORE_EVENT_BY_BLOCK(index) " IS 1", column)
#define BY_DAY(index, column) \
    IDS_BY("days", STORE_EVENT_DAY " = day", STORE_EVENT_BY_BLOCK(index) " IS NOT 1", column)
#define PERSON_IDS                                                       \
    "WITH RECURSIVE " STORE_EVENT_BLOCKS ", " STORE_EVENT_DAYS           \
    " " BY_BLOCK("events_respondent", "respondent_id") " UNION " BY_DAY( \
        "events_respondent",                                             \
        "respondent_id") " UNION " BY_BLOCK("events_identity",           \
                                            "identity") " UNION " BY_DAY("events_identity", "identity")

static const char *sql_of(const struct source *source, enum list_slot slot)
{
    bool events = source->letter == 'e';
    switch (slot) {
    case LIST_ALL:
        return events ? EVENT_COLUMNS "WHERE 1" PAGE : CALLBACK_COLUMNS "WHERE 1" PAGE;
    case LIST_QUARANTINED:
        return EVENT_COLUMNS "INDEXED BY events_quarantined WHERE quarantined = 1" PAGE;
    case LIST_PERSON:
        return events ? EVENT_COLUMNS "WHERE id IN (" PERSON_IDS ") AND (?5 = 0 OR quarantined = 1)" PAGE
                      : CALLBACK_COLUMNS
                   "WHERE id IN (SELECT id FROM callbacks WHERE session_uuid = lower(?4)"
                   " UNION SELECT id FROM callbacks WHERE external_id = ?4 AND id > ?1)" PAGE;
    case LIST_ID:
        return events ? EVENT_COLUMNS "WHERE id = ?4 AND (?5 = 0 OR quarantined = 1)" PAGE
                      : CALLBACK_COLUMNS "WHERE id = ?4" PAGE;
    case FIRST_SINCE:
        return events ? "SELECT min(id) FROM events INDEXED BY events_received WHERE received_at >= ?1"
                      : "SELECT min(id) FROM callbacks INDEXED BY callbacks_received WHERE received_at >= ?1";
    case LAST_ID:
        return events ? "SELECT max(id) FROM events" : "SELECT max(id) FROM callbacks";
    }
    return "";
}

/* An id by one of the two queries above; 0 for none. */
static enum store_status find_id(struct store *store, const struct source *source, enum list_slot slot,
                                 int64_t since_ms, int64_t *id)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, source->file, (int)slot, sql_of(source, slot), &status);
    if (!statement)
        return status;
    if (slot == FIRST_SINCE)
        sqlite3_bind_int64(statement, 1, since_ms);
    if (sqlite3_step(statement) == SQLITE_ROW)
        *id = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, source->file, "finding where to begin");
    sqlite3_reset(statement);
    return status;
}

/* Where a listing begins: before the first row of `since`, so that the older ones need not be read. */
static enum store_status begin_source(struct store *store, const struct store_filter *filter,
                                      struct source *source)
{
    int64_t last = 0, first = 0;
    source->position = 0;
    if (filter->since_ms <= 0 || filter->person || filter->id || filter->quarantined)
        return STORE_OK;
    enum store_status status = find_id(store, source, LAST_ID, 0, &last);
    if (status == STORE_OK)
        status = find_id(store, source, FIRST_SINCE, filter->since_ms, &first);
    if (status == STORE_OK)
        source->position = first > 0 ? first - 1 : last;
    else
        source->position = -1;
    return status;
}

static enum store_status step_source(struct store *store, struct source *source)
{
    int code = sqlite3_step(source->rows);
    source->has_row = code == SQLITE_ROW;
    return code == SQLITE_ROW || code == SQLITE_DONE ? STORE_OK : store_fail(store, source->file, "listing");
}

static enum store_status open_source(struct store *store, const struct store_filter *filter, size_t limit,
                                     struct source *source)
{
    int64_t id = 0;
    if (!source->file->path || (source->letter == 'c' && filter->quarantined))
        return STORE_OK;
    if (filter->id && !store_id_read(filter->id, source->letter, &id))
        return STORE_OK;
    enum store_status status = store_file_ready(store, source->file);
    if (status == STORE_OK && source->position < 0)
        status = begin_source(store, filter, source);
    if (status != STORE_OK)
        return status;
    enum list_slot slot = filter->id            ? LIST_ID
                          : filter->person      ? LIST_PERSON
                          : filter->quarantined ? LIST_QUARANTINED
                                                : LIST_ALL;
    source->rows = store_statement(store, source->file, (int)slot, sql_of(source, slot), &status);
    if (!source->rows)
        return status;
    sqlite3_bind_int64(source->rows, 1, source->position);
    sqlite3_bind_int64(source->rows, 2, filter->since_ms > 0 ? filter->since_ms : INT64_MIN);
    sqlite3_bind_int64(source->rows, 3, limit < 100000 ? (int64_t)limit + 1 : 100001);
    if (filter->id)
        sqlite3_bind_int64(source->rows, 4, id);
    else if (filter->person)
        store_bind_text(source->rows, 4, filter->person);
    store_bind_text(source->rows, 6, filter->account);
    if (source->letter == 'e' && (slot == LIST_ID || slot == LIST_PERSON))
        sqlite3_bind_int(source->rows, 5, filter->quarantined);
    return step_source(store, source);
}

/* --- Rows --------------------------------------------------------------------------------------------------
 */

static void read_event(sqlite3_stmt *rows, struct store_event_row *row)
{
    row->source = "examjoint";
    row->account = store_column_text(rows, 2);
    row->event = store_column_text(rows, 3);
    row->exam_id = store_column_text(rows, 4);
    row->respondent_id = store_column_text(rows, 5);
    row->has_admitted_on = sqlite3_column_type(rows, 6) != SQLITE_NULL;
    row->admitted_on_ms = sqlite3_column_int64(rows, 6);
    row->outcome = store_column_text(rows, 7);
    row->reason = store_column_text(rows, 8);
    row->identity = store_column_text(rows, 9);
    row->positions = store_column_text(rows, 10);
    row->quarantined = sqlite3_column_int(rows, 11) != 0;
    row->deliveries = sqlite3_column_int64(rows, 12);
    row->last_received_at_ms = sqlite3_column_int64(rows, 13);
    row->body = store_column_text(rows, 14);
}

static void read_callback(sqlite3_stmt *rows, struct store_event_row *row)
{
    row->source = "proview";
    row->account = store_column_text(rows, 2);
    row->event = store_column_text(rows, 3);
    row->session_uuid = store_column_text(rows, 4);
    row->external_id = store_column_text(rows, 5);
    row->flags = store_column_text(rows, 6);
    row->deliveries = sqlite3_column_int64(rows, 7);
    row->last_received_at_ms = sqlite3_column_int64(rows, 8);
    row->body = store_column_text(rows, 9);
}

/* A row of a page, with texts of its own. */
struct kept {
    struct store_event_row row;
    struct source *source;
    int64_t number;
    char *texts;
    size_t bytes;
};
struct page {
    struct kept *rows;
    size_t count, bytes;
};

static void page_release(struct page *page)
{
    for (size_t i = 0; i < page->count; i++)
        free(page->rows[i].texts);
    free(page->rows);
}

static void own_texts(struct kept *kept)
{
    struct store_event_row *row = &kept->row;
    const char **const texts[] = {
        &row->id,           &row->account,     &row->event,   &row->exam_id, &row->respondent_id,
        &row->session_uuid, &row->external_id, &row->outcome, &row->reason,  &row->identity,
        &row->positions,    &row->flags,       &row->body};
    const size_t count = sizeof texts / sizeof texts[0];
    for (size_t i = 0; i < count; i++)
        kept->bytes += *texts[i] ? strlen(*texts[i]) + 1 : 0;
    kept->texts = xcalloc(1, kept->bytes);
    char *at = kept->texts;
    for (size_t i = 0; i < count; i++) {
        if (!*texts[i])
            continue;
        size_t size = strlen(*texts[i]) + 1;
        memcpy(at, *texts[i], size);
        *texts[i] = at;
        at += size;
    }
}

/* Takes the row that the source stands on into the page. */
static void keep_row(struct page *page, struct source *source)
{
    char id[24];
    struct kept kept = {.source = source, .number = sqlite3_column_int64(source->rows, 0)};
    kept.row.id = id;
    kept.row.received_at_ms = sqlite3_column_int64(source->rows, 1);
    snprintf(id, sizeof id, "%c%lld", source->letter, (long long)kept.number);
    if (source->letter == 'e')
        read_event(source->rows, &kept.row);
    else
        read_callback(source->rows, &kept.row);
    own_texts(&kept);
    if ((page->count & (page->count - 1)) == 0)
        page->rows = xrealloc(page->rows, (page->count ? 2 * page->count : 1) * sizeof *page->rows);
    page->rows[page->count++] = kept;
    page->bytes += kept.bytes;
}

static struct source *earlier(struct source *a, struct source *b)
{
    if (!a->has_row || !b->has_row)
        return a->has_row ? a : b->has_row ? b : NULL;
    return sqlite3_column_int64(b->rows, 1) < sqlite3_column_int64(a->rows, 1) ? b : a;
}

/* What was read is handed out even if reading on failed. */
static void hand_out(const struct page *page, store_event_fn *fn, void *context, bool *more)
{
    for (size_t i = 0; i < page->count; i++) {
        struct kept *kept = &page->rows[i];
        kept->source->position = kept->number;
        if (fn(context, &kept->row))
            continue;
        *more = *more || i + 1 < page->count;
        return;
    }
}

/* A page is read before it is shown: somebody who looks at it screen by screen holds up no checkpoint, and
   with a rollback journal no writer. */
enum store_status store_events(struct store *store, const struct store_filter *filter,
                               struct store_cursor *cursor, size_t limit, store_event_fn *fn, void *context,
                               bool *more)
{
    struct source events = {.file = &store->examjoint, .letter = 'e'};
    struct source callbacks = {.file = &store->proview, .letter = 'c'};
    struct source *next;
    struct page page = {0};
    if (!read_cursor(cursor, &events.position, &callbacks.position))
        return store_say(store, STORE_ERROR, "this is no place in a listing");
    enum store_status status = open_source(store, filter, limit, &events);
    if (status == STORE_OK)
        status = open_source(store, filter, limit, &callbacks);
    while (status == STORE_OK && page.count < limit && page.bytes < PAGE_BYTES) {
        next = earlier(&events, &callbacks);
        if (!next)
            break;
        keep_row(&page, next);
        status = step_source(store, next);
    }
    bool left = earlier(&events, &callbacks) != NULL;
    sqlite3_reset(events.rows);
    sqlite3_reset(callbacks.rows);
    hand_out(&page, fn, context, &left);
    write_cursor(cursor, events.position, callbacks.position);
    if (status == STORE_OK)
        *more = left;
    page_release(&page);
    return status;
}
