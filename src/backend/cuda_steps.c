/* Decode steps by GEMM on a CUDA device. What enters a product is rounded to bf16 where it is made,
 * and products of the same rows are one; always as many rows are multiplied. */
#include "backend/cuda.h"

/* The operand = RMSNorm of x[n_rows][n]. */
static leank_status norm_operand(lk_cuda_backend *cuda, const float *x, size_t n_rows, size_t n,
                                 const lk_norm *norm, leank_error *err) {
  const void *w = NULL;
  const leank_status status =
      lk_cuda_store_vector(cuda->store, norm->w->data, n * sizeof(float), &w, err);
  if (status == LEANK_OK) cuda->api->rms_norm_operand(cuda->dev, x, n_rows, n, w, norm->eps);
  return status;
}

/* The operand's products with `parts`, side by side in the rows of `to`; where there is one, in
 * rows of its own. Gated: what parts 0 and 1 make is the operand, `to` is room. */
static leank_status multiply_operand(lk_cuda_backend *cuda, const lk_linear_part *parts, size_t n,
                                     bool gated, size_t n_rows, float *to, leank_error *err) {
  lk_cuda_linear job = {.n_rows = cuda->options.max_few_rows, .gated = gated};
  const leank_status status = lk_cuda_fill_parts(cuda, parts, n, n_rows, &job, err);
  if (status != LEANK_OK) return status;
  for (size_t i = 0; i < n; i++) {
    job.parts[i].y = to + job.pitch;
    job.pitch += job.parts[i].n_out;
  }
  cuda->api->linear_many(cuda->dev, &job);
  return LEANK_OK;
}

leank_status lk_cuda_op_project_append(lk_backend *be, const lk_attn_shape *shape,
                                       const lk_layer_view *view, const lk_rows *rows,
                                       leank_channel_order order, const float *cos_sin,
                                       const lk_projection *p, const float *x, leank_error *err) {
  (void)shape;
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  lk_cuda_view own;
  if (!s || !lk_cuda_make_view(cuda, view, &own)) return lk_cuda_tell(cuda, err);
  const lk_linear_part *parts = p->parts;
  LK_TRY(norm_operand(cuda, x, rows->n_rows, parts->w->n_cols, &p->norm, err));
  LK_TRY(multiply_operand(cuda, parts, 3, false, rows->n_rows, p->room, err));
  cuda->api->rope_append_joint(cuda->dev, &own, p->room, parts[0].y, rows->n_rows,
                               order == LEANK_ORDER_PAIRS, cos_sin,
                               (const lk_slot *)(s->memory + s->slots));
cleanup:
  return status;
}

leank_status lk_cuda_op_mlp(lk_backend *be, const lk_mlp *mlp, size_t n_rows, float *x,
                            leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_linear_part both[] = {{.w = mlp->gate}, {.w = mlp->up}};
  const lk_linear_part down = {.w = mlp->down, .add = true};
  LK_TRY(norm_operand(cuda, x, n_rows, mlp->gate->n_cols, &mlp->norm, err));
  LK_TRY(multiply_operand(cuda, both, 2, true, n_rows, mlp->room, err));
  LK_TRY(multiply_operand(cuda, &down, 1, false, n_rows, x, err));
cleanup:
  return status;
}
