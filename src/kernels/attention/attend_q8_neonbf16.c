/* Op "attend" of kv type q8 with FEAT_BF16. decode: lean pages as integers, with FEAT_DotProd.
 * rows: they are widened to bf16. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_q8_runs.h"

void lk_attend_decode_q8_neonbf16(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_decode_bf16_neonbf16, lk_attend_decode_lean_q8_neondot,
                              LEANK_KV_Q8};
  q8_attend(args, &kernels);
}

void lk_attend_rows_q8_neonbf16(const lk_attend_args *args) {
  const q8_kernels kernels = {lk_attend_rows_bf16_neonbf16, lk_attend_rows_bf16_neonbf16,
                              LEANK_KV_BF16};
  q8_attend(args, &kernels);
}
