/* Op "page" with AVX-512. A vector is 16 lanes of 32 bits: one fp32, or the pair of channels that
 * bf16 interleaves, of 16 keys (K) or 16 neighbouring places (V). */
#include <immintrin.h>

#include "kernels/page/page_kernels.h"

enum { LANES = 16, BLOCK_BYTES = LK_KEY_BLOCK * 4 };

static inline __mmask16 first(size_t n) { return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1); }

/* Byte offsets of one key in 16 neighbouring vectors of K. */
static inline __m512i key_stride(void) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lane, _mm512_set1_epi32(BLOCK_BYTES));
}

/* Where K of `key` begins: the first of n_vectors vectors of its block, its lane. */
static inline size_t key_offset(size_t n_vectors, size_t key) {
  return key / LK_KEY_BLOCK * n_vectors * BLOCK_BYTES + key % LK_KEY_BLOCK * 4;
}

/* As lk_f32_to_bf16, in the low halves. */
static inline __m512i round_to_bf16(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), nan, high, _mm512_set1_epi32(0x40));
}

/* n (at most 32, even) fp32 as pairs of bf16. */
static inline __m512i round_pairs(const float *x, size_t n) {
  const __m512i a = round_to_bf16(_mm512_maskz_loadu_ps(first(n), x));
  const __m512i b = n > LANES ? round_to_bf16(_mm512_maskz_loadu_ps(first(n - LANES), x + LANES))
                              : _mm512_setzero_si512();
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                            _mm512_cvtepi32_epi16(b), 1);
}

void lk_page_append_bf16_avx512(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                                const float *k, const float *v) {
  char *ks = (char *)k_segment + key_offset(head_dim / 2, key);
  char *vs = (char *)v_segment + key * head_dim * 2;
  for (size_t c = 0; c < head_dim; c += 2 * LANES, ks += LANES * BLOCK_BYTES) {
    const size_t n = head_dim - c < 2 * LANES ? head_dim - c : 2 * LANES;
    _mm512_mask_i32scatter_epi32(ks, first(n / 2), key_stride(), round_pairs(k + c, n), 1);
    _mm512_mask_storeu_epi32(vs + c * 2, first(n / 2), round_pairs(v + c, n));
  }
}

void lk_page_append_f32_avx512(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                               const float *k, const float *v) {
  char *ks = (char *)k_segment + key_offset(head_dim, key);
  float *vs = (float *)v_segment + key * head_dim;
  for (size_t c = 0; c < head_dim; c += LANES, ks += LANES * BLOCK_BYTES) {
    const __mmask16 mask = first(head_dim - c);
    _mm512_mask_i32scatter_ps(ks, mask, key_stride(), _mm512_maskz_loadu_ps(mask, k + c), 1);
    _mm512_mask_storeu_ps(vs + c, mask, _mm512_maskz_loadu_ps(mask, v + c));
  }
}

/* One channel of 16 keys in the low halves; the high ones are not cleared. */
static inline __m512i channel_low(const char *block, size_t channel) {
  const __m512i pair = _mm512_loadu_si512(block + channel / 2 * BLOCK_BYTES);
  return _mm512_srl_epi32(pair, _mm_cvtsi32_si128(channel % 2 ? 16 : 0));
}

void lk_page_pack_bf16_avx512(const void *k_wide, size_t head_dim, const uint16_t *channels,
                              size_t n_kept, size_t n_padded, void *k_lean) {
  const __m512i low = _mm512_set1_epi32(0xffff);
  char *out = k_lean;
  for (size_t b = 0; b < LK_PAGE_TOKENS / LK_KEY_BLOCK; b++) {
    const char *block = (const char *)k_wide + b * (head_dim / 2) * BLOCK_BYTES;
    for (size_t i = 0; i < n_padded; i += 2, out += BLOCK_BYTES) {
      __m512i pair = _mm512_setzero_si512();
      if (i < n_kept) pair = _mm512_and_si512(channel_low(block, channels[i]), low);
      if (i + 1 < n_kept)
        pair = _mm512_or_si512(pair, _mm512_slli_epi32(channel_low(block, channels[i + 1]), 16));
      _mm512_storeu_si512(out, pair);
    }
  }
}

void lk_page_pack_f32_avx512(const void *k_wide, size_t head_dim, const uint16_t *channels,
                             size_t n_kept, size_t n_padded, void *k_lean) {
  char *out = k_lean;
  for (size_t b = 0; b < LK_PAGE_TOKENS / LK_KEY_BLOCK; b++) {
    const char *block = (const char *)k_wide + b * head_dim * BLOCK_BYTES;
    for (size_t i = 0; i < n_padded; i++, out += BLOCK_BYTES)
      _mm512_storeu_si512(out, i < n_kept ? _mm512_loadu_si512(block + channels[i] * BLOCK_BYTES)
                                          : _mm512_setzero_si512());
  }
}

/* ---- sums: lanes are channels (bf16: pairs of them), keys come one after the other ---- */

typedef struct pair_sum {
  __m512 even, odd;
} pair_sum;

static inline pair_sum add_pairs(pair_sum sum, __m512i pairs) {
  const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
  sum.even = _mm512_add_ps(sum.even, _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
  sum.odd = _mm512_add_ps(sum.odd, _mm512_castsi512_ps(_mm512_and_si512(pairs, high)));
  return sum;
}

/* Adds the sums of n / 2 pairs to n floats. */
static inline void add_to(float *out, size_t n, pair_sum sum) {
  const __m512i lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(8));
  const __m512 a = _mm512_permutex2var_ps(sum.even, lo, sum.odd);
  const __m512 b = _mm512_permutex2var_ps(sum.even, hi, sum.odd);
  const __mmask16 mask_a = first(n), mask_b = first(n > LANES ? n - LANES : 0);
  _mm512_mask_storeu_ps(out, mask_a, _mm512_add_ps(_mm512_maskz_loadu_ps(mask_a, out), a));
  if (!mask_b) return;
  out += LANES;
  _mm512_mask_storeu_ps(out, mask_b, _mm512_add_ps(_mm512_maskz_loadu_ps(mask_b, out), b));
}

void lk_page_sum_bf16_avx512(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum,
                             float *v_sum) {
  const __m512i zero = _mm512_setzero_si512(), stride = key_stride();
  for (size_t c = 0; c < head_dim; c += 2 * LANES) {
    const size_t n = head_dim - c < 2 * LANES ? head_dim - c : 2 * LANES;
    const __mmask16 mask = first(n / 2);
    const char *k = (const char *)k_wide + c / 2 * BLOCK_BYTES, *v = (const char *)v_wide + c * 2;
    pair_sum ks = {_mm512_setzero_ps(), _mm512_setzero_ps()}, vs = ks;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      const char *at = k + key_offset(head_dim / 2, key);
      ks = add_pairs(ks, _mm512_mask_i32gather_epi32(zero, mask, stride, at, 1));
      vs = add_pairs(vs, _mm512_maskz_loadu_epi32(mask, v + key * head_dim * 2));
    }
    add_to(k_sum + c, n, ks);
    add_to(v_sum + c, n, vs);
  }
}

void lk_page_sum_f32_avx512(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum,
                            float *v_sum) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512i stride = key_stride();
  for (size_t c = 0; c < head_dim; c += LANES) {
    const __mmask16 mask = first(head_dim - c);
    const char *k = (const char *)k_wide + c * BLOCK_BYTES;
    __m512 ks = zero, vs = zero;
    for (size_t key = 0; key < LK_PAGE_TOKENS; key++) {
      const char *at = k + key_offset(head_dim, key);
      ks = _mm512_add_ps(ks, _mm512_mask_i32gather_ps(zero, mask, stride, at, 1));
      vs = _mm512_add_ps(vs,
                         _mm512_maskz_loadu_ps(mask, (const float *)v_wide + key * head_dim + c));
    }
    _mm512_mask_storeu_ps(k_sum + c, mask,
                          _mm512_add_ps(_mm512_maskz_loadu_ps(mask, k_sum + c), ks));
    _mm512_mask_storeu_ps(v_sum + c, mask,
                          _mm512_add_ps(_mm512_maskz_loadu_ps(mask, v_sum + c), vs));
  }
}
