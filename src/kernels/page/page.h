/* Op "page": the element order of one head's segment of a page on the CPU, and what moves tokens
 * into it: append, pack, sum.
 *
 * A segment holds P = 64 keys: K as [P/16 blocks][n/e][16 keys][e] with n channels (a multiple of
 * e) and e = 2 for bf16, 1 for fp32, so that one vector load brings e channels of 16 keys; then V
 * as [P][D].
 *
 * Of kv type q8, wide segments are bf16 and lean ones int8. With e = 4, K is stored as the unsigned
 * byte 128 + k, then come fp32 scales [n]: channel c of a key is scale[c] * k. V is signed,
 * [P/4 quads][D][4 keys], so that one vector brings 4 keys of 16 channels; then come fp32 scales
 * [P]: a key's channels are its scale times v. Scales are largest magnitude / 127, |k|, |v| <= 127;
 * NaN where something is not finite. Each of the four parts is filled up to a multiple of 64 bytes;
 * K's padding channels are 0 with scale 0. */
#ifndef LK_KERNELS_PAGE_H
#define LK_KERNELS_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

enum {
  LK_PAGE_TOKENS = LEANK_PAGE_TOKENS,
  LK_KEY_BLOCK = 16,
  LK_Q8_QUAD = 4,      /* channels of K, keys of V that lie together */
  LK_Q8_K_ZERO = 128,  /* what K's bytes are off by */
  LK_Q8_LARGEST = 127, /* magnitude of a stored integer */
  LK_Q8_MAX_DIM = 512  /* D at most: sums over channels must fit 32 bits */
};

/* Of wide pages, and of lean ones but for q8. */
static inline size_t lk_kv_bytes(leank_kv_type type) { return type == LEANK_KV_F32 ? 4 : 2; }
/* e: channels interleaved per key, likewise. */
static inline size_t lk_kv_interleave(leank_kv_type type) { return type == LEANK_KV_F32 ? 1 : 2; }
/* Kept channels are padded to a multiple of this. */
static inline size_t lk_kv_granule(leank_kv_type type) {
  return type == LEANK_KV_Q8 ? LK_Q8_QUAD : 2;
}
/* The type of a wide or stage page's elements. */
static inline leank_kv_type lk_kv_wide(leank_kv_type type) {
  return type == LEANK_KV_Q8 ? LEANK_KV_BF16 : type;
}

/* Bytes of the integers alone: where the scales begin. */
static inline size_t lk_q8_bytes(size_t n) { return LK_PAGE_TOKENS * n; }
/* The scales of K with n channels, or of V with D. */
static inline float *lk_q8_scales(const void *integers, size_t n) {
  return (float *)(uintptr_t)((const char *)integers + lk_q8_bytes(n));
}
/* Bytes of a segment's K of n channels (padding included) and of its V. */
static inline size_t lk_page_k_bytes(leank_kv_type type, bool lean, size_t n) {
  if (!lean || type != LEANK_KV_Q8) return LK_PAGE_TOKENS * n * lk_kv_bytes(type);
  return lk_q8_bytes(n) + (n * sizeof(float) + 63) / 64 * 64;
}
static inline size_t lk_page_v_bytes(leank_kv_type type, bool lean, size_t head_dim) {
  if (!lean || type != LEANK_KV_Q8) return LK_PAGE_TOKENS * head_dim * lk_kv_bytes(type);
  return lk_q8_bytes(head_dim) + LK_PAGE_TOKENS * sizeof(float);
}

/* Element index of (key, channel) in the K part of a segment of n channels. */
static inline size_t lk_k_index(size_t e, size_t n, size_t key, size_t channel) {
  return (((key / LK_KEY_BLOCK) * (n / e) + channel / e) * LK_KEY_BLOCK + key % LK_KEY_BLOCK) * e +
         channel % e;
}

/* Index of (key, channel) among V's integers of a q8 segment. */
static inline size_t lk_q8_v_index(size_t head_dim, size_t key, size_t channel) {
  return (key / LK_Q8_QUAD * head_dim + channel) * LK_Q8_QUAD + key % LK_Q8_QUAD;
}

typedef struct lk_page_variant {
  const char *name; /* e.g. "page_bf16_avx512" */
  leank_kv_type type;
  leank_cpu_level level;
  /* Writes one token: k[D] and v[D] to slot `key` (0 .. 63) of a wide segment. */
  void (*append)(void *k_segment, void *v_segment, size_t head_dim, size_t key, const float *k,
                 const float *v);
  /* Gathers n_kept channels (ascending indices) of a whole wide K segment into a lean one of
   * n_padded (>= n_kept) channels; the padding becomes zero. q8: each channel's scale is its
   * largest magnitude / 127, integers are x / scale to nearest even. */
  void (*pack)(const void *k_wide, size_t head_dim, const uint16_t *channels, size_t n_kept,
               size_t n_padded, void *k_lean);
  /* The same from a lean segment of n_from channels, its padding included: nothing is rounded. */
  void (*repack)(const void *k_from, size_t n_from, const uint16_t *channels, size_t n_kept,
                 size_t n_padded, void *k_lean);
  /* V of a wide segment into a lean one. (From lean to lean, V's bytes are copied.) */
  void (*pack_v)(const void *v_wide, size_t head_dim, void *v_lean);
  /* k_sum[D] += and v_sum[D] += the sums over the 64 tokens of a wide segment: the page is summed
   * in key order from 0 in fp32, then added. */
  void (*sum)(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum, float *v_sum);
} lk_page_variant;

/* Ascending level within a type, ended by name NULL. */
extern const lk_page_variant lk_page_variants[];
const lk_page_variant *lk_page_select(leank_kv_type type, leank_cpu_level level);

#endif
