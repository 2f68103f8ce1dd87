/* Reading the memory of a CUDA device. */
#ifndef LK_BENCH_READ_CUDA_H
#define LK_BENCH_READ_CUDA_H

#include "bench/bench_run.h"

/* leank_bench_read on the options' device. */
leank_status lk_bench_read_cuda(lk_bench_run *run, leank_bench_read_result *out, leank_error *err);

#endif
