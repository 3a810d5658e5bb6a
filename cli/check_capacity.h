/*
 * Whether this machine can check the passwords of an exam's candidates when they all start: what `examhook
 * check` counts while it reads the roster, and what it says then.
 */
#ifndef EXAMHOOK_CHECK_CAPACITY_H
#define EXAMHOOK_CHECK_CAPACITY_H

#include "check.h"

struct capacity;

struct capacity *capacity_new(int64_t now_ms);
void capacity_free(struct capacity *capacity);
/* A line of the roster. One without a password costs nothing, one whose time is over neither. */
void capacity_take(struct capacity *capacity, const struct candidate *line);
/* Measures for about a second at the most, and adds lines. None where no password is asked for. */
void check_capacity(struct check_report *report, const struct config *config, struct capacity *capacity);

#endif
