/* examhook rehearse */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rehearse.h"

#define CANDIDATES_MOST 100000
#define WITHIN_MOST_S 3600
#define WITHIN_DEFAULT_S 60
/* cron, where no worker lives on, starts one each minute. */
#define WAIT_DEFAULT_S 75
#define REPORT "rehearsal.html"
/* Of one candidate in the store: four events, a callback, a session. */
#define ROWS 6

enum {
    KEY_CANDIDATES = 'n',
    KEY_WITHIN = 'w',
    KEY_URL = 'u',
    KEY_CA = 'a',
    KEY_REPORT = 'r',
    KEY_JSON = 'j',
    KEY_NO_RATINGS = 'x',
    KEY_WAIT = 'q',
    KEY_EVEN_NOW = 'e',
    KEY_STANDIN = 't',
    KEY_SETUP = 's',
    KEY_DIR = 'd',
    KEY_CLEAN = 'c'
};

const struct cli_option cmd_rehearse_options[] = {
    {"candidates", "N", KEY_CANDIDATES, "how many made-up candidates come, 1 to 100000"},
    {"within", "S", KEY_WITHIN, "within so many seconds, four of five in the first third; 60 without it"},
    {"url", "URL", KEY_URL, "this installation as ExamJoint calls it: https://host[:port]"},
    {"ca", "FILE", KEY_CA, "the authorities (PEM) that its certificate is judged by; else the host's own"},
    {"report", "FILE", KEY_REPORT, "the page with the charts, a new file; else " REPORT},
    {"json", NULL, KEY_JSON, "the summary as one JSON object"},
    {"without-ratings", NULL, KEY_NO_RATINGS,
     "no stand-in of Talview, and no python3 for it: everything but ratings; with --setup too"},
    {"wait", "S", KEY_WAIT,
     "for a rating, so many seconds since the last that came; 75 without it: cron starts a worker each "
     "minute"},
    {"even-now", NULL, KEY_EVEN_NOW,
     "although somebody came within the last hour; not in a window of the roster"},
    {"standin", "FILE", KEY_STANDIN, "the stand-in of Talview, where it is not installed beside examhook"},
    {"setup", NULL, KEY_SETUP,
     "make the stand-in's certificate, and print the lines to paste into the configuration"},
    {"dir", "FOLDER", KEY_DIR,
     "with --setup: where the certificate is kept; else `rehearsal` in the store's folder"},
    {"clean", NULL, KEY_CLEAN, "remove what a rehearsal that was killed has left"},
    {NULL, NULL, 0, NULL},
};

struct rehearse_options {
    struct rehearse_target target;
    const char *report, *standin, *dir;
    int64_t candidates, within_s, wait_s;
    bool json, no_ratings, even_now, setup, clean;
};

static int read_option(struct cli *cli, int key, const char *value, struct rehearse_options *options)
{
    switch (key) {
    case KEY_CANDIDATES:
        return cli_number(value, 1, CANDIDATES_MOST, &options->candidates)
                   ? CLI_FINE
                   : cli_usage(cli, "--candidates needs a whole number, 1 to %d", CANDIDATES_MOST);
    case KEY_WITHIN:
        return cli_number(value, 1, WITHIN_MOST_S, &options->within_s)
                   ? CLI_FINE
                   : cli_usage(cli, "--within needs whole seconds, 1 to %d", WITHIN_MOST_S);
    case KEY_WAIT:
        return cli_number(value, 1, WITHIN_MOST_S, &options->wait_s)
                   ? CLI_FINE
                   : cli_usage(cli, "--wait needs whole seconds, 1 to %d", WITHIN_MOST_S);
    case KEY_URL:
        options->target.url = value;
        return rehearse_http_base_ok(value)
                   ? CLI_FINE
                   : cli_usage(cli, "--url is https://host[:port], with nothing behind");
    case KEY_CA:
        options->target.ca_file = value;
        return CLI_FINE;
    case KEY_REPORT:
        options->report = value;
        return CLI_FINE;
    case KEY_STANDIN:
        options->standin = value;
        return CLI_FINE;
    case KEY_DIR:
        options->dir = value;
        return CLI_FINE;
    default:
        options->json |= key == KEY_JSON;
        options->no_ratings |= key == KEY_NO_RATINGS;
        options->even_now |= key == KEY_EVEN_NOW;
        options->setup |= key == KEY_SETUP;
        options->clean |= key == KEY_CLEAN;
        return key == '?' ? CLI_USAGE : CLI_FINE;
    }
}

static int read_options(struct cli *cli, int argc, char **argv, struct rehearse_options *options)
{
    const char *value;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        int code = read_option(cli, key, value, options);

        if (code)
            return code;
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    if (options->setup + options->clean + (options->candidates > 0) != 1)
        return cli_usage(cli, "one of --candidates N, --setup and --clean");
    if (options->dir && (!options->setup || options->no_ratings))
        return cli_usage(cli, "--dir goes with --setup, where there are to be ratings");
    return CLI_FINE;
}

/* --- --setup ----------------------------------------------------------------------------------------------
 */

/* Beside the store's areas: there the worker may look, and others of the machine may too. */
static char *default_folder(const struct config *config)
{
    struct buf path = BUF_INIT;
    char *area = store_area_folder(config->store_url, STORE_ROSTER);
    char *folder;

    buf_addf(&path, "%s/%s", area ? dirname(area) : ".", STORE_REHEARSAL);
    folder = xstrdup(buf_str(&path));
    buf_release(&path);
    free(area);
    return folder;
}

/* The folder's whole path, which the worker finds from anywhere; NULL after the message. */
static char *make_certificates(struct cli *cli, const struct config *config,
                               const struct rehearse_options *options)
{
    char *program = rehearse_standin_find(cli, options->standin), *folder, *whole = NULL;

    if (!program)
        return NULL;
    folder = options->dir ? xstrdup(options->dir) : default_folder(config);
    if (!rehearse_standin_certificates(cli, program, folder, config->personal)) {
        whole = realpath(folder, NULL);
        if (!whole)
            cli_failed(cli, "%s: %s", folder, strerrordesc_np(errno));
    }
    free(folder);
    free(program);
    return whole;
}

static int setup(struct cli *cli, const struct config *config, const struct rehearse_options *options)
{
    struct buf ca_file = BUF_INIT;
    char *folder;
    int code = CLI_FAILED;

    if (options->no_ratings)
        return rehearse_account_print(cli, config, NULL);
    folder = make_certificates(cli, config, options);
    if (folder) {
        buf_addf(&ca_file, "%s/ca.pem", folder);
        code = rehearse_account_print(cli, config, buf_str(&ca_file));
    }
    buf_release(&ca_file);
    free(folder);
    return code;
}

/* --- --clean ----------------------------------------------------------------------------------------------
 */

static void say_removed(struct cli *cli, FILE *out, const struct store_removed *removed)
{
    (void)cli;
    fprintf(out, "removed: %lld events, %lld callbacks, %lld sessions, and the made-up candidates\n",
            (long long)removed->events, (long long)removed->callbacks, (long long)removed->sessions);
}

static int clean(struct cli *cli, const struct config *config)
{
    struct store_removed removed = {0};
    struct store *store;
    int code = cli_store(cli, config, STORE_ALL, 0, &store), lock;

    if (code)
        return code;
    lock = rehearse_lock(cli, config);
    code = lock < 0 ? CLI_FAILED : rehearse_remove(cli, config, store, true, 0, &removed);
    if (!code)
        say_removed(cli, cli->out, &removed);
    if (lock >= 0)
        close(lock);
    store_free(store);
    return code;
}

/* --- A rehearsal ------------------------------------------------------------------------------------------
 */

/* All that one rehearsal holds. */
struct rehearsal {
    struct cli *cli;
    const struct config *config;
    const struct rehearse_options *options;
    struct store *store;
    struct rehearse_account account;
    struct rehearse_run run;
    struct rehearse_result result;
    struct rehearse_standin standin;
    char *program; /* of the stand-in */
    int lock_fd;
};

static int check_report(struct cli *cli, const char *path)
{
    struct stat there;
    char *copy = xstrdup(path);
    const char *folder = dirname(copy);
    int code = CLI_FINE;

    if (lstat(path, &there) == 0)
        code = cli_failed(cli, "%s is there already: move it away, or name another by --report", path);
    else if (access(folder, W_OK | X_OK))
        code = cli_failed(cli, "%s: %s", folder, strerrordesc_np(errno));
    free(copy);
    return code;
}

static int write_report(struct rehearsal *r)
{
    struct buf html = BUF_INIT;
    const char *path = r->options->report;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), code = CLI_FINE;
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");

    rehearse_chart(&html, &r->run, &r->result);
    if (!file || fwrite(html.data, 1, html.len, file) != html.len)
        code = cli_failed(r->cli, "%s: %s", path, strerrordesc_np(errno));
    if (file && fclose(file) && !code)
        code = cli_failed(r->cli, "%s: %s", path, strerrordesc_np(errno));
    if (!code)
        fprintf(r->options->json ? r->cli->err : r->cli->out, "charts: %s\n", path);
    buf_release(&html);
    return code;
}

static int look_for_standin(struct rehearsal *r)
{
    const struct rehearse_account *account = &r->account;

    r->run.rated = !r->options->no_ratings;
    if (!r->run.rated)
        return CLI_FINE;
    if (!account->port || !account->username || !account->password || !account->app_id || !account->ca_file)
        return cli_failed(
            r->cli, "[proview " STORE_REHEARSAL "] does not lead to a stand-in on this machine: put the "
                    "lines of `examhook rehearse --setup` in its place, or say --without-ratings");
    if (account->proxy)
        return cli_failed(r->cli,
                          "[worker] has a proxy, by which no stand-in on this machine is reached: rehearse "
                          "everything but ratings with --without-ratings");
    r->program = rehearse_standin_find(r->cli, r->options->standin);
    return r->program ? CLI_FINE : CLI_FAILED;
}

/* What can be said before anything is touched. */
static int prepare(struct rehearsal *r)
{
    struct rehearse_run *run = &r->run;
    unsigned char bytes[16];
    int code;

    if (!rehearse_account_there(r->config))
        return cli_failed(r->cli,
                          "a rehearsal needs an account of its own, and %s has no [examjoint " STORE_REHEARSAL
                          "] and [proview " STORE_REHEARSAL
                          "]: `examhook rehearse --setup` prints the lines to paste",
                          r->config->path);
    if (!r->options->target.url)
        return cli_usage(r->cli, "--url says how ExamJoint calls this installation: https://host[:port]");
    if (sodium_init() < 0)
        return cli_failed(r->cli, "no random numbers");
    code = check_report(r->cli, r->options->report);
    if (!code)
        code = rehearse_account_read(r->cli, r->config, &r->account);
    if (!code)
        code = look_for_standin(r);
    if (code)
        return code;
    randombytes_buf(bytes, sizeof(bytes));
    sodium_bin2hex(run->secret, sizeof(run->secret), bytes, sizeof(bytes));
    randombytes_buf(bytes, sizeof(bytes));
    snprintf(run->mark, sizeof(run->mark), STORE_REHEARSAL "-%02x%02x%02x%02x%02x", bytes[0], bytes[1],
             bytes[2], bytes[3], bytes[4]);
    run->candidates = (size_t)r->options->candidates;
    run->within_ms = r->options->within_s * 1000;
    run->wait_ms = r->options->wait_s * 1000;
    run->map = config_field_map(r->config, STORE_REHEARSAL, run->mark);
    for (int i = 0; run->map && i < run->map->count; i++)
        run->asks_password |= !strcmp(run->map->at[i].column, CONFIG_SECRET_COLUMN);
    if (!run->map || run->map->count <= run->asks_password)
        return cli_failed(r->cli,
                          "no [fields] of the account " STORE_REHEARSAL " maps an identity: see the lines of "
                          "`examhook rehearse --setup`");
    return CLI_FINE;
}

/* What an earlier one left goes before anything is measured; a refusal comes before all. */
static int begin(struct rehearsal *r)
{
    struct store_removed left = {0};
    int code = rehearse_window_open(r->cli, r->store, r->run.within_ms + REHEARSE_REST_MS);

    if (!code && !r->options->even_now)
        code = rehearse_somebody_came(r->cli, r->store);
    if (!code)
        code = rehearse_remove(r->cli, r->config, r->store, true, 0, &left);
    if (!code && (left.events || left.callbacks || left.sessions))
        say_removed(r->cli, r->cli->err, &left);
    if (!code)
        code = rehearse_measure(r->cli, r->config, r->store, &r->run);
    return code;
}

static int play(struct rehearsal *r)
{
    int code = CLI_FINE;

    if (r->run.rated)
        code = rehearse_standin_start(r->cli, r->program, &r->account, &r->standin);
    if (!code)
        code = rehearse_roster_fill(r->cli, r->store, &r->run);
    if (!code)
        code = rehearse_probe(r->cli, r->store, &r->options->target, &r->account, &r->run);
    if (!code && !rehearse_stopped())
        code =
            rehearse_day(r->cli, r->config, r->store, &r->options->target, &r->account, &r->run, &r->result);
    return code;
}

static int report(struct rehearsal *r)
{
    const struct rehearse_result *result = &r->result;
    int code = write_report(r);

    if (r->options->json)
        rehearse_print_json(r->cli->out, &r->run, &r->result);
    else
        rehearse_print(r->cli->out, &r->run, &r->result);
    if (code)
        return code;
    return result->stopped || result->gave_up || result->on_the_way || result->not_rated ? CLI_FAILED
                                                                                         : CLI_FINE;
}

/* From the first made-up candidate on, everything ends with a removal. */
static int rehearse(struct rehearsal *r)
{
    struct store_removed removed = {0};
    int code = begin(r), cleaned;

    if (code)
        return code;
    rehearse_catch_signals();
    code = play(r);
    cleaned =
        rehearse_remove(r->cli, r->config, r->store, false, (int64_t)r->run.candidates * ROWS, &removed);
    rehearse_standin_stop(&r->standin);
    if (!code && r->result.begun_at_ms)
        code = report(r);
    if (!cleaned)
        say_removed(r->cli, r->options->json ? r->cli->err : r->cli->out, &removed);
    /* Ctrl-C while all of it is being removed ends nothing. */
    if (r->result.stopped || (rehearse_stopped() && !r->result.begun_at_ms))
        code = cli_failed(r->cli, "ended early");
    return cleaned ? cleaned : code;
}

static int run(struct cli *cli, const struct config *config, const struct rehearse_options *options)
{
    struct rehearsal r = {.cli = cli, .config = config, .options = options, .lock_fd = -1};
    int code = prepare(&r);

    if (!code)
        code = cli_store(cli, config, STORE_ALL, 0, &r.store);
    if (!code) {
        r.lock_fd = rehearse_lock(cli, config);
        code = r.lock_fd < 0 ? CLI_FAILED : rehearse(&r);
    }
    if (r.lock_fd >= 0)
        close(r.lock_fd);
    store_free(r.store);
    rehearse_account_release(&r.account);
    rehearse_result_release(&r.result);
    sodium_memzero(&r.run, sizeof(r.run));
    free(r.program);
    return code;
}

int cmd_rehearse(struct cli *cli, int argc, char **argv)
{
    struct rehearse_options options = {
        .within_s = WITHIN_DEFAULT_S, .wait_s = WAIT_DEFAULT_S, .report = REPORT};
    struct config *config = NULL;
    int code = read_options(cli, argc, argv, &options);

    if (!code)
        code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    if (options.setup)
        code = setup(cli, config, &options);
    else if (options.clean)
        code = clean(cli, config);
    else
        code = run(cli, config, &options);
    config_free(config);
    return code;
}
