/* Own kernels for a product of some dozens of rows: see dozens.cu. */
#ifndef LK_CUDA_DOZENS_CUH
#define LK_CUDA_DOZENS_CUH

#include "cuda/device.cuh"

/* y[n_rows][n_out], rows `pitch` floats apart, = x[n_rows][n_in] w^T (+ bias), or += ; or, where
 * `gated` is not NULL, gated[n_rows][n_out] = silu(x gate^T) * (x up^T), rounded: no y, no bias. */
typedef struct lk_dozens {
  const uint16_t *w; /* device bf16 [n_out][n_in]; with a gate [2][n_out][n_in], gate and up */
  const uint16_t *x; /* device bf16, aligned to 16 bytes */
  const float *bias; /* device [n_out] or NULL */
  float *y;          /* device */
  uint16_t *gated;   /* device bf16 */
  uint32_t n_rows, n_out, n_in, pitch;
  bool add;
} lk_dozens;

/* Launches the product; false, and nothing is launched, where these kernels do not do it: before
 * Hopper, of more than LK_CUDA_DOZENS_ROWS rows, of rows that are not whole 16 bytes. A row's bits
 * do not depend on the other rows, nor on their number. */
bool lk_linear_dozens(lk_cuda_device *dev, const lk_dozens *job);

#endif
