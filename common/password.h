/*
 * Password hashes by crypt(3). Only yescrypt ($y$), bcrypt ($2a$ $2b$ $2y$) and sha512crypt ($6$) are
 * accepted: crypt() itself would take nearly anything and fall back to DES.
 */
#ifndef EXAMHOOK_PASSWORD_H
#define EXAMHOOK_PASSWORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PASSWORD_HASH_BYTES 384 /* the longest crypt(3) output and its NUL */
#define PASSWORD_MAX_BYTES 511  /* of a candidate's input; what is longer never matches */

/* A supported prefix and a well-formed hash or setting (crypt_checksalt agrees), of a cost that one check can
 * bear within the time budget: bcrypt up to 16, sha512crypt up to 5,000,000 rounds, yescrypt as far as
 * crypt_gensalt(3) goes. */
bool password_hash_supported(const char *hash);
/* A full, well-formed hash, not only a setting: right length for its kind. */
bool password_hash_complete(const char *hash);
/*
 * Computes exactly one hash, whatever the input: also for an empty, too long or NUL-holding password, and for
 * a hash that is not supported (then a dummy of the default kind). *match is true only when the password is
 * right. False: nothing can be said of the password, since crypt(3) did not get the memory that it wants
 * (yescrypt: 16 MiB).
 */
bool password_check(const char *hash, const char *password, size_t len, bool *match);
/* A hash for a plain password, of kind "yescrypt", "bcrypt" or "sha512crypt". False: crypt(3) refused. */
bool password_make(const char *kind, const char *password, char hash[PASSWORD_HASH_BYTES]);
/* A hash for a plain password, of the kind and cost of `like`, with a fixed salt: for a password that is made
 * up and belongs to nobody. */
bool password_make_like(const char *like, const char *password, char hash[PASSWORD_HASH_BYTES]);
/* A setting of the same kind and cost as `hash` with a fixed salt: what a dummy check for nobody costs. */
bool password_dummy(const char *hash, char setting[PASSWORD_HASH_BYTES]);
/* The setting used where a roster has no hash at all. */
const char *password_default_dummy(void);
/* The kind and cost of a hash as a short text ("$y$j9T$", "$2b$12$"): equal for hashes that cost the same. */
bool password_cost_class(const char *hash, char class_text[32]);
/* What one check of such a hash takes on a common machine, from its kind and cost alone: for where nothing
   was measured yet. In microseconds, at least 1; for what is no hash, that of the default dummy. */
int64_t password_cost_guess_us(const char *hash);
/* How many hashes this process has computed; for the test that counts them. */
unsigned long password_computed(void);

#endif
