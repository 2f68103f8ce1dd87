/* Reference of op "attend_backward", over the type of its arithmetic: fp32 unless the including
 * file says otherwise. A test compiles the same lines in float64 to hold them against finite
 * differences. Row by row, page by page. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_REF_H
#define LK_KERNELS_ATTEND_BACKWARD_REF_H

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/attention/attend_backward.h"
#include "kernels/page/page.h"

/* BACKWARD_ARGS is lk_attend_backward_args or a struct with the same members over REAL;
 * BACKWARD_LOAD gives element i of a K or V as REAL. */
#ifndef REAL
#define REAL float
#define REAL_EXP(x) expf(x)
#define BACKWARD_ARGS lk_attend_backward_args
#define BACKWARD_LOAD(type, p, i)                                                                  \
  ((type) == LEANK_KV_F32 ? ((const float *)(p))[i] : lk_bf16_to_f32(((const uint16_t *)(p))[i]))
#endif

/* One row and the keys of one page that it sees. */
typedef struct row_page {
  const lk_page_view *page;
  size_t n_keys;     /* seen */
  size_t n_channels; /* n of the view's K */
  const REAL *q;     /* [n] */
  const REAL *dout;  /* [D] */
  REAL p[LK_PAGE_TOKENS], dx[LK_PAGE_TOKENS];
} row_page;

/* x[j] = q . k_j for the n_keys first keys, channels in ascending order. */
static inline void ref_logits(leank_kv_type type, const row_page *rp, REAL x[LK_PAGE_TOKENS]) {
  const size_t e = lk_kv_interleave(type), n = rp->n_channels;
  memset(x, 0, LK_PAGE_TOKENS * sizeof *x);
  for (size_t j0 = 0; j0 < rp->n_keys; j0 += LK_KEY_BLOCK)
    for (size_t c = 0; c < n; c++) {
      const size_t first = lk_k_index(e, n, j0, c);
      for (size_t j = 0; j < LK_KEY_BLOCK; j++)
        x[j0 + j] += rp->q[c] * BACKWARD_LOAD(type, rp->page->k, first + j * e);
    }
}

/* p and dx of one row: p_j = exp(x_j + bias - lse), dx_j = p_j (dout . v_j - delta). */
static inline void ref_softmax(leank_kv_type type, size_t head_dim, REAL bias, REAL lse, REAL delta,
                               row_page *rp) {
  REAL x[LK_PAGE_TOKENS];
  ref_logits(type, rp, x);
  for (size_t j = 0; j < rp->n_keys; j++) {
    REAL dp = 0;
    for (size_t c = 0; c < head_dim; c++)
      dp += rp->dout[c] * BACKWARD_LOAD(type, rp->page->v, j * head_dim + c);
    rp->p[j] = REAL_EXP(x[j] + bias - lse);
    rp->dx[j] = rp->p[j] * (dp - delta);
  }
}

/* dq[n] += dx K */
static inline void ref_add_dq(leank_kv_type type, const row_page *rp, REAL *dq) {
  const size_t e = lk_kv_interleave(type);
  for (size_t c = 0; c < rp->n_channels; c++)
    for (size_t j = 0; j < rp->n_keys; j++)
      dq[c] += rp->dx[j] * BACKWARD_LOAD(type, rp->page->k, lk_k_index(e, rp->n_channels, j, c));
}

/* dy[j][n] += factor_j x[n] for the keys that the row sees. */
static inline void ref_add_outer(const REAL *factor, size_t n_keys, const REAL *x, size_t n,
                                 REAL *dy) {
  for (size_t j = 0; j < n_keys; j++)
    for (size_t c = 0; c < n; c++) dy[j * n + c] += factor[j] * x[c];
}

static inline void ref_row_meets_page(const BACKWARD_ARGS *a, leank_kv_type type, size_t r,
                                      size_t i) {
  const lk_page_view *page = a->pages + i;
  const size_t head_dim = a->head_dim, n = page->lean ? a->n_lean : head_dim;
  row_page rp = {.page = page,
                 .n_keys = lk_visible_keys(page, a->q_pos[r]),
                 .n_channels = n,
                 .q = (page->lean ? a->q_lean : a->q) + r * n,
                 .dout = a->dout + r * head_dim};
  if (rp.n_keys == 0) return;
  const REAL bias = page->lean && a->lean_bias ? a->lean_bias[r] : 0;
  ref_softmax(type, head_dim, bias, a->lse[r], a->delta[r], &rp);
  ref_add_dq(type, &rp, (page->lean ? a->dq_lean : a->dq) + r * n);
  if (page->lean && a->dbias)
    for (size_t j = 0; j < rp.n_keys; j++) a->dbias[r] += rp.dx[j];
  if (a->dk && a->dk[i]) ref_add_outer(rp.dx, rp.n_keys, rp.q, n, a->dk[i]);
  if (a->dv && a->dv[i]) ref_add_outer(rp.p, rp.n_keys, rp.dout, head_dim, a->dv[i]);
}

static inline void ref_backward(const BACKWARD_ARGS *args, leank_kv_type type) {
  for (size_t r = 0; r < args->n_q; r++)
    for (size_t i = 0; i < args->n_pages; i++) ref_row_meets_page(args, type, r, i);
}

#endif
