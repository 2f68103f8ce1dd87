/* Op "attend" with NEON: fp32 products of widened values. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_vec_neon.h"

#define LK_ATTEND_PAIRS 0
#include "kernels/attention/attend_impl.h"

void lk_attend_bf16_neon(const lk_attend_args *args) { attend(args, LEANK_KV_BF16, true); }
void lk_attend_f32_neon(const lk_attend_args *args) { attend(args, LEANK_KV_F32, true); }
