#include "learn/lambda.h"

#include <math.h>

double lk_lambda_next(double lambda, double near_zero, double ratio, size_t step, size_t n_steps) {
  const double gain = 1.0, least = 1e-9, most = 1e9;
  const double share = (double)step / (LK_LAMBDA_REACHED * (double)n_steps);
  const double target = ratio * (share < 1 ? share : 1);
  const double next = lambda * exp(gain * (target - near_zero));
  return next < least ? least : next > most ? most : next;
}
