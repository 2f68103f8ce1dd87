/* Products of some dozens of rows, of which a step of many sequences consists: memory bounds them,
 * so weights are streamed past, once.
 *
 * A block multiplies 128 outputs by all rows. Tensor cores take outputs as rows of A and rows of x
 * as columns of B; a warp has 16 outputs of each half of them, so that a byte of x read from shared
 * memory meets 32. With a gate the halves are gate's and up's of the same outputs: a lane has both.
 * Two more warps fetch 64 elements of k at a time into rings of stages, one weights and one x, by
 * the tensor copy engine, which permutes 16-byte chunks (its swizzle of 128 bytes) so that ldmatrix
 * meets no bank twice.
 *
 * Where there are fewer outputs than blocks to read with, k is cut between the blocks of a cluster,
 * which add up their sums in the order of k: how depends on the shape, on the device, and on
 * whether y and the bias are whole 16 bytes. Where there are more, blocks go on to further outputs.
 *
 * Weights are constant: their ring is filled before the launch before this one has ended.
 *
 * What was tried on an H100: one ring for both (as fast); 5 stages of weights and 3 of x, 6 and 2
 * (slower: copies are served in order, and x waits behind weights); twice as many blocks in
 * clusters (slower: the next launch's find no room). Adding up a cluster's sums takes 2
 * microseconds of 17 for 33 MB and 64 rows, which is what shared memory of other multiprocessors
 * gives. */
#include <cuda.h>

#include "cuda/linear/dozens.cuh"
#include "cuda/ptx.cuh"
#include "cuda/ring.cuh"
#include "cuda/swiglu.cuh"

enum {
  N_WARPS = 4, /* that multiply */
  N_MULTIPLIERS = 32 * N_WARPS,
  N_THREADS = N_MULTIPLIERS + 2 * 32,
  N_HALVES = 2,        /* of a block's outputs: with a gate, gate's and up's */
  HALF = 16 * N_WARPS, /* outputs: a tile of 16 a warp */
  STEP = 64,           /* elements of k of a stage: a row of 128 bytes */
  ROW_BYTES = 2 * STEP,
  HALF_BYTES = HALF * ROW_BYTES,
  /* Stages: what two blocks of a multiprocessor have room for, and small kernels beside. */
  W_STAGES = 4,
  W_BYTES = N_HALVES * HALF_BYTES,
  X_STAGES = 4,
  BLOCKS_PER_SM = 2,
  MAX_CLUSTER = 8, /* what every device has */
  STAGE_ALIGN = 1024
};

typedef struct dozens_job {
  CUtensorMap w, x; /* of boxes of a half and of all rows, STEP wide */
  const float *bias;
  float *y;
  uint16_t *gated; /* operand [n_rows][n_out] of silu(gate) * up; or NULL */
  uint32_t n_rows, n_out, pitch;
  uint32_t n_steps, n_tiles; /* of k; of outputs: what a block multiplies */
  uint32_t n_cluster;        /* blocks that a tile's k is cut between; 1: blocks go on by gridDim */
  bool add;
} dozens_job;

template <int NT> static __host__ __device__ constexpr uint32_t x_bytes(void) {
  return NT * 8 * ROW_BYTES;
}
template <int NT> static __host__ __device__ constexpr uint32_t rings_bytes(void) {
  return W_STAGES * W_BYTES + X_STAGES * x_bytes<NT>();
}

/* Of both rings. */
typedef struct barriers {
  uint64_t w_full[W_STAGES], w_empty[W_STAGES], x_full[X_STAGES], x_empty[X_STAGES];
} barriers;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/* The first output of a half of a tile; with a gate, gate's and up's are the same. */
static __device__ __forceinline__ uint32_t first_of(const dozens_job &job, uint32_t tile,
                                                    uint32_t half) {
  return job.gated ? tile * HALF : (tile * N_HALVES + half) * HALF;
}

/* A block's steps of a tile, and its tiles: from first on, by `by`. */
typedef struct share {
  uint32_t begin, end, first, by;
} share;

static __device__ __forceinline__ share share_of(const dozens_job &job) {
  const uint32_t rank = blockIdx.x % job.n_cluster;
  share s;
  s.begin = job.n_steps * rank / job.n_cluster;
  s.end = job.n_steps * (rank + 1) / job.n_cluster;
  s.first = blockIdx.x / job.n_cluster;
  s.by = gridDim.x / job.n_cluster;
  return s;
}

/* One thread fetches for its block; weights do not wait for the launch before. */
static __device__ void fetch_weights(const dozens_job &job, uint32_t ring, barriers *b) {
  const share s = share_of(job);
  const uint64_t policy = lk_policy_read_once();
  lk_ring_place at = {0, 0};
  lk_prefetch_map(&job.w);
  for (uint32_t tile = s.first; tile < job.n_tiles; tile += s.by)
    for (uint32_t step = s.begin; step < s.end; step++) {
      lk_barrier_wait(&b->w_empty[at.index], at.parity ^ 1);
      lk_barrier_expect(&b->w_full[at.index], W_BYTES);
      for (uint32_t half = 0; half < N_HALVES; half++)
        lk_tensor_copy(ring + at.index * W_BYTES + half * HALF_BYTES, &job.w, step * STEP,
                       first_of(job, tile, half) + (job.gated ? half * job.n_out : 0),
                       &b->w_full[at.index], policy);
      lk_ring_next(&at, W_STAGES);
    }
}
template <int NT>
static __device__ void fetch_rows(const dozens_job &job, uint32_t ring, barriers *b) {
  const share s = share_of(job);
  const uint64_t policy = lk_policy_read_often();
  lk_ring_place at = {0, 0};
  lk_prefetch_map(&job.x);
  lk_dependency_wait();
  for (uint32_t tile = s.first; tile < job.n_tiles; tile += s.by)
    for (uint32_t step = s.begin; step < s.end; step++) {
      lk_barrier_wait(&b->x_empty[at.index], at.parity ^ 1);
      lk_barrier_expect(&b->x_full[at.index], x_bytes<NT>());
      lk_tensor_copy(ring + at.index * x_bytes<NT>(), &job.x, step * STEP, 0, &b->x_full[at.index],
                     policy);
      lk_ring_next(&at, X_STAGES);
    }
}

/* A warp's sums: 16 outputs of each half by tiles of 8 rows, as mma gives them. */
template <int NT> struct warp_sums { float c[N_HALVES][NT][4]; };

template <int NT> static __device__ __forceinline__ void sums_clear(warp_sums<NT> *sums) {
#pragma unroll
  for (int m = 0; m < N_HALVES; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums->c[m][n][i] = 0.0f;
}

/* Adds a stage of each ring; gives the "or" of a word of each of the last reads, which are done in
 * order. */
template <int NT>
static __device__ __forceinline__ uint32_t add_stage(uint32_t w, uint32_t x, warp_sums<NT> *sums) {
  const uint32_t lane = threadIdx.x % 32, twist = lane % 8;
  w += (threadIdx.x / 32 * 16 + lane % 16) * ROW_BYTES;
  x += (lane / 16 * 8 + lane % 8) * ROW_BYTES;
  uint32_t read = 0;
#pragma unroll
  for (uint32_t k = 0; k < STEP / 16; k++) {
    uint32_t a[N_HALVES][4], b[NT / 2][4];
#pragma unroll
    for (int m = 0; m < N_HALVES; m++)
      lk_ldmatrix(w + m * HALF_BYTES + (((2 * k + lane / 16) ^ twist) << 4), a[m]);
#pragma unroll
    for (int n = 0; n < NT / 2; n++)
      lk_ldmatrix(x + n * (16 * ROW_BYTES) + (((2 * k + lane / 8 % 2) ^ twist) << 4), b[n]);
    if (k == STEP / 16 - 1) {
#pragma unroll
      for (int m = 0; m < N_HALVES; m++) read |= a[m][0];
#pragma unroll
      for (int n = 0; n < NT / 2; n++) read |= b[n][0];
    }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int m = 0; m < N_HALVES; m++)
        lk_mma(sums->c[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
  return read;
}

/* Where in y a lane's four sums of a tile of 16 outputs and 8 rows go, of outputs out and out + 8,
 * rows row and row + 1; and what is added to them, asked for before the sums are there. */
typedef struct lane_tile {
  uint32_t out, row;
  float bias[2], y[4];
} lane_tile;

static __device__ __forceinline__ bool is_there(const dozens_job &job, const lane_tile &t,
                                                uint32_t i) {
  return t.out + i / 2 * 8 < job.n_out && t.row + i % 2 < job.n_rows;
}
static __device__ __forceinline__ float *y_at(const dozens_job &job, const lane_tile &t,
                                              uint32_t i) {
  return job.y + (t.row + i % 2) * (size_t)job.pitch + (t.out + i / 2 * 8);
}

/* Of the t-th tile of a warp: of half t / NT. */
template <int NT>
static __device__ __forceinline__ lane_tile lane_tile_at(const dozens_job &job, uint32_t tile,
                                                         uint32_t warp, uint32_t t) {
  const uint32_t lane = threadIdx.x % 32;
  lane_tile at = {};
  at.out = first_of(job, tile, t / NT) + warp * 16 + lane / 4;
  at.row = t % NT * 8 + lane % 4 * 2;
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    if (job.bias && i % 2 == 0 && at.out + i / 2 * 8 < job.n_out)
      at.bias[i / 2] = job.bias[at.out + i / 2 * 8];
    if (job.add && is_there(job, at, i)) at.y[i] = *y_at(job, at, i);
  }
  return at;
}

static __device__ __forceinline__ void put(const dozens_job &job, const lane_tile &at,
                                           const float c[4]) {
#pragma unroll
  for (uint32_t i = 0; i < 4; i++)
    if (is_there(job, at, i)) *y_at(job, at, i) = at.y[i] + (c[i] + at.bias[i / 2]);
}

/* A block's whole sums to y. */
template <int NT>
static __device__ void put_tile(const dozens_job &job, uint32_t tile, const warp_sums<NT> *sums) {
#pragma unroll
  for (int m = 0; m < N_HALVES; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
      put(job, lane_tile_at<NT>(job, tile, threadIdx.x / 32, m * NT + n), sums->c[m][n]);
}

/* What a gate makes of them, rounded, to the operand. */
template <int NT>
static __device__ void put_gated(const dozens_job &job, uint32_t tile, const warp_sums<NT> *sums) {
  const uint32_t warp = threadIdx.x / 32;
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const lane_tile at = lane_tile_at<NT>(job, tile, warp, n);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
      if (is_there(job, at, i))
        job.gated[(at.row + i % 2) * (size_t)job.n_out + (at.out + i / 2 * 8)] =
            (uint16_t)lk_pack_bf16(lk_swiglu(sums->c[0][n][i], sums->c[1][n][i]), 0);
  }
}

static __device__ __forceinline__ void add_4(float4 *a, const float4 &b) {
  a->x += b.x, a->y += b.y, a->z += b.z, a->w += b.w;
}

/* Sums the parts of k of a cluster of CL blocks, in order: a block takes every CL-th 4 rows of the
 * tile, a warp a row, a lane 4 outputs. `shared`, [row][PITCH], is free. Called by all threads of a
 * block. Its code is run once, from memory: there is little of it, and all of its numbers are asked
 * for at once. */
template <int NT, int CL>
static __device__ void put_cluster(const dozens_job &job, uint32_t tile, float *shared,
                                   const warp_sums<NT> *sums) {
  enum {
    PITCH = N_HALVES * HALF + 4, /* + 4: no two lanes meet in a bank */
    N_ROWS = (NT * 8 + N_WARPS * CL - 1) / (N_WARPS * CL)
  };
  static_assert(NT * 8 * PITCH * sizeof(float) <= rings_bytes<NT>(), "in the rings");
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t out = tile * (N_HALVES * HALF) + 4 * lane;
  const bool is_out = warp < N_WARPS && out < job.n_out;
  const uint32_t row = blockIdx.x % CL * N_WARPS + warp;
  float4 y[N_ROWS], bias = make_float4(0, 0, 0, 0);
  if (job.bias && is_out) bias = *(const float4 *)(job.bias + out);
#pragma unroll
  for (int j = 0; j < N_ROWS; j++) {
    const uint32_t r = row + j * (N_WARPS * CL);
    y[j] = make_float4(0, 0, 0, 0);
    if (job.add && is_out && r < job.n_rows)
      y[j] = *(const float4 *)(job.y + r * (size_t)job.pitch + out);
  }
  if (warp < N_WARPS) {
    float *to = shared + lane % 4 * 2 * PITCH + warp * 16 + lane / 4;
#pragma unroll
    for (int m = 0; m < N_HALVES; m++)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          to[(n * 8 + i % 2) * PITCH + m * HALF + i / 2 * 8] = sums->c[m][n][i];
  }
  __syncwarp();
  lk_cluster_sync();
  float4 part[N_ROWS][CL];
#pragma unroll
  for (int j = 0; j < N_ROWS; j++)
#pragma unroll
    for (int rank = 0; rank < CL; rank++) {
      const uint32_t r = row + j * (N_WARPS * CL);
      part[j][rank] = is_out && r < job.n_rows
                          ? lk_cluster_load((float4 *)(shared + r * PITCH + 4 * lane), rank)
                          : make_float4(0, 0, 0, 0);
    }
#pragma unroll
  for (int j = 0; j < N_ROWS; j++) {
#pragma unroll
    for (int rank = 1; rank < CL; rank++) add_4(&part[j][0], part[j][rank]);
    add_4(&part[j][0], bias);
    add_4(&y[j], part[j][0]);
  }
  __syncwarp();
  lk_cluster_arrive();
#pragma unroll
  for (int j = 0; j < N_ROWS; j++) {
    const uint32_t r = row + j * (N_WARPS * CL);
    if (is_out && r < job.n_rows) *(float4 *)(job.y + r * (size_t)job.pitch + out) = y[j];
  }
  __syncwarp();
  lk_cluster_wait(); /* nobody leaves while others read its sums */
}

/* A warp's sums of a tile. never: of lk_barrier_arrive_after. */
template <int NT>
static __device__ __forceinline__ void multiply(const share &s, uint32_t rings, barriers *b,
                                                lk_ring_place *w, lk_ring_place *x, uint32_t never,
                                                warp_sums<NT> *sums) {
  sums_clear<NT>(sums);
  for (uint32_t step = s.begin; step < s.end; step++) {
    lk_barrier_wait(&b->w_full[w->index], w->parity);
    lk_barrier_wait(&b->x_full[x->index], x->parity);
    const uint32_t read = add_stage<NT>(
        rings + w->index * W_BYTES, rings + W_STAGES * W_BYTES + x->index * x_bytes<NT>(), sums);
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      lk_barrier_arrive_after(&b->w_empty[w->index], read, never);
      lk_barrier_arrive_after(&b->x_empty[x->index], read, never);
    }
    lk_ring_next(w, W_STAGES);
    lk_ring_next(x, X_STAGES);
  }
}

/* NT tiles of 8 rows. */
template <int NT>
static __global__ void __launch_bounds__(N_THREADS, BLOCKS_PER_SM)
    dozens_kernel(const __grid_constant__ dozens_job job) {
  extern __shared__ unsigned char memory[];
  __shared__ barriers b;
  unsigned char *rings =
      memory + (STAGE_ALIGN - lk_shared_address(memory) % STAGE_ALIGN) % STAGE_ALIGN;
  if (threadIdx.x < W_STAGES) {
    lk_barrier_init(&b.w_full[threadIdx.x], 1);
    lk_barrier_init(&b.w_empty[threadIdx.x], N_WARPS);
  }
  if (threadIdx.x < X_STAGES) {
    lk_barrier_init(&b.x_full[threadIdx.x], 1);
    lk_barrier_init(&b.x_empty[threadIdx.x], N_WARPS);
  }
  lk_fence_async();
  /* Blocks of the launch after this one are welcome beside few. Beside many they would find room
   * only here and there, and be dealt unevenly: they are let in when these are about to leave. */
  if (job.n_cluster > 1) lk_dependents_launch();
  __syncthreads();
  const uint32_t warp = threadIdx.x / 32;
  const share s = share_of(job);
  warp_sums<NT> sums;
  if (warp == N_WARPS) {
    if (threadIdx.x % 32 == 0) fetch_weights(job, lk_shared_address(rings), &b);
    __syncwarp();
    lk_dependents_launch(); /* unless it was */
  } else if (warp > N_WARPS) {
    if (threadIdx.x % 32 == 0)
      fetch_rows<NT>(job, lk_shared_address(rings) + W_STAGES * W_BYTES, &b);
    __syncwarp();
  } else {
    lk_ring_place w = {0, 0}, x = {0, 0};
    lk_dependency_wait();
    for (uint32_t tile = s.first; tile < job.n_tiles; tile += s.by) {
      multiply<NT>(s, lk_shared_address(rings), &b, &w, &x, job.n_rows >> 16, &sums);
      if (job.n_cluster > 1) break;
      if (job.gated)
        put_gated<NT>(job, tile, &sums);
      else
        put_tile<NT>(job, tile, &sums);
    }
  }
  if (job.n_cluster == 1) return;
  __syncthreads(); /* all that the rings had has been read */
  if (job.n_cluster == 8)
    put_cluster<NT, 8>(job, s.first, (float *)rings, &sums);
  else if (job.n_cluster == 4)
    put_cluster<NT, 4>(job, s.first, (float *)rings, &sums);
  else
    put_cluster<NT, 2>(job, s.first, (float *)rings, &sums);
}

#else
template <int NT> static __global__ void dozens_kernel(const __grid_constant__ dozens_job job) {}
#endif

/* ---- launching ---- */

typedef decltype(&cuTensorMapEncodeTiled) encode_fn;

/* cuTensorMapEncodeTiled, of the driver; NULL where there is none. */
static encode_fn encoder(void) {
  void *function = NULL;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                            12000, cudaEnableDefault, &result);
#else
  const cudaError_t code =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result);
#endif
  if (code != cudaSuccess || result != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return NULL;
  }
  return (encode_fn)function;
}

/* A map of a row-major bf16 matrix in boxes of `box_rows` rows and STEP columns; what lies outside
 * of the matrix reads as zeros. */
static bool make_map(encode_fn encode, CUtensorMap *map, const uint16_t *matrix, uint64_t n_rows,
                     uint32_t n_cols, uint32_t box_rows) {
  const cuuint64_t sizes[2] = {n_cols, n_rows}, pitch[1] = {n_cols * sizeof *matrix};
  const cuuint32_t box[2] = {STEP, box_rows}, strides[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)matrix, sizes, pitch, box,
                strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Between how many blocks the k of a tile is cut: as many as run at once and leave room for the
 * next launch's beside them, each with something to do. */
static uint32_t choose_cluster(const lk_cuda_device *dev, uint32_t n_tiles, uint32_t n_steps) {
  uint32_t n = 1;
  while (2 * n <= MAX_CLUSTER && 2 * n <= n_steps &&
         2 * n * (uint64_t)n_tiles <= 3 * (uint64_t)dev->n_sm / 2)
    n *= 2;
  return n;
}

/* Blocks that go through the tiles, all of them through as many, or one less. */
static uint32_t choose_blocks(const lk_cuda_device *dev, uint32_t n_tiles) {
  const uint32_t n_each = lk_cuda_blocks(n_tiles, (size_t)BLOCKS_PER_SM * dev->n_sm);
  return lk_cuda_blocks(n_tiles, n_each);
}

typedef void (*dozens_fn)(const dozens_job job);

/* Kernels of 4, 6, 8 tiles of 8 rows. */
static const struct dozens_shape {
  dozens_fn kernel;
  uint32_t n_tiles, n_bytes; /* of rows; of shared memory */
} shapes[] = {{dozens_kernel<4>, 4, rings_bytes<4>() + STAGE_ALIGN},
              {dozens_kernel<6>, 6, rings_bytes<6>() + STAGE_ALIGN},
              {dozens_kernel<8>, 8, rings_bytes<8>() + STAGE_ALIGN}};

/* Whether y and the bias can be read 4 floats at a time. */
static bool is_whole(const lk_dozens *d) {
  return d->n_out % 4 == 0 && d->pitch % 4 == 0 && (uintptr_t)d->y % 16 == 0 &&
         (uintptr_t)d->bias % 16 == 0;
}

bool lk_linear_dozens(lk_cuda_device *dev, const lk_dozens *d) {
  if (dev->major < 9 || d->n_rows == 0 || d->n_rows > LK_CUDA_DOZENS_ROWS || d->n_in % 8 != 0 ||
      (uintptr_t)d->w % 16 != 0 || !lk_cuda_has_hopper_code((const void *)shapes[0].kernel))
    return false;
  if (d->n_out == 0) return true;
  const dozens_shape *shape = shapes;
  while (8 * shape->n_tiles < d->n_rows) shape++;
  const encode_fn encode = encoder();
  dozens_job job = {};
  const uint64_t n_weight_rows = d->gated ? 2 * (uint64_t)d->n_out : d->n_out;
  if (!encode || !make_map(encode, &job.w, d->w, n_weight_rows, d->n_in, HALF) ||
      !make_map(encode, &job.x, d->x, d->n_rows, d->n_in, 8 * shape->n_tiles))
    return false;
  job.bias = d->bias;
  job.y = d->y;
  job.gated = d->gated;
  job.n_rows = d->n_rows;
  job.n_out = d->n_out;
  job.pitch = d->pitch;
  job.n_steps = lk_cuda_blocks(d->n_in, STEP);
  job.n_tiles = lk_cuda_blocks(d->n_out, d->gated ? HALF : N_HALVES * HALF);
  job.n_cluster = d->gated || !is_whole(d) ? 1 : choose_cluster(dev, job.n_tiles, job.n_steps);
  job.add = d->add;
  const uint32_t n_blocks =
      job.n_cluster > 1 ? job.n_tiles * job.n_cluster : choose_blocks(dev, job.n_tiles);
  const cudaError_t code = cudaFuncSetAttribute(
      shape->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape->n_bytes);
  if (code != cudaSuccess) {
    lk_cuda_keep(dev, code, "linear_many (shared memory)");
    return true;
  }
  lk_cuda_launch_clusters(dev, "linear_many (dozens)", shape->kernel, n_blocks, N_THREADS,
                          job.n_cluster, shape->n_bytes, job);
  return true;
}
