/* The kernels behind the list of dequant variants. */
#ifndef LK_KERNELS_DEQUANT_KERNELS_H
#define LK_KERNELS_DEQUANT_KERNELS_H

#include "kernels/dequant/dequant.h"
#include "kernels/dequant/dtype_each.h"

#define LK_DEQUANT_DECLARE(name, isa)                                                              \
  void lk_dequant_##name##_##isa##_to_f32(const void *src, size_t n, float *dst);                  \
  void lk_dequant_##name##_##isa##_to_bf16(const void *src, size_t n, uint16_t *dst);

#define LK_EACH_X(TYPE, name)                                                                      \
  LK_DEQUANT_DECLARE(name, c)                                                                      \
  LK_DEQUANT_DECLARE(name, avx2)                                                                   \
  LK_DEQUANT_DECLARE(name, avx512)                                                                 \
  LK_DEQUANT_DECLARE(name, neon)
LK_EACH_DTYPE
#undef LK_EACH_X

#endif
