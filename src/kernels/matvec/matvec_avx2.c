#include "kernels/dequant/widen_avx2.h"

#define ISA avx2
enum { N_ACC = 1 }; /* 16 registers: 8 rows and what makes the weights */
#include "kernels/matvec/matvec_simd.h"
