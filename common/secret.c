#include "secret.h"

#include <sodium.h>

_Static_assert(SECRET_DIGEST_BYTES == crypto_hash_sha256_BYTES, "a secret's digest is a SHA-256");

static void digest(unsigned char out[SECRET_DIGEST_BYTES], const char *bytes, size_t len)
{
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    if (len > 0)
        crypto_hash_sha256_update(&state, (const unsigned char *)bytes, len);
    crypto_hash_sha256_final(&state, out);
    sodium_memzero(&state, sizeof state);
}

void secret_set(struct secret *s, const char *value, size_t len)
{
    if (!value || len == 0) {
        *s = (struct secret){.set = false};
        return;
    }
    digest(s->digest, value, len);
    s->set = true;
}

enum secret_match secret_check(const struct secret_pair *pair, const char *given, size_t len)
{
    unsigned char of_given[SECRET_DIGEST_BYTES];
    bool current, previous;
    digest(of_given, given, given ? len : 0);
    /* `&` and not `&&`: what was found for one secret must not decide whether the other is looked at. */
    current = (sodium_memcmp(of_given, pair->current.digest, sizeof of_given) == 0) & pair->current.set;
    previous = (sodium_memcmp(of_given, pair->previous.digest, sizeof of_given) == 0) & pair->previous.set;
    sodium_memzero(of_given, sizeof of_given);
    if (!given || len == 0)
        return SECRET_NO;
    return current ? SECRET_CURRENT : previous ? SECRET_PREVIOUS : SECRET_NO;
}

bool secret_equal(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned char of_a[SECRET_DIGEST_BYTES], of_b[SECRET_DIGEST_BYTES];
    bool equal;
    digest(of_a, a, a ? a_len : 0);
    digest(of_b, b, b ? b_len : 0);
    equal = sodium_memcmp(of_a, of_b, sizeof of_a) == 0;
    sodium_memzero(of_a, sizeof of_a);
    sodium_memzero(of_b, sizeof of_b);
    return equal && a && b;
}
