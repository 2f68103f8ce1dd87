#include "base/parallel.h"

#include <omp.h>
#include <sched.h>

void lk_parallel_for(size_t n_threads, size_t n_items, lk_item_fn fn, void *ctx) {
  if (n_threads > n_items) n_threads = n_items;
  if (n_threads <= 1) {
    for (size_t i = 0; i < n_items; i++) fn(ctx, i, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)n_threads)
  for (size_t i = 0; i < n_items; i++) fn(ctx, i, (size_t)omp_get_thread_num());
}

size_t lk_parallel_default_threads(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return (size_t)CPU_COUNT(&set);
  return 1;
}
