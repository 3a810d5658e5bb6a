/* Is an exam on? A rehearsal takes the processor and the disk from real candidates: it is not played then. */
#include <string.h>

#include "output.h"
#include "rehearse.h"
#include "../common/clock.h"

#define PAGE 500
#define MINUTE_MS (60 * INT64_C(1000))
/* Real candidates who came within this time: an exam may be on, whatever the roster says. */
#define RECENT_MS (60 * MINUTE_MS)
/* A window of which one end is not given is no longer than this. */
#define DAY_MS (24 * 60 * MINUTE_MS)

/* --- By the roster ----------------------------------------------------------------------------------------
 */

struct windows {
    int64_t now_ms, until_ms;
    int64_t open;           /* lines whose window is, or will be */
    int64_t last_ms;        /* when the last of them closes */
    int64_t from_ms, to_ms; /* of the first that was seen */
    struct buf account, exam;
};

static bool see_window(void *context, const struct candidate *line)
{
    struct windows *windows = context;
    int64_t from_ms = line->opens_ms ? line->opens_ms : line->closes_ms - DAY_MS;
    int64_t to_ms = line->closes_ms ? line->closes_ms : line->opens_ms + DAY_MS;

    if ((!line->opens_ms && !line->closes_ms) || from_ms > windows->until_ms || to_ms <= windows->now_ms)
        return true;
    if (!windows->open++) {
        windows->from_ms = from_ms;
        windows->to_ms = to_ms;
        output_text(&windows->account, line->account);
        output_text(&windows->exam, line->exam ? line->exam : "any exam");
    }
    if (to_ms > windows->last_ms)
        windows->last_ms = to_ms;
    return true;
}

static int say_window(struct cli *cli, const struct windows *windows)
{
    char from[OUTPUT_TIME_BYTES], to[OUTPUT_TIME_BYTES], last[OUTPUT_TIME_BYTES];

    return cli_failed(
        cli,
        "an exam is on, or about to be: %lld lines of the roster have a window that is open, or opens within "
        "%lld minutes, such as one of %s for %s, from %s to %s. Rehearse after %s, when the last of them is "
        "closed; lines that are nobody's exam are taken out with `examhook roster remove ID` or `roster "
        "import --replace`",
        (long long)windows->open, (long long)((windows->until_ms - windows->now_ms) / MINUTE_MS),
        buf_str(&windows->account), buf_str(&windows->exam), output_time(windows->from_ms, from),
        output_time(windows->to_ms, to), output_time(windows->last_ms, last));
}

int rehearse_window_open(struct cli *cli, struct store *store, int64_t ahead_ms)
{
    struct roster_filter everybody = {0};
    struct windows windows = {.now_ms = clock_now_ms(), .account = BUF_INIT, .exam = BUF_INIT};
    enum store_status status;
    int code = CLI_FINE;

    windows.until_ms = windows.now_ms + ahead_ms;
    status = store_roster_list(store, &everybody, see_window, &windows);
    if (status)
        code = cli_store_failed(cli, store, status, "reading the roster");
    else if (windows.open)
        code = say_window(cli, &windows);
    buf_release(&windows.account);
    buf_release(&windows.exam);
    return code;
}

/* --- By who came ------------------------------------------------------------------------------------------
 */

struct recent {
    int64_t count, last_ms;
};

/* Who comes, and who leaves. Results and what is looked into come days later too. */
static bool see_event(void *context, const struct store_event_row *row)
{
    struct recent *recent = context;

    if (!strcmp(row->source, "proview") || (row->event && (!strcmp(row->event, "verify_respondent") ||
                                                           !strcmp(row->event, "admitted_respondent")))) {
        recent->count++;
        if (row->received_at_ms > recent->last_ms)
            recent->last_ms = row->received_at_ms;
    }
    return true;
}

int rehearse_somebody_came(struct cli *cli, struct store *store)
{
    struct store_filter filter = {.since_ms = clock_now_ms() - RECENT_MS};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct recent recent = {0};
    enum store_status status = STORE_OK;
    char last[OUTPUT_TIME_BYTES], then[OUTPUT_TIME_BYTES];

    for (bool more = true; more && !status;) {
        more = false;
        status = store_events(store, &filter, &cursor, PAGE, see_event, &recent, &more);
    }
    if (status)
        return cli_store_failed(cli, store, status, "reading the events");
    if (!recent.count)
        return CLI_FINE;
    return cli_failed(
        cli,
        "an exam may be on: %lld verifications, admissions and callbacks came within the last "
        "hour, the last at %s. Rehearse after %s, if nobody comes until then, or, if those were "
        "nobody's exam, with --even-now",
        (long long)recent.count, output_time(recent.last_ms, last),
        output_time(recent.last_ms + RECENT_MS, then));
}
