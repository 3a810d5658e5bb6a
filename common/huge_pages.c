/*
 * A yescrypt takes 16 MiB anew for each check, and about half of its time went into 4,096 page faults. In
 * pages of 2 MiB there are some 20. crypt(3) offers no way to ask for them, and Debian gives them only to who
 * asks
 * (/sys/kernel/mm/transparent_hugepage/enabled: madvise). So this program has an mmap() of its own, which
 * libraries call in place of the C library's: the same, and for what is large it asks. The C library's own
 * calls (malloc, stacks of threads) do not come here. Where there are no such pages, nothing is different.
 */
#include <sys/mman.h>

/* Sanitizers have an mmap() of their own; other C libraries may have no mmap64(). */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_ANOTHER_MMAP 1
#endif
#endif
#if defined(EXAMHOOK_SANITIZED) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    !defined(__GLIBC__) || !defined(MADV_HUGEPAGE)
#define HAS_ANOTHER_MMAP 1
#endif

#ifndef HAS_ANOTHER_MMAP

#define LARGE_BYTES ((size_t)4 * 1024 * 1024)

void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset)
{
    void *got = mmap64(address, len, protection, flags, fd, offset);
    if (got != MAP_FAILED && len >= LARGE_BYTES && (flags & MAP_ANONYMOUS) && (flags & MAP_PRIVATE))
        (void)madvise(got, len, MADV_HUGEPAGE);
    return got;
}

#endif
