/* Rows of logits: the dense ones kept as probabilities, those of variants compared with them. */
#ifndef LK_EVAL_ROW_STATS_H
#define LK_EVAL_ROW_STATS_H

#include <stdbool.h>

#include <leank/text.h>

#include "base/parallel.h"

/* The first of the largest; 0 where none compares (NaN). */
leank_token lk_argmax(const float *logits, size_t n_vocab);

/* Where the rows of a scoring pass go. */
typedef struct lk_row_sink {
  void (*take)(struct lk_row_sink *sink, size_t first, size_t n, const float *logits);
  void *to;
} lk_row_sink;

/* What is known of one row. */
typedef struct lk_row {
  leank_token top;   /* the likeliest */
  double nll;        /* -ln p(next) */
  double dense_logp; /* of the dense one: sum of p ln p */
  double kl;         /* of a variant: KL(dense || variant), nats */
} lk_row;

/* Rows of the dense cache, or of a variant against them. Sums are over rows in their order,
 * whatever the threads. */
typedef struct lk_logit_rows {
  const struct lk_logit_rows *dense; /* NULL: these are the dense ones */
  lk_team *team;                     /* the caller's */
  const leank_token *next;           /* [n] the token that follows each; the caller's */
  size_t n, n_vocab;
  float *p;    /* [n][V] probabilities of the dense ones, else NULL */
  lk_row *row; /* [n] */
} lk_logit_rows;

/* dense NULL: opens dense rows. LEANK_E_MEMORY. */
leank_status lk_logit_rows_open(const lk_logit_rows *dense, const leank_token *next, size_t n,
                                size_t n_vocab, lk_team *team, lk_logit_rows *out,
                                leank_error *err);
void lk_logit_rows_close(lk_logit_rows *rows);
lk_row_sink lk_logit_rows_sink(lk_logit_rows *rows);

/* ---- once all rows are there ---- */

bool lk_logit_rows_are_finite(const lk_logit_rows *rows);
double lk_logit_rows_nll(const lk_logit_rows *rows);
/* Of a variant: rows whose likeliest token is the dense one. */
size_t lk_logit_rows_agree(const lk_logit_rows *rows);
/* Of a variant: the first row that foretells neither the next token nor the dense likeliest, which
 * differ where the dense pass and the dense step disagree by rounding; n where there is none. */
size_t lk_logit_rows_differ(const lk_logit_rows *rows);

#endif
