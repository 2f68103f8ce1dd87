/* What benchmarks ask of a CUDA device, on one in software (support/cuda_mock.h): weights that it
 * makes, caches it fills, greedy steps, reading, attention. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <leank/bench.h>

#include "backend/cuda.h"
#include "support/cuda_mock.h"
#include "support/subject.h"
#include "support/synthetic_fixture.h"

enum { V = SYNTHETIC_V };

static int use_mock(void **state) {
  (void)state;
  lk_cuda_library_replace(lk_cuda_mock_api());
  return 0;
}

/* Nothing of a test is left on the device. */
static int check_live(void **state) {
  (void)state;
  lk_cuda_mock.fail_alloc = lk_cuda_mock.fail_launch = 0;
  return lk_cuda_mock.n_live == 0 ? 0 : -1;
}

static leank_session *open_session(const leank_model *m, const leank_mask *mask, size_t n_ctx,
                                   size_t n_seqs) {
  return lk_synthetic_session(m, mask, n_ctx, n_seqs, LEANK_KV_BF16, LEANK_DEVICE_CUDA);
}

/* The device's weights are those of the processor: the same bits of logits come of both. Each
 * matrix is made once, for all sessions, and only its vectors are sent. */
static void test_the_device_makes_the_weights(void **state) {
  (void)state;
  enum { N_STEPS = 80 };
  for (int qwen2 = 0; qwen2 < 2; qwen2++) {
    leank_model *there = lk_synthetic_open(qwen2, 9, true),
                *here = lk_synthetic_open(qwen2, 9, false);
    const size_t n_made = lk_cuda_mock.n_made, n_loads = lk_cuda_mock.n_loads;
    leank_session *a = open_session(there, NULL, N_STEPS, 1),
                  *second = open_session(there, NULL, N_STEPS, 1);
    float got[V], want[V];
    for (size_t i = 0; i < N_STEPS; i++) {
      lk_synthetic_step(a, 0, (leank_token)i, got);
      lk_synthetic_step(second, 0, (leank_token)i, want);
      assert_memory_equal(got, want, sizeof want);
    }
    assert_int_equal(lk_cuda_mock.n_made - n_made, (qwen2 ? 1 : 2) + 7 * SYNTHETIC_L);
    assert_int_equal(lk_cuda_mock.n_loads, n_loads);
    leank_session_close(&second);
    leank_session_close(&a);
    a = open_session(there, NULL, N_STEPS, 1);
    leank_session *b = open_session(here, NULL, N_STEPS, 1);
    for (size_t i = 0; i < N_STEPS; i++) {
      lk_synthetic_step(a, 0, (leank_token)i, got);
      lk_synthetic_step(b, 0, (leank_token)i, want);
      assert_memory_equal(got, want, sizeof want);
      assert_true(isfinite(got[i % V]));
    }
    leank_session_close(&a);
    leank_session_close(&b);
    leank_model_close(&there);
    leank_model_close(&here);
  }
}

/* Weights of which one does not fit: an error, and the next step starts anew. */
static void test_weights_that_fail(void **state) {
  (void)state;
  leank_model *m = lk_synthetic_open(true, 9, true);
  leank_session *s = open_session(m, NULL, 64, 1);
  const size_t seq = 0;
  const leank_token token = 3;
  float want[V], got[V];
  leank_error err = {0};
  size_t n_failed = 0;
  for (size_t nth = 1;; nth++) {
    lk_cuda_mock.fail_alloc = nth;
    const leank_status status = leank_session_decode(s, 1, &seq, &token, got, &err);
    lk_cuda_mock.fail_alloc = 0;
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(leank_session_length(s, 0), 0);
    n_failed++;
  }
  assert_true(n_failed > 0);
  leank_session *fresh = open_session(m, NULL, 64, 1);
  lk_synthetic_step(fresh, 0, token, want);
  assert_memory_equal(got, want, sizeof want);
  leank_session_close(&fresh);
  leank_session_close(&s);
  leank_model_close(&m);
}

static void test_random_content(void **state) {
  (void)state;
  enum { N = 421, N_CTX = 500 };
  const size_t seqs[] = {1, 0};
  leank_model *m = lk_synthetic_open(false, 5, true);
  leank_mask *mask = lk_synthetic_mask(6);
  leank_session *dense = open_session(m, NULL, N_CTX, 1), *packed = open_session(m, mask, N_CTX, 1),
                *filled = open_session(m, mask, N_CTX, 2);
  leank_memory memory;
  leank_error err = {0};
  float want[V], got[V];
  lk_assert_ok(leank_session_fill_random(dense, 1, &seqs[1], N, &err), &err);
  lk_assert_ok(leank_session_fill_random(filled, 2, seqs, N, &err), &err);
  lk_assert_ok(leank_session_pack_from(packed, 0, dense, 0, &err), &err);
  leank_session_get_memory(filled, &memory);
  assert_int_equal(memory.n_lean_pages, 2 * ((N - 128) / 64));
  for (size_t i = N; i < N_CTX; i++) {
    lk_synthetic_step(packed, 0, (leank_token)(i % V), want);
    for (size_t s = 0; s < 2; s++) {
      lk_synthetic_step(filled, s, (leank_token)(i % V), got);
      assert_memory_equal(got, want, sizeof want);
    }
  }
  /* A launch that fails leaves it empty. */
  lk_cuda_mock.fail_launch = 5;
  assert_int_not_equal(leank_session_fill_random(filled, 1, seqs, N, &err), LEANK_OK);
  lk_cuda_mock.fail_launch = 0;
  lk_assert_ok(leank_session_fill_random(filled, 1, seqs, N, &err), &err);
  assert_int_equal(leank_session_length(filled, 1), N);
  leank_session_close(&dense);
  leank_session_close(&packed);
  leank_session_close(&filled);
  leank_mask_close(&mask);
  leank_model_close(&m);
}

/* As the largest logit, in plain, recorded and replayed steps; a failure leaves the sequences. */
static void test_greedy_steps(void **state) {
  (void)state;
  enum { N = 3, N_STEPS = 70 };
  leank_model *m = lk_synthetic_open(true, 4, true);
  leank_session *a = open_session(m, NULL, N_STEPS, N), *b = open_session(m, NULL, N_STEPS, N);
  const size_t seqs[N] = {0, 1, 2};
  leank_token tokens[N] = {7, 8, 9}, next[N];
  float logits[N][V];
  leank_error err = {0};
  for (size_t step = 0; step < N_STEPS; step++) {
    lk_assert_ok(leank_session_decode(a, N, seqs, tokens, logits[0], &err), &err);
    if (step % 20 == 5) {
      lk_cuda_mock.fail_launch = 1;
      assert_int_not_equal(leank_session_decode_greedy(b, N, seqs, tokens, next, &err), LEANK_OK);
      lk_cuda_mock.fail_launch = 0;
      assert_int_equal(leank_session_length(b, 1), step);
    }
    lk_assert_ok(leank_session_decode_greedy(b, N, seqs, tokens, next, &err), &err);
    for (size_t i = 0; i < N; i++) {
      size_t best = 0;
      for (size_t t = 1; t < V; t++) best = logits[i][t] > logits[i][best] ? t : best;
      assert_int_equal(next[i], best);
    }
    memcpy(tokens, next, sizeof tokens);
  }
  leank_session_close(&a);
  leank_session_close(&b);
  leank_model_close(&m);
}

/* ---- without a model ---- */

static leank_bench_options small_options(void) {
  leank_bench_options o;
  leank_bench_options_default(&o);
  o.device = LEANK_DEVICE_CUDA;
  o.device_index = 1;
  o.n_repeats = 2;
  o.rotate_bytes = 1 << 20;
  return o;
}

/* A reading takes a millisecond there. */
static void test_reading(void **state) {
  (void)state;
  leank_bench_options o = small_options();
  leank_bench_read_result r;
  leank_error err = {0};
  const size_t n_launches = lk_cuda_mock.n_launches;
  lk_assert_ok(leank_bench_read(&o, &r, &err), &err);
  assert_true(r.n_bytes >= o.rotate_bytes && r.n_bytes % 16 == 0 && r.n_patterns >= 3);
  assert_true(lk_cuda_mock.n_launches - n_launches >= r.n_patterns * 3);
  for (size_t i = 0; i < r.n_patterns; i++) {
    assert_true(fabs(r.patterns[i].bytes_per_second / (1e3 * (double)r.n_bytes) - 1) < 1e-6);
    assert_string_equal(r.patterns[i].kernel, "read_cuda");
  }
  assert_true(r.best < r.n_patterns);
  o.device_index = 2;
  assert_int_equal(leank_bench_read(&o, &r, &err), LEANK_E_UNSUPPORTED);
  o = small_options();
  for (size_t nth = 1, failed = 1; failed; nth++) {
    lk_cuda_mock.fail_alloc = nth;
    failed = leank_bench_read(&o, &r, &err) != LEANK_OK;
    lk_cuda_mock.fail_alloc = 0;
    if (failed) assert_int_equal(err.code, LEANK_E_MEMORY);
    assert_int_equal(lk_cuda_mock.n_live, 0);
  }
  lk_cuda_mock.fail_launch = 9;
  assert_int_equal(leank_bench_read(&o, &r, &err), LEANK_E_STATE);
}

/* More slots than there are marks, and several runs of a mask's layers: every layer has its
 * samples, of a millisecond. */
static void test_attention(void **state) {
  (void)state;
  leank_bench_options o = small_options();
  leank_bench_shape shape;
  leank_mask *mask = lk_synthetic_mask(6);
  const leank_bench_cache caches[] = {{NULL, LEANK_BENCH_DENSE}, {mask, 0}};
  leank_bench_attention_result results[2];
  leank_bench_layer layers[2][SYNTHETIC_L];
  leank_error err = {0};
  leank_bench_shape_default(&shape);
  shape.n_layers = SYNTHETIC_L;
  shape.n_heads = 4;
  shape.n_kv_heads = SYNTHETIC_HK;
  shape.head_dim = SYNTHETIC_D;
  for (size_t i = 0; i < 2; i++) {
    shape.n_tokens = i == 0 ? 5 : 300;
    shape.n_seqs = i == 0 ? 1 : 3;
    o.rotate_bytes = i == 0 ? 400000 : 300000; /* some 150 slots; one layer in a run */
    lk_assert_ok(leank_bench_attention(&o, &shape, caches, 2, results, layers[0], &err), &err);
    for (size_t c = 0; c < 2; c++) {
      size_t n_bytes = 0;
      for (size_t l = 0; l < SYNTHETIC_L; l++) {
        assert_true(fabs(layers[c][l].seconds - 1e-3) < 1e-9);
        assert_true(fabs(layers[c][l].min_seconds - 1e-3) < 1e-9);
        n_bytes += layers[c][l].n_bytes;
      }
      assert_int_equal(results[c].n_bytes, n_bytes);
      assert_true(results[c].n_samples >= (i == 0 ? 2 * 129 / SYNTHETIC_L : 2));
    }
    assert_true(i == 0 || results[1].n_bytes < results[0].n_bytes);
  }
  leank_mask_close(&mask);
}

#define ON_MOCK(test) cmocka_unit_test_setup_teardown(test, use_mock, check_live)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_MOCK(test_the_device_makes_the_weights),
      ON_MOCK(test_weights_that_fail),
      ON_MOCK(test_random_content),
      ON_MOCK(test_greedy_steps),
      ON_MOCK(test_reading),
      ON_MOCK(test_attention),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
