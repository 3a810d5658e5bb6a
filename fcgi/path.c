#include "path.h"

#include <string.h>

#define SEGMENT_BYTES "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

bool path_is_examjoint(const char *path)
{
    size_t len = strlen(path);
    size_t end = strlen(PATH_EXAMJOINT);
    return len == 0 || strcmp(path, "/") == 0 ||
           (len >= end && memcmp(path + len - end, PATH_EXAMJOINT, end) == 0);
}

bool path_proview_read(const char *path, struct path_proview *out)
{
    struct path_proview found = {0};
    const char *at = strstr(path, PATH_PROVIEW);
    if (at) {
        at += strlen(PATH_PROVIEW);
    } else if (*path == '/') {
        at = path + 1;
    } else {
        return false;
    }
    found.name = at;
    found.name_len = strspn(at, SEGMENT_BYTES);
    at += found.name_len;
    if (found.name_len == 0 || found.name_len > PATH_NAME_MAX) {
        return false;
    }
    if (*at == '/') {
        found.token = at + 1;
        found.token_len = strspn(found.token, SEGMENT_BYTES);
        at = found.token + found.token_len;
        if (found.token_len == 0 || found.token_len > PATH_TOKEN_MAX) {
            return false;
        }
    }
    if (*at != '\0') {
        return false;
    }
    *out = found;
    return true;
}
