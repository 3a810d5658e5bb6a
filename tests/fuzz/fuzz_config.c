/* The configuration's reader. What is refused is refused with words and without a secret; what is accepted
 * can be written for its role and read again, with the same effect. */
#include <stdio.h>
#include <unistd.h>

#include "../../common/config.h"
#include "fuzz.h"

#define CANARY "CANARY"

static const char *const secret_names[] = {"client_secret", "path_token", "header_secret", "basic_password",
                                           "username",      "password",   "app_id"};

/* Whether the line is NAME = or NAME_previous = of an option that is a secret. */
static bool is_secret_line(const char *line)
{
    line += strspn(line, " \t");
    for (size_t i = 0; i < sizeof secret_names / sizeof *secret_names; i++) {
        size_t len = strlen(secret_names[i]);
        if (strncmp(line, secret_names[i], len) != 0)
            continue;
        const char *rest = line + len;
        if (strncmp(rest, "_previous", 9) == 0)
            rest += 9;
        rest += strspn(rest, " \t");
        return *rest == '=';
    }
    return false;
}

/* Whether the word stands nowhere but in values of secret options. */
static bool only_in_secrets(const uint8_t *data, size_t size)
{
    struct fuzz_rest rest = {(const char *)data, size};
    bool only = true;
    while (only && rest.len > 0) {
        char *line = fuzz_line(&rest);
        only = !strstr(line, CANARY) || is_secret_line(line);
        free(line);
    }
    return only;
}

static void check_again(const char *path, enum config_role role)
{
    struct buf once = BUF_INIT, twice = BUF_INIT, why = BUF_INIT;
    struct config *config;
    char again[64];
    int64_t changed_ms;

    if (!config_render(path, role, &once, &changed_ms, &why)) {
        /* A relative path may fit its line where the whole one does not. */
        MUST(once.len == 0 && strstr(buf_str(&why), "cannot stand on a line"));
        buf_release(&once);
        buf_release(&why);
        return;
    }
    int fd = fuzz_file(once.data, once.len);
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    MUST(config_load(again, role, &config, &why));
    config_free(config);
    MUST(config_render(again, role, &twice, &changed_ms, &why));
    MUST(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    close(fd);
    buf_release(&once);
    buf_release(&twice);
    buf_release(&why);
}

static void check_print(const char *path, bool hidden)
{
    struct buf out = BUF_INIT, why = BUF_INIT;
    bool ok;
    config_print(path, &out, &why, &ok);
    MUST(ok || why.len > 0);
    if (hidden)
        MUST(!fuzz_contains(&out, CANARY) && !fuzz_contains(&why, CANARY));
    buf_release(&out);
    buf_release(&why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum config_role roles[] = {CONFIG_EXAMJOINT, CONFIG_PROVIEW, CONFIG_WORKER,
                                             CONFIG_OPERATOR};
    int fd = fuzz_file(data, size);
    bool hidden = only_in_secrets(data, size);
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fuzz_log_clear();
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        struct config *config = NULL;
        struct buf why = BUF_INIT;
        if (config_load(path, roles[i], &config, &why)) {
            MUST(why.len == 0 && config->store_url);
            config_free(config);
            if (roles[i] != CONFIG_OPERATOR)
                check_again(path, roles[i]);
        } else {
            MUST(why.len > 0);
            if (hidden)
                MUST(!fuzz_contains(&why, CANARY));
        }
        buf_release(&why);
    }
    check_print(path, hidden);
    if (hidden)
        MUST(!fuzz_contains(fuzz_log(), CANARY));
    close(fd);
    return 0;
}
