/* IEEE half precision in device code. Beyond +-65504, infinities included, becomes that; NaN stays
 * NaN. */
#ifndef LK_CUDA_F16_CUH
#define LK_CUDA_F16_CUH

#include <stdint.h>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* To nearest, ties to even. */
static __device__ __forceinline__ uint32_t lk_cuda_to_f16(float x) {
  const float largest = 65504.0f;
  return __half_as_ushort(__float2half_rn(fabsf(x) > largest ? copysignf(largest, x) : x));
}

static __device__ __forceinline__ float lk_cuda_from_f16(uint16_t x) {
  return __half2float(__ushort_as_half(x));
}

/* Two in a register, the first in the low half. */
static __device__ __forceinline__ uint32_t lk_cuda_pair_f16(float first, float second) {
  return lk_cuda_to_f16(first) | lk_cuda_to_f16(second) << 16;
}

/* A chunk of 8 consecutive floats; x 16-byte aligned. */
static __device__ __forceinline__ uint4 lk_cuda_chunk_f16(const float *x) {
  const float4 a = ((const float4 *)x)[0], b = ((const float4 *)x)[1];
  return make_uint4(lk_cuda_pair_f16(a.x, a.y), lk_cuda_pair_f16(a.z, a.w),
                    lk_cuda_pair_f16(b.x, b.y), lk_cuda_pair_f16(b.z, b.w));
}

#endif
