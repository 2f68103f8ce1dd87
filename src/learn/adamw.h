/* The optimiser of the channel weights alpha. */
#ifndef LK_LEARN_ADAMW_H
#define LK_LEARN_ADAMW_H

#include <stddef.h>

/* Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019) of 0, as
 * published for LeanK. Moments in fp32. */
typedef struct lk_adamw {
  size_t n;      /* parameters */
  float *m, *v;  /* [n] first and second moments; the caller's */
  size_t n_done; /* steps so far */
  double epsilon;
} lk_adamw;

/* alpha[n] -= lr * m' / (sqrt(v') + epsilon), then clamped to [0, 1]. Betas 0.9 and 0.999. */
void lk_adamw_step(lk_adamw *opt, double lr, const double *gradient, float *alpha);

/* The share of the full rate at step i of n (from 0): up over the first fifth, down over the last.
 */
double lk_learning_rate_share(size_t i, size_t n);

#endif
