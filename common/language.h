/*
 * What a candidate reads: texts by language, from a folder of CODE.txt files ("key = text" a line, #
 * comments, UTF-8) that an operator can edit and add to. English is also built in, for a folder that is
 * missing or a text that a file lacks.
 */
#ifndef EXAMHOOK_LANGUAGE_H
#define EXAMHOOK_LANGUAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "buf.h"
#include "roster.h"

struct languages;

/* False with `why` (file, line) when a file cannot be read as such; a missing folder is only a missing
 * folder. */
bool languages_load(const char *folder, const char *default_code, struct languages **out, struct buf *why);
void languages_free(struct languages *languages);
/* The text for a verdict in `code` ("pt-BR" falls back to "pt", an unknown or NULL one to the default).
   {seconds} is replaced by wait_s. The verdict is not ROSTER_VALID. */
void language_text(const struct languages *languages, const char *code, enum roster_verdict verdict,
                   int64_t wait_s, struct buf *out);

#endif
