/* The memory plan: what a session will hold, from sizes and mask alone. */
#include <stdint.h>

#include "base/parallel.h"
#include "session/session.h"

enum { DEFAULT_CTX = 4096, DEFAULT_CHUNK = 2048, MAX_SEQS = 1 << 16, MAX_THREADS = 1024 };

void leank_plan_options_default(leank_plan_options *o) {
  *o = (leank_plan_options){.struct_size = sizeof *o,
                            .n_ctx = DEFAULT_CTX,
                            .n_seqs = 1,
                            .kv_type = LEANK_KV_BF16,
                            .prefill_chunk = DEFAULT_CHUNK,
                            .n_sink = SIZE_MAX,
                            .n_recent = SIZE_MAX};
}

void leank_session_options_default(leank_session_options *o) {
  *o = (leank_session_options){.struct_size = sizeof *o,
                               .n_seqs = 1,
                               .kv_type = LEANK_KV_BF16,
                               .cpu = LEANK_CPU_BEST,
                               .prefill_chunk = DEFAULT_CHUNK,
                               .n_sink = SIZE_MAX,
                               .n_recent = SIZE_MAX,
                               .policy = -1,
                               .mean_compensation = -1};
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

leank_status lk_session_resolve(const leank_model_info *info, const leank_session_options *in,
                                leank_session_options *out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_session_options o = *in;
  LK_FAIL_IF(o.struct_size != sizeof o, err, LEANK_E_ARGUMENT, -1,
             "session options of %zu bytes: fill them with leank_session_options_default",
             o.struct_size);
  if (o.n_ctx == 0)
    o.n_ctx =
        info->n_ctx_train && info->n_ctx_train < DEFAULT_CTX ? info->n_ctx_train : DEFAULT_CTX;
  LK_FAIL_IF(info->n_layers == 0 || info->n_kv_heads == 0 || info->head_dim == 0 ||
                 info->head_dim % 2 != 0 || info->n_heads == 0 ||
                 info->n_heads % info->n_kv_heads != 0,
             err, LEANK_E_ARGUMENT, -1,
             "a model of %zu layers, %zu heads, %zu kv heads of %zu channels is not possible",
             info->n_layers, info->n_heads, info->n_kv_heads, info->head_dim);
  LK_FAIL_IF(o.n_seqs == 0 || o.n_seqs > MAX_SEQS, err, LEANK_E_ARGUMENT, -1,
             "%zu sequences: 1 to %d are possible", o.n_seqs, MAX_SEQS);
  LK_FAIL_IF(o.kv_type < LEANK_KV_BF16 || o.kv_type > LEANK_KV_F16, err, LEANK_E_ARGUMENT, -1,
             "unknown cache type %d", (int)o.kv_type);
  LK_FAIL_IF(o.device < LEANK_DEVICE_CPU || o.device > LEANK_DEVICE_CUDA || o.device_index < 0, err,
             LEANK_E_ARGUMENT, -1, "unknown device %d:%d", (int)o.device, o.device_index);
  LK_FAIL_IF(o.policy < -1 || o.policy > LEANK_POLICY_MEAN, err, LEANK_E_ARGUMENT, -1,
             "unknown policy %d", o.policy);
  LK_FAIL_IF(o.mean_compensation < -1 || o.mean_compensation > 1, err, LEANK_E_ARGUMENT, -1,
             "mean_compensation is %d: 0, 1 or -1 are possible", o.mean_compensation);
  LK_FAIL_IF(o.n_threads > MAX_THREADS, err, LEANK_E_ARGUMENT, -1, "%zu threads: at most %d",
             o.n_threads, MAX_THREADS);
  if (o.n_threads == 0) o.n_threads = lk_parallel_default_threads();
  if (o.prefill_chunk == 0) o.prefill_chunk = DEFAULT_CHUNK;
  if (o.prefill_chunk > o.n_ctx) o.prefill_chunk = o.n_ctx;
  o.prefill_chunk = round_up(o.prefill_chunk, lk_backend_sizes_of(o.device)->row_tile());
  if (o.mask) {
    const leank_mask_info *m = leank_mask_get_info(o.mask);
    LK_TRY(leank_mask_check(o.mask, info, NULL, err));
    if (o.n_sink == SIZE_MAX) o.n_sink = m->n_sink;
    if (o.n_recent == SIZE_MAX) o.n_recent = m->n_recent;
    if (o.policy < 0) o.policy = (int)m->policy;
    if (o.mean_compensation < 0) o.mean_compensation = m->mean_compensation;
  }
  const lk_backend_options backend = lk_session_backend_options(info, &o);
  LK_TRY(lk_backend_sizes_of(o.device)->check(&backend, err));
  *out = o;
cleanup:
  return status;
}

static lk_attn_shape shape_of(const leank_model_info *info, const leank_session_options *o) {
  return (lk_attn_shape){.n_heads = info->n_heads,
                         .n_kv_heads = info->n_kv_heads,
                         .head_dim = info->head_dim,
                         .mean_for_empty = o->mask && o->policy == LEANK_POLICY_MEAN,
                         .mean_for_pruned = o->mask && o->mean_compensation == 1};
}

lk_backend_options lk_session_backend_options(const leank_model_info *info,
                                              const leank_session_options *o) {
  return (lk_backend_options){.device = o->device,
                              .device_index = o->device_index,
                              .kv_type = o->kv_type,
                              .n_threads = o->n_threads,
                              .cpu = o->cpu,
                              .max_few_rows = o->n_seqs,
                              .max_cols = lk_forward_widest(info),
                              .max_pages = lk_pages_of(o->n_ctx),
                              .shape = shape_of(info, o)};
}

leank_status lk_session_geometry(const leank_model_info *info, const leank_session_options *o,
                                 lk_geometry *out, leank_error *err) {
  const lk_backend_sizes *sizes = lk_backend_sizes_of(o->device);
  const lk_geometry_options options = {.n_layers = info->n_layers,
                                       .shape = shape_of(info, o),
                                       .order = info->order,
                                       .mask = o->mask,
                                       .device = o->device,
                                       .kv_type = o->kv_type,
                                       .n_ctx = o->n_ctx,
                                       .n_sink = o->n_sink,
                                       .n_recent = o->n_recent,
                                       .granule = sizes->granule(o->kv_type)};
  return lk_geometry_make(&options, out, err);
}

static void plan_cache(const lk_geometry *g, const leank_session_options *o, leank_plan *plan) {
  const size_t middle = lk_middle_end(g, o->n_ctx) - g->n_sink;
  size_t lean_page = 0, kept = 0, kept_heads = 0;
  for (size_t l = 0; l < g->n_layers; l++) lean_page += g->lean_page_bytes[l];
  const size_t n_heads = g->n_layers * g->shape.n_kv_heads;
  for (size_t i = 0; i < n_heads; i++) {
    kept += g->map.heads[i].n_kept;
    kept_heads += g->map.heads[i].n_kept > 0;
  }
  plan->bytes_per_wide_token = g->n_layers * g->wide_page_bytes / LK_P;
  plan->bytes_per_lean_token = lean_page / LK_P;
  plan->n_lean_tokens = middle;
  plan->n_wide_tokens = o->n_ctx - middle;
  plan->n_wide_pages = o->n_seqs * g->max_wide_pages;
  plan->n_lean_pages = o->n_seqs * g->max_lean_pages;
  plan->wide_stored = o->n_seqs * plan->n_wide_tokens * plan->bytes_per_wide_token;
  plan->lean_stored = o->n_seqs * plan->n_lean_tokens * plan->bytes_per_lean_token;
  plan->wide_reserved = plan->n_wide_pages * LK_P * plan->bytes_per_wide_token;
  plan->lean_reserved = plan->n_lean_pages * LK_P * plan->bytes_per_lean_token;
  plan->dense_stored = o->n_seqs * o->n_ctx * plan->bytes_per_wide_token;
  plan->k_kept = (double)kept / (double)(n_heads * g->shape.head_dim);
  plan->v_kept = (double)kept_heads / (double)n_heads;
}

/* What reading n_rows tokens holds beside the cache and the step's buffers. */
typedef struct feed_size {
  size_t n_rows, n_pages, n_stage, chunk, n_groups, n_lean;
} feed_size;

static size_t mean_bytes(const lk_geometry *g) {
  return g->shape.n_kv_heads * 2 * g->shape.head_dim * sizeof(float);
}

static size_t prefill_bytes(const leank_model_info *info, const lk_geometry *g,
                            const feed_size *f) {
  size_t n = f->n_stage * g->wide_page_bytes + f->n_rows * info->hidden * sizeof(float);
  n += f->chunk * (sizeof(int64_t) + sizeof(lk_slot)) + f->n_groups * sizeof(lk_attend_group);
  n += ((f->n_groups + 2) * f->n_pages + 2 * f->n_stage) * sizeof(lk_page_entry);
  if (lk_keeps_means(g)) n += (f->n_lean + 1 + g->n_layers) * mean_bytes(g);
  return n;
}

static size_t chunk_bytes(const leank_model_info *info, const leank_session_options *o,
                          size_t chunk) {
  const lk_backend_options be = lk_session_backend_options(info, o);
  return lk_forward_bytes(info, chunk) +
         lk_backend_sizes_of(o->device)->product_bytes(&be, chunk, lk_forward_widest(info));
}

static size_t standing_bytes(const leank_model_info *info, const leank_session_options *o,
                             const lk_geometry *g) {
  const lk_backend_options be = lk_session_backend_options(info, o);
  size_t n = lk_backend_sizes_of(o->device)->scratch_bytes(&be) + lk_step_bytes(info, o->n_seqs);
  if (lk_keeps_means(g)) n += 2 * o->n_seqs * g->n_layers * mean_bytes(g);
  return n;
}

static size_t turn_bytes(const lk_geometry *g) {
  return g->turn_pages * g->n_layers * g->wide_page_bytes;
}

leank_plan lk_session_plan(const leank_model_info *info, const leank_session_options *o,
                           const lk_geometry *g) {
  leank_plan plan = {.weights = info->weight_bytes};
  if (o->device == LEANK_DEVICE_CUDA && plan.weights > 0)
    plan.weights = info->n_params * sizeof(uint16_t);
  plan_cache(g, o, &plan);
  const size_t n_pages = lk_pages_of(o->n_ctx);
  const feed_size whole = {.n_rows = o->n_ctx,
                           .n_pages = n_pages,
                           .n_stage = n_pages,
                           .chunk = o->prefill_chunk,
                           .n_groups = o->prefill_chunk / LK_P + 2,
                           .n_lean = g->max_lean_pages};
  plan.turn_reserved = turn_bytes(g);
  plan.prefill_scratch = prefill_bytes(info, g, &whole) + plan.turn_reserved;
  plan.other_scratch = chunk_bytes(info, o, o->prefill_chunk) + standing_bytes(info, o, g);
  return plan;
}

void lk_session_note_feed(leank_session *s, size_t n_rows, size_t n_pages, size_t n_stage,
                          size_t chunk, size_t n_groups, size_t n_lean) {
  const leank_model_info *info = &s->model->info;
  const lk_geometry *g = &s->cache.geometry;
  const feed_size f = {n_rows, n_pages, n_stage, chunk, n_groups, n_lean};
  const size_t prefill = prefill_bytes(info, g, &f) + turn_bytes(g);
  const size_t other = chunk_bytes(info, &s->options, chunk) + standing_bytes(info, &s->options, g);
  if (prefill > s->prefill_peak) s->prefill_peak = prefill;
  if (other > s->other_peak) s->other_peak = other;
}

void lk_session_note_open(leank_session *s) {
  s->prefill_peak = turn_bytes(&s->cache.geometry);
  s->other_peak = standing_bytes(&s->model->info, &s->options, &s->cache.geometry);
}

leank_status leank_plan_make(const leank_model_info *model, const leank_mask *mask,
                             const leank_plan_options *options, leank_plan *out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_geometry geometry = {0};
  leank_session_options o, resolved = {0};
  if (!model || !options || !out) return lk_session_null(err);
  LK_FAIL_IF(options->struct_size != sizeof *options, err, LEANK_E_ARGUMENT, -1,
             "plan options of %zu bytes: fill them with leank_plan_options_default",
             options->struct_size);
  leank_session_options_default(&o);
  o.mask = mask;
  o.n_ctx = options->n_ctx;
  o.n_seqs = options->n_seqs;
  o.kv_type = options->kv_type;
  o.prefill_chunk = options->prefill_chunk;
  o.n_sink = options->n_sink;
  o.n_recent = options->n_recent;
  o.device = options->device;
  LK_FAIL_IF(o.n_ctx == 0, err, LEANK_E_ARGUMENT, -1, "a context of 0 tokens");
  LK_TRY(lk_session_resolve(model, &o, &resolved, err));
  LK_TRY(lk_session_geometry(model, &resolved, &geometry, err));
  *out = lk_session_plan(model, &resolved, &geometry);
cleanup:
  lk_geometry_free(&geometry);
  return status;
}
