#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "../../common/secret.h"

static void set(struct secret *s, const char *text)
{
    secret_set(s, text, strlen(text));
}

static void knows_current_and_previous(void **state)
{
    static const struct {
        const char *current, *previous, *given;
        enum secret_match expected;
    } cases[] = {
        {"new", "old", "new", SECRET_CURRENT},
        {"new", "old", "old", SECRET_PREVIOUS},
        {"new", "old", "New", SECRET_NO},
        {"new", "old", "new ", SECRET_NO},
        {"new", "old", "ne", SECRET_NO},
        {"new", "old", "newold", SECRET_NO},
        {"new", "old", "", SECRET_NO},
        {"new", "old", NULL, SECRET_NO},
        {"same", "same", "same", SECRET_CURRENT},
        {"new", "", "new", SECRET_CURRENT},
        {"new", "", "", SECRET_NO},
        {"new", "", "old", SECRET_NO},
        {"", "old", "old", SECRET_PREVIOUS},
        {"", "", "", SECRET_NO},
        {"", "", NULL, SECRET_NO},
        {"", "", "anything", SECRET_NO},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct secret_pair pair;
        memset(&pair, 0, sizeof pair);
        set(&pair.current, cases[i].current);
        set(&pair.previous, cases[i].previous);
        assert_int_equal(pair.current.set, cases[i].current[0] != '\0');
        assert_int_equal(secret_check(&pair, cases[i].given, cases[i].given ? strlen(cases[i].given) : 0),
                         cases[i].expected);
    }
}

/* A length that belongs to no text (the header was not sent) must not be read. */
static void ignores_the_length_of_nothing(void **state)
{
    struct secret_pair pair = {.current = {.set = false}};
    (void)state;
    set(&pair.current, "x");
    assert_int_equal(secret_check(&pair, NULL, 1000), SECRET_NO);
}

static void unset_matches_nothing(void **state)
{
    struct secret_pair pair = {.current = {.set = false}};
    (void)state;
    set(&pair.current, "x");
    pair.current.set = false;
    assert_int_equal(secret_check(&pair, "x", 1), SECRET_NO);
    set(&pair.current, "x");
    secret_set(&pair.current, NULL, 0);
    assert_int_equal(secret_check(&pair, "x", 1), SECRET_NO);
}

static void counts_every_byte(void **state)
{
    struct secret_pair pair = {.current = {.set = false}};
    (void)state;
    secret_set(&pair.current, "a\0b", 3);
    assert_int_equal(secret_check(&pair, "a\0b", 3), SECRET_CURRENT);
    assert_int_equal(secret_check(&pair, "a\0c", 3), SECRET_NO);
    assert_int_equal(secret_check(&pair, "a", 1), SECRET_NO);
}

/* FIPS 180-4: what is kept is the SHA-256, nothing of the clear text. */
static void keeps_a_digest(void **state)
{
    static const unsigned char abc[SECRET_DIGEST_BYTES] = {
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
        0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    struct secret s;
    (void)state;
    secret_set(&s, "abc", 3);
    assert_memory_equal(s.digest, abc, sizeof abc);
}

static void compares_two_texts(void **state)
{
    (void)state;
    assert_true(secret_equal("abc", 3, "abc", 3));
    assert_false(secret_equal("abc", 3, "abd", 3));
    assert_false(secret_equal("abc", 3, "abcd", 4));
    assert_false(secret_equal("abc", 3, "", 0));
    assert_false(secret_equal(NULL, 0, "", 0));
    assert_false(secret_equal("abc", 3, NULL, 3));
    assert_false(secret_equal(NULL, 0, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_current_and_previous),
        cmocka_unit_test(ignores_the_length_of_nothing),
        cmocka_unit_test(unset_matches_nothing),
        cmocka_unit_test(counts_every_byte),
        cmocka_unit_test(keeps_a_digest),
        cmocka_unit_test(compares_two_texts),
    };
    return cmocka_run_group_tests_name("secret", tests, NULL, NULL);
}
