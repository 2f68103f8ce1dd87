/* What masks and models tell of each other: the findings of the paper, looked for. */
#ifndef LEANK_CLI_ANALYSIS_H
#define LEANK_CLI_ANALYSIS_H

#include <jansson.h>

#include "cli_engine.h"
#include "cli_console.h"
#include "eval_variants.h"
#include "mask_counts.h"

enum { ANALYSIS_MAX_RATIOS = 9, ANALYSIS_QUARTERS = 4 };

/* Importances [L][Hk][D] of all channels: a mask's alphas, or the energy of a task's prompts. */
typedef struct importance {
  char *name;
  float *scores;
} importance;

/* A RoPE pair that is kept by many more heads than its neighbours. */
typedef struct pair_exception {
  size_t pair;
  double share, neighbours; /* of heads that keep a channel of it; mean of the two on each side */
} pair_exception;

typedef struct mask_analysis {
  const char *name;
  const leank_mask *mask;
  mask_counts counts;
  double quarters[ANALYSIS_QUARTERS]; /* share of channels kept, by frequency, the highest first */
  pair_exception *exceptions;         /* [n_exceptions], the largest share first */
  size_t n_exceptions;
} mask_analysis;

/* KL at ratios, by what channels are ranked by. */
typedef struct removal_curve {
  const char *name;               /* "alpha", "magnitude", "energy" */
  double kl[ANALYSIS_MAX_RATIOS]; /* nats, mean over rows */
} removal_curve;

typedef struct analysis {
  const cli_engine *engine;
  const char *title;
  mask_analysis *masks; /* [n_masks] */
  size_t n_masks;
  importance *list; /* [n] alphas of masks first, then tasks */
  size_t n;
  double *correlation;                     /* [n][n] Spearman's */
  double *head_energy;                     /* [L][Hk] of all prompts, or NULL */
  double streaming_auc[EVAL_MAX_VARIANTS]; /* by mask; NAN where it has no streaming head */
  double ratios[ANALYSIS_MAX_RATIOS];
  size_t n_ratios;
  removal_curve curves[3];
  size_t n_curves;
} analysis;

/* Spearman's rank correlation; ties take their mean rank. 0 where one side is constant. */
double analysis_spearman(const float *a, const float *b, size_t n);
/* The probability that one of `high` exceeds one of `low` (ties half); NAN where one is empty. */
double analysis_auc(const double *high, size_t n_high, const double *low, size_t n_low);

/* Counts what the mask says by itself. */
void analysis_of_mask(mask_analysis *out);
void analysis_correlate(analysis *a);
/* Heads that keep nothing against the energy of heads. */
void analysis_of_heads(analysis *a);
void analysis_free(analysis *a);

void analysis_text(const analysis *a, cli_buffer *out);
json_t *analysis_json(const analysis *a);
/* A mask's picture per mask, correlation.svg and removal.svg. Complains and returns CLI_FAILURE,
 * else CLI_GO. */
int analysis_write(const analysis *a, const char *folder);

#endif
