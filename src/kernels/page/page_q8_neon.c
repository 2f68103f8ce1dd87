/* Op "page" for int8 with NEON: 16 keys of a channel (K) or 16 channels of a key (V) become 16
 * bytes, and four of these are stored interleaved. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/page/page_kernels.h"

enum { LANES = 4, N_BLOCKS = LK_PAGE_TOKENS / LK_KEY_BLOCK, BLOCK_VECS = LK_KEY_BLOCK / LANES };

/* As bits, so that NaN is larger than infinity, and that than every number. */
static inline uint32x4_t magnitude(float32x4_t x) { return vreinterpretq_u32_f32(vabsq_f32(x)); }

static inline float scale_of(uint32x4_t top) {
  const uint32_t bits = vmaxvq_u32(top);
  float largest;
  memcpy(&largest, &bits, sizeof largest);
  return bits < 0x7f800000u ? largest / LK_Q8_LARGEST : NAN;
}

/* The low bytes of 16 lanes. */
static inline uint8x16_t low_bytes(const uint32x4_t x[BLOCK_VECS]) {
  const uint16x8_t a = vuzp1q_u16(vreinterpretq_u16_u32(x[0]), vreinterpretq_u16_u32(x[1]));
  const uint16x8_t b = vuzp1q_u16(vreinterpretq_u16_u32(x[2]), vreinterpretq_u16_u32(x[3]));
  return vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
}

/* 16 x / scale to nearest even; 0 where the scale is 0 or NaN. */
static inline uint8x16_t quantise(const float32x4_t x[BLOCK_VECS], float scale) {
  uint32x4_t units[BLOCK_VECS];
  if (!(scale > 0)) return vdupq_n_u8(0);
  for (size_t i = 0; i < BLOCK_VECS; i++)
    units[i] = vreinterpretq_u32_s32(vcvtnq_s32_f32(vdivq_f32(x[i], vdupq_n_f32(scale))));
  return low_bytes(units);
}

/* One channel of block b of a wide segment. */
static inline void wide_keys(const uint16_t *wide, size_t head_dim, size_t b, size_t channel,
                             float32x4_t x[BLOCK_VECS]) {
  const uint16_t *pairs = wide + lk_k_index(2, head_dim, b * LK_KEY_BLOCK, channel - channel % 2);
  for (size_t i = 0; i < BLOCK_VECS; i++) {
    const uint32x4_t pair = vreinterpretq_u32_u16(vld1q_u16(pairs + 2 * LANES * i));
    x[i] = vreinterpretq_f32_u32(channel % 2 ? vandq_u32(pair, vdupq_n_u32(0xffff0000u))
                                             : vshlq_n_u32(pair, 16));
  }
}

/* The bytes of one channel, per block of keys; returns the scale. */
static inline float pack_channel(const uint16_t *wide, size_t head_dim, size_t channel,
                                 uint8x16_t out[N_BLOCKS]) {
  float32x4_t x[N_BLOCKS][BLOCK_VECS];
  uint32x4_t top = vdupq_n_u32(0);
  for (size_t b = 0; b < N_BLOCKS; b++) {
    wide_keys(wide, head_dim, b, channel, x[b]);
    for (size_t i = 0; i < BLOCK_VECS; i++) top = vmaxq_u32(top, magnitude(x[b][i]));
  }
  const float scale = scale_of(top);
  /* 128 + k in 8 bits is k with its highest bit flipped */
  for (size_t b = 0; b < N_BLOCKS; b++)
    out[b] = veorq_u8(quantise(x[b], scale), vdupq_n_u8(LK_Q8_K_ZERO));
  return scale;
}

void lk_page_pack_q8_neon(const void *k_wide, size_t head_dim, const uint16_t *channels,
                          size_t n_kept, size_t n_padded, void *k_lean) {
  uint8_t *lean = k_lean;
  float *scales = lk_q8_scales(lean, n_padded);
  memset(scales, 0, lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded));
  for (size_t i = 0; i < n_padded; i += LK_Q8_QUAD) {
    uint8x16_t out[LK_Q8_QUAD][N_BLOCKS];
    for (size_t j = 0; j < LK_Q8_QUAD; j++) {
      if (i + j < n_kept)
        scales[i + j] = pack_channel(k_wide, head_dim, channels[i + j], out[j]);
      else
        for (size_t b = 0; b < N_BLOCKS; b++) out[j][b] = vdupq_n_u8(LK_Q8_K_ZERO);
    }
    for (size_t b = 0; b < N_BLOCKS; b++)
      vst4q_u8(lean + lk_k_index(LK_Q8_QUAD, n_padded, b * LK_KEY_BLOCK, i),
               (uint8x16x4_t){{out[0][b], out[1][b], out[2][b], out[3][b]}});
  }
}

/* One channel of a block of a lean segment, whose channel 0 is at `block`. */
static inline uint8x16_t lean_keys(const uint8_t *block, size_t channel) {
  const uint8_t *quads = block + channel / LK_Q8_QUAD * LK_KEY_BLOCK * LK_Q8_QUAD;
  const int32x4_t down = vdupq_n_s32(-8 * (int)(channel % LK_Q8_QUAD));
  uint32x4_t x[BLOCK_VECS];
  for (size_t i = 0; i < BLOCK_VECS; i++)
    x[i] = vshlq_u32(vreinterpretq_u32_u8(vld1q_u8(quads + LANES * LK_Q8_QUAD * i)), down);
  return low_bytes(x);
}

void lk_page_repack_q8_neon(const void *k_from, size_t n_from, const uint16_t *channels,
                            size_t n_kept, size_t n_padded, void *k_lean) {
  const float *from_scales = lk_q8_scales(k_from, n_from);
  uint8_t *lean = k_lean;
  float *scales = lk_q8_scales(lean, n_padded);
  memset(scales, 0, lk_page_k_bytes(LEANK_KV_Q8, true, n_padded) - lk_q8_bytes(n_padded));
  for (size_t i = 0; i < n_kept; i++) scales[i] = from_scales[channels[i]];
  for (size_t b = 0; b < N_BLOCKS; b++) {
    const uint8_t *from = (const uint8_t *)k_from + b * LK_KEY_BLOCK * n_from;
    for (size_t i = 0; i < n_padded; i += LK_Q8_QUAD, lean += LK_KEY_BLOCK * LK_Q8_QUAD) {
      uint8x16x4_t out;
      for (size_t j = 0; j < LK_Q8_QUAD; j++)
        out.val[j] = i + j < n_kept ? lean_keys(from, channels[i + j]) : vdupq_n_u8(LK_Q8_K_ZERO);
      vst4q_u8(lean, out);
    }
  }
}

static inline float row_scale(const uint16_t *row, size_t n) {
  uint32_t top = 0;
  for (size_t c = 0; c < n; c++) {
    const uint32_t bits = (uint32_t)(row[c] & 0x7fff) << 16;
    top = bits > top ? bits : top;
  }
  return scale_of(vdupq_n_u32(top));
}

/* 16 channels of 4 keys, whose rows are `stride` apart. */
static inline uint8x16x4_t quad_of(const uint16_t *rows, size_t stride, const float *scales) {
  uint8x16x4_t out;
  for (size_t j = 0; j < LK_Q8_QUAD; j++, rows += stride) {
    const uint16x8_t a = vld1q_u16(rows), b = vld1q_u16(rows + 8);
    const float32x4_t x[BLOCK_VECS] = {
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(a), 16)),
        vreinterpretq_f32_u32(vshll_high_n_u16(a, 16)),
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(b), 16)),
        vreinterpretq_f32_u32(vshll_high_n_u16(b, 16)),
    };
    out.val[j] = quantise(x, scales[j]);
  }
  return out;
}

void lk_page_pack_v_q8_neon(const void *v_wide, size_t head_dim, void *v_lean) {
  enum { CHANNELS = 16 };
  float *scales = lk_q8_scales(v_lean, head_dim);
  for (size_t key = 0; key < LK_PAGE_TOKENS; key += LK_Q8_QUAD) {
    const uint16_t *rows = (const uint16_t *)v_wide + key * head_dim;
    uint8_t *out = (uint8_t *)v_lean + key * head_dim;
    size_t c = 0;
    for (size_t j = 0; j < LK_Q8_QUAD; j++)
      scales[key + j] = row_scale(rows + j * head_dim, head_dim);
    for (; c + CHANNELS <= head_dim; c += CHANNELS)
      vst4q_u8(out + c * LK_Q8_QUAD, quad_of(rows + c, head_dim, scales + key));
    if (c == head_dim) continue;
    uint16_t rest[LK_Q8_QUAD][CHANNELS] = {{0}};
    uint8_t quads[CHANNELS * LK_Q8_QUAD];
    for (size_t j = 0; j < LK_Q8_QUAD; j++)
      memcpy(rest[j], rows + j * head_dim + c, (head_dim - c) * sizeof *rows);
    vst4q_u8(quads, quad_of(rest[0], CHANNELS, scales + key));
    memcpy(out + c * LK_Q8_QUAD, quads, (head_dim - c) * LK_Q8_QUAD);
  }
}
