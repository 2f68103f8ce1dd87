#include "learn/lambda.h"

#include <math.h>

double lk_lambda_next(double lambda, double near_zero, double ratio, size_t step, size_t n_steps) {
  const double gain = 0.5, least = 1e-9, most = 1e9;
  const double share = 2 * (double)step / (double)n_steps;
  const double missing = ratio * (share < 1 ? share : 1) - near_zero;
  const double next = lambda * exp(gain * missing);
  return next < least ? least : next > most ? most : next;
}
