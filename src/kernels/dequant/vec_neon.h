/* Vectors of 8 fp32, as two registers, and what dequant, matvec and rows need of them. Only for
 * AArch64. */
#ifndef LK_KERNELS_VEC_NEON_H
#define LK_KERNELS_VEC_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dequant/lanes_neon.h"

#define VEC_FN static inline __attribute__((always_inline))
/* unpack.h and half_float.h take their NEON forms in files that include this one. */
#define LK_UNPACK_NEON 1

enum { VEC_LANES = 8 };
typedef struct vec {
  float32x4_t lo, hi;
} vec;

#define VEC(LO, HI) ((vec){(LO), (HI)})

VEC_FN vec vec_set1(float x) { return VEC(vdupq_n_f32(x), vdupq_n_f32(x)); }
VEC_FN vec vec_zero(void) { return vec_set1(0); }
/* Stored weights have no alignment. */
VEC_FN float32x4_t vec_load_half(const uint8_t *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
VEC_FN vec vec_load(const float *p) {
  const uint8_t *bytes = (const void *)p;
  return VEC(vec_load_half(bytes), vec_load_half(bytes + 16));
}
VEC_FN void vec_store(float *p, vec x) {
  vst1q_f32(p, x.lo);
  vst1q_f32(p + 4, x.hi);
}
VEC_FN vec vec_add(vec a, vec b) { return VEC(vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)); }
VEC_FN vec vec_mul(vec a, vec b) { return VEC(vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)); }
VEC_FN vec vec_div(vec a, vec b) { return VEC(vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)); }
/* a * b + c */
VEC_FN vec vec_fma(vec a, vec b, vec c) {
  return VEC(vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi));
}
/* a * b - c */
VEC_FN vec vec_fms(vec a, vec b, vec c) {
  return VEC(vfmaq_f32(vnegq_f32(c.lo), a.lo, b.lo), vfmaq_f32(vnegq_f32(c.hi), a.hi, b.hi));
}
/* -|x|, and a where the sign bit of x is set, else b. */
VEC_FN vec vec_negative_abs(vec x) {
  return VEC(vnegq_f32(vabsq_f32(x.lo)), vnegq_f32(vabsq_f32(x.hi)));
}
VEC_FN uint32x4_t vec_sign_mask(float32x4_t x) { return vcltzq_s32(vreinterpretq_s32_f32(x)); }
VEC_FN vec vec_where_negative(vec x, vec a, vec b) {
  return VEC(vbslq_f32(vec_sign_mask(x.lo), a.lo, b.lo),
             vbslq_f32(vec_sign_mask(x.hi), a.hi, b.hi));
}
VEC_FN float vec_sum(vec x) { return vaddvq_f32(vaddq_f32(x.lo, x.hi)); }

/* Lanes below n (0 .. VEC_LANES) of memory, nothing else is touched. */
VEC_FN vec vec_load_first(const float *p, size_t n) {
  if (n < 4) return VEC(lanes_load_first(p, n), vdupq_n_f32(0));
  return VEC(vld1q_f32(p), lanes_load_first(p + 4, n - 4));
}
VEC_FN void vec_store_first(float *p, size_t n, vec x) {
  lanes_store_first(p, n, x.lo);
  if (n > 4) lanes_store_first(p + 4, n - 4, x.hi);
}

/* Adjacent lanes exchanged; and p[0], p[0], p[1], p[1], ... of n (0 .. VEC_LANES / 2) numbers. */
VEC_FN vec vec_swap_pairs(vec x) { return VEC(vrev64q_f32(x.lo), vrev64q_f32(x.hi)); }
VEC_FN vec vec_load_twice(const float *p, size_t n) {
  const float32x4_t x = lanes_load_first(p, n);
  return VEC(vzip1q_f32(x, x), vzip2q_f32(x, x));
}
/* a * b - c in even lanes, a * b + c in odd ones. */
VEC_FN vec vec_fma_sub_add(vec a, vec b, vec c) {
  const uint32x4_t even = vreinterpretq_u32_u64(vdupq_n_u64(0x80000000u));
  const uint32x4_t lo = veorq_u32(vreinterpretq_u32_f32(c.lo), even);
  const uint32x4_t hi = veorq_u32(vreinterpretq_u32_f32(c.hi), even);
  return vec_fma(a, b, VEC(vreinterpretq_f32_u32(lo), vreinterpretq_f32_u32(hi)));
}

/* VEC_LANES stored numbers of another type. */
VEC_FN vec vec_from_f16(const void *p) {
  const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
  return VEC(vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h));
}
VEC_FN vec vec_from_bf16(const void *p) {
  const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
  return VEC(vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
             vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)));
}
VEC_FN vec vec_from_i8(const int8_t *p) {
  const int16x8_t x = vmovl_s8(vld1_s8(p));
  return VEC(vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x)));
}

/* bf16 as lk_f32_to_bf16 rounds. */
VEC_FN uint16x4_t vec_round_half(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), up, quiet), 16);
}
VEC_FN uint16x8_t vec_round_bf16(vec x) {
  return vcombine_u16(vec_round_half(x.lo), vec_round_half(x.hi));
}
VEC_FN void vec_store_bf16(uint16_t *p, vec x) { vst1q_u16(p, vec_round_bf16(x)); }
VEC_FN void vec_store_bf16_first(uint16_t *p, size_t n, vec x) {
  uint16_t r[VEC_LANES];
  vst1q_u16(r, vec_round_bf16(x));
  memcpy(p, r, n * sizeof *p);
}

#endif
