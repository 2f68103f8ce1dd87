#include "kernels/dequant/vec_avx512.h"
#include "kernels/attention/attend_vec_avx512.h"
#include "kernels/attention/attend_exp.h"

#define ISA avx512
VEC_FN vec vec_exp(vec x) { return v_exp(x); }
#include "kernels/rows/rows_simd.h"
#include "kernels/rows/rows_backward_simd.h"
