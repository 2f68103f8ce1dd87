/* Runs a harness without libFuzzer: over every file of a corpus, and over deterministic changes of
 * each. What CI runs with every compiler; it finds nothing new, it keeps what was found.
 *
 *   fuzz_replay_<x> FOLDER [changes per file, default 3000] */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/rng.h"
#include "fuzz_target.h"

enum { MAX_EDITS = 4, MAX_SIZE = 1 << 20 };

typedef struct input {
  unsigned char *bytes; /* with room for MAX_EDITS pieces more */
  size_t n;
} input;

/* Counts and sizes that readers get wrong. */
static const uint64_t telling[] = {0,         1,          0x7f,       0x80,       0xff,
                                   0x7fff,    0xffff,     0x7fffffff, 0x80000000, 0xffffffff,
                                   INT64_MAX, 1ull << 63, UINT64_MAX, 1ull << 32, 1ull << 61};

static void write_number(lk_rng *rng, input *in) {
  const uint64_t value = telling[lk_rng_below(rng, sizeof telling / sizeof *telling)];
  const size_t width = (size_t)1 << lk_rng_below(rng, 4);
  if (in->n < width) return;
  memcpy(in->bytes + lk_rng_below(rng, in->n - width + 1), &value, width);
}

static void move_piece(lk_rng *rng, input *in, bool insert) {
  const size_t from = lk_rng_below(rng, in->n), to = lk_rng_below(rng, in->n);
  size_t n = lk_rng_below(rng, 32) + 1;
  if (n > in->n - from) n = in->n - from;
  if (insert) {
    unsigned char piece[32];
    memcpy(piece, in->bytes + from, n);
    memmove(in->bytes + to + n, in->bytes + to, in->n - to);
    memcpy(in->bytes + to, piece, n);
    in->n += n;
  } else {
    memmove(in->bytes + from, in->bytes + from + n, in->n - from - n);
    in->n -= n;
  }
}

static void edit(lk_rng *rng, input *in) {
  if (in->n == 0) return;
  switch (lk_rng_below(rng, 6)) {
  case 0: in->bytes[lk_rng_below(rng, in->n)] ^= (unsigned char)(1u << lk_rng_below(rng, 8)); break;
  case 1: in->bytes[lk_rng_below(rng, in->n)] = (unsigned char)lk_rng_u64(rng); break;
  case 2: write_number(rng, in); break;
  case 3: in->n = lk_rng_below(rng, in->n + 1); break;
  case 4: move_piece(rng, in, true); break;
  default: move_piece(rng, in, false); break;
  }
}

/* An exact copy, so that a sanitizer sees reads beyond the end. */
static void run(const unsigned char *bytes, size_t n) {
  unsigned char *copy = malloc(n ? n : 1);
  if (!copy) exit(2);
  if (n > 0) memcpy(copy, bytes, n);
  LLVMFuzzerTestOneInput(copy, n);
  free(copy);
}

static int replay(const char *path, size_t n_changes) {
  lk_map map;
  leank_error err;
  if (lk_map_open(path, &map, &err) != LEANK_OK) {
    fprintf(stderr, "%s\n", err.message);
    return 1;
  }
  if (map.n_bytes > MAX_SIZE) {
    fprintf(stderr, "%s: too large for a corpus\n", path);
    return 1;
  }
  run(map.data, map.n_bytes);
  input in = {malloc(map.n_bytes + 32 * MAX_EDITS + 1), 0};
  if (!in.bytes) exit(2);
  lk_rng rng = {map.n_bytes}; /* the same changes wherever the corpus lies */
  for (size_t i = 0; i < n_changes; i++) {
    in.n = map.n_bytes;
    memcpy(in.bytes, map.data, in.n);
    for (uint64_t k = lk_rng_below(&rng, MAX_EDITS) + 1; k > 0; k--) edit(&rng, &in);
    run(in.bytes, in.n);
  }
  free(in.bytes);
  lk_map_close(&map);
  return 0;
}

static int keep_file(const struct dirent *entry) { return entry->d_name[0] != '.'; }

int main(int argc, char **argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: %s FOLDER [changes per file]\n", argv[0]);
    return 2;
  }
  const size_t n_changes = argc == 3 ? strtoul(argv[2], NULL, 10) : 3000;
  struct dirent **entries;
  const int n = scandir(argv[1], &entries, keep_file, alphasort);
  int failures = 0;
  if (n <= 0) { /* a corpus that is gone must not pass */
    fprintf(stderr, "%s: no files\n", argv[1]);
    return 1;
  }
  for (int i = 0; i < n; i++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", argv[1], entries[i]->d_name);
    failures += replay(path, n_changes);
    free(entries[i]);
  }
  free(entries);
  printf("%d files, %zu changes of each\n", n, n_changes);
  return failures != 0;
}
