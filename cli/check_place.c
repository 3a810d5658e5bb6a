/* Where things lie, and who can get at them. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "../common/place.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

void check_closed(struct check_report *report, const struct config *config, unsigned areas)
{
    struct buf why = BUF_INIT;

    if (!place_closed(config, areas, &why))
        check_line(report, CHECK_FAILED, "permissions", "the programs refuse to run until then", "%s",
                   buf_str(&why));
    buf_release(&why);
}

/* Is one of the folders on the way to it called so? */
static bool passes_through(const char *path, const char *name)
{
    size_t len = strlen(name);

    for (const char *at = strstr(path, name); at; at = strstr(at + 1, name)) {
        if (at > path && at[-1] == '/' && (at[len] == '/' || at[len] == '\0'))
            return true;
    }
    return false;
}

/* Which folder the web server shows is known to the programs alone: here the names must do that hosts give
 * it. */
static bool check_not_shown(struct check_report *report, const char *path, const char *what)
{
    static const char *const names[] = {"public_html", "www", "htdocs", "httpdocs"};
    char *whole = realpath(path, NULL);
    bool fine = true;

    for (size_t i = 0; fine && i < COUNT(names); i++) {
        if (!passes_through(whole ? whole : path, names[i]))
            continue;
        fine = false;
        check_line(report, CHECK_WARNING, "place", "if that is what the web server shows, move it beside it",
                   "%s %s lies in a folder called %s", what, path, names[i]);
    }
    free(whole);
    return fine;
}

/* Under a web server, or where somebody asks on its behalf. */
static bool check_root(struct check_report *report, const struct config *config)
{
    struct buf why = BUF_INIT;
    bool fine = place_check(config, getenv("DOCUMENT_ROOT"), &why);

    if (!fine)
        check_line(report, CHECK_FAILED, "place", "the programs refuse to serve until then", "%s",
                   buf_str(&why));
    buf_release(&why);
    return fine;
}

void check_place(struct check_report *report, const char *path, const struct config *config)
{
    char *area = store_area_folder(config->store_url, STORE_EXAMJOINT);
    bool fine = true;

    if (area) {
        *strrchr(area, '/') = '\0';
        fine = check_not_shown(report, area, "the store");
    }
    free(area);
    fine = check_root(report, config) && fine;
    fine = check_not_shown(report, path, "the configuration") && fine;
    if (fine && config->personal)
        check_line(report, CHECK_OK, "place", NULL,
                   "a personal installation: none of it may be open to group or others");
}

static void check_left_in(struct check_report *report, const char *folder)
{
    DIR *listing = opendir(folder);

    /* What cannot be looked into is said where the store is looked at. */
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        if (strstr(entry->d_name, "-wal.left-"))
            check_line(report, CHECK_WARNING, "store, left behind", "delete it when it is no longer wanted",
                       "%s/%s is the log of a file that was replaced while programs ran; it holds people's "
                       "data, and neither retention nor erasing touches it",
                       folder, entry->d_name);
    }
    if (listing)
        closedir(listing);
}

void check_left(struct check_report *report, const struct config *config, unsigned areas)
{
    static const enum store_area all[] = {STORE_ROSTER, STORE_EXAMJOINT, STORE_PROVIEW, STORE_RATINGS};

    for (size_t i = 0; i < COUNT(all); i++) {
        char *folder = areas & (unsigned)all[i] ? store_area_folder(config->store_url, all[i]) : NULL;

        if (folder)
            check_left_in(report, folder);
        free(folder);
    }
}
