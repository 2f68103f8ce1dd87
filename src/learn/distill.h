/* The distillation loss of answer rows under channel weights, and its gradient to their final
 * hidden states. Two losses, alone or added: hidden: mean over rows and hidden of (H_full - H)^2
 * (leank paper, section 3.1), over a scale; logits: mean over rows of KL(softmax(W H_full) ||
 * softmax(W H)), W the output matrix (the usual loss of distillation: Hinton et al. 2015, at
 * temperature 1). */
#ifndef LK_LEARN_DISTILL_H
#define LK_LEARN_DISTILL_H

#include <leank/learn.h>

#include "base/parallel.h"
#include "learn/answer_pass.h"

typedef struct lk_distiller {
  const leank_model *model;
  lk_backend *backend;
  leank_loss loss;
  double scale;               /* of hidden: the squares are divided by it */
  float *dhidden;             /* [max_rows][hidden] backend: the gradient */
  float *host, *host_dhidden; /* [max_rows][hidden]: hidden states; the gradient */
  /* logits only */
  lk_team *team;
  float *full_rows;             /* [ROWS][hidden] backend: dense hidden states */
  float *full, *seen;           /* [ROWS][V] backend: logits; then seen: their gradient */
  float *host_full, *host_seen; /* [ROWS][V] */
} lk_distiller;

/* For passes of up to max_rows rows. LEANK_E_MEMORY. */
leank_status lk_distiller_open(const leank_model *model, lk_backend *backend, leank_loss loss,
                               double scale, size_t max_rows, size_t n_threads, lk_distiller *out,
                               leank_error *err);
void lk_distiller_close(lk_distiller *distiller);
/* Bytes it takes of the backend's memory. */
size_t lk_distiller_bytes(const leank_model_info *info, leank_loss loss, size_t max_rows);

/* The loss of the pass's rows as last computed; its gradient is then in distiller->dhidden. */
leank_status lk_distill(lk_distiller *distiller, const lk_answer_pass *pass, double *loss,
                        leank_error *err);

#endif
