/* Rounding to bf16 and back in device code, bit for bit as base/dtype.h. */
#ifndef LK_CUDA_BF16_CUH
#define LK_CUDA_BF16_CUH

#include <stdint.h>

#include <cuda_runtime.h>

/* To nearest, ties to even; NaN stays NaN. */
static __device__ __forceinline__ uint32_t lk_cuda_to_bf16(float x) {
  const uint32_t u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

static __device__ __forceinline__ float lk_cuda_from_bf16(uint16_t x) {
  return __uint_as_float((uint32_t)x << 16);
}

/* Two in a register, the first in the low half. */
static __device__ __forceinline__ uint32_t lk_cuda_pair_bf16(float first, float second) {
  return lk_cuda_to_bf16(first) | lk_cuda_to_bf16(second) << 16;
}

/* A chunk of 8 consecutive floats; x 16-byte aligned. */
static __device__ __forceinline__ uint4 lk_cuda_chunk_bf16(const float *x) {
  const float4 a = ((const float4 *)x)[0], b = ((const float4 *)x)[1];
  return make_uint4(lk_cuda_pair_bf16(a.x, a.y), lk_cuda_pair_bf16(a.z, a.w),
                    lk_cuda_pair_bf16(b.x, b.y), lk_cuda_pair_bf16(b.z, b.w));
}

#endif
