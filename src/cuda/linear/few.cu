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
 * k is cut into 8 slices, by position: slice s has the 128-byte lines s, s + 8, s + 16, ... of each
 * row. A slice is one chain of instructions, and slices are summed from 0 to 7. That is all that
 * the bits of an output depend on; how tiles are dealt to blocks is free.
 *
 * A block a multiprocessor has a run of the outputs, 16 a tile, and goes through k once for as many
 * tiles as its registers have sums for: x, which may be more bytes than the weights of a tile, is
 * read once for all of them, past shared memory, and split on the way. A warp a slice; two more
 * fetch, a stage (a tile's 1 KB of each output) at a time. More rows than two tiles of 8 are
 * products of their own.
 *
 * With an RMSNorm in front, x enters times the norm's weights, and sums are divided at the end by
 * the root of the mean of the row's squares. Each lane adds up the squares of its elements in
 * ascending order; the four lanes that share a slice of a row are summed in pairs, slices from 0 to
 * 7. With a gate, a tile is 8 outputs of gate, at its top, and the same 8 of up: a lane has both.
 *
 * Weights are constant, so the first ones are fetched before the launch before this one has ended
 * (griddepcontrol); x and y are touched after that. A ring takes half of a multiprocessor, to leave
 * room for the next launch's. */
#include <algorithm>

#include "cuda/linear/few_job.cuh"
#include "cuda/ops.cuh"
#include "cuda/ring.cuh"

enum {
  N_FETCHERS = 2, /* warps that take turns at stages: one alone would be near its limit */
  RING_THREADS = N_THREADS + 32 * N_FETCHERS,
  PIECE = 2 * LK_FEW_PERIOD, /* bytes of an output's weights in a stage: a line of each slice */
  PITCH = PIECE + 64,        /* so that 8 lanes' 16 bytes of two outputs lie in different banks */
  STAGE = TILE * PITCH,      /* bytes */
  MAX_STAGES = 12,
  SUM_TILES = 2 /* tiles of sums that a ring's warps add up at a time, at least */
};

/* ---- ring ---- */

typedef struct ring_barriers {
  uint64_t full[MAX_STAGES], empty[MAX_STAGES];
  volatile uint32_t begin, end; /* the block's tiles; read again rather than kept in registers */
} ring_barriers;

/* Where the tiles of a block begin. */
static __device__ __forceinline__ uint32_t begin_of(const few_job &job, uint32_t block) {
  return (uint32_t)((uint64_t)job.n_tiles * block / gridDim.x);
}

/* How many of the block's n tiles (not 0) are multiplied next, by one going through k: at most
 * `most`, and as many as the next time, or one less. */
static __device__ __forceinline__ uint32_t tiles_of_pass(uint32_t n, uint32_t most) {
  return n / ((n + most - 1) / most);
}

/* A warp's request for a tile's weights from k on. What a tile or k lacks is not written. */
template <bool GATED>
static __device__ __forceinline__ void fetch(const few_job &job, uint32_t tile, uint32_t k,
                                             unsigned char *stage, uint64_t *full,
                                             uint64_t policy) {
  const uint32_t lane = threadIdx.x % 32, most = tile_outputs<GATED>();
  uint32_t out;
  const few_part &part = part_at<GATED>(job, tile, &out);
  const uint32_t n_there = min(part.n_out - out, most);
  const uint32_t n_bytes = 2 * min(job.n_in - k, (uint32_t)LK_FEW_PERIOD);
  const size_t at = out * (size_t)job.n_in + k;
#if __CUDA_ARCH__ >= 900
  if (lane == 0) lk_barrier_expect(full, (GATED ? 2 : 1) * n_there * n_bytes);
  __syncwarp();
  const uint16_t *from = GATED && lane >= most ? job.parts[1].w : part.w;
  if (lane < TILE && lane % most < n_there)
    lk_bulk_copy(lk_shared_address(stage) + lane * PITCH,
                 from + (at + lane % most * (size_t)job.n_in), n_bytes, full, policy);
#else
  for (uint32_t j = 0; j < TILE; j++) {
    const uint16_t *from = (GATED && j >= most ? job.parts[1].w : part.w) + at;
    if (j % most >= n_there) continue;
    for (uint32_t i = lane; i < n_bytes / 16; i += 32)
      lk_copy16_once(lk_shared_address(stage) + j * PITCH + 16 * i,
                     from + (j % most * (size_t)job.n_in + 8 * i), policy);
  }
  lk_copy_arrive(full);
#endif
}

/* A ring has at least N_FETCHERS stages, so a fetching warp is never two rounds ahead of a barrier,
 * where it would take the phase before the last for the last. */
template <int MT, bool GATED>
static __device__ __forceinline__ void fetch_all(const few_job &job, uint32_t fetcher,
                                                 unsigned char *ring, ring_barriers *barriers) {
  const uint64_t policy = lk_policy_read_once();
  lk_ring_place place = {0, 0};
  const uint32_t end = barriers->end;
  uint32_t turn = 0, n;
  for (uint32_t first = barriers->begin; first < end; first += n) {
    n = tiles_of_pass(end - first, MT);
    for (uint32_t k = 0; k < job.n_in; k += LK_FEW_PERIOD)
      for (uint32_t m = 0; m < n; m++) {
        if (turn++ % N_FETCHERS == fetcher) {
          lk_barrier_wait(&barriers->empty[place.index], place.parity ^ 1);
          fetch<GATED>(job, first + m, k, ring + place.index * STAGE, &barriers->full[place.index],
                       policy);
        }
        lk_ring_next(&place, job.n_stages);
      }
  }
}

/* A lane's part of a slab of x: tiles of 8 rows. */
template <int NT> struct few_x { float4 a[NT], b[NT]; };
template <int NT> struct few_split { uint4 hi[NT], lo[NT]; };

/* Two slabs, from the lane's k on. */
template <int NT>
static __device__ __forceinline__ void load_line(const few_job &job, uint32_t k, few_x<NT> x[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int n = 0; n < NT; n++)
      load_x(job, 8 * n + threadIdx.x % 32 / 4, k + h * LK_FEW_SLAB, &x[h].a[n], &x[h].b[n]);
}

static __device__ __forceinline__ void load_norm_line(const few_job &job, uint32_t k,
                                                      float4 g[2][2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) load_norm(job, k + h * LK_FEW_SLAB, &g[h][0], &g[h][1]);
}

template <int NT>
static __device__ __forceinline__ void split_line(const few_x<NT> x[2], few_split<NT> split[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int n = 0; n < NT; n++) split_8(x[h].a[n], x[h].b[n], &split[h].hi[n], &split[h].lo[n]);
}

/* Half a slab's elements of a lane times the norm's weights; their squares to squares[NT]. */
template <int NT>
static __device__ __forceinline__ void weigh(float4 *x, const float4 &g, float *squares) {
#pragma unroll
  for (int n = 0; n < NT; n++) {
    squares[n] = add_squares(squares[n], x[n]);
    x[n] = times(x[n], g);
  }
}

/* Adds a stage, two slabs from the lane's k on, to a tile's sums. `own` is the lane's first 16
 * bytes. Past the end of k the stage is undefined. */
template <int NT>
static __device__ __forceinline__ void add_stage(const uint4 *own, uint32_t k, uint32_t n_in,
                                                 const few_split<NT> x[2], uint64_t *empty,
                                                 uint32_t never, float (*c)[4]) {
  enum { BELOW = 8 * PITCH / 16, SECOND = 4 };
#pragma unroll
  for (int h = 0; h < 2; h++) {
    uint4 top = own[SECOND * h], bottom = own[BELOW + SECOND * h];
    if (h == 1) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) lk_barrier_arrive_after(empty, top.w | bottom.w, never);
    }
    if (k + h * LK_FEW_SLAB >= n_in) top = bottom = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int n = 0; n < NT; n++) multiply(c[n], top, bottom, x[h].hi[n], x[h].lo[n]);
  }
}

/* A warp's slice of n tiles of outputs. AHEAD: x is loaded a stage of each tile before it is
 * needed, where registers allow; else its latency is covered by what the ring holds. */
template <int NT, int MT, bool AHEAD, bool NORM>
static __device__ __forceinline__ void
sum_tiles(const few_job &job, uint32_t n_tiles, const unsigned char *ring, ring_barriers *barriers,
          lk_ring_place *place, float (*c)[NT][4], float *squares) {
  const uint32_t lane = threadIdx.x % 32, slice = threadIdx.x / 32;
  const unsigned char *own = ring + lane / 4 * PITCH + slice * 128 + lane % 4 * 16;
  few_x<NT> x[2];
  float4 g[2][2];
  const uint32_t never = job.n_rows >> 16; /* there are few */
  uint32_t k = 64 * slice + 8 * (lane % 4);
  if (AHEAD) load_line<NT>(job, k, x);
  if (AHEAD && NORM) load_norm_line(job, k, g);
  for (uint32_t first = 0; first < job.n_in; first += LK_FEW_PERIOD, k += LK_FEW_PERIOD) {
    few_split<NT> split[2];
    if (!AHEAD) load_line<NT>(job, k, x);
#pragma unroll
    for (int h = 0; NORM && h < 2; h++) {
      if (!AHEAD) { /* behind a branch, so that not all weights take registers at once */
        if (k + h * LK_FEW_SLAB >= job.n_in) continue;
        load_norm(job, k + h * LK_FEW_SLAB, &g[h][0], &g[h][1]);
      }
      weigh<NT>(x[h].a, g[h][0], squares);
      weigh<NT>(x[h].b, g[h][1], squares);
    }
    split_line<NT>(x, split);
    if (AHEAD) load_line<NT>(job, k + LK_FEW_PERIOD, x);
    if (AHEAD && NORM) load_norm_line(job, k + LK_FEW_PERIOD, g);
#pragma unroll
    for (int m = 0; m < MT; m++) {
      if (m < n_tiles) {
        lk_barrier_wait(&barriers->full[place->index], place->parity);
        add_stage<NT>((const uint4 *)(own + place->index * STAGE), k, job.n_in, split,
                      &barriers->empty[place->index], never, c[m]);
        lk_ring_next(place, job.n_stages);
      }
    }
  }
}

static __device__ __forceinline__ void multipliers_meet(void) {
  asm volatile("bar.sync 1, %0;" ::"n"((int)N_THREADS) : "memory");
}

/* shared: float [slice][8 NT rows]. */
template <int NT>
static __device__ __forceinline__ void put_squares(const float *squares, float *shared) {
  const uint32_t lane = threadIdx.x % 32, slice = threadIdx.x / 32;
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const float sum = sum_quad(squares[n]);
    if (lane % 4 == 0) shared[(slice * NT + n) * 8 + lane / 4] = sum;
  }
}

/* Of rows `row`, which is even, and row + 1. */
template <int NT>
static __device__ __forceinline__ float2 scales_of(const few_job &job, const float *shared,
                                                   uint32_t row) {
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (uint32_t slice = 0; slice < N_SLICES; slice++) {
    const float2 v = *(const float2 *)(shared + (slice * (8 * NT) + row));
    sum.x += v.x, sum.y += v.y;
  }
  return make_float2(scale_of(job, sum.x), scale_of(job, sum.y));
}

/* Sums the slices of a pass. shared: float4 [slice][tile of outputs][tile of rows][lane], of as
 * many tiles of outputs as are summed at a time. */
template <int NT, int MT, bool NORM, bool GATED>
static __device__ __forceinline__ void put_tiles(const few_job &job, uint32_t first,
                                                 uint32_t n_tiles, float4 *shared,
                                                 const float *squares, const float (*c)[NT][4]) {
  enum { M = NT < SUM_TILES ? SUM_TILES / NT : 1, N_SUMS = 32 * NT * M };
  static_assert((int)N_SUMS <= (int)N_THREADS, "a thread a float4");
  const uint32_t lane = threadIdx.x % 32, slice = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < MT; m += M) {
    if (m >= n_tiles) break;
    multipliers_meet(); /* the sums before have been read */
#pragma unroll
    for (int j = 0; j < M; j++)
#pragma unroll
      for (int n = 0; n < NT; n++)
        shared[slice * N_SUMS + (j * NT + n) * 32 + lane] =
            make_float4(c[m + j][n][0], c[m + j][n][1], c[m + j][n][2], c[m + j][n][3]);
    multipliers_meet();
    const uint32_t j = threadIdx.x / (32 * NT);
    if (threadIdx.x < N_SUMS && m + j < n_tiles) {
      uint32_t out;
      const few_part &part = part_at<GATED>(job, first + m + j, &out);
      const uint32_t row = 8 * (slice % NT) + 2 * (lane % 4);
      out += lane / 4;
      const few_addends addends = addends_of<GATED>(job, part, out, row);
      const float2 scale = NORM ? scales_of<NT>(job, squares, row) : make_float2(1, 1);
      float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
      for (uint32_t from = 0; from < N_SLICES; from++) {
        const float4 v = shared[from * N_SUMS + threadIdx.x];
        s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
      }
      put<NORM, GATED>(job, part, out, row, s, scale, addends);
    }
  }
}

template <int NT> static __host__ __device__ constexpr size_t sums_bytes(void) {
  return (size_t)N_WARPS * 32 * sizeof(float4) * (NT < SUM_TILES ? SUM_TILES : NT);
}
template <int NT, bool NORM> static __host__ __device__ constexpr size_t squares_bytes(void) {
  return NORM ? (size_t)N_SLICES * 8 * NT * sizeof(float) : 0;
}

/* Asks for the norm's weights, a line a thread of all blocks: they are constant, too. */
static __device__ __forceinline__ void prefetch_norm(const few_job &job) {
  enum { LINE = 128 / sizeof(float) };
  const uint32_t k = LINE * (blockIdx.x + gridDim.x * threadIdx.x);
  if (k < job.n_in) lk_prefetch_l2(job.norm + k);
}

/* Before Hopper the next launch does not begin early, and needs no room. */
#if __CUDA_ARCH__ >= 900
enum { BLOCKS_PER_SM = 2 };
#else
enum { BLOCKS_PER_SM = 1 };
#endif

/* NT tiles of 8 rows, up to MT tiles of outputs at a time. */
template <int NT, int MT, bool AHEAD, bool NORM, bool GATED>
static __global__ void __launch_bounds__(RING_THREADS, BLOCKS_PER_SM)
    ring_kernel(const __grid_constant__ few_job job) {
  static_assert(MT % 2 == 0 && MT % (SUM_TILES / NT > 0 ? SUM_TILES / NT : 1) == 0, "whole rounds");
  extern __shared__ __align__(128) unsigned char memory[];
  float4 *sums = (float4 *)memory;
  float *squares = (float *)(memory + sums_bytes<NT>());
  unsigned char *ring = memory + (sums_bytes<NT>() + squares_bytes<NT, NORM>());
  ring_barriers *barriers = (ring_barriers *)(ring + job.n_stages * STAGE);
  lk_dependents_launch();
  if (threadIdx.x == N_THREADS) {
    for (uint32_t i = 0; i < job.n_stages; i++) {
#if __CUDA_ARCH__ >= 900
      lk_barrier_init(&barriers->full[i], 1);
#else
      lk_barrier_init(&barriers->full[i], 32);
#endif
      lk_barrier_init(&barriers->empty[i], N_WARPS);
    }
#if __CUDA_ARCH__ >= 900
    lk_fence_async();
#endif
    barriers->begin = begin_of(job, blockIdx.x);
    barriers->end = begin_of(job, blockIdx.x + 1);
  }
  __syncthreads();
  if (threadIdx.x >= N_THREADS) {
    fetch_all<MT, GATED>(job, threadIdx.x / 32 - N_WARPS, ring, barriers);
    return;
  }
  lk_ring_place place = {0, 0};
  if (NORM) prefetch_norm(job);
  lk_dependency_wait();
  for (uint32_t first = barriers->begin, n; first < barriers->end; first += n) {
    float c[MT][NT][4] = {}, of_lane[NT] = {};
    sum_tiles<NT, MT, AHEAD, NORM>(job, tiles_of_pass(barriers->end - first, MT), ring, barriers,
                                   &place, c, of_lane);
    if (NORM && first == barriers->begin) put_squares<NT>(of_lane, squares);
    n = tiles_of_pass(barriers->end - first, MT); /* again, for the sake of registers */
    put_tiles<NT, MT, NORM, GATED>(job, first, n, sums, squares, c);
  }
}

/* ---- launches ---- */

typedef void (*few_fn)(const few_job job);

typedef struct few_shape {
  few_fn kernel;
  size_t fixed_bytes; /* shared memory besides the stages and barriers */
} few_shape;

#define RING_SHAPE(NT, AHEAD, NORM, GATED)                                                         \
  { ring_kernel<NT, 4, AHEAD, NORM, GATED>, sums_bytes<NT>() + squares_bytes<NT, NORM>() }
/* With a norm, with a gate; of 1, 2 tiles of rows. */
static const few_shape shapes[2][2][2] = {
    {{RING_SHAPE(1, true, false, false), RING_SHAPE(2, false, false, false)},
     {RING_SHAPE(1, true, false, true), RING_SHAPE(2, false, false, true)}},
    {{RING_SHAPE(1, true, true, false), RING_SHAPE(2, false, true, false)},
     {RING_SHAPE(1, true, true, true), RING_SHAPE(2, false, true, true)}},
};

/* Numbers the tiles of n_outputs; gives their count. */
static uint32_t deal_outputs(few_job *job, uint32_t n_outputs) {
  uint32_t end = 0;
  for (uint32_t p = 0; p < job->n_parts; p++) {
    end += lk_cuda_blocks(job->parts[p].n_out, n_outputs);
    job->parts[p].end = end;
  }
  return end;
}

/* Stages of a block, where blocks_per_sm have room beside each other. */
static uint32_t n_stages(const lk_cuda_device *dev, size_t blocks_per_sm, size_t fixed) {
  const size_t reserved = 1024; /* by the driver, of each block */
  int per_sm = 0, per_block = 0;
  cudaDeviceGetAttribute(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev->index);
  cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev->index);
  const size_t room = std::min((size_t)per_sm / blocks_per_sm - reserved, (size_t)per_block);
  return (uint32_t)std::min((room - fixed) / STAGE, (size_t)MAX_STAGES);
}

static void launch_few(lk_cuda_device *dev, few_job *job, bool gated) {
  const few_shape *shape = &shapes[job->norm != NULL][gated][job->n_rows > TILE_ROWS];
  job->n_tiles = deal_outputs(job, gated ? tile_outputs<true>() : tile_outputs<false>());
  if (job->n_tiles == 0) return;
  const size_t fixed = shape->fixed_bytes + sizeof(ring_barriers);
  job->n_stages = n_stages(dev, dev->major >= 9 ? 2 : 1, fixed);
  const size_t n_bytes = fixed + job->n_stages * (size_t)STAGE;
  cudaError_t code = cudaFuncSetAttribute(
      shape->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
  if (code == cudaSuccess) /* the next launch's blocks need theirs beside */
    code = cudaFuncSetAttribute(shape->kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
  if (code != cudaSuccess) {
    lk_cuda_keep(dev, code, "linear_few (shared memory)");
    return;
  }
  lk_cuda_launch(dev, "linear_few", shape->kernel, std::min(job->n_tiles, (uint32_t)dev->n_sm),
                 RING_THREADS, n_bytes, *job);
}

static bool is_valid(const lk_cuda_linear *linear) {
  const lk_cuda_part *p = linear->parts;
  return !linear->gated ||
         (linear->n_parts == 2 && p[0].n_out == p[1].n_out && !p[0].add && !p[1].add);
}

void lk_cuda_linear_few(lk_cuda_device *dev, const lk_cuda_linear *linear) {
  const size_t most = LK_CUDA_FEW_ROWS;
  if (!is_valid(linear)) {
    lk_cuda_keep(dev, cudaErrorInvalidValue, "linear_few (parts of a gate)");
    return;
  }
  for (size_t row = 0; row < linear->n_rows; row += most) {
    few_job job = {};
    job.n_parts = linear->gated ? 1 : linear->n_parts;
    job.n_in = linear->n_in;
    job.n_rows = (uint32_t)std::min(linear->n_rows - row, most);
    job.x = linear->x + row * linear->n_in;
    job.norm = linear->norm;
    job.eps = linear->eps;
    for (uint32_t p = 0; p < linear->n_parts; p++) {
      const lk_cuda_part *from = &linear->parts[p];
      few_part *to = &job.parts[p];
      to->w = from->w;
      to->bias = from->bias;
      to->y = from->y + row * from->n_out;
      to->n_out = from->n_out;
      to->add = from->add;
    }
    launch_few(dev, &job, linear->gated);
  }
}
