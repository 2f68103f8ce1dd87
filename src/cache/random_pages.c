#include "cache/random_pages.h"

#include "base/rng.h"

enum { N_PAGES = 16 };

leank_status lk_random_pages_open(lk_backend *be, const lk_geometry *g, lk_random_pages *out,
                                  leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_rows = N_PAGES * LK_P, n = n_rows * g->shape.n_kv_heads * g->shape.head_dim;
  lk_rng rng = {2};
  lk_layer_view view = {.page_bytes = {0, 0, g->wide_page_bytes},
                        .heads = lk_mask_map_head(&g->map, 0, 0),
                        .lean_offset = g->lean_offset};
  float *kv = lk_alloc(LK_MEM_OTHER, 2 * n, sizeof *kv), *on_device = NULL;
  lk_slot *slots = lk_alloc(LK_MEM_OTHER, n_rows, sizeof *slots);
  view.arena[LK_PAGE_STAGE] = be->ops->alloc(be, LK_MEM_SCRATCH, N_PAGES * g->wide_page_bytes);
  on_device = be->ops->alloc(be, LK_MEM_SCRATCH, 2 * n * sizeof *kv);
  LK_FAIL_IF(!kv || !slots || !on_device || !view.arena[LK_PAGE_STAGE], err, LEANK_E_MEMORY, -1,
             "out of memory for random pages");
  lk_rng_fill(&rng, kv, 2 * n);
  for (size_t i = 0; i < n_rows; i++)
    slots[i] = (lk_slot){{(uint32_t)(i / LK_P), LK_PAGE_STAGE}, (uint32_t)(i % LK_P)};
  const lk_rows rows = {.n_rows = n_rows, .slots = slots};
  LK_TRY(be->ops->stage_rows(be, &rows, err));
  be->ops->upload(be, on_device, kv, 2 * n * sizeof *kv);
  be->ops->append(be, &g->shape, &view, &rows, 0, n_rows, on_device, on_device + n);
  LK_TRY(be->ops->wait(be, err));
  *out = (lk_random_pages){view.arena[LK_PAGE_STAGE], N_PAGES};
  view.arena[LK_PAGE_STAGE] = NULL;
cleanup:
  if (view.arena[LK_PAGE_STAGE]) be->ops->free(be, view.arena[LK_PAGE_STAGE]);
  if (on_device) be->ops->free(be, on_device);
  lk_free(kv);
  lk_free(slots);
  return status;
}

void lk_random_pages_close(lk_backend *be, lk_random_pages *pages) {
  if (pages->pages) be->ops->free(be, pages->pages);
  *pages = (lk_random_pages){0};
}

/* The pages of one kind, and where they are filled from; returns their count. */
static size_t list_pages(const lk_random_pages *from, const lk_sequence *to, lk_page_kind kind,
                         lk_page_entry *from_list, lk_page_entry *to_list) {
  size_t n = 0;
  for (size_t p = 0; p < lk_pages_of(to->n_tokens); p++) {
    if (to->table[p].kind != (uint32_t)kind) continue;
    from_list[n] = (lk_page_entry){(uint32_t)(p % from->n_pages), LK_PAGE_STAGE};
    to_list[n++] = to->table[p];
  }
  return n;
}

leank_status lk_sequence_fill(lk_cache *c, lk_sequence *to, const lk_random_pages *from,
                              size_t n_tokens, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_backend_ops *ops = c->backend->ops;
  const size_t n = lk_pages_of(n_tokens);
  lk_page_entry *lists = lk_alloc(LK_MEM_SCRATCH, 4 * n, sizeof *lists);
  LK_FAIL_IF(!lists, err, LEANK_E_MEMORY, -1, "out of memory");
  lk_page_entry *wide[] = {lists, lists + n}, *lean[] = {lists + 2 * n, lists + 3 * n};
  lk_sequence_clear(c, to);
  LK_TRY(lk_sequence_take_pages(c, to, n_tokens, err));
  const size_t n_wide = list_pages(from, to, LK_PAGE_WIDE, wide[0], wide[1]);
  const size_t n_lean = list_pages(from, to, LK_PAGE_LEAN, lean[0], lean[1]);
  for (size_t l = 0; l < c->geometry.n_layers; l++) {
    const lk_layer_view view = lk_cache_layer(c, l, from->pages);
    ops->copy_pages(c->backend, &view, wide[0], &view, wide[1], n_wide);
    if (n_lean > 0)
      ops->pack(c->backend, &c->geometry.shape, &view, lean[0], &view, lean[1], n_lean);
  }
  status = ops->wait(c->backend, err);
  if (status != LEANK_OK) lk_sequence_clear(c, to);
cleanup:
  lk_free(lists);
  return status;
}
