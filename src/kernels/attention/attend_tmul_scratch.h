/* Where things lie in the scratch of op "attend" for many rows over tile registers. */
#ifndef LK_KERNELS_ATTEND_TMUL_SCRATCH_H
#define LK_KERNELS_ATTEND_TMUL_SCRATCH_H

#include <stddef.h>

#include "kernels/page/page.h"

/* A tile is 16 rows of 64 bytes. Two of them are the rows of a block, which meets the pages of a
 * group at once: a maximum, a rescaling and a pass of the accumulators through the tiles are paid
 * per group. With D = 128 a group's K and V take 128 KiB and what is kept of 128 rows 128 KiB (the
 * second level of cache), a block's logits and probabilities 48 KiB. */
enum {
  LK_TMUL_ROWS = 16,
  LK_TMUL_ROW_BYTES = 64,
  LK_TMUL_TILE_BYTES = LK_TMUL_ROWS * LK_TMUL_ROW_BYTES,
  LK_TMUL_UNIT =
      32, /* channels of a step of logits; of two tiles of output; keys of a step of it */
  LK_TMUL_BLOCK_ROWS = 2 * LK_TMUL_ROWS,
  LK_TMUL_GROUP_PAGES = 4,
  LK_TMUL_GROUP_KEYS = LK_TMUL_GROUP_PAGES * LK_PAGE_TOKENS
};

/* Offsets in bytes, multiples of 64. Mp: M in whole tiles, Dp: D in whole units. */
typedef struct lk_tmul_layout {
  size_t rows, head_padded; /* Mp, Dp */
  size_t o;                 /* fp32 [Mp][Dp] */
  size_t q[2];              /* bf16 [Mp][up to Dp]: q and q_lean */
  size_t v_pairs;           /* bf16 [group's pages][2][Dp/16][16 pairs][16 channels][2] */
  size_t k_rest;            /* bf16 [group's pages][4 blocks][16 pairs][16 keys][2] */
  size_t x;                 /* fp32 [block's rows][group's keys] */
  size_t p;                 /* bf16 likewise */
  size_t n_bytes;           /* of all */
} lk_tmul_layout;

static inline lk_tmul_layout lk_tmul_layout_of(size_t n_q, size_t head_dim) {
  lk_tmul_layout at = {0};
  at.rows = (n_q + LK_TMUL_ROWS - 1) / LK_TMUL_ROWS * LK_TMUL_ROWS;
  at.head_padded = (head_dim + LK_TMUL_UNIT - 1) / LK_TMUL_UNIT * LK_TMUL_UNIT;
  at.q[0] = at.rows * at.head_padded * 4;
  at.q[1] = at.q[0] + at.rows * at.head_padded * 2;
  at.v_pairs = at.q[1] + at.rows * at.head_padded * 2;
  at.k_rest = at.v_pairs + LK_TMUL_GROUP_KEYS * at.head_padded * 2;
  at.x = at.k_rest + (size_t)LK_TMUL_GROUP_KEYS / LK_KEY_BLOCK * LK_TMUL_TILE_BYTES;
  at.p = at.x + (size_t)LK_TMUL_BLOCK_ROWS * LK_TMUL_GROUP_KEYS * 4;
  at.n_bytes = at.p + (size_t)LK_TMUL_BLOCK_ROWS * LK_TMUL_GROUP_KEYS * 2;
  return at;
}

#endif
