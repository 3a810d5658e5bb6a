#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buf.h"
#include "clock.h"

/* Longer values are cut: a line must stay one write that other programs' lines do not break into. */
#define VALUE_MOST 1000
/* Room for a line that is not longer than most are. */
#define LINE_USUAL 255

/* Written by log_setup() before there are threads; from then on only the level may change. */
static struct {
    const char *program;
    atomic_int level;
    bool journal;
} settings = {"examhook", LOG_LEVEL_INFO, false};

static const struct {
    const char *word;
    int priority; /* of syslog(3), as the journal reads it */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARN] = {"warn", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

/* JOURNAL_STREAM is inherited by everything a service starts; what counts is whether it names the very
   stream that is our standard error (device:inode), see systemd.exec(5). */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    char own[48];
    if (!stream || fstat(STDERR_FILENO, &st) != 0)
        return false;
    snprintf(own, sizeof own, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(stream, own) == 0;
}

void log_setup(const char *program, enum log_level level)
{
    settings.program = program;
    log_set_level(level);
    settings.journal = stderr_is_journal();
}

void log_set_level(enum log_level level)
{
    atomic_store(&settings.level, (int)level);
}

bool log_level_parse(const char *word, enum log_level *level)
{
    size_t i;
    for (i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(word, levels[i].word) == 0) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool is_plain_byte(unsigned char c)
{
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
        return true;
    return (c >= '-' && c <= ':') || c == '_' || c == '+' || c == '@' || c == ',';
}

/* The length of a text that needs no quotes; 0: it does. */
static size_t plain_length(const char *text)
{
    size_t len = 0;
    while (is_plain_byte((unsigned char)text[len]))
        len++;
    return len <= VALUE_MOST && text[len] == '\0' ? len : 0;
}

/* What is not shown as it is. */
static void add_escaped(struct buf *line, unsigned char c)
{
    switch (c) {
    case '"':
    case '\\':
        buf_addc(line, '\\');
        buf_addc(line, (char)c);
        break;
    case '\n':
        buf_adds(line, "\\n");
        break;
    case '\r':
        buf_adds(line, "\\r");
        break;
    case '\t':
        buf_adds(line, "\\t");
        break;
    default:
        buf_addf(line, "\\x%02x", c);
    }
}

static bool shown_as_it_is(unsigned char c)
{
    return c >= 0x20 && c <= 0x7e && c != '"' && c != '\\';
}

static void add_quoted(struct buf *line, const char *text)
{
    size_t i = 0;
    buf_addc(line, '"');
    while (i < VALUE_MOST && text[i] != '\0') {
        size_t plain = 0;
        while (i + plain < VALUE_MOST && shown_as_it_is((unsigned char)text[i + plain]))
            plain++;
        buf_add(line, text + i, plain);
        i += plain;
        if (plain == 0)
            add_escaped(line, (unsigned char)text[i++]);
    }
    if (text[i] != '\0')
        buf_adds(line, "...");
    buf_addc(line, '"');
}

static void add_field(struct buf *line, const struct log_field *field)
{
    size_t plain;
    buf_addc(line, ' ');
    buf_adds(line, field->key);
    buf_addc(line, '=');
    if (!field->text)
        buf_add_number(line, field->number);
    else if ((plain = plain_length(field->text)) > 0)
        buf_add(line, field->text, plain);
    else
        add_quoted(line, field->text);
}

static void write_whole(const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* a log that cannot be written must not stop the program */
        bytes += n;
        len -= (size_t)n;
    }
}

static bool is_wanted(enum log_level level)
{
    return (int)level <= atomic_load(&settings.level);
}

static void add_line(struct buf *line, enum log_level level, const char *message,
                     const struct log_field *fields)
{
    if (settings.journal) {
        buf_addc(line, '<');
        buf_add_number(line, levels[level].priority);
        buf_addc(line, '>');
    } else {
        char time[CLOCK_TEXT_BYTES];
        buf_adds(line, "time=");
        buf_adds(line, clock_format(clock_now_ms(), time));
        buf_addc(line, ' ');
    }
    buf_adds(line, "level=");
    buf_adds(line, levels[level].word);
    buf_adds(line, " program=");
    buf_adds(line, settings.program);
    buf_adds(line, " msg=");
    add_quoted(line, message);
    for (; fields && fields->key; fields++)
        add_field(line, fields);
    buf_addc(line, '\n');
}

void log_write(enum log_level level, const char *message, const struct log_field *fields)
{
    struct buf line = BUF_INIT;
    int kept_errno = errno;
    if (!is_wanted(level))
        return;
    (void)buf_room(&line, LINE_USUAL);
    add_line(&line, level, message, fields);
    write_whole(line.data, line.len);
    buf_release(&line);
    errno = kept_errno;
}

void log_add(struct buf *lines, enum log_level level, const char *message, const struct log_field *fields)
{
    if (is_wanted(level))
        add_line(lines, level, message, fields);
}

void log_write_lines(struct buf *lines)
{
    int kept_errno = errno;
    size_t at = 0;
    while (at < lines->len) {
        size_t len = lines->len - at;
        if (len > PIPE_BUF) {
            /* The last whole line that fits; one that is longer alone goes alone. */
            const char *end = memrchr(lines->data + at, '\n', PIPE_BUF);
            if (!end)
                end = memchr(lines->data + at, '\n', len);
            len = end ? (size_t)(end + 1 - (lines->data + at)) : len;
        }
        write_whole(lines->data + at, len);
        at += len;
    }
    buf_clear(lines);
    errno = kept_errno;
}
