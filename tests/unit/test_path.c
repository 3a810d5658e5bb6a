/* The paths of the two routes, as web servers hand them over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../common/buf.h"
#include "../../fcgi/path.h"

static void test_examjoint(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        bool ours;
    } cases[] = {
        {"", true},
        {"/", true},
        {"/webhooks/examjoint", true},
        {"/app/webhooks/examjoint", true},
        {"/cgi-bin/examhook.cgi/webhooks/examjoint", true},
        {"/webhooks/examjoint/", false},
        {"/webhooks/examjoint/more", false},
        {"/webhooks/examjoint2", false},
        {"/webhooks", false},
        {"/examjoint", false},
        {"webhooks/examjoint", false},
        {"/webhooks/examjoin%74", false},
        {"/webhooks/proview/a", false},
        {"//", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (path_is_examjoint(cases[i].path) != cases[i].ours) {
            fail_msg("%s", cases[i].path);
        }
    }
}

static void test_proview(void **state)
{
    (void)state;
    /* name NULL: refused; token NULL: none. */
    static const struct {
        const char *path, *name, *token;
    } cases[] = {
        {"/webhooks/proview/main", "main", NULL},
        {"/webhooks/proview/main/t0ken_-A", "main", "t0ken_-A"},
        {"/app/webhooks/proview/main/t", "main", "t"},
        {"/x.cgi/webhooks/proview/main", "main", NULL},
        {"/main", "main", NULL},
        {"/main/token", "main", "token"},
        {"/webhooks/proview", "webhooks", "proview"},
        {"", NULL, NULL},
        {"/", NULL, NULL},
        {"main/token", NULL, NULL},
        {"/webhooks/proview/", NULL, NULL},
        {"/webhooks/proview//token", NULL, NULL},
        {"/webhooks/proview/main/", NULL, NULL},
        {"/webhooks/proview/main/token/", NULL, NULL},
        {"/webhooks/proview/main/token/more", NULL, NULL},
        {"/webhooks/proview/ma%69n", NULL, NULL},
        {"/webhooks/proview/main/tok.en", NULL, NULL},
        {"/webhooks/proview/main/tok en", NULL, NULL},
        {"/webhooks/proview/m\xc3\xa4in", NULL, NULL},
        {"/webhooks/proview/../main", NULL, NULL},
        {"/main/token/more", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct path_proview got = {0};
        bool ok = path_proview_read(cases[i].path, &got);
        if (ok != (cases[i].name != NULL)) {
            fail_msg("%s: %s", cases[i].path, ok ? "taken" : "refused");
        }
        if (!ok) {
            continue;
        }
        assert_int_equal(got.name_len, strlen(cases[i].name));
        assert_memory_equal(got.name, cases[i].name, got.name_len);
        assert_int_equal(got.token != NULL, cases[i].token != NULL);
        if (got.token) {
            assert_int_equal(got.token_len, strlen(cases[i].token));
            assert_memory_equal(got.token, cases[i].token, got.token_len);
        }
    }
}

static bool read_long(size_t name_len, size_t token_len)
{
    struct buf path = BUF_INIT;
    struct path_proview got;
    buf_adds(&path, PATH_PROVIEW);
    for (size_t i = 0; i < name_len; i++) {
        buf_addc(&path, 'n');
    }
    buf_addc(&path, '/');
    for (size_t i = 0; i < token_len; i++) {
        buf_addc(&path, 't');
    }
    bool ok = path_proview_read(buf_str(&path), &got);
    buf_release(&path);
    return ok;
}

static void test_proview_bounds(void **state)
{
    (void)state;
    assert_true(read_long(PATH_NAME_MAX, PATH_TOKEN_MAX));
    assert_false(read_long(PATH_NAME_MAX + 1, 1));
    assert_false(read_long(1, PATH_TOKEN_MAX + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examjoint),
        cmocka_unit_test(test_proview),
        cmocka_unit_test(test_proview_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
