/* Reference. */
#include <math.h>

#include "base/dtype.h"
#include "kernels/rows/rows_kernels.h"

#define ROWS_REAL float
#define ROWS_NAME(op) lk_rows_##op##_c
#define ROWS_LINKAGE
#include "kernels/rows/rows_backward_ref.h"

void lk_rows_rms_norm_c(const float *x, const float *w, size_t n, float eps, float *y) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  const float scale = 1.0f / sqrtf((float)(sum / (double)n) + eps);
  for (size_t i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}

void lk_rows_rope_c(float *head, size_t head_dim, leank_channel_order order, const float *cos,
                    const float *sin) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; i++) {
    float *first = head + (order == LEANK_ORDER_PAIRS ? 2 * i : i);
    float *second = order == LEANK_ORDER_PAIRS ? first + 1 : first + half;
    const float a = *first, b = *second;
    *first = a * cos[i] - b * sin[i];
    *second = a * sin[i] + b * cos[i];
  }
}

/* The exponential is of -|gate|, which never overflows: gate / (1 + e) for a gate of at least 0,
 * gate e / (1 + e) below. */
void lk_rows_swiglu_c(const float *gate, const float *up, size_t n, float *out) {
  for (size_t i = 0; i < n; i++) {
    const float e = expf(-fabsf(gate[i]));
    out[i] = gate[i] * ((gate[i] < 0 ? e : 1) / (1 + e)) * up[i];
  }
}

void lk_rows_to_bf16_c(const float *x, size_t n, uint16_t *y) {
  for (size_t i = 0; i < n; i++) y[i] = lk_f32_to_bf16(x[i]);
}

void lk_rows_add_c(const float *x, size_t n, float *y) {
  for (size_t i = 0; i < n; i++) y[i] += x[i];
}
