/* The types of base/dtype.h as lists for macros. */
#ifndef LK_KERNELS_DTYPE_EACH_H
#define LK_KERNELS_DTYPE_EACH_H

#include "base/dtype.h"

/* X(TYPE, name) */
#define LK_EACH_PLAIN(X) X(F32, f32) X(F16, f16) X(BF16, bf16)

/* X(TYPE, name, elements of a block, bytes of a block, elements that share a scale) */
#define LK_EACH_SCALED(X)                                                                          \
  X(Q8_0, q8_0, 32, 34, 32)                                                                        \
  X(Q4_0, q4_0, 32, 18, 32)                                                                        \
  X(Q5_0, q5_0, 32, 22, 32)                                                                        \
  X(Q6_K, q6_k, 256, 210, 16)

/* The same, for types whose elements also subtract or add a number per group. */
#define LK_EACH_AFFINE(X)                                                                          \
  X(Q4_1, q4_1, 32, 20, 32)                                                                        \
  X(Q5_1, q5_1, 32, 24, 32)                                                                        \
  X(Q4_K, q4_k, 256, 144, 32)                                                                      \
  X(Q5_K, q5_k, 256, 176, 32)

#define LK_EACH_NAME_(TYPE, name, ...) LK_EACH_X(TYPE, name)
/* LK_EACH_X(TYPE, name) for all types; the caller defines LK_EACH_X. */
#define LK_EACH_DTYPE                                                                              \
  LK_EACH_PLAIN(LK_EACH_NAME_) LK_EACH_SCALED(LK_EACH_NAME_) LK_EACH_AFFINE(LK_EACH_NAME_)

#endif
