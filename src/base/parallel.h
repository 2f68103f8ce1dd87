/* Threads: OpenMP behind one call. */
#ifndef LK_BASE_PARALLEL_H
#define LK_BASE_PARALLEL_H

#include <stddef.h>

/* Runs fn(ctx, item, thread) for item 0 .. n_items - 1 on n_threads threads, thread in
 * [0, n_threads). Items are dealt as threads come free, lowest first: results must not depend on
 * who runs what. */
typedef void (*lk_item_fn)(void *ctx, size_t item, size_t thread);
void lk_parallel_for(size_t n_threads, size_t n_items, lk_item_fn fn, void *ctx);

/* Processors this process may run on, at least 1. */
size_t lk_parallel_default_threads(void);

#endif
