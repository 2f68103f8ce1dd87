/* Sessions whose middle is int8 against the float64 oracle that rounds as they do, at every CPU
 * level; and packing of int8 pages from int8 pages. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cpu/cpu_features.h"
#include "support/subject.h"

enum { V = 97 };

static lk_setup q8_setup(const uint8_t *kept, size_t n_ctx) {
  lk_setup setup = lk_means_setup(kept, n_ctx);
  setup.kv_type = LEANK_KV_Q8;
  return setup;
}

/* What the rounding of the middle changes: that an oracle without it gives, against one with it. */
static double effect_of_rounding(const lk_case *c, const lk_setup *setup, const double *want,
                                 const leank_token *tokens, const lk_call *calls, size_t n_calls) {
  lk_setup bf16 = *setup;
  bf16.kv_type = LEANK_KV_BF16;
  const size_t n = lk_calls_rows(calls, n_calls) * V;
  double *other = lk_oracle_fresh(c, &bf16, tokens, calls, n_calls), sum = 0, scale = 0;
  for (size_t i = 0; i < n; i++) {
    sum += (other[i] - want[i]) * (other[i] - want[i]);
    scale += want[i] * want[i];
  }
  free(other);
  return sqrt(sum / scale);
}

/* Decoding without bf16 arithmetic: nearer to the right rounding by far than to none. */
static void test_int8_cache_filled_by_decoding(void **state) {
  (void)state;
  static const leank_cpu_level exact[] = {LEANK_CPU_C, LEANK_CPU_AVX2, LEANK_CPU_AVX512};
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n_levels = lk_cpu_levels(levels);
  const lk_call calls[] = {{LK_DECODE, 420}};
  for (size_t shape = 0; shape < LK_N_SHAPES; shape++) {
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    leank_token *tokens = lk_random_tokens(&spec, 420, 71);
    uint8_t *kept = lk_random_kept(&spec, 2 + shape);
    lk_setup setup = q8_setup(kept, 420);
    double *want = lk_oracle_fresh(&c, &setup, tokens, calls, 1);
    const double effect = effect_of_rounding(&c, &setup, want, tokens, calls, 1);
    for (size_t i = 0; i < 3 && i < n_levels; i++) {
      setup.cpu = exact[i];
      float *got = lk_run_fresh(&c, &setup, tokens, calls, 1);
      const double error = lk_rms_error(got, want, 420 * V);
      if (getenv("LEANK_TEST_VERBOSE"))
        print_message("  shape %zu, %s: rms %.3g, effect of int8 %.3g\n", shape,
                      lk_cpu_level_name(exact[i]), error, effect);
      lk_assert_close(got, want, 420, V, LK_TOLERANCE_INT8_CACHE, lk_cpu_level_name(exact[i]));
      if (!(error < effect / 4))
        fail_msg("shape %zu: rms error %.3g, int8 itself changes %.3g", shape, error, effect);
      free(got);
    }
    free(want);
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

/* Turns, scores and steps in bf16 arithmetic, at every level. */
static void test_int8_prefill_and_decoding(void **state) {
  (void)state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n_levels = lk_cpu_levels(levels);
  const lk_call calls[] = {{LK_TURN, 250}, {LK_DECODE, 70}, {LK_SCORE, 60}, {LK_TURN, 140}};
  for (size_t shape = 0; shape < LK_N_SHAPES; shape++) {
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    leank_token *tokens = lk_random_tokens(&spec, 520, 72);
    uint8_t *kept = lk_random_kept(&spec, 3);
    lk_setup setup = q8_setup(kept, 520);
    double *want = lk_oracle_fresh(&c, &setup, tokens, calls, 4);
    for (size_t i = 0; i < n_levels; i++) {
      setup.cpu = levels[i];
      float *got = lk_run_fresh(&c, &setup, tokens, calls, 4);
      const double error = lk_rms_error(got, want, 520 * V);
      if (getenv("LEANK_TEST_VERBOSE"))
        print_message("  shape %zu, %s: rms %.3g\n", shape, lk_cpu_level_name(levels[i]), error);
      if (!(error <= LK_TOLERANCE_BF16_RMS))
        fail_msg("shape %zu, %s: rms error %.3g", shape, lk_cpu_level_name(levels[i]), error);
      free(got);
    }
    free(want);
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

/* From int8 pages of a mask that keeps more, nothing is rounded again: the same bits as packing at
 * once. */
static void test_repacking_is_packing(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  const size_t d = spec.head_dim, n = spec.n_layers * spec.n_kv_heads * d;
  leank_token *tokens = lk_random_tokens(&spec, 400, 73);
  uint8_t *more = calloc(n, 1), *less = calloc(n, 1);
  assert_non_null(more);
  assert_non_null(less);
  for (size_t i = 0; i < n; i++) {
    more[i] = i % 3 != 0;
    less[i] = i % 3 == 1 && i / d != 1; /* the second head keeps nothing */
  }
  lk_setup dense = q8_setup(NULL, 400), rich = q8_setup(more, 400), poor = q8_setup(less, 400);
  lk_subject from, by_way, to, at_once;
  lk_subject_open(&from, &c, &dense);
  lk_subject_open(&by_way, &c, &rich);
  lk_subject_open(&to, &c, &poor);
  lk_subject_open(&at_once, &c, &poor);
  free(lk_subject_run(&from, 0, tokens, LK_CALLS({LK_TURN, 330})));
  leank_error err = {0};
  lk_assert_ok(leank_session_pack_from(by_way.session, 0, from.session, 0, &err), &err);
  lk_assert_ok(leank_session_pack_from(to.session, 0, by_way.session, 0, &err), &err);
  lk_assert_ok(leank_session_pack_from(at_once.session, 0, from.session, 0, &err), &err);
  float *a = lk_subject_run(&to, 0, tokens + 330, LK_CALLS({LK_DECODE, 40}, {LK_TURN, 30}));
  float *b = lk_subject_run(&at_once, 0, tokens + 330, LK_CALLS({LK_DECODE, 40}, {LK_TURN, 30}));
  lk_assert_same(a, b, 70, V, "packed by way of a richer mask");
  lk_subject_close(&from);
  lk_subject_close(&by_way);
  lk_subject_close(&to);
  lk_subject_close(&at_once);
  free(a);
  free(b);
  free(more);
  free(less);
  free(tokens);
  lk_case_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_int8_cache_filled_by_decoding),
      cmocka_unit_test(test_int8_prefill_and_decoding),
      cmocka_unit_test(test_repacking_is_packing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
