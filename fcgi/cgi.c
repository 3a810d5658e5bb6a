#include "program.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "../common/clock.h"
#include "../common/log.h"
#include "hash_pool.h"

#define READ_BYTES 16384
/* How long what is left of a body is waited for, only to be thrown away. */
#define DISCARD_MS 2000

/* Reads up to `most` bytes of the body; false when it cannot be read or does not come in time. */
static bool read_body(struct buf *body, size_t most, int64_t deadline_ms)
{
    while (body->len < most) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        int64_t left = deadline_ms - clock_monotonic_ms();
        size_t want = most - body->len < READ_BYTES ? most - body->len : READ_BYTES;
        ssize_t got;

        if (left <= 0 || (poll(&in, 1, (int)left) < 0 && errno != EINTR))
            return false;
        if (!in.revents)
            continue;
        got = read(STDIN_FILENO, buf_room(body, want), want);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return false;
        if (got == 0)
            break;
        body->len += (size_t)got;
    }
    return true;
}

static bool write_out(const struct buf *out)
{
    for (size_t at = 0; at < out->len;) {
        ssize_t n = write(STDOUT_FILENO, out->data + at, out->len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

/*
 * Reads what was left of the body. Under Apache's mod_cgid our input and output are one socket, and a socket
 * that is closed with something unread in it resets the other side, which then loses the answer.
 */
static void discard_body(const struct request *request)
{
    int64_t deadline_ms = clock_monotonic_ms() + DISCARD_MS;
    bool declared = request->has_declared_length && request->declared_length >= 0;
    int64_t left = declared ? request->declared_length - (int64_t)request->body.len : INT64_MAX;
    struct buf scrap = BUF_INIT;

    while (left > 0 && read_body(&scrap, left < READ_BYTES ? (size_t)left : READ_BYTES, deadline_ms) &&
           scrap.len > 0) {
        left -= (int64_t)scrap.len;
        buf_clear(&scrap);
    }
    buf_release(&scrap);
}

/* One round of one; true when there is a password to check first. */
static bool round_of_one(const struct program *program, struct request *request, struct reply *reply,
                         struct hash_job *job, bool resume)
{
    enum route_next next = ROUTE_REPLY;
    enum store_status status = store_round_begin(program->store, program->route->area);
    if (status == STORE_OK) {
        next = program_step(program, request, reply, job, resume);
        status = store_round_commit(program->store);
    }
    if (status != STORE_OK && reply->status < 500)
        reply_not_stored(reply, program->store, status);
    return status == STORE_OK && next == ROUTE_HASH;
}

static void serve(struct program *program, struct request *request, struct reply *reply)
{
    const struct config *config = program->config;
    int64_t limit = config->body_limit_bytes;
    bool too_large = request->declared_length > limit;
    size_t most = request->has_declared_length && request->declared_length >= 0 && !too_large
                      ? (size_t)request->declared_length
                      : (size_t)limit + 1;

    if (!program_place(program, request, reply) ||
        program->route->declared(program->state, request, reply) == ROUTE_REPLY)
        return;
    if (!too_large) {
        bool read = read_body(&request->body, most, clock_monotonic_ms() + config->request_wait_ms);
        request->body_complete =
            read && (!request->has_declared_length || (int64_t)request->body.len == request->declared_length);
    }
    if (program_check(program, request, reply, too_large) == ROUTE_REPLY)
        return;
    struct hash_job job = {.match = false};
    if (round_of_one(program, request, reply, &job, false)) {
        hash_run_here(&job, hash_slots(config->hash_threads), program->slots_folder, request->deadline_ms);
        round_of_one(program, request, reply, &job, true);
    }
    buf_release(&job.password);
}

int cgi_serve(struct program *program)
{
    struct request request = {0};
    struct reply reply = {0};
    struct buf out = BUF_INIT, lines = BUF_INIT;
    struct request_ids ids = {.left = 0};

    request_read_params(&request, environ, program->config->budget_ms, &ids);
    serve(program, &request, &reply);
    reply_serialize(&reply, &out);
    bool sent = write_out(&out);
    request_log(program, &request, &reply, &lines);
    log_write_lines(&lines);
    buf_release(&lines);
    discard_body(&request);
    buf_release(&out);
    request_release(program, &request, &reply);
    return sent ? EXIT_SUCCESS : EXIT_FAILURE;
}

void cgi_unavailable(const char *word)
{
    struct request request = {0};
    struct reply reply = {0};
    struct buf out = BUF_INIT;
    struct request_ids ids = {.left = 0};

    request_read_params(&request, environ, 0, &ids);
    reply_error(&reply, 503, word, NULL);
    reply.header_name = "Retry-After";
    reply.header_value = RETRY_AFTER_S;
    reply_serialize(&reply, &out);
    (void)write_out(&out);
    discard_body(&request);
    free((char *)(uintptr_t)request.path);
    buf_release(&out);
    buf_release(&reply.body);
}
