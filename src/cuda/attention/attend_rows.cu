/* Attention of many rows: softmax online over pages (Milakov and Gimelshein 2018; tiling as Dao,
 * "FlashAttention-2", 2023).
 *
 * A block takes 128 rows of a matrix of queries: up to 128 / G tokens by the G query heads of one
 * kv head, so that K and V are read once for all of them. Four warps have 32 rows each. Lean pages
 * come first, with queries gathered by the head's channels, then the wide ones. A page's segment
 * lies in shared memory as in global memory; the next one is on its way meanwhile. A row's numbers
 * do not depend on its place in a block: what it does not see adds exact zeros. */
#include <math.h>

#include "cuda/attention/element.cuh"
#include "cuda/attention/mean.cuh"
#include "cuda/ptx.cuh"
#include "cuda/ops.cuh"

enum {
  P = LK_CUDA_P,
  TILE_ROWS = 128,
  WARP_ROWS = 32,
  THREADS = 128,
  ROW_TILES = WARP_ROWS / 16, /* of a warp */
  KEY_TILES = P / 8,
  CHUNK = 8, /* elements of 16 bytes */
  CHUNK_BYTES = 16,
  N_SLOTS = 2,
  MAX_GRID = 0x7fffffff
};

static const uint32_t full_warp = 0xffffffffu;

/* The rows of a block, and what they see; in shared memory, since registers are short. */
typedef struct tile {
  const lk_page_entry *table;
  uint64_t first_row; /* of q and out */
  int64_t first_pos, last_pos;
  uint32_t n_tokens, per;          /* per: query heads of a kv head */
  uint32_t h, n_lean, lean_offset; /* kv head; its padded channels, its place in lean pages */
  uint32_t middle_begin, n_middle; /* pages */
  uint32_t q_shared, slots;        /* addresses in shared memory */
  const float *sums;               /* [2][D] over the middle, where its mean stands in; or NULL */
  uint64_t n_means;                /* tokens that it is the mean of */
  float mean_logits[TILE_ROWS];    /* of each row, not scaled */
} tile;

/* What a warp knows of its 32 rows. Of a 16-row tile a lane holds rows l / 4 and l / 4 + 8. sum is
 * over the lane's own keys. */
template <int D> struct rows_state {
  float o[ROW_TILES][D / 8][4];
  float max[ROW_TILES][2], sum[ROW_TILES][2];
};

/* ---- shared memory ---- */

/* In rows that begin at a multiple of 8, what lk_cuda_swizzle permutes chunks with. */
static __device__ __forceinline__ uint32_t swizzle_of(uint32_t row, uint32_t n_chunks) {
  return lk_cuda_swizzle(row & 7, 0, n_chunks);
}

/* The block's queries as elements [128][n], rows token by token, in the order of pages' K; zeros
 * where there is no token or channel. */
template <int D, bool LEAN>
static __device__ void load_queries(const lk_cuda_attend_rows &job, const tile &t) {
  const uint32_t n_chunks = LEAN ? t.n_lean / CHUNK : D / CHUNK;
  const uint16_t *channels = job.view.channels + (size_t)t.h * D;
  const uint32_t n_kept = LEAN ? job.view.heads[t.h].n_kept : D;
  for (uint32_t i = threadIdx.x; i < TILE_ROWS * n_chunks; i += THREADS) {
    const uint32_t row = i / n_chunks, c = i % n_chunks, token = row / t.per;
    uint4 x = make_uint4(0, 0, 0, 0);
    if (token < t.n_tokens) {
      const float *q =
          job.q + ((t.first_row + token) * job.view.n_heads + t.h * t.per + row % t.per) * D;
      if (LEAN) {
        float y[CHUNK];
#pragma unroll
        for (uint32_t j = 0; j < CHUNK; j++)
          y[j] = c * CHUNK + j < n_kept ? q[channels[c * CHUNK + j]] : 0.0f;
        x = make_uint4(lk_pair_elements(y[0], y[1]), lk_pair_elements(y[2], y[3]),
                       lk_pair_elements(y[4], y[5]), lk_pair_elements(y[6], y[7]));
      } else {
        x = lk_chunk_elements(q + c * CHUNK);
      }
    }
    lk_store16(t.q_shared + (row * n_chunks + lk_cuda_swizzle(row, c, n_chunks)) * CHUNK_BYTES, x);
  }
}

/* Begins to copy this head's segment of a page. Keys that no row of the tile sees are not read but
 * become zeros: they may be anything, and 0 * NaN is NaN. */
template <int D, bool LEAN>
static __device__ __forceinline__ void fetch_page(const lk_cuda_attend_rows &job, const tile &t,
                                                  lk_page_entry e, uint32_t page, uint32_t to) {
  const lk_cuda_view &view = job.view;
  const uint32_t n = LEAN ? t.n_lean : D;
  const uint32_t k_chunks = P / CHUNK * n, n_chunks = k_chunks + P / CHUNK * D;
  const bool stage = e.kind == LK_PAGE_STAGE;
  const unsigned char *arena = LEAN    ? view.arena[LK_PAGE_LEAN]
                               : stage ? view.arena[LK_PAGE_STAGE]
                                       : view.arena[LK_PAGE_WIDE];
  const size_t page_bytes = LEAN    ? view.page_bytes[LK_PAGE_LEAN]
                            : stage ? view.page_bytes[LK_PAGE_STAGE]
                                    : view.page_bytes[LK_PAGE_WIDE];
  const size_t offset = LEAN ? t.lean_offset : (size_t)t.h * P * 2 * D * sizeof(uint16_t);
  const unsigned char *from = arena + e.page * page_bytes + offset + threadIdx.x * CHUNK_BYTES;
  to += threadIdx.x * CHUNK_BYTES;
  const int64_t n_keys = t.last_pos + 1 - (int64_t)page * P;
  if (n_keys >= P) {
#pragma unroll 16
    for (uint32_t i = threadIdx.x; i < n_chunks; i += THREADS) {
      lk_copy16_or_zero(to, from, true);
      to += THREADS * CHUNK_BYTES;
      from += THREADS * CHUNK_BYTES;
    }
    return;
  }
  for (uint32_t i = threadIdx.x; i < n_chunks; i += THREADS) {
    const uint32_t key = i < k_chunks ? i / (n / CHUNK) : (i - k_chunks) / (D / CHUNK);
    lk_copy16_or_zero(to, from, key < n_keys);
    to += THREADS * CHUNK_BYTES;
    from += THREADS * CHUNK_BYTES;
  }
}

/* ---- one page ---- */

/* s[row tile][key tile] = Q K^T over n channels. */
static __device__ __forceinline__ void logits(uint32_t q, uint32_t k, uint32_t n,
                                              float s[ROW_TILES][KEY_TILES][4]) {
  const uint32_t lane = lk_lane(), row_bytes = n * 2;
  const uint32_t swizzle = swizzle_of(lane, n / CHUNK);
  /* Of Q lanes 16-31 name the second 8 columns. Of K lanes 8-15 and 24-31 do, and 16-31 name the
   * second 8 keys. */
  q += (threadIdx.x / 32 * WARP_ROWS + lane % 16) * row_bytes;
  k += (lane / 16 * 8 + lane % 8) * row_bytes;
  const uint32_t q_chunk = ((lane / 16) ^ swizzle) * CHUNK_BYTES;
  const uint32_t k_chunk = ((lane / 8 % 2) ^ swizzle) * CHUNK_BYTES;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[i][j][e] = 0;
#pragma unroll 4
  for (uint32_t c = 0; c < n * 2; c += 2 * CHUNK_BYTES) {
    uint32_t a[ROW_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) lk_ldmatrix(q + i * 16 * row_bytes + (c ^ q_chunk), a[i]);
#pragma unroll
    for (int j = 0; j < KEY_TILES; j += 2) {
      uint32_t b[4];
      lk_ldmatrix(k + j * 8 * row_bytes + (c ^ k_chunk), b);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        lk_mma_elements(s[i][j], a[i], b[0], b[1]);
        lk_mma_elements(s[i][j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

/* Keys behind a row's position become -inf. ahead: the position of the tile's first row less that
 * of the page's first key. */
static __device__ __forceinline__ void mask_logits(const tile &t, int ahead,
                                                   float s[ROW_TILES][KEY_TILES][4]) {
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * WARP_ROWS;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t row = warp_row + i * 16 + half * 8 + lane / 4;
      const int last = ahead + (int)(row / t.per) - 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          if (j * 8 + e > last) s[i][j][2 * half + e] = -INFINITY;
    }
}

/* p = exp(logit - maximum so far), shifted, as elements; what was summed before is scaled to the
 * new maximum. The accumulators of two key tiles are, as they stand, an operand of 16 keys: p[row
 * tile][16 keys]. scale: log2(e) / sqrt(D). */
template <int D>
static __device__ __forceinline__ void softmax(float scale, const float s[ROW_TILES][KEY_TILES][4],
                                               rows_state<D> &state,
                                               uint32_t p[ROW_TILES][KEY_TILES / 2][4]) {
  float fix[ROW_TILES][2];
  bool changed = false;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float max = state.max[i][half];
#pragma unroll
      for (int j = 0; j < KEY_TILES; j++)
        max = fmaxf(max, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
      max = fmaxf(max, __shfl_xor_sync(full_warp, max, 1));
      max = fmaxf(max, __shfl_xor_sync(full_warp, max, 2));
      /* Nothing seen yet: exp2(-inf - 0) = 0, where -inf - -inf would be NaN. */
      const float base = max == -INFINITY ? 0.0f : __fmul_rn(max, scale);
      /* Not fused: exactly 1 where the maximum stays, whatever the warp's other rows do. */
      fix[i][half] = lk_exp2(__fmul_rn(state.max[i][half], scale) - base);
      changed |= max != state.max[i][half];
      state.max[i][half] = max;
      const float from = base - LK_PROBABILITY_SHIFT;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < KEY_TILES; j++) {
        const float first = lk_exp2(fmaf(s[i][j][2 * half], scale, -from));
        const float second = lk_exp2(fmaf(s[i][j][2 * half + 1], scale, -from));
        sum += first + second;
        p[i][j / 2][j % 2 * 2 + half] = lk_pack_elements(first, second);
      }
      state.sum[i][half] = fmaf(state.sum[i][half], fix[i][half], sum);
    }
  if (!__any_sync(full_warp, changed)) return;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) state.o[i][j][e] *= fix[i][e / 2];
}

/* o += P V. */
template <int D>
static __device__ __forceinline__ void
add_values(uint32_t v, const uint32_t p[ROW_TILES][KEY_TILES / 2][4], rows_state<D> &state) {
  const uint32_t lane = lk_lane(), row_bytes = D * 2;
  /* Lanes 8-15 and 24-31 name the second 8 keys, 16-31 the second 8 channels. */
  v += lane % 16 * row_bytes;
  const uint32_t v_chunk = ((lane / 16) ^ swizzle_of(lane, D / CHUNK)) * CHUNK_BYTES;
#pragma unroll
  for (int k = 0; k < KEY_TILES / 2; k++)
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      lk_ldmatrix_trans(v + k * 16 * row_bytes + ((uint32_t)(j * CHUNK_BYTES) ^ v_chunk), b);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        lk_mma_elements(state.o[i][j], p[i][k], b[0], b[1]);
        lk_mma_elements(state.o[i][j + 1], p[i][k], b[2], b[3]);
      }
    }
}

/* The mean's part of the logits of a lean page. */
static __device__ __forceinline__ void add_mean_logits(const tile &t,
                                                       float s[ROW_TILES][KEY_TILES][4]) {
  const uint32_t row = threadIdx.x / 32 * WARP_ROWS + lk_lane() / 4;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float x = t.mean_logits[row + i * 16 + half * 8];
#pragma unroll
      for (int j = 0; j < KEY_TILES; j++) {
        s[i][j][2 * half] += x;
        s[i][j][2 * half + 1] += x;
      }
    }
}

/* ---- pages of one kind ---- */

/* The table's place of the i-th page, where `skip` are passed over after the first n_before. */
static __device__ __forceinline__ uint32_t page_at(uint32_t i, uint32_t n_before, uint32_t skip) {
  return i < n_before ? i : i + skip;
}

/* The lean pages, or all others. */
template <int D, bool LEAN>
static __device__ __forceinline__ void see_pages(const lk_cuda_attend_rows &job, const tile &t,
                                                 float scale, rows_state<D> &state) {
  const uint32_t n = LEAN ? t.n_lean : D;
  const uint32_t n_all = (uint32_t)(t.last_pos / P) + 1;
  const uint32_t begin = t.middle_begin < n_all ? t.middle_begin : n_all;
  const uint32_t n_middle = t.n_middle < n_all - begin ? t.n_middle : n_all - begin;
  const uint32_t n_pages = LEAN ? n_middle : n_all - n_middle;
  if (n == 0 || n_pages == 0) return;
  const uint32_t n_before = LEAN ? 0 : begin, skip = LEAN ? begin : n_middle;
  __syncthreads(); /* queries and slots of the other pages are read no more */
  load_queries<D, LEAN>(job, t);
  fetch_page<D, LEAN>(job, t, t.table[page_at(0, n_before, skip)], page_at(0, n_before, skip),
                      t.slots);
  lk_page_entry ahead = t.table[page_at(n_pages > 1, n_before, skip)];
  for (uint32_t i = 0; i < n_pages; i++) {
    lk_copies_wait_all();
    __syncthreads(); /* this page is there, and nobody reads the one before */
    if (i + 1 < n_pages) {
      fetch_page<D, LEAN>(job, t, ahead, page_at(i + 1, n_before, skip),
                          t.slots + (i + 1) % N_SLOTS * (P * 2 * D * 2));
      if (i + 2 < n_pages) ahead = t.table[page_at(i + 2, n_before, skip)];
    }
    const uint32_t slot = t.slots + i % N_SLOTS * (P * 2 * D * 2);
    float s[ROW_TILES][KEY_TILES][4];
    logits(t.q_shared, slot, n, s);
    if (LEAN && t.sums) add_mean_logits(t, s);
    const int64_t before = t.first_pos - (int64_t)page_at(i, n_before, skip) * P;
    if (before < P - 1) mask_logits(t, (int)before, s);
    uint32_t p[ROW_TILES][KEY_TILES / 2][4];
    softmax<D>(scale, s, state, p);
    add_values<D>(slot + P * n * 2, p, state);
  }
}

/* Each row's logit of the mean; a warp's rows are its own. */
template <int D> static __device__ void find_mean_logits(const lk_cuda_attend_rows &job, tile *t) {
  const uint32_t first = threadIdx.x / 32 * WARP_ROWS, n_kept = job.view.heads[t->h].n_kept;
  const uint16_t *channels = job.view.channels + (size_t)t->h * D;
  for (uint32_t row = first; row < first + WARP_ROWS; row++) {
    const uint32_t token = row / t->per;
    float logit = 0;
    if (token < t->n_tokens) {
      const float *q =
          job.q + ((t->first_row + token) * job.view.n_heads + t->h * t->per + row % t->per) * D;
      lk_mean_terms<D, 1> terms;
      lk_mean_ask<D, 1>(&terms, q, D, 1, t->sums, channels, n_kept);
      lk_mean_logits<D, 1>(&terms, t->n_means, &logit);
    }
    if (threadIdx.x % 32 == 0) t->mean_logits[row] = logit;
  }
  __syncwarp();
}

/* The mean of the middle as the last key, n_means times. */
template <int D>
static __device__ __forceinline__ void see_mean(const tile &t, float scale, rows_state<D> &state) {
  const uint32_t lane = lk_lane(), warp_row = threadIdx.x / 32 * WARP_ROWS;
  const float *values = t.sums + D + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float logit = t.mean_logits[warp_row + i * 16 + half * 8 + lane / 4];
      const float max = fmaxf(state.max[i][half], logit);
      const float fix = lk_exp2((state.max[i][half] - max) * scale);
      const float weight = lk_exp2((logit - max) * scale + LK_PROBABILITY_SHIFT);
      const float n = lane % 4 == 0 ? (float)t.n_means : 0.0f;
      state.sum[i][half] = fmaf(state.sum[i][half], fix, n * weight);
#pragma unroll
      for (int j = 0; j < D / 8; j++) {
        const float2 x = *(const float2 *)(values + j * 8);
        state.o[i][j][2 * half] = fmaf(state.o[i][j][2 * half], fix, x.x * weight);
        state.o[i][j][2 * half + 1] = fmaf(state.o[i][j][2 * half + 1], fix, x.y * weight);
      }
    }
}

/* out = o / sum; with no key at all, 0. */
template <int D>
static __device__ __forceinline__ void store_rows(const lk_cuda_attend_rows &job, const tile &t,
                                                  const rows_state<D> &state) {
  const uint32_t lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * WARP_ROWS;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = state.sum[i][half];
      sum += __shfl_xor_sync(full_warp, sum, 1);
      sum += __shfl_xor_sync(full_warp, sum, 2);
      const uint32_t row = warp_row + i * 16 + half * 8 + lane / 4, token = row / t.per;
      if (token >= t.n_tokens) continue;
      const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
      float *out = job.out +
                   ((t.first_row + token) * job.view.n_heads + t.h * t.per + row % t.per) * D +
                   2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < D / 8; j++)
        *(float2 *)(out + j * 8) =
            make_float2(state.o[i][j][2 * half] * factor, state.o[i][j][2 * half + 1] * factor);
    }
}

/* The rows of a group from `first` on, for the block's head. */
template <int D>
static __device__ void place_tile(const lk_cuda_attend_rows &job, const lk_cuda_group *group,
                                  uint64_t first, uint32_t shared, tile *t) {
  t->h = blockIdx.x % job.view.n_kv_heads;
  t->per = job.view.n_heads / job.view.n_kv_heads;
  const uint32_t per_tile = TILE_ROWS / t->per;
  const uint64_t left = group->n_rows - first;
  t->n_tokens = left < per_tile ? (uint32_t)left : per_tile;
  t->first_row = group->first_row + first;
  t->first_pos = (int64_t)(group->first_pos + first);
  t->last_pos = t->first_pos + t->n_tokens - 1;
  t->table = job.tables + group->table;
  t->middle_begin = (uint32_t)(group->middle_begin / P);
  t->n_middle = (uint32_t)(group->n_middle / P);
  t->n_lean = t->lean_offset = 0;
  t->sums = NULL;
  t->n_means = group->n_middle;
  if (t->n_middle) { /* else a dense cache, which may have no description of heads */
    const lk_cuda_head *head = &job.view.heads[t->h];
    t->n_lean = head->n_padded;
    t->lean_offset = head->lean_offset;
    t->sums = lk_mean_sums(&job.means, group, t->h, head->n_kept, D);
  }
  t->q_shared = shared;
  t->slots = shared + TILE_ROWS * D * 2;
}

/* Blocks: head by head, group by group from first_group on, the last tiles of rows first, since
 * they see most. */
template <int D>
static __global__ void __launch_bounds__(THREADS, 2)
    attend_rows_kernel(const __grid_constant__ lk_cuda_attend_rows job, uint32_t first_group,
                       uint32_t n_groups, uint32_t n_tiles, float scale) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ tile t;
  const uint32_t rest = blockIdx.x / job.view.n_kv_heads;
  const lk_cuda_group *group = job.groups + first_group + rest % n_groups;
  const uint32_t per_tile = TILE_ROWS / (job.view.n_heads / job.view.n_kv_heads);
  const uint64_t first = (uint64_t)(n_tiles - 1 - rest / n_groups) * per_tile;
  if (first >= group->n_rows) return;
  if (threadIdx.x == 0) place_tile<D>(job, group, first, lk_shared_address(shared), &t);
  __syncthreads();
  if (t.sums) find_mean_logits<D>(job, &t);
  rows_state<D> state;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      state.max[i][half] = -INFINITY;
      state.sum[i][half] = 0;
#pragma unroll
      for (int j = 0; j < D / 8; j++) state.o[i][j][2 * half] = state.o[i][j][2 * half + 1] = 0;
    }
  see_pages<D, true>(job, t, scale, state);
  see_pages<D, false>(job, t, scale, state);
  if (t.sums && t.n_lean == 0) see_mean<D>(t, scale, state);
  store_rows<D>(job, t, state);
}

template <int D> static void launch(lk_cuda_device *dev, const lk_cuda_attend_rows *job) {
  const uint32_t per_tile = TILE_ROWS / (job->view.n_heads / job->view.n_kv_heads);
  const uint32_t n_tiles = lk_cuda_blocks(job->max_rows, per_tile);
  const int shared_bytes = (TILE_ROWS + N_SLOTS * 2 * P) * D * 2;
  const float scale = (float)(1.4426950408889634 / sqrt((double)D)); /* log2(e) */
  const uint64_t per_group = (uint64_t)n_tiles * job->view.n_kv_heads;
  const uint32_t at_once = (uint32_t)(MAX_GRID / per_group); /* >= 1: 2^27 tokens a head and more */
  const cudaError_t code = cudaFuncSetAttribute(
      attend_rows_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (code != cudaSuccess) {
    lk_cuda_keep(dev, code, "attend_rows");
    return;
  }
  for (uint32_t first = 0; first < job->n_groups; first += at_once) {
    const uint32_t left = job->n_groups - first, n = left < at_once ? left : at_once;
    attend_rows_kernel<D><<<(unsigned)(per_group * n), THREADS, shared_bytes, dev->stream>>>(
        *job, first, n, n_tiles, scale);
    lk_cuda_launched(dev, "attend_rows");
  }
}

void LK_OF_ELEMENT(lk_cuda_attend_rows)(lk_cuda_device *dev, const lk_cuda_attend_rows *job) {
  if (job->view.head_dim == 64)
    launch<64>(dev, job);
  else
    launch<128>(dev, job);
}
