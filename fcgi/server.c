#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fcgiapp.h>

#include "../common/clock.h"
#include "../common/log.h"
#include "../common/notify.h"
#include "../common/retention.h"
#include "guard.h"
#include "hash_pool.h"

#define EVENTS_A_TURN 256
/* Requests that share one commit at the most: a round stays far below the 50 ms that a write may last. */
#define ROUND_MAX 128
/* Where rounds take so long, the next one waits for a part of that. */
#define GATHER_FROM_MS 4
#define GATHER_PART 2
/* Where candidates wait for their checks, a round of nobody else waits for a part of that, from and up to. */
#define PATIENT_PART 4
#define PATIENT_FROM_MS 2
#define PATIENT_MOST_MS 20
/* A connection that has answered and waits for its web server's next request. */
#define IDLE_KEPT_MS 120000
/* What is taken out of a socket at once of a request that comes in pieces. */
#define HOLD_STEP_BYTES 16384
/* What is asked of the library at once of a body. */
#define BODY_STEP_BYTES 8192
/* What is read and thrown away of a body that was too large, and for how long. */
#define DRAIN_MS 2000
/* From SIGTERM to the end: mod_fcgid kills a condemned process at its next scan, 3 s later. */
#define STOP_MS 2500
/* How often time limits are looked at; more often while passwords are being checked. */
#define TICK_MS 500
#define TICK_HASHING_MS 50
/* The log's lines of one turn are written together; no more of them are kept than this. */
#define LINES_BYTES_MAX 16384
/* How often what is old is thought of while there is always something to do. */
#define OLD_BUSY_MS 1000
/* Whoever waits for a password check is kept with its body and the tree made of it, some twenty times as
 * large. A candidate's body is small and always welcome; larger ones share so many bytes. */
#define HASHING_SMALL_BYTES 4096
#define HASHING_LARGE_BYTES_MAX (8 * 1024 * 1024)
/* Descriptors beside the connections: the store's files, slots of password checks, sockets of our own. */
#define DESCRIPTORS_SPARE 128

enum connection_state {
    CONNECTION_READING, /* the request is not there whole */
    CONNECTION_HASHING, /* its password is being checked */
    CONNECTION_ROUND,   /* it is in the round that is about to be committed */
    CONNECTION_DRAINING /* answered; what still comes is thrown away */
};

struct connection {
    int fd;
    enum connection_state state;
    bool ready;      /* in the queue of those to look at: something may have come */
    bool missed;     /* something came while its request was being answered */
    bool hung_up;    /* its web server sends nothing more; no edge may be left to say so */
    bool partial;    /* bytes of a request are there, taken into `held` */
    bool kept;       /* it has answered a request already */
    bool keep;       /* what the web server asked for */
    bool finishing;  /* the library holds a request of it */
    bool resume;     /* in the round because its password check is done */
    bool again;      /* after the round: on to the password check, for which it has a place */
    struct buf held; /* the request as far as it has come, once it did not lie in the socket whole */
    int64_t since_ms;
    int64_t large_bytes;     /* of its body, while its password is being checked; 0: a small one */
    struct program *program; /* the one its request began with; NULL: none is under way */
    FCGX_Request fcgx;
    struct request request;
    struct reply reply;
    struct hash_task *task;
    TAILQ_ENTRY(connection) all, queue;
};

TAILQ_HEAD(connection_list, connection);

struct loop {
    struct program *program; /* for new requests */
    int listener, epoll, signals, done_fd;
    const char *unlink_path; /* our own socket, to be removed at the end */
    bool stopping, listening;
    bool full; /* not listening since as many connections are there as may be */
    int64_t stop_at_ms, tick_at_ms, old_at_ms;
    struct hash_pool *pool;
    struct guard_limits limits;
    unsigned char *peek;
    struct connection_list connections; /* the oldest first */
    struct connection_list ready;       /* first come, first served */
    int64_t count, count_max, hashing;
    int64_t hashing_large_bytes; /* of the bodies of those that are being checked, but for small ones */
    int64_t placed, placed_large_bytes; /* the same of those in the round that have a place */
    bool left_over;                     /* a full round left requests behind: no waiting */
    struct retention retention;
    struct request_ids ids;
    struct buf lines; /* of the log, about what was answered in this turn */
    struct connection *round[ROUND_MAX];
    size_t round_count;
    size_t last_count;       /* what the last round held, ... */
    int64_t last_ms;         /* ... how long it took, ... */
    int64_t before_ms;       /* ... and the one before it: a disk that stalls once is not slow */
    int64_t gather_until_ms; /* the round waits for more; 0: it does not */
    int64_t gather_nap_ms;   /* how long it waits without a look */
};

/* --- Connections ---------------------------------------------------------------------------------------- */

static void mark_ready(struct loop *loop, struct connection *c)
{
    if (c->ready)
        return;
    c->ready = true;
    TAILQ_INSERT_TAIL(&loop->ready, c, queue);
}

static void unmark_ready(struct loop *loop, struct connection *c)
{
    if (c->ready)
        TAILQ_REMOVE(&loop->ready, c, queue);
    c->ready = false;
}

static void set_state(struct loop *loop, struct connection *c, enum connection_state state)
{
    int change = (state == CONNECTION_HASHING) - (c->state == CONNECTION_HASHING);
    loop->hashing += change;
    loop->hashing_large_bytes += change * c->large_bytes;
    c->state = state;
}

/* The end of a request. The last one that began with an older configuration ends that as well. */
static void request_end(struct loop *loop, struct connection *c)
{
    struct program *program = c->program;
    request_release(program, &c->request, &c->reply);
    c->program = NULL;
    program->requests--;
    if (program != loop->program && program->requests == 0)
        program_free(program);
}

static void connection_close(struct loop *loop, struct connection *c)
{
    if (c->task)
        hash_pool_drop(loop->pool, c->task);
    if (c->finishing) {
        FCGX_Free(&c->fcgx, 0);
        request_end(loop, c);
    }
    if (c->fd >= 0)
        close(c->fd);
    buf_release(&c->held);
    unmark_ready(loop, c);
    set_state(loop, c, CONNECTION_READING);
    TAILQ_REMOVE(&loop->connections, c, all);
    loop->count--;
    free(c);
}

static void connection_open(struct loop *loop, int fd)
{
    struct connection *c = xcalloc(1, sizeof *c);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};

    c->fd = fd;
    c->since_ms = clock_monotonic_ms();
    TAILQ_INSERT_TAIL(&loop->connections, c, all);
    loop->count++;
    mark_ready(loop, c);
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        connection_close(loop, c);
}

/* A web server that keeps connections it does not use must not keep others out. */
static bool close_an_idle_one(struct loop *loop)
{
    struct connection *c, *oldest = NULL;
    TAILQ_FOREACH(c, &loop->connections, all)
    {
        if (c->state == CONNECTION_READING && c->kept && !c->partial && !c->ready &&
            (!oldest || c->since_ms < oldest->since_ms))
            oldest = c;
    }
    if (oldest)
        connection_close(loop, oldest);
    return oldest != NULL;
}

static void resume_listening(struct loop *loop)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &loop->listener};
    if (!loop->listening)
        loop->listening = epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->listener, &event) == 0;
    loop->full = false;
}

static void pause_listening(struct loop *loop)
{
    if (loop->listening)
        epoll_ctl(loop->epoll, EPOLL_CTL_DEL, loop->listener, NULL);
    loop->listening = false;
}

static void accept_all(struct loop *loop)
{
    for (bool somebody_waits = true;; somebody_waits = false) {
        /* While stopping, whoever stands in the socket's queue is served as far as there are descriptors. */
        if (!loop->stopping && loop->count >= loop->count_max) {
            if (!somebody_waits) /* perhaps: the next turn knows, and no idle one is closed for nobody */
                return;
            while (loop->count >= loop->count_max && close_an_idle_one(loop))
                ;
            if (loop->count >= loop->count_max) {
                pause_listening(loop);
                loop->full = true;
                return;
            }
        }
        int fd = accept4(loop->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            connection_open(loop, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (!somebody_waits && !loop->stopping) /* as above: this is said before the queue is looked at */
                return;
            log_error("cannot accept a connection", LOG_S("error", strerror(errno)));
            if (close_an_idle_one(loop))
                continue;
            /* The level-triggered listener would spin; the next tick brings it back. */
            pause_listening(loop);
        }
        return;
    }
}

static void to_round(struct loop *loop, struct connection *c, bool resume)
{
    set_state(loop, c, CONNECTION_ROUND);
    c->resume = resume;
    loop->round[loop->round_count++] = c;
}

/* --- One request through libfcgi ------------------------------------------------------------------------ */

/*
 * The library is given a descriptor on which a whole request lies, as if it were a connection that it had
 * kept open; it never closes it (detached, kept) and never waits. These three fields are not for
 * applications, says its header; a test holds that it works. False: the library closed it.
 */
static bool fcgx_take(struct connection *c, int from)
{
    FCGX_InitRequest(&c->fcgx, -1, 0);
    c->fcgx.ipcFd = from;
    c->fcgx.keepConnection = 1;
    FCGX_Detach(&c->fcgx);
    if (FCGX_Accept_r(&c->fcgx) != 0)
        return false;
    c->fcgx.keepConnection = 1;
    FCGX_Detach(&c->fcgx);
    c->finishing = true;
    return true;
}

/* A request that was taken out of the socket, for the library to read: a file in memory. -1: no room. */
static int held_open(const struct buf *held)
{
    int fd = memfd_create("request", MFD_CLOEXEC);
    size_t at = 0;

    while (fd >= 0 && at < held->len) {
        ssize_t n = write(fd, held->data + at, held->len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    if (fd >= 0 && (at < held->len || lseek(fd, 0, SEEK_SET) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void fcgx_read_body(struct connection *c, size_t most)
{
    struct buf *body = &c->request.body;
    int64_t declared = c->request.has_declared_length ? c->request.declared_length : 0;
    /* One byte more than was declared, so that the end is seen at once. */
    int step = declared > 0 && declared < BODY_STEP_BYTES ? (int)declared + 1 : BODY_STEP_BYTES;
    int got;
    while (body->len <= most && (got = FCGX_GetStr(buf_room(body, (size_t)step), step, c->fcgx.in)) > 0)
        body->len += (size_t)got;
    c->request.body_complete =
        FCGX_GetError(c->fcgx.in) == 0 &&
        (!c->request.has_declared_length || (int64_t)body->len == c->request.declared_length);
}

static void connection_answer(struct loop *loop, struct connection *c, bool drain)
{
    struct buf out = BUF_INIT;

    reply_serialize(&c->reply, &out);
    FCGX_PutStr(out.data, (int)out.len, c->fcgx.out);
    buf_release(&out);
    request_log(c->program, &c->request, &c->reply, &loop->lines);
    if (loop->lines.len > LINES_BYTES_MAX)
        log_write_lines(&loop->lines);
    FCGX_Finish_r(&c->fcgx);
    c->finishing = false;
    if (c->fcgx.ipcFd < 0)
        c->fd = -1; /* the other side has gone: the library closed it */
    request_end(loop, c);
    c->since_ms = clock_monotonic_ms();
    c->kept = true;
    c->partial = false;
    set_state(loop, c, CONNECTION_READING);
    if (c->fd < 0) {
        connection_close(loop, c);
    } else if (drain) {
        shutdown(c->fd, SHUT_WR);
        set_state(loop, c, CONNECTION_DRAINING);
        mark_ready(loop, c);
    } else if (!c->keep || loop->stopping) {
        connection_close(loop, c);
    } else if (c->missed || c->hung_up) {
        c->missed = false;
        mark_ready(loop, c);
    }
}

/* Reads the request from the socket, or from where it is held; the answer goes to the socket. False: it
 * cannot be answered, and the log says why. */
static bool connection_read(struct loop *loop, struct connection *c, bool too_large)
{
    struct program *program = loop->program;
    bool held = c->held.len > 0;
    int from = held ? held_open(&c->held) : c->fd;

    if (from < 0) {
        log_error("no room for a request that came in pieces", LOG_S("error", strerror(errno)));
        return false;
    }
    if (!fcgx_take(c, from)) {
        log_warn("request refused by the FastCGI library", LOG_I("held", (long long)c->held.len));
        if (!held)
            c->fd = -1;
        return false;
    }
    c->program = program;
    program->requests++;
    request_read_params(&c->request, c->fcgx.envp, program->config->budget_ms, &loop->ids);
    /* The body is read in any case: what is left in the socket would be read as the next request. */
    if (!too_large)
        fcgx_read_body(c, loop->limits.body_bytes);
    if (held) {
        c->fcgx.ipcFd = c->fd;
        close(from);
        buf_release(&c->held);
    }
    return true;
}

/* A whole request (or the parameters of one that is too large): the steps before the round. */
static void connection_request(struct loop *loop, struct connection *c, const struct guard_look *look)
{
    struct program *program = loop->program;
    bool too_large = look->verdict == GUARD_TOO_LARGE;

    c->keep = look->keep_connection;
    if (!connection_read(loop, c, too_large)) {
        connection_close(loop, c);
        return;
    }
    if (!program_place(program, &c->request, &c->reply) ||
        program->route->declared(program->state, &c->request, &c->reply) == ROUTE_REPLY ||
        program_check(program, &c->request, &c->reply, too_large) == ROUTE_REPLY) {
        connection_answer(loop, c, too_large);
        return;
    }
    to_round(loop, c, false);
}

static void connection_drain(struct loop *loop, struct connection *c)
{
    ssize_t got;
    do
        got = recv(c->fd, loop->peek, loop->limits.total_bytes, MSG_DONTWAIT);
    while (got > 0 || (got < 0 && errno == EINTR));
    explicit_bzero(loop->peek, loop->limits.total_bytes);
    if (got == 0 || errno != EAGAIN)
        connection_close(loop, c);
}

/* What the guard sees of the request: what lies in the socket (copied into loop->peek, not taken), or once
 * something is held all of that. *gone: nothing more will come. */
static size_t connection_see(struct loop *loop, struct connection *c, const unsigned char **bytes, bool *gone)
{
    bool holding = c->held.len > 0;
    ssize_t got;

    do {
        size_t room = holding ? HOLD_STEP_BYTES : loop->limits.total_bytes;
        char *to = holding ? buf_room(&c->held, room) : (char *)loop->peek;
        got = recv(c->fd, to, room, MSG_DONTWAIT | (holding ? 0 : MSG_PEEK));
        if (holding && got > 0)
            c->held.len += (size_t)got;
    } while ((got < 0 && errno == EINTR) || (holding && got > 0 && c->held.len < loop->limits.total_bytes));
    *gone = got == 0 || (got < 0 && errno != EAGAIN);
    *bytes = holding ? (const unsigned char *)c->held.data : loop->peek;
    return holding ? c->held.len : (size_t)(got < 0 ? 0 : got);
}

/*
 * The request is not whole: what there is of it is taken out of the socket. A writer may wait for room
 * (Apache goes on only while three quarters of the socket's buffer are free), and many small pieces fill a
 * socket soon.
 */
static void connection_hold(struct loop *loop, struct connection *c, size_t len)
{
    if (!c->partial)
        c->since_ms = clock_monotonic_ms();
    c->partial = true;
    if (c->held.len > 0)
        return;
    ssize_t got = recv(c->fd, buf_room(&c->held, len), len, MSG_DONTWAIT);
    if (got > 0)
        c->held.len = (size_t)got;
    mark_ready(loop, c); /* more may have come since the look, and made no edge */
}

static void connection_look(struct loop *loop, struct connection *c)
{
    const unsigned char *bytes;
    bool gone;
    size_t len = connection_see(loop, c, &bytes, &gone);
    struct guard_look look = guard_look(bytes, len, &loop->limits);

    if (c->held.len == 0)
        explicit_bzero(loop->peek, len);
    if (look.verdict == GUARD_MORE && gone) {
        connection_close(loop, c);
    } else if (look.verdict == GUARD_MORE) {
        if (len > 0)
            connection_hold(loop, c, len);
    } else if (look.verdict == GUARD_REFUSE) {
        log_warn("FastCGI request refused", LOG_S("reason", look.reason), LOG_I("bytes", (long long)len));
        connection_close(loop, c);
    } else {
        c->missed = gone; /* a whole request counts all the same */
        connection_request(loop, c, &look);
    }
}

/* --- The round ------------------------------------------------------------------------------------------ */

/* A rush of candidates must leave connections for the events that need no password check. */
static int64_t hashing_max(const struct loop *loop)
{
    return loop->count_max - loop->count_max / 4;
}

/* In the round, so that the commit that stores the attempt also stores that it was refused for load. */
static void ask_for_place(struct loop *loop, struct connection *c)
{
    int64_t len = (int64_t)c->request.body.len, large_bytes = len > HASHING_SMALL_BYTES ? len : 0;
    bool room = loop->hashing + loop->placed < hashing_max(loop) &&
                loop->hashing_large_bytes + loop->placed_large_bytes + large_bytes <= HASHING_LARGE_BYTES_MAX;

    c->again = hash_pool_place(loop->pool, c->task, room);
    if (!c->again) {
        program_step(c->program, &c->request, &c->reply, &c->task->job, true);
        return;
    }
    c->large_bytes = large_bytes;
    loop->placed++;
    loop->placed_large_bytes += large_bytes;
}

/* Runs one step of every request in the round, commits, then answers: nothing is acknowledged before it is
 * durable. A round is in the store, which is the same whatever configuration a request began with. */
static void round_run(struct loop *loop)
{
    struct store *store = loop->program->store;
    const struct route *route = loop->program->route;
    struct connection *members[ROUND_MAX];
    size_t count = loop->round_count;
    int64_t began_ms = clock_monotonic_ms();
    enum store_status status;

    memcpy(members, loop->round, count * sizeof *members);
    loop->round_count = 0;
    loop->gather_until_ms = 0;
    status = store_round_begin(store, route->area);
    for (size_t i = 0; i < count && status == STORE_OK; i++) {
        struct connection *c = members[i];
        struct hash_job *job;
        if (!c->task && route->resume)
            c->task = hash_task_new(c, c->request.deadline_ms);
        job = c->task ? &c->task->job : NULL;
        if (program_step(c->program, &c->request, &c->reply, job, c->resume) == ROUTE_HASH)
            ask_for_place(loop, c);
    }
    if (status == STORE_OK)
        status = store_round_commit(store);
    loop->last_count = count;
    loop->before_ms = loop->last_ms;
    loop->last_ms = clock_monotonic_ms() - began_ms;
    loop->placed = loop->placed_large_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct connection *c = members[i];
        bool check = c->again && status == STORE_OK;
        c->again = false;
        if (check) {
            set_state(loop, c, CONNECTION_HASHING);
            hash_pool_start(loop->pool, c->task);
            continue;
        }
        if (status != STORE_OK)
            reply_not_stored(&c->reply, store, status);
        if (c->task)
            hash_pool_drop(loop->pool, c->task);
        c->task = NULL;
        c->large_bytes = 0;
        connection_answer(loop, c, false);
    }
}

static bool round_is_full(const struct loop *loop)
{
    return loop->round_count >= ROUND_MAX;
}

/* The round begins at `until_ms`, if nothing happens; it is looked at again after each nap. */
static bool gather_until(struct loop *loop, int64_t until_ms, int64_t nap_ms)
{
    loop->gather_until_ms = until_ms;
    loop->gather_nap_ms = nap_ms;
    return true;
}

/* Nobody but candidates, whose check is still to come or was just made, and who have time. */
static bool round_has_patience(const struct loop *loop)
{
    const struct route *route = loop->program->route;
    int64_t near_ms = clock_monotonic_ms() + TICK_HASHING_MS + 2 * PATIENT_MOST_MS;
    for (size_t i = 0; i < loop->round_count; i++) {
        const struct connection *c = loop->round[i];
        if (c->request.deadline_ms < near_ms ||
            (!c->resume && (!route->one_event || route->one_event(&c->request))))
            return false;
    }
    return true;
}

/* How long a round of candidates may wait for company; 0: not at all. While many wait for their checks, a few
 * milliseconds are nothing to them, and each commit for one of them takes as much from the checks. */
static int64_t patience_of_candidates_ms(const struct loop *loop)
{
    int64_t ms;
    if (loop->hashing == 0 || !round_has_patience(loop))
        return 0;
    ms = hash_pool_backlog_us(loop->pool) / 1000 / PATIENT_PART;
    return ms < PATIENT_FROM_MS ? 0 : ms < PATIENT_MOST_MS ? ms : PATIENT_MOST_MS;
}

/*
 * Where a commit takes long, who was answered by the last one comes back while the next begins, and would
 * share only every second one. So the round waits a little while requests keep coming: never on a fast disk,
 * nor for a caller alone. `came`: something has come since it was asked last.
 */
static bool round_gathers(struct loop *loop, bool came)
{
    int64_t now_ms = clock_monotonic_ms();
    int64_t usual_ms = loop->last_ms < loop->before_ms ? loop->last_ms : loop->before_ms;
    int64_t patience_ms;

    if (round_is_full(loop) || loop->stopping)
        return false;
    if ((patience_ms = patience_of_candidates_ms(loop)) > 0)
        return loop->gather_until_ms == 0 ? gather_until(loop, now_ms + patience_ms, patience_ms)
                                          : now_ms < loop->gather_until_ms;
    if (usual_ms < GATHER_FROM_MS || loop->last_count < 2)
        return false;
    /* One who has no patience joined those who had: their wait is none of its. */
    if (loop->gather_until_ms == 0 || loop->gather_nap_ms > 1)
        return gather_until(loop, now_ms + usual_ms / GATHER_PART, 1);
    return came && now_ms < loop->gather_until_ms;
}

/* Whenever it is written to, also when nobody waits for a check any more: a thread may write only after its
 * task was taken, and a counter that stays up would make the loop spin. */
static void clear_done(const struct loop *loop)
{
    uint64_t count;
    if (read(loop->done_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_error("cannot read the event counter", LOG_S("error", strerror(errno)));
}

/* Password checks that are done, or whose time is over. */
static void collect_hashed(struct loop *loop)
{
    struct hash_task *task;

    while (!round_is_full(loop) && (task = hash_pool_take(loop->pool)))
        to_round(loop, task->owner, true);
    if (round_is_full(loop))
        loop->left_over = true;
}

static void collect_late(struct loop *loop, int64_t now_ms)
{
    struct connection *c;
    bool ending = loop->stopping && now_ms >= loop->stop_at_ms - TICK_MS;

    TAILQ_FOREACH(c, &loop->connections, all)
    {
        if (round_is_full(loop)) {
            loop->left_over = true;
            loop->tick_at_ms = now_ms;
            return;
        }
        if (c->state != CONNECTION_HASHING || (now_ms < c->request.deadline_ms - TICK_HASHING_MS && !ending))
            continue;
        c->task = hash_pool_give_up(loop->pool, c->task);
        to_round(loop, c, true);
    }
}

static void collect_ready(struct loop *loop)
{
    struct connection *c;
    while ((c = TAILQ_FIRST(&loop->ready)) && !round_is_full(loop)) {
        unmark_ready(loop, c);
        if (c->state == CONNECTION_DRAINING)
            connection_drain(loop, c);
        else if (c->state == CONNECTION_READING)
            connection_look(loop, c);
        else
            c->missed = true;
    }
    if (c)
        loop->left_over = true;
}

/* --- The configuration in use --------------------------------------------------------------------------- */

/* Room for the connections that the configuration allows; fewer of them where the system gives less. */
static int64_t room_for_connections(int64_t wanted)
{
    struct rlimit limit;
    rlim_t need = (rlim_t)wanted + DESCRIPTORS_SPARE;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need)
        return wanted;
    limit.rlim_cur = limit.rlim_max < need ? limit.rlim_max : need;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= need)
        return wanted;
    getrlimit(RLIMIT_NOFILE, &limit);
    int64_t room = (int64_t)(limit.rlim_cur < 2 * DESCRIPTORS_SPARE ? limit.rlim_cur / 2
                                                                    : limit.rlim_cur - DESCRIPTORS_SPARE);
    log_warn("fewer connections than configured: the limit of open files is low",
             LOG_I("connections", (long long)room), LOG_I("configured", (long long)wanted));
    return room;
}

static int64_t queue_max(const struct loop *loop)
{
    int64_t configured = loop->program->config->queue_max;
    return configured < hashing_max(loop) ? configured : hashing_max(loop);
}

/* Also while serving: nothing here touches a request that is under way. */
static void use_configuration(struct loop *loop)
{
    const struct config *config = loop->program->config;
    size_t before = loop->limits.total_bytes;

    loop->count_max = room_for_connections(config->connections_max);
    loop->limits = (struct guard_limits){.params_bytes = PARAMS_BYTES_MAX,
                                         .body_bytes = (size_t)config->body_limit_bytes,
                                         .total_bytes = PARAMS_BYTES_MAX + (size_t)config->body_limit_bytes +
                                                        FRAMING_BYTES_MAX};
    if (!loop->peek || loop->limits.total_bytes != before) {
        free(loop->peek); /* nothing in it: each look wipes what it saw */
        loop->peek = xcalloc(1, loop->limits.total_bytes);
    }
    if (loop->pool)
        hash_pool_set_queue(loop->pool, queue_max(loop));
    if (loop->program->route->resume && config->queue_max > hashing_max(loop))
        log_info("[verify] queue is cut to three quarters of the connections",
                 LOG_I("queue", (long long)hashing_max(loop)),
                 LOG_I("configured", (long long)config->queue_max));
}

static void read_again(struct loop *loop)
{
    struct buf why = BUF_INIT, status = BUF_INIT;
    struct program *old = loop->program;

    notify_reloading();
    struct program *fresh = program_read_again(old, &why);
    if (fresh) {
        loop->program = fresh;
        if (old->requests == 0)
            program_free(old);
        log_set_level(fresh->config->log_level);
        use_configuration(loop);
        log_info("the configuration was read again", LOG_S("config", fresh->config->path));
        notify_status("serving; the configuration was read again");
    } else {
        log_error("the new configuration is wrong, the old one stays in use", LOG_S("reason", buf_str(&why)));
        buf_addf(&status, "serving with the old configuration, the new one is wrong: %s", buf_str(&why));
        notify_status(buf_str(&status));
    }
    notify_ready();
    buf_release(&why);
    buf_release(&status);
}

/* --- The loop ------------------------------------------------------------------------------------------- */

/* How long a connection may stay as it is. */
static int64_t patience_ms(const struct loop *loop, const struct connection *c)
{
    if (c->state == CONNECTION_DRAINING)
        return DRAIN_MS;
    if (c->kept && !c->partial)
        return IDLE_KEPT_MS;
    return loop->program->config->request_wait_ms;
}

static void close_the_late(struct loop *loop, int64_t now_ms)
{
    struct connection *c, *next;
    for (c = TAILQ_FIRST(&loop->connections); c; c = next) {
        next = TAILQ_NEXT(c, all);
        if (c->state != CONNECTION_READING && c->state != CONNECTION_DRAINING)
            continue;
        if (now_ms - c->since_ms < patience_ms(loop, c))
            continue;
        if (c->partial)
            log_warn("a request did not come whole in time", LOG_I("ms", (long long)(now_ms - c->since_ms)));
        connection_close(loop, c);
    }
}

static void stop_begin(struct loop *loop)
{
    notify_stopping();
    loop->stopping = true;
    loop->stop_at_ms = clock_monotonic_ms() + STOP_MS;
    /* Our own socket: who stands in its queue is served still. An inherited one goes on without us, and who
     * stands in its queue is our successor's. */
    if (loop->unlink_path) {
        unlink(loop->unlink_path);
        accept_all(loop);
    }
    pause_listening(loop);
    close(loop->listener);
    loop->listener = -1;
    struct connection *c;
    TAILQ_FOREACH(c, &loop->connections, all)
    mark_ready(loop, c);
    log_info("stopping", LOG_I("connections", (long long)loop->count));
}

/* While stopping: connections on which nothing lies are closed. */
static void stop_idle(struct loop *loop)
{
    struct connection *c, *next;
    for (c = TAILQ_FIRST(&loop->connections); c; c = next) {
        next = TAILQ_NEXT(c, all);
        if (c->state == CONNECTION_READING && c->kept && !c->partial && !c->ready)
            connection_close(loop, c);
    }
}

static void take_signals(struct loop *loop, bool *stop, bool *reload)
{
    struct signalfd_siginfo info;
    while (read(loop->signals, &info, sizeof info) == sizeof info)
        *(info.ssi_signo == SIGHUP ? reload : stop) = true;
}

static void take_events(struct loop *loop, const struct epoll_event *events, int count)
{
    bool stop = false, reload = false, incoming = false;

    for (int i = 0; i < count; i++) {
        void *who = events[i].data.ptr;
        if (who == &loop->signals) {
            take_signals(loop, &stop, &reload);
        } else if (who == &loop->done_fd) {
            clear_done(loop);
        } else if (who == &loop->listener) {
            incoming = true;
        } else {
            struct connection *c = who;
            c->hung_up = c->hung_up || (events[i].events & EPOLLRDHUP);
            mark_ready(loop, c);
        }
    }
    /* Last, so that a connection closed to make room is none that this turn's events still name. */
    if (loop->stopping)
        return;
    if (stop) {
        stop_begin(loop);
        return;
    }
    if (reload)
        read_again(loop);
    if (incoming)
        accept_all(loop);
}

/* How long the loop may sleep, and time limits go unlooked at. */
static int tick_ms(const struct loop *loop)
{
    return loop->hashing > 0 || loop->stopping ? TICK_HASHING_MS : TICK_MS;
}

static void tick(struct loop *loop, int64_t now_ms)
{
    if (now_ms < loop->tick_at_ms)
        return;
    loop->tick_at_ms = now_ms + tick_ms(loop);
    close_the_late(loop, now_ms);
    if (loop->hashing > 0)
        collect_late(loop, now_ms);
    if (!loop->stopping && loop->count < loop->count_max)
        resume_listening(loop);
}

/* What is old goes while nobody waits; under a load without end, a step a second. */
static void delete_old(struct loop *loop, bool busy)
{
    int64_t now = clock_monotonic_ms();

    if (loop->stopping || (busy && now < loop->old_at_ms))
        return;
    loop->old_at_ms = now + OLD_BUSY_MS;
    retention_step(&loop->retention, loop->program->store, loop->program->config->retention_ms);
}

static int gather_wait_ms(const struct loop *loop)
{
    int64_t left_ms = loop->gather_until_ms - clock_monotonic_ms();
    return (int)(left_ms < 1 ? 1 : left_ms < loop->gather_nap_ms ? left_ms : loop->gather_nap_ms);
}

static int wait_ms(const struct loop *loop)
{
    int64_t tick = tick_ms(loop);
    int64_t old = retention_wait(&loop->retention, loop->program->config->retention_ms);
    int64_t busy = loop->hashing > 0 ? loop->old_at_ms - clock_monotonic_ms() : 0;

    if (loop->left_over || loop->round_count > 0)
        return !loop->left_over && loop->gather_until_ms ? gather_wait_ms(loop) : 0;
    if (old < 0 || loop->stopping)
        return (int)tick;
    if (old < busy) /* see delete_old(): woken for what it leaves undone, the loop would spin */
        old = busy;
    return (int)(old < tick ? old : tick);
}

static void turn(struct loop *loop)
{
    struct epoll_event events[EVENTS_A_TURN];
    int count = epoll_wait(loop->epoll, events, EVENTS_A_TURN, wait_ms(loop));

    loop->left_over = false;
    if (count > 0)
        take_events(loop, events, count);
    if (loop->hashing > 0)
        collect_hashed(loop);
    tick(loop, clock_monotonic_ms());
    collect_ready(loop);
    bool busy = count > 0 || loop->left_over || loop->round_count > 0 || loop->hashing > 0;
    if (loop->round_count > 0 && !round_gathers(loop, count > 0))
        round_run(loop);
    if (loop->lines.len > 0)
        log_write_lines(&loop->lines);
    delete_old(loop, busy);
    if (loop->stopping)
        stop_idle(loop);
    else if (loop->full && loop->count < loop->count_max)
        resume_listening(loop);
}

static void signals_of_the_loop(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

void loop_take_signals(void)
{
    sigset_t set;
    signals_of_the_loop(&set);
    /* Before the library puts handlers of its own in place, which would swallow one. */
    sigprocmask(SIG_BLOCK, &set, NULL);
    /* A signal that is ignored (nohup) is not even kept waiting. */
    signal(SIGHUP, SIG_DFL);
}

static bool watch(struct loop *loop, int fd, void *who)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = who};
    return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool loop_open(struct loop *loop, struct buf *why)
{
    const struct config *config = loop->program->config;
    sigset_t ours;

    if (FCGX_Init() != 0) {
        buf_adds(why, "the FastCGI library could not be initialised");
        return false;
    }
    use_configuration(loop);
    signals_of_the_loop(&ours);
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    loop->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll < 0 || loop->signals < 0 || loop->done_fd < 0 ||
        !watch(loop, loop->signals, &loop->signals) || !watch(loop, loop->done_fd, &loop->done_fd) ||
        !watch(loop, loop->listener, &loop->listener)) {
        buf_addf(why, "cannot set up the event loop: %s", strerror(errno));
        return false;
    }
    loop->listening = true;
    if (loop->program->route->resume) {
        loop->pool = hash_pool_new((int)config->hash_threads, loop->program->slots_folder, queue_max(loop),
                                   loop->done_fd, why);
        return loop->pool != NULL;
    }
    return true;
}

static void loop_close(struct loop *loop)
{
    struct connection *c;
    while ((c = TAILQ_FIRST(&loop->connections)))
        connection_close(loop, c);
    hash_pool_free(loop->pool);
    retention_end(&loop->retention);
    for (size_t i = 0; i < 4; i++) {
        int fd = (int[]){loop->listener, loop->epoll, loop->signals, loop->done_fd}[i];
        if (fd >= 0)
            close(fd);
    }
    free(loop->peek);
    buf_release(&loop->lines);
}

bool loop_serve(struct program **program, int listener, const char *socket_path, struct buf *why)
{
    struct loop loop = {.program = *program,
                        .listener = listener,
                        .epoll = -1,
                        .signals = -1,
                        .done_fd = -1,
                        .unlink_path = socket_path};
    bool opened;

    TAILQ_INIT(&loop.connections);
    TAILQ_INIT(&loop.ready);
    fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
    opened = loop_open(&loop, why);
    if (opened) {
        log_info("serving", LOG_S("socket", socket_path ? socket_path : "inherited"));
        notify_status("serving");
        notify_ready();
        while (!loop.stopping || (loop.count > 0 && clock_monotonic_ms() < loop.stop_at_ms))
            turn(&loop);
        log_info("stopped", LOG_I("cut", (long long)loop.count));
    }
    loop_close(&loop);
    *program = loop.program;
    return opened;
}
