/* Ops on activation rows: norm, rotary embedding, gated unit, rounding; and the gradients of norm
 * and gated unit. */
#ifndef LK_KERNELS_ROWS_H
#define LK_KERNELS_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

typedef struct lk_rows_variant {
  const char *name; /* e.g. "rows_avx512" */
  leank_cpu_level level;
  /* RMSNorm (Zhang and Sennrich 2019): y_i = x_i / sqrt(mean(x^2) + eps) * w_i. y may be x. */
  void (*rms_norm)(const float *x, const float *w, size_t n, float eps, float *y);
  /* RoPE (Su et al. 2021) on one head in place: the pair (a, b) of frequency i becomes
   * (a cos_i - b sin_i, a sin_i + b cos_i); which channels are a pair is `order`. */
  void (*rope)(float *head, size_t head_dim, leank_channel_order order, const float *cos,
               const float *sin);
  /* out_i = gate_i / (1 + exp(-gate_i)) * up_i (SwiGLU, Shazeer 2020). out may be gate or up. */
  void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
  /* fp32 to bf16, nearest even. */
  void (*to_bf16)(const float *x, size_t n, uint16_t *y);
  /* y_i += x_i */
  void (*add)(const float *x, size_t n, float *y);
  /* With s = (mean(x^2) + eps)^(-1/2) and dy the gradient of rms_norm's y:
   * dx_j += s (w_j dy_j - x_j s^2 mean(dy w x)). */
  void (*rms_norm_backward)(const float *x, const float *w, size_t n, float eps, const float *dy,
                            float *dx);
  /* With p = 1 / (1 + exp(-gate_i)) and dout the gradient of swiglu's out:
   * dgate_i = dout_i up_i p (1 + gate_i (1 - p)), dup_i = dout_i gate_i p.
   * dgate may be gate or dout, and dup may be up. */
  void (*swiglu_backward)(const float *gate, const float *up, const float *dout, size_t n,
                          float *dgate, float *dup);
} lk_rows_variant;

/* Ascending level, ended by name NULL. */
extern const lk_rows_variant lk_rows_variants[];
const lk_rows_variant *lk_rows_select(leank_cpu_level level);

#endif
