#include "eval/row_stats.h"

#include <math.h>

#include "base/alloc.h"

leank_token lk_argmax(const float *logits, size_t n_vocab) {
  size_t best = 0;
  for (size_t i = 1; i < n_vocab; i++)
    if (logits[i] > logits[best] || isnan(logits[best])) best = i;
  return (leank_token)best;
}

/* ---- one row ---- */

/* ln of the sum of e^x. */
static double log_sum_exp(const float *x, size_t n, float largest) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)expf(x[i] - largest);
  return (double)largest + log(sum);
}

/* Probabilities of x to p; the sum of p ln p. */
static double fill_probabilities(const float *x, size_t n, double total, float *p) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const double logp = (double)x[i] - total;
    p[i] = expf((float)logp);
    if (p[i] > 0) sum += (double)p[i] * logp;
  }
  return sum;
}

/* sum of p ln q for logits x of q. */
static double cross_entropy(const float *p, const float *x, size_t n, double total) {
  double sum = 0;
  for (size_t i = 0; i < n; i++)
    if (p[i] > 0) sum += (double)p[i] * ((double)x[i] - total);
  return sum;
}

typedef struct rows_job {
  lk_logit_rows *rows;
  size_t first;
  const float *logits; /* [..][V] from row `first` on */
} rows_job;

static void take_row(void *ctx, size_t item, size_t thread) {
  const rows_job *job = ctx;
  lk_logit_rows *rows = job->rows;
  const size_t at = job->first + item, n = rows->n_vocab;
  const float *x = job->logits + item * n;
  lk_row *row = &rows->row[at];
  (void)thread;
  row->top = lk_argmax(x, n);
  const double total = log_sum_exp(x, n, x[row->top]);
  row->nll = total - (double)x[rows->next[at]];
  if (!rows->dense) {
    row->dense_logp = fill_probabilities(x, n, total, rows->p + at * n);
    return;
  }
  const double kl =
      rows->dense->row[at].dense_logp - cross_entropy(rows->dense->p + at * n, x, n, total);
  row->kl = kl < 0 ? 0 : kl; /* by rounding; NaN stays */
}

static void take_rows(lk_row_sink *sink, size_t first, size_t n, const float *logits) {
  lk_logit_rows *rows = sink->to;
  rows_job job = {rows, first, logits};
  lk_parallel_for(rows->team, n, take_row, &job);
}

/* ---- all rows ---- */

leank_status lk_logit_rows_open(const lk_logit_rows *dense, const leank_token *next, size_t n,
                                size_t n_vocab, lk_team *team, lk_logit_rows *out,
                                leank_error *err) {
  size_t size;
  lk_logit_rows rows = {.dense = dense, .team = team, .next = next, .n = n, .n_vocab = n_vocab};
  const bool fits = lk_mul(n_vocab, sizeof *rows.p, &size);
  rows.row = lk_alloc(LK_MEM_OTHER, n, sizeof *rows.row);
  rows.p = fits && !dense ? lk_alloc(LK_MEM_SCRATCH, n, size) : NULL;
  *out = rows;
  if (rows.row && (dense || rows.p)) return LEANK_OK;
  lk_logit_rows_close(out);
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

void lk_logit_rows_close(lk_logit_rows *rows) {
  lk_free(rows->p);
  lk_free(rows->row);
  *rows = (lk_logit_rows){0};
}

lk_row_sink lk_logit_rows_sink(lk_logit_rows *rows) {
  return (lk_row_sink){.take = take_rows, .to = rows};
}

bool lk_logit_rows_are_finite(const lk_logit_rows *rows) {
  for (size_t i = 0; i < rows->n; i++)
    if (!isfinite(rows->row[i].nll) || !isfinite(rows->row[i].dense_logp) ||
        !isfinite(rows->row[i].kl))
      return false;
  return true;
}

double lk_logit_rows_nll(const lk_logit_rows *rows) {
  double sum = 0;
  for (size_t i = 0; i < rows->n; i++) sum += rows->row[i].nll;
  return sum;
}

size_t lk_logit_rows_agree(const lk_logit_rows *rows) {
  size_t n = 0;
  for (size_t i = 0; i < rows->n; i++) n += rows->row[i].top == rows->dense->row[i].top;
  return n;
}

size_t lk_logit_rows_differ(const lk_logit_rows *rows) {
  size_t i = 0;
  while (i < rows->n &&
         (rows->row[i].top == rows->next[i] || rows->row[i].top == rows->dense->row[i].top))
    i++;
  return i;
}
