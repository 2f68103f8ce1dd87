/* The mean of a middle's keys, where it stands in for channels that are not stored. */
#ifndef LK_CUDA_MEAN_CUH
#define LK_CUDA_MEAN_CUH

#include "cuda/cuda_api.h"

/* The sums [2][D] over the group's middle of a head that keeps n_kept channels; NULL where they
 * stand for nothing. */
static __device__ __forceinline__ const float *lk_mean_sums(const lk_cuda_means *means,
                                                            const lk_cuda_group *group,
                                                            uint32_t head, uint32_t n_kept,
                                                            uint32_t head_dim) {
  const bool wanted = n_kept > 0 ? means->for_pruned : means->for_empty;
  if (!wanted || group->mean == NULL || group->n_middle == 0) return NULL;
  return group->mean + means->offset + (size_t)head * 2 * head_dim;
}

/* q . mean key over the channels that the head does not keep, not scaled. q[D], sums[D];
 * channels[D] of the head as in lk_cuda_view. For a whole warp; each lane gets it. */
static __device__ __forceinline__ float lk_mean_logit(const float *q, const float *sums,
                                                      const uint16_t *channels, uint32_t n_kept,
                                                      uint32_t head_dim, uint64_t n_middle) {
  const float per_token = 1.0f / (float)n_middle;
  float logit = 0.0f;
  for (uint32_t i = n_kept + threadIdx.x % 32; i < head_dim; i += 32) {
    const uint32_t c = channels[i];
    logit = __fmaf_rn(q[c], __fmul_rn(sums[c], per_token), logit);
  }
  for (int across = 16; across > 0; across /= 2)
    logit += __shfl_xor_sync(0xffffffffu, logit, across);
  return logit;
}

#endif
