#include "talview.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "json.h"

#define CA_FILE_MAX (4 * 1024 * 1024) /* a bundle of authorities is a few hundred KiB */
#define SENDS_MOST 2                  /* once, and again where a kept connection had ended */
#define SLOW_BYTES_S 16L              /* slower than this for two thirds of the time limit: given up */

static const char *const OUTCOME_WORDS[] = {
    [TALVIEW_OK] = "ok",
    [TALVIEW_UNAUTHORIZED] = "unauthorized",
    [TALVIEW_FORBIDDEN] = "forbidden",
    [TALVIEW_NOT_FOUND] = "not_found",
    [TALVIEW_RATE_LIMITED] = "rate_limited",
    [TALVIEW_REFUSED] = "refused",
    [TALVIEW_SERVER_ERROR] = "server_error",
    [TALVIEW_TIMEOUT] = "timeout",
    [TALVIEW_DNS] = "dns",
    [TALVIEW_CONNECT] = "connect",
    [TALVIEW_TLS] = "tls",
    [TALVIEW_CUT] = "connection_cut",
    [TALVIEW_TOO_LARGE] = "too_large",
    [TALVIEW_MALFORMED] = "malformed",
};

const char *talview_outcome_word(enum talview_outcome outcome)
{
    return OUTCOME_WORDS[outcome];
}

/* --- Readers -------------------------------------------------------------------------------------------- */

void talview_session_release(struct talview_session *session)
{
    if (!session)
        return;
    free(session->external_id);
    free(session->type);
    free(session->status);
    free(session->rating);
    *session = (struct talview_session){0};
}

/* Whether the reply says in so many words that it is a failure. */
static bool says_failure(const struct json *root)
{
    bool success = true;
    return json_bool(json_member(root, "success"), &success) && !success;
}

/* A member that is a text, null or not there. False: it is something else, or too long. */
static bool text_member(const struct json *root, const char *name, const char **text)
{
    const struct json *node = json_member(root, name);
    if (!node || json_type(node) == JSON_NULL) {
        *text = NULL;
        return true;
    }
    const char *value = json_string(node);
    if (!value || strlen(value) > TALVIEW_TEXT_MAX)
        return false;
    *text = value;
    return true;
}

static const char *session_of(const struct json *root, const char *uuid, struct talview_session *out)
{
    const char *its_uuid, *external_id, *type, *status, *rating;
    if (says_failure(root))
        return "success_false";
    if (!text_member(root, "uuid", &its_uuid) || !its_uuid)
        return "uuid_missing";
    if (strcasecmp(its_uuid, uuid) != 0)
        return "uuid_differs";
    if (!text_member(root, "external_id", &external_id))
        return "external_id_type";
    if (!text_member(root, "type", &type))
        return "type_type";
    if (!text_member(root, "status", &status))
        return "status_type";
    if (!text_member(root, "final_rating", &rating))
        return "final_rating_type";
    *out = (struct talview_session){
        .external_id = xstrdup(external_id),
        .type = xstrdup(type),
        .status = xstrdup(status),
        .rating = xstrdup(rating),
    };
    return NULL;
}

const char *talview_session_read(const char *text, size_t len, const char *uuid, struct talview_session *out)
{
    struct json_doc *doc;
    enum json_error error = json_parse(text, len, &doc);
    if (error != JSON_OK)
        return json_error_word(error);
    const char *word = session_of(json_root(doc), uuid, out);
    json_free(doc);
    return word;
}

bool talview_is_rating(const char *raw)
{
    if (!raw)
        return false;
    size_t len = strlen(raw);
    trimmed(raw, &len);
    return len > 0;
}

const char *talview_rating_normal(const char *raw)
{
    static const char *const KNOWN[] = {"high", "medium", "low"};
    size_t len = raw ? strlen(raw) : 0;
    const char *start = raw ? trimmed(raw, &len) : "";
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(KNOWN[0]); i++) {
        if (len == strlen(KNOWN[i]) && strncasecmp(start, KNOWN[i], len) == 0)
            return KNOWN[i];
    }
    return "none";
}

/* What may stand in a header's value without ending it: visible ASCII, no space. */
static bool header_safe(const char *text, size_t max)
{
    size_t len = strlen(text);
    if (len == 0 || len > max)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < 0x21 || text[i] > 0x7e)
            return false;
    }
    return true;
}

static const char *login_of(const struct json *root, char **token, int64_t *lifetime_s)
{
    if (says_failure(root))
        return "success_false";
    const char *access_token = json_string(json_member(root, "access_token"));
    if (!access_token)
        return "access_token_missing";
    if (!header_safe(access_token, TALVIEW_TOKEN_MAX))
        return "access_token_unusable";
    int64_t lifetime;
    if (!json_int64(json_member(root, "expires_in"), &lifetime) || lifetime < TALVIEW_EXPIRES_MIN_S ||
        lifetime > TALVIEW_EXPIRES_MAX_S)
        lifetime = TALVIEW_EXPIRES_DEFAULT_S;
    *token = xstrdup(access_token);
    *lifetime_s = lifetime;
    return NULL;
}

const char *talview_login_read(const char *text, size_t len, char **token, int64_t *lifetime_s)
{
    struct json_doc *doc;
    enum json_error error = json_parse(text, len, &doc);
    if (error != JSON_OK)
        return json_error_word(error);
    const char *word = login_of(json_root(doc), token, lifetime_s);
    json_free(doc);
    return word;
}

bool talview_retry_after(const char *value, size_t len, int64_t now_ms, int64_t *wait_ms)
{
    const char *start = trimmed(value, &len);
    char text[64];
    if (len == 0 || len >= sizeof(text))
        return false;
    memcpy(text, start, len);
    text[len] = '\0';
    if (strspn(text, "0123456789") == len) {
        if (len > 9)
            return false;
        *wait_ms = (int64_t)strtol(text, NULL, 10) * 1000;
        return true;
    }
    /* An HTTP date begins with the day's name; curl_getdate() alone would take "5" or "-1 day" for a date. */
    if (!strchr("MTWFS", text[0]) || !strchr(text, ':'))
        return false;
    time_t at = curl_getdate(text, NULL);
    if (at == (time_t)-1)
        return false;
    int64_t wait = (int64_t)at * 1000 - now_ms;
    *wait_ms = wait > 0 ? wait : 0;
    return true;
}

static bool host_is_loopback(const char *host)
{
    struct in_addr v4;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0;
}

static bool url_parts_ok(CURLU *parsed)
{
    static const CURLUPart NOT_WANTED[] = {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY,
                                           CURLUPART_FRAGMENT};
    for (size_t i = 0; i < sizeof(NOT_WANTED) / sizeof(NOT_WANTED[0]); i++) {
        char *part = NULL;
        if (curl_url_get(parsed, NOT_WANTED[i], &part, 0) == CURLUE_OK) {
            curl_free(part);
            return false;
        }
    }
    char *scheme = NULL, *host = NULL;
    bool ok = curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK && host[0] != '\0' &&
              (strcmp(scheme, "https") == 0 || (strcmp(scheme, "http") == 0 && host_is_loopback(host)));
    curl_free(scheme);
    curl_free(host);
    return ok;
}

bool talview_url_ok(const char *url)
{
    /* A fragment or query that is empty leaves no part behind to be asked for. */
    if (!url || strpbrk(url, "?# \t\r\n") || strlen(url) > 1024)
        return false;
    /* libcurl bears one to three slashes, and would take what follows for the host: exactly two, behind the
       scheme itself. */
    const char *authority = strchr(url, ':');
    if (!authority || strncmp(authority, "://", 3) != 0 || authority[3] == '/')
        return false;
    CURLU *parsed = curl_url();
    if (!parsed)
        return false;
    bool ok = curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK && url_parts_ok(parsed);
    curl_url_cleanup(parsed);
    return ok;
}

bool talview_uuid_ok(const char *uuid)
{
    for (size_t i = 0; i < TALVIEW_UUID_LEN; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? uuid[i] != '-' : uuid[i] == '\0' || !strchr("0123456789abcdef", uuid[i]))
            return false;
    }
    return uuid[TALVIEW_UUID_LEN] == '\0';
}

/* The length of the longest well-formed character at the start of text, 0 where there is none. */
static size_t utf8_char(const char *text, size_t len)
{
    for (size_t n = 1; n <= 4 && n <= len; n++) {
        if (utf8_valid(text, n))
            return n;
    }
    return 0;
}

static uint32_t code_point(const char *c, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)c;
    uint32_t point = n <= 1 ? bytes[0] : bytes[0] & (0x7fU >> n);
    for (size_t i = 1; i < n; i++)
        point = point << 6 | (bytes[i] & 0x3f);
    return point;
}

/* How many bytes at the start of text are the character in one of JSON's escapes; 0: they are not. */
static size_t escape_at(const char *text, size_t len, const char *c, size_t n)
{
    char number[16];
    uint32_t point = code_point(c, n);
    if (len < 2 || text[0] != '\\')
        return 0;
    if (n == 1 && strchr("/\"\\", *c) && text[1] == *c)
        return 2;
    if (point < 0x10000)
        snprintf(number, sizeof number, "\\u%04x", (unsigned)point);
    else
        snprintf(number, sizeof number, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (point >> 10)),
                 (unsigned)(0xdc00 + (point & 0x3ff)));
    size_t wanted = strlen(number);
    return len >= wanted && strncasecmp(text, number, wanted) == 0 ? wanted : 0;
}

/* How many bytes at the start of text are the secret, as it is or with JSON's escapes; 0: they are not. */
static size_t secret_at(const char *text, size_t len, const char *secret, bool escaped)
{
    size_t i = 0, left = strlen(secret), n;
    for (; left > 0; secret += n, left -= n) {
        n = utf8_char(secret, left);
        if (n == 0)
            n = 1;
        size_t found = escaped ? escape_at(text + i, len - i, secret, n) : 0;
        if (found == 0 && (len - i < n || memcmp(text + i, secret, n) != 0))
            return 0;
        i += found > 0 ? found : n;
    }
    return i;
}

/* The same for any of them, the longest first: one may begin with another. */
static size_t any_secret_at(const char *text, size_t len, const char *const secrets[TALVIEW_SECRETS])
{
    size_t longest = 0;
    for (int i = 0; i < TALVIEW_SECRETS; i++) {
        for (int escaped = 0; secrets[i] && strlen(secrets[i]) >= TALVIEW_SECRET_MIN && escaped < 2;
             escaped++) {
            size_t found = secret_at(text, len, secrets[i], escaped);
            longest = found > longest ? found : longest;
        }
    }
    return longest;
}

void talview_excerpt(const char *text, size_t len, const char *const secrets[TALVIEW_SECRETS],
                     struct buf *out)
{
    size_t i = 0;
    while (i < len && out->len < TALVIEW_KEPT_MAX) {
        size_t secret_len = any_secret_at(text + i, len - i, secrets);
        if (secret_len > 0) {
            buf_adds(out, "[secret]");
            i += secret_len;
            continue;
        }
        size_t n = utf8_char(text + i, len - i);
        if (out->len + (n ? n : 1) > TALVIEW_KEPT_MAX)
            break;
        if (n)
            buf_add(out, text + i, n);
        else
            buf_addc(out, '?');
        i += n ? n : 1;
    }
}

/* --- Transfers ------------------------------------------------------------------------------------------ */

struct talview_account {
    struct talview_target target;
    struct buf authorities; /* the host's and ca_file's; empty where there is no ca_file */
    char *bundle;           /* without ca_file: the host's; NULL: it has none, and nothing needs one */
    struct talview_account *next;
};

struct transfer {
    struct talview *talview;
    CURL *easy;
    struct curl_slist *headers;
    bool login;
    void *tag;
    char uuid[TALVIEW_UUID_LEN + 1];
    char *token; /* sent; so that no echo of it is kept */
    const struct talview_account *account;
    struct buf post; /* the login request */
    struct buf body;
    size_t body_max, headers_len;
    int sends;
    bool too_large;
    int64_t retry_after_ms;
    char error[CURL_ERROR_SIZE];
    struct transfer *prev, *next;
};

struct talview {
    struct talview_limits limits;
    CURLM *multi;
    struct talview_account *accounts;
    struct transfer *transfers;
};

/* libcurl's memory held headers and bodies with tokens and the password in them: wiped when it is freed. */
static void wiping_free(void *memory)
{
    if (memory)
        explicit_bzero(memory, malloc_usable_size(memory));
    free(memory);
}

static void *wiping_realloc(void *old, size_t size)
{
    void *fresh = malloc(size ? size : 1);
    if (!fresh)
        return NULL;
    if (old) {
        size_t had = malloc_usable_size(old);
        memcpy(fresh, old, had < size ? had : size);
        wiping_free(old);
    }
    return fresh;
}

struct talview *talview_new(const struct talview_limits *limits)
{
    /* libcurl would write the keys of every connection to the file that this names. */
    unsetenv("SSLKEYLOGFILE");
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup, calloc) !=
        CURLE_OK)
        return NULL;
    struct talview *talview = xcalloc(1, sizeof(*talview));
    talview->limits = *limits;
    talview->multi = curl_multi_init();
    if (!talview->multi) {
        free(talview);
        curl_global_cleanup();
        return NULL;
    }
    curl_multi_setopt(talview->multi, CURLMOPT_MAXCONNECTS, (long)limits->transfers_max);
    curl_multi_setopt(talview->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    return talview;
}

static void wipe_headers(struct curl_slist *headers)
{
    for (struct curl_slist *h = headers; h; h = h->next)
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(headers);
}

static void transfer_free(struct transfer *transfer)
{
    struct talview *talview = transfer->talview;
    if (transfer->easy) {
        curl_multi_remove_handle(talview->multi, transfer->easy);
        curl_easy_cleanup(transfer->easy);
    }
    if (transfer->prev)
        transfer->prev->next = transfer->next;
    else if (talview->transfers == transfer)
        talview->transfers = transfer->next;
    if (transfer->next)
        transfer->next->prev = transfer->prev;
    wipe_headers(transfer->headers);
    wipe_free(transfer->token);
    buf_release(&transfer->post);
    buf_release(&transfer->body);
    free(transfer);
}

void talview_drop(struct talview *talview)
{
    for (struct transfer *t = talview->transfers, *next; t; t = next) {
        next = t->next;
        transfer_free(t);
    }
}

void talview_free(struct talview *talview)
{
    if (!talview)
        return;
    talview_drop(talview);
    curl_multi_cleanup(talview->multi);
    for (struct talview_account *a = talview->accounts, *next; a; a = next) {
        next = a->next;
        buf_release(&a->authorities);
        free(a->bundle);
        free(a);
    }
    free(talview);
    curl_global_cleanup();
}

/* Adds the whole file. False where it cannot be read or is no bundle of certificates. */
static bool read_certificates(const char *path, struct buf *out)
{
    struct buf text = BUF_INIT;
    struct stat st;
    bool ok = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > CA_FILE_MAX)
        goto out;
    ok = buf_read(&text, fd, CA_FILE_MAX) && text.len > 0 &&
         memmem(text.data, text.len, "-----BEGIN CERTIFICATE-----", strlen("-----BEGIN CERTIFICATE-----"));
    if (ok) {
        buf_add(out, text.data, text.len);
        buf_addc(out, '\n');
    }
out:
    if (fd >= 0)
        close(fd);
    buf_release(&text);
    return ok;
}

static bool is_bundle(const char *path)
{
    struct buf text = BUF_INIT;
    bool ok = read_certificates(path, &text);
    buf_release(&text);
    return ok;
}

const char *talview_authorities(struct buf *why)
{
    static const char *const usual[] = {
        "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Ubuntu, Arch, Gentoo */
        "/etc/pki/tls/certs/ca-bundle.crt",                  /* Red Hat and its kin, older ones too */
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* the same, newer ones */
        "/etc/ssl/ca-bundle.pem",                            /* SUSE */
        "/etc/ssl/cert.pem",                                 /* Alpine */
    };
    const char *named = getenv("SSL_CERT_FILE");
    const char *built_in = curl_version_info(CURLVERSION_NOW)->cainfo;
    if (named && named[0] != '\0') {
        if (is_bundle(named))
            return named;
        buf_addf(why, "%s, which SSL_CERT_FILE names, cannot be read, or holds no certificate", named);
        return NULL;
    }
    if (built_in && is_bundle(built_in))
        return built_in;
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        if (is_bundle(usual[i]))
            return usual[i];
    }
    buf_addf(why, "this host has no bundle of them, not in %s nor in another usual place", usual[0]);
    return NULL;
}

/* The host's authorities and the file's in one text: CURLOPT_CAINFO alone would replace the former. Where
   the host has none (no ca-certificates) the file's stand alone. */
static bool gather_authorities(const char *ca_file, struct buf *out)
{
    struct buf why = BUF_INIT;
    const char *host = talview_authorities(&why);
    if (host)
        (void)read_certificates(host, out);
    buf_release(&why);
    return read_certificates(ca_file, out);
}

/* False with `why`: there is nothing to judge a server's certificate by. */
static bool find_authorities(struct talview_account *account, struct buf *why)
{
    const struct talview_target *target = &account->target;
    struct buf reason = BUF_INIT;
    if (target->ca_file) {
        if (gather_authorities(target->ca_file, &account->authorities))
            return true;
        buf_addf(why, "ca_file %s cannot be read, or holds no certificate", target->ca_file);
        return false;
    }
    const char *host = talview_authorities(&reason);
    account->bundle = host ? xstrdup(host) : NULL;
    bool ok = account->bundle ||
              (!strncasecmp(target->login_url, "http:", 5) && !strncasecmp(target->session_url, "http:", 5));
    if (!ok)
        buf_addf(why, "no certificate authorities: %s (name a file by ca_file or SSL_CERT_FILE)",
                 buf_str(&reason));
    buf_release(&reason);
    return ok;
}

static const char *target_fault(const struct talview_target *target)
{
    if (!target->username || !target->password || !target->app_id)
        return "username, password and app_id are needed";
    if (!talview_url_ok(target->login_url))
        return "login_url is no https address";
    if (!talview_url_ok(target->session_url))
        return "session_url is no https address";
    if (!header_safe(target->app_id, 1024))
        return "app_id holds what cannot stand in a header";
    if (!utf8_valid(target->username, strlen(target->username)) ||
        !utf8_valid(target->password, strlen(target->password)))
        return "username or password is not UTF-8";
    return NULL;
}

struct talview_account *talview_account_add(struct talview *talview, const struct talview_target *target,
                                            struct buf *why)
{
    const char *fault = target_fault(target);
    if (fault) {
        buf_adds(why, fault);
        return NULL;
    }
    struct talview_account *account = xcalloc(1, sizeof(*account));
    account->target = *target;
    if (!find_authorities(account, why)) {
        buf_release(&account->authorities);
        free(account);
        return NULL;
    }
    account->next = talview->accounts;
    talview->accounts = account;
    return account;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    size_t len = size * count;
    if (len > transfer->body_max - transfer->body.len) {
        transfer->too_large = true;
        return 0;
    }
    buf_add(&transfer->body, bytes, len);
    return len;
}

/* To a 204 and a 304 there is no body. What a server sends behind one nevertheless would be taken for the
   beginning of the next reply on that connection, another session's. (HTTP/2 tells them apart by itself.) */
static bool ends_connection(CURL *easy, const char *line, size_t len)
{
    long status = 0; /* as libcurl read it, which takes more for a status line than there should be */
    return len >= 7 && memcmp(line, "HTTP/1.", 7) == 0 &&
           curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK &&
           (status == 204 || status == 304);
}

static size_t on_header(char *bytes, size_t size, size_t count, void *context)
{
    static const char NAME[] = "retry-after:";
    struct transfer *transfer = context;
    size_t len = size * count;
    transfer->headers_len += len;
    if (transfer->headers_len > TALVIEW_HEADERS_MAX) {
        transfer->too_large = true;
        return 0;
    }
    if (len >= 5 && memcmp(bytes, "HTTP/", 5) == 0)
        transfer->retry_after_ms = -1; /* what came before was an interim reply */
    if (ends_connection(transfer->easy, bytes, len))
        (void)curl_easy_setopt(transfer->easy, CURLOPT_FORBID_REUSE, 1L);
    if (len > sizeof(NAME) - 1 && strncasecmp(bytes, NAME, sizeof(NAME) - 1) == 0) {
        int64_t wait;
        if (talview_retry_after(bytes + sizeof(NAME) - 1, len - (sizeof(NAME) - 1), clock_now_ms(), &wait))
            transfer->retry_after_ms = wait;
    }
    return len;
}

static bool add_header(struct transfer *transfer, const char *name, const char *value)
{
    struct buf line = BUF_INIT;
    buf_addf(&line, "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(transfer->headers, buf_str(&line));
    buf_release(&line);
    if (longer)
        transfer->headers = longer;
    return longer != NULL;
}

static struct transfer *transfer_new(struct talview *talview, const struct talview_account *account,
                                     void *tag)
{
    struct transfer *transfer = xcalloc(1, sizeof(*transfer));
    transfer->talview = talview;
    transfer->account = account;
    transfer->tag = tag;
    transfer->retry_after_ms = -1;
    transfer->body_max = talview->limits.reply_limit_bytes;
    transfer->easy = curl_easy_init();
    if (!transfer->easy || !add_header(transfer, "Accept", "application/json") ||
        !add_header(transfer, "app-id", account->target.app_id)) {
        transfer_free(transfer);
        return NULL;
    }
    return transfer;
}

static bool set_tls(CURL *easy, const struct talview_account *account)
{
    bool ok = curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK;
    if (account->authorities.len > 0) {
        struct curl_blob blob = {account->authorities.data, account->authorities.len, CURL_BLOB_NOCOPY};
        ok = ok && curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob) == CURLE_OK;
    } else if (account->bundle) {
        ok = ok && curl_easy_setopt(easy, CURLOPT_CAINFO, account->bundle) == CURLE_OK;
    }
    return ok;
}

static bool set_limits(CURL *easy, const struct talview_limits *limits)
{
    long slow_s = (long)(limits->request_timeout_ms * 2 / 3000);
    return curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)limits->connect_timeout_ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)limits->request_timeout_ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, SLOW_BYTES_S) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, slow_s > 0 ? slow_s : 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)limits->reply_limit_bytes) ==
               CURLE_OK &&
           /* Otherwise ending a transfer waits for a name server that does not answer, and all others with
              it. */
           curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
}

static bool set_route(CURL *easy, const char *url, const char *proxy)
{
    const char *protocols = strncasecmp(url, "http:", 5) == 0 ? "http" : "https";
    return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, protocols) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, protocols) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, proxy ? proxy : "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_USERAGENT, "examhook") == CURLE_OK;
}

/* Where kept connections end without an answer, libcurl by itself sends it again, up to five times. */
static int on_send(void *context, char *to, char *from, int to_port, int from_port)
{
    struct transfer *transfer = context;
    (void)to;
    (void)from;
    (void)to_port;
    (void)from_port;
    return transfer->sends++ < SENDS_MOST ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static bool set_callbacks(struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    return curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_send) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK;
}

/* The transfer is the engine's, or freed on false. */
static bool transfer_start(struct transfer *transfer, const struct talview_account *account, const char *url)
{
    struct talview *talview = transfer->talview;
    if (!set_tls(transfer->easy, account) || !set_limits(transfer->easy, &talview->limits) ||
        !set_route(transfer->easy, url, talview->limits.proxy) || !set_callbacks(transfer) ||
        curl_multi_add_handle(talview->multi, transfer->easy) != CURLM_OK) {
        transfer_free(transfer);
        return false;
    }
    transfer->next = talview->transfers;
    if (transfer->next)
        transfer->next->prev = transfer;
    talview->transfers = transfer;
    return true;
}

bool talview_login_start(struct talview *talview, const struct talview_account *account, void *tag)
{
    struct transfer *transfer = transfer_new(talview, account, tag);
    if (!transfer)
        return false;
    transfer->login = true;
    if (transfer->body_max > TALVIEW_LOGIN_REPLY_MAX)
        transfer->body_max = TALVIEW_LOGIN_REPLY_MAX;
    buf_addc(&transfer->post, '{');
    json_add_member(&transfer->post, "username", account->target.username);
    json_add_member(&transfer->post, "password", account->target.password);
    buf_addc(&transfer->post, '}');
    /* Without a value, "Expect" is not sent: a server that ignores it would cost a second's wait. */
    struct curl_slist *longer = curl_slist_append(transfer->headers, "Expect:");
    if (longer)
        transfer->headers = longer;
    /* On a kept connection that ends without an answer libcurl would send the request a second time by
       itself, and a login must not be tried more often than we know. */
    if (!longer || !add_header(transfer, "Content-Type", "application/json") ||
        curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L) != CURLE_OK ||
        curl_easy_setopt(transfer->easy, CURLOPT_POST, 1L) != CURLE_OK ||
        curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE, (long)transfer->post.len) != CURLE_OK ||
        curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, transfer->post.data) != CURLE_OK) {
        transfer_free(transfer);
        return false;
    }
    return transfer_start(transfer, account, account->target.login_url);
}

bool talview_session_start(struct talview *talview, const struct talview_account *account, const char *uuid,
                           const char *token, void *tag)
{
    if (!talview_uuid_ok(uuid) || !header_safe(token, TALVIEW_TOKEN_MAX))
        return false;
    struct transfer *transfer = transfer_new(talview, account, tag);
    if (!transfer)
        return false;
    memcpy(transfer->uuid, uuid, sizeof(transfer->uuid));
    transfer->token = xstrdup(token);
    struct buf value = BUF_INIT;
    buf_addf(&value, "Bearer %s", token);
    bool added = add_header(transfer, "Authorization", buf_str(&value));
    buf_release(&value);
    if (!added) {
        transfer_free(transfer);
        return false;
    }
    struct buf url = BUF_INIT;
    buf_adds(&url, account->target.session_url);
    while (url.len > 0 && url.data[url.len - 1] == '/')
        url.data[--url.len] = '\0';
    buf_addf(&url, "/%s", uuid);
    bool ok = transfer_start(transfer, account, buf_str(&url));
    buf_release(&url);
    return ok;
}

static enum talview_outcome outcome_of_status(long status, bool login)
{
    if (status == 200 || (login && status == 201))
        return TALVIEW_OK;
    switch (status) {
    case 400:
        return login ? TALVIEW_UNAUTHORIZED : TALVIEW_REFUSED;
    case 401:
        return TALVIEW_UNAUTHORIZED;
    case 403:
        return TALVIEW_FORBIDDEN;
    case 404:
        return TALVIEW_NOT_FOUND;
    case 408:
        return TALVIEW_TIMEOUT;
    case 429:
        return TALVIEW_RATE_LIMITED;
    default:
        break;
    }
    if (status >= 500)
        return TALVIEW_SERVER_ERROR;
    return status >= 300 ? TALVIEW_REFUSED : TALVIEW_MALFORMED;
}

static enum talview_outcome outcome_of_curl(CURLcode code)
{
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return TALVIEW_TIMEOUT;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return TALVIEW_DNS;
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
    case CURLE_INTERFACE_FAILED:
        return TALVIEW_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_ENGINE_INITFAILED:
    case CURLE_USE_SSL_FAILED:
        return TALVIEW_TLS;
    case CURLE_FILESIZE_EXCEEDED:
        return TALVIEW_TOO_LARGE;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_BAD_CONTENT_ENCODING:
        return TALVIEW_MALFORMED;
    default:
        return TALVIEW_CUT;
    }
}

static void set_detail(struct talview_reply *reply, const char *text)
{
    size_t n = 0;
    for (; n < sizeof(reply->detail) - 1 && text[n]; n++)
        reply->detail[n] = text[n] >= 0x20 && text[n] < 0x7f ? text[n] : '?';
    reply->detail[n] = '\0';
}

/* A 200's body: read, and on a fault the outcome and its word. */
static void keep_excerpt(struct transfer *transfer, struct talview_reply *reply)
{
    const struct talview_target *target = &transfer->account->target;
    const char *const secrets[TALVIEW_SECRETS] = {transfer->token, target->username, target->password,
                                                  target->app_id};
    talview_excerpt(buf_str(&transfer->body), transfer->body.len, secrets, &reply->kept);
}

static void read_body(struct transfer *transfer, struct talview_reply *reply)
{
    const char *text = buf_str(&transfer->body);
    size_t len = transfer->body.len;
    const char *word = transfer->login ? talview_login_read(text, len, &reply->token, &reply->lifetime_s)
                                       : talview_session_read(text, len, transfer->uuid, &reply->session);
    if (!word)
        return;
    reply->outcome = TALVIEW_MALFORMED;
    if (strcmp(word, "success_false") == 0)
        reply->outcome = transfer->login ? TALVIEW_UNAUTHORIZED : TALVIEW_REFUSED;
    set_detail(reply, word);
    if (!transfer->login)
        keep_excerpt(transfer, reply);
}

static void read_reply(struct transfer *transfer, CURLcode code, struct talview_reply *reply)
{
    reply->retry_after_ms = transfer->retry_after_ms;
    if (transfer->too_large) {
        reply->outcome = TALVIEW_TOO_LARGE;
        if (!transfer->login)
            keep_excerpt(transfer, reply);
        return;
    }
    if (code != CURLE_OK) {
        reply->outcome = outcome_of_curl(code);
        set_detail(reply, transfer->sends > SENDS_MOST ? "connections end without an answer"
                          : transfer->error[0]         ? transfer->error
                                                       : curl_easy_strerror(code));
        return;
    }
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &reply->http_status);
    reply->outcome = outcome_of_status(reply->http_status, transfer->login);
    if (reply->outcome == TALVIEW_OK) {
        read_body(transfer, reply);
        return;
    }
    struct buf detail = BUF_INIT;
    buf_addf(&detail, "HTTP %ld", reply->http_status);
    set_detail(reply, buf_str(&detail));
    buf_release(&detail);
    if (reply->outcome == TALVIEW_MALFORMED && !transfer->login)
        keep_excerpt(transfer, reply);
}

static void finish(struct transfer *transfer, CURLcode code, talview_done_fn *fn, void *context)
{
    struct talview_reply reply = {.retry_after_ms = -1};
    void *tag = transfer->tag;
    read_reply(transfer, code, &reply);
    transfer_free(transfer);
    fn(context, tag, &reply);
    talview_session_release(&reply.session);
    buf_release(&reply.kept);
    wipe_free(reply.token);
}

static size_t hand_out(struct talview *talview, talview_done_fn *fn, void *context)
{
    int running, left;
    size_t count = 0;
    curl_multi_perform(talview->multi, &running);
    for (CURLMsg *msg; (msg = curl_multi_info_read(talview->multi, &left));) {
        if (msg->msg != CURLMSG_DONE)
            continue;
        struct transfer *transfer = NULL;
        CURLcode code = msg->data.result;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &transfer);
        finish(transfer, code, fn, context);
        count++;
    }
    return count;
}

size_t talview_step(struct talview *talview, int64_t wait_ms, int wake_fd, talview_done_fn *fn, void *context)
{
    size_t count = hand_out(talview, fn, context);
    if (count > 0 || wait_ms <= 0)
        return count;
    struct curl_waitfd wake = {.fd = wake_fd, .events = CURL_WAIT_POLLIN};
    curl_multi_poll(talview->multi, wake_fd >= 0 ? &wake : NULL, wake_fd >= 0 ? 1 : 0,
                    wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms, NULL);
    return hand_out(talview, fn, context);
}
