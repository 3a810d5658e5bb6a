#include "clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "buf.h"

#define HOUR_S 3600

int64_t clock_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t clock_monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The number's digits, the last before `end`; what stands before them is left. */
static void put_digits(char *end, int number)
{
    for (; number > 0; number /= 10)
        *--end = (char)('0' + number % 10);
}

const char *clock_format(int64_t ms, char text[CLOCK_TEXT_BYTES])
{
    int64_t rest = ms % 1000;
    time_t seconds;
    struct tm tm;
    if (rest < 0)
        rest += 1000;
    /* Rounded down; the division alone would round towards 1970. */
    seconds = (time_t)(ms / 1000 - (ms % 1000 < 0 ? 1 : 0));
    if (!gmtime_r(&seconds, &tm)) {
        snprintf(text, CLOCK_TEXT_BYTES, "-");
        return text;
    }
    if (tm.tm_year < 1000 - 1900 || tm.tm_year > 9999 - 1900) {
        size_t n = strftime(text, CLOCK_TEXT_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(text + n, CLOCK_TEXT_BYTES - n, ".%03dZ", (int)rest);
        return text;
    }
    /* As strftime() would, at a tenth of its cost: every line of the log has one. */
    memcpy(text, "0000-00-00T00:00:00.000Z", sizeof "0000-00-00T00:00:00.000Z");
    put_digits(text + 4, tm.tm_year + 1900);
    put_digits(text + 7, tm.tm_mon + 1);
    put_digits(text + 10, tm.tm_mday);
    put_digits(text + 13, tm.tm_hour);
    put_digits(text + 16, tm.tm_min);
    put_digits(text + 19, tm.tm_sec);
    put_digits(text + 23, (int)rest);
    return text;
}

const char *clock_error_text(enum clock_error error)
{
    switch (error) {
    case CLOCK_OK:
        return "a time";
    case CLOCK_SYNTAX:
        return "not a time: write 2026-11-22T09:00:00+01:00, or 2026-11-22 09:00 for the configured zone";
    case CLOCK_AMBIGUOUS:
        return "this local time happens twice, because the clocks go back: add the offset from UTC";
    case CLOCK_SKIPPED:
        return "this local time does not happen, because the clocks go forward";
    case CLOCK_NO_SUCH_ZONE:
        return "no such time zone";
    }
    return "unknown";
}

/* --- Reading ------------------------------------------------------------------------------------------- */

struct parsed {
    struct tm tm;
    int ms;
    bool has_offset;
    int offset_s;
};

/* Exactly `digits` digits at *at, moving it on. */
static bool take_number(const char **at, int digits, int *value)
{
    int i, result = 0;
    for (i = 0; i < digits; i++) {
        char c = (*at)[i];
        if (c < '0' || c > '9')
            return false;
        result = result * 10 + (c - '0');
    }
    *at += digits;
    *value = result;
    return true;
}

static bool take_char(const char **at, char c)
{
    if (**at != c)
        return false;
    (*at)++;
    return true;
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

static bool take_date(const char **at, struct tm *tm)
{
    int year, month, day;
    if (!take_number(at, 4, &year) || !take_char(at, '-') || !take_number(at, 2, &month) ||
        !take_char(at, '-') || !take_number(at, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1 || day > days_in(year, month))
        return false;
    tm->tm_year = year - 1900;
    tm->tm_mon = month - 1;
    tm->tm_mday = day;
    return true;
}

/* 1 to 9 digits behind the point; what is finer than a millisecond is dropped. */
static bool take_fraction(const char **at, int *ms)
{
    int digits = 0, value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++, digits++) {
        if (digits < 3)
            value = value * 10 + (**at - '0');
    }
    if (digits < 1 || digits > 9)
        return false;
    for (; digits < 3; digits++)
        value *= 10;
    *ms = value;
    return true;
}

static bool take_time(const char **at, struct parsed *p)
{
    if (!take_number(at, 2, &p->tm.tm_hour) || !take_char(at, ':') || !take_number(at, 2, &p->tm.tm_min))
        return false;
    if (take_char(at, ':')) {
        if (!take_number(at, 2, &p->tm.tm_sec))
            return false;
        if (take_char(at, '.') && !take_fraction(at, &p->ms))
            return false;
    }
    return p->tm.tm_hour <= 23 && p->tm.tm_min <= 59 && p->tm.tm_sec <= 59;
}

static bool take_offset(const char **at, struct parsed *p)
{
    int sign, hours, minutes;
    if (**at == '\0')
        return true;
    p->has_offset = true;
    if (take_char(at, 'Z'))
        return true;
    sign = **at == '-' ? -1 : 1;
    if (!take_char(at, '+') && !take_char(at, '-'))
        return false;
    if (!take_number(at, 2, &hours))
        return false;
    take_char(at, ':');
    if (!take_number(at, 2, &minutes) || hours > 23 || minutes > 59)
        return false;
    p->offset_s = sign * (hours * HOUR_S + minutes * 60);
    return true;
}

static bool parse_text(const char *text, struct parsed *p)
{
    *p = (struct parsed){.has_offset = false};
    if (!take_date(&text, &p->tm))
        return false;
    if (*text == '\0')
        return true;
    if (!take_char(&text, 'T') && !take_char(&text, ' '))
        return false;
    return take_time(&text, p) && take_offset(&text, p) && *text == '\0';
}

/* --- Local times ---------------------------------------------------------------------------------------- */

static bool same_local(const struct tm *a, const struct tm *b)
{
    return a->tm_year == b->tm_year && a->tm_mon == b->tm_mon && a->tm_mday == b->tm_mday &&
           a->tm_hour == b->tm_hour && a->tm_min == b->tm_min && a->tm_sec == b->tm_sec;
}

/*
 * The UTC times that read as `local` in the zone that TZ names. mktime() with tm_isdst 0 and 1 would miss a
 * zone that changes its standard time (Moscow in 2014), so every offset in force within two days is tried.
 */
static enum clock_error resolve(const struct tm *local, time_t *result)
{
    static const int around_h[] = {-48, -24, -12, 0, 12, 24, 48};
    struct tm copy = *local;
    time_t as_utc = timegm(&copy);
    int found = 0;
    size_t i;
    for (i = 0; i < sizeof around_h / sizeof around_h[0]; i++) {
        time_t near = as_utc + (time_t)around_h[i] * HOUR_S, candidate;
        struct tm there;
        if (!localtime_r(&near, &there))
            continue;
        candidate = as_utc - there.tm_gmtoff;
        if (!localtime_r(&candidate, &there) || !same_local(&there, local))
            continue;
        if (found > 0 && candidate != *result)
            return CLOCK_AMBIGUOUS;
        *result = candidate;
        found++;
    }
    return found > 0 ? CLOCK_OK : CLOCK_SKIPPED;
}

static enum clock_error resolve_in_zone(const struct tm *local, const char *zone, time_t *result)
{
    char *before = xstrdup(getenv("TZ"));
    enum clock_error error;
    setenv("TZ", zone, 1);
    tzset();
    error = resolve(local, result);
    if (before)
        setenv("TZ", before, 1);
    else
        unsetenv("TZ");
    tzset();
    free(before);
    return error;
}

enum clock_error clock_parse(const char *text, const char *zone, int64_t *ms)
{
    struct parsed p;
    time_t seconds = 0;
    if (!parse_text(text, &p))
        return CLOCK_SYNTAX;
    if (p.has_offset) {
        seconds = timegm(&p.tm) - p.offset_s;
    } else {
        enum clock_error error;
        if (!zone || !clock_zone_exists(zone))
            return CLOCK_NO_SUCH_ZONE;
        error = resolve_in_zone(&p.tm, zone, &seconds);
        if (error != CLOCK_OK)
            return error;
    }
    *ms = (int64_t)seconds * 1000 + p.ms;
    return CLOCK_OK;
}

/* --- Zones and durations -------------------------------------------------------------------------------- */

/* Beside the zones lie tables and lists: only a file that begins as tzfile(5) says is a zone. */
static bool is_zone_file(const char *path)
{
    char magic[4];
    struct stat st;
    bool is_zone;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    is_zone = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && read(fd, magic, sizeof magic) == sizeof magic &&
              memcmp(magic, "TZif", sizeof magic) == 0;
    close(fd);
    return is_zone;
}

bool clock_zone_exists(const char *zone)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/";
    char path[128];
    int n;
    if (strcmp(zone, "UTC") == 0)
        return true;
    /* No "." is allowed, so ".." is not either. */
    if (zone[0] == '\0' || zone[0] == '/' || zone[strspn(zone, allowed)] != '\0')
        return false;
    n = snprintf(path, sizeof path, CLOCK_ZONES "%s", zone);
    return n > 0 && (size_t)n < sizeof path && is_zone_file(path);
}

bool clock_zones_there(void)
{
    return is_zone_file(CLOCK_ZONES "UTC");
}

bool clock_duration_parse(const char *text, int64_t *ms)
{
    static const struct {
        char unit;
        int64_t ms;
    } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    int64_t value = 0;
    size_t i;
    if (strcmp(text, "0") == 0) {
        *ms = 0;
        return true;
    }
    if (*text < '0' || *text > '9')
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *text - '0', &value))
            return false;
    }
    for (i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (text[0] == units[i].unit && text[1] == '\0' &&
            !__builtin_mul_overflow(value, units[i].ms, &value)) {
            *ms = value;
            return true;
        }
    }
    return false;
}
