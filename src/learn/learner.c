#include "learn/learner.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "learn/kv_file.h"
#include "learn/lambda.h"

enum { DEFAULT_CHUNK = 2048, MAX_STEPS = 1 << 24, MAX_BATCH = 4096, MAX_ALIGN = 1 << 16 };

void leank_learn_options_default(leank_learn_options *o) {
  *o = (leank_learn_options){.struct_size = sizeof *o,
                             .ratio = 0.7,
                             .n_sink = 128,
                             .n_recent = 768,
                             .policy = LEANK_POLICY_MEAN,
                             .mean_compensation = true,
                             .lambda = -1,
                             .lr1 = 0.04,
                             .lr2 = 0.001,
                             .n_steps1 = 150,
                             .n_steps2 = 20,
                             .batch = 4,
                             .seed = 1,
                             .eval_every = 0,
                             .prefill_chunk = DEFAULT_CHUNK,
                             .checkpoint_every = 10};
  leank_dataset_options_default(&o->train);
  leank_dataset_options_default(&o->held_out);
  o->train.n_contexts = 24;
  o->held_out.n_contexts = 4;
  o->held_out.seed = 1000001;
}

void leank_learn_options_paper(const leank_model_info *model, leank_learn_options *o) {
  const bool qwen = strncmp(model->architecture, "qwen", 4) == 0;
  const size_t longest = qwen ? 32768 : 98304;
  leank_learn_options_default(o);
  o->paper = true;
  o->policy = LEANK_POLICY_DROP;
  o->mean_compensation = false;
  o->align = 32;
  o->n_recent = 1024;
  o->lambda = 0.06;
  o->lr1 = qwen ? 0.04 : 0.02;
  o->lr2 = o->lr1 / 2;
  o->n_steps1 = 2000;
  o->n_steps2 = 200;
  o->batch = 1;
  leank_dataset_options *sets[] = {&o->train, &o->held_out};
  for (int i = 0; i < 2; i++) {
    sets[i]->min_tokens = 4096;
    sets[i]->max_tokens = model->n_ctx_train < longest ? model->n_ctx_train : longest;
    if (sets[i]->min_tokens > sets[i]->max_tokens) sets[i]->min_tokens = sets[i]->max_tokens;
  }
}

/* ---- checks ---- */

static leank_status check_numbers(const leank_learn_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(!(o->ratio >= 0 && o->ratio < 1), err, LEANK_E_ARGUMENT, -1,
             "a ratio of %g: at least 0 and below 1 is possible", o->ratio);
  LK_FAIL_IF(!isfinite(o->lambda), err, LEANK_E_ARGUMENT, -1, "lambda is not finite");
  LK_FAIL_IF(!(o->lr1 > 0 && o->lr1 <= 1) || !(o->lr2 > 0 && o->lr2 <= 1), err, LEANK_E_ARGUMENT,
             -1, "learning rates of %g and %g: above 0, at most 1", o->lr1, o->lr2);
  LK_FAIL_IF(o->n_steps1 == 0 || o->n_steps1 > MAX_STEPS, err, LEANK_E_ARGUMENT, -1,
             "%zu steps of stage 1: 1 to %d are possible", o->n_steps1, MAX_STEPS);
  LK_FAIL_IF(o->n_steps2 > MAX_STEPS, err, LEANK_E_ARGUMENT, -1,
             "%zu steps of stage 2: at most %d are possible", o->n_steps2, MAX_STEPS);
  LK_FAIL_IF(o->batch == 0 || o->batch > MAX_BATCH, err, LEANK_E_ARGUMENT, -1,
             "%zu questions in an update: 1 to %d", o->batch, MAX_BATCH);
  LK_FAIL_IF(o->policy != LEANK_POLICY_DROP && o->policy != LEANK_POLICY_MEAN, err,
             LEANK_E_ARGUMENT, -1, "unknown policy %d", (int)o->policy);
  LK_FAIL_IF(o->paper && (o->policy != LEANK_POLICY_DROP || o->mean_compensation), err,
             LEANK_E_ARGUMENT, -1,
             "the published procedure knows neither policy mean nor "
             "mean compensation");
  LK_FAIL_IF(o->loss != LEANK_LOSS_HIDDEN && o->loss != LEANK_LOSS_LOGITS &&
                 o->loss != LEANK_LOSS_BOTH,
             err, LEANK_E_ARGUMENT, -1, "unknown loss %d", (int)o->loss);
  LK_FAIL_IF(o->paper && o->loss != LEANK_LOSS_HIDDEN, err, LEANK_E_ARGUMENT, -1,
             "the published procedure has the loss of hidden states");
  LK_FAIL_IF(o->paper && o->lambda < 0, err, LEANK_E_ARGUMENT, -1,
             "the published procedure needs a lambda");
cleanup:
  return status;
}

/* What the rounding and the cache would refuse, but only after the contexts have been read. */
static leank_status check_kinds(const leank_learn_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(o->align > MAX_ALIGN, err, LEANK_E_ARGUMENT, -1,
             "counts that are multiples of %zu: at most %d is possible", o->align, MAX_ALIGN);
  LK_FAIL_IF(o->device != LEANK_DEVICE_CPU && o->device != LEANK_DEVICE_CUDA, err, LEANK_E_ARGUMENT,
             -1, "unknown device %d", (int)o->device);
  LK_FAIL_IF(o->budget != LEANK_BUDGET_GLOBAL && o->budget != LEANK_BUDGET_PER_HEAD, err,
             LEANK_E_ARGUMENT, -1, "unknown budget %d", (int)o->budget);
  LK_TRY(lk_prefill_check_type(o->kv_type, err));
cleanup:
  return status;
}

static leank_status check_windows(const leank_learn_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t most = (size_t)1 << 26;
  LK_FAIL_IF(o->n_sink % LEANK_PAGE_TOKENS != 0 || o->n_sink > most || o->n_recent > most, err,
             LEANK_E_ARGUMENT, -1, "%zu sink and %zu recent tokens: the sink is a multiple of %d",
             o->n_sink, o->n_recent, LEANK_PAGE_TOKENS);
  const size_t needed = o->n_sink + o->n_recent + LEANK_PAGE_TOKENS;
  LK_FAIL_IF(o->train.max_tokens < needed, err, LEANK_E_ARGUMENT, -1,
             "contexts of at most %zu tokens have no middle to learn from: with %zu sink and %zu "
             "recent tokens it begins at %zu",
             o->train.max_tokens, o->n_sink, o->n_recent, needed);
cleanup:
  return status;
}

static leank_status resolve(const leank_model_info *info, const leank_learn_options *in,
                            leank_learn_options *out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_learn_options o = *in;
  LK_FAIL_IF(o.struct_size != sizeof o, err, LEANK_E_ARGUMENT, -1,
             "learning options of %zu bytes: fill them with leank_learn_options_default",
             o.struct_size);
  LK_TRY(check_numbers(&o, err));
  LK_TRY(check_kinds(&o, err));
  LK_TRY(check_windows(&o, err));
  if (o.align == 0) o.align = info->head_dim >= 128 ? 32 : 16;
  if (o.n_threads == 0) o.n_threads = lk_parallel_default_threads();
  if (o.prefill_chunk == 0) o.prefill_chunk = DEFAULT_CHUNK;
  if (o.checkpoint_every == 0) o.checkpoint_every = 1;
  *out = o;
cleanup:
  return status;
}

/* Everything that decides the result, in one number. */
static uint64_t make_key(const leank_learner *l) {
  const leank_learn_options *o = &l->options;
  const double numbers[] = {o->ratio, o->lambda, o->lr1, o->lr2};
  const uint64_t counts[] = {o->align,
                             (uint64_t)o->budget,
                             o->exact_budget,
                             o->n_sink,
                             o->n_recent,
                             (uint64_t)o->policy,
                             o->paper,
                             o->n_steps1,
                             o->n_steps2,
                             o->batch,
                             o->seed,
                             (uint64_t)o->kv_type,
                             o->mean_compensation,
                             (uint64_t)o->loss};
  const char *prints[] = {l->model->info.fingerprint, leank_dataset_fingerprint(l->train_set),
                          l->held_out_set ? leank_dataset_fingerprint(l->held_out_set) : ""};
  uint64_t h = lk_hash(LK_HASH_START, numbers, sizeof numbers);
  h = lk_hash(h, counts, sizeof counts);
  for (size_t i = 0; i < sizeof prints / sizeof *prints; i++)
    h = lk_hash(h, prints[i], strlen(prints[i]) + 1);
  return h;
}

/* ---- opening ---- */

static leank_status make_data(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_learn_options *o = &l->options;
  LK_TRY(leank_dataset_make(l->model, &o->train, &l->train_set, err));
  if (o->held_out.n_contexts > 0)
    LK_TRY(leank_dataset_make(l->model, &o->held_out, &l->held_out_set, err));
  const size_t bytes = leank_learner_kv_bytes(l);
  LK_FAIL_IF(o->cache_bytes && bytes > o->cache_bytes, err, LEANK_E_MEMORY, -1,
             "the contexts' K and V take %zu bytes, more than the %zu allowed: fewer or shorter "
             "contexts",
             bytes, o->cache_bytes);
cleanup:
  return status;
}

static leank_status open_backend(leank_learner *l, leank_error *err) {
  const leank_model_info *m = &l->model->info;
  size_t max_pages = lk_prefill_max_pages(lk_contexts_of(l->train_set));
  if (l->held_out_set) {
    const size_t held_out = lk_prefill_max_pages(lk_contexts_of(l->held_out_set));
    if (held_out > max_pages) max_pages = held_out;
  }
  const lk_backend_options options = {
      .device = l->options.device,
      .device_index = l->options.device_index,
      .model = l->model,
      .kv_type = l->options.kv_type,
      .n_threads = l->options.n_threads,
      .cpu = l->options.cpu,
      .max_few_rows = 1,
      .max_cols = lk_forward_widest(m),
      .max_pages = l->max_pages = max_pages,
      .shape = {.n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim},
      .precise_attention = true};
  const leank_status status =
      options.device == LEANK_DEVICE_CPU ? lk_model_check_cpu(l->model, err) : LEANK_OK;
  return status == LEANK_OK ? lk_backend_open(&options, &l->backend, err) : status;
}

/* What is opened while contexts are read, or when they have been: room for it stays free on a
 * device, and as much again for what the backend takes itself: operands, partial sums of attention.
 */
static size_t later_bytes(const leank_learner *l) {
  const leank_learn_options *o = &l->options;
  const leank_model_info *m = &l->model->info;
  const size_t longest = LEANK_PAGE_TOKENS * l->max_pages;
  const size_t evaluation = lk_evaluator_bytes(m, LK_EVAL_ROWS, 1);
  const size_t n_rows = o->batch * l->train.max_rows;
  const size_t update =
      lk_answer_pass_bytes(m, n_rows, true) + lk_distiller_bytes(m, o->loss, n_rows);
  const size_t reading =
      lk_forward_bytes(m, o->prefill_chunk) + longest * m->hidden * sizeof(float);
  return 2 * (update + (evaluation > reading ? evaluation : reading));
}

static void share_device(leank_learner *l) {
  if (l->backend->ops->on_host) return;
  l->train.headroom = l->held_out.headroom = later_bytes(l);
  if (!l->held_out_set) return;
  l->train.beside = &l->held_out;
  l->held_out.beside = &l->train;
}

/* Whether some row of the answer finds a middle. */
static bool has_middle(const leank_learner *l, const lk_answer *a) {
  const leank_learn_options *o = &l->options;
  return a->first_pos + a->n_rows >= o->n_sink + o->n_recent + (o->paper ? 1 : LEANK_PAGE_TOKENS);
}

static leank_status list_answers(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  size_t n_middle = 0;
  l->answers = lk_alloc(LK_MEM_OTHER, l->train.n_answers, sizeof *l->answers);
  l->order = lk_alloc(LK_MEM_OTHER, l->train.n_answers, sizeof *l->order);
  LK_FAIL_IF(!l->answers || !l->order, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < l->train.n_contexts; i++)
    for (size_t j = 0; j < l->train.contexts[i].n_answers; j++) {
      lk_answer *a = &l->train.contexts[i].answers[j];
      if (a->n_rows == 0) continue;
      l->answers[l->n_answers++] = a;
      n_middle += has_middle(l, a);
    }
  LK_FAIL_IF(l->n_answers == 0, err, LEANK_E_ARGUMENT, -1,
             "every answer is a single token: none has a row to learn from");
  LK_FAIL_IF(n_middle == 0, err, LEANK_E_ARGUMENT, -1,
             "no prompt of the training data is long enough to have a middle to learn from (%zu "
             "sink and %zu recent tokens)",
             l->options.n_sink, l->options.n_recent);
  if (l->options.batch > l->n_answers) l->options.batch = l->n_answers;
  l->order_epoch = UINT64_MAX;
cleanup:
  return status;
}

static leank_status open_arrays(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &l->model->info;
  const size_t n = l->n_params = m->n_layers * m->n_kv_heads * m->head_dim;
  float **floats[] = {&l->alpha, &l->m, &l->v, &l->alpha1};
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    *floats[i] = lk_alloc(LK_MEM_OTHER, n, sizeof(float));
    LK_FAIL_IF(!*floats[i], err, LEANK_E_MEMORY, -1, "out of memory");
  }
  l->gradient = lk_alloc(LK_MEM_OTHER, n, sizeof(double));
  l->dweight = lk_alloc(LK_MEM_OTHER, n, sizeof(double));
  l->kept = lk_alloc(LK_MEM_OTHER, n, 1);
  l->dweight_device = l->backend->ops->alloc(l->backend, LK_MEM_SCRATCH, n * sizeof(double));
  LK_FAIL_IF(!l->gradient || !l->dweight || !l->kept || !l->dweight_device, err, LEANK_E_MEMORY, -1,
             "out of memory");
  LK_TRY(lk_seen_mask_open(m, l->backend, &l->seen, err));
  for (size_t i = 0; i < n; i++) l->alpha[i] = 1;
  l->state = (lk_learn_state){
      .stage = 1, .lambda = l->options.lambda < 0 ? LK_LAMBDA_START : l->options.lambda};
cleanup:
  return status;
}

static leank_status find_checkpoint(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  bool found = false;
  float *const arrays[] = {l->alpha, l->m, l->v, l->alpha1};
  if (!l->checkpoint) return LEANK_OK;
  if (l->options.fresh)
    LK_TRY(lk_checkpoint_check(l->checkpoint, err));
  else
    LK_TRY(lk_checkpoint_read(l->checkpoint, l->key, &l->state, arrays, l->n_params, &found, err));
  /* One that cannot be written, though perhaps read, shows now, not after the first hour. */
  LK_TRY(lk_checkpoint_write(l->checkpoint, l->key, &l->state, arrays, l->n_params, err));
cleanup:
  return status;
}

static leank_status copy_paths(leank_learner *l, leank_error *err) {
  const leank_learn_options *o = &l->options;
  if (o->checkpoint) l->checkpoint = lk_strdup(o->checkpoint);
  if (o->cache_folder) l->cache_folder = lk_strdup(o->cache_folder);
  if ((o->checkpoint && !l->checkpoint) || (o->cache_folder && !l->cache_folder))
    return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  return lk_kv_folder_check(l->cache_folder, err);
}

size_t leank_learner_kv_bytes(const leank_learner *l) {
  const leank_model_info *info = &l->model->info;
  const leank_kv_type type = l->options.kv_type;
  const size_t train = lk_prefill_bytes(info, type, lk_contexts_of(l->train_set));
  if (!l->held_out_set) return train;
  return train + lk_prefill_bytes(info, type, lk_contexts_of(l->held_out_set));
}

leank_status leank_learner_open(const leank_model *model, const leank_learn_options *options,
                                leank_learner **out, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_learner *l = lk_alloc(LK_MEM_OTHER, 1, sizeof *l);
  LK_FAIL_IF(!l, err, LEANK_E_MEMORY, -1, "out of memory");
  l->model = model;
  LK_TRY(resolve(&model->info, options, &l->options, err));
  LK_TRY(copy_paths(l, err));
  LK_TRY(make_data(l, err));
  LK_TRY(open_backend(l, err));
  LK_TRY(lk_prefill_open(model, l->backend, l->options.kv_type, lk_contexts_of(l->train_set),
                         &l->train, err));
  if (l->held_out_set)
    LK_TRY(lk_prefill_open(model, l->backend, l->options.kv_type, lk_contexts_of(l->held_out_set),
                           &l->held_out, err));
  share_device(l);
  LK_TRY(list_answers(l, err));
  LK_TRY(open_arrays(l, err));
  l->key = make_key(l);
  LK_TRY(find_checkpoint(l, err)); /* the last: nothing fails behind what it writes over */
  *out = l;
cleanup:
  if (status != LEANK_OK) leank_learner_close(&l);
  return status;
}

void leank_learner_close(leank_learner **learner) {
  leank_learner *l = learner ? *learner : NULL;
  if (!l) return;
  lk_answer_pass_close(&l->pass);
  lk_distiller_close(&l->distiller);
  lk_seen_mask_close(&l->seen);
  lk_prefill_close(&l->train);
  lk_prefill_close(&l->held_out);
  if (l->dweight_device) l->backend->ops->free(l->backend, l->dweight_device);
  if (l->backend) l->backend->ops->close(l->backend);
  leank_dataset_close(&l->train_set);
  leank_dataset_close(&l->held_out_set);
  void *all[] = {l->checkpoint, l->cache_folder, l->answers,  l->order,   l->alpha, l->m,
                 l->v,          l->alpha1,       l->gradient, l->dweight, l->kept};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) lk_free(all[i]);
  lk_free(l);
  *learner = NULL;
}

void leank_learner_interrupt(leank_learner *l) {
  atomic_store_explicit(&l->interrupted, true, memory_order_relaxed);
}
static bool is_interrupted(void *user) {
  leank_learner *l = user;
  return atomic_load_explicit(&l->interrupted, memory_order_relaxed);
}
lk_stop lk_learner_stop(leank_learner *l) { return (lk_stop){is_interrupted, l}; }

const leank_dataset *leank_learner_train_set(const leank_learner *l) { return l->train_set; }
const leank_dataset *leank_learner_held_out_set(const leank_learner *l) { return l->held_out_set; }
