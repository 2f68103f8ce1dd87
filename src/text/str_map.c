#include "text/str_map.h"

#include <string.h>

#include "base/alloc.h"

/* FNV-1a, continued over parts. */
static uint64_t hash_part(uint64_t h, lk_span s) {
  for (size_t i = 0; i < s.n; i++) h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
  return h;
}

static size_t slot_of(const lk_str_map *map, lk_span a, lk_span b) {
  const uint64_t h = hash_part(hash_part(0xcbf29ce484222325u, a), b);
  return (size_t)lk_mix64(h) & (map->n_slots - 1);
}

static bool equal(lk_span key, lk_span a, lk_span b) {
  return key.n == a.n + b.n && (a.n == 0 || memcmp(key.p, a.p, a.n) == 0) &&
         (b.n == 0 || memcmp(key.p + a.n, b.p, b.n) == 0);
}

/* The slot that holds the string, or the free one where it would go. */
static size_t find(const lk_str_map *map, lk_span a, lk_span b) {
  size_t slot = slot_of(map, a, b);
  while (map->slots[slot] && !equal(map->keys[map->slots[slot] - 1], a, b))
    slot = (slot + 1) & (map->n_slots - 1);
  return slot;
}

bool lk_str_map_open(lk_str_map *map, const lk_span *keys, size_t n_keys) {
  size_t n_slots = 16;
  while (n_slots < 2 * n_keys) n_slots *= 2;
  *map = (lk_str_map){keys, lk_alloc(LK_MEM_TEXT, n_slots, sizeof *map->slots), n_slots};
  return map->slots != NULL;
}

void lk_str_map_free(lk_str_map *map) {
  lk_free(map->slots);
  *map = (lk_str_map){0};
}

bool lk_str_map_put(lk_str_map *map, size_t index) {
  const size_t slot = find(map, map->keys[index], (lk_span){"", 0});
  if (map->slots[slot]) return false;
  map->slots[slot] = (uint32_t)index + 1;
  return true;
}

int32_t lk_str_map_get(const lk_str_map *map, lk_span a, lk_span b) {
  if (map->n_slots == 0) return -1;
  return (int32_t)map->slots[find(map, a, b)] - 1;
}
