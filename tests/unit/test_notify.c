#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../common/notify.h"

/* What a service manager has: a bound datagram socket, and its name in NOTIFY_SOCKET. */
struct manager {
    int fd;
    char path[64]; /* empty: an abstract one */
};

static struct manager manager_listen(bool abstract)
{
    struct manager m = {.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char name[64];
    assert_true(m.fd >= 0);
    int len = snprintf(name, sizeof name, "%sexamhook-notify-%ld", abstract ? "@" : "/tmp/", (long)getpid());
    memcpy(address.sun_path, name, (size_t)len + 1);
    if (abstract)
        address.sun_path[0] = '\0';
    else
        memcpy(m.path, name, (size_t)len + 1);
    unlink(m.path);
    /* An abstract name is as long as it is said to be: a NUL at the end would be a part of it. */
    assert_int_equal(bind(m.fd, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)len + !abstract)),
                     0);
    setenv("NOTIFY_SOCKET", name, 1);
    return m;
}

static void manager_close(const struct manager *m)
{
    close(m->fd);
    unlink(m->path);
    unsetenv("NOTIFY_SOCKET");
}

static void assert_said(const struct manager *m, const char *wanted)
{
    char text[4096];
    ssize_t got = recv(m->fd, text, sizeof text - 1, 0);
    assert_true(got >= 0);
    text[got] = '\0';
    assert_string_equal(text, wanted);
}

static void say_all(bool abstract)
{
    const struct manager m = manager_listen(abstract);
    notify_ready();
    assert_said(&m, "READY=1");
    notify_stopping();
    assert_said(&m, "STOPPING=1");
    notify_status("serving");
    assert_said(&m, "STATUS=serving");
    manager_close(&m);
}

static void a_socket_with_a_path(void **state)
{
    (void)state;
    say_all(false);
}

static void an_abstract_socket(void **state)
{
    (void)state;
    say_all(true);
}

static long long monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000 + (long long)now.tv_nsec / 1000;
}

static void reloading_carries_the_monotonic_time(void **state)
{
    (void)state;
    const struct manager m = manager_listen(false);
    const char head[] = "RELOADING=1\nMONOTONIC_USEC=";
    char text[256] = "", *end;
    long long before = monotonic_us();
    notify_reloading();
    assert_true(recv(m.fd, text, sizeof text - 1, 0) > 0);
    assert_memory_equal(text, head, sizeof head - 1);
    long long said = strtoll(text + sizeof head - 1, &end, 10);
    assert_int_equal(*end, '\0');
    assert_in_range(said, before, monotonic_us());
    manager_close(&m);
}

static void a_status_is_one_line(void **state)
{
    (void)state;
    const struct manager m = manager_listen(false);
    notify_status("wrong\nREADY=1\r\x7f");
    assert_said(&m, "STATUS=wrong READY=1  ");
    char longest[5000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    notify_status(longest);
    char text[6000];
    assert_in_range(recv(m.fd, text, sizeof text, 0), 500, 2000);
    manager_close(&m);
}

static void without_a_manager_nothing_is_done(void **state)
{
    (void)state;
    static const char *const addresses[] = {
        "", "/", "@", "relative", "vsock:2:1234", "/nonexistent/notify", "@examhook-nobody-listens-here"};
    char too_long[300];
    unsetenv("NOTIFY_SOCKET");
    notify_ready();
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        setenv("NOTIFY_SOCKET", addresses[i], 1);
        notify_ready();
    }
    memset(too_long, '/', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    setenv("NOTIFY_SOCKET", too_long, 1);
    notify_ready();
    unsetenv("NOTIFY_SOCKET");
}

static void a_manager_that_does_not_read_holds_nobody(void **state)
{
    (void)state;
    const struct manager m = manager_listen(false);
    alarm(20); /* ends the test where the call would wait for ever */
    for (int i = 0; i < 5000; i++)
        notify_status("again");
    alarm(0);
    assert_said(&m, "STATUS=again");
    manager_close(&m);
}

/* What a manager does that is busy first: reads, from 300 ms on, until it is told READY=1. */
static void read_late_until_ready(const struct manager *m)
{
    const struct timespec late = {.tv_nsec = 300000000}, moment = {.tv_nsec = 10000000};
    char text[4096];
    nanosleep(&late, NULL);
    for (int tries = 0; tries < 1000; tries++) {
        ssize_t got = recv(m->fd, text, sizeof text, 0);
        if (got == 7 && memcmp(text, "READY=1", 7) == 0)
            _exit(0);
        if (got < 0)
            nanosleep(&moment, NULL);
    }
    _exit(1);
}

static void ready_waits_for_a_busy_manager(void **state)
{
    (void)state;
    const struct manager m = manager_listen(false);
    int status;
    for (int i = 0; i < 5000; i++)
        notify_status("again");
    pid_t reader = fork();
    if (reader == 0)
        read_late_until_ready(&m);
    assert_true(reader > 0);
    notify_ready();
    assert_int_equal(waitpid(reader, &status, 0), reader);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    manager_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_socket_with_a_path),
        cmocka_unit_test(an_abstract_socket),
        cmocka_unit_test(reloading_carries_the_monotonic_time),
        cmocka_unit_test(a_status_is_one_line),
        cmocka_unit_test(without_a_manager_nothing_is_done),
        cmocka_unit_test(a_manager_that_does_not_read_holds_nobody),
        cmocka_unit_test(ready_waits_for_a_busy_manager),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
