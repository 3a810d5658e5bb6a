/*
 * Times. Everything stored is UTC in milliseconds since 1970 (int64_t, _ms); everything shown is ISO 8601
 * UTC.
 */
#ifndef EXAMHOOK_CLOCK_H
#define EXAMHOOK_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define CLOCK_TEXT_BYTES 32

int64_t clock_now_ms(void);       /* the wall clock */
int64_t clock_monotonic_ms(void); /* for time limits within one process */
/* "2026-11-22T09:00:00.123Z" into text; returns text. */
const char *clock_format(int64_t ms, char text[CLOCK_TEXT_BYTES]);

enum clock_error {
    CLOCK_OK = 0,
    CLOCK_SYNTAX,    /* not a time we can read */
    CLOCK_AMBIGUOUS, /* happens twice in that zone (the clocks go back) */
    CLOCK_SKIPPED,   /* does not happen in that zone (the clocks go forward) */
    CLOCK_NO_SUCH_ZONE
};
const char *clock_error_text(enum clock_error error);

/*
 * Reads "2026-11-22", "2026-11-22 09:00", "...T09:00:00", with ".mmm", and with "Z", "+01:00" or "+0100"
 * behind. Without an offset the time is one of `zone`, an IANA name ("Europe/Berlin"); a date alone is its
 * midnight. Not for use beside other threads: it sets TZ while it runs.
 */
enum clock_error clock_parse(const char *text, const char *zone, int64_t *ms);
bool clock_zone_exists(const char *zone);
/* Whether this system has time zone data at all (the package tzdata). "UTC" exists without it. */
#define CLOCK_ZONES "/usr/share/zoneinfo/"
bool clock_zones_there(void);
/* "90s", "20m", "6h", "14d" (a bare number is refused, but for 0) into milliseconds. */
bool clock_duration_parse(const char *text, int64_t *ms);

#endif
