/* The rotation of RoPE, one for all kernels that have it: the same bits. */
#ifndef LK_CUDA_ROTATE_CUH
#define LK_CUDA_ROTATE_CUH

#include <cuda_runtime.h>

static __device__ __forceinline__ void lk_rotate(float *a, float *b, float cosine, float sine) {
  const float first = *a, second = *b;
  *a = __fmaf_rn(first, cosine, -__fmul_rn(second, sine));
  *b = __fmaf_rn(first, sine, __fmul_rn(second, cosine));
}

#endif
