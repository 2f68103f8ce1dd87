/* Op "page" with NEON, for bf16: a vector is 4 lanes of 32 bits, the pair of channels of 4 keys (K)
 * or 4 neighbouring pairs (V). fp32 segments and sums are left to the reference. */
#include <arm_neon.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/page/page_kernels.h"

enum { PAIR_BLOCK = LK_KEY_BLOCK * 2 }; /* elements: a pair of channels of a block of keys */

/* As lk_f32_to_bf16. */
static inline uint16x4_t round_to_bf16(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  const uint32x4_t up = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), up, quiet), 16);
}

void lk_page_append_bf16_neon(void *k_segment, void *v_segment, size_t head_dim, size_t key,
                              const float *k, const float *v) {
  uint16_t *ks = (uint16_t *)k_segment + lk_k_index(2, head_dim, key, 0);
  uint16_t *vs = (uint16_t *)v_segment + key * head_dim;
  size_t c = 0;
  for (; c + 4 <= head_dim; c += 4, ks += 2 * PAIR_BLOCK) {
    uint16_t pairs[4];
    vst1_u16(pairs, round_to_bf16(vld1q_f32(k + c)));
    memcpy(ks, pairs, sizeof pairs / 2);
    memcpy(ks + PAIR_BLOCK, pairs + 2, sizeof pairs / 2);
    vst1_u16(vs + c, round_to_bf16(vld1q_f32(v + c)));
  }
  for (size_t i = 0; c + i < head_dim; i++) {
    ks[i] = lk_f32_to_bf16(k[c + i]);
    vs[c + i] = lk_f32_to_bf16(v[c + i]);
  }
}

/* One channel of 4 keys, whose pairs are at `pairs`, in the low halves. */
static inline uint32x4_t channel_of(const uint16_t *pairs, size_t channel) {
  const uint32x4_t x = vreinterpretq_u32_u16(vld1q_u16(pairs));
  return channel % 2 ? vshrq_n_u32(x, 16) : vandq_u32(x, vdupq_n_u32(0xffff));
}

/* The channels a and b of a block of keys become a pair. */
static inline void pack_pair(const uint16_t *block, size_t a, size_t b, uint16_t *out) {
  const uint16_t *from_a = block + a / 2 * PAIR_BLOCK, *from_b = block + b / 2 * PAIR_BLOCK;
  for (size_t i = 0; i < PAIR_BLOCK; i += 8) {
    const uint32x4_t low = channel_of(from_a + i, a), high = channel_of(from_b + i, b);
    vst1q_u16(out + i, vreinterpretq_u16_u32(vsliq_n_u32(low, high, 16)));
  }
}

/* The last channel of an odd number; 0 is its pair. */
static inline void pack_last(const uint16_t *block, size_t a, uint16_t *out) {
  const uint16_t *from = block + a / 2 * PAIR_BLOCK;
  for (size_t i = 0; i < PAIR_BLOCK; i += 8)
    vst1q_u16(out + i, vreinterpretq_u16_u32(channel_of(from + i, a)));
}

void lk_page_pack_bf16_neon(const void *k_wide, size_t head_dim, const uint16_t *channels,
                            size_t n_kept, size_t n_padded, void *k_lean) {
  uint16_t *out = k_lean;
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += LK_KEY_BLOCK) {
    const uint16_t *block = (const uint16_t *)k_wide + lk_k_index(2, head_dim, key, 0);
    for (size_t i = 0; i < n_padded; i += 2, out += PAIR_BLOCK) {
      if (i + 1 < n_kept)
        pack_pair(block, channels[i], channels[i + 1], out);
      else if (i < n_kept)
        pack_last(block, channels[i], out);
      else
        for (size_t j = 0; j < PAIR_BLOCK; j++) out[j] = 0;
    }
  }
}
