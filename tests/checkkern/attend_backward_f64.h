/* Oracle of op "attend_backward" in float64, with the error that a variant may make. */
#ifndef ATTEND_BACKWARD_F64_H
#define ATTEND_BACKWARD_F64_H

#include <stddef.h>

#include "kernels/attention/attend_backward.h"

/* Adds to a number in its float64 image; how far a variant may be off is gathered beside. */
typedef struct sum_f64 {
  double value;
  double bound;     /* of the errors of the terms */
  double magnitude; /* sum of |terms|, the start included */
  size_t n_terms;
} sum_f64;

/* What a call leaves in its outputs. Set to the outputs' values before the call. */
typedef struct backward_f64 {
  sum_f64 *dq, *dq_lean, *dbias; /* [M][D], [M][n_lean], [M] */
  sum_f64 *dk, *dv; /* [n_pages][64 * D], whether wanted or not; dk of a lean view: [64][n_lean],
                       then nothing */
} backward_f64;

void sum_f64_start(sum_f64 *sum, float value);
/* |error| at most, rounding of the sum itself included. */
double sum_f64_bound(const sum_f64 *sum);
/* args, whose views hold elements of `type`, on top of what `out` holds. */
void attend_backward_f64(const lk_attend_backward_args *args, leank_kv_type type,
                         const backward_f64 *out);

#endif
