/* Op "attend" for many rows with AMX: q and the probabilities are rounded to bf16, sums are fp32.
 * Few rows do not fill a tile: their decode is that of AVX512_BF16. */
#include "kernels/attention/attend_kernels.h"
#include "kernels/attention/attend_tmul.h"
#include "kernels/attention/attend_vec_pairs.h"

#include "kernels/attention/attend_tmul_impl.h"

void lk_attend_rows_bf16_amx(const lk_attend_args *args) { attend_rows(args); }
