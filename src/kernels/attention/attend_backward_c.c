/* Reference of op "attend_backward" in fp32. */
#include "kernels/attention/attend_backward_kernels.h"
#include "kernels/attention/attend_backward_ref.h"

void lk_attend_backward_bf16_c(const lk_attend_backward_args *args) {
  ref_backward(args, LEANK_KV_BF16);
}
void lk_attend_backward_f32_c(const lk_attend_backward_args *args) {
  ref_backward(args, LEANK_KV_F32);
}
