#include "learn/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "learn/log_sum_exp.h"

enum { ROWS = 64 };

/* ---- scores ---- */

leank_status lk_score_open(size_t max_prompts, size_t max_rows, lk_score *out, leank_error *err) {
  lk_score s = {0};
  s.prompts = lk_alloc(LK_MEM_OTHER, max_prompts, sizeof *s.prompts);
  s.row_kl = lk_alloc(LK_MEM_OTHER, max_rows, sizeof *s.row_kl);
  *out = s;
  if (s.prompts && s.row_kl) return LEANK_OK;
  lk_score_close(out);
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

void lk_score_close(lk_score *s) {
  lk_free(s->prompts);
  lk_free(s->row_kl);
  memset(s, 0, sizeof *s);
}

static int compare_floats(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Standard error of the mean of n values with these sums of values and squares. */
static double standard_error(double sum, double squares, size_t n) {
  if (n < 2) return 0;
  const double mean = sum / (double)n, variance = (squares - sum * mean) / (double)(n - 1);
  return variance > 0 ? sqrt(variance / (double)n) : 0;
}

typedef double (*prompt_value)(const lk_prompt_score *p);
static double kl_of(const lk_prompt_score *p) { return p->kl / (double)p->n_rows; }
static double hidden_of(const lk_prompt_score *p) { return p->hidden / (double)p->n_rows; }
static double right_of(const lk_prompt_score *p) { return p->right; }
static double dense_right_of(const lk_prompt_score *p) { return p->dense_right; }
static double change_of(const lk_prompt_score *p) { return (double)p->right - p->dense_right; }

static double over_prompts(const lk_score *s, prompt_value value, double *se) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < s->n_prompts; i++) {
    const double x = value(&s->prompts[i]);
    sum += x;
    squares += x * x;
  }
  *se = standard_error(sum, squares, s->n_prompts);
  return s->n_prompts ? sum / (double)s->n_prompts : 0;
}

void lk_score_report(lk_score *s, leank_mask_report *out) {
  leank_mask_report r = {.n_prompts = s->n_prompts, .n_rows = s->n_rows};
  double agree = 0, kl = 0, hidden = 0;
  for (size_t i = 0; i < s->n_prompts; i++) {
    agree += (double)s->prompts[i].n_agree;
    kl += s->prompts[i].kl;
    hidden += s->prompts[i].hidden;
  }
  over_prompts(s, kl_of, &r.kl_se);
  over_prompts(s, hidden_of, &r.hidden_se);
  r.accuracy = over_prompts(s, right_of, &r.accuracy_se);
  r.dense_accuracy = over_prompts(s, dense_right_of, &r.dense_accuracy_se);
  r.accuracy_change = over_prompts(s, change_of, &r.accuracy_change_se);
  if (s->n_rows > 0) {
    qsort(s->row_kl, s->n_rows, sizeof *s->row_kl, compare_floats);
    r.kl_mean = kl / (double)s->n_rows;
    r.hidden_error = hidden / (double)s->n_rows;
    r.top1 = agree / (double)s->n_rows;
    r.kl_p99 = (double)s->row_kl[(s->n_rows * 99 + 99) / 100 - 1];
  }
  *out = r;
}

/* ---- opening ---- */

size_t lk_evaluator_bytes(const leank_model_info *m, size_t max_rows, size_t max_masks) {
  const size_t n_floats =
      max_masks * max_rows * m->hidden + ROWS * m->hidden + 2 * ROWS * m->n_vocab;
  return lk_answer_pass_bytes(m, max_rows, false) + n_floats * sizeof(float);
}

leank_status lk_evaluator_open(lk_prefill *prefill, size_t max_rows, size_t max_masks,
                               size_t n_threads, lk_evaluator *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = prefill->backend;
  const leank_model_info *m = &prefill->model->info;
  const size_t logits = ROWS * m->n_vocab * sizeof(float);
  lk_evaluator e = {.prefill = prefill, .max_rows = max_rows, .max_masks = max_masks};
  LK_TRY(lk_team_open(n_threads, &e.team, err));
  LK_TRY(lk_answer_pass_open(prefill, max_rows, max_rows, false, &e.pass, err));
  e.hidden = be->ops->alloc(be, LK_MEM_SCRATCH, max_masks * max_rows * m->hidden * sizeof(float));
  e.dense_rows = be->ops->alloc(be, LK_MEM_SCRATCH, ROWS * m->hidden * sizeof(float));
  e.dense = be->ops->alloc(be, LK_MEM_SCRATCH, logits);
  e.masked = be->ops->alloc(be, LK_MEM_SCRATCH, logits);
  e.p = lk_alloc(LK_MEM_SCRATCH, logits, 1);
  e.host_rows = lk_alloc(LK_MEM_SCRATCH, ROWS * m->hidden, sizeof(float));
  e.host_hidden = lk_alloc(LK_MEM_SCRATCH, ROWS * m->hidden, sizeof(float));
  if (!be->ops->on_host) e.host_dense = lk_alloc(LK_MEM_SCRATCH, logits, 1);
  LK_FAIL_IF(!e.hidden || !e.dense_rows || !e.dense || !e.masked || !e.p || !e.host_rows ||
                 !e.host_hidden || (!be->ops->on_host && !e.host_dense),
             err, LEANK_E_MEMORY, -1, "out of memory to compare %zu masks", max_masks);
  *out = e;
cleanup:
  if (status != LEANK_OK) lk_evaluator_close(&e);
  return status;
}

void lk_evaluator_close(lk_evaluator *e) {
  if (!e->prefill) return;
  lk_backend *be = e->prefill->backend;
  float *device[] = {e->hidden, e->dense_rows, e->dense, e->masked};
  for (size_t i = 0; i < sizeof device / sizeof *device; i++)
    if (device[i]) be->ops->free(be, device[i]);
  lk_answer_pass_close(&e->pass);
  lk_team_close(&e->team);
  void *host[] = {e->p, e->host_rows, e->host_hidden, e->host_dense};
  for (size_t i = 0; i < sizeof host / sizeof *host; i++) lk_free(host[i]);
  memset(e, 0, sizeof *e);
}

/* ---- rows of logits ---- */

typedef struct rows_job {
  size_t n_vocab;
  const float *dense, *masked;
  float *p;
  const float *full, *pruned; /* [n][hidden] */
  size_t hidden;
  size_t best_dense[ROWS], best[ROWS];
  double lse_dense[ROWS]; /* log of the sum of exp(logit) */
  double kl[ROWS], error[ROWS];
} rows_job;

/* Item: one row; p of the dense logits. */
static void dense_item(void *ctx, size_t r, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const float *x = job->dense + r * job->n_vocab;
  float *p = job->p + r * job->n_vocab;
  job->best_dense[r] = lk_largest(x, job->n_vocab);
  const double lse = lk_log_sum_exp(x, job->n_vocab, x[job->best_dense[r]]);
  job->lse_dense[r] = lse;
  for (size_t v = 0; v < job->n_vocab; v++) p[v] = expf((float)((double)x[v] - lse));
}

/* Item: one row; KL = sum p (log p - log q), from differences of logits: exactly 0 for equal ones.
 */
static void masked_item(void *ctx, size_t r, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const float *x = job->masked + r * job->n_vocab, *p = job->p + r * job->n_vocab;
  const float *dense = job->dense + r * job->n_vocab;
  job->best[r] = lk_largest(x, job->n_vocab);
  const double shift = lk_log_sum_exp(x, job->n_vocab, x[job->best[r]]) - job->lse_dense[r];
  double kl = 0, difference = 0, square = 0;
  for (size_t v = 0; v < job->n_vocab; v++)
    kl += (double)p[v] * ((double)dense[v] - (double)x[v] + shift);
  job->kl[r] = kl < 0 ? 0 : kl; /* rounding of nearly equal rows; NaN stays */
  for (size_t c = 0; c < job->hidden; c++) {
    const double a = job->full[r * job->hidden + c], b = job->pruned[r * job->hidden + c];
    difference += (a - b) * (a - b);
    square += a * a;
  }
  job->error[r] = square > 0 ? difference / square : 0;
}

/* ---- a batch of answers ---- */

/* Where the answer row `row` of a batch belongs. */
typedef struct row_place {
  const lk_answer *answer;
  size_t prompt, at; /* number in the batch; row of the answer */
} row_place;

static row_place place_of(lk_answer *const *answers, size_t row) {
  size_t i = 0;
  for (; row >= answers[i]->n_rows; i++) row -= answers[i]->n_rows;
  return (row_place){answers[i], i, row};
}

static void add_row(const rows_job *job, size_t r, row_place place, lk_score *score,
                    size_t first_prompt) {
  const leank_question *q = place.answer->question;
  lk_prompt_score *p = &score->prompts[first_prompt + place.prompt];
  p->n_rows++;
  p->n_agree += job->best[r] == job->best_dense[r];
  p->kl += job->kl[r];
  p->hidden += job->error[r];
  score->row_kl[score->n_rows++] = (float)job->kl[r];
  if (place.at + 1 >= q->n_text) return; /* what ends the turn is not the answer's text */
  const size_t want = (size_t)q->answer[place.at + 1];
  p->right = p->right && job->best[r] == want;
  p->dense_right = p->dense_right && job->best_dense[r] == want;
}

static leank_status logits_of(lk_evaluator *e, const float *hidden, size_t n, float *logits,
                              leank_error *err) {
  lk_backend *be = e->prefill->backend;
  const lk_linear_part part = {&e->prefill->model->weights.output, NULL, logits, false};
  return be->ops->linear(be, LK_LINEAR_PRECISE, &part, 1, hidden, n, err);
}

static bool are_finite(const double *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!isfinite(x[i])) return false;
  return true;
}

/* The dense logits of rows [row, row + n) of the batch, and what is made of them. */
static leank_status score_dense(lk_evaluator *e, lk_answer *const *answers, size_t row, size_t n,
                                rows_job *job, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = e->prefill->backend;
  const size_t hidden = job->hidden, n_logits = n * job->n_vocab;
  for (size_t r = 0; r < n; r++) {
    const row_place at = place_of(answers, row + r);
    memcpy(e->host_rows + r * hidden, at.answer->hidden + at.at * hidden, hidden * sizeof(float));
  }
  be->ops->upload(be, e->dense_rows, e->host_rows, n * hidden * sizeof(float));
  LK_TRY(logits_of(e, e->dense_rows, n, e->dense, err));
  if (e->host_dense)
    LK_TRY(be->ops->download(be, e->host_dense, e->dense, n_logits * sizeof(float), err));
  job->dense = e->host_dense ? e->host_dense : e->dense;
  lk_parallel_for(e->team, n, dense_item, job);
cleanup:
  return status;
}

/* Rows [row, row + n) of the batch, all masks. */
static leank_status score_rows(lk_evaluator *e, lk_answer *const *answers, size_t row, size_t n,
                               size_t n_masks, lk_score *scores, const size_t *first_prompt,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &e->prefill->model->info;
  rows_job job = {.n_vocab = m->n_vocab,
                  .p = e->p,
                  .full = e->host_rows,
                  .pruned = e->host_hidden,
                  .hidden = m->hidden};
  lk_backend *be = e->prefill->backend;
  LK_TRY(score_dense(e, answers, row, n, &job, err));
  for (size_t i = 0; i < n_masks; i++) {
    const float *hidden = e->hidden + (i * e->max_rows + row) * m->hidden;
    LK_TRY(logits_of(e, hidden, n, e->masked, err));
    LK_TRY(be->ops->download(be, e->host_hidden, hidden, n * m->hidden * sizeof(float), err));
    LK_TRY(be->ops->to_host(be, e->masked, n * m->n_vocab, &job.masked, err));
    lk_parallel_for(e->team, n, masked_item, &job);
    LK_FAIL_IF(!are_finite(job.kl, n) || !are_finite(job.error, n), err, LEANK_E_STATE, -1,
               "logits or hidden states are not finite: weights hold NaN or infinity, or are too "
               "large");
    for (size_t r = 0; r < n; r++)
      add_row(&job, r, place_of(answers, row + r), &scores[i], first_prompt[i]);
  }
cleanup:
  return status;
}

static void begin_prompts(lk_score *score, lk_answer *const *answers, size_t n_answers) {
  for (size_t i = 0; i < n_answers; i++) {
    const bool right = answers[i]->first_right;
    score->prompts[score->n_prompts++] = (lk_prompt_score){.right = right, .dense_right = right};
  }
}

static leank_status evaluate_batch(lk_evaluator *e, lk_answer *const *answers, size_t n_answers,
                                   const lk_seen *seen, size_t n_masks, lk_stop stop,
                                   lk_score *scores, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = e->prefill->backend;
  const size_t hidden = e->prefill->model->info.hidden;
  size_t *first = lk_alloc(LK_MEM_OTHER, n_masks, sizeof *first);
  LK_FAIL_IF(!first, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n_masks; i++) {
    LK_FAIL_IF(lk_stopped(stop), err, LEANK_E_INTERRUPTED, -1, "interrupted");
    LK_TRY(lk_answer_forward(&e->pass, answers, n_answers, &seen[i], err));
    be->ops->copy(be, e->hidden + i * e->max_rows * hidden, e->pass.forward.norm,
                  e->pass.n_rows * hidden * sizeof(float));
    first[i] = scores[i].n_prompts;
    begin_prompts(&scores[i], answers, n_answers);
  }
  for (size_t row = 0; row < e->pass.n_rows; row += ROWS) {
    const size_t left = e->pass.n_rows - row, n = left < ROWS ? left : ROWS;
    LK_FAIL_IF(lk_stopped(stop), err, LEANK_E_INTERRUPTED, -1, "interrupted");
    LK_TRY(score_rows(e, answers, row, n, n_masks, scores, first, err));
  }
cleanup:
  lk_free(first);
  return status;
}

leank_status lk_evaluate(lk_evaluator *e, lk_answer *const *answers, size_t n_answers,
                         const lk_seen *seen, size_t n_masks, lk_stop stop, lk_score *scores,
                         leank_error *err) {
  for (size_t i = 0, end; i < n_answers; i = end) {
    size_t n_rows = answers[i]->n_rows;
    for (end = i + 1; end < n_answers && n_rows + answers[end]->n_rows <= e->max_rows; end++)
      n_rows += answers[end]->n_rows;
    const leank_status status =
        evaluate_batch(e, answers + i, end - i, seen, n_masks, stop, scores, err);
    if (status != LEANK_OK) return status;
  }
  return LEANK_OK;
}
