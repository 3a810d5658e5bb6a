/*
 * A new roster, built aside and put in place at once.
 *
 * A builder makes roster.db.new.PID beside roster.db, syncs it and renames it. It holds the lock beside the
 * file from beginning to end, so that no import undoes another.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "password.h"
#include "store_sqlite_roster.h"

#define EMPTY_PAGES_KEPT 256 /* a mebibyte: no use in making a small file smaller */

/* Slots of a builder's file. */
enum {
    BUILD_ADD = 0,
    BUILD_FIND,
    BUILD_FIND_ID,
    BUILD_READ,
    BUILD_CHANGE,
    BUILD_DELETE,
    BUILD_KEY_ADD,
    BUILD_KEY_DELETE,
    BUILD_COLUMN_ADD,
    BUILD_COLUMN_FIND,
    BUILD_CLEAR_KEYS,
    BUILD_CLEAR_LINES,
    BUILD_HASHES,
    BUILD_DUMMIES_CLEAR,
    BUILD_DUMMY_ADD
};

struct known_column {
    char *account, *name;
    int64_t col;
};

struct roster_build {
    struct store *store;
    struct store_file file; /* roster.db.new.PID */
    char *account;          /* NULL: any */
    bool begun;             /* the lock is ours, and so is the file */
    bool failed;            /* something went wrong in the middle: never to be put in place */
    bool leaves;            /* somebody does not come along who is in the file that was copied */
    struct known_column *columns;
    size_t column_count;
    struct buf value;
};

static void build_free(struct roster_build *build)
{
    if (build == NULL)
        return;
    if (build->begun)
        (void)unlink(build->file.path);
    store_file_release(&build->file); /* and with it the lock, last of all */
    for (size_t i = 0; i < build->column_count; i++) {
        free(build->columns[i].account);
        free(build->columns[i].name);
    }
    free(build->columns);
    free(build->account);
    buf_release(&build->value);
    free(build);
}

void store_roster_abandon(struct roster_build *build)
{
    build_free(build);
}

/* What a builder that was killed left. Only with the lock, so nobody builds in them. */
static void remove_remains(const char *folder)
{
    static const char prefix[] = "roster.db.new.";
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) == 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
}

static enum store_status copy_file(struct store *store, const char *from, const char *to)
{
    enum store_status status = STORE_OK;
    char *block = xcalloc(1, 1 << 16);
    int out = -1;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in >= 0)
        out = open(to, O_WRONLY | O_CLOEXEC);
    if (in < 0 || out < 0) {
        status = store_say_errno(store, "copying the roster");
        goto out;
    }
    for (;;) {
        ssize_t got = read(in, block, 1 << 16);
        if (got == 0)
            break;
        for (ssize_t at = 0; got > 0 && at < got;) {
            ssize_t put = write(out, block + at, (size_t)(got - at));
            if (put < 0 && errno != EINTR)
                got = -1;
            else if (put > 0)
                at += put;
        }
        if (got < 0 && errno != EINTR) {
            status = store_say_errno(store, "copying the roster");
            goto out;
        }
    }
out:
    if (in >= 0)
        (void)close(in);
    if (out >= 0 && close(out) != 0 && status == STORE_OK)
        status = store_say_errno(store, "copying the roster");
    free(block);
    return status;
}

static enum store_status execute(struct roster_build *build, const char *sql)
{
    if (sqlite3_exec(build->file.db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return STORE_OK;
    return store_fail(build->store, &build->file, "building the roster");
}

/* No journal and no sync while it is built: until it is renamed it is nothing to anybody. */
static enum store_status open_build(struct roster_build *build)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    if (sqlite3_open_v2(build->file.path, &build->file.db, flags, NULL) != SQLITE_OK)
        return store_fail(build->store, &build->file, "building the roster");
    return execute(build, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF;"
                          "PRAGMA synchronous = OFF; PRAGMA cache_size = -131072;"
                          "PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON; BEGIN;");
}

static enum store_status clear_lines(struct roster_build *build, const char *account, const char *exam)
{
    static const struct {
        int slot;
        const char *sql;
    } steps[] = {
        {BUILD_CLEAR_KEYS, "DELETE FROM keys WHERE line IN (SELECT line FROM lines"
                           " WHERE (?1 IS NULL OR account = ?1) AND (?2 IS NULL OR exam = ?2))"},
        {BUILD_CLEAR_LINES,
         "DELETE FROM lines WHERE (?1 IS NULL OR account = ?1) AND (?2 IS NULL OR exam = ?2)"},
    };
    enum store_status status = STORE_OK;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && status == STORE_OK; i++) {
        sqlite3_stmt *statement =
            store_statement(build->store, &build->file, steps[i].slot, steps[i].sql, &status);
        if (statement == NULL)
            return status;
        store_bind_text(statement, 1, account);
        store_bind_text(statement, 2, exam);
        status = store_run(build->store, &build->file, statement, "clearing the roster");
    }
    return status;
}

/* A roster of this very schema that is replaced whole is built from nothing; else from a copy, which also
   keeps what a newer version added to the schema. */
static enum store_status fill_build(struct roster_build *build, bool replace, const char *exam)
{
    struct store *store = build->store;
    struct store_file present = {.area = STORE_ROSTER, .path = store->roster.path, .lock_fd = -1};
    int version = 0;
    enum store_status status = roster_open_immutable(store, &present, &version);
    store_file_disconnect(&present);
    if (status != STORE_OK)
        return status;

    bool from_nothing = replace && build->account == NULL && exam == NULL && version == STORE_SCHEMA;
    if (!store_file_create(build->file.path, 0600))
        return store_say_errno(store, "building the roster");
    if (!from_nothing)
        status = copy_file(store, store->roster.path, build->file.path);
    if (status == STORE_OK)
        status = open_build(build);
    if (status != STORE_OK)
        return status;
    if (from_nothing) {
        status = execute(build, store_schema_roster);
        if (status == STORE_OK) {
            char pragma[64];
            (void)snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", STORE_SCHEMA);
            status = execute(build, pragma);
        }
        return status;
    }
    build->leaves = replace;
    return replace ? clear_lines(build, build->account, exam) : STORE_OK;
}

enum store_status store_roster_begin(struct store *store, const char *account, bool replace, const char *exam,
                                     struct roster_build **out)
{
    if (store->roster.path == NULL)
        return store_say(store, STORE_ERROR, "the roster is not among the open areas");
    struct roster_build *build = xcalloc(1, sizeof *build);
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s.new.%ld", store->roster.path, (long)getpid());
    build->store = store;
    build->account = xstrdup(account);
    build->file = (struct store_file){
        .area = STORE_ROSTER,
        .folder = xstrdup(store->roster.folder),
        .path = xstrdup(buf_str(&path)),
        .lock_path = xstrdup(store->roster.lock_path),
        .writable = true,
        .lock_fd = -1,
    };
    buf_release(&path);
    enum store_status status = store_file_lock(store, &build->file);
    if (status == STORE_OK) {
        build->begun = true;
        remove_remains(store->roster.folder);
        status = fill_build(build, replace, exam);
    }
    if (status != STORE_OK) {
        build_free(build);
        return status;
    }
    *out = build;
    return STORE_OK;
}

/* --- Lines of a new roster ------------------------------------------------------------------------------ */

static enum store_status run(struct roster_build *build, sqlite3_stmt *statement)
{
    return store_run(build->store, &build->file, statement, "building the roster");
}

static sqlite3_stmt *prepared(struct roster_build *build, int slot, const char *sql,
                              enum store_status *status)
{
    return store_statement(build->store, &build->file, slot, sql, status);
}

/* Runs a statement that gives one number or nothing. */
static enum store_status first_number(struct roster_build *build, sqlite3_stmt *statement, int64_t *number)
{
    enum store_status status = STORE_OK;
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        *number = sqlite3_column_int64(statement, 0);
    else if (result == SQLITE_DONE)
        status = STORE_ABSENT;
    else
        status = store_fail(build->store, &build->file, "building the roster");
    sqlite3_reset(statement);
    return status;
}

static enum store_status column_number(struct roster_build *build, const char *account, const char *name,
                                       int64_t *col)
{
    for (size_t i = 0; i < build->column_count; i++) {
        const struct known_column *known = &build->columns[i];
        if (strcmp(known->name, name) == 0 && strcmp(known->account, account) == 0) {
            *col = known->col;
            return STORE_OK;
        }
    }
    enum store_status status;
    sqlite3_stmt *add = prepared(build, BUILD_COLUMN_ADD,
                                 "INSERT OR IGNORE INTO columns(account, name) VALUES(?1, ?2)", &status);
    if (add == NULL)
        return status;
    store_bind_text(add, 1, account);
    store_bind_text(add, 2, name);
    status = run(build, add);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *find = prepared(build, BUILD_COLUMN_FIND,
                                  "SELECT col FROM columns WHERE account = ?1 AND name = ?2", &status);
    if (find == NULL)
        return status;
    store_bind_text(find, 1, account);
    store_bind_text(find, 2, name);
    int64_t found = 0;
    status = first_number(build, find, &found);
    if (status != STORE_OK)
        return status;
    build->columns = xrealloc(build->columns, (build->column_count + 1) * sizeof *build->columns);
    build->columns[build->column_count++] = (struct known_column){xstrdup(account), xstrdup(name), found};
    *col = found;
    return STORE_OK;
}

static enum store_status change_key(struct roster_build *build, bool add, const char *account,
                                    const char *column, const char *value, int64_t line)
{
    if (value == NULL)
        return STORE_OK;
    buf_clear(&build->value);
    roster_add_key_value(&build->value, value);
    if (build->value.len == 0)
        return STORE_OK;
    int64_t col = 0;
    enum store_status status = column_number(build, account, column, &col);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement =
        add ? prepared(build, BUILD_KEY_ADD,
                       "INSERT OR IGNORE INTO keys(col, value, line) VALUES(?1, ?2, ?3)", &status)
            : prepared(build, BUILD_KEY_DELETE,
                       "DELETE FROM keys WHERE col = ?1 AND value = ?2 AND line = ?3", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, col);
    store_bind_text(statement, 2, buf_str(&build->value));
    sqlite3_bind_int64(statement, 3, line);
    return run(build, statement);
}

static enum store_status change_keys(struct roster_build *build, bool add, const struct candidate *candidate,
                                     const char *id, int64_t line)
{
    const char *account = candidate->account;
    enum store_status status = change_key(build, add, account, "id", id, line);
    if (status == STORE_OK)
        status = change_key(build, add, account, "email", candidate->email, line);
    if (status == STORE_OK)
        status = change_key(build, add, account, "name", candidate->name, line);
    for (size_t i = 0; i < candidate->attribute_count && status == STORE_OK; i++) {
        const struct candidate_attribute *attribute = &candidate->attributes[i];
        status = change_key(build, add, account, attribute->column, attribute->value, line);
    }
    return status;
}

/* Takes away the keys of a line that is there. */
static enum store_status drop_keys(struct roster_build *build, int64_t line)
{
    enum store_status status;
    sqlite3_stmt *statement =
        prepared(build, BUILD_READ, "SELECT " ROSTER_LINE_COLUMNS " FROM lines l WHERE l.line = ?1", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, line);
    if (sqlite3_step(statement) == SQLITE_ROW) {
        struct candidate old;
        struct candidate_attribute *attributes = roster_read_line(statement, &old);
        status = change_keys(build, false, &old, old.id, line);
        free(attributes);
    } else {
        status = store_fail(build->store, &build->file, "building the roster");
    }
    sqlite3_reset(statement);
    return status;
}

static void bind_line(sqlite3_stmt *statement, const struct candidate *candidate, const char *id,
                      const char *exam, const struct buf *attributes)
{
    store_bind_text(statement, 1, candidate->account);
    store_bind_text(statement, 2, id);
    store_bind_text(statement, 3, exam);
    store_bind_text(statement, 4, candidate->email);
    store_bind_text(statement, 5, candidate->name);
    store_bind_text(statement, 6, candidate->password_hash);
    store_bind_text(statement, 7, candidate->photo);
    store_bind_text(statement, 8, candidate->about);
    store_bind_text(statement, 9, candidate->data);
    sqlite3_bind_int64(statement, 10, candidate->opens_ms);
    sqlite3_bind_int64(statement, 11, candidate->closes_ms);
    if (attributes->len > 0)
        sqlite3_bind_blob64(statement, 12, attributes->data, attributes->len, SQLITE_STATIC);
}

static enum store_status find_line(struct roster_build *build, const char *account, const char *id,
                                   const char *exam, int64_t *line)
{
    enum store_status status;
    sqlite3_stmt *find = prepared(
        build, BUILD_FIND, "SELECT line FROM lines WHERE account = ?1 AND id = ?2 AND exam = ?3", &status);
    if (find == NULL)
        return status;
    store_bind_text(find, 1, account);
    store_bind_text(find, 2, id);
    store_bind_text(find, 3, exam);
    return first_number(build, find, line);
}

/* Adds the line, or changes the one of that account, id and exam, whose keys are then gone. */
static enum store_status write_line(struct roster_build *build, const struct candidate *candidate,
                                    const char *id, const char *exam, int64_t *line, bool *was_there)
{
    struct buf attributes = BUF_INIT;
    roster_encode_attributes(&attributes, candidate);
    enum store_status status;
    sqlite3_stmt *statement =
        prepared(build, BUILD_ADD,
                 "INSERT INTO lines(account, id, exam, email, name, password_hash, photo, about, data, opens,"
                 " closes, attributes) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
                 " ON CONFLICT DO NOTHING",
                 &status);
    if (statement == NULL)
        goto out;
    bind_line(statement, candidate, id, exam, &attributes);
    status = run(build, statement);
    if (status != STORE_OK)
        goto out;
    *was_there = sqlite3_changes(build->file.db) == 0;
    build->leaves = build->leaves || *was_there;
    *line = sqlite3_last_insert_rowid(build->file.db);
    if (!*was_there)
        goto out;
    status = find_line(build, candidate->account, id, exam, line);
    if (status == STORE_OK)
        status = drop_keys(build, *line);
    if (status != STORE_OK)
        goto out;
    statement = prepared(build, BUILD_CHANGE,
                         "UPDATE lines SET email = ?4, name = ?5, password_hash = ?6, photo = ?7, about = ?8,"
                         " data = ?9, opens = ?10, closes = ?11, attributes = ?12"
                         " WHERE account = ?1 AND id = ?2 AND exam = ?3",
                         &status);
    if (statement == NULL)
        goto out;
    bind_line(statement, candidate, id, exam, &attributes);
    status = run(build, statement);
out:
    buf_release(&attributes);
    return status;
}

static char *trimmed_copy(const char *text)
{
    size_t len = text != NULL ? strlen(text) : 0;
    const char *start = len > 0 ? trimmed(text, &len) : "";
    return xstrndup(start, len);
}

/* Without a journal a statement that failed may have done half its work. */
static enum store_status noted(struct roster_build *build, enum store_status status)
{
    if (status != STORE_OK)
        build->failed = true;
    return status;
}

enum store_status store_roster_put(struct roster_build *build, const struct candidate *candidate,
                                   bool *replaced)
{
    if (candidate->account == NULL ||
        (build->account != NULL && strcmp(build->account, candidate->account) != 0))
        return noted(build,
                     store_say(build->store, STORE_ERROR, "a line of another account than is imported"));
    char *id = trimmed_copy(candidate->id);
    char *exam = trimmed_copy(candidate->exam);
    int64_t line = 0;
    bool was_there = false;
    enum store_status status;
    if (*id == '\0')
        status = store_say(build->store, STORE_ERROR, "a line without an id");
    else
        status = write_line(build, candidate, id, exam, &line, &was_there);
    if (status == STORE_OK)
        status = change_keys(build, true, candidate, id, line);
    if (status == STORE_OK && replaced != NULL)
        *replaced = was_there;
    free(id);
    free(exam);
    return noted(build, status);
}

static enum store_status remove_line(struct roster_build *build, int64_t line)
{
    enum store_status status = drop_keys(build, line);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement = prepared(build, BUILD_DELETE, "DELETE FROM lines WHERE line = ?1", &status);
    if (statement == NULL)
        return status;
    sqlite3_bind_int64(statement, 1, line);
    return run(build, statement);
}

enum store_status store_roster_remove(struct roster_build *build, const char *account, const char *id,
                                      int64_t *removed)
{
    char *wanted = trimmed_copy(id);
    int64_t count = 0;
    enum store_status status;
    for (;;) {
        sqlite3_stmt *find = prepared(
            build, BUILD_FIND_ID, "SELECT line FROM lines WHERE account = ?1 AND id = ?2 LIMIT 1", &status);
        if (find == NULL)
            break;
        store_bind_text(find, 1, account);
        store_bind_text(find, 2, wanted);
        int64_t line = 0;
        status = first_number(build, find, &line);
        if (status == STORE_OK)
            status = remove_line(build, line);
        if (status != STORE_OK)
            break;
        count++;
        build->leaves = true;
    }
    free(wanted);
    if (status != STORE_ABSENT)
        return noted(build, status);
    *removed = count;
    return STORE_OK;
}

/* --- The dummy's setting -------------------------------------------------------------------------------- */

/* How often one account has hashes of one cost, and one of them. */
struct cost {
    char *account;
    char class_text[32];
    char example[PASSWORD_HASH_BYTES];
    int64_t count;
};
struct costs {
    struct cost *list;
    size_t count;
};

static void count_cost(struct costs *costs, const char *account, const char *hash)
{
    char class_text[32];
    size_t len = strlen(hash);
    if (len >= PASSWORD_HASH_BYTES || !password_cost_class(hash, class_text))
        return;
    for (size_t i = 0; i < costs->count; i++) {
        struct cost *cost = &costs->list[i];
        if (strcmp(cost->class_text, class_text) == 0 && strcmp(cost->account, account) == 0) {
            cost->count++;
            return;
        }
    }
    costs->list = xrealloc(costs->list, (costs->count + 1) * sizeof *costs->list);
    struct cost *cost = &costs->list[costs->count++];
    *cost = (struct cost){.account = xstrdup(account), .count = 1};
    memcpy(cost->class_text, class_text, sizeof cost->class_text);
    memcpy(cost->example, hash, len + 1);
}

static bool commonest(const struct costs *costs, size_t index)
{
    for (size_t i = 0; i < costs->count; i++) {
        const struct cost *cost = &costs->list[i], *other = &costs->list[index];
        if (i == index || strcmp(cost->account, other->account) != 0)
            continue;
        if (cost->count > other->count || (cost->count == other->count && i < index))
            return false;
    }
    return true;
}

static enum store_status count_costs(struct roster_build *build, struct costs *costs)
{
    enum store_status status;
    sqlite3_stmt *statement =
        prepared(build, BUILD_HASHES,
                 "SELECT account, password_hash FROM lines WHERE password_hash IS NOT NULL", &status);
    if (statement == NULL)
        return status;
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW)
        count_cost(costs, store_column_text(statement, 0), store_column_text(statement, 1));
    status = STORE_OK;
    if (result != SQLITE_DONE)
        status = store_fail(build->store, &build->file, "building the roster");
    sqlite3_reset(statement);
    return status;
}

static enum store_status put_dummy(struct roster_build *build, const struct cost *cost)
{
    char setting[PASSWORD_HASH_BYTES];
    if (!password_dummy(cost->example, setting))
        return STORE_OK;
    enum store_status status;
    sqlite3_stmt *statement =
        prepared(build, BUILD_DUMMY_ADD, "INSERT INTO dummies(account, setting) VALUES(?1, ?2)", &status);
    if (statement == NULL)
        return status;
    store_bind_text(statement, 1, cost->account);
    store_bind_text(statement, 2, setting);
    return run(build, statement);
}

static enum store_status write_dummies(struct roster_build *build)
{
    enum store_status status;
    sqlite3_stmt *clear = prepared(build, BUILD_DUMMIES_CLEAR, "DELETE FROM dummies", &status);
    if (clear == NULL)
        return status;
    status = run(build, clear);
    struct costs costs = {NULL, 0};
    if (status == STORE_OK)
        status = count_costs(build, &costs);
    for (size_t i = 0; i < costs.count && status == STORE_OK; i++) {
        if (commonest(&costs, i))
            status = put_dummy(build, &costs.list[i]);
    }
    for (size_t i = 0; i < costs.count; i++)
        free(costs.list[i].account);
    free(costs.list);
    return status;
}

/* --- Putting in place ----------------------------------------------------------------------------------- */

/* The new file is to be readable for whoever could read the old one: another user may have imported that. */
static enum store_status take_over_rights(struct store *store, int fd)
{
    struct stat old, new;
    if (stat(store->roster.path, &old) != 0 || fstat(fd, &new) != 0)
        return store_say_errno(store, "looking at the roster");
    if (old.st_uid != new.st_uid)
        (void)!fchown(fd, old.st_uid, (gid_t)-1);
    if (old.st_gid != new.st_gid && fchown(fd, (uid_t)-1, old.st_gid) != 0)
        return store_say_errno(store, "keeping the roster's group");
    if (fchmod(fd, old.st_mode & 0777) != 0)
        return store_say_errno(store, "setting the roster's mode");
    return STORE_OK;
}

static enum store_status put_in_place(struct roster_build *build)
{
    struct store *store = build->store;
    int fd = open(build->file.path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return store_say_errno(store, "putting the roster in place");
    enum store_status status = take_over_rights(store, fd);
    if (status == STORE_OK && !store_sync_gently(fd))
        status = store_say_errno(store, "syncing the roster");
    if (close(fd) != 0 && status == STORE_OK)
        status = store_say_errno(store, "syncing the roster");
    if (status == STORE_OK && rename(build->file.path, store->roster.path) != 0)
        status = store_say_errno(store, "putting the roster in place");
    if (status != STORE_OK)
        return status;
    return store_sync_folder(store->roster.folder);
}

static int64_t pragma_number(struct roster_build *build, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t number = 0;
    if (sqlite3_prepare_v2(build->file.db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

/* Where most of the file is empty, as after a rehearsal with more candidates than the roster has, it is made
   small: every later import would copy it all. */
static enum store_status give_back_room(struct roster_build *build)
{
    int64_t pages = pragma_number(build, "PRAGMA page_count");
    int64_t empty = pragma_number(build, "PRAGMA freelist_count");
    return empty > EMPTY_PAGES_KEPT && empty > pages / 2 ? execute(build, "VACUUM") : STORE_OK;
}

enum store_status store_roster_commit(struct roster_build *build)
{
    enum store_status status = STORE_ERROR;
    if (!build->failed)
        status = write_dummies(build);
    else
        buf_adds(&build->store->message, "; the roster was not put in place");
    if (status == STORE_OK)
        status = execute(build, "COMMIT");
    if (status == STORE_OK && build->leaves)
        status = give_back_room(build);
    if (status == STORE_OK && build->leaves)
        status = store_scrub_file(build->store, &build->file);
    if (status == STORE_OK) {
        store_file_disconnect(&build->file);
        status = put_in_place(build);
    }
    build_free(build);
    return status;
}
