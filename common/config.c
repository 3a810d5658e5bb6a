/*
 * Where the configuration is, and reading it into sections and checked values.
 *
 * inih splits "name = value" lines; what it would do silently is noticed before it sees a line: it cuts
 * lines that are longer than its buffer and section names that are longer than 49 bytes, says nothing of a
 * section without options, cuts a value at " ;" and takes an indented line for more of the value before it.
 */
#include "config_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/etc/examhook/examhook.conf"
#define FILE_MOST ((size_t)1024 * 1024)
#define LINE_MOST (INI_MAX_LINE - 3) /* beside \r, \n and NUL */
#define NAME_MOST 40                 /* what may be repeated of a line that is no option */
#define ACCOUNT_MOST 64
#define POSITION_MOST 999
#define BOM "\xef\xbb\xbf"

/* --- Where it is ---------------------------------------------------------------------------------------- */

static char *in_folder(const char *folder)
{
    struct buf path = BUF_INIT;
    char *result;
    buf_addf(&path, "%s%sexamhook/examhook.conf", folder, strcmp(folder, "/") == 0 ? "" : "/");
    result = xstrdup(path.data);
    buf_release(&path);
    return result;
}

static char *beside_document_root(void)
{
    const char *root = getenv("DOCUMENT_ROOT");
    char *copy, *path;
    if (!root || root[0] != '/')
        return NULL;
    copy = xstrdup(root);
    path = in_folder(dirname(copy));
    free(copy);
    if (access(path, F_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* Root has no home on a host, and what others put in its way is not to be believed. */
static bool is_ours(const char *path, struct stat *st)
{
    return geteuid() != 0 && lstat(path, st) == 0 && st->st_uid == geteuid();
}

static bool is_our_file(const char *path)
{
    struct stat st;
    return is_ours(path, &st) && S_ISREG(st.st_mode);
}

/* Else somebody who may make a folder there (in /tmp, say) could change the file once it was looked at. */
static bool is_in_our_folder(const char *path)
{
    char *copy = xstrdup(path);
    struct stat st;
    bool ours = is_ours(dirname(copy), &st);
    free(copy);
    return ours;
}

/* mod_fcgid names no document root when it starts a program, and cron names nothing at all: but the program
   lies in the customer's own folder. */
static char *above_program(void)
{
    char *folder = xcalloc(1, PATH_MAX + 1), *path;
    ssize_t len = readlink("/proc/self/exe", folder, PATH_MAX);
    char *slash = len > 0 && folder[0] == '/' ? strrchr(folder, '/') : NULL;
    while (slash) {
        *slash = '\0';
        path = in_folder(folder[0] ? folder : "/");
        if (is_our_file(path) && is_in_our_folder(path)) {
            free(folder);
            return path;
        }
        free(path);
        slash = strrchr(folder, '/');
    }
    free(folder);
    return NULL;
}

char *config_find(const char *option)
{
    const char *environment = getenv("EXAMHOOK_CONF");
    char *found;
    if (option)
        return xstrdup(option);
    if (environment && environment[0] != '\0')
        return xstrdup(environment);
    found = beside_document_root();
    if (!found)
        found = above_program();
    return found ? found : xstrdup(DEFAULT_PATH);
}

static bool is_same_file(const char *path, const struct stat *file)
{
    struct stat st;
    return path && is_our_file(path) && lstat(path, &st) == 0 && st.st_dev == file->st_dev &&
           st.st_ino == file->st_ino;
}

/* However it was named: a cron line may well say --config. */
static bool is_personal(const struct stat *file)
{
    char *beside = beside_document_root(), *above = above_program();
    bool personal = is_same_file(beside, file) || is_same_file(above, file);
    free(beside);
    free(above);
    return personal;
}

/* --- Refusing ------------------------------------------------------------------------------------------- */

bool config_refuse(struct buf *why, const char *path, int line, const char *format, ...)
{
    va_list args;
    char *text = NULL;
    buf_clear(why);
    if (line > 0)
        buf_addf(why, "%s:%d: ", path, line);
    else
        buf_addf(why, "%s: ", path);
    va_start(args, format);
    if (vasprintf(&text, format, args) >= 0)
        buf_adds(why, text);
    va_end(args);
    wipe_free(text);
    return false;
}

/* --- One file being read -------------------------------------------------------------------------------- */

struct reading {
    struct config_source *source;
    struct buf *why;
    const char *next, *end; /* what is left of the file */
    const char *line;       /* the line inih works on */
    size_t line_len;
    int number;
    bool failed;
    int failed_line;
};

static bool fail(struct reading *r)
{
    r->failed = true;
    r->failed_line = r->number;
    return false;
}

/* Whether it may be shown where it is no option: it may be a piece of a secret that somebody pasted over
   several lines. Base64 hardly ever keeps to small or to capital letters. */
static bool looks_like_name(const char *text)
{
    bool small = false, capital = false;
    const char *p;
    for (p = text; *p; p++) {
        small = small || (*p >= 'a' && *p <= 'z');
        capital = capital || (*p >= 'A' && *p <= 'Z');
    }
    return !(small && capital) && config_is_word(text, NAME_MOST, false);
}

#define REFUSE(r, ...) (config_refuse((r)->why, (r)->source->path, (r)->number, __VA_ARGS__), fail(r))

static struct config_section *current_section(struct reading *r)
{
    return r->source->count > 0 ? &r->source->sections[r->source->count - 1] : NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Where inih would begin a comment: a ';' with white space before it. NULL: nowhere. */
static const char *find_comment(const char *text, size_t len)
{
    size_t i;
    for (i = 1; i < len; i++) {
        if (text[i] == ';' && is_blank(text[i - 1]))
            return text + i;
    }
    return NULL;
}

/* --- Section headers ------------------------------------------------------------------------------------ */

/* The next word of *text (moving it on), allocated; NULL: there is none. */
static char *take_word(const char **text)
{
    const char *start = *text + strspn(*text, " \t");
    size_t len = strcspn(start, " \t");
    *text = start + len;
    return len > 0 ? xstrndup(start, len) : NULL;
}

static bool is_account_kind(const char *kind)
{
    return strcmp(kind, "examjoint") == 0 || strcmp(kind, "proview") == 0;
}

static bool is_table_section(const char *kind)
{
    const struct config_option *o;
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, kind) == 0)
            return true;
    }
    return false;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool refuse_repeated(struct reading *r, const struct config_section *section)
{
    const struct config_source *source = r->source;
    size_t i;
    for (i = 0; i + 1 < source->count; i++) {
        const struct config_section *other = &source->sections[i];
        if (same_text(other->kind, section->kind) && same_text(other->account, section->account) &&
            same_text(other->exam, section->exam))
            return REFUSE(r, "this section stands in line %d already", other->line);
    }
    return true;
}

/* "fields", "fields EXAM": what follows the word `fields`. */
static void set_exam(struct config_section *section, const char *rest)
{
    size_t len = strlen(rest);
    const char *exam = trimmed(rest, &len);
    if (len > 0)
        section->exam = xstrndup(exam, len);
}

static bool set_account(struct reading *r, struct config_section *section, const char *rest)
{
    char *word;
    section->account = take_word(&rest);
    if (!section->account)
        return REFUSE(r, "[%s] needs the account's name: [%s NAME]", section->kind, section->kind);
    if (!config_is_word(section->account, ACCOUNT_MOST, true))
        return REFUSE(r, "an account's name has 1 to %d letters, digits, _ or -", ACCOUNT_MOST);
    word = take_word(&rest);
    if (!word)
        return true;
    if (strcmp(section->kind, "examjoint") != 0 || strcmp(word, CONFIG_FIELDS_SECTION) != 0) {
        free(word);
        return REFUSE(r, "unknown section: [%s NAME] has nothing of that kind behind the name",
                      section->kind);
    }
    free(section->kind);
    section->kind = word;
    set_exam(section, rest);
    return true;
}

static bool open_section(struct reading *r, const char *header)
{
    struct config_source *source = r->source;
    struct config_section *section;
    const char *rest = header;
    source->sections = xrealloc(source->sections, (source->count + 1) * sizeof *source->sections);
    section = &source->sections[source->count++];
    *section = (struct config_section){.line = r->number};
    section->kind = take_word(&rest);
    if (!section->kind)
        return REFUSE(r, "a section without a name");
    if (strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0) {
        set_exam(section, rest);
    } else if (is_account_kind(section->kind)) {
        if (!set_account(r, section, rest))
            return false;
    } else if (!is_table_section(section->kind) || rest[strspn(rest, " \t")] != '\0') {
        return REFUSE(r, "unknown section [%s]", header);
    }
    return refuse_repeated(r, section);
}

/* A line that begins with '['. */
static bool read_header(struct reading *r)
{
    const char *close = memchr(r->line, ']', r->line_len);
    size_t behind;
    const char *text;
    char *header;
    bool good;
    if (!close || find_comment(r->line, (size_t)(close - r->line)))
        return REFUSE(r, "a section begins with [ and ends with ] on the same line");
    behind = r->line_len - (size_t)(close + 1 - r->line);
    text = trimmed(close + 1, &behind);
    if (behind > 0 && *text != ';' && *text != '#')
        return REFUSE(r, "something stands behind the ] of the section");
    header = xstrndup(r->line + 1, (size_t)(close - r->line - 1));
    good = open_section(r, header);
    free(header);
    return good;
}

/* --- Fields --------------------------------------------------------------------------------------------- */

/* Columns of the roster that describe a line of it and not a candidate: nothing a candidate could type. */
static bool is_reserved_column(const char *column)
{
    static const char *const reserved[] = {"password_hash", "photo", "about", "data",
                                           "exam",          "opens", "closes"};
    size_t i;
    for (i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
        if (strcmp(column, reserved[i]) == 0)
            return true;
    }
    return false;
}

static bool position_parse(const char *text, int *position)
{
    size_t len = strlen(text);
    if (len < 1 || len > 3 || strspn(text, "0123456789") != len)
        return false;
    *position = (int)strtol(text, NULL, 10);
    return true;
}

static bool check_field(struct reading *r, const struct field_map *map, int position, const char *column)
{
    int i;
    if (!config_is_word(column, FIELD_COLUMN_BYTES - 1, false))
        return REFUSE(r, "a column of the roster has 1 to %d letters, digits or _", FIELD_COLUMN_BYTES - 1);
    if (is_reserved_column(column))
        return REFUSE(r, "the column %s cannot be what a candidate types", column);
    for (i = 0; i < map->count; i++) {
        if (map->at[i].position == position)
            return REFUSE(r, "position %d is given twice", position);
        if (strcmp(map->at[i].column, column) == 0)
            return REFUSE(r, "the column %s is mapped twice", column);
    }
    if (map->count == FIELDS_MAX)
        return REFUSE(r, "more than %d positions", FIELDS_MAX);
    return true;
}

static bool read_field(struct reading *r, struct field_map *map, const char *name, const char *value)
{
    int position = 0, i;
    if (!position_parse(name, &position))
        return REFUSE(r, "a position is a number from 0 to %d: position = column", POSITION_MOST);
    if (!check_field(r, map, position, value))
        return false;
    /* Kept by position, so that the same mapping is the same whatever the order of its lines. */
    for (i = map->count; i > 0 && map->at[i - 1].position > position; i--)
        map->at[i] = map->at[i - 1];
    map->at[i].position = position;
    memset(map->at[i].column, 0, sizeof map->at[i].column);
    memcpy(map->at[i].column, value, strlen(value));
    map->count++;
    return true;
}

/* --- Options -------------------------------------------------------------------------------------------- */

const struct config_option *config_option_named(const char *section, const char *name)
{
    const struct config_option *o;
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, section) == 0 && strcmp(o->name, name) == 0)
            return o;
    }
    return NULL;
}

/* NAME_file or NAME_hex of a secret, else NULL. */
static const struct config_option *secret_option_named(const char *section, const char *name,
                                                       const char *suffix)
{
    const struct config_option *option;
    size_t len = strlen(name), cut = strlen(suffix);
    char *base;
    if (len <= cut || strcmp(name + len - cut, suffix) != 0)
        return NULL;
    base = xstrndup(name, len - cut);
    option = config_option_named(section, base);
    free(base);
    return option && option->type == CONFIG_SECRET_VALUE ? option : NULL;
}

/* The value of an inline secret is what stands in the line, so inih must not have cut it. */
static bool check_uncut(struct reading *r, const char *name)
{
    const char *end = r->line + r->line_len, *p = r->line;
    while (p < end && *p != '=' && *p != ':')
        p++;
    if (p < end && find_comment(p, (size_t)(end - p)))
        return REFUSE(
            r,
            "%s: the value would end at \" ;\", where a comment begins; put the comment on a line of "
            "its own, or the secret into a file and say %s_file = PATH",
            name, name);
    return true;
}

static bool check_value(struct reading *r, const struct config_value *value, const char *name)
{
    struct buf reason = BUF_INIT;
    bool good;
    if (value->form == CONFIG_FROM_FILE) {
        good = value->text[0] != '\0';
        if (!good)
            buf_adds(&reason, "has no value");
    } else {
        /* What a NAME_hex says is whole only behind its last line: config_source_check() */
        good = value->form == CONFIG_HEX || config_value_check(value->option, value->text, &reason);
    }
    if (!good)
        REFUSE(r, "%s: %s", name, buf_str(&reason));
    buf_release(&reason);
    return good;
}

static bool refuse_twice(struct reading *r, const struct config_value *other, enum config_form form,
                         const char *name)
{
    static const char *const endings[] = {"", "_file", "_hex"};
    enum config_form first = other->form < form ? other->form : form;
    enum config_form last = other->form < form ? form : other->form;
    if (first == last)
        return REFUSE(r, "%s is given twice, first in line %d", name, other->line);
    return REFUSE(r, "%s%s and %s%s are both given (line %d): leave one of them out", other->option->name,
                  endings[first], other->option->name, endings[last], other->line);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The bytes behind those that are there already. */
static bool append_hex(struct reading *r, struct config_value *value, const char *name, const char *digits)
{
    struct buf bytes = BUF_INIT;
    bool good = digits[0] != '\0';
    buf_adds(&bytes, value->text);
    for (; good && *digits; digits += 2) {
        int high = hex_digit(digits[0]), low = high < 0 ? -1 : hex_digit(digits[1]);
        good = low >= 0 && high + low > 0;
        if (good)
            buf_addc(&bytes, (char)(high * 16 + low));
    }
    if (good) {
        wipe_free(value->text);
        value->text = xstrdup(buf_str(&bytes));
    }
    buf_release(&bytes);
    return good || REFUSE(r, "%s takes bytes, two hexadecimal digits for each, none of them 00", name);
}

/* What the name stands for: an option, or the NAME_file or NAME_hex of a secret. */
static const struct config_option *option_of(const char *section, const char *name, enum config_form *form)
{
    const struct config_option *option = config_option_named(section, name);
    *form = CONFIG_PLAIN;
    if (!option) {
        *form = CONFIG_FROM_FILE;
        option = secret_option_named(section, name, "_file");
    }
    if (!option) {
        *form = CONFIG_HEX;
        option = secret_option_named(section, name, "_hex");
    }
    return option;
}

/* The same of a section that is still being read. */
static struct config_value *value_being_read(struct config_section *section, const char *name)
{
    const struct config_value *value = config_section_value(section, name);
    return value ? &section->values[value - section->values] : NULL;
}

static bool refuse_unknown(struct reading *r, const struct config_section *section, const char *name)
{
    if (!looks_like_name(name))
        return REFUSE(r, "this line is no option of [%s]", section->kind);
    return REFUSE(r, "unknown option %s in [%s]", name, section->kind);
}

static bool read_option(struct reading *r, struct config_section *section, const char *name, const char *text)
{
    enum config_form form;
    const struct config_option *option = option_of(section->kind, name, &form);
    struct config_value *value;
    if (!option)
        return refuse_unknown(r, section, name);
    value = value_being_read(section, option->name);
    if (value && (form != CONFIG_HEX || value->form != CONFIG_HEX))
        return refuse_twice(r, value, form, name);
    if (option->type == CONFIG_SECRET_VALUE && form != CONFIG_FROM_FILE) {
        r->source->holds_secret = true;
        if (!check_uncut(r, name))
            return false;
    }
    if (!value) {
        section->values = xrealloc(section->values, (section->count + 1) * sizeof *section->values);
        value = &section->values[section->count++];
        *value = (struct config_value){.option = option, .form = form, .line = r->number};
        value->text = xstrdup(form == CONFIG_HEX ? "" : text);
    }
    if (form == CONFIG_HEX && !append_hex(r, value, name, text))
        return false;
    return check_value(r, value, name);
}

/* --- inih ----------------------------------------------------------------------------------------------- */

static int on_value(void *context, const char *cut_section, const char *name, const char *value)
{
    struct reading *r = context;
    struct config_section *section = current_section(r);
    (void)cut_section; /* inih keeps 49 bytes of it; read_header() has the whole */
    if (r->failed)
        return 0;
    if (!section)
        return looks_like_name(name) ? REFUSE(r, "%s stands before any [section]", name)
                                     : REFUSE(r, "this line stands before any [section]");
    if (strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0)
        return read_field(r, &section->map, name, value);
    return read_option(r, section, name, value);
}

/* The next line of the file into r->line, without its end. False at the end of the file. */
static bool next_line(struct reading *r)
{
    const char *newline;
    if (r->next >= r->end)
        return false;
    newline = memchr(r->next, '\n', (size_t)(r->end - r->next));
    r->line = r->next;
    r->line_len = (size_t)((newline ? newline : r->end) - r->next);
    r->next = newline ? newline + 1 : r->end;
    if (r->line_len > 0 && r->line[r->line_len - 1] == '\r')
        r->line_len--;
    r->number++;
    return true;
}

static bool has_control(const char *text, size_t len)
{
    size_t i;
    for (i = 0; i < len; i++) {
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
            return true;
    }
    return false;
}

bool config_fits_line(const char *line)
{
    size_t len = strlen(line);
    return len <= LINE_MOST && !has_control(line, len) && !find_comment(line, len) && !is_blank(line[0]) &&
           !is_blank(line[len - (len > 0)]);
}

/* What is wrong with a line that inih would not say. *nothing: a blank line, a comment or a header. */
static bool check_line(struct reading *r, bool *nothing)
{
    size_t len = r->line_len;
    const char *text = trimmed(r->line, &len);
    *nothing = len == 0 || *text == ';' || *text == '#';
    if (*nothing)
        return true;
    if (has_control(r->line, r->line_len))
        return REFUSE(r, "a control character in this line");
    if (is_blank(r->line[0]))
        return REFUSE(r, "the line begins with white space: a value stands on one line, and every line "
                         "begins at its margin");
    if (r->line_len > LINE_MOST)
        return REFUSE(
            r, "the line is longer than %d bytes (a long secret can stand in a file: NAME_file = PATH)",
            LINE_MOST);
    if (r->line[0] != '[')
        return true;
    *nothing = true;
    return read_header(r);
}

/* Like fgets(). Headers and comments are dealt with here; inih gets an empty line, so that it counts on. */
static char *read_line(char *into, int size, void *context)
{
    struct reading *r = context;
    bool nothing;
    if (r->failed || !next_line(r) || !check_line(r, &nothing))
        return NULL;
    if (nothing || r->line_len + 2 > (size_t)size) {
        memcpy(into, "\n", 2);
        return into;
    }
    memcpy(into, r->line, r->line_len);
    memcpy(into + r->line_len, "\n", 2);
    return into;
}

static bool parse(struct config_source *source, const struct buf *file, struct buf *why)
{
    struct reading r = {.source = source, .why = why, .next = buf_str(file), .line = ""};
    int error_line;
    r.end = r.next + file->len;
    if (file->len >= strlen(BOM) && memcmp(r.next, BOM, strlen(BOM)) == 0)
        r.next += strlen(BOM);
    error_line = ini_parse_stream(read_line, &r, on_value, &r);
    if (error_line > 0 && (!r.failed || error_line < r.failed_line))
        return config_refuse(why, source->path, error_line, "neither a [section] nor an option = value");
    if (error_line < 0 && !r.failed)
        return config_refuse(why, source->path, 0, "out of memory");
    return !r.failed;
}

/* --- The file ------------------------------------------------------------------------------------------- */

static bool read_file(struct config_source *source, struct buf *file, struct buf *why)
{
    struct stat st;
    bool good = true;
    int fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return config_refuse(why, source->path, 0, "cannot be opened: %s", strerror(errno));
    if (fstat(fd, &st) != 0)
        good = config_refuse(why, source->path, 0, "cannot be looked at: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        good = config_refuse(why, source->path, 0, "is not a file");
    else if (!buf_read(file, fd, FILE_MOST))
        good = config_refuse(why, source->path, 0, "cannot be read: %s", strerror(errno));
    if (good) {
        source->mode = st.st_mode;
        source->changed_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
        source->personal = is_personal(&st);
    }
    close(fd);
    return good;
}

static char *folder_of(const char *path)
{
    char *copy = xstrdup(path), *folder = realpath(dirname(copy), NULL);
    free(copy);
    return folder ? folder : xstrdup(".");
}

static bool check_mode(const struct config_source *source, struct buf *why)
{
    if (source->personal && (source->mode & (S_IRWXG | S_IRWXO)))
        return config_refuse(
            why, source->path, 0,
            "is open to its group or others (mode %04o), which on a shared host may be every "
            "customer: run chmod go-rwx %s",
            source->mode & 07777U, source->path);
    if (source->holds_secret && (source->mode & S_IRWXO))
        return config_refuse(why, source->path, 0,
                             "holds secrets and is open to every user (mode %04o): run chmod o-rwx %s",
                             source->mode & 07777U, source->path);
    if (source->mode & S_IWOTH)
        return config_refuse(why, source->path, 0,
                             "can be written by every user (mode %04o): run chmod o-w %s",
                             source->mode & 07777U, source->path);
    return true;
}

bool config_source_read(const char *path, struct config_source *source, struct buf *why)
{
    struct buf file = BUF_INIT;
    bool good;
    *source = (struct config_source){.path = xstrdup(path), .folder = folder_of(path)};
    good = read_file(source, &file, why) && parse(source, &file, why) && check_mode(source, why) &&
           config_source_check(source, why);
    buf_release(&file);
    return good;
}

void config_source_release(struct config_source *source)
{
    size_t i, j;
    for (i = 0; i < source->count; i++) {
        struct config_section *section = &source->sections[i];
        for (j = 0; j < section->count; j++)
            wipe_free(section->values[j].text);
        free(section->values);
        free(section->kind);
        free(section->account);
        free(section->exam);
    }
    free(source->sections);
    free(source->folder);
    free(source->path);
}

const struct config_section *config_source_section(const struct config_source *source, const char *kind)
{
    size_t i;
    for (i = 0; i < source->count; i++) {
        if (strcmp(source->sections[i].kind, kind) == 0 && !source->sections[i].account)
            return &source->sections[i];
    }
    return NULL;
}

const struct config_value *config_section_value(const struct config_section *section, const char *name)
{
    size_t i;
    for (i = 0; section && i < section->count; i++) {
        if (strcmp(section->values[i].option->name, name) == 0)
            return &section->values[i];
    }
    return NULL;
}

const char *config_effective(const struct config_section *section, const struct config_option *option)
{
    const struct config_value *value = config_section_value(section, option->name);
    return value ? value->text : option->fallback;
}
