/* The Proview route: every protection, every refusal in its order, what is kept of a callback. */
#include "route_harness.h"

#define UUID "f46bd560-53f6-11eb-b441-492a960aa0ba"
#define TOKEN "token-0123456789abcdef"
#define OLDER "older-0123456789abcdef"
#define BODY "{\"message\":\"m\",\"external_id\":\"5\",\"session_uuid\":\"" UUID "\"}"
#define P "/webhooks/proview/"
#define NOT_FOUND "{\"error\":\"not_found\"}"
#define UNAUTHORIZED "{\"error\":\"unauthorized\"}"
#define BASIC "WWW-Authenticate: Basic realm=\"examhook\""
#define SCHEME "WWW-Authenticate: Examhook realm=\"examhook\""

static const char conf[] = "[server]\nbody_limit = 4K\n"
                           "[callbacks]\nopen_count_hour = 3\n"
                           "[proview path]\npath_token = " TOKEN "\npath_token_previous = " OLDER "\n"
                           "[proview header]\nheader_name = X-Exam-Secret\nheader_secret = h-secret\n"
                           "header_secret_previous = h-older\n"
                           "[proview basic]\nbasic_user = user\nbasic_password = pass:word\n"
                           "[proview all]\npath_token = " TOKEN "\nheader_name = x-exam-secret\n"
                           "header_secret = h-secret\nbasic_user = user\nbasic_password = pass:word\n"
                           "[proview open]\ncallback_open = yes\n";

static int setup(void **state)
{
    struct harness *h = harness_new();
    int standard_error = dup(STDERR_FILENO);
    dup2(h->log_fd, STDERR_FILENO);
    harness_open(h, &proview_route, conf);
    dup2(standard_error, STDERR_FILENO);
    close(standard_error);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    harness_close(*state);
    return 0;
}

static void test_protections(void **state)
{
    struct harness *h = *state;
    /* "dXNlcjpwYXNzOndvcmQ=" is user:pass:word, "dXNlcjp4" is user:x */
    static const struct {
        struct call call;
        int status;
        const char *body, *header;
    } cases[] = {
        {{.path = P "path/" TOKEN, .body = BODY}, 200, "{}", ""},
        {{.path = P "path/" OLDER, .body = BODY}, 200, "{}", ""},
        {{.path = "/path/" TOKEN, .body = BODY}, 200, "{}", ""},
        {{.path = P "path", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "path/" TOKEN "x", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "path/" TOKEN "/", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "path/" TOKEN "/x", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "nobody/" TOKEN, .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "nobody", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P, .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = "", .body = BODY}, 404, NOT_FOUND, ""},
        {{.path = P "header", .body = BODY, .params = {"HTTP_X_EXAM_SECRET=h-secret"}}, 200, "{}", ""},
        {{.path = P "header", .body = BODY, .params = {"HTTP_X_EXAM_SECRET=h-older"}}, 200, "{}", ""},
        {{.path = P "header", .body = BODY, .params = {"HTTP_X_EXAM_SECRET=wrong"}},
         401,
         UNAUTHORIZED,
         SCHEME},
        {{.path = P "header", .body = BODY}, 401, UNAUTHORIZED, SCHEME},
        {{.path = P "header",
          .body = BODY,
          .params = {"HTTP_X_EXAM_SECRET=h-secret", "HTTP_X_EXAM_SECRET=x"}},
         401,
         "{\"error\":\"repeated_header\"}",
         SCHEME},
        {{.path = P "header/" TOKEN, .body = BODY, .params = {"HTTP_X_EXAM_SECRET=h-secret"}},
         404,
         NOT_FOUND,
         ""},
        {{.path = P "basic", .body = BODY, .params = {"HTTP_AUTHORIZATION=Basic dXNlcjpwYXNzOndvcmQ="}},
         200,
         "{}",
         ""},
        {{.path = P "basic", .body = BODY, .params = {"HTTP_AUTHORIZATION=Basic dXNlcjp4"}},
         401,
         UNAUTHORIZED,
         BASIC},
        {{.path = P "basic", .body = BODY}, 401, UNAUTHORIZED, BASIC},
        {{.path = P "all/" TOKEN,
          .body = BODY,
          .params = {"HTTP_X_EXAM_SECRET=h-secret", "HTTP_AUTHORIZATION=Basic dXNlcjpwYXNzOndvcmQ="}},
         200,
         "{}",
         ""},
        {{.path = P "all/" TOKEN, .body = BODY, .params = {"HTTP_X_EXAM_SECRET=h-secret"}},
         401,
         UNAUTHORIZED,
         BASIC},
        {{.path = P "all/" TOKEN, .body = BODY, .params = {"HTTP_AUTHORIZATION=Basic dXNlcjpwYXNzOndvcmQ="}},
         401,
         UNAUTHORIZED,
         BASIC},
        {{.path = P "all",
          .body = BODY,
          .params = {"HTTP_X_EXAM_SECRET=h-secret", "HTTP_AUTHORIZATION=Basic dXNlcjpwYXNzOndvcmQ="}},
         404,
         NOT_FOUND,
         ""},
        {{.path = P "open", .body = BODY}, 200, "{}", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct answer answer = harness_call(h, &cases[i].call);
        if (answer.status != cases[i].status || strcmp(answer.body, cases[i].body) != 0 ||
            strcmp(answer.header, cases[i].header) != 0) {
            fail_msg("case %zu, %s: %d %s %s", i, cases[i].call.path, answer.status, answer.body,
                     answer.header);
        }
        free(answer.body);
    }
}

static void test_refusals_in_order(void **state)
{
    struct harness *h = *state;
    static const struct {
        struct call call;
        int status;
        const char *body, *header;
    } cases[] = {
        {{.method = "GET", .path = P "basic/x"}, 404, NOT_FOUND, ""},
        {{.method = "GET", .path = P "basic", .length = "x"},
         405,
         "{\"error\":\"method_not_allowed\"}",
         "Allow: POST"},
        {{.path = P "basic", .length = "x"}, 400, "{\"error\":\"invalid_length\"}", ""},
        {{.path = P "basic", .length = "4097"}, 413, "{\"error\":\"body_too_large\"}", ""},
        {{.path = P "basic", .body = "x", .cut = true}, 401, UNAUTHORIZED, BASIC},
        {{.path = P "open", .body = "x", .cut = true}, 400, "{\"error\":\"incomplete_body\"}", ""},
        {{.path = P "open", .body = ""}, 400, "{\"error\":\"empty_body\"}", ""},
        {{.path = P "open", .body = "{"}, 400, "{\"error\":\"invalid_json\"}", ""},
        {{.path = P "open", .body = "\"" UUID "\""}, 400, "{\"error\":\"not_an_object\"}", ""},
        {{.path = P "open", .body = "{}"},
         422,
         "{\"error\":\"missing_member\",\"member\":\"session_uuid\"}",
         ""},
        {{.path = P "open", .body = "{\"session_uuid\":\"" UUID "/../x\"}"},
         422,
         "{\"error\":\"invalid_member\",\"member\":\"session_uuid\"}",
         ""},
        {{.path = P "open", .body = "{\"session_uuid\":null}"},
         422,
         "{\"error\":\"invalid_member\",\"member\":\"session_uuid\"}",
         ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        harness_expect(h, &cases[i].call, cases[i].status, cases[i].body);
        struct answer answer = harness_call(h, &cases[i].call);
        assert_string_equal(answer.header, cases[i].header);
        free(answer.body);
    }
    struct store_cursor cursor = STORE_CURSOR_START;
    harness_expect_rows(h, &cursor, "");
}

static void post(struct harness *h, const char *body)
{
    const struct call call = {.path = P "path/" TOKEN, .body = body};
    harness_expect(h, &call, 200, "{}");
}

static void test_what_is_kept(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    static const struct {
        const char *body, *row;
    } cases[] = {
        {BODY, "path m " UUID " 5 - x1 " BODY "\n"},
        {"{\"session_uuid\":\"F46BD560-53F6-11EB-B441-492A960AA0BA\",\"message\":\"up\",\"external_id\":"
         "\"5\"}",
         "path up " UUID " 5 - x1 "
         "{\"session_uuid\":\"F46BD560-53F6-11EB-B441-492A960AA0BA\",\"message\":\"up\",\"external_id\":"
         "\"5\"}\n"},
        {"{\"session_uuid\":\"" UUID "\",\"external_id\":5506693}",
         "path - " UUID " - message_missing,external_id_type x1 "
         "{\"session_uuid\":\"" UUID "\",\"external_id\":5506693}\n"},
        {"{\"session_uuid\":\"" UUID "\",\"message\":\"m\",\"external_id\":\"6\",\"password\":\"CANARY\"}",
         "path m " UUID " 6 - x1 "
         "{\"session_uuid\":\"" UUID
         "\",\"message\":\"m\",\"external_id\":\"6\",\"password\":\"[redacted]\"}\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        post(h, cases[i].body);
        harness_expect_rows(h, &cursor, cases[i].row);
    }
}

static void test_repeats(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    post(h, BODY);
    post(h, BODY);
    post(h, "{\"message\":\"m\",\"external_id\":\"5\",\"session_uuid\":\"" UUID "\",\"more\":1}");
    post(h, "{\"message\":\"m\",\"external_id\":\"6\",\"session_uuid\":\"" UUID "\"}");
    struct buf rows = BUF_INIT;
    harness_rows(h, &cursor, &rows);
    assert_int_equal(harness_count(&rows, "\n"), 2);
    assert_non_null(strstr(buf_str(&rows), "path m " UUID " 5 - x3 "));
    assert_non_null(strstr(buf_str(&rows), "path m " UUID " 6 - x1 "));
    buf_release(&rows);
}

static void test_body_is_bounded(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf body = BUF_INIT;
    buf_adds(&body, "{\"session_uuid\":\"" UUID "\",\"message\":\"m\",\"external_id\":\"5\",\"fields\":[1");
    while (body.len < 3000) {
        buf_adds(&body, ",1");
    }
    buf_adds(&body, "]}"); /* redacted, each of them takes a dozen bytes */
    post(h, buf_str(&body));
    harness_expect_rows(h, &cursor, "path m " UUID " 5 body_long x1 -\n");
    buf_release(&body);
}

static void test_open_is_bounded(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf rows = BUF_INIT;
    int stored = 0;
    for (int i = 0; i < 8; i++) {
        struct buf body = BUF_INIT;
        buf_addf(&body, "{\"session_uuid\":\"0000000%d-53f6-11eb-b441-492a960aa0ba\"}", i);
        const struct call call = {.path = P "open", .body = buf_str(&body)};
        struct answer answer = harness_call(h, &call);
        if (answer.status == 200) {
            assert_int_equal(stored, i);
            stored++;
        } else {
            assert_int_equal(answer.status, 429);
            assert_string_equal(answer.body, "{\"error\":\"too_many_requests\"}");
            assert_string_equal(answer.header, "Retry-After: 600");
        }
        free(answer.body);
        buf_release(&body);
    }
    assert_int_equal(stored, 3);
    /* The others are not held up by it. */
    post(h, BODY);
    harness_rows(h, &cursor, &rows);
    assert_int_equal(harness_count(&rows, "\n"), 4);
    buf_release(&rows);
}

static void test_rotation(void **state)
{
    struct harness *h = *state;
    struct buf log = BUF_INIT;
    const struct call path = {.path = P "path/" OLDER, .body = BODY};
    const struct call header = {.path = P "header", .body = BODY, .params = {"HTTP_X_EXAM_SECRET=h-older"}};
    for (int i = 0; i < 3; i++) {
        harness_expect(h, &path, 200, "{}");
        harness_expect(h, &header, 200, "{}");
    }
    harness_log(h, &log);
    assert_int_equal(harness_count(&log, "a previous secret is still in use"), 2);
    assert_int_equal(harness_count(&log, "path_token_previous"), 1);
    assert_int_equal(harness_count(&log, "header_secret_previous"), 1);
    assert_int_equal(harness_count(&log, "older"), 0);
    buf_release(&log);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_protections),     TEST(test_refusals_in_order), TEST(test_what_is_kept), TEST(test_repeats),
        TEST(test_body_is_bounded), TEST(test_open_is_bounded),   TEST(test_rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
