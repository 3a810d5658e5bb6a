/*
 * The pieces of `examhook check`: each looks at one thing and adds lines to the report. A line says ok,
 * warning or failed, what was looked at, and what to do.
 */
#ifndef EXAMHOOK_CHECK_H
#define EXAMHOOK_CHECK_H

#include <stdbool.h>
#include <stdio.h>

#include "../common/config.h"
#include "../common/store.h"

enum check_level { CHECK_OK, CHECK_WARNING, CHECK_FAILED };

struct check_report {
    FILE *out;
    bool json;
    bool start;       /* only what prevents running fails */
    bool one_program; /* asked for one program, by its own user: what that one cannot read, it needs */
    int failed;       /* lines that say so */
};

/* `advice` NULL: nothing to do. */
void check_line(struct check_report *report, enum check_level level, const char *what, const char *advice,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The file as each program reads it, its mode, and what in it may be meant otherwise. *config is what the
   operator's role reads, NULL when that was refused. */
void check_config_roles(struct check_report *report, const char *path, unsigned roles,
                        struct config **config);
void check_config_sense(struct check_report *report, const char *path, const struct config *config,
                        unsigned roles);
/* Whether the store of these areas is open to those whom it is no business of: then no program starts. */
void check_closed(struct check_report *report, const struct config *config, unsigned areas);
/* Whether the web may show what it must not, as far as names of folders tell. */
void check_place(struct check_report *report, const char *path, const struct config *config);
/* Logs that were put aside in the folders of these areas. */
void check_left(struct check_report *report, const struct config *config, unsigned areas);
/* What the worker needs of the machine to call Talview: certificate authorities, name servers. Says nothing
   where no account has credentials. */
void check_host(struct check_report *report, const char *path);
/* The accounts' rosters and whether they hold what [fields] maps. */
void check_roster(struct check_report *report, const struct config *config);
/* One login for each Proview account, unless the worker waits after wrong credentials. Keeps no token. */
void check_online(struct check_report *report, const char *path);

#endif
