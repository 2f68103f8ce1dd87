/* Rounding scores to masks: the rule by an independent implementation, and its properties. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "mask/mask.h"
#include "support/hostile.h"

enum { MAX_N = 4096 };

/* ---- the rule once more, plainly: interpolated quantile in double, O(n^2) sorting ---- */

static double quantile(const float *scores, size_t n, double ratio) {
  float sorted[MAX_N];
  for (size_t i = 0; i < n; i++) {
    size_t k = i;
    for (; k > 0 && sorted[k - 1] > scores[i]; k--) sorted[k] = sorted[k - 1];
    sorted[k] = scores[i];
  }
  const double position = ratio * (double)(n - 1), whole = round(position);
  if (fabs(position - whole) < 1e-9) return sorted[(size_t)whole];
  const size_t low = (size_t)floor(position);
  return sorted[low] + (position - floor(position)) * ((double)sorted[low + 1] - sorted[low]);
}

static size_t round_half_up(size_t count, size_t align, size_t head_dim) {
  const size_t rounded = (size_t)floor((double)count / (double)align + 0.5) * align;
  return rounded > head_dim ? head_dim : rounded;
}

/* A channel is kept if fewer than `count` others are larger, or equal and of lower index. */
static void keep_naively(const float *scores, size_t head_dim, size_t count, uint8_t *kept) {
  for (size_t c = 0; c < head_dim; c++) {
    size_t before = 0;
    for (size_t o = 0; o < head_dim; o++)
      before += scores[o] > scores[c] || (scores[o] == scores[c] && o < c);
    kept[c] = before < count;
  }
}

static size_t count_by_threshold(const float *head, size_t head_dim, double threshold, bool above,
                                 size_t align) {
  size_t count = 0;
  for (size_t c = 0; c < head_dim; c++) count += above ? head[c] > threshold : head[c] >= threshold;
  return round_half_up(count, align, head_dim);
}

static void round_naively(const float *scores, size_t n_heads, size_t head_dim, double ratio,
                          size_t align, uint8_t *kept) {
  const size_t n = n_heads * head_dim;
  if (ratio == 0) {
    memset(kept, 1, n);
    return;
  }
  float smallest = scores[0];
  for (size_t i = 0; i < n; i++) smallest = scores[i] < smallest ? scores[i] : smallest;
  const double threshold = quantile(scores, n, ratio);
  for (size_t h = 0; h < n_heads; h++) {
    const float *head = scores + h * head_dim;
    const size_t count =
        count_by_threshold(head, head_dim, threshold, threshold == smallest, align);
    keep_naively(head, head_dim, count, kept + h * head_dim);
  }
}

static size_t count_kept(const uint8_t *kept, size_t n) {
  size_t count = 0;
  for (size_t i = 0; i < n; i++) count += kept[i];
  return count;
}

/* The smallest distance to the budget over every threshold there is. */
static double best_distance(const float *scores, size_t n_heads, size_t head_dim, double ratio,
                            size_t align) {
  const size_t n = n_heads * head_dim;
  const double target = (1 - ratio) * (double)n;
  double best = target; /* keeping nothing */
  for (size_t i = 0; i < n; i++) {
    size_t total = 0;
    for (size_t h = 0; h < n_heads; h++)
      total += count_by_threshold(scores + h * head_dim, head_dim, scores[i], false, align);
    best = fmin(best, fabs((double)total - target));
  }
  return best;
}

/* ---- random scores ---- */

typedef enum kind { DISTINCT, BIMODAL, GRID, EQUAL, ZERO, NEGATIVE, N_KINDS } kind;

static void fill_scores(lk_rng *rng, kind k, float *scores, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const double u = lk_rng_double(rng);
    scores[i] = (float)u;
    if (k == BIMODAL) scores[i] = u < 0.8 ? (u < 0.4 ? 0.0f : -0.0f) : u < 0.9 ? 1 : (float)u;
    if (k == GRID) scores[i] = (float)floor(u * 5) / 4;
    if (k == EQUAL) scores[i] = 0.25f;
    if (k == ZERO) scores[i] = 0;
    if (k == NEGATIVE) scores[i] = (float)(u * 2e30 - 1e30);
  }
}

static const double ratios[] = {0, 1e-6, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.95, 1};
static const size_t aligns[] = {1, 2, 3, 8, 16, 32, 1000};
enum { N_RATIOS = sizeof ratios / sizeof *ratios, N_ALIGNS = sizeof aligns / sizeof *aligns };

typedef struct shape {
  size_t n_layers, n_kv_heads, head_dim;
} shape;
static const shape shapes[] = {{1, 1, 1},  {1, 1, 2},  {2, 1, 16},
                               {3, 2, 40}, {2, 3, 64}, {1, 4, 80}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void round_scores(const float *scores, shape s, double ratio, size_t align,
                         leank_budget budget, bool exact, uint8_t *kept) {
  leank_error err = {.message = ""};
  memset(kept, 7, MAX_N);
  if (leank_mask_round(scores, s.n_layers, s.n_kv_heads, s.head_dim, ratio, align, budget, exact,
                       kept, &err) != LEANK_OK)
    fail_msg("%s", err.message);
  assert_int_equal(kept[s.n_layers * s.n_kv_heads * s.head_dim], 7);
}

/* Calls fn for random scores of every kind, shape, ratio and align. */
static void for_all(void (*fn)(const float *scores, shape s, double ratio, size_t align)) {
  const uint64_t seed = 20250811;
  lk_rng rng = {seed};
  float scores[MAX_N];
  for (int k = 0; k < N_KINDS; k++)
    for (size_t i = 0; i < N_SHAPES; i++)
      for (size_t r = 0; r < N_RATIOS; r++)
        for (size_t a = 0; a < N_ALIGNS; a++) {
          const shape s = shapes[i];
          fill_scores(&rng, (kind)k, scores, s.n_layers * s.n_kv_heads * s.head_dim);
          fn(scores, s, ratios[r], aligns[a]);
        }
}

static void check_naive(const float *scores, shape s, double ratio, size_t align) {
  const size_t n_heads = s.n_layers * s.n_kv_heads;
  uint8_t kept[MAX_N], expected[MAX_N];
  round_scores(scores, s, ratio, align, LEANK_BUDGET_GLOBAL, false, kept);
  round_naively(scores, n_heads, s.head_dim, ratio, align, expected);
  assert_memory_equal(kept, expected, n_heads * s.head_dim);
}

static void test_naive(void **state) {
  (void)state;
  for_all(check_naive);
}

/* Counts are multiples of align or all of D; the largest are kept, ties by lower index. */
static void check_heads(const float *scores, shape s, size_t align, const uint8_t *kept) {
  for (size_t h = 0; h < s.n_layers * s.n_kv_heads; h++) {
    const float *head = scores + h * s.head_dim;
    const uint8_t *k = kept + h * s.head_dim;
    const size_t count = count_kept(k, s.head_dim);
    uint8_t expected[MAX_N];
    assert_true(count % align == 0 || count == s.head_dim);
    keep_naively(head, s.head_dim, count, expected);
    assert_memory_equal(k, expected, s.head_dim);
  }
}

static void check_exact(const float *scores, shape s, double ratio, size_t align) {
  const size_t n_heads = s.n_layers * s.n_kv_heads, n = n_heads * s.head_dim;
  uint8_t kept[MAX_N], plain[MAX_N];
  round_scores(scores, s, ratio, align, LEANK_BUDGET_GLOBAL, true, kept);
  check_heads(scores, s, align, kept);
  if (ratio == 0) {
    assert_int_equal(count_kept(kept, n), n);
    return;
  }
  const double target = (1 - ratio) * (double)n;
  const double distance = fabs((double)count_kept(kept, n) - target);
  assert_true(fabs(distance - best_distance(scores, n_heads, s.head_dim, ratio, align)) < 1e-6);
  /* It is never further from the budget than the plain rule. */
  round_scores(scores, s, ratio, align, LEANK_BUDGET_GLOBAL, false, plain);
  check_heads(scores, s, align, plain);
  assert_true(distance <= fabs((double)count_kept(plain, n) - target) + 1e-6);
}

static void test_exact(void **state) {
  (void)state;
  for_all(check_exact);
}

static void check_per_head(const float *scores, shape s, double ratio, size_t align) {
  uint8_t kept[MAX_N], exact[MAX_N];
  const size_t n = s.n_layers * s.n_kv_heads * s.head_dim;
  round_scores(scores, s, ratio, align, LEANK_BUDGET_PER_HEAD, false, kept);
  round_scores(scores, s, ratio, align, LEANK_BUDGET_PER_HEAD, true, exact);
  assert_memory_equal(kept, exact, n);
  check_heads(scores, s, align, kept);
  const size_t count = count_kept(kept, s.head_dim);
  for (size_t h = 0; h < n / s.head_dim; h++)
    assert_int_equal(count_kept(kept + h * s.head_dim, s.head_dim), count);
  if (ratio == 0) assert_int_equal(count, s.head_dim);
  if (ratio == 1) assert_int_equal(count, 0);
  /* Within half of an align of the budget, where D does not cut it off. */
  if (count < s.head_dim)
    assert_true(fabs((double)count - (1 - ratio) * (double)s.head_dim) <= (double)align / 2 + 1e-6);
}

static void test_per_head(void **state) {
  (void)state;
  for_all(check_per_head);
}

/* ---- by hand ---- */

static void expect(const float *scores, shape s, double ratio, size_t align, bool exact,
                   const char *expected) {
  uint8_t kept[MAX_N];
  char text[MAX_N + 1];
  const size_t n = s.n_layers * s.n_kv_heads * s.head_dim;
  round_scores(scores, s, ratio, align, LEANK_BUDGET_GLOBAL, exact, kept);
  for (size_t i = 0; i < n; i++) text[i] = (char)('0' + kept[i]);
  text[n] = 0;
  assert_string_equal(text, expected);
}

static void test_by_hand(void **state) {
  (void)state;
  const shape one = {1, 1, 8}, two = {1, 2, 4};
  const float up[] = {1, 2, 3, 4, 5, 6, 7, 8};
  /* Position 0.5 x 7 = 3.5: the threshold is 4.5. */
  expect(up, one, 0.5, 1, false, "00001111");
  expect(up, two, 0.5, 1, false, "00001111");
  /* Position 0.25 x 7 = 1.75: 2.75, six remain, rounded half up to 8. */
  expect(up, one, 0.25, 4, false, "11111111");
  /* Position 0.7 x 7 = 4.9: 5.9, three remain: 3 is rounded up to 4; then 8 x 0.3 = 2.4. */
  expect(up, one, 0.7, 4, false, "00001111");
  expect(up, one, 0.7, 4, true, "00001111");
  expect(up, one, 0.7, 1, true, "00000011");
  /* Nothing and all are equally far from the budget of 1: more is kept. */
  const float down[] = {2, 1};
  expect(down, (shape){1, 1, 2}, 0.5, 2, true, "11");
  /* One in each half: 1 of 2 is half, and half goes up. */
  const float spread[] = {9, 0, 1, 2, 3, 4, 5, 8};
  expect(spread, two, 0.8, 2, false, "10010011");
  /* Ties take the lower index. */
  const float ties[] = {2, 5, 2, 5, 2, 2, 2, 2};
  expect(ties, one, 0.5, 3, false, "11010000"); /* above the smallest: 2, rounded to 3 */
}

/* More than `ratio` of the scores sit at 0: what is not 0 is kept, the rest is not. */
static void test_ties_at_zero(void **state) {
  (void)state;
  const shape s = {2, 1, 8};
  const float scores[16] = {[3] = 1, [9] = 0.5f, [14] = 1e-30f};
  for (double ratio = 0.1; ratio < 0.8; ratio += 0.1) {
    expect(scores, s, ratio, 1, false, "0001000001000010");
    expect(scores, s, ratio, 2, false, "1001000001000010");
  }
  expect(scores, s, 0, 2, false, "1111111111111111");
  const float negative_zero[16] = {[0] = -0.0f, [3] = 1, [9] = 0.5f, [14] = 1e-30f, [15] = -0.0f};
  expect(negative_zero, s, 0.5, 1, false, "0001000001000010");
}

/* 8 x 10 scores, 0.7 of them: a product that is not whole in binary is taken for whole. */
static void test_whole_positions(void **state) {
  (void)state;
  float scores[101];
  uint8_t kept[MAX_N];
  for (int i = 0; i < 101; i++) scores[i] = (float)i;
  for (int percent = 0; percent <= 100; percent++) {
    round_scores(scores, (shape){1, 1, 101}, percent / 100.0, 1, LEANK_BUDGET_GLOBAL, false, kept);
    assert_int_equal(count_kept(kept, 101), 101 - percent);
    round_scores(scores, (shape){1, 1, 100}, percent / 100.0, 1, LEANK_BUDGET_PER_HEAD, false,
                 kept);
    assert_int_equal(count_kept(kept, 100), 100 - percent);
  }
}

/* Neighbouring floats, whose mean is neither: no interpolated value may decide. */
static void test_close_scores(void **state) {
  (void)state;
  float scores[4] = {1};
  for (int i = 1; i < 4; i++) scores[i] = nextafterf(scores[i - 1], 2);
  expect(scores, (shape){1, 1, 4}, 0.5, 1, false, "0011");
  expect(scores, (shape){1, 1, 4}, 0.34, 1, false, "0011");
  expect(scores, (shape){1, 1, 4}, 0.33, 1, false, "0111");
}

/* ---- the size of a real model; the paper's settings ---- */

static void test_real_size(void **state) {
  (void)state;
  const size_t n_layers = 32, n_heads = 8, head_dim = 128, n = n_layers * n_heads * head_dim;
  float *scores = malloc(n * sizeof *scores);
  uint8_t *kept = malloc(n);
  lk_rng rng = {7};
  for (size_t i = 0; i < n; i++) scores[i] = (float)lk_rng_double(&rng);
  for (int exact = 0; exact < 2; exact++) {
    leank_status status = leank_mask_round(scores, n_layers, n_heads, head_dim, 0.7, 1,
                                           LEANK_BUDGET_GLOBAL, exact == 1, kept, NULL);
    assert_int_equal(status, LEANK_OK);
    assert_true(fabs((double)count_kept(kept, n) - 0.3 * (double)n) <= 1);
    status = leank_mask_round(scores, n_layers, n_heads, head_dim, 0.75, 32, LEANK_BUDGET_GLOBAL,
                              exact == 1, kept, NULL);
    assert_int_equal(status, LEANK_OK);
    for (size_t h = 0; h < n_layers * n_heads; h++)
      assert_int_equal(count_kept(kept + h * head_dim, head_dim) % 32, 0);
  }
  /* A quarter of 256 x 128 can be met with whole 32s, to within one. */
  assert_true(fabs((double)count_kept(kept, n) - 0.25 * (double)n) <= 32);
  free(scores);
  free(kept);
}

/* ---- refusing ---- */

static void test_refuses(void **state) {
  (void)state;
  float scores[8] = {0};
  uint8_t kept[8];
  leank_error err;
  memset(kept, 7, sizeof kept);
#define REFUSE(l, h, d, ratio, align, budget)                                                      \
  assert_int_equal(leank_mask_round(scores, l, h, d, ratio, align, budget, false, kept, &err),     \
                   LEANK_E_ARGUMENT)
  const leank_budget global = LEANK_BUDGET_GLOBAL;
  REFUSE(0, 1, 8, 0.5, 1, global);
  REFUSE(1, 0, 8, 0.5, 1, global);
  REFUSE(1, 1, 0, 0.5, 1, global);
  REFUSE(SIZE_MAX, 2, 8, 0.5, 1, global);
  REFUSE(1, 1, 8, -0.1, 1, global);
  REFUSE(1, 1, 8, 1.1, 1, global);
  REFUSE(1, 1, 8, NAN, 1, global);
  REFUSE(1, 1, 8, 0.5, 0, global);
  REFUSE(1, 1, 8, 0.5, SIZE_MAX, global);
  REFUSE(1, 1, 8, 0.5, 1, (leank_budget)2);
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    scores[7] = bad[i];
    REFUSE(1, 1, 8, 0.5, 1, global);
  }
#undef REFUSE
  assert_int_equal(leank_mask_round(NULL, 1, 1, 8, 0.5, 1, global, false, kept, &err),
                   LEANK_E_ARGUMENT);
  scores[7] = 0;
  const size_t before = hostile_mem_in_use();
  for (size_t nth = 1; nth <= 3; nth++) {
    lk_alloc_fail_nth(nth);
    assert_int_equal(leank_mask_round(scores, 1, 1, 8, 0.5, 1, global, true, kept, &err),
                     LEANK_E_MEMORY);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  lk_alloc_fail_nth(0);
  for (int i = 0; i < 8; i++) assert_int_equal(kept[i], 7); /* untouched */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_naive),        cmocka_unit_test(test_exact),
      cmocka_unit_test(test_per_head),     cmocka_unit_test(test_by_hand),
      cmocka_unit_test(test_ties_at_zero), cmocka_unit_test(test_whole_positions),
      cmocka_unit_test(test_close_scores), cmocka_unit_test(test_real_size),
      cmocka_unit_test(test_refuses),
  };
  return cmocka_run_group_tests_name("mask round", tests, NULL, NULL);
}
