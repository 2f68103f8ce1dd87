/* Products with quantised weights in integers: the kernels of one instruction set. Before including
 * it: a matvec_bytes_<isa>.h and ISA, the suffix of the names.
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

enum { PARTS_MAX = 127 * 128, PARTS_PREFETCH = 2048 };
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
 * a small number leaves it, rounded to nearest even, in the low bits. */
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
    low[i] = (int8_t)(q[i] - (int32_t)((uint32_t)h << 7));
  }
  for (size_t i = 0; i < 16; i++) sum = (int32_t)((uint32_t)sum + (uint32_t)q[i]);
  return sum;
}

static void parts_block32(const float *x, size_t block, uint8_t *unit) {
  float inverse;
  const float scale = parts_scale(x, 32, &inverse);
  int32_t sum = 0, bias[4] = {0};
  for (size_t c = 0; c < 2; c++) {
    const size_t at = c * VB + 16 * block;
    int32_t q[16];
    sum += parts_split(x + 16 * c, inverse, (int8_t *)unit + at, (int8_t *)unit + 2 * VB + at, q);
    for (size_t i = 0; i < 16; i++) bias[i / 4] -= 128 * q[i];
  }
  const float sum_x = scale * (float)sum;
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
  const size_t group = c / 2, half = VB / 32 == 2 ? group / 2 % 2 : 0;
  if (!nibble_pairs || VB / 32 != 2) return 16 * c;
  return 64 * (group / 4 * 2 + group % 2) + 32 * half + 16 * (c % 2);
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

/* ---- products ---- */

VEC_FN void parts_prefetch(const uint8_t *unit, size_t n_bytes) {
  const uintptr_t p = (uintptr_t)unit + PARTS_PREFETCH; /* may lie outside: nothing is read */
  _Pragma("GCC unroll 8") for (size_t i = 0; i < n_bytes; i += 64)
      __builtin_prefetch((const void *)(p + i));
}

/* parts_unit_: one unit of weights meets n_rows rows. parts_outputs_: all outputs. n_rows is a
 * constant where these are inlined; rows beyond those asked for repeat the last one. */
#define PARTS_UNIT32(name, has_offset)                                                             \
  VEC_FN void parts_unit_##name(const uint8_t *blocks, const uint8_t *const *x, size_t at,         \
                                size_t n_rows, vec *sums) {                                        \
    vb w[2];                                                                                       \
    vq scale, offset;                                                                              \
    bytes_##name(blocks, w, &scale, &offset);                                                      \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {                                  \
      const uint8_t *u = x[r] + at;                                                                \
      const vq s = vq_mul(scale, vq_load(u + UNIT32_SCALES));                                      \
      const vi dot = DOT32_##name(u, w);                                                           \
      sums[r] = vec_fma(vi_to_vec(dot), vq_spread(s), sums[r]);                                    \
      if (has_offset)                                                                              \
        sums[r] = vec_fma(vq_widen(offset), vq_widen(vq_load(u + UNIT32_SUMS)), sums[r]);          \
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
  VEC_FN void parts_unit_##name(const uint8_t *block, const uint8_t *const *x, size_t at,          \
                                size_t n_rows, vec *sums) {                                        \
    vb w[VECS_256];                                                                                \
    vec scale[VECS_256], offset[2];                                                                \
    bytes_##name(block, w, scale, offset);                                                         \
    _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) {                                  \
      const uint8_t *u = x[r] + at;                                                                \
      vec sum = vec_zero();                                                                        \
      _Pragma("GCC unroll 16") for (size_t v = 0; v < VECS_256; v++) {                             \
        const vi high = vi_dot(vi_zero(), w[v], vb_load(u + v * VB));                              \
        const vi dot = vi_dot(vi_times_128(high), w[v], vb_load(u + 256 + v * VB));                \
        sum = vec_fma(vi_to_vec(dot), scale[v], sum);                                              \
      }                                                                                            \
      float s;                                                                                     \
      memcpy(&s, u + UNIT256_SCALE, sizeof s);                                                     \
      sums[r] = vec_fma(sum, vec_set1(s), sums[r]);                                                \
      sums[r] = add_offsets_##name(offset, u + UNIT256_SUMS, sums[r]);                             \
    }                                                                                              \
  }

#define PARTS_OUTPUTS(name, bytes, n_blocks, unit_bytes, prepare_row, row_size)                    \
  VEC_FN void parts_outputs_##name(const uint8_t *w, size_t n_out, size_t n_units, size_t n_tail,  \
                                   const uint8_t *const *x, size_t n_rows, float *y, size_t ldy,   \
                                   size_t n_wanted) {                                              \
    for (size_t o = 0; o < n_out; o++) {                                                           \
      vec sums[LK_MATVEC_MAX_ROWS];                                                                \
      size_t at = 0;                                                                               \
      _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) sums[r] = vec_zero();            \
      for (size_t u = 0; u < n_units; u++, w += (n_blocks) * (bytes), at += (unit_bytes)) {        \
        parts_prefetch(w, (n_blocks) * (bytes));                                                   \
        parts_unit_##name(w, x, at, n_rows, sums);                                                 \
      }                                                                                            \
      if (n_tail) {                                                                                \
        uint8_t blocks[(n_blocks) * (bytes)] = {0};                                                \
        memcpy(blocks, w, n_tail *(bytes));                                                        \
        parts_unit_##name(blocks, x, at, n_rows, sums);                                            \
        w += n_tail * (bytes);                                                                     \
      }                                                                                            \
      _Pragma("GCC unroll 8") for (size_t r = 0; r < n_rows; r++) if (r < n_wanted)                \
          y[r * ldy + o] = vec_sum(sums[r]);                                                       \
    }                                                                                              \
  }                                                                                                \
  void PARTS_PASTE(name, ISA, )(const void *w, size_t n_out, size_t n_in, const void *x,           \
                                size_t x_bytes, size_t n_rows, float *y, size_t ldy) {             \
    const size_t n_row_blocks = n_in / ((bytes) > 100 ? 256 : 32);                                 \
    const size_t n_units = n_row_blocks / (n_blocks), n_tail = n_row_blocks % (n_blocks);          \
    const uint8_t *rows[LK_MATVEC_MAX_ROWS];                                                       \
    for (size_t r = 0; r < LK_MATVEC_MAX_ROWS; r++)                                                \
      rows[r] = (const uint8_t *)x + (r < n_rows ? r : n_rows - 1) * x_bytes;                      \
    if (n_rows == 1)                                                                               \
      parts_outputs_##name(w, n_out, n_units, n_tail, rows, 1, y, ldy, n_rows);                    \
    else if (n_rows == 2)                                                                          \
      parts_outputs_##name(w, n_out, n_units, n_tail, rows, 2, y, ldy, n_rows);                    \
    else if (n_rows <= 4)                                                                          \
      parts_outputs_##name(w, n_out, n_units, n_tail, rows, 4, y, ldy, n_rows);                    \
    else                                                                                           \
      for (size_t o = 0; o < n_out; o++) {                                                         \
        const uint8_t *row = (const uint8_t *)w + o * n_row_blocks * (bytes);                      \
        parts_outputs_##name(row, 1, n_units, n_tail, rows, 4, y + o, ldy, 4);                     \
        parts_outputs_##name(row, 1, n_units, n_tail, rows + 4, 4, y + 4 * ldy + o, ldy,           \
                             n_rows - 4);                                                          \
      }                                                                                            \
  }                                                                                                \
  void PARTS_PASTE(name, ISA, _prepare)(const float *x, size_t n_in, void *row) {                  \
    prepare_row(x, n_in, row);                                                                     \
  }                                                                                                \
  size_t PARTS_PASTE(name, ISA, _row_bytes)(size_t n_in) { return row_size(n_in); }

#define PARTS_32(name, bytes, has_offset)                                                          \
  PARTS_UNIT32(name, has_offset)                                                                   \
  PARTS_OUTPUTS(name, bytes, UNIT_BLOCKS, UNIT32_BYTES, parts_prepare32, parts_row_bytes32)
#define PARTS_256(name, bytes, prepare_row)                                                        \
  PARTS_UNIT256(name)                                                                              \
  PARTS_OUTPUTS(name, bytes, 1, UNIT256_BYTES, prepare_row, parts_row_bytes256)

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
