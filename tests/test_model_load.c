/* Opening models: what is read of sound files. Needs no session. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/model.h"
#include "support/model_fixture.h"

/* ---- what a model says of itself ---- */

typedef struct expected {
  const char *path, *architecture, *types;
  size_t n_heads, head_dim, hidden, ffn, n_vocab;
  leank_rope_scaling scaling;
  leank_channel_order order;
  bool tied, bias, tokenizer;
} expected;

static const expected models[] = {
    {"llama-mixed.gguf", "llama",
     "Q8_0 2, Q4_K 3, Q5_0 2, Q6_K 2, Q4_0 2, Q5_K 2, Q4_1 1, Q5_1 1, F32 5", 4, 64, 256, 256, 320,
     LEANK_ROPE_PLAIN, LEANK_ORDER_PAIRS, true, false, true},
    {"qwen2-mixed.gguf", "qwen2", "Q4_K 11, Q6_K 5, F32 11", 8, 32, 256, 256, 320, LEANK_ROPE_PLAIN,
     LEANK_ORDER_HALF, false, true, true},
    {"llama-plain.gguf", "llama", "F32 9, F16 8, BF16 4", 4, 32, 64, 128, 300, LEANK_ROPE_LLAMA3,
     LEANK_ORDER_PAIRS, false, false, true},
    {"llama-bf16", "llama", "BF16 21", 4, 32, 64, 128, 300, LEANK_ROPE_LLAMA3, LEANK_ORDER_HALF,
     false, false, true},
    {"llama-f32", "llama", "F32 20", 4, 32, 32, 64, 300, LEANK_ROPE_LINEAR, LEANK_ORDER_HALF, true,
     false, true},
    {"llama-f16", "llama", "F16 20", 4, 32, 64, 128, 300, LEANK_ROPE_YARN, LEANK_ORDER_HALF, true,
     false, false},
    {"qwen2-bf16", "qwen2", "BF16 26", 4, 32, 64, 128, 300, LEANK_ROPE_PLAIN, LEANK_ORDER_HALF,
     true, true, true},
};
enum { N_MODELS = sizeof models / sizeof *models };

static void tiny_path(char *out, size_t n, size_t i) {
  snprintf(out, n, "%s%s", TINY, models[i].path);
}

static size_t params_of(const expected *e) {
  size_t q = e->n_heads * e->head_dim, kv = 2 * e->head_dim;
  size_t layer = 2 * e->hidden + e->hidden * (2 * q + 2 * kv) + 3 * e->hidden * e->ffn;
  if (e->bias) layer += q + 2 * kv;
  return 2 * layer + e->hidden + e->n_vocab * e->hidden * (e->tied ? 1 : 2);
}

static void test_info_of_tiny_models(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    const expected *e = &models[i];
    char path[512];
    tiny_path(path, sizeof path, i);
    leank_model *m = lk_model_must_open(path);
    const leank_model_info *info = leank_model_get_info(m);
    print_message("%s: %s\n", e->path, info->weight_types);
    assert_string_equal(info->architecture, e->architecture);
    assert_string_equal(info->weight_types, e->types);
    assert_int_equal(info->n_layers, 2);
    assert_int_equal(info->n_heads, e->n_heads);
    assert_int_equal(info->n_kv_heads, 2);
    assert_int_equal(info->head_dim, e->head_dim);
    assert_int_equal(info->hidden, e->hidden);
    assert_int_equal(info->ffn, e->ffn);
    assert_int_equal(info->n_vocab, e->n_vocab);
    assert_int_equal(info->n_ctx_train, 4096);
    assert_int_equal(info->rope_scaling, e->scaling);
    assert_int_equal(info->order, e->order);
    assert_int_equal(info->tied_output, e->tied);
    assert_int_equal(info->qkv_bias, e->bias);
    assert_int_equal(info->n_params, params_of(e));
    assert_float_equal(info->norm_eps, 1e-5, 1e-11);
    assert_int_equal(strlen(info->fingerprint), 16);
    assert_int_equal(leank_model_get_tokenizer(m) != NULL, e->tokenizer);
    leank_model_info again = lk_model_must_read(path);
    assert_memory_equal(&again, info, sizeof again);
    leank_model_close(&m);
    assert_null(m);
  }
}

static void test_fingerprints_differ(void **state) {
  (void)state;
  char seen[N_MODELS][17], path[512];
  for (size_t i = 0; i < N_MODELS; i++) {
    tiny_path(path, sizeof path, i);
    memcpy(seen[i], lk_model_must_read(path).fingerprint, sizeof seen[i]);
    for (size_t j = 0; j < i; j++) assert_string_not_equal(seen[i], seen[j]);
  }
}

static void test_weights_are_bound(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    const expected *e = &models[i];
    char path[512];
    tiny_path(path, sizeof path, i);
    leank_model *m = lk_model_must_open(path);
    const lk_layer_weights *l = &m->weights.layers[1];
    assert_int_equal(l->q.n_rows, e->n_heads * e->head_dim);
    assert_int_equal(l->k.n_rows, 2 * e->head_dim);
    assert_int_equal(l->down.n_cols, e->ffn);
    assert_int_equal(l->attn_norm.type, LK_F32);
    assert_int_equal(m->weights.out_norm.type, LK_F32);
    assert_int_equal(l->q_bias.data != NULL, e->bias);
    assert_true(!e->bias || (l->v_bias.type == LK_F32 && l->v_bias.n_cols == 2 * e->head_dim));
    assert_int_equal(m->weights.output.data == m->weights.embed.data, e->tied);
    assert_int_equal(m->weights.embed.n_rows, e->n_vocab);
    leank_model_close(&m);
  }
}

/* Norms stored as F16 or BF16 keep their values. 1 + 0.2 n(0, 1): a plain range check would miss a
 * wrong byte order, so the bits are widened again here, another way. */
static void test_norms_are_widened(void **state) {
  (void)state;
  static const char *const folders[][2] = {
      {TINY "llama-f16", TINY "llama-f16/model-00002-of-00002.safetensors"},
      {TINY "llama-bf16", TINY "llama-bf16/model.safetensors"}};
  for (size_t i = 0; i < 2; i++) {
    leank_model *m = lk_model_must_open(folders[i][0]);
    lk_safetensors *st = NULL;
    assert_int_equal(lk_safetensors_open(folders[i][1], &st, NULL), LEANK_OK);
    const lk_st_tensor *raw =
        lk_safetensors_find(st, "model.layers.1.post_attention_layernorm.weight");
    assert_non_null(raw);
    const float *wide = m->weights.layers[1].ffn_norm.data;
    for (size_t c = 0; c < 64; c++) {
      uint16_t h;
      memcpy(&h, (const char *)raw->data + 2 * c, 2);
      int exponent = i == 0 ? (h >> 10) & 31 : (h >> 7) & 255;
      double mantissa = i == 0 ? 1 + (h & 1023) / 1024.0 : 1 + (h & 127) / 128.0;
      double value = ldexp(mantissa, exponent - (i == 0 ? 15 : 127)) * (h & 0x8000 ? -1 : 1);
      assert_true((double)wide[c] == value);
    }
    lk_safetensors_close(&st);
    leank_model_close(&m);
  }
}

typedef struct progress {
  uint64_t last, total;
  size_t calls;
} progress;

static void on_progress(void *user, uint64_t done, uint64_t total) {
  progress *p = user;
  assert_true(done >= p->last && done <= total && (p->calls == 0 || total == p->total));
  *p = (progress){done, total, p->calls + 1};
}

static void test_progress(void **state) {
  (void)state;
  progress p = {0};
  leank_model_options options;
  leank_model_options_default(&options);
  options.on_progress = on_progress;
  options.user = &p;
  leank_model *m = NULL;
  assert_int_equal(leank_model_open(TINY "qwen2-mixed.gguf", &options, &m, NULL), LEANK_OK);
  assert_true(p.calls > 1 && p.last == p.total);
  assert_true(p.total <= leank_model_get_info(m)->weight_bytes);
  leank_model_close(&m);
}

static void test_arguments(void **state) {
  (void)state;
  leank_model *m = NULL;
  leank_model_info info;
  leank_error err;
  leank_model_options options;
  leank_model_options_default(&options);
  options.struct_size -= 1;
  assert_int_equal(leank_model_open(NULL, NULL, &m, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_open(TINY "llama-f32", NULL, NULL, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_open(TINY "llama-f32", &options, &m, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_read_info(NULL, &info, &err), LEANK_E_ARGUMENT);
  assert_int_equal(leank_model_read_info(TINY "llama-f32", NULL, NULL), LEANK_E_ARGUMENT);
  leank_model_close(&m);
  leank_model_close(NULL);
  lk_model_refused(TINY "none.gguf", LEANK_E_IO, "none.gguf");
  lk_model_refused(TINY "llama-bf16/model.safetensors", LEANK_E_UNSUPPORTED, "open its folder");
  lk_model_refused(TINY "llama-bf16/config.json", LEANK_E_UNSUPPORTED, "open its folder");
  lk_model_refused(LEANK_TEST_DATA "/golden/text.txt", LEANK_E_FORMAT, "text.txt");
}

/* ---- weights in memory ---- */

static leank_model *open_with(const char *path, leank_weights_place place) {
  leank_model *m = NULL;
  leank_error err = {0};
  leank_model_options options;
  leank_model_options_default(&options);
  options.weights = place;
  if (leank_model_open(path, &options, &m, &err) != LEANK_OK) fail_msg("%s", err.message);
  return m;
}

/* The same bytes elsewhere. */
static void same_but_moved(const lk_tensor *mapped, const lk_tensor *moved) {
  assert_ptr_not_equal(mapped->data, moved->data);
  assert_int_equal((uintptr_t)moved->data % 64, 0);
  assert_int_equal(mapped->n_rows, moved->n_rows);
  assert_memory_equal(mapped->data, moved->data, mapped->n_rows * lk_tensor_row_bytes(mapped));
}

static void test_weights_in_memory(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    char path[512];
    tiny_path(path, sizeof path, i);
    leank_model *a = open_with(path, LEANK_WEIGHTS_MAPPED);
    leank_model *b = open_with(path, LEANK_WEIGHTS_MEMORY);
    const lk_weights *x = &a->weights, *y = &b->weights;
    same_but_moved(&x->output, &y->output);
    assert_true((y->embed.data == y->output.data) == models[i].tied);
    assert_memory_equal(x->embed.data, y->embed.data,
                        x->embed.n_rows * lk_tensor_row_bytes(&x->embed));
    for (size_t l = 0; l < a->info.n_layers; l++) {
      const lk_layer_weights *p = &x->layers[l], *q = &y->layers[l];
      const lk_tensor *from[] = {&p->q, &p->k, &p->v, &p->o, &p->gate, &p->up, &p->down};
      const lk_tensor *to[] = {&q->q, &q->k, &q->v, &q->o, &q->gate, &q->up, &q->down};
      for (size_t t = 0; t < sizeof to / sizeof *to; t++) same_but_moved(from[t], to[t]);
    }
    assert_string_equal(a->info.fingerprint, b->info.fingerprint);
    leank_model_close(&a);
    leank_model_close(&b);
  }
}

static void test_no_memory_for_weights(void **state) {
  (void)state;
  leank_model *m = NULL;
  leank_error err;
  leank_model_options options;
  leank_model_options_default(&options);
  options.weights = LEANK_WEIGHTS_MEMORY;
  const size_t before = lk_mem_in_use(LK_MEM_OTHER);
  leank_status status = LEANK_E_MEMORY;
  for (size_t nth = 1; status != LEANK_OK; nth++) {
    lk_alloc_fail_nth(nth);
    status = leank_model_open(TINY "llama-f32", &options, &m, &err);
    lk_alloc_fail_nth(0);
    if (status == LEANK_OK) break;
    assert_int_equal(status, LEANK_E_MEMORY);
    assert_int_equal(lk_mem_in_use(LK_MEM_OTHER), before);
  }
  leank_model_close(&m);
  options.weights = (leank_weights_place)3;
  assert_int_equal(leank_model_open(TINY "llama-f32", &options, &m, &err), LEANK_E_ARGUMENT);
}

/* ---- published models, from their config.json ---- */

static void test_llama_31_8b(void **state) {
  (void)state;
  const leank_model_info i = lk_model_must_read(CONFIGS "llama-3.1-8b.json");
  assert_string_equal(i.architecture, "llama");
  assert_int_equal(i.n_layers, 32);
  assert_int_equal(i.n_heads, 32);
  assert_int_equal(i.n_kv_heads, 8);
  assert_int_equal(i.head_dim, 128);
  assert_int_equal(i.ffn, 14336);
  assert_int_equal(i.n_ctx_train, 131072);
  assert_int_equal(i.n_params, 8030261248); /* as published */
  assert_int_equal(i.rope_scaling, LEANK_ROPE_LLAMA3);
  assert_true(i.rope_theta == 500000 && i.rope_factor == 8);
  assert_true(i.rope_low_freq == 1 && i.rope_high_freq == 4 && i.rope_orig_ctx == 8192);
  assert_true(!i.qkv_bias && !i.tied_output && i.norm_eps == 1e-5);
  assert_int_equal(i.order, LEANK_ORDER_HALF);
  assert_string_equal(i.fingerprint, "");
  assert_string_equal(i.weight_types, "");
  assert_int_equal(i.weight_bytes, 0);
  const leank_model_info newer = lk_model_must_read(CONFIGS "rope-parameters.json");
  assert_memory_equal(&newer, &i, sizeof i);
}

static void test_qwen25_7b(void **state) {
  (void)state;
  const leank_model_info i = lk_model_must_read(CONFIGS "qwen2.5-7b.json");
  assert_string_equal(i.architecture, "qwen2");
  assert_int_equal(i.n_layers, 28);
  assert_int_equal(i.n_heads, 28);
  assert_int_equal(i.n_kv_heads, 4);
  assert_int_equal(i.head_dim, 128);
  assert_int_equal(i.hidden, 3584);
  assert_int_equal(i.n_vocab, 152064);
  assert_int_equal(i.n_params, 7615616512); /* as published */
  assert_int_equal(i.rope_scaling, LEANK_ROPE_PLAIN);
  assert_true(i.rope_theta == 1e6 && i.rope_factor == 1 && i.qkv_bias && !i.tied_output);
}

/* ---- RoPE ---- */

/* transformers computes in fp32: the exponent 2i/D ln(theta) < 14 of theta^(2i/D) rounds to within
 * 14 * 2^-24 relative and some more roundings follow. Where two scalings blend, the share of the
 * unscaled one carries three roundings of at most 2^-25 and weighs `factor` times the other. */
static double rope_tolerance(const leank_model_info *info) {
  bool blend = info->rope_scaling == LEANK_ROPE_LLAMA3 || info->rope_scaling == LEANK_ROPE_YARN;
  return (14 + 8 + (blend ? 1.5 * info->rope_factor : 0)) * 0x1p-24;
}

static void check_rope_golden(const lk_safetensors *st, const char *config) {
  char path[512], key[128];
  snprintf(path, sizeof path, "%s%s.json", CONFIGS, config);
  const leank_model_info info = lk_model_must_read(path);
  snprintf(key, sizeof key, "%s.inv_freq", config);
  const lk_st_tensor *want = lk_safetensors_find(st, key);
  snprintf(key, sizeof key, "%s.mscale", config);
  const lk_st_tensor *want_mscale = lk_safetensors_find(st, key);
  assert_true(want && want_mscale && want->shape[0] == info.head_dim / 2);
  double *inv_freq = calloc(info.head_dim / 2, sizeof *inv_freq), m;
  float mscale = 0;
  lk_rope_frequencies(&info, NULL, inv_freq, &mscale);
  for (size_t i = 0; i < info.head_dim / 2; i++) {
    float w;
    memcpy(&w, (const float *)want->data + i, sizeof w);
    if (!(fabs(inv_freq[i] / (double)w - 1) <= rope_tolerance(&info)))
      fail_msg("%s[%zu]: %.9g, expected %.9g", config, i, inv_freq[i], (double)w);
  }
  memcpy(&m, want_mscale->data, sizeof m);
  assert_true(fabs((double)mscale - m) <= 0x1p-23 * m);
  free(inv_freq);
}

static void test_rope_frequencies(void **state) {
  (void)state;
  static const char *const configs[] = {
      "llama-3.1-8b",     "qwen2.5-7b",       "rope-linear",
      "rope-llama3.2-1b", "rope-parameters",  "rope-yarn",
      "rope-yarn-betas",  "rope-yarn-mscale", "rope-yarn-untruncated"};
  lk_safetensors *st = NULL;
  assert_int_equal(lk_safetensors_open(LEANK_TEST_DATA "/golden/rope.safetensors", &st, NULL),
                   LEANK_OK);
  const size_t n = sizeof configs / sizeof *configs;
  assert_int_equal(lk_safetensors_n_tensors(st), 2 * n);
  for (size_t i = 0; i < n; i++) check_rope_golden(st, configs[i]);
  lk_safetensors_close(&st);
}

/* A GGUF stores Llama 3's scaling as divisors only; what is read back gives the same. */
static void test_rope_of_a_gguf(void **state) {
  (void)state;
  leank_model *m = lk_model_must_open(TINY "llama-plain.gguf");
  const leank_model_info *i = leank_model_get_info(m);
  assert_true(i->rope_factor == 8 && i->rope_low_freq == 1 && i->rope_high_freq == 4);
  assert_int_equal(i->rope_orig_ctx, 64);
  double formula[16];
  float mscale;
  lk_rope_frequencies(i, NULL, formula, &mscale);
  for (size_t c = 0; c < 16; c++) assert_true(fabs(m->inv_freq[c] / formula[c] - 1) < 1e-6);
  assert_true(m->inv_freq[15] < 0.2 * pow(500000, -30.0 / 32)); /* scaling is on */
  assert_true(m->rope_mscale == 1.0f && mscale == 1.0f);
  leank_model_close(&m);
}

/* ---- folders ---- */

static void test_shards_do_not_matter(void **state) {
  (void)state;
  lk_folder_make(TMP "/single", TINY "llama-f32/config.json");
  lk_folder_write_single(TMP "/single/model.safetensors", TINY "llama-f32", NULL, 0);
  const leank_model_info one = lk_model_must_read(TMP "/single"),
                         three = lk_model_must_read(TINY "llama-f32");
  assert_string_equal(one.fingerprint, three.fingerprint);
  assert_int_equal(one.weight_bytes, three.weight_bytes);
  lk_blob b = lk_blob_read(TMP "/single/model.safetensors");
  b.bytes[b.n - 1] ^= 1;
  lk_blob_write(TMP "/single/model.safetensors", b.bytes, b.n);
  free(b.bytes);
  assert_string_not_equal(lk_model_must_read(TMP "/single").fingerprint, three.fingerprint);
}

/* A header of odd length puts every tensor at an odd address; the weights are the same. */
static void test_unaligned_tensors(void **state) {
  (void)state;
  lk_folder_make(TMP "/odd", TINY "llama-f32/config.json");
  lk_folder_write_single(TMP "/odd/model.safetensors", TINY "llama-f32", NULL, 0);
  lk_blob b = lk_blob_read(TMP "/odd/model.safetensors");
  const size_t n_header = (size_t)b.bytes[0] | (size_t)b.bytes[1] << 8;
  assert_true(n_header < 65535);
  unsigned char *odd = malloc(b.n + 1);
  memcpy(odd, b.bytes, 8 + n_header);
  odd[0] = (unsigned char)((n_header + 1) & 255);
  odd[1] = (unsigned char)((n_header + 1) >> 8);
  odd[8 + n_header] = ' ';
  memcpy(odd + 9 + n_header, b.bytes + 8 + n_header, b.n - 8 - n_header);
  lk_blob_write(TMP "/odd/model.safetensors", odd, b.n + 1);
  leank_model *m = lk_model_must_open(TMP "/odd"), *plain = lk_model_must_open(TINY "llama-f32");
  assert_string_equal(leank_model_get_info(m)->fingerprint,
                      leank_model_get_info(plain)->fingerprint);
  const lk_tensor *q = &m->weights.layers[1].q;
  assert_int_equal((uintptr_t)q->data % sizeof(float), 0);
  assert_memory_equal(q->data, plain->weights.layers[1].q.data, q->n_rows * lk_tensor_row_bytes(q));
  leank_model_close(&m);
  leank_model_close(&plain);
  free(odd);
  free(b.bytes);
}

/* ---- memory ---- */

static void test_nth_allocation_fails(void **state) {
  (void)state;
  for (size_t i = 0; i < N_MODELS; i++) {
    char path[512];
    tiny_path(path, sizeof path, i);
    const size_t other = lk_mem_in_use(LK_MEM_OTHER), text = lk_mem_in_use(LK_MEM_TEXT);
    leank_status status = LEANK_E_MEMORY;
    size_t nth = 0;
    while (status == LEANK_E_MEMORY && nth < 5000) {
      leank_model *m = NULL;
      leank_error err = {0};
      lk_alloc_fail_nth(++nth);
      status = leank_model_open(path, NULL, &m, &err);
      lk_alloc_fail_nth(0);
      assert_int_equal(status == LEANK_OK, m != NULL);
      leank_model_close(&m);
      assert_int_equal(lk_mem_in_use(LK_MEM_OTHER), other);
      assert_int_equal(lk_mem_in_use(LK_MEM_TEXT), text);
    }
    assert_int_equal(status, LEANK_OK);
    assert_true(nth > 10);
  }
}

/* ---- real files ---- */

static void test_real_models(void **state) {
  (void)state;
  const char *folder = getenv("LEANK_TEST_MODELS");
  char path[1024];
  if (!folder) {
    print_message("LEANK_TEST_MODELS is not set\n");
    skip();
  }
  snprintf(path, sizeof path, "%s/SmolLM2-135M-Instruct.Q4_1.gguf", folder);
  leank_model *m = lk_model_must_open(path);
  const leank_model_info *i = leank_model_get_info(m);
  assert_int_equal(i->n_layers, 30);
  assert_int_equal(i->n_heads, 9);
  assert_int_equal(i->n_kv_heads, 3);
  assert_int_equal(i->head_dim, 64);
  assert_int_equal(i->n_vocab, 49152);
  assert_int_equal(i->n_params, 134515008); /* as published */
  assert_true(i->tied_output && i->order == LEANK_ORDER_PAIRS && i->rope_theta == 1e5);
  print_message("%s: %s, %s\n", i->name, i->weight_types, i->fingerprint);
  assert_int_equal(leank_tokenizer_vocab_size(leank_model_get_tokenizer(m)), 49152);
  leank_model_close(&m);
  snprintf(path, sizeof path, "%s/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", folder);
  if (access(path, R_OK) != 0) return;
  const leank_model_info q = lk_model_must_read(path);
  assert_string_equal(q.weight_types, "Q4_K 169, Q6_K 29, F32 141");
  assert_true(q.n_layers == 28 && q.n_kv_heads == 2 && q.qkv_bias && !q.tied_output);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_info_of_tiny_models),
      cmocka_unit_test(test_fingerprints_differ),
      cmocka_unit_test(test_weights_are_bound),
      cmocka_unit_test(test_norms_are_widened),
      cmocka_unit_test(test_progress),
      cmocka_unit_test(test_arguments),
      cmocka_unit_test(test_weights_in_memory),
      cmocka_unit_test(test_no_memory_for_weights),
      cmocka_unit_test(test_llama_31_8b),
      cmocka_unit_test(test_qwen25_7b),
      cmocka_unit_test(test_rope_frequencies),
      cmocka_unit_test(test_rope_of_a_gguf),
      cmocka_unit_test(test_shards_do_not_matter),
      cmocka_unit_test(test_unaligned_tensors),
      cmocka_unit_test(test_nth_allocation_fails),
      cmocka_unit_test(test_real_models),
  };
  return cmocka_run_group_tests(tests, lk_make_tmp, NULL);
}
