/* Deployment semantics of sessions against the float64 oracle, on tiny random models: what a row
 * sees at every length, with every kind of mask, under every policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu_features.h"
#include "support/subject.h"

enum { V = 97, P = LEANK_PAGE_TOKENS };

/* n_sink = n_recent = 64, f32, all kinds of kept counts. */
static void check(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                  const char *what, double tolerance, const lk_call *calls, size_t n_calls) {
  const size_t n_rows = lk_calls_rows(calls, n_calls);
  float *got = lk_run_fresh(c, setup, tokens, calls, n_calls);
  double *want = lk_oracle_fresh(c, setup, tokens, calls, n_calls);
  lk_assert_close(got, want, n_rows, c->spec.n_vocab, tolerance, what);
  free(got);
  free(want);
}

/* ---- shapes and lengths ---- */

static void test_every_shape_matches_the_oracle(void **state) {
  (void)state;
  for (size_t i = 0; i < LK_N_SHAPES; i++) {
    const lk_tiny_spec spec = lk_shape(i);
    lk_case c;
    lk_case_open(&c, &spec);
    leank_token *tokens = lk_random_tokens(&spec, 420, i);
    for (uint64_t seed = 0; seed < 3; seed++) {
      uint8_t *kept = lk_random_kept(&spec, seed);
      const lk_setup setup = lk_small_setup(kept, 420);
      char what[64];
      snprintf(what, sizeof what, "shape %zu, mask %d", i, (int)seed);
      check(&c, &setup, tokens, what, LK_TOLERANCE_F32,
            LK_CALLS({LK_TURN, 150}, {LK_DECODE, 60}, {LK_SCORE, 130}, {LK_TURN, 70},
                     {LK_DECODE, 10}));
      free(kept);
    }
    free(tokens);
    lk_case_close(&c);
  }
}

/* A turn of T tokens, then three decode steps, for T around every boundary. */
static void test_every_length_of_a_first_turn(void **state) {
  (void)state;
  static const size_t lengths[] = {1,   2,   63,  64,  65,  127, 128, 129, 189, 190,
                                   191, 192, 193, 254, 255, 256, 257, 319, 320, 321};
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 324, 1);
  uint8_t *kept = lk_random_kept(&spec, 2);
  const lk_setup setup = lk_small_setup(kept, 324);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    char what[64];
    snprintf(what, sizeof what, "turn of %zu tokens", lengths[i]);
    check(&c, &setup, tokens, what, LK_TOLERANCE_F32,
          LK_CALLS({LK_TURN, lengths[i]}, {LK_DECODE, 3}));
  }
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

static void test_decoding_from_the_first_token_across_pages(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 400, 5);
  uint8_t *kept = lk_random_kept(&spec, 1);
  const lk_setup setup = lk_small_setup(kept, 400);
  check(&c, &setup, tokens, "decode 400", LK_TOLERANCE_F32, LK_CALLS({LK_DECODE, 400}));
  check(&c, &setup, tokens, "score 400", LK_TOLERANCE_F32, LK_CALLS({LK_SCORE, 400}));
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

static void test_default_sink_and_window(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 1100, 6);
  uint8_t *kept = lk_random_kept(&spec, 1);
  lk_setup setup = lk_small_setup(kept, 1100);
  setup.n_sink = 128;
  setup.n_recent = 768;
  check(&c, &setup, tokens, "128 + 768", LK_TOLERANCE_F32,
        LK_CALLS({LK_TURN, 940}, {LK_DECODE, 50}, {LK_SCORE, 60}, {LK_TURN, 40}, {LK_DECODE, 10}));
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

static void test_every_sink_and_window(void **state) {
  (void)state;
  static const size_t sinks[] = {0, 64, 192}, recents[] = {0, 1, 63, 65, 100, 128};
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 420, 7);
  uint8_t *kept = lk_random_kept(&spec, 3);
  for (size_t i = 0; i < sizeof sinks / sizeof *sinks; i++)
    for (size_t j = 0; j < sizeof recents / sizeof *recents; j++) {
      lk_setup setup = lk_small_setup(kept, 420);
      setup.n_sink = sinks[i];
      setup.n_recent = recents[j];
      char what[64];
      snprintf(what, sizeof what, "n_sink %zu, n_recent %zu", sinks[i], recents[j]);
      check(&c, &setup, tokens, what, LK_TOLERANCE_F32,
            LK_CALLS({LK_TURN, 250}, {LK_DECODE, 70}, {LK_SCORE, 70}, {LK_TURN, 30}));
    }
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- policies ---- */

static void check_policy(const lk_case *c, uint64_t mask_seed, leank_policy policy,
                         bool mean_compensation, const char *what) {
  leank_token *tokens = lk_random_tokens(&c->spec, 500, 11);
  uint8_t *kept = lk_random_kept(&c->spec, mask_seed);
  lk_setup setup = lk_small_setup(kept, 500);
  setup.policy = policy;
  setup.mean_compensation = mean_compensation;
  const lk_call calls[] = {
      {LK_TURN, 300}, {LK_DECODE, 70}, {LK_SCORE, 80}, {LK_TURN, 40}, {LK_DECODE, 5}};
  check(c, &setup, tokens, what, LK_TOLERANCE_F32, calls, 5);
  /* Another policy must be another result, or this says nothing. */
  lk_setup other = setup;
  other.policy = LEANK_POLICY_DROP;
  other.mean_compensation = false;
  double *want = lk_oracle_fresh(c, &setup, tokens, calls, 5);
  double *plain = lk_oracle_fresh(c, &other, tokens, calls, 5);
  lk_assert_differ(plain, want, lk_calls_rows(calls, 5) * V, 100 * LK_TOLERANCE_F32, what);
  free(want);
  free(plain);
  free(kept);
  free(tokens);
}

static void test_policy_mean_and_mean_compensation(void **state) {
  (void)state;
  for (size_t i = 0; i < LK_N_SHAPES; i++) {
    const lk_tiny_spec spec = lk_shape(i);
    lk_case c;
    lk_case_open(&c, &spec);
    /* Shape 2 has one head a layer: seed 0 gives kept counts 0 and 1, seed 2 an odd one and D. */
    check_policy(&c, 0, LEANK_POLICY_MEAN, false, "policy mean");
    check_policy(&c, i == 2 ? 1 : 2, LEANK_POLICY_DROP, true, "mean compensation");
    check_policy(&c, 0, LEANK_POLICY_MEAN, true, "policy mean and compensation");
    lk_case_close(&c);
  }
}

/* Heads that keep nothing and policy drop: not the middle with logit 0. */
static void test_dropped_heads_do_not_see_the_middle_with_logit_zero(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 330, 12);
  uint8_t *kept = lk_random_kept(&spec, 0);
  const lk_setup setup = lk_small_setup(kept, 330);
  const lk_call calls[] = {{LK_TURN, 300}, {LK_DECODE, 30}};
  check(&c, &setup, tokens, "drop", LK_TOLERANCE_F32, calls, 2);
  double *want = lk_oracle_fresh(&c, &setup, tokens, calls, 2);
  lk_oracle *faulty = lk_setup_faulty(&c, &setup, LK_FAULT_ZERO_LOGIT, 0, 0);
  double *zero = lk_oracle_run(faulty, V, tokens, calls, 2);
  lk_assert_differ(zero, want, 330 * V, 100 * LK_TOLERANCE_F32, "logit 0");
  free(zero);
  free(want);
  lk_oracle_close(&faulty);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- equal bits ---- */

static const leank_kv_type all_types[] = {LEANK_KV_F32, LEANK_KV_BF16, LEANK_KV_Q8};
static const char *const type_names[] = {"f32", "bf16", "q8"};

static void test_any_prefill_chunk_gives_the_same_bits(void **state) {
  (void)state;
  static const size_t chunks[] = {2048, 1, 7, 64, 100};
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 560, 21);
  uint8_t *kept = lk_random_kept(&spec, 2);
  const lk_call calls[] = {{LK_TURN, 310}, {LK_SCORE, 130}, {LK_TURN, 100}, {LK_DECODE, 3}};
  const size_t n_rows = lk_calls_rows(calls, 4);
  for (size_t t = 0; t < 3; t++) {
    float *first = NULL;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
      lk_setup setup = lk_small_setup(kept, 560);
      setup.kv_type = all_types[t];
      setup.prefill_chunk = chunks[i];
      setup.policy = LEANK_POLICY_MEAN;
      setup.mean_compensation = true;
      float *got = lk_run_fresh(&c, &setup, tokens, calls, 4);
      char what[64];
      snprintf(what, sizeof what, "%s, chunks of %zu", type_names[t], chunks[i]);
      if (first)
        lk_assert_same(got, first, n_rows, V, what);
      else
        first = got;
      if (first != got) free(got);
    }
    free(first);
  }
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* Up to n_sink + n_recent + P - 1 tokens there is no middle, so no mask can matter. */
static void check_short_equals_dense(const lk_case *c, leank_kv_type kv_type,
                                     leank_cpu_level level) {
  enum { N_LAST = 64 + 64 + P - 1 };
  leank_token *tokens = lk_random_tokens(&c->spec, N_LAST + 1, 22);
  uint8_t *kept = lk_random_kept(&c->spec, 0);
  lk_setup lean = lk_small_setup(kept, N_LAST + 1);
  lean.kv_type = kv_type;
  lean.cpu = level;
  lean.policy = LEANK_POLICY_MEAN;
  lean.mean_compensation = true;
  lk_setup dense = lean;
  dense.kept = NULL;
  const lk_call calls[] = {
      {LK_TURN, 70}, {LK_SCORE, 65}, {LK_TURN, 20}, {LK_DECODE, 36}, {LK_DECODE, 1}};
  float *a = lk_run_fresh(c, &lean, tokens, calls, 5);
  float *b = lk_run_fresh(c, &dense, tokens, calls, 5);
  lk_assert_same(a, b, N_LAST, V, "shorter than n_sink + n_recent + P");
  assert_false(lk_same_bits(a + N_LAST * V, b + N_LAST * V, V)); /* one more has a middle */
  free(a);
  free(b);
  free(kept);
  free(tokens);
}

static void test_short_sequences_equal_dense_bit_for_bit(void **state) {
  (void)state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n_levels = lk_cpu_levels(levels);
  const lk_tiny_spec spec = lk_shape(1);
  lk_case c;
  lk_case_open(&c, &spec);
  for (size_t i = 0; i < n_levels; i++)
    for (size_t t = 0; t < 3; t++) check_short_equals_dense(&c, all_types[t], levels[i]);
  lk_case_close(&c);
}

static void check_full_mask_equals_dense(const lk_case *c, leank_kv_type kv_type,
                                         leank_cpu_level level, leank_policy policy) {
  leank_token *tokens = lk_random_tokens(&c->spec, 480, 23);
  uint8_t *kept = lk_all_kept(&c->spec);
  lk_setup lean = lk_small_setup(kept, 480);
  lean.kv_type = kv_type;
  lean.cpu = level;
  lean.policy = policy;
  lk_setup dense = lean;
  dense.kept = NULL;
  const lk_call calls[] = {
      {LK_TURN, 290}, {LK_DECODE, 35}, {LK_SCORE, 80}, {LK_TURN, 70}, {LK_DECODE, 5}};
  float *a = lk_run_fresh(c, &lean, tokens, calls, 5);
  float *b = lk_run_fresh(c, &dense, tokens, calls, 5);
  lk_assert_same(a, b, 480, V, "every channel kept");
  free(a);
  free(b);
  free(kept);
  free(tokens);
}

static void test_mask_that_keeps_all_equals_dense_bit_for_bit(void **state) {
  (void)state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n_levels = lk_cpu_levels(levels);
  for (size_t shape = 0; shape < 3; shape++) {
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    for (size_t t = 0; t < 2; t++) { /* int8 rounds what it keeps */
      check_full_mask_equals_dense(&c, all_types[t], LEANK_CPU_BEST, LEANK_POLICY_MEAN);
      for (size_t i = 0; i < n_levels; i++)
        check_full_mask_equals_dense(&c, all_types[t], levels[i], LEANK_POLICY_DROP);
    }
    lk_case_close(&c);
  }
}

/* ---- score ---- */

static void test_scoring_is_decoding(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 450, 31);
  uint8_t *kept = lk_random_kept(&spec, 2);
  const lk_setup setup = lk_small_setup(kept, 450);
  float *decoded = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_TURN, 150}, {LK_DECODE, 300}));
  float *scored = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_TURN, 150}, {LK_SCORE, 300}));
  float *pieces = lk_run_fresh(&c, &setup, tokens,
                               LK_CALLS({LK_TURN, 150}, {LK_SCORE, 1}, {LK_SCORE, 41},
                                        {LK_SCORE, 64}, {LK_SCORE, 130}, {LK_SCORE, 64}));
  double *want = calloc(450 * V, sizeof *want);
  assert_non_null(want);
  for (size_t i = 0; i < 450 * V; i++) want[i] = (double)decoded[i];
  lk_assert_close(scored, want, 450, V, LK_TOLERANCE_F32, "score against decode");
  lk_assert_same(pieces, scored, 450, V, "score in pieces");
  free(want);
  free(decoded);
  free(scored);
  free(pieces);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* A dense session has no split: a turn and a score are the same function. */
static void test_dense_turn_score_and_decode_agree(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 300, 32);
  const lk_setup setup = lk_small_setup(NULL, 300);
  check(&c, &setup, tokens, "dense turn", LK_TOLERANCE_F32, LK_CALLS({LK_TURN, 300}));
  check(&c, &setup, tokens, "dense score", LK_TOLERANCE_F32, LK_CALLS({LK_SCORE, 300}));
  check(&c, &setup, tokens, "dense decode", LK_TOLERANCE_F32, LK_CALLS({LK_DECODE, 300}));
  free(tokens);
  lk_case_close(&c);
}

/* ---- channel order ---- */

/* The mask with its channels moved as if half order were pairs order. */
static uint8_t *misread(const lk_tiny_spec *spec, const uint8_t *kept) {
  const size_t d = spec->head_dim, n = spec->n_layers * spec->n_kv_heads * d;
  uint8_t *wrong = calloc(n, 1);
  assert_non_null(wrong);
  for (size_t i = 0; i < n; i++) {
    const size_t c = i % d;
    wrong[i] = kept[i - c + c / 2 + (c % 2) * (d / 2)];
  }
  return wrong;
}

static void test_wrong_channel_order_is_noticed(void **state) {
  (void)state;
  for (size_t shape = 0; shape < 2; shape++) { /* llama: pairs; qwen2: half */
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    assert_int_equal(leank_model_get_info(c.model)->order,
                     shape == 0 ? LEANK_ORDER_PAIRS : LEANK_ORDER_HALF);
    leank_token *tokens = lk_random_tokens(&spec, 340, 41);
    uint8_t *kept = lk_random_kept(&spec, 5);
    uint8_t *wrong = misread(&spec, kept);
    const lk_setup right_setup = lk_small_setup(kept, 340),
                   wrong_setup = lk_small_setup(wrong, 340);
    const lk_call calls[] = {{LK_TURN, 260}, {LK_DECODE, 40}, {LK_SCORE, 40}};
    check(&c, &right_setup, tokens, "half order", LK_TOLERANCE_F32, calls, 3);
    float *got = lk_run_fresh(&c, &wrong_setup, tokens, calls, 3);
    double *want = lk_oracle_fresh(&c, &right_setup, tokens, calls, 3);
    assert_true(lk_error(got, want, 340 * V) > 1000 * LK_TOLERANCE_F32);
    free(want);
    free(got);
    free(wrong);
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

/* ---- types ---- */

static void test_bf16_cache_filled_by_decoding(void **state) {
  (void)state;
  leank_cpu_level levels[LK_N_CPU_LEVELS];
  const size_t n_levels = lk_cpu_levels(levels);
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 300, 51);
  uint8_t *kept = lk_random_kept(&spec, 2);
  /* Of an architecture's levels the fourth, which rounds to bf16, is left out. */
  for (size_t i = 0; i < 3 && i < n_levels; i++) {
    lk_setup setup = lk_small_setup(kept, 300);
    setup.kv_type = LEANK_KV_BF16;
    setup.cpu = levels[i];
    setup.policy = LEANK_POLICY_MEAN;
    setup.mean_compensation = true;
    check(&c, &setup, tokens, lk_cpu_level_name(levels[i]), LK_TOLERANCE_BF16_CACHE,
          LK_CALLS({LK_DECODE, 300}));
  }
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

static void test_bf16_prefill(void **state) {
  (void)state;
  for (size_t shape = 0; shape < LK_N_SHAPES; shape++) {
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    leank_token *tokens = lk_random_tokens(&spec, 420, 52);
    uint8_t *kept = lk_random_kept(&spec, 3);
    lk_setup setup = lk_small_setup(kept, 420);
    setup.kv_type = LEANK_KV_BF16;
    const lk_call calls[] = {{LK_TURN, 250}, {LK_DECODE, 70}, {LK_SCORE, 60}, {LK_TURN, 40}};
    float *got = lk_run_fresh(&c, &setup, tokens, calls, 4);
    double *want = lk_oracle_fresh(&c, &setup, tokens, calls, 4);
    const double error = lk_rms_error(got, want, 420 * V);
    if (getenv("LEANK_TEST_VERBOSE")) print_message("  bf16 shape %zu: rms %.3g\n", shape, error);
    if (!(error <= LK_TOLERANCE_BF16_RMS)) fail_msg("shape %zu: rms error %.3g", shape, error);
    free(want);
    free(got);
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

static void test_weight_types_and_tied_output(void **state) {
  (void)state;
  static const lk_dtype types[] = {LK_F16, LK_BF16};
  for (size_t i = 0; i < 2; i++) {
    lk_tiny_spec spec = lk_shape(i);
    spec.type = types[i];
    spec.tied = true;
    lk_case c;
    lk_case_open(&c, &spec);
    assert_true(leank_model_get_info(c.model)->tied_output);
    leank_token *tokens = lk_random_tokens(&spec, 300, 53);
    uint8_t *kept = lk_random_kept(&spec, 4);
    const lk_setup setup = lk_small_setup(kept, 300);
    check(&c, &setup, tokens, lk_dtype_name(types[i]), LK_TOLERANCE_F32,
          LK_CALLS({LK_TURN, 230}, {LK_DECODE, 30}, {LK_SCORE, 40}));
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

/* ---- what a feed tells beside logits ---- */

typedef struct hidden_sink {
  float *rows;
  size_t n_rows, hidden;
} hidden_sink;

static void on_hidden(void *user, size_t first_row, size_t n_rows, const float *hidden) {
  hidden_sink *s = user;
  assert_int_equal(first_row, s->n_rows);
  memcpy(s->rows + first_row * s->hidden, hidden, n_rows * s->hidden * sizeof(float));
  s->n_rows += n_rows;
}

static double sum_error(const double *got, const double *want, size_t n) {
  double worst = 0;
  for (size_t i = 0; i < n; i++) {
    const double e = (got[i] > want[i] ? got[i] - want[i] : want[i] - got[i]) / want[i];
    if (!(e <= worst)) worst = e;
  }
  return worst;
}

static void check_hidden_and_stats(lk_subject *s, lk_oracle *oracle, leank_feed_mode mode,
                                   const leank_token *tokens, size_t n) {
  const lk_tiny_spec *spec = &s->c->spec;
  const size_t n_stats = spec->n_layers * spec->n_kv_heads * spec->head_dim;
  double *sums = calloc(6 * n_stats, sizeof *sums), *want = calloc(n * spec->hidden, sizeof *want);
  hidden_sink to = {calloc(n * spec->hidden, sizeof(float)), 0, spec->hidden};
  assert_non_null(sums);
  assert_non_null(want);
  assert_non_null(to.rows);
  leank_head_stats got_stats = {sums, sums + n_stats, sums + 2 * n_stats, 0};
  leank_head_stats want_stats = {sums + 3 * n_stats, sums + 4 * n_stats, sums + 5 * n_stats, 0};
  leank_feed_options options;
  leank_error err = {0};
  leank_feed_options_default(&options);
  options.mode = mode;
  options.on_hidden = on_hidden;
  options.stats = &got_stats;
  options.user = &to;
  lk_assert_ok(leank_session_feed(s->session, 0, tokens, n, &options, &err), &err);
  lk_oracle_set_stats(oracle, &want_stats);
  lk_oracle_feed(oracle, mode, tokens, n, NULL, want);
  assert_int_equal(to.n_rows, n);
  lk_assert_close(to.rows, want, n, spec->hidden, LK_TOLERANCE_F32, "hidden states");
  assert_int_equal(got_stats.n_rows, n);
  assert_true(sum_error(sums, sums + 3 * n_stats, 3 * n_stats) < LK_TOLERANCE_F32);
  free(to.rows);
  free(want);
  free(sums);
}

static void test_hidden_states_and_head_statistics(void **state) {
  (void)state;
  for (size_t shape = 0; shape < 2; shape++) {
    const lk_tiny_spec spec = lk_shape(shape);
    lk_case c;
    lk_case_open(&c, &spec);
    leank_token *tokens = lk_random_tokens(&spec, 300, 61);
    uint8_t *kept = lk_random_kept(&spec, 2);
    const lk_setup setup = lk_small_setup(kept, 300);
    lk_subject s;
    lk_subject_open(&s, &c, &setup);
    lk_oracle *oracle = lk_setup_oracle(&c, &setup);
    check_hidden_and_stats(&s, oracle, LEANK_FEED_TURN, tokens, 210);
    check_hidden_and_stats(&s, oracle, LEANK_FEED_SCORE, tokens + 210, 90);
    lk_oracle_close(&oracle);
    lk_subject_close(&s);
    free(kept);
    free(tokens);
    lk_case_close(&c);
  }
}

/* Arrays that are NULL are skipped; the others are filled all the same. */
static void test_each_statistic_alone(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  const size_t n = spec.n_layers * spec.n_kv_heads * spec.head_dim;
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 40, 62);
  const lk_setup setup = lk_small_setup(NULL, 300);
  for (size_t which = 0; which < 3; which++) {
    double *all = calloc(6 * n, sizeof *all), *got[3] = {0}, *want[3] = {0};
    assert_non_null(all);
    got[which] = all;
    want[which] = all + 3 * n;
    leank_head_stats got_stats = {got[0], got[1], got[2], 0};
    leank_head_stats want_stats = {want[0], want[1], want[2], 0};
    leank_feed_options options;
    leank_error err = {0};
    leank_feed_options_default(&options);
    options.stats = &got_stats;
    lk_subject s;
    lk_subject_open(&s, &c, &setup);
    lk_oracle *oracle = lk_setup_oracle(&c, &setup);
    lk_oracle_set_stats(oracle, &want_stats);
    lk_assert_ok(leank_session_feed(s.session, 0, tokens, 40, &options, &err), &err);
    lk_oracle_feed(oracle, LEANK_FEED_TURN, tokens, 40, NULL, NULL);
    if (!(sum_error(all, all + 3 * n, n) < LK_TOLERANCE_F32))
      fail_msg("statistic %zu alone is not filled", which);
    lk_oracle_close(&oracle);
    lk_subject_close(&s);
    free(all);
  }
  free(tokens);
  lk_case_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_shape_matches_the_oracle),
      cmocka_unit_test(test_every_length_of_a_first_turn),
      cmocka_unit_test(test_decoding_from_the_first_token_across_pages),
      cmocka_unit_test(test_default_sink_and_window),
      cmocka_unit_test(test_every_sink_and_window),
      cmocka_unit_test(test_policy_mean_and_mean_compensation),
      cmocka_unit_test(test_dropped_heads_do_not_see_the_middle_with_logit_zero),
      cmocka_unit_test(test_any_prefill_chunk_gives_the_same_bits),
      cmocka_unit_test(test_short_sequences_equal_dense_bit_for_bit),
      cmocka_unit_test(test_mask_that_keeps_all_equals_dense_bit_for_bit),
      cmocka_unit_test(test_scoring_is_decoding),
      cmocka_unit_test(test_dense_turn_score_and_decode_agree),
      cmocka_unit_test(test_wrong_channel_order_is_noticed),
      cmocka_unit_test(test_bf16_cache_filled_by_decoding),
      cmocka_unit_test(test_bf16_prefill),
      cmocka_unit_test(test_weight_types_and_tied_output),
      cmocka_unit_test(test_hidden_states_and_head_statistics),
      cmocka_unit_test(test_each_statistic_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
