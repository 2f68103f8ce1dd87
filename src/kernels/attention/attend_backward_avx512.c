/* Op "attend_backward" with AVX-512. */
#include "kernels/attention/attend_backward_kernels.h"
#include "kernels/attention/attend_vec_avx512.h"

#include "kernels/attention/attend_backward_impl.h"

void lk_attend_backward_bf16_avx512(const lk_attend_backward_args *args) {
  attend_backward(args, LEANK_KV_BF16);
}
void lk_attend_backward_f32_avx512(const lk_attend_backward_args *args) {
  attend_backward(args, LEANK_KV_F32);
}
