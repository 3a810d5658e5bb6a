/*
 * JSON in and out. The only user of yajl.
 *
 * Reading is strict: one object, valid UTF-8 (no surrogates, no overlong forms), no NUL in any form, no lone
 * \u surrogate, no duplicate key in an object, depth at most JSON_DEPTH_MAX, nothing but white space after
 * the document. What is read becomes a tree of our own, all of it in memory that is overwritten when it is
 * freed, yajl's own buffers included, because a verify_respondent body holds passwords.
 */
#ifndef EXAMHOOK_JSON_H
#define EXAMHOOK_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

#define JSON_DEPTH_MAX 32

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* A parsed document; owns every node and text reached from it. */
struct json_doc;
struct json;

/* Why a text was refused. json_error_word() gives the stable word that goes to a caller. */
enum json_error {
    JSON_OK = 0,
    JSON_EMPTY,         /* no bytes, or white space only: "empty_body" */
    JSON_SYNTAX,        /* "invalid_json"; also what comes after the document */
    JSON_BAD_UTF8,      /* "invalid_utf8" */
    JSON_NUL,           /* a NUL, raw or as \u0000: "nul_in_json" */
    JSON_SURROGATE,     /* a \u surrogate without its other half: "invalid_unicode_escape" */
    JSON_DUPLICATE_KEY, /* "duplicate_key" */
    JSON_TOO_DEEP,      /* "too_deep" */
    JSON_NOT_OBJECT     /* a document, but not an object: "not_an_object" */
};

const char *json_error_word(enum json_error error);

/* On JSON_OK *doc is the caller's, to be given to json_free(). The text is not kept. */
enum json_error json_parse(const char *text, size_t len, struct json_doc **doc);
/* The same for any JSON value at the top (a roster's `data` column). */
enum json_error json_parse_any(const char *text, size_t len, struct json_doc **doc);
void json_free(struct json_doc *doc);

const struct json *json_root(const struct json_doc *doc);
enum json_type json_type(const struct json *node);
/* The member of that name of an object, NULL where there is none or `object` is NULL or no object. */
const struct json *json_member(const struct json *object, const char *name);
/* Arrays and objects: how many elements; the i-th; the i-th member's key (objects only). */
size_t json_count(const struct json *node);
const struct json *json_at(const struct json *node, size_t i);
const char *json_key_at(const struct json *object, size_t i);
/* A string's text (NUL-terminated, and it holds no other NUL), or NULL for any other type and for NULL. */
const char *json_string(const struct json *node);
/* A number's text as it was sent, or NULL. */
const char *json_number_text(const struct json *node);
/* true and *value set when the node is a number without fraction or exponent that fits 64 bits. */
bool json_int64(const struct json *node, int64_t *value);
bool json_bool(const struct json *node, bool *value);

/*
 * Writes a node as compact JSON. With `redact`, what may be a password is replaced by "[redacted]": every
 * string, number and boolean below a member called `fields` (any case) but a whole number 0 to 99 called
 * `position`; every key there but `position` and `value`; and, anywhere, what stands under `value`,
 * `password`, `passwd`, `pass`, `pwd` or `secret` (any case).
 */
void json_write(struct buf *out, const struct json *node, bool redact);

/* Pieces for writing a reply: a quoted and escaped string (NULL gives null). `text` is valid UTF-8. */
void json_add_string(struct buf *out, const char *text);
/* `,` if needed, then "name": into an object that is being written and stands open at the end of `out`. */
void json_add_key(struct buf *out, const char *name);
/* json_add_key and the value; the _opt form leaves the member out where text is NULL. */
void json_add_member(struct buf *out, const char *name, const char *text);
void json_add_member_opt(struct buf *out, const char *name, const char *text);
void json_add_member_int(struct buf *out, const char *name, int64_t value);
/* The value is JSON already. */
void json_add_member_raw(struct buf *out, const char *name, const char *json);

/* Strict UTF-8 as RFC 3629 has it, and no NUL. */
bool utf8_valid(const char *text, size_t len);

#endif
