/* The guard in front of libfcgi: what is whole, what is not yet, and what the library must never see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../common/buf.h"
#include "../../fcgi/guard.h"

static const struct guard_limits limits = {.params_bytes = 4096, .body_bytes = 8192, .total_bytes = 16384};

enum { BEGIN = 1, ABORT = 2, PARAMS = 4, IN = 5, DATA = 8, GET_VALUES = 9 };

static void record_padded(struct buf *b, int version, int type, int id, const char *content, size_t len,
                          int padding)
{
    const unsigned char header[8] = {
        (unsigned char)version,    (unsigned char)type, (unsigned char)(id >> 8), (unsigned char)id,
        (unsigned char)(len >> 8), (unsigned char)len,  (unsigned char)padding,   0};
    static const char zeros[256];
    buf_add(b, header, sizeof header);
    buf_add(b, content, len);
    buf_add(b, zeros, (size_t)padding);
}

static void record(struct buf *b, int type, int id, const char *content, size_t len)
{
    record_padded(b, 1, type, id, content, len, 0);
}

static void begin(struct buf *b, int id, int role, int flags)
{
    const char content[8] = {0, (char)role, (char)flags};
    record(b, BEGIN, id, content, sizeof content);
}

static const char pairs[] = "\016\004REQUEST_METHODPOST\016\002CONTENT_LENGTH{}";
#define PAIRS_BYTES (sizeof pairs - 1)

static void request(struct buf *b, const char *body, size_t len)
{
    begin(b, 1, 1, 1);
    record(b, PARAMS, 1, pairs, PAIRS_BYTES);
    record(b, PARAMS, 1, "", 0);
    if (len)
        record(b, IN, 1, body, len);
    record(b, IN, 1, "", 0);
}

static struct guard_look look(const struct buf *b)
{
    return guard_look((const unsigned char *)buf_str(b), b->len, &limits);
}

static void assert_refused(struct buf *b, const char *reason)
{
    struct guard_look l = look(b);
    assert_int_equal(l.verdict, GUARD_REFUSE);
    assert_string_equal(l.reason, reason);
    buf_release(b);
}

static void test_whole(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    request(&b, "{}", 2);
    struct guard_look l = look(&b);
    assert_int_equal(l.verdict, GUARD_WHOLE);
    assert_int_equal(l.bytes, b.len);
    assert_true(l.keep_connection);
    buf_release(&b);

    begin(&b, 513, 1, 0);
    record_padded(&b, 1, PARAMS, 513, pairs, PAIRS_BYTES, 7);
    record_padded(&b, 1, PARAMS, 513, "", 0, 8);
    record_padded(&b, 1, IN, 513, "", 0, 3);
    l = look(&b);
    assert_int_equal(l.verdict, GUARD_WHOLE);
    assert_int_equal(l.bytes, b.len);
    assert_false(l.keep_connection);
    buf_release(&b);
}

/* Every prefix of a request wants more, whatever the border of the records. */
static void test_every_prefix(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    begin(&b, 1, 1, 0);
    for (size_t i = 0; i < PAIRS_BYTES; i++)
        record_padded(&b, 1, PARAMS, 1, pairs + i, 1, (int)(i % 3));
    record(&b, PARAMS, 1, "", 0);
    record(&b, IN, 1, "{}", 2);
    record(&b, IN, 1, "", 0);
    const unsigned char *bytes = (const unsigned char *)b.data;
    for (size_t len = 0; len < b.len; len++)
        assert_int_equal(guard_look(bytes, len, &limits).verdict, GUARD_MORE);
    assert_int_equal(guard_look(bytes, b.len, &limits).verdict, GUARD_WHOLE);
    buf_release(&b);
}

static void test_trailing_bytes(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    request(&b, "{}", 2);
    buf_addc(&b, 1);
    assert_refused(&b, "trailing_bytes");
    request(&b, "{}", 2);
    request(&b, "{}", 2); /* a second request behind the first */
    assert_refused(&b, "trailing_bytes");
}

static void test_records_refused(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;

    record(&b, GET_VALUES, 0, "\016\000FCGI_MAX_CONNS", 16);
    assert_refused(&b, "no_begin");
    record_padded(&b, 2, BEGIN, 1, "\0\1\0\0\0\0\0\0", 8, 0);
    assert_refused(&b, "version");
    begin(&b, 0, 1, 0);
    assert_refused(&b, "management_record");
    begin(&b, 1, 2, 0); /* an authorizer */
    assert_refused(&b, "role");
    record(&b, BEGIN, 1, "\0\1\0\0", 4);
    assert_refused(&b, "begin_length");
    begin(&b, 1, 1, 0);
    record(&b, GET_VALUES, 0, "\016\000FCGI_MAX_CONNS", 16);
    assert_refused(&b, "management_record");
    begin(&b, 1, 1, 0);
    record(&b, PARAMS, 2, pairs, PAIRS_BYTES);
    assert_refused(&b, "request_id");
    begin(&b, 1, 1, 0);
    record(&b, IN, 1, "{}", 2);
    assert_refused(&b, "record_type");
    begin(&b, 1, 1, 0);
    record(&b, PARAMS, 1, "", 0);
    record(&b, ABORT, 1, "", 0);
    assert_refused(&b, "record_type");
    begin(&b, 1, 1, 0);
    record(&b, PARAMS, 1, "", 0);
    record(&b, DATA, 1, "x", 1);
    assert_refused(&b, "record_type");
}

static void test_lengths_refused(void **state)
{
    (void)state;
    static const struct {
        const char *content;
        size_t len;
        const char *reason;
    } cases[] = {
        {"\377\377\377\377\001", 5, "name_length"},  /* 2 GiB: the library aborts */
        {"\200\000\004\001\001", 5, "name_length"},  /* one over the longest name */
        {"\000\001x", 3, "name_length"},             /* no name */
        {"\001\377\377\377\377", 5, "value_length"}, /* */
        {"\001\200\000\020\001", 5, "value_length"}, /* one more than all parameters may have */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = BUF_INIT;
        begin(&b, 1, 1, 0);
        record(&b, PARAMS, 1, cases[i].content, cases[i].len);
        assert_refused(&b, cases[i].reason);
    }
    struct buf b = BUF_INIT;
    begin(&b, 1, 1, 0);
    record(&b, PARAMS, 1, pairs, PAIRS_BYTES - 1);
    record(&b, PARAMS, 1, "", 0);
    assert_refused(&b, "params_cut");
}

static void test_too_large(void **state)
{
    (void)state;
    static const char chunk[4096];
    struct buf b = BUF_INIT;
    begin(&b, 1, 1, 1);
    record(&b, PARAMS, 1, "", 0);
    record(&b, IN, 1, chunk, 4096);
    record(&b, IN, 1, chunk, 4096);
    assert_int_equal(look(&b).verdict, GUARD_MORE); /* exactly the limit */
    record(&b, IN, 1, chunk, 1);
    assert_int_equal(look(&b).verdict, GUARD_TOO_LARGE);
    assert_true(look(&b).keep_connection);
    buf_release(&b);

    begin(&b, 1, 1, 0);
    for (int i = 0; i < 3; i++) { /* 12 KiB of one value */
        struct buf content = BUF_INIT;
        if (i == 0)
            buf_add(&content, "\001\200\000\020\000x", 6);
        buf_add(&content, chunk, 2000);
        record(&b, PARAMS, 1, content.data, content.len);
        buf_release(&content);
    }
    assert_refused(&b, "params_too_large");
}

/* Many tiny records: the framing itself is bounded. */
static void test_total(void **state)
{
    (void)state;
    struct buf b = BUF_INIT;
    begin(&b, 1, 1, 0);
    record(&b, PARAMS, 1, "", 0);
    while (b.len < limits.total_bytes)
        record_padded(&b, 1, IN, 1, "x", 1, 255);
    assert_refused(&b, "too_many_bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),           cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_trailing_bytes),  cmocka_unit_test(test_records_refused),
        cmocka_unit_test(test_lengths_refused), cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_total),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
