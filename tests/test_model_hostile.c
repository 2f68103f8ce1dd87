/* Opening models: what is refused, with a message that says why. Needs no session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/model_fixture.h"

/* ---- hostile config.json ---- */

typedef struct config_case {
  const char *key, *value;
  leank_status status;
  const char *part;
} config_case;

static const config_case config_cases[] = {
    {"architectures", "[\"MistralForCausalLM\"]", LEANK_E_UNSUPPORTED, "MistralForCausalLM"},
    {"architectures", "[]", LEANK_E_UNSUPPORTED, "architecture"},
    {"hidden_size", NULL, LEANK_E_FORMAT, "hidden_size is missing"},
    {"hidden_size", "-32", LEANK_E_FORMAT, "hidden_size"},
    {"hidden_size", "32.5", LEANK_E_FORMAT, "hidden_size"},
    {"hidden_size", "\"32\"", LEANK_E_FORMAT, "hidden_size"},
    {"hidden_size", "0", LEANK_E_FORMAT, "hidden size"},
    {"hidden_size", "9007199254740992", LEANK_E_FORMAT, "hidden size"},
    {"hidden_size", "99999999999999999999999", LEANK_E_FORMAT, "integer"},
    {"num_hidden_layers", "0", LEANK_E_FORMAT, "layers"},
    {"num_hidden_layers", "1000000000", LEANK_E_FORMAT, "layers"},
    {"num_attention_heads", "0", LEANK_E_FORMAT, "heads"},
    {"num_key_value_heads", "0", LEANK_E_FORMAT, "heads"},
    {"num_key_value_heads", "3", LEANK_E_FORMAT, "no multiple"},
    {"num_key_value_heads", "8", LEANK_E_FORMAT, "no multiple"},
    {"head_dim", "33", LEANK_E_FORMAT, "odd"},
    {"head_dim", "0", LEANK_E_FORMAT, "head dimension"},
    {"head_dim", "65536", LEANK_E_FORMAT, "head dimension"},
    {"vocab_size", "0", LEANK_E_FORMAT, "vocabulary"},
    {"max_position_embeddings", "0", LEANK_E_FORMAT, "context"},
    {"rms_norm_eps", "-1e-5", LEANK_E_FORMAT, "epsilon"},
    {"rms_norm_eps", "0", LEANK_E_FORMAT, "epsilon"},
    {"rms_norm_eps", "NaN", LEANK_E_FORMAT, "config"},
    {"rms_norm_eps", "1e999", LEANK_E_FORMAT, "config"},
    {"rope_theta", "0", LEANK_E_FORMAT, "RoPE base"},
    {"rope_theta", "1", LEANK_E_FORMAT, "RoPE base"},
    {"rope_theta", "-5", LEANK_E_FORMAT, "RoPE base"},
    {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2.0}", LEANK_E_UNSUPPORTED, "dynamic"},
    {"rope_scaling", "{\"rope_type\": \"longrope\"}", LEANK_E_UNSUPPORTED, "longrope"},
    {"rope_scaling", "{\"type\": \"linear\"}", LEANK_E_FORMAT, "factor is missing"},
    {"rope_scaling", "{\"type\": \"linear\", \"factor\": 0}", LEANK_E_FORMAT, "factor"},
    {"rope_scaling", "{\"type\": 3}", LEANK_E_FORMAT, "rope_type"},
    {"rope_scaling", "[1]", LEANK_E_FORMAT, "object"},
    {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}", LEANK_E_FORMAT, "low_freq_factor"},
    {"rope_scaling",
     "{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4,"
     " \"original_max_position_embeddings\": 64}",
     LEANK_E_FORMAT, "turns"},
    {"rope_scaling",
     "{\"type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": -1}",
     LEANK_E_FORMAT, "original_max_position_embeddings"},
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 4, \"attention_factor\": 0}", LEANK_E_FORMAT,
     "attention_factor"},
    {"partial_rotary_factor", "0.5", LEANK_E_UNSUPPORTED, "partial rotary"},
    {"rope_parameters", "{\"rope_theta\": 10000, \"partial_rotary_factor\": 0.5}",
     LEANK_E_UNSUPPORTED, "partial rotary"},
    {"use_sliding_window", "true", LEANK_E_UNSUPPORTED, "sliding window"},
    {"layer_types", "[\"full_attention\", \"sliding_attention\"]", LEANK_E_UNSUPPORTED,
     "sliding_attention"},
    {"mlp_bias", "true", LEANK_E_UNSUPPORTED, "mlp_bias"},
    {"hidden_act", "\"gelu\"", LEANK_E_UNSUPPORTED, "gelu"},
    {"quantization_config", "{}", LEANK_E_UNSUPPORTED, "quantization_config"},
    {"x", "0", LEANK_E_FORMAT, "duplicate"},
};

static void test_hostile_configs(void **state) {
  (void)state;
  const char *path = TMP "/config.json";
  lk_config_write(path, "bos_token_id", "1");
  lk_model_must_read(path);
  for (size_t i = 0; i < sizeof config_cases / sizeof *config_cases; i++) {
    const config_case *c = &config_cases[i];
    lk_config_write(path, c->key, c->value);
    lk_info_refused(path, c->status, c->part);
  }
  lk_text_write(path, "[]");
  lk_info_refused(path, LEANK_E_FORMAT, "object");
  lk_text_write(path, "{\"architectures\": [\"Llama");
  lk_info_refused(path, LEANK_E_FORMAT, "config.json");
}

/* ---- hostile folders ---- */

static void test_extra_tensors_are_refused(void **state) {
  (void)state;
  static const char *const names[] = {
      "model.layers.0.self_attn.o_proj.bias",   "model.layers.1.mlp.up_proj.bias",
      "model.layers.0.self_attn.q_norm.weight", "model.layers.2.input_layernorm.weight",
      "model.layers.1.self_attn.k_proj.bias",   "score.weight"};
  float zeros[64] = {0};
  lk_folder_make(TMP "/extra", TINY "llama-f32/config.json");
  lk_st_tensor t = {
      .type = LK_ST_F32, .n_dims = 1, .shape = {64}, .data = zeros, .n_bytes = sizeof zeros};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    t.name = names[i];
    lk_folder_write_single(TMP "/extra/model.safetensors", TINY "llama-f32", &t, 1);
    lk_model_refused(TMP "/extra", LEANK_E_UNSUPPORTED, names[i]);
  }
  t.name = "model.layers.0.self_attn.rotary_emb.inv_freq"; /* old files carry this table */
  lk_folder_write_single(TMP "/extra/model.safetensors", TINY "llama-f32", &t, 1);
  assert_string_equal(lk_model_must_read(TMP "/extra").fingerprint,
                      lk_model_must_read(TINY "llama-f32").fingerprint);
}

static void test_shapes_must_match(void **state) {
  (void)state;
  static const config_case cases[] = {
      {"num_hidden_layers", "3", LEANK_E_FORMAT, "3 layers"},
      {"num_hidden_layers", "1", LEANK_E_UNSUPPORTED, "model.layers.1."},
      {"num_hidden_layers", "4000", LEANK_E_FORMAT, "4000 layers"},
      {"num_attention_heads", "2", LEANK_E_FORMAT, "q_proj"},
      {"num_key_value_heads", "1", LEANK_E_FORMAT, "k_proj"},
      {"head_dim", "16", LEANK_E_FORMAT, "q_proj"},
      {"intermediate_size", "65", LEANK_E_FORMAT, "gate_proj"},
      {"vocab_size", "301", LEANK_E_FORMAT, "embed_tokens"},
      {"hidden_size", "64", LEANK_E_FORMAT, "embed_tokens"},
      {"tie_word_embeddings", "false", LEANK_E_FORMAT, "lm_head.weight is missing"},
      {"architectures", "[\"Qwen2ForCausalLM\"]", LEANK_E_FORMAT, "q_proj.bias is missing"}};
  lk_folder_make(TMP "/shapes", NULL);
  lk_folder_write_single(TMP "/shapes/model.safetensors", TINY "llama-f32", NULL, 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    lk_config_write(TMP "/shapes/config.json", cases[i].key, cases[i].value);
    lk_model_refused(TMP "/shapes", cases[i].status, cases[i].part);
    lk_info_refused(TMP "/shapes", cases[i].status, cases[i].part);
  }
}

static const char *const f32_shards[] = {"model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors"};

static void test_index(void **state) {
  (void)state;
  static const char *const bad[] = {
      "{\"weight_map\": {\"a\": \"../tiny/model.safetensors\"}}",
      "{\"weight_map\": {\"a\": \"/tmp/model.safetensors\"}}",
      "{\"weight_map\": {\"a\": \"sub/model.safetensors\"}}",
      "{\"weight_map\": {\"a\": \"..safetensors\"}}",
      "{\"weight_map\": {\"a\": \"model.bin\"}}",
      "{\"weight_map\": {\"a\": 3}}",
      "{\"weight_map\": {}}",
      "{\"weight_map\": [\"a\"]}",
      "{}",
      "[1",
      ("{\"weight_map\": {\"model.embed_tokens.weight\": \"model-00002-of-00003.safetensors\","
       " \"model.norm.weight\": \"model-00001-of-00003.safetensors\"}}")};
  char from[600], to[600];
  lk_folder_make(TMP "/index", TINY "llama-f32/config.json");
  for (size_t s = 0; s < 3; s++) {
    snprintf(from, sizeof from, "%sllama-f32/%s", TINY, f32_shards[s]);
    snprintf(to, sizeof to, "%s/index/%s", TMP, f32_shards[s]);
    lk_file_copy(from, to);
  }
  lk_model_must_read(TMP "/index"); /* without an index, by the names of the shards */
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    lk_text_write(TMP "/index/model.safetensors.index.json", bad[i]);
    lk_model_refused(TMP "/index", LEANK_E_FORMAT, "model.safetensors.index.json");
  }
  lk_text_write(TMP "/index/model.safetensors.index.json",
                "{\"weight_map\": {\"a\": \"model-00004-of-00003.safetensors\"}}");
  lk_model_refused(TMP "/index", LEANK_E_IO, "model-00004-of-00003.safetensors");
  unlink(TMP "/index/model.safetensors.index.json");
  lk_file_copy(TMP "/index/model-00001-of-00003.safetensors",
               TMP "/index/model-00004-of-00003.safetensors");
  lk_model_refused(TMP "/index", LEANK_E_FORMAT, "twice");
  unlink(TMP "/index/model-00004-of-00003.safetensors");
}

static void test_folders(void **state) {
  (void)state;
  lk_folder_make(TMP "/folder", NULL);
  lk_model_refused(TMP "/folder", LEANK_E_IO, "config.json");
  lk_folder_make(TMP "/folder", CONFIGS "llama-3.1-8b.json");
  lk_model_refused(TMP "/folder", LEANK_E_IO, "no model.safetensors");
  const leank_model_info info = lk_model_must_read(TMP "/folder");
  assert_int_equal(info.weight_bytes, 0);
  assert_string_equal(info.fingerprint, "");
  lk_folder_make(TMP "/folder", TINY "llama-f32/config.json");
  lk_folder_write_single(TMP "/folder/model.safetensors", TINY "llama-f32", NULL, 0);
  leank_model *m = lk_model_must_open(TMP "/folder");
  assert_null(leank_model_get_tokenizer(m));
  leank_model_close(&m);
  lk_text_write(TMP "/folder/tokenizer.json", "{\"model\": {\"type\": \"BPE\"");
  lk_model_refused(TMP "/folder", LEANK_E_FORMAT, "tokenizer.json");
  unlink(TMP "/folder/tokenizer.json");
}

/* ---- hostile GGUF: a tiny file with one value changed or one key put in ---- */

typedef struct patch {
  const char *file, *key; /* of the number to overwrite, behind key and type */
  size_t n;               /* bytes of it */
  uint32_t value;
  leank_status status;
  const char *part;
} patch;

enum { NAN_BITS = 0x7fc00000, MINUS_ONE_BITS = (int)0xbf800000 };

static const patch patches[] = {
    {"llama-mixed.gguf", "llama.block_count", 4, 0, LEANK_E_FORMAT, "layers"},
    {"llama-mixed.gguf", "llama.block_count", 4, 1, LEANK_E_UNSUPPORTED, "blk.1."},
    {"llama-mixed.gguf", "llama.block_count", 4, 3, LEANK_E_FORMAT, "3 layers"},
    {"llama-plain.gguf", "llama.block_count", 4, 0xffffffff, LEANK_E_FORMAT, "layers"},
    {"qwen2-mixed.gguf", "qwen2.block_count", 4, 3, LEANK_E_FORMAT, "blk.2.attn_norm.weight"},
    {"llama-mixed.gguf", "llama.attention.head_count", 4, 0, LEANK_E_FORMAT, "no heads"},
    {"llama-mixed.gguf", "llama.attention.head_count", 4, 2, LEANK_E_FORMAT, "attn_q.weight"},
    {"llama-mixed.gguf", "llama.attention.head_count_kv", 4, 3, LEANK_E_FORMAT, "no multiple"},
    {"llama-mixed.gguf", "llama.attention.head_count_kv", 4, 0, LEANK_E_FORMAT, "heads"},
    {"llama-mixed.gguf", "llama.attention.head_count_kv", 4, 4, LEANK_E_FORMAT, "attn_k.weight"},
    {"qwen2-mixed.gguf", "qwen2.attention.head_count", 4, 3, LEANK_E_FORMAT, "no multiple"},
    {"qwen2-mixed.gguf", "qwen2.attention.head_count", 4, 256, LEANK_E_FORMAT, "odd"},
    {"llama-mixed.gguf", "llama.attention.key_length", 4, 65, LEANK_E_UNSUPPORTED, "65"},
    {"llama-mixed.gguf", "llama.attention.value_length", 4, 32, LEANK_E_UNSUPPORTED,
     "values of 32"},
    {"llama-mixed.gguf", "llama.rope.dimension_count", 4, 32, LEANK_E_UNSUPPORTED,
     "partial rotary"},
    {"llama-mixed.gguf", "llama.embedding_length", 4, 128, LEANK_E_FORMAT, "token_embd.weight"},
    {"llama-mixed.gguf", "llama.feed_forward_length", 4, 512, LEANK_E_FORMAT, "ffn_gate.weight"},
    {"llama-mixed.gguf", "llama.vocab_size", 4, 321, LEANK_E_FORMAT, "token_embd.weight"},
    {"llama-mixed.gguf", "llama.context_length", 4, 0, LEANK_E_FORMAT, "context"},
    {"llama-mixed.gguf", "llama.rope.freq_base", 4, NAN_BITS, LEANK_E_FORMAT, "RoPE base"},
    {"llama-mixed.gguf", "llama.rope.freq_base", 4, 0, LEANK_E_FORMAT, "RoPE base"},
    {"llama-mixed.gguf", "llama.attention.layer_norm_rms_epsilon", 4, NAN_BITS, LEANK_E_FORMAT,
     "epsilon"},
    {"llama-mixed.gguf", "llama.attention.layer_norm_rms_epsilon", 4, (uint32_t)MINUS_ONE_BITS,
     LEANK_E_FORMAT, "epsilon"},
    {"qwen2-mixed.gguf", "qwen2.context_length", 4, 0xffffffff, LEANK_E_FORMAT, "context"},
};

static void test_patched_ggufs(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
    const patch *p = &patches[i];
    char path[512], needle[80];
    snprintf(path, sizeof path, "%s%s", TINY, p->file);
    lk_blob b = lk_blob_read(path);
    memset(needle, 0, sizeof needle);
    needle[0] = (char)strlen(p->key); /* length, key: so that no longer key is meant */
    memcpy(needle + 8, p->key, strlen(p->key));
    size_t at = lk_blob_find(&b, needle, 8 + strlen(p->key)) + 8 + strlen(p->key) + 4;
    memcpy(b.bytes + at, &p->value, p->n);
    lk_blob_write(TMP "/patched.gguf", b.bytes, b.n);
    free(b.bytes);
    lk_model_refused(TMP "/patched.gguf", p->status, p->part);
  }
}

static size_t put_key(unsigned char *out, const char *key, uint32_t type) {
  const uint64_t n = strlen(key);
  memcpy(out, &n, 8);
  memcpy(out + 8, key, n);
  memcpy(out + 8 + n, &type, 4);
  return 8 + n + 4;
}

/* tiny/llama-mixed.gguf with one more key, and a filler that keeps tensor data aligned. */
static void write_with_key(const char *path, const char *key, uint32_t type, const void *value,
                           size_t n_value) {
  enum { ROOM = 512, HEADER = 24 };
  lk_blob b = lk_blob_read(TINY "llama-mixed.gguf");
  unsigned char *out = calloc(b.n + ROOM, 1);
  size_t at = HEADER;
  uint64_t n_keys, n_fill;
  memcpy(out, b.bytes, HEADER);
  memcpy(&n_keys, out + 16, 8);
  n_keys += 2;
  memcpy(out + 16, &n_keys, 8);
  at += put_key(out + at, key, type);
  memcpy(out + at, value, n_value);
  at += n_value;
  at += put_key(out + at, "filler", 8);
  n_fill = 32 - (at + 8 - HEADER) % 32;
  memcpy(out + at, &n_fill, 8);
  memset(out + at + 8, 'x', n_fill);
  at += 8 + n_fill;
  memcpy(out + at, b.bytes + HEADER, b.n - HEADER);
  lk_blob_write(path, out, at + b.n - HEADER);
  free(out);
  free(b.bytes);
}

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

static void test_keys_that_are_refused(void **state) {
  (void)state;
  const char *path = TMP "/key.gguf";
  const uint32_t eight = 8, large = 8192;
  const float half = 0.5f;
  const unsigned char no = 0;
  static const unsigned char su[] = {2, 0, 0, 0, 0, 0, 0, 0, 's', 'u'};
  static const unsigned char linear[] = {6, 0, 0, 0, 0, 0, 0, 0, 'l', 'i', 'n', 'e', 'a', 'r'};
  write_with_key(path, "llama.expert_count", GGUF_U32, &eight, 4);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "expert_count");
  write_with_key(path, "llama.logit_scale", GGUF_F32, &half, 4);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "logit_scale");
  write_with_key(path, "llama.attention.causal", GGUF_BOOL, &no, 1);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "causal");
  write_with_key(path, "llama.attention.sliding_window", GGUF_U32, &eight, 4);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "sliding window of 8");
  write_with_key(path, "llama.attention.sliding_window", GGUF_U32, &large, 4);
  lk_model_must_read(path); /* wider than the context: never felt */
  write_with_key(path, "split.count", GGUF_U32, &eight, 4);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "one of 8 parts");
  write_with_key(path, "llama.rope.scaling.type", GGUF_STRING, su, sizeof su);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "su");
  write_with_key(path, "llama.rope.scaling.type", GGUF_STRING, linear, sizeof linear);
  assert_int_equal(lk_model_must_read(path).rope_scaling, LEANK_ROPE_PLAIN); /* by a factor of 1 */
}

/* Scaling keys that older files have, and negative or per-layer numbers. */
static void test_keys_that_are_read(void **state) {
  (void)state;
  const char *path = TMP "/key.gguf";
  const float four = 4;
  const int32_t minus = -1;
  static const unsigned char per_layer[] = {4, 0, 0, 0, 2, 0, 0, 0, 0, 0,
                                            0, 0, 8, 0, 0, 0, 8, 0, 0, 0};
  write_with_key(path, "llama.rope.scaling.factor", GGUF_F32, &four, 4);
  leank_model_info info = lk_model_must_read(path);
  assert_int_equal(info.rope_scaling, LEANK_ROPE_LINEAR);
  assert_true(info.rope_factor == 4);
  write_with_key(path, "llama.attention.sliding_window", GGUF_I32, &minus, 4);
  lk_model_refused(path, LEANK_E_FORMAT, "sliding_window");
  write_with_key(path, "llama.attention.sliding_window", GGUF_ARRAY, per_layer, sizeof per_layer);
  lk_model_refused(path, LEANK_E_UNSUPPORTED, "differs by layer");
}

static void test_other_architectures(void **state) {
  (void)state;
  lk_blob b = lk_blob_read(TINY "llama-mixed.gguf");
  size_t at = lk_blob_find(&b, "general.architecture", 20) + 20 + 4 + 8;
  memcpy(b.bytes + at, "gemma", 5);
  lk_blob_write(TMP "/patched.gguf", b.bytes, b.n);
  lk_model_refused(TMP "/patched.gguf", LEANK_E_UNSUPPORTED, "gemma");
  memcpy(b.bytes + at, "l\n\x1b\xff!", 5); /* a message stays one clean line */
  lk_blob_write(TMP "/patched.gguf", b.bytes, b.n);
  lk_model_refused(TMP "/patched.gguf", LEANK_E_UNSUPPORTED,
                   "l?"
                   "?"
                   "?!");
  free(b.bytes);
}

static void test_bad_rope_factors(void **state) {
  (void)state;
  leank_model *m = lk_model_must_open(TINY "llama-plain.gguf");
  leank_model_close(&m);
  lk_blob b = lk_blob_read(TINY "llama-plain.gguf");
  static const float tail[3] = {8, 8, 8}; /* the slowest channels are divided by the factor */
  const float bad = -1;
  size_t at = lk_blob_find(&b, (const char *)tail, sizeof tail);
  memcpy(b.bytes + at, &bad, sizeof bad);
  lk_blob_write(TMP "/patched.gguf", b.bytes, b.n);
  lk_model_refused(TMP "/patched.gguf", LEANK_E_FORMAT, "rope_freqs.weight");
  free(b.bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hostile_configs),
      cmocka_unit_test(test_extra_tensors_are_refused),
      cmocka_unit_test(test_shapes_must_match),
      cmocka_unit_test(test_index),
      cmocka_unit_test(test_folders),
      cmocka_unit_test(test_patched_ggufs),
      cmocka_unit_test(test_keys_that_are_refused),
      cmocka_unit_test(test_keys_that_are_read),
      cmocka_unit_test(test_other_architectures),
      cmocka_unit_test(test_bad_rope_factors),
  };
  return cmocka_run_group_tests(tests, lk_make_tmp, NULL);
}
