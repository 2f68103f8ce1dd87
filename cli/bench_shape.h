/* The shape of an attention to time: from --heads, a model's description, a mask. */
#ifndef LEANK_CLI_BENCH_SHAPE_H
#define LEANK_CLI_BENCH_SHAPE_H

#include <leank/bench.h>

#include "cli_engine.h"

typedef struct bench_shape_options {
  const char *model;       /* .gguf file, folder, config.json, or NULL */
  const char *mask;        /* path, or NULL */
  cli_sizes heads;         /* Hq,Hk,D; Hq alone beside a mask; empty: the model's */
  size_t n_layers;         /* 0 = the model's or mask's, else 1 */
  size_t n_sink, n_recent; /* SIZE_MAX = the mask's */
  int kv_type;
} bench_shape_options;

/* Fills shape (all but tokens and sequences) and opens the mask, where there is one; the caller
 * closes it. Complains and returns CLI_USAGE or CLI_FAILURE, else CLI_GO. */
int bench_shape_make(const bench_shape_options *o, leank_bench_shape *shape, leank_mask **mask);

#endif
