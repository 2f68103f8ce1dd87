/* What the benchmarks share: options with their defaults resolved, the clock, free memory, samples.
 */
#ifndef LK_BENCH_RUN_H
#define LK_BENCH_RUN_H

#include <leank/bench.h>

#include "base/error.h"

/* Things of one kind that a call rotates over. */
enum { LK_BENCH_MAX_COPIES = 1 << 20 };
/* Of one thing, and to rotate over: sums of both stay far from overflow. */
#define LK_BENCH_MAX_BYTES ((size_t)1 << 50)

/* A call in progress. */
typedef struct lk_bench_run {
  leank_bench_options options; /* resolved */
  uint64_t done, total;        /* for on_progress */
} lk_bench_run;

/* LEANK_E_ARGUMENT. options NULL = the defaults. */
leank_status lk_bench_begin(const leank_bench_options *options, lk_bench_run *out,
                            leank_error *err);
/* One unit is done: tells the caller, asks whether to stop. LEANK_E_INTERRUPTED. */
leank_status lk_bench_tick(lk_bench_run *run, leank_error *err);

/* LEANK_E_MEMORY where `what` needs more than is free. */
leank_status lk_bench_check_free(size_t n_bytes, const char *what, leank_error *err);

/* Samples of one thing. */
typedef struct lk_bench_samples {
  double *seconds; /* [capacity], owned */
  size_t n, capacity;
} lk_bench_samples;

leank_status lk_bench_samples_open(lk_bench_samples *samples, size_t capacity, leank_error *err);
void lk_bench_samples_close(lk_bench_samples *samples);
void lk_bench_samples_add(lk_bench_samples *samples, double seconds);
/* Median (sorts) and least; 0 for none. */
double lk_bench_samples_median(lk_bench_samples *samples);
double lk_bench_samples_least(const lk_bench_samples *samples);

/* The variant behind "op: " among a backend's "op: variant" lines; empty where it is not there. */
void lk_bench_kernel_of(const char *names, const char *op, char *out, size_t size);

#endif
