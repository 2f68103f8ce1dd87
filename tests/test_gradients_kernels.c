/* The formulas of backward kernels: their references, compiled in float64, against central
 * differences of a plain float64 forward pass. checkkern then holds every variant to them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/attention/attend_backward.h"
#include "kernels/page/page.h"

/* lk_attend_backward_args in float64. */
typedef struct args_f64 {
  size_t n_q, head_dim, n_lean;
  const double *q, *q_lean, *lean_bias;
  const int64_t *q_pos;
  const lk_page_view *pages;
  size_t n_pages;
  const double *lse, *dout, *delta;
  double *dq, *dq_lean, *dbias;
  double *const *dk, *const *dv;
} args_f64;

#define REAL double
#define REAL_EXP(x) exp(x)
#define BACKWARD_ARGS args_f64
/* A test's pages hold doubles in the order of fp32. */
#define BACKWARD_LOAD(type, p, i) ((void)(type), ((const double *)(p))[i])
#include "kernels/attention/attend_backward_ref.h"

enum { M = 6, D = 10, N_LEAN = 6, N_PAGES = 4, P = LK_PAGE_TOKENS };

/* Rows over two wide and two lean views; the third page is met in part by some rows. */
typedef struct problem {
  double q[M * D], q_lean[M * N_LEAN], bias[M], dout[M * D];
  double k[N_PAGES][P * D], v[N_PAGES][P * D];
  int64_t q_pos[M];
  lk_page_view pages[N_PAGES];
  bool has_bias;
  size_t n_lean;
} problem;

typedef struct gradients {
  double q[M * D], q_lean[M * N_LEAN], bias[M], k[N_PAGES][P * D], v[N_PAGES][P * D];
} gradients;

static void fill(double *x, size_t n, double scale, lk_rng *rng) {
  for (size_t i = 0; i < n; i++) x[i] = (lk_rng_double(rng) * 2 - 1) * scale;
}

static problem *make_problem(size_t n_lean, bool has_bias) {
  static const uint32_t n_keys[N_PAGES] = {64, 40, 64, 17};
  static const int64_t pos[N_PAGES] = {3, 67, 107, 200};
  static const int64_t q_pos[M] = {500, 216, 150, 107, 66, 3};
  problem *p = calloc(1, sizeof *p);
  assert_non_null(p);
  lk_rng rng = {n_lean + 1};
  p->n_lean = n_lean;
  p->has_bias = has_bias;
  fill(p->q, M * D, 1, &rng);
  fill(p->q_lean, M * N_LEAN, 1, &rng);
  fill(p->bias, M, 1, &rng);
  fill(p->dout, M * D, 1, &rng);
  memcpy(p->q_pos, q_pos, sizeof q_pos);
  for (size_t i = 0; i < N_PAGES; i++) {
    fill(p->k[i], P * D, 1, &rng);
    fill(p->v[i], P * D, 1, &rng);
    p->pages[i] = (lk_page_view){p->k[i], p->v[i], pos[i], n_keys[i], i % 2};
  }
  return p;
}

/* ---- the forward pass ---- */

static bool sees(const problem *p, size_t r, const lk_page_view *page, size_t key) {
  return key < page->n_keys && page->pos + (int64_t)key <= p->q_pos[r];
}

static double logit(const problem *p, size_t r, const lk_page_view *page, size_t key) {
  const size_t n = page->lean ? p->n_lean : D;
  const double *q = page->lean ? p->q_lean + r * n : p->q + r * D, *k = page->k;
  double x = page->lean && p->has_bias ? p->bias[r] : 0;
  for (size_t c = 0; c < n; c++) x += q[c] * k[lk_k_index(1, n, key, c)];
  return x;
}

/* out[D] of row r and the logarithm of its sum of exponentials. The logits here are small. */
static double attend_f64(const problem *p, size_t r, double out[D]) {
  double sum = 0;
  memset(out, 0, D * sizeof *out);
  for (size_t i = 0; i < N_PAGES; i++)
    for (size_t key = 0; key < P; key++) {
      if (!sees(p, r, p->pages + i, key)) continue;
      const double e = exp(logit(p, r, p->pages + i, key));
      sum += e;
      for (size_t c = 0; c < D; c++) out[c] += e * p->v[i][key * D + c];
    }
  for (size_t c = 0; c < D; c++) out[c] /= sum;
  return log(sum);
}

static double dot(const double *a, const double *b) {
  double sum = 0;
  for (size_t c = 0; c < D; c++) sum += a[c] * b[c];
  return sum;
}

static double loss(const problem *p) {
  double sum = 0, out[D];
  for (size_t r = 0; r < M; r++) {
    attend_f64(p, r, out);
    sum += dot(p->dout + r * D, out);
  }
  return sum;
}

/* ---- the comparison ---- */

static void backward(const problem *p, gradients *g) {
  double lse[M], delta[M], out[D], *dk[N_PAGES], *dv[N_PAGES];
  for (size_t r = 0; r < M; r++) {
    lse[r] = attend_f64(p, r, out);
    delta[r] = dot(p->dout + r * D, out);
  }
  for (size_t i = 0; i < N_PAGES; i++) dk[i] = g->k[i], dv[i] = g->v[i];
  const args_f64 args = {.n_q = M,
                         .head_dim = D,
                         .n_lean = p->n_lean,
                         .q = p->q,
                         .q_lean = p->q_lean,
                         .lean_bias = p->has_bias ? p->bias : NULL,
                         .q_pos = p->q_pos,
                         .pages = p->pages,
                         .n_pages = N_PAGES,
                         .lse = lse,
                         .dout = p->dout,
                         .delta = delta,
                         .dq = g->q,
                         .dq_lean = g->q_lean,
                         .dbias = g->bias,
                         .dk = dk,
                         .dv = dv};
  ref_backward(&args, LEANK_KV_F32);
}

/* d loss / d x[i] within 1e-6 of its size; differences of numbers near the loss itself carry an
 * absolute error of about 1e-10. */
static void check_derivative(const problem *p, double *x, double got) {
  const double h = 1e-5, at = *x;
  *x = at + h;
  const double above = loss(p);
  *x = at - h;
  const double want = (above - loss(p)) / (2 * h);
  *x = at;
  if (fabs(got - want) > 1e-6 * fabs(want) + 1e-9) fail_msg("%.12g, not %.12g", got, want);
}

static void check_array(const problem *p, double *x, const double *got, size_t n) {
  for (size_t i = 0; i < n; i++) check_derivative(p, x + i, got[i]);
}

/* K is stored by blocks of channels, its gradient by key. */
static void check_page(problem *p, const gradients *g, size_t i) {
  const size_t n = p->pages[i].lean ? p->n_lean : D;
  check_array(p, p->v[i], g->v[i], P * D);
  for (size_t key = 0; key < P; key++)
    for (size_t c = 0; c < n; c++)
      check_derivative(p, p->k[i] + lk_k_index(1, n, key, c), g->k[i][key * n + c]);
  for (size_t j = P * n; j < P * D; j++) assert_true(g->k[i][j] == 0);
}

static void check_problem(size_t n_lean, bool has_bias) {
  problem *p = make_problem(n_lean, has_bias);
  gradients *g = calloc(1, sizeof *g);
  assert_non_null(g);
  backward(p, g);
  check_array(p, p->q, g->q, M * D);
  check_array(p, p->q_lean, g->q_lean, M * n_lean);
  if (has_bias) check_array(p, p->bias, g->bias, M);
  for (size_t i = 0; i < N_PAGES; i++) check_page(p, g, i);
  free(g);
  free(p);
}

static void test_attend(void **state) {
  (void)state;
  check_problem(N_LEAN, true);
  check_problem(N_LEAN, false);
}

/* Heads that keep no channel: the logits of lean views are the bias alone. */
static void test_attend_without_channels(void **state) {
  (void)state;
  check_problem(0, true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_attend),
      cmocka_unit_test(test_attend_without_channels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
