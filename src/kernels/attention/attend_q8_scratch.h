/* How op "attend" of kv type q8 divides its scratch. */
#ifndef LK_KERNELS_ATTEND_Q8_SCRATCH_H
#define LK_KERNELS_ATTEND_Q8_SCRATCH_H

#include "kernels/attention/attend.h"
#include "kernels/page/page.h"

/* Pages widened at a time: bytes of this many pages in bf16, or of half as many in fp32. */
enum { LK_Q8_UNPACKED_PAGES = 4 };

typedef struct lk_q8_scratch {
  char *unpacked;  /* K and V of LK_Q8_UNPACKED_PAGES pages of bf16 */
  float *m, *l;    /* [M] partial of a run */
  float *o;        /* [M][D] */
  void *of_others; /* scratch of the kernels for bf16 or fp32 pages */
  size_t n_bytes;  /* up to of_others */
} lk_q8_scratch;

static inline lk_q8_scratch lk_q8_divide_scratch(void *scratch, size_t n_q, size_t head_dim) {
  const size_t n_lean = (head_dim + LK_Q8_QUAD - 1) / LK_Q8_QUAD * LK_Q8_QUAD;
  const size_t unpacked = LK_Q8_UNPACKED_PAGES * LK_PAGE_TOKENS * (n_lean + head_dim) * 2;
  const size_t part = (n_q * (head_dim + 2) * sizeof(float) + 63) / 64 * 64;
  lk_q8_scratch s = {.unpacked = scratch, .n_bytes = unpacked + part};
  if (!scratch) return s;
  s.o = (float *)(void *)(s.unpacked + unpacked);
  s.m = s.o + n_q * head_dim;
  s.l = s.m + n_q;
  s.of_others = s.unpacked + s.n_bytes;
  return s;
}

#endif
