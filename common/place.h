/*
 * Is what is kept out of the reach of those whom it is no business of: the web, and the other users of the
 * machine? A web server serves what lies under its document root: a mistake in a .htaccess away, the store or
 * a secret would be anybody's.
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

/*
 * To be asked before the store is opened. False: others can write to the store's folder, or can get at what
 * is in the folders of these areas (bits of enum store_area); in a personal installation: group or others can
 * get at any of it. Links are followed. `why` has the path and the chmod. What is not there, or cannot be
 * looked at, is passed by: opening it says more. The configuration's own mode, and those of secrets, are
 * config_load()'s business.
 */
bool place_closed(const struct config *config, unsigned areas, struct buf *why);

/*
 * Makes `folder`, and what is missing above it, for our user alone, and takes what group and others may do
 * from it and everything in it. For what a personal installation makes. False: `why` says what could not be
 * done.
 */
bool place_close(const char *folder, struct buf *why);
/* The same for the four folders of the store. The one that they are in is made when it is missing, else left
   as it is: it may hold more than the store. */
bool place_close_store(const struct config *config, struct buf *why);

#endif
