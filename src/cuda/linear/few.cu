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
 * the bits of an output depend on; how slices are dealt to warps and blocks is free:
 *
 * ring  a block a multiprocessor, which has a run of the outputs, 16 a tile, and goes through k
 *       once for as many tiles as its registers have sums for: x, which may be more bytes than the
 *       weights of a tile, is read once for all of them, past shared memory, and split on the way.
 *       A warp a slice; two more fetch, a stage (a tile's 1 KB of each output) at a time.
 * wide  a block of 4 x 2 warps makes 128 outputs of two slices, a cluster of 4 blocks all slices,
 *       for more rows, of which x is 4 bytes an element: read once by 128 outputs it is as many
 *       bytes as weights are. The 4 warps that need the same x find it in L1. It is split by a
 *       launch of its own, into dev->operand, in the order in which lanes read it.
 *
 * Weights are constant, so the first ones are fetched before the launch before this one has ended
 * (griddepcontrol); x and y are touched after that. A ring takes half of a multiprocessor, to leave
 * room for the next launch's. */
#include <algorithm>

#include "cuda/ptx.cuh"
#include "cuda/linear/operand.cuh"
#include "cuda/ops.cuh"

enum {
  N_SLICES = 8,
  N_WARPS = 8, /* that multiply */
  N_THREADS = 32 * N_WARPS,
  TILE = 16, /* outputs of an instruction */

  N_FETCHERS = 2, /* warps that take turns at stages: one alone would be near its limit */
  RING_THREADS = N_THREADS + 32 * N_FETCHERS,
  PIECE = 2 * LK_FEW_PERIOD, /* bytes of an output's weights in a stage: a line of each slice */
  PITCH = PIECE + 64,        /* so that 8 lanes' 16 bytes of two outputs lie in different banks */
  STAGE = TILE * PITCH,      /* bytes */
  MAX_STAGES = 12,
  RING_ROWS = 32, /* most of a launch */
  SUM_TILES = 2,  /* tiles of sums that a ring's warps add up at a time, at least */

  WIDE_ROWS = 16,  /* more than these are for wide blocks */
  WIDE_BLOCKS = 4, /* of a cluster */
  WIDE_TILES = 2,  /* of outputs, of a warp */
  WIDE_STAGES = 3
};

typedef struct few_part {
  const uint16_t *w;
  const float *bias;
  float *y;
  uint32_t n_out, end; /* end: tiles (wide: clusters) of this part and those before */
  bool add;
} few_part;

typedef struct few_job {
  few_part parts[LK_CUDA_MAX_PARTS];
  uint32_t n_parts, n_in, n_rows;
  uint32_t n_slabs;     /* wide: of a slice */
  uint32_t n_stages;    /* ring */
  const float *x;       /* [n_rows][n_in] */
  const uint4 *operand; /* wide: x as [slab][tile][hi, lo][lane] */
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
  load_x(job, 8 * tile + lane / 4, slab * LK_FEW_SLAB + 8 * (lane % 4), &a, &b);
  uint4 hi, lo;
  split_8(a, b, &hi, &lo);
  uint4 *to = operand + i / 32 * 64 + lane;
  to[0] = hi;
  to[32] = lo;
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

/* What is added to the sums of a lane: 4 g + t has outputs g and g + 8 of rows 2t and 2t + 1. */
typedef struct few_addends {
  float bias[2], y[4];
} few_addends;

static __device__ __forceinline__ bool is_there(const few_job &job, const few_part &part,
                                                uint32_t out, uint32_t row) {
  return out < part.n_out && row < job.n_rows;
}

/* All at once, and before the sums: each is a way to memory. out, row: the lane's first
 * ones. */
static __device__ __forceinline__ few_addends addends_of(const few_job &job, const few_part &part,
                                                         uint32_t out, uint32_t row) {
  few_addends a = {};
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t o = out + i / 2 * 8, r = row + i % 2;
    if (!is_there(job, part, o, r)) continue;
    if (part.bias && i % 2 == 0) a.bias[i / 2] = part.bias[o];
    if (part.add) a.y[i] = part.y[r * (size_t)part.n_out + o];
  }
  return a;
}

static __device__ __forceinline__ void put(const few_job &job, const few_part &part, uint32_t out,
                                           uint32_t row, const float4 &sums, const few_addends &a) {
  const float from[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t o = out + i / 2 * 8, r = row + i % 2;
    if (!is_there(job, part, o, r)) continue;
    const float s = part.bias ? from[i] + a.bias[i / 2] : from[i];
    part.y[r * (size_t)part.n_out + o] = part.add ? a.y[i] + s : s;
  }
}

/* ---- ring ---- */

typedef struct ring_barriers {
  uint64_t full[MAX_STAGES], empty[MAX_STAGES];
} ring_barriers;

/* The place in the ring, alike in the fetching warp and those that multiply. */
typedef struct ring_place {
  uint32_t stage, parity;
} ring_place;

static __device__ __forceinline__ void ring_next(ring_place *place, uint32_t n_stages) {
  if (++place->stage == n_stages) {
    place->stage = 0;
    place->parity ^= 1;
  }
}

/* Tiles that are multiplied together, by one going through k. */
typedef struct ring_pass {
  uint32_t first, n;
} ring_pass;

/* Pass i of the block's tiles, at most `most` in each; n 0: there is none. */
static __device__ __forceinline__ ring_pass pass_of(const few_job &job, uint32_t i, uint32_t most) {
  const uint64_t n_tiles = job.parts[job.n_parts - 1].end;
  const uint32_t first = (uint32_t)(n_tiles * blockIdx.x / gridDim.x);
  const uint32_t n = (uint32_t)(n_tiles * (blockIdx.x + 1) / gridDim.x) - first;
  const uint32_t n_passes = (n + most - 1) / most;
  ring_pass pass = {0, 0};
  if (i >= n_passes) return pass;
  pass.first = first + n * i / n_passes;
  pass.n = first + n * (i + 1) / n_passes - pass.first;
  return pass;
}

/* The part that a tile belongs to; `out`: the tile's first output there. */
static __device__ __forceinline__ const few_part &part_at(const few_job &job, uint32_t tile,
                                                          uint32_t *out) {
  uint32_t p = 0;
  while (p + 1 < job.n_parts && tile >= job.parts[p].end) p++;
  *out = TILE * (tile - (p ? job.parts[p - 1].end : 0));
  return job.parts[p];
}

/* A warp's request for a tile's weights from k on. What a tile or k lacks is not written. */
static __device__ __forceinline__ void fetch(const few_job &job, uint32_t tile, uint32_t k,
                                             unsigned char *stage, uint64_t *full,
                                             uint64_t policy) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t out;
  const few_part &part = part_at(job, tile, &out);
  const uint32_t n_there = min(part.n_out - out, (uint32_t)TILE);
  const uint32_t n_bytes = 2 * min(job.n_in - k, (uint32_t)LK_FEW_PERIOD);
  const uint16_t *from = part.w + (out * (size_t)job.n_in + k);
#if __CUDA_ARCH__ >= 900
  if (lane == 0) lk_barrier_expect(full, n_there * n_bytes);
  __syncwarp();
  if (lane < n_there)
    lk_bulk_copy(lk_shared_address(stage) + lane * PITCH, from + lane * (size_t)job.n_in, n_bytes,
                 full, policy);
#else
  for (uint32_t j = 0; j < n_there; j++, from += job.n_in)
    for (uint32_t at = lane; at < n_bytes / 16; at += 32)
      lk_copy16_once((uint4 *)(stage + j * PITCH) + at, from + 8 * at, true, policy);
  lk_copy_arrive(full);
#endif
}

/* A ring has at least N_FETCHERS stages, so a fetching warp is never two rounds ahead of a barrier,
 * where it would take the phase before the last for the last. */
template <int MT>
static __device__ __forceinline__ void fetch_all(const few_job &job, uint32_t fetcher,
                                                 unsigned char *ring, ring_barriers *barriers) {
  const uint64_t policy = lk_policy_read_once();
  ring_place place = {0, 0};
  uint32_t i = 0, turn = 0;
  for (ring_pass pass = pass_of(job, i, MT); pass.n > 0; pass = pass_of(job, ++i, MT))
    for (uint32_t k = 0; k < job.n_in; k += LK_FEW_PERIOD)
      for (uint32_t m = 0; m < pass.n; m++) {
        if (turn++ % N_FETCHERS == fetcher) {
          lk_barrier_wait(&barriers->empty[place.stage], place.parity ^ 1);
          fetch(job, pass.first + m, k, ring + place.stage * STAGE, &barriers->full[place.stage],
                policy);
        }
        ring_next(&place, job.n_stages);
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

/* Adds a stage, two slabs from the lane's k on, to a tile's sums. `own` is the lane's first 16
 * bytes. Past the end of k the stage is undefined. */
template <int NT>
static __device__ __forceinline__ void add_stage(const uint4 *own, uint32_t k, uint32_t n_in,
                                                 const few_split<NT> x[2], uint64_t *empty,
                                                 float (*c)[4]) {
  enum { BELOW = 8 * PITCH / 16, SECOND = 4 };
#pragma unroll
  for (int h = 0; h < 2; h++) {
    uint4 top = own[SECOND * h], bottom = own[BELOW + SECOND * h];
    if (h == 1) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) lk_barrier_arrive(empty);
    }
    if (k + h * LK_FEW_SLAB >= n_in) top = bottom = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int n = 0; n < NT; n++) multiply(c[n], top, bottom, x[h].hi[n], x[h].lo[n]);
  }
}

/* A warp's slice of n tiles of outputs. AHEAD: x is loaded a stage of each tile before it is
 * needed, where registers allow; else its latency is covered by what the ring holds. */
template <int NT, int MT, bool AHEAD>
static __device__ __forceinline__ void sum_tiles(const few_job &job, uint32_t n_tiles,
                                                 const unsigned char *ring, ring_barriers *barriers,
                                                 ring_place *place, float (*c)[NT][4]) {
  const uint32_t lane = threadIdx.x % 32, slice = threadIdx.x / 32;
  const unsigned char *own = ring + lane / 4 * PITCH + slice * 128 + lane % 4 * 16;
  few_x<NT> x[2];
  uint32_t k = 64 * slice + 8 * (lane % 4);
  if (AHEAD) load_line<NT>(job, k, x);
  for (uint32_t first = 0; first < job.n_in; first += LK_FEW_PERIOD, k += LK_FEW_PERIOD) {
    few_split<NT> split[2];
    if (!AHEAD) load_line<NT>(job, k, x);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int n = 0; n < NT; n++) split_8(x[h].a[n], x[h].b[n], &split[h].hi[n], &split[h].lo[n]);
    if (AHEAD) load_line<NT>(job, k + LK_FEW_PERIOD, x);
#pragma unroll
    for (int m = 0; m < MT; m++) {
      if (m < n_tiles) {
        lk_barrier_wait(&barriers->full[place->stage], place->parity);
        add_stage<NT>((const uint4 *)(own + place->stage * STAGE), k, job.n_in, split,
                      &barriers->empty[place->stage], c[m]);
        ring_next(place, job.n_stages);
      }
    }
  }
}

static __device__ __forceinline__ void multipliers_meet(void) {
  asm volatile("bar.sync 1, %0;" ::"n"((int)N_THREADS) : "memory");
}

/* Sums the slices of a pass. shared: float4 [slice][tile of outputs][tile of rows][lane], of as
 * many tiles of outputs as are summed at a time. */
template <int NT, int MT>
static __device__ __forceinline__ void put_tiles(const few_job &job, const ring_pass &pass,
                                                 float4 *shared, const float (*c)[NT][4]) {
  enum { M = NT < SUM_TILES ? SUM_TILES / NT : 1, N_SUMS = 32 * NT * M };
  static_assert((int)N_SUMS <= (int)N_THREADS, "a thread a float4");
  const uint32_t lane = threadIdx.x % 32, slice = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < MT; m += M) {
    if (m >= pass.n) break;
    multipliers_meet(); /* the sums before have been read */
#pragma unroll
    for (int j = 0; j < M; j++)
#pragma unroll
      for (int n = 0; n < NT; n++)
        shared[slice * N_SUMS + (j * NT + n) * 32 + lane] =
            make_float4(c[m + j][n][0], c[m + j][n][1], c[m + j][n][2], c[m + j][n][3]);
    multipliers_meet();
    const uint32_t j = threadIdx.x / (32 * NT);
    if (threadIdx.x < N_SUMS && m + j < pass.n) {
      uint32_t out;
      const few_part &part = part_at(job, pass.first + m + j, &out);
      const uint32_t row = 8 * (slice % NT) + 2 * (lane % 4);
      out += lane / 4;
      const few_addends addends = addends_of(job, part, out, row);
      float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
      for (uint32_t from = 0; from < N_SLICES; from++) {
        const float4 v = shared[from * N_SUMS + threadIdx.x];
        s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
      }
      put(job, part, out, row, s, addends);
    }
  }
}

template <int NT> static __host__ __device__ constexpr size_t sums_bytes(void) {
  return (size_t)N_WARPS * 32 * sizeof(float4) * (NT < SUM_TILES ? SUM_TILES : NT);
}

/* Before Hopper the next launch does not begin early, and needs no room. */
#if __CUDA_ARCH__ >= 900
#define RING_BLOCKS(per_sm) (per_sm)
#else
#define RING_BLOCKS(per_sm) 1
#endif

/* NT tiles of 8 rows, up to MT tiles of outputs at a time. */
template <int NT, int MT, bool AHEAD, int BLOCKS_PER_SM>
static __global__ void __launch_bounds__(RING_THREADS, RING_BLOCKS(BLOCKS_PER_SM))
    ring_kernel(const __grid_constant__ few_job job) {
  static_assert(MT % 2 == 0 && MT % (SUM_TILES / NT > 0 ? SUM_TILES / NT : 1) == 0, "whole rounds");
  extern __shared__ __align__(128) unsigned char memory[];
  float4 *sums = (float4 *)memory;
  unsigned char *ring = memory + sums_bytes<NT>();
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
  }
  __syncthreads();
  if (threadIdx.x >= N_THREADS) {
    fetch_all<MT>(job, threadIdx.x / 32 - N_WARPS, ring, barriers);
    return;
  }
  ring_place place = {0, 0};
  ring_pass pass = pass_of(job, 0, MT);
  lk_dependency_wait();
  for (uint32_t i = 1; pass.n > 0; pass = pass_of(job, i++, MT)) {
    float c[MT][NT][4] = {};
    sum_tiles<NT, MT, AHEAD>(job, pass.n, ring, barriers, &place, c);
    put_tiles<NT, MT>(job, pass, sums, c);
  }
}

/* ---- wide ---- */

/* The i-th slab of a slice: two slabs are a 128-byte line. */
static __device__ __forceinline__ uint32_t slab_of(uint32_t slice, uint32_t i) {
  return 2 * slice + i / 2 * (2 * N_SLICES) + i % 2;
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

/* Asks for the lane's 16 bytes of each output of a slab; to[32 j] is for output j. */
static __device__ __forceinline__ void ask(const few_rows &rows, uint32_t n_in, uint32_t slab,
                                           uint4 *to) {
  const uint32_t k = slab * LK_FEW_SLAB;
  const int n_there = k + 8 * (threadIdx.x % 4) < n_in ? rows.n_there : 0;
#pragma unroll
  for (int j = 0; j < 2 * WIDE_TILES; j++)
    lk_copy16_once(to + 32 * j, rows.w + (j * 8 * (size_t)n_in + k), j < n_there, rows.policy);
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
template <int NT>
static __device__ __forceinline__ void sum_slice(const few_job &job, const few_rows &rows,
                                                 uint32_t slice, uint4 *own, float (*c)[NT][4]) {
  enum { PLACE = 64 * WIDE_TILES };
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < WIDE_STAGES - 1; i++) {
    if (i < job.n_slabs) ask(rows, job.n_in, slab_of(slice, i), own + i * PLACE);
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
      ask(rows, job.n_in, slab_of(slice, i + WIDE_STAGES - 1), own + free_stage * PLACE);
    lk_copies_commit();
    add_tiles<NT>(a, job.operand + (size_t)slab_of(slice, i) * (64 * NT) + lane, c);
    stage = stage == WIDE_STAGES - 1 ? 0 : stage + 1;
    if (i % 2 == 1) __syncthreads(); /* keeps warps near enough to share x in L1 */
  }
}

/* Sums the slices of 16 outputs of each warp; block `rank` those of its cluster's warps
 * kw * WIDE_BLOCKS + rank, whose first output is `first`. shared: float4 [warp][tile][lane]. */
template <int NT>
static __device__ __forceinline__ void put_sums(const few_job &job, const few_part &part,
                                                uint32_t rank, uint32_t first,
                                                const float4 *shared) {
  const uint32_t n_k = N_WARPS / WIDE_BLOCKS;
  for (uint32_t i = threadIdx.x; i < 32 * NT; i += N_THREADS) {
    const uint32_t lane = i % 32, out = first + lane / 4, row = 8 * (i / 32) + 2 * (lane % 4);
    const few_addends addends = addends_of(job, part, out, row);
    float4 s = make_float4(0, 0, 0, 0);
#pragma unroll
    for (uint32_t slice = 0; slice < N_SLICES; slice++) {
      const float4 *at = shared + (slice % n_k * WIDE_BLOCKS + rank) * (32 * NT) + i;
      const float4 v = lk_cluster_load(at, slice / n_k);
      s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
    }
    put(job, part, out, row, s, addends);
  }
}

/* NT tiles of 8 rows; a cluster of WIDE_BLOCKS blocks, each of as many warps side by side. */
template <int NT, int BLOCKS_PER_SM>
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
  const few_part &part = part_at(job, group, &out);
  const uint32_t first = out * (WIDE_TILES * WIDE_BLOCKS);

  const few_rows rows = rows_of(part, job.n_in, first + warp % WIDE_BLOCKS * (TILE * WIDE_TILES));
  float c[WIDE_TILES][NT][4] = {};
  sum_slice<NT>(job, rows, slice, ring + warp * (WIDE_STAGES * PLACE) + lane, c);

  float4 *shared = (float4 *)ring;
#pragma unroll
  for (int m = 0; m < WIDE_TILES; m++) {
    lk_cluster_sync(); /* the ring, or the sums before, have been read */
#pragma unroll
    for (int n = 0; n < NT; n++)
      shared[(warp * NT + n) * 32 + lane] =
          make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
    lk_cluster_sync();
    put_sums<NT>(job, part, rank, first + rank * (TILE * WIDE_TILES) + TILE * m, shared);
  }
  lk_cluster_sync(); /* nobody leaves while others read its sums */
}

/* ---- launches ---- */

typedef struct few_shape {
  const void *kernel;
  size_t sums_bytes;      /* ring: shared memory besides the stages */
  unsigned blocks_per_sm; /* ring: that have room beside each other */
} few_shape;

/* Of 1, 2, 4 tiles of rows; wide: and 8. */
static const few_shape ring_shapes[3] = {
    {(const void *)ring_kernel<1, 4, true, 2>, sums_bytes<1>(), 2},
    {(const void *)ring_kernel<2, 4, false, 2>, sums_bytes<2>(), 2},
    {(const void *)ring_kernel<4, 4, false, 1>, sums_bytes<4>(), 1},
};
static const void *const wide_kernels[4] = {
    NULL,
    (const void *)wide_kernel<2, 3>,
    (const void *)wide_kernel<4, 2>,
    (const void *)wide_kernel<8, 2>,
};

/* Whether the device is one of Hopper or later and the kernels were compiled for it: clusters,
 * launches before the one before has ended. */
static bool is_hopper(void) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, wide_kernels[1]) == cudaSuccess)
    return attributes.ptxVersion >= 90;
  cudaGetLastError();
  return false;
}

/* Numbers the tiles, or clusters, of n_outputs; gives their count. */
static uint32_t deal_outputs(few_job *job, uint32_t n_outputs) {
  uint32_t end = 0;
  for (uint32_t p = 0; p < job->n_parts; p++) {
    end += lk_cuda_blocks(job->parts[p].n_out, n_outputs);
    job->parts[p].end = end;
  }
  return end;
}

static void launch(lk_cuda_device *dev, const void *kernel, cudaLaunchConfig_t config,
                   unsigned n_cluster, void **arguments, const char *what) {
  cudaLaunchAttribute attributes[2] = {};
  config.stream = dev->stream;
  config.attrs = attributes;
  if (is_hopper()) {
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = 1;
  }
  if (n_cluster > 1) {
    cudaLaunchAttribute *cluster = &attributes[config.numAttrs++];
    cluster->id = cudaLaunchAttributeClusterDimension;
    cluster->val.clusterDim.x = n_cluster;
    cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
  }
  const cudaError_t code = cudaLaunchKernelExC(&config, kernel, arguments);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, what);
}

/* Stages of a block, of which blocks_per_sm have room beside each other. */
static uint32_t n_stages(const lk_cuda_device *dev, size_t blocks_per_sm, size_t fixed) {
  const size_t reserved = 1024; /* by the driver, of each block */
  int per_sm = 0, per_block = 0;
  cudaDeviceGetAttribute(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev->index);
  cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev->index);
  const size_t room = std::min((size_t)per_sm / blocks_per_sm - reserved, (size_t)per_block);
  return (uint32_t)std::min((room - fixed) / STAGE, (size_t)MAX_STAGES);
}

static void launch_ring(lk_cuda_device *dev, few_job *job, const few_shape *shape) {
  const uint32_t n_tiles = deal_outputs(job, TILE);
  if (n_tiles == 0) return;
  const size_t fixed = shape->sums_bytes + sizeof(ring_barriers);
  job->n_stages = n_stages(dev, is_hopper() ? shape->blocks_per_sm : 1, fixed);
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
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(std::min(n_tiles, (uint32_t)dev->n_sm));
  config.blockDim = dim3(RING_THREADS);
  config.dynamicSmemBytes = n_bytes;
  void *arguments[] = {job};
  launch(dev, shape->kernel, config, 1, arguments, "linear_few");
}

static void launch_wide(lk_cuda_device *dev, few_job *job, unsigned n_tiles, const void *kernel) {
  const uint32_t n_clusters = deal_outputs(job, TILE * WIDE_TILES * WIDE_BLOCKS);
  if (n_clusters == 0) return;
  if (dev->operand_elements < lk_operand_elements(job->n_rows, job->n_in)) {
    lk_cuda_keep(dev, cudaErrorInvalidValue, "linear_few (not reserved)");
    return;
  }
  job->n_slabs = (uint32_t)(lk_few_slabs(job->n_in) / N_SLICES);
  job->operand = (const uint4 *)dev->operand;
  uint4 *operand = (uint4 *)dev->operand;
  size_t n_lanes = lk_few_slabs(job->n_in) * n_tiles * 32;
  void *split_arguments[] = {job, &n_tiles, &n_lanes, &operand}, *arguments[] = {job};
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(N_THREADS);
  config.gridDim = dim3(lk_cuda_blocks(n_lanes, N_THREADS));
  launch(dev, (const void *)split_kernel, config, 1, split_arguments, "linear_few (split)");
  config.gridDim = dim3(n_clusters * WIDE_BLOCKS);
  launch(dev, kernel, config, WIDE_BLOCKS, arguments, "linear_few");
}

static void launch_few(lk_cuda_device *dev, few_job *job) {
  const unsigned n_tiles = lk_few_tiles(job->n_rows);
  const unsigned i = n_tiles == 1 ? 0 : n_tiles == 2 ? 1 : n_tiles == 4 ? 2 : 3;
  if (job->n_rows > WIDE_ROWS && is_hopper())
    launch_wide(dev, job, n_tiles, wide_kernels[i]);
  else
    launch_ring(dev, job, &ring_shapes[i]);
}

void lk_cuda_linear_few(lk_cuda_device *dev, const lk_cuda_linear *linear) {
  const size_t most = is_hopper() ? (size_t)LK_FEW_ROWS : (size_t)RING_ROWS;
  for (size_t row = 0; row < linear->n_rows; row += most) {
    few_job job = {};
    job.n_parts = linear->n_parts;
    job.n_in = linear->n_in;
    job.n_rows = (uint32_t)std::min(linear->n_rows - row, most);
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
