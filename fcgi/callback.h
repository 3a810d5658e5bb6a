/*
 * Reading a Proview callback out of a JSON object. Pure. Only session_uuid is needed, since the callback is
 * no more than a hint that this session should be looked at; what else is off becomes a flag.
 */
#ifndef EXAMHOOK_CALLBACK_H
#define EXAMHOOK_CALLBACK_H

#include <stdbool.h>

#include "../common/buf.h"
#include "../common/json.h"

#define UUID_TEXT_BYTES 37 /* 36 and the NUL */
#define CALLBACK_TEXT_MAX 1024

enum callback_status {
    CALLBACK_OK = 0,
    CALLBACK_MISSING, /* no session_uuid */
    CALLBACK_INVALID  /* it is no UUID: 8-4-4-4-12 hex digits, any version and case, nothing round it */
};

struct callback {
    char session_uuid[UUID_TEXT_BYTES]; /* lower case: it goes into a URL */
    /* As claimed, belonging to the tree; NULL where missing, no string, or over CALLBACK_TEXT_MAX bytes. */
    const char *message, *external_id;
    struct buf flags; /* words with a comma between: message_missing, external_id_type, message_long,
                         external_id_empty, ... ; empty when nothing is off. The caller's to release. */
};

bool uuid_read(const char *text, char uuid[UUID_TEXT_BYTES]);
/* *out is set on CALLBACK_OK. */
enum callback_status callback_read(const struct json *root, struct callback *out);
void callback_flag(struct callback *callback, const char *member, const char *what);

#endif
