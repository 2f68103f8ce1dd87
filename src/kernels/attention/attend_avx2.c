/* Op "attend" with AVX2 and FMA: fp32 products of widened values. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_vec_avx2.h"

#define LK_ATTEND_PAIRS 0
#include "kernels/attention/attend_impl.h"

void lk_attend_bf16_avx2(const lk_attend_args *args) { attend(args, LEANK_KV_BF16, true); }
void lk_attend_f32_avx2(const lk_attend_args *args) { attend(args, LEANK_KV_F32, true); }
