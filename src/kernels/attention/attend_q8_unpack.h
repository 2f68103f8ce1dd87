/* Lean pages of kv type q8 as lean pages of fp32 or bf16, for kernels of those types. Plain loops
 * of fixed length: the including file's instruction set vectorises them. */
#ifndef LK_KERNELS_ATTEND_Q8_UNPACK_H
#define LK_KERNELS_ATTEND_Q8_UNPACK_H

#include <string.h>

#include "base/dtype.h"
#include "kernels/page/page.h"

/* Four integers as the lowest to the highest byte (little-endian): what compilers turn into whole
 * vectors. */
static inline uint32_t q8_quad(const void *quads, size_t i) {
  uint32_t quad;
  memcpy(&quad, (const char *)quads + i * LK_Q8_QUAD, sizeof quad);
  return quad;
}
static inline int q8_signed_byte(uint32_t quad, size_t place) {
  return (int32_t)(quad << (24 - 8 * place)) >> 24;
}

/* One channel of a block of keys: byte `place` of each quad, less what it is off by. */
static inline void q8_keys(const uint8_t *restrict block, size_t place, float scale,
                           float *restrict out) {
  for (size_t key = 0; key < LK_KEY_BLOCK; key++)
    out[key] = (float)((int)(q8_quad(block, key) >> 8 * place & 0xff) - LK_Q8_K_ZERO) * scale;
}

/* K of n channels (a multiple of 4) in the order of fp32. */
static inline void q8_unpack_k_f32(const void *k, size_t n, float *out) {
  const uint8_t *from = k;
  const float *scales = lk_q8_scales(from, n);
  for (size_t b = 0; b < LK_PAGE_TOKENS / LK_KEY_BLOCK; b++)
    for (size_t c = 0; c < n; c++, out += LK_KEY_BLOCK)
      q8_keys(from + (b * n + c / LK_Q8_QUAD * LK_Q8_QUAD) * LK_KEY_BLOCK, c % LK_Q8_QUAD,
              scales[c], out);
}

static inline void q8_unpack_v_f32(const void *v, size_t head_dim, float *out) {
  const int8_t *from = v;
  const float *scales = lk_q8_scales(from, head_dim);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++, out += head_dim) {
    const int8_t *quads = from + lk_q8_v_index(head_dim, key - key % LK_Q8_QUAD, 0);
    for (size_t c = 0; c < head_dim; c++)
      out[c] = (float)q8_signed_byte(q8_quad(quads, c), key % LK_Q8_QUAD) * scales[key];
  }
}

/* The same rounded to bf16, in its order. */
static inline void q8_unpack_k_bf16(const void *k, size_t n, uint16_t *out) {
  const uint8_t *from = k;
  const float *scales = lk_q8_scales(from, n);
  float even[LK_KEY_BLOCK], odd[LK_KEY_BLOCK];
  for (size_t b = 0; b < LK_PAGE_TOKENS / LK_KEY_BLOCK; b++)
    for (size_t c = 0; c < n; c += 2, out += 2 * LK_KEY_BLOCK) {
      const uint8_t *block = from + (b * n + c / LK_Q8_QUAD * LK_Q8_QUAD) * LK_KEY_BLOCK;
      q8_keys(block, c % LK_Q8_QUAD, scales[c], even);
      q8_keys(block, c % LK_Q8_QUAD + 1, scales[c + 1], odd);
      for (size_t key = 0; key < LK_KEY_BLOCK; key++) {
        out[2 * key] = lk_f32_to_bf16(even[key]);
        out[2 * key + 1] = lk_f32_to_bf16(odd[key]);
      }
    }
}

static inline void q8_unpack_v_bf16(const void *v, size_t head_dim, uint16_t *out) {
  const int8_t *from = v;
  const float *scales = lk_q8_scales(from, head_dim);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key++, out += head_dim) {
    const int8_t *quads = from + lk_q8_v_index(head_dim, key - key % LK_Q8_QUAD, 0);
    for (size_t c = 0; c < head_dim; c++)
      out[c] =
          lk_f32_to_bf16((float)q8_signed_byte(q8_quad(quads, c), key % LK_Q8_QUAD) * scales[key]);
  }
}

#endif
