/* What one check of a password costs: on a machine at rest, and where there is no time to measure it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "../../cli/check_measure.h"
#include "../../common/password.h"

#define CHEAP "$2b$04$Nobody.Has.This.Salt0."
#define DEAR "$2b$13$Nobody.Has.This.Salt0." /* 512 times as dear */
#define LONG_US 600000000LL

static void test_a_dear_check_costs_more(void **state)
{
    (void)state;
    struct measure cheap, dear;
    assert_true(measure_check(CHEAP, 2, 1000, measure_now_us() + LONG_US, &cheap));
    assert_true(measure_check(DEAR, 2, 1000, measure_now_us() + LONG_US, &dear));
    assert_true(cheap.us > 0);
    assert_true(dear.us > 50 * cheap.us);
    assert_in_range(cheap.busy_percent, 0, 100);
}

static void test_it_checks_for_as_long_as_told(void **state)
{
    (void)state;
    struct measure measure;
    unsigned long before = password_computed();
    assert_true(measure_check(CHEAP, 1, 1, measure_now_us() + LONG_US, &measure));
    assert_int_equal(password_computed() - before, 1);
    before = password_computed();
    assert_true(measure_check(CHEAP, 1, 20 * measure.us, measure_now_us() + LONG_US, &measure));
    assert_true(password_computed() - before > 2);
}

static void test_no_time_is_no_measure(void **state)
{
    (void)state;
    struct measure measure = {.us = 7, .busy_percent = 8};
    unsigned long before = password_computed();
    assert_false(measure_check(CHEAP, 2, 1000, measure_now_us() - 1, &measure));
    assert_int_equal(password_computed(), before);
    assert_int_equal(measure.us, 7);
    assert_int_equal(measure.busy_percent, 8);
}

/* It returns while the threads are still at it; they need nothing of the caller's any more. */
static void test_it_gives_up_where_checks_take_too_long(void **state)
{
    (void)state;
    char setting[] = DEAR;
    struct measure measure = {.us = 7};
    bool match;
    unsigned long before = password_computed();

    assert_false(measure_check(setting, 2, 1000, measure_now_us() + 1000, &measure));
    for (char *at = setting; *at; at++)
        *at = '?';
    assert_int_equal(measure.us, 7);
    assert_int_equal(password_computed(), before);
    while (password_computed() < before + 2) {
        struct timespec rest = {.tv_nsec = 10000000};
        nanosleep(&rest, NULL);
    }
    assert_true(password_check(CHEAP, "x", 1, &match));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dear_check_costs_more),
        cmocka_unit_test(test_it_checks_for_as_long_as_told),
        cmocka_unit_test(test_no_time_is_no_measure),
        cmocka_unit_test(test_it_gives_up_where_checks_take_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
