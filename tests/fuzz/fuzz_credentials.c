/*
 * The checks of a caller's secrets against a plain comparison: accepted if and only if it is the one that is
 * configured, or the one before it. Lines of an input: what is given, current, previous, another account's,
 * the id given, the id configured.
 */
#include <sodium.h>
#include <strings.h>

#include "../../fcgi/credentials.h"
#include "fuzz.h"

enum { GIVEN, CURRENT, PREVIOUS, OTHER, ID_GIVEN, ID, LINES };

static struct secret_pair pair_of(const char *current, const char *previous)
{
    struct secret_pair pair = {0};
    secret_set(&pair.current, current, strlen(current));
    secret_set(&pair.previous, previous, strlen(previous));
    return pair;
}

/* An empty secret is one that is not configured. */
static enum secret_match expected(const char *given, const char *current, const char *previous)
{
    if (given && current[0] != '\0' && strcmp(given, current) == 0)
        return SECRET_CURRENT;
    return given && previous[0] != '\0' && strcmp(given, previous) == 0 ? SECRET_PREVIOUS : SECRET_NO;
}

static void check_headers(char **line)
{
    struct config_examjoint accounts[] = {
        {.name = xstrdup("a"),
         .client_id = line[ID],
         .client_secret = pair_of(line[CURRENT], line[PREVIOUS])},
        {.name = xstrdup("b"), .client_id = xstrdup("another id"), .client_secret = pair_of(line[OTHER], "")},
    };
    struct config config = {.examjoint = accounts, .examjoint_count = 2};
    enum secret_match match = SECRET_NO, wanted = expected(line[GIVEN], line[CURRENT], line[PREVIOUS]);
    bool own_id = line[ID][0] != '\0' && strcmp(line[ID_GIVEN], line[ID]) == 0;
    bool other_id = strcmp(line[ID_GIVEN], "another id") == 0;
    bool other = other_id && expected(line[GIVEN], line[OTHER], "") != SECRET_NO;
    const struct config_examjoint *found =
        credentials_examjoint(&config, line[ID_GIVEN], line[GIVEN], &match);

    MUST(secret_check(&accounts[0].client_secret, line[GIVEN], strlen(line[GIVEN])) == wanted);
    MUST((found != NULL) == ((own_id && wanted != SECRET_NO) || other));
    if (found == &accounts[0])
        MUST(own_id && match == wanted);
    if (found == &accounts[1])
        MUST(other);
    MUST(!credentials_examjoint(&config, NULL, line[GIVEN], &match));
    MUST(!credentials_examjoint(&config, line[ID_GIVEN], NULL, &match));
    free(accounts[0].name);
    free(accounts[1].name);
    free(accounts[1].client_id);
}

static void check_path(char **line)
{
    struct config_proview account = {.name = xstrdup("demo"),
                                     .has_path_token = true,
                                     .path_token = pair_of(line[CURRENT], line[PREVIOUS])};
    struct config config = {.proview = &account, .proview_count = 1};
    struct path_proview path = {.name = line[ID_GIVEN],
                                .name_len = strlen(line[ID_GIVEN]),
                                .token = line[GIVEN],
                                .token_len = strlen(line[GIVEN])};
    enum secret_match match = SECRET_NO, wanted = expected(line[GIVEN], line[CURRENT], line[PREVIOUS]);
    bool named = strcmp(line[ID_GIVEN], "demo") == 0;
    MUST((credentials_proview(&config, &path, &match) != NULL) == (named && wanted != SECRET_NO));
    /* A token where none is wanted is a wrong path, and the other way round. */
    account.has_path_token = false;
    MUST(!credentials_proview(&config, &path, &match));
    path.token = NULL;
    path.token_len = 0;
    MUST((credentials_proview(&config, &path, &match) != NULL) == named);
    account.has_path_token = true;
    MUST(!credentials_proview(&config, &path, &match));
    MUST(!credentials_proview(&config, NULL, &match));
    free(account.name);
}

static char *base64(const char *text)
{
    size_t len = strlen(text), room = sodium_base64_encoded_len(len, sodium_base64_VARIANT_ORIGINAL);
    return sodium_bin2base64(xcalloc(1, room), room, (const unsigned char *)text, len,
                             sodium_base64_VARIANT_ORIGINAL);
}

static void check_basic(char **line)
{
    struct secret_pair basic = pair_of(line[CURRENT], line[PREVIOUS]);
    char *current = base64(line[CURRENT]), *previous = base64(line[PREVIOUS]), *given = base64(line[GIVEN]);
    struct buf header = BUF_INIT;

    buf_addf(&header, "BaSiC %s", given);
    if (strlen(line[GIVEN]) <= 512)
        MUST(credentials_basic(&basic, buf_str(&header)) ==
             expected(line[GIVEN], line[CURRENT], line[PREVIOUS]));
    /* The line as it is, for a header: taken only where it is the one text that stands for the secret. */
    if (credentials_basic(&basic, line[GIVEN]) != SECRET_NO) {
        MUST(strncasecmp(line[GIVEN], "Basic ", 6) == 0);
        size_t len = strlen(line[GIVEN] + 6);
        const char *text = trimmed(line[GIVEN] + 6, &len);
        MUST((len == strlen(current) && memcmp(text, current, len) == 0) ||
             (len == strlen(previous) && memcmp(text, previous, len) == 0));
    }
    MUST(credentials_basic(&basic, NULL) == SECRET_NO);
    free(current);
    free(previous);
    free(given);
    buf_release(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_rest rest = {(const char *)data, size};
    char *line[LINES];
    for (size_t i = 0; i < LINES; i++)
        line[i] = fuzz_line(&rest);
    check_headers(line);
    check_path(line);
    check_basic(line);
    for (size_t i = 0; i < LINES; i++)
        free(line[i]);
    return 0;
}
