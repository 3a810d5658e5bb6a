/*
 * Comparing what a caller sent with what is configured.
 *
 * A configured secret is kept as its SHA-256 and the clear text is forgotten. The candidate value is hashed
 * and the two digests are compared in constant time, so the time taken depends on the length of what the
 * caller sent and on nothing else. Nothing configured means no match, ever.
 */
#ifndef EXAMHOOK_SECRET_H
#define EXAMHOOK_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#define SECRET_DIGEST_BYTES 32

struct secret {
    bool set;
    unsigned char digest[SECRET_DIGEST_BYTES];
};

/* Two live secrets, so that one can be rotated without a moment in which neither works. */
struct secret_pair {
    struct secret current;
    struct secret previous;
};

enum secret_match { SECRET_NO = 0, SECRET_CURRENT, SECRET_PREVIOUS };

/* An empty value leaves the secret unset. */
void secret_set(struct secret *s, const char *value, size_t len);
/* `given` may be NULL (the header was not sent): SECRET_NO. Both secrets are always compared. */
enum secret_match secret_check(const struct secret_pair *pair, const char *given, size_t len);
/* Two byte strings, neither of them kept as a secret (a client id, say): `a` is configured, `b` was sent.
 * Constant time like the above. */
bool secret_equal(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
