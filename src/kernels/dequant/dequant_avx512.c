#include "kernels/dequant/widen_avx512.h"

#define ISA avx512
#include "kernels/dequant/dequant_simd.h"
