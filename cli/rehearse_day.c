/*
 * The day itself. Each made-up candidate goes the way of a real one: verified (again and again where the
 * machine is too busy, after as many seconds as it was told), admitted, its session terminated, its result
 * and the end of its investigation reported. A vendor's event that is refused or lost is sent again.
 */
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "output.h"
#include "progress.h"
#include "rehearse.h"
#include "../common/clock.h"
#include "../common/json.h"
#include "../common/language.h"

/* ExamJoint ends a verification after this time. */
#define CALLER_MS 60000
/* An answer on the way may be so much later than the time limit of the one who gives it. */
#define WAY_MS 1000
/* How often one request is sent before a candidate, or an event, is given up. */
#define TRIES_MOST 50
/* What is waited where nothing says how long. */
#define AGAIN_S 5
#define HELD_MS 20 /* as many as can be are under way */
/* Between two steps of one candidate: a tenth of the arrivals' time, within these. */
#define GAP_MIN_MS 100
#define GAP_MAX_MS 5000
#define SLICE_MIN_MS 100
#define SLICES_WITHIN 100
#define SLICES_MOST 4000
#define RATINGS_LOOK_MS 500

#define EXAMJOINT_PATH "/webhooks/examjoint"
#define PROVIEW_PATH "/webhooks/proview/" STORE_REHEARSAL

static volatile sig_atomic_t stop_asked;

static void ask_stop(int signal_number)
{
    (void)signal_number;
    stop_asked = 1;
}

void rehearse_catch_signals(void)
{
    struct sigaction action = {.sa_handler = ask_stop}, before;

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* nohup's wish counts. */
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &action, NULL);
}

bool rehearse_stopped(void)
{
    return stop_asked != 0;
}

const char *rehearse_step_name(enum rehearse_step step)
{
    static const char *const names[] = {"verify_respondent", "admitted_respondent", "session terminated",
                                        "result_ready", "investigation_complete"};

    return step < STEPS ? names[step] : "";
}

void rehearse_result_release(struct rehearse_result *result)
{
    for (size_t i = 0; i < STEPS; i++)
        samples_release(&result->tally[i].took);
    samples_release(&result->waits);
    samples_release(&result->until_in);
    samples_release(&result->events);
    free(result->slices);
    *result = (struct rehearse_result){0};
}

/* --- What is sent -----------------------------------------------------------------------------------------
 */

#define HEADERS 3

struct lines {
    struct buf text[HEADERS];
    const char *list[HEADERS + 1];
    size_t count;
};

static void add_line(struct lines *lines, const char *name, const char *value)
{
    struct buf *line = &lines->text[lines->count];

    buf_addf(line, "%s: %s", name, value);
    lines->list[lines->count++] = buf_str(line);
}

/* Everything needed to call the two programs as the vendors do. */
struct callers {
    struct lines examjoint, proview;
    struct buf proview_path;
};

static void callers_init(struct callers *callers, const struct rehearse_account *account)
{
    *callers = (struct callers){0};
    add_line(&callers->examjoint, "x-client-id", account->client_id);
    add_line(&callers->examjoint, "x-client-secret", account->client_secret);
    buf_adds(&callers->proview_path, PROVIEW_PATH);
    if (account->path_token)
        buf_addf(&callers->proview_path, "/%s", account->path_token);
    if (account->header_name && account->header_secret)
        add_line(&callers->proview, account->header_name, account->header_secret);
    if (account->basic_user && account->basic_password) {
        struct buf both = BUF_INIT, value = BUF_INIT;

        buf_addf(&both, "%s:%s", account->basic_user, account->basic_password);
        buf_adds(&value, "Basic ");
        size_t len = sodium_base64_encoded_len(both.len, sodium_base64_VARIANT_ORIGINAL);
        sodium_bin2base64(buf_room(&value, len), len, (const unsigned char *)both.data, both.len,
                          sodium_base64_VARIANT_ORIGINAL);
        value.len += len - 1;
        add_line(&callers->proview, "Authorization", buf_str(&value));
        buf_release(&both);
        buf_release(&value);
    }
}

static void callers_release(struct callers *callers)
{
    for (size_t i = 0; i < HEADERS; i++) {
        buf_release(&callers->examjoint.text[i]);
        buf_release(&callers->proview.text[i]);
    }
    buf_release(&callers->proview_path);
}

static bool call(struct rehearse_http *http, const struct callers *callers, bool proview,
                 const struct buf *body, void *tag)
{
    struct rehearse_request request = {.path = proview ? buf_str(&callers->proview_path) : EXAMJOINT_PATH,
                                       .headers = proview ? callers->proview.list : callers->examjoint.list,
                                       .body = buf_str(body),
                                       .len = body->len,
                                       .timeout_ms = CALLER_MS};

    return rehearse_http_post(http, &request, tag);
}

/* --- The players ------------------------------------------------------------------------------------------
 */

struct player {
    int64_t arrives_ms, sent_ms; /* from the beginning */
    enum rehearse_step step;
    int tries; /* of this step */
    bool over, seen;
    unsigned char uuid[16];
};

struct play {
    struct rehearse_http *http;
    struct callers callers;
    const struct rehearse_run *run;
    struct rehearse_result *result;
    struct languages *languages;
    struct agenda agenda;
    struct player *players;
    int64_t begun_ms, budget_ms, quiet_ms;
    size_t over; /* players */
    int64_t steps_done;
};

static int64_t at_ms(const struct play *play)
{
    return clock_monotonic_ms() - play->begun_ms;
}

static struct rehearse_slice *slice(struct play *play, int64_t ms)
{
    struct rehearse_result *result = play->result;
    size_t at = (size_t)(ms / result->slice_ms);

    at = at < SLICES_MOST ? at : SLICES_MOST - 1;
    if (at >= result->slice_count) {
        result->slices = xrealloc(result->slices, (at + 1) * sizeof(*result->slices));
        memset(result->slices + result->slice_count, 0,
               (at + 1 - result->slice_count) * sizeof(*result->slices));
        result->slice_count = at + 1;
    }
    return &result->slices[at];
}

static int64_t gap_ms(const struct play *play, size_t who, enum rehearse_step step)
{
    int64_t gap = play->run->within_ms / 10;

    gap = gap < GAP_MIN_MS ? GAP_MIN_MS : gap > GAP_MAX_MS ? GAP_MAX_MS : gap;
    /* Not all at the same instant, and the same in each rehearsal. */
    return gap / 2 + gap * (int64_t)((who * 7919 + (size_t)step * 104729) % 1000) / 1000;
}

static void add_fields(const struct play *play, size_t who, struct buf *body)
{
    struct buf value = BUF_INIT;

    json_add_key(body, "fields");
    buf_addc(body, '[');
    for (int i = 0; i < play->run->map->count; i++) {
        buf_addf(body, "%s{\"position\":%d", i ? "," : "", play->run->map->at[i].position);
        json_add_member(body, "value", rehearse_value(play->run, who, play->run->map->at[i].column, &value));
        buf_addc(body, '}');
    }
    buf_addc(body, ']');
    buf_release(&value);
}

static void add_uuid(struct buf *body, const unsigned char uuid[16])
{
    char hex[33];

    sodium_bin2hex(hex, sizeof(hex), uuid, 16);
    buf_addf(body, "\"session_uuid\":\"%.8s-%.4s-%.4s-%.4s-%.12s\"", hex, hex + 8, hex + 12, hex + 16,
             hex + 20);
}

static void write_body(const struct play *play, size_t who, struct buf *body)
{
    const struct player *player = &play->players[who];
    char id[REHEARSE_ID_BYTES];

    rehearse_id(play->run, who, id);
    buf_addc(body, '{');
    if (player->step == STEP_TERMINATED) {
        add_uuid(body, player->uuid);
        json_add_member(body, "external_id", id);
        json_add_member(body, "message", "Session Has Been Terminated");
    } else {
        json_add_member(body, "event", rehearse_step_name(player->step));
        json_add_member(body, "exam_id", play->run->mark);
        if (player->step == STEP_VERIFY) {
            add_fields(play, who, body);
            json_add_member(body, "choosenLang", "en");
        } else {
            json_add_member(body, "respondent_id", id);
        }
        if (player->step == STEP_ADMITTED)
            json_add_member_int(body, "admittedOn", play->result->begun_at_ms + player->arrives_ms);
    }
    buf_addc(body, '}');
}

static void send_step(struct play *play, size_t who)
{
    struct player *player = &play->players[who];
    struct buf body = BUF_INIT;
    int64_t now = at_ms(play);

    if (player->step == STEP_VERIFY && !player->seen) {
        player->seen = true;
        slice(play, now)->arrived++;
    }
    write_body(play, who, &body);
    if (call(play->http, &play->callers, player->step == STEP_TERMINATED, &body, player)) {
        /* A first request that had to be held back waited since it was due. */
        player->sent_ms = player->step == STEP_VERIFY && player->tries == 0 ? player->arrives_ms : now;
        player->tries++;
        play->result->tally[player->step].sent++;
    } else {
        agenda_add(&play->agenda, now + HELD_MS, who);
    }
    buf_release(&body);
}

/* --- What is answered -------------------------------------------------------------------------------------
 */

enum answer { ANSWER_GOOD, ANSWER_LOAD, ANSWER_LIMITED, ANSWER_UNAVAILABLE, ANSWER_LOST, ANSWER_BAD };

/* Whether it is the text for a machine that is too busy, and the seconds in it. */
static bool says_busy(const struct play *play, const char *text, int64_t *wait_s)
{
    struct buf busy = BUF_INIT;
    size_t digits = strcspn(text, "0123456789");
    bool same;

    *wait_s = text[digits] ? strtoll(text + digits, NULL, 10) : AGAIN_S;
    language_text(play->languages, "en", ROSTER_BUSY, *wait_s, &busy);
    same = !strcmp(buf_str(&busy), text);
    buf_release(&busy);
    return same;
}

static enum answer read_verdict(const struct play *play, const struct rehearse_reply *reply, int64_t *wait_s)
{
    struct json_doc *doc = NULL;
    enum answer answer = ANSWER_BAD;
    const char *refusal;

    if (json_parse(reply->body, reply->len, &doc) != JSON_OK)
        return ANSWER_BAD;
    refusal = json_string(json_member(json_root(doc), "errorMessage"));
    if (!refusal)
        answer = ANSWER_GOOD;
    else if (says_busy(play, refusal, wait_s))
        answer = ANSWER_LOAD;
    json_free(doc);
    return answer;
}

static enum answer read_answer(const struct play *play, const struct player *player,
                               const struct rehearse_reply *reply, int64_t *wait_s)
{
    *wait_s = reply->retry_after_s >= 0 ? reply->retry_after_s : AGAIN_S;
    if (!reply->status)
        return ANSWER_LOST;
    if (reply->status == 429)
        return ANSWER_LIMITED;
    /* nginx as it is shipped answers 503 for the other two as well. */
    if (reply->status >= 502 && reply->status <= 504)
        return ANSWER_UNAVAILABLE;
    if (reply->status < 200 || reply->status > 299)
        return ANSWER_BAD;
    return player->step == STEP_VERIFY ? read_verdict(play, reply, wait_s) : ANSWER_GOOD;
}

static void note_trouble(struct play *play, const struct player *player, const struct rehearse_reply *reply)
{
    struct rehearse_result *result = play->result;

    if (result->trouble[0])
        return;
    if (reply->trouble)
        snprintf(result->trouble, sizeof(result->trouble), "%s: %s", rehearse_step_name(player->step),
                 reply->trouble);
    else
        snprintf(result->trouble, sizeof(result->trouble), "%s: status %ld, %.90s",
                 rehearse_step_name(player->step), reply->status, reply->body);
}

static void count(struct play *play, const struct player *player, enum answer answer, int64_t took_ms)
{
    struct rehearse_tally *tally = &play->result->tally[player->step];
    struct rehearse_slice *now = slice(play, at_ms(play));

    tally->answered += answer == ANSWER_GOOD;
    tally->load += answer == ANSWER_LOAD;
    tally->limited += answer == ANSWER_LIMITED;
    tally->unavailable += answer == ANSWER_UNAVAILABLE;
    tally->failed += answer == ANSWER_LOST || answer == ANSWER_BAD;
    now->load += answer == ANSWER_LOAD;
    now->limited += answer == ANSWER_LIMITED;
    now->other += answer == ANSWER_UNAVAILABLE || answer == ANSWER_LOST || answer == ANSWER_BAD;
    if (player->step == STEP_VERIFY)
        tally->late += took_ms > play->budget_ms + WAY_MS;
    else
        tally->late += took_ms >= CALLER_MS;
    if (answer != ANSWER_GOOD)
        return;
    samples_add(&tally->took, took_ms);
    now->let_in += player->step == STEP_VERIFY;
    now->events += player->step != STEP_VERIFY;
    if (player->step != STEP_VERIFY)
        samples_add(&play->result->events, took_ms);
}

static void end_player(struct play *play, struct player *player)
{
    player->over = true;
    play->over++;
    play->steps_done += STEPS - player->step;
    play->result->finished += player->step == STEP_DONE;
    play->result->gave_up += player->step != STEP_DONE;
}

static void go_on(struct play *play, struct player *player, size_t who)
{
    struct rehearse_result *result = play->result;

    if (player->step == STEP_VERIFY) {
        result->let_in++;
        samples_add(&result->until_in, at_ms(play) - player->arrives_ms);
    } else if (player->step == STEP_TERMINATED) {
        result->callbacks_ms = at_ms(play);
    }
    player->step++;
    player->tries = 0;
    play->steps_done++;
    if (player->step == STEP_DONE)
        end_player(play, player);
    else
        agenda_add(&play->agenda, at_ms(play) + gap_ms(play, who, player->step), who);
}

static void take_answer(void *context, void *tag, const struct rehearse_reply *reply)
{
    struct play *play = context;
    struct player *player = tag;
    size_t who = (size_t)(player - play->players);
    int64_t wait_s = AGAIN_S;
    enum answer answer = read_answer(play, player, reply, &wait_s);

    count(play, player, answer, at_ms(play) - player->sent_ms);
    if (answer == ANSWER_LOST || answer == ANSWER_BAD)
        note_trouble(play, player, reply);
    if (answer == ANSWER_LOAD)
        samples_add(&play->result->waits, wait_s);
    if (answer == ANSWER_GOOD)
        go_on(play, player, who);
    else if (answer == ANSWER_BAD || player->tries >= TRIES_MOST)
        end_player(play, player);
    else
        agenda_add(&play->agenda, at_ms(play) + wait_s * 1000 + (int64_t)(who % 100) * 5, who);
}

/* --- Playing ----------------------------------------------------------------------------------------------
 */

static void assemble(struct play *play)
{
    const struct rehearse_run *run = play->run;

    play->players = xcalloc(run->candidates, sizeof(*play->players));
    for (size_t i = 0; i < run->candidates; i++) {
        struct player *player = &play->players[i];

        player->arrives_ms = shape_arrival_ms(i, run->candidates, run->within_ms);
        randombytes_buf(player->uuid, sizeof(player->uuid));
        player->uuid[6] = (unsigned char)((player->uuid[6] & 0x0f) | 0x40);
        player->uuid[8] = (unsigned char)((player->uuid[8] & 0x3f) | 0x80);
        agenda_add(&play->agenda, player->arrives_ms, i);
    }
}

static void send_due(struct play *play)
{
    size_t who;

    /* Some at a time, so that answers are measured when they come. */
    for (int i = 0; i < 64 && agenda_take(&play->agenda, at_ms(play), &who); i++)
        send_step(play, who);
}

static void play_all(struct cli *cli, struct play *play)
{
    const struct rehearse_run *run = play->run;
    struct progress progress;

    progress_begin(&progress, cli->err, "the exam day", (int64_t)(run->candidates * STEPS));
    while (play->over < run->candidates && !rehearse_stopped() &&
           at_ms(play) < run->within_ms + REHEARSE_REST_MS) {
        int64_t wait;

        send_due(play);
        wait = agenda_next_ms(&play->agenda) - at_ms(play);
        rehearse_http_step(play->http, wait < 0 ? 0 : wait < 100 ? wait : 100, take_answer, play);
        progress_at(&progress, play->steps_done);
    }
    progress_end(&progress);
    play->result->took_ms = at_ms(play);
    /* What was sent may be stored yet: nothing is removed before it is answered. */
    if (rehearse_http_under_way(play->http))
        fprintf(cli->err, "examhook rehearse: waiting for the answers under way\n");
    while (rehearse_http_under_way(play->http))
        rehearse_http_step(play->http, 100, take_answer, play);
    play->result->on_the_way = (int64_t)(run->candidates - play->over);
}

/* --- Ratings ----------------------------------------------------------------------------------------------
 */

static int wait_for_ratings(struct cli *cli, struct store *store, struct play *play, int64_t after)
{
    struct rehearse_result *result = play->result;
    int64_t wanted = result->tally[STEP_TERMINATED].answered, quiet_ms = clock_monotonic_ms(), rated = 0;
    struct progress progress;
    enum store_status status = STORE_OK;

    progress_begin(&progress, cli->err, "ratings", wanted);
    while (!status && rated < wanted && !rehearse_stopped() &&
           clock_monotonic_ms() - quiet_ms < play->quiet_ms) {
        status = store_account_rated(store, STORE_REHEARSAL, after, &rated);
        progress_at(&progress, rated);
        if (rated > result->rated) {
            result->rated = rated;
            result->rated_ms = at_ms(play) - result->callbacks_ms;
            quiet_ms = clock_monotonic_ms();
        }
        if (rated < wanted)
            nanosleep(&(struct timespec){.tv_nsec = RATINGS_LOOK_MS * 1000000L}, NULL);
    }
    progress_end(&progress);
    result->not_rated = wanted - rated;
    return status ? cli_store_failed(cli, store, status, "reading the sessions") : CLI_FINE;
}

int rehearse_day(struct cli *cli, const struct config *config, struct store *store,
                 const struct rehearse_target *target, const struct rehearse_account *account,
                 const struct rehearse_run *run, struct rehearse_result *result)
{
    struct play play = {.run = run,
                        .result = result,
                        .budget_ms = config->budget_ms,
                        .quiet_ms = config->poll_ms + run->wait_ms};
    struct buf why = BUF_INIT;
    int64_t after = 0;
    int code = CLI_FINE;
    enum store_status status = store_sessions_last(store, &after);

    if (status)
        return cli_store_failed(cli, store, status, "reading the sessions");
    play.http = rehearse_http_new(target->url, target->ca_file, &why);
    if (!play.http || !languages_load(config->languages, config->default_language, &play.languages, &why)) {
        code = cli_failed(cli, "%s", buf_str(&why));
        goto out;
    }
    callers_init(&play.callers, account);
    result->slice_ms = run->within_ms / SLICES_WITHIN;
    result->slice_ms = result->slice_ms < SLICE_MIN_MS ? SLICE_MIN_MS : result->slice_ms;
    result->callbacks_ms = -1;
    assemble(&play);
    result->begun_at_ms = clock_now_ms();
    play.begun_ms = clock_monotonic_ms();
    play_all(cli, &play);
    if (run->rated && result->callbacks_ms >= 0)
        code = wait_for_ratings(cli, store, &play, after);
    result->stopped = rehearse_stopped();
    callers_release(&play.callers);
out:
    rehearse_http_free(play.http);
    languages_free(play.languages);
    agenda_release(&play.agenda);
    free(play.players);
    buf_release(&why);
    return code;
}

/* --- The probe --------------------------------------------------------------------------------------------
 */

struct probe {
    struct cli *cli;
    const char *url;
    const char *program, *section;
    long wanted; /* the status */
    int code;
};

static void say_strange_answer(struct probe *probe, const struct rehearse_reply *reply)
{
    struct buf safe = BUF_INIT;
    char begin[121];

    snprintf(begin, sizeof(begin), "%s", reply->body);
    output_text(&safe, begin);
    probe->code =
        cli_failed(probe->cli, "%s answered with status %ld: %s", probe->url, reply->status, buf_str(&safe));
    buf_release(&safe);
}

static void judge_probe(void *context, void *tag, const struct rehearse_reply *reply)
{
    struct probe *probe = tag;

    (void)context;
    if (reply->status == probe->wanted)
        probe->code = CLI_FINE;
    else if (!reply->status)
        probe->code =
            cli_failed(probe->cli, "%s gave no answer: %s%s", probe->url, reply->trouble,
                       strstr(reply->trouble, "certificate") ? " (a private certificate: --ca FILE)" : "");
    else if (reply->status == 401)
        probe->code = cli_failed(probe->cli,
                                 "%s does not know this [%s " STORE_REHEARSAL "]: let the programs read the "
                                 "configuration again (systemctl reload 'examhook-*.service', or SIGHUP)",
                                 probe->url, probe->section);
    else if (reply->status == 404)
        probe->code = cli_failed(probe->cli,
                                 "%s has no %s behind it, or one that does not know [%s " STORE_REHEARSAL
                                 "] yet (systemctl reload 'examhook-*.service', or SIGHUP)",
                                 probe->url, probe->program, probe->section);
    else
        say_strange_answer(probe, reply);
}

static int probe_one(struct rehearse_http *http, const struct callers *callers, bool proview,
                     const struct buf *body, struct probe *probe)
{
    if (!call(http, callers, proview, body, probe))
        return cli_failed(probe->cli, "no request could be sent");
    /* Stopped or not: what was sent may be stored yet, and is removed only afterwards. */
    while (rehearse_http_under_way(http))
        rehearse_http_step(http, 100, judge_probe, NULL);
    return probe->code;
}

static bool see_probe(void *context, const struct store_event_row *row)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

static int find_probe(struct cli *cli, struct store *store, const char *url, const char *mark)
{
    struct store_filter ours = {.account = STORE_REHEARSAL, .person = mark};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool found = false;
    enum store_status status = STORE_OK;

    for (bool more = true; more && !found && !status;) {
        more = false;
        status = store_events(store, &ours, &cursor, 1, see_probe, &found, &more);
    }
    if (status)
        return cli_store_failed(cli, store, status, "reading the events");
    if (found)
        return CLI_FINE;
    return cli_failed(cli, "%s is another installation than this one: what it accepted is not in this store",
                      url);
}

int rehearse_probe(struct cli *cli, struct store *store, const struct rehearse_target *target,
                   const struct rehearse_account *account, const struct rehearse_run *run)
{
    struct probe examjoint = {cli, target->url, "examjoint.fcgi", "examjoint", 200, CLI_FAILED};
    struct probe proview = {cli, target->url, "proview.fcgi", "proview", 422, CLI_FAILED};
    struct buf why = BUF_INIT, body = BUF_INIT, nothing = BUF_INIT;
    struct callers callers;
    struct rehearse_http *http = rehearse_http_new(target->url, target->ca_file, &why);
    int code;

    callers_init(&callers, account);
    buf_addc(&body, '{');
    json_add_member(&body, "event", "rehearsal_probe");
    json_add_member(&body, "respondent_id", run->mark);
    buf_addc(&body, '}');
    buf_adds(&nothing, "{}");
    code = http ? probe_one(http, &callers, false, &body, &examjoint) : cli_failed(cli, "%s", buf_str(&why));
    if (!code)
        code = find_probe(cli, store, target->url, run->mark);
    if (!code)
        code = probe_one(http, &callers, true, &nothing, &proview);
    rehearse_http_free(http);
    callers_release(&callers);
    buf_release(&why);
    buf_release(&body);
    buf_release(&nothing);
    return code;
}
