/* Tokens into pages, pages into pages. */
#include "cuda/bf16.cuh"
#include "cuda/f16.cuh"
#include "cuda/ops.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rotate.cuh"

enum {
  THREADS = 256,
  CHUNK = 8, /* elements of 16 bytes */
  MAX_HEAD_DIM = 128
};

static __device__ __forceinline__ unsigned char *page_of(const lk_cuda_view &view,
                                                         lk_page_entry e) {
  return view.arena[e.kind] + (size_t)e.page * view.page_bytes[e.kind];
}
/* Where head h's segment begins in a page that holds every channel. */
static __device__ __forceinline__ size_t wide_offset(uint32_t h, uint32_t head_dim) {
  return (size_t)h * LK_CUDA_P * 2 * head_dim * sizeof(uint16_t);
}

/* ---- append: a thread moves a chunk of K or of V ---- */

static __global__ void append_kernel(const __grid_constant__ lk_cuda_view view, const float *k,
                                     const float *v, size_t n_rows, const lk_slot *slots) {
  lk_dependency_pass();
  const uint32_t d = view.head_dim, n_chunks = d / CHUNK;
  size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  const uint32_t c = (uint32_t)(i % n_chunks), is_v = (uint32_t)(i / n_chunks % 2);
  i /= 2 * n_chunks;
  const uint32_t h = (uint32_t)(i % view.n_kv_heads);
  const size_t row = i / view.n_kv_heads;
  if (row >= n_rows) return;
  const lk_slot slot = slots[row];
  const float *from = (is_v ? v : k) + (row * view.n_kv_heads + h) * d + c * CHUNK;
  uint4 *to = (uint4 *)(page_of(view, slot.page) + wide_offset(h, d));
  to[(is_v * LK_CUDA_P + slot.key) * n_chunks + lk_cuda_swizzle(slot.key, c, n_chunks)] =
      view.is_f16 ? lk_cuda_chunk_f16(from) : lk_cuda_chunk_bf16(from);
}

void lk_cuda_append(lk_cuda_device *dev, const lk_cuda_view *view, const float *k, const float *v,
                    size_t n_rows, const lk_slot *slots) {
  const size_t n = n_rows * view->n_kv_heads * 2 * (view->head_dim / CHUNK);
  if (n == 0) return;
  lk_cuda_launch(dev, "append", append_kernel, lk_cuda_blocks(n, THREADS), THREADS, 0, *view, k, v,
                 n_rows, slots);
}

/* ---- RoPE and append: a thread rotates two chunks of q or of k, or moves two of v ---- */

/* 8 pairs of channels in the registers of two chunks: (a[i], b[i]), or neighbours in a, then b. */
static __device__ __forceinline__ void rotate_chunks(float *a, float *b, bool pairs,
                                                     const float *cosine, const float *sine) {
#pragma unroll
  for (uint32_t i = 0; i < CHUNK; i++) {
    if (pairs) {
      float *x = i < CHUNK / 2 ? a + 2 * i : b + 2 * i - CHUNK;
      lk_rotate(x, x + 1, cosine[i], sine[i]);
    } else {
      lk_rotate(a + i, b + i, cosine[i], sine[i]);
    }
  }
}

static __device__ __forceinline__ void load_chunk(const float *from, float *x) {
  ((float4 *)x)[0] = ((const float4 *)from)[0];
  ((float4 *)x)[1] = ((const float4 *)from)[1];
}
static __device__ __forceinline__ void store_chunk(const float *x, float *to) {
  ((float4 *)to)[0] = ((const float4 *)x)[0];
  ((float4 *)to)[1] = ((const float4 *)x)[1];
}

/* Where q, k and v of row r are: at r * q_pitch and r * kv_pitch floats. q_to [N][Hq][D] may be q
 * where it is as dense. */
typedef struct projected {
  const float *q, *k, *v;
  size_t q_pitch, kv_pitch;
  float *q_to;
} projected;

static __global__ void rope_append_kernel(const __grid_constant__ lk_cuda_view view,
                                          const __grid_constant__ projected in, size_t n_rows,
                                          bool pairs, const float *cos_sin, const lk_slot *slots) {
  lk_dependency_pass();
  const uint32_t d = view.head_dim, n_chunks = d / CHUNK, n_each = n_chunks / 2;
  const uint32_t n_q = view.n_heads, n_kv = view.n_kv_heads;
  size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
  const uint32_t c = (uint32_t)(at % n_each);
  at /= n_each;
  const uint32_t head = (uint32_t)(at % (n_q + 2 * n_kv));
  const size_t row = at / (n_q + 2 * n_kv);
  if (row >= n_rows) return;
  const bool is_q = head < n_q, is_v = head >= n_q + n_kv;
  const uint32_t h = is_q ? head : is_v ? head - n_q - n_kv : head - n_q;
  const uint32_t first = pairs || is_v ? 2 * c : c;
  const uint32_t second = pairs || is_v ? 2 * c + 1 : c + n_each;
  const float *from = is_q ? in.q + row * in.q_pitch : (is_v ? in.v : in.k) + row * in.kv_pitch;
  from += h * d;
  __align__(16) float a[CHUNK], b[CHUNK], cosine[CHUNK], sine[CHUNK];
  load_chunk(from + first * CHUNK, a);
  load_chunk(from + second * CHUNK, b);
  if (!is_v) {
    load_chunk(cos_sin + row * d + c * CHUNK, cosine);
    load_chunk(cos_sin + row * d + d / 2 + c * CHUNK, sine);
    rotate_chunks(a, b, pairs, cosine, sine);
  }
  if (is_q) {
    store_chunk(a, in.q_to + (row * n_q + h) * d + first * CHUNK);
    store_chunk(b, in.q_to + (row * n_q + h) * d + second * CHUNK);
    return;
  }
  const lk_slot slot = slots[row];
  uint4 *to = (uint4 *)(page_of(view, slot.page) + wide_offset(h, d)) +
              ((is_v ? LK_CUDA_P : 0) + slot.key) * n_chunks;
  to[lk_cuda_swizzle(slot.key, first, n_chunks)] =
      view.is_f16 ? lk_cuda_chunk_f16(a) : lk_cuda_chunk_bf16(a);
  to[lk_cuda_swizzle(slot.key, second, n_chunks)] =
      view.is_f16 ? lk_cuda_chunk_f16(b) : lk_cuda_chunk_bf16(b);
}

static void rope_append(lk_cuda_device *dev, const lk_cuda_view *view, projected in, size_t n_rows,
                        bool pairs, const float *cos_sin, const lk_slot *slots) {
  const size_t n_heads = (size_t)view->n_heads + 2 * view->n_kv_heads;
  const size_t n = n_rows * n_heads * (view->head_dim / CHUNK / 2);
  if (n == 0) return;
  lk_cuda_launch(dev, "rope_append", rope_append_kernel, lk_cuda_blocks(n, THREADS), THREADS, 0,
                 *view, in, n_rows, pairs, cos_sin, slots);
}

void lk_cuda_rope_append(lk_cuda_device *dev, const lk_cuda_view *view, float *q, const float *k,
                         const float *v, size_t n_rows, bool pairs, const float *cos_sin,
                         const lk_slot *slots) {
  const size_t d = view->head_dim;
  const projected in = {q, k, v, view->n_heads * d, view->n_kv_heads * d, q};
  rope_append(dev, view, in, n_rows, pairs, cos_sin, slots);
}

void lk_cuda_rope_append_joint(lk_cuda_device *dev, const lk_cuda_view *view, const float *qkv,
                               float *q, size_t n_rows, bool pairs, const float *cos_sin,
                               const lk_slot *slots) {
  const size_t n_q = (size_t)view->n_heads * view->head_dim;
  const size_t n_kv = (size_t)view->n_kv_heads * view->head_dim, pitch = n_q + 2 * n_kv;
  const projected in = {qkv, qkv + n_q, qkv + n_q + n_kv, pitch, pitch, q};
  rope_append(dev, view, in, n_rows, pairs, cos_sin, slots);
}

/* ---- pack: a block moves one head's segment of one page ---- */

/* at[i]: where the i-th kept channel of dst stands in a row of the source. */
static __device__ void find_channels(const lk_cuda_view &src, bool from_lean,
                                     const lk_cuda_view &dst, uint32_t h, uint16_t *at) {
  const uint32_t n_kept = dst.heads[h].n_kept;
  for (uint32_t i = threadIdx.x; i < n_kept; i += THREADS) {
    const uint16_t channel = dst.channels[(size_t)h * dst.head_dim + i];
    uint32_t place = channel;
    if (from_lean) {
      const uint16_t *list = src.channels + (size_t)h * src.head_dim;
      const uint32_t n = src.heads[h].n_kept;
      for (place = 0; place < n && list[place] != channel; place++) {}
    }
    at[i] = (uint16_t)place;
  }
}

static __device__ __forceinline__ uint32_t element(const uint16_t *rows, uint32_t n, uint32_t key,
                                                   uint32_t channel) {
  const uint32_t chunk = lk_cuda_swizzle(key, channel / CHUNK, n / CHUNK);
  return rows[key * n + chunk * CHUNK + channel % CHUNK];
}

/* to[P][n_padded] of from[P][n_from], both in the order of pages; zeros behind n_kept. */
static __device__ void gather(const uint16_t *from, uint32_t n_from, const uint16_t *at,
                              uint32_t n_kept, uint32_t n_padded, uint4 *to) {
  const uint32_t n_chunks = n_padded / CHUNK;
  for (uint32_t i = threadIdx.x; i < LK_CUDA_P * n_chunks; i += THREADS) {
    const uint32_t key = i / n_chunks, c = i % n_chunks;
    uint32_t pair[CHUNK / 2];
#pragma unroll
    for (uint32_t j = 0; j < CHUNK / 2; j++) {
      const uint32_t first = c * CHUNK + 2 * j;
      pair[j] = first < n_kept ? element(from, n_from, key, at[first]) : 0;
      if (first + 1 < n_kept) pair[j] |= element(from, n_from, key, at[first + 1]) << 16;
    }
    to[key * n_chunks + lk_cuda_swizzle(key, c, n_chunks)] =
        make_uint4(pair[0], pair[1], pair[2], pair[3]);
  }
}

static __global__ void pack_kernel(const __grid_constant__ lk_cuda_view src,
                                   const lk_page_entry *from_pages,
                                   const __grid_constant__ lk_cuda_view dst,
                                   const lk_page_entry *to_pages) {
  __shared__ uint4 k_from[LK_CUDA_P * MAX_HEAD_DIM / CHUNK];
  __shared__ uint16_t at[MAX_HEAD_DIM];
  lk_dependency_pass();
  const uint32_t h = blockIdx.y, d = dst.head_dim;
  const lk_page_entry from_page = from_pages[blockIdx.x], to_page = to_pages[blockIdx.x];
  const lk_cuda_head head = dst.heads[h];
  if (from_page.kind == LK_N_PAGE_KINDS || to_page.kind == LK_N_PAGE_KINDS || head.n_padded == 0)
    return;
  const bool from_lean = from_page.kind == LK_PAGE_LEAN;
  const uint32_t n_from = from_lean ? src.heads[h].n_padded : d;
  const uint4 *from = (const uint4 *)(page_of(src, from_page) +
                                      (from_lean ? src.heads[h].lean_offset : wide_offset(h, d)));
  uint4 *to = (uint4 *)(page_of(dst, to_page) + head.lean_offset);
  const uint32_t from_chunks = LK_CUDA_P * n_from / CHUNK, v_chunks = LK_CUDA_P * d / CHUNK;
  for (uint32_t i = threadIdx.x; i < from_chunks; i += THREADS) k_from[i] = from[i];
  find_channels(src, from_lean, dst, h, at);
  __syncthreads();
  gather((const uint16_t *)k_from, n_from, at, head.n_kept, head.n_padded, to);
  uint4 *v_to = to + LK_CUDA_P * head.n_padded / CHUNK;
  for (uint32_t i = threadIdx.x; i < v_chunks; i += THREADS) v_to[i] = from[from_chunks + i];
}

void lk_cuda_pack(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                  const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages) {
  if (n_pages == 0) return;
  const dim3 grid((unsigned)n_pages, dst->n_kv_heads);
  lk_cuda_launch(dev, "pack", pack_kernel, grid, THREADS, 0, *src, from, *dst, to);
}

/* ---- copy: blocks of 16 KB of a page ---- */

enum { COPY_CHUNKS = 1024 };

static __global__ void copy_kernel(const __grid_constant__ lk_cuda_view src,
                                   const lk_page_entry *from_pages,
                                   const __grid_constant__ lk_cuda_view dst,
                                   const lk_page_entry *to_pages) {
  const lk_page_entry from_page = from_pages[blockIdx.x], to_page = to_pages[blockIdx.x];
  if (from_page.kind == LK_N_PAGE_KINDS || to_page.kind == LK_N_PAGE_KINDS) return;
  const uint4 *from = (const uint4 *)page_of(src, from_page);
  uint4 *to = (uint4 *)page_of(dst, to_page);
  const size_t n = dst.page_bytes[to_page.kind] / sizeof(uint4);
  for (size_t first = (size_t)blockIdx.y * COPY_CHUNKS; first < n;
       first += (size_t)gridDim.y * COPY_CHUNKS)
    for (size_t i = first + threadIdx.x; i < first + COPY_CHUNKS && i < n; i += THREADS)
      to[i] = from[i];
}

void lk_cuda_copy_pages(lk_cuda_device *dev, const lk_cuda_view *src, const lk_page_entry *from,
                        const lk_cuda_view *dst, const lk_page_entry *to, size_t n_pages) {
  size_t most = 0;
  for (int kind = 0; kind < LK_N_PAGE_KINDS; kind++)
    if (dst->page_bytes[kind] > most) most = dst->page_bytes[kind];
  if (n_pages == 0 || most == 0) return;
  const unsigned parts = lk_cuda_blocks(most / sizeof(uint4), COPY_CHUNKS);
  const dim3 grid((unsigned)n_pages, parts < 64 ? parts : 64);
  copy_kernel<<<grid, THREADS, 0, dev->stream>>>(*src, from, *dst, to);
  lk_cuda_launched(dev, "copy_pages");
}

/* ---- sums: of each page by itself, then one after another ---- */

enum { AHEAD = 8 };

/* Head h's sum over a page, in the order of keys, of the thread's channel: threads [2][D], of K and
 * of V. */
static __device__ __forceinline__ float page_sum(const lk_cuda_view &view, lk_page_entry page,
                                                 uint32_t h) {
  const uint32_t d = view.head_dim, is_v = threadIdx.x / d;
  const uint32_t channel = threadIdx.x % d, n_chunks = d / CHUNK;
  const uint16_t *rows = (const uint16_t *)(page_of(view, page) + wide_offset(h, d)) +
                         is_v * LK_CUDA_P * d + channel % CHUNK;
  float sum = 0;
#pragma unroll 16
  for (uint32_t key = 0; key < LK_CUDA_P; key++) {
    const uint16_t x = rows[key * d + lk_cuda_swizzle(key, channel / CHUNK, n_chunks) * CHUNK];
    sum += view.is_f16 ? lk_cuda_from_f16(x) : lk_cuda_from_bf16(x);
  }
  return sum;
}

/* sums[i + 1] = page i's sums. */
static __global__ void page_sums_kernel(const __grid_constant__ lk_cuda_view view,
                                        const lk_page_entry *pages, float *sums) {
  const uint32_t h = blockIdx.y;
  sums[(((size_t)blockIdx.x + 1) * view.n_kv_heads + h) * 2 * view.head_dim + threadIdx.x] =
      page_sum(view, pages[blockIdx.x], h);
}

/* sums[i + 1] += sums[i], i ascending; several loads at once, since each sum waits for the last. */
static __global__ void running_sums_kernel(float *sums, size_t n_pages, size_t n) {
  const size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (at >= n) return;
  float sum = sums[at];
  for (size_t first = 1; first <= n_pages; first += AHEAD) {
    float page[AHEAD];
#pragma unroll
    for (size_t i = 0; i < AHEAD; i++)
      page[i] = first + i <= n_pages ? sums[(first + i) * n + at] : 0;
#pragma unroll
    for (size_t i = 0; i < AHEAD; i++) {
      sum += page[i];
      if (first + i <= n_pages) sums[(first + i) * n + at] = sum;
    }
  }
}

void lk_cuda_sum_pages(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                       size_t n_pages, float *sums) {
  if (n_pages == 0) return;
  const dim3 grid((unsigned)n_pages, view->n_kv_heads);
  page_sums_kernel<<<grid, 2 * view->head_dim, 0, dev->stream>>>(*view, pages, sums);
  lk_cuda_launched(dev, "sum_pages");
  const size_t n = (size_t)view->n_kv_heads * 2 * view->head_dim;
  running_sums_kernel<<<lk_cuda_blocks(n, THREADS), THREADS, 0, dev->stream>>>(sums, n_pages, n);
  lk_cuda_launched(dev, "sum_pages");
}

static __global__ void sum_rows_kernel(const __grid_constant__ lk_cuda_view view,
                                       const lk_page_entry *pages, const lk_cuda_group *groups,
                                       size_t offset) {
  const uint32_t h = blockIdx.y;
  const lk_page_entry page = pages[blockIdx.x];
  float *mean = groups[blockIdx.x].mean;
  if (page.kind == LK_N_PAGE_KINDS || mean == NULL) return;
  mean[offset + (size_t)h * 2 * view.head_dim + threadIdx.x] += page_sum(view, page, h);
}

void lk_cuda_sum_rows(lk_cuda_device *dev, const lk_cuda_view *view, const lk_page_entry *pages,
                      size_t n_pages, const lk_cuda_group *groups, size_t offset) {
  if (n_pages == 0) return;
  const dim3 grid((unsigned)n_pages, view->n_kv_heads);
  sum_rows_kernel<<<grid, 2 * view->head_dim, 0, dev->stream>>>(*view, pages, groups, offset);
  lk_cuda_launched(dev, "sum_rows");
}
