/* What decode attention leaves in partials, merged: one block a sequence and query head, or several
 * with a part of its channels each. */
#include <math.h>

#include "cuda/attention/dealing.cuh"
#include "cuda/ops.cuh"

enum {
  MAX_MERGE_THREADS = 512,
  MAX_MERGE_LANES = 64, /* nodes at a time */
  MERGE_PARTS = 4       /* blocks of a query head where there are few heads in all */
};

/* A running fold, of two channels. */
typedef struct merge_sum {
  float m, l;
  float2 o;
} merge_sum;

static __device__ __forceinline__ merge_sum merge_nothing(void) {
  return merge_sum{-INFINITY, 0.0f, make_float2(0.0f, 0.0f)};
}
static __device__ __forceinline__ void merge_fold(merge_sum *s, float m, float l, float2 o) {
  float a, b;
  lk_fold_factors(&s->m, m, &a, &b);
  s->l = lk_folded(s->l, a, l, b);
  s->o.x = lk_folded(s->o.x, a, o.x, b);
  s->o.y = lk_folded(s->o.y, a, o.y, b);
}

/* The fold of a node's chunks, or its partial where a block had the node whole. Eager: all partials
 * are asked for before it is known whether they count, so that memory is waited for once. */
static __device__ merge_sum merge_node(const lk_cuda_decode *job, uint32_t group, uint32_t head,
                                       const lk_pages *pages, bool empty_head, uint32_t node,
                                       uint32_t q, uint32_t channel, bool eager) {
  const uint32_t group_size = job->view.n_heads / job->view.n_kv_heads;
  const size_t at = (size_t)q * job->view.head_dim + channel;
  const size_t tail = (size_t)group_size * job->view.head_dim;
  const size_t stride = lk_partial_floats(group_size, job->view.head_dim);
  const uint32_t begin = node * NODE_CHUNKS, end = min(begin + NODE_CHUNKS, lk_n_chunks(pages));
  uint32_t next;
  if (empty_head && lk_node_in_middle(pages, node, &next)) return merge_nothing();
  const float *base = lk_partial(job, group, head, begin);
  uint32_t first = NODE_CHUNKS; /* that has anything */
  bool whole = false;
  merge_sum part[NODE_CHUNKS], sum = merge_nothing();
#pragma unroll
  for (uint32_t i = 0; i < NODE_CHUNKS; i++) {
    part[i] = merge_nothing();
    if (begin + i >= end || (empty_head && lk_chunk_in_middle(pages, begin + i))) continue;
    const float *p = base + i * stride;
    if (first == NODE_CHUNKS) {
      first = i;
      whole = p[tail + PARTIAL_WHOLE] != 0.0f;
    } else if (!eager && whole) {
      continue;
    }
    part[i] =
        merge_sum{p[tail + PARTIAL_M + q], p[tail + PARTIAL_L + q], *(const float2 *)(p + at)};
  }
#pragma unroll
  for (uint32_t i = 0; i < NODE_CHUNKS; i++)
    if (!whole || i == first) merge_fold(&sum, part[i].m, part[i].l, part[i].o);
  return sum;
}

/* The middle of a head without lean pages, where its mean stands for it: one key, n times. */
static __device__ __forceinline__ void merge_mean(const lk_cuda_decode *job, uint32_t group,
                                                  uint32_t hq, uint32_t head, uint32_t channel,
                                                  merge_sum *sum) {
  const float m = job->mean_logits[(size_t)group * job->view.n_heads + hq];
  if (m == -INFINITY) return;
  const lk_cuda_group *g = &job->groups[group];
  const float *values = g->mean + job->means.offset + ((size_t)head * 2 + 1) * job->view.head_dim;
  merge_fold(sum, m, (float)g->n_middle, *(const float2 *)(values + channel));
}

template <int D>
static __global__ void __launch_bounds__(MAX_MERGE_THREADS)
    merge_kernel(const __grid_constant__ lk_cuda_decode job, uint32_t n_parts) {
  __shared__ float node_m[MAX_MERGE_LANES], node_l[MAX_MERGE_LANES];
  __shared__ float span_m[MAX_MERGE_LANES / SPAN_NODES], span_l[MAX_MERGE_LANES / SPAN_NODES];
  __shared__ float2 node_o[MAX_MERGE_THREADS];
  const uint32_t width = D / 2 / n_parts, n_lanes = blockDim.x / width;
  const uint32_t pair = threadIdx.x % width, lane = threadIdx.x / width;
  const uint32_t hq = blockIdx.x / n_parts, group = blockIdx.y;
  const uint32_t group_size = job.view.n_heads / job.view.n_kv_heads;
  const uint32_t q = hq % group_size, head = hq / group_size;
  const uint32_t channel = (blockIdx.x % n_parts * width + pair) * 2;
  const lk_pages pages = lk_pages_of_group(&job.groups[group]);
  const bool empty_head = job.view.heads[head].n_padded == 0;
  const uint32_t n_nodes = (lk_n_chunks(&pages) + NODE_CHUNKS - 1) / NODE_CHUNKS;
  merge_sum total = merge_nothing(), span = merge_nothing();
  lk_dependency_pass();
  for (uint32_t base = 0; base < n_nodes; base += n_lanes) {
    const uint32_t n = min(n_nodes - base, n_lanes);
    if (lane < n) {
      const merge_sum node =
          merge_node(&job, group, head, &pages, empty_head, base + lane, q, channel, n_parts > 1);
      node_o[threadIdx.x] = node.o;
      if (pair == 0) {
        node_m[lane] = node.m;
        node_l[lane] = node.l;
      }
    }
    __syncthreads();
    if (n_lanes >= SPAN_NODES) {
      if (lane % SPAN_NODES == 0 && lane < n) {
        span = merge_nothing();
        for (uint32_t i = lane; i < min(lane + SPAN_NODES, n); i++)
          merge_fold(&span, node_m[i], node_l[i], node_o[i * width + pair]);
        node_o[threadIdx.x] = span.o;
        if (pair == 0) {
          span_m[lane / SPAN_NODES] = span.m;
          span_l[lane / SPAN_NODES] = span.l;
        }
      }
      __syncthreads();
      for (uint32_t i = 0; lane == 0 && i < n; i += SPAN_NODES)
        merge_fold(&total, span_m[i / SPAN_NODES], span_l[i / SPAN_NODES],
                   node_o[i * width + pair]);
    } else {
      for (uint32_t i = 0; lane == 0 && i < n; i++) {
        merge_fold(&span, node_m[i], node_l[i], node_o[i * width + pair]);
        if ((base + i) % SPAN_NODES != SPAN_NODES - 1 && base + i + 1 < n_nodes) continue;
        merge_fold(&total, span.m, span.l, span.o);
        span = merge_nothing();
      }
    }
    __syncthreads();
  }
  if (lane != 0) return;
  if (empty_head && job.mean_logits != NULL) merge_mean(&job, group, hq, head, channel, &total);
  float2 *out = (float2 *)(job.out + ((size_t)group * job.view.n_heads + hq) * D + channel);
  /* With no key at all, 0. */
  const float l = total.l == 0.0f ? 1.0f : total.l;
  *out = make_float2(total.o.x / l, total.o.y / l);
}

/* ---- launching ---- */

/* Few heads: several blocks each, with all nodes at once. Many: as many nodes at a time as the
 * device has threads for. */
static void choose_merge(const lk_cuda_device *dev, const lk_cuda_decode *job, uint32_t *n_parts,
                         uint32_t *n_lanes) {
  const size_t n_heads = (size_t)job->n_groups * job->view.n_heads;
  *n_parts = n_heads * MERGE_PARTS <= 2 * (size_t)dev->n_sm ? MERGE_PARTS : 1;
  const uint32_t width = job->view.head_dim / 2 / *n_parts;
  *n_lanes = 1;
  while (*n_lanes * NODE_PAGES < job->max_pages && *n_lanes < MAX_MERGE_LANES &&
         2 * *n_lanes * width <= MAX_MERGE_THREADS &&
         2 * *n_lanes * width * *n_parts * n_heads <= (size_t)dev->n_sm * 2048)
    *n_lanes *= 2;
}

template <int D> static void launch(lk_cuda_device *dev, const lk_cuda_decode *job) {
  uint32_t n_parts, n_lanes;
  choose_merge(dev, job, &n_parts, &n_lanes);
  lk_cuda_launch(dev, "merge of attention", merge_kernel<D>,
                 dim3(job->view.n_heads * n_parts, job->n_groups), n_lanes * (D / 2 / n_parts), 0,
                 *job, n_parts);
}

void lk_cuda_merge(lk_cuda_device *dev, const lk_cuda_decode *job) {
  if (job->view.head_dim == 128)
    launch<128>(dev, job);
  else
    launch<64>(dev, job);
}
