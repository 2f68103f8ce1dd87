/* The two stages of learning (leank paper, section 3). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "learn/lambda.h"
#include "learn/learner.h"

/* ---- reading the contexts ---- */

typedef struct reading {
  leank_learner *l;
  uint64_t before, total;
  size_t n_read;
} reading;

static uint64_t context_units(const lk_prefill *p, size_t i) {
  const leank_context *c = p->contexts[i].context;
  uint64_t n = c->n_tokens;
  for (size_t j = 0; j < c->n_questions; j++) n += c->questions[j].n_prompt;
  return n * p->model->info.n_layers;
}

static uint64_t prefill_units(const lk_prefill *p) {
  uint64_t n = 0;
  for (size_t i = 0; i < p->n_contexts; i++) n += context_units(p, i);
  return n;
}

static void on_read(void *user, uint64_t done, uint64_t total) {
  (void)total;
  reading *r = user;
  leank_learn_event event = {.phase = LEANK_LEARN_PREFILL,
                             .done = r->before + done,
                             .total = r->total,
                             .n_read = r->n_read};
  event.seconds_left = event.done ? lk_learner_seconds(r->l) * (double)(event.total - event.done) /
                                        (double)event.done
                                  : 0;
  lk_learner_tell(r->l, &event);
}

static leank_status read_set(leank_learner *l, lk_prefill *p, reading *r, leank_error *err) {
  leank_status status = LEANK_OK;
  const lk_prefill_options options = {.chunk = l->options.prefill_chunk,
                                      .cache_folder = l->cache_folder,
                                      .stop = lk_learner_stop(l),
                                      .on_progress = on_read,
                                      .user = r};
  for (size_t i = 0; i < p->n_contexts; i++) {
    LK_TRY(lk_prefill_read(p, i, &options, err));
    LK_TRY(lk_prefill_check(p, i, err));
    r->before += context_units(p, i);
    r->n_read++;
    on_read(r, 0, 0);
  }
cleanup:
  return status;
}

static leank_status read_all(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  reading r = {.l = l, .total = prefill_units(&l->train)};
  if (l->held_out_set) r.total += prefill_units(&l->held_out);
  LK_TRY(read_set(l, &l->train, &r, err));
  if (l->held_out_set) LK_TRY(read_set(l, &l->held_out, &r, err));
  l->backend->ops->reserve_rows(l->backend, 0, 0, NULL);
  double sum = 0;
  uint64_t n = 0;
  for (size_t i = 0; i < l->n_answers; i++) {
    const size_t values = l->answers[i]->n_rows * l->model->info.hidden;
    for (size_t k = 0; k < values; k++)
      sum += (double)l->answers[i]->hidden[k] * (double)l->answers[i]->hidden[k];
    n += values;
  }
  l->mean_square = sum / (double)n;
  LK_FAIL_IF(!(l->mean_square > 0), err, LEANK_E_STATE, -1,
             "the dense model's hidden states are all zero: its weights are broken");
cleanup:
  return status;
}

/* ---- one update ---- */

static void shuffle(leank_learner *l, uint64_t epoch) {
  lk_rng rng = {l->options.seed ^ (epoch + 1) * 0x9e3779b97f4a7c15u};
  for (size_t i = 0; i < l->n_answers; i++) l->order[i] = i;
  for (size_t i = l->n_answers; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(&rng, i), t = l->order[i - 1];
    l->order[i - 1] = l->order[j];
    l->order[j] = t;
  }
  l->order_epoch = epoch;
}

/* Question `number` of the run: every epoch goes through all of them in an order of its own. */
static lk_answer *pick(leank_learner *l, uint64_t number) {
  const uint64_t epoch = number / l->n_answers;
  if (l->order_epoch != epoch) shuffle(l, epoch);
  return l->answers[l->order[number % l->n_answers]];
}

/* The questions of an update, in the order of their epochs. Where an epoch ends inside a batch, a
 * question can be in it twice; it then counts twice. */
static void pick_batch(leank_learner *l, uint64_t update, lk_answer **batch) {
  for (size_t i = 0; i < l->options.batch; i++) batch[i] = pick(l, update * l->options.batch + i);
}

/* What the published procedure spends on one question: the whole context dense and scaled, and the
 * scaled pass once more while going back (3 forward passes of T tokens); the backward pass itself
 * is not counted. */
static double reference_flops(const leank_learner *l, const lk_answer *a) {
  const leank_model_info *m = &l->model->info;
  const double t = (double)(a->first_pos + a->n_rows);
  const double q = (double)(m->n_heads * m->head_dim), kv = (double)(m->n_kv_heads * m->head_dim);
  const double per_token = 2 * (double)m->hidden *
                           (2 * q + 2 * kv + 3 * (double)m->ffn); /* q, o, k, v; gate, up, down */
  const double attention = 4 * q * t * (t + 1) / 2;
  return 3 * (double)m->n_layers * (t * per_token + attention);
}

/* gradient[n_params], half order, of the distillation loss. */
static leank_status gradient_of(leank_learner *l, lk_answer *const *batch, lk_split split,
                                double *loss, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &l->model->info;
  const lk_seen seen = lk_seen_of(&l->seen, split);
  LK_TRY(lk_answer_forward(&l->pass, batch, l->options.batch, &seen, err));
  LK_TRY(lk_distill(&l->distiller, &l->pass, loss, err));
  lk_backend *be = l->backend;
  const size_t n_bytes = l->n_params * sizeof *l->dweight;
  be->ops->zero(be, l->dweight_device, n_bytes);
  LK_TRY(lk_answer_backward(&l->pass, l->distiller.dhidden, l->dweight_device, err));
  LK_TRY(be->ops->download(be, l->dweight, l->dweight_device, n_bytes, err));
  for (size_t i = 0; i < l->n_params; i++) {
    const size_t head = i / m->head_dim * m->head_dim;
    l->gradient[i] =
        l->dweight[head + lk_channel_from_half(m->order, m->head_dim, i % m->head_dim)];
    LK_FAIL_IF(
        !isfinite(l->gradient[i]), err, LEANK_E_STATE, -1,
        "the gradient is not finite (layer %zu): weights hold NaN or infinity, or are too large",
        i / (m->n_kv_heads * m->head_dim));
  }
  LK_FAIL_IF(!isfinite(*loss), err, LEANK_E_STATE, -1,
             "the loss is not finite: weights hold NaN or infinity, or are too large");
cleanup:
  return status;
}

static double mean_alpha(const leank_learner *l) {
  double sum = 0;
  for (size_t i = 0; i < l->n_params; i++) sum += (double)l->alpha[i];
  return sum / (double)l->n_params;
}

static double near_zero(const leank_learner *l) {
  size_t n = 0;
  for (size_t i = 0; i < l->n_params; i++) n += l->alpha[i] < 0.05f;
  return (double)n / (double)l->n_params;
}

static lk_split training_split(const leank_learn_options *o) {
  return (lk_split){o->n_sink, o->n_recent, o->paper ? 1 : LEANK_PAGE_TOKENS};
}

static size_t stage_steps(const leank_learn_options *o, int stage) {
  return stage == 1 ? o->n_steps1 : o->n_steps2;
}

static void see_for_stage(leank_learner *l) {
  const leank_learn_options *o = &l->options;
  if (l->state.stage == 1)
    lk_seen_mask_set_alpha(&l->seen, l->alpha,
                           o->mean_compensation || o->policy == LEANK_POLICY_MEAN);
  else
    lk_seen_mask_set_kept(&l->seen, l->kept, o->policy, o->mean_compensation, o->paper);
}

static leank_status update(leank_learner *l, lk_answer **batch, leank_learn_event *event,
                           leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_learn_options *o = &l->options;
  lk_learn_state *s = &l->state;
  const bool first = s->stage == 1;
  const size_t n_steps = stage_steps(o, (int)s->stage);
  const double lr = (first ? o->lr1 : o->lr2) * lk_learning_rate_share(s->step, n_steps);
  const double lambda = first ? s->lambda : 0;
  double loss, ratio;
  if (!first) LK_TRY(lk_learner_round(l, l->alpha, &ratio, err));
  see_for_stage(l);
  pick_batch(l, s->step + (first ? 0 : o->n_steps1), batch);
  LK_TRY(gradient_of(l, batch, training_split(o), &loss, err));
  event->distill = loss;
  event->loss = loss + lambda * mean_alpha(l);
  for (size_t i = 0; i < l->n_params; i++) l->gradient[i] += lambda / (double)l->n_params;
  lk_adamw adam = {.n = l->n_params,
                   .m = l->m,
                   .v = l->v,
                   .n_done = s->n_adam,
                   .epsilon = o->paper ? 1e-8 : 1e-12};
  lk_adamw_step(&adam, lr, l->gradient, l->alpha);
  s->n_adam = adam.n_done;
  s->step++;
  for (size_t i = 0; i < o->batch; i++) s->reference_flops += reference_flops(l, batch[i]);
  event->mean_alpha = mean_alpha(l);
  event->near_zero = near_zero(l);
  event->lambda = lambda;
  event->lr = lr;
  if (first && o->lambda < 0)
    s->lambda = lk_lambda_next(s->lambda, event->near_zero, o->ratio, s->step, n_steps);
  LK_TRY(lk_learner_round(l, l->alpha, &ratio, err));
  event->ratio = ratio;
cleanup:
  return status;
}

/* ---- stages ---- */

static leank_status save(leank_learner *l, leank_error *err) {
  float *const arrays[] = {l->alpha, l->m, l->v, l->alpha1};
  if (!l->checkpoint) return LEANK_OK;
  lk_learn_state state = l->state;
  state.seconds += lk_learner_seconds(l);
  state.flops += l->backend->ops->flops(l->backend);
  return lk_checkpoint_write(l->checkpoint, l->key, &state, arrays, l->n_params, err);
}

/* Evaluates the rounded alpha and tells of it. */
static leank_status evaluate(leank_learner *l, double *kl, leank_error *err) {
  leank_status status = LEANK_OK;
  leank_mask_report r = {0};
  leank_learn_event event = {.phase = LEANK_LEARN_EVAL,
                             .stage = (int)l->state.stage,
                             .step = l->state.step,
                             .n_steps = stage_steps(&l->options, (int)l->state.stage)};
  *kl = 0;
  if (!l->held_out_set) return LEANK_OK;
  LK_TRY(lk_learner_round(l, l->alpha, &event.ratio, err));
  LK_TRY(lk_learner_evaluate(l, &r, err));
  event.kl = *kl = r.kl_mean;
  event.kl_p99 = r.kl_p99;
  event.hidden_error = r.hidden_error;
  event.top1 = r.top1;
  event.accuracy = r.accuracy;
  event.dense_accuracy = r.dense_accuracy;
  event.n_rows = r.n_rows;
  event.n_prompts = r.n_prompts;
  lk_learner_tell(l, &event);
cleanup:
  return status;
}

static void tell_step(leank_learner *l, leank_learn_event *event, double seconds) {
  const leank_learn_options *o = &l->options;
  const uint64_t done = l->state.step + (l->state.stage == 2 ? o->n_steps1 : 0);
  event->phase = LEANK_LEARN_STEP;
  event->stage = (int)l->state.stage;
  event->step = l->state.step;
  event->n_steps = stage_steps(o, event->stage);
  event->done = done;
  event->total = o->n_steps1 + o->n_steps2;
  l->step_seconds = l->step_seconds > 0 ? 0.9 * l->step_seconds + 0.1 * seconds : seconds;
  event->seconds_left = (double)(event->total - done) * l->step_seconds;
  lk_learner_tell(l, event);
}

static bool is_due(size_t step, size_t every) { return every > 0 && step % every == 0; }

static leank_status run_stage(leank_learner *l, lk_answer **batch, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_learn_options *o = &l->options;
  const size_t n_steps = stage_steps(o, (int)l->state.stage);
  double kl;
  while (l->state.step < n_steps) {
    leank_learn_event event = {0};
    const double before = lk_learner_seconds(l);
    LK_FAIL_IF(lk_stopped(lk_learner_stop(l)), err, LEANK_E_INTERRUPTED, -1,
               "interrupted before update %zu of stage %d", (size_t)l->state.step + 1,
               (int)l->state.stage);
    LK_TRY(update(l, batch, &event, err));
    tell_step(l, &event, lk_learner_seconds(l) - before);
    if (l->state.step < n_steps && is_due(l->state.step, o->eval_every))
      LK_TRY(evaluate(l, &kl, err));
    if (is_due(l->state.step, o->checkpoint_every)) LK_TRY(save(l, err));
  }
cleanup:
  return status;
}

static void begin_stage2(leank_learner *l) {
  memcpy(l->alpha1, l->alpha, l->n_params * sizeof *l->alpha);
  memset(l->m, 0, l->n_params * sizeof *l->m);
  memset(l->v, 0, l->n_params * sizeof *l->v);
  l->state.stage = 2;
  l->state.step = l->state.n_adam = 0;
}

static leank_status run_stages(leank_learner *l, lk_answer **batch, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_learn_state *s = &l->state;
  if (s->stage == 1) {
    LK_TRY(run_stage(l, batch, err));
    LK_TRY(evaluate(l, &s->kl1, err));
    begin_stage2(l);
    LK_TRY(save(l, err));
  }
  if (s->stage == 2) {
    LK_TRY(run_stage(l, batch, err));
    s->kl2 = s->kl1;
    if (l->options.n_steps2 > 0) LK_TRY(evaluate(l, &s->kl2, err));
    s->stage = 3;
    LK_TRY(save(l, err));
  }
cleanup:
  return status;
}

/* ---- the result ---- */

static const char *method_of(const leank_learn_options *o) {
  if (o->paper) return "learned, as published";
  if (o->loss == LEANK_LOSS_LOGITS) return "learned, loss of logits";
  return o->loss == LEANK_LOSS_BOTH ? "learned, both losses" : "learned";
}

static void describe(const leank_learner *l, int stage, leank_mask_info *info) {
  const leank_learn_options *o = &l->options;
  leank_mask_info_default(info);
  leank_mask_info_set_model(info, &l->model->info);
  memcpy(info->fingerprint, l->model->info.fingerprint, sizeof info->fingerprint);
  info->n_sink = o->n_sink;
  info->n_recent = o->n_recent;
  info->policy = o->policy;
  info->mean_compensation = o->mean_compensation;
  info->ratio_asked = o->ratio;
  info->align = o->align;
  info->steps = o->n_steps1 + (stage == 1 ? 0 : o->n_steps2);
  info->seed = o->seed;
  snprintf(info->method, sizeof info->method, "%s", method_of(o));
  int n = snprintf(info->data, sizeof info->data,
                   "%zu contexts of %zu-%zu tokens:", o->train.n_contexts, o->train.min_tokens,
                   o->train.max_tokens);
  for (int t = 0; t < LEANK_N_TASKS; t++)
    if (o->train.tasks & 1u << t && n > 0 && (size_t)n < sizeof info->data)
      n += snprintf(info->data + n, sizeof info->data - (size_t)n, " %s",
                    leank_task_name((leank_task)t));
}

static leank_status make_mask(leank_learner *l, int stage, leank_mask **out, leank_error *err) {
  leank_status status = LEANK_OK;
  const float *alpha = stage == 1 ? l->alpha1 : l->alpha;
  double ratio;
  leank_mask_info info;
  LK_TRY(lk_learner_round(l, alpha, &ratio, err));
  describe(l, stage, &info);
  LK_TRY(leank_mask_create(&info, l->kept, alpha, out, err));
cleanup:
  return status;
}

leank_status leank_learner_stage_mask(leank_learner *l, int stage, leank_mask **out,
                                      leank_error *err) {
  if (stage != 1 && stage != 2)
    return lk_fail(err, LEANK_E_ARGUMENT, -1, "stage %d: there are 1 and 2", stage);
  if (l->state.stage < 3) return lk_fail(err, LEANK_E_STATE, -1, "learning is not done yet");
  return make_mask(l, stage, out, err);
}

/* The better of the two stages by held-out KL; as published, always the second. */
static leank_status choose(leank_learner *l, leank_mask **out, leank_error *err) {
  const lk_learn_state *s = &l->state;
  const bool compares = l->held_out_set && !l->options.paper;
  const bool first = l->options.n_steps2 == 0 || (compares && s->kl1 < s->kl2);
  leank_learn_event event = {
      .phase = LEANK_LEARN_CHOICE, .stage = first ? 1 : 2, .kl = first ? s->kl1 : s->kl2};
  const leank_status status = make_mask(l, event.stage, out, err);
  if (status != LEANK_OK) return status;
  event.ratio = leank_mask_get_info(*out)->ratio_reached;
  lk_learner_tell(l, &event);
  return LEANK_OK;
}

/* Sum of the rows of the largest answers that can meet in one update. */
static size_t batch_rows(const leank_learner *l) { return l->options.batch * l->train.max_rows; }

static leank_status open_update(leank_learner *l, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_learn_options *o = &l->options;
  const size_t n_rows = batch_rows(l);
  if (!l->pass.prefill)
    LK_TRY(lk_answer_pass_open(&l->train, n_rows, o->batch, true, &l->pass, err));
  if (!l->distiller.backend) /* a run before this one may have failed in between */
    LK_TRY(lk_distiller_open(l->model, l->backend, o->loss, o->paper ? 1 : l->mean_square, n_rows,
                             o->n_threads, &l->distiller, err));
cleanup:
  return status;
}

leank_status leank_learner_run(leank_learner *l, leank_mask **out, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_answer **batch = NULL;
  atomic_store_explicit(&l->interrupted, false, memory_order_relaxed);
  l->started = 0;
  l->started = lk_learner_seconds(l);
  if (l->state.stage > 1 || l->state.step > 0) {
    leank_learn_event event = {
        .phase = LEANK_LEARN_RESUME, .stage = (int)l->state.stage, .step = l->state.step};
    lk_learner_tell(l, &event);
  }
  if (l->state.stage < 3) {
    LK_TRY(read_all(l, err));
    batch = lk_alloc(LK_MEM_OTHER, l->options.batch, sizeof *batch);
    LK_FAIL_IF(!batch, err, LEANK_E_MEMORY, -1, "out of memory");
    LK_TRY(open_update(l, err));
    LK_TRY(run_stages(l, batch, err));
  }
  LK_TRY(choose(l, out, err));
cleanup:
  if (status == LEANK_E_INTERRUPTED) {
    leank_error second;
    if (save(l, &second) != LEANK_OK) {
      status = second.code;
      if (err) *err = second;
    }
  }
  lk_free(batch);
  return status;
}
