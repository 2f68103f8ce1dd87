/* Op "attend" of kv type q8 with NEON: lean pages are widened to fp32. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_runs.h"

void lk_attend_q8_neon(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_bf16_neon, lk_attend_f32_neon, LEANK_KV_F32};
  q8_attend(args, &kernels);
}
