/* Strings of an array found by their text: open addressing over indices. */
#ifndef LK_TEXT_STR_MAP_H
#define LK_TEXT_STR_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lk_span {
  const char *p;
  size_t n;
} lk_span;

typedef struct lk_str_map {
  const lk_span *keys; /* somebody else's array; must stay */
  uint32_t *slots;     /* index + 1, 0 = free */
  size_t n_slots;      /* a power of two */
} lk_str_map;

/* Room for n_keys strings of keys[]. False where memory is short. */
bool lk_str_map_open(lk_str_map *map, const lk_span *keys, size_t n_keys);
void lk_str_map_free(lk_str_map *map);
/* Adds keys[index]. False where an equal string is in the map already. */
bool lk_str_map_put(lk_str_map *map, size_t index);
/* The index of the string made of a and b in a row, or -1. */
int32_t lk_str_map_get(const lk_str_map *map, lk_span a, lk_span b);

/* A good mixer of 64 bits (the finaliser of splitmix64). */
static inline uint64_t lk_mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

#endif
