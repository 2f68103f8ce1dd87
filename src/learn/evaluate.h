/* Masks against the dense cache over answer rows: KL, hidden-state error, agreement, accuracy. */
#ifndef LK_LEARN_EVALUATE_H
#define LK_LEARN_EVALUATE_H

#include <leank/learn.h>

#include "base/parallel.h"
#include "learn/answer_pass.h"

/* What is known of one prompt under one mask, and dense. Sums over its answer rows. */
typedef struct lk_prompt_score {
  size_t n_rows, n_agree; /* rows; of them, rows whose likeliest token is the dense one */
  double kl, hidden;      /* KL(dense || mask); |H_full - H_mask|^2 / |H_full|^2 */
  bool right, dense_right;
} lk_prompt_score;

/* One mask's scores over all prompts so far. */
typedef struct lk_score {
  lk_prompt_score *prompts; /* [n_prompts] */
  size_t n_prompts;
  float *row_kl; /* [n_rows] */
  size_t n_rows;
} lk_score;

leank_status lk_score_open(size_t max_prompts, size_t max_rows, lk_score *out, leank_error *err);
void lk_score_close(lk_score *score);
/* Means and standard errors; k_kept and v_kept are left. Sorts row_kl. */
void lk_score_report(lk_score *score, leank_mask_report *out);

typedef struct lk_evaluator {
  lk_prefill *prefill;
  lk_team *team;
  lk_answer_pass pass;
  /* on the backend */
  float *hidden;         /* [masks][max_rows][hidden] */
  float *dense, *masked; /* [ROWS][V] logits */
  float *dense_rows;     /* [ROWS][hidden] */
  /* on the processor */
  float *p;                       /* [ROWS][V] dense probabilities */
  float *host_rows, *host_hidden; /* [ROWS][hidden] dense and under a mask */
  float *host_dense;              /* [ROWS][V] copy of dense; NULL where the processor reads it */
  size_t max_rows, max_masks;
} lk_evaluator;

enum { LK_EVAL_ROWS = 512 }; /* rows of a batch, unless an answer is longer */

/* Bytes that it takes of the backend's memory. */
size_t lk_evaluator_bytes(const leank_model_info *info, size_t max_rows, size_t max_masks);
/* For answers of a prefill whose longest has at most max_rows rows, up to max_masks masks at once.
 * LEANK_E_MEMORY. */
leank_status lk_evaluator_open(lk_prefill *prefill, size_t max_rows, size_t max_masks,
                               size_t n_threads, lk_evaluator *out, leank_error *err);
void lk_evaluator_close(lk_evaluator *evaluator);

/* Adds the answers (read before) to scores[n_masks], as seen by seen[n_masks]. LEANK_E_INTERRUPTED
 * where it is stopped. */
leank_status lk_evaluate(lk_evaluator *evaluator, lk_answer *const *answers, size_t n_answers,
                         const lk_seen *seen, size_t n_masks, lk_stop stop, lk_score *scores,
                         leank_error *err);

#endif
