#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../common/clock.h"
#include "../../common/json.h"

/* --- The table of documents ----------------------------------------------------------------------------- */

static int hex(char c)
{
    const char *digits = "0123456789abcdef";
    const char *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

static void unescape(const char *text, size_t len, struct buf *out)
{
    for (size_t i = 0; i < len; i++) {
        const char *end;
        char *star;
        if (len - i < 4 || text[i] != '\\' || text[i + 1] != 'x') {
            buf_addc(out, text[i]);
        } else if (hex(text[i + 2]) >= 0 && hex(text[i + 3]) >= 0) {
            buf_addc(out, (char)(hex(text[i + 2]) * 16 + hex(text[i + 3])));
            i += 3;
        } else {
            unsigned long times = strtoul(text + i + 3, &star, 10);
            assert_int_equal(text[i + 2], '{');
            assert_int_equal(*star, '*');
            end = memchr(star, '}', len - (size_t)(star - text));
            assert_non_null(end);
            while (times--)
                unescape(star + 1, (size_t)(end - star - 1), out);
            i = (size_t)(end - text);
        }
    }
}

/* A body in a block of its exact size, so that a sanitizer sees a read past its end. */
static enum json_error parse_exact(enum json_error (*parse)(const char *, size_t, struct json_doc **),
                                   const struct buf *body, struct json_doc **doc)
{
    enum json_error error;
    char *exact = malloc(body->len ? body->len : 1);
    assert_non_null(exact);
    if (body->len)
        memcpy(exact, body->data, body->len);
    error = parse(exact, body->len, doc);
    free(exact);
    return error;
}

/* What was accepted can be written, and what was written means the same. */
static void check_round_trip(const struct json_doc *doc)
{
    struct buf once = BUF_INIT, again = BUF_INIT;
    struct json_doc *copy = NULL;
    json_write(&once, json_root(doc), false);
    assert_int_equal(json_parse_any(once.data, once.len, &copy), JSON_OK);
    json_write(&again, json_root(copy), false);
    assert_string_equal(buf_str(&once), buf_str(&again));
    json_free(copy);
    buf_clear(&once);
    json_write(&once, json_root(doc), true);
    assert_int_equal(json_parse_any(once.data, once.len, &copy), JSON_OK);
    json_free(copy);
    buf_release(&once);
    buf_release(&again);
}

/* One way of reading says the word it should. */
static bool check_reading(enum json_error (*parse)(const char *, size_t, struct json_doc **),
                          const struct buf *body, const char *expected, size_t line)
{
    struct json_doc *doc = NULL;
    const char *word = json_error_word(parse_exact(parse, body, &doc));
    bool right = strcmp(word, expected) == 0 && (doc != NULL) == (strcmp(word, "ok") == 0);
    if (!right)
        print_error("json_cases.txt:%zu: expected %s, got %s\n", line, expected, word);
    if (doc)
        check_round_trip(doc);
    json_free(doc);
    return right;
}

static bool check_document(const char *word, const struct buf *body, size_t line)
{
    bool any = strcmp(word, "any") == 0;
    bool strict = check_reading(json_parse, body, any ? "not_an_object" : word, line);
    bool loose = check_reading(json_parse_any, body, any ? "ok" : word, line);
    return strict && loose;
}

static void documents(void **state)
{
    FILE *file = fopen("tests/data/json_cases.txt", "r");
    char *line = NULL;
    size_t room = 0, number = 0, cases = 0, wrong = 0;
    (void)state;
    assert_non_null(file);
    while (getline(&line, &room, file) >= 0) {
        struct buf body = BUF_INIT;
        const char *document;
        size_t word;
        number++;
        line[strcspn(line, "\n")] = '\0';
        if (!*line || *line == '#')
            continue;
        word = strcspn(line, " ");
        document = line + word + strspn(line + word, " ");
        unescape(document, strlen(document), &body);
        line[word] = '\0';
        wrong += !check_document(line, &body, number);
        buf_release(&body);
        cases++;
    }
    assert_int_equal(wrong, 0);
    assert_true(cases >= 420);
    free(line);
    fclose(file);
}

/* --- Redaction ------------------------------------------------------------------------------------------ */

static void check_kept(const char *in, const char *kept)
{
    struct json_doc *doc = NULL;
    struct buf out = BUF_INIT;
    assert_int_equal(json_parse(in, strlen(in), &doc), JSON_OK);
    json_write(&out, json_root(doc), true);
    assert_string_equal(buf_str(&out), kept);
    assert_null(strstr(buf_str(&out), "hunter2"));
    json_free(doc);
    doc = NULL;
    /* Still a document, its keys unique; and what is kept can be redacted again and stays as it is. */
    assert_int_equal(json_parse(out.data, out.len, &doc), JSON_OK);
    buf_clear(&out);
    json_write(&out, json_root(doc), true);
    assert_string_equal(buf_str(&out), kept);
    json_free(doc);
    buf_release(&out);
}

static void redaction(void **state)
{
    FILE *file = fopen("tests/data/redaction_cases.txt", "r");
    char *line = NULL, *in = NULL;
    size_t room = 0, cases = 0;
    (void)state;
    assert_non_null(file);
    while (getline(&line, &room, file) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        if (!*line || *line == '#')
            continue;
        if (strncmp(line, "in ", 3) == 0) {
            assert_null(in);
            in = xstrdup(line + 2 + strspn(line + 2, " "));
        } else {
            assert_int_equal(strncmp(line, "kept ", 5), 0);
            assert_non_null(in);
            check_kept(in ? in : "", line + 5);
            free(in);
            in = NULL;
            cases++;
        }
    }
    assert_null(in);
    assert_true(cases >= 25);
    free(line);
    fclose(file);
}

/* A part of a document that is written alone is as closed as it would be in the whole. */
static void redaction_of_a_part(void **state)
{
    static const char text[] = "{\"fields\":[\"hunter2\",{\"position\":1,\"value\":{\"a\":\"hunter2\"}}]}";
    struct json_doc *doc = NULL;
    struct buf out = BUF_INIT;
    const struct json *fields;
    (void)state;
    assert_int_equal(json_parse(text, sizeof text - 1, &doc), JSON_OK);
    fields = json_member(json_root(doc), "fields");
    json_write(&out, fields, true);
    assert_string_equal(buf_str(&out),
                        "[\"[redacted]\",{\"position\":1,\"value\":{\"[redacted] 1\":\"[redacted]\"}}]");
    buf_clear(&out);
    json_write(&out, json_member(json_at(fields, 1), "value"), true);
    assert_string_equal(buf_str(&out), "{\"[redacted] 1\":\"[redacted]\"}");
    json_free(doc);
    buf_release(&out);
}

/* --- Reading -------------------------------------------------------------------------------------------- */

static void the_tree(void **state)
{
    static const char text[] =
        "{\"s\":\"x\\u00e9\\n\",\"n\":1719221380326,\"a\":[1,[],{\"k\":null}],\"t\":true,\"o\":{}}";
    struct json_doc *doc = NULL;
    const struct json *root, *array;
    int64_t number = 5;
    bool truth = false;
    (void)state;
    assert_int_equal(json_parse(text, sizeof text - 1, &doc), JSON_OK);
    root = json_root(doc);
    assert_int_equal(json_type(root), JSON_OBJECT);
    assert_int_equal(json_count(root), 5);
    assert_string_equal(json_key_at(root, 1), "n");
    assert_null(json_key_at(root, 5));
    assert_string_equal(json_string(json_member(root, "s")), "x\xC3\xA9\n");
    assert_null(json_string(json_member(root, "n")));
    assert_true(json_int64(json_member(root, "n"), &number));
    assert_true(number == INT64_C(1719221380326));
    assert_string_equal(json_number_text(json_member(root, "n")), "1719221380326");
    array = json_member(root, "a");
    assert_int_equal(json_type(array), JSON_ARRAY);
    assert_int_equal(json_count(array), 3);
    assert_null(json_at(array, 3));
    assert_null(json_key_at(array, 0));
    assert_int_equal(json_type(json_at(array, 1)), JSON_ARRAY);
    assert_int_equal(json_count(json_at(array, 1)), 0);
    assert_int_equal(json_type(json_member(json_at(array, 2), "k")), JSON_NULL);
    assert_true(json_bool(json_member(root, "t"), &truth));
    assert_true(truth);
    assert_false(json_bool(json_member(root, "s"), &truth));
    assert_false(json_int64(json_member(root, "s"), &number));
    assert_null(json_member(root, "S"));
    assert_null(json_member(array, "k"));
    assert_null(json_member(NULL, "k"));
    assert_null(json_string(NULL));
    assert_int_equal(json_count(NULL), 0);
    assert_int_equal(json_type(json_member(root, "o")), JSON_OBJECT);
    json_free(doc);
    json_free(NULL);
}

static void whole_numbers(void **state)
{
    static const struct {
        const char *text;
        bool fits;
        int64_t value;
    } cases[] = {{"0", true, 0},
                 {"-0", true, 0},
                 {"7", true, 7},
                 {"-7", true, -7},
                 {"9223372036854775807", true, INT64_MAX},
                 {"-9223372036854775808", true, INT64_MIN},
                 {"9223372036854775808", false, 0},
                 {"-9223372036854775809", false, 0},
                 {"99999999999999999999999999", false, 0},
                 {"1.0", false, 0},
                 {"1e3", false, 0},
                 {"1E3", false, 0},
                 {"\"1\"", false, 0},
                 {"null", false, 0},
                 {"true", false, 0},
                 {"[1]", false, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_doc *doc = NULL;
        int64_t value = 4711;
        assert_int_equal(json_parse_any(cases[i].text, strlen(cases[i].text), &doc), JSON_OK);
        assert_int_equal(json_int64(json_root(doc), &value), cases[i].fits);
        assert_true(value == (cases[i].fits ? cases[i].value : 4711));
        json_free(doc);
    }
}

/* The costliest bodies of 64 KiB that anybody can send: many keys, many with one long beginning, many nodes.
   A bound that a quadratic search would miss by far, even under a sanitizer. */
static void hostile_bodies_cost_little(void **state)
{
    struct buf many = BUF_INIT, alike = BUF_INIT, nodes = BUF_INIT;
    const struct buf *bodies[] = {&many, &alike, &nodes};
    int64_t begin;
    (void)state;
    buf_adds(&many, "{\"\":0");
    for (int i = 0; many.len < 65520; i++)
        buf_addf(&many, ",\"%x\":0", i);
    buf_addc(&many, '}');
    buf_adds(&alike, "{\"\":0");
    for (int i = 0; alike.len < 65300; i++)
        buf_addf(&alike, ",\"%0200d\":0", i);
    buf_addc(&alike, '}');
    buf_adds(&nodes, "{\"a\":[0");
    while (nodes.len < 65530)
        buf_adds(&nodes, ",0");
    buf_adds(&nodes, "]}");
    begin = clock_monotonic_ms();
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < 3; i++) {
            struct json_doc *doc = NULL;
            const struct json *array;
            int64_t sum = 0, value = 0;
            assert_int_equal(json_parse(bodies[i]->data, bodies[i]->len, &doc), JSON_OK);
            array = json_member(json_root(doc), "a");
            for (size_t k = 0; k < json_count(array); k++)
                sum += json_int64(json_at(array, k), &value) ? value : 1;
            assert_true(sum == 0);
            json_free(doc);
        }
    }
    assert_true(clock_monotonic_ms() - begin < 5000);
    buf_release(&many);
    buf_release(&alike);
    buf_release(&nodes);
}

/* --- Writing -------------------------------------------------------------------------------------------- */

static void pieces(void **state)
{
    struct buf out = BUF_INIT;
    (void)state;
    buf_addc(&out, '{');
    json_add_member(&out, "a", "x\"\\\n\x01\xC3\xA9");
    json_add_member(&out, "b", NULL);
    json_add_member_opt(&out, "c", NULL);
    json_add_member_opt(&out, "d", "");
    json_add_member_int(&out, "e", INT64_MIN);
    json_add_member_raw(&out, "f", "{\"x\":[]}");
    json_add_key(&out, "g");
    buf_addc(&out, '{');
    json_add_member(&out, "h", "{");
    json_add_member(&out, "i", "j");
    buf_adds(&out, "}}");
    assert_string_equal(buf_str(&out),
                        "{\"a\":\"x\\\"\\\\\\n\\u0001\xC3\xA9\",\"b\":null,\"d\":\"\","
                        "\"e\":-9223372036854775808,\"f\":{\"x\":[]},\"g\":{\"h\":\"{\",\"i\":\"j\"}}");
    buf_release(&out);
    json_add_string(&out, NULL);
    assert_string_equal(buf_str(&out), "null");
    buf_release(&out);
    json_write(&out, NULL, true);
    assert_string_equal(buf_str(&out), "null");
    buf_release(&out);
}

static void utf8(void **state)
{
    (void)state;
    assert_true(utf8_valid("", 0));
    assert_true(utf8_valid("Gr\xC3\xBC\xC3\x9F"
                           "e",
                           7));
    assert_false(utf8_valid("Gr\xC3\xBC\xC3\x9F"
                            "e",
                            5)); /* cut within a letter */
    assert_false(utf8_valid("a\0b", 3));
    assert_false(utf8_valid("\xC0\x80", 2));
    assert_false(utf8_valid("\xED\xA0\x80", 3));
    assert_false(utf8_valid("\xF4\x90\x80\x80", 4));
}

/* --- What is left behind -------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif

#ifndef ADDRESS_SANITIZER
/* The canary never stands in memory as such but where a parser decoded it: here each byte is one too high. */
static const char canary_plus_one[] = "qbtt.dbobsz.5822";
#define CANARY_BYTES (sizeof canary_plus_one - 1)

static bool holds_canary(const unsigned char *bytes, size_t len)
{
    for (size_t i = 0; i + CANARY_BYTES <= len; i++) {
        size_t k = 0;
        while (k < CANARY_BYTES && bytes[i + k] == (unsigned char)(canary_plus_one[k] - 1))
            k++;
        if (k == CANARY_BYTES)
            return true;
    }
    return false;
}

/* Looks through all writable memory of this process, freed blocks and old stack frames among it. */
static bool memory_holds_canary(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    static unsigned char window[65536];
    char line[512];
    bool found = false;
    assert_non_null(maps);
    assert_true(memory >= 0);
    while (fgets(line, sizeof line, maps)) {
        /* "from-to mode ..." */
        char *rest;
        unsigned long from = strtoul(line, &rest, 16), to;
        assert_int_equal(*rest, '-');
        to = strtoul(rest + 1, &rest, 16);
        if (strncmp(rest, " rw", 3) != 0)
            continue;
        while (from < to) {
            size_t want = to - from < sizeof window ? to - from : sizeof window;
            ssize_t got = pread(memory, window, want, (off_t)from);
            if (got <= 0)
                break;
            found = found || holds_canary(window, (size_t)got);
            explicit_bzero(window, sizeof window);
            from += (size_t)got > CANARY_BYTES && (size_t)got < to - from ? (size_t)got - CANARY_BYTES
                                                                          : (size_t)got;
        }
    }
    close(memory);
    fclose(maps);
    return found;
}

/* The canary as \u escapes, so that only a decoder can put it together; `filler` pads it past the parser's
   first blocks. */
static void canary_body(struct buf *body, size_t filler, const char *end)
{
    buf_adds(body, "{\"fields\":[{\"position\":1,\"value\":\"");
    for (size_t i = 0; i < filler; i++)
        buf_adds(body, "\\n");
    for (size_t i = 0; i < CANARY_BYTES; i++)
        buf_addf(body, "\\u%04x", (unsigned)(canary_plus_one[i] - 1));
    buf_adds(body, end);
}
#endif

static void nothing_is_left_behind(void **state)
{
#ifdef ADDRESS_SANITIZER
    (void)state;
    printf("SKIP nothing_is_left_behind: AddressSanitizer's own mappings are too large to be searched\n");
    skip();
#else
    static const char *const ends[] = {"\"}]}", "\"}]", "\"", "", "\"}]}x", "\",\"value\":1}]}"};
    static const size_t fillers[] = {0, 1500, 60000};
    (void)state;
    for (size_t f = 0; f < sizeof fillers / sizeof *fillers; f++) {
        for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
            struct buf body = BUF_INIT;
            struct json_doc *doc = NULL;
            canary_body(&body, fillers[f], ends[e]);
            if (json_parse(body.data, body.len, &doc) == JSON_OK)
                assert_true(memory_holds_canary()); /* it is there, and the search finds it */
            else
                assert_null(doc);
            json_free(doc);
            buf_release(&body);
            assert_false(memory_holds_canary());
        }
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(redaction),
        cmocka_unit_test(redaction_of_a_part),
        cmocka_unit_test(the_tree),
        cmocka_unit_test(whole_numbers),
        cmocka_unit_test(hostile_bodies_cost_little),
        cmocka_unit_test(pieces),
        cmocka_unit_test(utf8),
        cmocka_unit_test(nothing_is_left_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
