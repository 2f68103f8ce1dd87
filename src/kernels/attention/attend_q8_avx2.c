/* Op "attend" of kv type q8 with AVX2 and FMA: lean pages are widened to fp32. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_runs.h"

void lk_attend_q8_avx2(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_bf16_avx2, lk_attend_f32_avx2, LEANK_KV_F32};
  q8_attend(args, &kernels);
}
