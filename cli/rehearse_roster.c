/* The store's side of a rehearsal: made-up candidates, and all of it removed. */
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

/* Whose it is stands in it; the kernel lets go of it when that process ends, whatever ended it. */
static void say_locked(struct cli *cli, int fd)
{
    char text[24] = "";
    int64_t pid;

    if (pread(fd, text, sizeof(text) - 1, 0) > 0)
        text[strcspn(text, "\n")] = '\0';
    if (!cli_number(text, 1, INT32_MAX, &pid))
        cli_failed(cli, "another rehearsal is being played: wait until it is over");
    else
        cli_failed(
            cli,
            "another rehearsal is being played, by process %lld: wait until it is over, or end it with "
            "`kill %lld`, upon which it removes what it made. If it does not end, `kill -9 %lld`, and "
            "then `examhook rehearse --clean`",
            (long long)pid, (long long)pid, (long long)pid);
}

static bool take_lock(struct cli *cli, int fd, const char *path)
{
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            say_locked(cli, fd);
        else
            cli_failed(cli, "%s: %s", path, strerrordesc_np(errno));
        return false;
    }
    /* Only a message would miss it. */
    if (ftruncate(fd, 0) == 0)
        dprintf(fd, "%lld\n", (long long)getpid());
    return true;
}

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
    } else if (!take_lock(cli, fd, buf_str(&path))) {
        close(fd);
        fd = -1;
    }
    buf_release(&path);
    free(folder);
    return fd;
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

static int say_not_filled(struct cli *cli, const struct store *store, enum store_status status)
{
    return cli_store_failed(cli, store, status, "no made-up candidates could be put into the roster");
}

int rehearse_roster_fill(struct cli *cli, struct store *store, const struct rehearse_run *run)
{
    int64_t shares[REHEARSE_KINDS] = {0}, given[REHEARSE_KINDS] = {0};
    struct roster_build *build;
    struct progress progress;
    enum store_status status = store_roster_begin(store, STORE_REHEARSAL, true, run->mark, &build);

    if (status)
        return say_not_filled(cli, store, status);
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
        return status ? say_not_filled(cli, store, status) : CLI_FAILED;
    }
    status = store_roster_commit(build);
    return status ? say_not_filled(cli, store, status) : CLI_FINE;
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

#define GO_ON "`examhook rehearse --clean` removes the rest, once what is in the way is over"

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
    return status ? cli_store_failed(cli, store, status,
                                     "the made-up candidates are still in the roster, and " GO_ON)
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
    return status ? cli_store_failed(cli, store, status, "not all of a rehearsal was removed, and " GO_ON)
                  : CLI_FINE;
}

/* A rehearsal that was killed while it put candidates into a new roster left that file. Whoever begins
   another removes it first; where somebody is at that just now, it is done. */
static int remove_half_made(struct cli *cli, struct store *store)
{
    struct roster_build *build;
    enum store_status status = store_roster_begin(store, STORE_REHEARSAL, false, NULL, &build);

    if (!status)
        store_roster_abandon(build);
    return status && status != STORE_BUSY
               ? cli_store_failed(cli, store, status, "a half-made roster may be there, and " GO_ON)
               : CLI_FINE;
}

int rehearse_remove(struct cli *cli, const struct config *config, struct store *store, bool late,
                    int64_t expected, struct store_removed *removed)
{
    int64_t until_ms = 0;
    bool any = true;
    int roster = empty_roster(cli, store), code = CLI_FINE;

    if (!roster && late)
        roster = remove_half_made(cli, store);
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
    return code ? code : roster;
}
