/* The CPU backend: the table, products, row operations. */
#include "backend/cpu.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/flops.h"
#include "base/clock.h"
#include "cpu/cpu_features.h"

_Static_assert((int)LK_Q8_MAX_HEAD_DIM == (int)LK_Q8_MAX_DIM, "one bound");

size_t lk_segment_k_bytes(leank_kv_type type, lk_page_kind kind, size_t n_channels) {
  return lk_page_k_bytes(type, kind == LK_PAGE_LEAN, n_channels);
}
size_t lk_segment_v_bytes(leank_kv_type type, lk_page_kind kind, size_t head_dim) {
  return lk_page_v_bytes(type, kind == LK_PAGE_LEAN, head_dim);
}

leank_status lk_backend_cpu_check(leank_cpu_level level, leank_error *err) {
  leank_status status = LEANK_OK;
  const char *name = lk_cpu_level_name(level);
  LK_FAIL_IF(!name, err, LEANK_E_ARGUMENT, -1, "unknown CPU level %d", (int)level);
  LK_FAIL_IF(!lk_cpu_level_is_own(level), err, LEANK_E_ARGUMENT, -1,
             "CPU level %s is not one of %s", name, lk_cpu_architecture());
cleanup:
  return status;
}

static void cpu_close(lk_backend *be) {
  lk_cpu_backend *cpu = lk_cpu(be);
  if (!cpu) return;
  lk_cpu_weighted_close(cpu);
  lk_cpu_attention_close(cpu);
  lk_gemm_close(&cpu->gemm);
  lk_team_close(&cpu->team);
  lk_free(cpu->kernel_names);
  lk_free(cpu->few_rows);
  lk_free(cpu);
}

static const char *cpu_kernels(const lk_backend *be) {
  return ((const lk_cpu_backend *)be)->kernel_names;
}
static size_t cpu_n_threads(const lk_backend *be) {
  return ((const lk_cpu_backend *)be)->options.n_threads;
}

static double cpu_flops(const lk_backend *be) { return ((const lk_cpu_backend *)be)->n_flops; }

static void *cpu_alloc(lk_backend *be, lk_mem_category category, size_t n_bytes) {
  (void)be;
  return lk_alloc(category, n_bytes, 1);
}
static void cpu_free(lk_backend *be, void *p) {
  (void)be;
  lk_free(p);
}
static leank_status cpu_reserve_rows(lk_backend *be, size_t n_rows, size_t n_cols,
                                     leank_error *err) {
  return lk_gemm_reserve(lk_cpu(be)->gemm, n_rows, n_cols, err);
}

/* Rows are read where they are, and done when an op returns. */
static leank_status cpu_stage_rows(lk_backend *be, const lk_rows *rows, leank_error *err) {
  (void)be, (void)rows, (void)err;
  return LEANK_OK;
}
static bool cpu_step_begin(lk_backend *be, uint64_t key) {
  (void)be, (void)key;
  return false;
}
static leank_status cpu_step_end(lk_backend *be, bool complete, leank_error *err) {
  (void)be, (void)complete, (void)err;
  return LEANK_OK;
}
static leank_status cpu_wait(lk_backend *be, leank_error *err) {
  (void)be, (void)err;
  return LEANK_OK;
}

static void cpu_embed(lk_backend *be, const lk_tensor *embed, const lk_rows *rows, float *x) {
  const lk_dequant_variant *dq = lk_cpu(be)->dequant[embed->type];
  for (size_t r = 0; r < rows->n_rows; r++)
    dq->to_f32(lk_tensor_row(embed, (size_t)rows->tokens[r]), embed->n_cols, x + r * embed->n_cols);
}

/* ---- row operations: one item is a block of rows ---- */

enum { ROWS_PER_ITEM = 16 };

typedef struct rows_job {
  const lk_rows_variant *rows;
  const float *x, *w, *dy;
  float *y, *y2;
  size_t n_rows, n, n_heads;
  float eps;
  leank_channel_order order;
  const double *inv_freq;
  const int64_t *pos;
  float mscale;
  int32_t *index;
} rows_job;

static size_t n_row_items(size_t n_rows) { return (n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM; }
static size_t item_end(const rows_job *job, size_t item) {
  size_t end = (item + 1) * ROWS_PER_ITEM;
  return end < job->n_rows ? end : job->n_rows;
}
/* A handful of rows is not worth waking threads for. */
static lk_team *team_for(const lk_cpu_backend *cpu, size_t n_rows) {
  return n_rows < 2 * ROWS_PER_ITEM ? NULL : cpu->team;
}

static void norm_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  for (size_t r = item * ROWS_PER_ITEM; r < item_end(job, item); r++)
    job->rows->rms_norm(job->x + r * job->n, job->w, job->n, job->eps, job->y + r * job->n);
}

static void cpu_rms_norm(lk_backend *be, const float *x, size_t n_rows, size_t n,
                         const lk_tensor *w, float eps, float *y) {
  rows_job job = {
      .rows = lk_cpu(be)->rows, .x = x, .w = w->data, .y = y, .n_rows = n_rows, .n = n, .eps = eps};
  lk_parallel_for(team_for(lk_cpu(be), n_rows), n_row_items(n_rows), norm_item, &job);
}

static void norm_backward_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const size_t n = job->n;
  for (size_t r = item * ROWS_PER_ITEM; r < item_end(job, item); r++)
    job->rows->rms_norm_backward(job->x + r * n, job->w, n, job->eps, job->dy + r * n,
                                 job->y + r * n);
}

static void cpu_rms_norm_backward(lk_backend *be, const float *x, size_t n_rows, size_t n,
                                  const lk_tensor *w, float eps, const float *dy, float *dx) {
  rows_job job = {.rows = lk_cpu(be)->rows,
                  .x = x,
                  .w = w->data,
                  .dy = dy,
                  .y = dx,
                  .n_rows = n_rows,
                  .n = n,
                  .eps = eps};
  lk_parallel_for(team_for(lk_cpu(be), n_rows), n_row_items(n_rows), norm_backward_item, &job);
}

static void table_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const size_t half = job->n / 2;
  for (size_t r = item * ROWS_PER_ITEM; r < item_end(job, item); r++) {
    float *cos_row = job->y + r * job->n, *sin_row = cos_row + half;
    for (size_t i = 0; i < half; i++) {
      const double angle = (double)job->pos[r] * job->inv_freq[i];
      cos_row[i] = (float)cos(angle) * job->mscale;
      sin_row[i] = (float)sin(angle) * job->mscale;
    }
  }
}

static void cpu_rope_table(lk_backend *be, const double *inv_freq, float mscale, size_t head_dim,
                           const lk_rows *rows, float *cos_sin) {
  const size_t n_rows = rows->n_rows;
  rows_job job = {.y = cos_sin,
                  .n_rows = n_rows,
                  .n = head_dim,
                  .inv_freq = inv_freq,
                  .pos = rows->pos,
                  .mscale = mscale};
  lk_parallel_for(team_for(lk_cpu(be), n_rows), n_row_items(n_rows), table_item, &job);
}

static void rope_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  for (size_t r = item * ROWS_PER_ITEM; r < item_end(job, item); r++)
    for (size_t h = 0; h < job->n_heads; h++)
      job->rows->rope(job->y + (r * job->n_heads + h) * job->n, job->n, job->order,
                      job->x + r * job->n, job->x + r * job->n + job->n / 2);
}

static void cpu_rope(lk_backend *be, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
                     leank_channel_order order, const float *cos_sin) {
  rows_job job = {.rows = lk_cpu(be)->rows,
                  .x = cos_sin,
                  .y = x,
                  .n_rows = n_rows,
                  .n = head_dim,
                  .n_heads = n_heads,
                  .order = order};
  lk_parallel_for(team_for(lk_cpu(be), n_rows), n_row_items(n_rows), rope_item, &job);
}

static void cpu_rope_append(lk_backend *be, const lk_attn_shape *shape, const lk_layer_view *view,
                            const lk_rows *rows, leank_channel_order order, const float *cos_sin,
                            float *q, float *k, const float *v) {
  const size_t n = rows->n_rows, d = shape->head_dim;
  cpu_rope(be, q, n, shape->n_heads, d, order, cos_sin);
  cpu_rope(be, k, n, shape->n_kv_heads, d, order, cos_sin);
  lk_cpu_append(be, shape, view, rows, 0, n, k, v);
}

enum { SWIGLU_SPAN = 8192 };

static size_t span_length(size_t n, size_t first) {
  return n - first < SWIGLU_SPAN ? n - first : SWIGLU_SPAN;
}
static void run_spans(lk_backend *be, lk_item_fn fn, rows_job *job) {
  const size_t n_items = (job->n + SWIGLU_SPAN - 1) / SWIGLU_SPAN;
  lk_parallel_for(n_items < 4 ? NULL : lk_cpu(be)->team, n_items, fn, job);
}

static void swiglu_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const size_t first = item * SWIGLU_SPAN;
  job->rows->swiglu(job->x + first, job->w + first, span_length(job->n, first), job->y + first);
}

static void cpu_swiglu(lk_backend *be, const float *gate, const float *up, size_t n, float *out) {
  rows_job job = {.rows = lk_cpu(be)->rows, .x = gate, .w = up, .y = out, .n = n};
  run_spans(be, swiglu_item, &job);
}

enum { ARGMAX_LANES = 16 };

/* Lanes first, which become vectors. NaN loses every comparison; n where all are NaN. */
static size_t first_of_largest(const float *x, size_t n) {
  float lanes[ARGMAX_LANES], largest = -INFINITY;
  size_t i = 0;
  for (size_t l = 0; l < ARGMAX_LANES; l++) lanes[l] = -INFINITY;
  for (; i + ARGMAX_LANES <= n; i += ARGMAX_LANES)
    for (size_t l = 0; l < ARGMAX_LANES; l++) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  for (size_t l = 0; l < ARGMAX_LANES; l++) largest = lanes[l] > largest ? lanes[l] : largest;
  for (; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  for (i = 0; i < n && x[i] != largest; i++) {}
  return i;
}

static void argmax_item(void *ctx, size_t r, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const size_t at = first_of_largest(job->x + r * job->n, job->n);
  job->index[r] = at < job->n ? (int32_t)at : 0;
}

static void cpu_argmax(lk_backend *be, const float *x, size_t n_rows, size_t n, int32_t *index) {
  rows_job job = {.x = x, .n = n, .index = index};
  lk_parallel_for(n_rows < 2 ? NULL : lk_cpu(be)->team, n_rows, argmax_item, &job);
}

static void swiglu_backward_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  rows_job *job = ctx;
  const size_t first = item * SWIGLU_SPAN;
  job->rows->swiglu_backward(job->x + first, job->w + first, job->dy + first,
                             span_length(job->n, first), job->y + first, job->y2 + first);
}

static void cpu_swiglu_backward(lk_backend *be, const float *gate, const float *up, size_t n,
                                const float *dout, float *dgate, float *dup) {
  rows_job job = {
      .rows = lk_cpu(be)->rows, .x = gate, .w = up, .dy = dout, .y = dgate, .y2 = dup, .n = n};
  run_spans(be, swiglu_backward_item, &job);
}

/* ---- products ---- */

/* Outputs of an item: few enough that the threads end together, many enough that what is fetched
 * beyond an item's end does not count. */
enum { MATVEC_LEAST_OUTPUTS = 16, MATVEC_MOST_OUTPUTS = 256, MATVEC_ITEMS_PER_THREAD = 8 };

typedef struct matvec_job {
  const lk_matvec_variant *variant;
  const lk_linear_part *parts; /* [n_parts], of the variant's type */
  size_t n_parts, n_cols, first_row;
  const unsigned char *x; /* prepared */
  size_t x_bytes;         /* of a row */
  size_t n_rows, item_outputs;
} matvec_job;

static void matvec_block(const matvec_job *job, const lk_linear_part *part, size_t o, size_t n_out,
                         size_t r, size_t n_rows) {
  const lk_tensor *w = part->w;
  const float *bias = part->bias ? part->bias->data : NULL;
  float sum[LK_MATVEC_MAX_ROWS * MATVEC_MOST_OUTPUTS];
  job->variant->fn(lk_tensor_row(w, o), n_out, w->n_cols, job->x + r * job->x_bytes, job->x_bytes,
                   n_rows, sum, MATVEC_MOST_OUTPUTS);
  for (size_t i = 0; i < n_rows; i++) {
    float *y = part->y + (job->first_row + r + i) * w->n_rows + o;
    const float *s = sum + i * MATVEC_MOST_OUTPUTS;
    for (size_t c = 0; c < n_out; c++) {
      const float value = bias ? s[c] + bias[o + c] : s[c];
      y[c] = part->add ? y[c] + value : value;
    }
  }
}

static size_t part_items(const matvec_job *job, size_t part) {
  return (job->parts[part].w->n_rows + job->item_outputs - 1) / job->item_outputs;
}

static void matvec_item(void *ctx, size_t item, size_t thread) {
  (void)thread;
  const matvec_job *job = ctx;
  size_t p = 0;
  for (; item >= part_items(job, p); p++) item -= part_items(job, p);
  const lk_linear_part *part = &job->parts[p];
  const size_t o = item * job->item_outputs, left = part->w->n_rows - o;
  const size_t n_out = left < job->item_outputs ? left : job->item_outputs;
  for (size_t r = 0; r < job->n_rows; r += LK_MATVEC_MAX_ROWS) {
    size_t n = job->n_rows - r < LK_MATVEC_MAX_ROWS ? job->n_rows - r : LK_MATVEC_MAX_ROWS;
    matvec_block(job, part, o, n_out, r, n);
  }
}

static size_t item_outputs(const lk_cpu_backend *cpu, const lk_linear_part *parts, size_t n_parts) {
  const size_t n_items = MATVEC_ITEMS_PER_THREAD * lk_team_size(cpu->team);
  size_t n_out = 0;
  for (size_t i = 0; i < n_parts; i++) n_out += parts[i].w->n_rows;
  const size_t n = (n_out + n_items - 1) / n_items;
  return n < MATVEC_LEAST_OUTPUTS  ? MATVEC_LEAST_OUTPUTS
         : n > MATVEC_MOST_OUTPUTS ? MATVEC_MOST_OUTPUTS
                                   : n;
}

/* Rows in the order of the variant; as they are where it takes them so. */
static const unsigned char *prepare_rows(lk_cpu_backend *cpu, const matvec_job *job,
                                         const float *x) {
  if (!job->variant->prepare) return (const unsigned char *)x;
  for (size_t r = 0; r < job->n_rows; r++)
    job->variant->prepare(x + r * job->n_cols, job->n_cols, cpu->few_rows + r * job->x_bytes);
  return cpu->few_rows;
}

/* Parts of one type. As many rows at a time as there is room for: with as many rows and columns as
 * the backend was opened for, all. */
static leank_status few_parts(lk_cpu_backend *cpu, const lk_linear_part *parts, size_t n_parts,
                              const float *x, size_t n_rows, leank_error *err) {
  const lk_tensor *w = parts->w;
  matvec_job job = {.variant = cpu->matvec[w->type],
                    .parts = parts,
                    .n_parts = n_parts,
                    .n_cols = w->n_cols,
                    .item_outputs = item_outputs(cpu, parts, n_parts)};
  size_t n_items = 0;
  for (size_t i = 0; i < n_parts; i++) n_items += part_items(&job, i);
  job.x_bytes = lk_matvec_row_bytes(job.variant, w->n_cols);
  const size_t most = job.variant->prepare ? cpu->few_rows_bytes / job.x_bytes : n_rows;
  if (most == 0)
    return lk_fail(err, LEANK_E_STATE, -1, "a row of %zu columns, more than the %zu planned for",
                   w->n_cols, cpu->options.max_cols);
  for (; job.first_row < n_rows; job.first_row += job.n_rows) {
    job.n_rows = n_rows - job.first_row < most ? n_rows - job.first_row : most;
    job.x = prepare_rows(cpu, &job, x + job.first_row * w->n_cols);
    lk_parallel_for(cpu->team, n_items, matvec_item, &job);
  }
  return LEANK_OK;
}

/* Neighbours of one type are dealt to the threads as one. */
static leank_status few_linear(lk_cpu_backend *cpu, const lk_linear_part *parts, size_t n_parts,
                               const float *x, size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t i = 0, n; status == LEANK_OK && i < n_parts; i += n) {
    for (n = 1; i + n < n_parts && parts[i + n].w->type == parts[i].w->type;) n++;
    status = few_parts(cpu, parts + i, n, x, n_rows, err);
  }
  return status;
}

static leank_status cpu_linear(lk_backend *be, lk_linear_kind kind, const lk_linear_part *parts,
                               size_t n_parts, const float *x, size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cpu_backend *cpu = lk_cpu(be);
  for (size_t i = 0; i < n_parts; i++) cpu->n_flops += lk_product_flops(parts[i].w, n_rows);
  if (kind == LK_LINEAR_FEW) return few_linear(cpu, parts, n_parts, x, n_rows, err);
  for (size_t i = 0; status == LEANK_OK && i < n_parts; i++) {
    const lk_linear_part *p = &parts[i];
    const float *bias = p->bias ? p->bias->data : NULL;
    status = (kind == LK_LINEAR_MANY ? lk_gemm_run : lk_gemm_run_precise)(
        cpu->gemm, p->w, bias, x, n_rows, p->add, p->y, err);
  }
  return status;
}

static leank_status cpu_linear_backward(lk_backend *be, const lk_tensor *w, const float *dy,
                                        size_t n_rows, bool add, float *dx, leank_error *err) {
  lk_cpu(be)->n_flops += lk_product_flops(w, n_rows);
  return lk_gemm_run_backward(lk_cpu(be)->gemm, w, dy, n_rows, add, dx, err);
}

static leank_status cpu_download(lk_backend *be, void *to, const void *from, size_t n_bytes,
                                 leank_error *err) {
  (void)be, (void)err;
  memcpy(to, from, n_bytes);
  return LEANK_OK;
}
static leank_status cpu_to_host(lk_backend *be, const float *p, size_t n, const float **out,
                                leank_error *err) {
  (void)be, (void)n, (void)err;
  *out = p;
  return LEANK_OK;
}
static void cpu_copy(lk_backend *be, void *to, const void *from, size_t n_bytes) {
  (void)be;
  memcpy(to, from, n_bytes);
}

static void cpu_zero(lk_backend *be, void *p, size_t n_bytes) {
  (void)be;
  memset(p, 0, n_bytes);
}
static void cpu_mark(lk_backend *be, size_t number) { lk_cpu(be)->marks[number] = lk_seconds(); }
static double cpu_seconds(lk_backend *be, size_t from, size_t to) {
  return lk_cpu(be)->marks[to] - lk_cpu(be)->marks[from];
}

static size_t cpu_resident(const lk_backend *be, const void *p) {
  (void)be;
  return lk_mem_resident(p);
}

static const lk_backend_ops cpu_ops = {
    .name = "cpu",
    .on_host = true,
    .row_tile = LK_GEMM_ROW_TILE,
    .close = cpu_close,
    .kernels = cpu_kernels,
    .n_threads = cpu_n_threads,
    .flops = cpu_flops,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .reserve_rows = cpu_reserve_rows,
    .stage_rows = cpu_stage_rows,
    .step_begin = cpu_step_begin,
    .step_end = cpu_step_end,
    .wait = cpu_wait,
    .embed = cpu_embed,
    .rms_norm = cpu_rms_norm,
    .linear = cpu_linear,
    .rope_table = cpu_rope_table,
    .rope = cpu_rope,
    .swiglu = cpu_swiglu,
    .linear_backward = cpu_linear_backward,
    .rms_norm_backward = cpu_rms_norm_backward,
    .swiglu_backward = cpu_swiglu_backward,
    .append = lk_cpu_append,
    .rope_append = cpu_rope_append,
    .pack = lk_cpu_pack,
    .pack_rows = lk_cpu_pack_rows,
    .copy_pages = lk_cpu_copy_pages,
    .sum_pages = lk_cpu_sum_pages,
    .sum_rows = lk_cpu_sum_rows,
    .attend = lk_cpu_attend,
    .attend_weighted = lk_cpu_attend_weighted,
    .attend_weighted_backward = lk_cpu_attend_weighted_backward,
    .head_stats = lk_cpu_head_stats,
    .upload = cpu_copy,
    .download = cpu_download,
    .to_host = cpu_to_host,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .argmax = cpu_argmax,
    .mark = cpu_mark,
    .seconds = cpu_seconds,
    .resident = cpu_resident,
};

size_t lk_backend_cpu_product_bytes(const lk_backend_options *o, size_t n_rows, size_t n_cols) {
  return lk_gemm_bytes(lk_kv_wide(o->kv_type) == LEANK_KV_BF16, lk_cpu_level(o->cpu), o->n_threads,
                       n_rows, n_cols);
}
size_t lk_backend_cpu_row_tile(void) { return cpu_ops.row_tile; }
size_t lk_backend_cpu_granule(leank_kv_type type) { return lk_kv_granule(type); }

static char *join_kernel_names(const lk_cpu_backend *cpu) {
  const size_t size = 4096;
  char *names = lk_alloc(LK_MEM_OTHER, size, 1);
  if (!names) return NULL;
  int n = snprintf(names, size, "gemm: %s\nattend: %s\nattend_backward: %s\npage: %s\nrows: %s\n",
                   lk_gemm_name(cpu->gemm), cpu->attend->name, cpu->attend_backward->name,
                   cpu->page->name, cpu->rows->name);
  for (int t = 0; t < LK_N_DTYPES; t++)
    n += snprintf(names + n, size - (size_t)n, "matvec %s: %s\ndequant %s: %s\n",
                  lk_dtype_name((lk_dtype)t), cpu->matvec[t]->name, lk_dtype_name((lk_dtype)t),
                  cpu->dequant[t]->name);
  return names;
}

leank_status lk_backend_open_cpu(const lk_backend_options *options, lk_backend **out,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cpu_backend *cpu = NULL;
  LK_TRY(lk_backend_sizes_of(LEANK_DEVICE_CPU)->check(options, err));
  cpu = lk_alloc(LK_MEM_OTHER, 1, sizeof *cpu);
  LK_FAIL_IF(!cpu, err, LEANK_E_MEMORY, -1, "out of memory");
  cpu->base.ops = &cpu_ops;
  cpu->options = *options;
  cpu->level = lk_cpu_level(options->cpu);
  for (int t = 0; t < LK_N_DTYPES; t++) {
    cpu->matvec[t] = lk_matvec_select((lk_dtype)t, cpu->level, options->kv_type == LEANK_KV_F32);
    cpu->dequant[t] = lk_dequant_select((lk_dtype)t, cpu->level);
  }
  cpu->rows = lk_rows_select(cpu->level);
  cpu->page = lk_page_select(options->kv_type, cpu->level);
  cpu->attend = lk_attend_select(
      options->kv_type, options->precise_attention ? lk_cpu_fp32_level(cpu->level) : cpu->level);
  cpu->attend_backward = lk_attend_backward_select(lk_kv_wide(options->kv_type), cpu->level);
  LK_TRY(lk_team_open(options->n_threads, &cpu->team, err));
  LK_TRY(lk_gemm_open(lk_kv_wide(options->kv_type) == LEANK_KV_BF16, cpu->level, cpu->team,
                      &cpu->gemm, err));
  LK_TRY(lk_cpu_attention_open(cpu, err));
  cpu->few_rows_bytes = options->max_few_rows * lk_matvec_most_row_bytes(options->max_cols);
  cpu->few_rows = lk_alloc(LK_MEM_SCRATCH, cpu->few_rows_bytes, 1);
  LK_FAIL_IF(!cpu->few_rows, err, LEANK_E_MEMORY, -1, "out of memory");
  cpu->kernel_names = join_kernel_names(cpu);
  LK_FAIL_IF(!cpu->kernel_names, err, LEANK_E_MEMORY, -1, "out of memory");
  *out = &cpu->base;
cleanup:
  if (status != LEANK_OK && cpu) cpu_close(&cpu->base);
  return status;
}
