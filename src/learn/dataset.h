/* Data sets inside: made with a tokenizer alone, which is what tests have. */
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

/* leank_dataset_make for a model of this tokenizer and n_ctx positions. */
leank_status lk_dataset_make(const leank_tokenizer *tokenizer, size_t n_ctx,
                             const leank_dataset_options *options, leank_dataset **out,
                             leank_error *err);

#endif
