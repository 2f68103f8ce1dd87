/* One harness per format: a libFuzzer entry that reads the bytes and uses what it got. Two programs
 * are made of each: fuzz_<x> (libFuzzer, clang) and fuzz_replay_<x> (fuzz_replay.c, any compiler).
 */
#ifndef FUZZ_TARGET_H
#define FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a reader promises must hold on any input; NDEBUG does not switch this off. */
#define FUZZ_REQUIRE(condition)                                                                    \
  do {                                                                                             \
    if (!(condition)) abort();                                                                     \
  } while (0)

/* Reads every byte of a range, so that a sanitizer sees one that is not there. */
static inline void fuzz_touch(const void *p, size_t n) {
  const volatile unsigned char *bytes = p;
  for (size_t i = 0; i < n; i++) (void)bytes[i];
}

#endif
