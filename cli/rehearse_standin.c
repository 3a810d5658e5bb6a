/* The stand-in of Talview: a Python program that is shipped, run as a child of ours for as long as a
   rehearsal takes. No shell, no secret among its arguments. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rehearse.h"
#include "../common/clock.h"

#define START_MS 30000 /* it makes certificates where there are none */
#define STOP_MS 5000

static const char *const pythons[] = {"/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3"};

static const char *find_python(void)
{
    for (size_t i = 0; i < sizeof(pythons) / sizeof(pythons[0]); i++) {
        if (access(pythons[i], X_OK) == 0)
            return pythons[i];
    }
    return NULL;
}

/* Nobody else may have written what we run; the group that is only ours, as many users have one, is we. */
static int check_program(struct cli *cli, const char *path)
{
    struct stat st;
    mode_t others = S_IWGRP | S_IWOTH;

    if (stat(path, &st))
        return cli_failed(cli, "the stand-in %s: %s", path, strerrordesc_np(errno));
    if (st.st_uid == geteuid() && st.st_gid == getegid())
        others = S_IWOTH;
    if (!S_ISREG(st.st_mode) || (st.st_mode & others) || (st.st_uid && st.st_uid != geteuid()))
        return cli_failed(
            cli, "the stand-in %s is not run: it must be a file of root's or ours that nobody else can write",
            path);
    return CLI_FINE;
}

/* Where `make install` and the package put it, seen from the program; and where it lies in the sources. */
static char *beside_program(void)
{
    static const char *const places[] = {"../share/examhook/talview.py", "../tests/standin/talview.py"};
    char self[PATH_MAX + 1];
    ssize_t len = readlink("/proc/self/exe", self, PATH_MAX);

    if (len <= 0)
        return NULL;
    self[len] = '\0';
    const char *folder = dirname(self);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct buf path = BUF_INIT;
        char *found = NULL;

        buf_addf(&path, "%s/%s", folder, places[i]);
        if (access(buf_str(&path), R_OK) == 0)
            found = xstrdup(buf_str(&path));
        buf_release(&path);
        if (found)
            return found;
    }
    return NULL;
}

char *rehearse_standin_find(struct cli *cli, const char *named)
{
    char *path = named ? xstrdup(named) : beside_program();

    if (!find_python()) {
        cli_failed(cli,
                   "the stand-in of Talview is a Python program, and there is no python3 here: install it "
                   "(apt install python3), or rehearse everything but ratings with --without-ratings");
    } else if (!path) {
        cli_failed(cli, "the stand-in of Talview (talview.py) is not where it is installed to: name it with "
                        "--standin FILE, or rehearse everything but ratings with --without-ratings");
    } else if (!check_program(cli, path)) {
        return path;
    }
    free(path);
    return NULL;
}

/* In the child. Its arguments come out of a file in memory: no secret is in the list of processes. */
static void become(const char *program, int arguments_fd, int out_fd, pid_t parent)
{
    char arguments[32];
    char isolated[] = "-I", at_file[sizeof(arguments)];
    char *const environment[] = {(char[]){"PATH=/usr/local/bin:/usr/bin:/bin"}, (char[]){"LANG=C.UTF-8"},
                                 NULL};
    sigset_t none;

    /* Ctrl-C is for us: we end it when it is not needed any more. */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    snprintf(at_file, sizeof(at_file), "@/proc/self/fd/%d", arguments_fd);
    if (dup2(out_fd, STDOUT_FILENO) < 0 || fcntl(arguments_fd, F_SETFD, 0) < 0)
        _exit(127);
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0)
        dup2(nothing, STDIN_FILENO);
    const char *python = find_python();
    char *const argv[] = {(char *)(uintptr_t)python, isolated, (char *)(uintptr_t)program, at_file, NULL};
    execve(python, argv, environment);
    _exit(127);
}

/* The child's pid and the end of the pipe that it writes to; -1. */
static pid_t spawn(const char *program, const struct buf *arguments, int *out_fd)
{
    int pipe_fds[2] = {-1, -1}, file = memfd_create("arguments", MFD_CLOEXEC);
    pid_t child = -1, self = getpid();

    if (file >= 0 && pipe2(pipe_fds, O_CLOEXEC) == 0 &&
        write(file, arguments->data, arguments->len) == (ssize_t)arguments->len)
        child = fork();
    if (child == 0)
        become(program, file, pipe_fds[1], self);
    if (file >= 0)
        close(file);
    if (pipe_fds[1] >= 0)
        close(pipe_fds[1]);
    if (child < 0 && pipe_fds[0] >= 0)
        close(pipe_fds[0]);
    *out_fd = pipe_fds[0];
    return child;
}

/* Whether it said a line that begins so before it ended or the time was over. */
static bool said(int fd, const char *word)
{
    struct buf text = BUF_INIT;
    int64_t end = clock_monotonic_ms() + START_MS;
    bool good = false, open = true;

    while (open && !good && clock_monotonic_ms() < end && !rehearse_stopped()) {
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        char piece[256];
        ssize_t len = 0;

        if (poll(&poller, 1, 200) != 1)
            continue;
        len = read(fd, piece, sizeof(piece));
        open = len > 0 || (len < 0 && errno == EINTR);
        if (len > 0)
            buf_add(&text, piece, (size_t)len);
        good = strchr(buf_str(&text), '\n') && !strncmp(buf_str(&text), word, strlen(word));
    }
    buf_release(&text);
    return good;
}

int rehearse_standin_certificates(struct cli *cli, const char *program, const char *folder, bool personal)
{
    struct buf arguments = BUF_INIT;
    struct rehearse_standin standin = {0};
    int fd, code = CLI_FINE;

    /* The worker reads the authority in it, whoever it runs as, and whatever our umask is. */
    if (mkdir(folder, 0700) == 0 ? chmod(folder, personal ? 0700 : 0755) != 0 : errno != EEXIST)
        return cli_failed(cli, "%s: %s", folder, strerrordesc_np(errno));
    buf_addf(&arguments, "--dir\n%s\n--certificates\n", folder);
    standin.pid = spawn(program, &arguments, &fd);
    if (standin.pid < 0 || !said(fd, "certificates"))
        code = cli_failed(cli, "no certificate could be made in %s (it takes python3 and openssl)", folder);
    if (standin.pid > 0)
        close(fd);
    rehearse_standin_stop(&standin);
    buf_release(&arguments);
    return code;
}

int rehearse_standin_start(struct cli *cli, const char *program, const struct rehearse_account *account,
                           struct rehearse_standin *standin)
{
    struct buf arguments = BUF_INIT;
    char *folder = xstrdup(account->ca_file);
    int fd, code = CLI_FINE;

    buf_addf(&arguments, "--dir\n%s\n--port\n%d\n--username\n%s\n--password\n%s\n--app-id\n%s\n",
             dirname(folder), account->port, account->username, account->password, account->app_id);
    standin->pid = spawn(program, &arguments, &fd);
    if (standin->pid < 0 || !said(fd, "ready ")) {
        if (!rehearse_stopped())
            cli_failed(
                cli,
                "the stand-in of Talview did not start on port %d: where another program has that port, "
                "put a free one into both URLs of [proview " STORE_REHEARSAL "], and let the worker read "
                "it (systemctl reload 'examhook-*.service', or SIGHUP); or rehearse with "
                "--without-ratings",
                account->port);
        code = CLI_FAILED;
    }
    if (standin->pid > 0)
        close(fd);
    if (code)
        rehearse_standin_stop(standin);
    buf_release(&arguments);
    free(folder);
    return code;
}

void rehearse_standin_stop(struct rehearse_standin *standin)
{
    int64_t end = clock_monotonic_ms() + STOP_MS;
    int signal_number = SIGTERM;

    if (standin->pid <= 0)
        return;
    kill(standin->pid, signal_number);
    for (pid_t gone = 0; gone == 0;) {
        gone = waitpid(standin->pid, NULL, WNOHANG);
        if (gone < 0 && errno == EINTR)
            gone = 0;
        if (gone == 0)
            poll(NULL, 0, 20);
        if (gone == 0 && signal_number == SIGTERM && clock_monotonic_ms() > end) {
            signal_number = SIGKILL;
            kill(standin->pid, signal_number);
        }
    }
    standin->pid = 0;
}
