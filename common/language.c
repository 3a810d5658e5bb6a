#include "language.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"

#define CODE_MIN 2
#define CODE_MAX 16
#define SUFFIX ".txt"
#define FILE_MAX_BYTES ((size_t)64 * 1024)
#define BUILT_IN_CODE "en"
#define SECONDS "{seconds}"
#define VERDICTS (ROSTER_BUSY + 1)

/* What may stand in a file: the key, its verdict, and the English text for where there is no file. */
static const struct text {
    const char *key;
    enum roster_verdict verdict;
    const char *english;
} texts[] = {
    {"unknown", ROSTER_UNKNOWN,
     "We could not find you with these details. Please check what you entered and try again."},
    {"other_exam", ROSTER_OTHER_EXAM,
     "You are not registered for this exam. Please check that you opened the right exam, or contact the "
     "organisers."},
    {"not_open", ROSTER_NOT_OPEN,
     "This exam is not open for you yet. Please come back at your scheduled time."},
    {"closed", ROSTER_CLOSED, "The time for this exam is over. Please contact the organisers."},
    {"fields_mapping", ROSTER_FIELDS_MAPPING,
     "Your details cannot be checked, because this exam is not set up completely. Please contact the "
     "organisers."},
    {"wait", ROSTER_THROTTLED,
     "There were too many failed attempts. Please wait {seconds} seconds, then try again."},
    {"busy", ROSTER_BUSY,
     "Very many candidates are signing in at the moment. Please try again in {seconds} seconds."},
};
#define TEXTS (sizeof texts / sizeof *texts)

struct language {
    char *code; /* as the file is called */
    char *text[VERDICTS];
};

struct languages {
    struct language *list;
    size_t count;
    const struct language *fallback; /* NULL: what is built in */
};

/* --- Reading a file ------------------------------------------------------------------------------------- */

/* Where a complaint belongs to: "PATH:LINE: ". */
static bool refuse(struct buf *why, const char *path, size_t line, const char *what)
{
    buf_adds(why, path);
    if (line)
        buf_addf(why, ":%zu", line);
    buf_addf(why, ": %s", what);
    return false;
}

static const struct text *text_of_key(const char *key, size_t len)
{
    for (size_t i = 0; i < TEXTS; i++)
        if (strlen(texts[i].key) == len && memcmp(texts[i].key, key, len) == 0)
            return &texts[i];
    return NULL;
}

static bool read_line(struct language *language, const char *path, size_t number, const char *line,
                      size_t len, struct buf *why)
{
    const struct text *text;
    const char *equals, *value;
    size_t key_len, value_len;
    if (!utf8_valid(line, len))
        return refuse(why, path, number, "not valid UTF-8");
    line = trimmed(line, &len);
    if (len == 0 || *line == '#')
        return true;
    equals = memchr(line, '=', len);
    if (!equals)
        return refuse(why, path, number, "expected \"key = text\"");
    key_len = (size_t)(equals - line);
    value = equals + 1;
    value_len = len - key_len - 1;
    line = trimmed(line, &key_len);
    value = trimmed(value, &value_len);
    text = text_of_key(line, key_len);
    if (!text) {
        refuse(why, path, number, "unknown key \"");
        buf_add(why, line, key_len);
        buf_addc(why, '"');
        return false;
    }
    if (language->text[text->verdict])
        return refuse(why, path, number, "this key stands in the file twice");
    if (value_len == 0)
        return refuse(why, path, number, "the text is missing");
    if (text->verdict == ROSTER_THROTTLED && !memmem(value, value_len, SECONDS, strlen(SECONDS)))
        return refuse(why, path, number, "the text needs {seconds}, where the number goes");
    language->text[text->verdict] = xstrndup(value, value_len);
    return true;
}

static bool read_lines(struct language *language, const char *path, const char *text, size_t len,
                       struct buf *why)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* some editors put a byte order mark in front */
    size_t number = 0;
    if (len >= 3 && memcmp(text, mark, 3) == 0) {
        text += 3;
        len -= 3;
    }
    while (len) {
        const char *end = memchr(text, '\n', len);
        size_t line = end ? (size_t)(end - text) : len;
        if (!read_line(language, path, ++number, text, line, why))
            return false;
        line += end != NULL;
        text += line;
        len -= line;
    }
    return true;
}

/* All of a regular file, if it is small enough to be one of texts. */
static bool read_file(const char *path, struct buf *content, struct buf *why)
{
    struct stat st;
    bool done = false;
    /* Not to hang on a pipe that somebody left there. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        refuse(why, path, 0, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        refuse(why, path, 0, "not a regular file");
        goto out;
    }
    if (!buf_read(content, fd, FILE_MAX_BYTES)) {
        refuse(why, path, 0, errno == EFBIG ? "too large for a file of texts" : strerror(errno));
        goto out;
    }
    done = true;
out:
    if (fd >= 0)
        close(fd);
    return done;
}

/* --- The folder ----------------------------------------------------------------------------------------- */

static bool is_code_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

/* CODE.txt; anything else in the folder is not ours to judge. */
static bool is_language_file(const char *name, size_t *code_len)
{
    size_t len = 0;
    while (is_code_char(name[len]))
        len++;
    if (len < CODE_MIN || len > CODE_MAX || strcmp(name + len, SUFFIX) != 0)
        return false;
    *code_len = len;
    return true;
}

static int select_language(const struct dirent *entry)
{
    size_t len;
    return is_language_file(entry->d_name, &len);
}

/* By bytes: the order, and with it the first complaint, is the same everywhere. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static const struct language *find(const struct languages *languages, const char *code, size_t len)
{
    for (size_t i = 0; i < languages->count; i++) {
        const struct language *language = &languages->list[i];
        if (strlen(language->code) == len && strncasecmp(language->code, code, len) == 0)
            return language;
    }
    return NULL;
}

static bool load_file(struct languages *languages, const char *folder, const char *name, struct buf *why)
{
    struct buf path = BUF_INIT, content = BUF_INIT;
    struct language *language;
    size_t code_len = 0;
    bool done = false;
    buf_addf(&path, "%s/%s", folder, name);
    if (!is_language_file(name, &code_len))
        goto out;
    if (find(languages, name, code_len)) {
        refuse(why, buf_str(&path), 0, "another file has the same code in other letters");
        goto out;
    }
    language = &languages->list[languages->count++];
    language->code = xstrndup(name, code_len);
    done = read_file(buf_str(&path), &content, why) &&
           read_lines(language, buf_str(&path), content.len ? content.data : "", content.len, why);
out:
    buf_release(&path);
    buf_release(&content);
    return done;
}

static bool load_folder(struct languages *languages, const char *folder, struct buf *why)
{
    struct dirent **entries;
    bool done = true;
    int count = scandir(folder, &entries, select_language, by_name);
    if (count < 0) {
        if (errno == ENOENT)
            return true;
        return refuse(why, folder, 0, strerror(errno));
    }
    languages->list = xcalloc((size_t)count, sizeof *languages->list);
    for (int i = 0; i < count; i++) {
        done = done && load_file(languages, folder, entries[i]->d_name, why);
        free(entries[i]);
    }
    free(entries);
    return done;
}

/* "pt-BR", "pt_BR" and "zh-Hant-TW": the whole, then without what stands behind the last hyphen. */
static const struct language *find_closest(const struct languages *languages, const char *code)
{
    char text[CODE_MAX + 1];
    size_t len = code ? strnlen(code, sizeof text) : 0;
    if (len > CODE_MAX)
        len = CODE_MAX; /* no file's code is longer: only its beginning can be known */
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(code[i] == '_' ? '-' : code[i]);
    while (len >= CODE_MIN) {
        const struct language *language = find(languages, text, len);
        if (language)
            return language;
        while (len > 0 && text[len - 1] != '-')
            len--;
        len -= len > 0;
    }
    return NULL;
}

bool languages_load(const char *folder, const char *default_code, struct languages **out, struct buf *why)
{
    struct languages *languages = xcalloc(1, sizeof *languages);
    if (!load_folder(languages, folder, why))
        goto refused;
    languages->fallback = find_closest(languages, default_code);
    /* With no file at all there is English, whatever was wished for. */
    if (!languages->fallback && languages->count > 0 && strcasecmp(default_code, BUILT_IN_CODE) != 0) {
        buf_addf(why, "%s: there is no %s" SUFFIX " for the default language", folder, default_code);
        goto refused;
    }
    *out = languages;
    return true;
refused:
    languages_free(languages);
    return false;
}

void languages_free(struct languages *languages)
{
    if (!languages)
        return;
    for (size_t i = 0; i < languages->count; i++) {
        free(languages->list[i].code);
        for (size_t k = 0; k < VERDICTS; k++)
            free(languages->list[i].text[k]);
    }
    free(languages->list);
    free(languages);
}

/* --- The answer ----------------------------------------------------------------------------------------- */

static const char *english_text(const struct languages *languages, enum roster_verdict verdict)
{
    const struct language *english = find(languages, BUILT_IN_CODE, strlen(BUILT_IN_CODE));
    if (english && english->text[verdict])
        return english->text[verdict];
    for (size_t i = 0; i < TEXTS; i++)
        if (texts[i].verdict == verdict)
            return texts[i].english;
    return texts[0].english;
}

void language_text(const struct languages *languages, const char *code, enum roster_verdict verdict,
                   int64_t wait_s, struct buf *out)
{
    const struct language *language = find_closest(languages, code);
    const char *text, *hole;
    if (!language)
        language = languages->fallback;
    text = language ? language->text[verdict] : NULL;
    if (!text)
        text = english_text(languages, verdict);
    while ((hole = strstr(text, SECONDS)) != NULL) {
        buf_add(out, text, (size_t)(hole - text));
        buf_addf(out, "%lld", (long long)(wait_s > 1 ? wait_s : 1));
        text = hole + strlen(SECONDS);
    }
    buf_adds(out, text);
}
