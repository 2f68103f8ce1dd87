/* The product of op "attend_backward" over the vectors of an attend_vec_*.h, which the file
 * includes before: tiles of rows times vectors, kept in registers. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_PRODUCT_H
#define LK_KERNELS_ATTEND_BACKWARD_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/attention/attend_unroll.h"

/* c[r][i] (+)= sum over steps t, ascending, of a[r][t] b[t][i]. Strides in floats. */
typedef struct product {
  const float *a; /* a[r][t] at a + r * a_row + t * a_step */
  size_t a_row, a_step;
  const float *b;
  size_t b_step;
  float *c;
  size_t c_row;
  size_t n_steps;
  const size_t *row_steps; /* [rows]: steps of each row, instead of n_steps; NULL: the same */
  bool add;                /* c is added to, else overwritten */
} product;

/* Where a tile stands: its first row and column, its steps, and how many columns there are from
 * here. */
typedef struct tile_span {
  size_t row, col, begin, end;
  ptrdiff_t n_cols;
  bool add;
} tile_span;

LK_INLINE void product_step(int n_rows, int n_vecs, bool tail, ptrdiff_t n_cols, const float *a,
                            size_t a_row, const float *b, vf acc[TILE_ROWS][TILE_VECS]) {
  vf x[TILE_VECS];
  LK_UNROLL
  for (int i = 0; i < n_vecs; i++) x[i] = tail ? v_load_first(b, n_cols) : v_load(b + i * VW);
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    const vf factor = v_set1(a[(size_t)r * a_row]);
    LK_UNROLL
    for (int i = 0; i < n_vecs; i++) acc[r][i] = v_fma(factor, x[i], acc[r][i]);
  }
}

/* n_rows, n_vecs and tail (one vector of n_cols columns) are constants where this is called. */
LK_INLINE void product_tile(int n_rows, int n_vecs, bool tail, const product *p,
                            const tile_span *s) {
  vf acc[TILE_ROWS][TILE_VECS];
  float *c = p->c + s->row * p->c_row + s->col;
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int i = 0; i < n_vecs; i++) {
      const float *at = c + (size_t)r * p->c_row + i * VW;
      acc[r][i] = !s->add ? v_zero() : tail ? v_load_first(at, s->n_cols) : v_load(at);
    }
  }
  const size_t a_row = p->a_row, a_step = p->a_step, b_step = p->b_step;
  const float *a = p->a + s->row * a_row + s->begin * a_step;
  const float *b = p->b + s->begin * b_step + s->col;
  for (size_t t = s->begin; t < s->end; t++, a += a_step, b += b_step)
    product_step(n_rows, n_vecs, tail, s->n_cols, a, a_row, b, acc);
  LK_UNROLL
  for (int r = 0; r < n_rows; r++) {
    LK_UNROLL
    for (int i = 0; i < n_vecs; i++) {
      float *at = c + (size_t)r * p->c_row + i * VW;
      if (tail)
        v_store_first(at, s->n_cols, acc[r][i]);
      else
        v_store(at, acc[r][i]);
    }
  }
}

LK_INLINE void strip_or_tail(int n_rows, const product *p, const tile_span *s) {
  if (s->n_cols >= TILE_VECS * VW)
    product_tile(n_rows, TILE_VECS, false, p, s);
  else
    product_tile(n_rows, 1, true, p, s);
}

/* One body per number of rows, so that every accumulator is a register. */
static void tile_of_rows(size_t n_rows, const product *p, const tile_span *s) {
  switch (n_rows) {
  case 1: strip_or_tail(1, p, s); break;
  case 2: strip_or_tail(2, p, s); break;
  case 3: strip_or_tail(3, p, s); break;
#if TILE_ROWS > 3
  case 4: strip_or_tail(4, p, s); break;
  case 5: strip_or_tail(5, p, s); break;
  case 6: strip_or_tail(6, p, s); break;
#endif
  }
}

/* A tile over the steps that its rows have in common; then, row by row, what some have beyond. */
static void tile_of_any_steps(size_t n_rows, const product *p, const tile_span *at) {
  tile_span s = *at;
  s.end = p->n_steps;
  if (p->row_steps) {
    const size_t *steps = p->row_steps + s.row;
    s.end = steps[0];
    for (size_t r = 1; r < n_rows; r++)
      if (steps[r] < s.end) s.end = steps[r];
  }
  tile_of_rows(n_rows, p, &s);
  if (!p->row_steps) return;
  s.begin = s.end;
  s.add = true;
  for (size_t r = 0; r < n_rows; r++, s.row++) {
    s.end = p->row_steps[s.row];
    if (s.end > s.begin) tile_of_rows(1, p, &s);
  }
}

/* Strips of columns, so that a strip of b stays in the first level of cache; in each, tiles of rows
 * of nearly one size: 4 + 3 rows, not 6 + 1. */
static void multiply(const product *p, size_t n_rows, size_t n_cols) {
  const size_t n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
  const size_t per_tile = (n_rows + n_tiles - 1) / n_tiles;
  tile_span s = {.add = p->add};
  while (s.col < n_cols) {
    s.n_cols = (ptrdiff_t)(n_cols - s.col);
    for (s.row = 0; s.row < n_rows; s.row += per_tile)
      tile_of_any_steps(n_rows - s.row < per_tile ? n_rows - s.row : per_tile, p, &s);
    s.col += s.n_cols >= TILE_VECS * VW ? TILE_VECS * VW : VW;
  }
}

#endif
