/* Reference. */
#include <string.h>

#include "kernels/dequant/dequant_kernels.h"
#include "kernels/dequant/half_float.h"
#include "kernels/dequant/unpack.h"

/* ---- plain types ---- */

void lk_dequant_f32_c_to_f32(const void *src, size_t n, float *dst) {
  memcpy(dst, src, n * sizeof *dst);
}

void lk_dequant_f32_c_to_bf16(const void *src, size_t n, uint16_t *dst) {
  const uint8_t *bytes = src;
  for (size_t i = 0; i < n; i++) {
    float f;
    memcpy(&f, bytes + 4 * i, sizeof f);
    dst[i] = lk_f32_to_bf16(f);
  }
}

void lk_dequant_f16_c_to_f32(const void *src, size_t n, float *dst) {
  const uint8_t *bytes = src;
  for (size_t i = 0; i < n; i++) dst[i] = lk_f16_at(bytes + 2 * i);
}

void lk_dequant_f16_c_to_bf16(const void *src, size_t n, uint16_t *dst) {
  const uint8_t *bytes = src;
  for (size_t i = 0; i < n; i++) dst[i] = lk_f32_to_bf16(lk_f16_at(bytes + 2 * i));
}

void lk_dequant_bf16_c_to_f32(const void *src, size_t n, float *dst) {
  const uint8_t *bytes = src;
  for (size_t i = 0; i < n; i++)
    dst[i] = lk_bf16_to_f32((uint16_t)(bytes[2 * i] | (unsigned)bytes[2 * i + 1] << 8));
}

void lk_dequant_bf16_c_to_bf16(const void *src, size_t n, uint16_t *dst) {
  memcpy(dst, src, n * sizeof *dst);
}

/* ---- quantised types ---- */

static void scale_all(const lk_unpacked *u, size_t n, size_t group, float *dst) {
  for (size_t i = 0; i < n; i++) dst[i] = u->scale[i / group] * (float)u->q[i];
}

static void scale_and_shift_all(const lk_unpacked *u, size_t n, size_t group, float *dst) {
  for (size_t i = 0; i < n; i++)
    dst[i] = u->scale[i / group] * (float)u->q[i] + u->offset[i / group];
}

#define DEQUANT(name, elements, bytes, group, widen)                                               \
  void lk_dequant_##name##_c_to_f32(const void *src, size_t n, float *dst) {                       \
    const uint8_t *block = src;                                                                    \
    for (size_t i = 0; i < n; i += (elements), block += (bytes)) {                                 \
      lk_unpacked u;                                                                               \
      unpack_##name(block, &u);                                                                    \
      widen(&u, elements, group, dst + i);                                                         \
    }                                                                                              \
  }                                                                                                \
  void lk_dequant_##name##_c_to_bf16(const void *src, size_t n, uint16_t *dst) {                   \
    const uint8_t *block = src;                                                                    \
    for (size_t i = 0; i < n; i += (elements), block += (bytes)) {                                 \
      float f[elements];                                                                           \
      lk_dequant_##name##_c_to_f32(block, elements, f);                                            \
      for (size_t j = 0; j < (elements); j++) dst[i + j] = lk_f32_to_bf16(f[j]);                   \
    }                                                                                              \
  }
#define SCALED(TYPE, name, elements, bytes, group) DEQUANT(name, elements, bytes, group, scale_all)
#define AFFINE(TYPE, name, elements, bytes, group)                                                 \
  DEQUANT(name, elements, bytes, group, scale_and_shift_all)
LK_EACH_SCALED(SCALED)
LK_EACH_AFFINE(AFFINE)
