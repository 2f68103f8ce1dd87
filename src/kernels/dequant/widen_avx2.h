/* prepare_<type> and widen_<type> of every type for AVX2. */
#ifndef LK_KERNELS_WIDEN_AVX2_H
#define LK_KERNELS_WIDEN_AVX2_H

#include "kernels/dequant/dtype_each.h"
#include "kernels/dequant/vec_avx2.h"
#include "kernels/dequant/widen_unpacked.h"

LK_EACH_SCALED(WIDEN_SCALED)
LK_EACH_AFFINE(WIDEN_AFFINE)

#endif
