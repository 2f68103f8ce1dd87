/* prepare_<type> and widen_<type> of every type for AVX-512.
 *
 * 4-bit types: a group has only 16 values, so they are computed once, as one vector, and elements
 * are looked up by vpermps, which reads the low 4 bits of each lane of its index: the nibbles need
 * no mask and no conversion. */
#ifndef LK_KERNELS_WIDEN_AVX512_H
#define LK_KERNELS_WIDEN_AVX512_H

#include "kernels/dequant/dtype_each.h"
#include "kernels/dequant/vec_avx512.h"
#include "kernels/dequant/widen_unpacked.h"

WIDEN_SCALED(Q8_0, q8_0, 32, 34, 32)
WIDEN_SCALED(Q5_0, q5_0, 32, 22, 32)
WIDEN_AFFINE(Q5_1, q5_1, 32, 24, 32)
WIDEN_AFFINE(Q5_K, q5_k, 256, 176, 32)

VEC_FN __m512i bytes_to_lanes(const uint8_t *p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

/* Elements 16 * half .. of 32 whose nibbles are in 16 bytes, by table. */
VEC_FN vec look_up_16(const uint8_t *packed, size_t half, vec table) {
  const __m512i lanes = bytes_to_lanes(packed);
  return _mm512_permutexvar_ps(half ? _mm512_srli_epi32(lanes, 4) : lanes, table);
}

VEC_FN vec nibble_values(void) {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

VEC_FN void prepare_q4_0(const uint8_t *block, lk_unpacked *u) { u->scale[0] = lk_f16_at(block); }
VEC_FN vec widen_q4_0(const uint8_t *block, const lk_unpacked *u, size_t v) {
  const vec values = vec_add(nibble_values(), vec_set1(-8.0f));
  return look_up_16(block + 2, v, vec_mul(values, vec_set1(u->scale[0])));
}

VEC_FN void prepare_q4_1(const uint8_t *block, lk_unpacked *u) {
  u->scale[0] = lk_f16_at(block);
  u->offset[0] = lk_f16_at(block + 2);
}
VEC_FN vec widen_q4_1(const uint8_t *block, const lk_unpacked *u, size_t v) {
  const vec table = vec_fma(nibble_values(), vec_set1(u->scale[0]), vec_set1(u->offset[0]));
  return look_up_16(block + 4, v, table);
}

VEC_FN void prepare_q4_k(const uint8_t *block, lk_unpacked *u) { unpack_k_scales(block, u); }
VEC_FN vec widen_q4_k(const uint8_t *block, const lk_unpacked *u, size_t v) {
  const size_t group = v / 2;
  const vec table = vec_fma(nibble_values(), vec_set1(u->scale[group]), vec_set1(u->offset[group]));
  return look_up_16(block + 16 + 32 * (group / 2) + 16 * (v % 2), group % 2, table);
}

/* Q6_K: the 6 bits are put on top of the mantissa of 1.0, which gives 1 + q / 64 without a
 * conversion; 1.5 less is (q - 32) / 64, so the scales are kept times 64 (exact). */
VEC_FN void prepare_q6_k(const uint8_t *block, lk_unpacked *u) {
  const __m128i scales = _mm_loadu_si128((const __m128i *)(block + 192));
  const vec d = vec_set1(lk_f16_at(block + 208));
  const vec product = vec_mul(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales)), d);
  vec_store(u->scale, vec_mul(product, vec_set1(64.0f)));
}
/* Bits 2 * run, 2 * run + 1 moved to 21, 22. */
VEC_FN __m512i q6_k_high(__m512i lanes, size_t run) {
  switch (run) {
  case 0: return _mm512_slli_epi32(lanes, 21);
  case 1: return _mm512_slli_epi32(lanes, 19);
  case 2: return _mm512_slli_epi32(lanes, 17);
  default: return _mm512_slli_epi32(lanes, 15);
  }
}
VEC_FN vec widen_q6_k(const uint8_t *block, const lk_unpacked *u, size_t v) {
  const size_t half = v / 8, run = v % 8 / 2, at = 16 * (v % 2);
  const __m512i low = bytes_to_lanes(block + 64 * half + 32 * (run % 2) + at);
  const __m512i high = q6_k_high(bytes_to_lanes(block + 128 + 32 * half + at), run);
  const __m512i low_bits = _mm512_set1_epi32(0xf << 17), all_bits = _mm512_set1_epi32(0x3f << 17);
  const __m512i one = _mm512_set1_epi32(0x3f800000);
  const __m512i low_moved = run < 2 ? _mm512_slli_epi32(low, 17) : _mm512_slli_epi32(low, 13);
  const __m512i q = _mm512_ternarylogic_epi32(low_bits, low_moved, high, 0xca); /* a ? b : c */
  const __m512i f = _mm512_ternarylogic_epi32(q, all_bits, one, 0xea);          /* (a & b) | c */
  const vec centred = vec_add(_mm512_castsi512_ps(f), vec_set1(-1.5f));
  return vec_mul(centred, vec_set1(u->scale[v]));
}

#endif
