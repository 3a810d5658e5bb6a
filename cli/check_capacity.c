#include "check_capacity.h"

#include <stdlib.h>
#include <string.h>

#include "check_measure.h"
#include "../common/clock.h"
#include "../common/cores.h"
#include "../common/password.h"

#define MINUTE_MS 60000
#define KINDS 16
/* Of the machine's time this is what password checks get; the rest is for TLS, the web server and the other
 * events. */
#define SHARE_TENTHS 9
/* All measuring together, on each thread; and one kind of hash, where one check is not longer. */
#define MEASURE_ALL_US 900000
#define MEASURE_ONE_US 80000
/* As long as all measuring lasts at the most where others have the cores. */
#define MEASURE_WAIT_US 3000000
/* What others have of the cores meanwhile is told from here on. */
#define BUSY_PERCENT 25
#define WARNINGS_MAX 5
/* Where a hash costs no more than this, a cheaper one is no advice. */
#define CHEAP_US 5000

/* Hashes that cost the same. */
struct kind {
    char class_text[32];
    char setting[PASSWORD_HASH_BYTES];
    int64_t lines;
    int64_t us;                             /* one check */
    enum { MEASURED, SCALED, GUESSED } how; /* scaled: too dear to be measured itself */
    int busy_percent;
};

struct exam {
    char *account, *name; /* "": candidates who may sit any */
    struct exam *next;
};

/* A candidate: who may start when. minute 0: at any time from now on. */
struct starter {
    const struct exam *exam;
    int64_t minute;
    int kind;
};

/* Those of one exam who may start in the same minute. */
struct start {
    const struct exam *exam;
    int64_t minute, candidates, us;
};

struct capacity {
    int64_t now_ms;
    struct kind kinds[KINDS];
    int kind_count;
    struct exam *exams;
    const struct exam *last;
    struct starter *starters;
    size_t count, room;
    struct start *starts; /* by account, exam and minute */
    size_t start_count;
    int at_once;
};

struct capacity *capacity_new(int64_t now_ms)
{
    struct capacity *capacity = xcalloc(1, sizeof *capacity);
    capacity->now_ms = now_ms;
    return capacity;
}

void capacity_free(struct capacity *capacity)
{
    struct exam *exam;
    if (!capacity)
        return;
    while ((exam = capacity->exams)) {
        capacity->exams = exam->next;
        free(exam->account);
        free(exam->name);
        free(exam);
    }
    free(capacity->starters);
    free(capacity->starts);
    free(capacity);
}

/* --- Counting ------------------------------------------------------------------------------------------- */

static int kind_of(struct capacity *capacity, const char *hash)
{
    char class_text[32];
    int i;
    if (!password_cost_class(hash, class_text))
        return -1; /* whoever wrote that into the file: crypt(3) is not even asked */
    for (i = 0; i < capacity->kind_count; i++) {
        if (!strcmp(capacity->kinds[i].class_text, class_text))
            return i;
    }
    if (i == KINDS || !password_dummy(hash, capacity->kinds[i].setting))
        return i == KINDS ? KINDS - 1 : -1;
    memcpy(capacity->kinds[i].class_text, class_text, sizeof class_text);
    return capacity->kind_count++;
}

static bool is_exam(const struct exam *exam, const char *account, const char *name)
{
    return !strcmp(exam->account, account) && !strcmp(exam->name, name);
}

/* There are some dozens at the most, and the lines of one stand together. */
static const struct exam *exam_of(struct capacity *capacity, const char *account, const char *name)
{
    struct exam *exam;
    if (capacity->last && is_exam(capacity->last, account, name))
        return capacity->last;
    for (exam = capacity->exams; exam && !is_exam(exam, account, name); exam = exam->next)
        ;
    if (!exam) {
        exam = xcalloc(1, sizeof *exam);
        exam->account = xstrdup(account);
        exam->name = xstrdup(name);
        exam->next = capacity->exams;
        capacity->exams = exam;
    }
    return capacity->last = exam;
}

void capacity_take(struct capacity *capacity, const struct candidate *line)
{
    int kind = line->password_hash ? kind_of(capacity, line->password_hash) : -1;

    if (kind < 0 || (line->closes_ms != 0 && line->closes_ms <= capacity->now_ms))
        return;
    if (capacity->count == capacity->room) {
        capacity->room = capacity->room ? 2 * capacity->room : 256;
        capacity->starters = xrealloc(capacity->starters, capacity->room * sizeof *capacity->starters);
    }
    capacity->kinds[kind].lines++;
    capacity->starters[capacity->count++] =
        (struct starter){.exam = exam_of(capacity, line->account, line->exam ? line->exam : ""),
                         .minute = line->opens_ms > capacity->now_ms ? line->opens_ms / MINUTE_MS : 0,
                         .kind = kind};
}

/* --- Measuring ------------------------------------------------------------------------------------------ */

static const char *kind_word(const char *class_text)
{
    return class_text[1] == 'y' ? "yescrypt" : class_text[1] == '2' ? "bcrypt" : "sha512crypt";
}

/* A cheap one of the same kind, from which a dear one's time is reckoned. */
static const char *cheap_sibling(const char *class_text)
{
    return class_text[1] == 'y'   ? password_default_dummy()
           : class_text[1] == '2' ? "$2b$08$Nobody.Has.This.Salt0."
                                  : "$6$Nobody.Has.This0";
}

static void measure_kind(struct kind *kind, int at_once, int64_t until_us, int64_t *left_us)
{
    int64_t guess_us = password_cost_guess_us(kind->setting);
    bool dear = guess_us > *left_us;
    const char *setting = dear ? cheap_sibling(kind->class_text) : kind->setting;
    struct measure got = {.us = password_cost_guess_us(setting)};

    bool measured = measure_check(setting, at_once, MEASURE_ONE_US, until_us, &got);
    kind->how = !measured ? GUESSED : dear ? SCALED : MEASURED;
    *left_us -= got.us > MEASURE_ONE_US ? got.us : MEASURE_ONE_US;
    kind->busy_percent = got.busy_percent;
    kind->us = dear ? (int64_t)((double)got.us * (double)guess_us / (double)password_cost_guess_us(setting))
                    : got.us;
}

static int64_t a_minute(const struct capacity *capacity, int64_t us)
{
    return (int64_t)capacity->at_once * MINUTE_MS * 1000 / 10 * SHARE_TENTHS / us;
}

/* How the figure came about, where it is not simply that of this machine at rest. */
static void add_how(struct buf *text, const struct kind *kind)
{
    if (kind->how == GUESSED)
        buf_adds(text, "; that is a common machine's figure: this one is too busy, or short of memory, to "
                       "measure its own");
    else if (kind->busy_percent >= BUSY_PERCENT)
        buf_addf(text, "; others have %d%% of its cores just now, which is not taken off",
                 kind->busy_percent);
}

static void say_kind(struct check_report *report, const struct capacity *capacity, const struct kind *kind,
                     int cores)
{
    struct buf how = BUF_INIT;
    add_how(&how, kind);
    check_line(report, CHECK_OK, "capacity", NULL,
               "one check of %s (%s) takes %s%.1f ms of a core; with %d at once on %d core%s this machine "
               "verifies about %lld candidates a minute%s",
               kind_word(kind->class_text), kind->class_text, kind->how == MEASURED ? "" : "some ",
               (double)kind->us / 1000, capacity->at_once, cores, cores == 1 ? "" : "s",
               (long long)a_minute(capacity, kind->us), buf_str(&how));
    buf_release(&how);
}

static void say_kinds(struct check_report *report, const struct config *config, struct capacity *capacity)
{
    int cores = cores_usable();
    int64_t left_us = MEASURE_ALL_US, until_us = measure_now_us() + MEASURE_WAIT_US;

    capacity->at_once =
        config->hash_threads > 0 && config->hash_threads < cores ? (int)config->hash_threads : cores;
    for (int i = 0; i < capacity->kind_count; i++) {
        struct kind *kind = &capacity->kinds[i];
        if (!kind->lines)
            continue;
        measure_kind(kind, capacity->at_once, until_us, &left_us);
        say_kind(report, capacity, kind, cores);
    }
}

/* --- Who starts together -------------------------------------------------------------------------------- */

static int compare_exams(const struct exam *a, const struct exam *b)
{
    int order = strcmp(a->account, b->account);
    return order ? order : strcmp(a->name, b->name);
}

static int compare_starters(const void *left, const void *right)
{
    const struct starter *a = left, *b = right;
    int order = a->exam == b->exam ? 0 : compare_exams(a->exam, b->exam);
    return order ? order : (a->minute > b->minute) - (a->minute < b->minute);
}

static void make_starts(struct capacity *capacity)
{
    struct start *start = NULL;
    qsort(capacity->starters, capacity->count, sizeof *capacity->starters, compare_starters);
    capacity->starts = xcalloc(capacity->count, sizeof *capacity->starts);
    for (size_t i = 0; i < capacity->count; i++) {
        const struct starter *s = &capacity->starters[i];
        if (!start || start->exam != s->exam || start->minute != s->minute) {
            start = &capacity->starts[capacity->start_count++];
            *start = (struct start){.exam = s->exam, .minute = s->minute};
        }
        start->candidates++;
        start->us += capacity->kinds[s->kind].us;
    }
}

static int compare_starts(const void *left, const void *right)
{
    const struct start *a = left, *b = right;
    int order = compare_exams(a->exam, b->exam);
    return order ? order : (a->minute > b->minute) - (a->minute < b->minute);
}

static void add_start(struct start *sum, const struct start *more)
{
    sum->candidates += more->candidates;
    sum->us += more->us;
}

static void add_found(const struct capacity *capacity, struct start *sum, const struct exam *exam,
                      int64_t minute)
{
    struct start wanted = {.exam = exam, .minute = minute};
    const struct start *found =
        bsearch(&wanted, capacity->starts, capacity->start_count, sizeof *capacity->starts, compare_starts);
    if (found)
        add_start(sum, found);
}

/* The start of this exam and minute, with all who may join: those without an exam of their own, and those who
 * may start at any time. */
static struct start with_all_who_may_join(const struct capacity *capacity, const struct start *start)
{
    char none[] = "";
    const struct exam any = {.account = start->exam->account, .name = none};
    struct start sum = *start;
    bool named = *start->exam->name;

    if (start->minute != 0)
        add_found(capacity, &sum, start->exam, 0);
    if (named)
        add_found(capacity, &sum, &any, 0);
    if (named && start->minute != 0)
        add_found(capacity, &sum, &any, start->minute);
    return sum;
}

static void add_when(struct buf *text, int64_t minute)
{
    char when[CLOCK_TEXT_BYTES];
    if (minute == 0)
        buf_adds(text, "at any time");
    else /* to the minute */
        buf_addf(text, "at %.16sZ", clock_format(minute * MINUTE_MS, when));
}

static void add_whose(struct buf *text, const struct start *start)
{
    if (*start->exam->name)
        buf_addf(text, "exam %s of %s", start->exam->name, start->exam->account);
    else
        buf_addf(text, "%s without an exam of their own", start->exam->account);
}

static int64_t takes_s(const struct capacity *capacity, const struct start *start)
{
    return start->us / capacity->at_once * 10 / SHARE_TENTHS / 1000000 + 1;
}

static bool too_many(const struct capacity *capacity, const struct start *start)
{
    return start->us / capacity->at_once > (int64_t)MINUTE_MS * 1000 / 10 * SHARE_TENTHS;
}

static void warn(struct check_report *report, const struct capacity *capacity, const struct start *start,
                 const char *whose)
{
    int64_t each_us = start->us / start->candidates + 1;
    struct buf when = BUF_INIT;
    add_when(&when, start->minute);
    check_line(report, CHECK_WARNING, "capacity",
               each_us > CHEAP_US ? "a cheaper hash for codes that are good for one day ([roster] hash = "
                                    "sha512crypt), more cores, or a second machine"
                                  : "more cores, or a second machine",
               "%lld candidates of %s may start in the same minute, %s; this machine verifies about %lld of "
               "them in a minute, all in %lld s: most are told to try again later",
               (long long)start->candidates, whose, buf_str(&when), (long long)a_minute(capacity, each_us),
               (long long)takes_s(capacity, start));
    buf_release(&when);
}

static void say_largest(struct check_report *report, const struct capacity *capacity,
                        const struct start *largest)
{
    struct buf text = BUF_INIT;
    add_whose(&text, largest);
    buf_adds(&text, ", ");
    add_when(&text, largest->minute);
    check_line(report, CHECK_OK, "capacity", NULL,
               "the largest start, %lld candidates of %s, takes about %lld s if all come at once",
               (long long)largest->candidates, buf_str(&text), (long long)takes_s(capacity, largest));
    buf_release(&text);
}

static int compare_minutes(const void *left, const void *right)
{
    const struct start *a = left, *b = right;
    return (a->minute > b->minute) - (a->minute < b->minute);
}

static void warn_of_minute(struct check_report *report, const struct capacity *capacity,
                           const struct start *sum, size_t exams)
{
    struct buf whose = BUF_INIT;
    buf_addf(&whose, "%zu exams together", exams);
    warn(report, capacity, sum, buf_str(&whose));
    buf_release(&whose);
}

/* Exams that fit one by one, and not all those of one minute together. Returns how many such minutes. The
 * order of the starts is another one then. */
static int warn_of_minutes(struct check_report *report, struct capacity *capacity)
{
    int found = 0;
    qsort(capacity->starts, capacity->start_count, sizeof *capacity->starts, compare_minutes);
    for (size_t i = 0, next; i < capacity->start_count; i = next) {
        struct start sum = capacity->starts[i];
        for (next = i + 1; next < capacity->start_count && capacity->starts[next].minute == sum.minute;
             next++)
            add_start(&sum, &capacity->starts[next]);
        if (sum.minute == 0 || next - i < 2 || !too_many(capacity, &sum))
            continue;
        if (++found <= WARNINGS_MAX)
            warn_of_minute(report, capacity, &sum, next - i);
    }
    return found;
}

void check_capacity(struct check_report *report, const struct config *config, struct capacity *capacity)
{
    struct start largest = {.us = -1};
    int warnings = 0;

    if (!capacity->count)
        return;
    say_kinds(report, config, capacity);
    make_starts(capacity);
    for (size_t i = 0; i < capacity->start_count; i++) {
        struct start sum = with_all_who_may_join(capacity, &capacity->starts[i]);
        if (sum.us > largest.us)
            largest = sum;
        if (too_many(capacity, &sum) && ++warnings <= WARNINGS_MAX) {
            struct buf whose = BUF_INIT;
            add_whose(&whose, &sum);
            warn(report, capacity, &sum, buf_str(&whose));
            buf_release(&whose);
        }
    }
    if (!warnings)
        warnings = warn_of_minutes(report, capacity);
    if (!warnings && largest.exam)
        say_largest(report, capacity, &largest);
    if (warnings > WARNINGS_MAX)
        check_line(report, CHECK_WARNING, "capacity", NULL, "and %d more such starts",
                   warnings - WARNINGS_MAX);
}
