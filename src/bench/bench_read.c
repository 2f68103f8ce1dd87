/* How fast memory is read: threads that keep their own buffers through all patterns and passes. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "bench/bench_read_cuda.h"
#include "bench/bench_run.h"
#include "kernels/read/read.h"

enum { GRAIN = LK_READ_TURN * LK_READ_MAX_STREAMS, N_PATTERNS = 8 };
_Static_assert(N_PATTERNS <= LEANK_BENCH_MAX_PATTERNS, "a result has room for all patterns");

typedef struct reader {
  struct read_bench *bench;
  pthread_t handle;
  unsigned char *buffer; /* [bytes_per_thread] */
  uint64_t sum;
  double begin, end; /* of the pass */
} reader;

typedef struct read_bench {
  lk_bench_run run;
  const lk_read_variant *variant;
  size_t bytes_per_thread;
  reader *readers;      /* [n_threads], 0 is the caller */
  pthread_mutex_t gate; /* held until all threads are there, or one is missing */
  pthread_barrier_t barrier;
  bool called_off;
  atomic_bool stop;
  lk_bench_samples samples[N_PATTERNS];
} read_bench;

static size_t streams_of(size_t pattern) { return (size_t)1 << pattern % 4; }
static bool prefetches(size_t pattern) { return pattern >= 4; }

/* Not zeros: untouched pages would all be the system's one page of them. */
static void touch(reader *r) { memset(r->buffer, 1, r->bench->bytes_per_thread); }

static void read_once(reader *r, size_t pattern) {
  const read_bench *b = r->bench;
  r->begin = lk_seconds();
  r->sum ^=
      b->variant->fn(r->buffer, b->bytes_per_thread, streams_of(pattern), prefetches(pattern));
  r->end = lk_seconds();
}

/* Of the pass that has just ended: from the first thread's begin to the last one's end. */
static double pass_seconds(const read_bench *b) {
  double begin = b->readers[0].begin, end = b->readers[0].end;
  for (size_t i = 1; i < b->run.options.n_threads; i++) {
    const reader *r = &b->readers[i];
    if (r->begin < begin) begin = r->begin;
    if (r->end > end) end = r->end;
  }
  return end - begin;
}

/* What every thread does; the caller also takes the times. Patterns take turns, so that a drift of
 * the machine meets all of them. */
static leank_status run_passes(reader *r, bool caller, leank_error *err) {
  read_bench *b = r->bench;
  leank_status status = LEANK_OK;
  touch(r);
  for (size_t pass = 0; pass <= b->run.options.n_repeats; pass++)
    for (size_t pattern = 0; pattern < N_PATTERNS; pattern++) {
      pthread_barrier_wait(&b->barrier);
      if (atomic_load(&b->stop)) return status;
      read_once(r, pattern);
      pthread_barrier_wait(&b->barrier);
      if (!caller) continue;
      if (pass > 0) lk_bench_samples_add(&b->samples[pattern], pass_seconds(b));
      status = lk_bench_tick(&b->run, err);
      atomic_store(&b->stop, status != LEANK_OK);
    }
  return status;
}

static void *reader_main(void *arg) {
  reader *r = arg;
  pthread_mutex_lock(&r->bench->gate);
  const bool called_off = r->bench->called_off;
  pthread_mutex_unlock(&r->bench->gate);
  if (!called_off) run_passes(r, false, NULL);
  return NULL;
}

static leank_status run_threads(read_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = b->run.options.n_threads;
  size_t n_started = 1;
  pthread_mutex_lock(&b->gate);
  for (; n_started < n; n_started++) {
    reader *r = &b->readers[n_started];
    if (pthread_create(&r->handle, NULL, reader_main, r) != 0) break;
  }
  b->called_off = n_started < n;
  pthread_mutex_unlock(&b->gate);
  if (b->called_off)
    status = lk_fail(err, LEANK_E_MEMORY, -1, "cannot make thread %zu of %zu", n_started + 1, n);
  else
    status = run_passes(&b->readers[0], true, err);
  for (size_t i = 1; i < n_started; i++) pthread_join(b->readers[i].handle, NULL);
  return status;
}

static leank_status open_buffers(read_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_bench_options *o = &b->run.options;
  const size_t share = o->rotate_bytes / o->n_threads;
  LK_FAIL_IF(share > SIZE_MAX / 2 / o->n_threads, err, LEANK_E_MEMORY, -1, "%zu bytes to read",
             o->rotate_bytes);
  b->bytes_per_thread = (share / GRAIN + 1) * GRAIN;
  LK_TRY(
      lk_bench_check_free(b->bytes_per_thread * o->n_threads, "measuring the read bandwidth", err));
  b->readers = lk_alloc(LK_MEM_OTHER, o->n_threads, sizeof *b->readers);
  LK_FAIL_IF(!b->readers, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < o->n_threads; i++) {
    b->readers[i].bench = b;
    b->readers[i].buffer = lk_alloc(LK_MEM_SCRATCH, b->bytes_per_thread, 1);
    LK_FAIL_IF(!b->readers[i].buffer, err, LEANK_E_MEMORY, -1, "out of memory: %zu bytes to read",
               b->bytes_per_thread);
  }
  for (size_t i = 0; i < N_PATTERNS; i++)
    LK_TRY(lk_bench_samples_open(&b->samples[i], o->n_repeats, err));
cleanup:
  return status;
}

static void close_buffers(read_bench *b) {
  for (size_t i = 0; b->readers && i < b->run.options.n_threads; i++) lk_free(b->readers[i].buffer);
  lk_free(b->readers);
  for (size_t i = 0; i < N_PATTERNS; i++) lk_bench_samples_close(&b->samples[i]);
}

static void collect(read_bench *b, leank_bench_read_result *out) {
  const size_t n_threads = b->run.options.n_threads;
  *out = (leank_bench_read_result){
      .n_bytes = b->bytes_per_thread * n_threads, .n_threads = n_threads, .n_patterns = N_PATTERNS};
  for (size_t i = 0; i < N_PATTERNS; i++) {
    leank_bench_pattern *p = &out->patterns[i];
    *p = (leank_bench_pattern){.n_streams = streams_of(i), .prefetch = prefetches(i)};
    snprintf(p->kernel, sizeof p->kernel, "%s", b->variant->name);
    p->most_bytes_per_second = (double)out->n_bytes / lk_bench_samples_least(&b->samples[i]);
    p->bytes_per_second = (double)out->n_bytes / lk_bench_samples_median(&b->samples[i]);
    if (p->bytes_per_second > out->patterns[out->best].bytes_per_second) out->best = i;
  }
}

leank_status leank_bench_read(const leank_bench_options *options, leank_bench_read_result *out,
                              leank_error *err) {
  leank_status status = LEANK_OK;
  read_bench b = {.gate = PTHREAD_MUTEX_INITIALIZER};
  bool has_barrier = false;
  LK_TRY(lk_bench_begin(options, &b.run, err));
  if (b.run.options.device == LEANK_DEVICE_CUDA) return lk_bench_read_cuda(&b.run, out, err);
  b.run.total = N_PATTERNS * (b.run.options.n_repeats + 1);
  b.variant = lk_read_select(b.run.options.cpu);
  LK_TRY(open_buffers(&b, err));
  has_barrier = pthread_barrier_init(&b.barrier, NULL, (unsigned)b.run.options.n_threads) == 0;
  LK_FAIL_IF(!has_barrier, err, LEANK_E_MEMORY, -1, "out of memory for a barrier");
  LK_TRY(run_threads(&b, err));
  collect(&b, out);
cleanup:
  close_buffers(&b);
  if (has_barrier) pthread_barrier_destroy(&b.barrier);
  return status;
}
