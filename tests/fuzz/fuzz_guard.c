/*
 * The guard in front of libfcgi: the verdict about a prefix holds for whatever follows, no byte behind the
 * end is read (each prefix lies in memory of exactly its size), and what is called whole is one whole request
 * to a reader of our own.
 */
#include "../../fcgi/guard.h"
#include "fuzz.h"

#define PREFIXES_BYTES_MAX 1500

/* A plain reader of name-value pairs that lie in one piece. */
static bool pairs_whole(const unsigned char *bytes, size_t len)
{
    size_t at = 0;
    while (at < len) {
        size_t length[2];
        for (size_t i = 0; i < 2; i++) {
            if (at >= len)
                return false;
            length[i] = bytes[at];
            if (bytes[at] < 0x80) {
                at++;
                continue;
            }
            if (len - at < 4)
                return false;
            length[i] = (size_t)(bytes[at] & 0x7f) << 24 | (size_t)bytes[at + 1] << 16 |
                        (size_t)bytes[at + 2] << 8 | bytes[at + 3];
            at += 4;
        }
        if (length[0] == 0 || length[0] + length[1] > len - at)
            return false;
        at += length[0] + length[1];
    }
    return true;
}

/* BEGIN_REQUEST, PARAMS to an empty one, STDIN to an empty one, all of one id, and the end. */
static bool request_whole(const unsigned char *bytes, size_t len, const struct guard_limits *limits)
{
    struct buf params = BUF_INIT;
    size_t at = 0, body = 0;
    int expected = 1;
    unsigned id = 0;
    bool good = true;
    while (good && at < len && expected != 0) {
        good = len - at >= 8;
        if (!good)
            break;
        const unsigned char *record = bytes + at;
        size_t content = (size_t)record[4] << 8 | record[5];
        unsigned its = (unsigned)record[2] << 8 | record[3];
        at += 8 + content + record[6];
        good = at <= len && record[0] == 1 && record[1] == expected && its != 0 && (id == 0 || its == id);
        if (!good)
            break;
        id = its;
        if (expected == 1) {
            good = content == 8 && record[8] == 0 && record[9] == 1;
            expected = 4;
        } else if (expected == 4) {
            buf_add(&params, record + 8, content);
            expected = content == 0 ? 5 : 4;
        } else {
            body += content;
            expected = content == 0 ? 0 : 5;
        }
    }
    good = good && at == len && expected == 0 && body <= limits->body_bytes &&
           params.len <= limits->params_bytes && pairs_whole((unsigned char *)params.data, params.len);
    buf_release(&params);
    return good;
}

static struct guard_look look_at(const uint8_t *data, size_t len, const struct guard_limits *limits)
{
    unsigned char *exact = malloc(len ? len : 1);
    MUST(exact);
    memcpy(exact, data, len);
    struct guard_look look = guard_look(exact, len, limits);
    MUST((look.verdict == GUARD_REFUSE) == (look.reason != NULL));
    MUST(!look.reason || fuzz_is_word(look.reason));
    if (look.verdict == GUARD_WHOLE)
        MUST(look.bytes == len && request_whole(exact, len, limits));
    else
        MUST(look.verdict != GUARD_MORE || !request_whole(exact, len, limits));
    free(exact);
    return look;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guard_limits limits = {.params_bytes = 400, .body_bytes = 300, .total_bytes = 4096};
    enum guard_verdict before = GUARD_MORE;
    const char *reason = NULL;
    size_t most = size < PREFIXES_BYTES_MAX ? size : PREFIXES_BYTES_MAX;

    for (size_t len = 0; len <= most; len++) {
        struct guard_look look = look_at(data, len, &limits);
        if (before == GUARD_REFUSE)
            MUST(look.verdict == GUARD_REFUSE && strcmp(look.reason, reason) == 0);
        if (before == GUARD_TOO_LARGE)
            MUST(look.verdict == GUARD_TOO_LARGE);
        if (before == GUARD_WHOLE)
            MUST(look.verdict == GUARD_REFUSE && strcmp(look.reason, "trailing_bytes") == 0);
        before = look.verdict;
        reason = look.reason;
    }
    struct guard_look all = look_at(data, size, &limits);
    MUST(size < limits.total_bytes || all.verdict != GUARD_MORE);
    return 0;
}
