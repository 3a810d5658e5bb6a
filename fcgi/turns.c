#include "turns.h"

#include <stdlib.h>
#include <string.h>

#include "../common/buf.h"
#include "../common/password.h"

/* A place is given up to this share of the time that is left: checks may become slower meanwhile. A shorter
 * queue costs nothing, as long as it does not run empty. */
#define LEFT_TENTHS 8
/* The first measurements count as much as the guess; later each for a sixteenth: steady, and settled after a
 * second or two. None counts for more than four times what was thought: one slow check says more of a moment
 * than of the next ones. */
#define AVERAGE_OF 16
#define JUMP_MOST 4
/* Who comes back may be so much too early, by a clock that counts whole seconds, or too late. */
#define EARLY_US 1500000
#define GRACE_US 3000000
/* Nobody is sent away for longer. */
#define RETURN_MAX_US 600000000
/* Of a power of two. A return whose place here was taken by another one loses only its precedence. Pages that
 * nobody needed stay untouched. */
#define RETURNS 65536

struct turns_return {
    uint64_t who;
    int64_t at_us;
};

void turns_init(struct turns *turns, int threads)
{
    *turns = (struct turns){.threads = threads > 0 ? threads : 1};
    turns->returns = xcalloc(RETURNS, sizeof *turns->returns);
}

void turns_release(struct turns *turns)
{
    free(turns->returns);
    turns->returns = NULL;
}

int turns_kind(struct turns *turns, const char *setting)
{
    char class_text[32];
    int kind;
    if (!password_cost_class(setting, class_text))
        (void)password_cost_class(password_default_dummy(), class_text);
    for (kind = 0; kind < turns->kind_count; kind++) {
        if (strcmp(turns->kinds[kind].class_text, class_text) == 0)
            return kind;
    }
    if (kind == TURNS_KINDS)
        return TURNS_KINDS - 1;
    turns->kinds[kind] = (struct turns_kind){.us = password_cost_guess_us(setting)};
    memcpy(turns->kinds[kind].class_text, class_text, sizeof class_text);
    turns->kind_count++;
    return kind;
}

void turns_measured(struct turns *turns, int kind, int64_t took_us)
{
    struct turns_kind *k = &turns->kinds[kind];
    int64_t most = k->us * JUMP_MOST, parts = k->measured + 2;

    took_us = took_us > most ? most : took_us > 0 ? took_us : 1;
    if (k->measured == 0 && took_us < k->us) /* nothing makes a check faster than it is */
        k->us = took_us;
    else
        k->us += (took_us - k->us) / (parts < AVERAGE_OF ? parts : AVERAGE_OF);
    k->measured += k->measured < AVERAGE_OF;
}

int64_t turns_backlog_us(const struct turns *turns)
{
    int64_t sum = 0;
    for (int i = 0; i < turns->kind_count; i++)
        sum += turns->kinds[i].here * turns->kinds[i].us;
    return sum / turns->threads;
}

static struct turns_return *return_of(const struct turns *turns, uint64_t who)
{
    return &turns->returns[who % RETURNS];
}

static bool is_due(const struct turns *turns, uint64_t who, int64_t now_us)
{
    const struct turns_return *r = return_of(turns, who);
    return who != 0 && r->who == who && r->at_us - EARLY_US <= now_us;
}

bool turns_enter(struct turns *turns, int kind, uint64_t who, int64_t now_us, int64_t left_us, int64_t most)
{
    int64_t done_us = turns_backlog_us(turns) + turns->kinds[kind].us;
    int64_t limit_us = left_us * LEFT_TENTHS / 10;
    bool due = is_due(turns, who, now_us);
    /* Half of the queue is kept for those who were told to come back. */
    if (turns->returns_until_us + GRACE_US > now_us && turns->returns_until_us > 0 && !due) {
        limit_us /= 2;
        most = most > 1 ? most / 2 : most;
    }
    /* Where nobody is, it is checked whatever it may take: else a wrong guess would stay one. */
    if (left_us <= 0 || (turns->here > 0 && (turns->here >= most || done_us > limit_us)))
        return false;
    if (due)
        *return_of(turns, who) = (struct turns_return){0, 0};
    turns->kinds[kind].here++;
    turns->here++;
    return true;
}

void turns_leave(struct turns *turns, int kind)
{
    turns->kinds[kind].here--;
    turns->here--;
}

bool turns_too_late(const struct turns *turns, int kind, int64_t left_us)
{
    int64_t own_us = turns->kinds[kind].us;
    return turns_backlog_us(turns) - own_us / turns->threads + own_us > left_us;
}

static int64_t seconds(int64_t us)
{
    return us <= 0 ? 1 : (us + 999999) / 1000000;
}

int64_t turns_return(struct turns *turns, int kind, uint64_t who, int64_t now_us)
{
    struct turns_return *r = return_of(turns, who);
    int64_t half_us = now_us + turns_backlog_us(turns) / 2;
    int64_t at_us = turns->returns_until_us > half_us ? turns->returns_until_us : half_us;
    if (who != 0 && r->who == who && r->at_us > now_us)
        return seconds(r->at_us - now_us);
    if (at_us > now_us + RETURN_MAX_US)
        at_us = half_us; /* a second round, spread as the first one */
    turns->returns_until_us = at_us + turns->kinds[kind].us / turns->threads;
    if (who != 0)
        *r = (struct turns_return){who, at_us};
    return seconds(at_us - now_us);
}
