/* checkkern: options, guard pages, counting, timing. */
#include "checkkern.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "cpu/cpu_features.h"

enum { MAX_PRINTED = 5, N_ROUNDS = 7 };
static const double MIN_ROUND_SECONDS = 0.005;
static const unsigned char CANARY = 0xa5;

static leank_cpu_level best_level;
static size_t n_broken_canaries;

/* ---- counting ---- */

bool checkkern_wants(checkkern *ck, const char *name, int level) {
  if ((ck->only && !strstr(name, ck->only)) || level > (int)best_level) {
    ck->n_skipped++;
    return false;
  }
  return true;
}

/* Failures of one variant come in a row: a count per name in sequence is enough. */
static bool may_print(const char *name) {
  static char last[128];
  static int n_printed;
  if (strncmp(last, name, sizeof last - 1) != 0) {
    snprintf(last, sizeof last, "%s", name);
    n_printed = 0;
  }
  return n_printed++ < MAX_PRINTED;
}

void checkkern_expect(checkkern *ck, bool ok, const char *name, const char *fmt, ...) {
  ck->n_checked++;
  if (ok) return;
  ck->n_failed++;
  if (!may_print(name)) return;
  va_list args;
  va_start(args, fmt);
  printf("FAILED %s: ", name);
  vprintf(fmt, args);
  printf("\n");
  va_end(args);
}

/* ---- guard pages ---- */

static size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* Bytes of the accessible pages that hold n_bytes. */
static size_t inner_bytes(size_t n_bytes) {
  const size_t page = page_bytes();
  return n_bytes ? (n_bytes + page - 1) / page * page : page;
}

/* [guard][accessible][guard]; the part of the accessible pages outside the block holds a canary,
 * so that a write on the side without a fault is found when the block is freed. */
void *checkkern_guarded(size_t n_bytes, bool front) {
  const size_t page = page_bytes(), inner = inner_bytes(n_bytes);
  unsigned char *base = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED || mprotect(base + page, inner, PROT_READ | PROT_WRITE) != 0) {
    perror("checkkern: guard pages");
    exit(2);
  }
  memset(base + page, CANARY, inner);
  return base + page + (front ? 0 : inner - n_bytes);
}

void checkkern_guarded_free(void *p, size_t n_bytes, bool front) {
  const size_t page = page_bytes(), inner = inner_bytes(n_bytes);
  unsigned char *block = p, *start = front ? block : block + n_bytes - inner;
  for (size_t i = 0; i < inner; i++) {
    const bool inside = start + i >= block && start + i < block + n_bytes;
    if (inside || start[i] == CANARY) continue;
    printf("FAILED: a write %s a block of %zu bytes\n", front ? "behind" : "before", n_bytes);
    n_broken_canaries++;
    break;
  }
  munmap(start - page, inner + 2 * page);
}

/* ---- timing ---- */

/* Time of this thread alone: what else runs on the machine disturbs it less. */
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double time_round(void (*fn)(void *ctx), void *ctx, size_t n_calls) {
  const double start = now();
  for (size_t i = 0; i < n_calls; i++) fn(ctx);
  return now() - start;
}

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double checkkern_time(void (*fn)(void *ctx), void *ctx) {
  size_t n_calls = 1;
  while (time_round(fn, ctx, n_calls) < MIN_ROUND_SECONDS) n_calls *= 2;
  double rounds[N_ROUNDS];
  for (size_t i = 0; i < N_ROUNDS; i++) rounds[i] = time_round(fn, ctx, n_calls) / (double)n_calls;
  qsort(rounds, N_ROUNDS, sizeof rounds[0], compare_doubles);
  return rounds[N_ROUNDS / 2];
}

/* ---- options ---- */

static int usage(void) {
  fprintf(stderr, "usage: checkkern [--seed N] [--bench] [--quick] [--only STR] [--cpu=best|c|"
                  "avx2|avx512|avx512bf16|amx|neon|neondot|neonbf16]\n");
  return 2;
}

static uint64_t fresh_seed(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec + ((uint64_t)getpid() << 32);
}

static bool parse_seed(const char *text, uint64_t *out) {
  char *end;
  *out = strtoull(text, &end, 0);
  return *text && !*end;
}

static bool parse_options(int argc, char **argv, checkkern *ck, leank_cpu_level *cap) {
  for (int i = 1; i < argc; i++) {
    const char *arg = argv[i];
    const bool more = i + 1 < argc;
    if (strcmp(arg, "--bench") == 0) {
      ck->bench = true;
    } else if (strcmp(arg, "--quick") == 0) {
      ck->quick = true;
    } else if (strcmp(arg, "--seed") == 0 && more) {
      if (!parse_seed(argv[++i], &ck->seed)) return false;
    } else if (strcmp(arg, "--only") == 0 && more) {
      ck->only = argv[++i];
    } else if (strncmp(arg, "--cpu=", 6) == 0) {
      if (!lk_cpu_level_parse(arg + 6, cap)) return false;
      if (!lk_cpu_level_is_own(*cap)) {
        fprintf(stderr, "checkkern: %s is not a level of %s\n", arg + 6, lk_cpu_architecture());
        return false;
      }
    } else {
      return false;
    }
  }
  return true;
}

int main(int argc, char **argv) {
  checkkern ck = {.seed = fresh_seed()};
  leank_cpu_level cap = LEANK_CPU_BEST;
  if (!parse_options(argc, argv, &ck, &cap)) return usage();
  best_level = lk_cpu_level(cap);
  ck.n_levels = lk_cpu_own_levels(ck.levels);
  printf("checkkern: seed %" PRIu64 ", level %s\n", ck.seed, lk_cpu_level_name(best_level));
  fflush(stdout); /* the seed must be out before a guard page ends the program */

  check_dequant(&ck);
  check_matvec(&ck);
  check_rows(&ck);
  check_page(&ck);
  check_attend(&ck);
  check_attend_backward(&ck);

  ck.n_failed += n_broken_canaries;
  printf("checkkern: %zu comparisons, %zu failed, %zu variants left out, seed %" PRIu64 "\n",
         ck.n_checked, ck.n_failed, ck.n_skipped, ck.seed);
  if (ck.n_checked == 0) printf("checkkern: nothing was checked\n");
  return ck.n_failed || ck.n_checked == 0 ? 1 : 0;
}
