#include "kernels/dequant/widen_avx2.h"

#define ISA avx2
#include "kernels/dequant/dequant_simd.h"
