/* Template of the variants: a file defines read_vec (a vector), VEC_BYTES, vec_zero, vec_xor_load
 * (sum, address) and vec_fold (a vector to a word) before it includes this. */
#ifndef LK_KERNELS_READ_IMPL_H
#define LK_KERNELS_READ_IMPL_H

#include "kernels/read/read.h"

enum { LINE_BYTES = 64, N_SUMS = 4, VECS_PER_TURN = LK_READ_TURN / VEC_BYTES };

/* Several sums, so that a load waits for no other. */
static inline __attribute__((always_inline)) uint64_t
read_spans(const unsigned char *data, size_t n_bytes, size_t n_streams, bool prefetch) {
  const size_t span = n_bytes / n_streams;
  read_vec sums[N_SUMS] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
  for (size_t at = 0; at < span; at += LK_READ_TURN) {
    const bool fetch = prefetch && at + LK_READ_AHEAD < span;
    for (size_t s = 0; s < n_streams; s++) {
      const unsigned char *p = data + s * span + at;
      if (fetch)
        for (size_t i = 0; i < LK_READ_TURN; i += LINE_BYTES)
          __builtin_prefetch(p + LK_READ_AHEAD + i, 0, 3);
      for (size_t i = 0; i < VECS_PER_TURN; i++)
        sums[i % N_SUMS] = vec_xor_load(sums[i % N_SUMS], p + i * VEC_BYTES);
    }
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < N_SUMS; i++) sum ^= vec_fold(sums[i]);
  return sum;
}

/* The number of streams as a constant, so that their loop is unrolled. */
static inline uint64_t read_all(const void *data, size_t n_bytes, size_t n_streams, bool prefetch) {
  switch (n_streams) {
  case 1: return read_spans(data, n_bytes, 1, prefetch);
  case 2: return read_spans(data, n_bytes, 2, prefetch);
  case 4: return read_spans(data, n_bytes, 4, prefetch);
  default: return read_spans(data, n_bytes, 8, prefetch);
  }
}

#endif
