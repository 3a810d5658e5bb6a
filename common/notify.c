#include "notify.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "buf.h"

/* Longer texts are cut: the manager takes datagrams of some KiB only. */
#define STATUS_MOST 1000
/* How long READY=1 waits for room in the manager's queue: lost, it would have the start counted as failed. */
#define READY_WAIT_S 2

/* False: there is no address, or none of the two forms. An abstract name ends where it ends, without a NUL.
 */
static bool address_read(const char *name, struct sockaddr_un *address, socklen_t *bytes)
{
    size_t len = name ? strlen(name) : 0;
    if (len < 2 || len >= sizeof address->sun_path || (name[0] != '/' && name[0] != '@'))
        return false;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, name, len);
    *bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    if (name[0] == '@') {
        address->sun_path[0] = '\0';
        *bytes -= 1;
    }
    return true;
}

static void send_lines(const char *lines, int wait_s)
{
    const struct timeval wait = {.tv_sec = wait_s};
    struct sockaddr_un address;
    socklen_t bytes;

    if (!address_read(getenv("NOTIFY_SOCKET"), &address, &bytes))
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    int flags = MSG_NOSIGNAL;
    if (wait_s == 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait) != 0)
        flags |= MSG_DONTWAIT;
    (void)!sendto(fd, lines, strlen(lines), flags, (const struct sockaddr *)&address, bytes);
    close(fd);
}

void notify_ready(void)
{
    send_lines("READY=1", READY_WAIT_S);
}

void notify_reloading(void)
{
    struct timespec now;
    struct buf lines = BUF_INIT;
    clock_gettime(CLOCK_MONOTONIC, &now);
    buf_addf(&lines, "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)now.tv_sec * 1000000 + (long long)now.tv_nsec / 1000);
    send_lines(buf_str(&lines), 0);
    buf_release(&lines);
}

void notify_stopping(void)
{
    send_lines("STOPPING=1", 0);
}

void notify_status(const char *text)
{
    struct buf line = BUF_INIT;
    buf_adds(&line, "STATUS=");
    /* A newline would begin a line of its own: READY=1, say. */
    for (size_t i = 0; i < STATUS_MOST && text[i] != '\0'; i++)
        buf_addc(&line, (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i]);
    send_lines(buf_str(&line), 0);
    buf_release(&line);
}
