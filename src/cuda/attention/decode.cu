/* Attention of decode steps: one query row a sequence, keys and values in pages.
 *
 * Blocks stay (two a multiprocessor) and go through a run of chunks. One warp fetches a head's
 * segment of a page at a time into a ring of slots in shared memory; four warps take 16 tokens of
 * the page each. Keys are the rows and query heads the columns of the tensor cores' products (S^T =
 * K Q^T, O^T = V^T P^T), so a group of up to 8 query heads costs one column tile: each byte of the
 * cache is read once, from memory and from shared memory. The running maximum follows only when a
 * logit exceeds it by more than 2^8 (MAX_LAG), so that sums are rarely rescaled; it is a reference
 * for exponents, no result depends on it but by rounding.
 *
 * What bounds it is memory: a page of 32 KB takes a block 5,000 cycles at its share of 3 TB/s and
 * 800 of computing. */
#include <math.h>

#include "cuda/attention/dealing.cuh"
#include "cuda/attention/element.cuh"
#include "cuda/attention/mean.cuh"
#include "cuda/ops.cuh"
#include "cuda/ring.cuh"

enum {
  N_CONSUMER_WARPS = 4,
  N_CONSUMERS = 32 * N_CONSUMER_WARPS,
  N_THREADS = N_CONSUMERS + 32,
  TILE_TOKENS = LK_CUDA_P / N_CONSUMER_WARPS, /* 16: rows of an mma */
  MERGE_HEADS = 4,                            /* query heads summed over warps at a time */
  MAX_SLOTS = 8
};
#define MAX_LAG 8.0f
#define LOG2_E 1.4426950408889634f

/* Shared memory before the ring. */
template <int D> struct decode_shared {
  float o[N_CONSUMER_WARPS][MERGE_HEADS][D + 4]; /* + 4: no two lanes meet in a bank */
  float m[N_CONSUMER_WARPS][LK_CUDA_MAX_GROUP], l[N_CONSUMER_WARPS][LK_CUDA_MAX_GROUP];
  uint16_t q_wide[LK_CUDA_MAX_GROUP][D + 8], q_lean[LK_CUDA_MAX_GROUP][D + 8];
  float lean_bias[LK_CUDA_MAX_GROUP]; /* the mean's part of lean logits */
  lk_place share[2];                  /* where the block's work begins and ends */
  uint64_t full[MAX_SLOTS], empty[MAX_SLOTS];
};

template <int D> struct ring_offset {
  enum { N_BYTES = (sizeof(decode_shared<D>) + 127) / 128 * 128 };
};

/* A head of a sequence, and which of its chunks are this block's. */
typedef struct head_work {
  uint32_t group, head, chunk, chunk_end;
  lk_pages pages;
  uint32_t n_tokens;
  uint32_t n_padded, lean_offset;
} head_work;

static __device__ __forceinline__ head_work head_work_at(const lk_cuda_decode *job, uint32_t group,
                                                         uint32_t head, const lk_place *begin,
                                                         const lk_place *end) {
  const lk_cuda_group *g = &job->groups[group];
  head_work w;
  w.group = group;
  w.head = head;
  w.pages = lk_pages_of_group(g);
  w.n_tokens = (uint32_t)g->first_pos + 1;
  w.chunk = group == begin->group && head == begin->head ? begin->chunk : 0;
  w.chunk_end = group == end->group && head == end->head ? end->chunk : lk_n_chunks(&w.pages);
  w.n_padded = job->view.heads[head].n_padded;
  w.lean_offset = job->view.heads[head].lean_offset;
  return w;
}
/* Steps to the next head; false after the last one of the block. */
static __device__ __forceinline__ bool next_head(const lk_cuda_view *view, const lk_place *end,
                                                 uint32_t *group, uint32_t *head) {
  if (++*head == view->n_kv_heads) {
    *head = 0;
    ++*group;
  }
  return *group < end->group ||
         (*group == end->group && (*head < end->head || (*head == end->head && end->chunk > 0)));
}
static __device__ __forceinline__ bool has_work(const lk_place *begin, const lk_place *end) {
  if (begin->group != end->group) return begin->group < end->group;
  if (begin->head != end->head) return begin->head < end->head;
  return begin->chunk < end->chunk;
}
static __device__ __forceinline__ bool is_lean(const head_work *w, uint32_t page) {
  return page >= w->pages.middle && page < w->pages.middle_end;
}

/* Pages that the launches just before may still be writing. */
static __device__ __forceinline__ bool is_new(const head_work *w, uint32_t page) {
  return page + 1 == w->pages.n || page + 1 == w->pages.middle_end;
}

/* ---- producer ---- */

/* Copies `rows` tokens of a segment of n channels of K into a slot, K then V. */
template <int D>
static __device__ __forceinline__ void fetch_segment(unsigned char *slot, const unsigned char *from,
                                                     uint32_t n, uint32_t rows, uint64_t *full,
                                                     uint32_t lane) {
  const uint32_t k_bytes = rows * n * 2, v_bytes = rows * D * 2, v_at = LK_CUDA_P * n * 2;
  const uint32_t to = lk_shared_address(slot);
#if __CUDA_ARCH__ >= 900
  if (lane != 0) return;
  const uint64_t policy = lk_policy_read_once();
  lk_barrier_expect(full, k_bytes + v_bytes);
  if (rows == LK_CUDA_P) {
    lk_bulk_copy(to, from, k_bytes + v_bytes, full, policy);
  } else {
    lk_bulk_copy(to, from, k_bytes, full, policy);
    lk_bulk_copy(to + v_at, from + v_at, v_bytes, full, policy);
  }
#else
  for (uint32_t at = lane * 16; at < k_bytes; at += 32 * 16) lk_copy16(to + at, from + at);
  for (uint32_t at = lane * 16; at < v_bytes; at += 32 * 16)
    lk_copy16(to + v_at + at, from + v_at + at);
  lk_copy_arrive(full);
#endif
}

/* waited: whether the launch before has ended; until then only settled pages are read. */
template <int D>
static __device__ void produce_head(const lk_cuda_decode *job, const head_work *w,
                                    decode_shared<D> *sh, unsigned char *ring, uint32_t n_slots,
                                    lk_ring_place *place, bool *waited) {
  const uint32_t lane = threadIdx.x % 32;
  const lk_page_entry *table = job->tables + job->groups[w->group].table;
  const uint32_t end = min(lk_chunk_begin(&w->pages, w->chunk_end), w->pages.n);
  uint32_t page = lk_chunk_begin(&w->pages, w->chunk), window = 0;
  lk_page_entry mine = {0, 0};
  bool loaded = false;
  for (; page < end; page++) {
    if (w->n_padded == 0 && is_lean(w, page)) {
      page = w->pages.middle_end - 1;
      continue;
    }
    if (!loaded || page >= window + 32) {
      window = page;
      loaded = true;
      if (window + lane < w->pages.n) mine = table[window + lane];
    }
    const uint32_t number = __shfl_sync(0xffffffffu, mine.page, page - window);
    const uint32_t kind = __shfl_sync(0xffffffffu, mine.kind, page - window);
    const bool lean = is_lean(w, page);
    const uint32_t n = lean ? w->n_padded : D;
    const unsigned char *from =
        job->view.arena[kind] + (size_t)number * job->view.page_bytes[kind] +
        (lean ? (size_t)w->lean_offset : (size_t)w->head * lk_wide_segment(D));
    if (!*waited && is_new(w, page)) {
      lk_dependency_wait();
      *waited = true;
    }
    lk_barrier_wait(&sh->empty[place->index], place->parity ^ 1);
    fetch_segment<D>(ring + (size_t)place->index * lk_wide_segment(D), from, n,
                     min(w->n_tokens - page * LK_CUDA_P, (uint32_t)LK_CUDA_P),
                     &sh->full[place->index], lane);
    __syncwarp();
    lk_ring_next(place, n_slots);
  }
}

/* ---- consumers ---- */

static __device__ __forceinline__ void consumers_meet(void) {
  asm volatile("bar.sync 1, %0;" ::"n"((int)N_CONSUMERS) : "memory");
}

/* What a warp has summed of a chunk: of its lane's two query heads (lane % 4) * 2 and the next. */
template <int D> struct warp_sums {
  float m[2], l[2];
  float o[D / 16][4]; /* rows channels, columns heads, as mma gives them */
};

template <int D> static __device__ __forceinline__ void sums_clear(warp_sums<D> *s) {
  for (int i = 0; i < 2; i++) {
    s->m[i] = -INFINITY;
    s->l[i] = 0.0f;
  }
#pragma unroll
  for (int t = 0; t < D / 16; t++)
    for (int i = 0; i < 4; i++) s->o[t][i] = 0.0f;
}

/* A thread's share of a group's rows of D: element i is channel (threadIdx % D) of head
 * i * (N_CONSUMERS / D) + threadIdx / D. */
template <int D> struct thread_rows {
  enum { N = LK_CUDA_MAX_GROUP * D / N_CONSUMERS, HEADS = N_CONSUMERS / D };
};
template <int D> static __device__ __forceinline__ uint32_t part_head(int i) {
  return i * thread_rows<D>::HEADS + threadIdx.x / D;
}

/* The group's query rows as elements: all channels, and, where lean pages are seen, those that the
 * head keeps, zeros behind them. */
template <int D>
static __device__ __forceinline__ void load_queries(const float *q, uint32_t group_size,
                                                    const uint16_t *channels, uint32_t n_kept,
                                                    bool sees_lean, decode_shared<D> *sh) {
  enum { N = thread_rows<D>::N };
  const uint32_t c = threadIdx.x % D, kept = sees_lean ? channels[c] : 0;
  float wide[N], lean[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    const uint32_t h = part_head<D>(i);
    wide[i] = h < group_size ? q[h * D + c] : 0.0f;
    lean[i] = h < group_size && sees_lean && c < n_kept ? q[h * D + kept] : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < N; i++) sh->q_wide[part_head<D>(i)][c] = lk_to_element(wide[i]);
  if (!sees_lean) return;
#pragma unroll
  for (int i = 0; i < N; i++) sh->q_lean[part_head<D>(i)][c] = lk_to_element(lean[i]);
}

/* Whether the block has lean pages of the head. */
static __device__ __forceinline__ bool sees_lean(const head_work *w) {
  return w->n_padded > 0 && lk_chunk_begin(&w->pages, w->chunk) < w->pages.middle_end &&
         lk_chunk_begin(&w->pages, w->chunk_end) > w->pages.middle;
}

/* A head's queries, and what the mean adds to logits of lean pages, in units of exponents of 2: 0
 * where none stands in. For a head without lean pages it is the mean's own logit, -inf where there
 * is none; the block that has the head's first chunk keeps it for the merge. */
template <int D>
static __device__ void load_head(const lk_cuda_decode *job, const head_work *w, float scale,
                                 decode_shared<D> *sh) {
  enum { N_EACH = LK_CUDA_MAX_GROUP / N_CONSUMER_WARPS }; /* query heads of a warp */
  const uint32_t group_size = job->view.n_heads / job->view.n_kv_heads, warp = threadIdx.x / 32;
  const uint32_t n_kept = job->view.heads[w->head].n_kept;
  const size_t first = (size_t)w->group * job->view.n_heads + w->head * group_size;
  const float *q = job->q + first * D;
  const uint16_t *channels = job->view.channels + (size_t)w->head * D;
  const lk_cuda_group *group = &job->groups[w->group];
  const bool lean = sees_lean(w);
  const bool wants_mean = n_kept == 0 ? w->chunk == 0 : lean;
  const float *sums = wants_mean ? lk_mean_sums(&job->means, group, w->head, n_kept, D) : NULL;
  const uint32_t n_rows =
      warp < group_size ? (group_size - warp + N_CONSUMER_WARPS - 1) / N_CONSUMER_WARPS : 0;
  lk_mean_terms<D, N_EACH> terms;
  if (sums)
    lk_mean_ask<D, N_EACH>(&terms, q + warp * D, N_CONSUMER_WARPS * D, n_rows, sums, channels,
                           n_kept);
  load_queries<D>(q, group_size, channels, n_kept, lean, sh);
  float logits[N_EACH];
  if (sums) lk_mean_logits<D, N_EACH>(&terms, group->n_middle, logits);
  if (threadIdx.x % 32 != 0) return;
#pragma unroll
  for (uint32_t r = 0; r < N_EACH; r++) {
    const uint32_t h = warp + r * N_CONSUMER_WARPS;
    float logit = n_kept > 0 ? 0.0f : -INFINITY;
    if (sums && r < n_rows) logit = logits[r] * scale;
    sh->lean_bias[h] = logit;
    if (n_kept == 0 && w->chunk == 0 && r < n_rows && job->mean_logits != NULL)
      job->mean_logits[first + h] = logit;
  }
}

/* Logits of 16 tokens and 8 heads, not scaled: s[0], s[1] of token lane / 4, s[2], s[3] of 8 more.
 */
template <int D>
static __device__ __forceinline__ void tile_logits(uint32_t k_tile, const uint16_t (*q)[D + 8],
                                                   uint32_t n, uint32_t token, float s[4]) {
  const uint32_t lane = threadIdx.x % 32;
  /* The XOR of lk_cuda_swizzle, which is the same for every chunk of a row. */
  const uint32_t n_chunks = n / 8;
  const uint32_t twist = lk_cuda_swizzle(token, 0, n_chunks);
  const uint32_t row = k_tile + token * n * 2;
  const uint32_t *q_row = (const uint32_t *)&q[lane / 4][(lane % 4) * 2];
  float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
#pragma unroll 2
  for (uint32_t step = 0; step < n / 16; step++) {
    uint32_t a[4];
    lk_ldmatrix(row + (((step * 2 + lane / 16) ^ twist) << 4), a);
    const uint32_t b0 = q_row[step * 8], b1 = q_row[step * 8 + 4];
    if (step & 1)
      lk_mma_elements(odd, a, b0, b1);
    else
      lk_mma_elements(even, a, b0, b1);
  }
  for (int i = 0; i < 4; i++) s[i] = even[i] + odd[i];
}

/* Raises the reference maximum of both heads to that of all logits so far. */
template <int D>
static __device__ __forceinline__ void raise_maximum(warp_sums<D> *sums, float largest[2]) {
  float factor[2];
  for (int i = 0; i < 2; i++) {
    for (int across = 4; across < 32; across *= 2)
      largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], across));
    const float m = fmaxf(sums->m[i], largest[i]);
    factor[i] = m == -INFINITY ? 1.0f : lk_exp2(sums->m[i] - m);
    sums->m[i] = m;
    sums->l[i] *= factor[i];
  }
#pragma unroll
  for (int t = 0; t < D / 16; t++)
    for (int i = 0; i < 4; i++) sums->o[t][i] *= factor[i % 2];
}

/* A warp's 16 tokens of a page: logits, exponentials, values. Gives the "or" of a word of the last
 * reads, which are done in order. */
template <int D>
static __device__ __forceinline__ uint32_t consume_tile(unsigned char *slot, const head_work *w,
                                                        bool lean, uint32_t n_valid, float scale,
                                                        const decode_shared<D> *sh,
                                                        warp_sums<D> *sums) {
  const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * TILE_TOKENS;
  const uint32_t n = lean ? w->n_padded : D;
  const uint32_t k_tile = lk_shared_address(slot), v_tile = k_tile + LK_CUDA_P * n * 2;
  float s[4], largest[2];
  tile_logits<D>(k_tile, lean ? sh->q_lean : sh->q_wide, n, first + lane % 16, s);
  const float2 bias =
      lean ? *(const float2 *)&sh->lean_bias[lane % 4 * 2] : make_float2(0.0f, 0.0f);
  for (int i = 0; i < 4; i++) {
    const uint32_t token = first + lane / 4 + (i / 2) * 8;
    s[i] = token < n_valid ? __fmaf_rn(s[i], scale, i % 2 ? bias.y : bias.x) : -INFINITY;
  }
  for (int i = 0; i < 2; i++) largest[i] = fmaxf(s[i], s[i + 2]);
  const bool raise = largest[0] > sums->m[0] + MAX_LAG || largest[1] > sums->m[1] + MAX_LAG;
  if (__any_sync(0xffffffffu, raise)) raise_maximum<D>(sums, largest);
  for (int i = 0; i < 4; i++) s[i] = lk_exp2(s[i] - sums->m[i % 2]);
  const uint32_t p0 = lk_pack_elements(s[0], s[1]), p1 = lk_pack_elements(s[2], s[3]);
  /* The sum is of what the values are multiplied by. */
  sums->l[0] += lk_element_low(p0) + lk_element_low(p1);
  sums->l[1] += lk_element_high(p0) + lk_element_high(p1);
  const uint32_t b0 = lk_movmatrix_trans(p0), b1 = lk_movmatrix_trans(p1);
  const uint32_t token = first + lane / 16 * 8 + lane % 8;
  const uint32_t row = v_tile + token * D * 2, half = lane / 8 % 2;
  uint32_t read = 0;
#pragma unroll
  for (uint32_t t = 0; t < D / 16; t++) {
    uint32_t a[4];
    lk_ldmatrix_trans(row + (((t * 2 + half) ^ (token & 7)) << 4), a);
    lk_mma_elements(sums->o[t], a, b0, b1);
    if (t + 2 >= D / 16) read |= a[0];
  }
  return read;
}

/* Behind the last token nothing was ever written: what lies there must not meet a zero weight. */
template <int D>
static __device__ __forceinline__ void clear_values(unsigned char *slot, uint32_t n,
                                                    uint32_t n_valid) {
  const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * TILE_TOKENS;
  const uint32_t from = max(first, n_valid), end = first + TILE_TOKENS;
  uint4 *values = (uint4 *)(slot + LK_CUDA_P * n * 2);
  for (uint32_t i = from * (D / 8) + lane; i < end * (D / 8); i += 32)
    values[i] = make_uint4(0, 0, 0, 0);
  __syncwarp();
}

/* The chunk's pages; false where the head has none of them. */
template <int D>
static __device__ bool consume_chunk(const head_work *w, uint32_t chunk, float scale,
                                     decode_shared<D> *sh, unsigned char *ring, uint32_t n_slots,
                                     lk_ring_place *place, warp_sums<D> *sums) {
  const uint32_t first = threadIdx.x / 32 * TILE_TOKENS;
  const uint32_t begin = lk_chunk_begin(&w->pages, chunk);
  const uint32_t end = min(lk_chunk_begin(&w->pages, chunk + 1), w->pages.n);
  bool any = false;
  sums_clear<D>(sums);
  for (uint32_t page = begin; page < end; page++) {
    const bool lean = is_lean(w, page);
    if (lean && w->n_padded == 0) continue;
    any = true;
    unsigned char *slot = ring + (size_t)place->index * lk_wide_segment(D);
    const uint32_t n_valid = min(w->n_tokens - page * LK_CUDA_P, (uint32_t)LK_CUDA_P);
    lk_barrier_wait(&sh->full[place->index], place->parity);
    uint32_t read = 0;
    if (first < n_valid) {
      const bool partly = n_valid < first + TILE_TOKENS;
      if (partly) clear_values<D>(slot, lean ? w->n_padded : D, n_valid);
      read = consume_tile<D>(slot, w, lean, n_valid, scale, sh, sums);
#if __CUDA_ARCH__ >= 900
      if (partly) lk_fence_async();
#endif
    }
    lk_barrier_arrive_after(&sh->empty[place->index], read, n_slots >> 16);
    lk_ring_next(place, n_slots);
  }
  return any;
}

/* A thread's share of a partial. */
template <int D> struct thread_part {
  float m[thread_rows<D>::N], l[thread_rows<D>::N], o[thread_rows<D>::N];
};

/* Sums the warps' shares of a chunk. */
template <int D>
static __device__ void sum_warps(warp_sums<D> *sums, uint32_t group_size, decode_shared<D> *sh,
                                 thread_part<D> *part) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i < 2; i++)
    for (int across = 4; across < 32; across *= 2)
      sums->l[i] += __shfl_xor_sync(0xffffffffu, sums->l[i], across);
  if (lane < 4) {
    for (int i = 0; i < 2; i++) {
      sh->m[warp][lane * 2 + i] = sums->m[i];
      sh->l[warp][lane * 2 + i] = sums->l[i];
    }
  }
  enum { PER_ROUND = MERGE_HEADS / thread_rows<D>::HEADS };
#pragma unroll
  for (int round = 0; round < LK_CUDA_MAX_GROUP / MERGE_HEADS; round++) {
    if (round * MERGE_HEADS >= (int)group_size) break;
    if ((lane % 4) / 2 == (uint32_t)round) {
      const uint32_t h = lane % 2 * 2;
#pragma unroll
      for (int t = 0; t < D / 16; t++)
        for (int i = 0; i < 4; i++)
          sh->o[warp][h + i % 2][t * 16 + lane / 4 + i / 2 * 8] = sums->o[t][i];
    }
    consumers_meet();
#pragma unroll
    for (int j = 0; j < PER_ROUND; j++) {
      const int i = round * PER_ROUND + j;
      const uint32_t h = part_head<D>(i);
      float m = -INFINITY, l = 0.0f, o = 0.0f;
      for (int wp = 0; wp < N_CONSUMER_WARPS; wp++) m = fmaxf(m, sh->m[wp][h]);
      for (int wp = 0; wp < N_CONSUMER_WARPS; wp++) {
        const float f = m == -INFINITY ? 0.0f : lk_exp2(sh->m[wp][h] - m);
        l = __fmaf_rn(sh->l[wp][h], f, l);
        o = __fmaf_rn(sh->o[wp][h - round * MERGE_HEADS][threadIdx.x % D], f, o);
      }
      part->m[i] = m;
      part->l[i] = l;
      part->o[i] = o;
    }
    consumers_meet();
  }
}

template <int D> static __device__ __forceinline__ void part_clear(thread_part<D> *p) {
#pragma unroll
  for (int i = 0; i < thread_rows<D>::N; i++) {
    p->m[i] = -INFINITY;
    p->l[i] = p->o[i] = 0.0f;
  }
}
template <int D>
static __device__ __forceinline__ void part_fold(thread_part<D> *p, const thread_part<D> *q) {
#pragma unroll
  for (int i = 0; i < thread_rows<D>::N; i++) {
    float a, b;
    lk_fold_factors(&p->m[i], q->m[i], &a, &b);
    p->l[i] = lk_folded(p->l[i], a, q->l[i], b);
    p->o[i] = lk_folded(p->o[i], a, q->o[i], b);
  }
}
template <int D>
static __device__ void part_store(const thread_part<D> *p, uint32_t group_size, bool whole,
                                  float *to) {
  float *tail = to + (size_t)group_size * D;
#pragma unroll
  for (int i = 0; i < thread_rows<D>::N; i++) {
    const uint32_t h = part_head<D>(i);
    if (h >= group_size) continue;
    to[h * D + threadIdx.x % D] = p->o[i];
    if (threadIdx.x % D == 0) {
      tail[PARTIAL_M + h] = p->m[i];
      tail[PARTIAL_L + h] = p->l[i];
    }
  }
  if (threadIdx.x == 0) tail[PARTIAL_WHOLE] = whole ? 1.0f : 0.0f;
}

template <int D>
static __device__ void consume_head(const lk_cuda_decode *job, const head_work *w, float scale,
                                    decode_shared<D> *sh, unsigned char *ring, uint32_t n_slots,
                                    lk_ring_place *place) {
  const uint32_t group_size = job->view.n_heads / job->view.n_kv_heads;
  const uint32_t n_chunks = lk_n_chunks(&w->pages);
  load_head<D>(job, w, scale, sh);
  consumers_meet();
  for (uint32_t node = w->chunk / NODE_CHUNKS; node * NODE_CHUNKS < w->chunk_end; node++) {
    uint32_t next;
    if (w->n_padded == 0 && lk_node_in_middle(&w->pages, node, &next)) {
      node = next - 1;
      continue;
    }
    const uint32_t node_begin = node * NODE_CHUNKS,
                   node_end = min(node_begin + NODE_CHUNKS, n_chunks);
    const uint32_t begin = max(node_begin, w->chunk), end = min(node_end, w->chunk_end);
    const bool whole = begin == node_begin && end == node_end;
    thread_part<D> sum;
    uint32_t first = node_end; /* that has anything */
    part_clear<D>(&sum);
    for (uint32_t chunk = begin; chunk < end; chunk++) {
      if (w->n_padded == 0 && lk_chunk_in_middle(&w->pages, chunk)) continue;
      warp_sums<D> sums;
      thread_part<D> part;
      part_clear<D>(&part);
      consume_chunk<D>(w, chunk, scale, sh, ring, n_slots, place, &sums);
      sum_warps<D>(&sums, group_size, sh, &part);
      if (first == node_end) first = chunk;
      if (whole)
        part_fold<D>(&sum, &part);
      else
        part_store<D>(&part, group_size, false, lk_partial(job, w->group, w->head, chunk));
    }
    if (whole && first < node_end)
      part_store<D>(&sum, group_size, true, lk_partial(job, w->group, w->head, first));
  }
  consumers_meet(); /* before the next head's queries are written */
}

template <int D>
static __global__ void __launch_bounds__(N_THREADS, 2)
    decode_kernel(const __grid_constant__ lk_cuda_decode job, uint32_t n_slots) {
  extern __shared__ __align__(128) unsigned char memory[];
  decode_shared<D> *sh = (decode_shared<D> *)memory;
  unsigned char *ring = memory + ring_offset<D>::N_BYTES;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < n_slots; i++) {
#if __CUDA_ARCH__ >= 900
      lk_barrier_init(&sh->full[i], 1);
#else
      lk_barrier_init(&sh->full[i], 32);
#endif
      lk_barrier_init(&sh->empty[i], N_CONSUMERS);
    }
#if __CUDA_ARCH__ >= 900
    lk_fence_async();
#endif
  }
  lk_dependents_launch();
  if (threadIdx.x / 32 < 2) {
    const lk_place place = lk_share_begin(&job, blockIdx.x + threadIdx.x / 32, gridDim.x);
    if (threadIdx.x % 32 == 0) sh->share[threadIdx.x / 32] = place;
  }
  __syncthreads();
  const lk_place begin = sh->share[0], end = sh->share[1];
  const bool producer = threadIdx.x >= N_CONSUMERS;
  bool waited = !(producer && job.settled && has_work(&begin, &end));
  if (waited) lk_dependency_wait();
  if (!has_work(&begin, &end)) return;
  const float scale = LOG2_E / sqrtf((float)D);
  lk_ring_place place = {0, 0};
  uint32_t group = begin.group, head = begin.head;
  do {
    const head_work w = head_work_at(&job, group, head, &begin, &end);
    if (producer)
      produce_head<D>(&job, &w, sh, ring, n_slots, &place, &waited);
    else
      consume_head<D>(&job, &w, scale, sh, ring, n_slots, &place);
  } while (next_head(&job.view, &end, &group, &head));
  if (!waited) lk_dependency_wait(); /* the launch after this one counts on it */
}

/* ---- launching ---- */

/* How many blocks a multiprocessor takes, and slots each: two blocks with at least two slots where
 * shared memory allows, else one. */
template <int D> static void choose_ring(lk_cuda_device *dev, lk_cuda_ring *ring) {
  int per_sm = 0, per_block = 0;
  cudaDeviceGetAttribute(&per_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, dev->index);
  cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev->index);
  const int fixed = (int)ring_offset<D>::N_BYTES, slot = (int)lk_wide_segment(D), reserved = 1024;
  for (int blocks = 2; blocks >= 1; blocks--) {
    int room = per_sm / blocks - reserved;
    if (room > per_block) room = per_block;
    int slots = (room - fixed) / slot;
    if (slots > MAX_SLOTS) slots = MAX_SLOTS;
    if (slots < 2 && blocks == 2) continue;
    ring->n_slots = slots;
    ring->n_blocks = blocks;
    break;
  }
  ring->n_bytes = fixed + ring->n_slots * slot;
  const cudaError_t code = cudaFuncSetAttribute(
      decode_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, ring->n_bytes);
  if (code != cudaSuccess) lk_cuda_keep(dev, code, "decode attention");
}

template <int D>
static void launch(lk_cuda_device *dev, lk_cuda_ring *ring, const lk_cuda_decode *job) {
  if (ring->n_slots == 0) choose_ring<D>(dev, ring);
  const unsigned n_blocks = (unsigned)(dev->n_sm * ring->n_blocks);
  lk_cuda_launch(dev, "decode attention", decode_kernel<D>, n_blocks, N_THREADS,
                 (size_t)ring->n_bytes, *job, (uint32_t)ring->n_slots);
  lk_cuda_merge(dev, job);
}

void LK_OF_ELEMENT(lk_cuda_decode)(lk_cuda_device *dev, const lk_cuda_decode *job) {
  lk_cuda_ring *rings = &dev->ring[2 * LK_ELEMENT_IS_F16];
  if (job->view.head_dim == 128)
    launch<128>(dev, &rings[1], job);
  else
    launch<64>(dev, &rings[0], job);
}
