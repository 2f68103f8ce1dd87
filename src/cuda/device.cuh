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

typedef struct lk_cuda_gemm lk_cuda_gemm; /* plans of products, linear/many.cu */

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
 * write or writes what they touch: so whatever stands further before has ended as well. */
template <typename... P, typename... A>
static inline void lk_cuda_launch(lk_cuda_device *dev, const char *what, void (*kernel)(P...),
                                  dim3 n_blocks, unsigned n_threads, size_t shared_bytes,
                                  A... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = n_blocks;
  config.blockDim = dim3(n_threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = dev->stream;
  config.attrs = &early;
  config.numAttrs = dev->major >= 9 ? 1 : 0;
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, P(arguments)...);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, what);
}

static inline unsigned lk_cuda_blocks(size_t n, size_t per_block) {
  return (unsigned)((n + per_block - 1) / per_block);
}

#endif
