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

/* What a warp needs for q . mean key over the channels that a head does not keep, of up to N query
 * rows. All of it is asked for at once, before the first is needed: channels, then numbers, two
 * ways to memory in all. */
template <int D, int N> struct lk_mean_terms {
  float sum[D / 32], q[N][D / 32]; /* of the lane's channels */
  uint32_t n;                      /* channels of the lane */
};

/* q: rows `pitch` floats apart, n_rows of them there. sums[D]; channels[D] of the head as in
 * lk_cuda_view. */
template <int D, int N>
static __device__ __forceinline__ void lk_mean_ask(lk_mean_terms<D, N> *terms, const float *q,
                                                   size_t pitch, uint32_t n_rows, const float *sums,
                                                   const uint16_t *channels, uint32_t n_kept) {
  uint32_t c[D / 32];
  const uint32_t first = n_kept + threadIdx.x % 32;
  terms->n = first < D ? (D - first + 31) / 32 : 0;
#pragma unroll
  for (uint32_t i = 0; i < D / 32; i++) c[i] = i < terms->n ? channels[first + 32 * i] : 0;
#pragma unroll
  for (uint32_t i = 0; i < D / 32; i++) {
    terms->sum[i] = i < terms->n ? sums[c[i]] : 0.0f;
#pragma unroll
    for (uint32_t r = 0; r < N; r++)
      terms->q[r][i] = i < terms->n && r < n_rows ? q[r * pitch + c[i]] : 0.0f;
  }
}

/* The logits, not scaled; each lane gets all. */
template <int D, int N>
static __device__ __forceinline__ void lk_mean_logits(const lk_mean_terms<D, N> *terms,
                                                      uint64_t n_middle, float logits[N]) {
  const float per_token = 1.0f / (float)n_middle;
#pragma unroll
  for (uint32_t r = 0; r < N; r++) logits[r] = 0.0f;
#pragma unroll
  for (uint32_t i = 0; i < D / 32; i++) {
    const float mean = __fmul_rn(terms->sum[i], per_token);
#pragma unroll
    for (uint32_t r = 0; r < N; r++)
      if (i < terms->n) logits[r] = __fmaf_rn(terms->q[r][i], mean, logits[r]);
  }
  for (int across = 16; across > 0; across /= 2)
#pragma unroll
    for (uint32_t r = 0; r < N; r++) logits[r] += __shfl_xor_sync(0xffffffffu, logits[r], across);
}

#endif
