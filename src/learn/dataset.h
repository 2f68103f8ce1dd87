/* Data sets inside: made without a model's weights, as tests do. */
#ifndef LK_LEARN_DATASET_H
#define LK_LEARN_DATASET_H

#include <leank/learn.h>

#include "base/error.h"

enum { LK_MAX_CONTEXTS = 1 << 20 };

struct leank_dataset {
  leank_context *contexts; /* [n] */
  size_t n;
  char fingerprint[17];
};

/* What a data set must know of a model. */
typedef struct lk_dataset_model {
  const leank_tokenizer *tokenizer; /* NULL: random tokens alone can be had */
  size_t n_ctx;                     /* positions it was made for */
  size_t n_vocab;                   /* random tokens are below it */
} lk_dataset_model;

/* leank_dataset_make for such a model. */
leank_status lk_dataset_make(const lk_dataset_model *model, const leank_dataset_options *options,
                             leank_dataset **out, leank_error *err);

#endif
