/* What makes the files of the SQLite store, and the schemas of ExamJoint's and Proview's areas. */
#include "store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIGRATE_LOCK_WAIT_MS 10000
/* "exhk": what file(1) and we know the files by. */
#define APPLICATION_ID "1702389867"

/* `body` comes last: what stands behind a long text is slow to read. AUTOINCREMENT: an id is never given
   twice, so a place kept in a listing stays right after a purge. */
const char store_schema_examjoint[] =
    "CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, received_at INTEGER NOT NULL,"
    " account TEXT NOT NULL, event TEXT, exam_id TEXT, respondent_id TEXT, admitted_on INTEGER,"
    " outcome TEXT, reason TEXT, identity TEXT, positions TEXT, quarantined INTEGER NOT NULL DEFAULT 0,"
    " deliveries INTEGER NOT NULL DEFAULT 1, last_received_at INTEGER NOT NULL, key BLOB, body TEXT);"
    "CREATE INDEX events_received ON events(received_at);"
    "CREATE INDEX events_quarantined ON events(quarantined) WHERE quarantined = 1;"
    "CREATE TABLE deliveries(id INTEGER PRIMARY KEY, event_id INTEGER NOT NULL, number INTEGER NOT NULL,"
    " received_at INTEGER NOT NULL, body TEXT);"
    "CREATE UNIQUE INDEX deliveries_event ON deliveries(event_id, number);"
    /* full_at: the last attempt but (failures - 1); while it lies within the window, the key is throttled. */
    "CREATE TABLE attempts(key BLOB PRIMARY KEY, account TEXT NOT NULL, exam TEXT, last_at INTEGER NOT NULL,"
    " failures INTEGER NOT NULL, full_at INTEGER, times BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX attempts_last ON attempts(last_at);"
    "CREATE INDEX attempts_exam ON attempts(exam);"
    "CREATE INDEX attempts_full ON attempts(full_at) WHERE full_at IS NOT NULL;"
    "CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO counters VALUES('attempts', 0);";

/* Those of `events` that were made otherwise once; the programs bear them as they were, only more slowly. The
   same key always comes with the same exam, time and respondent. */
static const struct {
    const char *name, *sql;
} event_indexes[] = {
    {"events_key",
     "CREATE UNIQUE INDEX events_key ON events(" STORE_EVENT_EXAM("exam_id") ", " STORE_EVENT_TIME(
         "admitted_on") ", " STORE_EVENT_PERSON("respondent_id") ", key) WHERE key IS NOT NULL"},
    {"events_respondent", "CREATE INDEX events_respondent ON events(" STORE_EVENT_BLOCK ", respondent_id)"
                          " WHERE respondent_id IS NOT NULL"},
    /* Before the one of identities is changed, which serves this question too. */
    {"events_erased", "CREATE INDEX events_erased ON events(identity) WHERE identity = '" STORE_ERASED "'"},
    {"events_identity", "CREATE INDEX events_identity ON events(" STORE_EVENT_BLOCK ", identity)"
                        " WHERE identity IS NOT NULL"},
};
#define EVENT_INDEXES (sizeof event_indexes / sizeof event_indexes[0])

/* No text equals an empty blob: so NULL equals NULL in the key, and nothing else does. */
const char store_schema_proview[] =
    "CREATE TABLE callbacks(id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL,"
    " received_at INTEGER NOT NULL, account TEXT NOT NULL, session_uuid TEXT NOT NULL, message TEXT,"
    " external_id TEXT, sender TEXT, flags TEXT, open INTEGER NOT NULL DEFAULT 0,"
    " deliveries INTEGER NOT NULL DEFAULT 1, last_received_at INTEGER NOT NULL, body TEXT);"
    "CREATE UNIQUE INDEX callbacks_key ON callbacks(session_uuid, account, ifnull(message, x''),"
    " ifnull(external_id, x''));"
    "CREATE UNIQUE INDEX callbacks_seq ON callbacks(seq);"
    "CREATE INDEX callbacks_received ON callbacks(received_at);"
    "CREATE INDEX callbacks_external ON callbacks(external_id) WHERE external_id IS NOT NULL;"
    "CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO counters VALUES('seq', 0);"
    "CREATE TABLE open_hour(id INTEGER PRIMARY KEY CHECK(id = 1), hour INTEGER NOT NULL,"
    " rows INTEGER NOT NULL, bytes INTEGER NOT NULL);"
    "INSERT INTO open_hour VALUES(1, 0, 0, 0);";

static const char *schema_of(enum store_area area)
{
    switch (area) {
    case STORE_ROSTER:
        return store_schema_roster;
    case STORE_EXAMJOINT:
        return store_schema_examjoint;
    case STORE_PROVIEW:
        return store_schema_proview;
    case STORE_RATINGS:
        return store_schema_ratings;
    }
    return "";
}

/* --- Folders and the key -----------------------------------------------------------------------------------
 */

static bool make_folder(const char *path, mode_t mode)
{
    if (mkdir(path, mode) != 0)
        return errno == EEXIST;
    if (chmod(path, mode) != 0)
        return false;
    if (geteuid() != 0)
        return true;
    /* Made by root for a service: whoever owns the folder above is meant to use it. */
    char *above = xstrdup(path);
    char *slash = strrchr(above, '/');
    if (slash)
        *(slash == above ? slash + 1 : slash) = '\0';
    struct stat owner;
    bool done = stat(slash ? above : ".", &owner) == 0 && lchown(path, owner.st_uid, owner.st_gid) == 0;
    free(above);
    return done;
}

static enum store_status make_folders(struct store *store, const struct store_file *file)
{
    const char *folder = file->folder;
    char *path = xstrdup(folder);
    bool done = true;
    for (char *slash = strchr(path + 1, '/'); done && slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        struct stat there;
        done = stat(path, &there) == 0 || make_folder(path, STORE_FOLDER_MODE(STORE_ROSTER));
        *slash = '/';
    }
    enum store_status status =
        done && make_folder(path, STORE_FOLDER_MODE(file->area)) ? STORE_OK : store_say_errno(store, path);
    free(path);
    return status;
}

static bool write_synced(const char *path, const unsigned char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = write(fd, bytes, len) == (ssize_t)len && fsync(fd) == 0;
    return close(fd) == 0 && done;
}

/* Never overwritten: link() refuses where one is there. */
static enum store_status make_identity_key(struct store *store, const struct store_file *file, bool *made)
{
    struct buf path = BUF_INIT, aside = BUF_INIT;
    unsigned char key[STORE_KEY_BYTES];
    enum store_status status = STORE_OK;
    struct stat there;
    *made = false;
    buf_addf(&path, "%s/identity.key", file->folder);
    buf_addf(&aside, "%s/identity.key.new", file->folder);
    /* Left by one that was killed, perhaps behind its link(): then it is the key. */
    unlink(buf_str(&aside));
    if (lstat(buf_str(&path), &there) == 0)
        goto out;
    if (sodium_init() < 0) {
        status = store_say(store, STORE_ERROR, "no random numbers");
        goto out;
    }
    randombytes_buf(key, sizeof key);
    if (store_file_create(buf_str(&aside), 0600) && write_synced(buf_str(&aside), key, sizeof key) &&
        link(buf_str(&aside), buf_str(&path)) == 0)
        *made = true;
    else if (errno != EEXIST)
        status = store_say_errno(store, buf_str(&path));
    sodium_memzero(key, sizeof key);
    unlink(buf_str(&aside));
    if (status == STORE_OK && store_sync_folder(file->folder) != STORE_OK)
        status = store_say_errno(store, file->folder);
out:
    buf_release(&path);
    buf_release(&aside);
    return status;
}

/* --- One area ----------------------------------------------------------------------------------------------
 */

/* One transaction: after a crash there is an empty file, which the next migration takes for a new one. */
static enum store_status create_schema(struct store *store, struct store_file *file)
{
    int64_t tables = 0;
    enum store_status status = store_number(store, file, "SELECT count(*) FROM sqlite_schema", &tables);
    if (status != STORE_OK)
        return status;
    if (tables > 0)
        return store_say(store, STORE_CORRUPT, "%s has tables, but was not made by examhook", file->path);
    struct buf sql = BUF_INIT;
    buf_addf(&sql, "BEGIN IMMEDIATE; %s ", schema_of(file->area));
    for (size_t i = 0; file->area == STORE_EXAMJOINT && i < EVENT_INDEXES; i++)
        buf_addf(&sql, "%s; ", event_indexes[i].sql);
    buf_addf(&sql, "PRAGMA user_version = %d; PRAGMA application_id = " APPLICATION_ID "; COMMIT",
             STORE_SCHEMA);
    if (sqlite3_exec(file->db, buf_str(&sql), NULL, NULL, NULL) != SQLITE_OK) {
        status = store_fail(store, file, "creating the schema");
        sqlite3_exec(file->db, "ROLLBACK", NULL, NULL, NULL);
    }
    buf_release(&sql);
    return status;
}

/* *as: the index is there, and made by just this SQL. */
static enum store_status look_at_index(struct store *store, struct store_file *file, const char *name,
                                       const char *sql, bool *as)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    if (sqlite3_prepare_v2(file->db, "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?1", -1,
                           &statement, NULL) != SQLITE_OK)
        return store_fail(store, file, "looking at the indexes");
    store_bind_text(statement, 1, name);
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW || code == SQLITE_DONE) {
        const char *there = code == SQLITE_ROW ? store_column_text(statement, 0) : NULL;
        *as = there && strcmp(there, sql) == 0;
    } else {
        status = store_fail(store, file, "looking at the indexes");
    }
    sqlite3_finalize(statement);
    return status;
}

/* Each in a transaction of its own, and its log moved into the file behind it: with many events an index is
   large. */
static enum store_status renew_indexes(struct store *store, struct store_file *file, size_t *renewed)
{
    enum store_status status = STORE_OK;
    *renewed = 0;
    for (size_t i = 0; i < EVENT_INDEXES && status == STORE_OK; i++) {
        bool as = false;
        status = look_at_index(store, file, event_indexes[i].name, event_indexes[i].sql, &as);
        if (status != STORE_OK || as)
            continue;
        struct buf sql = BUF_INIT;
        buf_addf(&sql, "BEGIN IMMEDIATE; DROP INDEX IF EXISTS %s; %s; COMMIT", event_indexes[i].name,
                 event_indexes[i].sql);
        if (sqlite3_exec(file->db, buf_str(&sql), NULL, NULL, NULL) != SQLITE_OK) {
            status = store_fail(store, file, "making an index");
            sqlite3_exec(file->db, "ROLLBACK", NULL, NULL, NULL);
        } else {
            ++*renewed;
            /* Somebody reads: whoever commits next moves the log. */
            (void)store_log_cut_locked(store, file);
        }
        buf_release(&sql);
    }
    return status;
}

/* Readers take the roster for a file that never changes: it is made aside and put in place. */
static enum store_status create_roster(struct store *store, struct store_file *file)
{
    struct store_file aside = {.area = STORE_ROSTER, .lock_fd = -1};
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s.new", file->path);
    aside.path = xstrdup(buf_str(&path));
    aside.folder = xstrdup(file->folder);
    int64_t version = 0;
    enum store_status status;
    unlink(aside.path);
    if (!store_file_create(aside.path, STORE_FILE_MODE(file->area)))
        status = store_say_errno(store, aside.path);
    else
        status = store_file_connect_any(store, &aside, true, &version);
    if (status == STORE_OK &&
        sqlite3_exec(aside.db, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL) != SQLITE_OK)
        status = store_fail(store, &aside, "creating the roster");
    if (status == STORE_OK)
        status = create_schema(store, &aside);
    store_file_disconnect(&aside);
    if (status == STORE_OK && rename(aside.path, file->path) != 0)
        status = store_say_errno(store, file->path);
    if (status != STORE_OK)
        unlink(aside.path);
    store_file_release(&aside);
    buf_release(&path);
    return status;
}

/* A write-ahead log where the file system bears one. SQLite says which mode it took. */
static enum store_status set_journal(struct store *store, struct store_file *file)
{
    bool want_wal = !store_network_folder(file->folder);
    if (want_wal == file->wal)
        return STORE_OK;
    const char *sql = want_wal ? "PRAGMA journal_mode=WAL" : "PRAGMA journal_mode=TRUNCATE";
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        const char *mode = store_column_text(statement, 0);
        file->wal = mode && strcmp(mode, "wal") == 0;
    } else {
        status = store_fail(store, file, "setting the journal mode");
    }
    sqlite3_finalize(statement);
    /* The log and its index are there from now on, for readers who may not create them. */
    int64_t tables;
    if (status == STORE_OK)
        status = store_number(store, file, "SELECT count(*) FROM sqlite_schema", &tables);
    return status;
}

static enum store_status migrate_roster(struct store *store, struct store_file *file, int64_t *version)
{
    struct stat there;
    *version = 0;
    if (stat(file->path, &there) != 0 && errno != ENOENT)
        return store_say_errno(store, file->path);
    if (stat(file->path, &there) == 0 && there.st_size > 0) {
        enum store_status status = store_file_connect_any(store, file, false, version);
        store_file_disconnect(file);
        if (status != STORE_OK)
            return status;
    }
    return *version == 0 ? create_roster(store, file) : STORE_OK;
}

static enum store_status migrate_file(struct store *store, struct store_file *file, int64_t *version,
                                      size_t *renewed)
{
    if (file->area == STORE_ROSTER)
        return migrate_roster(store, file, version);
    struct stat there;
    if (store_file_orphaned_log(store, file) != STORE_OK)
        return STORE_CORRUPT;
    if (lstat(file->path, &there) != 0 && !store_file_create(file->path, STORE_FILE_MODE(file->area)))
        return store_say_errno(store, file->path);
    enum store_status status = store_file_connect_any(store, file, true, version);
    if (status == STORE_OK && *version == 0)
        status = create_schema(store, file);
    if (status == STORE_OK && *version <= STORE_SCHEMA)
        status = set_journal(store, file);
    if (status == STORE_OK && *version > 0 && *version <= STORE_SCHEMA && file->area == STORE_EXAMJOINT)
        status = renew_indexes(store, file, renewed);
    return status;
}

static enum store_status migrate_area(struct store *store, struct store_file *file, struct buf *said)
{
    const char *label = store_file_label(file->area);
    int64_t version = 0;
    bool made_key = false;
    size_t renewed = 0;
    /* An area's lock is older than its file, and outlives it. */
    struct stat there;
    bool anew = lstat(file->path, &there) != 0 && stat(file->lock_path, &there) == 0;
    enum store_status status = make_folders(store, file);
    if (status == STORE_OK)
        status = store_file_lock(store, file);
    if (status != STORE_OK)
        return status;
    status = migrate_file(store, file, &version, &renewed);
    if (status == STORE_OK && version > STORE_SCHEMA + 1)
        status = store_say(store, STORE_NEW, "%s has schema %lld, made by a newer examhook", label,
                           (long long)version);
    if (status == STORE_OK && file->area == STORE_EXAMJOINT)
        status = make_identity_key(store, file, &made_key);
    if (status == STORE_OK)
        status = store_sync_folder(file->folder);
    bool wal = file->wal;
    store_file_disconnect(file);
    store_file_unlock(file);
    if (status != STORE_OK)
        return status;
    const char *journal = file->area == STORE_ROSTER || wal ? "" : ", with a rollback journal";
    if (anew)
        buf_addf(said, "%s: the one that was here before is gone\n", label);
    if (version == 0)
        buf_addf(said, "%s: created with schema %d%s\n", label, STORE_SCHEMA, journal);
    else if (version > STORE_SCHEMA)
        buf_addf(said, "%s: has the newer schema %lld, left as it is\n", label, (long long)version);
    else
        buf_addf(said, "%s: has schema %d already%s\n", label, STORE_SCHEMA, journal);
    if (version > 0 && renewed > 0)
        buf_addf(said, "%s: %zu indexes made anew\n", label, renewed);
    if (made_key)
        buf_adds(said, "identity.key: created\n");
    return STORE_OK;
}

enum store_status store_migrate(const char *url, struct buf *said)
{
    static const enum store_area areas[] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};
    struct store store = {.lock_wait_ms = MIGRATE_LOCK_WAIT_MS};
    enum store_status status = STORE_OK;
    for (size_t i = 0; i < sizeof areas / sizeof areas[0] && status == STORE_OK; i++) {
        struct store_file *file = store_file_of(&store, areas[i]);
        if (!store_file_name(url, areas[i], file)) {
            status = store_say(&store, STORE_ERROR, "\"%s\" is not sqlite:FOLDER", url);
            break;
        }
        status = migrate_area(&store, file, said);
        store_file_release(file);
    }
    if (status != STORE_OK)
        buf_addf(said, "%s\n", store_message(&store));
    buf_release(&store.message);
    return status;
}
