/* examhook respondent ID --erase */
#include <string.h>
#include <unistd.h>

#include "output.h"
#include "person.h"
#include "../common/clock.h"
#include "../common/json.h"

#define EVENTS_A_ROUND 100
#define KEYS_A_ROUND 256

struct erased {
    int64_t lines, events, attempts, callbacks, sessions;
};

/* A step went well, or there was nothing to do: commits. */
static enum store_status ended(struct store *store, enum store_status status)
{
    return cli_change_end(store, status == STORE_ABSENT ? STORE_OK : status);
}

static enum store_status erase_keys(const struct person *person, struct erased *erased)
{
    enum store_status status = STORE_OK;

    for (size_t first = 0; first < person->key_count && !status; first += KEYS_A_ROUND) {
        int64_t some = 0;

        status = cli_change_begin(person->store, STORE_EXAMJOINT);
        if (status)
            break;
        for (size_t i = first; i < person->key_count && i < first + KEYS_A_ROUND && !status; i++) {
            int64_t rows = 0;

            status = store_attempts_forget(person->store, person->keys[i], NULL, &rows);
            some += rows;
        }
        status = ended(person->store, status);
        erased->attempts += status ? 0 : some;
    }
    return status;
}

/* Callbacks among them go with their sessions. */
static enum store_status erase_events(const struct person *person, struct erased *erased)
{
    enum store_status status = STORE_OK;
    size_t i = 0;

    while (i < person->events.count && !status) {
        int64_t some = 0;
        size_t end = i + EVENTS_A_ROUND;

        status = cli_change_begin(person->store, STORE_EXAMJOINT);
        if (status)
            break;
        for (; i < person->events.count && i < end && !status; i++) {
            if (person->events.list[i][0] != 'e')
                continue;
            status = store_event_erase(person->store, person->events.list[i], person->secret);
            some += status == STORE_OK;
            status = status == STORE_ABSENT ? STORE_OK : status;
        }
        status = ended(person->store, status);
        erased->events += status ? 0 : some;
    }
    return status;
}

/* In this order, so that whatever the erasure is cut short by, the next finds all that is left of it. */
static enum store_status erase_session(const struct person *person, const struct person_session *session,
                                       struct erased *erased)
{
    struct store *store = person->store;
    const char *account = session->account, *uuid = session->uuid;
    int64_t callbacks = 0, sessions = 0, now_ms = clock_now_ms();
    enum store_status status = cli_change_begin(store, STORE_RATINGS);

    if (!status)
        status = cli_change_end(store, store_session_hold(store, account, uuid, person->id));
    if (!status)
        status = cli_change_begin(store, STORE_PROVIEW);
    if (!status)
        status = cli_change_end(store, store_callbacks_erase(store, account, uuid, now_ms, &callbacks));
    erased->callbacks += status ? 0 : callbacks;
    if (!status)
        status = cli_change_begin(store, STORE_RATINGS);
    if (!status)
        status = cli_change_end(store, store_session_erase(store, account, uuid, now_ms, &sessions));
    erased->sessions += status ? 0 : sessions;
    return status;
}

static enum store_status erase_lines(const struct person *person, struct erased *erased)
{
    struct roster_build *build;
    int64_t removed = 0;
    enum store_status status = STORE_OK;

    if (!person->line_count)
        return STORE_OK;
    status = store_roster_begin(person->store, NULL, false, NULL, &build);
    if (status)
        return status;
    for (size_t i = 0; i < person->line_count && !status; i++) {
        int64_t some = 0;

        status = store_roster_remove(build, person->lines[i].account, person->id, &some);
        removed += some;
    }
    if (status) {
        store_roster_abandon(build);
        return status;
    }
    status = store_roster_commit(build);
    erased->lines += status ? 0 : removed;
    return status;
}

/* Nothing of what is gone remains in any file. */
static enum store_status overwrite(const struct person *person, int *unsettled)
{
    const struct store_sweep_rule scrub = {.scrub_areas = STORE_ALL, .now_ms = clock_now_ms()};
    struct store_purged purged = {0};
    enum store_status status = store_sweep(person->store, &scrub, &purged);

    *unsettled = purged.unsettled;
    return status;
}

/* The roster last: it says by which address, and under which hashes, the rest was found. */
static enum store_status erase_all(const struct person *person, struct erased *erased, int *unsettled)
{
    enum store_status status = erase_keys(person, erased);

    if (!status)
        status = erase_events(person, erased);
    for (size_t i = 0; i < person->session_count && !status; i++)
        status = erase_session(person, &person->sessions[i], erased);
    if (!status)
        status = erase_lines(person, erased);
    return status ? status : overwrite(person, unsettled);
}

static void say_undecided(FILE *out, const char *id)
{
    if (id[0] == 'e')
        fprintf(out, "left as it is: %s mentions the id; if it is the person's: --also %s\n", id, id);
    else
        fprintf(out,
                "left as it is: %s mentions the id; if its session is the person's, erase it by its UUID\n",
                id);
}

static void say(const struct cli *cli, const struct person *person, const struct erased *erased, bool json)
{
    struct buf out = BUF_INIT;

    if (!json) {
        fprintf(
            cli->out,
            "%lld roster lines, %lld events, %lld callbacks, %lld sessions, %lld counts of failed attempts"
            " erased\n",
            (long long)erased->lines, (long long)erased->events, (long long)erased->callbacks,
            (long long)erased->sessions, (long long)erased->attempts);
        for (size_t i = 0; i < person->undecided.count; i++)
            say_undecided(cli->out, person->undecided.list[i]);
        fputs("Copies made by `examhook backup`, logs and exported files were not touched.\n", cli->out);
        return;
    }
    buf_addc(&out, '{');
    json_add_member_int(&out, "roster_lines", erased->lines);
    json_add_member_int(&out, "events", erased->events);
    json_add_member_int(&out, "callbacks", erased->callbacks);
    json_add_member_int(&out, "sessions", erased->sessions);
    json_add_member_int(&out, "attempts", erased->attempts);
    json_add_key(&out, "undecided");
    buf_addc(&out, '[');
    for (size_t i = 0; i < person->undecided.count; i++) {
        if (i)
            buf_addc(&out, ',');
        json_add_string(&out, person->undecided.list[i]);
    }
    buf_adds(&out, "]}");
    output_json(cli->out, &out);
    buf_release(&out);
}

static bool confirmed(const struct cli *cli, const struct person *person)
{
    char answer[16] = "";
    size_t callbacks = 0;

    for (size_t i = 0; i < person->events.count; i++)
        callbacks += person->events.list[i][0] == 'c';
    fprintf(cli->err,
            "%zu roster lines, %zu events, %zu callbacks, %zu sessions would be erased for good. Type yes: ",
            person->line_count, person->events.count - callbacks, callbacks, person->session_count);
    fflush(cli->err);
    return fgets(answer, sizeof(answer), stdin) && !strcmp(answer, "yes\n");
}

static int say_unsettled(struct cli *cli)
{
    return cli_failed(cli, "somebody read the store all the time: bytes of what was erased may remain; run: "
                           "examhook purge");
}

/* An erasure before this one may have been killed behind its last row. */
static int nothing_found(struct cli *cli, const struct person *person)
{
    int unsettled = 0;
    enum store_status status = overwrite(person, &unsettled);

    if (status)
        return cli_store_failed(cli, person->store, status, "what was erased before is not overwritten");
    if (unsettled)
        return say_unsettled(cli);
    return cli_failed(cli, "nothing is stored about that id%s",
                      person->undecided.count ? " but mentions: see `export --respondent`" : "");
}

static int erase(struct cli *cli, const struct person *person, const struct erase_options *options)
{
    struct erased erased = {0};
    struct buf why = BUF_INIT;
    enum store_status status;
    int unsettled = 0, code = CLI_FINE;

    if (person_is_ambiguous(person, &why))
        code = cli_failed(cli, "%s", buf_str(&why));
    else if (person_empty(person))
        code = nothing_found(cli, person);
    else if (!options->yes && !confirmed(cli, person))
        code = cli_failed(cli, "nothing was erased");
    buf_release(&why);
    if (code)
        return code;
    status = erase_all(person, &erased, &unsettled);
    say(cli, person, &erased, options->json);
    if (status)
        return cli_store_failed(cli, person->store, status, "the erasure was cut short, do it again");
    return unsettled ? say_unsettled(cli) : CLI_FINE;
}

int person_erase(struct cli *cli, const struct config *config, const struct erase_options *options)
{
    struct person person = {
        .config = config, .id = options->id, .accounts = &options->accounts, .also = &options->also};
    int code;

    if (!options->yes && !isatty(STDIN_FILENO))
        return cli_usage(cli, "--erase asks first; where nobody can answer it needs --yes");
    code = cli_store(cli, config, STORE_ALL, 0, &person.store);
    if (code)
        return code;
    person.proctoring = person.store;
    if (person_gather(&person))
        code = cli_store_failed(cli, person.store, person.status, "nothing was erased");
    else if (!person.has_secret)
        code = cli_failed(cli, "identity.key cannot be read: %s", store_message(person.store));
    else
        code = erase(cli, &person, options);
    person_release(&person);
    store_free(person.store);
    return code;
}
