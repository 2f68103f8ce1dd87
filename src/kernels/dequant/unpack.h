/* Blocks of GGUF's quantised types taken apart: small integers, scales, offsets. Plain C that
 * compilers vectorise, inlined into the kernels of each instruction set.
 *
 * Block layouts: ggml project, ggml-common.h and ggml-quants.c. An element is scale * q in Q8_0,
 * Q4_0, Q5_0, Q6_K and scale * q + offset in Q4_1, Q5_1, Q4_K, Q5_K. Every such product is exact
 * in fp32 (at most 11 + 7 + 6 bits), so that a fused multiply-add gives the same bits as two
 * instructions. */
#ifndef LK_KERNELS_UNPACK_H
#define LK_KERNELS_UNPACK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/dequant/half_float.h"

typedef struct lk_unpacked {
  int8_t q[256];
  float scale[16]; /* one per group: 32 elements, 16 in Q6_K */
  float offset[8];
} lk_unpacked;

/* 32 elements of 4 or 5 bits, less `bias`: the low nibbles of 16 bytes, then their high nibbles,
 * and for element i bit i of the four bytes at `fifth` (NULL = none) as 16. */
#if defined(__AVX2__)
static inline void unpack_32(const uint8_t *packed, const uint8_t *fifth, int bias, int8_t *q) {
  const __m128i bytes = _mm_loadu_si128((const __m128i *)packed);
  __m256i x =
      _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes), _mm256_set1_epi8(0x0f));
  if (fifth) {
    int32_t bits;
    memcpy(&bits, fifth, sizeof bits);
    const __m256i byte_of =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of);
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
    x = _mm256_or_si256(x, _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
  }
  x = _mm256_sub_epi8(x, _mm256_set1_epi8((char)bias));
  _mm256_storeu_si256((__m256i *)q, x);
}
#elif defined(LK_UNPACK_NEON)
static inline void unpack_32(const uint8_t *packed, const uint8_t *fifth, int bias, int8_t *q) {
  static const uint8_t bits_of[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bytes = vld1q_u8(packed), offset = vdupq_n_u8((uint8_t)bias);
  uint8x16_t low = vandq_u8(bytes, vdupq_n_u8(0x0f)), high = vshrq_n_u8(bytes, 4);
  if (fifth) {
    const uint8x16_t bit_of = vld1q_u8(bits_of), add = vdupq_n_u8(16);
    const uint8x16_t spread_low = vcombine_u8(vdup_n_u8(fifth[0]), vdup_n_u8(fifth[1]));
    const uint8x16_t spread_high = vcombine_u8(vdup_n_u8(fifth[2]), vdup_n_u8(fifth[3]));
    low = vorrq_u8(low, vandq_u8(vtstq_u8(spread_low, bit_of), add));
    high = vorrq_u8(high, vandq_u8(vtstq_u8(spread_high, bit_of), add));
  }
  vst1q_s8(q, vreinterpretq_s8_u8(vsubq_u8(low, offset)));
  vst1q_s8(q + 16, vreinterpretq_s8_u8(vsubq_u8(high, offset)));
}
#else
static inline void unpack_32(const uint8_t *packed, const uint8_t *fifth, int bias, int8_t *q) {
  static const uint8_t none[4] = {0};
  const uint8_t *bits = fifth ? fifth : none;
  for (size_t j = 0; j < 16; j++) {
    const int low = bits[j / 8] >> j % 8 & 1, high = bits[2 + j / 8] >> j % 8 & 1;
    q[j] = (int8_t)(((packed[j] & 0x0f) | low << 4) - bias);
    q[16 + j] = (int8_t)((packed[j] >> 4 | high << 4) - bias);
  }
}
#endif

/* Q8_0: f16 d, i8 q[32]. */
static inline void unpack_q8_0(const uint8_t *block, lk_unpacked *out) {
  out->scale[0] = lk_f16_at(block);
  memcpy(out->q, block + 2, 32);
}

/* Q4_0: f16 d, u8 q[16]; 8 stands for 0. */
static inline void unpack_q4_0(const uint8_t *block, lk_unpacked *out) {
  out->scale[0] = lk_f16_at(block);
  unpack_32(block + 2, NULL, 8, out->q);
}

/* Q4_1: f16 d, f16 m, u8 q[16]. */
static inline void unpack_q4_1(const uint8_t *block, lk_unpacked *out) {
  out->scale[0] = lk_f16_at(block);
  out->offset[0] = lk_f16_at(block + 2);
  unpack_32(block + 4, NULL, 0, out->q);
}

/* Q5_0: f16 d, 32 fifth bits, u8 q[16]; 16 stands for 0. */
static inline void unpack_q5_0(const uint8_t *block, lk_unpacked *out) {
  out->scale[0] = lk_f16_at(block);
  unpack_32(block + 6, block + 2, 16, out->q);
}

/* Q5_1: f16 d, f16 m, 32 fifth bits, u8 q[16]. */
static inline void unpack_q5_1(const uint8_t *block, lk_unpacked *out) {
  out->scale[0] = lk_f16_at(block);
  out->offset[0] = lk_f16_at(block + 2);
  unpack_32(block + 8, block + 4, 0, out->q);
}

/* Q4_K and Q5_K begin with f16 d, f16 dmin and eight pairs (scale, min) of 6 bits in 12 bytes:
 * bytes 0..3 hold the low 6 bits of scales 0..3 and, on top, the high 2 bits of scales 4..7; bytes
 * 4..7 the same of the minima; bytes 8..11 the low 4 bits of scales 4..7 below those of minima.
 * With these as dwords a, b, c: bytes of scales 0..3 are in a, 4..7 in c (and a), of minima 0..3 in
 * b, 4..7 in c >> 4 (and b). */
#if defined(__AVX2__)
static inline void unpack_k_scale_vectors(const uint8_t *block, __m256 *scale, __m256 *offset) {
  const __m128i head = _mm_loadu_si128((const __m128i *)block); /* d and dmin, a, b, c */
  const __m128i acbc = _mm_shuffle_epi32(head, _MM_SHUFFLE(3, 2, 3, 1));
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(acbc, _mm_setr_epi32(0, 0, 0, 4)),
                                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i xaxb = _mm_shuffle_epi32(head, _MM_SHUFFLE(2, 0, 1, 0));
  const __m128i high =
      _mm_and_si128(_mm_srli_epi32(xaxb, 2), _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  const __m128i both = _mm_or_si128(low, high);
  const __m256 scales = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(both));
  const __m256 minima = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(both, both)));
  const __m128 d = _mm_cvtph_ps(head);
  const __m256 d_min = _mm256_broadcastss_ps(_mm_movehdup_ps(d));
  *scale = _mm256_mul_ps(scales, _mm256_broadcastss_ps(d));
  *offset = _mm256_mul_ps(minima, _mm256_xor_ps(d_min, _mm256_set1_ps(-0.0f)));
}
static inline void unpack_k_scales(const uint8_t *block, lk_unpacked *out) {
  __m256 scale, offset;
  unpack_k_scale_vectors(block, &scale, &offset);
  _mm256_storeu_ps(out->scale, scale);
  _mm256_storeu_ps(out->offset, offset);
}
#else
static inline uint32_t unpack_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
/* The bytes of the scales 0..3 and 4..7, and of the minima. */
static inline void unpack_k_bytes(const uint8_t *block, uint32_t scales[2], uint32_t minima[2]) {
  const uint32_t a = unpack_u32(block + 4), b = unpack_u32(block + 8), c = unpack_u32(block + 12);
  scales[0] = a & 0x3f3f3f3f;
  scales[1] = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
  minima[0] = b & 0x3f3f3f3f;
  minima[1] = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
}
#if defined(LK_UNPACK_NEON)
static inline void unpack_k_times(const uint32_t bytes[2], float d, float32x4_t out[2]) {
  const uint16x8_t x = vmovl_u8(vcreate_u8(bytes[0] | (uint64_t)bytes[1] << 32));
  out[0] = vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))), d);
  out[1] = vmulq_n_f32(vcvtq_f32_u32(vmovl_high_u16(x)), d);
}
static inline void unpack_k_scale_vectors(const uint8_t *block, float32x4_t scale[2],
                                          float32x4_t offset[2]) {
  uint32_t scales[2], minima[2];
  unpack_k_bytes(block, scales, minima);
  unpack_k_times(scales, lk_f16_at(block), scale);
  unpack_k_times(minima, -lk_f16_at(block + 2), offset);
}
static inline void unpack_k_scales(const uint8_t *block, lk_unpacked *out) {
  float32x4_t scale[2], offset[2];
  unpack_k_scale_vectors(block, scale, offset);
  for (size_t i = 0; i < 2; i++) {
    vst1q_f32(out->scale + 4 * i, scale[i]);
    vst1q_f32(out->offset + 4 * i, offset[i]);
  }
}
#else
static inline void unpack_k_scales(const uint8_t *block, lk_unpacked *out) {
  const float d = lk_f16_at(block), d_min = lk_f16_at(block + 2);
  uint32_t scales[2], minima[2];
  unpack_k_bytes(block, scales, minima);
  for (size_t j = 0; j < 8; j++) {
    out->scale[j] = d * (float)(scales[j / 4] >> 8 * (j % 4) & 0xff);
    out->offset[j] = -(d_min * (float)(minima[j / 4] >> 8 * (j % 4) & 0xff));
  }
}
#endif
#endif

/* Q4_K: the above, u8 q[128]: 32 bytes hold two groups of 32 elements. */
static inline void unpack_q4_k(const uint8_t *block, lk_unpacked *out) {
  unpack_k_scales(block, out);
  for (size_t pair = 0; pair < 4; pair++) {
    const uint8_t *packed = block + 16 + 32 * pair;
    int8_t *q = out->q + 64 * pair;
    for (size_t j = 0; j < 32; j++) q[j] = (int8_t)(packed[j] & 0x0f);
    for (size_t j = 0; j < 32; j++) q[32 + j] = (int8_t)(packed[j] >> 4);
  }
}

/* Q5_K: the above, then u8 high[32] before q: bit g of high[j] belongs to element j of group g. */
static inline void unpack_q5_k(const uint8_t *block, lk_unpacked *out) {
  unpack_k_scales(block, out);
  const uint8_t *high = block + 16;
  for (size_t pair = 0; pair < 4; pair++) {
    const uint8_t *packed = block + 48 + 32 * pair;
    int8_t *q = out->q + 64 * pair;
    for (size_t j = 0; j < 32; j++)
      q[j] = (int8_t)((packed[j] & 0x0f) | (high[j] >> 2 * pair & 1) << 4);
    for (size_t j = 0; j < 32; j++)
      q[32 + j] = (int8_t)(packed[j] >> 4 | (high[j] >> (2 * pair + 1) & 1) << 4);
  }
}

/* Q6_K: u8 low[128], u8 high[64], i8 scales[16], f16 d; 32 stands for 0. Each half of the block has
 * four runs of 32 elements: low nibbles of 32 + 32 bytes, then their high nibbles; run r takes bits
 * 2r, 2r + 1 of the half's 32 bytes in `high`. */
static inline void unpack_q6_k(const uint8_t *block, lk_unpacked *out) {
  const float d = lk_f16_at(block + 208);
  for (size_t g = 0; g < 16; g++) out->scale[g] = d * (float)(int8_t)block[192 + g];
  for (size_t half = 0; half < 2; half++) {
    const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
    int8_t *q = out->q + 128 * half;
    for (size_t j = 0; j < 32; j++) {
      q[j] = (int8_t)(((low[j] & 0x0f) | (high[j] & 3) << 4) - 32);
      q[32 + j] = (int8_t)(((low[32 + j] & 0x0f) | (high[j] >> 2 & 3) << 4) - 32);
      q[64 + j] = (int8_t)((low[j] >> 4 | (high[j] >> 4 & 3) << 4) - 32);
      q[96 + j] = (int8_t)((low[32 + j] >> 4 | (high[j] >> 6) << 4) - 32);
    }
  }
}

#endif
