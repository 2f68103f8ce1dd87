/* Vectors of 8 fp32 for attend_impl.h. Only for files built with AVX2 and FMA. */
#ifndef LK_KERNELS_ATTEND_VEC_AVX2_H
#define LK_KERNELS_ATTEND_VEC_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* VW: lanes. TILE_ROWS x TILE_VECS accumulators, an x and TILE_ROWS broadcasts fill 16 registers.
 */
#define TILE_ROWS 3
enum { VW = 8, TILE_VECS = 4 };

typedef __m256 vf;

static inline vf v_zero(void) { return _mm256_setzero_ps(); }
static inline vf v_set1(float x) { return _mm256_set1_ps(x); }
static inline vf v_load(const void *p) { return _mm256_loadu_ps(p); }
static inline void v_store(void *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

static inline float v_hmax(vf x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
static inline float v_hsum(vf x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

static inline __m256i v_first(ptrdiff_t n) {
  const int count = n >= VW ? VW : n <= 0 ? 0 : (int)n;
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* The first n lanes from memory, 0 elsewhere; reads nothing else. n may be below 0 or above VW. */
static inline vf v_load_first(const void *p, ptrdiff_t n) {
  return _mm256_maskload_ps(p, v_first(n));
}
static inline void v_store_first(void *p, ptrdiff_t n, vf x) {
  _mm256_maskstore_ps(p, v_first(n), x);
}
/* The first n lanes of x, 0 elsewhere. */
static inline vf v_zero_behind(vf x, ptrdiff_t n) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(v_first(n)));
}
/* The first n lanes of x, -INFINITY elsewhere. */
static inline vf v_keep_first(vf x, ptrdiff_t n) {
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(v_first(n)));
}

/* bf16 pairs in 32-bit lanes: the even or the odd one widened. */
static inline vf v_even(vf pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}
static inline vf v_odd(vf pairs) {
  return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000u)));
}
/* even = x0 x2 .. x14 and odd = x1 x3 .. x15 become x0 .. x7 and x8 .. x15. */
static inline void v_zip(vf even, vf odd, vf *first, vf *second) {
  const vf lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
  *first = _mm256_permute2f128_ps(lo, hi, 0x20);
  *second = _mm256_permute2f128_ps(lo, hi, 0x31);
}

/* x * 2^n, n whole and at least -252: two steps, so that the result may be denormal. */
static inline vf v_scale_exp2(vf x, vf n) {
  const __m256i bias = _mm256_set1_epi32(127), whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
  const __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i b = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}
static inline vf v_round(vf x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#endif
