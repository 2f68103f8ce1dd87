/* Random bf16 matrices, for made-up models: every element by its index alone, so that any device
 * makes the same. */
#ifndef LK_BASE_RANDOM_BF16_H
#define LK_BASE_RANDOM_BF16_H

#include <stddef.h>
#include <stdint.h>

/* What a tensor of type LK_RANDOM points to. */
typedef struct lk_random_source {
  uint64_t seed;
  float scale;
} lk_random_source;

/* Elements first .. first + n - 1, uniform in +-scale: element i is (2 k + 1 - 2^24) 2^-24 scale,
 * rounded to nearest even, of the upper 24 bits k of number i + 1 of lk_rng from `seed`. */
void lk_random_bf16(const lk_random_source *source, size_t first, size_t n, uint16_t *to);

#endif
