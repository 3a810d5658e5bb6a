#include "config_parts.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "clock.h"

#define PATH_TOKEN_LEAST 16
#define WORD_MOST 63
#define LANGUAGE_MOST 16
#define HEADER_MOST 64
#define SQLITE_PREFIX "sqlite:"

static const struct {
    const char *suffix;
    int64_t factor;
} byte_units[] = {{"G", 1LL << 30}, {"M", 1LL << 20}, {"K", 1LL << 10}, {"", 1}},
  time_units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};

bool config_is_word(const char *text, size_t most, bool dash)
{
    size_t len = strlen(text), i;
    if (len < 1 || len > most)
        return false;
    for (i = 0; i < len; i++) {
        char c = text[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '_' && !(dash && c == '-'))
            return false;
    }
    return true;
}

/* Digits with one of the units behind; *end_unit is what follows the digits. */
static bool digits_parse(const char *text, int64_t *value, const char **rest)
{
    int64_t n = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return false;
    }
    *value = n;
    *rest = p;
    return p > text;
}

static bool bytes_parse(const char *text, int64_t *value)
{
    const char *rest;
    int64_t n;
    size_t i;
    if (!digits_parse(text, &n, &rest))
        return false;
    for (i = 0; i < sizeof byte_units / sizeof byte_units[0]; i++) {
        if (strcmp(rest, byte_units[i].suffix) == 0)
            return !__builtin_mul_overflow(n, byte_units[i].factor, value);
    }
    return false;
}

static bool number_parse(enum config_type type, const char *text, int64_t *value)
{
    const char *rest;
    switch (type) {
    case CONFIG_INT:
        return digits_parse(text, value, &rest) && *rest == '\0';
    case CONFIG_BYTES:
        return bytes_parse(text, value);
    case CONFIG_DURATION:
        return clock_duration_parse(text, value);
    default:
        return false;
    }
}

int64_t config_value_number(const struct config_option *option, const char *text)
{
    int64_t value = 0;
    if (!number_parse(option->type, text, &value))
        return 0;
    return value;
}

void config_value_format(enum config_type type, int64_t number, struct buf *out)
{
    size_t i;
    if (type == CONFIG_BYTES && number > 0) {
        for (i = 0; number % byte_units[i].factor != 0; i++)
            ;
        buf_addf(out, "%lld%s", (long long)(number / byte_units[i].factor), byte_units[i].suffix);
        return;
    }
    for (i = 0; type == CONFIG_DURATION && number > 0 && i < sizeof time_units / sizeof time_units[0]; i++) {
        if (number % time_units[i].factor == 0) {
            buf_addf(out, "%lld%s", (long long)(number / time_units[i].factor), time_units[i].suffix);
            return;
        }
    }
    buf_addf(out, "%lld", (long long)number);
}

static bool check_number(const struct config_option *option, const char *text, struct buf *reason)
{
    int64_t value;
    if (!number_parse(option->type, text, &value)) {
        buf_addf(reason, "\"%s\" is not %s", text,
                 option->type == CONFIG_INT     ? "a whole number"
                 : option->type == CONFIG_BYTES ? "a size such as 65536, 64K or 4M"
                                                : "a duration such as 20s, 15m, 6h or 14d");
        return false;
    }
    if ((option->min == 0 && option->max == 0) || (value >= option->min && value <= option->max))
        return true;
    buf_addf(reason, "%s is out of range, it goes from ", text);
    config_value_format(option->type, option->min, reason);
    buf_adds(reason, " to ");
    config_value_format(option->type, option->max, reason);
    return false;
}

/* Is it one of the words with a | between them? */
static bool one_of(const char *choices, const char *text, size_t len)
{
    while (choices) {
        const char *end = strchrnul(choices, '|');
        if ((size_t)(end - choices) == len && memcmp(choices, text, len) == 0)
            return true;
        choices = *end ? end + 1 : NULL;
    }
    return false;
}

static bool check_choice(const struct config_option *option, const char *text, struct buf *reason)
{
    if (one_of(option->choices, text, strlen(text)))
        return true;
    buf_addf(reason, "\"%s\" is none of %s", text, option->choices);
    return false;
}

static bool check_list(const char *text, struct buf *reason)
{
    while (*text) {
        const char *end = strchrnul(text, ',');
        size_t len = (size_t)(end - text);
        const char *word = trimmed(text, &len);
        char *copy = xstrndup(word, len);
        bool good = config_is_word(copy, WORD_MOST, false);
        free(copy);
        if (!good) {
            buf_adds(reason, "takes names of columns (letters, digits, _) with a comma between them");
            return false;
        }
        text = *end ? end + 1 : end;
    }
    return true;
}

/* "host", "host:8443" or "[::1]:8443": *host_len is the part before the port. */
static bool check_host(const char *host, size_t len, size_t *host_len)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    static const char v6[] = "0123456789abcdefABCDEF:.";
    size_t n, digits, i;
    int port = 0;
    if (len > 0 && host[0] == '[') {
        n = strspn(host + 1, v6);
        if (n == 0 || host[1 + n] != ']')
            return false;
        n += 2;
    } else {
        n = strspn(host, name);
    }
    if (n == 0 || n > len)
        return false;
    *host_len = n;
    if (n == len)
        return true;
    digits = len - n - 1;
    if (host[n] != ':' || digits < 1 || digits > 5)
        return false;
    for (i = 0; i < digits; i++) {
        if (host[n + 1 + i] < '0' || host[n + 1 + i] > '9')
            return false;
        port = port * 10 + (host[n + 1 + i] - '0');
    }
    return port >= 1 && port <= 65535;
}

static bool check_url(const struct config_option *option, const char *text, struct buf *reason)
{
    const char *schemes = option->choices ? option->choices : "https|http";
    const char *sep = strstr(text, "://"), *host, *p;
    size_t host_len;
    for (p = text; *p; p++) {
        if (*p <= ' ' || *p > '~' || strchr("@?#\"<>\\^`{|}", *p))
            break;
    }
    if (!sep || *p || !one_of(schemes, text, (size_t)(sep - text)) ||
        !check_host(sep + 3, strcspn(sep + 3, "/"), &host_len)) {
        /* Not shown: people put credentials into addresses. */
        buf_addf(reason, "is not an address beginning with %s:// (no user name, \"?\" or \"#\" in it)",
                 option->choices ? option->choices : "https");
        return false;
    }
    host = sep + 3;
    if (option->choices || strncmp(text, "https:", 6) == 0 ||
        one_of("127.0.0.1|[::1]|localhost", host, host_len))
        return true;
    buf_adds(reason, "must begin with https:// (http:// is for 127.0.0.1, [::1] and localhost only)");
    return false;
}

static bool check_header_name(const char *text, struct buf *reason)
{
    if (!config_is_word(text, HEADER_MOST, true) || strchr(text, '_')) {
        buf_adds(reason, "takes letters, digits and -; web servers drop or change other headers");
        return false;
    }
    if (strcasecmp(text, "Content-Type") == 0 || strcasecmp(text, "Content-Length") == 0 ||
        strcasecmp(text, "Proxy") == 0 || strcasecmp(text, "Host") == 0) {
        buf_addf(reason, "%s is a header with a meaning of its own", text);
        return false;
    }
    return true;
}

/* A header that came twice may reach us as one with a comma in it, and is refused: so a comma never matches.
 */
static bool check_comma(const char *text, struct buf *reason)
{
    if (!strchr(text, ','))
        return true;
    buf_adds(reason, "has a comma in it: such a header is taken for one that was sent twice, and refused");
    return false;
}

/* What only one option asks of its text. */
static bool check_text(const struct config_option *option, const char *text, struct buf *reason)
{
    if (strcmp(option->name, "url") == 0) {
        if (strncmp(text, SQLITE_PREFIX, strlen(SQLITE_PREFIX)) == 0 && text[strlen(SQLITE_PREFIX)] != '\0')
            return true;
        buf_adds(reason, "is not sqlite: and a folder, as sqlite:/var/lib/examhook");
        return false;
    }
    if (strcmp(option->name, "default_language") == 0 && !config_is_word(text, LANGUAGE_MOST, true)) {
        buf_adds(reason, "takes the name of a language file, as en");
        return false;
    }
    if (strcmp(option->name, "header_name") == 0)
        return check_header_name(text, reason);
    if (strcmp(option->name, "basic_user") == 0 && strchr(text, ':')) {
        buf_adds(reason, "cannot have a colon in it");
        return false;
    }
    if (strcmp(option->name, "client_id") == 0)
        return check_comma(text, reason);
    return true;
}

/* Talview's own credentials travel in JSON and may be anything; what a caller sends us in a header or a path
   arrives trimmed and in one line. */
static bool check_secret(const struct config_option *option, const char *text, struct buf *reason)
{
    size_t len = strlen(text), trimmed_len = len;
    const char *p;
    for (p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) {
            buf_adds(reason, "has a line break or another control character in it");
            return false;
        }
    }
    if (strncmp(option->name, "path_token", strlen("path_token")) == 0 &&
        (len < PATH_TOKEN_LEAST || !config_is_word(text, len, true))) {
        buf_addf(reason, "needs %d or more characters, each one of A-Z a-z 0-9 _ -", PATH_TOKEN_LEAST);
        return false;
    }
    trimmed(text, &trimmed_len);
    if (trimmed_len != len && option->roles != CONFIG_WORKER) {
        buf_adds(reason, "has white space before or behind it, which no header can carry");
        return false;
    }
    if (strncmp(option->name, "client_secret", strlen("client_secret")) == 0 ||
        strncmp(option->name, "header_secret", strlen("header_secret")) == 0)
        return check_comma(text, reason);
    return true;
}

static bool check_zone(const char *text, struct buf *reason)
{
    if (clock_zone_exists(text))
        return true;
    if (clock_zones_there())
        buf_addf(reason, "\"%s\" is not a time zone of this system, as UTC or Europe/Berlin", text);
    else
        buf_addf(reason,
                 "\"%s\" is not known: this system has no time zones (" CLOCK_ZONES
                 "): install tzdata, or say UTC and give the roster's times an offset",
                 text);
    return false;
}

static bool check_bool(const char *text, struct buf *reason)
{
    if (strcmp(text, "yes") == 0 || strcmp(text, "no") == 0)
        return true;
    buf_addf(reason, "\"%s\" is neither yes nor no", text);
    return false;
}

bool config_value_check(const struct config_option *option, const char *text, struct buf *reason)
{
    if (text[0] == '\0' && option->type != CONFIG_LIST) {
        buf_adds(reason, "has no value");
        return false;
    }
    switch (option->type) {
    case CONFIG_INT:
    case CONFIG_BYTES:
    case CONFIG_DURATION:
        return check_number(option, text, reason);
    case CONFIG_BOOL:
        return check_bool(text, reason);
    case CONFIG_CHOICE:
        return check_choice(option, text, reason);
    case CONFIG_URL:
        return check_url(option, text, reason);
    case CONFIG_LIST:
        return check_list(text, reason);
    case CONFIG_ZONE:
        return check_zone(text, reason);
    case CONFIG_TEXT:
        return check_text(option, text, reason);
    case CONFIG_SECRET_VALUE:
        return check_secret(option, text, reason);
    case CONFIG_PATH:
        return true;
    }
    return false;
}
