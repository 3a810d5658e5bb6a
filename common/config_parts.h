/*
 * What the files of the configuration share with each other; nobody else includes this.
 *
 *   config_options.c  the table of options
 *   config.c          where the file is, and reading it into sections (the only user of inih)
 *   config_value.c    is a value what its option takes?
 *   config_secret.c   a secret's text, from its line or its file
 *   config_build.c    checks between options, `struct config`
 *   config_print.c    the effective values, secrets hidden
 *   config_render.c   what one role gets, as a file of its own
 */
#ifndef EXAMHOOK_CONFIG_PARTS_H
#define EXAMHOOK_CONFIG_PARTS_H

#include <sys/types.h>

#include "config.h"

#define CONFIG_ALL (CONFIG_EXAMJOINT | CONFIG_PROVIEW | CONFIG_WORKER | CONFIG_OPERATOR)
#define CONFIG_FIELDS_SECTION "fields"

/* One line of a section, checked against its row of the table. */
enum config_form {
    CONFIG_PLAIN,
    CONFIG_FROM_FILE, /* NAME_file = PATH: text is the path */
    CONFIG_HEX        /* NAME_hex, one or more: text is what they say */
};
struct config_value {
    const struct config_option *option;
    enum config_form form;
    char *text;
    int line; /* the first */
};

struct config_section {
    char *kind;    /* a section of the table, or "fields" */
    char *account; /* NULL: none */
    char *exam;    /* fields only; NULL: every exam */
    int line;
    struct config_value *values;
    size_t count;
    struct field_map map; /* fields only; by position */
};

/* The file as it was read. */
struct config_source {
    char *path;
    char *folder; /* what relative paths start from; absolute */
    mode_t mode;
    int64_t changed_ms;
    bool personal;     /* as in struct config */
    bool holds_secret; /* a secret stands in the file itself */
    struct config_section *sections;
    size_t count;
};

/* Puts "PATH:LINE: " (line 0: "PATH: ") and the text into `why`. Always false. */
bool config_refuse(struct buf *why, const char *path, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Reads sections and values, each checked by itself, and then what they must be to each other. To be
   released also when false. */
bool config_source_read(const char *path, struct config_source *source, struct buf *why);
void config_source_release(struct config_source *source);
bool config_source_check(const struct config_source *source, struct buf *why);
/* The section without an account of that kind, or NULL. */
const struct config_section *config_source_section(const struct config_source *source, const char *kind);
/* NULL: not given. The section may be NULL. */
const struct config_value *config_section_value(const struct config_section *section, const char *name);
/* The value's text, or the fallback of its option (may be NULL). */
const char *config_effective(const struct config_section *section, const struct config_option *option);
const struct config_option *config_option_named(const char *section, const char *name);

/* Whether inih would read the line (without its end) as it stands. */
bool config_fits_line(const char *line);

/* A path of the file made absolute, allocated. */
char *config_resolve(const struct config_source *source, const char *path);
/* The effective text with its relative path made absolute (paths, sqlite: addresses); NULL gives NULL. */
char *config_absolute(const struct config_source *source, const struct config_option *option,
                      const char *text);

/* The file of a NAME_file: where systemd handed over a credential of that name that one, else as
   config_resolve() has it. Allocated. */
char *config_secret_path(const struct config_source *source, const struct config_value *value);
/* The secret's text into `secret`, which stays empty where it is not given or not for this role. *path gets
   the file that it was read from, allocated, or NULL. */
bool config_secret_read(const struct config_source *source, enum config_role role,
                        const struct config_section *section, const char *name, struct buf *secret,
                        char **path, struct buf *why);
/* When the file that the secret stands in was last written; 0: it is in no file, not for this role, or the
   file is made anew at each start, which says nothing. */
int64_t config_secret_written_ms(const struct config_source *source, enum config_role role,
                                 const struct config_section *section, const char *name);

/* False: `reason` says why, without a secret's value. */
bool config_value_check(const struct config_option *option, const char *text, struct buf *reason);
/* A number, bytes or milliseconds that passed the check. */
int64_t config_value_number(const struct config_option *option, const char *text);
/* As it would stand in the file: "20s", "64K", "5". */
void config_value_format(enum config_type type, int64_t number, struct buf *out);
/* Letters, digits, '_' (and '-' where `dash`), 1 to `most` of them. */
bool config_is_word(const char *text, size_t most, bool dash);

/* The URLs of a [proview] section, from its environment or its own; never NULL after config_source_check().
 * Allocated. */
char *config_login_url(const struct config_section *section);
char *config_session_url(const struct config_section *section);
/* Whether the section says itself where Talview is; else its environment counts. */
bool config_has_own_urls(const struct config_section *section);

#endif
