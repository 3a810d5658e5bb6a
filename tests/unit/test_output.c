/* What listings print: nothing in it acts upon a terminal, and columns fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "../../cli/output.h"
#include "../../cli/progress.h"

static void escapes_what_acts_on_a_terminal(void **state)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"plain", "plain"},
        {"a\nb\tc", "a\\nb\\tc"},
        {"\x1b[31m", "\\u{1b}[31m"},
        {"\x7f", "\\u{7f}"},
        {"\xc2\x9b", "\\u{9b}"},       /* C1: the one-character CSI */
        {"\xe2\x80\xae", "\\u{202e}"}, /* right to left from here on */
        {"\xe2\x80\xa8", "\\u{2028}"}, /* a line separator */
        {"\xef\xbb\xbf", "\\u{feff}"},
        {"caf\xc3\xa9 \xe5\xad\xa6", "caf\xc3\xa9 \xe5\xad\xa6"},
        {"caf\xe9", "caf\\xe9"},             /* not UTF-8 */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* a surrogate */
        {"cut \xf0\x9f\x98", "cut \\xf0\\x9f\\x98"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"", ""},
        {NULL, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf out = BUF_INIT;

        output_text(&out, cases[i].text);
        assert_string_equal(buf_str(&out), cases[i].shown);
        buf_release(&out);
    }
}

static void width_counts_columns_not_bytes(void **state)
{
    static const struct {
        const char *text;
        size_t width;
    } cases[] = {{"abc", 3}, {"caf\xc3\xa9", 4},     {"e\xcc\x81", 1}, {"\xe5\xad\xa6\xe7\x94\x9f", 4},
                 {"", 0},    {"\xf0\x9f\x98\x80", 2}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(output_width(cases[i].text, strlen(cases[i].text)), cases[i].width);
}

/* What was written to a FILE in memory. */
struct paper {
    FILE *file;
    char *text;
    size_t len;
};

static void paper_open(struct paper *paper)
{
    paper->file = open_memstream(&paper->text, &paper->len);
    assert_non_null(paper->file);
}

static void json_stays_the_same_json(void **state)
{
    struct paper paper;
    struct buf json = BUF_INIT;

    (void)state;
    paper_open(&paper);
    buf_adds(&json, "{\"a\":\"\xc2\x9b\xe2\x80\xae\x7f\xc3\xa9\"}");
    output_json(paper.file, &json);
    fclose(paper.file);
    assert_string_equal(paper.text, "{\"a\":\"\\u009b\\u202e\\u007f\xc3\xa9\"}\n");
    free(paper.text);
    buf_release(&json);
}

static void member_is_json_or_text_or_null(void **state)
{
    struct buf object = BUF_INIT;

    (void)state;
    buf_addc(&object, '{');
    output_member_json(&object, "a", "{\n \"x\": [1, 2]\n}");
    output_member_json(&object, "b", "{cut");
    output_member_json(&object, "c", NULL);
    output_member_time(&object, "d", 0);
    output_member_time(&object, "e", 1000);
    buf_addc(&object, '}');
    assert_string_equal(buf_str(&object), "{\"a\":{\"x\":[1,2]},\"b\":\"{cut\",\"c\":null,\"d\":null,"
                                          "\"e\":\"1970-01-01T00:00:01.000Z\"}");
    buf_release(&object);
}

static void table_fits_its_columns(void **state)
{
    static const struct table_column columns[] = {{"A", 0}, {"LONG TITLE", 0}, {"CUT", 5}, {"LAST", 0}};
    struct paper paper;
    struct table *table;

    (void)state;
    paper_open(&paper);
    table = table_new(paper.file, columns, 4);
    table_cell(table, "\xe5\xad\xa6\xe7\x94\x9f");
    table_cell_number(table, 7);
    table_cell(table, "123456");
    table_cell(table, "x");
    table_cell(table, "wide one");
    table_cell(table, NULL);
    table_cell(table, "\xe5\xad\xa6\xe7\x94\x9f\xe5\xad\xa6");
    table_row_end(table);
    assert_int_equal(table_waiting(table), 2);
    table_flush(table);
    assert_int_equal(table_waiting(table), 0);
    table_cell(table, "wider than before");
    table_cell(table, "y");
    table_row_end(table);
    table_free(table);
    fclose(paper.file);
    assert_string_equal(paper.text, "A         LONG TITLE  CUT    LAST\n"
                                    "\xe5\xad\xa6\xe7\x94\x9f      7           1234~  x\n"
                                    "wide one              \xe5\xad\xa6\xe7\x94\x9f~\n"
                                    "wider than before  y\n");
    free(paper.text);
}

static void table_without_rows_has_titles(void **state)
{
    static const struct table_column columns[] = {{"A", 0}, {"B", 0}};
    struct paper paper;

    (void)state;
    paper_open(&paper);
    table_free(table_new(paper.file, columns, 2));
    table_free(NULL);
    fclose(paper.file);
    assert_string_equal(paper.text, "A  B\n");
    free(paper.text);
}

static void progress_says_how_far_and_how_long(void **state)
{
    char line[PROGRESS_LINE_BYTES];

    (void)state;
    assert_string_equal(progress_line("x", 0, 10, 0, line), "x [>                             ] 0%");
    assert_string_equal(progress_line("x", 5, 10, 4000, line),
                        "x [===============>              ] 50%, 5 s left");
    assert_string_equal(progress_line("x", 10, 10, 9000, line), "x [==============================] 100%");
    assert_string_equal(progress_line("x", 11, 0, 0, line), "x [==============================] 100%");
    assert_string_equal(progress_line("x", 1, 2, 599000, line),
                        "x [===============>              ] 50%, 10 min left");
    assert_string_equal(progress_plain("x", 1, 4, 60000, line), "x: 25%, 181 s left");
    assert_string_equal(progress_plain("x", 1, 101, 60000, line), "x: 0%, 100 min left");
    assert_string_equal(progress_plain("x", 4, 4, 60000, line), "x: 100%");
    assert_string_equal(progress_plain("x", 0, 0, 60000, line), "x: 0%");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes_what_acts_on_a_terminal),
        cmocka_unit_test(width_counts_columns_not_bytes),
        cmocka_unit_test(json_stays_the_same_json),
        cmocka_unit_test(member_is_json_or_text_or_null),
        cmocka_unit_test(table_fits_its_columns),
        cmocka_unit_test(table_without_rows_has_titles),
        cmocka_unit_test(progress_says_how_far_and_how_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
