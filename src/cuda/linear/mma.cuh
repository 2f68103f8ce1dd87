/* Instructions of linear_few that CUDA C++ has no name for (PTX ISA; mma and cp.async: sm_80,
 * clusters: sm_90). */
#ifndef LK_CUDA_MMA_CUH
#define LK_CUDA_MMA_CUH

#include <stdint.h>

/* c += A B. A 16 x 16 bf16, B 16 x 8 bf16, fp32 sums. Of lane 4 g + t: a0 row g, k 2t and 2t + 1;
 * a1 row g + 8, the same k; a2, a3 as a0, a1 at k + 8; b0 column g, k 2t and 2t + 1; b1 at k + 8;
 * c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8. */
static __device__ __forceinline__ void mma_16x8x16(float *c, uint32_t a0, uint32_t a1, uint32_t a2,
                                                   uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Two numbers rounded to bf16, nearest even; `first` in the low half. */
static __device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}

/* For weights, which nobody reads again soon. */
static __device__ __forceinline__ uint64_t evict_first_policy(void) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/* 16 bytes to shared memory, past L1, zeros where not is_there (then `from` is not read).
 * The thread itself sees them after copy_wait; others need a barrier besides. */
static __device__ __forceinline__ void copy_async_16(uint4 *to_shared, const void *from,
                                                     bool is_there, uint64_t policy) {
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(to_shared);
  const uint32_t n_bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to),
               "l"(from), "r"(n_bytes), "l"(policy)
               : "memory");
}

static __device__ __forceinline__ void copy_commit(void) {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N_PENDING of the thread's last groups are still on their way. */
template <int N_PENDING> static __device__ __forceinline__ void copy_wait(void) {
  asm volatile("cp.async.wait_group %0;" ::"n"(N_PENDING) : "memory");
}

/* Barrier of all threads of the cluster; orders their shared memory. */
static __device__ __forceinline__ void cluster_sync(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/* What lies at p in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ float4 cluster_load(const float4 *p, unsigned rank) {
  float4 v = make_float4(0, 0, 0, 0);
#if __CUDA_ARCH__ >= 900
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
#else
  (void)p;
  (void)rank;
#endif
  return v;
}

#endif
