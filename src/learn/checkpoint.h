/* The state of a learning run, as a file: everything that the next update depends on.
 * Layout, in the byte order of the machine: header, lk_learn_state, then the four arrays of fp32.
 */
#ifndef LK_LEARN_CHECKPOINT_H
#define LK_LEARN_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct lk_learn_state {
  uint64_t stage;  /* 1, 2; 3: both are done */
  uint64_t step;   /* updates done in the stage */
  uint64_t n_adam; /* updates the moments have seen */
  double lambda;   /* of the next update of stage 1 */
  double kl1, kl2; /* held-out KL of the masks of either stage, each known behind its stage */
  double seconds;  /* of earlier runs */
  double flops, reference_flops;
} lk_learn_state;

/* Arrays of n: alpha, first moments, second moments, alpha at the end of stage 1. */
enum { LK_CHECKPOINT_ARRAYS = 4 };

/* Written atomically. key: a number for settings, data and model. LEANK_E_IO, _MEMORY. */
leank_status lk_checkpoint_write(const char *path, uint64_t key, const lk_learn_state *state,
                                 float *const arrays[LK_CHECKPOINT_ARRAYS], size_t n,
                                 leank_error *err);
/* Whether the file, where there is one, may be written over: LEANK_E_FORMAT where it is no
 * checkpoint (a broken one is one). LEANK_E_IO. */
leank_status lk_checkpoint_check(const char *path, leank_error *err);
/* *found false where there is no file. LEANK_E_FORMAT: it is no checkpoint, or broken;
 * LEANK_E_MISMATCH: of another version, key or size. state and arrays are untouched on failure. */
leank_status lk_checkpoint_read(const char *path, uint64_t key, lk_learn_state *state,
                                float *const arrays[LK_CHECKPOINT_ARRAYS], size_t n, bool *found,
                                leank_error *err);

#endif
