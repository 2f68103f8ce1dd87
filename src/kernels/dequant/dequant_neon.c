#include "kernels/dequant/widen_neon.h"

#define ISA neon
#include "kernels/dequant/dequant_simd.h"
