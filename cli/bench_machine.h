/* What all benchmarks of the program share: the machine they ran on, how fast it reads memory,
 * their progress and Ctrl-C. */
#ifndef LEANK_CLI_BENCH_MACHINE_H
#define LEANK_CLI_BENCH_MACHINE_H

#include <jansson.h>

#include <leank/bench.h>
#include <leank/cpu.h>
#include <leank/device.h>

#include "cli_console.h"
#include "cli_engine.h"

typedef struct bench_machine {
  leank_bench_options options; /* of every measurement; progress and Ctrl-C are set */
  leank_cpu_info cpu;
  leank_bench_read_result read;
  bool on_cuda; /* sessions run on `device`, whose memory is what `read` is of */
  int device_index;
  leank_device_info device;
  cli_progress progress;
} bench_machine;

/* Rows of a command's table; m is a bench_machine whose options are set to the defaults, e a
 * cli_engine_options, json a bool. */
#define BENCH_ROWS(m, e, json)                                                                     \
  {'r',      "repeat",                                                                             \
   CLI_SIZE, &(m).options.n_repeats,                                                               \
   "R",      "passes over everything that are timed (5)"},                                         \
      {0,        "rotate",                                                                         \
       CLI_SIZE, &(m).options.rotate_bytes,                                                        \
       "BYTES",  "read before anything is read again (2048M)"},                                    \
      CLI_THREADS_ROWS(e), {                                                                       \
    0, "json", CLI_FLAG, &(json), NULL, "one JSON object a line"                                   \
  }

/* Describes the machine, or the CUDA device of `engine`, with the threads and level of `engine`:
 * m's options are complete. m must stay where it is. CLI_GO, or complains. */
int bench_machine_describe(bench_machine *m, const cli_engine_options *engine);
/* Measures the read bandwidth of the memory of a machine that is described. Where memory is short,
 * over less than options.rotate_bytes; over 2 GiB at most. Complains and returns a code other than
 * CLI_GO where that fails. */
int bench_machine_read(bench_machine *m);
/* Both. */
int bench_machine_open(bench_machine *m, const cli_engine_options *engine);

/* Around every measurement: a progress bar, Ctrl-C; end returns CLI_GO for LEANK_OK, else complains
 * and returns what the shell gets. */
void bench_measure_begin(bench_machine *m, const char *label);
int bench_measure_end(bench_machine *m, leank_status status, const leank_error *err);

/* What is free now of the memory that sessions are in. CLI_GO, or complains. */
int bench_free_bytes(const bench_machine *m, size_t *out);

double bench_read_bandwidth(const bench_machine *m); /* bytes a second */
/* The variant of an operation ("attend", "matvec Q4_K") in a session on this machine. */
void bench_kernel_name(const bench_machine *m, const char *op, char *out, size_t size);
/* A line with processor, level, threads and read bandwidth. */
void bench_print_machine(const bench_machine *m);
/* The same as members of a JSON object. */
void bench_json_machine(const bench_machine *m, json_t *o);
/* bytes over seconds and its share of the read bandwidth, as members. */
void bench_json_speed(const bench_machine *m, double n_bytes, double seconds, json_t *o);

/* Sorts in place; 0 for none. */
double bench_median(double *values, size_t n);

#endif
