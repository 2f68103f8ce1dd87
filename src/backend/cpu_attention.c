/* The CPU backend: attention dealt over threads.
 *
 * Few rows (decode): an item is (row, kv head, chunk of LK_CPU_CHUNK_PAGES pages by position); its
 * partial goes to a place of its own and partials are merged in chunk order, so the bits depend
 * neither on the batch nor on who computed what. Many rows (prefill): an item is (block of rows, kv
 * head) and goes through its pages in order. */
#include <math.h>
#include <string.h>

#include "backend/cpu.h"
#include "backend/flops.h"

static size_t group_size(const lk_attn_shape *s) { return s->n_heads / s->n_kv_heads; }

static size_t max_query_rows(const lk_attn_shape *s) {
  const size_t g = group_size(s);
  const size_t positions = LK_CPU_ROWS_BLOCK / g ? LK_CPU_ROWS_BLOCK / g : 1;
  return positions * g;
}
static size_t chunk_count(size_t n_pages) {
  return (n_pages + LK_CPU_CHUNK_PAGES - 1) / LK_CPU_CHUNK_PAGES;
}

/* Most channels of a lean page. */
static size_t max_lean(const lk_backend_options *o) {
  const size_t granule = lk_kv_granule(o->kv_type);
  return (o->shape.head_dim + granule - 1) / granule * granule;
}

static bool open_worker(lk_cpu_worker *w, const lk_backend_options *o, size_t m) {
  const size_t d = o->shape.head_dim;
  w->views = lk_alloc(LK_MEM_SCRATCH, o->max_pages, sizeof *w->views);
  w->q = lk_alloc(LK_MEM_SCRATCH, m * d, sizeof(float));
  w->q_lean = lk_alloc(LK_MEM_SCRATCH, m * max_lean(o), sizeof(float));
  w->bias = lk_alloc(LK_MEM_SCRATCH, m, sizeof(float));
  w->pos = lk_alloc(LK_MEM_SCRATCH, m, sizeof *w->pos);
  w->m = lk_alloc(LK_MEM_SCRATCH, 2 * m, sizeof(float));
  w->l = lk_alloc(LK_MEM_SCRATCH, 2 * m, sizeof(float));
  w->o = lk_alloc(LK_MEM_SCRATCH, 2 * m * d, sizeof(float));
  w->scratch = lk_alloc(LK_MEM_SCRATCH, lk_attend_scratch_bytes(o->kv_type, m, d), 1);
  w->channels = lk_alloc(LK_MEM_SCRATCH, d, sizeof *w->channels);
  return w->channels && w->views && w->q && w->q_lean && w->bias && w->pos && w->m && w->l &&
         w->o && w->scratch;
}

static size_t worker_bytes(const lk_backend_options *o, size_t m) {
  const size_t d = o->shape.head_dim;
  return o->max_pages * sizeof(lk_page_view) + m * (3 * d + max_lean(o)) * sizeof(float) +
         5 * m * sizeof(float) + m * sizeof(int64_t) + d * sizeof(uint16_t) +
         lk_attend_scratch_bytes(o->kv_type, m, d);
}

/* Partials of one row: [Hk][chunks + 1][G], the last for the mean. */
static size_t parts_per_row(const lk_backend_options *o) {
  return o->shape.n_heads * (chunk_count(o->max_pages) + 1);
}

size_t lk_backend_cpu_scratch_bytes(const lk_backend_options *o) {
  return o->n_threads * (worker_bytes(o, max_query_rows(&o->shape)) +
                         LK_GEMM_ROW_TILE * LK_GEMM_BACK_TILE * sizeof(float)) +
         o->max_few_rows * (parts_per_row(o) * (o->shape.head_dim + 2) * sizeof(float) +
                            lk_matvec_most_row_bytes(o->max_cols));
}

leank_status lk_cpu_attention_open(lk_cpu_backend *cpu, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_backend_options *o = &cpu->options;
  cpu->max_query_rows = max_query_rows(&o->shape);
  cpu->max_chunks = chunk_count(o->max_pages);
  const size_t n_parts = o->max_few_rows * parts_per_row(o);
  cpu->part_m = lk_alloc(LK_MEM_SCRATCH, n_parts, sizeof(float));
  cpu->part_l = lk_alloc(LK_MEM_SCRATCH, n_parts, sizeof(float));
  cpu->part_o = lk_alloc(LK_MEM_SCRATCH, n_parts, o->shape.head_dim * sizeof(float));
  cpu->workers = lk_alloc(LK_MEM_SCRATCH, o->n_threads, sizeof *cpu->workers);
  LK_FAIL_IF(!cpu->part_m || !cpu->part_l || !cpu->part_o || !cpu->workers, err, LEANK_E_MEMORY, -1,
             "out of memory for attention partials");
  for (size_t i = 0; i < o->n_threads; i++)
    LK_FAIL_IF(!open_worker(&cpu->workers[i], o, cpu->max_query_rows), err, LEANK_E_MEMORY, -1,
               "out of memory for attention scratch");
cleanup:
  return status;
}

void lk_cpu_attention_close(lk_cpu_backend *cpu) {
  for (size_t i = 0; cpu->workers && i < cpu->options.n_threads; i++) {
    lk_cpu_worker *w = &cpu->workers[i];
    lk_free(w->views);
    lk_free(w->q);
    lk_free(w->q_lean);
    lk_free(w->bias);
    lk_free(w->pos);
    lk_free(w->m);
    lk_free(w->l);
    lk_free(w->o);
    lk_free(w->scratch);
    lk_free(w->channels);
  }
  lk_free(cpu->workers);
  lk_free(cpu->part_m);
  lk_free(cpu->part_l);
  lk_free(cpu->part_o);
}

typedef struct attend_job {
  lk_cpu_backend *cpu;
  const lk_attn_shape *shape;
  const lk_layer_view *view;
  const lk_attend_group *groups;
  size_t n_groups;
  const float *q;
  float *out;
  size_t n_chunks;           /* few: chunks of the longest row */
  size_t positions_per_item; /* many */
} attend_job;

/* Views of pages [first, end) of a group as kv head h sees them up to last_pos; returns the count.
 */
static size_t make_views(const attend_job *job, const lk_attend_group *g, size_t h, size_t first,
                         size_t end, int64_t last_pos, lk_page_view *views) {
  const leank_kv_type type = job->cpu->options.kv_type;
  const size_t d = job->shape->head_dim;
  const size_t wide_k = lk_segment_k_bytes(type, LK_PAGE_WIDE, d);
  const size_t wide_segment = lk_cpu_wide_segment_bytes(job->cpu, d);
  const lk_head_map *head = &job->view->heads[h];
  const size_t lean_k = lk_segment_k_bytes(type, LK_PAGE_LEAN, head->n_padded);
  size_t n = 0;
  for (size_t p = first; p < end; p++) {
    const lk_page_entry e = g->table[p];
    const int64_t pos = (int64_t)(p * LK_PAGE_TOKENS), left = last_pos + 1 - pos;
    if (left <= 0) break;
    const bool lean = e.kind == LK_PAGE_LEAN;
    if (lean && head->n_kept == 0) continue;
    const unsigned char *k =
        lk_view_page(job->view, e) + (lean ? job->view->lean_offset[h] : h * wide_segment);
    const unsigned char *v = k + (lean ? lean_k : wide_k);
    const uint32_t n_keys = left < LK_PAGE_TOKENS ? (uint32_t)left : LK_PAGE_TOKENS;
    views[n++] = (lk_page_view){k, v, pos, n_keys, lean};
  }
  return n;
}

static const float *mean_of(const attend_job *job, const lk_attend_group *g) {
  return g->mean + job->view->mean_offset;
}

static float dot_mean(const float *q, const float *sum, const uint16_t *channels, size_t n,
                      float per_token) {
  float s = 0;
  for (size_t i = 0; i < n; i++) {
    const size_t c = channels ? channels[i] : i;
    s += q[c] * (sum[c] * per_token);
  }
  return s;
}

/* The mean key stands in for the pruned channels of a head that keeps some: a bias on its lean
 * logits. */
static bool uses_bias(const attend_job *job, const lk_attend_group *g, size_t h) {
  return job->shape->mean_for_pruned && g->mean && g->n_middle > 0 &&
         job->view->heads[h].n_kept > 0;
}

/* Fills the worker's q (scaled), q_lean, bias and pos for rows [row, row + n) of a group. */
static void prepare_queries(const attend_job *job, const lk_attend_group *g, size_t h, size_t row,
                            size_t n, lk_cpu_worker *w) {
  const lk_attn_shape *s = job->shape;
  const size_t d = s->head_dim, per = group_size(s);
  const lk_head_map *head = &job->view->heads[h];
  const float scale = (float)(1.0 / sqrt((double)d));
  const bool has_bias = uses_bias(job, g, h);
  for (size_t i = 0; i < n * per; i++) {
    const size_t r = row + i / per;
    const float *q = job->q + (r * s->n_heads + h * per + i % per) * d;
    float *to = w->q + i * d, *lean = w->q_lean + i * head->n_padded;
    for (size_t c = 0; c < d; c++) to[c] = q[c] * scale;
    for (size_t c = 0; c < head->n_kept; c++) lean[c] = to[head->channels[c]];
    for (size_t c = head->n_kept; c < head->n_padded; c++) lean[c] = 0;
    w->pos[i] = g->first_pos + (int64_t)(r - g->first_row);
    if (has_bias)
      w->bias[i] = dot_mean(to, mean_of(job, g) + h * 2 * d, head->dropped, d - head->n_kept,
                            1.0f / (float)g->n_middle);
  }
}

static lk_attend_args make_args(const attend_job *job, const lk_attend_group *g, size_t h,
                                size_t n_q, size_t n_pages, lk_cpu_worker *w) {
  const lk_head_map *head = &job->view->heads[h];
  return (lk_attend_args){.n_q = n_q,
                          .head_dim = job->shape->head_dim,
                          .n_lean = head->n_padded,
                          .q = w->q,
                          .q_lean = w->q_lean,
                          .lean_bias = uses_bias(job, g, h) ? w->bias : NULL,
                          .q_pos = w->pos,
                          .pages = w->views,
                          .n_pages = n_pages,
                          .scratch = w->scratch};
}

static bool uses_mean(const attend_job *job, const lk_attend_group *g, size_t h) {
  return job->shape->mean_for_empty && g->mean && g->n_middle > 0 &&
         job->view->heads[h].n_kept == 0;
}

/* The middle of an empty head as one partial: logit s of the mean key, weight n, sum of values. */
static void mean_partial(const attend_job *job, const lk_attend_group *g, size_t h,
                         const float *q_scaled, float *m, float *l, float *o) {
  const size_t d = job->shape->head_dim;
  const float *sum = mean_of(job, g) + h * 2 * d;
  *m = dot_mean(q_scaled, sum, NULL, d, 1.0f / (float)g->n_middle);
  *l = (float)g->n_middle;
  memcpy(o, sum + d, d * sizeof(float));
}

/* ---- few rows ---- */

static size_t part_index(const attend_job *job, size_t row, size_t h, size_t chunk) {
  const size_t per = group_size(job->shape);
  return ((row * job->shape->n_kv_heads + h) * (job->cpu->max_chunks + 1) + chunk) * per;
}

/* An item of few rows: a chunk of pages of one group, for one kv head. A group holds one row. */
typedef struct few_work {
  const lk_attend_group *group;
  size_t gi, h, chunk;
  size_t first, end; /* pages; first >= end where the group is shorter */
} few_work;

static few_work few_work_of(const attend_job *job, size_t item) {
  const size_t n_kv = job->shape->n_kv_heads;
  few_work w = {
      .gi = item / n_kv % job->n_groups, .h = item % n_kv, .chunk = item / n_kv / job->n_groups};
  w.group = &job->groups[w.gi];
  const size_t n_pages = (size_t)w.group->first_pos / LK_PAGE_TOKENS + 1;
  w.first = w.chunk * LK_CPU_CHUNK_PAGES;
  w.end = w.first + LK_CPU_CHUNK_PAGES < n_pages ? w.first + LK_CPU_CHUNK_PAGES : n_pages;
  return w;
}

/* Where the item this thread gets next, if the others keep pace, will begin to read. */
static void look_ahead(const attend_job *job, size_t item, lk_attend_args *args) {
  const size_t next = item + lk_team_size(job->cpu->team);
  if (next >= job->n_chunks * job->n_groups * job->shape->n_kv_heads) return;
  const few_work w = few_work_of(job, next);
  lk_page_view view;
  if (w.first >= w.end ||
      make_views(job, w.group, w.h, w.first, w.first + 1, w.group->first_pos, &view) == 0)
    return;
  const leank_kv_type type = job->cpu->options.kv_type;
  const size_t d = job->shape->head_dim;
  args->ahead = view.k;
  const lk_page_kind kind = view.lean ? LK_PAGE_LEAN : LK_PAGE_WIDE;
  args->ahead_bytes =
      lk_segment_k_bytes(type, kind, view.lean ? job->view->heads[w.h].n_padded : d) +
      lk_segment_v_bytes(type, kind, d);
}

static void few_item(void *ctx, size_t item, size_t thread) {
  const attend_job *job = ctx;
  lk_cpu_backend *cpu = job->cpu;
  const size_t per = group_size(job->shape);
  const few_work work = few_work_of(job, item);
  const lk_attend_group *g = work.group;
  if (work.first >= work.end) return;
  lk_cpu_worker *w = &cpu->workers[thread];
  const size_t part = part_index(job, work.gi, work.h, work.chunk);
  const size_t n_views = make_views(job, g, work.h, work.first, work.end, g->first_pos, w->views);
  if (n_views == 0) {
    for (size_t i = 0; i < per; i++) cpu->part_m[part + i] = -INFINITY;
    return;
  }
  prepare_queries(job, g, work.h, g->first_row, 1, w);
  lk_attend_args args = make_args(job, g, work.h, per, n_views, w);
  args.m = cpu->part_m + part;
  args.l = cpu->part_l + part;
  args.o = cpu->part_o + part * job->shape->head_dim;
  look_ahead(job, item, &args);
  cpu->attend->decode(&args);
}

/* Item: (group, kv head): the mean's partial, then the merge in chunk order. */
static void few_merge_item(void *ctx, size_t item, size_t thread) {
  const attend_job *job = ctx;
  lk_cpu_backend *cpu = job->cpu;
  const size_t d = job->shape->head_dim, per = group_size(job->shape);
  const size_t h = item % job->shape->n_kv_heads, gi = item / job->shape->n_kv_heads;
  const lk_attend_group *g = &job->groups[gi];
  const size_t n_chunks = chunk_count((size_t)g->first_pos / LK_PAGE_TOKENS + 1);
  const size_t part = part_index(job, gi, h, 0), mean = part_index(job, gi, h, n_chunks);
  const bool with_mean = uses_mean(job, g, h);
  lk_cpu_worker *w = &cpu->workers[thread];
  if (with_mean) prepare_queries(job, g, h, g->first_row, 1, w);
  for (size_t i = 0; i < per; i++) {
    if (with_mean)
      mean_partial(job, g, h, w->q + i * d, &cpu->part_m[mean + i], &cpu->part_l[mean + i],
                   cpu->part_o + (mean + i) * d);
    float *out = job->out + (g->first_row * job->shape->n_heads + h * per + i) * d;
    lk_attend_merge(n_chunks + with_mean, cpu->part_m + part + i, cpu->part_l + part + i, per,
                    cpu->part_o + (part + i) * d, per * d, d, out);
  }
}

static void attend_few(attend_job *job) {
  const size_t n_heads = job->n_groups * job->shape->n_kv_heads;
  for (size_t i = 0; i < job->n_groups; i++) {
    const size_t n = chunk_count((size_t)job->groups[i].first_pos / LK_PAGE_TOKENS + 1);
    if (n > job->n_chunks) job->n_chunks = n;
  }
  lk_team *team = job->cpu->team;
  lk_parallel_for(team, job->n_chunks * n_heads, few_item, job);
  lk_parallel_for(job->n_chunks * n_heads < 16 ? NULL : team, n_heads, few_merge_item, job);
}

/* ---- many rows ---- */

/* Item: (block of positions of one group, kv head). */
static void attend_block(const attend_job *job, const lk_attend_group *g, size_t row, size_t n,
                         size_t h, lk_cpu_worker *w) {
  const size_t d = job->shape->head_dim, per = group_size(job->shape);
  const int64_t last_pos = g->first_pos + (int64_t)(row + n - 1 - g->first_row);
  const size_t n_pages = (size_t)last_pos / LK_PAGE_TOKENS + 1;
  const size_t n_views = make_views(job, g, h, 0, n_pages, last_pos, w->views);
  prepare_queries(job, g, h, row, n, w);
  lk_attend_args args = make_args(job, g, h, n * per, n_views, w);
  args.m = w->m;
  args.l = w->l;
  args.o = w->o;
  job->cpu->attend->rows(&args);
  const bool with_mean = uses_mean(job, g, h);
  for (size_t i = 0; i < n * per; i++) {
    float *out = job->out + ((row + i / per) * job->shape->n_heads + h * per + i % per) * d;
    if (!with_mean) {
      lk_attend_merge(1, w->m + i, w->l + i, 1, w->o + i * d, d, d, out);
      continue;
    }
    const size_t mean = args.n_q + i;
    mean_partial(job, g, h, w->q + i * d, w->m + mean, w->l + mean, w->o + mean * d);
    lk_attend_merge(2, w->m + i, w->l + i, args.n_q, w->o + i * d, args.n_q * d, d, out);
  }
}

static size_t blocks_of(const attend_job *job, const lk_attend_group *g) {
  return (g->n_rows + job->positions_per_item - 1) / job->positions_per_item;
}

static void many_item(void *ctx, size_t item, size_t thread) {
  const attend_job *job = ctx;
  const size_t h = item % job->shape->n_kv_heads;
  size_t block = item / job->shape->n_kv_heads;
  const lk_attend_group *g = job->groups;
  for (; block >= blocks_of(job, g); g++) block -= blocks_of(job, g);
  const size_t row = g->first_row + block * job->positions_per_item;
  const size_t left = g->first_row + g->n_rows - row;
  const size_t n = left < job->positions_per_item ? left : job->positions_per_item;
  attend_block(job, g, row, n, h, &job->cpu->workers[thread]);
}

static void attend_many(attend_job *job) {
  job->positions_per_item = job->cpu->max_query_rows / group_size(job->shape);
  size_t n_blocks = 0;
  for (size_t i = 0; i < job->n_groups; i++) n_blocks += blocks_of(job, &job->groups[i]);
  lk_parallel_for(job->cpu->team, n_blocks * job->shape->n_kv_heads, many_item, job);
}

leank_status lk_cpu_attend(lk_backend *be, lk_linear_kind kind, const lk_attn_shape *shape,
                           const lk_layer_view *view, const lk_rows *rows, size_t first, size_t n,
                           const float *q, float *out, leank_error *err) {
  (void)err;
  attend_job job = {.cpu = lk_cpu(be),
                    .shape = shape,
                    .view = view,
                    .groups = rows->groups + first,
                    .n_groups = n,
                    .q = q,
                    .out = out};
  for (size_t i = 0; i < n; i++)
    lk_cpu(be)->n_flops += lk_attend_flops(shape, view, &job.groups[i]);
  if (kind == LK_LINEAR_FEW)
    attend_few(&job);
  else
    attend_many(&job);
  return LEANK_OK;
}
