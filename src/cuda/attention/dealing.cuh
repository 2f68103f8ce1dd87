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
/* Bytes of a head's segment in a lean page: 0 where it keeps no channel. */
static __device__ __forceinline__ uint32_t lk_lean_segment(uint32_t n_padded, uint32_t head_dim) {
  return n_padded == 0 ? 0 : LK_CUDA_P * 2 * (n_padded + head_dim);
}
static __host__ __device__ __forceinline__ uint32_t lk_wide_segment(uint32_t head_dim) {
  return LK_CUDA_P * 4 * head_dim;
}

/* A chunk of a kv head of a sequence. */
typedef struct lk_place {
  uint32_t group, head, chunk;
} lk_place;

/* Bytes of a head's pages before `page`. */
static __device__ __forceinline__ uint64_t lk_bytes_before(const lk_pages *p, uint32_t page,
                                                           uint32_t wide, uint32_t lean) {
  const uint32_t n_lean = min(max(page, p->middle), p->middle_end) - p->middle;
  return (uint64_t)(page - n_lean) * wide + (uint64_t)n_lean * lean;
}

/* The first chunk of the head with at least `bytes` before it; n_chunks where there is none. */
static __device__ uint32_t lk_chunk_at(const lk_pages *p, uint64_t bytes, uint32_t wide,
                                       uint32_t lean) {
  uint32_t low = 0, high = lk_n_chunks(p);
  while (low < high) {
    const uint32_t mid = (low + high) / 2;
    if (lk_bytes_before(p, lk_chunk_begin(p, mid), wide, lean) < bytes)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

/* The first chunk with at least `bytes` before it, which begins in `group`: `bytes` counted from
 * the beginning of the group. */
static __device__ lk_place lk_place_in_group(const lk_cuda_view *view, const lk_cuda_group *groups,
                                             uint32_t group, uint64_t bytes) {
  const lk_pages p = lk_pages_of_group(&groups[group]);
  const uint32_t wide = lk_wide_segment(view->head_dim);
  for (uint32_t h = 0; h < view->n_kv_heads; h++) {
    const uint32_t lean = lk_lean_segment(view->heads[h].n_padded, view->head_dim);
    const uint64_t of_head = lk_bytes_before(&p, p.n, wide, lean);
    if (bytes < of_head || bytes == 0) {
      const uint32_t chunk = lk_chunk_at(&p, bytes, wide, lean);
      if (chunk < lk_n_chunks(&p)) return lk_place{group, h, chunk};
      bytes = of_head;
    }
    bytes -= of_head;
  }
  return lk_place{group + 1, 0, 0};
}

/* Where the shares of blocks `block` and block + 1 begin. Called by all threads of a block. */
static __device__ void lk_deal(const lk_cuda_decode *job, uint32_t block, uint32_t n_blocks,
                               lk_place *begin, lk_place *end) {
  const lk_cuda_view *view = &job->view;
  const uint32_t n_groups = job->n_groups;
  /* Of all heads. Lanes ask for one each: one after another would wait for memory as often. */
  const uint64_t wide = (uint64_t)view->n_kv_heads * lk_wide_segment(view->head_dim);
  uint64_t lean = 0;
  for (uint32_t h = threadIdx.x % 32; h < view->n_kv_heads; h += 32)
    lean += lk_lean_segment(view->heads[h].n_padded, view->head_dim);
  for (int across = 16; across > 0; across /= 2) lean += __shfl_xor_sync(0xffffffffu, lean, across);
  const lk_cuda_group *last = &job->groups[n_groups];
  const uint64_t total = wide * last->wide_before + lean * last->lean_before;
  /* Shares in units that cannot overflow: total / n_blocks and the rest spread evenly. */
  const uint64_t share = total / n_blocks, rest = total % n_blocks;
  const uint64_t from = share * block + rest * block / n_blocks;
  const uint64_t to = share * (block + 1) + rest * (block + 1) / n_blocks;
  uint32_t n_from = 0, n_to = 0; /* groups that begin at or before */
  for (uint32_t g0 = 0; g0 < n_groups; g0 += blockDim.x) {
    const uint32_t g = g0 + threadIdx.x;
    uint64_t before = ~(uint64_t)0;
    if (g < n_groups)
      before = wide * job->groups[g].wide_before + lean * job->groups[g].lean_before;
    n_from += __syncthreads_count(before <= from);
    n_to += __syncthreads_count(before <= to);
  }
  const lk_cuda_group *a = &job->groups[n_from - 1], *b = &job->groups[n_to - 1];
  *begin = lk_place_in_group(view, job->groups, n_from - 1,
                             from - (wide * a->wide_before + lean * a->lean_before));
  *end = lk_place_in_group(view, job->groups, n_to - 1,
                           to - (wide * b->wide_before + lean * b->lean_before));
  /* Of groups that begin at the same byte, all but the last without any, the last was found: those
   * before the first byte are the first block's, for the sake of their heads' means. */
  if (block == 0) *begin = lk_place{0, 0, 0};
  if (block + 1 == n_blocks) *end = lk_place{n_groups, 0, 0};
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
