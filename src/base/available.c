#include "base/available.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The first number in a file, behind `key` where there is one; false where there is none. */
static bool read_number(const char *path, const char *key, unsigned long long *out) {
  FILE *file = fopen(path, "r");
  char line[256];
  bool found = false;
  if (!file) return false;
  while (!found && fgets(line, sizeof line, file)) {
    const char *at = key ? strstr(line, key) : line;
    found = at && sscanf(key ? at + strlen(key) : at, "%llu", out) == 1;
  }
  fclose(file);
  return found;
}

size_t lk_mem_available(void) {
  unsigned long long kib, limit, used;
  size_t n = SIZE_MAX;
  if (read_number("/proc/meminfo", "MemAvailable:", &kib)) n = (size_t)kib * 1024;
  if (read_number("/sys/fs/cgroup/memory.max", NULL, &limit) &&
      read_number("/sys/fs/cgroup/memory.current", NULL, &used)) {
    const size_t left = limit > used ? (size_t)(limit - used) : 0;
    if (left < n) n = left;
  }
  return n;
}
