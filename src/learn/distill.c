#include "learn/distill.h"

#include <math.h>
#include <string.h>

#include "learn/log_sum_exp.h"

enum { ROWS = 64 }; /* whose logits are computed together */

/* ---- opening ---- */

static bool has_logits(leank_loss loss) { return loss != LEANK_LOSS_HIDDEN; }
static bool has_hidden(leank_loss loss) { return loss != LEANK_LOSS_LOGITS; }

size_t lk_distiller_bytes(const leank_model_info *m, leank_loss loss, size_t max_rows) {
  const size_t logits = has_logits(loss) ? ROWS * (m->hidden + 2 * m->n_vocab) : 0;
  return (max_rows * m->hidden + logits) * sizeof(float);
}

static leank_status open_logits(lk_distiller *d, size_t n_threads, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &d->model->info;
  const lk_backend_ops *ops = d->backend->ops;
  const size_t n = ROWS * m->n_vocab;
  LK_TRY(lk_team_open(n_threads, &d->team, err));
  d->full_rows = ops->alloc(d->backend, LK_MEM_SCRATCH, ROWS * m->hidden * sizeof(float));
  d->full = ops->alloc(d->backend, LK_MEM_SCRATCH, n * sizeof(float));
  d->seen = ops->alloc(d->backend, LK_MEM_SCRATCH, n * sizeof(float));
  d->host_full = lk_alloc(LK_MEM_SCRATCH, n, sizeof(float));
  d->host_seen = lk_alloc(LK_MEM_SCRATCH, n, sizeof(float));
  LK_FAIL_IF(!d->full_rows || !d->full || !d->seen || !d->host_full || !d->host_seen, err,
             LEANK_E_MEMORY, -1, "out of memory for the logits of answer rows");
cleanup:
  return status;
}

leank_status lk_distiller_open(const leank_model *model, lk_backend *backend, leank_loss loss,
                               double scale, size_t max_rows, size_t n_threads, lk_distiller *out,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = max_rows * model->info.hidden;
  lk_distiller d = {.model = model, .backend = backend, .loss = loss, .scale = scale};
  d.dhidden = backend->ops->alloc(backend, LK_MEM_SCRATCH, n * sizeof(float));
  d.host = lk_alloc(LK_MEM_OTHER, n, sizeof(float));
  d.host_dhidden = lk_alloc(LK_MEM_OTHER, n, sizeof(float));
  LK_FAIL_IF(!d.dhidden || !d.host || !d.host_dhidden, err, LEANK_E_MEMORY, -1,
             "out of memory for answer rows");
  if (has_logits(loss)) LK_TRY(open_logits(&d, n_threads, err));
  *out = d;
cleanup:
  if (status != LEANK_OK) lk_distiller_close(&d);
  return status;
}

void lk_distiller_close(lk_distiller *d) {
  if (!d->backend) return;
  float *device[] = {d->dhidden, d->full_rows, d->full, d->seen};
  for (size_t i = 0; i < sizeof device / sizeof *device; i++)
    if (device[i]) d->backend->ops->free(d->backend, device[i]);
  lk_team_close(&d->team);
  float *host[] = {d->host, d->host_dhidden, d->host_full, d->host_seen};
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) lk_free(host[i]);
  memset(d, 0, sizeof *d);
}

/* ---- hidden states ---- */

static leank_status of_hidden(lk_distiller *d, const lk_answer_pass *pass, double *loss,
                              leank_error *err) {
  const size_t hidden = d->model->info.hidden, n = pass->n_rows * hidden;
  const double scale = (double)n * d->scale;
  double sum = 0;
  const leank_status status =
      d->backend->ops->download(d->backend, d->host, pass->forward.norm, n * sizeof(float), err);
  if (status != LEANK_OK) return status;
  for (size_t i = 0, at = 0; i < pass->n_answers; i++)
    for (size_t k = 0; k < pass->answers[i]->n_rows * hidden; k++, at++) {
      const double difference = (double)d->host[at] - (double)pass->answers[i]->hidden[k];
      sum += difference * difference;
      d->host_dhidden[at] = (float)(2 * difference / scale);
    }
  d->backend->ops->upload(d->backend, d->dhidden, d->host_dhidden, n * sizeof(float));
  *loss += sum / scale;
  return LEANK_OK;
}

/* ---- logits ---- */

typedef struct row_job {
  const float *full;
  float *seen;
  size_t n_vocab, n_rows; /* of the whole pass */
  double kl[ROWS];
} row_job;

/* Item: one row. With r = log(q / p), the gradient of KL(p || q) to the logits of q is
 * q - p = p (exp(r) - 1), and KL, as p and q have the same sum, that of q - p - p r: both lose
 * nothing where p and q are near. */
static void row_item(void *ctx, size_t row, size_t thread) {
  (void)thread;
  row_job *job = ctx;
  const size_t n = job->n_vocab;
  const float *full = job->full + row * n;
  float *seen = job->seen + row * n;
  const double lse_full = lk_log_sum_exp(full, n, full[lk_largest(full, n)]);
  const double lse_seen = lk_log_sum_exp(seen, n, seen[lk_largest(seen, n)]);
  const double share = 1 / (double)job->n_rows;
  double kl = 0;
  for (size_t v = 0; v < n; v++) {
    const double log_p = (double)full[v] - lse_full, log_q = (double)seen[v] - lse_seen;
    const double p = (double)expf((float)log_p);
    const float r = (float)(log_q - log_p);
    const double difference = fabsf(r) < 1 ? p * (double)expm1f(r) : (double)expf((float)log_q) - p;
    kl += difference - p * (double)r;
    seen[v] = (float)(difference * share);
  }
  job->kl[row] = kl;
}

/* host = the dense hidden states of the pass's rows. */
static void gather_full(lk_distiller *d, const lk_answer_pass *pass) {
  const size_t hidden = d->model->info.hidden;
  float *to = d->host;
  for (size_t i = 0; i < pass->n_answers; to += pass->answers[i++]->n_rows * hidden)
    memcpy(to, pass->answers[i]->hidden, pass->answers[i]->n_rows * hidden * sizeof(float));
}

static leank_status logits_of(lk_distiller *d, const float *rows, size_t n, float *logits,
                              float *host, leank_error *err) {
  const lk_backend_ops *ops = d->backend->ops;
  const lk_linear_part part = {&d->model->weights.output, NULL, logits, false};
  const leank_status status = ops->linear(d->backend, LK_LINEAR_PRECISE, &part, 1, rows, n, err);
  if (status != LEANK_OK) return status;
  const size_t n_bytes = n * d->model->info.n_vocab * sizeof(float);
  return ops->download(d->backend, host, logits, n_bytes, err);
}

/* Rows [row, row + n) of the pass. */
static leank_status of_some_logits(lk_distiller *d, const lk_answer_pass *pass, size_t row,
                                   size_t n, double *loss, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &d->model->info;
  const lk_backend_ops *ops = d->backend->ops;
  row_job job = {d->host_full, d->host_seen, m->n_vocab, pass->n_rows, {0}};
  ops->upload(d->backend, d->full_rows, d->host + row * m->hidden, n * m->hidden * sizeof(float));
  LK_TRY(logits_of(d, d->full_rows, n, d->full, d->host_full, err));
  LK_TRY(logits_of(d, pass->forward.norm + row * m->hidden, n, d->seen, d->host_seen, err));
  lk_parallel_for(d->team, n, row_item, &job);
  ops->upload(d->backend, d->seen, d->host_seen, n * m->n_vocab * sizeof(float));
  LK_TRY(ops->linear_backward(d->backend, &d->model->weights.output, d->seen, n,
                              has_hidden(d->loss), d->dhidden + row * m->hidden, err));
  for (size_t r = 0; r < n; r++) *loss += job.kl[r] / (double)pass->n_rows;
cleanup:
  return status;
}

leank_status lk_distill(lk_distiller *d, const lk_answer_pass *pass, double *loss,
                        leank_error *err) {
  leank_status status = LEANK_OK;
  *loss = 0;
  if (has_hidden(d->loss)) LK_TRY(of_hidden(d, pass, loss, err));
  if (!has_logits(d->loss)) return LEANK_OK;
  gather_full(d, pass);
  for (size_t row = 0; row < pass->n_rows; row += ROWS) {
    const size_t left = pass->n_rows - row;
    LK_TRY(of_some_logits(d, pass, row, left < ROWS ? left : ROWS, loss, err));
  }
cleanup:
  return status;
}
