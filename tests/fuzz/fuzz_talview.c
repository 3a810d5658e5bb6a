/* The readers of what Talview answers, each over the same bytes. */
#include <strings.h>

#include "../../common/json.h"
#include "../../common/talview.h"
#include "fuzz.h"

#define UUID "f46bd560-53f6-11eb-b441-492a960aa0ba"
#define TOKEN "TOKENtoken"

static void check_session(const char *text, size_t size)
{
    struct talview_session session = {0};
    const char *word = talview_session_read(text, size, UUID, &session);
    if (word) {
        MUST(fuzz_is_word(word));
        MUST(!session.external_id && !session.type && !session.status && !session.rating);
        return;
    }
    const char *texts[] = {session.external_id, session.type, session.status, session.rating};
    for (size_t i = 0; i < 4; i++)
        MUST(!texts[i] || (strlen(texts[i]) <= TALVIEW_TEXT_MAX && utf8_valid(texts[i], strlen(texts[i]))));
    const char *normal = talview_rating_normal(session.rating ? session.rating : "");
    MUST(strcmp(normal, "high") == 0 || strcmp(normal, "medium") == 0 || strcmp(normal, "low") == 0 ||
         strcmp(normal, "none") == 0);
    MUST(talview_is_rating(session.rating) || strcmp(normal, "none") == 0);
    talview_session_release(&session);
}

static void check_login(const char *text, size_t size)
{
    char *token = NULL;
    int64_t lifetime_s = 0;
    const char *word = talview_login_read(text, size, &token, &lifetime_s);
    if (word) {
        MUST(fuzz_is_word(word) && !token);
        return;
    }
    MUST(token && token[0] != '\0' && strlen(token) <= TALVIEW_TOKEN_MAX);
    MUST(!strpbrk(token, "\r\n")); /* it goes into a header */
    MUST(lifetime_s >= TALVIEW_EXPIRES_MIN_S && lifetime_s <= TALVIEW_EXPIRES_MAX_S);
    wipe_free(token);
}

static void check_excerpt(const char *text, size_t size)
{
    struct buf out = BUF_INIT;
    talview_excerpt(text, size, (const char *const[TALVIEW_SECRETS]){TOKEN}, &out);
    MUST(out.len <= TALVIEW_KEPT_MAX);
    MUST(out.len == 0 || utf8_valid(out.data, out.len));
    MUST(!fuzz_contains(&out, TOKEN));
    buf_release(&out);
}

/* An http address that is no loopback one must not pass; libcurl reads numbers in any base, and %xx. */
static void check_url(const char *url)
{
    if (!talview_url_ok(url))
        return;
    const char *host = strstr(url, "://");
    MUST(host && !strpbrk(url, "?# \t\r\n"));
    host += 3;
    size_t len = strcspn(host, "/");
    MUST(len > 0 && !memchr(host, '@', len));
    if (strncasecmp(url, "https:", 6) == 0)
        return;
    MUST(strncasecmp(url, "http:", 5) == 0);
    MUST(strncasecmp(host, "localhost", 9) == 0 || memchr(host, '%', len) ||
         strspn(host, "0123456789abcdefABCDEFxX.:[]") >= len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct fuzz_rest rest = {text, size};
    char *line = fuzz_line(&rest);
    int64_t wait_ms = -1;

    check_session(text, size);
    check_login(text, size);
    check_excerpt(text, size);
    check_url(line);
    if (talview_retry_after(text, size, INT64_C(1700000000000), &wait_ms))
        MUST(wait_ms >= 0);
    MUST(!talview_uuid_ok(line) || strlen(line) == TALVIEW_UUID_LEN);
    free(line);
    return 0;
}
