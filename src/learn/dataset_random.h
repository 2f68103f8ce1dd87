/* Contexts of random tokens, for models without a tokenizer: what learning costs does not depend on
 * which tokens it reads. */
#ifndef LK_LEARN_DATASET_RANDOM_H
#define LK_LEARN_DATASET_RANDOM_H

#include <leank/learn.h>

#include "base/error.h"

/* Sizes in tokens. */
typedef struct lk_random_context {
  size_t n_vocab; /* tokens are below it */
  size_t n_questions;
  size_t n_all;              /* of every prompt with its answer */
  size_t n_prompt, n_answer; /* of every question and answer; the context has the rest */
  uint64_t seed;
} lk_random_context;

/* lk_context_free what it gives; the texts of its questions are empty. LEANK_E_ARGUMENT where a
 * part has no token; LEANK_E_MEMORY. */
leank_status lk_context_random(const lk_random_context *sizes, leank_context *out,
                               leank_error *err);

#endif
