/* Random numbers: splitmix64 (Steele, Lea, Flood 2014). Same seed, same sequence, everywhere. */
#ifndef LK_BASE_RNG_H
#define LK_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct lk_rng {
  uint64_t state;
} lk_rng;

/* What the state grows by with each number. */
#define LK_RNG_STEP UINT64_C(0x9e3779b97f4a7c15)

static inline uint64_t lk_rng_u64(lk_rng *rng) {
  uint64_t z = (rng->state += LK_RNG_STEP);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
/* Uniform in [0, 1), 53 bits. */
static inline double lk_rng_double(lk_rng *rng) {
  return (double)(lk_rng_u64(rng) >> 11) * 0x1p-53;
}
/* x[n], uniform, of mean 0 and variance 1. */
static inline void lk_rng_fill(lk_rng *rng, float *x, size_t n) {
  const double width = 3.4641016151377544; /* sqrt(12) */
  for (size_t i = 0; i < n; i++) x[i] = (float)((lk_rng_double(rng) - 0.5) * width);
}
/* Uniform in [0, n), n > 0. */
static inline uint64_t lk_rng_below(lk_rng *rng, uint64_t n) {
  return (uint64_t)(((unsigned __int128)lk_rng_u64(rng) * n) >> 64);
}

#endif
