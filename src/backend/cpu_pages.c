/* The CPU backend: tokens into pages, pages into pages. */
#include <math.h>
#include <string.h>

#include "backend/cpu.h"

typedef struct page_job {
  lk_cpu_backend *cpu;
  const lk_attn_shape *shape;
  const lk_layer_view *src, *dst;
  const lk_page_entry *from, *to;
  const float *k, *v;
  const lk_slot *slots;
  const lk_attend_group *groups;
  size_t n_rows, n_pages;
  float *sums;
} page_job;

static void append_item(void *ctx, size_t h, size_t thread) {
  (void)thread;
  const page_job *job = ctx;
  const size_t d = job->shape->head_dim, n_heads = job->shape->n_kv_heads;
  const size_t offset = h * lk_cpu_wide_segment_bytes(job->cpu, d);
  const size_t k_bytes = lk_segment_k_bytes(job->cpu->options.kv_type, LK_PAGE_WIDE, d);
  for (size_t r = 0; r < job->n_rows; r++) {
    unsigned char *segment = lk_view_page(job->dst, job->slots[r].page) + offset;
    const size_t at = (r * n_heads + h) * d;
    job->cpu->page->append(segment, segment + k_bytes, d, job->slots[r].key, job->k + at,
                           job->v + at);
  }
}

void lk_cpu_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                   const lk_rows *rows, size_t first, size_t n, const float *k, const float *v) {
  const size_t width = shape->n_kv_heads * shape->head_dim;
  page_job job = {.cpu = lk_cpu(be),
                  .shape = shape,
                  .dst = view,
                  .k = k + first * width,
                  .v = v + first * width,
                  .slots = rows->slots + first,
                  .n_rows = n};
  lk_parallel_for(n < 16 ? NULL : job.cpu->team, shape->n_kv_heads, append_item, &job);
}

/* Where the channels of `to` stand among those that a lean source keeps (all of them: checked by
 * the cache). */
static void find_channels(const lk_head_map *from, const lk_head_map *to, uint16_t *at) {
  size_t f = 0;
  for (size_t i = 0; i < to->n_kept; i++) {
    while (from->channels[f] != to->channels[i]) f++;
    at[i] = (uint16_t)f;
  }
}

/* A head's segment, from a wide or stage page. */
static void pack_wide(const page_job *job, const unsigned char *from, const lk_head_map *head,
                      unsigned char *lean) {
  const leank_kv_type type = job->cpu->options.kv_type;
  const size_t d = job->shape->head_dim;
  job->cpu->page->pack(from, d, head->channels, head->n_kept, head->n_padded, lean);
  job->cpu->page->pack_v(from + lk_segment_k_bytes(type, LK_PAGE_WIDE, d), d,
                         lean + lk_segment_k_bytes(type, LK_PAGE_LEAN, head->n_padded));
}

/* The same from a lean page, which keeps at least these channels. */
static void pack_lean(const page_job *job, const unsigned char *from, const lk_head_map *source,
                      const lk_head_map *head, uint16_t *channels, unsigned char *lean) {
  const leank_kv_type type = job->cpu->options.kv_type;
  find_channels(source, head, channels);
  job->cpu->page->repack(from, source->n_padded, channels, head->n_kept, head->n_padded, lean);
  memcpy(lean + lk_segment_k_bytes(type, LK_PAGE_LEAN, head->n_padded),
         from + lk_segment_k_bytes(type, LK_PAGE_LEAN, source->n_padded),
         lk_segment_v_bytes(type, LK_PAGE_LEAN, job->shape->head_dim));
}

/* Item: one page; every head that keeps anything. */
static void pack_item(void *ctx, size_t i, size_t thread) {
  const page_job *job = ctx;
  if (job->from[i].kind == LK_N_PAGE_KINDS) return;
  const size_t wide_segment = lk_cpu_wide_segment_bytes(job->cpu, job->shape->head_dim);
  const unsigned char *from = lk_view_page(job->src, job->from[i]);
  unsigned char *to = lk_view_page(job->dst, job->to[i]);
  for (size_t h = 0; h < job->shape->n_kv_heads; h++) {
    const lk_head_map *head = &job->dst->heads[h];
    if (head->n_kept == 0) continue;
    unsigned char *lean = to + job->dst->lean_offset[h];
    if (job->from[i].kind == LK_PAGE_LEAN)
      pack_lean(job, from + job->src->lean_offset[h], &job->src->heads[h], head,
                job->cpu->workers[thread].channels, lean);
    else
      pack_wide(job, from + h * wide_segment, head, lean);
  }
}

void lk_cpu_pack(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *src,
                 const lk_page_entry *from, const lk_layer_view *dst, const lk_page_entry *to,
                 size_t n_pages) {
  page_job job = {
      .cpu = lk_cpu(be), .shape = shape, .src = src, .dst = dst, .from = from, .to = to};
  lk_parallel_for(job.cpu->team, n_pages, pack_item, &job);
}

void lk_cpu_pack_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                      const lk_rows *rows) {
  lk_cpu_pack(be, shape, view, rows->pack_from, view, rows->pack_to, rows->n_packed);
}

static void copy_item(void *ctx, size_t i, size_t thread) {
  (void)thread;
  const page_job *job = ctx;
  memcpy(lk_view_page(job->dst, job->to[i]), lk_view_page(job->src, job->from[i]),
         job->dst->page_bytes[job->to[i].kind]);
}

void lk_cpu_copy_pages(lk_backend *be, const lk_layer_view *src, const lk_page_entry *from,
                       const lk_layer_view *dst, const lk_page_entry *to, size_t n_pages) {
  page_job job = {.cpu = lk_cpu(be), .src = src, .dst = dst, .from = from, .to = to};
  lk_parallel_for(job.cpu->team, n_pages, copy_item, &job);
}

/* Item: one head; its pages in order, as the sums are defined. */
static void sum_item(void *ctx, size_t h, size_t thread) {
  (void)thread;
  const page_job *job = ctx;
  const size_t d = job->shape->head_dim, stride = job->shape->n_kv_heads * 2 * d;
  const size_t offset = h * lk_cpu_wide_segment_bytes(job->cpu, d);
  const size_t k_bytes = lk_segment_k_bytes(job->cpu->options.kv_type, LK_PAGE_WIDE, d);
  for (size_t i = 0; i < job->n_pages; i++) {
    const unsigned char *segment = lk_view_page(job->src, job->from[i]) + offset;
    const float *before = job->sums + i * stride + h * 2 * d;
    float *after = job->sums + (i + 1) * stride + h * 2 * d;
    memcpy(after, before, 2 * d * sizeof(float));
    job->cpu->page->sum(segment, segment + k_bytes, d, after, after + d);
  }
}

void lk_cpu_sum_pages(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                      const lk_page_entry *pages, size_t n_pages, float *sums) {
  page_job job = {.cpu = lk_cpu(be),
                  .shape = shape,
                  .src = view,
                  .from = pages,
                  .n_pages = n_pages,
                  .sums = sums};
  lk_parallel_for(n_pages < 2 ? NULL : job.cpu->team, shape->n_kv_heads, sum_item, &job);
}

/* Item: one row's page, every head. */
static void sum_row_item(void *ctx, size_t i, size_t thread) {
  (void)thread;
  const page_job *job = ctx;
  const size_t d = job->shape->head_dim;
  const size_t wide_segment = lk_cpu_wide_segment_bytes(job->cpu, d);
  const size_t k_bytes = lk_segment_k_bytes(job->cpu->options.kv_type, LK_PAGE_WIDE, d);
  if (job->from[i].kind == LK_N_PAGE_KINDS) return;
  const unsigned char *segment = lk_view_page(job->src, job->from[i]);
  float *sums = job->groups[i].mean + job->src->mean_offset;
  for (size_t h = 0; h < job->shape->n_kv_heads; h++, segment += wide_segment, sums += 2 * d)
    job->cpu->page->sum(segment, segment + k_bytes, d, sums, sums + d);
}

void lk_cpu_sum_rows(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                     const lk_rows *rows) {
  page_job job = {.cpu = lk_cpu(be),
                  .shape = shape,
                  .src = view,
                  .from = rows->pack_from,
                  .groups = rows->groups};
  lk_parallel_for(rows->n_packed < 2 ? NULL : job.cpu->team, rows->n_packed, sum_row_item, &job);
}

typedef struct stats_job {
  const float *x;
  size_t n_rows, n_kv_heads, n_per, head_dim;
  leank_channel_order order;
  double *sum_abs, *sum_sq;
} stats_job;

static void stats_item(void *ctx, size_t h, size_t thread) {
  (void)thread;
  const stats_job *job = ctx;
  const size_t d = job->head_dim, n_heads = job->n_kv_heads * job->n_per;
  for (size_t c = 0; c < d; c++) {
    const size_t from = lk_channel_from_half(job->order, d, c);
    double sum_abs = 0, sum_sq = 0;
    for (size_t r = 0; r < job->n_rows; r++)
      for (size_t g = 0; g < job->n_per; g++) {
        const double value = job->x[(r * n_heads + h * job->n_per + g) * d + from];
        sum_abs += fabs(value);
        sum_sq += value * value;
      }
    if (job->sum_abs) job->sum_abs[h * d + c] += sum_abs;
    if (job->sum_sq) job->sum_sq[h * d + c] += sum_sq;
  }
}

void lk_head_stats(lk_team *team, const float *x, size_t n_rows, size_t n_kv_heads, size_t n_per,
                   size_t head_dim, leank_channel_order order, double *sum_abs, double *sum_sq) {
  stats_job job = {x, n_rows, n_kv_heads, n_per, head_dim, order, sum_abs, sum_sq};
  lk_parallel_for(team, n_kv_heads, stats_item, &job);
}

void lk_cpu_head_stats(lk_backend *be, const float *x, size_t n_rows, size_t n_kv_heads,
                       size_t n_per, size_t head_dim, leank_channel_order order, double *sum_abs,
                       double *sum_sq) {
  lk_head_stats(lk_cpu(be)->team, x, n_rows, n_kv_heads, n_per, head_dim, order, sum_abs, sum_sq);
}
