/* The CUDA backend: the table, rows, products, recorded steps. */
#include "backend/cuda.h"

#include <stdio.h>

#include "backend/cpu.h"
#include "backend/flops.h"

/* ---- failures ---- */

void lk_cuda_keep_failure(lk_cuda_backend *cuda, leank_status code, const char *message) {
  if (cuda->failure.code == LEANK_OK) lk_fail(&cuda->failure, code, -1, "%s", message);
}

/* What a failure has kept from the device is not known: it is sent again, by a step that is not
 * recorded. */
static void forget_sent(lk_cuda_backend *cuda) {
  cuda->rows = NULL;
  for (size_t i = 0; i < cuda->n_heads; i++) cuda->heads[i].is_sent = false;
  for (size_t i = 0; i < cuda->n_recordings; i++) cuda->recordings[i].has_run = false;
}

leank_status lk_cuda_tell(lk_cuda_backend *cuda, leank_error *err) {
  leank_error own = cuda->failure;
  const leank_status library = cuda->api->check(cuda->dev, own.code == LEANK_OK ? err : NULL);
  cuda->failure = (leank_error){0};
  if (own.code != LEANK_OK || library != LEANK_OK) forget_sent(cuda);
  if (own.code == LEANK_OK) return library;
  if (err) *err = own;
  return own.code;
}

/* ---- opening and closing ---- */

/* Steps are recorded anew, from the next one on. */
static void forget_recordings(lk_cuda_backend *cuda) {
  for (size_t i = 0; i < cuda->n_recordings; i++) {
    if (cuda->recordings[i].graph) cuda->api->graph_free(cuda->recordings[i].graph);
    cuda->recordings[i].graph = NULL;
  }
}

static void cuda_close(lk_backend *be) {
  lk_cuda_backend *cuda = lk_cuda(be);
  if (!cuda) return;
  if (cuda->dev) {
    const lk_cuda_api *api = cuda->api;
    api->sync(cuda->dev, NULL);
    forget_recordings(cuda);
    lk_cuda_stage_close(cuda);
    if (cuda->pages.p) api->free(cuda->dev, cuda->pages.p);
    if (cuda->partials.p) api->free(cuda->dev, cuda->partials.p);
    if (cuda->mean_logits.p) api->free(cuda->dev, cuda->mean_logits.p);
    if (cuda->weighted_lists.p) api->free(cuda->dev, cuda->weighted_lists.p);
    if (cuda->weighted_scratch.p) api->free(cuda->dev, cuda->weighted_scratch.p);
    if (cuda->host.p) api->free_pinned(cuda->dev, cuda->host.p);
    lk_cuda_store_close(cuda->store);
    api->close(cuda->dev);
  }
  lk_free(cuda->recordings);
  lk_free(cuda->blocks);
  lk_free(cuda);
}

static const char *cuda_kernels(const lk_backend *be) {
  return ((const lk_cuda_backend *)be)->kernel_names;
}
static size_t cuda_n_threads(const lk_backend *be) {
  return ((const lk_cuda_backend *)be)->options.n_threads;
}
static double cuda_flops(const lk_backend *be) { return ((const lk_cuda_backend *)be)->n_flops; }

/* ---- memory ---- */

/* Zeroed, as everywhere: a page's unwritten rows are multiplied by 0, and must be numbers. */
static void *cuda_alloc(lk_backend *be, lk_mem_category category, size_t n_bytes) {
  (void)category;
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_block *grown =
      lk_grow(cuda->blocks, LK_MEM_OTHER, cuda->n_blocks, &cuda->max_blocks, sizeof *grown);
  if (!grown) return NULL;
  cuda->blocks = grown;
  void *p = cuda->api->alloc(cuda->dev, n_bytes);
  if (!p) return NULL;
  cuda->api->zero(cuda->dev, p, n_bytes);
  cuda->blocks[cuda->n_blocks++] = (lk_cuda_block){p, n_bytes};
  return p;
}

static void cuda_free(lk_backend *be, void *p) {
  lk_cuda_backend *cuda = lk_cuda(be);
  for (size_t i = 0; i < cuda->n_blocks; i++)
    if (cuda->blocks[i].p == p) {
      cuda->blocks[i] = cuda->blocks[--cuda->n_blocks];
      break;
    }
  cuda->api->free(cuda->dev, p);
}

_Static_assert((int)LK_BACKEND_MARKS == (int)LK_CUDA_MARKS, "a mark is an event");
static void cuda_mark(lk_backend *be, size_t number) {
  lk_cuda(be)->api->mark(lk_cuda(be)->dev, (int)number);
}
static double cuda_seconds(lk_backend *be, size_t from, size_t to) {
  return (double)lk_cuda(be)->api->time_ms(lk_cuda(be)->dev, (int)from, (int)to) / 1e3;
}

/* All of it is in memory. */
static size_t cuda_resident(const lk_backend *be, const void *p) {
  const lk_cuda_backend *cuda = (const lk_cuda_backend *)be;
  for (size_t i = 0; i < cuda->n_blocks; i++)
    if (cuda->blocks[i].p == p) return cuda->blocks[i].n_bytes;
  return 0;
}

/* What was reserved once stays. More of it lies elsewhere than recorded steps know. */
static leank_status cuda_reserve_rows(lk_backend *be, size_t n_rows, size_t n_cols,
                                      leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  leank_error device = {0};
  if (n_rows == 0 || (n_rows <= cuda->reserved_rows && n_cols <= cuda->reserved_cols))
    return LEANK_OK;
  if (n_rows < cuda->reserved_rows) n_rows = cuda->reserved_rows;
  if (n_cols < cuda->reserved_cols) n_cols = cuda->reserved_cols;
  if (cuda->api->sync(cuda->dev, &device) != LEANK_OK)
    lk_cuda_keep_failure(cuda, device.code, device.message);
  forget_recordings(cuda);
  LK_TRY(cuda->api->reserve(cuda->dev, n_rows, n_cols, err));
  cuda->reserved_rows = n_rows;
  cuda->reserved_cols = n_cols;
cleanup:
  return status;
}

leank_status lk_cuda_reserve_parts(lk_cuda_backend *cuda, size_t n_rows, size_t n_cols,
                                   leank_error *err) {
  const size_t n_parts = LK_CUDA_PARTS * n_rows;
  if (n_parts <= cuda->reserved_rows && n_cols <= cuda->reserved_cols) return LEANK_OK;
  /* Recorded steps must hear of it. Where there is learning there are none. */
  if (cuda->n_recordings > 0) return cuda_reserve_rows(&cuda->base, n_parts, n_cols, err);
  return cuda->api->reserve(cuda->dev, n_parts, n_cols, err);
}

static void cuda_upload(lk_backend *be, void *to, const void *from, size_t n_bytes) {
  lk_cuda(be)->api->upload(lk_cuda(be)->dev, to, from, n_bytes);
}

static leank_status cuda_download(lk_backend *be, void *to, const void *from, size_t n_bytes,
                                  leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  cuda->api->download(cuda->dev, to, from, n_bytes);
  cuda->ring_used = 0; /* nothing is under way */
  return lk_cuda_tell(cuda, err);
}

static leank_status cuda_to_host(lk_backend *be, const float *p, size_t n, const float **out,
                                 leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const size_t n_bytes = n * sizeof *p;
  if (cuda->host.n_bytes < n_bytes) {
    if (cuda->host.p) cuda->api->free_pinned(cuda->dev, cuda->host.p);
    cuda->host = (lk_cuda_buffer){cuda->api->alloc_pinned(cuda->dev, n_bytes), n_bytes};
    if (!cuda->host.p) {
      cuda->host.n_bytes = 0;
      return lk_fail(err, LEANK_E_MEMORY, -1, "out of pinned memory: %zu bytes", n_bytes);
    }
  }
  *out = cuda->host.p;
  return cuda_download(be, cuda->host.p, p, n_bytes, err);
}

static void cuda_copy(lk_backend *be, void *to, const void *from, size_t n_bytes) {
  lk_cuda(be)->api->copy(lk_cuda(be)->dev, to, from, n_bytes);
}
static void cuda_zero(lk_backend *be, void *p, size_t n_bytes) {
  lk_cuda(be)->api->zero(lk_cuda(be)->dev, p, n_bytes);
}

static leank_status cuda_wait(lk_backend *be, leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  leank_error device = {0};
  if (cuda->api->sync(cuda->dev, &device) != LEANK_OK)
    lk_cuda_keep_failure(cuda, device.code, device.message);
  cuda->ring_used = 0;
  return lk_cuda_tell(cuda, err);
}

/* ---- recorded steps ---- */

static lk_cuda_recording *find_recording(lk_cuda_backend *cuda, uint64_t key) {
  for (size_t i = 0; i < cuda->n_recordings; i++)
    if (cuda->recordings[i].key == key) return &cuda->recordings[i];
  lk_cuda_recording *grown = lk_grow(cuda->recordings, LK_MEM_OTHER, cuda->n_recordings,
                                     &cuda->max_recordings, sizeof *grown);
  if (!grown) return NULL;
  cuda->recordings = grown;
  cuda->recordings[cuda->n_recordings] = (lk_cuda_recording){.key = key};
  return &cuda->recordings[cuda->n_recordings++];
}

/* Once plainly, so that weights are there and room is made; then recorded. Rows of a step lie where
 * those of every step do, unless they are more than was planned for. */
static bool cuda_step_begin(lk_backend *be, uint64_t key) {
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_recording *r = cuda->now == &cuda->few && key ? find_recording(cuda, key) : NULL;
  cuda->step = r;
  if (!r) return false;
  if (r->graph) {
    cuda->api->replay(cuda->dev, r->graph);
    cuda->step = NULL;
    return true;
  }
  if (r->has_run && !r->refused) {
    cuda->recording = cuda->api->record_begin(cuda->dev, NULL) == LEANK_OK;
    r->refused = !cuda->recording;
  }
  return false;
}

static leank_status cuda_step_end(lk_backend *be, bool complete, leank_error *err) {
  lk_cuda_backend *cuda = lk_cuda(be);
  lk_cuda_recording *r = cuda->step;
  lk_cuda_graph *graph = NULL;
  cuda->step = NULL;
  if (r && complete) r->has_run = true;
  if (!cuda->recording) return LEANK_OK;
  cuda->recording = false;
  const leank_status status = cuda->api->record_end(cuda->dev, &graph, err);
  if (status == LEANK_OK && complete && cuda->failure.code == LEANK_OK) {
    r->graph = graph;
    cuda->api->replay(cuda->dev, graph);
    return LEANK_OK;
  }
  if (graph) cuda->api->graph_free(graph);
  r->refused = true;
  if (status != LEANK_OK || !complete) return status;
  return lk_cuda_tell(cuda, err);
}

/* ---- rows ---- */

static const uint16_t *matrix(lk_cuda_backend *cuda, const lk_tensor *w) {
  const uint16_t *p = NULL;
  leank_error err = {0};
  if (lk_cuda_store_matrix(cuda->store, w, &p, &err) != LEANK_OK)
    lk_cuda_keep_failure(cuda, err.code, err.message);
  return p;
}

static const void *vector(lk_cuda_backend *cuda, const void *data, size_t n_bytes) {
  const void *p = NULL;
  leank_error err = {0};
  if (lk_cuda_store_vector(cuda->store, data, n_bytes, &p, &err) != LEANK_OK)
    lk_cuda_keep_failure(cuda, err.code, err.message);
  return p;
}

static void cuda_embed(lk_backend *be, const lk_tensor *embed, const lk_rows *rows, float *x) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  const uint16_t *table = matrix(cuda, embed);
  if (s && table)
    cuda->api->embed(cuda->dev, table, embed->n_cols, (const int32_t *)(s->memory + s->tokens),
                     rows->n_rows, x);
}

static void cuda_rms_norm(lk_backend *be, const float *x, size_t n_rows, size_t n,
                          const lk_tensor *w, float eps, float *y) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const float *weights = vector(cuda, w->data, n * sizeof *weights);
  if (weights) cuda->api->rms_norm(cuda->dev, x, n_rows, n, weights, eps, y);
}

static void cuda_rope_table(lk_backend *be, const double *inv_freq, float mscale, size_t head_dim,
                            const lk_rows *rows, float *cos_sin) {
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_cuda_staged *s = lk_cuda_staged_of(cuda, rows);
  const double *frequencies = vector(cuda, inv_freq, head_dim / 2 * sizeof *inv_freq);
  if (s && frequencies)
    cuda->api->rope_table(cuda->dev, frequencies, mscale, head_dim,
                          (const int64_t *)(s->memory + s->pos), rows->n_rows, cos_sin);
}

static void cuda_rope(lk_backend *be, float *x, size_t n_rows, size_t n_heads, size_t head_dim,
                      leank_channel_order order, const float *cos_sin) {
  lk_cuda(be)->api->rope(lk_cuda(be)->dev, x, n_rows, n_heads, head_dim, order == LEANK_ORDER_PAIRS,
                         cos_sin);
}

static void cuda_swiglu(lk_backend *be, const float *gate, const float *up, size_t n, float *out) {
  lk_cuda(be)->api->swiglu(lk_cuda(be)->dev, gate, up, n, out);
}

static void cuda_argmax(lk_backend *be, const float *x, size_t n_rows, size_t n, int32_t *index) {
  lk_cuda(be)->api->argmax(lk_cuda(be)->dev, x, n_rows, n, index);
}

/* ---- products ---- */

leank_status lk_cuda_fill_parts(lk_cuda_backend *cuda, const lk_linear_part *parts, size_t n,
                                size_t n_rows, lk_cuda_linear *job, leank_error *err) {
  job->n_parts = (uint32_t)n;
  job->n_in = (uint32_t)parts->w->n_cols;
  for (size_t i = 0; i < n; i++) {
    job->parts[i] =
        (lk_cuda_part){.y = parts[i].y, .n_out = (uint32_t)parts[i].w->n_rows, .add = parts[i].add};
    cuda->n_flops += lk_product_flops(parts[i].w, n_rows);
  }
  return lk_cuda_store_parts(cuda->store, parts, n, job->parts, err);
}

/* Of n_parts from `first` on, those of one job. */
static size_t parts_of_job(size_t n_parts, size_t first) {
  return n_parts - first < LK_CUDA_MAX_PARTS ? n_parts - first : LK_CUDA_MAX_PARTS;
}

static leank_status cuda_linear(lk_backend *be, lk_linear_kind kind, const lk_linear_part *parts,
                                size_t n_parts, const float *x, size_t n_rows, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  void (*multiply)(lk_cuda_device *, const lk_cuda_linear *) = cuda->api->linear_many;
  size_t n_multiplied = n_rows;
  if (kind == LK_LINEAR_FEW && lk_cuda_steps_by_gemm(cuda))
    n_multiplied = cuda->options.max_few_rows;
  else if (kind == LK_LINEAR_FEW)
    multiply = cuda->api->linear_few;
  if (kind == LK_LINEAR_PRECISE || (kind == LK_LINEAR_MANY && cuda->options.precise_attention)) {
    multiply = cuda->api->linear_precise;
    LK_TRY(lk_cuda_reserve_parts(cuda, n_rows, parts->w->n_cols, err));
  }
  for (size_t first = 0; first < n_parts; first += LK_CUDA_MAX_PARTS) {
    lk_cuda_linear job = {.x = x, .n_rows = n_multiplied};
    LK_TRY(
        lk_cuda_fill_parts(cuda, &parts[first], parts_of_job(n_parts, first), n_rows, &job, err));
    multiply(cuda->dev, &job);
  }
cleanup:
  return status;
}

/* A job of linear_few behind an RMSNorm, of up to LK_CUDA_MAX_PARTS parts. */
static leank_status norm_job(lk_cuda_backend *cuda, const lk_norm *norm,
                             const lk_linear_part *parts, size_t n_parts, const float *x,
                             size_t n_rows, lk_cuda_linear *out, leank_error *err) {
  const void *weights = NULL;
  const leank_status status = lk_cuda_store_vector(cuda->store, norm->w->data,
                                                   parts->w->n_cols * sizeof(float), &weights, err);
  *out = (lk_cuda_linear){.x = x, .n_rows = n_rows, .norm = weights, .eps = norm->eps};
  if (status != LEANK_OK) return status;
  return lk_cuda_fill_parts(cuda, parts, n_parts, n_rows, out, err);
}

static leank_status cuda_norm_linear(lk_backend *be, const lk_linear_part *parts, size_t n_parts,
                                     const lk_norm *norm, const float *x, size_t n_rows,
                                     leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  for (size_t first = 0; first < n_parts; first += LK_CUDA_MAX_PARTS) {
    lk_cuda_linear job;
    LK_TRY(norm_job(cuda, norm, &parts[first], parts_of_job(n_parts, first), x, n_rows, &job, err));
    cuda->api->linear_few(cuda->dev, &job);
  }
cleanup:
  return status;
}

static leank_status cuda_norm_swiglu(lk_backend *be, const lk_tensor *gate, const lk_tensor *up,
                                     const lk_norm *norm, const float *x, size_t n_rows, float *out,
                                     leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = lk_cuda(be);
  const lk_linear_part parts[] = {{gate, NULL, out, false}, {up, NULL, out, false}};
  lk_cuda_linear job;
  LK_TRY(norm_job(cuda, norm, parts, 2, x, n_rows, &job, err));
  job.gated = true;
  cuda->api->linear_few(cuda->dev, &job);
cleanup:
  return status;
}

static void cuda_head_stats(lk_backend *be, const float *x, size_t n_rows, size_t n_kv_heads,
                            size_t n_per, size_t head_dim, leank_channel_order order,
                            double *sum_abs, double *sum_sq) {
  leank_error err = {0};
  const float *host = NULL;
  if (cuda_to_host(be, x, n_rows * n_kv_heads * n_per * head_dim, &host, &err) == LEANK_OK)
    lk_head_stats(NULL, host, n_rows, n_kv_heads, n_per, head_dim, order, sum_abs, sum_sq);
  else
    lk_cuda_keep_failure(lk_cuda(be), err.code, err.message);
}

/* ---- the table ---- */

static const lk_backend_ops cuda_ops = {
    .name = "cuda",
    .row_tile = LK_CUDA_ROW_TILE,
    .close = cuda_close,
    .kernels = cuda_kernels,
    .n_threads = cuda_n_threads,
    .flops = cuda_flops,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .reserve_rows = cuda_reserve_rows,
    .stage_rows = lk_cuda_stage_rows,
    .step_begin = cuda_step_begin,
    .step_end = cuda_step_end,
    .wait = cuda_wait,
    .embed = cuda_embed,
    .rms_norm = cuda_rms_norm,
    .linear = cuda_linear,
    .rope_table = cuda_rope_table,
    .rope = cuda_rope,
    .swiglu = cuda_swiglu,
    .linear_backward = lk_cuda_op_linear_backward,
    .rms_norm_backward = lk_cuda_op_rms_norm_backward,
    .swiglu_backward = lk_cuda_op_swiglu_backward,
    .append = lk_cuda_op_append,
    .rope_append = lk_cuda_op_rope_append,
    .pack = lk_cuda_op_pack,
    .pack_rows = lk_cuda_op_pack_rows,
    .copy_pages = lk_cuda_op_copy_pages,
    .sum_pages = lk_cuda_op_sum_pages,
    .sum_rows = lk_cuda_op_sum_rows,
    .attend = lk_cuda_op_attend,
    .attend_weighted = lk_cuda_op_attend_weighted,
    .attend_weighted_backward = lk_cuda_op_attend_weighted_backward,
    .head_stats = cuda_head_stats,
    .upload = cuda_upload,
    .download = cuda_download,
    .to_host = cuda_to_host,
    .argmax = cuda_argmax,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .mark = cuda_mark,
    .seconds = cuda_seconds,
    .resident = cuda_resident,
};

static leank_status open_partials(lk_cuda_backend *cuda, leank_error *err) {
  const lk_attn_shape *s = &cuda->options.shape;
  const size_t n_bytes = lk_cuda_decode_scratch_bytes(
      cuda->few.max_groups, s->n_heads, s->n_kv_heads, s->head_dim, cuda->options.max_pages);
  const leank_status status = lk_cuda_grow(cuda, &cuda->partials, n_bytes, err);
  if (status != LEANK_OK) return status;
  return lk_cuda_grow(cuda, &cuda->mean_logits, cuda->few.max_groups * s->n_heads * sizeof(float),
                      err);
}

leank_status lk_cuda_backend_open(const lk_cuda_api *api, const lk_backend_options *options,
                                  int device, lk_backend **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_cuda_backend *cuda = NULL;
  lk_cuda_info info;
  LK_TRY(lk_backend_sizes_of(LEANK_DEVICE_CUDA)->check(options, err));
  cuda = lk_alloc(LK_MEM_OTHER, 1, sizeof *cuda);
  LK_FAIL_IF(!cuda, err, LEANK_E_MEMORY, -1, "out of memory");
  cuda->base = (lk_backend){.ops = &cuda->ops, .index = device};
  cuda->ops = cuda_ops;
  cuda->options = *options;
  if (lk_cuda_steps_by_gemm(cuda)) {
    cuda->ops.project_append = lk_cuda_op_project_append;
    cuda->ops.mlp = lk_cuda_op_mlp;
  } else {
    cuda->ops.norm_linear = cuda_norm_linear;
    cuda->ops.norm_swiglu = cuda_norm_swiglu;
  }
  cuda->api = api;
  LK_TRY(api->open(device, &cuda->dev, err));
  LK_TRY(lk_cuda_store_open(api, device, options->model, &cuda->store, err));
  LK_TRY(lk_cuda_stage_open(cuda, err));
  LK_TRY(open_partials(cuda, err));
  LK_TRY(cuda_reserve_rows(&cuda->base, options->max_few_rows, options->max_cols, err));
  api->info(cuda->dev, &info);
  LK_TRY(cuda_wait(&cuda->base, err));
  snprintf(cuda->kernel_names, sizeof cuda->kernel_names,
           "device: cuda:%d, %s, compute capability %d.%d, %d multiprocessors\nattend: "
           "decode_%s_cuda\nattend_weighted: weighted_fp32_cuda\ngemm: cuBLASLt; few rows: "
           "own kernels\n",
           device, info.name, info.major, info.minor, info.n_sm,
           options->kv_type == LEANK_KV_F16 ? "f16" : "bf16");
  *out = &cuda->base;
cleanup:
  if (status != LEANK_OK && cuda) cuda_close(&cuda->base);
  return status;
}
