/*
 * The two routes. Each program is one of them and a main() of its own (examjoint_main.c, proview_main.c), so
 * that tests can link both.
 */
#ifndef EXAMHOOK_ROUTES_H
#define EXAMHOOK_ROUTES_H

#include "server.h"

extern const struct route examjoint_route;
extern const struct route proview_route;

#endif
