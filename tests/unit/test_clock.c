#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../common/clock.h"

static void formats(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1, "1970-01-01T00:00:00.001Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {-1000, "1969-12-31T23:59:59.000Z"},
        {1719221380326, "2024-06-24T09:29:40.326Z"},
        {1709164800000, "2024-02-29T00:00:00.000Z"},
        {253402300799999, "9999-12-31T23:59:59.999Z"},
        {INT64_MAX, "292278994-08-17T07:12:55.807Z"},
        {INT64_MIN, "-292275055-05-16T16:47:04.192Z"},
    };
    char text[CLOCK_TEXT_BYTES];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(clock_format(cases[i].ms, text), cases[i].text);
}

static void parses(void **state)
{
    static const struct {
        const char *text, *zone;
        enum clock_error error;
        const char *expected;
    } cases[] = {
        {"2026-11-22", "UTC", CLOCK_OK, "2026-11-22T00:00:00.000Z"},
        {"2026-11-22 09:00", "UTC", CLOCK_OK, "2026-11-22T09:00:00.000Z"},
        {"2026-11-22T09:00:07", "UTC", CLOCK_OK, "2026-11-22T09:00:07.000Z"},
        {"2026-11-22T09:00:07.5", "UTC", CLOCK_OK, "2026-11-22T09:00:07.500Z"},
        {"2026-11-22T09:00:07.123456", "UTC", CLOCK_OK, "2026-11-22T09:00:07.123Z"},
        {"2026-11-22T09:00Z", "Nowhere", CLOCK_OK, "2026-11-22T09:00:00.000Z"},
        {"2026-11-22 09:00:00+01:00", NULL, CLOCK_OK, "2026-11-22T08:00:00.000Z"},
        {"2026-11-22 09:00:00.250-0330", NULL, CLOCK_OK, "2026-11-22T12:30:00.250Z"},
        {"2026-01-01T00:30+0545", NULL, CLOCK_OK, "2025-12-31T18:45:00.000Z"},
        {"2024-02-29", "UTC", CLOCK_OK, "2024-02-29T00:00:00.000Z"},
        {"1969-12-31 23:59:59.999", "UTC", CLOCK_OK, "1969-12-31T23:59:59.999Z"},
        /* Local times. */
        {"2026-11-22 09:00", "Europe/Berlin", CLOCK_OK, "2026-11-22T08:00:00.000Z"},
        {"2026-06-22", "Europe/Berlin", CLOCK_OK, "2026-06-21T22:00:00.000Z"},
        {"2026-06-22 12:00", "Asia/Kolkata", CLOCK_OK, "2026-06-22T06:30:00.000Z"},
        {"2026-06-22 12:00", "Pacific/Kiritimati", CLOCK_OK, "2026-06-21T22:00:00.000Z"},
        {"2026-10-25 02:30", "Europe/Berlin", CLOCK_AMBIGUOUS, NULL},
        {"2026-10-25 02:00", "Europe/Berlin", CLOCK_AMBIGUOUS, NULL},
        {"2026-10-25 02:59:59.999", "Europe/Berlin", CLOCK_AMBIGUOUS, NULL},
        {"2026-10-25 01:59:59", "Europe/Berlin", CLOCK_OK, "2026-10-24T23:59:59.000Z"},
        {"2026-10-25 03:00", "Europe/Berlin", CLOCK_OK, "2026-10-25T02:00:00.000Z"},
        {"2026-10-25 02:30+02:00", "Europe/Berlin", CLOCK_OK, "2026-10-25T00:30:00.000Z"},
        {"2026-03-29 02:30", "Europe/Berlin", CLOCK_SKIPPED, NULL},
        {"2026-03-29 02:00", "Europe/Berlin", CLOCK_SKIPPED, NULL},
        {"2026-03-29 01:59:59", "Europe/Berlin", CLOCK_OK, "2026-03-29T00:59:59.000Z"},
        {"2026-03-29 03:00", "Europe/Berlin", CLOCK_OK, "2026-03-29T01:00:00.000Z"},
        {"2026-11-01 01:30", "America/New_York", CLOCK_AMBIGUOUS, NULL},
        {"2026-03-08 02:30", "America/New_York", CLOCK_SKIPPED, NULL},
        /* Standard time itself moved back: there is no summer time on either side. */
        {"2014-10-26 01:30", "Europe/Moscow", CLOCK_AMBIGUOUS, NULL},
        /* A whole day, and half an hour, that never were. */
        {"2011-12-30 12:00", "Pacific/Apia", CLOCK_SKIPPED, NULL},
        {"2026-10-04 02:15", "Australia/Lord_Howe", CLOCK_SKIPPED, NULL},
        {"2026-04-05 01:45", "Australia/Lord_Howe", CLOCK_AMBIGUOUS, NULL},
        {"2026-10-25 02:30", "UTC", CLOCK_OK, "2026-10-25T02:30:00.000Z"},
        {"2026-11-22 09:00", "Europe/Atlantis", CLOCK_NO_SUCH_ZONE, NULL},
        {"2026-11-22 09:00", NULL, CLOCK_NO_SUCH_ZONE, NULL},
        /* What is no time. */
        {"", "UTC", CLOCK_SYNTAX, NULL},
        {"now", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11", "UTC", CLOCK_SYNTAX, NULL},
        {"26-11-22", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-13-01", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-00-01", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-00", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-02-29", "UTC", CLOCK_SYNTAX, NULL},
        {"2100-02-29", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-31", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 ", "UTC", CLOCK_SYNTAX, NULL},
        {" 2026-11-22", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 9:00", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 24:00", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:60", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00:60", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00:5", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00:", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00:00.", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00:00.1234567890", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00 CET", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00+1", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00+01:60", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00+24:00", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22 09:00Zz", "UTC", CLOCK_SYNTAX, NULL},
        {"2026-11-22Z", "UTC", CLOCK_SYNTAX, NULL},
        {"2026/11/22", "UTC", CLOCK_SYNTAX, NULL},
        {"+026-11-22", "UTC", CLOCK_SYNTAX, NULL},
        {"1764000000", "UTC", CLOCK_SYNTAX, NULL},
    };
    char text[CLOCK_TEXT_BYTES];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t ms = -77;
        enum clock_error error = clock_parse(cases[i].text, cases[i].zone, &ms);
        if (error != cases[i].error)
            fail_msg("\"%s\" %s: %d, not %d", cases[i].text, cases[i].zone, (int)error, (int)cases[i].error);
        if (error == CLOCK_OK)
            assert_string_equal(clock_format(ms, text), cases[i].expected);
        else
            assert_int_equal(ms, -77);
        assert_true(strlen(clock_error_text(error)) > 3);
    }
}

static void leaves_the_zone_alone(void **state)
{
    static const char *const before[] = {"America/New_York", NULL};
    size_t i;
    (void)state;
    for (i = 0; i < 2; i++) {
        time_t noon = 1764000000;
        struct tm first, second;
        int64_t ms;
        if (before[i])
            setenv("TZ", before[i], 1);
        else
            unsetenv("TZ");
        tzset();
        localtime_r(&noon, &first);
        assert_int_equal(clock_parse("2026-06-22 12:00", "Asia/Tokyo", &ms), CLOCK_OK);
        assert_int_equal(clock_parse("2026-03-29 02:30", "Europe/Berlin", &ms), CLOCK_SKIPPED);
        localtime_r(&noon, &second);
        assert_int_equal(first.tm_hour, second.tm_hour);
        assert_string_equal(first.tm_zone, second.tm_zone);
        if (before[i])
            assert_string_equal(getenv("TZ"), before[i]);
        else
            assert_null(getenv("TZ"));
    }
}

static void knows_zones(void **state)
{
    static const struct {
        const char *zone;
        bool exists;
    } cases[] = {
        {"UTC", true},
        {"Europe/Berlin", true},
        {"Etc/GMT+5", true},
        {"America/Argentina/Buenos_Aires", true},
        {"", false},
        {"Europe", false},
        {"Europe/", false},
        {"Europe/Atlantis", false},
        {"CET-1CEST", false},
        {":UTC", false},
        {"zone.tab", false},
        {"../zoneinfo/Europe/Berlin", false},
        {"Europe/../Europe/Berlin", false},
        {"/usr/share/zoneinfo/Europe/Berlin", false},
        {"Europe/Berlin\n", false},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (clock_zone_exists(cases[i].zone) != cases[i].exists)
            fail_msg("%s", cases[i].zone);
    }
}

static void reads_durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } cases[] = {
        {"0", 0},
        {"0s", 0},
        {"1s", 1000},
        {"90s", 90000},
        {"20m", 1200000},
        {"6h", 21600000},
        {"14d", 1209600000},
        {"106751991167d", 106751991167 * INT64_C(86400000)},
        {"106751991168d", -1},
        {"9223372036854775808s", -1},
        {"99999999999999999999s", -1},
        {"", -1},
        {"s", -1},
        {"00", -1},
        {"5", -1},
        {"5 s", -1},
        {" 5s", -1},
        {"5s ", -1},
        {"+5s", -1},
        {"-5s", -1},
        {"5ms", -1},
        {"5S", -1},
        {"1.5h", -1},
        {"1h30m", -1},
        {"0x1s", -1},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t ms = -77;
        bool good = clock_duration_parse(cases[i].text, &ms);
        if (good != (cases[i].ms >= 0) || ms != (good ? cases[i].ms : -77))
            fail_msg("\"%s\": %lld", cases[i].text, (long long)ms);
    }
}

static void tells_the_time(void **state)
{
    int64_t now = clock_now_ms(), first = clock_monotonic_ms(), second;
    time_t seconds = time(NULL);
    struct timespec nap = {0, 20000000};
    (void)state;
    assert_in_range(now, ((int64_t)seconds - 2) * 1000, ((int64_t)seconds + 2) * 1000);
    nanosleep(&nap, NULL);
    second = clock_monotonic_ms();
    assert_true(second - first >= 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),
        cmocka_unit_test(parses),
        cmocka_unit_test(leaves_the_zone_alone),
        cmocka_unit_test(knows_zones),
        cmocka_unit_test(reads_durations),
        cmocka_unit_test(tells_the_time),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
