/* The account `rehearsal`: as it is configured, and the lines with which it is. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "rehearse.h"

#define LOOPBACK "https://127.0.0.1:"
/* Below those that the kernel gives to callers. */
#define PORT_FIRST 20000
#define PORTS 10000

static const struct config_proview *proview_of(const struct config *config)
{
    for (size_t i = 0; i < config->proview_count; i++) {
        if (!strcmp(config->proview[i].name, STORE_REHEARSAL))
            return &config->proview[i];
    }
    return NULL;
}

bool rehearse_account_there(const struct config *config)
{
    return config_examjoint_named(config, STORE_REHEARSAL) && proview_of(config);
}

bool rehearse_account_foreign(const struct config *config)
{
    static const char made[] = STORE_REHEARSAL "-";
    const struct config_examjoint *examjoint = config_examjoint_named(config, STORE_REHEARSAL);

    return examjoint ? strncmp(examjoint->client_id, made, strlen(made)) != 0 : proview_of(config) != NULL;
}

/* --- Reading ----------------------------------------------------------------------------------------------
 */

/* The value of NAME in a [SECTION] of a rendered configuration; NULL: it is not there. */
static char *value_of(const char *text, const char *section, const char *name)
{
    char head[64];
    size_t len = strlen(name);

    snprintf(head, sizeof(head), "\n[%s]\n", section);
    text = strstr(text, head);
    if (!text)
        return NULL;
    for (text += strlen(head); *text && *text != '['; text += strcspn(text, "\n") + 1) {
        if (!strncmp(text, name, len) && !strncmp(text + len, " = ", 3))
            return xstrndup(text + len + 3, strcspn(text + len + 3, "\n"));
        if (!text[strcspn(text, "\n")])
            break;
    }
    return NULL;
}

struct wanted {
    const char *section, *name;
    char **value;
};

/* Each program's part of the configuration has its own secrets, in clear text: what a program is given is
   what it is to be called with. */
static int read_part(struct cli *cli, const struct config *config, enum config_role role,
                     const struct wanted *wanted)
{
    struct buf text = BUF_INIT, why = BUF_INIT;
    int64_t changed_ms;
    int code = CLI_FINE;

    if (config_render(config->path, role, &text, &changed_ms, &why)) {
        for (; wanted->name; wanted++)
            *wanted->value = value_of(buf_str(&text), wanted->section, wanted->name);
    } else {
        cli_failed(cli, "%s", buf_str(&why));
        code = CLI_CONFIG;
    }
    buf_release(&text);
    buf_release(&why);
    return code;
}

static int port_of(const char *url)
{
    int64_t port = 0;
    char *digits;

    if (!url || strncmp(url, LOOPBACK, strlen(LOOPBACK)))
        return 0;
    url += strlen(LOOPBACK);
    digits = xstrndup(url, strcspn(url, "/"));
    if (!cli_number(digits, 1, 65535, &port))
        port = 0;
    free(digits);
    return (int)port;
}

int rehearse_account_read(struct cli *cli, const struct config *config, struct rehearse_account *account)
{
    static const char examjoint[] = "examjoint " STORE_REHEARSAL, proview[] = "proview " STORE_REHEARSAL;
    const struct wanted of_examjoint[] = {{examjoint, "client_id", &account->client_id},
                                          {examjoint, "client_secret", &account->client_secret},
                                          {NULL, NULL, NULL}};
    const struct wanted of_proview[] = {{proview, "path_token", &account->path_token},
                                        {proview, "header_name", &account->header_name},
                                        {proview, "header_secret", &account->header_secret},
                                        {proview, "basic_user", &account->basic_user},
                                        {proview, "basic_password", &account->basic_password},
                                        {NULL, NULL, NULL}};
    const struct wanted of_worker[] = {
        {proview, "username", &account->username}, {proview, "password", &account->password},
        {proview, "app_id", &account->app_id},     {proview, "ca_file", &account->ca_file},
        {"worker", "proxy", &account->proxy},      {NULL, NULL, NULL}};
    int code = read_part(cli, config, CONFIG_EXAMJOINT, of_examjoint);

    if (!code)
        code = read_part(cli, config, CONFIG_PROVIEW, of_proview);
    if (!code)
        code = read_part(cli, config, CONFIG_WORKER, of_worker);
    if (code)
        return code;
    account->port = port_of(proview_of(config)->login_url);
    if (!account->client_id || !account->client_secret)
        return cli_failed(cli,
                          "the secret of [examjoint " STORE_REHEARSAL "] is none that --setup makes: put "
                          "the lines of `examhook rehearse --setup` in the section's place");
    if (rehearse_account_foreign(config) || (!account->port && account->username))
        return cli_failed(cli,
                          "an account " STORE_REHEARSAL " is there that --setup did not make (its client_id "
                          "begins with \"" STORE_REHEARSAL "-\", its login_url with " LOOPBACK
                          "): give that account another name, or put the lines of `examhook rehearse "
                          "--setup` in its place");
    return CLI_FINE;
}

void rehearse_account_release(struct rehearse_account *account)
{
    char *const texts[] = {account->client_id,      account->client_secret, account->path_token,
                           account->header_name,    account->header_secret, account->basic_user,
                           account->basic_password, account->username,      account->password,
                           account->app_id,         account->ca_file,       account->proxy};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        wipe_free(texts[i]);
    *account = (struct rehearse_account){0};
}

/* --- The lines to paste -----------------------------------------------------------------------------------
 */

static const char *random_hex(char text[33])
{
    unsigned char bytes[16];

    randombytes_buf(bytes, sizeof(bytes));
    return sodium_bin2hex(text, 33, bytes, sizeof(bytes));
}

static void print_reload(FILE *out, const struct config *config, bool rated)
{
    fputs("\n# Then let the programs read it:\n", out);
    if (config->personal)
        fputs("#   nothing to do where they start for each request; else SIGHUP to examjoint.fcgi, "
              "proview.fcgi\n"
              "#   and `examhook work`\n",
              out);
    else
        fputs("#   systemctl reload 'examhook-*.service'     (without systemd: SIGHUP to examjoint.fcgi,\n"
              "#   proview.fcgi and `examhook work`)\n",
              out);
    fprintf(out,
            "# and play a small one first:\n"
            "#   examhook rehearse --candidates 10 --within 10 --url https://YOUR-HOST%s\n",
            rated ? "" : " --without-ratings");
}

static void print_examjoint(FILE *out, const struct config *config)
{
    char id[33], secret[33];

    fprintf(out,
            "# For `examhook rehearse`. Put these lines at the end of %s;\n"
            "# nothing was changed there.\n\n"
            "[examjoint " STORE_REHEARSAL "]\nclient_id = " STORE_REHEARSAL "-%s\nclient_secret = %s\n\n"
            "[examjoint " STORE_REHEARSAL " fields]\n0 = id\n1 = password\n\n"
            "[proview " STORE_REHEARSAL "]\n",
            config->path, random_hex(id), random_hex(secret));
    sodium_memzero(secret, sizeof(secret));
}

static void print_standin(FILE *out, const char *ca_file)
{
    int port = PORT_FIRST + (int)randombytes_uniform(PORTS);
    char password[33];

    fprintf(out,
            "# The stand-in of Talview, which runs on this machine as long as a rehearsal does.\n"
            "login_url = " LOOPBACK "%d/v1/user/login\nsession_url = " LOOPBACK "%d/v1/sessions\n"
            "ca_file = %s\nusername = " STORE_REHEARSAL "\npassword = %s\napp_id = " STORE_REHEARSAL "\n",
            port, port, ca_file, random_hex(password));
    sodium_memzero(password, sizeof(password));
}

int rehearse_account_print(struct cli *cli, const struct config *config, const char *ca_file)
{
    char header[33];

    if (config_examjoint_named(config, STORE_REHEARSAL) || proview_of(config))
        return cli_failed(cli,
                          "%s has a section of the account " STORE_REHEARSAL " already: take it out first",
                          config->path);
    if (sodium_init() < 0)
        return cli_failed(cli, "no random numbers");
    print_examjoint(cli->out, config);
    if (ca_file)
        print_standin(cli->out, ca_file);
    fprintf(cli->out, "header_name = X-Rehearsal-Secret\nheader_secret = %s\n", random_hex(header));
    print_reload(cli->out, config, ca_file != NULL);
    sodium_memzero(header, sizeof(header));
    return CLI_FINE;
}
