#include "cache/geometry.h"

#include <string.h>

enum { MAX_CTX = 1 << 26 }; /* tokens; keeps every product below far from overflow */

size_t lk_middle_end(const lk_geometry *g, size_t n_tokens) {
  if (!g->pruned) return 0;
  const size_t full = g->n_sink + g->n_recent;
  return n_tokens <= full ? g->n_sink : g->n_sink + (n_tokens - full) / LK_P * LK_P;
}

lk_page_kind lk_kind_of(const lk_geometry *g, size_t page, size_t middle_end) {
  return g->pruned && page * LK_P >= g->n_sink && (page + 1) * LK_P <= middle_end ? LK_PAGE_LEAN
                                                                                  : LK_PAGE_WIDE;
}

static void size_pages(lk_geometry *g) {
  const size_t d = g->shape.head_dim, n_heads = g->shape.n_kv_heads;
  const leank_kv_type type = g->kv_type;
  const lk_backend_sizes *sizes = lk_backend_sizes_of(g->device);
  const size_t lean_v = sizes->segment_v_bytes(type, LK_PAGE_LEAN, d);
  g->wide_page_bytes = n_heads * (sizes->segment_k_bytes(type, LK_PAGE_WIDE, d) +
                                  sizes->segment_v_bytes(type, LK_PAGE_WIDE, d));
  for (size_t l = 0; l < g->n_layers; l++) {
    size_t at = 0;
    for (size_t h = 0; h < n_heads; h++) {
      const lk_head_map *head = lk_mask_map_head(&g->map, l, h);
      g->lean_offset[l * n_heads + h] = at;
      if (head->n_kept > 0)
        at += sizes->segment_k_bytes(type, LK_PAGE_LEAN, head->n_padded) + lean_v;
    }
    g->lean_page_bytes[l] = at;
  }
}

/* Sink, recent and a page in the making; one more where a step can open a page before the page that
 * leaves the window is freed. */
static void count_pages(lk_geometry *g) {
  const size_t n_pages = g->n_ctx / LK_P;
  if (!g->pruned) {
    g->max_wide_pages = n_pages;
    g->turn_pages = 1;
    return;
  }
  size_t wide = lk_pages_of(g->n_sink + g->n_recent + LK_P - 1) + (g->n_recent % LK_P == 1);
  g->max_wide_pages = wide < n_pages ? wide : n_pages;
  g->max_lean_pages = (lk_middle_end(g, g->max_tokens) - g->n_sink) / LK_P;
  /* Old and new wide pages of a turn are at most the recent ones twice, and never more than all
   * pages of a sequence and a copy of the last. */
  const size_t sink = g->n_sink / LK_P, recent = wide > sink ? wide - sink : 0;
  const size_t rest = n_pages - g->max_wide_pages;
  g->turn_pages = (recent < rest ? recent : rest) + 1;
}

leank_status lk_geometry_make(const lk_geometry_options *o, lk_geometry *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_geometry g = {.shape = o->shape,
                   .n_layers = o->n_layers,
                   .device = o->device,
                   .kv_type = o->kv_type,
                   .pruned = o->mask != NULL,
                   .n_sink = o->mask ? o->n_sink : 0,
                   .n_recent = o->mask ? o->n_recent : 0};
  LK_FAIL_IF(o->n_ctx == 0 || o->n_ctx > MAX_CTX, err, LEANK_E_ARGUMENT, -1,
             "a context of %zu tokens: 1 to %d are possible", o->n_ctx, MAX_CTX);
  LK_FAIL_IF(g.n_sink % LK_P != 0 || g.n_sink > MAX_CTX, err, LEANK_E_ARGUMENT, -1,
             "n_sink is %zu: it must be a multiple of the page, %d tokens", g.n_sink, LK_P);
  LK_FAIL_IF(g.n_recent > MAX_CTX, err, LEANK_E_ARGUMENT, -1, "n_recent is %zu: at most %d",
             g.n_recent, MAX_CTX);
  g.max_tokens = o->n_ctx;
  g.n_ctx = lk_pages_of(o->n_ctx) * LK_P;
  LK_TRY(lk_mask_map_make(o->mask, o->n_layers, o->shape.n_kv_heads, o->shape.head_dim, o->order,
                          o->granule, &g.map, err));
  g.lean_page_bytes = lk_alloc(LK_MEM_OTHER, g.n_layers, sizeof(size_t));
  g.lean_offset = lk_alloc(LK_MEM_OTHER, g.n_layers * g.shape.n_kv_heads, sizeof(size_t));
  LK_FAIL_IF(!g.lean_page_bytes || !g.lean_offset, err, LEANK_E_MEMORY, -1, "out of memory");
  size_pages(&g);
  count_pages(&g);
  *out = g;
cleanup:
  if (status != LEANK_OK) lk_geometry_free(&g);
  return status;
}

void lk_geometry_free(lk_geometry *g) {
  lk_mask_map_free(&g->map);
  lk_free(g->lean_page_bytes);
  lk_free(g->lean_offset);
  memset(g, 0, sizeof *g);
}
