/* Stored weights to bf16, once, when a model is opened: every thread makes 8 elements, one 16-byte
 * store. Block layouts and the order of operations are those of kernels/dequant/unpack.h and
 * dequant_c.c; products and sums are written as intrinsics, so that none is contracted and the
 * fp32 values have the same bits. Blocks lie at odd multiples of 2 bytes: they are read by bytes.
 */
#include "base/dtype.h"
#include "cuda/ops.cuh"

enum { RUN = 8, WIDEN_THREADS = 256 };

/* lk_f32_to_bf16 and lk_f16_to_f32 of the host, for the device. */
static __device__ uint32_t round_bf16(float f) {
  const uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return u >> 16 | 0x40u;
  return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

static __device__ float f16_at(const uint8_t *p) {
  const uint32_t h = p[0] | (uint32_t)p[1] << 8, magnitude = h & 0x7fffu;
  uint32_t u = __float_as_uint(__fmul_rn(__uint_as_float(magnitude << 13), 0x1p112f));
  if (magnitude >= 0x7c00u) u |= 0x7f800000u;
  if (magnitude > 0x7c00u) u |= 0x00400000u;
  return __uint_as_float(u | (h & 0x8000u) << 16);
}

/* ---- 8 elements of a block, from element `at` (a multiple of 8) on ---- */

static __device__ void widen_f32(const uint8_t *block, unsigned at, float *v) {
  (void)at;
  for (unsigned j = 0; j < RUN; j++) v[j] = ((const float *)block)[j];
}

static __device__ void widen_f16(const uint8_t *block, unsigned at, float *v) {
  (void)at;
  for (unsigned j = 0; j < RUN; j++) v[j] = f16_at(block + 2 * j);
}

static __device__ void widen_q8_0(const uint8_t *block, unsigned at, float *v) {
  const float d = f16_at(block);
  for (unsigned j = 0; j < RUN; j++) v[j] = __fmul_rn(d, (float)(int8_t)block[2 + at + j]);
}

/* Element i of 32 in 16 bytes: low nibbles first, then high ones; `fifth` (NULL: none) has bit i.
 */
static __device__ int nibble_of_32(const uint8_t *packed, const uint8_t *fifth, unsigned i) {
  const int nibble = i < 16 ? packed[i] & 0x0f : packed[i - 16] >> 4;
  return fifth ? nibble | (fifth[i / 8] >> i % 8 & 1) << 4 : nibble;
}

static __device__ void widen_q4_0(const uint8_t *block, unsigned at, float *v) {
  const float d = f16_at(block);
  for (unsigned j = 0; j < RUN; j++)
    v[j] = __fmul_rn(d, (float)(nibble_of_32(block + 2, NULL, at + j) - 8));
}

static __device__ void widen_q5_0(const uint8_t *block, unsigned at, float *v) {
  const float d = f16_at(block);
  for (unsigned j = 0; j < RUN; j++)
    v[j] = __fmul_rn(d, (float)(nibble_of_32(block + 6, block + 2, at + j) - 16));
}

static __device__ void widen_q4_1(const uint8_t *block, unsigned at, float *v) {
  const float d = f16_at(block), m = f16_at(block + 2);
  for (unsigned j = 0; j < RUN; j++)
    v[j] = __fadd_rn(__fmul_rn(d, (float)nibble_of_32(block + 4, NULL, at + j)), m);
}

static __device__ void widen_q5_1(const uint8_t *block, unsigned at, float *v) {
  const float d = f16_at(block), m = f16_at(block + 2);
  for (unsigned j = 0; j < RUN; j++)
    v[j] = __fadd_rn(__fmul_rn(d, (float)nibble_of_32(block + 8, block + 4, at + j)), m);
}

/* Scale and offset of group g (of 8) of Q4_K and Q5_K: byte g % 4 of the dwords a, b, c of
 * unpack.h.
 */
static __device__ void k_scale(const uint8_t *block, unsigned g, float *scale, float *offset) {
  const unsigned a = block[4 + g % 4], b = block[8 + g % 4], c = block[12 + g % 4];
  const unsigned s = g < 4 ? a & 0x3f : (c & 0x0f) | (a >> 2 & 0x30);
  const unsigned m = g < 4 ? b & 0x3f : c >> 4 | (b >> 2 & 0x30);
  *scale = __fmul_rn(f16_at(block), (float)s);
  *offset = -__fmul_rn(f16_at(block + 2), (float)m);
}

static __device__ void widen_q4_k(const uint8_t *block, unsigned at, float *v) {
  const unsigned g = at / 32;
  const uint8_t *packed = block + 16 + 32 * (g / 2) + at % 32;
  float scale, offset;
  k_scale(block, g, &scale, &offset);
  for (unsigned j = 0; j < RUN; j++)
    v[j] = __fadd_rn(__fmul_rn(scale, (float)(packed[j] >> 4 * (g % 2) & 0x0f)), offset);
}

static __device__ void widen_q5_k(const uint8_t *block, unsigned at, float *v) {
  const unsigned g = at / 32;
  const uint8_t *high = block + 16 + at % 32, *packed = block + 48 + 32 * (g / 2) + at % 32;
  float scale, offset;
  k_scale(block, g, &scale, &offset);
  for (unsigned j = 0; j < RUN; j++) {
    const int q = (packed[j] >> 4 * (g % 2) & 0x0f) | (high[j] >> g & 1) << 4;
    v[j] = __fadd_rn(__fmul_rn(scale, (float)q), offset);
  }
}

static __device__ void widen_q6_k(const uint8_t *block, unsigned at, float *v) {
  const unsigned half = at / 128, run = at % 128 / 32;
  const uint8_t *low = block + 64 * half + 32 * (run % 2) + at % 32;
  const uint8_t *high = block + 128 + 32 * half + at % 32;
  const float scale = __fmul_rn(f16_at(block + 208), (float)(int8_t)block[192 + at / 16]);
  for (unsigned j = 0; j < RUN; j++) {
    const int q = (low[j] >> 4 * (run / 2) & 0x0f) | (high[j] >> 2 * run & 3) << 4;
    v[j] = __fmul_rn(scale, (float)(q - 32));
  }
}

/* ---- all of them ---- */

static __device__ void store_run(const float *v, uint16_t *to) {
  uint4 out;
  out.x = round_bf16(v[0]) | round_bf16(v[1]) << 16;
  out.y = round_bf16(v[2]) | round_bf16(v[3]) << 16;
  out.z = round_bf16(v[4]) | round_bf16(v[5]) << 16;
  out.w = round_bf16(v[6]) | round_bf16(v[7]) << 16;
  *(uint4 *)to = out;
}

/* Elements past the last whole run of a plain type are left to widen_rest. */
#define WIDEN(name, elements, bytes)                                                               \
  static __global__ void widen_##name##_kernel(const uint8_t *from, size_t n_runs, uint16_t *to) { \
    const size_t run = (size_t)blockIdx.x * WIDEN_THREADS + threadIdx.x;                           \
    if (run >= n_runs) return;                                                                     \
    const size_t first = run * RUN;                                                                \
    float v[RUN];                                                                                  \
    widen_##name(from + first / (elements) * (bytes), (unsigned)(first % (elements)), v);          \
    store_run(v, to + first);                                                                      \
  }
WIDEN(f32, 1, 4)
WIDEN(f16, 1, 2)
WIDEN(q8_0, 32, 34)
WIDEN(q4_0, 32, 18)
WIDEN(q4_1, 32, 20)
WIDEN(q5_0, 32, 22)
WIDEN(q5_1, 32, 24)
WIDEN(q4_k, 256, 144)
WIDEN(q5_k, 256, 176)
WIDEN(q6_k, 256, 210)

static __global__ void widen_rest_kernel(const uint8_t *from, bool is_f32, unsigned n,
                                         uint16_t *to) {
  const unsigned i = threadIdx.x;
  if (i < n)
    to[i] = (uint16_t)round_bf16(is_f32 ? ((const float *)from)[i] : f16_at(from + 2 * (size_t)i));
}

/* What is left of a plain type after its runs: fewer than RUN elements. */
static void widen_rest(lk_cuda_device *dev, int type, const uint8_t *from, size_t n, uint16_t *to) {
  const size_t done = n / RUN * RUN;
  if (done == n || (type != LK_F32 && type != LK_F16)) return;
  from += done * (type == LK_F32 ? 4 : 2);
  widen_rest_kernel<<<1, RUN, 0, dev->stream>>>(from, type == LK_F32, (unsigned)(n - done),
                                                to + done);
  lk_cuda_launched(dev, "widen");
}

typedef void (*widen_fn)(const uint8_t *from, size_t n_runs, uint16_t *to);

static widen_fn kernel_of(int type) {
  switch (type) {
  case LK_F32: return widen_f32_kernel;
  case LK_F16: return widen_f16_kernel;
  case LK_Q8_0: return widen_q8_0_kernel;
  case LK_Q4_0: return widen_q4_0_kernel;
  case LK_Q4_1: return widen_q4_1_kernel;
  case LK_Q5_0: return widen_q5_0_kernel;
  case LK_Q5_1: return widen_q5_1_kernel;
  case LK_Q4_K: return widen_q4_k_kernel;
  case LK_Q5_K: return widen_q5_k_kernel;
  case LK_Q6_K: return widen_q6_k_kernel;
  default: return NULL;
  }
}

void lk_cuda_widen(lk_cuda_device *dev, int type, const void *from, size_t n, uint16_t *to) {
  const uint8_t *bytes = (const uint8_t *)from;
  if (n == 0) return;
  if (type == LK_BF16) {
    const cudaError_t code =
        cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyDeviceToDevice, dev->stream);
    if (code != cudaSuccess) lk_cuda_keep(dev, code, "widen");
    return;
  }
  const widen_fn kernel = kernel_of(type);
  if (!kernel) {
    lk_cuda_keep(dev, cudaErrorInvalidValue, "widen");
    return;
  }
  const size_t n_runs = n / RUN;
  if (n_runs > 0) {
    kernel<<<lk_cuda_blocks(n_runs, WIDEN_THREADS), WIDEN_THREADS, 0, dev->stream>>>(bytes, n_runs,
                                                                                     to);
    lk_cuda_launched(dev, "widen");
  }
  widen_rest(dev, type, bytes, n, to);
}
