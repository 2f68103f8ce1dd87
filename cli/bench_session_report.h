/* Rows of leank bench prefill and decode. */
#ifndef LEANK_CLI_BENCH_SESSION_REPORT_H
#define LEANK_CLI_BENCH_SESSION_REPORT_H

#include "bench_machine.h"

/* What is measured at one length, dense or masked. */
typedef struct bench_row {
  bool decode; /* else prefill */
  bool masked;
  size_t length;          /* tokens before the first measured step, or of the prompt */
  double seconds;         /* median: of a prompt, or of a step */
  double prefill_seconds; /* decode: of the prompt that filled the cache; 0 where packed */
  bool packed;            /* decode: the cache was packed from another, dense session's */
  bool random;            /* decode: the cache holds random K and V */
  size_t kv_bytes;        /* decode: stored, read once in a step; mean over the steps */
  size_t n_steps;         /* decode: of a repeat */
  size_t n_seqs;          /* decode: sequences that a step serves */
} bench_row;

/* Weights that a decode step reads: all, but of the input embedding of an untied model only a row.
 * Its bytes are taken to be its share of the parameters. On a CUDA device they are bf16. */
double bench_weight_bytes(const bench_machine *m, const leank_model_info *info);

/* The machine, and a line of titles. */
void bench_print_session_head(const bench_machine *m, const leank_model_info *info, bool decode);
void bench_print_session_row(const bench_machine *m, const cli_engine *engine,
                             const bench_row *row);
/* One line of JSON. */
void bench_print_session_json(const bench_machine *m, const cli_engine *engine,
                              const bench_row *row);

#endif
