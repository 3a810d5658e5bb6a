/*
 * Is what must not be fetched from the web out of its reach? A web server serves what lies under its document
 * root: a mistake in a .htaccess away, the store or a secret would be anybody's.
 */
#ifndef EXAMHOOK_PLACE_H
#define EXAMHOOK_PLACE_H

#include <stdbool.h>

#include "buf.h"
#include "config.h"

/*
 * False: the store, the configuration file or a secret file that was read with it lies under the document
 * root, links on either side followed; `why` then names both and says what to do. `document_root` is
 * DOCUMENT_ROOT as the web server gives it; NULL, empty, or one that does not exist: true.
 * It looks at the file system: who serves many requests remembers the answer for a root.
 */
bool place_check(const struct config *config, const char *document_root, struct buf *why);

#endif
