/* The weight of mean(alpha) in stage 1, found while learning. */
#ifndef LK_LEARN_LAMBDA_H
#define LK_LEARN_LAMBDA_H

#include <stddef.h>

/* Where to begin, with the distillation term divided by the mean square of the hidden states. */
#define LK_LAMBDA_START 0.01

/* Lambda of the update after `step` of n_steps. The share of alphas near zero is led along a line
 * from 0 to `ratio`, reached at LK_LAMBDA_REACHED of the steps: while too few are near zero lambda
 * rises, else it falls, by a factor whose logarithm is proportional to what is missing. So the
 * least useful channels go first, and a model's scale of loss need not be known. */
#define LK_LAMBDA_REACHED 0.7
double lk_lambda_next(double lambda, double near_zero, double ratio, size_t step, size_t n_steps);

#endif
