/* Op "page" for int8 with AVX-512: 16 keys of a channel (K) or 16 channels of a key (V) a vector.
 */
#include <immintrin.h>
#include <string.h>

#include "kernels/page/page_kernels.h"

enum { LANES = 16, BLOCK_BYTES = LK_KEY_BLOCK * 4, N_BLOCKS = LK_PAGE_TOKENS / LK_KEY_BLOCK };

static inline __mmask16 first(size_t n) { return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1); }

/* As bits, so that NaN is larger than infinity, and that than every number. */
static inline __m512i magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

static inline float scale_of(__m512i top) {
  const uint32_t bits = _mm512_reduce_max_epu32(top);
  float largest;
  memcpy(&largest, bits < 0x7f800000u ? &bits : &(const uint32_t){0x7fc00000u}, sizeof largest);
  return largest / LK_Q8_LARGEST;
}

/* x / scale to nearest even; 0 where the scale is 0 or NaN. */
static inline __m512i quantise(__m512 x, float scale) {
  const __mmask16 some = scale > 0 ? 0xffff : 0;
  return _mm512_maskz_cvtps_epi32(some, _mm512_div_ps(x, _mm512_set1_ps(scale)));
}

/* One channel of block b of a wide segment. */
static inline __m512 wide_keys(const char *wide, size_t head_dim, size_t b, size_t channel) {
  const __m512i pair = _mm512_loadu_si512(wide + (b * (head_dim / 2) + channel / 2) * BLOCK_BYTES);
  return _mm512_castsi512_ps(channel % 2 ? _mm512_and_si512(pair, _mm512_set1_epi32(-0x10000))
                                         : _mm512_slli_epi32(pair, 16));
}

/* Integers of one channel into byte `place` of out[N_BLOCKS]; returns the scale. */
static inline float pack_channel(const char *wide, size_t head_dim, size_t channel, size_t place,
                                 __m512i out[N_BLOCKS]) {
  const __m128i shift = _mm_cvtsi32_si128((int)place * 8);
  __m512 x[N_BLOCKS];
  __m512i top = _mm512_setzero_si512();
  for (size_t b = 0; b < N_BLOCKS; b++) {
    x[b] = wide_keys(wide, head_dim, b, channel);
    top = _mm512_max_epu32(top, magnitude(x[b]));
  }
  const float scale = scale_of(top);
  for (size_t b = 0; b < N_BLOCKS; b++) {
    const __m512i k = _mm512_and_si512(quantise(x[b], scale), _mm512_set1_epi32(0xff));
    out[b] = _mm512_xor_si512(out[b], _mm512_sll_epi32(k, shift));
  }
  return scale;
}

void lk_page_pack_q8_avx512(const void *k_wide, size_t head_dim, const uint16_t *channels,
                            size_t n_kept, size_t n_padded, void *k_lean) {
  char *lean = k_lean;
  float *scales = lk_q8_scales(lean, n_padded);
  memset(scales, 0, lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded));
  for (size_t i = 0; i < n_padded; i += LK_Q8_QUAD) {
    __m512i out[N_BLOCKS];
    /* 128 + k in 8 bits is k with its highest bit flipped */
    for (size_t b = 0; b < N_BLOCKS; b++) out[b] = _mm512_set1_epi8((char)LK_Q8_K_ZERO);
    for (size_t j = 0; j < LK_Q8_QUAD && i + j < n_kept; j++)
      scales[i + j] = pack_channel(k_wide, head_dim, channels[i + j], j, out);
    for (size_t b = 0; b < N_BLOCKS; b++)
      _mm512_storeu_si512(lean + (b * (n_padded / LK_Q8_QUAD) + i / LK_Q8_QUAD) * BLOCK_BYTES,
                          out[b]);
  }
}

/* Byte channel % 4 of the quad in which it lies, in the lowest bits. */
static inline __m512i lean_keys(const char *lean, size_t n, size_t b, size_t channel) {
  const __m512i quad =
      _mm512_loadu_si512(lean + (b * (n / LK_Q8_QUAD) + channel / LK_Q8_QUAD) * BLOCK_BYTES);
  const __m128i shift = _mm_cvtsi32_si128((int)(channel % LK_Q8_QUAD) * 8);
  return _mm512_and_si512(_mm512_srl_epi32(quad, shift), _mm512_set1_epi32(0xff));
}

void lk_page_repack_q8_avx512(const void *k_from, size_t n_from, const uint16_t *channels,
                              size_t n_kept, size_t n_padded, void *k_lean) {
  const char *from = k_from;
  const float *from_scales = lk_q8_scales(from, n_from);
  char *lean = k_lean;
  float *scales = lk_q8_scales(lean, n_padded);
  memset(scales, 0, lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded));
  for (size_t i = 0; i < n_kept; i++) scales[i] = from_scales[channels[i]];
  for (size_t b = 0; b < N_BLOCKS; b++)
    for (size_t i = 0; i < n_padded; i += LK_Q8_QUAD, lean += BLOCK_BYTES) {
      __m512i out = _mm512_setzero_si512();
      for (size_t j = 0; j < LK_Q8_QUAD; j++) {
        const __m512i k = i + j < n_kept ? lean_keys(from, n_from, b, channels[i + j])
                                         : _mm512_set1_epi32(LK_Q8_K_ZERO);
        out = _mm512_or_si512(out, _mm512_sll_epi32(k, _mm_cvtsi32_si128((int)j * 8)));
      }
      _mm512_storeu_si512(lean, out);
    }
}

static inline __m512 wide_channels(const uint16_t *row, size_t n) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), row)), 16));
}

void lk_page_pack_v_q8_avx512(const void *v_wide, size_t head_dim, void *v_lean) {
  float *scales = lk_q8_scales(v_lean, head_dim);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += LK_Q8_QUAD) {
    const uint16_t *rows = (const uint16_t *)v_wide + key * head_dim;
    for (size_t j = 0; j < LK_Q8_QUAD; j++) {
      __m512i top = _mm512_setzero_si512();
      for (size_t c = 0; c < head_dim; c += LANES)
        top =
            _mm512_max_epu32(top, magnitude(wide_channels(rows + j * head_dim + c, head_dim - c)));
      scales[key + j] = scale_of(top);
    }
    for (size_t c = 0; c < head_dim; c += LANES) {
      __m512i out = _mm512_setzero_si512();
      for (size_t j = 0; j < LK_Q8_QUAD; j++) {
        const __m512 x = wide_channels(rows + j * head_dim + c, head_dim - c);
        const __m512i v = _mm512_and_si512(quantise(x, scales[key + j]), _mm512_set1_epi32(0xff));
        out = _mm512_or_si512(out, _mm512_sll_epi32(v, _mm_cvtsi32_si128((int)j * 8)));
      }
      _mm512_mask_storeu_epi32((char *)v_lean + (key * head_dim + c * LK_Q8_QUAD),
                               first(head_dim - c), out);
    }
  }
}
