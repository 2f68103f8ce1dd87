/* Pages of random K and V to fill caches from, for benchmarks: nothing is computed. */
#ifndef LK_CACHE_RANDOM_PAGES_H
#define LK_CACHE_RANDOM_PAGES_H

#include "cache/cache.h"

/* Wide pages of one layer, as a stage arena. */
typedef struct lk_random_pages {
  unsigned char *pages;
  size_t n_pages;
} lk_random_pages;

/* Values are uniform, of mean 0 and variance 1, and the same each time. LEANK_E_MEMORY. */
leank_status lk_random_pages_open(lk_backend *be, const lk_geometry *geometry, lk_random_pages *out,
                                  leank_error *err);
void lk_random_pages_close(lk_backend *be, lk_random_pages *pages);

/* Makes `to` a sequence of n_tokens tokens (1 .. max_tokens): pages of its own in every layer,
 * filled from these in turn; the sums of means are 0. LEANK_E_CONTEXT, _MEMORY: it is empty then.
 */
leank_status lk_sequence_fill(lk_cache *cache, lk_sequence *to, const lk_random_pages *from,
                              size_t n_tokens, leank_error *err);

#endif
