/*
 * The keys under which guessing is counted, and under which an unknown candidate's input is remembered. One
 * place, so that `examhook unlock` finds what examjoint.fcgi counted. Keyed with store_identity_key():
 * without that file nobody can try passwords typed into the wrong box against what is stored.
 */
#ifndef EXAMHOOK_THROTTLE_H
#define EXAMHOOK_THROTTLE_H

#include <stddef.h>

#include "store.h"

/* A candidate of the roster, by its id. */
void throttle_key_known(const unsigned char secret[STORE_KEY_BYTES], const char *account, const char *exam,
                        const char *roster_id, unsigned char key[32]);
/* Nobody: what was sent for the mapped identity columns, in the mapping's order. A `nocase` value counts
 * without ASCII case. */
void throttle_key_unknown(const unsigned char secret[STORE_KEY_BYTES], const char *account, const char *exam,
                          const struct roster_key *keys, size_t count, unsigned char key[32]);
/* "unknown:" and 32 hex digits, for an event's `identity`: the same input gives the same text, whatever the
 * exam. */
#define THROTTLE_UNKNOWN_BYTES 48
void throttle_unknown_text(const unsigned char secret[STORE_KEY_BYTES], const char *account,
                           const struct roster_key *keys, size_t count, char text[THROTTLE_UNKNOWN_BYTES]);
/* HMAC-SHA256 of a body, for the key of an unknown event: a plain digest of a body with a password in it
 * could be guessed at. */
void throttle_body_digest(const unsigned char secret[STORE_KEY_BYTES], const char *body, size_t len,
                          unsigned char digest[32]);
/* What becomes of an event's key when it is erased: the key is a plain digest of few facts, and who knows the
 * others could try respondents against it. */
void throttle_erased_key(const unsigned char secret[STORE_KEY_BYTES], const unsigned char event_key[32],
                         unsigned char key[32]);

#endif
