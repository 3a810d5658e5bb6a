/*
 * Drives a route the way the server does, one request a round, against a real store in a scratch folder. What
 * goes to standard error while a request runs is kept in FOLDER/log.
 */
#ifndef EXAMHOOK_ROUTE_HARNESS_H
#define EXAMHOOK_ROUTE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../common/log.h"
#include "../../fcgi/program.h"
#include "../../fcgi/routes.h"

#define MANY_PARAMS 16

struct harness {
    char folder[64];
    char *url;
    struct program program;
    int log_fd;
    int hashes;                        /* password checks that the route asked for */
    char setting[PASSWORD_HASH_BYTES]; /* the last one's */
    bool too_busy;                     /* no password check is done */
};

struct call {
    const char *method;              /* NULL: POST */
    const char *path;                /* NULL: none */
    const char *params[MANY_PARAMS]; /* "HTTP_X_CLIENT_ID=..." */
    const char *length;              /* CONTENT_LENGTH; NULL: that of the body */
    const char *body;
    size_t body_len; /* 0: strlen */
    bool cut;        /* the body did not come whole */
};

struct answer {
    int status;
    char *body;
    char header[128]; /* "Allow: POST" */
};

static inline void harness_file(const struct harness *h, const char *name, const char *text)
{
    struct buf path = BUF_INIT;
    buf_addf(&path, "%s/%s", h->folder, name);
    int fd = open(buf_str(&path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    buf_release(&path);
}

static inline struct harness *harness_new(void)
{
    struct harness *h = xcalloc(1, sizeof *h);
    struct buf url = BUF_INIT, said = BUF_INIT;
    snprintf(h->folder, sizeof h->folder, "/tmp/examhook-route-XXXXXX");
    assert_non_null(mkdtemp(h->folder));
    buf_addf(&url, "sqlite:%s/store", h->folder);
    h->url = xstrdup(buf_str(&url));
    if (store_migrate(h->url, &said) != STORE_OK) {
        fail_msg("migrate: %s", buf_str(&said));
    }
    buf_clear(&url);
    buf_addf(&url, "%s/log", h->folder);
    h->log_fd = open(buf_str(&url), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(h->log_fd >= 0);
    buf_release(&said);
    buf_release(&url);
    return h;
}

/* `conf`: what follows the [store] section. */
static inline void harness_open(struct harness *h, const struct route *route, const char *conf)
{
    struct program *program = &h->program;
    struct buf text = BUF_INIT, path = BUF_INIT, why = BUF_INIT;
    buf_addf(&text, "[store]\nurl = %s\n%s", h->url, conf);
    harness_file(h, "examhook.conf", buf_str(&text));
    buf_addf(&path, "%s/examhook.conf", h->folder);
    program->route = route;
    if (!config_load(buf_str(&path), route->role, &program->config, &why)) {
        fail_msg("%s", buf_str(&why));
    }
    log_setup(route->program, program->config->log_level);
    if (store_open(h->url, route->write_areas, route->read_areas, program->config->lock_wait_ms,
                   &program->store, &why) != STORE_OK) {
        fail_msg("%s", buf_str(&why));
    }
    program->state = route->open(program->config, program->store, &why);
    if (!program->state) {
        fail_msg("%s", buf_str(&why));
    }
    buf_release(&text);
    buf_release(&path);
    buf_release(&why);
}

static inline int harness_unlink(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline void harness_close(struct harness *h)
{
    struct program *program = &h->program;
    if (program->route) {
        program->route->close(program->state);
        store_free(program->store);
        config_free(program->config);
    }
    close(h->log_fd);
    nftw(h->folder, harness_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(h->url);
    free(h);
}

static inline void harness_round(struct harness *h, struct request *request, struct reply *reply)
{
    const struct program *program = &h->program;
    struct hash_job job = {.password = BUF_INIT};
    bool resume = false;
    enum route_next next;
    do {
        assert_int_equal(store_round_begin(program->store, program->route->area), STORE_OK);
        next = program_step(program, request, reply, &job, resume);
        assert_int_equal(store_round_commit(program->store), STORE_OK);
        if (next == ROUTE_HASH) {
            assert_false(resume);
            resume = true;
            h->hashes++;
            assert_true(password_hash_supported(job.setting));
            memcpy(h->setting, job.setting, sizeof h->setting);
            job.done = !h->too_busy &&
                       password_check(job.setting, buf_str(&job.password), job.password.len, &job.match);
        }
    } while (next == ROUTE_HASH);
    buf_release(&job.password);
}

/* The answer's body is the caller's. */
static inline struct answer harness_call(struct harness *h, const struct call *call)
{
    char *params[MANY_PARAMS + 8];
    char line[4][8192];
    size_t count = 0, body_len = call->body_len ? call->body_len : strlen(call->body ? call->body : "");
    snprintf(line[0], sizeof line[0], "REQUEST_METHOD=%s", call->method ? call->method : "POST");
    snprintf(line[1], sizeof line[1], "REQUEST_URI=%s", call->path ? call->path : "");
    snprintf(line[2], sizeof line[2], "CONTENT_LENGTH=%zu", body_len);
    if (call->length) {
        snprintf(line[2], sizeof line[2], "CONTENT_LENGTH=%s", call->length);
    }
    snprintf(line[3], sizeof line[3], "REMOTE_ADDR=192.0.2.7");
    for (; count < 4; count++) {
        params[count] = line[count];
    }
    for (size_t i = 0; i < MANY_PARAMS && call->params[i]; i++) {
        params[count++] = (char *)(uintptr_t)call->params[i];
    }
    params[count] = NULL;

    int standard_error = dup(STDERR_FILENO);
    dup2(h->log_fd, STDERR_FILENO);
    const struct program *program = &h->program;
    struct request request = {.body = BUF_INIT};
    struct reply reply = {.body = BUF_INIT};
    struct request_ids ids = {.left = 0};
    struct buf lines = BUF_INIT;
    request_read_params(&request, params, program->config->budget_ms, &ids);
    if (program->route->declared(program->state, &request, &reply) == ROUTE_STORE) {
        buf_add(&request.body, call->body ? call->body : "", body_len);
        request.body_complete = !call->cut;
        if (program_check(program, &request, &reply, false) == ROUTE_STORE) {
            harness_round(h, &request, &reply);
        }
    }
    request_log(program, &request, &reply, &lines);
    log_write_lines(&lines);
    buf_release(&lines);
    dup2(standard_error, STDERR_FILENO);
    close(standard_error);

    struct answer answer = {.status = reply.status, .body = xstrdup(buf_str(&reply.body))};
    if (reply.header_name) {
        snprintf(answer.header, sizeof answer.header, "%s: %s", reply.header_name, reply.header_value);
    }
    request_release(program, &request, &reply);
    return answer;
}

static inline void harness_expect(struct harness *h, const struct call *call, int status, const char *body)
{
    struct answer answer = harness_call(h, call);
    if (answer.status != status || strcmp(answer.body, body) != 0) {
        fail_msg("%s %s %s: %d %s, wanted %d %s", call->method ? call->method : "POST",
                 call->path ? call->path : "", call->body ? call->body : "", answer.status, answer.body,
                 status, body);
    }
    free(answer.body);
}

/* --- What is stored ------------------------------------------------------------------------------------- */

static inline const char *harness_shown(const char *text)
{
    return text ? text : "-";
}

static inline bool harness_row(void *context, const struct store_event_row *row)
{
    struct buf *out = context;
    buf_addf(out, "%s %s", row->account, harness_shown(row->event));
    if (row->session_uuid) {
        buf_addf(out, " %s %s %s", row->session_uuid, harness_shown(row->external_id),
                 harness_shown(row->flags));
    } else {
        buf_addf(out, " %s %s", harness_shown(row->exam_id), harness_shown(row->respondent_id));
    }
    if (row->has_admitted_on) {
        buf_addf(out, " on=%lld", (long long)row->admitted_on_ms);
    }
    if (row->outcome) {
        buf_addf(out, " %s/%s", row->outcome, harness_shown(row->reason));
    }
    if (row->identity) {
        buf_addf(out, " by=%s", strncmp(row->identity, "unknown:", 8) == 0 ? "unknown" : row->identity);
    }
    if (row->positions) {
        buf_addf(out, " at=%s", row->positions);
    }
    buf_addf(out, " x%lld %s\n", (long long)row->deliveries, harness_shown(row->body));
    return true;
}

/* Every row since the cursor, a line each; the cursor goes on. The caller's to release. */
static inline void harness_rows(struct harness *h, struct store_cursor *cursor, struct buf *out)
{
    struct store *store;
    struct buf why = BUF_INIT;
    const struct store_filter filter = {0};
    bool more = true;
    assert_int_equal(store_open(h->url, 0, h->program.route->area, 1000, &store, &why), STORE_OK);
    while (more) {
        assert_int_equal(store_events(store, &filter, cursor, 100, harness_row, out, &more), STORE_OK);
    }
    store_free(store);
    buf_release(&why);
}

static inline void harness_expect_rows(struct harness *h, struct store_cursor *cursor, const char *wanted)
{
    struct buf rows = BUF_INIT;
    harness_rows(h, cursor, &rows);
    assert_string_equal(buf_str(&rows), wanted);
    buf_release(&rows);
}

/* The log so far. The caller's to release. */
static inline void harness_log(const struct harness *h, struct buf *out)
{
    char block[4096];
    ssize_t got;
    off_t at = 0;
    while ((got = pread(h->log_fd, block, sizeof block, at)) > 0) {
        buf_add(out, block, (size_t)got);
        at += got;
    }
}

static inline size_t harness_count(const struct buf *text, const char *word)
{
    size_t count = 0;
    for (const char *at = buf_str(text); (at = strstr(at, word)); at++) {
        count++;
    }
    return count;
}

#endif
