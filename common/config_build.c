/* What the options must be to each other, and `struct config` made of it all. */
#include "config_parts.h"

#include <stdlib.h>
#include <string.h>

#define SQLITE_PREFIX "sqlite:"

/* --- Small helpers -------------------------------------------------------------------------------------- */

static bool given(const struct config_section *section, const char *name)
{
    return config_section_value(section, name) != NULL;
}

static int line_of(const struct config_section *section, const char *name)
{
    const struct config_value *value = config_section_value(section, name);
    return value ? value->line : section ? section->line : 0;
}

char *config_resolve(const struct config_source *source, const char *path)
{
    struct buf whole = BUF_INIT;
    char *result;
    if (path[0] == '/')
        return xstrdup(path);
    buf_addf(&whole, "%s%s%s", source->folder, strcmp(source->folder, "/") == 0 ? "" : "/", path);
    result = xstrdup(whole.data);
    buf_release(&whole);
    return result;
}

char *config_absolute(const struct config_source *source, const struct config_option *option,
                      const char *text)
{
    size_t prefix = strlen(SQLITE_PREFIX);
    struct buf url = BUF_INIT;
    char *path, *result;
    if (!text)
        return NULL;
    if (option->type == CONFIG_PATH)
        return config_resolve(source, text);
    if (strcmp(option->section, "store") != 0 || strncmp(text, SQLITE_PREFIX, prefix) != 0)
        return xstrdup(text);
    path = config_resolve(source, text + prefix);
    buf_addf(&url, SQLITE_PREFIX "%s", path);
    result = xstrdup(url.data);
    buf_release(&url);
    free(path);
    return result;
}

/* --- Talview's addresses -------------------------------------------------------------------------------- */

/* From the vendor's page on its environments. */
static const struct {
    const char *name, *login, *session;
} environments[] = {
    {"production", "https://auth.talview.com/v1/user/login", "https://proctoring.talview.com/v1/sessions"},
    {"staging", "https://auth-staging.talview.com/v1/user/login",
     "https://proctoring-staging.talview.com/v1/sessions"},
    {"development", "https://auth.talview.dev/v1/user/login",
     "https://proview-universal.talview.dev/v1/sessions"},
};

static size_t environment_of(const struct config_section *section)
{
    const char *name = config_effective(section, config_option_named("proview", "environment"));
    size_t i, count = sizeof environments / sizeof environments[0];
    for (i = 0; i + 1 < count; i++) {
        if (strcmp(name, environments[i].name) == 0)
            break;
    }
    return i;
}

bool config_has_own_urls(const struct config_section *section)
{
    return config_section_value(section, "login_url") != NULL;
}

char *config_login_url(const struct config_section *section)
{
    const struct config_value *own = config_section_value(section, "login_url");
    return xstrdup(own ? own->text : environments[environment_of(section)].login);
}

char *config_session_url(const struct config_section *section)
{
    const struct config_value *own = config_section_value(section, "session_url");
    const char *url = own ? own->text : environments[environment_of(section)].session;
    size_t len = strlen(url);
    while (len > 0 && url[len - 1] == '/')
        len--;
    return xstrndup(url, len);
}

/* --- What sections must be ------------------------------------------------------------------------------ */

struct checking {
    const struct config_source *source;
    struct buf *why;
};

#define REFUSE(c, line, ...) config_refuse((c)->why, (c)->source->path, (line), __VA_ARGS__)

/* A secret is whole only when its last NAME_hex was read. */
static bool check_hex(const struct checking *c, const struct config_section *section)
{
    struct buf reason = BUF_INIT;
    bool good = true;
    size_t i;
    for (i = 0; good && i < section->count; i++) {
        const struct config_value *value = &section->values[i];
        if (value->form == CONFIG_HEX && !config_value_check(value->option, value->text, &reason))
            good = REFUSE(c, value->line, "%s_hex: %s", value->option->name, buf_str(&reason));
    }
    buf_release(&reason);
    return good;
}

/* Every NAME_previous needs a NAME. */
static bool check_previous(const struct checking *c, const struct config_section *section)
{
    static const char suffix[] = "_previous";
    size_t i;
    for (i = 0; i < section->count; i++) {
        const char *name = section->values[i].option->name;
        size_t len = strlen(name), cut = sizeof suffix - 1;
        char *base;
        bool good;
        if (len <= cut || strcmp(name + len - cut, suffix) != 0)
            continue;
        base = xstrndup(name, len - cut);
        good = given(section, base) ||
               REFUSE(c, section->values[i].line, "%s is given, but %s is not", name, base);
        free(base);
        if (!good)
            return false;
    }
    return true;
}

static bool check_together(const struct checking *c, const struct config_section *section, const char *one,
                           const char *other)
{
    if (given(section, one) && !given(section, other))
        return REFUSE(c, line_of(section, one), "%s is given, but %s is not", one, other);
    if (given(section, other) && !given(section, one))
        return REFUSE(c, line_of(section, other), "%s is given, but %s is not", other, one);
    return true;
}

static bool check_examjoint(const struct checking *c, const struct config_section *section)
{
    const struct config_value *id = config_section_value(section, "client_id"), *other;
    size_t i;
    if (!id)
        return REFUSE(c, section->line, "[examjoint %s] needs a client_id", section->account);
    if (!given(section, "client_secret"))
        return REFUSE(c, section->line, "[examjoint %s] needs a client_secret or a client_secret_file",
                      section->account);
    for (i = 0; &c->source->sections[i] != section; i++) {
        if (strcmp(c->source->sections[i].kind, "examjoint") != 0)
            continue;
        other = config_section_value(&c->source->sections[i], "client_id");
        if (other && strcmp(other->text, id->text) == 0)
            return REFUSE(c, id->line,
                          "[examjoint %s] has this client_id too: it must tell the accounts apart",
                          c->source->sections[i].account);
    }
    return true;
}

static bool is_protected(const struct config_section *section)
{
    return given(section, "path_token") || given(section, "header_secret") ||
           given(section, "basic_password");
}

static bool callback_open(const struct config_section *section)
{
    return strcmp(config_effective(section, config_option_named("proview", "callback_open")), "yes") == 0;
}

static bool check_proview(const struct checking *c, const struct config_section *section)
{
    if (!check_together(c, section, "login_url", "session_url") ||
        !check_together(c, section, "header_name", "header_secret") ||
        !check_together(c, section, "basic_user", "basic_password"))
        return false;
    if (given(section, "environment") && given(section, "login_url"))
        return REFUSE(
            c, line_of(section, "environment"),
            "environment is given beside login_url and session_url: leave out the one or the others");
    if (!is_protected(section) && !callback_open(section))
        return REFUSE(c, section->line,
                      "[proview %s] lets anybody send callbacks: give it a path_token, a header_name and "
                      "header_secret, or a basic_user and basic_password; or say callback_open = yes",
                      section->account);
    return true;
}

static bool account_exists(const struct config_source *source, const char *account)
{
    size_t i;
    for (i = 0; i < source->count; i++) {
        if (strcmp(source->sections[i].kind, "examjoint") == 0 &&
            strcmp(source->sections[i].account, account) == 0)
            return true;
    }
    return false;
}

static bool check_fields(const struct checking *c, const struct config_section *section)
{
    bool identity = false;
    int i;
    for (i = 0; i < section->map.count; i++)
        identity = identity || strcmp(section->map.at[i].column, CONFIG_SECRET_COLUMN) != 0;
    if (!identity)
        return REFUSE(c, section->line, "this section names no column that tells who the candidate is");
    if (section->account && !account_exists(c->source, section->account))
        return REFUSE(c, section->line, "there is no [examjoint %s]", section->account);
    return true;
}

static int64_t effective_number(const struct config_section *section, const char *kind, const char *name)
{
    const struct config_option *option = config_option_named(kind, name);
    return config_value_number(option, config_effective(section, option));
}

/* `less` must be below `more` (or as much, where `equal`). */
static bool check_order(const struct checking *c, const char *less, const char *more, bool equal)
{
    const struct config_section *section = config_source_section(c->source, "worker");
    int64_t a = effective_number(section, "worker", less), b = effective_number(section, "worker", more);
    if (a < b || (equal && a == b))
        return true;
    return REFUSE(c, line_of(section, given(section, more) ? more : less), "%s must be %s than %s", more,
                  equal ? "no shorter" : "longer", less);
}

bool config_source_check(const struct config_source *source, struct buf *why)
{
    struct checking c = {source, why};
    size_t i;
    for (i = 0; i < source->count; i++) {
        const struct config_section *section = &source->sections[i];
        bool good = check_hex(&c, section) && check_previous(&c, section);
        if (good && strcmp(section->kind, "examjoint") == 0)
            good = check_examjoint(&c, section);
        else if (good && strcmp(section->kind, "proview") == 0)
            good = check_proview(&c, section);
        else if (good && strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0)
            good = check_fields(&c, section);
        if (!good)
            return false;
    }
    return check_order(&c, "connect_timeout", "request_timeout", true) &&
           check_order(&c, "request_timeout", "lease", false) &&
           check_order(&c, "retry_first", "retry_max", true);
}

/* --- Secrets -------------------------------------------------------------------------------------------- */

struct building {
    const struct config_source *source;
    enum config_role role;
    struct config *config;
    struct buf *why;
};

/* Takes the path over. */
static void remember_file(struct config *config, char *path)
{
    size_t count = 0;
    while (config->secret_files && config->secret_files[count])
        count++;
    config->secret_files = xrealloc(config->secret_files, (count + 2) * sizeof *config->secret_files);
    config->secret_files[count] = path;
    config->secret_files[count + 1] = NULL;
}

static bool load_secret(const struct building *b, const struct config_section *section, const char *name,
                        struct buf *secret)
{
    char *path = NULL;
    bool good = config_secret_read(b->source, b->role, section, name, secret, &path, b->why);
    if (path)
        remember_file(b->config, path);
    return good;
}

/* The digest of the secret, with `prefix` in front of it. */
static bool load_digest(const struct building *b, const struct config_section *section, const char *name,
                        const char *prefix, struct secret *out)
{
    struct buf secret = BUF_INIT, whole = BUF_INIT;
    bool good = load_secret(b, section, name, &secret);
    if (good && secret.len > 0) {
        buf_adds(&whole, prefix);
        buf_add(&whole, secret.data, secret.len);
        secret_set(out, whole.data, whole.len);
    }
    buf_release(&secret);
    buf_release(&whole);
    return good;
}

static bool load_pair(const struct building *b, const struct config_section *section, const char *name,
                      const char *prefix, struct secret_pair *pair)
{
    struct buf previous = BUF_INIT;
    bool good;
    buf_addf(&previous, "%s_previous", name);
    good = load_digest(b, section, name, prefix, &pair->current) &&
           load_digest(b, section, previous.data, prefix, &pair->previous);
    buf_release(&previous);
    return good;
}

static bool load_text(const struct building *b, const struct config_section *section, const char *name,
                      char **out)
{
    struct buf secret = BUF_INIT;
    bool good = load_secret(b, section, name, &secret);
    if (good && secret.len > 0)
        *out = xstrdup(buf_str(&secret));
    buf_release(&secret);
    return good;
}

/* --- The sections that come once ------------------------------------------------------------------------ */

enum place_kind { PLACE_NUMBER, PLACE_TEXT, PLACE_LIST, PLACE_LEVEL };

#define NUMBER(section, name, member)                                \
    {                                                                \
        section, name, PLACE_NUMBER, offsetof(struct config, member) \
    }
#define TEXT(section, name, member)                                \
    {                                                              \
        section, name, PLACE_TEXT, offsetof(struct config, member) \
    }

static const struct place {
    const char *section, *name;
    enum place_kind kind;
    size_t offset;
} places[] = {
    TEXT("store", "url", store_url),
    NUMBER("store", "lock_wait", lock_wait_ms),
    NUMBER("store", "retention", retention_ms),
    {"log", "level", PLACE_LEVEL, offsetof(struct config, log_level)},
    NUMBER("server", "body_limit", body_limit_bytes),
    NUMBER("server", "request_wait", request_wait_ms),
    NUMBER("server", "connections", connections_max),
    NUMBER("verify", "budget", budget_ms),
    NUMBER("verify", "hash_threads", hash_threads),
    NUMBER("verify", "queue", queue_max),
    TEXT("verify", "languages", languages),
    TEXT("verify", "default_language", default_language),
    {"verify", "nocase", PLACE_LIST, offsetof(struct config, nocase)},
    NUMBER("throttle", "failures", throttle_failures),
    NUMBER("throttle", "window", throttle_window_ms),
    NUMBER("throttle", "pause", throttle_pause_ms),
    NUMBER("throttle", "rows", throttle_rows),
    NUMBER("throttle", "spike", throttle_spike),
    TEXT("roster", "timezone", timezone),
    TEXT("roster", "hash", hash),
    NUMBER("callbacks", "open_count_hour", open_count_hour),
    NUMBER("callbacks", "open_bytes_hour", open_bytes_hour),
    NUMBER("callbacks", "fetches_session_hour", fetches_session_hour),
    NUMBER("worker", "transfers", transfers_max),
    NUMBER("worker", "connect_timeout", connect_timeout_ms),
    NUMBER("worker", "request_timeout", request_timeout_ms),
    NUMBER("worker", "reply_limit", reply_limit_bytes),
    NUMBER("worker", "poll", poll_ms),
    NUMBER("worker", "lease", lease_ms),
    NUMBER("worker", "retry_first", retry_first_ms),
    NUMBER("worker", "retry_max", retry_max_ms),
    NUMBER("worker", "rating_wait", rating_wait_ms),
    NUMBER("worker", "rating_wait_human", rating_wait_human_ms),
    NUMBER("worker", "failure_wait", failure_wait_ms),
    NUMBER("worker", "not_found_wait", not_found_wait_ms),
    NUMBER("worker", "watch_window", watch_window_ms),
    NUMBER("worker", "watch_every", watch_every_ms),
    NUMBER("worker", "login_pause", login_pause_ms),
    TEXT("worker", "proxy", proxy),
};
#define PLACE_COUNT (sizeof places / sizeof places[0])

static char **list_of(const char *text)
{
    char **list = xcalloc(1, sizeof *list);
    size_t count = 0;
    while (*text) {
        const char *end = strchrnul(text, ',');
        size_t len = (size_t)(end - text);
        const char *word = trimmed(text, &len);
        list = xrealloc(list, (count + 2) * sizeof *list);
        list[count++] = xstrndup(word, len);
        list[count] = NULL;
        text = *end ? end + 1 : end;
    }
    return list;
}

static void fill_place(const struct building *b, const struct place *place)
{
    const struct config_option *option = config_option_named(place->section, place->name);
    const struct config_section *section = config_source_section(b->source, place->section);
    const char *text = config_effective(section, option);
    char *at = (char *)b->config + place->offset;
    if (!(option->roles & (unsigned)b->role))
        return;
    switch (place->kind) {
    case PLACE_NUMBER:
        *(int64_t *)(void *)at = text ? config_value_number(option, text) : 0;
        break;
    case PLACE_TEXT:
        *(char **)(void *)at = config_absolute(b->source, option, text);
        break;
    case PLACE_LIST:
        *(char ***)(void *)at = list_of(text);
        break;
    case PLACE_LEVEL:
        log_level_parse(text, (enum log_level *)(void *)at); /* a choice: it is one of the words */
        break;
    }
}

/* --- The sections that come once for each account ------------------------------------------------------- */

/* A plain value of the section, for the roles that get it; allocated. */
static char *plain(const struct building *b, const struct config_section *section, const char *name)
{
    const struct config_value *value = config_section_value(section, name);
    if (!value || !(value->option->roles & (unsigned)b->role))
        return NULL;
    return config_absolute(b->source, value->option, value->text);
}

static bool build_examjoint(const struct building *b, const struct config_section *section)
{
    struct config *config = b->config;
    struct config_examjoint *account;
    config->examjoint = xrealloc(config->examjoint, (config->examjoint_count + 1) * sizeof *account);
    account = &config->examjoint[config->examjoint_count++];
    *account = (struct config_examjoint){.name = xstrdup(section->account)};
    account->client_id = plain(b, section, "client_id");
    return load_pair(b, section, "client_secret", "", &account->client_secret);
}

static bool load_basic(const struct building *b, const struct config_section *section,
                       struct secret_pair *pair)
{
    const struct config_value *user = config_section_value(section, "basic_user");
    struct buf prefix = BUF_INIT;
    bool good;
    if (!user)
        return true;
    buf_addf(&prefix, "%s:", user->text);
    good = load_pair(b, section, "basic_password", prefix.data, pair);
    buf_release(&prefix);
    return good;
}

static bool build_proview(const struct building *b, const struct config_section *section)
{
    struct config *config = b->config;
    struct config_proview *account;
    config->proview = xrealloc(config->proview, (config->proview_count + 1) * sizeof *account);
    account = &config->proview[config->proview_count++];
    *account = (struct config_proview){.name = xstrdup(section->account)};
    account->callback_open = callback_open(section);
    account->has_path_token = given(section, "path_token");
    account->has_header = given(section, "header_secret");
    account->has_basic = given(section, "basic_password");
    account->header_name = plain(b, section, "header_name");
    account->login_url = config_login_url(section);
    account->session_url = config_session_url(section);
    account->ca_file = plain(b, section, "ca_file");
    int64_t username_at_ms = config_secret_written_ms(b->source, b->role, section, "username");
    account->credentials_at_ms = config_secret_written_ms(b->source, b->role, section, "password");
    if (account->credentials_at_ms < username_at_ms)
        account->credentials_at_ms = username_at_ms;
    return load_pair(b, section, "path_token", "", &account->path_token) &&
           load_pair(b, section, "header_secret", "", &account->header_secret) &&
           load_basic(b, section, &account->basic) && load_text(b, section, "username", &account->username) &&
           load_text(b, section, "password", &account->password) &&
           load_text(b, section, "app_id", &account->app_id);
}

static bool build_fields(const struct building *b, const struct config_section *section)
{
    struct config *config = b->config;
    struct config_fields *fields;
    config->fields = xrealloc(config->fields, (config->fields_count + 1) * sizeof *fields);
    fields = &config->fields[config->fields_count++];
    *fields = (struct config_fields){
        .account = xstrdup(section->account), .exam = xstrdup(section->exam), .map = section->map};
    return true;
}

static bool build(const struct building *b)
{
    size_t i;
    b->config->path = xstrdup(b->source->path);
    b->config->personal = b->source->personal;
    for (i = 0; i < PLACE_COUNT; i++)
        fill_place(b, &places[i]);
    for (i = 0; i < b->source->count; i++) {
        const struct config_section *section = &b->source->sections[i];
        bool good = true;
        if (strcmp(section->kind, "examjoint") == 0)
            good = build_examjoint(b, section);
        else if (strcmp(section->kind, "proview") == 0)
            good = build_proview(b, section);
        else if (strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0)
            good = build_fields(b, section);
        if (!good)
            return false;
    }
    return true;
}

bool config_load(const char *path, enum config_role role, struct config **out, struct buf *why)
{
    struct config_source source;
    struct building b = {&source, role, xcalloc(1, sizeof(struct config)), why};
    bool good = config_source_read(path, &source, why) && build(&b);
    config_source_release(&source);
    if (good)
        *out = b.config;
    else
        config_free(b.config);
    return good;
}

/* --- Freeing, asking ------------------------------------------------------------------------------------ */

static void free_list(char **list)
{
    size_t i;
    for (i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static void free_accounts(struct config *config)
{
    size_t i;
    for (i = 0; i < config->examjoint_count; i++) {
        free(config->examjoint[i].name);
        free(config->examjoint[i].client_id);
    }
    for (i = 0; i < config->proview_count; i++) {
        struct config_proview *account = &config->proview[i];
        free(account->name);
        free(account->header_name);
        free(account->login_url);
        free(account->session_url);
        free(account->ca_file);
        wipe_free(account->username);
        wipe_free(account->password);
        wipe_free(account->app_id);
    }
    for (i = 0; i < config->fields_count; i++) {
        free(config->fields[i].account);
        free(config->fields[i].exam);
    }
    free(config->examjoint);
    free(config->proview);
    free(config->fields);
}

void config_free(struct config *config)
{
    size_t i;
    if (!config)
        return;
    for (i = 0; i < PLACE_COUNT; i++) {
        if (places[i].kind == PLACE_TEXT)
            free(*(char **)(void *)((char *)config + places[i].offset));
    }
    free_list(config->nocase);
    free_list(config->secret_files);
    free_accounts(config);
    free(config->path);
    free(config);
}

const struct config_examjoint *config_examjoint_named(const struct config *config, const char *name)
{
    size_t i;
    for (i = 0; i < config->examjoint_count; i++) {
        if (strcmp(config->examjoint[i].name, name) == 0)
            return &config->examjoint[i];
    }
    return NULL;
}

/* How closely a section fits: 3 account and exam, 2 exam, 1 account, 0 all; -1: it is for others. */
static int fit(const struct config_fields *fields, const char *account, const char *exam)
{
    int result = 0;
    if (fields->account) {
        if (!account || strcmp(fields->account, account) != 0)
            return -1;
        result += 1;
    }
    if (fields->exam) {
        if (!exam || strcmp(fields->exam, exam) != 0)
            return -1;
        result += 2;
    }
    return result;
}

const struct field_map *config_field_map(const struct config *config, const char *account, const char *exam)
{
    const struct field_map *best = NULL;
    int best_fit = -1;
    size_t i;
    for (i = 0; i < config->fields_count; i++) {
        int f = fit(&config->fields[i], account, exam);
        if (f > best_fit) {
            best_fit = f;
            best = &config->fields[i].map;
        }
    }
    return best;
}

bool config_is_nocase(const struct config *config, const char *column)
{
    char **word;
    for (word = config->nocase; word && *word; word++) {
        if (strcmp(*word, column) == 0)
            return true;
    }
    return false;
}
