#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "../../common/throttle.h"

static const unsigned char secret[STORE_KEY_BYTES + 1] = "a secret of thirty-two bytes....";
static const unsigned char other_secret[STORE_KEY_BYTES + 1] = "another one of thirty-two bytes.";

#define KEY_BYTES 32

static void assert_differ(unsigned char keys[][KEY_BYTES], size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(keys[i], keys[k], KEY_BYTES);
}

/* Neighbouring fields cannot be shifted into each other, and every field counts. */
static void known_keys(void **state)
{
    static const struct {
        const char *account, *exam, *id;
    } cases[] = {{"acc", "exam", "id"}, {"acce", "xam", "id"},  {"acc", "exami", "d"},  {"", "accexam", "id"},
                 {"acc", "exam", "ID"}, {"acc", "exam", ""},    {"acc", "", "examid"},  {"accexamid", "", ""},
                 {"acc", "examid", ""}, {"acc2", "exam", "id"}, {"acc", "exam", "id "}, {"acc", NULL, "id"},
                 {"acc", "", "id"}};
    unsigned char keys[sizeof cases / sizeof *cases + 1][KEY_BYTES], again[KEY_BYTES];
    size_t count = sizeof cases / sizeof *cases;
    (void)state;
    for (size_t i = 0; i < count; i++)
        throttle_key_known(secret, cases[i].account, cases[i].exam, cases[i].id, keys[i]);
    throttle_key_known(other_secret, "acc", "exam", "id", keys[count]);
    assert_differ(keys, count + 1);
    throttle_key_known(secret, "acc", "exam", "id", again);
    assert_memory_equal(keys[0], again, KEY_BYTES);
}

static void unknown_keys(void **state)
{
    static const struct roster_key one[] = {{"id", "ab", false}, {"email", "c@d", true}};
    static const struct roster_key shifted[] = {{"id", "a", false}, {"email", "bc@d", true}};
    static const struct roster_key swapped[] = {{"email", "c@d", true}, {"id", "ab", false}};
    static const struct roster_key columns[] = {{"name", "ab", false}, {"email", "c@d", true}};
    static const struct roster_key upper_id[] = {{"id", "AB", false}, {"email", "c@d", true}};
    static const struct roster_key more[] = {{"id", "ab", false}, {"email", "c@d", true}, {"x", "", false}};
    unsigned char keys[10][KEY_BYTES];
    (void)state;
    throttle_key_unknown(secret, "acc", "exam", one, 2, keys[0]);
    throttle_key_unknown(secret, "acc", "exam", shifted, 2, keys[1]);
    throttle_key_unknown(secret, "acc", "exam", swapped, 2, keys[2]);
    throttle_key_unknown(secret, "acc", "exam", columns, 2, keys[3]);
    throttle_key_unknown(secret, "acc", "exam", upper_id, 2, keys[4]);
    throttle_key_unknown(secret, "acc", "exam", more, 3, keys[5]);
    throttle_key_unknown(secret, "acc", "exam", one, 1, keys[6]);
    throttle_key_unknown(secret, "acc", "exam2", one, 2, keys[7]);
    throttle_key_unknown(secret, "acc2", "exam", one, 2, keys[8]);
    throttle_key_unknown(other_secret, "acc", "exam", one, 2, keys[9]);
    assert_differ(keys, 10);
}

/* Changing letters from small to capital gives a guesser no further attempts. */
static void case_counts_only_where_it_should(void **state)
{
    char small[1000], capital[1000];
    struct roster_key a = {"email", small, true}, b = {"email", capital, true};
    unsigned char keys[2][KEY_BYTES];
    char texts[2][THROTTLE_UNKNOWN_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof small - 1; i++) {
        small[i] = (char)('a' + i % 26);
        capital[i] = (char)((i % 3 ? 'A' : 'a') + i % 26);
    }
    small[sizeof small - 1] = capital[sizeof capital - 1] = '\0';
    for (size_t round = 0; round < 2; round++) {
        throttle_key_unknown(secret, "acc", "exam", &a, 1, keys[0]);
        throttle_key_unknown(secret, "acc", "exam", &b, 1, keys[1]);
        throttle_unknown_text(secret, "acc", &a, 1, texts[0]);
        throttle_unknown_text(secret, "acc", &b, 1, texts[1]);
        assert_int_equal(memcmp(keys[0], keys[1], KEY_BYTES) == 0, round == 0);
        assert_int_equal(strcmp(texts[0], texts[1]) == 0, round == 0);
        a.nocase = b.nocase = false;
    }
    /* The comparison without case is of ASCII only, as the roster's is. */
    a = (struct roster_key){"email", "\xC3\x84", true};
    b = (struct roster_key){"email", "\xC3\xA4", true};
    throttle_key_unknown(secret, "acc", "exam", &a, 1, keys[0]);
    throttle_key_unknown(secret, "acc", "exam", &b, 1, keys[1]);
    assert_differ(keys, 2);
}

static void unknown_texts(void **state)
{
    static const struct roster_key typed[] = {{"id", "hunter2", false}};
    static const struct roster_key other[] = {{"id", "hunter3", false}};
    char text[THROTTLE_UNKNOWN_BYTES], again[THROTTLE_UNKNOWN_BYTES];
    (void)state;
    throttle_unknown_text(secret, "acc", typed, 1, text);
    assert_int_equal(strlen(text), 40);
    assert_int_equal(strncmp(text, "unknown:", 8), 0);
    assert_int_equal(strspn(text + 8, "0123456789abcdef"), 32);
    throttle_unknown_text(secret, "acc", typed, 1, again);
    assert_string_equal(text, again);
    throttle_unknown_text(secret, "acc", other, 1, again);
    assert_string_not_equal(text, again);
    throttle_unknown_text(secret, "acc2", typed, 1, again);
    assert_string_not_equal(text, again);
    throttle_unknown_text(other_secret, "acc", typed, 1, again);
    assert_string_not_equal(text, again);
}

static void purposes_do_not_meet(void **state)
{
    static const struct roster_key typed[] = {{"id", "x", false}};
    unsigned char keys[4][KEY_BYTES] = {{0}};
    (void)state;
    throttle_key_known(secret, "acc", "exam", "x", keys[0]);
    throttle_key_unknown(secret, "acc", "exam", typed, 1, keys[1]);
    throttle_body_digest(secret, "x", 1, keys[2]);
    throttle_body_digest(other_secret, "x", 1, keys[3]);
    assert_differ(keys, 4);
}

static void body_digests(void **state)
{
    unsigned char keys[4][KEY_BYTES], again[KEY_BYTES];
    (void)state;
    throttle_body_digest(secret, "{}", 2, keys[0]);
    throttle_body_digest(secret, "{} ", 3, keys[1]);
    throttle_body_digest(secret, "{\0", 2, keys[2]);
    throttle_body_digest(secret, NULL, 0, keys[3]);
    assert_differ(keys, 4);
    throttle_body_digest(secret, "{}", 2, again);
    assert_memory_equal(keys[0], again, KEY_BYTES);
}

/* The recipe is fixed: a store keeps these keys from one version of the program to the next. Computed by
   Python's hmac over the fields, each with its length as 8 bytes, lowest first. */
static void the_recipe_does_not_change(void **state)
{
    static const unsigned char expected[KEY_BYTES] = {
        0x82, 0xd1, 0x85, 0xe5, 0x37, 0xde, 0xbf, 0x03, 0x01, 0x3a, 0x77, 0x3e, 0x1d, 0xd1, 0xbb, 0x68,
        0x2a, 0xdc, 0xd5, 0xb0, 0x96, 0x46, 0xd5, 0x97, 0x53, 0x33, 0x2b, 0x52, 0x76, 0x00, 0x66, 0xbd};
    unsigned char key[KEY_BYTES];
    (void)state;
    throttle_key_known(secret, "acc", "exam", "id", key);
    assert_memory_equal(key, expected, KEY_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_keys),
        cmocka_unit_test(unknown_keys),
        cmocka_unit_test(case_counts_only_where_it_should),
        cmocka_unit_test(unknown_texts),
        cmocka_unit_test(purposes_do_not_meet),
        cmocka_unit_test(body_digests),
        cmocka_unit_test(the_recipe_does_not_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
