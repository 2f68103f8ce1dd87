/* Units of quantised weights as vectors of 32 bytes, two registers, for matvec_parts.h. All of them
 * are below 128 or signed, so that SDOT multiplies them as they are. Layout of blocks:
 * kernels/dequant/unpack.h. */
#ifndef LK_KERNELS_MATVEC_BYTES_NEONDOT_H
#define LK_KERNELS_MATVEC_BYTES_NEONDOT_H

#include "kernels/dequant/vec_neon.h"
#include "kernels/dequant/unpack.h"

enum { VB = 32, VI_DOT_IS_BIASED = 0 };
typedef struct vb { /* bytes */
  uint8x16_t lo, hi;
} vb;
typedef struct vi { /* 8 int32 */
  int32x4_t lo, hi;
} vi;
typedef float32x2_t vq; /* a number for each block of a unit */

VEC_FN vb vb_load(const uint8_t *p) { return (vb){vld1q_u8(p), vld1q_u8(p + 16)}; }
VEC_FN vi vi_load(const uint8_t *p) {
  const vb x = vb_load(p);
  return (vi){vreinterpretq_s32_u8(x.lo), vreinterpretq_s32_u8(x.hi)};
}
VEC_FN vi vi_zero(void) { return (vi){vdupq_n_s32(0), vdupq_n_s32(0)}; }
VEC_FN vi vi_add(vi a, vi b) { return (vi){vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)}; }
VEC_FN vi vi_times_128(vi a) { return (vi){vshlq_n_s32(a.lo, 7), vshlq_n_s32(a.hi, 7)}; }
VEC_FN vec vi_to_vec(vi a) { return VEC(vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)); }

/* Sums of 4 products. */
VEC_FN vi vi_dot(vi sum, vb w, vb x) {
  return (vi){vdotq_s32(sum.lo, vreinterpretq_s8_u8(w.lo), vreinterpretq_s8_u8(x.lo)),
              vdotq_s32(sum.hi, vreinterpretq_s8_u8(w.hi), vreinterpretq_s8_u8(x.hi))};
}
VEC_FN vi vi_dot_signed(vi sum, vb w, vb x) { return vi_dot(sum, w, x); }

VEC_FN vq vq_load(const uint8_t *p) { return vreinterpret_f32_u8(vld1_u8(p)); }
VEC_FN vq vq_mul(vq a, vq b) { return vmul_f32(a, b); }
VEC_FN vq vq_times(vq a, float x) { return vmul_n_f32(a, x); }
/* Lanes of block b: 4 b .. 4 b + 3. */
VEC_FN vec vq_spread(vq a) { return VEC(vdupq_lane_f32(a, 0), vdupq_lane_f32(a, 1)); }
/* Block b in lane b, 0 behind. */
VEC_FN vec vq_widen(vq a) { return VEC(vcombine_f32(a, vdup_n_f32(0)), vdupq_n_f32(0)); }

/* ---- blocks of 32 ---- */

VEC_FN uint64_t load_16(const uint8_t *p) {
  uint16_t x;
  memcpy(&x, p, sizeof x);
  return x;
}
VEC_FN uint64_t load_32(const uint8_t *p) {
  uint32_t x;
  memcpy(&x, p, sizeof x);
  return x;
}

/* 16 bytes of each of 2 blocks. */
VEC_FN vb chunks(const uint8_t *p, size_t stride) {
  return (vb){vld1q_u8(p), vld1q_u8(p + stride)};
}
VEC_FN void nibbles(vb packed, vb w[2]) {
  const uint8x16_t low = vdupq_n_u8(0x0f);
  w[0] = (vb){vandq_u8(packed.lo, low), vandq_u8(packed.hi, low)};
  w[1] = (vb){vshrq_n_u8(packed.lo, 4), vshrq_n_u8(packed.hi, 4)};
}

/* Where a bit of `bits` is set that `bit` names too, 16 is added. */
VEC_FN uint8x16_t with_fifth(uint8x16_t w, uint8x16_t bits, uint8x16_t bit) {
  return vorrq_u8(w, vandq_u8(vtstq_u8(bits, bit), vdupq_n_u8(16)));
}

/* The f16 at the begin of 2 blocks. */
VEC_FN vq scales(const uint8_t *p, size_t stride) {
  const uint64_t both = load_16(p) | load_16(p + stride) << 16;
  return vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(both))));
}
/* The two f16 there. */
VEC_FN void scales_and_offsets(const uint8_t *p, size_t stride, vq *scale, vq *offset) {
  const uint64_t both = load_32(p) | load_32(p + stride) << 32;
  const float32x4_t all = vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(both)));
  *scale = vuzp1_f32(vget_low_f32(all), vget_high_f32(all));
  *offset = vuzp2_f32(vget_low_f32(all), vget_high_f32(all));
}

/* 16 is added where an element's bit of the 32 of its block is set: byte i / 8 of the bits is
 * spread over 8 elements and its bit i % 8 picked out. */
VEC_FN void fifth_bits(const uint8_t *p, size_t stride, vb w[2]) {
  static const uint8_t bit_of[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  static const uint8_t byte_of[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const uint64_t both = load_32(p) | load_32(p + stride) << 32;
  const uint8x16_t bits = vreinterpretq_u8_u64(vdupq_n_u64(both));
  const uint8x16_t bit = vld1q_u8(bit_of), byte = vld1q_u8(byte_of);
  _Pragma("GCC unroll 2") for (unsigned c = 0; c < 2; c++) {
    const uint8x16_t first = vaddq_u8(byte, vdupq_n_u8((uint8_t)(2 * c)));
    const uint8x16_t second = vaddq_u8(byte, vdupq_n_u8((uint8_t)(2 * c + 4)));
    w[c].lo = with_fifth(w[c].lo, vqtbl1q_u8(bits, first), bit);
    w[c].hi = with_fifth(w[c].hi, vqtbl1q_u8(bits, second), bit);
  }
}

VEC_FN void bytes_q8_0(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  *scale = *offset = scales(p, 34);
  w[0] = chunks(p + 2, 34);
  w[1] = chunks(p + 18, 34);
}

/* ---- blocks of 256: vector g is group g, in Q6_K groups 2 g and 2 g + 1 ---- */

VEC_FN void spread_4(float32x4_t s, vec out[4]) {
  const float32x4_t x[4] = {vdupq_laneq_f32(s, 0), vdupq_laneq_f32(s, 1), vdupq_laneq_f32(s, 2),
                            vdupq_laneq_f32(s, 3)};
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) out[i] = VEC(x[i], x[i]);
}
VEC_FN void group_scales(const uint8_t *block, vec scale[8], vec *offset) {
  float32x4_t s[2], o[2];
  unpack_k_scale_vectors(block, s, o);
  spread_4(s[0], scale);
  spread_4(s[1], scale + 4);
  *offset = VEC(o[0], o[1]);
}
VEC_FN void bytes_q4_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  group_scales(block, scale, offset);
  _Pragma("GCC unroll 4") for (int p = 0; p < 4; p++)
      nibbles(vb_load(block + 16 + 32 * p), w + 2 * p);
}
VEC_FN void bytes_q5_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  const vb high = vb_load(block + 16);
  group_scales(block, scale, offset);
  _Pragma("GCC unroll 4") for (int p = 0; p < 4; p++)
      nibbles(vb_load(block + 48 + 32 * p), w + 2 * p);
  _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++) {
    const uint8x16_t bit = vdupq_n_u8((uint8_t)(1 << g));
    w[g] = (vb){with_fifth(w[g].lo, high.lo, bit), with_fifth(w[g].hi, high.hi, bit)};
  }
}

/* Each half of a block of Q6_K: low nibbles of 64 bytes, then their high ones; the 2 bits on top
 * for 32 elements at a time are in the same 32 bytes: `up` of 4 vectors in turn. */
VEC_FN void top_bits(uint8x16_t high, uint8x16_t up[4]) {
  const uint8x16_t top = vdupq_n_u8(0x30);
  up[0] = vandq_u8(vshlq_n_u8(high, 4), top);
  up[1] = vandq_u8(vshlq_n_u8(high, 2), top);
  up[2] = vandq_u8(high, top);
  up[3] = vandq_u8(vshrq_n_u8(high, 2), top);
}
VEC_FN void bytes_q6_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  const vec d = vec_set1(lk_f16_at(block + 208));
  _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
    const vec s = vec_mul(vec_from_i8((const int8_t *)block + 192 + 8 * half), d);
    const vb high = vb_load(block + 128 + 32 * half);
    uint8x16_t lo[4], hi[4];
    vb first[2], second[2];
    offset[half] = vec_mul(s, vec_set1(-32));
    vec *to = scale + 4 * half;
    to[0] = VEC(vdupq_laneq_f32(s.lo, 0), vdupq_laneq_f32(s.lo, 1));
    to[1] = VEC(vdupq_laneq_f32(s.lo, 2), vdupq_laneq_f32(s.lo, 3));
    to[2] = VEC(vdupq_laneq_f32(s.hi, 0), vdupq_laneq_f32(s.hi, 1));
    to[3] = VEC(vdupq_laneq_f32(s.hi, 2), vdupq_laneq_f32(s.hi, 3));
    top_bits(high.lo, lo);
    top_bits(high.hi, hi);
    nibbles(vb_load(block + 64 * half), first);
    nibbles(vb_load(block + 64 * half + 32), second);
    const vb low[4] = {first[0], second[0], first[1], second[1]};
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) w[4 * half + r] =
        (vb){vorrq_u8(low[r].lo, lo[r]), vorrq_u8(low[r].hi, hi[r])};
  }
}
VEC_FN vec add_16_offsets(const vec *offset, const uint8_t *sums, vec to) {
  const float *s = (const float *)(const void *)sums;
  return vec_fma(offset[1], vec_load(s + 8), vec_fma(offset[0], vec_load(s), to));
}

#endif
