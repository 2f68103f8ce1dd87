/* The CUDA backend on a device in software (support/cuda_mock.h): what is staged, recorded, shared
 * and undone. The kernels themselves are tested on a device, in tests/cuda/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/device.h>

#include "backend/cuda.h"
#include "support/cuda_mock.h"
#include "support/subject.h"

enum { V = 97, P = LEANK_PAGE_TOKENS, N_MODELS = 2 };

/* llama 7/1 of 64, rotated in pairs; qwen2 4/2 of 64 with biases. bf16, so that the device's copy
 * has the oracle's very numbers. */
static lk_tiny_spec tiny(size_t i) {
  lk_tiny_spec spec = lk_shape(2);
  spec.type = LK_BF16;
  if (i == 0) return spec;
  spec.qwen2 = true;
  spec.n_heads = 4;
  spec.n_kv_heads = 2;
  spec.hidden = 96;
  return spec;
}

static lk_setup setup_of(const uint8_t *kept, size_t n_ctx, size_t n_seqs) {
  return (lk_setup){.kept = kept,
                    .n_sink = 64,
                    .n_recent = 64,
                    .kv_type = LEANK_KV_BF16,
                    .n_ctx = n_ctx,
                    .n_seqs = n_seqs,
                    .prefill_chunk = 128,
                    .device = LEANK_DEVICE_CUDA};
}

static int use_mock(void **state) {
  (void)state;
  lk_cuda_library_replace(lk_cuda_mock_api());
  return 0;
}

static int use_library(void **state) {
  (void)state;
  lk_cuda_library_replace(NULL);
  return 0;
}

/* Nothing of a test is left on the device. */
static int check_live(void **state) {
  (void)state;
  lk_cuda_mock.fail_alloc = lk_cuda_mock.fail_launch = 0;
  lk_cuda_mock.refuse_record = false;
  return lk_cuda_mock.n_live == 0 ? 0 : -1;
}

/* ---- against the oracle ---- */

static void check_histories(const lk_case *c, const uint8_t *kept, leank_policy policy,
                            bool mean_compensation, leank_kv_type kv_type, const char *what) {
  leank_token *tokens = lk_random_tokens(&c->spec, 420, 3);
  lk_setup setup = setup_of(kept, 420, 1);
  setup.kv_type = kv_type;
  setup.policy = policy;
  setup.mean_compensation = mean_compensation;
  const lk_call calls[] = {{LK_TURN, 150},   {LK_DECODE, 75}, {LK_SCORE, 100},
                           {LK_REWIND, 322}, {LK_TURN, 30},   {LK_DECODE, 20}};
  const size_t n_calls = sizeof calls / sizeof *calls, n_rows = lk_calls_rows(calls, n_calls);
  float *got = lk_run_fresh(c, &setup, tokens, calls, n_calls);
  double *want = lk_oracle_fresh(c, &setup, tokens, calls, n_calls);
  lk_assert_close(got, want, n_rows, V,
                  kv_type == LEANK_KV_F16 ? LK_TOLERANCE_F16_CACHE : LK_TOLERANCE_BF16_CACHE, what);
  free(got);
  free(want);
  free(tokens);
}

static void test_sessions_match_the_oracle(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    const lk_tiny_spec spec = tiny(i);
    const size_t n_records = lk_cuda_mock.n_records, n_replays = lk_cuda_mock.n_replays;
    lk_case c;
    lk_case_open(&c, &spec);
    check_histories(&c, NULL, LEANK_POLICY_DROP, false, LEANK_KV_BF16, "dense");
    for (uint64_t seed = 0; seed < 2; seed++) {
      uint8_t *kept = lk_random_kept(&spec, seed);
      check_histories(&c, kept, LEANK_POLICY_DROP, false, LEANK_KV_BF16, "masked");
      check_histories(&c, kept, LEANK_POLICY_MEAN, false, LEANK_KV_BF16, "policy mean");
      check_histories(&c, kept, LEANK_POLICY_DROP, true, LEANK_KV_BF16, "mean compensation");
      check_histories(&c, kept, LEANK_POLICY_MEAN, true, LEANK_KV_BF16,
                      "policy mean and compensation");
      check_histories(&c, kept, LEANK_POLICY_MEAN, true, LEANK_KV_F16, "f16");
      free(kept);
    }
    lk_case_close(&c);
    /* Steps that pack and steps that do not; of 95 steps eleven times, all but a few are replays.
     */
    assert_true(lk_cuda_mock.n_records > n_records);
    assert_true(lk_cuda_mock.n_replays - n_replays > 11 * 85);
  }
}

/* Without a window of what is kept in full, a head that keeps nothing has no key where a page is
 * full: 0, unless its mean is there. */
static void test_heads_that_see_nothing(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(1);
  const lk_call calls[] = {{LK_TURN, 60}, {LK_DECODE, 70}, {LK_SCORE, 100}, {LK_DECODE, 40}};
  const size_t n_calls = sizeof calls / sizeof *calls, n_rows = lk_calls_rows(calls, n_calls);
  leank_token *tokens = lk_random_tokens(&spec, 270, 3);
  uint8_t *kept = lk_random_kept(&spec, 1);
  lk_case c;
  lk_case_open(&c, &spec);
  memset(kept, 0, spec.n_kv_heads * spec.head_dim); /* the first layer */
  for (int mean = 0; mean < 2; mean++) {
    lk_setup setup = setup_of(kept, 270, 1);
    setup.n_sink = setup.n_recent = 0;
    setup.policy = mean ? LEANK_POLICY_MEAN : LEANK_POLICY_DROP;
    float *got = lk_run_fresh(&c, &setup, tokens, calls, n_calls);
    double *want = lk_oracle_fresh(&c, &setup, tokens, calls, n_calls);
    lk_assert_close(got, want, n_rows, V, LK_TOLERANCE_BF16_CACHE,
                    mean ? "no window, policy mean" : "no window");
    free(got);
    free(want);
  }
  lk_case_close(&c);
  free(kept);
  free(tokens);
}

/* ---- several sequences ---- */

enum { N_SEQS = 5, N_STEPS = 70 };
static const size_t prompts[N_SEQS] = {0, 40, 127, 190, 255};

/* Logits [N_STEPS][V] of sequence i, alone or among all. */
static void decode_all(const lk_case *c, const lk_setup *setup, leank_token *const *tokens,
                       size_t first, size_t n, float *logits) {
  lk_subject s;
  leank_error err = {0};
  size_t seqs[N_SEQS];
  leank_token next[N_SEQS] = {0};
  float rows[N_SEQS * V];
  lk_subject_open(&s, c, setup);
  for (size_t i = 0; i < n; i++) {
    seqs[i] = n - 1 - i;
    if (prompts[first + i])
      free(lk_subject_run(&s, i, tokens[first + i], LK_CALLS({LK_TURN, prompts[first + i]})));
  }
  for (size_t step = 0; step < N_STEPS; step++) {
    for (size_t i = 0; i < n; i++) {
      const size_t seq = first + seqs[i];
      next[i] = tokens[seq][prompts[seq] + step];
    }
    lk_assert_ok(leank_session_decode(s.session, n, seqs, next, rows, &err), &err);
    for (size_t i = 0; i < n; i++)
      memcpy(logits + ((first + seqs[i]) * N_STEPS + step) * V, rows + i * V, V * sizeof *rows);
  }
  lk_subject_close(&s);
}

/* Sequences alone in sessions that are open for n_alone, beside all in one that is for n_all. */
static void check_batches(size_t model, leank_policy policy, bool mean_compensation, size_t n_alone,
                          size_t n_all) {
  const lk_tiny_spec spec = tiny(model);
  leank_token *tokens[N_SEQS];
  lk_case c;
  lk_case_open(&c, &spec);
  uint8_t *kept = lk_random_kept(&spec, 1);
  for (size_t i = 0; i < N_SEQS; i++) tokens[i] = lk_random_tokens(&spec, 340, 20 + i);
  const size_t n = (size_t)N_SEQS * N_STEPS;
  float *alone = calloc(n * V, sizeof *alone), *together = calloc(n * V, sizeof *together);
  assert_true(alone && together);
  lk_setup one = setup_of(kept, 340, n_alone), all = setup_of(kept, 340, n_all);
  one.policy = all.policy = policy;
  one.mean_compensation = all.mean_compensation = mean_compensation;
  for (size_t i = 0; i < N_SEQS; i++) decode_all(&c, &one, tokens, i, 1, alone);
  decode_all(&c, &all, tokens, 0, N_SEQS, together);
  lk_assert_same(together, alone, n, V, "batch");
  for (size_t i = 0; i < N_SEQS; i++) free(tokens[i]);
  free(alone), free(together), free(kept);
  lk_case_close(&c);
}

static void test_batches_change_no_bit(void **state) {
  (void)state;
  check_batches(1, LEANK_POLICY_DROP, false, 1, N_SEQS);
  check_batches(1, LEANK_POLICY_MEAN, true, 1, N_SEQS);
}

/* Open for more, steps go to GEMM, whose products lie side by side. */
static void test_steps_by_gemm(void **state) {
  (void)state;
  enum { N_LAYERS = 2, N_BEHIND = 3 }; /* k, v and up */
  for (size_t model = 0; model < N_MODELS; model++) {
    const size_t n_replays = lk_cuda_mock.n_replays;
    lk_cuda_mock.n_joint = lk_cuda_mock.n_apart = 0;
    check_batches(model, LEANK_POLICY_DROP, false, LK_CUDA_FEW_ROWS + 1, LK_CUDA_FEW_ROWS + 1);
    assert_int_equal(lk_cuda_mock.n_apart, 0);
    assert_true(lk_cuda_mock.n_joint > 0 && lk_cuda_mock.n_joint % (N_LAYERS * N_BEHIND) == 0);
    assert_true(lk_cuda_mock.n_replays > n_replays + N_STEPS);
  }
}

/* Two steps of one sequence, the first run plainly and the second recorded, in a session of n_seqs:
 * how often norms and gates are part of a product, and what steps give. */
static void check_fused(const lk_case *c, size_t n_seqs, bool fused) {
  enum { N_DECODED = 2 };
  leank_token *tokens = lk_random_tokens(&c->spec, N_DECODED, 4);
  const lk_setup setup = setup_of(NULL, 64, n_seqs);
  const size_t n = N_DECODED * c->spec.n_layers;
  const lk_cuda_mock_state was = lk_cuda_mock;
  float *got = lk_run_fresh(c, &setup, tokens, LK_CALLS({LK_DECODE, N_DECODED}));
  double *want = lk_oracle_fresh(c, &setup, tokens, LK_CALLS({LK_DECODE, N_DECODED}));
  assert_int_equal(lk_cuda_mock.n_fused - was.n_fused, fused ? 2 * n : 0);
  assert_int_equal(lk_cuda_mock.n_gated - was.n_gated, fused ? n : 0);
  assert_int_equal(lk_cuda_mock.n_norms - was.n_norms, (fused ? 0 : 2 * n) + N_DECODED);
  lk_assert_close(got, want, N_DECODED, V, LK_TOLERANCE_BF16_CACHE, fused ? "fused" : "not fused");
  free(got), free(want), free(tokens);
}

static void test_norms_and_gates_of_steps(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    const lk_tiny_spec spec = tiny(i);
    lk_case c;
    lk_case_open(&c, &spec);
    check_fused(&c, 1, true);
    check_fused(&c, LK_CUDA_FEW_ROWS, true);
    check_fused(&c, LK_CUDA_FEW_ROWS + 1, false); /* steps by GEMM */
    lk_case_close(&c);
  }
}

/* A fork shares the last page; the step that writes to it copies it first. */
static void test_forks_part(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(0);
  lk_case c;
  lk_subject s;
  leank_error err = {0};
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 240, 8);
  const lk_setup setup = setup_of(NULL, 240, 2);
  lk_subject_open(&s, &c, &setup);
  free(lk_subject_run(&s, 0, tokens, LK_CALLS({LK_TURN, 150})));
  lk_assert_ok(leank_session_fork(s.session, 0, 1, &err), &err);
  free(lk_subject_run(&s, 1, tokens + 200, LK_CALLS({LK_DECODE, 10})));
  float *got = lk_subject_run(&s, 0, tokens + 150, LK_CALLS({LK_DECODE, 20}));
  lk_subject_close(&s);
  float *want = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_TURN, 150}, {LK_DECODE, 20}));
  lk_assert_same(got, want + (size_t)150 * V, 20, V, "a fork's origin");
  free(got), free(want), free(tokens);
  lk_case_close(&c);
}

/* ---- two sessions ---- */

static void test_packing_from_another_session(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(1);
  lk_case c;
  lk_subject dense, masked;
  leank_error err = {0};
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 420, 5);
  uint8_t *kept = lk_random_kept(&spec, 2);
  const lk_setup plain = setup_of(NULL, 420, 1), pruned = setup_of(kept, 420, 1);
  float *want = lk_run_fresh(&c, &pruned, tokens, LK_CALLS({LK_TURN, 330}, {LK_DECODE, 80}));
  lk_subject_open(&dense, &c, &plain);
  free(lk_subject_run(&dense, 0, tokens, LK_CALLS({LK_TURN, 330})));
  lk_subject_open(&masked, &c, &pruned);
  lk_assert_ok(leank_session_pack_from(masked.session, 0, dense.session, 0, &err), &err);
  /* Before the other has done anything more, and whatever it does then. */
  free(lk_subject_run(&dense, 0, tokens, LK_CALLS({LK_REWIND, 0}, {LK_TURN, 100})));
  const size_t n_loads = lk_cuda_mock.n_loads;
  float *got = lk_subject_run(&masked, 0, tokens + 330, LK_CALLS({LK_DECODE, 80}));
  lk_assert_same(got, want + (size_t)330 * V, 80, V, "packed");
  assert_int_equal(lk_cuda_mock.n_loads, n_loads); /* weights are there: the other's */
  lk_subject_close(&dense);
  free(lk_subject_run(&masked, 0, tokens + 410, LK_CALLS({LK_DECODE, 5})));
  lk_subject_close(&masked);
  free(got), free(want), free(tokens), free(kept);
  lk_case_close(&c);
}

static void test_devices_do_not_mix(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(0);
  lk_case c;
  lk_subject first;
  leank_session *second = NULL, *cpu = NULL;
  leank_error err = {0};
  lk_case_open(&c, &spec);
  const lk_setup setup = setup_of(NULL, 128, 1);
  leank_session_options options = lk_setup_options(&setup);
  lk_subject_open(&first, &c, &setup);
  options.device_index = 1;
  lk_assert_ok(leank_session_open(c.model, &options, &second, &err), &err);
  options.device = LEANK_DEVICE_CPU;
  lk_assert_ok(leank_session_open(c.model, &options, &cpu, &err), &err);
  assert_int_equal(leank_session_pack_from(second, 0, first.session, 0, &err), LEANK_E_MISMATCH);
  assert_int_equal(leank_session_pack_from(cpu, 0, first.session, 0, &err), LEANK_E_MISMATCH);
  assert_non_null(strstr(err.message, "different devices"));
  leank_session_close(&second);
  leank_session_close(&cpu);
  lk_subject_close(&first);
  lk_case_close(&c);
}

/* ---- what comes out beside logits ---- */

typedef struct taken {
  float *hidden, *logits;
  size_t width;
} taken;

static void take_hidden(void *user, size_t first, size_t n, const float *rows) {
  taken *t = user;
  memcpy(t->hidden + first * t->width, rows, n * t->width * sizeof *rows);
}
static void take_logits(void *user, size_t first, size_t n, const float *rows) {
  memcpy(((taken *)user)->logits + first * V, rows, n * V * sizeof *rows);
}

enum { N_FED = 150 };

static void feed_all(const lk_case *c, const lk_setup *setup, const leank_token *tokens, taken *out,
                     leank_head_stats *stats) {
  lk_subject s;
  leank_error err = {0};
  leank_feed_options options;
  leank_feed_options_default(&options);
  options.on_hidden = take_hidden;
  options.on_logits = take_logits;
  options.stats = stats;
  options.user = out;
  lk_subject_open(&s, c, setup);
  lk_assert_ok(leank_session_feed(s.session, 0, tokens, N_FED, &options, &err), &err);
  lk_subject_close(&s);
}

static void assert_sums_close(const double *got, const double *want, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!(got[i] >= want[i] * 0.97 && got[i] <= want[i] * 1.03))
      fail_msg("sum %zu is %g, %g on the CPU", i, got[i], want[i]);
}

/* Rows and sums as the CPU gives them, to what its bf16 products round: 2^-9 a factor, in sums of
 * squares twice that, of two factors and two layers. */
static void test_hidden_states_and_sums(void **state) {
  (void)state;
  enum { N_SUMS = 2 * 2 * 64 };
  const lk_tiny_spec spec = tiny(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, N_FED, 9);
  lk_setup setup = setup_of(NULL, 192, 1);
  taken got[2];
  double sums[2][3][N_SUMS] = {{{0}}};
  for (size_t i = 0; i < 2; i++) {
    leank_head_stats stats = {.k_abs = sums[i][0], .k_sq = sums[i][1], .q_sq = sums[i][2]};
    got[i] = (taken){calloc(N_FED * spec.hidden, sizeof(float)), calloc(N_FED * V, sizeof(float)),
                     spec.hidden};
    assert_true(got[i].hidden && got[i].logits);
    feed_all(&c, &setup, tokens, &got[i], &stats);
    assert_int_equal(stats.n_rows, N_FED);
    setup.device = LEANK_DEVICE_CPU;
  }
  double want[N_FED * V];
  for (size_t i = 0; i < N_FED * V; i++) want[i] = (double)got[1].logits[i];
  assert_true(lk_rms_error(got[0].logits, want, N_FED * V) < LK_TOLERANCE_BF16_RMS);
  for (size_t i = 0; i < N_FED * spec.hidden; i++) want[i] = (double)got[1].hidden[i];
  assert_true(lk_rms_error(got[0].hidden, want, N_FED * spec.hidden) < LK_TOLERANCE_BF16_RMS);
  for (size_t k = 0; k < 3; k++) assert_sums_close(sums[0][k], sums[1][k], N_SUMS);
  for (size_t i = 0; i < 2; i++) free(got[i].hidden), free(got[i].logits);
  free(tokens);
  lk_case_close(&c);
}

/* ---- weights ---- */

/* More than a piece, in rows that no piece is a multiple of; and what is asked for again. */
static void check_matrix(lk_cuda_store *store, lk_dtype type, size_t n) {
  leank_error err = {0};
  const uint16_t *a = NULL, *b = NULL;
  const size_t size = type == LK_F32 ? sizeof(float) : sizeof(uint16_t);
  unsigned char *data = malloc(n * size);
  assert_non_null(data);
  for (size_t i = 0; i < n; i++) {
    const float value = (float)(int)(i * 7919 % 100003) / 65536.0f - 0.5f;
    const uint16_t half = lk_f32_to_bf16(value);
    memcpy(data + i * size, type == LK_F32 ? (const void *)&value : (const void *)&half, size);
  }
  const lk_tensor w = {data, type, 1, n};
  lk_assert_ok(lk_cuda_store_matrix(store, &w, &a, &err), &err);
  const size_t n_loads = lk_cuda_mock.n_loads;
  lk_assert_ok(lk_cuda_store_matrix(store, &w, &b, &err), &err);
  assert_ptr_equal(a, b);
  assert_int_equal(lk_cuda_mock.n_loads, n_loads);
  for (size_t i = 0; i < n; i++)
    if (a[i] != lk_f32_to_bf16((float)(int)(i * 7919 % 100003) / 65536.0f - 0.5f))
      fail_msg("element %zu of %s", i, lk_dtype_name(type));
  free(data);
}

static void test_weights_go_in_pieces(void **state) {
  (void)state;
  leank_error err = {0};
  lk_cuda_store *store = NULL;
  lk_assert_ok(lk_cuda_store_open(lk_cuda_mock_api(), 0, NULL, &store, &err), &err);
  check_matrix(store, LK_F32, ((size_t)9 << 20) + 33);
  check_matrix(store, LK_BF16, ((size_t)9 << 20) + 33);
  lk_cuda_store_close(store);
}

/* Parts that are asked for together lie one behind the other, and are found alone; one that was
 * there before stays where it is, and none is there twice. */
static void test_weights_lie_together(void **state) {
  (void)state;
  enum { N = 3, ROWS = 64, COLS = 96 };
  leank_error err = {0};
  lk_cuda_store *store = NULL;
  uint16_t *data = calloc((N + 1) * ROWS * COLS, sizeof *data);
  float biases[N][ROWS];
  lk_tensor w[N + 1], b[N];
  lk_linear_part parts[N + 1] = {0};
  lk_cuda_part got[N + 1], again[N];
  assert_non_null(data);
  for (size_t i = 0; i < (N + 1) * ROWS * COLS; i++) data[i] = (uint16_t)i;
  for (size_t i = 0; i < N * ROWS; i++) biases[i / ROWS][i % ROWS] = (float)i;
  for (size_t i = 0; i <= N; i++) {
    w[i] = (lk_tensor){data + i * ROWS * COLS, LK_BF16, ROWS, COLS};
    if (i < N) b[i] = (lk_tensor){biases[i], LK_F32, 1, ROWS};
    parts[i] = (lk_linear_part){.w = &w[i], .bias = i < N ? &b[i] : NULL};
  }
  lk_assert_ok(lk_cuda_store_open(lk_cuda_mock_api(), 0, NULL, &store, &err), &err);
  const uint16_t *alone = NULL;
  const size_t n_allocs = lk_cuda_mock.n_allocs;
  lk_assert_ok(lk_cuda_store_parts(store, parts, N, got, &err), &err);
  assert_int_equal(lk_cuda_mock.n_allocs - n_allocs, 2 + 2); /* two blocks; two pinned pieces */
  for (size_t i = 0; i < N; i++) {
    assert_ptr_equal(got[i].w, got[0].w + i * ROWS * COLS);
    assert_ptr_equal(got[i].bias, got[0].bias + i * ROWS);
    lk_assert_ok(lk_cuda_store_matrix(store, &w[i], &alone, &err), &err);
    assert_ptr_equal(alone, got[i].w);
  }
  assert_memory_equal(got[0].w, data, N * ROWS * COLS * sizeof *data);
  assert_memory_equal(got[0].bias, biases, sizeof biases);
  lk_assert_ok(lk_cuda_store_parts(store, &parts[1], N, got, &err), &err); /* the last is new */
  lk_assert_ok(lk_cuda_store_parts(store, parts, N, again, &err), &err);
  assert_ptr_equal(again[1].w, got[0].w);
  assert_ptr_equal(again[2].bias, got[1].bias);
  assert_null(got[N - 1].bias);
  assert_memory_equal(got[N - 1].w, data + N * ROWS * COLS, ROWS * COLS * sizeof *data);
  assert_int_equal(lk_cuda_mock.n_allocs - n_allocs, 2 + 2 + 1);
  lk_cuda_store_close(store);
  free(data);
}

/* ---- failures ---- */

/* A step that fails leaves the sequence as it was, and the next one gives the same bits. */
static void check_failing_steps(size_t max_seqs) {
  const lk_tiny_spec spec = tiny(1);
  lk_case c;
  lk_subject s;
  leank_error err = {0};
  size_t seq = 0, n_failed = 0;
  float logits[V];
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 320, 6);
  uint8_t *kept = lk_random_kept(&spec, 1);
  lk_setup setup = setup_of(kept, 320, max_seqs);
  setup.policy = LEANK_POLICY_MEAN; /* a step's sums are not there either */
  setup.mean_compensation = true;
  float *want = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_TURN, 150}, {LK_DECODE, 120}));
  lk_subject_open(&s, &c, &setup);
  free(lk_subject_run(&s, 0, tokens, LK_CALLS({LK_TURN, 150})));
  for (size_t i = 150; i < 270; i++) {
    /* At ever other places: while running plainly, while recording, in replays and packing. */
    lk_cuda_mock.fail_launch = 1 + (i < 160 || i % P == 63 ? i * 5 % 40 : 0);
    lk_cuda_mock.refuse_record = i == 158;
    while (leank_session_decode(s.session, 1, &seq, &tokens[i], logits, &err) != LEANK_OK) {
      assert_non_null(strstr(err.message, "mock"));
      assert_int_equal(leank_session_length(s.session, 0), i);
      lk_cuda_mock.refuse_record = false;
      assert_true(++n_failed < 400);
    }
    lk_cuda_mock.fail_launch = 0;
    lk_assert_same(logits, want + i * V, 1, V, "after a failure");
  }
  assert_true(n_failed > 100);
  lk_subject_close(&s);
  free(want), free(tokens), free(kept);
  lk_case_close(&c);
}

static void test_steps_that_fail(void **state) {
  (void)state;
  check_failing_steps(1);
  check_failing_steps(LK_CUDA_FEW_ROWS + 1);
}

/* A step that cannot be recorded is an error once; from then on it runs plainly. */
static void test_recordings_that_fail(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(0);
  lk_case c;
  lk_subject s;
  leank_error err = {0};
  size_t seq = 0;
  float logits[V];
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 60, 6);
  const lk_setup setup = setup_of(NULL, 64, 1);
  float *want = lk_run_fresh(&c, &setup, tokens, LK_CALLS({LK_DECODE, 20}));
  const size_t n_replays = lk_cuda_mock.n_replays;
  lk_subject_open(&s, &c, &setup);
  lk_cuda_mock.refuse_record = true;
  for (size_t i = 0; i < 20; i++) {
    if (i == 1)
      assert_int_equal(leank_session_decode(s.session, 1, &seq, &tokens[i], logits, &err),
                       LEANK_E_STATE);
    lk_assert_ok(leank_session_decode(s.session, 1, &seq, &tokens[i], logits, &err), &err);
    lk_assert_same(logits, want + i * V, 1, V, "not recorded");
  }
  assert_int_equal(lk_cuda_mock.n_replays, n_replays);
  lk_subject_close(&s);
  free(want), free(tokens);
  lk_case_close(&c);
}

/* Every allocation on the device fails in turn: an error, nothing lost, the sequence as it was. */
static void test_memory_that_is_short(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(1);
  lk_case c;
  lk_case_open(&c, &spec);
  leank_token *tokens = lk_random_tokens(&spec, 140, 6);
  const lk_setup setup = setup_of(NULL, 192, 1);
  const leank_session_options options = lk_setup_options(&setup);
  size_t nth = 0, seq = 0;
  for (bool failed = true; failed;) {
    leank_session *s = NULL;
    leank_error err = {0};
    lk_cuda_mock.fail_alloc = ++nth;
    leank_status status = leank_session_open(c.model, &options, &s, &err);
    if (status == LEANK_OK) status = leank_session_feed(s, 0, tokens, 100, NULL, &err);
    if (status == LEANK_OK) status = leank_session_decode(s, 1, &seq, tokens, NULL, &err);
    failed = status != LEANK_OK;
    if (failed) assert_int_equal(status, LEANK_E_MEMORY);
    if (failed && s) {
      const size_t n = leank_session_length(s, 0);
      assert_true(n == 0 || n == 100);
    }
    leank_session_close(&s);
    assert_int_equal(lk_cuda_mock.n_live, 0);
  }
  lk_cuda_mock.fail_alloc = 0;
  assert_true(nth > 40);
  free(tokens);
  lk_case_close(&c);
}

/* ---- what is refused ---- */

static void refuse(const lk_case *c, const leank_session_options *options, leank_status want,
                   const char *part) {
  leank_session *s = NULL;
  leank_error err = {0};
  assert_int_equal(leank_session_open(c->model, options, &s, &err), want);
  if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);
  assert_null(s);
}

static void test_what_a_device_cannot_do(void **state) {
  (void)state;
  const lk_tiny_spec spec = tiny(0), narrow = lk_shape(0);
  lk_case c, other;
  lk_case_open(&c, &spec);
  lk_case_open(&other, &narrow);
  uint8_t *kept = lk_random_kept(&spec, 1);
  lk_setup setup = setup_of(kept, 128, 1);
  leank_mask *mask = lk_setup_mask(&c, &setup);
  leank_session_options options = lk_setup_options(&setup);
  refuse(&other, &options, LEANK_E_UNSUPPORTED, "heads of 32 channels");
  options.kv_type = LEANK_KV_F32;
  refuse(&c, &options, LEANK_E_UNSUPPORTED, "CPU");
  options.kv_type = LEANK_KV_Q8;
  refuse(&c, &options, LEANK_E_UNSUPPORTED, "CPU");
  options.kv_type = LEANK_KV_BF16;
  options.mask = mask;
  options.device = LEANK_DEVICE_CPU;
  options.kv_type = LEANK_KV_F16;
  refuse(&c, &options, LEANK_E_UNSUPPORTED, "a cache of f16 is not possible");
  options.device = LEANK_DEVICE_CUDA;
  options.device_index = 2;
  refuse(&c, &options, LEANK_E_UNSUPPORTED, "no CUDA device 2");
  options.device_index = -1;
  refuse(&c, &options, LEANK_E_ARGUMENT, "unknown device");
  options.device_index = 0;
  options.n_seqs = 1 << 16;
  options.n_ctx = (size_t)1 << 32;
  refuse(&c, &options, LEANK_E_UNSUPPORTED, "more than a step can attend to");
  leank_mask_close(&mask);
  free(kept);
  lk_case_close(&other);
  lk_case_close(&c);
}

static void test_devices_are_listed(void **state) {
  (void)state;
  leank_device_info devices[1];
  leank_error err = {0};
  size_t n = 0;
  lk_assert_ok(leank_cuda_devices(devices, 1, &n, &err), &err);
  assert_int_equal(n, 2);
  assert_string_equal(devices[0].name, "mock");
  assert_int_equal(devices[0].total_bytes, 2);
  lk_cuda_mock.n_devices = 0;
  assert_int_equal(leank_cuda_devices(devices, 1, &n, &err), LEANK_E_UNSUPPORTED);
  assert_string_equal(err.message, "no CUDA here: mock: no device");
  lk_cuda_mock.n_devices = 2;
}

/* On this machine: devices, or one line that says what is missing. */
static void test_the_library_itself(void **state) {
  (void)state;
  leank_device_info devices[8];
  leank_error err = {0};
  size_t n = 0;
  const leank_status status = leank_cuda_devices(devices, 8, &n, &err);
  if (status == LEANK_OK) {
    assert_true(n > 0 && devices[0].total_bytes > 0);
    return;
  }
  assert_int_equal(status, LEANK_E_UNSUPPORTED);
  assert_ptr_equal(strstr(err.message, "no CUDA here: "), err.message);
  assert_null(strchr(err.message, '\n'));
}

#define ON_MOCK(test) cmocka_unit_test_setup_teardown(test, use_mock, check_live)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_MOCK(test_sessions_match_the_oracle),
      ON_MOCK(test_heads_that_see_nothing),
      ON_MOCK(test_batches_change_no_bit),
      ON_MOCK(test_norms_and_gates_of_steps),
      ON_MOCK(test_steps_by_gemm),
      ON_MOCK(test_forks_part),
      ON_MOCK(test_packing_from_another_session),
      ON_MOCK(test_devices_do_not_mix),
      ON_MOCK(test_hidden_states_and_sums),
      ON_MOCK(test_weights_go_in_pieces),
      ON_MOCK(test_weights_lie_together),
      ON_MOCK(test_steps_that_fail),
      ON_MOCK(test_recordings_that_fail),
      ON_MOCK(test_memory_that_is_short),
      ON_MOCK(test_what_a_device_cannot_do),
      ON_MOCK(test_devices_are_listed),
      cmocka_unit_test_setup(test_the_library_itself, use_library),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
