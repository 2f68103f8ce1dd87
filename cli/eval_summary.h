/* Figures over the records of `leank eval`: means, standard errors, paired differences. */
#ifndef LEANK_CLI_EVAL_SUMMARY_H
#define LEANK_CLI_EVAL_SUMMARY_H

#include "eval_records.h"

/* A mean and its standard error; NAN where one value tells none. */
typedef struct eval_mean {
  double mean, se;
} eval_mean;

/* One answerer (dense or a variant) on one task and length, or on all tasks of a length. */
typedef struct eval_cell {
  size_t n;          /* prompts */
  eval_mean score;   /* 0 .. 1 */
  eval_mean change;  /* score minus dense, paired by prompts */
  eval_mean kl;      /* of rows, nats; se over prompts */
  double kl_p99;     /* the least value that 99 % of the rows do not exceed */
  double top1;       /* share of rows whose likeliest token is the dense one */
  double perplexity; /* e^(nll / rows) */
  double bytes;      /* K and V of a prompt, mean */
  double k_kept, v_kept;
  size_t n_rows;
} eval_cell;

typedef struct eval_row {
  const char *task;
  leank_eval_metric metric;
  bool counted;     /* dense reaches 10 %: the task is part of the average */
  eval_cell *cells; /* [n_answers] */
} eval_row;

/* One length. */
typedef struct eval_block {
  size_t length;
  eval_row *rows; /* [n_rows] tasks */
  size_t n_rows;
  eval_cell *all; /* [n_answers]: scores and changes averaged over counted tasks, the rest over all
                     rows of all tasks */
  size_t n_counted; /* tasks */
} eval_block;

typedef struct eval_summary {
  size_t n_answers;
  eval_block *blocks; /* by length */
  size_t n_blocks;
} eval_summary;

/* Tasks in the order of the set, lengths ascending; records of samples from n_samples on do not
 * count. */
eval_summary eval_summary_make(const eval_records *records, const leank_eval_set *set);
void eval_summary_free(eval_summary *summary);

#endif
