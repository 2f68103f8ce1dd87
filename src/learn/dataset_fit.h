/* Contexts of a wanted length. */
#ifndef LK_LEARN_DATASET_FIT_H
#define LK_LEARN_DATASET_FIT_H

#include <leank/learn.h>

#include "base/error.h"
#include "text/haystack.h"
#include "text/prompter.h"

typedef struct lk_fit_options {
  leank_task task; /* not LEANK_TASK_FILE */
  size_t n_questions;
  size_t aim; /* tokens that no prompt with its answer exceeds; one more line or sentence would, as
                 far as the tokens of a byte tell */
  uint64_t seed;
  const lk_haystack *haystack;
} lk_fit_options;

/* LEANK_E_ARGUMENT where the aim is too short, or too long for the task's keys; LEANK_E_FORMAT
 * where the haystack holds what is to be hidden in it; LEANK_E_MEMORY. */
leank_status lk_context_fit(const lk_prompter *prompter, const lk_fit_options *options,
                            leank_context *out, leank_error *err);

#endif
