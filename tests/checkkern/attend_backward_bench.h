/* Speed of op "attend_backward". */
#ifndef ATTEND_BACKWARD_BENCH_H
#define ATTEND_BACKWARD_BENCH_H

#include "kernels/attention/attend_backward.h"

void attend_backward_bench(const lk_attend_backward_variant *variant);

#endif
