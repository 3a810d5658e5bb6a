#include "store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

/* How long to rest between two tries for the lock. Asking more often costs the holder more than it gains the
   one who waits: with three writers that never pause, half of what they got done. */
#define LOCK_REST_MIN_US 200
#define LOCK_REST_MAX_US 5000
/* A large file is written out in pieces of this size, with a rest as long as each took. */
#define SYNC_PIECE_BYTES (1024 * 1024)
#define SYNC_REST_MAX_US 50000
/* Above this, whoever commits moves the log into the file. */
#define WAL_BYTES_MAX (4 * 1024 * 1024)
/* A program that ends leaves no more than this to be read by the next. */
#define WAL_BYTES_LEFT (256 * 1024)
/* While readers are in the way, another try is made only after this much more. */
#define WAL_RETRY_BYTES (1024 * 1024)
/* Above this, who only reads rests a little before each page: readers that follow each other without a gap
   would never let the log begin anew. */
#define WAL_BYTES_READERS_REST (8 * 1024 * 1024)
#define READERS_REST_US 10000

enum {
    STATEMENT_BEGIN = STORE_STATEMENTS_ROUND,
    STATEMENT_COMMIT,
    STATEMENT_STEP,
    STATEMENT_STEP_KEEP,
    STATEMENT_STEP_UNDO,
    STATEMENT_DATA_VERSION
};

const char *store_status_word(enum store_status status)
{
    static const char *const words[] = {"ok",      "absent", "busy", "full",  "denied", "corrupt",
                                        "missing", "old",    "new",  "limit", "lost",   "error"};
    return (size_t)status < sizeof words / sizeof words[0] ? words[status] : "error";
}

/* --- What went wrong --------------------------------------------------------------------------------------
 */

enum store_status store_say(struct store *store, enum store_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_clear(&store->message);
    buf_adds(&store->message, text);
    return status;
}

static enum store_status status_of_errno(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return STORE_FULL;
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:
        return STORE_DENIED;
    case ENOENT:
    case ENOTDIR:
        return STORE_MISSING;
    default:
        return STORE_ERROR;
    }
}

enum store_status store_say_errno(struct store *store, const char *doing)
{
    int error = errno;
    char text[128];
    return store_say(store, status_of_errno(error), "%s: %s", doing, strerror_r(error, text, sizeof text));
}

static int last_errno(sqlite3 *db, int which)
{
    sqlite3_file *file = NULL;
    int error = 0;
    if (sqlite3_file_control(db, "main", which, (void *)&file) == SQLITE_OK && file && file->pMethods)
        file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error);
    return error;
}

/* What the system said of an I/O error; 0: nothing. A quota and a limit on the size of files come as such,
   and so does a disk that became read-only: that goes before. A commit that failed leaves nothing in
   sqlite3_system_errno(): the files themselves remember. */
static int errno_of_io(sqlite3 *db)
{
    const int errors[] = {sqlite3_system_errno(db), last_errno(db, SQLITE_FCNTL_JOURNAL_POINTER),
                          last_errno(db, SQLITE_FCNTL_FILE_POINTER)};
    int said = 0;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        enum store_status status = status_of_errno(errors[i]);
        if (status == STORE_FULL || status == STORE_DENIED)
            return errors[i];
        said = said ? said : errors[i];
    }
    return said;
}

static enum store_status status_of_io(sqlite3 *db)
{
    enum store_status status = status_of_errno(errno_of_io(db));
    return status == STORE_FULL || status == STORE_DENIED ? status : STORE_ERROR;
}

static enum store_status status_of_sqlite(sqlite3 *db, int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return STORE_ERROR; /* something failed, yet SQLite holds nothing against it */
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return STORE_BUSY;
    case SQLITE_FULL:
        return STORE_FULL;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return STORE_DENIED;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return STORE_CORRUPT;
    case SQLITE_CANTOPEN:
        return code == SQLITE_CANTOPEN_SYMLINK ? STORE_DENIED : status_of_errno(sqlite3_system_errno(db));
    case SQLITE_IOERR:
        return status_of_io(db);
    default:
        return STORE_ERROR;
    }
}

/* What the system said, where SQLite's own words leave open whether it is descriptors, modes or the disk. */
static void add_cause(struct buf *cause, sqlite3 *db, int code)
{
    char text[128];
    int error = (code & 0xff) == SQLITE_IOERR      ? errno_of_io(db)
                : (code & 0xff) == SQLITE_CANTOPEN ? sqlite3_system_errno(db)
                                                   : 0;
    if (error != 0)
        buf_addf(cause, ": %s", strerror_r(error, text, sizeof text));
}

/* After these the connection may hold a wrong idea of the file. */
static bool needs_new_connection(int code)
{
    switch (code & 0xff) {
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PROTOCOL:
        return true;
    default:
        return false;
    }
}

enum store_status store_fail(struct store *store, struct store_file *file, const char *doing)
{
    if (!file->db)
        return store_say(store, STORE_ERROR, "%s: %s is not open", doing, store_file_label(file->area));
    int code = sqlite3_extended_errcode(file->db);
    enum store_status status = status_of_sqlite(file->db, code);
    struct buf cause = BUF_INIT;
    add_cause(&cause, file->db, code);
    store_say(store, status, "%s in %s: %s%s", doing, store_file_label(file->area), sqlite3_errmsg(file->db),
              buf_str(&cause));
    buf_release(&cause);
    if (needs_new_connection(code))
        file->suspect = true;
    if (store->round == file && sqlite3_get_autocommit(file->db) && store->round_failed == STORE_OK)
        store->round_failed = status;
    return status;
}

/* --- Files -------------------------------------------------------------------------------------------------
 */

static const struct {
    enum store_area area;
    const char *folder, *name;
} places[] = {
    {STORE_ROSTER, "roster", "roster"},
    {STORE_EXAMJOINT, "examjoint", "events"},
    {STORE_PROVIEW, "proview", "callbacks"},
    {STORE_RATINGS, "ratings", "ratings"},
};

const char *store_file_label(enum store_area area)
{
    switch (area) {
    case STORE_ROSTER:
        return "roster.db";
    case STORE_EXAMJOINT:
        return "events.db";
    case STORE_PROVIEW:
        return "callbacks.db";
    case STORE_RATINGS:
        return "ratings.db";
    }
    return "the store";
}

static char *joined(const char *folder, size_t folder_len, const char *name, const char *ending)
{
    struct buf path = BUF_INIT;
    buf_add(&path, folder, folder_len);
    buf_addc(&path, '/');
    buf_adds(&path, name);
    buf_adds(&path, ending);
    char *text = xstrdup(buf_str(&path));
    buf_release(&path);
    return text;
}

bool store_file_name(const char *url, enum store_area area, struct store_file *file)
{
    static const char scheme[] = "sqlite:";
    if (strncmp(url, scheme, sizeof scheme - 1) != 0 || url[sizeof scheme - 1] == '\0')
        return false;
    const char *root = url + sizeof scheme - 1;
    size_t root_len = strlen(root);
    while (root_len > 1 && root[root_len - 1] == '/')
        root_len--;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (places[i].area != area)
            continue;
        *file = (struct store_file){.area = area, .lock_fd = -1};
        file->folder = joined(root, root_len, places[i].folder, "");
        size_t len = strlen(file->folder);
        file->path = joined(file->folder, len, places[i].name, ".db");
        file->lock_path = joined(file->folder, len, places[i].name, ".lock");
        return true;
    }
    return false;
}

void store_file_release(struct store_file *file)
{
    store_file_disconnect(file);
    if (file->lock_fd >= 0)
        close(file->lock_fd);
    free(file->folder);
    free(file->path);
    free(file->lock_path);
    *file = (struct store_file){.area = file->area, .lock_fd = -1};
}

struct store_file *store_file_of(struct store *store, enum store_area area)
{
    switch (area) {
    case STORE_ROSTER:
        return &store->roster;
    case STORE_EXAMJOINT:
        return &store->examjoint;
    case STORE_PROVIEW:
        return &store->proview;
    case STORE_RATINGS:
        return &store->ratings;
    }
    return NULL;
}

char *store_area_folder(const char *url, enum store_area area)
{
    struct store_file file;
    if (!store_file_name(url, area, &file))
        return NULL;
    char *folder = file.folder;
    file.folder = NULL;
    store_file_release(&file);
    return folder;
}

static bool give_to_folders_owner(int fd, const char *path)
{
    if (geteuid() != 0)
        return true;
    const char *slash = strrchr(path, '/');
    char *folder = slash ? xstrndup(path, (size_t)(slash - path)) : xstrdup(".");
    struct stat owner;
    bool done = stat(folder[0] ? folder : "/", &owner) == 0 && fchown(fd, owner.st_uid, owner.st_gid) == 0;
    free(folder);
    return done;
}

bool store_file_create(const char *path, mode_t mode)
{
    int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return false;
    bool done = fchmod(fd, mode) == 0 && give_to_folders_owner(fd, path);
    int error = errno;
    close(fd);
    if (!done)
        unlink(path);
    errno = error;
    return done;
}

static void nap(int64_t us)
{
    struct timespec rest = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&rest, NULL);
}

/*
 * One fsync of a hundred MiB keeps the disk busy until all is written, and a file system that orders data
 * before its journal (ext4) lets every other file's fsync wait for it. sync_file_range() promises nothing of
 * what it wrote, but an error that it tells is not told again by the fsync.
 */
bool store_write_out(int fd, int64_t *at, int64_t end)
{
    while (*at < end) {
        int64_t began_ms = clock_monotonic_ms();
        if (sync_file_range(fd, *at, SYNC_PIECE_BYTES,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER) != 0) {
            /* Not on this system: the fsync alone will do. */
            return errno == EINVAL || errno == ENOSYS || errno == ESPIPE || errno == EPERM;
        }
        *at += SYNC_PIECE_BYTES;
        int64_t took_us = (clock_monotonic_ms() - began_ms) * 1000;
        nap(took_us < SYNC_REST_MAX_US ? took_us : SYNC_REST_MAX_US);
    }
    return true;
}

bool store_sync_gently(int fd)
{
    struct stat file;
    int64_t at = 0;
    return fstat(fd, &file) == 0 && store_write_out(fd, &at, file.st_size) && fsync(fd) == 0;
}

enum store_status store_sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return status_of_errno(errno);
    enum store_status status = fsync(fd) == 0 ? STORE_OK : status_of_errno(errno);
    close(fd);
    return status;
}

bool store_network_folder(const char *folder)
{
    struct statfs fs;
    if (statfs(folder, &fs) != 0)
        return false;
    switch ((unsigned long)fs.f_type & 0xffffffffUL) {
    case 0x6969UL:     /* NFS */
    case 0x517bUL:     /* SMB */
    case 0xff534d42UL: /* CIFS */
    case 0xfe534d42UL: /* SMB2 */
    case 0x01021997UL: /* 9p */
    case 0x65735546UL: /* FUSE: sshfs and others; local ones lose only some speed */
    case 0x73757245UL: /* Coda */
    case 0x5346414fUL: /* AFS */
    case 0x00c36400UL: /* Ceph */
    case 0x0bd00bd0UL: /* Lustre */
    case 0x47504653UL: /* GPFS */
        return true;
    default:
        return false;
    }
}

/* --- The lock ----------------------------------------------------------------------------------------------
 */

static enum store_status open_lock(struct store *store, struct store_file *file)
{
    for (int tries = 0; tries < 3 && file->lock_fd < 0; tries++) {
        file->lock_fd = open(file->lock_path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (file->lock_fd >= 0 || errno != ENOENT)
            break;
        if (!store_file_create(file->lock_path, STORE_LOCK_MODE) && errno != EEXIST)
            break;
    }
    return file->lock_fd >= 0 ? STORE_OK : store_say_errno(store, file->lock_path);
}

/* The file under our lock is still the one that others would find. Where not, errno says why it could not be
   looked at; 0: it is another one. */
static bool lock_is_there(const struct store_file *file)
{
    struct stat ours, named;
    errno = 0;
    return fstat(file->lock_fd, &ours) == 0 && stat(file->lock_path, &named) == 0 &&
           ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

enum store_status store_file_lock(struct store *store, struct store_file *file)
{
    int64_t began_ms = clock_monotonic_ms();
    int64_t rest_us = LOCK_REST_MIN_US;
    for (;;) {
        enum store_status status = file->lock_fd < 0 ? open_lock(store, file) : STORE_OK;
        if (status != STORE_OK)
            return status;
        if (flock(file->lock_fd, LOCK_EX | LOCK_NB) == 0) {
            if (lock_is_there(file)) {
                file->locked = true;
                return STORE_OK;
            }
            /* Another is there now; or it cannot be looked at, and waiting would not help. */
            status = errno == 0 || errno == ENOENT ? STORE_OK : store_say_errno(store, file->lock_path);
            close(file->lock_fd);
            file->lock_fd = -1;
            if (status != STORE_OK)
                return status;
        } else if (errno != EWOULDBLOCK && errno != EINTR) {
            return store_say_errno(store, file->lock_path);
        }
        if (clock_monotonic_ms() - began_ms >= store->lock_wait_ms)
            return store_say(store, STORE_BUSY,
                             file->lock_fd < 0 ? "%s: the lock's file cannot be kept"
                                               : "%s: another program holds the lock",
                             file->lock_path);
        nap(rest_us);
        rest_us = rest_us < LOCK_REST_MAX_US / 2 ? rest_us * 2 : LOCK_REST_MAX_US;
    }
}

void store_file_unlock(struct store_file *file)
{
    if (file->lock_fd >= 0)
        flock(file->lock_fd, LOCK_UN);
    file->locked = false;
}

/* --- Connections -------------------------------------------------------------------------------------------
 */

void store_file_disconnect(struct store_file *file)
{
    for (size_t i = 0; i < STORE_STATEMENTS; i++) {
        sqlite3_finalize(file->statements[i]);
        file->statements[i] = NULL;
    }
    sqlite3_close_v2(file->db);
    file->db = NULL;
    file->suspect = false;
    file->erased_known = false;
}

static void wait_at_most(const struct store_file *file, int64_t ms)
{
    sqlite3_busy_timeout(file->db, (int)(ms < INT_MAX ? ms : INT_MAX));
}

static int remember_frames(void *context, sqlite3 *db, const char *schema, int frames)
{
    struct store_file *file = context;
    (void)db;
    (void)schema;
    file->wal_frames = frames;
    return SQLITE_OK;
}

/* The value of a pragma or of any query of one number. */
enum store_status store_number(struct store *store, struct store_file *file, const char *sql, int64_t *number)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        *number = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "reading");
    sqlite3_finalize(statement);
    return status;
}

/* --- Files that go away under a connection --- */

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The file of this ending ("-wal") beside the store. */
static bool beside(const struct store_file *file, const char *ending, struct stat *there)
{
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s%s", file->path, ending);
    bool found = stat(buf_str(&path), there) == 0;
    buf_release(&path);
    return found;
}

static void note_log(struct store_file *file)
{
    if (!file->wal || !beside(file, "-wal", &file->seen_log))
        file->seen_log.st_ino = 0;
    if (!file->wal || !beside(file, "-shm", &file->seen_index))
        file->seen_index.st_ino = 0;
}

/* What the connection has open is what others find. */
static bool store_is_there(struct store_file *file)
{
    struct stat now;
    if (stat(file->path, &now) != 0 || !same_inode(&now, &file->seen) || now.st_size < file->seen.st_size)
        return false;
    file->seen.st_size = now.st_size;
    return true;
}

static bool log_file_is_there(const struct store_file *file)
{
    struct stat now;
    return file->seen_log.st_ino == 0 || (beside(file, "-wal", &now) && same_inode(&now, &file->seen_log));
}

static bool files_are_there(struct store_file *file)
{
    struct stat now;
    return store_is_there(file) && log_file_is_there(file) &&
           (file->seen_index.st_ino == 0 ||
            (beside(file, "-shm", &now) && same_inode(&now, &file->seen_index)));
}

/* A log beside a file that it does not belong to would be taken for that one's: it goes out of the way. */
static void put_log_aside(const struct store_file *file)
{
    struct stat now;
    struct buf from = BUF_INIT, to = BUF_INIT;
    if (stat(file->path, &now) == 0 && !same_inode(&now, &file->seen) && log_file_is_there(file)) {
        buf_addf(&from, "%s-wal", file->path);
        buf_addf(&to, "%s-wal.left-%lld", file->path, (long long)clock_now_ms());
        if (rename(buf_str(&from), buf_str(&to)) == 0)
            log_warn("the log of the file that was there before is kept", LOG_S("path", buf_str(&to)));
    }
    buf_release(&from);
    buf_release(&to);
}

/* All of the log as we have it goes into the store as we have it. Where the log's file is gone there is no
   second chance: nobody may read it any more, or SQLite would let part of it lie, or go on behind it in a new
   file, which has no beginning then. Else what is left lies in the file. */
static int move_log(const struct store_file *file, bool gone)
{
    int frames = 0, moved = 0;
    int code = sqlite3_wal_checkpoint_v2(
        file->db, "main", gone ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE, &frames, &moved);
    return code == SQLITE_OK && moved < frames ? SQLITE_BUSY : code;
}

/*
 * Somebody removed, moved, cut or replaced a file that we have open. What lies in the log as we have it was
 * accepted: it goes into the store as we have it, wherever that is now. Under the lock, as every checkpoint;
 * not where another has begun a log of its own since, which is newer. STORE_BUSY: a reader was in the way for
 * that long, and the connection is the only one that has the log; it must be kept.
 */
static enum store_status rescue(struct store *store, struct store_file *file, int64_t wait_ms)
{
    struct stat log;
    if (!file->locked || !file->db || !file->wal || file->suspect)
        return STORE_OK;
    bool gone = !log_file_is_there(file);
    if (store_is_there(file) && !gone)
        return STORE_OK;
    bool another = gone && beside(file, "-wal", &log) && log.st_size > 0;
    wait_at_most(file, wait_ms);
    int code = another ? SQLITE_PERM : move_log(file, gone);
    wait_at_most(file, store->lock_wait_ms);
    if (gone && (code & 0xff) == SQLITE_BUSY)
        return store_say(store, STORE_BUSY,
                         "%s-wal was removed while it was in use, and somebody reads: it cannot be saved yet",
                         file->path);
    log_error("a file of the store was removed, cut or replaced while it was in use",
              LOG_S("path", file->path),
              LOG_S("log", code == SQLITE_OK ? "moved into the store that was open" : "could not be saved"));
    put_log_aside(file);
    return STORE_OK;
}

enum store_status store_file_orphaned_log(struct store *store, const struct store_file *file)
{
    struct stat there;
    bool gone = lstat(file->path, &there) != 0;
    if (gone ? errno != ENOENT : there.st_size > 0)
        return STORE_OK;
    if (!beside(file, "-wal", &there) || there.st_size == 0)
        return STORE_OK;
    return store_say(
        store, STORE_CORRUPT,
        "%s is %s, but its write-ahead log is there: %s-wal holds what was stored last; put back "
        "the file that it belongs to, or move it away",
        file->path, gone ? "gone" : "empty", file->path);
}

static enum store_status look_at_journal(struct store *store, struct store_file *file)
{
    sqlite3_stmt *statement = NULL;
    enum store_status status = STORE_OK;
    if (sqlite3_prepare_v2(file->db, "PRAGMA journal_mode", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        const char *mode = store_column_text(statement, 0);
        file->wal = mode && strcmp(mode, "wal") == 0;
    } else {
        status = store_fail(store, file, "opening");
    }
    sqlite3_finalize(statement);
    return status;
}

static enum store_status settle(struct store *store, struct store_file *file, bool writable, int64_t *version)
{
    sqlite3 *db = file->db;
    wait_at_most(file, store->lock_wait_ms);
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, (int *)NULL);
    /* This replaces SQLite's own hook too: no automatic checkpoint, ever. */
    sqlite3_wal_hook(db, remember_frames, file);
    if (sqlite3_exec(db,
                     "PRAGMA synchronous=FULL;PRAGMA secure_delete=ON;PRAGMA foreign_keys=OFF;"
                     "PRAGMA cell_size_check=ON;PRAGMA temp_store=MEMORY;PRAGMA mmap_size=0;"
                     "PRAGMA journal_size_limit=4194304",
                     NULL, NULL, NULL) != SQLITE_OK)
        return store_fail(store, file, "opening");
    enum store_status status = look_at_journal(store, file);
    if (status == STORE_OK)
        status = store_number(store, file, "PRAGMA user_version", version);
    int64_t page = 4096;
    if (status == STORE_OK)
        status = store_number(store, file, "PRAGMA page_size", &page);
    if (status != STORE_OK)
        return status;
    file->page_bytes = (int)page;
    /* The mode of a rollback journal belongs to the connection: cut it rather than remove it. */
    const char *last = !writable ? "PRAGMA query_only=ON" : file->wal ? NULL : "PRAGMA journal_mode=TRUNCATE";
    if (last && sqlite3_exec(db, last, NULL, NULL, NULL) != SQLITE_OK)
        return store_fail(store, file, "opening");
    return STORE_OK;
}

/* With its folder resolved, so that SQLite may refuse a link in place of the file and nothing else. */
static char *resolved_path(const struct store_file *file)
{
    char *folder = realpath(file->folder, NULL);
    if (!folder)
        return NULL;
    char *path = joined(folder, strlen(folder), strrchr(file->path, '/') + 1, "");
    free(folder);
    return path;
}

/*
 * A writer that was killed may leave a rollback journal, and what only reads cannot undo it: until the next
 * event nobody could look at the store. So it is undone here, where this user may write.
 */
static bool undo_leftover(const struct store *store, const char *path)
{
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_READWRITE;
    bool done =
        sqlite3_open_v2(path, &db, flags, NULL) == SQLITE_OK &&
        sqlite3_busy_timeout(db, (int)(store->lock_wait_ms < INT_MAX ? store->lock_wait_ms : INT_MAX)) ==
            SQLITE_OK &&
        sqlite3_exec(db, "PRAGMA synchronous=FULL;PRAGMA user_version", NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(db);
    return done;
}

/*
 * A backup's copy has no log yet, and says so in its header. SQLite would play a log that lies beside it into
 * it all the same: that of the file before, if only the file was put back.
 */
static enum store_status look_at_foreign_log(struct store *store, struct store_file *file)
{
    unsigned char header[20] = {0};
    sqlite3_file *raw = NULL;
    struct stat log;
    if (!beside(file, "-wal", &log) || log.st_size == 0)
        return STORE_OK;
    if (sqlite3_file_control(file->db, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&raw) != SQLITE_OK ||
        !raw || !raw->pMethods || raw->pMethods->xRead(raw, header, sizeof header, 0) != SQLITE_OK ||
        header[18] != 1)
        return STORE_OK; /* what else is wrong is seen as it is read */
    return store_say(store, STORE_CORRUPT,
                     "%s has no write-ahead log, but %s-wal is there: another file's; move it away",
                     file->path, file->path);
}

/* Neither access() nor statvfs() says so of a disk that an error made read-only. Not the file itself: closing
   it would give up the locks that this process has on it. */
static bool disk_is_read_only(const struct store_file *file)
{
    int fd = open(file->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EROFS;
    close(fd);
    return false;
}

static enum store_status open_file(struct store *store, struct store_file *file, const char *path,
                                   bool writable, int64_t *version)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOFOLLOW |
                (writable ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY);
    if (sqlite3_open_v2(path, &file->db, flags, writable ? store_log_vfs() : NULL) != SQLITE_OK)
        return file->db ? store_fail(store, file, "opening")
                        : store_say(store, STORE_ERROR, "%s: out of memory", file->path);
    if (writable && sqlite3_db_readonly(file->db, "main") == 1)
        /* Asked for more than the file's mode gives, SQLite opens it for reading. */
        return store_say(store, STORE_DENIED, "%s may only be read by this user%s", file->path,
                         disk_is_read_only(file) ? ": its file system is read-only" : "");
    enum store_status status = look_at_foreign_log(store, file);
    return status == STORE_OK ? settle(store, file, writable, version) : status;
}

static enum store_status look_at_file(struct store *store, const struct store_file *file, struct stat *seen)
{
    if (lstat(file->path, seen) != 0)
        return store_say_errno(store, file->path);
    return S_ISREG(seen->st_mode) ? STORE_OK
                                  : store_say(store, STORE_CORRUPT, "%s is not a regular file", file->path);
}

static enum store_status open_seen(struct store *store, struct store_file *file, bool writable,
                                   int64_t *version, struct stat *seen)
{
    enum store_status status = store_file_orphaned_log(store, file);
    if (status == STORE_OK)
        status = look_at_file(store, file, seen);
    if (status != STORE_OK)
        return status;
    char *path = resolved_path(file);
    if (!path)
        return store_say_errno(store, file->folder);
    status = open_file(store, file, path, writable, version);
    if (status != STORE_OK && file->db && sqlite3_extended_errcode(file->db) == SQLITE_READONLY_ROLLBACK) {
        store_file_disconnect(file);
        if (undo_leftover(store, path))
            status = open_file(store, file, path, writable, version);
    }
    free(path);
    return status;
}

enum store_status store_file_connect_any(struct store *store, struct store_file *file, bool writable,
                                         int64_t *version)
{
    struct stat before, after;
    enum store_status status = STORE_BUSY;
    bool same = false;
    for (int tries = 0; tries < 3 && !same; tries++) {
        store_file_disconnect(file);
        status = open_seen(store, file, writable, version, &before);
        if (status != STORE_OK)
            break;
        /* Replaced in between, what is open may be neither. */
        same = look_at_file(store, file, &after) == STORE_OK && same_inode(&before, &after);
    }
    if (status == STORE_OK && !same)
        status = store_say(store, STORE_BUSY, "%s is being replaced", file->path);
    if (status != STORE_OK) {
        store_file_disconnect(file);
        return status;
    }
    file->seen = before;
    note_log(file);
    file->wal_frames = 0;
    file->wal_tried = 0;
    return STORE_OK;
}

static enum store_status judge_version(struct store *store, const struct store_file *file, int64_t version)
{
    const char *label = store_file_label(file->area);
    if (version == 0 && file->seen.st_size == 0)
        return store_say(store, STORE_MISSING,
                         "%s is empty: not migrated yet, or cut off; put back a backup, or run examhook "
                         "migrate for a new one",
                         label);
    if (version < STORE_SCHEMA)
        return store_say(store, STORE_OLD, "%s has schema %lld, this program wants %d: run examhook migrate",
                         label, (long long)version, STORE_SCHEMA);
    if (version > STORE_SCHEMA + 1)
        return store_say(store, STORE_NEW,
                         "%s has schema %lld, made by a newer examhook; this one bears up to %d", label,
                         (long long)version, STORE_SCHEMA + 1);
    return STORE_OK;
}

enum store_status store_file_connect(struct store *store, struct store_file *file, bool writable)
{
    int64_t version = 0;
    enum store_status status = store_file_connect_any(store, file, writable, &version);
    if (status == STORE_OK)
        status = judge_version(store, file, version);
    if (status != STORE_OK)
        store_file_disconnect(file);
    return status;
}

static bool is_being_read(const struct store_file *file)
{
    for (size_t i = 0; i < STORE_STATEMENTS; i++)
        if (file->statements[i] && sqlite3_stmt_busy(file->statements[i]))
            return true;
    return false;
}

static void leave_room_for_a_checkpoint(const struct store_file *file)
{
    struct buf path = BUF_INIT;
    struct stat log;
    if (!file->wal || file->writable)
        return;
    buf_addf(&path, "%s-wal", file->path);
    if (stat(buf_str(&path), &log) == 0 && log.st_size > WAL_BYTES_READERS_REST)
        nap(READERS_REST_US);
    buf_release(&path);
}

enum store_status store_file_ready(struct store *store, struct store_file *file)
{
    if (!file->path)
        return store_say(store, STORE_ERROR, "%s was not opened", store_file_label(file->area));
    if (store->round == file)
        return STORE_OK;
    leave_room_for_a_checkpoint(file);
    if (file->db && !file->suspect && files_are_there(file))
        return STORE_OK;
    /* Not under the feet of a listing whose listener asks for more. */
    if (file->db && is_being_read(file))
        return STORE_OK;
    /* Who looks between two rounds holds no lock, and would close the connection with the log in it. */
    bool lock = file->db && file->wal && file->writable && !file->locked;
    enum store_status status = lock ? store_file_lock(store, file) : STORE_OK;
    if (status != STORE_OK)
        return status;
    status = rescue(store, file, 0);
    if (status == STORE_OK)
        status = store_file_connect(store, file, file->writable);
    if (lock)
        store_file_unlock(file);
    return status;
}

/* --- Statements --------------------------------------------------------------------------------------------
 */

sqlite3_stmt *store_statement(struct store *store, struct store_file *file, int slot, const char *sql,
                              enum store_status *status)
{
    if (store->round == file && store->round_failed != STORE_OK) {
        *status = store->round_failed;
        return NULL;
    }
    if (!file->db) {
        *status = store_fail(store, file, "preparing");
        return NULL;
    }
    sqlite3_stmt **kept = &file->statements[slot];
    if (*kept) {
        sqlite3_reset(*kept);
        sqlite3_clear_bindings(*kept);
        return *kept;
    }
    if (sqlite3_prepare_v3(file->db, sql, -1, SQLITE_PREPARE_PERSISTENT, kept, NULL) == SQLITE_OK)
        return *kept;
    *status = store_fail(store, file, "preparing");
    return NULL;
}

enum store_status store_run(struct store *store, struct store_file *file, sqlite3_stmt *statement,
                            const char *doing)
{
    int code = sqlite3_step(statement);
    enum store_status status =
        code == SQLITE_DONE || code == SQLITE_ROW ? STORE_OK : store_fail(store, file, doing);
    sqlite3_reset(statement);
    return status;
}

void store_bind_text(sqlite3_stmt *statement, int index, const char *text)
{
    if (text)
        sqlite3_bind_text(statement, index, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(statement, index);
}

const char *store_column_text(sqlite3_stmt *statement, int column)
{
    return (const char *)sqlite3_column_text(statement, column);
}

bool store_id_read(const char *id, char letter, int64_t *number)
{
    if (id[0] != letter || id[1] < '0' || id[1] > '9')
        return false;
    char *end;
    errno = 0;
    long long value = strtoll(id + 1, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *number = value;
    return true;
}

/* --- Opening -----------------------------------------------------------------------------------------------
 */

static enum store_status open_area(struct store *store, const char *url, enum store_area area, bool writable,
                                   bool brief)
{
    struct store_file *file = store_file_of(store, area);
    if (!store_file_name(url, area, file))
        return store_say(store, STORE_ERROR, "\"%s\" is not sqlite:FOLDER", url);
    file->writable = writable;
    if (area == STORE_ROSTER)
        return brief ? STORE_OK : store_roster_reopen(store);
    enum store_status status = store_file_connect(store, file, writable);
    return status == STORE_OK && writable ? open_lock(store, file) : status;
}

/* SQLite prepares memory for many pages and statements with each connection, and for threads: dozens of page
   faults and thousands of locks, where a process answers one request. Too late, and harmless, once it is in
   use. */
static void set_nothing_aside(void)
{
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0);
    sqlite3_config(SQLITE_CONFIG_PAGECACHE, NULL, 0, 0);
}

enum store_status store_open(const char *url, unsigned write_areas, unsigned read_areas, int64_t lock_wait_ms,
                             struct store **out, struct buf *why)
{
    struct store *store = xcalloc(1, sizeof *store);
    /* Mostly one thread has the store: no locks round each allocation, and nobody asks how many there were.
       Refused, and of no account, once SQLite is in use. */
    sqlite3_config(read_areas & STORE_THREADS ? SQLITE_CONFIG_MULTITHREAD : SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    store->url = xstrdup(url);
    store->lock_wait_ms = lock_wait_ms;
    enum store_status status = STORE_OK;
    bool brief = (read_areas & STORE_BRIEF) != 0;
    if (brief)
        set_nothing_aside();
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct store_file *file = store_file_of(store, places[i].area);
        file->area = places[i].area;
        file->lock_fd = -1;
    }
    for (size_t i = 0; i < sizeof places / sizeof places[0] && status == STORE_OK; i++) {
        unsigned bit = (unsigned)places[i].area;
        if ((write_areas | read_areas) & bit)
            status = open_area(store, url, places[i].area, (write_areas & bit) != 0, brief);
    }
    if (status == STORE_OK) {
        *out = store;
        return STORE_OK;
    }
    if (why)
        buf_adds(why, store_message(store));
    store_free(store);
    return status;
}

const char *store_message(const struct store *store)
{
    return buf_str(&store->message);
}

/* --- Rounds ------------------------------------------------------------------------------------------------
 */

static enum store_status round_run(struct store *store, struct store_file *file, int slot, const char *sql,
                                   const char *doing)
{
    enum store_status status = STORE_OK;
    sqlite3_stmt *statement = store_statement(store, file, slot, sql, &status);
    return statement ? store_run(store, file, statement, doing) : status;
}

enum store_status store_round_begin(struct store *store, enum store_area area)
{
    struct store_file *file = store_file_of(store, area);
    if (store->round || area == STORE_ROSTER || !file || !file->path || !file->writable)
        return store_say(store, STORE_ERROR, "no round can begin in %s", store_file_label(area));
    enum store_status status = store_file_lock(store, file);
    if (status != STORE_OK)
        return status;
    status = store_file_ready(store, file);
    if (status == STORE_OK)
        status = round_run(store, file, STATEMENT_BEGIN, "BEGIN IMMEDIATE", "beginning a round");
    if (status == STORE_OK && file->wal)
        store_log_gather(file, true);
    if (status != STORE_OK) {
        store_file_unlock(file);
        return status;
    }
    store->round = file;
    store->round_failed = STORE_OK;
    store->erased_fresh = false;
    return STORE_OK;
}

enum store_status store_in_round(struct store *store, const struct store_file *file)
{
    if (store->round == file)
        return STORE_OK;
    return store_say(store, STORE_ERROR, "no round runs in %s", store_file_label(file->area));
}

enum store_status store_step_begin(struct store *store)
{
    if (!store->round)
        return store_say(store, STORE_ERROR, "a step outside a round");
    return round_run(store, store->round, STATEMENT_STEP, "SAVEPOINT step", "beginning a step");
}

enum store_status store_step_begin_event(struct store *store)
{
    if (!store->round)
        return store_say(store, STORE_ERROR, "a step outside a round");
    store->step_event = true;
    store->step_wrote = false;
    return store->round_failed;
}

enum store_status store_step_savepoint(struct store *store)
{
    if (!store->step_event)
        return STORE_OK;
    enum store_status status = store_step_begin(store);
    if (status == STORE_OK)
        store->step_event = false;
    return status;
}

/* One statement was all that was written; where it failed, either SQLite undid it or the round is given up.
 */
static enum store_status end_step_of_event(struct store *store, bool keep)
{
    store->step_event = false;
    if (!keep && store->step_wrote && store->round_failed == STORE_OK)
        store->round_failed = store_say(store, STORE_ERROR, "an event that is there cannot be undone alone");
    return store->round_failed;
}

enum store_status store_step_end(struct store *store, bool keep)
{
    if (!store->round)
        return store_say(store, STORE_ERROR, "a step outside a round");
    if (store->step_event)
        return end_step_of_event(store, keep);
    enum store_status status = STORE_OK;
    if (!keep)
        status = round_run(store, store->round, STATEMENT_STEP_UNDO, "ROLLBACK TO step", "undoing a step");
    if (status == STORE_OK)
        status = round_run(store, store->round, STATEMENT_STEP_KEEP, "RELEASE step", "ending a step");
    /* What cannot be undone must not be committed with the rest. */
    if (status != STORE_OK && store->round_failed == STORE_OK)
        store->round_failed = status;
    return status;
}

enum store_status store_data_version(struct store *store, struct store_file *file, int64_t *version)
{
    enum store_status status = store_in_round(store, file);
    if (status != STORE_OK)
        return status;
    sqlite3_stmt *statement =
        store_statement(store, file, STATEMENT_DATA_VERSION, "PRAGMA data_version", &status);
    if (!statement)
        return status;
    if (sqlite3_step(statement) == SQLITE_ROW)
        *version = sqlite3_column_int64(statement, 0);
    else
        status = store_fail(store, file, "reading");
    sqlite3_reset(statement);
    return status;
}

/* The log goes into the file as far as no reader is in the way; under our lock, so that nobody writes
   meanwhile (SQLite before 3.51.3 can damage the file when one checkpoints while another writes). What fails
   here loses nothing: the next one tries again. */
static void checkpoint(struct store *store, struct store_file *file, int64_t bytes_max, int mode)
{
    int64_t bytes = (int64_t)file->wal_frames * file->page_bytes;
    int64_t tried = (int64_t)file->wal_tried * file->page_bytes;
    if (!file->db || !file->wal || bytes <= bytes_max)
        return;
    if (file->wal_tried && bytes >= tried && bytes < tried + WAL_RETRY_BYTES)
        return;
    wait_at_most(file, 0);
    int code = sqlite3_wal_checkpoint_v2(file->db, "main", mode, NULL, NULL);
    wait_at_most(file, store->lock_wait_ms);
    file->wal_tried = code == SQLITE_OK ? 0 : file->wal_frames;
}

/* The next program to open the file alone reads the whole log first: where each request starts one (plain
   CGI), a long log would cost each of them some milliseconds. */
static void leave_a_short_log(struct store *store, struct store_file *file)
{
    if (!file->db || !file->writable || file->lock_fd < 0)
        return;
    if (!files_are_there(file)) {
        if (store_file_lock(store, file) == STORE_OK) {
            /* The connection ends, so this is the last try. */
            if (rescue(store, file, store->lock_wait_ms) != STORE_OK)
                log_error("a log that was removed while it was in use could not be saved",
                          LOG_S("path", file->path), LOG_S("why", store_message(store)));
            store_file_unlock(file);
        }
        return;
    }
    if ((int64_t)file->wal_frames * file->page_bytes <= WAL_BYTES_LEFT)
        return;
    if (flock(file->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return;
    if (lock_is_there(file))
        checkpoint(store, file, WAL_BYTES_LEFT, SQLITE_CHECKPOINT_TRUNCATE);
    store_file_unlock(file);
}

enum store_status store_log_cut_locked(struct store *store, struct store_file *file)
{
    enum store_status status = store_file_ready(store, file);
    if (status != STORE_OK || !file->wal)
        return status;
    wait_at_most(file, 0);
    int code = sqlite3_wal_checkpoint_v2(file->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    wait_at_most(file, store->lock_wait_ms);
    if (code != SQLITE_OK)
        return store_fail(store, file, "cutting the log");
    file->wal_frames = 0;
    file->wal_tried = 0;
    return STORE_OK;
}

enum store_status store_log_cut(struct store *store, struct store_file *file)
{
    enum store_status status = store_file_lock(store, file);
    if (status != STORE_OK)
        return status;
    status = store_log_cut_locked(store, file);
    store_file_unlock(file);
    return status;
}

static void end_round(struct store *store)
{
    struct store_file *file = store->round;
    store->round = NULL;
    store->round_failed = STORE_OK;
    store->step_event = false;
    /* A listing left unfinished would hold an old picture of the file. */
    for (size_t i = 0; i < STORE_STATEMENTS && file->db; i++)
        if (file->statements[i] && sqlite3_stmt_busy(file->statements[i]))
            sqlite3_reset(file->statements[i]);
    if (file->db && !sqlite3_get_autocommit(file->db) &&
        sqlite3_exec(file->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
        store_file_disconnect(file);
    if (file->suspect)
        store_file_disconnect(file);
    if (file->db && file->wal)
        store_log_gather(file, false);
}

enum store_status store_round_commit(struct store *store)
{
    struct store_file *file = store->round;
    if (!file)
        return store_say(store, STORE_ERROR, "no round to commit");
    enum store_status status = store->round_failed;
    if (status == STORE_OK && sqlite3_get_autocommit(file->db))
        status = store_say(store, STORE_ERROR, "the round in %s was given up", store_file_label(file->area));
    if (status == STORE_OK)
        status = round_run(store, file, STATEMENT_COMMIT, "COMMIT", "committing");
    end_round(store);
    if (status == STORE_OK)
        checkpoint(store, file, store->log_bytes_max ? store->log_bytes_max : WAL_BYTES_MAX,
                   SQLITE_CHECKPOINT_RESTART);
    store_file_unlock(file);
    return status;
}

void store_round_abandon(struct store *store)
{
    struct store_file *file = store->round;
    if (!file)
        return;
    end_round(store);
    store_file_unlock(file);
}

void store_leave(struct store *store)
{
    if (!store)
        return;
    store_round_abandon(store);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        leave_a_short_log(store, store_file_of(store, places[i].area));
}

void store_free(struct store *store)
{
    if (!store)
        return;
    store_leave(store);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        store_file_release(store_file_of(store, places[i].area));
    buf_release(&store->message);
    free(store->url);
    free(store);
}

/* --- The key of the unknown --------------------------------------------------------------------------------
 */

enum store_status store_identity_key(struct store *store, unsigned char key[STORE_KEY_BYTES])
{
    struct store_file *file = &store->examjoint;
    if (!file->path)
        return store_say(store, STORE_ERROR, "the examjoint area was not opened");
    char *path = joined(file->folder, strlen(file->folder), "identity.key", "");
    unsigned char bytes[STORE_KEY_BYTES + 1];
    enum store_status status = STORE_OK;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
    if (got < 0)
        status = store_say_errno(store, path);
    else if (got != STORE_KEY_BYTES)
        status = store_say(store, STORE_CORRUPT, "%s does not hold %d bytes", path, STORE_KEY_BYTES);
    else
        memcpy(key, bytes, STORE_KEY_BYTES);
    explicit_bzero(bytes, sizeof bytes);
    if (fd >= 0)
        close(fd);
    free(path);
    return status;
}
