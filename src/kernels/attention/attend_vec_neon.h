/* Vectors of 4 fp32 for attend_impl.h. Only for AArch64. */
#ifndef LK_KERNELS_ATTEND_VEC_NEON_H
#define LK_KERNELS_ATTEND_VEC_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dequant/lanes_neon.h"

/* VW: lanes. TILE_ROWS x TILE_VECS accumulators, an x and TILE_ROWS broadcasts fill 32 registers.
 */
#define TILE_ROWS 6
enum { VW = 4, TILE_VECS = 4 };

typedef float32x4_t vf;

static inline vf v_zero(void) { return vdupq_n_f32(0); }
static inline vf v_set1(float x) { return vdupq_n_f32(x); }
static inline vf v_load(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
static inline void v_store(void *p, vf x) { vst1q_u8(p, vreinterpretq_u8_f32(x)); }
static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf v_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline float v_hmax(vf x) { return vmaxvq_f32(x); }
static inline float v_hsum(vf x) { return vaddvq_f32(x); }

/* n, which may be below 0 or above VW, as a number of lanes. */
static inline size_t v_lanes(ptrdiff_t n) { return n >= VW ? VW : n <= 0 ? 0 : (size_t)n; }
static inline uint32x4_t v_first(ptrdiff_t n) {
  static const uint32_t lanes[VW] = {0, 1, 2, 3};
  return vcltq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)v_lanes(n)));
}
/* The first n lanes from memory, 0 elsewhere; reads nothing else. n may be below 0 or above VW. */
static inline vf v_load_first(const void *p, ptrdiff_t n) {
  return lanes_load_first(p, v_lanes(n));
}
static inline void v_store_first(void *p, ptrdiff_t n, vf x) {
  lanes_store_first(p, v_lanes(n), x);
}
/* The first n lanes of x, 0 elsewhere. */
static inline vf v_zero_behind(vf x, ptrdiff_t n) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), v_first(n)));
}
/* The first n lanes of x, -INFINITY elsewhere. */
static inline vf v_keep_first(vf x, ptrdiff_t n) {
  return vbslq_f32(v_first(n), x, vdupq_n_f32(-INFINITY));
}

/* bf16 pairs in 32-bit lanes: the even or the odd one widened. */
static inline vf v_even(vf pairs) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs), 16));
}
static inline vf v_odd(vf pairs) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs), vdupq_n_u32(0xffff0000u)));
}
/* even = x0 x2 x4 x6 and odd = x1 x3 x5 x7 become x0 .. x3 and x4 .. x7. */
static inline void v_zip(vf even, vf odd, vf *first, vf *second) {
  *first = vzip1q_f32(even, odd);
  *second = vzip2q_f32(even, odd);
}

/* x * 2^n, n whole and at least -252: two steps, so that the result may be denormal. */
static inline vf v_scale_exp2(vf x, vf n) {
  const int32x4_t bias = vdupq_n_s32(127), whole = vcvtq_s32_f32(n);
  const int32x4_t half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half);
  const int32x4_t a = vshlq_n_s32(vaddq_s32(half, bias), 23);
  const int32x4_t b = vshlq_n_s32(vaddq_s32(rest, bias), 23);
  return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b));
}
static inline vf v_round(vf x) { return vrndnq_f32(x); }

#endif
