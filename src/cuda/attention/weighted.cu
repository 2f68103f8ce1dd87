/* Attention of answer rows under channel weights, forward and backward, for learning: queries,
 * probabilities and all sums are fp32, K and V are the pages' bf16.
 *
 * The rows of one kv head are a matrix: row (token r, query head g) stands at r * G + g. A block
 * takes 32 of its rows and a run of pages of the sequence; threads hold 4 x 4 products of rows and
 * keys, then 4 rows by D / 16 channels. A sequence's pages are cut in at most 32 runs, by their
 * number alone; what the runs give is merged in their order by a second kernel. So a row's numbers
 * do not depend on the other sequences, and nothing depends on the order of execution.
 *
 * A key of the middle is met through the weighted queries, any other through the plain ones; both
 * products are made for a page only where the rows of a block see it in both ways. */
#include <math.h>

#include "cuda/ptx.cuh"
#include "cuda/ops.cuh"

enum {
  P = LK_CUDA_P,
  ROWS = 32, /* of a block */
  THREADS = 128,
  LANES = 16, /* threads that share rows: half a warp */
  PER = 4,    /* rows of a thread; keys of a thread, LANES apart */
  CHUNK = 8,  /* elements of 16 bytes */
  PAD = 4,    /* floats behind a row in shared memory */
  MAX_RUNS = 32,
  MIN_RUN = 4, /* pages */
  SUM_THREADS = 1024
};

static const uint32_t full_warp = 0xffffffffu;

/* What a row is to a key. */
enum { UNSEEN = 0, IN_FULL, WEIGHTED };

/* ---- runs of pages, and scratch ---- */

static __host__ __device__ __forceinline__ uint32_t run_pages(uint64_t n_pages) {
  const uint64_t n = (n_pages + MAX_RUNS - 1) / MAX_RUNS;
  return n < MIN_RUN ? (uint32_t)MIN_RUN : (uint32_t)n;
}
static __host__ __device__ __forceinline__ uint32_t n_runs(uint64_t n_pages) {
  const uint32_t per_run = run_pages(n_pages);
  return (uint32_t)((n_pages + per_run - 1) / per_run);
}
/* At least n_runs of as many pages or fewer. */
static __host__ __device__ __forceinline__ uint32_t most_runs(uint64_t n_pages) {
  const uint64_t n = (n_pages + MIN_RUN - 1) / MIN_RUN;
  return n < MAX_RUNS ? (uint32_t)n : (uint32_t)MAX_RUNS;
}

static __device__ __forceinline__ uint64_t group_pages(const lk_cuda_weighted_group &g) {
  return (g.first_pos + g.n_rows - 1) / P + 1;
}

/* Arrays in scratch, in floats. M = N * Hq. */
typedef struct areas {
  float *max, *sum, *o;             /* forward: [runs][M], [runs][M], [runs][M][D] */
  float *dq_full, *dq_lean, *dbias; /* backward: [runs][M][D] twice, [runs][M] */
  float *bias_sum, *products;       /* [M], [M][D] */
  float *own_p, *own_dx;            /* per group [Hq][n_rows][n_rows]: row, own key */
} areas;

static __host__ __device__ size_t lay_out(const lk_cuda_weighted &job, bool backward, areas *out) {
  const size_t runs = most_runs(job.max_pages), m = (size_t)job.n_rows * job.n_heads;
  const size_t d = job.head_dim, n_own = (size_t)job.n_own * job.n_heads;
  float *at = (float *)job.scratch;
  *out = areas{};
  if (!backward) {
    out->o = at;
    out->max = out->o + runs * m * d;
    out->sum = out->max + runs * m;
    return (size_t)(out->sum + runs * m - at);
  }
  out->dq_full = at;
  out->dq_lean = out->dq_full + runs * m * d;
  out->products = out->dq_lean + runs * m * d;
  out->dbias = out->products + m * d;
  out->bias_sum = out->dbias + runs * m;
  out->own_p = out->bias_sum + m;
  out->own_dx = out->own_p + n_own;
  return (size_t)(out->own_dx + n_own - at);
}

size_t lk_cuda_weighted_scratch_bytes(const lk_cuda_weighted *job, bool backward) {
  areas unused;
  lk_cuda_weighted sizes = *job;
  sizes.scratch = (void *)256; /* addresses are compared, not followed */
  return lay_out(sizes, backward, &unused) * sizeof(float);
}

/* ---- a block's rows ---- */

/* Of each row, in shared memory. */
typedef struct row_facts {
  int pos[ROWS], end[ROWS]; /* pos -1: no row; where its middle ends */
  float bias[ROWS];         /* of middle logits */
  float lse[ROWS], delta[ROWS];
} row_facts;

/* The block's place. */
typedef struct tile {
  const lk_cuda_weighted_group *group;
  const lk_page_entry *table;
  uint32_t h, per;              /* kv head; query heads of it */
  uint32_t first, n;            /* rows of the matrix: the first, and how many */
  int begin;                    /* of the middle */
  int first_end, last_end;      /* the middle's end as the first and the last row see it */
  int first_pos, last_pos;      /* of the first and of the last row */
  uint32_t first_page, n_pages; /* of the run, as far as a row sees */
  uint8_t kind;
} tile;

/* Row i of the block in q, out and so on. */
static __device__ __forceinline__ size_t row_index(const lk_cuda_weighted &job, const tile &t,
                                                   uint32_t i) {
  const uint32_t at = t.first + i;
  return (t.group->first_row + at / t.per) * job.n_heads + t.h * t.per + at % t.per;
}

/* Blocks: x = tile of rows + tiles * (kv head + Hk * group), y = run. False: nothing to do. */
static __device__ bool place(const lk_cuda_weighted &job, uint32_t n_tiles, tile *t) {
  const uint32_t rest = blockIdx.x / n_tiles;
  t->h = rest % job.n_kv_heads;
  t->group = job.groups + rest / job.n_kv_heads;
  t->per = job.n_heads / job.n_kv_heads;
  t->first = blockIdx.x % n_tiles * ROWS;
  const lk_cuda_weighted_group &g = *t->group;
  const uint32_t n_all = (uint32_t)g.n_rows * t->per;
  const uint64_t n_pages = group_pages(g);
  if (t->first >= n_all || blockIdx.y >= n_runs(n_pages)) return false;
  t->n = n_all - t->first < ROWS ? n_all - t->first : ROWS;
  const uint32_t first_row = t->first / t->per, last_row = (t->first + t->n - 1) / t->per;
  t->table = job.tables + g.table;
  t->begin = (int)g.middle_begin;
  t->first_end = (int)job.middle_end[g.first_row + first_row];
  t->last_end = (int)job.middle_end[g.first_row + last_row];
  t->first_pos = (int)(g.first_pos + first_row);
  t->last_pos = (int)(g.first_pos + last_row);
  t->kind = job.kind[t->h];
  const uint32_t per_run = run_pages(n_pages), seen = (uint32_t)t->last_pos / P + 1;
  t->first_page = blockIdx.y * per_run;
  t->n_pages = t->first_page >= seen ? 0 : seen - t->first_page;
  if (t->n_pages > per_run) t->n_pages = per_run;
  return true;
}

/* ---- shared memory ---- */

template <int D> struct shared_rows {
  float q[ROWS][D + PAD], lean[ROWS][D + PAD]; /* scaled by 1 / sqrt(D); and times the weights */
};

/* One head's segment of a page as it lies there, and a matrix of rows by keys. */
template <int D> struct shared_page {
  uint16_t k[P * D], v[P * D];
  float x[ROWS][P + PAD];
};

/* from[M][D] of the block's rows; zeros where there is no row. */
template <int D>
static __device__ __forceinline__ float4 load_quad(const lk_cuda_weighted &job, const tile &t,
                                                   const float *from, uint32_t row, uint32_t quad) {
  if (row >= t.n) return make_float4(0, 0, 0, 0);
  return ((const float4 *)(from + row_index(job, t, row) * D))[quad];
}

static __device__ __forceinline__ float4 times(float4 a, float4 b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

template <int D>
static __device__ void load_queries(const lk_cuda_weighted &job, const tile &t, float scale,
                                    shared_rows<D> *to) {
  const float4 *weight = (const float4 *)(job.weight + (size_t)t.h * D);
  for (uint32_t i = threadIdx.x; i < ROWS * (D / 4); i += THREADS) {
    const uint32_t row = i / (D / 4), quad = i % (D / 4);
    const float4 q =
        times(load_quad<D>(job, t, job.q, row, quad), make_float4(scale, scale, scale, scale));
    *(float4 *)&to->q[row][4 * quad] = q;
    *(float4 *)&to->lean[row][4 * quad] = times(q, weight[quad]);
  }
}

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(full_warp, x, distance);
  return x;
}

/* The mean key of a row's middle at channel c, for kind MEAN; 0 where there is no middle. */
template <int D>
static __device__ __forceinline__ float mean_key(const lk_cuda_weighted &job,
                                                 const lk_cuda_weighted_group &g, uint32_t h,
                                                 uint32_t end, uint32_t c) {
  const uint32_t n = end - (uint32_t)g.middle_begin;
  if (n == 0) return 0;
  return g.sums[((size_t)(n / P) * job.n_kv_heads + h) * 2 * D + c] * (1.0f / (float)n);
}

/* Positions, and the bias: the mean key through what the weights take away. Behind a barrier after
 * load_queries; a warp takes every fourth row. */
template <int D>
static __device__ void find_facts(const lk_cuda_weighted &job, const tile &t,
                                  const shared_rows<D> &rows, row_facts *to) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = threadIdx.x / 32; i < ROWS; i += THREADS / 32) {
    const bool is_there = i < t.n;
    const uint32_t r = is_there ? (t.first + i) / t.per : 0;
    const uint32_t end = job.middle_end[t.group->first_row + r];
    float bias = 0;
    if (t.kind == LK_CUDA_WEIGHTED_MEAN && is_there)
      for (uint32_t c = lane; c < D; c += 32)
        bias = fmaf(rows.q[i][c] - rows.lean[i][c], mean_key<D>(job, *t.group, t.h, end, c), bias);
    bias = warp_sum(bias);
    if (lane == 0) {
      to->pos[i] = is_there ? (int)(t.group->first_pos + r) : -1;
      to->end[i] = (int)end;
      to->bias[i] = bias;
    }
  }
}

/* Copies this head's segment of page i. Keys that no row of the block sees are not read but become
 * zeros: they may be anything, and 0 * NaN is NaN. */
template <int D> static __device__ void load_page(const tile &t, uint32_t i, shared_page<D> *to) {
  const lk_page_entry e = t.table[i];
  const lk_cuda_weighted_group &g = *t.group;
  const unsigned char *from = g.arena[e.kind] + (size_t)e.page * g.page_bytes[e.kind] +
                              (size_t)t.h * P * 2 * D * sizeof(uint16_t);
  const uint32_t k = lk_shared_address(to->k);
  const int n_keys = t.last_pos + 1 - (int)(i * P);
#pragma unroll 4
  for (uint32_t at = threadIdx.x; at < 2 * P * D / CHUNK; at += THREADS) {
    const int key = (int)(at / (D / CHUNK) % P);
    lk_copy16_or_zero(k + at * 16, from + (size_t)at * 16, key < n_keys);
  }
  lk_copies_wait_all();
}

/* ---- products ---- */

template <int N>
static __device__ __forceinline__ void load_bf16(const uint16_t *from, float to[N]) {
  uint32_t pairs[N / 2];
  if (N == 8) {
    const uint4 x = *(const uint4 *)from;
    pairs[0] = x.x, pairs[1] = x.y, pairs[N / 2 - 2] = x.z, pairs[N / 2 - 1] = x.w;
  } else {
    const uint2 x = *(const uint2 *)from;
    pairs[0] = x.x, pairs[1] = x.y;
  }
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    to[2 * i] = lk_bf16_low(pairs[i]);
    to[2 * i + 1] = lk_bf16_high(pairs[i]);
  }
}

/* s[i][j] = a of the thread's row i . b of its key j, channels ascending. Keys are LANES apart: all
 * have the same place among 8, and so the same permutation of chunks. */
template <int D>
static __device__ __forceinline__ void dot_rows(const float (*a)[D + PAD], const uint16_t *b,
                                                float s[PER][PER]) {
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
#pragma unroll
  for (int i = 0; i < PER; i++)
#pragma unroll
    for (int j = 0; j < PER; j++) s[i][j] = 0;
#pragma unroll 2
  for (uint32_t c = 0; c < D / CHUNK; c++) {
    float key[PER][CHUNK];
#pragma unroll
    for (int j = 0; j < PER; j++)
      load_bf16<CHUNK>(b + (lane + j * LANES) * D + (c ^ (lane & 7)) * CHUNK, key[j]);
#pragma unroll
    for (int i = 0; i < PER; i++) {
      const float4 low = *(const float4 *)&a[first + i][c * CHUNK];
      const float4 high = *(const float4 *)&a[first + i][c * CHUNK + 4];
      const float row[CHUNK] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int j = 0; j < PER; j++)
#pragma unroll
        for (int e = 0; e < CHUNK; e++) s[i][j] = fmaf(row[e], key[j][e], s[i][j]);
    }
  }
}

/* o[i][channel of the thread] += x[row i] b, keys ascending. A thread reads only what its own half
 * of the warp has written to x. */
template <int D>
static __device__ __forceinline__ void add_keys(const float (*x)[P + PAD], const uint16_t *b,
                                                float o[PER][D / LANES]) {
  enum { N = D / LANES };
  const uint32_t c = threadIdx.x % LANES * N, first = threadIdx.x / LANES * PER;
#pragma unroll 2
  for (uint32_t key = 0; key < P; key += 4) {
    float factor[PER][4];
#pragma unroll
    for (int i = 0; i < PER; i++) {
      const float4 f = *(const float4 *)&x[first + i][key];
      factor[i][0] = f.x, factor[i][1] = f.y, factor[i][2] = f.z, factor[i][3] = f.w;
    }
#pragma unroll
    for (uint32_t e = 0; e < 4; e++) {
      const uint32_t token = key + e;
      float value[N];
      load_bf16<N>(b + token * D + ((c / CHUNK) ^ (token & 7)) * CHUNK + c % CHUNK, value);
#pragma unroll
      for (int i = 0; i < PER; i++)
#pragma unroll
        for (int n = 0; n < N; n++) o[i][n] = fmaf(factor[i][e], value[n], o[i][n]);
    }
  }
}

/* Over the lanes that share rows. */
static __device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(full_warp, x, distance);
  return x;
}
static __device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2)
    x = fmaxf(x, __shfl_xor_sync(full_warp, x, distance));
  return x;
}

/* ---- logits of a page ---- */

/* In which ways the block's rows meet keys of a page that begins at pos. */
typedef struct meeting {
  bool in_full, weighted;
} meeting;

static __device__ __forceinline__ meeting meeting_of(const tile &t, int pos) {
  const bool all_middle = pos >= t.begin && pos + P <= t.first_end;
  const bool some_middle = pos + P > t.begin && pos < t.last_end && t.begin < t.last_end;
  return meeting{!all_middle, some_middle && t.kind != LK_CUDA_WEIGHTED_ABSENT};
}

static __device__ __forceinline__ int way_of(const tile &t, int row_pos, int row_end, int key_pos) {
  if (key_pos > row_pos) return UNSEEN;
  if (key_pos < t.begin || key_pos >= row_end) return IN_FULL;
  return t.kind == LK_CUDA_WEIGHTED_ABSENT ? UNSEEN : WEIGHTED;
}

/* The thread's logits and, two bits each, in which way the keys are seen. -inf: not. */
template <int D>
static __device__ __forceinline__ uint32_t logits(const tile &t, const shared_rows<D> &rows,
                                                  const row_facts &facts,
                                                  const shared_page<D> &page, int pos, meeting m,
                                                  float s[PER][PER]) {
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  uint32_t ways = 0;
  dot_rows<D>(m.in_full ? rows.q : rows.lean, page.k, s);
  float weighted[PER][PER];
  if (m.in_full && m.weighted) dot_rows<D>(rows.lean, page.k, weighted);
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int row_pos = facts.pos[first + i], row_end = facts.end[first + i];
    const float bias = facts.bias[first + i];
#pragma unroll
    for (int j = 0; j < PER; j++) {
      const int way = way_of(t, row_pos, row_end, pos + (int)lane + j * LANES);
      if (way == WEIGHTED) s[i][j] = (m.in_full ? weighted[i][j] : s[i][j]) + bias;
      if (way == UNSEEN) s[i][j] = -INFINITY;
      ways |= (uint32_t)way << (2 * (i * PER + j));
    }
  }
  return ways;
}

static __device__ __forceinline__ int nth_way(uint32_t ways, int i, int j) {
  return (int)(ways >> (2 * (i * PER + j)) & 3);
}

/* ---- forward ---- */

template <int D>
static __global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ lk_cuda_weighted job, uint32_t n_tiles, float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ row_facts facts;
  __shared__ tile t;
  __shared__ bool is_mine;
  enum { N = D / LANES };
  shared_rows<D> &rows = *(shared_rows<D> *)shared;
  shared_page<D> &page = *(shared_page<D> *)(shared + sizeof rows);
  if (threadIdx.x == 0) is_mine = place(job, n_tiles, &t);
  __syncthreads();
  if (!is_mine) return;
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  load_queries<D>(job, t, scale, &rows);
  __syncthreads();
  find_facts<D>(job, t, rows, &facts);
  float max[PER], sum[PER], o[PER][N];
#pragma unroll
  for (int i = 0; i < PER; i++) {
    max[i] = -INFINITY;
    sum[i] = 0;
#pragma unroll
    for (int n = 0; n < N; n++) o[i][n] = 0;
  }
  for (uint32_t p = t.first_page; p < t.first_page + t.n_pages; p++) {
    const int pos = (int)(p * P);
    const meeting m = meeting_of(t, pos);
    if (!m.in_full && !m.weighted) continue;
    __syncthreads(); /* facts are there; nobody reads the page before */
    load_page<D>(t, p, &page);
    __syncthreads();
    float s[PER][PER];
    logits<D>(t, rows, facts, page, pos, m, s);
#pragma unroll
    for (int i = 0; i < PER; i++) {
      const float largest = lanes_max(fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3])));
      const float now = fmaxf(max[i], largest);
      /* Nothing seen yet: exp(-inf - 0) = 0, where -inf - -inf would be NaN. */
      const float base = now == -INFINITY ? 0.0f : now, fix = expf(max[i] - base);
      float added = 0;
#pragma unroll
      for (int j = 0; j < PER; j++) {
        const float e = expf(s[i][j] - base);
        added += e;
        page.x[first + i][lane + j * LANES] = e;
      }
      max[i] = now;
      sum[i] = fmaf(sum[i], fix, added);
#pragma unroll
      for (int n = 0; n < N; n++) o[i][n] *= fix;
    }
    __syncwarp();
    add_keys<D>(page.x, page.v, o);
  }
  areas a;
  lay_out(job, false, &a);
  const size_t m_all = (size_t)job.n_rows * job.n_heads;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const float all = lanes_sum(sum[i]);
    if (first + i >= t.n) continue;
    const size_t at = blockIdx.y * m_all + row_index(job, t, first + i);
    if (lane == 0) {
      a.max[at] = max[i];
      a.sum[at] = all;
    }
#pragma unroll
    for (int n = 0; n < N; n += 4)
      *(float4 *)(a.o + at * D + lane * N + n) =
          make_float4(o[i][n], o[i][n + 1], o[i][n + 2], o[i][n + 3]);
  }
}

/* Blocks: x = row of a group times Hq + head, y = group. A thread takes a channel. */
static __global__ void merge_kernel(const __grid_constant__ lk_cuda_weighted job) {
  const lk_cuda_weighted_group &g = job.groups[blockIdx.y];
  const uint32_t d = job.head_dim, c = threadIdx.x;
  if (blockIdx.x / job.n_heads >= g.n_rows) return;
  const size_t m_all = (size_t)job.n_rows * job.n_heads;
  const size_t row = (size_t)g.first_row * job.n_heads + blockIdx.x;
  const uint32_t runs = n_runs(group_pages(g));
  areas a;
  lay_out(job, false, &a);
  float max = -INFINITY, sum = 0, o = 0;
  for (uint32_t r = 0; r < runs; r++) max = fmaxf(max, a.max[r * m_all + row]);
  for (uint32_t r = 0; r < runs; r++) {
    const size_t at = r * m_all + row;
    if (a.max[at] == -INFINITY) continue;
    const float factor = expf(a.max[at] - max);
    sum = fmaf(a.sum[at], factor, sum);
    o = fmaf(a.o[at * d + c], factor, o);
  }
  job.out[row * d + c] = sum > 0 ? o / sum : 0;
  if (c == 0) job.lse[row] = max + logf(sum);
}

/* ---- backward: dq and the gradients of weights ---- */

/* delta = dout . out. A warp takes every fourth row. */
template <int D>
static __device__ void load_gradients(const lk_cuda_weighted &job, const tile &t,
                                      float (*dout)[D + PAD], row_facts *facts) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = threadIdx.x / 32; i < ROWS; i += THREADS / 32) {
    float delta = 0;
    for (uint32_t quad = lane; quad < D / 4; quad += 32) {
      const float4 d = load_quad<D>(job, t, job.dout, i, quad);
      const float4 o = load_quad<D>(job, t, job.out, i, quad);
      *(float4 *)&dout[i][4 * quad] = d;
      delta = fmaf(d.w, o.w, fmaf(d.z, o.z, fmaf(d.y, o.y, fmaf(d.x, o.x, delta))));
    }
    delta = warp_sum(delta);
    if (lane == 0) {
      facts->delta[i] = delta;
      facts->lse[i] = i < t.n ? job.lse[row_index(job, t, i)] : 0;
    }
  }
}

/* p = exp(logit - lse) and s = the gradient of the logit. */
static __device__ __forceinline__ void gradients(const row_facts &facts, uint32_t ways,
                                                 const float dp[PER][PER], float s[PER][PER],
                                                 float p[PER][PER]) {
  const uint32_t first = threadIdx.x / LANES * PER;
#pragma unroll
  for (int i = 0; i < PER; i++)
#pragma unroll
    for (int j = 0; j < PER; j++) {
      const bool seen = nth_way(ways, i, j) != UNSEEN;
      p[i][j] = seen ? expf(s[i][j] - facts.lse[first + i]) : 0.0f;
      s[i][j] = seen ? p[i][j] * (dp[i][j] - facts.delta[first + i]) : 0.0f;
    }
}

/* Keeps p and dx of the rows' own keys for own_kernel. */
static __device__ __forceinline__ void keep_own(const lk_cuda_weighted &job, const tile &t,
                                                const areas &a, int pos, const float p[PER][PER],
                                                const float dx[PER][PER]) {
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  const uint64_t n = t.group->n_rows;
  const int first_pos = (int)t.group->first_pos;
  if (pos + P <= first_pos) return;
#pragma unroll
  for (int i = 0; i < PER; i++)
#pragma unroll
    for (int j = 0; j < PER; j++) {
      const int key = pos + (int)lane + j * LANES - first_pos;
      if (first + i >= t.n || key < 0 || key >= (int)n) continue;
      const uint32_t row = t.first + first + i, head = t.h * t.per + row % t.per;
      const size_t at = (size_t)t.group->own_before * job.n_heads +
                        ((size_t)head * n + row / t.per) * n + (uint32_t)key;
      a.own_p[at] = p[i][j];
      a.own_dx[at] = dx[i][j];
    }
}

/* dq += dx K over the keys seen in this way. */
template <int D>
static __device__ __forceinline__ void add_seen(uint32_t ways, int way, const float dx[PER][PER],
                                                shared_page<D> &page, float dq[PER][D / LANES]) {
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  __syncwarp(); /* x is read no more */
#pragma unroll
  for (int i = 0; i < PER; i++)
#pragma unroll
    for (int j = 0; j < PER; j++)
      page.x[first + i][lane + j * LANES] = nth_way(ways, i, j) == way ? dx[i][j] : 0.0f;
  __syncwarp();
  add_keys<D>(page.x, page.k, dq);
}

template <int D>
static __device__ __forceinline__ void store_dq(const lk_cuda_weighted &job, const tile &t,
                                                const float dq[PER][D / LANES], float *to) {
  enum { N = D / LANES };
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  const size_t m_all = (size_t)job.n_rows * job.n_heads;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    if (first + i >= t.n) continue;
    const size_t at = blockIdx.y * m_all + row_index(job, t, first + i);
#pragma unroll
    for (int n = 0; n < N; n += 4)
      *(float4 *)(to + at * D + lane * N + n) =
          make_float4(dq[i][n], dq[i][n + 1], dq[i][n + 2], dq[i][n + 3]);
  }
}

template <int D>
static __global__ void __launch_bounds__(THREADS, 2)
    backward_kernel(const __grid_constant__ lk_cuda_weighted job, uint32_t n_tiles, float scale) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ row_facts facts;
  __shared__ tile t;
  __shared__ bool is_mine;
  enum { N = D / LANES };
  shared_rows<D> &rows = *(shared_rows<D> *)shared;
  shared_page<D> &page = *(shared_page<D> *)(shared + sizeof rows);
  float(*dout)[D + PAD] = (float(*)[D + PAD])(shared + sizeof rows + sizeof page);
  if (threadIdx.x == 0) is_mine = place(job, n_tiles, &t);
  __syncthreads();
  if (!is_mine) return;
  const uint32_t lane = threadIdx.x % LANES, first = threadIdx.x / LANES * PER;
  load_queries<D>(job, t, scale, &rows);
  load_gradients<D>(job, t, dout, &facts);
  __syncthreads();
  find_facts<D>(job, t, rows, &facts);
  areas a;
  lay_out(job, true, &a);
  float full[PER][N], lean[PER][N], dbias[PER];
#pragma unroll
  for (int i = 0; i < PER; i++) {
    dbias[i] = 0;
#pragma unroll
    for (int n = 0; n < N; n++) full[i][n] = lean[i][n] = 0;
  }
  for (uint32_t p = t.first_page; p < t.first_page + t.n_pages; p++) {
    const int pos = (int)(p * P);
    const meeting m = meeting_of(t, pos);
    float s[PER][PER] = {}, dp[PER][PER] = {}, prob[PER][PER];
    uint32_t ways = 0;
    if (m.in_full || m.weighted) {
      __syncthreads(); /* facts are there; nobody reads the page before */
      load_page<D>(t, p, &page);
      __syncthreads();
      ways = logits<D>(t, rows, facts, page, pos, m, s);
      dot_rows<D>(dout, page.v, dp);
    }
    gradients(facts, ways, dp, s, prob);
    keep_own(job, t, a, pos, prob, s);
    if (m.in_full) add_seen<D>(ways, IN_FULL, s, page, full);
    if (m.weighted) add_seen<D>(ways, WEIGHTED, s, page, lean);
#pragma unroll
    for (int i = 0; i < PER; i++)
#pragma unroll
      for (int j = 0; j < PER; j++)
        if (nth_way(ways, i, j) == WEIGHTED) dbias[i] += s[i][j];
  }
  store_dq<D>(job, t, full, a.dq_full);
  store_dq<D>(job, t, lean, a.dq_lean);
  const size_t m_all = (size_t)job.n_rows * job.n_heads;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const float all = lanes_sum(dbias[i]);
    if (lane == 0 && first + i < t.n)
      a.dbias[blockIdx.y * m_all + row_index(job, t, first + i)] = all;
  }
}

/* dq of a row, and what it adds to dweight. As merge_kernel. */
template <int D>
static __global__ void merge_backward_kernel(const __grid_constant__ lk_cuda_weighted job,
                                             float scale) {
  const lk_cuda_weighted_group &g = job.groups[blockIdx.y];
  const uint32_t c = threadIdx.x, head = blockIdx.x % job.n_heads, r = blockIdx.x / job.n_heads;
  if (r >= g.n_rows) return;
  const size_t m_all = (size_t)job.n_rows * job.n_heads;
  const size_t row = (size_t)g.first_row * job.n_heads + blockIdx.x;
  const uint32_t runs = n_runs(group_pages(g)), h = head / (job.n_heads / job.n_kv_heads);
  areas a;
  lay_out(job, true, &a);
  float full = 0, lean = 0, dbias = 0;
#pragma unroll 4
  for (uint32_t i = 0; i < runs; i++) {
    full += a.dq_full[(i * m_all + row) * D + c];
    lean += a.dq_lean[(i * m_all + row) * D + c];
    dbias += a.dbias[i * m_all + row];
  }
  const float weight = job.weight[(size_t)h * D + c];
  const float from_mean = job.kind[h] == LK_CUDA_WEIGHTED_MEAN
                              ? dbias * mean_key<D>(job, g, h, job.middle_end[g.first_row + r], c)
                              : 0;
  job.dq[row * D + c] = scale * (full + weight * lean + (1 - weight) * from_mean);
  a.products[row * D + c] = job.q[row * D + c] * scale * (lean - from_mean);
  if (c == 0) a.bias_sum[row] = dbias;
}

/* dweight += the sum over rows. A block takes a kv head; its threads every (SUM_THREADS / D)th row
 * of a channel, and what they have is added in order. */
template <int D>
static __global__ void __launch_bounds__(SUM_THREADS)
    dweight_kernel(const __grid_constant__ lk_cuda_weighted job) {
  enum { PARTS = SUM_THREADS / D };
  __shared__ double parts[PARTS][D];
  const uint32_t h = blockIdx.x, c = threadIdx.x % D, part = threadIdx.x / D;
  const uint32_t per = job.n_heads / job.n_kv_heads;
  const size_t n = (size_t)job.n_rows * per;
  areas a;
  lay_out(job, true, &a);
  double sum = 0;
#pragma unroll 8
  for (size_t i = part; i < n; i += PARTS)
    sum += (double)a.products[(i / per * job.n_heads + h * per + i % per) * D + c];
  parts[part][c] = sum;
  __syncthreads();
  if (part > 0 || job.kind[h] == LK_CUDA_WEIGHTED_ABSENT) return;
  for (uint32_t i = 1; i < PARTS; i++) sum += parts[i][c];
  job.dweight[(size_t)h * D + c] += sum;
}

/* ---- backward: the rows' own K and V ---- */

/* Blocks: x = own key of a group, y = kv head, z = group. A thread takes a channel. Rows from the
 * key's own on see it; those whose middle it is part of see it in the mean, too, in equal shares.
 */
template <int D>
static __global__ void own_kernel(const __grid_constant__ lk_cuda_weighted job, float scale) {
  const lk_cuda_weighted_group &g = job.groups[blockIdx.z];
  const uint32_t key = blockIdx.x, h = blockIdx.y, c = threadIdx.x;
  if (key >= g.n_rows) return;
  const uint32_t per = job.n_heads / job.n_kv_heads, n = (uint32_t)g.n_rows;
  const uint32_t pos = (uint32_t)g.first_pos + key;
  const bool has_mean = job.kind[h] == LK_CUDA_WEIGHTED_MEAN;
  const float weight = job.weight[(size_t)h * D + c];
  areas a;
  lay_out(job, true, &a);
  const size_t own = (size_t)g.own_before * job.n_heads + (size_t)h * per * n * n + key;
  float dk = 0, dv = 0;
  for (uint32_t r = key; r < n; r++) {
    const uint32_t end = job.middle_end[g.first_row + r];
    const bool in_middle = pos >= g.middle_begin && pos < end;
    const float way = in_middle ? weight : 1.0f;
    const float share =
        in_middle && has_mean ? (1 - weight) / (float)(end - (uint32_t)g.middle_begin) : 0.0f;
#pragma unroll 4
    for (uint32_t i = 0; i < per; i++) {
      const size_t at = own + ((size_t)i * n + r) * n;
      const size_t row = (g.first_row + r) * job.n_heads + h * per + i;
      const float q = job.q[row * D + c] * scale;
      float dx = a.own_dx[at] * way;
      if (share != 0) dx = fmaf(a.bias_sum[row], share, dx);
      dk = fmaf(dx, q, dk);
      dv = fmaf(a.own_p[at], job.dout[row * D + c], dv);
    }
  }
  const size_t to = ((g.first_row + key) * job.n_kv_heads + h) * D + c;
  job.dk[to] = dk;
  job.dv[to] = dv;
}

/* ---- launches ---- */

static bool allow_shared(lk_cuda_device *dev, const void *kernel, size_t n_bytes,
                         const char *what) {
  const cudaError_t code =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, what);
  return code == cudaSuccess;
}

static dim3 grid_of(const lk_cuda_weighted *job, uint32_t *n_tiles) {
  *n_tiles = lk_cuda_blocks(job->max_rows * (job->n_heads / job->n_kv_heads), ROWS);
  return dim3(*n_tiles * job->n_kv_heads * job->n_groups, most_runs(job->max_pages));
}

template <int D> static void forward(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  const float scale = (float)(1.0 / sqrt((double)D));
  const size_t shared_bytes = sizeof(shared_rows<D>) + sizeof(shared_page<D>);
  uint32_t n_tiles;
  const dim3 grid = grid_of(job, &n_tiles);
  if (!allow_shared(dev, (const void *)forward_kernel<D>, shared_bytes, "weighted")) return;
  forward_kernel<D><<<grid, THREADS, shared_bytes, dev->stream>>>(*job, n_tiles, scale);
  lk_cuda_launched(dev, "weighted");
  const dim3 rows((unsigned)(job->max_rows * job->n_heads), job->n_groups);
  merge_kernel<<<rows, D, 0, dev->stream>>>(*job);
  lk_cuda_launched(dev, "weighted (merge)");
}

template <int D> static void backward(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  const float scale = (float)(1.0 / sqrt((double)D));
  const size_t shared_bytes =
      sizeof(shared_rows<D>) + sizeof(shared_page<D>) + sizeof(float) * ROWS * (D + PAD);
  uint32_t n_tiles;
  const dim3 grid = grid_of(job, &n_tiles);
  if (!allow_shared(dev, (const void *)backward_kernel<D>, shared_bytes, "weighted_backward"))
    return;
  backward_kernel<D><<<grid, THREADS, shared_bytes, dev->stream>>>(*job, n_tiles, scale);
  lk_cuda_launched(dev, "weighted_backward");
  const dim3 rows((unsigned)(job->max_rows * job->n_heads), job->n_groups);
  merge_backward_kernel<D><<<rows, D, 0, dev->stream>>>(*job, scale);
  lk_cuda_launched(dev, "weighted_backward (merge)");
  dweight_kernel<D><<<job->n_kv_heads, SUM_THREADS, 0, dev->stream>>>(*job);
  lk_cuda_launched(dev, "weighted_backward (weights)");
  const dim3 keys((unsigned)job->max_rows, job->n_kv_heads, job->n_groups);
  own_kernel<D><<<keys, D, 0, dev->stream>>>(*job, scale);
  lk_cuda_launched(dev, "weighted_backward (own)");
}

void lk_cuda_weighted_forward(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  if (job->n_groups == 0 || job->max_rows == 0) return;
  if (job->head_dim == 64)
    forward<64>(dev, job);
  else
    forward<128>(dev, job);
}

void lk_cuda_weighted_backward(lk_cuda_device *dev, const lk_cuda_weighted *job) {
  if (job->n_groups == 0 || job->max_rows == 0) return;
  if (job->head_dim == 64)
    backward<64>(dev, job);
  else
    backward<128>(dev, job);
}
