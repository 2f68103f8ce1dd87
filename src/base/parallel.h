/* A team of threads that share out numbered items.
 *
 * Not OpenMP: a decode step has hundreds of parallel regions of some microseconds each, and a
 * run-time that spins at its barriers loses tens of milliseconds a region as soon as another
 * process wants the cores. Here a region ends when its items are done; a thread that the system has
 * not scheduled is not waited for. */
#ifndef LK_BASE_PARALLEL_H
#define LK_BASE_PARALLEL_H

#include <stddef.h>

#include "base/error.h"

typedef struct lk_team lk_team;

/* Work on one item; thread in [0, n_threads) names scratch that nobody else uses meanwhile. */
typedef void (*lk_item_fn)(void *ctx, size_t item, size_t thread);

/* n_threads >= 1, the caller of lk_parallel_for included. LEANK_E_MEMORY when a thread cannot be
 * made. */
leank_status lk_team_open(size_t n_threads, lk_team **out, leank_error *err);
void lk_team_close(lk_team **team);
size_t lk_team_size(const lk_team *team);

/* Runs fn(ctx, item, thread) for item 0 .. n_items - 1 (below 2^32) and returns when all are done.
 * Items are dealt as threads come free, lowest first: results must not depend on who runs what.
 * team NULL: on the caller alone, as thread 0. One region at a time per team. */
void lk_parallel_for(lk_team *team, size_t n_items, lk_item_fn fn, void *ctx);

/* Processors this process may run on, at least 1. */
size_t lk_parallel_default_threads(void);

#endif
