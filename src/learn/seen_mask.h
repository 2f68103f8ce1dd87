/* What answer rows see under alpha, and under a rounded mask. */
#ifndef LK_LEARN_SEEN_MASK_H
#define LK_LEARN_SEEN_MASK_H

#include "learn/answer_pass.h"

/* Weights and kinds of heads, to be pointed to by an lk_seen. */
typedef struct lk_seen_mask {
  lk_backend *backend;
  size_t n_layers, n_kv_heads, head_dim;
  leank_channel_order order;
  float *weight;          /* [L][Hk][D], the model's order, backend memory */
  float *host;            /* the same, host memory */
  lk_weighted_kind *kind; /* [L][Hk] */
} lk_seen_mask;

leank_status lk_seen_mask_open(const leank_model_info *info, lk_backend *backend, lk_seen_mask *out,
                               leank_error *err);
void lk_seen_mask_close(lk_seen_mask *seen);

/* Everything as it is: all weights 1. */
void lk_seen_mask_set_dense(lk_seen_mask *seen);
/* Stage 1: alpha[L][Hk][D] in half order; mean: the mean stands in for what is weighted down. */
void lk_seen_mask_set_alpha(lk_seen_mask *seen, const float *alpha, bool mean);
/* As deployed: kept[L][Hk][D] in half order. zero_logits: heads that keep nothing are seen with
 * logit 0 (the published training) instead. */
void lk_seen_mask_set_kept(lk_seen_mask *seen, const uint8_t *kept, leank_policy policy,
                           bool mean_compensation, bool zero_logits);

static inline lk_seen lk_seen_of(const lk_seen_mask *mask, lk_split split) {
  return (lk_seen){mask->weight, mask->kind, split};
}

#endif
