/* Logits of the mean, before attention of decode steps: a warp takes a query head of a sequence. */
#include <math.h>

#include "cuda/attention/mean.cuh"
#include "cuda/ops.cuh"

enum { THREADS = 128, PER_BLOCK = THREADS / 32 };
#define LOG2_E 1.4426950408889634f

/* In units of exponents of 2. Where no mean stands in, what changes nothing: 0 to add to logits;
 * for a head without lean pages -inf. */
static __global__ void __launch_bounds__(THREADS)
    mean_logits_kernel(const __grid_constant__ lk_cuda_decode job) {
  const lk_cuda_view &view = job.view;
  const uint32_t hq = blockIdx.x * PER_BLOCK + threadIdx.x / 32, head_dim = view.head_dim;
  if (hq >= view.n_heads) return;
  const lk_cuda_group *group = &job.groups[blockIdx.y];
  const uint32_t head = hq / (view.n_heads / view.n_kv_heads), n_kept = view.heads[head].n_kept;
  const size_t at = (size_t)blockIdx.y * view.n_heads + hq;
  const float *sums = lk_mean_sums(&job.means, group, head, n_kept, head_dim);
  float logit = n_kept > 0 ? 0.0f : -INFINITY;
  if (sums)
    logit = lk_mean_logit(job.q + at * head_dim, sums, view.channels + (size_t)head * head_dim,
                          n_kept, head_dim, group->n_middle) *
            (LOG2_E / sqrtf((float)head_dim));
  if (threadIdx.x % 32 == 0) job.mean_logits[at] = logit;
}

void lk_cuda_mean_logits(lk_cuda_device *dev, const lk_cuda_decode *job) {
  const dim3 grid((job->view.n_heads + PER_BLOCK - 1) / PER_BLOCK, job->n_groups);
  mean_logits_kernel<<<grid, THREADS, 0, dev->stream>>>(*job);
  lk_cuda_launched(dev, "logits of means");
}
