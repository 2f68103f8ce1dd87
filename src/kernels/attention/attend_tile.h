/* The product of op "attend": a tile of rows times vectors, kept in registers. Both halves of
 * attention are this one: logits (the sum runs over channels, vectors hold keys) and output (the
 * sum runs over keys, vectors hold channels). The including file chose its vectors before and
 * defines LK_ATTEND_PAIRS where it has vdpbf16ps or bfdot. */
#ifndef LK_KERNELS_ATTEND_TILE_H
#define LK_KERNELS_ATTEND_TILE_H

#include <stdbool.h>
#include <string.h>

#include "kernels/attention/attend_unroll.h"
#include "kernels/page/page.h"

/* How the vectors of the right-hand side lie. A step is one channel or key; of the pair kinds, two.
 * All offsets in bytes. */
typedef enum side_kind {
  SIDE_F32,       /* step t, vector b: fp32 at t * step + block(b) */
  SIDE_KEYS,      /* bf16 K: the pair of channels t/2 at t/2 * step + block(b), half t%2 */
  SIDE_VALUES,    /* bf16 V: pairs of channels at t * step + b/2 vectors, half b%2 */
  SIDE_PAIRS,     /* bf16 pairs as factors: t * step + block(b) */
  SIDE_VALUE_ROWS /* the same made of rows 2t and 2t + 1 of a bf16 V */
} side_kind;

typedef struct side {
  const char *base;
  size_t step;
  size_t block;      /* between blocks of 64 bytes in the order of b */
  ptrdiff_t n_valid; /* 32-bit lanes behind the base that may be read, for tails */
} side;

/* Memory that will be needed soon, fetched a few lines per step of the products. */
enum { AHEAD_RANGES = 3, LINE_BYTES = 64 };
typedef struct ahead {
  const char *next, *end; /* of the present range */
  const char *begins[AHEAD_RANGES], *ends[AHEAD_RANGES];
  int n_ranges, range;
  size_t n_lines; /* per step; 0: nothing (left) to fetch */
} ahead;

typedef struct tile_rows {
  const char *a; /* row r at a + r * lda, 4 bytes per step */
  size_t lda;
  float *c; /* row r at c + r * ldc */
  size_t ldc;
  const float *scale; /* c is scaled by it first; NULL: c starts at 0 */
} tile_rows;

LK_INLINE size_t block_offset(const side *s, int b) {
  enum { PER_BLOCK = 64 / (VW * 4) };
  return (size_t)(b / PER_BLOCK) * s->block + (size_t)(b % PER_BLOCK) * VW * 4;
}

LK_INLINE vf side_read(const side *s, bool tail, size_t offset, int lane) {
  return tail ? v_load_first(s->base + offset, s->n_valid - lane) : v_load(s->base + offset);
}

LK_INLINE vf side_load(side_kind kind, bool tail, const side *s, size_t t, int b) {
  if (kind == SIDE_F32 || kind == SIDE_PAIRS)
    return side_read(s, tail, t * s->step + block_offset(s, b), b * VW);
  if (kind == SIDE_KEYS) {
    const vf pairs = v_load(s->base + t / 2 * s->step + block_offset(s, b));
    return t % 2 ? v_odd(pairs) : v_even(pairs);
  }
  const size_t at = (size_t)(b / 2) * VW * 4;
  if (kind == SIDE_VALUES) {
    const vf pairs = side_read(s, tail, t * s->step + at, b / 2 * VW);
    return b % 2 ? v_odd(pairs) : v_even(pairs);
  }
#if LK_ATTEND_PAIRS
  const vf first = side_read(s, tail, 2 * t * s->step + at, b / 2 * VW);
  const vf second = side_read(s, tail, (2 * t + 1) * s->step + at, b / 2 * VW);
  return b % 2 ? v_pair_high(first, second) : v_pair_low(first, second);
#else
  return v_zero();
#endif
}

/* The last step of an odd number of keys: the first of each pair, 0 for the second. */
LK_INLINE vf side_load_half(side_kind kind, bool tail, const side *s, size_t t, int b) {
#if LK_ATTEND_PAIRS
  if (kind == SIDE_PAIRS) return v_pair_first(side_load(kind, tail, s, t, b));
  const vf row = side_read(s, tail, 2 * t * s->step + (size_t)(b / 2) * VW * 4, b / 2 * VW);
  return b % 2 ? v_pair_high(row, v_zero()) : v_pair_low(row, v_zero());
#else
  (void)kind, (void)tail, (void)s, (void)t, (void)b;
  return v_zero();
#endif
}

LK_INLINE vf multiply_add(side_kind kind, vf a, vf x, vf c) {
#if LK_ATTEND_PAIRS
  if (kind == SIDE_PAIRS || kind == SIDE_VALUE_ROWS) return v_pair_dot(a, x, c);
#endif
  (void)kind;
  return v_fma(a, x, c);
}

/* 4 bytes in all lanes: an fp32 or a bf16 pair. */
LK_INLINE vf broadcast(const char *p) {
  float x;
  memcpy(&x, p, sizeof x);
  return v_set1(x);
}

LK_INLINE void tile_step(side_kind kind, bool tail, bool half, int n_rows, int n_vecs,
                         const side *s, const tile_rows *rows, size_t t,
                         vf acc[TILE_ROWS][TILE_VECS]) {
  vf a[TILE_ROWS];
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) a[r] = broadcast(rows->a + (size_t)r * rows->lda + t * 4);
  LK_UNROLL
  for (int b = 0; b < n_vecs; b++) {
    const vf x = half ? side_load_half(kind, tail, s, t, b) : side_load(kind, tail, s, t, b);
    LK_UNROLL
    for (int r = 0; r < n_rows; r++) acc[r][b] = multiply_add(kind, a[r], x, acc[r][b]);
  }
}

LK_INLINE void tile_load(int n_rows, int n_vecs, const tile_rows *rows,
                         vf acc[TILE_ROWS][TILE_VECS]) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++)
      acc[r][b] = rows->scale ? v_mul(v_load(rows->c + (size_t)r * rows->ldc + b * VW),
                                      v_set1(rows->scale[r]))
                              : v_zero();
  }
}

LK_INLINE void tile_store(int n_rows, int n_vecs, const tile_rows *rows,
                          vf acc[TILE_ROWS][TILE_VECS]) {
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int b = 0; b < n_vecs; b++) v_store(rows->c + (size_t)r * rows->ldc + b * VW, acc[r][b]);
  }
}

static __attribute__((noinline)) void fetch_next_range(ahead *next) {
  while (next->next >= next->end && next->range < next->n_ranges) {
    next->next = next->begins[next->range];
    next->end = next->ends[next->range++];
  }
  if (next->next >= next->end) next->n_lines = 0;
}

/* A plan: ranges in the order of use, then the steps they are dealt to. */
static void fetch_range(ahead *next, const void *begin, size_t n_bytes) {
  next->begins[next->n_ranges] = begin;
  next->ends[next->n_ranges++] = (const char *)begin + n_bytes;
  next->n_lines += n_bytes / LINE_BYTES;
}

static void fetch_over(ahead *next, size_t n_steps) {
  next->n_lines = (next->n_lines + n_steps - 1) / n_steps;
  fetch_next_range(next);
}

LK_INLINE void fetch(ahead *next) {
  for (size_t i = 0; i < next->n_lines; i++, next->next += LINE_BYTES)
    __builtin_prefetch(next->next, 0, 2);
  if (next->next >= next->end && next->n_lines) fetch_next_range(next);
}

/* c[n_rows][n_vecs] = scale c + a x over the steps [begin, end), in this order, then the first half
 * of step `end` if `half`. kind, tail, n_rows and n_vecs are constants where this is called; what
 * happens to one row is the same for every n_rows. */
LK_INLINE void tile_product(side_kind kind, bool tail, int n_rows, int n_vecs, const side *s,
                            const tile_rows *rows, size_t begin, size_t end, bool half,
                            ahead *next) {
  vf acc[TILE_ROWS][TILE_VECS];
  tile_load(n_rows, n_vecs, rows, acc);
  for (size_t t = begin; t < end; t++) {
    if (next) fetch(next);
    tile_step(kind, tail, false, n_rows, n_vecs, s, rows, t, acc);
    if (kind == SIDE_KEYS) /* an even number of channels; one load of a pair serves both */
      tile_step(kind, tail, false, n_rows, n_vecs, s, rows, ++t, acc);
  }
  if (half) tile_step(kind, tail, true, n_rows, n_vecs, s, rows, end, acc);
  tile_store(n_rows, n_vecs, rows, acc);
}

#endif
