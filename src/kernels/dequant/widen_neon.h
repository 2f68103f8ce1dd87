/* prepare_<type> and widen_<type> of every type for NEON. */
#ifndef LK_KERNELS_WIDEN_NEON_H
#define LK_KERNELS_WIDEN_NEON_H

#include "kernels/dequant/dtype_each.h"
#include "kernels/dequant/vec_neon.h"
#include "kernels/dequant/widen_unpacked.h"

LK_EACH_SCALED(WIDEN_SCALED)
LK_EACH_AFFINE(WIDEN_AFFINE)

#endif
