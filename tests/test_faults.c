/* One test for each known fault of the method's published code that concerns deployment: each
 * shows that the fault is not here, and that it would be noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "support/subject.h"

enum { V = 97, P = LEANK_PAGE_TOKENS };

/* Rows that follow the tokens of `context`, under another setup or with a fault. Rows of a first
 * turn depend on no mask, so one context serves all. */
static double *follow(const lk_case *c, const lk_oracle *context, const lk_setup *setup,
                      lk_oracle_fault fault, size_t hide_begin, size_t hide_end,
                      const leank_token *tokens, size_t n) {
  lk_oracle *oracle = lk_setup_faulty(c, setup, fault, hide_begin, hide_end);
  lk_oracle_copy(oracle, context);
  double *logits = lk_oracle_run(oracle, c->spec.n_vocab, tokens, LK_CALLS({LK_DECODE, n}));
  lk_oracle_close(&oracle);
  return logits;
}

static lk_oracle *context_of(const lk_case *c, const lk_setup *setup, const leank_token *tokens,
                             size_t n) {
  lk_oracle *oracle = lk_setup_oracle(c, setup);
  lk_oracle_feed(oracle, LEANK_FEED_TURN, tokens, n, NULL, NULL);
  return oracle;
}

/* ---- 1: heads of larger groups never computed ---- */

/* Groups of heads by kept count, of 1, 3, 2 and 2 heads, in mixed order. */
static uint8_t *grouped_kept(const lk_tiny_spec *spec) {
  static const size_t counts[8] = {8, 4, 16, 8, 2, 4, 8, 2};
  uint8_t *kept = calloc(spec->n_layers * 8 * spec->head_dim, 1);
  assert_non_null(kept);
  for (size_t h = 0; h < spec->n_layers * 8; h++)
    for (size_t i = 0; i < counts[(h + h / 8) % 8]; i++)
      kept[h * spec->head_dim + (i * 5 + h) % spec->head_dim] = 1;
  return kept;
}

static void test_fault_1_every_head_of_every_group_is_computed(void **state) {
  (void)state;
  enum { N = 300, ON = 20 };
  lk_tiny_spec spec = lk_shape(0);
  spec.n_heads = spec.n_kv_heads = 8;
  spec.head_dim = 16;
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, N + ON, 1);
  uint8_t *kept = grouped_kept(&spec);
  const lk_setup setup = lk_small_setup(kept, N + ON);
  float *got = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_TURN, N}, {LK_DECODE, ON}));
  lk_oracle *context = context_of(&c, &setup, tokens, N);
  double *want = follow(&c, context, &setup, LK_FAULT_NONE, 0, 0, tokens + N, ON);
  lk_assert_close(got + (size_t)N * V, want, ON, V, LK_TOLERANCE_F32, "four groups of heads");
  for (size_t h = 0; h < spec.n_layers * 8; h++) { /* the middle of any one head lost */
    uint8_t *without = calloc(spec.n_layers * 8 * 16, 1);
    assert_non_null(without);
    memcpy(without, kept, spec.n_layers * 8 * 16);
    memset(without + h * 16, 0, 16);
    const lk_setup lost = lk_small_setup(without, N + ON);
    double *faulty = follow(&c, context, &lost, LK_FAULT_NONE, 0, 0, tokens + N, ON);
    lk_assert_differ(faulty, want, (size_t)ON * V, 20 * LK_TOLERANCE_F32, "one head lost");
    free(faulty);
    free(without);
  }
  lk_oracle_close(&context);
  free(want);
  free(got);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- 2: with a batch, the middle is lost ---- */

static void test_fault_2_a_batch_keeps_every_middle(void **state) {
  (void)state;
  enum { N_SEQS = 4, N = 260, ON = 20, N_CTX = N + N_SEQS * 40 + ON };
  const lk_tiny_spec spec = lk_shape(3);
  lk_case c;
  lk_case_open(&c, &spec);
  uint8_t *kept = lk_random_kept(&spec, 0);
  uint8_t *nothing = calloc(spec.n_layers * spec.n_kv_heads * spec.head_dim, 1);
  assert_non_null(nothing);
  lk_setup setup = lk_small_setup(kept, N_CTX);
  setup.n_seqs = N_SEQS;
  lk_setup lost = setup;
  lost.kept = nothing;
  lk_subject s;
  lk_subject_open(&s, &c, &setup);
  leank_token *tokens[N_SEQS];
  lk_oracle *contexts[N_SEQS];
  float *got = calloc((size_t)ON * N_SEQS * V, sizeof *got); /* [ON][N_SEQS][V] */
  assert_non_null(got);
  for (size_t i = 0; i < N_SEQS; i++) {
    tokens[i] = lk_random_tokens(&spec, N_CTX, 10 + i);
    free(lk_subject_run(&s, i, tokens[i], LK_CALLS({LK_TURN, N + 40 * i})));
    contexts[i] = context_of(&c, &setup, tokens[i], N + 40 * i);
  }
  for (size_t step = 0; step < ON; step++) {
    const size_t seqs[N_SEQS] = {0, 1, 2, 3};
    leank_token next[N_SEQS];
    leank_error err = {0};
    for (size_t i = 0; i < N_SEQS; i++) next[i] = tokens[i][N + 40 * i + step];
    lk_assert_ok(leank_session_decode(s.session, N_SEQS, seqs, next, got + step * N_SEQS * V, &err),
                 &err);
  }
  for (size_t i = 0; i < N_SEQS; i++) {
    const leank_token *next = tokens[i] + N + 40 * i;
    double *want = follow(&c, contexts[i], &setup, LK_FAULT_NONE, 0, 0, next, ON);
    double *faulty = follow(&c, contexts[i], &lost, LK_FAULT_NONE, 0, 0, next, ON);
    for (size_t step = 0; step < ON; step++)
      lk_assert_close(got + (step * N_SEQS + i) * V, want + step * V, 1, V, LK_TOLERANCE_F32,
                      "a member of a batch");
    lk_assert_differ(faulty, want, (size_t)ON * V, 100 * LK_TOLERANCE_F32, "middle lost");
    free(want);
    free(faulty);
    lk_oracle_close(&contexts[i]);
    free(tokens[i]);
  }
  free(got);
  lk_subject_close(&s);
  free(nothing);
  free(kept);
  lk_case_close(&c);
}

/* ---- 3: log-sum-exp and partial results in bf16 ---- */

static void check_merge(const lk_case *c, leank_kv_type kv_type, double tolerance) {
  enum { N = 500 };
  leank_token *tokens = lk_random_tokens(&c->spec, N, 21);
  uint8_t *kept = lk_all_kept(&c->spec);
  for (size_t i = 0; i < c->spec.head_dim; i += 2) kept[i] = 0;
  lk_setup setup = lk_small_setup(kept, N);
  setup.kv_type = kv_type;
  setup.cpu = LEANK_CPU_C; /* its arithmetic is fp32 whatever the cache */
  const lk_call calls[] = {{LK_DECODE, N}};
  float *got = lk_run_fresh(c, &setup, tokens, calls, 1);
  double *want = lk_oracle_fresh(c, &setup, tokens, calls, 1);
  lk_oracle *oracle = lk_setup_faulty(c, &setup, LK_FAULT_BF16_MERGE, 0, 0);
  double *faulty = lk_oracle_run(oracle, V, tokens, calls, 1);
  lk_assert_close(got, want, N, V, tolerance, "merge of many partial results");
  lk_assert_differ(faulty, want, (size_t)N * V, 5 * tolerance, "merge in bf16");
  lk_oracle_close(&oracle);
  free(faulty);
  free(want);
  free(got);
  free(kept);
  free(tokens);
}

static void test_fault_3_partial_results_are_merged_in_fp32(void **state) {
  (void)state;
  lk_tiny_spec spec = lk_shape(1);
  spec.bias_gain = 4; /* a common offset of the logits makes the log-sum-exp large */
  lk_case c;
  lk_case_open(&c, &spec);
  check_merge(&c, LEANK_KV_F32, LK_TOLERANCE_F32);
  check_merge(&c, LEANK_KV_BF16, LK_TOLERANCE_BF16_CACHE);
  lk_case_close(&c);
}

/* ---- 4: short prompts fail, slightly longer ones count keys twice ---- */

static void test_fault_4_prompts_around_the_window(void **state) {
  (void)state;
  static const size_t lengths[] = {1,   2,   5,   63,  64,  65,  100, 127,
                                   128, 129, 150, 190, 191, 192, 193};
  enum { N_SHORT = 64 + 64 + P - 1, N_ALL = N_SHORT + 60 };
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, N_ALL, 31);
  uint8_t *kept = lk_random_kept(&spec, 0);
  const lk_setup lean = lk_small_setup(kept, N_ALL), dense = lk_small_setup(NULL, N_ALL);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    const size_t n = lengths[i];
    const lk_call calls[] = {{LK_TURN, n}, {LK_DECODE, N_ALL - n}};
    float *got = lk_run_fresh(&c, &lean, tokens, calls, 2);
    float *full = lk_run_fresh(&c, &dense, tokens, calls, 2);
    double *want = lk_oracle_fresh(&c, &lean, tokens, calls, 2);
    lk_assert_same(got, full, n < N_SHORT ? N_SHORT : n, V, "up to the window: dense");
    lk_assert_close(got, want, N_ALL, V, LK_TOLERANCE_F32, "beyond it: every key once");
    free(want);
    free(full);
    free(got);
  }
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- 5: the length counted once per layer ---- */

static void test_fault_5_one_length_for_all_layers(void **state) {
  (void)state;
  lk_tiny_spec spec = lk_shape(1);
  spec.n_layers = 5;
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 400, 41);
  uint8_t *kept = lk_random_kept(&spec, 0);
  const lk_setup setup = lk_small_setup(kept, 400);
  const lk_call calls[] = {{LK_TURN, 130}, {LK_DECODE, 1},  {LK_TURN, 75},  {LK_DECODE, 2},
                           {LK_TURN, 1},   {LK_DECODE, 71}, {LK_SCORE, 20}, {LK_TURN, 100}};
  lk_subject s;
  lk_subject_open(&s, &c, &setup);
  lk_oracle *oracle = lk_setup_oracle(&c, &setup);
  size_t n = 0;
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    float *got = lk_subject_run(&s, 0, tokens + n, &calls[i], 1);
    double *want = lk_oracle_run(oracle, V, tokens + n, &calls[i], 1);
    n += calls[i].n;
    lk_assert_close(got, want, calls[i].n, V, LK_TOLERANCE_F32, "a call of a conversation");
    assert_int_equal(leank_session_length(s.session, 0), n);
    assert_int_equal(leank_session_middle_end(s.session, 0), lk_oracle_middle_end(oracle, n));
    free(got);
    free(want);
  }
  lk_oracle_close(&oracle);
  lk_subject_close(&s);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- 6: no ragged batches, pages, chunked prefill, second prompts, prefix sharing ---- */

static void test_fault_6_ragged_forks_of_one_prefix_with_second_prompts(void **state) {
  (void)state;
  enum { N_SEQS = 3, N_PREFIX = 333, ON = 70, N_CTX = N_PREFIX + 100 + ON };
  static const size_t second[N_SEQS] = {1, 37, 100};
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  uint8_t *kept = lk_random_kept(&spec, 0);
  lk_setup setup = lk_small_setup(kept, N_CTX);
  setup.n_seqs = N_SEQS;
  setup.prefill_chunk = 64;
  lk_subject s;
  lk_subject_open(&s, &c, &setup);
  leank_token *prefix = lk_random_tokens(&spec, N_PREFIX, 50), *own[N_SEQS];
  float *got = calloc((size_t)ON * N_SEQS * V, sizeof *got);
  assert_non_null(got);
  leank_error err = {0};
  free(lk_subject_run(&s, 0, prefix, LK_CALLS({LK_TURN, N_PREFIX})));
  for (size_t i = 1; i < N_SEQS; i++) lk_assert_ok(leank_session_fork(s.session, 0, i, &err), &err);
  for (size_t i = 0; i < N_SEQS; i++) {
    own[i] = lk_random_tokens(&spec, 100 + ON, 51 + i);
    free(lk_subject_run(&s, i, own[i], LK_CALLS({LK_TURN, second[i]})));
  }
  for (size_t step = 0; step < ON; step++) {
    const size_t seqs[N_SEQS] = {2, 0, 1};
    const leank_token next[N_SEQS] = {own[2][second[2] + step], own[0][second[0] + step],
                                      own[1][second[1] + step]};
    float *to = got + step * N_SEQS * V;
    lk_assert_ok(leank_session_decode(s.session, N_SEQS, seqs, next, to, &err), &err);
  }
  for (size_t i = 0; i < N_SEQS; i++) {
    lk_oracle *oracle = context_of(&c, &setup, prefix, N_PREFIX);
    lk_oracle_feed(oracle, LEANK_FEED_TURN, own[i], second[i], NULL, NULL);
    double *want = lk_oracle_run(oracle, V, own[i] + second[i], LK_CALLS({LK_DECODE, ON}));
    for (size_t step = 0; step < ON; step++)
      lk_assert_close(got + (step * N_SEQS + (i + 1) % N_SEQS) * V, want + step * V, 1, V,
                      LK_TOLERANCE_F32, "a fork with its own second prompt");
    free(want);
    lk_oracle_close(&oracle);
    free(own[i]);
  }
  free(got);
  free(prefix);
  lk_subject_close(&s);
  free(kept);
  lk_case_close(&c);
}

/* ---- 7: the whole middle is copied on each flush ---- */

/* Steps of both sequences; none may allocate. */
static void decode_both(lk_subject *s, const leank_token *tokens, size_t n) {
  const size_t n_allocations = lk_alloc_count();
  for (size_t i = 0; i < n; i++) {
    const size_t seqs[] = {0, 1};
    const leank_token next[] = {tokens[2 * i], tokens[2 * i + 1]};
    float logits[2 * V];
    leank_error err = {0};
    lk_assert_ok(leank_session_decode(s->session, 2, seqs, next, logits, &err), &err);
  }
  assert_int_equal(lk_alloc_count(), n_allocations);
}

/* Two sequences share a middle of m pages. Were it copied when the next page joins it, m pages more
 * would be in use; so exactly one page for each sequence is. */
static void test_fault_7_the_middle_is_never_copied(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 1000, 61);
  uint8_t *kept = lk_random_kept(&spec, 0);
  lk_setup setup = lk_small_setup(kept, 900);
  setup.n_seqs = 2;
  lk_subject s;
  lk_subject_open(&s, &c, &setup);
  leank_error err = {0};
  leank_memory memory;
  free(lk_subject_run(&s, 0, tokens, LK_CALLS({LK_TURN, 128 + 8 * P + P - 1})));
  lk_assert_ok(leank_session_fork(s.session, 0, 1, &err), &err);
  leank_session_get_memory(s.session, &memory);
  assert_int_equal(memory.n_lean_pages, 8);
  for (size_t flush = 1; flush <= 2; flush++) {
    decode_both(&s, tokens, 1); /* the window moves on by a page */
    leank_session_get_memory(s.session, &memory);
    assert_int_equal(memory.n_lean_pages, 8 + 2 * flush);
    const size_t wide = memory.n_wide_pages;
    decode_both(&s, tokens, P - 1); /* until the page is full: nothing moves */
    leank_session_get_memory(s.session, &memory);
    assert_int_equal(memory.n_lean_pages, 8 + 2 * flush);
    assert_in_range(memory.n_wide_pages, wide, wide + 2);
  }
  lk_subject_close(&s);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- 8: beyond the last length bucket the tail is skipped ---- */

static void check_tail(const lk_case *c, const lk_setup *setup, lk_oracle *longest,
                       const leank_token *tokens, size_t n) {
  enum { ON = 3 };
  float *got = lk_run_fresh(c, setup, tokens, LK_CALLS({LK_TURN, n}, {LK_DECODE, ON}));
  lk_oracle_rewind(longest, n);
  double *want = follow(c, longest, setup, LK_FAULT_NONE, 0, 0, tokens + n, ON);
  char what[64];
  snprintf(what, sizeof what, "%zu tokens", n);
  lk_assert_close(got + n * V, want, ON, V, LK_TOLERANCE_F32, what);
  const size_t middle_end = lk_oracle_middle_end(longest, n + 1);
  const size_t hidden[][2] = {{middle_end - P, middle_end}, {n - 16, n}, {64, 64 + P}};
  for (size_t i = 0; i < 3; i++) {
    double *faulty =
        follow(c, longest, setup, LK_FAULT_HIDE, hidden[i][0], hidden[i][1], tokens + n, ON);
    lk_assert_differ(faulty, want, (size_t)ON * V, 5 * LK_TOLERANCE_F32, "a tail is skipped");
    free(faulty);
  }
  free(want);
  free(got);
}

static void test_fault_8_no_length_loses_its_tail(void **state) {
  (void)state;
  static const size_t lengths[] = {5003, 4224, 4096, 2111, 1025, 640};
  lk_tiny_spec spec = lk_shape(0);
  spec.n_layers = 1;
  spec.n_heads = 2;
  spec.n_kv_heads = 1;
  spec.head_dim = 16;
  spec.hidden = 32;
  spec.ffn = 32;
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 5010, 71);
  uint8_t *kept = lk_random_kept(&spec, 5); /* half of the channels */
  const lk_setup setup = lk_small_setup(kept, 5010);
  lk_oracle *oracle = context_of(&c, &setup, tokens, lengths[0]);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    check_tail(&c, &setup, oracle, tokens, lengths[i]);
  lk_oracle_close(&oracle);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

/* ---- 9: numbers that were set are not the numbers that are used ---- */

static float *run_by_defaults(const lk_case *c, const lk_setup *recorded, bool explicitly,
                              const leank_mask *mask, const leank_token *tokens,
                              const lk_call *calls, size_t n_calls) {
  lk_subject s = {.c = c, .setup = *recorded};
  leank_session_options options = lk_setup_options(recorded);
  if (!explicitly) {
    options.n_sink = options.n_recent = SIZE_MAX;
    options.policy = options.mean_compensation = -1;
  }
  options.mask = mask;
  leank_error err = {0};
  lk_assert_ok(leank_session_open(c->model, &options, &s.session, &err), &err);
  float *logits = lk_subject_run(&s, 0, tokens, calls, n_calls);
  leank_session_close(&s.session);
  return logits;
}

static void test_fault_9_what_the_mask_records_is_what_is_deployed(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 500, 81);
  uint8_t *kept = lk_random_kept(&spec, 0);
  lk_setup recorded = lk_small_setup(kept, 500), other = recorded;
  recorded.n_sink = 128;
  recorded.n_recent = 100;
  recorded.policy = LEANK_POLICY_MEAN;
  recorded.mean_compensation = true;
  leank_mask *mask = lk_setup_mask(&c, &recorded), *other_mask = lk_setup_mask(&c, &other);
  const leank_mask_info *info = leank_mask_get_info(mask);
  assert_int_equal(info->n_sink, 128);
  assert_int_equal(info->n_recent, 100);
  assert_int_equal(info->policy, LEANK_POLICY_MEAN);
  assert_true(info->mean_compensation);
  const lk_call calls[] = {{LK_TURN, 350}, {LK_DECODE, 90}};
  float *by_mask = run_by_defaults(&c, &recorded, false, mask, tokens, calls, 2);
  float *by_options = run_by_defaults(&c, &recorded, true, other_mask, tokens, calls, 2);
  float *by_other = run_by_defaults(&c, &other, false, other_mask, tokens, calls, 2);
  double *want = lk_oracle_fresh(&c, &recorded, tokens, calls, 2);
  lk_assert_close(by_mask, want, 440, V, LK_TOLERANCE_F32, "the mask's numbers");
  lk_assert_same(by_options, by_mask, 440, V, "the same numbers as options");
  assert_true(lk_error(by_other, want, 440 * V) > 100 * LK_TOLERANCE_F32);
  free(want);
  free(by_mask);
  free(by_options);
  free(by_other);
  leank_mask_close(&mask);
  leank_mask_close(&other_mask);
  free(kept);
  free(tokens);
  lk_case_close(&c);
}

static void assert_open_refused(const lk_case *c, leank_session_options options) {
  leank_session *session = NULL;
  leank_error err = {0};
  assert_int_equal(leank_session_open(c->model, &options, &session, &err), LEANK_E_ARGUMENT);
  assert_int_equal(err.code, LEANK_E_ARGUMENT);
  assert_true(err.message[0] != 0);
  assert_null(session);
}

static void test_fault_9_options_that_mean_nothing_are_refused(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  uint8_t *kept = lk_random_kept(&spec, 0);
  const lk_setup setup = lk_small_setup(kept, 300);
  leank_mask *mask = lk_setup_mask(&c, &setup);
  leank_session_options good = lk_setup_options(&setup), bad;
  good.mask = mask;
  bad = good, bad.struct_size = 0, assert_open_refused(&c, bad);
  bad = good, bad.n_sink = 100, assert_open_refused(&c, bad);
  bad = good, bad.n_sink = 1, assert_open_refused(&c, bad);
  bad = good, bad.policy = 7, assert_open_refused(&c, bad);
  bad = good, bad.policy = -2, assert_open_refused(&c, bad);
  bad = good, bad.mean_compensation = 2, assert_open_refused(&c, bad);
  bad = good, bad.kv_type = (leank_kv_type)9, assert_open_refused(&c, bad);
  bad = good, bad.n_seqs = 0, assert_open_refused(&c, bad);
#if defined(__aarch64__)
  const leank_cpu_level foreign = LEANK_CPU_AVX2;
#else
  const leank_cpu_level foreign = LEANK_CPU_NEON;
#endif
  bad = good, bad.cpu = foreign, assert_open_refused(&c, bad);
  bad = good, bad.cpu = (leank_cpu_level)15, assert_open_refused(&c, bad);
  leank_session *session = NULL;
  leank_error err = {0};
  lk_assert_ok(leank_session_open(c.model, &good, &session, &err), &err);
  leank_session_close(&session);
  leank_mask_close(&mask);
  lk_tiny_spec other_spec = lk_shape(1); /* a mask of another model */
  lk_case other;
  lk_case_open(&other, &other_spec);
  uint8_t *other_kept = lk_random_kept(&other_spec, 0);
  const lk_setup other_setup = lk_small_setup(other_kept, 300);
  good.mask = mask = lk_setup_mask(&other, &other_setup);
  assert_int_equal(leank_session_open(c.model, &good, &session, &err), LEANK_E_MISMATCH);
  assert_null(session);
  leank_mask_close(&mask);
  lk_case_close(&other);
  free(other_kept);
  free(kept);
  lk_case_close(&c);
}

static void test_null_arguments_are_refused(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_case_open(&c, &spec);
  const lk_setup setup = lk_small_setup(NULL, 300);
  lk_subject s;
  lk_subject_open(&s, &c, &setup);
  const leank_model_info *info = leank_model_get_info(c.model);
  const size_t seq = 0;
  const leank_token token = 1;
  leank_token next;
  leank_session *opened = NULL;
  leank_plan_options options;
  leank_plan plan;
  leank_plan_options_default(&options);
#define REFUSED(call)                                                                              \
  do {                                                                                             \
    leank_error err = {0};                                                                         \
    assert_int_equal(call, LEANK_E_ARGUMENT);                                                      \
    assert_string_equal(err.message, "session: an argument is NULL");                              \
  } while (0)
  REFUSED(leank_plan_make(NULL, NULL, &options, &plan, &err));
  REFUSED(leank_plan_make(info, NULL, NULL, &plan, &err));
  REFUSED(leank_plan_make(info, NULL, &options, NULL, &err));
  REFUSED(leank_session_open(NULL, NULL, &opened, &err));
  REFUSED(leank_session_open(c.model, NULL, NULL, &err));
  REFUSED(leank_session_feed(NULL, 0, &token, 1, NULL, &err));
  REFUSED(leank_session_feed(s.session, 0, NULL, 1, NULL, &err));
  REFUSED(leank_session_decode(NULL, 1, &seq, &token, NULL, &err));
  REFUSED(leank_session_decode(s.session, 1, NULL, &token, NULL, &err));
  REFUSED(leank_session_decode(s.session, 1, &seq, NULL, NULL, &err));
  REFUSED(leank_session_decode_greedy(NULL, 1, &seq, &token, &next, &err));
  REFUSED(leank_session_decode_greedy(s.session, 1, NULL, &token, &next, &err));
  REFUSED(leank_session_decode_greedy(s.session, 1, &seq, NULL, &next, &err));
  REFUSED(leank_session_decode_greedy(s.session, 1, &seq, &token, NULL, &err));
  REFUSED(leank_session_fill_random(NULL, 1, &seq, 64, &err));
  REFUSED(leank_session_fill_random(s.session, 1, NULL, 64, &err));
  REFUSED(leank_session_rewind(NULL, 0, 0, &err));
  REFUSED(leank_session_fork(NULL, 0, 1, &err));
  REFUSED(leank_session_pack_from(NULL, 0, s.session, 0, &err));
  REFUSED(leank_session_pack_from(s.session, 0, NULL, 0, &err));
#undef REFUSED
  assert_null(opened);
  assert_int_equal(leank_session_length(s.session, 0), 0);
  lk_subject_close(&s);
  lk_case_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fault_1_every_head_of_every_group_is_computed),
      cmocka_unit_test(test_fault_2_a_batch_keeps_every_middle),
      cmocka_unit_test(test_fault_3_partial_results_are_merged_in_fp32),
      cmocka_unit_test(test_fault_4_prompts_around_the_window),
      cmocka_unit_test(test_fault_5_one_length_for_all_layers),
      cmocka_unit_test(test_fault_6_ragged_forks_of_one_prefix_with_second_prompts),
      cmocka_unit_test(test_fault_7_the_middle_is_never_copied),
      cmocka_unit_test(test_fault_8_no_length_loses_its_tail),
      cmocka_unit_test(test_fault_9_what_the_mask_records_is_what_is_deployed),
      cmocka_unit_test(test_fault_9_options_that_mean_nothing_are_refused),
      cmocka_unit_test(test_null_arguments_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
