#include "kernels/dequant/widen_avx512.h"

#define ISA avx512
enum { N_ACC = 2 }; /* 32 registers: 8 rows twice and what makes the weights */
#include "kernels/matvec/matvec_simd.h"
