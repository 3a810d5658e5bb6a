#include "rehearse_http.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "../common/talview.h"

#define CONNECT_TIMEOUT_MS 10000L
/* Open files of one request while its host is looked up, and those that others need. */
#define DESCRIPTORS_EACH 3
#define DESCRIPTORS_SPARE 64

struct rehearse_http {
    CURLM *multi;
    char *base, *ca_file;
    size_t most, under_way;
    struct transfer *transfers[REHEARSE_HTTP_MOST]; /* those under way */
};

struct transfer {
    struct rehearse_http *http;
    CURL *easy;
    struct curl_slist *headers;
    struct buf reply;
    void *tag;
    char error[CURL_ERROR_SIZE];
    size_t place; /* among those under way */
};

bool rehearse_http_base_ok(const char *base)
{
    const char *host = base + strlen("https://");
    return strncmp(base, "https://", strlen("https://")) == 0 && *host != '\0' &&
           strcspn(host, "/?#@ \t\r\n\\") == strlen(host);
}

/* How many requests the limit of open files bears, which is raised as far as that goes. */
static size_t room_for_requests(void)
{
    const rlim_t need = DESCRIPTORS_EACH * REHEARSE_HTTP_MOST + DESCRIPTORS_SPARE;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need)
        return REHEARSE_HTTP_MOST;
    limit.rlim_cur = limit.rlim_max < need ? limit.rlim_max : need;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1;
    if (limit.rlim_cur <= DESCRIPTORS_SPARE + DESCRIPTORS_EACH)
        return 1;
    return (size_t)(limit.rlim_cur - DESCRIPTORS_SPARE) / DESCRIPTORS_EACH;
}

struct rehearse_http *rehearse_http_new(const char *base, const char *ca_file, struct buf *why)
{
    const char *authorities = ca_file;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        buf_adds(why, "libcurl could not be set up");
        return NULL;
    }
    if (!authorities)
        authorities = talview_authorities(why);
    if (!authorities)
        return NULL;
    struct rehearse_http *http = xcalloc(1, sizeof *http);
    http->base = xstrdup(base);
    http->ca_file = xstrdup(authorities);
    http->most = room_for_requests();
    http->multi = curl_multi_init();
    if (http->multi)
        curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)REHEARSE_HTTP_MOST);
    return http;
}

static void transfer_free(struct transfer *transfer)
{
    struct rehearse_http *http = transfer->http;
    struct transfer *last = http->transfers[--http->under_way];
    http->transfers[transfer->place] = last;
    last->place = transfer->place;
    curl_easy_cleanup(transfer->easy);
    curl_slist_free_all(transfer->headers);
    buf_release(&transfer->reply);
    free(transfer);
}

void rehearse_http_free(struct rehearse_http *http)
{
    if (!http)
        return;
    while (http->under_way > 0) {
        struct transfer *transfer = http->transfers[http->under_way - 1];
        curl_multi_remove_handle(http->multi, transfer->easy);
        transfer_free(transfer);
    }
    curl_multi_cleanup(http->multi);
    curl_global_cleanup();
    free(http->base);
    free(http->ca_file);
    free(http);
}

static size_t keep_reply(char *bytes, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    size_t len = size * count, room = REHEARSE_HTTP_REPLY - transfer->reply.len;
    buf_add(&transfer->reply, bytes, len < room ? len : room);
    return len;
}

static bool set_headers(struct transfer *transfer, const char *const *headers)
{
    /* "Expect:": no question before a body. The type is not documented by the vendors, and what most send. */
    static const char *const always[] = {"Content-Type: application/json", "Expect:", NULL};
    const char *const *lists[] = {always, headers};
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; lists[i] && lists[i][k]; k++) {
            struct curl_slist *longer = curl_slist_append(transfer->headers, lists[i][k]);
            if (!longer)
                return false;
            transfer->headers = longer;
        }
    }
    return curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK;
}

static bool set_up(struct transfer *transfer, const struct rehearse_request *request)
{
    CURL *easy = transfer->easy;
    struct buf url = BUF_INIT;
    buf_addf(&url, "%s%s", transfer->http->base, request->path);
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, buf_str(&url)) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)request->len) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request->body) == CURLE_OK &&
              curl_easy_setopt(easy, CURLOPT_CAINFO, transfer->http->ca_file) == CURLE_OK &&
              /* Or the host's folder of authorities would count beside the file. */
              curl_easy_setopt(easy, CURLOPT_CAPATH, NULL) == CURLE_OK &&
              set_headers(transfer, request->headers);
    buf_release(&url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep_reply);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    return ok;
}

bool rehearse_http_post(struct rehearse_http *http, const struct rehearse_request *request, void *tag)
{
    if (!http->multi || http->under_way >= http->most)
        return false;
    struct transfer *transfer = xcalloc(1, sizeof *transfer);
    transfer->http = http;
    transfer->tag = tag;
    transfer->easy = curl_easy_init();
    transfer->place = http->under_way;
    http->transfers[http->under_way++] = transfer;
    if (transfer->easy && set_up(transfer, request) &&
        curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK)
        return true;
    transfer_free(transfer);
    return false;
}

size_t rehearse_http_under_way(const struct rehearse_http *http)
{
    return http->under_way;
}

static bool refuses(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_URL_MALFORMAT:
        return true;
    default:
        return false;
    }
}

static void hand_out(struct transfer *transfer, CURLcode code, rehearse_http_fn *fn, void *context)
{
    struct rehearse_reply reply = {.retry_after_s = -1};
    struct curl_header *header;
    if (code == CURLE_OK) {
        curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &reply.status);
        if (curl_easy_header(transfer->easy, "Retry-After", 0, CURLH_HEADER, -1, &header) == CURLHE_OK &&
            header->value[0] >= '0' && header->value[0] <= '9')
            reply.retry_after_s = strtoll(header->value, NULL, 10);
    } else {
        reply.timed_out = code == CURLE_OPERATION_TIMEDOUT;
        reply.refuses = refuses(code);
        reply.trouble = transfer->error[0] ? transfer->error : curl_easy_strerror(code);
    }
    reply.body = buf_str(&transfer->reply);
    reply.len = transfer->reply.len;
    fn(context, transfer->tag, &reply);
}

void rehearse_http_step(struct rehearse_http *http, int64_t wait_ms, rehearse_http_fn *fn, void *context)
{
    int running = 0, left = 0;
    CURLMsg *message;
    curl_multi_perform(http->multi, &running);
    message = curl_multi_info_read(http->multi, &left);
    if (!message && wait_ms > 0) {
        curl_multi_poll(http->multi, NULL, 0, (int)wait_ms, NULL);
        curl_multi_perform(http->multi, &running);
        message = curl_multi_info_read(http->multi, &left);
    }
    for (; message; message = curl_multi_info_read(http->multi, &left)) {
        char *own = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &own);
        struct transfer *transfer = (struct transfer *)(void *)own;
        curl_multi_remove_handle(http->multi, transfer->easy);
        hand_out(transfer, code, fn, context);
        transfer_free(transfer);
    }
}
