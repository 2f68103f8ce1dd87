/* What a product of few rows is made of: see few.cu. */
#ifndef LK_CUDA_FEW_JOB_CUH
#define LK_CUDA_FEW_JOB_CUH

#include "cuda/cuda_api.h"
#include "cuda/ptx.cuh"
#include "cuda/swiglu.cuh"

enum {
  N_SLICES = 8,
  N_WARPS = 8, /* that multiply */
  N_THREADS = 32 * N_WARPS,
  TILE = 16,                     /* outputs of an instruction */
  TILE_ROWS = 8,                 /* rows of one */
  LK_FEW_PERIOD = 64 * N_SLICES, /* elements of k after which slices repeat */
  LK_FEW_SLAB = 32               /* elements of k that a load of 16 bytes a lane covers */
};

typedef struct few_part {
  const uint16_t *w;
  const float *bias;
  float *y;
  uint32_t n_out, end; /* end: tiles of this part and those before */
  bool add;
} few_part;

typedef struct few_job {
  few_part parts[LK_CUDA_MAX_PARTS];
  uint32_t n_parts, n_in, n_rows;
  uint32_t n_tiles, n_stages; /* tiles of all parts; stages of a block */
  const float *x;             /* [n_rows][n_in] */
  const float *norm;          /* [n_in]: the RMSNorm of x is multiplied; or NULL */
  float eps;
} few_job;

/* Outputs of a tile. A job with a gate has one part, gate, with up's weights and bias behind it. */
template <bool GATED> static __host__ __device__ constexpr uint32_t tile_outputs(void) {
  return GATED ? TILE / 2 : TILE;
}

/* The part that a tile belongs to; `out`: the tile's first output there. */
template <bool GATED>
static __device__ __forceinline__ const few_part &part_at(const few_job &job, uint32_t tile,
                                                          uint32_t *out) {
  uint32_t p = 0;
  while (!GATED && p + 1 < job.n_parts && tile >= job.parts[p].end) p++;
  *out = tile_outputs<GATED>() * (tile - (p ? job.parts[p - 1].end : 0));
  return job.parts[p];
}

/* ---- activations ---- */

static __device__ __forceinline__ void split_2(float a, float b, uint32_t *hi, uint32_t *lo) {
  *hi = lk_pack_bf16(a, b);
  *lo = lk_pack_bf16(a - lk_bf16_low(*hi), b - lk_bf16_high(*hi));
}

static __device__ __forceinline__ void split_8(float4 a, float4 b, uint4 *hi, uint4 *lo) {
  split_2(a.x, a.y, &hi->x, &lo->x);
  split_2(a.z, a.w, &hi->y, &lo->y);
  split_2(b.x, b.y, &hi->z, &lo->z);
  split_2(b.z, b.w, &hi->w, &lo->w);
}

/* The lane's 8 elements of x, zeros outside of it. L1 keeps the sectors from one half of them to
 * the other. */
static __device__ __forceinline__ void load_x(const few_job &job, uint32_t row, uint32_t k,
                                              float4 *a, float4 *b) {
  *a = *b = make_float4(0, 0, 0, 0);
  if (row >= job.n_rows || k >= job.n_in) return;
  const float4 *x = (const float4 *)(job.x + row * (size_t)job.n_in + k);
  *a = x[0];
  *b = x[1];
}

/* The norm's weights for the same elements. */
static __device__ __forceinline__ void load_norm(const few_job &job, uint32_t k, float4 *a,
                                                 float4 *b) {
  *a = *b = make_float4(0, 0, 0, 0);
  if (k >= job.n_in) return;
  const float4 *g = (const float4 *)(job.norm + k);
  *a = __ldg(g);
  *b = __ldg(g + 1);
}

static __device__ __forceinline__ float add_squares(float sum, const float4 &a) {
  return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, sum))));
}

static __device__ __forceinline__ float4 times(const float4 &a, const float4 &b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

/* A slice's squares of a row, from those of its four lanes. */
static __device__ __forceinline__ float sum_quad(float squares) {
  squares += __shfl_xor_sync(0xffffffffu, squares, 1);
  return squares + __shfl_xor_sync(0xffffffffu, squares, 2);
}

static __device__ __forceinline__ float scale_of(const few_job &job, float squares) {
  return 1.0f / sqrtf(squares / (float)job.n_in + job.eps);
}

/* ---- the product ---- */

/* Outputs g (top) and g + 8 (bottom) of 16, 8 elements of k each, by 8 of a row of x. */
static __device__ __forceinline__ void multiply(float *c, const uint4 &top, const uint4 &bottom,
                                                const uint4 &hi, const uint4 &lo) {
  const uint32_t first[4] = {top.x, bottom.x, top.y, bottom.y};
  const uint32_t second[4] = {top.z, bottom.z, top.w, bottom.w};
  lk_mma(c, first, hi.x, hi.y);
  lk_mma(c, first, lo.x, lo.y);
  lk_mma(c, second, hi.z, hi.w);
  lk_mma(c, second, lo.z, lo.w);
}

/* What is added to the sums of a lane: 4 g + t has outputs g and g + 8 of rows 2t and 2t + 1; with
 * a gate, gate's and up's of output g. */
typedef struct few_addends {
  float bias[2], y[4];
} few_addends;

static __device__ __forceinline__ bool is_there(const few_job &job, const few_part &part,
                                                uint32_t out, uint32_t row) {
  return out < part.n_out && row < job.n_rows;
}

/* All at once, and before the sums: each is a way to memory. out, row: the lane's first
 * ones. */
template <bool GATED>
static __device__ __forceinline__ few_addends addends_of(const few_job &job, const few_part &part,
                                                         uint32_t out, uint32_t row) {
  few_addends a = {};
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t o = GATED ? out : out + i / 2 * 8, r = row + i % 2;
    if (!is_there(job, part, o, r)) continue;
    const float *bias = GATED && i / 2 ? job.parts[1].bias : part.bias;
    if (bias && i % 2 == 0) a.bias[i / 2] = bias[o];
    if (!GATED && part.add) a.y[i] = part.y[r * (size_t)part.n_out + o];
  }
  return a;
}

/* scale: of the lane's rows, where there is a norm. No product is rounded together with the sum
 * behind it: all kernels give the same bits. */
template <bool NORM, bool GATED>
static __device__ __forceinline__ void put(const few_job &job, const few_part &part, uint32_t out,
                                           uint32_t row, const float4 &sums, const float2 &scale,
                                           const few_addends &a) {
  float s[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    if (NORM) s[i] = __fmul_rn(s[i], i % 2 ? scale.y : scale.x);
    if (GATED && i / 2 ? job.parts[1].bias : part.bias) s[i] += a.bias[i / 2];
  }
#pragma unroll
  for (uint32_t i = 0; i < (GATED ? 2 : 4); i++) {
    const uint32_t o = out + i / 2 * 8, r = row + i % 2;
    if (!is_there(job, part, o, r)) continue;
    float *y = part.y + (r * (size_t)part.n_out + o);
    if (GATED)
      *y = lk_swiglu(s[i], s[i + 2]);
    else
      *y = part.add ? a.y[i] + s[i] : s[i];
  }
}

#endif
