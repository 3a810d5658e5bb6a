/* ExamJoint's events and Proview's callbacks read in short pages, merged by time. */
#include "store_sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

/* A page ends early when its texts are longer than this, and at so many rows whatever was asked for. */
#define PAGE_BYTES (1 << 20)
#define PAGE_ROWS_MOST 100000
/* Of one person's events so many blocks are asked for a page. Where nothing of them lies in memory, a disk
   delivers a hundred pages and some more for it, in hundredths of a second. */
#define PAGE_BLOCKS 64

enum list_slot {
    LIST_ALL = STORE_STATEMENTS_LIST,
    LIST_SINCE,
    LIST_QUARANTINED,
    LIST_PERSON,
    LIST_ID,
    PERSON_BLOCKS,
    REACHED,
    LAST_ID,
    TOUCH
};

/* How far an area was listed. By id: rows that come later have a higher one, whatever the clock does. By
   time, from a time on: of the rows that were there when the listing began, up to the id `last`, those behind
   that time and id are left; then it goes on by id, behind `last`. */
struct place {
    int64_t id; /* -1: not begun */
    bool by_time;
    int64_t at_ms, last;
};

/* One of the two areas. */
struct source {
    struct store_file *file;
    char letter;
    struct place place;   /* of the last row that was handed out */
    struct place reading; /* where `rows` began */
    int64_t passed;       /* one person's: `rows` has all up to this id, and others follow; 0: has all */
    sqlite3_stmt *rows;
    bool has_row;
};

/* --- Cursors -----------------------------------------------------------------------------------------------
 */

static bool read_number(const char **text, char letter, int64_t least, int64_t *number)
{
    if (**text != letter)
        return false;
    char *end;
    errno = 0;
    long long value = strtoll(*text + 1, &end, 10);
    if (errno != 0 || end == *text + 1 || value < least)
        return false;
    *number = value;
    *text = end;
    return true;
}

static bool read_place(const char **text, char letter, struct place *place)
{
    *place = (struct place){0};
    if (!read_number(text, letter, -1, &place->id))
        return false;
    place->by_time = **text == 't';
    return !place->by_time || (place->id >= 0 && read_number(text, 't', 0, &place->at_ms) &&
                               read_number(text, 'l', 0, &place->last));
}

/* "1e12c7": the form, then a place in each area, by id. "2e12t1764000000000l99c7": or by time, with the id up
   to which that goes. */
static bool read_cursor(const struct store_cursor *cursor, struct place *event, struct place *callback)
{
    if (!memchr(cursor->text, '\0', sizeof cursor->text))
        return false;
    const char *text = cursor->text;
    if (*text == '\0') {
        *event = *callback = (struct place){.id = -1};
        return true;
    }
    char form = *text++;
    if ((form != '1' && form != '2') || !read_place(&text, 'e', event) || !read_place(&text, 'c', callback))
        return false;
    return *text == '\0' && (form == '2') == (event->by_time || callback->by_time);
}

static void write_place(struct buf *text, char letter, const struct place *place)
{
    buf_addf(text, "%c%lld", letter, (long long)place->id);
    if (place->by_time)
        buf_addf(text, "t%lldl%lld", (long long)place->at_ms, (long long)place->last);
}

static void write_cursor(struct store_cursor *cursor, const struct place *event, const struct place *callback)
{
    struct buf text = BUF_INIT;
    buf_addc(&text, event->by_time || callback->by_time ? '2' : '1');
    write_place(&text, 'e', event);
    write_place(&text, 'c', callback);
    snprintf(cursor->text, sizeof cursor->text, "%s", buf_str(&text));
    buf_release(&text);
}

/* --- One area ----------------------------------------------------------------------------------------------
 */

#define EVENT_COLUMNS                                                                        \
    "SELECT id, received_at, account, event, exam_id, respondent_id, admitted_on, outcome, " \
    "reason, identity, positions, quarantined, deliveries, last_received_at, body FROM events "
#define CALLBACK_COLUMNS                                                                       \
    "SELECT id, received_at, account, message, session_uuid, external_id, flags, deliveries, " \
    "last_received_at, body FROM callbacks "
/* ?1 the place, ?2 since, ?3 how many, ?4 the person or id, ?5 whether only quarantined ones, ?6 the account,
   ?7 and ?8 the person's first and last block. The plus keeps the planner from sorting by another index. */
#define PAGE \
    " AND id > ?1 AND +received_at >= ?2 AND " STORE_ACCOUNT_WANTED("account", "?6") " ORDER BY id LIMIT ?3"
/* By time: ?2 and ?1 the place, ?4 the last id. */
#define PAGE_SINCE                                                                         \
    "_received WHERE (received_at, id) > (?2, ?1) AND id <= ?4 AND " STORE_ACCOUNT_WANTED( \
        "account", "?6") " ORDER BY received_at, id LIMIT ?3"

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
    case LIST_SINCE:
        return events ? EVENT_COLUMNS "INDEXED BY events" PAGE_SINCE
                      : CALLBACK_COLUMNS "INDEXED BY callbacks" PAGE_SINCE;
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
    case PERSON_BLOCKS:
        return "SELECT (SELECT " STORE_EVENT_BLOCK " FROM events WHERE id > ?1 ORDER BY id LIMIT 1),"
               " (SELECT max(id) >> 12 FROM events)," STORE_EVENT_BY_BLOCK(
                   "events_respondent") " IS 1 AND " STORE_EVENT_BY_BLOCK("events_identity") " IS 1";
    case REACHED:
        return "SELECT received_at FROM events WHERE id <= ?1 ORDER BY id DESC LIMIT 1";
    case LAST_ID:
        return events ? "SELECT max(id) FROM events" : "SELECT max(id) FROM callbacks";
    case TOUCH:
        return "SELECT count(*) FROM (" PERSON_IDS ")";
    }
    return "";
}

/* By the time of receipt: rows of a time are found at once then, and those before it need not be read. */
static bool goes_by_time(const struct store_filter *filter)
{
    return filter->since_ms > 0 && !filter->person && !filter->id && !filter->quarantined;
}

static enum store_status begin_source(struct store *store, const struct store_filter *filter,
                                      struct source *source)
{
    enum store_status status = STORE_OK;
    if (!goes_by_time(filter)) {
        source->place = (struct place){0};
        return STORE_OK;
    }
    sqlite3_stmt *last = store_statement(store, source->file, LAST_ID, sql_of(source, LAST_ID), &status);
    if (!last)
        return status;
    if (sqlite3_step(last) == SQLITE_ROW)
        source->place =
            (struct place){.by_time = true, .at_ms = filter->since_ms, .last = sqlite3_column_int64(last, 0)};
    else
        status = store_fail(store, source->file, "finding where to begin");
    sqlite3_reset(last);
    return status;
}

/* The blocks from that id on; *by_block: both indexes go by them. */
static enum store_status find_blocks(struct store *store, const struct source *source, int64_t id,
                                     int64_t *first, int64_t *last, bool *by_block)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *blocks =
        store_statement(store, source->file, PERSON_BLOCKS, sql_of(source, PERSON_BLOCKS), &status);
    if (!blocks)
        return status;
    sqlite3_bind_int64(blocks, 1, id);
    if (sqlite3_step(blocks) == SQLITE_ROW) {
        *last = sqlite3_column_int64(blocks, 1);
        *first = sqlite3_column_type(blocks, 0) == SQLITE_NULL ? *last : sqlite3_column_int64(blocks, 0);
        *by_block = sqlite3_column_int(blocks, 2) != 0;
    } else {
        status = store_fail(store, source->file, "finding where to look");
    }
    sqlite3_reset(blocks);
    return status;
}

/* A person's events are looked for in so many blocks from the place on; in all of them where an index is as
   older stores have it. */
static enum store_status bind_blocks(struct store *store, struct source *source)
{
    int64_t first = 0, last = 0;
    bool by_block = false;
    enum store_status status = find_blocks(store, source, source->reading.id, &first, &last, &by_block);
    if (status != STORE_OK)
        return status;
    if (by_block && last - first >= PAGE_BLOCKS) {
        last = first + PAGE_BLOCKS - 1;
        source->passed = STORE_EVENT_BLOCK_END(last);
    }
    sqlite3_bind_int64(source->rows, 7, first);
    sqlite3_bind_int64(source->rows, 8, last);
    return STORE_OK;
}

static enum store_status bind_source(struct store *store, const struct store_filter *filter, size_t limit,
                                     enum list_slot slot, struct source *source)
{
    int64_t id = 0;
    if (filter->id)
        store_id_read(filter->id, source->letter, &id);
    sqlite3_bind_int64(source->rows, 1, source->reading.id);
    sqlite3_bind_int64(source->rows, 2,
                       source->reading.by_time ? source->reading.at_ms
                       : filter->since_ms > 0  ? filter->since_ms
                                               : INT64_MIN);
    sqlite3_bind_int64(source->rows, 3, (int64_t)limit + 1);
    if (slot == LIST_PERSON)
        store_bind_text(source->rows, 4, filter->person);
    else if (slot == LIST_ID || slot == LIST_SINCE)
        sqlite3_bind_int64(source->rows, 4, slot == LIST_ID ? id : source->reading.last);
    store_bind_text(source->rows, 6, filter->account);
    if (source->letter == 'e' && (slot == LIST_ID || slot == LIST_PERSON))
        sqlite3_bind_int(source->rows, 5, filter->quarantined);
    return source->letter == 'e' && slot == LIST_PERSON ? bind_blocks(store, source) : STORE_OK;
}

/* The rows from source->reading on. */
static enum store_status open_rows(struct store *store, const struct store_filter *filter, size_t limit,
                                   struct source *source)
{
    enum store_status status = STORE_OK;
    enum list_slot slot = filter->id                ? LIST_ID
                          : filter->person          ? LIST_PERSON
                          : filter->quarantined     ? LIST_QUARANTINED
                          : source->reading.by_time ? LIST_SINCE
                                                    : LIST_ALL;
    source->rows = store_statement(store, source->file, (int)slot, sql_of(source, slot), &status);
    return source->rows ? bind_source(store, filter, limit, slot, source) : status;
}

static enum store_status step_source(struct store *store, const struct store_filter *filter, size_t limit,
                                     struct source *source)
{
    enum store_status status = STORE_OK;
    int code = sqlite3_step(source->rows);
    if (code == SQLITE_DONE && source->reading.by_time) {
        /* What has come since the listing began. */
        sqlite3_reset(source->rows);
        source->reading = (struct place){.id = source->reading.last};
        status = open_rows(store, filter, limit, source);
        code = status ? SQLITE_DONE : sqlite3_step(source->rows);
    }
    source->has_row = code == SQLITE_ROW;
    if (status)
        return status;
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
    if (source->place.by_time && !goes_by_time(filter))
        return store_say(store, STORE_ERROR, "this is a place in another listing");
    enum store_status status = store_file_ready(store, source->file);
    if (status == STORE_OK && source->place.id < 0)
        status = begin_source(store, filter, source);
    source->reading = source->place;
    if (status == STORE_OK)
        status = open_rows(store, filter, limit, source);
    return status == STORE_OK ? step_source(store, filter, limit, source) : status;
}

/* There are others, and it is not known yet when they came. */
static bool goes_on_elsewhere(const struct source *source)
{
    return source->passed > 0 && !source->has_row;
}

/* All that was read of it was handed out. */
static void settle(struct source *source)
{
    if (!source->rows)
        return;
    if (source->place.by_time && !source->reading.by_time)
        source->place = (struct place){.id = source->place.last};
    if (goes_on_elsewhere(source))
        source->place.id = source->passed;
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
    struct place place;
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
    struct kept kept = {.source = source, .place = source->reading};
    kept.row.id = id;
    kept.row.received_at_ms = kept.place.at_ms = sqlite3_column_int64(source->rows, 1);
    kept.place.id = sqlite3_column_int64(source->rows, 0);
    snprintf(id, sizeof id, "%c%lld", source->letter, (long long)kept.place.id);
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

/* What was read is handed out even if reading on failed. False: not all of it was wanted. */
static bool hand_out(const struct page *page, store_event_fn *fn, void *context)
{
    for (size_t i = 0; i < page->count; i++) {
        struct kept *kept = &page->rows[i];
        kept->source->place = kept->place;
        if (!fn(context, &kept->row))
            return i + 1 == page->count;
    }
    return true;
}

/* Ends where it is not known what comes next of the events: a callback may be later than that. */
static enum store_status read_page(struct store *store, const struct store_filter *filter, size_t limit,
                                   struct source *events, struct source *callbacks, struct page *page)
{
    enum store_status status = open_source(store, filter, limit, events);
    if (status == STORE_OK)
        status = open_source(store, filter, limit, callbacks);
    while (status == STORE_OK && page->count < limit && page->bytes < PAGE_BYTES) {
        struct source *next = earlier(events, callbacks);
        if (!next || goes_on_elsewhere(events))
            break;
        keep_row(page, next);
        status = step_source(store, filter, limit, next);
    }
    return status;
}

/* A page is read before it is shown: somebody who looks at it screen by screen holds up no checkpoint, and
   with a rollback journal no writer. */
enum store_status store_events(struct store *store, const struct store_filter *filter,
                               struct store_cursor *cursor, size_t limit, store_event_fn *fn, void *context,
                               bool *more)
{
    struct source events = {.file = &store->examjoint, .letter = 'e'};
    struct source callbacks = {.file = &store->proview, .letter = 'c'};
    struct page page = {0};
    if (!read_cursor(cursor, &events.place, &callbacks.place))
        return store_say(store, STORE_ERROR, "this is no place in a listing");
    enum store_status status =
        read_page(store, filter, limit < PAGE_ROWS_MOST ? limit : PAGE_ROWS_MOST, &events, &callbacks, &page);
    bool left = earlier(&events, &callbacks) != NULL || goes_on_elsewhere(&events);
    sqlite3_reset(events.rows);
    sqlite3_reset(callbacks.rows);
    bool all = hand_out(&page, fn, context);
    if (all && status == STORE_OK) {
        settle(&events);
        settle(&callbacks);
    }
    write_cursor(cursor, &events.place, &callbacks.place);
    if (status == STORE_OK)
        *more = left || !all;
    page_release(&page);
    return status;
}

enum store_status store_events_reached(struct store *store, const struct store_cursor *cursor, int64_t *at_ms)
{
    struct source source = {.file = &store->examjoint, .letter = 'e'};
    struct place callback;
    if (!read_cursor(cursor, &source.place, &callback) || !source.file->path)
        return store_say(store, STORE_ERROR, "this is no place in a listing");
    enum store_status status = store_file_ready(store, source.file);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *reached = store_statement(store, source.file, REACHED, sql_of(&source, REACHED), &status);
    if (!reached)
        return status;
    sqlite3_bind_int64(reached, 1, source.place.id);
    int code = sqlite3_step(reached);
    if (code == SQLITE_ROW)
        *at_ms = sqlite3_column_int64(reached, 0);
    else
        status = code == SQLITE_DONE ? STORE_ABSENT : store_fail(store, source.file, "finding how far it is");
    sqlite3_reset(reached);
    return status;
}

enum store_status store_events_blocks(struct store *store, const struct store_cursor *cursor, int64_t *first,
                                      int64_t *last)
{
    struct source source = {.file = &store->examjoint, .letter = 'e'};
    struct place callback;
    bool by_block = false;
    if (!read_cursor(cursor, &source.place, &callback) || !source.file->path)
        return store_say(store, STORE_ERROR, "this is no place in a listing");
    enum store_status status = store_file_ready(store, source.file);
    if (status == STORE_OK)
        status = find_blocks(store, &source, source.place.id, first, last, &by_block);
    return status == STORE_OK && !by_block ? STORE_ABSENT : status;
}

enum store_status store_events_touch(struct store *store, const char *person, int64_t first, int64_t last)
{
    struct source source = {.file = &store->examjoint, .letter = 'e'};
    enum store_status status = store_file_ready(store, source.file);
    sqlite3_stmt *ids = status == STORE_OK
                            ? store_statement(store, source.file, TOUCH, sql_of(&source, TOUCH), &status)
                            : NULL;
    if (!ids)
        return status;
    sqlite3_bind_int64(ids, 1, 0);
    store_bind_text(ids, 4, person);
    sqlite3_bind_int64(ids, 7, first);
    sqlite3_bind_int64(ids, 8, last);
    if (sqlite3_step(ids) != SQLITE_ROW)
        status = store_fail(store, source.file, "reading ahead");
    sqlite3_reset(ids);
    return status;
}
