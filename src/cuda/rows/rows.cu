/* Operations on rows. What is added up is added in an order that depends on the row's length
 * alone. */
#include <math.h>

#include "cuda/bf16.cuh"
#include "cuda/ops.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rotate.cuh"
#include "cuda/swiglu.cuh"

enum { THREADS = 256, WARP = 32, N_WARPS = THREADS / WARP };

static const uint32_t full_warp = 0xffffffffu;

/* ---- embedding ---- */

static __global__ void embed_kernel(const uint16_t *table, size_t n_cols, const int32_t *tokens,
                                    float *x) {
  lk_dependency_pass();
  const size_t row = blockIdx.x;
  const uint16_t *from = table + (size_t)tokens[row] * n_cols;
  for (size_t c = threadIdx.x; c < n_cols; c += THREADS)
    x[row * n_cols + c] = lk_cuda_from_bf16(from[c]);
}

void lk_cuda_embed(lk_cuda_device *dev, const uint16_t *table, size_t n_cols, const int32_t *tokens,
                   size_t n_rows, float *x) {
  if (n_rows == 0) return;
  lk_cuda_launch(dev, "embed", embed_kernel, (unsigned)n_rows, THREADS, 0, table, n_cols, tokens,
                 x);
}

/* ---- RMSNorm: a block takes a row, a thread every 256th group of 4 elements ---- */

enum { NORM_STEP = 4 };

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(full_warp, x, distance);
  return x;
}

/* The block's sum, the same in every thread; called once. */
static __device__ float block_sum(float x) {
  __shared__ float parts[N_WARPS];
  x = warp_sum(x);
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N_WARPS; i++) sum += parts[i];
  return sum;
}

/* One thread's squares, in ascending order. n a multiple of 4 and x aligned, or a scalar at a time:
 * the same sums. */
template <bool VECTOR>
static __device__ __forceinline__ float sum_of_squares(const float *x, size_t n) {
  float sum = 0;
  for (size_t i = (size_t)threadIdx.x * NORM_STEP; i < n; i += THREADS * NORM_STEP) {
    if (VECTOR) {
      const float4 a = *(const float4 *)(x + i);
      sum = fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, sum))));
    } else {
      for (size_t j = i; j < i + NORM_STEP && j < n; j++) sum = fmaf(x[j], x[j], sum);
    }
  }
  return sum;
}

static __device__ __forceinline__ void store_4(float *to, float4 v) { *(float4 *)to = v; }
static __device__ __forceinline__ void store_4(uint16_t *to, float4 v) {
  *(uint2 *)to = make_uint2(lk_pack_bf16(v.x, v.y), lk_pack_bf16(v.z, v.w));
}
static __device__ __forceinline__ void store_1(float *to, float v) { *to = v; }
static __device__ __forceinline__ void store_1(uint16_t *to, float v) {
  *to = (uint16_t)lk_pack_bf16(v, 0);
}

/* T: float, or uint16_t for bf16. */
template <bool VECTOR, typename T>
static __global__ void rms_norm_kernel(const float *x, size_t n, const float *w, float eps, T *y) {
  lk_dependency_pass();
  x += blockIdx.x * n;
  y += blockIdx.x * n;
  const float sum = block_sum(sum_of_squares<VECTOR>(x, n));
  const float scale = 1.0f / sqrtf(sum / (float)n + eps);
  if (VECTOR) {
    for (size_t i = (size_t)threadIdx.x * NORM_STEP; i < n; i += THREADS * NORM_STEP) {
      const float4 a = *(const float4 *)(x + i), b = *(const float4 *)(w + i);
      store_4(y + i, make_float4(a.x * scale * b.x, a.y * scale * b.y, a.z * scale * b.z,
                                 a.w * scale * b.w));
    }
  } else {
    for (size_t i = threadIdx.x; i < n; i += THREADS) store_1(y + i, x[i] * scale * w[i]);
  }
}

static bool is_aligned(const void *p) { return (uintptr_t)p % sizeof(float4) == 0; }

void lk_cuda_rms_norm(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, const float *w,
                      float eps, float *y) {
  if (n_rows == 0) return;
  const bool vector = n % NORM_STEP == 0 && is_aligned(x) && is_aligned(w) && is_aligned(y);
  lk_cuda_launch(dev, "rms_norm",
                 vector ? rms_norm_kernel<true, float> : rms_norm_kernel<false, float>,
                 (unsigned)n_rows, THREADS, 0, x, n, w, eps, y);
}

/* Whether the operand has room for so many elements; else a failure is kept. */
static bool has_operand(lk_cuda_device *dev, size_t n_elements, const char *what) {
  if (dev->operand_elements >= n_elements) return true;
  lk_cuda_keep(dev, cudaErrorInvalidValue, what);
  return false;
}

void lk_cuda_rms_norm_operand(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                              const float *w, float eps) {
  if (n_rows == 0 || !has_operand(dev, n_rows * n, "rms_norm_operand (not reserved)")) return;
  dev->source = dev->operand;
  const bool vector = n % NORM_STEP == 0 && is_aligned(x) && is_aligned(w);
  lk_cuda_launch(dev, "rms_norm_operand",
                 vector ? rms_norm_kernel<true, uint16_t> : rms_norm_kernel<false, uint16_t>,
                 (unsigned)n_rows, THREADS, 0, x, n, w, eps, dev->operand);
}

/* dx += s (w dy - x s^2 mean(dy w x)), s = (mean(x^2) + eps)^(-1/2). A thread takes every 256th
 * element. */
static __global__ void rms_norm_backward_kernel(const float *x, size_t n, const float *w, float eps,
                                                const float *dy, float *dx) {
  __shared__ float parts[2][N_WARPS];
  x += blockIdx.x * n;
  dy += blockIdx.x * n;
  dx += blockIdx.x * n;
  float squares = 0, products = 0;
  for (size_t i = threadIdx.x; i < n; i += THREADS) {
    squares = fmaf(x[i], x[i], squares);
    products = fmaf(dy[i] * w[i], x[i], products);
  }
  squares = warp_sum(squares);
  products = warp_sum(products);
  if (threadIdx.x % WARP == 0) {
    parts[0][threadIdx.x / WARP] = squares;
    parts[1][threadIdx.x / WARP] = products;
  }
  __syncthreads();
  squares = products = 0;
#pragma unroll
  for (int i = 0; i < N_WARPS; i++) {
    squares += parts[0][i];
    products += parts[1][i];
  }
  const float s = 1.0f / sqrtf(squares / (float)n + eps), along = s * s * (products / (float)n);
  for (size_t i = threadIdx.x; i < n; i += THREADS) dx[i] += s * (w[i] * dy[i] - x[i] * along);
}

void lk_cuda_rms_norm_backward(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n,
                               const float *w, float eps, const float *dy, float *dx) {
  if (n_rows == 0) return;
  rms_norm_backward_kernel<<<(unsigned)n_rows, THREADS, 0, dev->stream>>>(x, n, w, eps, dy, dx);
  lk_cuda_launched(dev, "rms_norm_backward");
}

/* ---- RoPE: a thread takes a pair of channels ---- */

static __global__ void rope_table_kernel(const double *inv_freq, float mscale, size_t half,
                                         const int64_t *pos, size_t n_rows, float *cos_sin) {
  lk_dependency_pass();
  const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
  const size_t row = at / half, i = at % half;
  if (row >= n_rows) return;
  double sine, cosine;
  sincos((double)pos[row] * inv_freq[i], &sine, &cosine);
  cos_sin[row * 2 * half + i] = (float)cosine * mscale;
  cos_sin[row * 2 * half + half + i] = (float)sine * mscale;
}

void lk_cuda_rope_table(lk_cuda_device *dev, const double *inv_freq, float mscale, size_t head_dim,
                        const int64_t *pos, size_t n_rows, float *cos_sin) {
  const size_t half = head_dim / 2, n = n_rows * half;
  if (n == 0) return;
  lk_cuda_launch(dev, "rope_table", rope_table_kernel, lk_cuda_blocks(n, THREADS), THREADS, 0,
                 inv_freq, mscale, half, pos, n_rows, cos_sin);
}

static __global__ void rope_kernel(float *x, size_t n_pairs, size_t n_heads, size_t half,
                                   bool pairs, const float *cos_sin) {
  lk_dependency_pass();
  const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (at >= n_pairs) return;
  const size_t i = at % half, head = at / half;
  const float *table = cos_sin + head / n_heads * 2 * half;
  const float cosine = table[i], sine = table[half + i];
  float *first = x + head * 2 * half + (pairs ? 2 * i : i);
  float *second = first + (pairs ? 1 : half);
  lk_rotate(first, second, cosine, sine);
}

void lk_cuda_rope(lk_cuda_device *dev, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
                  bool pairs, const float *cos_sin) {
  const size_t half = head_dim / 2, n = n_rows * n_heads * half;
  if (n == 0) return;
  lk_cuda_launch(dev, "rope", rope_kernel, lk_cuda_blocks(n, THREADS), THREADS, 0, x, n, n_heads,
                 half, pairs, cos_sin);
}

/* ---- SwiGLU ---- */

static __global__ void swiglu_kernel(const float *gate, const float *up, size_t n, float *out) {
  lk_dependency_pass();
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  out[i] = lk_swiglu(gate[i], up[i]);
}

void lk_cuda_swiglu(lk_cuda_device *dev, const float *gate, const float *up, size_t n, float *out) {
  if (n == 0) return;
  lk_cuda_launch(dev, "swiglu", swiglu_kernel, lk_cuda_blocks(n, THREADS), THREADS, 0, gate, up, n,
                 out);
}

/* A thread makes 8 neighbours of row blockIdx.y: gate[n] and up[n] in, bf16 out. VECTOR: n is a
 * multiple of 8, so that all are aligned. */
enum { GATED_RUN = 8 };

template <bool VECTOR>
static __global__ void swiglu_operand_kernel(const float *gate_up, size_t n, uint16_t *out) {
  lk_dependency_pass();
  const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * GATED_RUN;
  const float *gate = gate_up + (size_t)blockIdx.y * 2 * n, *up = gate + n;
  out += (size_t)blockIdx.y * n;
  if (VECTOR && first < n) {
    const float4 g = *(const float4 *)(gate + first), h = *(const float4 *)(gate + first + 4);
    const float4 u = *(const float4 *)(up + first), v = *(const float4 *)(up + first + 4);
    *(uint4 *)(out + first) = make_uint4(lk_pack_bf16(lk_swiglu(g.x, u.x), lk_swiglu(g.y, u.y)),
                                         lk_pack_bf16(lk_swiglu(g.z, u.z), lk_swiglu(g.w, u.w)),
                                         lk_pack_bf16(lk_swiglu(h.x, v.x), lk_swiglu(h.y, v.y)),
                                         lk_pack_bf16(lk_swiglu(h.z, v.z), lk_swiglu(h.w, v.w)));
  }
  if (!VECTOR)
    for (size_t i = first; i < first + GATED_RUN && i < n; i++)
      store_1(out + i, lk_swiglu(gate[i], up[i]));
}

void lk_cuda_swiglu_operand(lk_cuda_device *dev, const float *gate_up, size_t n_rows, size_t n) {
  if (n_rows * n == 0 || !has_operand(dev, n_rows * n, "swiglu_operand (not reserved)")) return;
  dev->source = dev->operand;
  const bool vector = n % GATED_RUN == 0 && is_aligned(gate_up);
  const dim3 grid(lk_cuda_blocks(n, (size_t)THREADS * GATED_RUN), (unsigned)n_rows);
  lk_cuda_launch(dev, "swiglu_operand",
                 vector ? swiglu_operand_kernel<true> : swiglu_operand_kernel<false>, grid, THREADS,
                 0, gate_up, n, dev->operand);
}

/* p and 1 - p without cancellation. All is read before anything is written. */
static __global__ void swiglu_backward_kernel(const float *gate, const float *up, size_t n,
                                              const float *dout, float *dgate, float *dup) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  const float g = gate[i], u = up[i], d = dout[i], e = expf(-fabsf(g));
  const float p = (g < 0 ? e : 1.0f) / (1.0f + e), rest = (g < 0 ? 1.0f : e) / (1.0f + e);
  dgate[i] = p * (1.0f + g * rest) * u * d;
  dup[i] = g * p * d;
}

void lk_cuda_swiglu_backward(lk_cuda_device *dev, const float *gate, const float *up, size_t n,
                             const float *dout, float *dgate, float *dup) {
  if (n == 0) return;
  swiglu_backward_kernel<<<lk_cuda_blocks(n, THREADS), THREADS, 0, dev->stream>>>(gate, up, n, dout,
                                                                                  dgate, dup);
  lk_cuda_launched(dev, "swiglu_backward");
}

/* ---- argmax: a block takes a row ---- */

enum { ARGMAX_THREADS = 1024, ARGMAX_WARPS = ARGMAX_THREADS / WARP };

typedef struct candidate {
  float value;
  uint32_t index; /* UINT32_MAX: none yet */
} candidate;

/* The larger, or the first of equals. NaN loses every comparison. */
static __device__ __forceinline__ candidate better(candidate a, candidate b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

static __device__ __forceinline__ candidate warp_best(candidate best) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    const candidate other = {__shfl_xor_sync(full_warp, best.value, distance),
                             __shfl_xor_sync(full_warp, best.index, distance)};
    best = better(best, other);
  }
  return best;
}

static __global__ void __launch_bounds__(ARGMAX_THREADS)
    argmax_kernel(const float *x, uint32_t n, int32_t *index) {
  __shared__ candidate parts[ARGMAX_WARPS];
  lk_dependency_pass();
  x += (size_t)blockIdx.x * n;
  candidate best = {-INFINITY, UINT32_MAX};
#pragma unroll 8
  for (uint32_t i = threadIdx.x; i < n; i += ARGMAX_THREADS) {
    const candidate here = {x[i], i};
    best = better(best, here);
  }
  best = warp_best(best);
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = best;
  __syncthreads();
  if (threadIdx.x >= WARP) return;
  best = warp_best(parts[threadIdx.x]);
  if (threadIdx.x == 0) index[blockIdx.x] = best.index == UINT32_MAX ? 0 : (int32_t)best.index;
}

void lk_cuda_argmax(lk_cuda_device *dev, const float *x, size_t n_rows, size_t n, int32_t *index) {
  if (n_rows == 0) return;
  lk_cuda_launch(dev, "argmax", argmax_kernel, (unsigned)n_rows, ARGMAX_THREADS, 0, x, (uint32_t)n,
                 index);
}

/* ---- made-up weights ---- */

/* splitmix64 (Steele, Lea, Flood 2014): the output for state seed + (index + 1) * gamma. */
static __device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* 24 random bits as an odd integer of magnitude below 2^24, so that 0 is the mean. */
static __global__ void random_kernel(uint16_t *to, size_t n, float scale, uint64_t seed) {
  const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  const int32_t k = (int32_t)(random_bits(seed, i) >> 40) * 2 + 1 - (1 << 24);
  to[i] = (uint16_t)lk_cuda_to_bf16((float)k * 0x1p-24f * scale);
}

void lk_cuda_random_bf16(lk_cuda_device *dev, uint16_t *to, size_t n, float scale, uint64_t seed) {
  if (n == 0) return;
  random_kernel<<<lk_cuda_blocks(n, THREADS), THREADS, 0, dev->stream>>>(to, n, scale, seed);
  lk_cuda_launched(dev, "random_bf16");
}
