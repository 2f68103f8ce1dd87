/* Types of stored weights; blocks as GGUF defines them (ggml-quants, ggml project). */
#ifndef LK_BASE_DTYPE_H
#define LK_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum lk_dtype {
  LK_F32 = 0,
  LK_F16,
  LK_BF16,
  LK_Q8_0,
  LK_Q4_0,
  LK_Q4_1,
  LK_Q5_0,
  LK_Q5_1,
  LK_Q4_K,
  LK_Q5_K,
  LK_Q6_K,
  LK_N_DTYPES,
  /* No stored type: the matrix is bf16 that a device makes where it needs it, and `data` is the
   * lk_random_source it makes it from. Only CUDA's weights know it. */
  LK_RANDOM = LK_N_DTYPES
} lk_dtype;

const char *lk_dtype_name(lk_dtype type);
/* Elements and bytes of one block (1 element for the plain types). */
size_t lk_dtype_block_elements(lk_dtype type);
size_t lk_dtype_block_bytes(lk_dtype type);
/* Bytes of n elements; n must be a multiple of the block. */
static inline size_t lk_dtype_bytes(lk_dtype type, size_t n) {
  return n / lk_dtype_block_elements(type) * lk_dtype_block_bytes(type);
}

/* A matrix (or vector: n_rows 1) of weights in somebody else's memory. Row-major; rows are whole
 * blocks. data NULL = absent. */
typedef struct lk_tensor {
  const void *data;
  lk_dtype type;
  size_t n_rows, n_cols;
} lk_tensor;

static inline size_t lk_tensor_row_bytes(const lk_tensor *t) {
  return lk_dtype_bytes(t->type, t->n_cols);
}
static inline const void *lk_tensor_row(const lk_tensor *t, size_t row) {
  return (const unsigned char *)t->data + row * lk_tensor_row_bytes(t);
}

/* bf16 is the upper half of an fp32; rounding is to nearest, ties to even. NaN stays NaN. */
static inline float lk_bf16_to_f32(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
/* IEEE binary16 to fp32, exact. For what is read once: kernels have their own (half_float.h). */
static inline float lk_half_to_f32(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, m = h & 1023u;
  const uint32_t u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | m << 13;
  float f;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)m * 0x1p-24f; /* 0 and subnormals */
  memcpy(&f, &u, sizeof f);
  return f;
}
static inline uint16_t lk_f32_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#endif
