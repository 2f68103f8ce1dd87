/* One decode step of several sequences: pack for T = t + 1, append, attend, logits. */
#include <stdint.h>
#include <string.h>

#include "session/session.h"

size_t lk_step_bytes(const leank_model_info *info, size_t n_seqs) {
  return lk_forward_bytes(info, n_seqs) +
         n_seqs * ((info->hidden + info->n_vocab) * sizeof(float) + sizeof(int32_t));
}

static leank_status open_means(leank_session *s, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_step *st = &s->step;
  const size_t n = s->options.n_seqs,
               n_floats = s->model->info.n_layers * lk_cache_mean_floats(&s->cache);
  st->new_means = lk_alloc(LK_MEM_OTHER, n, sizeof *st->new_means);
  LK_FAIL_IF(!st->new_means, err, LEANK_E_MEMORY, -1, "out of memory for means");
  for (size_t i = 0; i < n; i++) {
    st->new_means[i] = s->backend->ops->alloc(s->backend, LK_MEM_SCRATCH, n_floats * sizeof(float));
    LK_FAIL_IF(!st->new_means[i], err, LEANK_E_MEMORY, -1, "out of memory for means");
  }
cleanup:
  return status;
}

leank_status lk_step_open(leank_session *s, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_step *st = &s->step;
  lk_backend *be = s->backend;
  const leank_model_info *m = &s->model->info;
  const size_t n = s->options.n_seqs;
  LK_TRY(lk_forward_open(s->model, be, n, LK_MEM_SCRATCH, &st->forward, err));
  st->x = be->ops->alloc(be, LK_MEM_SCRATCH, n * m->hidden * sizeof(float));
  st->logits = be->ops->alloc(be, LK_MEM_SCRATCH, n * m->n_vocab * sizeof(float));
  st->next = be->ops->alloc(be, LK_MEM_SCRATCH, n * sizeof *st->next);
  st->pos = lk_alloc(LK_MEM_OTHER, n, sizeof *st->pos);
  st->slots = lk_alloc(LK_MEM_OTHER, n, sizeof *st->slots);
  st->groups = lk_alloc(LK_MEM_OTHER, n, sizeof *st->groups);
  st->packed_from = lk_alloc(LK_MEM_OTHER, n, sizeof *st->packed_from);
  st->packed_to = lk_alloc(LK_MEM_OTHER, n, sizeof *st->packed_to);
  st->seen = lk_alloc(LK_MEM_OTHER, n, sizeof *st->seen);
  LK_FAIL_IF(!st->x || !st->logits || !st->next || !st->pos || !st->slots || !st->groups ||
                 !st->packed_from || !st->packed_to || !st->seen,
             err, LEANK_E_MEMORY, -1, "out of memory for decode buffers");
  if (s->cache.keeps_means) LK_TRY(open_means(s, err));
cleanup:
  return status;
}

void lk_step_close(leank_session *s) {
  lk_step *st = &s->step;
  lk_backend *be = s->backend;
  lk_forward_close(&st->forward);
  void *device[] = {st->x, st->logits, st->next};
  for (size_t i = 0; i < sizeof device / sizeof *device; i++)
    if (device[i]) be->ops->free(be, device[i]);
  lk_free(st->pos);
  lk_free(st->slots);
  lk_free(st->groups);
  lk_free(st->packed_from);
  lk_free(st->packed_to);
  lk_free(st->seen);
  for (size_t i = 0; st->new_means && i < s->options.n_seqs; i++)
    if (st->new_means[i]) be->ops->free(be, st->new_means[i]);
  lk_free(st->new_means);
}

static leank_status check_step(leank_session *s, size_t n, const size_t *seqs,
                               const leank_token *tokens, leank_error *err) {
  leank_status status = LEANK_OK;
  LK_FAIL_IF(n == 0 || n > s->cache.n_seqs, err, LEANK_E_ARGUMENT, -1,
             "a step of %zu sequences: the session has %zu", n, s->cache.n_seqs);
  memset(s->step.seen, 0, s->cache.n_seqs * sizeof *s->step.seen);
  for (size_t i = 0; i < n; i++) {
    const lk_sequence *seq = lk_session_sequence(s, seqs[i], err);
    if (!seq) return LEANK_E_ARGUMENT;
    LK_FAIL_IF(s->step.seen[seqs[i]], err, LEANK_E_ARGUMENT, -1, "sequence %zu twice in one step",
               seqs[i]);
    s->step.seen[seqs[i]] = true;
    LK_FAIL_IF(tokens[i] < 0 || (size_t)tokens[i] >= s->model->info.n_vocab, err, LEANK_E_ARGUMENT,
               -1, "row %zu: token %d is not in the vocabulary of %zu", i, (int)tokens[i],
               s->model->info.n_vocab);
    LK_FAIL_IF(seq->n_tokens >= s->options.n_ctx, err, LEANK_E_CONTEXT, -1,
               "sequence %zu is full: the context is %zu tokens", seqs[i], s->options.n_ctx);
  }
cleanup:
  return status;
}

/* ---- pages of a step: counted first, so that taking them cannot fail half way ---- */

typedef struct page_needs {
  bool opens;  /* a new last page */
  bool copies; /* a private copy of the last page, which others share */
  bool packs;  /* a page enters the middle */
} page_needs;

static page_needs needs_of(const lk_cache *c, const lk_sequence *seq) {
  page_needs n = {.opens = seq->n_tokens % LK_P == 0};
  if (!n.opens) {
    const lk_page_entry last = seq->table[seq->n_tokens / LK_P];
    n.copies = c->pools[last.kind].n_refs[last.page] > 1;
  }
  n.packs = lk_middle_end(&c->geometry, seq->n_tokens + 1) > seq->middle_end;
  return n;
}

/* The count of references to the last page of a sequence that has begun one. */
static uint32_t *last_page_refs(lk_cache *c, const lk_sequence *seq) {
  const lk_page_entry last = seq->table[seq->n_tokens / LK_P];
  return &c->pools[last.kind].n_refs[last.page];
}

/* Of sequences that share their last page, all but one copy it: references are lent while counting,
 * so that the last sharer is seen to be alone. */
static leank_status check_pages(lk_cache *c, size_t n, const size_t *seqs, leank_error *err) {
  size_t wide = 0, lean = 0;
  for (size_t i = 0; i < n; i++) {
    const lk_sequence *seq = &c->sequences[seqs[i]];
    const page_needs needs = needs_of(c, seq);
    wide += needs.opens || needs.copies;
    lean += needs.packs;
    if (!needs.opens) --*last_page_refs(c, seq);
  }
  for (size_t i = 0; i < n; i++)
    if (c->sequences[seqs[i]].n_tokens % LK_P != 0) ++*last_page_refs(c, &c->sequences[seqs[i]]);
  const size_t free_wide = c->pools[LK_PAGE_WIDE].n_free, free_lean = c->pools[LK_PAGE_LEAN].n_free;
  if (wide <= free_wide && lean <= free_lean) return LEANK_OK;
  return lk_fail(err, LEANK_E_CONTEXT, -1,
                 "a step of %zu sequences needs %zu wide and %zu lean pages; %zu and %zu are free",
                 n, wide, lean, free_wide, free_lean);
}

static bool is_packed(const lk_step *st, size_t row) {
  return st->packed_from[row].kind != LK_N_PAGE_KINDS;
}

/* Takes the pages of row i. The new token goes to the wide page even where n_recent is so small
 * that the same step packs that page. */
static void take_pages(leank_session *s, size_t i, lk_sequence *seq) {
  lk_cache *c = &s->cache;
  lk_step *st = &s->step;
  const page_needs needs = needs_of(c, seq);
  lk_page_entry *last = &seq->table[seq->n_tokens / LK_P];
  if (needs.opens) lk_cache_take_entry(c, LK_PAGE_WIDE, last);
  if (needs.copies) {
    const lk_page_entry shared = *last;
    lk_cache_take_entry(c, LK_PAGE_WIDE, last);
    lk_cache_copy_page(c, shared, *last);
    lk_cache_drop_entry(c, shared);
  }
  st->pos[i] = (int64_t)seq->n_tokens;
  st->slots[i] = (lk_slot){*last, (uint32_t)(seq->n_tokens % LK_P)};
  st->packed_from[i] = st->packed_to[i] = (lk_page_entry){0, LK_N_PAGE_KINDS};
  if (!needs.packs) return;
  lk_page_entry *entry = &seq->table[seq->middle_end / LK_P];
  st->packed_from[i] = *entry;
  lk_cache_take_entry(c, LK_PAGE_LEAN, entry);
  st->packed_to[i] = *entry;
  if (c->keeps_means)
    s->backend->ops->copy(s->backend, st->new_means[i], seq->mean,
                          c->geometry.n_layers * lk_cache_mean_floats(c) * sizeof(float));
}

/* Undoes take_pages for rows of a step that failed: the token is not there, nothing is packed. */
static void give_pages_back(leank_session *s, size_t n, const size_t *seqs) {
  lk_cache *c = &s->cache;
  lk_step *st = &s->step;
  for (size_t i = 0; i < n; i++) {
    if (!is_packed(st, i)) continue;
    lk_sequence *seq = &c->sequences[seqs[i]];
    lk_cache_drop_entry(c, st->packed_to[i]);
    seq->table[seq->middle_end / LK_P] = st->packed_from[i];
  }
  for (size_t i = 0; i < n; i++) {
    const lk_sequence *seq = &c->sequences[seqs[i]];
    if (seq->n_tokens % LK_P == 0) lk_cache_drop_entry(c, seq->table[seq->n_tokens / LK_P]);
  }
}

/* The step is done: the sequence is a token longer. */
static void commit_row(leank_session *s, size_t i, lk_sequence *seq) {
  lk_step *st = &s->step;
  seq->n_tokens++;
  seq->middle_end = lk_middle_end(&s->cache.geometry, seq->n_tokens);
  if (!is_packed(st, i)) return;
  lk_cache_drop_entry(&s->cache, st->packed_from[i]);
  if (!s->cache.keeps_means) return;
  float *old = seq->mean;
  seq->mean = st->new_means[i];
  st->new_means[i] = old;
}

/* ---- the step ---- */

/* What all layers share. Every sequence has its place in the list of pages to pack, so that steps
 * differ in whether there is one. */
static void set_rows(leank_session *s, size_t n, const size_t *seqs, const leank_token *tokens) {
  const lk_cache *c = &s->cache;
  lk_step *st = &s->step;
  bool packs = false;
  for (size_t i = 0; i < n; i++) {
    const lk_sequence *seq = &c->sequences[seqs[i]];
    const size_t middle_end = lk_middle_end(&c->geometry, seq->n_tokens + 1);
    st->groups[i] = (lk_attend_group){
        .first_row = i,
        .n_rows = 1,
        .first_pos = st->pos[i],
        .table = seq->table,
        .middle_begin = c->geometry.n_sink,
        .n_middle = c->geometry.pruned ? middle_end - c->geometry.n_sink : 0,
        .mean = is_packed(st, i) && c->keeps_means ? st->new_means[i] : seq->mean};
    packs = packs || is_packed(st, i);
  }
  st->rows = (lk_rows){.n_rows = n,
                       .tokens = tokens,
                       .pos = st->pos,
                       .slots = st->slots,
                       .groups = st->groups,
                       .n_groups = n,
                       .pack_from = st->packed_from,
                       .pack_to = st->packed_to,
                       .n_packed = packs ? n : 0};
}

/* Pages that enter the middle in this step: into lean pages, and into the means. */
static void pack_layer(leank_session *s, const lk_layer_view *view) {
  const lk_attn_shape *shape = &s->cache.geometry.shape;
  const lk_backend_ops *ops = s->backend->ops;
  if (s->step.rows.n_packed == 0) return;
  ops->pack_rows(s->backend, shape, view, &s->step.rows);
  if (s->cache.keeps_means) ops->sum_rows(s->backend, shape, view, &s->step.rows);
}

static leank_status run_layer(leank_session *s, size_t n, size_t layer, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_step *st = &s->step;
  const lk_attn_shape *shape = &s->cache.geometry.shape;
  const lk_layer_view view = lk_cache_layer(&s->cache, layer, NULL);
  LK_TRY(lk_forward_project_append(&st->forward, shape, &view, &st->rows, layer, st->x, err));
  pack_layer(s, &view);
  LK_TRY(s->backend->ops->attend(s->backend, LK_LINEAR_FEW, shape, &view, &st->rows, 0, n,
                                 st->forward.q, st->forward.attn, err));
  LK_TRY(lk_forward_finish(&st->forward, LK_LINEAR_FEW, layer, st->x, n, err));
cleanup:
  return status;
}

/* How far a step goes. */
typedef enum step_end { STEP_HIDDEN = 0, STEP_LOGITS, STEP_NEXT } step_end;

/* What decides the ops of a step and their arguments. */
static uint64_t step_key(const leank_session *s, step_end end) {
  const lk_rows *rows = &s->step.rows;
  return (uint64_t)rows->n_rows << 3 | (uint64_t)(rows->n_packed > 0) << 2 | (uint64_t)end;
}

/* The model on the rows that are staged: final hidden states and, where wanted, logits and the
 * largest of them. */
static leank_status run_step(leank_session *s, step_end end, leank_error *err) {
  leank_status status = LEANK_OK;
  lk_step *st = &s->step;
  lk_backend *be = s->backend;
  const size_t n = st->rows.n_rows;
  if (be->ops->step_begin(be, step_key(s, end))) return LEANK_OK;
  be->ops->embed(be, &s->model->weights.embed, &st->rows, st->x);
  lk_forward_positions(&st->forward, &st->rows);
  for (size_t l = 0; l < s->model->info.n_layers; l++) LK_TRY(run_layer(s, n, l, err));
  LK_TRY(lk_forward_output(&st->forward, LK_LINEAR_FEW, st->x, n,
                           end == STEP_HIDDEN ? NULL : st->logits, err));
  if (end == STEP_NEXT) be->ops->argmax(be, st->logits, n, s->model->info.n_vocab, st->next);
  return be->ops->step_end(be, true, err);
cleanup:
  be->ops->step_end(be, false, NULL);
  return status;
}

leank_status lk_step_fetch_logits(leank_session *s, size_t n_rows, float *logits,
                                  leank_error *err) {
  const float *host = NULL;
  const size_t n = n_rows * s->model->info.n_vocab;
  const leank_status status = s->backend->ops->to_host(s->backend, s->step.logits, n, &host, err);
  if (status == LEANK_OK) memcpy(logits, host, n * sizeof *logits);
  return status;
}

leank_status lk_step_fetch_next(leank_session *s, size_t n_rows, leank_token *next,
                                leank_error *err) {
  return s->backend->ops->download(s->backend, next, s->step.next, n_rows * sizeof *next, err);
}

/* logits, next: wanted where not NULL; at most one. */
static leank_status decode(leank_session *s, size_t n, const size_t *seqs,
                           const leank_token *tokens, float *logits, leank_token *next,
                           leank_error *err) {
  leank_status status = LEANK_OK;
  lk_step *st = &s->step;
  lk_backend *be = s->backend;
  bool taken = false;
  LK_TRY(check_step(s, n, seqs, tokens, err));
  LK_TRY(check_pages(&s->cache, n, seqs, err));
  taken = true;
  for (size_t i = 0; i < n; i++) take_pages(s, i, &s->cache.sequences[seqs[i]]);
  set_rows(s, n, seqs, tokens);
  LK_TRY(be->ops->stage_rows(be, &st->rows, err));
  LK_TRY(run_step(s, next ? STEP_NEXT : logits ? STEP_LOGITS : STEP_HIDDEN, err));
  if (logits) LK_TRY(lk_step_fetch_logits(s, n, logits, err));
  if (next) LK_TRY(lk_step_fetch_next(s, n, next, err));
  LK_TRY(be->ops->wait(be, err));
  for (size_t i = 0; i < n; i++) commit_row(s, i, &s->cache.sequences[seqs[i]]);
cleanup:
  if (status != LEANK_OK && taken) give_pages_back(s, n, seqs);
  return status;
}

leank_status leank_session_decode(leank_session *s, size_t n, const size_t *seqs,
                                  const leank_token *tokens, float *logits, leank_error *err) {
  if (!s || !seqs || !tokens) return lk_session_null(err);
  return decode(s, n, seqs, tokens, logits, NULL, err);
}

leank_status leank_session_decode_greedy(leank_session *s, size_t n, const size_t *seqs,
                                         const leank_token *tokens, leank_token *next,
                                         leank_error *err) {
  if (!s || !seqs || !tokens || !next) return lk_session_null(err);
  return decode(s, n, seqs, tokens, NULL, next, err);
}
