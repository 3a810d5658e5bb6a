/*
 * What the parts of a webhook program share: the program itself, a request's way in and a reply's way out,
 * the socket, and the plain CGI mode. Routes include server.h only.
 */
#ifndef EXAMHOOK_PROGRAM_H
#define EXAMHOOK_PROGRAM_H

#include "server.h"

/* The content of all parameters (a web server's environment and headers), and what FastCGI adds to a body at
 * the most. */
#define PARAMS_BYTES_MAX (48 * 1024)
#define FRAMING_BYTES_MAX (16 * 1024)
#define RETRY_AFTER_S "5"

struct program {
    const struct route *route;
    struct config *config;
    struct store *store;
    void *state;
    char *slots_folder; /* where the slots of password checks are; NULL: the route has none */
};

/* Fills everything but the body from CGI variables ("NAME=value"), which must live as long as the request. */
void request_read_params(struct request *request, char **params, int64_t budget_ms);
/* Wipes and frees what a request and its reply hold. */
void request_release(const struct program *program, struct request *request, struct reply *reply);
/* Status line, headers and body, as CGI and FastCGI want it. */
void reply_serialize(const struct reply *reply, struct buf *out);
/* One line for the log. */
void request_log(const struct program *program, const struct request *request, const struct reply *reply);

/* The step before the round, once the body was read. `too_large`: it is over the limit and was left where it
 * is. */
enum route_next program_check(const struct program *program, struct request *request, struct reply *reply,
                              bool too_large);

/*
 * A step of the round. Returns what is to come; a reply of 500 and above undoes what the step wrote. With
 * `job` not done yet it calls the route's store, else its resume.
 */
enum route_next program_step(const struct program *program, struct request *request, struct reply *reply,
                             struct hash_job *job, bool resume);

/* A listening socket at `path`: mode 0660, of `group` (NULL: ours), put in place at once. Refuses a path that
 * another program serves. -1: `why`. */
int socket_listen(const char *path, const char *group, struct buf *why);
/* Whether the descriptor is a listening unix socket. */
bool socket_is_listening(int fd);

/* The event loop, until SIGTERM or SIGINT. `socket_path`: our own socket, removed at the end; NULL: an
 * inherited one. False: it could not start. */
bool loop_serve(const struct program *program, int listener, const char *socket_path, struct buf *why);
/* Serves one plain CGI request on stdin and stdout. Returns the exit status. */
int cgi_serve(const struct program *program);
/* Under CGI, when there is no program to run (configuration, store): 503 and the word. */
void cgi_unavailable(const char *word);

#endif
