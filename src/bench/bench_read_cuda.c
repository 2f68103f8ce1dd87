#include "bench/bench_read_cuda.h"

#include <stdio.h>

#include "backend/cuda.h"

enum { N_GRIDS = 4, GRAIN = 4096, SEED = 7 };

typedef struct cuda_read {
  lk_bench_run *run;
  lk_backend *backend;
  uint16_t *buffer;
  size_t n_bytes; /* of the buffer */
  uint32_t *sum;
  lk_bench_samples samples[N_GRIDS];
} cuda_read;

/* Blocks of a multiprocessor. */
static uint32_t blocks_of(size_t grid) { return (uint32_t)2 << grid; }

/* A backend for the smallest of shapes: its device is what is wanted. */
static leank_status open_read(cuda_read *r, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_bench_options *o = &r->run->options;
  const lk_backend_options options = {.device = LEANK_DEVICE_CUDA,
                                      .device_index = o->device_index,
                                      .n_threads = 1,
                                      .max_few_rows = 1,
                                      .max_pages = 1,
                                      .shape = {.n_heads = 1, .n_kv_heads = 1, .head_dim = 64}};
  r->n_bytes = (o->rotate_bytes / GRAIN + 1) * GRAIN;
  LK_TRY(lk_backend_open(&options, &r->backend, err));
  r->buffer = r->backend->ops->alloc(r->backend, LK_MEM_SCRATCH, r->n_bytes);
  r->sum = r->backend->ops->alloc(r->backend, LK_MEM_SCRATCH, sizeof *r->sum);
  LK_FAIL_IF(!r->buffer || !r->sum, err, LEANK_E_MEMORY, -1,
             "out of memory on the device: %zu bytes to read", r->n_bytes);
  lk_cuda_backend *cuda = lk_cuda(r->backend);
  cuda->api->random_bf16(cuda->dev, r->buffer, r->n_bytes / sizeof *r->buffer, 1, SEED);
  for (size_t i = 0; i < N_GRIDS; i++)
    LK_TRY(lk_bench_samples_open(&r->samples[i], o->n_repeats, err));
cleanup:
  return status;
}

/* Grids take turns, so that a drift of the device meets all of them. A reading that is not timed
 * comes first: the device is busy until the next one has been asked for. */
static leank_status read_passes(cuda_read *r, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_backend_ops *ops = r->backend->ops;
  lk_cuda_backend *cuda = lk_cuda(r->backend);
  for (size_t pass = 0; pass <= r->run->options.n_repeats; pass++)
    for (size_t grid = 0; grid < N_GRIDS; grid++) {
      cuda->api->read(cuda->dev, r->buffer, r->n_bytes, blocks_of(grid), r->sum);
      ops->mark(r->backend, 0);
      cuda->api->read(cuda->dev, r->buffer, r->n_bytes, blocks_of(grid), r->sum);
      ops->mark(r->backend, 1);
      const double seconds = ops->seconds(r->backend, 0, 1);
      LK_TRY(ops->wait(r->backend, err));
      if (pass > 0) lk_bench_samples_add(&r->samples[grid], seconds);
      LK_TRY(lk_bench_tick(r->run, err));
    }
cleanup:
  return status;
}

static void collect(cuda_read *r, leank_bench_read_result *out) {
  *out = (leank_bench_read_result){.n_bytes = r->n_bytes, .n_threads = 1, .n_patterns = N_GRIDS};
  for (size_t i = 0; i < N_GRIDS; i++) {
    leank_bench_pattern *p = &out->patterns[i];
    *p = (leank_bench_pattern){.n_streams = blocks_of(i)};
    snprintf(p->kernel, sizeof p->kernel, "read_cuda");
    p->most_bytes_per_second = (double)r->n_bytes / lk_bench_samples_least(&r->samples[i]);
    p->bytes_per_second = (double)r->n_bytes / lk_bench_samples_median(&r->samples[i]);
    if (p->bytes_per_second > out->patterns[out->best].bytes_per_second) out->best = i;
  }
}

static void close_read(cuda_read *r) {
  for (size_t i = 0; i < N_GRIDS; i++) lk_bench_samples_close(&r->samples[i]);
  if (!r->backend) return;
  if (r->buffer) r->backend->ops->free(r->backend, r->buffer);
  if (r->sum) r->backend->ops->free(r->backend, r->sum);
  r->backend->ops->close(r->backend);
}

leank_status lk_bench_read_cuda(lk_bench_run *run, leank_bench_read_result *out, leank_error *err) {
  leank_status status = LEANK_OK;
  cuda_read r = {.run = run};
  run->total = N_GRIDS * (run->options.n_repeats + 1);
  LK_TRY(open_read(&r, err));
  LK_TRY(read_passes(&r, err));
  collect(&r, out);
cleanup:
  close_read(&r);
  return status;
}
