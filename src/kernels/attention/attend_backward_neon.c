/* Op "attend_backward" with NEON. */
#include "kernels/attention/attend_backward_kernels.h"
#include "kernels/attention/attend_vec_neon.h"

#include "kernels/attention/attend_backward_impl.h"

void lk_attend_backward_bf16_neon(const lk_attend_backward_args *args) {
  attend_backward(args, LEANK_KV_BF16);
}
void lk_attend_backward_f32_neon(const lk_attend_backward_args *args) {
  attend_backward(args, LEANK_KV_F32);
}
