/* The optimiser of alpha, against the formulas of its papers in doubles; the learning rate. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "learn/adamw.h"

enum { N = 64, STEPS = 60 };

/* Kingma and Ba 2015, algorithm 1; alpha kept between 0 and 1. */
static void textbook(size_t t, double lr, double epsilon, const double *g, double *m, double *v,
                     double *alpha) {
  for (size_t i = 0; i < N; i++) {
    m[i] = 0.9 * m[i] + 0.1 * g[i];
    v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
    const double m_hat = m[i] / (1 - pow(0.9, (double)t));
    const double v_hat = v[i] / (1 - pow(0.999, (double)t));
    alpha[i] -= lr * m_hat / (sqrt(v_hat) + epsilon);
    alpha[i] = fmin(1, fmax(0, alpha[i]));
  }
}

/* Channel i: gradients of scale 10^-(i % 12), half of them mostly of one sign, one in eight none.
 */
static void make_gradient(lk_rng *rng, double *g) {
  for (size_t i = 0; i < N; i++) {
    const double shift = i % 2 ? 0.9 : 0.5;
    g[i] = i % 8 == 7 ? 0 : (lk_rng_double(rng) - shift) * pow(10, -(double)(i % 12));
  }
}

static void check_against_textbook(double epsilon) {
  float m[N] = {0}, v[N] = {0}, alpha[N];
  double m64[N] = {0}, v64[N] = {0}, alpha64[N], g[N];
  lk_adamw opt = {.n = N, .m = m, .v = v, .epsilon = epsilon};
  lk_rng rng = {3};
  for (size_t i = 0; i < N; i++) alpha64[i] = alpha[i] = i % 3 ? 1 : 0.5f;
  for (size_t t = 1; t <= STEPS; t++) {
    const double lr = 0.04 * (double)(t % 5 + 1) / 5;
    make_gradient(&rng, g);
    lk_adamw_step(&opt, lr, g, alpha);
    textbook(t, lr, epsilon, g, m64, v64, alpha64);
    assert_int_equal(opt.n_done, t);
    /* fp32 of moments: some 2^-24 a step, of steps of up to lr. */
    for (size_t i = 0; i < N; i++)
      if (!(fabs((double)alpha[i] - alpha64[i]) < 3e-6))
        fail_msg("step %zu, channel %zu: %.9g, not %.9g", t, i, (double)alpha[i], alpha64[i]);
  }
  size_t low = 0, between = 0;
  for (size_t i = 0; i < N; i++) {
    low += alpha[i] < 0.5f;
    between += alpha[i] > 0 && alpha[i] < 1;
  }
  assert_true(low > 0 && between > 0);
}

static void test_steps_are_those_of_the_textbook(void **state) {
  (void)state;
  check_against_textbook(1e-12);
  check_against_textbook(1e-8);
  check_against_textbook(1e-2);
}

static void test_alpha_stays_between_0_and_1(void **state) {
  (void)state;
  float m[2] = {0}, v[2] = {0}, alpha[2] = {0.5f, 0.5f};
  const double g[2] = {1e30, -1e30};
  lk_adamw opt = {.n = 2, .m = m, .v = v, .epsilon = 1e-8};
  for (int i = 0; i < 5; i++) lk_adamw_step(&opt, 1, (const double[]){1e6, -1e6}, alpha);
  assert_true(alpha[0] == 0 && alpha[1] == 1);
  memset(m, 0, sizeof m);
  memset(v, 0, sizeof v);
  opt.n_done = 0;
  lk_adamw_step(&opt, 1e-3, g, alpha); /* the square is beyond fp32 */
  assert_true(alpha[0] >= 0 && alpha[0] <= 1 && alpha[1] >= 0 && alpha[1] <= 1);
}

static void test_no_gradient_no_change(void **state) {
  (void)state;
  float m[1] = {0}, v[1] = {0}, alpha[1] = {0.3f};
  const double g[1] = {0};
  lk_adamw opt = {.n = 1, .m = m, .v = v, .epsilon = 1e-12};
  for (int i = 0; i < 10; i++) lk_adamw_step(&opt, 0.04, g, alpha);
  assert_true(alpha[0] == 0.3f);
}

static void test_a_step_goes_on_from_its_moments(void **state) {
  (void)state;
  float m[N] = {0}, v[N] = {0}, alpha[N], m2[N], v2[N], alpha2[N];
  double g[N];
  lk_adamw one = {.n = N, .m = m, .v = v, .epsilon = 1e-12};
  lk_rng rng = {5};
  for (size_t i = 0; i < N; i++) alpha[i] = 0.5f;
  make_gradient(&rng, g);
  for (int i = 0; i < 7; i++) lk_adamw_step(&one, 0.01, g, alpha);
  memcpy(m2, m, sizeof m);
  memcpy(v2, v, sizeof v);
  memcpy(alpha2, alpha, sizeof alpha);
  lk_adamw other = {.n = N, .m = m2, .v = v2, .n_done = 7, .epsilon = 1e-12};
  for (int i = 0; i < 7; i++) {
    make_gradient(&rng, g);
    lk_adamw_step(&one, 0.01, g, alpha);
    lk_adamw_step(&other, 0.01, g, alpha2);
  }
  assert_memory_equal(alpha, alpha2, sizeof alpha);
}

/* ---- the learning rate ---- */

static void test_the_rate_rises_for_a_fifth_and_falls_for_a_fifth(void **state) {
  (void)state;
  for (size_t n = 1; n <= 200; n++) {
    const size_t ramp = n / 5;
    for (size_t i = 0; i < n; i++) {
      const size_t from_end = n - 1 - i, edge = i < from_end ? i : from_end;
      const double share = lk_learning_rate_share(i, n);
      const double want = edge < ramp ? (double)(edge + 1) / (double)ramp : 1;
      assert_true(fabs(share - want) < 1e-12);
    }
  }
}

static void test_short_runs_have_a_rate_at_every_step(void **state) {
  (void)state;
  for (size_t n = 1; n <= 9; n++)
    for (size_t i = 0; i < n; i++) assert_true(lk_learning_rate_share(i, n) == 1);
  assert_true(lk_learning_rate_share(0, 10) == 0.5 && lk_learning_rate_share(9, 10) == 0.5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_steps_are_those_of_the_textbook),
      cmocka_unit_test(test_alpha_stays_between_0_and_1),
      cmocka_unit_test(test_no_gradient_no_change),
      cmocka_unit_test(test_a_step_goes_on_from_its_moments),
      cmocka_unit_test(test_the_rate_rises_for_a_fifth_and_falls_for_a_fifth),
      cmocka_unit_test(test_short_runs_have_a_rate_at_every_step),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
