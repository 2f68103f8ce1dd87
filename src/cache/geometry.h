/* Geometry of a cache: which tokens are in the middle, how large a page is in each layer, how many
 * pages a sequence can need. Pure functions of sizes and mask: the memory plan and the cache share
 * them. */
#ifndef LK_CACHE_GEOMETRY_H
#define LK_CACHE_GEOMETRY_H

#include <stdbool.h>
#include <stddef.h>

#include <leank/session.h>

#include "backend/backend.h"
#include "mask/mask.h"

enum { LK_P = LEANK_PAGE_TOKENS };

typedef struct lk_geometry {
  lk_attn_shape shape;
  size_t n_layers;
  leank_device device;
  leank_kv_type kv_type;
  bool pruned;             /* false: a dense cache, every page is wide */
  size_t n_sink, n_recent; /* tokens */
  size_t max_tokens;       /* of a sequence */
  size_t n_ctx;            /* max_tokens rounded up to whole pages */
  lk_mask_map map;
  size_t wide_page_bytes;  /* of one layer; the same in all */
  size_t *lean_page_bytes; /* [L] */
  size_t *lean_offset;     /* [L][Hk] where a head's segment begins in a lean page */
  size_t max_wide_pages;   /* of one sequence, at any length up to n_ctx */
  size_t max_lean_pages;
  size_t turn_pages; /* wide pages a turn in flight holds beside the old ones */
} lk_geometry;

typedef struct lk_geometry_options {
  size_t n_layers;
  lk_attn_shape shape;
  leank_channel_order order;
  const leank_mask *mask; /* NULL = dense */
  leank_device device;
  leank_kv_type kv_type;
  size_t n_ctx;            /* most tokens of a sequence */
  size_t n_sink, n_recent; /* ignored where dense */
  size_t granule;
} lk_geometry_options;

/* LEANK_E_ARGUMENT: n_sink not a multiple of P, sizes of 0 or too large. LEANK_E_MEMORY. */
leank_status lk_geometry_make(const lk_geometry_options *options, lk_geometry *out,
                              leank_error *err);
void lk_geometry_free(lk_geometry *geometry);

/* The first position after the middle of n_tokens tokens: n_sink where the middle is empty. */
size_t lk_middle_end(const lk_geometry *geometry, size_t n_tokens);
/* True where sequences keep sums over their middle: some policy lets the mean stand in. */
static inline bool lk_keeps_means(const lk_geometry *g) {
  return g->pruned && (g->shape.mean_for_empty || g->shape.mean_for_pruned);
}
/* Kind of page p in a sequence whose middle ends there. */
lk_page_kind lk_kind_of(const lk_geometry *geometry, size_t page, size_t middle_end);
static inline size_t lk_pages_of(size_t n_tokens) { return (n_tokens + LK_P - 1) / LK_P; }

#endif
