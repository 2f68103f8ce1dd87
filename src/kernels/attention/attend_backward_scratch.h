/* Sizes of the scratch of op "attend_backward", all fp32: a page's K by channel and by key and its
 * V by channel, each 64 keys by padded channels; then two matrices of a block's rows by 64 keys. */
#ifndef LK_KERNELS_ATTEND_BACKWARD_SCRATCH_H
#define LK_KERNELS_ATTEND_BACKWARD_SCRATCH_H

#include <stddef.h>

#include "kernels/page/page.h"

/* Rows of a block meet a page together. With D = 128 the page takes 96 KiB, and the block's q,
 * dout, dq and its two matrices 192 KiB: they stay in the second level of cache. */
enum { LK_BACKWARD_BLOCK_ROWS = 96 };

static inline size_t lk_backward_block_rows(size_t n_q) {
  return n_q < LK_BACKWARD_BLOCK_ROWS ? n_q : LK_BACKWARD_BLOCK_ROWS;
}
/* D rounded up to whole vectors of the widest variant. */
static inline size_t lk_backward_padded(size_t head_dim) { return (head_dim + 15) / 16 * 16; }

#endif
