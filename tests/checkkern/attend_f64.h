/* Oracle of op "attend": one row in float64, with the error that a variant may make. */
#ifndef ATTEND_F64_H
#define ATTEND_F64_H

#include <stddef.h>

#include "kernels/attention/attend.h"

typedef struct attend_f64 {
  double m, l; /* of the exact logits; -INFINITY and 0 where no key is seen */
  double m_bound, l_bound;
  double o[256], o_bound[256]; /* [D] under m, and |error| at most */
  double o_abs[256];           /* sum of exp(x - m) |v| */
} attend_f64;

/* What a variant may round on the way, any of: */
typedef enum attend_rounding {
  ROUNDS_FP32 = 0, /* nothing to less than fp32 */
  ROUNDS_BF16 = 1, /* q and the probabilities to bf16, denormals to 0; int8 pages, widened, to bf16
                      unless ROUNDS_INT */
  ROUNDS_INT = 2   /* with int8 pages: q and the probabilities, each times its scale, to integers of
                      16 bits */
} attend_rounding;

/* Row r of args, whose views hold elements of `type`. */
void attend_f64_row(const lk_attend_args *args, leank_kv_type type, unsigned rounding, size_t r,
                    attend_f64 *out);

#endif
