/*
 * A request's whole way, from the web server's variables to the reply, with both routes and a store in
 * memory. An input:
 *
 *   METHOD PATH
 *   NAME=VALUE      CGI variables, one a line; of a name with ! in front, what goes wrong:
 *                   !fail=N  !with=STATUS  !attempts=N before this one   !hash=0 wrong, 1 right, 2 not done
 * !cut=1  !large=1 (an empty line) the body
 *
 * What must hold: a status and a JSON body of the documented kind; 2xx only if the store committed a row; no
 * error without a reason; and no value under `fields` in the log, in a row or in the reply.
 */
#include <stdio.h>
#include <strings.h>
#include <unistd.h>

#include "../../common/json.h"
#include "../../common/log.h"
#include "../../fcgi/program.h"
#include "../../fcgi/routes.h"
#include "fuzz.h"
#include "store_fake.h"

#define PARAMS_MOST 32
#define MARK "opensesame" /* what inputs send as a password */

static const char configuration[] =
    "[store]\nurl = sqlite:/nonexistent/store\n"
    "[server]\nbody_limit = 64K\n"
    "[verify]\nlanguages = /nonexistent\n"
    "[examjoint main]\nclient_id = id\nclient_secret = CANARY-current-secret\n"
    "client_secret_previous = CANARY-previous-secret\n"
    "[fields]\n0 = name\n1 = password\n"
    "[fields open]\n0 = name\n"
    "[proview demo]\npath_token = CANARY-path-token-of-the-demo\n"
    "login_url = https://talview.example/login\nsession_url = https://talview.example/session\n"
    "[proview open]\ncallback_open = yes\n"
    "login_url = https://talview.example/login\nsession_url = https://talview.example/session\n"
    "[proview both]\nheader_name = X-Examhook-Secret\nheader_secret = CANARY-header-secret\n"
    "basic_user = u\nbasic_password = CANARY-basic-password\n"
    "login_url = https://talview.example/login\nsession_url = https://talview.example/session\n";

static struct program programs[2];

static void programs_open(void)
{
    static const struct route *const routes[] = {&examjoint_route, &proview_route};
    if (programs[0].route)
        return;
    for (size_t i = 0; i < 2; i++) {
        struct program *program = &programs[i];
        struct buf why = BUF_INIT;
        char path[64];
        int fd = fuzz_file(configuration, sizeof configuration - 1);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        program->route = routes[i];
        log_setup(routes[i]->program, LOG_LEVEL_DEBUG);
        if (!config_load(path, routes[i]->role, &program->config, &why))
            fuzz_fail(__FILE__, __LINE__, buf_str(&why));
        close(fd);
        MUST(store_open("", 0, 0, 0, &program->store, &why) == STORE_OK);
        program->state = routes[i]->open(program->config, program->store, &why);
        MUST(program->state);
        buf_release(&why);
    }
}

struct input {
    char *line[PARAMS_MOST];
    char *params[PARAMS_MOST + 3];
    size_t lines, count;
    char *method, *uri;
    struct fuzz_rest body;
    long fail_at, fail_with, hash, attempts;
    bool cut, large;
};

static void take_order(struct input *in, const char *order)
{
    const char *value = strchr(order, '=');
    long number = value ? strtol(value + 1, NULL, 10) : 0;
    if (strncmp(order, "!fail", 5) == 0)
        in->fail_at = number;
    else if (strncmp(order, "!with", 5) == 0)
        in->fail_with = number;
    else if (strncmp(order, "!hash", 5) == 0)
        in->hash = number;
    else if (strncmp(order, "!attempts", 9) == 0)
        in->attempts = number;
    else if (strncmp(order, "!cut", 4) == 0)
        in->cut = number != 0;
    else if (strncmp(order, "!large", 6) == 0)
        in->large = number != 0;
}

static void input_read(struct input *in, const uint8_t *data, size_t size)
{
    struct buf method = BUF_INIT, uri = BUF_INIT;
    in->body = (struct fuzz_rest){(const char *)data, size};
    char *first = fuzz_line(&in->body);
    size_t word = strcspn(first, " ");
    buf_addf(&method, "REQUEST_METHOD=%.*s", (int)word, first);
    buf_addf(&uri, "REQUEST_URI=%s", first[word] ? first + word + 1 : "");
    free(first);
    in->method = method.data;
    in->uri = uri.data;
    in->params[in->count++] = in->method;
    in->params[in->count++] = in->uri;
    while (in->lines < PARAMS_MOST && in->body.len > 0) {
        char *line = fuzz_line(&in->body);
        in->line[in->lines++] = line;
        if (!*line)
            break;
        if (*line == '!')
            take_order(in, line);
        else
            in->params[in->count++] = line;
    }
}

static void input_release(struct input *in)
{
    for (size_t i = 0; i < in->lines; i++)
        free(in->line[i]);
    free(in->method);
    free(in->uri);
}

/* The rounds, as the event loop and the CGI mode run them. */
static void run_rounds(const struct program *program, const struct input *in, struct request *request,
                       struct reply *reply)
{
    struct hash_job job = {.password = BUF_INIT};
    bool resume = false;
    enum route_next next = ROUTE_REPLY;
    do {
        enum store_status status = store_round_begin(program->store, program->route->area);
        if (status == STORE_OK) {
            next = program_step(program, request, reply, &job, resume);
            MUST(reply->status < 500 || !program->store->kept);
            status = store_round_commit(program->store);
        }
        if (status != STORE_OK) {
            reply_not_stored(reply, program->store, status);
            break;
        }
        if (next == ROUTE_HASH) {
            MUST(!resume && job.setting[0] == '$');
            resume = true;
            job.done = in->hash != 2;
            job.match = in->hash == 1;
            job.wait_s = 3;
        }
    } while (next == ROUTE_HASH);
    buf_release(&job.password);
}

static size_t marks_in(const char *text)
{
    size_t count = 0;
    for (const char *at = text; at && (at = strstr(at, MARK)); at++)
        count++;
    return count;
}

/* How often the mark stands in keys and texts below a member called `fields`. */
static size_t marks_below_fields(const struct json *node, bool below)
{
    size_t count = below ? marks_in(json_string(node)) : 0;
    for (size_t i = 0; i < json_count(node); i++) {
        const char *key = json_type(node) == JSON_OBJECT ? json_key_at(node, i) : NULL;
        count += below ? marks_in(key) : 0;
        count += marks_below_fields(json_at(node, i), below || (key && strcasecmp(key, "fields") == 0));
    }
    return count;
}

/* The web server's variables: an address, say, is kept as it is. */
static size_t marks_in_params(const struct input *in)
{
    size_t count = 0;
    for (size_t i = 0; in->params[i]; i++)
        count += marks_in(in->params[i]);
    return count;
}

/* A mark that was sent under `fields` and nowhere else must be nowhere. */
static void check_fields_absent(const struct input *in, const struct reply *reply, const struct store *store)
{
    struct json_doc *doc;
    struct buf all = BUF_INIT;
    if (json_parse(in->body.at, in->body.len, &doc) != JSON_OK)
        return;
    json_write(&all, json_root(doc), false);
    if (marks_in_params(in) == 0 && marks_in(buf_str(&all)) == marks_below_fields(json_root(doc), false)) {
        MUST(!fuzz_contains(fuzz_log(), MARK));
        MUST(!fuzz_contains(&store->rows, MARK));
        MUST(!fuzz_contains(&reply->body, MARK));
    }
    buf_release(&all);
    json_free(doc);
}

static bool is_known(int status)
{
    static const int known[] = {200, 400, 401, 404, 405, 413, 422, 429, 503};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (status == known[i])
            return true;
    }
    return false;
}

static void check_reply(const struct reply *reply, const struct store *store)
{
    struct json_doc *doc;
    MUST(is_known(reply->status));
    MUST(json_parse(reply->body.data, reply->body.len, &doc) == JSON_OK);
    const char *error = json_string(json_member(json_root(doc), "error"));
    MUST((reply->status >= 300) == (error != NULL));
    MUST(!error || fuzz_is_word(error));
    MUST(reply->status != 200 || store->commits > 0);
    if (reply->status == 405)
        MUST(strcmp(reply->header_name, "Allow") == 0);
    if (reply->status == 429 || reply->status == 503)
        MUST(strcmp(reply->header_name, "Retry-After") == 0);
    json_free(doc);
}

static void check_rows(const struct program *program, const struct reply *reply, const struct store *store)
{
    bool examjoint = program->route == &examjoint_route;
    bool throttled = reply->note && strcmp(reply->note, "throttled") == 0; /* one a minute is kept */
    MUST(!store->round && !store->step && store->step_rows.len == 0);
    if (reply->status == 200 && !throttled)
        MUST(store->rows.len > 0);
    if (reply->status == 422 && examjoint)
        MUST(fuzz_contains(&store->rows, "outcome=quarantined"));
    if (reply->status != 200 && reply->status != 422)
        MUST(store->rows.len == 0);
    MUST(!fuzz_contains(fuzz_log(), "CANARY") && !fuzz_contains(&reply->body, "CANARY"));
}

static void run(struct program *program, const struct input *in)
{
    struct request request = {.body = BUF_INIT};
    struct reply reply = {.body = BUF_INIT};
    struct buf out = BUF_INIT, lines = BUF_INIT;
    struct request_ids ids = {.left = 0};
    struct store *store = program->store;

    fuzz_log_clear();
    store_fake_reset(store);
    store->fail_at = in->fail_at > 0 && in->fail_at < 32 ? (unsigned)in->fail_at : 0;
    store->fail_with = in->fail_with > STORE_OK && in->fail_with <= STORE_ERROR
                           ? (enum store_status)in->fail_with
                           : STORE_ERROR;
    store->attempts = in->attempts > 0 && in->attempts < 100 ? (unsigned)in->attempts : 0;
    request_read_params(&request, (char **)(uintptr_t)in->params, program->config->budget_ms, &ids);
    if (program->route->declared(program->state, &request, &reply) == ROUTE_STORE) {
        buf_add(&request.body, in->body.at, in->body.len);
        request.body_complete = !in->cut;
        if (program_check(program, &request, &reply, in->large) == ROUTE_STORE)
            run_rounds(program, in, &request, &reply);
    }
    request_log(program, &request, &reply, &lines);
    log_write_lines(&lines);
    buf_release(&lines);
    reply_serialize(&reply, &out);
    MUST(strncmp(out.data, "Status: ", 8) == 0 && !strstr(out.data, "Unknown"));
    check_reply(&reply, store);
    check_rows(program, &reply, store);
    check_fields_absent(in, &reply, store);
    buf_release(&out);
    request_release(program, &request, &reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.hash = 0};
    programs_open();
    input_read(&in, data, size);
    run(&programs[0], &in);
    run(&programs[1], &in);
    input_release(&in);
    return 0;
}
