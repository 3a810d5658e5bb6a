#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../common/buf.h"
#include "../../common/log.h"

/* Standard error goes to a file while something is logged. */
struct capture {
    int kept, fd;
};

static struct capture capture_start(void)
{
    char path[] = "/tmp/examhook-log-XXXXXX";
    struct capture c;
    c.fd = mkstemp(path);
    assert_true(c.fd >= 0);
    unlink(path);
    assert_int_equal(fcntl(c.fd, F_SETFL, O_APPEND), 0);
    c.kept = dup(STDERR_FILENO);
    dup2(c.fd, STDERR_FILENO);
    return c;
}

static void capture_end(struct capture c, struct buf *out)
{
    ssize_t n;
    dup2(c.kept, STDERR_FILENO);
    close(c.kept);
    assert_true(lseek(c.fd, 0, SEEK_SET) == 0);
    while ((n = read(c.fd, buf_room(out, 4096), 4096)) > 0)
        out->len += (size_t)n;
    close(c.fd);
}

/* What stands behind the time, which is checked for its form: time=2026-11-22T09:00:00.123Z */
static const char *behind_time(const char *line)
{
    static const char form[] = "time=####-##-##T##:##:##.###Z ";
    size_t i;
    for (i = 0; form[i]; i++) {
        bool good = form[i] == '#' ? line[i] >= '0' && line[i] <= '9' : line[i] == form[i];
        if (!good)
            fail_msg("no time in front: %s", line);
    }
    return line + sizeof form - 1;
}

static void expect_line(enum log_level level, const char *message, const struct log_field *fields,
                        const char *expected)
{
    struct capture c = capture_start();
    struct buf out = BUF_INIT;
    log_write(level, message, fields);
    capture_end(c, &out);
    assert_string_equal(behind_time(buf_str(&out)), expected);
    buf_release(&out);
}

static void writes_logfmt(void **state)
{
    (void)state;
    unsetenv("JOURNAL_STREAM");
    log_setup("test", LOG_LEVEL_DEBUG);
    expect_line(LOG_LEVEL_INFO, "started", NULL, "level=info program=test msg=\"started\"\n");
    expect_line(LOG_LEVEL_ERROR, "it broke", LOG_FIELDS(LOG_S("path", "/var/x.db"), LOG_I("errno", 5)),
                "level=error program=test msg=\"it broke\" path=/var/x.db errno=5\n");
    expect_line(LOG_LEVEL_WARN, "x", LOG_FIELDS(LOG_I("n", -9223372036854775807LL)),
                "level=warn program=test msg=\"x\" n=-9223372036854775807\n");
    expect_line(LOG_LEVEL_DEBUG, "x", LOG_FIELDS(LOG_S("nothing", NULL), LOG_S("empty", "")),
                "level=debug program=test msg=\"x\" nothing=\"\" empty=\"\"\n");
}

static void nothing_forges_a_line(void **state)
{
    static const struct {
        const char *value, *shown;
    } cases[] = {
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"hi\"", "\"say \\\"hi\\\"\""},
        {"back\\slash", "\"back\\\\slash\""},
        {"x\ntime=now level=error", "\"x\\ntime=now level=error\""},
        {"\r\t\x01\x1b[31m\x7f", "\"\\r\\t\\x01\\x1b[31m\\x7f\""},
        {"\xc3\xa4\xe2\x80\xa8", "\"\\xc3\\xa4\\xe2\\x80\\xa8\""},
        {"a;b|c", "\"a;b|c\""},
    };
    size_t i;
    (void)state;
    log_setup("test", LOG_LEVEL_INFO);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[128];
        snprintf(expected, sizeof expected, "level=info program=test msg=\"m\" v=%s\n", cases[i].shown);
        expect_line(LOG_LEVEL_INFO, "m", LOG_FIELDS(LOG_S("v", cases[i].value)), expected);
        snprintf(expected, sizeof expected, "level=info program=test msg=%s\n", cases[i].shown);
        expect_line(LOG_LEVEL_INFO, cases[i].value, NULL, expected);
    }
}

static void cuts_long_values(void **state)
{
    char value[3001];
    struct buf expected = BUF_INIT;
    (void)state;
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    log_setup("test", LOG_LEVEL_INFO);
    buf_addf(&expected, "level=info program=test msg=\"m\" v=\"%.1000s...\"\n", value);
    expect_line(LOG_LEVEL_INFO, "m", LOG_FIELDS(LOG_S("v", value)), expected.data);
    buf_release(&expected);
}

static void count_levels(enum log_level setting, size_t expected)
{
    struct capture c;
    struct buf out = BUF_INIT;
    size_t lines = 0, i;
    log_setup("test", setting);
    c = capture_start();
    log_error("e", LOG_I("n", 1));
    log_warn("w", LOG_I("n", 1));
    log_info("i", LOG_I("n", 1));
    log_debug("d", LOG_I("n", 1));
    capture_end(c, &out);
    for (i = 0; i < out.len; i++)
        lines += out.data[i] == '\n';
    assert_int_equal(lines, expected);
    buf_release(&out);
}

static void keeps_to_the_level(void **state)
{
    (void)state;
    count_levels(LOG_LEVEL_ERROR, 1);
    count_levels(LOG_LEVEL_WARN, 2);
    count_levels(LOG_LEVEL_INFO, 3);
    count_levels(LOG_LEVEL_DEBUG, 4);
}

static void knows_the_levels(void **state)
{
    static const char *const wrong[] = {"", "Error", "warning", "inf", "info ", "trace"};
    enum log_level level = LOG_LEVEL_DEBUG;
    size_t i;
    (void)state;
    assert_true(log_level_parse("error", &level) && level == LOG_LEVEL_ERROR);
    assert_true(log_level_parse("warn", &level) && level == LOG_LEVEL_WARN);
    assert_true(log_level_parse("info", &level) && level == LOG_LEVEL_INFO);
    assert_true(log_level_parse("debug", &level) && level == LOG_LEVEL_DEBUG);
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(log_level_parse(wrong[i], &level));
    assert_int_equal(level, LOG_LEVEL_DEBUG);
}

static void log_to_journal(bool own, struct buf *out)
{
    struct capture c = capture_start();
    struct stat st;
    char stream[64];
    assert_int_equal(fstat(c.fd, &st), 0);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino + (own ? 0 : 1));
    setenv("JOURNAL_STREAM", stream, 1);
    log_setup("test", LOG_LEVEL_DEBUG);
    log_error("e", LOG_I("n", 1));
    log_warn("w", LOG_I("n", 2));
    log_info("i", LOG_I("n", 3));
    log_debug("d", LOG_I("n", 4));
    capture_end(c, out);
    unsetenv("JOURNAL_STREAM");
    log_setup("test", LOG_LEVEL_INFO);
}

/* Only where JOURNAL_STREAM means our standard error: a program whose output was sent elsewhere inherits the
   variable too. */
static void speaks_to_the_journal(void **state)
{
    struct buf out = BUF_INIT;
    (void)state;
    log_to_journal(true, &out);
    assert_string_equal(buf_str(&out), "<3>level=error program=test msg=\"e\" n=1\n"
                                       "<4>level=warn program=test msg=\"w\" n=2\n"
                                       "<6>level=info program=test msg=\"i\" n=3\n"
                                       "<7>level=debug program=test msg=\"d\" n=4\n");
    buf_clear(&out);
    log_to_journal(false, &out);
    assert_int_equal(strncmp(behind_time(buf_str(&out)), "level=error ", 12), 0);
    buf_release(&out);
}

#define THREADS 4
#define LINES 200

static void *log_many(void *context)
{
    int i;
    for (i = 0; i < LINES; i++)
        log_info("from a thread", LOG_S("thread", context), LOG_I("line", i));
    return NULL;
}

static void lines_stay_whole_between_threads(void **state)
{
    static const char head[] = "level=info program=test msg=\"from a thread\" thread=";
    static char names[THREADS][2] = {"a", "b", "c", "d"};
    struct capture c = capture_start();
    struct buf out = BUF_INIT;
    pthread_t threads[THREADS];
    const char *line;
    int i, lines = 0;
    (void)state;
    log_setup("test", LOG_LEVEL_INFO);
    for (i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    capture_end(c, &out);
    for (line = buf_str(&out); *line; line = strchr(line, '\n') + 1, lines++)
        assert_int_equal(strncmp(behind_time(line), head, strlen(head)), 0);
    assert_int_equal(lines, THREADS * LINES);
    buf_release(&out);
}

/* To a socket that keeps each write apart: none breaks a line, none is longer than a pipe takes at once, but
 * for a line that is so long by itself. */
static void many_lines_take_few_writes(void **state)
{
    struct buf lines = BUF_INIT, all = BUF_INIT;
    char value[1001], piece[16384];
    int ends[2], kept = dup(STDERR_FILENO), writes = 0, longer = 0;
    ssize_t n;
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    log_setup("test", LOG_LEVEL_INFO);
    memset(value, '"', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    for (int i = 0; i < 100; i++) {
        log_add(&lines, LOG_LEVEL_INFO, "m", LOG_FIELDS(LOG_I("n", i), LOG_S("v", i % 10 ? "short" : value)));
        log_add(&lines, LOG_LEVEL_DEBUG, "not wanted", NULL);
    }
    log_add(&lines, LOG_LEVEL_INFO, "m",
            LOG_FIELDS(LOG_S("a", value), LOG_S("b", value), LOG_S("c", value), LOG_I("n", 100)));
    buf_add(&all, lines.data, lines.len);
    dup2(ends[0], STDERR_FILENO);
    log_write_lines(&lines);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    assert_int_equal(lines.len, 0);
    size_t at = 0;
    while ((n = read(ends[1], piece, sizeof piece)) > 0) {
        assert_int_equal(piece[n - 1], '\n');
        assert_memory_equal(piece, all.data + at, (size_t)n);
        at += (size_t)n;
        writes++;
        longer += n > 4096;
    }
    assert_int_equal(at, all.len);
    assert_int_equal(longer, 1);
    assert_in_range(writes, 2, 30);
    assert_null(strstr(buf_str(&all), "not wanted"));
    close(ends[1]);
    buf_release(&lines);
    buf_release(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_logfmt),
        cmocka_unit_test(nothing_forges_a_line),
        cmocka_unit_test(cuts_long_values),
        cmocka_unit_test(keeps_to_the_level),
        cmocka_unit_test(knows_the_levels),
        cmocka_unit_test(speaks_to_the_journal),
        cmocka_unit_test(lines_stay_whole_between_threads),
        cmocka_unit_test(many_lines_take_few_writes),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
