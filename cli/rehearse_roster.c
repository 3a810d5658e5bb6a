/* The store's side of a rehearsal: is an exam on, made-up candidates, and all of it removed. */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "progress.h"
#include "rehearse.h"
#include "../common/clock.h"
#include "../common/cores.h"

#define PAGE 500
/* Real candidates who came within this time mean that an exam is on. */
#define QUIET_MS (3600 * INT64_C(1000))
/* How often a check and a write are measured. */
#define CHECKS 3
#define WRITES 7
/* A removal finds what comes in meanwhile by doing it again, so often at the most. */
#define REMOVE_TRIES 200
#define REMOVE_PAUSE_MS 500
/* Beyond its time limit a program may take this long to store an answer. */
#define LATE_MS 2000

const char *rehearse_id(const struct rehearse_run *run, size_t i, char id[REHEARSE_ID_BYTES])
{
    snprintf(id, REHEARSE_ID_BYTES, "%s-%06zu", run->mark, i);
    return id;
}

const char *rehearse_value(const struct rehearse_run *run, size_t i, const char *column, struct buf *text)
{
    char id[REHEARSE_ID_BYTES];

    rehearse_id(run, i, id);
    buf_clear(text);
    if (!strcmp(column, CONFIG_SECRET_COLUMN))
        buf_adds(text, run->secret);
    else if (!strcmp(column, "email"))
        buf_addf(text, "%s@rehearsal.invalid", id);
    else
        buf_adds(text, id);
    return buf_str(text);
}

/* --- One at a time ----------------------------------------------------------------------------------------
 */

int rehearse_lock(struct cli *cli, const struct config *config)
{
    struct buf path = BUF_INIT;
    char *folder = store_area_folder(config->store_url, STORE_ROSTER);
    int fd = -1;

    if (folder) {
        buf_addf(&path, "%s/rehearsal.lock", folder);
        fd = open(buf_str(&path), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0) {
        cli_failed(cli, "%s: %s", buf_str(&path), strerrordesc_np(errno));
    } else if (flock(fd, LOCK_EX | LOCK_NB)) {
        cli_failed(cli, errno == EWOULDBLOCK ? "another rehearsal is being played" : "no lock is to be had");
        close(fd);
        fd = -1;
    }
    buf_release(&path);
    free(folder);
    return fd;
}

/* --- Is an exam on? ---------------------------------------------------------------------------------------
 */

struct windows {
    int64_t now_ms, until_ms;
    int64_t open;                /* lines whose window is, or will be */
    int64_t opens_ms, closes_ms; /* of one of them */
};

/* A line without a beginning says nothing of when the exam is; one without an end, when it begins. */
static bool see_window(void *context, const struct candidate *line)
{
    struct windows *windows = context;
    int64_t closes_ms = line->closes_ms ? line->closes_ms : line->opens_ms + QUIET_MS;

    if (line->opens_ms && line->opens_ms <= windows->until_ms && closes_ms >= windows->now_ms &&
        !windows->open++) {
        windows->opens_ms = line->opens_ms;
        windows->closes_ms = line->closes_ms;
    }
    return true;
}

struct recent {
    int64_t count, last_ms;
};

static bool see_event(void *context, const struct store_event_row *row)
{
    struct recent *recent = context;

    if (row->event &&
        (!strcmp(row->event, "verify_respondent") || !strcmp(row->event, "admitted_respondent"))) {
        recent->count++;
        recent->last_ms = row->received_at_ms;
    }
    return true;
}

static int look_for_recent(struct cli *cli, struct store *store)
{
    struct store_filter filter = {.since_ms = clock_now_ms() - QUIET_MS};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct recent recent = {0};
    enum store_status status = STORE_OK;
    char text[CLOCK_TEXT_BYTES];

    for (bool more = true; more && !status;) {
        more = false;
        status = store_events(store, &filter, &cursor, PAGE, see_event, &recent, &more);
    }
    if (status)
        return cli_store_failed(cli, store, status, "reading the events");
    if (recent.count)
        return cli_failed(
            cli,
            "an exam is on: %lld verifications and admissions within the last hour, the last at %s; "
            "rehearse when nobody has come for an hour, or, if those were nobody's exam, with --even-now",
            (long long)recent.count, clock_format(recent.last_ms, text));
    return CLI_FINE;
}

int rehearse_exam_is_on(struct cli *cli, struct store *store, int64_t ahead_ms)
{
    struct roster_filter everybody = {0};
    struct windows windows = {.now_ms = clock_now_ms()};
    char opens[CLOCK_TEXT_BYTES], closes[CLOCK_TEXT_BYTES];
    enum store_status status;

    windows.until_ms = windows.now_ms + ahead_ms;
    status = store_roster_list(store, &everybody, see_window, &windows);
    if (status)
        return cli_store_failed(cli, store, status, "reading the roster");
    if (windows.open)
        return cli_failed(
            cli,
            "an exam is on, or about to be: %lld lines of the roster have a window that is open, one of "
            "them from %s%s%s; rehearse outside it",
            (long long)windows.open, clock_format(windows.opens_ms, opens), windows.closes_ms ? " to " : "",
            windows.closes_ms ? clock_format(windows.closes_ms, closes) : "");
    return look_for_recent(cli, store);
}

/* --- What the machine can do ------------------------------------------------------------------------------
 */

/* A kind that is one too many counts as the first. */
static bool see_hash(void *context, const struct candidate *line)
{
    struct rehearse_run *run = context;
    char class_text[32];
    size_t i = 0;

    if (!line->password_hash || !password_cost_class(line->password_hash, class_text))
        return true;
    while (i < run->kind_count && strcmp(run->kinds[i].class_text, class_text))
        i++;
    if (i == run->kind_count && i < REHEARSE_KINDS) {
        memcpy(run->kinds[i].class_text, class_text, sizeof(class_text));
        snprintf(run->kinds[i].hash, sizeof(run->kinds[i].hash), "%s", line->password_hash);
        run->kind_count++;
    }
    run->kinds[i < REHEARSE_KINDS ? i : 0].real++;
    return true;
}

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The least of some: what else the machine does only adds. */
static double measure_check(const struct rehearse_run *run, const struct rehearse_kind *kind)
{
    double least = 0;
    bool match;

    for (int i = 0; i < CHECKS; i++) {
        double began = now_ms();
        if (!password_check(kind->hash, run->secret, strlen(run->secret), &match) || !match)
            return 0;
        double took = now_ms() - began;
        least = i == 0 || took < least ? took : least;
    }
    return least;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

/* What one commit of one event would cost alone: a page written and synced. */
static double measure_commit(const struct config *config)
{
    char *folder = store_area_folder(config->store_url, STORE_ROSTER);
    char page[4096] = "rehearsal";
    double took[WRITES] = {0};
    int fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;

    for (int i = 0; fd >= 0 && i < WRITES; i++) {
        double began = now_ms();
        if (pwrite(fd, page, sizeof(page), (off_t)i * (off_t)sizeof(page)) != (ssize_t)sizeof(page) ||
            fdatasync(fd))
            break;
        took[i] = now_ms() - began;
    }
    if (fd >= 0)
        close(fd);
    free(folder);
    qsort(took, WRITES, sizeof(took[0]), compare);
    return took[WRITES / 2];
}

int rehearse_measure(struct cli *cli, const struct config *config, struct store *store,
                     struct rehearse_run *run)
{
    struct roster_filter everybody = {0};
    enum store_status status = store_roster_list(store, &everybody, see_hash, run);
    int64_t all = 0;

    if (status)
        return cli_store_failed(cli, store, status, "reading the roster");
    run->commit_ms = measure_commit(config);
    run->cores = cores_usable();
    if (config->hash_threads && config->hash_threads < run->cores)
        run->cores = (long)config->hash_threads;
    if (!run->kind_count) {
        /* Nobody is there yet: as an import would hash them. */
        if (!password_make(config->hash, run->secret, run->kinds[0].hash) ||
            !password_cost_class(run->kinds[0].hash, run->kinds[0].class_text))
            return cli_failed(cli, "no password can be hashed");
        run->kinds[0].real = 1;
        run->kind_count = 1;
    }
    for (size_t i = 0; i < run->kind_count; i++) {
        struct rehearse_kind *kind = &run->kinds[i];
        char like[PASSWORD_HASH_BYTES];

        memcpy(like, kind->hash, sizeof(like));
        if (!password_make_like(like, run->secret, kind->hash))
            return cli_failed(cli, "no password can be hashed as %s", kind->class_text);
        explicit_bzero(like, sizeof(like));
        kind->check_ms = measure_check(run, kind);
        run->check_ms += kind->check_ms * (double)kind->real;
        all += kind->real;
    }
    run->check_ms = run->asks_password ? run->check_ms / (double)all : 0;
    return CLI_FINE;
}

/* --- Candidates -------------------------------------------------------------------------------------------
 */

static bool is_own_column(const char *column)
{
    return strcmp(column, "id") && strcmp(column, "email") && strcmp(column, "name") &&
           strcmp(column, CONFIG_SECRET_COLUMN);
}

static enum store_status put(struct roster_build *build, const struct rehearse_run *run, size_t i,
                             size_t kind)
{
    struct candidate_attribute attributes[FIELDS_MAX];
    struct buf id = BUF_INIT, email = BUF_INIT, about = BUF_INIT;
    struct candidate candidate = {.account = STORE_REHEARSAL,
                                  .id = rehearse_value(run, i, "id", &id),
                                  .email = rehearse_value(run, i, "email", &email),
                                  .name = buf_str(&id),
                                  .password_hash = run->kinds[kind].hash,
                                  .exam = run->mark,
                                  .attributes = attributes};
    enum store_status status;

    buf_adds(&about, "made up for a rehearsal");
    candidate.about = buf_str(&about);
    for (int k = 0; k < run->map->count; k++) {
        if (is_own_column(run->map->at[k].column))
            attributes[candidate.attribute_count++] =
                (struct candidate_attribute){run->map->at[k].column, buf_str(&id)};
    }
    status = store_roster_put(build, &candidate, NULL);
    buf_release(&id);
    buf_release(&email);
    buf_release(&about);
    return status;
}

int rehearse_roster_fill(struct cli *cli, struct store *store, const struct rehearse_run *run)
{
    int64_t shares[REHEARSE_KINDS] = {0}, given[REHEARSE_KINDS] = {0};
    struct roster_build *build;
    struct progress progress;
    enum store_status status = store_roster_begin(store, STORE_REHEARSAL, true, run->mark, &build);

    if (status)
        return cli_store_failed(cli, store, status, "the roster was left as it was");
    for (size_t i = 0; i < run->kind_count; i++)
        shares[i] = run->kinds[i].real;
    progress_begin(&progress, cli->err, "making up candidates", (int64_t)run->candidates);
    for (size_t i = 0; i < run->candidates && !status && !rehearse_stopped(); i++) {
        status = put(build, run, i, shape_next_kind(shares, given, run->kind_count));
        progress_at(&progress, (int64_t)i);
    }
    progress_end(&progress);
    if (status || rehearse_stopped()) {
        store_roster_abandon(build);
        return status ? cli_store_failed(cli, store, status, "the roster was left as it was") : CLI_FAILED;
    }
    status = store_roster_commit(build);
    return status ? cli_store_failed(cli, store, status, "the roster was left as it was") : CLI_FINE;
}

/* --- Removed ----------------------------------------------------------------------------------------------
 */

/* The exam of a made-up line; any other line of the account is somebody's. */
static bool see_made_up(void *context, const struct candidate *line)
{
    char **mark = context;

    if (line->exam && !fnmatch(STORE_REHEARSAL_MARK, line->exam, 0))
        *mark = xstrdup(line->exam);
    return *mark == NULL;
}

static int empty_roster(struct cli *cli, struct store *store)
{
    struct roster_filter ours = {.account = STORE_REHEARSAL};
    enum store_status status = STORE_OK;

    for (bool any = true; any && !status;) {
        struct roster_build *build;
        char *mark = NULL;

        status = store_roster_list(store, &ours, see_made_up, &mark);
        any = mark != NULL;
        if (!status && any)
            status = store_roster_begin(store, STORE_REHEARSAL, true, mark, &build);
        if (!status && any)
            status = store_roster_commit(build);
        free(mark);
    }
    return status ? cli_store_failed(cli, store, status, "the made-up candidates are still in the roster")
                  : CLI_FINE;
}

static bool show_gone(void *context, int64_t gone)
{
    progress_at(context, gone);
    return true;
}

static int remove_once(struct cli *cli, struct store *store, int64_t expected, struct store_removed *removed,
                       bool *any)
{
    struct progress progress;
    struct store_removed now = {0};
    enum store_status status = STORE_BUSY;

    progress_begin(&progress, cli->err, "removing it all", expected);
    /* Somebody who reads holds up the overwriting for a moment. */
    for (int i = 0; status == STORE_BUSY && i < 5; i++)
        status = store_account_remove(store, STORE_REHEARSAL, STORE_REHEARSAL_MARK,
                                      expected ? show_gone : NULL, &progress, &now);
    progress_end(&progress);
    removed->events += now.events;
    removed->callbacks += now.callbacks;
    removed->sessions += now.sessions;
    if (now.newest_ms > removed->newest_ms)
        removed->newest_ms = now.newest_ms;
    *any = now.events || now.callbacks || now.sessions;
    return status ? cli_store_failed(cli, store, status,
                                     "not all of the rehearsal was removed: run `examhook rehearse --clean`")
                  : CLI_FINE;
}

int rehearse_remove(struct cli *cli, const struct config *config, struct store *store, bool late,
                    int64_t expected, struct store_removed *removed)
{
    int64_t until_ms = 0;
    bool any = true;
    int code = empty_roster(cli, store);

    for (int i = 0; !code && i < REMOVE_TRIES; i++) {
        code = remove_once(cli, store, expected, removed, &any);
        /* What was sent just before a rehearsal was killed may wait for its password check until now. */
        if (late && removed->newest_ms)
            until_ms = removed->newest_ms + config->budget_ms + LATE_MS;
        if (code || (!any && clock_now_ms() >= until_ms))
            break;
        if (i == 0 && until_ms > clock_now_ms() + REMOVE_PAUSE_MS)
            fprintf(cli->err, "examhook rehearse: waiting up to %lld s for what the killed rehearsal sent\n",
                    (long long)(until_ms - clock_now_ms()) / 1000 + 1);
        nanosleep(&(struct timespec){.tv_nsec = REMOVE_PAUSE_MS * 1000000L}, NULL);
    }
    return code;
}
