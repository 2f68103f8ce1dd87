/* How the attention of a decode step is cut and dealt.
 *
 * A sequence's pages are cut by position into chunks of LK_CUDA_CHUNK_PAGES pages, or of twice as
 * many where it has LONG_PAGES or more (fewer partials, while blocks still get several), chunks
 * into nodes of NODE_CHUNKS chunks, nodes into spans of SPAN_NODES nodes. What is computed of a
 * (sequence, kv head) is: of each chunk a partial (maximum m, sum l, accumulator o); of each node
 * the fold of its chunks' partials in order; of each span that of its nodes; the result is the fold
 * of the spans. All chunks, in the order (sequence, kv head, chunk), are dealt to the blocks in
 * contiguous runs of nearly equal bytes. A block folds nodes that it has whole and writes one
 * partial of them; of others it writes the chunks' partials, which the merge folds by the same
 * operations, before nodes and spans. So bits do not depend on how work was dealt, nor on the
 * batch. */
#ifndef LK_CUDA_DEALING_CUH
#define LK_CUDA_DEALING_CUH

#include "cuda/ptx.cuh"
#include "cuda/cuda_api.h"

enum {
  NODE_CHUNKS = 4,
  NODE_PAGES = NODE_CHUNKS * LK_CUDA_CHUNK_PAGES, /* at least */
  SPAN_NODES = 8,
  LONG_PAGES = 1024
};
static_assert(LK_CUDA_CHUNK_PAGES == 1 << 3, "as lk_pages_of_group has it");

/* Pages of one sequence: lean ones are [middle, middle_end). */
typedef struct lk_pages {
  uint32_t n, middle, middle_end;
  uint32_t chunk_shift; /* log2 of a chunk's pages */
} lk_pages;

static __device__ __forceinline__ lk_pages lk_pages_of_group(const lk_cuda_group *g) {
  lk_pages p;
  p.n = (uint32_t)(g->first_pos / LK_CUDA_P) + 1;
  p.middle = (uint32_t)(g->middle_begin / LK_CUDA_P);
  p.middle_end = p.middle + (uint32_t)(g->n_middle / LK_CUDA_P);
  if (g->n_middle == 0) p.middle = p.middle_end = p.n;
  p.chunk_shift = p.n < LONG_PAGES ? 3 : 4;
  return p;
}
/* The chunk's first page; pages that are not there count. */
static __device__ __forceinline__ uint32_t lk_chunk_begin(const lk_pages *p, uint32_t chunk) {
  return chunk << p->chunk_shift;
}
static __device__ __forceinline__ uint32_t lk_n_chunks(const lk_pages *p) {
  return (p->n + lk_chunk_begin(p, 1) - 1) >> p->chunk_shift;
}
/* True where a head without lean segments has nothing of the chunk. */
static __device__ __forceinline__ bool lk_chunk_in_middle(const lk_pages *p, uint32_t chunk) {
  const uint32_t end = min(lk_chunk_begin(p, chunk + 1), p->n);
  return lk_chunk_begin(p, chunk) >= p->middle && end <= p->middle_end;
}
/* True where a head without lean segments has nothing of the node; then *next is the first node
 * behind it that is not wholly in the middle. */
static __device__ __forceinline__ bool lk_node_in_middle(const lk_pages *p, uint32_t node,
                                                         uint32_t *next) {
  *next = (p->middle_end >> p->chunk_shift) / NODE_CHUNKS;
  return lk_chunk_begin(p, node * NODE_CHUNKS) >= p->middle && node < *next;
}
static __host__ __device__ __forceinline__ uint32_t lk_wide_segment(uint32_t head_dim) {
  return LK_CUDA_P * 4 * head_dim;
}

/* Work is counted in LK_CUDA_UNIT. */
static __device__ __forceinline__ uint32_t lk_wide_units(uint32_t head_dim) {
  return lk_wide_segment(head_dim) / LK_CUDA_UNIT;
}
/* Of a head's segment in a lean page: 0 where it keeps no channel. */
static __device__ __forceinline__ uint32_t lk_lean_units(uint32_t n_padded, uint32_t head_dim) {
  return n_padded == 0 ? 0 : (n_padded + head_dim) / LK_CUDA_GRANULE;
}

/* A chunk of a kv head of a sequence. */
typedef struct lk_place {
  uint32_t group, head, chunk;
} lk_place;

static __device__ __forceinline__ uint32_t lk_ceil_div(uint32_t a, uint32_t b) {
  return (a + b - 1) / b;
}

/* The first chunk with at least `units` of the head's before it; n_chunks where there is none. */
static __device__ __forceinline__ uint32_t lk_chunk_at(const lk_pages *p, uint32_t units,
                                                       uint32_t wide, uint32_t lean) {
  const uint32_t sink = p->middle * wide, middle = (p->middle_end - p->middle) * lean;
  uint32_t page;
  if (units <= sink)
    page = lk_ceil_div(units, wide);
  else if (units <= sink + middle)
    page = p->middle + lk_ceil_div(units - sink, lean);
  else
    page = p->middle_end + lk_ceil_div(units - sink - middle, wide);
  return (page + lk_chunk_begin(p, 1) - 1) >> p->chunk_shift;
}

/* The first chunk with at least `units` before it, counted from the beginning of `group`, where it
 * begins; chunks without any at a head's end are passed over. For a whole warp: a lane takes a
 * head.
 */
static __device__ lk_place lk_place_in_group(const lk_cuda_view *view, const lk_cuda_group *groups,
                                             uint32_t group, uint32_t units) {
  const uint32_t lane = threadIdx.x % 32, wide = lk_wide_units(view->head_dim);
  const lk_pages p = lk_pages_of_group(&groups[group]);
  const uint32_t n_lean = p.middle_end - p.middle;
  uint32_t before = 0;
  for (uint32_t h0 = 0; h0 < view->n_kv_heads; h0 += 32) {
    const bool is_head = h0 + lane < view->n_kv_heads;
    const uint32_t lean =
        is_head ? lk_lean_units(view->heads[h0 + lane].n_padded, view->head_dim) : 0;
    const uint32_t own = is_head ? (p.n - n_lean) * wide + n_lean * lean : 0;
    uint32_t end = own;
    for (uint32_t d = 1; d < 32; d *= 2) {
      const uint32_t below = __shfl_up_sync(0xffffffffu, end, d);
      if (lane >= d) end += below;
    }
    const uint32_t begin = before + end - own;
    const bool is_here = is_head && units >= begin && (units == begin || units - begin < own);
    const uint32_t here = __ballot_sync(0xffffffffu, is_here);
    if (here) {
      const uint32_t first = (uint32_t)__ffs((int)here) - 1, h = h0 + first;
      const uint32_t chunk = lk_chunk_at(&p, units - __shfl_sync(0xffffffffu, begin, first), wide,
                                         __shfl_sync(0xffffffffu, lean, first));
      if (chunk < lk_n_chunks(&p)) return lk_place{group, h, chunk};
      if (h + 1 < view->n_kv_heads) return lk_place{group, h + 1, 0};
      break;
    }
    before += __shfl_sync(0xffffffffu, end, 31);
  }
  return lk_place{group + 1, 0, 0};
}

/* Where the share of block `block` begins, which is where that of the one before ends; block up to
 * n_blocks. For a whole warp. */
static __device__ lk_place lk_share_begin(const lk_cuda_decode *job, uint32_t block,
                                          uint32_t n_blocks) {
  const lk_cuda_view *view = &job->view;
  const lk_cuda_group *groups = job->groups;
  const uint32_t n_groups = job->n_groups, lane = threadIdx.x % 32;
  /* Groups that begin at the same unit: all but the last have nothing, and the last would be found.
   * Those before the first unit are the first block's, for the sake of their heads' means. */
  if (block == 0) return lk_place{0, 0, 0};
  if (block == n_blocks) return lk_place{n_groups, 0, 0};
  uint32_t lean = 0; /* of all heads */
  for (uint32_t h = lane; h < view->n_kv_heads; h += 32)
    lean += lk_lean_units(view->heads[h].n_padded, view->head_dim);
  for (int across = 16; across > 0; across /= 2) lean += __shfl_xor_sync(0xffffffffu, lean, across);
  const uint32_t wide = view->n_kv_heads * lk_wide_units(view->head_dim);
  const uint32_t total =
      wide * (uint32_t)groups[n_groups].wide_before + lean * (uint32_t)groups[n_groups].lean_before;
  /* total * block / n_blocks, without overflow. */
  const uint32_t from = total / n_blocks * block + total % n_blocks * block / n_blocks;
  uint32_t n_from = 0, begin = 0; /* groups that begin at or before; where the last of them does */
  for (uint32_t g0 = 0; g0 < n_groups; g0 += 32) {
    const uint32_t g = min(g0 + lane, n_groups);
    const uint32_t before =
        wide * (uint32_t)groups[g].wide_before + lean * (uint32_t)groups[g].lean_before;
    const uint32_t found = __ballot_sync(0xffffffffu, g < n_groups && before <= from);
    if (!found) break;
    n_from += __popc(found);
    begin = __shfl_sync(0xffffffffu, before, 31 - __clz((int)found));
  }
  return lk_place_in_group(view, groups, n_from - 1, from - begin);
}

/* ---- partials ---- */

/* One partial in scratch: o [G][D], m [8], l [8], then 1 where it is a whole node's. */
enum { PARTIAL_M = 0, PARTIAL_L = 8, PARTIAL_WHOLE = 16 };

static __host__ __device__ __forceinline__ size_t lk_partial_floats(uint32_t group_size,
                                                                    uint32_t head_dim) {
  return (size_t)group_size * head_dim + LK_CUDA_PARTIAL_TAIL;
}
static __host__ __device__ __forceinline__ uint32_t lk_max_chunks(uint32_t max_pages) {
  return (max_pages + LK_CUDA_CHUNK_PAGES - 1) / LK_CUDA_CHUNK_PAGES;
}
static __device__ __forceinline__ float *lk_partial(const lk_cuda_decode *job, uint32_t group,
                                                    uint32_t head, uint32_t chunk) {
  const uint32_t group_size = job->view.n_heads / job->view.n_kv_heads;
  const size_t at = ((size_t)group * job->view.n_kv_heads + head) * lk_max_chunks(job->max_pages);
  return (float *)job->scratch + (at + chunk) * lk_partial_floats(group_size, job->view.head_dim);
}

/* Factors of two sums of maxima m and m2 for their common maximum, which becomes m. A partial that
 * saw nothing has m = -inf and l = o = 0. */
static __device__ __forceinline__ void lk_fold_factors(float *m, float m2, float *a, float *b) {
  const float largest = fmaxf(*m, m2);
  const bool none = largest == -INFINITY;
  *a = none ? 1.0f : lk_exp2(*m - largest);
  *b = none ? 0.0f : lk_exp2(m2 - largest);
  *m = largest;
}
static __device__ __forceinline__ float lk_folded(float x, float a, float y, float b) {
  return __fmaf_rn(x, a, __fmul_rn(y, b));
}

#endif
