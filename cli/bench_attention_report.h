/* Rows of leank bench attention. */
#ifndef LEANK_CLI_BENCH_ATTENTION_REPORT_H
#define LEANK_CLI_BENCH_ATTENTION_REPORT_H

#include "bench_machine.h"

/* One cache that was timed, and the dense one beside it. */
typedef struct bench_side {
  bool dense;
  const char *mask; /* path, or NULL */
  size_t n_kept;    /* of every head, where mask is NULL */
  leank_bench_attention_result result;
  const leank_bench_layer *layers; /* [L] */
} bench_side;

typedef struct bench_attention_report {
  const bench_machine *machine;
  bool json, layers; /* layers: a row for each, too */
} bench_attention_report;

/* The machine, the shape and a line of titles; nothing for JSON. */
void bench_attention_head(const bench_attention_report *report, const leank_bench_shape *shape);
/* dense: what side is compared with, or NULL. */
void bench_attention_row(const bench_attention_report *report, const leank_bench_shape *shape,
                         const bench_side *side, const bench_side *dense);

#endif
