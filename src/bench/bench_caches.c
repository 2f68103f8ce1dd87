#include "bench/bench_caches.h"

#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "mask/mask.h"

enum { MAX_SEQS = 1 << 16, MAX_HEADS = 1 << 12, MAX_LAYERS = 1 << 16 };

/* ---- sizes ---- */

static leank_status check_shape(const leank_bench_shape *s, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(s->struct_size != sizeof *s, err, LEANK_E_ARGUMENT, -1,
             "a bench shape of %zu bytes: fill it with leank_bench_shape_default", s->struct_size);
  LK_FAIL_IF(s->n_layers == 0 || s->n_layers > MAX_LAYERS, err, LEANK_E_ARGUMENT, -1,
             "%zu layers: 1 to %d are possible", s->n_layers, MAX_LAYERS);
  LK_FAIL_IF(s->n_kv_heads == 0 || s->n_heads == 0 || s->n_heads > MAX_HEADS ||
                 s->n_heads % s->n_kv_heads != 0,
             err, LEANK_E_ARGUMENT, -1, "%zu query heads on %zu kv heads are not possible",
             s->n_heads, s->n_kv_heads);
  LK_FAIL_IF(s->head_dim == 0 || s->head_dim % 2 != 0 || s->head_dim > UINT16_MAX, err,
             LEANK_E_ARGUMENT, -1, "a head of %zu channels is not possible", s->head_dim);
  LK_FAIL_IF(s->n_seqs == 0 || s->n_seqs > MAX_SEQS, err, LEANK_E_ARGUMENT, -1,
             "%zu sequences: 1 to %d are possible", s->n_seqs, MAX_SEQS);
cleanup:
  return status;
}

/* A mask of one layer whose heads keep channels 0 .. n_kept - 1: which ones makes no difference to
 * what is read. */
static leank_status make_equal_mask(const leank_bench_shape *s, size_t n_kept, leank_mask **out,
                                    leank_error *err) {
  leank_status status = LEANK_OK;
  leank_mask_info info;
  uint8_t *kept = NULL;
  LK_FAIL_IF(n_kept > s->head_dim, err, LEANK_E_ARGUMENT, -1, "%zu kept channels of %zu", n_kept,
             s->head_dim);
  leank_mask_info_default(&info);
  info.n_layers = 1;
  info.n_kv_heads = s->n_kv_heads;
  info.head_dim = s->head_dim;
  kept = lk_alloc(LK_MEM_OTHER, s->n_kv_heads * s->head_dim, 1);
  LK_FAIL_IF(!kept, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t h = 0; h < s->n_kv_heads; h++) memset(kept + h * s->head_dim, 1, n_kept);
  LK_TRY(leank_mask_create(&info, kept, NULL, out, err));
cleanup:
  lk_free(kept);
  return status;
}

static leank_status make_geometry(const leank_bench_shape *s, const leank_mask *mask,
                                  leank_device device, lk_bench_side *side, leank_error *err) {
  const leank_mask_info *m = mask ? leank_mask_get_info(mask) : NULL;
  const lk_geometry_options options = {
      .n_layers = side->n_distinct,
      .shape = {.n_heads = s->n_heads,
                .n_kv_heads = s->n_kv_heads,
                .head_dim = s->head_dim,
                .mean_for_empty = m && m->policy == LEANK_POLICY_MEAN,
                .mean_for_pruned = m && m->mean_compensation},
      .order = LEANK_ORDER_HALF,
      .mask = mask,
      .kv_type = s->kv_type,
      .n_ctx = s->n_tokens,
      .n_sink = m && s->n_sink == SIZE_MAX ? m->n_sink : s->n_sink,
      .n_recent = m && s->n_recent == SIZE_MAX ? m->n_recent : s->n_recent,
      .device = device,
      .granule = lk_backend_sizes_of(device)->granule(s->kv_type)};
  return lk_geometry_make(&options, &side->geometry, err);
}

/* Page numbers ascend within a sequence, as they do in a session that has one turn behind it. */
static void fill_tables(lk_bench_side *side) {
  const lk_geometry *g = &side->geometry;
  const size_t n_pages = lk_pages_of(side->n_tokens), end = lk_middle_end(g, side->n_tokens);
  const size_t n_mean = g->shape.n_kv_heads * 2 * g->shape.head_dim;
  for (size_t b = 0; b < side->n_seqs; b++) {
    uint32_t next[2] = {(uint32_t)(b * side->n_wide), (uint32_t)(b * side->n_lean)};
    for (size_t p = 0; p < n_pages; p++) {
      const lk_page_kind kind = lk_kind_of(g, p, end);
      side->table[b * n_pages + p] = (lk_page_entry){next[kind]++, kind};
    }
    side->groups[b] = (lk_attend_group){.first_row = b,
                                        .n_rows = 1,
                                        .first_pos = (int64_t)side->n_tokens - 1,
                                        .table = side->table + b * n_pages,
                                        .middle_begin = g->n_sink,
                                        .n_middle = side->n_lean * LK_P,
                                        .mean = side->mean ? side->mean + b * n_mean : NULL};
  }
  side->rows = (lk_rows){.n_rows = side->n_seqs, .groups = side->groups, .n_groups = side->n_seqs};
}

static leank_status count_pages(lk_bench_side *side, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_geometry *g = &side->geometry;
  const size_t n_pages = lk_pages_of(side->n_tokens), end = lk_middle_end(g, side->n_tokens);
  LK_FAIL_IF(n_pages > UINT32_MAX / side->n_seqs, err, LEANK_E_ARGUMENT, -1,
             "%zu sequences of %zu tokens are too many pages", side->n_seqs, side->n_tokens);
  LK_FAIL_IF((double)g->wide_page_bytes * (double)(n_pages * side->n_seqs) >
                 (double)LK_BENCH_MAX_BYTES,
             err, LEANK_E_MEMORY, -1, "a layer of the cache is larger than memory can be");
  for (size_t p = 0; p < n_pages; p++) side->n_lean += lk_kind_of(g, p, end) == LK_PAGE_LEAN;
  side->n_wide = n_pages - side->n_lean;
cleanup:
  return status;
}

/* Random ones, where the backend can read them. */
static leank_status open_means(lk_backend *be, lk_bench_side *side, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_attn_shape *shape = &side->geometry.shape;
  const size_t n = side->n_seqs * shape->n_kv_heads * 2 * shape->head_dim;
  lk_rng rng = {3};
  float *values = lk_alloc(LK_MEM_OTHER, n, sizeof *values);
  side->mean = be->ops->alloc(be, LK_MEM_OTHER, n * sizeof *values);
  LK_FAIL_IF(!values || !side->mean, err, LEANK_E_MEMORY, -1, "out of memory for means");
  lk_rng_fill(&rng, values, n);
  be->ops->upload(be, side->mean, values, n * sizeof *values);
cleanup:
  lk_free(values);
  return status;
}

static leank_status open_tables(lk_backend *be, lk_bench_side *side, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_geometry *g = &side->geometry;
  side->table =
      lk_alloc(LK_MEM_OTHER, side->n_seqs * lk_pages_of(side->n_tokens), sizeof *side->table);
  side->groups = lk_alloc(LK_MEM_OTHER, side->n_seqs, sizeof *side->groups);
  LK_FAIL_IF(!side->table || !side->groups, err, LEANK_E_MEMORY, -1,
             "out of memory for page tables");
  if (lk_keeps_means(g)) LK_TRY(open_means(be, side, err));
  fill_tables(side);
cleanup:
  return status;
}

leank_status lk_bench_side_open(const leank_bench_shape *shape, const leank_bench_cache *cache,
                                leank_device device, lk_bench_side *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_bench_side side = {.n_seqs = shape->n_seqs, .n_tokens = shape->n_tokens};
  const leank_mask *mask = cache->mask;
  LK_TRY(check_shape(shape, err));
  if (!mask && cache->n_kept != LEANK_BENCH_DENSE) {
    LK_TRY(make_equal_mask(shape, cache->n_kept, &side.own_mask, err));
    mask = side.own_mask;
  }
  side.n_distinct = cache->mask ? shape->n_layers : 1;
  LK_TRY(make_geometry(shape, mask, device, &side, err));
  LK_TRY(count_pages(&side, err));
  *out = side;
cleanup:
  if (status != LEANK_OK) lk_bench_side_close(NULL, &side);
  return status;
}

void lk_bench_side_close(lk_backend *be, lk_bench_side *side) {
  lk_bench_side_empty(be, side);
  lk_free(side->table);
  lk_free(side->groups);
  if (side->mean) be->ops->free(be, side->mean);
  lk_geometry_free(&side->geometry);
  leank_mask_close(&side->own_mask);
  memset(side, 0, sizeof *side);
}

size_t lk_bench_layer_bytes(const lk_bench_side *side, size_t layer) {
  const lk_geometry *g = &side->geometry;
  const size_t n_wide_tokens = side->n_tokens - side->n_lean * LK_P;
  return side->n_seqs *
         (n_wide_tokens * (g->wide_page_bytes / LK_P) + side->n_lean * g->lean_page_bytes[layer]);
}

/* ---- slots ---- */

leank_status lk_bench_side_choose(lk_bench_side *side, size_t first, size_t rotate_bytes,
                                  leank_error *err) {
  size_t n = 0, bytes = 0;
  while (first + n < side->n_distinct && (n == 0 || bytes < rotate_bytes))
    bytes += lk_bench_layer_bytes(side, first + n++);
  side->first = first;
  side->n_layers = n;
  side->n_slots = bytes = 0;
  while (side->n_slots < n || bytes < rotate_bytes) {
    if (side->n_slots == LK_BENCH_MAX_COPIES)
      return lk_fail(err, LEANK_E_ARGUMENT, -1,
                     "%d copies of so small a cache are not enough to rotate over %zu bytes",
                     LK_BENCH_MAX_COPIES, rotate_bytes);
    bytes += lk_bench_layer_bytes(side, first + side->n_slots++ % n);
  }
  return LEANK_OK;
}

/* Bytes of a slot's pages of one kind. */
static size_t slot_bytes(const lk_bench_side *side, size_t slot, lk_page_kind kind) {
  const lk_geometry *g = &side->geometry;
  if (kind == LK_PAGE_WIDE) return side->n_seqs * side->n_wide * g->wide_page_bytes;
  return side->n_seqs * side->n_lean * g->lean_page_bytes[lk_bench_slot_layer(side, slot)];
}

static size_t arena_bytes(const lk_bench_side *side, lk_page_kind kind) {
  size_t n = 0;
  for (size_t i = 0; i < side->n_slots; i++) n += slot_bytes(side, i, kind);
  return n;
}

size_t lk_bench_side_arena_bytes(const lk_bench_side *side) {
  return arena_bytes(side, LK_PAGE_WIDE) + arena_bytes(side, LK_PAGE_LEAN);
}

static leank_status open_arenas(lk_backend *be, lk_bench_side *side, leank_error *err) {
  leank_status status = LEANK_OK;
  for (int k = 0; k < 2; k++) {
    const lk_mem_category category = k == LK_PAGE_LEAN       ? LK_MEM_LEAN
                                     : side->geometry.pruned ? LK_MEM_WIDE
                                                             : LK_MEM_DENSE;
    const size_t n = arena_bytes(side, (lk_page_kind)k);
    side->arena[k] = be->ops->alloc(be, category, n);
    LK_FAIL_IF(!side->arena[k], err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes of pages", n);
  }
  side->views = lk_alloc(LK_MEM_OTHER, side->n_slots, sizeof *side->views);
  LK_FAIL_IF(!side->views, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

static void make_views(lk_bench_side *side, const lk_random_pages *source) {
  const lk_geometry *g = &side->geometry;
  unsigned char *at[2] = {side->arena[0], side->arena[1]};
  for (size_t i = 0; i < side->n_slots; i++) {
    const size_t layer = lk_bench_slot_layer(side, i);
    side->views[i] = (lk_layer_view){
        .arena = {at[LK_PAGE_WIDE], at[LK_PAGE_LEAN], source->pages},
        .page_bytes = {g->wide_page_bytes, g->lean_page_bytes[layer], g->wide_page_bytes},
        .heads = lk_mask_map_head(&g->map, layer, 0),
        .lean_offset = g->lean_offset + layer * g->shape.n_kv_heads};
    for (int k = 0; k < 2; k++) at[k] += slot_bytes(side, i, (lk_page_kind)k);
  }
}

/* The pages of one kind, of all sequences, and where they are filled from: the source's in turn.
 */
static void list_pages(const lk_random_pages *source, const lk_bench_side *side, lk_page_kind kind,
                       lk_page_entry *from, lk_page_entry *to) {
  const size_t n_pages = side->n_seqs * lk_pages_of(side->n_tokens);
  size_t n = 0;
  for (size_t p = 0; p < n_pages; p++)
    if (side->table[p].kind == (uint32_t)kind) {
      from[n] = (lk_page_entry){(uint32_t)(p % source->n_pages), LK_PAGE_STAGE};
      to[n++] = side->table[p];
    }
}

/* entries: room for source and destination of all pages. */
static leank_status fill_slots(lk_backend *be, const lk_random_pages *source, lk_bench_side *side,
                               lk_page_entry *entries, lk_bench_run *run, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_wide = side->n_seqs * side->n_wide, n_lean = side->n_seqs * side->n_lean;
  lk_page_entry *wide = entries, *lean = entries + 2 * n_wide;
  list_pages(source, side, LK_PAGE_WIDE, wide, wide + n_wide);
  list_pages(source, side, LK_PAGE_LEAN, lean, lean + n_lean);
  for (size_t i = 0; i < side->n_slots; i++) {
    const lk_layer_view *view = &side->views[i];
    be->ops->copy_pages(be, view, wide, view, wide + n_wide, n_wide);
    if (n_lean > 0)
      be->ops->pack(be, &side->geometry.shape, view, lean, view, lean + n_lean, n_lean);
    LK_TRY(lk_bench_tick(run, err));
  }
cleanup:
  return status;
}

leank_status lk_bench_side_fill(lk_backend *be, const lk_random_pages *source, lk_bench_side *side,
                                lk_bench_run *run, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_pages = side->n_seqs * lk_pages_of(side->n_tokens);
  lk_page_entry *entries = lk_alloc(LK_MEM_OTHER, 2 * n_pages, sizeof *entries);
  LK_FAIL_IF(!entries, err, LEANK_E_MEMORY, -1, "out of memory");
  if (!side->table) LK_TRY(open_tables(be, side, err));
  LK_TRY(open_arenas(be, side, err));
  make_views(side, source);
  LK_TRY(fill_slots(be, source, side, entries, run, err));
cleanup:
  lk_free(entries);
  return status;
}

void lk_bench_side_empty(lk_backend *be, lk_bench_side *side) {
  for (int k = 0; k < 2; k++) {
    if (side->arena[k]) be->ops->free(be, side->arena[k]);
    side->arena[k] = NULL;
  }
  lk_free(side->views);
  side->views = NULL;
}
