/* Oracle of op "attend": one row in float64, with the error that a variant may make. */
#ifndef ATTEND_F64_H
#define ATTEND_F64_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/attention/attend.h"

typedef struct attend_f64 {
  double m, l; /* of the exact logits; -INFINITY and 0 where no key is seen */
  double m_bound, l_bound;
  double o[256], o_bound[256]; /* [D] under m, and |error| at most */
  double o_abs[256];           /* sum of exp(x - m) |v| */
} attend_f64;

/* Row r of args, whose views hold elements of `type`. rounds_to_bf16: the variant may round q and
 * the probabilities to bf16 and treat denormals as 0. */
void attend_f64_row(const lk_attend_args *args, leank_kv_type type, bool rounds_to_bf16, size_t r,
                    attend_f64 *out);

#endif
