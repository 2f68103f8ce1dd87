#include "cli_bandwidth.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli_console.h"

enum { N_PASSES = 5, MAX_THREADS = 256 };

typedef struct reader {
  const uint64_t *words;
  size_t n_words;
  uint64_t sum;
} reader;

/* Several sums side by side, so that additions never wait for each other. */
static void *read_words(void *user) {
  enum { N_SUMS = 16 };
  reader *r = user;
  uint64_t sums[N_SUMS] = {0};
  for (size_t i = 0; i + N_SUMS <= r->n_words; i += N_SUMS) {
    for (size_t j = 0; j < N_SUMS; j++) sums[j] += r->words[i + j];
  }
  for (size_t j = 0; j < N_SUMS; j++) r->sum += sums[j];
  return NULL;
}

/* Some virtual machines report a cache of 480 MB: 2 GiB is beyond it; half of what is free where
 * that is less. */
static size_t choose_bytes(void) {
  size_t wanted = (size_t)2 << 30;
  long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  size_t available = pages > 0 && page > 0 ? (size_t)pages / 2 * (size_t)page : wanted;
  return (available < wanted ? available : wanted) / 4096 * 4096;
}

/* Seconds of one pass; negative where a thread cannot start. */
static double read_pass(const uint64_t *words, size_t n_words, size_t n_threads) {
  static reader readers[MAX_THREADS];
  pthread_t threads[MAX_THREADS];
  size_t share = n_words / n_threads, n_started = 0;
  double start = cli_seconds();
  for (; n_started < n_threads; n_started++) {
    readers[n_started] = (reader){words + n_started * share, share, 0};
    if (pthread_create(&threads[n_started], NULL, read_words, &readers[n_started])) break;
  }
  for (size_t i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
  return n_started == n_threads ? cli_seconds() - start : -1;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double cli_median(double *values, size_t n) {
  if (n == 0) return 0;
  qsort(values, n, sizeof *values, compare_doubles);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

cli_bandwidth cli_measure_bandwidth(size_t n_threads) {
  cli_bandwidth result = {0, 0, n_threads > MAX_THREADS ? MAX_THREADS : n_threads};
  size_t n_bytes = choose_bytes();
  double seconds[N_PASSES];
  if (n_bytes == 0 || result.n_threads == 0) return result;
  void *buffer = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (buffer == MAP_FAILED) return result;
  madvise(buffer, n_bytes, MADV_HUGEPAGE);
  memset(buffer, 1, n_bytes); /* untouched pages would all be one page of zeros */
  for (size_t i = 0; i < N_PASSES; i++) {
    seconds[i] = read_pass(buffer, n_bytes / sizeof(uint64_t), result.n_threads);
    if (seconds[i] <= 0) goto cleanup;
  }
  result.n_bytes = n_bytes;
  result.bytes_per_second = (double)n_bytes / cli_median(seconds, N_PASSES);
cleanup:
  munmap(buffer, n_bytes);
  return result;
}
