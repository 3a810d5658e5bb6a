/*
 * A rehearsal: an exam day that is played against one's own installation. cmd_rehearse.c puts the parts in
 * their order; what each part knows stands in a struct of its own here.
 *
 *   rehearse_account.c  the account of that name in the configuration, and the lines to paste for it
 *   rehearse_exam.c     is an exam on?
 *   rehearse_roster.c   made-up candidates in the roster; what was made is removed
 *   rehearse_standin.c  the stand-in of Talview, a process of ours
 *   rehearse_day.c      candidates arrive, are verified, admitted, and so on; every answer is measured
 *   rehearse_report.c   what came of it: for people, as JSON; rehearse_chart.c: as a page with charts
 *   rehearse_http.c     requests; rehearse_shape.c: arrivals and percentiles
 */
#ifndef EXAMHOOK_REHEARSE_H
#define EXAMHOOK_REHEARSE_H

#include <sys/types.h>

#include "cli.h"
#include "rehearse_http.h"
#include "rehearse_shape.h"
#include "../common/password.h"

/* --- The account ---------------------------------------------------------------------------------------- */

struct rehearse_account {
    char *client_id, *client_secret;
    char *path_token, *header_name, *header_secret, *basic_user, *basic_password; /* NULL: not in use */
    char *username, *password, *app_id;                                           /* NULL: not configured */
    char *ca_file; /* that the worker trusts the stand-in by; NULL: none */
    char *proxy;   /* of the worker; NULL: none */
    int port;      /* of the stand-in on the loopback; 0: login_url is elsewhere */
};
/* Whether both sections are there. */
bool rehearse_account_there(const struct config *config);
/* Whether an account of that name is somebody's, as far as a configuration says: --setup did not make it. */
bool rehearse_account_foreign(const struct config *config);
/* CLI_FINE, or the exit code after the message. */
int rehearse_account_read(struct cli *cli, const struct config *config, struct rehearse_account *account);
void rehearse_account_release(struct rehearse_account *account);
/* The lines to paste, with fresh secrets, on the output. `ca_file` is where the stand-in's authority is;
   NULL: without a stand-in, for --without-ratings alone. */
int rehearse_account_print(struct cli *cli, const struct config *config, const char *ca_file);

/* --- The stand-in --------------------------------------------------------------------------------------- */

struct rehearse_standin {
    pid_t pid; /* 0: does not run */
};
/* The program: the one named, or the shipped one. NULL after the message. */
char *rehearse_standin_find(struct cli *cli, const char *named);
/* Makes the certificates in the folder, which is made where it is missing: for our user alone where the
   installation is personal. */
int rehearse_standin_certificates(struct cli *cli, const char *program, const char *folder, bool personal);
/* Starts it and waits until it answers. It ends when we do, whatever ends us. */
int rehearse_standin_start(struct cli *cli, const char *program, const struct rehearse_account *account,
                           struct rehearse_standin *standin);
void rehearse_standin_stop(struct rehearse_standin *standin);

/* --- Is an exam on? ------------------------------------------------------------------------------------- */

/* CLI_FAILED after the message: a line of the roster, whichever account's but the rehearsals', has a window
   that is open, or opens within ahead_ms. With one end alone it is a day long; without both there is none. */
int rehearse_window_open(struct cli *cli, struct store *store, int64_t ahead_ms);
/* CLI_FAILED after the message: within the last hour a candidate of such an account was verified or admitted,
   or Talview called back. */
int rehearse_somebody_came(struct cli *cli, struct store *store);

/* --- The roster ----------------------------------------------------------------------------------------- */

#define REHEARSE_KINDS 8

/* What the real roster's hashes cost, and those of the made-up candidates with it. */
struct rehearse_kind {
    char class_text[32]; /* as password_cost_class() has it */
    char hash[PASSWORD_HASH_BYTES];
    int64_t real;    /* so many lines of the real roster */
    double check_ms; /* one check on one core, measured alone */
};
/* One rehearsal. Its mark stands in every id, so that it can be searched for. */
struct rehearse_run {
    char mark[24];   /* "rehearsal-" and hex digits */
    char secret[33]; /* the common password */
    size_t candidates;
    int64_t within_ms;
    int64_t wait_ms;             /* for a rating, since the last that came, beside [worker] poll */
    const struct field_map *map; /* what a candidate types at which position */
    bool asks_password;
    struct rehearse_kind kinds[REHEARSE_KINDS];
    size_t kind_count;
    double check_ms;  /* the mean of the kinds, by their shares */
    double commit_ms; /* one small write with fdatasync beside the store, the median of some */
    long cores;       /* that check passwords */
    bool rated;       /* with the stand-in */
};
#define REHEARSE_ID_BYTES 48
/* "MARK-000017": the candidate's id in the roster. */
const char *rehearse_id(const struct rehearse_run *run, size_t i, char id[REHEARSE_ID_BYTES]);
/* What that candidate has in a column; lives in `text`. */
const char *rehearse_value(const struct rehearse_run *run, size_t i, const char *column, struct buf *text);

/* The lock that one rehearsal holds, with its process's id in the file; -1 after the message. */
int rehearse_lock(struct cli *cli, const struct config *config);
/* Finds the roster's kinds, makes hashes and measures: kinds, check_ms, commit_ms, cores. */
int rehearse_measure(struct cli *cli, const struct config *config, struct store *store,
                     struct rehearse_run *run);
int rehearse_roster_fill(struct cli *cli, struct store *store, const struct rehearse_run *run);
/* Removes all that the account has, the roster first. `late`: requests may be under way still that a killed
   rehearsal sent; waits for what they leave.
   `expected`: so many rows, about, for a progress bar; 0: nobody knows. *removed is added to. */
int rehearse_remove(struct cli *cli, const struct config *config, struct store *store, bool late,
                    int64_t expected, struct store_removed *removed);

/* --- The day -------------------------------------------------------------------------------------------- */

/* After the arrivals the rest of the day takes so long at the most. */
#define REHEARSE_REST_MS (15 * 60 * INT64_C(1000))

enum rehearse_step {
    STEP_VERIFY,
    STEP_ADMITTED,
    STEP_TERMINATED,
    STEP_RESULT,
    STEP_INVESTIGATION,
    STEPS,
    STEP_DONE = STEPS
};
/* "verify_respondent", ... */
const char *rehearse_step_name(enum rehearse_step step);

/* The requests of one kind. */
struct rehearse_tally {
    int64_t sent;        /* repeats among them */
    int64_t answered;    /* as they should be */
    int64_t load;        /* "please try again in N seconds" */
    int64_t limited;     /* 429: the web server's limit for one address */
    int64_t unavailable; /* 503 */
    int64_t failed;      /* anything else that was answered, and what was not */
    int64_t late;        /* answered after the time limit, or not within ExamJoint's 60 s */
    struct samples took; /* of those answered */
};
/* What happened in each slice of time. */
struct rehearse_slice {
    int64_t arrived, let_in, load, limited, other, events;
};
struct rehearse_result {
    struct rehearse_tally tally[STEPS];
    struct samples waits;    /* the seconds that candidates were told to wait */
    struct samples until_in; /* from a candidate's arrival until it was let in, repeats and waits included */
    struct samples events;   /* times of all that are no verification */
    struct rehearse_slice *slices;
    size_t slice_count;
    int64_t slice_ms;
    int64_t let_in, gave_up, finished; /* candidates */
    int64_t on_the_way;                /* who were neither at the end when the day was ended */
    int64_t begun_at_ms, took_ms;
    int64_t callbacks_ms; /* when the last callback was answered, from the beginning; -1: none was */
    int64_t rated, rated_ms, not_rated; /* rated_ms: from the last callback to the last rating */
    char trouble[160];                  /* the first answer that was none of ours; "" for none */
    bool stopped;                       /* by a signal */
};
void rehearse_result_release(struct rehearse_result *result);

struct rehearse_target {
    const char *url, *ca_file;
};
/* Is that this installation, and does it know the account? Sends an event, which must turn up in the store.
 */
int rehearse_probe(struct cli *cli, struct store *store, const struct rehearse_target *target,
                   const struct rehearse_account *account, const struct rehearse_run *run);
/* Plays the day; then waits for the ratings, where there are to be any. */
int rehearse_day(struct cli *cli, const struct config *config, struct store *store,
                 const struct rehearse_target *target, const struct rehearse_account *account,
                 const struct rehearse_run *run, struct rehearse_result *result);

/* Ctrl-C, SIGTERM and SIGHUP end a rehearsal in order. */
void rehearse_catch_signals(void);
bool rehearse_stopped(void);

/* --- What came of it ------------------------------------------------------------------------------------ */

enum rehearse_limit {
    LIMIT_NONE,
    LIMIT_ADDRESS,   /* the web server's limit for one address */
    LIMIT_SERVER,    /* the web server, or the program behind it */
    LIMIT_PASSWORDS, /* password checks */
    LIMIT_DISK,      /* commits */
    LIMIT_TALVIEW
};
/* The bottleneck, and in `why` the sentence that says so with what was measured. */
enum rehearse_limit rehearse_judge(const struct rehearse_run *run, struct rehearse_result *result,
                                   struct buf *why);
/* "password checks", ... */
const char *rehearse_limit_name(enum rehearse_limit limit);
/* Sentences on the candidates, what was refused or failed, the ratings and the time, each a line that is
   harmless on a terminal. */
void rehearse_say(struct buf *text, const struct rehearse_run *run, struct rehearse_result *result);
void rehearse_print(FILE *out, const struct rehearse_run *run, struct rehearse_result *result);
void rehearse_print_json(FILE *out, const struct rehearse_run *run, struct rehearse_result *result);
/* The page, complete in itself. */
void rehearse_chart(struct buf *html, const struct rehearse_run *run, struct rehearse_result *result);

#endif
