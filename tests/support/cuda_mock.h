/* A CUDA device in software, behind the table of cuda_api.h: memory from malloc, filled with NaN,
 * operations as plain loops. What is asked for waits in a queue until something waits for it, as on
 * a device: memory that is reused too early gives wrong numbers. Breaches of the table's contract
 * fail the test. */
#ifndef LK_SUPPORT_CUDA_MOCK_H
#define LK_SUPPORT_CUDA_MOCK_H

#include <stddef.h>

#include "cuda/cuda_api.h"

typedef struct lk_cuda_mock_state {
  size_t n_live;           /* allocations, devices and graphs not yet given back */
  size_t n_allocs;         /* so far */
  size_t n_launches;       /* so far, those of replays included */
  size_t n_downloaded;     /* bytes so far */
  size_t n_loads;          /* widen, and uploads of as much as a matrix */
  size_t n_made;           /* random_bf16 */
  size_t n_norms;          /* rms_norm, so far */
  size_t n_fused, n_gated; /* linear_few behind a norm, and with a gate */
  size_t n_records, n_replays;
  size_t n_joint, n_apart; /* parts of a linear_many with a pitch that lie behind the one before
                              them, and that do not; firsts are not counted */
  size_t fail_alloc, fail_launch; /* the nth from now on fails; 0: none */
  bool refuse_record;             /* record_end fails */
  size_t n_devices;
  size_t n_bytes, most_bytes; /* memory of the device in use; the most there was */
  size_t max_bytes;           /* most that may be, 0: any */
  size_t most_operand;        /* elements that reserve made room for; the most of a device */
} lk_cuda_mock_state;

extern lk_cuda_mock_state lk_cuda_mock;

const lk_cuda_api *lk_cuda_mock_api(void);

#endif
