/* A ceiling: libfcgi as most programs use it, one thread for each connection, and nothing done but reading
 * the body and answering. 160 threads: more than nginx keeps and uses at 64 clients, or a kept connection
 * would hold up another (the keep-alive trap). `threads SOCKET`. */
#include <fcgiapp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { THREADS = 160, BACKLOG = 511 };

static void *serve(void *listener)
{
    FCGX_Request request;
    char part[8192];

    if (FCGX_InitRequest(&request, *(const int *)listener, 0) != 0)
        return NULL;
    while (FCGX_Accept_r(&request) == 0) {
        while (FCGX_GetStr(part, sizeof part, request.in) > 0)
            ;
        FCGX_FPrintF(request.out, "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        FCGX_Finish_r(&request);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int listener;

    if (argc != 2 || FCGX_Init() != 0)
        return 2;
    umask(0117);
    listener = FCGX_OpenSocket(argv[1], BACKLOG);
    if (listener < 0)
        return 1;
    for (int i = 1; i < THREADS; i++) {
        if (pthread_create(&thread, NULL, serve, &listener) != 0) {
            fprintf(stderr, "no thread %d\n", i);
            return 1;
        }
    }
    serve(&listener);
    return 1;
}
