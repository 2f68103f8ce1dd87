/* Answer rows under channel weights: forward, and backward to the weights. Rows of several answers
 * go through the products together; each attends to its own context. */
#ifndef LK_LEARN_ANSWER_PASS_H
#define LK_LEARN_ANSWER_PASS_H

#include "learn/prefill.h"
#include "model/backward.h"

/* Where the middle ends for a row that finds T tokens:
 * n_sink + step * floor(max(0, T - n_sink - n_recent) / step), at least n_sink. */
typedef struct lk_split {
  size_t n_sink, n_recent;
  size_t step; /* P as deployed; 1: the window slides by token (the published training) */
} lk_split;

/* What the answer rows see of K. */
typedef struct lk_seen {
  const float *weight;          /* [L][Hk][D], the model's channel order, backend memory */
  const lk_weighted_kind *kind; /* [L][Hk] */
  lk_split split;
} lk_seen;

typedef struct lk_answer_pass {
  lk_prefill *prefill;
  size_t max_rows, max_answers;
  bool keeps; /* activations of every layer, for backward */
  lk_forward forward;
  lk_backward backward;
  lk_layer_saved *saved; /* [L] where keeps, else [1] */
  float *act;            /* [N][ffn] */
  float *x, *dx;         /* [N][hidden] */
  /* of the last forward */
  size_t n_rows, n_answers;
  lk_answer **answers; /* [n_answers] */
  lk_seen seen;
  leank_token *tokens;    /* [N] */
  int64_t *pos;           /* [N] */
  size_t *middle_end;     /* [N] */
  lk_slot *slots;         /* [N] */
  lk_rows staged;         /* of the three */
  lk_weighted_rows *rows; /* [n_answers] */
  lk_layer_view *views;   /* [n_answers] */
  float **sums;           /* [n_answers] [middle pages + 1][Hk][2][D] of one layer, or NULL */
  size_t *sums_pages;     /* [n_answers] room, in pages */
} lk_answer_pass;

/* Rows of up to max_answers answers, max_rows in all. LEANK_E_MEMORY. */
leank_status lk_answer_pass_open(lk_prefill *prefill, size_t max_rows, size_t max_answers,
                                 bool keeps, lk_answer_pass *out, leank_error *err);
void lk_answer_pass_close(lk_answer_pass *pass);
/* Bytes it takes. */
size_t lk_answer_pass_bytes(const leank_model_info *info, size_t max_rows, bool keeps);

/* The answers must have been read (prefill.h) and have rows. Hidden states after the last norm are
 * then in pass->forward.norm[N][hidden], in the order of the answers. *seen is copied; its arrays
 * must stand until backward is done. */
leank_status lk_answer_forward(lk_answer_pass *pass, lk_answer *const *answers, size_t n_answers,
                               const lk_seen *seen, leank_error *err);
/* From the gradient of those hidden states, dhidden[N][hidden] in backend memory:
 * dweight[L][Hk][D] (backend memory, the model's order) += gradient of the weights. */
leank_status lk_answer_backward(lk_answer_pass *pass, const float *dhidden, double *dweight,
                                leank_error *err);

#endif
