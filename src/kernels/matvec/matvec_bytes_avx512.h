/* Units of quantised weights as vectors of 64 bytes, for matvec_parts.h. With MATVEC_VNNI defined
 * as 1 (files built with AVX512_VNNI) or 0 before. Layout of blocks: kernels/dequant/unpack.h. */
#ifndef LK_KERNELS_MATVEC_BYTES_AVX512_H
#define LK_KERNELS_MATVEC_BYTES_AVX512_H

#include "kernels/dequant/unpack.h"
#include "kernels/dequant/vec_avx512.h"
#include "kernels/matvec/matvec_bytes_x86.h"

enum { VB = 64, VI_DOT_IS_BIASED = MATVEC_VNNI };
typedef __m512i vb; /* bytes */
typedef __m512i vi; /* 16 int32 */

VEC_FN vb vb_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
VEC_FN vi vi_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
VEC_FN vi vi_zero(void) { return _mm512_setzero_si512(); }
VEC_FN vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
VEC_FN vi vi_times_128(vi a) { return _mm512_slli_epi32(a, 7); }
VEC_FN vec vi_to_vec(vi a) { return _mm512_cvtepi32_ps(a); }

/* Sums of 4 products of unsigned weights and signed activations. Without VNNI two such products are
 * added in 16 bits: at most 2 * 63 * 127. */
VEC_FN vi vi_dot(vi sum, vb w, vb x) {
#if MATVEC_VNNI
  return _mm512_dpbusd_epi32(sum, w, x);
#else
  const __m512i pairs = _mm512_maddubs_epi16(w, x);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
/* Of signed weights: with VNNI as bytes_q8_0 leaves them, 128 too large; else by their magnitudes,
 * 2 * 128 * 127 at most. */
VEC_FN vi vi_dot_signed(vi sum, vb w, vb x) {
#if MATVEC_VNNI
  return vi_dot(sum, w, x);
#else
  const __m512i with_sign =
      _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
  return vi_dot(sum, _mm512_abs_epi8(w), with_sign);
#endif
}

VEC_FN vq vq_load(const uint8_t *p) { return _mm_loadu_ps((const float *)(const void *)p); }
/* Lanes of block b: 4 b .. 4 b + 3. */
VEC_FN vec vq_spread(vq a) {
  const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(a));
}
/* Block b in lane b, 0 behind. */
VEC_FN vec vq_widen(vq a) { return _mm512_zextps128_ps512(a); }

/* ---- blocks of 32 ---- */

/* 16 bytes of each of 4 blocks. */
VEC_FN vb chunks(const uint8_t *p, size_t stride) {
  const __m128i a = _mm_loadu_si128((const __m128i *)p);
  const __m128i c = _mm_loadu_si128((const __m128i *)(p + 2 * stride));
  const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(a),
                                             _mm_loadu_si128((const __m128i *)(p + stride)), 1);
  const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(c),
                                             _mm_loadu_si128((const __m128i *)(p + 3 * stride)), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}
VEC_FN void nibbles(vb packed, vb w[2]) {
  const __m512i low = _mm512_set1_epi8(0x0f);
  w[0] = _mm512_and_si512(packed, low);
  w[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
}

/* The f16 at the begin of 4 blocks. */
VEC_FN vq scales(const uint8_t *p, size_t stride) {
  __m128i h = _mm_cvtsi32_si128(load_16(p));
  h = _mm_insert_epi16(h, load_16(p + stride), 1);
  h = _mm_insert_epi16(h, load_16(p + 2 * stride), 2);
  h = _mm_insert_epi16(h, load_16(p + 3 * stride), 3);
  return _mm_cvtph_ps(h);
}
/* The two f16 there. */
VEC_FN void scales_and_offsets(const uint8_t *p, size_t stride, vq *scale, vq *offset) {
  __m128i h = _mm_cvtsi32_si128(load_32(p));
  h = _mm_insert_epi32(h, load_32(p + stride), 1);
  h = _mm_insert_epi32(h, load_32(p + 2 * stride), 2);
  h = _mm_insert_epi32(h, load_32(p + 3 * stride), 3);
  h = _mm_shuffle_epi8(h, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
  *scale = _mm_cvtph_ps(h);
  *offset = _mm_cvtph_ps(_mm_unpackhi_epi64(h, h));
}

/* 16 is added where an element's bit of the 32 of its block is set. */
VEC_FN void fifth_bits(const uint8_t *p, size_t stride, vb w[2]) {
  const __m512i sixteen = _mm512_set1_epi8(16);
  uint64_t first = 0, second = 0;
  _Pragma("GCC unroll 4") for (size_t b = 0; b < 4; b++) {
    const uint32_t bits = (uint32_t)load_32(p + b * stride);
    first |= (uint64_t)(bits & 0xffff) << 16 * b;
    second |= (uint64_t)(bits >> 16) << 16 * b;
  }
  w[0] = _mm512_mask_add_epi8(w[0], first, w[0], sixteen);
  w[1] = _mm512_mask_add_epi8(w[1], second, w[1], sixteen);
}

VEC_FN void bytes_q8_0(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  *scale = *offset = scales(p, 34);
  w[0] = chunks(p + 2, 34);
  w[1] = chunks(p + 18, 34);
#if MATVEC_VNNI
  const __m512i bias = _mm512_set1_epi8((char)0x80);
  w[0] = _mm512_xor_si512(w[0], bias);
  w[1] = _mm512_xor_si512(w[1], bias);
#endif
}
/* ---- blocks of 256 ---- */

/* Vectors of Q4_K and Q5_K: low nibbles of 64 bytes (groups 0 and 2 of four), high ones (1, 3). */
VEC_FN void group_scales(const uint8_t *block, vec scale[4], vec *offset) {
  __m256 scales_8, offsets_8;
  unpack_k_scale_vectors(block, &scales_8, &offsets_8);
  const __m512i pair = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
  _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) scale[v] =
      _mm512_permutexvar_ps(_mm512_add_epi32(pair, _mm512_set1_epi32(v / 2 * 4 + v % 2)),
                            _mm512_castps256_ps512(scales_8));
  *offset = _mm512_zextps256_ps512(offsets_8);
}
VEC_FN void bytes_q4_k(const uint8_t *block, vb w[4], vec scale[4], vec *offset) {
  group_scales(block, scale, offset);
  nibbles(vb_load(block + 16), w);
  nibbles(vb_load(block + 80), w + 2);
}
VEC_FN void bytes_q5_k(const uint8_t *block, vb w[4], vec scale[4], vec *offset) {
  group_scales(block, scale, offset);
  nibbles(vb_load(block + 48), w);
  nibbles(vb_load(block + 112), w + 2);
  const __m512i sixteen = _mm512_set1_epi8(16);
  const __m512i high = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(block + 16)));
  _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) {
    const int group = v / 2 * 4 + v % 2;
    const __m512i bit = _mm512_inserti64x4(_mm512_set1_epi8((char)(1 << group)),
                                           _mm256_set1_epi8((char)(4 << group)), 1);
    w[v] = _mm512_mask_add_epi8(w[v], _mm512_test_epi8_mask(high, bit), w[v], sixteen);
  }
}
/* Each half of a block of Q6_K: low nibbles of 64 bytes, then their high ones; the 2 bits on top
 * for 32 elements at a time are in the same 32 bytes. */
VEC_FN void bytes_q6_k(const uint8_t *block, vb w[4], vec scale[4], vec *offset) {
  const __m128i scales_16 = _mm_loadu_si128((const __m128i *)(block + 192));
  const vec all = vec_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales_16)),
                          vec_set1(lk_f16_at(block + 208)));
  const __m512i four = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i top = _mm512_set1_epi8(0x30);
  const __m512i up = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
  const __m512i down = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
  _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
    const __m512i high =
        _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(block + 128 + 32 * half)));
    nibbles(vb_load(block + 64 * half), w + 2 * half);
    w[2 * half] = _mm512_or_si512(w[2 * half], _mm512_and_si512(_mm512_sllv_epi16(high, up), top));
    w[2 * half + 1] =
        _mm512_or_si512(w[2 * half + 1], _mm512_and_si512(_mm512_srlv_epi16(high, down), top));
  }
  _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++) scale[v] =
      _mm512_permutexvar_ps(_mm512_add_epi32(four, _mm512_set1_epi32(4 * v)), all);
  *offset = vec_mul(all, vec_set1(-32));
}
VEC_FN vec add_16_offsets(const vec *offset, const uint8_t *sums, vec to) {
  return vec_fma(*offset, vec_load((const float *)(const void *)sums), to);
}

#endif
