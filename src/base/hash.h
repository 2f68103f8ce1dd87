/* A fast hash that tells data apart and notices damage; it proves nothing. */
#ifndef LK_BASE_HASH_H
#define LK_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LK_HASH_START 0xcbf29ce484222325u

/* FNV-1a (Fowler, Noll, Vo) over words of 8 bytes, folded after each, then over the bytes left.
 * h: LK_HASH_START, or what an earlier call gave. */
static inline uint64_t lk_hash(uint64_t h, const void *data, size_t n_bytes) {
  const unsigned char *p = (const unsigned char *)data;
  const uint64_t prime = 0x100000001b3u;
  for (; n_bytes >= 8; n_bytes -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    h = (h ^ word) * prime;
    h ^= h >> 32;
  }
  for (; n_bytes > 0; n_bytes--, p++) h = (h ^ *p) * prime;
  return h;
}

#endif
