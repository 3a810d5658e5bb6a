#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "roster_file.h"
#include "csv.h"
#include "progress.h"
#include "../common/clock.h"
#include "../common/config.h"
#include "../common/json.h"
#include "../common/password.h"

#define BCRYPT_BYTES 72 /* bcrypt ignores what is behind */
#define THREADS_MAX 256
#define TIMES_KEPT 256

enum column_kind {
    COLUMN_ID,
    COLUMN_EMAIL,
    COLUMN_NAME,
    COLUMN_PASSWORD,
    COLUMN_HASH,
    COLUMN_PHOTO,
    COLUMN_ABOUT,
    COLUMN_DATA,
    COLUMN_EXAM,
    COLUMN_OPENS,
    COLUMN_CLOSES,
    COLUMN_ATTRIBUTE
};

static const struct {
    const char *name;
    size_t most; /* bytes */
    bool lines;  /* line breaks and tabs may stand in it */
} columns[] = {
    [COLUMN_ID] = {"id", 255, false},
    [COLUMN_EMAIL] = {"email", 320, false},
    [COLUMN_NAME] = {"name", 512, false},
    [COLUMN_PASSWORD] = {CONFIG_SECRET_COLUMN, PASSWORD_MAX_BYTES, false},
    [COLUMN_HASH] = {"password_hash", PASSWORD_HASH_BYTES - 1, false},
    [COLUMN_PHOTO] = {"photo", 2048, false},
    [COLUMN_ABOUT] = {"about", 8192, true},
    [COLUMN_DATA] = {"data", 16384, true},
    [COLUMN_EXAM] = {"exam", 512, false},
    [COLUMN_OPENS] = {"opens", 64, false},
    [COLUMN_CLOSES] = {"closes", 64, false},
    [COLUMN_ATTRIBUTE] = {NULL, 1024, false},
};

struct header_column {
    enum column_kind kind;
    char name[FIELD_COLUMN_BYTES];
};

struct line {
    int64_t number; /* in the file */
    char **cells;   /* one for each column of the header; NULL: empty */
    size_t bytes;   /* of the block that begins at cells */
    const char *id, *exam;
    char *password;        /* within the block; NULL: none, or hashed and overwritten */
    const char *hash;      /* within the block, or made */
    char *made;            /* a hash of ours */
    const struct line *as; /* the same candidate's line with the same password: its hash serves both */
    char *data;            /* JSON on one line */
    int64_t opens_ms, closes_ms;
};

struct bad_line {
    int64_t line;
    char *text;
};

struct known_time {
    char text[40];
    int64_t ms;
};

struct roster_file {
    struct roster_file_rules rules;
    struct header_column header[CSV_CELLS_MAX];
    size_t width; /* columns; 0: the header was not read yet */
    struct line *lines;
    size_t count, room;
    struct line **sorted; /* by id, exam, line */
    size_t candidates, spaced;
    struct bad_line bad[ROSTER_FILE_ERRORS];
    size_t bad_count;
    struct known_time times[TIMES_KEPT]; /* reading a local time is slow, and files repeat a few of them */
    struct candidate candidate;
    struct candidate_attribute attributes[CSV_CELLS_MAX];
};

/* Notes a bad line; false when that was the last one that is reported. */
static bool bad(struct roster_file *file, int64_t line, const char *column, const char *why)
{
    struct buf text = BUF_INIT;

    if (file->bad_count == ROSTER_FILE_ERRORS)
        return false;
    buf_addf(&text, "%s:%lld: ", file->rules.name, (long long)line);
    if (column)
        buf_addf(&text, "column %s: ", column);
    buf_adds(&text, why);
    file->bad[file->bad_count++] = (struct bad_line){line, xstrdup(buf_str(&text))};
    buf_release(&text);
    return file->bad_count < ROSTER_FILE_ERRORS;
}

static bool attribute_name(const char *name, size_t len)
{
    return len > 0 && len < FIELD_COLUMN_BYTES &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == len;
}

static bool has_column(const struct roster_file *file, enum column_kind kind)
{
    for (size_t i = 0; i < file->width; i++) {
        if (file->header[i].kind == kind)
            return true;
    }
    return false;
}

/* What is wrong with one name of the header, NULL: nothing; then *out is filled. */
static const char *header_name(const struct roster_file *file, const struct csv_cell *cell,
                               struct header_column *out)
{
    size_t len = cell->len;
    const char *name = trimmed(cell->text, &len);
    struct header_column column = {.kind = COLUMN_ATTRIBUTE};

    if (!len)
        return "has no name";
    if (memchr(name, '\0', len) || len >= sizeof(column.name))
        return "its name is not 1 to 63 of A-Z, a-z, 0-9 and _";
    memcpy(column.name, name, len);
    if (!attribute_name(column.name, len))
        return "its name is not 1 to 63 of A-Z, a-z, 0-9 and _";
    for (size_t i = 0; i < COLUMN_ATTRIBUTE; i++) {
        if (!strcmp(column.name, columns[i].name))
            column.kind = (enum column_kind)i;
        else if (!strcasecmp(column.name, columns[i].name))
            return "is to be written in small letters";
    }
    for (size_t i = 0; i < file->width; i++) {
        if (!strcasecmp(file->header[i].name, column.name))
            return "stands twice";
    }
    *out = column;
    return NULL;
}

static bool read_header(struct roster_file *file, const struct csv_record *record)
{
    for (size_t i = 0; i < record->count; i++) {
        const char *why = header_name(file, &record->cells[i], &file->header[i]);
        char place[24];

        if (why) {
            snprintf(place, sizeof(place), "%zu", i + 1);
            bad(file, record->line, place, why);
            return false;
        }
        file->width++;
    }
    if (!has_column(file, COLUMN_ID)) {
        bad(file, record->line, "id", "is missing: every roster has it");
        return false;
    }
    return true;
}

/* C0, DEL or C1; with `lines`, line breaks and tabs are none. The text is valid UTF-8. */
static bool has_control(const char *text, size_t len, bool lines)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (lines && (c == '\n' || c == '\r' || c == '\t'))
            continue;
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0))
            return true;
    }
    return false;
}

/* What is wrong with a cell by itself; NULL: nothing. */
static const char *cell_wrong(enum column_kind kind, const char *text, size_t len)
{
    if (memchr(text, '\0', len))
        return "holds a NUL";
    if (!utf8_valid(text, len))
        return "is not UTF-8";
    if (len > columns[kind].most)
        return "is too long";
    if (has_control(text, len, columns[kind].lines))
        return "holds a control character";
    if (kind == COLUMN_HASH && len && !password_hash_supported(text))
        return "is no hash that is supported (yescrypt, bcrypt, sha512crypt)";
    if (kind == COLUMN_HASH && len && !password_hash_complete(text))
        return "is not a whole hash";
    return NULL;
}

/* Copies the record's cells into one block, trimmed (but for passwords), and checks each. */
static bool take_cells(struct roster_file *file, const struct csv_record *record, struct line *line)
{
    size_t bytes = file->width * sizeof(char *);
    char *at;

    for (size_t i = 0; i < record->count; i++)
        bytes += record->cells[i].len + 1;
    line->cells = xcalloc(1, bytes);
    line->bytes = bytes;
    at = (char *)(line->cells + file->width);
    for (size_t i = 0; i < file->width; i++) {
        enum column_kind kind = file->header[i].kind;
        size_t len = record->cells[i].len;
        const char *text = record->cells[i].text, *why;

        if (kind != COLUMN_PASSWORD)
            text = trimmed(text, &len);
        memcpy(at, text, len);
        why = cell_wrong(kind, at, len);
        if (why) {
            bad(file, record->line, file->header[i].name, why);
            return false;
        }
        line->cells[i] = len ? at : NULL;
        at += len + 1;
    }
    return true;
}

static char *cell_of(const struct roster_file *file, const struct line *line, enum column_kind kind)
{
    for (size_t i = 0; i < file->width; i++) {
        if (file->header[i].kind == kind)
            return line->cells[i];
    }
    return NULL;
}

static enum clock_error read_time(struct roster_file *file, const char *text, int64_t *ms)
{
    struct known_time *known;
    enum clock_error error;
    unsigned slot = 5381;

    for (const char *c = text; *c; c++)
        slot = slot * 33 + (unsigned char)*c;
    known = &file->times[slot % TIMES_KEPT];
    if (strlen(text) >= sizeof(known->text))
        return CLOCK_SYNTAX;
    if (!strcmp(known->text, text)) {
        *ms = known->ms;
        return CLOCK_OK;
    }
    error = clock_parse(text, file->rules.zone, ms);
    if (!error && *ms <= 0)
        error = CLOCK_SYNTAX;
    if (!error) {
        snprintf(known->text, sizeof(known->text), "%s", text);
        known->ms = *ms;
    }
    return error;
}

static bool take_times(struct roster_file *file, struct line *line)
{
    static const enum column_kind kinds[] = {COLUMN_OPENS, COLUMN_CLOSES};
    int64_t *into[] = {&line->opens_ms, &line->closes_ms};

    for (size_t i = 0; i < 2; i++) {
        const char *text = cell_of(file, line, kinds[i]);
        enum clock_error error = text ? read_time(file, text, into[i]) : CLOCK_OK;

        if (error) {
            bad(file, line->number, columns[kinds[i]].name, clock_error_text(error));
            return false;
        }
    }
    if (line->opens_ms && line->closes_ms && line->closes_ms <= line->opens_ms) {
        bad(file, line->number, "closes", "is not after opens");
        return false;
    }
    return true;
}

/* The candidate's JSON, made compact: what a reply gets is one line. */
static bool take_data(struct roster_file *file, struct line *line)
{
    const char *text = cell_of(file, line, COLUMN_DATA);
    struct json_doc *doc = NULL;
    struct buf compact = BUF_INIT;

    if (!text)
        return true;
    if (json_parse_any(text, strlen(text), &doc)) {
        bad(file, line->number, columns[COLUMN_DATA].name, "is not JSON");
        return false;
    }
    json_write(&compact, json_root(doc), false);
    line->data = xstrdup(buf_str(&compact));
    buf_release(&compact);
    json_free(doc);
    return true;
}

/* What is wrong with the cells taken together; NULL: nothing, the line's texts are set. *column is to blame.
 */
static const char *take_texts(struct roster_file *file, struct line *line, const char **column)
{
    *column = "id";
    line->id = cell_of(file, line, COLUMN_ID);
    if (!line->id)
        return "is empty";
    *column = "exam";
    line->exam = cell_of(file, line, COLUMN_EXAM);
    if (file->rules.exam && line->exam && strcmp(line->exam, file->rules.exam))
        return "is another one than --exam says";
    if (file->rules.exam)
        line->exam = file->rules.exam;
    *column = CONFIG_SECRET_COLUMN;
    line->hash = cell_of(file, line, COLUMN_HASH);
    line->password = cell_of(file, line, COLUMN_PASSWORD);
    if (line->hash && line->password)
        return "and password_hash are both given";
    if (line->password && !strcmp(file->rules.hash, "bcrypt") && strlen(line->password) > BCRYPT_BYTES)
        return "is too long: bcrypt takes 72 bytes";
    return NULL;
}

static void line_release(struct line *line)
{
    if (line->cells)
        explicit_bzero(line->cells, line->bytes);
    free(line->cells);
    wipe_free(line->made);
    free(line->data);
}

static bool take_line(struct roster_file *file, const struct csv_record *record, struct line *line)
{
    const char *column, *why;
    char text[80];

    if (record->count != file->width) {
        snprintf(text, sizeof(text), "%zu cells, where the header has %zu columns", record->count,
                 file->width);
        bad(file, record->line, NULL, text);
        return false;
    }
    if (!take_cells(file, record, line))
        return false;
    why = take_texts(file, line, &column);
    if (why) {
        bad(file, record->line, column, why);
        return false;
    }
    return take_data(file, line) && take_times(file, line);
}

static bool spaced(const char *password)
{
    size_t len = strlen(password), inner = len;

    trimmed(password, &inner);
    return inner != len;
}

static bool record_read(void *context, const struct csv_record *record)
{
    struct roster_file *file = context;
    struct line line = {.number = record->line};

    if (!file->width)
        return read_header(file, record);
    if (!take_line(file, record, &line)) {
        line_release(&line);
        return file->bad_count < ROSTER_FILE_ERRORS;
    }
    if (file->count == file->room) {
        file->room = file->room ? file->room * 2 : 1024;
        file->lines = xrealloc(file->lines, file->room * sizeof(*file->lines));
    }
    file->lines[file->count++] = line;
    file->spaced += line.password && spaced(line.password);
    return file->count < ROSTER_FILE_LINES_MAX || bad(file, record->line, NULL, "too many lines");
}

static int compare_exams(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : ""); /* "" is no exam's name: an empty cell is NULL */
}

static int compare_lines(const void *a, const void *b)
{
    const struct line *x = *(struct line *const *)a, *y = *(struct line *const *)b;
    int order = strcmp(x->id, y->id);

    if (!order)
        order = compare_exams(x->exam, y->exam);
    return order ? order : (x->number > y->number) - (x->number < y->number);
}

/* Sorts the lines, so that repeats stand together: each is named with the line it repeats. */
static void find_repeats(struct roster_file *file)
{
    char text[96];

    file->sorted = xcalloc(file->count ? file->count : 1, sizeof(struct line *));
    for (size_t i = 0; i < file->count; i++)
        file->sorted[i] = &file->lines[i];
    qsort(file->sorted, file->count, sizeof(struct line *), compare_lines);
    file->candidates = file->count > 0;
    for (size_t i = 1; i < file->count; i++) {
        const struct line *before = file->sorted[i - 1], *line = file->sorted[i];

        if (strcmp(before->id, line->id)) {
            file->candidates++;
        } else if (!compare_exams(before->exam, line->exam)) {
            snprintf(text, sizeof(text), "the same id and exam stand on line %lld",
                     (long long)before->number);
            bad(file, line->number, "id", text);
        }
    }
}

static int compare_bad(const void *a, const void *b)
{
    const struct bad_line *x = a, *y = b;

    return (x->line > y->line) - (x->line < y->line);
}

static void report(struct roster_file *file, struct buf *errors)
{
    qsort(file->bad, file->bad_count, sizeof(file->bad[0]), compare_bad);
    for (size_t i = 0; i < file->bad_count; i++)
        buf_addf(errors, "%s\n", file->bad[i].text);
    if (file->bad_count == ROSTER_FILE_ERRORS)
        buf_addf(errors, "%s: there may be more\n", file->rules.name);
}

static void note_malformed(struct roster_file *file, int64_t line, size_t cell, const char *why)
{
    char place[24];

    snprintf(place, sizeof(place), "%zu", cell);
    bad(file, line, cell <= file->width ? file->header[cell - 1].name : place, why);
}

bool roster_file_read(int fd, const struct roster_file_rules *rules, struct roster_file **out,
                      struct buf *errors)
{
    struct roster_file *file = xcalloc(1, sizeof(*file));
    int64_t line;
    size_t cell;
    const char *why;

    file->rules = *rules;
    switch (csv_read(fd, record_read, file, &line, &cell, &why)) {
    case CSV_UNREADABLE:
        bad(file, 1, NULL, strerror(errno));
        break;
    case CSV_MALFORMED:
        note_malformed(file, line, cell, why);
        break;
    case CSV_DONE:
        if (!file->width)
            bad(file, 1, NULL, "the header line is missing");
        break;
    case CSV_STOPPED:
        break;
    }
    find_repeats(file);
    if (file->bad_count) {
        report(file, errors);
        roster_file_free(file);
        return false;
    }
    *out = file;
    return true;
}

void roster_file_free(struct roster_file *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->count; i++)
        line_release(&file->lines[i]);
    for (size_t i = 0; i < file->bad_count; i++)
        free(file->bad[i].text);
    free(file->lines);
    free(file->sorted);
    free(file);
}

struct hashing {
    const char *kind;
    struct line **work;
    size_t count;
    atomic_size_t next, done;
    atomic_bool failed;
};

static void *hash_some(void *context)
{
    struct hashing *h = context;
    char hash[PASSWORD_HASH_BYTES];
    size_t i;

    while ((i = atomic_fetch_add(&h->next, 1)) < h->count && !atomic_load(&h->failed)) {
        if (password_make(h->kind, h->work[i]->password, hash))
            h->work[i]->made = xstrdup(hash);
        else
            atomic_store(&h->failed, true);
        atomic_fetch_add(&h->done, 1);
    }
    explicit_bzero(hash, sizeof(hash));
    return NULL;
}

/* Which passwords to hash: one for a candidate's lines that have the same. */
static size_t choose_work(struct roster_file *file, struct line **work)
{
    size_t count = 0, first = 0;

    for (size_t i = 0; i < file->count; i++) {
        struct line *line = file->sorted[i];

        if (strcmp(file->sorted[first]->id, line->id))
            first = i;
        if (!line->password)
            continue;
        for (size_t j = first; j < i && j < first + 16 && !line->as; j++) {
            const struct line *other = file->sorted[j];

            if (other->password && !other->as && !strcmp(other->password, line->password))
                line->as = other;
        }
        if (!line->as)
            work[count++] = line;
    }
    return count;
}

static void run_threads(struct hashing *h, FILE *terminal)
{
    struct progress progress;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t wanted = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (size_t)cores, started = 0;
    pthread_t threads[THREADS_MAX];

    progress_begin(&progress, terminal, "hashing passwords", (int64_t)h->count);
    while (started < wanted && !pthread_create(&threads[started], NULL, hash_some, h))
        started++;
    if (!started)
        hash_some(h);
    while (atomic_load(&h->done) < h->count && !atomic_load(&h->failed)) {
        progress_at(&progress, (int64_t)atomic_load(&h->done));
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    }
    while (started)
        pthread_join(threads[--started], NULL);
    progress_end(&progress);
}

bool roster_file_hash(struct roster_file *file, FILE *terminal, struct buf *errors)
{
    struct hashing h = {.kind = file->rules.hash};

    h.work = xcalloc(file->count ? file->count : 1, sizeof(struct line *));
    h.count = choose_work(file, h.work);
    if (h.count)
        run_threads(&h, terminal);
    for (size_t i = 0; i < file->count; i++) {
        struct line *line = &file->lines[i];

        if (!line->password)
            continue;
        line->hash = line->as ? line->as->made : line->made;
        explicit_bzero(line->password, strlen(line->password));
        line->password = NULL;
    }
    free(h.work);
    if (atomic_load(&h.failed))
        buf_addf(errors, "%s: crypt(3) made no %s hash of a password\n", file->rules.name, file->rules.hash);
    return !atomic_load(&h.failed);
}

size_t roster_file_lines(const struct roster_file *file)
{
    return file->count;
}

size_t roster_file_candidates(const struct roster_file *file)
{
    return file->candidates;
}

size_t roster_file_spaced_passwords(const struct roster_file *file)
{
    return file->spaced;
}

bool roster_file_has(const struct roster_file *file, const char *id, const char *exam)
{
    size_t low = 0, high = file->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(file->sorted[middle]->id, id);

        if (!order)
            order = compare_exams(file->sorted[middle]->exam, exam);
        if (!order)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

const struct candidate *roster_file_at(struct roster_file *file, size_t i)
{
    const struct line *line = &file->lines[i];
    struct candidate *c = &file->candidate;

    *c = (struct candidate){.account = file->rules.account,
                            .id = line->id,
                            .email = cell_of(file, line, COLUMN_EMAIL),
                            .name = cell_of(file, line, COLUMN_NAME),
                            .password_hash = line->hash,
                            .photo = cell_of(file, line, COLUMN_PHOTO),
                            .about = cell_of(file, line, COLUMN_ABOUT),
                            .data = line->data,
                            .exam = line->exam,
                            .opens_ms = line->opens_ms,
                            .closes_ms = line->closes_ms,
                            .attributes = file->attributes};
    for (size_t k = 0; k < file->width; k++) {
        if (file->header[k].kind == COLUMN_ATTRIBUTE && line->cells[k])
            file->attributes[c->attribute_count++] =
                (struct candidate_attribute){file->header[k].name, line->cells[k]};
    }
    return c;
}
