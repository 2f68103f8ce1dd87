#include "learn/prefill.h"

#include <math.h>
#include <string.h>

#include "learn/answer_pass.h"
#include "learn/block.h"
#include "learn/dense_walk.h"
#include "learn/kv_file.h"
#include "learn/seen_mask.h"

enum { P = LEANK_PAGE_TOKENS };

static size_t pages_of(size_t n_tokens) { return (n_tokens + P - 1) / P; }
static size_t answer_rows(const leank_question *q) { return q->n_answer - 1; }
static size_t question_tokens(const leank_question *q) { return q->n_prompt + answer_rows(q); }

/* As every backend has it: wide pages hold all channels of K and V, without padding. */
static size_t wide_page_bytes(const leank_model_info *info, leank_kv_type type) {
  return info->n_kv_heads * (lk_segment_k_bytes(type, LK_PAGE_WIDE, info->head_dim) +
                             lk_segment_v_bytes(type, LK_PAGE_WIDE, info->head_dim));
}

/* Pages from the one in which the context ends. */
static size_t tail_pages(const leank_context *c, const leank_question *q) {
  return pages_of(c->n_tokens + question_tokens(q)) - c->n_tokens / P;
}

static size_t block_bytes(const leank_model_info *info, size_t page, const leank_context *c) {
  size_t n_pages = pages_of(c->n_tokens);
  for (size_t i = 0; i < c->n_questions; i++) n_pages += tail_pages(c, &c->questions[i]);
  return info->n_layers * n_pages * page;
}

/* Answers are followed by a number each: whether the dense prompt gives their first token. */
static size_t number_bytes(const leank_model_info *info, const leank_context *c) {
  size_t n = 0;
  for (size_t i = 0; i < c->n_questions; i++) n += answer_rows(&c->questions[i]) * info->hidden + 1;
  return n * sizeof(float);
}

size_t lk_prefill_bytes(const leank_model_info *info, leank_kv_type kv_type, lk_contexts contexts) {
  size_t n = 0;
  for (size_t i = 0; i < contexts.n; i++)
    n += block_bytes(info, wide_page_bytes(info, kv_type), &contexts.list[i]) +
         number_bytes(info, &contexts.list[i]);
  return n;
}

size_t lk_prefill_max_pages(lk_contexts contexts) {
  size_t most = 1;
  for (size_t i = 0; i < contexts.n; i++) {
    const leank_context *c = &contexts.list[i];
    for (size_t j = 0; j < c->n_questions; j++) {
      const size_t n = pages_of(c->n_tokens + question_tokens(&c->questions[j]));
      most = n > most ? n : most;
    }
  }
  return most;
}

/* ---- lists ---- */

static leank_status list_answer(lk_prefill *p, lk_read_context *rc, size_t i, leank_error *err) {
  const leank_context *c = rc->context;
  lk_answer *a = &rc->answers[i];
  *a = (lk_answer){.question = &c->questions[i],
                   .n_rows = answer_rows(&c->questions[i]),
                   .first_pos = c->n_tokens + c->questions[i].n_prompt,
                   .first_page = c->n_tokens / P,
                   .n_tail = tail_pages(c, &c->questions[i]),
                   .context = rc};
  a->table = lk_alloc(LK_MEM_OTHER, a->first_page + a->n_tail, sizeof *a->table);
  if (!a->table) return lk_fail(err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t k = 0; k < a->first_page + a->n_tail; k++)
    a->table[k] = k < a->first_page ? (lk_page_entry){(uint32_t)k, LK_PAGE_WIDE}
                                    : (lk_page_entry){(uint32_t)(k - a->first_page), LK_PAGE_STAGE};
  if (a->n_rows > p->max_rows) p->max_rows = a->n_rows;
  return LEANK_OK;
}

static leank_status list_context(lk_prefill *p, size_t i, const leank_context *c,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_read_context *rc = &p->contexts[i];
  *rc = (lk_read_context){.context = c,
                          .n_pages = pages_of(c->n_tokens),
                          .block_bytes = block_bytes(&p->model->info, p->page_bytes, c),
                          .number_bytes = number_bytes(&p->model->info, c)};
  rc->answers = lk_alloc(LK_MEM_OTHER, c->n_questions, sizeof *rc->answers);
  LK_FAIL_IF(!rc->answers, err, LEANK_E_MEMORY, -1, "out of memory");
  for (; rc->n_answers < c->n_questions; rc->n_answers++)
    LK_TRY(list_answer(p, rc, rc->n_answers, err));
  p->n_answers += rc->n_answers;
cleanup:
  return status;
}

leank_status lk_prefill_open(const leank_model *model, lk_backend *backend, leank_kv_type kv_type,
                             lk_contexts contexts, lk_prefill *out, leank_error *err) {
  leank_status status = LEANK_OK;
  const leank_model_info *m = &model->info;
  lk_prefill p = {
      .model = model,
      .backend = backend,
      .kv_type = kv_type,
      .shape = {.n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim},
      .page_bytes = wide_page_bytes(m, kv_type)};
  const size_t n = contexts.n;
  p.heads = lk_alloc(LK_MEM_OTHER, m->n_kv_heads, sizeof *p.heads);
  p.contexts = lk_alloc(LK_MEM_OTHER, n, sizeof *p.contexts);
  LK_FAIL_IF(!p.heads || !p.contexts, err, LEANK_E_MEMORY, -1, "out of memory");
  p.n_contexts = n;
  for (size_t i = 0; i < n; i++) LK_TRY(list_context(&p, i, &contexts.list[i], err));
  *out = p;
cleanup:
  if (status != LEANK_OK) lk_prefill_close(&p);
  return status;
}

void lk_prefill_close(lk_prefill *p) {
  for (size_t i = 0; i < p->n_contexts; i++) {
    lk_prefill_drop(p, i);
    for (size_t j = 0; p->contexts[i].answers && j < p->contexts[i].context->n_questions; j++)
      lk_free(p->contexts[i].answers[j].table);
    lk_free(p->contexts[i].answers);
  }
  lk_free(p->contexts);
  lk_free(p->heads);
  memset(p, 0, sizeof *p);
}

lk_layer_view lk_answer_view(const lk_prefill *p, const lk_answer *a, size_t layer) {
  lk_layer_view view = {.heads = p->heads};
  view.arena[LK_PAGE_WIDE] = a->context->block + layer * a->context->n_pages * p->page_bytes;
  view.arena[LK_PAGE_STAGE] = a->tail + layer * a->n_tail * p->page_bytes;
  for (int k = 0; k < LK_N_PAGE_KINDS; k++) view.page_bytes[k] = p->page_bytes;
  return view;
}

/* ---- reading ---- */

/* [n_answers] behind the hidden states: 1 where the first token is right. */
static float *flags_of(const lk_prefill *p, const lk_read_context *rc) {
  const lk_answer *last = &rc->answers[rc->n_answers - 1];
  return last->hidden + last->n_rows * p->model->info.hidden;
}

static lk_dense_walk make_walk(const lk_prefill *p, const lk_prefill_options *o, uint64_t before,
                               uint64_t total) {
  return (lk_dense_walk){.model = p->model,
                         .backend = p->backend,
                         .shape = &p->shape,
                         .heads = p->heads,
                         .page_bytes = p->page_bytes,
                         .chunk = o->chunk,
                         .stop = o->stop,
                         .on_progress = o->on_progress,
                         .done_before = before,
                         .total = total,
                         .user = o->user};
}

static leank_status read_tokens(const lk_prefill *p, lk_read_context *rc,
                                const lk_prefill_options *o, uint64_t total, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = p->backend;
  const size_t n = rc->context->n_tokens;
  lk_page_entry *table = lk_alloc(LK_MEM_PREFILL, rc->n_pages, sizeof *table);
  float *x = be->ops->alloc(be, LK_MEM_PREFILL, n * p->model->info.hidden * sizeof(float));
  LK_FAIL_IF(!table || !x, err, LEANK_E_MEMORY, -1, "out of memory for a context of %zu tokens", n);
  for (size_t i = 0; i < rc->n_pages; i++) table[i] = (lk_page_entry){(uint32_t)i, LK_PAGE_WIDE};
  lk_dense_part part = {.tokens = rc->context->tokens, .n_rows = n, .table = table};
  part.arena[LK_PAGE_WIDE] = rc->block;
  part.layer_stride[LK_PAGE_WIDE] = rc->n_pages * p->page_bytes;
  const lk_dense_walk walk = make_walk(p, o, 0, total);
  LK_TRY(lk_dense_walk_run(&walk, &part, 1, x, err));
cleanup:
  if (x) be->ops->free(be, x);
  lk_free(table);
  return status;
}

/* The prompts' ends of all questions, one after the other. */
static leank_token *join_prompts(const lk_read_context *rc, size_t *n_rows) {
  size_t n = 0;
  for (size_t i = 0; i < rc->n_answers; i++) n += rc->answers[i].question->n_prompt;
  leank_token *tokens = lk_alloc(LK_MEM_PREFILL, n, sizeof *tokens);
  *n_rows = n;
  for (size_t i = 0, at = 0; tokens && i < rc->n_answers; i++) {
    const leank_question *q = rc->answers[i].question;
    memcpy(tokens + at, q->prompt, q->n_prompt * sizeof *tokens);
    at += q->n_prompt;
  }
  return tokens;
}

static lk_dense_part prompt_part(const lk_prefill *p, const lk_answer *a,
                                 const leank_token *tokens) {
  const size_t n_context = a->context->context->n_tokens;
  lk_dense_part part = {.tokens = tokens,
                        .n_rows = a->question->n_prompt,
                        .first_pos = n_context,
                        .table = a->table,
                        .begins_in_page = n_context % P != 0,
                        .first_from = {(uint32_t)a->first_page, LK_PAGE_WIDE}};
  part.arena[LK_PAGE_WIDE] = a->context->block;
  part.arena[LK_PAGE_STAGE] = a->tail;
  part.layer_stride[LK_PAGE_WIDE] = a->context->n_pages * p->page_bytes;
  part.layer_stride[LK_PAGE_STAGE] = a->n_tail * p->page_bytes;
  return part;
}

/* Whether the prompt's last row x[hidden] gives the answer's first token. */
static leank_status judge_first(const lk_prefill *p, const lk_answer *a, lk_forward *fw,
                                const float *x, float *logits, float *host, float *flag,
                                leank_error *err) {
  const size_t n_vocab = p->model->info.n_vocab;
  leank_status status = lk_forward_output(fw, LK_LINEAR_FEW, x, 1, logits, err);
  if (status == LEANK_OK)
    status = p->backend->ops->download(p->backend, host, logits, n_vocab * sizeof(float), err);
  if (status != LEANK_OK) return status;
  size_t best = 0;
  for (size_t v = 1; v < n_vocab; v++)
    if (host[v] > host[best]) best = v;
  *flag = (leank_token)best == a->question->answer[0] ? 1 : 0;
  return LEANK_OK;
}

static leank_status judge_prompts(const lk_prefill *p, lk_read_context *rc, const float *x,
                                  leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = p->backend;
  const leank_model_info *m = &p->model->info;
  lk_forward fw = {0};
  float *logits = be->ops->alloc(be, LK_MEM_PREFILL, m->n_vocab * sizeof(float));
  float *host = lk_alloc(LK_MEM_PREFILL, m->n_vocab, sizeof(float));
  LK_FAIL_IF(!logits || !host, err, LEANK_E_MEMORY, -1, "out of memory");
  LK_TRY(lk_forward_open(p->model, be, 1, LK_MEM_PREFILL, &fw, err));
  for (size_t i = 0, end = 0; i < rc->n_answers; i++) {
    end += rc->answers[i].question->n_prompt;
    LK_TRY(judge_first(p, &rc->answers[i], &fw, x + (end - 1) * m->hidden, logits, host,
                       flags_of(p, rc) + i, err));
  }
cleanup:
  lk_forward_close(&fw);
  if (logits) be->ops->free(be, logits);
  lk_free(host);
  return status;
}

static leank_status read_prompts(const lk_prefill *p, lk_read_context *rc,
                                 const lk_prefill_options *o, uint64_t before, uint64_t total,
                                 leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = p->backend;
  size_t n_rows = 0;
  leank_token *tokens = join_prompts(rc, &n_rows);
  lk_dense_part *parts = lk_alloc(LK_MEM_PREFILL, rc->n_answers, sizeof *parts);
  float *x = be->ops->alloc(be, LK_MEM_PREFILL, n_rows * p->model->info.hidden * sizeof(float));
  LK_FAIL_IF(!tokens || !parts || !x, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0, at = 0; i < rc->n_answers; at += parts[i++].n_rows)
    parts[i] = prompt_part(p, &rc->answers[i], tokens + at);
  const lk_dense_walk walk = make_walk(p, o, before, total);
  LK_TRY(lk_dense_walk_run(&walk, parts, rc->n_answers, x, err));
  LK_TRY(judge_prompts(p, rc, x, err));
cleanup:
  lk_free(tokens);
  lk_free(parts);
  if (x) be->ops->free(be, x);
  return status;
}

/* Dense answer rows go the way of those under weights, with every weight 1: so the two differ by
 * the weights alone, and by nothing at all where all weights are 1. */
static leank_status answer_densely(lk_prefill *p, lk_read_context *rc, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_backend *be = p->backend;
  lk_answer_pass pass = {0};
  lk_seen_mask ones = {0};
  lk_answer **list = lk_alloc(LK_MEM_PREFILL, rc->n_answers, sizeof *list);
  size_t n = 0, n_rows = 0, row = 0;
  LK_FAIL_IF(!list, err, LEANK_E_MEMORY, -1, "out of memory");
  for (size_t i = 0; i < rc->n_answers; i++) {
    if (rc->answers[i].n_rows == 0) continue;
    list[n++] = &rc->answers[i];
    n_rows += rc->answers[i].n_rows;
  }
  if (n == 0) goto cleanup;
  LK_TRY(lk_answer_pass_open(p, n_rows, n, false, &pass, err));
  LK_TRY(lk_seen_mask_open(&p->model->info, be, &ones, err));
  lk_seen_mask_set_dense(&ones);
  const lk_seen seen = lk_seen_of(&ones, (lk_split){0, 0, P});
  LK_TRY(lk_answer_forward(&pass, list, n, &seen, err));
  for (size_t i = 0; i < n; row += list[i++]->n_rows)
    LK_TRY(be->ops->download(be, list[i]->hidden, pass.forward.norm + row * p->model->info.hidden,
                             list[i]->n_rows * p->model->info.hidden * sizeof(float), err));
cleanup:
  lk_answer_pass_close(&pass);
  lk_seen_mask_close(&ones);
  lk_free(list);
  return status;
}

static leank_status compute(lk_prefill *p, lk_read_context *rc, const lk_prefill_options *o,
                            leank_error *err) {
  leank_status status = LEANK_OK;
  const uint64_t n_layers = p->model->info.n_layers, n_context = rc->context->n_tokens;
  uint64_t n_questions = 0;
  for (size_t i = 0; i < rc->n_answers; i++) n_questions += rc->answers[i].question->n_prompt;
  const uint64_t total = n_layers * (n_context + n_questions);
  LK_TRY(read_tokens(p, rc, o, total, err));
  LK_TRY(read_prompts(p, rc, o, n_layers * n_context, total, err));
  LK_TRY(answer_densely(p, rc, err));
cleanup:
  return status;
}

leank_status lk_prefill_read(lk_prefill *p, size_t i, const lk_prefill_options *o,
                             leank_error *err) {
  leank_status status = LEANK_OK;
  lk_read_context *rc = &p->contexts[i];
  if (rc->numbers) return LEANK_OK;
  p->folder = o->cache_folder;
  if (p->folder) rc->key = lk_kv_file_key(p->model, p->backend, p->kv_type, rc->context);
  if (p->folder) LK_TRY(lk_block_read(p, rc, err));
  if (!rc->block) {
    LK_TRY(lk_block_open(p, rc, err));
    LK_TRY(compute(p, rc, o, err));
    if (p->folder) LK_TRY(lk_block_write(p, rc, err));
  }
  for (size_t j = 0; j < rc->n_answers; j++) rc->answers[j].first_right = flags_of(p, rc)[j] > 0;
cleanup:
  if (status != LEANK_OK) lk_prefill_drop(p, i);
  return status;
}

leank_status lk_prefill_check_type(leank_kv_type kv_type, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(kv_type == LEANK_KV_Q8, err, LEANK_E_ARGUMENT, -1,
             "K and V of contexts are kept in bf16 or f32 here, not in int8");
  LK_FAIL_IF(kv_type != LEANK_KV_BF16 && kv_type != LEANK_KV_F32, err, LEANK_E_ARGUMENT, -1,
             "unknown type of K and V %d", (int)kv_type);
cleanup:
  return status;
}

leank_status lk_prefill_check(const lk_prefill *p, size_t i, leank_error *err) {
  const lk_read_context *rc = &p->contexts[i];
  const size_t hidden = p->model->info.hidden;
  for (size_t j = 0; j < rc->n_answers; j++)
    for (size_t k = 0; k < rc->answers[j].n_rows * hidden; k++)
      if (!isfinite(rc->answers[j].hidden[k]))
        return lk_fail(err, LEANK_E_STATE, -1,
                       "the dense model's hidden states are not finite (context %zu, question "
                       "%zu): weights hold NaN or infinity",
                       i, j);
  return LEANK_OK;
}
