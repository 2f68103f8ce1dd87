/* Products in fp32: the kernels of one instruction set. Before including it: widen_<isa>.h, ISA
 * defined as the suffix of the names, and constants of the register file: MAX_SUMS, the sums (row,
 * output) it holds, and QUANTISED_OUTS, the outputs to work on together where weights are not
 * plain.
 *
 * Lane j of the one vector that a (row, output) is summed in takes elements j, j + VEC_LANES, ...
 * in order, however many rows and outputs are in flight. So every y has the same bits in every
 * call. */
#include <string.h>

#include "kernels/matvec/matvec_kernels.h"

#define FP32_PASTE_(name, isa) lk_matvec_##name##_##isa
#define FP32_PASTE(name, isa) FP32_PASTE_(name, isa)

/* Blocks that straddle cache lines defeat the hardware's prefetcher. */
enum { FP32_PREFETCH = 1536 };

/* Outputs worked on together, for the latency of an FMA and to share the loads of activations. */
enum { MAX_OUTS = 4 };
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define OUTS(plain, n_rows) MIN((plain) ? MAX_OUTS : QUANTISED_OUTS, MAX_SUMS / (n_rows))

typedef struct matvec_job {
  const uint8_t *w;
  size_t row_bytes, n_in;
  const float *x;
  size_t ldx, n_rows;
  float *y;
  size_t ldy;
  /* Plain types may end in part of a block: the rows' ends, filled with zeros. */
  size_t n_tail;
  float x_tail[LK_MATVEC_MAX_ROWS * WIDEN_PLAIN];
} matvec_job;

static void copy_tail(matvec_job *job) {
  job->n_tail = job->n_in % WIDEN_PLAIN;
  if (!job->n_tail) return;
  memset(job->x_tail, 0, sizeof job->x_tail);
  for (size_t r = 0; r < job->n_rows; r++)
    memcpy(job->x_tail + r * WIDEN_PLAIN, job->x + r * job->ldx + job->n_in - job->n_tail,
           job->n_tail * sizeof *job->x_tail);
}

/* sums[row][out] += w[out] * x[row], for one vector of weights per output. Rows beyond job->n_rows
 * repeat the last one. */
VEC_FN void add_products(const vec *w, size_t n_outs, const float *const *x, size_t at,
                         size_t n_rows, vec *sums) {
  _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {
    const vec row = vec_load(x[r] + at);
    _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++) sums[r * n_outs + k] =
        vec_fma(w[k], row, sums[r * n_outs + k]);
  }
}

/* Of each of n_outs rows, n_bytes that will be wanted soon: those FP32_PREFETCH further in the
 * row, or in the row of the next turn. Addresses may lie outside the matrix: nothing is read. */
VEC_FN void prefetch(const matvec_job *job, const uint8_t *block, size_t n_outs, size_t pos,
                     size_t n_bytes) {
  uintptr_t p = (uintptr_t)block + FP32_PREFETCH;
  if (pos + FP32_PREFETCH >= job->row_bytes) p += (n_outs - 1) * job->row_bytes;
  _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++, p += job->row_bytes)
      _Pragma("GCC unroll 4") for (size_t i = 0; i < n_bytes; i += 64)
          __builtin_prefetch((const void *)(p + i));
}

/* dot_: one block of n_outs outputs. outputs_: n_outs outputs from `o` on. rows_: all outputs.
 * n_rows and n_outs are constants where these are inlined. */
#define MATVEC(name, elements, bytes, plain)                                                       \
  VEC_FN void dot_##name(const uint8_t *block, size_t row_bytes, size_t n_outs,                    \
                         const float *const *x, size_t at, size_t n_rows, vec *sums) {             \
    lk_unpacked u[MAX_OUTS];                                                                       \
    _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++)                                    \
        prepare_##name(block + k * row_bytes, &u[k]);                                              \
    _Pragma("GCC unroll 32") for (size_t v = 0; v < (elements) / VEC_LANES; v++) {                 \
      vec w[MAX_OUTS];                                                                             \
      _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++) w[k] =                           \
          widen_##name(block + k * row_bytes, &u[k], v);                                           \
      add_products(w, n_outs, x, at + v * VEC_LANES, n_rows, sums);                                \
    }                                                                                              \
  }                                                                                                \
  VEC_FN void outputs_##name(const matvec_job *job, size_t o, size_t n_outs, size_t n_rows) {      \
    vec sums[MAX_SUMS];                                                                            \
    const float *x[LK_MATVEC_MAX_ROWS], *x_tail[LK_MATVEC_MAX_ROWS];                               \
    const uint8_t *w = job->w + o * job->row_bytes;                                                \
    const size_t row_bytes = job->row_bytes, n_whole = job->n_in / (elements);                     \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {                                  \
      const size_t row = r < job->n_rows ? r : job->n_rows - 1;                                    \
      x[r] = job->x + row * job->ldx;                                                              \
      x_tail[r] = job->x_tail + row * WIDEN_PLAIN;                                                 \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (size_t i = 0; i < n_outs * n_rows; i++) sums[i] = vec_zero();    \
    for (size_t b = 0; b < n_whole; b++) {                                                         \
      const uint8_t *block = w + b * (bytes);                                                      \
      prefetch(job, block, n_outs, b *(bytes), bytes);                                             \
      dot_##name(block, row_bytes, n_outs, x, b *(elements), n_rows, sums);                        \
    }                                                                                              \
    if ((plain) && job->n_tail) {                                                                  \
      uint8_t blocks[MAX_OUTS][bytes] = {{0}};                                                     \
      for (size_t k = 0; k < n_outs; k++)                                                          \
        memcpy(blocks[k], w + k * row_bytes + n_whole * (bytes),                                   \
               job->n_tail * ((bytes) / (elements)));                                              \
      dot_##name(blocks[0], bytes, n_outs, x_tail, 0, n_rows, sums);                               \
    }                                                                                              \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++)                                    \
        _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++) if (r < job->n_rows)           \
            job->y[r * job->ldy + o + k] = vec_sum(sums[r * n_outs + k]);                          \
  }                                                                                                \
  VEC_FN void rows_##name(const matvec_job *job, size_t n_out, size_t n_rows, size_t n_outs) {     \
    size_t o = 0;                                                                                  \
    for (; o + n_outs <= n_out; o += n_outs) outputs_##name(job, o, n_outs, n_rows);               \
    for (; n_outs > 1 && o < n_out; o++) outputs_##name(job, o, 1, n_rows);                        \
  }                                                                                                \
  void FP32_PASTE(name, ISA)(const void *w, size_t n_out, size_t n_in, const void *x,              \
                             size_t x_bytes, size_t n_rows, float *y, size_t ldy) {                \
    const size_t row_bytes =                                                                       \
        (plain) ? n_in * ((bytes) / (elements)) : n_in / (elements) * (bytes);                     \
    matvec_job job = {.w = w,                                                                      \
                      .row_bytes = row_bytes,                                                      \
                      .n_in = n_in,                                                                \
                      .x = x,                                                                      \
                      .ldx = x_bytes / sizeof(float),                                              \
                      .n_rows = n_rows,                                                            \
                      .y = y,                                                                      \
                      .ldy = ldy};                                                                 \
    if (plain) copy_tail(&job);                                                                    \
    if (n_rows == 1)                                                                               \
      rows_##name(&job, n_out, 1, OUTS(plain, 1));                                                 \
    else if (n_rows == 2)                                                                          \
      rows_##name(&job, n_out, 2, OUTS(plain, 2));                                                 \
    else if (n_rows <= 4)                                                                          \
      rows_##name(&job, n_out, 4, OUTS(plain, 4));                                                 \
    else                                                                                           \
      rows_##name(&job, n_out, 8, OUTS(plain, 8));                                                 \
  }

#define QUANTISED(TYPE, name, elements, bytes, group) MATVEC(name, elements, bytes, 0)
LK_EACH_SCALED(QUANTISED)
LK_EACH_AFFINE(QUANTISED)
MATVEC(f32, WIDEN_PLAIN, 4 * WIDEN_PLAIN, 1)
MATVEC(f16, WIDEN_PLAIN, 2 * WIDEN_PLAIN, 1)
MATVEC(bf16, WIDEN_PLAIN, 2 * WIDEN_PLAIN, 1)
