#include "program.h"

#include <stdlib.h>
#include <string.h>

#include "../common/log.h"

static void say_restart(const char *option)
{
    log_warn("needs a restart: until then the old value stays", LOG_S("option", option));
}

static void keep_text(const char *option, char **fresh, const char *old)
{
    if (strcmp(*fresh, old) == 0)
        return;
    say_restart(option);
    free(*fresh);
    *fresh = xstrdup(old);
}

static void keep_number(const char *option, int64_t *fresh, int64_t old)
{
    if (*fresh == old)
        return;
    say_restart(option);
    *fresh = old;
}

/* The store is open, and the threads run. */
static void keep_what_cannot_change(struct config *fresh, const struct config *old)
{
    keep_text("[store] url", &fresh->store_url, old->store_url);
    keep_number("[store] lock_wait", &fresh->lock_wait_ms, old->lock_wait_ms);
    keep_number("[verify] hash_threads", &fresh->hash_threads, old->hash_threads);
}

struct program *program_read_again(const struct program *old, struct buf *why)
{
    struct program *fresh = xcalloc(1, sizeof *fresh);

    fresh->route = old->route;
    fresh->store = old->store;
    fresh->slots_folder = old->slots_folder;
    if (!config_load(old->config->path, old->route->role, &fresh->config, why))
        goto fail;
    fresh->state = fresh->route->open(fresh->config, fresh->store, why);
    if (!fresh->state || (fresh->route->prepare && !fresh->route->prepare(fresh->state, why)))
        goto fail;
    keep_what_cannot_change(fresh->config, old->config);
    return fresh;
fail:
    program_free(fresh);
    return NULL;
}

void program_free(struct program *program)
{
    if (!program)
        return;
    if (program->state)
        program->route->close(program->state);
    config_free(program->config);
    free(program->root);
    free(program);
}
