#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Waiting connections: with a backlog of 5 nginx sees EAGAIN and answers 502. */
#define BACKLOG 511
#define SOCKET_MODE 0660

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

bool socket_is_listening(int fd)
{
    int listening = 0, domain = 0;
    socklen_t len = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) != 0 || !listening)
        return false;
    len = sizeof domain;
    /* FastCGI over TCP has no file mode to guard it. */
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}
