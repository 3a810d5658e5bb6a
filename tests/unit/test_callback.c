/* Reading Proview's callbacks: what a session_uuid is, and what becomes a flag. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../fcgi/callback.h"

#define UUID "f46bd560-53f6-11eb-b441-492a960aa0ba"

static void test_uuid(void **state)
{
    (void)state;
    static const struct {
        const char *text, *wanted; /* NULL: refused */
    } cases[] = {
        {UUID, UUID},
        {"F46BD560-53F6-11EB-B441-492A960AA0BA", UUID},
        {"0190c2a4-7c3e-7d2f-8a41-4d5f6e7a8b9c", "0190c2a4-7c3e-7d2f-8a41-4d5f6e7a8b9c"},
        {"", NULL},
        {"f46bd560-53f6-11eb-b441-492a960aa0b", NULL},
        {"f46bd560-53f6-11eb-b441-492a960aa0baa", NULL},
        {"f46bd56053f611ebb441492a960aa0ba", NULL},
        {"{46bd560-53f6-11eb-b441-492a960aa0b}", NULL},
        {"g46bd560-53f6-11eb-b441-492a960aa0ba", NULL},
        {"f46bd5600-3f6-11eb-b441-492a960aa0ba", NULL},
        {" " UUID, NULL},
        {UUID " ", NULL},
        {UUID "\n", NULL},
        {"../../../../v1/sessions?x=1234567890", NULL},
        {"f46bd560-53f6-11eb-b441-492a960aa0b/", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[UUID_TEXT_BYTES] = "untouched";
        bool ok = uuid_read(cases[i].text, got);
        if (ok != (cases[i].wanted != NULL)) {
            fail_msg("%s: %s", cases[i].text, ok ? "taken" : "refused");
        }
        assert_string_equal(got, ok ? cases[i].wanted : "untouched");
    }
}

static enum callback_status read_text(const char *json, struct callback *callback, struct json_doc **doc)
{
    assert_int_equal(json_parse(json, strlen(json), doc), JSON_OK);
    return callback_read(json_root(*doc), callback);
}

static void test_flags(void **state)
{
    (void)state;
    static const struct {
        const char *json, *flags, *message, *external_id;
    } cases[] = {
        {"{\"session_uuid\":\"" UUID "\",\"message\":\"m\",\"external_id\":\"5506693\"}", "", "m", "5506693"},
        {"{\"session_uuid\":\"" UUID "\",\"message\":\"m\",\"external_id\":\"5\",\"new\":{}}", "", "m", "5"},
        {"{\"session_uuid\":\"" UUID "\"}", "message_missing,external_id_missing", NULL, NULL},
        {"{\"session_uuid\":\"" UUID "\",\"message\":\"m\",\"external_id\":5506693}", "external_id_type", "m",
         NULL},
        {"{\"session_uuid\":\"" UUID "\",\"message\":null,\"external_id\":\"5\"}", "message_type", NULL, "5"},
        {"{\"session_uuid\":\"" UUID "\",\"message\":[],\"external_id\":\"\"}",
         "message_type,external_id_empty", NULL, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct callback callback;
        struct json_doc *doc = NULL;
        assert_int_equal(read_text(cases[i].json, &callback, &doc), CALLBACK_OK);
        assert_string_equal(buf_str(&callback.flags), cases[i].flags);
        assert_int_equal(callback.message == NULL, cases[i].message == NULL);
        assert_int_equal(callback.external_id == NULL, cases[i].external_id == NULL);
        if (callback.message) {
            assert_string_equal(callback.message, cases[i].message);
        }
        if (callback.external_id) {
            assert_string_equal(callback.external_id, cases[i].external_id);
        }
        buf_release(&callback.flags);
        json_free(doc);
    }
}

static void test_long_claims(void **state)
{
    (void)state;
    for (size_t len = CALLBACK_TEXT_MAX; len <= CALLBACK_TEXT_MAX + 1; len++) {
        struct buf json = BUF_INIT;
        struct callback callback;
        struct json_doc *doc = NULL;
        buf_adds(&json, "{\"session_uuid\":\"" UUID "\",\"external_id\":\"x\",\"message\":\"");
        for (size_t i = 0; i < len; i++) {
            buf_addc(&json, 'm');
        }
        buf_adds(&json, "\"}");
        assert_int_equal(read_text(buf_str(&json), &callback, &doc), CALLBACK_OK);
        assert_string_equal(buf_str(&callback.flags), len > CALLBACK_TEXT_MAX ? "message_long" : "");
        assert_int_equal(callback.message == NULL, len > CALLBACK_TEXT_MAX);
        buf_release(&callback.flags);
        buf_release(&json);
        json_free(doc);
    }
}

static void test_no_session(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum callback_status wanted;
    } cases[] = {
        {"{}", CALLBACK_MISSING},
        {"{\"message\":\"m\",\"external_id\":\"5\",\"Session_uuid\":\"" UUID "\"}", CALLBACK_MISSING},
        {"{\"session_uuid\":null}", CALLBACK_INVALID},
        {"{\"session_uuid\":17}", CALLBACK_INVALID},
        {"{\"session_uuid\":[\"" UUID "\"]}", CALLBACK_INVALID},
        {"{\"session_uuid\":\"\"}", CALLBACK_INVALID},
        {"{\"session_uuid\":\"" UUID "/../x\"}", CALLBACK_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct callback callback;
        struct json_doc *doc = NULL;
        if (read_text(cases[i].json, &callback, &doc) != cases[i].wanted) {
            fail_msg("%s", cases[i].json);
        }
        json_free(doc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_long_claims),
        cmocka_unit_test(test_no_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
