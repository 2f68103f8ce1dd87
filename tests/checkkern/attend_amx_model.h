/* The AMX variant of op "attend" on any processor with AVX512_BF16: the same source over tile
 * instructions in software. */
#ifndef ATTEND_AMX_MODEL_H
#define ATTEND_AMX_MODEL_H

#include "kernels/attention/attend.h"

void attend_rows_bf16_amx_model(const lk_attend_args *args);

#endif
