/* CSV as RFC 4180 has it: which line a record begins on, what is refused, what a spreadsheet is kept from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../cli/csv.h"

struct seen {
    struct buf text; /* "LINE:cell|cell;" for each record */
    size_t stop_after;
    size_t count;
};

static bool see(void *context, const struct csv_record *record)
{
    struct seen *seen = context;

    buf_addf(&seen->text, "%lld:", (long long)record->line);
    for (size_t i = 0; i < record->count; i++) {
        if (i)
            buf_addc(&seen->text, '|');
        buf_add(&seen->text, record->cells[i].text, record->cells[i].len);
        assert_int_equal(record->cells[i].text[record->cells[i].len], '\0');
    }
    buf_addc(&seen->text, ';');
    return ++seen->count != seen->stop_after;
}

static int file_with(const char *bytes, size_t len)
{
    char name[] = "/tmp/examhook-csv-XXXXXX";
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    unlink(name);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void reads_records_with_their_lines(void **state)
{
    static const struct {
        const char *text, *seen;
    } cases[] = {
        {"", ""},
        {"a,b\n1,2\n", "1:a|b;2:1|2;"},
        {"a,b\r\n1,2", "1:a|b;2:1|2;"},
        {"a\r1\r", "1:a;2:1;"},
        {"\xef\xbb\xbf\x61,b\n", "1:a|b;"},
        {"a\n\n\n1\n", "1:a;4:1;"},
        {"a\r\n\r\n\r\n1\r\n", "1:a;4:1;"},
        {"a\r\r1", "1:a;3:1;"},
        {"\"a\nb\",c\n1\n", "1:a\nb|c;3:1;"},
        {"\"a\r\nb\r\nc\"\r\n1\r\n", "1:a\r\nb\r\nc;4:1;"},
        {"\"say \"\"hi\"\"\",\"\"\n", "1:say \"hi\"|;"},
        {" a , b \n", "1: a | b ;"},
        {"a,\n,b\n", "1:a|;2:|b;"},
        {"\"a\n\"\nb\n", "1:a\n;3:b;"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = file_with(cases[i].text, strlen(cases[i].text));
        struct seen seen = {.stop_after = 0};
        int64_t line;
        size_t cell;
        const char *why;

        assert_int_equal(csv_read(fd, see, &seen, &line, &cell, &why), CSV_DONE);
        assert_string_equal(buf_str(&seen.text), cases[i].seen);
        buf_release(&seen.text);
        close(fd);
    }
}

static void refuses_what_is_malformed(void **state)
{
    static const struct {
        const char *text;
        int64_t line;
        size_t cell;
    } cases[] = {
        {"a,b\n1,x\"y\n", 2, 2}, {"a,b\n\"1\"x,2\n", 2, 1}, {"a\n\"b\nc\n", 2, 1},
        {"a,\"b", 1, 2},         {"\"a\" ,b\n", 1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = file_with(cases[i].text, strlen(cases[i].text));
        struct seen seen = {.stop_after = 0};
        int64_t line;
        size_t cell;
        const char *why;

        assert_int_equal(csv_read(fd, see, &seen, &line, &cell, &why), CSV_MALFORMED);
        assert_int_equal(line, cases[i].line);
        assert_int_equal(cell, cases[i].cell);
        assert_non_null(why);
        buf_release(&seen.text);
        close(fd);
    }
}

/* Larger than the reader's block, with a CRLF and a quoted line break on its border. */
static void reads_over_the_border_of_a_block(void **state)
{
    struct buf text = BUF_INIT;
    struct seen seen = {.stop_after = 0};
    int64_t line;
    size_t cell;
    const char *why;
    int fd;

    (void)state;
    while (text.len < 65535)
        buf_addc(&text, 'x');
    buf_adds(&text, "\r\n\"");
    while (text.len < 131071)
        buf_addc(&text, 'y');
    buf_adds(&text, "\r\n\"\r\nend\r\n");
    fd = file_with(text.data, text.len);
    assert_int_equal(csv_read(fd, see, &seen, &line, &cell, &why), CSV_DONE);
    assert_int_equal(seen.count, 3);
    assert_string_equal(buf_str(&seen.text) + seen.text.len - 6, "4:end;");
    close(fd);
    buf_release(&text);
    buf_release(&seen.text);
}

static void a_cell_has_a_bound_and_reading_can_stop(void **state)
{
    struct buf text = BUF_INIT;
    struct seen seen = {.stop_after = 1};
    int64_t line;
    size_t cell;
    const char *why;
    int fd;

    (void)state;
    buf_adds(&text, "a\n\"");
    while (text.len < 4 * CSV_CELL_MAX_BYTES)
        buf_addc(&text, 'x');
    fd = file_with(text.data, text.len);
    assert_int_equal(csv_read(fd, see, &seen, &line, &cell, &why), CSV_STOPPED);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    seen.stop_after = 0;
    assert_int_equal(csv_read(fd, see, &seen, &line, &cell, &why), CSV_MALFORMED);
    assert_int_equal(line, 2);
    close(fd);
    assert_int_equal(csv_read(-1, see, &seen, &line, &cell, &why), CSV_UNREADABLE);
    buf_release(&text);
    buf_release(&seen.text);
}

static void writes_what_a_spreadsheet_takes_for_text(void **state)
{
    static const char *const texts[] = {"plain", "=1+1",      "+1", "-1", "@x", "\tx",
                                        "\rx",   "a\"b,c\nd", "",   NULL, "1-1"};
    char *written = NULL;
    size_t len;
    FILE *out = open_memstream(&written, &len);

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        csv_write_text(out, i == 0, texts[i]);
    csv_write_number(out, false, -5);
    csv_write_end(out);
    fclose(out);
    assert_string_equal(written,
                        "\"plain\",\"'=1+1\",\"'+1\",\"'-1\",\"'@x\",\"'\tx\",\"'\rx\",\"a\"\"b,c\nd\",,,"
                        "\"1-1\",-5\r\n");
    free(written);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_records_with_their_lines),
        cmocka_unit_test(refuses_what_is_malformed),
        cmocka_unit_test(reads_over_the_border_of_a_block),
        cmocka_unit_test(a_cell_has_a_bound_and_reading_can_stop),
        cmocka_unit_test(writes_what_a_spreadsheet_takes_for_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
