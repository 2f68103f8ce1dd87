/* The functions behind lk_attend_variants, one pair per type and instruction set. */
#ifndef LK_KERNELS_ATTEND_KERNELS_H
#define LK_KERNELS_ATTEND_KERNELS_H

#include "kernels/attention/attend.h"

void lk_attend_bf16_c(const lk_attend_args *args);
void lk_attend_f32_c(const lk_attend_args *args);

#endif
