/* A secret's text: it stands in its line or in a file of its own. */
#include "config_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_FILE_MOST 16384

/* --- Which file ----------------------------------------------------------------------------------------- */

/* What systemd was told to hand over (LoadCredential=), a flat folder: where it has such a name. */
static char *credential_path(const char *name)
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    struct buf path = BUF_INIT;
    char *found = NULL;
    if (!folder || folder[0] != '/' || strchr(name, '/'))
        return NULL;
    buf_addf(&path, "%s/%s", folder, name);
    if (access(path.data, F_OK) == 0)
        found = xstrdup(path.data);
    buf_release(&path);
    return found;
}

char *config_secret_path(const struct config_source *source, const struct config_value *value)
{
    char *credential = credential_path(value->text);
    return credential ? credential : config_resolve(source, value->text);
}

static bool is_credential(const char *path)
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    size_t len = folder ? strlen(folder) : 0;
    return strncmp(path, "/run/credentials/", strlen("/run/credentials/")) == 0 ||
           (len > 0 && strncmp(path, folder, len) == 0 && path[len] == '/');
}

int64_t config_secret_written_ms(const struct config_source *source, enum config_role role,
                                 const struct config_section *section, const char *name)
{
    const struct config_value *value = config_section_value(section, name);
    struct stat st;
    int64_t at_ms = 0;
    char *path;
    if (!value || value->form != CONFIG_FROM_FILE || !(value->option->roles & (unsigned)role))
        return 0;
    path = config_secret_path(source, value);
    if (!is_credential(path) && stat(path, &st) == 0)
        at_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    free(path);
    return at_ms;
}

/* --- What is in it -------------------------------------------------------------------------------------- */

static void drop_newline(struct buf *secret)
{
    if (secret->len > 0 && secret->data[secret->len - 1] == '\n')
        secret->len--;
    if (secret->len > 0 && secret->data[secret->len - 1] == '\r')
        secret->len--;
}

static void check_mode(const struct config_source *source, mode_t mode, const char *path, struct buf *reason)
{
    if (mode & S_IRWXO)
        buf_addf(reason, "%s is open to every user: run chmod o-rwx %s", path, path);
    else if (source->personal && (mode & S_IRWXG))
        buf_addf(reason,
                 "%s is open to its group, which on a shared host may be every customer: run chmod go-rwx %s",
                 path, path);
}

/* Puts what is wrong with the open file into `reason`; else `secret` holds what it says. */
static bool take_file(const struct config_source *source, int fd, const struct config_value *value,
                      const char *path, struct buf *secret, struct buf *reason)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        buf_addf(reason, "%s cannot be looked at: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        buf_addf(reason, "%s is not a file", path);
    else
        check_mode(source, st.st_mode, path, reason);
    if (reason->len == 0 && !buf_read(secret, fd, SECRET_FILE_MOST))
        buf_addf(reason, "%s cannot be read: %s", path, strerror(errno));
    if (reason->len > 0)
        return false;
    drop_newline(secret);
    if (secret->len == 0) {
        buf_addf(reason, "%s is empty", path);
        return false;
    }
    if (memchr(secret->data, '\0', secret->len)) {
        buf_addf(reason, "%s has a NUL byte in it", path);
        return false;
    }
    buf_addf(reason, "what is in %s ", path);
    return config_value_check(value->option, buf_str(secret), reason);
}

static bool read_file(const struct config_source *source, const struct config_value *value, const char *path,
                      struct buf *secret, struct buf *why)
{
    struct buf reason = BUF_INIT;
    bool good = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        buf_addf(&reason, "%s cannot be opened: %s", path, strerror(errno));
    else
        good = take_file(source, fd, value, path, secret, &reason);
    if (fd >= 0)
        close(fd);
    if (!good)
        config_refuse(why, source->path, value->line, "%s_file: %s", value->option->name, buf_str(&reason));
    buf_release(&reason);
    return good;
}

bool config_secret_read(const struct config_source *source, enum config_role role,
                        const struct config_section *section, const char *name, struct buf *secret,
                        char **path, struct buf *why)
{
    const struct config_value *value = config_section_value(section, name);
    *path = NULL;
    if (!value || !(value->option->roles & (unsigned)role))
        return true;
    if (value->form != CONFIG_FROM_FILE) {
        buf_adds(secret, value->text);
        return true;
    }
    *path = config_secret_path(source, value);
    return read_file(source, value, *path, secret, why);
}
