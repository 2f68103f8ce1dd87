/* The gradients of the rows ops (rows.h), for reals of any type. Before including it: ROWS_REAL,
 * ROWS_NAME(op) and ROWS_LINKAGE. Without them: static in float64, for comparison with finite
 * differences. */
#include <stddef.h>
#include <tgmath.h>

#ifndef ROWS_REAL
#define ROWS_REAL double
#define ROWS_NAME(op) op##_f64
#define ROWS_LINKAGE static
#endif

ROWS_LINKAGE void ROWS_NAME(rms_norm_backward)(const ROWS_REAL *x, const ROWS_REAL *w, size_t n,
                                               ROWS_REAL eps, const ROWS_REAL *dy, ROWS_REAL *dx) {
  double squares = 0, products = 0;
  for (size_t i = 0; i < n; i++) {
    squares += (double)x[i] * (double)x[i];
    products += (double)dy[i] * (double)w[i] * (double)x[i];
  }
  const ROWS_REAL s = 1 / sqrt((ROWS_REAL)(squares / (double)n) + eps);
  const ROWS_REAL along = s * s * (ROWS_REAL)(products / (double)n);
  for (size_t i = 0; i < n; i++) dx[i] += s * (w[i] * dy[i] - x[i] * along);
}

/* As in the forward the exponential is of -|gate|; it gives p and 1 - p without cancellation. */
ROWS_LINKAGE void ROWS_NAME(swiglu_backward)(const ROWS_REAL *gate, const ROWS_REAL *up,
                                             const ROWS_REAL *dout, size_t n, ROWS_REAL *dgate,
                                             ROWS_REAL *dup) {
  for (size_t i = 0; i < n; i++) {
    const ROWS_REAL g = gate[i], u = up[i], d = dout[i], e = exp(-fabs(g));
    const ROWS_REAL p = (g < 0 ? e : 1) / (1 + e), rest = (g < 0 ? 1 : e) / (1 + e);
    dgate[i] = p * (1 + g * rest) * u * d;
    dup[i] = g * p * d;
  }
}
