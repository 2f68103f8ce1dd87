/* Vectors of 8 fp32 and what dequant, matvec and rows need of them. Only for files built with AVX2,
 * FMA and F16C. */
#ifndef LK_KERNELS_VEC_AVX2_H
#define LK_KERNELS_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VEC_FN static inline __attribute__((always_inline))

enum { VEC_LANES = 8 };
typedef __m256 vec;

VEC_FN vec vec_zero(void) { return _mm256_setzero_ps(); }
VEC_FN vec vec_set1(float x) { return _mm256_set1_ps(x); }
VEC_FN vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_FN void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
VEC_FN vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
VEC_FN vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
VEC_FN vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
/* a * b + c */
VEC_FN vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
/* a * b - c */
VEC_FN vec vec_fms(vec a, vec b, vec c) { return _mm256_fmsub_ps(a, b, c); }
/* -|x|, and a where the sign bit of x is set, else b. */
VEC_FN vec vec_negative_abs(vec x) { return _mm256_or_ps(x, _mm256_set1_ps(-0.0f)); }
VEC_FN vec vec_where_negative(vec x, vec a, vec b) { return _mm256_blendv_ps(b, a, x); }
VEC_FN float vec_sum(vec x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

/* Lanes below n (0 .. VEC_LANES) of memory, nothing else is touched. */
VEC_FN __m256i vec_first(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC_FN vec vec_load_first(const float *p, size_t n) { return _mm256_maskload_ps(p, vec_first(n)); }
VEC_FN void vec_store_first(float *p, size_t n, vec x) { _mm256_maskstore_ps(p, vec_first(n), x); }

/* Adjacent lanes exchanged; and p[0], p[0], p[1], p[1], ... of n (0 .. VEC_LANES / 2) numbers. */
VEC_FN vec vec_swap_pairs(vec x) { return _mm256_permute_ps(x, 0xb1); }
VEC_FN vec vec_load_twice(const float *p, size_t n) {
  return _mm256_permutevar8x32_ps(vec_load_first(p, n), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
/* a * b - c in even lanes, a * b + c in odd ones. */
VEC_FN vec vec_fma_sub_add(vec a, vec b, vec c) { return _mm256_fmaddsub_ps(a, b, c); }

/* VEC_LANES stored numbers of another type. */
VEC_FN vec vec_from_f16(const void *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
VEC_FN vec vec_from_bf16(const void *p) {
  const __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
VEC_FN vec vec_from_i8(const int8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* bf16 as lk_f32_to_bf16 rounds. */
VEC_FN __m128i vec_round_bf16(vec x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), even);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_cmpgt_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff)),
                                            _mm256_set1_epi32(0x7f800000));
  const __m256i r = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, is_nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
VEC_FN void vec_store_bf16(uint16_t *p, vec x) {
  _mm_storeu_si128((__m128i *)p, vec_round_bf16(x));
}
VEC_FN void vec_store_bf16_first(uint16_t *p, size_t n, vec x) {
  uint16_t r[VEC_LANES];
  _mm_storeu_si128((__m128i *)r, vec_round_bf16(x));
  memcpy(p, r, n * sizeof *p);
}

#endif
