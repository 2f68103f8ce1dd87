/* Scores of K channels that need no training. */
#ifndef LEANK_CLI_MASK_SCORES_H
#define LEANK_CLI_MASK_SCORES_H

#include "cli_engine.h"

typedef enum mask_score_method {
  MASK_SCORE_RANDOM = 0,
  MASK_SCORE_MAGNITUDE, /* mean of |k_c| */
  MASK_SCORE_ENERGY,    /* mean of q_c^2 times mean of k_c^2 */
  MASK_SCORE_FREQUENCY  /* the lowest RoPE frequencies stay */
} mask_score_method;

/* By method, with a NULL at the end. */
extern const char *const mask_score_names[];
bool mask_score_needs_text(mask_score_method method);

/* scores[L][Hk][D], half order, larger = keep. stats may be NULL where no text is needed; the seed
 * is that of random. The energy of a group of query heads is their mean. */
void mask_scores_fill(const leank_model_info *model, mask_score_method method,
                      const leank_head_stats *stats, uint64_t seed, float *scores);

/* Sums of 0 for all channels of a model; mask_scores_free frees. */
leank_head_stats mask_scores_open(const leank_model_info *model);
/* One dense prefill of the first n_tokens of a text (NULL: the built-in prose). Complains and
 * returns cli_fail's code or CLI_INTERRUPTED, else CLI_GO. mask_scores_free is due in either case.
 */
int mask_scores_measure(const cli_engine *engine, const char *path, size_t n_tokens,
                        leank_head_stats *stats, size_t *n_used);
void mask_scores_free(leank_head_stats *stats);

#endif
