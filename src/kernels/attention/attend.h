/* Op "attend": query rows of one kv head over a list of pages, as a partial softmax. */
#ifndef LK_KERNELS_ATTEND_H
#define LK_KERNELS_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

/* One head's segment of one page, in the order of kernels/page/page.h. */
typedef struct lk_page_view {
  const void *k;   /* n channels: D for a wide view, n_lean for a lean one */
  const void *v;   /* [64][D] */
  int64_t pos;     /* position of its first key, a multiple of 64 */
  uint32_t n_keys; /* valid keys, 1 .. 64; what lies behind is finite or not: never used */
  uint32_t lean;   /* 1: the logits come from q_lean and lean_bias, 0: from q */
} lk_page_view;

/* Keys of the page that a query at q_pos sees: the first ones. */
static inline size_t lk_visible_keys(const lk_page_view *page, int64_t q_pos) {
  if (q_pos < page->pos) return 0;
  const int64_t behind = q_pos - page->pos;
  return behind < (int64_t)page->n_keys ? (size_t)behind + 1 : page->n_keys;
}

typedef struct lk_attend_args {
  size_t n_q;                /* M query rows, >= 1 */
  size_t head_dim;           /* D, even; of q8 at most LK_Q8_MAX_DIM */
  size_t n_lean;             /* channels of a lean view, padding included; a multiple of the type's
                                granule, 0 .. D rounded up to that */
  const float *q;            /* [M][D], scaled by 1/sqrt(D) */
  const float *q_lean;       /* [M][n_lean]: q gathered at the kept channels, zero padding */
  const float *lean_bias;    /* [M], added to the logits of lean views; NULL = 0 */
  const int64_t *q_pos;      /* [M]: a key is seen when its position is <= q_pos */
  const lk_page_view *pages; /* ascending pos */
  size_t n_pages;
  float *m, *l;  /* [M] out: largest logit (-INFINITY where no key is seen) and sum of exp(x - m) */
  float *o;      /* [M][D] out: sum of exp(x - m) v; 0 where no key is seen */
  void *scratch; /* lk_attend_scratch_bytes, 64-byte aligned */
  /* What this thread will read first in its next decode call (a page's segment), to be fetched
   * while the last page is worked on; NULL = nothing. Changes speed alone. */
  const void *ahead;
  size_t ahead_bytes;
} lk_attend_args;

typedef void (*lk_attend_fn)(const lk_attend_args *args);

/* Bytes of scratch any variant of the type needs for M rows of D channels. */
size_t lk_attend_scratch_bytes(leank_kv_type type, size_t n_q, size_t head_dim);

/* Two shapes of the same contract.
 * decode: few rows (the G query heads of one sequence; 1 .. 16), a few pages, bound by memory.
 * rows:   many rows (16 .. 256: positions times G), many pages, bound by arithmetic.
 * In both, the bits of a row depend on its own q, q_pos and on the pages up to q_pos only: not on
 * the other rows, nor on later pages in the list. A lean view with all D channels in order and no
 * bias gives the bits of the wide view, but for q8. fp32 accumulation and exponentials in fp32
 * (error of exp at most 4 units in the last place); variants may round q, K, V and the
 * probabilities to bf16 where the kv type is not f32 (then named *_avx512bf16, *_amx or
 * *_neonbf16). q8: wide views are bf16, lean ones int8, in one call. A call without lean views
 * gives the bits of the bf16 variant of the same level. In the lean views of decode,
 * attend_q8_avx512bf16, _neondot and _neonbf16 round q and the probabilities, each times its scale,
 * to integers of 16 bits, per row and page: by 1.004 * 2^-15 of the largest magnitude at most. */
typedef struct lk_attend_variant {
  const char *name; /* e.g. "attend_bf16_avx512" */
  leank_kv_type type;
  leank_cpu_level level;
  lk_attend_fn decode, rows;
} lk_attend_variant;

/* Ascending level within a type, ended by name NULL. */
extern const lk_attend_variant lk_attend_variants[];
const lk_attend_variant *lk_attend_select(leank_kv_type type, leank_cpu_level level);

/* Folds partials in index order and normalises: out[D] = sum_p e^(m_p - M) o_p / sum_p e^(m_p - M)
 * l_p. Partial p has m[p * ml_stride], l[p * ml_stride], o + p * o_stride. With no key at all, 0.
 */
void lk_attend_merge(size_t n_parts, const float *m, const float *l, size_t ml_stride,
                     const float *o, size_t o_stride, size_t head_dim, float *out);

#endif
