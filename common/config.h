/*
 * The configuration: one INI file, one table of options (config_options) that the reader, `examhook config`,
 * the manual page's test and the sample file's test all go by.
 *
 * A program names its role and gets what that job needs: a secret of another role is not kept, and a file
 * named by an `..._file` option of another role is not opened. What is wrong is refused with file and line.
 */
#ifndef EXAMHOOK_CONFIG_H
#define EXAMHOOK_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "log.h"
#include "secret.h"

/* Who is asking; the values are bits so that an option can serve several. */
enum config_role {
    CONFIG_EXAMJOINT = 1, /* examjoint.fcgi */
    CONFIG_PROVIEW = 2,   /* proview.fcgi */
    CONFIG_WORKER = 4,    /* examhook work, examhook check --online: Talview's credentials */
    CONFIG_OPERATOR = 8   /* the other subcommands: no secret at all */
};

enum config_type {
    CONFIG_TEXT,
    CONFIG_SECRET_VALUE, /* also as NAME_file = PATH */
    CONFIG_INT,
    CONFIG_BOOL,     /* yes, no */
    CONFIG_BYTES,    /* 65536, 64K, 10M */
    CONFIG_DURATION, /* 90s, 20m, 6h, 14d */
    CONFIG_CHOICE,   /* one word of `choices` */
    CONFIG_URL,
    CONFIG_PATH,
    CONFIG_LIST, /* words, comma between them */
    CONFIG_ZONE  /* an IANA time zone */
};

/* A row of the table. Sections "examjoint" and "proview" come once for each account. */
struct config_option {
    const char *section;
    const char *name;
    enum config_type type;
    const char *fallback; /* as it would stand in the file; NULL: no default */
    int64_t min, max;     /* numbers, bytes, milliseconds; 0, 0: any */
    const char *choices;  /* CONFIG_CHOICE: "a|b|c" */
    unsigned roles;       /* who gets it */
    bool secret;          /* hidden by `examhook config` */
    const char *help;     /* one sentence */
};
extern const struct config_option config_options[]; /* ends with section NULL */

#define FIELD_COLUMN_BYTES 64
#define FIELDS_MAX 16
#define CONFIG_SECRET_COLUMN "password"

/* What stands at a position of `fields`: a roster column; "password" is the secret one. */
struct field_map {
    int count;
    struct {
        int position;
        char column[FIELD_COLUMN_BYTES];
    } at[FIELDS_MAX];
};

/* One [fields ...] section. account NULL: every account; exam NULL: every exam. */
struct config_fields {
    char *account;
    char *exam;
    struct field_map map;
};

struct config_examjoint {
    char *name;
    char *client_id;
    struct secret_pair client_secret; /* set for CONFIG_EXAMJOINT only */
};

struct config_proview {
    char *name;
    bool callback_open;
    /* CONFIG_PROVIEW only. Unset pairs mean: that protection is not in use. */
    struct secret_pair path_token;
    char *header_name; /* NULL where unused */
    struct secret_pair header_secret;
    struct secret_pair basic;                   /* over "user:password" */
    bool has_path_token, has_header, has_basic; /* set for every role */
    /* CONFIG_WORKER only */
    char *login_url;                    /* from the environment or as given; set for every role */
    char *session_url;                  /* "/UUID" is appended; set for every role */
    char *ca_file;                      /* NULL: the system's authorities alone */
    char *username, *password, *app_id; /* NULL where not configured */
    int64_t credentials_at_ms; /* when username_file or password_file was last written; 0: there is none */
};

struct config {
    char *path; /* the file that was read */
    /* The installation of one customer among others on a host: the file was found beside the document root or
       above the program, and is our own. Nothing of it may be open to group or others. */
    bool personal;
    char **secret_files; /* the files that secrets of this role were read from; ends with NULL, or is NULL */
    /* [store] */
    char *store_url;
    int64_t lock_wait_ms; /* how long a writer waits for another before it says busy */
    int64_t retention_ms; /* what is older is deleted; 0: nothing is */
    /* [log] */
    enum log_level log_level;
    /* [server] */
    int64_t body_limit_bytes;
    int64_t request_wait_ms; /* a request must lie in the socket by then */
    int64_t connections_max;
    /* [verify] */
    int64_t budget_ms;
    int64_t hash_threads; /* 0: one a core */
    int64_t queue_max;    /* verifications waiting for a password check */
    char *languages;      /* folder of NAME.txt files */
    char *default_language;
    char **nocase; /* columns compared without ASCII case; ends with NULL */
    /* [throttle] */
    int64_t throttle_failures, throttle_window_ms, throttle_pause_ms, throttle_rows, throttle_spike;
    /* [roster] */
    char *timezone;
    char *hash; /* what plain passwords become on import: yescrypt, bcrypt or sha512crypt */
    /* [callbacks] */
    int64_t open_count_hour, open_bytes_hour;
    int64_t fetches_session_hour; /* caused by callbacks, for one session */
    /* [worker] */
    int64_t transfers_max, connect_timeout_ms, request_timeout_ms, reply_limit_bytes;
    int64_t poll_ms, lease_ms;
    int64_t retry_first_ms, retry_max_ms;
    int64_t rating_wait_ms, rating_wait_human_ms; /* then parked */
    int64_t failure_wait_ms;                      /* give up on failing fetches, then parked */
    int64_t not_found_wait_ms;                    /* 404, then parked */
    int64_t watch_window_ms, watch_every_ms;      /* looking again at a rating that is there */
    int64_t login_pause_ms;                       /* after wrong credentials */
    char *proxy;                                  /* NULL: none, whatever the environment says */

    struct config_examjoint *examjoint;
    size_t examjoint_count;
    struct config_proview *proview;
    size_t proview_count;
    struct config_fields *fields;
    size_t fields_count;
};

/*
 * Where the configuration is: `option` (--config) if not NULL, else EXAMHOOK_CONF, else, when DOCUMENT_ROOT
 * is set (a web server started us) and it exists, examhook/examhook.conf beside the document root, else, from
 * the program's own folder upwards, the first examhook/examhook.conf that is, with its folder, our own user's
 * (never for root), else /etc/examhook/examhook.conf. Returns allocated text.
 */
char *config_find(const char *option);

/*
 * Reads and checks the file. On true *out is the caller's. On false `why` says what is wrong, beginning with
 * "PATH:LINE: " wherever a line is to blame, and never holding a value of a secret option.
 * Refused, among others: a file that holds a secret, or a secret file, that others can read or write; in a
 * personal installation, either of them open to its group in any way.
 *
 * NAME_file = NAME is looked for in $CREDENTIALS_DIRECTORY first, then beside the configuration.
 */
bool config_load(const char *path, enum config_role role, struct config **out, struct buf *why);
void config_free(struct config *config);

/* The account of that name, or NULL. */
const struct config_examjoint *config_examjoint_named(const struct config *config, const char *name);
/* The mapping for this account and exam: account and exam, then exam, then account, then the general one.
 * NULL: none. */
const struct field_map *config_field_map(const struct config *config, const char *account, const char *exam);
bool config_is_nocase(const struct config *config, const char *column);

/* The effective values in the file's own form, secrets as "(set)" or "(from PATH)"; for `examhook config`. */
void config_print(const char *path, struct buf *out, struct buf *why, bool *ok);

/*
 * What one role gets of the file, as a file of its own that has the same effect for it: every value in force,
 * its secrets in clear text, paths absolute. Nothing of another role's secrets is in it, so a program of
 * another role has no use for it. *changed_ms: when the configuration, or a file with Talview's credentials
 * in it, was last written. False: `why` names file and line as config_load() does, and `out` holds nothing.
 */
bool config_render(const char *path, enum config_role role, struct buf *out, int64_t *changed_ms,
                   struct buf *why);

#endif
