#include "bench/bench_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <leank/cpu.h>

#include "base/alloc.h"
#include "base/available.h"
#include "base/parallel.h"

enum { MAX_THREADS = 1024, MAX_REPEATS = 1 << 20 };

void leank_bench_options_default(leank_bench_options *o) {
  *o = (leank_bench_options){.struct_size = sizeof *o,
                             .cpu = LEANK_CPU_BEST,
                             .n_repeats = 5,
                             .rotate_bytes = (size_t)2 << 30};
}

leank_status lk_bench_begin(const leank_bench_options *options, lk_bench_run *out,
                            leank_error *err) {
  leank_status status = LEANK_OK;
  leank_bench_options o;
  leank_bench_options_default(&o);
  if (options) {
    LK_FAIL_IF(options->struct_size != sizeof o, err, LEANK_E_ARGUMENT, -1,
               "bench options of %zu bytes: fill them with leank_bench_options_default",
               options->struct_size);
    o = *options;
  }
  LK_FAIL_IF(o.n_threads > MAX_THREADS, err, LEANK_E_ARGUMENT, -1, "%zu threads: at most %d",
             o.n_threads, MAX_THREADS);
  LK_FAIL_IF(o.n_repeats == 0 || o.n_repeats > MAX_REPEATS, err, LEANK_E_ARGUMENT, -1,
             "%zu repeats: 1 to %d are possible", o.n_repeats, MAX_REPEATS);
  LK_FAIL_IF(o.cpu < LEANK_CPU_BEST || !leank_cpu_level_name(o.cpu), err, LEANK_E_ARGUMENT, -1,
             "unknown CPU level %d", (int)o.cpu);
  LK_FAIL_IF(o.device < LEANK_DEVICE_CPU || o.device > LEANK_DEVICE_CUDA || o.device_index < 0, err,
             LEANK_E_ARGUMENT, -1, "unknown device %d:%d", (int)o.device, o.device_index);
  LK_FAIL_IF(o.rotate_bytes > LK_BENCH_MAX_BYTES, err, LEANK_E_ARGUMENT, -1,
             "rotating over %zu bytes is not possible", o.rotate_bytes);
  if (o.n_threads == 0) o.n_threads = lk_parallel_default_threads();
  *out = (lk_bench_run){.options = o};
cleanup:
  return status;
}

leank_status lk_bench_tick(lk_bench_run *run, leank_error *err) {
  const leank_bench_options *o = &run->options;
  run->done++;
  if (o->on_progress) o->on_progress(o->user, run->done, run->total);
  if (o->should_stop && o->should_stop(o->user))
    return lk_fail(err, LEANK_E_INTERRUPTED, -1, "interrupted");
  return LEANK_OK;
}

/* ---- memory ---- */

leank_status lk_bench_check_free(size_t n_bytes, const char *what, leank_error *err) {
  const size_t n_free = lk_mem_available();
  if (n_bytes <= n_free) return LEANK_OK;
  return lk_fail(err, LEANK_E_MEMORY, -1, "%s needs %zu bytes, and %zu are free", what, n_bytes,
                 n_free);
}

/* ---- samples ---- */

leank_status lk_bench_samples_open(lk_bench_samples *s, size_t capacity, leank_error *err) {
  *s = (lk_bench_samples){.seconds = lk_alloc(LK_MEM_OTHER, capacity, sizeof *s->seconds),
                          .capacity = capacity};
  return s->seconds ? LEANK_OK : lk_fail(err, LEANK_E_MEMORY, -1, "out of memory for samples");
}

void lk_bench_samples_close(lk_bench_samples *s) {
  lk_free(s->seconds);
  *s = (lk_bench_samples){0};
}

void lk_bench_samples_add(lk_bench_samples *s, double seconds) {
  if (s->n < s->capacity) s->seconds[s->n++] = seconds;
}

static int compare_doubles(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double lk_bench_samples_median(lk_bench_samples *s) {
  if (s->n == 0) return 0;
  qsort(s->seconds, s->n, sizeof *s->seconds, compare_doubles);
  const double upper = s->seconds[s->n / 2];
  return s->n % 2 ? upper : (s->seconds[s->n / 2 - 1] + upper) / 2;
}

double lk_bench_samples_least(const lk_bench_samples *s) {
  double least = s->n > 0 ? s->seconds[0] : 0;
  for (size_t i = 1; i < s->n; i++) least = s->seconds[i] < least ? s->seconds[i] : least;
  return least;
}

void lk_bench_kernel_of(const char *names, const char *op, char *out, size_t size) {
  const size_t n_op = strlen(op);
  out[0] = '\0';
  for (const char *line = names; *line; line += strcspn(line, "\n"), line += *line == '\n')
    if (strncmp(line, op, n_op) == 0 && strncmp(line + n_op, ": ", 2) == 0) {
      const char *name = line + n_op + 2;
      snprintf(out, size, "%.*s", (int)strcspn(name, "\n"), name);
      return;
    }
}
