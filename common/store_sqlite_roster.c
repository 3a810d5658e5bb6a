/*
 * The roster in SQLite, as it is read.
 *
 * roster.db is never written where it lies: store_sqlite_roster_build.c makes a new one beside it and renames
 * it over the old one. So a reader needs no lock at all: it opens the file as immutable, and looks before
 * each use whether another was put in its place.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "store_sqlite_roster.h"

const char store_schema_roster[] =
    "CREATE TABLE lines(line INTEGER PRIMARY KEY, account TEXT NOT NULL, id TEXT NOT NULL, exam TEXT NOT "
    "NULL,"
    " email TEXT, name TEXT, password_hash TEXT, photo TEXT, about TEXT, data TEXT,"
    " opens INTEGER NOT NULL, closes INTEGER NOT NULL, attributes BLOB);"
    "CREATE UNIQUE INDEX lines_key ON lines(account, id, exam);"
    "CREATE TABLE columns(col INTEGER PRIMARY KEY, account TEXT NOT NULL, name TEXT NOT NULL,"
    " UNIQUE(account, name));"
    "CREATE TABLE keys(col INTEGER NOT NULL, value TEXT NOT NULL, line INTEGER NOT NULL,"
    " PRIMARY KEY(col, value, line)) WITHOUT ROWID;"
    "CREATE TABLE dummies(account TEXT PRIMARY KEY, setting TEXT NOT NULL) WITHOUT ROWID;";

/* Keys beyond these are only compared, not searched by. */
#define JOINED_KEYS 8
/* Far above the exams of one candidate: it only bounds what one look-up by a value that many share can cost.
 */
#define LINES_GIVEN 10000

/* Slots of a reader's file: 1 to JOINED_KEYS are lookups by so many keys. */
enum { SLOT_DUMMY = JOINED_KEYS + 1 };

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Without the white space around; ASCII case counts only where it is asked for. */
static bool same_value(const char *a, const char *b, bool nocase)
{
    size_t a_len = strlen(a), b_len = strlen(b);
    a = trimmed(a, &a_len);
    b = trimmed(b, &b_len);
    if (a_len != b_len)
        return false;
    if (!nocase)
        return memcmp(a, b, a_len) == 0;
    for (size_t i = 0; i < a_len; i++) {
        if (lower(a[i]) != lower(b[i]))
            return false;
    }
    return true;
}

void roster_add_key_value(struct buf *out, const char *value)
{
    size_t len = strlen(value);
    value = trimmed(value, &len);
    buf_add(out, value, len);
    if (len > 0)
        ascii_lower(out->data, out->len);
}

/* --- A line between SQLite and struct candidate --------------------------------------------------------- */

void roster_encode_attributes(struct buf *out, const struct candidate *candidate)
{
    for (size_t i = 0; i < candidate->attribute_count; i++) {
        const struct candidate_attribute *attribute = &candidate->attributes[i];
        if (attribute->value == NULL)
            continue;
        buf_add(out, attribute->column, strlen(attribute->column) + 1);
        buf_add(out, attribute->value, strlen(attribute->value) + 1);
    }
}

/* Points into the blob. A damaged one is read as far as it is whole. */
static struct candidate_attribute *decode_attributes(const char *blob, size_t len, size_t *count)
{
    struct candidate_attribute *attributes = NULL;
    *count = 0;
    while (len > 0) {
        const char *column_end = memchr(blob, '\0', len);
        if (column_end == NULL)
            break;
        const char *value = column_end + 1;
        size_t rest = len - (size_t)(value - blob);
        const char *value_end = rest > 0 ? memchr(value, '\0', rest) : NULL;
        if (value_end == NULL)
            break;
        if ((*count & (*count + 1)) == 0)
            attributes = xrealloc(attributes, (*count + 1) * 2 * sizeof *attributes);
        attributes[(*count)++] = (struct candidate_attribute){blob, value};
        len -= (size_t)(value_end + 1 - blob);
        blob = value_end + 1;
    }
    return attributes;
}

struct candidate_attribute *roster_read_line(sqlite3_stmt *statement, struct candidate *candidate)
{
    const char *exam = store_column_text(statement, 2);
    size_t count = 0;
    struct candidate_attribute *attributes = NULL;
    const char *blob = sqlite3_column_blob(statement, 11);
    if (blob != NULL)
        attributes = decode_attributes(blob, (size_t)sqlite3_column_bytes(statement, 11), &count);
    *candidate = (struct candidate){
        .account = store_column_text(statement, 0),
        .id = store_column_text(statement, 1),
        .exam = exam != NULL && *exam != '\0' ? exam : NULL,
        .email = store_column_text(statement, 3),
        .name = store_column_text(statement, 4),
        .password_hash = store_column_text(statement, 5),
        .photo = store_column_text(statement, 6),
        .about = store_column_text(statement, 7),
        .data = store_column_text(statement, 8),
        .opens_ms = sqlite3_column_int64(statement, 9),
        .closes_ms = sqlite3_column_int64(statement, 10),
        .attributes = attributes,
        .attribute_count = count,
    };
    return attributes;
}

/* --- Reading -------------------------------------------------------------------------------------------- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* "file:PATH?immutable=1" with what means something in a URI escaped. */
static void add_immutable_uri(struct buf *uri, const char *path)
{
    buf_adds(uri, "file:");
    for (const char *p = path; *p != '\0'; p++) {
        if (*p == '?' || *p == '#' || *p == '%')
            buf_addf(uri, "%%%02X", (unsigned)(unsigned char)*p);
        else
            buf_addc(uri, *p);
    }
    buf_adds(uri, "?immutable=1");
}

static enum store_status check_version(struct store *store, struct store_file *file, int *version)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(file->db, "PRAGMA user_version", -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW) {
        enum store_status status = store_fail(store, file, "reading the roster's version");
        sqlite3_finalize(statement);
        return status;
    }
    int found = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    if (found < STORE_SCHEMA)
        return store_say(store, STORE_OLD, "the roster's schema is older than this program");
    if (found > STORE_SCHEMA + 1)
        return store_say(store, STORE_NEW, "the roster was made by a newer version");
    *version = found;
    return STORE_OK;
}

enum store_status roster_open_immutable(struct store *store, struct store_file *file, int *version)
{
    if (access(file->path, R_OK) != 0)
        return store_say_errno(store, "opening the roster");
    struct buf uri = BUF_INIT;
    add_immutable_uri(&uri, file->path);
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int result = sqlite3_open_v2(buf_str(&uri), &file->db, flags, NULL);
    buf_release(&uri);
    if (result != SQLITE_OK)
        return store_fail(store, file, "opening the roster");
    return check_version(store, file, version);
}

enum store_status store_roster_reopen(struct store *store)
{
    struct store_file *file = &store->roster;
    if (file->path == NULL)
        return store_say(store, STORE_ERROR, "the roster is not among the open areas");
    struct stat now;
    if (stat(file->path, &now) != 0) {
        enum store_status status = store_say_errno(store, "looking for the roster");
        store_file_disconnect(file);
        return status;
    }
    if (file->db != NULL && same_file(&now, &file->seen))
        return STORE_OK;
    store_file_disconnect(file);
    int version;
    enum store_status status = roster_open_immutable(store, file, &version);
    if (status != STORE_OK) {
        store_file_disconnect(file);
        return status;
    }
    /* Looked at before it was opened: a file put in place meanwhile differs from it, and is opened next time.
     */
    file->seen = now;
    return STORE_OK;
}

/* The order in which keys are searched by: what names the fewest lines first. */
static int key_rank(const struct roster_key *key)
{
    if (strcmp(key->column, "id") == 0)
        return 0;
    if (strcmp(key->column, "email") == 0)
        return 1;
    return strcmp(key->column, "name") == 0 ? 3 : 2;
}

static size_t order_keys(const struct roster_key *keys, size_t count, const struct roster_key *ordered[])
{
    size_t taken = 0;
    for (int rank = 0; rank <= 3; rank++) {
        for (size_t i = 0; i < count && taken < JOINED_KEYS; i++) {
            if (key_rank(&keys[i]) == rank)
                ordered[taken++] = &keys[i];
        }
    }
    return taken;
}

/* CROSS JOIN keeps SQLite to the order given. */
static void add_lookup_sql(struct buf *sql, size_t key_count)
{
    buf_adds(sql, "SELECT " ROSTER_LINE_COLUMNS " FROM keys k0");
    for (size_t i = 1; i < key_count; i++)
        buf_addf(sql, " CROSS JOIN keys k%zu", i);
    buf_adds(sql, " CROSS JOIN lines l WHERE l.line = k0.line");
    for (size_t i = 0; i < key_count; i++) {
        buf_addf(sql,
                 " AND k%zu.col = (SELECT col FROM columns WHERE account = ?1 AND name = ?%zu)"
                 " AND k%zu.value = ?%zu",
                 i, 2 * i + 2, i, 2 * i + 3);
        if (i > 0)
            buf_addf(sql, " AND k%zu.line = k0.line", i);
    }
}

static bool column_has(const struct candidate *candidate, const struct roster_key *key)
{
    const char *value = NULL;
    if (strcmp(key->column, "id") == 0)
        value = candidate->id;
    else if (strcmp(key->column, "email") == 0)
        value = candidate->email;
    else if (strcmp(key->column, "name") == 0)
        value = candidate->name;
    if (value != NULL && same_value(value, key->value, key->nocase))
        return true;
    for (size_t i = 0; i < candidate->attribute_count; i++) {
        const struct candidate_attribute *attribute = &candidate->attributes[i];
        if (strcmp(attribute->column, key->column) == 0 &&
            same_value(attribute->value, key->value, key->nocase))
            return true;
    }
    return false;
}

static bool all_equal(const struct candidate *candidate, const struct roster_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!column_has(candidate, &keys[i]))
            return false;
    }
    return true;
}

/* An empty value equals nothing: a candidate who leaves the box empty is not everybody without an e-mail. */
static bool keys_usable(const struct roster_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = keys[i].value != NULL ? strlen(keys[i].value) : 0;
        if (len > 0)
            (void)trimmed(keys[i].value, &len);
        if (len == 0)
            return false;
    }
    return count > 0;
}

static enum store_status give_matches(struct store *store, sqlite3_stmt *statement,
                                      const struct roster_key *keys, size_t count, candidate_fn *fn,
                                      void *context)
{
    bool on = true;
    int result = SQLITE_DONE;
    for (int given = 0; on && given < LINES_GIVEN;) {
        result = sqlite3_step(statement);
        if (result != SQLITE_ROW)
            break;
        struct candidate candidate;
        struct candidate_attribute *attributes = roster_read_line(statement, &candidate);
        if (all_equal(&candidate, keys, count)) {
            on = fn(context, &candidate);
            given++;
        }
        free(attributes);
    }
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        return store_fail(store, &store->roster, "looking a candidate up");
    return STORE_OK;
}

enum store_status store_candidates(struct store *store, const char *account, const struct roster_key *keys,
                                   size_t key_count, candidate_fn *fn, void *context)
{
    enum store_status status = store_roster_reopen(store);
    if (status != STORE_OK || !keys_usable(keys, key_count))
        return status;

    const struct roster_key *ordered[JOINED_KEYS];
    size_t joined = order_keys(keys, key_count, ordered);
    struct buf sql = BUF_INIT;
    struct buf values[JOINED_KEYS] = {BUF_INIT};
    if (store->roster.statements[joined] == NULL)
        add_lookup_sql(&sql, joined);
    sqlite3_stmt *statement = store_statement(store, &store->roster, (int)joined, buf_str(&sql), &status);
    if (statement == NULL)
        goto out;
    store_bind_text(statement, 1, account);
    for (size_t i = 0; i < joined; i++) {
        roster_add_key_value(&values[i], ordered[i]->value);
        store_bind_text(statement, 2 * (int)i + 2, ordered[i]->column);
        store_bind_text(statement, 2 * (int)i + 3, buf_str(&values[i]));
    }
    status = give_matches(store, statement, keys, key_count, fn, context);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
out:
    for (size_t i = 0; i < JOINED_KEYS; i++)
        buf_release(&values[i]);
    buf_release(&sql);
    return status;
}

enum store_status store_roster_dummy(struct store *store, const char *account, char *setting, size_t size)
{
    enum store_status status = store_roster_reopen(store);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement = store_statement(store, &store->roster, SLOT_DUMMY,
                                              "SELECT setting FROM dummies WHERE account = ?1", &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, account);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        const char *text = store_column_text(statement, 0);
        size_t len = text != NULL ? strlen(text) : size;
        if (len < size) {
            memcpy(setting, text, len + 1);
            status = STORE_OK;
        } else {
            status = store_say(store, STORE_ERROR, "the roster's dummy setting is too long");
        }
    } else if (result == SQLITE_DONE) {
        status = STORE_ABSENT;
    } else {
        status = store_fail(store, &store->roster, "reading the roster's dummy setting");
    }
    sqlite3_reset(statement);
    return status;
}

/* The accounts that have lines, one step in the index for each: an id is found by account and id, not by
   looking at all lines. */
#define EACH_ACCOUNT                                                                     \
    "WITH RECURSIVE accounts(account) AS (SELECT min(account) FROM lines UNION ALL"      \
    " SELECT (SELECT min(account) FROM lines WHERE account > a.account) FROM accounts a" \
    " WHERE a.account IS NOT NULL) SELECT account FROM accounts"

/* Not a kept statement: fn may well look candidates up meanwhile. */
enum store_status store_roster_list(struct store *store, const struct roster_filter *filter, candidate_fn *fn,
                                    void *context)
{
    enum store_status status = store_roster_reopen(store);
    if (status != STORE_OK)
        return status;
    struct buf sql = BUF_INIT;
    buf_adds(&sql, "SELECT " ROSTER_LINE_COLUMNS " FROM lines l WHERE l.account ");
    buf_adds(&sql, filter->account != NULL ? "= ?1" : "<> '" STORE_REHEARSAL "'");
    if (filter->id != NULL) {
        buf_adds(&sql, " AND l.id = trim(?2, ' ' || char(9, 10, 11, 12, 13))");
        if (filter->account == NULL)
            buf_adds(&sql, " AND l.account IN (" EACH_ACCOUNT ")");
    }
    if (filter->exam != NULL)
        buf_adds(&sql, " AND l.exam = ?3");
    buf_adds(&sql, " ORDER BY l.account, l.id, l.exam");
    sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(store->roster.db, buf_str(&sql), -1, &statement, NULL);
    if (result == SQLITE_OK) {
        store_bind_text(statement, 1, filter->account);
        store_bind_text(statement, 2, filter->id);
        store_bind_text(statement, 3, filter->exam);
        bool on = true;
        while (on && (result = sqlite3_step(statement)) == SQLITE_ROW) {
            struct candidate candidate;
            struct candidate_attribute *attributes = roster_read_line(statement, &candidate);
            on = fn(context, &candidate);
            free(attributes);
        }
    }
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        status = store_fail(store, &store->roster, "listing the roster");
    sqlite3_finalize(statement);
    buf_release(&sql);
    return status;
}
