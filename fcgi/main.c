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
#include "../common/version.h"

/* Exit statuses, as in the manual page. */
enum { EXIT_USAGE = 2, EXIT_CONFIG = 3, EXIT_STORE = 4 };

struct options {
    const char *config, *socket, *group;
    int exit_status; /* -1: go on */
};

static void usage(FILE *out, const struct route *route)
{
    fprintf(out,
            "usage: %s.fcgi [--config FILE] [--socket PATH [--socket-group GROUP]]\n"
            "Without --socket: serves the listening socket on descriptor 0, or one plain CGI request.\n",
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

static int program_open(struct program *program, const struct options *options, struct buf *why)
{
    char *path = config_find(options->config);
    bool loaded = config_load(path, program->route->role, &program->config, why);
    free(path);
    if (!loaded)
        return EXIT_CONFIG;
    log_setup(program->route->program, program->config->log_level);
    enum store_status status =
        store_open(program->config->store_url, program->route->write_areas, program->route->read_areas,
                   program->config->lock_wait_ms, &program->store, why);
    if (status != STORE_OK)
        return EXIT_STORE;
    program->state = program->route->open(program->config, program->store, why);
    if (!program->state)
        return EXIT_CONFIG;
    if (program->route->resume)
        program->slots_folder = store_area_folder(program->config->store_url, program->route->area);
    return EXIT_SUCCESS;
}

static void program_close(struct program *program)
{
    if (program->state)
        program->route->close(program->state);
    store_free(program->store);
    config_free(program->config);
    free(program->slots_folder);
}

static int run_loop(const struct program *program, const struct options *options, struct buf *why)
{
    int listener = STDIN_FILENO;

    if (options->socket)
        listener = socket_listen(options->socket, options->group, why);
    else if (!socket_is_listening(STDIN_FILENO))
        buf_adds(why, "no --socket, descriptor 0 is no listening unix socket, and this is no CGI request");
    if (listener < 0 || why->len > 0)
        return EXIT_USAGE;
    return loop_serve(program, listener, options->socket, why) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int server_main(const struct route *route, int argc, char **argv)
{
    struct program program = {.route = route};
    struct options options = read_options(route, argc, argv);
    struct buf why = BUF_INIT;
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
    signal(SIGHUP, SIG_IGN);
    status = program_open(&program, &options, &why);
    if (status == EXIT_SUCCESS)
        status = cgi ? cgi_serve(&program) : run_loop(&program, &options, &why);
    else if (cgi)
        cgi_unavailable(status == EXIT_CONFIG ? "not_configured" : "not_stored");
    if (why.len > 0)
        log_error("cannot start", LOG_S("reason", buf_str(&why)));
    program_close(&program);
    buf_release(&why);
    return status;
}
