/* Tiny random models: the same weights as a GGUF file and, in half order, as doubles for the
 * oracle. Deterministic by seed, on every machine: only exact arithmetic makes the numbers. */
#ifndef LK_SUPPORT_TINY_GGUF_H
#define LK_SUPPORT_TINY_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "oracle/oracle.h"

typedef struct lk_tiny_spec {
  /* false: "llama", Q and K rows stored so that RoPE rotates 2i with 2i + 1 ("pairs"), no biases.
   * true: "qwen2", half order, with q, k and v biases. */
  bool qwen2;
  size_t n_layers, n_heads, n_kv_heads, head_dim, hidden, ffn, n_vocab;
  bool tied;     /* no output.weight: the embedding serves */
  lk_dtype type; /* of matrices: LK_F32, LK_F16 or LK_BF16; norms and biases are F32 */
  uint64_t seed;
  double qk_gain;   /* 0 = 1.5; spread of q and k: logits spread like its square */
  double bias_gain; /* 0 = 0.5; spread of the biases of qwen2 */
} lk_tiny_spec;

/* Makes weights of the spec, already rounded to its type. The caller frees with
 * lk_oracle_weights_free. */
void lk_tiny_weights(const lk_tiny_spec *spec, lk_oracle_weights *out);

/* Writes them as a GGUF file without tokenizer (version 3). False where the file system refuses. */
bool lk_tiny_write(const lk_tiny_spec *spec, const lk_oracle_weights *weights, const char *path);

#endif
