#include <csv.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "csv.h"

#define BLOCK_BYTES (64 * 1024)

struct reader {
    csv_record_fn *fn;
    void *context;
    int64_t line;        /* where we are */
    int64_t record_line; /* where the record begins */
    bool after_cr;       /* a line ended in CR: a LF right behind belongs to it */
    bool stopped;
    const char *why; /* a bound of ours was passed */
    struct buf text; /* the record's cells, a NUL behind each */
    size_t start[CSV_CELLS_MAX], length[CSV_CELLS_MAX];
    size_t count;
};

/* libcsv's memory, with its size in front, so that it can be overwritten when it moves. */
#define HEAD sizeof(max_align_t)

static void wiping_free(void *memory)
{
    char *block = memory;
    size_t size;

    if (!block)
        return;
    memcpy(&size, block - HEAD, sizeof(size));
    explicit_bzero(block, size);
    free(block - HEAD);
}

static void *wiping_realloc(void *memory, size_t size)
{
    char *block = xcalloc(1, HEAD + size);
    size_t old;

    memcpy(block, &size, sizeof(size));
    if (memory) {
        memcpy(&old, (char *)memory - HEAD, sizeof(old));
        memcpy(block + HEAD, memory, old < size ? old : size);
        wiping_free(memory);
    }
    return block + HEAD;
}

static int no_space(unsigned char c)
{
    (void)c;
    return 0;
}

/* Line breaks within a quoted cell: LF, CRLF and CR each count once. */
static int64_t breaks(const char *text, size_t len)
{
    int64_t count = 0;

    for (size_t i = 0; i < len; i++)
        count += text[i] == '\n' ? !(i > 0 && text[i - 1] == '\r') : text[i] == '\r';
    return count;
}

static void cell_read(void *bytes, size_t len, void *context)
{
    struct reader *r = context;

    r->after_cr = false;
    if (r->stopped)
        return;
    if (r->count == CSV_CELLS_MAX) {
        r->why = "too many cells";
        r->stopped = true;
        return;
    }
    r->start[r->count] = r->text.len;
    r->length[r->count++] = len;
    if (len)
        buf_add(&r->text, bytes, len);
    buf_addc(&r->text, '\0');
    r->line += breaks(r->text.data + r->start[r->count - 1], len);
}

static void hand_over(struct reader *r)
{
    struct csv_cell cells[CSV_CELLS_MAX];
    struct csv_record record = {r->record_line, cells, r->count};

    for (size_t i = 0; i < r->count; i++)
        cells[i] = (struct csv_cell){r->text.data + r->start[i], r->length[i]};
    if (!r->fn(r->context, &record))
        r->stopped = true;
}

/* The end of a record, or (no cell came before) of an empty line. */
static void line_read(int end, void *context)
{
    struct reader *r = context;

    if (r->stopped)
        return;
    if (r->count)
        hand_over(r);
    if (!(end == '\n' && r->after_cr && !r->count))
        r->line++;
    r->after_cr = end == '\r';
    r->record_line = r->line;
    r->count = 0;
    buf_clear(&r->text);
}

/* Feeds a block; false: over, by our own doing or libcsv's. */
static bool feed(struct csv_parser *parser, struct reader *r, const char *block, size_t len)
{
    if (csv_parse(parser, block, len, cell_read, line_read, r) != len) {
        r->why = "a quote stands where none may: a cell with a quote in it is quoted as a whole, its quotes "
                 "doubled";
        return false;
    }
    if (csv_get_buffer_size(parser) > CSV_CELL_MAX_BYTES) {
        r->why = "a cell is too long: is a closing quote missing?";
        return false;
    }
    return !r->stopped;
}

/* Fills the block as far as the file goes: the byte order mark must not lie on two blocks. */
static ssize_t fill(int fd, char block[BLOCK_BYTES])
{
    size_t have = 0;

    while (have < BLOCK_BYTES) {
        ssize_t got = read(fd, block + have, BLOCK_BYTES - have);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

static enum csv_result read_all(int fd, struct csv_parser *parser, struct reader *r, char *block)
{
    ssize_t len = fill(fd, block);
    size_t skip = len >= 3 && !memcmp(block, "\xef\xbb\xbf", 3) ? 3 : 0;

    for (; len > 0; len = fill(fd, block), skip = 0) {
        if (!feed(parser, r, block + skip, (size_t)len - skip))
            return r->why ? CSV_MALFORMED : CSV_STOPPED;
    }
    if (len < 0)
        return CSV_UNREADABLE;
    if (csv_fini(parser, cell_read, line_read, r)) {
        r->why = "a quote is opened and never closed";
        return CSV_MALFORMED;
    }
    return r->why ? CSV_MALFORMED : r->stopped ? CSV_STOPPED : CSV_DONE;
}

enum csv_result csv_read(int fd, csv_record_fn *fn, void *context, int64_t *line, size_t *cell,
                         const char **why)
{
    struct reader r = {.fn = fn, .context = context, .line = 1, .record_line = 1};
    struct csv_parser parser;
    char *block = xcalloc(1, BLOCK_BYTES);
    enum csv_result result;

    csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI | CSV_REPALL_NL | CSV_APPEND_NULL);
    csv_set_realloc_func(&parser, wiping_realloc);
    csv_set_free_func(&parser, wiping_free);
    csv_set_space_func(&parser, no_space);
    csv_set_blk_size(&parser, 4096);
    result = read_all(fd, &parser, &r, block);
    if (result == CSV_MALFORMED) {
        *line = r.record_line;
        *cell = r.count + 1;
        *why = r.why;
    }
    csv_free(&parser);
    buf_release(&r.text);
    explicit_bzero(block, BLOCK_BYTES);
    free(block);
    return result;
}

void csv_write_text(FILE *out, bool first, const char *text)
{
    struct buf cell = BUF_INIT;

    if (!first)
        fputc(',', out);
    if (text && text[0]) {
        if (strchr("=+-@\t\r", text[0]))
            buf_addc(&cell, '\'');
        buf_adds(&cell, text);
        csv_fwrite(out, cell.data, cell.len);
    }
    buf_release(&cell);
}

void csv_write_number(FILE *out, bool first, int64_t number)
{
    fprintf(out, "%s%lld", first ? "" : ",", (long long)number);
}

void csv_write_end(FILE *out)
{
    fputs("\r\n", out);
}
