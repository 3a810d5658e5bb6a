/*
 * One line a happening on standard error, in logfmt: time=... level=... program=... msg="..." key=value ...
 * Under systemd (JOURNAL_STREAM names our standard error) the time is left to the journal and a <N> priority
 * stands in front.
 *
 * A value never holds a secret, a password, a request's body or a candidate's input: there is no function
 * here that would know, so it is the caller's promise. Values are quoted and escaped; control bytes and what
 * is not ASCII printable cannot forge a line.
 */
#ifndef EXAMHOOK_LOG_H
#define EXAMHOOK_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log_field {
    const char *key;  /* NULL ends a list */
    const char *text; /* NULL: the number counts */
    long long number;
};

/* NULL is shown as an empty text. A function, so that an array may be given without a compiler's warning. */
static inline struct log_field log_text_field(const char *key, const char *text)
{
    return (struct log_field){.key = key, .text = text ? text : ""};
}
#define LOG_S(k, v) log_text_field((k), (v))
#define LOG_I(k, v) ((struct log_field){.key = (k), .number = (v)})

/* Once, at the start, before there are threads. `program` is not copied. */
void log_setup(const char *program, enum log_level level);
/* At any time: a configuration was read again. */
void log_set_level(enum log_level level);
/* false for a word that is none of error, warn, info, debug. */
bool log_level_parse(const char *word, enum log_level *level);
/* `fields` ends with a field whose key is NULL. Thread-safe: one write(2) a line. */
void log_write(enum log_level level, const char *message, const struct log_field *fields);

struct buf;
/* For who has many lines at once: the line is added to `lines`, where the level wants it. */
void log_add(struct buf *lines, enum log_level level, const char *message, const struct log_field *fields);
/* Writes what was added and empties `lines`: several lines a write(2), of PIPE_BUF bytes at the most, so that
 * other programs' lines do not break into them. */
void log_write_lines(struct buf *lines);

#define LOG_FIELDS(...) ((const struct log_field[]){__VA_ARGS__, {.key = (void *)0}})
#define log_error(msg, ...) log_write(LOG_LEVEL_ERROR, (msg), LOG_FIELDS(__VA_ARGS__))
#define log_warn(msg, ...) log_write(LOG_LEVEL_WARN, (msg), LOG_FIELDS(__VA_ARGS__))
#define log_info(msg, ...) log_write(LOG_LEVEL_INFO, (msg), LOG_FIELDS(__VA_ARGS__))
#define log_debug(msg, ...) log_write(LOG_LEVEL_DEBUG, (msg), LOG_FIELDS(__VA_ARGS__))

#endif
