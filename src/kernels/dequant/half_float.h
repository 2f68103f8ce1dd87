/* IEEE binary16 to binary32. */
#ifndef LK_KERNELS_HALF_FLOAT_H
#define LK_KERNELS_HALF_FLOAT_H

#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
static inline float lk_f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }
#elif defined(LK_UNPACK_NEON)
static inline float lk_f16_to_f32(uint16_t h) {
  __fp16 f;
  memcpy(&f, &h, sizeof f);
  return (float)f;
}
#else
/* The exponent is re-biased by a multiplication, which also normalises subnormal numbers. NaN
 * becomes quiet, as F16C and FCVT make it. */
static inline float lk_f16_to_f32(uint16_t h) {
  const uint32_t magnitude = h & 0x7fffu;
  uint32_t u = magnitude << 13;
  float f;
  memcpy(&f, &u, sizeof f);
  f *= 0x1p112f;
  memcpy(&u, &f, sizeof u);
  if (magnitude >= 0x7c00u) u |= 0x7f800000u;
  if (magnitude > 0x7c00u) u |= 0x00400000u;
  u |= (uint32_t)(h & 0x8000u) << 16;
  memcpy(&f, &u, sizeof f);
  return f;
}
#endif

/* The binary16 stored (little-endian) at p. */
static inline float lk_f16_at(const uint8_t *p) {
  return lk_f16_to_f32((uint16_t)(p[0] | (unsigned)p[1] << 8));
}

#endif
