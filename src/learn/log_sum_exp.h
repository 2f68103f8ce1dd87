/* Rows of logits x[n]. */
#ifndef LK_LEARN_LOG_SUM_EXP_H
#define LK_LEARN_LOG_SUM_EXP_H

#include <math.h>
#include <stddef.h>

/* The index of the largest, the first of equals. */
static inline size_t lk_largest(const float *x, size_t n) {
  size_t best = 0;
  for (size_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

/* log of the sum of exp(x); top is the largest of them. */
static inline double lk_log_sum_exp(const float *x, size_t n, float top) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)expf(x[i] - top);
  return (double)top + log(sum);
}

#endif
