/* examhook check: is this installation sound? */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "cli.h"
#include "output.h"
#include "../common/clock.h"
#include "../common/json.h"

#define EPOCH_2026_MS 1767225600000LL
#define AHEAD_MS (60 * 1000)
#define SOCKETS_MAX 32

enum { KEY_START = 's', KEY_ONLINE = 'o', KEY_FULL = 'f', KEY_SOCKET = 'k', KEY_JSON = 'j', KEY_FOR = 'p' };

const struct cli_option cmd_check_options[] = {
    {"start", NULL, KEY_START, "only what prevents running, in under a second"},
    {"for", "PROGRAM", KEY_FOR, "only what examjoint, proview or worker needs"},
    {"online", NULL, KEY_ONLINE, "also whether Talview accepts the login"},
    {"full", NULL, KEY_FULL, "also the integrity of every file of the store; takes its time"},
    {"socket", "PATH", KEY_SOCKET,
     "also whether a program answers there; may be given several times; those in /run/examhook are looked at "
     "by themselves"},
    {"json", NULL, KEY_JSON, "one JSON object a line: level, what, text, advice"},
    {NULL, NULL, 0, NULL},
};

struct check_options {
    bool start, online, full, json, one_program;
    unsigned roles, write_areas, read_areas;
    const char *sockets[SOCKETS_MAX];
    size_t socket_count;
};

void check_line(struct check_report *report, enum check_level level, const char *what, const char *advice,
                const char *format, ...)
{
    static const char *const words[] = {"ok", "warning", "failed"};
    struct buf line = BUF_INIT, text = BUF_INIT;
    char said[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(said, sizeof(said), format, arguments);
    va_end(arguments);
    report->failed += level == CHECK_FAILED;
    output_text(&text, said); /* also makes valid UTF-8 of a text that was cut */
    if (report->json) {
        buf_addc(&line, '{');
        json_add_member(&line, "level", words[level]);
        json_add_member(&line, "what", what);
        json_add_member(&line, "text", buf_str(&text));
        json_add_member(&line, "advice", advice);
        buf_addc(&line, '}');
        output_json(report->out, &line);
    } else {
        fprintf(report->out, "%-7s  %s: %s%s%s\n", words[level], what, buf_str(&text), advice ? " — " : "",
                advice ? advice : "");
    }
    fflush(report->out);
    buf_release(&line);
    buf_release(&text);
}

static bool choose_program(struct check_options *options, const char *name)
{
    static const struct {
        enum config_role role;
        unsigned write_areas, read_areas;
    } programs[] = {
        {CONFIG_EXAMJOINT, STORE_EXAMJOINT, STORE_ROSTER},
        {CONFIG_PROVIEW, STORE_PROVIEW, 0},
        {CONFIG_WORKER, STORE_RATINGS, STORE_PROVIEW},
    };
    enum config_role role;

    for (size_t i = 0; cli_role(name, &role) && i < sizeof(programs) / sizeof(programs[0]); i++) {
        if (programs[i].role != role)
            continue;
        options->one_program = true;
        options->roles = role;
        options->write_areas = programs[i].write_areas;
        options->read_areas = programs[i].read_areas;
        return true;
    }
    return false;
}

static int take_option(struct cli *cli, struct check_options *options, int key, const char *value)
{
    switch (key) {
    case KEY_START:
        options->start = true;
        return CLI_FINE;
    case KEY_ONLINE:
        options->online = true;
        return CLI_FINE;
    case KEY_FULL:
        options->full = true;
        return CLI_FINE;
    case KEY_JSON:
        options->json = true;
        return CLI_FINE;
    case KEY_FOR:
        return choose_program(options, value) ? CLI_FINE
                                              : cli_usage(cli, "--for is examjoint, proview or worker");
    case KEY_SOCKET:
        if (options->socket_count == SOCKETS_MAX)
            return cli_usage(cli, "at most %d sockets", SOCKETS_MAX);
        options->sockets[options->socket_count++] = value;
        return CLI_FINE;
    default:
        return CLI_USAGE;
    }
}

/* Where the units of systemd put them; looked at when they are there and none was named. */
static const char *const usual_sockets[] = {"/run/examhook/examjoint.sock", "/run/examhook/proview.sock"};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void check_socket(struct check_report *report, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path)) {
        check_line(report, CHECK_FAILED, "socket", "use a shorter one", "%s is too long a path", path);
        return;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)))
        check_line(report, CHECK_FAILED, "socket",
                   errno == EACCES   ? "look at its mode and group: the web server needs them too"
                   : errno == EAGAIN ? "the program is behind: look at its log"
                                     : "start the program, or look at its log",
                   "%s: %s", path, strerror(errno));
    else
        check_line(report, CHECK_OK, "socket", NULL, "%s answers", path);
    if (fd >= 0)
        close(fd);
}

static void take_finding(void *context, const struct store_finding *finding)
{
    struct check_report *report = context;
    char what[64];

    snprintf(what, sizeof(what), "store, %.40s", finding->area);
    enum check_level level = finding->ok                          ? CHECK_OK
                             : finding->harmless && report->start ? CHECK_WARNING
                                                                  : CHECK_FAILED;

    check_line(report, level, what, finding->advice, "%s", finding->text);
}

static bool any_event(void *context, const struct store_event_row *row)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

/* A clock that was put back makes deadlines wait and orders events wrongly. */
static void check_clock(struct check_report *report, const struct config *config)
{
    int64_t now = clock_now_ms();
    struct store_filter filter = {.since_ms = now + AHEAD_MS};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store *store;
    struct buf why = BUF_INIT;
    char text[CLOCK_TEXT_BYTES];
    bool later = false, more;

    if (now < EPOCH_2026_MS) {
        check_line(report, CHECK_FAILED, "clock", "set it, and let NTP keep it", "says %s",
                   clock_format(now, text));
        return;
    }
    if (!store_open(config->store_url, 0, STORE_EXAMJOINT | STORE_PROVIEW, config->lock_wait_ms, &store,
                    &why)) {
        store_events(store, &filter, &cursor, 1, any_event, &later, &more);
        store_free(store);
    }
    buf_release(&why);
    if (later)
        check_line(report, CHECK_WARNING, "clock", "compare it with another one, and let NTP keep it",
                   "says %s, but an event was stored later than that", clock_format(now, text));
    else
        check_line(report, CHECK_OK, "clock", NULL, "says %s", clock_format(now, text));
}

static void run(struct check_report *report, const char *path, const struct check_options *options)
{
    struct config *config = NULL;

    check_config_roles(report, path, options->roles, &config);
    if (config) {
        check_closed(report, config, options->write_areas | options->read_areas);
        store_check(config->store_url, options->write_areas, options->read_areas, options->full, take_finding,
                    report);
        if (options->roles & CONFIG_WORKER)
            check_host(report, path);
        if (!options->start) {
            /* Not before: to see whether it could write, the store was locked. */
            cli_step_back();
            check_config_sense(report, path, config, options->roles);
            check_place(report, path, config);
            check_left(report, config, options->write_areas | options->read_areas);
            if (options->roles & CONFIG_EXAMJOINT)
                check_roster(report, config);
            check_clock(report, config);
        }
        if (options->online)
            check_online(report, path);
    }
    for (size_t i = 0; i < options->socket_count; i++)
        check_socket(report, options->sockets[i]);
    for (size_t i = 0; !options->socket_count && !options->start && i < COUNT(usual_sockets); i++) {
        if (access(usual_sockets[i], F_OK) == 0)
            check_socket(report, usual_sockets[i]);
    }
    config_free(config);
}

int cmd_check(struct cli *cli, int argc, char **argv)
{
    struct check_options options = {.roles = CONFIG_EXAMJOINT | CONFIG_PROVIEW | CONFIG_WORKER,
                                    .write_areas = STORE_ALL};
    struct check_report report = {.out = cli->out};
    const char *value;
    char *path;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (take_option(cli, &options, key, value))
            return CLI_USAGE;
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    if (options.start && (options.full || options.online))
        return cli_usage(cli, "--start is quick: it goes neither with --full nor with --online");
    report.json = options.json;
    report.start = options.start;
    report.one_program = options.one_program;
    path = config_find(cli->config_option);
    run(&report, path, &options);
    free(path);
    return report.failed ? CLI_FAILED : CLI_FINE;
}
