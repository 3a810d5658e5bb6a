/* Reading ExamJoint's events: the table tests/data/events.txt, the bounds, the keys of repeats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../common/event.h"

static struct json_doc *parse(const char *text)
{
    struct json_doc *doc = NULL;
    if (json_parse(text, strlen(text), &doc) != JSON_OK) {
        fail_msg("not JSON: %s", text);
    }
    return doc;
}

static const char *kind_word(enum event_kind kind)
{
    static const char *const words[] = {"unknown", "verify", "admitted", "result", "investigation"};
    return words[kind];
}

static void expect(const char *wanted, const char *json, bool lenient)
{
    struct json_doc *doc = parse(json);
    struct event event;
    const char *member = NULL;
    enum event_status status = event_read(json_root(doc), lenient, &event, &member);
    char got[128];
    snprintf(got, sizeof got, "%s %s", status == EVENT_OK ? "ok" : event_status_word(status),
             status == EVENT_OK ? kind_word(event.kind) : member);
    if (strcmp(got, wanted) != 0) {
        fail_msg("%s: %s, wanted %s%s", json, got, wanted, lenient ? " (lenient)" : "");
    }
    json_free(doc);
}

static void test_table(void **state)
{
    (void)state;
    FILE *file = fopen("tests/data/events.txt", "r");
    assert_non_null(file);
    char *line = NULL;
    size_t cap = 0, cases = 0;
    while (getline(&line, &cap, file) != -1) {
        line[strcspn(line, "\n")] = '\0';
        if (*line == '#' || *line == '\0') {
            continue;
        }
        char *rest = line;
        const char *strict = strsep(&rest, "\t");
        const char *lenient = strsep(&rest, "\t");
        assert_non_null(rest);
        expect(strict, rest, false);
        expect(lenient, rest, true);
        cases++;
    }
    free(line);
    fclose(file);
    assert_true(cases > 40);
}

static void test_what_is_read(void **state)
{
    (void)state;
    struct json_doc *doc = parse("{\"event\":\"admitted_respondent\",\"respondent_id\":\"R 1\","
                                 "\"exam_id\":\"E\",\"admittedOn\":1719221380326}");
    struct event event;
    const char *member;
    assert_int_equal(event_read(json_root(doc), false, &event, &member), EVENT_OK);
    assert_string_equal(event.name, "admitted_respondent");
    assert_string_equal(event.respondent_id, "R 1");
    assert_string_equal(event.exam_id, "E");
    assert_true(event.has_admitted_on);
    assert_true(event.admitted_on_ms == 1719221380326);
    json_free(doc);
}

static void test_lenient_keeps_the_number_as_sent(void **state)
{
    (void)state;
    struct json_doc *doc = parse("{\"event\":\"result_ready\",\"respondent_id\":17.50,\"exam_id\":42}");
    struct event event;
    const char *member;
    assert_int_equal(event_read(json_root(doc), true, &event, &member), EVENT_OK);
    assert_string_equal(event.respondent_id, "17.50");
    assert_string_equal(event.exam_id, "42");
    json_free(doc);
}

static void test_text_bounds(void **state)
{
    (void)state;
    static const struct {
        size_t len;
        const char *wanted;
    } cases[] = {{1, "ok result"}, {512, "ok result"}, {513, "invalid_member exam_id"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[600];
        struct buf json = BUF_INIT;
        memset(text, 'x', cases[i].len);
        text[cases[i].len] = '\0';
        buf_addf(&json, "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"%s\"}", text);
        expect(cases[i].wanted, buf_str(&json), false);
        buf_release(&json);
    }
}

static void test_fields_bounds(void **state)
{
    (void)state;
    for (int count = EVENT_FIELDS_MAX; count <= EVENT_FIELDS_MAX + 1; count++) {
        struct buf json = BUF_INIT;
        buf_adds(&json, "{\"event\":\"verify_respondent\",\"exam_id\":\"e\",\"fields\":[");
        for (int i = 0; i < count; i++) {
            buf_addf(&json, "%s{\"position\":%d,\"value\":\"v\"}", i > 0 ? "," : "", i);
        }
        buf_adds(&json, "]}");
        expect(count <= EVENT_FIELDS_MAX ? "ok verify" : "invalid_member fields", buf_str(&json), false);
        buf_release(&json);
    }
}

static void test_fields(void **state)
{
    (void)state;
    struct json_doc *doc =
        parse("{\"event\":\"verify_respondent\",\"exam_id\":\"e\",\"choosenLang\":\"ru\",\"fields\":["
              "{\"position\":1,\"value\":\" b \"},{\"position\":0,\"value\":\"a\"},"
              "{\"position\":80151234,\"value\":\"c\"},{\"position\":-5,\"value\":\"d\"}]}");
    struct event event;
    const char *member;
    assert_int_equal(event_read(json_root(doc), false, &event, &member), EVENT_OK);
    assert_string_equal(event.language, "ru");
    assert_string_equal(event_field_value(event.fields, 0), "a");
    assert_string_equal(event_field_value(event.fields, 1), " b ");
    assert_null(event_field_value(event.fields, 2));
    struct buf positions = BUF_INIT;
    event_positions(event.fields, &positions);
    assert_string_equal(buf_str(&positions), "1,0,?,?");
    buf_release(&positions);
    json_free(doc);
}

static void test_glimpse(void **state)
{
    (void)state;
    struct json_doc *doc = parse("{\"event\":\"admitted_respondent\",\"respondent_id\":\"r\",\"exam_id\":42,"
                                 "\"admittedOn\":5,\"fields\":[1]}");
    struct event event;
    event_glimpse(json_root(doc), &event);
    assert_int_equal(event.kind, EVENT_ADMITTED);
    assert_string_equal(event.name, "admitted_respondent");
    assert_string_equal(event.respondent_id, "r");
    assert_null(event.exam_id);
    assert_true(event.admitted_on_ms == 5);
    assert_null(event.fields);
    json_free(doc);
}

static void key_of(const char *account, const char *json, unsigned char digest_byte,
                   unsigned char key[EVENT_KEY_BYTES])
{
    struct json_doc *doc = parse(json);
    unsigned char digest[32];
    struct event event;
    const char *member;
    memset(digest, digest_byte, sizeof digest);
    assert_int_equal(event_read(json_root(doc), false, &event, &member), EVENT_OK);
    event_key(account, &event, digest, key);
    json_free(doc);
}

static void test_keys(void **state)
{
    (void)state;
#define ADMITTED(r, e, t)                                                                                    \
    "{\"event\":\"admitted_respondent\",\"respondent_id\":\"" r "\",\"exam_id\":\"" e "\",\"admittedOn\":" t \
    "}"
    static const struct {
        const char *account_a, *json_a;
        unsigned char digest_a;
        const char *account_b, *json_b;
        unsigned char digest_b;
        bool equal;
    } cases[] = {
        {"a", ADMITTED("r", "e", "1"), 1, "a", ADMITTED("r", "e", "1"), 2, true},
        {"a", ADMITTED("r", "e", "1"), 1, "b", ADMITTED("r", "e", "1"), 1, false},
        {"a", ADMITTED("r", "e", "1"), 1, "a", ADMITTED("r", "e", "2"), 1, false},
        {"a", ADMITTED("r", "e", "0"), 1, "a", ADMITTED("r", "e", "-1"), 1, false},
        {"a", ADMITTED("re", "e", "1"), 1, "a", ADMITTED("r", "ee", "1"), 1, false},
        {"a", ADMITTED("r", "e", "1"), 1, "a", ADMITTED("e", "r", "1"), 1, false},
        {"a", "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}", 1, "a",
         "{\"event\":\"investigation_complete\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}", 1, false},
        {"a", "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}", 1, "a",
         "{\"event\":\"result_ready\",\"new\":1,\"respondent_id\":\"r\",\"exam_id\":\"e\"}", 2, true},
        {"a", "{\"event\":\"other\"}", 1, "a", "{\"event\":\"other\"}", 1, true},
        {"a", "{\"event\":\"other\"}", 1, "a", "{\"event\":\"other\"}", 2, false},
        {"a", "{\"event\":\"other\"}", 1, "b", "{\"event\":\"other\"}", 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char a[EVENT_KEY_BYTES], b[EVENT_KEY_BYTES];
        key_of(cases[i].account_a, cases[i].json_a, cases[i].digest_a, a);
        key_of(cases[i].account_b, cases[i].json_b, cases[i].digest_b, b);
        if ((memcmp(a, b, sizeof a) == 0) != cases[i].equal) {
            fail_msg("case %zu: the keys should %s", i, cases[i].equal ? "be equal" : "differ");
        }
    }
    unsigned char digest[32] = {1}, quarantined[EVENT_KEY_BYTES], unknown[EVENT_KEY_BYTES];
    const struct event event = {.kind = EVENT_UNKNOWN, .name = "other"};
    event_key_quarantined("a", digest, quarantined);
    event_key("a", &event, digest, unknown);
    assert_memory_not_equal(quarantined, unknown, sizeof quarantined);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_what_is_read),
        cmocka_unit_test(test_lenient_keeps_the_number_as_sent),
        cmocka_unit_test(test_text_bounds),
        cmocka_unit_test(test_fields_bounds),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_glimpse),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
