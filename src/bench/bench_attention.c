/* Attention of decode steps, over caches of several kinds in turns. */

#include "base/alloc.h"
#include "base/rng.h"
#include "bench/bench_caches.h"
#include "bench/bench_run.h"
#include "kernels/attention/attend.h"
#include "mask/mask.h"

enum { MAX_CACHES = 64 };

/* A way of storing the cache, and what was measured of it. */
typedef struct contender {
  lk_bench_side side;
  size_t n_runs;             /* runs of layers, each made, measured and dropped */
  size_t most_copies;        /* slots of one layer in a run */
  lk_bench_samples *samples; /* [n_distinct] */
} contender;

typedef struct attention_bench {
  lk_bench_run run;
  const leank_bench_shape *shape;
  lk_backend *backend;
  lk_random_pages source;
  contender *contenders;
  size_t n_contenders;
  size_t n_runs;  /* the most of any contender */
  float *q, *out; /* [B][Hq][D] */
} attention_bench;

void leank_bench_shape_default(leank_bench_shape *s) {
  *s = (leank_bench_shape){.struct_size = sizeof *s,
                           .n_layers = 1,
                           .n_seqs = 1,
                           .n_sink = SIZE_MAX,
                           .n_recent = SIZE_MAX,
                           .kv_type = LEANK_KV_BF16};
}

/* ---- what is to be done ---- */

/* A contender takes part in every run where one suffices for it; else until its layers end. */
static bool takes_part(const contender *c, size_t run) { return c->n_runs == 1 || run < c->n_runs; }

/* Goes through the runs of a contender; *n_bytes: the most that one of them needs. */
static leank_status plan_contender(attention_bench *b, contender *c, size_t *n_bytes,
                                   leank_error *err) {
  leank_status status = LEANK_OK;
  *n_bytes = 0;
  for (size_t first = 0; first < c->side.n_distinct; first += c->side.n_layers, c->n_runs++) {
    LK_TRY(lk_bench_side_choose(&c->side, first, b->run.options.rotate_bytes, err));
    const size_t bytes = lk_bench_side_arena_bytes(&c->side);
    const size_t copies = (c->side.n_slots + c->side.n_layers - 1) / c->side.n_layers;
    if (bytes > *n_bytes) *n_bytes = bytes;
    if (copies > c->most_copies) c->most_copies = copies;
    b->run.total += (b->run.options.n_repeats + 2) * c->side.n_slots; /* filled, warmed up, timed */
  }
  if (c->n_runs > b->n_runs) b->n_runs = c->n_runs;
  LK_TRY(lk_bench_side_choose(&c->side, 0, b->run.options.rotate_bytes, err));
cleanup:
  return status;
}

static leank_status plan(attention_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t total = 0, n_bytes;
  for (size_t i = 0; i < b->n_contenders; i++) {
    LK_TRY(plan_contender(b, &b->contenders[i], &n_bytes, err));
    total += n_bytes;
  }
  /* A device says itself what does not fit. */
  if (b->run.options.device == LEANK_DEVICE_CPU)
    LK_TRY(lk_bench_check_free(total, "attention over these caches", err));
  for (size_t i = 0; i < b->n_contenders; i++) {
    contender *c = &b->contenders[i];
    const size_t n_runs = c->n_runs == 1 ? b->n_runs : 1;
    c->samples = lk_alloc(LK_MEM_OTHER, c->side.n_distinct, sizeof *c->samples);
    LK_FAIL_IF(!c->samples, err, LEANK_E_MEMORY, -1, "out of memory for samples");
    for (size_t l = 0; l < c->side.n_distinct; l++)
      LK_TRY(lk_bench_samples_open(&c->samples[l],
                                   n_runs * c->most_copies * b->run.options.n_repeats, err));
    b->run.total += (n_runs - 1) * (b->run.options.n_repeats + 1) * c->side.n_slots;
  }
cleanup:
  return status;
}

static lk_backend_options backend_options(const attention_bench *b) {
  const leank_bench_shape *s = b->shape;
  return (lk_backend_options){
      .device = b->run.options.device,
      .device_index = b->run.options.device_index,
      .kv_type = s->kv_type,
      .n_threads = b->run.options.n_threads,
      .cpu = b->run.options.cpu,
      .max_few_rows = s->n_seqs,
      .max_pages = lk_pages_of(s->n_tokens),
      .shape = {.n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim}};
}

static leank_status check_backend(const attention_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_backend_options options = backend_options(b);
  LK_TRY(lk_backend_sizes_of(options.device)->check(&options, err));
  LK_FAIL_IF(options.device == LEANK_DEVICE_CPU && !lk_attend_select(options.kv_type, options.cpu),
             err, LEANK_E_ARGUMENT, -1, "unknown cache type %d", (int)options.kv_type);
cleanup:
  return status;
}

static leank_status open_backend(attention_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_bench_shape *s = b->shape;
  const size_t n = s->n_seqs * s->n_heads * s->head_dim;
  lk_rng rng = {1};
  float *q = NULL;
  const lk_backend_options options = backend_options(b);
  LK_TRY(lk_backend_open(&options, &b->backend, err));
  q = lk_alloc(LK_MEM_SCRATCH, n, sizeof *q);
  b->q = b->backend->ops->alloc(b->backend, LK_MEM_SCRATCH, n * sizeof(float));
  b->out = b->backend->ops->alloc(b->backend, LK_MEM_SCRATCH, n * sizeof(float));
  LK_FAIL_IF(!q || !b->q || !b->out, err, LEANK_E_MEMORY, -1, "out of memory for rows");
  lk_rng_fill(&rng, q, n);
  b->backend->ops->upload(b->backend, b->q, q, n * sizeof *q);
  LK_TRY(lk_random_pages_open(b->backend, &b->contenders[0].side.geometry, &b->source, err));
cleanup:
  lk_free(q);
  return status;
}

/* ---- measuring ---- */

static leank_status attend_slot(attention_bench *b, const contender *c, size_t slot,
                                leank_error *err) {
  const lk_bench_side *side = &c->side;
  return b->backend->ops->attend(b->backend, LK_LINEAR_FEW, &side->geometry.shape,
                                 &side->views[slot], &side->rows, 0, side->n_seqs, b->q, b->out,
                                 err);
}

/* Slots first .. first + n - 1. A device works behind this thread's back: what is not timed comes
 * first, so that it never waits for the next to be asked for. */
static leank_status time_slots(attention_bench *b, contender *c, size_t first, size_t n, bool timed,
                               leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_bench_side *side = &c->side;
  const lk_backend_ops *ops = b->backend->ops;
  if (b->run.options.device != LEANK_DEVICE_CPU)
    LK_TRY(attend_slot(b, c, (first + side->n_slots - 1) % side->n_slots, err));
  for (size_t i = 0; i < n; i++) {
    ops->mark(b->backend, 2 * i);
    LK_TRY(attend_slot(b, c, first + i, err));
    ops->mark(b->backend, 2 * i + 1);
  }
  for (size_t i = 0; i < n; i++) {
    const double seconds = ops->seconds(b->backend, 2 * i, 2 * i + 1);
    if (timed) lk_bench_samples_add(&c->samples[lk_bench_slot_layer(side, first + i)], seconds);
    LK_TRY(lk_bench_tick(&b->run, err));
  }
cleanup:
  return status;
}

/* Every slot of a contender once, as a decode step meets the layers. */
static leank_status pass(attention_bench *b, contender *c, bool timed, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_slots = c->side.n_slots,
               most = b->run.options.device == LEANK_DEVICE_CPU ? 1 : LK_BACKEND_MARKS / 2;
  LK_TRY(b->backend->ops->stage_rows(b->backend, &c->side.rows, err));
  for (size_t first = 0; first < n_slots; first += most)
    LK_TRY(time_slots(b, c, first, n_slots - first < most ? n_slots - first : most, timed, err));
  LK_TRY(b->backend->ops->wait(b->backend, err));
cleanup:
  return status;
}

/* Makes the slots that contender c has in this run, unless it has them still. */
static leank_status prepare(attention_bench *b, contender *c, size_t run, leank_error *err) {
  leank_status status = LEANK_OK;
  if (run > 0 && c->n_runs == 1) return LEANK_OK;
  const size_t first = run == 0 ? 0 : c->side.first + c->side.n_layers;
  lk_bench_side_empty(b->backend, &c->side);
  if (!takes_part(c, run)) return LEANK_OK;
  LK_TRY(lk_bench_side_choose(&c->side, first, b->run.options.rotate_bytes, err));
  LK_TRY(lk_bench_side_fill(b->backend, &b->source, &c->side, &b->run, err));
cleanup:
  return status;
}

static leank_status measure(attention_bench *b, leank_error *err) {
  leank_status status = LEANK_OK;
  for (size_t run = 0; run < b->n_runs; run++) {
    for (size_t i = 0; i < b->n_contenders; i++) LK_TRY(prepare(b, &b->contenders[i], run, err));
    for (size_t r = 0; r <= b->run.options.n_repeats; r++)
      for (size_t i = 0; i < b->n_contenders; i++)
        if (takes_part(&b->contenders[i], run)) LK_TRY(pass(b, &b->contenders[i], r > 0, err));
  }
cleanup:
  return status;
}

/* ---- results ---- */

static leank_bench_layer layer_result(contender *c, size_t layer) {
  const lk_geometry *g = &c->side.geometry;
  const size_t l = c->side.n_distinct == 1 ? 0 : layer;
  leank_bench_layer r = {.n_bytes = lk_bench_layer_bytes(&c->side, l),
                         .seconds = lk_bench_samples_median(&c->samples[l]),
                         .min_seconds = lk_bench_samples_least(&c->samples[l])};
  for (size_t h = 0; h < g->shape.n_kv_heads; h++)
    r.n_kept += lk_mask_map_head(&g->map, l, h)->n_kept;
  return r;
}

static void collect(attention_bench *b, leank_bench_attention_result *results,
                    leank_bench_layer *layers) {
  const size_t n_layers = b->shape->n_layers;
  for (size_t i = 0; i < b->n_contenders; i++) {
    contender *c = &b->contenders[i];
    leank_bench_attention_result total = {.n_samples = c->samples[0].n};
    for (size_t l = 0; l < n_layers; l++) {
      const leank_bench_layer r = layer_result(c, l);
      total.n_bytes += r.n_bytes;
      total.seconds += r.seconds;
      total.min_seconds += r.min_seconds;
      if (layers) layers[i * n_layers + l] = r;
    }
    for (size_t l = 1; l < c->side.n_distinct; l++)
      if (c->samples[l].n < total.n_samples) total.n_samples = c->samples[l].n;
    lk_bench_kernel_of(b->backend->ops->kernels(b->backend), "attend", total.kernel,
                       sizeof total.kernel);
    results[i] = total;
  }
}

static void close_bench(attention_bench *b) {
  for (size_t i = 0; b->contenders && i < b->n_contenders; i++) {
    contender *c = &b->contenders[i];
    for (size_t l = 0; c->samples && l < c->side.n_distinct; l++)
      lk_bench_samples_close(&c->samples[l]);
    lk_free(c->samples);
    lk_bench_side_close(b->backend, &c->side);
  }
  lk_free(b->contenders);
  if (!b->backend) return;
  void *buffers[] = {b->source.pages, b->q, b->out};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    if (buffers[i]) b->backend->ops->free(b->backend, buffers[i]);
  b->backend->ops->close(b->backend);
}

/* All that needs no memory to be measured in. */
static leank_status begin(attention_bench *b, const leank_bench_options *options,
                          const leank_bench_cache *caches, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n = b->n_contenders;
  LK_TRY(lk_bench_begin(options, &b->run, err));
  LK_FAIL_IF(n == 0 || n > MAX_CACHES, err, LEANK_E_ARGUMENT, -1,
             "%zu caches to time: 1 to %d are possible", n, MAX_CACHES);
  b->contenders = lk_alloc(LK_MEM_OTHER, n, sizeof *b->contenders);
  LK_FAIL_IF(!b->contenders, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < n; i++)
    LK_TRY(lk_bench_side_open(b->shape, &caches[i], b->run.options.device, &b->contenders[i].side,
                              err));
  LK_TRY(plan(b, err));
  LK_TRY(check_backend(b, err));
cleanup:
  return status;
}

leank_status leank_bench_attention_check(const leank_bench_options *options,
                                         const leank_bench_shape *shape,
                                         const leank_bench_cache *caches, size_t n_caches,
                                         leank_error *err) {
  attention_bench b = {.shape = shape, .n_contenders = n_caches};
  const leank_status status = begin(&b, options, caches, err);
  close_bench(&b);
  return status;
}

leank_status leank_bench_attention(const leank_bench_options *options,
                                   const leank_bench_shape *shape, const leank_bench_cache *caches,
                                   size_t n_caches, leank_bench_attention_result *results,
                                   leank_bench_layer *layers, leank_error *err) {
  leank_status status = LEANK_OK;
  attention_bench b = {.shape = shape, .n_contenders = n_caches};
  LK_TRY(begin(&b, options, caches, err));
  LK_TRY(open_backend(&b, err));
  LK_TRY(measure(&b, err));
  collect(&b, results, layers);
cleanup:
  close_bench(&b);
  return status;
}
