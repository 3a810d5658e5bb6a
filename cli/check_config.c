#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "rehearse.h"
#include "../common/language.h"

/* nginx's fastcgi_read_timeout in the shipped site files. */
#define WEB_SERVER_WAIT_MS (30 * 1000)

static const struct {
    enum config_role role;
    const char *what;
} programs[] = {
    {CONFIG_EXAMJOINT, "configuration for examjoint.fcgi"},
    {CONFIG_PROVIEW, "configuration for proview.fcgi"},
    {CONFIG_WORKER, "configuration for the worker"},
};

static void refused(struct check_report *report, const char *what, const struct buf *why)
{
    /* Secrets of one program are hidden from another one's user on purpose. */
    bool hidden = !report->one_program && geteuid() != 0 && strstr(buf_str(why), "Permission denied");

    if (hidden)
        check_line(report, CHECK_WARNING, what, "look again as that program's user, or as root",
                   "cannot be judged by this user: %s", buf_str(why));
    else
        check_line(report, CHECK_FAILED, what, "mend the file: examhook.conf(5)", "%s", buf_str(why));
}

/* Secrets that are being changed: the old ones still open the door. */
static void check_previous(struct check_report *report, const struct config *config)
{
    const char *advice = "remove it from the configuration once nobody uses it";

    for (size_t i = 0; i < config->examjoint_count; i++) {
        if (config->examjoint[i].client_secret.previous.set)
            check_line(report, CHECK_WARNING, "secrets", advice,
                       "[examjoint %s] still takes client_secret_previous", config->examjoint[i].name);
    }
    for (size_t i = 0; i < config->proview_count; i++) {
        const struct config_proview *p = &config->proview[i];

        if (p->path_token.previous.set)
            check_line(report, CHECK_WARNING, "secrets", advice,
                       "[proview %s] still takes path_token_previous", p->name);
        if (p->header_secret.previous.set)
            check_line(report, CHECK_WARNING, "secrets", advice,
                       "[proview %s] still takes header_secret_previous", p->name);
        if (p->basic.previous.set)
            check_line(report, CHECK_WARNING, "secrets", advice,
                       "[proview %s] still takes basic_password_previous", p->name);
    }
}

static void check_role(struct check_report *report, const char *path, size_t program)
{
    struct config *config = NULL;
    struct buf why = BUF_INIT;

    if (config_load(path, programs[program].role, &config, &why)) {
        check_line(report, CHECK_OK, programs[program].what, NULL, "is complete");
        check_previous(report, config);
    } else {
        refused(report, programs[program].what, &why);
    }
    config_free(config);
    buf_release(&why);
}

void check_config_roles(struct check_report *report, const char *path, unsigned roles, struct config **config)
{
    struct buf why = BUF_INIT;

    *config = NULL;
    if (config_load(path, CONFIG_OPERATOR, config, &why)) {
        check_line(report, CHECK_OK, "configuration", NULL, "%s can be read", path);
        for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
            if (roles & programs[i].role)
                check_role(report, path, i);
        }
    } else {
        refused(report, "configuration", &why);
        if (!report->one_program && geteuid() != 0 && strstr(buf_str(&why), "Permission denied"))
            check_line(report, CHECK_FAILED, "configuration", "give the programs' group the right to read it",
                       "%s: this user cannot work with it", path);
    }
    buf_release(&why);
}

static void check_mode(struct check_report *report, const char *path)
{
    struct stat status;

    if (stat(path, &status))
        return;
    if (status.st_mode & S_IWOTH)
        check_line(report, CHECK_FAILED, "permissions", "chmod o-w it", "everybody may write to %s", path);
    else if (status.st_mode & S_IWGRP)
        check_line(report, CHECK_WARNING, "permissions", "chmod g-w it", "its group may write to %s", path);
    else
        check_line(report, CHECK_OK, "permissions", NULL, "%s is written by its owner only", path);
}

static void check_store_folder(struct check_report *report, const struct config *config)
{
    char *folder = store_area_folder(config->store_url, STORE_EXAMJOINT);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    struct stat status;

    if (folder && !stat(folder, &status) && status.st_mode & S_IRWXO)
        check_line(report, CHECK_WARNING, "permissions", "chmod o-rwx it", "everybody may enter %s", folder);
    if (slash)
        *slash = '\0';
    if (folder && slash && !stat(folder, &status)) {
        /* Each program's user passes through it to its own folder (deploy/systemd/examhook.tmpfiles). */
        if (status.st_mode & S_IWOTH)
            check_line(report, CHECK_FAILED, "permissions", "chmod o-rw it", "everybody may write to %s",
                       folder);
        else if (status.st_mode & S_IROTH)
            check_line(report, CHECK_WARNING, "permissions", "chmod o-rw it", "everybody may look into %s",
                       folder);
        else
            check_line(report, CHECK_OK, "permissions", NULL, "others can neither look into %s nor change it",
                       folder);
    }
    free(folder);
}

/* A fresh installation runs before anybody has configured it. */
static void check_accounts(struct check_report *report, const struct config *config, unsigned roles)
{
    bool examjoint = (roles & CONFIG_EXAMJOINT) && config->examjoint_count;
    bool proview = (roles & (CONFIG_PROVIEW | CONFIG_WORKER)) && config->proview_count;

    if (!examjoint && !proview)
        check_line(report, CHECK_WARNING, "accounts",
                   roles == CONFIG_EXAMJOINT  ? "add [examjoint NAME]"
                   : roles & CONFIG_EXAMJOINT ? "add [examjoint NAME] or [proview NAME]"
                                              : "add [proview NAME]",
                   "none is configured: every request is refused");
    /* A program's own part of the configuration need not have both sections. */
    if ((roles & CONFIG_EXAMJOINT) && rehearse_account_foreign(config))
        check_line(report, CHECK_WARNING, "accounts", "give that account another name",
                   "the name of [%s " STORE_REHEARSAL "] is kept for examhook rehearse: no listing shows it",
                   config_examjoint_named(config, STORE_REHEARSAL) ? "examjoint" : "proview");
    for (size_t i = 0; i < config->proview_count; i++) {
        const struct config_proview *p = &config->proview[i];

        if (p->callback_open && !p->has_path_token && !p->has_header && !p->has_basic)
            check_line(report, CHECK_WARNING, "accounts",
                       "agree on a secret with Talview where that can be had",
                       "[proview %s] takes callbacks from anybody", p->name);
        else if (p->has_path_token && !p->has_header && !p->has_basic)
            check_line(report, CHECK_WARNING, "accounts",
                       "add a header secret or basic_user where Talview can send it",
                       "[proview %s] is protected by its path token alone, and paths end up in logs",
                       p->name);
        else
            check_line(report, CHECK_OK, "accounts", NULL, "[proview %s] is protected", p->name);
    }
}

static void check_limits(struct check_report *report, const struct config *config)
{
    bool fine = true;

    if (config->budget_ms >= WEB_SERVER_WAIT_MS) {
        fine = false;
        check_line(report, CHECK_WARNING, "time limits",
                   "lower [verify] budget, or raise fastcgi_read_timeout (below ExamJoint's 60 s)",
                   "a verification may take %lld s, the shipped web server files wait 30 s",
                   (long long)(config->budget_ms / 1000));
    }
    if (config->lease_ms <= config->request_timeout_ms) {
        fine = false;
        check_line(report, CHECK_WARNING, "time limits", "make [worker] lease longer than request_timeout",
                   "a worker may lose a session while it still fetches it");
    }
    if (config->retry_first_ms > config->retry_max_ms) {
        fine = false;
        check_line(report, CHECK_WARNING, "time limits", "make [worker] retry_first shorter than retry_max",
                   "the first wait between two tries is the longest");
    }
    if (fine)
        check_line(report, CHECK_OK, "time limits", NULL, "a candidate is answered within %lld s",
                   (long long)(config->budget_ms / 1000));
}

static void check_languages(struct check_report *report, const struct config *config)
{
    struct languages *languages = NULL;
    struct buf why = BUF_INIT;

    if (access(config->languages, R_OK | X_OK))
        check_line(report, CHECK_WARNING, "languages",
                   "set [verify] languages to the folder with en.txt, de.txt, ...",
                   "%s cannot be read: every candidate is answered in English", config->languages);
    else if (!languages_load(config->languages, config->default_language, &languages, &why))
        check_line(report, CHECK_FAILED, "languages", "mend that line", "%s", buf_str(&why));
    else
        check_line(report, CHECK_OK, "languages", NULL, "%s can be read", config->languages);
    languages_free(languages);
    buf_release(&why);
}

void check_config_sense(struct check_report *report, const char *path, const struct config *config,
                        unsigned roles)
{
    check_mode(report, path);
    check_store_folder(report, config);
    check_accounts(report, config, roles);
    check_limits(report, config);
    if (config->examjoint_count)
        check_languages(report, config);
}
