#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../common/log.h"

/* Waiting connections: with a backlog of 5 nginx sees EAGAIN and answers 502. */
#define BACKLOG 511
#define SOCKET_MODE 0660
/* The first one handed over, as sd_listen_fds(3) has it. */
#define HANDED_OVER_FD 3

static bool address_set(struct sockaddr_un *address, const char *path, const char *suffix)
{
    size_t len = strlen(path), more = strlen(suffix);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (len + more >= sizeof address->sun_path)
        return false;
    memcpy(address->sun_path, path, len);
    memcpy(address->sun_path + len, suffix, more);
    return true;
}

static bool is_served(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool served =
        fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    return served;
}

static bool give_to_group(const char *path, const char *group, struct buf *why)
{
    struct group *entry = getgrnam(group);
    if (!entry) {
        buf_addf(why, "there is no group %s", group);
        return false;
    }
    if (chown(path, (uid_t)-1, entry->gr_gid) != 0) {
        buf_addf(why, "cannot give the socket to group %s: %s", group, strerror(errno));
        return false;
    }
    return true;
}

int socket_listen(const char *path, const char *group, struct buf *why)
{
    struct sockaddr_un address, made;
    struct stat st;
    int fd = -1;

    if (!address_set(&made, path, ".new")) {
        buf_addf(why, "%s: too long for the path of a socket", path);
        return -1;
    }
    address_set(&address, path, "");
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        buf_addf(why, "%s: is there and is no socket", path);
        return -1;
    }
    if (is_served(&address)) {
        buf_addf(why, "%s: another program is serving this socket", path);
        return -1;
    }
    /* Made aside with its final mode and owner, then renamed: nobody ever connects to it in another state. */
    unlink(made.sun_path);
    mode_t mask = umask(0777 & ~SOCKET_MODE);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&made, sizeof made) == 0;
    umask(mask);
    if (!bound) {
        buf_addf(why, "%s: %s", made.sun_path, strerror(errno));
        goto fail;
    }
    if (group && !give_to_group(made.sun_path, group, why))
        goto fail;
    if (listen(fd, BACKLOG) != 0 || rename(made.sun_path, path) != 0) {
        buf_addf(why, "%s: %s", path, strerror(errno));
        goto fail;
    }
    return fd;
fail:
    if (fd >= 0)
        close(fd);
    unlink(made.sun_path);
    return -1;
}

/* -1: no socket, or one without this option. */
static int socket_option(int fd, int name)
{
    int value = 0;
    socklen_t len = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 ? value : -1;
}

bool socket_is_listening(int fd)
{
    /* FastCGI over TCP has no file mode to guard it. */
    return socket_option(fd, SO_ACCEPTCONN) == 1 && socket_option(fd, SO_DOMAIN) == AF_UNIX &&
           socket_option(fd, SO_TYPE) == SOCK_STREAM;
}

/* A number of the environment; -1 for anything else. */
static long environment_number(const char *name)
{
    const char *text = getenv(name);
    if (!text || !*text || strlen(text) > 9 || strspn(text, "0123456789") != strlen(text))
        return -1;
    return strtol(text, NULL, 10);
}

bool socket_handed_over(int *fd, struct buf *why)
{
    const char *given = getenv("LISTEN_FDS");
    long count = given && given[0] != '\0' ? environment_number("LISTEN_FDS") : 0;
    int domain = socket_option(HANDED_OVER_FD, SO_DOMAIN);

    /* Variables of another process, the one that started us, say, are no business of ours. */
    if (environment_number("LISTEN_PID") != (long)getpid() || count == 0) {
        *fd = -1;
        return true;
    }
    if (count != 1)
        buf_addf(why, "LISTEN_FDS=%s: exactly one socket can be handed over", given);
    else if (domain == AF_INET || domain == AF_INET6)
        buf_adds(why, "the socket handed over (descriptor 3) is a TCP socket, which no file mode guards: "
                      "only unix sockets are served");
    else if (!socket_is_listening(HANDED_OVER_FD))
        buf_adds(why, "the socket handed over (descriptor 3) is no listening unix stream socket");
    if (why->len > 0)
        return false;
    fcntl(HANDED_OVER_FD, F_SETFD, FD_CLOEXEC);
    *fd = HANDED_OVER_FD;
    return true;
}

void socket_warn_of_mode(int fd)
{
    struct sockaddr_un address;
    socklen_t len = sizeof address;
    struct stat st;

    memset(&address, 0, sizeof address);
    /* An abstract one has neither file nor mode. The kernel may have filled the path to its last byte. */
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 || len >= sizeof address)
        return;
    if (address.sun_path[0] == '\0')
        log_warn("every program of this machine can connect to an abstract socket",
                 LOG_S("socket", address.sun_path + 1));
    else if (stat(address.sun_path, &st) == 0 && (st.st_mode & S_IWOTH))
        log_warn("everybody may connect to the socket (SocketMode=0660 is meant)",
                 LOG_S("socket", address.sun_path));
}
