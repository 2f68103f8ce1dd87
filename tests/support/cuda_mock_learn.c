/* Learning on the device in software: gradients as their formulas stand, in float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "support/cuda_mock_queue.h"

enum { P = LK_CUDA_P, MAX_D = 128, SCRATCH_BYTES = 512 };

/* ---- rows and products ---- */

static void run_linear_backward(const void *args) {
  const lk_cuda_linear_grad *j = args;
  for (size_t i = 0; i < j->n_rows * j->n_in; i++) {
    const size_t row = i / j->n_in, c = i % j->n_in;
    double sum = j->add ? (double)j->dx[i] : 0;
    for (size_t o = 0; o < j->n_out; o++)
      sum += (double)j->dy[row * j->n_out + o] * (double)lk_bf16_to_f32(j->w[o * j->n_in + c]);
    j->dx[i] = (float)sum;
  }
}

void lk_mock_linear_backward(lk_cuda_device *dev, const lk_cuda_linear_grad *job) {
  LK_MOCK_LAUNCH(dev, run_linear_backward, *job);
}

typedef struct norm_args {
  const float *x, *w, *dy;
  float *dx, eps;
  size_t n_rows, n;
} norm_args;

static void run_norm_backward(const void *args) {
  const norm_args *j = args;
  for (size_t r = 0; r < j->n_rows; r++) {
    const float *x = j->x + r * j->n, *dy = j->dy + r * j->n;
    double squares = 0, products = 0;
    for (size_t i = 0; i < j->n; i++) {
      squares += (double)x[i] * (double)x[i];
      products += (double)dy[i] * (double)j->w[i] * (double)x[i];
    }
    const double s = 1 / sqrt(squares / (double)j->n + (double)j->eps);
    for (size_t i = 0; i < j->n; i++)
      j->dx[r * j->n + i] += (float)(s * ((double)j->w[i] * (double)dy[i] -
                                          (double)x[i] * s * s * products / (double)j->n));
  }
}

void lk_mock_rms_norm_backward(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                               const float *w, float eps, const float *dy, float *dx) {
  const norm_args a = {.x = x, .w = w, .dy = dy, .dx = dx, .eps = eps, .n_rows = n_rows, .n = n};
  LK_MOCK_LAUNCH(dev, run_norm_backward, a);
}

typedef struct swiglu_args {
  const float *gate, *up, *dout;
  float *dgate, *dup;
  size_t n;
} swiglu_args;

static void run_swiglu_backward(const void *args) {
  const swiglu_args *j = args;
  for (size_t i = 0; i < j->n; i++) {
    const double g = (double)j->gate[i], u = (double)j->up[i], d = (double)j->dout[i];
    const double p = 1 / (1 + exp(-g));
    j->dgate[i] = (float)(p * (1 + g * (1 - p)) * u * d);
    j->dup[i] = (float)(g * p * d);
  }
}

void lk_mock_swiglu_backward(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                             const float *dout, float *dgate, float *dup) {
  const swiglu_args a = {.gate = gate, .up = up, .dout = dout, .dgate = dgate, .dup = dup, .n = n};
  LK_MOCK_LAUNCH(dev, run_swiglu_backward, a);
}

/* ---- attention under channel weights ---- */

size_t lk_mock_weighted_scratch_bytes(const lk_cuda_weighted *job, bool backward) {
  assert_true(job->n_rows > 0 && job->max_rows <= job->n_rows && job->max_pages > 0);
  assert_true(job->n_own >= job->n_rows);
  return backward ? 2 * SCRATCH_BYTES : SCRATCH_BYTES;
}

/* One row and query head, and what it sees. */
typedef struct query {
  const lk_cuda_weighted *job;
  const lk_cuda_weighted_group *group;
  size_t h, row, head; /* row of q; row of the group is row - first_row */
  size_t pos, end;
  double q[MAX_D], mean[MAX_D]; /* q scaled */
  const float *weight;
} query;

static size_t at(const query *q) { return (q->row * q->job->n_heads + q->head) * q->job->head_dim; }

static query query_of(const lk_cuda_weighted *j, const lk_cuda_weighted_group *g, size_t r,
                      size_t head) {
  const size_t d = j->head_dim;
  query q = {.job = j,
             .group = g,
             .h = head / (j->n_heads / j->n_kv_heads),
             .row = g->first_row + r,
             .head = head,
             .pos = g->first_pos + r};
  q.end = j->middle_end[q.row];
  q.weight = j->weight + q.h * d;
  assert_true(q.end >= g->middle_begin && q.end <= q.pos + 1);
  for (size_t c = 0; c < d; c++) q.q[c] = (double)j->q[at(&q) + c] / sqrt((double)d);
  if (j->kind[q.h] != LK_CUDA_WEIGHTED_MEAN || q.end == g->middle_begin) return q;
  const size_t n = q.end - g->middle_begin;
  assert_int_equal(n % P, 0);
  for (size_t c = 0; c < d; c++)
    q.mean[c] = (double)g->sums[(n / P * j->n_kv_heads + q.h) * 2 * d + c] / (double)n;
  return q;
}

static bool in_middle(const query *q, size_t key) {
  return key >= q->group->middle_begin && key < q->end;
}
static bool is_seen(const query *q, size_t key) {
  return key <= q->pos && !(in_middle(q, key) && q->job->kind[q->h] == LK_CUDA_WEIGHTED_ABSENT);
}

/* K and V of a key. */
static void read_key(const query *q, size_t key, double k[MAX_D], double v[MAX_D]) {
  const size_t d = q->job->head_dim;
  const lk_page_entry e = q->job->tables[q->group->table + key / P];
  assert_true(e.kind == LK_PAGE_WIDE || e.kind == LK_PAGE_STAGE);
  unsigned char *segment = (unsigned char *)(uintptr_t)q->group->arena[e.kind] +
                           e.page * q->group->page_bytes[e.kind] +
                           q->h * P * 2 * d * sizeof(uint16_t);
  for (size_t c = 0; c < d; c++) {
    k[c] = (double)lk_bf16_to_f32(*lk_mock_element(segment, d, key % P, c));
    v[c] =
        (double)lk_bf16_to_f32(*lk_mock_element(segment + P * d * sizeof(uint16_t), d, key % P, c));
  }
}

static double logit(const query *q, size_t key, const double *k) {
  double x = 0;
  for (size_t c = 0; c < q->job->head_dim; c++) {
    const double w = in_middle(q, key) ? (double)q->weight[c] : 1;
    x += q->q[c] * (w * k[c] + (1 - w) * q->mean[c]);
  }
  return x;
}

static void forward_query(const query *q) {
  const lk_cuda_weighted *j = q->job;
  double max = -INFINITY, sum = 0, out[MAX_D] = {0}, k[MAX_D], v[MAX_D];
  for (int pass = 0; pass < 2; pass++)
    for (size_t key = 0; key <= q->pos; key++) {
      if (!is_seen(q, key)) continue;
      read_key(q, key, k, v);
      const double x = logit(q, key, k);
      max = fmax(max, x);
      if (pass == 0) continue;
      sum += exp(x - max);
      for (size_t c = 0; c < j->head_dim; c++) out[c] += exp(x - max) * v[c];
    }
  for (size_t c = 0; c < j->head_dim; c++) j->out[at(q) + c] = (float)(out[c] / sum);
  j->lse[q->row * j->n_heads + q->head] = (float)(max + log(sum));
}

/* Adds to the gradients of K and V where key is one of the rows' own. */
static void add_own(const query *q, size_t key, double factor, const double *x, float *grad) {
  if (key < q->group->first_pos) return;
  const size_t d = q->job->head_dim, row = q->group->first_row + key - q->group->first_pos;
  for (size_t c = 0; c < d; c++)
    grad[(row * q->job->n_kv_heads + q->h) * d + c] += (float)(factor * x[c]);
}

/* What the sum of the gradients of middle logits does through the mean key. */
static void backward_mean(const query *q, double dbias, double *dq) {
  const lk_cuda_weighted *j = q->job;
  const size_t d = j->head_dim;
  double share[MAX_D];
  if (j->kind[q->h] != LK_CUDA_WEIGHTED_MEAN || q->end == q->group->middle_begin) return;
  for (size_t c = 0; c < d; c++) {
    const double w = (double)q->weight[c];
    dq[c] += (1 - w) * dbias * q->mean[c];
    j->dweight[q->h * d + c] -= q->q[c] * dbias * q->mean[c];
    share[c] = (1 - w) * q->q[c] / (double)(q->end - q->group->middle_begin);
  }
  for (size_t key = q->group->middle_begin; key < q->end; key++)
    add_own(q, key, dbias, share, j->dk);
}

static void backward_query(const query *q) {
  const lk_cuda_weighted *j = q->job;
  const size_t d = j->head_dim;
  double delta = 0, dbias = 0, dq[MAX_D] = {0}, dout[MAX_D], k[MAX_D], v[MAX_D], way[MAX_D];
  for (size_t c = 0; c < d; c++) {
    dout[c] = (double)j->dout[at(q) + c];
    delta += dout[c] * (double)j->out[at(q) + c];
  }
  for (size_t key = 0; key <= q->pos; key++) {
    if (!is_seen(q, key)) continue;
    read_key(q, key, k, v);
    const double p = exp(logit(q, key, k) - (double)j->lse[q->row * j->n_heads + q->head]);
    double dp = 0;
    for (size_t c = 0; c < d; c++) dp += dout[c] * v[c];
    const double dx = p * (dp - delta);
    if (in_middle(q, key)) dbias += dx;
    for (size_t c = 0; c < d; c++) {
      const double w = in_middle(q, key) ? (double)q->weight[c] : 1;
      dq[c] += dx * w * k[c];
      way[c] = w * q->q[c];
      if (in_middle(q, key)) j->dweight[q->h * d + c] += dx * q->q[c] * k[c];
    }
    add_own(q, key, dx, way, j->dk);
    add_own(q, key, p, dout, j->dv);
  }
  backward_mean(q, dbias, dq);
  for (size_t c = 0; c < d; c++) j->dq[at(q) + c] = (float)(dq[c] / sqrt((double)d));
}

static void each_query(const lk_cuda_weighted *j, void (*visit)(const query *)) {
  size_t n_rows = 0, n_own = 0;
  for (size_t i = 0; i < j->n_groups; i++) {
    const lk_cuda_weighted_group *g = &j->groups[i];
    assert_true(g->first_row == n_rows && g->own_before == n_own && g->middle_begin % P == 0);
    assert_true(g->n_rows <= j->max_rows && (g->first_pos + g->n_rows - 1) / P < j->max_pages);
    n_rows += g->n_rows;
    n_own += g->n_rows * g->n_rows;
    for (size_t r = 0; r < g->n_rows * j->n_heads; r++) {
      const query q = query_of(j, g, r / j->n_heads, r % j->n_heads);
      visit(&q);
    }
  }
  assert_true(n_rows == j->n_rows && n_own == j->n_own);
}

static void run_weighted(const void *args) {
  const lk_cuda_weighted *j = args;
  memset(j->scratch, 0xff, SCRATCH_BYTES);
  each_query(j, forward_query);
}

static void run_weighted_backward(const void *args) {
  const lk_cuda_weighted *j = args;
  const size_t n = j->n_rows * j->n_kv_heads * j->head_dim;
  memset(j->scratch, 0xff, 2 * SCRATCH_BYTES);
  memset(j->dk, 0, n * sizeof *j->dk);
  memset(j->dv, 0, n * sizeof *j->dv);
  each_query(j, backward_query);
}

void lk_mock_weighted(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  assert_true(job->head_dim == 64 || job->head_dim == 128);
  LK_MOCK_LAUNCH(dev, run_weighted, *job);
}

void lk_mock_weighted_backward(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  LK_MOCK_LAUNCH(dev, run_weighted_backward, *job);
}
