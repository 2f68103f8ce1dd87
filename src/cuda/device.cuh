/* A device as the launching code sees it: its stream, its sizes, the first failure since the last
 * check. */
#ifndef LK_CUDA_DEVICE_CUH
#define LK_CUDA_DEVICE_CUH

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "cuda/cuda_api.h"

/* Shared memory of the decode attention kernel on this device; zeros: not chosen yet. */
typedef struct lk_cuda_ring {
  int n_slots;  /* of a block */
  int n_blocks; /* of a multiprocessor */
  int n_bytes;  /* of a block */
} lk_cuda_ring;

/* Who does linear_many's products of some dozens of rows: one or the other by their size, or, for
 * tests and measurements, always cuBLASLt, or own kernels wherever they can. */
typedef enum lk_cuda_many { LK_MANY_BY_SIZE, LK_MANY_BY_LIBRARY, LK_MANY_OWN } lk_cuda_many;

typedef struct lk_cuda_gemm lk_cuda_gemm; /* plans of products, linear/plan.cu */

/* All zeros but what open sets. */
struct lk_cuda_device {
  int index, n_sm, major; /* multiprocessors; compute capability's first number */
  lk_cuda_ring ring[4];   /* bf16 of D 64, 128, then f16 */
  cudaStream_t stream;
  cublasLtHandle_t blas; /* NULL before reserve */
  lk_cuda_gemm *gemm;    /* NULL before reserve */
  void *workspace;       /* of GEMM, workspace_bytes; device memory */
  size_t workspace_bytes;
  uint16_t *operand; /* bf16 activations of a product, operand_elements; device memory */
  size_t operand_elements;
  uint16_t *gated; /* room for those that a product with a gate makes of the operand */
  size_t gated_elements;
  const uint16_t *source;           /* operand or gated: where the operand is that was made last */
  lk_cuda_many many;                /* who does products of dozens of rows */
  cudaEvent_t marks[LK_CUDA_MARKS]; /* made when first set */
  leank_error failure;              /* code LEANK_OK: none */
};

/* Keeps a failure, unless one is kept already. `what` names the call, e.g. "rms_norm". */
void lk_cuda_keep(lk_cuda_device *dev, cudaError_t code, const char *what);

/* After each launch. */
static inline void lk_cuda_launched(lk_cuda_device *dev, const char *what) {
  const cudaError_t code = cudaGetLastError();
  if (code != cudaSuccess) lk_cuda_keep(dev, code, what);
}

/* Launches a kernel that may begin while what stands before it in the stream is ending. Each of its
 * blocks calls lk_dependents_launch, and lk_dependency_wait before it reads what those before it
 * write or writes what they touch: so whatever stands further before has ended as well. Blocks are
 * in clusters of n_cluster; more than 1 need Hopper. */
template <typename... P, typename... A>
static inline void lk_cuda_launch_clusters(lk_cuda_device *dev, const char *what,
                                           void (*kernel)(P...), dim3 n_blocks, unsigned n_threads,
                                           unsigned n_cluster, size_t shared_bytes,
                                           const A &...arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = n_blocks;
  config.blockDim = dim3(n_threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = dev->stream;
  config.attrs = attributes;
  if (dev->major >= 9) {
    cudaLaunchAttribute *early = &attributes[config.numAttrs++];
    early->id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early->val.programmaticStreamSerializationAllowed = 1;
  }
  if (n_cluster > 1) {
    cudaLaunchAttribute *cluster = &attributes[config.numAttrs++];
    cluster->id = cudaLaunchAttributeClusterDimension;
    cluster->val.clusterDim.x = n_cluster;
    cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
  }
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, P(arguments)...);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, what);
}
template <typename... P, typename... A>
static inline void lk_cuda_launch(lk_cuda_device *dev, const char *what, void (*kernel)(P...),
                                  dim3 n_blocks, unsigned n_threads, size_t shared_bytes,
                                  A... arguments) {
  lk_cuda_launch_clusters(dev, what, kernel, n_blocks, n_threads, 1, shared_bytes, arguments...);
}

/* Whether a kernel was compiled for Hopper or later. */
static inline bool lk_cuda_has_hopper_code(const void *kernel) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.ptxVersion >= 90;
  cudaGetLastError();
  return false;
}

static inline unsigned lk_cuda_blocks(size_t n, size_t per_block) {
  return (unsigned)((n + per_block - 1) / per_block);
}

#endif
