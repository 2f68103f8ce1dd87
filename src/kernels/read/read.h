/* Op "read": reads memory as fast as it comes, for benchmarks. */
#ifndef LK_KERNELS_READ_H
#define LK_KERNELS_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <leank/session.h>

/* A span is read in turns of LK_READ_TURN bytes; LK_READ_AHEAD bytes ahead are prefetched. */
enum { LK_READ_TURN = 256, LK_READ_AHEAD = 4096, LK_READ_MAX_STREAMS = 8 };

/* Exclusive or of the 64-bit words of data[n_bytes], 64-byte aligned: n_streams (1, 2, 4, 8) equal
 * spans side by side, a turn of each after the other. n_bytes is a multiple of n_streams turns.
 * prefetch: asks for bytes ahead in the same span, never for others. Reads nothing beyond data. */
typedef uint64_t (*lk_read_fn)(const void *data, size_t n_bytes, size_t n_streams, bool prefetch);

typedef struct lk_read_variant {
  const char *name; /* e.g. "read_avx512" */
  leank_cpu_level level;
  lk_read_fn fn;
} lk_read_variant;

/* Ascending level, ended by name NULL. */
extern const lk_read_variant lk_read_variants[];
/* The best one of at most `level`. Never NULL. */
const lk_read_variant *lk_read_select(leank_cpu_level level);

#endif
