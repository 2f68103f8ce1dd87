/* The kernels behind the list of matvec variants. */
#ifndef LK_KERNELS_MATVEC_KERNELS_H
#define LK_KERNELS_MATVEC_KERNELS_H

#include "kernels/dequant/dtype_each.h"
#include "kernels/matvec/matvec.h"

#define LK_MATVEC_DECLARE(name, isa)                                                               \
  void lk_matvec_##name##_##isa(const void *w, size_t n_out, size_t n_in, const void *x,           \
                                size_t x_bytes, size_t n_rows, float *y, size_t ldy);
#define LK_MATVEC_DECLARE_PARTS(name, isa)                                                         \
  LK_MATVEC_DECLARE(parts_##name, isa)                                                             \
  void lk_matvec_parts_##name##_##isa##_prepare(const float *x, size_t n_in, void *row);           \
  size_t lk_matvec_parts_##name##_##isa##_row_bytes(size_t n_in);

#define LK_EACH_X(TYPE, name)                                                                      \
  LK_MATVEC_DECLARE(name, c)                                                                       \
  LK_MATVEC_DECLARE(name, avx2)                                                                    \
  LK_MATVEC_DECLARE(name, avx512)                                                                  \
  LK_MATVEC_DECLARE(name, neon)
LK_EACH_DTYPE
#undef LK_EACH_X

#define LK_MATVEC_QUANTISED(TYPE, name, ...)                                                       \
  LK_MATVEC_DECLARE_PARTS(name, avx2)                                                              \
  LK_MATVEC_DECLARE_PARTS(name, avx512)                                                            \
  LK_MATVEC_DECLARE_PARTS(name, avx512bf16)                                                        \
  LK_MATVEC_DECLARE_PARTS(name, neondot)
LK_EACH_SCALED(LK_MATVEC_QUANTISED)
LK_EACH_AFFINE(LK_MATVEC_QUANTISED)

#endif
