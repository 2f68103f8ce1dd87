/* Op "attend" with FEAT_BF16: q and the probabilities are rounded to bf16, sums are fp32. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_vec_neonbf16.h"

#define LK_ATTEND_PAIRS 1
#include "kernels/attention/attend_impl.h"

void lk_attend_decode_bf16_neonbf16(const lk_attend_args *args) {
  attend(args, LEANK_KV_BF16, true);
}
void lk_attend_rows_bf16_neonbf16(const lk_attend_args *args) {
  attend(args, LEANK_KV_BF16, false);
}
