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

/*
 * A route with one configuration. When the configuration is read again there is a new one beside it: requests
 * under way stay with the one they began with until they are answered.
 */
struct program {
    const struct route *route;
    struct config *config;
    void *state;
    struct store *store; /* the same for all; not the program's to close */
    char *slots_folder;  /* where the slots of password checks are; NULL: the route has none. As the store */
    int64_t requests;    /* under way */
    char *root;          /* the DOCUMENT_ROOT that was looked at last; NULL: none yet */
    bool root_refused;   /* the store or the configuration lies below it */
};

/* Refuses (503 not_configured) a request that comes from a site whose files the configuration or the store is
 * among: a web server could give them away. True: go on. Looks again only when the site is another one. */
bool program_place(struct program *program, const struct request *request, struct reply *reply);

/* Reads the file of `old` again. What cannot change in a running process stays as it was, with a warning for
 * each option that would have to. NULL: `why`; nothing has changed. */
struct program *program_read_again(const struct program *old, struct buf *why);
/* Frees the configuration and what the route made of it, not the store. Takes NULL. */
void program_free(struct program *program);

/* Random bytes for the ids of the next requests; zeroed at first. */
#define REQUEST_ID_BYTES 8
struct request_ids {
    unsigned char bytes[32 * REQUEST_ID_BYTES];
    size_t left;
};
/* Fills everything but the body from CGI variables ("NAME=value"), which must live as long as the request. */
void request_read_params(struct request *request, char **params, int64_t budget_ms, struct request_ids *ids);
/* Wipes and frees what a request and its reply hold. */
void request_release(const struct program *program, struct request *request, struct reply *reply);
/* Status line, headers and body, as CGI and FastCGI want it. */
void reply_serialize(const struct reply *reply, struct buf *out);
/* One line for the log, added to `lines`. */
void request_log(const struct program *program, const struct request *request, const struct reply *reply,
                 struct buf *lines);

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
/*
 * The listening socket that a service manager handed over, see sd_listen_fds(3): LISTEN_PID is this process
 * and LISTEN_FDS is 1. True: *fd is it, -1 where none was handed over. False: `why`.
 */
bool socket_handed_over(int *fd, struct buf *why);
/* Says in the log when everybody may connect to an inherited socket: its mode is what guards it. */
void socket_warn_of_mode(int fd);

/* What SIGHUP, SIGTERM and SIGINT do from then on is the event loop's: they wait for it. Early, so that none
 * is lost. */
void loop_take_signals(void);
/*
 * The event loop, until SIGTERM or SIGINT. `socket_path`: our own socket, removed at the end; NULL: an
 * inherited one. SIGHUP reads the configuration again: *program is the one in use at the end. False: it could
 * not start.
 */
bool loop_serve(struct program **program, int listener, const char *socket_path, struct buf *why);
/* Serves one plain CGI request on stdin and stdout. Returns the exit status. */
int cgi_serve(struct program *program);
/* Under CGI, when there is no program to run (configuration, store): 503 and the word. */
void cgi_unavailable(const char *word);

#endif
