/* How fast this machine reads memory, measured in this process. */
#ifndef LEANK_CLI_BANDWIDTH_H
#define LEANK_CLI_BANDWIDTH_H

#include <stddef.h>

typedef struct cli_bandwidth {
  double bytes_per_second; /* median of several passes */
  size_t n_bytes;          /* read in a pass: far beyond any cache; 0 where there is no memory */
  size_t n_threads;
} cli_bandwidth;

/* Reads a large buffer with n_threads threads, several times. */
cli_bandwidth cli_measure_bandwidth(size_t n_threads);

/* Sorts in place; 0 for none. */
double cli_median(double *values, size_t n);

#endif
