/* Op "matvec": products of a stored weight matrix with a few fp32 rows. */
#ifndef LK_KERNELS_MATVEC_H
#define LK_KERNELS_MATVEC_H

#include <leank/session.h>

#include "base/dtype.h"

enum { LK_MATVEC_MAX_ROWS = 8 };

/* y[r * ldy + o] = sum over i of w[o][i] * x[r * ldx + i], for r < n_rows (1 .. 8), o < n_out.
 * w: n_out rows of n_in elements (a multiple of the type's block), contiguous. fp32 activations and
 * accumulation. The bits of one y do not depend on n_rows, n_out or the other rows. Reads nothing
 * beyond w and x. */
typedef void (*lk_matvec_fn)(const void *w, size_t n_out, size_t n_in, const float *x, size_t ldx,
                             size_t n_rows, float *y, size_t ldy);

typedef struct lk_matvec_variant {
  const char *name; /* e.g. "matvec_q4_k_avx512" */
  lk_dtype type;
  leank_cpu_level level;
  lk_matvec_fn fn;
} lk_matvec_variant;

/* All variants, ascending level within a type, ended by name NULL. */
extern const lk_matvec_variant lk_matvec_variants[];
/* The best one of at most `level`. Never NULL. */
const lk_matvec_variant *lk_matvec_select(lk_dtype type, leank_cpu_level level);

#endif
