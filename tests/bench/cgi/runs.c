/*
 * For parts/cgi.py: runs a CGI program many times, one after the other, as a web server does, and says what
 * that cost: user and system time of the program and of all it waited for, by wait4().
 *
 *   runs COUNT TAG PROGRAM [ARGUMENT...]
 *
 * The program gets our environment, CONTENT_LENGTH, and an admission of its own on standard input; TAG makes
 * this run's respondents different from all others'. Standard output: one line of JSON.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

struct sums {
    int64_t user_us, system_us, faults, good;
};

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t in_us(struct timeval t)
{
    return (int64_t)t.tv_sec * 1000000 + t.tv_usec;
}

static void die(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

/* Starts it with the body on its standard input; what it answers comes from *answer. */
static pid_t start(char **command, const char *body, size_t len, int *answer)
{
    int in[2], out[2];
    posix_spawn_file_actions_t actions;
    pid_t child;

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        die("pipe2");
    if (write(in[1], body, len) != (ssize_t)len)
        die("write");
    close(in[1]);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    if (posix_spawnp(&child, command[0], &actions, NULL, command, environ) != 0)
        die(command[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    *answer = out[0];
    return child;
}

/* A CGI answer without a Status line is a 200. */
static int is_good(const char *answer, size_t len)
{
    static const char status[] = "Status:";
    const char *found = memmem(answer, len, status, sizeof status - 1);
    return len > 0 && (!found || strncmp(found + sizeof status - 1, " 200", 4) == 0);
}

static void run_once(char **command, const char *tag, int number, struct sums *sums)
{
    char body[256], length[16], answer[4096];
    size_t got = 0;
    ssize_t n;
    int from, status;
    struct rusage used;
    int len =
        snprintf(body, sizeof body,
                 "{\"event\":\"admitted_respondent\",\"respondent_id\":\"%s-%08d\",\"exam_id\":\"exam-1\","
                 "\"admittedOn\":1719221380326}",
                 tag, number);

    snprintf(length, sizeof length, "%d", len);
    setenv("CONTENT_LENGTH", length, 1);
    pid_t child = start(command, body, (size_t)len, &from);
    while (got < sizeof answer - 1 && (n = read(from, answer + got, sizeof answer - 1 - got)) > 0)
        got += (size_t)n;
    answer[got] = '\0';
    close(from);
    if (wait4(child, &status, 0, &used) != child)
        die("wait4");
    sums->user_us += in_us(used.ru_utime);
    sums->system_us += in_us(used.ru_stime);
    sums->faults += used.ru_minflt;
    sums->good += status == 0 && is_good(answer, got);
}

int main(int argc, char **argv)
{
    struct sums sums = {0};
    int64_t began_us;
    int count = argc > 3 ? (int)strtol(argv[1], NULL, 10) : 0;

    if (count <= 0 || strlen(argv[2]) > 64) {
        fputs("usage: runs COUNT TAG PROGRAM [ARGUMENT...]\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    began_us = now_us();
    for (int i = 0; i < count; i++)
        run_once(argv + 3, argv[2], i, &sums);
    printf("{\"runs\": %d, \"good\": %lld, \"user_us\": %lld, \"system_us\": %lld, \"faults\": %lld, "
           "\"wall_us\": %lld}\n",
           count, (long long)sums.good, (long long)sums.user_us, (long long)sums.system_us,
           (long long)sums.faults, (long long)(now_us() - began_us));
    return 0;
}
