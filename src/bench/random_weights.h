/* Random weights of every stored type. */
#ifndef LK_BENCH_RANDOM_WEIGHTS_H
#define LK_BENCH_RANDOM_WEIGHTS_H

#include "base/dtype.h"
#include "base/rng.h"

/* Fills data with n elements (a multiple of the block): random bits whose values are finite and no
 * more than about 64 in magnitude. */
void lk_random_weights(lk_dtype type, size_t n, lk_rng *rng, void *data);

#endif
