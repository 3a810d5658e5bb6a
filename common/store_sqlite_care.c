/* The SQLite store looked after: what is there is copied and checked. */
#include "store_sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static const enum store_area areas[] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};
#define AREA_COUNT (sizeof areas / sizeof areas[0])
/* A copy is brought to the disk in pieces of this size, looked for each time after so many of SQLite's steps.
 */
#define COPY_PIECE_BYTES (1024 * 1024)
#define COPY_STEPS 1000

/* --- Backup ------------------------------------------------------------------------------------------------
 */

static bool is_empty_folder(const char *folder)
{
    DIR *listing = opendir(folder);
    if (!listing)
        return false;
    const struct dirent *entry;
    bool empty = true;
    while (empty && (entry = readdir(listing)))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(listing);
    return empty;
}

static enum store_status make_backup_folder(struct store *store, const char *folder, mode_t mode)
{
    if (mkdir(folder, mode) != 0) {
        if (errno != EEXIST)
            return store_say_errno(store, folder);
        return is_empty_folder(folder) ? STORE_OK
                                       : store_say(store, STORE_DENIED, "%s is not an empty folder", folder);
    }
    return chmod(folder, mode) == 0 ? STORE_OK : store_say_errno(store, folder);
}

/* "ok", or the first thing that integrity_check finds. */
static enum store_status check_integrity(struct store *store, struct store_file *file)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    if (sqlite3_prepare_v2(file->db, "PRAGMA integrity_check(1)", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        const char *found = store_column_text(statement, 0);
        if (!found || strcmp(found, "ok") != 0)
            status = store_say(store, STORE_CORRUPT, "%s: %s", file->path, found ? found : "damaged");
    } else {
        status = store_fail(store, file, "checking");
    }
    sqlite3_finalize(statement);
    return status;
}

/* A copy that grows. */
struct growing {
    int fd;
    int64_t written; /* so much of it was brought to the disk */
    int error;       /* errno of that; 0 for none */
};

/* What lies in memory for long (30 s with Linux) is written out all at once by the kernel, and each event's
   commit would wait for it. */
static int bring_out(void *context)
{
    struct growing *copy = context;
    struct stat file;
    int64_t ready = fstat(copy->fd, &file) == 0 ? file.st_size - file.st_size % COPY_PIECE_BYTES : 0;
    if (!store_write_out(copy->fd, &copy->written, ready))
        copy->error = errno;
    return copy->error != 0;
}

static enum store_status copy_into(struct store *store, struct store_file *file, const char *path)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    struct growing copy = {.fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)};
    if (copy.fd < 0)
        return store_say_errno(store, path);
    sqlite3_progress_handler(file->db, COPY_STEPS, bring_out, &copy);
    /* query_only forbids writing to the copy too; the connection is closed behind this. The copy is synced at
       the end, gently: until then it is nothing to anybody. */
    if (sqlite3_exec(file->db, "PRAGMA query_only=OFF;PRAGMA synchronous=OFF", NULL, NULL, NULL) ==
            SQLITE_OK &&
        sqlite3_prepare_v2(file->db, "VACUUM INTO ?1", -1, &statement, NULL) == SQLITE_OK) {
        store_bind_text(statement, 1, path);
        if (sqlite3_step(statement) != SQLITE_DONE)
            status = store_fail(store, file, "copying");
    } else {
        status = store_fail(store, file, "copying");
    }
    sqlite3_finalize(statement);
    sqlite3_progress_handler(file->db, 0, NULL, NULL);
    close(copy.fd);
    if (copy.error) {
        errno = copy.error;
        status = store_say_errno(store, path);
    }
    return status;
}

static enum store_status sync_file(struct store *store, const char *path)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool done = fd >= 0 && store_sync_gently(fd);
    enum store_status status = done ? STORE_OK : store_say_errno(store, path);
    if (fd >= 0)
        close(fd);
    return status;
}

/* Callbacks that come once a copy was put back get numbers that the present ones never reach: else ratings
   that were not put back too would take the first of them for ones they know. */
static enum store_status settle_callbacks(struct store *store, struct store_file *copy)
{
    const char *sql = "PRAGMA journal_mode=MEMORY;PRAGMA synchronous=OFF;"
                      "UPDATE counters SET value = value + (1 << 32) WHERE name = 'seq'";
    int64_t version = 0;
    enum store_status status = store_file_connect_any(store, copy, true, &version);
    if (status == STORE_OK && sqlite3_exec(copy->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        status = store_fail(store, copy, "settling the copy");
    store_file_disconnect(copy);
    return status;
}

/* Made before the copy is written, so that nobody else can read it while it grows. */
static enum store_status copy_area(struct store *store, struct store_file *from, struct store_file *to)
{
    int64_t version = 0;
    enum store_status status = make_backup_folder(store, to->folder, STORE_FOLDER_MODE(to->area));
    if (status == STORE_OK)
        status = store_file_connect_any(store, from, false, &version);
    if (status == STORE_OK && !store_file_create(to->path, STORE_FILE_MODE(to->area)))
        status = store_say_errno(store, to->path);
    /* Tokens are the worker's alone: whoever puts a copy back logs in anew. */
    if (status == STORE_OK)
        status = version > 0 && to->area == STORE_RATINGS
                     ? store_copy_without_tokens(store, from, to, version)
                     : copy_into(store, from, to->path);
    store_file_disconnect(from);
    if (status == STORE_OK && version > 0 && to->area == STORE_PROVIEW)
        status = settle_callbacks(store, to);
    if (status == STORE_OK)
        status = store_file_connect_any(store, to, false, &version);
    if (status == STORE_OK)
        status = check_integrity(store, to);
    store_file_disconnect(to);
    return status == STORE_OK ? sync_file(store, to->path) : status;
}

/* "events.db.new" while it is written. */
static void name_aside(struct store_file *file, struct buf *final)
{
    buf_clear(final);
    buf_adds(final, file->path);
    struct buf aside = BUF_INIT;
    buf_addf(&aside, "%s.new", file->path);
    free(file->path);
    file->path = xstrdup(buf_str(&aside));
    buf_release(&aside);
}

static enum store_status backup_area(struct store *store, const char *url, const char *to_url,
                                     enum store_area area)
{
    struct store_file *from = store_file_of(store, area);
    struct store_file to;
    struct buf final = BUF_INIT;
    if (!store_file_name(url, area, from))
        return store_say(store, STORE_ERROR, "\"%s\" is not sqlite:FOLDER", url);
    if (!store_file_name(to_url, area, &to))
        return store_say(store, STORE_ERROR, "there is no folder to copy to");
    name_aside(&to, &final);
    enum store_status status = copy_area(store, from, &to);
    if (status == STORE_OK && rename(to.path, buf_str(&final)) != 0)
        status = store_say_errno(store, buf_str(&final));
    if (status == STORE_OK && store_sync_folder(to.folder) != STORE_OK)
        status = store_say_errno(store, to.folder);
    if (status != STORE_OK)
        unlink(to.path);
    store_file_release(&to);
    store_file_release(from);
    buf_release(&final);
    return status;
}

/* A copy that is not whole is none: the folder was empty, all in it is ours, and the next try finds it empty
 * again. */
static void forget_copy(const char *to_url, enum store_area area)
{
    struct store_file file;
    if (!store_file_name(to_url, area, &file))
        return;
    unlink(file.path);
    rmdir(file.folder);
    store_file_release(&file);
}

enum store_status store_backup(const char *url, const char *folder, struct buf *why)
{
    struct store store = {.lock_wait_ms = 5000};
    struct buf to_url = BUF_INIT;
    buf_addf(&to_url, "sqlite:%s", folder);
    /* Ratings before the callbacks: a copy of the ratings that knows of callbacks which the other copy lacks
       would, once put back, pass by those that are given their numbers then. */
    static const enum store_area order[AREA_COUNT] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_RATINGS,
                                                      STORE_PROVIEW};
    size_t done = 0;
    enum store_status status = make_backup_folder(&store, folder, STORE_BACKUP_FOLDER_MODE);
    for (; done < AREA_COUNT && status == STORE_OK; done++)
        status = backup_area(&store, url, buf_str(&to_url), order[done]);
    while (status != STORE_OK && done > 0)
        forget_copy(buf_str(&to_url), order[--done]);
    if (status == STORE_OK && store_sync_folder(folder) != STORE_OK)
        status = store_say_errno(&store, folder);
    if (status != STORE_OK && why)
        buf_adds(why, store_message(&store));
    buf_release(&to_url);
    buf_release(&store.message);
    return status;
}

/* --- Check -------------------------------------------------------------------------------------------------
 */

#define WAL_BYTES_ODD (64 * 1024 * 1024)
#define FREE_BYTES_LOW (64 * 1024 * 1024)
#define FREE_FILES_LOW 17

struct check {
    struct store *store;
    struct store_file *file;
    const char *area;
    store_finding_fn *fn;
    void *context;
};

static void find_ok(const struct check *check, const char *text)
{
    struct store_finding finding = {.area = check->area, .ok = true, .text = text};
    check->fn(check->context, &finding);
}

static void find_bad(const struct check *check, const char *text, const char *advice)
{
    struct store_finding finding = {.area = check->area, .text = text, .advice = advice};
    check->fn(check->context, &finding);
}

static void find_harmless(const struct check *check, const char *text, const char *advice)
{
    struct store_finding finding = {.area = check->area, .harmless = true, .text = text, .advice = advice};
    check->fn(check->context, &finding);
}

static const char *advice_for(enum store_status status)
{
    switch (status) {
    case STORE_MISSING:
        return "run `examhook migrate`; if there was a store before, put back a backup first";
    case STORE_OLD:
        return "run `examhook migrate`";
    case STORE_NEW:
        return "install the newer examhook that made it";
    case STORE_DENIED:
        return "look at owner and mode of the folder and its files, and whether an error made the disk "
               "read-only (dmesg)";
    case STORE_CORRUPT:
        return "put back a backup, then run `examhook migrate`";
    case STORE_FULL:
        return "make room on the disk (df, df -i)";
    case STORE_BUSY:
        return "find out which program holds the lock: `fuser` on the .lock file";
    default:
        return "look at the file system and the system's log";
    }
}

static void find_failed(const struct check *check, enum store_status status)
{
    if (status == STORE_BUSY || status == STORE_FULL)
        find_harmless(check, store_message(check->store), advice_for(status));
    else
        find_bad(check, store_message(check->store), advice_for(status));
}

/* Others must not get at what is there. */
static bool check_mode(const struct check *check, const char *path, mode_t forbidden, const char *what)
{
    struct stat there;
    char text[512];
    if (stat(path, &there) != 0) {
        find_failed(check, store_say_errno(check->store, path));
        return false;
    }
    if (!(there.st_mode & forbidden))
        return true;
    snprintf(text, sizeof text, "%s has mode %04o: %s", path, (unsigned)(there.st_mode & 07777), what);
    find_harmless(
        check, text,
        "chmod it to 0750 (folders; ratings 0700), 0640 (stores; ratings.db 0600) or 0600 (identity.key)");
    return false;
}

static void check_modes(const struct check *check)
{
    const struct store_file *file = check->file;
    mode_t beyond = (mode_t)~STORE_FILE_MODE(file->area) & 0777;
    bool fine = check_mode(check, file->folder, (mode_t)~STORE_FOLDER_MODE(file->area) & 0077,
                           "others can look into it");
    fine = fine && check_mode(check, file->path, beyond, "others can get at it");
    if (fine)
        find_ok(check, "modes of folder and file are right");
}

static void check_key(const struct check *check)
{
    unsigned char key[STORE_KEY_BYTES];
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s/identity.key", check->file->folder);
    enum store_status status = store_identity_key(check->store, key);
    explicit_bzero(key, sizeof key);
    if (status != STORE_OK)
        find_failed(check, status);
    else if (check_mode(check, buf_str(&path), 0077, "others can read the key"))
        find_ok(check, "identity.key is there");
    buf_release(&path);
}

static void check_journal(const struct check *check)
{
    const struct store_file *file = check->file;
    bool network = store_network_folder(file->folder);
    if (file->wal && network)
        find_bad(check, "a write-ahead log on a network file system",
                 "stop the programs, run `examhook migrate`");
    else if (!file->wal && !network)
        find_harmless(check, "a rollback journal where a write-ahead log would be faster",
                      "run `examhook migrate`");
    else
        find_ok(check,
                file->wal ? "journal: write-ahead log" : "journal: rollback, as the file system wants");
    struct buf path = BUF_INIT;
    struct stat log;
    char text[128];
    buf_addf(&path, "%s-wal", file->path);
    if (stat(buf_str(&path), &log) == 0 && log.st_size > WAL_BYTES_ODD) {
        snprintf(text, sizeof text, "the write-ahead log has grown to %lld MiB",
                 (long long)log.st_size >> 20);
        find_harmless(check, text, "look for a program that reads without end (a backup, a shell)");
    }
    buf_release(&path);
}

static void check_room(const struct check *check)
{
    struct statvfs fs;
    char text[128];
    if (statvfs(check->file->folder, &fs) != 0)
        return;
    unsigned long long room = (unsigned long long)fs.f_bavail * fs.f_frsize;
    if (room < FREE_BYTES_LOW) {
        snprintf(text, sizeof text, "the disk has only %llu MiB left", room >> 20);
        find_harmless(check, text, "make room on the disk");
    }
    if (fs.f_files != 0 && fs.f_favail < FREE_FILES_LOW) {
        snprintf(text, sizeof text, "the disk has room for only %llu more files (inodes)",
                 (unsigned long long)fs.f_favail);
        find_harmless(check, text, "remove files that are not needed: `df -i` and `du --inodes` show where");
    }
}

/* A round that writes nothing shows that one could begin. */
static void check_writable(const struct check *check)
{
    enum store_status status;
    if (access(check->file->folder, W_OK) != 0)
        status = store_say_errno(check->store, check->file->folder);
    else if (check->file->area == STORE_ROSTER)
        status = STORE_OK;
    else
        status = store_round_begin(check->store, check->file->area);
    if (status != STORE_OK) {
        find_failed(check, status);
        return;
    }
    store_round_abandon(check->store);
    find_ok(check, "writable");
}

static enum store_status check_opening(const struct check *check, bool writable)
{
    struct store_file *file = check->file;
    bool roster = file->area == STORE_ROSTER;
    enum store_status status =
        roster ? store_roster_reopen(check->store) : store_file_connect(check->store, file, writable);
    file->writable = writable;
    if (status != STORE_OK)
        find_failed(check, status);
    else
        find_ok(check, "there, and of the right schema");
    return status;
}

static void check_area(const struct check *check, bool writable, bool full)
{
    check_modes(check);
    if (check_opening(check, writable) != STORE_OK)
        return;
    bool roster = check->file->area == STORE_ROSTER;
    /* The key is its writer's alone. */
    if (check->file->area == STORE_EXAMJOINT && writable)
        check_key(check);
    if (!roster)
        check_journal(check);
    check_room(check);
    if (writable)
        check_writable(check);
    if (!full)
        return;
    enum store_status status = check_integrity(check->store, check->file);
    if (status == STORE_OK)
        find_ok(check, "integrity_check: ok");
    else
        find_failed(check, status);
}

void store_check(const char *url, unsigned write_areas, unsigned read_areas, bool full, store_finding_fn *fn,
                 void *context)
{
    static const char *const names[AREA_COUNT] = {"roster", "examjoint", "proview", "ratings"};
    struct store store = {.lock_wait_ms = 500};
    for (size_t i = 0; i < AREA_COUNT; i++) {
        unsigned bit = (unsigned)areas[i];
        struct check check = {.store = &store, .area = names[i], .fn = fn, .context = context};
        check.file = store_file_of(&store, areas[i]);
        *check.file = (struct store_file){.area = areas[i], .lock_fd = -1};
        if (!((write_areas | read_areas) & bit))
            continue;
        if (!store_file_name(url, areas[i], check.file)) {
            find_bad(&check, "the store's url is not sqlite:FOLDER", "correct [store] url");
            continue;
        }
        check_area(&check, (write_areas & bit) != 0, full);
        store_file_release(check.file);
    }
    buf_release(&store.message);
}
