/*
 * For parts/outbound.py: a network with a delay, between loopback and loopback.
 *
 *   relay LISTEN-PORT TO-PORT ONE-WAY-MS
 *
 * Every byte comes out that much later than it went in, in both directions. The handshake of TCP, which
 * loopback would do at once, costs its round trip too: a client's first bytes leave that much later. Nothing
 * else is slowed: there is no limit to what is under way.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BYTES_MOST 65536
#define EVENTS 64

struct pair;

struct side {
    struct pair *pair;
    int fd;
    int64_t ready_us; /* what it sends leaves no sooner */
};

struct pair {
    struct side sides[2];
    int ended; /* how many directions have come to their end */
};

/* What is under way, by the time it comes out. Length 0: the end of a direction. */
struct piece {
    struct piece *prev, *next;
    struct side *to;
    int64_t due_us;
    size_t len;
    char bytes[];
};

struct relay {
    int epoll, listener, to_port;
    int64_t one_way_us;
    struct piece *first, *last;
};

static void die(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void at_once(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* `from` NULL: of the listener. */
static void watch(const struct relay *relay, int fd, struct side *from)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = from};
    if (epoll_ctl(relay->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

static void take_connection(const struct relay *relay)
{
    struct sockaddr_in to = loopback(relay->to_port);
    int client = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pair *pair = calloc(1, sizeof *pair);

    if (client < 0 || server < 0 || !pair)
        die("a connection");
    if (connect(server, (struct sockaddr *)&to, sizeof to) != 0) {
        close(client);
        close(server);
        free(pair);
        return;
    }
    at_once(client);
    at_once(server);
    pair->sides[0] = (struct side){.pair = pair, .fd = client, .ready_us = now_us() + 2 * relay->one_way_us};
    pair->sides[1] = (struct side){.pair = pair, .fd = server};
    watch(relay, client, &pair->sides[0]);
    watch(relay, server, &pair->sides[1]);
}

/* Nearly always at the end: only the first bytes of a connection are later than others'. */
static void put_in(struct relay *relay, struct piece *piece)
{
    struct piece *before = relay->last;
    while (before && before->due_us > piece->due_us)
        before = before->prev;
    piece->prev = before;
    piece->next = before ? before->next : relay->first;
    *(piece->next ? &piece->next->prev : &relay->last) = piece;
    *(before ? &before->next : &relay->first) = piece;
}

static void take_bytes(struct relay *relay, struct side *from)
{
    static char bytes[BYTES_MOST];
    ssize_t got = recv(from->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    size_t len = got > 0 ? (size_t)got : 0;
    struct piece *piece = malloc(sizeof *piece + len);
    int64_t now = now_us();
    if (!piece)
        die("malloc");
    if (len == 0)
        epoll_ctl(relay->epoll, EPOLL_CTL_DEL, from->fd, NULL);
    memcpy(piece->bytes, bytes, len);
    piece->len = len;
    piece->to = from == &from->pair->sides[0] ? &from->pair->sides[1] : &from->pair->sides[0];
    piece->due_us = (now > from->ready_us ? now : from->ready_us) + relay->one_way_us;
    put_in(relay, piece);
}

/* The pair is gone with its second end. */
static void give(const struct piece *piece)
{
    struct pair *pair = piece->to->pair;
    /* Who does not read is gone, or far behind: it blocks all others, as no test here wants it. */
    for (size_t at = 0; at < piece->len;) {
        ssize_t n = send(piece->to->fd, piece->bytes + at, piece->len - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            break;
        at += n > 0 ? (size_t)n : 0;
    }
    if (piece->len > 0)
        return;
    shutdown(piece->to->fd, SHUT_WR);
    if (++pair->ended < 2)
        return;
    close(pair->sides[0].fd);
    close(pair->sides[1].fd);
    free(pair);
}

static void give_due(struct relay *relay)
{
    while (relay->first && relay->first->due_us <= now_us()) {
        struct piece *piece = relay->first;
        relay->first = piece->next;
        *(piece->next ? &piece->next->prev : &relay->last) = NULL;
        give(piece);
        free(piece);
    }
}

static void run(struct relay *relay)
{
    struct epoll_event events[EVENTS];
    for (;;) {
        int64_t left = relay->first ? relay->first->due_us - now_us() : 1000000;
        struct timespec wait = {.tv_sec = 0,
                                .tv_nsec = left > 0 ? (left < 1000000 ? left : 999999) * 1000 : 0};
        int count = epoll_pwait2(relay->epoll, events, EVENTS, &wait, NULL);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                take_bytes(relay, events[i].data.ptr);
            else
                take_connection(relay);
        }
        give_due(relay);
    }
}

int main(int argc, char **argv)
{
    struct relay relay = {.epoll = epoll_create1(EPOLL_CLOEXEC)};
    int on = 1;
    if (argc != 4) {
        fputs("usage: relay LISTEN-PORT TO-PORT ONE-WAY-MS\n", stderr);
        return 2;
    }
    struct sockaddr_in here = loopback((int)strtol(argv[1], NULL, 10));
    relay.to_port = (int)strtol(argv[2], NULL, 10);
    relay.one_way_us = (int64_t)(strtod(argv[3], NULL) * 1000);
    relay.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(relay.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(relay.listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(relay.listener, 511) != 0)
        die("listen");
    watch(&relay, relay.listener, NULL);
    run(&relay);
    return 0;
}
