#include "program.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "../common/log.h"
#include "../common/place.h"
#include "../common/version.h"

/* Exit statuses, as in the manual page. */
enum { EXIT_USAGE = 2, EXIT_CONFIG = 3, EXIT_STORE = 4 };

struct options {
    const char *config, *socket, *group;
    int exit_status; /* -1: go on */
};

static void usage(FILE *out, const struct route *route)
{
    fprintf(
        out,
        "usage: %s.fcgi [--config FILE] [--socket PATH [--socket-group GROUP]]\n"
        "Without --socket: serves the listening socket that systemd hands over (LISTEN_FDS) or that is on "
        "descriptor 0, or one plain CGI request.\n"
        "SIGHUP reads the configuration again, SIGTERM ends it.\n",
        route->program);
}

static struct options read_options(const struct route *route, int argc, char **argv)
{
    static const struct option known[] = {{"config", required_argument, NULL, 'c'},
                                          {"socket", required_argument, NULL, 's'},
                                          {"socket-group", required_argument, NULL, 'g'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    struct options options = {.exit_status = -1};
    int c;

    /* A web server may hand the query string on as arguments (an "indexed" query): CGI takes none. */
    if (getenv("GATEWAY_INTERFACE"))
        return options;
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'c':
            options.config = optarg;
            break;
        case 's':
            options.socket = optarg;
            break;
        case 'g':
            options.group = optarg;
            break;
        case 'h':
            usage(stdout, route);
            options.exit_status = EXIT_SUCCESS;
            break;
        case 'v':
            printf("%s.fcgi %s\n", route->program, EXAMHOOK_VERSION);
            options.exit_status = EXIT_SUCCESS;
            break;
        default:
            usage(stderr, route);
            options.exit_status = EXIT_USAGE;
        }
    }
    if (optind < argc) {
        usage(stderr, route);
        options.exit_status = EXIT_USAGE;
    }
    return options;
}

/* Bodies hold passwords: no core dump, no debugger of another process, no /proc/PID/mem. */
static void keep_memory_private(void)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
#ifndef EXAMHOOK_SANITIZED /* the leak checker of a sanitizer build attaches to us */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

static int program_open(struct program *program, const struct options *options, bool brief, struct buf *why)
{
    char *path = config_find(options->config);
    bool loaded = config_load(path, program->route->role, &program->config, why);
    free(path);
    if (!loaded)
        return EXIT_CONFIG;
    log_setup(program->route->program, program->config->log_level);
    if (program->config->personal)
        umask(077);
    if (!place_closed(program->config, program->route->write_areas | program->route->read_areas, why))
        return EXIT_CONFIG;
    enum store_status status = store_open(program->config->store_url, program->route->write_areas,
                                          program->route->read_areas | (brief ? STORE_BRIEF : 0),
                                          program->config->lock_wait_ms, &program->store, why);
    if (status != STORE_OK)
        return EXIT_STORE;
    program->state = program->route->open(program->config, program->store, why);
    if (!program->state ||
        (!brief && program->route->prepare && !program->route->prepare(program->state, why)))
        return EXIT_CONFIG;
    if (program->route->resume)
        program->slots_folder = store_area_folder(program->config->store_url, program->route->area);
    return EXIT_SUCCESS;
}

/* `brief`: the process ends at once. A leak checker wants to see everything freed all the same. */
static void program_close(struct program *program, bool brief)
{
    struct store *store = program->store;
    char *slots_folder = program->slots_folder;
    program_free(program);
#ifdef EXAMHOOK_SANITIZED
    brief = false;
#endif
    if (brief)
        store_leave(store);
    else
        store_free(store);
    free(slots_folder);
}

/* The socket to serve; -1: `why`. */
static int find_listener(const struct options *options, struct buf *why)
{
    int fd;

    if (!socket_handed_over(&fd, why))
        return -1;
    if (fd >= 0 && options->socket) {
        buf_adds(why, "a listening socket was handed over (LISTEN_FDS), so --socket has no place");
        return -1;
    }
    if (options->socket)
        return socket_listen(options->socket, options->group, why);
    if (fd < 0 && socket_is_listening(STDIN_FILENO))
        fd = STDIN_FILENO;
    if (fd < 0)
        buf_adds(why,
                 "no --socket, no socket handed over (LISTEN_FDS), descriptor 0 is no listening unix socket, "
                 "and this is no CGI request");
    else
        socket_warn_of_mode(fd);
    return fd;
}

static int run_loop(struct program **program, const struct options *options, struct buf *why)
{
    int listener = find_listener(options, why);
    if (listener < 0)
        return EXIT_USAGE;
    return loop_serve(program, listener, options->socket, why) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int server_main(const struct route *route, int argc, char **argv)
{
    struct options options = read_options(route, argc, argv);
    struct buf why = BUF_INIT;
    /* Not asked here for LISTEN_FDS: under CGI it would be the web server's. */
    bool cgi = !options.socket && getenv("GATEWAY_INTERFACE") && !socket_is_listening(STDIN_FILENO);
    int status;

    if (options.exit_status >= 0)
        return options.exit_status;
    keep_memory_private();
    umask(027);
    log_setup(route->program, LOG_LEVEL_INFO);
    if (sodium_init() < 0) {
        log_error("cannot start", LOG_S("reason", "libsodium could not be initialised"));
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN);
    /* Where a host limits the size of files (ulimit -f), a write that fails is a full store, not our end. */
    signal(SIGXFSZ, SIG_IGN);
    if (cgi)
        signal(SIGHUP, SIG_IGN);
    else
        loop_take_signals();
    struct program *program = xcalloc(1, sizeof *program);
    program->route = route;
    status = program_open(program, &options, cgi, &why);
    if (status == EXIT_SUCCESS)
        status = cgi ? cgi_serve(program) : run_loop(&program, &options, &why);
    else if (cgi)
        cgi_unavailable(status == EXIT_CONFIG ? "not_configured" : "not_stored");
    if (why.len > 0)
        log_error("cannot start", LOG_S("reason", buf_str(&why)));
    program_close(program, cgi);
    buf_release(&why);
    return status;
}
