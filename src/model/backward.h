/* The backward pass of one layer, around attention, beside forward.h: gradients of activations
 * only, weights are frozen. What lies between (attention) is the caller's. */
#ifndef LK_MODEL_BACKWARD_H
#define LK_MODEL_BACKWARD_H

#include "model/forward.h"

/* What the forward pass of one layer leaves for its backward pass. */
typedef struct lk_layer_saved {
  float *x_in;      /* [N][hidden] before the layer */
  float *x_mid;     /* [N][hidden] between attention and feed-forward */
  float *q;         /* [N][Hq][D] rotated */
  float *attn;      /* [N][Hq][D] */
  float *lse;       /* [N][Hq] */
  float *gate, *up; /* [N][ffn] */
} lk_layer_saved;

/* Buffers of up to n_rows rows. */
typedef struct lk_backward {
  const leank_model *model;
  lk_backend *backend;
  float *dnorm;      /* [N][hidden] */
  float *dact, *dup; /* [N][ffn] */
  float *dattn, *dq; /* [N][Hq][D] */
  float *dk, *dv;    /* [N][Hk][D] */
  float *cos_sin;    /* [N][2][D/2] of the positions negated: the rotation back */
} lk_backward;

leank_status lk_backward_open(const leank_model *model, lk_backend *backend, size_t n_rows,
                              lk_backward *out, leank_error *err);
void lk_backward_close(lk_backward *bw);

/* Of positions pos[N]; serves every layer. */
leank_status lk_backward_positions(lk_backward *bw, const int64_t *pos, size_t n_rows,
                                   leank_error *err);
/* dx[N][hidden]: from the gradient of the final hidden states (after the last norm) dhidden to that
 * of the last layer's output x. */
void lk_backward_output(lk_backward *bw, const float *x, const float *dhidden, size_t n_rows,
                        float *dx);
/* dx: from the gradient of the layer's output to that of x_mid; then bw->dattn[N][Hq][D]. */
leank_status lk_backward_finish(lk_backward *bw, size_t layer, const lk_layer_saved *saved,
                                size_t n_rows, float *dx, leank_error *err);
/* bw->dq, dk, dv (of rotated q, k; overwritten) -> dx: from the gradient of x_mid to that of x_in.
 */
leank_status lk_backward_project(lk_backward *bw, size_t layer, const lk_layer_saved *saved,
                                 size_t n_rows, float *dx, leank_error *err);

#endif
