/*
 * Who is calling: what the routes compare with the configured secrets, in constant time. Pure but for
 * previous_used(), which writes a log line.
 */
#ifndef EXAMHOOK_CREDENTIALS_H
#define EXAMHOOK_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "../common/config.h"
#include "path.h"

/* Lets one thing through a minute, so that a log line cannot become a flood. */
struct once_a_minute {
    bool used;
    int64_t last_ms; /* monotonic */
};
bool once_a_minute(struct once_a_minute *gate, int64_t monotonic_ms);

/* An account whose caller still uses the secret from before a rotation: counted in this process. */
struct previous_use {
    unsigned long count;
    struct once_a_minute gate;
};
/* Counts, and warns at most once a minute, with the account, what was used and the count. */
void previous_used(struct previous_use *use, const char *account, const char *what);

/* The account whose id and secret these are, NULL for none. All accounts are always compared. `id` and
 * `secret` may be NULL. */
const struct config_examjoint *credentials_examjoint(const struct config *config, const char *id,
                                                     const char *secret, enum secret_match *match);

/*
 * The account that this path leads to, NULL for none: no such account, a token that is wrong, missing, or
 * there without need. `path` NULL: the path could not be read; it costs what a wrong one costs. Whatever is
 * wrong, one token is compared. *match is of the token (SECRET_CURRENT where the account has none).
 */
const struct config_proview *credentials_proview(const struct config *config, const struct path_proview *path,
                                                 enum secret_match *match);

/* The value of an Authorization header of the scheme Basic, NULL where none was sent. */
enum secret_match credentials_basic(const struct secret_pair *basic, const char *authorization);

#endif
