/* Op "matvec": products of a stored weight matrix with a few rows. */
#ifndef LK_KERNELS_MATVEC_H
#define LK_KERNELS_MATVEC_H

#include <stdbool.h>

#include <leank/session.h>

#include "base/dtype.h"

enum { LK_MATVEC_MAX_ROWS = 8 };

/* y[r * ldy + o] = sum over i of w[o][i] * x[r][i], for r < n_rows (1 .. 8), o < n_out.
 * w: n_out rows of n_in elements (a multiple of the type's block), contiguous. x: rows as `prepare`
 * leaves them, x_bytes apart; where there is none, fp32 as they are (x_bytes a multiple of 4).
 * fp32 accumulation. The bits of one y depend on its w and x alone. Reads nothing beyond w and x.
 */
typedef void (*lk_matvec_fn)(const void *w, size_t n_out, size_t n_in, const void *x,
                             size_t x_bytes, size_t n_rows, float *y, size_t ldy);

typedef struct lk_matvec_variant {
  const char *name; /* e.g. "matvec_q4_k_avx512" */
  lk_dtype type;
  leank_cpu_level level;
  lk_matvec_fn fn;
  /* Rows in the variant's own order and precision, or NULL. Blocks of 32 (types of blocks of 32) or
   * of 256 activations share a scale; one differs from what it was by at most 2^-15 of the largest
   * magnitude of its block, and a block of magnitudes below 2^-100 counts as zero. NaN and infinity
   * spread to every result. row: lk_matvec_row_bytes, 64-byte aligned. */
  void (*prepare)(const float *x, size_t n_in, void *row);
  size_t (*row_bytes)(size_t n_in);
} lk_matvec_variant;

static inline size_t lk_matvec_row_bytes(const lk_matvec_variant *v, size_t n_in) {
  return v->prepare ? v->row_bytes(n_in) : n_in * sizeof(float);
}

/* Most bytes of a prepared row of n_in elements, any type and variant; a multiple of 64. */
size_t lk_matvec_most_row_bytes(size_t n_in);

/* All variants, ascending level within a type and kind of row, ended by name NULL. */
extern const lk_matvec_variant lk_matvec_variants[];
/* The best one of at most `level`; fp32: of those that take rows as they are. Never NULL. */
const lk_matvec_variant *lk_matvec_select(lk_dtype type, leank_cpu_level level, bool fp32);

#endif
