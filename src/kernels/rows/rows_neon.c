#include "kernels/dequant/vec_neon.h"
#include "kernels/attention/attend_vec_neon.h"
#include "kernels/attention/attend_exp.h"

#define ISA neon
VEC_FN vec vec_exp(vec x) { return VEC(v_exp(x.lo), v_exp(x.hi)); }
#include "kernels/rows/rows_simd.h"
#include "kernels/rows/rows_backward_simd.h"
