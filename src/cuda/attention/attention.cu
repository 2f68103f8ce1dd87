/* Attention by the elements of the pages. */
#include "cuda/ops.cuh"

void lk_cuda_decode_attention(lk_cuda_device *dev, const lk_cuda_decode *job) {
  (job->view.is_f16 ? lk_cuda_decode_f16 : lk_cuda_decode_bf16)(dev, job);
}

void lk_cuda_attend_many(lk_cuda_device *dev, const lk_cuda_attend_rows *job) {
  if (job->n_groups == 0 || job->max_rows == 0) return;
  (job->view.is_f16 ? lk_cuda_attend_rows_f16 : lk_cuda_attend_rows_bf16)(dev, job);
}
