#include "log.h"

#include <errno.h>
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

static bool is_plain(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/+@,";
    return text[0] != '\0' && text[strspn(text, plain)] == '\0';
}

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
        if (c < 0x20 || c > 0x7e)
            buf_addf(line, "\\x%02x", c);
        else
            buf_addc(line, (char)c);
    }
}

static void add_quoted(struct buf *line, const char *text)
{
    size_t i;
    buf_addc(line, '"');
    for (i = 0; i < VALUE_MOST && text[i] != '\0'; i++)
        add_escaped(line, (unsigned char)text[i]);
    if (text[i] != '\0')
        buf_adds(line, "...");
    buf_addc(line, '"');
}

static void add_field(struct buf *line, const struct log_field *field)
{
    buf_addf(line, " %s=", field->key);
    if (!field->text)
        buf_addf(line, "%lld", field->number);
    else if (is_plain(field->text) && strlen(field->text) <= VALUE_MOST)
        buf_adds(line, field->text);
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

void log_write(enum log_level level, const char *message, const struct log_field *fields)
{
    struct buf line = BUF_INIT;
    int kept_errno = errno;
    if ((int)level > atomic_load(&settings.level))
        return;
    if (settings.journal) {
        buf_addf(&line, "<%d>", levels[level].priority);
    } else {
        char time[CLOCK_TEXT_BYTES];
        buf_addf(&line, "time=%s ", clock_format(clock_now_ms(), time));
    }
    buf_addf(&line, "level=%s program=%s msg=", levels[level].word, settings.program);
    add_quoted(&line, message);
    for (; fields && fields->key; fields++)
        add_field(&line, fields);
    buf_addc(&line, '\n');
    write_whole(line.data, line.len);
    buf_release(&line);
    errno = kept_errno;
}
