/* How activations lie in dev->operand. */
#ifndef LK_CUDA_OPERAND_CUH
#define LK_CUDA_OPERAND_CUH

#include "cuda/device.cuh"

enum {
  LK_FEW_ROWS = 64,    /* rows that linear_few multiplies at a time */
  LK_FEW_PERIOD = 512, /* elements of k after which the parts of k repeat: 8 parts of 64 */
  LK_FEW_SLAB = 32,    /* elements of k that a load of 16 bytes a lane covers */
  LK_PART_ALIGN = 128  /* elements; where the second part of rows begins, 256 bytes */
};

/* Tiles of 8 rows that n_rows (at most LK_FEW_ROWS) are computed as: 1, 2, 4 or 8. */
static inline unsigned lk_few_tiles(size_t n_rows) {
  unsigned n_tiles = 1;
  while (8 * (size_t)n_tiles < n_rows && n_tiles < LK_FEW_ROWS / 8) n_tiles *= 2;
  return n_tiles;
}

/* Slabs of all of k, whole periods. */
static inline size_t lk_few_slabs(size_t n_in) {
  return (n_in + LK_FEW_PERIOD - 1) / LK_FEW_PERIOD * (LK_FEW_PERIOD / LK_FEW_SLAB);
}

/* Elements of rows split in two for linear_few; LK_FEW_ROWS floats lie behind them. */
static inline size_t lk_few_split_elements(size_t n_rows, size_t n_in) {
  return lk_few_slabs(n_in) * LK_FEW_SLAB * 8 * lk_few_tiles(n_rows) * 2;
}

/* Elements of dev->operand for n_rows x n_in: rows split in two and a float each for linear_few, or
 * rounded for linear_many; or the two parts of half as many rows, of which the second is aligned.
 */
static inline size_t lk_operand_elements(size_t n_rows, size_t n_in) {
  const size_t split = lk_few_split_elements(n_rows, n_in) + 2 * LK_FEW_ROWS;
  const size_t rounded = n_rows * n_in + LK_PART_ALIGN;
  return split > rounded ? split : rounded;
}

#endif
