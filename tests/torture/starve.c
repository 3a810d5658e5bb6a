/*
 * Preloaded: the n-th request for memory fails. EXAMHOOK_STARVE names a file of two int64_t, shared with
 * whoever tests: which one is to fail (0: none is counted), and how many there were since that was set.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

struct order {
    _Atomic int64_t fail_at, count;
};

static struct order *order;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("EXAMHOOK_STARVE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = (void *)syscall(SYS_mmap, NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        order = shared;
}

static int refused(void)
{
    if (!order || atomic_load(&order->fail_at) == 0)
        return 0;
    if (atomic_fetch_add(&order->count, 1) + 1 != atomic_load(&order->fail_at))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return refused() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return refused() ? NULL : __libc_realloc(old, size);
}

/* A password's hash takes its memory here. */
void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    if ((flags & MAP_ANONYMOUS) && refused())
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
}
