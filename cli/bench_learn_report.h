/* What leank bench learn measured at one length. */
#ifndef LEANK_CLI_BENCH_LEARN_REPORT_H
#define LEANK_CLI_BENCH_LEARN_REPORT_H

#include "bench_machine.h"

/* One kind of work, done n times: the median of its seconds and of its arithmetic. n 0: never. */
typedef struct bench_learn_part {
  size_t n;
  double seconds, flops;
} bench_learn_part;

typedef struct bench_learn_row {
  const leank_learn_options *options; /* as measured */
  bench_learn_part context, update[2], evaluation;
  double context_tokens; /* that reading a context computes: its own and those of its questions */
  size_t kv_bytes;       /* of all contexts */
  size_t device_bytes;   /* in use on a device at the end, by all that runs there; else 0 */
} bench_learn_row;

/* The machine, what is learned from, a line of titles. */
void bench_learn_head(const bench_machine *m, const leank_model_info *info,
                      const leank_learn_options *options);
void bench_learn_print(const bench_machine *m, const cli_engine *engine, const bench_learn_row *row,
                       bool json);

#endif
