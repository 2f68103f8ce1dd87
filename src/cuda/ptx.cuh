/* Instructions that C++ has no name for. Layouts of fragments: PTX ISA, "Matrix fragments for
 * mma.m16n8k16" and "ldmatrix", "movmatrix". */
#ifndef LK_CUDA_PTX_CUH
#define LK_CUDA_PTX_CUH

#include <stdint.h>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

static __device__ __forceinline__ uint32_t lk_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* 2^x, of relative error below 2^-22; 0 for -inf. */
static __device__ __forceinline__ float lk_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* Two fp32 to two bf16, nearest even, a in the lower half. */
static __device__ __forceinline__ uint32_t lk_pack_bf16(float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *(const uint32_t *)&pair;
}
static __device__ __forceinline__ float lk_bf16_low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float lk_bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

/* The lane, asked for where it is used: addresses made from it would otherwise be kept in registers
 * from one use to the next. */
static __device__ __forceinline__ uint32_t lk_lane(void) {
  uint32_t lane;
  asm volatile("mov.u32 %0, %%laneid;\n" : "=r"(lane));
  return lane;
}

/* Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8. */
static __device__ __forceinline__ void lk_ldmatrix(uint32_t address, uint32_t r[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
static __device__ __forceinline__ void lk_ldmatrix_trans(uint32_t address, uint32_t r[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/* Transposes an 8 x 8 matrix held by a warp. */
static __device__ __forceinline__ uint32_t lk_movmatrix_trans(uint32_t a) {
  uint32_t d;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}

/* c[16][8] += a[16][16] b[16][8], bf16 with fp32 sums. Of lane 4 g + t: a[0] row g, columns 2t and
 * 2t + 1; a[1] row g + 8; a[2], a[3] the same at columns + 8; b0 column g, rows 2t and 2t + 1; b1
 * at rows + 8; c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8. */
static __device__ __forceinline__ void lk_mma(float c[4], const uint32_t a[4], uint32_t b0,
                                              uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same of f16. */
static __device__ __forceinline__ void lk_mma_f16(float c[4], const uint32_t a[4], uint32_t b0,
                                                  uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- asynchronous copies ---- */

/* 16 bytes from global to shared memory. */
static __device__ __forceinline__ void lk_copy16(uint32_t to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/* 16 bytes from global memory; zeros, and nothing is read, where `real` is false. */
static __device__ __forceinline__ void lk_copy16_or_zero(uint32_t to, const void *from, bool real) {
  const uint32_t n_bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(n_bytes)
               : "memory");
}
/* This thread's copies so far have arrived; a barrier shows them to the others. */
static __device__ __forceinline__ void lk_copies_wait_all(void) {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

static __device__ __forceinline__ void lk_store16(uint32_t to, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w)
               : "memory");
}

/* What is read once leaves the second-level cache first. */
static __device__ __forceinline__ uint64_t lk_policy_read_once(void) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/* What is read by many stays. */
static __device__ __forceinline__ uint64_t lk_policy_read_often(void) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/* lk_copy16 by a policy. */
static __device__ __forceinline__ void lk_copy16_once(uint32_t to, const void *from,
                                                      uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "l"(policy)
               : "memory");
}

/* A 128-byte line of global memory to the second-level cache. */
static __device__ __forceinline__ void lk_prefetch_l2(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}

/* ---- mbarriers ---- */

static __device__ __forceinline__ void lk_barrier_init(uint64_t *barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(lk_shared_address(barrier)), "r"(count)
               : "memory");
}
/* Arrives when what was read from shared memory is there: `read` is the "or" of words of the last
 * reads; a warp's are done in order. An arrival by itself may overtake a read that waits behind
 * loads of other warps, and what it lets in, a copy from the second-level cache, may be there
 * before that read: seen on an H100, one line of weights in some thousand launches. never: 0,
 * unknown to the compiler. */
static __device__ __forceinline__ void lk_barrier_arrive_after(uint64_t *barrier, uint32_t read,
                                                               uint32_t never) {
  asm volatile("{\n.reg .b64 state;\n.reg .b32 t;\n"
               "and.b32 t, %1, %2;\n"
               "add.u32 t, t, %0;\n"
               "mbarrier.arrive.shared.b64 state, [t];\n}" ::"r"(lk_shared_address(barrier)),
               "r"(read), "r"(never)
               : "memory");
}
/* Waits for the phase of this parity to be complete. */
static __device__ __forceinline__ void lk_barrier_wait(uint64_t *barrier, uint32_t parity) {
  const uint32_t address = lk_shared_address(barrier);
  uint32_t done = 0;
  while (!done) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(address), "r"(parity)
                 : "memory");
#else
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(address), "r"(parity)
                 : "memory");
#endif
  }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void lk_barrier_expect(uint64_t *barrier, uint32_t n_bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(lk_shared_address(barrier)),
      "r"(n_bytes)
      : "memory");
}
/* n_bytes (a multiple of 16) from global to shared memory; counted on the barrier when there. */
static __device__ __forceinline__ void lk_bulk_copy(uint32_t to, const void *from, uint32_t n_bytes,
                                                    uint64_t *barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
               "[%0], [%1], %2, [%3], %4;" ::"r"(to),
               "l"(from), "r"(n_bytes), "r"(lk_shared_address(barrier)), "l"(policy)
               : "memory");
}
/* A box of a matrix, whose first element is at (column, row), to shared memory; all its bytes, also
 * of zeros outside of the matrix, are counted on the barrier when there. map: a kernel's parameter
 * of type CUtensorMap. */
static __device__ __forceinline__ void lk_tensor_copy(uint32_t to, const void *map, uint32_t column,
                                                      uint32_t row, uint64_t *barrier,
                                                      uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
               "l"(map), "r"(column), "r"(row), "r"(lk_shared_address(barrier)), "l"(policy)
               : "memory");
}
static __device__ __forceinline__ void lk_prefetch_map(const void *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/* Ordinary writes to shared memory come before later bulk copies into it. */
static __device__ __forceinline__ void lk_fence_async(void) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
#endif

/* Arrives on the barrier when the thread's copies so far are there. */
static __device__ __forceinline__ void lk_copy_arrive(uint64_t *barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(lk_shared_address(barrier))
               : "memory");
}

/* Lets the next kernel of the stream begin; waits for what the one before has written. */
static __device__ __forceinline__ void lk_dependents_launch(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void lk_dependency_wait(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Both at once, for kernels with nothing to do beforehand. */
static __device__ __forceinline__ void lk_dependency_pass(void) {
  lk_dependents_launch();
  lk_dependency_wait();
}

/* ---- clusters ---- */

/* Barrier of all threads of the cluster; orders their shared memory. */
static __device__ __forceinline__ void lk_cluster_arrive(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
#else
  __trap();
#endif
}
static __device__ __forceinline__ void lk_cluster_wait(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void lk_cluster_sync(void) {
  lk_cluster_arrive();
  lk_cluster_wait();
}

/* What lies at p in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ float4 lk_cluster_load(const float4 *p, unsigned rank) {
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
