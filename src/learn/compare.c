/* leank_masks_compare: many masks over one data set, one dense prefill per context. */

#include "learn/evaluate.h"
#include "learn/kv_file.h"
#include "learn/seen_mask.h"

enum { DEFAULT_CHUNK = 2048, MAX_WINDOW = 1 << 26 };

void leank_compare_options_default(leank_compare_options *o) {
  *o = (leank_compare_options){.struct_size = sizeof *o,
                               .prefill_chunk = DEFAULT_CHUNK,
                               .n_sink = SIZE_MAX,
                               .n_recent = SIZE_MAX};
}

typedef struct comparison {
  const leank_model *model;
  const leank_compare_options *options;
  size_t n_masks, n_threads;
  lk_backend *backend;
  lk_prefill prefill;
  lk_evaluator evaluator;
  lk_seen_mask *masks; /* [n_masks] */
  lk_seen *seen;       /* [n_masks] */
  lk_score *scores;    /* [n_masks] */
  lk_answer **answers; /* of one context */
  size_t context;
} comparison;

static bool are_tokens(const leank_token *tokens, size_t n, size_t n_vocab) {
  for (size_t i = 0; i < n; i++)
    if (tokens[i] < 0 || (size_t)tokens[i] >= n_vocab) return false;
  return true;
}

/* A data set may have been made with another model, whose tokens this one has not. */
static bool are_contexts(lk_contexts contexts, const leank_model_info *m) {
  for (size_t i = 0; i < contexts.n; i++) {
    const leank_context *c = &contexts.list[i];
    if (!are_tokens(c->tokens, c->n_tokens, m->n_vocab)) return false;
    for (size_t j = 0; j < c->n_questions; j++) {
      const leank_question *q = &c->questions[j];
      if (!are_tokens(q->prompt, q->n_prompt, m->n_vocab) ||
          !are_tokens(q->answer, q->n_answer, m->n_vocab) ||
          c->n_tokens + q->n_prompt + q->n_answer > m->n_ctx_train)
        return false;
    }
  }
  return true;
}

static bool is_window(size_t n) { return n == SIZE_MAX || n <= MAX_WINDOW; }

static leank_status check(const leank_model *model, const leank_dataset *dataset,
                          const leank_mask *const *masks, size_t n_masks,
                          const leank_compare_options *o, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(o->struct_size != sizeof *o, err, LEANK_E_ARGUMENT, -1,
             "compare options of %zu bytes: fill them with leank_compare_options_default",
             o->struct_size);
  LK_FAIL_IF(n_masks == 0, err, LEANK_E_ARGUMENT, -1, "no mask to compare");
  LK_FAIL_IF(o->n_sink != SIZE_MAX && o->n_sink % LEANK_PAGE_TOKENS != 0, err, LEANK_E_ARGUMENT, -1,
             "%zu sink tokens: a multiple of %d is possible", o->n_sink, LEANK_PAGE_TOKENS);
  LK_FAIL_IF(!is_window(o->n_sink) || !is_window(o->n_recent), err, LEANK_E_ARGUMENT, -1,
             "%zu sink and %zu recent tokens: at most %d", o->n_sink, o->n_recent, MAX_WINDOW);
  LK_TRY(lk_prefill_check_type(o->kv_type, err));
  LK_FAIL_IF(o->device != LEANK_DEVICE_CPU && o->device != LEANK_DEVICE_CUDA, err, LEANK_E_ARGUMENT,
             -1, "unknown device %d", (int)o->device);
  LK_FAIL_IF(!are_contexts(lk_contexts_of(dataset), &model->info), err, LEANK_E_MISMATCH, -1,
             "the data set holds tokens or lengths that this model has not: it was made with "
             "another");
  for (size_t i = 0; i < n_masks; i++) LK_TRY(leank_mask_check(masks[i], &model->info, NULL, err));
cleanup:
  return status;
}

static leank_status open_masks(comparison *c, const leank_mask *const *masks, leank_error *err) {
  leank_status status = LEANK_OK;
  const size_t n_prompts = c->prefill.n_answers, n_rows = n_prompts * c->prefill.max_rows;
  c->masks = lk_alloc(LK_MEM_OTHER, c->n_masks, sizeof *c->masks);
  c->seen = lk_alloc(LK_MEM_OTHER, c->n_masks, sizeof *c->seen);
  c->scores = lk_alloc(LK_MEM_OTHER, c->n_masks, sizeof *c->scores);
  LK_FAIL_IF(!c->masks || !c->seen || !c->scores, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < c->n_masks; i++) {
    const leank_mask_info *info = leank_mask_get_info(masks[i]);
    lk_split split = {info->n_sink, info->n_recent, LEANK_PAGE_TOKENS};
    if (c->options->n_sink != SIZE_MAX) split.n_sink = c->options->n_sink;
    if (c->options->n_recent != SIZE_MAX) split.n_recent = c->options->n_recent;
    LK_TRY(lk_seen_mask_open(&c->model->info, c->backend, &c->masks[i], err));
    lk_seen_mask_set_kept(&c->masks[i], leank_mask_get_kept(masks[i]), info->policy,
                          info->mean_compensation, false);
    c->seen[i] = lk_seen_of(&c->masks[i], split);
    LK_TRY(lk_score_open(n_prompts, n_rows, &c->scores[i], err));
  }
cleanup:
  return status;
}

static leank_status open(comparison *c, const leank_dataset *dataset,
                         const leank_mask *const *masks, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &c->model->info;
  const leank_compare_options *o = c->options;
  c->n_threads = o->n_threads ? o->n_threads : lk_parallel_default_threads();
  const lk_backend_options backend = {
      .device = o->device,
      .device_index = o->device_index,
      .model = c->model,
      .kv_type = o->kv_type,
      .n_threads = c->n_threads,
      .cpu = o->cpu,
      .max_few_rows = 1,
      .max_cols = lk_forward_widest(m),
      .max_pages = lk_prefill_max_pages(lk_contexts_of(dataset)),
      .shape = {.n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim},
      .precise_attention = true};
  if (backend.device == LEANK_DEVICE_CPU) LK_TRY(lk_model_check_cpu(c->model, err));
  LK_TRY(lk_backend_open(&backend, &c->backend, err));
  LK_TRY(
      lk_prefill_open(c->model, c->backend, o->kv_type, lk_contexts_of(dataset), &c->prefill, err));
  LK_TRY(open_masks(c, masks, err));
  const size_t rows = c->prefill.max_rows > LK_EVAL_ROWS ? c->prefill.max_rows : LK_EVAL_ROWS;
  LK_TRY(lk_evaluator_open(&c->prefill, rows, c->n_masks, c->n_threads, &c->evaluator, err));
  c->answers = lk_alloc(LK_MEM_OTHER, c->prefill.n_answers, sizeof *c->answers);
  LK_FAIL_IF(!c->answers, err, LEANK_E_MEMORY, -1, "out of memory");
cleanup:
  return status;
}

static void close_all(comparison *c) {
  lk_evaluator_close(&c->evaluator);
  for (size_t i = 0; i < c->n_masks; i++) {
    if (c->masks) lk_seen_mask_close(&c->masks[i]);
    if (c->scores) lk_score_close(&c->scores[i]);
  }
  lk_prefill_close(&c->prefill);
  if (c->backend) c->backend->ops->close(c->backend);
  lk_free(c->masks);
  lk_free(c->seen);
  lk_free(c->scores);
  lk_free(c->answers);
}

/* Contexts count alike; reading is taken for three quarters of the work on one. */
static void on_read(void *user, uint64_t done, uint64_t total) {
  const comparison *c = user;
  const uint64_t part = 750 * done / total;
  c->options->on_progress(c->options->user, 1000 * c->context + part, 1000 * c->prefill.n_contexts);
}

static leank_status compare_context(comparison *c, size_t i, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_compare_options *o = c->options;
  const lk_prefill_options prefill = {.chunk = o->prefill_chunk ? o->prefill_chunk : DEFAULT_CHUNK,
                                      .cache_folder = o->cache_folder,
                                      .stop = {o->should_stop, o->user},
                                      .on_progress = o->on_progress ? on_read : NULL,
                                      .user = c};
  size_t n = 0;
  c->context = i;
  LK_TRY(lk_prefill_read(&c->prefill, i, &prefill, err));
  LK_TRY(lk_prefill_check(&c->prefill, i, err));
  for (size_t j = 0; j < c->prefill.contexts[i].n_answers; j++)
    if (c->prefill.contexts[i].answers[j].n_rows > 0)
      c->answers[n++] = &c->prefill.contexts[i].answers[j];
  LK_TRY(
      lk_evaluate(&c->evaluator, c->answers, n, c->seen, c->n_masks, prefill.stop, c->scores, err));
  lk_prefill_drop(&c->prefill, i);
  if (o->on_progress) o->on_progress(o->user, 1000 * (i + 1), 1000 * c->prefill.n_contexts);
cleanup:
  return status;
}

leank_status leank_masks_compare(const leank_model *model, const leank_dataset *dataset,
                                 const leank_mask *const *masks, size_t n_masks,
                                 const leank_compare_options *options, leank_mask_report *reports,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  leank_compare_options defaults;
  leank_compare_options_default(&defaults);
  comparison c = {.model = model, .options = options ? options : &defaults, .n_masks = n_masks};
  LK_TRY(check(model, dataset, masks, n_masks, c.options, err));
  LK_TRY(lk_kv_folder_check(c.options->cache_folder, err));
  LK_TRY(open(&c, dataset, masks, err));
  for (size_t i = 0; i < c.prefill.n_contexts; i++) LK_TRY(compare_context(&c, i, err));
  for (size_t i = 0; i < n_masks; i++) {
    lk_score_report(&c.scores[i], &reports[i]);
    leank_mask_get_shares(masks[i], &reports[i].k_kept, &reports[i].v_kept);
  }
cleanup:
  close_all(&c);
  return status;
}
