/* Who is calling: every pair of right and wrong, over several accounts and a rotation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../fcgi/credentials.h"

static void set_pair(struct secret_pair *pair, const char *current, const char *previous)
{
    secret_set(&pair->current, current, strlen(current));
    secret_set(&pair->previous, previous, strlen(previous));
}

static void test_examjoint(void **state)
{
    (void)state;
    char one[] = "one", two[] = "two", id_one[] = "id-1", id_two[] = "id-2";
    struct config_examjoint accounts[2] = {{.name = one, .client_id = id_one},
                                           {.name = two, .client_id = id_two}};
    set_pair(&accounts[0].client_secret, "secret-1", "older-1");
    set_pair(&accounts[1].client_secret, "secret-2", "");
    const struct config config = {.examjoint = accounts, .examjoint_count = 2};
    static const struct {
        const char *id, *secret, *account;
        enum secret_match match;
    } cases[] = {
        {"id-1", "secret-1", "one", SECRET_CURRENT},
        {"id-1", "older-1", "one", SECRET_PREVIOUS},
        {"id-2", "secret-2", "two", SECRET_CURRENT},
        {"id-2", "", NULL, SECRET_NO},
        {"id-1", "secret-2", NULL, SECRET_NO},
        {"id-2", "older-1", NULL, SECRET_NO},
        {"id-3", "secret-1", NULL, SECRET_NO},
        {"ID-1", "secret-1", NULL, SECRET_NO},
        {"id-1", "secret-1 ", NULL, SECRET_NO},
        {"", "secret-1", NULL, SECRET_NO},
        {NULL, "secret-1", NULL, SECRET_NO},
        {"id-1", NULL, NULL, SECRET_NO},
        {NULL, NULL, NULL, SECRET_NO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum secret_match match = SECRET_NO;
        const struct config_examjoint *account =
            credentials_examjoint(&config, cases[i].id, cases[i].secret, &match);
        if (strcmp(account ? account->name : "", cases[i].account ? cases[i].account : "") != 0) {
            fail_msg("case %zu", i);
        }
        assert_int_equal(match, cases[i].match);
    }
}

static void test_proview(void **state)
{
    (void)state;
    char with[] = "with", without[] = "without";
    struct config_proview accounts[2] = {{.name = with, .has_path_token = true},
                                         {.name = without, .has_header = true}};
    set_pair(&accounts[0].path_token, "token", "older");
    const struct config config = {.proview = accounts, .proview_count = 2};
    static const struct {
        const char *path, *account;
        enum secret_match match;
    } cases[] = {
        {"/webhooks/proview/with/token", "with", SECRET_CURRENT},
        {"/webhooks/proview/with/older", "with", SECRET_PREVIOUS},
        {"/webhooks/proview/with/wrong", NULL, SECRET_NO},
        {"/webhooks/proview/with", NULL, SECRET_NO},
        {"/webhooks/proview/without", "without", SECRET_CURRENT},
        {"/webhooks/proview/without/token", NULL, SECRET_NO},
        {"/webhooks/proview/nobody", NULL, SECRET_NO},
        {"/webhooks/proview/nobody/token", NULL, SECRET_NO},
        {"/webhooks/proview/wit/token", NULL, SECRET_NO},
        {"/webhooks/proview/with/token/x", NULL, SECRET_NO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct path_proview path;
        bool readable = path_proview_read(cases[i].path, &path);
        enum secret_match match = SECRET_NO;
        const struct config_proview *account = credentials_proview(&config, readable ? &path : NULL, &match);
        if (strcmp(account ? account->name : "", cases[i].account ? cases[i].account : "") != 0) {
            fail_msg("%s", cases[i].path);
        }
        assert_int_equal(match, cases[i].match);
    }
}

static void test_basic(void **state)
{
    (void)state;
    struct secret_pair basic = {0};
    set_pair(&basic, "user:pass:word", "user:old");
    static const struct {
        const char *header;
        enum secret_match match;
    } cases[] = {
        {"Basic dXNlcjpwYXNzOndvcmQ=", SECRET_CURRENT},
        {"basic dXNlcjpwYXNzOndvcmQ=", SECRET_CURRENT},
        {"Basic  dXNlcjpwYXNzOndvcmQ= ", SECRET_CURRENT},
        {"Basic dXNlcjpvbGQ=", SECRET_PREVIOUS},
        {"Basic dXNlcjpwYXNzOndvcmQ", SECRET_NO},
        {"Basic dXNlcjpwYXNzOndvcmQ= x", SECRET_NO},
        {"Basic dXNlcjpwYXNz", SECRET_NO},
        {"Basic", SECRET_NO},
        {"Basic ", SECRET_NO},
        {"Bearer dXNlcjpwYXNzOndvcmQ=", SECRET_NO},
        {"dXNlcjpwYXNzOndvcmQ=", SECRET_NO},
        {"Basic !!!!", SECRET_NO},
        {"", SECRET_NO},
        {NULL, SECRET_NO},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (credentials_basic(&basic, cases[i].header) != cases[i].match) {
            fail_msg("%s", cases[i].header ? cases[i].header : "(none)");
        }
    }
    const struct secret_pair unset = {0};
    assert_int_equal(credentials_basic(&unset, "Basic "), SECRET_NO);
}

static void test_basic_too_long(void **state)
{
    (void)state;
    struct secret_pair basic = {0};
    struct buf header = BUF_INIT;
    set_pair(&basic, "user:pass", "");
    buf_adds(&header, "Basic ");
    for (int i = 0; i < 4000; i++) {
        buf_adds(&header, "YWFh");
    }
    assert_int_equal(credentials_basic(&basic, buf_str(&header)), SECRET_NO);
    buf_release(&header);
}

static void test_once_a_minute(void **state)
{
    (void)state;
    struct once_a_minute gate = {0};
    assert_true(once_a_minute(&gate, 5));
    assert_false(once_a_minute(&gate, 6));
    assert_false(once_a_minute(&gate, 60004));
    assert_true(once_a_minute(&gate, 60005));
    assert_false(once_a_minute(&gate, 60006));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examjoint),     cmocka_unit_test(test_proview),
        cmocka_unit_test(test_basic),         cmocka_unit_test(test_basic_too_long),
        cmocka_unit_test(test_once_a_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
