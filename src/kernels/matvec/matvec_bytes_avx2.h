/* Units of quantised weights as vectors of 32 bytes, for matvec_parts.h. Layout of blocks:
 * kernels/dequant/unpack.h. */
#ifndef LK_KERNELS_MATVEC_BYTES_AVX2_H
#define LK_KERNELS_MATVEC_BYTES_AVX2_H

#include "kernels/dequant/unpack.h"
#include "kernels/dequant/vec_avx2.h"
#include "kernels/matvec/matvec_bytes_x86.h"

enum { VB = 32, VI_DOT_IS_BIASED = 0 };
typedef __m256i vb; /* bytes */
typedef __m256i vi; /* 8 int32 */

VEC_FN vb vb_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
VEC_FN vi vi_load(const uint8_t *p) { return vb_load(p); }
VEC_FN vi vi_zero(void) { return _mm256_setzero_si256(); }
VEC_FN vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
VEC_FN vi vi_times_128(vi a) { return _mm256_slli_epi32(a, 7); }
VEC_FN vec vi_to_vec(vi a) { return _mm256_cvtepi32_ps(a); }

/* Sums of 4 products of unsigned weights and signed activations; two are added in 16 bits: at most
 * 2 * 63 * 127. */
VEC_FN vi vi_dot(vi sum, vb w, vb x) {
  const __m256i pairs = _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Of signed weights by their magnitudes: 2 * 128 * 127 at most. */
VEC_FN vi vi_dot_signed(vi sum, vb w, vb x) {
  return vi_dot(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

VEC_FN vq vq_load(const uint8_t *p) {
  return _mm_castpd_ps(_mm_load_sd((const double *)(const void *)p));
}
/* Lanes of block b: 4 b .. 4 b + 3. */
VEC_FN vec vq_spread(vq a) {
  return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(a),
                                  _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}
/* Block b in lane b, 0 behind. */
VEC_FN vec vq_widen(vq a) { return _mm256_zextps128_ps256(a); }

/* ---- blocks of 32 ---- */

/* 16 bytes of each of 2 blocks. */
VEC_FN vb chunks(const uint8_t *p, size_t stride) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p)),
                                 _mm_loadu_si128((const __m128i *)(p + stride)), 1);
}
VEC_FN void nibbles(vb packed, vb w[2]) {
  const __m256i low = _mm256_set1_epi8(0x0f);
  w[0] = _mm256_and_si256(packed, low);
  w[1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
}

/* The f16 at the begin of 2 blocks. */
VEC_FN vq scales(const uint8_t *p, size_t stride) {
  const __m128i first = _mm_cvtsi32_si128(load_16(p));
  return _mm_cvtph_ps(_mm_insert_epi16(first, load_16(p + stride), 1));
}
/* The two f16 there. */
VEC_FN void scales_and_offsets(const uint8_t *p, size_t stride, vq *scale, vq *offset) {
  const __m128 all =
      _mm_cvtph_ps(_mm_insert_epi32(_mm_cvtsi32_si128(load_32(p)), load_32(p + stride), 1));
  *scale = _mm_shuffle_ps(all, _mm_setzero_ps(), _MM_SHUFFLE(0, 0, 2, 0));
  *offset = _mm_shuffle_ps(all, _mm_setzero_ps(), _MM_SHUFFLE(0, 0, 3, 1));
}

/* 16 is added where an element's bit of the 32 of its block is set: byte i / 8 of the bits is
 * spread over 8 elements and its bit i % 8 picked out. */
VEC_FN void fifth_bits(const uint8_t *p, size_t stride, vb w[2]) {
  const __m256i bits =
      _mm256_set_m128i(_mm_set1_epi32(load_32(p + stride)), _mm_set1_epi32(load_32(p)));
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
  const __m256i sixteen = _mm256_set1_epi8(16);
  _Pragma("GCC unroll 2") for (int c = 0; c < 2; c++) {
    const long long first = 0x0202020202020202 * c, second = first + 0x0101010101010101;
    const __m256i spread =
        _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(first, second, first, second));
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    w[c] = _mm256_or_si256(w[c], _mm256_and_si256(is_set, sixteen));
  }
}

VEC_FN void bytes_q8_0(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  *scale = *offset = scales(p, 34);
  w[0] = chunks(p + 2, 34);
  w[1] = chunks(p + 18, 34);
}
/* ---- blocks of 256: vector g is group g ---- */

VEC_FN void group_scales(const uint8_t *block, vec scale[8], vec *offset) {
  float spread[8];
  __m256 scales_8;
  unpack_k_scale_vectors(block, &scales_8, offset);
  vec_store(spread, scales_8);
  _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++) scale[g] = vec_set1(spread[g]);
}
VEC_FN void bytes_q4_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  group_scales(block, scale, offset);
  _Pragma("GCC unroll 4") for (int p = 0; p < 4; p++)
      nibbles(vb_load(block + 16 + 32 * p), w + 2 * p);
}
VEC_FN void bytes_q5_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  group_scales(block, scale, offset);
  const __m256i high = vb_load(block + 16), sixteen = _mm256_set1_epi8(16);
  _Pragma("GCC unroll 4") for (int p = 0; p < 4; p++)
      nibbles(vb_load(block + 48 + 32 * p), w + 2 * p);
  _Pragma("GCC unroll 8") for (int g = 0; g < 8; g++) {
    const __m256i bit = _mm256_set1_epi8((char)(1 << g));
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    w[g] = _mm256_or_si256(w[g], _mm256_and_si256(is_set, sixteen));
  }
}
/* Each half of a block of Q6_K: low nibbles of 64 bytes, then their high ones; the 2 bits on top
 * for 32 elements at a time are in the same 32 bytes. */
VEC_FN void bytes_q6_k(const uint8_t *block, vb w[8], vec scale[8], vec *offset) {
  float spread[16];
  const vec d = vec_set1(lk_f16_at(block + 208));
  vec all[2];
  _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
    all[i] = vec_mul(vec_from_i8((const int8_t *)block + 192 + 8 * i), d);
    vec_store(spread + 8 * i, all[i]);
    offset[i] = vec_mul(all[i], vec_set1(-32));
  }
  const __m256i top = _mm256_set1_epi8(0x30);
  _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
    const __m256i high = vb_load(block + 128 + 32 * half);
    const __m256i bits[4] = {_mm256_slli_epi16(high, 4), _mm256_slli_epi16(high, 2), high,
                             _mm256_srli_epi16(high, 2)};
    vb first[2], second[2];
    nibbles(vb_load(block + 64 * half), first);
    nibbles(vb_load(block + 64 * half + 32), second);
    const vb low[4] = {first[0], second[0], first[1], second[1]};
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) w[4 * half + r] =
        _mm256_or_si256(low[r], _mm256_and_si256(bits[r], top));
  }
  _Pragma("GCC unroll 8") for (int v = 0; v < 8; v++) scale[v] =
      _mm256_blend_ps(vec_set1(spread[2 * v]), vec_set1(spread[2 * v + 1]), 0xf0);
}
VEC_FN vec add_16_offsets(const vec *offset, const uint8_t *sums, vec to) {
  const float *s = (const float *)(const void *)sums;
  return vec_fma(offset[1], vec_load(s + 8), vec_fma(offset[0], vec_load(s), to));
}

#endif
