/* Rows of logits: the dense ones kept as probabilities, those of variants compared with them. */
#ifndef LK_EVAL_ROW_STATS_H
#define LK_EVAL_ROW_STATS_H

#include <leank/text.h>

#include "base/error.h"

/* The first of the largest; 0 where none compares (NaN). */
leank_token lk_argmax(const float *logits, size_t n_vocab);

/* Where the rows of a scoring pass go. */
typedef struct lk_row_sink {
  void (*take)(struct lk_row_sink *sink, size_t first, size_t n, const float *logits);
  void *to;
  const leank_token *next; /* [rows] the token that follows each */
} lk_row_sink;

typedef struct lk_dense_rows {
  size_t n, n_vocab;
  float *p;         /* [n][V] probabilities */
  double *sum_logp; /* [n] sum of p ln p */
  leank_token *top; /* [n] the likeliest */
  double nll;       /* sum of -ln p(next) */
  bool finite;
} lk_dense_rows;

/* LEANK_E_MEMORY. */
leank_status lk_dense_rows_open(size_t n, size_t n_vocab, lk_dense_rows *out, leank_error *err);
void lk_dense_rows_close(lk_dense_rows *rows);
lk_row_sink lk_dense_rows_sink(lk_dense_rows *rows, const leank_token *next);

typedef struct lk_variant_rows {
  const lk_dense_rows *dense;
  const leank_token *next;
  float *kl; /* [n] KL(dense || variant), nats; the caller's */
  size_t n_agree;
  size_t differs; /* the first row that foretells neither the next token nor the dense top; n */
  leank_token instead; /* what it foretells */
  double nll;
  bool finite;
} lk_variant_rows;

lk_variant_rows lk_variant_rows_begin(const lk_dense_rows *dense, const leank_token *next,
                                      float *kl);
lk_row_sink lk_variant_rows_sink(lk_variant_rows *rows);

#endif
