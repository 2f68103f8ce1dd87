/* Products of stored weights with few rows, as a decode step makes them. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "bench/bench_run.h"
#include "bench/random_weights.h"

enum { N_IN_MULTIPLE = 256, MAX_OUTS = 1 << 24, MAX_INS = 1 << 24, MAX_COUNTS = 64 };

typedef struct matvec_bench {
  lk_bench_run run;
  lk_backend *backend;
  lk_tensor matrix; /* of every copy; data NULL */
  size_t n_bytes;   /* of one */
  size_t stride;    /* from one copy to the next: aligned as tensors in a file are */
  unsigned char *weights;
  size_t n_copies;
  float *x, *y; /* [LEANK_BENCH_MAX_ROWS][n_in], [..][n_out] */
  const size_t *n_rows;
  size_t n;                  /* row counts */
  lk_bench_samples *samples; /* [n] */
} matvec_bench;

const char *leank_bench_weight_type(size_t i) {
  return i < LK_N_DTYPES ? lk_dtype_name((lk_dtype)i) : NULL;
}

void leank_bench_matrix_default(leank_bench_matrix *m) {
  *m = (leank_bench_matrix){.struct_size = sizeof *m, .type = "Q4_K", .n_out = 8192, .n_in = 4096};
}

static leank_status read_matrix(const leank_bench_matrix *m, lk_tensor *out, leank_error *err) {
  leank_status status = LEANK_OK;
  int type = 0;
  LK_FAIL_IF(m->struct_size != sizeof *m, err, LEANK_E_ARGUMENT, -1,
             "a bench matrix of %zu bytes: fill it with leank_bench_matrix_default",
             m->struct_size);
  while (type < LK_N_DTYPES && strcasecmp(m->type, lk_dtype_name((lk_dtype)type)) != 0) type++;
  LK_FAIL_IF(type == LK_N_DTYPES, err, LEANK_E_ARGUMENT, -1, "unknown weight type '%.32s'",
             m->type);
  LK_FAIL_IF(m->n_out == 0 || m->n_out > MAX_OUTS, err, LEANK_E_ARGUMENT, -1,
             "a matrix with %zu outputs: 1 to %d are possible", m->n_out, MAX_OUTS);
  LK_FAIL_IF(m->n_in == 0 || m->n_in > MAX_INS || m->n_in % N_IN_MULTIPLE != 0, err,
             LEANK_E_ARGUMENT, -1,
             "a matrix with %zu inputs: multiples of %d up to %d are possible", m->n_in,
             N_IN_MULTIPLE, MAX_INS);
  *out = (lk_tensor){NULL, (lk_dtype)type, m->n_out, m->n_in};
cleanup:
  return status;
}

static leank_status check_rows(const size_t *n_rows, size_t n, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n == 0 || n > MAX_COUNTS, err, LEANK_E_ARGUMENT, -1,
             "%zu numbers of rows: 1 to %d are possible", n, MAX_COUNTS);
  for (size_t i = 0; i < n; i++)
    LK_FAIL_IF(n_rows[i] == 0 || n_rows[i] > LEANK_BENCH_MAX_ROWS, err, LEANK_E_ARGUMENT, -1,
               "%zu rows: 1 to %d are possible", n_rows[i], LEANK_BENCH_MAX_ROWS);
cleanup:
  return status;
}

/* ---- weights ---- */

static lk_tensor copy_of(const matvec_bench *b, size_t i) {
  lk_tensor w = b->matrix;
  w.data = b->weights + i * b->stride;
  return w;
}

/* A row of its own for every matrix would take longer to make than to read: copies of one. */
static void fill_item(void *ctx, size_t i, size_t thread) {
  (void)thread;
  const matvec_bench *b = ctx;
  memcpy(b->weights + (i + 1) * b->stride, b->weights, b->n_bytes);
}

static leank_status fill_weights(matvec_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_team *team = NULL;
  lk_rng rng = {4};
  LK_TRY(lk_team_open(b->run.options.n_threads, &team, err));
  lk_random_weights(b->matrix.type, b->matrix.n_rows * b->matrix.n_cols, &rng, b->weights);
  lk_parallel_for(team, b->n_copies - 1, fill_item, b);
  lk_rng_fill(&rng, b->x, LEANK_BENCH_MAX_ROWS * b->matrix.n_cols);
cleanup:
  lk_team_close(&team);
  return status;
}

static leank_status open_weights(matvec_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_tensor *m = &b->matrix;
  const size_t rotate = b->run.options.rotate_bytes;
  b->n_bytes = lk_dtype_bytes(m->type, m->n_rows * m->n_cols);
  b->stride = (b->n_bytes + 63) / 64 * 64;
  b->n_copies = rotate / b->n_bytes + 1;
  LK_FAIL_IF(b->n_copies > LK_BENCH_MAX_COPIES, err, LEANK_E_ARGUMENT, -1,
             "a matrix of %zu bytes is too small to rotate over %zu", b->n_bytes, rotate);
  LK_TRY(lk_bench_check_free(b->n_copies * b->stride, "matrices to multiply with", err));
  b->weights = lk_alloc(LK_MEM_SCRATCH, b->n_copies, b->stride);
  b->x = lk_alloc(LK_MEM_SCRATCH, LEANK_BENCH_MAX_ROWS * m->n_cols, sizeof(float));
  b->y = lk_alloc(LK_MEM_SCRATCH, LEANK_BENCH_MAX_ROWS * m->n_rows, sizeof(float));
  b->samples = lk_alloc(LK_MEM_OTHER, b->n, sizeof *b->samples);
  LK_FAIL_IF(!b->weights || !b->x || !b->y || !b->samples, err, LEANK_E_MEMORY, -1,
             "out of memory: %zu bytes of weights", b->n_copies * b->stride);
  for (size_t i = 0; i < b->n; i++)
    LK_TRY(lk_bench_samples_open(&b->samples[i], b->n_copies * b->run.options.n_repeats, err));
cleanup:
  return status;
}

/* The smallest of attentions: it is not used. */
static leank_status open_backend(matvec_bench *b, leank_error *err) {
  const lk_backend_options options = {
      .kv_type = LEANK_KV_BF16,
      .n_threads = b->run.options.n_threads,
      .cpu = b->run.options.cpu,
      .max_few_rows = LEANK_BENCH_MAX_ROWS,
      .max_cols = b->matrix.n_cols,
      .max_pages = 1,
      .shape = {.n_heads = 1, .n_kv_heads = 1, .head_dim = lk_backend_cpu_granule(LEANK_KV_BF16)}};
  return lk_backend_open_cpu(&options, &b->backend, err);
}

/* ---- measuring ---- */

static leank_status pass(matvec_bench *b, size_t which, bool timed, leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t i = 0; i < b->n_copies; i++) {
    const lk_tensor w = copy_of(b, i);
    const lk_linear_part part = {&w, NULL, b->y, false};
    const double start = lk_seconds();
    LK_TRY(
        b->backend->ops->linear(b->backend, LK_LINEAR_FEW, &part, 1, b->x, b->n_rows[which], err));
    const double seconds = lk_seconds() - start;
    if (timed) lk_bench_samples_add(&b->samples[which], seconds);
    LK_TRY(lk_bench_tick(&b->run, err));
  }
cleanup:
  return status;
}

static leank_status measure(matvec_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  b->run.total = (b->run.options.n_repeats + 1) * b->n * b->n_copies;
  for (size_t r = 0; r <= b->run.options.n_repeats; r++)
    for (size_t i = 0; i < b->n; i++) LK_TRY(pass(b, i, r > 0, err));
cleanup:
  return status;
}

static void collect(matvec_bench *b, leank_bench_matvec_result *out) {
  char op[32];
  snprintf(op, sizeof op, "matvec %s", lk_dtype_name(b->matrix.type));
  for (size_t i = 0; i < b->n; i++) {
    out[i] = (leank_bench_matvec_result){.n_rows = b->n_rows[i],
                                         .n_bytes = b->n_bytes,
                                         .seconds = lk_bench_samples_median(&b->samples[i]),
                                         .min_seconds = lk_bench_samples_least(&b->samples[i]),
                                         .n_samples = b->samples[i].n};
    lk_bench_kernel_of(b->backend->ops->kernels(b->backend), op, out[i].kernel,
                       sizeof out[i].kernel);
  }
}

static void close_bench(matvec_bench *b) {
  for (size_t i = 0; b->samples && i < b->n; i++) lk_bench_samples_close(&b->samples[i]);
  lk_free(b->samples);
  lk_free(b->weights);
  lk_free(b->x);
  lk_free(b->y);
  if (b->backend) b->backend->ops->close(b->backend);
}

leank_status leank_bench_matvec(const leank_bench_options *options,
                                const leank_bench_matrix *matrix, const size_t *n_rows, size_t n,
                                leank_bench_matvec_result *out, leank_error *err) {
  leank_status status = LEANK_OK;
  matvec_bench b = {.n_rows = n_rows, .n = n};
  LK_TRY(lk_bench_begin(options, &b.run, err));
  LK_FAIL_IF(b.run.options.device != LEANK_DEVICE_CPU, err, LEANK_E_UNSUPPORTED, -1,
             "on a CUDA device only attention can be timed");
  LK_TRY(read_matrix(matrix, &b.matrix, err));
  LK_TRY(check_rows(n_rows, n, err));
  LK_TRY(open_weights(&b, err));
  LK_TRY(open_backend(&b, err));
  LK_TRY(fill_weights(&b, err));
  LK_TRY(measure(&b, err));
  collect(&b, out);
cleanup:
  close_bench(&b);
  return status;
}
