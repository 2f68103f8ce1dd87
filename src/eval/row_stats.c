#include "eval/row_stats.h"

#include <math.h>

#include "base/alloc.h"

leank_token lk_argmax(const float *logits, size_t n_vocab) {
  size_t best = 0;
  for (size_t i = 1; i < n_vocab; i++)
    if (logits[i] > logits[best] || isnan(logits[best])) best = i;
  return (leank_token)best;
}

/* ln of the sum of e^x. */
static double log_sum_exp(const float *x, size_t n, float largest) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)expf(x[i] - largest);
  return (double)largest + log(sum);
}

/* ---- dense ---- */

leank_status lk_dense_rows_open(size_t n, size_t n_vocab, lk_dense_rows *out, leank_error *err) {
  size_t size;
  lk_dense_rows rows = {.n = n, .n_vocab = n_vocab, .finite = true};
  const bool fits = lk_mul(n_vocab, sizeof *rows.p, &size);
  rows.p = fits ? lk_alloc(LK_MEM_SCRATCH, n, size) : NULL;
  rows.sum_logp = lk_alloc(LK_MEM_OTHER, n, sizeof *rows.sum_logp);
  rows.top = lk_alloc(LK_MEM_OTHER, n, sizeof *rows.top);
  *out = rows;
  if (rows.p && rows.sum_logp && rows.top) return LEANK_OK;
  lk_dense_rows_close(out);
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

void lk_dense_rows_close(lk_dense_rows *rows) {
  lk_free(rows->p);
  lk_free(rows->sum_logp);
  lk_free(rows->top);
  *rows = (lk_dense_rows){0};
}

static void take_dense(lk_row_sink *sink, size_t first, size_t n, const float *logits) {
  lk_dense_rows *rows = sink->to;
  for (size_t r = 0; r < n; r++) {
    const float *x = logits + r * rows->n_vocab;
    float *p = rows->p + (first + r) * rows->n_vocab;
    const leank_token top = lk_argmax(x, rows->n_vocab);
    const double total = log_sum_exp(x, rows->n_vocab, x[top]);
    double sum = 0;
    for (size_t i = 0; i < rows->n_vocab; i++) {
      const double logp = (double)x[i] - total;
      p[i] = expf((float)logp);
      if (p[i] > 0) sum += (double)p[i] * logp;
    }
    rows->finite = rows->finite && isfinite(total) && isfinite(sum);
    rows->sum_logp[first + r] = sum;
    rows->top[first + r] = top;
    rows->nll += total - (double)x[sink->next[first + r]];
  }
}

lk_row_sink lk_dense_rows_sink(lk_dense_rows *rows, const leank_token *next) {
  return (lk_row_sink){.take = take_dense, .to = rows, .next = next};
}

/* ---- variants ---- */

lk_variant_rows lk_variant_rows_begin(const lk_dense_rows *dense, const leank_token *next,
                                      float *kl) {
  return (lk_variant_rows){
      .dense = dense, .next = next, .kl = kl, .differs = dense->n, .finite = true};
}

static void take_variant(lk_row_sink *sink, size_t first, size_t n, const float *logits) {
  lk_variant_rows *rows = sink->to;
  const lk_dense_rows *dense = rows->dense;
  for (size_t r = 0; r < n; r++) {
    const size_t row = first + r;
    const float *x = logits + r * dense->n_vocab, *p = dense->p + row * dense->n_vocab;
    const leank_token top = lk_argmax(x, dense->n_vocab);
    const double total = log_sum_exp(x, dense->n_vocab, x[top]);
    double sum = 0;
    for (size_t i = 0; i < dense->n_vocab; i++)
      if (p[i] > 0) sum += (double)p[i] * ((double)x[i] - total);
    const double kl = dense->sum_logp[row] - sum;
    rows->finite = rows->finite && isfinite(kl);
    rows->kl[row] = (float)(kl > 0 ? kl : 0);
    rows->n_agree += top == dense->top[row];
    rows->nll += total - (double)x[rows->next[row]];
    /* Where the dense pass and the dense step disagree by rounding, both are the dense answer. */
    if (rows->differs == dense->n && top != rows->next[row] && top != dense->top[row]) {
      rows->differs = row;
      rows->instead = top;
    }
  }
}

lk_row_sink lk_variant_rows_sink(lk_variant_rows *rows) {
  return (lk_row_sink){.take = take_variant, .to = rows, .next = rows->next};
}
