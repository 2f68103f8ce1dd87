/* The functions behind lk_attend_variants, per type and instruction set: one function for both
 * shapes, or one for each. */
#ifndef LK_KERNELS_ATTEND_KERNELS_H
#define LK_KERNELS_ATTEND_KERNELS_H

#include "kernels/attention/attend.h"

void lk_attend_bf16_c(const lk_attend_args *args);
void lk_attend_f32_c(const lk_attend_args *args);
void lk_attend_bf16_avx2(const lk_attend_args *args);
void lk_attend_f32_avx2(const lk_attend_args *args);
void lk_attend_bf16_avx512(const lk_attend_args *args);
void lk_attend_f32_avx512(const lk_attend_args *args);
void lk_attend_decode_bf16_avx512bf16(const lk_attend_args *args);
void lk_attend_rows_bf16_avx512bf16(const lk_attend_args *args);
void lk_attend_rows_bf16_amx(const lk_attend_args *args);
void lk_attend_bf16_neon(const lk_attend_args *args);
void lk_attend_f32_neon(const lk_attend_args *args);
void lk_attend_decode_bf16_neonbf16(const lk_attend_args *args);
void lk_attend_rows_bf16_neonbf16(const lk_attend_args *args);
void lk_attend_q8_c(const lk_attend_args *args);
void lk_attend_q8_avx2(const lk_attend_args *args);
void lk_attend_q8_avx512(const lk_attend_args *args);
void lk_attend_decode_q8_avx512bf16(const lk_attend_args *args);
void lk_attend_rows_q8_avx512bf16(const lk_attend_args *args);
void lk_attend_q8_neon(const lk_attend_args *args);
void lk_attend_decode_lean_q8_neondot(const lk_attend_args *args); /* lean pages of int8 alone */
void lk_attend_decode_q8_neondot(const lk_attend_args *args);
void lk_attend_decode_q8_neonbf16(const lk_attend_args *args);
void lk_attend_rows_q8_neonbf16(const lk_attend_args *args);

#endif
