#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../common/config_parts.h"

#define GOOD_SECRET "CANARY-good-secret-1"
/* What no line of the configuration could hold. */
#define ODD_SECRET " \"quoted\" ; # = [x] 'ü' "
#define LONG_SECRET_BYTES 5000

static void write_file(const char *path, mode_t mode, const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

/* A folder of its own for every test, with the secret files of config_refused.txt. */
static int make_folder(void **state)
{
    static char long_secret[LONG_SECRET_BYTES + 1];
    const struct {
        const char *name, *bytes;
        size_t len;
        mode_t mode;
    } files[] = {
        {"good", GOOD_SECRET "\n", sizeof GOOD_SECRET, 0600},
        {"empty", "", 0, 0600},
        {"newline", "\r\n", 2, 0600},
        {"open", GOOD_SECRET, sizeof GOOD_SECRET - 1, 0644},
        {"lines", "CANARY-1\nCANARY-2\n", 18, 0600},
        {"short", "CANARY-1\n", 9, 0600},
        {"blank", " CANARY-secret-1\n", 17, 0600},
        {"nul", "CANARY\0more", 11, 0600},
        {"odd", ODD_SECRET "\r\n", sizeof ODD_SECRET + 1, 0600},
        {"long", long_secret, sizeof long_secret, 0600},
    };
    char template[] = "/tmp/examhook-config-XXXXXX", *folder = mkdtemp(template);
    size_t i;
    assert_non_null(folder);
    memset(long_secret, 'L', LONG_SECRET_BYTES);
    long_secret[LONG_SECRET_BYTES] = '\n';
    for (i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
        write_file(path, files[i].mode, files[i].bytes, files[i].len);
    }
    *state = xstrdup(folder);
    return 0;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"good",  "empty", "newline", "open", "lines", "short",
                                        "blank", "nul",   "odd",     "long", "t.conf"};
    char *folder = *state, path[64];
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(folder), 0);
    free(folder);
    return 0;
}

/* Puts the folder for "@", and what else the table's head says. */
static void add_expanded(struct buf *out, const char *text, const char *folder)
{
    int i;
    for (; *text; text++) {
        if (*text == '@' && (text[1] == '/' || text[1] == '\0' || text[1] == '\n' || text[1] == ' ')) {
            buf_adds(out, folder);
        } else if (*text == '%' && strchr("txl", text[1])) {
            text++;
            if (*text == 'l') {
                for (i = 0; i < 200; i++)
                    buf_addc(out, 'l');
            } else {
                buf_addc(out, *text == 't' ? '\t' : '\x01');
            }
        } else {
            buf_addc(out, *text);
        }
    }
}

static void write_config(const char *folder, const char *text, mode_t mode, char path[64])
{
    struct buf expanded = BUF_INIT;
    add_expanded(&expanded, text, folder);
    snprintf(path, 64, "%s/t.conf", folder);
    write_file(path, mode, buf_str(&expanded), expanded.len);
    buf_release(&expanded);
}

static struct config *load(const char *folder, const char *text, enum config_role role)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    char path[64];
    write_config(folder, text, 0600, path);
    if (!config_load(path, role, &config, &why))
        fail_msg("refused: %s", buf_str(&why));
    buf_release(&why);
    return config;
}

/* --- The table of what is refused ----------------------------------------------------------------------- */

struct refused {
    struct buf name, text, expected;
    enum config_role role;
};

static enum config_role role_named(const char *name)
{
    static const struct {
        const char *name;
        enum config_role role;
    } roles[] = {{"examjoint", CONFIG_EXAMJOINT},
                 {"proview", CONFIG_PROVIEW},
                 {"worker", CONFIG_WORKER},
                 {"operator", CONFIG_OPERATOR}};
    size_t i;
    for (i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(name, roles[i].name) == 0)
            return roles[i].role;
    }
    fail_msg("no role %s", name);
    return CONFIG_OPERATOR;
}

static void expect_refused(const struct refused *c, const char *folder)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT, expected = BUF_INIT;
    const char *colon = strchr(buf_str(&c->expected), ':');
    char path[64];
    write_config(folder, buf_str(&c->text), 0600, path);
    assert_non_null(colon);
    buf_adds(&expected, path);
    if (strncmp(c->expected.data, "0:", 2) != 0)
        buf_addf(&expected, ":%.*s", (int)(colon - c->expected.data), c->expected.data);
    add_expanded(&expected, colon, folder);
    if (config_load(path, c->role, &config, &why))
        fail_msg("%s: taken", c->name.data);
    assert_null(config);
    if (strcmp(buf_str(&why), buf_str(&expected)) != 0)
        fail_msg("%s:\n  expected %s\n  got      %s", c->name.data, expected.data, buf_str(&why));
    if (strstr(buf_str(&why), "CANARY"))
        fail_msg("%s: tells a secret: %s", c->name.data, buf_str(&why));
    buf_release(&why);
    buf_release(&expected);
}

static void start_case(struct refused *c, const char *head)
{
    const char *bar = strstr(head, " | ");
    buf_clear(&c->name);
    buf_clear(&c->text);
    buf_clear(&c->expected);
    c->role = bar ? role_named(bar + 3) : CONFIG_OPERATOR;
    buf_adds(&c->name, head);
}

static void refuses_the_table(void **state)
{
    struct refused c = {BUF_INIT, BUF_INIT, BUF_INIT, CONFIG_OPERATOR};
    FILE *table = fopen("tests/data/config_refused.txt", "re");
    char line[512];
    int cases = 0;
    assert_non_null(table);
    while (fgets(line, sizeof line, table)) {
        size_t len = strcspn(line, "\n");
        if (strncmp(line, "=== ", 4) == 0) {
            line[len] = '\0';
            start_case(&c, line + 4);
        } else if (strncmp(line, "--> ", 4) == 0) {
            line[len] = '\0';
            buf_adds(&c.expected, line + 4);
            expect_refused(&c, *state);
            cases++;
            buf_clear(&c.name);
        } else if (c.name.len > 0) {
            buf_adds(&c.text, line);
        }
    }
    fclose(table);
    assert_int_equal(c.name.len, 0); /* the last case has its expectation */
    assert_true(cases > 100);
    buf_release(&c.name);
    buf_release(&c.text);
    buf_release(&c.expected);
}

/* --- The file as a whole -------------------------------------------------------------------------------- */

static void expect_why(const char *path, const char *contains)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    assert_false(config_load(path, CONFIG_OPERATOR, &config, &why));
    if (!strstr(buf_str(&why), contains))
        fail_msg("\"%s\" is not in \"%s\"", contains, buf_str(&why));
    buf_release(&why);
}

static void refuses_files_others_can_touch(void **state)
{
    static const char with_secret[] = "[examjoint a]\nclient_id = one\nclient_secret = CANARY\n";
    static const char without[] = "[examjoint a]\nclient_id = one\nclient_secret_file = good\n";
    static const mode_t open_modes[] = {0604, 0602, 0601, 0644, 0666};
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    char path[64], advice[128];
    size_t i;
    for (i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
        write_config(*state, with_secret, open_modes[i], path);
        snprintf(advice, sizeof advice, "run chmod o-rwx %s", path);
        expect_why(path, advice);
    }
    write_config(*state, with_secret, 0640, path);
    assert_true(config_load(path, CONFIG_EXAMJOINT, &config, &why));
    config_free(config);
    write_config(*state, without, 0644, path);
    assert_true(config_load(path, CONFIG_EXAMJOINT, &config, &why));
    config_free(config);
    write_config(*state, without, 0646, path);
    expect_why(path, "run chmod o-w");
    buf_release(&why);
}

static void refuses_what_is_no_file(void **state)
{
    char path[64];
    snprintf(path, sizeof path, "%s/none.conf", (char *)*state);
    expect_why(path, "none.conf: cannot be opened: No such file or directory");
    expect_why(*state, ": is not a file");
}

static void reads_every_line_end(void **state)
{
    struct config *config = load(
        *state, "\xef\xbb\xbf[log]\r\nlevel: warn\r\n\r\n[verify]\nnocase =\n# last line", CONFIG_OPERATOR);
    assert_int_equal(config->log_level, LOG_LEVEL_WARN);
    assert_null(config->nocase[0]);
    config_free(config);
}

static void long_comments_and_names_are_whole(void **state)
{
    struct config *config =
        load(*state,
             "# %l%l\n[examjoint aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg]\n"
             "client_id = one ; a comment\nclient_secret = a;b\n"
             "[fields An exam whose long name is longer than what inih keeps of a section's name]\n0 = id\n",
             CONFIG_EXAMJOINT);
    assert_string_equal(config->examjoint[0].name,
                        "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg");
    assert_string_equal(config->examjoint[0].client_id, "one");
    assert_int_equal(secret_check(&config->examjoint[0].client_secret, "a;b", 3), SECRET_CURRENT);
    assert_string_equal(config->fields[0].exam,
                        "An exam whose long name is longer than what inih keeps of a section's name");
    config_free(config);
}

/* --- Values --------------------------------------------------------------------------------------------- */

static void has_defaults(void **state)
{
    struct config *config = load(*state, "", CONFIG_WORKER);
    assert_string_equal(config->store_url, "sqlite:/var/lib/examhook");
    assert_int_equal(config->lock_wait_ms, 2000);
    assert_int_equal(config->retention_ms, 0);
    assert_int_equal(config->log_level, LOG_LEVEL_INFO);
    assert_int_equal(config->body_limit_bytes, 65536);
    assert_int_equal(config->request_wait_ms, 10000);
    assert_int_equal(config->connections_max, 2048);
    assert_int_equal(config->budget_ms, 20000);
    assert_int_equal(config->hash_threads, 0);
    assert_int_equal(config->queue_max, 5000);
    assert_string_equal(config->languages, "/usr/share/examhook/languages");
    assert_string_equal(config->default_language, "en");
    assert_true(config_is_nocase(config, "email"));
    assert_false(config_is_nocase(config, "id"));
    assert_int_equal(config->throttle_failures, 5);
    assert_int_equal(config->throttle_window_ms, 600000);
    assert_int_equal(config->throttle_pause_ms, 15000);
    assert_int_equal(config->throttle_rows, 100000);
    assert_int_equal(config->throttle_spike, 50);
    assert_string_equal(config->timezone, "UTC");
    assert_string_equal(config->hash, "yescrypt");
    assert_int_equal(config->open_count_hour, 1000);
    assert_int_equal(config->open_bytes_hour, 4 * 1024 * 1024);
    assert_int_equal(config->fetches_session_hour, 6);
    assert_int_equal(config->transfers_max, 16);
    assert_int_equal(config->connect_timeout_ms, 10000);
    assert_int_equal(config->request_timeout_ms, 30000);
    assert_int_equal(config->reply_limit_bytes, 262144);
    assert_int_equal(config->poll_ms, 2000);
    assert_int_equal(config->lease_ms, 180000);
    assert_int_equal(config->retry_first_ms, 60000);
    assert_int_equal(config->retry_max_ms, 21600000);
    assert_int_equal(config->rating_wait_ms, 3 * INT64_C(86400000));
    assert_int_equal(config->rating_wait_human_ms, 14 * INT64_C(86400000));
    assert_int_equal(config->failure_wait_ms, 3 * INT64_C(86400000));
    assert_int_equal(config->not_found_wait_ms, INT64_C(86400000));
    assert_int_equal(config->watch_window_ms, 30 * INT64_C(86400000));
    assert_int_equal(config->watch_every_ms, 43200000);
    assert_int_equal(config->login_pause_ms, 900000);
    assert_null(config->proxy);
    config_free(config);
}

static void takes_values(void **state)
{
    struct config *config = load(
        *state,
        "[store]\nurl = sqlite:state/here\nlock_wait = 0\nretention = 400d\n[server]\nbody_limit = 2048\n"
        "[verify]\nlanguages = texts\nnocase = email , matriculation\nbudget = 50s\n"
        "[roster]\ntimezone = Europe/Berlin\nhash = bcrypt\n[worker]\nproxy = http://proxy.example:3128\n",
        CONFIG_WORKER);
    char expected[96];
    snprintf(expected, sizeof expected, "sqlite:%s/state/here", (char *)*state);
    assert_string_equal(config->store_url, expected);
    snprintf(expected, sizeof expected, "%s/texts", (char *)*state);
    assert_string_equal(config->languages, expected);
    assert_int_equal(config->lock_wait_ms, 0);
    assert_int_equal(config->retention_ms, INT64_C(400) * 24 * 3600 * 1000);
    assert_int_equal(config->body_limit_bytes, 2048);
    assert_int_equal(config->budget_ms, 50000);
    assert_true(config_is_nocase(config, "email") && config_is_nocase(config, "matriculation"));
    assert_string_equal(config->timezone, "Europe/Berlin");
    assert_string_equal(config->hash, "bcrypt");
    assert_string_equal(config->proxy, "http://proxy.example:3128");
    config_free(config);
}

static void knows_the_environments(void **state)
{
    static const struct {
        const char *lines, *login, *session;
    } cases[] = {
        {"", "https://auth.talview.com/v1/user/login", "https://proctoring.talview.com/v1/sessions"},
        {"environment = production\n", "https://auth.talview.com/v1/user/login",
         "https://proctoring.talview.com/v1/sessions"},
        {"environment = staging\n", "https://auth-staging.talview.com/v1/user/login",
         "https://proctoring-staging.talview.com/v1/sessions"},
        {"environment = development\n", "https://auth.talview.dev/v1/user/login",
         "https://proview-universal.talview.dev/v1/sessions"},
        {"login_url = https://a.example/l\nsession_url = https://b.example:8443/s/\n", "https://a.example/l",
         "https://b.example:8443/s"},
        {"login_url = http://127.0.0.1:9000/l\nsession_url = http://[::1]:9000/s\n",
         "http://127.0.0.1:9000/l", "http://[::1]:9000/s"},
        {"login_url = http://localhost/l\nsession_url = https://localhost:1/s\n", "http://localhost/l",
         "https://localhost:1/s"},
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        struct config *config;
        snprintf(text, sizeof text, "[proview a]\ncallback_open = yes\n%s", cases[i].lines);
        config = load(*state, text, CONFIG_OPERATOR);
        assert_string_equal(config->proview[0].login_url, cases[i].login);
        assert_string_equal(config->proview[0].session_url, cases[i].session);
        assert_true(config->proview[0].callback_open);
        config_free(config);
    }
}

/* --- Roles and secrets ---------------------------------------------------------------------------------- */

/* Files that are not there stand for files that the program may not read. */
static const char all_in_files[] =
    "[examjoint a]\nclient_id = one\nclient_secret_file = %s\nclient_secret_previous = CANARY-old\n"
    "[proview p]\npath_token_file = %s\npath_token_previous = CANARY-previous-token\n"
    "header_name = X-Secret\nheader_secret_file = %s\n"
    "basic_user = me\nbasic_password_file = %s\nbasic_password_previous = CANARY-old\n"
    "ca_file = ca.pem\nusername = CANARY-user\npassword_file = %s\napp_id_file = %s\n";

static struct config *load_role(const char *folder, const char *web_ej, const char *web_pv,
                                const char *talview, enum config_role role)
{
    char text[1024];
    int n;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    n = snprintf(text, sizeof text, all_in_files, web_ej, web_pv, web_pv, web_pv, talview, talview);
#pragma GCC diagnostic pop
    assert_in_range(n, 1, sizeof text - 1);
    return load(folder, text, role);
}

#define IS(pair, text) secret_check(&(pair), text, strlen(text))

static void assert_no_talview(const struct config_proview *p)
{
    assert_null(p->username);
    assert_null(p->password);
    assert_null(p->app_id);
    assert_null(p->ca_file);
}

static void assert_no_callback_secret(const struct config_proview *p)
{
    assert_false(p->path_token.current.set || p->path_token.previous.set);
    assert_false(p->header_secret.current.set || p->basic.current.set || p->basic.previous.set);
    assert_null(p->header_name);
    assert_true(p->has_path_token && p->has_header && p->has_basic);
}

static void examjoint_gets_its_secrets_only(void **state)
{
    struct config *config = load_role(*state, "good", "/nowhere", "/nowhere", CONFIG_EXAMJOINT);
    const struct config_examjoint *a = config_examjoint_named(config, "a");
    assert_non_null(a);
    assert_string_equal(a->client_id, "one");
    assert_int_equal(IS(a->client_secret, GOOD_SECRET), SECRET_CURRENT);
    assert_int_equal(IS(a->client_secret, "CANARY-old"), SECRET_PREVIOUS);
    assert_int_equal(IS(a->client_secret, GOOD_SECRET "\n"), SECRET_NO);
    assert_no_callback_secret(&config->proview[0]);
    assert_no_talview(&config->proview[0]);
    assert_null(config_examjoint_named(config, "p"));
    config_free(config);
}

static void proview_gets_its_secrets_only(void **state)
{
    struct config *config = load_role(*state, "/nowhere", "good", "/nowhere", CONFIG_PROVIEW);
    assert_int_equal(config->proview_count, 1);
    const struct config_proview *p = &config->proview[0];
    assert_string_equal(p->name, "p");
    assert_false(config->examjoint[0].client_secret.current.set);
    assert_false(config->examjoint[0].client_secret.previous.set);
    assert_int_equal(IS(p->path_token, GOOD_SECRET), SECRET_CURRENT);
    assert_int_equal(IS(p->path_token, "CANARY-previous-token"), SECRET_PREVIOUS);
    assert_string_equal(p->header_name, "X-Secret");
    assert_int_equal(IS(p->header_secret, GOOD_SECRET), SECRET_CURRENT);
    assert_int_equal(IS(p->basic, "me:" GOOD_SECRET), SECRET_CURRENT);
    assert_int_equal(IS(p->basic, "me:CANARY-old"), SECRET_PREVIOUS);
    assert_int_equal(IS(p->basic, GOOD_SECRET), SECRET_NO);
    assert_true(p->has_path_token && p->has_header && p->has_basic);
    assert_no_talview(p);
    config_free(config);
}

static void worker_gets_talview_only(void **state)
{
    struct config *config = load_role(*state, "/nowhere", "/nowhere", "good", CONFIG_WORKER);
    assert_int_equal(config->proview_count, 1);
    const struct config_proview *p = &config->proview[0];
    assert_string_equal(p->name, "p");
    char ca[64];
    assert_false(config->examjoint[0].client_secret.current.set);
    assert_no_callback_secret(p);
    assert_string_equal(p->username, "CANARY-user");
    assert_string_equal(p->password, GOOD_SECRET);
    assert_string_equal(p->app_id, GOOD_SECRET);
    snprintf(ca, sizeof ca, "%s/ca.pem", (char *)*state);
    assert_string_equal(p->ca_file, ca);
    config_free(config);
}

static void operator_gets_no_secret(void **state)
{
    struct config *config = load_role(*state, "/nowhere", "/nowhere", "/nowhere", CONFIG_OPERATOR);
    assert_false(config->examjoint[0].client_secret.current.set);
    assert_no_callback_secret(&config->proview[0]);
    assert_no_talview(&config->proview[0]);
    config_free(config);
}

static void worker_may_lack_credentials(void **state)
{
    struct config *config = load(*state, "[proview p]\ncallback_open = yes\n", CONFIG_WORKER);
    assert_no_talview(&config->proview[0]);
    assert_false(config->proview[0].has_path_token || config->proview[0].has_header ||
                 config->proview[0].has_basic);
    config_free(config);
}

/* --- Fields --------------------------------------------------------------------------------------------- */

static void finds_the_closest_fields(void **state)
{
    static const struct {
        const char *account, *exam, *column;
    } cases[] = {
        {"a", "Exam 1", "both"},    {"b", "Exam 1", "exam_only"}, {"a", "Exam 2", "account"},
        {"b", "Exam 2", "all"},     {"a", "", "account"},         {"b", NULL, "all"},
        {"a", "exam 1", "account"}, {"c", "Exam 1", "exam_only"},
    };
    struct config *config = load(*state,
                                 "[fields]\n7 = password\n0 = all\n"
                                 "[fields  Exam 1]\n1 = exam_only\n"
                                 "[examjoint a fields]\n2 = account\n"
                                 "[examjoint a fields Exam 1 ]\n3 = both\n"
                                 "[examjoint a]\nclient_id = one\nclient_secret = x\n"
                                 "[examjoint b]\nclient_id = two\nclient_secret = x\n",
                                 CONFIG_EXAMJOINT);
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct field_map *map = config_field_map(config, cases[i].account, cases[i].exam);
        assert_non_null(map);
        assert_string_equal(map->at[0].column, cases[i].column);
    }
    assert_int_equal(config->fields_count, 4);
    assert_int_equal(config->fields[0].map.count, 2);
    assert_int_equal(config->fields[0].map.at[0].position, 0);
    assert_int_equal(config->fields[0].map.at[1].position, 7);
    assert_string_equal(config->fields[0].map.at[1].column, CONFIG_SECRET_COLUMN);
    config_free(config);

    config = load(*state, "[fields Exam 1]\n0 = id\n", CONFIG_EXAMJOINT);
    assert_null(config_field_map(config, "a", "Exam 2"));
    assert_null(config_field_map(config, "a", NULL));
    config_free(config);
}

/* --- Where it is ---------------------------------------------------------------------------------------- */

static void expect_found(const char *option, const char *expected)
{
    char *found = config_find(option);
    assert_string_equal(found, expected);
    free(found);
}

static void finds_the_file(void **state)
{
    char root[96], folder[96], file[128], trailing[100];
    unsetenv("EXAMHOOK_CONF");
    unsetenv("DOCUMENT_ROOT");
    expect_found(NULL, "/etc/examhook/examhook.conf");
    snprintf(root, sizeof root, "%s/public", (char *)*state);
    snprintf(trailing, sizeof trailing, "%s/", root);
    setenv("DOCUMENT_ROOT", root, 1);
    expect_found(NULL, "/etc/examhook/examhook.conf");
    snprintf(folder, sizeof folder, "%s/examhook", (char *)*state);
    snprintf(file, sizeof file, "%s/examhook.conf", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    write_file(file, 0600, "", 0);
    expect_found(NULL, file);
    setenv("DOCUMENT_ROOT", trailing, 1);
    expect_found(NULL, file);
    setenv("EXAMHOOK_CONF", "/somewhere.conf", 1);
    expect_found(NULL, "/somewhere.conf");
    expect_found("x.conf", "x.conf");
    setenv("EXAMHOOK_CONF", "", 1);
    expect_found(NULL, file);
    unsetenv("EXAMHOOK_CONF");
    unsetenv("DOCUMENT_ROOT");
    unlink(file);
    rmdir(folder);
}

/* --- Printing ------------------------------------------------------------------------------------------- */

static void print(const char *folder, const char *text, struct buf *out)
{
    struct buf why = BUF_INIT;
    bool ok = false;
    char path[64];
    write_config(folder, text, 0600, path);
    config_print(path, out, &why, &ok);
    if (!ok)
        fail_msg("refused: %s", buf_str(&why));
    buf_release(&why);
}

static void assert_line(const struct buf *out, const char *line)
{
    struct buf whole = BUF_INIT;
    buf_addf(&whole, "\n%s\n", line);
    if (!strstr(buf_str(out), whole.data))
        fail_msg("no line \"%s\" in:\n%s", line, buf_str(out));
    buf_release(&whole);
}

static void prints_what_counts(void **state)
{
    static const char *const lines[] = {
        "url = sqlite:/x/y",
        "lock_wait = 2s",
        "# retention =",
        "level = debug",
        "nocase = email",
        "budget = 7s",
        "# proxy =",
        "[examjoint a]",
        "client_id = one",
        "client_secret = (set)",
        "client_secret_previous = (from /nowhere/secret)",
        "[proview p]",
        "environment = production",
        "# login_url = https://auth.talview.com/v1/user/login",
        "username = (set)",
        "password = (from /nowhere/password)",
        "# app_id =",
        "header_name = X-Secret",
        "header_secret = (set)",
        "callback_open = no",
        "[fields My exam]",
        "0 = id",
        "[examjoint a fields]",
        "[proview q]",
        "# environment =",
        "login_url = https://a.example/l",
        "session_url = https://a.example/s",
    };
    struct buf out = BUF_INIT;
    size_t i;
    print(*state,
          "[store]\nurl = sqlite:/x/y\n[log]\nlevel = debug\n[verify]\nbudget = 7s\n"
          "[examjoint a]\nclient_id = one\nclient_secret = CANARY\n"
          "client_secret_previous_file = /nowhere/secret\n"
          "[proview p]\nusername = CANARY\npassword_file = /nowhere/password\n"
          "header_name = X-Secret\nheader_secret = CANARY\n"
          "[fields My exam]\n1 = password\n0 = id\n[examjoint a fields]\n4 = email\n"
          "[proview q]\ncallback_open = yes\nlogin_url = https://a.example/l\nsession_url = "
          "https://a.example/s\n",
          &out);
    for (i = 0; i < sizeof lines / sizeof lines[0]; i++)
        assert_line(&out, lines[i]);
    assert_null(strstr(out.data, "CANARY"));
    buf_release(&out);
}

/* What is printed without secrets is itself a configuration, and means the same. */
static void print_can_be_read_again(void **state)
{
    struct buf first = BUF_INIT, second = BUF_INIT;
    print(*state, "[worker]\nlease = 4m\n[store]\nurl = sqlite:state\n[proview a]\ncallback_open = yes\n",
          &first);
    print(*state, first.data, &second);
    assert_string_equal(first.data, second.data);
    buf_release(&first);
    buf_release(&second);
}

static void print_refuses_as_load_does(void **state)
{
    struct buf out = BUF_INIT, why = BUF_INIT;
    bool ok = true;
    char path[64];
    write_config(*state, "[log]\nlevel = loud\n", 0600, path);
    config_print(path, &out, &why, &ok);
    assert_false(ok);
    assert_int_equal(out.len, 0);
    assert_non_null(strstr(buf_str(&why), ":2: level"));
    buf_release(&out);
    buf_release(&why);
}

static bool is_account_section(const struct config_option *o)
{
    return strcmp(o->section, "examjoint") == 0 || strcmp(o->section, "proview") == 0;
}

/* --- One role's file ------------------------------------------------------------------------------------ */

/* Every option there is, none of them at its default, and values that a reader could stumble over. */
static const char everything[] =
    "[store]\nurl = sqlite:state/here ; relative\nlock_wait = 3s\nretention = 90d\n"
    "[log]\nlevel = debug\n"
    "[server]\nbody_limit = 32K\nrequest_wait = 11s\nconnections = 100\n"
    "[verify]\nbudget = 7s\nhash_threads = 3\nqueue = 77\nlanguages = my texts\n"
    "default_language = de\nnocase = email, login_name\n"
    "[throttle]\nfailures = 4\nwindow = 9m\npause = 16s\nrows = 1234\nspike = 5\n"
    "[roster]\ntimezone = UTC\nhash = bcrypt\n"
    "[callbacks]\nopen_count_hour = 10\nopen_bytes_hour = 5M\nfetches_session_hour = 7\n"
    "[worker]\ntransfers = 3\nconnect_timeout = 4s\nrequest_timeout = 14s\nreply_limit = 300K\npoll = 3s\n"
    "lease = 4m\nretry_first = 61s\nretry_max = 5h\nrating_wait = 2d\nrating_wait_human = 13d\n"
    "failure_wait = 4d\nnot_found_wait = 23h\nwatch_window = 31d\nwatch_every = 11h\nlogin_pause = 16m\n"
    "proxy = socks5h://proxy.example:1080\n"
    "[fields]\n3 = password\n1 = id\n"
    "[examjoint first]\nclient_id =;odd \"id\" #1 = [x]\nclient_secret = EXAMJOINT-secret;1\n"
    "client_secret_previous_file = good\n"
    "[examjoint second]\nclient_id = two\nclient_secret_file = long\n"
    "[examjoint second fields Exam; of 'the' = \"day\"]\n0 = email\n"
    "[fields  Exam  of two words ]\n7 = matriculation\n8 = password\n"
    "[proview tokens]\nenvironment = staging\ncallback_open = yes\n"
    "path_token = PROVIEW-path-token-1\npath_token_previous = PROVIEW-path-token-2\n"
    "header_name = X-Odd\nheader_secret = PROVIEW-header \"#\"\nheader_secret_previous_file = long\n"
    "basic_user = user = 1\nbasic_password = PROVIEW-basic\nbasic_password_previous = PROVIEW-basic;2\n"
    "username_file = odd\npassword_file = long\napp_id = TALVIEW-app\nca_file = my ca.pem\n"
    "[proview own]\nlogin_url = https://a.example/l\nsession_url = https://a.example/s//\n"
    "username = TALVIEW-user\npassword_hex = 54414c56494557\npassword_hex = 2d70617373\n"
    "app_id_file = odd\npath_token_file = good\n"
    "[proview open]\ncallback_open = yes\n";

static void render(const char *path, enum config_role role, struct buf *out)
{
    struct buf why = BUF_INIT;
    int64_t changed_ms = 0;
    if (!config_render(path, role, out, &changed_ms, &why))
        fail_msg("refused: %s", buf_str(&why));
    assert_true(changed_ms > 0);
    buf_release(&why);
}

static void assert_same_text(const char *a, const char *b)
{
    if (a && b)
        assert_string_equal(a, b);
    else
        assert_true(a == b);
}

static void assert_same_general(const struct config *a, const struct config *b)
{
#define SAME(member) assert_int_equal(a->member, b->member)
    assert_same_text(a->store_url, b->store_url);
    assert_same_text(a->languages, b->languages);
    assert_same_text(a->default_language, b->default_language);
    assert_same_text(a->timezone, b->timezone);
    assert_same_text(a->hash, b->hash);
    assert_same_text(a->proxy, b->proxy);
    assert_string_equal(b->nocase[0], "email");
    assert_string_equal(b->nocase[1], "login_name");
    assert_null(b->nocase[2]);
    SAME(lock_wait_ms), SAME(retention_ms), SAME(log_level), SAME(body_limit_bytes), SAME(request_wait_ms),
        SAME(connections_max);
    SAME(budget_ms), SAME(hash_threads), SAME(queue_max), SAME(throttle_failures), SAME(throttle_window_ms);
    SAME(throttle_pause_ms), SAME(throttle_rows), SAME(throttle_spike), SAME(open_count_hour);
    SAME(open_bytes_hour), SAME(fetches_session_hour), SAME(transfers_max), SAME(connect_timeout_ms);
    SAME(request_timeout_ms), SAME(reply_limit_bytes), SAME(poll_ms), SAME(lease_ms), SAME(retry_first_ms);
    SAME(retry_max_ms), SAME(rating_wait_ms), SAME(rating_wait_human_ms), SAME(failure_wait_ms);
    SAME(not_found_wait_ms), SAME(watch_window_ms), SAME(watch_every_ms), SAME(login_pause_ms);
#undef SAME
}

static void assert_same_examjoint(const struct config *a, const struct config *b)
{
    size_t i;
    assert_int_equal(b->examjoint_count, 2);
    assert_int_equal(b->fields_count, 3);
    for (i = 0; i < a->examjoint_count; i++) {
        assert_string_equal(a->examjoint[i].name, b->examjoint[i].name);
        assert_string_equal(a->examjoint[i].client_id, b->examjoint[i].client_id);
        assert_true(a->examjoint[i].client_secret.current.set);
        assert_memory_equal(&a->examjoint[i].client_secret, &b->examjoint[i].client_secret,
                            sizeof a->examjoint[i].client_secret);
    }
    for (i = 0; i < a->fields_count; i++) {
        assert_same_text(a->fields[i].account, b->fields[i].account);
        assert_same_text(a->fields[i].exam, b->fields[i].exam);
        assert_memory_equal(&a->fields[i].map, &b->fields[i].map, sizeof a->fields[i].map);
    }
}

static void assert_same_proview(const struct config *a, const struct config *b)
{
    size_t i;
    assert_int_equal(b->proview_count, 3);
    for (i = 0; i < a->proview_count; i++) {
        const struct config_proview *p = &a->proview[i], *q = &b->proview[i];
        assert_string_equal(p->name, q->name);
        assert_int_equal(p->callback_open, q->callback_open);
        assert_int_equal(p->has_path_token, q->has_path_token);
        assert_int_equal(p->has_header, q->has_header);
        assert_int_equal(p->has_basic, q->has_basic);
        assert_memory_equal(&p->path_token, &q->path_token, sizeof p->path_token);
        assert_memory_equal(&p->header_secret, &q->header_secret, sizeof p->header_secret);
        assert_memory_equal(&p->basic, &q->basic, sizeof p->basic);
        assert_same_text(p->header_name, q->header_name);
        assert_same_text(p->login_url, q->login_url);
        assert_same_text(p->session_url, q->session_url);
        assert_same_text(p->ca_file, q->ca_file);
        assert_same_text(p->username, q->username);
        assert_same_text(p->password, q->password);
        assert_same_text(p->app_id, q->app_id);
    }
}

/* Loaded again, what a role's file says is what the whole file said to that role; and so is its own
 * rendering. */
static void a_roles_file_has_the_same_effect(void **state)
{
    static const enum config_role roles[] = {CONFIG_EXAMJOINT, CONFIG_PROVIEW, CONFIG_WORKER};
    size_t i;
    for (i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        struct buf first = BUF_INIT, second = BUF_INIT;
        struct config *whole = load(*state, everything, roles[i]), *own;
        char path[64];
        render(whole->path, roles[i], &first);
        snprintf(path, sizeof path, "%s/t.conf", (char *)*state);
        write_file(path, 0600, first.data, first.len);
        own = NULL;
        struct buf why = BUF_INIT;
        if (!config_load(path, roles[i], &own, &why))
            fail_msg("refused: %s in:\n%s", buf_str(&why), first.data);
        assert_same_general(whole, own);
        if (roles[i] == CONFIG_EXAMJOINT)
            assert_same_examjoint(whole, own);
        else
            assert_same_proview(whole, own);
        render(path, roles[i], &second);
        assert_string_equal(first.data, second.data);
        config_free(whole);
        config_free(own);
        buf_release(&why);
        buf_release(&first);
        buf_release(&second);
    }
}

/* In clear text or in digits. */
static bool tells(const struct buf *out, const char *secret)
{
    struct buf digits = BUF_INIT;
    bool found = strstr(buf_str(out), secret) != NULL;
    for (; *secret; secret++)
        buf_addf(&digits, "%02x", (unsigned)(unsigned char)*secret);
    found = found || strstr(buf_str(out), buf_str(&digits));
    buf_release(&digits);
    return found;
}

static void a_roles_file_has_no_secret_of_another(void **state)
{
    static const struct {
        enum config_role role;
        const char *own, *others[4];
    } cases[] = {{CONFIG_EXAMJOINT, "EXAMJOINT-", {"PROVIEW-", "TALVIEW-", "quoted", "TALVIEW"}},
                 {CONFIG_PROVIEW, "PROVIEW-", {"EXAMJOINT-", "TALVIEW-", "quoted", "client_id"}},
                 {CONFIG_WORKER, "TALVIEW-", {"EXAMJOINT-", "PROVIEW-", "CANARY", "client_id"}}};
    size_t i, j;
    char path[64];
    write_config(*state, everything, 0600, path);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = BUF_INIT, why = BUF_INIT;
        struct config *config = NULL;
        render(path, cases[i].role, &out);
        assert_true(tells(&out, cases[i].own));
        for (j = 0; j < sizeof cases[i].others / sizeof cases[i].others[0]; j++) {
            if (tells(&out, cases[i].others[j]))
                fail_msg("\"%s\" is in:\n%s", cases[i].others[j], out.data);
        }
        /* The program of another role does not run on it with half of what it needs. */
        if (cases[i].role == CONFIG_WORKER) {
            write_file(path, 0600, out.data, out.len);
            assert_false(config_load(path, CONFIG_PROVIEW, &config, &why));
            write_config(*state, everything, 0600, path);
        }
        buf_release(&out);
        buf_release(&why);
    }
}

/* What the table gives to a role is in its file, whatever is added to the table one day. */
static void a_roles_file_has_every_option_of_it(void **state)
{
    static const enum config_role roles[] = {CONFIG_EXAMJOINT, CONFIG_PROVIEW, CONFIG_WORKER};
    const struct config_option *o;
    size_t i;
    char path[64];
    write_config(*state, everything, 0600, path);
    for (i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        struct buf out = BUF_INIT, plain = BUF_INIT, digits = BUF_INIT;
        render(path, roles[i], &out);
        for (o = config_options; o->section; o++) {
            bool anothers = (strcmp(o->section, "examjoint") == 0) != (roles[i] == CONFIG_EXAMJOINT) &&
                            is_account_section(o);
            if (!(o->roles & (unsigned)roles[i]) || anothers)
                continue;
            buf_clear(&plain);
            buf_clear(&digits);
            buf_addf(&plain, "\n%s =", o->name);
            buf_addf(&digits, "\n%s_hex = ", o->name);
            if (!strstr(out.data, plain.data) && !strstr(out.data, digits.data))
                fail_msg("no %s in:\n%s", o->name, out.data);
        }
        buf_release(&out);
        buf_release(&plain);
        buf_release(&digits);
    }
}

static void rendering_names_file_and_line(void **state)
{
    static const struct {
        const char *text, *expected;
        enum config_role role;
    } cases[] = {
        {"[log]\nlevel = loud\n", ":2: level: ", CONFIG_WORKER},
        {"[proview a]\ncallback_open = yes\nusername = u\npassword_file = empty\napp_id = a\n",
         ":4: password_file: ", CONFIG_WORKER},
        {"[examjoint a]\nclient_id = c\nclient_secret_file = none\n",
         ":3: client_secret_file: ", CONFIG_EXAMJOINT},
        {"[verify]\nlanguages = %l\n", ":2: ", CONFIG_EXAMJOINT},
        {"\n[verify]\nlanguages = "
         "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
         "nnnnnn"
         "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\n",
         ":3: languages: with its whole path this cannot stand on a line", CONFIG_EXAMJOINT},
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf out = BUF_INIT, why = BUF_INIT, expected = BUF_INIT;
        int64_t changed_ms = -1;
        char path[64];
        write_config(*state, cases[i].text, 0600, path);
        assert_false(config_render(path, cases[i].role, &out, &changed_ms, &why));
        buf_addf(&expected, "%s%s", path, cases[i].expected);
        if (!strstr(buf_str(&why), expected.data))
            fail_msg("no \"%s\" in \"%s\"", expected.data, buf_str(&why));
        assert_int_equal(out.len, 0);
        assert_int_equal(changed_ms, -1);
        buf_release(&out);
        buf_release(&why);
        buf_release(&expected);
    }
}

/* The worker ends a pause early when somebody has changed the credentials: a new rendering is no such change.
 */
static void rendering_tells_when_something_was_changed(void **state)
{
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}},
                          young[2] = {{.tv_sec = 2000}, {.tv_sec = 2000}};
    struct buf out = BUF_INIT, why = BUF_INIT;
    int64_t changed_ms = 0;
    char path[64], secret[64];
    write_config(*state,
                 "[proview a]\ncallback_open = yes\nusername = u\npassword_file = good\napp_id = a\n"
                 "path_token_file = odd\n",
                 0600, path);
    snprintf(secret, sizeof secret, "%s/good", (char *)*state);
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, secret, young, 0), 0);
    assert_true(config_render(path, CONFIG_WORKER, &out, &changed_ms, &why));
    assert_int_equal(changed_ms, 2000000);
    assert_int_equal(utimensat(AT_FDCWD, secret, old, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, young, 0), 0);
    assert_true(config_render(path, CONFIG_WORKER, &out, &changed_ms, &why));
    assert_int_equal(changed_ms, 2000000);
    buf_release(&out);
    buf_release(&why);
}

/* --- What systemd hands over ---------------------------------------------------------------------------- */

static enum secret_match matches(const char *folder, const char *text, const char *secret)
{
    struct config *config = load(folder, text, CONFIG_EXAMJOINT);
    enum secret_match match = secret_check(&config->examjoint[0].client_secret, secret, strlen(secret));
    config_free(config);
    return match;
}

static void a_credential_comes_before_the_file_beside(void **state)
{
    static const char relative[] = "[examjoint a]\nclient_id = c\nclient_secret_file = good\n",
                      absolute[] = "[examjoint a]\nclient_id = c\nclient_secret_file = @/good\n";
    const char *folder = *state;
    char credentials[64], file[80];
    struct buf out = BUF_INIT;
    snprintf(credentials, sizeof credentials, "%s/credentials", folder);
    snprintf(file, sizeof file, "%s/good", credentials);
    assert_int_equal(mkdir(credentials, 0700), 0);
    setenv("CREDENTIALS_DIRECTORY", credentials, 1);
    /* Not handed over: beside the configuration, as ever. */
    assert_int_equal(matches(folder, relative, GOOD_SECRET), SECRET_CURRENT);
    write_file(file, 0400, "handed-over\n", 12);
    assert_int_equal(matches(folder, relative, "handed-over"), SECRET_CURRENT);
    print(folder, relative, &out);
    assert_non_null(strstr(out.data, file));
    assert_int_equal(matches(folder, absolute, GOOD_SECRET), SECRET_CURRENT);
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_int_equal(matches(folder, relative, GOOD_SECRET), SECRET_CURRENT);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(credentials), 0);
    buf_release(&out);
}

static void without_accounts_it_loads_for_every_role(void **state)
{
    static const enum config_role roles[] = {CONFIG_EXAMJOINT, CONFIG_PROVIEW, CONFIG_WORKER,
                                             CONFIG_OPERATOR};
    size_t i;
    for (i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        struct config *config = load(*state, "[log]\nlevel = info\n", roles[i]);
        assert_int_equal(config->examjoint_count + config->proview_count, 0);
        assert_false(config->personal);
        config_free(config);
    }
}

/* --- The table, the manual page, the sample ------------------------------------------------------------- */

static void read_whole(const char *path, struct buf *out)
{
    FILE *file = fopen(path, "re");
    size_t n;
    assert_non_null(file);
    while ((n = fread(buf_room(out, 4096), 1, 4096, file)) > 0)
        out->len += n;
    fclose(file);
    assert_true(out->len > 0);
}

/* Every run of white space becomes one space, so that a text is found wherever its lines were broken. */
static void flatten(struct buf *text)
{
    size_t from, to = 0;
    for (from = 0; from < text->len; from++) {
        bool space = text->data[from] == ' ' || text->data[from] == '\n';
        if (space && to > 0 && text->data[to - 1] == ' ')
            continue;
        text->data[to++] = space ? ' ' : text->data[from];
    }
    text->len = to;
    buf_str(text);
}

/* Where `what` stands between the two places; `end` NULL is the end of the text. */
static const char *find_between(const char *begin, const char *end, const struct buf *what)
{
    const char *at = strstr(begin, buf_str(what));
    return at && (!end || at < end) ? at : NULL;
}

/* How the manual tells what is taken where nothing is said. */
static void add_default(struct buf *text, const struct config_option *o)
{
    if (o->min == 0 && o->max == 0) {
        if (o->fallback)
            buf_addf(text, " Default: .Cm %s .", o->fallback);
        return;
    }
    buf_adds(text, " From ");
    config_value_format(o->type, o->min, text);
    buf_adds(text, " to ");
    config_value_format(o->type, o->max, text);
    buf_addf(text, "; %s by default.", o->fallback ? o->fallback : "none");
}

static bool manual_has(const char *page, const struct config_option *o)
{
    struct buf text = BUF_INIT;
    const char *section, *entry = NULL;
    bool found;
    buf_addf(&text, " .Ss [%s%s] ", o->section, is_account_section(o) ? " NAME" : "");
    section = find_between(page, NULL, &text);
    buf_clear(&text);
    buf_addf(&text, " .It Ic %s No = ", o->name);
    if (section)
        entry = find_between(section, strstr(section + 1, " .Ss "), &text);
    buf_clear(&text);
    buf_addf(&text, " %s", o->help);
    add_default(&text, o);
    found = entry && find_between(entry, strstr(entry + 1, " .It "), &text);
    buf_release(&text);
    return found;
}

/* Each in its section, with its help, its range and its default. */
static void manual_has_every_option(void **state)
{
    struct buf page = BUF_INIT;
    const struct config_option *o;
    (void)state;
    read_whole("deploy/man/examhook.conf.5", &page);
    flatten(&page);
    for (o = config_options; o->section; o++) {
        if (!manual_has(page.data, o))
            fail_msg("the manual has no (or another) %s in [%s]", o->name, o->section);
    }
    buf_release(&page);
}

/* The sample with every "#name = value" and "#[section]" switched on. */
static void uncommented(struct buf *out)
{
    struct buf sample = BUF_INIT;
    const char *line;
    read_whole("deploy/examhook.conf", &sample);
    for (line = buf_str(&sample); *line; line += strcspn(line, "\n") + 1) {
        if (line[0] == '#' && line[1] != ' ' && line[1] != '\n')
            line++;
        buf_add(out, line, strcspn(line, "\n") + 1);
    }
    buf_release(&sample);
}

static bool sample_has(const char *sample, const struct config_option *o)
{
    struct buf text = BUF_INIT;
    const char *section;
    bool found;
    buf_addf(&text, is_account_section(o) ? "\n#[%s " : "\n[%s]\n", o->section);
    section = find_between(sample, NULL, &text);
    buf_clear(&text);
    if (o->fallback && !is_account_section(o))
        buf_addf(&text, "\n#%s = %s\n", o->name, o->fallback);
    else
        buf_addf(&text, "\n#%s%s = ", o->name, o->type == CONFIG_SECRET_VALUE ? "_file" : "");
    found =
        section && find_between(section, is_account_section(o) ? NULL : strstr(section + 1, "\n["), &text);
    buf_release(&text);
    return found;
}

/* Each in its section, switched off, with its default. */
static void sample_has_every_option(void **state)
{
    struct buf sample = BUF_INIT;
    const struct config_option *o;
    (void)state;
    read_whole("deploy/examhook.conf", &sample);
    for (o = config_options; o->section; o++) {
        if (!sample_has(buf_str(&sample), o))
            fail_msg("the sample has no (or another) %s in [%s]", o->name, o->section);
    }
    buf_release(&sample);
}

/* As it is shipped, and with everything in it switched on: an option that is not in the table is refused. */
static void sample_can_be_read(void **state)
{
    struct buf text = BUF_INIT;
    struct config *config = NULL;
    struct buf why = BUF_INIT;
    if (!config_load("deploy/examhook.conf", CONFIG_WORKER, &config, &why))
        fail_msg("%s", buf_str(&why));
    config_free(config);
    uncommented(&text);
    config = load(*state, buf_str(&text), CONFIG_OPERATOR);
    assert_int_equal(config->examjoint_count, 1);
    assert_int_equal(config->proview_count, 3);
    assert_int_equal(config->fields_count, 4);
    config_free(config);
    buf_release(&text);
    buf_release(&why);
}

static void table_is_sound(void **state)
{
    const struct config_option *o;
    (void)state;
    for (o = config_options; o->section; o++) {
        size_t len = strlen(o->help);
        assert_true(len > 10 && o->help[len - 1] == '.');
        assert_true(o->roles != 0);
        assert_int_equal(o->secret, o->type == CONFIG_SECRET_VALUE);
        assert_true((o->choices != NULL) >= (o->type == CONFIG_CHOICE));
        assert_true(o->min <= o->max);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_the_table),
        cmocka_unit_test(refuses_files_others_can_touch),
        cmocka_unit_test(refuses_what_is_no_file),
        cmocka_unit_test(reads_every_line_end),
        cmocka_unit_test(long_comments_and_names_are_whole),
        cmocka_unit_test(has_defaults),
        cmocka_unit_test(takes_values),
        cmocka_unit_test(knows_the_environments),
        cmocka_unit_test(examjoint_gets_its_secrets_only),
        cmocka_unit_test(proview_gets_its_secrets_only),
        cmocka_unit_test(worker_gets_talview_only),
        cmocka_unit_test(operator_gets_no_secret),
        cmocka_unit_test(worker_may_lack_credentials),
        cmocka_unit_test(finds_the_closest_fields),
        cmocka_unit_test(finds_the_file),
        cmocka_unit_test(prints_what_counts),
        cmocka_unit_test(print_can_be_read_again),
        cmocka_unit_test(print_refuses_as_load_does),
        cmocka_unit_test(a_roles_file_has_the_same_effect),
        cmocka_unit_test(a_roles_file_has_no_secret_of_another),
        cmocka_unit_test(a_roles_file_has_every_option_of_it),
        cmocka_unit_test(rendering_names_file_and_line),
        cmocka_unit_test(rendering_tells_when_something_was_changed),
        cmocka_unit_test(a_credential_comes_before_the_file_beside),
        cmocka_unit_test(without_accounts_it_loads_for_every_role),
        cmocka_unit_test(manual_has_every_option),
        cmocka_unit_test(sample_has_every_option),
        cmocka_unit_test(sample_can_be_read),
        cmocka_unit_test(table_is_sound),
    };
    return cmocka_run_group_tests_name("config", tests, make_folder, remove_folder);
}
