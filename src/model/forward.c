#include "model/forward.h"

#include <string.h>

enum { ALIGNMENT = 64 /* floats: as alloc's own on every backend */ };

/* Where up begins in room. */
static size_t up_offset(const leank_model_info *m, size_t n_rows) {
  return (n_rows * m->ffn + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t room_floats(const leank_model_info *m, size_t n_rows) {
  const size_t gate_up = up_offset(m, n_rows) + n_rows * m->ffn;
  const size_t qkv = n_rows * (m->n_heads + 2 * m->n_kv_heads) * m->head_dim;
  return gate_up > qkv ? gate_up : qkv;
}

size_t lk_forward_bytes(const leank_model_info *m, size_t n_rows) {
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  const size_t n = n_rows * (m->hidden + 2 * q + 2 * kv + m->head_dim) + room_floats(m, n_rows);
  return n * sizeof(float);
}

size_t lk_forward_widest(const leank_model_info *info) {
  const size_t q = info->n_heads * info->head_dim;
  const size_t widest = info->ffn > info->hidden ? info->ffn : info->hidden;
  return widest > q ? widest : q;
}

leank_status lk_forward_open(const leank_model *model, lk_backend *backend, size_t n_rows,
                             lk_mem_category category, lk_forward *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &model->info;
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  lk_forward fw = {.model = model, .backend = backend, .n_rows = n_rows};
  const struct {
    float **buffer;
    size_t n_floats;
  } buffers[] = {{&fw.norm, n_rows * m->hidden},
                 {&fw.q, n_rows * q},
                 {&fw.k, n_rows * kv},
                 {&fw.v, n_rows * kv},
                 {&fw.attn, n_rows * q},
                 {&fw.room, room_floats(m, n_rows)},
                 {&fw.cos_sin, n_rows * m->head_dim}};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    const size_t n_bytes = buffers[i].n_floats * sizeof(float);
    *buffers[i].buffer = backend->ops->alloc(backend, category, n_bytes);
    LK_FAIL_IF(!*buffers[i].buffer, err, LEANK_E_MEMORY, -1,
               "out of memory: %zu bytes for activations", n_bytes);
  }
  fw.gate = fw.act = fw.room;
  fw.up = fw.room + up_offset(m, n_rows);
  *out = fw;
cleanup:
  if (status != LEANK_OK) lk_forward_close(&fw);
  return status;
}

void lk_forward_close(lk_forward *fw) {
  if (!fw->backend) return;
  float *buffers[] = {fw->norm, fw->q, fw->k, fw->v, fw->attn, fw->room, fw->cos_sin};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    if (buffers[i]) fw->backend->ops->free(fw->backend, buffers[i]);
  memset(fw, 0, sizeof *fw);
}

void lk_forward_positions(lk_forward *fw, const lk_rows *rows) {
  const leank_model *m = fw->model;
  fw->backend->ops->rope_table(fw->backend, m->inv_freq, m->rope_mscale, m->info.head_dim, rows,
                               fw->cos_sin);
}

/* Norms, and silu(gate) * up, are part of the products. */
static bool is_fused(const lk_forward *fw, lk_linear_kind kind) {
  return kind == LK_LINEAR_FEW && fw->backend->ops->norm_linear;
}

static lk_norm norm_of(const lk_forward *fw, const lk_tensor *w) {
  return (lk_norm){w, (float)fw->model->info.norm_eps};
}

static lk_projection projection(const lk_forward *fw, size_t layer) {
  const lk_layer_weights *w = &fw->model->weights.layers[layer];
  return (lk_projection){.norm = norm_of(fw, &w->attn_norm),
                         .parts = {{&w->q, &w->q_bias, fw->q, false},
                                   {&w->k, &w->k_bias, fw->k, false},
                                   {&w->v, &w->v_bias, fw->v, false}},
                         .room = fw->room};
}

/* x[N][hidden] -> q, k, v, before RoPE. */
static leank_status project(lk_forward *fw, lk_linear_kind kind, size_t layer, const float *x,
                            size_t n_rows, leank_error *err) {
  lk_backend *be = fw->backend;
  const lk_backend_ops *ops = be->ops;
  const lk_projection p = projection(fw, layer);
  if (is_fused(fw, kind)) return ops->norm_linear(be, p.parts, 3, &p.norm, x, n_rows, err);
  ops->rms_norm(be, x, n_rows, fw->model->info.hidden, p.norm.w, p.norm.eps, fw->norm);
  return ops->linear(be, kind, p.parts, 3, fw->norm, n_rows, err);
}

leank_status lk_forward_project(lk_forward *fw, lk_linear_kind kind, size_t layer, const float *x,
                                size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &fw->model->info;
  lk_backend *be = fw->backend;
  const lk_backend_ops *ops = be->ops;
  LK_TRY(project(fw, kind, layer, x, n_rows, err));
  ops->rope(be, fw->q, n_rows, m->n_heads, m->head_dim, m->order, fw->cos_sin);
  ops->rope(be, fw->k, n_rows, m->n_kv_heads, m->head_dim, m->order, fw->cos_sin);
cleanup:
  return status;
}

leank_status lk_forward_project_append(lk_forward *fw, const lk_attn_shape *shape,
                                       const lk_layer_view *view, const lk_rows *rows, size_t layer,
                                       const float *x, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_channel_order order = fw->model->info.order;
  lk_backend *be = fw->backend;
  const lk_backend_ops *ops = be->ops;
  if (ops->project_append) {
    const lk_projection p = projection(fw, layer);
    return ops->project_append(be, shape, view, rows, order, fw->cos_sin, &p, x, err);
  }
  LK_TRY(project(fw, LK_LINEAR_FEW, layer, x, rows->n_rows, err));
  ops->rope_append(be, shape, view, rows, order, fw->cos_sin, fw->q, fw->k, fw->v);
cleanup:
  return status;
}

leank_status lk_forward_attn_output(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                                    size_t n_rows, leank_error *err) {
  const lk_linear_part part = {&fw->model->weights.layers[layer].o, NULL, x, true};
  return fw->backend->ops->linear(fw->backend, kind, &part, 1, fw->attn, n_rows, err);
}

/* act of x. */
static leank_status activate(lk_forward *fw, lk_linear_kind kind, size_t layer, const float *x,
                             size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &fw->model->info;
  const lk_layer_weights *w = &fw->model->weights.layers[layer];
  lk_backend *be = fw->backend;
  const lk_backend_ops *ops = be->ops;
  const lk_norm norm = norm_of(fw, &w->ffn_norm);
  if (is_fused(fw, kind))
    return ops->norm_swiglu(be, &w->gate, &w->up, &norm, x, n_rows, fw->act, err);
  ops->rms_norm(be, x, n_rows, m->hidden, norm.w, norm.eps, fw->norm);
  const lk_linear_part both[] = {{&w->gate, NULL, fw->gate, false}, {&w->up, NULL, fw->up, false}};
  LK_TRY(ops->linear(be, kind, both, 2, fw->norm, n_rows, err));
  ops->swiglu(be, fw->gate, fw->up, n_rows * m->ffn, fw->act);
cleanup:
  return status;
}

leank_status lk_forward_ffn(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                            size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_layer_weights *w = &fw->model->weights.layers[layer];
  const lk_backend_ops *ops = fw->backend->ops;
  const lk_linear_part down = {&w->down, NULL, x, true};
  if (kind == LK_LINEAR_FEW && ops->mlp) {
    const lk_mlp mlp = {norm_of(fw, &w->ffn_norm), &w->gate, &w->up, &w->down, fw->room};
    return ops->mlp(fw->backend, &mlp, n_rows, x, err);
  }
  LK_TRY(activate(fw, kind, layer, x, n_rows, err));
  LK_TRY(ops->linear(fw->backend, kind, &down, 1, fw->act, n_rows, err));
cleanup:
  return status;
}

leank_status lk_forward_finish(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                               size_t n_rows, leank_error *err) {
  const leank_status status = lk_forward_attn_output(fw, kind, layer, x, n_rows, err);
  return status == LEANK_OK ? lk_forward_ffn(fw, kind, layer, x, n_rows, err) : status;
}

leank_status lk_forward_output(lk_forward *fw, lk_linear_kind kind, const float *x, size_t n_rows,
                               float *logits, leank_error *err) {
  const leank_model_info *m = &fw->model->info;
  const lk_weights *w = &fw->model->weights;
  lk_backend *be = fw->backend;
  be->ops->rms_norm(be, x, n_rows, m->hidden, &w->out_norm, (float)m->norm_eps, fw->norm);
  if (!logits) return LEANK_OK;
  const lk_linear_part part = {&w->output, NULL, logits, false};
  return be->ops->linear(be, kind, &part, 1, fw->norm, n_rows, err);
}
