#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "../common/clock.h"
#include "../common/json.h"

/* The code point at `text`, its length in *bytes; -1 for what is no UTF-8 (then one byte). */
static int32_t code_point(const char *text, size_t len, size_t *bytes)
{
    const unsigned char *t = (const unsigned char *)text;
    size_t want = t[0] < 0x80 ? 1 : t[0] < 0xe0 ? 2 : t[0] < 0xf0 ? 3 : 4;

    *bytes = 1;
    if (want > len || !(t[0] == 0 || utf8_valid(text, want)))
        return -1;
    *bytes = want;
    switch (want) {
    case 1:
        return t[0];
    case 2:
        return (t[0] & 0x1f) << 6 | (t[1] & 0x3f);
    case 3:
        return (t[0] & 0x0f) << 12 | (t[1] & 0x3f) << 6 | (t[2] & 0x3f);
    default:
        return (t[0] & 0x07) << 18 | (t[1] & 0x3f) << 12 | (t[2] & 0x3f) << 6 | (t[3] & 0x3f);
    }
}

/* C0, DEL, C1; line and paragraph separators; the marks that turn or embed a direction of writing. */
static bool acts_on_terminal(int32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x061c || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void output_text(struct buf *out, const char *text)
{
    size_t len = text ? strlen(text) : 0;

    for (size_t i = 0, bytes; i < len; i += bytes) {
        int32_t c = code_point(text + i, len - i, &bytes);

        if (c == -1)
            buf_addf(out, "\\x%02x", (unsigned char)text[i]);
        else if (c == '\n')
            buf_adds(out, "\\n");
        else if (c == '\t')
            buf_adds(out, "\\t");
        else if (acts_on_terminal(c))
            buf_addf(out, "\\u{%x}", (unsigned)c);
        else
            buf_add(out, text + i, bytes);
    }
}

/* Unicode's East Asian Width in rough blocks: asking wcwidth() would need a locale. */
static size_t columns_of(int32_t c)
{
    if ((c >= 0x300 && c <= 0x36f) || c == 0x200b || c == 0x200d || (c >= 0xfe00 && c <= 0xfe0f))
        return 0;
    if ((c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
        (c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
        (c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd))
        return 2;
    return 1;
}

size_t output_width(const char *text, size_t len)
{
    size_t width = 0;

    for (size_t i = 0, bytes; i < len; i += bytes)
        width += columns_of(code_point(text + i, len - i, &bytes));
    return width;
}

void output_json(FILE *out, const struct buf *json)
{
    const char *text = buf_str(json);

    for (size_t i = 0, bytes; i < json->len; i += bytes) {
        int32_t c = code_point(text + i, json->len - i, &bytes);

        if (c >= 0x7f && acts_on_terminal(c))
            fprintf(out, "\\u%04x", (unsigned)c);
        else
            fwrite(text + i, 1, bytes, out);
    }
    fputc('\n', out);
}

void output_member_json(struct buf *object, const char *name, const char *json)
{
    struct json_doc *doc = NULL;

    if (json && json_parse_any(json, strlen(json), &doc) == JSON_OK) {
        json_add_key(object, name);
        json_write(object, json_root(doc), false);
    } else {
        json_add_member(object, name, json);
    }
    json_free(doc);
}

void output_member_time(struct buf *object, const char *name, int64_t ms)
{
    char text[CLOCK_TEXT_BYTES];

    json_add_member(object, name, ms ? clock_format(ms, text) : NULL);
}

const char *output_time(int64_t ms, char text[OUTPUT_TIME_BYTES])
{
    char iso[CLOCK_TEXT_BYTES];

    text[0] = '\0';
    if (!ms)
        return text;
    clock_format(ms, iso);
    snprintf(text, OUTPUT_TIME_BYTES, "%.19sZ", iso);
    return text;
}

bool output_alive(FILE *out)
{
    return !ferror(out);
}

struct table {
    FILE *out;
    size_t count;
    struct table_column columns[TABLE_COLUMNS_MAX];
    size_t width[TABLE_COLUMNS_MAX];
    bool begun;       /* the titles are out, the widths are settled */
    char **cells;     /* row by row */
    size_t len, room; /* cells */
};

struct table *table_new(FILE *out, const struct table_column *columns, size_t count)
{
    struct table *table = xcalloc(1, sizeof(*table));

    table->out = out;
    table->count = count < TABLE_COLUMNS_MAX ? count : TABLE_COLUMNS_MAX;
    memcpy(table->columns, columns, table->count * sizeof(*columns));
    return table;
}

/* The text shortened to `most` columns, "~" being the last where something was cut. */
static void shorten(struct buf *text, size_t most)
{
    size_t width = 0, i = 0, bytes;

    if (!most || !text->data || output_width(buf_str(text), text->len) <= most)
        return;
    for (;; i += bytes) {
        size_t more = columns_of(code_point(text->data + i, text->len - i, &bytes));

        if (width + more > most - 1)
            break;
        width += more;
    }
    text->data[i] = '~';
    text->data[i + 1] = '\0';
    text->len = i + 1;
}

void table_cell(struct table *table, const char *text)
{
    struct buf clean = BUF_INIT;

    if (table->len == table->room) {
        table->room = table->room ? table->room * 2 : 256;
        table->cells = xrealloc(table->cells, table->room * sizeof(*table->cells));
    }
    output_text(&clean, text);
    shorten(&clean, table->columns[table->len % table->count].most);
    table->cells[table->len++] = xstrdup(buf_str(&clean));
    buf_release(&clean);
}

void table_cell_number(struct table *table, int64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)number);
    table_cell(table, text);
}

void table_cell_time(struct table *table, int64_t ms)
{
    char text[OUTPUT_TIME_BYTES];

    table_cell(table, output_time(ms, text));
}

void table_row_end(struct table *table)
{
    while (table->len % table->count)
        table_cell(table, NULL);
}

size_t table_waiting(const struct table *table)
{
    return table->len / table->count;
}

static void print_row(const struct table *table, const char *const *cells)
{
    size_t last = 0, behind = 0;

    for (size_t i = 0; i < table->count; i++) {
        if (cells[i][0])
            last = i;
    }
    for (size_t i = 0; i <= last; i++) {
        size_t width = output_width(cells[i], strlen(cells[i]));

        fprintf(table->out, "%*s%s", (int)behind, "", cells[i]);
        behind = (table->width[i] > width ? table->width[i] - width : 0) + 2;
    }
    fputc('\n', table->out);
}

static void begin(struct table *table)
{
    const char *titles[TABLE_COLUMNS_MAX];

    if (table->count == 0)
        return;
    for (size_t i = 0; i < table->count; i++) {
        titles[i] = table->columns[i].title;
        table->width[i] = strlen(titles[i]);
    }
    for (size_t i = 0; i < table->len; i++) {
        size_t width = output_width(table->cells[i], strlen(table->cells[i]));

        if (width > table->width[i % table->count])
            table->width[i % table->count] = width;
    }
    print_row(table, titles);
    table->begun = true;
}

void table_flush(struct table *table)
{
    if (!table->begun && table->len)
        begin(table);
    for (size_t row = 0; row + table->count <= table->len; row += table->count)
        print_row(table, (const char *const *)(table->cells + row));
    for (size_t i = 0; i < table->len; i++)
        free(table->cells[i]);
    table->len = 0;
    fflush(table->out);
}

void table_free(struct table *table)
{
    if (!table)
        return;
    table_flush(table);
    if (!table->begun)
        begin(table);
    free(table->cells);
    free(table);
}
