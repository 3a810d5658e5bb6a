#include "json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

/*
 * yajl splits the text into tokens and knows the grammar; all that it lets pass is caught here. Before it
 * runs, one look over the raw bytes (UTF-8, NUL, \u escapes); in its callbacks, depth; at the end of each
 * object, its keys. Its tree API is not used: it recurses, and it cuts strings at NUL.
 */

/* --- Memory that is overwritten when it is given back --------------------------------------------------- */

#define BLOCK_BYTES ((size_t)64 * 1024)
#define ALIGNMENT 16

struct block {
    struct block *next;
    size_t used, cap;
    bool heap; /* false: storage of the caller's */
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

/* Takes only grow; everything is given back at once. */
struct arena {
    struct block *top;
};

static void arena_start(struct arena *arena, void *storage, size_t size)
{
    struct block *block = storage;
    block->next = NULL;
    block->used = 0;
    block->cap = size - sizeof *block;
    block->heap = false;
    arena->top = block;
}

static void arena_grow(struct arena *arena, size_t need)
{
    size_t cap = need > BLOCK_BYTES ? need : BLOCK_BYTES;
    struct block *block = xrealloc(NULL, sizeof *block + cap);
    block->next = arena->top;
    block->used = 0;
    block->cap = cap;
    block->heap = true;
    arena->top = block;
}

static void *arena_take(struct arena *arena, size_t size, size_t alignment)
{
    struct block *block = arena->top;
    size_t at = (block->used + alignment - 1) & ~(alignment - 1);
    if (at > block->cap || size > block->cap - at) {
        arena_grow(arena, size);
        block = arena->top;
        at = 0;
    }
    block->used = at + size;
    return block->bytes + at;
}

static void arena_release(struct arena *arena)
{
    struct block *block = arena->top, *next;
    arena->top = NULL;
    for (; block; block = next) {
        next = block->next;
        explicit_bzero(block->bytes, block->used);
        if (block->heap)
            free(block);
    }
}

/* --- The tree ------------------------------------------------------------------------------------------- */

/* Children lie side by side, so that json_at() is one step also in a body made of 30,000 elements. */
struct json {
    enum json_type type;
    bool truth;      /* JSON_BOOL */
    const char *key; /* within an object; else NULL */
    size_t len;      /* bytes of `text`, or the number of `items` */
    union {
        const char *text; /* JSON_STRING, JSON_NUMBER */
        const struct json *items;
    } u;
};

struct json_doc {
    struct arena arena;
    struct json root;
    _Alignas(ALIGNMENT) unsigned char storage[];
};

/* --- yajl's allocations --------------------------------------------------------------------------------- */

struct allocation {
    size_t size;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

static struct allocation *allocation_of(void *bytes)
{
    return (struct allocation *)((unsigned char *)bytes - offsetof(struct allocation, bytes));
}

static void *yajl_take(void *context, size_t size)
{
    struct allocation *a = arena_take(context, sizeof *a + size, ALIGNMENT);
    a->size = size;
    return a->bytes;
}

static void yajl_give_back(void *context, void *bytes)
{
    (void)context;
    if (bytes)
        explicit_bzero(bytes, allocation_of(bytes)->size);
}

static void *yajl_resize(void *context, void *old, size_t size)
{
    void *bytes = yajl_take(context, size);
    if (old) {
        size_t had = allocation_of(old)->size;
        memcpy(bytes, old, had < size ? had : size);
        yajl_give_back(context, old);
    }
    return bytes;
}

/* --- The look before ------------------------------------------------------------------------------------ */

/* The length of the well-formed UTF-8 sequence that begins at p (RFC 3629, table in section 4), 0 if none. */
static size_t utf8_sequence(const unsigned char *p, const unsigned char *end)
{
    size_t left = (size_t)(end - p), len;
    unsigned char low = 0x80, high = 0xBF;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (left < len)
        return 0;
    if (p[0] == 0xE0)
        low = 0xA0; /* overlong */
    else if (p[0] == 0xED)
        high = 0x9F; /* surrogates */
    else if (p[0] == 0xF0)
        low = 0x90; /* overlong */
    else if (p[0] == 0xF4)
        high = 0x8F; /* beyond U+10FFFF */
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

bool utf8_valid(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + len;
    while (p < end) {
        size_t n = *p ? utf8_sequence(p, end) : 0;
        if (n == 0)
            return false;
        p += n;
    }
    return true;
}

static int hex_digit(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* The unit of a \uXXXX at p, or -1 where there is no such thing. */
static long escaped_unit(const unsigned char *p, const unsigned char *end)
{
    long unit = 0;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(p[i]);
        if (digit < 0)
            return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

/* Judges the escape at *p and steps over it. One that is no escape at all is left to yajl to refuse. */
static enum json_error look_at_escape(const unsigned char **p, const unsigned char *end)
{
    long unit = escaped_unit(*p, end);
    if (unit < 0) {
        /* A byte above ASCII is not stepped over: it has its own look. */
        *p += end - *p >= 2 && (*p)[1] >= 0x20 && (*p)[1] < 0x80 ? 2 : 1;
        return JSON_OK;
    }
    if (unit == 0)
        return JSON_NUL;
    *p += 6;
    if (unit < 0xD800 || unit > 0xDFFF)
        return JSON_OK;
    if (unit <= 0xDBFF) {
        long other = escaped_unit(*p, end);
        if (other >= 0xDC00 && other <= 0xDFFF) {
            *p += 6;
            return JSON_OK;
        }
    }
    return JSON_SURROGATE;
}

static enum json_error look(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + len;
    bool in_string = false, empty = true;
    while (p < end) {
        unsigned char c = *p;
        if (c == 0)
            return JSON_NUL;
        if (c == '\\' && in_string) {
            enum json_error error = look_at_escape(&p, end);
            if (error != JSON_OK)
                return error;
            continue;
        }
        if (c >= 0x80) {
            size_t n = utf8_sequence(p, end);
            if (n == 0)
                return JSON_BAD_UTF8;
            p += n;
            empty = false;
            continue;
        }
        /* yajl takes vertical tabs and form feeds for white space. */
        if (c < 0x20 && c != '\t' && c != '\n' && c != '\r')
            return JSON_SYNTAX;
        in_string ^= c == '"';
        empty = empty && (c == ' ' || c == '\t' || c == '\n' || c == '\r');
        p++;
    }
    /* yajl overlooks a string that begins after the document and never ends. */
    if (in_string)
        return JSON_SYNTAX;
    return empty ? JSON_EMPTY : JSON_OK;
}

/* --- Parsing -------------------------------------------------------------------------------------------- */

#define ITEMS_FIRST 64
#define SCRATCH_BYTES 4096

struct parser {
    struct arena *tree;    /* what the document keeps */
    struct arena scratch;  /* yajl's memory, and `items` once it has grown */
    enum json_error error; /* why a callback stopped the parser */
    const char *key;       /* of the value that comes next */
    /* Values whose container is still open, each container before its children. */
    struct json *items;
    size_t count, cap;
    size_t open[JSON_DEPTH_MAX]; /* where the children of each open container begin */
    size_t depth;
    struct json first_items[ITEMS_FIRST];
    _Alignas(ALIGNMENT) unsigned char storage[SCRATCH_BYTES];
};

static struct json *add_item(struct parser *parser, enum json_type type)
{
    struct json *item;
    if (parser->count == parser->cap) {
        size_t cap = parser->cap * 4;
        struct json *more = arena_take(&parser->scratch, cap * sizeof *more, ALIGNMENT);
        memcpy(more, parser->items, parser->count * sizeof *more);
        parser->items = more;
        parser->cap = cap;
    }
    item = &parser->items[parser->count++];
    *item = (struct json){.type = type, .key = parser->key};
    parser->key = NULL;
    return item;
}

static const char *keep_text(struct parser *parser, const void *bytes, size_t len)
{
    char *text = arena_take(parser->tree, len + 1, 1);
    if (len)
        memcpy(text, bytes, len);
    text[len] = '\0';
    return text;
}

static int on_null(void *context)
{
    add_item(context, JSON_NULL);
    return 1;
}

static int on_boolean(void *context, int value)
{
    add_item(context, JSON_BOOL)->truth = value != 0;
    return 1;
}

static int on_text(struct parser *parser, enum json_type type, const void *bytes, size_t len)
{
    struct json *item = add_item(parser, type);
    item->u.text = keep_text(parser, bytes, len);
    item->len = len;
    return 1;
}

static int on_number(void *context, const char *bytes, size_t len)
{
    return on_text(context, JSON_NUMBER, bytes, len);
}

static int on_string(void *context, const unsigned char *bytes, size_t len)
{
    return on_text(context, JSON_STRING, bytes, len);
}

static int on_key(void *context, const unsigned char *bytes, size_t len)
{
    struct parser *parser = context;
    parser->key = keep_text(parser, bytes, len);
    return 1;
}

static int on_start(struct parser *parser, enum json_type type)
{
    if (parser->depth == JSON_DEPTH_MAX) {
        parser->error = JSON_TOO_DEEP;
        return 0;
    }
    add_item(parser, type);
    parser->open[parser->depth++] = parser->count;
    return 1;
}

static int on_start_object(void *context)
{
    return on_start(context, JSON_OBJECT);
}

static int on_start_array(void *context)
{
    return on_start(context, JSON_ARRAY);
}

static struct json *on_end(struct parser *parser)
{
    size_t begin = parser->open[--parser->depth];
    size_t count = parser->count - begin;
    struct json *container = &parser->items[begin - 1];
    container->len = count;
    if (count) {
        struct json *items = arena_take(parser->tree, count * sizeof *items, _Alignof(struct json));
        memcpy(items, &parser->items[begin], count * sizeof *items);
        container->u.items = items;
    }
    parser->count = begin;
    return container;
}

static int on_end_array(void *context)
{
    on_end(context);
    return 1;
}

static int compare_keys(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

#define FEW_KEYS 8

/* Keys hold no NUL (the look before), so they can be compared as C strings. Many are sorted: a body of 64 KiB
   can hold 10,000 of them. */
static bool has_duplicate_key(struct parser *parser, const struct json *object)
{
    const struct json *items = object->u.items;
    const char **keys;
    if (object->len <= FEW_KEYS) {
        for (size_t i = 1; i < object->len; i++)
            for (size_t k = 0; k < i; k++)
                if (strcmp(items[i].key, items[k].key) == 0)
                    return true;
        return false;
    }
    keys = arena_take(&parser->scratch, object->len * sizeof *keys, ALIGNMENT);
    for (size_t i = 0; i < object->len; i++)
        keys[i] = items[i].key;
    qsort(keys, object->len, sizeof *keys, compare_keys);
    for (size_t i = 1; i < object->len; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            return true;
    return false;
}

static int on_end_object(void *context)
{
    struct parser *parser = context;
    struct json *object = on_end(parser);
    if (has_duplicate_key(parser, object)) {
        parser->error = JSON_DUPLICATE_KEY;
        return 0;
    }
    return 1;
}

static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                         .yajl_boolean = on_boolean,
                                         .yajl_number = on_number,
                                         .yajl_string = on_string,
                                         .yajl_start_map = on_start_object,
                                         .yajl_map_key = on_key,
                                         .yajl_end_map = on_end_object,
                                         .yajl_start_array = on_start_array,
                                         .yajl_end_array = on_end_array};

static enum json_error run_yajl(struct parser *parser, const char *text, size_t len)
{
    yajl_alloc_funcs memory = {yajl_take, yajl_resize, yajl_give_back, &parser->scratch};
    yajl_handle yajl = yajl_alloc(&callbacks, &memory, parser);
    yajl_status status;
    yajl_config(yajl, yajl_dont_validate_strings, 1); /* look() was stricter already */
    status = yajl_parse(yajl, (const unsigned char *)text, len);
    if (status == yajl_status_ok)
        status = yajl_complete_parse(yajl); /* only this one sees an end that came too early */
    yajl_free(yajl);
    if (status == yajl_status_client_canceled)
        return parser->error;
    return status == yajl_status_ok && parser->count == 1 ? JSON_OK : JSON_SYNTAX;
}

/* A first block that holds the whole of a usual body's tree. */
static struct json_doc *doc_new(size_t len)
{
    size_t room = sizeof(struct block) + 1024 + (len < 16384 ? 2 * len : 32768);
    struct json_doc *doc = xrealloc(NULL, sizeof *doc + room);
    arena_start(&doc->arena, doc->storage, room);
    return doc;
}

enum json_error json_parse_any(const char *text, size_t len, struct json_doc **out)
{
    struct parser parser;
    struct json_doc *doc;
    enum json_error error = look(text, len);
    if (error != JSON_OK)
        return error;
    doc = doc_new(len);
    parser.tree = &doc->arena;
    parser.error = JSON_SYNTAX;
    parser.key = NULL;
    parser.items = parser.first_items;
    parser.count = 0;
    parser.cap = ITEMS_FIRST;
    parser.depth = 0;
    arena_start(&parser.scratch, parser.storage, sizeof parser.storage);
    error = run_yajl(&parser, text, len);
    if (error == JSON_OK) {
        doc->root = parser.items[0];
        *out = doc;
    } else {
        json_free(doc);
    }
    arena_release(&parser.scratch);
    return error;
}

enum json_error json_parse(const char *text, size_t len, struct json_doc **out)
{
    struct json_doc *doc;
    enum json_error error = json_parse_any(text, len, &doc);
    if (error != JSON_OK)
        return error;
    if (doc->root.type != JSON_OBJECT) {
        json_free(doc);
        return JSON_NOT_OBJECT;
    }
    *out = doc;
    return JSON_OK;
}

void json_free(struct json_doc *doc)
{
    if (!doc)
        return;
    arena_release(&doc->arena);
    free(doc);
}

const char *json_error_word(enum json_error error)
{
    switch (error) {
    case JSON_OK:
        return "ok";
    case JSON_EMPTY:
        return "empty_body";
    case JSON_SYNTAX:
        return "invalid_json";
    case JSON_BAD_UTF8:
        return "invalid_utf8";
    case JSON_NUL:
        return "nul_in_json";
    case JSON_SURROGATE:
        return "invalid_unicode_escape";
    case JSON_DUPLICATE_KEY:
        return "duplicate_key";
    case JSON_TOO_DEEP:
        return "too_deep";
    case JSON_NOT_OBJECT:
        return "not_an_object";
    }
    return "invalid_json";
}

/* --- Reading the tree ----------------------------------------------------------------------------------- */

const struct json *json_root(const struct json_doc *doc)
{
    return doc ? &doc->root : NULL;
}

enum json_type json_type(const struct json *node)
{
    return node ? node->type : JSON_NULL;
}

const struct json *json_member(const struct json *object, const char *name)
{
    if (!object || object->type != JSON_OBJECT)
        return NULL;
    for (size_t i = 0; i < object->len; i++)
        if (strcmp(object->u.items[i].key, name) == 0)
            return &object->u.items[i];
    return NULL;
}

size_t json_count(const struct json *node)
{
    return node && (node->type == JSON_ARRAY || node->type == JSON_OBJECT) ? node->len : 0;
}

const struct json *json_at(const struct json *node, size_t i)
{
    return i < json_count(node) ? &node->u.items[i] : NULL;
}

const char *json_key_at(const struct json *object, size_t i)
{
    const struct json *member = json_at(object, i);
    return member ? member->key : NULL;
}

const char *json_string(const struct json *node)
{
    return node && node->type == JSON_STRING ? node->u.text : NULL;
}

const char *json_number_text(const struct json *node)
{
    return node && node->type == JSON_NUMBER ? node->u.text : NULL;
}

bool json_int64(const struct json *node, int64_t *value)
{
    const char *text = json_number_text(node);
    int64_t sum = 0;
    bool negative;
    if (!text)
        return false;
    negative = *text == '-';
    /* Summed up below zero, where there is one number more than above. */
    for (text += negative; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        if (__builtin_mul_overflow(sum, 10, &sum) || __builtin_sub_overflow(sum, *text - '0', &sum))
            return false;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, sum, &sum))
        return false;
    *value = sum;
    return true;
}

bool json_bool(const struct json *node, bool *value)
{
    if (!node || node->type != JSON_BOOL)
        return false;
    *value = node->truth;
    return true;
}

/* --- Writing -------------------------------------------------------------------------------------------- */

static void add_escape(struct buf *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *name = strchr(names, c);
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    if (name) {
        text[1] = letters[name - names];
        buf_add(out, text, 2);
    } else {
        buf_add(out, text, sizeof text);
    }
}

static void add_quoted(struct buf *out, const char *text, size_t len)
{
    size_t done = 0;
    buf_addc(out, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_add(out, text + done, i - done);
        add_escape(out, c);
        done = i + 1;
    }
    buf_add(out, text + done, len - done);
    buf_addc(out, '"');
}

/* What of a node may be shown. */
enum cover {
    COVER_NONE,
    COVER_FIELDS, /* below `fields`: structure, `position` and nothing else */
    COVER_SECRET  /* below a secret's name: structure only */
};

#define REDACTED "[redacted]"

static bool is_secret_name(const char *key)
{
    static const char *const names[] = {"value", "password", "passwd", "pass", "pwd", "secret"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(key, names[i]) == 0)
            return true;
    return false;
}

/* A child never shows more than its parent. */
static enum cover cover_of_member(enum cover cover, const char *key)
{
    if (cover == COVER_SECRET || is_secret_name(key))
        return COVER_SECRET;
    return cover == COVER_FIELDS || strcasecmp(key, "fields") == 0 ? COVER_FIELDS : COVER_NONE;
}

static bool is_position(const struct json *node)
{
    return node->type == JSON_NUMBER && node->len <= 2 && node->u.text[0] != '-' && node->key &&
           strcmp(node->key, "position") == 0;
}

/* A candidate's input may stand in a key as well. The number keeps the keys of one object apart. */
static void add_member_name(struct buf *out, const char *key, enum cover cover, size_t *hidden)
{
    if (cover == COVER_NONE || strcmp(key, "position") == 0 || strcmp(key, "value") == 0)
        add_quoted(out, key, strlen(key));
    else
        buf_addf(out, "\"" REDACTED " %zu\"", ++*hidden);
    buf_addc(out, ':');
}

static void write_node(struct buf *out, const struct json *node, bool redact, enum cover cover);

static void write_items(struct buf *out, const struct json *node, bool redact, enum cover cover)
{
    size_t hidden = 0;
    for (size_t i = 0; i < node->len; i++) {
        const struct json *item = &node->u.items[i];
        enum cover below = cover;
        if (i > 0)
            buf_addc(out, ',');
        if (node->type == JSON_OBJECT) {
            add_member_name(out, item->key, cover, &hidden);
            below = redact ? cover_of_member(cover, item->key) : COVER_NONE;
        }
        write_node(out, item, redact, below);
    }
}

/* Recursion ends at JSON_DEPTH_MAX. */
static void write_node(struct buf *out, const struct json *node, bool redact, enum cover cover)
{
    bool hide = cover == COVER_SECRET || (cover == COVER_FIELDS && !is_position(node));
    switch (node->type) {
    case JSON_NULL:
        buf_adds(out, "null");
        return;
    case JSON_ARRAY:
        buf_addc(out, '[');
        write_items(out, node, redact, cover);
        buf_addc(out, ']');
        return;
    case JSON_OBJECT:
        buf_addc(out, '{');
        write_items(out, node, redact, cover);
        buf_addc(out, '}');
        return;
    case JSON_BOOL:
    case JSON_NUMBER:
    case JSON_STRING:
        break;
    }
    if (hide)
        buf_adds(out, "\"" REDACTED "\"");
    else if (node->type == JSON_STRING)
        add_quoted(out, node->u.text, node->len);
    else if (node->type == JSON_NUMBER)
        buf_add(out, node->u.text, node->len);
    else
        buf_adds(out, node->truth ? "true" : "false");
}

void json_write(struct buf *out, const struct json *node, bool redact)
{
    enum cover cover = COVER_NONE;
    if (!node) {
        buf_adds(out, "null");
        return;
    }
    /* A node that is written alone keeps what its own name says about it. */
    if (redact && node->key)
        cover = cover_of_member(cover, node->key);
    write_node(out, node, redact, cover);
}

void json_add_string(struct buf *out, const char *text)
{
    if (text)
        add_quoted(out, text, strlen(text));
    else
        buf_adds(out, "null");
}

void json_add_key(struct buf *out, const char *name)
{
    if (out->len > 0 && out->data[out->len - 1] != '{')
        buf_addc(out, ',');
    json_add_string(out, name);
    buf_addc(out, ':');
}

void json_add_member(struct buf *out, const char *name, const char *text)
{
    json_add_key(out, name);
    json_add_string(out, text);
}

void json_add_member_opt(struct buf *out, const char *name, const char *text)
{
    if (text)
        json_add_member(out, name, text);
}

void json_add_member_int(struct buf *out, const char *name, int64_t value)
{
    json_add_key(out, name);
    buf_addf(out, "%" PRId64, value);
}

void json_add_member_raw(struct buf *out, const char *name, const char *json)
{
    json_add_key(out, name);
    buf_adds(out, json);
}
