/* Ops on activation rows: norm, rotary embedding, gated unit, rounding. */
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
} lk_rows_variant;

/* Ascending level, ended by name NULL. */
extern const lk_rows_variant lk_rows_variants[];
const lk_rows_variant *lk_rows_select(leank_cpu_level level);

#endif
