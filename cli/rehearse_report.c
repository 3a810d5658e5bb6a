/* What came of a rehearsal, for people and for programs, and what held it up. */
#include <string.h>

#include "output.h"
#include "rehearse.h"
#include "../common/json.h"

/* From here on a time says that something waited. */
#define SLOW_EVENT_MS 200
#define SLOW_RATING_MS 75000 /* cron starts a worker each minute, where none lives on */

const char *rehearse_limit_name(enum rehearse_limit limit)
{
    static const char *const names[] = {"none",
                                        "the web server's limit for one address",
                                        "the web server, or a program behind it",
                                        "password checks",
                                        "the disk's commits",
                                        "Talview, or the worker"};

    return names[limit];
}

/* --- The bottleneck ---------------------------------------------------------------------------------------
 */

/* Over all kinds of request. */
static struct rehearse_tally all_of(const struct rehearse_result *result)
{
    struct rehearse_tally all = {0};

    for (size_t i = 0; i < STEPS; i++) {
        all.sent += result->tally[i].sent;
        all.load += result->tally[i].load;
        all.limited += result->tally[i].limited;
        all.unavailable += result->tally[i].unavailable;
        all.failed += result->tally[i].failed;
        all.late += result->tally[i].late;
    }
    return all;
}

static double checks_a_second(const struct rehearse_run *run)
{
    return run->check_ms > 0 ? 1000.0 * (double)run->cores / run->check_ms : 0;
}

/* Candidates waited for a check: some were refused for it, or it took much longer than a check takes. */
static bool passwords_waited(const struct rehearse_run *run, struct rehearse_result *result)
{
    struct rehearse_tally *verify = &result->tally[STEP_VERIFY];

    return run->check_ms > 0 &&
           (verify->load > 0 || (samples_percentile(&verify->took, 99) > 1000 &&
                                 (double)samples_percentile(&verify->took, 99) > 10 * run->check_ms));
}

static void say_passwords(const struct rehearse_run *run, struct rehearse_result *result, struct buf *why)
{
    double can = checks_a_second(run);

    buf_addf(why,
             "one check takes %.1f ms, and %ld at a time make %.0f a second at the best; %lld candidates "
             "came within "
             "the first second, %zu within %lld s",
             run->check_ms, run->cores, can, (long long)shape_peak(run->candidates, run->within_ms),
             run->candidates, (long long)run->within_ms / 1000);
    if (result->tally[STEP_VERIFY].load)
        buf_addf(why, "; %lld times one was told to try again later, half of them in %lld s or sooner",
                 (long long)result->tally[STEP_VERIFY].load,
                 (long long)samples_percentile(&result->waits, 50));
    buf_adds(why, ". A cheaper hash for one-day codes, more cores, or a second machine would help");
}

enum rehearse_limit rehearse_judge(const struct rehearse_run *run, struct rehearse_result *result,
                                   struct buf *why)
{
    struct rehearse_tally all = all_of(result);
    int64_t slow = samples_percentile(&result->events, 99);

    if (all.limited) {
        buf_addf(why,
                 "%lld of %lld requests got 429 from the web server, which bounds what one address may send "
                 "(limit_req, limit_conn); ExamJoint posts from a few addresses too",
                 (long long)all.limited, (long long)all.sent);
        return LIMIT_ADDRESS;
    }
    if (passwords_waited(run, result)) {
        say_passwords(run, result, why);
        return LIMIT_PASSWORDS;
    }
    if (all.unavailable || all.failed) {
        buf_addf(
            why,
            "%lld requests got 503 and %lld another answer or none (%s); look at the programs' log and the "
            "web server's number of connections",
            (long long)all.unavailable, (long long)all.failed, result->trouble[0] ? result->trouble : "-");
        return LIMIT_SERVER;
    }
    if (slow > SLOW_EVENT_MS && run->commit_ms > 0 && (double)slow > 5 * run->commit_ms &&
        run->commit_ms > 10) {
        buf_addf(
            why,
            "the slowest hundredth of the events took %lld ms or more, and one small write takes %.1f ms "
            "until the disk has it",
            (long long)slow, run->commit_ms);
        return LIMIT_DISK;
    }
    if (run->rated && !result->stopped && (result->not_rated || result->rated_ms > SLOW_RATING_MS)) {
        buf_addf(
            why,
            "%lld ratings came, the last %lld s after the last callback, and %lld did not; is `examhook "
            "work` "
            "running, and has it read the configuration again? Where cron starts it less often than each "
            "minute, --wait S waits longer",
            (long long)result->rated, (long long)result->rated_ms / 1000, (long long)result->not_rated);
        return LIMIT_TALVIEW;
    }
    buf_adds(why, "nothing was near its limit");
    if (checks_a_second(run) > 0)
        buf_addf(why, "; password checks would be the first, at %.0f a second (%ld at a time, %.1f ms each)",
                 checks_a_second(run), run->cores, run->check_ms);
    return LIMIT_NONE;
}

/* --- For people -------------------------------------------------------------------------------------------
 */

static void print_row(struct table *table, const char *name, const struct rehearse_tally *tally,
                      struct samples *took)
{
    table_cell(table, name);
    table_cell_number(table, tally->sent);
    table_cell_number(table, tally->answered);
    table_cell_number(table, tally->load + tally->limited + tally->unavailable);
    table_cell_number(table, tally->failed);
    table_cell_number(table, tally->late);
    table_cell_number(table, samples_percentile(took, 50));
    table_cell_number(table, samples_percentile(took, 99));
    table_row_end(table);
}

static void say_ratings(struct buf *text, const struct rehearse_run *run,
                        const struct rehearse_result *result)
{
    if (!run->rated)
        buf_adds(text, "ratings: not rehearsed\n");
    else
        buf_addf(text, "ratings: %lld fetched, %lld %s\n", (long long)result->rated,
                 (long long)result->not_rated, result->stopped ? "not waited for" : "missing");
}

void rehearse_say(struct buf *text, const struct rehearse_run *run, struct rehearse_result *result)
{
    struct rehearse_tally all = all_of(result);

    buf_addf(text, "%zu candidates within %lld s: %lld let in, %lld gave up", run->candidates,
             (long long)run->within_ms / 1000, (long long)result->let_in, (long long)result->gave_up);
    if (result->on_the_way)
        buf_addf(text, ", %lld still on their way", (long long)result->on_the_way);
    buf_addf(text, "; %lld ms until let in for half of them, %lld ms for 99 of 100\n",
             (long long)samples_percentile(&result->until_in, 50),
             (long long)samples_percentile(&result->until_in, 99));
    if (all.load + all.limited + all.unavailable)
        buf_addf(
            text,
            "refused: %lld verifications for load (\"try again in N seconds\"), %lld requests with 429, %lld "
            "with 503; each was sent again\n",
            (long long)all.load, (long long)all.limited, (long long)all.unavailable);
    if (result->trouble[0]) {
        buf_addf(text, "failed: %lld requests, first trouble: ", (long long)all.failed);
        output_text(text, result->trouble);
        buf_addc(text, '\n');
    }
    say_ratings(text, run, result);
    buf_addf(text, "the day took %.1f s%s\n", (double)result->took_ms / 1000,
             result->stopped ? " and was ended early" : "");
}

void rehearse_print(FILE *out, const struct rehearse_run *run, struct rehearse_result *result)
{
    static const struct table_column columns[] = {{"EVENT", 0},  {"SENT", 0}, {"ANSWERED", 0}, {"REFUSED", 0},
                                                  {"FAILED", 0}, {"LATE", 0}, {"P50 MS", 0},   {"P99 MS", 0}};
    struct table *table = table_new(out, columns, sizeof(columns) / sizeof(columns[0]));
    struct buf why = BUF_INIT, safe = BUF_INIT;
    enum rehearse_limit limit = rehearse_judge(run, result, &why);

    for (size_t i = 0; i < STEPS; i++)
        print_row(table, rehearse_step_name((enum rehearse_step)i), &result->tally[i],
                  &result->tally[i].took);
    table_free(table);
    fputc('\n', out);
    rehearse_say(&safe, run, result);
    fputs(buf_str(&safe), out);
    buf_clear(&safe);
    output_text(&safe, buf_str(&why));
    fprintf(out, "bottleneck: %s: %s\n", rehearse_limit_name(limit), buf_str(&safe));
    buf_release(&why);
    buf_release(&safe);
}

/* --- For programs -----------------------------------------------------------------------------------------
 */

static void add_ms(struct buf *json, const char *name, double ms)
{
    char text[32];

    snprintf(text, sizeof(text), "%.3f", ms);
    json_add_member_raw(json, name, text);
}

static void add_times(struct buf *json, struct samples *took)
{
    json_add_member_int(json, "p50_ms", samples_percentile(took, 50));
    json_add_member_int(json, "p99_ms", samples_percentile(took, 99));
    json_add_member_int(json, "max_ms", samples_percentile(took, 100));
}

static void add_tally(struct buf *json, const char *name, struct rehearse_tally *tally)
{
    json_add_key(json, name);
    buf_addc(json, '{');
    json_add_member_int(json, "sent", tally->sent);
    json_add_member_int(json, "answered", tally->answered);
    json_add_member_int(json, "refused_busy", tally->load);
    json_add_member_int(json, "refused_429", tally->limited);
    json_add_member_int(json, "refused_503", tally->unavailable);
    json_add_member_int(json, "failed", tally->failed);
    json_add_member_int(json, "late", tally->late);
    add_times(json, &tally->took);
    buf_addc(json, '}');
}

void rehearse_print_json(FILE *out, const struct rehearse_run *run, struct rehearse_result *result)
{
    static const char *const words[] = {"none",      "address_limit", "web_server",
                                        "passwords", "disk",          "talview"};
    static const char *const names[] = {"verifications", "admissions", "terminations", "results",
                                        "investigations"};
    struct buf json = BUF_INIT, why = BUF_INIT, safe = BUF_INIT;
    enum rehearse_limit limit = rehearse_judge(run, result, &why);

    buf_addc(&json, '{');
    output_member_time(&json, "begun_at", result->begun_at_ms);
    json_add_member_int(&json, "candidates", (int64_t)run->candidates);
    json_add_member_int(&json, "within_s", run->within_ms / 1000);
    json_add_member_int(&json, "let_in", result->let_in);
    json_add_member_int(&json, "gave_up", result->gave_up);
    json_add_member_int(&json, "on_the_way", result->on_the_way);
    json_add_member_int(&json, "took_ms", result->took_ms);
    json_add_member_raw(&json, "ended_early", result->stopped ? "true" : "false");
    for (size_t i = 0; i < STEPS; i++)
        add_tally(&json, names[i], &result->tally[i]);
    json_add_key(&json, "events");
    buf_addc(&json, '{');
    add_times(&json, &result->events);
    buf_addc(&json, '}');
    json_add_key(&json, "until_let_in");
    buf_addc(&json, '{');
    add_times(&json, &result->until_in);
    buf_addc(&json, '}');
    json_add_key(&json, "ratings");
    buf_addc(&json, '{');
    json_add_member_raw(&json, "rehearsed", run->rated ? "true" : "false");
    json_add_member_int(&json, "fetched", result->rated);
    json_add_member_int(&json, "missing", result->not_rated);
    json_add_member_int(&json, "last_after_ms", result->rated_ms);
    buf_addc(&json, '}');
    json_add_member_int(&json, "cores", run->cores);
    add_ms(&json, "check_ms", run->check_ms);
    add_ms(&json, "commit_ms", run->commit_ms);
    /* Whatever was answered; UTF-8 for who reads this. */
    output_text(&safe, result->trouble);
    json_add_member_opt(&json, "trouble", result->trouble[0] ? buf_str(&safe) : NULL);
    json_add_member(&json, "bottleneck", words[limit]);
    buf_clear(&safe);
    output_text(&safe, buf_str(&why));
    json_add_member(&json, "reason", buf_str(&safe));
    buf_addc(&json, '}');
    output_json(out, &json);
    buf_release(&json);
    buf_release(&why);
    buf_release(&safe);
}
