#include "throttle.h"

#include <sodium.h>
#include <stdint.h>
#include <string.h>

/* Every key begins with what it is a key of, so that no two purposes ever share one. */
#define PURPOSE_KNOWN "attempts of a candidate"
#define PURPOSE_UNKNOWN "attempts of nobody"
#define PURPOSE_IDENTITY "identity of nobody"
#define PURPOSE_BODY "body of an unknown event"
#define PURPOSE_ERASED "key of an erased event"

typedef crypto_auth_hmacsha256_state hmac;

/* A field is its length and its bytes: ("ab", "c") and ("a", "bc") differ. NULL differs from the empty text.
 */
static void add_length(hmac *state, uint64_t len)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(len >> (8 * i));
    crypto_auth_hmacsha256_update(state, bytes, sizeof bytes);
}

static void add_field(hmac *state, const char *text)
{
    size_t len = text ? strlen(text) : 0;
    add_length(state, text ? (uint64_t)len : UINT64_MAX);
    if (len)
        crypto_auth_hmacsha256_update(state, (const unsigned char *)text, len);
}

/* Without ASCII case. In pieces, since a candidate's input is not to be left in a copy. */
static void add_field_nocase(hmac *state, const char *text)
{
    char piece[128];
    size_t len = strlen(text);
    add_length(state, len);
    while (len) {
        size_t n = len < sizeof piece ? len : sizeof piece;
        memcpy(piece, text, n);
        ascii_lower(piece, n);
        crypto_auth_hmacsha256_update(state, (const unsigned char *)piece, n);
        text += n;
        len -= n;
    }
    sodium_memzero(piece, sizeof piece);
}

static void begin(hmac *state, const unsigned char secret[STORE_KEY_BYTES], const char *purpose)
{
    crypto_auth_hmacsha256_init(state, secret, STORE_KEY_BYTES);
    add_field(state, purpose);
}

static void end(hmac *state, unsigned char digest[32])
{
    crypto_auth_hmacsha256_final(state, digest);
    sodium_memzero(state, sizeof *state);
}

static void add_identity(hmac *state, const struct roster_key *keys, size_t count)
{
    add_length(state, count);
    for (size_t i = 0; i < count; i++) {
        add_field(state, keys[i].column);
        if (keys[i].nocase && keys[i].value)
            add_field_nocase(state, keys[i].value);
        else
            add_field(state, keys[i].value);
    }
}

void throttle_key_known(const unsigned char secret[STORE_KEY_BYTES], const char *account, const char *exam,
                        const char *roster_id, unsigned char key[32])
{
    hmac state;
    begin(&state, secret, PURPOSE_KNOWN);
    add_field(&state, account);
    add_field(&state, exam);
    add_field(&state, roster_id);
    end(&state, key);
}

void throttle_key_unknown(const unsigned char secret[STORE_KEY_BYTES], const char *account, const char *exam,
                          const struct roster_key *keys, size_t count, unsigned char key[32])
{
    hmac state;
    begin(&state, secret, PURPOSE_UNKNOWN);
    add_field(&state, account);
    add_field(&state, exam);
    add_identity(&state, keys, count);
    end(&state, key);
}

void throttle_unknown_text(const unsigned char secret[STORE_KEY_BYTES], const char *account,
                           const struct roster_key *keys, size_t count, char text[THROTTLE_UNKNOWN_BYTES])
{
    static const char prefix[] = "unknown:";
    unsigned char digest[32];
    hmac state;
    _Static_assert(sizeof prefix + 32 <= THROTTLE_UNKNOWN_BYTES, "the text must fit");
    begin(&state, secret, PURPOSE_IDENTITY);
    add_field(&state, account);
    add_identity(&state, keys, count);
    end(&state, digest);
    memcpy(text, prefix, sizeof prefix - 1);
    sodium_bin2hex(text + sizeof prefix - 1, 33, digest, 16);
}

void throttle_body_digest(const unsigned char secret[STORE_KEY_BYTES], const char *body, size_t len,
                          unsigned char digest[32])
{
    hmac state;
    begin(&state, secret, PURPOSE_BODY);
    add_length(&state, len);
    if (len)
        crypto_auth_hmacsha256_update(&state, (const unsigned char *)body, len);
    end(&state, digest);
}

void throttle_erased_key(const unsigned char secret[STORE_KEY_BYTES], const unsigned char event_key[32],
                         unsigned char key[32])
{
    hmac state;
    begin(&state, secret, PURPOSE_ERASED);
    add_length(&state, 32);
    crypto_auth_hmacsha256_update(&state, event_key, 32);
    end(&state, key);
}
