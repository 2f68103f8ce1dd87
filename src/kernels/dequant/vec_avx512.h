/* Vectors of 16 fp32 and what dequant, matvec and rows need of them. Only for files built with
 * AVX-512 F, BW, DQ and VL. */
#ifndef LK_KERNELS_VEC_AVX512_H
#define LK_KERNELS_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define VEC_FN static inline __attribute__((always_inline))

enum { VEC_LANES = 16 };
typedef __m512 vec;

VEC_FN vec vec_zero(void) { return _mm512_setzero_ps(); }
VEC_FN vec vec_set1(float x) { return _mm512_set1_ps(x); }
VEC_FN vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_FN void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
VEC_FN vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
VEC_FN vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
VEC_FN vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
/* a * b + c */
VEC_FN vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
/* a * b - c */
VEC_FN vec vec_fms(vec a, vec b, vec c) { return _mm512_fmsub_ps(a, b, c); }
/* -|x|, and a where the sign bit of x is set, else b. */
VEC_FN vec vec_negative_abs(vec x) { return _mm512_or_ps(x, _mm512_set1_ps(-0.0f)); }
VEC_FN vec vec_where_negative(vec x, vec a, vec b) {
  return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(x)), a);
}
VEC_FN float vec_sum(vec x) { return _mm512_reduce_add_ps(x); }

/* Lanes below n (0 .. VEC_LANES) of memory, nothing else is touched. */
VEC_FN __mmask16 vec_first(size_t n) { return (__mmask16)((1u << n) - 1); }
VEC_FN vec vec_load_first(const float *p, size_t n) {
  return _mm512_maskz_loadu_ps(vec_first(n), p);
}
VEC_FN void vec_store_first(float *p, size_t n, vec x) {
  _mm512_mask_storeu_ps(p, vec_first(n), x);
}

/* Adjacent lanes exchanged; and p[0], p[0], p[1], p[1], ... of n (0 .. VEC_LANES / 2) numbers. */
VEC_FN vec vec_swap_pairs(vec x) { return _mm512_permute_ps(x, 0xb1); }
VEC_FN vec vec_load_twice(const float *p, size_t n) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(twice, vec_load_first(p, n));
}
/* a * b - c in even lanes, a * b + c in odd ones. */
VEC_FN vec vec_fma_sub_add(vec a, vec b, vec c) { return _mm512_fmaddsub_ps(a, b, c); }

/* VEC_LANES stored numbers of another type. */
VEC_FN vec vec_from_f16(const void *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VEC_FN vec vec_from_bf16(const void *p) {
  const __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
VEC_FN vec vec_from_i8(const int8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* bf16 as lk_f32_to_bf16 rounds. */
VEC_FN __m256i vec_round_bf16(vec x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), even);
  const __mmask16 is_nan = _mm512_fpclass_ps_mask(x, 0x81); /* quiet or signalling */
  const __m512i r = _mm512_mask_or_epi32(up, is_nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
VEC_FN void vec_store_bf16(uint16_t *p, vec x) {
  _mm256_storeu_si256((__m256i *)p, vec_round_bf16(x));
}
VEC_FN void vec_store_bf16_first(uint16_t *p, size_t n, vec x) {
  _mm256_mask_storeu_epi16(p, vec_first(n), vec_round_bf16(x));
}

#endif
