#include "learn/answer_pass.h"

#include <string.h>

enum { P = LEANK_PAGE_TOKENS };

/* ---- buffers ---- */

static size_t saved_floats(const leank_model_info *m) {
  return 2 * m->hidden + 2 * m->n_heads * m->head_dim + m->n_heads + 2 * m->ffn;
}

size_t lk_answer_pass_bytes(const leank_model_info *m, size_t max_rows, bool keeps) {
  const size_t n_saved = keeps ? m->n_layers : 1;
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  const size_t backward = keeps ? 2 * m->hidden + 2 * m->ffn + 2 * q + 2 * kv : 0;
  return lk_forward_bytes(m, max_rows) +
         max_rows * sizeof(float) * (n_saved * saved_floats(m) + m->ffn + m->hidden + backward);
}

static leank_status open_saved(lk_answer_pass *pass, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = pass->prefill->backend;
  const leank_model_info *m = &pass->prefill->model->info;
  const size_t q = m->n_heads * m->head_dim, n_saved = pass->keeps ? m->n_layers : 1;
  pass->saved = lk_alloc(LK_MEM_OTHER, n_saved, sizeof *pass->saved);
  LK_FAIL_IF(!pass->saved, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t l = 0; l < n_saved; l++) {
    float *all =
        be->ops->alloc(be, LK_MEM_SCRATCH, pass->max_rows * saved_floats(m) * sizeof(float));
    LK_FAIL_IF(!all, err, LEANK_E_MEMORY, -1, "out of memory for the activations of %zu rows",
               pass->max_rows);
    lk_layer_saved *s = &pass->saved[l];
    s->x_in = all;
    s->x_mid = s->x_in + pass->max_rows * m->hidden;
    s->q = s->x_mid + pass->max_rows * m->hidden;
    s->attn = s->q + pass->max_rows * q;
    s->gate = s->attn + pass->max_rows * q;
    s->up = s->gate + pass->max_rows * m->ffn;
    s->lse = s->up + pass->max_rows * m->ffn; /* last: the others stay aligned */
  }
cleanup:
  return status;
}

static leank_status open_lists(lk_answer_pass *pass, leank_error *err) {
  const size_t n = pass->max_rows, n_answers = pass->max_answers;
  pass->tokens = lk_alloc(LK_MEM_OTHER, n, sizeof *pass->tokens);
  pass->pos = lk_alloc(LK_MEM_OTHER, n, sizeof *pass->pos);
  pass->middle_end = lk_alloc(LK_MEM_OTHER, n, sizeof *pass->middle_end);
  pass->slots = lk_alloc(LK_MEM_OTHER, n, sizeof *pass->slots);
  pass->answers = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *pass->answers);
  pass->rows = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *pass->rows);
  pass->views = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *pass->views);
  pass->sums = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *pass->sums);
  pass->sums_pages = lk_alloc(LK_MEM_OTHER, n_answers, sizeof *pass->sums_pages);
  if (pass->tokens && pass->pos && pass->middle_end && pass->slots && pass->answers && pass->rows &&
      pass->views && pass->sums && pass->sums_pages)
    return LEANK_OK;
  return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
}

leank_status lk_answer_pass_open(lk_prefill *prefill, size_t max_rows, size_t max_answers,
                                 bool keeps, lk_answer_pass *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = prefill->backend;
  const leank_model_info *m = &prefill->model->info;
  lk_answer_pass pass = {
      .prefill = prefill, .max_rows = max_rows, .max_answers = max_answers, .keeps = keeps};
  const size_t x_bytes = max_rows * m->hidden * sizeof(float);
  LK_TRY(lk_forward_open(prefill->model, be, max_rows, LK_MEM_SCRATCH, &pass.forward, err));
  LK_TRY(open_saved(&pass, err));
  LK_TRY(open_lists(&pass, err));
  pass.act = be->ops->alloc(be, LK_MEM_SCRATCH, max_rows * m->ffn * sizeof(float));
  pass.x = be->ops->alloc(be, LK_MEM_SCRATCH, x_bytes);
  LK_FAIL_IF(!pass.act || !pass.x, err, LEANK_E_MEMORY, -1, "out of memory for answer rows");
  if (keeps) {
    LK_TRY(lk_backward_open(prefill->model, be, max_rows, &pass.backward, err));
    pass.dx = be->ops->alloc(be, LK_MEM_SCRATCH, x_bytes);
    LK_FAIL_IF(!pass.dx, err, LEANK_E_MEMORY, -1, "out of memory for answer rows");
  }
  *out = pass;
cleanup:
  if (status != LEANK_OK) lk_answer_pass_close(&pass);
  return status;
}

static void give_back(lk_backend *be, void *p) {
  if (p) be->ops->free(be, p);
}

void lk_answer_pass_close(lk_answer_pass *pass) {
  if (!pass->prefill) return;
  lk_backend *be = pass->prefill->backend;
  const size_t n_saved = pass->keeps ? pass->prefill->model->info.n_layers : 1;
  lk_forward_close(&pass->forward);
  lk_backward_close(&pass->backward);
  for (size_t l = 0; pass->saved && l < n_saved; l++) give_back(be, pass->saved[l].x_in);
  give_back(be, pass->act);
  give_back(be, pass->x);
  give_back(be, pass->dx);
  for (size_t i = 0; pass->sums && i < pass->max_answers; i++) give_back(be, pass->sums[i]);
  void *lists[] = {pass->saved,   pass->tokens, pass->pos,   pass->middle_end, pass->slots,
                   pass->answers, pass->rows,   pass->views, pass->sums,       pass->sums_pages};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) lk_free(lists[i]);
  memset(pass, 0, sizeof *pass);
}

/* ---- forward ---- */

static size_t middle_end(const lk_split *s, size_t n_tokens) {
  const size_t full = s->n_sink + s->n_recent;
  return n_tokens <= full ? s->n_sink : s->n_sink + (n_tokens - full) / s->step * s->step;
}

static void list_rows(lk_answer_pass *pass, lk_answer *const *answers, size_t n_answers) {
  size_t row = 0;
  for (size_t i = 0; i < n_answers; i++) {
    const lk_answer *a = pass->answers[i] = answers[i];
    pass->rows[i] = (lk_weighted_rows){.view = &pass->views[i],
                                       .table = a->table,
                                       .first_row = row,
                                       .n_rows = a->n_rows,
                                       .first_pos = (int64_t)a->first_pos,
                                       .middle_begin = pass->seen.split.n_sink,
                                       .middle_end = pass->middle_end + row};
    for (size_t r = 0; r < a->n_rows; r++, row++) {
      const size_t pos = a->first_pos + r;
      pass->tokens[row] = a->question->answer[r];
      pass->pos[row] = (int64_t)pos;
      pass->slots[row] = (lk_slot){a->table[pos / P], (uint32_t)(pos % P)};
      pass->middle_end[row] = middle_end(&pass->seen.split, pos + 1);
    }
  }
  pass->n_rows = row;
  pass->n_answers = n_answers;
}

/* Room for the sums over the middle of every answer, where some head wants its mean. */
static leank_status reserve_sums(lk_answer_pass *pass, leank_error *err) {
  lk_backend *be = pass->prefill->backend;
  const lk_attn_shape *shape = &pass->prefill->shape;
  const size_t entry = shape->n_kv_heads * 2 * shape->head_dim;
  bool wanted = false;
  for (size_t i = 0; i < pass->prefill->model->info.n_layers * shape->n_kv_heads; i++)
    wanted = wanted || pass->seen.kind[i] == LK_WEIGHTED_MEAN;
  for (size_t i = 0; i < pass->n_answers; i++) {
    lk_weighted_rows *rows = &pass->rows[i];
    rows->sums = NULL;
    if (!wanted) continue;
    const size_t n = (rows->middle_end[rows->n_rows - 1] - rows->middle_begin) / P + 1;
    if (pass->sums_pages[i] < n) {
      give_back(be, pass->sums[i]);
      pass->sums_pages[i] = 0;
      pass->sums[i] = be->ops->alloc(be, LK_MEM_SCRATCH, n * entry * sizeof(float));
      if (!pass->sums[i]) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory for means");
      pass->sums_pages[i] = n;
    }
    rows->sums = pass->sums[i];
  }
  return LEANK_OK;
}

static lk_channel_weights layer_weights(const lk_answer_pass *pass, size_t layer) {
  const lk_attn_shape *s = &pass->prefill->shape;
  return (lk_channel_weights){pass->seen.weight + layer * s->n_kv_heads * s->head_dim,
                              pass->seen.kind + layer * s->n_kv_heads};
}

static void view_layer(lk_answer_pass *pass, size_t layer) {
  for (size_t i = 0; i < pass->n_answers; i++)
    pass->views[i] = lk_answer_view(pass->prefill, pass->answers[i], layer);
}

/* The sums over the middle, where wanted, of the layer in view. */
static void sum_middles(lk_answer_pass *pass) {
  lk_backend *be = pass->prefill->backend;
  const lk_attn_shape *shape = &pass->prefill->shape;
  for (size_t i = 0; i < pass->n_answers; i++) {
    const lk_weighted_rows *rows = &pass->rows[i];
    if (!rows->sums) continue;
    const size_t first = rows->middle_begin / P;
    const size_t n = (rows->middle_end[rows->n_rows - 1] - rows->middle_begin) / P;
    be->ops->zero(be, pass->sums[i], shape->n_kv_heads * 2 * shape->head_dim * sizeof(float));
    be->ops->sum_pages(be, shape, rows->view, rows->table + first, n, pass->sums[i]);
  }
}

static void append_rows(lk_answer_pass *pass) {
  lk_backend *be = pass->prefill->backend;
  const lk_attn_shape *shape = &pass->prefill->shape;
  for (size_t i = 0; i < pass->n_answers; i++) {
    const lk_weighted_rows *rows = &pass->rows[i];
    be->ops->append(be, shape, rows->view, &pass->staged, rows->first_row, rows->n_rows,
                    pass->forward.k, pass->forward.v);
  }
}

static leank_status forward_layer(lk_answer_pass *pass, size_t layer, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = pass->prefill->backend;
  const size_t x_bytes = pass->n_rows * pass->prefill->model->info.hidden * sizeof(float);
  const lk_layer_saved *saved = &pass->saved[pass->keeps ? layer : 0];
  const lk_channel_weights weights = layer_weights(pass, layer);
  lk_forward fw = pass->forward; /* writes what is saved where it is saved */
  fw.q = saved->q;
  fw.attn = saved->attn;
  fw.gate = saved->gate;
  fw.up = saved->up;
  fw.act = pass->act;
  be->ops->copy(be, saved->x_in, pass->x, x_bytes);
  LK_TRY(lk_forward_project(&fw, LK_LINEAR_PRECISE, layer, pass->x, pass->n_rows, err));
  view_layer(pass, layer);
  append_rows(pass);
  sum_middles(pass);
  LK_TRY(be->ops->attend_weighted(be, &pass->prefill->shape, &weights, pass->rows, pass->n_answers,
                                  fw.q, fw.attn, saved->lse, err));
  LK_TRY(lk_forward_attn_output(&fw, LK_LINEAR_PRECISE, layer, pass->x, pass->n_rows, err));
  be->ops->copy(be, saved->x_mid, pass->x, x_bytes);
  LK_TRY(lk_forward_ffn(&fw, LK_LINEAR_PRECISE, layer, pass->x, pass->n_rows, err));
cleanup:
  return status;
}

leank_status lk_answer_forward(lk_answer_pass *pass, lk_answer *const *answers, size_t n_answers,
                               const lk_seen *seen, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model *model = pass->prefill->model;
  lk_backend *be = pass->prefill->backend;
  pass->seen = *seen;
  LK_TRY(lk_prefill_hold(pass->prefill, answers, n_answers, err));
  list_rows(pass, answers, n_answers);
  LK_TRY(reserve_sums(pass, err));
  pass->staged = (lk_rows){
      .n_rows = pass->n_rows, .tokens = pass->tokens, .pos = pass->pos, .slots = pass->slots};
  LK_TRY(be->ops->stage_rows(be, &pass->staged, err));
  be->ops->embed(be, &model->weights.embed, &pass->staged, pass->x);
  lk_forward_positions(&pass->forward, &pass->staged);
  for (size_t l = 0; l < model->info.n_layers; l++) LK_TRY(forward_layer(pass, l, err));
  LK_TRY(lk_forward_output(&pass->forward, LK_LINEAR_PRECISE, pass->x, pass->n_rows, NULL, err));
cleanup:
  return status;
}

/* ---- backward ---- */

static leank_status backward_layer(lk_answer_pass *pass, size_t layer, double *dweight,
                                   leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = pass->prefill->backend;
  const lk_attn_shape *shape = &pass->prefill->shape;
  const lk_layer_saved *saved = &pass->saved[layer];
  const lk_channel_weights weights = layer_weights(pass, layer);
  lk_backward *bw = &pass->backward;
  LK_TRY(lk_backward_finish(bw, layer, saved, pass->n_rows, pass->dx, err));
  view_layer(pass, layer);
  sum_middles(pass);
  LK_TRY(be->ops->attend_weighted_backward(
      be, shape, &weights, pass->rows, pass->n_answers, saved->q, saved->attn, saved->lse,
      bw->dattn, bw->dq, bw->dk, bw->dv, dweight + layer * shape->n_kv_heads * shape->head_dim,
      err));
  /* Nothing before the first layer has weights to learn. */
  if (layer > 0) LK_TRY(lk_backward_project(bw, layer, saved, pass->n_rows, pass->dx, err));
cleanup:
  return status;
}

leank_status lk_answer_backward(lk_answer_pass *pass, const float *dhidden, double *dweight,
                                leank_error *err) {
  leank_status status = LEANK_OK;
  LK_TRY(lk_backward_positions(&pass->backward, pass->pos, pass->n_rows, err));
  lk_backward_output(&pass->backward, pass->x, dhidden, pass->n_rows, pass->dx);
  for (size_t l = pass->prefill->model->info.n_layers; l-- > 0;)
    LK_TRY(backward_layer(pass, l, dweight, err));
cleanup:
  return status;
}
