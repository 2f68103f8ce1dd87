/* Products with quantised weights in integers: the kernels of one instruction set. Before including
 * it: a matvec_bytes_<isa>.h, ISA, the suffix of the names, and PARTS_OUTS, the outputs to work on
 * together.
 *
 * Activations are written as s (128 h + l), h and l of 8 bits and one scale s per block of 32
 * (types of blocks of 32) or 256 elements: 15 bits of the block's largest magnitude, so what is
 * lost is half a step, max |x| / (2 * 16256) at most, far below what the weights lost. The dot
 * products of the weights' small integers with h and l are exact, and cost two instructions for 4
 * times as many weights as an fp32 product takes at a time; per group of weights one conversion and
 * one fused multiply-add follow. Offsets (and zero points) meet the sums of a group's activations.
 *
 * Weights come in units of as many blocks as fill the vectors, their bytes in an order that costs
 * no shuffle; rows of activations are prepared in that order, once for all outputs. */
#ifndef LK_KERNELS_MATVEC_PARTS_H
#define LK_KERNELS_MATVEC_PARTS_H

#include <string.h>

#include "kernels/matvec/matvec_kernels.h"

#define PARTS_PASTE_(name, isa, what) lk_matvec_parts_##name##_##isa##what
#define PARTS_PASTE(name, isa, what) PARTS_PASTE_(name, isa, what)

enum { PARTS_MAX = 127 * 128, PARTS_PREFETCH = 8192 };
/* Below this magnitude a block of activations counts as zero: its scale would be denormal. */
#define PARTS_TINY 0x1p-100f

/* The unit of a prepared row. Types of 32: h[2][VB], l[2][VB] in chunks of 16 elements, chunk c of
 * block b at [c][16 b]; then per block its scale and the sum of its activations; then, where
 * products are of unsigned weights, -128 times the sums of 128 h + l under each lane. Types of 256:
 * h[256], l[256] in the order of the vectors of weights; sums per group of 32 (16 in Q6_K); the
 * scale. */
enum {
  UNIT_BLOCKS = VB / 16,
  UNIT32_SCALES = 4 * VB,
  UNIT32_SUMS = UNIT32_SCALES + 16,
  UNIT32_BIAS = UNIT32_SCALES + 64,
  UNIT32_BYTES = UNIT32_BIAS + VB,
  UNIT256_SUMS = 512,
  UNIT256_SCALE = UNIT256_SUMS + 64,
  UNIT256_BYTES = UNIT256_SCALE + 64,
  VECS_256 = 256 / VB
};

/* ---- activations ---- */

/* The block's scale; NaN where an element is, infinite where one is (and no result is finite). */
VEC_FN float parts_scale(const float *x, size_t n, float *inverse) {
  uint32_t top = 0;
  float largest;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  memcpy(&largest, &top, sizeof largest);
  const int zero = largest < PARTS_TINY;
  *inverse = zero ? 0 : (float)PARTS_MAX / largest;
  return zero ? 0 : largest / (float)PARTS_MAX;
}

/* 16 elements: round(x inverse) = 128 h + l with -64 <= l < 64; gives the sum. 1.5 * 2^23 added to
 * a small number leaves it, rounded to nearest even, in the low bits. Of what is not finite any
 * integers come: the scale is not finite either, and no sum of them may trap. */
VEC_FN int32_t parts_split(const float *x, float inverse, int8_t *high, int8_t *low, int32_t *q) {
  int32_t sum = 0;
  for (size_t i = 0; i < 16; i++) {
    const float shifted = x[i] * inverse + 0x1.8p23f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    q[i] = (int32_t)(bits - 0x4b400000u);
  }
  for (size_t i = 0; i < 16; i++) {
    const int32_t h = (int32_t)((uint32_t)q[i] + 64u) >> 7;
    high[i] = (int8_t)h;
    low[i] = (int8_t)(int32_t)((uint32_t)q[i] - ((uint32_t)h << 7));
  }
  for (size_t i = 0; i < 16; i++) sum = (int32_t)((uint32_t)sum + (uint32_t)q[i]);
  return sum;
}

static void parts_block32(const float *x, size_t block, uint8_t *unit) {
  float inverse;
  const float scale = parts_scale(x, 32, &inverse);
  uint32_t sum = 0, bias[4] = {0};
  for (size_t c = 0; c < 2; c++) {
    const size_t at = c * VB + 16 * block;
    int32_t q[16];
    sum += (uint32_t)parts_split(x + 16 * c, inverse, (int8_t *)unit + at,
                                 (int8_t *)unit + 2 * VB + at, q);
    for (size_t i = 0; i < 16; i++) bias[i / 4] -= 128 * (uint32_t)q[i];
  }
  const float sum_x = scale * (float)(int32_t)sum;
  memcpy(unit + UNIT32_SCALES + 4 * block, &scale, sizeof scale);
  memcpy(unit + UNIT32_SUMS + 4 * block, &sum_x, sizeof sum_x);
  memcpy(unit + UNIT32_BIAS + 16 * block, bias, sizeof bias);
}

static void parts_prepare32(const float *x, size_t n_in, void *row) {
  uint8_t *unit = row;
  for (size_t i = 0; i < n_in; i += 32 * UNIT_BLOCKS, unit += UNIT32_BYTES) {
    memset(unit, 0, UNIT32_BYTES);
    for (size_t b = 0; b < UNIT_BLOCKS && i + 32 * b < n_in; b++)
      parts_block32(x + i + 32 * b, b, unit);
  }
}

/* Where the 16 elements of chunk c of a block of 256 go: in place, or where vectors of 64 bytes
 * hold two runs of 32 bytes of nibbles, first their low ones (groups 0 and 2), then the high ones.
 */
VEC_FN size_t parts_chunk256(size_t c, int nibble_pairs) {
  const size_t group = c / 2;
  if (!nibble_pairs || VB != 64) return 16 * c;
  return 64 * (group / 4 * 2 + group % 2) + 32 * (group / 2 % 2) + 16 * (c % 2);
}

VEC_FN void parts_prepare256(const float *x, size_t n_in, void *row, int nibble_pairs) {
  uint8_t *unit = row;
  for (size_t i = 0; i < n_in; i += 256, unit += UNIT256_BYTES) {
    float inverse, sums[16] = {0};
    const float scale = parts_scale(x + i, 256, &inverse);
    for (size_t c = 0; c < 16; c++) {
      int8_t *to = (int8_t *)unit + parts_chunk256(c, nibble_pairs);
      int32_t q[16];
      sums[nibble_pairs ? c / 2 : c] +=
          scale * (float)parts_split(x + i + 16 * c, inverse, to, to + 256, q);
    }
    memcpy(unit + UNIT256_SUMS, sums, sizeof sums);
    memcpy(unit + UNIT256_SCALE, &scale, sizeof scale);
  }
}
static void parts_prepare_nibbles(const float *x, size_t n_in, void *row) {
  parts_prepare256(x, n_in, row, 1);
}
static void parts_prepare_in_order(const float *x, size_t n_in, void *row) {
  parts_prepare256(x, n_in, row, 0);
}

static size_t parts_row_bytes32(size_t n_in) {
  return (n_in + 32 * UNIT_BLOCKS - 1) / (32 * UNIT_BLOCKS) * UNIT32_BYTES;
}
static size_t parts_row_bytes256(size_t n_in) { return n_in / 256 * UNIT256_BYTES; }

/* ---- weights: what all vectors have in common; the rest is in matvec_bytes_<isa>.h ---- */

VEC_FN void bytes_q4_0(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  *scale = scales(p, 18);
  *offset = vq_times(*scale, -8);
  nibbles(chunks(p + 2, 18), w);
}
VEC_FN void bytes_q4_1(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  scales_and_offsets(p, 20, scale, offset);
  nibbles(chunks(p + 4, 20), w);
}
VEC_FN void bytes_q5_0(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  *scale = scales(p, 22);
  *offset = vq_times(*scale, -16);
  nibbles(chunks(p + 6, 22), w);
  fifth_bits(p + 2, 22, w);
}
VEC_FN void bytes_q5_1(const uint8_t *p, vb w[2], vq *scale, vq *offset) {
  scales_and_offsets(p, 24, scale, offset);
  nibbles(chunks(p + 8, 24), w);
  fifth_bits(p + 4, 24, w);
}

VEC_FN vec add_8_offsets(const vec *offset, const uint8_t *sums, vec to) {
  return vec_fma(*offset, vec_load((const float *)(const void *)sums), to);
}

/* ---- products ---- */

typedef struct parts_job {
  const uint8_t *w;
  size_t row_bytes, n_units, n_tail; /* units of a row, and blocks behind them */
  const uint8_t *x[LK_MATVEC_MAX_ROWS];
  size_t n_rows;
  float *y;
  size_t ldy;
} parts_job;

/* In the order of memory, whatever the order of use: far enough that the last of the rows worked on
 * together is there in time. May lie outside: nothing is read. */
VEC_FN void parts_prefetch(const parts_job *job, size_t o, size_t n_outs, size_t unit,
                           size_t n_bytes) {
  const size_t ahead = PARTS_PREFETCH + (n_outs - 1) * job->row_bytes;
  const uintptr_t p = (uintptr_t)job->w + o * job->row_bytes + unit * n_bytes + ahead;
  _Pragma("GCC unroll 8") for (size_t i = 0; i < n_bytes; i += 64)
      __builtin_prefetch((const void *)(p + i), 0, 2);
}

/* parts_unit_: a unit of each of n_outs outputs, row_bytes apart, meets n_rows rows.
 * parts_outputs_: outputs in turn, PARTS_OUTS at a time: they share the loads of activations, which
 * are more bytes than the weights. n_rows and n_outs are constants where these are inlined; rows
 * beyond those asked for repeat the last one. More than 4 rows at a time would leave the registers.
 */
#define PARTS_UNROLL_OUTS _Pragma("GCC unroll 4") for (size_t k = 0; k < n_outs; k++)

#define PARTS_UNIT32(name, has_offset)                                                             \
  VEC_FN void parts_unit_##name(const uint8_t *blocks, size_t row_bytes, size_t n_outs,            \
                                const uint8_t *const *x, size_t at, size_t n_rows, vec *sums) {    \
    vb w[PARTS_OUTS][2];                                                                           \
    vq scale[PARTS_OUTS], offset[PARTS_OUTS];                                                      \
    PARTS_UNROLL_OUTS bytes_##name(blocks + k * row_bytes, w[k], &scale[k], &offset[k]);           \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {                                  \
      const uint8_t *u = x[r] + at;                                                                \
      PARTS_UNROLL_OUTS {                                                                          \
        vec *sum = &sums[r * n_outs + k];                                                          \
        const vq s = vq_mul(scale[k], vq_load(u + UNIT32_SCALES));                                 \
        *sum = vec_fma(vi_to_vec(DOT32_##name(u, w[k])), vq_spread(s), *sum);                      \
        if (has_offset)                                                                            \
          *sum = vec_fma(vq_widen(offset[k]), vq_widen(vq_load(u + UNIT32_SUMS)), *sum);           \
      }                                                                                            \
    }                                                                                              \
  }

VEC_FN vi dot32(const uint8_t *u, const vb *w) {
  vi dot = vi_dot(vi_dot(vi_zero(), w[0], vb_load(u)), w[1], vb_load(u + VB));
  dot = vi_times_128(dot);
  return vi_dot(vi_dot(dot, w[0], vb_load(u + 2 * VB)), w[1], vb_load(u + 3 * VB));
}
/* Of signed weights: as they are, or as weights + 128. */
VEC_FN vi dot32_signed(const uint8_t *u, const vb *w) {
  vi dot = vi_dot_signed(vi_dot_signed(vi_zero(), w[0], vb_load(u)), w[1], vb_load(u + VB));
  dot = VI_DOT_IS_BIASED ? vi_add(vi_times_128(dot), vi_load(u + UNIT32_BIAS)) : vi_times_128(dot);
  return vi_dot_signed(vi_dot_signed(dot, w[0], vb_load(u + 2 * VB)), w[1], vb_load(u + 3 * VB));
}
#define DOT32_q4_0 dot32
#define DOT32_q4_1 dot32
#define DOT32_q5_0 dot32
#define DOT32_q5_1 dot32
#define DOT32_q8_0 dot32_signed

#define PARTS_UNIT256(name)                                                                        \
  VEC_FN void parts_unit_##name(const uint8_t *block, size_t row_bytes, size_t n_outs,             \
                                const uint8_t *const *x, size_t at, size_t n_rows, vec *sums) {    \
    vb w[PARTS_OUTS][VECS_256];                                                                    \
    vec scale[PARTS_OUTS][VECS_256], offset[PARTS_OUTS][2];                                        \
    PARTS_UNROLL_OUTS bytes_##name(block + k * row_bytes, w[k], scale[k], offset[k]);              \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {                                  \
      const uint8_t *u = x[r] + at;                                                                \
      vec sum[PARTS_OUTS];                                                                         \
      float s;                                                                                     \
      memcpy(&s, u + UNIT256_SCALE, sizeof s);                                                     \
      PARTS_UNROLL_OUTS sum[k] = vec_zero();                                                       \
      _Pragma("GCC unroll 16") for (size_t v = 0; v < VECS_256; v++) {                             \
        const vb high = vb_load(u + v * VB), low = vb_load(u + 256 + v * VB);                      \
        PARTS_UNROLL_OUTS {                                                                        \
          const vi first = vi_times_128(vi_dot(vi_zero(), w[k][v], high));                         \
          sum[k] = vec_fma(vi_to_vec(vi_dot(first, w[k][v], low)), scale[k][v], sum[k]);           \
        }                                                                                          \
      }                                                                                            \
      PARTS_UNROLL_OUTS {                                                                          \
        vec *to = &sums[r * n_outs + k];                                                           \
        *to = vec_fma(sum[k], vec_set1(s), *to);                                                   \
        *to = add_offsets_##name(offset[k], u + UNIT256_SUMS, *to);                                \
      }                                                                                            \
    }                                                                                              \
  }

#define PARTS_OUTPUTS(name, elements, bytes, n_blocks, unit_bytes, prepare_row, row_size)          \
  VEC_FN void parts_outputs_##name(const parts_job *job, size_t o, size_t n_outs, size_t first,    \
                                   size_t n_rows) {                                                \
    vec sums[4 * PARTS_OUTS];                                                                      \
    const uint8_t *w = job->w + o * job->row_bytes, *const *x = job->x + first;                    \
    size_t at = 0;                                                                                 \
    _Pragma("GCC unroll 16") for (size_t i = 0; i < n_rows * n_outs; i++) sums[i] = vec_zero();    \
    for (size_t u = 0; u < job->n_units; u++, w += (n_blocks) * (bytes), at += (unit_bytes)) {     \
      parts_prefetch(job, o, n_outs, u, n_outs *(n_blocks) * (bytes));                             \
      parts_unit_##name(w, job->row_bytes, n_outs, x, at, n_rows, sums);                           \
    }                                                                                              \
    if (job->n_tail) {                                                                             \
      uint8_t blocks[PARTS_OUTS][(n_blocks) * (bytes)] = {{0}};                                    \
      PARTS_UNROLL_OUTS memcpy(blocks[k], w + k * job->row_bytes, job->n_tail * (bytes));          \
      parts_unit_##name(blocks[0], (n_blocks) * (bytes), n_outs, x, at, n_rows, sums);             \
    }                                                                                              \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++)                                    \
        PARTS_UNROLL_OUTS if (first + r < job->n_rows)                                             \
            job->y[(first + r) * job->ldy + o + k] = vec_sum(sums[r * n_outs + k]);                \
  }                                                                                                \
  VEC_FN void parts_rows_##name(const parts_job *job, size_t n_out, size_t n_rows) {               \
    size_t o = 0;                                                                                  \
    for (; o + PARTS_OUTS <= n_out; o += PARTS_OUTS)                                               \
      for (size_t first = 0; first < job->n_rows; first += 4)                                      \
        parts_outputs_##name(job, o, PARTS_OUTS, first, n_rows);                                   \
    for (; PARTS_OUTS > 1 && o < n_out; o++)                                                       \
      for (size_t first = 0; first < job->n_rows; first += 4)                                      \
        parts_outputs_##name(job, o, 1, first, n_rows);                                            \
  }                                                                                                \
  void PARTS_PASTE(name, ISA, )(const void *w, size_t n_out, size_t n_in, const void *x,           \
                                size_t x_bytes, size_t n_rows, float *y, size_t ldy) {             \
    const size_t n_row_blocks = n_in / (elements);                                                 \
    parts_job job = {.w = w,                                                                       \
                     .row_bytes = n_row_blocks * (bytes),                                          \
                     .n_units = n_row_blocks / (n_blocks),                                         \
                     .n_tail = n_row_blocks % (n_blocks),                                          \
                     .n_rows = n_rows,                                                             \
                     .y = y,                                                                       \
                     .ldy = ldy};                                                                  \
    for (size_t r = 0; r < LK_MATVEC_MAX_ROWS; r++)                                                \
      job.x[r] = (const uint8_t *)x + (r < n_rows ? r : n_rows - 1) * x_bytes;                     \
    if (n_rows == 1)                                                                               \
      parts_rows_##name(&job, n_out, 1);                                                           \
    else if (n_rows == 2)                                                                          \
      parts_rows_##name(&job, n_out, 2);                                                           \
    else                                                                                           \
      parts_rows_##name(&job, n_out, 4);                                                           \
  }                                                                                                \
  void PARTS_PASTE(name, ISA, _prepare)(const float *x, size_t n_in, void *row) {                  \
    prepare_row(x, n_in, row);                                                                     \
  }                                                                                                \
  size_t PARTS_PASTE(name, ISA, _row_bytes)(size_t n_in) { return row_size(n_in); }

#define PARTS_32(name, bytes, has_offset)                                                          \
  PARTS_UNIT32(name, has_offset)                                                                   \
  PARTS_OUTPUTS(name, 32, bytes, UNIT_BLOCKS, UNIT32_BYTES, parts_prepare32, parts_row_bytes32)
#define PARTS_256(name, bytes, prepare_row)                                                        \
  PARTS_UNIT256(name)                                                                              \
  PARTS_OUTPUTS(name, 256, bytes, 1, UNIT256_BYTES, prepare_row, parts_row_bytes256)

#define add_offsets_q4_k add_8_offsets
#define add_offsets_q5_k add_8_offsets
#define add_offsets_q6_k add_16_offsets

PARTS_32(q8_0, 34, 0)
PARTS_32(q4_0, 18, 1)
PARTS_32(q4_1, 20, 1)
PARTS_32(q5_0, 22, 1)
PARTS_32(q5_1, 24, 1)
PARTS_256(q4_k, 144, parts_prepare_nibbles)
PARTS_256(q5_k, 176, parts_prepare_nibbles)
PARTS_256(q6_k, 210, parts_prepare_in_order)

#endif
