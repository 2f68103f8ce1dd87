/* The largest logit, found where the logits are: on the CPU, and on a CUDA device in software. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda.h"
#include "base/rng.h"
#include "support/cuda_mock.h"
#include "support/subject.h"

enum { V = 97, N_SEQS = 3, N_STEPS = 90, N_CTX = 300 };
static const size_t prompts[N_SEQS] = {40, 127, 190};

/* First of the largest, slowly; NaN never wins. */
static leank_token largest(const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    bool wins = !isnan(x[i]);
    for (size_t j = 0; j < n && wins; j++) wins = !(x[j] > x[i]) && (j >= i || x[j] != x[i]);
    if (wins) return (leank_token)i;
  }
  return 0;
}

/* ---- the operation ---- */

enum { MAX_N = 70, N_ROWS = 9 };

/* Few different numbers, so that many are equal; infinities; NaN. */
static float odd_number(lk_rng *rng, size_t row) {
  const uint64_t k = lk_rng_u64(rng) % 8;
  if (row == 0) return NAN;
  if (row == 1) return k < 4 ? NAN : -INFINITY;
  if (row == 2 && k == 0) return INFINITY;
  if (row < 5 && k == 1) return NAN;
  return (float)k - (row % 2 ? 20.0f : 4.0f);
}

static void test_the_operation(void **state) {
  (void)state;
  const lk_backend_options options = {.n_threads = 2,
                                      .max_few_rows = 1,
                                      .max_cols = 64,
                                      .max_pages = 1,
                                      .shape = {.n_heads = 1, .n_kv_heads = 1, .head_dim = 64}};
  lk_backend *be = NULL;
  leank_error err = {0};
  lk_rng rng = {5};
  float x[N_ROWS * MAX_N];
  int32_t got[N_ROWS];
  lk_assert_ok(lk_backend_open_cpu(&options, &be, &err), &err);
  for (size_t n = 1; n <= MAX_N; n++)
    for (size_t n_rows = 1; n_rows <= N_ROWS; n_rows += N_ROWS - 1) {
      for (size_t i = 0; i < n_rows * n; i++) x[i] = odd_number(&rng, i / n + N_ROWS - n_rows);
      be->ops->argmax(be, x, n_rows, n, got);
      for (size_t r = 0; r < n_rows; r++) assert_int_equal(got[r], largest(x + r * n, n));
    }
  be->ops->close(be);
}

/* ---- sessions ---- */

static void open_filled(lk_subject *s, const lk_case *c, const lk_setup *setup,
                        leank_token *const *tokens, bool greedy, leank_token next[N_SEQS]) {
  leank_error err = {0};
  lk_subject_open(s, c, setup);
  for (size_t i = 0; i < N_SEQS; i++) {
    float logits[V];
    leank_feed_options feed;
    leank_feed_options_default(&feed);
    if (greedy)
      feed.next = &next[i];
    else
      feed.logits = logits;
    lk_assert_ok(leank_session_feed(s->session, i, tokens[i], prompts[i], &feed, &err), &err);
    if (!greedy) next[i] = largest(logits, V);
  }
}

/* Both ways to a token, step by step, each following its own choices. */
static void check_sessions(const lk_setup *setup, const lk_case *c) {
  static const size_t seqs[N_SEQS] = {2, 0, 1};
  leank_token *tokens[N_SEQS], a[N_SEQS], b[N_SEQS], in_a[N_SEQS];
  lk_subject by_logits, greedy;
  leank_error err = {0};
  for (size_t i = 0; i < N_SEQS; i++) tokens[i] = lk_random_tokens(&c->spec, N_CTX, 30 + i);
  open_filled(&by_logits, c, setup, tokens, false, a);
  open_filled(&greedy, c, setup, tokens, true, b);
  const size_t n_downloaded = lk_cuda_mock.n_downloaded;
  size_t n_different = 0;
  for (size_t step = 0; step < N_STEPS; step++) {
    float logits[N_SEQS * V];
    assert_memory_equal(a, b, sizeof a);
    for (size_t i = 0; i < N_SEQS; i++) n_different += a[i] != a[0];
    memcpy(in_a, a, sizeof a);
    lk_assert_ok(leank_session_decode(by_logits.session, N_SEQS, seqs, in_a, logits, &err), &err);
    for (size_t i = 0; i < N_SEQS; i++) a[i] = largest(logits + i * V, V);
    lk_assert_ok(leank_session_decode_greedy(greedy.session, N_SEQS, seqs, b, b, &err), &err);
  }
  assert_true(n_different > 0);
  if (setup->device == LEANK_DEVICE_CUDA)
    assert_int_equal(lk_cuda_mock.n_downloaded - n_downloaded,
                     N_STEPS * N_SEQS * (V * sizeof(float) + sizeof(leank_token)));
  lk_subject_close(&by_logits);
  lk_subject_close(&greedy);
  for (size_t i = 0; i < N_SEQS; i++) free(tokens[i]);
}

static void test_sessions_choose_the_largest(void **state) {
  (void)state;
  lk_tiny_spec spec = lk_shape(2);
  spec.type = LK_BF16;
  lk_case c;
  lk_case_open(&c, &spec);
  uint8_t *kept = lk_random_kept(&spec, 1);
  lk_setup setup = {.kept = kept,
                    .n_sink = 64,
                    .n_recent = 64,
                    .kv_type = LEANK_KV_BF16,
                    .n_ctx = N_CTX,
                    .n_seqs = N_SEQS};
  check_sessions(&setup, &c);
  lk_cuda_library_replace(lk_cuda_mock_api());
  setup.device = LEANK_DEVICE_CUDA;
  const size_t n_replays = lk_cuda_mock.n_replays;
  check_sessions(&setup, &c);
  assert_true(lk_cuda_mock.n_replays - n_replays > 2 * (N_STEPS - 10));
  lk_cuda_library_replace(NULL);
  free(kept);
  lk_case_close(&c);
}

/* A step that fails gives no token and leaves the sequence as it was. */
static void test_steps_that_fail(void **state) {
  (void)state;
  const lk_tiny_spec spec = lk_shape(0);
  lk_case c;
  lk_subject s;
  leank_error err = {0};
  const lk_setup setup = {.kv_type = LEANK_KV_F32, .n_ctx = 64};
  size_t seq = 0;
  leank_token token = V, next = -7;
  lk_case_open(&c, &spec);
  lk_subject_open(&s, &c, &setup);
  assert_int_equal(leank_session_decode_greedy(s.session, 1, &seq, &token, &next, &err),
                   LEANK_E_ARGUMENT);
  assert_int_equal(next, -7);
  assert_int_equal(leank_session_length(s.session, 0), 0);
  lk_subject_close(&s);
  lk_case_close(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_operation),
      cmocka_unit_test(test_sessions_choose_the_largest),
      cmocka_unit_test(test_steps_that_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
