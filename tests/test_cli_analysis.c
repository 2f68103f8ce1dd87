/* Statistics of `leank analyze`, on cases worked by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "analysis.h"

/* A few roundings of numbers near 1. */
static const double same = 1e-14;

static void test_spearman(void **state) {
  (void)state;
  static const float a[] = {1, 2, 3, 4, 5}, squares[] = {1, 4, 9, 16, 25}, down[] = {9, 7, 5, 3, 1},
                     some[] = {2, 1, 4, 3, 5}, flat[] = {3, 3, 3, 3, 3}, ties[] = {1, 2, 2, 4, 5},
                     others[] = {1, 3, 2, 4, 5};
  assert_true(fabs(analysis_spearman(a, squares, 5) - 1) < same);
  assert_true(fabs(analysis_spearman(a, down, 5) + 1) < same);
  /* 1 - 6 * sum d^2 / (n (n^2 - 1)), d = 1 1 1 1 0 */
  assert_true(fabs(analysis_spearman(a, some, 5) - (1 - 6 * 4 / 120.0)) < same);
  assert_true(analysis_spearman(a, flat, 5) == 0);
  /* Ranks 1 2.5 2.5 4 5 and 1 3 2 4 5: covariance 9.5, squares 9.5 and 10. */
  assert_true(fabs(analysis_spearman(ties, others, 5) - 9.5 / sqrt(95)) < same);
}

static void test_auc(void **state) {
  (void)state;
  static const double high[] = {3, 2}, low[] = {1, 2, 2.5};
  /* 3 exceeds three; 2 one and equals one: 4.5 of 6 */
  assert_true(fabs(analysis_auc(high, 2, low, 3) - 0.75) < same);
  assert_true(isnan(analysis_auc(high, 2, low, 0)));
}

/* One layer, ten heads of 16 channels: pair 4 is kept by all heads, pair 5 by one, half of pair 7
 * by four; pair 6 by none. */
static void test_exceptions(void **state) {
  (void)state;
  enum { HEADS = 10, D = 16, HALF = D / 2 };
  uint8_t kept[HEADS * D] = {0};
  leank_mask_info info;
  leank_mask *mask = NULL;
  leank_error err = {0};
  for (size_t h = 0; h < HEADS; h++) {
    kept[h * D + 4] = kept[h * D + 4 + HALF] = 1;
    kept[h * D + 5] = h == 0;
    kept[h * D + 7] = h < 4;
  }
  leank_mask_info_default(&info);
  info.n_layers = 1;
  info.n_kv_heads = HEADS;
  info.head_dim = D;
  assert_int_equal(leank_mask_create(&info, kept, NULL, &mask, &err), LEANK_OK);
  mask_analysis m = {.mask = mask};
  analysis_of_mask(&m);
  /* Pair 4: 1 beside 0, 0, .1, 0. Pair 7: .4 beside .1 and 0. */
  assert_int_equal(m.n_exceptions, 2);
  assert_int_equal(m.exceptions[0].pair, 4);
  assert_true(fabs(m.exceptions[0].neighbours - 0.025) < same);
  assert_int_equal(m.exceptions[1].pair, 7);
  assert_true(fabs(m.exceptions[1].neighbours - 0.05) < same);
  /* Pairs 4 and 5: 21 channels of 40; pairs 6 and 7: 4 of 40. */
  assert_true(m.quarters[0] == 0 && m.quarters[1] == 0);
  assert_true(fabs(m.quarters[2] - 21 / 40.0) < same);
  assert_true(fabs(m.quarters[3] - 4 / 40.0) < same);
  mask_counts_free(&m.counts);
  free(m.exceptions);
  leank_mask_close(&mask);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_spearman),
      cmocka_unit_test(test_auc),
      cmocka_unit_test(test_exceptions),
  };
  return cmocka_run_group_tests_name("cli_analysis", tests, NULL, NULL);
}
