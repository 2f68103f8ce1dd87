/* Reading memory as fast as it comes, for benchmarks. */
#include "cuda/ops.cuh"

enum { THREADS = 256, WARP = 32, N_WARPS = THREADS / WARP, IN_FLIGHT = 8 };

static __device__ __forceinline__ uint32_t fold(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; }

/* A thread has IN_FLIGHT loads of 16 bytes under way; nothing is asked for beyond n of them. */
static __global__ void __launch_bounds__(THREADS)
    read_kernel(const uint4 *from, size_t n, uint32_t *sum) {
  __shared__ uint32_t parts[N_WARPS];
  const size_t stride = (size_t)gridDim.x * THREADS;
  size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  uint32_t x = 0;
  for (; i + (IN_FLIGHT - 1) * stride < n; i += IN_FLIGHT * stride) {
    uint4 v[IN_FLIGHT];
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; j++) v[j] = __ldcs(from + i + j * stride);
#pragma unroll
    for (int j = 0; j < IN_FLIGHT; j++) x ^= fold(v[j]);
  }
  for (; i < n; i += stride) x ^= fold(__ldcs(from + i));
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    x ^= __shfl_xor_sync(0xffffffffu, x, distance);
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
  __syncthreads();
  if (threadIdx.x > 0) return;
  x = parts[0];
#pragma unroll
  for (int w = 1; w < N_WARPS; w++) x ^= parts[w];
  atomicXor(sum, x);
}

void lk_cuda_read(lk_cuda_device *dev, const void *from, size_t n_bytes, uint32_t n_blocks,
                  uint32_t *sum) {
  const size_t n = n_bytes / sizeof(uint4);
  if (n == 0 || n_blocks == 0) return;
  read_kernel<<<(unsigned)dev->n_sm * n_blocks, THREADS, 0, dev->stream>>>((const uint4 *)from, n,
                                                                           sum);
  lk_cuda_launched(dev, "read");
}
