/* Rows of leank bench memory. */
#ifndef LEANK_CLI_BENCH_MEMORY_REPORT_H
#define LEANK_CLI_BENCH_MEMORY_REPORT_H

#include "bench_machine.h"

/* So many sequences, dense or masked. */
typedef struct bench_memory_row {
  bool masked;
  size_t n_seqs, length, n_steps; /* sequences, tokens of each at first, steps that add one */
  size_t reserved;                /* bytes that the session takes, weights aside, by the plan */
  size_t kv_bytes;                /* stored at the end */
  size_t step_bytes;              /* K, V and weights that a step reads, the mean of the steps */
  double prompt_seconds;          /* of all prompts; 0 where the content is random */
  double seconds;                 /* of n_steps */
} bench_memory_row;

/* What came of growing. */
typedef struct bench_memory_side {
  bool masked;
  size_t largest;         /* batch that was measured; 0: none fits */
  size_t best;            /* batch with the most tokens a second */
  double best_per_second; /* tokens */
} bench_memory_side;

/* budget: bytes for sessions. */
void bench_memory_head(const bench_machine *m, const leank_model_info *info, size_t n_steps,
                       size_t budget, size_t weights);
void bench_memory_print(const bench_machine *m, const cli_engine *engine,
                        const bench_memory_row *row, bool json);
/* dense or masked may be NULL: not measured. */
void bench_memory_summary(const bench_memory_side *dense, const bench_memory_side *masked,
                          size_t length, bool json);

static inline double bench_memory_speed(const bench_memory_row *row) {
  return (double)(row->n_seqs * row->n_steps) / row->seconds;
}

#endif
