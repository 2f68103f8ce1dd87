#include "learn/dense_walk.h"

/* One chunk of rows, which may span parts. */
typedef struct chunk {
  lk_forward forward;
  int64_t *pos;            /* [chunk] */
  lk_slot *slots;          /* [chunk] */
  lk_attend_group *groups; /* [parts] of which rows are in the chunk */
  lk_rows rows;            /* of these */
  size_t size;
} chunk;

static size_t count_rows(const lk_dense_part *parts, size_t n_parts) {
  size_t n = 0;
  for (size_t i = 0; i < n_parts; i++) n += parts[i].n_rows;
  return n;
}

static void chunk_close(chunk *c) {
  lk_forward_close(&c->forward);
  lk_free(c->pos);
  lk_free(c->slots);
  lk_free(c->groups);
}

static leank_status chunk_open(const lk_dense_walk *walk, size_t n_parts, size_t n_rows, chunk *out,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = walk->backend;
  const size_t tile = be->ops->row_tile;
  const size_t most = (walk->chunk + tile - 1) / tile * tile;
  chunk c = {.size = n_rows < most ? (n_rows + tile - 1) / tile * tile : most};
  c.pos = lk_alloc(LK_MEM_PREFILL, c.size, sizeof *c.pos);
  c.slots = lk_alloc(LK_MEM_PREFILL, c.size, sizeof *c.slots);
  c.groups = lk_alloc(LK_MEM_PREFILL, n_parts, sizeof *c.groups);
  LK_FAIL_IF(!c.pos || !c.slots || !c.groups, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(lk_forward_open(walk->model, be, c.size, LK_MEM_PREFILL, &c.forward, err));
  LK_TRY(be->ops->reserve_rows(be, c.size, lk_forward_widest(&walk->model->info), err));
  *out = c;
cleanup:
  if (status != LEANK_OK) chunk_close(&c);
  return status;
}

static lk_layer_view part_view(const lk_dense_walk *walk, const lk_dense_part *p, size_t layer) {
  lk_layer_view view = {.heads = walk->heads};
  for (int k = 0; k < LK_N_PAGE_KINDS; k++) {
    view.arena[k] = p->arena[k] ? p->arena[k] + layer * p->layer_stride[k] : NULL;
    view.page_bytes[k] = walk->page_bytes;
  }
  return view;
}

/* What of a part lies in rows [row, row + n) of the walk: part rows [first, first + count), which
 * are chunk rows from `at` on. Part begins at walk row `begin`. */
typedef struct slice {
  size_t first, count, at;
} slice;

static slice slice_of(const lk_dense_part *p, size_t begin, size_t row, size_t n) {
  const size_t lo = row > begin ? row : begin;
  const size_t hi = row + n < begin + p->n_rows ? row + n : begin + p->n_rows;
  return hi > lo ? (slice){lo - begin, hi - lo, lo - row} : (slice){0};
}

static void set_rows(const lk_dense_part *parts, size_t n_parts, size_t row, size_t n, chunk *c) {
  c->rows = (lk_rows){.n_rows = n, .pos = c->pos, .slots = c->slots, .groups = c->groups};
  for (size_t i = 0, begin = 0; i < n_parts; begin += parts[i++].n_rows) {
    const slice s = slice_of(&parts[i], begin, row, n);
    for (size_t r = 0; r < s.count; r++) {
      const size_t pos = parts[i].first_pos + s.first + r;
      c->pos[s.at + r] = (int64_t)pos;
      c->slots[s.at + r] =
          (lk_slot){parts[i].table[pos / LEANK_PAGE_TOKENS], (uint32_t)(pos % LEANK_PAGE_TOKENS)};
    }
    if (s.count > 0)
      c->groups[c->rows.n_groups++] =
          (lk_attend_group){.first_row = s.at,
                            .n_rows = s.count,
                            .first_pos = (int64_t)(parts[i].first_pos + s.first),
                            .table = parts[i].table};
  }
}

static leank_status attend_parts(const lk_dense_walk *walk, const lk_dense_part *parts,
                                 size_t n_parts, size_t layer, size_t row, size_t n, chunk *c,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = walk->backend;
  const lk_attn_shape *shape = walk->shape;
  size_t group = 0;
  for (size_t i = 0, begin = 0; i < n_parts; begin += parts[i++].n_rows) {
    const slice s = slice_of(&parts[i], begin, row, n);
    if (s.count == 0) continue;
    const lk_layer_view view = part_view(walk, &parts[i], layer);
    be->ops->append(be, shape, &view, &c->rows, s.at, s.count, c->forward.k, c->forward.v);
    LK_TRY(be->ops->attend(be, LK_LINEAR_MANY, shape, &view, &c->rows, group++, 1, c->forward.q,
                           c->forward.attn, err));
  }
cleanup:
  return status;
}

static void begin_layer(const lk_dense_walk *walk, const lk_dense_part *parts, size_t n_parts,
                        size_t layer) {
  const lk_page_entry to = {0, LK_PAGE_STAGE};
  for (size_t i = 0; i < n_parts; i++) {
    if (!parts[i].begins_in_page) continue;
    const lk_layer_view view = part_view(walk, &parts[i], layer);
    walk->backend->ops->copy_pages(walk->backend, &view, &parts[i].first_from, &view, &to, 1);
  }
}

static leank_status run_layer(const lk_dense_walk *walk, const lk_dense_part *parts, size_t n_parts,
                              size_t layer, size_t n_rows, chunk *c, float *x, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t hidden = walk->model->info.hidden;
  begin_layer(walk, parts, n_parts, layer);
  for (size_t row = 0; row < n_rows; row += c->size) {
    const size_t n = n_rows - row < c->size ? n_rows - row : c->size;
    LK_FAIL_IF(lk_stopped(walk->stop), err, LEANK_E_INTERRUPTED, -1,
               "interrupted while reading contexts");
    set_rows(parts, n_parts, row, n, c);
    LK_TRY(walk->backend->ops->stage_rows(walk->backend, &c->rows, err));
    lk_forward_positions(&c->forward, &c->rows);
    LK_TRY(lk_forward_project(&c->forward, LK_LINEAR_MANY, layer, x + row * hidden, n, err));
    LK_TRY(attend_parts(walk, parts, n_parts, layer, row, n, c, err));
    LK_TRY(lk_forward_finish(&c->forward, LK_LINEAR_MANY, layer, x + row * hidden, n, err));
    if (walk->on_progress)
      walk->on_progress(walk->user, walk->done_before + layer * n_rows + row + n, walk->total);
  }
cleanup:
  return status;
}

leank_status lk_dense_walk_run(const lk_dense_walk *walk, const lk_dense_part *parts,
                               size_t n_parts, float *x, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_rows = count_rows(parts, n_parts), hidden = walk->model->info.hidden;
  lk_backend *be = walk->backend;
  chunk c = {0};
  LK_TRY(chunk_open(walk, n_parts, n_rows, &c, err));
  for (size_t i = 0, row = 0; i < n_parts; row += parts[i++].n_rows) {
    const lk_rows part = {.n_rows = parts[i].n_rows, .tokens = parts[i].tokens};
    LK_TRY(be->ops->stage_rows(be, &part, err));
    be->ops->embed(be, &walk->model->weights.embed, &part, x + row * hidden);
  }
  for (size_t l = 0; l < walk->model->info.n_layers; l++)
    LK_TRY(run_layer(walk, parts, n_parts, l, n_rows, &c, x, err));
cleanup:
  chunk_close(&c);
  return status;
}
