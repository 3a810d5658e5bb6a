/* The CSV reader, and what was read written and read again. */
#include <unistd.h>

#include "../../cli/csv.h"
#include "fuzz.h"

struct reading {
    FILE *copy;        /* what was read, written anew; NULL: only look */
    struct buf cells;  /* all cells, each with its length in front */
    int64_t line;      /* of the record before */
    bool copied_whole; /* no cell that the writer changes or leaves out */
};

static bool record_read(void *context, const struct csv_record *record)
{
    struct reading *reading = context;
    MUST(record->count > 0 && record->count <= CSV_CELLS_MAX);
    MUST(record->line > reading->line);
    reading->line = record->line;
    for (size_t i = 0; i < record->count; i++) {
        const struct csv_cell *cell = &record->cells[i];
        MUST(cell->text[cell->len] == '\0');
        buf_addf(&reading->cells, "%zu:", cell->len);
        buf_add(&reading->cells, cell->text, cell->len);
        if (!reading->copy)
            continue;
        if (strlen(cell->text) != cell->len || (cell->len > 0 && strchr("=+-@\t\r", cell->text[0])) ||
            (record->count == 1 && cell->len == 0))
            reading->copied_whole = false;
        csv_write_text(reading->copy, i == 0, cell->text);
    }
    buf_addc(&reading->cells, '\n');
    if (reading->copy)
        csv_write_end(reading->copy);
    return true;
}

static enum csv_result read_bytes(const void *bytes, size_t size, struct reading *reading)
{
    int64_t line = 0;
    size_t cell = 0;
    const char *why = NULL;
    int fd = fuzz_file(bytes, size);
    enum csv_result result = csv_read(fd, record_read, reading, &line, &cell, &why);
    close(fd);
    MUST(result == CSV_DONE || result == CSV_MALFORMED);
    if (result == CSV_MALFORMED)
        MUST(why && why[0] != '\0' && line >= 1 && cell >= 1);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = NULL;
    size_t copy_len = 0;
    struct reading first = {.copied_whole = true}, second = {.copied_whole = true};
    first.copy = open_memstream(&copy, &copy_len);
    MUST(first.copy);
    enum csv_result result = read_bytes(data, size, &first);
    MUST(fclose(first.copy) == 0);

    bool marked = copy_len >= 3 && memcmp(copy, "\xef\xbb\xbf", 3) == 0; /* taken for a byte order mark */
    if (result == CSV_DONE && first.copied_whole && !marked) {
        MUST(read_bytes(copy, copy_len, &second) == CSV_DONE);
        MUST(first.cells.len == second.cells.len);
        MUST(first.cells.len == 0 || memcmp(first.cells.data, second.cells.data, first.cells.len) == 0);
    }
    free(copy);
    buf_release(&first.cells);
    buf_release(&second.cells);
    return 0;
}
