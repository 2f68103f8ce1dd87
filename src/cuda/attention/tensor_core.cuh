/* PTX that attention of many rows is made of: asynchronous copies, 8x8 matrices of bf16 from shared
 * memory, the 16x8x16 product. Shared memory is addressed by 32-bit numbers.
 *
 * Of a matrix's 8x8 elements lane l holds row l / 4, columns 2 (l % 4) and the next. Lanes 8 i ..
 * 8 i + 7 give the addresses of the rows of the i-th of four matrices. */
#ifndef LK_CUDA_TENSOR_CORE_CUH
#define LK_CUDA_TENSOR_CORE_CUH

#include <stdint.h>

#include <cuda_runtime.h>

static __device__ __forceinline__ uint32_t lk_cuda_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* The lane, asked for where it is used: addresses made from it would otherwise be kept in registers
 * from one use to the next. */
static __device__ __forceinline__ uint32_t lk_cuda_lane(void) {
  uint32_t lane;
  asm volatile("mov.u32 %0, %%laneid;\n" : "=r"(lane));
  return lane;
}

/* 16 bytes from global memory; zeros, and nothing is read, where `real` is false. */
static __device__ __forceinline__ void lk_cuda_copy_chunk(uint32_t to, const void *from,
                                                          bool real) {
  const uint32_t n_bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(n_bytes)
               : "memory");
}
/* This thread's copies so far have arrived; a barrier shows them to the others. */
static __device__ __forceinline__ void lk_cuda_wait_copies(void) {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

static __device__ __forceinline__ void lk_cuda_store_chunk(uint32_t to, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w)
               : "memory");
}

static __device__ __forceinline__ void lk_cuda_load_matrices(uint32_t address, uint32_t x[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
/* Each matrix transposed. */
static __device__ __forceinline__ void lk_cuda_load_transposed(uint32_t address, uint32_t x[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

/* c[16][8] += a[16][16] b[16][8]. a: matrices (rows 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15),
 * (8-15, 8-15); b: transposes of (rows 0-7), (8-15); c: row l / 4, then row l / 4 + 8. */
static __device__ __forceinline__ void lk_cuda_multiply(float c[4], const uint32_t a[4],
                                                        uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two floats as bf16, to nearest even, the first in the low half. */
static __device__ __forceinline__ uint32_t lk_cuda_round_pair(float first, float second) {
  uint32_t x;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(x) : "f"(second), "f"(first));
  return x;
}

/* 2^x, relative error below 2^-22; denormals become 0. */
static __device__ __forceinline__ float lk_cuda_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

#endif
