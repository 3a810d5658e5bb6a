/* For parts/slow_disk.py, put in front of the C library (LD_PRELOAD): a disk on which each fdatasync and
 * fsync takes 5 ms longer. It goes past the C library to the kernel. */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LATER_NS 5000000

static int later(long number, int fd)
{
    struct timespec wait = {.tv_sec = 0, .tv_nsec = LATER_NS};
    nanosleep(&wait, NULL);
    return (int)syscall(number, fd);
}

int fdatasync(int fd)
{
    return later(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return later(SYS_fsync, fd);
}
