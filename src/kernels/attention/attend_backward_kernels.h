/* The functions behind lk_attend_backward_variants, per type and instruction set. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_KERNELS_H
#define LK_KERNELS_ATTEND_BACKWARD_KERNELS_H

#include "kernels/attention/attend_backward.h"

void lk_attend_backward_bf16_c(const lk_attend_backward_args *args);
void lk_attend_backward_f32_c(const lk_attend_backward_args *args);
void lk_attend_backward_bf16_avx2(const lk_attend_backward_args *args);
void lk_attend_backward_f32_avx2(const lk_attend_backward_args *args);
void lk_attend_backward_bf16_avx512(const lk_attend_backward_args *args);
void lk_attend_backward_f32_avx512(const lk_attend_backward_args *args);
void lk_attend_backward_bf16_neon(const lk_attend_backward_args *args);
void lk_attend_backward_f32_neon(const lk_attend_backward_args *args);

#endif
