#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct buf caught;

ssize_t __real_write(int fd, const void *bytes, size_t len);
ssize_t __wrap_write(int fd, const void *bytes, size_t len);

/* Every write(2) of the code under test, by the linker's --wrap; the fuzzer's own output goes another way. */
ssize_t __wrap_write(int fd, const void *bytes, size_t len)
{
    if (fd != STDERR_FILENO)
        return __real_write(fd, bytes, len);
    buf_add(&caught, bytes, len);
    return (ssize_t)len;
}

const struct buf *fuzz_log(void)
{
    return &caught;
}

void fuzz_log_clear(void)
{
    buf_clear(&caught);
}

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

int fuzz_file(const void *bytes, size_t len)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    MUST(fd >= 0);
    MUST(fchmod(fd, 0600) == 0);
    MUST(len == 0 || __real_write(fd, bytes, len) == (ssize_t)len);
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

char *fuzz_line(struct fuzz_rest *rest)
{
    const char *end = rest->len > 0 ? memchr(rest->at, '\n', rest->len) : NULL;
    size_t len = end ? (size_t)(end - rest->at) : rest->len;
    char *line = xcalloc(1, len + 1);
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        if (rest->at[i] != '\0')
            line[kept++] = rest->at[i];
    }
    len += end ? 1 : 0;
    rest->at += len;
    rest->len -= len;
    return line;
}

bool fuzz_contains(const struct buf *bytes, const char *text)
{
    return bytes->len > 0 && memmem(bytes->data, bytes->len, text, strlen(text)) != NULL;
}

bool fuzz_is_word(const char *text)
{
    return text[0] != '\0' && text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}
