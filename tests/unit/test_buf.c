#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../common/buf.h"

static void starts_empty(void **state)
{
    struct buf b = BUF_INIT;
    (void)state;
    assert_string_equal(buf_str(&b), "");
    buf_clear(&b);
    buf_release(&b);
    buf_add(&b, NULL, 0);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    buf_release(&b);
    assert_null(b.data);
}

static void adds_and_ends_with_nul(void **state)
{
    struct buf b = BUF_INIT;
    size_t i;
    (void)state;
    for (i = 0; i < 10000; i++) {
        buf_addc(&b, (char)('a' + i % 26));
        assert_int_equal(b.len, i + 1);
        assert_int_equal(b.data[b.len], '\0');
    }
    for (i = 0; i < 10000; i++)
        assert_int_equal(b.data[i], 'a' + (int)(i % 26));
    buf_release(&b);
    buf_adds(&b, "one");
    buf_add(&b, "\0two", 4);
    buf_addf(&b, "-%d-%s", 3, "four");
    assert_int_equal(b.len, 14);
    assert_memory_equal(b.data, "one\0two-3-four", 15);
    buf_release(&b);
}

static void writes_numbers(void **state)
{
    static const int64_t numbers[] = {0, 7, -7, 10, 1719221380326, INT64_MAX, INT64_MIN};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct buf b = BUF_INIT, expected = BUF_INIT;
        buf_adds(&b, "n=");
        buf_add_number(&b, numbers[i]);
        buf_addf(&expected, "n=%" PRId64, numbers[i]);
        assert_string_equal(buf_str(&b), buf_str(&expected));
        buf_release(&b);
        buf_release(&expected);
    }
}

/* Around the borders of the room that is there. */
static void formats_what_fits_and_what_does_not(void **state)
{
    (void)state;
    for (int len = 1; len < 300; len++) {
        struct buf b = BUF_INIT;
        buf_addc(&b, '<');
        buf_addf(&b, "%0*d", len, 5);
        buf_addf(&b, "%s", "");
        buf_addc(&b, '>');
        assert_int_equal(b.len, len + 2);
        assert_int_equal(strspn(buf_str(&b) + 1, "0"), len - 1);
        assert_string_equal(buf_str(&b) + len, "5>");
        buf_release(&b);
    }
}

static void gives_room(void **state)
{
    struct buf b = BUF_INIT;
    char *at;
    (void)state;
    buf_adds(&b, "abc");
    at = buf_room(&b, 200);
    assert_ptr_equal(at, b.data + 3);
    memset(at, 'x', 200);
    b.len += 5;
    assert_string_equal(buf_str(&b), "abcxxxxx");
    at = buf_room(&b, 100);
    memset(at, 'y', 100);
    b.len += 100;
    assert_int_equal(b.data[b.len], '\0');
    buf_release(&b);
}

/* The memory stays the buffer's own, so what a clear leaves in it can be looked at. */
static void clear_overwrites(void **state)
{
    static const char secret[] = "correct horse battery staple";
    struct buf b = BUF_INIT;
    char *memory;
    (void)state;
    buf_adds(&b, secret);
    memory = b.data;
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_ptr_equal(b.data, memory);
    assert_null(memmem(b.data, b.cap, "horse", 5));
    assert_string_equal(buf_str(&b), "");
    buf_adds(&b, "next");
    assert_string_equal(b.data, "next");
    buf_release(&b);
    assert_int_equal(b.cap, 0);
}

static void allocates(void **state)
{
    unsigned char *zeroes = xcalloc(4, 8);
    char *text;
    size_t i;
    (void)state;
    for (i = 0; i < 32; i++)
        assert_int_equal(zeroes[i], 0);
    zeroes = xrealloc(zeroes, 64);
    free(zeroes);
    free(xcalloc(0, 0));
    assert_null(xstrdup(NULL));
    assert_null(xstrndup(NULL, 3));
    text = xstrdup("abc");
    assert_string_equal(text, "abc");
    wipe_free(text);
    text = xstrndup("abcdef", 3);
    assert_string_equal(text, "abc");
    free(text);
    text = xstrndup("ab", 99);
    assert_string_equal(text, "ab");
    free(text);
    wipe_free(NULL);
}

static void trims(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", ""},     {" ", ""},          {" \t\r\n\v\f", ""},    {"a", "a"},
        {"  a", "a"}, {"a \n", "a"},      {"\t a b \r\n", "a b"}, {"\xc2\xa0z", "\xc2\xa0z"},
        {"ä", "ä"},   {" \x01 ", "\x01"}, {"a\tb", "a\tb"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t len = strlen(cases[i].text);
        const char *at = trimmed(cases[i].text, &len);
        assert_int_equal(len, strlen(cases[i].expected));
        assert_memory_equal(at, cases[i].expected, len);
    }
}

static void lowers_ascii_only(void **state)
{
    char text[] = "@AZ[`az{ \xc3\x84\x00Q";
    (void)state;
    ascii_lower(text, sizeof text - 1);
    assert_memory_equal(text, "@az[`az{ \xc3\x84\x00q", sizeof text);
    ascii_lower(NULL, 0);
}

static void ask_too_much(void)
{
    struct buf b = BUF_INIT;
    buf_adds(&b, "x");
    buf_room(&b, SIZE_MAX - 1);
}

static void ask_in_vain(void)
{
    xrealloc(NULL, (size_t)1 << 62);
}

/* Out of memory ends the program with its words and status 70. */
static void ends_with_70(void (*ask)(void))
{
    int pipes[2], status;
    char text[64] = "";
    pid_t child;
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(pipes[1], STDERR_FILENO);
        ask();
        _exit(0);
    }
    close(pipes[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 70);
    assert_true(read(pipes[0], text, sizeof text - 1) > 0);
    assert_string_equal(text, "out of memory\n");
    close(pipes[0]);
}

static void no_memory_ends_the_program(void **state)
{
    (void)state;
    ends_with_70(ask_too_much);
#if !defined(__SANITIZE_ADDRESS__) /* its allocator answers a limit in its own way */
    ends_with_70(ask_in_vain);
#else
    (void)ask_in_vain;
#endif
}

static void reads_to_the_end_or_the_bound(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    char text[10000];
    int pipes[2];
    memset(text, 'x', sizeof text);
    for (size_t most = sizeof text - 1; most <= sizeof text; most++) {
        assert_int_equal(pipe(pipes), 0);
        assert_int_equal(write(pipes[1], text, sizeof text), sizeof text);
        close(pipes[1]);
        buf_adds(&b, "before ");
        errno = 0;
        assert_int_equal(buf_read(&b, pipes[0], most), most == sizeof text);
        assert_int_equal(errno, most == sizeof text ? 0 : EFBIG);
        close(pipes[0]);
        if (most == sizeof text)
            assert_int_equal(b.len, 7 + sizeof text);
        buf_clear(&b);
    }
    assert_false(buf_read(&b, -1, 10));
    assert_int_equal(errno, EBADF);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_empty),
        cmocka_unit_test(reads_to_the_end_or_the_bound),
        cmocka_unit_test(adds_and_ends_with_nul),
        cmocka_unit_test(writes_numbers),
        cmocka_unit_test(formats_what_fits_and_what_does_not),
        cmocka_unit_test(gives_room),
        cmocka_unit_test(clear_overwrites),
        cmocka_unit_test(allocates),
        cmocka_unit_test(trims),
        cmocka_unit_test(lowers_ascii_only),
        cmocka_unit_test(no_memory_ends_the_program),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
