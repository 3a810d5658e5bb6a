/* examhook unlock ID | --exam E */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "../common/buf.h"
#include "../common/throttle.h"

#define PAGE 500
#define KEYS_A_ROUND 256 /* a round stays short, however many exams there are */

enum { KEY_ACCOUNT = 'a', KEY_EXAM = 'e' };

const struct cli_option cmd_unlock_options[] = {
    {"account", "A", KEY_ACCOUNT, "with ID: only of that account; else of every one"},
    {"exam", "E", KEY_EXAM, "everybody's attempts at that exam, also those that match no candidate"},
    {NULL, NULL, 0, NULL},
};

/* Attempts are counted under keyed hashes of account, exam and candidate, so that the table names nobody. To
   find a candidate's, every exam counts that the candidate may have tried: those of the roster's lines, of
   the configuration, and of the verifications that are stored (each counted attempt ends as one). */
struct exams {
    const char *account;
    bool in_roster;
    char **ids;
    size_t count;
};

static void add_exam(struct exams *exams, const char *id)
{
    if (!id)
        return;
    for (size_t i = 0; i < exams->count; i++) {
        if (!strcmp(exams->ids[i], id))
            return;
    }
    exams->ids = xrealloc(exams->ids, (exams->count + 1) * sizeof(*exams->ids));
    exams->ids[exams->count++] = xstrdup(id);
}

static bool add_line(void *context, const struct candidate *line)
{
    struct exams *exams = context;

    exams->in_roster = true;
    add_exam(exams, line->exam);
    return true;
}

static bool add_event(void *context, const struct store_event_row *row)
{
    struct exams *exams = context;

    if (row->account && !strcmp(row->account, exams->account))
        add_exam(exams, row->exam_id);
    return true;
}

static enum store_status gather(struct store *store, const struct config *config, const char *id,
                                struct exams *exams)
{
    struct roster_filter of_candidate = {.account = exams->account, .id = id};
    struct store_filter of_person = {.person = id};
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = store_roster_list(store, &of_candidate, add_line, exams);
    bool more = true;

    for (size_t i = 0; i < config->fields_count; i++)
        add_exam(exams, config->fields[i].exam);
    while (more && !status) {
        more = false;
        status = store_events(store, &of_person, &cursor, PAGE, add_event, exams, &more);
    }
    return status;
}

/* Forgets the keys from `first` on, as many as a round bears. */
static enum store_status forget_some(struct store *store, const unsigned char *secret,
                                     const struct exams *exams, const char *id, size_t first,
                                     int64_t *removed)
{
    enum store_status status = store_step_begin(store);

    for (size_t i = first; i < exams->count && i < first + KEYS_A_ROUND && !status; i++) {
        unsigned char key[32];
        int64_t rows = 0;

        throttle_key_known(secret, exams->account, exams->ids[i], id, key);
        status = store_attempts_forget(store, key, NULL, &rows);
        *removed += rows;
        if (status == STORE_ABSENT)
            status = STORE_OK;
    }
    return status ? status : store_step_end(store, true);
}

static enum store_status forget_keys(struct store *store, const struct exams *exams, const char *id,
                                     int64_t *removed)
{
    unsigned char secret[STORE_KEY_BYTES];
    enum store_status status = store_identity_key(store, secret);

    for (size_t first = 0; first < exams->count && !status; first += KEYS_A_ROUND) {
        status = store_round_begin(store, STORE_EXAMJOINT);
        if (status)
            break;
        status = forget_some(store, secret, exams, id, first, removed);
        if (status)
            store_round_abandon(store);
        else
            status = store_round_commit(store);
    }
    explicit_bzero(secret, sizeof(secret));
    return status;
}

/* One round: short, whatever there is. */
static enum store_status forget_some_of_exam(struct store *store, const char *exam, int64_t *removed)
{
    enum store_status status = cli_change_begin(store, STORE_EXAMJOINT);
    if (status)
        return status;
    status = store_attempts_forget(store, NULL, exam, removed);
    return cli_change_end(store, status == STORE_ABSENT ? STORE_OK : status);
}

static enum store_status forget_exam(struct store *store, const char *exam, int64_t *removed)
{
    enum store_status status;
    int64_t some;

    do {
        some = 0;
        status = forget_some_of_exam(store, exam, &some);
        if (!status)
            *removed += some;
    } while (!status && some >= STORE_FORGET_MOST);
    return status;
}

static int unlock_exam(struct cli *cli, const struct config *config, const char *exam)
{
    struct store *store;
    int64_t removed = 0;
    enum store_status status;
    int code = cli_store(cli, config, STORE_EXAMJOINT, 0, &store);

    if (code)
        return code;
    status = forget_exam(store, exam, &removed);
    if (status)
        code = cli_store_failed(cli, store, status,
                                removed ? "not every attempt was forgotten" : "nothing was changed");
    else
        fprintf(cli->out, "%lld failed attempts forgotten\n", (long long)removed);
    store_free(store);
    return code;
}

/* Every account, or the one named. */
static enum store_status unlock_in(struct store *store, const struct config *config, const char *account,
                                   const char *id, bool *known, int64_t *removed)
{
    enum store_status status = STORE_OK;

    for (size_t i = 0; i < config->examjoint_count && !status; i++) {
        struct exams exams = {.account = config->examjoint[i].name};

        if (account && strcmp(account, exams.account))
            continue;
        status = gather(store, config, id, &exams);
        if (!status)
            status = forget_keys(store, &exams, id, removed);
        *known = *known || exams.in_roster;
        while (exams.count)
            free(exams.ids[--exams.count]);
        free(exams.ids);
    }
    return status;
}

static int unlock_candidate(struct cli *cli, const struct config *config, const char *account, const char *id)
{
    struct store *store;
    enum store_status status;
    int64_t removed = 0;
    bool known = false;
    int code;

    if (account && !config_examjoint_named(config, account))
        return cli_usage(cli, "no [examjoint %s] is configured", account);
    code = cli_store(cli, config, STORE_EXAMJOINT, STORE_ROSTER, &store);
    if (code)
        return code;
    status = unlock_in(store, config, account, id, &known, &removed);
    if (status)
        code = cli_store_failed(cli, store, status, "not every attempt was forgotten");
    else if (!known && !removed)
        code = cli_failed(cli, "the roster has no such id; for input that matches no candidate: --exam E");
    else
        fprintf(cli->out, "%lld failed attempts forgotten\n", (long long)removed);
    store_free(store);
    return code;
}

int cmd_unlock(struct cli *cli, int argc, char **argv)
{
    struct config *config = NULL;
    const char *value, *account = NULL, *exam = NULL;
    int code;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_ACCOUNT)
            account = value;
        else if (key == KEY_EXAM)
            exam = value;
        else
            return CLI_USAGE;
    }
    if ((exam != NULL) == (argc - optind == 1) || argc - optind > 1)
        return cli_usage(cli, "needs one ID, or --exam E");
    if (exam && (account || !exam[0]))
        return cli_usage(cli, "--exam E stands alone");
    code = cli_config(cli, cli->command->role, &config);
    if (code)
        return code;
    code = exam ? unlock_exam(cli, config, exam) : unlock_candidate(cli, config, account, argv[optind]);
    config_free(config);
    return code;
}
