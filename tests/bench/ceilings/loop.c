/* A ceiling: libfcgi called from one event loop, and nothing done but reading the body and answering. A
 * connection goes to libfcgi as soon as it is readable, so a slow peer would hold up all: fine for a ceiling.
 * `loop SOCKET`. */
#include <errno.h>
#include <fcgiapp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 511, EVENTS = 256 };

/* One more connection in the loop. */
static void take(int loop, int listener)
{
    struct epoll_event event = {.events = EPOLLIN};
    FCGX_Request *request = calloc(1, sizeof *request);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (request && fd >= 0 && FCGX_InitRequest(request, -1, 0) == 0) {
        request->ipcFd = fd;
        event.data.ptr = request;
        if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) == 0)
            return;
    }
    if (fd >= 0)
        close(fd);
    free(request);
}

/* Answers one request; when the connection is over, it leaves the loop by being closed. */
static void answer(FCGX_Request *request)
{
    char part[8192];

    request->keepConnection = 1; /* or FCGX_Accept_r would close it first */
    if (FCGX_Accept_r(request) == 0) {
        while (FCGX_GetStr(part, sizeof part, request->in) > 0)
            ;
        FCGX_FPrintF(request->out, "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        FCGX_Finish_r(request);
    }
    if (request->ipcFd < 0)
        free(request);
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    int listener, loop, count;

    if (argc != 2 || FCGX_Init() != 0)
        return 2;
    umask(0117);
    listener = FCGX_OpenSocket(argv[1], BACKLOG);
    loop = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event) != 0)
        return 1;
    while ((count = epoll_wait(loop, events, EVENTS, -1)) >= 0 || errno == EINTR) {
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                answer(events[i].data.ptr);
            else
                take(loop, listener);
        }
    }
    return 1;
}
