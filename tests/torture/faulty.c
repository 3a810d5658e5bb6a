/*
 * Put in front of the C library (LD_PRELOAD), this makes one system call of the storage path go wrong; see
 * faulty.py, which compiles it and says by a small file that both map which call, and how. It goes past the C
 * library to the kernel, so it needs no start of its own before the first call.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The numbers are known to faulty.py too. */
enum call {
    CALL_OPEN = 1,
    CALL_READ,
    CALL_WRITE,
    CALL_SYNC,
    CALL_TRUNCATE,
    CALL_ALLOCATE,
    CALL_RENAME,
    CALL_LINK,
    CALL_UNLINK,
    CALL_LOCK,
    CALL_FLOCK,
    CALL_MAP,
    CALL_CLOSE,
    CALL_STAT,
    CALL_MKDIR,
    CALL_MODE,
    CALL_UNLOCK,
    CALL_SAY,
    CALL_LOOK /* an open that only reads */
};
enum fault {
    FAULT_NONE,
    FAULT_ERROR,      /* nothing is done, and errno is `error` */
    FAULT_LATE_ERROR, /* it is done, and yet errno is `error` */
    FAULT_SHORT,      /* only a half is written or read, as the smaller count says */
    FAULT_NOTHING,    /* nothing is written, and the count is 0 */
    FAULT_TORN,       /* a half is written, then SIGKILL */
    FAULT_KILL        /* it is done, then SIGKILL */
};

#define SEEN_MAX 60000

struct control {
    _Atomic int64_t count;        /* calls of the storage path since it was set to 0 */
    int64_t first, length;        /* those that go wrong, by their count; first 0: none */
    int64_t calls;                /* a bit for each call that may go wrong */
    int64_t fault, error;         /* how */
    _Atomic int64_t fired;        /* how many went wrong */
    int64_t say;                  /* writes to a pipe or a socket count as well */
    unsigned char seen[SEEN_MAX]; /* which call each was */
};

static struct control *control;
static char below[512];
static size_t below_len;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTY_CONTROL"), *folder = getenv("FAULTY_BELOW");
    if (!path || !folder)
        return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    void *mapped =
        (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    below_len = (size_t)snprintf(below, sizeof below, "%s/", folder);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool path_counts(const char *path)
{
    return control && path && strncmp(path, below, below_len) == 0;
}

static bool link_of(int fd, char *target, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlink, link, target, size - 1);
    if (n < 0)
        return false;
    target[n] = '\0';
    return true;
}

static bool fd_counts(int fd)
{
    char target[512];
    int kept = errno;
    bool counts = control && link_of(fd, target, sizeof target) && path_counts(target);
    errno = kept;
    return counts;
}

static bool saying_counts(int fd)
{
    char target[512];
    int kept = errno;
    bool counts = control && control->say && link_of(fd, target, sizeof target) &&
                  (starts_with(target, "pipe:") || starts_with(target, "socket:"));
    errno = kept;
    return counts;
}

/* A name below a descriptor of a folder. */
static bool at_counts(int fd, const char *path)
{
    if (fd == AT_FDCWD || (path && path[0] == '/'))
        return path_counts(path);
    char target[512];
    return control && link_of(fd, target, sizeof target - 1) && path_counts(strcat(target, "/"));
}

static enum fault now(bool counts, enum call call)
{
    if (!counts)
        return FAULT_NONE;
    int64_t n = atomic_fetch_add(&control->count, 1) + 1;
    if (n < SEEN_MAX)
        control->seen[n] = (unsigned char)call;
    if (control->first == 0 || n < control->first || n - control->first >= control->length ||
        !(control->calls >> call & 1))
        return FAULT_NONE;
    atomic_fetch_add(&control->fired, 1);
    return (enum fault)control->fault;
}

static void die(void)
{
    syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

static long failed(long result)
{
    (void)result;
    errno = (int)control->error;
    return -1;
}

/* Of calls that do all or nothing; `one` is the call itself. */
#define ALL_OR_NOTHING(counts, call, one)          \
    do {                                           \
        enum fault fault_ = now((counts), (call)); \
        if (fault_ == FAULT_ERROR)                 \
            return (int)failed(-1);                \
        long result_ = (one);                      \
        if (fault_ == FAULT_LATE_ERROR)            \
            return (int)failed(result_);           \
        if (fault_ == FAULT_KILL)                  \
            die();                                 \
        return (int)result_;                       \
    } while (0)

static size_t less(enum fault fault, size_t count)
{
    return fault == FAULT_SHORT || fault == FAULT_TORN ? (count > 1 ? count / 2 : count) : count;
}

static ssize_t moved(enum fault fault, ssize_t result)
{
    if (fault == FAULT_TORN || fault == FAULT_KILL)
        die();
    return result;
}

#define EXPORT __attribute__((visibility("default")))
#define ALIAS(type, name, arguments, of) EXPORT type name arguments __attribute__((alias(#of)))

/* --- Reading and writing -------------------------------------------------------------------------------- */

EXPORT ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
    enum fault fault = now(fd_counts(fd), CALL_WRITE);
    if (fault == FAULT_ERROR)
        return failed(-1);
    if (fault == FAULT_NOTHING)
        return 0;
    return moved(fault, syscall(SYS_pwrite64, fd, data, less(fault, count), offset));
}

EXPORT ssize_t write(int fd, const void *data, size_t count)
{
    bool file = fd_counts(fd);
    enum fault fault = now(file || saying_counts(fd), file ? CALL_WRITE : CALL_SAY);
    if (fault == FAULT_ERROR)
        return failed(-1);
    if (fault == FAULT_NOTHING)
        return 0;
    return moved(fault, syscall(SYS_write, fd, data, less(fault, count)));
}

EXPORT ssize_t pread(int fd, void *data, size_t count, off_t offset)
{
    enum fault fault = now(fd_counts(fd), CALL_READ);
    if (fault == FAULT_ERROR)
        return failed(-1);
    return moved(fault, syscall(SYS_pread64, fd, data, less(fault, count), offset));
}

EXPORT ssize_t read(int fd, void *data, size_t count)
{
    enum fault fault = now(fd_counts(fd), CALL_READ);
    if (fault == FAULT_ERROR)
        return failed(-1);
    return moved(fault, syscall(SYS_read, fd, data, less(fault, count)));
}

EXPORT ssize_t __pread64_chk(int fd, void *data, size_t count, off_t offset, size_t room);
EXPORT ssize_t __pread64_chk(int fd, void *data, size_t count, off_t offset, size_t room)
{
    return count > room ? (abort(), -1) : pread(fd, data, count, offset);
}

EXPORT ssize_t __read_chk(int fd, void *data, size_t count, size_t room);
EXPORT ssize_t __read_chk(int fd, void *data, size_t count, size_t room)
{
    return count > room ? (abort(), -1) : read(fd, data, count);
}

ALIAS(ssize_t, pwrite64, (int, const void *, size_t, off_t), pwrite);
ALIAS(ssize_t, pread64, (int, void *, size_t, off_t), pread);

/* --- Making it last --------------------------------------------------------------------------------------
 */

EXPORT int fsync(int fd)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_SYNC, syscall(SYS_fsync, fd));
}

EXPORT int fdatasync(int fd)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_SYNC, syscall(SYS_fdatasync, fd));
}

EXPORT int ftruncate(int fd, off_t size)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_TRUNCATE, syscall(SYS_ftruncate, fd, size));
}
ALIAS(int, ftruncate64, (int, off_t), ftruncate);

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_ALLOCATE, syscall(SYS_fallocate, fd, mode, offset, length));
}
ALIAS(int, fallocate64, (int, int, off_t, off_t), fallocate);

/* Says what went wrong, and leaves errno alone. */
EXPORT int posix_fallocate(int fd, off_t offset, off_t length)
{
    int kept = errno, result = fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
    errno = kept;
    return result;
}
ALIAS(int, posix_fallocate64, (int, off_t, off_t), posix_fallocate);

/* --- Names -----------------------------------------------------------------------------------------------
 */

static enum call opening(int flags)
{
    return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | __O_TMPFILE) ? CALL_OPEN : CALL_LOOK;
}

EXPORT int openat(int folder, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    ALL_OR_NOTHING(at_counts(folder, path), opening(flags), syscall(SYS_openat, folder, path, flags, mode));
}

EXPORT int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return openat(AT_FDCWD, path, flags, mode);
}

EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return openat(AT_FDCWD, path, flags);
}

EXPORT int __openat_2(int folder, const char *path, int flags);
EXPORT int __openat_2(int folder, const char *path, int flags)
{
    return openat(folder, path, flags);
}
ALIAS(int, openat64, (int, const char *, int, ...), openat);
ALIAS(int, open64, (const char *, int, ...), open);
EXPORT int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));
EXPORT int __openat64_2(int folder, const char *path, int flags) __attribute__((alias("__openat_2")));

EXPORT int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    ALL_OR_NOTHING(at_counts(to_folder, to), CALL_RENAME,
                   syscall(SYS_renameat, from_folder, from, to_folder, to));
}

EXPORT int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

EXPORT int link(const char *from, const char *to)
{
    ALL_OR_NOTHING(path_counts(to), CALL_LINK, syscall(SYS_link, from, to));
}

EXPORT int unlinkat(int folder, const char *path, int flags)
{
    ALL_OR_NOTHING(at_counts(folder, path), CALL_UNLINK, syscall(SYS_unlinkat, folder, path, flags));
}

EXPORT int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

EXPORT int mkdir(const char *path, mode_t mode)
{
    ALL_OR_NOTHING(path_counts(path), CALL_MKDIR, syscall(SYS_mkdir, path, mode));
}

EXPORT int close(int fd)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_CLOSE, syscall(SYS_close, fd));
}

/* --- What a file is --------------------------------------------------------------------------------------
 */

EXPORT int stat(const char *path, struct stat *out)
{
    ALL_OR_NOTHING(path_counts(path), CALL_STAT, syscall(SYS_newfstatat, AT_FDCWD, path, out, 0));
}

EXPORT int lstat(const char *path, struct stat *out)
{
    ALL_OR_NOTHING(path_counts(path), CALL_STAT,
                   syscall(SYS_newfstatat, AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW));
}

EXPORT int fstat(int fd, struct stat *out)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_STAT, syscall(SYS_fstat, fd, out));
}
EXPORT int stat64(const char *path, struct stat64 *out) __attribute__((alias("stat")));
EXPORT int lstat64(const char *path, struct stat64 *out) __attribute__((alias("lstat")));
EXPORT int fstat64(int fd, struct stat64 *out) __attribute__((alias("fstat")));

EXPORT int fchmod(int fd, mode_t mode)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_MODE, syscall(SYS_fchmod, fd, mode));
}

EXPORT int chmod(const char *path, mode_t mode)
{
    ALL_OR_NOTHING(path_counts(path), CALL_MODE, syscall(SYS_chmod, path, mode));
}

EXPORT int fchown(int fd, uid_t owner, gid_t group)
{
    ALL_OR_NOTHING(fd_counts(fd), CALL_MODE, syscall(SYS_fchown, fd, owner, group));
}

/* --- Locks and maps --------------------------------------------------------------------------------------
 */

EXPORT int fcntl(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    void *more = va_arg(args, void *);
    va_end(args);
    bool lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK ||
                command == F_OFD_SETLKW || command == F_OFD_GETLK;
    bool unlock = lock && ((const struct flock *)more)->l_type == F_UNLCK;
    ALL_OR_NOTHING(lock && fd_counts(fd), unlock ? CALL_UNLOCK : CALL_LOCK,
                   syscall(SYS_fcntl, fd, command, more));
}
ALIAS(int, fcntl64, (int, int, ...), fcntl);

EXPORT int flock(int fd, int operation)
{
    ALL_OR_NOTHING(fd_counts(fd), operation & LOCK_UN ? CALL_UNLOCK : CALL_FLOCK,
                   syscall(SYS_flock, fd, operation));
}

EXPORT void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    enum fault fault = now(fd >= 0 && fd_counts(fd), CALL_MAP);
    if (fault == FAULT_ERROR) {
        failed(-1);
        return MAP_FAILED;
    }
    void *result = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    if (fault == FAULT_KILL)
        die();
    return result;
}
ALIAS(void *, mmap64, (void *, size_t, int, int, int, off_t), mmap);
