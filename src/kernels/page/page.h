/* Op "page": the element order of one head's segment of a page on the CPU, and what moves tokens
 * into it: append, pack, sum.
 *
 * A segment holds P = 64 keys: K as [P/16 blocks][n/e][16 keys][e] with n channels (even) and e = 2
 * for bf16, 1 for fp32, so that one vector load brings e channels of 16 keys; then V as [P][D]. */
#ifndef LK_KERNELS_PAGE_H
#define LK_KERNELS_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

enum { LK_PAGE_TOKENS = LEANK_PAGE_TOKENS, LK_KEY_BLOCK = 16, LK_CHANNEL_GRANULE = 2 };

static inline size_t lk_kv_bytes(leank_kv_type type) { return type == LEANK_KV_F32 ? 4 : 2; }
/* e: channels interleaved per key. */
static inline size_t lk_kv_interleave(leank_kv_type type) { return type == LEANK_KV_F32 ? 1 : 2; }
/* Element index of (key, channel) in the K part of a segment of n channels. */
static inline size_t lk_k_index(size_t e, size_t n, size_t key, size_t channel) {
  return (((key / LK_KEY_BLOCK) * (n / e) + channel / e) * LK_KEY_BLOCK + key % LK_KEY_BLOCK) * e +
         channel % e;
}

typedef struct lk_page_variant {
  const char *name; /* e.g. "page_bf16_avx512" */
  leank_kv_type type;
  leank_cpu_level level;
  /* Writes one token: k[D] and v[D] to slot `key` (0 .. 63) of a wide segment. */
  void (*append)(void *k_segment, void *v_segment, size_t head_dim, size_t key, const float *k,
                 const float *v);
  /* Gathers n_kept channels (ascending indices) of a whole wide K segment into a lean one of
   * n_padded (even, >= n_kept) channels; the padding becomes zero. V is copied by the caller. */
  void (*pack)(const void *k_wide, size_t head_dim, const uint16_t *channels, size_t n_kept,
               size_t n_padded, void *k_lean);
  /* k_sum[D] += and v_sum[D] += the sums over the 64 tokens of a wide segment: the page is summed
   * in key order from 0 in fp32, then added. */
  void (*sum)(const void *k_wide, const void *v_wide, size_t head_dim, float *k_sum, float *v_sum);
} lk_page_variant;

/* Ascending level within a type, ended by name NULL. */
extern const lk_page_variant lk_page_variants[];
const lk_page_variant *lk_page_select(leank_kv_type type, leank_cpu_level level);

#endif
