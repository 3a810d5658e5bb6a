/*
 * The paths of the two routes. Pure. Which part of the URL a program sees depends on the web server: all of
 * it (nginx), what is behind the program's own name (PATH_INFO under CGI), or nothing.
 */
#ifndef EXAMHOOK_PATH_H
#define EXAMHOOK_PATH_H

#include <stdbool.h>
#include <stddef.h>

#define PATH_EXAMJOINT "/webhooks/examjoint"
#define PATH_PROVIEW "/webhooks/proview/"
#define PATH_NAME_MAX 64
#define PATH_TOKEN_MAX 256

/* "", "/", or a path that ends in PATH_EXAMJOINT. */
bool path_is_examjoint(const char *path);

/* Points into the path that was read. */
struct path_proview {
    const char *name;
    size_t name_len;   /* 1 to PATH_NAME_MAX bytes of [A-Za-z0-9_-] */
    const char *token; /* NULL: there was no token and no slash for one */
    size_t token_len;
};
/* NAME or NAME/TOKEN behind PATH_PROVIEW, or, where that does not occur, behind the first "/". False:
 * anything else, say a third segment, an empty one, or a byte that neither may have (nothing is
 * percent-decoded). */
bool path_proview_read(const char *path, struct path_proview *out);

#endif
