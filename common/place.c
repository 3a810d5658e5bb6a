#include "place.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store.h"

#define DEPTH_MOST 64 /* parts of a path that are not there yet */

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
    if (!good) {
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

static bool check_store(const struct placing *p, const char *url)
{
    static const enum store_area areas[] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};
    bool good = true;
    size_t i;
    /* Each of its folders may be a link of its own. */
    for (i = 0; good && i < sizeof areas / sizeof areas[0]; i++) {
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
