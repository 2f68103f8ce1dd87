/* checkkern: every variant of every kernel against a float64 oracle. One check_<op>.c per op. */
#ifndef CHECKKERN_H
#define CHECKKERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/cpu_features.h"

typedef struct checkkern {
  uint64_t seed;
  bool bench;       /* print speed beside */
  bool quick;       /* of the slow checks, a random part of the shapes: for emulators */
  const char *only; /* run variants whose name holds this, or NULL */
  size_t n_checked; /* comparisons made */
  size_t n_failed;
  size_t n_skipped;                          /* variants this machine cannot run */
  leank_cpu_level levels[LK_CPU_MAX_LEVELS]; /* of this architecture, LEANK_CPU_BEST first */
  size_t n_levels;
} checkkern;

/* False, counted as skipped, where `only` or this machine's level leaves the variant out. */
bool checkkern_wants(checkkern *ck, const char *name, int level);
/* Counts one comparison; prints the first failures of a variant in full. */
void checkkern_expect(checkkern *ck, bool ok, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* n_bytes that end right before an inaccessible page (and begin right after one if `front`). */
void *checkkern_guarded(size_t n_bytes, bool front);
void checkkern_guarded_free(void *p, size_t n_bytes, bool front);
/* Seconds per call, median of several rounds after a warm-up. */
double checkkern_time(void (*fn)(void *ctx), void *ctx);

void check_dequant(checkkern *ck);
void check_matvec(checkkern *ck);
void check_rows(checkkern *ck);
void check_page(checkkern *ck);
void check_attend(checkkern *ck);
void check_attend_backward(checkkern *ck);

#endif
