/* The matvec kernels of one instruction set. Before including it: widen_<isa>.h, ISA defined as the
 * suffix of the names, and N_ACC, the vectors that one (row, output) sums into.
 *
 * A product is summed by vector v of its block into accumulator v % N_ACC, whatever the number of
 * rows and outputs in flight; rows and outputs only change how many such sums are worked on
 * together. So every y has the same bits in every call. */
#include <string.h>

#include "kernels/matvec/matvec_kernels.h"

#define PASTE_(name, isa) lk_matvec_##name##_##isa
#define PASTE(name, isa) PASTE_(name, isa)

enum { MAX_SUMS = LK_MATVEC_MAX_ROWS * N_ACC };

typedef struct matvec_job {
  const uint8_t *w;
  size_t row_bytes, n_in;
  const float *x;
  size_t ldx;
  float *y;
  size_t ldy;
} matvec_job;

/* acc[row][v % N_ACC] += w * x[row], for one vector of weights. */
VEC_FN void add_products(vec w, const float *x, size_t ldx, size_t n_rows, size_t v, vec *acc) {
  _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {
    vec *sum = &acc[r * N_ACC + v % N_ACC];
    *sum = vec_fma(w, vec_load(x + r * ldx), *sum);
  }
}

VEC_FN float finish(const vec *acc) {
  return vec_sum(N_ACC == 1 ? acc[0] : vec_add(acc[0], acc[N_ACC - 1]));
}

/* Plain types may end in part of a block: copies of it and of the rows' ends, filled with zeros. */
typedef struct matvec_tail {
  size_t n;
  float x[LK_MATVEC_MAX_ROWS * WIDEN_PLAIN];
} matvec_tail;

static void copy_tail(const matvec_job *job, size_t n_rows, matvec_tail *tail) {
  tail->n = job->n_in % WIDEN_PLAIN;
  if (!tail->n) return;
  memset(tail->x, 0, sizeof tail->x);
  for (size_t r = 0; r < n_rows; r++)
    memcpy(tail->x + r * WIDEN_PLAIN, job->x + r * job->ldx + job->n_in - tail->n,
           tail->n * sizeof *tail->x);
}

/* dot_: one block of one output. outputs_: n_outs outputs from `o` on. rows_: all outputs, for a
 * number of rows that is a constant here; one row alone takes two outputs at a time to have enough
 * independent sums in flight. n_rows * n_outs <= LK_MATVEC_MAX_ROWS. */
#define MATVEC(name, elements, bytes, plain)                                                       \
  VEC_FN void dot_##name(const uint8_t *block, const float *x, size_t ldx, size_t n_rows,          \
                         vec *acc) {                                                               \
    lk_unpacked u;                                                                                 \
    prepare_##name(block, &u);                                                                     \
    _Pragma("GCC unroll 32") for (size_t v = 0; v < (elements) / VEC_LANES; v++)                   \
        add_products(widen_##name(block, &u, v), x + v * VEC_LANES, ldx, n_rows, v, acc);          \
  }                                                                                                \
  VEC_FN void outputs_##name(const matvec_job *job, const matvec_tail *tail, size_t n_rows,        \
                             size_t o, size_t n_outs) {                                            \
    vec acc[MAX_SUMS];                                                                             \
    const uint8_t *w = job->w + o * job->row_bytes;                                                \
    const size_t row_bytes = job->row_bytes, n_whole = job->n_in / (elements), ldx = job->ldx;     \
    _Pragma("GCC unroll 16") for (size_t i = 0; i < n_outs * n_rows * N_ACC; i++) acc[i] =         \
        vec_zero();                                                                                \
    const float *x = job->x;                                                                       \
    for (size_t b = 0; b < n_whole; b++, w += (bytes), x += (elements))                            \
      _Pragma("GCC unroll 2") for (size_t k = 0; k < n_outs; k++)                                  \
          dot_##name(w + k * row_bytes, x, ldx, n_rows, acc + k * n_rows * N_ACC);                 \
    if ((plain) && tail->n) _Pragma("GCC unroll 2") for (size_t k = 0; k < n_outs; k++) {          \
        uint8_t block[bytes] = {0};                                                                \
        memcpy(block, w + k * row_bytes, tail->n * ((bytes) / (elements)));                        \
        dot_##name(block, tail->x, WIDEN_PLAIN, n_rows, acc + k * n_rows * N_ACC);                 \
      }                                                                                            \
    _Pragma("GCC unroll 2") for (size_t k = 0; k < n_outs; k++)                                    \
        _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++)                                \
            job->y[r * job->ldy + o + k] = finish(acc + (k * n_rows + r) * N_ACC);                 \
  }                                                                                                \
  VEC_FN void rows_##name(const matvec_job *job, size_t n_out, size_t n_rows) {                    \
    const size_t n_outs = n_rows == 1 ? 2 : 1;                                                     \
    matvec_tail tail;                                                                              \
    size_t o = 0;                                                                                  \
    if (plain) copy_tail(job, n_rows, &tail);                                                      \
    for (; o + n_outs <= n_out; o += n_outs) outputs_##name(job, &tail, n_rows, o, n_outs);        \
    for (; n_outs > 1 && o < n_out; o++) outputs_##name(job, &tail, n_rows, o, 1);                 \
  }                                                                                                \
  void PASTE(name, ISA)(const void *w, size_t n_out, size_t n_in, const float *x, size_t ldx,      \
                        size_t n_rows, float *y, size_t ldy) {                                     \
    const size_t row_bytes =                                                                       \
        (plain) ? n_in * ((bytes) / (elements)) : n_in / (elements) * (bytes);                     \
    const matvec_job job = {w, row_bytes, n_in, x, ldx, y, ldy};                                   \
    switch (n_rows) {                                                                              \
    case 1: rows_##name(&job, n_out, 1); break;                                                    \
    case 2: rows_##name(&job, n_out, 2); break;                                                    \
    case 3: rows_##name(&job, n_out, 3); break;                                                    \
    case 4: rows_##name(&job, n_out, 4); break;                                                    \
    case 5: rows_##name(&job, n_out, 5); break;                                                    \
    case 6: rows_##name(&job, n_out, 6); break;                                                    \
    case 7: rows_##name(&job, n_out, 7); break;                                                    \
    default: rows_##name(&job, n_out, 8); break;                                                   \
    }                                                                                              \
  }

#define QUANTISED(TYPE, name, elements, bytes, group) MATVEC(name, elements, bytes, 0)
LK_EACH_SCALED(QUANTISED)
LK_EACH_AFFINE(QUANTISED)
MATVEC(f32, WIDEN_PLAIN, 4 * WIDEN_PLAIN, 1)
MATVEC(f16, WIDEN_PLAIN, 2 * WIDEN_PLAIN, 1)
MATVEC(bf16, WIDEN_PLAIN, 2 * WIDEN_PLAIN, 1)
