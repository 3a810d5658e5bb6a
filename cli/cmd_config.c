/* examhook config */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

enum { KEY_FOR = 'p', KEY_OUTPUT = 'o' };

const struct cli_option cmd_config_options[] = {
    {"for", "PROGRAM", KEY_FOR,
     "what examjoint, proview or worker gets of it, secrets in clear text, as a file of its own; not to a "
     "terminal"},
    {"output", "FILE", KEY_OUTPUT,
     "with --for: into this file, mode 0400, for the owner of the folder that it lies in"},
    {NULL, NULL, 0, NULL},
};

struct config_options {
    bool has_role;
    enum config_role role;
    const char *output; /* NULL: standard output */
};

/* --- A file with secrets -------------------------------------------------------------------------------- */

struct target {
    const char *path;
    const char *source; /* the configuration that it is made from */
    char *folder, *name;
    struct buf aside; /* the name while it is written */
    int folder_fd;
};

static int target_failed(struct cli *cli, const char *path)
{
    return cli_failed(cli, "%s: %s", path, strerrordesc_np(errno));
}

/* Who can write to the folder could put another file in the place of ours. */
static int check_folder(struct cli *cli, const struct target *target, struct stat *folder)
{
    if (fstat(target->folder_fd, folder))
        return target_failed(cli, target->folder);
    if (folder->st_mode & (S_IWGRP | S_IWOTH))
        return cli_failed(
            cli, "%s can be written by others (mode %04o): run chmod go-w %s, or choose another folder",
            target->folder, (unsigned)folder->st_mode & 07777U, target->folder);
    return CLI_FINE;
}

/* What is for the other programs stands nowhere but in there. */
static bool is_source(const struct target *target)
{
    struct stat there, source;

    return fstatat(target->folder_fd, target->name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           stat(target->source, &source) == 0 && there.st_dev == source.st_dev &&
           there.st_ino == source.st_ino;
}

static bool write_all(int fd, const struct buf *text)
{
    for (size_t done = 0; done < text->len;) {
        ssize_t n = write(fd, text->data + done, text->len - done);
        if (n < 0 && errno != EINTR)
            return false;
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* The time of what it was made from, by which the worker tells that somebody has changed something. */
static bool set_time(int fd, int64_t changed_ms)
{
    const struct timespec at = {.tv_sec = changed_ms / 1000, .tv_nsec = changed_ms % 1000 * 1000000};
    const struct timespec both[2] = {at, at};
    return futimens(fd, both) == 0;
}

static bool fill(int fd, const struct stat *folder, const struct buf *text, int64_t changed_ms)
{
    if (geteuid() == 0 && fchown(fd, folder->st_uid, folder->st_gid))
        return false;
    return fchmod(fd, 0400) == 0 && write_all(fd, text) && set_time(fd, changed_ms) && fsync(fd) == 0;
}

/* Aside, then renamed: a program that starts meanwhile reads the old one or the new one. */
static int put_file(struct cli *cli, struct target *target, const struct buf *text, int64_t changed_ms)
{
    struct stat folder;
    int code = check_folder(cli, target, &folder), fd;
    bool done;

    if (code)
        return code;
    if (is_source(target))
        return cli_failed(cli, "%s is what it would be made from: name another file", target->path);
    fd = openat(target->folder_fd, buf_str(&target->aside),
                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
    if (fd < 0)
        return target_failed(cli, target->folder);
    done = fill(fd, &folder, text, changed_ms);
    done = close(fd) == 0 && done;
    done = done &&
           renameat(target->folder_fd, buf_str(&target->aside), target->folder_fd, target->name) == 0 &&
           fsync(target->folder_fd) == 0;
    if (done)
        return CLI_FINE;
    code = target_failed(cli, target->path);
    unlinkat(target->folder_fd, buf_str(&target->aside), 0);
    return code;
}

static int write_output(struct cli *cli, const char *path, const char *source, const struct buf *text,
                        int64_t changed_ms)
{
    char *for_folder = xstrdup(path), *for_name = xstrdup(path);
    struct target target = {
        .path = path, .source = source, .folder = dirname(for_folder), .name = basename(for_name)};
    int code;

    buf_addf(&target.aside, ".%s.%ld", target.name, (long)getpid());
    target.folder_fd = open(target.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (target.folder_fd < 0) {
        code = target_failed(cli, target.folder);
    } else {
        code = put_file(cli, &target, text, changed_ms);
        close(target.folder_fd);
    }
    buf_release(&target.aside);
    free(for_folder);
    free(for_name);
    return code;
}

/* --- The subcommand ------------------------------------------------------------------------------------- */

static int render(struct cli *cli, const char *path, const struct config_options *options)
{
    struct buf text = BUF_INIT, why = BUF_INIT;
    int64_t changed_ms = 0;
    int code = CLI_CONFIG;

    if (!config_render(path, options->role, &text, &changed_ms, &why))
        cli_failed(cli, "%s", buf_str(&why));
    else if (options->output)
        code = write_output(cli, options->output, path, &text, changed_ms);
    else
        code = fwrite(text.data, 1, text.len, cli->out) == text.len ? CLI_FINE : CLI_FAILED;
    buf_release(&text);
    buf_release(&why);
    return code;
}

static int print(struct cli *cli, const char *path)
{
    struct buf text = BUF_INIT, why = BUF_INIT;
    bool ok = false;

    config_print(path, &text, &why, &ok);
    if (ok)
        fputs(buf_str(&text), cli->out);
    else
        cli_failed(cli, "%s", buf_str(&why));
    buf_release(&text);
    buf_release(&why);
    return ok ? CLI_FINE : CLI_CONFIG;
}

static int read_options(struct cli *cli, int argc, char **argv, struct config_options *options)
{
    const char *value;

    for (int key; (key = cli_option_next(cli, argc, argv, &value)) != -1;) {
        if (key == KEY_OUTPUT)
            options->output = value;
        else if (key != KEY_FOR)
            return CLI_USAGE;
        else if (!(options->has_role = cli_role(value, &options->role)))
            return cli_usage(cli, "--for is examjoint, proview or worker");
    }
    if (optind < argc)
        return cli_usage(cli, "there is nothing to be named here");
    if (options->output && !options->has_role)
        return cli_usage(cli, "--output goes with --for");
    if (options->has_role && !options->output && isatty(fileno(cli->out)))
        return cli_usage(cli, "secrets are not shown on a terminal: say --output FILE");
    return CLI_FINE;
}

int cmd_config(struct cli *cli, int argc, char **argv)
{
    struct config_options options = {.has_role = false};
    char *path;
    int code = read_options(cli, argc, argv, &options);

    if (code)
        return code;
    path = config_find(cli->config_option);
    code = options.has_role ? render(cli, path, &options) : print(cli, path);
    free(path);
    return code;
}
