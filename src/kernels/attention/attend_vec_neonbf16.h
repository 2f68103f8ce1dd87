/* What FEAT_BF16 adds to attend_vec_neon.h: bf16 pairs in 32-bit lanes as factors. BFDOT, as it is
 * where FPCR.EBF is 0 (what Linux starts a process with), adds the two exact products of a pair,
 * then that sum to the accumulator; both sums are rounded to odd, and denormals are 0 on every way
 * in and out (Arm Architecture Reference Manual for A-profile, BFDOT and pseudocode BFDotAdd,
 * FPAdd_BF16, FPMul_BF16). */
#ifndef LK_KERNELS_ATTEND_VEC_NEONBF16_H
#define LK_KERNELS_ATTEND_VEC_NEONBF16_H

#include "kernels/attention/attend_vec_neon.h"

static inline vf v_pair_dot(vf a, vf x, vf c) {
  return vbfdotq_f32(c, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(x));
}
/* Two rows of 8 bf16 become pairs (first, second): the low 4 channels and the high 4. */
static inline vf v_pair_low(vf first, vf second) {
  return vreinterpretq_f32_u16(
      vzip1q_u16(vreinterpretq_u16_f32(first), vreinterpretq_u16_f32(second)));
}
static inline vf v_pair_high(vf first, vf second) {
  return vreinterpretq_f32_u16(
      vzip2q_u16(vreinterpretq_u16_f32(first), vreinterpretq_u16_f32(second)));
}
/* They are in order already. */
static inline void v_lanes_in_order(vf low, vf high, vf *first, vf *second) {
  *first = low;
  *second = high;
}
/* The second of each pair becomes 0. */
static inline vf v_pair_first(vf pairs) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs), vdupq_n_u32(0xffff)));
}

/* 64 fp32 to bf16 in order; gives VW partial sums of the rounded values. */
static inline vf v_store_pairs(void *p, const vf v[16]) {
  vf sum = v_zero();
  for (int i = 0; i < 8; i++) {
    const bfloat16x8_t low = vcvtq_low_bf16_f32(v[2 * i]);
    const vf h = vreinterpretq_f32_bf16(vcvtq_high_bf16_f32(low, v[2 * i + 1]));
    v_store((char *)p + i * 16, h);
    sum = v_add(sum, v_add(v_even(h), v_odd(h)));
  }
  return sum;
}

static inline void v_row_to_bf16(const float *x, size_t n, uint16_t *y) {
  size_t i = 0;
  for (; i + VW <= n; i += VW)
    vst1_u16(y + i, vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(x + i))));
  if (i == n) return;
  const uint16x4_t h = vreinterpret_u16_bf16(vcvt_bf16_f32(lanes_load_first(x + i, n - i)));
  uint16_t rest[VW];
  vst1_u16(rest, h);
  for (size_t k = 0; i + k < n; k++) y[i + k] = rest[k];
}

#endif
