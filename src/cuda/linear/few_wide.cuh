/* Wide blocks, for more rows: see few.cu. */
#ifndef LK_CUDA_FEW_WIDE_CUH
#define LK_CUDA_FEW_WIDE_CUH

#include "cuda/linear/few_job.cuh"

enum {
  WIDE_BLOCKS = 4, /* of a cluster */
  WIDE_TILES = 2,  /* of outputs, of a warp */
  WIDE_STAGES = 3
};

/* ---- activations ---- */

/* job.scale: a warp a row, four lanes a slice, as in a ring. */
static __global__ void scale_kernel(const __grid_constant__ few_job job) {
  const uint32_t lane = threadIdx.x % 32, row = blockIdx.x * N_WARPS + threadIdx.x / 32;
  lk_dependents_launch();
  lk_dependency_wait();
  if (row >= job.n_rows) return;
  float squares = 0, sum = 0;
  for (uint32_t k = 64 * (lane / 4) + 8 * (lane % 4); k < job.n_in; k += LK_FEW_PERIOD)
#pragma unroll
    for (uint32_t h = 0; h < 2; h++) {
      float4 a, b;
      load_x(job, row, k + h * LK_FEW_SLAB, &a, &b);
      squares = add_squares(add_squares(squares, a), b);
    }
  squares = sum_quad(squares);
#pragma unroll
  for (int slice = 0; slice < N_SLICES; slice++)
    sum += __shfl_sync(0xffffffffu, squares, 4 * slice);
  if (lane == 0) job.scale[row] = scale_of(job, sum);
}

/* A thread a lane of a slab of a tile. */
static __global__ void split_kernel(const __grid_constant__ few_job job, uint32_t n_tiles,
                                    size_t n_lanes, uint4 *operand) {
  const size_t i = (size_t)blockIdx.x * N_THREADS + threadIdx.x;
  lk_dependents_launch();
  lk_dependency_wait();
  if (i >= n_lanes) return;
  const uint32_t lane = i % 32, tile = (uint32_t)(i / 32 % n_tiles);
  const uint32_t slab = (uint32_t)(i / 32 / n_tiles);
  float4 a, b;
  const uint32_t k = slab * LK_FEW_SLAB + 8 * (lane % 4);
  load_x(job, 8 * tile + lane / 4, k, &a, &b);
  if (job.norm) {
    float4 g, h;
    load_norm(job, k, &g, &h);
    a = times(a, g), b = times(b, h);
  }
  uint4 hi, lo;
  split_8(a, b, &hi, &lo);
  uint4 *to = operand + i / 32 * 64 + lane;
  to[0] = hi;
  to[32] = lo;
}

/* ---- the product ---- */

/* The i-th slab of a slice: two slabs are a 128-byte line. */
static __device__ __forceinline__ uint32_t slab_of(uint32_t slice, uint32_t i) {
  return 2 * slice + i / 2 * (2 * N_SLICES) + i % 2;
}

/* Where a lane's weights are. */
typedef struct few_rows {
  const uint16_t *w;  /* of its first output, from its first k on */
  const uint16_t *up; /* with a gate: up's of the same output */
  int n_there;        /* of its outputs, 8 apart, how many the part has; may be negative */
  uint64_t policy;
} few_rows;

template <bool GATED>
static __device__ __forceinline__ few_rows rows_of(const few_job &job, const few_part &part,
                                                   uint32_t first) {
  const uint32_t lane = threadIdx.x % 32, out = first + lane / 4;
  const size_t at = out * (size_t)job.n_in + 8 * (lane % 4);
  few_rows rows;
  rows.w = part.w + at;
  rows.up = GATED ? job.parts[1].w + at : NULL;
  rows.n_there = ((int)part.n_out - (int)out + 7) >> 3; /* rounded down */
  rows.policy = lk_policy_read_once();
  return rows;
}

/* Asks for the lane's 16 bytes of each output of a slab; to[32 j] is for output j, or, with a gate,
 * for gate's or up's of output j / 2. */
template <bool GATED>
static __device__ __forceinline__ void ask(const few_rows &rows, uint32_t n_in, uint32_t slab,
                                           uint4 *to) {
  const uint32_t k = slab * LK_FEW_SLAB;
  const int n_there = k + 8 * (threadIdx.x % 4) < n_in ? rows.n_there : 0;
#pragma unroll
  for (int j = 0; j < 2 * WIDE_TILES; j++) {
    const int i = GATED ? j / 2 : j;
    lk_copy16_once(to + 32 * j, (GATED && j % 2 ? rows.up : rows.w) + (i * 8 * (size_t)n_in + k),
                   i < n_there, rows.policy);
  }
}

/* Adds a slab of x to the sums of a warp's tiles of outputs by NT tiles of rows. */
template <int NT>
static __device__ __forceinline__ void add_tiles(const uint4 *a, const uint4 *b,
                                                 float (*c)[NT][4]) {
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const uint4 hi = b[64 * n], lo = b[64 * n + 32];
#pragma unroll
    for (int m = 0; m < WIDE_TILES; m++) multiply(c[m][n], a[2 * m], a[2 * m + 1], hi, lo);
  }
}

/* A slice of a warp's outputs: c = w x. Each lane reads what it copied itself; `own` is its place
 * in its ring. */
template <int NT, bool GATED>
static __device__ __forceinline__ void sum_slice(const few_job &job, const few_rows &rows,
                                                 uint32_t slice, uint4 *own, float (*c)[NT][4]) {
  enum { PLACE = 64 * WIDE_TILES };
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < WIDE_STAGES - 1; i++) {
    if (i < job.n_slabs) ask<GATED>(rows, job.n_in, slab_of(slice, i), own + i * PLACE);
    lk_copies_commit();
  }
  lk_dependency_wait();
  uint32_t stage = 0;
  for (uint32_t i = 0; i < job.n_slabs; i++) {
    lk_copies_wait<WIDE_STAGES - 2>();
    uint4 a[2 * WIDE_TILES];
#pragma unroll
    for (int j = 0; j < 2 * WIDE_TILES; j++) a[j] = own[stage * PLACE + 32 * j];
    const uint32_t free_stage = stage == 0 ? WIDE_STAGES - 1 : stage - 1; /* read a turn ago */
    if (i + WIDE_STAGES - 1 < job.n_slabs)
      ask<GATED>(rows, job.n_in, slab_of(slice, i + WIDE_STAGES - 1), own + free_stage * PLACE);
    lk_copies_commit();
    add_tiles<NT>(a, job.operand + (size_t)slab_of(slice, i) * (64 * NT) + lane, c);
    stage = stage == WIDE_STAGES - 1 ? 0 : stage + 1;
    if (i % 2 == 1) __syncthreads(); /* keeps warps near enough to share x in L1 */
  }
}

/* Sums the slices of a tile of each warp; block `rank` those of its cluster's warps
 * kw * WIDE_BLOCKS + rank, whose first output is `first`. shared: float4 [warp][tile][lane]. */
template <int NT, bool GATED>
static __device__ __forceinline__ void put_sums(const few_job &job, const few_part &part,
                                                uint32_t rank, uint32_t first,
                                                const float4 *shared) {
  const uint32_t n_k = N_WARPS / WIDE_BLOCKS;
  for (uint32_t i = threadIdx.x; i < 32 * NT; i += N_THREADS) {
    const uint32_t lane = i % 32, out = first + lane / 4, row = 8 * (i / 32) + 2 * (lane % 4);
    const few_addends addends = addends_of<GATED>(job, part, out, row);
    float2 scale = make_float2(1, 1);
    if (job.norm && row < job.n_rows) scale.x = job.scale[row];
    if (job.norm && row + 1 < job.n_rows) scale.y = job.scale[row + 1];
    float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
    for (uint32_t slice = 0; slice < N_SLICES; slice++) {
      const float4 *at = shared + (slice % n_k * WIDE_BLOCKS + rank) * (32 * NT) + i;
      const float4 v = lk_cluster_load(at, slice / n_k);
      s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
    }
    put<true, GATED>(job, part, out, row, s, scale, addends);
  }
}

/* NT tiles of 8 rows; a cluster of WIDE_BLOCKS blocks, each of as many warps side by side. */
template <int NT, int BLOCKS_PER_SM, bool GATED>
static __global__ void __launch_bounds__(N_THREADS, BLOCKS_PER_SM)
    wide_kernel(const __grid_constant__ few_job job) {
  enum { PLACE = 64 * WIDE_TILES };
  __shared__ uint4 ring[N_WARPS * WIDE_STAGES * PLACE];
  static_assert(sizeof ring >= N_WARPS * NT * 32 * sizeof(float4), "sums are put there too");
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t rank = blockIdx.x % WIDE_BLOCKS, group = blockIdx.x / WIDE_BLOCKS;
  const uint32_t slice = rank * (N_WARPS / WIDE_BLOCKS) + warp / WIDE_BLOCKS;
  lk_dependents_launch();

  uint32_t out; /* in tiles as if a cluster made one */
  const few_part &part = part_at<GATED>(job, group, &out);
  const uint32_t first = out * (WIDE_TILES * WIDE_BLOCKS), n_each = tile_outputs<GATED>();

  const few_rows rows =
      rows_of<GATED>(job, part, first + warp % WIDE_BLOCKS * (n_each * WIDE_TILES));
  float c[WIDE_TILES][NT][4] = {};
  sum_slice<NT, GATED>(job, rows, slice, ring + warp * (WIDE_STAGES * PLACE) + lane, c);

  float4 *shared = (float4 *)ring;
#pragma unroll
  for (int m = 0; m < WIDE_TILES; m++) {
    lk_cluster_sync(); /* the ring, or the sums before, have been read */
#pragma unroll
    for (int n = 0; n < NT; n++)
      shared[(warp * NT + n) * 32 + lane] =
          make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
    lk_cluster_sync();
    put_sums<NT, GATED>(job, part, rank, first + (rank * WIDE_TILES + m) * n_each, shared);
  }
  lk_cluster_sync(); /* nobody leaves while others read its sums */
}

#endif
