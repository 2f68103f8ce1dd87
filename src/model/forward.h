/* The forward pass of one layer, around attention: written once, against the backend table. What
 * lies between project and finish (cache, attention) is the session's. */
#ifndef LK_MODEL_FORWARD_H
#define LK_MODEL_FORWARD_H

#include "backend/backend.h"
#include "model/model.h"

/* Activations of up to n_rows rows. */
typedef struct lk_forward {
  const leank_model *model;
  lk_backend *backend;
  size_t n_rows;
  float *norm;      /* [N][hidden]; as gate and up not used where products are fused */
  float *q, *k, *v; /* [N][Hq][D], [N][Hk][D], [N][Hk][D] */
  float *attn;      /* [N][Hq][D] */
  float *gate, *up; /* [N][ffn], inside of room */
  float *room;      /* [N][2 ffn or Hq D + 2 Hk D, whichever is more], each of the two aligned */
  float *act;     /* [N][ffn] silu(gate) * up; gate itself unless the caller sets another buffer */
  float *cos_sin; /* [N][2][D/2] */
} lk_forward;

leank_status lk_forward_open(const leank_model *model, lk_backend *backend, size_t n_rows,
                             lk_mem_category category, lk_forward *out, leank_error *err);
void lk_forward_close(lk_forward *fw);
/* Bytes of the buffers above. */
size_t lk_forward_bytes(const leank_model_info *info, size_t n_rows);

/* The widest activation row that enters a product. */
size_t lk_forward_widest(const leank_model_info *info);

/* Rotary tables of the rows' positions (staged); serves every layer. */
void lk_forward_positions(lk_forward *fw, const lk_rows *rows);
/* x[N][hidden] -> q, k (rotated), v. */
leank_status lk_forward_project(lk_forward *fw, lk_linear_kind kind, size_t layer, const float *x,
                                size_t n_rows, leank_error *err);
/* Of a decode step: x[N][hidden] -> q (rotated); k, rotated, and v go to the rows' slots. k and v
 * are of no meaning afterwards. */
leank_status lk_forward_project_append(lk_forward *fw, const lk_attn_shape *shape,
                                       const lk_layer_view *view, const lk_rows *rows, size_t layer,
                                       const float *x, leank_error *err);
/* attn -> x += o(attn). */
leank_status lk_forward_attn_output(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                                    size_t n_rows, leank_error *err);
/* x += mlp(x). */
leank_status lk_forward_ffn(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                            size_t n_rows, leank_error *err);
/* Both: the rest of a layer behind attention. */
leank_status lk_forward_finish(lk_forward *fw, lk_linear_kind kind, size_t layer, float *x,
                               size_t n_rows, leank_error *err);
/* x -> norm (final hidden states) and, where logits is not NULL, logits[N][V]. */
leank_status lk_forward_output(lk_forward *fw, lk_linear_kind kind, const float *x, size_t n_rows,
                               float *logits, leank_error *err);

#endif
