/* Op "attend_backward": gradients of op "attend" (attend.h), for learning masks. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_H
#define LK_KERNELS_ATTEND_BACKWARD_H

#include "kernels/attention/attend.h"

/* With x_rj the logit of row r and key j as op attend has it, lse_r = log sum_j exp(x_rj) over all
 * that row r attends to, out_r = sum_j p_rj v_j and p_rj = exp(x_rj - lse_r):
 *   dx_rj = p_rj (dout_r . v_j - delta_r),  delta_r = dout_r . out_r.
 * (Dao et al. 2022, FlashAttention, section 3.1 and appendix B.) */
typedef struct lk_attend_backward_args {
  size_t n_q;                /* M query rows, >= 1 */
  size_t head_dim;           /* D, even */
  size_t n_lean;             /* channels of a lean view; even, 0 .. D */
  const float *q;            /* [M][D], scaled by 1/sqrt(D) */
  const float *q_lean;       /* [M][n_lean] */
  const float *lean_bias;    /* [M] or NULL */
  const int64_t *q_pos;      /* [M] */
  const lk_page_view *pages; /* ascending pos (here any integer >= 0, not only multiples of 64) */
  size_t n_pages;
  const float *lse;   /* [M] */
  const float *dout;  /* [M][D] */
  const float *delta; /* [M] */
  float *dq;          /* [M][D]      += sum over keys of wide views of dx k */
  float *dq_lean;     /* [M][n_lean] += sum over keys of lean views of dx k */
  float *dbias;       /* [M]         += sum over keys of lean views of dx; NULL = not wanted */
  float *const *dk;   /* [n_pages] each NULL or [n_keys][n] += sum over rows of dx q, for the n
                         channels of the view and its own queries: q or q_lean */
  float *const *dv;   /* [n_pages] each NULL or [n_keys][D] += sum over rows of p dout; both arrays
                         may be NULL: not wanted */
  void *scratch;      /* lk_attend_backward_scratch_bytes, 64-byte aligned */
} lk_attend_backward_args;

typedef void (*lk_attend_backward_fn)(const lk_attend_backward_args *args);

/* Bytes of scratch any variant needs for M rows of D channels. */
size_t lk_attend_backward_scratch_bytes(size_t n_q, size_t head_dim);

/* M is some hundred: positions times G. fp32 arithmetic, K and V widened where they are bf16. The
 * order of every sum depends on the arguments alone. Keys behind n_keys or q_pos of a row are never
 * used, whatever is there. */
typedef struct lk_attend_backward_variant {
  const char *name; /* e.g. "attend_backward_bf16_avx512" */
  leank_kv_type type;
  leank_cpu_level level;
  lk_attend_backward_fn fn;
} lk_attend_backward_variant;

/* Ascending level within a type, ended by name NULL. */
extern const lk_attend_backward_variant lk_attend_backward_variants[];
const lk_attend_backward_variant *lk_attend_backward_select(leank_kv_type type,
                                                            leank_cpu_level level);

#endif
