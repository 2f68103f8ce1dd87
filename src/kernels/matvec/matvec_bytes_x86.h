/* What the matvec_bytes_<isa>.h of x86-64 have in common. */
#ifndef LK_KERNELS_MATVEC_BYTES_X86_H
#define LK_KERNELS_MATVEC_BYTES_X86_H

#include <stdint.h>
#include <string.h>
#include <xmmintrin.h>

typedef __m128 vq; /* a number for each block of a unit, 0 behind */

static inline vq vq_mul(vq a, vq b) { return _mm_mul_ps(a, b); }
static inline vq vq_times(vq a, float x) { return _mm_mul_ps(a, _mm_set1_ps(x)); }

static inline int load_16(const uint8_t *p) {
  uint16_t x;
  memcpy(&x, p, sizeof x);
  return x;
}
static inline int load_32(const uint8_t *p) {
  int32_t x;
  memcpy(&x, p, sizeof x);
  return x;
}

#endif
