/* Models of random weights, sequences of random content, greedy steps. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random_bf16.h"
#include "model/model.h"
#include "support/hostile.h"
#include "support/subject.h"
#include "support/synthetic_fixture.h"

enum { V = SYNTHETIC_V, P = LEANK_PAGE_TOKENS, MAX_TENSORS = 2 + SYNTHETIC_L * 12 };

/* ---- weights ---- */

/* Every weight of a model but the norms; returns their count. */
static size_t list_random(const leank_model *m, lk_tensor *out) {
  size_t n = 0;
  out[n++] = m->weights.embed;
  if (!m->info.tied_output) out[n++] = m->weights.output;
  for (size_t l = 0; l < m->info.n_layers; l++) {
    const lk_layer_weights *w = &m->weights.layers[l];
    const lk_tensor all[] = {w->q,  w->k,    w->v,      w->o,      w->gate,
                             w->up, w->down, w->q_bias, w->k_bias, w->v_bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
      if (all[i].data) out[n++] = all[i];
  }
  return n;
}

static double value_at(const lk_tensor *t, size_t i) {
  if (t->type == LK_F32) return (double)((const float *)t->data)[i];
  return (double)lk_bf16_to_f32(((const uint16_t *)t->data)[i]);
}

/* Uniform in +-a: the mean within six deviations of 0, the variance within six of a^2 / 3 (that of
 * a square is 4 a^4 / 45). */
static void check_uniform(const lk_tensor *t, double a) {
  const size_t n = t->n_rows * t->n_cols;
  double sum = 0, squares = 0;
  for (size_t i = 0; i < n; i++) {
    const double x = value_at(t, i);
    assert_true(fabs(x) <= a * (1 + 0x1p-8));
    sum += x;
    squares += x * x;
  }
  assert_true(fabs(sum / (double)n) <= 6 * a / sqrt(3.0 * (double)n));
  assert_true(fabs(squares / (double)n - a * a / 3) <=
              6 * a * a * sqrt(4.0 / 45 / (double)n) + 0x1p-7 * a * a / 3);
}

static void test_weights_are_what_was_asked_for(void **state) {
  (void)state;
  for (int qwen2 = 0; qwen2 < 2; qwen2++) {
    leank_model *m = lk_synthetic_open(qwen2, 1, false),
                *again = lk_synthetic_open(qwen2, 1, false),
                *other = lk_synthetic_open(qwen2, 2, false);
    const leank_model_info *info = leank_model_get_info(m);
    lk_tensor a[MAX_TENSORS], b[MAX_TENSORS], c[MAX_TENSORS];
    const size_t n = list_random(m, a);
    assert_int_equal(list_random(again, b), n);
    assert_int_equal(list_random(other, c), n);
    assert_int_equal(n, qwen2 ? 1 + 2 * 10 : 2 + 2 * 7);
    size_t n_params = (size_t)(2 * SYNTHETIC_L + 1) * 96, n_bytes = n_params * 4;
    for (size_t i = 0; i < n; i++) {
      const size_t size = a[i].n_rows * lk_tensor_row_bytes(&a[i]);
      assert_memory_equal(a[i].data, b[i].data, size);
      assert_memory_not_equal(a[i].data, c[i].data, size);
      if (i > 0) assert_memory_not_equal(a[i].data, a[i - 1].data, 64);
      n_params += a[i].n_rows * a[i].n_cols;
      n_bytes += size;
      if (a[i].type == LK_F32)
        check_uniform(&a[i], 0.125);
      else if (i > 0 || qwen2)
        check_uniform(&a[i], sqrt(3.0 / (double)a[i].n_cols));
      else
        check_uniform(&a[i], sqrt(3.0));
    }
    for (size_t l = 0; l < SYNTHETIC_L; l++)
      for (size_t i = 0; i < 96; i++)
        assert_true(value_at(&m->weights.layers[l].attn_norm, i) == 1 &&
                    value_at(&m->weights.layers[l].ffn_norm, i) == 1 &&
                    value_at(&m->weights.out_norm, i) == 1);
    assert_int_equal(info->n_params, n_params);
    assert_int_equal(info->weight_bytes, n_bytes);
    assert_string_equal(info->weight_types,
                        qwen2 ? "BF16 15, F32 11, random" : "BF16 16, F32 5, random");
    assert_string_equal(info->fingerprint, "");
    assert_null(leank_model_get_tokenizer(m));
    leank_model_close(&m);
    leank_model_close(&again);
    leank_model_close(&other);
  }
}

/* Any part can be made alone. */
static void test_elements_follow_from_their_index(void **state) {
  (void)state;
  enum { N = 1000 };
  const lk_random_source source = {0xfedcba9876543210u, 0.3f};
  uint16_t whole[N], part[N];
  lk_random_bf16(&source, 0, N, whole);
  for (size_t first = 0; first < N; first += 77) {
    lk_random_bf16(&source, first, N - first, part);
    assert_memory_equal(part, whole + first, (N - first) * sizeof *part);
  }
}

/* ---- what is refused ---- */

static void refused(const char *path, leank_status want, const char *part) {
  leank_model *model = NULL;
  leank_error err = {0};
  const size_t before = hostile_mem_in_use();
  assert_int_equal(leank_model_open_synthetic(path, NULL, &model, &err), want);
  assert_null(model);
  if (!strstr(err.message, part)) fail_msg("'%s' does not say '%s'", err.message, part);
  assert_int_equal(hostile_mem_in_use(), before);
}

static void write_text(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0);
  assert_int_equal(fclose(f), 0);
}

#define CONFIG(layers, hidden, ffn, vocab)                                                         \
  "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": " hidden                           \
  ", \"intermediate_size\": " ffn ", \"num_hidden_layers\": " layers                               \
  ", \"num_attention_heads\": 4, \"num_key_value_heads\": 4, \"vocab_size\": " vocab               \
  ", \"max_position_embeddings\": 512}"

static void test_hostile_configs(void **state) {
  (void)state;
  const char *path = LEANK_TEST_TMP "/synthetic-hostile.json";
  static const struct {
    const char *text, *part;
    leank_status status;
  } cases[] = {
      {"", "", LEANK_E_FORMAT},
      {"{", "synthetic-hostile.json", LEANK_E_FORMAT},
      {"[]", "object", LEANK_E_FORMAT},
      {"{\"architectures\": [\"MistralForCausalLM\"]}", "MistralForCausalLM", LEANK_E_UNSUPPORTED},
      {CONFIG("0", "64", "64", "64"), "layers", LEANK_E_FORMAT},
      {CONFIG("2", "66", "64", "64"), "no multiple", LEANK_E_FORMAT},
      {CONFIG("2", "64", "-1", "64"), "intermediate_size", LEANK_E_FORMAT},
      {CONFIG("2", "64", "64", "99999999999"), "vocabulary", LEANK_E_FORMAT},
      /* the largest description there may be, of 2^12 layers of 2^49 numbers; only wide; only long
       */
      {CONFIG("4096", "131072", "16777216", "67108864"), "are free", LEANK_E_MEMORY},
      {CONFIG("1", "131072", "16777216", "64"), "are free", LEANK_E_MEMORY},
      {CONFIG("1", "65536", "64", "67108864"), "are free", LEANK_E_MEMORY},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_text(path, cases[i].text);
    refused(path, cases[i].status, cases[i].part);
  }
  refused(LEANK_TEST_TMP "/nowhere.json", LEANK_E_IO, "nowhere.json");
  refused(LEANK_TEST_TMP, LEANK_E_IO, LEANK_TEST_TMP);
}

static void test_arguments_that_are_not_possible(void **state) {
  (void)state;
  leank_synthetic_options options;
  leank_model *model = NULL;
  leank_error err = {0};
  const char *path = lk_synthetic_config(false);
  leank_synthetic_options_default(&options);
  options.struct_size = 1;
  assert_int_equal(leank_model_open_synthetic(NULL, NULL, &model, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_open_synthetic(path, NULL, NULL, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_open_synthetic(path, &options, &model, &err), LEANK_E_ARGUMENT);
  assert_null(model);
}

static void test_every_allocation_of_opening_may_fail(void **state) {
  (void)state;
  const size_t before = hostile_mem_in_use();
  const char *path = lk_synthetic_config(true);
  size_t nth = 0;
  for (bool failed = true; failed;) {
    leank_model *model = NULL;
    leank_error err = {0};
    lk_alloc_fail_nth(++nth);
    failed = leank_model_open_synthetic(path, NULL, &model, &err) != LEANK_OK;
    lk_alloc_fail_nth(0);
    if (failed) assert_int_equal(err.code, LEANK_E_MEMORY);
    leank_model_close(&model);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(nth > 5);
}

/* Weights that a device makes are none of the processor's. */
static void test_the_cpu_has_no_weights_of_a_device(void **state) {
  (void)state;
  leank_model *m = lk_synthetic_open(false, 1, true), *host = lk_synthetic_open(false, 1, false);
  leank_session *s = NULL;
  leank_error err = {0};
  assert_int_equal(leank_session_open(m, NULL, &s, &err), LEANK_E_UNSUPPORTED);
  assert_non_null(strstr(err.message, "CUDA"));
  assert_null(s);
  assert_int_equal(lk_model_check_cpu(m, &err), LEANK_E_UNSUPPORTED);
  assert_int_equal(lk_model_check_cpu(host, &err), LEANK_OK);
  assert_int_equal(leank_model_get_info(m)->weight_bytes, leank_model_get_info(host)->weight_bytes);
  leank_model_close(&m);
  leank_model_close(&host);
}

/* ---- sessions ---- */

static void test_models_compute(void **state) {
  (void)state;
  enum { N = 100 };
  leank_token tokens[N];
  for (size_t i = 0; i < N; i++) tokens[i] = (leank_token)(i * 37 % V);
  for (int qwen2 = 0; qwen2 < 2; qwen2++) {
    leank_model *m = lk_synthetic_open(qwen2, 3, false);
    leank_session *s = lk_synthetic_session(m, NULL, 128, 1, LEANK_KV_F32, LEANK_DEVICE_CPU);
    leank_error err = {0};
    float logits[V];
    double squares = 0;
    lk_assert_ok(leank_session_feed(s, 0, tokens, N, NULL, &err), &err);
    lk_synthetic_step(s, 0, 5, logits);
    for (size_t i = 0; i < V; i++) squares += (double)logits[i] * (double)logits[i];
    /* Variance 1 by the scale of the output matrix; half and twice that leave room for chance. */
    assert_true(squares / V > 0.5 && squares / V < 2);
    leank_session_close(&s);
    leank_model_close(&m);
  }
}

static void test_greedy_steps_take_the_largest(void **state) {
  (void)state;
  enum { N = 3, N_STEPS = 20 };
  leank_model *m = lk_synthetic_open(true, 4, false);
  leank_session *a = lk_synthetic_session(m, NULL, 64, N, LEANK_KV_BF16, LEANK_DEVICE_CPU),
                *b = lk_synthetic_session(m, NULL, 64, N, LEANK_KV_BF16, LEANK_DEVICE_CPU);
  const size_t seqs[N] = {0, 1, 2}, far = N;
  leank_token tokens[N] = {7, 8, 9}, next[N], one;
  float logits[N][V];
  leank_error err = {0};
  for (size_t step = 0; step < N_STEPS; step++) {
    lk_assert_ok(leank_session_decode(a, N, seqs, tokens, logits[0], &err), &err);
    lk_assert_ok(leank_session_decode_greedy(b, N, seqs, tokens, next, &err), &err);
    for (size_t i = 0; i < N; i++) {
      size_t best = 0;
      for (size_t t = 1; t < V; t++) best = logits[i][t] > logits[i][best] ? t : best;
      assert_int_equal(next[i], best);
    }
    memcpy(tokens, next, sizeof tokens);
  }
  assert_int_equal(leank_session_decode_greedy(b, 1, &far, tokens, &one, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_length(b, 0), N_STEPS);
  leank_session_close(&a);
  leank_session_close(&b);
  leank_model_close(&m);
}

/* ---- random content ---- */

/* A masked session filled gives the bits of a dense one filled and packed into it. */
static void check_fill(const leank_model *m, const leank_mask *mask, size_t n, leank_kv_type type) {
  enum { N_SEQS = 3 };
  const size_t seqs[N_SEQS] = {2, 0, 1}, n_ctx = n + 70;
  leank_session *dense = lk_synthetic_session(m, NULL, n_ctx, 1, type, LEANK_DEVICE_CPU),
                *packed = lk_synthetic_session(m, mask, n_ctx, 1, type, LEANK_DEVICE_CPU),
                *filled = lk_synthetic_session(m, mask, n_ctx, N_SEQS, type, LEANK_DEVICE_CPU);
  leank_error err = {0};
  leank_memory one, all;
  float want[V], got[V];
  leank_session_get_memory(packed, &one);
  assert_int_equal(one.prefill_scratch, leank_session_get_plan(packed)->turn_reserved);
  lk_assert_ok(leank_session_fill_random(dense, 1, &seqs[1], n, &err), &err);
  lk_assert_ok(leank_session_fill_random(filled, N_SEQS, seqs, n, &err), &err);
  lk_assert_ok(leank_session_fill_random(filled, 1, seqs, n, &err), &err); /* once more */
  lk_assert_ok(leank_session_pack_from(packed, 0, dense, 0, &err), &err);
  leank_session_get_memory(packed, &one);
  leank_session_get_memory(filled, &all);
  assert_int_equal(all.n_wide_pages, N_SEQS * one.n_wide_pages); /* none is shared */
  assert_int_equal(all.n_lean_pages, N_SEQS * one.n_lean_pages);
  assert_int_equal(all.wide_stored + all.lean_stored, N_SEQS * (one.wide_stored + one.lean_stored));
  assert_true(n < 200 || one.n_lean_pages > 0);
  for (size_t i = 0; i < 70; i++) {
    lk_synthetic_step(packed, 0, (leank_token)i, want);
    for (size_t s = 0; s < N_SEQS; s++) {
      lk_synthetic_step(filled, s, (leank_token)i, got);
      assert_memory_equal(got, want, sizeof want);
    }
    for (size_t t = 0; t < V; t++) assert_true(isfinite(want[t]));
  }
  assert_int_equal(leank_session_length(filled, 1), n_ctx);
  leank_session_close(&dense);
  leank_session_close(&packed);
  leank_session_close(&filled);
}

static void test_random_content(void **state) {
  (void)state;
  leank_model *m = lk_synthetic_open(true, 5, false);
  leank_mask *mask = lk_synthetic_mask(6);
  const size_t lengths[] = {1, 64, 100, 200, 421, 1500};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    check_fill(m, mask, lengths[i], LEANK_KV_BF16);
  check_fill(m, mask, 300, LEANK_KV_F32);
  check_fill(m, mask, 300, LEANK_KV_Q8);
  leank_mask_close(&mask);
  leank_model_close(&m);
}

static void test_filling_that_is_not_possible(void **state) {
  (void)state;
  leank_model *m = lk_synthetic_open(false, 5, false);
  leank_session *s = lk_synthetic_session(m, NULL, 128, 2, LEANK_KV_BF16, LEANK_DEVICE_CPU);
  const size_t seqs[] = {0, 2};
  leank_error err = {0};
  assert_int_equal(leank_session_fill_random(s, 1, seqs, 0, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_fill_random(s, 1, seqs, 129, &err), LEANK_E_CONTEXT);
  assert_int_equal(leank_session_fill_random(s, 2, seqs, 64, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_session_length(s, 0), 0);
  size_t nth = 0;
  for (bool failed = true; failed;) {
    const size_t before = hostile_mem_in_use();
    lk_alloc_fail_nth(++nth);
    failed = leank_session_fill_random(s, 1, seqs, 100, &err) != LEANK_OK;
    lk_alloc_fail_nth(0);
    if (failed) assert_int_equal(err.code, LEANK_E_MEMORY);
    assert_int_equal(leank_session_length(s, 0), failed ? 0 : 100);
    assert_int_equal(hostile_mem_in_use(), before);
  }
  assert_true(nth > 4);
  leank_session_close(&s);
  leank_model_close(&m);
}

/* Where the mean stands in, it is none at first, and decoding goes on. */
static void test_random_content_and_means(void **state) {
  (void)state;
  leank_model *m = lk_synthetic_open(false, 5, false);
  leank_mask *mask = lk_synthetic_mask(6);
  leank_session_options options;
  leank_session *s = NULL;
  leank_error err = {0};
  const size_t seq = 0;
  float logits[V];
  leank_session_options_default(&options);
  options.mask = mask;
  options.n_ctx = 512;
  options.policy = LEANK_POLICY_MEAN;
  options.mean_compensation = 1;
  options.cpu = lk_test_cpu();
  lk_assert_ok(leank_session_open(m, &options, &s, &err), &err);
  lk_assert_ok(leank_session_fill_random(s, 1, &seq, 400, &err), &err);
  for (size_t i = 0; i < 100; i++) {
    lk_synthetic_step(s, 0, (leank_token)i, logits);
    for (size_t t = 0; t < V; t++) assert_true(isfinite(logits[t]));
  }
  leank_session_close(&s);
  leank_mask_close(&mask);
  leank_model_close(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_weights_are_what_was_asked_for),
      cmocka_unit_test(test_elements_follow_from_their_index),
      cmocka_unit_test(test_hostile_configs),
      cmocka_unit_test(test_arguments_that_are_not_possible),
      cmocka_unit_test(test_every_allocation_of_opening_may_fail),
      cmocka_unit_test(test_the_cpu_has_no_weights_of_a_device),
      cmocka_unit_test(test_models_compute),
      cmocka_unit_test(test_greedy_steps_take_the_largest),
      cmocka_unit_test(test_random_content),
      cmocka_unit_test(test_filling_that_is_not_possible),
      cmocka_unit_test(test_random_content_and_means),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
