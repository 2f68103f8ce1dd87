/* The oracle held against cases whose answer is known without it. One layer, so that K and V are
 * functions of token and position alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/subject.h"

enum { V = 97, N = 400, N_TURN = 330 };

typedef struct fixture {
  lk_tiny_spec spec;
  lk_oracle_weights weights;
  leank_token *tokens; /* [N] */
  uint8_t *kept;
  lk_oracle_options options; /* n_sink 64, n_recent 70 */
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  if (!f) return -1;
  f->spec = lk_shape(1);
  f->spec.n_layers = 1;
  lk_tiny_weights(&f->spec, &f->weights);
  f->tokens = lk_random_tokens(&f->spec, N, 1);
  f->kept = lk_random_kept(&f->spec, 2);
  f->options = (lk_oracle_options){.kept = f->kept, .n_sink = 64, .n_recent = 70};
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  lk_oracle_weights_free(&f->weights);
  free(f->tokens);
  free(f->kept);
  free(f);
  return 0;
}

/* A turn of N_TURN tokens, then decode steps: logits [N][V]. */
static double *run(const fixture *f, const lk_oracle_options *options) {
  lk_oracle *oracle = lk_oracle_open(&f->weights, options, N);
  double *logits =
      lk_oracle_run(oracle, V, f->tokens, LK_CALLS({LK_TURN, N_TURN}, {LK_DECODE, N - N_TURN}));
  lk_oracle_close(&oracle);
  return logits;
}

static void test_full_mask_and_dense_are_one(void **state) {
  fixture *f = *state;
  uint8_t *all = lk_all_kept(&f->spec);
  lk_oracle_options dense = f->options, full = f->options;
  dense.kept = NULL;
  full.kept = all;
  double *a = run(f, &dense), *b = run(f, &full), *c = run(f, &f->options);
  assert_memory_equal(a, b, (size_t)N * V * sizeof *a);
  assert_memory_equal(a, c, (size_t)N_TURN * V * sizeof *a); /* a first turn is dense */
  assert_true(lk_error_f64(c, a, (size_t)N * V) > 0.01);
  free(a);
  free(b);
  free(c);
  free(all);
}

static void test_middle_end_by_hand(void **state) {
  fixture *f = *state;
  lk_oracle *oracle = lk_oracle_open(&f->weights, &f->options, 1);
  static const size_t cases[][2] = {{0, 64},    {134, 64},  {197, 64},   {198, 128},
                                    {261, 128}, {262, 192}, {1000, 896}, {1030, 960}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(lk_oracle_middle_end(oracle, cases[i][0]), cases[i][1]);
  lk_oracle_close(&oracle);
  f->options.step = 1;
  oracle = lk_oracle_open(&f->weights, &f->options, 1);
  static const size_t slides[][2] = {{0, 64}, {134, 64}, {135, 65}, {198, 128}, {1000, 930}};
  for (size_t i = 0; i < sizeof slides / sizeof *slides; i++)
    assert_int_equal(lk_oracle_middle_end(oracle, slides[i][0]), slides[i][1]);
  lk_oracle_close(&oracle);
}

/* Heads that keep nothing, dropped: a dense model that cannot see the middle. */
static void test_dropped_middle_is_not_there(void **state) {
  fixture *f = *state;
  memset(f->kept, 0, f->spec.n_kv_heads * f->spec.head_dim);
  lk_oracle_options hiding = f->options;
  hiding.kept = NULL;
  hiding.fault = LK_FAULT_HIDE;
  hiding.hide_begin = 64;
  hiding.hide_end = 64 + (N - 134) / 64 * 64; /* as the last row sees it */
  double *a = run(f, &f->options), *b = run(f, &hiding);
  assert_true(lk_error_f64(a + (size_t)(N - 1) * V, b + (size_t)(N - 1) * V, V) < 1e-13);
  assert_true(lk_error_f64(a, b, (size_t)N * V) > 0.01); /* rows of the turn saw it */
  free(a);
  free(b);
}

/* Makes K a function of the token alone: no pair of channels rotates but the first, which is 0. */
static void stop_rotation(fixture *f) {
  const size_t d = f->spec.head_dim, in = f->spec.hidden;
  lk_oracle_layer *l = &f->weights.layers[0];
  f->weights.rope_theta = INFINITY;
  for (size_t h = 0; h < f->spec.n_kv_heads; h++)
    for (size_t c = 0; c < d; c += d / 2) {
      memset(l->k + (h * d + c) * in, 0, in * sizeof(double));
      l->k_bias[h * d + c] = 0;
    }
}

/* With equal keys in the middle the mean stands for them exactly. */
static void test_mean_of_equal_keys_is_exact(void **state) {
  fixture *f = *state;
  stop_rotation(f);
  for (size_t i = 64; i < N - 70; i++) f->tokens[i] = 5;
  lk_oracle_options dense = f->options, mean = f->options, drop = f->options;
  dense.kept = NULL;
  mean.policy = LEANK_POLICY_MEAN;
  mean.mean_compensation = true;
  memset(f->kept, 0, f->spec.head_dim); /* one head keeps nothing, the other some */
  double *a = run(f, &mean), *b = run(f, &dense), *c = run(f, &drop);
  assert_true(lk_error_f64(a, b, (size_t)N * V) < 1e-12);
  assert_true(lk_error_f64(c, b, (size_t)N * V) > 0.01);
  free(a);
  free(b);
  free(c);
}

/* A mask's logits by weights 0 and 1: the same sums, under every policy. */
static void check_weights_of_mask(fixture *f, leank_policy policy, bool mean_compensation,
                                  double tolerance) {
  const size_t d = f->spec.head_dim, n_heads = f->spec.n_kv_heads;
  double *weight = test_calloc(n_heads * d, sizeof *weight);
  lk_oracle_head *head = test_calloc(n_heads, sizeof *head);
  lk_oracle_options mask = f->options, weights = f->options;
  mask.policy = policy;
  mask.mean_compensation = mean_compensation;
  for (size_t h = 0; h < n_heads; h++) {
    size_t n_kept = 0;
    for (size_t c = 0; c < d; c++) {
      weight[h * d + c] = f->kept[h * d + c];
      n_kept += f->kept[h * d + c];
    }
    head[h] = mean_compensation ? LK_ORACLE_MEAN : LK_ORACLE_PLAIN;
    if (n_kept == 0) head[h] = policy == LEANK_POLICY_MEAN ? LK_ORACLE_MEAN : LK_ORACLE_ABSENT;
  }
  weights.kept = NULL;
  weights.weight = weight;
  weights.head = head;
  double *a = run(f, &mask), *b = run(f, &weights);
  assert_true(lk_error_f64(b, a, (size_t)N * V) < tolerance);
  weight[0] = weight[d] = 0.5;
  double *c = run(f, &weights);
  assert_true(lk_error_f64(c, b, (size_t)N * V) > 1e-3);
  free(a);
  free(b);
  free(c);
  test_free(weight);
  test_free(head);
}

static void test_weights_0_and_1_are_a_mask(void **state) {
  fixture *f = *state;
  memset(f->kept, 0, f->spec.head_dim); /* one head keeps nothing, the other some */
  check_weights_of_mask(f, LEANK_POLICY_DROP, false, 1e-12);
  check_weights_of_mask(f, LEANK_POLICY_MEAN, false, 1e-12);
  check_weights_of_mask(f, LEANK_POLICY_DROP, true, 1e-12);
}

/* A turn after T0 tokens sees what a decode step at T0 would not, and the reverse. */
static void test_turn_and_decode_see_different_splits(void **state) {
  fixture *f = *state;
  const lk_call turn[] = {{LK_TURN, 197}, {LK_TURN, 1}}, step[] = {{LK_TURN, 197}, {LK_DECODE, 1}};
  const lk_call early[] = {{LK_TURN, 196}, {LK_TURN, 1}},
                early_step[] = {{LK_TURN, 196}, {LK_DECODE, 1}};
  const lk_call *histories[] = {turn, step, early, early_step};
  double *logits[4];
  for (size_t i = 0; i < 4; i++) {
    lk_oracle *oracle = lk_oracle_open(&f->weights, &f->options, N);
    logits[i] = lk_oracle_run(oracle, V, f->tokens, histories[i], 2);
    lk_oracle_close(&oracle);
  }
  assert_true(lk_error_f64(logits[0] + (size_t)197 * V, logits[1] + (size_t)197 * V, V) > 0.01);
  assert_memory_equal(logits[2], logits[3], (size_t)197 * V * sizeof(double));
  for (size_t i = 0; i < 4; i++) free(logits[i]);
}

/* Attention by hand: two tokens, identity-like weights. */
static void test_two_tokens_by_hand(void **state) {
  (void)state;
  lk_oracle_weights w = {.n_layers = 1,
                         .n_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = 2,
                         .hidden = 2,
                         .ffn = 2,
                         .n_vocab = 2,
                         .norm_eps = 0,
                         .rope_theta = 10000};
  lk_oracle_weights_alloc(&w);
  lk_oracle_layer *l = &w.layers[0];
  const double embed[4] = {1, 1, 1, -1}, identity[4] = {1, 0, 0, 1}, ones[2] = {1, 1};
  memcpy(w.embed, embed, sizeof embed);
  memcpy(w.output, identity, sizeof identity);
  memcpy(w.out_norm, ones, sizeof ones);
  memcpy(l->attn_norm, ones, sizeof ones);
  memcpy(l->ffn_norm, ones, sizeof ones);
  memcpy(l->q, identity, sizeof identity);
  memcpy(l->k, identity, sizeof identity);
  memcpy(l->v, identity, sizeof identity);
  memcpy(l->o, identity, sizeof identity);
  const lk_oracle_options options = {.n_sink = 64, .n_recent = 64};
  lk_oracle *oracle = lk_oracle_open(&w, &options, 2);
  const leank_token tokens[] = {0, 1};
  double got[4];
  lk_oracle_feed(oracle, LEANK_FEED_TURN, tokens, 2, got, NULL);
  /* q of token 1 is (1, -1) turned by 1 rad, k0 = (1, 1), k1 = q; the norms are all 1. */
  const double q0 = cos(1) + sin(1), q1 = sin(1) - cos(1);
  const double a = exp((q0 + q1) / sqrt(2)), b = exp((q0 * q0 + q1 * q1) / sqrt(2));
  const double x0 = 1 + 1, x1 = -1 + (a - b) / (a + b), size = sqrt((x0 * x0 + x1 * x1) / 2);
  assert_true(fabs(got[0] - 1) < 1e-14 && fabs(got[1] - 1) < 1e-14);
  assert_true(fabs(got[2] - x0 / size) < 1e-14 && fabs(got[3] - x1 / size) < 1e-14);
  lk_oracle_close(&oracle);
  lk_oracle_weights_free(&w);
}

#define ORACLE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      ORACLE_TEST(test_full_mask_and_dense_are_one),
      ORACLE_TEST(test_middle_end_by_hand),
      ORACLE_TEST(test_dropped_middle_is_not_there),
      ORACLE_TEST(test_mean_of_equal_keys_is_exact),
      ORACLE_TEST(test_weights_0_and_1_are_a_mask),
      ORACLE_TEST(test_turn_and_decode_see_different_splits),
      cmocka_unit_test(test_two_tokens_by_hand),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
