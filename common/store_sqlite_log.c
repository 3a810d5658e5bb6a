/*
 * How the write-ahead log is written. SQLite hands over each page of a commit in two calls, header and page;
 * here they are put together, and reach the file in one when it is to be synced: a third of what a commit
 * costs was those calls.
 *
 * It is a shim over SQLite's own VFS, for the log alone, and only within a round, whose commit is synced
 * (synchronous=FULL): what others may read of the log is what a commit has synced, so nobody looks for what
 * is still here. Whatever else is asked of the file comes after what was written before it. What a round that
 * was given up has left here is forgotten before its lock is: it belongs where the next writer writes.
 */
#include "store_sqlite.h"

#include <stdlib.h>
#include <string.h>

#define LOG_VFS "examhook"
/* 30 pages of 4 KiB with their headers; more are written in several calls. */
#define GATHER_BYTES 123600

struct log_file {
    sqlite3_file base;
    bool gathers;
    unsigned char *bytes; /* GATHER_BYTES, once something was gathered */
    int count;
    sqlite3_int64 at; /* where in the file they belong */
};

/* SQLite's own file lies behind ours, in the room that it asked for. */
static sqlite3_file *real_file(sqlite3_file *file)
{
    return (sqlite3_file *)((struct log_file *)file + 1);
}

static int write_real(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 at)
{
    return real_file(file)->pMethods->xWrite(real_file(file), bytes, count, at);
}

/* What cannot be written stays: SQLite was told that it is, so the commit has to try it again and to fail. */
static int write_gathered(sqlite3_file *file)
{
    struct log_file *log = (struct log_file *)file;
    int code = log->count > 0 ? write_real(file, log->bytes, log->count, log->at) : SQLITE_OK;
    if (code == SQLITE_OK)
        log->count = 0;
    return code;
}

static int log_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 at)
{
    struct log_file *log = (struct log_file *)file;
    bool follows = log->count > 0 && at == log->at + log->count && count <= GATHER_BYTES - log->count;
    int code = follows ? SQLITE_OK : write_gathered(file);
    if (code != SQLITE_OK)
        return code;
    if (log->gathers && !log->bytes)
        log->bytes = malloc(GATHER_BYTES);
    if (!log->gathers || !log->bytes || count > GATHER_BYTES)
        return write_real(file, bytes, count, at);
    if (log->count == 0)
        log->at = at;
    memcpy(log->bytes + log->count, bytes, (size_t)count);
    log->count += count;
    return SQLITE_OK;
}

/* What was never synced was never committed. */
static int log_close(sqlite3_file *file)
{
    struct log_file *log = (struct log_file *)file;
    log->count = 0;
    free(log->bytes);
    log->bytes = NULL;
    return real_file(file)->pMethods->xClose(real_file(file));
}

static int log_read(sqlite3_file *file, void *bytes, int count, sqlite3_int64 at)
{
    int code = write_gathered(file);
    return code != SQLITE_OK ? code : real_file(file)->pMethods->xRead(real_file(file), bytes, count, at);
}

static int log_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int code = write_gathered(file);
    return code != SQLITE_OK ? code : real_file(file)->pMethods->xTruncate(real_file(file), size);
}

static int log_sync(sqlite3_file *file, int flags)
{
    int code = write_gathered(file);
    return code != SQLITE_OK ? code : real_file(file)->pMethods->xSync(real_file(file), flags);
}

static int log_size(sqlite3_file *file, sqlite3_int64 *size)
{
    int code = write_gathered(file);
    return code != SQLITE_OK ? code : real_file(file)->pMethods->xFileSize(real_file(file), size);
}

static int log_lock(sqlite3_file *file, int level)
{
    return real_file(file)->pMethods->xLock(real_file(file), level);
}

static int log_unlock(sqlite3_file *file, int level)
{
    return real_file(file)->pMethods->xUnlock(real_file(file), level);
}

static int log_is_reserved(sqlite3_file *file, int *reserved)
{
    return real_file(file)->pMethods->xCheckReservedLock(real_file(file), reserved);
}

static int log_control(sqlite3_file *file, int what, void *argument)
{
    return real_file(file)->pMethods->xFileControl(real_file(file), what, argument);
}

static int log_sector(sqlite3_file *file)
{
    return real_file(file)->pMethods->xSectorSize(real_file(file));
}

static int log_traits(sqlite3_file *file)
{
    return real_file(file)->pMethods->xDeviceCharacteristics(real_file(file));
}

static const sqlite3_io_methods log_methods = {
    .iVersion = 1,
    .xClose = log_close,
    .xRead = log_read,
    .xWrite = log_write,
    .xTruncate = log_truncate,
    .xSync = log_sync,
    .xFileSize = log_size,
    .xLock = log_lock,
    .xUnlock = log_unlock,
    .xCheckReservedLock = log_is_reserved,
    .xFileControl = log_control,
    .xSectorSize = log_sector,
    .xDeviceCharacteristics = log_traits,
};

/* Any other file is SQLite's own. */
static int log_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *flags_out)
{
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    (void)vfs;
    if (!(flags & SQLITE_OPEN_WAL))
        return real->xOpen(real, name, file, flags, flags_out);
    memset(file, 0, sizeof(struct log_file));
    int code = real->xOpen(real, name, real_file(file), flags, flags_out);
    if (code == SQLITE_OK)
        file->pMethods = &log_methods;
    else if (real_file(file)->pMethods)
        real_file(file)->pMethods->xClose(real_file(file));
    return code;
}

const char *store_log_vfs(void)
{
    const sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    if (!real || sqlite3_vfs_find(LOG_VFS))
        return real ? LOG_VFS : NULL;
    /* SQLite keeps it to the end of the process. */
    sqlite3_vfs *vfs = xcalloc(1, sizeof *vfs);
    *vfs = *real;
    vfs->zName = LOG_VFS;
    vfs->szOsFile = (int)sizeof(struct log_file) + real->szOsFile;
    vfs->xOpen = log_open;
    return sqlite3_vfs_register(vfs, 0) == SQLITE_OK ? LOG_VFS : NULL;
}

void store_log_gather(const struct store_file *file, bool gather)
{
    sqlite3_file *there = NULL;
    if (sqlite3_file_control(file->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&there) != SQLITE_OK ||
        !there || there->pMethods != &log_methods)
        return;
    struct log_file *log = (struct log_file *)there;
    log->gathers = gather;
    log->count = 0;
}
