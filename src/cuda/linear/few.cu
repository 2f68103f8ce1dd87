/* Products of few rows: weights are read once, from memory, and everything else is kept out of
 * their way.
 *
 * Tensor cores multiply 16 outputs (weights are A, rows of x are the columns of B) by tiles of 8
 * rows. A dot product may be summed in any order of k, so a lane takes the 8 elements that 16 bytes
 * hold: lane 4 g + t those of output g (and g + 8) at k = 32 slab + 8 t, as the k = 2t, 2t + 1,
 * 2t + 8, 2t + 9 of two instructions, and the same of row g of x. Neither needs a shuffle.
 *
 * x is split, x = hi + lo, two bf16 numbers of together 16 bits, and both are multiplied: 2^-18 of
 * an element is lost. Weights are exact.
 *
 * Weights come through shared memory by asynchronous copies, a ring a lane: each lane reads what it
 * copied itself, so the main loop needs no barrier, and the bytes on their way cost no registers.
 *
 * k is cut into 8 slices, by position: slice s has the 128-byte lines s, s + 8, s + 16, ... of each
 * row. A slice is one chain of instructions, and slices are summed from 0 to 7. That is all that
 * the bits of an output depend on; how slices are dealt to warps and blocks is free: narrow  a
 * block of 8 warps, one a slice, makes 16 or 32 outputs. For up to 8 rows, which are read as fp32
 * and split on the way: no second launch. wide    a block of 4 x 2 warps makes 128 outputs of two
 * slices, a cluster of 4 blocks all slices. x, 4 bytes an element and row, would be read through L2
 * by each block of 16 outputs, for 64 rows 8 times the bytes of its weights; here it is as many.
 * The 4 warps that need the same x find it in L1. It is split by a launch of its own, into
 *           dev->operand, in the order in which lanes read it.
 * Devices without clusters use narrow blocks for any number of rows. */
#include "cuda/ptx.cuh"
#include "cuda/linear/operand.cuh"
#include "cuda/ops.cuh"

enum { N_SLICES = 8, N_WARPS = 8, N_THREADS = 32 * N_WARPS, WIDE_BLOCKS = 4 };

typedef struct few_part {
  const uint16_t *w;
  const float *bias;
  float *y;
  uint32_t n_out, end; /* end: blocks (wide: clusters) of this part and those before */
  bool add;
} few_part;

typedef struct few_job {
  few_part parts[LK_CUDA_MAX_PARTS];
  uint32_t n_parts, n_in, n_rows;
  uint32_t n_slabs;     /* of a slice */
  const float *x;       /* [n_rows][n_in], for one tile of rows */
  const uint4 *operand; /* [slab][tile][hi, lo][lane] for more */
} few_job;

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

/* The lane's 8 elements of x, zeros outside of it. */
static __device__ __forceinline__ void load_x(const few_job &job, uint32_t row, uint32_t k,
                                              float4 *a, float4 *b) {
  *a = *b = make_float4(0, 0, 0, 0);
  if (row >= job.n_rows || k >= job.n_in) return;
  const float4 *x = (const float4 *)(job.x + row * (size_t)job.n_in + k);
  *a = x[0];
  *b = x[1];
}

/* A thread a lane of a slab of a tile. */
static __global__ void split_kernel(const __grid_constant__ few_job job, uint32_t n_tiles,
                                    size_t n_lanes, uint4 *operand) {
  const size_t i = (size_t)blockIdx.x * N_THREADS + threadIdx.x;
  if (i >= n_lanes) return;
  const uint32_t lane = i % 32, tile = (uint32_t)(i / 32 % n_tiles);
  const uint32_t slab = (uint32_t)(i / 32 / n_tiles);
  float4 a, b;
  load_x(job, 8 * tile + lane / 4, slab * LK_FEW_SLAB + 8 * (lane % 4), &a, &b);
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

/* Where a lane's weights are. */
typedef struct few_rows {
  const uint16_t *w; /* of its first output, from its first k on */
  int n_there;       /* of its outputs, 8 apart, how many the part has; may be negative */
  uint64_t policy;
} few_rows;

static __device__ __forceinline__ few_rows rows_of(const few_part &part, uint32_t n_in,
                                                   uint32_t first) {
  const uint32_t lane = threadIdx.x % 32, out = first + lane / 4;
  few_rows rows;
  rows.w = part.w + out * (size_t)n_in + 8 * (lane % 4);
  rows.n_there = ((int)part.n_out - (int)out + 7) >> 3; /* rounded down */
  rows.policy = lk_policy_read_once();
  return rows;
}

/* Asks for the lane's 16 bytes of 2 MT outputs of a slab; to[32 j] is for output j. */
template <int MT>
static __device__ __forceinline__ void ask(const few_rows &rows, uint32_t n_in, uint32_t slab,
                                           uint4 *to) {
  const uint32_t k = slab * LK_FEW_SLAB;
  const int n_there = k + 8 * (threadIdx.x % 4) < n_in ? rows.n_there : 0;
#pragma unroll
  for (int j = 0; j < 2 * MT; j++)
    lk_copy16_once(to + 32 * j, rows.w + (j * 8 * (size_t)n_in + k), j < n_there, rows.policy);
}

/* Adds a slab of x to the sums of MT tiles of outputs by NT tiles of rows. */
template <int NT, int MT>
static __device__ __forceinline__ void add_tiles(const uint4 *a, const uint4 *b,
                                                 float (*c)[NT][4]) {
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const uint4 hi = b[64 * n], lo = b[64 * n + 32];
#pragma unroll
    for (int m = 0; m < MT; m++) multiply(c[m][n], a[2 * m], a[2 * m + 1], hi, lo);
  }
}

/* A slice of a warp's outputs: c = w x. `own` is the lane's place in its ring. */
template <int NT, int MT, int MW, int STAGES>
static __device__ __forceinline__ void sum_slice(const few_job &job, const few_rows &rows,
                                                 uint32_t slice, uint4 *own, float (*c)[NT][4]) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < STAGES - 1; i++) {
    if (i < job.n_slabs) ask<MT>(rows, job.n_in, slab_of(slice, i), own + i * (64 * MT));
    lk_copies_commit();
  }
  const uint32_t k = 8 * (lane % 4);
  float4 x0, x1; /* of the next slab: loaded a turn ahead */
  if (NT == 1) load_x(job, lane / 4, slab_of(slice, 0) * LK_FEW_SLAB + k, &x0, &x1);
  uint32_t stage = 0;
  for (uint32_t i = 0; i < job.n_slabs; i++) {
    uint4 hi, lo;
    if (NT == 1) {
      split_8(x0, x1, &hi, &lo);
      load_x(job, lane / 4, slab_of(slice, i + 1) * LK_FEW_SLAB + k, &x0, &x1);
    }
    lk_copies_wait<STAGES - 2>();
    uint4 a[2 * MT];
#pragma unroll
    for (int j = 0; j < 2 * MT; j++) a[j] = own[stage * (64 * MT) + 32 * j];
    const uint32_t free_stage = stage == 0 ? STAGES - 1 : stage - 1; /* read a turn ago */
    if (i + STAGES - 1 < job.n_slabs)
      ask<MT>(rows, job.n_in, slab_of(slice, i + STAGES - 1), own + free_stage * (64 * MT));
    lk_copies_commit();
    if (NT == 1) {
#pragma unroll
      for (int m = 0; m < MT; m++) multiply(c[m][0], a[2 * m], a[2 * m + 1], hi, lo);
    } else {
      add_tiles<NT, MT>(a, job.operand + (size_t)slab_of(slice, i) * (64 * NT) + lane, c);
    }
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    if (MW > 1 && i % 2 == 1) __syncthreads(); /* keeps warps near enough to share x in L1 */
  }
}

/* The sum s of output `out` and row `row` goes where it belongs. */
static __device__ __forceinline__ void put(const few_job &job, const few_part &part, uint32_t out,
                                           uint32_t row, float s) {
  if (out >= part.n_out || row >= job.n_rows) return;
  float *y = part.y + row * (size_t)part.n_out + out;
  if (part.bias) s += part.bias[out];
  *y = part.add ? *y + s : s;
}

template <int MW> static __device__ __forceinline__ void sync_all(void) {
  if (MW > 1)
    lk_cluster_sync();
  else
    __syncthreads();
}

/* Sums the slices of 16 outputs of each warp; block `rank` those of its cluster's warps
 * kw * MW + rank, whose first output is `first`. shared: float4 [warp][tile][lane]. */
template <int NT, int MW>
static __device__ __forceinline__ void put_sums(const few_job &job, const few_part &part,
                                                uint32_t rank, uint32_t first,
                                                const float4 *shared) {
  const uint32_t n_k = N_WARPS / MW;
  for (uint32_t i = threadIdx.x; i < 32 * NT; i += N_THREADS) {
    float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
    for (uint32_t slice = 0; slice < N_SLICES; slice++) {
      const float4 *at = shared + (slice % n_k * MW + rank) * (32 * NT) + i;
      const float4 v = MW > 1 ? lk_cluster_load(at, slice / n_k) : *at;
      s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
    }
    const uint32_t lane = i % 32, out = first + lane / 4, row = 8 * (i / 32) + 2 * (lane % 4);
    put(job, part, out, row, s.x);
    put(job, part, out, row + 1, s.y);
    put(job, part, out + 8, row, s.z);
    put(job, part, out + 8, row + 1, s.w);
  }
}

/* NT tiles of 8 rows; warps of MT tiles of 16 outputs, MW of them side by side; a cluster of MW
 * blocks. STAGES: slabs of a lane's ring; together the 48 KB that need no asking. */
template <int NT, int MT, int MW, int STAGES, int BLOCKS_PER_SM>
static __global__ void __launch_bounds__(N_THREADS, BLOCKS_PER_SM)
    few_kernel(const __grid_constant__ few_job job) {
  __shared__ uint4 ring[N_WARPS * STAGES * 64 * MT];
  static_assert(sizeof ring >= N_WARPS * NT * 32 * sizeof(float4), "sums are put there too");
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t rank = blockIdx.x % MW, group = blockIdx.x / MW;
  const uint32_t slice = rank * (N_WARPS / MW) + warp / MW;

  uint32_t p = 0;
  while (p + 1 < job.n_parts && group >= job.parts[p].end) p++;
  const few_part &part = job.parts[p];
  const uint32_t first = (group - (p ? job.parts[p - 1].end : 0)) * (16 * MT * MW);

  const few_rows rows = rows_of(part, job.n_in, first + warp % MW * (16 * MT));
  float c[MT][NT][4] = {};
  sum_slice<NT, MT, MW, STAGES>(job, rows, slice, ring + warp * (STAGES * 64 * MT) + lane, c);

  float4 *shared = (float4 *)ring;
#pragma unroll
  for (int m = 0; m < MT; m++) {
    sync_all<MW>(); /* the ring, or the sums before, have been read */
#pragma unroll
    for (int n = 0; n < NT; n++)
      shared[(warp * NT + n) * 32 + lane] =
          make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
    sync_all<MW>();
    put_sums<NT, MW>(job, part, rank, first + rank * (16 * MT) + 16 * m, shared);
  }
  if (MW > 1) sync_all<MW>(); /* nobody leaves while others read its sums */
}

/* ---- launches ---- */

typedef struct few_shape {
  const void *kernel;
  uint32_t n_outputs; /* of a block; of a cluster in wide ones */
  uint32_t n_blocks;  /* of a cluster */
} few_shape;

static const few_shape narrow_16 = {(const void *)few_kernel<1, 1, 1, 6, 4>, 16, 1};
static const few_shape narrow_32[4] = {
    {(const void *)few_kernel<1, 2, 1, 3, 4>, 32, 1},
    {(const void *)few_kernel<2, 2, 1, 3, 3>, 32, 1},
    {(const void *)few_kernel<4, 2, 1, 3, 2>, 32, 1},
    {(const void *)few_kernel<8, 2, 1, 3, 1>, 32, 1},
};
static const few_shape wide[4] = {
    {NULL, 0, 0},
    {(const void *)few_kernel<2, 2, WIDE_BLOCKS, 3, 3>, 128, WIDE_BLOCKS},
    {(const void *)few_kernel<4, 2, WIDE_BLOCKS, 3, 2>, 128, WIDE_BLOCKS},
    {(const void *)few_kernel<8, 2, WIDE_BLOCKS, 3, 2>, 128, WIDE_BLOCKS},
};

/* Whether the device has clusters and the kernels were compiled for it. */
static bool has_clusters(void) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, wide[1].kernel) == cudaSuccess)
    return attributes.ptxVersion >= 90;
  cudaGetLastError();
  return false;
}

/* Numbers the blocks; gives their count. */
static uint32_t deal_blocks(few_job *job, uint32_t n_outputs) {
  uint32_t end = 0;
  for (uint32_t p = 0; p < job->n_parts; p++) {
    end += lk_cuda_blocks(job->parts[p].n_out, n_outputs);
    job->parts[p].end = end;
  }
  return end;
}

/* 32 outputs a block halve the reading of x, where there are blocks enough. */
static few_shape choose_shape(const lk_cuda_device *dev, few_job *job, unsigned n_tiles) {
  const unsigned i = n_tiles == 1 ? 0 : n_tiles == 2 ? 1 : n_tiles == 4 ? 2 : 3;
  if (n_tiles > 1) return has_clusters() ? wide[i] : narrow_32[i];
  return deal_blocks(job, 32) >= 2 * (uint32_t)dev->n_sm ? narrow_32[0] : narrow_16;
}

static void launch_split(lk_cuda_device *dev, const few_job *job, unsigned n_tiles) {
  const size_t n_lanes = lk_few_slabs(job->n_in) * n_tiles * 32;
  split_kernel<<<lk_cuda_blocks(n_lanes, N_THREADS), N_THREADS, 0, dev->stream>>>(
      *job, n_tiles, n_lanes, (uint4 *)dev->operand);
  lk_cuda_launched(dev, "linear_few (split)");
}

static void launch_few(lk_cuda_device *dev, few_job *job) {
  const unsigned n_tiles = lk_few_tiles(job->n_rows);
  if (n_tiles > 1) {
    if (dev->operand_elements < lk_operand_elements(job->n_rows, job->n_in)) {
      lk_cuda_keep(dev, cudaErrorInvalidValue, "linear_few (not reserved)");
      return;
    }
    launch_split(dev, job, n_tiles);
    job->operand = (const uint4 *)dev->operand;
  }
  const few_shape shape = choose_shape(dev, job, n_tiles);
  const uint32_t n_groups = deal_blocks(job, shape.n_outputs);
  if (n_groups == 0) return;

  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = shape.n_blocks;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(n_groups * shape.n_blocks);
  config.blockDim = dim3(N_THREADS);
  config.stream = dev->stream;
  config.attrs = &cluster;
  config.numAttrs = shape.n_blocks > 1 ? 1 : 0;
  void *arguments[] = {job};
  const cudaError_t code = cudaLaunchKernelExC(&config, shape.kernel, arguments);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, "linear_few");
}

void lk_cuda_linear_few(lk_cuda_device *dev, const lk_cuda_linear *linear) {
  for (size_t row = 0; row < linear->n_rows; row += LK_FEW_ROWS) {
    const size_t left = linear->n_rows - row;
    few_job job = {};
    job.n_parts = linear->n_parts;
    job.n_in = linear->n_in;
    job.n_rows = left < LK_FEW_ROWS ? (uint32_t)left : (uint32_t)LK_FEW_ROWS;
    job.n_slabs = (uint32_t)(lk_few_slabs(linear->n_in) / N_SLICES);
    job.x = linear->x + row * linear->n_in;
    for (uint32_t p = 0; p < linear->n_parts; p++) {
      const lk_cuda_part *from = &linear->parts[p];
      few_part *to = &job.parts[p];
      to->w = from->w;
      to->bias = from->bias;
      to->y = from->y + row * from->n_out;
      to->n_out = from->n_out;
      to->add = from->add;
    }
    launch_few(dev, &job);
  }
}
