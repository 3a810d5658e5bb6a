#include "credentials.h"

#include <sodium.h>
#include <string.h>
#include <strings.h>

#include "../common/clock.h"
#include "../common/log.h"

#define MINUTE_MS 60000
#define BASIC_BYTES_MAX 1024

bool once_a_minute(struct once_a_minute *gate, int64_t monotonic_ms)
{
    if (gate->used && monotonic_ms - gate->last_ms < MINUTE_MS) {
        return false;
    }
    gate->used = true;
    gate->last_ms = monotonic_ms;
    return true;
}

void previous_used(struct previous_use *use, const char *account, const char *what)
{
    use->count++;
    if (once_a_minute(&use->gate, clock_monotonic_ms())) {
        log_warn("a previous secret is still in use", LOG_S("account", account), LOG_S("secret", what),
                 LOG_I("count", (long long)use->count));
    }
}

const struct config_examjoint *credentials_examjoint(const struct config *config, const char *id,
                                                     const char *secret, enum secret_match *match)
{
    const struct config_examjoint *account = NULL;
    enum secret_match found = SECRET_NO;
    size_t id_len = id ? strlen(id) : 0;
    size_t secret_len = secret ? strlen(secret) : 0;

    for (size_t i = 0; i < config->examjoint_count; i++) {
        const struct config_examjoint *candidate = &config->examjoint[i];
        const char *client_id = candidate->client_id ? candidate->client_id : "";
        bool same_id = secret_equal(client_id, strlen(client_id), id ? id : "", id_len);
        enum secret_match same_secret = secret_check(&candidate->client_secret, secret, secret_len);
        /* Not &&: nothing is skipped. */
        if ((int)same_id & (int)(same_secret != SECRET_NO) & (int)(id_len > 0)) {
            account = candidate;
            found = same_secret;
        }
    }
    if (account) {
        *match = found;
    }
    return account;
}

const struct config_proview *credentials_proview(const struct config *config, const struct path_proview *path,
                                                 enum secret_match *match)
{
    static const struct secret_pair nothing = {{false, {0}}, {false, {0}}};
    const struct path_proview none = {.name = "", .token = NULL};
    const struct config_proview *account = NULL;

    if (!path) {
        path = &none;
    }
    for (size_t i = 0; i < config->proview_count; i++) {
        const struct config_proview *candidate = &config->proview[i];
        if (secret_equal(candidate->name, strlen(candidate->name), path->name, path->name_len)) {
            account = candidate;
        }
    }
    bool wants_token = account && account->has_path_token;
    enum secret_match token = secret_check(wants_token ? &account->path_token : &nothing,
                                           path->token ? path->token : "", path->token_len);
    if (!account || (wants_token ? token == SECRET_NO : path->token != NULL)) {
        return NULL;
    }
    *match = wants_token ? token : SECRET_CURRENT;
    return account;
}

enum secret_match credentials_basic(const struct secret_pair *basic, const char *authorization)
{
    static const char scheme[] = "Basic ";
    unsigned char decoded[BASIC_BYTES_MAX];
    size_t len = 0;
    bool readable = false;

    if (authorization && strncasecmp(authorization, scheme, sizeof scheme - 1) == 0) {
        size_t text_len = strlen(authorization + sizeof scheme - 1);
        const char *text = trimmed(authorization + sizeof scheme - 1, &text_len);
        readable = sodium_base642bin(decoded, sizeof decoded, text, text_len, NULL, &len, NULL,
                                     sodium_base64_VARIANT_ORIGINAL) == 0;
    }
    enum secret_match match = secret_check(basic, readable ? (const char *)decoded : NULL, len);
    sodium_memzero(decoded, sizeof decoded);
    return match;
}
