/* GGUF: opens, then reads every tensor and a set of keys. */
#include "fuzz_target.h"

#include "base/alloc.h"
#include "formats/gguf.h"

static const char *const keys[] = {"general.architecture",
                                   "general.alignment",
                                   "llama.block_count",
                                   "llama.rope.freq_base",
                                   "tokenizer.ggml.tokens",
                                   "tokenizer.ggml.token_type",
                                   "tokenizer.ggml.scores",
                                   "negative",
                                   "tokenizer.ggml.add_bos_token",
                                   "tokenizer.ggml.eos_token_id"};

static void use_array(const lk_gguf *g, const char *key) {
  size_t n, n_bytes;
  const char *text;
  int64_t i64;
  if (!lk_gguf_array_count(g, key, &n)) return;
  for (size_t i = 0; i < n + 1; i++) {
    if (lk_gguf_array_str(g, key, i, &text, &n_bytes)) {
      FUZZ_REQUIRE(i < n);
      fuzz_touch(text, n_bytes);
    }
    FUZZ_REQUIRE(i < n || !lk_gguf_array_i64(g, key, i, &i64));
  }
}

static void use_key(const lk_gguf *g, const char *key) {
  uint64_t u64;
  double f64;
  bool b;
  const char *text;
  size_t n;
  const bool number = lk_gguf_f64(g, key, &f64);
  FUZZ_REQUIRE(!lk_gguf_u64(g, key, &u64) || number);
  if (lk_gguf_str(g, key, &text, &n)) {
    fuzz_touch(text, n + 1);
    FUZZ_REQUIRE(text[n] == 0 && !number);
  }
  FUZZ_REQUIRE(!lk_gguf_bool(g, key, &b) || lk_gguf_has(g, key));
  use_array(g, key);
}

static void use_tensors(const lk_gguf *g) {
  for (size_t i = 0; i < lk_gguf_n_tensors(g); i++) {
    const lk_tensor t = lk_gguf_tensor_at(g, i);
    const char *name = lk_gguf_tensor_name(g, i);
    FUZZ_REQUIRE(t.data && t.n_rows > 0 && t.n_cols > 0 && name[0]);
    FUZZ_REQUIRE(lk_gguf_tensor(g, name).data == t.data);
    fuzz_touch(t.data, t.n_rows * lk_tensor_row_bytes(&t));
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lk_gguf *g = NULL;
  leank_error err = {.code = LEANK_OK};
  leank_status status = lk_gguf_open_memory(data, size, "fuzz", &g, &err);
  FUZZ_REQUIRE(status == err.code && (status == LEANK_OK) == (g != NULL));
  if (g) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) use_key(g, keys[i]);
    use_tensors(g);
  }
  lk_gguf_close(&g);
  FUZZ_REQUIRE(lk_mem_in_use(LK_MEM_OTHER) == 0);
  return 0;
}
