/* The kernels behind the list of rows variants. */
#ifndef LK_KERNELS_ROWS_KERNELS_H
#define LK_KERNELS_ROWS_KERNELS_H

#include "kernels/rows/rows.h"

#define LK_ROWS_DECLARE(isa)                                                                       \
  void lk_rows_rms_norm_##isa(const float *x, const float *w, size_t n, float eps, float *y);      \
  void lk_rows_rope_##isa(float *head, size_t head_dim, leank_channel_order order,                 \
                          const float *cos, const float *sin);                                     \
  void lk_rows_swiglu_##isa(const float *gate, const float *up, size_t n, float *out);             \
  void lk_rows_to_bf16_##isa(const float *x, size_t n, uint16_t *y);                               \
  void lk_rows_add_##isa(const float *x, size_t n, float *y);                                      \
  void lk_rows_rms_norm_backward_##isa(const float *x, const float *w, size_t n, float eps,        \
                                       const float *dy, float *dx);                                \
  void lk_rows_swiglu_backward_##isa(const float *gate, const float *up, const float *dout,        \
                                     size_t n, float *dgate, float *dup);

LK_ROWS_DECLARE(c)
LK_ROWS_DECLARE(avx2)
LK_ROWS_DECLARE(avx512)
LK_ROWS_DECLARE(neon)

#endif
