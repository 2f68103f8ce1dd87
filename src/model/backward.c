#include "model/backward.h"

#include <string.h>

leank_status lk_backward_open(const leank_model *model, lk_backend *backend, size_t n_rows,
                              lk_backward *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &model->info;
  const size_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  lk_backward bw = {.model = model, .backend = backend};
  struct {
    float **buffer;
    size_t width;
  } buffers[] = {{&bw.dnorm, m->hidden},
                 {&bw.dact, m->ffn},
                 {&bw.dup, m->ffn},
                 {&bw.dattn, q},
                 {&bw.dq, q},
                 {&bw.dk, kv},
                 {&bw.dv, kv},
                 {&bw.cos_sin, m->head_dim}};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    const size_t n_bytes = n_rows * buffers[i].width * sizeof(float);
    *buffers[i].buffer = backend->ops->alloc(backend, LK_MEM_SCRATCH, n_bytes);
    LK_FAIL_IF(!*buffers[i].buffer, err, LEANK_E_MEMORY, -1,
               "out of memory: %zu bytes for gradients", n_bytes);
  }
  *out = bw;
cleanup:
  if (status != LEANK_OK) lk_backward_close(&bw);
  return status;
}

void lk_backward_close(lk_backward *bw) {
  if (!bw->backend) return;
  float *buffers[] = {bw->dnorm, bw->dact, bw->dup, bw->dattn, bw->dq, bw->dk, bw->dv, bw->cos_sin};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    if (buffers[i]) bw->backend->ops->free(bw->backend, buffers[i]);
  memset(bw, 0, sizeof *bw);
}

/* A rotation's transpose is the rotation by the negative angle; the factor of YaRN stays. */
leank_status lk_backward_positions(lk_backward *bw, const int64_t *pos, size_t n_rows,
                                   leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model *m = bw->model;
  int64_t *negated = lk_alloc(LK_MEM_SCRATCH, n_rows, sizeof *negated);
  LK_FAIL_IF(!negated, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n_rows; i++) negated[i] = -pos[i];
  const lk_rows rows = {.n_rows = n_rows, .pos = negated};
  LK_TRY(bw->backend->ops->stage_rows(bw->backend, &rows, err));
  bw->backend->ops->rope_table(bw->backend, m->inv_freq, m->rope_mscale, m->info.head_dim, &rows,
                               bw->cos_sin);
cleanup:
  lk_free(negated);
  return status;
}

void lk_backward_output(lk_backward *bw, const float *x, const float *dhidden, size_t n_rows,
                        float *dx) {
  const leank_model_info *m = &bw->model->info;
  bw->backend->ops->zero(bw->backend, dx, n_rows * m->hidden * sizeof(float));
  bw->backend->ops->rms_norm_backward(bw->backend, x, n_rows, m->hidden,
                                      &bw->model->weights.out_norm, (float)m->norm_eps, dhidden,
                                      dx);
}

leank_status lk_backward_finish(lk_backward *bw, size_t layer, const lk_layer_saved *saved,
                                size_t n_rows, float *dx, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &bw->model->info;
  const lk_layer_weights *w = &bw->model->weights.layers[layer];
  lk_backend *be = bw->backend;
  const lk_backend_ops *ops = be->ops;
  LK_TRY(ops->linear_backward(be, &w->down, dx, n_rows, false, bw->dact, err));
  ops->swiglu_backward(be, saved->gate, saved->up, n_rows * m->ffn, bw->dact, bw->dact, bw->dup);
  LK_TRY(ops->linear_backward(be, &w->gate, bw->dact, n_rows, false, bw->dnorm, err));
  LK_TRY(ops->linear_backward(be, &w->up, bw->dup, n_rows, true, bw->dnorm, err));
  ops->rms_norm_backward(be, saved->x_mid, n_rows, m->hidden, &w->ffn_norm, (float)m->norm_eps,
                         bw->dnorm, dx);
  LK_TRY(ops->linear_backward(be, &w->o, dx, n_rows, false, bw->dattn, err));
cleanup:
  return status;
}

leank_status lk_backward_project(lk_backward *bw, size_t layer, const lk_layer_saved *saved,
                                 size_t n_rows, float *dx, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &bw->model->info;
  const lk_layer_weights *w = &bw->model->weights.layers[layer];
  lk_backend *be = bw->backend;
  const lk_backend_ops *ops = be->ops;
  ops->rope(be, bw->dq, n_rows, m->n_heads, m->head_dim, m->order, bw->cos_sin);
  ops->rope(be, bw->dk, n_rows, m->n_kv_heads, m->head_dim, m->order, bw->cos_sin);
  LK_TRY(ops->linear_backward(be, &w->q, bw->dq, n_rows, false, bw->dnorm, err));
  LK_TRY(ops->linear_backward(be, &w->k, bw->dk, n_rows, true, bw->dnorm, err));
  LK_TRY(ops->linear_backward(be, &w->v, bw->dv, n_rows, true, bw->dnorm, err));
  ops->rms_norm_backward(be, saved->x_in, n_rows, m->hidden, &w->attn_norm, (float)m->norm_eps,
                         bw->dnorm, dx);
cleanup:
  return status;
}
