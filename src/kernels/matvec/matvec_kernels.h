/* The kernels behind the list of matvec variants. */
#ifndef LK_KERNELS_MATVEC_KERNELS_H
#define LK_KERNELS_MATVEC_KERNELS_H

#include "kernels/dequant/dtype_each.h"
#include "kernels/matvec/matvec.h"

#define LK_MATVEC_DECLARE(name, isa)                                                               \
  void lk_matvec_##name##_##isa(const void *w, size_t n_out, size_t n_in, const float *x,          \
                                size_t ldx, size_t n_rows, float *y, size_t ldy);

#define LK_EACH_X(TYPE, name)                                                                      \
  LK_MATVEC_DECLARE(name, c)                                                                       \
  LK_MATVEC_DECLARE(name, avx2)                                                                    \
  LK_MATVEC_DECLARE(name, avx512)
LK_EACH_DTYPE
#undef LK_EACH_X

#endif
