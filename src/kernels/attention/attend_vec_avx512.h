/* Vectors of 16 fp32 for attend_impl.h. Only for files built with AVX-512 F, BW, DQ and VL. */
#ifndef LK_KERNELS_ATTEND_VEC_AVX512_H
#define LK_KERNELS_ATTEND_VEC_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* VW: lanes. TILE_ROWS x TILE_VECS accumulators, an x and TILE_ROWS broadcasts fill 32 registers.
 */
#define TILE_ROWS 6
enum { VW = 16, TILE_VECS = 4 };

typedef __m512 vf;

static inline vf v_zero(void) { return _mm512_setzero_ps(); }
static inline vf v_set1(float x) { return _mm512_set1_ps(x); }
static inline vf v_load(const void *p) { return _mm512_loadu_ps(p); }
static inline void v_store(void *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline float v_hmax(vf x) { return _mm512_reduce_max_ps(x); }
static inline float v_hsum(vf x) { return _mm512_reduce_add_ps(x); }

static inline __mmask16 v_first(ptrdiff_t n) {
  return n >= VW ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}
/* The first n lanes from memory, 0 elsewhere; reads nothing else. n may be below 0 or above VW. */
static inline vf v_load_first(const void *p, ptrdiff_t n) {
  return _mm512_maskz_loadu_ps(v_first(n), p);
}
static inline void v_store_first(void *p, ptrdiff_t n, vf x) {
  _mm512_mask_storeu_ps(p, v_first(n), x);
}
/* The first n lanes of x, 0 elsewhere. */
static inline vf v_zero_behind(vf x, ptrdiff_t n) { return _mm512_maskz_mov_ps(v_first(n), x); }
/* The first n lanes of x, -INFINITY elsewhere. */
static inline vf v_keep_first(vf x, ptrdiff_t n) {
  return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), v_first(n), x);
}

/* bf16 pairs in 32-bit lanes: the even or the odd one widened. */
static inline vf v_even(vf pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
static inline vf v_odd(vf pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32((int)0xffff0000u)));
}
/* even = x0 x2 .. x30 and odd = x1 x3 .. x31 become x0 .. x15 and x16 .. x31. */
static inline void v_zip(vf even, vf odd, vf *first, vf *second) {
  const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(8));
  *first = _mm512_permutex2var_ps(even, lo, odd);
  *second = _mm512_permutex2var_ps(even, hi, odd);
}

/* 2^n, n whole: x times that, rounded once. */
static inline vf v_scale_exp2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
static inline vf v_round(vf x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

#endif
