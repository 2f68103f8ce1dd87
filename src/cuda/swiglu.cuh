/* silu(gate) * up, to the bits of the operation on rows (rows/rows.cu). */
#ifndef LK_CUDA_SWIGLU_CUH
#define LK_CUDA_SWIGLU_CUH

/* The exponential is of -|gate|, which never overflows. It is the product of a number and a power
 * of 2: whether 1 is added to it in one rounding or two, the sum is the same. */
static __device__ __forceinline__ float lk_swiglu(float gate, float up) {
  const float e = expf(-fabsf(gate));
  return gate * ((gate < 0 ? e : 1.0f) / (1.0f + e)) * up;
}

#endif
