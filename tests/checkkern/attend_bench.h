/* Speed of op "attend". */
#ifndef ATTEND_BENCH_H
#define ATTEND_BENCH_H

#include "kernels/attention/attend.h"

/* Prints, for one thread: decode over 32K keys per head, rotating over 1 GiB of pages so that no
 * cache holds them, beside a plain read of the same memory; rows over pages that stay near. */
void attend_bench(const lk_attend_variant *variant);

#endif
