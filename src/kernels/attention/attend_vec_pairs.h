/* What vdpbf16ps adds to attend_vec_avx512.h: bf16 pairs in 32-bit lanes as factors. It treats
 * denormals as 0, rounds to nearest even, and adds the second product of a pair before the first
 * (Intel Architecture Instruction Set Extensions, VDPBF16PS). */
#ifndef LK_KERNELS_ATTEND_VEC_PAIRS_H
#define LK_KERNELS_ATTEND_VEC_PAIRS_H

#include "kernels/attention/attend_vec_avx512.h"

static inline vf v_pair_dot(vf a, vf x, vf c) {
  return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(x));
}
/* Two rows of 32 bf16 become pairs (first, second): in each 128-bit part of 8 channels the low 4
 * and the high 4. v_lanes_in_order undoes that order on sums. */
static inline vf v_pair_low(vf first, vf second) {
  return _mm512_castsi512_ps(
      _mm512_unpacklo_epi16(_mm512_castps_si512(first), _mm512_castps_si512(second)));
}
static inline vf v_pair_high(vf first, vf second) {
  return _mm512_castsi512_ps(
      _mm512_unpackhi_epi16(_mm512_castps_si512(first), _mm512_castps_si512(second)));
}
static inline void v_lanes_in_order(vf low, vf high, vf *first, vf *second) {
  const __m512i lo = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(8));
  *first = _mm512_permutex2var_ps(low, lo, high);
  *second = _mm512_permutex2var_ps(low, hi, high);
}
/* The second of each pair becomes 0. */
static inline vf v_pair_first(vf pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(0xffff)));
}

/* 64 fp32 to bf16 in order; gives 16 partial sums of the rounded values. */
static inline vf v_store_pairs(void *p, const vf v[4]) {
  const vf one = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80));
  const vf a = _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]));
  const vf b = _mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(v[3], v[2]));
  v_store(p, a);
  v_store((char *)p + 64, b);
  return v_pair_dot(b, one, v_pair_dot(a, one, v_zero()));
}

static inline void v_row_to_bf16(const float *x, size_t n, uint16_t *y) {
  for (size_t i = 0; i < n; i += VW) {
    const ptrdiff_t rest = (ptrdiff_t)(n - i);
    const __m256i h = (__m256i)_mm512_cvtneps_pbh(v_load_first(x + i, rest));
    _mm256_mask_storeu_epi16(y + i, v_first(rest), h);
  }
}

#endif
