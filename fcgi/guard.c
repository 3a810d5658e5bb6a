#include "guard.h"

#include <string.h>

/* The FastCGI 1.0 record format; the library's own header would bring the library with it. */
enum {
    RECORD_HEADER_BYTES = 8,
    RECORD_VERSION = 1,
    RECORD_BEGIN_REQUEST = 1,
    RECORD_PARAMS = 4,
    RECORD_STDIN = 5,
    BEGIN_CONTENT_BYTES = 8,
    ROLE_RESPONDER = 1,
    FLAG_KEEP_CONNECTION = 1,
    LONG_LENGTH_BIT = 0x80
};

/* The longest name of a parameter: a web server makes them of header names. */
#define NAME_BYTES_MAX 1024

/* Reads name-value pairs across the borders of records: only their lengths matter. */
struct pairs {
    enum { AT_NAME_LENGTH, AT_VALUE_LENGTH, AT_CONTENT } at;
    unsigned length_bytes_left; /* of a four-byte length that has begun */
    uint32_t length;
    size_t name_length;
    size_t content_left;
};

struct walk {
    enum { EXPECT_BEGIN, EXPECT_PARAMS, EXPECT_STDIN, DONE } expect;
    unsigned id;
    struct pairs pairs;
    size_t params, body;
    bool keep_connection;
};

/* Takes one byte of a length; true when the length is whole. */
static bool length_byte(struct pairs *p, unsigned char byte)
{
    if (p->length_bytes_left == 0 && (byte & LONG_LENGTH_BIT)) {
        p->length = byte & ~(unsigned)LONG_LENGTH_BIT;
        p->length_bytes_left = 3;
        return false;
    }
    if (p->length_bytes_left == 0) {
        p->length = byte;
        return true;
    }
    p->length = p->length << 8 | byte;
    return --p->length_bytes_left == 0;
}

static const char *pairs_take(struct pairs *p, const unsigned char *bytes, size_t len, size_t limit)
{
    for (size_t i = 0; i < len;) {
        if (p->at == AT_CONTENT) {
            size_t skip = p->content_left < len - i ? p->content_left : len - i;
            p->content_left -= skip;
            i += skip;
            if (p->content_left == 0)
                p->at = AT_NAME_LENGTH;
            continue;
        }
        if (!length_byte(p, bytes[i++]))
            continue;
        if (p->at == AT_NAME_LENGTH) {
            if (p->length == 0 || p->length > NAME_BYTES_MAX)
                return "name_length";
            p->name_length = p->length;
            p->at = AT_VALUE_LENGTH;
        } else {
            if (p->length > limit)
                return "value_length";
            p->content_left = p->name_length + p->length;
            p->at = AT_CONTENT;
        }
    }
    return NULL;
}

static bool pairs_complete(const struct pairs *p)
{
    return p->at == AT_NAME_LENGTH && p->length_bytes_left == 0;
}

static const char *begin_take(struct walk *w, unsigned id, const unsigned char *content, size_t len)
{
    if (len != BEGIN_CONTENT_BYTES)
        return "begin_length";
    if (id == 0)
        return "management_record";
    if ((content[0] << 8 | content[1]) != ROLE_RESPONDER)
        return "role";
    w->id = id;
    w->keep_connection = content[2] & FLAG_KEEP_CONNECTION;
    w->expect = EXPECT_PARAMS;
    return NULL;
}

static const char *params_take(struct walk *w, const unsigned char *content, size_t len, size_t present,
                               const struct guard_limits *limits)
{
    if (len == 0) {
        if (!pairs_complete(&w->pairs))
            return "params_cut";
        w->expect = EXPECT_STDIN;
        return NULL;
    }
    w->params += len;
    if (w->params > limits->params_bytes)
        return "params_too_large";
    return pairs_take(&w->pairs, content, present, limits->params_bytes);
}

/* One record, of whose content `present` bytes are there. NULL: well-formed as far as it goes. */
static const char *record_take(struct walk *w, const unsigned char *header, size_t content_bytes,
                               size_t present, const struct guard_limits *limits)
{
    const unsigned char *content = header + RECORD_HEADER_BYTES;
    unsigned type = header[1];
    unsigned id = (unsigned)header[2] << 8 | header[3];

    if (header[0] != RECORD_VERSION)
        return "version";
    if (w->expect == EXPECT_BEGIN) {
        if (type != RECORD_BEGIN_REQUEST)
            return "no_begin";
        if (content_bytes == BEGIN_CONTENT_BYTES && present < content_bytes)
            return NULL;
        return begin_take(w, id, content, content_bytes);
    }
    if (id != w->id)
        return id == 0 ? "management_record" : "request_id";
    if (w->expect == EXPECT_PARAMS)
        return type == RECORD_PARAMS ? params_take(w, content, content_bytes, present, limits)
                                     : "record_type";
    if (type != RECORD_STDIN)
        return "record_type";
    w->body += content_bytes;
    if (content_bytes == 0)
        w->expect = DONE;
    return NULL;
}

struct guard_look guard_look(const unsigned char *bytes, size_t len, const struct guard_limits *limits)
{
    struct walk w = {.expect = EXPECT_BEGIN};
    struct guard_look look = {.verdict = GUARD_MORE};
    size_t at = 0;

    while (w.expect != DONE && len - at >= RECORD_HEADER_BYTES) {
        const unsigned char *header = bytes + at;
        size_t content_bytes = (size_t)header[4] << 8 | header[5];
        size_t whole = RECORD_HEADER_BYTES + content_bytes + header[6];
        size_t here = len - at - RECORD_HEADER_BYTES;
        size_t present = content_bytes < here ? content_bytes : here;

        look.reason = record_take(&w, header, content_bytes, present, limits);
        if (look.reason) {
            look.verdict = GUARD_REFUSE;
            return look;
        }
        look.keep_connection = w.keep_connection;
        if (w.body > limits->body_bytes) {
            look.verdict = GUARD_TOO_LARGE;
            return look;
        }
        if (whole > len - at)
            break;
        at += whole;
        if (w.expect == DONE && at < len) {
            look.verdict = GUARD_REFUSE;
            look.reason = "trailing_bytes";
            return look;
        }
        if (w.expect == DONE) {
            look.verdict = GUARD_WHOLE;
            look.bytes = at;
            return look;
        }
    }
    if (len >= limits->total_bytes) {
        look.verdict = GUARD_REFUSE;
        look.reason = "too_many_bytes";
    }
    return look;
}
