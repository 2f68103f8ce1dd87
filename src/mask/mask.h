/* The mask as the cache and the kernels see it: per layer and kv head a list of channels. */
#ifndef LK_MASK_MASK_H
#define LK_MASK_MASK_H

#include <leank/mask.h>

#include "base/error.h"

struct leank_mask {
  leank_mask_info info;
  uint8_t *kept; /* [L][Hk][D], half order */
  float *alpha;  /* or NULL */
};

/* Per-head descriptor in a model's own channel order: today an index list, later a pair of maps. */
typedef struct lk_head_map {
  uint16_t *channels; /* [n_kept], ascending, in the model's order */
  uint16_t *dropped;  /* [D - n_kept], ascending */
  size_t n_kept;      /* Dk */
  size_t n_padded;    /* Dk rounded up to the backend's granule */
} lk_head_map;

typedef struct lk_mask_map {
  size_t n_layers, n_kv_heads, head_dim;
  lk_head_map *heads; /* [L * Hk] */
} lk_mask_map;

/* mask NULL = every channel kept. granule: 2 or 4 on the CPU. lk_mask_map_free frees. */
leank_status lk_mask_map_make(const leank_mask *mask, size_t n_layers, size_t n_kv_heads,
                              size_t head_dim, leank_channel_order order, size_t granule,
                              lk_mask_map *out, leank_error *err);
void lk_mask_map_free(lk_mask_map *map);
static inline const lk_head_map *lk_mask_map_head(const lk_mask_map *map, size_t layer, size_t h) {
  return &map->heads[layer * map->n_kv_heads + h];
}

/* Channel c of the half order in `order`: pairs: i < D/2 -> 2i, i + D/2 -> 2i + 1. */
static inline size_t lk_channel_from_half(leank_channel_order order, size_t head_dim, size_t c) {
  if (order == LEANK_ORDER_HALF) return c;
  return c < head_dim / 2 ? 2 * c : 2 * (c - head_dim / 2) + 1;
}

#endif
