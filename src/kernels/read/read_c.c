#include <string.h>

#include "kernels/read/read_kernels.h"

enum { LINE_BYTES = 64, N_WORDS = LINE_BYTES / 8 };

static void prefetch_turn(const unsigned char *p) {
  for (size_t i = 0; i < LK_READ_TURN; i += LINE_BYTES) __builtin_prefetch(p + i, 0, 3);
}

/* A sum for every word of a line: no addition waits for another. */
static void read_turn(const unsigned char *p, uint64_t *sums) {
  for (size_t i = 0; i < LK_READ_TURN; i += LINE_BYTES) {
    uint64_t line[N_WORDS];
    memcpy(line, p + i, LINE_BYTES);
    for (size_t j = 0; j < N_WORDS; j++) sums[j] ^= line[j];
  }
}

uint64_t lk_read_c(const void *data, size_t n_bytes, size_t n_streams, bool prefetch) {
  const unsigned char *bytes = data;
  const size_t span = n_bytes / n_streams;
  uint64_t sums[N_WORDS] = {0}, sum = 0;
  for (size_t at = 0; at < span; at += LK_READ_TURN)
    for (size_t s = 0; s < n_streams; s++) {
      const unsigned char *p = bytes + s * span + at;
      if (prefetch && at + LK_READ_AHEAD < span) prefetch_turn(p + LK_READ_AHEAD);
      read_turn(p, sums);
    }
  for (size_t j = 0; j < N_WORDS; j++) sum ^= sums[j];
  return sum;
}
