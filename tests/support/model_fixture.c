#include "support/model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- files ---- */

lk_blob lk_blob_read(const char *path) {
  lk_blob b = {0};
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("%s does not open", path);
  assert_int_equal(fseek(f, 0, SEEK_END), 0);
  b.n = (size_t)ftell(f);
  rewind(f);
  b.bytes = malloc(b.n + 1);
  assert_non_null(b.bytes);
  assert_int_equal(fread(b.bytes, 1, b.n, f), b.n);
  fclose(f);
  return b;
}

void lk_blob_write(const char *path, const void *bytes, size_t n) {
  FILE *f = fopen(path, "wb");
  if (!f) fail_msg("%s cannot be written", path);
  assert_int_equal(fwrite(bytes, 1, n, f), n);
  fclose(f);
}

void lk_text_write(const char *path, const char *text) { lk_blob_write(path, text, strlen(text)); }

void lk_file_copy(const char *from, const char *to) {
  lk_blob b = lk_blob_read(from);
  lk_blob_write(to, b.bytes, b.n);
  free(b.bytes);
}

/* Where the n bytes stand in the blob, the first time. */
size_t lk_blob_find(const lk_blob *b, const char *needle, size_t n) {
  for (size_t i = 0; i + n <= b->n; i++)
    if (memcmp(b->bytes + i, needle, n) == 0) return i;
  fail_msg("%s is not in the file", needle);
  return 0;
}

/* ---- opening ---- */

leank_model *lk_model_must_open(const char *path) {
  leank_model *m = NULL;
  leank_error err = {0};
  if (leank_model_open(path, NULL, &m, &err) != LEANK_OK) fail_msg("%s", err.message);
  assert_non_null(m);
  return m;
}

leank_model_info lk_model_must_read(const char *path) {
  leank_model_info info;
  leank_error err = {0};
  if (leank_model_read_info(path, &info, &err) != LEANK_OK) fail_msg("%s", err.message);
  return info;
}

/* Opening fails with this status, a message that holds `part`, and an untouched result. */
void lk_model_refused(const char *path, leank_status want, const char *part) {
  leank_model *const untouched = (leank_model *)(void *)&want;
  leank_model *m = untouched;
  leank_error err = {0};
  leank_status got = leank_model_open(path, NULL, &m, &err);
  if (got != want || !strstr(err.message, part))
    fail_msg("%s: status %d (%s), expected %d with \"%s\"", path, got, err.message, want, part);
  assert_int_equal(err.code, want);
  assert_ptr_equal(m, untouched);
}

void lk_info_refused(const char *path, leank_status want, const char *part) {
  leank_model_info info;
  leank_error err = {0};
  memset(&info, 0x5a, sizeof info);
  leank_model_info before = info;
  leank_status got = leank_model_read_info(path, &info, &err);
  if (got != want || !strstr(err.message, part))
    fail_msg("%s: status %d (%s), expected %d with \"%s\"", path, got, err.message, want, part);
  assert_memory_equal(&info, &before, sizeof info);
}

/* A folder under TMP that holds this config (a path), without weights. */
void lk_folder_make(const char *folder, const char *config) {
  char path[600];
  mkdir(folder, 0777);
  static const char *const names[] = {"config.json",
                                      "model.safetensors",
                                      "model.safetensors.index.json",
                                      "model-00001-of-00003.safetensors",
                                      "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors",
                                      "tokenizer.json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  snprintf(path, sizeof path, "%s/config.json", folder);
  if (config) lk_file_copy(config, path);
}

static const char *const shard_names[] = {"model-00001-of-00003.safetensors",
                                          "model-00002-of-00003.safetensors",
                                          "model-00003-of-00003.safetensors"};

/* The tensors of tiny/llama-f32 in one file, with `extra` (n_extra of them) put behind. */
void lk_folder_write_single(const char *path, const char *from, const lk_st_tensor *extra,
                            size_t n_extra) {
  lk_safetensors *shards[3] = {0};
  lk_st_tensor all[64];
  size_t n = 0;
  for (size_t s = 0; s < 3; s++) {
    char shard[600];
    snprintf(shard, sizeof shard, "%s/%s", from, shard_names[s]);
    assert_int_equal(lk_safetensors_open(shard, &shards[s], NULL), LEANK_OK);
    for (size_t i = 0; i < lk_safetensors_n_tensors(shards[s]); i++)
      all[n++] = *lk_safetensors_at(shards[s], i);
  }
  for (size_t i = 0; i < n_extra; i++) all[n++] = extra[i];
  leank_error err = {0};
  if (lk_safetensors_save(path, all, n, NULL, 0, &err) != LEANK_OK) fail_msg("%s", err.message);
  for (size_t s = 0; s < 3; s++) lk_safetensors_close(&shards[s]);
}

/* A sound llama config with one key given another value (NULL: left out) or added. */
void lk_config_write(const char *path, const char *key, const char *value) {
  static const char *const base[][2] = {{"architectures", "[\"LlamaForCausalLM\"]"},
                                        {"hidden_size", "32"},
                                        {"intermediate_size", "64"},
                                        {"num_hidden_layers", "2"},
                                        {"num_attention_heads", "4"},
                                        {"num_key_value_heads", "2"},
                                        {"head_dim", "32"},
                                        {"vocab_size", "300"},
                                        {"max_position_embeddings", "4096"},
                                        {"rms_norm_eps", "1e-5"},
                                        {"rope_theta", "10000.0"},
                                        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2.0}"},
                                        {"tie_word_embeddings", "true"}};
  char text[4096] = "{\"x\": 0";
  size_t at = strlen(text);
  bool seen = false;
  for (size_t i = 0; i < sizeof base / sizeof *base; i++) {
    bool same = strcmp(base[i][0], key) == 0;
    const char *v = same ? value : base[i][1];
    seen |= same;
    if (v) at += (size_t)snprintf(text + at, sizeof text - at, ", \"%s\": %s", base[i][0], v);
  }
  if (!seen) at += (size_t)snprintf(text + at, sizeof text - at, ", \"%s\": %s", key, value);
  snprintf(text + at, sizeof text - at, "}");
  lk_text_write(path, text);
}

int lk_make_tmp(void **state) {
  (void)state;
  mkdir(LEANK_TEST_TMP "/model_load", 0777);
  return 0;
}
