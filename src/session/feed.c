/* Reading many tokens at once: a turn, or teacher-forced rows (score).
 *
 * The whole prompt goes through a layer before the next one starts, in chunks. The layer's full K
 * and V of the prompt stand in stage pages (page order, by position) until the layer is done; then
 * they are packed or copied into new pages. The sequence's own table is switched at the very end:
 * a feed that fails or is interrupted gives its pages back and leaves the sequence as it was. */
#include <stdint.h>
#include <string.h>

#include "session/session.h"

typedef struct feed {
  leank_session *s;
  lk_sequence *seq;
  const leank_token *tokens;
  const leank_feed_options *options;
  size_t n_rows;                      /* N */
  size_t t0, t1;                      /* tokens before and after */
  size_t first_page, n_pages;         /* first stage page; pages at t1 */
  size_t lean_begin, lean_end;        /* pages that enter the middle in this feed */
  size_t n_taken;                     /* entries of `table` that were taken, from page 0 on */
  lk_page_entry *table;               /* [n_pages] at t1 */
  lk_page_entry *whole;               /* [n_pages] while a layer is computed: as at t0, or staged */
  unsigned char *stage;               /* [n_pages - first_page] wide pages of one layer */
  float *x;                           /* [N][hidden] */
  float *sums;                        /* [lean pages + 1][Hk][2][D] of one layer, or NULL */
  float *mean;                        /* [L][Hk][2][D] at t1, or NULL */
  lk_forward forward;                 /* one chunk */
  int64_t *pos;                       /* [chunk] */
  lk_slot *slots;                     /* [chunk] */
  lk_attend_group *groups;            /* [chunk groups] */
  lk_page_entry *group_tables;        /* [chunk groups][n_pages] */
  lk_rows rows;                       /* of the chunk */
  lk_page_entry *wide_from, *wide_to; /* [n_wide] staged pages, and the wide ones they go to */
  size_t n_wide;
  size_t chunk; /* rows */
} feed;

static size_t max_groups(const feed *f) {
  return f->options->mode == LEANK_FEED_TURN ? 1 : f->chunk / LK_P + 2;
}

void leank_feed_options_default(leank_feed_options *o) {
  *o = (leank_feed_options){.struct_size = sizeof *o, .mode = LEANK_FEED_TURN};
}

static leank_status check_feed(const leank_session *s, const lk_sequence *seq,
                               const leank_token *tokens, size_t n_tokens, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n_tokens == 0, err, LEANK_E_ARGUMENT, -1, "nothing to read: 0 tokens");
  LK_FAIL_IF(seq->n_tokens > s->options.n_ctx || n_tokens > s->options.n_ctx - seq->n_tokens, err,
             LEANK_E_CONTEXT, -1, "%zu tokens do not fit: the context is %zu, %zu are in use",
             n_tokens, s->options.n_ctx, seq->n_tokens);
  for (size_t i = 0; i < n_tokens; i++)
    LK_FAIL_IF(tokens[i] < 0 || (size_t)tokens[i] >= s->model->info.n_vocab, err, LEANK_E_ARGUMENT,
               -1, "token %d at %zu is not in the vocabulary of %zu", (int)tokens[i], i,
               s->model->info.n_vocab);
cleanup:
  return status;
}

/* ---- opening and closing ---- */

static lk_page_entry stage_entry(const feed *f, size_t page) {
  return (lk_page_entry){(uint32_t)(page - f->first_page), LK_PAGE_STAGE};
}

static bool is_carried(const feed *f, size_t page) {
  return page < f->first_page && (page < f->lean_begin || page >= f->lean_end);
}

static leank_status take_table(feed *f, leank_error *err) {
  lk_cache *c = &f->s->cache;
  const size_t middle_end = lk_middle_end(&c->geometry, f->t1);
  for (; f->n_taken < f->n_pages; f->n_taken++) {
    const size_t p = f->n_taken;
    if (is_carried(f, p)) {
      f->table[p] = f->seq->table[p];
      continue;
    }
    if (!lk_cache_take_entry(c, lk_kind_of(&c->geometry, p, middle_end), &f->table[p]))
      return lk_fail(err, LEANK_E_CONTEXT, -1, "no free page for %zu more tokens", f->n_rows);
  }
  return LEANK_OK;
}

static leank_status take_buffers(feed *f, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_session *s = f->s;
  lk_backend *be = s->backend;
  const leank_model_info *m = &s->model->info;
  const size_t n_mean = lk_cache_mean_floats(&s->cache);
  const size_t stage_bytes = (f->n_pages - f->first_page) * s->cache.geometry.wide_page_bytes;
  const size_t x_bytes = f->n_rows * m->hidden * sizeof(float);
  f->stage = be->ops->alloc(be, LK_MEM_PREFILL, stage_bytes);
  f->x = be->ops->alloc(be, LK_MEM_PREFILL, x_bytes);
  f->pos = lk_alloc(LK_MEM_PREFILL, f->chunk, sizeof *f->pos);
  f->slots = lk_alloc(LK_MEM_PREFILL, f->chunk, sizeof *f->slots);
  f->groups = lk_alloc(LK_MEM_PREFILL, max_groups(f), sizeof *f->groups);
  f->group_tables = lk_alloc(LK_MEM_PREFILL, max_groups(f) * f->n_pages, sizeof *f->group_tables);
  f->wide_from = lk_alloc(LK_MEM_PREFILL, f->n_pages - f->first_page, sizeof *f->wide_from);
  f->wide_to = lk_alloc(LK_MEM_PREFILL, f->n_pages - f->first_page, sizeof *f->wide_to);
  LK_FAIL_IF(!f->stage || !f->x || !f->pos || !f->slots || !f->groups || !f->group_tables ||
                 !f->wide_from || !f->wide_to,
             err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes to read %zu tokens",
             stage_bytes + x_bytes, f->n_rows);
  for (size_t p = f->first_page; p < f->n_pages; p++) {
    if (f->table[p].kind != LK_PAGE_WIDE) continue;
    f->wide_from[f->n_wide] = stage_entry(f, p);
    f->wide_to[f->n_wide++] = f->table[p];
  }
  if (s->cache.keeps_means) {
    const size_t n_sums = f->lean_end - f->lean_begin + 1;
    f->sums = be->ops->alloc(be, LK_MEM_PREFILL, n_sums * n_mean * sizeof(float));
    f->mean = be->ops->alloc(be, LK_MEM_PREFILL, m->n_layers * n_mean * sizeof(float));
    LK_FAIL_IF(!f->sums || !f->mean, err, LEANK_E_MEMORY, -1, "out of memory for means");
  }
  LK_TRY(lk_forward_open(s->model, be, f->chunk, LK_MEM_PREFILL, &f->forward, err));
  LK_TRY(be->ops->reserve_rows(be, f->chunk, lk_forward_widest(m), err));
  lk_session_note_feed(s, f->n_rows, f->n_pages, f->n_pages - f->first_page, f->chunk,
                       max_groups(f), f->lean_end - f->lean_begin);
cleanup:
  return status;
}

static leank_status feed_open(feed *f, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_geometry *g = &f->s->cache.geometry;
  f->t0 = f->seq->n_tokens;
  f->t1 = f->t0 + f->n_rows;
  f->first_page = f->t0 / LK_P;
  f->n_pages = lk_pages_of(f->t1);
  f->lean_begin = f->seq->middle_end / LK_P;
  f->lean_end = lk_middle_end(g, f->t1) / LK_P;
  f->chunk = f->s->options.prefill_chunk;
  const size_t tile = f->s->backend->ops->row_tile;
  if (f->chunk > f->n_rows) f->chunk = (f->n_rows + tile - 1) / tile * tile;
  f->table = lk_alloc(LK_MEM_PREFILL, f->n_pages, sizeof *f->table);
  f->whole = lk_alloc(LK_MEM_PREFILL, f->n_pages, sizeof *f->whole);
  LK_FAIL_IF(!f->table || !f->whole, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t p = 0; p < f->n_pages; p++)
    f->whole[p] = p < f->first_page ? f->seq->table[p] : stage_entry(f, p);
  LK_TRY(take_table(f, err));
  LK_TRY(take_buffers(f, err));
cleanup:
  return status;
}

/* Gives back the pages the feed took; what was carried stays the sequence's. */
static void drop_taken(feed *f) {
  for (size_t p = 0; p < f->n_taken; p++)
    if (!is_carried(f, p)) lk_cache_drop_entry(&f->s->cache, f->table[p]);
  f->n_taken = 0;
}

static void feed_close(feed *f) {
  lk_backend *be = f->s->backend;
  drop_taken(f);
  lk_forward_close(&f->forward);
  void *device[] = {f->stage, f->x, f->sums, f->mean};
  for (size_t i = 0; i < sizeof device / sizeof *device; i++)
    if (device[i]) be->ops->free(be, device[i]);
  lk_free(f->pos);
  lk_free(f->slots);
  lk_free(f->groups);
  lk_free(f->group_tables);
  lk_free(f->wide_from);
  lk_free(f->wide_to);
  lk_free(f->table);
  lk_free(f->whole);
  be->ops->reserve_rows(be, 0, 0, NULL);
}

/* The switch: from here on the sequence has t1 tokens. */
static void feed_commit(feed *f) {
  lk_cache *c = &f->s->cache;
  for (size_t p = 0; p < lk_pages_of(f->t0); p++)
    if (!is_carried(f, p)) lk_cache_drop_entry(c, f->seq->table[p]);
  memcpy(f->seq->table, f->table, f->n_pages * sizeof *f->table);
  f->seq->n_tokens = f->t1;
  f->seq->middle_end = lk_middle_end(&c->geometry, f->t1);
  if (f->mean)
    f->s->backend->ops->copy(f->s->backend, f->seq->mean, f->mean,
                             c->geometry.n_layers * lk_cache_mean_floats(c) * sizeof(float));
  f->n_taken = 0;
}

/* ---- one layer ---- */

/* The stage begins with the tokens that the sequence's unfinished last page holds. */
static void stage_begin(const feed *f, const lk_layer_view *view) {
  if (f->t0 % LK_P == 0) return;
  const lk_page_entry from = f->seq->table[f->first_page], to = stage_entry(f, f->first_page);
  f->s->backend->ops->copy_pages(f->s->backend, view, &from, view, &to, 1);
}

/* Packs pages from *packed on until the middle ends at middle_end. */
static void pack_until(const feed *f, const lk_layer_view *view, size_t middle_end,
                       size_t *packed) {
  lk_backend *be = f->s->backend;
  const lk_attn_shape *shape = &f->s->cache.geometry.shape;
  const size_t n_mean = lk_cache_mean_floats(&f->s->cache);
  const size_t first = *packed, end = middle_end / LK_P;
  if (end <= first) return;
  be->ops->pack(be, shape, view, f->whole + first, view, f->table + first, end - first);
  if (f->sums)
    be->ops->sum_pages(be, shape, view, f->whole + first, end - first,
                       f->sums + (first - f->lean_begin) * n_mean);
  *packed = end;
}

/* The middle as row r sees it: as it was before the turn, or as a decode step finds it. */
static size_t row_middle_end(const feed *f, size_t r) {
  return f->options->mode == LEANK_FEED_TURN ? f->seq->middle_end
                                             : lk_middle_end(&f->s->cache.geometry, f->t0 + r + 1);
}

/* The page table of rows that see the middle end there. */
static void fill_table(const feed *f, size_t middle_end, lk_page_entry *table) {
  const lk_geometry *g = &f->s->cache.geometry;
  for (size_t p = 0; p < f->n_pages; p++) {
    const bool lean = lk_kind_of(g, p, middle_end) == LK_PAGE_LEAN;
    table[p] = lean && p >= f->lean_begin ? f->table[p] : f->whole[p];
  }
}

/* Cuts rows [row, row + n) of the prompt into groups of equal middle. */
static size_t make_groups(const feed *f, size_t row, size_t n) {
  const lk_geometry *g = &f->s->cache.geometry;
  const size_t n_mean = lk_cache_mean_floats(&f->s->cache);
  size_t n_groups = 0;
  for (size_t r = row; r < row + n;) {
    const size_t middle_end = row_middle_end(f, r);
    size_t end = r + 1;
    while (end < row + n && row_middle_end(f, end) == middle_end) end++;
    lk_page_entry *table = f->group_tables + n_groups * f->n_pages;
    fill_table(f, middle_end, table);
    float *mean = f->sums ? f->sums + (middle_end / LK_P - f->lean_begin) * n_mean : NULL;
    f->groups[n_groups++] = (lk_attend_group){.first_row = r - row,
                                              .n_rows = end - r,
                                              .first_pos = (int64_t)(f->t0 + r),
                                              .table = table,
                                              .middle_begin = g->n_sink,
                                              .n_middle = g->pruned ? middle_end - g->n_sink : 0,
                                              .mean = mean};
    r = end;
  }
  return n_groups;
}

static void add_stats(const feed *f, size_t layer, size_t n) {
  const leank_head_stats *st = f->options->stats;
  if (!st) return;
  const leank_model_info *m = &f->s->model->info;
  lk_backend *be = f->s->backend;
  const size_t at = layer * m->n_kv_heads * m->head_dim;
  if (st->k_sq || st->k_abs)
    be->ops->head_stats(be, f->forward.k, n, m->n_kv_heads, 1, m->head_dim, m->order,
                        st->k_abs ? st->k_abs + at : NULL, st->k_sq ? st->k_sq + at : NULL);
  if (st->q_sq)
    be->ops->head_stats(be, f->forward.q, n, m->n_kv_heads, m->n_heads / m->n_kv_heads, m->head_dim,
                        m->order, NULL, st->q_sq + at);
}

static void set_rows(feed *f, size_t row, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const size_t at = f->t0 + row + i;
    f->pos[i] = (int64_t)at;
    f->slots[i] = (lk_slot){stage_entry(f, at / LK_P), (uint32_t)(at % LK_P)};
  }
  f->rows = (lk_rows){.n_rows = n,
                      .tokens = f->tokens + row,
                      .pos = f->pos,
                      .slots = f->slots,
                      .groups = f->groups,
                      .n_groups = make_groups(f, row, n)};
}

static leank_status run_chunk(feed *f, const lk_layer_view *view, size_t layer, size_t row,
                              size_t n, size_t *packed, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = f->s->backend;
  const lk_attn_shape *shape = &f->s->cache.geometry.shape;
  float *x = f->x + row * f->s->model->info.hidden;
  set_rows(f, row, n);
  LK_TRY(be->ops->stage_rows(be, &f->rows, err));
  if (layer == 0) be->ops->embed(be, &f->s->model->weights.embed, &f->rows, x);
  lk_forward_positions(&f->forward, &f->rows);
  LK_TRY(lk_forward_project(&f->forward, LK_LINEAR_MANY, layer, x, n, err));
  add_stats(f, layer, n);
  be->ops->append(be, shape, view, &f->rows, 0, n, f->forward.k, f->forward.v);
  pack_until(f, view, row_middle_end(f, row + n - 1), packed);
  LK_TRY(be->ops->attend(be, LK_LINEAR_MANY, shape, view, &f->rows, 0, f->rows.n_groups,
                         f->forward.q, f->forward.attn, err));
  LK_TRY(lk_forward_finish(&f->forward, LK_LINEAR_MANY, layer, x, n, err));
cleanup:
  return status;
}

static leank_status run_layer(feed *f, size_t layer, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_session *s = f->s;
  lk_layer_view view = lk_cache_layer(&s->cache, layer, f->stage);
  view.mean_offset = 0; /* the sums are one layer's */
  const size_t n_mean = lk_cache_mean_floats(&s->cache);
  size_t packed = f->lean_begin;
  stage_begin(f, &view);
  if (f->sums)
    s->backend->ops->copy(s->backend, f->sums, f->seq->mean + layer * n_mean,
                          n_mean * sizeof(float));
  for (size_t row = 0; row < f->n_rows; row += f->chunk) {
    const size_t left = f->n_rows - row, n = left < f->chunk ? left : f->chunk;
    LK_FAIL_IF(atomic_load_explicit(&s->interrupted, memory_order_relaxed), err,
               LEANK_E_INTERRUPTED, -1, "interrupted after %zu of %zu layers", layer,
               s->model->info.n_layers);
    LK_TRY(run_chunk(f, &view, layer, row, n, &packed, err));
    if (f->options->on_progress)
      f->options->on_progress(f->options->user, (uint64_t)layer * f->n_rows + row + n,
                              (uint64_t)s->model->info.n_layers * f->n_rows);
  }
  pack_until(f, &view, lk_middle_end(&s->cache.geometry, f->t1), &packed);
  s->backend->ops->copy_pages(s->backend, &view, f->wide_from, &view, f->wide_to, f->n_wide);
  if (f->sums)
    s->backend->ops->copy(s->backend, f->mean + layer * n_mean,
                          f->sums + (f->lean_end - f->lean_begin) * n_mean, n_mean * sizeof(float));
cleanup:
  return status;
}

/* ---- what comes out ---- */

enum { OUTPUT_ROWS = 64 };

static leank_status give_rows(const feed *f, void (*to)(void *, size_t, size_t, const float *),
                              size_t row, size_t n, const float *values, size_t width,
                              leank_error *err) {
  const float *host = NULL;
  const leank_status status =
      f->s->backend->ops->to_host(f->s->backend, values, n * width, &host, err);
  if (status == LEANK_OK) to(f->options->user, row, n, host);
  return status;
}

/* Final hidden states and logits of every row, block by block. */
static leank_status output_rows(feed *f, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = f->s->backend;
  const leank_model_info *m = &f->s->model->info;
  const leank_feed_options *o = f->options;
  float *logits = NULL;
  if (!o->on_logits && !o->on_hidden) return LEANK_OK;
  if (o->on_logits) {
    logits = be->ops->alloc(be, LK_MEM_PREFILL, OUTPUT_ROWS * m->n_vocab * sizeof(float));
    LK_FAIL_IF(!logits, err, LEANK_E_MEMORY, -1, "out of memory for logits");
  }
  for (size_t row = 0; row < f->n_rows; row += OUTPUT_ROWS) {
    const size_t left = f->n_rows - row, n = left < OUTPUT_ROWS ? left : OUTPUT_ROWS;
    LK_FAIL_IF(atomic_load_explicit(&f->s->interrupted, memory_order_relaxed), err,
               LEANK_E_INTERRUPTED, -1, "interrupted at row %zu of the logits", row);
    LK_TRY(lk_forward_output(&f->forward, LK_LINEAR_MANY, f->x + row * m->hidden, n, logits, err));
    if (o->on_hidden) LK_TRY(give_rows(f, o->on_hidden, row, n, f->forward.norm, m->hidden, err));
    if (o->on_logits) LK_TRY(give_rows(f, o->on_logits, row, n, logits, m->n_vocab, err));
  }
cleanup:
  if (logits) be->ops->free(be, logits);
  return status;
}

/* Logits of the last row, or the largest, through the same kernels as a decode step. */
static leank_status output_last(feed *f, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_session *s = f->s;
  const leank_model_info *m = &s->model->info;
  const leank_feed_options *o = f->options;
  if (!o->logits && !o->next) return LEANK_OK;
  LK_TRY(lk_forward_output(&s->step.forward, LK_LINEAR_FEW, f->x + (f->n_rows - 1) * m->hidden, 1,
                           s->step.logits, err));
  if (o->logits) LK_TRY(lk_step_fetch_logits(s, 1, o->logits, err));
  if (!o->next) return LEANK_OK;
  s->backend->ops->argmax(s->backend, s->step.logits, 1, m->n_vocab, s->step.next);
  LK_TRY(lk_step_fetch_next(s, 1, o->next, err));
cleanup:
  return status;
}

leank_status leank_session_feed(leank_session *s, size_t seq, const leank_token *tokens,
                                size_t n_tokens, const leank_feed_options *options,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  leank_feed_options defaults;
  if (!s || !tokens) return lk_session_null(err);
  leank_feed_options_default(&defaults);
  feed f = {.s = s, .tokens = tokens, .n_rows = n_tokens, .options = options ? options : &defaults};
  f.seq = lk_session_sequence(s, seq, err);
  if (!f.seq) return LEANK_E_ARGUMENT;
  if (f.options->struct_size != sizeof *f.options)
    return lk_fail(err, LEANK_E_ARGUMENT, -1,
                   "feed options of %zu bytes: fill them with leank_feed_options_default",
                   f.options->struct_size);
  if (f.options->mode != LEANK_FEED_TURN && f.options->mode != LEANK_FEED_SCORE)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "unknown feed mode %d", (int)f.options->mode);
  status = check_feed(s, f.seq, tokens, n_tokens, err);
  if (status != LEANK_OK) return status;
  atomic_store_explicit(&s->interrupted, false, memory_order_relaxed);
  LK_TRY(feed_open(&f, err));
  for (size_t l = 0; l < s->model->info.n_layers; l++) LK_TRY(run_layer(&f, l, err));
  LK_TRY(output_rows(&f, err));
  LK_TRY(output_last(&f, err));
  LK_TRY(s->backend->ops->wait(s->backend, err));
  if (f.options->stats) f.options->stats->n_rows += n_tokens;
  feed_commit(&f);
cleanup:
  feed_close(&f);
  return status;
}
