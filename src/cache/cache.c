#include "cache/cache.h"

#include <string.h>

/* ---- pools ---- */

static leank_status pool_open(lk_backend *be, const lk_geometry *g, lk_page_kind kind,
                              size_t n_pages, lk_pool *pool, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n_pages > UINT32_MAX, err, LEANK_E_ARGUMENT, -1,
             "%zu pages: more than can be numbered", n_pages);
  pool->n_pages = n_pages;
  pool->page_bytes = lk_alloc(LK_MEM_OTHER, g->n_layers, sizeof(size_t));
  pool->layer_offset = lk_alloc(LK_MEM_OTHER, g->n_layers, sizeof(size_t));
  pool->n_refs = lk_alloc(LK_MEM_OTHER, n_pages, sizeof(uint32_t));
  pool->free_pages = lk_alloc(LK_MEM_OTHER, n_pages, sizeof(uint32_t));
  LK_FAIL_IF(!pool->page_bytes || !pool->layer_offset || !pool->n_refs || !pool->free_pages, err,
             LEANK_E_MEMORY, -1, "out of memory");
  size_t total = 0;
  for (size_t l = 0; l < g->n_layers; l++) {
    size_t layer_bytes;
    pool->page_bytes[l] = kind == LK_PAGE_LEAN ? g->lean_page_bytes[l] : g->wide_page_bytes;
    pool->layer_offset[l] = total;
    LK_FAIL_IF(!lk_mul(pool->page_bytes[l], n_pages, &layer_bytes) ||
                   !lk_add(total, layer_bytes, &total),
               err, LEANK_E_MEMORY, -1, "the cache is larger than memory can be");
  }
  const lk_mem_category category = kind == LK_PAGE_LEAN ? LK_MEM_LEAN
                                   : g->pruned          ? LK_MEM_WIDE
                                                        : LK_MEM_DENSE;
  pool->arena = be->ops->alloc(be, category, total);
  LK_FAIL_IF(!pool->arena, err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes for the %s pages",
             total, kind == LK_PAGE_LEAN ? "lean" : "wide");
  pool->n_free = n_pages;
  for (size_t i = 0; i < n_pages; i++) pool->free_pages[i] = (uint32_t)(n_pages - 1 - i);
cleanup:
  return status;
}

static void pool_close(lk_backend *be, lk_pool *pool) {
  if (pool->arena) be->ops->free(be, pool->arena);
  lk_free(pool->page_bytes);
  lk_free(pool->layer_offset);
  lk_free(pool->n_refs);
  lk_free(pool->free_pages);
  memset(pool, 0, sizeof *pool);
}

static bool pool_take(lk_pool *pool, uint32_t *page) {
  if (pool->n_free == 0) return false;
  *page = pool->free_pages[--pool->n_free];
  pool->n_refs[*page] = 1;
  return true;
}

static void pool_share(lk_pool *pool, uint32_t page) { pool->n_refs[page]++; }

static void pool_drop(lk_pool *pool, uint32_t page) {
  if (--pool->n_refs[page] == 0) pool->free_pages[pool->n_free++] = page;
}

/* ---- the cache ---- */

leank_status lk_cache_open(lk_backend *be, lk_geometry *geometry, size_t n_seqs, lk_cache *out,
                           leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cache c = {.geometry = *geometry, .backend = be, .n_seqs = n_seqs};
  memset(geometry, 0, sizeof *geometry);
  const lk_geometry *g = &c.geometry;
  c.keeps_means = lk_keeps_means(g);
  LK_TRY(pool_open(be, g, LK_PAGE_WIDE, n_seqs * g->max_wide_pages + g->turn_pages,
                   &c.pools[LK_PAGE_WIDE], err));
  LK_TRY(pool_open(be, g, LK_PAGE_LEAN, n_seqs * g->max_lean_pages, &c.pools[LK_PAGE_LEAN], err));
  c.sequences = lk_alloc(LK_MEM_OTHER, n_seqs, sizeof *c.sequences);
  LK_FAIL_IF(!c.sequences, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n_seqs; i++) {
    lk_sequence *s = &c.sequences[i];
    s->middle_end = lk_middle_end(g, 0);
    s->table = lk_alloc(LK_MEM_OTHER, g->n_ctx / LK_P, sizeof *s->table);
    LK_FAIL_IF(!s->table, err, LEANK_E_MEMORY, -1, "out of memory");
    if (!c.keeps_means) continue;
    s->mean =
        be->ops->alloc(be, LK_MEM_OTHER, g->n_layers * lk_cache_mean_floats(&c) * sizeof(float));
    LK_FAIL_IF(!s->mean, err, LEANK_E_MEMORY, -1, "out of memory");
  }
  *out = c;
cleanup:
  if (status != LEANK_OK) lk_cache_close(&c);
  return status;
}

void lk_cache_close(lk_cache *c) {
  for (size_t i = 0; c->sequences && i < c->n_seqs; i++) {
    lk_free(c->sequences[i].table);
    if (c->sequences[i].mean) c->backend->ops->free(c->backend, c->sequences[i].mean);
  }
  lk_free(c->sequences);
  for (int k = 0; k < 2; k++)
    if (c->backend) pool_close(c->backend, &c->pools[k]);
  lk_geometry_free(&c->geometry);
  memset(c, 0, sizeof *c);
}

lk_layer_view lk_cache_layer(const lk_cache *c, size_t layer, unsigned char *stage) {
  const lk_geometry *g = &c->geometry;
  lk_layer_view view = {.heads = lk_mask_map_head(&g->map, layer, 0),
                        .lean_offset = g->lean_offset + layer * g->shape.n_kv_heads,
                        .mean_offset = layer * lk_cache_mean_floats(c)};
  for (int k = 0; k < 2; k++) {
    view.arena[k] = c->pools[k].arena + c->pools[k].layer_offset[layer];
    view.page_bytes[k] = c->pools[k].page_bytes[layer];
  }
  view.arena[LK_PAGE_STAGE] = stage;
  view.page_bytes[LK_PAGE_STAGE] = g->wide_page_bytes;
  return view;
}

size_t lk_cache_mean_floats(const lk_cache *c) {
  return c->geometry.shape.n_kv_heads * 2 * c->geometry.shape.head_dim;
}

void lk_cache_drop_entry(lk_cache *c, lk_page_entry e) { pool_drop(&c->pools[e.kind], e.page); }
void lk_cache_share_entry(lk_cache *c, lk_page_entry e) { pool_share(&c->pools[e.kind], e.page); }

bool lk_cache_take_entry(lk_cache *c, lk_page_kind kind, lk_page_entry *out) {
  uint32_t page;
  if (!pool_take(&c->pools[kind], &page)) return false;
  *out = (lk_page_entry){page, kind};
  return true;
}

void lk_cache_copy_page(lk_cache *c, lk_page_entry from, lk_page_entry to) {
  for (size_t l = 0; l < c->geometry.n_layers; l++) {
    const lk_layer_view view = lk_cache_layer(c, l, NULL);
    c->backend->ops->copy_pages(c->backend, &view, &from, &view, &to, 1);
  }
}
