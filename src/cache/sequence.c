/* Sequences: clear, rewind, fork, pack from another cache. */
#include "cache/cache.h"

#include <string.h>

static void drop_pages(lk_cache *c, lk_sequence *seq, size_t first) {
  for (size_t p = first; p < lk_pages_of(seq->n_tokens); p++) lk_cache_drop_entry(c, seq->table[p]);
}

static void clear_means(lk_cache *c, lk_sequence *seq) {
  if (seq->mean)
    c->backend->ops->zero(c->backend, seq->mean,
                          c->geometry.n_layers * lk_cache_mean_floats(c) * sizeof(float));
}

void lk_sequence_clear(lk_cache *c, lk_sequence *seq) {
  drop_pages(c, seq, 0);
  seq->n_tokens = 0;
  seq->middle_end = lk_middle_end(&c->geometry, 0);
  clear_means(c, seq);
}

leank_status lk_sequence_rewind(lk_cache *c, lk_sequence *seq, size_t n_tokens, leank_error *err) {
  if (n_tokens > seq->n_tokens)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "cannot rewind to %zu tokens: the sequence has %zu",
                   n_tokens, seq->n_tokens);
  if (n_tokens == 0) {
    lk_sequence_clear(c, seq);
    return LEANK_OK;
  }
  if (lk_middle_end(&c->geometry, n_tokens) != seq->middle_end)
    return lk_fail(err, LEANK_E_REWIND, -1,
                   "cannot rewind from %zu to %zu tokens: keys that would be recent again are "
                   "pruned; replay the tokens",
                   seq->n_tokens, n_tokens);
  drop_pages(c, seq, lk_pages_of(n_tokens));
  seq->n_tokens = n_tokens;
  return LEANK_OK;
}

void lk_sequence_fork(lk_cache *c, const lk_sequence *from, lk_sequence *to) {
  lk_sequence_clear(c, to);
  const size_t n_pages = lk_pages_of(from->n_tokens);
  for (size_t p = 0; p < n_pages; p++) lk_cache_share_entry(c, from->table[p]);
  memcpy(to->table, from->table, n_pages * sizeof *to->table);
  to->n_tokens = from->n_tokens;
  to->middle_end = from->middle_end;
  if (to->mean)
    c->backend->ops->copy(c->backend, to->mean, from->mean,
                          c->geometry.n_layers * lk_cache_mean_floats(c) * sizeof(float));
}

/* ---- pack from another cache ---- */

/* True when every channel that `small` keeps is kept by `large`: its pages hold what is needed. */
static bool is_subset(const lk_mask_map *small, const lk_mask_map *large) {
  for (size_t i = 0; i < small->n_layers * small->n_kv_heads; i++) {
    const lk_head_map *s = &small->heads[i], *l = &large->heads[i];
    size_t at = 0;
    for (size_t c = 0; c < s->n_kept; c++) {
      while (at < l->n_kept && l->channels[at] < s->channels[c]) at++;
      if (at == l->n_kept || l->channels[at] != s->channels[c]) return false;
    }
  }
  return true;
}

static leank_status check_source(const lk_cache *c, const lk_cache *source, const lk_sequence *from,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_geometry *g = &c->geometry, *s = &source->geometry;
  LK_FAIL_IF(g->n_layers != s->n_layers || g->shape.n_kv_heads != s->shape.n_kv_heads ||
                 g->shape.head_dim != s->shape.head_dim || g->kv_type != s->kv_type,
             err, LEANK_E_MISMATCH, -1, "the sessions are of different models or cache types");
  LK_FAIL_IF(g->device != s->device || c->backend->index != source->backend->index, err,
             LEANK_E_MISMATCH, -1, "the sessions are on different devices");
  LK_FAIL_IF(from->n_tokens > g->max_tokens, err, LEANK_E_CONTEXT, -1,
             "the source has %zu tokens, the context of this session is %zu", from->n_tokens,
             g->max_tokens);
  const size_t middle_end = lk_middle_end(g, from->n_tokens);
  bool lean_source = false;
  for (size_t p = 0; p < lk_pages_of(from->n_tokens); p++) {
    const bool is_lean = from->table[p].kind == LK_PAGE_LEAN;
    lean_source |= is_lean;
    LK_FAIL_IF(is_lean && lk_kind_of(g, p, middle_end) == LK_PAGE_WIDE, err, LEANK_E_MISMATCH, -1,
               "the source has pruned tokens %zu to %zu, which this session keeps in full",
               p * LK_P, (p + 1) * LK_P - 1);
  }
  LK_FAIL_IF(lean_source && !is_subset(&g->map, &s->map), err, LEANK_E_MISMATCH, -1,
             "the source is pruned by a mask that has dropped channels needed here");
  LK_FAIL_IF(lean_source && c->keeps_means &&
                 (!from->mean || s->n_sink != g->n_sink || from->middle_end != middle_end),
             err, LEANK_E_MISMATCH, -1,
             "the source has not kept the means that this session needs");
cleanup:
  return status;
}

leank_status lk_sequence_take_pages(lk_cache *c, lk_sequence *to, size_t n_tokens,
                                    leank_error *err) {
  const size_t middle_end = lk_middle_end(&c->geometry, n_tokens);
  for (size_t p = 0; p < lk_pages_of(n_tokens); p++) {
    if (!lk_cache_take_entry(c, lk_kind_of(&c->geometry, p, middle_end), &to->table[p])) {
      while (p-- > 0) lk_cache_drop_entry(c, to->table[p]);
      return lk_fail(err, LEANK_E_CONTEXT, -1, "no free page for %zu tokens", n_tokens);
    }
  }
  to->n_tokens = n_tokens;
  to->middle_end = middle_end;
  return LEANK_OK;
}

/* The pages of one kind of `to`, and those of `from` that they are made of; returns their count.
 * Lists have room for all. */
static size_t list_pages(const lk_sequence *from, const lk_sequence *to, lk_page_kind kind,
                         lk_page_entry *from_list, lk_page_entry *to_list) {
  size_t n = 0;
  for (size_t p = 0; p < lk_pages_of(from->n_tokens); p++) {
    if (to->table[p].kind != (uint32_t)kind) continue;
    from_list[n] = from->table[p];
    to_list[n++] = to->table[p];
  }
  return n;
}

/* The sums over the middle: of its pages in the source, or those that a lean source has kept. */
static void sum_layer(lk_cache *c, lk_sequence *to, const lk_layer_view *src,
                      const lk_sequence *from, size_t layer, const lk_page_entry *middle, size_t n,
                      float *sums) {
  const lk_backend_ops *ops = c->backend->ops;
  const size_t n_mean = lk_cache_mean_floats(c);
  bool summed = false;
  ops->zero(c->backend, sums, n_mean * sizeof(float));
  for (size_t i = 0; i < n; i++) {
    if (middle[i].kind == LK_PAGE_LEAN) continue;
    ops->sum_pages(c->backend, &c->geometry.shape, src, &middle[i], 1, sums);
    ops->copy(c->backend, sums, sums + n_mean, n_mean * sizeof(float));
    summed = true;
  }
  const float *mean = summed || !from->mean ? sums : from->mean + layer * n_mean;
  ops->copy(c->backend, to->mean + layer * n_mean, mean, n_mean * sizeof(float));
}

/* lists: room for four entries a page. */
static void pack_layers(lk_cache *c, lk_sequence *to, const lk_cache *source,
                        const lk_sequence *from, lk_page_entry *lists, float *sums) {
  const lk_backend_ops *ops = c->backend->ops;
  const size_t n = lk_pages_of(from->n_tokens);
  lk_page_entry *wide[] = {lists, lists + n}, *lean[] = {lists + 2 * n, lists + 3 * n};
  const size_t n_wide = list_pages(from, to, LK_PAGE_WIDE, wide[0], wide[1]);
  const size_t n_lean = list_pages(from, to, LK_PAGE_LEAN, lean[0], lean[1]);
  for (size_t l = 0; l < c->geometry.n_layers; l++) {
    const lk_layer_view src = lk_cache_layer(source, l, NULL), dst = lk_cache_layer(c, l, NULL);
    ops->copy_pages(c->backend, &src, wide[0], &dst, wide[1], n_wide);
    ops->pack(c->backend, &c->geometry.shape, &src, lean[0], &dst, lean[1], n_lean);
    if (c->keeps_means) sum_layer(c, to, &src, from, l, lean[0], n_lean, sums);
  }
}

leank_status lk_sequence_pack_from(lk_cache *c, lk_sequence *to, const lk_cache *source,
                                   const lk_sequence *from, leank_error *err) {
  leank_status status = LEANK_OK;
  float *sums = NULL;
  lk_page_entry *lists = NULL;
  LK_TRY(check_source(c, source, from, err));
  const size_t n_mean = lk_cache_mean_floats(c);
  if (c->keeps_means) {
    sums = c->backend->ops->alloc(c->backend, LK_MEM_SCRATCH, 2 * n_mean * sizeof(float));
    LK_FAIL_IF(!sums, err, LEANK_E_MEMORY, -1, "out of memory");
  }
  lists = lk_alloc(LK_MEM_SCRATCH, 4 * lk_pages_of(from->n_tokens), sizeof *lists);
  LK_FAIL_IF(!lists, err, LEANK_E_MEMORY, -1, "out of memory");
  /* The two are of one device, but each has its own order of work. */
  LK_TRY(source->backend->ops->wait(source->backend, err));
  lk_sequence_clear(c, to);
  LK_TRY(lk_sequence_take_pages(c, to, from->n_tokens, err));
  pack_layers(c, to, source, from, lists, sums);
  status = c->backend->ops->wait(c->backend, err);
  if (status != LEANK_OK) lk_sequence_clear(c, to);
cleanup:
  lk_free(lists);
  if (sums) c->backend->ops->free(c->backend, sums);
  return status;
}
