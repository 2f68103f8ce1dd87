#include "learn/adamw.h"

#include <math.h>

void lk_adamw_step(lk_adamw *opt, double lr, const double *gradient, float *alpha) {
  const double beta1 = 0.9, beta2 = 0.999;
  opt->n_done++;
  const double correct1 = 1 - pow(beta1, (double)opt->n_done);
  const double correct2 = 1 - pow(beta2, (double)opt->n_done);
  for (size_t i = 0; i < opt->n; i++) {
    const double g = gradient[i];
    opt->m[i] = (float)(beta1 * (double)opt->m[i] + (1 - beta1) * g);
    opt->v[i] = (float)(beta2 * (double)opt->v[i] + (1 - beta2) * g * g);
    const double m = (double)opt->m[i] / correct1, v = (double)opt->v[i] / correct2;
    const double next = (double)alpha[i] - lr * m / (sqrt(v) + opt->epsilon);
    alpha[i] = next < 0 ? 0 : next > 1 ? 1 : (float)next;
  }
}

double lk_learning_rate_share(size_t i, size_t n) {
  const size_t ramp = n / 5;
  if (i < ramp) return (double)(i + 1) / (double)ramp;
  if (n - i < ramp) return (double)(n - i) / (double)ramp;
  return 1;
}
