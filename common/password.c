#include "password.h"

#include <crypt.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

_Static_assert(PASSWORD_HASH_BYTES >= CRYPT_OUTPUT_SIZE, "a hash must hold what crypt(3) writes");
_Static_assert(PASSWORD_MAX_BYTES < CRYPT_MAX_PASSPHRASE_SIZE, "crypt(3) must take what we take");

#define CRYPT_ALPHABET "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#define BCRYPT_COST_MIN 4
#define BCRYPT_COST_MAX 16
#define BCRYPT_COST_MADE 10 /* crypt_gensalt's own default, 5, is a thing of the nineties */
#define BCRYPT_SALT 22
#define BCRYPT_HASH 31
#define SHA512_ROUNDS_MIN 1000
#define SHA512_ROUNDS_MAX 5000000
#define SHA512_ROUNDS_DEFAULT "rounds=5000$" /* what "$6$" alone means */
#define SHA512_SALT_MAX 16
#define SHA512_HASH 86
#define YESCRYPT_SALT_MAX 86
#define YESCRYPT_HASH 43
#define YESCRYPT_N_LAST 'F' /* crypt_gensalt's highest cost, 11: 1 GiB for each check */
#define YESCRYPT_R_LAST 'T' /* blocks of 32 * 128 bytes, as it makes them from cost 3 up */
#define YESCRYPT_N_USUAL 11 /* the place of '9' in the alphabet */
#define DOUBLINGS_MAX 24    /* beyond any cost that is taken */

/*
 * The one mutable global of this module: a count that every thread adds to and that decides nothing. A test
 * needs it to see that each answer costs exactly one hash, whoever computes it.
 */
static atomic_ulong computed;

enum kind { KIND_YESCRYPT, KIND_BCRYPT, KIND_SHA512 };

/* How a hash or setting is made up: class (kind and cost), salt, and in a hash what was computed. */
struct parts {
    enum kind kind;
    size_t class_len;
    bool complete;
};

static size_t alphabet_span(const char *text)
{
    return strspn(text, CRYPT_ALPHABET);
}

/* "", "$" or "$" and `len` characters may follow a salt; the last makes it a hash. */
static bool read_tail(const char *tail, size_t len, struct parts *parts)
{
    size_t span;
    if (*tail == '\0')
        return true;
    if (*tail != '$')
        return false;
    span = alphabet_span(tail + 1);
    if (tail[1 + span] != '\0' || (span != 0 && span != len))
        return false;
    parts->complete = span == len;
    return true;
}

/* $2b$NN$, 22 characters of salt, 31 of hash. */
static bool read_bcrypt(const char *hash, struct parts *parts)
{
    const char *salt = hash + 7;
    size_t span;
    int cost;
    if (!strchr("aby", hash[2]) || hash[3] != '$' || hash[4] < '0' || hash[4] > '3' || hash[5] < '0' ||
        hash[5] > '9' || hash[6] != '$')
        return false;
    cost = (hash[4] - '0') * 10 + hash[5] - '0';
    span = alphabet_span(salt);
    if (cost < BCRYPT_COST_MIN || cost > BCRYPT_COST_MAX || salt[span] != '\0')
        return false;
    /* Two bits of the salt's last character count; with others set, the hash would never come out the same.
     */
    if ((span != BCRYPT_SALT && span != BCRYPT_SALT + BCRYPT_HASH) || !strchr(".Oeu", salt[BCRYPT_SALT - 1]))
        return false;
    parts->kind = KIND_BCRYPT;
    parts->class_len = 7;
    parts->complete = span > BCRYPT_SALT;
    return true;
}

/* The length of "rounds=N$", 0 where there is none. */
static bool read_rounds(const char *text, size_t *len)
{
    size_t digits;
    long rounds;
    *len = 0;
    if (strncmp(text, "rounds=", 7) != 0)
        return true;
    digits = strspn(text + 7, "0123456789");
    if (digits == 0 || digits > 7 || text[7] == '0' || text[7 + digits] != '$')
        return false;
    rounds = strtol(text + 7, NULL, 10);
    *len = 7 + digits + 1;
    return rounds >= SHA512_ROUNDS_MIN && rounds <= SHA512_ROUNDS_MAX;
}

/* $6$ or $6$rounds=N$, up to 16 characters of salt, $, 86 of hash. */
static bool read_sha512(const char *hash, struct parts *parts)
{
    size_t rounds, salt;
    if (!read_rounds(hash + 3, &rounds))
        return false;
    salt = alphabet_span(hash + 3 + rounds);
    if (salt > SHA512_SALT_MAX)
        return false;
    parts->kind = KIND_SHA512;
    parts->class_len = 3 + rounds;
    return read_tail(hash + 3 + rounds + salt, SHA512_HASH, parts);
}

static size_t alphabet_rank(char c)
{
    const char *at = c ? strchr(CRYPT_ALPHABET, c) : NULL;
    return at ? (size_t)(at - CRYPT_ALPHABET) : SIZE_MAX;
}

/* $y$jNr$, salt, $, 43 characters of hash. Only parameters that crypt_gensalt(3) makes: others can ask for
   any amount of memory and time. */
static bool read_yescrypt(const char *hash, struct parts *parts)
{
    size_t salt;
    if (hash[3] != 'j' || alphabet_rank(hash[4]) > alphabet_rank(YESCRYPT_N_LAST) ||
        alphabet_rank(hash[5]) > alphabet_rank(YESCRYPT_R_LAST) || hash[6] != '$')
        return false;
    salt = alphabet_span(hash + 7);
    if (salt == 0 || salt > YESCRYPT_SALT_MAX)
        return false;
    parts->kind = KIND_YESCRYPT;
    parts->class_len = 7;
    return read_tail(hash + 7 + salt, YESCRYPT_HASH, parts);
}

static bool read_parts(const char *hash, struct parts *parts)
{
    bool good;
    *parts = (struct parts){0};
    if (!hash || strnlen(hash, PASSWORD_HASH_BYTES) >= PASSWORD_HASH_BYTES)
        return false;
    if (strncmp(hash, "$y$", 3) == 0)
        good = read_yescrypt(hash, parts);
    else if (strncmp(hash, "$6$", 3) == 0)
        good = read_sha512(hash, parts);
    else if (strncmp(hash, "$2", 2) == 0 && strnlen(hash, 7) == 7)
        good = read_bcrypt(hash, parts);
    else
        good = false;
    if (!good)
        return false;
    switch (crypt_checksalt(hash)) {
    case CRYPT_SALT_INVALID:
    case CRYPT_SALT_METHOD_DISABLED:
        return false;
    default:
        return true;
    }
}

bool password_hash_supported(const char *hash)
{
    struct parts parts;
    return read_parts(hash, &parts);
}

bool password_hash_complete(const char *hash)
{
    struct parts parts;
    return read_parts(hash, &parts) && parts.complete;
}

/* crypt_data alone is 32 KB, too much for a thread's stack; all of it is overwritten in the end. */
struct work {
    struct crypt_data data;
    char phrase[CRYPT_MAX_PASSPHRASE_SIZE];
};

/* False for the failure tokens "*0" and "*1", which come at once: no hash was computed then. */
static bool compute(struct work *work, const char *setting, const char **result)
{
    const char *text = crypt_r(work->phrase, setting, &work->data);
    if (!text || text[0] == '*')
        return false;
    atomic_fetch_add_explicit(&computed, 1, memory_order_relaxed);
    *result = text;
    return true;
}

/* Both are texts of a known kind: their lengths are no secret. */
static bool same_hash(const char *a, const char *b)
{
    size_t len = strlen(a);
    return len == strlen(b) && sodium_memcmp(a, b, len) == 0;
}

bool password_check(const char *hash, const char *password, size_t len, bool *match)
{
    struct work *work = xcalloc(1, sizeof *work);
    const char *result;
    struct parts parts;
    bool checked, usable = read_parts(hash, &parts);
    /* What can never match is hashed all the same, as far as crypt(3) takes it: an answer costs one hash. */
    bool whole = len <= PASSWORD_MAX_BYTES && (len == 0 || !memchr(password, '\0', len));
    if (len)
        memcpy(work->phrase, password, len < PASSWORD_MAX_BYTES ? len : PASSWORD_MAX_BYTES);
    if (usable && compute(work, hash, &result)) {
        *match = same_hash(result, hash) && parts.complete && whole;
        checked = true;
    } else {
        /* Not a hash after all, though it may look like one (a salt that decodes to nothing); or there is no
           memory, which crypt(3) does not tell from that. A whole hash was computed once, so it is memory. */
        checked = compute(work, password_default_dummy(), &result) && !(usable && parts.complete);
        *match = false;
    }
    explicit_bzero(work, sizeof *work);
    free(work);
    return checked;
}

/* The prefix that crypt_gensalt(3) wants, and the cost; 0: its default (yescrypt 5, sha512crypt 5000). */
static bool kind_prefix(const char *kind, const char **prefix, unsigned long *cost)
{
    static const struct {
        const char *kind, *prefix;
        unsigned long cost;
    } kinds[] = {{"yescrypt", "$y$", 0}, {"bcrypt", "$2b$", BCRYPT_COST_MADE}, {"sha512crypt", "$6$", 0}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kind, kinds[i].kind) == 0) {
            *prefix = kinds[i].prefix;
            *cost = kinds[i].cost;
            return true;
        }
    }
    return false;
}

static bool make_with(const char *setting, const char *password, char hash[PASSWORD_HASH_BYTES])
{
    struct work *work;
    const char *result;
    size_t len = strlen(password);
    bool made = false;
    if (len > PASSWORD_MAX_BYTES)
        return false;
    work = xcalloc(1, sizeof *work);
    memcpy(work->phrase, password, len);
    if (compute(work, setting, &result) && password_hash_complete(result)) {
        memcpy(hash, result, strlen(result) + 1);
        made = true;
    }
    explicit_bzero(work, sizeof *work);
    free(work);
    return made;
}

bool password_make(const char *kind, const char *password, char hash[PASSWORD_HASH_BYTES])
{
    const char *prefix;
    unsigned long cost;
    char setting[CRYPT_GENSALT_OUTPUT_SIZE];
    /* No bytes given: libxcrypt asks the system for random ones. */
    return kind_prefix(kind, &prefix, &cost) &&
           crypt_gensalt_rn(prefix, cost, NULL, 0, setting, sizeof setting) &&
           make_with(setting, password, hash);
}

static const char *fixed_salt(enum kind kind)
{
    switch (kind) {
    case KIND_BCRYPT:
        return "Nobody.Has.This.Salt0.";
    case KIND_SHA512:
        return "Nobody.Has.This0";
    case KIND_YESCRYPT:
        break;
    }
    return "Nobody.Has.This.Salt0.";
}

bool password_dummy(const char *hash, char setting[PASSWORD_HASH_BYTES])
{
    struct parts parts;
    struct buf text = BUF_INIT;
    if (!read_parts(hash, &parts))
        return false;
    buf_add(&text, hash, parts.class_len);
    buf_adds(&text, fixed_salt(parts.kind));
    memcpy(setting, buf_str(&text), text.len + 1);
    buf_release(&text);
    return true;
}

bool password_make_like(const char *like, const char *password, char hash[PASSWORD_HASH_BYTES])
{
    char setting[PASSWORD_HASH_BYTES];
    return password_dummy(like, setting) && make_with(setting, password, hash);
}

const char *password_default_dummy(void)
{
    return "$y$j9T$Nobody.Has.This.Salt0.";
}

bool password_cost_class(const char *hash, char class_text[32])
{
    struct parts parts;
    if (!read_parts(hash, &parts) || parts.class_len >= 32)
        return false;
    memcpy(class_text, hash, parts.class_len);
    class_text[parts.class_len] = '\0';
    if (parts.kind == KIND_BCRYPT)
        class_text[2] = 'b'; /* $2a$ and $2y$ name the same work */
    if (parts.kind == KIND_SHA512 && strcmp(class_text + 3, SHA512_ROUNDS_DEFAULT) == 0)
        class_text[3] = '\0';
    return true;
}

/* The figures are of one core of a small server of 2026; what counts is how they grow with the cost. */
int64_t password_cost_guess_us(const char *hash)
{
    struct parts parts;
    size_t len, blocks, doublings, cost;
    if (!read_parts(hash, &parts))
        return password_cost_guess_us(password_default_dummy());
    switch (parts.kind) {
    case KIND_BCRYPT: /* cost 4: 1 ms; doubles with each */
        cost = (size_t)((hash[4] - '0') * 10 + hash[5] - '0' - BCRYPT_COST_MIN);
        return 1000LL << (cost < DOUBLINGS_MAX ? cost : DOUBLINGS_MAX);
    case KIND_SHA512: /* half a microsecond a round */
        return read_rounds(hash + 3, &len) && len ? strtol(hash + 3 + 7, NULL, 10) / 2 : 2500;
    case KIND_YESCRYPT:
        break;
    }
    /* "j9T": 25 ms. In proportion to the blocks, and to a power of two that the letter before them names. */
    doublings = alphabet_rank(hash[4]);
    blocks = alphabet_rank(hash[5]) + 1;
    doublings = doublings < DOUBLINGS_MAX ? doublings : DOUBLINGS_MAX;
    int64_t us = (int64_t)(((25000ULL * blocks / 32) << doublings) >> YESCRYPT_N_USUAL);
    return us > 0 ? us : 1;
}

unsigned long password_computed(void)
{
    return atomic_load_explicit(&computed, memory_order_relaxed);
}
