#include "place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store.h"

#define DEPTH_MOST 64 /* parts of a path that are not there yet */

/* --- The document root ---------------------------------------------------------------------------------- */

/* Without a link in it, as far as it is there; the rest as it was given. Allocated. */
static char *resolved(const char *path, int depth)
{
    char *whole = realpath(path, NULL), *parent, *name, *above;
    struct buf text = BUF_INIT;
    if (whole)
        return whole;
    if (depth == DEPTH_MOST || strcmp(path, "/") == 0 || strcmp(path, ".") == 0)
        return xstrdup(path);
    parent = xstrdup(path);
    name = xstrdup(path);
    above = resolved(dirname(parent), depth + 1);
    buf_addf(&text, "%s%s%s", above, strcmp(above, "/") == 0 ? "" : "/", basename(name));
    whole = xstrdup(text.data);
    buf_release(&text);
    free(above);
    free(parent);
    free(name);
    return whole;
}

/* Is `path` the folder `root`, or under it? Both resolved. */
static bool is_under(const char *path, const char *root)
{
    size_t len = strlen(root);
    if (strcmp(root, "/") == 0)
        return true;
    return strncmp(path, root, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

struct placing {
    const char *root; /* resolved */
    struct buf *why;
};

static bool check_path(const struct placing *p, const char *what, const char *path, const char *advice)
{
    char *where = resolved(path, 0);
    bool good = !is_under(where, p->root);
    if (!good && strcmp(p->root, "/") == 0) {
        buf_clear(p->why);
        buf_addf(p->why,
                 "the web server's document root is /, so the %s %s lies under it, as everything does: give "
                 "the site a document root of its own",
                 what, path);
    } else if (!good) {
        buf_clear(p->why);
        buf_addf(
            p->why,
            "the %s %s lies under the web server's document root %s, where anybody may fetch it: move it "
            "out of there, %s",
            what, path, p->root, advice);
    }
    free(where);
    return good;
}

static const enum store_area areas[] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};
#define AREA_COUNT (sizeof areas / sizeof areas[0])

static bool check_store(const struct placing *p, const char *url)
{
    bool good = true;
    size_t i;
    /* Each of its folders may be a link of its own. */
    for (i = 0; good && i < AREA_COUNT; i++) {
        char *folder = store_area_folder(url, areas[i]);
        good = !folder || check_path(p, "store", folder, "and name the new place in [store] url");
        free(folder);
    }
    return good;
}

static bool check_files(const struct placing *p, const struct config *config)
{
    char **file;
    if (!check_path(p, "configuration", config->path, "to examhook/examhook.conf beside the document root"))
        return false;
    for (file = config->secret_files; file && *file; file++) {
        if (!check_path(p, "secret", *file, "and name the new place in the configuration"))
            return false;
    }
    return true;
}

bool place_check(const struct config *config, const char *document_root, struct buf *why)
{
    struct placing p = {.why = why};
    char *root;
    bool good;
    if (!document_root || document_root[0] == '\0' || (access(document_root, F_OK) != 0 && errno != EACCES))
        return true;
    root = resolved(document_root, 0);
    p.root = root;
    good = check_store(&p, config->store_url) && check_files(&p, config);
    free(root);
    return good;
}

/* --- Modes ---------------------------------------------------------------------------------------------- */

struct closing {
    bool personal;
    const char *folder; /* of the area that is looked at */
    struct buf *why;
};

static bool check_entry(const struct closing *c, const char *path, mode_t forbidden, const char *advice,
                        const char *which)
{
    struct stat st;
    mode_t all = c->personal ? (mode_t)(S_IRWXG | S_IRWXO) : forbidden;
    /* Behind a link too: it is what the link leads to that others may get at. */
    if (stat(path, &st) != 0 || !(st.st_mode & all))
        return true;
    buf_clear(c->why);
    buf_addf(c->why, "%s is open to %s (mode %04o): %s %s", path,
             c->personal ? "its group or others, which on a shared host may be every customer" : "every user",
             (unsigned)st.st_mode & 07777U, advice, which);
    return false;
}

/* Calls fn for each name in the folder but . and .. until it says false. */
static bool each_in(const char *folder, bool (*fn)(void *context, const char *path), void *context)
{
    DIR *listing = opendir(folder);
    const struct dirent *entry;
    bool good = true;
    while (listing && good && (entry = readdir(listing))) {
        struct buf path = BUF_INIT;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        buf_addf(&path, "%s/%s", folder, entry->d_name);
        good = fn(context, path.data);
        buf_release(&path);
    }
    if (listing)
        closedir(listing);
    return good;
}

static bool check_in_area(void *context, const char *path)
{
    const struct closing *c = context;
    return check_entry(c, path, S_IRWXO,
                       c->personal ? "run examhook migrate, or chmod -R go-rwx" : "run chmod -R o-rwx",
                       c->folder);
}

/* The folder of the whole store, allocated; NULL where the address is none of ours. */
static char *store_folder(const struct config *config)
{
    char *area = store_area_folder(config->store_url, STORE_ROSTER), *folder;
    if (!area)
        return NULL;
    folder = xstrdup(dirname(area));
    free(area);
    return folder;
}

bool place_closed(const struct config *config, unsigned wanted, struct buf *why)
{
    char *store = store_folder(config);
    struct closing c = {config->personal, NULL, why};
    bool good = !store || check_entry(&c, store, S_IWOTH,
                                      c.personal ? "give the store a folder of its own, and run chmod go-rwx"
                                                 : "run chmod o-w",
                                      store);
    size_t i;
    for (i = 0; good && store && i < AREA_COUNT; i++) {
        char *folder;
        if (!(wanted & (unsigned)areas[i]))
            continue;
        folder = store_area_folder(config->store_url, areas[i]);
        c.folder = folder;
        good = check_in_area(&c, folder) && each_in(folder, check_in_area, &c);
        free(folder);
    }
    free(store);
    return good;
}

/* --- Closing -------------------------------------------------------------------------------------------- */

static bool say_errno(struct buf *why, const char *path)
{
    buf_clear(why);
    buf_addf(why, "%s: %s", path, strerrordesc_np(errno));
    return false;
}

static bool close_entry(void *context, const char *path)
{
    struct buf *why = context;
    struct stat st;
    if (lstat(path, &st) != 0 || S_ISLNK(st.st_mode))
        return true; /* gone meanwhile; or another's, who looks after it himself */
    if ((st.st_mode & (S_IRWXG | S_IRWXO)) &&
        fchmodat(AT_FDCWD, path, st.st_mode & (mode_t)(07777 & ~(S_IRWXG | S_IRWXO)), 0) != 0)
        return say_errno(why, path);
    return !S_ISDIR(st.st_mode) || each_in(path, close_entry, why);
}

static bool make_folder(const char *folder)
{
    char *copy, *above;
    bool good;
    if (mkdir(folder, 0700) == 0 || errno == EEXIST)
        return true;
    if (errno != ENOENT)
        return false;
    copy = xstrdup(folder);
    above = dirname(copy);
    good = strcmp(above, folder) != 0 && make_folder(above) && mkdir(folder, 0700) == 0;
    free(copy);
    return good;
}

bool place_close(const char *folder, struct buf *why)
{
    /* Of the folder itself a link is followed: what is made goes where it leads to. */
    char *where = make_folder(folder) ? realpath(folder, NULL) : NULL;
    bool good = where ? close_entry(why, where) : say_errno(why, folder);
    free(where);
    return good;
}

bool place_close_store(const struct config *config, struct buf *why)
{
    char *store = store_folder(config);
    bool good = !store || make_folder(store) || say_errno(why, store);
    size_t i;
    for (i = 0; good && store && i < AREA_COUNT; i++) {
        char *folder = store_area_folder(config->store_url, areas[i]);
        good = place_close(folder, why);
        free(folder);
    }
    free(store);
    return good;
}
