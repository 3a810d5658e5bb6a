/* The readers of Talview's replies, of Retry-After, and what is refused as an address. All pure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../common/json.h"
#include "../../common/talview.h"

#define UUID "f46bd560-53f6-11eb-b441-492a960aa0ba"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void session_of_the_sample(void **state)
{
    static const char TEXT[] =
        "{\"id\": 188, \"uuid\": \"" UUID
        "\", \"title\": \"Test assessment\", \"external_id\": \"testSession4\","
        " \"type\": \"ai_proctor\", \"final_rating\": \"high\", \"status\": \"completed\","
        " \"video_stream_url\": null, \"attendee_id\": 4042, \"proctor_event_id\": null,"
        " \"session_started_at\": \"2022-05-05T11:38:26.231Z\","
        " \"system_info\": { \"ip\": \"192.0.2.1\", \"browser\": \"Chrome\", \"os\": \"Linux\" } }";
    struct talview_session session = {0};
    (void)state;
    assert_null(talview_session_read(TEXT, sizeof(TEXT) - 1, UUID, &session));
    assert_string_equal(session.external_id, "testSession4");
    assert_string_equal(session.type, "ai_proctor");
    assert_string_equal(session.status, "completed");
    assert_string_equal(session.rating, "high");
    talview_session_release(&session);
    assert_null(session.rating);
}

static void session_shapes(void **state)
{
    static const struct {
        const char *text;
        const char *word;   /* NULL: read */
        const char *rating; /* when read */
    } CASES[] = {
        {"{\"uuid\":\"" UUID "\"}", NULL, NULL},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":null}", NULL, NULL},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":\"\"}", NULL, ""},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":\" High \"}", NULL, " High "},
        {"{\"uuid\":\"F46BD560-53F6-11EB-B441-492A960AA0BA\",\"final_rating\":\"low\"}", NULL, "low"},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":\"splendid\",\"new\":[{}]}", NULL, "splendid"},
        {"{\"uuid\":\"" UUID "\",\"success\":true,\"final_rating\":\"low\"}", NULL, "low"},
        {"{\"uuid\":\"" UUID "\",\"success\":false,\"final_rating\":\"low\"}", "success_false", NULL},
        {"{\"success\":false}", "success_false", NULL},
        {"{\"final_rating\":\"high\"}", "uuid_missing", NULL},
        {"{\"uuid\":null,\"final_rating\":\"high\"}", "uuid_missing", NULL},
        {"{\"uuid\":7,\"final_rating\":\"high\"}", "uuid_missing", NULL},
        {"{\"uuid\":\"00000000-53f6-11eb-b441-492a960aa0ba\",\"final_rating\":\"high\"}", "uuid_differs",
         NULL},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":3}", "final_rating_type", NULL},
        {"{\"uuid\":\"" UUID "\",\"final_rating\":{\"value\":\"high\"}}", "final_rating_type", NULL},
        {"{\"uuid\":\"" UUID "\",\"external_id\":5506693}", "external_id_type", NULL},
        {"{\"uuid\":\"" UUID "\",\"type\":[]}", "type_type", NULL},
        {"{\"uuid\":\"" UUID "\",\"status\":false}", "status_type", NULL},
        {"[{\"uuid\":\"" UUID "\"}]", "not_an_object", NULL},
        {"{\"uuid\":\"" UUID "\",\"uuid\":\"" UUID "\"}", "duplicate_key", NULL},
        {"{\"uuid\":\"" UUID "\"} x", "invalid_json", NULL},
        {"{\"uuid\":\"" UUID "\"", "invalid_json", NULL},
        {"<html>", "invalid_json", NULL},
        {"", "empty_body", NULL},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        struct talview_session session = {0};
        const char *word = talview_session_read(CASES[i].text, strlen(CASES[i].text), UUID, &session);
        if (CASES[i].word) {
            if (!word || strcmp(word, CASES[i].word) != 0)
                fail_msg("%s: %s", CASES[i].text, word ? word : "(read)");
            assert_null(session.rating);
            continue;
        }
        if (word)
            fail_msg("%s: %s", CASES[i].text, word);
        if (CASES[i].rating)
            assert_string_equal(session.rating, CASES[i].rating);
        else
            assert_null(session.rating);
        talview_session_release(&session);
    }
}

static void a_text_too_long_is_no_rating(void **state)
{
    struct buf text = BUF_INIT;
    struct talview_session session = {0};
    (void)state;
    buf_adds(&text, "{\"uuid\":\"" UUID "\",\"final_rating\":\"");
    for (int i = 0; i <= TALVIEW_TEXT_MAX; i++)
        buf_addc(&text, 'x');
    buf_adds(&text, "\"}");
    assert_string_equal(talview_session_read(text.data, text.len, UUID, &session), "final_rating_type");
    buf_release(&text);
}

static void ratings(void **state)
{
    static const struct {
        const char *raw, *normal;
        bool there;
    } CASES[] = {
        {"high", "high", true}, {" HIGH\n", "high", true},     {"Medium", "medium", true},
        {"low", "low", true},   {"lower", "none", true},       {"lo", "none", true},
        {"n/a", "none", true},  {"", "none", false},           {" \t ", "none", false},
        {NULL, "none", false},  {"h\xc3\xafgh", "none", true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        assert_string_equal(talview_rating_normal(CASES[i].raw), CASES[i].normal);
        assert_int_equal(talview_is_rating(CASES[i].raw), CASES[i].there);
    }
}

static void logins(void **state)
{
    static const struct {
        const char *text, *word;
        int64_t lifetime_s;
    } CASES[] = {
        {"{\"access_token\":\"abc\",\"refresh_token\":\"r\",\"grant_type\":\"Bearer\",\"expires_in\":7200}",
         NULL, 7200},
        {"{\"access_token\":\"abc\"}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":60}", NULL, 60},
        {"{\"access_token\":\"abc\",\"expires_in\":59}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":86400}", NULL, 86400},
        {"{\"access_token\":\"abc\",\"expires_in\":86401}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":1719221380}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":-5}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":\"7200\"}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"expires_in\":null}", NULL, 10800},
        {"{\"access_token\":\"abc\",\"success\":false}", "success_false", 0},
        {"{\"success\":true}", "access_token_missing", 0},
        {"{\"access_token\":7}", "access_token_missing", 0},
        {"{\"access_token\":\"\"}", "access_token_unusable", 0},
        {"{\"access_token\":\"a b\"}", "access_token_unusable", 0},
        {"{\"access_token\":\"a\\r\\nX-Other: b\"}", "access_token_unusable", 0},
        {"{\"access_token\":\"abc\"", "invalid_json", 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        char *token = NULL;
        int64_t lifetime_s = 0;
        const char *word = talview_login_read(CASES[i].text, strlen(CASES[i].text), &token, &lifetime_s);
        if (CASES[i].word) {
            if (!word || strcmp(word, CASES[i].word) != 0)
                fail_msg("%s: %s", CASES[i].text, word ? word : "(read)");
            assert_null(token);
            continue;
        }
        if (word)
            fail_msg("%s: %s", CASES[i].text, word);
        assert_string_equal(token, "abc");
        assert_int_equal(lifetime_s, CASES[i].lifetime_s);
        wipe_free(token);
    }
}

static void retry_after(void **state)
{
    static const int64_t NOW = 784111777000; /* Sun, 06 Nov 1994 08:49:37 GMT, the standard's own example */
    static const struct {
        const char *text;
        int64_t wait_ms; /* -1: not understood */
    } CASES[] = {
        {"120", 120000},
        {" 7 \r\n", 7000},
        {"0", 0},
        {"999999999", 999999999000},
        {"9999999999", -1},
        {"-5", -1},
        {"1.5", -1},
        {"5 apples", -1},
        {"", -1},
        {"soon", -1},
        {"Sun, 06 Nov 1994 08:50:37 GMT", 60000},
        {"Sunday, 06-Nov-94 08:50:37 GMT", 60000},
        {"Sun Nov  6 08:50:37 1994", 60000},
        {"Sun, 06 Nov 1994 08:00:00 GMT", 0},
        {"Sun, 99 Nov 1994 08:50:37 GMT", -1},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        int64_t wait_ms = -1;
        bool ok = talview_retry_after(CASES[i].text, strlen(CASES[i].text), NOW, &wait_ms);
        if (ok != (CASES[i].wait_ms >= 0) || wait_ms != CASES[i].wait_ms)
            fail_msg("\"%s\": %d %lld", CASES[i].text, ok, (long long)wait_ms);
    }
}

static void addresses(void **state)
{
    static const struct {
        const char *url;
        bool ok;
    } CASES[] = {
        {"https://auth.talview.com/v1/user/login", true},
        {"https://proctoring.talview.com/v1/sessions", true},
        {"https://127.0.0.1:8444/v1/sessions", true},
        {"http://127.0.0.1:8444/v1/sessions", true},
        {"http://127.9.9.9/x", true},
        {"http://localhost:1/x", true},
        {"http://[::1]:1/x", true},
        {"http://auth.talview.com/v1/user/login", false},
        {"http://127.0.0.1.example.org/x", false},
        {"http://localhost.example.org/x", false},
        {"http://10.0.0.1/x", false},
        {"https://user@auth.talview.com/x", false},
        {"https://user:pw@auth.talview.com/x", false},
        {"https://auth.talview.com/x?y=1", false},
        {"https://auth.talview.com/x#y", false},
        {"https://proctoring.talview.com/v1/ sessions", false},
        {"https:///x", false},
        {"https:/host.example/://x", false},
        {"https:/x://user@host.example", false},
        {"ftp://127.0.0.1/x", false},
        {"file:///etc/passwd", false},
        {"/v1/sessions", false},
        {"", false},
        {NULL, false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(CASES); i++) {
        if (talview_url_ok(CASES[i].url) != CASES[i].ok)
            fail_msg("%s", CASES[i].url ? CASES[i].url : "(null)");
    }
}

static void uuids(void **state)
{
    (void)state;
    assert_true(talview_uuid_ok(UUID));
    assert_false(talview_uuid_ok("F46BD560-53F6-11EB-B441-492A960AA0BA"));
    assert_false(talview_uuid_ok(UUID "0"));
    assert_false(talview_uuid_ok("f46bd560-53f6-11eb-b441-492a960aa0b"));
    assert_false(talview_uuid_ok("f46bd560-53f6-11eb-b441-492a960aa0b/"));
    assert_false(talview_uuid_ok("../../../../../../../../../../../../"));
    assert_false(talview_uuid_ok(""));
}

static void excerpt_is(const char *text, size_t len, const char *token, const char *expected)
{
    struct buf out = BUF_INIT;
    talview_excerpt(text, len,
                    (const char *const[TALVIEW_SECRETS]){token, "user@example", "s3cret\"word\\", "app"},
                    &out);
    assert_string_equal(buf_str(&out), expected);
    buf_release(&out);
}

static void what_is_kept_is_text_and_no_secret(void **state)
{
    struct buf text = BUF_INIT, out = BUF_INIT;
    (void)state;
    excerpt_is("", 0, NULL, "");
    excerpt_is("a\0b\xff\xc3\xa9", 6, NULL, "a?b?\xc3\xa9");
    excerpt_is("\xc0\x80", 2, NULL, "??");
    excerpt_is("Authorization: Bearer s3cret; s3cret", 36, "s3cret",
               "Authorization: Bearer [secret]; [secret]");
    excerpt_is("\"s3\\/cr\\/et\" s3/cr/et s3/cr/e", 29, "s3/cr/et", "\"[secret]\" [secret] s3/cr/e");
    /* What else is configured, as it is or as JSON has it; not what is too short to be one. */
    excerpt_is("user@example s3cret\"word\\ s3cret\\\"word\\\\ app", 44, NULL,
               "[secret] [secret] [secret] app");
    excerpt_is("s3cret\"word\\ s3cret", 19, "s3cret", "[secret] [secret]");
    /* Many a server writes what is not ASCII, or means something in HTML, as a number. */
    excerpt_is("a\\u003Cb\\u0026\\u00e9\\ud83d\\ude00/c a<b&\xc3\xa9\xf0\x9f\x98\x80/c a\\u003cb", 56,
               "a<b&\xc3\xa9\xf0\x9f\x98\x80/c", "[secret] [secret] a\\u003cb");

    for (int i = 0; i < TALVIEW_KEPT_MAX; i++)
        buf_adds(&text, "\xe2\x82\xac"); /* three bytes: the cap falls within one */
    talview_excerpt(text.data, text.len, (const char *const[TALVIEW_SECRETS]){NULL}, &out);
    assert_true(out.len <= TALVIEW_KEPT_MAX);
    assert_true(out.len > TALVIEW_KEPT_MAX - 3);
    assert_true(utf8_valid(out.data, out.len));
    buf_release(&text);
    buf_release(&out);
}

static void a_target_that_is_refused(void **state)
{
    static const struct talview_limits LIMITS = {4, 1000, 1000, 65536, NULL};
    static const struct talview_target GOOD = {
        .login_url = "https://127.0.0.1:1/login",
        .session_url = "https://127.0.0.1:1/sessions",
        .username = "u",
        .password = "p",
        .app_id = "a",
    };
    (void)state;
    struct buf why = BUF_INIT;
    struct talview *talview = talview_new(&LIMITS);
    assert_non_null(talview);
    struct talview_target target = GOOD;
    struct talview_account *account = talview_account_add(talview, &target, &why);
    assert_non_null(account);
    assert_false(talview_session_start(talview, account, UUID, "two words", NULL));
    assert_false(talview_session_start(talview, account, "../" UUID, "token", NULL));

    target.app_id = "a\r\nX-Other: b";
    assert_null(talview_account_add(talview, &target, &why));
    target = GOOD;
    target.session_url = "http://example.org/sessions";
    assert_null(talview_account_add(talview, &target, &why));
    target = GOOD;
    target.ca_file = "/nonexistent/ca.pem";
    buf_clear(&why);
    assert_null(talview_account_add(talview, &target, &why));
    assert_non_null(strstr(buf_str(&why), "/nonexistent/ca.pem"));
    target.ca_file = "Makefile"; /* a file, but no certificate in it */
    assert_null(talview_account_add(talview, &target, &why));
    talview_free(talview);
    buf_release(&why);
}

/* The bundle is the host's, wherever it lies; without one nothing is called. */
static void authorities(void **state)
{
    static const struct talview_limits LIMITS = {.transfers_max = 1, .reply_limit_bytes = 1024};
    static const char PEM[] = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    struct buf why = BUF_INIT;
    char path[] = "/tmp/examhook-authorities-XXXXXX";
    struct talview_target target = {.login_url = "https://talview.example/v1/user/login",
                                    .session_url = "https://talview.example/v1/sessions",
                                    .username = "u",
                                    .password = "p",
                                    .app_id = "a"};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)state;

    struct talview *talview = talview_new(&LIMITS);
    assert_non_null(talview);
    setenv("SSL_CERT_FILE", path, 1); /* empty: no bundle */
    assert_null(talview_authorities(&why));
    assert_non_null(strstr(buf_str(&why), path));
    buf_clear(&why);
    assert_null(talview_account_add(talview, &target, &why));
    assert_non_null(strstr(buf_str(&why), "certificate authorities"));
    assert_non_null(strstr(buf_str(&why), path));
    struct talview_target local = target;
    local.login_url = "http://127.0.0.1:1/login";
    local.session_url = "http://127.0.0.1:1/sessions";
    assert_non_null(talview_account_add(talview, &local, &why));

    assert_int_equal(write(fd, PEM, sizeof(PEM) - 1), sizeof(PEM) - 1);
    close(fd);
    assert_string_equal(talview_authorities(&why), path);
    assert_non_null(talview_account_add(talview, &target, &why));

    /* One's own stands alone where the host has none. */
    setenv("SSL_CERT_FILE", "/nonexistent/bundle.pem", 1);
    assert_null(talview_account_add(talview, &target, &why));
    target.ca_file = path;
    assert_non_null(talview_account_add(talview, &target, &why));

    unsetenv("SSL_CERT_FILE");
    talview_free(talview);
    unlink(path);
    buf_release(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(session_of_the_sample),
        cmocka_unit_test(session_shapes),
        cmocka_unit_test(a_text_too_long_is_no_rating),
        cmocka_unit_test(ratings),
        cmocka_unit_test(logins),
        cmocka_unit_test(retry_after),
        cmocka_unit_test(addresses),
        cmocka_unit_test(uuids),
        cmocka_unit_test(what_is_kept_is_text_and_no_secret),
        cmocka_unit_test(a_target_that_is_refused),
        cmocka_unit_test(authorities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
