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
    static const char nothing[1] = {0};
    const volatile char *left = a && a_len > 0 ? a : nothing;
    volatile size_t differs;
    if (!a || !b)
        return false;
    /* As many steps as `b` has bytes. Beyond the end of `a` its first byte is read, without a branch; the
       lengths have told by then that they differ. */
    differs = a_len ^ b_len;
    for (size_t i = 0; i < b_len; i++) {
        size_t inside = (size_t)0 - (size_t)(i < a_len);
        differs |= (size_t)(unsigned char)(left[i & inside] ^ b[i]);
    }
    return differs == 0;
}
