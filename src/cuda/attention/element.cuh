/* The elements of pages, as attention multiplies them: bf16, or f16 in files that define
 * LK_ELEMENT_F16. Each file of kernels is compiled for both. */
#ifndef LK_CUDA_ELEMENT_CUH
#define LK_CUDA_ELEMENT_CUH

#include "cuda/bf16.cuh"
#include "cuda/f16.cuh"
#include "cuda/ptx.cuh"

#ifdef LK_ELEMENT_F16
#define LK_ELEMENT_IS_F16 1
#define LK_OF_ELEMENT(name) name##_f16
/* Probabilities times 2^15: no number that counts is below what f16 holds in full. */
#define LK_PROBABILITY_SHIFT 15.0f
#else
#define LK_ELEMENT_IS_F16 0
#define LK_OF_ELEMENT(name) name##_bf16
#define LK_PROBABILITY_SHIFT 0.0f
#endif

/* ---- queries ---- */

static __device__ __forceinline__ uint16_t lk_to_element(float x) {
  return (uint16_t)(LK_ELEMENT_IS_F16 ? lk_cuda_to_f16(x) : lk_cuda_to_bf16(x));
}
static __device__ __forceinline__ uint32_t lk_pair_elements(float first, float second) {
  return LK_ELEMENT_IS_F16 ? lk_cuda_pair_f16(first, second) : lk_cuda_pair_bf16(first, second);
}
static __device__ __forceinline__ uint4 lk_chunk_elements(const float *x) {
  return LK_ELEMENT_IS_F16 ? lk_cuda_chunk_f16(x) : lk_cuda_chunk_bf16(x);
}

/* ---- probabilities: in range ---- */

static __device__ __forceinline__ uint32_t lk_pack_elements(float a, float b) {
  if (!LK_ELEMENT_IS_F16) return lk_pack_bf16(a, b);
  const __half2 pair = __floats2half2_rn(a, b);
  return *(const uint32_t *)&pair;
}
static __device__ __forceinline__ float lk_element_low(uint32_t pair) {
  return LK_ELEMENT_IS_F16 ? lk_cuda_from_f16((uint16_t)pair) : lk_bf16_low(pair);
}
static __device__ __forceinline__ float lk_element_high(uint32_t pair) {
  return LK_ELEMENT_IS_F16 ? lk_cuda_from_f16((uint16_t)(pair >> 16)) : lk_bf16_high(pair);
}

static __device__ __forceinline__ void lk_mma_elements(float c[4], const uint32_t a[4], uint32_t b0,
                                                       uint32_t b1) {
  if (LK_ELEMENT_IS_F16)
    lk_mma_f16(c, a, b0, b1);
  else
    lk_mma(c, a, b0, b1);
}

#endif
